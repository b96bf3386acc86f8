//! Cached rows that are brought from snapshot to snapshot: the rows as they were read, the numbers of those that went,
//! and the rows that came, each with its place in the order of the keys.
//!
//! ```text
//!  rows as read    0   1   2   3   4        drawn: 0  a  1  3  4  b
//!  went                    2
//!  came            a before 1, b before 5
//! ```
//!
//! Each step reads the rows at changed positions and writes the rows that came anew, so it costs as much as what
//! changed since they were joined with the rows as read. That begins once 50,000, or a fiftieth, have come or gone. It
//! takes longer than a step, so the steps go on meanwhile, and what they changed is carried over in the end.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::ambiguous::KnownPlaces;
use super::facets::{FacetIndex, FacetIndexBuilder, Renumbering};
use super::matching_set::{RowPlaces, RowsVersion};
use super::rows_in_file::{FeatureSource, RowFeatures};
use super::{CachedRows, EncodedRows, NOT_DRAWN, RowStore};
use crate::mvt::{FeatureKey, FeatureKeyValue, Features};
use crate::postgis::Facet;
use crate::tile::{Candidate, Frame, Positions, WorldRect};

/// What came and went since rows were read.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowChanges {
    /// A bit for each row as read: it went.
    went: Vec<u64>,
    gone: usize,
    /// The rows that came, in the order of their keys.
    pub(crate) added: EncodedRows,
    /// For each of them, the number of the first row as read that follows it.
    before: Vec<u32>,
    /// For each of them, its serial number among all rows that came since the rows were read or joined.
    pub(crate) serials: Vec<u32>,
    pub(crate) version: RowsVersion,
    /// Where ambiguous points of this state are drawn.
    known: Arc<KnownPlaces>,
}

impl RowChanges {
    /// The memory in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.went[..])
            + size_of_val(&self.before[..])
            + size_of_val(&self.serials[..])
            + self.added.bytes()
    }

    /// The number of rows now, of which `read` are those as read.
    pub(crate) fn count(&self, read: &EncodedRows) -> usize {
        read.positions.len() - self.gone + self.added.positions.len()
    }

    /// Nothing changed since rows were read or joined.
    fn none() -> Arc<RowChanges> {
        Arc::new(RowChanges { version: RowsVersion::begin(), ..RowChanges::default() })
    }

    /// True if no row as read has gone.
    pub(crate) fn have_all(&self) -> bool {
        self.gone == 0
    }

    pub(crate) fn has_gone(&self, number: u32) -> bool {
        self.went.get(number as usize / 64).is_some_and(|bits| bits & 1 << (number % 64) != 0)
    }

    fn remove(&mut self, number: u32) {
        if self.has_gone(number) {
            return;
        }
        let word = number as usize / 64;
        self.went.resize(self.went.len().max(word + 1), 0);
        self.went[word] |= 1 << (number % 64);
        self.gone += 1;
    }

    /// Removes the candidates of rows that went, and adds those of rows that came, which get the numbers after the last
    /// row as read. Both are sorted by tile and row, and so is the result.
    pub(crate) fn apply(&self, candidates: &mut Vec<Candidate>, read: &Positions, added: Vec<Candidate>) {
        candidates.retain(|candidate| !self.has_gone(candidate.number));
        if added.is_empty() {
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "rows have numbers of 32 bits")]
        let first = read.len() as u32;
        candidates.extend(added.into_iter().map(|one| Candidate { number: first + one.number, ..one }));
        let place = |number: u32| match number.checked_sub(first) {
            None => (number, u32::MAX),
            Some(added) => (self.before[added as usize], added),
        };
        // Joins two sorted runs.
        candidates.sort_by_key(|candidate| (candidate.tile, place(candidate.number)));
    }
}

/// The rows of a layer on a snapshot, which can be brought to a later one. Each row has a key, in its feature or behind
/// it.
#[derive(Debug)]
pub(crate) struct KeptFeatures {
    key: FeatureKey,
    read: Arc<EncodedRows>,
    changes: Arc<RowChanges>,
    /// The rows by the values of the layer's facets; `None` if these are not known.
    facets: Option<Arc<FacetIndex>>,
    /// Held by each user of the rows as read.
    users: Arc<()>,
}

