//! The grid of cells at each zoom.
//!
//! The grid is anchored to the world, not to tiles, so that a cell has the same content in every tile in which it is
//! drawn. The database computes the same numbers by the same operations (`postgis/sql/cells.rs`): additions, products
//! and floors of doubles give the same bits in both (IEEE 754).

use schemars::JsonSchema;
use serde::Deserialize;

use crate::tile::{LAST_UNIT, WORLD_UNITS, WorldBox, Zoom};

/// The shape of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CellShape {
    /// Squares along the tiles' edges; four squares of a zoom form one square of the next shallower zoom.
    #[default]
    Square,
    /// Regular hexagons with a corner in the north and the south. The lowest corners lie at (i·w, j·√3·w) and
    /// ((i+½)·w, (j+½)·√3·w), counted in EPSG:3857 from its origin, for a width w and all whole i and j.
    Hexagon,
}

/// The geometry by which a cell is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CellGeometry {
    /// A point in its middle.
    #[default]
    Center,
    /// A point at the mean position of its members.
    Centroid,
    /// The cell itself.
    Polygon,
}

/// How the slanted edges of hexagons run from corner to corner, which decides to which of two hexagons a position
/// belongs. The corners, and so the drawn hexagons, are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CellEdges {
    /// Straight on the map.
    #[default]
    Mercator,
    /// Straight in longitude and latitude, as those of a hexagon that was transformed to EPSG:4326 (`ST_Transform`
    /// moves the corners only). For hexagons no wider than [`CellEdges::WIDEST`].
    Degrees,
}

/// A grid of cells at each zoom.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CellGrid {
    /// The cells' shape.
    pub shape: CellShape,
    /// A cell's width, as a fraction of a tile: [`CellGrid::SMALLEST`] to 1, for squares a power of two.
    pub size: f64,
    /// The geometry by which a cell is drawn.
    pub geometry: CellGeometry,
    /// True if cells are merged into clusters. A cell is a *peak* if none of its neighbours has more members, or as
    /// many members and a smaller code. Every other cell belongs to the peak with the most members among its
    /// neighbours, or stays alone if none of them is a peak. The clusters are then drawn, counted and planned, each
    /// under the code of its peak.
    pub merges: bool,
    /// How the edges of hexagons run.
    pub edges: CellEdges,
}

/// A cell of a grid at a zoom. Squares are counted from the north-west corner of the world. Hexagons are counted in
/// half steps from the middle of the world; their two numbers are both even or both odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell {
    /// Column, growing east.
    pub a: i64,
    /// Row; for squares growing south, for hexagons growing north.
    pub b: i64,
}

impl CellShape {
    /// The steps from a cell to its neighbours: the squares that share a side or a corner with a square, or the
    /// hexagons that share a side with a hexagon.
    #[must_use]
    pub const fn steps(self) -> &'static [[i64; 2]] {
        match self {
            CellShape::Square => &[[-1, -1], [-1, 0], [-1, 1], [0, -1], [0, 1], [1, -1], [1, 0], [1, 1]],
            CellShape::Hexagon => &[[-2, 0], [-1, -1], [-1, 1], [1, -1], [1, 1], [2, 0]],
        }
    }

    /// Half the width and height of the box around a cell and everything up to `steps` steps from it, in widths of a
    /// cell.
    #[must_use]
    pub(crate) fn half_box(self, steps: f64) -> [f64; 2] {
        match self {
            CellShape::Square => [0.5 + steps, 0.5 + steps],
            CellShape::Hexagon => [0.5 + steps, INVERSE_SQRT_3 + steps * (SQRT_3 * 0.5)],
        }
    }
}

/// The difference that a step makes to the code of a cell.
#[must_use]
pub const fn code_step([a, b]: [i64; 2]) -> i64 {
    (a << 32) + b
}

/// The greatest distance, in steps, of the members of a merged cluster from its peak.
const CLUSTER_STEPS: f64 = 1.0;

/// The greatest distance, in steps, from a changed cell at which a cluster is drawn that the change may alter. Whether
/// a cell is a peak depends on its neighbours, to which peak a cell belongs depends on the neighbours of its
/// neighbours, and a cluster is drawn at the mean of its members.
const CHANGE_STEPS: f64 = 4.0;

impl Cell {
    /// Added to both numbers to make them positive.
    pub const OFFSET: i64 = 1 << 30;

