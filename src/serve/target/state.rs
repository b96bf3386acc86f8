//! A state of the target that is served: what it holds between two changes.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::stored::StoredTiles;
use super::watch::Stamp;
use crate::cursor::Cursor;
use crate::manifest::{Manifest, Publication};
use crate::serve::known_changes::LiveSince;
use crate::serve::live::LiveError;
use crate::target::{Described, Template, TileReader};
use crate::tile::{AreaPart, Coverage, Scope, TileCoord, Zoom, ZoomList};

/// A state of the target: what it holds between two changes.
pub(crate) struct ServedState {
    /// A number that is unique among the states of this process.
    pub(crate) number: u64,
    /// A number that changes when the target's description changes. All states between two publishes share it.
    pub(crate) generation: u64,
    /// The least epoch of the live tiles that are served together with it.
    pub(crate) live_since: LiveSince,
    /// The target's description of itself.
    pub(crate) described: Described,
    /// Its manifest; `None` if another program wrote it.
    pub(crate) manifest: Option<Manifest>,
    /// The database state that its tiles show; `None` if that is not known.
    pub(crate) cursor: Option<Cursor>,
    /// The naming rule of the tiles' paths.
    pub(crate) template: Template,
    /// The zooms and boxes in which a tile that is not stored is empty; no element if the target does not say.
    pub(crate) scopes: Vec<Scope>,
    /// Those with which the server began, if they were others.
    pub(crate) first_scopes: Option<Arc<[Scope]>>,
    /// True if the last write of the watched files was long enough ago that the next write will have another time.
    pub(crate) is_settled: bool,
    pub(crate) stamp: Stamp,
    /// The list of the tiles that the target holds in this state, once it is made.
    pub(crate) stored: OnceLock<StoredTiles>,
    pub(crate) readers: Mutex<Vec<Box<dyn TileReader>>>,
}

impl ServedState {
    /// True if a tile lies in the target's scope, so that it is empty if it is not stored.
    pub(crate) fn covers(&self, tile: TileCoord) -> bool {
        !self.is_live_only() && (self.scopes.is_empty() || self.scopes.iter().any(|scope| scope.holds(tile.into())))
    }

    /// True if a tile lies in the target's scope, and lay outside of it when the server began.
    pub(crate) fn has_grown_to(&self, tile: TileCoord) -> bool {
        let before = |first: &[Scope]| first.is_empty() || first.iter().any(|scope| scope.holds(tile.into()));
        self.first_scopes.as_ref().is_some_and(|first| !before(first) && self.covers(tile))
    }

    /// True if there is no target: nothing is stored, and nothing is known to be empty.
    pub(crate) fn is_live_only(&self) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.zooms.is_empty())
    }

    /// The zooms and boxes in which the target may hold tiles: its scopes and its partial regions.
    pub(crate) fn kept_scopes(&self) -> Vec<Scope> {
        let partial = self.manifest.as_ref().map_or(&[][..], |manifest| &manifest.partial);
        let partial = partial.iter().filter_map(|region| Scope::read(&region.zooms, &region.bbox).ok());
        self.scopes.iter().cloned().chain(partial).collect()
    }

    /// True if a tile that is read in this state may be cached. False while a run replaces the tiles of a directory or
    /// prefix one by one, because the watched files change only when that run begins and when it ends.
    pub(crate) fn may_be_kept(&self) -> bool {
        self.is_settled && self.described.unfinished.is_empty()
    }

    /// The list of the tiles that the target holds in this state, once it is made.
    pub(crate) fn stored(&self) -> Option<&StoredTiles> {
        self.stored.get()
    }

    /// Keeps the list of the tiles; it must have been made in this state.
    pub(crate) fn keep_stored(&self, stored: StoredTiles) {
        self.stored.get_or_init(|| stored);
    }

    /// The publication that the target shows.
    pub(crate) fn publication(&self) -> Option<&Publication> {
        self.manifest.as_ref()?.publication.as_ref()
    }

    /// True if both states have the same description, except for runs that have begun or ended.
    pub(crate) fn is_described_as(&self, other: &ServedState) -> bool {
        let finished = |state: &ServedState| Described { unfinished: Vec::new(), ..state.described.clone() };
        self.template == other.template && finished(self) == finished(other)
    }

    /// Checks that live tiles with this fingerprint fit the stored ones.
    /// Fails with [`LiveError::OtherTileset`] if they do not.
    pub(crate) fn is_of(&self, fingerprint: &str) -> Result<(), LiveError> {
        match &self.manifest {
            Some(manifest) if manifest.fingerprint == fingerprint => Ok(()),
            manifest => Err(LiveError::OtherTileset {
                target: manifest.as_ref().map_or_else(|| "unknown".to_owned(), |manifest| manifest.fingerprint.clone()),
                settings: fingerprint.to_owned(),
            }),
        }
    }

    /// True if the run that wrote the target could not render the tile.
    pub(crate) fn is_unrendered(&self, tile: TileCoord) -> bool {
        let unrendered = self.manifest.as_ref().map_or(&[][..], |manifest| &manifest.unrendered);
        !unrendered.is_empty() && unrendered.contains(&tile.to_string())
    }
}

/// The scopes of a target: those of its manifest, otherwise its zooms and bounds.
pub(crate) fn scopes(described: &Described, manifest: Option<&Manifest>) -> Vec<Scope> {
    if let Some(manifest) = manifest {
        return manifest.regions().filter_map(|region| Scope::read(&region.zooms, &region.bbox).ok()).collect();
    }
    let zooms = described.zooms.and_then(|(min, max)| ZoomList::of((min..=max).filter_map(Zoom::new)));
    let boxes: Vec<AreaPart> = described.bounds.into_iter().map(AreaPart::from).collect();
    zooms.map(|zooms| Scope { zooms, coverage: Coverage::new(&boxes) }).into_iter().collect()
}
