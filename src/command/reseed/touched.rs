//! The dirty tiles as a file: `z/x/y` lines for other programs, JSON, or GeoJSON to look at on a map. A full seed makes every tile dirty.

use std::path::Path;

use serde_json::json;

use crate::command::CommandError;
use crate::config::TilesetSettings;
use crate::tile::{Coverage, LonLatBox, TileCoord, TileRect};

/// Writes them as the file's name says: `.json`, `.geojson`, or lines.
pub(super) fn write(path: &Path, tiles: &[TileCoord]) -> Result<(), CommandError> {
    let text = match Form::of(path) {
        Form::Json => json(tiles).to_string() + "\n",
        Form::GeoJson => geojson(tiles).to_string() + "\n",
        Form::Lines => tiles.iter().map(|tile| format!("{tile}\n")).collect(),
    };
    std::fs::write(path, text).map_err(|source| CommandError::NoTileList { path: path.to_owned(), source })
}

/// Before a full seed: says that every tile of its zooms and boxes may change. A line `*`, an object in JSON where tiles would be a list,
/// or the boxes in GeoJSON.
pub(super) fn write_everything(path: Option<&Path>, tileset: &TilesetSettings) -> Result<(), CommandError> {
    let Some(path) = path else { return Ok(()) };
    let zooms = tileset.zooms.to_string();
    let boxes: Vec<String> = tileset.bbox.iter().map(LonLatBox::to_string).collect();
    let text = match Form::of(path) {
        Form::Json => json!({ "everything": true, "zooms": zooms, "bbox": boxes }).to_string() + "\n",
        Form::GeoJson => {
            let boxes: Vec<LonLatBox> = if tileset.bbox.is_empty() {
                vec![Coverage::new(&[]).bounds()]
            } else {
                tileset.bbox.iter().flat_map(LonLatBox::unwrapped).collect()
            };
            let feature = |bbox: &LonLatBox| {
                let properties = json!({ "everything": true, "zooms": zooms });
                json!({ "type": "Feature", "properties": properties, "geometry": rectangle(bbox) })
            };
            let features: Vec<serde_json::Value> = boxes.iter().map(feature).collect();
            json!({ "type": "FeatureCollection", "features": features }).to_string() + "\n"
        }
        Form::Lines => "*\n".to_owned(),
    };
    std::fs::write(path, text).map_err(|source| CommandError::NoTileList { path: path.to_owned(), source })
}

/// What a file of dirty tiles holds, by its name.
enum Form {
    /// A line `z/x/y` for each.
    Lines,
    /// A list of objects.
    Json,
    /// A square for each.
    GeoJson,
}

impl Form {
    fn of(path: &Path) -> Form {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        match ending.as_deref() {
            Some("json") => Form::Json,
            Some("geojson") => Form::GeoJson,
            _ => Form::Lines,
        }
    }
}

fn json(tiles: &[TileCoord]) -> serde_json::Value {
    tiles.iter().map(|tile| json!({ "z": tile.zoom().get(), "x": tile.x(), "y": tile.y() })).collect()
}

/// Each tile as its square (RFC 7946).
fn geojson(tiles: &[TileCoord]) -> serde_json::Value {
    let feature = |tile: &TileCoord| {
        json!({
            "type": "Feature",
            "properties": { "tile": tile.to_string(), "z": tile.zoom().get(), "x": tile.x(), "y": tile.y() },
            "geometry": rectangle(&TileRect::from(*tile).into()),
        })
    };
    json!({ "type": "FeatureCollection", "features": tiles.iter().map(feature).collect::<Vec<_>>() })
}

/// A box as a polygon.
fn rectangle(bbox: &LonLatBox) -> serde_json::Value {
    let LonLatBox { west, south, east, north } = *bbox;
    let ring = [[west, south], [east, south], [east, north], [west, north], [west, south]];
    json!({ "type": "Polygon", "coordinates": [ring] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Zoom;

    #[test]
    fn dirty_tiles_are_written_as_lines_json_and_geojson() {
        let folder = tempfile::tempdir().unwrap();
        let tile = |zoom, x, y| TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap();
        let tiles = [tile(0, 0, 0), tile(12, 3345, 1782)];
        let written = |name: &str| {
            let path = folder.path().join(name);
            write(&path, &tiles).unwrap();
            std::fs::read_to_string(path).unwrap()
        };
        assert_eq!(written("dirty.txt"), "0/0/0\n12/3345/1782\n");
        assert_eq!(written("d.json"), "[{\"x\":0,\"y\":0,\"z\":0},{\"x\":3345,\"y\":1782,\"z\":12}]\n");
        let map: serde_json::Value = serde_json::from_str(&written("d.geojson")).unwrap();
        assert_eq!(map["features"][1]["properties"]["tile"], "12/3345/1782");
        let ring = map["features"][0]["geometry"]["coordinates"][0].as_array().unwrap();
        let south = ring[0][1].as_f64().unwrap();
        assert_eq!((ring.len(), &ring[0][0]), (5, &json!(-180.0)));
        assert!((south + 85.051_128_779_8).abs() < 1e-9, "{south}");
    }

    #[test]
    fn everything_is_written_in_each_form() {
        let folder = tempfile::tempdir().unwrap();
        let mut tileset = TilesetSettings {
            name: "t".to_owned(),
            description: None,
            attribution: None,
            version: None,
            zooms: "0-4,8".parse().unwrap(),
            bbox: Vec::new(),
            output: "t.mbtiles".into(),
            max_shrink: "50%".parse().unwrap(),
        };
        let written = |name: &str, tileset: &TilesetSettings| {
            let path = folder.path().join(name);
            write_everything(Some(&path), tileset).unwrap();
            std::fs::read_to_string(path).unwrap()
        };
        assert_eq!(written("dirty.txt", &tileset), "*\n");
        assert_eq!(written("dirty.list", &tileset), "*\n");
        assert_eq!(written("d.json", &tileset), "{\"bbox\":[],\"everything\":true,\"zooms\":\"0-4,8\"}\n");
        let parsed = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
        let map = parsed(written("d.geojson", &tileset));
        assert_eq!(map["features"].as_array().unwrap().len(), 1);
        assert_eq!(map["features"][0]["properties"], json!({ "everything": true, "zooms": "0-4,8" }));
        let ring = &map["features"][0]["geometry"]["coordinates"][0];
        assert_eq!((&ring[0][0], &ring[2][0]), (&json!(-180.0), &json!(180.0)));
        tileset.bbox = vec!["170,-50,-170,50".parse().unwrap(), "1,2,3,4".parse().unwrap()];
        assert_eq!(parsed(written("d.json", &tileset))["bbox"], json!(["170,-50,-170,50", "1,2,3,4"]));
        let map = parsed(written("d.geojson", &tileset));
        let west: Vec<f64> =
            (0..3).map(|n| map["features"][n]["geometry"]["coordinates"][0][0][0].as_f64().unwrap()).collect();
        assert_eq!(west, [170.0, -180.0, 1.0]);
    }
}
