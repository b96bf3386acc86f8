//! Matching sets: of the rows that are kept from snapshot to snapshot, those whose keys a statement returned.
//!
//! Rows as read keep their places in the Z-order, by which sets name them, until they are read or joined again. A row
//! that comes later gets a serial number, which no other row gets meanwhile. So a set is known on each later snapshot,
//! but for the rows that came since.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use roaring::RoaringBitmap;

use super::rows_in_file::RowFeatures;
use super::{CachedRows, EncodedRows, RowChanges, RowStore};
use crate::mvt::{FeatureKey, FeatureKeyValue, Features};
use crate::tile::{Candidate, Margin, Positions, TileRect, WorldRect};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RowsVersion {
    /// A number for the rows as read or joined.
    read: u64,
    /// The number of the user whose steps these are; 0 for the one who has read or joined the rows.
    user: u64,
    /// The number of steps since then in which rows came or went.
    pub(crate) steps: u64,
    /// The serial number of the next row that comes.
    came: u32,
}

impl RowsVersion {
    /// The version of rows that were just read or joined.
    pub(crate) fn begin() -> RowsVersion {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        RowsVersion { read: NEXT.fetch_add(1, Ordering::Relaxed), ..RowsVersion::default() }
    }

    /// The same version for another user of the rows: versions of different users are not earlier or later ones of
    /// each other, because their steps and serial numbers are others.
    pub(crate) fn of_another_user(self) -> RowsVersion {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        RowsVersion { user: NEXT.fetch_add(1, Ordering::Relaxed), ..self }
    }

    /// The number of the rows as read or joined; later ones have a greater number.
    pub(crate) fn base(self) -> u64 {
        self.read
    }

    /// How many serial numbers were given.
    pub(crate) fn issued(self) -> usize {
        self.came as usize
    }

    /// A serial number; `None` if there are no more.
    pub(crate) fn next_serial(&mut self) -> Option<u32> {
        let serial = self.came;
        self.came = serial.checked_add(1)?;
        Some(serial)
    }
}

/// Which rows are drawn: all that are kept, or those of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DrawnRows {
    All(RowsVersion),
    /// Those of the set with this number.
    OfSet(u64),
}

/// The rows of a version that fulfil a request's conditions.
#[derive(Debug)]
pub(crate) struct MatchingSet {
    /// A number that no other set has.
    number: u64,
    version: RowsVersion,
    /// The places of rows as read in the Z-order of their positions.
    read: RoaringBitmap,
    /// The serial numbers of rows that came.
    came: RoaringBitmap,
}

impl MatchingSet {
    pub(crate) fn of(version: RowsVersion, read: &RoaringBitmap, came: &RoaringBitmap) -> MatchingSet {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Clones have no spare capacity.
        let (read, came) = (read.clone(), came.clone());
        MatchingSet { number: NEXT.fetch_add(1, Ordering::Relaxed), version, read, came }
    }

    /// The rows of both sets; `None` if they are sets of different versions.
    pub(crate) fn and(mut self, other: &MatchingSet) -> Option<MatchingSet> {
        self.read &= &other.read;
        self.came &= &other.came;
        (self.version == other.version).then_some(self)
    }

    /// The places of rows as read, and the serial numbers of those that came.
    pub(crate) fn numbers(&self) -> [&RoaringBitmap; 2] {
        [&self.read, &self.came]
    }

    /// The memory in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<MatchingSet>() + self.read.serialized_size() + self.came.serialized_size()
    }

    /// True if the row as read at this place is in the set.
    pub(crate) fn has_read(&self, place: u32) -> bool {
        self.read.contains(place)
    }

    /// True if the row that came with this serial number is in the set.
    pub(crate) fn has_come(&self, serial: u32) -> bool {
        self.came.contains(serial)
    }

    /// The candidates of the set's rows as read.
    pub(crate) fn candidates(
        &self,
        positions: &Positions,
        rect: &TileRect,
        margin: Margin,
        found: &mut Vec<Candidate>,
    ) {
        let part = rect.world(margin.units(rect.zoom));
        let places = positions.places_near(&[part]).into_iter().flat_map(|places| self.read.range(places));
        let matching = places.map(|place| positions.in_z_order()[place as usize]);
        positions.candidates_among(matching, rect, part, margin, found);
    }
}

impl CachedRows {
    /// The rows that are kept from snapshot to snapshot, and what changed since they were read; `None` if they are not.
    fn kept(&self) -> Option<(&EncodedRows, &RowChanges)> {
        let RowStore::Memory(rows) = &self.rows else { return None };
        rows.changes.as_deref().map(|changes| (rows, changes))
    }

    /// Which of the rows that are kept from snapshot to snapshot are drawn; `None` if rows are not kept so.
    pub(crate) fn drawn(&self) -> Option<DrawnRows> {
        let (rows, changes) = self.kept()?;
        Some(rows.matching.as_ref().map_or(DrawnRows::All(changes.version), |set| DrawnRows::OfSet(set.number)))
    }

