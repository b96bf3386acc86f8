//! Counts the cells of a reseed. If reading the rows of a layer once yields all of its aggregates, every zoom uses the result.

use std::sync::Arc;

use tokio::sync::watch;

use crate::postgis::{Error, PreparedLayer, RunLayers, Snapshot, Worker, counts_cells, foldable, survey};
use crate::source::{RenderedTile, Source};
use crate::tile::{AreaPart, Batch, Coverage, LonLatBox, TileCoord, TileRect, ZoomList};

/// The most boxes that are surveyed one by one. For more, the whole world is surveyed.
const MAX_BOXES: usize = 64;

/// The state of counting.
#[derive(Clone)]
pub(super) enum Counts {
    /// The cells are being counted.
    Waiting,
    /// The layers with their cell counts.
    Known(Arc<RunLayers>),
    /// Counting has failed. The task that counts returns the error.
    Failed,
}

/// A worker that waits for the cell counts, but only for batches that need them.
pub(super) struct CountingWorker {
    pub(super) worker: Worker,
    /// The layers: without cell counts at first, with them once a batch has needed them.
    pub(super) layers: Arc<RunLayers>,
    /// `None` once `layers` have the counts.
    pub(super) counts: Option<watch::Receiver<Counts>>,
}

impl Source for CountingWorker {
    type Error = Error;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, Error> {
        if let Some(counts) = self.counts.as_mut().filter(|_| batch.needs_cell_counts) {
            let known = counts.wait_for(|counts| !matches!(counts, Counts::Waiting)).await;
            match known.as_deref() {
                Ok(Counts::Known(layers)) => self.layers = Arc::clone(layers),
                _ => return Err(Error::Interrupted),
            }
            drop(known);
            self.counts = None;
        }
        self.worker.render(&self.layers, batch).await
    }
}

/// The layers, with cell counts if reading the rows once yields all aggregates of the cells that `tiles` show.
pub(super) async fn counted(
    snapshot: &Arc<Snapshot>,
    layers: &[PreparedLayer],
    tiles: &[TileCoord],
) -> Result<Vec<PreparedLayer>, Error> {
    let mut counted = Vec::new();
    for prepared in layers {
        let layer = prepared.layer();
        let shown: Vec<TileCoord> = tiles.iter().copied().filter(|tile| layer.may_be_counted(tile.zoom())).collect();
        let Some(zooms) = ZoomList::of(shown.iter().map(|tile| tile.zoom())) else {
            counted.push(prepared.clone());
            continue;
        };
        let folds = foldable(snapshot, layer).await?;
        let counts = if counts_cells(layer, folds.as_deref()) {
            survey(snapshot, layer, folds.as_deref(), &around(&shown), &zooms).await?.counted
        } else {
            None
        };
        counted.push(prepared.clone().with_cells(folds, counts));
    }
    Ok(counted)
}

/// The part of the world that the tiles cover.
fn around(tiles: &[TileCoord]) -> Coverage {
    let mut outer: Vec<TileRect> = Vec::new();
    let mut sorted = tiles.to_vec();
    sorted.sort_unstable_by_key(|tile| tile.zoom());
    for tile in sorted {
        let corner = TileRect::from(tile).world(0);
        let holds = |rect: &TileRect| {
            let sides = rect.world(0);
            (sides.west..sides.east).contains(&corner.west) && (sides.north..sides.south).contains(&corner.north)
        };
        if !outer.iter().any(holds) {
            outer.push(TileRect::from(tile));
        }
        if outer.len() > MAX_BOXES {
            return Coverage::new(&[]);
        }
    }
    let boxes: Vec<AreaPart> = outer.into_iter().map(|rect| LonLatBox::from(rect).into()).collect();
    Coverage::new(&boxes)
}