/// The rows as read joined with what changed until then. Steps that were taken meanwhile are not among it.
#[derive(Debug)]
pub(crate) struct JoinedRows {
    /// What was joined.
    read: Arc<EncodedRows>,
    changes: Arc<RowChanges>,
    joined: EncodedRows,
    /// The new number of each row as read; [`NOT_DRAWN`] for one that went.
    of_read: Vec<u32>,
    /// The new number of each row that had come, by its serial number.
    of_came: HashMap<u32, u32>,
    facets: Option<Arc<FacetIndex>>,
    version: RowsVersion,
}

/// Rows of two lists, in the order of their keys.
struct MergedRows {
    at: Vec<[f64; 2]>,
    features: Features,
    /// For each its number in the first list, if it is from there.
    of_first: Vec<Option<u32>>,
}

/// Two lists of rows, and which rows of each stay; all do without a list.
type RowParts<'a> = [(&'a EncodedRows, Option<&'a Vec<bool>>); 2];

/// The most rows that came or went before both are joined with the rows as read, unless a fiftieth of these is more.
/// Tests of a server have fewer rows.
const MAX_CHANGED_ROWS: usize = match (cfg!(test), cfg!(debug_assertions)) {
    (true, _) => 50,
    (false, true) => 300,
    (false, false) => 50_000,
};

/// The number of rows whose features are looked for in a scratch file together, where all of it is read.
const ROWS_AT_A_TIME: usize = 16_384;

/// Rows that cannot be joined, because there is no room for both, are read anew once this many times more have changed.
const MAX_OVERDUE: usize = 4;

impl KeptFeatures {
    /// Keeps cached rows, of which features may be in a scratch file, but nothing else. `None` if more is, or the rows
    /// are not in the order of their keys.
    pub(crate) fn new(rows: CachedRows, key: FeatureKey) -> Option<KeptFeatures> {
        let RowStore::Memory(rows) = rows.rows else { return None };
        if rows.numbers.is_some() || !are_in_order(rows.features.keyed(), &key) {
            return None;
        }
        let users = Arc::default();
        Some(KeptFeatures { key, read: Arc::new(rows), changes: RowChanges::none(), facets: None, users })
    }

    /// Keeps rows at some positions in metres. `None` if they are not in the order of their keys.
    #[cfg(test)]
    pub(crate) fn of_rows(at: Vec<[f64; 2]>, features: Features, key: FeatureKey) -> Option<KeptFeatures> {
        if at.len() != features.len() {
            return None;
        }
        KeptFeatures::new(CachedRows::of_rows(at, features), key)
    }

