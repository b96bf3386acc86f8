//! Publications: which tiles each change of a target has changed, for readers that keep copies of tiles.
//!
//! A run that publishes gives its manifest a [`Publication`], and leaves the list of its changed tiles in a note that
//! is kept with the target ([`ChangeLists`]), before the manifest becomes visible:
//!
//! ```text
//!  intent: which tiles may change ─► tiles ─► list: which did change ─► manifest names the publication
//!  (durable, in the target's own     durable  (BeforeManifest)
//!   notes; archives need none)
//! ```
//!
//! Readers lose no change, even if a run is killed at any point:
//! - Before the manifest is replaced, a reader is still at the previous publication. The next run finds the intent and
//!   adds its tiles to its own list. If the intent has no list of tiles, the next run declares that everything changed.
//! - A list that no manifest names is never read: readers start at the manifest's publication and go back through the
//!   lists, each of which gives the id of the previous publication.
//! - If the lists between the manifest's publication and the one that a reader knows have a gap, the reader counts
//!   every tile as changed. So a list that is lost, damaged, too old or written by another program costs a reader its
//!   cache, and does no other harm. The same holds for an archive that was replaced by a copy, and for clients that
//!   were switched to another version: the lists do not lead from one manifest to the other.
//!
//! The lists of an archive lie next to it, not in it, for three reasons: a list is useful only to readers that already
//! had the archive open, archives are passed on to other people, and the same code serves all kinds of targets. An edit
//! of an archive is atomic, so it needs no intent. A run that replaces an archive leaves no list: its readers open the
//! new file.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::changed::ChangedTiles;
use super::disk_list::ScratchError;
use super::note_store::{NoteError, NoteStore, WriteCondition};
use crate::clock::milliseconds_now;
use crate::manifest::Publication;
use crate::tile::TileRectList;

/// The name of the note with the lists.
const CHANGES: &str = "changes.json";

/// The most lists that are kept.
const MAX_LISTS: usize = 100;

/// How long a list is kept once a later one was written, in milliseconds.
const MAX_AGE_OF_LISTS: u64 = 600_000;

/// The approximate limit for the bytes of all lists together: they are all written again at each publication. The
/// newest list is always kept.
const MAX_BYTES_OF_LISTS: usize = 256 << 10;

/// The most attempts to write the lists if another run writes them at the same time, which only happens where there is
/// no lock.
const MAX_ATTEMPTS: u32 = 3;

/// Receives the changes of a run after its last tile is stored and before its manifest becomes visible: only then are
/// they known and not yet visible to any reader.
///
/// If it fails, the run fails, and its manifest stays the old one.
pub trait BeforeManifest: Send + Sync + fmt::Debug {
    /// Receives what changed. Called on a thread that may block.
    /// Fails if what has to be durable before the manifest cannot be written.
    fn stored(&self, stored: &PublishedTiles) -> Result<(), BeforeManifestError>;
}

/// The changes of a run. The lists may contain more: they also have the tiles that interrupted runs may have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublishedTiles {
    /// The tiles that were written or deleted; `None` if everything counts as changed.
    pub changed: Option<TileRectList>,
    /// Of these, the tiles that the target did not hold before; `None` if that is not known.
    pub added: Option<TileRectList>,
}

/// Why a run may not publish its manifest.
#[derive(Debug, thiserror::Error)]
pub enum BeforeManifestError {
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The list of changed tiles cannot be read back.
    #[error(transparent)]
    ScratchList(#[from] ScratchError),
}

/// Passes the changed tiles of a run to all listeners.
pub(crate) fn tell(
    listeners: &[Arc<dyn BeforeManifest>],
    changed: Option<&ChangedTiles>,
) -> Result<(), BeforeManifestError> {
    if listeners.is_empty() {
        return Ok(());
    }
    let stored = PublishedTiles {
        added: changed.map_or(Ok(None), ChangedTiles::new_rects)?,
        changed: changed.map_or(Ok(None), ChangedTiles::rects)?,
    };
    listeners.iter().try_for_each(|listener| listener.stored(&stored))
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeList {
    #[serde(flatten)]
    pub publication: Publication,
    /// The id of the publication before it.
    pub before: String,
    /// When the list was written, in milliseconds since 1970 (UTC).
    pub time: u64,
    pub tiles: TileRectList,
}

/// The lists of the last publications of a target, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeLists {
    lists: Vec<ChangeList>,
}

impl ChangeLists {
    /// The lists that are kept with a target; none if the note is missing or damaged. May wait for a disk or a server.
    pub fn read(notes: &dyn NoteStore) -> Result<ChangeLists, NoteError> {
        let note = match notes.read(CHANGES) {
            Err(NoteError::TooLong { .. }) => None,
            read => read?,
        };
        Ok(note.map_or_else(ChangeLists::default, |note| ChangeLists::parse(&note.body)))
    }

