//! The orders in which archives want their tiles.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{TileCoord, TileRect, Zoom, ZoomList};
use crate::setting::is_text_in_json;

/// An order of tiles. Both orders begin with the shallowest zoom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By zoom, then column, then TMS row, each ascending: the order of the MBTiles index.
    ZoomColumnTmsRow,
    /// By zoom, then along the Hilbert curve: the order of PMTiles' tile ids (PMTiles v3, section 4.1).
    Hilbert,
}

impl Order {
    /// The sort key of a tile in this order. No two tiles share one.
    pub fn sort_key(self, tile: TileCoord) -> u64 {
        match self {
            Order::ZoomColumnTmsRow => {
                u64::from(tile.zoom().get()) << 58 | u64::from(tile.x()) << 29 | u64::from(tile.tms_row())
            }
            Order::Hilbert => tile.pmtiles_id(),
        }
    }

    /// The tile with a sort key; the inverse of [`Order::sort_key`]. `None` if no tile has this key.
    #[must_use]
    pub fn tile(self, key: u64) -> Option<TileCoord> {
        match self {
            Order::ZoomColumnTmsRow => {
                let zoom = Zoom::new((key >> 58) as u8)?;
                let (column, row) = ((key >> 29 & 0x1fff_ffff) as u32, (key & 0x1fff_ffff) as u32);
                TileCoord::new(zoom, column, zoom.last().checked_sub(row)?)
            }
            Order::Hilbert => TileCoord::from_pmtiles_id(key),
        }
    }
}

/// The number of tiles of all shallower zooms, which is the first tile id of the zoom (PMTiles v3, section 4.1).
const fn above(zoom: u8) -> u64 {
    ((1 << (2 * zoom as u64)) - 1) / 3
}

impl Zoom {
    /// The first tile id of PMTiles v3 (section 4.1) beyond [`Zoom::MAX`].
    pub const END_OF_PMTILES_IDS: u64 = above(Zoom::MAX.get() + 1);

    /// The zoom of a tile id of PMTiles v3, and the first id of the next zoom; `u64::MAX` after the deepest zoom.
    pub fn of_pmtiles_id(id: u64) -> (Zoom, u64) {
        let zoom = (0..=Zoom::MAX.get()).rev().find(|zoom| above(*zoom) <= id).and_then(Zoom::new);
        let zoom = zoom.unwrap_or(Zoom::MAX);
        (zoom, if zoom == Zoom::MAX { u64::MAX } else { above(zoom.get() + 1) })
    }
}

impl TileCoord {
    /// The tile id of PMTiles v3 (section 4.1): the number of tiles of shallower zooms, plus the position on this
    /// zoom's Hilbert curve.
    pub fn pmtiles_id(self) -> u64 {
        let (mut x, mut y, mut along) = (self.x(), self.y(), 0);
        for bit in (0..self.zoom().get()).rev() {
            let side = 1_u32 << bit;
            let (right, lower) = (x & side != 0, y & side != 0);
            along += (1 << (2 * u64::from(bit))) * ((3 * u64::from(right)) ^ u64::from(lower));
            (x, y) = turned(x & (side - 1), y & (side - 1), side - 1, right, lower);
        }
        above(self.zoom().get()) + along
    }

    /// The tile of a PMTiles tile id; `None` beyond [`Zoom::MAX`].
    pub fn from_pmtiles_id(id: u64) -> Option<TileCoord> {
        let zoom = (0..=31).rev().find(|zoom| above(*zoom) <= id)?;
        let along = id - above(zoom);
        if along >> (2 * u64::from(zoom)) != 0 {
            return None;
        }
        let (mut x, mut y) = (0_u32, 0_u32);
        for bit in 0..zoom {
            let (side, quarter) = (1_u32 << bit, along >> (2 * u64::from(bit)) & 3);
            let (right, lower) = (quarter >= 2, quarter == 1 || quarter == 2);
            (x, y) = turned(x, y, side - 1, right, lower);
            x += if right { side } else { 0 };
            y += if lower { side } else { 0 };
        }
        TileCoord::new(Zoom::new(zoom)?, x, y)
    }
}

