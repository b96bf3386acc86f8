//! Which parts of a tile can show a feature at a changed position.

use crate::tile::{ChangedPart, GridBox, TileCoord, TileRect, WorldRect};

/// The parts of a tile that show features at `positions` (world units); `None` once there are more than `max_parts`. The tile's grid has
/// `extent` units along a side. The world boxes of the parts do not touch each other, so that no row is found twice.
///
/// `ST_AsMVTGeom` rounds a position to the nearest grid point, so a feature is drawn at most one unit from its position.
pub(super) fn parts(
    tile: TileCoord,
    extent: u32,
    max_parts: usize,
    positions: impl Iterator<Item = [u32; 2]>,
) -> Option<Vec<ChangedPart>> {
    let grid = TileGrid::of(tile, extent);
    let mut boxes: Vec<GridBox> = Vec::new();
    for position in positions {
        let mut one = grid.around(position);
        while let Some(near) = boxes.iter().position(|other| grid.is_near(&one, other)) {
            one = hull(one, boxes.swap_remove(near));
        }
        boxes.push(one);
        // Each position is compared with every box, so the number of boxes is bounded.
        if boxes.len() > max_parts {
            return None;
        }
    }
    Some(boxes.into_iter().map(|one| ChangedPart { grid: one, world: grid.world(&one) }).collect())
}

/// For each of `positions`, the box of grid points at which its feature may be drawn.
pub(super) fn boxes(tile: TileCoord, extent: u32, positions: impl Iterator<Item = [u32; 2]>) -> Vec<GridBox> {
    let grid = TileGrid::of(tile, extent);
    let mut boxes: Vec<GridBox> = positions.map(|position| grid.around(position)).collect();
    boxes.sort_unstable();
    boxes.dedup();
    boxes
}

/// The grid of a tile.
pub(super) struct TileGrid {
    west: f64,
    north: f64,
    /// World units of one unit of the grid.
    unit: f64,
}

/// The most world units by which our arithmetic and that of PostGIS differ, on either side.
const ROUNDING_SLACK: f64 = 2.0;

/// Boxes that are this many world units apart may still meet in a spatial index, which keeps single-precision floats (PostGIS, `BOX2DF`). Rows
/// that are wrapped lie up to 540° from the prime meridian, where these floats are 6.1e-5° (728 world units) apart: the boxes of two
/// parts and that of a row between them are rounded by one step each.
const INDEX_SLACK: f64 = 1_500.0;

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "world units are exact in doubles")]
impl TileGrid {
    pub(super) fn of(tile: TileCoord, extent: u32) -> TileGrid {
        let WorldRect { west, north, east, .. } = TileRect::from(tile).world(0);
        TileGrid { west: west as f64, north: north as f64, unit: (east - west) as f64 / f64::from(extent) }
    }

    /// The grid points at which a feature at a position (world units) may be drawn.
    pub(super) fn around(&self, [x, y]: [u32; 2]) -> GridBox {
        let at = |units: f64, edge: f64| (units - edge) / self.unit;
        let (x, y) = (f64::from(x), f64::from(y));
        GridBox {
            west: at(x, self.west).floor() as i64 - 1,
            north: at(y, self.north).floor() as i64 - 1,
            east: at(x + 1.0, self.west).ceil() as i64 + 1,
            south: at(y + 1.0, self.north).ceil() as i64 + 1,
        }
    }

    /// The world units of every feature that may be drawn in a box.
    pub(super) fn world(&self, one: &GridBox) -> WorldRect {
        let least = |grid: i64, edge: f64| ((grid - 1) as f64 * self.unit + edge - ROUNDING_SLACK).floor() as i64;
        let most = |grid: i64, edge: f64| ((grid + 1) as f64 * self.unit + edge + ROUNDING_SLACK).ceil() as i64;
        WorldRect {
            west: least(one.west, self.west),
            north: least(one.north, self.north),
            east: most(one.east, self.west),
            south: most(one.south, self.north),
        }
    }

    /// True if two grid boxes may come from world boxes that touch.
    fn is_near(&self, one: &GridBox, other: &GridBox) -> bool {
        let gap = 3 + (2.0 * (ROUNDING_SLACK + 2.0 + INDEX_SLACK) / self.unit).ceil() as i64;
        one.west - gap <= other.east
            && other.west - gap <= one.east
            && one.north - gap <= other.south
            && other.north - gap <= one.south
    }
}

fn hull(one: GridBox, other: GridBox) -> GridBox {
    GridBox {
        west: one.west.min(other.west),
        north: one.north.min(other.north),
        east: one.east.max(other.east),
        south: one.south.max(other.south),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::Zoom;

    fn tile(zoom: u8, x: u32, y: u32) -> TileCoord {
        TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
    }

    #[test]
    fn a_place_is_looked_at_with_what_lies_a_rounding_away() {
        // At zoom 8 a unit of the grid is 4096 world units wide.
        let parts = parts(tile(8, 1, 2), 4096, 9, [[(1 << 24) + 4096 * 10, (2 << 24) + 4096 * 7 + 5]].into_iter());
        let grid = GridBox { west: 9, north: 6, east: 12, south: 9 };
        let (west, north) = (1 << 24, 2 << 24);
        let world = WorldRect {
            west: west + 4096 * 8 - 2,
            north: north + 4096 * 5 - 2,
            east: west + 4096 * 13 + 2,
            south: north + 4096 * 10 + 2,
        };
        assert_eq!(parts, Some(vec![ChangedPart { grid, world }]));
    }

    #[test]
    fn parts_of_a_tile_share_no_row() {
        let mut chance = 7_u64;
        let mut next = |below: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((chance >> 33) % below).unwrap()
        };
        for (zoom, extent) in [(0, 4096), (8, 4096), (8, 1000), (20, 4096), (22, 65536)] {
            let side = 1_u64 << (32 - zoom);
            for many in [2, 20, 200] {
                let places: Vec<[u32; 2]> =
                    (0..many).map(|_| [next(side.min(1 << 31)), next(side.min(1 << 20))]).collect();
                let parts = parts(tile(zoom, 0, 0), extent, many, places.iter().copied()).unwrap();
                for (number, one) in parts.iter().enumerate() {
                    for other in &parts[..number] {
                        let (a, b) = (&one.world, &other.world);
                        let are_beside = a.east < b.west || b.east < a.west;
                        let are_below = a.south < b.north || b.south < a.north;
                        assert!(are_beside || are_below, "{zoom}: {one:?} {other:?}");
                    }
                }
                for [x, y] in places.into_iter().map(|place| place.map(i64::from)) {
                    let holds = |part: &&ChangedPart| {
                        let WorldRect { west, north, east, south } = part.world;
                        (west..=east).contains(&x) && (north..=south).contains(&y)
                    };
                    assert_eq!(parts.iter().filter(holds).count(), 1);
                }
            }
        }
    }
}
