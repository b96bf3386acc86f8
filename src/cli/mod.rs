//! Flags as typed. Nothing is decided here: "not given" stays `None`.

mod serve;
mod track;

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::changes::Cursor;
use crate::config::{Flag, Progress};
use crate::tile::{LonLatBox, ZoomList};

pub use serve::{EmptyStatusFlag, Preview, Serve};
pub use track::{Track, TrackInstall, TrackPrune, TrackRemove, TrackStatus, Tracked};

/// Pregenerates static vector tiles from PostGIS: whole pyramids in seconds, on one snapshot.
#[derive(Debug, Parser)]
#[command(name = "oar-tiles", version, about, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Render every occupied tile of the pyramid into the output
    Seed(Seed),
    /// Render what changed since the target's snapshot, and nothing else
    Reseed(Reseed),
    /// List the versions of a target, or switch the map to another one
    Publish(Publish),
    /// Check a target: structure, counts, every tile; with --database also against the database
    Verify(Verify),
    /// Show what a target holds, or what one of its tiles holds
    Inspect(Inspect),
    /// Copy a target into another one, of any kind, byte for byte
    Copy(Copy),
    /// Serve a target over HTTP: tiles, TileJSON, metrics
    Serve(Serve),
    /// Show a target on a map in the browser, without a database
    Preview(Preview),
    /// Note changes in the database, so that only what they touch has to be rendered again
    #[command(subcommand)]
    Track(Track),
    /// Print the settings and where each value came from
    Config(SettingFlags),
}

/// Flags that give settings.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Clone, Default, Args)]
pub struct SettingFlags {
    /// The configuration file (OAR_TILES_CONFIG); sample-config.toml shows every key
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The database, as a URL or key/value string (DATABASE_URL, PG*)
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// The zooms: 0-14, 7 or 0-4,8,10-12 (OAR_TILES_ZOOM)
    #[arg(long, value_name = "LIST")]
    pub zoom: Option<ZoomList>,
    /// A box in degrees; again for each box; west may be greater than east (OAR_TILES_BBOX)
    #[arg(long, value_name = "W,S,E,N", allow_hyphen_values = true, action = ArgAction::Append)]
    pub bbox: Vec<LonLatBox>,
    /// The target: a file.mbtiles, a file.pmtiles, a directory/, s3://bucket/prefix/ (OAR_TILES_OUTPUT)
    #[arg(long, short, value_name = "TARGET")]
    pub output: Option<PathBuf>,
    /// Where clients find a directory or bucket, for tiles.json: a whole address, https and all (OAR_TILES_PUBLIC_URL)
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Only this layer; again for each layer
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// Sessions that render side by side; 0 for one a processor (OAR_TILES_WORKERS)
    #[arg(long, value_name = "N")]
    pub workers: Option<u16>,
    /// How progress is shown (OAR_TILES_PROGRESS)
    #[arg(long, value_name = "STYLE")]
    pub progress: Option<Progress>,
    /// What flags of one verb set.
    #[arg(skip)]
    pub more: Vec<Flag>,
}

