//! A polygon in grid units as Wagyu returns it, the library with which `ST_AsMVTGeom` makes polygons valid
//! (version 0.5.0, which PostGIS contains).
//!
//! Wagyu sweeps over the edges from south to north. Where no edge comes near another one, it only does three things: it
//! drops vertices on straight lines, turns each ring in the direction that tiles want, and begins it at another vertex.
//! Which one is known for rings that each go up once and down once:
//!
//! - The left and the right chain of such a ring grow from its southernmost vertex, the left one at the front of a list
//!   and the right one at its back. The ring begins at the front (`add_point_to_ring`).
//! - If one vertex is northernmost, the left chain takes it last (`do_maxima`), and the ring begins there.
//! - If there is an edge from west to east in the north, the chain that runs northwards along the ring has it
//!   (`start_list_on_local_maximum`). If that is the left chain, the ring begins at the eastern end of the edge; else
//!   at the vertex of the left chain before the edge.
//!
//! Everything else is left to the database. If it is small and no edge crosses another one, the result is the same at
//! any place, so that the database is asked once for each form: Wagyu computes with whole numbers then, and where it
//! divides, to decide whether an edge passes the unit square around a vertex, the quotients of two numbers below
//! [`MAX_SIZE_OF_FORM`](super::forms::MAX_SIZE_OF_FORM) are either half a unit or much farther from it than doubles are
//! from each other. It takes what is within four steps of a double for half a unit, which is enough if x is not near
//! zero: there steps are smaller than the error of the quotient. (Where edges cross, it rounds the intersection, and
//! half a unit away from zero.)

use super::parts::Parts;

/// The most vertices of a polygon that are compared with each other.
const MAX_VERTICES: usize = 256;

/// Draws polygons with at most one hole, one at a time. Its vectors are used again.
#[derive(Debug, Default)]
pub(crate) struct RingDrawer {
    rings: [Ring; 2],
    edges: Vec<[[i32; 2]; 2]>,
}

impl RingDrawer {
    /// Adds the parts of a polygon: its outer ring and its hole, which is empty if it has none. The rings are closed.
    /// Returns false if the database has to draw it.
    pub(crate) fn draw(&mut self, closed: [&[[i32; 2]]; 2], to: &mut Parts) -> bool {
        let count = if closed[1].is_empty() { 1 } else { 2 };
        for (ring, closed) in self.rings.iter_mut().zip(closed).take(count) {
            if !ring.take(closed) {
                return false;
            }
        }
        let rings = &self.rings[..count];
        if rings.iter().map(|ring| ring.vertices.len()).sum::<usize>() > MAX_VERTICES {
            return false;
        }
        self.edges.clear();
        self.edges.extend(rings.iter().flat_map(Ring::edges));
        if !are_apart(&self.edges) || rings.get(1).is_some_and(|hole| !rings[0].surrounds(hole.vertices[0])) {
            return false;
        }
        let starts = [0, 1].map(|number: usize| rings.get(number).map_or(Some(0), Ring::start));
        let [Some(outer), Some(hole)] = starts else { return false };
        for (number, (ring, start)) in rings.iter().zip([outer, hole]).enumerate() {
            let (before, from) = ring.vertices.split_at(start);
            if number == 0 {
                to.vertices.extend(from.iter().chain(before));
            } else {
                // A hole goes the other way round, from the same vertex.
                to.vertices.push(from[0]);
                to.vertices.extend(from[1..].iter().chain(before).rev());
            }
            to.end_part();
        }
        true
    }
}

/// True if an edge of closed rings crosses another one.
pub(crate) fn do_edges_cross(rings: [&[[i32; 2]]; 2]) -> bool {
    let edges = || rings.into_iter().flat_map(|ring| ring.windows(2)).map(|edge| [edge[0], edge[1]]);
    edges().enumerate().any(|(number, edge)| edges().take(number).any(|other| do_cross(edge, other)))
}

/// A ring in the direction of an outer ring: clockwise on a map, as y grows southwards.
#[derive(Debug, Default)]
struct Ring {
    vertices: Vec<[i32; 2]>,
    /// True if the ring went the other way.
    is_turned: bool,
}

fn cross(from: [i32; 2], at: [i32; 2], to: [i32; 2]) -> i64 {
    let [[x1, y1], [x2, y2]] =
        [at, to].map(|end| [0, 1].map(|axis: usize| i64::from(end[axis]) - i64::from(from[axis])));
    x1 * y2 - x2 * y1
}

impl Ring {
    /// Takes a closed ring without repeated vertices and vertices on straight lines. False if it has no area, or turns
    /// straight back somewhere.
    fn take(&mut self, closed: &[[i32; 2]]) -> bool {
        let vertices = &mut self.vertices;
        vertices.clear();
        vertices.extend_from_slice(closed);
        loop {
            let count = vertices.len();
            let dropped = (0..count).find(|number| {
                let [before, next] = [(number + count - 1) % count, (number + 1) % count].map(|other| vertices[other]);
                before == vertices[*number] || cross(before, vertices[*number], next) == 0
            });
            let Some(dropped) = dropped else { break };
            let [before, at, next] = [dropped + count - 1, dropped, dropped + 1].map(|number| vertices[number % count]);
            let along = |axis: usize| {
                (i64::from(at[axis]) - i64::from(before[axis])) * (i64::from(next[axis]) - i64::from(at[axis]))
            };
            if count <= 3 || along(0) + along(1) < 0 {
                return false;
            }
            vertices.remove(dropped);
        }
        let Some(origin) = vertices.first().copied() else { return false };
        let area: i64 = vertices.windows(2).map(|edge| cross(origin, edge[0], edge[1])).sum();
        self.is_turned = area < 0;
        if self.is_turned {
            vertices.reverse();
        }
        area != 0
    }

