//! Suitable zooms for what was found, estimated from the number of features, where they lie, and how large they are.

use crate::postgis::{ColumnExtent, GeometryRows};
use crate::tile::LonLatBox;

/// The deepest zoom of a draft: a street fills the screen there.
const DEEPEST: u8 = 14;

/// The most point tiles that a draft plans, at all zooms together: a minute's work.
const MAX_POINT_TILES: f64 = 10_000_000.0;

/// The most tiles of lines and polygons that a draft plans, at all zooms together. The database clips each of them.
const MAX_SHAPE_TILES: f64 = 200_000.0;

/// The number of points below which clusters are useless, because a client can draw that many without them.
const MIN_CLUSTERED_POINTS: u64 = 1_000;

/// The average number of points per tile over the extent above which points are drawn in clusters.
const MAX_POINTS_OF_TILE: f64 = 100.0;

/// Most rows lie in cities, so clusters are useful at this many more zooms than the average density suggests.
const ZOOMS_FOR_CITIES: u8 = 3;

/// The number of lines and polygons below which they are drawn at every zoom, however small they are.
const MIN_LATE_SHAPES: u64 = 2_000;

/// The side of a tile in pixels, as map clients draw it.
const TILE_PIXELS: f64 = 512.0;

/// The facts about a layer that determine its zooms.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerSize<'a> {
    rows: u64,
    is_points: bool,
    extent: Option<&'a ColumnExtent>,
}

/// The zooms of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DraftZooms {
    /// The first zoom at which it is drawn.
    pub(super) first: u8,
    /// The last zoom with clusters.
    pub(super) clusters_to: Option<u8>,
}

/// The width and height of a box in degrees as shares of the Web Mercator world.
#[derive(Debug, Clone, Copy)]
struct WorldShare {
    width: f64,
    height: f64,
}

impl WorldShare {
    fn of(degrees: &LonLatBox) -> WorldShare {
        let world = LonLatBox::WORLD;
        let y = |latitude: f64| {
            let sine = latitude.clamp(world.south, world.north).to_radians().sin();
            0.5 - ((1.0 + sine) / (1.0 - sine)).ln() / (4.0 * std::f64::consts::PI)
        };
        let width = ((degrees.east - degrees.west) / 360.0).clamp(0.0, 1.0);
        WorldShare { width, height: (y(degrees.south) - y(degrees.north)).clamp(0.0, 1.0) }
    }

    /// The number of tiles of a zoom that the box touches.
    fn tiles(self, zoom: u8) -> f64 {
        let side = f64::from(zoom).exp2();
        (self.width * side + 1.0).min(side) * (self.height * side + 1.0).min(side)
    }
}

impl<'a> LayerSize<'a> {
    pub(super) fn of(rows: &'a GeometryRows) -> LayerSize<'a> {
        LayerSize { rows: rows.rows, is_points: rows.are_points(), extent: rows.extent.as_ref() }
    }

    fn share(&self) -> WorldShare {
        let degrees = self.extent.and_then(|extent| extent.degrees.as_ref());
        degrees.map_or(WorldShare { width: 1.0, height: 1.0 }, WorldShare::of)
    }

    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn features(&self) -> f64 {
        self.rows as f64
    }

    /// The number of tiles of a zoom in which something is drawn.
    fn occupied(&self, zoom: u8) -> f64 {
        let (share, all) = (self.share(), self.share().tiles(zoom));
        let Some(extent) = self.extent else { return 0.0 };
        if self.is_points {
            return all.min(self.features());
        }
        let side = extent.mean_side * share.width.max(share.height) * f64::from(zoom).exp2();
        all.min(all * extent.share_of_area.min(1.0) + self.features() * (1.0 + 2.0 * side))
    }

    /// The zooms of the layer in a tileset that ends at `last`.
    pub(super) fn zooms(&self, last: u8) -> DraftZooms {
        let share = self.share();
        let Some(extent) = self.extent else { return DraftZooms { first: 0, clusters_to: None } };
        if self.is_points {
            let is_crowded = |zoom: &u8| self.features() / share.tiles(*zoom) > MAX_POINTS_OF_TILE;
            let crowded = (0..=DEEPEST).take_while(is_crowded).last().filter(|_| self.rows >= MIN_CLUSTERED_POINTS);
            let clusters_to = crowded.and_then(|zoom| Some((zoom + ZOOMS_FOR_CITIES).min(last.checked_sub(1)?)));
            return DraftZooms { first: 0, clusters_to };
        }
        let side = extent.mean_side * share.width.max(share.height) * TILE_PIXELS;
        let is_dust = |zoom: &u8| self.rows >= MIN_LATE_SHAPES && side * f64::from(*zoom).exp2() < 1.0;
        let late = (0..last).take_while(is_dust).count();
        DraftZooms { first: u8::try_from(late).unwrap_or(last), clusters_to: None }
    }
}

/// The last zoom of a tileset with these layers.
pub(super) fn last_zoom(layers: &[LayerSize<'_>]) -> u8 {
    let (mut points, mut shapes, mut last) = (0.0, 0.0, 0);
    for zoom in 0..=DEEPEST {
        for layer in layers {
            let tiles = layer.occupied(zoom);
            if layer.is_points { points += tiles } else { shapes += tiles }
        }
        if points > MAX_POINT_TILES || shapes > MAX_SHAPE_TILES {
            break;
        }
        last = zoom;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::SourceBox;

    fn rows(rows: u64, shape: &str, sides: [f64; 4], mean_side: f64) -> GeometryRows {
        let degrees = LonLatBox::from_sides(sides);
        let own = SourceBox { min_x: sides[0], min_y: sides[1], max_x: sides[2], max_y: sides[3] };
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let share_of_area = rows as f64 * mean_side * mean_side;
        GeometryRows {
            rows,
            is_sample: false,
            has_geometry: true,
            srids: vec![4326],
            unknown_srids: Vec::new(),
            shapes: vec![shape.to_owned()],
            extent: Some(ColumnExtent { own, degrees: Some(degrees), share_of_area, mean_side }),
            invalid_areas: 0,
            points_in_parts: 0,
        }
    }

    const WORLD: [f64; 4] = [-180.0, -60.0, 180.0, 75.0];
    const CITY: [f64; 4] = [8.4, 47.3, 8.6, 47.5];

    #[test]
    fn zooms_follow_number_and_size() {
        for (found, last, zooms) in [
            // 100,000 places all over the world.
            (rows(100_000, "POINT", WORLD, 0.0), 14, DraftZooms { first: 0, clusters_to: Some(8) }),
            (rows(100, "POINT", WORLD, 0.0), 14, DraftZooms { first: 0, clusters_to: None }),
            (rows(100_000, "POINT", CITY, 0.0), 14, DraftZooms { first: 0, clusters_to: Some(13) }),
            // Countries fill tiles at any depth.
            (rows(250, "MULTIPOLYGON", WORLD, 0.08), 9, DraftZooms { first: 0, clusters_to: None }),
            // Buildings of 15 m.
            (rows(50_000, "POLYGON", CITY, 0.001), 14, DraftZooms { first: 12, clusters_to: None }),
            (rows(0, "POINT", CITY, 0.0), 14, DraftZooms { first: 0, clusters_to: None }),
        ] {
            let size = LayerSize::of(&found);
            assert_eq!(last_zoom(&[size]), last, "{found:?}");
            assert_eq!(size.zooms(last), zooms, "{found:?}");
        }
    }
}
