//! What a zoom shows of features that are put together in cells.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::grid::unit_of;
use super::{BoxFootprint, Footprints, Grid, Places, SourceBox, Standing, Zoom};

/// The features that cells are made of.
#[derive(Debug, Default)]
pub struct Members {
    /// Where each lies: x, y in world units.
    pub at: Vec<[f64; 2]>,
    /// The box of each in its own reference system, where no closed formula leads there; else empty.
    pub source: Vec<SourceBox>,
}

impl Members {
    /// What stands for the cells of a grid at some zooms.
    #[must_use]
    pub fn gathered(&self, grid: &Grid, zooms: &[Zoom]) -> Places {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(zooms.len().max(1));
        let waiting = Mutex::new(zooms.to_vec());
        let next = || waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        let work = || {
            let mut done = Vec::new();
            while let Some(zoom) = next() {
                done.push((zoom, self.at_zoom(grid, zoom)));
            }
            done
        };
        let places: BTreeMap<Zoom, Footprints> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let joined = workers.into_iter().map(std::thread::ScopedJoinHandle::join);
            joined.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        Places::ByZoom(places)
    }

    fn at_zoom(&self, grid: &Grid, zoom: Zoom) -> Footprints {
        #[expect(clippy::cast_possible_truncation, reason = "a layer holds fewer than 2^32 features")]
        let mut members: Vec<(i64, u32)> =
            (self.at.iter().enumerate()).map(|(number, at)| (grid.cell(zoom, *at).code(), number as u32)).collect();
        members.sort_unstable();
        let cells = members.chunk_by(|one, other| one.0 == other.0);
        let world = |cell: &[(i64, u32)]| self.world(grid, zoom, cell);
        if !self.source.is_empty() {
            let footprint = |cell: &[(i64, u32)]| BoxFootprint { world: world(cell), source: self.around(cell) };
            return Footprints::Gathered(cells.map(footprint).collect());
        }
        if grid.standing == Standing::Polygon {
            return Footprints::Cells(cells.map(world).collect());
        }
        let point = |cell: &[(i64, u32)]| {
            let [x, y, _, _] = world(cell);
            u64::from(x) << 32 | u64::from(y)
        };
        Footprints::Points(cells.map(point).collect())
    }

    /// Where what stands for a cell lies, in world units.
    fn world(&self, grid: &Grid, zoom: Zoom, cell: &[(i64, u32)]) -> [u32; 4] {
        let members = || cell.iter().map(|(_, number)| self.at[*number as usize]);
        if grid.standing != Standing::Centroid {
            let one = members().next().unwrap_or_default();
            return grid.shown(zoom, grid.cell(zoom, one));
        }
        // Whole numbers, as in the database: the sum is the same in any order.
        let sum = members().map(unit_of).fold([0_u64; 2], |[a, b], [x, y, _, _]| [a + u64::from(x), b + u64::from(y)]);
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
        let places = members.gathered(&grid(Standing::Centroid), &zooms);
        let counts: Vec<usize> = zooms.iter().map(|zoom| places.at(*zoom).len()).collect();
        assert_eq!((counts, places.at(Zoom::MAX).len()), (vec![2, 2, 2], 0));
        assert_eq!(places.at(zooms[0]).world(0), [20, 15, 20, 15]);
        let places = members.gathered(&grid(Standing::Center), &zooms);
        assert_eq!(places.at(zooms[0]).world(0), [1 << 30, 1 << 30, 1 << 30, 1 << 30]);
        let places = members.gathered(&grid(Standing::Polygon), &zooms);
        assert_eq!(places.at(zooms[0]).world(1), [1 << 31, 0, u32::MAX, 1 << 31]);
        let members = Members { source: vec![[1.0, 1.0, 1.0, 1.0], [2.0, 3.0, 2.0, 3.0], [9.0; 4]], ..members };
        let places = members.gathered(&grid(Standing::Center), &zooms);
        assert_eq!(places.at(zooms[2]).sources(0).collect::<Vec<_>>(), [[1.0; 4], [2.0, 3.0, 2.0, 3.0]]);
    }
}
