//! Areas with borders of any form, as the tiles that they touch: a part is a box, a polygon or a line ([`AreaPart`]),
//! and [`AreaShape`] holds the tiles that a polygon or a line touches, as rows of tiles.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fmt::Write as _;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::bbox::{unit_x, unit_y};
use super::{BoxError, LonLatBox, TileCoord, TileRect, WORLD_UNITS, Zoom, latitude, longitude};

/// The most boxes that replace an area with too many positions: each run compares with all of them.
const MAX_BOXES_OF_AREA: usize = 400;

/// The most positions of an area whose shapes are kept with the target: 10,000 are about 200 kB of its manifest.
const MAX_POSITIONS_OF_AREA: usize = 10_000;

/// The most rows of tiles that the edges of an area's shapes may cross together, in the zooms to which they are
/// followed: its tiles take some hundred megabytes and a second then. A country with its islands crosses some hundred
/// thousand.
const MAX_CROSSED_ROWS_OF_AREA: f64 = 1_048_576.0;

/// True if the tiles of the shapes among some parts can be computed with bounded work.
pub fn is_bounded_area(parts: &[AreaPart]) -> bool {
    let shapes = parts.iter().filter_map(|part| match part {
        AreaPart::Shape(shape) => Some(shape.crossed_rows(Zoom::MAX)),
        AreaPart::Box(_) => None,
    });
    shapes.sum::<f64>() <= MAX_CROSSED_ROWS_OF_AREA
}

/// The polygons (without holes) and lines of a GeoJSON (RFC 7946). An area with more than 10,000 positions, or with
/// borders that cross too many rows of tiles, is returned as boxes instead. Together these are its tiles at the deepest
/// zoom, up to `deepest`, at which there are at most 400 boxes. Empty if nothing has an extent.
pub fn parts_of_area(json: &Value, deepest: Zoom) -> Vec<AreaPart> {
    let (mut shapes, mut positions) = (Vec::new(), 0);
    collect(json, &mut |kind, rings: Vec<Vec<AreaPosition>>| {
        positions += rings.iter().map(Vec::len).sum::<usize>();
        let shape = AreaShape::new(kind, rings);
        if shape.has_extent() {
            shapes.push(shape);
        }
    });
    let rows: f64 = shapes.iter().map(|shape| shape.crossed_rows(Zoom::MAX)).sum();
    if positions <= MAX_POSITIONS_OF_AREA && rows <= MAX_CROSSED_ROWS_OF_AREA {
        return shapes.into_iter().map(|shape| AreaPart::Shape(Arc::new(shape))).collect();
    }
    boxes_of(&shapes, deepest).into_iter().map(AreaPart::Box).collect()
}

/// Boxes that contain the shapes' tiles.
fn boxes_of(shapes: &[AreaShape], deepest: Zoom) -> Vec<LonLatBox> {
    let mut best = Vec::new();
    // Below the zooms to which the shapes are followed, the boxes stay the same.
    let deepest = shapes.iter().map(AreaShape::deepest).max().unwrap_or(Zoom::MIN).min(deepest);
    for zoom in (0..=deepest.get()).filter_map(Zoom::new) {
        let crossed: f64 = shapes.iter().map(|shape| shape.crossed_rows(zoom)).sum();
        if crossed > MAX_CROSSED_ROWS_OF_AREA && !best.is_empty() {
            break;
        }
        let Some(boxes) = boxes_at(shapes, zoom) else { break };
        if boxes.len() > MAX_BOXES_OF_AREA && !best.is_empty() {
            break;
        }
        best = boxes;
    }
    best
}

/// The boxes at a zoom; `None` if they have too many rows of tiles.
fn boxes_at(shapes: &[AreaShape], zoom: Zoom) -> Option<Vec<LonLatBox>> {
    let side = i64::from(zoom.last()) + 1;
    let mut rows: BTreeMap<u32, Vec<TileRun>> = BTreeMap::new();
    let mut count = 0_u32;
    for rect in shapes.iter().flat_map(|shape| shape.rects(zoom)) {
        count = count.saturating_add(rect.y1 - rect.y0 + 1);
        if f64::from(count) > MAX_CROSSED_ROWS_OF_AREA {
            return None;
        }
        for row in rect.y0..=rect.y1 {
            rows.entry(row).or_default().push(TileRun { first: rect.x0, last: rect.x1 });
        }
    }
    let rows = rows.into_iter().map(|(row, runs)| (row, joined(runs))).collect();
    // A tenth of a millimetre: short as text, exact when it is read again, and far below the tolerance of
    // [`Coverage::rects`](super::Coverage::rects).
    let rounded = |degrees: f64| (degrees * 1e9).round() / 1e9;
    let degrees = |tile: i64, of: fn(i64) -> f64| rounded(of(tile * (WORLD_UNITS / side)));
    let boxed = |rect: super::TileRect| LonLatBox {
        west: degrees(rect.x0.into(), longitude),
        south: degrees(i64::from(rect.y1) + 1, latitude),
        east: degrees(i64::from(rect.x1) + 1, longitude),
        north: degrees(rect.y0.into(), latitude),
    };
    Some(rects_of(&rows, zoom).into_iter().map(boxed).collect())
}

