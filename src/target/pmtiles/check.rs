//! Checks the rules of `pmtiles verify` (go-pmtiles), and more rules of the specification.

use std::sync::Arc;

use super::layout::{Entry, HEADER_LENGTH, Header, ROOT_END};
use super::read::{PmtilesReader, sections};
use crate::target::compare::Handover;
use crate::target::metadata::DEAD_BYTES_KEY;
use crate::target::{ReadError, TileReader as _};
use crate::tile::{TileCoord, TileId};

/// The sums over all entries.
#[derive(Default)]
struct Sums {
    addressed: u64,
    entries: u64,
    /// The offset and length of each entry's content; repetitions are removed at the end.
    contents: Vec<(u64, u32)>,
    first: Option<u64>,
    last: Option<u64>,
    /// The offset of the next new content, if the archive is clustered.
    next: u64,
    /// The number of entries that jump ahead (0 in a clustered archive), and the tile id of the first.
    jumps: u64,
    jump: Option<u64>,
    /// The number of entries outside of the tile data, and the tile id of the first.
    outside: u64,
    stray: Option<u64>,
}

impl PmtilesReader {
    /// The rules that the archive breaks, each as a sentence; empty if it breaks none. Takes sixteen bytes of memory
    /// for each entry.
    /// Fails if the archive cannot be read. Damage is not an error: it is listed among the broken rules.
    pub fn check(&mut self) -> Result<Vec<String>, ReadError> {
        let mut broken = Vec::new();
        check_sections(&self.header, self.bytes.length(), &mut broken);
        check_place_on_the_map(&self.header, &mut broken);
        let mut dead = None;
        match self.metadata() {
            Ok(metadata) => {
                if !metadata.get("vector_layers").is_some_and(serde_json::Value::is_array) {
                    broken.push("The metadata has no list vector_layers, which vector tiles need.".to_owned());
                }
                let stated = metadata.get(DEAD_BYTES_KEY).filter(|_| !self.header.clustered);
                dead = stated.and_then(serde_json::Value::as_u64);
            }
            Err(ReadError::Damaged { what, .. }) => broken.push(sentence(&what)),
            Err(error) => return Err(error),
        }
        let mut sums = Sums::default();
        let walked = self.walk(&mut |archive, entry| {
            let end = entry.offset.saturating_add(entry.length.into());
            if end > archive.header.tiles.length {
                sums.outside += 1;
                sums.stray.get_or_insert(entry.id);
            }
            if entry.offset > sums.next {
                sums.jumps += 1;
                sums.jump.get_or_insert(entry.id);
            }
            sums.next = sums.next.max(end);
            sums.addressed = sums.addressed.saturating_add(entry.run.into());
            sums.entries += 1;
            sums.contents.push((entry.offset, entry.length));
            sums.first.get_or_insert(entry.id);
            sums.last = Some(entry.id + u64::from(entry.run) - 1);
            Ok(())
        });
        match walked {
            Ok(()) => check_sums(&self.header, sums, dead, &mut broken),
            Err(ReadError::Damaged { what, .. }) => broken.push(sentence(&what)),
            Err(error) => return Err(error),
        }
        Ok(broken)
    }
}

fn check_sections(header: &Header, length: u64, broken: &mut Vec<String>) {
    for (what, section) in sections(header) {
        if section.offset == 0 {
            broken.push(format!("The {what} is said to begin at byte 0, where the header is."));
        }
    }
    let mut sections: Vec<_> = sections(header).into_iter().filter(|(_, section)| section.length > 0).collect();
    sections.sort_by_key(|(_, section)| section.offset);
    for pair in sections.windows(2) {
        if pair[0].1.end().is_none_or(|end| end > pair[1].1.offset) {
            broken.push(format!("The {} overlaps the {}.", pair[0].0, pair[1].0));
        }
    }
    if header.root.end().is_none_or(|end| end > ROOT_END as u64) {
        broken.push(format!("The root directory ends beyond the first {ROOT_END} bytes."));
    }
    let rest = u128::from(header.metadata.length) + u128::from(header.leaves.length) + u128::from(header.tiles.length);
    let tight = HEADER_LENGTH as u128 + u128::from(header.root.length) + rest;
    let padded = ROOT_END as u128 + rest;
    if ![tight, padded].contains(&length.into()) {
        broken.push(format!(
            "The archive has {length} bytes, but its sections add up to {tight}, or {padded} with a padded root directory."
        ));
    }
}

