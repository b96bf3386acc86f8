//! The rows of layers that are the same in several tilesets of one seed: read once, and kept in memory until the last
//! of these tilesets is seeded.
//!
//! These are the rows that several targets share. The rows of a family are read and kept here, too; the rest stands
//! apart because it shares something else: a family's cache adds to them which row belongs to which variant, and its
//! sessions share locks and a probe, and no rows.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::{RunPart, TilesetRun};
use crate::config::Settings;
use crate::draw::PreparedLayer;
use crate::postgis::{ExportedSnapshot, LayerOptions, Snapshot};
use crate::report::SkippedRows;
use crate::tile::{AreaPart, Coverage, LayerFootprints, ZoomList};

/// The layers that are the same in several tilesets of a seed, and their rows.
#[derive(Debug, Default)]
pub(crate) struct SharedRows {
    wanted: Vec<WantedLayer>,
    kept: Mutex<KeptLayers>,
}

#[derive(Debug)]
struct WantedLayer {
    tileset: String,
    options: LayerOptions,
    scope: RowScope,
}

#[derive(Debug, Clone, PartialEq)]
struct RowScope {
    /// The zooms at which the layer is drawn.
    zooms: ZoomList,
    /// The parts of the world; empty for the whole world.
    parts: Vec<AreaPart>,
}

#[derive(Debug, Default)]
struct KeptLayers {
    /// The tilesets whose seeds have begun.
    begun: HashSet<String>,
    layers: Vec<KeptLayer>,
}

#[derive(Debug)]
struct KeptLayer {
    options: LayerOptions,
    snapshot: ExportedSnapshot,
    rows: PreparedLayer,
    /// The rows that cannot be drawn, if the survey before has searched the same places.
    skipped: Option<Vec<SkippedRows>>,
}

/// Rows that another tileset of the seed has read.
pub(crate) struct ReadBefore {
    pub(crate) layer: PreparedLayer,
    /// True if the tileset needs all of these rows: it covers no smaller part of the world.
    pub(crate) are_own: bool,
    /// Where the rows lie, and which rows cannot be drawn. `None` if a survey has to find out.
    pub(crate) footprints: Option<(LayerFootprints, Vec<SkippedRows>)>,
}

pub(crate) struct RowsToRead {
    /// The part of the world in which they lie.
    pub(crate) coverage: Coverage,
    pub(crate) zooms: ZoomList,
    /// True if these are exactly the rows that the tileset needs.
    pub(crate) is_own: bool,
}

impl RowScope {
    fn of(settings: &Settings, options: &LayerOptions) -> Option<RowScope> {
        let drawn = settings.tileset.zooms.iter().filter(|zoom| options.zooms.contains(*zoom));
        Some(RowScope { zooms: ZoomList::of(drawn)?, parts: settings.tileset.bbox.clone() })
    }

    /// The scope that covers both.
    fn joined(mut self, other: &RowScope) -> RowScope {
        self.zooms = self.zooms.union(&other.zooms);
        if self.parts.is_empty() || other.parts.is_empty() {
            self.parts.clear();
        } else {
            let new = other.parts.iter().filter(|part| !self.parts.contains(part)).cloned();
            self.parts.extend(new.collect::<Vec<_>>());
        }
        self
    }

    /// True if rows of both scopes are searched in the same boxes. The shallowest zoom decides, because it reaches
    /// farthest beyond the parts of the world.
    fn has_rows_of(&self, other: &RowScope) -> bool {
        self.parts == other.parts && (self.parts.is_empty() || self.zooms.min() == other.zooms.min())
    }
}

/// True if two layers give the same rows at the same places. The zooms at which the layers are drawn and the limits of
/// their tiles may differ.
fn have_same_rows(one: &LayerOptions, other: &LayerOptions) -> bool {
    let alike = LayerOptions {
        id: one.id,
        zooms: one.zooms.clone(),
        budget: one.budget.clone(),
        on_tile_error: one.on_tile_error,
        ..other.clone()
    };
    *one == alike
}

impl SharedRows {
    pub(crate) fn of(tilesets: &[Settings]) -> SharedRows {
        let layers =
            tilesets.iter().flat_map(|settings| settings.tileset.layers.iter().map(move |one| (settings, one)));
        let wanted = layers.filter_map(|(settings, layer)| {
            let options = layer.clone();
            let scope = RowScope::of(settings, &options)?;
            Some(WantedLayer { tileset: settings.tileset.name.clone(), options, scope })
        });
        SharedRows { wanted: wanted.collect(), kept: Mutex::default() }
    }

    pub(crate) fn forget(&self) {
        self.kept.lock().layers.clear();
    }

    /// The scope that covers all tilesets with the same layer; `None` if only one tileset has it.
    fn scope(&self, options: &LayerOptions) -> Option<RowScope> {
        let alike: Vec<&WantedLayer> =
            self.wanted.iter().filter(|wanted| have_same_rows(&wanted.options, options)).collect();
        let first = alike.first().filter(|first| alike.iter().any(|other| other.tileset != first.tileset))?;
        Some(alike.iter().fold(first.scope.clone(), |all, wanted| all.joined(&wanted.scope)))
    }

