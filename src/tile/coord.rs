//! Addresses of tiles, and rectangles of them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{WORLD_UNITS, WorldRect, Zoom};

/// The address of a tile in the XYZ scheme: column x grows east, row y grows south. Always inside its zoom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TileCoord {
    zoom: Zoom,
    x: u32,
    y: u32,
}

impl TileCoord {
    /// An address, if x and y lie inside the zoom.
    pub const fn new(zoom: Zoom, x: u32, y: u32) -> Option<TileCoord> {
        if x <= zoom.last() && y <= zoom.last() { Some(TileCoord { zoom, x, y }) } else { None }
    }

    /// The tile at a column and a TMS row (y growing north), as MBTiles counts them; both are wrapped into the zoom.
    pub const fn from_tms(zoom: Zoom, column: u32, row: u32) -> TileCoord {
        TileCoord { zoom, x: column & zoom.last(), y: zoom.last() - (row & zoom.last()) }
    }

    /// The zoom level.
    #[must_use]
    pub const fn zoom(self) -> Zoom {
        self.zoom
    }

    /// The column, growing east.
    #[must_use]
    pub const fn x(self) -> u32 {
        self.x
    }

    /// The row, growing south.
    #[must_use]
    pub const fn y(self) -> u32 {
        self.y
    }

    /// The row as TMS and MBTiles count it, growing north (MBTiles 1.3, section "Tiles").
    #[must_use]
    pub const fn tms_row(self) -> u32 {
        self.zoom.last() - self.y
    }
}

impl fmt::Display for TileCoord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.zoom, self.x, self.y)
    }
}

/// The error for a text that does not name a tile: not `z/x/y`, or x or y beyond the zoom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoTile;

impl FromStr for TileCoord {
    type Err = NoTile;

    fn from_str(text: &str) -> Result<TileCoord, NoTile> {
        let mut numbers = text.split('/').map(|part| part.parse::<u32>().map_err(|_not_a_number| NoTile));
        let mut next = || numbers.next().unwrap_or(Err(NoTile));
        let (zoom, x, y) = (next()?, next()?, next()?);
        if numbers.next().is_some() {
            return Err(NoTile);
        }
        let zoom = u8::try_from(zoom).ok().and_then(Zoom::new).ok_or(NoTile)?;
        TileCoord::new(zoom, x, y).ok_or(NoTile)
    }
}

impl JsonSchema for TileCoord {
    fn schema_name() -> Cow<'static, str> {
        "Tile".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A tile, z/x/y in the XYZ scheme.",
            "type": "string",
            "pattern": "^[0-9]+/[0-9]+/[0-9]+$",
        })
    }
}

impl<'de> Deserialize<'de> for TileCoord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TileCoord, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|NoTile| serde::de::Error::custom(format!("{text:?} is no tile")))
    }
}

impl Serialize for TileCoord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A rectangle of tiles of one zoom, both ends included, in XYZ rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileRect {
    /// The zoom level.
    pub zoom: Zoom,
    /// The first column.
    pub x0: u32,
    /// The first (northernmost) row.
    pub y0: u32,
    /// The last column.
    pub x1: u32,
    /// The last (southernmost) row.
    pub y1: u32,
}

impl From<TileCoord> for TileRect {
    fn from(tile: TileCoord) -> TileRect {
        TileRect { zoom: tile.zoom, x0: tile.x, y0: tile.y, x1: tile.x, y1: tile.y }
    }
}

impl TileRect {
    /// All tiles of a zoom.
    pub fn all(zoom: Zoom) -> TileRect {
        TileRect { zoom, x0: 0, y0: 0, x1: zoom.last(), y1: zoom.last() }
    }

    /// The number of tiles in the rectangle.
    pub fn tiles(&self) -> u64 {
        u64::from(self.x1 - self.x0 + 1) * u64::from(self.y1 - self.y0 + 1)
    }

    /// All its tiles, column by column.
    pub fn iter(&self) -> impl Iterator<Item = TileCoord> + use<> {
        let TileRect { zoom, x0, y0, x1, y1 } = *self;
        (x0..=x1).flat_map(move |x| (y0..=y1).filter_map(move |y| TileCoord::new(zoom, x, y)))
    }

