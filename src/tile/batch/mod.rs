//! The unit of work between planning and rendering: the tiles that one statement renders.

mod near;

use super::{LayerIndex, SourceBox, TileRect, WorldRect, Zoom};

pub use near::{ChangedPart, GridBox, GridBoxes, Neighbourhood};

/// Where one layer's features of an area are searched.
#[derive(Debug, Clone, PartialEq)]
pub enum SearchBox {
    /// In the area, grown by the layer's margin; the source converts it to the layer's reference system.
    Area,
    /// In this box, which touches the box of every feature of the area.
    Source(SourceBox),
    /// In this part of the area only.
    World(WorldRect),
    /// In these parts of the area's only tile; the source may return more features. It may have cached the rows there.
    Near(Vec<GridBox>),
    /// In each of these tiles by itself, because the layer's query depends on the tile. The rectangles are one tile wide.
    Tiles(Vec<TileRect>),
    /// Nowhere: the layer has no feature in the area.
    Nothing,
}

/// A rectangle of tiles, and where the features of each layer are searched.
#[derive(Debug, Clone, PartialEq)]
pub struct Area {
    /// The tiles.
    pub rect: TileRect,
    /// One for each layer of the batch.
    pub search: Vec<SearchBox>,
}

/// What one layer is expected to contribute to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerCount {
    /// Tiles in which the layer has a candidate.
    pub tiles: u64,
    /// Pairs of a candidate and a tile.
    pub features: u64,
}

/// Which tiles of some areas are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planned {
    /// Those in which at least one layer has a candidate; the plan has counted the candidates.
    Occupied,
    /// All of them; the plan has not counted candidates.
    Every,
}

/// A set of tiles rendered together: the unit of work of the bounded pool.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The rectangles; no tile lies in two of them.
    pub areas: Vec<Area>,
    /// Which of their tiles are planned.
    pub planned: Planned,
    /// How many tiles are planned.
    pub tiles: u64,
    /// What each layer is expected to contribute, in the order of the layers. With [`Planned::Every`], the tiles in which the layer may be
    /// drawn and an estimate of features.
    pub layers: Vec<LayerCount>,
    /// Its source waits for cell counts that are still being computed. Such batches are rendered after the others if the pipeline's window
    /// has room for every batch.
    pub needs_cell_counts: bool,
}

impl Batch {
    /// The zoom of the first area; with [`Planned::Occupied`] all areas have the same.
    #[must_use]
    pub fn zoom(&self) -> Option<Zoom> {
        self.areas.first().map(|area| area.rect.zoom)
    }

    /// Adds another batch of the same layers, whose rectangles share no tile with these.
    pub fn join(&mut self, other: Batch) {
        self.areas.extend(other.areas);
        self.tiles += other.tiles;
        self.needs_cell_counts |= other.needs_cell_counts;
        for (own, others) in self.layers.iter_mut().zip(other.layers) {
            own.tiles += others.tiles;
            own.features += others.features;
        }
    }

    /// Pairs of a candidate and a tile over all layers: the size of the batch.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.layers.iter().map(|layer| layer.features).sum()
    }
}

impl Area {
    /// The area in two halves, or `None` for a single tile.
    #[must_use]
    pub fn halves(&self) -> Option<(Area, Area)> {
        let (a, b) = self.rect.halves()?;
        Some((self.within(a), self.within(b)))
    }

    /// Where a layer's features are searched.
    #[must_use]
    pub fn search_of(&self, layer: LayerIndex) -> &SearchBox {
        self.search.get(layer.0).unwrap_or(&SearchBox::Nothing)
    }

    /// A part of the area.
    #[must_use]
    pub fn within(&self, rect: TileRect) -> Area {
        let search = self.search.iter().map(|search| match search {
            SearchBox::Tiles(tiles) => SearchBox::Tiles(tiles.iter().filter_map(|one| one.common(&rect)).collect()),
            other => other.clone(),
        });
        Area { rect, search: search.collect() }
    }
}