    fn parse(body: &[u8]) -> ChangeLists {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// The lists that lead from one publication to another, oldest first; `None` if there is a gap between them.
    pub fn between(&self, from: &Publication, to: &Publication) -> Option<Vec<&ChangeList>> {
        let (mut way, mut id) = (Vec::new(), &to.id);
        while *id != from.id {
            let list = self.lists.iter().find(|list| list.publication.id == *id)?;
            way.push(list);
            id = &list.before;
            // Lists that another program wrote may lead in a circle.
            if way.len() > self.lists.len() {
                return None;
            }
        }
        way.reverse();
        Some(way)
    }

    /// The tiles that changed from one publication to another; `None` if that is not known, so that everything counts
    /// as changed.
    pub fn tiles_between(&self, from: &Publication, to: &Publication) -> Option<TileRectList> {
        match &*self.between(from, to)? {
            [only] => Some(only.tiles.clone()),
            way => TileRectList::union(way.iter().map(|list| &list.tiles)),
        }
    }

    /// Adds the newest list, and removes lists that exceed the limits of number, size and age.
    fn add(&mut self, list: ChangeList) {
        let (now, mut bytes) = (list.time, 0_usize);
        self.lists.push(list);
        let newest = self.lists.len() - 1;
        let from = self.lists.iter().enumerate().rev().take(MAX_LISTS).take_while(|(number, list)| {
            bytes = bytes.saturating_add(list.tiles.rects().len().saturating_mul(24));
            let is_young = now.saturating_sub(list.time) <= MAX_AGE_OF_LISTS;
            *number == newest || is_young && bytes <= MAX_BYTES_OF_LISTS
        });
        let first = from.last().map_or(newest, |(number, _)| number);
        self.lists.drain(..first);
    }
}

/// Stores the list of a run's changed tiles with its target. If that fails, the run goes on, and readers find a gap.
#[derive(Debug)]
pub struct ChangeListWriter {
    /// Where the lists are kept.
    pub notes: Arc<dyn NoteStore>,
    /// The publication before this run.
    pub before: Option<Publication>,
    pub publication: Publication,
}

impl ChangeListWriter {
    fn write(&self, tiles: &TileRectList) -> Result<(), NoteError> {
        let mut attempt = 1;
        loop {
            let note = match self.notes.read(CHANGES) {
                Err(NoteError::TooLong { .. }) => {
                    self.notes.remove(CHANGES)?;
                    None
                }
                read => read?,
            };
            let mut lists = note.as_ref().map_or_else(ChangeLists::default, |note| ChangeLists::parse(&note.body));
            lists.add(ChangeList {
                publication: self.publication.clone(),
                before: self.before.as_ref().map_or_else(String::new, |before| before.id.clone()),
                time: milliseconds_now(),
                tiles: tiles.clone(),
            });
            // Plain data can always be serialized.
            let body = serde_json::to_vec(&lists).unwrap_or_default();
            let condition = note.map_or(WriteCondition::Absent, |note| WriteCondition::Unchanged(note.tag));
            match self.notes.write(CHANGES, &body, &condition) {
                Err(NoteError::Changed { .. }) if attempt < MAX_ATTEMPTS => attempt += 1,
                written => return written.map(drop),
            }
        }
    }
}

impl BeforeManifest for ChangeListWriter {
    fn stored(&self, stored: &PublishedTiles) -> Result<(), BeforeManifestError> {
        // Without a previous publication no reader could use the list.
        let done = match (&stored.changed, &self.before) {
            (Some(tiles), Some(_)) => self.write(tiles),
            // The lists that exist do not lead to the new publication.
            _ => self.notes.remove(CHANGES),
        };
        if let Err(error) = done {
            let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(" ({cause})"));
            tracing::warn!("servers of this target will forget all tiles that they have cached: {error}{cause}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{TileCoord, Zoom};

    fn publication(number: u64) -> Publication {
        Publication { number, id: format!("id{number}") }
    }

    fn list(number: u64, written: u64, column: u32) -> ChangeList {
        let tile = TileCoord::new(Zoom::new(10).unwrap(), column, 7).unwrap();
        let (before, tiles) = (format!("id{}", number - 1), TileRectList::of([tile]).unwrap());
        ChangeList { publication: publication(number), before, time: written, tiles }
    }

    fn lists(numbers: std::ops::RangeInclusive<u64>) -> ChangeLists {
        let mut lists = ChangeLists::default();
        numbers.for_each(|number| lists.add(list(number, number, u32::try_from(number).unwrap())));
        lists
    }

    #[test]
    fn the_way_from_one_publication_to_another_has_every_list_or_is_a_gap() {
        let lists = lists(3..=6);
        let tiles = |from, to| lists.tiles_between(&publication(from), &publication(to)).map(|tiles| tiles.to_string());
        assert_eq!(tiles(2, 6).as_deref(), Some("10/3-6/7"));
        assert_eq!(tiles(4, 5).as_deref(), Some("10/5/7"));
        assert_eq!(tiles(6, 6).as_deref(), Some(""));
        assert_eq!(tiles(1, 6), None, "older than the lists");
        assert_eq!(tiles(6, 4), None, "an older copy was put back");
        assert_eq!(tiles(6, 7), None, "a list is missing");
        let elsewhere = Publication { id: "other".to_owned(), ..publication(4) };
        assert_eq!(lists.tiles_between(&elsewhere, &publication(6)), None, "another archive of the same name");
    }

    #[test]
    fn lists_are_kept_by_number_age_and_size() {
        assert_eq!(lists(1..=150).lists.len(), 100);
        let mut old = lists(1..=3);
        old.add(list(4, MAX_AGE_OF_LISTS + 2, 4));
        assert_eq!(old.lists.iter().map(|list| list.publication.number).collect::<Vec<_>>(), [2, 3, 4]);
        let mut large = lists(1..=3);
        let every_second = (0..8_192_u32).filter_map(|x| TileCoord::new(Zoom::new(14)?, 2 * x, x));
        let wide = ChangeList { tiles: TileRectList::of(every_second).unwrap(), ..list(4, 4, 4) };
        large.add(wide.clone());
        large.add(ChangeList { publication: publication(5), before: "id4".to_owned(), ..wide });
        assert_eq!(large.lists.len(), 1, "the newest stays however large it is");
        let body = serde_json::to_vec(&large).unwrap();
        assert!(body.len() < crate::target::note_store::MAX_KEPT_NOTE, "{}", body.len());
        assert_eq!(ChangeLists::parse(&body), large);
    }

    #[test]
    fn damaged_lists_and_lists_in_a_circle_are_gaps() {
        for body in [
            "",
            "{}",
            "[]",
            "{\"lists\":[{}]}",
            "{\"lists\":[{\"number\":1,\"id\":\"a\",\"before\":\"b\",\"time\":1,\"tiles\":\"99/1/1\"}]}",
        ] {
            assert_eq!(ChangeLists::parse(body.as_bytes()), ChangeLists::default(), "{body}");
        }
        let circle = ChangeLists {
            lists: vec![
                ChangeList { before: "id2".to_owned(), ..list(1, 1, 1) },
                ChangeList { before: "id1".to_owned(), ..list(2, 2, 2) },
            ],
        };
        assert_eq!(circle.between(&publication(7), &publication(2)), None);
    }
}
