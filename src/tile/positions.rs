//! Exact positions of points, and the grid points of the tiles at which they are drawn.

use std::f64::consts::PI;

use super::{GridBox, HALF_WORLD_METRES, Margin, Order, TileBounds, TileCoord, TileRect, WORLD_UNITS, WorldRect, Zoom};

/// Positions of points inside the world, numbered from 0.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Positions {
    /// X and y.
    at: Vec<[f64; 2]>,
    frame: Frame,
    /// The numbers of the positions, sorted from west to east.
    eastwards: Vec<u32>,
}

/// What the coordinates of positions count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Frame {
    /// Metres of EPSG:3857, as `ST_Transform` returns them: y grows north.
    #[default]
    Metres,
    /// World units with their fractions: y grows south. For the places at which cells are drawn, which the plan knows
    /// in this unit.
    WorldUnits,
}

/// A position and a tile in which it may be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// The sort key of the tile in [`Order::ZoomColumnTmsRow`].
    pub tile: u64,
    /// The position's number.
    pub number: u32,
    /// The grid point at which it is drawn.
    pub at: Unit,
}

/// Where a position is drawn in a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// At this grid point: x grows east and y grows south from the tile's north-west corner.
    At([i32; 2]),
    /// Nowhere: it lies beyond the buffer.
    Beyond,
    /// Ambiguous: it lies so close to the boundary between two grid units that PostGIS, which rounds differently, may
    /// draw it at the other.
    Unsure,
}

impl Frame {
    /// The world units of a position: x from the west, y from the north.
    fn world(self, [x, y]: [f64; 2]) -> [i64; 2] {
        match self {
            Frame::Metres => [world_unit(x), world_unit(-y)],
            Frame::WorldUnits => [x, y].map(|unit| whole_unit(unit.floor())),
        }
    }

    /// A position in fractions of the world: x from the west, y from the north. 0 to 1 inside the world.
    fn fraction(self, [x, y]: [f64; 2]) -> [f64; 2] {
        match self {
            Frame::Metres => [x, -y].map(|metres| (metres + HALF_WORLD_METRES) / (2.0 * HALF_WORLD_METRES)),
            Frame::WorldUnits => [x, y].map(|unit| unit / WORLD_UNITS as f64),
        }
    }
}

impl Positions {
    /// Numbers the positions in their order.
    pub fn new(at: Vec<[f64; 2]>, frame: Frame) -> Positions {
        #[expect(clippy::cast_possible_truncation, reason = "positions have numbers of 32 bits")]
        let mut eastwards: Vec<u32> = (0..at.len() as u32).collect();
        eastwards.sort_unstable_by(|a, b| at[*a as usize][0].total_cmp(&at[*b as usize][0]));
        Positions { at, frame, eastwards }
    }

    /// The memory of a position, in bytes.
    pub const SIZE: usize = size_of::<[f64; 2]>() + size_of::<u32>();

    /// The world units of a position in metres: x from the west, y from the north.
    pub fn world(at: [f64; 2]) -> [i64; 2] {
        Frame::Metres.world(at)
    }

    /// A position in metres as one in world units with their fractions, in the arithmetic of [`Positions::world`].
    pub(crate) fn in_world_units([x, y]: [f64; 2]) -> [f64; 2] {
        [world_units(x), world_units(-y)]
    }

    /// Some of the positions, by their numbers. They get new numbers, in the same order.
    #[must_use]
    pub fn some(&self, numbers: &[u32]) -> Positions {
        let some = numbers.iter().filter_map(|number| self.at.get(*number as usize).copied());
        Positions::new(some.collect(), self.frame)
    }