/// Turns a position within a quarter so that the quarter's curve continues the curve of the whole square. Its own
/// inverse.
const fn turned(x: u32, y: u32, last: u32, right: bool, lower: bool) -> (u32, u32) {
    match (lower, right) {
        (true, _) => (x, y),
        (false, false) => (y, x),
        (false, true) => (last - y, last - x),
    }
}

// Columns of tiles, zoom by zoom: the part of a tileset that one shard renders.

/// Neighbouring columns of one zoom. As text: the zoom, the first column and the last one, such as `14/512-1023`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnRange {
    /// The zoom.
    pub zoom: Zoom,
    /// The first column.
    pub first: u32,
    /// The last column.
    pub last: u32,
}

/// The columns of tiles that belong to a part of a tileset. No two ranges share a column.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ColumnRanges(Vec<ColumnRange>);

impl ColumnRanges {
    /// These columns.
    pub const fn new(ranges: Vec<ColumnRange>) -> ColumnRanges {
        ColumnRanges(ranges)
    }

    /// The ranges.
    pub fn ranges(&self) -> &[ColumnRange] {
        &self.0
    }

    /// The zooms that have columns; `None` if there are no columns.
    pub fn zooms(&self) -> Option<ZoomList> {
        ZoomList::of(self.0.iter().map(|range| range.zoom))
    }

    /// True if a tile lies in these columns.
    pub fn contains(&self, tile: TileCoord) -> bool {
        self.0.iter().any(|range| range.zoom == tile.zoom() && (range.first..=range.last).contains(&tile.x()))
    }

    /// The parts of a rectangle that lie in these columns.
    pub(crate) fn within(&self, rect: &TileRect) -> impl Iterator<Item = TileRect> {
        let own = self.0.iter().filter(|range| range.zoom == rect.zoom);
        own.filter_map(|range| rect.common(&TileRect { x0: range.first, x1: range.last, ..*rect }))
    }
}

impl fmt::Display for ColumnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.zoom, self.first, self.last)
    }
}

/// The error for a text that is no range of columns.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no range of columns such as 14/512-1023")]
pub struct ColumnRangeError(String);

impl FromStr for ColumnRange {
    type Err = ColumnRangeError;

    fn from_str(text: &str) -> Result<ColumnRange, ColumnRangeError> {
        let read = || {
            let (zoom, columns) = text.split_once('/')?;
            let (first, last) = columns.split_once('-')?;
            let range = ColumnRange {
                zoom: Zoom::new(zoom.parse().ok()?)?,
                first: first.parse().ok()?,
                last: last.parse().ok()?,
            };
            (range.first <= range.last && range.last <= range.zoom.last()).then_some(range)
        };
        read().ok_or_else(|| ColumnRangeError(text.to_owned()))
    }
}

