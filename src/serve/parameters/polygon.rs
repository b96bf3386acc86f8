//! Polygons as requests give them: GeoJSON (RFC 7946, section 3.1.6) or WKT, read and checked before the database gets
//! them.

use serde_json::Value;

use super::number;

/// The most positions of a polygon in an address: a query of 8 KiB hardly holds more.
pub(crate) const MAX_POSITIONS: usize = 500;

/// The most pairs of edges that are compared, which takes some 20 ms. Borders need a few for each edge.
const MAX_COMPARED: usize = 4_000_000;

/// Longitude and latitude in degrees.
type Position = [f64; 2];

/// The polygon of a text as WKT, the same however it is written. It has at most `most` positions. The error says what
/// is wrong.
pub(crate) fn polygon(text: &str, most: usize) -> Result<String, String> {
    let text = text.trim();
    let mut polygons = if text.starts_with('{') { of_geojson(text)? } else { of_wkt(text)? };
    polygons.iter_mut().flatten().for_each(Vec::dedup);
    let mut positions = 0;
    for polygon in &polygons {
        if polygon.is_empty() {
            return Err(wrong("it has no ring"));
        }
        for ring in polygon {
            positions += ring.len();
            check_ring(ring)?;
        }
    }
    if positions > most {
        return Err(format!("has more than {most} positions"));
    }
    match has_crossing(&polygons) {
        Some(false) => {}
        Some(true) => return Err(wrong("its edges cross or overlap")),
        None => return Err("has too many long edges beside each other: simplify it".to_owned()),
    }
    let rings = |polygon: &Vec<Vec<Position>>| {
        let position = |[x, y]: &Position| format!("{x} {y}");
        let ring = |ring: &Vec<Position>| format!("({})", joined(ring.iter().map(position)));
        format!("({})", joined(polygon.iter().map(ring)))
    };
    match &polygons[..] {
        [] => Err(wrong("it is empty")),
        [one] => Ok(format!("POLYGON{}", rings(one))),
        several => Ok(format!("MULTIPOLYGON({})", joined(several.iter().map(rings)))),
    }
}

fn joined(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join(",")
}

fn wrong(why: &str) -> String {
    format!("is no polygon: {why}")
}

/// What is neither, for a client who writes it by hand.
fn unreadable() -> String {
    wrong("write GeoJSON or WKT with positions in degrees, such as POLYGON((0 0,9 0,9 9,0 0))")
}

fn check_ring(ring: &[Position]) -> Result<(), String> {
    if ring.len() < 4 {
        return Err(wrong("a ring has fewer than 4 positions"));
    }
    if ring.first() != ring.last() {
        return Err(wrong("a ring is not closed: its last position must be its first"));
    }
    let is_there = |[x, y]: &Position| x.abs() <= 180.0 && y.abs() <= 90.0;
    if !ring.iter().all(is_there) {
        return Err(wrong("a position lies beyond 180 or 90 degrees"));
    }
    Ok(())
}

// GeoJSON.

fn of_geojson(text: &str) -> Result<Vec<Vec<Vec<Position>>>, String> {
    let json: Value = serde_json::from_str(text).map_err(|error| wrong(&format!("it is no JSON ({error})")))?;
    let coordinates = &json["coordinates"];
    match json["type"].as_str() {
        Some("Polygon") => Ok(vec![rings(coordinates)?]),
        Some("MultiPolygon") => list(coordinates)?.iter().map(rings).collect(),
        _ => Err(wrong("its type must be Polygon or MultiPolygon, without a Feature around it")),
    }
}

fn list(json: &Value) -> Result<&Vec<Value>, String> {
    json.as_array().ok_or_else(unreadable)
}

fn rings(json: &Value) -> Result<Vec<Vec<Position>>, String> {
    list(json)?.iter().map(|ring| list(ring)?.iter().map(position).collect()).collect()
}

fn position(json: &Value) -> Result<Position, String> {
    // A height may follow.
    let side = |at: usize| json.get(at).and_then(Value::as_f64).map(|side| side + 0.0).ok_or_else(unreadable);
    Ok([side(0)?, side(1)?])
}

// WKT.

