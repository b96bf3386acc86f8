//! `seed --resume`: a seed in parts, which are shards that one process renders one after the other. The work folder lies
//! among the target's notes, so that the next process finds which parts are done.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::ShardRun;
use super::begin::{BeginOptions, ShardCount, Tracking, begin_claimed};
use super::commit::{caught_up, commit, history, seen, seen_by_all};
use super::run::run_alone;
use super::status::give_up;
use crate::clock::moment;
use crate::postgis::{Layer, probe};
use crate::report::{Event, RunReport};
use crate::run::row_loss::KnownRows;
use crate::run::target::{Claimed, claim, judge_rows};
use crate::run::{CommandError, Job, interrupted, restarting, seed};
use crate::shards::{DoneNote, ShardPlan, ShardsError, StateKind, WorkFolder};
use crate::suggested::use_work;
use crate::target::Needs;

/// How long a database that is behind those of the parts may take to catch up, as a replica has to.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Seeds the job's target in `parts` parts; by default in about one for each minute of work. Goes on with the parts that
/// an earlier process has left, if they are of the same settings, tables and database; else starts over. Without a
/// change log it seeds as a whole.
pub(crate) async fn resume(job: &Job, parts: Option<u32>) -> Result<RunReport, CommandError> {
    match Box::pin(in_parts(job, parts)).await.map_err(|error| interrupted(error, &job.stop)) {
        Ok(Some(done)) => Ok(done),
        Ok(None) => seed::seed(job).await,
        Err(CommandError::Interrupted(signal)) => {
            Err(CommandError::InterruptedInParts { target: job.target.to_string(), signal })
        }
        Err(error) => Err(error),
    }
}

/// The seed in parts; `None` if there is no change log, so that nothing was begun.
async fn in_parts(job: &Job, parts: Option<u32>) -> Result<Option<RunReport>, CommandError> {
    let work = job.target.parts_folder()?;
    use_work(&work.name);
    // Nobody else writes the target, or its parts, as long as this lives.
    let claimed = claim(job).await?;
    let needs = claimed.sink.needs();
    let folder = work.clone();
    let found = spawn_blocking(move || found(&folder)).await??.map(|plan| of_target(plan, job));
    let look = async |_restarts| Box::pin(look(job, &work, found.as_ref(), needs)).await;
    let looked = restarting(&job.settings.database, &job.report, &job.stop, look).await?;
    let (plan, claimed) = match (found, looked.useless) {
        (Some(plan), None) => (plan, claimed),
        (found, useless) => {
            if let (Some(plan), Some(why)) = (found, useless) {
                let (done, of) = (looked.done.len(), plan.count());
                warn(job, format!("{done} of {of} parts of the seed of {} are of no use: {why}", moment(plan.started)));
                let (target, folder) = (job.target.clone(), work.clone());
                spawn_blocking(move || give_up(&target, &folder, &plan)).await??;
            }
            if let Some(why) = looked.no_log {
                warn(job, format!("if this seed is killed, the next one starts over, as without --resume: {why}"));
                spawn_blocking(move || drop(claimed)).await?;
                return Ok(None);
            }
            Box::pin(begun(job, &work, parts, claimed)).await?
        }
    };
    // The commit asks this again; an hour of work must not end with a refusal that could be known.
    let known: Vec<KnownRows> = plan.rows.iter().map(|rows| KnownRows::of_survey(*rows)).collect();
    let before = claimed.described.as_ref();
    judge_rows(job, &looked.layers, before, &known, async |_layer| Ok(None)).await?;
    Box::pin(finished(ShardRun { job, work: &work, plan: &plan }, claimed)).await.map(Some)
}

fn warn(job: &Job, message: String) {
    job.report.event(&Event::Warning { message });
}

/// The plan of parts, with the target as this process names it: the folder lies beside it.
fn of_target(plan: ShardPlan, job: &Job) -> ShardPlan {
    ShardPlan { output: job.target.to_string(), ..plan }
}

/// The plan in the work folder. A folder that holds anything but a run of parts is refused.
fn found(work: &WorkFolder) -> Result<Option<ShardPlan>, ShardsError> {
    let stranger = |example: String| ShardsError::StrangerInParts { folder: work.name.clone(), example };
    if work.files.is_behind_a_link() {
        return Err(stranger("files behind a symbolic link".to_owned()));
    }
    if let Some(example) = work.files.stranger()? {
        return Err(stranger(example));
    }
    let plan = match work.plan() {
        Err(ShardsError::OtherVersion { run, theirs, .. }) => {
            tracing::warn!("the parts that {theirs} has rendered are of no use to this version: the seed starts over");
            work.end(&run, crate::shards::RunEnd::Aborted)?;
            None
        }
        plan => plan?,
    };
    match plan {
        Some(plan) if plan.state != StateKind::Tracked => {
            Err(ShardsError::Begun { work: work.name.clone(), run: plan.run })
        }
        Some(plan) => Ok(Some(plan)),
        None => work.clear_left_over().map(|()| None),
    }
}

/// What the database says of a seed in parts.
struct Looked {
    /// The parts that are done.
    done: Vec<DoneNote>,
    /// Why they cannot be used; `None` if they can.
    useless: Option<String>,
    /// Why the change log cannot bring parts to one state; `None` if it can.
    no_log: Option<String>,
    layers: Vec<Arc<Layer>>,
}

