//! Gathers the members of cells.

use std::sync::mpsc;

use tokio::task::JoinHandle;
use tokio_postgres::Row;

use super::fold_reader::FoldReader;
use super::rows::{position, source_box};
use crate::cells::{CellCounts, CellGrid, Gathering, Members};
use crate::postgis::layer::Layer;
use crate::postgis::sql::FoldedValues;
use crate::tile::{LayerFootprints, Zoom};

/// Gathers members in cells on a thread of its own, while the database goes on finding them.
pub(in crate::postgis) struct Gatherer {
    /// The members' boxes are needed: no closed formula leads from an area to them.
    needs_boxes: bool,
    /// Reads what is folded of them.
    reader: Option<FoldReader>,
    next: Members,
    found: mpsc::Sender<Members>,
    gathering: JoinHandle<Gathering>,
}

impl Gatherer {
    /// Members handed over at a time.
    const MEMBERS_PER_MESSAGE: usize = 16_384;

    pub(in crate::postgis) fn start(
        layer: &Layer,
        folds: Option<&FoldedValues>,
        grid: CellGrid,
        zooms: &[Zoom],
    ) -> Gatherer {
        let (found, members) = mpsc::channel();
        let needs_boxes = !layer.is_found_by_area();
        let reader = folds.map(|folds| FoldReader::new(folds, if needs_boxes { 6 } else { 2 }));
        let mut gathering = Gathering::new(grid, zooms, folds.map(|folds| folds.wanted(layer)));
        let gathering = tokio::task::spawn_blocking(move || {
            for members in members {
                gathering.add(members);
            }
            gathering
        });
        Gatherer { needs_boxes, reader, next: Members::default(), found, gathering }
    }

    /// A row, if it can be placed.
    pub(in crate::postgis) fn add(&mut self, row: &Row) -> Option<()> {
        let at = position(row)?;
        if self.needs_boxes {
            self.next.source.push(source_box(row)?);
        }
        self.next.at.push(at);
        if !self.reader.as_mut().is_none_or(|reader| reader.read(row, &mut self.next.values)) {
            tracing::debug!("there are too many different values to count them at once");
            self.reader = None;
        }
        if self.next.len() == Self::MEMBERS_PER_MESSAGE {
            self.hand_over();
        }
        Some(())
    }

    fn hand_over(&mut self) {
        let members = std::mem::take(&mut self.next);
        // A thread that is gone has panicked, which shows when it is joined.
        if self.found.send(members).is_err() {
            tracing::debug!("the cells are not gathered any more");
        }
    }

    /// How many members there were, and their cells.
    pub(in crate::postgis) async fn finish(mut self) -> (u64, (LayerFootprints, CellCounts)) {
        self.hand_over();
        let Gatherer { found, gathering, .. } = self;
        drop(found);
        let gathering = gathering.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let rows = gathering.count();
        let finishing = tokio::task::spawn_blocking(move || gathering.finish());
        (rows, finishing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())))
    }
}