is_text_in_json!(ColumnRange);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{AreaPart, Coverage, TileCoord};

    #[test]
    fn tile_ids_are_those_of_the_specification() {
        // PMTiles v3, section 4.1.1.
        for (zoom, x, y, id) in [
            (0, 0, 0, 0),
            (1, 0, 0, 1),
            (1, 0, 1, 2),
            (1, 1, 1, 3),
            (1, 1, 0, 4),
            (2, 0, 0, 5),
            (12, 3423, 1763, 19_078_479),
        ] {
            let tile = TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap();
            assert_eq!((tile.pmtiles_id(), TileCoord::from_pmtiles_id(id)), (id, Some(tile)));
        }
    }

    #[test]
    fn every_place_leads_back_to_its_tile_and_zooms_follow_each_other() {
        for order in [Order::ZoomColumnTmsRow, Order::Hilbert] {
            let mut last = None;
            for zoom in (0..=6).map(|zoom| Zoom::new(zoom).unwrap()) {
                let tiles = (0..=zoom.last()).flat_map(|x| (0..=zoom.last()).map(move |y| (x, y)));
                let mut keys: Vec<u64> = tiles
                    .map(|(x, y)| {
                        let tile = TileCoord::new(zoom, x, y).unwrap();
                        assert_eq!(order.tile(order.sort_key(tile)), Some(tile));
                        order.sort_key(tile)
                    })
                    .collect();
                keys.sort_unstable();
                keys.dedup();
                assert_eq!(keys.len() as u64, 1 << (2 * zoom.get()), "no two tiles share a key");
                assert!(last < keys.first().copied());
                last = keys.last().copied();
            }
            let deepest = TileCoord::new(Zoom::new(22).unwrap(), 4_000_000, 7).unwrap();
            assert_eq!(order.tile(order.sort_key(deepest)), Some(deepest));
        }
        assert_eq!((Order::Hilbert.tile(u64::MAX), Order::ZoomColumnTmsRow.tile(u64::MAX)), (None, None));
        let last = TileCoord::new(Zoom::MAX, Zoom::MAX.last(), 0).unwrap();
        assert_eq!(Zoom::END_OF_PMTILES_IDS, last.pmtiles_id() + 1);
        for (id, zoom, end) in [(0, 0, 1), (1, 1, 5), (4, 1, 5), (5, 2, 21), (last.pmtiles_id(), 22, u64::MAX)] {
            assert_eq!(Zoom::of_pmtiles_id(id), (Zoom::new(zoom).unwrap(), end), "{id}");
        }
    }

    #[test]
    fn neighbours_on_the_curve_are_neighbours_on_the_map() {
        let first = above(8);
        for id in first..above(9) - 1 {
            let (a, b) = (TileCoord::from_pmtiles_id(id).unwrap(), TileCoord::from_pmtiles_id(id + 1).unwrap());
            assert_eq!(a.x().abs_diff(b.x()) + a.y().abs_diff(b.y()), 1, "{a} {b}");
        }
    }

    #[test]
    fn columns_are_text_and_back() {
        let columns = ColumnRanges::new(vec!["3/0-7".parse().unwrap(), "14/512-1023".parse().unwrap()]);
        let text = serde_json::to_string(&columns).unwrap();
        assert_eq!(text, "[\"3/0-7\",\"14/512-1023\"]");
        assert_eq!(serde_json::from_str::<ColumnRanges>(&text).unwrap(), columns);
        assert_eq!(columns.zooms().unwrap().to_string(), "3,14");
        for wrong in ["", "3", "3/1", "3/2-1", "3/0-8", "99/0-1", "3/a-1"] {
            assert!(wrong.parse::<ColumnRange>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_coverage_of_some_columns_has_no_other_tile() {
        let boxes: [AreaPart; 1] = ["-90,-60,90,60".parse().unwrap()];
        let columns = ColumnRanges::new(vec!["2/2-3".parse().unwrap(), "3/0-2".parse().unwrap()]);
        let (whole, part) = (Coverage::new(&boxes), Coverage::new(&boxes).of_columns(columns));
        for zoom in (0..5).filter_map(Zoom::new) {
            for (x, y) in (0..=zoom.last()).flat_map(|x| (0..=zoom.last()).map(move |y| (x, y))) {
                let tile = TileCoord::new(zoom, x, y).unwrap();
                let owned = match zoom.get() {
                    2 => x >= 2,
                    3 => x <= 2,
                    _ => false,
                };
                let is_in = |rect: &TileRect| (rect.x0..=rect.x1).contains(&x) && (rect.y0..=rect.y1).contains(&y);
                assert_eq!(part.rects(zoom).iter().any(is_in), owned && whole.touches(tile), "{tile}");
                assert_eq!(part.touches(tile), owned && whole.touches(tile), "{tile}");
            }
        }
        assert!(!Coverage::new(&[]).of_columns(ColumnRanges::default()).is_world());
    }
}
