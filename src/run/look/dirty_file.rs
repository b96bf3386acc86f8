//! Lists of tiles as files: `z/x/y` lines for other programs, JSON, or GeoJSON to look at on a map. `--dirty-out` writes, before the target
//! is published, the tiles that may change, or "everything" before a full seed; `--changed-out` writes, afterwards, the tiles that changed.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use crate::config::JobSettings;
use crate::report::{FileMoment, check_writable};
use crate::run::{CommandError, WrittenFileError};
use crate::sink::ChangedTiles;
use crate::tile::{AreaPart, Coverage, LonLatBox, TileCoord, TileRect, ZoomList};

/// The text before and after the tiles in JSON: [`TileListDocument::Tiles`].
const JSON_BEGIN: &str = "{\"everything\":false,\"schema_version\":1,\"tiles\":[";
const JSON_END: &str = "]}\n";

/// A list of tiles as JSON.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum TileListDocument {
    /// These tiles.
    Tiles {
        /// The version of this form: 1.
        schema_version: u32,
        /// False.
        everything: bool,
        /// The tiles.
        tiles: Vec<TileInList>,
    },
    /// Every tile of some zooms and boxes.
    Everything {
        /// The version of this form: 1.
        schema_version: u32,
        /// True.
        everything: bool,
        /// The zooms, such as `0-14`.
        zooms: String,
        /// The boxes, each `west,south,east,north`; none for the whole world.
        bbox: Vec<String>,
    },
}

/// A tile of a list, in the XYZ scheme.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TileInList {
    /// The zoom.
    z: u8,
    /// The column.
    x: u32,
    /// The row; it grows to the south.
    y: u32,
}

/// Writes dirty tiles in the format that the file name's ending names: `.json`, `.geojson`, or lines.
pub(crate) fn write(path: &Path, tiles: &[TileCoord]) -> Result<(), CommandError> {
    let text = list(&Form::of(path), tiles);
    std::fs::write(path, text).map_err(|source| {
        WrittenFileError::NoTileList { path: path.to_owned(), moment: FileMoment::After, source }.into()
    })
}

fn list(form: &Form, tiles: &[TileCoord]) -> String {
    match form {
        Form::Json => {
            let tiles: Vec<String> = tiles.iter().map(|tile| json(tile).to_string()).collect();
            format!("{JSON_BEGIN}{}{JSON_END}", tiles.join(","))
        }
        Form::GeoJson => {
            let features: Vec<serde_json::Value> = tiles.iter().map(feature).collect();
            json!({ "type": "FeatureCollection", "features": features }).to_string() + "\n"
        }
        Form::Lines => tiles.iter().map(|tile| format!("{tile}\n")).collect(),
    }
}

/// Writes, after a run, the tiles whose stored bytes changed and those that were deleted, or "everything" if the list is not exact. Writes tile
/// by tile to bound the memory.
pub(crate) fn write_changed(
    path: Option<&Path>,
    changed: Option<&ChangedTiles>,
    scope: &DirtyScope,
) -> Result<(), CommandError> {
    let (Some(path), Some(changed)) = (path, changed) else { return Ok(()) };
    let failed = |source| {
        CommandError::from(WrittenFileError::NoChangedList { path: path.to_owned(), moment: FileMoment::After, source })
    };
    if let Some(why) = changed.everything() {
        tracing::info!("{} says everything: {why}", path.display());
        return std::fs::write(path, everything(&Form::of(path), scope)).map_err(failed);
    }
    let written = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        let form = Form::of(path);
        let (begin, end) = match form {
            Form::Json => (JSON_BEGIN, JSON_END),
            // The order of the keys is the one in which the whole object is written elsewhere.
            Form::GeoJson => ("{\"features\":[", "],\"type\":\"FeatureCollection\"}\n"),
            Form::Lines => ("", ""),
        };
        file.write_all(begin.as_bytes())?;
        for (number, tile) in changed.coords().enumerate() {
            let tile = tile.map_err(std::io::Error::other)?;
            let comma = if number > 0 { "," } else { "" };
            match form {
                Form::Json => write!(file, "{comma}{}", json(&tile))?,
                Form::GeoJson => write!(file, "{comma}{}", feature(&tile))?,
                Form::Lines => writeln!(file, "{tile}")?,
            }
        }
        file.write_all(end.as_bytes())?;
        file.flush()
    };
    written().map_err(failed)
}

