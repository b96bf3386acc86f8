//! A patch: the changes that turn the tiles of one archive into those of another, in the form of Martin's
//! `mbtiles diff`, for `mbtiles apply-patch`.
//!
//! `tiles` holds the tiles that are new or differ, and the removed tiles with NULL as their bytes. `metadata` holds the
//! rows of the newer archive, the rows that only the older one has with NULL as their value, and the `agg_tiles_hash`
//! of both archives. By that hash the tool refuses to patch another archive.

use std::path::Path;

use super::tiles_hash::TilesHash;
use super::write::NewArchive;
use super::{MbtilesError, ORDER};
use crate::stop::Stop;
use crate::target::{Finished, Metadata, TileEdit};
use crate::tile::{Order, TileCoord, TileId};

/// The metadata row that identifies a patch.
pub(crate) const BEFORE_KEY: &str = "agg_tiles_hash_before_apply";
const AFTER_KEY: &str = "agg_tiles_hash_after_apply";

/// A patch that is being written.
#[derive(Debug)]
pub struct MbtilesPatch {
    archive: NewArchive,
    before: TilesHash,
    after: TilesHash,
}

impl MbtilesPatch {
    /// The order in which tiles have to be added.
    pub const ORDER: Order = ORDER;

    /// Begins a patch next to `target`, which it replaces when it is finished.
    pub fn create(target: &Path, stop: &Stop) -> Result<MbtilesPatch, MbtilesError> {
        let archive = NewArchive::of_changes(target, stop)?;
        Ok(MbtilesPatch { archive, before: TilesHash::new(), after: TilesHash::new() })
    }

    /// Takes a tile of the older and of the newer tileset, `None` where the tile does not exist; returns true if they
    /// differ.
    pub fn add(&mut self, tile: TileCoord, old: Option<&[u8]>, new: Option<Box<[u8]>>) -> Result<bool, MbtilesError> {
        if old.is_some() {
            self.before.add(tile, old);
        }
        if new.is_some() {
            self.after.add(tile, new.as_deref());
        }
        if old == new.as_deref() {
            return Ok(false);
        }
        let id = TileId::from(tile);
        self.archive.write(vec![new.map_or(TileEdit::Remove(id), |bytes| TileEdit::Put(id, bytes))])?;
        Ok(true)
    }

    /// Completes the patch: `old` and `new` are the metadata of the tilesets.
    /// Fails if the file cannot be written or moved to its place.
    pub fn finish(self, old: &Metadata, new: &Metadata) -> Result<Finished, MbtilesError> {
        let MbtilesPatch { archive, before, after } = self;
        let rows = new.rows();
        let mut more = vec![(BEFORE_KEY, Some(before.finish())), (AFTER_KEY, Some(after.finish()))];
        let gone = old.rows().into_iter().filter(|(name, _)| rows.iter().all(|(known, _)| known != name));
        more.extend(gone.map(|(name, _)| (name, None)));
        archive.finish_with(new, &more)
    }
}
