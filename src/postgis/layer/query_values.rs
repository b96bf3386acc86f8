//! The values of a query's placeholders: at a zoom, for a tile, or for a whole coverage.

use tokio_postgres::types::Type;

use super::Layer;
use super::boxes::{area_box, widest_rects};
use super::query::PIXEL_METRES;
use crate::postgis::session::Param;
use crate::tile::{Coverage, HALF_WORLD_METRES, SourceBox, TileRect, Zoom};

/// The values of the placeholders, as parameters of a statement.
#[derive(Debug)]
pub(in crate::postgis) struct QueryValues {
    zoom: i32,
    pixel: f64,
    sides: SourceBox,
}

impl QueryValues {
    /// The values for the shallowest zoom of `zooms`, with the box of all its tiles in a coverage, including the margin.
    pub(in crate::postgis) fn of_coverage(layer: &Layer, coverage: &Coverage, zooms: &[Zoom]) -> QueryValues {
        let least = [layer.zooms.min()];
        let zooms = if zooms.is_empty() { &least } else { zooms };
        let zoom = zooms[0];
        let boxes = widest_rects(coverage, zooms).unwrap_or_default();
        let boxes = boxes.iter().map(|rect| query_box(layer, rect, rect.zoom));
        let sides = boxes.fold(SourceBox::<f64>::NOTHING, SourceBox::<f64>::joined);
        QueryValues { zoom: zoom.get().into(), pixel: pixel(zoom), sides }
    }

    /// The value of `!bbox!`.
    pub(in crate::postgis) fn sides(&self) -> SourceBox {
        self.sides
    }

    /// The parameters in the order of [`PlaceholderSql::parameters`](super::query::PlaceholderSql::parameters); empty if the layer has no query.
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

/// The side of a pixel in metres of EPSG:3857. A tile has 256 pixels along a side.
pub(in crate::postgis) fn pixel(zoom: Zoom) -> f64 {
    PIXEL_METRES / f64::from(1_u32 << zoom.get())
}

/// The latitude, in degrees, at which boxes are cut: nothing beyond it is drawn, and Web Mercator is infinite at the pole.
const LATITUDE_LIMIT: f64 = 85.06;

/// The value of `!bbox!` for some tiles: their box with margin, cut to the world. `ST_Transform` would move coordinates beyond ±180° to the other
/// side of the world.
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