/// Calls `each` with the polygons and lines of a GeoJSON.
fn collect(json: &Value, each: &mut impl FnMut(AreaKind, Vec<Vec<AreaPosition>>)) {
    let list = |name: &str| json.get(name).and_then(Value::as_array).into_iter().flatten();
    match json.get("type").and_then(Value::as_str) {
        Some("FeatureCollection") => list("features").for_each(|feature| collect(feature, each)),
        Some("Feature") => json.get("geometry").into_iter().for_each(|geometry| collect(geometry, each)),
        Some("GeometryCollection") => list("geometries").for_each(|geometry| collect(geometry, each)),
        Some("Polygon") => each(AreaKind::Polygon, list("coordinates").map(positions).collect()),
        Some("MultiPolygon") => {
            for polygon in list("coordinates") {
                let rings = polygon.as_array().into_iter().flatten().map(positions);
                each(AreaKind::Polygon, rings.collect());
            }
        }
        Some("LineString") => {
            json.get("coordinates").into_iter().for_each(|line| each(AreaKind::Line, vec![positions(line)]));
        }
        Some("MultiLineString") => list("coordinates").for_each(|line| each(AreaKind::Line, vec![positions(line)])),
        _ => {}
    }
}

/// The positions of a line, to a centimetre.
fn positions(line: &Value) -> Vec<AreaPosition> {
    let number = |position: &Value, at: usize, limit: f64| {
        let degrees = position.get(at).and_then(Value::as_f64)?;
        Some((degrees.clamp(-limit, limit) * 1e7).round() / 1e7)
    };
    let position = |position: &Value| Some([number(position, 0, MAX_LONGITUDE)?, number(position, 1, 90.0)?]);
    line.as_array().into_iter().flatten().filter_map(position).collect()
}

// A part of an area: a box, a polygon or a line.

/// A part of an area. As text a box is `west,south,east,north`, and a shape is WKT.
#[derive(Debug, Clone, PartialEq)]
pub enum AreaPart {
    /// A box.
    Box(LonLatBox),
    /// A polygon or a line.
    Shape(Arc<AreaShape>),
}

impl AreaPart {
    /// The boxes of the part, or around it; none of them crosses the antimeridian.
    pub fn bounds(&self) -> Vec<LonLatBox> {
        match self {
            AreaPart::Box(one) => one.unwrapped().collect(),
            AreaPart::Shape(shape) => shape.bounds(),
        }
    }

    /// The part as jobs write it: `[west, south, east, north]`, or WKT.
    pub fn json(&self) -> serde_json::Value {
        self.as_box().map_or_else(|| self.to_string().into(), |one| serde_json::json!(one.sides()))
    }

    /// The box, if it is one.
    pub const fn as_box(&self) -> Option<LonLatBox> {
        match self {
            AreaPart::Box(one) => Some(*one),
            AreaPart::Shape(_) => None,
        }
    }
}

impl From<LonLatBox> for AreaPart {
    fn from(one: LonLatBox) -> AreaPart {
        AreaPart::Box(one)
    }
}

impl FromStr for AreaPart {
    type Err = BoxError;
    fn from_str(text: &str) -> Result<AreaPart, BoxError> {
        if text.starts_with(|first: char| first.is_ascii_uppercase()) {
            let shape = AreaShape::read(text).ok_or_else(|| BoxError::NotABox(text.chars().take(60).collect()))?;
            return Ok(AreaPart::Shape(Arc::new(shape)));
        }
        text.parse().map(AreaPart::Box)
    }
}

impl fmt::Display for AreaPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AreaPart::Box(one) => one.fmt(f),
            AreaPart::Shape(shape) => shape.fmt(f),
        }
    }
}

