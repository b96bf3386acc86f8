//! Replaces some features of a layer of points. The result is byte for byte what `ST_AsMVT` would write for the whole
//! layer.
//!
//! PostGIS writes features in the order of the rows, the names of all columns, and each value once, in the order of the
//! values' first occurrence in the features (`postgis/mvt.c`). So the layer is split into its features, the new
//! features are merged in by their keys, and the values are numbered again. A layer that is not encoded as PostGIS
//! encodes it is not edited.

use std::collections::HashMap;

use super::wire::{Broken, FieldValue, Fields, next_number, packed_size, put_bytes, put_number, put_packed, signed};
use crate::tile::{GridBox, GridBoxes};

/// The key that identifies and orders the features of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeatureKey {
    /// Their ids.
    Id,
    /// The property with this index among the layer's keys: texts by their bytes, or whole numbers.
    Property(usize),
    /// Bytes behind the encoded features of kept rows, which no tile holds.
    Behind,
}

/// What the configuration says about a layer of points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointLayer {
    /// The key that orders its features.
    pub key: FeatureKey,
    /// The names of its properties, in the order of its columns.
    pub properties: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key<'a> {
    Number(i128),
    Text(&'a [u8]),
    /// Bytes that compare as the keys do in the database.
    Bytes(&'a [u8]),
}

impl Key<'_> {
    /// True if this key comes before `next` in a layer. False if they are of different kinds.
    pub(crate) fn is_before(&self, next: &Key<'_>) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(next) && self < next
    }
}

/// An encoded feature.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Point<'a> {
    pub(crate) id: Option<u64>,
    pub(crate) tags: &'a [u8],
    geometry: &'a [u8],
    at: [i64; 2],
}

/// An encoded layer, split into its parts.
pub(crate) struct Points<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) extent: u64,
    /// The names of the keys behind those of the properties.
    pub(crate) further: Vec<&'a [u8]>,
    pub(crate) values: Vec<&'a [u8]>,
    pub(crate) features: Vec<Point<'a>>,
}

/// The keys and values of a feature's properties, in the order in which PostGIS writes them: that of the columns, the
/// members of an object in place of its column (`postgis/mvt.c`, `parse_values`).
pub(crate) struct Tags<'a, 'p> {
    pub(crate) rest: &'a [u8],
    pub(crate) values: &'p [&'a [u8]],
}

impl<'a> Tags<'a, '_> {
    /// The next key and its value; `None` if there is none.
    pub(crate) fn next(&mut self) -> Option<(u64, &'a [u8])> {
        let (key, value) = (next_number(&mut self.rest).ok()?, next_number(&mut self.rest).ok()?);
        Some((key, self.values.get(usize::try_from(value).ok()?)?))
    }

    /// The next value if it is that of a key, which is passed then.
    pub(crate) fn value_of(&mut self, key: u64) -> Result<Option<&'a [u8]>, Broken> {
        let mut rest = self.rest;
        if rest.is_empty() || next_number(&mut rest)? != key {
            return Ok(None);
        }
        Ok(Some(self.next().ok_or("a feature names a value that its layer does not have")?.1))
    }
}

/// The number of features of a layer; `None` if it is broken.
pub fn count_features(layer: &[u8]) -> Option<usize> {
    let mut count = 0;
    for field in Fields(layer) {
        count += usize::from(field.ok()?.0 == 2);
    }
    Some(count)
}

/// The name and the bytes of each layer of a tile; `None` if the tile is broken.
pub fn split(tile: &[u8]) -> Option<Vec<(&str, &[u8])>> {
    let mut layers = Vec::new();
    for field in Fields(tile) {
        let (3, FieldValue::Bytes(layer)) = field.ok()? else { return None };
        let (1, name) = Fields(layer).next()?.ok()? else { return None };
        layers.push((name.text().ok()?, layer));
    }
    Some(layers)
}

/// Appends a layer to a tile.
pub fn put_layer(tile: &mut Vec<u8>, layer: &[u8]) {
    put_bytes(tile, 3, layer);
}

