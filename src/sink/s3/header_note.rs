//! Which headers the tiles of a prefix carry: a note that says whether every tile was stored with the headers of the configuration. Tiles that
//! are equal are not written again, so a change of the headers reaches them only by a pass that rewrites headers.

use serde::{Deserialize, Serialize};

use super::S3Error;
use super::note::write_note;
use super::store::{Condition, Store};
use crate::sink::note_store::{NoteError, NoteStore};
use crate::sink::tree::OWN_FOLDER;

/// The name of the note.
const HEADERS: &str = "headers.json";

/// Which headers the tiles of a prefix carry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderNote {
    /// [`S3Headers::digest`](super::S3Headers::digest) of the headers that were last written.
    pub headers: String,
    /// True if every tile carries them.
    pub is_complete: bool,
    /// The name of the last tile that an interrupted pass has given them, in the order of names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl HeaderNote {
    /// The note of a target; `None` if there is none, or it cannot be understood: then nothing is known of the tiles' headers. May wait for
    /// a server.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(notes: &dyn NoteStore) -> Result<Option<HeaderNote>, NoteError> {
        Ok(notes.read(HEADERS)?.and_then(|note| serde_json::from_slice(&note.body).ok()))
    }
}

fn name() -> String {
    format!("{OWN_FOLDER}/notes/{HEADERS}")
}

/// The note of a prefix.
pub(super) async fn read(store: &Store) -> Result<Option<HeaderNote>, S3Error> {
    Ok(store.get(&name()).await?.and_then(|object| serde_json::from_slice(&object.body).ok()))
}

/// Writes the note; the caller holds the lease.
pub(super) async fn write(store: &Store, note: &HeaderNote) -> Result<(), S3Error> {
    let body = serde_json::to_vec(note).map_err(|source| S3Error::Note { place: store.place(&name()), source })?;
    write_note(store, &name(), body, &Condition::Always).await
}

/// Notes the headers that a run is going to write, before its first tile. `is_empty` if the prefix holds no tile yet.
pub(super) async fn begin(store: &Store, is_empty: bool) -> Result<(), S3Error> {
    let headers = store.options.headers.digest();
    let found = read(store).await?;
    let is_wanted = found.is_some() || store.options.headers.has_band();
    if !is_wanted || found.is_some_and(|note| note.headers == headers && (note.is_complete || !is_empty)) {
        return Ok(());
    }
    write(store, &HeaderNote { headers, is_complete: is_empty, after: None }).await
}