    /// The intersection with a rectangle of the same zoom; `None` if it is empty.
    pub fn common(&self, other: &TileRect) -> Option<TileRect> {
        let rect = TileRect {
            zoom: self.zoom,
            x0: self.x0.max(other.x0),
            y0: self.y0.max(other.y0),
            x1: self.x1.min(other.x1),
            y1: self.y1.min(other.y1),
        };
        (rect.x0 <= rect.x1 && rect.y0 <= rect.y1).then_some(rect)
    }

    /// The smallest rectangle that holds both, which have the same zoom.
    #[must_use]
    pub fn joined(self, other: TileRect) -> TileRect {
        TileRect {
            zoom: self.zoom,
            x0: self.x0.min(other.x0),
            y0: self.y0.min(other.y0),
            x1: self.x1.max(other.x1),
            y1: self.y1.max(other.y1),
        }
    }

    /// The rectangle cut in two across its longer side; `None` for a single tile.
    pub fn halves(&self) -> Option<(TileRect, TileRect)> {
        if self.tiles() == 1 {
            return None;
        }
        if self.x1 - self.x0 >= self.y1 - self.y0 {
            let middle = self.x0 + (self.x1 - self.x0) / 2;
            Some((TileRect { x1: middle, ..*self }, TileRect { x0: middle + 1, ..*self }))
        } else {
            let middle = self.y0 + (self.y1 - self.y0) / 2;
            Some((TileRect { y1: middle, ..*self }, TileRect { y0: middle + 1, ..*self }))
        }
    }

    /// The tile in the rectangle's north-west corner.
    pub fn first(&self) -> Option<TileCoord> {
        TileCoord::new(self.zoom, self.x0, self.y0)
    }

    /// The world units that the tiles cover, grown by a margin in world units. East and south are the first units
    /// beyond the tiles.
    pub fn world(&self, margin: i64) -> WorldRect {
        let tile = WORLD_UNITS >> self.zoom.get();
        let sides = WorldRect {
            west: i64::from(self.x0) * tile,
            north: i64::from(self.y0) * tile,
            east: (i64::from(self.x1) + 1) * tile,
            south: (i64::from(self.y1) + 1) * tile,
        };
        sides.grown(margin)
    }
}

// Identifiers: of a layer, and of what a target stores as one tile.

/// A configured layer: its number in the configuration, counted from 0. If a layer is drawn differently at different
/// zooms, its parts share one id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(pub u16);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A layer's position in a list of layers (of a run, a plan, a batch), counted from 0. One configured layer
/// ([`LayerId`]) may be several layers of the list, each for other zooms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct LayerIndex(pub usize);

/// Which part of a tile is stored as one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slice {
    /// All layers.
    Whole,
    /// One layer: the target keeps layers apart.
    Layer(LayerId),
}

/// The address of a stored tile, or of one layer of it where the target keeps layers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TileId {
    /// Which tile.
    pub coord: TileCoord,
    /// How much of it.
    pub slice: Slice,
}

impl From<TileCoord> for TileId {
    fn from(coord: TileCoord) -> TileId {
        TileId { coord, slice: Slice::Whole }
    }
}

impl fmt::Display for TileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slice {
            Slice::Whole => self.coord.fmt(f),
            Slice::Layer(layer) => write!(f, "{} (layer {layer})", self.coord),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_flipped_for_tms() {
        let zoom = Zoom::new(3).unwrap();
        let tile = TileCoord::new(zoom, 5, 1).unwrap();
        assert_eq!((tile.tms_row(), TileCoord::from_tms(zoom, 5, 6)), (6, tile));
        assert_eq!(TileCoord::new(zoom, 8, 0), None);
    }

    #[test]
    fn halves_cover_the_whole_once() {
        let rect = TileRect { zoom: Zoom::new(4).unwrap(), x0: 2, y0: 3, x1: 4, y1: 9 };
        let (a, b) = rect.halves().unwrap();
        assert_eq!((a.tiles() + b.tiles(), a.y1 + 1), (rect.tiles(), b.y0));
        assert_eq!(TileRect { x1: 2, y1: 3, ..rect }.halves(), None);
    }
}
