//! The edge of the world at ±180°, and the rows of a layer that reach beyond it.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::tile::HALF_WORLD_METRES;

/// What is drawn of rows that reach beyond ±180°.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Beyond {
    /// They are cut at the edge, and the part beyond is drawn on the other side of the world.
    Wrap,
    /// They are cut at the edge, and the part beyond is not drawn.
    Clip,
    /// They are not drawn.
    Skip,
}

/// The units of a reference system whose x axis is linear in longitude, and 0 on the prime meridian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EdgeUnits {
    /// Longitudes in degrees.
    Degrees,
    /// The metres of EPSG:3857.
    Metres,
}

/// How far from the prime meridian a wrapped row may reach, in halves of the world: 3 is one world beyond the edge.
pub(in crate::postgis) const MAX_WRAPPED_HALVES: f64 = 3.0;

impl EdgeUnits {
    /// The coordinate at which the world ends: half its width.
    pub(in crate::postgis) const fn half_world(self) -> f64 {
        match self {
            EdgeUnits::Degrees => 180.0,
            EdgeUnits::Metres => HALF_WORLD_METRES,
        }
    }

    /// How far beyond the edge a row may lie by rounding alone. In degrees, PROJ does not wrap a longitude that is up to 1e-12 radians
    /// beyond it (`adjlon`); in metres, less than a world unit (9.3 mm).
    pub(in crate::postgis) const fn tolerance(self) -> f64 {
        match self {
            EdgeUnits::Degrees => 5.7e-11,
            EdgeUnits::Metres => 0.009,
        }
    }

    /// The step to which x is snapped before a row is cut: 2^-40 of half the world. Half a step is more than PROJ leaves unwrapped.
    pub(in crate::postgis) fn snap_step(self) -> f64 {
        self.half_world() * 2.0_f64.powi(-40)
    }

    /// The smallest single-precision number greater than half the world.
    #[expect(clippy::cast_possible_truncation, reason = "rounded up afterwards")]
    pub(in crate::postgis) fn next_single(self) -> f64 {
        let half = self.half_world() as f32;
        f64::from(if f64::from(half) > self.half_world() { half } else { half.next_up() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snap_and_tolerance_fit_the_edge() {
        for units in [EdgeUnits::Degrees, EdgeUnits::Metres] {
            let half = units.half_world();
            assert!(units.next_single() > half && (units.next_single() - half) / half < 1.2e-7, "{units:?}");
            // The edge is a multiple of the step, to the bit.
            assert_eq!((half / units.snap_step()).to_bits(), 2.0_f64.powi(40).to_bits());
        }
        // Positions that PROJ does not wrap are snapped onto the edge.
        assert!(EdgeUnits::Degrees.tolerance().to_radians() < 1e-12);
        assert!(EdgeUnits::Degrees.snap_step() / 2.0 > 1e-12_f64.to_degrees());
    }
}
