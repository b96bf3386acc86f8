//! Exact positions of points, and the grid points of the tiles at which they are drawn.

use std::f64::consts::PI;
use std::ops::Range;
use std::sync::OnceLock;

use super::{GridBox, HALF_WORLD_METRES, Margin, Order, TileBounds, TileCoord, TileRect, WORLD_UNITS, WorldRect, Zoom};

/// Positions of points inside the world, numbered from 0.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Positions {
    /// X and y.
    at: Vec<[f64; 2]>,
    frame: Frame,
    /// The numbers of the positions, in the order of [`z_order`].
    in_z_order: Vec<u32>,
    /// The place of each position in this order, by its number; made when it is first asked for.
    places: OnceLock<Vec<u32>>,
    directory: Directory,
    /// The place in the Z-order of all units of each [`SAMPLED`]th position in this order, so that a search reads few of
    /// the positions themselves.
    samples: Vec<u64>,
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
    pub at: PlaceInTile,
}

/// Where a position is drawn in a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlaceInTile {
    /// At this grid point: x grows east and y grows south from the tile's north-west corner.
    At([i32; 2]),
    /// Nowhere: it lies beyond the buffer.
    Beyond,
    /// Ambiguous: it lies so close to the boundary between two grid units that PostGIS, which rounds differently, may
    /// draw it at the other.
    Ambiguous,
}

impl Frame {
    /// The world units of a position: x from the west, y from the north.
    fn world(self, [x, y]: [f64; 2]) -> [i64; 2] {
        match self {
            Frame::Metres => [world_unit(x), world_unit(-y)],
            Frame::WorldUnits => [x, y].map(|unit| whole_unit(unit.floor())),
        }
    }

    /// The place of a position in the order in which neighbours are near each other (see [`z_order`]).
    pub(crate) fn z_order(self, at: [f64; 2]) -> u64 {
        z_order(self.world(at))
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
        let mut places: Vec<(u64, u32)> = (0..).zip(&at).map(|(number, at)| (frame.z_order(*at), number)).collect();
        places.sort_unstable();
        let directory = Directory::of(&places);
        let samples = places.iter().step_by(SAMPLED).map(|(unit, _)| *unit).collect();
        let in_z_order = places.into_iter().map(|(_, number)| number).collect();
        Positions { at, frame, in_z_order, places: OnceLock::new(), directory, samples }
    }

