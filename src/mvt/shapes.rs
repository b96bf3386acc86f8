//! Lines and polygons in the grid of a tile, vertex for vertex as `ST_AsMVTGeom` of PostGIS 3.3 to 3.7 gives them
//! (`postgis/mvt.c`, `liblwgeom/ptarray.c`): moved to the grid, rounded, freed of vertices on straight lines, and cut
//! to the tile and its buffer. What differs from version to version is a rule in [`DrawingRules`].

#![expect(clippy::float_cmp, reason = "results are equal bit for bit only if the comparisons are")]

use super::clip::{ClipBox, clip_line, clip_ring};
use super::forms::{Form, Forms};
use super::parts::{Parts, ShapeKind};
use super::rings::{RingDrawer, do_edges_cross};

/// How the server at hand draws shapes, where versions differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DrawingRules {
    /// True if a line that goes to a vertex and straight back keeps that vertex (PostGIS 3.4 and later).
    pub(crate) keeps_turns: bool,
    /// True if a line is cut by `dy · (dx₁ / dx)` (GEOS 3.12 and later), not by `dy · dx₁ / dx`: both are rounded.
    pub(crate) divides_first: bool,
}

impl DrawingRules {
    /// All rules that are known.
    pub(crate) const ALL: [DrawingRules; 4] = [
        DrawingRules { keeps_turns: true, divides_first: true },
        DrawingRules { keeps_turns: false, divides_first: false },
        DrawingRules { keeps_turns: true, divides_first: false },
        DrawingRules { keeps_turns: false, divides_first: true },
    ];
}

/// A geometry in metres of EPSG:3857.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape<'a> {
    pub(crate) kind: ShapeKind,
    /// The vertices of all parts. The rings of a polygon are closed: the last vertex of each is its first.
    pub(crate) vertices: &'a [[f64; 2]],
    /// One beyond the last vertex of each part.
    pub(crate) ends: &'a [u32],
    /// The width and the height of its box, as the server stores it: in single precision, rounded outwards.
    pub(crate) size: [f64; 2],
}

impl<'a> Shape<'a> {
    fn parts(self) -> impl Iterator<Item = &'a [[f64; 2]]> {
        let ends = self.ends.iter().map(|end| *end as usize);
        let starts = std::iter::once(0).chain(ends.clone());
        starts.zip(ends).filter_map(move |(start, end)| self.vertices.get(start..end))
    }
}

/// A rectangle that becomes a tile: how positions in it become grid units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileGrid {
    scale: [f64; 2],
    offset: [f64; 2],
    /// A line or polygon whose box is smaller along both axes is not drawn: half a grid unit.
    least: [f64; 2],
    clip: ClipBox,
}

impl TileGrid {
    /// The grid of a rectangle with these sides: west, south, east, north. Every operation is one of `mvt_geom`'s, in
    /// its order.
    pub(crate) fn new([west, south, east, north]: [f64; 4], extent: u32, buffer: u32) -> TileGrid {
        let [extent, buffer] = [extent, buffer].map(f64::from);
        let [width, height] = [east - west, north - south];
        let scale = [extent / width, -(extent / height)];
        TileGrid {
            scale,
            offset: [-west * scale[0], -north * scale[1]],
            least: [width / extent / 2.0, height / extent / 2.0],
            clip: ClipBox { low: -buffer, high: extent + buffer },
        }
    }

    /// True if a line or polygon whose box has this width and height, in metres, is too small to be drawn.
    pub(crate) fn drops(&self, size: [f64; 2]) -> bool {
        size[0] < self.least[0] && size[1] < self.least[1]
    }

    /// The vertices of a part in grid units, without repeated ones. Each step is a loop of its own, so that the
    /// compiler can use vector instructions.
    fn rounded(&self, part: &[[f64; 2]], to: &mut Vec<[f64; 2]>) {
        to.clear();
        to.extend(part.iter().map(|[x, y]| [self.scale[0] * x + self.offset[0], self.scale[1] * y + self.offset[1]]));
        let far: u64 = to.iter().flatten().map(|unit| u64::from(unit.abs() >= MAX_ROUNDED_BY_SUM)).sum();
        if far == 0 {
            to.iter_mut().flatten().for_each(|unit| *unit = rounded_by_sum(*unit));
        } else {
            to.iter_mut().flatten().for_each(|unit| *unit = unit.round_ties_even());
        }
        to.dedup();
    }
}

/// From here on doubles have no fraction.
const WHOLE: f64 = 4_503_599_627_370_496.0;

/// The greatest number that [`rounded_by_sum`] may be given.
const MAX_ROUNDED_BY_SUM: f64 = WHOLE / 2.0;

/// The nearest integer, the even one of two (`rint`). The method of `f64` calls a function, for not every processor has
/// an instruction for it.
fn rounded_by_sum(value: f64) -> f64 {
    let end = WHOLE * 1.5;
    value + end - end
}

/// What a tile shows of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drawn {
    /// Nothing.
    Nothing,
    /// The parts of [`ShapeDrawer::parts`].
    Parts,
    /// What is not proven here: the database has to draw it.
    Unknown,
    /// The same, but polygons of the same [form](ShapeDrawer::form) come out equal at any place. The value is the first
    /// vertex of this one.
    SameAnywhere([i32; 2]),
}

/// Draws shapes, one at a time. Its vectors are used again.
#[derive(Debug, Default)]
pub(crate) struct ShapeDrawer {
    rounded: Vec<[f64; 2]>,
    clipped: Vec<[f64; 2]>,
    vertices: Vec<[f64; 2]>,
    ends: Vec<usize>,
    parts: Parts,
    /// The polygon that was cut last: its outer ring, and its hole.
    rings: [Vec<[i32; 2]>; 2],
    form: Form,
    ring_drawer: RingDrawer,
}

