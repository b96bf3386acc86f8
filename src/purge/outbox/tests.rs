//! Tests of the outbox: kills between any two steps, and several writers.

use std::sync::Mutex;

use super::*;
use crate::purge::queue::MAX_LEFT_NAMES;
use crate::purge::{ItemKind, PurgeName, Rebound, SentEntries};
use crate::sink::KeptNote;
use crate::tile::TileCoord;

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
        Ok(self.notes.lock().unwrap().get(name).cloned())
    }

    fn write(&self, name: &str, body: &[u8], condition: &NoteCondition) -> Result<String, NoteError> {
        let mut notes = self.notes.lock().unwrap();
        let note = |body: &[u8]| KeptNote { body: body.to_vec(), tag: format!("{:?}", String::from_utf8_lossy(body)) };
        if let Some(other) = self.before_write.lock().unwrap().pop() {
            notes.insert(name.to_owned(), note(&serde_json::to_vec(&other).unwrap()));
        }
        let found = notes.get(name).map(|note| note.tag.clone());
        let holds = match condition {
            NoteCondition::Always => true,
            NoteCondition::Absent => found.is_none(),
            NoteCondition::Unchanged(tag) => found.as_ref() == Some(tag),
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
        self.notes.lock().unwrap().remove(name);
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
    let scattered = TileRectList::of((0..8_000).map(|n| format!("20/{}/{}", n * 3, n * 5).parse().unwrap())).unwrap();
    let more = TileRectList::of((0..8_000).map(|n| format!("19/{}/{}", n * 3, n * 5).parse().unwrap())).unwrap();
    let entry = |tiles| OutboxEntry::new(1, String::new(), Some(tiles), Vec::new());
    assert_eq!(entry(scattered).merged(entry(more)).tiles, None);
}

#[test]
fn two_writers_do_not_lose_each_others_entries() {
    let notes = Arc::new(MemoryNotes::default());
    let mut other = Outbox::default();
    other.queues.entry("a".to_owned()).or_default().add(OutboxEntry::new(7, "other".to_owned(), None, Vec::new()));
    notes.before_write.lock().unwrap().push(other);
    writer(&notes, 8).stored(&changed(rects("1/0/0"))).unwrap();
    let ids: Vec<String> = queue(&notes).waiting.into_iter().map(|entry| entry.id).collect();
    assert_eq!(ids, ["other", "id8"]);
}

#[test]
fn what_cannot_be_understood_is_not_forgotten() {
    let notes = Arc::new(MemoryNotes::default());
    notes.write(OUTBOX, b"{\"queues\": 7}", &NoteCondition::Always).unwrap();
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
