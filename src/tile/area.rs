//! Areas with borders of any form, as the tiles that they touch.

use serde_json::Value;

use super::bbox::{unit_x, unit_y};
use super::{LonLatBox, WORLD_UNITS, Zoom, latitude, longitude};

/// The most boxes that an area becomes: each run looks at all of them.
const MAX_BOXES_OF_AREA: usize = 400;

/// A line of positions in shares of the world: x grows east and may leave 0..=1 where the line crosses the antimeridian, y grows south.
#[derive(Debug, Clone)]
struct AreaBorder(Vec<Spot2>);

/// A position in shares of the world.
#[derive(Debug, Clone, Copy)]
struct Spot2 {
    x: f64,
    y: f64,
}

/// Columns of tiles in a row, counted on beyond the antimeridian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TileRun {
    first: i64,
    last: i64,
}

/// Boxes that together are the tiles of the polygons and lines in a GeoJSON (RFC 7946), holes left out, at the deepest zoom, up to `deepest`, at
/// which they are few enough. At that zoom and above, exactly the tiles that the area touches are in them; below, those within these tiles.
/// Empty if nothing has an extent.
#[must_use]
pub fn boxes_of_area(json: &Value, deepest: Zoom) -> Vec<LonLatBox> {
    let mut shapes = Vec::new();
    collect(json, &mut shapes);
    let mut best = Vec::new();
    for zoom in (0..=deepest.get()).filter_map(Zoom::new) {
        let boxes = boxes_at(&shapes, zoom);
        if boxes.len() > MAX_BOXES_OF_AREA && !best.is_empty() {
            break;
        }
        best = boxes;
    }
    best
}

/// A geometry: outlines whose inside is what an odd number of them surrounds.
type AreaShape = Vec<AreaBorder>;

fn collect(json: &Value, shapes: &mut Vec<AreaShape>) {
    let list = |name: &str| json.get(name).and_then(Value::as_array).into_iter().flatten();
    let outline = |positions: &Value| AreaBorder::of(positions);
    match json.get("type").and_then(Value::as_str) {
        Some("FeatureCollection") => list("features").for_each(|feature| collect(feature, shapes)),
        Some("Feature") => json.get("geometry").into_iter().for_each(|geometry| collect(geometry, shapes)),
        Some("GeometryCollection") => list("geometries").for_each(|geometry| collect(geometry, shapes)),
        Some("Polygon") => shapes.push(AreaBorder::aligned(list("coordinates").map(outline).collect())),
        Some("MultiPolygon") => {
            for polygon in list("coordinates") {
                let rings = polygon.as_array().into_iter().flatten().map(outline);
                shapes.push(AreaBorder::aligned(rings.collect()));
            }
        }
        // What a line surrounds is none of it: each is there twice.
        Some("LineString") => {
            shapes.extend(json.get("coordinates").map(|line| vec![outline(line), outline(line)]));
        }
        Some("MultiLineString") => shapes.extend(list("coordinates").map(|line| vec![outline(line), outline(line)])),
        _ => {}
    }
}

impl AreaBorder {
    fn of(positions: &Value) -> AreaBorder {
        let mut spots: Vec<Spot2> = Vec::new();
        for position in positions.as_array().into_iter().flatten() {
            let number = |at: usize| position.get(at).and_then(Value::as_f64);
            let (Some(east), Some(north)) = (number(0), number(1)) else { continue };
            let mut x = unit_x(east);
            // The shorter way: a line from 179° to -179° crosses the antimeridian.
            if let Some(before) = spots.last() {
                x += (before.x - x).round();
            }
            spots.push(Spot2 { x, y: unit_y(north.clamp(-90.0, 90.0)) });
        }
        AreaBorder(spots)
    }

