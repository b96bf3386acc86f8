//! How far beyond a tile's edge its features are looked for.

use super::{WORLD_UNITS, Zoom};

/// What decides the margin by which a tile is grown when features are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Margin {
    /// Units of a tile's grid along one side (MVT 2.1, section 4.1).
    pub extent: u32,
    /// The buffer around a tile in the same units.
    pub buffer: u32,
}

impl Margin {
    /// The margin in world units: the buffer, one more unit of the tile's grid because `ST_AsMVTGeom` rounds onto the buffer's
    /// edge, and two world units for the rounding of positions.
    #[must_use]
    pub fn units(self, zoom: Zoom) -> i64 {
        let tile = WORLD_UNITS >> zoom.get();
        (i64::from(self.buffer) + 1) * tile / i64::from(self.extent) + 2
    }
}
