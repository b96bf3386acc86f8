//! Draws a deeper tile from one of its ancestors: the ancestor's features are clipped to the area of the deeper tile and scaled to it.
//!
//! The features keep their ids, properties and order. Detail that the deeper tile itself would have is missing, as when a map client enlarges the
//! ancestor.

mod clip;

use std::collections::HashMap;

use super::geometry::{MvtGeometry, Position};
use super::wire::{put_bytes, put_number, put_packed};
use super::{MvtError, MvtLayer, MvtValue, decode};
use crate::tile::TileCoord;
use clip::ClipBox;

/// The buffer around the deeper tile is the extent divided by this: 64 units of 4096, which is the default of a layer.
const EXTENT_PER_BUFFER: i64 = 64;

/// The place of a tile in one of its ancestors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileDescent {
    /// The difference of the zooms.
    levels: u8,
    /// The column and the row among the ancestor's descendants of that zoom, counted from its upper left corner.
    column: u32,
    row: u32,
}

impl TileDescent {
    /// The place of `tile` in `ancestor`; `None` if `tile` does not lie in it.
    #[must_use]
    pub fn new(ancestor: TileCoord, tile: TileCoord) -> Option<TileDescent> {
        let levels = tile.zoom().get().checked_sub(ancestor.zoom().get())?;
        let is_below = tile.x() >> levels == ancestor.x() && tile.y() >> levels == ancestor.y();
        let mask = (1_u32 << levels) - 1;
        is_below.then_some(TileDescent { levels, column: tile.x() & mask, row: tile.y() & mask })
    }

    /// A position of the ancestor in units of the deeper tile.
    fn moved(self, [x, y]: Position, extent: u32) -> [i64; 2] {
        let along = |at: i32, place: u32| (i64::from(at) << self.levels) - i64::from(place) * i64::from(extent);
        [along(x, self.column), along(y, self.row)]
    }
}

/// Draws a deeper tile from its ancestor; empty if there is nothing to draw. `raw` is the ancestor's uncompressed tile.
///
/// # Errors
/// If the ancestor violates MVT 2.1.
pub fn overzoomed(raw: &[u8], descent: TileDescent) -> Result<Vec<u8>, MvtError> {
    let mut tile = Vec::new();
    for layer in decode(raw)? {
        let mut bytes = Vec::new();
        if put_layer(&mut bytes, &layer, descent) {
            put_bytes(&mut tile, 3, &bytes);
        }
    }
    Ok(tile)
}

/// Appends the part of a layer that is left after clipping; false if nothing is left.
fn put_layer(bytes: &mut Vec<u8>, layer: &MvtLayer<'_>, descent: TileDescent) -> bool {
    let buffer = (i64::from(layer.extent) / EXTENT_PER_BUFFER).max(1);
    let clip = ClipBox { min: -buffer, max: i64::from(layer.extent) + buffer };
    put_bytes(bytes, 1, layer.name.as_bytes());
    let (mut keys, mut values) = (Renumbered::default(), Renumbered::default());
    let mut is_drawn = false;
    for feature in &layer.features {
        let Some(geometry) = cut(&feature.geometry, layer.extent, descent, clip) else { continue };
        is_drawn = true;
        let mut tags = Vec::new();
        for tag in feature.tags.chunks_exact(2) {
            put_packed(&mut tags, keys.number(tag[0]));
            put_packed(&mut tags, values.number(tag[1]));
        }
        let mut own = Vec::new();
        if let Some(id) = feature.id {
            put_number(&mut own, 1, id);
        }
        if !tags.is_empty() {
            put_bytes(&mut own, 2, &tags);
        }
        put_geometry(&mut own, &geometry);
        put_bytes(bytes, 2, &own);
    }
    for key in &keys.old {
        put_bytes(bytes, 3, layer.keys[*key as usize].as_bytes());
    }
    for value in &values.old {
        put_bytes(bytes, 4, &value_bytes(layer.values[*value as usize]));
    }
    put_number(bytes, 5, layer.extent.into());
    put_number(bytes, 15, 2);
    is_drawn
}

/// Numbers the keys or values that are left, in the order of their first occurrence in the features.
#[derive(Default)]
struct Renumbered {
    old: Vec<u32>,
    new: HashMap<u32, u64>,
}

impl Renumbered {
    fn number(&mut self, old: u32) -> u64 {
        *self.new.entry(old).or_insert_with(|| {
            self.old.push(old);
            self.old.len() as u64 - 1
        })
    }
}

