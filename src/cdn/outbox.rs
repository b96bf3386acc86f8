//! The outbox: the changes that providers have not confirmed yet, kept with the target.
//!
//! ```text
//!  tiles durable ─► entry in the outbox ─► manifest names the publication ─► sent ─► confirmed ─► entry removed
//! ```
//!
//! - Never lost: the entry is durable before the manifest is, and removed only after the provider has taken it. A kill
//!   at any time leaves the entry, and the next command sends it, perhaps for the second time.
//! - Never too early: an entry is sent once the manifest names its publication or a later one. A run that is killed
//!   before its manifest moves leaves an entry that waits for the next run, whose publication gets the same number.
//! - One note holds the queues of all providers. It is written by compare-and-set, so that a run that adds and a
//!   command that sends do not lose each other's writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::items::TilesToPurge;
use super::pace::SpentItems;
use super::provider::PurgeName;
use crate::clock::seconds_now;
use crate::prometheus::{GaugeValue, gauge, label_value};
use crate::suggested::PURGE;
use crate::target::{
    BeforeManifest, BeforeManifestError, KeptNote, MAX_KEPT_NOTE, NoteError, NoteStore, PublishedTiles, WriteCondition,
};
use crate::tile::TileRectList;

/// The name of the note.
const OUTBOX: &str = "purge.json";

/// The name of the document that is the object itself, where the CDN's URL is that of an object.
const OBJECT: &str = "";

/// The most attempts to write the note if others write it at the same time.
const MAX_ATTEMPTS: u32 = 20;

/// The most bytes of the note, so that it can always be read back. If it would be longer, the longest lists are
/// replaced by "everything".
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
    /// Those of the tiles that did not exist before: a CDN may have cached an error for them. `None` if all of them
    /// count as new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<TileRectList>,
}

impl OutboxEntry {
    /// An entry with the current time.
    pub fn new(number: u64, id: String, tiles: Option<TileRectList>, documents: Vec<String>) -> OutboxEntry {
        OutboxEntry { number, id, time: seconds_now(), tiles, documents, added: None }
    }

    #[must_use]
    pub(crate) fn merged(self, other: OutboxEntry) -> OutboxEntry {
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
    pub queues: BTreeMap<String, PurgeQueue>,
}

impl Outbox {
    /// The outbox of a target. May wait for a disk or a server.
    /// Fails if it cannot be read. An outbox that cannot be parsed is an error, too: ignoring it would lose the purges
    /// in it.
    pub fn read(notes: &dyn NoteStore) -> Result<Outbox, OutboxError> {
        Outbox::of(notes.read(OUTBOX)?.as_ref())
    }

    fn of(note: Option<&KeptNote>) -> Result<Outbox, OutboxError> {
        let read = note.map(|note| serde_json::from_slice(&note.body)).transpose();
        Ok(read.map_err(|error| OutboxError::Damaged(error.to_string()))?.unwrap_or_default())
    }

    /// Shortens the queue with the longest lists; false if that is not possible.
    fn shrink(&mut self) -> bool {
        self.queues.values_mut().max_by_key(|queue| queue.rects()).is_some_and(PurgeQueue::shrink)
    }