/// The header of a layer in a tile.
pub(crate) fn layer_field(bytes: usize) -> Vec<u8> {
    let mut field = Vec::new();
    put_packed(&mut field, 3 << 3 | 2);
    put_packed(&mut field, bytes as u64);
    field
}

/// Replaces the features of `old` that lie in the boxes by the features of `fresh` that lie in them. Returns the layer,
/// empty if no feature is left, and the number of its features. `fresh` must be empty, or contain at least every
/// feature that now lies in the boxes.
///
/// `None` if the layer cannot be edited: it has other geometries than single points, or features without a key or not
/// sorted by it, or it is not encoded as PostGIS encodes it.
pub fn replaced(old: &[u8], fresh: &[u8], boxes: &[GridBox], known: &PointLayer) -> Option<(Vec<u8>, usize)> {
    let most = old.len() + fresh.len();
    let read = |layer| Points::read(layer, &known.properties).filter(|points| points.further.is_empty());
    let old = read(old)?;
    let fresh = if fresh.is_empty() { None } else { Some(read(fresh)?) };
    if fresh.as_ref().is_some_and(|fresh| (fresh.name, fresh.extent) != (old.name, old.extent)) {
        return None;
    }
    let boxes = GridBoxes::new(boxes);
    let is_inside = |point: &Point<'_>| boxes.hold(point.at);
    // The removed features are checked, too: if they are not sorted, the layer is not ordered by the key.
    let mut features = old.in_order(known, false)?;
    features.retain(|feature| !is_inside(&feature.point));
    if let Some(fresh) = &fresh {
        features.extend(fresh.in_order(known, true)?.into_iter().filter(|feature| is_inside(&feature.point)));
        // Merges two sorted runs.
        features.sort_by_key(|feature| feature.key);
    }
    if !are_in_order(&features) {
        return None;
    }
    let mut layer = Vec::new();
    if !features.is_empty() {
        layer.reserve(most);
        write(&mut layer, &old, fresh.as_ref(), &features, known)?;
    }
    Some((layer, features.len()))
}

/// A feature of the fresh layer or of the old one, with its key.
#[derive(Debug, Clone, Copy)]
struct Keyed<'a> {
    key: Key<'a>,
    is_fresh: bool,
    point: Point<'a>,
}

/// True if all keys are of one kind and in ascending order.
fn are_in_order(features: &[Keyed<'_>]) -> bool {
    features.is_sorted_by(|one, next| one.key.is_before(&next.key))
}

/// Writes a layer of features from the fresh layer and the old one; `None` if a feature refers to a value that its
/// layer does not have.
fn write(
    layer: &mut Vec<u8>,
    old: &Points<'_>,
    fresh: Option<&Points<'_>>,
    features: &[Keyed<'_>],
    known: &PointLayer,
) -> Option<()> {
    let mut numbers = ValueNumbers::new(old, fresh);
    put_bytes(layer, 1, old.name);
    let mut tags = Vec::new();
    for Keyed { is_fresh, point, .. } in features {
        tags.clear();
        let mut rest = point.tags;
        while !rest.is_empty() {
            let (key, value) = (next_number(&mut rest).ok()?, next_number(&mut rest).ok()?);
            put_packed(&mut tags, key);
            put_packed(&mut tags, numbers.of(*is_fresh, usize::try_from(value).ok()?)?);
        }
        put_feature(layer, point.id, &tags, 1, point.geometry);
    }
    put_names(layer, known.properties.iter());
    put_ends(layer, numbers.values.into_iter().map(Some), old.extent)
}

/// Appends a feature to a layer.
pub(crate) fn put_feature(layer: &mut Vec<u8>, id: Option<u64>, tags: &[u8], geometry_type: u64, geometry: &[u8]) {
    let bytes = |value: &[u8]| 1 + packed_size(value.len() as u64) + value.len();
    let id_size = id.map_or(0, |id| 1 + packed_size(id));
    let tags_size = if tags.is_empty() { 0 } else { bytes(tags) };
    put_packed(layer, 2 << 3 | 2);
    put_packed(layer, (id_size + tags_size + 2 + bytes(geometry)) as u64);
    if let Some(id) = id {
        put_number(layer, 1, id);
    }
    if !tags.is_empty() {
        put_bytes(layer, 2, tags);
    }
    put_number(layer, 3, geometry_type);
    put_bytes(layer, 4, geometry);
}

/// Appends what follows the names of a layer: values, extent, version. `None` if a value is missing.
pub(crate) fn put_ends<'v>(
    layer: &mut Vec<u8>,
    values: impl Iterator<Item = Option<&'v [u8]>>,
    extent: u64,
) -> Option<()> {
    for value in values {
        put_bytes(layer, 4, value?);
    }
    put_extent(layer, extent);
    Some(())
}

/// Appends the names of properties to a layer, which follow the features.
pub(crate) fn put_names<'n>(layer: &mut Vec<u8>, properties: impl Iterator<Item = &'n String>) {
    for name in properties {
        put_bytes(layer, 3, name.as_bytes());
    }
}

