//! Clipping to a square: points, lines by their segments, rings by Sutherland and Hodgman's algorithm (Communications of the ACM 17, 1974).

use super::super::geometry::{Position, twice_the_area};

/// The square in which everything is kept, including its edges: from `min` to `max` along both axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClipBox {
    pub(super) min: i64,
    pub(super) max: i64,
}

/// A position before clipping, which may lie far outside of the square.
type FarPosition = [i64; 2];

/// One side of the square: the axis across it, and the edge that bounds it.
#[derive(Debug, Clone, Copy)]
struct Side {
    axis: usize,
    at: i64,
    is_upper: bool,
}

impl Side {
    fn holds(self, position: FarPosition) -> bool {
        let along = position[self.axis];
        if self.is_upper { along <= self.at } else { along >= self.at }
    }

    /// The position at which the segment between two positions on different sides of the edge crosses it, rounded to the grid.
    fn crossing(self, from: FarPosition, to: FarPosition) -> FarPosition {
        let other = 1 - self.axis;
        let [across, part] = [to[self.axis] - from[self.axis], self.at - from[self.axis]].map(i128::from);
        let along = i128::from(to[other]) - i128::from(from[other]);
        // Half a unit is added so that the division rounds to the nearest.
        let numerator = 2 * along * part * across.signum() + across.abs();
        let step = numerator.div_euclid(2 * across.abs());
        let mut crossing = [0; 2];
        crossing[self.axis] = self.at;
        crossing[other] = i64::try_from(i128::from(from[other]) + step).unwrap_or(from[other]);
        crossing
    }
}

/// The position as it is written; `None` if its coordinates do not fit in 32 bits. Coordinates inside of the square always fit.
fn near(position: FarPosition) -> Option<Position> {
    let [x, y] = position.map(|along| i32::try_from(along).ok());
    Some([x?, y?])
}

impl ClipBox {
    fn sides(self) -> [Side; 4] {
        let side = |axis, at, is_upper| Side { axis, at, is_upper };
        [side(0, self.min, false), side(0, self.max, true), side(1, self.min, false), side(1, self.max, true)]
    }

    /// The points inside.
    pub(super) fn points(self, points: &[FarPosition]) -> Vec<Position> {
        let is_inside = |point: &&FarPosition| self.sides().iter().all(|side| side.holds(**point));
        points.iter().filter(is_inside).filter_map(|point| near(*point)).collect()
    }

    /// The pieces of a line inside, each of at least two positions.
    pub(super) fn line(self, line: &[FarPosition]) -> Vec<Vec<Position>> {
        let mut pieces: Vec<Vec<Position>> = Vec::new();
        for pair in line.windows(2) {
            let Some([from, to]) = self.segment([pair[0], pair[1]]) else { continue };
            let (Some(from), Some(to)) = (near(from), near(to)) else { continue };
            if from == to {
                continue;
            }
            match pieces.last_mut() {
                Some(piece) if piece.last() == Some(&from) => piece.push(to),
                _ => pieces.push(vec![from, to]),
            }
        }
        pieces
    }

    /// The part of a segment inside; `None` if it lies outside.
    fn segment(self, [mut from, mut to]: [FarPosition; 2]) -> Option<[FarPosition; 2]> {
        for side in self.sides() {
            match (side.holds(from), side.holds(to)) {
                (true, true) => {}
                (false, false) => return None,
                (true, false) => to = side.crossing(from, to),
                (false, true) => from = side.crossing(from, to),
            }
        }
        Some([from, to])
    }

    /// The part of a ring inside, in the same direction; `None` if it has no area there.
    pub(super) fn ring(self, mut ring: Vec<FarPosition>) -> Option<Vec<Position>> {
        for side in self.sides() {
            let mut clipped = Vec::with_capacity(ring.len() + 4);
            let mut before = *ring.last()?;
            for at in ring {
                if side.holds(before) != side.holds(at) {
                    clipped.push(side.crossing(before, at));
                }
                if side.holds(at) {
                    clipped.push(at);
                }
                before = at;
            }
            ring = clipped;
        }
        let mut ring: Vec<Position> = ring.into_iter().map(near).collect::<Option<_>>()?;
        ring.dedup();
        while ring.len() > 1 && ring.first() == ring.last() {
            ring.pop();
        }
        (ring.len() >= 3 && twice_the_area(&ring) != 0).then_some(ring)
    }
}
