//! Tiles drawn from cached features, byte for byte as `ST_AsMVT` writes them: features in the order of the rows, the
//! names of all columns and of the members of objects, and each value once, members and values in the order of their
//! first occurrence in the features (`postgis/mvt.c`).
//!
//! A [`Drawer`] draws many tiles of features that are in memory; a [`TileInPieces`] is one tile whose features come in
//! pieces.

use std::hash::BuildHasher as _;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::features::{AROUND, Features, MISSING, first_value, key_of_property};
use super::points::{layer_field, put_ends, put_extent, put_feature, put_names};
use super::wire::{next_number, put_bytes, put_number, put_packed, zigzag};

/// The value that begins at an offset.
fn value_at(bytes: &[u8], offset: u32) -> Option<&[u8]> {
    leading_value(bytes.get(offset as usize..)?)
}

fn leading_value(bytes: &[u8]) -> Option<&[u8]> {
    first_value(bytes).map(|(value, _)| value)
}

/// Properties that all features of a tile have alike, such as the tile's own address. Cached features lack them.
#[derive(Debug, Clone, Default)]
pub struct TileConstants {
    /// The indexes of the properties, each with the offset of its encoded value, in ascending order.
    properties: Vec<(usize, u32)>,
    values: Vec<u8>,
}

impl TileConstants {
    /// Adds the property with this index, which must be greater than those before. Its value is an integer.
    pub fn add(&mut self, property: usize, value: u32) {
        #[expect(clippy::cast_possible_truncation, reason = "a tile's address takes a few bytes")]
        self.properties.push((property, self.values.len() as u32));
        put_number(&mut self.values, UINT_VALUE, value.into());
    }

    /// The offset and the value of a property; `None` if features have it by themselves.
    fn value(&self, property: usize) -> Option<(u32, &[u8])> {
        let (_, offset) = self.properties.iter().find(|(known, _)| *known == property)?;
        Some((*offset, value_at(&self.values, *offset)?))
    }
}

/// The field of a value that is an unsigned integer (MVT 2.1, section 4.4), as `ST_AsMVT` writes integers from 0 on.
const UINT_VALUE: u64 = 5;

/// The size in bytes from which on a layer gets its header in place, because a copy would take the memory twice.
const HEAVY: usize = 1 << 16;

/// The first tile gets room for the values of this many features.
const MOST_EXPECTED: usize = 64;

/// Cached features of one layer, which follow the numbers of others.
#[derive(Clone, Copy)]
struct FeatureList<'f> {
    first: &'f Features,
    more: Option<&'f Features>,
}

impl<'f> FeatureList<'f> {
    /// The offset at which a feature begins, counted over the bytes of all features, and its bytes.
    fn feature(self, number: u32) -> Option<(u32, &'f [u8])> {
        let Some(more) = self.more else { return self.first.feature(number) };
        let before = u32::try_from(self.first.len()).ok()?;
        let Some(number) = number.checked_sub(before) else { return self.first.feature(number) };
        let (start, bytes) = more.feature(number)?;
        Some((start.checked_add(u32::try_from(self.first.bytes().len()).ok()?)?, bytes))
    }

    /// The bytes that begin at an offset; as many as there are.
    fn from(self, offset: u32) -> Option<&'f [u8]> {
        let (first, offset) = (self.first.bytes(), offset as usize);
        match self.more {
            Some(more) if offset >= first.len() => more.bytes().get(offset - first.len()..),
            _ => first.get(offset..),
        }
    }

    /// The number of all bytes.
    fn size(self) -> Option<u32> {
        u32::try_from(self.first.bytes().len() + self.more.map_or(0, |more| more.bytes().len())).ok()
    }

    /// A list that has the layer's name and extent.
    fn known(self) -> &'f Features {
        match self.more {
            Some(more) if self.first.is_empty() => more,
            _ => self.first,
        }
    }
}

