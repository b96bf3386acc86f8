//! Boxes in the reference system of a layer's column.

use super::Layer;
use crate::tile::{Coverage, SourceBox, TileRect, WORLD_UNITS, WorldRect, Zoom, latitude, longitude, metres};

/// World units that are added to a margin, on each side, for the rounding on the way from world units to coordinates.
pub(in crate::postgis) const ROUNDING_UNITS: i64 = 2;

/// The boxes to search for the features of a coverage, as arrays of west, south, east and north with one element for each box. `None` if all features
/// are wanted, or the reference system has no closed formula.
pub(in crate::postgis) fn search_boxes(layer: &Layer, coverage: &Coverage, zooms: &[Zoom]) -> Option<[Vec<f64>; 4]> {
    if coverage.is_world() || !layer.shape.has_closed_form() {
        return None;
    }
    let rects = widest_rects(coverage, zooms)?;
    if coverage.is_part() && spans_world(&rects) {
        return None;
    }
    let mut boxes: Vec<SourceBox> = rects.iter().map(|rect| area_box(layer, rect, rect.zoom)).collect();
    if coverage.is_part() {
        // The tiles of several zooms overlap, and a row must not be returned twice.
        boxes = boxes.into_iter().reduce(SourceBox::<f64>::joined).into_iter().collect();
    }
    let mut columns: [Vec<f64>; 4] = Default::default();
    for own in boxes {
        for source in std::iter::once(own).chain(shifted_boxes(layer, own)) {
            columns.iter_mut().zip(source.sides()).for_each(|(column, side)| column.push(side));
        }
    }
    Some(columns)
}

/// True if the smallest rectangle around `rects` is the world.
fn spans_world(rects: &[TileRect]) -> bool {
    let around = rects.iter().map(|rect| rect.world(0)).reduce(WorldRect::joined);
    around.is_some_and(|all| all.west <= 0 && all.north <= 0 && all.east >= WORLD_UNITS && all.south >= WORLD_UNITS)
}

/// The tiles of a coverage that reach farthest beyond its boxes: those of the shallowest zoom of `zooms`, or of all zooms if the coverage has only
/// some columns of tiles. `None` if `zooms` is empty.
pub(in crate::postgis) fn widest_rects(coverage: &Coverage, zooms: &[Zoom]) -> Option<Vec<TileRect>> {
    let shallowest = zooms.first()?;
    let zooms = if coverage.is_part() { zooms } else { std::slice::from_ref(shallowest) };
    Some(zooms.iter().flat_map(|zoom| coverage.rects(*zoom)).collect())
}

/// The same box one world farther east and one world farther west, where the rows lie that are wrapped into it. Empty if no row is wrapped.
pub(in crate::postgis) fn shifted_boxes(layer: &Layer, own: SourceBox) -> impl Iterator<Item = SourceBox> {
    let world_width = layer.shape.edge.filter(|_| layer.placement().is_wrapped()).map(|units| 2.0 * units.half_world());
    world_width.into_iter().flat_map(move |width| {
        [width, -width].map(|by| SourceBox { min_x: own.min_x + by, max_x: own.max_x + by, ..own })
    })
}

/// The box, in degrees or metres, that contains a layer's features of an area, including the buffer.
pub(in crate::postgis) fn area_box(layer: &Layer, rect: &TileRect, zoom: Zoom) -> SourceBox {
    world_box(layer, rect.world(layer.reach(zoom) + ROUNDING_UNITS))
}

/// A rectangle of the world in the coordinates of the layer's reference system: metres of EPSG:3857, else degrees.
pub(in crate::postgis) fn world_box(layer: &Layer, rect: WorldRect) -> SourceBox {
    let WorldRect { west, north, east, south } = rect;
    let half = metres(WORLD_UNITS / 2);
    if layer.shape.srid == 3857 {
        return SourceBox {
            min_x: metres(west) - half,
            min_y: half - metres(south),
            max_x: metres(east) - half,
            max_y: half - metres(north),
        };
    }
    SourceBox {
        min_x: longitude(west).max(-180.0),
        min_y: latitude(south).max(-90.0),
        max_x: longitude(east).min(180.0),
        max_y: latitude(north).min(90.0),
    }
}
