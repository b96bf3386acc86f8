//! Where features lie: boxes and outlines, from which tiles are planned.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{SourceBox, TileRect, WorldBox, Zoom};

// Footprints: the boxes of features, from which tiles are planned.

/// The box of a feature that is not a single point, or whose reference system has no closed formula.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxFootprint {
    /// In world units.
    pub world: WorldBox,
    /// The box of the same feature in its own reference system, by which the spatial index finds it: wrapped like the
    /// feature and rounded outwards to single precision, as the index does, or with sides that lie inside of it.
    pub source: SourceBox<f32>,
}

/// Points in world units, eight bytes each, from west to east.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SortedPoints(Vec<u64>);

impl SortedPoints {
    /// Sorts points: x in the upper half, y in the lower half.
    pub fn new(mut points: Vec<u64>) -> SortedPoints {
        points.sort_unstable();
        SortedPoints(points)
    }

    /// The indexes of the points from one x up to and including another. Both may lie beyond the world.
    pub fn between(&self, west: i64, east: i64) -> Range<usize> {
        let x = |point: &u64| (point >> 32).cast_signed();
        self.0.partition_point(|point| x(point) < west)..self.0.partition_point(|point| x(point) <= east)
    }

    /// Some points by their indexes: x, y.
    #[expect(clippy::cast_possible_truncation, reason = "the halves of the code are 32 bits wide")]
    pub fn units(&self, indexes: Range<usize>) -> impl Iterator<Item = [u32; 2]> + '_ {
        let points = self.0.get(indexes).unwrap_or_default();
        points.iter().map(|point| [(*point >> 32) as u32, *point as u32])
    }
}

/// The boxes of features, and the outlines of some.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlinedBoxes {
    /// The boxes of all features.
    pub boxes: Vec<BoxFootprint>,
    /// The outlines, by the index of the feature.
    pub outlines: BTreeMap<u32, Outline>,
}

/// The footprints of all features of one layer.
#[derive(Debug, Clone, PartialEq)]
pub enum Footprints {
    /// Points in EPSG:4326 or EPSG:3857, from west to east.
    Points(SortedPoints),
    /// Boxes in world units of features that are found by the tile's area, as points are.
    Cells(Vec<WorldBox>),
    /// Features that are found by their boxes in the layer's reference system.
    Boxes(Vec<BoxFootprint>),
    /// The same, with the outlines of those that touch fewer tiles than their boxes.
    Outlined(OutlinedBoxes),
    /// Cells whose members are found by a box in the layer's reference system: the box around all members.
    Gathered(Vec<BoxFootprint>),
}

impl Footprints {
    /// The number of features.
    pub fn len(&self) -> usize {
        match self {
            Footprints::Points(points) => points.0.len(),
            Footprints::Cells(cells) => cells.len(),
            Footprints::Boxes(boxes)
            | Footprints::Outlined(OutlinedBoxes { boxes, .. })
            | Footprints::Gathered(boxes) => boxes.len(),
        }
    }

    /// The same footprints in less memory: boxes that are all single positions become points. Only for features that
    /// are found by area.
    #[must_use]
    pub fn compact(self) -> Footprints {
        match self {
            Footprints::Boxes(boxes) if boxes.iter().all(|one| one.world.is_position()) => {
                let point = |one: &BoxFootprint| u64::from(one.world.west) << 32 | u64::from(one.world.north);
                Footprints::Points(SortedPoints::new(boxes.iter().map(point).collect()))
            }
            other => other,
        }
    }

    /// Whether there is no feature.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The box of a feature in world units.
    #[expect(clippy::cast_possible_truncation, reason = "the halves of the code are 32 bits wide")]
    pub fn world(&self, index: usize) -> WorldBox {
        match self {
            Footprints::Points(points) => WorldBox::of_unit((points.0[index] >> 32) as u32, points.0[index] as u32),
            Footprints::Cells(cells) => cells[index],
            Footprints::Boxes(boxes)
            | Footprints::Outlined(OutlinedBoxes { boxes, .. })
            | Footprints::Gathered(boxes) => boxes[index].world,
        }
    }

    /// The outlines that are known, by the index of the feature.
    pub fn outlines(&self) -> impl Iterator<Item = (u32, &Outline)> {
        let known = match self {
            Footprints::Outlined(outlined) => Some(&outlined.outlines),
            _ => None,
        };
        known.into_iter().flatten().map(|(index, outline)| (*index, outline))
    }