/// A geometry scaled to the deeper tile and clipped; `None` if nothing is left of it.
fn cut(geometry: &MvtGeometry, extent: u32, descent: TileDescent, clip: ClipBox) -> Option<MvtGeometry> {
    let moved = |path: &[Position]| -> Vec<[i64; 2]> { path.iter().map(|at| descent.moved(*at, extent)).collect() };
    match geometry {
        MvtGeometry::Unknown => None,
        MvtGeometry::Points(points) => {
            let points = clip.points(&moved(points));
            (!points.is_empty()).then_some(MvtGeometry::Points(points))
        }
        MvtGeometry::Lines(lines) => {
            let lines: Vec<_> = lines.iter().flat_map(|line| clip.line(&moved(line))).collect();
            (!lines.is_empty()).then_some(MvtGeometry::Lines(lines))
        }
        MvtGeometry::Polygons(polygons) => {
            let polygon = |rings: &Vec<Vec<Position>>| {
                let (outer, holes) = rings.split_first()?;
                let outer = clip.ring(moved(outer))?;
                let holes = holes.iter().filter_map(|hole| clip.ring(moved(hole)));
                Some(std::iter::once(outer).chain(holes).collect())
            };
            let polygons: Vec<_> = polygons.iter().filter_map(polygon).collect();
            (!polygons.is_empty()).then_some(MvtGeometry::Polygons(polygons))
        }
    }
}

/// Appends the type and the commands of a geometry to a feature (section 4.3).
fn put_geometry(feature: &mut Vec<u8>, geometry: &MvtGeometry) {
    let mut commands = CommandWriter::default();
    let kind = match geometry {
        MvtGeometry::Unknown => 0,
        MvtGeometry::Points(points) => {
            commands.positions(MOVE_TO, points);
            1
        }
        MvtGeometry::Lines(lines) => {
            for line in lines {
                commands.path(line);
            }
            2
        }
        MvtGeometry::Polygons(polygons) => {
            for ring in polygons.iter().flatten() {
                commands.path(ring);
                commands.command(CLOSE_PATH, 1);
            }
            3
        }
    };
    put_number(feature, 3, kind);
    put_bytes(feature, 4, &commands.bytes);
}

const MOVE_TO: u64 = 1;
const LINE_TO: u64 = 2;
const CLOSE_PATH: u64 = 7;

/// Writes commands; the cursor begins at the tile's upper left corner.
#[derive(Default)]
struct CommandWriter {
    bytes: Vec<u8>,
    cursor: Position,
}

impl CommandWriter {
    fn command(&mut self, command: u64, count: usize) {
        put_packed(&mut self.bytes, command | (count as u64) << 3);
    }

    fn positions(&mut self, command: u64, positions: &[Position]) {
        self.command(command, positions.len());
        for position in positions {
            for (to, from) in position.iter().zip(&self.cursor) {
                let step = i64::from(*to) - i64::from(*from);
                put_packed(&mut self.bytes, ((step << 1) ^ (step >> 63)).cast_unsigned());
            }
            self.cursor = *position;
        }
    }

    fn path(&mut self, path: &[Position]) {
        let (first, rest) = path.split_at(path.len().min(1));
        self.positions(MOVE_TO, first);
        self.positions(LINE_TO, rest);
    }
}

/// An encoded value (section 4.1).
fn value_bytes(value: MvtValue<'_>) -> Vec<u8> {
    const FIXED_32: u64 = 5;
    const FIXED_64: u64 = 1;
    let mut bytes = Vec::new();
    match value {
        MvtValue::Text(text) => put_bytes(&mut bytes, 1, text.as_bytes()),
        MvtValue::Float(number) => {
            put_packed(&mut bytes, 2 << 3 | FIXED_32);
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        MvtValue::Double(number) => {
            put_packed(&mut bytes, 3 << 3 | FIXED_64);
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        MvtValue::Int(number) => put_number(&mut bytes, 4, number.cast_unsigned()),
        MvtValue::Uint(number) => put_number(&mut bytes, 5, number),
        MvtValue::Sint(number) => put_number(&mut bytes, 6, ((number << 1) ^ (number >> 63)).cast_unsigned()),
        MvtValue::Bool(is) => put_number(&mut bytes, 7, is.into()),
    }
    bytes
}

#[cfg(test)]
mod tests;
