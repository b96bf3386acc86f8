//! Identifiers: of a layer, and of what a target stores as one tile.

use std::fmt;

use serde::Serialize;

use super::TileCoord;

/// A configured layer: its number in the configuration, counted from 0. If a layer is drawn differently at different zooms, its parts share
/// one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(pub u16);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A layer's position in a list of layers (of a run, a plan, a batch), counted from 0. One configured layer ([`LayerId`]) may be several
/// layers of the list, each for other zooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct LayerIndex(pub usize);

/// Which part of a tile is stored as one object.
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
