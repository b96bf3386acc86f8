//! The boxes of the geometries in GeoJSON (RFC 7946).

use serde_json::Value;

use super::LonLatBox;

/// The boxes of the polygons, lines and other geometries with an extent. Of multi-geometries and collections each part has its own. The
/// numbers are not checked.
#[must_use]
pub fn boxes_of_geojson(json: &Value) -> Vec<LonLatBox> {
    let mut boxes = Vec::new();
    collect(json, &mut boxes);
    boxes
}

/// Collects the box of each polygon, line and point.
fn collect(json: &Value, boxes: &mut Vec<LonLatBox>) {
    let list = |name: &str| json.get(name).and_then(Value::as_array).into_iter().flatten();
    match json.get("type").and_then(Value::as_str) {
        Some("FeatureCollection") => list("features").for_each(|feature| collect(feature, boxes)),
        Some("Feature") => json.get("geometry").into_iter().for_each(|geometry| collect(geometry, boxes)),
        Some("GeometryCollection") => list("geometries").for_each(|geometry| collect(geometry, boxes)),
        Some("MultiPolygon" | "MultiLineString") => list("coordinates").for_each(|part| around(part, boxes)),
        Some(_) => json.get("coordinates").into_iter().for_each(|coordinates| around(coordinates, boxes)),
        None => {}
    }
}

fn around(coordinates: &Value, boxes: &mut Vec<LonLatBox>) {
    let nothing =
        LonLatBox { west: f64::INFINITY, south: f64::INFINITY, east: f64::NEG_INFINITY, north: f64::NEG_INFINITY };
    let mut all = nothing;
    let mut waiting = vec![coordinates];
    while let Some(next) = waiting.pop() {
        let Some(items) = next.as_array() else { continue };
        match (items.first().and_then(Value::as_f64), items.get(1).and_then(Value::as_f64)) {
            (Some(x), Some(y)) => all = all.joined(LonLatBox { west: x, south: y, east: x, north: y }),
            _ => waiting.extend(items),
        }
    }
    if all.west < all.east && all.south < all.north {
        boxes.push(all);
    }
}
