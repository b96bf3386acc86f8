//! Gathers rows in cells while the database still sends them.

use std::sync::mpsc;

use tokio::task::JoinHandle;
use tokio_postgres::Row;

use super::fold_reader::FoldReader;
use super::rows::{position, source_box};
use crate::cells::{CellCounts, CellGrid, Gathering, Members};
use crate::postgis::layer::Layer;
use crate::postgis::sql::FoldedValues;
use crate::tile::{LayerFootprints, Zoom};

/// Gathers rows in cells on its own thread.
pub(in crate::postgis) struct Gatherer {
    /// True if the boxes of rows are kept, because the layer has no closed formula that finds the rows of an area.
    needs_boxes: bool,
    /// Reads the values that are folded; `None` if rows are only counted.
    reader: Option<FoldReader>,
    /// The rows for the next message.
    next: Members,
    sender: mpsc::Sender<Members>,
    gathering: JoinHandle<Gathering>,
}

/// The cells of all rows.
pub(in crate::postgis) struct GatheredCells {
    /// The number of rows in them.
    pub(in crate::postgis) rows: u64,
    /// Where the cells are drawn.
    pub(in crate::postgis) footprints: LayerFootprints,
    /// The number of rows and the folded values of each.
    pub(in crate::postgis) counts: CellCounts,
}

impl Gatherer {
    /// The number of rows that are sent to the thread together.
    const ROWS_PER_MESSAGE: usize = 16_384;

    pub(in crate::postgis) fn start(
        layer: &Layer,
        folds: Option<&FoldedValues>,
        grid: CellGrid,
        zooms: &[Zoom],
    ) -> Gatherer {
        let (sender, receiver) = mpsc::channel();
        let needs_boxes = !layer.is_found_by_area();
        let reader = folds.map(|folds| FoldReader::new(folds, if needs_boxes { 6 } else { 2 }));
        let mut gathering = Gathering::new(grid, zooms, folds.map(|folds| folds.wanted_folds(layer)));
        let gathering = tokio::task::spawn_blocking(move || {
            for members in receiver {
                gathering.add(members);
            }
            gathering
        });
        Gatherer { needs_boxes, reader, next: Members::default(), sender, gathering }
    }

    /// Adds a row; `None` if it is skipped.
    pub(in crate::postgis) fn add(&mut self, row: &Row) -> Option<()> {
        let at = position(row)?;
        if self.needs_boxes {
            self.next.source.push(source_box(row)?);
        }
        self.next.at.push(at);
        if !self.reader.as_mut().is_none_or(|reader| reader.read(row, &mut self.next.values)) {
            tracing::debug!("the rows have too many different values: they are not folded while rows are read");
            self.reader = None;
        }
        if self.next.len() == Self::ROWS_PER_MESSAGE {
            self.send();
        }
        Some(())
    }

    fn send(&mut self) {
        let members = std::mem::take(&mut self.next);
        // If the thread has ended, it has panicked; joining it propagates the panic.
        if self.sender.send(members).is_err() {
            tracing::debug!("the thread that gathers cells has ended");
        }
    }

    /// Waits for the thread, and returns the cells.
    pub(in crate::postgis) async fn finish(mut self) -> GatheredCells {
        self.send();
        let Gatherer { sender, gathering, .. } = self;
        drop(sender);
        let gathering = gathering.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let rows = gathering.count();
        let finishing = tokio::task::spawn_blocking(move || gathering.finish());
        let (footprints, counts) =
            finishing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        GatheredCells { rows, footprints, counts }
    }
}