    /// The number of rows that are kept from snapshot to snapshot.
    pub(crate) fn kept_count(&self) -> usize {
        self.kept().map_or(0, |(rows, changes)| changes.count(rows))
    }

    /// A set of all rows that are kept from snapshot to snapshot; `None` if rows are not kept so.
    pub(crate) fn all_kept(&self) -> Option<MatchingSet> {
        let (rows, changes) = self.kept()?;
        let mut read = RoaringBitmap::new();
        read.insert_range(0..u32::try_from(rows.positions.len()).ok()?);
        if !changes.have_all() {
            for number in (0..rows.positions.len()).filter_map(|number| u32::try_from(number).ok()) {
                if changes.has_gone(number) {
                    read.remove(rows.positions.place(number)?);
                }
            }
        }
        Some(MatchingSet::of(changes.version, &read, &changes.serials.iter().copied().collect()))
    }

    /// The keys of the rows that came since the rows of a set. `None` if it is a set of other rows, or of later ones.
    pub(crate) fn keys_since(&self, set: &MatchingSet, key: &FeatureKey) -> Option<Vec<FeatureKeyValue<'_>>> {
        self.kept()?.1.keys_since(set.version, key)
    }

    /// The same rows, of which only those of a set are drawn. `None` if it is a set of other rows.
    pub(crate) fn only(&self, set: &Arc<MatchingSet>) -> Option<CachedRows> {
        let (rows, changes) = self.kept()?;
        if changes.version != set.version {
            return None;
        }
        let rows = EncodedRows { matching: Some(Arc::clone(set)), ..rows.clone() };
        Some(CachedRows { rows: RowStore::Memory(rows), sessions: self.sessions, near: None })
    }
}

impl CachedRows {
    /// The rows as read, by which those of later snapshots are known; `None` if they are not kept from snapshot to
    /// snapshot. The number is that of no other rows.
    pub(crate) fn as_read(&self) -> Option<(u64, &Arc<Positions>)> {
        self.kept().map(|(rows, changes)| (changes.version.read, &rows.positions))
    }

    /// Calls `each` with the place in the Z-order of every drawn row as read in a part of the world, and of some near
    /// it.
    pub(crate) fn each_as_read_near(&self, part: WorldRect, each: impl FnMut(u32)) {
        let Some((rows, changes)) = self.kept() else { return };
        let numbers = rows.positions.in_z_order();
        let stays = |place: &u32| changes.have_all() || !changes.has_gone(numbers[*place as usize]);
        let places = rows.positions.places_near(&[part]).into_iter();
        match &rows.matching {
            Some(set) => places.flat_map(|places| set.read.range(places)).filter(stays).for_each(each),
            None => places.flatten().filter(stays).for_each(each),
        }
    }

    /// Calls `each` with every drawn row in a part of the world that came since the rows were read: its position in
    /// world units, and its number among some features.
    pub(crate) fn each_that_came_within(&self, part: WorldRect, mut each: impl FnMut([f64; 2], &Features, u32)) {
        let Some((rows, RowChanges { added, serials, .. })) = self.kept() else { return };
        let has_come = |number: &u32| rows.matching.as_ref().is_none_or(|set| set.has_come(serials[*number as usize]));
        for number in added.positions.within(part).filter(has_come) {
            let Some(at) = added.positions.at(number) else { continue };
            each(Positions::in_world_units(at), added.features.keyed(), number);
        }
    }

    /// Calls `each` with the position in world units of every drawn row in a part of the world.
    pub(crate) fn each_position_within(&self, part: WorldRect, mut each: impl FnMut([f64; 2])) {
        self.each_as_read_within(part, |at, _| each(at));
        self.each_that_came_within(part, |at, _, _| each(at));
    }

    /// Calls `each` with every drawn row as read in a part of the world: its position in world units, and its number.
    fn each_as_read_within(&self, part: WorldRect, mut each: impl FnMut([f64; 2], u32)) {
        let Some((rows, _)) = self.kept() else { return };
        let numbers = rows.positions.in_z_order();
        self.each_as_read_near(part, |place| {
            let number = numbers[place as usize];
            let at = rows.positions.at(number).filter(|_| rows.positions.is_within(number, part));
            if let Some(at) = at {
                each(Positions::in_world_units(at), number);
            }
        });
    }

    /// Calls `each` with every drawn row in a part of the world, as [`CachedRows::each_that_came_within`] does with
    /// some. `None` if features cannot be read from their scratch file.
    pub(crate) fn each_within(&self, part: WorldRect, mut each: impl FnMut([f64; 2], &Features, u32)) -> Option<()> {
        let (rows, _) = self.kept()?;
        match &rows.features {
            RowFeatures::Memory(features) => self.each_as_read_within(part, |at, number| each(at, features, number)),
            RowFeatures::File(file) => {
                let (mut positions, mut numbers) = (Vec::new(), Vec::new());
                self.each_as_read_within(part, |at, number| {
                    positions.push(at);
                    numbers.push(number);
                });
                let mut positions = positions.into_iter();
                for part in file.parts(&numbers, |number| file.loaded_bytes(*number)) {
                    let each_of_part = |features: &Features| {
                        for ((row, _), at) in (0..).zip(part).zip(positions.by_ref()) {
                            each(at, features, row);
                        }
                    };
                    file.with(part, each_of_part).ok()??;
                }
            }
        }
        self.each_that_came_within(part, each);
        Some(())
    }
}