    /// True if features are found by their boxes in their own reference system, because the layer has no closed formula
    /// for the area.
    pub const fn has_sources(&self) -> bool {
        matches!(self, Footprints::Boxes(_) | Footprints::Outlined(_) | Footprints::Gathered(_))
    }

    /// The boxes that a search must touch to find a feature, in the feature's own reference system. Usually that is the
    /// feature's box. For a cell, it is both ends of the box around its members, and the search must touch both. For a
    /// feature that crosses ±180°, it is the feature's end in one half of the world: the western half if `in_west`.
    /// Either end finds the feature, but a search in one half should not reach into the other.
    pub fn sources(&self, index: usize, in_west: bool) -> impl Iterator<Item = SourceBox<f32>> {
        let (first, second) = match self {
            Footprints::Points(_) | Footprints::Cells(_) => (None, None),
            Footprints::Boxes(boxes) | Footprints::Outlined(OutlinedBoxes { boxes, .. }) => {
                let BoxFootprint { world, source } = boxes[index];
                let half = match (world.crosses_antimeridian(), in_west) {
                    (false, _) => source,
                    (true, true) => SourceBox { min_x: source.max_x, ..source },
                    (true, false) => SourceBox { max_x: source.min_x, ..source },
                };
                (Some(half), None)
            }
            Footprints::Gathered(cells) => {
                let SourceBox { min_x, min_y, max_x, max_y } = cells[index].source;
                (Some(SourceBox::of_position(min_x, min_y)), Some(SourceBox::of_position(max_x, max_y)))
            }
        };
        first.into_iter().chain(second)
    }
}

/// The footprints of a layer, zoom by zoom.
#[derive(Debug, Clone, PartialEq)]
pub enum LayerFootprints {
    /// The same at every zoom.
    Same(Footprints),
    /// Different at each zoom; nothing at a zoom that is not in the map.
    ByZoom(BTreeMap<Zoom, Footprints>),
}

static NOTHING: Footprints = Footprints::Points(SortedPoints(Vec::new()));

impl LayerFootprints {
    /// The footprints at a zoom.
    pub fn at(&self, zoom: Zoom) -> &Footprints {
        match self {
            LayerFootprints::Same(footprints) => footprints,
            LayerFootprints::ByZoom(zooms) => zooms.get(&zoom).unwrap_or(&NOTHING),
        }
    }

    /// The footprints of every zoom.
    pub fn all(&self) -> impl Iterator<Item = &Footprints> {
        let (same, others) = match self {
            LayerFootprints::Same(footprints) => (Some(footprints), None),
            LayerFootprints::ByZoom(zooms) => (None, Some(zooms.values())),
        };
        same.into_iter().chain(others.into_iter().flatten())
    }

    /// Whether there is no feature at any zoom.
    pub fn is_empty(&self) -> bool {
        self.all().all(Footprints::is_empty)
    }
}

/// The position of a change: where a row was before the change, or is after it.
#[derive(Debug, Clone, PartialEq)]
pub enum ChangeLocation {
    /// A box in world units.
    Box(WorldBox),
    /// A line or polygon.
    Shape {
        /// Its box in world units.
        world: WorldBox,
        /// Its outline, for the tiles that it touches.
        outline: Outline,
    },
    /// A position in world units, as exact as the database knows it: x, y.
    Point([f64; 2]),
}

impl ChangeLocation {
    /// The box in world units.
    pub fn world(&self) -> WorldBox {
        match self {
            ChangeLocation::Box(world) | ChangeLocation::Shape { world, .. } => *world,
            ChangeLocation::Point(at) => WorldBox::of_position(*at),
        }
    }

    /// The position in world units, at most half a unit from the exact one; `None` if it is no single position.
    pub fn position(&self) -> Option<[f64; 2]> {
        match self {
            ChangeLocation::Point(at) => Some(*at),
            ChangeLocation::Box(world) if world.is_position() => {
                Some([world.west, world.north].map(|unit| f64::from(unit) + 0.5))
            }
            ChangeLocation::Box(_) | ChangeLocation::Shape { .. } => None,
        }
    }
}