/// Describes the parts of an area for a person: by `parts` themselves, if they are short.
pub fn area_for_people(parts: &[String]) -> String {
    match parts {
        [one] if one.starts_with(|first: char| !first.is_ascii_uppercase()) => format!("the box {one}"),
        several if several.len() <= 4 && several.iter().all(|one| one.len() <= 60) => {
            format!("the boxes {}", several.join(" and "))
        }
        many => format!("an area of {} {}", many.len(), if many.len() == 1 { "shape" } else { "shapes or boxes" }),
    }
}

// Rows of tiles: runs of columns, and rectangles made of them.

/// Columns of tiles in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TileRun {
    pub(crate) first: u32,
    pub(crate) last: u32,
}

/// Columns of tiles. The numbers continue beyond the antimeridian.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CrossedColumns {
    pub(crate) first: i64,
    pub(crate) last: i64,
}

/// Runs without overlaps, in order, in the world's own columns.
pub(crate) fn merged(columns: Vec<CrossedColumns>, side: i64) -> Vec<TileRun> {
    let mut within: Vec<TileRun> = Vec::new();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "columns of a zoom are 0..2^22")]
    let run = |first: i64, last: i64| TileRun { first: first as u32, last: last as u32 };
    for CrossedColumns { first, last } in columns {
        if last - first + 1 >= side {
            return vec![run(0, side - 1)];
        }
        let (from, to) = (first.rem_euclid(side), last.rem_euclid(side));
        if from <= to {
            within.push(run(from, to));
        } else {
            within.extend([run(from, side - 1), run(0, to)]);
        }
    }
    joined(within)
}

/// The union of runs of a row, in order.
pub(crate) fn joined(mut runs: Vec<TileRun>) -> Vec<TileRun> {
    runs.sort_unstable();
    let mut joined: Vec<TileRun> = Vec::new();
    for run in runs {
        match joined.last_mut().filter(|last| run.first <= last.last + 1) {
            Some(last) => last.last = last.last.max(run.last),
            None => joined.push(run),
        }
    }
    joined
}

/// The tiles of some rows as rectangles that share no tile: equal runs of consecutive rows become one rectangle.
pub(crate) fn rects_of(rows: &BTreeMap<u32, Vec<TileRun>>, zoom: Zoom) -> Vec<TileRect> {
    let mut open: Vec<(TileRun, u32)> = Vec::new();
    let (mut rects, mut before) = (Vec::new(), None);
    let mut close = |run: TileRun, y0: u32, y1: u32| rects.push(TileRect { zoom, x0: run.first, y0, x1: run.last, y1 });
    for (row, runs) in rows {
        let goes_on = before.is_some_and(|before| before + 1 == *row);
        // The runs of a row are in order, and no two of them are equal.
        let goes_on = |run: &TileRun| goes_on && runs.binary_search(run).is_ok();
        let (kept, ended): (Vec<_>, Vec<_>) = open.into_iter().partition(|(run, _)| goes_on(run));
        for (run, from) in ended {
            close(run, from, before.unwrap_or(*row));
        }
        let known: HashSet<TileRun> = kept.iter().map(|(run, _)| *run).collect();
        let fresh = runs.iter().filter(|run| !known.contains(run)).map(|run| (*run, *row));
        let fresh: Vec<_> = fresh.collect();
        open = kept.into_iter().chain(fresh).collect();
        before = Some(*row);
    }
    for (run, from) in open {
        close(run, from, before.unwrap_or(from));
    }
    rects
}

// A polygon or a line, and the tiles that it touches.

/// The limit for the rows of tiles that the edges of a shape cross, added up over all edges. It decides the deepest
/// zoom at which the shape's tiles are computed. Runs of tiles in that number take some megabytes.
const MAX_CROSSED_ROWS: f64 = 262_144.0;

/// The tolerance for rounding of the borders of tiles and shapes, as a share of the world's width. Boxes have the same
/// tolerance.
const HAIR: f64 = 1e-9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AreaKind {
    /// The area that an odd number of rings surrounds.
    Polygon,
    /// One line, without any inside.
    Line,
}

/// A longitude and a latitude in degrees.
pub(crate) type AreaPosition = [f64; 2];

