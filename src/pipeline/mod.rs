//! Plan in, tileset out: a bounded pool of workers renders and packs batches, one writer stores them in order.
//!
//! ```text
//! batches ─► permit ─► worker: render, check ─► pack ─┐
//!            (window)  worker: render, check ─► pack ─┼─► writer: put in order, store, give the permit back
//!                      …                             ─┘
//! ```
//!
//! A worker takes the permit first and the next batch then, so the oldest batch that is not stored always has one: the
//! writer, which stores in order, can never wait for a batch that waits for a permit. What is rendered but not stored is
//! bounded by the window, however slow the writer or one of the workers is.

mod layers;
mod stats;
mod writer;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use crate::encode::{EncodeError, Packer, Packing};
use crate::sink::{Needs, Sink, TileEdit, Written};
use crate::source::{Note, Noted, RenderedTile, Source, part_of};
use crate::tile::{Batch, Slice, TileCoord, TileId, Zoom};

pub use layers::{FailedTile, LayerStats, MOST_FAILED};
pub use stats::{LargestTile, TileSizes, ZoomStats};

/// How a run is bounded.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Batches that may be rendered or waiting to be stored at one time.
    pub window: NonZeroUsize,
    /// How tiles are packed.
    pub packing: Packing,
}

/// A batch is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The zoom of its first tile.
    pub zoom: Zoom,
    /// Tiles stored, removed and unchanged.
    pub written: Written,
    /// Features that the plan counted in it: the measure of progress.
    pub planned_features: u64,
    /// Bytes stored.
    pub bytes: u64,
}

/// What a run has done.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What became of the tiles.
    pub written: Written,
    /// Figures for each zoom, shallowest first.
    pub zooms: Vec<ZoomStats>,
    /// How the budgets of layers were met, by their numbers; layers that kept to theirs are missing.
    pub layers: BTreeMap<u16, LayerStats>,
    /// Tiles in which a layer could not be rendered, in the order of the plan.
    pub failed: Vec<FailedTile>,
    /// Planned tiles that were rendered and handed to the sink.
    tiles: u64,
    /// Edits handed to the sink: as many as tiles, or one for each layer of each tile.
    handed: u64,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError<R, W> {
    /// A source failed.
    #[error(transparent)]
    Source(R),
    /// The sink failed.
    #[error(transparent)]
    Sink(W),
    /// A tile could not be packed.
    #[error("tile {tile}")]
    Encode {
        /// Which one.
        tile: TileCoord,
        /// The cause.
        source: EncodeError,
    },
    /// More tiles could not be rendered than can be an accident.
    #[error(
        "more than {MOST_FAILED} tiles could not be rendered, the last of them {tile} ({cause}): that is more than on_tile_error = \"skip\" is for. Mend what the cause names"
    )]
    ManyFailed {
        /// One of them.
        tile: TileCoord,
        /// Why.
        cause: String,
    },
    /// A batch came back with other tiles than planned.
    #[error(
        "a batch of zoom {zoom} came back with {found} tiles for {planned} planned: the result is not complete, nothing was published. Please report this"
    )]
    Miscounted {
        /// The batch's zoom.
        zoom: Zoom,
        /// Tiles planned.
        planned: u64,
        /// Tiles that came.
        found: u64,
    },
    /// Fewer tiles were stored than planned, though nothing failed.
    #[error(
        "{stored} of {planned} planned tiles were stored: the result is not complete, nothing was published. Please report this"
    )]
    Incomplete {
        /// Tiles planned.
        planned: u64,
        /// Tiles stored, removed and unchanged.
        stored: u64,
    },
    /// A worker died.
    #[error("a worker died ({0}): the result is not complete, nothing was published. Please report this")]
    Died(String),
}

/// A packed batch on its way to the writer.
struct Packed {
    /// Its place in the plan.
    index: usize,
    zoom: Zoom,
    /// Its planned tiles.
    tiles: u64,
    edits: Vec<TileEdit>,
    /// What is drawn, side by side with `edits`.
    drawn: Vec<Drawn>,
    notes: Vec<Said>,
    planned_features: u64,
    /// Time spent on rendering and packing it.
    busy: Duration,
    permit: OwnedSemaphorePermit,
}

/// What there is to say of a layer in a tile.
#[derive(Debug)]
struct Said {
    tile: TileCoord,
    note: Note,
    /// The bytes of its part packed by itself, where they may be too many.
    bytes: u64,
}

/// What is drawn in an edit.
#[derive(Debug, Clone, Copy)]
struct Drawn {
    /// Features; those of a tile stand at its first edit.
    features: u64,
    /// The number of the layer that has the most bytes.
    heaviest: u16,
}

