//! What a target stores one of.

use std::fmt;

use super::TileCoord;

/// How much of a tile is stored together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slice {
    /// All layers.
    Whole,
    /// One layer, by its number in the order of the configuration: the target keeps layers apart.
    Layer(u16),
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
            Slice::Layer(number) => write!(f, "{} (layer {number})", self.coord),
        }
    }
}