    /// The numbers of the positions in a part of the world, whose east and south are outside of it.
    pub fn within(&self, part: WorldRect) -> impl Iterator<Item = u32> + '_ {
        let WorldRect { west, north, east, south } = part;
        let world = |number: &u32| self.frame.world(self.at[*number as usize]);
        let first = self.eastwards.partition_point(|number| world(number)[0] < west);
        let last = self.eastwards.partition_point(|number| world(number)[0] < east);
        let columns = self.eastwards[first..last].iter().copied();
        columns.filter(move |number| (north..south).contains(&world(number)[1]))
    }

    /// True if a position is in a part of the world, whose east and south are outside of it.
    pub(crate) fn is_within(&self, number: u32, part: WorldRect) -> bool {
        let WorldRect { west, north, east, south } = part;
        let world = self.at(number).map(|at| self.frame.world(at));
        world.is_some_and(|[x, y]| (west..east).contains(&x) && (north..south).contains(&y))
    }

    /// A position by its number, in the unit of its frame; `None` if there is no such position.
    pub(crate) fn at(&self, number: u32) -> Option<[f64; 2]> {
        self.at.get(number as usize).copied()
    }

    /// The world units of all positions: x in the upper half, y in the lower half.
    pub fn worlds(&self) -> impl Iterator<Item = u64> {
        self.at.iter().map(|at| {
            let [x, y] = self.frame.world(*at);
            x.cast_unsigned() << 32 | y.cast_unsigned()
        })
    }

    /// The number of positions.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// Whether there is no position.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// Appends the candidates of the tiles of a rectangle to `found`, unsorted: every pair of a position and a tile
    /// that planning counts.
    pub fn candidates(&self, rect: &TileRect, margin: Margin, found: &mut Vec<Candidate>) {
        self.candidates_of(rect, rect.world(margin.units(rect.zoom)), margin, found);
    }

    /// The candidates of a tile in columns of its grid that are near some boxes, and perhaps others.
    pub(crate) fn candidates_near(
        &self,
        rect: &TileRect,
        boxes: &[GridBox],
        margin: Margin,
        found: &mut Vec<Candidate>,
    ) {
        let world = rect.world(margin.units(rect.zoom));
        let (west, side) = (rect.world(0).west, WORLD_UNITS >> rect.zoom.get());
        let at = |column: i64| west + column * side / i64::from(margin.extent);
        // A position may be drawn at either of two units, and a quotient is rounded down.
        let columns = |one: &GridBox| (at(one.west - 2) - 1, at(one.east + 2) + 2);
        let mut all: Vec<(i64, i64)> = boxes.iter().map(columns).collect();
        all.sort_unstable();
        let mut done = i64::MIN;
        for (first, end) in all {
            let (west, east) = (first.max(done).max(world.west), end.min(world.east));
            if west < east {
                self.candidates_of(rect, WorldRect { west, east, ..world }, margin, found);
            }
            done = done.max(end);
        }
    }

    /// The candidates in a part of the tiles with their margins.
    fn candidates_of(&self, rect: &TileRect, part: WorldRect, margin: Margin, found: &mut Vec<Candidate>) {
        let numbers = self.in_columns(part);
        // About one position in eight lies in the buffer of a second tile.
        found.reserve(numbers.len() + numbers.len() / 8);
        self.candidates_among(numbers.iter().copied(), rect, part, margin, found);
    }

    /// The numbers of the positions in the columns of a part of the world, from west to east.
    pub(crate) fn in_columns(&self, part: WorldRect) -> &[u32] {
        let x = |number: &u32| self.frame.world(self.at[*number as usize])[0];
        let first = self.eastwards.partition_point(|number| x(number) < part.west);
        let last = self.eastwards.partition_point(|number| x(number) < part.east);
        &self.eastwards[first..last]
    }

    /// The candidates among some of the positions, by their numbers, in a part of the tiles with their margins.
    pub(crate) fn candidates_among(
        &self,
        numbers: impl Iterator<Item = u32>,
        rect: &TileRect,
        part: WorldRect,
        margin: Margin,
        found: &mut Vec<Candidate>,
    ) {
        let (zoom, reach) = (rect.zoom, margin.units(rect.zoom));
        let WorldRect { west, north, east, south } = part;
        let grid = RoundingGrid::new(zoom, margin);
        let tile = |unit: i64| unit >> (32 - zoom.get());
        for number in numbers {
            let at = self.at[number as usize];
            let [unit_x, unit_y] = self.frame.world(at);
            if !(west..east).contains(&unit_x) || !(north..south).contains(&unit_y) {
                continue;
            }
            let columns = tile(unit_x - reach).max(rect.x0.into())..=tile(unit_x + reach).min(rect.x1.into());
            let rows = tile(unit_y - reach).max(rect.y0.into())..=tile(unit_y + reach).min(rect.y1.into());
            let place = grid.place(self.frame.fraction(at));
            for column in columns {
                for row in rows.clone() {
                    let Some(coord) = coord(zoom, column, row) else { continue };
                    let tile = Order::ZoomColumnTmsRow.place(coord);
                    found.push(Candidate { tile, number, at: grid.unit(place, coord) });
                }
            }
        }
    }
}

