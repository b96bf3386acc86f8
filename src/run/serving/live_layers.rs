//! The layers of a server with the rows that are kept of them, and as which layer the rows of each are read: a layer of
//! cells has the rows of a layer of points, if these are the same.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::draw::{CellMembers, LivePoints, PreparedLayer, may_have_live_points};
use crate::postgis::{Error, Layer, Snapshot, foldable};

/// The layers of a snapshot, and the rows that are kept of them. A layer is known by its number in the configuration.
#[derive(Default)]
pub(crate) struct LiveLayers {
    /// All layers, those of points with their rows.
    pub(crate) prepared: Vec<PreparedLayer>,
    kept: BTreeMap<usize, KeptLayer>,
}

/// The rows that are kept of a layer.
pub(crate) struct KeptLayer {
    pub(crate) points: LivePoints,
    /// How its cells are counted from them; `None` for a layer of points.
    pub(crate) members: Option<Arc<CellMembers>>,
    /// The number of the layer that keeps them.
    pub(crate) owner: usize,
}

impl LiveLayers {
    pub(crate) fn without_rows(layers: &[Arc<Layer>]) -> LiveLayers {
        LiveLayers { prepared: layers.iter().map(PreparedLayer::new).collect(), kept: BTreeMap::new() }
    }

    /// Adds the next layer, with the rows that are kept of it.
    pub(crate) fn push(&mut self, layer: &Arc<Layer>, kept: Option<KeptLayer>) {
        let plain = PreparedLayer::new(layer);
        let prepared = match &kept {
            Some(KeptLayer { points, members: None, .. }) if layer.grid().is_none() => plain.with_live_points(points),
            _ => plain,
        };
        self.kept.extend(kept.map(|kept| (self.prepared.len(), kept)));
        self.prepared.push(prepared);
    }

    /// The rows that are kept of a layer.
    pub(crate) fn points(&self, layer: usize) -> Option<&LivePoints> {
        self.kept.get(&layer).map(|kept| &kept.points)
    }

    /// The rows that are kept of a layer of cells, and how its cells are counted from them.
    pub(crate) fn cells(&self, layer: usize) -> Option<(&Arc<CellMembers>, &LivePoints)> {
        let kept = self.kept.get(&layer)?;
        Some((kept.members.as_ref()?, &kept.points))
    }

    /// The number of the layer that keeps the rows of a layer.
    pub(crate) fn owner(&self, layer: usize) -> usize {
        self.kept.get(&layer).map_or(layer, |kept| kept.owner)
    }
}

/// As which layer the rows of each layer are read, by the layers' definitions.
#[derive(Default)]
pub(crate) struct RowOwners {
    /// How the cells of layers of cells are counted from kept rows; `None` if they are not.
    members: Mutex<HashMap<String, Option<Arc<CellMembers>>>>,
    /// For layers of cells without rows of their own, the layer of points whose rows these are, too.
    shared: Mutex<HashMap<String, String>>,
}

/// The layer as which the rows of a layer are read.
pub(crate) struct RowsLayer {
    /// The number of the layer that keeps them: the layer's own one, or that of a layer of points with the same rows.
    pub(crate) owner: usize,
    pub(crate) layer: Arc<Layer>,
}

impl RowOwners {
    /// Finds out how the rows of layers of cells can be kept, and which of them are those of layers of points.
    pub(crate) async fn find(&self, snapshot: &Snapshot, layers: &[Arc<Layer>]) -> Result<(), Error> {
        self.members.lock().clear();
        for layer in layers.iter().filter(|layer| CellMembers::may_be_of(layer)) {
            let members = CellMembers::of(layer, foldable(snapshot, layer).await?);
            self.members.lock().insert(layer.definition(), members.map(Arc::new));
        }
        let shared = |cells: &Arc<Layer>| {
            let members = self.members_of(cells)?;
            let points = layers.iter().find(|points| members.are_rows_of(points))?;
            Some((cells.definition(), points.definition()))
        };
        *self.shared.lock() = layers.iter().filter_map(shared).collect();
        Ok(())
    }

    /// Lets layers of cells have rows of their own where `are_kept` is false for the definition of the layer of points
    /// with which they would share them.
    pub(crate) fn share_only_with(&self, are_kept: impl Fn(&str) -> bool) {
        self.shared.lock().retain(|_, points| are_kept(points));
    }

    /// The cells of a layer are not counted from rows any more.
    pub(crate) fn leave_to_database(&self, layer: &Layer) {
        let definition = layer.definition();
        self.shared.lock().remove(&definition);
        self.members.lock().insert(definition, None);
    }

    pub(crate) fn members_of(&self, layer: &Layer) -> Option<Arc<CellMembers>> {
        layer.grid()?;
        self.members.lock().get(&layer.definition()).cloned().flatten()
    }

    /// Bounds what layers of cells keep beside rows of `rows` bytes, so that all together take `memory` bytes at most.
    /// Returns the bytes of all.
    pub(crate) fn bound(&self, memory: usize, rows: usize) -> usize {
        let mut bytes = rows;
        for members in self.members.lock().values().flatten() {
            members.bound(memory.saturating_sub(bytes));
            bytes += members.bytes();
        }
        bytes
    }

    /// For each of all layers, the layer as which its rows are read; `None` if they are not kept.
    pub(crate) fn rows_layers(&self, all: &[Arc<Layer>]) -> Vec<Option<RowsLayer>> {
        let definitions: Vec<String> = all.iter().map(|layer| layer.definition()).collect();
        let shared = self.shared.lock();
        let owner = |(number, own): (usize, &String)| {
            let points = shared.get(own).and_then(|points| definitions.iter().position(|other| other == points));
            points.unwrap_or(number)
        };
        let owners: Vec<usize> = definitions.iter().enumerate().map(owner).collect();
        let rows_layer = |owner: usize| {
            let layer = &all[owner];
            let own = if may_have_live_points(layer) { layer } else { &Arc::clone(&self.members_of(layer)?.rows) };
            let mut facets = own.facets.clone();
            for (other, _) in all.iter().zip(&owners).filter(|(_, of_other)| **of_other == owner) {
                let further = other.facets.iter().filter(|facet| !own.facets.contains(facet));
                facets.extend(further.cloned());
            }
            let has_further = facets.len() > own.facets.len();
            let layer = if has_further { Arc::new(Layer { facets, ..(**own).clone() }) } else { Arc::clone(own) };
            Some(RowsLayer { owner, layer })
        };
        owners.iter().map(|owner| rows_layer(*owner)).collect()
    }

    /// The layers as which rows are read, each once.
    pub(crate) fn own_rows_layers(&self, all: &[Arc<Layer>]) -> Vec<RowsLayer> {
        let own = self.rows_layers(all).into_iter().enumerate();
        own.filter_map(|(number, rows)| rows.filter(|rows| rows.owner == number)).collect()
    }

    /// The layers whose rows may be kept.
    pub(crate) fn kept_layers(&self, layers: &[Arc<Layer>]) -> Vec<Arc<Layer>> {
        let kept = layers.iter().zip(self.rows_layers(layers)).filter(|(_, rows)| rows.is_some());
        kept.map(|(layer, _)| Arc::clone(layer)).collect()
    }
}
