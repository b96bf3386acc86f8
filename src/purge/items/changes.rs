//! The tiles that a CDN has to forget.

use crate::tile::TileCoord;

/// The most tiles that are listed one by one. A list takes 12 bytes a tile in memory and about as many in the outbox. If more tiles changed,
/// everything is purged, which costs one item with every provider.
pub const MAX_TILES_TOLD_APART: usize = 1_000_000;

/// The tiles that a CDN has to forget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TilesToPurge {
    /// Every tile of the target.
    Everything,
    /// These tiles, ordered by zoom, column and row, each once.
    Listed(Vec<TileCoord>),
}

impl Default for TilesToPurge {
    fn default() -> TilesToPurge {
        TilesToPurge::Listed(Vec::new())
    }
}

impl TilesToPurge {
    /// Tiles in any order; a tile may occur more than once. More than [`MAX_TILES_TOLD_APART`] become [`TilesToPurge::Everything`].
    #[must_use]
    pub fn listed(tiles: impl IntoIterator<Item = TileCoord>) -> TilesToPurge {
        let mut listed = Vec::new();
        for tile in tiles {
            listed.push(tile);
            if listed.len() > 2 * MAX_TILES_TOLD_APART {
                in_order(&mut listed);
                if listed.len() > MAX_TILES_TOLD_APART {
                    return TilesToPurge::Everything;
                }
            }
        }
        in_order(&mut listed);
        if listed.len() > MAX_TILES_TOLD_APART { TilesToPurge::Everything } else { TilesToPurge::Listed(listed) }
    }

    /// The tiles of both, each once: the changes of several publishes are sent together.
    #[must_use]
    pub fn joined(self, other: TilesToPurge) -> TilesToPurge {
        match (self, other) {
            (TilesToPurge::Everything, _) | (_, TilesToPurge::Everything) => TilesToPurge::Everything,
            (TilesToPurge::Listed(one), TilesToPurge::Listed(other)) => {
                TilesToPurge::listed(one.into_iter().chain(other))
            }
        }
    }

    /// True if there is nothing to forget.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, TilesToPurge::Listed(tiles) if tiles.is_empty())
    }

    /// How many tiles there are; `None` for every tile of the target.
    #[must_use]
    pub fn count(&self) -> Option<usize> {
        match self {
            TilesToPurge::Everything => None,
            TilesToPurge::Listed(tiles) => Some(tiles.len()),
        }
    }
}

/// The key by which tiles are ordered: zoom, column, row.
pub(super) fn key(tile: &TileCoord) -> (u8, u32, u32) {
    (tile.zoom().get(), tile.x(), tile.y())
}

fn in_order(tiles: &mut Vec<TileCoord>) {
    tiles.sort_unstable_by_key(key);
    tiles.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiles(text: &str) -> TilesToPurge {
        TilesToPurge::listed(text.split_whitespace().map(|tile| tile.parse().unwrap()))
    }

    #[test]
    fn what_waits_is_merged_and_each_tile_counts_once() {
        let one = tiles("2/1/1 0/0/0 2/1/1");
        assert_eq!(one.count(), Some(2));
        let both = one.clone().joined(tiles("1/0/0 0/0/0"));
        assert_eq!(both, tiles("0/0/0 1/0/0 2/1/1"));
        assert_eq!(one.clone().joined(TilesToPurge::Everything), TilesToPurge::Everything);
        assert_eq!(TilesToPurge::Everything.joined(one).count(), None);
        assert!(TilesToPurge::default().is_empty());
    }
}
