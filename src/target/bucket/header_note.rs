//! The note about the headers that the tiles of a prefix carry: whether every tile was stored with the headers of the
//! configuration. Equal tiles are not written again, so changed headers reach them only by a pass that rewrites
//! headers.

use serde::{Deserialize, Serialize};

use super::BucketError;
use super::client::WriteCondition;
use super::store::Store;
use super::tree_notes::write_note;
use crate::target::note_store::{NoteError, NoteStore};
use crate::target::tree::OWN_FOLDER;

/// The name of the note.
const HEADERS: &str = "headers.json";

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

/// The name of the note on headers, below the prefix.
fn name() -> String {
    format!("{OWN_FOLDER}/notes/{HEADERS}")
}

pub(crate) async fn read(store: &Store) -> Result<Option<HeaderNote>, BucketError> {
    Ok(store.get(&name()).await?.and_then(|object| serde_json::from_slice(&object.body).ok()))
}

/// Writes the note; the caller holds the lease.
pub(crate) async fn write(store: &Store, note: &HeaderNote) -> Result<(), BucketError> {
    let body = serde_json::to_vec(note).map_err(|source| store.note_error(&name(), source))?;
    write_note(store, &name(), body, &WriteCondition::Always).await.map(drop)
}

/// Notes the headers that a run is going to write, before its first tile. `is_empty` is true if the prefix holds no
/// tile yet.
pub(crate) async fn begin(store: &Store, is_empty: bool) -> Result<(), BucketError> {
    let headers = store.options.headers_digest();
    let found = read(store).await?;
    let is_wanted = found.is_some() || store.options.has_band();
    if !is_wanted || found.is_some_and(|note| note.headers == headers && (note.is_complete || !is_empty)) {
        return Ok(());
    }
    write(store, &HeaderNote { headers, is_complete: is_empty, after: None }).await
}
