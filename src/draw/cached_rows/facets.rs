//! Facets of rows that are kept from snapshot to snapshot: for each value of some columns, the rows that have it. So
//! the rows that a request chooses by such values are found without a statement.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::matching_set::{FoundKey, MatchingSet, RowPlaces, RowsVersion};
use crate::postgis::{Facet, FacetChoice, FacetType, FacetValue, FrequentValue, WantedValues};

/// For each value of the facets of a layer, the rows that have it.
#[derive(Debug, Clone)]
pub(crate) struct FacetIndex {
    facets: Arc<[Facet]>,
    /// The version of the rows whose values are known.
    pub(crate) version: RowsVersion,
    /// For each facet, the rows as read, by their places in the Z-order of their positions.
    read: Arc<[RowsByValue]>,
    /// The memory of these, in bytes.
    read_bytes: usize,
    /// For each facet, the rows that came, by their serial numbers.
    came: Vec<RowsByValue>,
}

type RowsByValue = HashMap<FacetValue, ValueRows>;

/// The rows that have a value, by their numbers.
#[derive(Debug, Clone)]
enum ValueRows {
    /// In ascending order.
    Few(Box<[u32]>),
    Many(RoaringBitmap),
}

/// The memory of a value in addition to its text and its rows, in bytes.
const BYTES_PER_VALUE: usize = 160;

/// The memory of a part of 65,536 rows of a bitmap in addition to these rows, in bytes: the part itself, and what an
/// allocation takes.
const BYTES_PER_PART: usize = 40;

impl Default for ValueRows {
    fn default() -> ValueRows {
        ValueRows::Many(RoaringBitmap::new())
    }
}

impl ValueRows {
    /// Rows with these numbers, which are in ascending order.
    fn of(rows: Vec<u32>) -> ValueRows {
        ValueRows::Few(rows.into()).packed()
    }

    /// The same rows in the form that takes less memory, without spare capacity.
    fn packed(&self) -> ValueRows {
        let few = usize::try_from(self.len()).unwrap_or(usize::MAX).saturating_mul(size_of::<u32>());
        match self {
            ValueRows::Few(rows) => {
                let many = ValueRows::Many(rows.iter().copied().collect());
                if many.bytes() < few { many.packed() } else { self.clone() }
            }
            ValueRows::Many(rows) if self.bytes() < few => ValueRows::Many(rows.clone()),
            ValueRows::Many(rows) => ValueRows::Few(rows.iter().collect()),
        }
    }

    fn each(&self, mut each: impl FnMut(u32)) {
        match self {
            ValueRows::Few(rows) => rows.iter().copied().for_each(each),
            ValueRows::Many(rows) => rows.iter().for_each(&mut each),
        }
    }

    /// The memory in use, in bytes.
    fn bytes(&self) -> usize {
        match self {
            ValueRows::Few(rows) => size_of_val(&rows[..]),
            ValueRows::Many(rows) => rows.serialized_size() + BYTES_PER_PART * rows.statistics().n_containers as usize,
        }
    }

    fn len(&self) -> u64 {
        match self {
            ValueRows::Few(rows) => rows.len() as u64,
            ValueRows::Many(rows) => rows.len(),
        }
    }

    fn add(&mut self, number: u32) {
        if let ValueRows::Few(rows) = self {
            *self = ValueRows::Many(rows.iter().copied().collect());
        }
        if let ValueRows::Many(rows) = self {
            rows.insert(number);
        }
    }

    fn add_to(&self, found: &mut RoaringBitmap) {
        match self {
            ValueRows::Few(rows) => found.extend(rows.iter().copied()),
            ValueRows::Many(rows) => *found |= rows,
        }
    }

    /// Those of these rows that are in `others`, too.
    fn and(&self, others: &RoaringBitmap) -> RoaringBitmap {
        match self {
            ValueRows::Few(rows) => rows.iter().copied().filter(|row| others.contains(*row)).collect(),
            ValueRows::Many(rows) => rows & others,
        }
    }

    fn count_in(&self, others: &RoaringBitmap) -> u64 {
        match self {
            ValueRows::Few(rows) => rows.iter().filter(|row| others.contains(**row)).count() as u64,
            ValueRows::Many(rows) => rows.intersection_len(others),
        }
    }
}

fn bytes(all: &[RowsByValue]) -> usize {
    let each = |(value, rows): (&FacetValue, &ValueRows)| {
        let text = if let FacetValue::Text(text) = value { text.len() } else { 0 };
        BYTES_PER_VALUE + text + rows.bytes()
    };
    all.iter().flatten().map(each).sum()
}

