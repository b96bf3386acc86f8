//! Features without positions. A row has the same id and properties in every tile, so PostGIS encodes each row only
//! once.

use std::ops::Range;

use super::points::{FeatureKey, Key, Points, Tags, split, value_of_key};
use super::wire::{FieldValue, Fields, next_number, put_bytes, put_number, put_packed};

/// The features of a layer, in their order in a tile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Features {
    /// The layer's name.
    name: Vec<u8>,
    /// The extent: grid units along one side of a tile.
    extent: u64,
    /// The names of the properties, in the order of the columns.
    properties: Vec<String>,
    /// The index of the property that holds objects, if there is one. `ST_AsMVT` writes no property of its name, but
    /// each member of an object as a property under the member's name.
    objects: Option<usize>,
    /// The encoded features: for each, whether it has an id, the id, then the value of each property, encoded as in a
    /// layer, or [`MISSING`].
    ///
    /// In place of an object: for each member its key, encoded as a field ([`key_of_property`]), and its value or
    /// [`MISSING`]; then [`MISSING`].
    ///
    /// If the rows are `ranked`, the row's rank follows, and its length ([`put_behind`]). If they are `keyed`, so does
    /// its key.
    bytes: Vec<u8>,
    /// The offset at which each feature begins; empty if each begins where the previous one ends.
    starts: Vec<u32>,
    /// The offset at which each feature ends.
    ends: Vec<u32>,
    /// An upper bound of the bytes of all features.
    most: usize,
    /// True if each feature has a rank, which no tile shows.
    ranked: bool,
    /// True if each feature has a key behind it, which no tile shows.
    keyed: bool,
}

/// What stands behind the encoded feature of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BehindFeature<'a> {
    /// The rank of a row that has one; `None` if it is NULL.
    pub rank: Option<&'a [u8]>,
    /// The key, of rows that are identified by such a key.
    pub key: Option<&'a [u8]>,
}

impl Features {
    /// A layer without features. `properties` are the columns in their order; `expected` and `most` bound the number
    /// and the bytes of the features to come.
    pub fn new(properties: Vec<String>, expected: usize, most: usize) -> Features {
        Features { properties, ends: Vec::with_capacity(expected), most, ..Features::default() }
    }

    /// The same layer, whose property with the index `objects` holds objects.
    #[must_use]
    pub fn with_objects(self, objects: Option<usize>) -> Features {
        Features { objects, ..self }
    }

    /// The same layer without features, whose rows have a rank if `ranked` is true.
    #[must_use]
    pub fn with_ranks(self, ranked: bool) -> Features {
        Features { ranked, ..self }
    }

    /// The same layer without features, whose rows have a key behind them if `keyed` is true.
    #[must_use]
    pub fn with_keys(self, keyed: bool) -> Features {
        Features { keyed, ..self }
    }

    /// No features so far: each will be what holds the key of one ([`Features::push_key`]).
    pub(crate) fn of_keys(key: &FeatureKey, expected: usize) -> Features {
        Features::new(Vec::new(), expected, 0).with_keys(*key == FeatureKey::Behind)
    }

    /// The features of a layer from their encoded bytes, which follow each other; `ends` are the offsets at which they
    /// end. `None` if these are not the bytes of these features.
    pub(crate) fn of_encoded(
        name: &str,
        properties: Vec<String>,
        extent: u64,
        bytes: Vec<u8>,
        ends: Vec<u32>,
    ) -> Option<Features> {
        let length = ends.last().map_or(0, |end| *end as usize);
        let is_whole = ends.is_sorted() && length == bytes.len();
        let name = name.as_bytes().to_vec();
        is_whole.then(|| Features { name, extent, properties, bytes, ends, ..Features::default() })
    }

    /// Adds the features of a tile that has this one layer, and returns how many there are. Their positions are
    /// ignored.
    ///
    /// If a property holds objects, each feature has a text in its place, followed by the members. If each member has a
    /// value, the text is their number. Otherwise it is a JSON list: null for a member with a value, the name of one
    /// without.
    ///
    /// `None` if the layer is not encoded as PostGIS encodes points, or all features take more than 4 GB; the value
    /// must not be used after that.
    pub fn add(&mut self, tile: &[u8]) -> Option<usize> {
        if self.ranked || self.keyed { None } else { self.add_each(tile, |_| Some(())) }
    }

