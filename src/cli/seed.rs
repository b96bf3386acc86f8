//! The flags of `seed` and `reseed`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::SettingFlags;
use crate::changes::Cursor;

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
    /// Publish even if the target would lose more tiles or rows than max_shrink in the configuration allows
    #[arg(long)]
    pub allow_shrink: bool,
    /// Delete the targets of variants whose values are gone
    #[arg(long, conflicts_with = "dry_run")]
    pub prune_variants: bool,
    /// Seed this variant alone, by the value in its output (values joined by / if there are several), and leave the others as they are; repeat the flag for several. Jobs for different variants may run at once
    #[arg(long, value_name = "VALUE", action = ArgAction::Append, conflicts_with_all = ["table", "prune_variants", "preview"])]
    pub variant: Vec<String>,
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
    /// Publish even if the target would lose more tiles or rows than max_shrink in the configuration allows
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
