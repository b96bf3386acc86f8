//! Boxes in degrees, and the tiles that a set of them covers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Deserialize;

use super::{
    AreaPart, AreaShape, ColumnRanges, TileCoord, TileRect, WORLD_UNITS, WorldRect, Zoom, latitude, longitude,
};
use crate::setting::{has_schema_of, is_text_in_json};

/// A box in WGS 84 degrees, written `west,south,east,north`. It crosses the antimeridian where west is greater than
/// east. Reading one from text checks that longitudes are -180..=180 and latitudes -90..=90; the bounds in a foreign
/// archive's metadata may be anything. The tiles end at ±85.0511°.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LonLatBox {
    /// Longitude of the western side.
    pub west: f64,
    /// Latitude of the southern side.
    pub south: f64,
    /// Longitude of the eastern side.
    pub east: f64,
    /// Latitude of the northern side.
    pub north: f64,
}

/// Why a box could not be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BoxError {
    /// Not four numbers.
    #[error("\"{0}\" is no box: write west,south,east,north in degrees, such as 5.9,45.8,10.5,47.8")]
    NotABox(String),
    /// A number beyond its range.
    #[error("the box {text} is out of range: {what} {value} must lie between {min} and {max}")]
    OutOfRange {
        /// The box as typed.
        text: String,
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The least it may be.
        min: f64,
        /// The most it may be.
        max: f64,
    },
    /// South lies above north.
    #[error(
        "the box {text} is reversed: south {south} is not below north {north} (the order is west,south,east,north)"
    )]
    Reversed {
        /// The box as typed.
        text: String,
        /// The lower latitude as typed.
        south: f64,
        /// The upper latitude as typed.
        north: f64,
    },
    /// West and east are the same meridian.
    #[error("the box {0} is empty: west and east are the same (for the whole world write -180,-85.0511,180,85.0511)")]
    Empty(String),
}

has_schema_of!(LonLatBox, String, inline = true);

impl LonLatBox {
    /// The box of the whole Web Mercator world.
    pub const WORLD: LonLatBox =
        LonLatBox { west: -180.0, south: -85.051_128_779_806_6, east: 180.0, north: 85.051_128_779_806_6 };

    /// The box by its sides in the order of GeoJSON and TileJSON: west, south, east, north.
    pub const fn from_sides(sides: [f64; 4]) -> LonLatBox {
        let [west, south, east, north] = sides;
        LonLatBox { west, south, east, north }
    }

    /// The sides in the order of GeoJSON and TileJSON: west, south, east, north.
    pub const fn sides(&self) -> [f64; 4] {
        [self.west, self.south, self.east, self.north]
    }

    /// The smallest box that holds both, if none of them crosses the antimeridian.
    #[must_use]
    pub const fn joined(self, other: LonLatBox) -> LonLatBox {
        LonLatBox {
            west: self.west.min(other.west),
            south: self.south.min(other.south),
            east: self.east.max(other.east),
            north: self.north.max(other.north),
        }
    }

    /// The intersection of two boxes that do not cross the antimeridian; `None` if it is empty.
    #[must_use]
    pub fn common(self, other: LonLatBox) -> Option<LonLatBox> {
        let both = LonLatBox {
            west: self.west.max(other.west),
            south: self.south.max(other.south),
            east: self.east.min(other.east),
            north: self.north.min(other.north),
        };
        (both.west <= both.east && both.south <= both.north).then_some(both)
    }

    /// Whether the box runs over the 180th meridian.
    pub fn crosses_antimeridian(&self) -> bool {
        self.west > self.east
    }

    /// Splits the box into one or two boxes that do not cross the antimeridian (RFC 7946, section 3.1.9).
    pub fn unwrapped(&self) -> impl Iterator<Item = LonLatBox> {
        let (first, second) = if self.crosses_antimeridian() {
            (LonLatBox { east: 180.0, ..*self }, Some(LonLatBox { west: -180.0, ..*self }))
        } else {
            (*self, None)
        };
        [Some(first), second].into_iter().flatten()
    }
}

/// The same rectangle in degrees.
impl From<WorldRect> for LonLatBox {
    fn from(rect: WorldRect) -> LonLatBox {
        let WorldRect { west, north, east, south } = rect;
        LonLatBox { west: longitude(west), south: latitude(south), east: longitude(east), north: latitude(north) }
    }
}