    /// The cell with a code.
    #[must_use]
    pub const fn of(code: i64) -> Cell {
        Cell { a: (code >> 32) - Cell::OFFSET, b: (code & 0xffff_ffff) - Cell::OFFSET }
    }

    /// The cell as one number: its column in the upper 32 bits, its row in the lower 32.
    #[must_use]
    pub const fn code(self) -> i64 {
        (self.a + Cell::OFFSET) << 32 | (self.b + Cell::OFFSET)
    }
}

/// 1/√3.
pub const INVERSE_SQRT_3: f64 = 0.577_350_269_189_625_8;
/// √3.
pub const SQRT_3: f64 = 1.732_050_807_568_877_2;
/// The distance from the lowest corner of a hexagon up to its middle, as a fraction of √3 widths.
pub const THIRD: f64 = 1.0 / 3.0;
/// The origin of EPSG:3857 in world units, on both axes.
pub const MIDDLE: f64 = 2_147_483_648.0;

/// A zoom has few cells if the world has at most this many.
const MAX_FEW_CELLS: f64 = 1_048_576.0;

impl CellGrid {
    /// True if the world has at most 2²⁰ cells at a zoom, so that all of them may be kept in memory while rows are
    /// read.
    #[must_use]
    pub fn has_few_cells(&self, zoom: Zoom) -> bool {
        let side = f64::from(1_u32 << zoom.get()) / self.size;
        side.powi(2) <= MAX_FEW_CELLS
    }

    /// The smallest cell, as a fraction of a tile.
    pub const SMALLEST: f64 = 1.0 / 128.0;

    /// A cell's width at a zoom, in world units.
    #[must_use]
    pub fn width(&self, zoom: Zoom) -> f64 {
        self.size * (WORLD_UNITS >> zoom.get()) as f64
    }

    /// The cell in which a position lies (x, y in world units, inside the world or at most a unit beyond it).
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^30 cells along the world")]
    pub fn cell(&self, zoom: Zoom, position: [f64; 2]) -> Cell {
        let [x, y] = position;
        let (x, y, width) = (x.clamp(0.0, LAST_UNIT), y.clamp(0.0, LAST_UNIT), self.width(zoom));
        match self.shape {
            CellShape::Square => Cell { a: floor(x / width) as i64, b: floor(y / width) as i64 },
            CellShape::Hexagon => {
                // The middles of the hexagons are two rectangular lattices; in these units both have steps of one.
                let s = (x - MIDDLE) / width;
                if self.edges == CellEdges::Degrees {
                    return in_degrees(s, (MIDDLE - y) / width * TWICE_INVERSE_SQRT_3, width);
                }
                let t = (MIDDLE - y) / width * INVERSE_SQRT_3 - THIRD;
                let (s0, t0) = (floor(s + 0.5), floor(t + 0.5));
                let (s1, t1) = (floor(s), floor(t));
                let (ds0, dt0, ds1, dt1) = (s - s0, t - t0, s - s1 - 0.5, t - t1 - 0.5);
                if ds0 * ds0 + 3.0 * (dt0 * dt0) <= ds1 * ds1 + 3.0 * (dt1 * dt1) {
                    Cell { a: 2 * s0 as i64, b: 2 * t0 as i64 }
                } else {
                    Cell { a: 2 * s1 as i64 + 1, b: 2 * t1 as i64 + 1 }
                }
            }
        }
    }

    /// The middle of a cell in world units. The middle of a hexagon at the edge of the world may lie outside of the
    /// world.
    #[must_use]
    pub fn middle(&self, zoom: Zoom, cell: Cell) -> [f64; 2] {
        let Cell { a, b } = cell;
        let width = self.width(zoom);
        match self.shape {
            CellShape::Square => [(a as f64 + 0.5) * width, (b as f64 + 0.5) * width],
            CellShape::Hexagon => [MIDDLE + a as f64 * 0.5 * width, MIDDLE - (b as f64 * 0.5 + THIRD) * SQRT_3 * width],
        }
    }

    /// The box around a cell, or around a cluster with this peak, cut to the world.
    #[must_use]
    pub fn bounds(&self, zoom: Zoom, cell: Cell) -> WorldBox {
        self.around(zoom, cell, self.cluster_steps())
    }

