//! A reseed of all variants of a tileset, on one snapshot: new values are seeded, the others are brought up to date.

use std::collections::HashSet;

use super::{ReseedOptions, ReseedOutcome, reseed};
use crate::config::{JobSettings, ValueSegment};
use crate::run::describe::budgets;
use crate::run::seed::seed_target;
use crate::run::variants::FamilyRun;
use crate::run::{CommandError, Family, FamilyOptions, FamilyOutcome};

/// Brings every variant of a tileset up to date.
///
/// # Errors
/// If the family was never seeded, or the values cannot be read, or the database is lost. Variants that fail are part of the outcome.
pub async fn reseed_family(
    family: &Family,
    options: &FamilyOptions,
    reseeding: &ReseedOptions,
) -> Result<FamilyOutcome, CommandError> {
    let mut run = FamilyRun::begin(family, options).await?;
    let known: HashSet<Vec<ValueSegment>> = match &run.before {
        // One that had vanished was not kept up to date.
        Some(before) => before
            .record
            .variants
            .iter()
            .filter(|variant| !variant.vanished)
            .map(|variant| variant.segments.clone())
            .collect(),
        None if reseeding.or_seed => HashSet::new(),
        None => return Err(family.needs_seed(&options.report, &options.stop, "its variants were never seeded")?),
    };
    if let Some(all) = run.all.take() {
        one(&mut run, reseeding, all, true).await?;
    }
    for number in 0..run.members.table.rows.len() {
        let table = &run.members.table;
        let settings = family.variant(&table.parameters, &table.rows[number])?;
        let is_known = known.contains(&run.members.segments[number]);
        if !is_known {
            run.tally.report.added.push(settings.tileset.output.display().to_string());
        }
        one(&mut run, reseeding, settings, is_known).await?;
    }
    run.finish().await
}

/// Brings one target up to date, or seeds it if it is new. That it fails does not stop the others.
async fn one(
    run: &mut FamilyRun<'_>,
    options: &ReseedOptions,
    settings: JobSettings,
    is_known: bool,
) -> Result<(), CommandError> {
    let path = settings.tileset.output.clone();
    let output = path.display().to_string();
    let reseeded = async {
        let job = run.targets.job(settings)?;
        let outcome = if options.dry_run && !is_known {
            ReseedOutcome::Nothing
        } else if is_known {
            reseed(&job, options).await?
        } else {
            let done = seed_target(&job).await?;
            budgets::complete(&done.output, &done.failed)?;
            ReseedOutcome::Seeded(Box::new(done))
        };
        if !options.dry_run {
            job.purge_published(false).await?;
        }
        outcome.complete()?;
        Ok(outcome)
    };
    match reseeded.await {
        Ok(ReseedOutcome::Nothing) => {}
        Ok(ReseedOutcome::Planned(plan)) => run.tally.planned(&plan),
        Ok(ReseedOutcome::Done(done)) => {
            run.tally.reseeded(&done);
            let publication = done.manifest.and_then(|manifest| manifest.publication);
            run.published.extend(publication.map(|publication| (path, publication.id)));
        }
        Ok(ReseedOutcome::Seeded(done)) => {
            run.tally.seeded(&done);
            run.published.extend(done.manifest.publication.map(|publication| (path, publication.id)));
        }
        Err(error) => run.tally.failed(output, error, &run.options.stop)?,
    }
    Ok(())
}