/// The box that some tiles fill.
impl From<TileRect> for LonLatBox {
    fn from(rect: TileRect) -> LonLatBox {
        rect.world(0).into()
    }
}

impl FromStr for LonLatBox {
    type Err = BoxError;
    fn from_str(text: &str) -> Result<Self, BoxError> {
        let not_a_box = || BoxError::NotABox(text.to_owned());
        let numbers: Vec<f64> = text
            .split(',')
            .map(|part| part.trim().parse::<f64>().map_err(|_not_a_number| not_a_box()))
            .collect::<Result<_, _>>()?;
        let [west, south, east, north] = numbers[..] else { return Err(not_a_box()) };
        for (what, value, limit) in
            [("west", west, 180.0), ("south", south, 90.0), ("east", east, 180.0), ("north", north, 90.0)]
        {
            if !(-limit..=limit).contains(&value) {
                return Err(BoxError::OutOfRange { text: text.to_owned(), what, value, min: -limit, max: limit });
            }
        }
        if south >= north {
            return Err(BoxError::Reversed { text: text.to_owned(), south, north });
        }
        if (west - east).abs() < f64::EPSILON {
            return Err(BoxError::Empty(text.to_owned()));
        }
        Ok(LonLatBox { west, south, east, north })
    }
}

impl fmt::Display for LonLatBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{},{}", self.west, self.south, self.east, self.north)
    }
}

is_text_in_json!(LonLatBox);

/// The part of the world that a run is about: the union of some boxes and shapes.
#[derive(Debug, Clone, PartialEq)]
pub struct Coverage {
    /// Shapes, and boxes that do not cross the antimeridian.
    parts: Vec<AreaPart>,
    /// The boxes in shares of the world. They are kept because every box of an area is compared with each tile.
    boxes: Vec<WorldShares>,
    shapes: Vec<Arc<AreaShape>>,
    /// The columns of tiles that belong to it; `None` for all.
    columns: Option<ColumnRanges>,
}

/// The sides of a box in shares of the world, 0..=1 from its north-western corner.
#[derive(Debug, Clone, Copy, PartialEq)]
struct WorldShares {
    west: f64,
    north: f64,
    east: f64,
    south: f64,
}

impl Coverage {
    /// The union of the parts. No part at all means the whole world.
    pub fn new(parts: &[AreaPart]) -> Coverage {
        let whole = [AreaPart::Box(LonLatBox::WORLD)];
        let given = if parts.is_empty() { &whole } else { parts };
        let (mut parts, mut boxes, mut shapes) = (Vec::new(), Vec::new(), Vec::new());
        for part in given {
            match part {
                AreaPart::Box(one) => {
                    for b in one.unwrapped() {
                        let (west, east) = (unit_x(b.west), unit_x(b.east));
                        boxes.push(WorldShares { west, north: unit_y(b.north), east, south: unit_y(b.south) });
                        parts.push(AreaPart::Box(b));
                    }
                }
                AreaPart::Shape(shape) => {
                    shapes.push(Arc::clone(shape));
                    parts.push(part.clone());
                }
            }
        }
        Coverage { parts, boxes, shapes, columns: None }
    }

    /// The part of the coverage that lies in some columns of tiles.
    #[must_use]
    pub fn of_columns(self, columns: ColumnRanges) -> Coverage {
        Coverage { columns: Some(columns), ..self }
    }

    /// True if only some columns of tiles belong to it. Then its tiles of one zoom need not lie within those of a
    /// shallower one.
    pub const fn is_part(&self) -> bool {
        self.columns.is_some()
    }

    /// The parts: shapes, and boxes that do not cross the antimeridian.
    pub fn parts(&self) -> &[AreaPart] {
        &self.parts
    }

    /// Whether one of the boxes is the whole world.
    pub fn is_world(&self) -> bool {
        let mut boxes = self.parts.iter().filter_map(AreaPart::as_box);
        self.columns.is_none()
            && boxes.any(|b| b.west <= -180.0 && b.east >= 180.0 && b.south <= -85.051 && b.north >= 85.051)
    }