/// Appends what follows the values of a layer: extent and version.
pub(crate) fn put_extent(layer: &mut Vec<u8>, extent: u64) {
    put_number(layer, 5, extent);
    put_number(layer, 15, 2);
}

/// Numbers the values of the new layer in the order of their first occurrence in the features.
struct ValueNumbers<'a, 'l> {
    old: &'l Points<'a>,
    fresh: Option<&'l Points<'a>>,
    values: Vec<&'a [u8]>,
    /// The new numbers of the old layer's values.
    of_old: Vec<Option<u64>>,
    /// The new numbers of the fresh layer's values.
    of_fresh: Vec<Option<u64>>,
    /// For each value of the fresh layer, the index of the equal value of the old one.
    same: Vec<Option<usize>>,
}

impl<'a, 'l> ValueNumbers<'a, 'l> {
    fn new(old: &'l Points<'a>, fresh: Option<&'l Points<'a>>) -> ValueNumbers<'a, 'l> {
        let fresh_values = fresh.map_or(&[][..], |fresh| &fresh.values);
        let mut wanted: HashMap<&[u8], usize> = HashMap::new();
        // Length and last byte are enough to distinguish most values of the old layer from the few new ones.
        let mut alike = vec![false; 1 << 16];
        for (number, value) in fresh_values.iter().enumerate() {
            alike[likeness(value)] = true;
            wanted.insert(value, number);
        }
        let mut same = vec![None; fresh_values.len()];
        for (number, value) in old.values.iter().enumerate().filter(|(_, value)| alike[likeness(value)]) {
            if let Some(found) = wanted.get(value) {
                same[*found] = Some(number);
            }
        }
        let (of_old, of_fresh) = (vec![None; old.values.len()], vec![None; fresh_values.len()]);
        ValueNumbers { old, fresh, values: Vec::with_capacity(old.values.len()), of_old, of_fresh, same }
    }

    /// The new number of a value of the fresh layer or of the old one. `None` if that layer has no such value.
    fn of(&mut self, is_fresh: bool, value: usize) -> Option<u64> {
        let (number, bytes) = match (is_fresh, if is_fresh { *self.same.get(value)? } else { Some(value) }) {
            (_, Some(old)) => (self.of_old.get_mut(old)?, *self.old.values.get(old)?),
            (_, None) => (self.of_fresh.get_mut(value)?, *self.fresh?.values.get(value)?),
        };
        Some(*number.get_or_insert_with(|| {
            self.values.push(bytes);
            self.values.len() as u64 - 1
        }))
    }
}

fn likeness(value: &[u8]) -> usize {
    (value.len() & 0xff) << 8 | usize::from(value.last().copied().unwrap_or_default())
}