fn coord(zoom: Zoom, column: i64, row: i64) -> Option<TileCoord> {
    TileCoord::new(zoom, u32::try_from(column).ok()?, u32::try_from(row).ok()?)
}

/// The world unit of a coordinate in metres. It uses the arithmetic of the survey's statement (`postgis/sql`), so the
/// results are equal bit for bit.
fn world_unit(metres: f64) -> i64 {
    whole_unit(world_units(metres).floor())
}

fn world_units(metres: f64) -> f64 {
    let scale = WORLD_UNITS as f64 / (2.0 * HALF_WORLD_METRES);
    (metres + HALF_WORLD_METRES) * scale
}

#[expect(clippy::cast_possible_truncation, reason = "positions lie inside the world, or a unit beyond it")]
fn whole_unit(unit: f64) -> i64 {
    (unit as i64).clamp(0, WORLD_UNITS - 1)
}

/// The grids of the tiles of a zoom, as in `ST_AsMVTGeom` (`postgis/mvt.c`): a position is converted to grid units and
/// rounded, and drawn if the result lies in the tile or its buffer.
struct RoundingGrid {
    extent: f64,
    /// The grid units that are drawn: from minus the buffer to the extent and the buffer.
    drawn: std::ops::RangeInclusive<f64>,
    /// The grid units between which a position is a candidate, exclusive; `None` if all positions are.
    candidates: Option<[f64; 2]>,
    bounds: TileBounds,
    tiles: f64,
    /// A position is ambiguous if it lies at most this many grid units from the boundary between two.
    close: f64,
}

/// Where a position lies among the tiles of a zoom.
#[derive(Clone, Copy)]
enum GridPlace {
    /// In grid units from the north-west corner of the world.
    Units([f64; 2]),
    /// The grid unit of the longitude from the western edge of the world, and the latitude in degrees.
    Latitude(f64, f64),
    /// Next to ±180° in degrees: the database may see the point at either end of the world.
    Edge,
}

/// How close to the eastern or western edge, as a fraction of the world, a longitude is that may be 180 or -180 in
/// the database. Rows reach beyond the edge by rounding alone, which is less (`postgis/layer/placement.rs`).
const EDGE: f64 = 1e-7;

impl RoundingGrid {
    /// PostGIS computes tile by tile, in doubles: over a world of 2^n units, its results and ours differ by a few
    /// 2^(n-53) at most.
    const EXACT_BITS: i32 = 47;

    /// The same in degrees, where a position is computed back from metres and the edges of rows are a logarithm's
    /// inverse, by the C library of either side. The sum of these differences is below 60 · 2^(n-53) even at 85°, where
    /// a degree of latitude spans the most grid units.
    const EXACT_BITS_IN_DEGREES: i32 = 45;

    fn new(zoom: Zoom, margin: Margin) -> RoundingGrid {
        let tiles = f64::from(1_u32 << zoom.get());
        let [extent, buffer] = [margin.extent, margin.buffer].map(f64::from);
        let bits = match margin.bounds {
            TileBounds::Mercator => RoundingGrid::EXACT_BITS,
            TileBounds::Degrees => RoundingGrid::EXACT_BITS_IN_DEGREES,
        };
        RoundingGrid {
            extent,
            drawn: -buffer..=extent + buffer,
            candidates: margin.candidates.map(|fraction| [-fraction * extent, (1.0 + fraction) * extent]),
            bounds: margin.bounds,
            tiles,
            close: extent * tiles / 2.0_f64.powi(bits),
        }
    }

    /// Where a position lies, from its fractions of the world.
    fn place(&self, [x, y]: [f64; 2]) -> GridPlace {
        let world = self.extent * self.tiles;
        match self.bounds {
            TileBounds::Mercator => GridPlace::Units([x * world, y * world]),
            TileBounds::Degrees if !(EDGE..=1.0 - EDGE).contains(&x) => GridPlace::Edge,
            TileBounds::Degrees => GridPlace::Latitude(x * world, latitude(y)),
        }
    }