    /// The greatest distance, in steps, of the members of a drawn feature from the cell whose code the feature has.
    pub(crate) const fn cluster_steps(&self) -> f64 {
        if self.merges { CLUSTER_STEPS } else { 0.0 }
    }

    /// The box around everything up to `steps` steps from a cell, cut to the world.
    fn around(&self, zoom: Zoom, cell: Cell, steps: f64) -> WorldBox {
        let ([x, y], width) = (self.middle(zoom, cell), self.width(zoom));
        let [across, along] = self.shape.half_box(steps).map(|half| width * half);
        let [west, north, east, south] = [x - across, y - along, x + across, y + along].map(WorldBox::unit);
        WorldBox { west, north, east, south }
    }

    /// The box in which a cell is drawn, regardless of its members.
    #[must_use]
    pub fn drawn_box(&self, zoom: Zoom, cell: Cell) -> WorldBox {
        match self.geometry {
            CellGeometry::Center => WorldBox::of_position(self.middle(zoom, cell)),
            CellGeometry::Centroid | CellGeometry::Polygon => self.bounds(zoom, cell),
        }
    }

    /// The box that contains everything drawn that a change at a position may alter.
    #[must_use]
    pub fn change_box(&self, zoom: Zoom, position: [f64; 2]) -> WorldBox {
        let cell = self.cell(zoom, position);
        if self.merges { self.around(zoom, cell, CHANGE_STEPS) } else { self.drawn_box(zoom, cell) }
    }

    /// An upper bound, in world units, of the distance between members of a cell, and of the distance between a drawn
    /// geometry and any row that affects it.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a cell is no larger than the world")]
    pub fn reach(&self, zoom: Zoom) -> i64 {
        let width = self.width(zoom);
        let longest = match self.shape {
            CellShape::Square => width,
            CellShape::Hexagon => width * 2.0 * INVERSE_SQRT_3,
        };
        let longest = if self.merges { longest * (CHANGE_STEPS + 1.0) } else { longest };
        longest.ceil() as i64 + 1
    }
}

/// 2/√3: a row of hexagons is √3/2 widths high.
pub const TWICE_INVERSE_SQRT_3: f64 = 1.154_700_538_379_251_5;
/// The height of a row of hexagons on the Mercator map of a sphere of radius 1, for each world unit of a cell's width:
/// √3/2 · 2π/2³².
pub const ROW_HEIGHT: f64 = 1.266_924_220_300_897_3e-9;
/// A sixth.
pub const SIXTH: f64 = 1.0 / 6.0;
/// The last divisor of the continued fraction of tanh, which is exact to 5·10⁻¹⁶ then.
pub const LAST_DIVISOR: u32 = 25;

impl CellEdges {
    /// The widest hexagon with edges that are straight in degrees, as a fraction of the world: an edge of one is less
    /// than two world units from its line.
    pub const WIDEST: f64 = 1.0 / 8.0;
}

/// The hexagon with edges straight in degrees in which a position lies: `s` widths east of the middle of the world and
/// `v` rows north of it. A position on an edge belongs to the upper hexagon, or to the eastern one.
#[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^30 cells along the world")]
fn in_degrees(s: f64, v: f64, width: f64) -> Cell {
    let row = floor(v);
    let (up, column) = (v - row, column(s, row));
    // The lowest third of a row is crossed by the edges between it and the row below, each from a lowest corner of this
    // row up to a highest one of that row.
    if up < THIRD {
        let step = ROW_HEIGHT * width;
        let (middle, half) = ((row + SIXTH) * step, SIXTH * step);
        let t = tanh(middle);
        let (at, first, last) = (latitude((up - SIXTH) * step, t), latitude(-half, t), latitude(half, t));
        if at - first < (last - first) * (2.0 * s - column).abs() {
            return Cell { a: self::column(s, row - 1.0) as i64, b: row as i64 - 1 };
        }
    }
    Cell { a: column as i64, b: row as i64 }
}

/// The column of the hexagon in a row above whose lowest corner or between whose sides a position lies.
fn column(s: f64, row: f64) -> f64 {
    let odd = row - 2.0 * floor(row * 0.5);
    2.0 * floor(s + 0.5 - odd * 0.5) + odd
}

/// tanh by its continued fraction, of additions, products and quotients only.
fn tanh(x: f64) -> f64 {
    let square = x * x;
    let divisors = (1..LAST_DIVISOR).step_by(2).map(f64::from).rev();
    x / divisors.fold(f64::from(LAST_DIVISOR), |rest, divisor| divisor + square / rest)
}