    /// Rings of a polygon, on the same side of the antimeridian as the first.
    fn aligned(mut rings: Vec<AreaBorder>) -> Vec<AreaBorder> {
        let start = |ring: &AreaBorder| ring.0.first().map(|spot| spot.x);
        let first = rings.first().and_then(start);
        for ring in &mut rings {
            let Some(by) = first.zip(start(ring)).map(|(first, own)| (first - own).round()) else { continue };
            ring.0.iter_mut().for_each(|spot| spot.x += by);
        }
        rings
    }

    fn edges(&self) -> impl Iterator<Item = (Spot2, Spot2)> {
        self.0.windows(2).map(|two| (two[0], two[1]))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "tiles of a zoom are fewer than 2^23")]
fn boxes_at(shapes: &[AreaShape], zoom: Zoom) -> Vec<LonLatBox> {
    let side = i64::from(zoom.last()) + 1;
    #[expect(clippy::cast_precision_loss, reason = "at most 2^22")]
    let scale = side as f64;
    let mut rows: std::collections::BTreeMap<i64, Vec<TileRun>> = std::collections::BTreeMap::new();
    for shape in shapes {
        let spots = || shape.iter().flat_map(|outline| &outline.0);
        let Some(north) = spots().map(|spot| spot.y * scale).reduce(f64::min) else { continue };
        let south = spots().map(|spot| spot.y * scale).fold(north, f64::max);
        let east_west = spots()
            .map(|spot| spot.x)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), x| (least.min(x), most.max(x)));
        if east_west.0 >= east_west.1 && north >= south {
            continue;
        }
        for row in north.floor() as i64..=((south.ceil() as i64) - 1).max(north.floor() as i64).min(side - 1) {
            rows.entry(row.min(side - 1)).or_default().extend(runs(shape, row, scale));
        }
    }
    let mut open: Vec<(TileRun, i64)> = Vec::new();
    let (mut boxes, mut before) = (Vec::new(), None);
    let mut close = |run: TileRun, from: i64, to: i64| {
        // A tenth of a millimetre: short to write, exact to read again, and far less than what [`Coverage::rects`](super::Coverage::rects) forgives.
        let rounded = |degrees: f64| (degrees * 1e9).round() / 1e9;
        let degrees = |tile: i64, of: fn(i64) -> f64| rounded(of(tile * (WORLD_UNITS / side)));
        boxes.push(LonLatBox {
            west: degrees(run.first, longitude),
            south: degrees(to + 1, latitude),
            east: degrees(run.last + 1, longitude),
            north: degrees(from, latitude),
        });
    };
    for (row, runs) in rows {
        let runs = merged(runs, side);
        let goes_on = before == Some(row - 1);
        let (kept, ended): (Vec<_>, Vec<_>) = open.into_iter().partition(|(run, _)| goes_on && runs.contains(run));
        for (run, from) in ended {
            close(run, from, before.unwrap_or(row));
        }
        let fresh = runs.iter().filter(|run| !kept.iter().any(|(other, _)| other == *run)).map(|run| (*run, row));
        let fresh: Vec<_> = fresh.collect();
        open = kept.into_iter().chain(fresh).collect();
        before = Some(row);
    }
    for (run, from) in open {
        close(run, from, before.unwrap_or(from));
    }
    boxes
}