fn check_place_on_the_map(header: &Header, broken: &mut Vec<String>) {
    let (min, center, max) = (header.min_zoom, header.center_zoom, header.max_zoom);
    if !(min..=max).contains(&center) {
        broken.push(format!("The zoom {center} of the center is not one of the zooms {min} to {max}."));
    }
    let [west, south, east, north] = header.bounds;
    if west >= east || south >= north {
        broken.push("The bounds have no area: maps may show nothing.".to_owned());
    }
}

fn check_sums(header: &Header, mut sums: Sums, dead: Option<u64>, broken: &mut Vec<String>) {
    sums.contents.sort_unstable();
    sums.contents.dedup_by_key(|(offset, _)| *offset);
    for (what, stated, found) in [
        ("addressed tiles", header.addressed, sums.addressed),
        ("tile entries", header.entries, sums.entries),
        ("tile contents", header.contents, sums.contents.len() as u64),
    ] {
        if stated != found {
            broken.push(format!("The header counts {stated} {what}, but there are {found}."));
        }
    }
    for (what, stated, id) in [("shallowest", header.min_zoom, sums.first), ("deepest", header.max_zoom, sums.last)] {
        match id.map(TileCoord::from_pmtiles_id) {
            Some(Some(tile)) if tile.zoom().get() != stated => {
                broken.push(format!("The header names {stated} as the {what} zoom, but it is {}.", tile.zoom()));
            }
            Some(None) => broken.push("Some tile ids lie beyond zoom 22, the deepest that is read.".to_owned()),
            Some(Some(_)) | None => {}
        }
    }
    let live: u64 = sums.contents.iter().map(|(_, length)| u64::from(*length)).sum();
    if let Some(stated) = dead
        && header.tiles.length.checked_sub(live) != Some(stated)
    {
        let (length, entries) = (header.tiles.length, sums.entries);
        broken.push(format!(
            "The metadata counts {stated} bytes that belong to no tile, but of {length} bytes of tile data the contents of {entries} entries take {live}."
        ));
    }
    if let Some(id) = sums.stray {
        broken.push(format!("{} entries lie outside of the tile data, first that of tile id {id}.", sums.outside));
    }
    if let Some(id) = sums.jump.filter(|_| header.clustered) {
        broken.push(format!(
            "The archive says that it is clustered, but {} entries are out of order, first that of tile id {id}.",
            sums.jumps
        ));
    }
}

/// Turns a finding into a sentence of its own.
fn sentence(what: &str) -> String {
    let mut letters = what.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str() + ".")
}

// The walk over an archive: the entries of its tiles one by one, leaf after leaf, in the order of their ids.

/// The state of a walk over an archive's directories.
///
/// The walk fails where ids do not ascend, within a directory or from one to the next. So it never walks a directory
/// twice, wherever the pointers lead, and ends.
pub(crate) struct Walk {
    levels: Vec<DirectoryLevel>,
    /// The smallest id that may still come.
    floor: u64,
    /// The number of entries of tiles so far.
    count: u64,
}

/// A directory on the path from the root to the current entry.
struct DirectoryLevel {
    entries: Arc<[Entry]>,
    next: usize,
    /// The first id after this directory.
    end: u64,
}

impl Walk {
    /// Begins at the first tile.
    pub(crate) fn of(archive: &PmtilesReader) -> Walk {
        Walk {
            levels: vec![DirectoryLevel { entries: Arc::clone(&archive.root), next: 0, end: u64::MAX }],
            floor: 0,
            count: 0,
        }
    }

