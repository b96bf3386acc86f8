//! A tile as GeoJSON in WGS 84 (RFC 7946).

use serde_json::{Map, Value, json};

use crate::mvt::{Feature, MvtGeometry, MvtLayer, MvtValue as Property, Position};
use crate::tile::TileCoord;

/// The features of a tile as GeoJSON text. Each has its layer's name as the foreign member "layer" (RFC 7946, section 6.1).
pub(super) fn collection(tile: TileCoord, layers: &[MvtLayer<'_>]) -> serde_json::Result<String> {
    // Serializes feature by feature, because all features as JSON values would take ten times the memory of the text.
    let mut text = "{\"features\":[".to_owned();
    let features = layers.iter().flat_map(|layer| layer.features.iter().map(move |feature| (layer, feature)));
    for (number, (layer, feature)) in features.enumerate() {
        if number > 0 {
            text.push(',');
        }
        text.push_str(&serde_json::to_string(&one(&Grid { tile, extent: layer.extent }, layer, feature))?);
    }
    text.push_str(&format!("],\"tile\":\"{tile}\",\"type\":\"FeatureCollection\"}}\n"));
    Ok(text)
}

fn one(grid: &Grid, layer: &MvtLayer<'_>, feature: &Feature) -> Value {
    let mut shown = Map::new();
    shown.insert("type".to_owned(), "Feature".into());
    if let Some(id) = feature.id {
        shown.insert("id".to_owned(), id.into());
    }
    shown.insert("layer".to_owned(), layer.name.into());
    shown.insert("geometry".to_owned(), grid.geometry(&feature.geometry));
    shown.insert("properties".to_owned(), Value::Object(properties(layer, feature)));
    Value::Object(shown)
}

/// The properties of a feature as JSON. Numbers that JSON cannot express (NaN, infinity) become null.
pub(super) fn properties(layer: &MvtLayer<'_>, feature: &Feature) -> Map<String, Value> {
    let value = |value| match value {
        Property::Text(text) => text.into(),
        // Converted through its decimal digits, so that an f32 of 0.1 does not become 0.10000000149011612.
        Property::Float(number) => number.to_string().parse::<f64>().map_or(Value::Null, Value::from),
        Property::Double(number) => number.into(),
        Property::Int(number) | Property::Sint(number) => number.into(),
        Property::Uint(number) => number.into(),
        Property::Bool(yes) => yes.into(),
    };
    layer.properties(feature).map(|(key, property)| (key.to_owned(), value(property))).collect()
}

/// The grid of a tile's layer.
struct Grid {
    tile: TileCoord,
    extent: u32,
}

impl Grid {
    /// Longitude and latitude, with nine decimals: a tenth of a millimetre, less than a grid unit of the deepest tile.
    fn position(&self, [x, y]: Position) -> Value {
        let tiles = f64::from(self.tile.zoom().last()) + 1.0;
        let share = |tile: u32, along: i32| (f64::from(tile) + f64::from(along) / f64::from(self.extent)) / tiles;
        let turned = std::f64::consts::PI * (1.0 - 2.0 * share(self.tile.y(), y));
        let (longitude, latitude) = (share(self.tile.x(), x) * 360.0 - 180.0, turned.sinh().atan().to_degrees());
        json!([longitude, latitude].map(|degrees| (degrees * 1e9).round() / 1e9))
    }

    fn line(&self, positions: &[Position]) -> Value {
        positions.iter().map(|position| self.position(*position)).collect()
    }

    /// Rings, closed and reversed: exterior rings run clockwise in a tile and counterclockwise in GeoJSON (section 3.1.6).
    fn polygon(&self, rings: &[Vec<Position>]) -> Value {
        let ring = |ring: &Vec<Position>| {
            ring.first()
                .into_iter()
                .chain(ring.iter().rev())
                .map(|position| self.position(*position))
                .collect::<Value>()
        };
        rings.iter().map(ring).collect()
    }

    fn geometry(&self, geometry: &MvtGeometry) -> Value {
        let coordinates = match geometry {
            // A feature without a known geometry has the value null (section 3.2).
            MvtGeometry::Unknown => return Value::Null,
            MvtGeometry::Points(points) => match &points[..] {
                [point] => self.position(*point),
                points => self.line(points),
            },
            MvtGeometry::Lines(lines) => match &lines[..] {
                [line] => self.line(line),
                lines => lines.iter().map(|line| self.line(line)).collect(),
            },
            MvtGeometry::Polygons(polygons) => match &polygons[..] {
                [polygon] => self.polygon(polygon),
                polygons => polygons.iter().map(|polygon| self.polygon(polygon)).collect(),
            },
        };
        json!({ "type": geometry.kind(), "coordinates": coordinates })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Zoom;

    #[test]
    fn positions_are_degrees_and_rings_are_closed_and_counterclockwise() {
        let grid = Grid { tile: TileCoord::new(Zoom::new(1).unwrap(), 1, 0).unwrap(), extent: 4096 };
        let point = grid.geometry(&MvtGeometry::Points(vec![[0, 4096]]));
        assert_eq!(point, json!({ "type": "Point", "coordinates": [0.0, 0.0] }));
        let square = vec![vec![vec![[0, 2048], [2048, 2048], [2048, 4096], [0, 4096]]]];
        let north = 66.513_260_443;
        assert_eq!(
            grid.geometry(&MvtGeometry::Polygons(square)),
            json!({ "type": "Polygon", "coordinates":
                [[[0.0, north], [0.0, 0.0], [90.0, 0.0], [90.0, north], [0.0, north]]] })
        );
        assert_eq!(grid.geometry(&MvtGeometry::Unknown), Value::Null);
        let lines = grid.geometry(&MvtGeometry::Lines(vec![vec![[0, 4096], [4096, 4096]]; 2]));
        assert_eq!(lines["type"], "MultiLineString");
        assert_eq!(lines["coordinates"][1], json!([[0.0, 0.0], [180.0, 0.0]]));
    }
}