/// A polygon without holes, or a line. It has exactly the tiles that it touches, down to a zoom that depends on how
/// long and winding its border is (20 for a country). At deeper zooms it has all tiles within its tiles of that zoom.
#[derive(Debug)]
pub struct AreaShape {
    kind: AreaKind,
    rings: Vec<Vec<AreaPosition>>,
    borders: Vec<Border>,
    deepest: Zoom,
    /// The number of its edges, and their heights together, in shares of the world.
    edges: f64,
    height: f64,
    zooms: Box<[OnceLock<ZoomRows>]>,
}

/// A line of positions in shares of the world: x grows east and may leave 0..=1 where the line crosses the
/// antimeridian, y grows south.
#[derive(Debug, Clone)]
struct Border(Vec<WorldSpot>);

/// A position in shares of the world.
#[derive(Debug, Clone, Copy)]
struct WorldSpot {
    x: f64,
    y: f64,
}

/// The tiles of a zoom: for each row the runs of columns, in order, no two of them adjacent.
pub(crate) type ZoomRows = BTreeMap<u32, Vec<TileRun>>;

impl AreaShape {
    pub(crate) fn new(kind: AreaKind, rings: Vec<Vec<AreaPosition>>) -> AreaShape {
        let borders = Border::aligned(rings.iter().map(|ring| Border::of(ring)).collect());
        let edges = borders.iter().flat_map(Border::edges);
        let (count, height) =
            edges.fold((0.0, 0.0), |(count, height), (one, other)| (count + 1.0, height + (one.y - other.y).abs()));
        let fits = |zoom: &Zoom| count + height * f64::from(zoom.get()).exp2() <= MAX_CROSSED_ROWS;
        let deepest = (0..=Zoom::MAX.get()).filter_map(Zoom::new).take_while(fits).last().unwrap_or(Zoom::MIN);
        let (edges, height) = (count, height);
        AreaShape {
            kind,
            rings,
            borders,
            deepest,
            edges,
            height,
            zooms: (0..=Zoom::MAX.get()).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The deepest zoom to which its border is followed.
    pub(crate) const fn deepest(&self) -> Zoom {
        self.deepest
    }

    /// How many rows of tiles its edges cross at a zoom, about, which is the work of finding its tiles there.
    pub(crate) fn crossed_rows(&self, zoom: Zoom) -> f64 {
        self.edges + self.height * f64::from(zoom.min(self.deepest).get()).exp2()
    }

    /// Reads what [`Display`](std::fmt::Display) writes, in the form of WKT.
    pub(crate) fn read(text: &str) -> Option<AreaShape> {
        let number = |text: &str, limit: f64| text.parse().ok().filter(|number: &f64| number.abs() <= limit);
        let position = |text: &str| {
            let (east, north) = text.trim().split_once(' ')?;
            Some([number(east, MAX_LONGITUDE)?, number(north.trim(), 90.0)?])
        };
        let line = |text: &str| text.split(',').map(position).collect::<Option<Vec<AreaPosition>>>();
        if let Some(inner) = text.strip_prefix("LINESTRING(") {
            return Some(AreaShape::new(AreaKind::Line, vec![line(inner.strip_suffix(')')?)?]));
        }
        let inner = text.strip_prefix("POLYGON((")?.strip_suffix("))")?;
        let rings = inner.split("),(").map(line).collect::<Option<_>>()?;
        Some(AreaShape::new(AreaKind::Polygon, rings))
    }

    /// The shape as a GeoJSON geometry.
    pub fn geometry(&self) -> serde_json::Value {
        match self.kind {
            AreaKind::Polygon => serde_json::json!({ "type": "Polygon", "coordinates": self.rings }),
            AreaKind::Line => serde_json::json!({ "type": "LineString", "coordinates": self.rings.first() }),
        }
    }

    /// True if the shape is more than a single position.
    pub(crate) fn has_extent(&self) -> bool {
        let mut positions = self.rings.iter().flatten();
        let first = positions.next();
        positions.any(|position| Some(position) != first)
    }

    /// The tiles that the shape touches, as rectangles that share no tile.
    pub(crate) fn rects(&self, zoom: Zoom) -> Vec<TileRect> {
        let known = zoom.min(self.deepest);
        let down = zoom.get() - known.get();
        let below = |first: u32, last: u32| (first << down, ((last + 1) << down) - 1);
        let deeper = |rect: TileRect| {
            let ((x0, x1), (y0, y1)) = (below(rect.x0, rect.x1), below(rect.y0, rect.y1));
            TileRect { zoom, x0, y0, x1, y1 }
        };
        rects_of(self.rows(known), known).into_iter().map(deeper).collect()
    }

    pub(crate) fn touches(&self, tile: TileCoord) -> bool {
        let known = tile.zoom().min(self.deepest);
        let up = tile.zoom().get() - known.get();
        let (x, y) = (tile.x() >> up, tile.y() >> up);
        let runs = self.rows(known).get(&y).map_or(&[][..], Vec::as_slice);
        runs.get(runs.partition_point(|run| run.last < x)).is_some_and(|run| run.first <= x)
    }

    /// The smallest boxes around the shape; none of them crosses the antimeridian.
    pub(crate) fn bounds(&self) -> Vec<LonLatBox> {
        let spots = || self.borders.iter().flat_map(|border| &border.0);
        let (west, east) = spots()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), spot| (least.min(spot.x), most.max(spot.x)));
        let latitudes = || self.rings.iter().flatten().map(|[_, north]| *north);
        let (south, north) = (latitudes().fold(90.0, f64::min), latitudes().fold(-90.0, f64::max));
        let degrees = |share: f64| share * 360.0 - 180.0;
        if !(west.is_finite() && east - west < 1.0) {
            return vec![LonLatBox { west: -180.0, south, east: 180.0, north }];
        }
        let (west, east) = (west - west.floor(), east - (east.ceil() - 1.0));
        LonLatBox { west: degrees(west), south, east: degrees(east), north }.unwrapped().collect()
    }