    /// Changes the outbox of a target, and returns the changed outbox. May wait for a disk or a server.
    pub fn change(notes: &dyn NoteStore, how: impl Fn(&mut Outbox)) -> Result<Outbox, OutboxError> {
        let mut attempt = 1;
        loop {
            let note = notes.read(OUTBOX)?;
            let mut outbox = Outbox::of(note.as_ref())?;
            let before = outbox.clone();
            how(&mut outbox);
            if outbox == before {
                return Ok(outbox);
            }
            let condition = note.map_or(WriteCondition::Absent, |note| WriteCondition::Unchanged(note.tag));
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
    #[error(transparent)]
    Note(#[from] NoteError),
    #[error(
        "the outbox of purges ({name} in the notes of the target) cannot be understood ({0}): remove it, then run {PURGE} --all, for what it held is not known",
        name = OUTBOX
    )]
    Damaged(String),
}

/// True if the URL in the name of a queue is that of a single object, a PMTiles archive.
fn is_of_object(queue: &str) -> bool {
    queue.split_once(' ').is_some_and(|(_, url)| !url.ends_with('/'))
}

/// Adds what a run changes to the outbox, before the run's manifest becomes visible.
#[derive(Debug)]
pub struct OutboxWriter {
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
    /// The tiles that may show something else with a filter, though they may not have changed without one. `None` if
    /// these may be all tiles.
    pub filtered: Option<TileRectList>,
}

impl BeforeManifest for OutboxWriter {
    fn stored(&self, stored: &PublishedTiles) -> Result<(), BeforeManifestError> {
        let changed = stored.changed.as_ref();
        let tiles = match (changed, &self.filtered) {
            _ if self.is_versioned => Some(TileRectList::default()),
            (Some(changed), Some(filtered)) => TileRectList::union([changed, filtered]),
            _ => None,
        };
        let documents = if self.is_versioned || changed.is_none() { self.documents.clone() } else { Vec::new() };
        let is_empty = documents.is_empty() && tiles.as_ref().is_some_and(|tiles| tiles.count() == 0);
        let of_tiles = OutboxEntry {
            added: stored.added.clone(),
            ..OutboxEntry::new(self.number, self.id.clone(), tiles, documents)
        };
        // An archive has other bytes after each publish, whether its tiles have changed or not.
        let of_object = OutboxEntry { documents: vec![OBJECT.to_owned()], ..of_tiles.clone() };
        let entries: Vec<(&String, &OutboxEntry)> = (self.queues.iter())
            .filter_map(|name| {
                if is_of_object(name) { Some((name, &of_object)) } else { (!is_empty).then_some((name, &of_tiles)) }
            })
            .collect();
        if entries.is_empty() {
            return Ok(());
        }
        let added = Outbox::change(&*self.notes, |outbox| {
            for (name, entry) in &entries {
                outbox.queues.entry((*name).clone()).or_default().add((*entry).clone());
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

// Prometheus metrics: the purges that wait, and which CDNs refuse them (text exposition format 0.0.4; the table is in
// docs/cdn.md).

/// A metric: its name, its help text, its value for a queue.
type QueueMetric = (&'static str, &'static str, fn(&PurgeQueue) -> f64);

const METRICS: [QueueMetric; 4] = [
    ("oar_tiles_purge_waiting_tiles", "Changed tiles whose purge waits; -1 if all tiles of the target wait", |queue| {
        queue.tiles().count().map_or(-1.0, |count| count as f64)
    }),
    ("oar_tiles_purge_oldest_seconds", "Age of the oldest publish whose purge waits; 0 if no purge waits", |queue| {
        queue.oldest().unwrap_or(0) as f64
    }),
    ("oar_tiles_purge_month_items", "Items sent to the CDN in the last month in which any were", |queue| {
        queue.spent.items as f64
    }),
    ("oar_tiles_purge_stopped", "1 if the CDN refuses until somebody changes something", |queue| {
        f64::from(u8::from(queue.stopped.is_some()))
    }),
];

/// An outbox, and the labels that are written before its CDNs' labels, each followed by a comma.
#[derive(Debug)]
pub struct LabelledOutbox {
    pub outbox: Outbox,
    pub labels: String,
}

/// The metrics of outboxes; empty if they have no queue.
pub fn purge_metrics(outboxes: &[LabelledOutbox]) -> String {
    let queues =
        || outboxes.iter().flat_map(|of| of.outbox.queues.iter().map(|(queue, waits)| (&of.labels, queue, waits)));
    let of = |(name, help, value): &QueueMetric| {
        let values = queues().map(|(labels, queue, waits)| {
            let (provider, url) = queue.split_once(' ').unwrap_or((queue, ""));
            let labels = format!("{labels}provider=\"{}\",url=\"{}\"", label_value(provider), label_value(url));
            GaugeValue { labels, value: value(waits) }
        });
        gauge(name, help, &values.collect::<Vec<_>>())
    };
    if queues().next().is_none() { String::new() } else { METRICS.iter().map(of).collect() }
}

// The queue of one provider: entries that wait, names left over from a purge that was sent in part, and rebounds.

/// The most entries of a queue; if there are more, the two oldest are merged.
const MAX_ENTRIES: usize = 16;

/// The most names that are kept of a purge that was sent in part, about 400 kB. If more are left, their tiles wait as
/// an entry again.
pub(crate) const MAX_LEFT_NAMES: usize = 5_000;

/// An entry whose publication no manifest has named for this long is sent: the target was replaced by one that counts
/// its publications from 1.
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
    pub spent: SpentItems,
    /// Why the provider refuses permanently, if it does.
    pub stopped: Option<String>,
    /// The tags that purges rely on: everything was purged by address while these tags were sent already, so nothing
    /// without them is cached. `None` if purges do not rely on tags.
    pub tags: Option<String>,
}

/// A purge that will be sent once more: caches in two tiers may have fetched old tiles from each other, and an old
/// answer may have been under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebound {
    /// When it is due, in seconds since 1970 (UTC).
    pub at: u64,
    pub entry: OutboxEntry,
    /// True if it was sent by address because purges could not rely on tags yet.
    #[serde(default)]
    pub by_address: bool,
}

impl Rebound {
    fn merged(self, other: Rebound) -> Rebound {
        let by_address = self.by_address || other.by_address;
        Rebound { at: self.at.max(other.at), by_address, entry: self.entry.merged(other.entry) }
    }
}

/// The outcome of a purge.
#[derive(Debug, Clone)]
pub struct SentEntries {
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
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.left.is_empty() && self.rebounds.is_empty()
    }

    pub fn tiles(&self) -> TilesToPurge {
        tiles_of_all(&self.waiting)
    }

    /// The age of the oldest entry in seconds.
    pub fn oldest(&self) -> Option<u64> {
        self.waiting.iter().map(|entry| seconds_now().saturating_sub(entry.time)).max()
    }

    pub fn add(&mut self, entry: OutboxEntry) {
        self.waiting.push(entry);
        if self.waiting.len() > MAX_ENTRIES {
            let (one, other) = (self.waiting.remove(0), self.waiting.remove(0));
            self.waiting.insert(0, one.merged(other));
        }
    }

    /// Adds a purge that is repeated later. If there are `MAX_ENTRIES` already, it is merged with the newest one, so
    /// that the older ones are repeated in time.
    pub fn add_rebound(&mut self, rebound: Rebound) {
        let is_full = self.rebounds.len() >= MAX_ENTRIES;
        match self.rebounds.pop_if(|_| is_full) {
            Some(last) => self.rebounds.push(last.merged(rebound)),
            None => self.rebounds.push(rebound),
        }
    }

    /// The entries that may be sent while the target's manifest names the publication `published`; `None` if it names
    /// none.
    pub fn ready(&self, published: Option<u64>) -> Vec<OutboxEntry> {
        let is_orphan = |entry: &OutboxEntry| seconds_now().saturating_sub(entry.time) > ORPHANED_AFTER.as_secs();
        let is_ready = |entry: &&OutboxEntry| entry.number <= published.unwrap_or(0) || is_orphan(entry);
        self.waiting.iter().filter(is_ready).cloned().collect()
    }

    /// Notes the outcome of a purge. What the provider did not accept is kept by name, so that a retry is the same
    /// request; or as tiles, if the names would take too much room.
    pub fn sent(&mut self, sent: &SentEntries) {
        self.waiting.retain(|waiting| !sent.entries.iter().any(|entry| entry.id == waiting.id));
        if sent.left.len() > MAX_LEFT_NAMES {
            self.waiting.insert(0, sent.rest.clone());
        } else if !sent.left.is_empty() {
            (self.left_of, self.left) = (sent.of.clone(), sent.left.clone());
        }
    }

    /// The length of the lists of tiles, in rectangles.
    pub(crate) fn rects(&self) -> usize {
        let of = |entry: &OutboxEntry| {
            entry.tiles.iter().chain(&entry.added).map(|tiles| tiles.rects().len()).sum::<usize>()
        };
        let rebounds = self.rebounds.iter().map(|rebound| of(&rebound.entry));
        self.waiting.iter().map(of).chain(rebounds).sum()
    }

    /// Shortens the lists: merges them or, if that does not help, replaces them by "everything". False if they cannot
    /// get shorter.
    pub(crate) fn shrink(&mut self) -> bool {
        let before = self.rects();
        let merged = std::mem::take(&mut self.waiting).into_iter().reduce(OutboxEntry::merged);
        self.waiting.extend(merged);
        let merged = std::mem::take(&mut self.rebounds).into_iter().reduce(Rebound::merged);
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

pub fn tiles_of(entry: &OutboxEntry) -> TilesToPurge {
    entry.tiles.as_ref().map_or(TilesToPurge::Everything, |tiles| TilesToPurge::listed(tiles.tiles()))
}

/// The tiles of some entries, each once.
pub(crate) fn tiles_of_all(entries: &[OutboxEntry]) -> TilesToPurge {
    entries.iter().fold(TilesToPurge::default(), |all, entry| all.joined(tiles_of(entry)))
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::cdn::provider::{ItemKind, PurgeName};
    use crate::tile::{TileCoord, TileRectList};

    #[test]
    fn each_queue_has_a_line_of_each_metric() {
        let metrics = |labels: &[&str], outbox: &Outbox| {
            let labelled = |labels: &&str| LabelledOutbox { outbox: outbox.clone(), labels: (*labels).to_owned() };
            purge_metrics(&labels.iter().map(labelled).collect::<Vec<_>>())
        };
        assert_eq!(metrics(&[""], &Outbox::default()), "");
        let mut outbox = Outbox::default();
        let queue = outbox.queues.entry("fastly https://h/\"".to_owned()).or_default();
        queue.add(OutboxEntry::new(0, "x".to_owned(), TileRectList::of(["1/0/0".parse().unwrap()]), Vec::new()));
        queue.stopped = Some("403".to_owned());
        let text = metrics(&["output=\"a\",", "output=\"b\","], &outbox);
        assert_eq!(text.matches("# TYPE oar_tiles_purge_stopped gauge\n").count(), 1, "{text}");
        for line in ["waiting_tiles", "stopped"] {
            for output in ["a", "b"] {
                let labels = format!("output=\"{output}\",provider=\"fastly\",url=\"https://h/\\\"\"");
                assert!(text.contains(&format!("oar_tiles_purge_{line}{{{labels}}} 1\n")), "{text}");
            }
        }
        outbox.queues.values_mut().for_each(|queue| queue.waiting[0].tiles = None);
        assert!(metrics(&[""], &outbox).contains("waiting_tiles{provider=\"fastly\",url=\"https://h/\\\"\"} -1\n"));
    }

    /// Notes in memory, with a hook before each write.
    #[derive(Default)]
    struct MemoryNotes {
        notes: Mutex<BTreeMap<String, KeptNote>>,
        before_write: Mutex<Vec<Outbox>>,
    }

    impl std::fmt::Debug for MemoryNotes {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("MemoryNotes")
        }
    }

    impl NoteStore for MemoryNotes {
        fn read(&self, name: &str) -> Result<Option<KeptNote>, NoteError> {
            Ok(self.notes.lock().get(name).cloned())
        }

        fn write(&self, name: &str, body: &[u8], condition: &WriteCondition) -> Result<String, NoteError> {
            let mut notes = self.notes.lock();
            let note =
                |body: &[u8]| KeptNote { body: body.to_vec(), tag: format!("{:?}", String::from_utf8_lossy(body)) };
            if let Some(other) = self.before_write.lock().pop() {
                notes.insert(name.to_owned(), note(&serde_json::to_vec(&other).unwrap()));
            }
            let found = notes.get(name).map(|note| note.tag.clone());
            let holds = match condition {
                WriteCondition::Always => true,
                WriteCondition::Absent => found.is_none(),
                WriteCondition::Unchanged(tag) => found.as_ref() == Some(tag),
            };
            if !holds {
                return Err(NoteError::Changed { place: name.to_owned() });
            }
            let note = note(body);
            let tag = note.tag.clone();
            notes.insert(name.to_owned(), note);
            Ok(tag)
        }

        fn list(&self, _: &str) -> Result<Vec<String>, NoteError> {
            Ok(Vec::new())
        }

        fn remove(&self, name: &str) -> Result<(), NoteError> {
            self.notes.lock().remove(name);
            Ok(())
        }
    }

    fn rects(text: &str) -> TileRectList {
        TileRectList::of(text.split_whitespace().map(|tile| tile.parse::<TileCoord>().unwrap())).unwrap()
    }

    fn writer(notes: &Arc<MemoryNotes>, number: u64) -> OutboxWriter {
        OutboxWriter {
            notes: Arc::<MemoryNotes>::clone(notes),
            queues: vec!["a".to_owned(), "b".to_owned()],
            number,
            id: format!("id{number}"),
            is_versioned: false,
            documents: vec!["tiles.json".to_owned()],
            filtered: Some(TileRectList::default()),
        }
    }

    fn changed(tiles: TileRectList) -> PublishedTiles {
        PublishedTiles { changed: Some(tiles), added: None }
    }

    /// The provider accepted everything of some entries except for these names.
    fn sent(entries: &[OutboxEntry], left: Vec<PurgeName>) -> SentEntries {
        let rest = OutboxEntry::new(1, "x-rest".to_owned(), Some(rects("1/0/0")), Vec::new());
        SentEntries { entries: entries.to_vec(), of: "x".to_owned(), left, rest }
    }

    fn queue(notes: &MemoryNotes) -> PurgeQueue {
        Outbox::read(notes).unwrap().queues.remove("a").unwrap_or_default()
    }

    #[test]
    fn an_entry_waits_for_its_manifest_and_is_removed_only_when_it_was_sent() {
        let notes = Arc::new(MemoryNotes::default());
        writer(&notes, 3).stored(&changed(rects("1/0/0 2/1/1"))).unwrap();
        // A run that is killed here has published nothing: nothing is sent.
        assert!(queue(&notes).ready(Some(2)).is_empty() && queue(&notes).ready(None).is_empty());
        // The next run gets the number of the killed one. Both entries are sent then.
        writer(&notes, 3).stored(&changed(rects("2/1/1 3/0/0"))).unwrap();
        let ready = queue(&notes).ready(Some(3));
        assert_eq!(ready.len(), 2);
        assert_eq!(queue(&notes).tiles().count(), Some(3));
        // Killed after sending: sent again.
        assert_eq!(queue(&notes).ready(Some(3)), ready);
        // A publication that came while these were sent stays.
        writer(&notes, 4).stored(&PublishedTiles::default()).unwrap();
        Outbox::change(&*notes, |outbox| outbox.queues.get_mut("a").unwrap().sent(&sent(&ready, Vec::new()))).unwrap();
        let left = queue(&notes).ready(Some(4));
        assert_eq!((left.len(), left[0].number, left[0].tiles.is_none()), (1, 4, true));
        assert_eq!(Outbox::read(&*notes).unwrap().queues["b"].waiting.len(), 3, "another provider was told nothing");
    }

    #[test]
    fn what_is_left_of_a_sending_is_kept_by_name_and_if_it_is_much_as_tiles() {
        let mut queue = PurgeQueue::default();
        let entry = OutboxEntry::new(1, "x".to_owned(), Some(rects("1/0/0 1/0/1")), Vec::new());
        queue.add(entry.clone());
        let name = |number: usize| PurgeName { kind: ItemKind::Url, name: format!("/{number}") };
        let mut whole = queue.clone();
        whole.sent(&sent(std::slice::from_ref(&entry), (0..=MAX_LEFT_NAMES).map(name).collect()));
        let tiles = whole.waiting[0].tiles.as_ref().map(TileRectList::count);
        assert_eq!((whole.waiting.len(), tiles, whole.left.len()), (1, Some(1), 0), "what was taken is not sent again");
        queue.sent(&sent(&[entry], vec![name(1)]));
        assert_eq!((queue.waiting.len(), queue.left.len(), queue.left_of.as_str()), (0, 1, "x"));
        assert!(!queue.is_empty());
    }

    #[test]
    fn constant_changes_do_not_put_off_what_is_sent_once_more() {
        let mut queue = PurgeQueue::default();
        for second in 0..60 {
            let tiles = Some(rects(&format!("10/{second}/7")));
            let entry = OutboxEntry::new(0, second.to_string(), tiles, Vec::new());
            queue.add_rebound(Rebound { at: 100 + second, entry, by_address: second == 50 });
        }
        assert_eq!((queue.rebounds.len(), queue.rebounds[0].at), (16, 100));
        let last = queue.rebounds.last().unwrap();
        assert_eq!((last.at, last.by_address, last.entry.tiles.as_ref().unwrap().count()), (159, true, 45));
    }

    /// A note that is too long cannot be read back, and then no run could publish.
    #[test]
    fn the_outbox_stays_short_enough_to_be_read() {
        let notes = Arc::new(MemoryNotes::default());
        let mut was_full = false;
        for number in 0..4 {
            let scattered = (0..8_000_u32).map(|n| format!("20/{}/{}", n * 64 + number * 2, n * 5).parse().unwrap());
            let tiles = TileRectList::of(scattered).unwrap();
            let stored = PublishedTiles { changed: Some(tiles.clone()), added: Some(tiles) };
            writer(&notes, u64::from(number)).stored(&stored).unwrap();
            let length = notes.read(OUTBOX).unwrap().unwrap().body.len();
            assert!(length <= MAX_OUTBOX_BYTES, "{length}");
            // A queue that gives up its list purges everything: no tile is lost.
            let tiles = ["a", "b"].map(|name| Outbox::read(&*notes).unwrap().queues[name].tiles().count());
            assert!(
                tiles.iter().all(|count| count.is_none_or(|count| count == 8_000 * (number as usize + 1))),
                "{tiles:?}"
            );
            was_full |= tiles.contains(&None);
        }
        assert!(was_full, "the test has to fill the outbox");
    }

    #[test]
    fn nothing_is_added_for_a_run_that_changed_nothing() {
        let notes = Arc::new(MemoryNotes::default());
        writer(&notes, 1).stored(&changed(rects(""))).unwrap();
        assert!(queue(&notes).is_empty());
        // With versions, only the documents that refer to them change.
        OutboxWriter { is_versioned: true, ..writer(&notes, 2) }.stored(&PublishedTiles::default()).unwrap();
        let entry = &queue(&notes).waiting[0];
        assert_eq!((entry.tiles.as_ref().unwrap().count(), entry.documents.join(" ")), (0, "tiles.json".to_owned()));
    }

    #[test]
    fn a_tile_that_changed_with_a_filter_alone_is_purged_too() {
        let notes = Arc::new(MemoryNotes::default());
        let filtered =
            |number, tiles: Option<&str>| OutboxWriter { filtered: tiles.map(rects), ..writer(&notes, number) };
        filtered(1, Some("2/1/1 3/0/0")).stored(&changed(rects("2/1/1"))).unwrap();
        filtered(2, Some("4/0/0")).stored(&changed(rects(""))).unwrap();
        assert_eq!(queue(&notes).tiles().count(), Some(3));
        filtered(3, None).stored(&changed(rects("2/1/1"))).unwrap();
        assert_eq!(queue(&notes).tiles().count(), None);
    }

    #[test]
    fn an_object_is_purged_after_each_publish_even_if_no_tile_changed() {
        let notes = Arc::new(MemoryNotes::default());
        let queues = ["x https://h/", "x https://h/a.pmtiles"].map(str::to_owned);
        OutboxWriter { queues: queues.to_vec(), ..writer(&notes, 1) }.stored(&changed(rects(""))).unwrap();
        let outbox = Outbox::read(&*notes).unwrap();
        assert!(!outbox.queues.contains_key(&queues[0]));
        let entry = &outbox.queues[&queues[1]].waiting[0];
        assert_eq!((entry.tiles.as_ref().unwrap().count(), &entry.documents), (0, &vec![String::new()]));
        OutboxWriter { queues: queues.to_vec(), ..writer(&notes, 2) }.stored(&PublishedTiles::default()).unwrap();
        let documents =
            queues.map(|name| Outbox::read(&*notes).unwrap().queues[&name].waiting.last().unwrap().documents.join(" "));
        assert_eq!(documents, ["tiles.json", ""]);
    }

    #[test]
    fn many_entries_are_merged_and_no_tile_is_lost() {
        let mut queue = PurgeQueue::default();
        for number in 0..100 {
            let tiles = rects(&format!("10/{number}/7"));
            queue.add(OutboxEntry::new(number, format!("{number:032}"), Some(tiles), vec!["tiles.json".to_owned()]));
        }
        assert_eq!((queue.waiting.len(), queue.tiles().count()), (16, Some(100)));
        assert!(queue.waiting.iter().all(|entry| entry.id.len() < 80 && entry.documents.len() == 1));
        assert_eq!(queue.ready(Some(50)).len(), 0, "a merger waits for its newest publication");
        assert_eq!(queue.ready(Some(99)).len(), 16);
        // More rectangles than a list may have: everything.
        let scattered =
            TileRectList::of((0..8_000).map(|n| format!("20/{}/{}", n * 3, n * 5).parse().unwrap())).unwrap();
        let more = TileRectList::of((0..8_000).map(|n| format!("19/{}/{}", n * 3, n * 5).parse().unwrap())).unwrap();
        let entry = |tiles| OutboxEntry::new(1, String::new(), Some(tiles), Vec::new());
        assert_eq!(entry(scattered).merged(entry(more)).tiles, None);
    }

    #[test]
    fn two_writers_do_not_lose_each_others_entries() {
        let notes = Arc::new(MemoryNotes::default());
        let mut other = Outbox::default();
        other.queues.entry("a".to_owned()).or_default().add(OutboxEntry::new(7, "other".to_owned(), None, Vec::new()));
        notes.before_write.lock().push(other);
        writer(&notes, 8).stored(&changed(rects("1/0/0"))).unwrap();
        let ids: Vec<String> = queue(&notes).waiting.into_iter().map(|entry| entry.id).collect();
        assert_eq!(ids, ["other", "id8"]);
    }

    #[test]
    fn what_cannot_be_understood_is_not_forgotten() {
        let notes = Arc::new(MemoryNotes::default());
        notes.write(OUTBOX, b"{\"queues\": 7}", &WriteCondition::Always).unwrap();
        let error = Outbox::read(&*notes).unwrap_err().to_string();
        assert!(error.contains("purge --all"), "{error}");
        writer(&notes, 1).stored(&PublishedTiles::default()).unwrap_err();
    }

    #[test]
    fn an_orphan_is_sent_after_an_hour() {
        let mut queue = PurgeQueue::default();
        queue.add(OutboxEntry { time: seconds_now() - 3_700, ..OutboxEntry::new(9, "x".to_owned(), None, Vec::new()) });
        assert_eq!(queue.ready(Some(1)).len(), 1, "the target was removed, and its successor counts from 1");
    }
}