    /// The tiles of a zoom that the coverage touches, as rectangles. No rectangle occurs twice, but rectangles may
    /// overlap. A box or a shape that ends exactly where a tile begins does not touch that tile.
    pub fn rects(&self, zoom: Zoom) -> Vec<TileRect> {
        let rect = |b: &WorldShares| {
            let (x0, x1) = tile_range(b.west, b.east, zoom);
            let (y0, y1) = tile_range(b.north, b.south, zoom);
            TileRect { zoom, x0, y0, x1, y1 }
        };
        let mut seen = std::collections::HashSet::new();
        let is_new = |rect: &TileRect| seen.insert((rect.x0, rect.y0, rect.x1, rect.y1));
        let of_shapes = self.shapes.iter().flat_map(|shape| shape.rects(zoom));
        let rects = self.boxes.iter().map(rect).chain(of_shapes).filter(is_new);
        match &self.columns {
            None => rects.collect(),
            Some(columns) => rects.collect::<Vec<_>>().iter().flat_map(|rect| columns.within(rect)).collect(),
        }
    }

    /// True if it touches a tile.
    pub fn touches(&self, tile: TileCoord) -> bool {
        let zoom = tile.zoom();
        let is_in_box = |b: &WorldShares| {
            let ((x0, x1), (y0, y1)) = (tile_range(b.west, b.east, zoom), tile_range(b.north, b.south, zoom));
            (x0..=x1).contains(&tile.x()) && (y0..=y1).contains(&tile.y())
        };
        let is_own = |columns: &ColumnRanges| columns.within(&TileRect::from(tile)).next().is_some();
        if !self.columns.as_ref().is_none_or(is_own) {
            return false;
        }
        self.boxes.iter().any(is_in_box) || self.shapes.iter().any(|shape| shape.touches(tile))
    }

    /// The smallest box around the coverage, cut to the latitudes of the tiles. It does not wrap around the
    /// antimeridian.
    pub fn bounds(&self) -> LonLatBox {
        let (most_north, most_south) = (latitude(0), latitude(WORLD_UNITS));
        let nothing = LonLatBox { west: 180.0, south: most_north, east: -180.0, north: most_south };
        self.parts.iter().flat_map(AreaPart::bounds).fold(nothing, |all, one| {
            all.joined(LonLatBox { south: one.south.max(-most_north), north: one.north.min(most_north), ..one })
        })
    }
}

/// The world's share, 0..=1, west of a longitude.
pub(crate) fn unit_x(longitude: f64) -> f64 {
    (longitude + 180.0) / 360.0
}

/// The world's share, 0..=1, north of a latitude; a latitude beyond the square is moved to its edge.
pub(crate) fn unit_y(latitude: f64) -> f64 {
    let sine = latitude.to_radians().sin();
    (0.5 - ((1.0 + sine) / (1.0 - sine)).ln() / (4.0 * std::f64::consts::PI)).clamp(0.0, 1.0)
}

/// The first and last tile between two shares of the world.
fn tile_range(from: f64, to: f64, zoom: Zoom) -> (u32, u32) {
    let tiles = f64::from(zoom.last()) + 1.0;
    let index = |share: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=2^22 - 1 before")]
        let index = share.clamp(0.0, tiles - 1.0) as u32;
        index
    };
    // A tolerance, so that a border typed in decimal degrees does not reach into the next tile by rounding.
    let hair = 1e-9 * tiles;
    let first = index((from * tiles + hair).floor());
    (first, index((to * tiles - hair).ceil() - 1.0).max(first))
}

// Where a map begins.

/// Where a map of the tileset begins (TileJSON 3.0.0, section 3.6).
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct MapCenter {
    /// Its longitude in degrees, -180 to 180.
    pub longitude: f64,
    /// Its latitude in degrees, -90 to 90.
    pub latitude: f64,
    /// Its zoom.
    pub zoom: u8,
}

/// The text is no center of a map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no center: write longitude,latitude,zoom, such as 13.4,52.52,9")]
pub struct NoCenter(String);

impl FromStr for MapCenter {
    type Err = NoCenter;