/// Renders every batch and stores it. The batches are in the order that the sink needs; each source works on its own.
/// `stored` is told of each batch once it is handed to the sink.
///
/// Gives the sink back when every planned tile is accounted for; it is to be finished then.
///
/// # Errors
/// At the first failure of a source or of the sink, or if a count is off. The sink is dropped then.
pub async fn run<R, W>(
    batches: Vec<Batch>,
    sources: Vec<R>,
    sink: W,
    limits: Limits,
    stored: impl Fn(&Stored) + Send + 'static,
) -> Result<(W, Outcome), PipelineError<R::Error, W::Error>>
where
    R: Source + 'static,
    W: Sink + 'static,
{
    let how = How { packing: limits.packing, needs: sink.needs(), failed: Arc::default() };
    let planned: u64 = batches.iter().map(|batch| batch.tiles).sum();
    let window = Arc::new(Semaphore::new(limits.window.get()));
    let mut queue: Vec<(usize, Batch)> = batches.into_iter().enumerate().collect();
    // Only where there is a permit for every batch: else those that are stored first would wait for permits of later ones.
    if queue.len() <= limits.window.get() {
        queue.sort_by_key(|(_, batch)| batch.late);
    }
    let queue = Arc::new(Mutex::new(queue.into_iter()));
    let (done, packed) = mpsc::channel(limits.window.get());
    let writer = tokio::task::spawn_blocking(move || writer::write(packed, sink, stored));

    let mut workers = JoinSet::new();
    for source in sources {
        workers.spawn(work(source, Arc::clone(&window), Arc::clone(&queue), how.clone(), done.clone()));
    }
    // The writer ends when the last sender is gone.
    drop(done);
    let mut failure = None;
    while let Some(worker) = workers.join_next().await {
        let worked = worker.unwrap_or_else(|error| Err(PipelineError::Died(error.to_string())));
        if let Err(error) = worked {
            // The others end after the batch in hand.
            window.close();
            failure.get_or_insert(error);
        }
    }
    let written = writer.await.map_err(|error| PipelineError::Died(error.to_string()))?;
    // A failed writer makes the workers stop; then its error is the cause.
    let (sink, outcome) = written.map_err(PipelineError::Sink)?;
    if let Some(error) = failure {
        return Err(error);
    }
    for (planned, stored) in [(planned, outcome.tiles), (outcome.handed, outcome.written.total())] {
        if planned != stored {
            return Err(PipelineError::Incomplete { planned, stored });
        }
    }
    Ok((sink, outcome))
}

/// How rendered tiles become edits.
#[derive(Debug, Clone)]
struct How {
    packing: Packing,
    needs: Needs,
    /// How many tiles of the run could not be rendered so far.
    failed: Arc<AtomicU64>,
}

impl How {
    /// Counts the tiles that could not be rendered; gives how many of these there are.
    fn count_failed<R, W>(&self, tiles: &[RenderedTile]) -> Result<u64, PipelineError<R, W>> {
        let mut count = 0;
        for tile in tiles.iter().filter(|tile| tile.is_failed()) {
            count += 1;
            if self.failed.fetch_add(1, Relaxed) >= MOST_FAILED {
                let cause = tile.notes.iter().find_map(|note| match &note.what {
                    Noted::Failed { cause } => Some(cause.clone()),
                    _ => None,
                });
                return Err(PipelineError::ManyFailed { tile: tile.tile, cause: cause.unwrap_or_default() });
            }
        }
        Ok(count)
    }
}

