//! Renders again, at the snapshot of the commit, what changed since the snapshots of the shards.

use super::stream::SharedTiles;
use crate::changes::{Cursor, CursorError};
use crate::pipeline::{self, PipelineOutcome};
use crate::plan::{Dirty, DrawnLayer, batches};
use crate::postgis::{PreparedLayer, Renderer, RunLayers, Worker};
use crate::report::Event;
use crate::run::attempts::aside;
use crate::run::look::{Look, Work, drawn};
use crate::run::seed::{check_tables_unchanged, pipeline_error};
use crate::run::{CommandError, Job};
use crate::shards::{DoneNote, RunReader, RunSink, ShardPlan, WorkFolder};
use crate::tile::{LonLatBox, SearchBox};

/// The tiles that were rendered again.
pub(super) struct Repairs {
    /// The edits of these tiles.
    pub(super) run: RunReader,
    pub(super) outcome: PipelineOutcome,
    pub(super) dirty: Dirty,
    /// The box around all changes.
    pub(super) bounds: Option<LonLatBox>,
}

/// The oldest state that a tile of a shard may show: what all shards, and all attempts that have added tiles to the target, have seen.
pub(super) fn seen_by_all(shards: &[DoneNote], shared: Option<&SharedTiles>) -> Result<Option<Cursor>, CommandError> {
    let others = shared.iter().flat_map(|shared| &shared.others).map(|other| &other.cursor);
    let mut all: Option<Cursor> = None;
    for text in shards.iter().map(|shard| &shard.cursor).chain(others) {
        let own = cursor(text)?;
        all = Some(all.map_or_else(|| own.clone(), |all| all.meet(&own)));
    }
    Ok(all)
}

pub(super) fn cursor(text: &str) -> Result<Cursor, CommandError> {
    text.parse().map_err(|error: CursorError| CommandError::Pipeline(error.to_string()))
}

/// Renders what changed since the cursor of `look`; `None` if nothing has.
pub(super) async fn repairs(
    job: &Job,
    work: &WorkFolder,
    plan: &ShardPlan,
    look: &Look<'_>,
) -> Result<Option<Repairs>, CommandError> {
    let changed = match look.work().await? {
        Work::Nothing => return Ok(None),
        Work::Some(changed) => changed,
        Work::All(_) => return Err(CommandError::Pipeline("a commit has to tell changes apart".to_owned())),
    };
    let tiles = changed.dirty.in_order(plan.needs().order);
    let drawn: Vec<DrawnLayer> = look.layers.iter().map(|layer| drawn(layer)).collect();
    let run = &job.settings.run;
    let mut batches = batches(&tiles, &drawn, run.workers, None, |_layer, _rect| SearchBox::Area);
    let count = run.workers.get().min(batches.len());
    let workers = Worker::open(&look.database, &look.snapshot, &look.locks, run.limits.packing, count).await?;
    look.search(&mut batches, &tiles, &drawn, &changed.dirty).await?;
    job.report.event(&Event::Planned {
        tiles: tiles.len() as u64,
        features: batches.iter().map(crate::tile::Batch::features).sum(),
        batches: batches.len() as u64,
    });
    let layers: Vec<PreparedLayer> = look.layers.iter().map(PreparedLayer::new).collect();
    let layers = RunLayers::new(&layers);
    let renderers: Vec<Renderer> = workers.into_iter().map(|worker| Renderer::new(worker, &layers)).collect();
    let (files, needs, folder) = (work.files.clone(), plan.needs(), plan.run.clone());
    let place = format!("the repairs of run {}", plan.run);
    let sink = aside(move || RunSink::begin(files.begin(&folder)?, needs, place)).await??;
    let stored = crate::run::seed::stored_events(&job.report);
    let ran = pipeline::run(batches, renderers, sink, run.limits, None, stored).await.map_err(pipeline_error);
    let (sink, outcome) = check_tables_unchanged(ran, &look.snapshot, &look.reads).await?;
    if let Some(signal) = job.stop.asked() {
        return Err(CommandError::Interrupted(signal));
    }
    let place = format!("the repairs of run {}", plan.run);
    let run = aside(move || RunReader::of_own(&sink.end()?, place)).await??;
    let bounds = changed.bounds();
    Ok(Some(Repairs { run, outcome, dirty: changed.dirty, bounds }))
}