/// Writes a list that says that nothing changed.
pub(crate) fn write_unchanged(path: Option<&Path>) -> Result<(), CommandError> {
    let Some(path) = path else { return Ok(()) };
    let text = list(&Form::of(path), &[]);
    std::fs::write(path, text).map_err(|source| {
        WrittenFileError::NoChangedList { path: path.to_owned(), moment: FileMoment::After, source }.into()
    })
}

/// Checks, before the work, that the file can be written after it.
pub(crate) fn can_write_changed(path: Option<&Path>, output: &Path) -> Result<(), CommandError> {
    let Some(path) = path else { return Ok(()) };
    check_writable(path, output).map_err(|source| {
        WrittenFileError::NoChangedList { path: path.to_owned(), moment: FileMoment::Before, source }.into()
    })
}

/// The zooms and boxes of seeds, in which any tile may change.
#[derive(Debug, Clone)]
pub(crate) struct DirtyScope {
    pub(crate) zooms: ZoomList,
    /// Empty for the whole world.
    pub(crate) bbox: Vec<AreaPart>,
}

impl DirtyScope {
    /// All zooms of several seeds, in their boxes if these are the same, else in the whole world.
    pub(crate) fn of(first: &JobSettings, others: &[JobSettings]) -> DirtyScope {
        let all = || std::iter::once(first).chain(others).map(|settings| &settings.tileset);
        let zooms = ZoomList::of(all().flat_map(|tileset| tileset.zooms.iter()));
        let have_one_scope = all().all(|tileset| tileset.bbox == first.tileset.bbox);
        DirtyScope {
            zooms: zooms.unwrap_or_else(|| first.tileset.zooms.clone()),
            bbox: if have_one_scope { first.tileset.bbox.clone() } else { Vec::new() },
        }
    }
}

/// Writes, before a full seed, that every tile of its zooms and boxes may change: a line `*`; in JSON an object instead of a list of
/// tiles; in GeoJSON the boxes.
pub(crate) fn write_everything(path: Option<&Path>, scope: &DirtyScope) -> Result<(), CommandError> {
    let Some(path) = path else { return Ok(()) };
    let text = everything(&Form::of(path), scope);
    std::fs::write(path, text).map_err(|source| {
        WrittenFileError::NoTileList { path: path.to_owned(), moment: FileMoment::After, source }.into()
    })
}

fn everything(form: &Form, scope: &DirtyScope) -> String {
    let zooms = scope.zooms.to_string();
    let boxes: Vec<String> = scope.bbox.iter().map(AreaPart::to_string).collect();
    match form {
        Form::Json => {
            let all = json!({ "schema_version": 1, "everything": true, "zooms": zooms, "bbox": boxes });
            all.to_string() + "\n"
        }
        Form::GeoJson => {
            let whole = [AreaPart::Box(Coverage::new(&[]).bounds())];
            let parts = if scope.bbox.is_empty() { &whole } else { &*scope.bbox };
            let geometries = parts.iter().flat_map(|part| match part {
                AreaPart::Box(one) => one.unwrapped().map(|one| rectangle(&one)).collect(),
                AreaPart::Shape(shape) => vec![shape.geometry()],
            });
            let feature = |geometry: serde_json::Value| {
                let properties = json!({ "everything": true, "zooms": zooms });
                json!({ "type": "Feature", "properties": properties, "geometry": geometry })
            };
            let features: Vec<serde_json::Value> = geometries.map(feature).collect();
            json!({ "type": "FeatureCollection", "features": features }).to_string() + "\n"
        }
        Form::Lines => "*\n".to_owned(),
    }
}

