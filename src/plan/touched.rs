//! The tiles that a box touches.

use crate::tile::{TileRect, WorldBox, WorldRect, Zoom};

/// The tiles that a box, grown by a margin in world units, touches at a zoom. A box that crosses ±180° touches the tiles up to the world's
/// eastern edge, and those from its western edge on as a second rectangle. If both rectangles meet, they become one.
#[must_use]
pub fn touched_tiles(zoom: Zoom, margin: i64, world: WorldBox) -> (TileRect, Option<TileRect>) {
    let (shift, last) = (32 - zoom.get(), i64::from(zoom.last()));
    let WorldRect { west, north, east, south } = WorldRect::from(world);
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "clamped into the zoom")]
    let tile = |units: i64| (units >> shift).clamp(0, last) as u32;
    let (x0, x1) = (tile(west - margin), tile(east + margin));
    let rect = TileRect { zoom, x0, y0: tile(north - margin), x1, y1: tile(south + margin) };
    if west <= east {
        return (rect, None);
    }
    if x0 <= x1 + 1 {
        return (TileRect { x0: 0, x1: zoom.last(), ..rect }, None);
    }
    (TileRect { x1: zoom.last(), ..rect }, Some(TileRect { x0: 0, ..rect }))
}
