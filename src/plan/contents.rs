//! Tiles with the same content: those that lie wholly inside of the same polygons.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::PlanLayer;
use super::outlines::OutlineRuns;
use super::sweep::{Touched, in_slabs, sweep};
use crate::tile::{Area, TileRect, Zoom};

/// The fewest tiles with the same content for which one tile is rendered for all.
const MIN_REPEATS: u64 = 8;

/// The number of a content, which is a set of features that tiles lie wholly inside of, and the directions of their rings.
pub(super) type ContentNumber = u32;

/// The contents that enough tiles of a zoom share.
#[derive(Debug, Default)]
pub(super) struct SharedContents {
    numbers: HashMap<Box<[(usize, u32)]>, ContentNumber>,
    /// The tile that is rendered for each content, once there is one.
    likes: RefCell<HashMap<ContentNumber, Arc<Area>>>,
}

impl SharedContents {
    /// Finds the shared contents of a zoom's tiles.
    pub(super) fn new(
        zoom: Zoom,
        layers: &[PlanLayer],
        outlines: &OutlineRuns,
        parts: &[TileRect],
    ) -> io::Result<SharedContents> {
        let mut tiles: HashMap<Box<[(usize, u32)]>, u64> = HashMap::new();
        if outlines.all().iter().any(|run| run.run.interior.is_some()) {
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
            })?;
        }
        let shared = tiles.into_iter().filter(|(_, tiles)| *tiles >= MIN_REPEATS).map(|(members, _)| members);
        let numbers = shared.zip(0..).collect();
        Ok(SharedContents { numbers, likes: RefCell::default() })
    }

    /// The tile that is rendered for a content: `first`, if no tile was chosen before.
    pub(super) fn like(&self, content: ContentNumber, first: impl FnOnce() -> Area) -> Arc<Area> {
        Arc::clone(self.likes.borrow_mut().entry(content).or_insert_with(|| Arc::new(first())))
    }

    /// The content of some tiles, if it is shared. `members` is a reusable buffer for the features.
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
    members.extend(touched.contents());
    members.sort_unstable();
}