    /// Notes that the seed of a tileset begins, and forgets rows that neither this seed nor a later one needs.
    fn begin(&self, tileset: &str) {
        let mut kept = self.kept.lock();
        kept.begun.insert(tileset.to_owned());
        let KeptLayers { begun, layers } = &mut *kept;
        let is_open = |wanted: &&WantedLayer| wanted.tileset == tileset || !begun.contains(&wanted.tileset);
        let open: Vec<&LayerOptions> = self.wanted.iter().filter(is_open).map(|wanted| &wanted.options).collect();
        layers.retain(|layer| open.iter().any(|options| have_same_rows(options, &layer.options)));
    }
}

impl TilesetRun {
    fn shared_rows(&self) -> Option<&SharedRows> {
        // A shard and a variant read their own rows.
        let is_whole = matches!(self.part, RunPart::Whole) && self.settings.run.rows_memory > 0;
        self.rows.shared().filter(|_| is_whole).map(super::SharedSnapshot::rows)
    }

    /// What all tilesets of the seed together need of a layer, and what this one needs.
    fn shared_scope(&self, options: &LayerOptions) -> Option<(RowScope, RowScope)> {
        let all = self.shared_rows()?.scope(options)?;
        Some((all, RowScope::of(&self.settings, options)?))
    }

    /// The memory for cached rows of this tileset, whose seed begins: what the kept rows of earlier tilesets leave of
    /// it.
    pub(crate) fn rows_memory(&self) -> usize {
        let all = self.settings.run.rows_memory / self.rows.side_by_side();
        let Some(shared) = self.shared_rows() else { return all };
        shared.begin(&self.settings.tileset.name);
        let own = &self.settings.tileset.layers;
        let kept = shared.kept.lock();
        let others = kept.layers.iter().filter(|kept| own.iter().all(|own| !have_same_rows(own, &kept.options)));
        all.saturating_sub(others.map(|kept| kept.rows.cached_bytes()).sum())
    }

    /// The rows of a layer, if another tileset of the seed has read them on the same snapshot.
    pub(crate) fn rows_read_before(
        &self,
        snapshot: &Snapshot,
        layer: &PreparedLayer,
        options: &LayerOptions,
    ) -> Option<ReadBefore> {
        let (all, own) = self.shared_scope(options)?;
        let shared = self.shared_rows()?.kept.lock();
        let is_it = |kept: &&KeptLayer| kept.snapshot == *snapshot.exported() && have_same_rows(&kept.options, options);
        let kept = shared.layers.iter().find(is_it)?;
        // Lines and polygons are drawn from rows only where none is left out of a tile, and the limits may differ.
        if kept.rows.has_cached_shapes() && !layer.layer().traits().has_cacheable_shapes {
            return None;
        }
        let layer = layer.clone().with_rows_of(&kept.rows);
        let are_own = own.has_rows_of(&all);
        let skipped = kept.skipped.as_ref().filter(|_| are_own && layer.layer().is_found_by_area());
        let footprints = skipped.and_then(|skipped| Some((layer.few_cached_footprints()?, skipped.clone())));
        tracing::debug!("layer \"{}\": its rows were read before, for another tileset", options.name);
        Some(ReadBefore { layer, are_own, footprints })
    }

    /// Which rows of a layer are read, so that all tilesets of the seed which have the layer can draw from them.
    pub(crate) fn rows_to_read(&self, options: &LayerOptions) -> RowsToRead {
        match self.shared_scope(options) {
            Some((all, own)) if !own.has_rows_of(&all) => {
                RowsToRead { coverage: Coverage::new(&all.parts), zooms: all.zooms, is_own: false }
            }
            _ => RowsToRead { coverage: self.coverage(), zooms: self.settings.tileset.zooms.clone(), is_own: true },
        }
    }

    /// Keeps the rows of a layer for other tilesets of the seed, if there are any. `skipped` are the rows that cannot
    /// be drawn, of all layers.
    pub(crate) fn keep_rows(
        &self,
        snapshot: &Snapshot,
        options: &LayerOptions,
        layer: &PreparedLayer,
        skipped: &[SkippedRows],
    ) {
        let Some((all, own)) = self.shared_scope(options).filter(|_| layer.has_cached_rows()) else { return };
        let Some(mut shared) = self.shared_rows().map(|shared| shared.kept.lock()) else { return };
        shared.layers.retain(|kept| !have_same_rows(&kept.options, options));
        let of_layer = skipped.iter().filter(|rows| rows.layer == options.name).cloned();
        shared.layers.push(KeptLayer {
            options: options.clone(),
            snapshot: snapshot.exported().clone(),
            rows: layer.clone(),
            skipped: own.has_rows_of(&all).then(|| of_layer.collect()),
        });
    }
}
