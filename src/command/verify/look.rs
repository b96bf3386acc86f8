//! Checks a target without the database: its structure, and whether its tiles are as its metadata says.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::TilesToCheck;
use crate::encode::Gunzip;
use crate::manifest::Manifest;
use crate::mvt;
use crate::report::{FindingKind, Findings};
use crate::run::CommandError;
use crate::run::target::{Target, why_not_repairable};
use crate::sink::{Described, PartialScope, ReadError, Scope, TileReader, VectorLayer, read_all};
use crate::stop::Stop;
use crate::tile::{Coverage, LonLatBox, Order, Slice, TileId, TileRect, ZoomList, beyond_in_degrees};

/// The number of tiles that are read at a time, which bounds the memory.
pub(super) const TILES_PER_CHUNK: usize = 1_000;

/// The most layers and properties that are reported as described otherwise. An archive of another program could have new ones in each tile.
const MAX_NAMED_UNDESCRIBED: usize = 10_000;

/// The most properties of a layer that the note about its unlisted properties names.
const MAX_NAMED_UNLISTED: usize = 20;

/// A target that was checked.
pub(super) struct CheckedTarget {
    pub(super) reader: Box<dyn TileReader>,
    pub(super) manifest: Option<Manifest>,
    /// Every tile that the target holds, in [`Order::ZoomColumnTmsRow`].
    pub(super) tiles: Vec<TileId>,
    pub(super) findings: Findings,
}

/// The sort key of a tile in [`CheckedTarget::tiles`].
pub(super) fn key(id: &TileId) -> (u64, Slice) {
    (Order::ZoomColumnTmsRow.place(id.coord), id.slice)
}

/// Checks a target's structure and lists its tiles.
pub(super) fn look(
    target: &Target,
    amount: TilesToCheck,
    area: Coverage,
    stop: &Stop,
) -> Result<CheckedTarget, CommandError> {
    let mut reader = target.reader()?;
    let mut findings = Findings::new(target.to_string());
    for what in reader.check()? {
        findings.add(FindingKind::Structure, || what);
    }
    let described = found(reader.describe(), &mut findings)?;
    let tiles = found(reader.list(), &mut findings)?;
    let mut looked = CheckedTarget { reader, manifest: None, tiles: tiles.unwrap_or_default(), findings };
    looked.tiles.sort_by_cached_key(key);
    looked.findings.tiles = looked.tiles.len() as u64;
    if let Some(described) = described {
        looked.manifest(&described);
        let area = Scope { zooms: ZoomList::all(), coverage: area };
        looked.tiles(&described, amount, &area, stop)?;
    }
    Ok(looked)
}

/// Turns damage that the reader finds into a finding, unless the check has already reported it.
fn found<T>(read: Result<T, ReadError>, findings: &mut Findings) -> Result<Option<T>, CommandError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(ReadError::Damaged { what, .. }) => {
            if findings.count() == 0 {
                findings.add(FindingKind::Structure, || what);
            }
            Ok(None)
        }
        Err(other) => Err(other.into()),
    }
}

impl CheckedTarget {
    fn manifest(&mut self, described: &Described) {
        let notes = described
            .unfinished
            .iter()
            .map(|intent| format!("{intent} has not finished: it is under way, or was interrupted"));
        self.findings.notes.extend(notes);
        let Some(text) = &described.manifest else { return };
        let tiles = self.tiles.len() as u64;
        match serde_json::from_str::<Manifest>(text) {
            Ok(manifest) => {
                if manifest.stored != tiles {
                    let stored = manifest.stored;
                    let what = || format!("it says that {stored} tiles are stored, but there are {tiles}");
                    self.findings.add(FindingKind::Manifest, what);
                }
                for why in described.unfinished.iter().filter_map(|intent| why_not_repairable(intent, &manifest)) {
                    self.findings.add(FindingKind::Unfinished, || why);
                }
                self.manifest = Some(manifest);
            }
            Err(error) => self.findings.add(FindingKind::Manifest, || format!("it cannot be read ({error})")),
        }
    }