impl ShapeDrawer {
    /// The parts that were drawn last.
    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The form of the polygon that was drawn last, of which only that counts.
    pub(crate) fn form(&self) -> &Form {
        &self.form
    }

    /// Draws a shape in a tile. `forms` is what is known of polygons up to now.
    pub(crate) fn draw(&mut self, shape: Shape<'_>, grid: &TileGrid, rules: DrawingRules, forms: &Forms) -> Drawn {
        self.parts.clear();
        if shape.kind == ShapeKind::Other {
            return Drawn::Unknown;
        }
        if grid.drops(shape.size) {
            return Drawn::Nothing;
        }
        self.vertices.clear();
        self.ends.clear();
        for part in shape.parts() {
            grid.rounded(part, &mut self.rounded);
            let is_ring = shape.kind == ShapeKind::Polygon;
            let least = if is_ring { 4 } else { 2 };
            if self.rounded.len() >= least {
                drop_straight(&mut self.rounded, rules);
            }
            let is_point = self.rounded.len() == 2 && self.rounded[0] == self.rounded[1];
            if self.rounded.len() < least || is_point {
                if is_ring && self.ends.is_empty() {
                    return Drawn::Nothing;
                }
                continue;
            }
            self.vertices.extend_from_slice(&self.rounded);
            self.ends.push(self.vertices.len());
        }
        if self.ends.is_empty() {
            return Drawn::Nothing;
        }
        match shape.kind {
            ShapeKind::Polygon => self.polygon(grid.clip, forms),
            ShapeKind::Lines | ShapeKind::Other => self.lines(grid.clip, rules),
        }
    }

    fn lines(&mut self, clip: ClipBox, rules: DrawingRules) -> Drawn {
        if clip.is_beside(&self.vertices) {
            return Drawn::Nothing;
        }
        let is_within = clip.holds(&self.vertices);
        // Pieces are rounded, and repeated vertices dropped, whether the line was cut or not. They lie in the square.
        let parts = &mut self.parts;
        let mut put = |piece: &[[f64; 2]]| {
            let before = parts.vertices.len();
            for at in piece {
                let at = whole(at.map(rounded_by_sum));
                if parts.vertices[before..].last() != Some(&at) {
                    parts.vertices.push(at);
                }
            }
            if parts.vertices.len() - before > 1 {
                parts.end_part();
            } else {
                parts.vertices.truncate(before);
            }
        };
        let mut begin = 0;
        for end in &self.ends {
            let line = &self.vertices[begin..*end];
            begin = *end;
            if is_within {
                put(line);
            } else {
                clip_line(line, clip, rules.divides_first, &mut self.clipped, &mut put);
            }
        }
        if self.parts.ends.is_empty() { Drawn::Nothing } else { Drawn::Parts }
    }

    /// Cuts each ring by itself, and joins them by the even-odd rule (`lwgeom_wagyu.cpp`).
    fn polygon(&mut self, clip: ClipBox, forms: &Forms) -> Drawn {
        self.rings.iter_mut().for_each(Vec::clear);
        let is_within = clip.holds(&self.vertices);
        let (mut begin, mut found) = (0, 0);
        for (number, end) in self.ends.iter().enumerate() {
            let ring = &self.vertices[begin..*end];
            begin = *end;
            let ring = if is_within { ring } else { clip_ring(ring, clip, &mut self.clipped, &mut self.rounded) };
            if ring.len() < 4 {
                if number == 0 {
                    return Drawn::Nothing;
                }
                continue;
            }
            let Some(place) = self.rings.get_mut(found) else { return Drawn::Unknown };
            found += 1;
            place.extend(ring.iter().map(|at| whole(*at)));
        }
        let rings = [&self.rings[0][..], &self.rings[1][..]];
        let first = self.form.take(rings);
        if let Some(is_shown) = first.and_then(|first| forms.find(&self.form, first, &mut self.parts)) {
            return if is_shown { Drawn::Parts } else { Drawn::Nothing };
        }
        if self.ring_drawer.draw(rings, &mut self.parts) {
            if let Some(first) = first {
                forms.keep_small(&self.form, first, &self.parts);
            }
            return Drawn::Parts;
        }
        first.filter(|_| !do_edges_cross(rings)).map_or(Drawn::Unknown, Drawn::SameAnywhere)
    }
}

/// Coordinates without their fractions, as C converts a double to an integer.
#[expect(clippy::cast_possible_truncation, reason = "what is meant; an extent and its buffer stay below 2^21")]
fn whole(at: [f64; 2]) -> [i32; 2] {
    at.map(|unit| unit as i32)
}

/// Drops the vertices that lie on the straight line between the vertex kept before and the next one
/// (`ptarray_simplify_in_place` with a tolerance of 0).
fn drop_straight(line: &mut Vec<[f64; 2]>, rules: DrawingRules) {
    let count = line.len();
    if count < 3 {
        return;
    }
    let mut kept = 0;
    for number in 1..count - 1 {
        let (from, at, next) = (line[kept], line[number], line[number + 1]);
        let [to_next, to_at] = [next, at].map(|end| [end[0] - from[0], end[1] - from[1]]);
        let length = to_next[0] * to_next[0] + to_next[1] * to_next[1];
        let along = to_at[0] * to_next[0] + to_at[1] * to_next[1];
        let beside = to_at[0] * to_next[1] - to_at[1] * to_next[0];
        let turns_back = rules.keeps_turns && from == next;
        if turns_back || along < 0.0 || along > length || beside != 0.0 {
            kept += 1;
            line[kept] = at;
        }
    }
    line[kept + 1] = line[count - 1];
    line.truncate(kept + 2);
}