/// Finds out whether parts that are done can be used, and whether the database has a change log for new ones.
async fn look(job: &Job, work: &WorkFolder, plan: Option<&ShardPlan>, needs: Needs) -> Result<Looked, CommandError> {
    let database = job.database()?;
    let mut snapshot = job.take_snapshot(&database, false).await?;
    let (mut done, mut useless) = (Vec::new(), None);
    if let Some(plan) = plan {
        let of = ShardRun { job, work, plan };
        let (folder, planned) = (work.clone(), plan.clone());
        done = spawn_blocking(move || readable(&folder, &planned)).await??;
        let fits = if plan.needs() == needs { of.check_settings() } else { Err(of.other_needs().into()) };
        useless = why_useless(fits)?;
        if useless.is_none() {
            useless = why_useless(history(of, &done, None, &snapshot, snapshot.cursor()).await.map(drop))?;
        }
        if useless.is_none() {
            drop(snapshot);
            snapshot = caught_up(job, &database, &seen(plan, &done)?, CATCH_UP).await?;
        }
    }
    let probed = probe(&snapshot, &job.settings.tileset.layers).await?;
    let tracking =
        Tracking { job, database: &database, snapshot: &snapshot, layers: &probed.layers, reads: &probed.reads };
    if let (Some(plan), None) = (plan, &useless) {
        let of = ShardRun { job, work, plan };
        useless = why_useless(of.check_database(&probed.layers, &probed.reads, &probed.server.identity))?;
        if useless.is_none() {
            let since = seen_by_all(&done, None)?;
            useless = why_useless(tracking.check(since).await)?;
        }
        if useless.is_none() {
            return Ok(Looked { done, useless, no_log: None, layers: probed.layers });
        }
    }
    let no_log = why_useless(tracking.check(None).await)?;
    Ok(Looked { done, useless, no_log, layers: probed.layers })
}

/// The notes of the parts that are done, without those that cannot be read.
fn readable(work: &WorkFolder, plan: &ShardPlan) -> Result<Vec<DoneNote>, ShardsError> {
    let mut notes = Vec::new();
    for number in work.done_numbers(&plan.run)? {
        match work.done(&plan.run, number) {
            Ok(note) => notes.extend(note),
            Err(ShardsError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(notes)
}

/// Why parts cannot be used or made, if that is what a check says; other errors are returned.
fn why_useless(checked: Result<(), CommandError>) -> Result<Option<String>, CommandError> {
    match checked {
        Ok(()) => Ok(None),
        Err(CommandError::Shards(
            ShardsError::OtherSettings { what: why, .. }
            | ShardsError::OtherDatabase { why, .. }
            | ShardsError::NoState { why },
        )) => Ok(Some(why)),
        Err(error) => Err(error),
    }
}

/// Plans the parts, and writes the plan.
async fn begun(
    job: &Job,
    work: &WorkFolder,
    parts: Option<u32>,
    claimed: Claimed,
) -> Result<(ShardPlan, Claimed), CommandError> {
    let needs = claimed.sink.needs();
    let shares_version = job.target.can_share_version();
    let mut held = Some(claimed);
    if shares_version {
        // The version that the parts write is begun under the lease.
        let released = held.take();
        spawn_blocking(move || drop(released)).await?;
    }
    let options = BeginOptions {
        shards: parts.map_or(ShardCount::PartsByTime, ShardCount::Parts),
        hold: false,
        frozen: false,
        // No other process renders a part, so connections are not shared.
        connections: Some(u32::MAX),
    };
    let plan = begin_claimed(job, work, options, needs).await?.plan;
    let claimed = match held {
        Some(claimed) => claimed,
        None => claim(job).await?,
    };
    Ok((plan, claimed))
}

/// Renders the missing parts, and publishes all.
async fn finished(of: ShardRun<'_>, claimed: Claimed) -> Result<RunReport, CommandError> {
    rendered(of).await?;
    // The commit takes the lock itself.
    spawn_blocking(move || drop(claimed)).await?;
    match Box::pin(commit(of.job, of.work, of.plan, CATCH_UP)).await {
        Err(CommandError::Shards(error)) if error.damage().is_some() => {
            let (folder, plan) = (of.work.clone(), of.plan.clone());
            let damaged = spawn_blocking(move || forget_damaged(&folder, &plan)).await??;
            if damaged.is_empty() {
                return Err(error.into());
            }
            for (part, what) in damaged {
                warn(of.job, format!("part {part} is rendered again: {what}"));
            }
            rendered(of).await?;
            Box::pin(commit(of.job, of.work, of.plan, CATCH_UP)).await
        }
        committed => committed,
    }
}

/// Renders the missing parts.
async fn rendered(of: ShardRun<'_>) -> Result<(), CommandError> {
    let (folder, run, count) = (of.work.clone(), of.plan.run.clone(), of.plan.count());
    let done = spawn_blocking(move || folder.done_numbers(&run)).await??;
    let missing: Vec<u32> = (1..=count).filter(|part| !done.contains(part)).collect();
    for (rendered, part) in missing.iter().enumerate() {
        let finished = count - u32::try_from(missing.len() - rendered).unwrap_or(count);
        of.job.report.event(&Event::Part { part: *part, of: count, done: finished });
        run_alone(of, *part).await?;
    }
    Ok(())
}

/// Forgets the parts whose notes or files are damaged; returns their numbers and what is wrong with each.
fn forget_damaged(work: &WorkFolder, plan: &ShardPlan) -> Result<Vec<(u32, String)>, ShardsError> {
    let mut damaged = Vec::new();
    for part in 1..=plan.count() {
        if let Err(error) = work.check_done(&plan.run, part) {
            let Some(what) = error.damage() else { return Err(error) };
            work.forget_done(&plan.run, part)?;
            damaged.push((part, what));
        }
    }
    Ok(damaged)
}