    /// Unpacks and decodes the tiles, or a sample spread evenly over them.
    fn tiles(
        &mut self,
        described: &Described,
        amount: TilesToCheck,
        area: &Scope,
        stop: &Stop,
    ) -> Result<(), CommandError> {
        let partial = self.manifest.as_ref().map_or_else(PartialScope::default, PartialScope::of);
        let CheckedTarget { reader, tiles, findings, .. } = self;
        if let Some((from, to)) = described.zooms {
            let is_within = |id: &TileId| (from..=to).contains(&id.coord.zoom().get()) || partial.holds(*id);
            for id in tiles.iter().filter(|id| !is_within(id)) {
                findings.add(FindingKind::Outside, || format!("tile {id} is not of the zooms {from}-{to}"));
            }
        }
        let wanted: Vec<TileId> = tiles.iter().copied().filter(|id| area.holds(*id)).collect();
        let (total, count) = (wanted.len() as u128, u128::from(amount.of(wanted.len() as u64)));
        let spread = (0..count).filter_map(|i| wanted.get(usize::try_from(i * total / count).ok()?));
        let chosen: Vec<TileId> = spread.copied().collect();
        let mut expected = DescribedTiles::new(described, &partial);
        let mut gunzip = Gunzip::new();
        for chunk in chosen.chunks(TILES_PER_CHUNK) {
            if let Some(signal) = stop.asked() {
                return Err(CommandError::Interrupted(signal));
            }
            let read = read_all(&mut **reader, chunk, |id, stored| {
                findings.decoded += 1;
                match stored.map(|stored| gunzip.unpack(&stored)) {
                    Some(Ok(raw)) => expected.compare(id, &raw, findings),
                    Some(Err(error)) => findings.add(FindingKind::Broken, || format!("tile {id}: {error}")),
                    None => {
                        findings.add(FindingKind::Structure, || format!("tile {id} is listed, but it cannot be found"));
                    }
                }
                Ok::<(), ReadError>(())
            });
            if found(read, findings)?.is_none() {
                break;
            }
        }
        findings.notes.extend(expected.unlisted.iter().map(|(layer, properties)| properties.note(layer)));
        Ok(())
    }
}

/// A target's description of its tiles.
struct DescribedTiles<'a> {
    bounds: Option<LonLatBox>,
    /// The partial regions. Bounds and zooms are only those of the scope, because map clients request all tiles in them.
    partial: &'a PartialScope,
    layers: HashMap<&'a str, &'a VectorLayer>,
    /// What was already reported. A layer that is not described would otherwise be reported for every tile.
    named: HashSet<String>,
    /// The properties that the metadata does not list, by layer.
    unlisted: BTreeMap<&'a str, UnlistedProperties>,
}

/// Properties of a layer that the metadata does not list. They are no error: the keys of jsonb are drawn as properties, and TileJSON cannot list
/// them.
struct UnlistedProperties {
    first: TileId,
    /// Up to [`MAX_NAMED_UNLISTED`] of them.
    names: BTreeSet<String>,
    has_more: bool,
}

impl UnlistedProperties {
    fn new(first: TileId) -> UnlistedProperties {
        UnlistedProperties { first, names: BTreeSet::new(), has_more: false }
    }

    fn add(&mut self, name: &str) {
        if self.names.contains(name) {
            return;
        }
        if self.names.len() < MAX_NAMED_UNLISTED {
            self.names.insert(name.to_owned());
        } else {
            self.has_more = true;
        }
    }

    fn note(&self, layer: &str) -> String {
        let names: Vec<String> = self.names.iter().map(|name| format!("{name:?}")).collect();
        let more = if self.has_more { " and others" } else { "" };
        format!(
            "layer {layer:?} has properties that are not described, first in tile {}: {}{more}. The keys of jsonb are such properties; others were renamed or added since the description was written",
            self.first,
            names.join(", ")
        )
    }
}