fn of_wkt(text: &str) -> Result<Vec<Vec<Vec<Position>>>, String> {
    let upper = text.to_ascii_uppercase();
    let geometry = upper.strip_prefix("SRID=4326;").unwrap_or(&upper).trim_start();
    let (several, rest) = match geometry.strip_prefix("MULTIPOLYGON") {
        Some(rest) => (true, rest),
        None => (false, geometry.strip_prefix("POLYGON").ok_or_else(unreadable)?),
    };
    let mut reader = WktReader { rest };
    let polygons = if several { reader.list(WktReader::rings)? } else { vec![reader.rings()?] };
    if reader.rest.trim().is_empty() { Ok(polygons) } else { Err(unreadable()) }
}

/// Reads nested lists in parentheses.
struct WktReader<'a> {
    rest: &'a str,
}

impl WktReader<'_> {
    /// True if the next character is this one, which is passed then.
    fn passes(&mut self, wanted: char) -> bool {
        let rest = self.rest.trim_start().strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<T, String>) -> Result<Vec<T>, String> {
        let mut items = Vec::new();
        if !self.passes('(') {
            return Err(unreadable());
        }
        loop {
            items.push(item(self)?);
            if !self.passes(',') {
                break;
            }
        }
        if self.passes(')') { Ok(items) } else { Err(unreadable()) }
    }

    fn rings(&mut self) -> Result<Vec<Vec<Position>>, String> {
        self.list(|reader| reader.list(WktReader::position))
    }

    fn position(&mut self) -> Result<Position, String> {
        let end = self.rest.find([',', ')']).ok_or_else(unreadable)?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        let sides: Vec<f64> =
            text.split_ascii_whitespace().map(number).collect::<Result<_, _>>().map_err(|_no_number| unreadable())?;
        <[f64; 2]>::try_from(sides).map_err(|_other_count| unreadable())
    }
}

// Edges that cross.

/// An edge of a ring, with the lesser longitude first.
struct Edge {
    from: Position,
    to: Position,
}

/// True if two edges cross, or lie on each other for more than a point. `None` if that would take too long to find out.
fn has_crossing(polygons: &[Vec<Vec<Position>>]) -> Option<bool> {
    let mut edges: Vec<Edge> = Vec::new();
    for ring in polygons.iter().flatten() {
        edges.extend(ring.windows(2).map(|pair| {
            let (from, to) = if pair[0] <= pair[1] { (pair[0], pair[1]) } else { (pair[1], pair[0]) };
            Edge { from, to }
        }));
    }
    edges.sort_by(|one, other| one.from[0].total_cmp(&other.from[0]));
    let rows = |edge: &Edge| [edge.from[1].min(edge.to[1]), edge.from[1].max(edge.to[1])];
    let mut compared = 0;
    for (at, one) in edges.iter().enumerate() {
        let own = rows(one);
        for other in edges[at + 1..].iter().take_while(|other| other.from[0] <= one.to[0]) {
            compared += 1;
            if compared > MAX_COMPARED {
                return None;
            }
            if rows(other)[0] <= own[1] && rows(other)[1] >= own[0] && cross(one, other) {
                return Some(true);
            }
        }
    }
    Some(false)
}

fn cross(one: &Edge, other: &Edge) -> bool {
    // Positive to the left of the edge, negative to its right.
    let side = |edge: &Edge, [x, y]: Position| {
        let [dx, dy] = [edge.to[0] - edge.from[0], edge.to[1] - edge.from[1]];
        dx * (y - edge.from[1]) - dy * (x - edge.from[0])
    };
    let of_other = [side(one, other.from), side(one, other.to)];
    let of_one = [side(other, one.from), side(other, one.to)];
    if of_other == [0.0, 0.0] && of_one == [0.0, 0.0] {
        // On one line: the later beginning lies before the earlier end.
        let (from, to) = (larger(one.from, other.from), smaller(one.to, other.to));
        return from < to;
    }
    of_other[0] * of_other[1] < 0.0 && of_one[0] * of_one[1] < 0.0
}

fn larger(one: Position, other: Position) -> Position {
    if one >= other { one } else { other }
}

