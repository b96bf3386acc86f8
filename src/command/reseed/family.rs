//! A reseed of all variants of a tileset, on one snapshot. Variants with new values are seeded, variants that a change may concern are brought up
//! to date, and the others are skipped.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::try_join_all;

use super::{ReseedOptions, ReseedOutcome, SeedInstead, reseed};
use crate::config::{JobSettings, ValueSegment};
use crate::error::ErrorKind;
use crate::run::attempts::aside;
use crate::run::describe::budgets;
use crate::run::look::TargetState;
use crate::run::seed::seed_target;
use crate::run::variants::{FamilyLook, FamilyRun, VariantState};
use crate::run::{CommandError, Family, FamilyOptions, FamilyOutcome, FamilyWork, Job, Target};

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
        // A variant that had vanished was not kept up to date.
        Some(before) => before
            .record
            .variants
            .iter()
            .filter(|variant| !variant.vanished)
            .map(|variant| variant.segments.clone())
            .collect(),
        None if reseeding.seeds == SeedInstead::WhereNeeded => HashSet::new(),
        None => {
            return Err(family.needs_seed(
                &options.report,
                &options.stop,
                "its variants were never seeded, or some of them could not be",
            )?);
        }
    };
    let look = match Box::pin(run.look()).await {
        // Each variant is then seeded for a reason of its own.
        Err(error) if reseeding.seeds == SeedInstead::WhereNeeded && error.kind() == ErrorKind::NeedsSeed => None,
        look => look?,
    };
    if options.work == FamilyWork::LookAgain
        && look.as_ref().is_some_and(FamilyLook::is_without_changes)
        && let Some(nothing) = run.unchanged()
    {
        return Ok(nothing);
    }
    if let Some(all) = run.all.take() {
        one(&mut run, reseeding, all, true).await?;
    }
    let mut untouched = match look {
        Some(look) => untouched(&run, look, &known).await?,
        None => HashMap::new(),
    };
    for number in 0..run.members.table.rows.len() {
        let table = &run.members.table;
        let settings = family.variant(&table.parameters, &table.rows[number])?;
        if let Some(publication) = untouched.remove(&number) {
            run.published.insert(settings.tileset.output.clone(), publication);
            if !settings.tileset.purges.is_empty() && !reseeding.dry_run {
                tell_cdns(&mut run, settings).await?;
            }
            continue;
        }
        let is_known = known.contains(&run.members.segments[number]);
        if !is_known {
            run.tally.report.added.push(settings.tileset.output.display().to_string());
        }
        one(&mut run, reseeding, settings, is_known).await?;
    }
    run.finish().await
}

/// The variants that no change concerns, with the ids of their publications. Reads their targets, as many in parallel as there are workers.
async fn untouched(
    run: &FamilyRun<'_>,
    look: FamilyLook,
    known: &HashSet<Vec<ValueSegment>>,
) -> Result<HashMap<usize, String>, CommandError> {
    let (family, table, options) = (run.family, &run.members.table, run.options);
    let mut asked = Vec::new();
    for (number, segments) in run.members.segments.iter().enumerate().filter(|(_, one)| known.contains(*one)) {
        let known = run.targets.known(&family.output_of(segments));
        asked.push((number, known, table.rows[number].clone()));
    }
    let workers = family.settings().run.workers.get();
    let (look, parameters) = (Arc::new(look), Arc::new(table.parameters.clone()));
    let parts = asked.chunks(asked.len().div_ceil(workers).max(1)).map(|part| {
        let (part, look, parameters, family) =
            (part.to_vec(), Arc::clone(&look), Arc::clone(&parameters), family.clone());
        let (report, stop) = (Arc::clone(&options.report), options.stop.clone());
        aside(move || {
            let mut untouched = Vec::new();
            for (number, known, row) in part {
                if let Some(signal) = stop.asked() {
                    return Err(CommandError::Interrupted(signal));
                }
                let settings = family.variant(&parameters, &row)?;
                let target = Job::new(settings.clone(), false, &report, &stop)?.target;
                if let VariantState::Untouched(publication) = look.state_of(number, &settings, &target, known.as_ref())
                {
                    untouched.push((number, publication));
                }
            }
            Ok(untouched)
        })
    });
    let parts = try_join_all(parts).await?;
    let mut all = HashMap::new();
    for part in parts {
        all.extend(part?);
    }
    tracing::debug!("{} of {} variants are untouched", all.len(), asked.len());
    Ok(all)
}

/// Sends CDNs what an earlier run of a variant has left in the outbox.
async fn tell_cdns(run: &mut FamilyRun<'_>, settings: JobSettings) -> Result<(), CommandError> {
    let output = settings.tileset.output.display().to_string();
    let job = run.targets.job(settings)?;
    if let Err(error) = job.purge_published(false).await {
        run.tally.failed(output, error, &run.options.stop)?;
    }
    Ok(())
}

/// Brings one target up to date, or seeds it if it is new. Its failure does not stop the others.
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
        let before = if is_known { publication_of(&job.target).await? } else { None };
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
        let publication = match &outcome {
            // The target shows the state of the run, unless it was replaced meanwhile.
            ReseedOutcome::Nothing if before.is_some() && publication_of(&job.target).await? == before => before,
            ReseedOutcome::Nothing | ReseedOutcome::Planned(_) => None,
            ReseedOutcome::Done(done) => {
                done.manifest.as_ref().and_then(|manifest| Some(manifest.publication.as_ref()?.id.clone()))
            }
            ReseedOutcome::Seeded(done) => done.manifest.publication.as_ref().map(|publication| publication.id.clone()),
        };
        Ok((outcome, publication))
    };
    match reseeded.await {
        Ok((outcome, publication)) => {
            match &outcome {
                ReseedOutcome::Nothing => {}
                ReseedOutcome::Planned(plan) => run.tally.planned(plan),
                ReseedOutcome::Done(done) => run.tally.reseeded(done),
                ReseedOutcome::Seeded(done) => run.tally.seeded(done),
            }
            run.published.extend(publication.map(|publication| (path, publication)));
        }
        Err(error) => run.tally.failed(output, error, &run.options.stop)?,
    }
    Ok(())
}

/// The id of the publication that a target shows; `None` if it cannot be read.
async fn publication_of(target: &Target) -> Result<Option<String>, CommandError> {
    let target = target.clone();
    let state = aside(move || TargetState::read(&target)).await?;
    Ok(state.ok().and_then(|state| Some(state.manifest.publication?.id)))
}
