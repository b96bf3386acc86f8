//! Lists of tiles as rectangles: short enough to be written into a note, sent in an event, or looked through.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use super::{TileCoord, TileRect, Zoom};
use crate::setting::is_text_in_json;

/// The most tiles that a list may hold: building a list takes 12 bytes for each tile, and its receivers may go through
/// all of them.
pub const MAX_TILES_IN_LIST: u64 = 1 << 18;

/// The most rectangles of a list: as text about 200 kB.
pub const MAX_RECTS_IN_LIST: usize = 8_192;

/// Tiles as rectangles that share no tile, by zoom, then west to east. A list has at most [`MAX_TILES_IN_LIST`] tiles
/// and [`MAX_RECTS_IN_LIST`] rectangles.
///
/// As text, rectangles are separated by spaces: `z/x/y`, with a range `first-last` instead of `x` or `y` where it has
/// several columns or rows, such as `3/5/2 14/8712-8713/5333`. Rows are numbered from the north (XYZ).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TileRectList(Vec<TileRect>);

/// A text that is no list of tiles.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is no list of tiles such as 3/5/2 14/8712-8713/5333")]
pub struct TileRectListError;

impl TileRectList {
    /// The list of some tiles, in any order; a tile may be given twice. `None` if the list would be too long.
    pub fn of(tiles: impl IntoIterator<Item = TileCoord>) -> Option<TileRectList> {
        let mut all: Vec<TileCoord> = Vec::new();
        for tile in tiles {
            // Twice the limit, because a tile may be given once for each of its layers.
            if all.len() as u64 >= 2 * MAX_TILES_IN_LIST {
                return None;
            }
            all.push(tile);
        }
        all.sort_unstable_by_key(|tile| (tile.zoom(), tile.x(), tile.y()));
        all.dedup();
        if all.len() as u64 > MAX_TILES_IN_LIST {
            return None;
        }
        let mut rects = Vec::new();
        for column in all.chunk_by(|one, next| {
            (one.zoom(), one.x()) == (next.zoom(), next.x()) && one.y().checked_add(1) == Some(next.y())
        }) {
            if let (Some(first), Some(last)) = (column.first(), column.last()) {
                rects.push(TileRect { y1: last.y(), ..TileRect::from(*first) });
            }
        }
        let rects = joined_columns(rects);
        (rects.len() <= MAX_RECTS_IN_LIST).then_some(TileRectList(rects))
    }

    /// The tiles of several lists, each once. `None` if the list would be too long.
    pub fn union<'a>(lists: impl IntoIterator<Item = &'a TileRectList>) -> Option<TileRectList> {
        TileRectList::of(lists.into_iter().flat_map(TileRectList::tiles))
    }

    /// The rectangles.
    pub fn rects(&self) -> &[TileRect] {
        &self.0
    }

    /// The tiles, rectangle by rectangle.
    pub fn tiles(&self) -> impl Iterator<Item = TileCoord> + '_ {
        self.0.iter().flat_map(TileRect::iter)
    }

    /// How many tiles there are.
    pub fn count(&self) -> u64 {
        self.0.iter().map(TileRect::tiles).sum()
    }

    /// True if there is no tile.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Joins neighbouring columns of the same rows. The columns come from west to east.
pub fn joined_columns(columns: Vec<TileRect>) -> Vec<TileRect> {
    let mut open: HashMap<(Zoom, u32, u32), usize> = HashMap::new();
    let mut rects: Vec<TileRect> = Vec::new();
    for column in columns {
        let rows = (column.zoom, column.y0, column.y1);
        let neighbour = open.get(&rows).and_then(|&number| rects.get_mut(number));
        if let Some(rect) = neighbour.filter(|rect| rect.x1.checked_add(1) == Some(column.x0)) {
            rect.x1 = column.x1;
        } else {
            open.insert(rows, rects.len());
            rects.push(column);
        }
    }
    rects
}

