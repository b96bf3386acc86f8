//! How many tiles an item hits: what the target holds or, if the target was not listed, what a full pyramid would hold.

use hashbrown::HashMap;

use crate::tile::{TileCoord, Zoom, ZoomList};

/// How many tiles there are below an address that a CDN can purge as one.
pub trait TileCounts {
    /// The tiles of a zoom.
    fn at_zoom(&self, zoom: Zoom) -> u64;
    /// The tiles of a column of a zoom.
    fn in_column(&self, zoom: Zoom, x: u32) -> u64;
    /// All tiles.
    fn total(&self) -> u64;
}

/// Counts for a target of which only the zooms are known: every zoom counts as full.
#[derive(Debug, Clone)]
pub struct FullPyramid(pub ZoomList);

impl TileCounts for FullPyramid {
    fn at_zoom(&self, zoom: Zoom) -> u64 {
        if self.0.contains(zoom) { 1 << (2 * u64::from(zoom.get())) } else { 0 }
    }

    fn in_column(&self, zoom: Zoom, _: u32) -> u64 {
        if self.0.contains(zoom) { 1 << zoom.get() } else { 0 }
    }

    fn total(&self) -> u64 {
        self.0.iter().map(|zoom| self.at_zoom(zoom)).sum()
    }
}

/// The counts of tiles that were listed.
#[derive(Debug, Clone, Default)]
pub struct ListedCounts {
    zooms: HashMap<Zoom, u64>,
    columns: HashMap<TileColumn, u64>,
    total: u64,
}

/// A column of a zoom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct TileColumn {
    zoom: Zoom,
    x: u32,
}

impl FromIterator<TileCoord> for ListedCounts {
    fn from_iter<T: IntoIterator<Item = TileCoord>>(tiles: T) -> ListedCounts {
        let mut counts = ListedCounts::default();
        for tile in tiles {
            *counts.zooms.entry(tile.zoom()).or_default() += 1;
            *counts.columns.entry(TileColumn { zoom: tile.zoom(), x: tile.x() }).or_default() += 1;
            counts.total += 1;
        }
        counts
    }
}

impl TileCounts for ListedCounts {
    fn at_zoom(&self, zoom: Zoom) -> u64 {
        self.zooms.get(&zoom).copied().unwrap_or(0)
    }

    fn in_column(&self, zoom: Zoom, x: u32) -> u64 {
        self.columns.get(&TileColumn { zoom, x }).copied().unwrap_or(0)
    }

    fn total(&self) -> u64 {
        self.total
    }
}