/// `oar-tiles seed`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[expect(clippy::struct_excessive_bools, reason = "flags as typed; which go together is told to clap")]
#[derive(Debug, Args)]
pub struct Seed {
    /// Flags that give settings.
    #[command(flatten)]
    pub given: SettingFlags,
    /// Print the plan with estimated sizes and times, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write over another tileset, or what other programs made
    #[arg(long)]
    pub force: bool,
    /// Publish, however few tiles are left of those that the target holds (max_shrink in the configuration)
    #[arg(long)]
    pub allow_shrink: bool,
    /// Write the tiles that changed, after the run is published: .json, .geojson, or z/x/y lines; * if that cannot be told
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub changed_out: Option<PathBuf>,
    /// Also write the closing table (or the plan) as JSON
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Say more; twice for the statements' fate
    #[arg(long, short, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// No progress and no table: only warnings and errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles reseed`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[expect(clippy::struct_excessive_bools, reason = "flags as typed; which go together is told to clap")]
#[derive(Debug, Args)]
pub struct Reseed {
    /// Flags that give settings; --zoom and --bbox narrow what is rendered.
    #[command(flatten)]
    pub given: SettingFlags,
    /// Say how many tiles would be rendered, and why, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Seed the target, with its own zooms and boxes, where it needs a full seed (exit code 4 without this)
    #[arg(long)]
    pub or_seed: bool,
    /// Publish, however few tiles are left of those that the target holds (max_shrink in the configuration)
    #[arg(long)]
    pub allow_shrink: bool,
    /// Render these tiles instead of what changed: a file of z/x/y lines, or - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "area")]
    pub tiles: Option<PathBuf>,
    /// With --tiles: also the tiles above them
    #[arg(long, requires = "tiles")]
    pub parents: bool,
    /// With --tiles: also the tiles below them
    #[arg(long, requires = "tiles")]
    pub children: bool,
    /// Render this area instead of what changed: W,S,E,N or a GeoJSON file; again for each area
    #[arg(long, value_name = "AREA", allow_hyphen_values = true, action = ArgAction::Append)]
    pub area: Vec<String>,
    /// Look for changes since this snapshot (pg_current_snapshot()) instead of the target's
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["tiles", "area"])]
    pub since: Option<Cursor>,
    /// Write the dirty tiles before the target moves on: .json, .geojson, or z/x/y lines; * if a full seed changes any
    #[arg(long, value_name = "FILE")]
    pub dirty_out: Option<PathBuf>,
    /// Write the tiles that changed, after the run is published: .json, .geojson, or z/x/y lines; * if that cannot be told
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub changed_out: Option<PathBuf>,
    /// Stay, and render at each change
    #[arg(long, conflicts_with_all = ["dry_run", "tiles", "area", "since"])]
    pub watch: bool,
    /// With --watch: how long changes are gathered after the first, such as 500ms (debounce in the configuration)
    #[arg(long, value_name = "TIME", requires = "watch", value_parser = humantime::parse_duration)]
    pub debounce: Option<Duration>,
    /// With --watch: how often to look without having been woken, such as 30s (poll in the configuration)
    #[arg(long, value_name = "TIME", requires = "watch", value_parser = humantime::parse_duration)]
    pub poll: Option<Duration>,
    /// Also write the closing table (or the plan) as JSON
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Say more; twice for the statements' fate
    #[arg(long, short, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// No progress and no table: only warnings and errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles publish`.
#[derive(Debug, Args)]
pub struct Publish {
    /// Flags that give settings.
    #[command(flatten)]
    pub given: SettingFlags,
    /// Show the version before the one that is shown
    #[arg(long)]
    pub rollback: bool,
    /// Show this version
    #[arg(long, value_name = "VERSION", conflicts_with = "rollback")]
    pub to: Option<String>,
}

/// `oar-tiles verify`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Verify {
    /// A file.mbtiles, a file.pmtiles, a directory/ or an s3://bucket/prefix/
    pub target: String,
    /// Look into so many tiles, spread evenly (without it: all up to 100000, else 10000)
    #[arg(long, value_name = "N")]
    pub sample: Option<NonZeroU64>,
    /// Look into every tile
    #[arg(long, conflicts_with = "sample")]
    pub all: bool,
    /// Render the tiles again and compare; takes the settings that the target was seeded with
    #[arg(long)]
    pub database: bool,
    /// Also write the findings as JSON
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// The configuration file (OAR_TILES_CONFIG)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The database, as a URL or key/value string (DATABASE_URL, PG*)
    #[arg(long, value_name = "URL", requires = "database")]
    pub database_url: Option<String>,
    /// Only this layer, if the target was seeded so; again for each layer
    #[arg(long, value_name = "NAME", action = ArgAction::Append, requires = "database")]
    pub layer: Vec<String>,
    /// Sessions that render side by side; 0 for one a processor (OAR_TILES_WORKERS)
    #[arg(long, value_name = "N", requires = "database")]
    pub workers: Option<u16>,
}

impl Verify {
    /// The flags that give settings.
    #[must_use]
    pub fn given(&self) -> SettingFlags {
        let (config, database_url) = (self.config.clone(), self.database_url.clone());
        SettingFlags {
            config,
            database_url,
            layer: self.layer.clone(),
            workers: self.workers,
            ..SettingFlags::default()
        }
    }
}

