//! `oar-tiles seed` and `oar-tiles reseed`.

use tokio::runtime::Handle;

use super::closing::{ClosingFiles, first_failure, noted, style};
use super::init::drafted_settings;
use super::on_runtime;
use super::seed_flags::{Reseed, Seed, reseed_options};
use super::serve::preview;
use super::settings::{resolved_to_draw, several_tilesets};
use super::tilesets::{file_of, for_all, for_each, have_own_files};
use super::variants::{not_for_variants, reseed_variants, seed_variants};
use crate::config::{ConfigError, Settings};
use crate::report::{
    ReseedReport, RunMetrics, Style, render_dirty, render_plan, render_reseed, render_run, report, start_log,
};
use crate::run::reseed::{PublishedFigures, ReseedOptions, ReseedOutcome};
use crate::run::{CommandError, Family, SharedSnapshot, TilesetRun, reseed, seed, shards};
use crate::shards::ShardsError;
use crate::stop::Stop;
use crate::target::MaxShrink;

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
fn has_variants(tilesets: &[Settings]) -> Result<(), CommandError> {
    match tilesets {
        [one] if one.tileset.variants.is_some() => Ok(()),
        [one] => Err(ConfigError::NoVariants { tileset: one.tileset.name.clone() }.into()),
        several => Err(several_tilesets("--variant", several.to_vec())),
    }
}

/// Refuses what `--resume` cannot seed in parts.
fn can_be_resumed(tilesets: &[Settings]) -> Result<(), CommandError> {
    let [one] = tilesets else { return Err(several_tilesets("--resume", tilesets.to_vec())) };
    not_for_variants(one, "--resume", "a seed of all variants begins again; seed some of them with --variant VALUE")?;
    match one.tileset.layers.iter().find(|layer| layer.section.refresh()) {
        Some(layer) => Err(ShardsError::RefreshesInParts { layer: layer.name.clone() }.into()),
        None => Ok(()),
    }
}

/// The settings. If `allowed`, the run may delete any number of tiles.
fn shrinking(mut settings: Settings, allowed: bool) -> Settings {
    if allowed {
        settings.tileset.max_shrink = MaxShrink::ALL;
    }
    settings
}

/// Seeds one tileset.
async fn seed_one(
    arguments: &Seed,
    settings: Settings,
    snapshot: Option<&SharedSnapshot>,
    stop: &Stop,
) -> Result<(), CommandError> {
    let style = style(&settings, arguments.quiet);
    let changed_out = file_of(arguments.changed_out.as_ref(), &settings.tileset.name);
    let files = ClosingFiles { report: &arguments.report, metrics: &arguments.metrics };
    let (closing, mut metrics) = files.begin("seed", &settings, style, &settings.tileset.output)?;
    let run = async || {
        let tileset_run = TilesetRun::new(settings, arguments.force, &report(style), stop)?
            .with_changed_out(changed_out.as_deref())?;
        let tileset_run = match snapshot {
            Some(snapshot) => tileset_run.with_snapshot(snapshot),
            None => tileset_run,
        };
        if arguments.dry_run {
            let plan = seed::plan_seed(&tileset_run).await?;
            return closing.show(&render_plan(&plan), &plan);
        }
        let done = if arguments.resume {
            Box::pin(shards::resume(&tileset_run, arguments.parts)).await?
        } else {
            seed::seed(&tileset_run).await?
        };
        // The target is published: whatever fails from here on keeps nothing else from being tried.
        let shown = closing.show(&render_run(&done), &done);
        metrics.wrote(done.written, done.bytes);
        let purged = tileset_run.purge_published(false).await.map(drop);
        let noted = note_purges(&mut metrics, &tileset_run).await;
        first_failure([purged, seed::check_complete(&done), noted, shown, tileset_run.changed_out.result()])
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
    let reseed = async |settings: Settings| {
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
    settings: Settings,
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
        let tileset_run =
            TilesetRun::new(settings, false, &report(style), stop)?.with_changed_out(changed_out.as_deref())?;
        if arguments.watch {
            return reseed::watch(&tileset_run, &options, |outcome| {
                let noted =
                    tokio::task::block_in_place(|| Handle::current().block_on(note_purges(&mut metrics, &tileset_run)));
                first_failure([tileset_run.changed_out.result(), noted, note_watched(&mut metrics, outcome)])
            })
            .await;
        }
        let outcome = reseed::reseed(&tileset_run, &options).await?;
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
        let purged = tileset_run.purge_published(false).await.map(drop);
        let noted = note_purges(&mut metrics, &tileset_run).await;
        first_failure([purged, outcome.check_complete(), noted, shown, tileset_run.changed_out.result()])
    };
    let ended = run().await;
    noted(&metrics, ended, stop)
}

/// Writes the purges that wait into the file of `--metrics`.
async fn note_purges(metrics: &mut RunMetrics, tileset_run: &TilesetRun) -> Result<(), CommandError> {
    if metrics.is_wanted() && !tileset_run.settings.tileset.purges.is_empty() {
        metrics.purges(&tileset_run.outbox().await?);
    }
    Ok(())
}

/// Writes one outcome of a watch into the file of `--metrics`.
fn note_watched(metrics: &mut RunMetrics, outcome: &ReseedOutcome) -> Result<(), CommandError> {
    let noted = match outcome.published() {
        Some(PublishedFigures { written, bytes, took }) => metrics.published(written, bytes, took),
        None => metrics.unchanged(),
    };
    noted.map_err(CommandError::from)
}
