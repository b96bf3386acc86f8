//! `oar-tiles serve` and `oar-tiles preview`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args};
use http::Method;

use super::init::drafted_catalogue;
use super::inspect::write_picture;
use super::settings::{
    has_file, lists_tilesets, names_layers, resolved, resolved_all, resolved_all_over, resolved_for, resolved_to_read,
    says_nothing, target_of,
};
use super::variants::not_for_variants;
use super::{SettingFlags, on_runtime, typed};
use crate::config::{ConfigError, Settings, preview_options};
use crate::report::{Style, print, report, start_log};
use crate::run::reseed::{FamilyReseedWriter, ReseedOptions, ReseedWriter};
use crate::run::serving::{NamedTilesets, OnceReady, ServedFamily, ServedTileset, ServedTilesets};
use crate::run::{CommandError, Family, TilesetRun, jobs, picture, serving};
use crate::serve::{
    AddressRange, EmptyStatus, ListenAddress, RereadSettings, ServeOptions, SettingsReader, TilesetHeaders, Writer,
    WriterOptions, WrittenTarget, WrittenVariants,
};
use crate::stop::Stop;
use crate::target::TARGET_FORMS;
use crate::tile::MapCenter;

/// `oar-tiles serve`. The section `[serve]` of the configuration has a value for each flag that is not given.
#[derive(Debug, Clone, Args)]
pub(crate) struct Serve {
    #[arg(help = format!(
        "Target: {TARGET_FORMS} [default: the output in the configuration; with --live and without one, \
         everything that the database has]"
    ))]
    pub target: Option<String>,
    /// Listen here for clients: an IP address and a port, unix:PATH, or systemd:N [env: OAR_TILES_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<ListenAddress>,
    /// Listen here for /metrics, /livez, /readyz, /status.json and /jobs [env: OAR_TILES_ADMIN]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin: Option<ListenAddress>,
    /// URL under which clients reach this server; the TileJSON refers to it [default: the address it listens on] [env:
    /// OAR_TILES_SERVE_PUBLIC_URL]
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Path that all URLs of the server begin with, such as /facilities [env: OAR_TILES_BASE_PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) base_path: Option<String>,
    /// Cache-Control header of tiles
    #[arg(long, value_name = "VALUE")]
    pub cache_control: Option<String>,
    /// Cache-Control of tiles for CDNs, if they may keep tiles longer than browsers
    #[arg(long, value_name = "VALUE")]
    pub(crate) cdn_cache_control: Option<String>,
    /// HTTP status of a tile in which nothing is drawn [env: OAR_TILES_EMPTY_STATUS]
    #[arg(long, value_name = "STATUS", value_enum)]
    pub(crate) empty_status: Option<EmptyStatus>,
    /// Cache up to N megabytes of tiles in memory [env: OAR_TILES_CACHE_MB]
    #[arg(long, value_name = "N")]
    pub(crate) cache_mb: Option<u32>,
    /// Tell clients at /changes which tiles change (server-sent events); the map of --preview then shows changes by
    /// itself
    #[arg(long)]
    pub changes: bool,
    /// Show a map at /
    #[arg(long)]
    pub(crate) preview: bool,
    /// With --preview: serve maplibre-gl.js and maplibre-gl.css (version 5) from this folder [default: the program's
    /// own]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) assets: Option<PathBuf>,
    /// With --preview: the URL of a MapLibre style to draw below the tiles [default: the program's own base map]
    #[arg(long, value_name = "URL")]
    pub(crate) basemap: Option<String>,
    /// Write a line to standard output for each request: none, text or json [env: OAR_TILES_ACCESS_LOG]
    #[arg(long, value_name = "STYLE")]
    pub(crate) access_log: Option<String>,
    /// Render tiles outside of the target's zooms and boxes from the database when clients ask for them [env:
    /// OAR_TILES_LIVE]
    #[arg(long)]
    pub(crate) live: bool,
    /// Use this many database sessions for live requests and background work together; 0: one for each CPU [env:
    /// OAR_TILES_SERVE_WORKERS]
    #[arg(long, value_name = "N")]
    pub workers: Option<u16>,
    /// With --live: the database, as a URL or a key=value string [env: DATABASE_URL, PG*]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// Serve this tileset alone, if the configuration has several [default: the one whose output TARGET is, or all of
    /// them, each below its name]
    #[arg(long, value_name = "NAME")]
    pub tileset: Option<String>,
    /// With --live: render only this layer, if the target was seeded with the same --layer; repeat the flag for several
    /// layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// Keep the target up to date with the database: always, or auto, which stands by while another server does [env:
    /// OAR_TILES_WRITER]
    #[arg(
        long,
        value_name = "WHEN",
        value_parser = ["always", "auto", "never"],
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "always"
    )]
    pub writer: Option<String>,
    /// After SIGTERM, answer for this long while /readyz says 503, then stop accepting connections [env:
    /// OAR_TILES_DRAIN]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) drain: Option<Duration>,
    /// Do not limit the connections of this address or network, a proxy; repeat the flag for several proxies [env:
    /// OAR_TILES_TRUSTED_PROXIES]
    #[arg(long, value_name = "ADDRESS", action = ArgAction::Append)]
    pub(crate) trusted_proxy: Vec<AddressRange>,
    /// Ask the server that runs with these settings whether it is ready, and end: with exit code 0 if it is
    #[arg(long)]
    pub check: bool,
    /// Configuration file, for its sections serve and s3 and the output [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Serve {
    /// The flags that override the configuration.
    pub(crate) fn given(&self) -> SettingFlags {
        let text = |value: Option<String>| value.map(toml::Value::from);
        let more = typed([
            ("--listen", "serve.listen", text(self.listen.as_ref().map(ToString::to_string))),
            ("--admin", "serve.admin", text(self.admin.as_ref().map(ToString::to_string))),
            ("--public-url", "serve.public_url", text(self.public_url.clone())),
            ("--base-path", "serve.base_path", text(self.base_path.clone())),
            ("--cache-control", "serve.cache_control", text(self.cache_control.clone())),
            ("--cdn-cache-control", "serve.cdn_cache_control", text(self.cdn_cache_control.clone())),
            (
                "--empty-status",
                "serve.empty_status",
                self.empty_status.map(|status| i64::from(status.status().as_u16()).into()),
            ),
            ("--cache-mb", "serve.cache_mb", self.cache_mb.map(|megabytes| i64::from(megabytes).into())),
            ("--changes", "serve.changes", self.changes.then_some(true.into())),
            ("--preview", "serve.preview", self.preview.then_some(true.into())),
            ("--access-log", "serve.access_log", text(self.access_log.clone())),
            ("--live", "serve.live", self.live.then_some(true.into())),
            ("--workers", "serve.workers", self.workers.map(|workers| i64::from(workers).into())),
            ("--writer", "serve.writer", text(self.writer.clone())),
            ("--basemap", "serve.basemap", text(self.basemap.clone())),
            ("--assets", "serve.assets", text(self.assets.as_ref().map(|path| path.to_string_lossy().into_owned()))),
            ("--drain", "serve.drain", text(self.drain.map(|drain| humantime::format_duration(drain).to_string()))),
            (
                "--trusted-proxy",
                "serve.trusted_proxies",
                (!self.trusted_proxy.is_empty())
                    .then(|| self.trusted_proxy.iter().map(ToString::to_string).collect::<Vec<_>>().into()),
            ),
        ]);
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
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("written").args(["html", "style"])))]
pub(crate) struct Preview {
    #[arg(help = format!(
        "Target: {TARGET_FORMS} [default: the output in the configuration; with --live and no configuration, \
         everything that the database has]"
    ))]
    pub target: Option<String>,
    /// Listen here; port 0 takes any free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: ListenAddress,
    /// Serve maplibre-gl.js and maplibre-gl.css (version 5) from this folder [default: the program's own]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) assets: Option<PathBuf>,
    /// The URL of a MapLibre style to draw below the tiles [default: the program's own base map; none with --html]
    #[arg(long, value_name = "URL", conflicts_with = "style")]
    pub(crate) basemap: Option<String>,
    /// Write the map as a page of your own instead of serving it; the page loads MapLibre GL JS from unpkg.com
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "assets", "open"])]
    pub(crate) html: Option<PathBuf>,
    /// Write the map's style as a file for a map of your own (MapLibre style), and serve nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "assets", "open", "html", "live"])]
    pub(crate) style: Option<PathBuf>,
    /// Write a picture of the map, a PNG of 1280 x 800 pixels without names, and serve nothing; needs no browser
    #[arg(long, value_name = "FILE.png", conflicts_with_all = ["listen", "assets", "open", "html", "style", "live", "basemap"])]
    pub(crate) picture: Option<PathBuf>,
    /// With --picture: its middle and its zoom [default: where the map of the target begins]
    #[arg(long, value_name = "LON,LAT,ZOOM", requires = "picture", allow_hyphen_values = true)]
    pub at: Option<MapCenter>,
    /// With --style: label features with this property
    #[arg(long, value_name = "PROPERTY", requires = "style")]
    pub(crate) label: Option<String>,
    /// With --style: where map clients without fonts of their own find the glyphs of "Noto Sans Regular"; preview and
    /// serve --preview have them at /fonts/ [default: none; MapLibre GL JS 5 draws labels with the browser's fonts]
    #[arg(long, value_name = "URL", requires = "style")]
    pub(crate) glyphs: Option<String>,
    /// With --html or --style: where the tiles and their tiles.json are [default: the public URL that the target was
    /// seeded with]
    #[arg(long, value_name = "URL", requires = "written")]
    pub public_url: Option<String>,
    /// Open the map in the desktop's browser
    #[arg(long)]
    pub open: bool,
    /// Render tiles outside of the target's zooms and boxes from the database; needs the configuration that the target
    /// was seeded with
    #[arg(long, conflicts_with = "html")]
    pub(crate) live: bool,
    /// With --live: the database, as a URL or a key=value string [env: DATABASE_URL, PG*]
    #[arg(long, value_name = "URL", requires = "live")]
    pub(crate) database_url: Option<String>,
    /// With --live: the tileset, if the configuration has several [default: the one whose output the target is]
    #[arg(long, value_name = "NAME", requires = "live")]
    pub tileset: Option<String>,
    /// Configuration file, for how to reach S3, and for the layers of --live [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Preview {
    /// The flags that override the configuration.
    pub(crate) fn given(&self) -> SettingFlags {
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

// `serve`, `preview`, and `jobs`, which sends requests to a server.

/// What a server serves.
#[derive(Clone)]
enum ServedKind {
    /// One tileset, at the root of all paths.
    One,
    /// The tilesets that the configuration lists.
    Listed,
    /// Everything in the database, by a draft.
    Discovered(String),
}

impl ServedKind {
    fn of(arguments: &Serve, flags: &SettingFlags, stop: &Stop) -> Result<ServedKind, CommandError> {
        if arguments.target.is_some() {
            return Ok(ServedKind::One);
        }
        if lists_tilesets(flags)? {
            return Ok(ServedKind::Listed);
        }
        let server = if says_nothing(flags)? { Some(resolved(flags, false, "serve")?.server) } else { None };
        // A writer needs a target.
        match server {
            Some(server) if server.live.is_some() && server.writer.is_none() && !arguments.check => {
                Ok(ServedKind::Discovered(drafted_catalogue(flags, stop)?))
            }
            _ if has_variants(flags)? => Ok(ServedKind::Listed),
            _ => Ok(ServedKind::One),
        }
    }

    /// The settings of each tileset.
    fn settings(
        &self,
        arguments: &Serve,
        flags: &SettingFlags,
        names_output: bool,
    ) -> Result<Vec<Settings>, CommandError> {
        match (self, &arguments.target) {
            (ServedKind::Listed, _) => resolved_all(flags, names_output),
            (ServedKind::Discovered(draft), _) => resolved_all_over(flags, draft),
            (ServedKind::One, Some(target)) if names_output => Ok(vec![resolved_for(flags, target, "serve")?]),
            (ServedKind::One, _) => Ok(vec![resolved(flags, names_output, "serve")?]),
        }
    }
}

pub(crate) fn run_serve(arguments: &Serve, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let flags = arguments.given();
    let kind = ServedKind::of(arguments, &flags, stop)?;
    if arguments.check {
        return check_ready(&first_of(kind.settings(arguments, &flags, false)?)?.server);
    }
    let settings = kind.settings(arguments, &flags, true)?;
    let options = first_of(settings.clone())?.server;
    // Whether it draws may stand in a variable or in the file, too.
    if !matches!(kind, ServedKind::Discovered(_)) && (options.live.is_some() || options.writer.is_some()) {
        names_layers(&flags)?;
    }
    let reread: SettingsReader = Arc::new({
        let (arguments, kind) = (arguments.clone(), kind.clone());
        move || reread(&arguments, &flags, &kind).map_err(|error| error.to_string())
    });
    on_runtime(async || {
        let served = served_tilesets(&kind, settings, options.writer, stop)?;
        serving::run(&served, &options, OnceReady::SayWhere, Some(reread), stop).await
    })
}

/// The jobs that a server serves, each with its writer if the server writes.
fn served_tilesets(
    kind: &ServedKind,
    settings: Vec<Settings>,
    writer: Option<WriterOptions>,
    stop: &Stop,
) -> Result<ServedTilesets, CommandError> {
    let (mut served, mut families, pool) = (Vec::new(), Vec::new(), Arc::default());
    for settings in settings {
        let report = report(Style::Warnings);
        if let Some(family) = Family::of(&settings).filter(|_| matches!(kind, ServedKind::Listed)) {
            let watch = |writer| FamilyReseedWriter::new(family.clone(), writer, &report);
            let writer = writer.map(|writer| watch(writer) as Arc<dyn Writer<WrittenVariants>>);
            // The writer of the variants also writes the tileset without conditions.
            if let Some(all) = family.all()? {
                let run = TilesetRun::new(all, false, &report, stop)?.with_pool(&pool);
                served.push(ServedTileset::read_only(run));
            }
            families.push(ServedFamily { family, writer });
            continue;
        }
        if writer.is_some() {
            let advice = "leave TARGET out, so that all variants are written and served";
            not_for_variants(&settings, "serve TARGET --writer", advice)?;
        }
        let run = TilesetRun::new(settings, false, &report, stop)?.with_pool(&pool);
        if let ServedKind::Discovered(_) = kind {
            served.push(ServedTileset::live_only(run));
            continue;
        }
        let watch = |writer| ReseedWriter::new(run.clone(), ReseedOptions::default(), writer);
        let writer = writer.map(|writer| watch(writer) as Arc<dyn Writer<WrittenTarget>>);
        served.push(ServedTileset { writer, ..ServedTileset::read_only(run) });
    }
    Ok(match (kind, served.pop()) {
        (ServedKind::One, Some(one)) => ServedTilesets::One(Box::new(one)),
        (_, last) => {
            ServedTilesets::ByName(NamedTilesets { tilesets: served.into_iter().chain(last).collect(), families })
        }
    })
}

/// True if a chosen tileset has variants, so that it is served below its name.
fn has_variants(flags: &SettingFlags) -> Result<bool, CommandError> {
    Ok(resolved_all(flags, false)?.iter().any(|settings| Family::of(settings).is_some()))
}

/// The settings of the first tileset. The settings of the server are the same in all.
fn first_of(settings: Vec<Settings>) -> Result<Settings, CommandError> {
    let none = || ConfigError::NotOneTileset { what: "serve", names: Vec::new() };
    Ok(settings.into_iter().next().ok_or_else(none)?)
}

/// Reads the settings of a server again.
fn reread(arguments: &Serve, flags: &SettingFlags, kind: &ServedKind) -> Result<RereadSettings, CommandError> {
    let settings = kind.settings(arguments, flags, false)?;
    let headers = settings.iter().map(|settings| TilesetHeaders {
        tileset: settings.tileset.name.as_str().into(),
        headers: settings.server.tile_headers.clone(),
    });
    Ok(RereadSettings { headers: headers.collect(), options: first_of(settings)?.server })
}

/// Asks the admin listener of the server with these settings whether it is ready.
fn check_ready(options: &ServeOptions) -> Result<(), CommandError> {
    let refused = |what: &str| {
        let what = format!("{what}: give --admin the address of the server's admin listener, such as 127.0.0.1:9180");
        Err(CommandError::Admin { url: "serve --check".to_owned(), what })
    };
    let url = match &options.admin {
        None => return refused("knows no address to ask"),
        Some(ListenAddress::Inherited(_)) => return refused("cannot ask a socket that systemd has opened"),
        // The unspecified address stands for every address, and cannot be connected to.
        Some(ListenAddress::Tcp(address)) if address.ip().is_unspecified() => {
            let loopback = if address.is_ipv4() { "127.0.0.1" } else { "[::1]" };
            format!("http://{loopback}:{}", address.port())
        }
        Some(ListenAddress::Tcp(address)) => format!("http://{address}"),
        Some(socket @ ListenAddress::Unix(_)) => socket.to_string(),
    };
    let server = jobs::AdminServer::new(&url, None)?;
    on_runtime(async || server.ask(Method::GET, "/readyz", None).await).map_err(|error| match error {
        CommandError::Admin { url, what } => CommandError::NotReady(format!("{url} {what}")),
        other => other,
    })?;
    Ok(print("ready\n")?)
}

pub(crate) fn run_preview(arguments: &Preview, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    if arguments.live && arguments.target.is_none() {
        return preview_database(arguments, stop);
    }
    let target = target_of(&arguments.given(), arguments.target.as_deref(), "preview", "oar-tiles preview TARGET")?;
    let settings = preview_settings(arguments, &target)?;
    if let Some(file) = &arguments.html {
        return on_runtime(async || {
            let run = TilesetRun::new(settings, false, &report(Style::Warnings), stop)?;
            serving::write_page(&run, file, arguments.public_url.clone(), arguments.basemap.as_deref()).await
        });
    }
    if let Some(file) = &arguments.style {
        return on_runtime(async || {
            let run = TilesetRun::new(settings, false, &report(Style::Warnings), stop)?;
            let (label, glyphs) = (arguments.label.as_deref(), arguments.glyphs.as_deref());
            serving::write_style(&run, file, arguments.public_url.clone(), label, glyphs).await
        });
    }
    if let Some(file) = &arguments.picture {
        return on_runtime(async || {
            let run = TilesetRun::new(settings, false, &report(Style::Warnings), stop)?;
            let drawn = picture::of_map(&run, arguments.at).await?;
            write_picture(&drawn, Some(file), Path::new(&target))
        });
    }
    let (live, shares) = (settings.server.live.clone().filter(|_| arguments.live), settings.server.shares);
    let preview = preview_options(arguments.listen.clone(), arguments.assets.clone(), arguments.basemap.clone())?;
    let then = if arguments.open { OnceReady::OpenBrowser } else { OnceReady::SayWhere };
    show(settings, &ServeOptions { shares, live, ..preview }, then, stop)
}

/// Shows what the configuration draws or, without a configuration, everything in the database. There is no target.
fn preview_database(arguments: &Preview, stop: &Stop) -> Result<(), CommandError> {
    let flags = arguments.given();
    let settings = if has_file(&flags) {
        resolved_all(&flags, false)?
    } else {
        resolved_all_over(&flags, &drafted_catalogue(&flags, stop)?)?
    };
    let of_first = first_of(settings.clone())?.server;
    let preview = preview_options(arguments.listen.clone(), arguments.assets.clone(), arguments.basemap.clone())?;
    let options = ServeOptions { live: of_first.live, shares: of_first.shares, ..preview };
    let then = if arguments.open { OnceReady::OpenBrowser } else { OnceReady::SayWhere };
    on_runtime(async || {
        let pool = Arc::default();
        let live_only = |settings| {
            let run = TilesetRun::new(settings, false, &report(Style::Warnings), stop)?.with_pool(&pool);
            Ok::<_, CommandError>(ServedTileset::live_only(run))
        };
        let tilesets = settings.into_iter().map(live_only).collect::<Result<_, _>>()?;
        let served = ServedTilesets::ByName(NamedTilesets { tilesets, families: Vec::new() });
        serving::run(&served, &options, then, None, stop).await
    })
}

/// Shows the target of a run that has ended, on any free port of this machine.
pub(crate) fn preview(settings: Settings, stop: &Stop) -> Result<(), CommandError> {
    let options = preview_options(ListenAddress::ANY_LOCAL, None, None)?;
    show(settings, &options, OnceReady::SayWhere, stop)
}

fn show(settings: Settings, options: &ServeOptions, then: OnceReady, stop: &Stop) -> Result<(), CommandError> {
    on_runtime(async || {
        let run = TilesetRun::new(settings, false, &report(Style::Warnings), stop)?;
        let served = ServedTilesets::One(Box::new(ServedTileset::read_only(run)));
        serving::run(&served, options, then, None, stop).await
    })
}

/// The settings of a preview. Only live tiles need the settings of the tileset that the target holds.
fn preview_settings(arguments: &Preview, target: &str) -> Result<Settings, CommandError> {
    if arguments.live {
        names_layers(&arguments.given())?;
        resolved_for(&arguments.given(), target, "preview --live")
    } else {
        resolved_to_read(&arguments.given(), target)
    }
}
