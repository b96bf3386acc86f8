//! Areas with borders of any form, as the tiles that they touch.
//!
//! - `part`: a box, a polygon or a line ([`AreaPart`]).
//! - `shape`: the tiles that a polygon or a line touches ([`AreaShape`]).
//! - `runs`: rows of tiles.

mod part;
mod runs;
mod shape;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::{LonLatBox, WORLD_UNITS, Zoom, latitude, longitude};
pub use part::{AreaPart, area_for_people};
use runs::{joined, rects_of};
pub use shape::AreaShape;
use shape::{AreaPosition, MAX_LONGITUDE, ShapeKind};

/// The most boxes that replace an area with too many positions: each run compares with all of them.
const MAX_BOXES_OF_AREA: usize = 400;

/// The most positions of an area whose shapes are kept with the target: 10,000 are about 200 kB of its manifest.
const MAX_POSITIONS_OF_AREA: usize = 10_000;

/// The most rows of tiles that the edges of an area's shapes may cross together, in the zooms to which they are followed: its tiles take some
/// hundred megabytes and a second then. A country with its islands crosses some hundred thousand.
const MAX_CROSSED_ROWS_OF_AREA: f64 = 1_048_576.0;

/// True if the tiles of the shapes among some parts can be computed with bounded work.
#[must_use]
pub fn is_bounded_area(parts: &[AreaPart]) -> bool {
    let shapes = parts.iter().filter_map(|part| match part {
        AreaPart::Shape(shape) => Some(shape.crossed_rows(Zoom::MAX)),
        AreaPart::Box(_) => None,
    });
    shapes.sum::<f64>() <= MAX_CROSSED_ROWS_OF_AREA
}

/// The polygons (without holes) and lines of a GeoJSON (RFC 7946). An area with more than 10,000 positions, or with borders that cross too many rows
/// of tiles, is returned as boxes instead. Together these are its tiles at the deepest zoom, up to `deepest`, at which there are at most 400 boxes.
/// Empty if nothing has an extent.
#[must_use]
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
    let mut rows: BTreeMap<u32, Vec<runs::TileRun>> = BTreeMap::new();
    let mut count = 0_u32;
    for rect in shapes.iter().flat_map(|shape| shape.rects(zoom)) {
        count = count.saturating_add(rect.y1 - rect.y0 + 1);
        if f64::from(count) > MAX_CROSSED_ROWS_OF_AREA {
            return None;
        }
        for row in rect.y0..=rect.y1 {
            rows.entry(row).or_default().push(runs::TileRun { first: rect.x0, last: rect.x1 });
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
fn collect(json: &Value, each: &mut impl FnMut(ShapeKind, Vec<Vec<AreaPosition>>)) {
    let list = |name: &str| json.get(name).and_then(Value::as_array).into_iter().flatten();
    match json.get("type").and_then(Value::as_str) {
        Some("FeatureCollection") => list("features").for_each(|feature| collect(feature, each)),
        Some("Feature") => json.get("geometry").into_iter().for_each(|geometry| collect(geometry, each)),
        Some("GeometryCollection") => list("geometries").for_each(|geometry| collect(geometry, each)),
        Some("Polygon") => each(ShapeKind::Polygon, list("coordinates").map(positions).collect()),
        Some("MultiPolygon") => {
            for polygon in list("coordinates") {
                let rings = polygon.as_array().into_iter().flatten().map(positions);
                each(ShapeKind::Polygon, rings.collect());
            }
        }
        Some("LineString") => {
            json.get("coordinates").into_iter().for_each(|line| each(ShapeKind::Line, vec![positions(line)]));
        }
        Some("MultiLineString") => list("coordinates").for_each(|line| each(ShapeKind::Line, vec![positions(line)])),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::bbox::{unit_x, unit_y};
    use super::*;
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

    /// True if a line has a part inside of a square (Liang and Barsky, "A new concept and method for line clipping", 1984).
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

    /// 60,000 positions fit into the body of a job; 2,400 triangles are few positions, and their edges cross all rows of tiles of the world.
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