    /// The next entry of a tile; `None` after the last.
    pub(crate) fn next(&mut self, archive: &mut PmtilesReader) -> Result<Option<Entry>, ReadError> {
        loop {
            let depth = self.levels.len();
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let Some(entry) = level.entries.get(level.next).copied() else {
                self.levels.pop();
                continue;
            };
            level.next += 1;
            let end = level.entries.get(level.next).map_or(level.end, |next| next.id);
            let behind = entry.id.saturating_add(entry.run.into());
            if entry.id < self.floor || behind > end {
                return Err(archive.damaged(format!("tile id {} lies in two of its directories", entry.id)));
            }
            if entry.run > 0 {
                self.floor = behind;
                self.count += 1;
                if self.count > archive.max_tiles() {
                    return Err(archive.too_many());
                }
                return Ok(Some(entry));
            }
            self.floor = entry.id;
            let entries = archive.leaf(&entry, depth)?;
            self.levels.push(DirectoryLevel { entries, next: 0, end });
        }
    }
}

/// A walk that cuts the runs of entries at tiles that are edited.
pub(crate) struct CutWalk {
    walk: Walk,
    /// The next entry, or the rest of it.
    ahead: Option<Entry>,
}

impl CutWalk {
    /// Begins at the first tile.
    pub(crate) fn of(archive: &mut PmtilesReader) -> Result<CutWalk, ReadError> {
        let mut walk = Walk::of(archive);
        let ahead = walk.next(archive)?;
        Ok(CutWalk { walk, ahead })
    }

    /// The next entry of tiles before the tile `id`; `None` after the last of them.
    pub(crate) fn before(&mut self, archive: &mut PmtilesReader, id: u64) -> Result<Option<Entry>, ReadError> {
        let Some(entry) = self.ahead.filter(|entry| entry.id < id) else { return Ok(None) };
        let before = u32::try_from(id - entry.id).unwrap_or(u32::MAX).min(entry.run);
        self.cut(archive, entry, before).map(Some)
    }

    /// The entry of the tile `id`; `None` if the archive lacks it. All tiles before it were walked past.
    pub(crate) fn at(&mut self, archive: &mut PmtilesReader, id: u64) -> Result<Option<Entry>, ReadError> {
        let Some(entry) = self.ahead.filter(|entry| entry.id == id) else { return Ok(None) };
        self.cut(archive, entry, 1).map(Some)
    }

    /// Goes on behind the first `run` tiles of the entry ahead, and returns these.
    fn cut(&mut self, archive: &mut PmtilesReader, entry: Entry, run: u32) -> Result<Entry, ReadError> {
        let rest = entry.run - run;
        self.ahead = if rest > 0 {
            Some(Entry { id: entry.id + u64::from(run), run: rest, ..entry })
        } else {
            self.walk.next(archive)?
        };
        Ok(Entry { run, ..entry })
    }
}

impl PmtilesReader {
    /// Calls `visit` with each entry of a tile, in the order of the ids.
    pub(crate) fn walk(
        &mut self,
        visit: &mut dyn FnMut(&PmtilesReader, &Entry) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let mut walk = Walk::of(self);
        while let Some(entry) = walk.next(self)? {
            visit(self, &entry)?;
        }
        Ok(())
    }

    /// Passes every tile to `handover`, in the order of the ids, until it wants no more.
    pub(crate) fn hand_over(mut self, handover: &mut Handover) -> Result<(), ReadError> {
        let mut walk = Walk::of(&self);
        while let Some(entry) = walk.next(&mut self)? {
            let Some(first) = TileCoord::from_pmtiles_id(entry.id) else { return Err(self.too_deep(entry.id)) };
            let bytes = self.read(&[TileId::from(first)])?.into_iter().next().flatten().unwrap_or_default();
            for id in entry.id..entry.id + u64::from(entry.run) {
                if !handover.give(id, bytes.clone()) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