// The outline of a line or polygon, and the tiles that it touches: fewer than its box does.
//
// In a tile that none of a polygon's edges touches, what is drawn of the polygon depends only on the rings around the
// tile. `ST_AsMVTGeom` of PostGIS 3.2 and later (`postgis/mvt.c`, `lwgeom_clip_to_ordinate_range`, `lwgeom_wagyu.cpp`),
// built with Wagyu:
//
// - clips each ring by itself to the tile with its buffer: a ring without an edge there becomes a walk along the sides
//   of the square, from corner to corner, or nothing;
// - leaves out a polygon whose outer ring becomes nothing, together with its holes;
// - drops the steps of a walk that go back and forth (`build_edge_list`). Nothing is left of a ring that is not around
//   the tile. Of a ring that is around it once, the four sides of the square are left, in the ring's direction;
// - joins the remaining rings by the even-odd rule.
//
// So if one outer ring is around a tile, once, and no other ring is, the tile shows a square. This square depends only
// on the ring's direction, whether the polygon is valid or not.

/// The fewest tiles that a feature's box must touch for its outline to be used: for fewer, it saves hardly any tile. At
/// a zoom at which its box touches fewer, a feature is planned in all of them; the statement that draws it relies on
/// that.
pub const MIN_TILES_OF_OUTLINE: u64 = 4;

/// Grid points of an outline along one side of the world. There are fewer than world units, so that positions a few
/// worlds away fit in 32 bits.
const OUTLINE_BITS: u8 = 28;

/// The vertices of a geometry in EPSG:3857, part by part. Positions are rounded to 15 cm at the equator.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outline {
    vertices: Vec<[i32; 2]>,
    parts: Vec<OutlinePart>,
    /// True if tiles inside of an outer ring look alike, so that one can be rendered for all. That is so if the
    /// geometry is a valid area (OGC Simple Features, `ST_IsValid`), or if rings are clipped one by one.
    pub has_interior: bool,
    /// True if `ST_AsMVTGeom` clips each ring by itself, and leaves out a polygon with its outer ring.
    pub is_clipped_by_rings: bool,
    /// How far beyond the outline the geometry may reach, in shares of the world.
    pub blur: f64,
}

/// A line, a ring of a polygon, or some single positions.
#[derive(Debug, Clone, Copy, PartialEq)]
struct OutlinePart {
    /// One beyond the index of its last vertex.
    end: usize,
    /// The number of the polygon that it is a ring of.
    polygon: Option<u32>,
    /// The least and the greatest coordinates of its vertices.
    low: [i32; 2],
    high: [i32; 2],
}

/// The direction of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RingDirection {
    /// Clockwise, as seen on a map with north above.
    Clockwise,
    /// Counterclockwise.
    Counterclockwise,
}

/// Tiles of one column, from north to south, which one feature touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutlineRun {
    /// The column.
    pub x: u32,
    /// The first row.
    pub y0: u32,
    /// The last row.
    pub y1: u32,
    /// The direction of the ring, if these tiles, with their buffers, lie wholly inside one outer ring, and neither
    /// touch nor lie in any other ring.
    pub interior: Option<RingDirection>,
}

impl Outline {
    /// The memory of a vertex, in bytes.
    pub const VERTEX_SIZE: usize = size_of::<[i32; 2]>();

    /// Begins a line (`None`) or a ring of the polygon with this number.
    pub fn begin(&mut self, polygon: Option<u32>) {
        let (low, high) = ([i32::MAX; 2], [i32::MIN; 2]);
        self.parts.push(OutlinePart { end: self.vertices.len(), polygon, low, high });
    }

    /// Adds a vertex to the current part, in shares of the world from its north-western corner. Returns false if it
    /// lies too far from the world.
    #[expect(clippy::cast_possible_truncation, reason = "compared before")]
    pub fn add(&mut self, at: [f64; 2]) -> bool {
        let units = at.map(|share| (share * f64::from(1_u32 << OUTLINE_BITS)).round());
        if !units.iter().all(|unit| unit.abs() < f64::from(i32::MAX)) {
            return false;
        }
        let vertex = units.map(|unit| unit as i32);
        let Some(part) = self.parts.last_mut() else { return false };
        // A vertex at the same grid point as the one before adds nothing.
        if part.end < self.vertices.len() && self.vertices.last() == Some(&vertex) {
            return true;
        }
        for (axis, unit) in vertex.into_iter().enumerate() {
            part.low[axis] = part.low[axis].min(unit);
            part.high[axis] = part.high[axis].max(unit);
        }
        self.vertices.push(vertex);
        true
    }

