//! The edge of the world at ±180°, and the rows of a layer that reach beyond it.

use serde::Deserialize;

use super::Layer;
use crate::tile::HALF_WORLD_METRES;

/// What becomes of rows that reach beyond ±180°.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
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

/// A row that is wrapped may reach as far as this from the prime meridian, in halves of the world: one world beyond the edge.
pub(in crate::postgis) const MAX_WRAPPED_HALVES: f64 = 3.0;

impl EdgeUnits {
    /// Where the world ends.
    pub(in crate::postgis) const fn half(self) -> f64 {
        match self {
            EdgeUnits::Degrees => 180.0,
            EdgeUnits::Metres => HALF_WORLD_METRES,
        }
    }

    /// How far beyond that a row lies by rounding alone: up to 1e-12 radians PROJ does not wrap a longitude (`adjlon`); in metres,
    /// less than a world unit (9.3 mm).
    pub(in crate::postgis) const fn tolerance(self) -> f64 {
        match self {
            EdgeUnits::Degrees => 5.7e-11,
            EdgeUnits::Metres => 0.009,
        }
    }

    /// The grid to which x is snapped before a row is cut: 2^-40 of half the world. Half of a step takes in what PROJ does not wrap.
    pub(in crate::postgis) fn snap(self) -> f64 {
        self.half() * 2.0_f64.powi(-40)
    }

    /// The least number of single precision that is greater than half the world.
    #[expect(clippy::cast_possible_truncation, reason = "made greater afterwards")]
    pub(in crate::postgis) fn next_single(self) -> f64 {
        let half = self.half() as f32;
        f64::from(if f64::from(half) > self.half() { half } else { half.next_up() })
    }
}

impl Layer {
    /// Whether rows of it are drawn on the other side of the world: those near an area are looked for one world farther, too.
    pub(in crate::postgis) fn is_wrapped(&self) -> bool {
        self.reaches_beyond && self.beyond == Beyond::Wrap && self.shape.edge.is_some()
    }

    /// Whether what is drawn of a row may lie on both sides of the edge, and nowhere in between. Candidates within a fraction of a
    /// tile are chosen by the box of the whole feature, which then reaches around the world.
    pub(in crate::postgis) fn has_crossing_rows(&self) -> bool {
        self.is_wrapped() && !self.shape.points && self.cells.is_none() && self.margin.candidates.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_edge_fit_together() {
        for units in [EdgeUnits::Degrees, EdgeUnits::Metres] {
            let half = units.half();
            assert!(units.next_single() > half && (units.next_single() - half) / half < 1.2e-7, "{units:?}");
            // The edge is a point of the grid, to the bit.
            assert_eq!((half / units.snap()).to_bits(), 2.0_f64.powi(40).to_bits());
        }
        // What PROJ does not wrap is snapped onto the edge.
        assert!(EdgeUnits::Degrees.tolerance().to_radians() < 1e-12);
        assert!(EdgeUnits::Degrees.snap() / 2.0 > 1e-12_f64.to_degrees());
    }
}
