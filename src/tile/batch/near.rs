//! The surroundings of changed positions: parts of a tile's grid, and cells in which rows are cached.

use std::collections::HashMap;

use crate::tile::{TileCoord, TileRect, WorldRect, Zoom};

/// A box of grid points of a tile, its edges included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GridBox {
    /// Its least x.
    pub west: i64,
    /// Its least y.
    pub north: i64,
    /// Its greatest x.
    pub east: i64,
    /// Its greatest y.
    pub south: i64,
}

impl GridBox {
    /// Whether a position lies in it.
    #[must_use]
    pub fn holds(&self, [x, y]: [i64; 2]) -> bool {
        (self.west..=self.east).contains(&x) && (self.north..=self.south).contains(&y)
    }
}

/// An index of boxes by position.
#[derive(Debug)]
pub struct GridBoxes<'b> {
    /// Small boxes, by the squares of the grid that they touch.
    by_square: HashMap<[i64; 2], Vec<&'b GridBox>>,
    large: Vec<&'b GridBox>,
}

impl<'b> GridBoxes<'b> {
    /// The side of an index square is 2 to this power grid units.
    const SQUARE: u32 = 4;
    /// A box that touches more index squares is not indexed.
    const MAX_SQUARES_PER_BOX: i64 = 64;
    /// Up to this many boxes are not indexed: comparing with each is faster.
    const MAX_UNINDEXED_BOXES: usize = 8;

    /// Builds the index.
    #[must_use]
    pub fn new(boxes: &'b [GridBox]) -> GridBoxes<'b> {
        let (mut by_square, mut large) = (HashMap::new(), Vec::new());
        for one in boxes {
            let [[west, north], [east, south]] = [[one.west, one.north], [one.east, one.south]].map(GridBoxes::square);
            if boxes.len() <= GridBoxes::MAX_UNINDEXED_BOXES
                || (east - west + 1).saturating_mul(south - north + 1) > GridBoxes::MAX_SQUARES_PER_BOX
            {
                large.push(one);
                continue;
            }
            for square in (north..=south).flat_map(|y| (west..=east).map(move |x| [x, y])) {
                by_square.entry(square).or_insert_with(Vec::new).push(one);
            }
        }
        GridBoxes { by_square, large }
    }

    fn square(at: [i64; 2]) -> [i64; 2] {
        at.map(|unit| unit >> GridBoxes::SQUARE)
    }

    /// Whether a position lies in one of the boxes.
    #[must_use]
    pub fn hold(&self, at: [i64; 2]) -> bool {
        let near = if self.by_square.is_empty() { None } else { self.by_square.get(&GridBoxes::square(at)) };
        near.into_iter().flatten().chain(&self.large).any(|one| one.holds(at))
    }
}

/// A part of a tile in which something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedPart {
    /// Its grid points.
    pub grid: GridBox,
    /// The rectangle in which every feature lies that may be drawn at these grid points.
    pub world: WorldRect,
}

/// The surroundings of the changed positions of a layer of points, in which rows are cached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbourhood {
    /// From this zoom on, `cells` hold every row that may be drawn at the same grid point as a changed position.
    pub from: Zoom,
    /// Rectangles that do not overlap.
    pub cells: Vec<TileRect>,
    /// The number of changed positions.
    pub places: u64,
    /// Some tiles, each with its changed parts, to compare cached rows with what the database renders.
    pub samples: Vec<(TileCoord, Vec<ChangedPart>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_found_in_the_boxes_that_hold_it() {
        let mut chance = 5_u64;
        let mut next = |below: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::try_from((chance >> 33) % below).unwrap() - 40
        };
        for many in [0, 1, 8, 9, 40] {
            let mut boxes: Vec<GridBox> = Vec::new();
            for number in 0..many {
                // One in ten is wide.
                let (west, north, side) = (next(400), next(400), if number % 10 == 9 { 200 } else { 5 });
                boxes.push(GridBox { west, north, east: west + side, south: north + side - 1 });
            }
            let found = GridBoxes::new(&boxes);
            for _ in 0..2_000 {
                let at = [next(450), next(450)];
                assert_eq!(found.hold(at), boxes.iter().any(|one| one.holds(at)), "{at:?} {boxes:?}");
            }
        }
    }
}
