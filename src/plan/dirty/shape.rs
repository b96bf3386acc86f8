//! The dirty tiles of a line or polygon: those that it touches, not all of its box.

use super::{DrawnLayer, TooMany};
use crate::plan::sweep::common_parts;
use crate::tile::{MIN_TILES_OF_OUTLINE, Outline, OutlineRun, TileRect, Zoom, outline_reach};

/// A changed line or polygon of a layer.
pub(super) struct DirtyShape<'a> {
    pub(super) outline: &'a Outline,
    pub(super) layer: &'a DrawnLayer,
    /// The most tiles that may be dirty.
    pub(super) most: usize,
}

/// Some tiles that a shape touches.
pub(super) struct ShapeRect {
    pub(super) rect: TileRect,
    /// True if they lie wholly inside of a polygon.
    pub(super) is_inside: bool,
}

impl DirtyShape<'_> {
    /// The tiles of a scope that the shape touches, and some others between the scope's parts. `touched` are the tiles of the shape's box.
    ///
    /// # Errors
    /// If there are more than may be dirty.
    pub(super) fn rects(&self, parts: &[TileRect], touched: &TileRect) -> Result<Vec<ShapeRect>, TooMany> {
        if touched.tiles() < MIN_TILES_OF_OUTLINE {
            return Ok(vec![ShapeRect { rect: *touched, is_inside: false }]);
        }
        let around = |one: TileRect, other: TileRect| TileRect {
            zoom: one.zoom,
            x0: one.x0.min(other.x0),
            y0: one.y0.min(other.y0),
            x1: one.x1.max(other.x1),
            y1: one.y1.max(other.y1),
        };
        let Some(within) = common_parts(parts, touched).reduce(around) else { return Ok(Vec::new()) };
        let rect = |OutlineRun { x, y0, y1, interior }| ShapeRect {
            rect: TileRect { x0: x, y0, x1: x, y1, ..within },
            is_inside: interior.is_some(),
        };
        Ok(self.tiles(within)?.into_iter().map(rect).collect())
    }

    /// The tiles of `within` that the shape touches.
    fn tiles(&self, within: TileRect) -> Result<Vec<OutlineRun>, TooMany> {
        let zoom = within.zoom.get();
        // Each touched tile contains touched tiles of deeper zooms. So a count at a shallower zoom shows whether there are too many, before
        // the runs of a deep zoom fill the memory.
        if let Some(above) = zoom.checked_sub(ZOOMS_LOOKED_ABOVE).and_then(Zoom::new)
            && within.tiles() > (self.most as u64).saturating_mul(1 << (2 * ZOOMS_LOOKED_ABOVE))
        {
            let up = |number: u32| number >> ZOOMS_LOOKED_ABOVE;
            let TileRect { x0, y0, x1, y1, .. } = within;
            let runs = self.tiles(TileRect { zoom: above, x0: up(x0), y0: up(y0), x1: up(x1), y1: up(y1) })?;
            let tiles: u64 = runs.iter().map(|run| u64::from(run.y1 - run.y0) + 1).sum();
            // At a lower zoom the margin is wider, so more tiles are allowed there.
            if tiles > (self.most as u64).saturating_mul(4) {
                return Err(TooMany);
            }
        }
        let margin = self.layer.margin;
        Ok(self.outline.tiles(outline_reach(margin.units(within.zoom), margin.extent, within.zoom), &within))
    }
}

/// How many zooms above a deep one the tiles of a shape are counted first.
const ZOOMS_LOOKED_ABOVE: u8 = 3;
