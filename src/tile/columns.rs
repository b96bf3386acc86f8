//! Columns of tiles, zoom by zoom: the part of a tileset that one shard renders.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{TileCoord, TileRect, Zoom, ZoomList};

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
    #[must_use]
    pub const fn new(ranges: Vec<ColumnRange>) -> ColumnRanges {
        ColumnRanges(ranges)
    }

    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[ColumnRange] {
        &self.0
    }

    /// The zooms that have columns; `None` if there are no columns.
    #[must_use]
    pub fn zooms(&self) -> Option<ZoomList> {
        ZoomList::of(self.0.iter().map(|range| range.zoom))
    }

    /// True if a tile lies in these columns.
    #[must_use]
    pub fn contains(&self, tile: TileCoord) -> bool {
        self.0.iter().any(|range| range.zoom == tile.zoom() && (range.first..=range.last).contains(&tile.x()))
    }

    /// The parts of a rectangle that lie in these columns.
    pub(super) fn within(&self, rect: &TileRect) -> impl Iterator<Item = TileRect> {
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

impl Serialize for ColumnRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ColumnRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ColumnRange, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AreaPart, Coverage, TileCoord};
    use super::*;

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