/// The columns of a row that a shape touches: those that its outlines cross, and those inside of it.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "tiles of a zoom are fewer than 2^23")]
fn runs(shape: &AreaShape, row: i64, scale: f64) -> Vec<TileRun> {
    let (top, bottom) = (row as f64, (row + 1) as f64);
    let middle = f64::midpoint(top, bottom);
    let (mut runs, mut crossings) = (Vec::new(), Vec::new());
    for (one, other) in shape.iter().flat_map(AreaBorder::edges) {
        let (one, other) = if one.y <= other.y { (one, other) } else { (other, one) };
        let (upper, lower) = (one.y * scale, other.y * scale);
        if lower < top || upper > bottom {
            continue;
        }
        let at = |y: f64| {
            let part = if lower > upper { ((y - upper) / (lower - upper)).clamp(0.0, 1.0) } else { 0.0 };
            (one.x + (other.x - one.x) * part) * scale
        };
        let (a, b) =
            if lower > upper { (at(upper.max(top)), at(lower.min(bottom))) } else { (one.x * scale, other.x * scale) };
        let (west, east) = (a.min(b), a.max(b));
        // What only ends on the border of a tile does not touch it.
        if lower > top && upper < bottom {
            runs.push(TileRun { first: west.floor() as i64, last: (east.ceil() as i64 - 1).max(west.floor() as i64) });
        }
        if (upper <= middle) != (lower <= middle) {
            crossings.push(at(middle));
        }
    }
    crossings.sort_by(f64::total_cmp);
    for pair in crossings.chunks_exact(2) {
        let (west, east) = (pair[0], pair[1]);
        if east > west {
            runs.push(TileRun { first: west.floor() as i64, last: (east.ceil() as i64 - 1).max(west.floor() as i64) });
        }
    }
    runs
}

/// Runs without overlaps, in the world's own columns.
fn merged(runs: Vec<TileRun>, side: i64) -> Vec<TileRun> {
    let mut within: Vec<TileRun> = Vec::new();
    for TileRun { first, last } in runs {
        if last - first + 1 >= side {
            return vec![TileRun { first: 0, last: side - 1 }];
        }
        let (from, to) = (first.rem_euclid(side), last.rem_euclid(side));
        if from <= to {
            within.push(TileRun { first: from, last: to });
        } else {
            within.extend([TileRun { first: from, last: side - 1 }, TileRun { first: 0, last: to }]);
        }
    }
    within.sort_unstable();
    let mut joined: Vec<TileRun> = Vec::new();
    for run in within {
        match joined.last_mut().filter(|last| run.first <= last.last + 1) {
            Some(last) => last.last = last.last.max(run.last),
            None => joined.push(run),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tile::Coverage;

    fn tiles(geometry: &Value, deepest: u8, zoom: u8) -> BTreeSet<(u32, u32)> {
        let boxes = boxes_of_area(geometry, Zoom::new(deepest).unwrap());
        assert!(!boxes.is_empty() && boxes.len() <= MAX_BOXES_OF_AREA, "{}", boxes.len());
        let mut found = BTreeSet::new();
        for rect in Coverage::new(&boxes).rects(Zoom::new(zoom).unwrap()) {
            found.extend((rect.x0..=rect.x1).flat_map(|x| (rect.y0..=rect.y1).map(move |y| (x, y))));
        }
        found
    }

    fn polygon(rings: &[&[[f64; 2]]]) -> Value {
        serde_json::json!({ "type": "Polygon", "coordinates": rings })
    }

    /// Positions on a fine grid: which tiles have one inside of a triangle.
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
        // Beside those that the grid missed by a hair.
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

    #[test]
    fn a_border_with_many_bends_becomes_few_boxes_and_a_line_its_own_tiles() {
        let star: Vec<[f64; 2]> = (0..=720)
            .map(|step| {
                let (angle, reach) = (f64::from(step).to_radians() / 2.0, if step % 2 == 0 { 30.0 } else { 12.0 });
                [reach * angle.cos(), reach * angle.sin()]
            })
            .collect();
        assert!(!tiles(&polygon(&[&star]), 14, 3).is_empty());
        let line = serde_json::json!({ "type": "LineString", "coordinates": [[-100.0, 50.0], [100.0, -50.0]] });
        assert!(tiles(&line, 6, 6).len() < 70);
        for nothing in [
            serde_json::json!({ "type": "Point", "coordinates": [1, 2] }),
            serde_json::json!({}),
            serde_json::json!([1]),
        ] {
            assert!(boxes_of_area(&nothing, Zoom::MAX).is_empty());
        }
    }
}
