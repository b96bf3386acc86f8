//! The queue of one provider: entries that wait, names left over from a purge that was sent in part, and rebounds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::items::TilesToPurge;
use super::outbox::{OutboxEntry, seconds_now};
use super::pace::SpentItems;
use super::provider::PurgeName;

/// The most entries of a queue; if there are more, the two oldest are merged.
const MAX_ENTRIES: usize = 16;

/// The most names that are kept of a purge that was sent in part, about 400 kB. If more are left, their tiles wait as an entry again.
pub(super) const MAX_LEFT_NAMES: usize = 5_000;

/// An entry whose publication no manifest has named for this long is sent: the target was replaced by one that counts its publications from 1.
const ORPHANED_AFTER: Duration = Duration::from_secs(3_600);

/// What a provider has not confirmed yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PurgeQueue {
    /// The entries that wait, oldest first.
    pub waiting: Vec<OutboxEntry>,
    /// The names that are left of entries that were sent in part.
    pub left: Vec<PurgeName>,
    /// Identifies the publishes to which `left` belongs.
    pub left_of: String,
    /// The purges that were sent and will be sent once more.
    pub rebounds: Vec<Rebound>,
    /// What was spent.
    pub spent: SpentItems,
    /// Why the provider refuses permanently, if it does.
    pub stopped: Option<String>,
    /// The tags that purges rely on: everything was purged by address while these tags were sent already, so nothing without them is cached. `None`
    /// if purges do not rely on tags.
    pub tags: Option<String>,
}

/// A purge that will be sent once more: caches in two tiers may have fetched old tiles from each other, and an old answer may have been under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebound {
    /// When it is due, in seconds since 1970 (UTC).
    pub at: u64,
    /// The entry to send.
    pub entry: OutboxEntry,
    /// True if it was sent by address because purges could not rely on tags yet.
    #[serde(default)]
    pub by_address: bool,
}

/// The outcome of a purge.
#[derive(Debug, Clone)]
pub struct SentEntries {
    /// The entries.
    pub entries: Vec<OutboxEntry>,
    /// Identifies these entries.
    pub of: String,
    /// The names that the provider did not accept.
    pub left: Vec<PurgeName>,
    /// An entry with what `left` stands for.
    pub rest: OutboxEntry,
}

impl PurgeQueue {
    /// True if there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.left.is_empty() && self.rebounds.is_empty()
    }

    /// The tiles that wait.
    #[must_use]
    pub fn tiles(&self) -> TilesToPurge {
        tiles_of_all(&self.waiting)
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

    /// Adds a purge that is repeated later. If there are `MAX_ENTRIES` already, it is merged with the newest one, so that the older ones are repeated
    /// in time.
    pub fn add_rebound(&mut self, rebound: Rebound) {
        let is_full = self.rebounds.len() >= MAX_ENTRIES;
        match self.rebounds.pop_if(|_| is_full) {
            Some(last) => self.rebounds.push(Rebound {
                at: last.at.max(rebound.at),
                by_address: last.by_address || rebound.by_address,
                entry: last.entry.merged(rebound.entry),
            }),
            None => self.rebounds.push(rebound),
        }
    }

    /// The entries that may be sent while the target's manifest names the publication `published`; `None` if it names none.
    #[must_use]
    pub fn ready(&self, published: Option<u64>) -> Vec<OutboxEntry> {
        let is_orphan = |entry: &OutboxEntry| seconds_now().saturating_sub(entry.time) > ORPHANED_AFTER.as_secs();
        let is_ready = |entry: &&OutboxEntry| entry.number <= published.unwrap_or(0) || is_orphan(entry);
        self.waiting.iter().filter(is_ready).cloned().collect()
    }

    /// Notes the outcome of a purge. What the provider did not accept is kept by name, so that a retry is the same request; or as tiles, if the names
    /// would take too much room.
    pub fn sent(&mut self, sent: &SentEntries) {
        self.waiting.retain(|waiting| !sent.entries.iter().any(|entry| entry.id == waiting.id));
        if sent.left.len() > MAX_LEFT_NAMES {
            self.waiting.insert(0, sent.rest.clone());
        } else if !sent.left.is_empty() {
            (self.left_of, self.left) = (sent.of.clone(), sent.left.clone());
        }
    }

    /// The length of the lists of tiles, in rectangles.
    pub(super) fn rects(&self) -> usize {
        let of = |entry: &OutboxEntry| {
            entry.tiles.iter().chain(&entry.added).map(|tiles| tiles.rects().len()).sum::<usize>()
        };
        let rebounds = self.rebounds.iter().map(|rebound| of(&rebound.entry));
        self.waiting.iter().map(of).chain(rebounds).sum()
    }

    /// Shortens the lists: merges them or, if that does not help, replaces them by "everything". False if they cannot get shorter.
    pub(super) fn shrink(&mut self) -> bool {
        let before = self.rects();
        let merged = std::mem::take(&mut self.waiting).into_iter().reduce(OutboxEntry::merged);
        self.waiting.extend(merged);
        let all = std::mem::take(&mut self.rebounds);
        let merged = all.into_iter().reduce(|one, other| Rebound {
            at: one.at.max(other.at),
            by_address: one.by_address || other.by_address,
            entry: one.entry.merged(other.entry),
        });
        self.rebounds.extend(merged);
        if self.rects() < before {
            return true;
        }
        let entries = self.waiting.iter_mut().chain(self.rebounds.iter_mut().map(|rebound| &mut rebound.entry));
        for entry in entries {
            (entry.tiles, entry.added) = (None, None);
        }
        before > 0
    }
}

/// The tiles of an entry.
#[must_use]
pub fn tiles_of(entry: &OutboxEntry) -> TilesToPurge {
    entry.tiles.as_ref().map_or(TilesToPurge::Everything, |tiles| TilesToPurge::listed(tiles.tiles()))
}

/// The tiles of some entries, each once.
pub(super) fn tiles_of_all(entries: &[OutboxEntry]) -> TilesToPurge {
    entries.iter().fold(TilesToPurge::default(), |all, entry| all.joined(tiles_of(entry)))
}
