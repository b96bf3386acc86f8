//! The note about the headers that the tiles of a prefix carry: whether every tile was stored with the headers of the
//! configuration. Equal tiles are not written again, so changed headers reach them only by a pass that rewrites
//! headers.

use serde::{Deserialize, Serialize};

use crate::target::note_store::{NoteError, NoteStore};

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