    /// [Adds](Features::add) the features of a tile with what stands behind them; `None` also if these are not as many,
    /// or if one has a rank or a key and the others do not.
    pub fn add_with<'r>(&mut self, tile: &[u8], behind: impl IntoIterator<Item = BehindFeature<'r>>) -> Option<usize> {
        let (mut behind, ranked, keyed) = (behind.into_iter(), self.ranked, self.keyed);
        let put = |bytes: &mut Vec<u8>| {
            let BehindFeature { rank, key } = behind.next()?;
            if key.is_some() != keyed || rank.is_some() && !ranked {
                return None;
            }
            if ranked {
                put_behind(bytes, rank)?;
            }
            if keyed { put_behind(bytes, key) } else { Some(()) }
        };
        let added = self.add_each(tile, put)?;
        behind.next().is_none().then_some(added)
    }

    /// Adds the features of a tile, with what `put_more` appends to each.
    fn add_each(&mut self, tile: &[u8], mut put_more: impl FnMut(&mut Vec<u8>) -> Option<()>) -> Option<usize> {
        let [(_, layer)] = split(tile)?[..] else { return None };
        let points = Points::read(layer, &self.properties)
            .filter(|points| points.further.is_empty() || self.objects.is_some())?;
        let is_first = self.ends.is_empty();
        if is_first {
            (self.name, self.extent) = (points.name.to_owned(), points.extent);
        } else if (&self.name[..], self.extent) != (points.name, points.extent) {
            return None;
        }
        for point in &points.features {
            put_packed(&mut self.bytes, u64::from(point.id.is_some()));
            if let Some(id) = point.id {
                put_packed(&mut self.bytes, id);
            }
            let mut tags = Tags { rest: point.tags, values: &points.values };
            for key in 0..self.properties.len() {
                let value = tags.value_of(key as u64).ok()?;
                if self.objects == Some(key) {
                    self.put_members(value, &mut tags, &points.further)?;
                } else {
                    self.put_value(value)?;
                }
            }
            if !tags.rest.is_empty() {
                return None;
            }
            put_more(&mut self.bytes)?;
            self.ends.push(u32::try_from(self.bytes.len()).ok()?);
        }
        if is_first {
            // One allocation for all features, if the others are about as long. Growing the vector would take twice the
            // memory for a moment.
            let each = self.bytes.len().div_ceil(points.features.len().max(1)) + 4;
            let expected = self.ends.capacity().saturating_mul(each).min(self.most);
            let reserved = self.bytes.try_reserve(expected);
            // If it cannot be reserved, the vector grows.
            reserved.unwrap_or_default();
        }
        Some(points.features.len())
    }

    /// Appends the value of a property, or that a feature does not have it. `None` if it is not one value.
    fn put_value(&mut self, value: Option<&[u8]>) -> Option<()> {
        match value {
            None => self.bytes.push(MISSING),
            Some(value) => {
                let (own, []) = first_value(value)? else { return None };
                self.bytes.extend_from_slice(own);
            }
        }
        Some(())
    }

    /// Appends the members of an object. `list` is the value that lists them, `further` the names of the keys behind
    /// those of the properties. `None` if the members that follow are others.
    fn put_members(&mut self, list: Option<&[u8]>, tags: &mut Tags<'_, '_>, further: &[&[u8]]) -> Option<()> {
        let list = match list.map_or(Some((1, FieldValue::Bytes(b"0"))), |list| Fields(list).next()?.ok())? {
            (1, list) => list.text().ok()?,
            _ => return None,
        };
        let (with_values, listed): (usize, Vec<Option<String>>) = match list.parse() {
            Ok(number) => (number, Vec::new()),
            Err(_no_number) => (0, serde_json::from_str(list).ok()?),
        };
        for without_value in std::iter::repeat_n(None, with_values).chain(listed) {
            let (name, value) = if let Some(name) = &without_value {
                (name.as_bytes(), None)
            } else {
                let (key, value) = tags.next()?;
                let key = usize::try_from(key).ok()?;
                let name = match self.properties.get(key) {
                    Some(property) => property.as_bytes(),
                    None => further.get(key - self.properties.len())?,
                };
                (name, Some(value))
            };
            // PostGIS compares truth values by four bytes, of which three are those of the length of the member's name
            // (`mvt.c`, `parse_jsonb`): below such a name it takes equal values for different ones.
            if name.len() > 255 && value.is_some_and(|value| value.starts_with(&[TRUTH_VALUE])) {
                return None;
            }
            let same = self.names().position(|property| property.as_bytes() == name);
            match (same, value) {
                // Its key is in every tile.
                (Some(_), None) => continue,
                (Some(key), Some(_)) => put_number(&mut self.bytes, KEY_OF_PROPERTY, key as u64),
                (None, _) => put_bytes(&mut self.bytes, 3, name),
            }
            self.put_value(value)?;
        }
        self.bytes.push(MISSING);
        Some(())
    }

    /// The names of the properties that are keys of every tile, in the order of the columns.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        let (properties, objects) = (self.properties.iter().enumerate(), self.objects);
        properties.filter(move |(key, _)| objects != Some(*key)).map(|(_, name)| name)
    }

    /// Appends the features of `other`. `None` if the name or extent of its layer differs, or if all features take more
    /// than 4 GB; the value must not be used after that.
    pub fn append(&mut self, other: &Features) -> Option<()> {
        if other.is_empty() {
            return Some(());
        }
        if self.is_empty() {
            (self.name, self.extent) = (other.name.clone(), other.extent);
        } else if (&self.name, self.extent) != (&other.name, other.extent) {
            return None;
        }
        if !self.starts.is_empty() || !other.starts.is_empty() || !self.has_form_of(other) {
            return None;
        }
        let before = u32::try_from(self.bytes.len()).ok()?;
        u32::try_from(self.bytes.len() + other.bytes.len()).ok()?;
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| before + end));
        Some(())
    }

    /// Appends one feature of `other`, which must be of the same layer. `None` if there is no such feature, or if all
    /// features take more than 4 GB; the value must not be used after that.
    pub(crate) fn push(&mut self, other: &Features, number: u32) -> Option<()> {
        if self.is_empty() {
            (self.name, self.extent) = (other.name.clone(), other.extent);
        }
        self.bytes.extend_from_slice(other.encoded(number)?);
        self.ends.push(u32::try_from(self.bytes.len()).ok()?);
        Some(())
    }

    /// Appends what holds the key of a feature of `other`, so that [`Features::key`] finds it with the same `key`: the
    /// feature without what follows its key. `None` if all take more than 4 GB; the value must not be used after that.
    pub(crate) fn push_key(&mut self, other: &Features, number: u32, key: &FeatureKey) -> Option<()> {
        if self.is_empty() {
            (self.name, self.extent) = (other.name.clone(), other.extent);
        }
        let (id, mut values) = match other.id_and_values(number) {
            Some((id, values)) => (id, Some(values)),
            None => (None, None),
        };
        match key {
            FeatureKey::Id => {
                put_packed(&mut self.bytes, u64::from(id.is_some()));
                if let Some(id) = id {
                    put_packed(&mut self.bytes, id);
                }
            }
            FeatureKey::Property(property) => {
                put_packed(&mut self.bytes, 0);
                self.bytes.resize(self.bytes.len() + property, MISSING);
                let value = values.as_mut().and_then(|values| values.nth(*property)).flatten();
                self.bytes.extend_from_slice(value.unwrap_or(&[MISSING]));
            }
            // Nothing else of it.
            FeatureKey::Behind => put_behind(&mut self.bytes, other.behind(number)?.1.key)?,
        }
        self.ends.push(u32::try_from(self.bytes.len()).ok()?);
        Some(())
    }

    /// The key of a feature, by its number; `None` if it has no such key. A text is in the encoding of the database, as
    /// `ST_AsMVT` writes it, so that its bytes compare as the database compares it.
    pub(crate) fn key(&self, number: u32, key: &FeatureKey) -> Option<Key<'_>> {
        match key {
            FeatureKey::Id => Some(Key::Number(self.id_and_values(number)?.0?.into())),
            FeatureKey::Property(property) => value_of_key(self.id_and_values(number)?.1.nth(*property)??),
            FeatureKey::Behind => Some(Key::Bytes(self.behind(number)?.1.key?)),
        }
    }

    /// A feature, by its number, and what stands behind it.
    fn behind(&self, number: u32) -> Option<(&[u8], BehindFeature<'_>)> {
        let (mut bytes, mut behind) = (self.encoded(number)?, BehindFeature::default());
        if self.keyed {
            (bytes, behind.key) = split_behind(bytes)?;
        }
        if self.ranked {
            (bytes, behind.rank) = split_behind(bytes)?;
        }
        Some((bytes, behind))
    }

    /// True if features of this value are encoded as those of the other one: with the same things behind them, and with
    /// objects in place of the same property.
    pub(crate) fn has_form_of(&self, other: &Features) -> bool {
        (self.objects, self.ranked, self.keyed) == (other.objects, other.ranked, other.keyed)
    }

    /// The same layer without features.
    #[must_use]
    pub(crate) fn emptied(&self) -> Features {
        self.with_encoded(Vec::new(), std::iter::empty())
    }

    /// The values of a feature's properties from the property `first` on, which are whole numbers; `None` for a
    /// property that the feature does not have, or that is no such number.
    pub(crate) fn numbers(&self, number: u32, first: usize) -> impl Iterator<Item = Option<i64>> {
        self.values(number).skip(first).map(|value| match value_of_key(value?)? {
            Key::Number(number) => i64::try_from(number).ok(),
            Key::Text(_) | Key::Bytes(_) => None,
        })
    }

    /// The encoded value of each property of a feature, or `None` for one that it does not have.
    pub(crate) fn values(&self, number: u32) -> impl Iterator<Item = Option<&[u8]>> {
        self.id_and_values(number).into_iter().flat_map(|(_, values)| values)
    }

    /// The id of a feature, if it has one, and the encoded value of each property, or `None` for one that it does not
    /// have. `None` if a property holds objects.
    fn id_and_values(&self, number: u32) -> Option<(Option<u64>, impl Iterator<Item = Option<&[u8]>>)> {
        let (mut rest, _) = self.behind(number).filter(|_| self.objects.is_none())?;
        let id = if next_number(&mut rest).ok()? == 0 { None } else { Some(next_number(&mut rest).ok()?) };
        let values = std::iter::from_fn(move || {
            if let Some(after) = rest.strip_prefix(&[MISSING]) {
                rest = after;
                return Some(None);
            }
            let (value, after) = first_value(rest)?;
            rest = after;
            Some(Some(value))
        });
        Some((id, values))
    }

    /// Reserves memory for the bytes and features of `others`.
    pub fn reserve<'f>(&mut self, others: impl Iterator<Item = &'f Features>) {
        let (mut bytes, mut features) = (0, 0);
        for other in others {
            bytes += other.bytes.len();
            features += other.ends.len();
        }
        self.bytes.reserve_exact(bytes);
        self.ends.reserve_exact(features);
    }

    /// Removes all features; the memory is kept for others.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
        self.ends.clear();
    }

    /// The same layer with other features: `spans` of `bytes` that [`Features::encoded`] returned, in their order in a
    /// tile.
    #[must_use]
    pub fn with_encoded(&self, bytes: Vec<u8>, spans: impl ExactSizeIterator<Item = Range<u32>>) -> Features {
        let (mut starts, mut ends) = (Vec::with_capacity(spans.len()), Vec::with_capacity(spans.len()));
        for span in spans {
            starts.push(span.start);
            ends.push(span.end);
        }
        let (name, properties) = (self.name.clone(), self.properties.clone());
        let Features { extent, objects, ranked, keyed, .. } = *self;
        Features { name, extent, properties, objects, bytes, starts, ends, most: 0, ranked, keyed }
    }

    /// True if each feature has a rank.
    pub(crate) fn are_ranked(&self) -> bool {
        self.ranked
    }

    /// The rank of a feature, by its number. `None`, which is less than any other, if it is NULL.
    pub(crate) fn rank(&self, number: u32) -> Option<&[u8]> {
        self.behind(number)?.1.rank
    }

    /// True if each feature has a key behind it.
    pub(crate) fn are_keyed(&self) -> bool {
        self.keyed
    }

    /// The encoded bytes of a feature, by its number, with what stands behind it.
    pub fn encoded(&self, number: u32) -> Option<&[u8]> {
        self.feature(number).map(|(_, bytes)| bytes)
    }

    /// The number of features.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if there is no feature.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The memory in use, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len() + (self.starts.len() + self.ends.len()) * size_of::<u32>()
    }

    /// The offset at which a feature begins, and its bytes.
    pub(crate) fn feature(&self, number: u32) -> Option<(u32, &[u8])> {
        let number = number as usize;
        let start = match (self.starts.get(number), number) {
            (Some(start), _) => *start,
            (None, 0) => 0,
            (None, number) => *self.ends.get(number - 1)?,
        };
        Some((start, self.bytes.get(start as usize..*self.ends.get(number)? as usize)?))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The layer's name, the names of its properties, and its extent.
    pub(crate) fn layer(&self) -> (&[u8], &[String], u64) {
        (&self.name, &self.properties, self.extent)
    }

    /// The index of the property that holds objects.
    pub(crate) fn objects(&self) -> Option<usize> {
        self.objects
    }
}

