//! The points of a layer.

use std::io;
use std::ops::ControlFlow;

use super::PlanLayer;
use crate::scratch::PointFile;
use crate::tile::{Footprints, SortedPoints, WorldRect, Zoom};

/// The points of a layer, in memory or in a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum LayerPoints<'a> {
    Memory(&'a SortedPoints),
    File(&'a PointFile),
}

impl PlanLayer {
    /// The layer's points at a zoom; `None` for a layer of other features.
    pub(super) fn points(&self, zoom: Zoom) -> Option<LayerPoints<'_>> {
        match (&self.point_file, self.places.at(zoom)) {
            (Some(file), _) => Some(LayerPoints::File(file)),
            (None, Footprints::Points(points)) => Some(LayerPoints::Memory(points)),
            (None, _) => None,
        }
    }
}

impl LayerPoints<'_> {
    /// The approximate number of points in a rectangle. For points in memory, all points between its west and its east are counted.
    pub(super) fn about_within(self, rect: &WorldRect) -> u64 {
        match self {
            LayerPoints::Memory(points) => points.between(rect.west, rect.east).len() as u64,
            LayerPoints::File(file) => file.about_within(rect),
        }
    }

    /// Calls `each` with the points (x, y) in a rectangle, its ends included, until it breaks.
    pub(super) fn within(self, rect: &WorldRect, mut each: impl FnMut([u32; 2]) -> ControlFlow<()>) -> io::Result<()> {
        let points = match self {
            LayerPoints::Memory(points) => points,
            LayerPoints::File(file) => return file.within(rect, each),
        };
        let rows = rect.north..=rect.south;
        for [x, y] in points.units(points.between(rect.west, rect.east)) {
            if rows.contains(&y.into()) && each([x, y]).is_break() {
                break;
            }
        }
        Ok(())
    }
}