impl RowChanges {
    /// The keys of the rows that came since a version. `None` if it is a version of other rows, or a later one.
    pub(crate) fn keys_since(&self, version: RowsVersion, key: &FeatureKey) -> Option<Vec<FeatureKeyValue<'_>>> {
        let is_of_these = (version.read, version.user) == (self.version.read, self.version.user);
        if !is_of_these || version.steps > self.version.steps {
            return None;
        }
        let came = (0..).zip(&self.serials).filter(|(_, serial)| **serial >= version.came);
        came.map(|(number, _)| self.added.features.keyed().key(number, key)).collect()
    }
}

/// The key of a row as a statement returns it.
pub(crate) enum FoundKey<'s> {
    /// As the database writes it.
    Text(&'s str),
    /// As the bytes behind the feature of the row.
    Bytes(Vec<u8>),
}

/// Finds rows that are kept from snapshot to snapshot by their keys.
#[derive(Clone, Copy)]
pub(crate) struct RowPlaces<'r> {
    rows: &'r EncodedRows,
    changes: &'r RowChanges,
    key: &'r FeatureKey,
    /// True if the keys are numbers.
    is_number: bool,
}

impl<'r> RowPlaces<'r> {
    /// `None` if there is no row.
    pub(crate) fn new(rows: &'r EncodedRows, changes: &'r RowChanges, key: &'r FeatureKey) -> Option<RowPlaces<'r>> {
        let first = rows.features.keyed().key(0, key).or_else(|| changes.added.features.keyed().key(0, key))?;
        Some(RowPlaces { rows, changes, key, is_number: matches!(first, FeatureKeyValue::Number(_)) })
    }

    pub(crate) fn version(self) -> RowsVersion {
        self.changes.version
    }

    /// The row with a key: true and its place in the Z-order if it is a row as read, false and its serial number if it
    /// came later. `None` for a row that is not kept, because it lies in no tile.
    pub(crate) fn of(self, key: &FoundKey<'_>) -> Option<(bool, u32)> {
        let key = match key {
            FoundKey::Bytes(bytes) => FeatureKeyValue::Bytes(bytes),
            FoundKey::Text(text) => match text.parse() {
                Ok(number) if self.is_number => FeatureKeyValue::Number(number),
                _ => FeatureKeyValue::Text(text.as_bytes()),
            },
        };
        let read =
            number_of(self.rows.features.keyed(), self.key, &key).filter(|number| !self.changes.has_gone(*number));
        read.and_then(|number| self.rows.positions.place(number)).map(|place| (true, place)).or_else(|| {
            let added = number_of(self.changes.added.features.keyed(), self.key, &key)?;
            Some((false, self.changes.serials[added as usize]))
        })
    }
}

/// Finds the rows of a set by their keys.
pub(crate) struct MatchingSetBuilder<'r> {
    places: RowPlaces<'r>,
    read: Vec<u32>,
    came: Vec<u32>,
}

impl<'r> MatchingSetBuilder<'r> {
    /// `None` if the rows are not kept from snapshot to snapshot, or there are none.
    pub(crate) fn new(rows: &'r CachedRows, key: &'r FeatureKey) -> Option<MatchingSetBuilder<'r>> {
        let (rows, changes) = rows.kept()?;
        let places = RowPlaces::new(rows, changes, key)?;
        Some(MatchingSetBuilder { places, read: Vec::new(), came: Vec::new() })
    }

    /// Adds the row with a key.
    pub(crate) fn add(&mut self, key: &FoundKey<'_>) {
        match self.places.of(key) {
            Some((true, place)) => self.read.push(place),
            Some((false, serial)) => self.came.push(serial),
            None => {}
        }
    }

    /// The set, with the rows of the set `before` that are still there.
    pub(crate) fn finish(self, before: Option<&MatchingSet>) -> MatchingSet {
        let MatchingSetBuilder { places, mut read, mut came } = self;
        if let Some(before) = before {
            came.extend(places.changes.serials.iter().filter(|serial| before.came.contains(**serial)));
        }
        read.sort_unstable();
        came.sort_unstable();
        let mut read: RoaringBitmap = read.into_iter().collect();
        if let Some(before) = before {
            read |= &before.read;
        }
        MatchingSet::of(places.version(), &read, &came.into_iter().collect())
    }
}

/// The number of the feature with a key, among features that are sorted by it.
fn number_of(features: &Features, key: &FeatureKey, wanted: &FeatureKeyValue<'_>) -> Option<u32> {
    let (mut low, mut high) = (0, u32::try_from(features.len()).ok()?);
    while low < high {
        let middle = low + (high - low) / 2;
        let found = features.key(middle, key)?;
        if found == *wanted {
            return Some(middle);
        }
        if found.is_before(wanted) { low = middle + 1 } else { high = middle }
    }
    None
}
