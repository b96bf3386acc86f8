//! `shards begin`: claims the target, surveys, plans, cuts the plan into shards of about equal weight, and writes the
//! plan.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::ShardRun;
use crate::change_log;
use crate::change_log::{Cursor, tracked};
use crate::clock::seconds;
use crate::hex::random_hex;
use crate::manifest::{DatabaseIdentity, DatabaseMark, Witness};
use crate::plan::ZoomPlan;
use crate::postgis::{Database, Layer, Reads, Snapshot};
use crate::run::describe::{fingerprint, names};
use crate::run::identity::{LogIdentity, compare};
use crate::run::prepare::{CALL_COST, Prepared, layers_that_end_early, prepare_on};
use crate::run::target::claim;
use crate::run::{CommandError, OTHER_HISTORY, TilesetRun, restarting};
use crate::shards::{
    ColumnWeights, CutFor, PLAN_VERSION, PlannedShard, ShardPlan, ShardsError, StateKind, WorkFolder, cut,
};
use crate::target::{GENERATOR, Needs, new_version};
use crate::tile::{AreaPart, Order, Zoom, ZoomList, area_of_texts, area_texts};

/// How many shards a plan is cut into.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ShardCount {
    /// This number, for machines.
    Machines(u32),
    /// This number, for one process.
    Parts(u32),
    /// As many as give one process about [`PART_TIME`] for each.
    PartsByTime,
}

/// The estimated processor time, database and program together, of a part of a seed by one process. A kill loses at
/// most the part that is rendered.
const PART_TIME: Duration = Duration::from_secs(60);

/// The most parts that are chosen by time. Each part opens sessions and plans its own tiles.
const MAX_PARTS: f64 = 100.0;

/// The options of `shards begin`, in addition to the settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BeginOptions {
    pub shards: ShardCount,
    /// One snapshot is held for all shards.
    pub(crate) hold: bool,
    /// Nothing writes the database during the run.
    pub(crate) frozen: bool,
    /// The most sessions of all shards together; by default half of what the server allows.
    pub(crate) connections: Option<u32>,
}

/// A run that was begun. With `--hold`, its snapshot lives as long as this value.
pub(crate) struct BegunRun {
    pub plan: ShardPlan,
    pub(crate) snapshot: Arc<Snapshot>,
}

/// Begins a run. Fails if another run was begun in the work folder, the target holds another tileset, or the database
/// cannot be read.
pub(crate) async fn begin(
    tileset_run: &TilesetRun,
    work: &WorkFolder,
    options: BeginOptions,
) -> Result<BegunRun, CommandError> {
    check_folder(work).await?;
    let needs = {
        let sink = claim(tileset_run).await?.sink;
        let needs = sink.needs();
        // The commit needs the sink's lock.
        spawn_blocking(move || drop(sink)).await?;
        needs
    };
    begin_claimed(tileset_run, work, options, needs).await
}

/// The same in a work folder that was checked, for a target that was found to be this tileset's and has these needs.
pub(crate) async fn begin_claimed(
    tileset_run: &TilesetRun,
    work: &WorkFolder,
    options: BeginOptions,
    needs: Needs,
) -> Result<BegunRun, CommandError> {
    let attempt = async |_restarts| Box::pin(attempt(tileset_run, work, options, needs)).await;
    restarting(&tileset_run.settings.database, &tileset_run.report, &tileset_run.stop, attempt).await
}

/// Refuses a work folder that holds a run or other files.
async fn check_folder(work: &WorkFolder) -> Result<(), CommandError> {
    let folder = work.clone();
    if let Some(run) = spawn_blocking(move || folder.run()).await?? {
        return Err(ShardsError::Begun { work: work.name.clone(), run }.into());
    }
    let folder = work.clone();
    if let Some(example) = spawn_blocking(move || folder.files.stranger()).await?.map_err(ShardsError::from)? {
        return Err(ShardsError::Stranger { work: work.name.clone(), example }.into());
    }
    Ok(())
}