/// The latitude of a place on the Mercator map above a place whose latitude has the sine `t`, as the first six terms of
/// its Taylor series, divided by the cosine of that place's latitude. (The sine of a latitude is tanh of its distance
/// from the equator on the map.)
fn latitude(above: f64, t: f64) -> f64 {
    let tt = t * t;
    let fifth = ((tt * 24.0 - 28.0) * tt + 5.0) / 120.0 + above * (t * ((180.0 - tt * 120.0) * tt - 61.0) / 720.0);
    let fourth = t * (5.0 - tt * 6.0) / 24.0 + above * fifth;
    let third = (tt * 2.0 - 1.0) / 6.0 + above * fourth;
    above * (1.0 + above * (t * -0.5 + above * third))
}

#[cfg(test)]
impl CellGrid {
    /// Squares that are drawn as points in their middles.
    pub(crate) const fn squares(size: f64) -> CellGrid {
        let (shape, geometry) = (CellShape::Square, CellGeometry::Center);
        CellGrid { shape, size, geometry, merges: false, edges: CellEdges::Mercator }
    }
}

/// The greatest whole number that is no greater than `number`, which is less than 2⁵² away from 0. Without a call of
/// the C library, as processors without SSE 4.1 need it for [`f64::floor`].
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "the number is small")]
fn floor(number: f64) -> f64 {
    let toward_zero = number as i64 as f64;
    if toward_zero > number { toward_zero - 1.0 } else { toward_zero }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zoom(level: u8) -> Zoom {
        Zoom::new(level).unwrap()
    }

    fn grid(shape: CellShape, size: f64) -> CellGrid {
        CellGrid { shape, size, geometry: CellGeometry::Center, merges: false, edges: CellEdges::Mercator }
    }

    /// The latitude of a position, in degrees.
    fn degrees(y: f64) -> f64 {
        ((MIDDLE - y) / MIDDLE * std::f64::consts::PI).sinh().atan().to_degrees()
    }

    /// The corners that [`CellGrid::middle`] names, joined by lines in degrees. Beside them: a hexagon of the same
    /// corners with other edges holds other positions, and none twice.
    #[test]
    fn edges_in_degrees_are_straight_between_the_same_corners() {
        let straight = grid(CellShape::Hexagon, 0.125);
        let bent = CellGrid { edges: CellEdges::Degrees, ..straight };
        let mut moved_at = Vec::new();
        for level in [0, 1, 2, 5] {
            let (zoom, width) = (zoom(level), straight.width(zoom(level)));
            let (half, quarter) = (width * 0.5, width * 0.5 * INVERSE_SQRT_3);
            let mut moved = 0;
            for at in positions() {
                let cell = bent.cell(zoom, at);
                moved += u32::from(cell != straight.cell(zoom, at));
                let [x, y] = bent.middle(zoom, cell);
                // The part of the way from the middle to the side, and the latitudes of both ends of the edge there.
                let aside = ((at[0] - x) / half).abs();
                let on_edge = |inner: f64, outer: f64| {
                    let [inner, outer] = [inner, outer].map(|corner| degrees(y + corner));
                    inner + (outer - inner) * aside
                };
                let (top, bottom) = (on_edge(-2.0 * quarter, -quarter), on_edge(2.0 * quarter, quarter));
                // 10⁻⁷ degrees are a centimetre.
                let own = degrees(at[1]);
                assert!(aside <= 1.0 + 1e-9 && (bottom - 1e-7..=top + 1e-7).contains(&own), "{level} {at:?} {cell:?}");
            }
            moved_at.push(moved);
        }
        // The smaller the hexagons, the fewer positions lie between the two kinds of edges.
        assert!(moved_at.is_sorted_by(|one, next| one > next), "{moved_at:?}");
    }

    #[test]
    fn tanh_is_exact_over_the_whole_map() {
        // A hexagon at the edge of the world, at most an eighth of it wide, reaches a little beyond π.
        for i in -3_255..=3_255 {
            let x = f64::from(i) / 1_000.0;
            assert!((tanh(x) - x.tanh()).abs() < 1e-15, "{x}");
        }
    }

    /// Positions all over the world, the same in every run.
    fn positions() -> impl Iterator<Item = [f64; 2]> {
        let spread = |i: u32, by: u32| f64::from(i.wrapping_mul(by)) + f64::from(i % 7) / 7.0;
        (1..20_000).map(move |i| [spread(i, 2_654_435_761), spread(i, 40_503_971)])
    }

    #[test]
    fn numbers_are_rounded_down() {
        for number in [0.0, 0.25, 1.0, 1.75, 3e9 + 0.5, -0.25, -1.0, -1.5, -3e9 - 0.5, 4_503_599_627_370_495.5] {
            assert_eq!(floor(number).to_bits(), number.floor().to_bits(), "{number}");
        }
    }

    #[test]
    fn squares_nest_four_to_one() {
        let squares = grid(CellShape::Square, 0.125);
        for at in positions() {
            let (outer, inner) = (squares.cell(zoom(5), at), squares.cell(zoom(6), at));
            assert_eq!((inner.a >> 1, inner.b >> 1), (outer.a, outer.b));
            let WorldBox { west, north, east, south } = squares.bounds(zoom(6), inner);
            let WorldBox { west: x, north: y, .. } = WorldBox::of_position(at);
            assert!((west..=east).contains(&x) && (north..=south).contains(&y));
        }
    }

    #[test]
    fn a_position_lies_in_the_hexagon_with_the_nearest_middle() {
        let hexagons = grid(CellShape::Hexagon, 0.125);
        let width = hexagons.width(zoom(4));
        let distance = |[x0, y0]: [f64; 2], [x1, y1]: [f64; 2]| (x0 - x1).hypot(y0 - y1) / width;
        for at in positions() {
            let cell = hexagons.cell(zoom(4), at);
            assert_eq!((cell.a ^ cell.b) & 1, 0);
            let own = distance(at, hexagons.middle(zoom(4), cell));
            assert!(own <= INVERSE_SQRT_3 + 1e-9, "{at:?} is {own} widths from its middle");
            for (a, b) in [(2, 0), (-2, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)] {
                let other = Cell { a: cell.a + a, b: cell.b + b };
                assert!(own <= distance(at, hexagons.middle(zoom(4), other)) + 1e-9, "{at:?} {cell:?} {other:?}");
            }
        }
    }

    #[test]
    fn hexagons_stand_where_they_are_said_to() {
        let hexagons = grid(CellShape::Hexagon, 0.125);
        let width = hexagons.width(zoom(3));
        // The lowest corner of the hexagon (0, 0) is the origin; its middle lies a corner's distance north of it.
        let [x, y] = hexagons.middle(zoom(3), Cell { a: 0, b: 0 });
        assert!((x - MIDDLE).abs() < 1e-3 && (MIDDLE - y - width * INVERSE_SQRT_3).abs() < 1e-3, "{x} {y}");
        let WorldBox { west, north, east, south } = hexagons.bounds(zoom(3), Cell { a: 0, b: 0 });
        let [west, north, east, south] = [west, north, east, south].map(f64::from);
        assert_eq!((west, east, south), (MIDDLE - width / 2.0, MIDDLE + width / 2.0, MIDDLE));
        assert!((south - north - 2.0 * width * INVERSE_SQRT_3).abs() < 2.0);
        // The origin is a corner of three.
        let cell = hexagons.cell(zoom(3), [MIDDLE, MIDDLE - 10.0]);
        assert_eq!(cell, Cell { a: 0, b: 0 });
        assert_eq!(hexagons.cell(zoom(3), [MIDDLE + width, MIDDLE - 10.0]), Cell { a: 2, b: 0 });
        assert_eq!(hexagons.cell(zoom(3), [MIDDLE + 10.0, MIDDLE + 1e6]), Cell { a: 1, b: -1 });
    }

    #[test]
    fn numbers_of_cells_stay_apart_and_positive() {
        let smallest = grid(CellShape::Hexagon, CellGrid::SMALLEST);
        let corners = [[0.0, 0.0], [LAST_UNIT, 0.0], [0.0, LAST_UNIT], [2.0 * MIDDLE, 2.0 * MIDDLE]];
        let codes: std::collections::BTreeSet<i64> = corners.map(|at| smallest.cell(Zoom::MAX, at).code()).into();
        assert!(codes.iter().all(|code| Cell::of(*code).code() == *code));
        assert!(codes.len() == 4 && codes.iter().all(|code| *code > 0), "{codes:?}");
    }
}