/// An estimate of the bytes of a feature in a tile in addition to the values of its properties.
pub(crate) const AROUND: usize = 32;

/// The marker of a property that a feature does not have. No value begins with this byte.
pub(crate) const MISSING: u8 = 0;

/// The first byte of a truth value: field 7, a number (MVT 2.1, section 4.4).
const TRUTH_VALUE: u8 = 7 << 3;

/// The field number of a member's key if a property has the same name: it holds the property's index. The key of another
/// member is encoded as in a layer.
const KEY_OF_PROPERTY: u64 = 2;

/// The key of a property that has a member's name, from the member's encoded key; `None` if there is no such property.
pub(crate) fn key_of_property(member_key: &[u8]) -> Option<u64> {
    match Fields(member_key).next()?.ok()? {
        (KEY_OF_PROPERTY, FieldValue::Varint(key)) => Some(key),
        _ => None,
    }
}

/// The length of a rank that is NULL.
const NOTHING: u32 = u32::MAX;

/// Appends a rank or a key, and its length: it is found from the end of a feature, without a look at its values. `None`
/// if it is too long.
fn put_behind(bytes: &mut Vec<u8>, value: Option<&[u8]>) -> Option<()> {
    let length = match value {
        Some(value) => u32::try_from(value.len()).ok().filter(|length| *length < NOTHING)?,
        None => NOTHING,
    };
    bytes.extend_from_slice(value.unwrap_or_default());
    bytes.extend(length.to_le_bytes());
    Some(())
}