    fn from_str(text: &str) -> Result<MapCenter, NoCenter> {
        let wrong = || NoCenter(text.to_owned());
        let parts: Vec<&str> = text.split(',').map(str::trim).collect();
        let [longitude, latitude, zoom] = parts[..] else { return Err(wrong()) };
        let degrees = |part: &str, most: f64| part.parse::<f64>().ok().filter(|degrees| degrees.abs() <= most);
        let zoom = zoom.parse().ok().filter(|zoom| *zoom <= Zoom::MAX.get());
        let (longitude, latitude) = (degrees(longitude, 180.0), degrees(latitude, 90.0));
        let ((longitude, latitude), zoom) = longitude.zip(latitude).zip(zoom).ok_or_else(wrong)?;
        Ok(MapCenter { longitude, latitude, zoom })
    }
}

impl TryFrom<String> for MapCenter {
    type Error = NoCenter;

    fn try_from(text: String) -> Result<MapCenter, NoCenter> {
        text.parse()
    }
}

impl fmt::Display for MapCenter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6},{:.6},{}", self.longitude, self.latitude, self.zoom)
    }
}

has_schema_of!(MapCenter, String, inline = false);

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(text: &str) -> AreaPart {
        text.parse().unwrap()
    }

    #[test]
    fn a_bad_box_says_what_is_wrong() {
        for (text, message) in [
            ("1,2,3", "\"1,2,3\" is no box: write west,south,east,north in degrees, such as 5.9,45.8,10.5,47.8"),
            ("a,b,c,d", "\"a,b,c,d\" is no box: write west,south,east,north in degrees, such as 5.9,45.8,10.5,47.8"),
            ("-181,0,10,10", "the box -181,0,10,10 is out of range: west -181 must lie between -180 and 180"),
            ("0,0,10,NaN", "the box 0,0,10,NaN is out of range: north NaN must lie between -90 and 90"),
            ("0,0,10,91", "the box 0,0,10,91 is out of range: north 91 must lie between -90 and 90"),
            (
                "0,10,10,0",
                "the box 0,10,10,0 is reversed: south 10 is not below north 0 (the order is west,south,east,north)",
            ),
            (
                "5,0,5,1",
                "the box 5,0,5,1 is empty: west and east are the same (for the whole world write -180,-85.0511,180,85.0511)",
            ),
        ] {
            assert_eq!(text.parse::<LonLatBox>().unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_box_covers_the_tiles_it_touches_and_no_neighbour() {
        for (text, zoom, expected) in [
            ("-180,-85.0511,180,85.0511", 0, vec![(0, 0, 0, 0)]),
            ("-180,-90,180,90", 3, vec![(0, 0, 7, 7)]),
            ("0,0,90,66.513260443111", 2, vec![(2, 1, 2, 1)]),
            ("170,-50,-170,50", 2, vec![(3, 1, 3, 2), (0, 1, 0, 2)]),
            ("10.1,50.1,10.2,50.2", 10, vec![(540, 346, 541, 346)]),
        ] {
            let rects = Coverage::new(&[boxed(text)]).rects(Zoom::new(zoom).unwrap());
            let found: Vec<_> = rects.iter().map(|r| (r.x0, r.y0, r.x1, r.y1)).collect();
            assert_eq!(found, expected, "{text} at {zoom}");
        }
    }

    #[test]
    fn the_whole_world_is_known() {
        assert!(Coverage::new(&[]).is_world());
        assert!(Coverage::new(&[boxed("0,0,1,1"), boxed("-180,-85.0511,180,85.0511")]).is_world());
        assert!(!Coverage::new(&[boxed("170,-50,-170,50")]).is_world());
    }

    #[test]
    fn a_center_is_three_numbers_within_their_ranges() {
        let center: MapCenter = " 13.4, 52.52,9".parse().unwrap();
        assert_eq!(center, MapCenter { longitude: 13.4, latitude: 52.52, zoom: 9 });
        assert_eq!(center.to_string(), "13.400000,52.520000,9");
        for text in ["", "1,2", "1,2,3,4", "181,0,1", "0,91,1", "0,0,23", "a,0,1", "0,0,1.5", "NaN,0,1", "0,inf,1"] {
            let message = format!("\"{text}\" is no center: write longitude,latitude,zoom, such as 13.4,52.52,9");
            assert_eq!(text.parse::<MapCenter>().unwrap_err().to_string(), message);
        }
    }
}
