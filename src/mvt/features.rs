//! Features without their positions, and tiles drawn from them, byte for byte as `ST_AsMVT` writes them.
//!
//! A row has the same id and properties in every tile; only its position differs. So PostGIS encodes each row once, and tiles of all zooms
//! are assembled from that: features in the order of the rows, the names of all columns, and each value once, in the order in which
//! features first have them (`postgis/mvt.c`).

use std::hash::BuildHasher as _;
use std::ops::Range;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::points::{Points, layer_field, put_ends, put_point, split};
use super::wire::{Fields, next_number, put_bytes, put_packed, zigzag};

/// The features of a layer, in the order that they have in a tile.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Features {
    /// The layer's name.
    name: Vec<u8>,
    /// The extent: grid units along one side of a tile.
    extent: u64,
    /// The names of the properties, in the order of the columns.
    properties: Vec<String>,
    /// One feature after the other: whether it has an id, its id, then the value of each property as it stands in a layer, or
    /// [`MISSING`].
    bytes: Vec<u8>,
    /// Where each one begins; empty if each begins where the one before it ends.
    starts: Vec<u32>,
    /// Where each one ends.
    ends: Vec<u32>,
    /// An upper bound for the bytes of all features.
    most: usize,
}

impl Features {
    /// Begins without features. `properties` are the columns in their order; the other arguments bound the features and bytes to come.
    #[must_use]
    pub fn new(properties: Vec<String>, expected: usize, most: usize) -> Features {
        Features { properties, ends: Vec::with_capacity(expected), most, ..Features::default() }
    }

    /// Adds the features of a tile that has this one layer, and returns how many there are. Their positions are ignored.
    ///
    /// `None` if the layer is not encoded as PostGIS encodes points, or all features take more than 4 GB; the value must not be used after
    /// that.
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
            // One allocation for all, if the others are about as long: growing would take twice the memory for a moment.
            let each = self.bytes.len().div_ceil(points.features.len().max(1)) + 4;
            let expected = self.ends.capacity().saturating_mul(each).min(self.most);
            let reserved = self.bytes.try_reserve(expected);
            // Without it they grow, as far as they may.
            reserved.unwrap_or_default();
        }
        Some(points.features.len())
    }

    /// Adds the features of another layer after these. `None` if that is another layer, or all features take more than 4 GB; the value must not
    /// be used after that.
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

    /// Makes room for as many bytes and features as others have.
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

    /// The same layer with other features: `spans` of `bytes` that [`Features::encoded`] gave, in the order that they have in a tile.
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

    /// A feature by its number, as it is kept here.
    #[must_use]
    pub fn encoded(&self, number: u32) -> Option<&[u8]> {
        self.feature(number).map(|(_, bytes)| bytes)
    }

    /// The number of features.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no feature.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The memory in use, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len() + (self.starts.len() + self.ends.len()) * size_of::<u32>()
    }

    /// A feature, and where it begins.
    fn feature(&self, number: u32) -> Option<(u32, &[u8])> {
        let number = number as usize;
        let start = match (self.starts.get(number), number) {
            (Some(start), _) => *start,
            (None, 0) => 0,
            (None, number) => *self.ends.get(number - 1)?,
        };
        Some((start, self.bytes.get(start as usize..*self.ends.get(number)? as usize)?))
    }

    /// The value that begins at a place.
    fn value(&self, start: u32) -> Option<&[u8]> {
        first_value(self.bytes.get(start as usize..)?).map(|(value, _)| value)
    }
}

/// An estimate for the bytes of a feature in a tile beside the values of its properties.
const AROUND: usize = 32;

/// The marker of a property that a feature does not have. No value begins with this byte.
const MISSING: u8 = 0;

/// Splits the first value from the bytes. A value is one field, which begins with its length.
fn first_value(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Fields(bytes);
    fields.next()?.ok()?;
    bytes.split_at_checked(bytes.len() - fields.0.len())
}

/// A layer of so many bytes is heavy.
const HEAVY: usize = 1 << 16;

/// Draws tiles from features, one at a time.
pub struct Drawer<'f> {
    features: &'f Features,
    /// The offsets of the current tile's values among the features' bytes.
    values: Vec<u32>,
    /// Their numbers, found by the values.
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
    layer: Vec<u8>,
    tags: Vec<u8>,
    geometry: Vec<u8>,
}

