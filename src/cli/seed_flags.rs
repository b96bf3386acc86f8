//! The flags of `oar-tiles seed` and `oar-tiles reseed`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};

use super::SettingFlags;
use crate::run::reseed::{ReseedOptions, SeedInstead};
use crate::run::{CommandError, DirtyFilter, TileList, TilesWanted, area, area_or_boxes};

/// `oar-tiles seed`.
#[derive(Debug, Args)]
pub(crate) struct Seed {
    /// Flags that override the configuration.
    #[command(flatten)]
    pub given: SettingFlags,
    /// Draw these tables instead of the configuration's layers, as init would write them: a name, schema.name, or a
    /// pattern with * and ?; repeat the flag for several. A function f(z, x, y) is drawn if it is named without a
    /// pattern
    #[arg(long, value_name = "GLOB", action = ArgAction::Append)]
    pub table: Vec<String>,
    /// Only tiles that this area touches: a GeoJSON file with polygons, or W,S,E,N
    #[arg(long, value_name = "AREA", allow_hyphen_values = true, conflicts_with = "bbox")]
    pub(crate) area: Option<String>,
    /// Print the plan with estimated sizes and times; write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Seed in parts that are kept beside the target: if the seed is killed, the same command goes on with the
    /// missing ones. Without a change log it starts over
    #[arg(long, conflicts_with_all = ["dry_run", "variant", "prune_variants"])]
    pub(crate) resume: bool,
    /// With --resume: into how many parts a new seed is cut [default: one for each minute of work]
    #[arg(long, value_name = "N", requires = "resume", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) parts: Option<u32>,
    /// Then show the result on a map in the browser, as preview does, until Ctrl-C
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) preview: bool,
    /// Overwrite the target even if it holds another tileset or was made by another program
    #[arg(long)]
    pub force: bool,
    /// Publish even if the target would lose more tiles or rows than max_shrink in the configuration allows
    #[arg(long)]
    pub(crate) allow_shrink: bool,
    /// Delete the targets of variants whose values are gone
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) prune_variants: bool,
    /// Seed this variant alone, by the value in its output (values joined by / if there are several), and leave the
    /// others as they are; repeat the flag for several. Jobs for different variants may run at once
    #[arg(long, value_name = "VALUE", action = ArgAction::Append, conflicts_with_all = ["table", "prune_variants", "preview"])]
    pub(crate) variant: Vec<String>,
    /// After publishing, list the tiles that changed in FILE: .json, .geojson, else a line z/x/y for each; only * if
    /// that is not known
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub(crate) changed_out: Option<PathBuf>,
    /// Also write the closing table (or the plan) as JSON
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Also write when and how the run ended, as a text file for Prometheus' node exporter
    #[arg(long, value_name = "FILE.prom", conflicts_with = "dry_run")]
    pub metrics: Option<PathBuf>,
    /// Log more (-v: what the run decides; -vv: how each layer is read, and every statement that is retried)
    #[arg(long, short, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Show warnings and errors only: no progress, no closing table
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles reseed`.
#[derive(Debug, Args)]
pub(crate) struct Reseed {
    /// Flags that override the configuration; `--zoom` and `--bbox` limit which tiles are rendered.
    #[command(flatten)]
    pub given: SettingFlags,
    /// Print how many tiles would be rendered, and why; write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// If the target needs a full seed, seed it with its own zooms and boxes; without this flag reseed ends with exit
    /// code 4
    #[arg(long)]
    pub(crate) or_seed: bool,
    /// Publish even if the target would lose more tiles or rows than max_shrink in the configuration allows
    #[arg(long)]
    pub(crate) allow_shrink: bool,
    /// Delete the targets of variants whose values are gone
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) prune_variants: bool,
    /// Render these tiles instead of those that changed: a file with a line z/x/y for each, - for standard input, or
    /// postgresql:TABLE, a table with the columns zoom, x and y (osm2pgsql)
    #[arg(long, value_name = "FILE", conflicts_with = "area")]
    pub tiles: Option<PathBuf>,
    /// With --tiles: also render the tiles of lower zooms that contain them
    #[arg(long, requires = "tiles")]
    pub(crate) parents: bool,
    /// With --tiles: also render the tiles of higher zooms within them
    #[arg(long, requires = "tiles")]
    pub(crate) children: bool,
    /// Render this area instead of the tiles that changed: W,S,E,N or a GeoJSON file with polygons; repeat the flag for
    /// several areas
    #[arg(long, value_name = "AREA", allow_hyphen_values = true, action = ArgAction::Append)]
    pub(crate) area: Vec<String>,
    /// Before publishing, list the tiles to render in FILE: .json, .geojson, else a line z/x/y for each; only * before
    /// a full seed
    #[arg(long, value_name = "FILE")]
    pub(crate) dirty_out: Option<PathBuf>,
    /// After publishing, list the tiles that changed in FILE: .json, .geojson, else a line z/x/y for each; only * if
    /// that is not known
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    pub(crate) changed_out: Option<PathBuf>,
    /// Keep running, and render again whenever something changes
    #[arg(long, conflicts_with_all = ["dry_run", "tiles", "area"])]
    pub watch: bool,
    /// With --watch: how long to collect further changes after the first one, such as 500ms [config: changes.debounce]
    #[arg(long, value_name = "TIME", requires = "watch", value_parser = humantime::parse_duration)]
    pub(crate) debounce: Option<Duration>,
    /// With --watch: how often to look for changes even without a notification, such as 30s [config: changes.poll]
    #[arg(long, value_name = "TIME", requires = "watch", value_parser = humantime::parse_duration)]
    pub poll: Option<Duration>,
    /// Also write the closing table (or the plan) as JSON
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Also write when and how the run ended, as a text file for Prometheus' node exporter; with --watch after each
    /// publish
    #[arg(long, value_name = "FILE.prom", conflicts_with = "dry_run")]
    pub metrics: Option<PathBuf>,
    /// Log more (-v: what the run decides; -vv: how each layer is read, and every statement that is retried)
    #[arg(long, short, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Show warnings and errors only: no progress, no closing table
    #[arg(long, short)]
    pub quiet: bool,
}

pub(crate) fn reseed_options(arguments: &Reseed) -> Result<ReseedOptions, CommandError> {
    let tiles = match (&arguments.tiles, &*arguments.area) {
        (Some(path), _) => {
            TilesWanted::List(TileList { path: path.clone(), parents: arguments.parents, children: arguments.children })
        }
        (None, []) => TilesWanted::Changed,
        (None, areas) => {
            TilesWanted::Area(areas.iter().map(|text| area(text)).collect::<Result<Vec<_>, _>>()?.concat())
        }
    };
    let (zoom, bbox) = (arguments.given.zoom.clone(), area_or_boxes(None, &arguments.given.bbox)?);
    Ok(ReseedOptions {
        filter: DirtyFilter { tiles, zoom, bbox, ..DirtyFilter::default() },
        dry_run: arguments.dry_run,
        seeds: if arguments.or_seed { SeedInstead::WhereNeeded } else { SeedInstead::Never },
        dirty_out: arguments.dirty_out.clone(),
        ..ReseedOptions::default()
    })
}
