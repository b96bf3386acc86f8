//! Cells that are drawn at a point, put together from values that the database has encoded before: those that depend on
//! the cell alone, such as its bounds, and those that depend on its counted and folded values alone. So the cells of
//! any filter are drawn without a statement once their values are known.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::cells::{EncodedFeatures, ZoomCell, encode_features, place};
use super::{CachedRows, EncodedRows, NOT_DRAWN, RowReaders, RowStore};
use crate::cells::Folded;
use crate::draw::PreparedLayer;
use crate::mvt::{Features, MISSING};
use crate::postgis::layer::{ComputedFrom, Layer};
use crate::postgis::session::Error;
use crate::postgis::sql::{DependsOn, depends_on};
use crate::tile::{Frame, Positions, TileRect, Zoom};

/// The most memory of the known values of a layer, in bytes, if there is room for them. With more, all are forgotten.
const MAX_BYTES: usize = 32 << 20;

/// The memory of an entry beside its own bytes, in bytes.
const BYTES_PER_ENTRY: usize = 128;

/// The encoded values of a layer's cells.
#[derive(Debug)]
pub(crate) struct CellValues {
    /// For each property on what it depends; `None` for the tile's own address.
    properties: Vec<Option<DependsOn>>,
    /// On what it depends that a cell is drawn; `None` if all are.
    having: Option<DependsOn>,
    known: Mutex<KnownValues>,
}

#[derive(Debug, Default)]
struct KnownValues {
    by_cell: HashMap<(Zoom, i64), CellPart>,
    /// By the zoom, the number of members and the folded values.
    by_values: HashMap<(Zoom, u64, Box<[Folded]>), CellPart>,
    bytes: usize,
    /// The most bytes.
    room: usize,
    /// The name and extent of the layer in a tile; `None` if no cell was drawn yet.
    named: Option<(String, u64)>,
}

/// What is known of a cell, or of some values.
#[derive(Debug)]
struct CellPart {
    is_drawn: bool,
    /// The encoded value of each property that depends on it, or [`MISSING`].
    values: Vec<Box<[u8]>>,
}

impl CellValues {
    /// `None` if the layer's cells cannot be put together.
    pub(crate) fn of(layer: &Layer) -> Option<CellValues> {
        let cells = layer.cells().filter(|cells| super::has_cacheable_cells(layer) && !cells.keeps_lone)?;
        let property = |(of, sql): (ComputedFrom, &str)| match of {
            ComputedFrom::Cell => depends_on(sql).map(Some),
            ComputedFrom::Tile(_) => Some(None),
            ComputedFrom::Row => None,
        };
        let properties = layer.properties.iter().map(|property| (property.of, property.sql.as_str()));
        Some(CellValues {
            properties: properties.map(property).collect::<Option<Vec<_>>>()?,
            having: match &cells.having {
                Some(having) => Some(depends_on(having)?),
                None => None,
            },
            known: Mutex::default(),
        })
    }

    /// The counted cells of `prepared` that a tile may show, as rows. `None` if the values of some are not known.
    pub(crate) fn rows(&self, prepared: &PreparedLayer, tile: &TileRect) -> Option<CachedRows> {
        let shown = shown(prepared, tile);
        let known = self.known.lock();
        let layer = prepared.layer();
        let (mut at, mut numbers, mut bytes, mut ends) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for cell in &shown {
            let (grid, composed) = (layer.grid()?, known.composed(self, cell)?);
            at.push(place(layer, grid, cell.0, cell.1, None));
            let Composed::Drawn(by_cell, by_values) = composed else {
                numbers.push(NOT_DRAWN);
                continue;
            };
            numbers.push(u32::try_from(ends.len()).ok()?);
            // It has no id.
            bytes.push(0);
            let (mut of_cell, mut of_values) = (by_cell.values.iter(), by_values.values.iter());
            for depends in &self.properties {
                match depends {
                    Some(DependsOn::Cell) => bytes.extend_from_slice(of_cell.next().map_or(&[MISSING], |value| value)),
                    Some(DependsOn::Values) => {
                        bytes.extend_from_slice(of_values.next().map_or(&[MISSING], |value| value));
                    }
                    None => bytes.push(MISSING),
                }
            }
            ends.push(u32::try_from(bytes.len()).ok()?);
        }
        let names = layer.fields().map(|(name, _)| name.to_owned()).collect();
        let (name, extent) = known.named.clone().unwrap_or_else(|| (layer.name.clone(), layer.margin.extent.into()));
        let features = Features::of_encoded(&name, names, extent, bytes, ends)?;
        let rows = EncodedRows {
            positions: Arc::new(Positions::new(at, Frame::WorldUnits)),
            numbers: Some(numbers),
            features: features.into(),
            ..EncodedRows::default()
        };
        let rows = RowStore::Cells(BTreeMap::from([(tile.zoom, rows)]));
        Some(CachedRows { rows, sessions: 1, near: None })
    }

