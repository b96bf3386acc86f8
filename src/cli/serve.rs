//! `oar-tiles serve` and `oar-tiles preview`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::serve::{EmptyStatus, ListenAddress};

/// `oar-tiles serve`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Serve {
    /// The target; without it the output of the configuration
    pub target: Option<String>,
    /// Where the public listener waits: an IP address and a port, or unix:PATH
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: ListenAddress,
    /// Where the admin listener waits (/metrics, /livez, /readyz, /status.json); without this flag nothing listens
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<ListenAddress>,
    /// Where clients find this server, for TileJSON; without it its own address
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Cache-Control of tiles
    #[arg(long, value_name = "VALUE", default_value = "public, max-age=60")]
    pub cache_control: String,
    /// CDN-Cache-Control of tiles, if CDNs may keep them longer than browsers
    #[arg(long, value_name = "VALUE")]
    pub cdn_cache_control: Option<String>,
    /// The status of a tile in which nothing is drawn
    #[arg(long, value_name = "STATUS", value_enum, default_value = "204")]
    pub empty_status: EmptyStatusFlag,
    /// Megabytes of tiles in memory
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub cache_mb: u32,
    /// Show a map at /
    #[arg(long)]
    pub preview: bool,
    /// With --preview: a folder with maplibre-gl.js and maplibre-gl.css (version 5); without it the page loads them from unpkg.com
    #[arg(long, value_name = "FOLDER", requires = "preview")]
    pub assets: Option<PathBuf>,
    /// How long to go on after SIGTERM, while /readyz says 503, before no connection is accepted any more
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub drain: Duration,
    /// Every connection comes from a proxy: do not limit their number by address
    #[arg(long)]
    pub behind_proxy: bool,
    /// The configuration file (OAR_TILES_CONFIG), for S3 and for the output
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `oar-tiles preview`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Preview {
    /// The target: a file.mbtiles, a file.pmtiles, a directory/, s3://bucket/prefix/
    pub target: String,
    /// Where to listen; port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: ListenAddress,
    /// A folder with maplibre-gl.js and maplibre-gl.css (version 5); without it the page loads them from unpkg.com
    #[arg(long, value_name = "FOLDER")]
    pub assets: Option<PathBuf>,
    /// Ask the desktop to show the map
    #[arg(long)]
    pub open: bool,
    /// The configuration file (OAR_TILES_CONFIG), for S3
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The status of an empty tile, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EmptyStatusFlag {
    /// No content
    #[value(name = "204")]
    NoContent,
    /// A valid tile without a byte
    #[value(name = "200")]
    Ok,
    /// Not found: some clients draw the tile above instead
    #[value(name = "404")]
    NotFound,
}

impl From<EmptyStatusFlag> for EmptyStatus {
    fn from(flag: EmptyStatusFlag) -> EmptyStatus {
        match flag {
            EmptyStatusFlag::NoContent => EmptyStatus::NoContent,
            EmptyStatusFlag::Ok => EmptyStatus::Ok,
            EmptyStatusFlag::NotFound => EmptyStatus::NotFound,
        }
    }
}
