//! Mapbox Vector Tiles 2.1: decoded, drawn from cached rows, and edited.
//!
//! Decoding is strict, borrows from the bytes, and never panics on any bytes. Tiles are written byte for byte as
//! PostGIS's `ST_AsMVT` writes them.
//!
//! [`decode`] returns the layers of a tile as [`MvtLayer`]s with [`Feature`]s and [`MvtValue`]s.
//!
//! | file | what |
//! |---|---|
//! | `geometry` | command integers to points, lines and polygons ([`MvtGeometry`]) |
//! | `features` | rows that were encoded once ([`Features`]) |
//! | `drawing` | tiles drawn from them ([`Drawer`], [`TileInPieces`]) |
//! | `points` | replaces some features of a layer of points ([`replaced`]), which is how tiles are patched |
//! | `shapes` | lines and polygons in the grid of a tile (`ShapeDrawer`) |
//! | `clip`, `rings`, `forms`, `parts` | pieces of that: cutting, polygons as Wagyu returns them, those that are drawn once for each form, commands |
//! | `overzoom` | a deeper tile drawn from one of its ancestors ([`overzoomed`]) |
//! | `compare` | two tiles, feature by feature ([`differences`]) |
//! | `wire` | the part of Protocol Buffers that tiles use |

#![warn(missing_docs, reason = "users of the library begin here")]

mod clip;
mod compare;
mod drawing;
mod features;
mod forms;
mod geometry;
mod overzoom;
mod parts;
mod points;
mod rings;
mod shapes;
mod wire;

use std::collections::HashSet;

use wire::{Broken, Fields, numbers, signed};

pub use compare::{LayerDifference, LayerExtents, differences};
pub(crate) use drawing::EncodedGeometry;
pub use drawing::{Drawer, FeatureGeometry, TileConstants, TileInPieces};
pub(crate) use features::MISSING;
pub use features::{BehindFeature, Features};
pub(crate) use forms::{Form, Forms};
pub use geometry::{MvtGeometry, Position};
pub use overzoom::{TileDescent, overzoomed};
pub(crate) use parts::{Parts, ShapeKind};
pub(crate) use points::Key as FeatureKeyValue;
pub use points::{FeatureKey, PointLayer, count_features, put_layer, replaced, split};
pub(crate) use shapes::{DrawingRules, Drawn, Shape, ShapeDrawer, TileGrid};

/// A decoded layer (section 4.1).
#[derive(Debug, Clone, PartialEq)]
pub struct MvtLayer<'a> {
    /// Its name, unique in the tile.
    pub name: &'a str,
    /// The extent: grid units along one side of the tile.
    pub extent: u32,
    /// Its features, in the order of the bytes.
    pub features: Vec<Feature>,
    keys: Vec<&'a str>,
    values: Vec<MvtValue<'a>>,
}

/// A decoded feature (section 4.2).
#[derive(Debug, Clone, PartialEq)]
pub struct Feature {
    /// Its id, if it has one.
    pub id: Option<u64>,
    /// Its geometry.
    pub geometry: MvtGeometry,
    /// Pairs of indexes into the layer's keys and values, checked.
    tags: Vec<u32>,
}

/// The value of a property (section 4.1): one of seven kinds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MvtValue<'a> {
    /// A text.
    Text(&'a str),
    /// A number of single precision.
    Float(f32),
    /// A number of double precision.
    Double(f64),
    /// A whole number.
    Int(i64),
    /// A whole number that is not negative.
    Uint(u64),
    /// A whole number, written so that negative ones are short.
    Sint(i64),
    /// Yes or no.
    Bool(bool),
}

impl MvtValue<'_> {
    /// Its kind in TileJSON: "String", "Number" or "Boolean" (TileJSON 3.0.0, section 3.3.2).
    pub fn kind(&self) -> &'static str {
        match self {
            MvtValue::Text(_) => "String",
            MvtValue::Bool(_) => "Boolean",
            MvtValue::Float(_) | MvtValue::Double(_) | MvtValue::Int(_) | MvtValue::Uint(_) | MvtValue::Sint(_) => {
                "Number"
            }
        }
    }
}