impl<'a> Points<'a> {
    /// Splits a layer whose first keys are `properties`, in the order of the columns; `None` if it is not encoded as
    /// PostGIS encodes points.
    pub(crate) fn read(layer: &'a [u8], properties: &[String]) -> Option<Points<'a>> {
        let (mut name, mut extent, mut version) = (None, None, None);
        let (mut names, mut further, mut values, mut features) = (0, Vec::new(), Vec::new(), Vec::new());
        for field in Fields(layer) {
            match field.ok()? {
                (1, FieldValue::Bytes(text)) => name = Some(text),
                (2, FieldValue::Bytes(feature)) => features.push(Point::read(feature)?),
                (3, FieldValue::Bytes(text)) => match properties.get(names) {
                    Some(property) if property.as_bytes() == text => names += 1,
                    Some(_) => return None,
                    None => further.push(text),
                },
                (4, FieldValue::Bytes(value)) => values.push(value),
                (5, FieldValue::Varint(number)) => extent = Some(number),
                (15, FieldValue::Varint(number)) => version = Some(number),
                _ => return None,
            }
        }
        if names != properties.len() || version != Some(2) {
            return None;
        }
        Some(Points { name: name?, extent: extent?, further, values, features })
    }

    /// The features with their keys; `None` if one has no key or they are not sorted by it.
    fn in_order(&self, known: &PointLayer, is_fresh: bool) -> Option<Vec<Keyed<'a>>> {
        let keyed = |point: &Point<'a>| Some(Keyed { key: self.key(point, &known.key)?, is_fresh, point: *point });
        let features: Vec<Keyed<'a>> = self.features.iter().map(keyed).collect::<Option<_>>()?;
        are_in_order(&features).then_some(features)
    }

    fn key(&self, point: &Point<'a>, key: &FeatureKey) -> Option<Key<'a>> {
        let property = match key {
            FeatureKey::Id => return point.id.map(|id| Key::Number(id.into())),
            FeatureKey::Property(property) => *property as u64,
            FeatureKey::Behind => return None,
        };
        let mut rest = point.tags;
        while !rest.is_empty() {
            let (name, value) = (next_number(&mut rest).ok()?, next_number(&mut rest).ok()?);
            if name == property {
                // The order of letters beyond ASCII depends on the encoding of the database that the layer is from.
                let is_sorted = |key: &Key<'_>| !matches!(key, Key::Text(text) if !text.is_ascii());
                return value_of_key(self.values.get(usize::try_from(value).ok()?)?).filter(is_sorted);
            }
        }
        None
    }
}

pub(crate) fn value_of_key(value: &[u8]) -> Option<Key<'_>> {
    match Fields(value).next()?.ok()? {
        (1, FieldValue::Bytes(text)) => Some(Key::Text(text)),
        (4, FieldValue::Varint(number)) => Some(Key::Number(number.cast_signed().into())),
        (5, FieldValue::Varint(number)) => Some(Key::Number(number.into())),
        (6, FieldValue::Varint(number)) => Some(Key::Number(signed(number).into())),
        _ => None,
    }
}

impl<'a> Point<'a> {
    fn read(feature: &'a [u8]) -> Option<Point<'a>> {
        let (mut id, mut tags, mut kind, mut geometry) = (None, &[][..], None, None);
        for field in Fields(feature) {
            match field.ok()? {
                (1, FieldValue::Varint(number)) => id = Some(number),
                (2, FieldValue::Bytes(bytes)) => tags = bytes,
                (3, FieldValue::Varint(number)) => kind = Some(number),
                (4, FieldValue::Bytes(bytes)) => geometry = Some(bytes),
                _ => return None,
            }
        }
        let geometry = geometry.filter(|_| kind == Some(1))?;
        // One position: MoveTo, once (section 4.3.1).
        let mut rest = geometry;
        let mut next = || next_number(&mut rest).ok();
        let (9, x, y) = (next()?, next()?, next()?) else { return None };
        rest.is_empty().then_some(Point { id, tags, geometry, at: [signed(x), signed(y)] })
    }
}