    pub(crate) fn rows(&self, zoom: Zoom) -> &ZoomRows {
        self.zooms[usize::from(zoom.get())].get_or_init(|| self.rows_at(zoom))
    }

    #[expect(clippy::cast_possible_truncation, reason = "tiles of a zoom are at most 2^22")]
    fn rows_at(&self, zoom: Zoom) -> ZoomRows {
        let side = i64::from(zoom.last()) + 1;
        let (scale, hair) = (side as f64, HAIR * side as f64);
        let run = |west: f64, east: f64| CrossedColumns {
            first: (west + hair).floor() as i64,
            last: (east - hair).ceil() as i64 - 1,
        };
        let mut rows: BTreeMap<i64, CrossedRow> = BTreeMap::new();
        for (one, other) in self.borders.iter().flat_map(Border::edges) {
            let (one, other) = if one.y <= other.y { (one, other) } else { (other, one) };
            let (upper, lower) = (one.y * scale, other.y * scale);
            let at = |y: f64| {
                let part = if lower > upper { ((y - upper) / (lower - upper)).clamp(0.0, 1.0) } else { 0.0 };
                (one.x + (other.x - one.x) * part) * scale
            };
            // An edge that only ends on the border of a tile does not touch the tile, and does not cross the middle of
            // its row, either.
            let (first, last) = ((upper + hair).floor() as i64, (lower - hair).ceil() as i64 - 1);
            for row in first.max(0)..=last.min(side - 1) {
                let (top, bottom) = (row as f64, (row + 1) as f64);
                let (a, b) = if lower - upper > hair {
                    (at(upper.max(top)), at(lower.min(bottom)))
                } else {
                    (one.x * scale, other.x * scale)
                };
                let mut crossed = run(a.min(b), a.max(b));
                if self.kind == AreaKind::Line {
                    crossed.last = crossed.last.max(crossed.first);
                }
                let found = rows.entry(row).or_default();
                found.columns.push(crossed);
                let middle = f64::midpoint(top, bottom);
                if (upper <= middle) != (lower <= middle) {
                    found.crossings.push(at(middle));
                }
            }
        }
        let mut tiles = ZoomRows::new();
        for (row, CrossedRow { mut columns, mut crossings }) in rows {
            if self.kind == AreaKind::Polygon {
                crossings.sort_by(f64::total_cmp);
                columns.extend(crossings.chunks_exact(2).map(|pair| run(pair[0], pair[1])));
            }
            columns.retain(|columns| columns.first <= columns.last);
            let runs = merged(columns, side);
            if let Some(row) = u32::try_from(row).ok().filter(|_| !runs.is_empty()) {
                tiles.insert(row, runs);
            }
        }
        tiles
    }
}

/// The largest longitude that is accepted: some programs write areas across the antimeridian with longitudes beyond
/// ±180°.
pub(crate) const MAX_LONGITUDE: f64 = 540.0;

/// Where the borders of a shape cross a row of tiles.
#[derive(Default)]
struct CrossedRow {
    columns: Vec<CrossedColumns>,
    /// Where the borders cross the middle of the row, in columns.
    crossings: Vec<f64>,
}

