//! Flags as typed. Nothing is decided here: "not given" stays `None`.

mod config;
mod copy;
mod diff;
mod doctor;
mod help;
mod init;
mod jobs;
mod publish;
mod purge;
mod serve;
mod shards;
mod shell;
mod track;

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::changes::Cursor;
use crate::config::{Flag, Progress};
use crate::tile::{LonLatBox, ZoomList};

pub use config::ConfigFlags;
pub use copy::Copy;
pub use diff::Diff;
pub use doctor::Doctor;
pub use help::command;
pub use init::Init;
pub use jobs::{Jobs, JobsOne, JobsServer, JobsSubmit, JobsWork};
pub use publish::Publish;
pub use purge::{Purge, PurgeStatusFlags, PurgeVerb, PurgeWhat};
pub use serve::{EmptyStatusFlag, Preview, Serve};
pub use shards::{Shards, ShardsAbort, ShardsBegin, ShardsCommit, ShardsRun, ShardsStatusFlags, ShardsWork};
pub use shell::{Completions, Man};
pub use track::{Track, TrackInstall, TrackPrune, TrackRemove, TrackStatus, Tracked};

/// What `--version` prints: the number, and in a release build the commit and its date (`build.rs`).
pub const VERSION: &str = env!("BUILD_VERSION");

/// Pregenerates static vector tiles from PostGIS: all zooms in seconds, from one snapshot of the database
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Parser)]
#[command(name = "oar-tiles", version = VERSION, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// Form of the log on standard error: plain, timed (time and level before each line), json, or auto: plain on a terminal, timed elsewhere [env: OAR_TILES_LOG]
    #[arg(long, global = true, value_name = "FORM", value_enum, hide_possible_values = true, display_order = 900)]
    pub log: Option<LogFlag>,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFlag {
    /// Plain on a terminal, timed elsewhere
    Auto,
    /// The text alone
    Plain,
    /// Time and level before each line
    Timed,
    /// A JSON object a line
    Json,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look for tables with a geometry in a database, and write a configuration for them
    Init(Init),
    /// Render every tile in which a feature falls, at all zooms, into the target
    Seed(Seed),
    /// Bring a target up to date: render only the tiles that changed since its snapshot
    Reseed(Reseed),
    /// Seed on several machines: cut a seed into shards that a scheduler runs, and publish them together
    #[command(subcommand)]
    Shards(Shards),
    /// List the versions of a target, or switch clients to another version
    Publish(Publish),
    /// Tell CDNs which tiles changed: what waits since the last publish, or what is named
    Purge(Purge),
    /// Check a target: structure, counts and tiles; with --database also compare it with the database
    Verify(Verify),
    /// Show what a target holds, or what one of its tiles holds
    Inspect(Inspect),
    /// Copy the tiles of a target, byte for byte, to another target of any kind
    Copy(Copy),
    /// Compare the tiles of two targets of any kinds; exit code 1 if they differ
    Diff(Diff),
    /// Serve a target over HTTP: tiles, TileJSON, metrics
    Serve(Serve),
    /// Show a target on a map in the browser; no database is needed
    Preview(Preview),
    /// Set up and look after the change log in the database, which tells reseed what changed
    #[command(subcommand)]
    Track(Track),
    /// Submit jobs to a server that writes its target, and look after them
    #[command(subcommand)]
    Jobs(Jobs),
    /// Print the settings and where each value came from, or check them
    Config(ConfigFlags),
    /// Look for what stands in the way of runs, or will one day, in the database, the change log and the target
    Doctor(Doctor),
    /// Print what a shell needs to complete commands and flags
    Completions(Completions),
    /// Print the manual page, or write the pages of all commands into a folder
    Man(Man),
}

/// Flags that override the configuration.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[derive(Debug, Clone, Default, Args)]
pub struct SettingFlags {
    /// Configuration file; sample-config.toml shows every key [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Database, as a URL or a key=value string [env: DATABASE_URL, PG*]
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Zooms, such as 0-14, 7 or 0-4,8,10-12 [env: OAR_TILES_ZOOM]
    #[arg(long, value_name = "LIST")]
    pub zoom: Option<ZoomList>,
    /// Box in degrees; repeat the flag for several boxes; a box with west > east crosses 180° [env: OAR_TILES_BBOX]
    #[arg(long, value_name = "W,S,E,N", allow_hyphen_values = true, action = ArgAction::Append)]
    pub bbox: Vec<LonLatBox>,
    /// Target: file.mbtiles, file.pmtiles, directory/, s3://bucket/prefix/ or s3://bucket/file.pmtiles [env: OAR_TILES_OUTPUT]
    #[arg(long, short, value_name = "TARGET")]
    pub output: Option<PathBuf>,
    /// URL under which clients find a directory or bucket, such as https://host/path; tiles.json refers to it [env: OAR_TILES_PUBLIC_URL]
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Use only this layer; repeat the flag for several layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// Only this tileset, if the configuration has several; repeat the flag for several tilesets [default: all]
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub tileset: Vec<String>,
    /// Database sessions that render in parallel; 0: one for each CPU [env: OAR_TILES_WORKERS]
    #[arg(long, value_name = "N")]
    pub workers: Option<u16>,
    /// How to show progress [env: OAR_TILES_PROGRESS]
    #[arg(long, value_name = "STYLE")]
    pub progress: Option<Progress>,
    /// The settings that flags of one verb give.
    #[arg(skip)]
    pub more: Vec<Flag>,
}

