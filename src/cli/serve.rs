//! `oar-tiles serve` and `oar-tiles preview`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};

use super::SettingFlags;
use crate::serve::{AddressRange, ListenAddress};

/// `oar-tiles serve`. What is not given is taken from the section `[serve]` of the configuration.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Serve {
    /// The target; without it the output of the configuration
    pub target: Option<String>,
    /// Where the public listener waits: an IP address and a port, or unix:PATH (OAR_TILES_LISTEN)
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<ListenAddress>,
    /// Where the admin listener waits: /metrics, /livez, /readyz, /status.json (OAR_TILES_ADMIN)
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<ListenAddress>,
    /// Where clients find this server, for TileJSON; without it its own address (OAR_TILES_SERVE_PUBLIC_URL)
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// A path before all paths, such as /facilities (OAR_TILES_BASE_PATH)
    #[arg(long, value_name = "PATH")]
    pub base_path: Option<String>,
    /// Cache-Control of tiles
    #[arg(long, value_name = "VALUE")]
    pub cache_control: Option<String>,
    /// Cache-Control of tiles for CDNs, if they may keep them longer than browsers
    #[arg(long, value_name = "VALUE")]
    pub cdn_cache_control: Option<String>,
    /// The status of a tile in which nothing is drawn (OAR_TILES_EMPTY_STATUS)
    #[arg(long, value_name = "STATUS", value_enum)]
    pub empty_status: Option<EmptyStatusFlag>,
    /// Megabytes of tiles in memory (OAR_TILES_CACHE_MB)
    #[arg(long, value_name = "N")]
    pub cache_mb: Option<u32>,
    /// Show a map at /
    #[arg(long)]
    pub preview: bool,
    /// A folder with maplibre-gl.js and maplibre-gl.css (version 5) for the map; without it the page loads them from unpkg.com
    #[arg(long, value_name = "FOLDER")]
    pub assets: Option<PathBuf>,
    /// Render tiles outside of the target's zooms and boxes when they are asked for (OAR_TILES_LIVE)
    #[arg(long)]
    pub live: bool,
    /// Tiles that are rendered at once; 0 for one a processor (OAR_TILES_LIVE_WORKERS)
    #[arg(long, value_name = "N")]
    pub live_workers: Option<u16>,
    /// The database for --live, as a URL or key/value string (DATABASE_URL, PG*)
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Only this layer, if the target was seeded so; again for each layer
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// How long to go on after SIGTERM, while /readyz says 503, before no connection is accepted any more (OAR_TILES_DRAIN)
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub drain: Option<Duration>,
    /// A proxy in front, by address or network, whose connections are not counted by address; again for each (OAR_TILES_TRUSTED_PROXIES)
    #[arg(long, value_name = "ADDRESS", action = ArgAction::Append)]
    pub trusted_proxy: Vec<AddressRange>,
    /// The configuration file (OAR_TILES_CONFIG): [serve], [s3], the output
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Serve {
    /// The flags that give settings.
    #[must_use]
    pub fn given(&self) -> SettingFlags {
        let text = |value: Option<String>| value.map(toml::Value::from);
        let given = [
            ("--listen", "serve.listen", text(self.listen.as_ref().map(ToString::to_string))),
            ("--admin", "serve.admin", text(self.admin.as_ref().map(ToString::to_string))),
            ("--public-url", "serve.public_url", text(self.public_url.clone())),
            ("--base-path", "serve.base_path", text(self.base_path.clone())),
            ("--cache-control", "serve.cache_control", text(self.cache_control.clone())),
            ("--cdn-cache-control", "serve.cdn_cache_control", text(self.cdn_cache_control.clone())),
            ("--empty-status", "serve.empty_status", self.empty_status.map(|flag| flag.number().into())),
            ("--cache-mb", "serve.cache_mb", self.cache_mb.map(|megabytes| i64::from(megabytes).into())),
            ("--preview", "serve.preview", self.preview.then_some(true.into())),
            ("--live", "serve.live", self.live.then_some(true.into())),
            ("--live-workers", "serve.live_workers", self.live_workers.map(|workers| i64::from(workers).into())),
            ("--assets", "serve.assets", text(self.assets.as_ref().map(|path| path.to_string_lossy().into_owned()))),
            ("--drain", "serve.drain", text(self.drain.map(|drain| humantime::format_duration(drain).to_string()))),
            (
                "--trusted-proxy",
                "serve.trusted_proxies",
                (!self.trusted_proxy.is_empty())
                    .then(|| self.trusted_proxy.iter().map(ToString::to_string).collect::<Vec<_>>().into()),
            ),
        ];
        let more = given.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value?))).collect();
        SettingFlags {
            config: self.config.clone(),
            database_url: self.database_url.clone(),
            layer: self.layer.clone(),
            more,
            ..SettingFlags::default()
        }
    }
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

impl EmptyStatusFlag {
    const fn number(self) -> i64 {
        match self {
            EmptyStatusFlag::NoContent => 204,
            EmptyStatusFlag::Ok => 200,
            EmptyStatusFlag::NotFound => 404,
        }
    }
}