/// `oar-tiles inspect`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Inspect {
    /// A file.mbtiles, a file.pmtiles, a directory/ or an s3://bucket/prefix/
    pub target: String,
    /// A tile; without it the summary of the target
    #[arg(value_name = "Z/X/Y")]
    pub tile: Option<String>,
    /// Only this layer of the tile
    #[arg(long, value_name = "NAME", requires = "tile")]
    pub layer: Option<String>,
    /// The tile as GeoJSON in degrees
    #[arg(long, requires = "tile")]
    pub geojson: bool,
    /// The summary as JSON
    #[arg(long, conflicts_with = "tile")]
    pub json: bool,
    /// The configuration file (OAR_TILES_CONFIG)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `oar-tiles copy`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Args)]
pub struct Copy {
    /// Where the tiles are: a file.mbtiles, a file.pmtiles, a directory/ or an s3://bucket/prefix/
    pub source: String,
    /// Where they go
    pub target: String,
    /// Only these zooms: 0-14, 7 or 0-4,8,10-12
    #[arg(long, value_name = "LIST")]
    pub zoom: Option<ZoomList>,
    /// Only tiles that this box touches, in degrees; again for each box
    #[arg(long, value_name = "W,S,E,N", allow_hyphen_values = true, action = ArgAction::Append)]
    pub bbox: Vec<LonLatBox>,
    /// Write over another tileset, or what other programs made
    #[arg(long)]
    pub force: bool,
    /// Write the tiles that changed, after the run is published: .json, .geojson, or z/x/y lines; * if that cannot be told
    #[arg(long, value_name = "FILE")]
    pub changed_out: Option<PathBuf>,
    /// Where clients find the directory or bucket, for tiles.json: a whole address, https and all (OAR_TILES_PUBLIC_URL)
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// The configuration file (OAR_TILES_CONFIG)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl SettingFlags {
    /// The settings that flags give, by key.
    #[must_use]
    pub fn flags(&self) -> Vec<Flag> {
        let mut flags: Vec<Flag> = Vec::new();
        if let Some(url) = &self.database_url {
            flags.push(("--database-url", "database.url", url.as_str().into()));
        }
        if let Some(zoom) = &self.zoom {
            flags.push(("--zoom", "tileset.zoom", zoom.to_string().into()));
        }
        if !self.bbox.is_empty() {
            let boxes: Vec<toml::Value> = self.bbox.iter().map(|bbox| bbox.to_string().into()).collect();
            flags.push(("--bbox", "tileset.bbox", boxes.into()));
        }
        if let Some(output) = &self.output {
            flags.push(("--output", "tileset.output", output.to_string_lossy().into_owned().into()));
        }
        if let Some(url) = &self.public_url {
            flags.push(("--public-url", "target.public_url", url.as_str().into()));
        }
        if let Some(workers) = self.workers {
            flags.push(("--workers", "run.workers", i64::from(workers).into()));
        }
        if let Some(progress) = self.progress
            && let Ok(value) = toml::Value::try_from(progress)
        {
            flags.push(("--progress", "run.progress", value));
        }
        flags.extend(self.more.iter().cloned());
        flags
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_that_are_not_given_give_nothing() {
        let Command::Seed(seed) = Cli::try_parse_from(["oar-tiles", "seed"]).unwrap().command else { panic!() };
        assert_eq!(seed.given.flags(), []);
        let arguments = [
            "oar-tiles",
            "seed",
            "--bbox",
            "-10,-5,10,5",
            "--bbox=170,-50,-170,50",
            "--zoom",
            "0-2,5",
            "--progress",
            "json",
        ];
        let Command::Seed(seed) = Cli::try_parse_from(arguments).unwrap().command else { panic!() };
        let flags: Vec<String> =
            seed.given.flags().iter().map(|(flag, key, value)| format!("{flag} {key} {value}")).collect();
        assert_eq!(
            flags,
            [
                "--zoom tileset.zoom \"0-2,5\"",
                "--bbox tileset.bbox [\"-10,-5,10,5\", \"170,-50,-170,50\"]",
                "--progress run.progress \"json\""
            ]
        );
    }
}