async fn attempt(
    tileset_run: &TilesetRun,
    work: &WorkFolder,
    options: BeginOptions,
    needs: Needs,
) -> Result<BegunRun, CommandError> {
    let (begun, started) = (Instant::now(), std::time::SystemTime::now());
    if !options.hold
        && let Some(layer) = tileset_run.settings.tileset.layers.iter().find(|layer| layer.section.refresh())
    {
        return Err(ShardsError::Refreshes { layer: layer.name.clone() }.into());
    }
    let database = tileset_run.database()?;
    let snapshot = tileset_run.take_snapshot(&database, options.hold).await?;
    // Weights are gathered by columns, so the order of the target does not matter.
    let mut prepared =
        prepare_on(tileset_run, &database, Arc::clone(&snapshot), Order::ZoomColumnTmsRow, 0, begun).await?;
    prepared.warn(layers_that_end_early(&tileset_run.settings), &tileset_run.report);
    let state = match (options.hold, options.frozen) {
        (true, _) => StateKind::Held,
        (_, true) => StateKind::Frozen,
        _ => {
            let Prepared { layers, reads, .. } = &prepared;
            Tracking { tileset_run, database: &database, snapshot: &snapshot, layers, reads }.check(None).await?;
            StateKind::Tracked
        }
    };
    let connections = match options.connections {
        Some(connections) => connections,
        None => u32::try_from(snapshot.check_session_room(0, "").await?.most / 2).unwrap_or(u32::MAX),
    };
    let log = LogIdentity::read(&snapshot, &tileset_run.settings.database.changes.schema, []).await?;
    let tileset = &tileset_run.settings.tileset;
    let run = random_hex(1);
    let shared_version = tileset_run.target.can_share_version().then(|| {
        // Two runs that begin in the same second must not share a version.
        format!("{}-{}", new_version(started, None), &run[..8])
    });
    let plan = ShardPlan {
        version: PLAN_VERSION,
        run,
        generator: GENERATOR.to_owned(),
        fingerprint: fingerprint(&tileset_run.settings, &prepared.layers),
        reads: prepared.reads.digest.clone(),
        output: tileset_run.target.to_string(),
        zooms: tileset.zooms.to_string(),
        bbox: area_texts(&tileset.bbox),
        hilbert: needs.order == Order::Hilbert,
        layers_apart: needs.layers_apart,
        shared_version,
        state,
        database: prepared.server.identity.clone(),
        cursor: snapshot.cursor().to_owned(),
        witness: log.as_ref().map(LogIdentity::own).cloned(),
        seen: snapshot.exported().seen().to_owned(),
        connections,
        started: seconds(started),
        plan_seconds: begun.elapsed().as_secs_f64(),
        tiles: prepared.zooms.iter().map(|zoom| zoom.tiles).sum(),
        features: prepared.zooms.iter().map(|zoom| zoom.features).sum(),
        rows: prepared.rows.clone(),
        bounds: prepared.bounds,
        skipped: prepared.skipped.clone(),
        warnings: prepared.warnings.clone(),
        shards: shards_of(&prepared, options.shards, tileset_run.settings.run.rows_memory),
    };
    write(tileset_run, work, &plan, &snapshot, names(&prepared.layers)).await?;
    Ok(BegunRun { plan, snapshot })
}

/// Writes the plan into the work folder, and begins the version of the target that shards write. `layers` are the names
/// of the layers.
async fn write(
    tileset_run: &TilesetRun,
    work: &WorkFolder,
    plan: &ShardPlan,
    snapshot: &Snapshot,
    layers: Vec<String>,
) -> Result<(), CommandError> {
    let (folder, written, target) = (work.clone(), plan.clone(), tileset_run.target.clone());
    let exported = (plan.state == StateKind::Held).then(|| snapshot.exported().clone());
    spawn_blocking(move || {
        folder.files.make().map_err(ShardsError::from)?;
        // The snapshot is written first, because a shard that sees the plan looks for it.
        if let Some(exported) = &exported {
            folder.add_snapshot(&written.run, &written.run, exported)?;
        }
        if let Some(version) = written.shared() {
            target.begin_shared(&version, &layers)?;
        }
        let shared = written.shared();
        match (folder.begin(&written), shared) {
            (Err(error), Some(version)) => {
                target.give_up_shared(&version)?;
                Err(error.into())
            }
            (begun, _) => begun.map_err(CommandError::from),
        }
    })
    .await?
}