fn smaller(one: Position, other: Position) -> Position {
    if one <= other { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_polygon_has_one_form_however_it_is_written() {
        let triangle = "POLYGON((0 0,10.5 0,10 9,0 0))";
        for text in [
            triangle,
            " polygon ( ( 0 0, 10.50 0 , 1e1 +9,-0 0.0 ) ) ",
            "SRID=4326;POLYGON((0 0,10.5 0,10 9,0 0))",
            "MultiPolygon(((0 0,10.5 0,10 9,0 0)))",
            r#"{"type":"Polygon","coordinates":[[[0,0],[10.5,0.0,7],[1e1,9],[-0.0,0]]]}"#,
            r#" {"coordinates":[[[[0,0],[10.5,0],[10,9],[0,0]]]],"type":"MultiPolygon","bbox":[0,0,1,1]} "#,
        ] {
            assert_eq!(polygon(text, MAX_POSITIONS).as_deref(), Ok(triangle), "{text}");
        }
        let several = "MULTIPOLYGON(((0 0,9 0,9 9,0 9,0 0),(1 1,2 1,2 2,1 1)),((20 0,30 0,30 9,20 0)))";
        assert_eq!(polygon(several, MAX_POSITIONS).as_deref(), Ok(several));
        // Rings that touch at a point are drawn by people and understood by the database.
        let touching = "POLYGON((0 0,9 0,9 9,0 9,0 0),(0 0,2 1,1 2,0 0))";
        assert_eq!(polygon(touching, MAX_POSITIONS).as_deref(), Ok(touching));
    }

    #[test]
    fn what_is_no_polygon_is_refused_with_the_reason() {
        let many: Vec<String> = (0..501).map(|n| format!("{} {}", f64::from(n) / 10.0, n % 2)).collect();
        let many = format!("POLYGON((0 -9,{},60 -9,0 -9))", many.join(","));
        for (text, why) in [
            ("", "write GeoJSON or WKT"),
            ("POINT(1 2)", "write GeoJSON or WKT"),
            ("POLYGON", "write GeoJSON or WKT"),
            ("POLYGON EMPTY", "write GeoJSON or WKT"),
            ("POLYGON(())", "write GeoJSON or WKT"),
            ("POLYGON((0 0,1 1", "write GeoJSON or WKT"),
            ("POLYGON((0 0,1 0,1 1,0 0)) x", "write GeoJSON or WKT"),
            ("POLYGON((0 0 0,1 0 0,1 1 0,0 0 0))", "write GeoJSON or WKT"),
            ("POLYGON((NaN 0,1 0,1 1,NaN 0))", "write GeoJSON or WKT"),
            ("SRID=3857;POLYGON((0 0,1 0,1 1,0 0))", "write GeoJSON or WKT"),
            ("POLYGON((0 0,0 0,0 0,0 0))", "a ring has fewer than 4 positions"),
            ("POLYGON((0 0,1 0,0 0))", "a ring has fewer than 4 positions"),
            ("POLYGON((0 0,1 0,1 1,0 1))", "a ring is not closed"),
            ("POLYGON((0 0,181 0,1 1,0 0))", "a position lies beyond 180 or 90 degrees"),
            ("POLYGON((0 0,1 -90.5,1 1,0 0))", "a position lies beyond 180 or 90 degrees"),
            ("POLYGON((0 0,9 9,9 0,0 9,0 0))", "its edges cross or overlap"),
            ("POLYGON((0 0,9 0,5 0,0 0))", "its edges cross or overlap"),
            ("POLYGON((0 0,9 0,9 9,0 0),(8 1,12 1,12 2,8 1))", "its edges cross or overlap"),
            ("MULTIPOLYGON(((0 0,9 0,9 9,0 0)),((5 1,12 1,12 2,5 1)))", "its edges cross or overlap"),
            (&many, "has more than 500 positions"),
            ("{", "it is no JSON"),
            (r#"{"type":"Feature","geometry":{}}"#, "its type must be Polygon or MultiPolygon"),
            (r#"{"type":"Polygon"}"#, "write GeoJSON or WKT"),
            (r#"{"type":"Polygon","coordinates":[]}"#, "it has no ring"),
            (r#"{"type":"MultiPolygon","coordinates":[]}"#, "it is empty"),
            (r#"{"type":"Polygon","coordinates":[[["0",0],[1,0],[1,1],["0",0]]]}"#, "write GeoJSON or WKT"),
        ] {
            let error = polygon(text, MAX_POSITIONS).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        // As deep as a query can be nested.
        for deep in ["[".repeat(8_000), "{\"a\":".repeat(1_500), format!("POLYGON{}", "(".repeat(8_000))] {
            assert!(polygon(&deep, MAX_POSITIONS).is_err());
        }
    }
}
