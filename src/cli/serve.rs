//! `oar-tiles serve` and `oar-tiles preview`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};

use super::SettingFlags;
use crate::serve::{AddressRange, ListenAddress};

/// `oar-tiles serve`. The section `[serve]` of the configuration has a value for each flag that is not given.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[expect(clippy::struct_excessive_bools, reason = "flags as typed; which go together is told to clap")]
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Target: file.mbtiles, file.pmtiles, directory/, s3://bucket/prefix/ or s3://bucket/file.pmtiles [default: the output in the configuration; with --live and without one, everything that the database has]
    pub target: Option<String>,
    /// Listen here for clients: an IP address and a port, unix:PATH, or systemd:N [env: OAR_TILES_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<ListenAddress>,
    /// Listen here for /metrics, /livez, /readyz and /status.json [env: OAR_TILES_ADMIN]
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<ListenAddress>,
    /// URL under which clients reach this server; the TileJSON refers to it [default: the address it listens on] [env: OAR_TILES_SERVE_PUBLIC_URL]
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Path that all URLs of the server begin with, such as /facilities [env: OAR_TILES_BASE_PATH]
    #[arg(long, value_name = "PATH")]
    pub base_path: Option<String>,
    /// Cache-Control header of tiles
    #[arg(long, value_name = "VALUE")]
    pub cache_control: Option<String>,
    /// Cache-Control of tiles for CDNs, if they may keep tiles longer than browsers
    #[arg(long, value_name = "VALUE")]
    pub cdn_cache_control: Option<String>,
    /// HTTP status of a tile in which nothing is drawn [env: OAR_TILES_EMPTY_STATUS]
    #[arg(long, value_name = "STATUS", value_enum)]
    pub empty_status: Option<EmptyStatusFlag>,
    /// Cache up to N megabytes of tiles in memory [env: OAR_TILES_CACHE_MB]
    #[arg(long, value_name = "N")]
    pub cache_mb: Option<u32>,
    /// Tell clients at /changes which tiles change (server-sent events); the map of --preview then shows changes by itself
    #[arg(long)]
    pub changes: bool,
    /// Show a map at /
    #[arg(long)]
    pub preview: bool,
    /// With --preview: serve maplibre-gl.js and maplibre-gl.css (version 5) from this folder [default: the page loads them from unpkg.com]
    #[arg(long, value_name = "FOLDER")]
    pub assets: Option<PathBuf>,
    /// Write a line to standard output for each request: none, text or json [env: OAR_TILES_ACCESS_LOG]
    #[arg(long, value_name = "STYLE")]
    pub access_log: Option<String>,
    /// Render tiles outside of the target's zooms and boxes from the database when clients ask for them [env: OAR_TILES_LIVE]
    #[arg(long)]
    pub live: bool,
    /// Use this many database sessions for live requests and background work together; 0: one for each CPU [env: OAR_TILES_SERVE_WORKERS]
    #[arg(long, value_name = "N")]
    pub workers: Option<u16>,
    /// With --live: the database, as a URL or a key=value string [env: DATABASE_URL, PG*]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Serve this tileset alone, if the configuration has several [default: the one whose output TARGET is, or all of them, each below its name]
    #[arg(long, value_name = "NAME")]
    pub tileset: Option<String>,
    /// With --live: render only this layer, if the target was seeded with the same --layer; repeat the flag for several layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// Keep the target up to date with the database: always, or auto, which stands by while another server does [env: OAR_TILES_WRITER]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    pub writer: Option<String>,
    /// After SIGTERM, answer for this long while /readyz says 503, then stop accepting connections [env: OAR_TILES_DRAIN]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub drain: Option<Duration>,
    /// Do not limit the connections of this address or network, a proxy; repeat the flag for several proxies [env: OAR_TILES_TRUSTED_PROXIES]
    #[arg(long, value_name = "ADDRESS", action = ArgAction::Append)]
    pub trusted_proxy: Vec<AddressRange>,
    /// Ask the server that runs with these settings whether it is ready, and end: with exit code 0 if it is
    #[arg(long)]
    pub check: bool,
    /// Configuration file, for its sections serve and s3 and the output [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Serve {
    /// The flags that override the configuration.
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
            ("--changes", "serve.changes", self.changes.then_some(true.into())),
            ("--preview", "serve.preview", self.preview.then_some(true.into())),
            ("--access-log", "serve.access_log", text(self.access_log.clone())),
            ("--live", "serve.live", self.live.then_some(true.into())),
            ("--workers", "serve.workers", self.workers.map(|workers| i64::from(workers).into())),
            ("--writer", "serve.writer", text(self.writer.clone())),
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
            tileset: self.tileset.iter().cloned().collect(),
            more,
            ..SettingFlags::default()
        }
    }
}

/// `oar-tiles preview`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("written").args(["html", "style"])))]
pub struct Preview {
    /// Target: file.mbtiles, file.pmtiles, directory/, s3://bucket/prefix/ or s3://bucket/file.pmtiles [with --live default: everything that the database has]
    #[arg(required_unless_present = "live")]
    pub target: Option<String>,
    /// Listen here; port 0 takes any free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: ListenAddress,
    /// Serve maplibre-gl.js and maplibre-gl.css (version 5) from this folder [default: the page loads them from unpkg.com]
    #[arg(long, value_name = "FOLDER")]
    pub assets: Option<PathBuf>,
    /// Write the map as a page of your own instead of serving it; the page loads MapLibre GL JS from unpkg.com
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "assets", "open"])]
    pub html: Option<PathBuf>,
    /// Write the map's style as a file for a map of your own (MapLibre style), and serve nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "assets", "open", "html", "live"])]
    pub style: Option<PathBuf>,
    /// With --style: label features with this property
    #[arg(long, value_name = "PROPERTY", requires = "style")]
    pub label: Option<String>,
    /// With --html or --style: where the tiles and their tiles.json are [default: the public URL that the target was seeded with]
    #[arg(long, value_name = "URL", requires = "written")]
    pub public_url: Option<String>,
    /// Open the map in the desktop's browser
    #[arg(long)]
    pub open: bool,
    /// Render tiles outside of the target's zooms and boxes from the database; needs the configuration that the target was seeded with
    #[arg(long, conflicts_with = "html")]
    pub live: bool,
    /// With --live: the database, as a URL or a key=value string [env: DATABASE_URL, PG*]
    #[arg(long, value_name = "URL", requires = "live")]
    pub database_url: Option<String>,
    /// With --live: the tileset, if the configuration has several [default: the one whose output the target is]
    #[arg(long, value_name = "NAME", requires = "live")]
    pub tileset: Option<String>,
    /// Configuration file, for how to reach S3, and for the layers of --live [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Preview {
    /// The flags that override the configuration.
    #[must_use]
    pub fn given(&self) -> SettingFlags {
        let live = self.live.then(|| ("--live", "serve.live", true.into()));
        SettingFlags {
            config: self.config.clone(),
            database_url: self.database_url.clone(),
            tileset: self.tileset.iter().cloned().collect(),
            more: live.into_iter().collect(),
            ..SettingFlags::default()
        }
    }
}

/// The status of an empty tile, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EmptyStatusFlag {
    /// No Content
    #[value(name = "204")]
    NoContent,
    /// OK: a tile of 0 bytes, which is valid
    #[value(name = "200")]
    Ok,
    /// Not Found: some clients then enlarge the tile of the next lower zoom
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
