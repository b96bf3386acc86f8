//! Lists of tiles as files: `z/x/y` lines for other programs, JSON, or GeoJSON to look at on a map. `--dirty-out`
//! writes, before the target is published, the tiles that may change, or "everything" before a full seed;
//! `--changed-out` writes, afterwards, the tiles that changed.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::{CommandError, WrittenFileError};
use crate::config::{Settings, area_parts};
use crate::plan::Dirty;
use crate::postgis::{Snapshot, quoted};
use crate::report::{FileMoment, check_writable};
use crate::target::ChangedTiles;
use crate::tile::{AreaPart, Coverage, LonLatBox, NoTile, TileCoord, TileRect, Zoom, ZoomList, area_texts};

/// The text before and after the tiles in JSON: [`TileListDocument::Tiles`].
const JSON_BEGIN: &str = "{\"everything\":false,\"schema_version\":1,\"tiles\":[";
const JSON_END: &str = "]}\n";

/// A list of tiles as JSON.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is asked for: a list is written piece by piece")]
pub(crate) enum TileListDocument {
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
pub(crate) struct TileInList {
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

/// The file of `--changed-out`, if there is one, and whether it could be written.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChangedOut {
    path: Option<PathBuf>,
    failed: Arc<Mutex<Option<CommandError>>>,
}

impl ChangedOut {
    /// Checks, before the work, that the file can be written after it.
    pub(crate) fn new(path: Option<&Path>, output: &Path) -> Result<ChangedOut, CommandError> {
        if let Some(path) = path {
            check_writable(path, output).map_err(|source| WrittenFileError::NoChangedList {
                path: path.to_owned(),
                moment: FileMoment::Before,
                source,
            })?;
        }
        Ok(ChangedOut { path: path.map(Path::to_owned), failed: Arc::default() })
    }

    /// True if there is a file.
    pub(crate) const fn is_wanted(&self) -> bool {
        self.path.is_some()
    }

    /// Writes the tiles that a publish in `scope` has changed. If that fails, the rest of the run goes on, because the
    /// target is published: [`ChangedOut::result`] returns the error.
    pub(crate) fn write(&self, changed: Option<&ChangedTiles>, scope: &DirtyScope) {
        let (Some(path), Some(changed)) = (&self.path, changed) else { return };
        self.note(path, write_changed(path, changed, scope));
    }

    /// Writes a list that says that nothing changed, like [`ChangedOut::write`].
    pub(crate) fn write_unchanged(&self) {
        let Some(path) = &self.path else { return };
        self.note(path, std::fs::write(path, list(&Form::of(path), &[])));
    }

    fn note(&self, path: &Path, written: std::io::Result<()>) {
        let Err(source) = written else { return };
        let error = WrittenFileError::NoChangedList { path: path.to_owned(), moment: FileMoment::After, source };
        self.failed.lock().get_or_insert(error.into());
    }

