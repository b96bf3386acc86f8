//! The dirty tiles as a file: `z/x/y` lines for other programs, JSON, or GeoJSON to look at on a map.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use crate::command::CommandError;
use crate::report::{Event, Report};
use crate::tile::{TileCoord, TileRect, latitude, longitude};

/// Writes them as the file's name says: `.json`, `.geojson`, or lines.
pub(super) fn write(path: &Path, tiles: &[TileCoord]) -> Result<(), CommandError> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    let text = match ending.as_deref() {
        Some("json") => json(tiles).to_string() + "\n",
        Some("geojson") => geojson(tiles).to_string() + "\n",
        _ => tiles.iter().map(|tile| format!("{tile}\n")).collect(),
    };
    std::fs::write(path, text).map_err(|source| CommandError::NoTileList { path: path.to_owned(), source })
}

/// Before a full seed: takes away what an earlier run wrote there, which would be taken for this run's, and says so.
pub(super) fn forget(path: Option<&Path>, report: &Arc<dyn Report>) -> Result<(), CommandError> {
    let Some(path) = path else { return Ok(()) };
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(CommandError::NoTileList { path: path.to_owned(), source });
        }
        _ => {}
    }
    let message = format!("every tile may have changed: there is no {}", path.display());
    report.event(&Event::Warning { message });
    Ok(())
}

fn json(tiles: &[TileCoord]) -> serde_json::Value {
    tiles.iter().map(|tile| json!({ "z": tile.zoom().get(), "x": tile.x(), "y": tile.y() })).collect()
}

/// Each tile as its square (RFC 7946).
fn geojson(tiles: &[TileCoord]) -> serde_json::Value {
    let feature = |tile: &TileCoord| {
        let (west, north, east, south) = TileRect::from(*tile).world(0);
        let (west, north, east, south) = (longitude(west), latitude(north), longitude(east), latitude(south));
        let ring = [[west, south], [east, south], [east, north], [west, north], [west, south]];
        json!({
            "type": "Feature",
            "properties": { "tile": tile.to_string(), "z": tile.zoom().get(), "x": tile.x(), "y": tile.y() },
            "geometry": { "type": "Polygon", "coordinates": [ring] },
        })
    };
    json!({ "type": "FeatureCollection", "features": tiles.iter().map(feature).collect::<Vec<_>>() })
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
}
