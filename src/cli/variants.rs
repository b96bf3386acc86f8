//! Verbs on a tileset with variants.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::closing::{Closing, ClosingFiles, first_failure, noted, style};
use super::seed_flags::{Reseed, Seed, reseed_options};
use super::tilesets::file_of;
use crate::config::Settings;
use crate::report::{Report, RunMetrics, Style, print, render_family, report};
use crate::run::{
    CommandError, Family, FamilyOptions, FamilyOutcome, FamilyWork, SeveralError, SharedSnapshot, family_seed, reseed,
};
use crate::stop::Stop;

/// The report for the events of each variant: thousands of bars would be useless.
fn quiet_report() -> Arc<dyn Report> {
    report(Style::Warnings)
}

/// Seeds the variants of a tileset.
pub(crate) async fn seed_variants(
    arguments: &Seed,
    family: Family,
    snapshot: &SharedSnapshot,
    stop: &Stop,
) -> Result<(), CommandError> {
    refuse(&family, "--changed-out", arguments.changed_out.is_some(), NO_LIST)?;
    let options = FamilyOptions {
        force: arguments.force,
        prunes: arguments.prune_variants,
        dry_run: arguments.dry_run,
        only: arguments.variant.clone(),
        ..FamilyOptions::new(FamilyWork::Seed, quiet_report(), stop, snapshot.clone())
    };
    if arguments.dry_run {
        let planned = Box::pin(family_seed::plan_family(&family, &options)).await?;
        return Ok(print(&planned)?);
    }
    let files = ClosingFiles { report: &arguments.report, metrics: &arguments.metrics };
    let (settings, output) = (family.settings(), family.output());
    let style = style(settings, arguments.quiet);
    let (closing, mut metrics) = files.begin("seed", settings, style, Path::new(&output))?;
    let ended = Box::pin(family_seed::seed_family(&family, &options)).await;
    noted_family(&closing, &mut metrics, ended, stop)
}

/// Brings the variants of a tileset up to date.
pub(crate) async fn reseed_variants(arguments: &Reseed, family: Family, stop: &Stop) -> Result<(), CommandError> {
    let named = "reseed the target of one variant with its own configuration, or seed";
    refuse(&family, "--tiles", arguments.tiles.is_some(), named)?;
    refuse(&family, "--area", !arguments.area.is_empty(), named)?;
    refuse(&family, "--zoom", arguments.given.zoom.is_some(), "leave it out")?;
    refuse(&family, "--bbox", !arguments.given.bbox.is_empty(), "leave it out")?;
    refuse(&family, "--dirty-out", arguments.dirty_out.is_some(), NO_LIST)?;
    refuse(&family, "--changed-out", arguments.changed_out.is_some(), NO_LIST)?;
    if arguments.watch {
        return Box::pin(watch_variants(arguments, &family, stop)).await;
    }
    let refreshed = family.settings().tileset.layers.iter().filter(|_| !arguments.dry_run);
    let snapshot = SharedSnapshot::after_refreshing(refreshed.cloned());
    let options = FamilyOptions {
        prunes: arguments.prune_variants,
        dry_run: arguments.dry_run,
        ..FamilyOptions::new(FamilyWork::Reseed, quiet_report(), stop, snapshot)
    };
    let reseeding = reseed_options(arguments)?;
    let files = ClosingFiles { report: &arguments.report, metrics: &arguments.metrics };
    let (settings, output) = (family.settings(), family.output());
    let style = style(settings, arguments.quiet);
    let (closing, mut metrics) = files.begin("reseed", settings, style, Path::new(&output))?;
    let ended = Box::pin(reseed::reseed_family(&family, &options, &reseeding)).await;
    noted_family(&closing, &mut metrics, ended, stop)
}

/// Keeps the variants of a tileset up to date until a stop is asked for.
async fn watch_variants(arguments: &Reseed, family: &Family, stop: &Stop) -> Result<(), CommandError> {
    let settings = family.settings();
    let style = match style(settings, arguments.quiet) {
        style @ (Style::Json | Style::Quiet) => style,
        _ => Style::Warnings,
    };
    let file = file_of(arguments.metrics.as_ref(), family.name());
    let mut metrics = RunMetrics::begin(file.as_deref(), "reseed", Path::new(&family.output()))?;
    let run = family.tileset_run(&report(style), stop)?;
    let (options, prunes) = (reseed_options(arguments)?, arguments.prune_variants);
    let watching = reseed::watch_family(family, prunes, &run, &options, |done, published| {
        if published {
            let took = Duration::try_from_secs_f64(done.seconds).unwrap_or_default();
            return Ok(metrics.published(done.written, done.bytes, took)?);
        }
        Ok(metrics.unchanged()?)
    });
    let ended = Box::pin(watching).await;
    noted(&metrics, ended, stop)
}

/// A list of changed tiles is always the list of one target.
const NO_LIST: &str = "the notes beside each target have its changed tiles";

/// Shows the outcome of a run.
fn noted_family(
    closing: &Closing,
    metrics: &mut RunMetrics,
    ended: Result<FamilyOutcome, CommandError>,
    stop: &Stop,
) -> Result<(), CommandError> {
    let ended = ended.and_then(|done| {
        let shown = closing.show(&render_family(&done.report), &done.report);
        metrics.wrote(done.report.written, done.report.bytes);
        first_failure([done.complete, shown])
    });
    noted(metrics, ended, stop)
}

/// Refuses a flag that is not available for a family.
fn refuse(family: &Family, what: &'static str, is_given: bool, next: &'static str) -> Result<(), CommandError> {
    if is_given {
        return Err(SeveralError::NotForVariants { what, tileset: family.name().to_owned(), next }.into());
    }
    Ok(())
}

/// Refuses a command or flag for tilesets with variants.
pub(crate) fn not_for_variants(
    settings: &Settings,
    what: &'static str,
    next: &'static str,
) -> Result<(), CommandError> {
    Family::of(settings).map_or(Ok(()), |family| refuse(&family, what, true, next))
}

/// The targets of the tilesets. For variants, they are the ones that the manifests of their families list.
pub(crate) async fn targets_of(tilesets: Vec<Settings>, stop: &Stop) -> Result<Vec<Settings>, CommandError> {
    let mut all = Vec::new();
    for settings in tilesets {
        all.append(&mut settings.targets(&quiet_report(), stop).await?);
    }
    Ok(all)
}

/// The settings of the variant with this output, with the values that the database gives now. If the tileset has no
/// variants, the settings themselves.
pub(crate) async fn variant_of_target(settings: Settings, stop: &Stop) -> Result<Settings, CommandError> {
    match Family::of(&settings) {
        None => Ok(settings),
        Some(family) => family.variant_with_output(&settings.tileset.output, &quiet_report(), stop).await,
    }
}
