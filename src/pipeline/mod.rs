//! Plan in, tileset out: a bounded pool of workers renders and compresses batches, one writer stores them in order.
//!
//! ```text
//! batches ─► permit ─► worker: render, count ─► compress ─┐
//!            (window)  worker: render, count ─► compress ─┼─► writer: reorder, store, release the permit
//!                      …                                 ─┘
//! ```
//!
//! A worker takes a permit first and the next batch second. So the oldest batch that is not stored always holds a
//! permit: the writer, which stores in order, can never wait for a batch that waits for a permit. The window bounds how
//! many batches are rendered and not yet stored, however slow the writer or one of the workers is; a batch with many
//! features takes several permits (`in_flight`). If a run shares the database, a worker that has taken a batch waits at
//! its gate for its turn, and holds its turn only while it renders; `queue` joins and cuts batches so that a turn stays
//! short.
//!
//! | file | what |
//! |---|---|
//! | `in_flight` | how many batches, and how many features, are rendered and not yet stored |
//! | `queue` | the batches of a run that wait for a worker; the gate of runs that share the database, and how large their batches are |
//! | `stats` | figures for each zoom, collected while tiles are stored, in bounded memory |
//! | `writer` | the one writer: puts batches back in order and hands them to the sink |

mod in_flight;
mod queue;
mod stats;
mod writer;

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use in_flight::BatchesInFlight;
use queue::TakenBatch;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use writer::{PackedTiles, Storing, pack};

use crate::encode::{EncodeError, Packer, Packing};
use crate::source::{LayerIssue, LayerIssueKind, RenderedTile, Source};
use crate::target::{Needs, Sink, Written};
use crate::tile::{Batch, LayerId, TileCoord, Zoom};

pub(crate) use queue::{BatchGate, BatchKind, BatchPace, BatchTurn, BatchTurns};
pub use stats::{LargestTile, SlowBatch};
pub(crate) use stats::{StageTimes, TileSizes, ZoomStats};

/// How a run is bounded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The most batches that may be rendered or waiting to be stored at one time.
    pub(crate) window: NonZeroUsize,
    /// The most features that these batches may have together, unless a single batch has more. Such a batch is alone in
    /// flight.
    pub features: NonZeroU64,
    /// How tiles are compressed.
    pub packing: Packing,
}

/// A batch that was handed to the sink.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredBatch {
    /// The zoom of its first tile.
    pub zoom: Zoom,
    /// Tiles stored, removed and unchanged.
    pub written: Written,
    /// Features that the plan counted in it; progress is measured by them.
    pub(crate) planned_features: u64,
    pub bytes: u64,
}

/// What a run stored.
#[derive(Debug, Clone)]
pub(crate) struct PipelineOutcome {
    /// Tiles by what the sink did with them.
    pub written: Written,
    /// Figures for each zoom, shallowest first.
    pub zooms: Vec<ZoomStats>,
    /// Layers that exceeded their budgets.
    pub layers: BTreeMap<LayerId, LayerStats>,
    /// What the time went into.
    pub stages: StageTimes,
    /// The slowest batches, the slowest first.
    pub slowest: Vec<SlowBatch>,
    /// Tiles in which a layer could not be rendered, in the order of the plan.
    pub failed: Vec<FailedTile>,
    /// Planned tiles that were rendered and handed to the sink.
    tiles: u64,
    /// Edits handed to the sink: one for each tile, or for each layer of each tile.
    edits: u64,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipelineError<R, W> {
    #[error(transparent)]
    Source(R),
    #[error(transparent)]
    Sink(W),
    /// A tile could not be compressed.
    #[error("tile {tile}")]
    Encode { tile: TileCoord, source: EncodeError },
    #[error(
        "more than {MAX_FAILED_TILES} tiles could not be rendered, the last of them {tile} ({cause}): that is more than on_tile_error = \"skip\" is for. Mend what the cause names"
    )]
    ManyFailed { tile: TileCoord, cause: String },
    #[error(
        "a batch of zoom {zoom} came back with {found} tiles for {planned} planned: the result is not complete, nothing was published. Please report this"
    )]
    Miscounted {
        /// The batch's zoom.
        zoom: Zoom,
        planned: u64,
        /// Tiles returned.
        found: u64,
    },
    #[error(
        "{stored} of {planned} planned tiles were stored: the result is not complete, nothing was published. Please report this"
    )]
    Incomplete {
        planned: u64,
        /// Tiles stored, removed and unchanged.
        stored: u64,
    },
    #[error("a worker died ({0}): the result is not complete, nothing was published. Please report this")]
    Died(String),
}