impl<'a> MvtLayer<'a> {
    /// The names and values of the properties of a feature.
    pub fn properties<'l>(&'l self, feature: &'l Feature) -> impl Iterator<Item = (&'a str, MvtValue<'a>)> + 'l {
        feature.tags.chunks_exact(2).filter_map(|tag| {
            let [key, value] = tag else { return None };
            Some((*self.keys.get(*key as usize)?, *self.values.get(*value as usize)?))
        })
    }

    /// The size of a feature's properties as text, in bytes. The tile itself stores each name and each text only once.
    pub fn size_of_properties(&self, feature: &Feature) -> usize {
        let size = |(key, value): (&str, MvtValue<'_>)| {
            // A number has at most twenty digits.
            key.len() + if let MvtValue::Text(text) = value { text.len() } else { 20 }
        };
        self.properties(feature).map(size).fold(0, usize::saturating_add)
    }
}

/// The most memory that a decoded tile may take, in bytes: enough for two million points with five properties each. A
/// hostile tile takes thirty times its own size.
const MAX_DECODED: usize = 1 << 30;

/// The memory that is left of [`MAX_DECODED`], in bytes.
struct DecodeBudget(usize);

impl DecodeBudget {
    /// Reserves memory for `count` items of `size` bytes before they are allocated.
    fn take(&mut self, count: usize, size: usize) -> Result<(), Broken> {
        let left = self.0.checked_sub(count.saturating_mul(size));
        self.0 = left.ok_or("it takes more than 1 GB of memory when it is decoded")?;
        Ok(())
    }
}

/// Why a tile cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its vector tile is broken: {place}{what}")]
pub struct MvtError {
    /// The layer and the feature, counted from 1, as far as they are known.
    place: String,
    /// What is wrong.
    what: String,
}

impl MvtError {
    fn new(what: &str) -> MvtError {
        MvtError { place: String::new(), what: what.to_owned() }
    }

    fn within(mut self, place: &str) -> MvtError {
        self.place = format!("{place}, {}", self.place);
        self
    }
}

/// Decodes the uncompressed bytes of a tile. Empty bytes are a tile without layers.
/// Fails if the bytes violate MVT 2.1 (they are cut off, or have a name twice, another version, a tag out of range or
/// an invalid geometry), or if the decoded tile would take more than 1 GB of memory.
pub fn decode(raw: &[u8]) -> Result<Vec<MvtLayer<'_>>, MvtError> {
    let mut layers = Vec::new();
    let (mut names, mut memory) = (HashSet::new(), DecodeBudget(MAX_DECODED));
    for field in Fields(raw) {
        let (number, value) = field.map_err(MvtError::new)?;
        if number != 3 {
            continue;
        }
        let bytes = value.bytes().map_err(MvtError::new)?;
        let layer = layer(bytes, &mut memory).map_err(|error| {
            let place = format!("layer {}", layers.len() + 1);
            error.within(&place)
        })?;
        if !names.insert(layer.name) {
            return Err(MvtError::new(&format!("two layers are named {:?}", layer.name)));
        }
        layers.push(layer);
    }
    Ok(layers)
}