    /// The rows as they are now, in the order of their keys: for each the list that holds it, and its number there.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = (&EncodedRows, u32)> {
        let RowChanges { before, added, .. } = &*self.changes;
        let rows = count(&self.read);
        let mut came = (0..count(added)).peekable();
        let mut read = (0..rows).filter(|number| !self.changes.has_gone(*number)).peekable();
        std::iter::from_fn(move || {
            let next = read.peek().copied().unwrap_or(rows);
            // A row that came precedes the first row as read that follows it, also if that one went.
            match came.next_if(|number| before[*number as usize] <= next) {
                Some(number) => Some((added, number)),
                None => read.next().map(|number| (&*self.read, number)),
            }
        })
    }

    /// The same rows in the Z-order of their positions, those at one position in the order of their keys.
    pub(crate) fn in_z_order(&self) -> impl Iterator<Item = (&EncodedRows, u32)> {
        let RowChanges { before, added, .. } = &*self.changes;
        let place = |rows: &EncodedRows, number| rows.positions.at(number).map(|at| Frame::Metres.z_order(at));
        let mut came = added.positions.in_z_order().iter().copied().peekable();
        let read = self.read.positions.in_z_order().iter().copied();
        let mut read = read.filter(|number| !self.changes.has_gone(*number)).peekable();
        std::iter::from_fn(move || {
            let next = read.peek().map(|number| (place(&self.read, *number), *number));
            let is_next =
                |number: &u32| next.is_none_or(|next| (place(added, *number), before[*number as usize]) <= next);
            match came.next_if(is_next) {
                Some(number) => Some((added, number)),
                None => read.next().map(|number| (&*self.read, number)),
            }
        })
    }

    /// Calls `each` with the encoded features of the rows in the Z-order of their positions. Fails if features cannot be
    /// read from their scratch file.
    pub(crate) fn each_feature_in_z_order(&self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut rows = self.in_z_order();
        let encoded = |(rows, number): (&EncodedRows, u32), each: &mut dyn FnMut(&[u8]) -> io::Result<()>| {
            each(rows.features.in_memory().and_then(|features| features.encoded(number)).unwrap_or_default())
        };
        let RowFeatures::File(file) = &self.read.features else {
            return rows.try_for_each(|row| encoded(row, &mut each));
        };
        loop {
            let some: Vec<(&EncodedRows, u32)> = rows.by_ref().take(ROWS_AT_A_TIME).collect();
            if some.is_empty() {
                return Ok(());
            }
            let in_file =
                |(rows, number): &(&EncodedRows, u32)| std::ptr::eq(*rows, Arc::as_ptr(&self.read)).then_some(*number);
            let bytes = |row: &(&EncodedRows, u32)| in_file(row).map_or(0, |number| file.loaded_bytes(number));
            for part in file.parts(&some, bytes) {
                let read = file.loaded(&part.iter().filter_map(in_file).collect::<Vec<u32>>())?;
                let mut numbers = 0..;
                for row in part {
                    match in_file(row).and_then(|_| numbers.next()) {
                        Some(number) => each(read.encoded(number).unwrap_or_default())?,
                        None => encoded(*row, &mut each)?,
                    }
                }
            }
        }
    }

    /// The number of rows that came or went since they were read, or joined with what had changed.
    pub(crate) fn changed(&self) -> usize {
        self.changes.gone + self.changes.added.positions.len()
    }

    /// The memory in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.read.bytes() + self.changes.bytes() + self.facets.as_ref().map_or(0, |facets| facets.bytes())
    }

    /// The memory that joined rows take in addition to these while they are joined, in bytes.
    pub(crate) fn bytes_of_join(&self) -> usize {
        match &self.read.features {
            RowFeatures::Memory(_) => self.bytes(),
            RowFeatures::File(file) => {
                let rows = self.read.positions.len() + self.changes.added.positions.len();
                file.bytes_of_join(rows) + self.facets.as_ref().map_or(0, |facets| facets.bytes())
            }
        }
    }

    /// The bytes of features in a scratch file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.read.file_bytes()
    }

    /// True if features could not be read from their scratch file.
    pub(crate) fn have_failed(&self) -> bool {
        matches!(&self.read.features, RowFeatures::File(file) if file.has_failed())
    }

    /// The rows by the values of the layer's facets, if those of all rows are known.
    pub(crate) fn facets(&self) -> Option<Arc<FacetIndex>> {
        self.facets.clone().filter(|facets| facets.version == self.changes.version)
    }

    pub(crate) fn has_facets(&self) -> bool {
        self.facets.is_some()
    }

    /// The keys of the rows whose facets are not known yet. `None` if those of no row are.
    pub(crate) fn without_facets(&self) -> Option<Vec<FeatureKeyValue<'_>>> {
        self.changes.keys_since(self.facets.as_ref()?.version, &self.key)
    }

    /// Adds the facets of rows: of all, or of those that came since. `None` if there is no row.
    pub(crate) fn add_facets<'f>(&'f self, facets: &'f [Facet]) -> Option<FacetIndexBuilder<'f>> {
        let places = RowPlaces::new(&self.read, &self.changes, &self.key)?;
        Some(FacetIndexBuilder::new(places, facets, self.facets.as_deref()))
    }

    pub(crate) fn set_facets(&mut self, facets: Option<FacetIndex>) {
        self.facets = facets.map(Arc::new);
    }

    /// A layer without features whose features are encoded as those of the rows.
    pub(crate) fn form(&self) -> Features {
        self.read.features.form().emptied()
    }

    /// A number for the rows as read or joined: those that were read or joined later have a greater one.
    pub(crate) fn base(&self) -> u64 {
        self.changes.version.base()
    }

    /// The memory in use, in bytes, of the rows as read, if others keep them, too.
    pub(crate) fn shared_bytes(&self) -> usize {
        if Arc::strong_count(&self.users) > 1 { self.read.bytes() } else { 0 }
    }

    /// The same rows, for work beside the steps of their user.
    pub(crate) fn copied(&self) -> KeptFeatures {
        KeptFeatures {
            key: self.key.clone(),
            read: Arc::clone(&self.read),
            changes: Arc::clone(&self.changes),
            facets: self.facets.clone(),
            users: Arc::default(),
        }
    }

    /// The rows for others, without facets, for as long as somebody keeps the rows as read.
    pub(crate) fn offered(&self) -> OfferedFeatures {
        let (key, changes) = (self.key.clone(), Arc::clone(&self.changes));
        OfferedFeatures { key, read: Arc::downgrade(&self.read), changes, users: Arc::downgrade(&self.users) }
    }

    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        self.changes.count(&self.read)
    }

    /// The rows as they are now. Later steps do not change them.
    pub(crate) fn rows(&self) -> CachedRows {
        let (changes, known) = (Some(Arc::clone(&self.changes)), Arc::clone(&self.changes.known));
        let rows = EncodedRows { changes, known, ..(*self.read).clone() };
        CachedRows { rows: RowStore::Memory(rows), sessions: 1, near: None }
    }

    /// Replaces the rows in some squares of the world by `fresh`, all rows that are there now. Returns for each square
    /// whether tiles may show it differently now. `None` if a row is in two places, has no key, the rows take more than
    /// 4 GB, or their scratch file cannot be read; the rows must not be used after that.
    pub(crate) fn replace(&mut self, squares: &[WorldRect], fresh: CachedRows) -> Option<Vec<bool>> {
        let RowStore::Memory(fresh) = fresh.rows else { return None };
        let has_form = fresh.features.form().has_form_of(self.read.features.form());
        if !has_form || fresh.features.in_memory().is_none() {
            return None;
        }
        let mut went = RowChanges {
            went: self.changes.went.clone(),
            gone: self.changes.gone,
            known: Arc::new(self.changes.known.without(&fresh.positions)),
            ..RowChanges::default()
        };
        let added = &self.changes.added;
        let (mut stays, mut differ) = (vec![true; added.positions.len()], Vec::with_capacity(squares.len()));
        for square in squares {
            differ.push(self.differs(*square, &fresh)?);
            self.read.positions.within(*square).for_each(|number| went.remove(number));
            added.positions.within(*square).for_each(|number| stays[number as usize] = false);
        }
        let parts = [(added, Some(&stays)), (&fresh, None)];
        let (added, stayed) = self.joined(&parts)?;
        let mut changes = RowChanges { added, version: self.changes.version, ..went };
        changes.version.steps += 1;
        for stayed in stayed {
            changes.serials.push(match stayed {
                Some(number) => self.changes.serials[number as usize],
                None => changes.version.next_serial()?,
            });
        }
        changes.before = self.places(&changes)?;
        self.changes = Arc::new(changes);
        Some(differ)
    }

    /// True if tiles may show a square of the world otherwise with `fresh` rows. `None` if the scratch file cannot be
    /// read.
    fn differs(&self, square: WorldRect, fresh: &EncodedRows) -> Option<bool> {
        let numbers = self.read.positions.within(square).filter(|number| !self.changes.has_gone(*number));
        let differs = |before: Vec<ShownRow<'_>>| {
            let (mut before, added) = (before, &self.changes.added);
            before.extend(added.positions.within(square).map(|number| shown(added, number)));
            let mut now: Vec<_> = fresh.positions.within(square).map(|number| shown(fresh, number)).collect();
            before.sort_unstable();
            now.sort_unstable();
            before != now
        };
        let RowFeatures::File(file) = &self.read.features else {
            return Some(differs(numbers.map(|number| shown(&self.read, number)).collect()));
        };
        let numbers: Vec<u32> = numbers.collect();
        let with_read = |features: &Features| {
            let before = (0..).zip(&numbers);
            differs(before.map(|(row, number)| (features.encoded(row), bits_of(&self.read, *number))).collect())
        };
        // Rows that take too much memory are not compared.
        file.with(&numbers, with_read).ok().map(|differs| differs.unwrap_or(true))
    }

    /// The rows of two lists that stay, in the order of their keys, and for each its number in the first list, if it
    /// is from there. `None` if a key is missing or in both. All are in memory.
    fn joined(&self, parts: &RowParts<'_>) -> Option<(EncodedRows, Vec<Option<u32>>)> {
        let MergedRows { at, features, of_first } = self.merged(parts, &AtomicBool::new(false))?;
        Some((EncodedRows::of(Positions::new(at, Frame::Metres), features.into()), of_first))
    }

    /// The rows of two lists that stay, in the order of their keys. `None` if a key is missing or in both, or once it is
    /// given up. If features are in a file, what holds their keys takes the place of all.
    fn merged(&self, parts: &RowParts<'_>, is_given_up: &AtomicBool) -> Option<MergedRows> {
        let mut next = parts.map(|(rows, stays)| {
            let stays = move |number: &u32| stays.is_none_or(|stays| stays[*number as usize]);
            (0..count(rows)).filter(stays).peekable()
        });
        let like = &parts[1].0.features;
        let are_in_memory = parts.iter().all(|(rows, _)| rows.features.in_memory().is_some());
        let mut features = if are_in_memory { like.form().emptied() } else { Features::of_keys(&self.key, 0) };
        if are_in_memory {
            features.reserve(parts.iter().map(|(rows, _)| rows.features.keyed()));
        } else {
            features.reserve(std::iter::once(like.keyed()));
        }
        let mut at = Vec::with_capacity(parts.iter().map(|(rows, _)| rows.positions.len()).sum());
        let mut of_first = Vec::with_capacity(at.capacity());
        while !is_given_up.load(Ordering::Relaxed) {
            let mut keys = [None, None];
            for (part, next) in next.iter_mut().enumerate() {
                if let Some(number) = next.peek() {
                    keys[part] = Some(parts[part].0.features.keyed().key(*number, &self.key)?);
                }
            }
            let part = match keys {
                [None, None] => break,
                [Some(_), None] => 0,
                [None, Some(_)] => 1,
                [Some(one), Some(other)] if one.is_before(&other) => 0,
                [Some(one), Some(other)] if other.is_before(&one) => 1,
                [Some(_), Some(_)] => return None,
            };
            let (rows, number) = (parts[part].0, next[part].next()?);
            if are_in_memory {
                features.push(rows.features.keyed(), number)?;
            } else {
                features.push_key(rows.features.keyed(), number, &self.key)?;
            }
            at.push(rows.positions.at(number)?);
            of_first.push((part == 0).then_some(number));
        }
        if is_given_up.load(Ordering::Relaxed) {
            return None;
        }
        Some(MergedRows { at, features, of_first })
    }

    /// For each row that came, the number of the first row as read that follows it. `None` if a row is both among the
    /// rows as read and among those that came.
    fn places(&self, changes: &RowChanges) -> Option<Vec<u32>> {
        let (read, added) = (self.read.features.keyed(), changes.added.features.keyed());
        let (rows, came) = (count(&self.read), count(&changes.added));
        let (mut places, mut from) = (Vec::with_capacity(added.len()), 0);
        for number in 0..came {
            let key = added.key(number, &self.key)?;
            let (mut low, mut high) = (from, rows);
            while low < high {
                let middle = low + (high - low) / 2;
                if read.key(middle, &self.key)?.is_before(&key) { low = middle + 1 } else { high = middle }
            }
            // The row as read that has this key must have gone.
            if low < rows && !changes.has_gone(low) && !key.is_before(&read.key(low, &self.key)?) {
                return None;
            }
            places.push(low);
            from = low;
        }
        Some(places)
    }

    /// How often as many rows have changed as are to be joined with the rows as read.
    fn times_due(&self) -> usize {
        // Rows that change again and again leave their serial numbers behind in the facets.
        let issued = if self.facets.is_some() { self.changes.version.issued() } else { 0 };
        let most = MAX_CHANGED_ROWS.max(self.read.positions.len() / 50);
        self.changed().max(issued).saturating_sub(1) / most
    }

    /// True if more rows have changed than are kept beside the rows as read: both should be joined.
    pub(crate) fn are_to_be_joined(&self) -> bool {
        self.times_due() > 0
    }

    /// True if that should have happened long ago.
    pub(crate) fn are_overdue(&self) -> bool {
        self.times_due() >= MAX_OVERDUE
    }

    /// Joins the rows as read with what changed. `None` as with [`KeptFeatures::replace`], or once it is given up.
    /// Fails if the scratch file of the joined rows cannot be written, or that of the rows as read not be read.
    pub(crate) fn join(&self, is_given_up: &AtomicBool) -> io::Result<Option<JoinedRows>> {
        let stays: Vec<bool> = (0..count(&self.read)).map(|number| !self.changes.has_gone(number)).collect();
        let parts = [(&self.changes.added, None), (&*self.read, Some(&stays))];
        let Some(MergedRows { at, features, of_first }) = self.merged(&parts, is_given_up) else { return Ok(None) };
        let positions = Positions::new(at, Frame::Metres);
        let features = match (&self.read.features, self.changes.added.features.in_memory()) {
            (RowFeatures::File(file), Some(came)) => {
                let mut stayed = (0..).zip(&stays).filter(|(_, stays)| **stays).map(|(number, _)| number);
                let source = |of_added: &Option<u32>| match of_added {
                    Some(number) => FeatureSource::Came(*number),
                    None => FeatureSource::Read(stayed.next().unwrap_or(NOT_DRAWN)),
                };
                let sources: Vec<FeatureSource> = of_first.iter().map(source).collect();
                let written = file.joined(&positions, features, &sources, came, is_given_up)?;
                let Some(written) = written else { return Ok(None) };
                RowFeatures::File(Arc::new(written))
            }
            _ => features.into(),
        };
        Ok(self.renumbered(EncodedRows::of(positions, features), &stays, of_first))
    }

    /// Joined rows with the new numbers of those that were joined: the rows as read that stay, and those that came, of
    /// which `of_added` has the numbers.
    fn renumbered(&self, joined: EncodedRows, stays: &[bool], of_added: Vec<Option<u32>>) -> Option<JoinedRows> {
        let mut stayed = (0..count(&self.read)).filter(|number| stays[*number as usize]);
        let (mut of_read, mut of_came) = (vec![NOT_DRAWN; stays.len()], HashMap::new());
        for (next, of_added) in (0..).zip(of_added) {
            match of_added {
                Some(added) => drop(of_came.insert(self.changes.serials[added as usize], next)),
                None => of_read[stayed.next()? as usize] = next,
            }
        }
        let version = RowsVersion::begin();
        // Rows that came after those whose facets are known have no facet, so none of these is used.
        let facets = match &self.facets {
            Some(facets) if facets.version == self.changes.version => {
                let mut by = Renumbering { read: vec![None; stays.len()], came: HashMap::new() };
                for (number, next) in (0..).zip(&of_read).filter(|(_, next)| **next != NOT_DRAWN) {
                    by.read[self.read.positions.place(number)? as usize] = Some(joined.positions.place(*next)?);
                }
                for (serial, next) in &of_came {
                    by.came.insert(*serial, joined.positions.place(*next)?);
                }
                Some(Arc::new(facets.renumbered(&by, version)))
            }
            _ => None,
        };
        let (read, changes) = (Arc::clone(&self.read), Arc::clone(&self.changes));
        Some(JoinedRows { read, changes, joined, of_read, of_came, facets, version })
    }

    /// Goes on from joined rows, with what changed since they were joined. Nothing happens if the rows were read or
    /// joined in another way meanwhile. `None` as with [`KeptFeatures::replace`].
    pub(crate) fn go_on_from(&mut self, joined: JoinedRows) -> Option<()> {
        let JoinedRows { read, changes: before, joined, of_read, of_came, facets, version } = joined;
        if !Arc::ptr_eq(&read, &self.read) {
            return Some(());
        }
        let mut changes = RowChanges { version, known: Arc::clone(&self.changes.known), ..RowChanges::default() };
        let went = (0..count(&read)).filter(|number| self.changes.has_gone(*number) && !before.has_gone(*number));
        went.for_each(|number| changes.remove(of_read[number as usize]));
        let present: HashSet<u32> = self.changes.serials.iter().copied().collect();
        let left = before.serials.iter().filter(|serial| !present.contains(serial));
        left.filter_map(|serial| of_came.get(serial)).for_each(|number| changes.remove(*number));
        let came: Vec<bool> = self.changes.serials.iter().map(|serial| !of_came.contains_key(serial)).collect();
        let none = EncodedRows::default();
        changes.added = self.joined(&[(&none, None), (&self.changes.added, Some(&came))])?.0;
        for _ in 0..count(&changes.added) {
            changes.serials.push(changes.version.next_serial()?);
        }
        // Facets of these rows are not known yet.
        changes.version.steps = u64::from(self.changes.version != before.version);
        (self.read, self.users) = (Arc::new(joined), Arc::default());
        changes.before = self.places(&changes)?;
        (self.changes, self.facets) = (Arc::new(changes), facets);
        Some(())
    }
}