/// The plan cut into shards.
fn shards_of(prepared: &Prepared, count: ShardCount, rows_memory: usize) -> Vec<PlannedShard> {
    let weighed =
        |(layer, rows): (&Arc<Layer>, &u64)| WeighedLayer { cost: LayerCost::of(layer, rows_memory), rows: *rows };
    let layers: Vec<WeighedLayer> = prepared.layers.iter().zip(&prepared.features).map(weighed).collect();
    let zooms: Vec<Zoom> = prepared.zooms.iter().map(|zoom| zoom.zoom).collect();
    let weights = weigh(&prepared.zooms, &layers);
    match count {
        ShardCount::Machines(count) => cut(&weights, &zooms, count, CutFor::Machines),
        ShardCount::Parts(count) => cut(&weights, &zooms, count, CutFor::OneProcess),
        ShardCount::PartsByTime => {
            let parts = (weights.whole() * COST_UNIT / PART_TIME.as_secs_f64()).ceil().clamp(1.0, MAX_PARTS);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 100")]
            cut(&weights, &zooms, parts as u32, CutFor::OneProcess)
        }
    }
}

/// What the change log has to know of, seen at one snapshot.
pub(crate) struct Tracking<'a> {
    pub(crate) tileset_run: &'a TilesetRun,
    pub(crate) database: &'a Database,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) layers: &'a [Arc<Layer>],
    pub(crate) reads: &'a Reads,
}

impl Tracking<'_> {
    /// Refuses a database whose change log could not tell the commit what has changed after `since`; by default, after
    /// the snapshot.
    pub(crate) async fn check(&self, since: Option<Cursor>) -> Result<(), CommandError> {
        let Tracking { tileset_run, database, snapshot, layers, reads } = *self;
        if let Some(table) = &reads.row_security {
            let why = format!("{table} has row level security, so rows may appear without being changed");
            return Err(ShardsError::NoState { why }.into());
        }
        let since = since.unwrap_or_else(|| snapshot.cursor().parse().unwrap_or_default());
        let schema = &tileset_run.settings.database.changes.schema;
        match tracked(database, snapshot, schema, None, layers, &since).await {
            Ok(_) => Ok(()),
            Err(change_log::ChangeLogError::LogGap(why)) => Err(ShardsError::NoState { why: why.to_string() }.into()),
            Err(other) => Err(other.into()),
        }
    }
}

// Checks that a process has the settings and the database of the plan. Otherwise its tiles would differ, and nothing
// would report it.

pub(crate) fn zooms_of(plan: &ShardPlan) -> Result<ZoomList, CommandError> {
    plan.zooms.parse().map_err(|error: crate::tile::ZoomError| damaged(error.to_string()))
}

pub(crate) fn boxes_of(plan: &ShardPlan) -> Result<Vec<AreaPart>, CommandError> {
    area_of_texts(&plan.bbox).map_err(|error| damaged(error.to_string()))
}

pub(crate) fn damaged(what: String) -> CommandError {
    ShardsError::Damaged { place: "the plan".to_owned(), what }.into()
}

impl ShardRun<'_> {
    /// Refuses settings that name other tiles or another target than the plan.
    pub(crate) fn check_settings(&self) -> Result<(), CommandError> {
        let ShardRun { tileset_run, plan, .. } = *self;
        let tileset = &tileset_run.settings.tileset;
        let bbox = area_texts(&tileset.bbox);
        let of = |what: &str, ours: &str, theirs: &str| format!("{what} is {ours:?} here, and {theirs:?} in the plan");
        let what = if tileset.zooms.to_string() != plan.zooms {
            of("zoom", &tileset.zooms.to_string(), &plan.zooms)
        } else if bbox != plan.bbox {
            of("bbox", &bbox.join(" "), &plan.bbox.join(" "))
        } else if tileset_run.target.to_string() != plan.output {
            of("output", &tileset_run.target.to_string(), &plan.output)
        } else if plan.shared_version.is_some() && !tileset_run.target.can_share_version() {
            "publish or the template is another one here: the shards of the plan write a new version of the target"
                .to_owned()
        } else {
            return Ok(());
        };
        Err(self.other_settings(what).into())
    }

    /// Refuses a database that is not the continuation of one that the plan or a shard has seen.
    pub(crate) fn check_history<'a>(
        &self,
        log: Option<&LogIdentity>,
        witnesses: impl IntoIterator<Item = &'a Witness>,
    ) -> Result<(), ShardsError> {
        if !log.is_some_and(|log| log.contradicts(witnesses)) {
            return Ok(());
        }
        Err(self.other_database(OTHER_HISTORY.to_owned()))
    }

    /// Refuses a database that is not that of the plan.
    pub(crate) fn check_identity(&self, identity: &DatabaseIdentity) -> Result<(), ShardsError> {
        let planned = DatabaseMark::Plain(self.plan.database.clone());
        compare(Some(&planned), identity, None).map(drop).map_err(|why| {
            let why = why.replacen("it shows", "its plan is of", 1).replace(": its snapshot says nothing here", "");
            self.other_database(why)
        })
    }

    /// Refuses layers or a database that are not those of the plan.
    pub(crate) fn check_database(
        &self,
        layers: &[Arc<Layer>],
        reads: &Reads,
        identity: &DatabaseIdentity,
    ) -> Result<(), CommandError> {
        let plan = self.plan;
        self.check_identity(identity)?;
        let ours = fingerprint(&self.tileset_run.settings, layers);
        let what = if ours != plan.fingerprint {
            format!("their fingerprint is {ours}, and that of the plan {}", plan.fingerprint)
        } else if reads.digest != plan.reads {
            "the tables and views that the layers read are not those of then: one was replaced, redefined, attached or detached"
                .to_owned()
        } else {
            return Ok(());
        };
        Err(self.other_settings(what).into())
    }

    /// The error if the target wants its tiles in another order or form than that of the plan.
    pub(crate) fn other_needs(&self) -> ShardsError {
        self.other_settings("the target stores its tiles in another way".to_owned())
    }

    fn other_settings(&self, what: String) -> ShardsError {
        ShardsError::OtherSettings { work: self.work.name.clone(), run: self.plan.run.clone(), what }
    }

    fn other_database(&self, why: String) -> ShardsError {
        ShardsError::OtherDatabase { work: self.work.name.clone(), run: self.plan.run.clone(), why }
    }
}

