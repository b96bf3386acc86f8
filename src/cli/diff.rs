//! The flags of `oar-tiles diff`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use crate::tile::{LonLatBox, ZoomList};

/// `oar-tiles diff`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Diff {
    /// First target: file.mbtiles, file.pmtiles, directory/, s3://bucket/prefix/ or s3://bucket/file.pmtiles
    pub a: String,
    /// Second target: the same kinds
    pub b: String,
    /// Compare only these zooms, such as 0-14, 7 or 0-4,8,10-12
    #[arg(long, value_name = "LIST")]
    pub zoom: Option<ZoomList>,
    /// Compare only tiles that this box touches, in degrees; repeat the flag for several boxes
    #[arg(long, value_name = "W,S,E,N", allow_hyphen_values = true, action = ArgAction::Append)]
    pub bbox: Vec<LonLatBox>,
    /// Compare only tiles that this area touches: a GeoJSON file with polygons, or W,S,E,N
    #[arg(long, value_name = "AREA", allow_hyphen_values = true, conflicts_with = "bbox")]
    pub area: Option<String>,
    /// Print the tiles that differ as GeoJSON, each as its square
    #[arg(long)]
    pub geojson: bool,
    /// Print the counts as JSON
    #[arg(long, conflicts_with = "geojson")]
    pub json: bool,
    /// Configuration file, for how to reach S3 [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}
