//! Parts of tiles, and what lies around changed places.

use super::{TileCoord, TileRect, Zoom};

/// A box of positions in a tile's grid, its edges included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GridBox {
    /// Its least x.
    pub west: i64,
    /// Its least y.
    pub north: i64,
    /// Its greatest x.
    pub east: i64,
    /// Its greatest y.
    pub south: i64,
}

impl GridBox {
    /// Whether a position lies in it.
    #[must_use]
    pub fn holds(&self, [x, y]: [i64; 2]) -> bool {
        (self.west..=self.east).contains(&x) && (self.north..=self.south).contains(&y)
    }
}

/// A part of a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The positions in the tile's grid.
    pub grid: GridBox,
    /// A box in world units (west, north, east, south) in which every feature lies that may be drawn there.
    pub world: [i64; 4],
}

/// What lies around the changed places of a layer of points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbourhood {
    /// From this zoom on every row that may be drawn where one of the places is lies in the cells.
    pub from: Zoom,
    /// Cells of which no two overlap.
    pub cells: Vec<TileRect>,
    /// Some tiles, each with the parts where places are.
    pub samples: Vec<(TileCoord, Vec<Part>)>,
}
