//! The tiles of outlines at one zoom.

use std::collections::HashSet;

use super::PlanLayer;
use super::touched::touched_tiles;
use crate::tile::{MIN_TILES_OF_OUTLINE, OutlineRun, TileRect, Zoom, outline_reach};

/// A run of tiles that a feature with an outline touches.
#[derive(Debug, Clone, Copy)]
pub(super) struct FeatureRun {
    pub(super) run: OutlineRun,
    /// The feature's index within its layer.
    pub(super) feature: u32,
    /// The layer's index; there are at most 255.
    pub(super) layer: u8,
    zoom: Zoom,
}

impl FeatureRun {
    /// The tiles.
    pub(super) fn rect(&self) -> TileRect {
        let OutlineRun { x, y0, y1, .. } = self.run;
        TileRect { zoom: self.zoom, x0: x, y0, x1: x, y1 }
    }

    /// The part of the run that lies in a square of tiles.
    pub(super) fn within(&self, square: &TileRect) -> Option<FeatureRun> {
        let TileRect { y0, y1, .. } = self.rect().common(square)?;
        Some(FeatureRun { run: OutlineRun { y0, y1, ..self.run }, ..*self })
    }
}

/// The tiles of all outlines at one zoom.
#[derive(Debug, Default)]
pub(super) struct OutlineRuns {
    /// From west to east.
    runs: Vec<FeatureRun>,
    /// The features, by layer.
    features: Vec<HashSet<u32>>,
}

impl OutlineRuns {
    /// The runs of all layers that are drawn at a zoom.
    pub(super) fn new(zoom: Zoom, layers: &[PlanLayer]) -> OutlineRuns {
        let mut all = OutlineRuns { runs: Vec::new(), features: vec![HashSet::new(); layers.len()] };
        for (number, layer) in layers.iter().enumerate().filter(|(_, layer)| layer.zooms.contains(zoom)) {
            let footprints = layer.places.at(zoom);
            let margin = layer.margin.units(zoom);
            let reach = outline_reach(margin, layer.margin.extent, zoom);
            for (feature, outline) in footprints.outlines() {
                let (within, None) = touched_tiles(zoom, margin, footprints.world(feature as usize)) else { continue };
                if within.tiles() < MIN_TILES_OF_OUTLINE {
                    continue;
                }
                all.features[number].insert(feature);
                #[expect(clippy::cast_possible_truncation, reason = "there are at most 255 layers")]
                let run = |run| FeatureRun { run, feature, layer: number as u8, zoom };
                all.runs.extend(outline.tiles(reach, &within).into_iter().map(run));
            }
        }
        all.runs.sort_unstable_by_key(|run| run.run.x);
        all
    }

    /// True if the tiles of a feature are among these runs.
    pub(super) fn has(&self, layer: usize, feature: usize) -> bool {
        let known = &self.features[layer];
        !known.is_empty() && u32::try_from(feature).is_ok_and(|feature| known.contains(&feature))
    }

    /// The runs in some columns.
    pub(super) fn of_columns(&self, columns: &TileRect) -> &[FeatureRun] {
        let first = self.runs.partition_point(|run| run.run.x < columns.x0);
        let end = self.runs.partition_point(|run| run.run.x <= columns.x1);
        &self.runs[first..end.max(first)]
    }

    /// All runs.
    pub(super) fn all(&self) -> &[FeatureRun] {
        &self.runs
    }
}