/// Rows that others may take, who then share the rows as read with those who keep them.
#[derive(Debug, Clone)]
pub(crate) struct OfferedFeatures {
    key: FeatureKey,
    read: Weak<EncodedRows>,
    changes: Arc<RowChanges>,
    users: Weak<()>,
}

impl OfferedFeatures {
    pub(crate) fn are_kept(&self) -> bool {
        self.users.strong_count() > 0
    }

    /// The rows for another user, whose steps are not those of the first one. `None` if nobody keeps them any more.
    pub(crate) fn taken(&self) -> Option<KeptFeatures> {
        let changes = RowChanges { version: self.changes.version.of_another_user(), ..(*self.changes).clone() };
        Some(KeptFeatures {
            key: self.key.clone(),
            read: self.read.upgrade()?,
            changes: changes.into(),
            facets: None,
            users: self.users.upgrade()?,
        })
    }
}

/// All that tiles show of a row: its encoded feature, which holds its key and rank, and the bits of its position.
type ShownRow<'f> = (Option<&'f [u8]>, Option<[u64; 2]>);

/// What tiles show of a row whose feature is in memory.
fn shown(rows: &EncodedRows, number: u32) -> ShownRow<'_> {
    (rows.features.in_memory().and_then(|features| features.encoded(number)), bits_of(rows, number))
}