/// The geometry of a feature in the grid of a tile.
pub trait FeatureGeometry: Copy {
    /// Its type (MVT 2.1, section 4.3.4).
    fn geometry_type(self) -> u64;
    /// Appends its commands (section 4.3).
    fn put(self, bytes: &mut Vec<u8>);
}

/// A single position: x, y.
impl FeatureGeometry for [i32; 2] {
    fn geometry_type(self) -> u64 {
        1
    }

    fn put(self, bytes: &mut Vec<u8>) {
        // MoveTo, once (section 4.3.1).
        for number in [9, zigzag(self[0]), zigzag(self[1])] {
            put_packed(bytes, number);
        }
    }
}

/// A geometry whose commands are there already.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EncodedGeometry<'a> {
    pub(crate) geometry_type: u64,
    pub(crate) commands: &'a [u8],
}

impl FeatureGeometry for EncodedGeometry<'_> {
    fn geometry_type(self) -> u64 {
        self.geometry_type
    }

    fn put(self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(self.commands);
    }
}

/// Cached features, and what all of them have alike in a tile.
#[derive(Clone, Copy)]
struct CachedFeatures<'a> {
    features: FeatureList<'a>,
    constants: &'a TileConstants,
}

#[derive(Default)]
struct FeatureBuffers {
    tags: Vec<u8>,
    geometry: Vec<u8>,
}

impl FeatureBuffers {
    /// Appends a feature, by its number, with its geometry in the tile. `number` returns the number of a value in
    /// the tile, from the value's offset in the bytes of the features, or of the constants behind them, and the value;
    /// `key` the same for the name of a member among all members' names. `None` if there is no such feature, or if a
    /// value or a name has no number.
    fn put(
        &mut self,
        layer: &mut Vec<u8>,
        CachedFeatures { features, constants }: CachedFeatures<'_>,
        feature: u32,
        geometry: impl FeatureGeometry,
        mut number: impl FnMut(u32, &[u8]) -> Option<u32>,
        mut key: impl FnMut(u32, &[u8]) -> Option<u32>,
    ) -> Option<()> {
        let (start, mut rest) = features.feature(feature)?;
        let end = start + u32::try_from(rest.len()).ok()?;
        let id = if next_number(&mut rest).ok()? == 0 { None } else { Some(next_number(&mut rest).ok()?) };
        self.tags.clear();
        let (known, mut keys) = (features.known(), 0);
        for property in 0..known.layer().1.len() {
            if known.objects() == Some(property) {
                let names = known.layer().1.len() as u64 - 1;
                while !starts_missing(&mut rest) {
                    let (start, member) = offset_and_value(&mut rest, end)?;
                    let key = match key_of_property(member) {
                        Some(key) => key,
                        None => names + u64::from(key(start, member)?),
                    };
                    if !starts_missing(&mut rest) {
                        let (start, value) = offset_and_value(&mut rest, end)?;
                        put_packed(&mut self.tags, key);
                        put_packed(&mut self.tags, number(start, value)?.into());
                    }
                }
                continue;
            }
            let value = if starts_missing(&mut rest) {
                constants.value(property).map(|(offset, value)| Some((features.size()?.checked_add(offset)?, value)))
            } else {
                Some(offset_and_value(&mut rest, end))
            };
            if let Some(value) = value {
                let (start, value) = value?;
                put_packed(&mut self.tags, keys);
                put_packed(&mut self.tags, number(start, value)?.into());
            }
            keys += 1;
        }
        self.geometry.clear();
        geometry.put(&mut self.geometry);
        put_feature(layer, id, &self.tags, geometry.geometry_type(), &self.geometry);
        Some(())
    }
}

/// Removes the first encoded value, or the first key of a member, from the bytes. Returns its offset and its bytes. The
/// bytes end at the offset `end`.
fn offset_and_value<'b>(bytes: &mut &'b [u8], end: u32) -> Option<(u32, &'b [u8])> {
    let start = end - u32::try_from(bytes.len()).ok()?;
    let (value, after) = first_value(bytes)?;
    *bytes = after;
    Some((start, value))
}