/// A compressed batch on its way to the writer.
struct PackedBatch {
    /// The index of its first batch in the plan.
    index: usize,
    /// How many batches of the plan it consists of.
    count: usize,
    zoom: Zoom,
    tiles: u64,
    made: PackedTiles,
    planned_features: u64,
    /// Time spent on rendering it.
    rendering: Duration,
    /// Time spent on compressing it.
    packing: Duration,
    /// `None` in a run that has one batch at a time.
    permit: Option<OwnedSemaphorePermit>,
}

/// A note on a layer, and the tile that it is about.
#[derive(Debug)]
pub(crate) struct TileIssue {
    tile: TileCoord,
    issue: LayerIssue,
    /// For [`LayerIssueKind::Heavy`]: the bytes of the layer, compressed by itself.
    bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct EditContents {
    /// Features drawn. The first edit of a tile counts those of all its layers.
    features: u64,
    /// The layer that has the most bytes.
    heaviest: LayerId,
}

/// Renders every batch and stores it. `batches` come in the order that the sink needs; each of `sources` is one worker.
/// `stored` is called for each batch after it was handed to the sink. With `turns`, each worker waits for its turn
/// before it renders a batch.
///
/// Returns the sink once every planned tile is accounted for; the caller finishes it. Fails at the first failure of a
/// source or of the sink, or if a count is wrong. The sink is dropped then.
pub(crate) async fn run<R, W>(
    batches: Vec<Batch>,
    sources: Vec<R>,
    sink: W,
    limits: Limits,
    turns: Option<BatchTurns>,
    stored: impl Fn(&StoredBatch) + Send + 'static,
) -> Result<(W, PipelineOutcome), PipelineError<R::Error, W::Error>>
where
    R: Source + 'static,
    W: Sink + 'static,
{
    let rules = EditRules { packing: limits.packing, needs: sink.needs(), failed: Arc::default(), turns };
    let planned: u64 = batches.iter().map(|batch| batch.tiles).sum();
    let in_flight = Arc::new(BatchesInFlight::new(batches, limits, rules.turns.clone()));
    let (done, packed) = mpsc::channel(limits.window.get());
    let writer = tokio::task::spawn_blocking(move || writer::write(packed, sink, stored));

    let mut workers = JoinSet::new();
    for source in sources {
        workers.spawn(work(source, Arc::clone(&in_flight), rules.clone(), done.clone()));
    }
    // The writer ends when the last sender is gone.
    drop(done);
    let mut failure = None;
    while let Some(worker) = workers.join_next().await {
        let worked = worker.unwrap_or_else(|error| Err(PipelineError::Died(error.to_string())));
        if let Err(error) = worked {
            // The other workers end after their current batches.
            in_flight.close();
            failure.get_or_insert(error);
        }
    }
    let written = writer.await.map_err(|error| PipelineError::Died(error.to_string()))?;
    // If the writer failed, the workers stopped because of that: its error is the cause.
    let (sink, outcome) = written.map_err(PipelineError::Sink)?;
    if let Some(error) = failure {
        return Err(error);
    }
    outcome.check_complete(planned)?;
    Ok((sink, outcome))
}

impl PipelineOutcome {
    /// Refuses a result whose number of tiles is not the planned one.
    fn check_complete<R, W>(&self, planned: u64) -> Result<(), PipelineError<R, W>> {
        for (planned, stored) in [(planned, self.tiles), (self.edits, self.written.total())] {
            if planned != stored {
                return Err(PipelineError::Incomplete { planned, stored });
            }
        }
        Ok(())
    }
}

/// How batches are rendered, and how rendered tiles become edits.
#[derive(Clone)]
struct EditRules {
    packing: Packing,
    needs: Needs,
    /// How many tiles of the run could not be rendered up to now.
    failed: Arc<AtomicU64>,
    turns: Option<BatchTurns>,
}

impl EditRules {
    /// Refuses a batch whose number of tiles is not the planned one.
    fn check_count<R, W>(&self, batch: &Batch, zoom: Zoom, tiles: &[RenderedTile]) -> Result<(), PipelineError<R, W>> {
        // A tile that failed may or may not have been planned.
        let (found, failed) = (tiles.len() as u64, self.count_failed(tiles)?);
        if (found - failed..=found).contains(&batch.tiles) {
            return Ok(());
        }
        Err(PipelineError::Miscounted { zoom, planned: batch.tiles, found })
    }