    fn edges(&self) -> impl Iterator<Item = [[i32; 2]; 2]> + Clone + '_ {
        let next = self.vertices.iter().cycle().skip(1);
        self.vertices.iter().zip(next).map(|(from, to)| [*from, *to])
    }

    /// The index of the vertex at which the ring begins. `None` if it is northernmost at two places.
    fn start(&self) -> Option<usize> {
        let count = self.vertices.len();
        let north = self.vertices.iter().map(|vertex| vertex[1]).min()?;
        let is_north = |number: usize| self.vertices[number % count][1] == north;
        // The western end of the northern edge, or the northernmost vertex: its edge comes from the south.
        let mut tops = (0..count).filter(|number| is_north(*number) && !is_north(number + count - 1));
        let (top, None) = (tops.next()?, tops.next()) else { return None };
        if !is_north(top + 1) {
            return Some(top);
        }
        // Outer rings run northwards on their left side.
        Some(if self.is_turned { top + count - 1 } else { top + 1 } % count)
    }

    /// True if a vertex lies inside.
    fn surrounds(&self, [x, y]: [i32; 2]) -> bool {
        let crosses = |[from, to]: &[[i32; 2]; 2]| {
            let (upper, lower) = if from[1] < to[1] { (from, to) } else { (to, from) };
            (upper[1] <= y && y < lower[1]) && (cross(*upper, *lower, [x, y]) > 0)
        };
        self.edges().filter(crosses).count() % 2 == 1
    }
}

/// True if no two vertices are equal, no edge crosses another one, and no vertex lies so near an edge that Wagyu would
/// draw the edge through it (`insert_hot_pixels_in_path`).
fn are_apart(edges: &[[[i32; 2]; 2]]) -> bool {
    edges.iter().enumerate().all(|(number, edge)| {
        let others = edges.iter().enumerate().filter(|(other, _)| *other != number);
        others.clone().all(|(_, [vertex, _])| edge[0] != *vertex && (edge[1] == *vertex || !is_near(*edge, *vertex)))
            && edges[number + 1..].iter().all(|other| !do_cross(*edge, *other))
    })
}

fn do_cross([a, b]: [[i32; 2]; 2], [c, d]: [[i32; 2]; 2]) -> bool {
    let is_beside =
        |axis: usize| a[axis].max(b[axis]) <= c[axis].min(d[axis]) || c[axis].max(d[axis]) <= a[axis].min(b[axis]);
    if is_beside(0) || is_beside(1) {
        return false;
    }
    let sides = |from, to, one, two| cross(from, to, one).signum() * cross(from, to, two).signum();
    sides(a, b, c, d) < 0 && sides(c, d, a, b) < 0
}

/// True if an edge passes the unit square around a vertex that is none of its ends.
fn is_near([from, to]: [[i32; 2]; 2], [x, y]: [i32; 2]) -> bool {
    /// More than the error of the comparison.
    const ROUNDING: f64 = 1e-6;
    let (upper, lower) = if from[1] < to[1] { (from, to) } else { (to, from) };
    if y < upper[1] || y > lower[1] || x < from[0].min(to[0]) || x > from[0].max(to[0]) {
        return false;
    }
    if upper[1] == lower[1] {
        return true;
    }
    let slope = f64::from(lower[0] - upper[0]) / f64::from(lower[1] - upper[1]);
    let at = f64::from(upper[0]) + slope * f64::from(y - upper[1]);
    let reach = slope.abs() / 2.0;
    // The part of the edge in the row of the vertex, half a unit up and down, but for the ends of the edge.
    let up = if y == upper[1] { 0.0 } else { reach };
    let down = if y == lower[1] { 0.0 } else { reach };
    let (west, east) = if slope > 0.0 { (at - up, at + down) } else { (at - down, at + up) };
    (f64::from(x) >= west - 0.5 - ROUNDING) && (f64::from(x) <= east + 0.5 + ROUNDING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvt::forms::{Form, MAX_SIZE_OF_FORM};

    /// An edge of this polygon passes a corner of the unit square around another vertex. Wagyu sees that where the
    /// steps of doubles are larger than the error of the edge's position there, and not near x = 0.
    #[test]
    fn near_the_western_edge_of_a_tile_a_form_is_not_the_same_as_elsewhere() {
        let ring = [[15, 10], [15, 2], [1, 6], [-12, -5], [-14, 3], [15, 10]];
        let is_same = |step: i32| {
            let moved = ring.map(|[x, y]| [x + step, y]);
            let rings = [&moved[..], &[]];
            assert!(!RingDrawer::default().draw(rings, &mut Parts::default()) && !do_edges_cross(rings));
            Form::default().take(rings).is_some()
        };
        assert!(is_same(1_000) && is_same(MAX_SIZE_OF_FORM + 14));
        assert!(!is_same(MAX_SIZE_OF_FORM + 13) && !is_same(0));
    }
}
