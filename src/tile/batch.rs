//! The unit of work: tiles that one statement renders.

use super::{GridBox, TileRect, Zoom};

/// Where the spatial index of one layer is asked for the features of an area.
#[derive(Debug, Clone, PartialEq)]
pub enum SearchBox {
    /// The area itself, grown by the layer's margin; the source turns it into its own reference system.
    Area,
    /// A box in the units of the layer's reference system that touches the box of every feature of the area: least x,
    /// least y, greatest x, greatest y.
    Source([f64; 4]),
    /// A part of the area, in world units: west, north, east, south. What else lies in the area is not asked for.
    World([i64; 4]),
    /// All features in some parts of the area's one tile; others do no harm. The source may have read the rows there before.
    Near(Vec<GridBox>),
    /// The layer is asked for each tile by itself; these are its occupied ones, as pieces of columns.
    Tiles(Vec<TileRect>),
    /// The layer has no feature here.
    Nothing,
}

/// A rectangle of tiles, and where each layer finds its features.
#[derive(Debug, Clone, PartialEq)]
pub struct Area {
    /// The tiles.
    pub rect: TileRect,
    /// One for each layer, in the order of the layers.
    pub search: Vec<SearchBox>,
}

/// What one layer is going to give to a batch.
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
    /// Those in which at least one layer has a candidate; what each layer gives is counted.
    Occupied,
    /// Every one, whether a layer has a candidate in it or not; nobody has counted.
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
    /// What each layer is going to give, in the order of the layers; where every tile is planned, tiles in which the layer may
    /// be drawn, and a guess of features.
    pub layers: Vec<LayerCount>,
    /// Its source still waits for something, for which others do not: it is rendered after them, where that holds nobody up.
    pub late: bool,
}

impl Batch {
    /// The zoom of the first area; where the occupied tiles are planned, it is the zoom of all.
    #[must_use]
    pub fn zoom(&self) -> Option<Zoom> {
        self.areas.first().map(|area| area.rect.zoom)
    }

    /// Takes in another batch of the same layers, whose rectangles share no tile with these.
    pub fn join(&mut self, other: Batch) {
        self.areas.extend(other.areas);
        self.tiles += other.tiles;
        self.late |= other.late;
        for (own, others) in self.layers.iter_mut().zip(other.layers) {
            own.tiles += others.tiles;
            own.features += others.features;
        }
    }

    /// Pairs of a candidate and a tile, all layers together: the batch's size.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.layers.iter().map(|layer| layer.features).sum()
    }
}

impl Area {
    /// The area as two, or `None` for a single tile.
    #[must_use]
    pub fn halves(&self) -> Option<(Area, Area)> {
        let (a, b) = self.rect.halves()?;
        Some((self.within(a), self.within(b)))
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
