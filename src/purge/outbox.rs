//! The outbox: the changes that providers have not confirmed yet, kept with the target.
//!
//! ```text
//!  tiles durable ─► entry in the outbox ─► manifest names the publication ─► sent ─► confirmed ─► entry removed
//! ```
//!
//! - Never lost: the entry is durable before the manifest is, and removed only after the provider has taken it. A kill at any time leaves
//!   the entry, and the next command sends it, perhaps for the second time.
//! - Never too early: an entry is sent once the manifest names its publication or a later one. A run that is killed before its manifest moves leaves
//!   an entry that waits for the next run, whose publication gets the same number.
//! - One note holds the queues of all providers. It is written by compare-and-set, so that a run that adds and a command that sends do not
//!   lose each other's writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::queue::PurgeQueue;
use crate::sink::{
    BeforeManifest, BeforeManifestError, MAX_KEPT_NOTE, NoteCondition, NoteError, NoteStore, PublishedTiles,
};
use crate::suggested::PURGE;
use crate::tile::TileRectList;

/// The name of the note.
const OUTBOX: &str = "purge.json";

/// The most attempts to write the note if others write it at the same time.
const MAX_ATTEMPTS: u32 = 20;

/// The most bytes of the note, so that it can always be read back. If it would be longer, the longest lists are replaced by "everything".
const MAX_OUTBOX_BYTES: usize = MAX_KEPT_NOTE / 4 * 3;

/// What one publication changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxEntry {
    /// The number of the publication; 0 if it waits for none.
    pub number: u64,
    /// Identifies the entry. The id of a merged entry differs from those of its parts.
    pub id: String,
    /// When it was written, in seconds since 1970 (UTC). For merged entries, when the oldest of them was written.
    pub time: u64,
    /// The tiles that changed; `None` if every tile counts as changed.
    pub tiles: Option<TileRectList>,
    /// Documents next to the tiles, such as `tiles.json`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub documents: Vec<String>,
    /// Those of the tiles that did not exist before: a CDN may have cached an error for them. `None` if all of them count as new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<TileRectList>,
}

impl OutboxEntry {
    /// An entry with the current time.
    #[must_use]
    pub fn new(number: u64, id: String, tiles: Option<TileRectList>, documents: Vec<String>) -> OutboxEntry {
        OutboxEntry { number, id, time: seconds_now(), tiles, documents, added: None }
    }

    /// Merges both entries.
    #[must_use]
    pub(super) fn merged(self, other: OutboxEntry) -> OutboxEntry {
        let tiles = match (&self.tiles, &other.tiles) {
            (Some(one), Some(two)) => TileRectList::union([one, two]),
            _ => None,
        };
        let added = match (&self.added, &other.added) {
            (Some(one), Some(two)) => TileRectList::union([one, two]),
            _ => None,
        };
        let mut documents = self.documents;
        documents.extend(other.documents.into_iter().filter(|name| !documents.contains(name)).collect::<Vec<_>>());
        OutboxEntry {
            number: self.number.max(other.number),
            id: format!("{}-{}", short(&self.id), short(&other.id)),
            time: self.time.min(other.time),
            tiles,
            documents,
            added,
        }
    }
}

/// The beginning and the end of a long id.
fn short(id: &str) -> String {
    let is_long = id.len() > 32 && id.is_ascii();
    if is_long { format!("{}.{}", &id[..15], &id[id.len() - 16..]) } else { id.to_owned() }
}

/// The queues of all providers of a target, by [`queue_name`](super::queue_name).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outbox {
    /// The queues.
    pub queues: BTreeMap<String, PurgeQueue>,
}