fn bits_of(rows: &EncodedRows, number: u32) -> Option<[u64; 2]> {
    rows.positions.at(number).map(|at| at.map(f64::to_bits))
}

#[expect(clippy::cast_possible_truncation, reason = "rows have numbers of 32 bits")]
fn count(rows: &EncodedRows) -> u32 {
    rows.positions.len() as u32
}

/// True if each feature has a key, and they are sorted by it.
fn are_in_order(features: &Features, key: &FeatureKey) -> bool {
    let mut last = None;
    (0..).take(features.len()).all(|number| {
        let Some(next) = features.key(number, key) else { return false };
        last.replace(next).is_none_or(|last| last.is_before(&next))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of an id, a value below 128 and a place.
    fn rows(rows: &[(u8, u8, f64)]) -> CachedRows {
        let bytes = rows.iter().flat_map(|(id, value, _)| [1, *id, 0x22, 2, 0x28, *value]).collect();
        let ends = (1..).take(rows.len()).map(|number| 6 * number).collect();
        let features = Features::of_encoded("rows", vec!["value".to_owned()], 4096, bytes, ends).unwrap();
        CachedRows::of_rows(rows.iter().map(|(.., at)| [*at, 0.0]).collect(), features)
    }

    /// The same rows, each with a rank.
    fn ranked(of: &[(u8, u8, f64)], ranks: &[&[u8]]) -> CachedRows {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for ((id, value, _), rank) in of.iter().zip(ranks) {
            bytes.extend([1, *id, 0x22, 2, 0x28, *value]);
            bytes.extend_from_slice(rank);
            bytes.extend(u32::try_from(rank.len()).unwrap().to_le_bytes());
            ends.push(u32::try_from(bytes.len()).unwrap());
        }
        let features = Features::of_encoded("rows", vec!["value".to_owned()], 4096, bytes, ends).unwrap();
        CachedRows::of_rows(of.iter().map(|(.., at)| [*at, 0.0]).collect(), features.with_ranks(true))
    }

    #[test]
    fn a_changed_rank_is_a_difference_and_rows_have_their_ranks_whatever_came_and_went() {
        let (one, two) = (1e4, 2e4);
        let of = [(1, 10, one), (2, 20, two), (3, 30, one)];
        let ranks = |kept: &KeptFeatures| -> Vec<Option<Vec<u8>>> {
            kept.in_order()
                .map(|(rows, number)| rows.features.in_memory().unwrap().rank(number).map(<[u8]>::to_vec))
                .collect()
        };
        let mut kept = KeptFeatures::new(ranked(&of, &[b"a", b"", b"ccc"]), FeatureKey::Id).unwrap();
        let squares = [square(one), square(two)];
        assert_eq!(kept.replace(&squares, ranked(&of, &[b"a", b"", b"ccc"])).unwrap(), [false, false]);
        assert_eq!(kept.replace(&squares, ranked(&of, &[b"a", b"b", b"ccc"])).unwrap(), [false, true]);
        assert_eq!(ranks(&kept), [b"a".to_vec(), b"b".to_vec(), b"ccc".to_vec()].map(Some));
        kept.replace(&squares[..1], ranked(&of[..1], &[b"dd"])).unwrap();
        kept.join(&AtomicBool::new(false)).unwrap().unwrap();
        assert_eq!(ranks(&kept), [b"dd".to_vec(), b"b".to_vec()].map(Some));
        assert_eq!(kept.replace(&squares, rows(&of)), None, "rows without ranks");
    }

    fn square(at: f64) -> WorldRect {
        let [x, y] = Positions::world([at, 0.0]);
        WorldRect { west: x - 500, north: y - 500, east: x + 500, south: y + 500 }
    }

    /// The rows in the order of their keys, each with its value and place.
    fn shown_rows(kept: &KeptFeatures) -> Vec<(u8, u8, f64)> {
        let row = |(rows, number): (&EncodedRows, u32)| {
            let encoded = rows.features.in_memory().unwrap().encoded(number).unwrap();
            (encoded[1], encoded[5], rows.positions.at(number).unwrap()[0])
        };
        kept.in_order().map(row).collect()
    }

    #[test]
    fn what_changes_while_rows_are_joined_is_carried_over() {
        let at = |id: u8| 1e4 * f64::from(id);
        let all: Vec<(u8, u8, f64)> = (1..=60).map(|id| (id, 0, at(id))).collect();
        // Before: rows change, go, and come. While they are joined: the same happens to rows as read and to those that
        // had come, and others change back.
        for seed in 0_u32..200 {
            let mut kept = KeptFeatures::new(rows(&all), FeatureKey::Id).unwrap();
            let mut now = all.clone();
            let mut number = seed;
            let mut random = |below: u32| {
                number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                u8::try_from((number >> 16) % below).unwrap()
            };
            let mut joined = None;
            for step in 0..8 {
                if step == 4 {
                    joined = Some(kept.join(&AtomicBool::new(false)).unwrap().unwrap());
                }
                let mut squares = Vec::new();
                for _ in 0..5 {
                    let (id, fate, value) = (random(70) + 1, random(3), random(3));
                    now.retain(|row| row.0 != id);
                    if fate > 0 {
                        now.push((id, value, at(id)));
                    }
                    squares.push(at(id));
                }
                now.sort_by_key(|row| row.0);
                squares.sort_by(f64::total_cmp);
                squares.dedup();
                let fresh: Vec<_> = now.iter().filter(|row| squares.contains(&row.2)).copied().collect();
                let squares: Vec<WorldRect> = squares.into_iter().map(square).collect();
                kept.replace(&squares, rows(&fresh)).unwrap();
            }
            kept.go_on_from(joined.take().unwrap()).unwrap();
            assert_eq!(shown_rows(&kept), now, "seed {seed}");
            assert_eq!(kept.len(), now.len());
            // Later steps go on from there.
            kept.replace(&[square(at(7))], rows(&[(7, 9, at(7))])).unwrap();
            now.retain(|row| row.0 != 7);
            now.push((7, 9, at(7)));
            now.sort_by_key(|row| row.0);
            assert_eq!(shown_rows(&kept), now, "seed {seed}");
        }
    }

    #[test]
    fn rows_that_were_joined_for_others_are_not_gone_on_from() {
        let all: Vec<(u8, u8, f64)> = (1..=9).map(|id| (id, 0, 1e4 * f64::from(id))).collect();
        let old = KeptFeatures::new(rows(&all), FeatureKey::Id).unwrap();
        let joined = old.join(&AtomicBool::new(false)).unwrap().unwrap();
        let mut read_anew = KeptFeatures::new(rows(&all[..5]), FeatureKey::Id).unwrap();
        read_anew.go_on_from(joined).unwrap();
        assert_eq!(shown_rows(&read_anew), all[..5]);
    }

    #[test]
    fn a_square_differs_if_a_row_in_it_came_or_went_or_tiles_show_it_otherwise() {
        let (one, two) = (1e4, 2e4);
        let before = [(1, 10, one), (2, 20, one), (3, 30, two), (4, 40, two)];
        let both_squares = [square(one), square(two)];
        for (now, expected) in [
            (before.to_vec(), [false, false]),
            (vec![(1, 11, one), (2, 20, one), (3, 30, two), (4, 40, two)], [true, false]),
            (vec![(1, 20, one), (2, 10, one), (3, 30, two), (4, 40, two)], [true, false]),
            (vec![(1, 10, one), (2, 20, one), (3, 30, two)], [false, true]),
            (vec![(0, 10, one), (1, 10, one), (2, 20, one), (3, 30, two), (4, 40, two)], [true, false]),
            (vec![(1, 10, one), (2, 20, one), (4, 30, two), (5, 40, two)], [false, true]),
            (vec![(1, 10, one), (2, 20, two), (3, 30, two), (4, 40, two)], [true, true]),
            // By less than rows are found by.
            (vec![(1, 10, one + 1e-9), (2, 20, one), (3, 30, two), (4, 40, two)], [true, false]),
        ] {
            let mut kept = KeptFeatures::new(rows(&before), FeatureKey::Id).unwrap();
            assert_eq!(kept.replace(&both_squares, rows(&now)).unwrap(), expected, "{now:?}");
            // Rows that came are compared like rows as read, and those that went no more.
            assert_eq!(kept.replace(&both_squares, rows(&now)).unwrap(), [false, false], "{now:?}");
            assert_eq!(kept.replace(&both_squares, rows(&before)).unwrap(), expected, "{now:?}");
        }
    }
}
