//! Archives that other programs made, and archives that were damaged.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::archive::unpacked;

/// Packs as gzip.
pub(crate) fn packed(raw: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(raw).unwrap();
    gzip.finish().unwrap()
}

/// A copy of an archive, changed by some SQL.
pub(crate) fn changed(archive: &Path, name: &str, sql: &str) -> PathBuf {
    let path = archive.with_file_name(format!("{name}.mbtiles"));
    std::fs::copy(archive, &path).unwrap();
    Connection::open(&path).unwrap().execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    path
}

/// A copy of an archive in which the bytes of one tile, given as in the table, are changed.
pub(crate) fn changed_tile(
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

/// The tiles of an archive as another program keeps them: each image once, plain instead of gzip if `plain`, and only
/// the least metadata.
pub(crate) fn as_images_and_map(archive: &Path, plain: bool) -> PathBuf {
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

/// A deterministic random number generator (xorshift).
pub(crate) struct Chance(pub u64);

impl Chance {
    /// The next number below a limit.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }
}

/// A tile with one layer, "a", of one point, and gzip around it.
pub(crate) fn small_tile() -> Vec<u8> {
    packed(&tile_of(&[point()]))
}

/// The field of a feature that is a point at the corner.
pub(crate) fn point() -> Vec<u8> {
    vec![0x12, 0x07, 0x18, 0x01, 0x22, 0x03, 0x09, 0x00, 0x00]
}

/// A tile with one layer, "a", that has some fields in addition to its name, version and extent.
pub(crate) fn tile_of(fields: &[Vec<u8>]) -> Vec<u8> {
    let mut layer = vec![0x78, 0x02, 0x0a, 0x01, b'a', 0x28, 0x80, 0x20];
    for field in fields {
        layer.extend_from_slice(field);
    }
    let mut tile = vec![0x1a];
    put_varint(&mut tile, layer.len() as u64);
    tile.extend_from_slice(&layer);
    tile
}

/// Appends a number as protocol buffers and PMTiles write it.
pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// What every MBTiles archive has.
pub(crate) const MBTILES: &str = "
    CREATE TABLE metadata (name text, value text);
    INSERT INTO metadata VALUES ('name', 'a'), ('format', 'pbf'), ('json', '{\"vector_layers\": [{\"id\": \"a\", \"minzoom\": 0, \"maxzoom\": 22, \"fields\": {}}]}');";

/// An MBTiles archive made by some SQL, in which ?1 is a small tile.
pub(crate) fn mbtiles(path: &Path, sql: &[&str]) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(MBTILES).unwrap();
    for sql in sql {
        let mut statement = connection.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let tile = small_tile();
        let parameters: &[&dyn rusqlite::ToSql] = if statement.parameter_count() == 1 { &[&tile] } else { &[] };
        statement.execute(parameters).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// The table of tiles.
pub(crate) const TILES: &str =
    "CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob)";

/// An entry of a PMTiles directory: id, run (0 for a leaf), length, offset.
pub(crate) type PmtilesEntry = (u64, u64, u64, u64);

/// A PMTiles directory, not packed.
pub(crate) fn pmtiles_directory(entries: &[PmtilesEntry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_varint(&mut bytes, entries.len() as u64);
    let mut last = 0;
    for (id, ..) in entries {
        put_varint(&mut bytes, id.wrapping_sub(last));
        last = *id;
    }
    for (_, run, ..) in entries {
        put_varint(&mut bytes, *run);
    }
    for (_, _, length, _) in entries {
        put_varint(&mut bytes, *length);
    }
    for (.., offset) in entries {
        put_varint(&mut bytes, offset + 1);
    }
    bytes
}

/// A PMTiles archive made of some parts as they are, its directories packed if wanted. The tile data may be declared
/// longer than it is.
pub(crate) fn pmtiles(
    root: &[u8],
    leaves: &[u8],
    metadata: &[u8],
    tiles: &[u8],
    told: u64,
    is_packed: bool,
) -> Vec<u8> {
    let mut archive = b"PMTiles\x03".to_vec();
    let mut at = 127_u64;
    for length in [root.len(), metadata.len(), leaves.len()].map(|length| length as u64).into_iter().chain([told]) {
        archive.extend(at.to_le_bytes());
        archive.extend(length.to_le_bytes());
        at += length;
    }
    archive.extend([0; 24]);
    archive.extend([0, if is_packed { 2 } else { 1 }, 2, 1, 0, 22]);
    for degrees in [-1_800_000_000_i32, -850_000_000, 1_800_000_000, 850_000_000] {
        archive.extend(degrees.to_le_bytes());
    }
    archive.extend([0; 9]);
    assert_eq!(archive.len(), 127);
    for part in [root, metadata, leaves, tiles] {
        archive.extend_from_slice(part);
    }
    archive
}
