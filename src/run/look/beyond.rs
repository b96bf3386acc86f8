//! Tiles outside of a target's scope: tiles that it holds in its partial regions and that are dirty, and tiles that are to be stored there
//! because a client has asked for them.
//!
//! A zoom becomes partial by a publication of its own, which stores no tile of that zoom. So a run that is killed leaves no tile for which no
//! manifest speaks. The tiles that it has stored show a later state than the manifest, and the next run renders what has changed since the
//! manifest.

use std::collections::HashSet;

use super::tile_list::MAX_LISTED_TILES;
use super::{DirtyFilter, TargetState};
use crate::manifest::Region;
use crate::plan::{Dirty, DrawnLayer, ScopePart};
use crate::run::attempts::aside;
use crate::run::{CommandError, Target};
use crate::sink::{ReadError, Scope, read_all};
use crate::tile::{Coverage, Spot, TileCoord, TileId, ZoomList};

/// The most tiles that are looked up one by one. For more, all tiles of the target are listed.
const MAX_LOOKED_FOR: usize = 2_000;

/// The number of tiles that are looked up at a time.
const TILES_PER_READ: usize = 500;

/// Tiles outside of the scope that a run has to render.
pub(crate) struct WorkBeyondScope {
    /// Tiles in which a change can be seen, whether or not the target holds them; `None` if there are too many of them.
    touched: Option<Dirty>,
    /// Tiles to be stored.
    wanted: Vec<TileCoord>,
    /// The zooms that become partial; `None` if none do.
    declared: Option<ZoomList>,
}

/// The result for the tiles outside of the scope.
pub(crate) struct FoundBeyondScope {
    /// Tiles that the target holds and in which a change can be seen.
    pub(crate) held: Vec<TileCoord>,
    /// Tiles to be stored that the target does not hold, as far as is known.
    pub(crate) wanted: Vec<TileCoord>,
    /// The partial regions after the run.
    pub(crate) partial: Vec<Region>,
}

impl WorkBeyondScope {
    /// The work outside of a target's scope before any change is read.
    pub(crate) fn of(state: &TargetState, filter: &DirtyFilter) -> WorkBeyondScope {
        let part = |scope: &Scope| ScopePart { zooms: scope.zooms.clone(), coverage: scope.coverage.clone() };
        let parts: Vec<ScopePart> = state.partial.regions().iter().map(part).collect();
        let mut touched = Dirty::new(&parts, MAX_LISTED_TILES);
        if filter.is_narrowed() {
            touched.narrow(filter.zoom.as_ref(), &Coverage::new(&filter.bbox));
        }
        let whole = Dirty::new(&state.parts, 0);
        let outside = || filter.written_back.iter().copied().filter(|tile| !whole.holds(*tile));
        let is_partial = |tile: &TileCoord| state.partial.holds((*tile).into());
        WorkBeyondScope {
            touched: Some(touched),
            wanted: outside().filter(is_partial).collect(),
            declared: ZoomList::of(outside().filter(|tile| !is_partial(tile)).map(TileCoord::zoom)),
        }
    }

    /// True if there is something to do even if nothing has changed.
    pub(crate) fn has_work(&self) -> bool {
        !self.wanted.is_empty() || self.declared.is_some()
    }

    /// The number of tiles that are to be stored in partial regions.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted.len() as u64
    }

    /// Marks the tiles in which a change of a layer can be seen.
    pub(crate) fn mark(&mut self, layer: &DrawnLayer, spot: &Spot) {
        if self.touched.as_mut().is_some_and(|touched| touched.mark(layer, spot).is_err()) {
            self.touched = None;
        }
    }

    /// Finds out which of the marked tiles the target holds. A zoom does not become partial if the target holds tiles there for which no manifest
    /// speaks.
    pub(crate) async fn found(self, state: &TargetState, target: &Target) -> Result<FoundBeyondScope, CommandError> {
        let mut partial = state.manifest.partial.clone();
        let mut held = Vec::new();
        let may_hold = !state.partial.is_empty() && self.touched.as_ref().is_none_or(|touched| !touched.is_empty());
        if may_hold {
            let all = held_tiles(target, self.touched.as_ref()).await?;
            held = all.into_iter().filter(|tile| state.partial.holds((*tile).into())).collect();
        }
        if let Some(zooms) = self.declared {
            let (target, described) = (target.clone(), state.partial.clone());
            let whole = Dirty::new(&state.parts, 0);
            let of_zooms = zooms.clone();
            let strangers = aside(move || {
                let is_strange = |id: &&TileId| {
                    of_zooms.contains(id.coord.zoom()) && !whole.holds(id.coord) && !described.holds(**id)
                };
                let tiles = target.reader()?.list()?;
                Ok::<_, CommandError>(tiles.iter().filter(is_strange).count())
            });
            match strangers.await?? {
                0 => partial.push(Region { zooms: zooms.to_string(), bbox: Vec::new(), snapshot: None, witness: None }),
                count => tracing::warn!(
                    "live tiles of the zooms {zooms} are not written back: {count} tiles are stored there of which the manifest does not speak. Seed these zooms, or remove the tiles"
                ),
            }
        }
        Ok(FoundBeyondScope { held, wanted: self.wanted, partial: joined(partial) })
    }
}

/// Joins the regions into one if all of them cover the whole world.
fn joined(regions: Vec<Region>) -> Vec<Region> {
    let zooms = regions.iter().filter_map(|region| region.zooms.parse::<ZoomList>().ok());
    match zooms.reduce(|all, zooms| all.union(&zooms)) {
        Some(zooms) if regions.iter().all(|region| region.bbox.is_empty()) => {
            vec![Region { zooms: zooms.to_string(), bbox: Vec::new(), snapshot: None, witness: None }]
        }
        _ => regions,
    }
}

/// The tiles of the set `of` that a target holds, or all that it holds if `of` is `None`. May wait for a server.
async fn held_tiles(target: &Target, of: Option<&Dirty>) -> Result<HashSet<TileCoord>, CommandError> {
    let target = target.clone();
    let of: Option<Vec<TileId>> = of.map(|tiles| tiles.iter().map(TileId::from).collect());
    aside(move || {
        let mut reader = target.reader()?;
        let of = match of {
            Some(tiles) if tiles.len() <= MAX_LOOKED_FOR && !reader.template().layers_apart() => tiles,
            of => {
                let marked: Option<HashSet<TileCoord>> = of.map(|tiles| tiles.into_iter().map(|id| id.coord).collect());
                let is_marked = |tile: &TileCoord| marked.as_ref().is_none_or(|marked| marked.contains(tile));
                return Ok(reader.list()?.into_iter().map(|id| id.coord).filter(is_marked).collect());
            }
        };
        let mut held = HashSet::new();
        for tiles in of.chunks(TILES_PER_READ) {
            read_all(&mut *reader, tiles, |id, stored| {
                if stored.is_some() {
                    held.insert(id.coord);
                }
                Ok::<(), ReadError>(())
            })?;
        }
        Ok(held)
    })
    .await?
}