    /// Ends the current part.
    pub fn end(&mut self) {
        if let Some(part) = self.parts.last_mut() {
            part.end = self.vertices.len();
        }
    }

    /// Its memory in bytes.
    pub fn bytes(&self) -> usize {
        self.vertices.len() * Outline::VERTEX_SIZE + self.parts.len() * size_of::<OutlinePart>()
    }

    /// The tiles of `within` that the outline or its inside touches, sorted by column and row, each tile once. A tile
    /// reaches `reach` tile sides beyond its edges. The result may have one or two more tiles that the outline just
    /// misses.
    pub fn tiles(&self, reach: f64, within: &TileRect) -> Vec<OutlineRun> {
        let side = f64::from(1_u32 << within.zoom.get());
        let scale = side / f64::from(1_u32 << OUTLINE_BITS);
        let reach = reach + self.blur * side;
        // A vertex may have been rounded by half a grid point.
        let mut walk = OutlineWalk { outline: self, reach: reach + scale, within: *within, scale, hidden: Vec::new() };
        if self.is_clipped_by_rings {
            walk.hidden = walk.hidden_polygons();
        }
        let (mut edges, mut crossings) = (Vec::new(), Vec::new());
        walk.each_segment(|ring, from, to| {
            walk.touched_by(from, to, &mut edges);
            if let Some(ring) = ring {
                walk.crossings_of(ring, from, to, &mut crossings);
            }
        });
        edges.sort_unstable();
        crossings.sort_unstable_by(|a, b| {
            (a.column, a.y).partial_cmp(&(b.column, b.y)).unwrap_or(std::cmp::Ordering::Equal)
        });
        walk.joined(&edges, &crossings)
    }
}

/// An outline while its tiles at one zoom are computed.
struct OutlineWalk<'a> {
    outline: &'a Outline,
    reach: f64,
    within: TileRect,
    /// Tiles per grid point.
    scale: f64,
    /// The numbers of the polygons that are not drawn, sorted.
    hidden: Vec<u32>,
}

/// Where a ring crosses the middle of a column.
#[derive(Debug, Clone, Copy)]
struct Crossing {
    column: u32,
    /// In tiles from the north.
    y: f64,
    /// The index of the ring's part.
    ring: u32,
    /// 1 if the ring runs from west to east there, -1 if it runs from east to west.
    step: i32,
}

/// Tiles of a column that an edge touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct EdgeRun {
    x: u32,
    y0: u32,
    y1: u32,
}