    /// The memory in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        // The places are counted before they are made: rows that fitted would not fit then.
        let of_all = self.len() * (Positions::SIZE + size_of::<u32>());
        of_all + size_of_val(&self.directory.starts[..]) + size_of_val(&self.samples[..])
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
        let near = self.near(&[part]).into_iter().flatten().copied();
        near.filter(move |number| {
            let [x, y] = self.frame.world(self.at[*number as usize]);
            (west..east).contains(&x) && (north..south).contains(&y)
        })
    }

    /// The place of a position in the Z-order, in which neighbours are near each other; `None` if there is no such
    /// position.
    pub(crate) fn place(&self, number: u32) -> Option<u32> {
        let places = self.places.get_or_init(|| {
            let mut places = vec![0; self.len()];
            for (place, number) in (0..).zip(&self.in_z_order) {
                places[*number as usize] = place;
            }
            places
        });
        places.get(number as usize).copied()
    }

    pub(crate) fn in_z_order(&self) -> &[u32] {
        &self.in_z_order
    }

    /// The numbers of the positions in parts of the world, and perhaps of some near them. None is there twice.
    pub(crate) fn near(&self, parts: &[WorldRect]) -> Vec<&[u32]> {
        let places = self.places_near(parts).into_iter();
        places.map(|places| &self.in_z_order[places.start as usize..places.end as usize]).collect()
    }

    /// The places in the Z-order of the positions in parts of the world, and perhaps of some near them, in ascending
    /// order.
    pub(crate) fn places_near(&self, parts: &[WorldRect]) -> Vec<Range<u32>> {
        let mut found: Vec<(usize, usize)> = Vec::new();
        for part in parts {
            let size = (part.east - part.west).max(part.south - part.north);
            // A part lies in few squares that are not smaller than it.
            let levels = size.max(1).cast_unsigned().next_power_of_two().ilog2().min(WORLD_LEVELS);
            let squares = |from: i64, to: i64| from.max(0) >> levels..=(to.min(WORLD_UNITS) - 1) >> levels;
            for x in squares(part.west, part.east) {
                for y in squares(part.north, part.south) {
                    let at = [x << levels, y << levels];
                    let Range { start: first, end } = self.in_square(at, levels);
                    // A square of this size at the edge of the part is not divided.
                    self.search(&Square { at, levels, first, end }, part, size / SQUARES_ACROSS, &mut found);
                }
            }
        }
        found.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(found.len());
        for (first, end) in found {
            match merged.last_mut() {
                Some(last) if first <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((first, end)),
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "positions have numbers of 32 bits")]
        let places = |(first, end): (usize, usize)| first as u32..end as u32;
        merged.into_iter().map(places).collect()
    }

    /// The places in the Z-order of the positions in a square, by its north-west corner. Its side is 2 to the power
    /// `levels` world units.
    fn in_square(&self, at: [i64; 2], levels: u32) -> Range<usize> {
        let (first, all) = (z_order(at), self.in_z_order.len());
        // All units of a square follow each other in the Z-order.
        let last = first | 1_u64.checked_shl(2 * levels).map_or(u64::MAX, |units| units - 1);
        let start = first.checked_sub(1).map_or(0, |unit| self.end_of(unit, 0..all));
        start..self.end_of(last, start..all)
    }

    /// Adds the ranges of a square's positions that are in a part of the world, or near it.
    fn search(&self, square: &Square, part: &WorldRect, smallest: i64, found: &mut Vec<(usize, usize)>) {
        let (side, [x, y]) = (1_i64 << square.levels, square.at);
        let is_apart = x >= part.east || x + side <= part.west || y >= part.south || y + side <= part.north;
        if is_apart || square.first == square.end {
            return;
        }
        let is_within = x >= part.west && x + side <= part.east && y >= part.north && y + side <= part.south;
        if is_within || side <= smallest || side == 1 || square.end - square.first <= FEW_POSITIONS {
            found.push((square.first, square.end));
            return;
        }
        let (half, mut first) = (side / 2, square.first);
        for [right, below] in [[0, 0], [1, 0], [0, 1], [1, 1]] {
            let at = [x + right * half, y + below * half];
            let last = z_order([at[0] + half - 1, at[1] + half - 1]);
            let end = self.end_of(last, first..square.end);
            self.search(&Square { at, levels: square.levels - 1, first, end }, part, smallest, found);
            first = end;
        }
    }

    /// The place, among some of the places, behind those whose units come no later in the Z-order than `last`.
    fn end_of(&self, last: u64, among: Range<usize>) -> usize {
        let Range { start: mut first, mut end } = among;
        if let Some(Range { start, end: next }) = self.directory.square_of(last) {
            (first, end) = (start.clamp(first, end), next.clamp(first, end));
            if self.directory.ends_at(last) {
                return end;
            }
        }
        let sampled = first.div_ceil(SAMPLED)..end.div_ceil(SAMPLED);
        if !sampled.is_empty() {
            let before = sampled.start + self.samples[sampled.clone()].partition_point(|unit| *unit <= last);
            end = end.min(before * SAMPLED);
            first = first.max(before.saturating_sub(1) * SAMPLED);
        }
        let unit = |number: &u32| z_order(self.frame.world(self.at[*number as usize]));
        first + self.in_z_order[first..end].partition_point(|number| unit(number) <= last)
    }

    /// True if a position is in a part of the world, whose east and south are outside of it.
    pub(crate) fn is_within(&self, number: u32, part: WorldRect) -> bool {
        let WorldRect { west, north, east, south } = part;
        let world = self.at(number).map(|at| self.frame.world(at));
        world.is_some_and(|[x, y]| (west..east).contains(&x) && (north..south).contains(&y))
    }

    /// All positions, in the unit of their frame.
    pub(crate) fn all(&self) -> &[[f64; 2]] {
        &self.at
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

    /// The candidates of a tile that are near some boxes of its grid, and perhaps others.
    pub(crate) fn candidates_near(
        &self,
        rect: &TileRect,
        boxes: &[GridBox],
        margin: Margin,
        found: &mut Vec<Candidate>,
    ) {
        let (world, origin) = (rect.world(margin.units(rect.zoom)), rect.world(0));
        let side = WORLD_UNITS >> rect.zoom.get();
        let at = |unit: i64| unit * side / i64::from(margin.extent);
        // A position may be drawn at either of two units, and a quotient is rounded down.
        let ends = |least: i64, greatest: i64| [at(least - 2) - 1, at(greatest + 2) + 2];
        let part = |one: &GridBox| {
            let ([west, east], [north, south]) = (ends(one.west, one.east), ends(one.north, one.south));
            let columns = WorldRect {
                west: (origin.west + west).max(world.west),
                east: (origin.west + east).min(world.east),
                ..world
            };
            match margin.bounds {
                TileBounds::Mercator => WorldRect {
                    north: (origin.north + north).max(world.north),
                    south: (origin.north + south).min(world.south),
                    ..columns
                },
                // Rows are not all of the same height.
                TileBounds::Degrees => columns,
            }
        };
        let parts: Vec<WorldRect> = boxes.iter().map(part).collect();
        self.candidates_among(self.near(&parts).into_iter().flatten().copied(), rect, world, margin, found);
    }

    /// The candidates in a part of the tiles with their margins.
    fn candidates_of(&self, rect: &TileRect, part: WorldRect, margin: Margin, found: &mut Vec<Candidate>) {
        let near = self.near(&[part]);
        let count = near.iter().map(|some| some.len()).sum::<usize>();
        // About one position in eight lies in the buffer of a second tile.
        found.reserve(count + count / 8);
        self.candidates_among(near.into_iter().flatten().copied(), rect, part, margin, found);
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
                    let tile = Order::ZoomColumnTmsRow.sort_key(coord);
                    found.push(Candidate { tile, number, at: grid.unit(place, coord) });
                }
            }
        }
    }
}

