//! The box of a tile, in metres or in degrees, and the choice of the features that are drawn in it.

use super::edge;
use crate::postgis::layer::Layer;
use crate::tile::{HALF_WORLD_METRES, TileBounds};

/// The column with a feature's geometry in degrees.
pub(in crate::postgis) const LONLAT: &str = "lonlat";

/// A row's geometry in EPSG:4326, for a layer whose tiles are computed in degrees. `None` for other layers, and for layers of cells, whose features
/// are not rows.
pub(in crate::postgis) fn lonlat(layer: &Layer) -> Option<String> {
    if layer.margin().bounds == TileBounds::Mercator || layer.cells().is_some() {
        return None;
    }
    Some(edge::lonlat(layer.placement()))
}

/// How the tiles of a layer are drawn, as pieces of the statement. They refer to the columns `z`, `side` (of a tile, in metres) and `xy` (the
/// tile's column above bit 29, its row below).
pub(in crate::postgis) struct TileDrawing {
    /// The `FROM` item with the columns of the other pieces.
    pub(in crate::postgis) from: String,
    /// The feature, in the reference system of the box.
    pub(in crate::postgis) feature: &'static str,
    /// The tile's box.
    pub(in crate::postgis) envelope: String,
    /// The greatest distance from the tile, in metres, at which a feature is drawn: the buffer (`$13`) and four units of the grid (`$12` along a
    /// side). For tiles in metres only.
    pub(in crate::postgis) reach: String,
    /// The tile's box expanded by that distance, in its own reference system.
    pub(in crate::postgis) grown: String,
    /// The condition that a feature is a candidate; `None` if every feature inside the buffer is one.
    pub(in crate::postgis) near: Option<String>,
}

/// The buffer, three units because simplifying and rounding move an edge by at most that much ([`outline_reach`](crate::tile::outline_reach)), and
/// one unit for the rounding of positions.
const REACH: &str = "side * ($13 + 4) / $12";

/// The sides of a tile in metres: west, south, east, north. This is the arithmetic of `ST_TileEnvelope`, bit for bit, without its clipping to the
/// world (PostGIS 3.5.2 does that, 3.3.2 does not). It is as fast, because `side`, the width of a tile, is computed once for each area.
fn metres() -> [String; 4] {
    let half = HALF_WORLD_METRES;
    [
        format!("-{half:?}::float8 + (xy >> 29) * side"),
        format!("{half:?}::float8 - ((xy & 536870911) + 1) * side"),
        format!("-{half:?}::float8 + ((xy >> 29) + 1) * side"),
        format!("{half:?}::float8 - (xy & 536870911) * side"),
    ]
}

/// The sides of a tile in degrees: longitudes are linear, latitudes come from the inverse of spherical Mercator.
const DEGREES: &str = "(xy >> 29)::float8 / (1 << z) * 360 - 180 AS west,
        degrees(atan(sinh(pi() * (1 - 2 * (((xy & 536870911) + 1)::float8 / (1 << z)))))) AS south,
        ((xy >> 29) + 1)::float8 / (1 << z) * 360 - 180 AS east,
        degrees(atan(sinh(pi() * (1 - 2 * ((xy & 536870911)::float8 / (1 << z)))))) AS north";

/// How a layer's tiles are drawn from the candidates in `touched`.
pub(in crate::postgis) fn drawing(layer: &Layer) -> TileDrawing {
    let margin = layer.margin();
    let [west, south, east, north] = metres();
    let (sides, feature, envelope) = match (margin.bounds, margin.candidates) {
        (TileBounds::Mercator, None) => {
            let in_metres = format!("ST_MakeEnvelope({west}, {south}, {east}, {north}, 3857)");
            return TileDrawing {
                from: "touched".to_owned(),
                feature: "m",
                envelope: in_metres.clone(),
                grown: format!("ST_Expand({in_metres}, {REACH})"),
                reach: REACH.to_owned(),
                near: None,
            };
        }
        (TileBounds::Mercator, Some(_)) => {
            let sides = format!(
                "{west} AS west,\n        {south} AS south,\n        {east} AS east,\n        {north} AS north"
            );
            (sides, "m", "ST_MakeEnvelope(west, south, east, north, 3857)")
        }
        (TileBounds::Degrees, _) => {
            // The geometry of a cell is computed in metres only.
            let lonlat =
                if layer.cells().is_some() { format!(", ST_Transform(m, 4326) AS {LONLAT}") } else { String::new() };
            (format!("{DEGREES}{lonlat}"), LONLAT, "ST_MakeEnvelope(west, south, east, north, 4326)")
        }
    };
    let envelope = envelope.to_owned();
    TileDrawing {
        from: format!("(\n    SELECT *, {sides}\n    FROM touched\n    OFFSET 0\n) AS touched"),
        feature,
        grown: format!("ST_Expand({envelope}, (east - west) * ($13 + 4) / $12, (north - south) * ($13 + 4) / $12)"),
        reach: REACH.to_owned(),
        envelope,
        near: margin.candidates.map(|fraction| near(feature, layer.placement().draws_points(), fraction)),
    }
}

/// The condition that a feature, or its box, lies inside the tile's box expanded by a fraction of the box's sides. As with `ST_Within`, a feature on
/// the edge is outside. The operator `&&` cannot be used, because it compares single-precision boxes.
fn near(feature: &str, is_point: bool, fraction: f64) -> String {
    let [west, south, east, north] = if is_point { ["X", "Y", "X", "Y"] } else { ["XMax", "YMax", "XMin", "YMin"] }
        .map(|end| format!("ST_{end}({feature})"));
    let (across, along) =
        (format!("(east - west) * {fraction:?}::float8"), format!("(north - south) * {fraction:?}::float8"));
    format!(
        "{west} > west - {across} AND {east} < east + {across}
            AND {south} > south - {along} AND {north} < north + {along}"
    )
}
