//! The part of the rendering statement that leaves the least features of a tile out.

use super::counted;
use super::render::{Candidates, Carried};
use crate::postgis::layer::Layer;

/// What ranks a feature; carried along as `r0`.
pub(super) const RANK: &str = "r0";

/// `WITH` items over "drawn", the last of which is called "kept". The statement's last parameter is the most features of a tile, by zoom.
///
/// Each feature that is drawn in a tile gets its place there, the best first: by rank, then by key. Candidates that are not drawn
/// come last and take no place from others; the first stays in any case, so that the tile is not lost.
pub(super) fn kept(layer: &Layer, carried: &Carried, rows: Candidates) -> String {
    let order = &carried.order;
    let best = match (&layer.rank, &layer.cells) {
        (Some(rank), _) if rank.collated => format!(", {RANK} COLLATE \"C\" DESC NULLS LAST"),
        (Some(_), _) | (None, Some(_)) => format!(", {RANK} DESC NULLS LAST"),
        (None, None) => String::new(),
    };
    // Behind those of counted cells.
    let most = match rows {
        Candidates::Counted => counted::behind(layer),
        Candidates::Found | Candidates::Touching => 14,
    };
    format!(
        ",
ranked AS (
    SELECT *, count(mvt_geometry) OVER (PARTITION BY tile) AS found,
        row_number() OVER (PARTITION BY tile ORDER BY mvt_geometry IS NULL{best}{order}) AS place
    FROM drawn OFFSET 0
),
kept AS (
    SELECT * FROM ranked WHERE place <= coalesce(${most}[(tile >> 58)::int4 + 1], place) ORDER BY tile{order} OFFSET 0
)"
    )
}
