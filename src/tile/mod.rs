//! Coordinates, boxes, tiles, batches: pure values. This module imports nothing of the project.
//!
//! A position is in *world units*: the square of Web Mercator (EPSG:3857) is cut into 2³² by 2³² units, x grows east
//! and y grows south from the north-west corner, so the tile of a position is a shift of its bits.
//!
//! | file | what |
//! |---|---|
//! | `coord`, `zoom` | [`TileCoord`], [`TileRect`], [`Zoom`], [`LayerId`] |
//! | `order` | the orders in which archives store tiles |
//! | `rect_list` | many tiles in a short text ([`TileRectList`]) |
//! | `tag`, `text` | the tags by which caches purge tiles ([`TilesetTag`]), texts that each tile fills in ([`TileText`]) |
//! | `bbox`, `world_box` | boxes in degrees ([`LonLatBox`], [`Coverage`]), in world units ([`WorldBox`], [`WorldRect`]), in a layer's own reference system ([`SourceBox`]) |
//! | `area_part` | polygons as the tiles that they touch ([`AreaPart`]) |
//! | `scope` | zooms and a part of the world ([`Scope`]), and the texts of both |
//! | `margin` | how far beyond a tile's edge its features are searched ([`Margin`]) |
//! | `feature` | where the features of a layer lie ([`Footprints`]) |
//! | `positions` | at which grid point of a tile a point is drawn ([`Positions`]) |
//! | `batch` | the unit of work between planning and rendering ([`Batch`], [`Area`], [`SearchBox`]) |
#![warn(missing_docs, reason = "users of the library begin here")]

mod area_part;
mod batch;
mod bbox;
mod coord;
mod feature;
mod margin;
mod order;
mod positions;
mod rect_list;
mod scope;
mod tag;
mod text;
mod world_box;
mod zoom;

pub use area_part::{AreaPart, AreaShape, area_for_people, is_bounded_area, parts_of_area};
pub use batch::{
    Area, Batch, ChangedPart, GridBox, GridBoxes, LayerCount, Neighbourhood, PlannedTiles, Repeat, SearchBox,
};
pub use bbox::{BoxError, Coverage, LonLatBox, MapCenter, NoCenter};
pub(crate) use bbox::{unit_x, unit_y};
pub use coord::{LayerId, LayerIndex, NoTile, Slice, TileCoord, TileId, TileRect};
pub use feature::{
    BoxFootprint, ChangeLocation, Footprints, LayerFootprints, MIN_TILES_OF_OUTLINE, Outline, OutlineRun,
    OutlinedBoxes, RingDirection, SortedPoints, outline_reach,
};
pub use margin::{Margin, TileBounds, beyond_in_degrees};
pub use order::{ColumnRange, ColumnRangeError, ColumnRanges, Order};
pub use positions::{Candidate, Frame, PlaceInTile, Positions};
pub use rect_list::{MAX_RECTS_IN_LIST, MAX_TILES_IN_LIST, TileRectList, TileRectListError, joined_columns};
pub use scope::{Scope, ScopeError, area_of_texts, area_texts};
pub use tag::{BandRoot, TilesetTag};
pub use text::{TileText, TileTextError, TileTextNames};
pub use world_box::{LAST_UNIT, SourceBox, WorldBox, WorldRect, single_above, single_below};
pub use zoom::{Zoom, ZoomError, ZoomLimits, ZoomList};

/// Half the side of the Web Mercator square in metres: π times the WGS 84 semi-major axis (EPSG:3857).
pub const HALF_WORLD_METRES: f64 = 20_037_508.342_789_244;

/// World units along one side of the square.
pub const WORLD_UNITS: i64 = 1 << 32;

/// Longitude in degrees of a position in world units.
pub fn longitude(x: i64) -> f64 {
    x as f64 / WORLD_UNITS as f64 * 360.0 - 180.0
}

/// Latitude in degrees of a position in world units (inverse spherical Mercator).
pub fn latitude(y: i64) -> f64 {
    let turned = std::f64::consts::PI * (1.0 - 2.0 * (y as f64 / WORLD_UNITS as f64));
    turned.sinh().atan().to_degrees()
}

/// Web Mercator metres of a position in world units, along one axis, counted from the west or north edge.
pub fn metres(units: i64) -> f64 {
    units as f64 / WORLD_UNITS as f64 * (2.0 * HALF_WORLD_METRES)
}