/// A part of a part of the world is searched in squares of at least this part of its longer side.
const SQUARES_ACROSS: i64 = 8;

/// One position in this many is among the samples.
const SAMPLED: usize = 8;

/// A square with as many positions is not divided: looking at each is faster.
const FEW_POSITIONS: usize = 32;

/// The side of the world is 2 to this power world units.
const WORLD_LEVELS: u32 = WORLD_UNITS.trailing_zeros();

/// The least number of positions that have a directory.
const MIN_WITH_DIRECTORY: usize = if cfg!(test) { 1_000 } else { 1 << 14 };

/// The most that the sides of the world are halved for the squares of a directory, which then takes 4 MB.
const MAX_HALVINGS: u32 = 10;

/// The squares of the world of one size, and where their positions begin: of many positions, up to one square for each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Directory {
    /// The place of the first position in or after each square in the Z-order, and the number of positions; empty if
    /// these are few.
    starts: Vec<u32>,
    /// Half the bits of a unit's place in the Z-order that say where it is in its square.
    levels: u32,
}

impl Directory {
    /// `units` are the places of the positions in the Z-order of all units, in ascending order.
    fn of(units: &[(u64, u32)]) -> Directory {
        if units.len() < MIN_WITH_DIRECTORY {
            return Directory::default();
        }
        let halvings = (units.len().ilog2() / 2).min(MAX_HALVINGS);
        let (levels, squares) = (WORLD_LEVELS - halvings, 1 << (2 * halvings));
        let mut starts = Vec::with_capacity(squares + 1);
        for (place, (unit, _)) in (0..).zip(units) {
            while starts.len() as u64 <= unit >> (2 * levels) {
                starts.push(place);
            }
        }
        starts.resize(squares + 1, u32::try_from(units.len()).unwrap_or(u32::MAX));
        Directory { starts, levels }
    }

