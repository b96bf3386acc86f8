//! What a query's placeholders stand for: at a zoom, for a tile, or for all that is planned.

use tokio_postgres::types::Type;

use super::layer::Layer;
use super::query::PIXEL;
use super::session::Param;
use super::survey::area_box;
use crate::tile::{Coverage, HALF_WORLD_METRES, TileRect, Zoom};

/// The values of the placeholders, bound where the statement asks for them.
#[derive(Debug)]
pub(super) struct QueryValues {
    zoom: i32,
    pixel: f64,
    /// West, south, east, north.
    sides: [f64; 4],
}

impl QueryValues {
    /// The shallowest of some zooms, and the box of all of its tiles in a coverage, margin included.
    pub(super) fn of_coverage(layer: &Layer, coverage: &Coverage, zooms: &[Zoom]) -> QueryValues {
        let zoom = zooms.first().copied().unwrap_or(layer.zooms.min());
        let nowhere = [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
        let boxes = coverage.rects(zoom);
        let boxes = boxes.iter().map(|rect| query_box(layer, rect, zoom));
        let sides = boxes.fold(nowhere, |[w, s, e, n], [west, south, east, north]| {
            [w.min(west), s.min(south), e.max(east), n.max(north)]
        });
        QueryValues { zoom: zoom.get().into(), pixel: pixel(zoom), sides }
    }

    /// West, south, east and north of the box.
    pub(super) fn sides(&self) -> [f64; 4] {
        self.sides
    }

    /// The parameters in the order of [`Values::parameters`](super::query::Values::parameters); none if the layer has no query.
    pub(super) fn params(&self, layer: &Layer) -> impl Iterator<Item = Param<'_>> {
        let [west, south, east, north] = &self.sides;
        let all: [Param<'_>; 6] = [
            (&self.zoom, Type::INT4),
            (&self.pixel, Type::FLOAT8),
            (west, Type::FLOAT8),
            (south, Type::FLOAT8),
            (east, Type::FLOAT8),
            (north, Type::FLOAT8),
        ];
        let wanted = if layer.is_query() { all.len() } else { 0 };
        all.into_iter().take(wanted)
    }
}

/// The side of a pixel in metres of EPSG:3857, a tile having 256.
pub(super) fn pixel(zoom: Zoom) -> f64 {
    PIXEL / f64::from(1_u32 << zoom.get())
}

/// Beyond this latitude, in degrees, nothing is drawn; closer to the pole than that, Web Mercator has no end.
const LATITUDE_LIMIT: f64 = 85.06;

/// The box of some tiles as a query is given it: their margin included, cut to the world. `ST_Transform` takes what lies beyond
/// the antimeridian for the other side of the world.
pub(super) fn query_box(layer: &Layer, rect: &TileRect, zoom: Zoom) -> [f64; 4] {
    let [west, south, east, north] = area_box(layer, rect, zoom);
    match layer.shape.srid {
        3857 => [west.max(-HALF_WORLD_METRES), south, east.min(HALF_WORLD_METRES), north],
        _ => [west, south.max(-LATITUDE_LIMIT), east, north.min(LATITUDE_LIMIT)],
    }
}
