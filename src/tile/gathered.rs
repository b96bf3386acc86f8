//! What a zoom shows of features that are put together in cells.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::grid::unit_of;
use super::{BoxFootprint, Cell, Footprints, Grid, Places, SourceBox, Standing, TileRect, Zoom};

/// The features that cells are made of.
#[derive(Debug, Default)]
pub struct Members {
    /// Where each lies: x, y in world units.
    pub at: Vec<[f64; 2]>,
    /// The box of each in its own reference system, where no closed formula leads there; else empty.
    pub source: Vec<SourceBox>,
}

/// A cell, how many members it has, and where what stands for it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// [`Cell::code`](super::Cell::code).
    pub code: i64,
    /// Its members.
    pub members: u64,
    /// West, north, east, south in world units.
    pub world: [u32; 4],
}

/// The cells of some zooms, in the order of their codes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CellCounts(BTreeMap<Zoom, Vec<Counted>>);

impl CellCounts {
    /// Takes in the cells of other zooms.
    pub fn join(&mut self, others: CellCounts) {
        self.0.extend(others.0);
    }

    /// The cells whose standing can touch some tiles grown by a margin (in world units), and perhaps some more.
    pub fn near(&self, grid: &Grid, rect: &TileRect, margin: i64) -> impl Iterator<Item = &Counted> {
        let cells = self.0.get(&rect.zoom).map_or(&[][..], Vec::as_slice);
        let (west, north, east, south) = rect.world(margin + grid.reach(rect.zoom));
        #[expect(clippy::cast_precision_loss, reason = "world units stay below 2^34, doubles are exact to 2^53")]
        let column = |x: i64| grid.cell(rect.zoom, [x as f64, 0.0]).a;
        // Codes are sorted by column first; of hexagons, half a step may lie between the rows.
        let first = cells.partition_point(|cell| Cell::of(cell.code).a < column(west) - 1);
        let end = cells.partition_point(|cell| Cell::of(cell.code).a <= column(east) + 1);
        cells[first..end].iter().filter(move |cell| {
            let [w, n, e, s] = cell.world.map(i64::from);
            w <= east && west <= e && n <= south && north <= s
        })
    }
}

impl Members {
    /// What stands for the cells of a grid at some zooms, and how many members each has.
    #[must_use]
    pub fn gathered(&self, grid: &Grid, zooms: &[Zoom]) -> (Places, CellCounts) {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(zooms.len().max(1));
        let waiting = Mutex::new(zooms.to_vec());
        let next = || waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        let work = || {
            let mut done = Vec::new();
            while let Some(zoom) = next() {
                let (footprints, counted) = self.at_zoom(grid, zoom);
                done.push(((zoom, footprints), (zoom, counted)));
            }
            done
        };
        let (places, counts) = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let joined = workers.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).unzip()
        });
        (Places::ByZoom(places), CellCounts(counts))
    }

    fn at_zoom(&self, grid: &Grid, zoom: Zoom) -> (Footprints, Vec<Counted>) {
        #[expect(clippy::cast_possible_truncation, reason = "a layer holds fewer than 2^32 features")]
        let mut members: Vec<(i64, u32)> =
            (self.at.iter().enumerate()).map(|(number, at)| (grid.cell(zoom, *at).code(), number as u32)).collect();
        members.sort_unstable();
        let cells = || members.chunk_by(|one, other| one.0 == other.0);
        let counted = |cell: &[(i64, u32)]| Counted {
            code: cell[0].0,
            members: cell.len() as u64,
            world: self.world(grid, zoom, cell),
        };
        let counted: Vec<Counted> = cells().map(counted).collect();
        let worlds = counted.iter().map(|cell| cell.world);
        let footprints = if !self.source.is_empty() {
            // All members of a cell are found only where the cell is looked for: in its box, not just at its mean.
            let footprint = |(cell, members): (&Counted, &[(i64, u32)])| BoxFootprint {
                world: grid.shown(zoom, Cell::of(cell.code)),
                source: self.around(members),
            };
            Footprints::Gathered(counted.iter().zip(cells()).map(footprint).collect())
        } else if grid.standing == Standing::Polygon {
            Footprints::Cells(worlds.collect())
        } else {
            Footprints::Points(worlds.map(|[x, y, _, _]| u64::from(x) << 32 | u64::from(y)).collect())
        };
        (footprints, counted)
    }

    /// Where what stands for a cell lies, in world units.
    fn world(&self, grid: &Grid, zoom: Zoom, cell: &[(i64, u32)]) -> [u32; 4] {
        if grid.standing != Standing::Centroid {
            return grid.shown(zoom, Cell::of(cell[0].0));
        }
        // Whole numbers, as in the database: the sum is the same in any order.
        let members = cell.iter().map(|(_, number)| unit_of(self.at[*number as usize]));
        let sum = members.fold([0_u64; 2], |[a, b], [x, y, _, _]| [a + u64::from(x), b + u64::from(y)]);
        let [x, y] = sum.map(|sum| u32::try_from(sum / cell.len() as u64).unwrap_or(u32::MAX));
        [x, y, x, y]
    }

    /// The box around the members in their own reference system.
    fn around(&self, cell: &[(i64, u32)]) -> SourceBox {
        let all = [f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY];
        cell.iter()
            .map(|(_, number)| self.source[*number as usize])
            .fold(all, |a, b| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::CellShape;

    #[test]
    fn members_of_a_cell_are_shown_once() {
        let zooms: Vec<Zoom> = [0, 1, 9].map(|level| Zoom::new(level).unwrap()).into();
        let at = vec![[10.0, 10.5], [30.9, 20.0], [4_000_000_000.0, 7.0]];
        let members = Members { at, source: Vec::new() };
        let grid = |standing| Grid { shape: CellShape::Square, size: 0.5, standing };
        let (places, counts) = members.gathered(&grid(Standing::Centroid), &zooms);
        let whole = TileRect { zoom: zooms[0], x0: 0, y0: 0, x1: 0, y1: 0 };
        let near: Vec<u64> = counts.near(&grid(Standing::Centroid), &whole, 0).map(|cell| cell.members).collect();
        assert_eq!(near, [2, 1]);
        let counts: Vec<usize> = zooms.iter().map(|zoom| places.at(*zoom).len()).collect();
        assert_eq!((counts, places.at(Zoom::MAX).len()), (vec![2, 2, 2], 0));
        assert_eq!(places.at(zooms[0]).world(0), [20, 15, 20, 15]);
        let (places, _) = members.gathered(&grid(Standing::Center), &zooms);
        assert_eq!(places.at(zooms[0]).world(0), [1 << 30, 1 << 30, 1 << 30, 1 << 30]);
        let (places, _) = members.gathered(&grid(Standing::Polygon), &zooms);
        assert_eq!(places.at(zooms[0]).world(1), [1 << 31, 0, u32::MAX, 1 << 31]);
        let members = Members { source: vec![[1.0, 1.0, 1.0, 1.0], [2.0, 3.0, 2.0, 3.0], [9.0; 4]], ..members };
        let (places, _) = members.gathered(&grid(Standing::Center), &zooms);
        assert_eq!(places.at(zooms[2]).sources(0).collect::<Vec<_>>(), [[1.0; 4], [2.0, 3.0, 2.0, 3.0]]);
    }
}