/// The format of a list of tiles, by the name of its file.
enum Form {
    /// A line `z/x/y` for each tile.
    Lines,
    /// A JSON list of objects.
    Json,
    /// A GeoJSON polygon for each tile.
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

fn json(tile: &TileCoord) -> serde_json::Value {
    json!(TileInList { z: tile.zoom().get(), x: tile.x(), y: tile.y() })
}

/// A tile's square as a GeoJSON feature (RFC 7946).
pub(crate) fn feature(tile: &TileCoord) -> serde_json::Value {
    json!({
        "type": "Feature",
        "properties": { "tile": tile.to_string(), "z": tile.zoom().get(), "x": tile.x(), "y": tile.y() },
        "geometry": rectangle(&TileRect::from(*tile).into()),
    })
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
    use crate::sink::TileChange;
    use crate::tile::{Order, Zoom};

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
        assert_eq!(
            written("d.json"),
            "{\"everything\":false,\"schema_version\":1,\"tiles\":[{\"x\":0,\"y\":0,\"z\":0},{\"x\":3345,\"y\":1782,\"z\":12}]}\n"
        );
        let map: serde_json::Value = serde_json::from_str(&written("d.geojson")).unwrap();
        assert_eq!(map["features"][1]["properties"]["tile"], "12/3345/1782");
        let ring = map["features"][0]["geometry"]["coordinates"][0].as_array().unwrap();
        let south = ring[0][1].as_f64().unwrap();
        assert_eq!((ring.len(), &ring[0][0]), (5, &json!(-180.0)));
        assert!((south + 85.051_128_779_8).abs() < 1e-9, "{south}");
    }

    #[test]
    fn changed_tiles_are_written_as_dirty_tiles_are() {
        let folder = tempfile::tempdir().unwrap();
        let tile = |zoom, x, y| TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap();
        let tiles = [tile(0, 0, 0), tile(12, 3345, 1783), tile(12, 3345, 1782)];
        let scope = scope();
        for count in 0..=tiles.len() {
            let mut changed = ChangedTiles::new(Order::ZoomColumnTmsRow);
            for (number, tile) in tiles[..count].iter().enumerate() {
                let change = if number == 1 { TileChange::Deleted } else { TileChange::Written };
                changed.add((*tile).into(), change).unwrap();
            }
            for name in ["t.txt", "t.json", "t.geojson"] {
                let (dirty, path) = (folder.path().join(format!("dirty-{name}")), folder.path().join(name));
                write(&dirty, &tiles[..count]).unwrap();
                write_changed(Some(&path), Some(&changed), &scope).unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&dirty).unwrap(), "{name}");
            }
        }
    }

    fn scope() -> DirtyScope {
        DirtyScope { zooms: "0-4,8".parse().unwrap(), bbox: Vec::new() }
    }

    #[test]
    fn everything_is_written_in_each_form() {
        let folder = tempfile::tempdir().unwrap();
        let mut scope = scope();
        let written = |name: &str, scope: &DirtyScope| {
            let path = folder.path().join(name);
            write_everything(Some(&path), scope).unwrap();
            std::fs::read_to_string(path).unwrap()
        };
        assert_eq!(written("dirty.txt", &scope), "*\n");
        assert_eq!(written("dirty.list", &scope), "*\n");
        assert_eq!(
            written("d.json", &scope),
            "{\"bbox\":[],\"everything\":true,\"schema_version\":1,\"zooms\":\"0-4,8\"}\n"
        );
        let parsed = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
        let map = parsed(written("d.geojson", &scope));
        assert_eq!(map["features"].as_array().unwrap().len(), 1);
        assert_eq!(map["features"][0]["properties"], json!({ "everything": true, "zooms": "0-4,8" }));
        let ring = &map["features"][0]["geometry"]["coordinates"][0];
        assert_eq!((&ring[0][0], &ring[2][0]), (&json!(-180.0), &json!(180.0)));
        scope.bbox = vec!["170,-50,-170,50".parse().unwrap(), "1,2,3,4".parse().unwrap()];
        assert_eq!(parsed(written("d.json", &scope))["bbox"], json!(["170,-50,-170,50", "1,2,3,4"]));
        let map = parsed(written("d.geojson", &scope));
        let west: Vec<f64> =
            (0..3).map(|n| map["features"][n]["geometry"]["coordinates"][0][0][0].as_f64().unwrap()).collect();
        assert_eq!(west, [170.0, -180.0, 1.0]);
    }
}