/// Removes [`MISSING`] from the beginning of the bytes. False if they begin otherwise.
fn starts_missing(bytes: &mut &[u8]) -> bool {
    let after = bytes.strip_prefix(&[MISSING]);
    *bytes = after.unwrap_or(bytes);
    after.is_some()
}

/// The values of a tile, or the names of members, numbered in the order of their first occurrence in the features.
#[derive(Default)]
struct ValueTable {
    /// The offset of each value among some bytes.
    offsets: Vec<u32>,
    /// Their numbers, found by the values.
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl ValueTable {
    fn clear(&mut self) {
        self.offsets.clear();
        self.numbers.clear();
    }

    /// Makes room for values, if there is none so far.
    fn reserve(&mut self, count: usize) {
        if self.numbers.capacity() == 0 {
            self.offsets.reserve(count);
            self.numbers.reserve(count, |_| 0);
        }
    }

    /// The number of a value, and whether it is new. The caller must add the offset of a new value. `at` returns the
    /// other values by their offsets.
    fn number<'v>(&mut self, at: impl Fn(u32) -> Option<&'v [u8]>, value: &[u8]) -> Option<(u32, bool)> {
        let (offsets, hasher) = (&self.offsets, &self.hasher);
        let known = |number: &u32| at(offsets[*number as usize]).unwrap_or_default();
        let entry = self.numbers.entry(
            hasher.hash_one(value),
            |number| known(number) == value,
            |number| hasher.hash_one(known(number)),
        );
        match entry {
            Entry::Occupied(known) => Some((*known.get(), false)),
            Entry::Vacant(free) => {
                let number = u32::try_from(offsets.len()).ok()?;
                free.insert(number);
                Some((number, true))
            }
        }
    }

    /// The number of a value whose offset is `start`.
    fn number_at<'v>(&mut self, at: impl Fn(u32) -> Option<&'v [u8]>, start: u32, value: &[u8]) -> Option<u32> {
        let (number, is_new) = self.number(at, value)?;
        if is_new {
            self.offsets.push(start);
        }
        Some(number)
    }
}

/// Draws tiles from features, one at a time.
pub struct Drawer<'f> {
    features: FeatureList<'f>,
    values: ValueTable,
    /// The names of members.
    members: ValueTable,
    layer: Vec<u8>,
    buffers: FeatureBuffers,
}

impl<'f> Drawer<'f> {
    /// A drawer for these features.
    pub fn new(features: &'f Features) -> Drawer<'f> {
        Drawer::with_more(features, None)
    }

    /// A drawer for two lists of features of the same layer. The numbers of the second continue those of the first.
    pub fn with_more(first: &'f Features, more: Option<&'f Features>) -> Drawer<'f> {
        let features = FeatureList { first, more };
        let (values, members) = (ValueTable::default(), ValueTable::default());
        Drawer { features, values, members, layer: Vec::new(), buffers: FeatureBuffers::default() }
    }

    /// A tile with some of the features, given by their numbers in their order in the tile and their geometries there.
    /// Without features, it has no layer.
    ///
    /// `None` if there is no such feature.
    pub fn tile(
        &mut self,
        constants: &TileConstants,
        drawn: impl Iterator<Item = (u32, impl FeatureGeometry)> + Clone,
    ) -> Option<Vec<u8>> {
        let Drawer { features, values, members, layer, buffers } = self;
        let features = *features;
        let behind = features.size()?;
        let at = |offset: u32| match offset.checked_sub(behind) {
            None => leading_value(features.from(offset)?),
            Some(offset) => value_at(&constants.values, offset),
        };
        let (name, _, extent) = features.known().layer();
        layer.clear();
        values.clear();
        members.clear();
        // About as many bytes as the tile will have. Growing the vector would take twice the memory for a moment.
        let sizes = drawn.clone().filter_map(|(number, _)| Some(features.feature(number)?.1.len() + AROUND));
        layer.reserve(sizes.sum());
        values.reserve(features.known().layer().1.len() * drawn.clone().take(MOST_EXPECTED).count());
        let mut is_empty = true;
        for (feature, geometry) in drawn {
            if std::mem::take(&mut is_empty) {
                put_bytes(layer, 1, name);
            }
            let number = |start, value: &[u8]| values.number_at(at, start, value);
            let key = |start, name: &[u8]| members.number_at(at, start, name);
            buffers.put(layer, CachedFeatures { features, constants }, feature, geometry, number, key)?;
        }
        if is_empty {
            return Some(Vec::new());
        }
        let of_tile = values.offsets.iter().map(|start| at(*start));
        put_names(layer, features.known().names());
        for start in &members.offsets {
            layer.extend_from_slice(at(*start)?);
        }
        put_ends(layer, of_tile, extent)?;
        let field = layer_field(layer.len());
        if layer.len() < HEAVY {
            return Some([&field[..], layer].concat());
        }
        // In place, so that the layer is not in memory twice.
        let mut tile = std::mem::take(layer);
        tile.splice(..0, field);
        Some(tile)
    }
}