impl Border {
    fn of(positions: &[AreaPosition]) -> Border {
        let mut spots: Vec<WorldSpot> = Vec::with_capacity(positions.len());
        for [east, north] in positions {
            let mut x = unit_x(*east);
            // Takes the shorter way: a line from 179° to -179° crosses the antimeridian.
            if let Some(before) = spots.last() {
                x += (before.x - x).round();
            }
            spots.push(WorldSpot { x, y: unit_y(*north) });
        }
        Border(spots)
    }

    /// Moves the rings of a polygon to the side of the antimeridian on which the first ring lies.
    fn aligned(mut rings: Vec<Border>) -> Vec<Border> {
        let start = |ring: &Border| ring.0.first().map(|spot| spot.x);
        let first = rings.first().and_then(start);
        for ring in &mut rings {
            let Some(by) = first.zip(start(ring)).map(|(first, own)| (first - own).round()) else { continue };
            ring.0.iter_mut().for_each(|spot| spot.x += by);
        }
        rings
    }

    fn edges(&self) -> impl Iterator<Item = (WorldSpot, WorldSpot)> {
        self.0.windows(2).map(|two| (two[0], two[1]))
    }
}

/// As WKT.
impl std::fmt::Display for AreaShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = |ring: &Vec<AreaPosition>| {
            let mut text = String::new();
            for [east, north] in ring {
                let comma = if text.is_empty() { "" } else { "," };
                write!(text, "{comma}{east} {north}")?;
            }
            Ok(format!("({text})"))
        };
        let rings: Vec<String> = self.rings.iter().map(line).collect::<Result<_, std::fmt::Error>>()?;
        match self.kind {
            AreaKind::Polygon => write!(f, "POLYGON({})", rings.join(",")),
            AreaKind::Line => write!(f, "LINESTRING{}", rings.join(",")),
        }
    }
}