    /// The places of the positions in the square of a unit, by its place in the Z-order.
    fn square_of(&self, unit: u64) -> Option<Range<usize>> {
        let square = usize::try_from(unit >> (2 * self.levels)).ok()?;
        let [start, end] = self.starts.get(square..)?.first_chunk()?;
        Some(*start as usize..*end as usize)
    }

    /// True if no unit of a square comes after this one.
    fn ends_at(&self, unit: u64) -> bool {
        let within = (1 << (2 * self.levels)) - 1;
        unit & within == within
    }
}

/// A square of the world, and the positions in it: from `first` to before `end` in their order.
struct Square {
    /// Its north-west corner.
    at: [i64; 2],
    /// Its side is 2 to this power world units.
    levels: u32,
    first: usize,
    end: usize,
}

/// The place of a world unit in the Z-order (G. M. Morton, 1966): the bits of x and y in turns, so that the units of
/// each square of a quadtree follow each other.
fn z_order([x, y]: [i64; 2]) -> u64 {
    let spread = |unit: i64| {
        let mut bits = unit.cast_unsigned() & 0xffff_ffff;
        for (shift, mask) in [
            (16, 0x0000_ffff_0000_ffff),
            (8, 0x00ff_00ff_00ff_00ff),
            (4, 0x0f0f_0f0f_0f0f_0f0f),
            (2, 0x3333_3333_3333_3333),
            (1, 0x5555_5555_5555_5555),
        ] {
            bits = (bits | bits << shift) & mask;
        }
        bits
    };
    spread(x) | spread(y) << 1
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
    fn unit(&self, place: GridPlace, tile: TileCoord) -> PlaceInTile {
        let [column, row] = [tile.x(), tile.y()].map(f64::from);
        let at = match place {
            GridPlace::Units([x, y]) => [x - column * self.extent, y - row * self.extent],
            GridPlace::Latitude(x, degrees) => {
                let [north, south] = [row, row + 1.0].map(|row| latitude(row / self.tiles));
                [x - column * self.extent, (north - degrees) / (north - south) * self.extent]
            }
            GridPlace::Edge => return PlaceInTile::Ambiguous,
        };
        let near = self.candidates.is_none_or(|[first, end]| at.iter().all(|unit| *unit > first && *unit < end));
        let is_unsure = |unit: &f64| {
            let is_close = |other: f64| (unit - other).abs() <= self.close;
            0.5 - (unit - unit.round()).abs() <= self.close
                || self.candidates.is_some_and(|ends| ends.iter().any(|end| is_close(*end)))
        };
        if at.iter().any(is_unsure) {
            return PlaceInTile::Ambiguous;
        }
        let [x, y] = at.map(f64::round);
        if near && [x, y].iter().all(|unit| self.drawn.contains(unit)) {
            PlaceInTile::At([x as i32, y as i32])
        } else {
            PlaceInTile::Beyond
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

    fn found(units: [f64; 2], rect: [u32; 4]) -> Vec<(TileCoord, PlaceInTile)> {
        let zoom = Zoom::new(3).unwrap();
        let [x0, y0, x1, y1] = rect;
        let positions = Positions::new(vec![[metres(units[0]), -metres(units[1])]], Frame::Metres);
        let mut found = Vec::new();
        positions.candidates(&TileRect { zoom, x0, y0, x1, y1 }, Margin::plain(4096, 64), &mut found);
        found.sort_unstable();
        let tile = |candidate: &Candidate| Order::ZoomColumnTmsRow.tile(candidate.tile).unwrap();
        found.iter().map(|candidate| (tile(candidate), candidate.at)).collect()
    }

    /// Parts of the world of every form, some with edges at positions, give the positions in them, each once.
    #[test]
    fn parts_of_the_world_give_their_positions() {
        let mut random = 7_u64;
        let mut below = |most: i64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 32).cast_signed() % most
        };
        // Many are close together, and some at one place.
        let place = |below: &mut dyn FnMut(i64) -> i64| {
            let spread = [WORLD_UNITS, 1 << 20, 1 << 10, 4][usize::try_from(below(4)).unwrap()];
            [below(spread), below(spread)].map(|unit| (unit + (WORLD_UNITS / 3)) % WORLD_UNITS)
        };
        let at: Vec<[i64; 2]> = (0..3_000).map(|_| place(&mut below)).collect();
        let positions = Positions::new(at.iter().map(|at| at.map(|unit| unit as f64)).collect(), Frame::WorldUnits);
        for _ in 0..400 {
            let part = |below: &mut dyn FnMut(i64) -> i64| {
                let [west, north] = place(below);
                let [left, up, right, down] = std::array::from_fn(|_| {
                    let most = [4, 1 << 12, 1 << 24, WORLD_UNITS][usize::try_from(below(4)).unwrap()];
                    below(most)
                });
                WorldRect { west: west - left, north: north - up, east: west + right, south: north + down }
            };
            let parts: Vec<WorldRect> = (0..=below(3)).map(|_| part(&mut below)).collect();
            let is_in = |part: &WorldRect, number: u32| {
                let [x, y] = at[number as usize];
                (part.west..part.east).contains(&x) && (part.north..part.south).contains(&y)
            };
            let mut near: Vec<u32> = positions.near(&parts).into_iter().flatten().copied().collect();
            near.sort_unstable();
            assert!(near.windows(2).all(|two| two[0] < two[1]));
            near.retain(|number| parts.iter().any(|part| is_in(part, *number)));
            let numbers =
                |is_wanted: &dyn Fn(u32) -> bool| (0..3_000).filter(|one| is_wanted(*one)).collect::<Vec<u32>>();
            assert_eq!(near, numbers(&|number| parts.iter().any(|part| is_in(part, number))));
            let mut within: Vec<u32> = positions.within(parts[0]).collect();
            within.sort_unstable();
            assert_eq!(within, numbers(&|number| is_in(&parts[0], number)));
        }
    }

    #[test]
    fn positions_are_found_in_the_tiles_and_units_where_they_are_drawn() {
        let tile = |x, y| TileCoord::new(Zoom::new(3).unwrap(), x, y).unwrap();
        let all = [0, 0, 7, 7];
        assert_eq!(found([5000.3, 9000.6], all), [(tile(1, 2), PlaceInTile::At([904, 809]))]);
        // In the buffer of the next tile, too; the middle between two units may be either.
        assert_eq!(
            found([4096.0 - 63.7, 100.0], all),
            [(tile(0, 0), PlaceInTile::At([4032, 100])), (tile(1, 0), PlaceInTile::At([-64, 100]))]
        );
        assert_eq!(found([4096.0 - 64.3, 100.0], all)[1], (tile(1, 0), PlaceInTile::At([-64, 100])));
        assert_eq!(found([4096.0 - 64.7, 100.0], all)[1], (tile(1, 0), PlaceInTile::Beyond));
        assert_eq!(found([5000.5, 100.0], all), [(tile(1, 0), PlaceInTile::Ambiguous)]);
        assert_eq!(found([5000.4999, 100.0], all), [(tile(1, 0), PlaceInTile::At([904, 100]))]);
        // A corner of four tiles, and the edges of the world.
        assert_eq!(found([8192.0, 8192.0], all).len(), 4);
        assert_eq!(found([8192.0, 8192.0], [2, 2, 7, 7]), [(tile(2, 2), PlaceInTile::At([0, 0]))]);
        assert_eq!(found([32_768.0, 0.0], all), [(tile(7, 0), PlaceInTile::At([4096, 0]))]);
        assert_eq!(found([8192.0, 8192.0], [4, 0, 7, 7]), []);
    }
}
