//! What a query's placeholders stand for: at a zoom, for a tile, or for all that is planned.

use tokio_postgres::types::Type;

use super::Layer;
use super::boxes::area_box;
use super::query::PIXEL_METRES;
use crate::postgis::session::Param;
use crate::tile::{Coverage, HALF_WORLD_METRES, SourceBox, TileRect, Zoom};

/// The values of the placeholders, bound where the statement asks for them.
#[derive(Debug)]
pub(in crate::postgis) struct QueryValues {
    zoom: i32,
    pixel: f64,
    sides: SourceBox,
}

impl QueryValues {
    /// The shallowest of some zooms, and the box of all of its tiles in a coverage, margin included.
    pub(in crate::postgis) fn of_coverage(layer: &Layer, coverage: &Coverage, zooms: &[Zoom]) -> QueryValues {
        let zoom = zooms.first().copied().unwrap_or(layer.zooms.min());
        let boxes = coverage.rects(zoom);
        let boxes = boxes.iter().map(|rect| query_box(layer, rect, zoom));
        let sides = boxes.fold(SourceBox::<f64>::NOTHING, SourceBox::<f64>::joined);
        QueryValues { zoom: zoom.get().into(), pixel: pixel(zoom), sides }
    }

    /// The box.
    pub(in crate::postgis) fn sides(&self) -> SourceBox {
        self.sides
    }

    /// The parameters in the order of [`PlaceholderSql::parameters`](super::query::PlaceholderSql::parameters); none if the layer has no query.
    pub(in crate::postgis) fn params(&self, layer: &Layer) -> impl Iterator<Item = Param<'_>> {
        let SourceBox { min_x: west, min_y: south, max_x: east, max_y: north } = &self.sides;
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
pub(in crate::postgis) fn pixel(zoom: Zoom) -> f64 {
    PIXEL_METRES / f64::from(1_u32 << zoom.get())
}

/// Beyond this latitude, in degrees, nothing is drawn; closer to the pole than that, Web Mercator has no end.
const LATITUDE_LIMIT: f64 = 85.06;

/// The box of some tiles as a query is given it: their margin included, cut to the world. `ST_Transform` takes what lies beyond
/// the antimeridian for the other side of the world.
pub(in crate::postgis) fn query_box(layer: &Layer, rect: &TileRect, zoom: Zoom) -> SourceBox {
    let around = area_box(layer, rect, zoom);
    match layer.shape.srid {
        3857 => SourceBox {
            min_x: around.min_x.max(-HALF_WORLD_METRES),
            max_x: around.max_x.min(HALF_WORLD_METRES),
            ..around
        },
        _ => SourceBox { min_y: around.min_y.max(-LATITUDE_LIMIT), max_y: around.max_y.min(LATITUDE_LIMIT), ..around },
    }
}
