//! Addresses: of a layer among the layers of a tileset, and of what a target stores one of.

use std::fmt;

use serde::Serialize;

use super::TileCoord;

/// A layer, by its number in the order of the configuration, counted from 0. The parts of a layer that are drawn differently at different
/// zooms share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(pub u16);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A layer, by its position in a list of layers: those of a run, of a batch, of a plan. What is drawn of one configured layer at
/// different zooms may be several such layers, with one [`LayerId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct LayerIndex(pub usize);

/// How much of a tile is stored together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slice {
    /// All layers.
    Whole,
    /// One layer: the target keeps layers apart.
    Layer(LayerId),
}

/// The address of a stored tile, or of one layer of it where the target keeps layers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TileId {
    /// Which tile.
    pub coord: TileCoord,
    /// How much of it.
    pub slice: Slice,
}

impl From<TileCoord> for TileId {
    fn from(coord: TileCoord) -> TileId {
        TileId { coord, slice: Slice::Whole }
    }
}

impl fmt::Display for TileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slice {
            Slice::Whole => self.coord.fmt(f),
            Slice::Layer(layer) => write!(f, "{} (layer {layer})", self.coord),
        }
    }
}
