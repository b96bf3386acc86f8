//! `seed --resume`: a seed in parts, which are shards that one process renders one after the other. The work folder
//! lies among the target's notes, so that the next process finds which parts are done.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::ShardRun;
use super::begin::{BeginOptions, ShardCount, Tracking, begin_claimed};
use super::commit::{caught_up, commit_claimed, history, rows, seen, seen_by_all, shared_state};
use super::run::run_alone;
use super::status::give_up;
use crate::clock::moment;
use crate::postgis::{Layer, Snapshot, probe, server_of};
use crate::report::{Event, RunReport};
use crate::run::row_loss::KnownRows;
use crate::run::target::{Claimed, claim, judge_rows};
use crate::run::{CommandError, OTHER_HISTORY, TilesetRun, interrupted, restarting, seed};
use crate::shards::{DoneNote, RunEnd, ShardPlan, ShardsError, StateKind, WorkFolder};
use crate::suggested::use_work;
use crate::target::{Needs, SharedState, TargetError, WorkLease};

/// How long a database that is behind those of the parts may take to catch up, as a replica has to.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Seeds the run's target in `parts` parts; by default in about one for each minute of work. Goes on with the parts
/// that an earlier process has left, if they are of the same settings, tables and database; else starts over. Without a
/// change log it seeds as a whole.
pub(crate) async fn resume(tileset_run: &TilesetRun, parts: Option<u32>) -> Result<RunReport, CommandError> {
    match Box::pin(in_parts(tileset_run, parts)).await.map_err(|error| interrupted(error, &tileset_run.stop)) {
        Ok(Some(done)) => Ok(done),
        Ok(None) => seed::seed(tileset_run).await,
        Err(CommandError::Interrupted(signal)) => {
            Err(CommandError::InterruptedInParts { target: tileset_run.target.to_string(), signal })
        }
        Err(CommandError::Shards(ShardsError::Behind { behind, ahead, .. })) => {
            Err(ShardsError::BehindParts { behind, ahead }.into())
        }
        Err(error) => Err(error),
    }
}

/// The seed in parts; `None` if it is left to a plain seed: there is no change log, and nothing was begun.
async fn in_parts(tileset_run: &TilesetRun, parts: Option<u32>) -> Result<Option<RunReport>, CommandError> {
    let work = tileset_run.target.parts_folder()?;
    use_work(&work.name);
    // Nobody else writes the target, or its parts, as long as these live. An archive in a bucket may have no lock.
    let claimed = claim(tileset_run).await?;
    let files = work.files.clone();
    let lease = spawn_blocking(move || files.lease()).await?.map_err(ShardsError::from)?;
    let needs = claimed.sink.needs();
    let folder = work.clone();
    let mut found = spawn_blocking(move || found(&folder)).await??.map(|plan| of_target(plan, tileset_run));
    let (claimed, state) = match &found {
        Some(plan) if tileset_run.target.can_share_version() => shared_state(plan, claimed).await?,
        _ => (claimed, None),
    };
    if state == Some(SharedState::Published)
        && let Some(plan) = found.take()
    {
        // The commit was killed at its end. Clients may have the tiles of the version, which never change again.
        let (started, version) = (moment(plan.started), plan.shared_version.unwrap_or_default());
        tileset_run
            .report
            .warn(format!("the seed of {started} is published already, as version {version}: this one starts over"));
        let folder = work.clone();
        spawn_blocking(move || folder.end(&plan.run, RunEnd::Committed)).await??;
    }
    let is_gone = state == Some(SharedState::Gone);
    let look = async |_restarts| Box::pin(look(tileset_run, &work, found.as_ref(), needs, is_gone)).await;
    let looked = restarting(&tileset_run.settings.database, &tileset_run.report, &tileset_run.stop, look).await?;
    let (plan, claimed) = match (found, looked.useless) {
        (Some(plan), None) => {
            let (folder, run) = (work.clone(), plan.run.clone());
            spawn_blocking(move || folder.clear_unnamed(&run)).await??;
            // The commit asks this again; an hour of work must not end with a refusal that could be known.
            rows(tileset_run, &plan, claimed.described.as_ref(), &looked.layers, &looked.snapshot).await?;
            drop(looked.snapshot);
            (plan, claimed)
        }
        (found, useless) => {
            if let (Some(plan), Some(why)) = (found, useless) {
                let (done, of) = (looked.done.len(), plan.count());
                tileset_run
                    .report
                    .warn(format!("{done} of {of} parts of the seed of {} are of no use: {why}", moment(plan.started)));
                let (target, folder) = (tileset_run.target.clone(), work.clone());
                spawn_blocking(move || give_up(&target, &folder, &plan)).await??;
            }
            if let Some(why) = looked.no_log {
                tileset_run
                    .report
                    .warn(format!("if this seed is killed, the next one starts over, as without --resume: {why}"));
                spawn_blocking(move || drop(claimed)).await?;
                return Ok(None);
            }
            drop(looked.snapshot);
            let (plan, claimed) = Box::pin(begun(tileset_run, &work, parts, claimed)).await?;
            let known: Vec<KnownRows> = plan.rows.iter().map(|rows| KnownRows::of_survey(*rows)).collect();
            let before = claimed.described.as_ref();
            if let Err(refused) = judge_rows(tileset_run, &looked.layers, before, &known, async |_layer| Ok(None)).await
            {
                // Its parts are as many as suit these rows.
                let (target, folder) = (tileset_run.target.clone(), work.clone());
                spawn_blocking(move || give_up(&target, &folder, &plan)).await??;
                return Err(refused);
            }
            (plan, claimed)
        }
    };
    Box::pin(finished(ShardRun { tileset_run, work: &work, plan: &plan }, claimed, lease.as_ref())).await
}