    /// Counts the tiles of a batch that could not be rendered.
    fn count_failed<R, W>(&self, tiles: &[RenderedTile]) -> Result<u64, PipelineError<R, W>> {
        let mut count = 0;
        for tile in tiles.iter().filter(|tile| tile.is_failed()) {
            count += 1;
            if self.failed.fetch_add(1, Relaxed) >= MAX_FAILED_TILES {
                let cause = tile.issues.iter().find_map(|issue| match &issue.kind {
                    LayerIssueKind::Failed { cause } => Some(cause.clone()),
                    _ => None,
                });
                return Err(PipelineError::ManyFailed { tile: tile.tile, cause: cause.unwrap_or_default() });
            }
        }
        Ok(count)
    }
}

/// One worker: renders batch after batch until none is left or the writer is gone. While one batch is compressed on its
/// own thread, the next one is rendered, so that the database never waits for gzip.
async fn work<R: Source, W: Send + 'static>(
    mut source: R,
    in_flight: Arc<BatchesInFlight>,
    rules: EditRules,
    done: mpsc::Sender<PackedBatch>,
) -> Result<(), PipelineError<R::Error, W>> {
    let mut packing: Option<JoinHandle<PackingEnd<R::Error, W>>> = None;
    let mut packer = Some(Packer::new(rules.packing));
    while let Some((TakenBatch { index, count, batch }, permit)) = in_flight.take().await {
        let begun = Instant::now();
        let tiles = match &rules.turns {
            Some(turns) => turns.rendered(&mut source, &batch).await,
            None => source.render(&batch).await,
        }
        .map_err(PipelineError::Source)?;
        let Some(zoom) = batch.zoom() else { continue };
        rules.check_count(&batch, zoom, &tiles)?;
        let rendering = begun.elapsed();
        if let Some(packing) = packing.take() {
            let Some(idle) = packed(packing).await? else { return Ok(()) };
            packer = Some(idle);
        }
        let mut packer = packer.take().unwrap_or_else(|| Packer::new(rules.packing));
        let (done, needs) = (done.clone(), rules.needs);
        packing = Some(tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let made = pack(tiles, &mut packer, needs)?;
            let (packing, permit) = (begun.elapsed(), Some(permit));
            let (tiles, planned_features) = (batch.tiles, batch.features());
            let batch = PackedBatch { index, count, zoom, tiles, made, planned_features, rendering, packing, permit };
            // If the writer is gone, it failed, and its error is the cause.
            Ok(done.blocking_send(batch).ok().map(|()| packer))
        }));
    }
    match packing {
        Some(packing) => packed(packing).await.map(drop),
        None => Ok(()),
    }
}

/// How a compressing thread ends: with its packer, or `None` if the writer is gone.
type PackingEnd<R, W> = Result<Option<Packer>, PipelineError<R, W>>;