impl OutlineWalk<'_> {
    /// The polygons whose outer ring lies wholly on one side of all tiles: `ST_AsMVTGeom` drops them with their holes,
    /// however large the holes are.
    fn hidden_polygons(&self) -> Vec<u32> {
        let TileRect { x0, y0, x1, y1, .. } = self.within;
        let ends = [(x0, x1), (y0, y1)]
            .map(|(first, last)| (f64::from(first) - self.reach, f64::from(last) + 1.0 + self.reach));
        let is_beyond = |part: &OutlinePart| {
            (0..2).any(|axis| {
                let [low, high] = [part.low[axis], part.high[axis]].map(|unit| f64::from(unit) * self.scale);
                high < ends[axis].0 || low > ends[axis].1
            })
        };
        let parts = &self.outline.parts;
        let outer = (0..).zip(parts).filter(|(ring, _)| is_outer(parts, *ring));
        outer.filter(|(_, part)| is_beyond(part)).filter_map(|(_, part)| part.polygon).collect()
    }

    /// Calls `each` with every segment, and the index of the ring that it belongs to. A single position is a segment
    /// without length.
    fn each_segment(&self, mut each: impl FnMut(Option<u32>, [f64; 2], [f64; 2])) {
        let mut begin = 0;
        for (number, part) in self.outline.parts.iter().enumerate() {
            let own = &self.outline.vertices[begin..part.end];
            begin = part.end;
            if part.polygon.is_some_and(|polygon| self.hidden.binary_search(&polygon).is_ok()) {
                continue;
            }
            let ring = part.polygon.and_then(|_| u32::try_from(number).ok());
            let place = |vertex: &[i32; 2]| vertex.map(|unit| f64::from(unit) * self.scale);
            let Some((first, last)) = own.first().zip(own.last()) else { continue };
            if own.len() == 1 {
                each(None, place(first), place(first));
            }
            own.windows(2).for_each(|pair| each(ring, place(&pair[0]), place(&pair[1])));
            if ring.is_some() && first != last {
                each(ring, place(last), place(first));
            }
        }
    }

    /// The tiles from one position to another along an axis, limited to a first and a last tile; `None` if none is
    /// left.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "cut to the rectangle before")]
    fn cut(from: f64, to: f64, first: u32, last: u32) -> Option<(u32, u32)> {
        let (from, to) = (from.floor().max(f64::from(first)), to.floor().min(f64::from(last)));
        (from <= to).then_some((from as u32, to as u32))
    }

    /// The tiles that a segment touches.
    fn touched_by(&self, from: [f64; 2], to: [f64; 2], edges: &mut Vec<EdgeRun>) {
        let TileRect { x0, y0, x1, y1, .. } = self.within;
        let (west, east) = if from[0] <= to[0] { (from, to) } else { (to, from) };
        let (north, south) = (from[1].min(to[1]), from[1].max(to[1]));
        let Some((first, last)) = OutlineWalk::cut(west[0] - self.reach, east[0] + self.reach, x0, x1) else { return };
        if OutlineWalk::cut(north - self.reach, south + self.reach, y0, y1).is_none() {
            return;
        }
        let slope = if east[0] > west[0] { (east[1] - west[1]) / (east[0] - west[0]) } else { 0.0 };
        for x in first..=last {
            let (mut top, mut bottom) = (north, south);
            // Only the piece of the segment that lies in the column and its margin counts.
            if last > first && east[0] > west[0] {
                let at = |side: f64| west[1] + (side.clamp(west[0], east[0]) - west[0]) * slope;
                let (left, right) = (at(f64::from(x) - self.reach), at(f64::from(x) + 1.0 + self.reach));
                (top, bottom) = (left.min(right).max(north), left.max(right).min(south));
            }
            let Some((y0, y1)) = OutlineWalk::cut(top - self.reach, bottom + self.reach, y0, y1) else { continue };
            match edges.last_mut() {
                Some(same) if same.x == x && same.y0 <= y0 && y1 <= same.y1 => {}
                Some(near) if near.x == x && near.y0 <= y1 + 1 && y0 <= near.y1 + 1 => {
                    (near.y0, near.y1) = (near.y0.min(y0), near.y1.max(y1));
                }
                _ => edges.push(EdgeRun { x, y0, y1 }),
            }
        }
    }

    /// Where a segment of a ring crosses the middles of columns.
    fn crossings_of(&self, ring: u32, from: [f64; 2], to: [f64; 2], crossings: &mut Vec<Crossing>) {
        let (west, east, step) = if from[0] <= to[0] { (from, to, 1) } else { (to, from, -1) };
        // The western end counts and the eastern one does not, so that a vertex in the middle of a column counts once.
        let (first, end) = ((west[0] - 0.5).ceil(), (east[0] - 0.5).ceil());
        let Some((first, last)) = OutlineWalk::cut(first, end - 1.0, self.within.x0, self.within.x1) else { return };
        for column in first..=last {
            let share = (f64::from(column) + 0.5 - west[0]) / (east[0] - west[0]);
            crossings.push(Crossing { column, y: west[1] + share * (east[1] - west[1]), ring, step });
        }
    }

    /// The tiles of all edges, and the tiles between them that lie inside.
    fn joined(&self, edges: &[EdgeRun], crossings: &[Crossing]) -> Vec<OutlineRun> {
        let mut runs = Vec::with_capacity(edges.len());
        let (mut edges, mut crossings) = (edges, crossings);
        let mut inside = Inside { parts: &self.outline.parts, open: Vec::new() };
        loop {
            let next = [edges.first().map(|edge| edge.x), crossings.first().map(|crossing| crossing.column)];
            let Some(x) = next.into_iter().flatten().min() else { return runs };
            let (own_edges, other_edges) = edges.split_at(edges.partition_point(|edge| edge.x == x));
            let (own, others) = crossings.split_at(crossings.partition_point(|crossing| crossing.column == x));
            (edges, crossings) = (other_edges, others);
            inside.open.clear();
            let mut crossed = 0;
            let mut row = self.within.y0;
            let mut free = |row: u32, end: u32, runs: &mut Vec<OutlineRun>| {
                // No edge touches these rows, so all of them lie on the same side of every ring.
                let middle = f64::from(row) + 0.5;
                while let Some(crossing) = own.get(crossed).filter(|crossing| crossing.y < middle) {
                    inside.cross(crossing);
                    crossed += 1;
                }
                if row <= end && inside.is_inside() {
                    let interior = inside.interior().filter(|_| self.outline.has_interior);
                    runs.push(OutlineRun { x, y0: row, y1: end, interior });
                }
            };
            for edge in own_edges {
                if edge.y0 > row {
                    free(row, edge.y0 - 1, &mut runs);
                }
                let first = edge.y0.max(row);
                if first <= edge.y1 {
                    match runs.last_mut() {
                        Some(last) if last.x == x && last.interior.is_none() && last.y1 + 1 == first => {
                            last.y1 = edge.y1;
                        }
                        _ => runs.push(OutlineRun { x, y0: first, y1: edge.y1, interior: None }),
                    }
                }
                row = row.max(edge.y1 + 1);
            }
            if row <= self.within.y1 {
                free(row, self.within.y1, &mut runs);
            }
        }
    }
}