    /// Returns once why the list could not be written. Fails if a run has published its target, and its list of changed
    /// tiles could not be written.
    pub(crate) fn result(&self) -> Result<(), CommandError> {
        self.failed.lock().take().map_or(Ok(()), Err)
    }
}

/// Writes, after a run, the tiles whose stored bytes changed and those that were deleted, or "everything" if the list
/// is not exact. Writes tile by tile to bound the memory.
fn write_changed(path: &Path, changed: &ChangedTiles, scope: &DirtyScope) -> std::io::Result<()> {
    if let Some(why) = changed.everything() {
        tracing::info!("{} says everything: {why}", path.display());
        return std::fs::write(path, everything(&Form::of(path), scope));
    }
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
    pub(crate) fn of(first: &Settings, others: &[Settings]) -> DirtyScope {
        let all = || std::iter::once(first).chain(others).map(|settings| &settings.tileset);
        let zooms = ZoomList::of(all().flat_map(|tileset| tileset.zooms.iter()));
        let have_one_scope = all().all(|tileset| tileset.bbox == first.tileset.bbox);
        DirtyScope {
            zooms: zooms.unwrap_or_else(|| first.tileset.zooms.clone()),
            bbox: if have_one_scope { first.tileset.bbox.clone() } else { Vec::new() },
        }
    }
}

/// Writes, before a full seed, that every tile of its zooms and boxes may change: a line `*`; in JSON an object instead
/// of a list of tiles; in GeoJSON the boxes.
pub(crate) fn write_everything(path: Option<&Path>, scope: &DirtyScope) -> Result<(), CommandError> {
    let Some(path) = path else { return Ok(()) };
    let text = everything(&Form::of(path), scope);
    std::fs::write(path, text).map_err(|source| {
        WrittenFileError::NoTileList { path: path.to_owned(), moment: FileMoment::After, source }.into()
    })
}

fn everything(form: &Form, scope: &DirtyScope) -> String {
    let zooms = scope.zooms.to_string();
    let boxes = area_texts(&scope.bbox);
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

fn rectangle(bbox: &LonLatBox) -> serde_json::Value {
    let LonLatBox { west, south, east, north } = *bbox;
    let ring = [[west, south], [east, south], [east, north], [west, north], [west, south]];
    json!({ "type": "Polygon", "coordinates": [ring] })
}

// Tiles and areas that the user names: lists of `z/x/y` lines, and GeoJSON.

/// The deepest zoom at which the borders of an area are followed.
const DEEPEST_OF_AREA: Zoom = Zoom::MAX;

/// Tiles that the user names.
#[derive(Debug, Clone, Default)]
pub struct TileList {
    /// The file, `-` for standard input, or `postgresql:TABLE`.
    pub path: PathBuf,
    /// Take the tiles above the named ones, too.
    pub(crate) parents: bool,
    /// Take the tiles below the named ones, too.
    pub(crate) children: bool,
}

/// Why a list of tiles cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TileListError {
    /// The file cannot be read.
    #[error("cannot read the tile list {}: name a file, or - for standard input", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{} line {line}: {text:?} is no tile: write z/x/y, such as 12/3345/1782", path.display())]
    NoTile {
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// A tile does not belong to the tileset.
    #[error("{} line {line}: tile {tile} {where_it_lies}", path.display())]
    Outside {
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        tile: TileCoord,
        /// Why it does not, and what to do.
        where_it_lies: &'static str,
    },
    #[error("{} names more than {most} tiles: seed the target instead", path.display())]
    TooManyTiles { path: PathBuf, most: usize },
}

/// The most tiles of a list or an area, with parents and children: 4 million take about 100 MB.
pub(crate) const MAX_LISTED_TILES: usize = 4_000_000;

/// The tiles of a list, each with the number of its line. Skips empty lines and lines that begin with `#`. Reads the
/// lists of osm2pgsql and imposm (`z/x/y`).
pub(crate) fn listed(path: &Path) -> Result<Vec<(usize, TileCoord)>, TileListError> {
    let unreadable = |source| TileListError::Unreadable { path: path.to_owned(), source };
    let text = if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map_err(unreadable)?;
        text
    } else {
        std::fs::read_to_string(path).map_err(unreadable)?
    };
    let mut tiles = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let no_tile = || TileListError::NoTile { path: path.to_owned(), line: number, text: line.to_owned() };
        tiles.push((number, line.parse().map_err(|NoTile| no_tile())?));
    }
    Ok(tiles)
}