// The cost of a plan's tiles and of the rows that they need, so that shards can be cut with about equal costs.

/// The cost of a layer, in processor time of database and program together, measured with 100,000 facilities at zooms 0
/// to 14 (`scripts/bench --shards`). The unit is a feature that is drawn into a tile from cached rows.
#[derive(Debug, Clone, Copy)]
pub struct LayerCost {
    /// The cost of a row that is read or surveyed.
    pub row: f64,
    pub feature: f64,
}

/// The seconds of one cost unit.
pub const COST_UNIT: f64 = 0.4e-6;

/// The cost of a tile in addition to its features, in the same unit: compressing and storing it.
const TILE_COST: f64 = 8.0;

impl LayerCost {
    /// Rows are read once, and drawn into tiles of all zooms.
    pub const READ_ONCE: LayerCost = LayerCost { row: 12.0, feature: 1.0 };

    /// Rows are surveyed, and the database draws each tile.
    const DRAWN: LayerCost = LayerCost { row: 4.0, feature: 16.0 };

    /// The cost of a layer. `rows_memory` is the memory for cached rows, in bytes.
    fn of(layer: &Layer, rows_memory: usize) -> LayerCost {
        if layer.function().is_some() {
            return LayerCost { feature: LayerCost::DRAWN.feature * CALL_COST as f64, ..LayerCost::DRAWN };
        }
        let reads_once = rows_memory > 0 && layer.traits().has_cacheable_rows && layer.is_found_by_area();
        if reads_once { LayerCost::READ_ONCE } else { LayerCost::DRAWN }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct WeighedLayer {
    pub cost: LayerCost,
    /// The number of its rows; 0 if the number differs by zoom.
    pub rows: u64,
}

#[must_use]
pub fn weigh(zooms: &[ZoomPlan], layers: &[WeighedLayer]) -> ColumnWeights {
    let mut weights = ColumnWeights::default();
    for batch in zooms.iter().flat_map(|zoom| &zoom.batches) {
        let own = batch.layers.iter().zip(layers);
        let features: f64 = own.map(|(own, layer)| own.features as f64 * layer.cost.feature).sum();
        weights.add(batch, features + batch.tiles as f64 * TILE_COST);
    }
    for (number, layer) in layers.iter().enumerate() {
        // At the deepest zoom a feature lies in about one tile.
        let features = |zoom: &ZoomPlan| zoom.batches.iter().map(|batch| batch.layers[number].features).sum::<u64>();
        let Some(deepest) = zooms.iter().rev().find(|zoom| features(zoom) > 0) else { continue };
        let all = features(deepest);
        let rows = if layer.rows == 0 { all } else { layer.rows.min(all) };
        for batch in &deepest.batches {
            let rows = batch.layers[number].features as f64 * rows as f64 / all as f64;
            weights.add_rows(batch, rows, rows * layer.cost.row);
        }
    }
    weights
}