/// One worker: batch after batch until there is none, or the writer is gone. While one batch is packed on a thread of its
/// own the next one is rendered, so that the database never waits for gzip.
async fn work<R: Source, W: Send + 'static>(
    mut source: R,
    window: Arc<Semaphore>,
    queue: Arc<Mutex<impl Iterator<Item = (usize, Batch)>>>,
    how: How,
    done: mpsc::Sender<Packed>,
) -> Result<(), PipelineError<R::Error, W>> {
    let mut packing: Option<JoinHandle<Freed<R::Error, W>>> = None;
    let mut packer = Some(Packer::new(how.packing));
    loop {
        let permit = Arc::clone(&window).acquire_owned().await;
        let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
        let (Ok(permit), Some((index, batch))) = (permit, next) else { break };
        let begun = Instant::now();
        let tiles = source.render(&batch).await.map_err(PipelineError::Source)?;
        let Some(zoom) = batch.zoom() else { continue };
        // Whether a tile that failed was planned may not be known.
        let (found, failed) = (tiles.len() as u64, how.count_failed(&tiles)?);
        if !(found - failed..=found).contains(&batch.tiles) {
            return Err(PipelineError::Miscounted { zoom, planned: batch.tiles, found: tiles.len() as u64 });
        }
        let rendering = begun.elapsed();
        if let Some(packing) = packing.take() {
            let Some(free) = packed(packing).await? else { return Ok(()) };
            packer = Some(free);
        }
        let mut packer = packer.take().unwrap_or_else(|| Packer::new(how.packing));
        let (done, needs) = (done.clone(), how.needs);
        packing = Some(tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let (edits, drawn, notes) = pack(tiles, &mut packer, needs)?;
            let busy = rendering + begun.elapsed();
            let (tiles, planned_features) = (batch.tiles, batch.features());
            let batch = Packed { index, zoom, tiles, edits, drawn, notes, planned_features, busy, permit };
            // A writer that is gone has failed: its error is the cause.
            Ok(done.blocking_send(batch).ok().map(|()| packer))
        }));
    }
    match packing {
        Some(packing) => packed(packing).await.map(drop),
        None => Ok(()),
    }
}

/// What a packing thread gives back: the packer, or nothing if the writer is gone.
type Freed<R, W> = Result<Option<Packer>, PipelineError<R, W>>;

async fn packed<R, W>(packing: JoinHandle<Freed<R, W>>) -> Freed<R, W> {
    packing.await.unwrap_or_else(|error| Err(PipelineError::Died(error.to_string())))
}

/// What is to be done with some tiles, what is drawn in them, and what there is to say.
type Edits = (Vec<TileEdit>, Vec<Drawn>, Vec<Said>);

/// Tiles as the target stores them, in the order that it needs, and the features drawn in each.
fn pack<R, W>(mut tiles: Vec<RenderedTile>, packer: &mut Packer, needs: Needs) -> Result<Edits, PipelineError<R, W>> {
    tiles.sort_by_key(|rendered| needs.order.place(rendered.tile));
    let mut edits = Vec::with_capacity(tiles.len());
    let (mut all_drawn, mut all_notes) = (Vec::with_capacity(tiles.len()), Vec::new());
    for RenderedTile { tile, mvt, mut layers, features, notes } in tiles {
        let first = all_drawn.len();
        let mut add = |slice, mvt: &[u8], is_known: bool| {
            let id = TileId { coord: tile, slice };
            let bytes = if mvt.is_empty() { None } else { Some(packer.pack(mvt)) };
            let bytes = bytes.transpose().map_err(|source| PipelineError::Encode { tile, source })?;
            edits.push(match bytes {
                Some(bytes) if is_known => TileEdit::Put(id, bytes),
                None if is_known => TileEdit::Remove(id),
                rest => TileEdit::Keep(id, rest),
            });
            Ok(())
        };
        let is_failed =
            |layer: u16| notes.iter().any(|note| note.layer == layer && matches!(note.what, Noted::Failed { .. }));
        if needs.layers_apart {
            layers.sort_unstable();
            let mut rest = &*mvt;
            for (layer, bytes) in &layers {
                let (own, others) = rest.split_at_checked(*bytes).unwrap_or((rest, &[]));
                rest = others;
                add(Slice::Layer(*layer), own, !is_failed(*layer))?;
                all_drawn.push(Drawn { features: 0, heaviest: *layer });
            }
        } else {
            add(Slice::Whole, &mvt, !layers.iter().any(|(layer, _)| is_failed(*layer)))?;
            let heaviest = layers.iter().max_by_key(|(layer, bytes)| (*bytes, std::cmp::Reverse(*layer)));
            all_drawn.push(Drawn { features: 0, heaviest: heaviest.map_or(0, |(layer, _)| *layer) });
        }
        if let Some(drawn) = all_drawn.get_mut(first) {
            drawn.features = features;
        }
        for note in notes {
            let mut bytes = 0;
            if let Noted::Heavy { .. } = note.what {
                let part = part_of(&mvt, &layers, note.layer);
                // Mostly there is no other layer, and it is packed already.
                bytes = match &edits[first..] {
                    [TileEdit::Put(_, stored)] if part.len() == mvt.len() => stored.len(),
                    _ => packer.pack(part).map_err(|source| PipelineError::Encode { tile, source })?.len(),
                } as u64;
            }
            all_notes.push(Said { tile, note, bytes });
        }
    }
    Ok((edits, all_drawn, all_notes))
}

#[cfg(test)]
mod tests;