impl<'a> DescribedTiles<'a> {
    fn new(described: &'a Described, partial: &'a PartialScope) -> DescribedTiles<'a> {
        let layers = described.vector_layers.iter().map(|layer| (layer.id.as_str(), layer)).collect();
        DescribedTiles { bounds: described.bounds, partial, layers, named: HashSet::new(), unlisted: BTreeMap::new() }
    }

    /// Decodes a tile and compares it with the metadata.
    fn compare(&mut self, id: &TileId, raw: &[u8], findings: &mut Findings) {
        let layers = match mvt::decode(raw) {
            Ok(layers) => layers,
            Err(error) => return findings.add(FindingKind::Broken, || format!("tile {id}: {error}")),
        };
        if layers.iter().all(|layer| layer.features.is_empty()) {
            return findings.add(FindingKind::Empty, || format!("tile {id}"));
        }
        let is_partial = self.partial.holds(*id);
        if !is_partial && self.bounds.is_some_and(|bounds| !touches(id, &layers, bounds)) {
            findings.add(FindingKind::Outside, || format!("tile {id} does not touch the bounds"));
        }
        // The check of the format has already reported a target that describes no layer at all.
        if !self.layers.is_empty() {
            let mut undescribed = Vec::new();
            for layer in &layers {
                undescribed.extend(self.undescribed(id, layer));
            }
            for what in undescribed {
                let is_new = self.named.len() < MAX_NAMED_UNDESCRIBED && self.named.insert(what.clone());
                if is_new {
                    findings.add(FindingKind::Undescribed, || format!("tile {id}: {what}"));
                }
            }
        }
    }

    /// What contradicts the metadata, in words. Keeps the properties that it does not list.
    fn undescribed(&mut self, id: &TileId, layer: &mvt::MvtLayer<'_>) -> Vec<String> {
        let (name, zoom) = (layer.name, id.coord.zoom().get());
        let Some(&expected) = self.layers.get(name) else { return vec![format!("layer {name:?} is not described")] };
        let mut found = Vec::new();
        if !(expected.minzoom..=expected.maxzoom).contains(&zoom) && !self.partial.holds(*id) {
            found.push(format!(
                "layer {name:?} is described for the zooms {}-{} only",
                expected.minzoom, expected.maxzoom
            ));
        }
        let mut seen = HashSet::new();
        let properties = layer.features.iter().flat_map(|feature| layer.properties(feature));
        for (key, value) in properties {
            let kind = value.kind();
            if !seen.insert((key, kind)) {
                continue;
            }
            if found.len() >= MAX_NAMED_UNDESCRIBED {
                break;
            }
            match expected.fields.get(key).map(|field| field.as_str().unwrap_or_default()) {
                None => {
                    self.unlisted.entry(expected.id.as_str()).or_insert_with(|| UnlistedProperties::new(*id)).add(key);
                }
                // Other programs may use other words for the type of a property.
                Some(other) if other != kind && ["String", "Number", "Boolean"].contains(&other) => {
                    found.push(format!("layer {name:?}: the property {key:?} is a {kind}, but described as {other}"));
                }
                Some(_) => {}
            }
        }
        found
    }
}

/// True if a tile and its buffer touch the bounds. No target says how wide the buffer is. It is at least as wide as the tile's features reach
/// beyond the tile's edge.
fn touches(id: &TileId, layers: &[mvt::MvtLayer<'_>], bounds: LonLatBox) -> bool {
    // Tolerates rounding: bounds are written with six decimals.
    const ROUNDING: f64 = 1e-6;
    let TileId { coord: tile, .. } = *id;
    let beyond = layers.iter().map(beyond).fold(0.0, f64::max);
    // If the tile's grid is linear in degrees, its buffer reaches farther.
    let margin = beyond_in_degrees(tile.zoom(), beyond);
    let rect = TileRect { zoom: tile.zoom(), x0: tile.x(), y0: tile.y(), x1: tile.x(), y1: tile.y() };
    let grown = LonLatBox::from(rect.world(margin));
    let LonLatBox { west, south, east, north } = bounds;
    let (left, right) = (grown.west - ROUNDING, grown.east + ROUNDING);
    let (top, bottom) = (grown.north + ROUNDING, grown.south - ROUNDING);
    // Bounds that cross the antimeridian have west greater than east.
    let across = if west <= east { left <= east && right >= west } else { left <= east || right >= west };
    across && bottom <= north && top >= south
}

/// How far the features of a layer reach beyond the tile, as a share of its side, plus one grid unit for rounding.
fn beyond(layer: &mvt::MvtLayer<'_>) -> f64 {
    let extent = f64::from(layer.extent);
    let axes = layer.features.iter().flat_map(|feature| feature.geometry.positions()).flatten().map(f64::from);
    let farthest = axes.map(|axis| (-axis).max(axis - extent)).fold(0.0, f64::max);
    ((farthest + 1.0) / extent).min(3.0)
}