/// `oar-tiles seed`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[expect(clippy::struct_excessive_bools, reason = "flags as typed; which go together is told to clap")]
#[derive(Debug, Args)]
pub struct Seed {
    /// Flags that override the configuration.
    #[command(flatten)]
    pub given: SettingFlags,
    /// Draw these tables instead of the configuration's layers, as init would write them: a name, schema.name, or a pattern with * and ?; repeat the flag for several. A function f(z, x, y) is drawn if it is named without a pattern
    #[arg(long, value_name = "GLOB", action = ArgAction::Append)]
    pub table: Vec<String>,
    /// Only tiles that this area touches: a GeoJSON file with polygons, or W,S,E,N
    #[arg(long, value_name = "AREA", allow_hyphen_values = true, conflicts_with = "bbox")]
    pub area: Option<String>,
    /// Print the plan with estimated sizes and times; write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Then show the result on a map in the browser, as preview does, until Ctrl-C
    #[arg(long, conflicts_with = "dry_run")]
    pub preview: bool,
    /// Overwrite the target even if it holds another tileset or was made by another program
    #[arg(long)]
    pub force: bool,
    /// Publish even if the target would lose more tiles than max_shrink in the configuration allows
    #[arg(long)]
    pub allow_shrink: bool,
    /// Delete the targets of variants whose values are gone
    #[arg(long, conflicts_with = "dry_run")]
    pub prune_variants: bool,
    /// After publishing, list the tiles that changed in FILE: .json, .geojson, else a line z/x/y for each; only * if that is not known
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub changed_out: Option<PathBuf>,
    /// Also write the closing table (or the plan) as JSON
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Also write when and how the run ended, as a text file for Prometheus' node exporter
    #[arg(long, value_name = "FILE.prom", conflicts_with = "dry_run")]
    pub metrics: Option<PathBuf>,
    /// Log more (-v: what the run decides; -vv: how each layer is read, and every statement that is retried)
    #[arg(long, short, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Show warnings and errors only: no progress, no closing table
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles reseed`.
#[expect(clippy::doc_markdown, reason = "these texts are the help that users read")]
#[expect(clippy::struct_excessive_bools, reason = "flags as typed; which go together is told to clap")]
#[derive(Debug, Args)]
pub struct Reseed {
    /// Flags that override the configuration; `--zoom` and `--bbox` limit which tiles are rendered.
    #[command(flatten)]
    pub given: SettingFlags,
    /// Print how many tiles would be rendered, and why; write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// If the target needs a full seed, seed it with its own zooms and boxes; without this flag reseed ends with exit code 4
    #[arg(long)]
    pub or_seed: bool,
    /// Publish even if the target would lose more tiles than max_shrink in the configuration allows
    #[arg(long)]
    pub allow_shrink: bool,
    /// Delete the targets of variants whose values are gone
    #[arg(long, conflicts_with = "dry_run")]
    pub prune_variants: bool,
    /// Render these tiles instead of those that changed: a file with a line z/x/y for each, - for standard input, or postgresql:TABLE, a table with the columns zoom, x and y (osm2pgsql)
    #[arg(long, value_name = "FILE", conflicts_with = "area")]
    pub tiles: Option<PathBuf>,
    /// With --tiles: also render the tiles of lower zooms that contain them
    #[arg(long, requires = "tiles")]
    pub parents: bool,
    /// With --tiles: also render the tiles of higher zooms within them
    #[arg(long, requires = "tiles")]
    pub children: bool,
    /// Render this area instead of the tiles that changed: W,S,E,N or a GeoJSON file with polygons; repeat the flag for several areas
    #[arg(long, value_name = "AREA", allow_hyphen_values = true, action = ArgAction::Append)]
    pub area: Vec<String>,
    /// Render what changed since this snapshot (pg_current_snapshot()) instead of the target's snapshot
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["tiles", "area"])]
    pub since: Option<Cursor>,
    /// Before publishing, list the tiles to render in FILE: .json, .geojson, else a line z/x/y for each; only * before a full seed
    #[arg(long, value_name = "FILE")]
    pub dirty_out: Option<PathBuf>,
    /// After publishing, list the tiles that changed in FILE: .json, .geojson, else a line z/x/y for each; only * if that is not known
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub changed_out: Option<PathBuf>,
    /// Keep running, and render again whenever something changes
    #[arg(long, conflicts_with_all = ["dry_run", "tiles", "area", "since"])]
    pub watch: bool,
    /// With --watch: how long to collect further changes after the first one, such as 500ms [config: changes.debounce]
    #[arg(long, value_name = "TIME", requires = "watch", value_parser = humantime::parse_duration)]
    pub debounce: Option<Duration>,
    /// With --watch: how often to look for changes even without a notification, such as 30s [config: changes.poll]
    #[arg(long, value_name = "TIME", requires = "watch", value_parser = humantime::parse_duration)]
    pub poll: Option<Duration>,
    /// Also write the closing table (or the plan) as JSON
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Also write when and how the run ended, as a text file for Prometheus' node exporter; with --watch after each publish
    #[arg(long, value_name = "FILE.prom", conflicts_with = "dry_run")]
    pub metrics: Option<PathBuf>,
    /// Log more (-v: what the run decides; -vv: how each layer is read, and every statement that is retried)
    #[arg(long, short, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Show warnings and errors only: no progress, no closing table
    #[arg(long, short)]
    pub quiet: bool,
}

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

impl SettingFlags {
    /// The settings that were given as flags, by key.
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
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
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