    /// The grid point of a tile at which a position is drawn.
    #[expect(clippy::cast_possible_truncation, reason = "an extent and its buffer stay below 2^21")]
    fn unit(&self, place: GridPlace, tile: TileCoord) -> Unit {
        let [column, row] = [tile.x(), tile.y()].map(f64::from);
        let at = match place {
            GridPlace::Units([x, y]) => [x - column * self.extent, y - row * self.extent],
            GridPlace::Latitude(x, degrees) => {
                let [north, south] = [row, row + 1.0].map(|row| latitude(row / self.tiles));
                [x - column * self.extent, (north - degrees) / (north - south) * self.extent]
            }
            GridPlace::Edge => return Unit::Unsure,
        };
        let near = self.candidates.is_none_or(|[first, end]| at.iter().all(|unit| *unit > first && *unit < end));
        let is_unsure = |unit: &f64| {
            let is_close = |other: f64| (unit - other).abs() <= self.close;
            0.5 - (unit - unit.round()).abs() <= self.close
                || self.candidates.is_some_and(|ends| ends.iter().any(|end| is_close(*end)))
        };
        if at.iter().any(is_unsure) {
            return Unit::Unsure;
        }
        let [x, y] = at.map(f64::round);
        if near && [x, y].iter().all(|unit| self.drawn.contains(unit)) {
            Unit::At([x as i32, y as i32])
        } else {
            Unit::Beyond
        }
    }
}

/// The latitude in degrees at a fraction of the world from its northern edge (inverse spherical Mercator).
fn latitude(fraction: f64) -> f64 {
    (PI * (1.0 - 2.0 * fraction)).sinh().atan().to_degrees()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Converts units of the grid of zoom 3 (extent 4096), counted from the western edge of the world, to metres.
    fn metres(units: f64) -> f64 {
        units / 32_768.0 * 2.0 * HALF_WORLD_METRES - HALF_WORLD_METRES
    }

    fn found(units: [f64; 2], rect: [u32; 4]) -> Vec<(TileCoord, Unit)> {
        let zoom = Zoom::new(3).unwrap();
        let [x0, y0, x1, y1] = rect;
        let positions = Positions::new(vec![[metres(units[0]), -metres(units[1])]], Frame::Metres);
        let mut found = Vec::new();
        positions.candidates(&TileRect { zoom, x0, y0, x1, y1 }, Margin::plain(4096, 64), &mut found);
        found.sort_unstable();
        let tile = |candidate: &Candidate| Order::ZoomColumnTmsRow.tile(candidate.tile).unwrap();
        found.iter().map(|candidate| (tile(candidate), candidate.at)).collect()
    }

    #[test]
    fn positions_are_found_in_the_tiles_and_units_where_they_are_drawn() {
        let tile = |x, y| TileCoord::new(Zoom::new(3).unwrap(), x, y).unwrap();
        let all = [0, 0, 7, 7];
        assert_eq!(found([5000.3, 9000.6], all), [(tile(1, 2), Unit::At([904, 809]))]);
        // In the buffer of the next tile, too; the middle between two units may be either.
        assert_eq!(
            found([4096.0 - 63.7, 100.0], all),
            [(tile(0, 0), Unit::At([4032, 100])), (tile(1, 0), Unit::At([-64, 100]))]
        );
        assert_eq!(found([4096.0 - 64.3, 100.0], all)[1], (tile(1, 0), Unit::At([-64, 100])));
        assert_eq!(found([4096.0 - 64.7, 100.0], all)[1], (tile(1, 0), Unit::Beyond));
        assert_eq!(found([5000.5, 100.0], all), [(tile(1, 0), Unit::Unsure)]);
        assert_eq!(found([5000.4999, 100.0], all), [(tile(1, 0), Unit::At([904, 100]))]);
        // A corner of four tiles, and the edges of the world.
        assert_eq!(found([8192.0, 8192.0], all).len(), 4);
        assert_eq!(found([8192.0, 8192.0], [2, 2, 7, 7]), [(tile(2, 2), Unit::At([0, 0]))]);
        assert_eq!(found([32_768.0, 0.0], all), [(tile(7, 0), Unit::At([4096, 0]))]);
        assert_eq!(found([8192.0, 8192.0], [4, 0, 7, 7]), []);
    }
}
