//! How far beyond a tile's edge features are searched.

use std::f64::consts::TAU;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{WORLD_UNITS, Zoom};

/// The coordinates in which a tile's grid is linear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TileBounds {
    /// Metres of EPSG:3857, as map clients expect.
    Mercator,
    /// Degrees of EPSG:4326 between the same edges. Map clients show positions inside the tile a little off in
    /// latitude, less at deeper zooms.
    Degrees,
}

/// What decides the margin of a tile: how far it is grown when features are searched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Margin {
    /// Units of a tile's grid along one side (MVT 2.1, section 4.1).
    pub extent: u32,
    /// The buffer around a tile in the same units.
    pub buffer: u32,
    /// The coordinates in which its grid is linear.
    pub bounds: TileBounds,
    /// How far beyond the tile a feature may lie and still be drawn, as a fraction of the tile's sides; `None` for the
    /// whole buffer.
    pub candidates: Option<f64>,
    /// How far a feature may reach beyond its own box when it is drawn, as a fraction of the tile's sides.
    pub moved: f64,
}

impl Margin {
    /// A margin in Mercator metres that takes in the whole buffer.
    pub const fn plain(extent: u32, buffer: u32) -> Margin {
        Margin { extent, buffer, bounds: TileBounds::Mercator, candidates: None, moved: 0.0 }
    }

    /// The margin in world units: the buffer, one more grid unit because `ST_AsMVTGeom` rounds positions onto the
    /// buffer's edge, and two world units for the rounding of positions. With `candidates`, only that fraction of the
    /// tile's side. `moved` is added.
    #[must_use]
    pub fn units(self, zoom: Zoom) -> i64 {
        let tile = WORLD_UNITS >> zoom.get();
        let buffer = f64::from(self.buffer + 1) / f64::from(self.extent);
        let fraction = self.candidates.map_or(buffer, |candidates| candidates.min(buffer));
        let own = match (self.bounds, self.candidates) {
            (TileBounds::Mercator, None) => (i64::from(self.buffer) + 1) * tile / i64::from(self.extent) + 2,
            (TileBounds::Mercator, Some(_)) => rounded_up(fraction * side(zoom)),
            (TileBounds::Degrees, _) => beyond_in_degrees(zoom, fraction),
        };
        if self.moved > 0.0 { own + rounded_up(self.moved * side(zoom)) } else { own }
    }
}

/// An upper bound, in world units, for how far a tile of a zoom reaches beyond its edges if it is grown by a fraction
/// of its sides in degrees. [`WORLD_UNITS`] if there is no such bound.
///
/// With the radius of the earth as the unit, a tile of the zoom is θ = 2π/2^z high, and a degree of latitude at the
/// height m of Mercator is sech m high. For |tanh| ≤ 1, sech changes by no more than the factor e^t over the distance
/// t. From an edge at m the tile is therefore at most ∫₀^θ sech m · e^t dt = sech m · (e^θ − 1) of latitude high, and
/// the distance d beyond the edge is at least sech m · (1 − e^−d) of latitude. So a fraction f of the tile's height in
/// latitude ends where 1 − e^−d ≤ f · (e^θ − 1). Longitudes are linear: f · θ, which is less.
pub fn beyond_in_degrees(zoom: Zoom, fraction: f64) -> i64 {
    let angle = TAU / f64::from(1_u32 << zoom.get());
    let left = 1.0 - fraction * angle.exp_m1();
    if left > 0.0 { rounded_up(-left.ln() / angle * side(zoom)).min(WORLD_UNITS) } else { WORLD_UNITS }
}

/// A tile's side in world units.
fn side(zoom: Zoom) -> f64 {
    (WORLD_UNITS >> zoom.get()) as f64
}

/// Rounds up to whole world units and adds two for the rounding of positions.
#[expect(clippy::cast_possible_truncation, reason = "a few worlds wide at most")]
fn rounded_up(units: f64) -> i64 {
    units.ceil() as i64 + 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::latitude;

    /// How far beyond a tile's edge a latitude lies, in world units; at most to the edge of the world.
    fn units_beyond(edge: i64, degrees: f64) -> f64 {
        let end = WORLD_UNITS as f64;
        let units = (1.0 - degrees.to_radians().tan().asinh() / std::f64::consts::PI) / 2.0 * end;
        let units = if degrees.abs() >= 90.0 { degrees.signum() * -f64::INFINITY } else { units };
        (units.clamp(0.0, end) - edge as f64).abs()
    }

    /// Rows from pole to pole: all rows of the shallow zooms; of the deeper zooms some thousand, including the last
    /// rows.
    fn rows(zoom: Zoom) -> impl Iterator<Item = i64> {
        let count = 1_i64 << zoom.get();
        let step = (count / 4096).max(1);
        (0..count).step_by(usize::try_from(step).unwrap()).chain([count / 2 - 1, count - 1]).filter(|row| *row >= 0)
    }

    #[test]
    fn no_tile_reaches_farther_in_degrees_than_is_looked() {
        for level in 0..=Zoom::MAX.get() {
            let zoom = Zoom::new(level).unwrap();
            let tile = WORLD_UNITS >> level;
            for fraction in [1e-4, 1.0 / 64.0, 0.2, 0.25, 0.5, 1.0, 2.0] {
                let bound = beyond_in_degrees(zoom, fraction);
                let mut farthest = 0.0_f64;
                for row in rows(zoom) {
                    let (top, bottom) = (row * tile, (row + 1) * tile);
                    let (north, south) = (latitude(top), latitude(bottom));
                    let more = fraction * (north - south);
                    let reach = units_beyond(top, north + more).max(units_beyond(bottom, south - more));
                    farthest = farthest.max(reach).max((fraction * tile as f64).min(WORLD_UNITS as f64));
                }
                assert!(farthest <= bound as f64, "zoom {level}, {fraction}: {farthest} > {bound}");
                // The bound is not much too large, either.
                assert!(
                    level < 7 || bound as f64 <= 1.2 * farthest + 3.0,
                    "zoom {level}, {fraction}: {bound} {farthest}"
                );
            }
        }
    }

    #[test]
    fn candidates_and_bounds_decide_how_far_is_looked() {
        let zoom = Zoom::new(12).unwrap();
        let tile = WORLD_UNITS >> 12;
        let margin =
            |bounds, candidates| Margin { extent: 4096, buffer: 1024, bounds, candidates, moved: 0.0 }.units(zoom);
        assert_eq!(margin(TileBounds::Mercator, None), 1025 * tile / 4096 + 2);
        assert_eq!(margin(TileBounds::Mercator, Some(0.125)), tile / 8 + 2);
        let moved = Margin { moved: 1.0 / 64.0, ..Margin::plain(4096, 1024) };
        assert_eq!(moved.units(zoom), 1025 * tile / 4096 + 2 + tile / 64 + 2);
        // The buffer ends before that fraction.
        assert_eq!(margin(TileBounds::Mercator, Some(2.0)), 1025 * tile / 4096 + 2);
        assert_eq!(margin(TileBounds::Degrees, Some(2.0)), margin(TileBounds::Degrees, None));
        assert_eq!(margin(TileBounds::Degrees, Some(0.2)), beyond_in_degrees(zoom, 0.2));
        assert_eq!(
            Margin { bounds: TileBounds::Degrees, ..Margin::plain(256, 512) }.units(Zoom::new(0).unwrap()),
            WORLD_UNITS
        );
    }
}
