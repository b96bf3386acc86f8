//! Boxes in the reference system of a layer's column.

use super::Layer;
use crate::tile::{Coverage, SourceBox, TileRect, WorldRect, Zoom, latitude, longitude, metres};

/// Where to look for the features of a coverage: west, south, east, north, one element a box. `None` if all are wanted or
/// the reference system has no closed formula.
pub(in crate::postgis) fn search_boxes(layer: &Layer, coverage: &Coverage, zooms: &[Zoom]) -> Option<[Vec<f64>; 4]> {
    if coverage.is_world() || !matches!(layer.shape.srid, 3857 | 4326) {
        return None;
    }
    // The tiles of the shallowest zoom reach farthest beyond the boxes.
    let shallowest = *zooms.first()?;
    let mut columns: [Vec<f64>; 4] = Default::default();
    for rect in coverage.rects(shallowest) {
        let own = area_box(layer, &rect, shallowest);
        for shifted in std::iter::once(own).chain(shifted_boxes(layer, own)) {
            columns.iter_mut().zip(shifted.sides()).for_each(|(column, side)| column.push(side));
        }
    }
    Some(columns)
}

/// The boxes in which rows lie that are wrapped into a box of a closed-form system.
fn shifted_boxes(layer: &Layer, own: SourceBox) -> impl Iterator<Item = SourceBox> {
    let width = layer.shape.edge.filter(|_| layer.is_wrapped()).map(|units| 2.0 * units.half());
    width.into_iter().flat_map(move |width| {
        [width, -width].map(|by| SourceBox { min_x: own.min_x + by, max_x: own.max_x + by, ..own })
    })
}

/// The box, in degrees or metres, in which a layer's features of an area lie, buffer included.
pub(in crate::postgis) fn area_box(layer: &Layer, rect: &TileRect, zoom: Zoom) -> SourceBox {
    // Two units more than the tiles' margin take in every rounding on the way.
    world_box(layer, rect.world(layer.reach(zoom) + 2))
}

/// A rectangle of the world in degrees or metres, whichever the layer's reference system has.
pub(in crate::postgis) fn world_box(layer: &Layer, rect: WorldRect) -> SourceBox {
    let WorldRect { west, north, east, south } = rect;
    let half = metres(crate::tile::WORLD_UNITS / 2);
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