impl Outbox {
    /// The names of the documents next to the tiles that refer to tiles.
    pub const DOCUMENTS: [&'static str; 3] = ["latest.json", "metadata.json", "tiles.json"];

    /// The outbox of a target. May wait for a disk or a server.
    ///
    /// # Errors
    /// If it cannot be read. An outbox that cannot be parsed is an error, too: ignoring it would lose the purges in it.
    pub fn read(notes: &dyn NoteStore) -> Result<Outbox, OutboxError> {
        match notes.read(OUTBOX)? {
            Some(note) => serde_json::from_slice(&note.body).map_err(|error| OutboxError::Damaged(error.to_string())),
            None => Ok(Outbox::default()),
        }
    }

    /// Shortens the queue with the longest lists; false if that is not possible.
    fn shrink(&mut self) -> bool {
        self.queues.values_mut().max_by_key(|queue| queue.rects()).is_some_and(PurgeQueue::shrink)
    }

    /// Changes the outbox of a target, and returns the changed outbox. May wait for a disk or a server.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn change(notes: &dyn NoteStore, how: impl Fn(&mut Outbox)) -> Result<Outbox, OutboxError> {
        let mut attempt = 1;
        loop {
            let note = notes.read(OUTBOX)?;
            let mut outbox = match &note {
                Some(note) => {
                    serde_json::from_slice(&note.body).map_err(|error| OutboxError::Damaged(error.to_string()))?
                }
                None => Outbox::default(),
            };
            let before = outbox.clone();
            how(&mut outbox);
            if outbox == before {
                return Ok(outbox);
            }
            let condition = note.map_or(NoteCondition::Absent, |note| NoteCondition::Unchanged(note.tag));
            let mut body = serde_json::to_vec(&outbox).map_err(|error| OutboxError::Damaged(error.to_string()))?;
            while body.len() > MAX_OUTBOX_BYTES && outbox.shrink() {
                body = serde_json::to_vec(&outbox).map_err(|error| OutboxError::Damaged(error.to_string()))?;
            }
            match notes.write(OUTBOX, &body, &condition) {
                Ok(_) => return Ok(outbox),
                Err(NoteError::Changed { .. }) if attempt < MAX_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Why the outbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The note cannot be read or written.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The content of the note cannot be parsed.
    #[error(
        "the outbox of purges ({name} in the notes of the target) cannot be understood ({0}): remove it, then run {PURGE} --all, for what it held is not known",
        name = OUTBOX
    )]
    Damaged(String),
}

/// Adds what a run changes to the outbox, before the run's manifest becomes visible.
#[derive(Debug)]
pub struct OutboxWriter {
    /// The notes of the target.
    pub notes: Arc<dyn NoteStore>,
    /// The queues of the configured providers.
    pub queues: Vec<String>,
    /// The number of the run's publication.
    pub number: u64,
    /// The id of the run's publication.
    pub id: String,
    /// True if tiles get new addresses with every publication, so that only documents change.
    pub is_versioned: bool,
    /// Documents that change with every publication.
    pub documents: Vec<String>,
}

impl BeforeManifest for OutboxWriter {
    fn stored(&self, stored: &PublishedTiles) -> Result<(), BeforeManifestError> {
        let changed = stored.changed.as_ref();
        let tiles = if self.is_versioned { Some(TileRectList::default()) } else { changed.cloned() };
        let documents = if self.is_versioned || changed.is_none() { self.documents.clone() } else { Vec::new() };
        if documents.is_empty() && tiles.as_ref().is_some_and(|tiles| tiles.count() == 0) {
            return Ok(());
        }
        let entry = OutboxEntry {
            added: stored.added.clone(),
            ..OutboxEntry::new(self.number, self.id.clone(), tiles, documents)
        };
        let added = Outbox::change(&*self.notes, |outbox| {
            for name in &self.queues {
                outbox.queues.entry(name.clone()).or_default().add(entry.clone());
            }
        });
        match added {
            Ok(_) => Ok(()),
            Err(OutboxError::Note(error)) => Err(error.into()),
            Err(error @ OutboxError::Damaged(_)) => {
                Err(NoteError::Refused { action: "add to", place: OUTBOX.to_owned(), source: Box::new(error) }.into())
            }
        }
    }
}

/// Seconds since 1970 (UTC).
pub(super) fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