    /// The memory of the known values, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.known.lock().bytes
    }

    /// From now on, the known values may take `room` bytes.
    pub(crate) fn bound(&self, room: usize) {
        let mut known = self.known.lock();
        known.room = room.min(MAX_BYTES);
        known.forget_if_too_many();
    }

    /// Lets the database encode the cells that a tile may show and whose values are not known. False if they are not
    /// encoded as plain points.
    pub(crate) async fn learn(
        &self,
        readers: RowReaders<'_>,
        prepared: &PreparedLayer,
        tile: &TileRect,
    ) -> Result<bool, Error> {
        let missing: Vec<ZoomCell<'_>> = {
            let known = self.known.lock();
            shown(prepared, tile).into_iter().filter(|cell| known.composed(self, cell).is_none()).collect()
        };
        let Some(encoded) = encode_features(readers, prepared, &missing, MAX_BYTES).await? else { return Ok(false) };
        let EncodedFeatures { numbers, features } = encoded;
        let mut known = self.known.lock();
        known.forget_if_too_many();
        if !features.is_empty() {
            let (name, _, extent) = features.layer();
            known.named = Some((String::from_utf8_lossy(name).into_owned(), extent));
        }
        for (cell, number) in missing.iter().zip(numbers) {
            known.add(self, cell, (number != NOT_DRAWN).then_some((&features, number)));
        }
        Ok(true)
    }
}

/// The counted cells that a tile may show.
fn shown<'p>(prepared: &'p PreparedLayer, tile: &TileRect) -> Vec<ZoomCell<'p>> {
    let layer = prepared.layer();
    let (Some(counts), Some(grid)) = (prepared.counts(), layer.grid()) else { return Vec::new() };
    let near = counts.near(&grid, tile, layer.margin.units(tile.zoom), 0);
    near.map(|(cell, folded)| (tile.zoom, cell, folded)).collect()
}

enum Composed<'k> {
    NotDrawn,
    /// What depends on the cell, and what on its values.
    Drawn(&'k CellPart, &'k CellPart),
}

impl KnownValues {
    fn forget_if_too_many(&mut self) {
        if self.bytes > self.room {
            *self = KnownValues { room: self.room, ..KnownValues::default() };
        }
    }

    /// What is known of a cell; `None` if it is not enough.
    fn composed(&self, of: &CellValues, shown: &ZoomCell<'_>) -> Option<Composed<'_>> {
        let (zoom, cell, folded) = *shown;
        let by_values = self.by_values.get(&(zoom, cell.members, Box::from(folded)));
        let by_cell = self.by_cell.get(&(zoom, cell.code));
        let decides = match of.having {
            Some(DependsOn::Cell) => by_cell,
            Some(DependsOn::Values) => by_values,
            None => None,
        };
        if decides.is_some_and(|part| !part.is_drawn) {
            return Some(Composed::NotDrawn);
        }
        Some(Composed::Drawn(by_cell?, by_values?))
    }

    /// Adds what a feature says of its cell and its values; without a feature the cell is not drawn.
    fn add(&mut self, of: &CellValues, asked: &ZoomCell<'_>, feature: Option<(&Features, u32)>) {
        let (zoom, cell, folded) = *asked;
        let mut parts = [Vec::new(), Vec::new()];
        if let Some((features, number)) = feature {
            for (depends, value) in of.properties.iter().zip(features.values(number)) {
                let place = match depends {
                    Some(DependsOn::Cell) => 0,
                    Some(DependsOn::Values) => 1,
                    None => continue,
                };
                parts[place].push(Box::from(value.unwrap_or(&[MISSING])));
            }
        }
        let [of_cell, of_values] = parts;
        let size = |values: &[Box<[u8]>]| BYTES_PER_ENTRY + values.iter().map(|value| value.len() + 16).sum::<usize>();
        // Without a feature only that is known on which it depends whether a cell is drawn.
        if feature.is_some() || of.having == Some(DependsOn::Cell) {
            self.bytes += size(&of_cell);
            self.by_cell.insert((zoom, cell.code), CellPart { is_drawn: feature.is_some(), values: of_cell });
        }
        if feature.is_some() || of.having == Some(DependsOn::Values) {
            self.bytes += size(&of_values) + size_of_val(folded);
            let key = (zoom, cell.members, Box::from(folded));
            self.by_values.insert(key, CellPart { is_drawn: feature.is_some(), values: of_values });
        }
    }
}
