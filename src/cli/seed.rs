//! `oar-tiles seed` and `oar-tiles reseed`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use tokio::runtime::Handle;

use super::init::drafted_settings;
use super::serve::preview;
use super::settings::{first_failure, noted, reseed_options, resolved_to_draw, several_tilesets, style};
use super::tilesets::{file_of, for_all, for_each, have_own_files};
use super::variants::{ClosingFiles, not_for_variants, reseed_variants, seed_variants};
use super::{SettingFlags, on_runtime};
use crate::config::{ConfigError, JobSettings};
use crate::report::{
    ReseedReport, RunMetrics, Style, render_dirty, render_plan, render_reseed, render_run, report, start_log,
};
use crate::run::reseed::{PublishedTiles, ReseedOptions, ReseedOutcome};
use crate::run::{CommandError, Family, Job, SharedSnapshot, reseed, seed, shards};
use crate::shards::ShardsError;
use crate::stop::Stop;
use crate::target::MaxShrink;

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

// `seed` and `reseed`.

pub(crate) fn run_seed(arguments: &Seed, stop: &Stop) -> Result<(), CommandError> {
    start_log(arguments.verbose);
    let mut given = arguments.given.clone();
    given.more.extend(arguments.area.iter().map(|area| ("--area", "tileset.area", area.as_str().into())));
    let tilesets = if arguments.table.is_empty() {
        resolved_to_draw(&given, !arguments.dry_run)?
    } else {
        vec![drafted_settings(arguments, &given, stop)?]
    };
    if !arguments.variant.is_empty() {
        has_variants(&tilesets)?;
    }
    have_own_files(
        &tilesets,
        &[
            ("--report", arguments.report.as_deref()),
            ("--metrics", arguments.metrics.as_deref()),
            ("--changed-out", arguments.changed_out.as_deref()),
        ],
    )?;
    let shown = tilesets.first().filter(|_| arguments.preview).cloned();
    if shown.is_some() && tilesets.len() > 1 {
        return Err(several_tilesets("--preview", tilesets));
    }
    if let Some(shown) = &shown {
        not_for_variants(shown, "--preview", "run oar-tiles preview with the output of one variant")?;
    }
    if arguments.resume {
        can_be_resumed(&tilesets)?;
    }
    let layers = tilesets.iter().filter(|_| !arguments.dry_run).flat_map(|settings| &settings.tileset.layers);
    let snapshot = SharedSnapshot::after_refreshing(layers.cloned());
    let snapshot = snapshot.sharing_rows_of(&tilesets);
    let is_shared = tilesets.len() > 1;
    on_runtime(async || {
        for_each(tilesets, arguments.quiet, stop, async |settings| {
            let settings = shrinking(settings, arguments.allow_shrink);
            if let Some(family) = Family::of(&settings) {
                return Box::pin(seed_variants(arguments, family, &snapshot, stop)).await;
            }
            let snapshot = is_shared.then_some(&snapshot);
            Box::pin(seed_one(arguments, settings, snapshot, stop)).await
        })
        .await
    })?;
    match shown {
        Some(settings) => preview(settings, stop),
        None => Ok(()),
    }
}

/// Refuses `--variant` unless it names variants of one tileset.
fn has_variants(tilesets: &[JobSettings]) -> Result<(), CommandError> {
    match tilesets {
        [one] if one.tileset.variants.is_some() => Ok(()),
        [one] => Err(ConfigError::NoVariants { tileset: one.tileset.name.clone() }.into()),
        several => Err(several_tilesets("--variant", several.to_vec())),
    }
}

/// Refuses what `--resume` cannot seed in parts.
fn can_be_resumed(tilesets: &[JobSettings]) -> Result<(), CommandError> {
    let [one] = tilesets else { return Err(several_tilesets("--resume", tilesets.to_vec())) };
    not_for_variants(one, "--resume", "a seed of all variants begins again; seed some of them with --variant VALUE")?;
    match one.tileset.layers.iter().find(|layer| layer.section.refresh()) {
        Some(layer) => Err(ShardsError::RefreshesInParts { layer: layer.name.clone() }.into()),
        None => Ok(()),
    }
}

/// The settings. If `allowed`, the run may delete any number of tiles.
fn shrinking(mut settings: JobSettings, allowed: bool) -> JobSettings {
    if allowed {
        settings.tileset.max_shrink = MaxShrink::ALL;
    }
    settings
}

/// Seeds one tileset.
async fn seed_one(
    arguments: &Seed,
    settings: JobSettings,
    snapshot: Option<&SharedSnapshot>,
    stop: &Stop,
) -> Result<(), CommandError> {
    let style = style(&settings, arguments.quiet);
    let changed_out = file_of(arguments.changed_out.as_ref(), &settings.tileset.name);
    let files = ClosingFiles { report: &arguments.report, metrics: &arguments.metrics };
    let (closing, mut metrics) = files.begin("seed", &settings, style, &settings.tileset.output)?;
    let run = async || {
        let job =
            Job::new(settings, arguments.force, &report(style), stop)?.with_changed_out(changed_out.as_deref())?;
        let job = match snapshot {
            Some(snapshot) => job.sharing(snapshot),
            None => job,
        };
        if arguments.dry_run {
            let plan = seed::plan_seed(&job).await?;
            return closing.show(&render_plan(&plan), &plan);
        }
        let done = if arguments.resume {
            Box::pin(shards::resume(&job, arguments.parts)).await?
        } else {
            seed::seed(&job).await?
        };
        // The target is published: whatever fails from here on keeps nothing else from being tried.
        let shown = closing.show(&render_run(&done), &done);
        metrics.wrote(done.written, done.bytes);
        let purged = job.purge_published(false).await.map(drop);
        let noted = note_purges(&mut metrics, &job).await;
        first_failure([purged, seed::complete(&done), noted, shown, job.changed_out.result()])
    };
    let ended = run().await;
    noted(&metrics, ended, stop)
}

