//! Features without positions. A row has the same id and properties in every tile, so PostGIS encodes each row only
//! once.

use std::ops::Range;

use super::points::{FeatureKey, Key, Points, split, value_of_key};
use super::wire::{Fields, next_number, put_packed};

/// The features of a layer, in their order in a tile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Features {
    /// The layer's name.
    name: Vec<u8>,
    /// The extent: grid units along one side of a tile.
    extent: u64,
    /// The names of the properties, in the order of the columns.
    properties: Vec<String>,
    /// The encoded features: for each, whether it has an id, the id, then the value of each property, encoded as in a
    /// layer, or [`MISSING`].
    bytes: Vec<u8>,
    /// The offset at which each feature begins; empty if each begins where the previous one ends.
    starts: Vec<u32>,
    /// The offset at which each feature ends.
    ends: Vec<u32>,
    /// An upper bound of the bytes of all features.
    most: usize,
}

impl Features {
    /// A layer without features. `properties` are the columns in their order; `expected` and `most` bound the number
    /// and the bytes of the features to come.
    pub fn new(properties: Vec<String>, expected: usize, most: usize) -> Features {
        Features { properties, ends: Vec::with_capacity(expected), most, ..Features::default() }
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
        is_whole.then(|| Features { name, extent, properties, bytes, starts: Vec::new(), ends, most: 0 })
    }

    /// Adds the features of a tile that has this one layer, and returns how many there are. Their positions are
    /// ignored.
    ///
    /// `None` if the layer is not encoded as PostGIS encodes points, or all features take more than 4 GB; the value
    /// must not be used after that.
    pub fn add(&mut self, tile: &[u8]) -> Option<usize> {
        let [(_, layer)] = split(tile)?[..] else { return None };
        let points = Points::read(layer, &self.properties)?;
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
            let (mut rest, mut next) = (point.tags, 0);
            while !rest.is_empty() {
                let (key, value) = (next_number(&mut rest).ok()?, next_number(&mut rest).ok()?);
                let missing = usize::try_from(key).ok()?.checked_sub(next)?;
                let value = points.values.get(usize::try_from(value).ok()?)?;
                let (own, []) = first_value(value)? else { return None };
                self.bytes.resize(self.bytes.len() + missing, MISSING);
                self.bytes.extend_from_slice(own);
                next += missing + 1;
            }
            self.bytes.resize(self.bytes.len() + self.properties.len().checked_sub(next)?, MISSING);
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
        if !self.starts.is_empty() || !other.starts.is_empty() {
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

    /// The key of a feature, by its number; `None` if it has no such key.
    pub(crate) fn key(&self, number: u32, key: &FeatureKey) -> Option<Key<'_>> {
        let (id, mut values) = self.id_and_values(number)?;
        match key {
            FeatureKey::Id => Some(Key::Number(id?.into())),
            FeatureKey::Property(property) => value_of_key(values.nth(*property)??),
        }
    }

    /// The values of a feature's properties from the property `first` on, which are whole numbers; `None` for a
    /// property that the feature does not have, or that is no such number.
    pub(crate) fn numbers(&self, number: u32, first: usize) -> impl Iterator<Item = Option<i64>> {
        self.values(number).skip(first).map(|value| match value_of_key(value?)? {
            Key::Number(number) => i64::try_from(number).ok(),
            Key::Text(_) => None,
        })
    }

    /// The encoded value of each property of a feature, or `None` for one that it does not have.
    pub(crate) fn values(&self, number: u32) -> impl Iterator<Item = Option<&[u8]>> {
        self.id_and_values(number).into_iter().flat_map(|(_, values)| values)
    }

    /// The id of a feature, if it has one, and the encoded value of each property, or `None` for one that it does not
    /// have.
    fn id_and_values(&self, number: u32) -> Option<(Option<u64>, impl Iterator<Item = Option<&[u8]>>)> {
        let (_, mut rest) = self.feature(number)?;
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
        Features { name, extent: self.extent, properties, bytes, starts, ends, most: 0 }
    }

    /// The encoded bytes of a feature, by its number.
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
}

/// An estimate of the bytes of a feature in a tile in addition to the values of its properties.
pub(crate) const AROUND: usize = 32;

/// The marker of a property that a feature does not have. No value begins with this byte.
pub(crate) const MISSING: u8 = 0;

/// Splits the first value from the bytes. A value is one field, which begins with its length.
pub(crate) fn first_value(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Fields(bytes);
    fields.next()?.ok()?;
    bytes.split_at_checked(bytes.len() - fields.0.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvt::points::{put_ends, put_feature};
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
        put_ends(&mut layer, properties, values.iter().map(|value| Some(&value[..])), 4096).unwrap();
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