/// The places of rows as read and of those that came, after both were joined.
#[derive(Debug)]
pub(crate) struct Renumbering {
    /// By the place among the rows as read; `None` if the row went.
    pub(crate) read: Vec<Option<u32>>,
    /// By the serial number.
    pub(crate) came: HashMap<u32, u32>,
}

impl FacetIndex {
    /// The memory in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.read_bytes + bytes(&self.came)
    }

    /// The same rows after they were joined with those that came.
    pub(crate) fn renumbered(&self, by: &Renumbering, version: RowsVersion) -> FacetIndex {
        let joined = |(read, came): (&RowsByValue, &RowsByValue)| -> RowsByValue {
            let (mut all, none) = (RowsByValue::new(), ValueRows::default());
            for value in read.keys().chain(came.keys().filter(|value| !read.contains_key(value))) {
                let mut rows = Vec::new();
                let (read, came) = (read.get(value).unwrap_or(&none), came.get(value).unwrap_or(&none));
                read.each(|place| rows.extend(by.read.get(place as usize).copied().flatten()));
                came.each(|serial| rows.extend(by.came.get(&serial)));
                rows.sort_unstable();
                if !rows.is_empty() {
                    all.insert(value.clone(), ValueRows::of(rows));
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

    /// True if the facet of a choice is known.
    pub(crate) fn has(&self, choice: &FacetChoice) -> bool {
        self.facets.iter().any(|facet| facet.column == choice.column)
    }

    /// The `most` most frequent values of a facet among the rows of a set. `None` if the facet is not known.
    pub(crate) fn frequent(&self, column: &str, among: &MatchingSet, most: usize) -> Option<Vec<FrequentValue>> {
        let facet = self.facets.iter().position(|facet| facet.column == column)?;
        let (read, came) = (&self.read[facet], &self.came[facet]);
        let rows_of = |value: &FacetValue| [read, came].map(|rows| rows.get(value));
        let len = |value: &FacetValue| rows_of(value).into_iter().flatten().map(ValueRows::len).sum::<u64>();
        let values = read.keys().chain(came.keys().filter(|value| !read.contains_key(value)));
        // No value has more rows among some than among all, so most of them need not be counted.
        let mut values: Vec<(FrequentValue, &FacetValue)> =
            values.map(|value| (FrequentValue { value: value.to_string(), rows: len(value) }, value)).collect();
        values.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let mut found: BTreeSet<FrequentValue> = BTreeSet::new();
        for (at_most, value) in values {
            if found.len() == most && found.last().is_some_and(|last| *last < at_most) {
                break;
            }
            let rows = rows_of(value).into_iter().zip(among.numbers());
            let rows = rows.map(|(rows, numbers)| rows.map_or(0, |rows| rows.count_in(numbers))).sum::<u64>();
            if rows > 0 {
                found.insert(FrequentValue { rows, ..at_most });
                if found.len() > most {
                    found.pop_last();
                }
            }
        }
        Some(found.into_iter().collect())
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
        Some(MatchingSet::of(self.version, &read, &came))
    }
}

fn chosen(rows: &RowsByValue, wanted: &WantedValues) -> RoaringBitmap {
    let mut found = RoaringBitmap::new();
    match wanted {
        WantedValues::Any(values) => {
            values.iter().filter_map(|value| rows.get(value)).for_each(|some| some.add_to(&mut found));
        }
        WantedValues::All(values) => {
            let mut some = values.iter().map(|value| rows.get(value));
            if let Some(Some(first)) = some.next() {
                first.add_to(&mut found);
                for one in some {
                    match one {
                        Some(one) => found = one.and(&found),
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
            rows.iter().filter(|(value, _)| is_wanted(value)).for_each(|(_, some)| some.add_to(&mut found));
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

    /// Adds the values of the row with a key: those of each facet, as texts. Rows that are not kept are left out.
    /// `None` if a value is not of the facet's type.
    pub(crate) fn add(
        &mut self,
        key: &FoundKey<'_>,
        values: impl Iterator<Item = Option<Vec<Option<String>>>>,
    ) -> Option<()> {
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
                    let text = if let FacetValue::Text(text) = &value { text.len() } else { 0 };
                    self.bytes += BYTES_PER_VALUE + text;
                }
                rows.entry(value).or_default().add(number);
            }
        }
        Some(())
    }

    /// An upper bound of the memory that the index takes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn finish(self) -> FacetIndex {
        let FacetIndexBuilder { mut index, mut read, .. } = self;
        if !read.is_empty() {
            for rows in read.iter_mut().flat_map(RowsByValue::values_mut) {
                *rows = rows.packed();
            }
            (index.read_bytes, index.read) = (bytes(&read), read.into());
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::draw::cached_rows::{CachedRows, KeptFeatures};
    use crate::mvt::{FeatureKey, FeatureKeyValue, Features};
    use crate::tile::{Positions, WorldRect};

    /// A row's place on a line, and its tags.
    type Row = (u32, Option<Vec<Option<String>>>);

    fn at(place: u32) -> [f64; 2] {
        [f64::from(place) * 1_000.0, 0.0]
    }

    /// A number as the features hold it (Protocol Buffers, base 128).
    fn put_varint(bytes: &mut Vec<u8>, mut number: u32) {
        let seven = |number: u32| u8::try_from(number & 127).unwrap();
        while number > 127 {
            bytes.push(seven(number) | 128);
            number >>= 7;
        }
        bytes.push(seven(number));
    }

    fn rows_of(rows: &BTreeMap<u32, Row>) -> (Vec<[f64; 2]>, Features) {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for id in rows.keys() {
            bytes.push(1);
            put_varint(&mut bytes, *id);
            ends.push(u32::try_from(bytes.len()).unwrap());
        }
        let features = Features::of_encoded("rows", Vec::new(), 4096, bytes, ends).unwrap();
        (rows.values().map(|(place, _)| at(*place)).collect(), features)
    }

    fn text(tag: &str) -> FacetValue {
        FacetValue::Text(tag.to_owned())
    }

    /// The ids of the rows that an index chooses.
    fn chosen_ids(kept: &KeptFeatures, wanted: WantedValues) -> BTreeSet<u32> {
        let choice = FacetChoice { column: "tags".to_owned(), wanted };
        let set = Arc::new(kept.facets().unwrap().matching(&[choice]).unwrap());
        let mut ids = BTreeSet::new();
        let world = WorldRect { west: 0, north: 0, east: 1 << 32, south: 1 << 32 };
        kept.rows().only(&set).unwrap().each_within(world, |_, features, number| {
            match features.key(number, &FeatureKey::Id).unwrap() {
                FeatureKeyValue::Number(id) => assert!(ids.insert(u32::try_from(id).unwrap())),
                _ => panic!("no number"),
            }
        });
        ids
    }

    /// Reads the facets of the rows that have none yet, as from the database.
    fn read(kept: &mut KeptFeatures, model: &BTreeMap<u32, Row>) {
        let facets = [Facet { column: "tags".to_owned(), of_each: FacetType::Text, is_array: true }];
        let wanted: Vec<u32> = match kept.without_facets() {
            None => model.keys().copied().collect(),
            Some(keys) => {
                let id = |key: &FeatureKeyValue<'_>| match key {
                    FeatureKeyValue::Number(id) => u32::try_from(*id).unwrap(),
                    _ => panic!("no number"),
                };
                keys.iter().map(id).collect()
            }
        };
        let mut index = kept.add_facets(&facets).unwrap();
        for id in wanted {
            index.add(&FoundKey::Text(&id.to_string()), std::iter::once(model[&id].1.clone())).unwrap();
        }
        // A row that lies in no tile.
        index.add(&FoundKey::Text("999999"), std::iter::once(Some(vec![Some("a".to_owned())]))).unwrap();
        let index = index.finish();
        kept.set_facets(Some(index));
    }

    /// Rows come, go, move and change their tags at random; what the index chooses is what their tags say.
    #[test]
    fn the_index_chooses_the_rows_whose_values_are_wanted_after_any_history() {
        let mut random = 5_u64;
        let mut below = |most: u32| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from(random >> 33).unwrap() % most
        };
        let tags = |below: &mut dyn FnMut(u32) -> u32| {
            // Few rows have the last one.
            let one = |below: &mut dyn FnMut(u32) -> u32| {
                (below(5) > 0).then(|| ["a", "b", "c", "d", "e"][below(81) as usize / 20].to_owned())
            };
            (below(6) > 0).then(|| (0..below(4)).map(|_| one(below)).collect::<Vec<_>>())
        };
        let mut model: BTreeMap<u32, Row> = (1..300).map(|id| (id, (below(400), tags(&mut below)))).collect();
        let (places, features) = rows_of(&model);
        let mut kept = KeptFeatures::of_rows(places, features, FeatureKey::Id).unwrap();
        read(&mut kept, &model);
        // Rows joined some steps ago, with the number of these.
        let mut joining = None;
        for step in 0..60 {
            if joining.is_none() && kept.are_to_be_joined() {
                joining = Some((0, kept.join(&std::sync::atomic::AtomicBool::new(false)).unwrap()));
            }
            let mut changed = BTreeSet::new();
            for _ in 0..=below(6) {
                let (id, place) = (1 + below(400), below(400));
                changed.insert(place);
                if let Some((before, _)) = model.remove(&id) {
                    changed.insert(before);
                }
                if below(3) > 0 {
                    model.insert(id, (place, tags(&mut below)));
                }
            }
            let there: BTreeMap<u32, Row> = model
                .iter()
                .filter(|(_, (place, _))| changed.contains(place))
                .map(|(id, row)| (*id, row.clone()))
                .collect();
            let squares: Vec<WorldRect> = changed
                .iter()
                .map(|place| {
                    let [x, y] = Positions::world(at(*place));
                    WorldRect { west: x - 10, north: y - 10, east: x + 10, south: y + 10 }
                })
                .collect();
            let (places, features) = rows_of(&there);
            kept.replace(&squares, CachedRows::of_rows(places, features)).unwrap();
            assert!(kept.facets().is_none() || there.is_empty(), "step {step}");
            match joining.take() {
                Some((3, joined)) => kept.go_on_from(joined.unwrap()).unwrap(),
                Some((steps, joined)) => joining = Some((steps + 1, joined)),
                None => {}
            }
            read(&mut kept, &model);
            let has = |row: &Row, tag: &str| row.1.iter().flatten().flatten().any(|own| own == tag);
            let expected = |is_wanted: &dyn Fn(&Row) -> bool| {
                model.iter().filter(|(_, row)| is_wanted(row)).map(|(id, _)| *id).collect::<BTreeSet<u32>>()
            };
            let any = chosen_ids(&kept, WantedValues::Any(vec![text("a"), text("none"), text("c")]));
            assert_eq!(any, expected(&|row| has(row, "a") || has(row, "c")), "step {step}");
            let all = chosen_ids(&kept, WantedValues::All(vec![text("b"), text("d")]));
            assert_eq!(all, expected(&|row| has(row, "b") && has(row, "d")), "step {step}");
            assert_eq!(chosen_ids(&kept, WantedValues::All(vec![text("b"), text("none")])), BTreeSet::new());
            let rare = chosen_ids(&kept, WantedValues::Any(vec![text("e")]));
            assert_eq!(rare, expected(&|row| has(row, "e")), "step {step}");
            let both = chosen_ids(&kept, WantedValues::All(vec![text("a"), text("e")]));
            assert_eq!(both, expected(&|row| has(row, "a") && has(row, "e")), "step {step}");
            let rows = |tag: &str| model.values().filter(|row| has(row, tag)).count() as u64;
            let mut frequent: Vec<FrequentValue> =
                ["a", "b", "c", "d", "e"].map(|tag| FrequentValue { value: tag.to_owned(), rows: rows(tag) }).into();
            frequent.sort_unstable();
            frequent.retain(|one| one.rows > 0);
            let all = kept.rows().all_kept().unwrap();
            for most in [1, 3, 4, 9] {
                let expected = &frequent[..most.min(frequent.len())];
                assert_eq!(kept.facets().unwrap().frequent("tags", &all, most).unwrap(), expected, "step {step}");
            }
        }
    }

    #[test]
    fn rows_of_a_value_are_the_same_in_either_form() {
        let (few, many): (Vec<u32>, Vec<u32>) = (vec![3, 70_000, 140_000], (0..70_000).map(|row| 3 * row).collect());
        for rows in [&few, &many] {
            let of_value = ValueRows::of(rows.clone());
            assert_eq!(matches!(of_value, ValueRows::Few(_)), rows.len() == 3);
            let mut by_one = ValueRows::default();
            for row in rows {
                by_one.add(*row);
            }
            for of_value in [&of_value, &by_one, &by_one.packed()] {
                let all: RoaringBitmap = rows.iter().copied().collect();
                let mut others: RoaringBitmap = (0..100_000).collect();
                assert_eq!((of_value.len(), of_value.count_in(&others)), (all.len(), all.intersection_len(&others)));
                assert_eq!(of_value.and(&others), &all & &others);
                of_value.add_to(&mut others);
                assert_eq!(others.len(), 100_000 + all.len() - all.range_cardinality(0..100_000));
            }
        }
    }
}
