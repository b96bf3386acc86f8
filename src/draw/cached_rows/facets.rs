//! Facets of rows that are kept from snapshot to snapshot: for each value of some columns, the rows that have it. So the
//! rows that a request chooses by such values are found without a statement.

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::matching_set::{MatchingSet, RowPlaces, RowsVersion};
use crate::postgis::{Facet, FacetChoice, FacetType, FacetValue, WantedValues};

/// For each value of the facets of a layer, the rows that have it.
#[derive(Debug, Clone)]
pub(crate) struct FacetIndex {
    facets: Arc<[Facet]>,
    version: RowsVersion,
    /// For each facet, the rows as read.
    read: Arc<[RowsByValue]>,
    /// The memory of these, in bytes.
    read_bytes: usize,
    /// For each facet, the rows that came, by their serial numbers.
    came: Vec<RowsByValue>,
}

type RowsByValue = HashMap<FacetValue, RoaringBitmap>;

/// The memory of a value in addition to its text and its bitmap, in bytes.
const BYTES_PER_VALUE: usize = 96;

fn bytes(all: &[RowsByValue]) -> usize {
    let each = |(value, rows): (&FacetValue, &RoaringBitmap)| {
        let text = if let FacetValue::Text(text) = value { text.len() } else { 0 };
        BYTES_PER_VALUE + text + rows.serialized_size()
    };
    all.iter().flatten().map(each).sum()
}

/// New numbers for rows as read and for those that came, after both were joined.
#[derive(Debug)]
pub(crate) struct Renumbering {
    /// By the number among the rows as read; `None` if the row went.
    pub(crate) read: Vec<Option<u32>>,
    /// By the serial number.
    pub(crate) came: HashMap<u32, u32>,
}

impl FacetIndex {
    /// The memory in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.read_bytes + bytes(&self.came)
    }

    /// The version of the rows whose values are known.
    pub(crate) fn version(&self) -> RowsVersion {
        self.version
    }

    /// The same rows after they were joined with those that came.
    pub(crate) fn renumbered(&self, by: &Renumbering, version: RowsVersion) -> FacetIndex {
        let joined = |(read, came): (&RowsByValue, &RowsByValue)| -> RowsByValue {
            let (mut all, none) = (RowsByValue::new(), RoaringBitmap::new());
            for value in read.keys().chain(came.keys().filter(|value| !read.contains_key(value))) {
                let (read, came) = (read.get(value).unwrap_or(&none), came.get(value).unwrap_or(&none));
                let read = read.iter().filter_map(|number| *by.read.get(number as usize)?);
                let mut rows: Vec<u32> =
                    read.chain(came.iter().filter_map(|serial| by.came.get(&serial).copied())).collect();
                rows.sort_unstable();
                if !rows.is_empty() {
                    all.insert(value.clone(), rows.into_iter().collect());
                }
            }
            all
        };
        let read: Arc<[RowsByValue]> = self.read.iter().zip(&self.came).map(joined).collect();
        FacetIndex {
            facets: Arc::clone(&self.facets),
            version,
            read_bytes: bytes(&read),
            read,
            came: self.facets.iter().map(|_| RowsByValue::new()).collect(),
        }
    }

    /// The rows that have the wanted values of all facets; `None` if one is not known.
    pub(crate) fn matching(&self, choices: &[FacetChoice]) -> Option<MatchingSet> {
        let mut all: Option<[RoaringBitmap; 2]> = None;
        for choice in choices {
            let facet = self.facets.iter().position(|facet| facet.column == choice.column)?;
            let found = [&self.read[facet], &self.came[facet]].map(|rows| chosen(rows, &choice.wanted));
            let [read, came] = found;
            all = Some(match all {
                None => [read, came],
                Some([mut own_read, mut own_came]) => {
                    own_read &= read;
                    own_came &= came;
                    [own_read, own_came]
                }
            });
        }
        let [read, came] = all?;
        Some(MatchingSet::of(self.version, read, came))
    }
}

