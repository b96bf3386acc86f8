//! Tiles and areas that the user names: lists of `z/x/y` lines, and GeoJSON.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::config::area_parts;
use crate::plan::Dirty;
use crate::postgis::{Snapshot, quoted};
use crate::run::CommandError;
use crate::tile::{AreaPart, LonLatBox, NoTile, TileCoord, Zoom};

/// The deepest zoom at which the borders of an area are followed.
const DEEPEST_OF_AREA: Zoom = Zoom::MAX;

/// Tiles that the user names.
#[derive(Debug, Clone, Default)]
pub struct TileList {
    /// The file, `-` for standard input, or `postgresql:TABLE`.
    pub path: PathBuf,
    /// Take the tiles above the named ones, too.
    pub parents: bool,
    /// Take the tiles below the named ones, too.
    pub children: bool,
}

/// Why a list of tiles cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TileListError {
    /// The file cannot be read.
    #[error("cannot read the tile list {}: name a file, or - for standard input", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A line is no tile.
    #[error("{} line {line}: {text:?} is no tile: write z/x/y, such as 12/3345/1782", path.display())]
    NoTile {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// A tile does not belong to the tileset.
    #[error("{} line {line}: tile {tile} {where_it_lies}", path.display())]
    Outside {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The tile.
        tile: TileCoord,
        /// Why it does not, and what to do.
        where_it_lies: &'static str,
    },
    /// The list is too long.
    #[error("{} names more than {most} tiles: seed the target instead", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// How many tiles it may have.
        most: usize,
    },
}

/// The most tiles of a list or an area, with parents and children: 4 million take about 100 MB.
pub(crate) const MAX_LISTED_TILES: usize = 4_000_000;

/// The tiles of a list, each with the number of its line. Skips empty lines and lines that begin with `#`. Reads the lists of osm2pgsql and
/// imposm (`z/x/y`).
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

/// The tiles of a table of the database, each with the number of its row. The table has integer columns `zoom`, `x` and `y`, as in the tables
/// that osm2pgsql writes as expire output. It is read on the run's snapshot, so that no tile is listed whose change the run does not see.
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

    /// Marks the tiles of the list as dirty.
    pub(crate) fn mark(&self, tiles: Vec<(usize, TileCoord)>, dirty: &mut Dirty) -> Result<(), TileListError> {
        let too_many = |_too_many| TileListError::TooMany { path: self.path.clone(), most: MAX_LISTED_TILES };
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
///
/// # Errors
/// If the text is neither a box nor a file.
pub fn area_or_boxes(text: Option<&String>, boxes: &[LonLatBox]) -> Result<Vec<AreaPart>, CommandError> {
    text.map_or_else(|| Ok(boxes.iter().copied().map(AreaPart::from).collect()), |text| area(text))
}

/// The parts of an area: `text` is `W,S,E,N`, or the name of a GeoJSON file whose polygons and lines are the area.
///
/// # Errors
/// If the text is neither.
pub fn area(text: &str) -> Result<Vec<AreaPart>, CommandError> {
    area_parts(text, DEEPEST_OF_AREA).map_err(|what| CommandError::NoArea { text: text.to_owned(), what })
}

#[cfg(test)]
mod tests {
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
