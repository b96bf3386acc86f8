//! Counted cells as the parameters of the statement that draws them.

use tokio_postgres::types::Type;

use super::PreparedLayer;
use super::areas::is_searched;
use crate::cells::{CountedCell, Folded};
use crate::postgis::layer::{Layer, ROUNDING_UNITS, world_box};
use crate::postgis::session::{BinaryValue, Param};
use crate::postgis::sql::{FoldedValue, FoldedValues};
use crate::tile::{Area, WorldRect};

/// The counted cells that may be visible in some areas, as a statement's arrays.
pub(crate) struct CellColumns {
    /// The number of the area, counted from 1, the code, the number of members, and the position x, y in world units.
    cells: [Vec<i64>; 5],
    folded: Vec<FoldColumn>,
    /// Cells of lone rows; `None` if lone rows are not drawn as themselves.
    lone: Option<LoneColumns>,
}

#[derive(Default)]
struct LoneColumns {
    /// The number of the area, counted from 1, and the code.
    codes: [Vec<i64>; 2],
    /// West, south, east, north of the box in which the member lies.
    sides: [Vec<f64>; 4],
}

impl CellColumns {
    /// The counted cells that may be visible in the areas; `None` if the layer's cells are not counted.
    pub(crate) fn bind(prepared: &PreparedLayer, index: usize, areas: &[Area]) -> Option<CellColumns> {
        let layer = prepared.layer();
        let (counted, grid) = (prepared.counts()?, layer.grid()?);
        let mut columns = CellColumns::empty(prepared);
        let searched = areas.iter().filter(|area| is_searched(area, index));
        for (number, area) in (1..).zip(searched) {
            let (margin, zoom) = (layer.margin.units(area.rect.zoom), area.rect.zoom);
            // Cells that are planned by their boxes are drawn at the mean of their members, which may be anywhere in
            // the box.
            let spread = if layer.placement().plans_cell_boxes() { grid.reach(zoom) } else { 0 };
            for (cell, folded) in counted.near(&grid, &area.rect, margin, spread) {
                columns.push(layer, number, cell, folded);
            }
        }
        Some(columns)
    }

    /// Some cells, each with the number of its area, counted from 1.
    pub(crate) fn of<'c>(
        prepared: &PreparedLayer,
        cells: impl Iterator<Item = (i64, &'c CountedCell, &'c [Folded])>,
    ) -> CellColumns {
        let mut columns = CellColumns::empty(prepared);
        for (area, cell, folded) in cells {
            columns.push(prepared.layer(), area, cell, folded);
        }
        columns
    }

    fn empty(prepared: &PreparedLayer) -> CellColumns {
        let folded = prepared.folds().map(FoldColumn::of).unwrap_or_default();
        let lone = prepared.layer().keeps_lone().then(LoneColumns::default);
        CellColumns { cells: Default::default(), folded, lone }
    }

    /// Adds a cell that may be visible in the area with this number.
    fn push(&mut self, layer: &Layer, area: i64, cell: &CountedCell, folded: &[Folded]) {
        let world = WorldRect::from(cell.world);
        if let Some(LoneColumns { codes, sides }) = self.lone.as_mut().filter(|_| cell.members == 1) {
            codes.iter_mut().zip([area, cell.code]).for_each(|(column, value)| column.push(value));
            let around = world_box(layer, world.grown(ROUNDING_UNITS)).sides();
            sides.iter_mut().zip(around).for_each(|(column, side)| column.push(side));
            return;
        }
        let values = [area, cell.code, cell.members.cast_signed(), world.west, world.north];
        self.cells.iter_mut().zip(values).for_each(|(column, value)| column.push(value));
        self.folded.iter_mut().zip(folded).for_each(|(column, folded)| column.push(*folded));
    }

    /// The parameters in the order of the statement over [`Candidates::Counted`](crate::postgis::sql::Candidates).
    pub(crate) fn params(&self) -> impl Iterator<Item = Param<'_>> {
        let cells = self.cells.iter().map(|column| -> Param<'_> { (column as _, Type::INT8_ARRAY) });
        let lone = self.lone.iter().flat_map(|LoneColumns { codes, sides }| {
            let codes = codes.iter().map(|column| -> Param<'_> { (column as _, Type::INT8_ARRAY) });
            codes.chain(sides.iter().map(|column| -> Param<'_> { (column as _, Type::FLOAT8_ARRAY) }))
        });
        cells.chain(self.folded.iter().map(FoldColumn::param)).chain(lone)
    }
}

/// The folded values of some cells.
struct FoldColumn {
    value: FoldedValue,
    cells: Vec<Option<BinaryValue>>,
}

impl FoldColumn {
    fn of(folds: &FoldedValues) -> Vec<FoldColumn> {
        folds.0.iter().map(|value| FoldColumn { value: value.clone(), cells: Vec::new() }).collect()
    }

    /// Adds the value of another cell.
    fn push(&mut self, folded: Folded) {
        let value = &self.value;
        self.cells.push(folded.map(|folded| {
            let bytes = folded.to_be_bytes();
            BinaryValue(match value.folded_type() {
                Type::TEXT_ARRAY => folded.to_string().into_bytes(),
                Type::BOOL_ARRAY => bytes[15..].into(),
                Type::INT2_ARRAY => bytes[14..].into(),
                Type::INT4_ARRAY | Type::DATE_ARRAY => bytes[12..].into(),
                _ => bytes[8..].into(),
            })
        }));
    }

    fn param(&self) -> Param<'_> {
        (&self.cells, self.value.folded_type())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Fold;
    use crate::postgis::sql::ValueKind;

    #[test]
    fn folded_values_are_written_in_the_binary_format() {
        let written = |fold, kind, folded| {
            let mut column = FoldColumn { value: FoldedValue { sql: String::new(), fold, kind }, cells: Vec::new() };
            column.push(Some(folded));
            column.cells.remove(0).unwrap().0
        };
        assert_eq!(written(Fold::Least, ValueKind::Int2, -2), [0xff, 0xfe]);
        assert_eq!(written(Fold::Greatest, ValueKind::Date, -1), [0xff; 4]);
        assert_eq!(written(Fold::Least, ValueKind::Bool, 1), [1]);
        assert_eq!(written(Fold::Sum, ValueKind::Int2, 65_536), 65_536_i64.to_be_bytes());
        assert_eq!(written(Fold::Distinct, ValueKind::Bytes, 3), 3_i64.to_be_bytes());
        assert_eq!(written(Fold::Sum, ValueKind::Int8, i128::from(i64::MAX) * 2), b"18446744073709551614");
    }
}
