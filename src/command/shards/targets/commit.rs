//! `shards commit` for whole targets: collects what the shards have seeded, and takes a snapshot that has seen all of it. Each target is then
//! brought up to date from its own state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::catch_up::{SeenByShard, caught_up};
use super::super::missing::none_missing;
use super::super::repair::cursor;
use super::check::{check_tilesets, job_of};
use crate::config::JobSettings;
use crate::report::Report;
use crate::run::attempts::{aside, restarting};
use crate::run::{CommandError, RecordedVariant, SeededVariants, SharedSnapshot};
use crate::shards::{RunEnd, SeededList, ShardsError, TargetsDone, TargetsPlan, WorkFolder};
use crate::stop::Stop;

/// All targets, seeded.
pub struct ReadyTargets {
    /// A snapshot that has seen everything that the shards have seen.
    pub snapshot: SharedSnapshot,
    /// What was seeded of each family, by the index of its tileset.
    pub families: BTreeMap<usize, Arc<SeededVariants>>,
}

/// Checks that all targets of a run are seeded. Waits up to `wait` for a database that is behind those of the shards.
///
/// # Errors
/// If a shard is missing, the settings are not those of the plan, or the database has not seen what a shard has.
pub async fn ready_targets(
    all: &[JobSettings],
    work: &WorkFolder,
    plan: &TargetsPlan,
    wait: Duration,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<ReadyTargets, CommandError> {
    check_tilesets(all, work, plan)?;
    let (folder, of) = (work.clone(), plan.clone());
    let (dones, families) = aside(move || {
        let dones = all_done(&folder, &of)?;
        let families = families(&folder, &of, &dones)?;
        Ok::<_, CommandError>((dones, families))
    })
    .await??;
    let Some(first) = all.first() else { return Err(ShardsError::NoPlan { work: work.name.clone() }.into()) };
    let snapshot = SharedSnapshot::default();
    let job = job_of(first, false, report, stop)?.sharing(&snapshot);
    let seen: Result<Vec<_>, _> = dones.iter().map(|done| SeenByShard::of(done.shard, &done.seen)).collect();
    let seen = seen?;
    let look = async |_restarts| {
        let look = async { caught_up(&job, &job.database()?, &seen, wait).await };
        Box::pin(look).await.map(drop).inspect_err(|_error| job.release_snapshot())
    };
    restarting(&job.settings.database, report, stop, look).await?;
    Ok(ReadyTargets { snapshot, families })
}

/// The notes of all shards, in their order.
fn all_done(work: &WorkFolder, plan: &TargetsPlan) -> Result<Vec<TargetsDone>, ShardsError> {
    let shards = u32::try_from(plan.shards.len()).unwrap_or(u32::MAX);
    let mut all = Vec::new();
    for number in none_missing(work, &plan.run, shards)? {
        all.extend(work.targets_done(&plan.run, number)?);
    }
    Ok(all)
}

/// What the shards have seeded of each family.
fn families(
    work: &WorkFolder,
    plan: &TargetsPlan,
    dones: &[TargetsDone],
) -> Result<BTreeMap<usize, Arc<SeededVariants>>, CommandError> {
    let mut families: BTreeMap<usize, SeededVariants> = BTreeMap::new();
    for done in dones {
        let own = cursor(&done.cursor)?;
        for family in &done.families {
            let parts = families.entry(family.tileset).or_insert_with(|| SeededVariants {
                cursor: own.clone(),
                database: family.database.clone(),
                witnesses: Vec::new(),
                variants: Vec::new(),
            });
            parts.cursor = parts.cursor.meet(&own);
            parts.witnesses.extend(done.witness.clone());
            for number in 0..family.lists {
                let (shard, attempt, tileset) = (done.shard, done.attempt.as_str(), family.tileset);
                let list: Vec<RecordedVariant> =
                    work.seeded(&plan.run, SeededList { shard, attempt, tileset, number })?;
                parts.variants.extend(list);
            }
        }
    }
    Ok(families.into_iter().map(|(tileset, parts)| (tileset, Arc::new(parts))).collect())
}

/// Ends a run whose targets are up to date, and clears the work folder.
///
/// # Errors
/// If the folder cannot be written.
pub async fn end_targets(work: &WorkFolder, plan: &TargetsPlan) -> Result<(), CommandError> {
    let (folder, run) = (work.clone(), plan.run.clone());
    Ok(aside(move || folder.end(&run, RunEnd::Committed)).await??)
}