impl PartialEq for AreaShape {
    fn eq(&self, other: &AreaShape) -> bool {
        self.kind == other.kind && self.rings == other.rings
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tile::bbox::{unit_x, unit_y};
    use crate::tile::{Coverage, TileCoord};

    fn tiles(geometry: &Value, deepest: u8, zoom: u8) -> BTreeSet<(u32, u32)> {
        let parts = parts_of_area(geometry, Zoom::new(deepest).unwrap());
        assert!(!parts.is_empty());
        tiles_of(&parts, zoom)
    }

    fn tiles_of(parts: &[AreaPart], zoom: u8) -> BTreeSet<(u32, u32)> {
        let mut found = BTreeSet::new();
        let (coverage, zoom) = (Coverage::new(parts), Zoom::new(zoom).unwrap());
        for rect in coverage.rects(zoom) {
            for tile in rect.iter() {
                assert!(coverage.touches(tile), "{tile}");
                found.insert((tile.x(), tile.y()));
            }
        }
        let around: BTreeSet<(u32, u32)> =
            found.iter().flat_map(|(x, y)| [(x + 1, *y), (x.saturating_sub(1), *y), (*x, y + 1)]).collect();
        for (x, y) in around.difference(&found) {
            let touches = TileCoord::new(zoom, *x, *y).is_some_and(|tile| coverage.touches(tile));
            assert!(!touches, "{zoom}/{x}/{y}");
        }
        // The text that a manifest keeps gives the same parts.
        let read: Vec<AreaPart> = parts.iter().map(|part| part.to_string().parse().unwrap()).collect();
        assert_eq!(read, parts);
        found
    }

    fn polygon(rings: &[&[[f64; 2]]]) -> Value {
        serde_json::json!({ "type": "Polygon", "coordinates": rings })
    }

    /// Compares a triangle's tiles with the tiles of positions on a fine grid inside of the triangle.
    #[test]
    fn a_triangle_is_not_its_box() {
        let triangle: &[[f64; 2]] = &[[0.5, 0.5], [44.5, 0.5], [0.5, 40.0], [0.5, 0.5]];
        let found = tiles(&polygon(&[triangle]), 6, 6);
        let side = 64.0;
        let mut inside = BTreeSet::new();
        for step in 0..400 {
            for part in 0..400 {
                let (a, b) = (f64::from(step) / 400.0, f64::from(part) / 400.0);
                if a + b <= 1.0 {
                    let (x, y) = (unit_x(0.5 + 44.0 * a), unit_y(0.5) + (unit_y(40.0) - unit_y(0.5)) * b);
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers")]
                    inside.insert(((x * side) as u32, (y * side) as u32));
                }
            }
        }
        assert!(inside.is_subset(&found), "{:?}", inside.difference(&found));
        // Except for tiles that the grid just missed.
        assert!(found.len() - inside.len() <= 2, "{:?}", found.difference(&inside));
        assert!(found.len() < 60, "{}", found.len());
        for zoom in 0..6 {
            let above: BTreeSet<_> = found.iter().map(|(x, y)| (x >> (6 - zoom), y >> (6 - zoom))).collect();
            assert_eq!(tiles(&polygon(&[triangle]), 6, zoom), above, "{zoom}");
        }
    }

    #[test]
    fn holes_are_left_out() {
        let outer: &[[f64; 2]] = &[[-80.0, -60.0], [80.0, -60.0], [80.0, 60.0], [-80.0, 60.0], [-80.0, -60.0]];
        let hole: &[[f64; 2]] = &[[-40.0, -40.0], [-40.0, 40.0], [40.0, 40.0], [40.0, -40.0], [-40.0, -40.0]];
        let (whole, holed) = (tiles(&polygon(&[outer]), 5, 5), tiles(&polygon(&[outer, hole]), 5, 5));
        assert!(whole.contains(&(16, 16)) && !holed.contains(&(16, 16)) && holed.contains(&(10, 16)));
        assert!(holed.is_subset(&whole));
    }

    #[test]
    fn an_area_may_cross_the_antimeridian() {
        let expected: BTreeSet<(u32, u32)> = [0, 1, 30, 31].into_iter().flat_map(|x| [(x, 14), (x, 15)]).collect();
        for sides in [[165.0, -165.0], [165.0, 195.0], [-195.0, -165.0]] {
            let [west, east] = sides;
            let ring: &[[f64; 2]] = &[[west, 1.0], [east, 1.0], [east, 15.0], [west, 15.0], [west, 1.0]];
            assert_eq!(tiles(&polygon(&[ring]), 5, 5), expected, "{sides:?}");
        }
        let split = serde_json::json!({ "type": "MultiPolygon", "coordinates": [
            [[[165.0, 1.0], [180.0, 1.0], [180.0, 15.0], [165.0, 15.0], [165.0, 1.0]]],
            [[[-180.0, 1.0], [-165.0, 1.0], [-165.0, 15.0], [-180.0, 15.0], [-180.0, 1.0]]]] });
        assert_eq!(tiles(&split, 5, 5), expected);
    }

    fn star(points: u32) -> Vec<[f64; 2]> {
        (0..=points)
            .map(|step| {
                let angle = f64::from(step % points) / f64::from(points) * std::f64::consts::TAU;
                let reach = if step % 2 == 0 { 30.0 } else { 12.0 };
                [reach * angle.cos(), reach * angle.sin()]
            })
            .collect()
    }

    /// True if a position lies in a ring.
    fn is_in(ring: &[[f64; 2]], at: [f64; 2]) -> bool {
        let crosses = |two: &&[[f64; 2]]| {
            let ([ax, ay], [bx, by]) = (two[0], two[1]);
            (ay > at[1]) != (by > at[1]) && at[0] < ax + (at[1] - ay) / (by - ay) * (bx - ax)
        };
        ring.windows(2).filter(crosses).count() % 2 == 1
    }

    /// True if a line has a part inside of a square (Liang and Barsky, "A new concept and method for line clipping",
    /// 1984).
    fn is_cut(line: &[[f64; 2]], corner: [f64; 2], side: f64) -> bool {
        let (mut from, mut to) = (0.0_f64, 1.0_f64);
        for axis in [0, 1] {
            let (start, way) = (line[0][axis] - corner[axis], line[1][axis] - line[0][axis]);
            let (one, other) = (-start / way, (side - start) / way);
            (from, to) = (from.max(one.min(other)), to.min(one.max(other)));
        }
        from < to
    }

    #[test]
    fn a_border_with_many_bends_is_followed_at_deep_zooms() {
        let star = star(720);
        let parts = parts_of_area(&polygon(&[&star]), Zoom::MIN);
        assert!(matches!(&parts[..], [AreaPart::Shape(_)]));
        let coverage = Coverage::new(&parts);
        let rounded = |degrees: f64| (degrees * 1e7).round() / 1e7;
        let world: Vec<[f64; 2]> =
            star.iter().map(|[east, north]| [unit_x(rounded(*east)), unit_y(rounded(*north))]).collect();
        let mut counts = [0, 0];
        for zoom in [3, 8, 11, 13] {
            let zoom = Zoom::new(zoom).unwrap();
            let side = 1.0 / (f64::from(zoom.last()) + 1.0);
            for step in 0..2_000 {
                let at = [f64::from(step % 50) * 1.3 - 32.5 + 0.011, f64::from(step / 50) * 1.55 - 31.0 + 0.013];
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tiles of a zoom")]
                let (x, y) = ((unit_x(at[0]) / side) as u32, (unit_y(at[1]) / side) as u32);
                let corner = [f64::from(x) * side, f64::from(y) * side];
                let expected = is_in(&world, corner.map(|from| from + side / 2.0))
                    || world.windows(2).any(|line| is_cut(line, corner, side));
                let tile = TileCoord::new(zoom, x, y).unwrap();
                assert_eq!(coverage.touches(tile), expected, "{tile}");
                counts[usize::from(expected)] += 1;
            }
        }
        assert!(counts.iter().all(|count| *count > 1_000), "{counts:?}");
        // At deeper zooms the shape has all tiles within those tiles.
        let deep = TileCoord::new(Zoom::new(22).unwrap(), 1 << 21, 1 << 21).unwrap();
        assert!(coverage.touches(deep));
    }

    #[test]
    fn an_area_with_too_many_positions_becomes_few_boxes_and_a_line_is_its_own_tiles() {
        let parts = parts_of_area(&polygon(&[&star(20_000)]), Zoom::new(14).unwrap());
        assert!((20..=MAX_BOXES_OF_AREA).contains(&parts.len()), "{}", parts.len());
        assert!(!tiles_of(&parts, 3).is_empty());
        let line = serde_json::json!({ "type": "LineString", "coordinates": [[-100.0, 50.0], [100.0, -50.0]] });
        assert!(tiles(&line, 6, 6).len() < 70);
        for nothing in [
            serde_json::json!({ "type": "Point", "coordinates": [1, 2] }),
            serde_json::json!({}),
            serde_json::json!([1]),
        ] {
            assert!(parts_of_area(&nothing, Zoom::MAX).is_empty());
        }
    }

    /// 60,000 positions fit into the body of a job; 2,400 triangles are few positions, and their edges cross all rows
    /// of tiles of the world.
    #[test]
    fn an_area_with_too_winding_borders_becomes_boxes_before_its_tiles_are_found() {
        let zigzag: Vec<[f64; 2]> =
            (0..60_000).map(|step| [f64::from(step % 170), if step % 2 == 0 { -85.0 } else { 85.0 }]).collect();
        let tall = |step: i32| {
            let west = f64::from(step) / 8.0 - 150.0;
            serde_json::json!([[[west, -85.0], [west + 0.01, 85.0], [west + 0.02, -85.0], [west, -85.0]]])
        };
        let triangles: Vec<Value> = (0..2_400).map(tall).collect();
        for area in [polygon(&[&zigzag]), serde_json::json!({ "type": "MultiPolygon", "coordinates": triangles })] {
            let parts = parts_of_area(&area, Zoom::MAX);
            assert!((1..=MAX_BOXES_OF_AREA).contains(&parts.len()) && is_bounded_area(&parts), "{}", parts.len());
            assert!(parts.iter().all(|part| part.as_box().is_some()));
            assert!(!tiles_of(&parts, 5).is_empty());
        }
        let one = parts_of_area(&polygon(&[&star(720)]), Zoom::MAX);
        assert!(is_bounded_area(&one) && one.iter().all(|part| part.as_box().is_none()));
        let text = |step: i32| format!("POLYGON(({step} -85,{step} 85,{} -85,{step} -85))", step + 1);
        let written: Vec<AreaPart> = (0..100).map(|step| text(step).parse().unwrap()).collect();
        assert!(!is_bounded_area(&written), "as a job may write it");
    }

    /// An area that only borders on a tile does not touch it.
    #[test]
    fn an_area_that_ends_where_a_tile_begins_does_not_touch_it() {
        let square: &[[f64; 2]] = &[[-90.0, 0.0], [0.0, 0.0], [0.0, 66.513_260_4], [-90.0, 66.513_260_4], [-90.0, 0.0]];
        assert_eq!(tiles(&polygon(&[square]), 2, 2), BTreeSet::from([(1, 1)]));
    }
}
