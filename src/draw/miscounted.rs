//! Errors for statements that return other tiles or features than planned.

use crate::postgis::layer::Layer;
use crate::postgis::session::Error;
use crate::tile::LayerCount;

/// The error if the database returned another number of tiles than planned. Without a defect of this program, that only happens with queries.
pub(crate) fn miscounted(layer: &Layer, planned: u64, found: u64, near: String) -> Error {
    if !layer.is_query() {
        return Error::Miscounted { layer: layer.name.clone(), planned, found, near };
    }
    Error::Unsteady {
        layer: layer.name.clone(),
        what: format!(
            "its query gave other rows when it was asked again, {found} tiles came back for {planned} planned around {near}"
        ),
        next: "Let it give the same rows whenever it is asked: order what LIMIT or DISTINCT ON choose from by something unique, and leave out random(), TABLESAMPLE and the like",
    }
}

/// The error if a query returned more features for the boxes of tiles than the survey found in these tiles.
pub(crate) fn unselective(layer: &Layer, planned: LayerCount, found: LayerCount, near: &str) -> Error {
    Error::Unsteady {
        layer: layer.name.clone(),
        what: format!(
            "its query gives more for the boxes of tiles than for the box of the world, {} features came for {} planned around {near}",
            found.features, planned.features
        ),
        next: "Use !bbox! only to select, as in location && !bbox!: leave out LIMIT and whatever else depends on how large the box is. For less detail at low zooms use !zoom! or !pixel_width!",
    }
}
