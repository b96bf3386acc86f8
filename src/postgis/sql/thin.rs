//! The part of the rendering statement that leaves features of the lowest rank out.

use crate::postgis::layer::Layer;

/// The column with the rank of a feature, from the row to the tile.
pub(in crate::postgis) const RANK: &str = "r0";

/// `WITH` items over "drawn", the last of which is called "kept". `limits` is the number of the parameter with the most features of a tile,
/// an array by zoom. `order` sorts by key: `, k0, …`.
///
/// The features that are drawn in a tile are numbered there, the best first: by rank, then by key. Candidates that are not drawn come last
/// and take no number from others; the first stays in any case, so that the tile is not lost.
pub(in crate::postgis) fn keep_best(layer: &Layer, order: &str, limits: usize) -> String {
    let best = match (&layer.rank, layer.cells()) {
        (Some(rank), _) if rank.collated => format!(", {RANK} COLLATE \"C\" DESC NULLS LAST"),
        (Some(_), _) | (None, Some(_)) => format!(", {RANK} DESC NULLS LAST"),
        (None, None) => String::new(),
    };
    format!(
        ",
ranked AS (
    SELECT *, count(mvt_geometry) OVER (PARTITION BY tile) AS found,
        row_number() OVER (PARTITION BY tile ORDER BY mvt_geometry IS NULL{best}{order}) AS place
    FROM drawn OFFSET 0
),
kept AS (
    SELECT * FROM ranked WHERE place <= coalesce(${limits}[(tile >> 58)::int4 + 1], place) ORDER BY tile{order} OFFSET 0
)"
    )
}
