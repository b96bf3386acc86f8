//! The tiles around a tile: its ancestors, its neighbours, its children.

use crate::tile::{TileCoord, TileId, Zoom};

/// A tile whose surroundings are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around(TileId);

impl Around {
    /// The surroundings of a tile.
    pub(crate) const fn of(tile: TileId) -> Around {
        Around(tile)
    }

    fn at(self, zoom: u8, x: u32, y: u32) -> Option<TileId> {
        let coord = TileCoord::new(Zoom::new(zoom)?, x, y)?;
        Some(TileId { coord, slice: self.0.slice })
    }

    /// Its ancestors, the nearest one first.
    pub(crate) fn above(self) -> impl Iterator<Item = TileId> {
        let coord = self.0.coord;
        let zoom = coord.zoom().get();
        (0..zoom)
            .rev()
            .filter_map(move |above| self.at(above, coord.x() >> (zoom - above), coord.y() >> (zoom - above)))
    }

    /// The up to eight tiles of its zoom that touch it, without those beyond the world's edges, then its four children.
    pub(crate) fn ring_and_children(self) -> impl Iterator<Item = TileId> {
        let coord = self.0.coord;
        let (zoom, x, y) = (coord.zoom().get(), coord.x(), coord.y());
        let ring = (-1..=1).flat_map(|right| (-1..=1).map(move |down| [right, down])).filter(|step| *step != [0, 0]);
        let ring = ring
            .filter_map(move |[right, down]| self.at(zoom, x.checked_add_signed(right)?, y.checked_add_signed(down)?));
        let children = (0..4_u32).filter_map(move |child| self.at(zoom + 1, x << 1 | child & 1, y << 1 | child >> 1));
        ring.chain(children)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tiles: impl Iterator<Item = TileId>) -> Vec<String> {
        tiles.map(|tile| tile.coord.to_string()).collect()
    }

    fn around(zoom: u8, x: u32, y: u32) -> Around {
        Around::of(TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap().into())
    }

    #[test]
    fn the_surroundings_end_at_the_edges_of_the_world() {
        assert_eq!(names(around(3, 5, 6).above()), ["2/2/3", "1/1/1", "0/0/0"]);
        assert_eq!(names(around(0, 0, 0).above()), Vec::<String>::new());
        let all = names(around(3, 5, 6).ring_and_children());
        assert_eq!(all[..8], ["3/4/5", "3/4/6", "3/4/7", "3/5/5", "3/5/7", "3/6/5", "3/6/6", "3/6/7"]);
        assert_eq!(all[8..], ["4/10/12", "4/11/12", "4/10/13", "4/11/13"]);
        let corner = names(around(1, 1, 0).ring_and_children());
        assert_eq!(corner, ["1/0/0", "1/0/1", "1/1/1", "2/2/0", "2/3/0", "2/2/1", "2/3/1"]);
        assert_eq!(names(around(Zoom::MAX.get(), 0, 0).ring_and_children()).len(), 3);
    }
}
