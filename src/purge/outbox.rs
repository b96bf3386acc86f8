//! The outbox: what providers have not been told yet, kept with the target until they have confirmed it.
//!
//! ```text
//!  tiles durable ─► entry in the outbox ─► manifest names the publication ─► sent ─► confirmed ─► entry removed
//! ```
//!
//! - Never lost: the entry is durable before the manifest is, and removed only after the provider has taken it. A kill at any time leaves
//!   the entry, and the next command sends it, perhaps for the second time.
//! - Never too early: an entry is sent once the manifest names its publication or a later one. A run that is killed before its manifest
//!   moves leaves an entry that waits for the next run, which has the number of the killed one.
//! - One note holds the queues of all providers. It is written by compare-and-set, so that a run that adds and a command that sends do not
//!   lose each other's writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::items::TilesToPurge;
use super::pace::SpentItems;
use super::provider::PurgeName;
use crate::sink::{BeforeManifest, BeforeManifestError, NoteCondition, NoteError, NoteStore};
use crate::tile::TileRectList;

/// The name of the note.
const OUTBOX: &str = "purge.json";

/// How often the note is written again if others write it at the same time.
const MAX_ATTEMPTS: u32 = 20;

/// The most entries of a queue; beyond it the two oldest are merged.
const MAX_ENTRIES: usize = 16;

/// The most names that are kept of a purge that was sent in part; with more, all of it is sent again. About 400 kB.
const MAX_LEFT_NAMES: usize = 5_000;

/// An entry whose publication no manifest has named for this long is sent: the target has been replaced by one that counts anew.
const ORPHANED_AFTER: Duration = Duration::from_secs(3_600);

/// What one publication changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboxEntry {
    /// The number of the publication; 0 if it waits for none.
    pub number: u64,
    /// Tells it from every other entry, and the merger of entries from each of them.
    pub id: String,
    /// When it was written, in seconds since 1970 (UTC). Of a merger, when the oldest was.
    pub time: u64,
    /// The tiles that changed; `None` if every tile counts as changed.
    pub tiles: Option<TileRectList>,
    /// Documents beside the tiles, such as `tiles.json`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub documents: Vec<String>,
}

impl OutboxEntry {
    /// An entry of this moment.
    #[must_use]
    pub fn new(number: u64, id: String, tiles: Option<TileRectList>, documents: Vec<String>) -> OutboxEntry {
        OutboxEntry { number, id, time: seconds_now(), tiles, documents }
    }

    /// Both as one.
    fn merged(self, other: OutboxEntry) -> OutboxEntry {
        let tiles = match (&self.tiles, &other.tiles) {
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
        }
    }
}

/// The beginning and the end of a long id.
fn short(id: &str) -> String {
    let is_long = id.len() > 32 && id.is_ascii();
    if is_long { format!("{}.{}", &id[..15], &id[id.len() - 16..]) } else { id.to_owned() }
}

/// What a provider has to be told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PurgeQueue {
    /// The entries that wait, oldest first.
    pub waiting: Vec<OutboxEntry>,
    /// What is left of entries that were sent in part.
    pub left: Vec<PurgeName>,
    /// To which publishes `left` belongs.
    pub left_of: String,
    /// What was sent and is to be sent once more: caches in two tiers may have fetched old tiles again from each other.
    pub again: Vec<PurgeName>,
    /// When that is to be sent, in seconds since 1970 (UTC).
    pub again_at: u64,
    /// What was spent.
    pub spent: SpentItems,
    /// Why the provider refuses for good, if it does.
    pub stopped: Option<String>,
}

impl PurgeQueue {
    /// True if there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.left.is_empty() && self.again.is_empty()
    }

    /// The tiles that wait.
    #[must_use]
    pub fn tiles(&self) -> TilesToPurge {
        self.waiting.iter().fold(TilesToPurge::default(), |all, entry| all.joined(tiles_of(entry)))
    }

    /// The age of the oldest entry in seconds.
    #[must_use]
    pub fn oldest(&self) -> Option<u64> {
        self.waiting.iter().map(|entry| seconds_now().saturating_sub(entry.time)).max()
    }

    /// Adds an entry.
    pub fn add(&mut self, entry: OutboxEntry) {
        self.waiting.push(entry);
        if self.waiting.len() > MAX_ENTRIES {
            let (one, other) = (self.waiting.remove(0), self.waiting.remove(0));
            self.waiting.insert(0, one.merged(other));
        }
    }

    /// The entries that may be sent while the target's manifest names a publication; `None` if it names none.
    #[must_use]
    pub fn ready(&self, published: Option<u64>) -> Vec<OutboxEntry> {
        let is_orphan = |entry: &OutboxEntry| seconds_now().saturating_sub(entry.time) > ORPHANED_AFTER.as_secs();
        let is_ready = |entry: &&OutboxEntry| entry.number <= published.unwrap_or(0) || is_orphan(entry);
        self.waiting.iter().filter(is_ready).cloned().collect()
    }

    /// Notes what became of a sending: of these entries and of what was left before, this is left.
    pub fn sent(&mut self, entries: &[OutboxEntry], left: Vec<PurgeName>, of: &str) {
        if left.len() > MAX_LEFT_NAMES {
            return;
        }
        self.waiting.retain(|waiting| !entries.iter().any(|entry| entry.id == waiting.id));
        self.left_of = if left.is_empty() { String::new() } else { of.to_owned() };
        self.left = left;
    }
}

/// The tiles of an entry.
#[must_use]
pub fn tiles_of(entry: &OutboxEntry) -> TilesToPurge {
    entry.tiles.as_ref().map_or(TilesToPurge::Everything, |tiles| TilesToPurge::listed(tiles.tiles()))
}

/// What all providers of a target have to be told, by [`queue_name`](super::queue_name).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outbox {
    /// The queues.
    pub queues: BTreeMap<String, PurgeQueue>,
}

impl Outbox {
    /// The documents beside the tiles that lead to them, by the names that targets give them.
    pub const DOCUMENTS: [&'static str; 3] = ["latest.json", "metadata.json", "tiles.json"];

    /// The outbox of a target. May wait for a disk or a server.
    ///
    /// # Errors
    /// If it cannot be read. What cannot be understood is an error, too: to forget it would lose what it holds.
    pub fn read(notes: &dyn NoteStore) -> Result<Outbox, OutboxError> {
        match notes.read(OUTBOX)? {
            Some(note) => serde_json::from_slice(&note.body).map_err(|error| OutboxError::Damaged(error.to_string())),
            None => Ok(Outbox::default()),
        }
    }

    /// Changes the outbox of a target; returns what it is then. May wait for a disk or a server.
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
            let body = serde_json::to_vec(&outbox).map_err(|error| OutboxError::Damaged(error.to_string()))?;
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
    /// The note.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Its content.
    #[error(
        "the outbox of purges ({name} in the notes of the target) cannot be understood ({0}): remove it, then run oar-tiles purge --all, for what it held is not known",
        name = OUTBOX
    )]
    Damaged(String),
}

/// Puts what a run changes into the outbox, before its manifest becomes visible.
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
    fn stored(&self, changed: Option<&TileRectList>) -> Result<(), BeforeManifestError> {
        let tiles = if self.is_versioned { Some(TileRectList::default()) } else { changed.cloned() };
        let documents = if self.is_versioned || changed.is_none() { self.documents.clone() } else { Vec::new() };
        if documents.is_empty() && tiles.as_ref().is_some_and(|tiles| tiles.count() == 0) {
            return Ok(());
        }
        let entry = OutboxEntry::new(self.number, self.id.clone(), tiles, documents);
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