/// The bytes of a feature without the rank or the key at their end, and that.
fn split_behind(bytes: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let (bytes, length) = bytes.split_last_chunk()?;
    match u32::from_le_bytes(*length) {
        NOTHING => Some((bytes, None)),
        length => {
            let (feature, value) = bytes.split_at(bytes.len().checked_sub(length as usize)?);
            Some((feature, Some(value)))
        }
    }
}

/// Splits the first value from the bytes. A value is one field, which begins with its length.
pub(crate) fn first_value(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Fields(bytes);
    fields.next()?.ok()?;
    bytes.split_at_checked(bytes.len() - fields.0.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvt::points::{put_ends, put_feature, put_names};
    use crate::mvt::wire::{put_bytes, put_number, zigzag};
    use crate::mvt::{Drawer, TileConstants, TileInPieces, put_layer};

    /// A value that is a text or a number, encoded as in a layer.
    fn value(text: &str) -> Vec<u8> {
        let mut value = Vec::new();
        match text.parse() {
            Ok(number) => put_number(&mut value, 5, number),
            Err(_not_a_number) => put_bytes(&mut value, 1, text.as_bytes()),
        }
        value
    }

    /// A feature: its id, a value or none for each property, its position.
    type Row<'a> = (Option<u64>, &'a [Option<&'a str>], [i32; 2]);

    /// A tile with features, as PostGIS writes it.
    fn tile(properties: &[String], features: &[Row<'_>]) -> Vec<u8> {
        let (mut layer, mut values): (_, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
        put_bytes(&mut layer, 1, b"places");
        for (id, texts, at) in features {
            let (mut tags, mut geometry) = (Vec::new(), Vec::new());
            for (key, text) in texts.iter().enumerate() {
                let Some(text) = text else { continue };
                let known = values.iter().position(|known| *known == value(text));
                let number = known.unwrap_or_else(|| {
                    values.push(value(text));
                    values.len() - 1
                });
                put_packed(&mut tags, key as u64);
                put_packed(&mut tags, number as u64);
            }
            for number in [9, zigzag(at[0]), zigzag(at[1])] {
                put_packed(&mut geometry, number);
            }
            put_feature(&mut layer, *id, &tags, 1, &geometry);
        }
        put_names(&mut layer, properties.iter());
        put_ends(&mut layer, values.iter().map(|value| Some(&value[..])), 4096).unwrap();
        let mut tile = Vec::new();
        put_layer(&mut tile, &layer);
        tile
    }

    #[test]
    fn tiles_are_written_as_if_their_features_had_been_written_at_once() {
        let properties = ["name", "size", "kind"].map(str::to_owned).to_vec();
        let rows: [Row<'_>; 5] = [
            (Some(7), &[Some("a"), Some("12"), Some("b")], [0, 4096]),
            (None, &[None, None, None], [-64, 3]),
            (Some(u64::MAX), &[Some("b"), None, Some("a")], [4160, -1]),
            (Some(0), &[None, None, Some("12")], [5, 5]),
            (None, &[Some(""), Some("300"), None], [5, 5]),
        ];
        let at_nothing = rows.map(|(id, values, _)| (id, values, [0, 0]));
        let mut features = Features::new(properties.clone(), rows.len(), 1_000);
        assert_eq!(features.add(&tile(&properties, &at_nothing[..2])), Some(2));
        assert_eq!(features.add(&tile(&properties, &at_nothing[2..])), Some(3));
        assert_eq!(features.len(), 5);
        let [mut first, mut second] = [0, 1].map(|_| Features::new(properties.clone(), rows.len(), 1_000));
        assert_eq!(first.add(&tile(&properties, &at_nothing[..1])), Some(1));
        assert_eq!(second.add(&tile(&properties, &at_nothing[1..])), Some(4));
        first.append(&second).unwrap();
        assert_eq!((&first.bytes, &first.ends), (&features.bytes, &features.ends));
        let (mut drawer, none) = (Drawer::new(&features), TileConstants::default());
        for wanted in [&[0, 1, 2, 3, 4][..], &[4], &[1, 3], &[0, 2], &[2, 3, 4]] {
            let drawn = wanted.iter().map(|number| (*number, rows[*number as usize].2));
            let expected: Vec<_> = wanted.iter().map(|number| rows[*number as usize]).collect();
            assert_eq!(drawer.tile(&none, drawn), Some(tile(&properties, &expected)), "{wanted:?}");
        }
        assert_eq!(drawer.tile(&none, std::iter::empty::<(u32, [i32; 2])>()), Some(Vec::new()));
        assert_eq!(drawer.tile(&none, std::iter::once((5, [0, 0]))), None);
        // Large tiles, too.
        let many = || (0..20_000).map(|n| (n % 5, rows[n as usize % 5].2));
        let expected: Vec<_> = many().map(|(number, _)| rows[number as usize]).collect();
        assert_eq!(drawer.tile(&none, many()), Some(tile(&properties, &expected)));
        // And if the features come in pieces, some of which share values with earlier pieces.
        for ends in [&[5][..], &[2, 5], &[1, 1, 2, 3, 4, 5]] {
            let (mut whole, mut begin) = (TileInPieces::new(1_000), 0);
            for end in ends {
                let mut piece = Features::new(properties.clone(), rows.len(), 1_000);
                if begin < *end {
                    piece.add(&tile(&properties, &at_nothing[begin..*end])).unwrap();
                }
                whole.add(&piece, &none, (0..).zip(&rows[begin..*end]).map(|(number, row)| (number, row.2))).unwrap();
                begin = *end;
            }
            assert_eq!((whole.features(), whole.finish(&features)), (5, tile(&properties, &rows)), "{ends:?}");
        }
        assert_eq!(TileInPieces::new(0).finish(&features), Vec::<u8>::new());
    }

    #[test]
    fn ranks_of_rows_are_kept_and_no_tile_shows_them() {
        let properties = ["name", "size"].map(str::to_owned).to_vec();
        let rows: [Row<'_>; 3] = [
            (Some(7), &[Some("a"), Some("12")], [0, 0]),
            (None, &[None, None], [0, 0]),
            (Some(9), &[Some("b"), Some("12")], [0, 0]),
        ];
        let ranks: [Option<&'static [u8]>; 3] = [Some(b"great"), None, Some(b"")];
        let behind = |ranks: &[Option<&'static [u8]>]| {
            ranks.iter().map(|rank| BehindFeature { rank: *rank, key: None }).collect::<Vec<_>>()
        };
        let new = || Features::new(properties.clone(), rows.len(), 1_000).with_ranks(true);
        let [mut features, mut more] = [new(), new()];
        assert_eq!(features.add_with(&tile(&properties, &rows[..2]), behind(&ranks[..2])), Some(2));
        assert_eq!(more.add_with(&tile(&properties, &rows[2..]), behind(&ranks[2..])), Some(1));
        features.append(&more).unwrap();
        assert_eq!([0, 1, 2].map(|number| features.rank(number)), ranks);
        let value_counts = [0, 1, 2].map(|number| features.values(number).count());
        assert_eq!((value_counts, features.key(2, &FeatureKey::Id)), ([2; 3], Some(Key::Number(9))));
        let drawn = || (0..).zip(&rows).map(|(number, row)| (number, row.2));
        let none = TileConstants::default();
        assert_eq!(Drawer::new(&features).tile(&none, drawn()), Some(tile(&properties, &rows)));
        let mut pieces = TileInPieces::new(0);
        pieces.add(&features, &none, drawn()).unwrap();
        assert_eq!(pieces.finish(&features), tile(&properties, &rows));
        // As many ranks as features, and in all lists of a layer.
        assert_eq!(new().add_with(&tile(&properties, &rows), behind(&ranks[..2])), None);
        assert_eq!(new().add_with(&tile(&properties, &rows[..2]), behind(&ranks)), None);
        assert_eq!(new().add(&tile(&properties, &rows)), None);
        let mut unranked = Features::new(properties.clone(), 3, 1_000);
        unranked.add(&tile(&properties, &rows)).unwrap();
        assert_eq!((unranked.rank(0), features.append(&unranked)), (None, None));
    }

    #[test]
    fn keys_behind_features_identify_rows_beside_ranks_and_objects_and_no_tile_shows_them() {
        let columns = ["name", "more", "zoom", "size"].map(str::to_owned).to_vec();
        let rows: [ObjectRow<'_>; 2] =
            [(Some("a"), &[("b", Some("1")), ("z", None)], None, None), (None, &[], None, Some("7"))];
        let behind =
            [BehindFeature { rank: None, key: Some(b"one") }, BehindFeature { rank: Some(b"great"), key: Some(b"") }];
        let new = || Features::new(columns.clone(), 2, 1_000).with_objects(Some(1)).with_ranks(true).with_keys(true);
        let (mut features, tile) = (new(), tile_of_objects(&rows, true));
        assert_eq!(features.add_with(&tile, behind), Some(2));
        let key = |number| features.key(number, &FeatureKey::Behind);
        assert_eq!([key(0), key(1), key(2)], [Some(Key::Bytes(b"one")), Some(Key::Bytes(b"")), None]);
        assert_eq!([features.rank(0), features.rank(1)], [None, Some(&b"great"[..])]);
        assert_eq!(features.key(0, &FeatureKey::Id), None, "the features hold objects");
        let mut copy = features.emptied();
        assert!(copy.has_form_of(&features) && copy.is_empty());
        copy.push(&features, 1).unwrap();
        assert_eq!(copy.key(0, &FeatureKey::Behind), Some(Key::Bytes(b"")));
        let drawn = Drawer::new(&features).tile(&TileConstants::default(), [(0, [0, 0]), (1, [0, 0])].into_iter());
        assert_eq!(drawn, Some(tile_of_objects(&rows, false)));
        // Each row has a key, and none has one that others do not have.
        let without = behind.map(|behind| BehindFeature { key: None, ..behind });
        assert_eq!((new().add_with(&tile, without), new().add(&tile)), (None, None));
        assert_eq!(new().with_keys(false).add_with(&tile, behind), None);
    }

    #[test]
    fn what_all_features_of_a_tile_have_alike_is_written_as_if_each_had_it() {
        let properties = ["name", "zoom", "size", "x"].map(str::to_owned).to_vec();
        // A constant may be equal to a value of a feature, and to another constant.
        let rows: [Row<'_>; 3] = [
            (Some(7), &[Some("a"), None, Some("12"), None], [0, 0]),
            (None, &[None, None, Some("5"), None], [0, 0]),
            (None, &[Some("b"), None, None, None], [0, 0]),
        ];
        let mut features = Features::new(properties.clone(), rows.len(), 1_000);
        assert_eq!(features.add(&tile(&properties, &rows)), Some(3));
        let mut drawer = Drawer::new(&features);
        for [zoom, x] in [[5_u32, 12], [7, 7], [0, 300]] {
            let mut constants = TileConstants::default();
            constants.add(1, zoom);
            constants.add(3, x);
            let [zoom, x] = [zoom, x].map(|number| number.to_string());
            let values: Vec<[Option<&str>; 4]> =
                rows.iter().map(|(_, values, _)| [values[0], Some(&zoom), values[2], Some(&x)]).collect();
            let expected: Vec<Row<'_>> =
                rows.iter().zip(&values).map(|(row, values)| (row.0, &values[..], row.2)).collect();
            let drawn = || (0..).zip(rows).map(|(number, row)| (number, row.2));
            assert_eq!(drawer.tile(&constants, drawn()), Some(tile(&properties, &expected)));
            let mut whole = TileInPieces::new(0);
            whole.add(&features, &constants, drawn()).unwrap();
            assert_eq!(whole.finish(&features), tile(&properties, &expected));
        }
    }

    /// The members of an object: their names, and a value or none.
    type Members<'a> = &'a [(&'a str, Option<&'a str>)];

    /// A name, an object, a zoom and a size.
    type ObjectRow<'a> = (Option<&'a str>, Members<'a>, Option<&'a str>, Option<&'a str>);

    /// A tile of features with members, as PostGIS writes it; if `lists` is true, with the lists of these.
    fn tile_of_objects(rows: &[ObjectRow<'_>], lists: bool) -> Vec<u8> {
        let columns: &[&str] = if lists { &["name", "more", "zoom", "size"] } else { &["name", "zoom", "size"] };
        let mut keys: Vec<String> = columns.iter().copied().map(str::to_owned).collect();
        let (mut layer, mut values): (_, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
        put_bytes(&mut layer, 1, b"places");
        for (name, members, zoom, size) in rows {
            let without_value = |(name, value): &(&str, Option<&str>)| value.is_none().then(|| (*name).to_owned());
            let text = if members.iter().any(|member| without_value(member).is_some()) {
                serde_json::to_string(&members.iter().map(without_value).collect::<Vec<_>>()).unwrap()
            } else {
                members.len().to_string()
            };
            let mut list = Vec::new();
            put_bytes(&mut list, 1, text.as_bytes());
            let own = [("name", name.map(value)), ("more", lists.then_some(list))];
            let behind = [("zoom", zoom.map(value)), ("size", size.map(value))];
            let members = members.iter().map(|(name, member)| (*name, member.map(value)));
            let mut tags = Vec::new();
            for (key, value) in own.into_iter().take(1 + usize::from(lists)).chain(members).chain(behind) {
                let known = keys.iter().position(|known| known == key);
                let key = known.unwrap_or_else(|| {
                    keys.push(key.to_owned());
                    keys.len() - 1
                });
                let Some(value) = value else { continue };
                let known = values.iter().position(|known| *known == value);
                let value = known.unwrap_or_else(|| {
                    values.push(value);
                    values.len() - 1
                });
                put_packed(&mut tags, key as u64);
                put_packed(&mut tags, value as u64);
            }
            put_feature(&mut layer, None, &tags, 1, &[9, 0, 0]);
        }
        put_names(&mut layer, keys.iter());
        put_ends(&mut layer, values.iter().map(|value| Some(&value[..])), 4096).unwrap();
        let mut tile = Vec::new();
        put_layer(&mut tile, &layer);
        tile
    }

    #[test]
    fn members_of_objects_are_written_under_their_names() {
        let columns = ["name", "more", "zoom", "size"].map(str::to_owned).to_vec();
        let rows: [ObjectRow<'_>; 6] = [
            (Some("a"), &[("b", Some("1")), ("z", None), ("size", Some("x"))], None, Some("12")),
            (None, &[("", Some("a")), ("z", Some("b")), ("name", None)], None, None),
            (Some("b"), &[], None, Some("7")),
            (Some("c"), &[("more", Some("c")), ("b", None)], None, None),
            (None, &[("b", Some("12")), ("z", Some("a")), ("zoom", Some("5"))], None, Some("b")),
            (None, &[("name", Some("5"))], None, Some("5")),
        ];
        let new = || Features::new(columns.clone(), rows.len(), 1_000).with_objects(Some(1));
        let mut features = new();
        assert_eq!(features.add(&tile_of_objects(&rows[..2], true)), Some(2));
        let mut others = new();
        assert_eq!(others.add(&tile_of_objects(&rows[2..], true)), Some(4));
        let both = [features.clone(), others.clone()];
        features.append(&others).unwrap();
        for zoom in [None, Some(5), Some(9)] {
            let mut constants = TileConstants::default();
            if let Some(zoom) = zoom {
                constants.add(2, zoom);
            }
            let zoom = zoom.map(|zoom| zoom.to_string());
            for wanted in [&[0, 1, 2, 3, 4, 5][..], &[4, 5], &[1, 3, 4], &[2], &[0, 5], &[3, 5]] {
                let expected = wanted.iter().map(|number| {
                    let (name, members, _, size) = rows[*number as usize];
                    (name, members, zoom.as_deref(), size)
                });
                let expected = tile_of_objects(&expected.collect::<Vec<_>>(), false);
                let drawn = || wanted.iter().map(|number| (*number, [0, 0]));
                assert_eq!(Drawer::new(&features).tile(&constants, drawn()).as_ref(), Some(&expected), "{wanted:?}");
                let mut of_both = Drawer::with_more(&both[0], Some(&both[1]));
                assert_eq!(of_both.tile(&constants, drawn()).as_ref(), Some(&expected), "{wanted:?}");
                let mut whole = TileInPieces::new(0);
                for number in drawn() {
                    whole.add(&features, &constants, std::iter::once(number)).unwrap();
                }
                assert_eq!(whole.finish(&features.with_encoded(Vec::new(), std::iter::empty())), expected);
            }
        }
        // What PostGIS wrote otherwise, or somebody else did.
        let plain = tile_of_objects(&rows, false);
        assert_eq!(new().add(&plain), None, "no list");
        assert_eq!(Features::new(columns.clone(), 1, 9).add(&tile_of_objects(&rows, true)), None, "no objects");
        let text = |name| tile_of_objects(&[(Some(name), &[("b", Some("x"))], None, None)], true);
        let [two, nothing] = [("2", 1), ("[]", 2)].map(|(list, length)| {
            let mut tile = text("n");
            let at = tile.windows(3).position(|bytes| bytes == [0x0a, 1, b'1']).unwrap();
            tile.splice(at + 1..at + 3, [&[length][..], list.as_bytes()].concat());
            // The field of the value and the layer's are longer, too.
            tile[at - 1] += length - 1;
            tile[1] += length - 1;
            tile
        });
        assert_eq!(new().add(&text("n")), Some(1));
        for (length, added) in [(255, Some(1)), (256, None)] {
            let name = "n".repeat(length);
            let mut tile = tile_of_objects(&[(None, &[(&name, Some("9"))], None, None)], true);
            let at = tile.windows(2).position(|bytes| bytes == [5 << 3, 9]).unwrap();
            tile[at..at + 2].copy_from_slice(&[7 << 3, 1]);
            assert_eq!(new().add(&tile), added, "a truth value below a name of {length} bytes");
        }
        assert_eq!(new().add(&two), None, "fewer members than the list says");
        assert_eq!(new().add(&nothing), None, "more members than the list says");
    }

    #[test]
    fn what_is_not_written_so_is_refused() {
        let (one, two) = (vec!["a".to_owned()], vec!["a".to_owned(), "b".to_owned()]);
        let tile = tile(&one, &[(None, &[Some("x")], [0, 0])]);
        assert_eq!(Features::new(one.clone(), 1, 9).add(&tile), Some(1));
        assert_eq!(Features::new(two, 1, 9).add(&tile), None, "another property");
        assert_eq!(Features::new(one.clone(), 1, 9).add(&tile.repeat(2)), None, "two layers");
        for end in 0..tile.len() {
            assert_eq!(Features::new(one.clone(), 1, 9).add(&tile[..end]), None, "cut off after {end} bytes");
        }
    }
}