fn layer<'a>(bytes: &'a [u8], memory: &mut DecodeBudget) -> Result<MvtLayer<'a>, MvtError> {
    // A vector that grows takes twice its size.
    const KEY: usize = 2 * size_of::<&str>();
    const VALUE: usize = 2 * size_of::<MvtValue<'_>>();
    const FEATURE: usize = 2 * size_of::<&[u8]>() + size_of::<Feature>();
    memory.take(1, size_of::<MvtLayer<'_>>() + 4 * size_of::<&str>()).map_err(MvtError::new)?;
    let (mut name, mut extent, mut version) = (None, None, None);
    let (mut keys, mut values, mut features) = (Vec::new(), Vec::new(), Vec::new());
    for field in Fields(bytes) {
        let mut read = || -> Result<(), Broken> {
            let (number, value) = field?;
            match number {
                1 => name = Some(value.text()?),
                2 => {
                    memory.take(1, FEATURE)?;
                    features.push(value.bytes()?);
                }
                3 => {
                    memory.take(1, KEY)?;
                    keys.push(value.text()?);
                }
                4 => {
                    memory.take(1, VALUE)?;
                    values.push(self::value(value.bytes()?)?);
                }
                5 => extent = Some(value.u32()?),
                15 => version = Some(value.u32()?),
                _ => {}
            }
            Ok(())
        };
        read().map_err(MvtError::new)?;
    }
    let name = name.ok_or_else(|| MvtError::new("it has no name"))?;
    match version {
        Some(2) => {}
        Some(other) => return Err(MvtError::new(&format!("it is of version {other}, not 2"))),
        None => return Err(MvtError::new("it names no version")),
    }
    let extent = extent.filter(|extent| *extent > 0).ok_or_else(|| MvtError::new("it has no extent"))?;
    let mut layer = MvtLayer { name, extent, features: Vec::with_capacity(features.len()), keys, values };
    for bytes in features {
        let feature = feature(bytes, &layer, memory).map_err(|what| {
            MvtError::new(&what).within(&format!("feature {}", layer.features.len() + 1)).within(&format!("{name:?}"))
        })?;
        layer.features.push(feature);
    }
    Ok(layer)
}

fn feature(bytes: &[u8], layer: &MvtLayer<'_>, memory: &mut DecodeBudget) -> Result<Feature, String> {
    // Each byte holds at most one number. The smallest ring of a polygon has nine numbers, and takes 200 bytes.
    const NUMBER: usize = 2 * size_of::<u32>();
    const COMMAND: usize = 24;
    let (mut id, mut kind, mut tags, mut commands) = (None, None, Vec::new(), Vec::new());
    for field in Fields(bytes) {
        let (number, value) = field?;
        match number {
            1 => id = Some(value.varint()?),
            2 => {
                memory.take(value.len(), NUMBER)?;
                numbers(value, &mut tags)?;
            }
            3 => kind = Some(value.varint()?),
            4 => {
                memory.take(value.len(), NUMBER)?;
                numbers(value, &mut commands)?;
            }
            _ => {}
        }
    }
    if tags.len() % 2 != 0 {
        return Err("a key has no value".to_owned());
    }
    memory.take(tags.len() / 2, 2 * size_of::<&str>())?;
    let mut seen = HashSet::new();
    for tag in tags.chunks_exact(2) {
        for (what, place, of) in [("key", tag[0], layer.keys.len()), ("value", tag[1], layer.values.len())] {
            if place as usize >= of {
                return Err(format!("a tag names {what} {place}, of {of}"));
            }
        }
        if !seen.insert(layer.keys[tag[0] as usize]) {
            return Err(format!("it has the key {:?} twice", layer.keys[tag[0] as usize]));
        }
    }
    let kind = kind.ok_or("it has no geometry type")?;
    memory.take(commands.len(), COMMAND)?;
    Ok(Feature { id, geometry: geometry::decode(kind, &commands)?, tags })
}

fn value(bytes: &[u8]) -> Result<MvtValue<'_>, Broken> {
    let mut found = None;
    for field in Fields(bytes) {
        let (number, value) = field?;
        let value = match (number, value) {
            (1, text) => MvtValue::Text(text.text()?),
            (2, wire::FieldValue::Fixed32(bytes)) => MvtValue::Float(f32::from_le_bytes(bytes)),
            (3, wire::FieldValue::Fixed64(bytes)) => MvtValue::Double(f64::from_le_bytes(bytes)),
            (4, number) => MvtValue::Int(number.varint()?.cast_signed()),
            (5, number) => MvtValue::Uint(number.varint()?),
            (6, number) => MvtValue::Sint(signed(number.varint()?)),
            (7, number) => MvtValue::Bool(number.varint()? != 0),
            (2 | 3, _) => return Err("a number of a property has another length than its kind"),
            _ => continue,
        };
        if found.replace(value).is_some() {
            return Err("a property has two values at once");
        }
    }
    found.ok_or("a property has no value")
}

#[cfg(test)]
mod tests;