pub(crate) fn run_reseed(arguments: &Reseed, stop: &Stop) -> Result<(), CommandError> {
    start_log(arguments.verbose);
    let mut tilesets = resolved_to_draw(&arguments.given, true)?;
    for changes in tilesets.iter_mut().map(|settings| &mut settings.database.changes) {
        changes.debounce = arguments.debounce.map_or(changes.debounce, Into::into);
        changes.poll = arguments.poll.map_or(changes.poll, Into::into);
    }
    have_own_files(
        &tilesets,
        &[
            ("--report", arguments.report.as_deref()),
            ("--metrics", arguments.metrics.as_deref()),
            ("--dirty-out", arguments.dirty_out.as_deref()),
            ("--changed-out", arguments.changed_out.as_deref()),
        ],
    )?;
    let options = reseed_options(arguments)?;
    let reseed = async |settings: JobSettings| {
        let settings = shrinking(settings, arguments.allow_shrink);
        if let Some(family) = Family::of(&settings) {
            return Box::pin(reseed_variants(arguments, family, stop)).await;
        }
        Box::pin(reseed_one(arguments, &options, settings, stop)).await
    };
    on_runtime(async || {
        if arguments.watch && tilesets.len() > 1 {
            return for_all(tilesets, stop, reseed).await;
        }
        for_each(tilesets, arguments.quiet, stop, reseed).await
    })
}

/// Brings the target of one tileset up to date.
async fn reseed_one(
    arguments: &Reseed,
    options: &ReseedOptions,
    settings: JobSettings,
    stop: &Stop,
) -> Result<(), CommandError> {
    let style = match style(&settings, arguments.quiet) {
        // A bar that repeatedly shows for a few milliseconds is useless.
        Style::Auto | Style::Bar | Style::Lines if arguments.watch => Style::Warnings,
        style => style,
    };
    let (name, output) = (&settings.tileset.name, settings.tileset.output.clone());
    let changed_out = file_of(arguments.changed_out.as_ref(), name);
    let options = ReseedOptions { dirty_out: file_of(arguments.dirty_out.as_ref(), name), ..options.clone() };
    let files = ClosingFiles { report: &arguments.report, metrics: &arguments.metrics };
    let (closing, mut metrics) = files.begin("reseed", &settings, style, &output)?;
    let run = async || {
        let job = Job::new(settings, false, &report(style), stop)?.with_changed_out(changed_out.as_deref())?;
        if arguments.watch {
            return reseed::watch(&job, &options, |outcome| {
                let noted = tokio::task::block_in_place(|| Handle::current().block_on(note_purges(&mut metrics, &job)));
                first_failure([job.changed_out.result(), noted, note_watched(&mut metrics, outcome)])
            })
            .await;
        }
        let outcome = reseed::reseed(&job, &options).await?;
        // The target is published: whatever fails from here on keeps nothing else from being tried.
        let shown = match &outcome {
            ReseedOutcome::Nothing => {
                let nothing = ReseedReport::nothing(output.display().to_string());
                closing.show(&render_reseed(&nothing), &nothing)
            }
            ReseedOutcome::Planned(plan) => closing.show(&render_dirty(plan), plan),
            ReseedOutcome::Done(done) => closing.show(&render_reseed(done), done),
            ReseedOutcome::Seeded(done) => closing.show(&render_run(done), done),
        };
        if arguments.dry_run {
            return shown;
        }
        let published = outcome.published();
        metrics.wrote(published.map_or(0, |tiles| tiles.written), published.map_or(0, |tiles| tiles.bytes));
        // Also if nothing changed, because an earlier run may have left something in the outbox.
        let purged = job.purge_published(false).await.map(drop);
        let noted = note_purges(&mut metrics, &job).await;
        first_failure([purged, outcome.complete(), noted, shown, job.changed_out.result()])
    };
    let ended = run().await;
    noted(&metrics, ended, stop)
}

/// Writes the purges that wait into the file of `--metrics`.
async fn note_purges(metrics: &mut RunMetrics, job: &Job) -> Result<(), CommandError> {
    if metrics.is_wanted() && !job.settings.tileset.purges.is_empty() {
        metrics.purges(&job.outbox().await?);
    }
    Ok(())
}

/// Writes one outcome of a watch into the file of `--metrics`.
fn note_watched(metrics: &mut RunMetrics, outcome: &ReseedOutcome) -> Result<(), CommandError> {
    let noted = match outcome.published() {
        Some(PublishedTiles { written, bytes, took }) => metrics.published(written, bytes, took),
        None => metrics.unchanged(),
    };
    noted.map_err(CommandError::from)
}
