//! The cost of columns of tiles, and of the rows below them from west to east.

use std::collections::BTreeMap;

use crate::tile::{Batch, Zoom};

/// The number of rows, and the cost of reading them once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RowCost {
    pub(super) rows: f64,
    pub(super) cost: f64,
}

/// The cost of the columns of a plan, by zoom: of the tiles that are drawn, and of the rows that have to be read for them.
#[derive(Debug, Default)]
pub struct ColumnWeights {
    pub(super) tiles: BTreeMap<Zoom, BTreeMap<u32, f64>>,
    rows: BTreeMap<Zoom, BTreeMap<u32, RowCost>>,
}

/// Calls `each` with every column of a batch, and the share of the batch that lies in it.
#[expect(clippy::cast_precision_loss, reason = "weights are estimates")]
fn each_column(batch: &Batch, mut each: impl FnMut(Zoom, u32, f64)) {
    let repeated = batch.repeats.iter().flat_map(|repeat| &repeat.tiles).copied();
    let rects: Vec<_> = batch.areas.iter().map(|area| area.rect).chain(repeated).collect();
    let columns: u64 = rects.iter().map(|rect| u64::from(rect.x1 - rect.x0) + 1).sum();
    let share = 1.0 / columns.max(1) as f64;
    for rect in rects {
        (rect.x0..=rect.x1).for_each(|column| each(rect.zoom, column, share));
    }
}

impl ColumnWeights {
    /// Adds the cost of drawing the tiles of a batch.
    pub fn add(&mut self, batch: &Batch, cost: f64) {
        each_column(batch, |zoom, column, share| {
            *self.tiles.entry(zoom).or_default().entry(column).or_default() += cost * share;
        });
    }

    /// Adds rows that lie in the tiles of a batch, and the cost of reading them.
    pub fn add_rows(&mut self, batch: &Batch, rows: f64, cost: f64) {
        each_column(batch, |zoom, column, share| {
            let own = self.rows.entry(zoom).or_default().entry(column).or_default();
            (own.rows, own.cost) = (own.rows + rows * share, own.cost + cost * share);
        });
    }

    /// The rows from west to east: their positions among the columns of the deepest zoom, and the sums up to each position.
    pub(super) fn rows_by_place(&self, deepest: Zoom) -> RowSums {
        let mut places: BTreeMap<u64, RowCost> = BTreeMap::new();
        for (zoom, columns) in &self.rows {
            for (column, own) in columns {
                let place = places.entry(first_of(*zoom, *column, deepest)).or_default();
                (place.rows, place.cost) = (place.rows + own.rows, place.cost + own.cost);
            }
        }
        let mut sums = RowSums { places: Vec::new(), sums: vec![RowCost::default()] };
        let mut sum = RowCost::default();
        for (place, own) in places {
            sum = RowCost { rows: sum.rows + own.rows, cost: sum.cost + own.cost };
            sums.places.push(place);
            sums.sums.push(sum);
        }
        sums
    }
}

/// Rows from west to east.
#[derive(Debug)]
pub(super) struct RowSums {
    places: Vec<u64>,
    /// The sums of all rows before each position; the last one is the sum of all rows.
    sums: Vec<RowCost>,
}

impl RowSums {
    /// The rows in the columns `from..end` of the deepest zoom.
    pub(super) fn between(&self, from: u64, end: u64) -> RowCost {
        let upto = |place: u64| self.sums[self.places.partition_point(|own| *own < place)];
        let (before, all) = (upto(from), upto(end));
        RowCost { rows: all.rows - before.rows, cost: all.cost - before.cost }
    }
}

/// The first column of the deepest zoom below a column.
pub(super) fn first_of(zoom: Zoom, column: u32, deepest: Zoom) -> u64 {
    u64::from(column) << (deepest.get() - zoom.get().min(deepest.get()))
}