/// A tile whose features are added in pieces, so that not all of them must be in memory at the same time.
#[derive(Default)]
pub struct TileInPieces {
    /// The layer's name and the features so far.
    layer: Vec<u8>,
    /// The values so far, encoded as they follow the features in the layer.
    values: Vec<u8>,
    known: ValueTable,
    /// The names of members so far, encoded as they follow those of the properties.
    names: Vec<u8>,
    known_names: ValueTable,
    buffers: FeatureBuffers,
    features: u64,
}

impl TileInPieces {
    /// A tile without features. `bytes` is an estimate of the size of the encoded values of all features.
    pub fn new(bytes: usize) -> TileInPieces {
        let mut values = Vec::new();
        // Growing the vector would take twice the memory for a moment, and unused capacity costs nothing. If the
        // capacity cannot be reserved, the vector grows.
        values.try_reserve(bytes).unwrap_or_default();
        TileInPieces { values, ..TileInPieces::default() }
    }

    /// Appends some of the features, given by their numbers in ascending order and their positions in the tile's grid.
    /// `None` if there is no such feature, or if all values take more than 4 GB; the tile must not be used after that.
    pub fn add(
        &mut self,
        features: &Features,
        constants: &TileConstants,
        drawn: impl Iterator<Item = (u32, [i32; 2])>,
    ) -> Option<()> {
        let TileInPieces { layer, values, known, names, known_names, buffers, features: count } = self;
        for (feature, at) in drawn {
            if *count == 0 {
                put_bytes(layer, 1, features.layer().0);
            }
            *count += 1;
            let number = |_, value: &[u8]| {
                let (number, is_new) = known.number(|offset| value_at(values, offset), value)?;
                if is_new {
                    put_bytes(values, 4, value);
                    known.offsets.push(u32::try_from(values.len() - value.len()).ok()?);
                }
                Some(number)
            };
            let key = |_, name: &[u8]| {
                let (number, is_new) = known_names.number(|offset| value_at(names, offset), name)?;
                if is_new {
                    known_names.offsets.push(u32::try_from(names.len()).ok()?);
                    names.extend_from_slice(name);
                }
                Some(number)
            };
            let features = FeatureList { first: features, more: None };
            buffers.put(layer, CachedFeatures { features, constants }, feature, at, number, key)?;
        }
        Some(())
    }

    /// The number of its features.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// The tile. `of` is the layer of the features, with or without features. Without features, the tile has no layer.
    #[must_use]
    pub fn finish(self, of: &Features) -> Vec<u8> {
        let TileInPieces { mut layer, mut values, known, names, features, .. } = self;
        if features == 0 {
            return Vec::new();
        }
        drop(known);
        let (_, _, extent) = of.layer();
        put_names(&mut layer, of.names());
        layer.extend(names);
        put_extent(&mut values, extent);
        let field = layer_field(layer.len() + values.len());
        values.splice(..0, field.into_iter().chain(layer.drain(..)));
        values
    }
}
