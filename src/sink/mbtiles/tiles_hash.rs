//! `agg_tiles_hash`, as Martin's `mbtiles` tool computes it.

use std::fmt::Write as _;

use md5::{Digest as _, Md5};

use crate::tile::TileCoord;

/// MD5 over zoom, column, TMS row and bytes of every tile, in the order of [`ORDER`](super::ORDER).
#[derive(Debug)]
pub(super) struct TilesHash {
    hash: Md5,
    digits: String,
}

impl TilesHash {
    pub(super) fn new() -> TilesHash {
        TilesHash { hash: Md5::new(), digits: String::new() }
    }

    /// Adds a tile; without bytes, one that a patch removes.
    pub(super) fn add(&mut self, tile: TileCoord, bytes: Option<&[u8]>) {
        self.digits.clear();
        // Writing to a string does not fail.
        if write!(self.digits, "{}{}{}", tile.zoom(), tile.x(), tile.tms_row()).is_ok() {
            self.hash.update(&self.digits);
        }
        if let Some(bytes) = bytes {
            self.hash.update(bytes);
        }
    }

    /// The hash in hexadecimal digits, as the metadata has it.
    pub(super) fn finish(self) -> String {
        self.hash.finalize().iter().fold(String::new(), |mut hex, byte| {
            hex.push_str(&format!("{byte:02X}"));
            hex
        })
    }
}