/// The tiles of a table of the database, each with the number of its row. The table has integer columns `zoom`, `x` and
/// `y`, as in the tables that osm2pgsql writes as expire output. It is read on the run's snapshot, so that no tile is
/// listed whose change the run does not see.
pub(crate) async fn listed_in_table(
    snapshot: &Snapshot,
    path: &Path,
    table: &str,
) -> Result<Vec<(usize, TileCoord)>, CommandError> {
    let name: Vec<String> = table.splitn(2, '.').map(quoted).collect();
    let sql = format!(
        "SELECT zoom::pg_catalog.int8, x::pg_catalog.int8, y::pg_catalog.int8 FROM {} ORDER BY 1, 2, 3 LIMIT {}",
        name.join("."),
        MAX_LISTED_TILES + 1
    );
    let rows = snapshot.all(&format!("reading the tiles that {table} lists (columns zoom, x, y)"), &sql, &[]).await?;
    let tile = |(number, row): (usize, &tokio_postgres::Row)| {
        let [zoom, x, y] = [0, 1, 2].map(|column| row.get::<_, Option<i64>>(column));
        let text = [zoom, x, y].map(|part| part.map_or_else(|| "NULL".to_owned(), |part| part.to_string())).join("/");
        let line = number + 1;
        let no_tile = |NoTile| TileListError::NoTile { path: path.to_owned(), line, text: text.clone() };
        Ok((line, text.parse().map_err(no_tile)?))
    };
    rows.iter().enumerate().map(tile).collect()
}

impl TileList {
    /// The name of the table that holds the list, if the list is a table of the database.
    pub(crate) fn table(&self) -> Option<&str> {
        self.path.to_str().and_then(|path| path.strip_prefix("postgresql:"))
    }

    pub(crate) fn mark(&self, tiles: Vec<(usize, TileCoord)>, dirty: &mut Dirty) -> Result<(), TileListError> {
        let too_many = |_too_many| TileListError::TooManyTiles { path: self.path.clone(), most: MAX_LISTED_TILES };
        for (line, tile) in tiles {
            let mut belongs = dirty.mark_tile(tile).map_err(too_many)?;
            for zoom in dirty.zooms() {
                if zoom < tile.zoom() && self.parents {
                    let up = tile.zoom().get() - zoom.get();
                    if let Some(above) = TileCoord::new(zoom, tile.x() >> up, tile.y() >> up) {
                        belongs |= dirty.mark_tile(above).map_err(too_many)?;
                    }
                }
                if zoom > tile.zoom() && self.children {
                    belongs |= dirty.mark_below(tile, zoom).map_err(too_many)?;
                }
            }
            if !belongs {
                let where_it_lies = if dirty.zooms().contains(&tile.zoom()) {
                    "lies outside of the boxes that the target was seeded with: take it out of the list"
                } else {
                    "is of a zoom that the target does not hold: take it out of the list, or add --parents or --children"
                };
                return Err(TileListError::Outside { path: self.path.clone(), line, tile, where_it_lies });
            }
        }
        Ok(())
    }
}

/// The parts of an area that is given as `text` (see [`area`]), or else as `boxes`.
pub(crate) fn area_or_boxes(text: Option<&String>, boxes: &[LonLatBox]) -> Result<Vec<AreaPart>, CommandError> {
    text.map_or_else(|| Ok(boxes.iter().copied().map(AreaPart::from).collect()), |text| area(text))
}

/// The parts of an area: `text` is `W,S,E,N`, or the name of a GeoJSON file whose polygons and lines are the area.
pub(crate) fn area(text: &str) -> Result<Vec<AreaPart>, CommandError> {
    area_parts(text, DEEPEST_OF_AREA).map_err(|what| CommandError::NoArea { text: text.to_owned(), what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::TileChange;
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
                write_changed(&path, &changed, &scope).unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&dirty).unwrap(), "{name}");
            }
        }
    }

    fn scope() -> DirtyScope {
        DirtyScope { zooms: "0-4,8".parse().unwrap(), bbox: Vec::new() }
    }

    #[test]
    fn everything_is_written_with_its_boxes() {
        let folder = tempfile::tempdir().unwrap();
        let mut scope = scope();
        let written = |name: &str, scope: &DirtyScope| {
            let path = folder.path().join(name);
            write_everything(Some(&path), scope).unwrap();
            std::fs::read_to_string(path).unwrap()
        };
        assert_eq!(written("dirty.list", &scope), "*\n");
        let parsed = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
        scope.bbox = vec!["170,-50,-170,50".parse().unwrap(), "1,2,3,4".parse().unwrap()];
        assert_eq!(parsed(written("d.json", &scope))["bbox"], json!(["170,-50,-170,50", "1,2,3,4"]));
        let map = parsed(written("d.geojson", &scope));
        let west: Vec<f64> =
            (0..3).map(|n| map["features"][n]["geometry"]["coordinates"][0][0][0].as_f64().unwrap()).collect();
        assert_eq!(west, [170.0, -180.0, 1.0]);
    }
}

