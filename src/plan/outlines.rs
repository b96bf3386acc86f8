//! The tiles of outlines at one zoom, and which of them have the same content.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::PlanLayer;
use super::sweep::{Touched, in_slabs, sweep, touched_tiles};
use crate::tile::{Area, OutlineRun, TileRect, Zoom, outline_reach};

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
                // A box of a few tiles cannot be told much smaller.
                if within.tiles() < MIN_TILES_OF_BOX {
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

    /// Whether the tiles of a feature are among these.
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

/// The fewest tiles of a box for which the outline is asked.
const MIN_TILES_OF_BOX: u64 = 4;

/// The fewest tiles with the same content of which one is rendered for all.
const MIN_REPEATS: u64 = 8;

/// The number of a content: the features that tiles lie wholly inside of.
pub(super) type ContentNumber = u32;

/// The contents that enough tiles of a zoom share.
#[derive(Debug, Default)]
pub(super) struct SharedContents {
    numbers: HashMap<Box<[(usize, u32)]>, ContentNumber>,
    /// The tile that is rendered for each, once one was met.
    likes: RefCell<HashMap<ContentNumber, Arc<Area>>>,
}

impl SharedContents {
    /// Looks through the tiles of a zoom.
    pub(super) fn new(zoom: Zoom, layers: &[PlanLayer], outlines: &OutlineRuns, parts: &[TileRect]) -> SharedContents {
        let mut tiles: HashMap<Box<[(usize, u32)]>, u64> = HashMap::new();
        if outlines.all().iter().any(|run| run.run.is_interior) {
            let mut members = Vec::new();
            in_slabs(zoom, layers, outlines, parts, |touches| {
                sweep(touches, layers.len(), |touched| {
                    if !touched.is_interior {
                        return;
                    }
                    collect(touched, &mut members);
                    match tiles.get_mut(members.as_slice()) {
                        Some(known) => *known += touched.tiles,
                        None => drop(tiles.insert(members.as_slice().into(), touched.tiles)),
                    }
                });
            });
        }
        let shared = tiles.into_iter().filter(|(_, tiles)| *tiles >= MIN_REPEATS).map(|(members, _)| members);
        let numbers = shared.zip(0..).collect();
        SharedContents { numbers, likes: RefCell::default() }
    }

    /// The tile that is rendered for a content: `first`, if none was named before.
    pub(super) fn like(&self, content: ContentNumber, first: impl FnOnce() -> Area) -> Arc<Area> {
        Arc::clone(self.likes.borrow_mut().entry(content).or_insert_with(|| Arc::new(first())))
    }

    /// The content of some tiles, if it is shared. `members` is room for the features.
    pub(super) fn of(&self, touched: &Touched<'_>, members: &mut Vec<(usize, u32)>) -> Option<ContentNumber> {
        if !touched.is_interior || self.numbers.is_empty() {
            return None;
        }
        collect(touched, members);
        self.numbers.get(members.as_slice()).copied()
    }
}

fn collect(touched: &Touched<'_>, members: &mut Vec<(usize, u32)>) {
    members.clear();
    members.extend(touched.members());
    members.sort_unstable();
}
