//! The flags of `oar-tiles copy`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::tile::{LonLatBox, ZoomList};

/// `oar-tiles copy`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
#[command(override_usage = "oar-tiles copy [OPTIONS] <SOURCE>... <TARGET>")]
pub struct Copy {
    /// Copy from, and last of all copy to: file.mbtiles, file.pmtiles, directory/, s3://bucket/prefix/ or s3://bucket/file.pmtiles; several sources are joined, tiles that are in more than one of them by their layers
    // One list, because clap cannot tell where the sources end if flags stand among them.
    #[arg(required = true, num_args = 1.., value_name = "PLACE")]
    pub places: Vec<String>,
    /// Copy only these zooms, such as 0-14, 7 or 0-4,8,10-12
    #[arg(long, value_name = "LIST")]
    pub zoom: Option<ZoomList>,
    /// Copy only tiles that this box touches, in degrees; repeat the flag for several boxes
    #[arg(long, value_name = "W,S,E,N", allow_hyphen_values = true, action = ArgAction::Append)]
    pub bbox: Vec<LonLatBox>,
    /// Copy only this layer of each tile; repeat the flag for several layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// Copy only tiles that this area touches: a GeoJSON file with polygons, or W,S,E,N
    #[arg(long, value_name = "AREA", allow_hyphen_values = true, conflicts_with = "bbox")]
    pub area: Option<String>,
    /// Write only what differs from this older target, as a patch in MBTiles that `mbtiles apply-patch` (of Martin) brings into a copy of it
    #[arg(long, value_name = "TARGET", conflicts_with_all = ["zoom", "bbox", "layer", "area", "changed_out"])]
    pub since: Option<String>,
    /// Overwrite the target even if it holds another tileset or was made by another program
    #[arg(long)]
    pub force: bool,
    /// After publishing, list the tiles that changed in FILE: .json, .geojson, else a line z/x/y for each; only * if that is not known
    #[arg(long, value_name = "FILE")]
    pub changed_out: Option<PathBuf>,
    /// URL under which clients find the directory or bucket, such as https://host/path; tiles.json refers to it [env: OAR_TILES_PUBLIC_URL]
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Print warnings and errors only
    #[arg(long, short)]
    pub quiet: bool,
    /// Configuration file [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}
