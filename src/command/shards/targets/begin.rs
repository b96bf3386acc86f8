//! `shards begin` for whole targets: weighs the targets, and divides them among the shards.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::super::begin::{BeginOptions, check_folder, weight_of};
use super::check::{check_divisible, job_of, planned_tileset};
use crate::config::JobSettings;
use crate::postgis::server_of;
use crate::report::{Report, Style, report};
use crate::run::attempts::{aside, restarting};
use crate::run::describe::LogIdentity;
use crate::run::prepare::prepare_on;
use crate::run::seed::claim;
use crate::run::variants::{FamilyCachePart, FamilyRun};
use crate::run::{CommandError, Family, FamilyOptions, FamilyWork, Job, SharedSnapshot};
use crate::shards::{BegunPlan, PLAN_VERSION, ShardsError, TargetsPlan, WeighedTarget, WorkFolder, divide, random_id};
use crate::sink::GENERATOR;
use crate::stop::Stop;
use crate::tile::Order;

/// The cost of a target in addition to its tiles: opening, syncing and publishing it takes about 2 ms.
const TARGET_COST: u64 = 5_000;

/// Begins a run whose shards are whole targets of the tilesets `all`. With `force`, targets that hold another tileset are overwritten.
///
/// # Errors
/// If another run was begun in the work folder, the shards could not be brought to one state, or the database cannot be read.
pub async fn begin_targets(
    all: &[JobSettings],
    work: &WorkFolder,
    options: BeginOptions,
    force: bool,
    shown: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<TargetsPlan, CommandError> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if options.hold || options.frozen {
        let flag = if options.hold { "--hold" } else { "--frozen" };
        return Err(ShardsError::NotForTargets { what: flag, next: "leave it out: each shard has a snapshot of its own, and the commit brings all targets to one state by the change log" }.into());
    }
    check_folder(work).await?;
    for settings in all {
        Box::pin(check_divisible(settings, shown, stop)).await?;
    }
    let Some(first) = all.first() else { return Err(ShardsError::NoPlan { work: work.name.clone() }.into()) };
    let snapshot = SharedSnapshot::default();
    let job = job_of(first, force, shown, stop)?.sharing(&snapshot);
    let look = async |_restarts| {
        let look = async {
            let taken = job.take_snapshot(&job.database()?, false).await?;
            let connections = match options.connections {
                Some(connections) => connections,
                None => u32::try_from(taken.check_session_room(0, "").await?.most / 2).unwrap_or(u32::MAX),
            };
            let identity = server_of(&taken).await?.identity;
            let log = LogIdentity::read(&taken, &job.settings.database.changes.schema, [taken.cursor()]).await?;
            Ok::<_, CommandError>((connections, identity, log.and_then(|log| log.witness(taken.cursor()).cloned())))
        };
        look.await.inspect_err(|_error| job.release_snapshot())
    };
    let (connections, database, witness) = restarting(&job.settings.database, shown, stop, look).await?;
    let (mut targets, mut tilesets, mut tiles) = (Vec::new(), Vec::new(), 0);
    for (tileset, settings) in all.iter().enumerate() {
        let before = targets.len();
        let mut add = |variant: Option<String>, weighed: TargetCost| {
            tiles += weighed.tiles;
            targets.push(WeighedTarget { tileset, variant, weight: weighed.weight + TARGET_COST });
        };
        match Family::of(settings) {
            None => {
                let job = Job::new(settings.clone(), force, shown, stop)?.sharing(&snapshot);
                let sink = claim(&job).await?.sink;
                // The shard needs the sink's lock.
                aside(move || drop(sink)).await?;
                add(None, weighed(&job).await?);
            }
            Some(family) => Box::pin(weigh_family(&family, force, &snapshot, stop, add)).await?,
        }
        tilesets.push(planned_tileset(settings, (targets.len() - before) as u64));
    }
    let plan = TargetsPlan {
        version: PLAN_VERSION,
        run: random_id(),
        generator: GENERATOR.to_owned(),
        tilesets,
        database,
        witness,
        connections,
        started,
        force,
        tiles,
        shards: divide(targets, options.shards),
    };
    let (folder, written) = (work.clone(), plan.clone());
    aside(move || {
        folder.files.make().map_err(ShardsError::from)?;
        folder.begin(&BegunPlan::Targets(Box::new(written)))
    })
    .await??;
    Ok(plan)
}

/// The estimate for a target.
struct TargetCost {
    weight: u64,
    tiles: u64,
}

/// Weighs the targets of a family, from the rows of all variants if they can be read once.
async fn weigh_family(
    family: &Family,
    force: bool,
    snapshot: &SharedSnapshot,
    stop: &Stop,
    mut add: impl FnMut(Option<String>, TargetCost),
) -> Result<(), CommandError> {
    let options = FamilyOptions {
        force,
        prunes: false,
        dry_run: true,
        work: FamilyWork::Seed,
        // The shards report the warnings.
        report: report(Style::Nothing),
        stop: stop.clone(),
        snapshot: snapshot.clone(),
        like: None,
        parts: None,
    };
    let run = FamilyRun::begin(family, &options).await?;
    let cache = Box::pin(run.cache()).await?.map(Arc::new);
    let has_members = match &cache {
        Some(cache) => Box::pin(run.read_members(cache)).await?,
        None => false,
    };
    let cache = cache.filter(|_| has_members);
    for (variant, settings) in run.members.each_target(family, run.all.as_ref()) {
        let settings = settings?;
        let output = settings.tileset.output.display().to_string();
        let cache = cache.clone().map(|cache| FamilyCachePart { cache, variant });
        let job = Job { family_cache: cache, ..run.targets.job(settings)? };
        add(variant.map(|_| output), weighed(&job).await?);
    }
    Ok(())
}

/// Plans one target.
async fn weighed(job: &Job) -> Result<TargetCost, CommandError> {
    let attempt = async |_restarts| {
        let planned = async {
            // Only sums matter, so the order does not.
            let order = Order::ZoomColumnTmsRow;
            if let Some(cache) = &job.family_cache {
                return cache.prepared(job, order).await;
            }
            let (begun, database) = (Instant::now(), job.database()?);
            let snapshot = job.take_snapshot(&database, false).await?;
            prepare_on(job, &database, snapshot, order, 0, begun).await
        };
        Box::pin(planned).await.inspect_err(|_error| job.release_snapshot())
    };
    let prepared = restarting(&job.settings.database, &job.report, &job.stop, attempt).await?;
    let weight = weight_of(&prepared, job.settings.run.rows_memory);
    Ok(TargetCost { weight, tiles: prepared.zooms.iter().map(|zoom| zoom.tiles).sum() })
}
