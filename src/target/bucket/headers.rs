//! The headers of stored objects: which of the user's settings each kind of object gets, and which a prefix's tiles
//! carry.

use serde::{Deserialize, Serialize};

use super::BucketOptions;
use super::client::ObjectHeaders;
use crate::encode::TileFormat;
use crate::target::note_store::{NoteError, NoteStore};
use crate::tile::TileId;

const JSON: &str = "application/json";

pub(crate) fn of_tile(options: &BucketOptions, tile: TileId, packed: bool) -> ObjectHeaders {
    ObjectHeaders {
        content_type: TileFormat::MVT.media_type,
        is_gzip: packed,
        cache_control: options.cache_control_at(tile.coord.zoom()).map(str::to_owned),
        storage_class: options.section.storage_class.clone(),
        metadata: options.metadata_of(tile),
        encryption: options.section.encryption.clone(),
    }
}

/// The headers of a note, which is small and replaced in place: always the bucket's standard class, whose objects can
/// be read at once and replaced without a fee.
pub(crate) fn of_note(options: &BucketOptions) -> ObjectHeaders {
    ObjectHeaders {
        content_type: JSON,
        cache_control: Some(options.section.notes_cache_control.clone()),
        encryption: options.section.encryption.clone(),
        ..ObjectHeaders::default()
    }
}

pub(crate) fn of_archive(options: &BucketOptions, content_type: &'static str) -> ObjectHeaders {
    ObjectHeaders {
        content_type,
        is_gzip: false,
        cache_control: Some(options.section.notes_cache_control.clone()),
        storage_class: options.section.storage_class.clone(),
        metadata: options.archive_metadata(),
        encryption: options.section.encryption.clone(),
    }
}

// The note about the headers that the tiles of a prefix carry: whether every tile was stored with the headers of the
// configuration. Equal tiles are not written again, so changed headers reach them only by a pass that rewrites
// headers.

/// The name of the note.
pub(crate) const HEADERS: &str = "headers.json";

/// Which headers the tiles of a prefix carry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderNote {
    /// [`BucketOptions::headers_digest`](super::BucketOptions::headers_digest) of the headers that were last written.
    pub headers: String,
    /// True if every tile carries them.
    pub is_complete: bool,
    /// The name of the last tile to which an interrupted pass gave the headers, in the order of names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl HeaderNote {
    /// The note of a target; `None` if there is none or it cannot be parsed. Then nothing is known about the tiles'
    /// headers. May wait for a server.
    pub fn read(notes: &dyn NoteStore) -> Result<Option<HeaderNote>, NoteError> {
        Ok(notes.read(HEADERS)?.and_then(|note| serde_json::from_slice(&note.body).ok()))
    }
}

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RewrittenHeaders {
    /// The tiles that were given the headers.
    pub rewritten: u64,
    /// The tiles that an interrupted pass had given them before.
    pub before: u64,
}
