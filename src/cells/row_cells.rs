//! The cells of rows whose positions do not change, so that any of these rows are counted without arithmetic.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::fold::CodeHasher;
use super::gather::ZoomGathering;
use super::{CellCounts, CellGrid, Members};
use crate::tile::Zoom;

/// The cell at a zoom of each of some rows, which are numbered from 0.
#[derive(Debug)]
pub(crate) struct RowCells {
    grid: CellGrid,
    zoom: Zoom,
    /// The code of each cell.
    codes: Vec<i64>,
    /// The number of each row's cell.
    cells: Vec<u16>,
}

impl RowCells {
    /// The cells of rows at these positions in world units. `None` if they are more than 65,536.
    pub(crate) fn new(grid: CellGrid, zoom: Zoom, rows: impl Iterator<Item = [f64; 2]>) -> Option<RowCells> {
        let mut numbers: HashMap<i64, u16, BuildHasherDefault<CodeHasher>> = HashMap::default();
        let (mut codes, mut cells) = (Vec::new(), Vec::with_capacity(rows.size_hint().0));
        for at in rows {
            let code = grid.cell(zoom, at).code();
            let known = numbers.get(&code).copied();
            let number = known.map_or_else(|| u16::try_from(codes.len()).ok(), Some)?;
            if known.is_none() {
                numbers.insert(code, number);
                codes.push(code);
            }
            cells.push(number);
        }
        Some(RowCells { grid, zoom, codes, cells })
    }

    /// The memory in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.codes[..]) + size_of_val(&self.cells[..])
    }

    /// Begins to count some of the rows.
    pub(crate) fn counting(&self) -> RowCellCounts<'_> {
        RowCellCounts { cells: self, members: vec![0; self.codes.len()] }
    }
}

/// The cells of some of the rows while these are counted.
pub(crate) struct RowCellCounts<'c> {
    cells: &'c RowCells,
    /// The number of members of each cell.
    members: Vec<u32>,
}

impl RowCellCounts<'_> {
    /// Counts a row, by its number.
    pub(crate) fn add(&mut self, row: u32) {
        self.members[usize::from(self.cells.cells[row as usize])] += 1;
    }

    /// The counted cells, with `others`, rows whose cells are not known yet.
    pub(crate) fn finish(self, others: &Members) -> CellCounts {
        let RowCellCounts { cells: RowCells { grid, zoom, codes, .. }, members } = self;
        let counted = codes.iter().zip(members).filter(|(_, members)| *members > 0);
        let counted = counted.map(|(code, members)| (*code, u64::from(members), [0; 2], &[][..]));
        let mut gathering = ZoomGathering::of_counted(counted, None);
        gathering.add(others, grid, *zoom);
        gathering.counts(grid, *zoom, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::{CellEdges, CellGeometry, CellShape, Gathering};

    #[test]
    fn known_cells_are_counted_as_gathered_ones() {
        let mut random = 3_u64;
        let mut below = |most: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % most
        };
        let mut rows = |count: usize| -> Vec<[f64; 2]> {
            let mut unit = || f64::from(u32::try_from(below(1 << 12) << 20).unwrap()) + 0.5;
            (0..count).map(|_| [unit(), unit()]).collect()
        };
        let zoom = Zoom::new(2).unwrap();
        for (shape, geometry, merges) in [
            (CellShape::Square, CellGeometry::Polygon, false),
            (CellShape::Hexagon, CellGeometry::Center, false),
            (CellShape::Hexagon, CellGeometry::Center, true),
        ] {
            let grid = CellGrid { shape, size: 0.25, geometry, merges, edges: CellEdges::Mercator };
            let (known, others) = (rows(2_000), Members { at: rows(100), ..Members::default() });
            let cells = RowCells::new(grid, zoom, known.iter().copied()).unwrap();
            let mut counting = cells.counting();
            let some = || (0..2_000).filter(|row| row % 3 == 0);
            some().for_each(|row| counting.add(row));
            let mut gathering = Gathering::new(grid, &[zoom], None);
            let at = some().map(|row| known[row as usize]).chain(others.at.iter().copied()).collect();
            gathering.add(Members { at, ..Members::default() });
            assert_eq!(counting.finish(&others), gathering.finish().1, "{shape:?}, merged: {merges}");
        }
    }

    #[test]
    fn too_many_cells_are_not_known() {
        let grid = CellGrid::squares(1.0);
        let zoom = Zoom::new(20).unwrap();
        let of = |rows: u32| RowCells::new(grid, zoom, (0..rows).map(|row| [f64::from(row) * 4_096.0, 0.5]));
        assert!(of(65_536).is_some() && of(65_537).is_none());
    }
}
