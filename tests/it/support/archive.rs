//! An archive as a test reads it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use rusqlite::Connection;

/// Zoom, column, XYZ row.
pub(crate) type Address = (u8, u32, u32);

/// An `MBTiles` file.
pub(crate) struct Archive(pub Connection);

impl Archive {
    /// Opens a file read-only.
    pub(crate) fn open(path: &Path) -> Archive {
        Archive(Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap())
    }

    /// Every tile as stored.
    pub(crate) fn stored(&self) -> BTreeMap<Address, Vec<u8>> {
        let mut tiles = self.0.prepare("SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles").unwrap();
        let rows = tiles.query_map([], |row| {
            let (zoom, column, row_number): (u8, u32, u32) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(((zoom, column, (1 << zoom) - 1 - row_number), row.get(3)?))
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// Every tile, unpacked.
    pub(crate) fn tiles(&self) -> BTreeMap<Address, Vec<u8>> {
        self.stored().into_iter().map(|(address, packed)| (address, unpacked(&packed))).collect()
    }

    /// A value of the metadata.
    pub(crate) fn metadata(&self, name: &str) -> Option<String> {
        self.0.query_row("SELECT value FROM metadata WHERE name = ?1", [name], |row| row.get(0)).ok()
    }
}

/// Undoes gzip.
pub(crate) fn unpacked(packed: &[u8]) -> Vec<u8> {
    let mut raw = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut raw).unwrap();
    raw
}