/// Whether a part is the first ring of its polygon.
fn is_outer(parts: &[OutlinePart], ring: u32) -> bool {
    let polygon = |index: u32| parts.get(index as usize).and_then(|part| part.polygon);
    polygon(ring).is_some() && ring.checked_sub(1).is_none_or(|before| polygon(before) != polygon(ring))
}

/// The rings around a position.
struct Inside<'a> {
    parts: &'a [OutlinePart],
    open: Vec<RingAround>,
}

#[derive(Debug, Clone, Copy)]
struct RingAround {
    /// The index of its part.
    ring: u32,
    /// How often the ring goes around the position clockwise, minus how often it goes around counterclockwise. Never 0.
    turns: i32,
}

impl Inside<'_> {
    /// Updates the rings around the position as it moves across a ring's edge.
    fn cross(&mut self, Crossing { ring, step, .. }: &Crossing) {
        match self.open.iter().position(|open| open.ring == *ring) {
            Some(at) if self.open[at].turns + step == 0 => drop(self.open.swap_remove(at)),
            Some(at) => self.open[at].turns += step,
            None => self.open.push(RingAround { ring: *ring, turns: *step }),
        }
    }

    /// True if an odd number of the rings of some polygon is around the position. A ring that goes around it twice
    /// counts twice.
    fn is_inside(&self) -> bool {
        let odd = || self.open.iter().filter(|around| around.turns % 2 != 0);
        match odd().count() {
            0 => false,
            1 => true,
            _ => {
                let mut polygons: Vec<Option<u32>> =
                    odd().map(|around| self.parts[around.ring as usize].polygon).collect();
                polygons.sort_unstable();
                polygons.chunk_by(|a, b| a == b).any(|rings| rings.len() % 2 == 1)
            }
        }
    }

    /// The direction of the one outer ring that goes around the position once, if nothing else goes around it.
    fn interior(&self) -> Option<RingDirection> {
        match self.open.as_slice() {
            [RingAround { ring, turns: 1 }] if is_outer(self.parts, *ring) => Some(RingDirection::Clockwise),
            [RingAround { ring, turns: -1 }] if is_outer(self.parts, *ring) => Some(RingDirection::Counterclockwise),
            _ => None,
        }
    }
}

/// How far beyond its edges a tile is grown for outlines, in sides of a tile.
pub fn outline_reach(margin_units: i64, extent: u32, zoom: Zoom) -> f64 {
    // `ST_AsMVTGeom` leaves out vertices within one grid unit of the line, twice (repeated points, then
    // Douglas-Peucker), and rounds the others to the grid: an edge moves by less than three units. One of them is in
    // the margin already.
    const MOVED_UNITS: f64 = 3.0;
    let margin = margin_units as f64 / (1_u64 << (32 - zoom.get())) as f64;
    margin + MOVED_UNITS / f64::from(extent)
}