/// The plan of parts, with the target as this process names it: the folder lies beside it.
fn of_target(plan: ShardPlan, tileset_run: &TilesetRun) -> ShardPlan {
    ShardPlan { output: tileset_run.target.to_string(), ..plan }
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
            work.end(&run, RunEnd::Aborted)?;
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

/// Why parts cannot be used whose version is gone.
const GONE: &str =
    "the version that they have written was not published for a week, or was given up, and another run has removed it";

/// What the database says of a seed in parts.
struct Looked {
    /// The parts that are done.
    done: Vec<DoneNote>,
    /// Why they cannot be used; `None` if they can.
    useless: Option<String>,
    /// Why the change log cannot bring parts to one state; `None` if it can.
    no_log: Option<String>,
    layers: Vec<Arc<Layer>>,
    snapshot: Arc<Snapshot>,
}

/// Finds out whether parts that are done can be used, and whether the database has a change log for new ones.
/// `is_gone` says that the version that they have written does not exist any more.
async fn look(
    tileset_run: &TilesetRun,
    work: &WorkFolder,
    plan: Option<&ShardPlan>,
    needs: Needs,
    is_gone: bool,
) -> Result<Looked, CommandError> {
    let database = tileset_run.database()?;
    let mut snapshot = tileset_run.take_snapshot(&database, false).await?;
    let (mut done, mut useless) = (Vec::new(), None);
    if let Some(plan) = plan {
        let of = ShardRun { tileset_run, work, plan };
        let (folder, planned) = (work.clone(), plan.clone());
        done = spawn_blocking(move || readable(&folder, &planned)).await??;
        let fits = if plan.needs() == needs { of.check_settings() } else { Err(of.other_needs().into()) };
        useless = why_useless(fits)?.or_else(|| is_gone.then(|| GONE.to_owned()));
        if useless.is_none() {
            let server = server_of(&snapshot).await?;
            useless = why_useless(of.check_identity(&server.identity).map_err(CommandError::from))?;
            if useless.is_none() {
                useless = why_useless(history(of, &done, None, &snapshot).await.map(drop))?;
            }
            if useless.is_none() {
                drop(snapshot);
                let ahead = seen(plan, &done)?;
                // Only a standby catches up.
                let patience = if server.in_recovery { CATCH_UP } else { Duration::ZERO };
                snapshot = match caught_up(tileset_run, &database, &ahead, patience).await {
                    Err(CommandError::Shards(ShardsError::Behind { .. })) if !server.in_recovery => {
                        useless = Some(OTHER_HISTORY.to_owned());
                        tileset_run.take_snapshot(&database, false).await?
                    }
                    caught_up => caught_up?,
                };
            }
        }
    }
    let probed = probe(&snapshot, &tileset_run.settings.tileset.layers).await?;
    let tracking = Tracking {
        tileset_run,
        database: &database,
        snapshot: &snapshot,
        layers: &probed.layers,
        reads: &probed.reads,
    };
    if let (Some(plan), None) = (plan, &useless) {
        let of = ShardRun { tileset_run, work, plan };
        useless = why_useless(of.check_database(&probed.layers, &probed.reads, &probed.server.identity))?;
        if useless.is_none() {
            let since = seen_by_all(&done, None)?;
            useless = why_useless(tracking.check(since).await)?;
        }
        if useless.is_none() {
            return Ok(Looked { done, useless, no_log: None, layers: probed.layers, snapshot });
        }
    }
    let no_log = why_useless(tracking.check(None).await)?;
    Ok(Looked { done, useless, no_log, layers: probed.layers, snapshot })
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
    tileset_run: &TilesetRun,
    work: &WorkFolder,
    parts: Option<u32>,
    claimed: Claimed,
) -> Result<(ShardPlan, Claimed), CommandError> {
    let needs = claimed.sink.needs();
    let shares_version = tileset_run.target.can_share_version();
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
    let plan = begin_claimed(tileset_run, work, options, needs).await?.plan;
    let claimed = match held {
        Some(claimed) => claimed,
        None => claim(tileset_run).await?,
    };
    Ok((plan, claimed))
}

/// Renders the missing parts, and publishes all.
async fn finished(
    of: ShardRun<'_>,
    claimed: Claimed,
    lease: Option<&WorkLease>,
) -> Result<Option<RunReport>, CommandError> {
    rendered(of, lease).await?;
    // An archive without a lock may have been replaced meanwhile: the commit looks at it as it is then.
    let claimed = spawn_blocking(move || Some(claimed).filter(|claimed| claimed.sink.is_locked())).await?;
    match Box::pin(commit_claimed(of, claimed, CATCH_UP)).await {
        Err(CommandError::Shards(error)) if error.damage().is_some() => {
            let (folder, plan) = (of.work.clone(), of.plan.clone());
            let damaged = spawn_blocking(move || forget_damaged(&folder, &plan)).await??;
            if damaged.is_empty() {
                return Err(error.into());
            }
            for (part, what) in damaged {
                of.tileset_run.report.warn(format!("part {part} is rendered again: {what}"));
            }
            rendered(of, lease).await?;
            Box::pin(commit_claimed(of, None, CATCH_UP)).await
        }
        committed => committed,
    }
}

/// Renders the missing parts. `lease` is the lease on their folder.
async fn rendered(of: ShardRun<'_>, lease: Option<&WorkLease>) -> Result<(), CommandError> {
    let (folder, run, count) = (of.work.clone(), of.plan.run.clone(), of.plan.count());
    let done = spawn_blocking(move || folder.done_numbers(&run)).await??;
    let missing: Vec<u32> = (1..=count).filter(|part| !done.contains(part)).collect();
    for (rendered, part) in missing.iter().enumerate() {
        lease.map_or(Ok(()), WorkLease::check).map_err(TargetError::from)?;
        let finished = count - u32::try_from(missing.len() - rendered).unwrap_or(count);
        of.tileset_run.report.event(&Event::Part { part: *part, of: count, done: finished });
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
