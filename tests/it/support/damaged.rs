//! Archives that other programs made, and archives that were damaged.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::archive::unpacked;

/// Packs as gzip.
pub fn packed(raw: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(raw).unwrap();
    gzip.finish().unwrap()
}

/// A copy of an archive, changed by some SQL.
pub fn changed(archive: &Path, name: &str, sql: &str) -> PathBuf {
    let path = archive.with_file_name(format!("{name}.mbtiles"));
    std::fs::copy(archive, &path).unwrap();
    Connection::open(&path).unwrap().execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    path
}

/// A copy of an archive in which the bytes of one tile, given as in the table, are changed.
pub fn changed_tile(
    archive: &Path,
    name: &str,
    (zoom, column, row): (u8, u32, u32),
    change: impl Fn(Vec<u8>) -> Vec<u8>,
) -> PathBuf {
    let path = changed(archive, name, "");
    let connection = Connection::open(&path).unwrap();
    let place = "zoom_level = ?1 AND tile_column = ?2 AND tile_row = ?3";
    let read = format!("SELECT tile_data FROM tiles WHERE {place}");
    let bytes: Vec<u8> = connection.query_row(&read, (zoom, column, row), |row| row.get(0)).unwrap();
    let write = format!("UPDATE tiles SET tile_data = ?4 WHERE {place}");
    assert_eq!(connection.execute(&write, params![zoom, column, row, change(bytes)]).unwrap(), 1);
    path
}

/// The tiles of an archive as another program keeps them: each image once, plain instead of gzip if wanted, and no metadata
/// but the least.
pub fn as_images_and_map(archive: &Path, plain: bool) -> PathBuf {
    let path = archive.with_file_name(format!("images {plain}.mbtiles"));
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE metadata (name text, value text);
             INSERT INTO metadata VALUES ('format', 'pbf'), ('json', '{}');
             CREATE TABLE images (tile_id text PRIMARY KEY, tile_data blob);
             CREATE TABLE map (zoom_level integer, tile_column integer, tile_row integer, tile_id text);
             CREATE UNIQUE INDEX map_index ON map (zoom_level, tile_column, tile_row);
             CREATE VIEW tiles AS SELECT zoom_level, tile_column, tile_row, tile_data FROM map JOIN images USING (tile_id);
             BEGIN;",
        )
        .unwrap();
    for ((zoom, x, y), bytes) in super::Archive::open(archive).stored() {
        let bytes = if plain { unpacked(&bytes) } else { bytes };
        let id = format!("{zoom}-{x}-{y}");
        connection.execute("INSERT INTO images VALUES (?1, ?2)", params![id, bytes]).unwrap();
        let row = (1_u32 << zoom) - 1 - y;
        connection.execute("INSERT INTO map VALUES (?1, ?2, ?3, ?4)", params![zoom, x, row, id]).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
    path
}

/// Deterministic chance (xorshift).
pub struct Chance(pub u64);

impl Chance {
    /// The next number below a limit.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }
}