/// The rows with the wanted values.
fn chosen(rows: &RowsByValue, wanted: &WantedValues) -> RoaringBitmap {
    let mut found = RoaringBitmap::new();
    match wanted {
        WantedValues::Any(values) => values.iter().filter_map(|value| rows.get(value)).for_each(|some| found |= some),
        WantedValues::All(values) => {
            let mut some = values.iter().map(|value| rows.get(value));
            if let Some(Some(first)) = some.next() {
                found = first.clone();
                for one in some {
                    match one {
                        Some(one) => found &= one,
                        None => return RoaringBitmap::new(),
                    }
                }
            }
        }
        WantedValues::Range { least, greatest } => {
            let is_wanted = |value: &FacetValue| match value {
                FacetValue::Integer(number) => {
                    least.is_none_or(|least| *number >= least) && greatest.is_none_or(|greatest| *number <= greatest)
                }
                FacetValue::Text(_) | FacetValue::Boolean(_) => false,
            };
            rows.iter().filter(|(value, _)| is_wanted(value)).for_each(|(_, some)| found |= some);
        }
    }
    found
}

/// Adds the values of rows to an index.
pub(crate) struct FacetIndexBuilder<'r> {
    places: RowPlaces<'r>,
    index: FacetIndex,
    /// The rows as read, if they are not known yet.
    read: Vec<RowsByValue>,
    bytes: usize,
}

impl<'r> FacetIndexBuilder<'r> {
    /// An index of some rows, or `before` with those that came since.
    pub(crate) fn new(places: RowPlaces<'r>, facets: &[Facet], before: Option<&FacetIndex>) -> FacetIndexBuilder<'r> {
        let none = || facets.iter().map(|_| RowsByValue::new()).collect::<Vec<_>>();
        let version = places.version();
        let index = before.map_or_else(
            || FacetIndex { facets: facets.into(), version, read: none().into(), read_bytes: 0, came: none() },
            |before| FacetIndex { version, ..before.clone() },
        );
        let bytes = index.bytes();
        FacetIndexBuilder { places, index, read: if before.is_none() { none() } else { Vec::new() }, bytes }
    }

    /// Adds the values of the row with a key: those of each facet, as texts. Rows that are not kept are left out. `None` if
    /// a value is not of the facet's type.
    pub(crate) fn add(&mut self, key: &str, values: impl Iterator<Item = Option<Vec<Option<String>>>>) -> Option<()> {
        let Some((is_read, number)) = self.places.of(key) else { return Some(()) };
        let facets = Arc::clone(&self.index.facets);
        for (place, (facet, values)) in facets.iter().zip(values).enumerate() {
            let rows = match (is_read, self.read.get_mut(place)) {
                (true, Some(read)) => read,
                // It was there before.
                (true, None) => continue,
                (false, _) => &mut self.index.came[place],
            };
            for value in values.into_iter().flatten().flatten() {
                let value = match facet.of_each {
                    FacetType::Text | FacetType::Varchar => FacetValue::Text(value),
                    FacetType::Int2 | FacetType::Int4 | FacetType::Int8 => FacetValue::Integer(value.parse().ok()?),
                    FacetType::Bool => FacetValue::Boolean(value.parse().ok()?),
                };
                // A value of many rows takes a bit for each of them, or less.
                self.bytes += 2;
                if !rows.contains_key(&value) {
                    self.bytes += BYTES_PER_VALUE;
                }
                rows.entry(value).or_default().insert(number);
            }
        }
        Some(())
    }

    /// An upper bound of the memory that the index takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn finish(self) -> FacetIndex {
        let FacetIndexBuilder { mut index, read, .. } = self;
        if !read.is_empty() {
            (index.read_bytes, index.read) = (bytes(&read), read.into());
        }
        index
    }
}
