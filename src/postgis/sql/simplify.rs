//! The part of the rendering statement that simplifies lines and polygons.

use crate::postgis::layer::{Layer, Simplify};

/// The column `m` of "placed", which is the geometry that is cut to tiles. It is the projected geometry `m` of a row near `oar_tiles_area`,
/// simplified for the zoom; NULL if it is too small to be drawn. All tiles of a zoom are cut from the same geometry, so that its pieces meet at their
/// edges.
///
/// The position of the row is computed from the geometry before simplifying, as in the survey, so that plan and tiles agree. Points are not changed.
pub(in crate::postgis) fn drawn_geometry(layer: &Layer) -> String {
    let Some(simplify) = layer.simplify.as_ref().filter(|_| !layer.shape.points) else { return "m".to_owned() };
    let Simplify { tolerance, snap, min_area, min_length } = simplify;
    let pixel = "oar_tiles_area.pixel_width";
    let mut drawn = "m".to_owned();
    if let Some(tolerance) = tolerance {
        drawn = format!("ST_SimplifyPreserveTopology({drawn}, {tolerance:?}::float8 * {pixel})");
    }
    if let Some(cell) = snap {
        drawn = format!("ST_SnapToGrid({drawn}, {cell:?}::float8 * {pixel})");
    }
    let area = min_area.map(|least| {
        format!(
            "\n            WHEN ST_Dimension(m) = 2 AND ST_Area(m) < {least:?}::float8 * {pixel} * {pixel} THEN NULL"
        )
    });
    let length = min_length.map(|least| {
        format!("\n            WHEN ST_Dimension(m) = 1 AND ST_Length(m) < {least:?}::float8 * {pixel} THEN NULL")
    });
    let too_small: String = area.into_iter().chain(length).collect();
    format!("CASE WHEN ST_Dimension(m) = 0 THEN m{too_small}\n            ELSE {drawn} END AS m")
}
