//! The flags of `verify` and `inspect`.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::SettingFlags;

/// `oar-tiles verify`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Verify {
    /// Target: file.mbtiles, file.pmtiles, directory/, s3://bucket/prefix/ or s3://bucket/file.pmtiles
    pub target: String,
    /// Decode this many tiles, spread evenly over the target [default: all of up to 100000 tiles, else 10000]
    #[arg(long, value_name = "N")]
    pub sample: Option<NonZeroU64>,
    /// Decode every tile
    #[arg(long, conflicts_with = "sample")]
    pub all: bool,
    /// Also render the tiles from the database and compare; needs the settings with which the target was seeded
    #[arg(long)]
    pub database: bool,
    /// Decode and compare only tiles that this area touches: a GeoJSON file with polygons, or W,S,E,N; the structure is checked as a whole
    #[arg(long, value_name = "AREA", allow_hyphen_values = true)]
    pub area: Option<String>,
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
    /// Also write the findings as JSON
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Configuration file [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Database, as a URL or a key=value string [env: DATABASE_URL, PG*]
    #[arg(long, value_name = "URL", requires = "database")]
    pub database_url: Option<String>,
    /// Compare only this layer, if the target was seeded with the same --layer; repeat the flag for several layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append, requires = "database")]
    pub layer: Vec<String>,
    /// Compare with this tileset, if the configuration has several [default: the one whose output the target is]
    #[arg(long, value_name = "NAME")]
    pub tileset: Option<String>,
    /// Database sessions that render in parallel; 0: one for each CPU [env: OAR_TILES_WORKERS]
    #[arg(long, value_name = "N", requires = "database")]
    pub workers: Option<u16>,
}

impl Verify {
    /// The flags that override the configuration.
    #[must_use]
    pub fn given(&self) -> SettingFlags {
        let (config, database_url) = (self.config.clone(), self.database_url.clone());
        SettingFlags {
            config,
            database_url,
            layer: self.layer.clone(),
            tileset: self.tileset.iter().cloned().collect(),
            workers: self.workers,
            ..SettingFlags::default()
        }
    }
}

/// `oar-tiles inspect`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Inspect {
    /// Target: file.mbtiles, file.pmtiles, directory/, s3://bucket/prefix/ or s3://bucket/file.pmtiles
    pub target: String,
    /// Show the features of this tile instead of a summary of the target
    #[arg(value_name = "Z/X/Y")]
    pub tile: Option<String>,
    /// Show only this layer of the tile
    #[arg(long, value_name = "NAME", requires = "tile")]
    pub layer: Option<String>,
    /// Print the tile as GeoJSON, in degrees
    #[arg(long, requires = "tile")]
    pub geojson: bool,
    /// Draw the tile as a picture, into this file or, with -, onto standard output
    #[arg(long, value_name = "FILE", requires = "tile", conflicts_with = "geojson")]
    pub png: Option<PathBuf>,
    /// Print the summary as JSON
    #[arg(long, conflicts_with = "tile")]
    pub json: bool,
    /// Configuration file [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}
