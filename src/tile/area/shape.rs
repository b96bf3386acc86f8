//! A polygon or a line, and the tiles that it touches.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::OnceLock;

use super::runs::{CrossedColumns, TileRun, merged, rects_of};
use crate::tile::bbox::{unit_x, unit_y};
use crate::tile::{LonLatBox, TileCoord, TileRect, Zoom};

/// The limit for the rows of tiles that the edges of a shape cross, added up over all edges. It decides the deepest zoom at which the
/// shape's tiles are computed. Runs of tiles in that number take some megabytes.
const MAX_CROSSED_ROWS: f64 = 262_144.0;

/// The tolerance for rounding of the borders of tiles and shapes, as a share of the world's width. Boxes have the same tolerance.
const HAIR: f64 = 1e-9;

/// The kind of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShapeKind {
    /// The area that an odd number of rings surrounds.
    Polygon,
    /// One line, without any inside.
    Line,
}

/// A longitude and a latitude in degrees.
pub(super) type AreaPosition = [f64; 2];

/// A polygon without holes, or a line. It has exactly the tiles that it touches, down to a zoom that depends on how long and winding its
/// border is (20 for a country). At deeper zooms it has all tiles within its tiles of that zoom.
#[derive(Debug)]
pub struct AreaShape {
    kind: ShapeKind,
    rings: Vec<Vec<AreaPosition>>,
    borders: Vec<Border>,
    deepest: Zoom,
    /// The number of its edges, and their heights together, in shares of the world.
    edges: f64,
    height: f64,
    zooms: Box<[OnceLock<ZoomRows>]>,
}

/// A line of positions in shares of the world: x grows east and may leave 0..=1 where the line crosses the antimeridian, y grows south.
#[derive(Debug, Clone)]
struct Border(Vec<WorldSpot>);

/// A position in shares of the world.
#[derive(Debug, Clone, Copy)]
struct WorldSpot {
    x: f64,
    y: f64,
}

/// The tiles of a zoom: for each row the runs of columns, in order, no two of them adjacent.
pub(super) type ZoomRows = BTreeMap<u32, Vec<TileRun>>;

impl AreaShape {
    pub(super) fn new(kind: ShapeKind, rings: Vec<Vec<AreaPosition>>) -> AreaShape {
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
    pub(super) const fn deepest(&self) -> Zoom {
        self.deepest
    }

    /// How many rows of tiles its edges cross at a zoom, about, which is the work of finding its tiles there.
    pub(super) fn crossed_rows(&self, zoom: Zoom) -> f64 {
        self.edges + self.height * f64::from(zoom.min(self.deepest).get()).exp2()
    }

    /// Reads what [`Display`](std::fmt::Display) writes, in the form of WKT.
    pub(super) fn read(text: &str) -> Option<AreaShape> {
        let number = |text: &str, limit: f64| text.parse().ok().filter(|number: &f64| number.abs() <= limit);
        let position = |text: &str| {
            let (east, north) = text.trim().split_once(' ')?;
            Some([number(east, MAX_LONGITUDE)?, number(north.trim(), 90.0)?])
        };
        let line = |text: &str| text.split(',').map(position).collect::<Option<Vec<AreaPosition>>>();
        if let Some(inner) = text.strip_prefix("LINESTRING(") {
            return Some(AreaShape::new(ShapeKind::Line, vec![line(inner.strip_suffix(')')?)?]));
        }
        let inner = text.strip_prefix("POLYGON((")?.strip_suffix("))")?;
        let rings = inner.split("),(").map(line).collect::<Option<_>>()?;
        Some(AreaShape::new(ShapeKind::Polygon, rings))
    }

    /// The shape as a GeoJSON geometry.
    #[must_use]
    pub fn geometry(&self) -> serde_json::Value {
        match self.kind {
            ShapeKind::Polygon => serde_json::json!({ "type": "Polygon", "coordinates": self.rings }),
            ShapeKind::Line => serde_json::json!({ "type": "LineString", "coordinates": self.rings.first() }),
        }
    }

    /// True if the shape is more than a single position.
    pub(super) fn has_extent(&self) -> bool {
        let mut positions = self.rings.iter().flatten();
        let first = positions.next();
        positions.any(|position| Some(position) != first)
    }

    /// The tiles that the shape touches, as rectangles that share no tile.
    pub(in crate::tile) fn rects(&self, zoom: Zoom) -> Vec<TileRect> {
        let known = zoom.min(self.deepest);
        let down = zoom.get() - known.get();
        let below = |first: u32, last: u32| (first << down, ((last + 1) << down) - 1);
        let deeper = |rect: TileRect| {
            let ((x0, x1), (y0, y1)) = (below(rect.x0, rect.x1), below(rect.y0, rect.y1));
            TileRect { zoom, x0, y0, x1, y1 }
        };
        rects_of(self.rows(known), known).into_iter().map(deeper).collect()
    }

    /// True if the shape touches a tile.
    pub(in crate::tile) fn touches(&self, tile: TileCoord) -> bool {
        let known = tile.zoom().min(self.deepest);
        let up = tile.zoom().get() - known.get();
        let (x, y) = (tile.x() >> up, tile.y() >> up);
        let runs = self.rows(known).get(&y).map_or(&[][..], Vec::as_slice);
        runs.get(runs.partition_point(|run| run.last < x)).is_some_and(|run| run.first <= x)
    }

    /// The smallest boxes around the shape; none of them crosses the antimeridian.
    pub(in crate::tile) fn bounds(&self) -> Vec<LonLatBox> {
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

    pub(super) fn rows(&self, zoom: Zoom) -> &ZoomRows {
        self.zooms[usize::from(zoom.get())].get_or_init(|| self.rows_at(zoom))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "tiles of a zoom are at most 2^22"
    )]
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
            // An edge that only ends on the border of a tile does not touch the tile, and does not cross the middle of its row, either.
            let (first, last) = ((upper + hair).floor() as i64, (lower - hair).ceil() as i64 - 1);
            for row in first.max(0)..=last.min(side - 1) {
                let (top, bottom) = (row as f64, (row + 1) as f64);
                let (a, b) = if lower - upper > hair {
                    (at(upper.max(top)), at(lower.min(bottom)))
                } else {
                    (one.x * scale, other.x * scale)
                };
                let mut crossed = run(a.min(b), a.max(b));
                if self.kind == ShapeKind::Line {
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
            if self.kind == ShapeKind::Polygon {
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

/// The largest longitude that is accepted: some programs write areas across the antimeridian with longitudes beyond ±180°.
pub(super) const MAX_LONGITUDE: f64 = 540.0;

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
            ShapeKind::Polygon => write!(f, "POLYGON({})", rings.join(",")),
            ShapeKind::Line => write!(f, "LINESTRING{}", rings.join(",")),
        }
    }
}

impl PartialEq for AreaShape {
    fn eq(&self, other: &AreaShape) -> bool {
        self.kind == other.kind && self.rings == other.rings
    }
}