#[cfg(test)]
mod tile_list_tests {
    use super::*;
    use crate::tile::{Coverage, TileRect};

    #[test]
    fn tiles_are_read_as_other_programs_write_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("expired.list");
        std::fs::write(&path, "14/2620/6331\n\n# a comment\n 0/0/0 \r\n14/2620/6331\n").unwrap();
        let tiles: Vec<String> = listed(&path).unwrap().iter().map(|(line, tile)| format!("{line}:{tile}")).collect();
        assert_eq!(tiles, ["1:14/2620/6331", "4:0/0/0", "5:14/2620/6331"]);
        for line in ["1/2", "1/2/0", "1/0/0/0", "23/0/0", "-1/0/0", "a/b/c", "1,0,0"] {
            std::fs::write(&path, format!("0/0/0\n{line}\n")).unwrap();
            assert_eq!(
                listed(&path).unwrap_err().to_string(),
                format!("{} line 2: {line:?} is no tile: write z/x/y, such as 12/3345/1782", path.display())
            );
        }
    }

    #[test]
    fn each_polygon_of_an_area_gives_its_tiles_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("area.geojson");
        let json = r#"{"type": "FeatureCollection", "features": [
            {"type": "Feature", "properties": {}, "geometry": {"type": "MultiPolygon", "coordinates": [
                [[[0, 0], [2, 0], [2, 1], [0, 0]]], [[[10, 10, 5], [12, 10, 5], [12, 11, 5], [10, 10, 5]]]]}},
            {"type": "Feature", "properties": {}, "geometry": {"type": "GeometryCollection", "geometries": [
                {"type": "Polygon", "coordinates": [[[-5, -5], [-4, -5], [-4, -4], [-5, -5]]]}]}}]}"#;
        std::fs::write(&path, json).unwrap();
        let parts = area(path.to_str().unwrap()).unwrap();
        assert_eq!(parts.len(), 3);
        let holds = |x: f64, y: f64| {
            let around = LonLatBox::from_sides([x, y, x + 1e-7, y + 1e-7]);
            let tiles = Coverage::new(&[around.into()]).rects(Zoom::MAX);
            tiles.iter().flat_map(TileRect::iter).any(|tile| Coverage::new(&parts).touches(tile))
        };
        for [x, y] in [[0.1, 0.01], [1.9, 0.5], [11.5, 10.5], [-4.9, -4.99], [-4.1, -4.2]] {
            assert!(holds(x, y), "{x} {y}");
        }
        // Points in the boxes of the polygons but outside of these, and points outside of the boxes.
        for [x, y] in [[0.2, 0.9], [10.2, 10.9], [-4.9, -4.1], [5.0, 5.0], [0.5, -0.5]] {
            assert!(!holds(x, y), "{x} {y}");
        }
        assert_eq!(area("1,2,3,4").unwrap().len(), 1);
        let error = area("nowhere.geojson").unwrap_err().to_string();
        assert!(error.starts_with("the area \"nowhere.geojson\" cannot be read: there is no such file"), "{error}");
        std::fs::write(&path, "{\"type\": \"Point\", \"coordinates\": [1, 2]}").unwrap();
        let error = area(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("it holds no geometry with an extent"), "{error}");
    }
}