async fn packed<R, W>(packing: JoinHandle<PackingEnd<R, W>>) -> PackingEnd<R, W> {
    packing.await.unwrap_or_else(|error| Err(PipelineError::Died(error.to_string())))
}

// A run on one thread, for few features.

/// Renders and stores every batch on this thread, one after the other, with a `render` that does not wait. The result
/// is that of [`run`]. With few features in all batches, handing them from thread to thread would take longer than to
/// draw them. Fails at the first failure of `render` or of the sink, or if a count is wrong. The sink is dropped then.
pub(crate) fn run_here<W: Sink, E>(
    batches: &[Batch],
    mut render: impl FnMut(&Batch) -> Result<Vec<RenderedTile>, E>,
    sink: W,
    packing: Packing,
    stored: impl Fn(&StoredBatch),
) -> Result<(W, PipelineOutcome), PipelineError<E, W::Error>> {
    let rules = EditRules { packing, needs: sink.needs(), failed: Arc::default(), turns: None };
    let (mut packer, mut storing) = (Packer::new(packing), Storing::new(sink));
    for (index, batch) in batches.iter().enumerate() {
        let Some(zoom) = batch.zoom() else { continue };
        let begun = Instant::now();
        let tiles = render(batch).map_err(PipelineError::Source)?;
        rules.check_count(batch, zoom, &tiles)?;
        let rendering = begun.elapsed();
        let begun = Instant::now();
        let made = pack(tiles, &mut packer, rules.needs)?;
        let (tiles, planned_features, packing) = (batch.tiles, batch.features(), begun.elapsed());
        let (count, permit) = (1, None);
        let done = PackedBatch { index, count, zoom, tiles, made, planned_features, rendering, packing, permit };
        storing.add(done, &stored).map_err(PipelineError::Sink)?;
    }
    let (sink, outcome) = storing.end();
    outcome.check_complete(batches.iter().map(|batch| batch.tiles).sum())?;
    Ok((sink, outcome))
}

// Figures for each layer: budgets that were exceeded, tiles that failed.

/// The most tiles that `on_tile_error = "skip"` skips in a run. More are a systematic error, and a target without them
/// would be of no use.
const MAX_FAILED_TILES: u64 = 300;

/// How far a layer exceeded its budget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LayerStats {
    /// Tiles in which features were left out.
    pub thinned: u64,
    /// Features left out, counted in each tile.
    pub(crate) left_out: u64,
    /// Tiles with more bytes than the budget.
    pub large: u64,
    /// The heaviest of them, by the compressed bytes of this layer alone, and the budget.
    pub heaviest: Option<(LargestTile, u64)>,
}

/// A tile in which a layer could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailedTile {
    pub tile: TileCoord,
    pub layer: LayerId,
    pub cause: String,
}

#[derive(Debug, Default)]
pub(crate) struct LayerFigures {
    pub(crate) stats: BTreeMap<LayerId, LayerStats>,
    pub(crate) failed: Vec<FailedTile>,
}

impl LayerFigures {
    pub(crate) fn add(&mut self, TileIssue { tile, issue: LayerIssue { layer, kind }, bytes }: TileIssue) {
        let limit = match kind {
            LayerIssueKind::Failed { cause } => return self.failed.push(FailedTile { tile, layer, cause }),
            LayerIssueKind::Thinned { left_out } => {
                let stats = self.stats.entry(layer).or_default();
                stats.thinned += 1;
                stats.left_out += left_out;
                return;
            }
            LayerIssueKind::Heavy { limit } => limit,
        };
        if bytes <= limit {
            return;
        }
        let stats = self.stats.entry(layer).or_default();
        stats.large += 1;
        if stats.heaviest.is_none_or(|(heaviest, _)| bytes > heaviest.bytes) {
            stats.heaviest = Some((LargestTile { tile, bytes }, limit));
        }
    }
}

#[cfg(test)]
mod tests;
