//! What a run needs of the target that it brings in line. Directories and prefixes of buckets differ in this and in
//! nothing else.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::notes::Begun;
use super::{Latest, Tag, Template, TreeOptions, TreeRefusal, TreeState, notes};
use crate::target::disk_list::ScratchError;
use crate::target::{BeforeManifestError, Tileset};
use crate::tile::TileId;

/// The note that a bucket keeps with a version that was begun. Clients do not look for it.
pub(crate) const BEGUN: &str = "begun.json";

/// The folder that has a folder for the notes of each version.
pub(crate) const VERSIONS: &str = ".oar-tiles/versions/";

/// The named bytes of a target, as a run needs them. Names are relative to the target.
///
/// - Readers see a note as it was before a write or after it. A write of a note is durable when it returns.
/// - Only the one writer of the target calls these methods.
pub(crate) trait TreeStore {
    type Error: From<ScratchError> + From<BeforeManifestError>;

    /// True if readers find the current version's `metadata.json` next to `latest.json`; otherwise they read the
    /// version's own.
    const SHOWS_METADATA: bool;

    /// What the target's notes say. With `force`, damaged notes may count as missing.
    fn state(&mut self, force: bool) -> Result<TreeState, Self::Error>;

    /// The error of a run of `tileset` that may not write here.
    fn refused(&self, refusal: TreeRefusal, tileset: &Tileset) -> Self::Error;

    /// Refuses a target with these notes for reasons of its kind.
    fn check(&self, state: &TreeState, options: &TreeOptions) -> Result<(), Self::Error>;

    /// The published versions; `None` if there are none.
    fn latest(&mut self) -> Result<Option<Latest>, Self::Error>;

    /// The version, written by shards, that this run publishes instead of one of its own. A version that is not theirs
    /// any more is refused.
    fn adopted(&mut self, _published: Option<&Latest>) -> Result<Option<String>, Self::Error> {
        Ok(None)
    }

    /// Calls `each` with every tile of the template, and its digest if it is known.
    /// Fails if there is a tile and the target is not `ours`, or the target cannot be read.
    fn list_tiles(
        &mut self,
        template: &Template,
        ours: bool,
        each: &mut dyn FnMut(TileId, Tag) -> Result<(), ScratchError>,
    ) -> Result<(), Self::Error>;

    /// Writes what the target's kind needs before the first tile, into `version` or in place. `is_empty` is true if the
    /// target held no tile.
    fn prepare(&mut self, _version: Option<&str>, _is_empty: bool) -> Result<(), Self::Error> {
        Ok(())
    }

    /// The error of a note that cannot be written as JSON.
    fn note_error(&self, name: &str, source: serde_json::Error) -> Self::Error;

    /// Waits until every tile that was handed over is stored; it need not be durable yet.
    fn wait_for_tiles(&mut self) -> Result<(), Self::Error>;

    /// Begins to delete a tile; returns false if there certainly was none.
    fn delete_tile(&mut self, name: String) -> Result<bool, Self::Error>;

    /// Waits until every tile is stored or deleted, durably.
    fn sync_tiles(&mut self) -> Result<(), Self::Error>;

    /// Makes sure that this run is still the target's one writer.
    fn confirm(&mut self) -> Result<(), Self::Error>;

    /// A note; `None` if there is none.
    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, Self::Error>;

    fn metadata_of(&mut self, version: &str) -> Result<Option<Vec<u8>>, Self::Error> {
        self.get(&notes::of_version(version, notes::METADATA))
    }

    fn put(&mut self, name: &str, body: &[u8]) -> Result<(), Self::Error>;

    /// Writes a note unless it has this body already: then clients' caches stay valid.
    fn keep(&mut self, name: &str, body: &[u8]) -> Result<(), Self::Error>;

    /// Replaces `latest.json` or `metadata.json`, if nobody else has since this run has read it.
    fn replace(&mut self, name: &str, body: &[u8]) -> Result<(), Self::Error>;

    /// The names of the files and folders in one of the program's folders, which ends with `/`; none if there is no
    /// such folder.
    fn names(&mut self, folder: &str) -> Result<BTreeSet<String>, Self::Error>;

    fn remove(&mut self, name: &str) -> Result<(), Self::Error>;

    /// Notes what is begun, or stays begun.
    fn note_begun(&mut self, begun: Begun) -> Result<(), Self::Error>;

    /// Notes that a version is published, if its own notes say whether it is.
    fn note_published(&mut self, version: &str) -> Result<(), Self::Error>;

    /// True if a version that was never published must stay. Otherwise nobody publishes it from here on.
    fn is_awaited(&mut self, version: &str) -> Result<bool, Self::Error>;

    /// Removes the tiles of a version, then its notes, so that the next run finds what an interrupted removal left.
    /// Breaks if a stop was asked for.
    fn remove_version(&mut self, version: &str, template: &Template) -> Result<ControlFlow<()>, Self::Error>;
}