impl<'f> Drawer<'f> {
    /// A drawer for these features.
    #[must_use]
    pub fn new(features: &'f Features) -> Drawer<'f> {
        Drawer {
            features,
            values: Vec::new(),
            numbers: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            layer: Vec::new(),
            tags: Vec::new(),
            geometry: Vec::new(),
        }
    }

    /// A tile with the layer, with some of the features (by their numbers, ascending) at these positions of its grid. No
    /// feature makes no layer.
    ///
    /// `None` if there is no such feature.
    pub fn tile(&mut self, drawn: impl Iterator<Item = (u32, [i32; 2])> + Clone) -> Option<Vec<u8>> {
        self.layer.clear();
        self.values.clear();
        self.numbers.clear();
        // About as much as the tile will have: growing would take twice the memory for a moment.
        let sizes = drawn.clone().filter_map(|(number, _)| Some(self.features.feature(number)?.1.len() + AROUND));
        self.layer.reserve(sizes.sum());
        let mut is_empty = true;
        for (number, at) in drawn {
            if std::mem::take(&mut is_empty) {
                put_bytes(&mut self.layer, 1, &self.features.name);
            }
            self.put(number, at)?;
        }
        if is_empty {
            return Some(Vec::new());
        }
        let values = self.values.iter().map(|start| self.features.value(*start));
        put_ends(&mut self.layer, &self.features.properties, values, self.features.extent)?;
        let field = layer_field(self.layer.len());
        if self.layer.len() < HEAVY {
            return Some([&field[..], &self.layer].concat());
        }
        // Not twice at once.
        let mut tile = std::mem::take(&mut self.layer);
        tile.splice(..0, field);
        Some(tile)
    }

    /// The number of a value in the current tile, by its offset among the features' bytes; `None` if there is no value at the offset.
    fn number(&mut self, start: u32, value: &[u8]) -> Option<u32> {
        let (features, values, hasher) = (self.features, &mut self.values, &self.hasher);
        let known = |number: &u32| features.value(values[*number as usize]).unwrap_or_default();
        let entry = self.numbers.entry(
            hasher.hash_one(value),
            |number| known(number) == value,
            |number| hasher.hash_one(known(number)),
        );
        match entry {
            Entry::Occupied(known) => Some(*known.get()),
            Entry::Vacant(free) => {
                let number = u32::try_from(values.len()).ok()?;
                free.insert(number);
                values.push(start);
                Some(number)
            }
        }
    }

    fn put(&mut self, number: u32, at: [i32; 2]) -> Option<()> {
        let (start, mut rest) = self.features.feature(number)?;
        let end = start + u32::try_from(rest.len()).ok()?;
        let id = if next_number(&mut rest).ok()? == 0 { None } else { Some(next_number(&mut rest).ok()?) };
        self.tags.clear();
        for key in 0..self.features.properties.len() {
            if let Some(after) = rest.strip_prefix(&[MISSING]) {
                rest = after;
                continue;
            }
            let (value, after) = first_value(rest)?;
            let start = end - u32::try_from(rest.len()).ok()?;
            rest = after;
            put_packed(&mut self.tags, key as u64);
            let number = self.number(start, value)?;
            put_packed(&mut self.tags, number.into());
        }
        // MoveTo, once (section 4.3.1).
        self.geometry.clear();
        for number in [9, zigzag(at[0]), zigzag(at[1])] {
            put_packed(&mut self.geometry, number);
        }
        put_point(&mut self.layer, id, &self.tags, &self.geometry);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvt::put_layer;
    use crate::mvt::wire::put_number;

    /// A value that is a text or a number, as it stands in a layer.
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
            put_point(&mut layer, *id, &tags, &geometry);
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
        let mut drawer = Drawer::new(&features);
        for wanted in [&[0, 1, 2, 3, 4][..], &[4], &[1, 3], &[0, 2], &[2, 3, 4]] {
            let drawn = wanted.iter().map(|number| (*number, rows[*number as usize].2));
            let expected: Vec<_> = wanted.iter().map(|number| rows[*number as usize]).collect();
            assert_eq!(drawer.tile(drawn), Some(tile(&properties, &expected)), "{wanted:?}");
        }
        assert_eq!(drawer.tile(std::iter::empty()), Some(Vec::new()));
        assert_eq!(drawer.tile(std::iter::once((5, [0, 0]))), None);
        // Heavy ones, too.
        let many = || (0..20_000).map(|n| (n % 5, rows[n as usize % 5].2));
        let expected: Vec<_> = many().map(|(number, _)| rows[number as usize]).collect();
        assert_eq!(drawer.tile(many()), Some(tile(&properties, &expected)));
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
