//! The part of the rendering statement that leaves out features of the lowest rank.

use crate::postgis::layer::Layer;

/// The column that holds the rank of a feature in every step of the statement.
pub(crate) const RANK: &str = "r0";

/// Returns `WITH` items over "drawn"; the last is called "kept". `limits` is the number of the parameter with the
/// greatest number of features in a tile, as an array by zoom. `order` sorts by key: `, k0, …`.
///
/// The features that are drawn in a tile are numbered by rank, then by key, with the best first. Candidates that are
/// not drawn are numbered last, so that they do not displace others. The first candidate stays in any case, so that the
/// tile is not lost.
pub(crate) fn keep_best(layer: &Layer, order: &str, limits: usize) -> String {
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
