//! The part of the rendering statement that leaves the least features of a tile out.

use crate::postgis::layer::Layer;

/// What ranks a feature; carried along as `r0`.
pub(in crate::postgis) const RANK: &str = "r0";

/// `WITH` items over "drawn", the last of which is called "kept". The parameter `limits` is an array: the most features of a tile, by zoom. `order`
/// sorts by key: `, k0, …`.
///
/// Each feature that is drawn in a tile gets its place there, the best first: by rank, then by key. Candidates that are not drawn
/// come last and take no place from others; the first stays in any case, so that the tile is not lost.
pub(in crate::postgis) fn kept(layer: &Layer, order: &str, limits: usize) -> String {
    let best = match (&layer.rank, &layer.cells) {
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