impl fmt::Display for TileRectList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, rect) in self.0.iter().enumerate() {
            let TileRect { zoom, x0, y0, x1, y1 } = *rect;
            write!(f, "{}{zoom}/{x0}", if number > 0 { " " } else { "" })?;
            if x1 > x0 {
                write!(f, "-{x1}")?;
            }
            write!(f, "/{y0}")?;
            if y1 > y0 {
                write!(f, "-{y1}")?;
            }
        }
        Ok(())
    }
}

/// Accepts only text that [`fmt::Display`] can have written: lists are read back from places where others may write.
impl FromStr for TileRectList {
    type Err = TileRectListError;

    fn from_str(text: &str) -> Result<TileRectList, TileRectListError> {
        let (mut rects, mut tiles) = (Vec::new(), 0_u64);
        for part in text.split(' ').filter(|_| !text.is_empty()) {
            let rect = rect(part).ok_or(TileRectListError)?;
            tiles = tiles.saturating_add(rect.tiles());
            if tiles > MAX_TILES_IN_LIST || rects.len() >= MAX_RECTS_IN_LIST {
                return Err(TileRectListError);
            }
            rects.push(rect);
        }
        Ok(TileRectList(rects))
    }
}

fn rect(text: &str) -> Option<TileRect> {
    let mut parts = text.split('/');
    let (zoom, columns, rows) = (parts.next()?, parts.next()?, parts.next()?);
    let zoom = Zoom::new(zoom.parse().ok()?)?;
    let range = |text: &str| -> Option<std::ops::RangeInclusive<u32>> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some(first..=last)
    };
    let (columns, rows) = (range(columns)?, range(rows)?);
    // If the corner with the greatest numbers is inside the zoom, all others are, too.
    TileCoord::new(zoom, *columns.end(), *rows.end()).filter(|_| parts.next().is_none())?;
    Some(TileRect { zoom, x0: *columns.start(), y0: *rows.start(), x1: *columns.end(), y1: *rows.end() })
}

is_text_in_json!(TileRectList);

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(zoom: u8, x: u32, y: u32) -> TileCoord {
        TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
    }

    #[test]
    fn tiles_are_joined_to_rectangles_and_come_back_from_text() {
        let mut tiles: Vec<TileCoord> =
            (3..6).flat_map(|x| (1..=4).map(move |y| tile(4, x, y))).chain([tile(0, 0, 0), tile(4, 6, 1)]).collect();
        tiles.reverse();
        tiles.push(tile(4, 3, 1));
        let list = TileRectList::of(tiles.iter().copied()).unwrap();
        assert_eq!(list.to_string(), "0/0/0 4/3-5/1-4 4/6/1");
        assert_eq!(list.count(), 14);
        assert_eq!(list.to_string().parse(), Ok(list.clone()));
        assert_eq!(TileRectList::of(list.tiles()), Some(list.clone()));
        let more = TileRectList::of([tile(4, 6, 2), tile(4, 6, 3), tile(4, 6, 4)]).unwrap();
        assert_eq!(TileRectList::union([&list, &more]).unwrap().to_string(), "0/0/0 4/3-6/1-4");
        assert_eq!("".parse(), Ok(TileRectList::default()));
    }

    #[test]
    fn what_a_stranger_wrote_is_refused_without_being_built() {
        for text in [
            "x",
            " ",
            "0/0/0 ",
            "0/0",
            "0/0/0/0",
            "0/1/0",
            "3/2-1/0",
            "3/0/8",
            "31/0/0",
            "-1/0/0",
            "22/0-4194303/0-4194303",
            "4/0-/1",
            "4/-3/1",
            "99999999999/0/0",
            "9/0-511/0-511 9/0-511/0-511",
        ] {
            assert_eq!(text.parse::<TileRectList>(), Err(TileRectListError), "{text:?}");
        }
        let long = vec!["5/1/1"; MAX_RECTS_IN_LIST + 1].join(" ");
        assert_eq!(long.parse::<TileRectList>(), Err(TileRectListError));
        assert_eq!(TileRectList::of((0..=8_192).map(|number| tile(22, 2 * number, number))), None);
        let many = (0..513).flat_map(|x| (0..513).map(move |y| tile(12, x, y)));
        assert_eq!(TileRectList::of(many), None, "more tiles than a list may hold");
    }
}
