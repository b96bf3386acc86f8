//! `reseed --or-seed`: seeds a target that cannot be brought up to date.

use super::{ReseedOptions, ReseedOutcome};
use crate::config::JobSettings;
use crate::report::Event;
use crate::run::attempts::reading;
use crate::run::look::TargetState;
use crate::run::look::dirty_file::{DirtyScope, write_changed, write_everything};
use crate::run::seed::seed_target;
use crate::run::{CommandError, Job, OTHER_HISTORY};
use crate::sink::ChangedTiles;
use crate::tile::Order;

/// Seeds the target, for the reason in `error`.
pub(super) async fn seed_instead(
    job: &Job,
    options: &ReseedOptions,
    error: &CommandError,
) -> Result<ReseedOutcome, CommandError> {
    let why = match error {
        CommandError::NeedsSeed { target, why } => format!("{target} needs a full seed: {why}"),
        CommandError::OtherHistory { target } => format!("{target} needs a full seed: {OTHER_HISTORY}"),
        other => other.to_string(),
    };
    job.report.event(&Event::Warning { message: format!("{why}: seeding it") });
    let seeds = seeds(job, options).await?;
    // Written before the first tile, because a seed that fails half-way may have changed any tile.
    let scope = match &seeds[..] {
        [first, others @ ..] => DirtyScope::of(first, others),
        [] => DirtyScope::of(&job.settings, &[]),
    };
    write_everything(options.dirty_out.as_deref(), &scope)?;
    // With several seeds the list of changes cannot be exact, because each may change tiles that another has already changed.
    let is_alone = seeds.len() == 1;
    let each = Job { changed_out: job.changed_out.clone().filter(|_| is_alone), ..job.clone() };
    let mut seeded = None;
    for settings in seeds {
        seeded = Some(seed_target(&each.with_settings(settings)).await?);
    }
    if !is_alone {
        let mut changed = ChangedTiles::new(Order::ZoomColumnTmsRow);
        changed.declare_everything("parts of the target were seeded one after the other");
        write_changed(job.changed_out.as_deref(), Some(&changed), &scope)?;
    }
    Ok(seeded.map_or(ReseedOutcome::Nothing, |done| ReseedOutcome::Seeded(Box::new(done))))
}

/// The settings of the seeds that bring the target up to date. They have the target's own zooms and boxes, unless flags give others.
async fn seeds(job: &Job, options: &ReseedOptions) -> Result<Vec<JobSettings>, CommandError> {
    let as_configured = || Ok(vec![job.settings.clone()]);
    if options.filter.is_narrowed() {
        return as_configured();
    }
    let (target, settings) = (job.target.clone(), job.settings.clone());
    let own =
        reading(&job.stop, move || TargetState::read(&target).map(|state| state.settings_to_seed(&settings, &target)));
    match own.await {
        Err(CommandError::Interrupted(signal)) => Err(CommandError::Interrupted(signal)),
        Ok(seeds) => match &seeds?[..] {
            [] => as_configured(),
            seeds => Ok(seeds.to_vec()),
        },
        // A target whose manifest cannot be read is seeded with the zooms and boxes of the settings.
        Err(_unreadable) => as_configured(),
    }
}
