//! What is known of a target whose CDNs are purged.

use std::sync::Arc;
use std::time::Duration;

use crate::sink::NoteStore;
use crate::tile::{TileCoord, TilesetTag, ZoomList};

/// What is known of a target whose CDNs are purged.
#[derive(Clone)]
pub struct PurgeTarget {
    /// The notes of the target, with the outbox.
    pub notes: Arc<dyn NoteStore>,
    /// The number of the publication that its manifest names; `None` if there is no target.
    pub published: Option<u64>,
    /// The tag of the tileset, from which the tags of its tiles are made.
    pub tag: TilesetTag,
    /// Its zooms.
    pub zooms: ZoomList,
    /// The patterns of the names of its tiles: one, or one for each layer if layers are stored separately.
    pub patterns: Vec<String>,
    /// Lists all tiles, for a provider that has no other way to purge everything. May wait for a disk or a server.
    pub all_tiles: AllTiles,
    /// Who sends tags with the tiles.
    pub tags: TagSender,
    /// How long servers of the target may answer with old tiles after a publish, unless the provider's options set another time.
    pub settle: Duration,
}

/// Lists all tiles of a target, or says why that is not possible.
pub type AllTiles = Arc<dyn Fn() -> Result<Vec<TileCoord>, String> + Send + Sync>;

/// Who sends tags with the tiles. The text identifies the tags: if it changes, tiles cached before carry other tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagSender {
    /// Nobody, or not with every tile yet.
    Nobody,
    /// `oar-tiles serve`, also with the answers for empty tiles.
    Server(String),
    /// The bucket, with the objects that exist. An error carries no tags, so a new tile is purged by address, too.
    Bucket(String),
}
