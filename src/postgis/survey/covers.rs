//! Positions of changed geometries for which the change log holds covers (`postgis/sql/cover.rs`) in a reference system other than EPSG:4326 and
//! 3857.
//!
//! Each vertex of the geometry lies within `r` of the vertex of the cover's shape that represents it, and edges are drawn as straight lines between
//! vertices in EPSG:3857. So the drawn geometry is no farther from the shape, in EPSG:3857, than the farthest vertex is from its representative. This
//! distance is measured at each vertex of the shape, by moving that vertex ([`reach`]).

use tokio_postgres::Row;

use super::outline::outline;
use crate::postgis::layer::{Layer, Placement};
use crate::postgis::session::{Error, Snapshot};
use crate::postgis::sql;
use crate::tile::{HALF_WORLD_METRES, Spot, WORLD_UNITS, WorldBox};

/// The greatest distance, in metres, by which a position may be uncertain, or by which two neighbouring positions may lie apart: a sixteenth of the
/// world. Two positions on different sides of ±180° lie nearly the whole world apart.
const MAX_REACH: f64 = HALF_WORLD_METRES / 8.0;

/// The most that the displacements of a position which is moved in opposite directions may differ, as a fraction of the displacements. A greater
/// difference is a sign of a pole or an end of the reference system.
const MAX_BEND: f64 = 0.25;

/// What is added to a box, in metres: two world units.
const ROUNDING: f64 = 0.02;

/// The covers of one reference system.
pub(super) struct Covers<'a> {
    /// The relation: an item of a FROM list.
    pub(super) relation: &'a str,
    /// Its geometry column, quoted.
    pub(super) column: &'a str,
    /// How geometries of the reference system are placed. `grid` is set if they are gathered in cells.
    pub(super) placement: Placement<'a>,
    /// True if covers without a reference system are included.
    pub(super) with_unknown: bool,
}

impl Covers<'_> {
    /// Calls `each` with places that contain the geometries.
    pub(super) async fn places(
        &self,
        snapshot: &Snapshot,
        layer: &Layer,
        context: &str,
        each: &mut impl FnMut(Spot),
    ) -> Result<(), Error> {
        snapshot.keeper.set_savepoint().await?;
        for with_shapes in [true, false] {
            let statement = sql::covers(self.placement, self.relation, self.column, self.with_unknown, with_shapes);
            let place = |row: &Row| {
                each(self.place(row, with_shapes, layer.lists_tiles()));
                Ok(())
            };
            match snapshot.keeper.each(context, &statement, &[], place).await {
                // Positions near a geometry, or on its box, may lie beyond the end of the reference system even if the geometry does not.
                Err(Error::Query { source, .. }) => {
                    snapshot.keeper.return_to_savepoint().await?;
                    tracing::debug!(
                        "{context}: covers in EPSG:{} are not measured: {source}",
                        self.placement.shape.srid
                    );
                }
                done => return done,
            }
        }
        each(Spot::Box(EVERYWHERE));
        Ok(())
    }

    /// The place of a row of the statement.
    fn place(&self, row: &Row, with_shapes: bool, outlined: bool) -> Spot {
        let wkb = |column: usize| row.get::<_, Option<&[u8]>>(column);
        if with_shapes
            && let Some([at, moved @ ..]) = positions_of([1, 2, 3, 4, 5].map(wkb))
            && let Some(reach) = reach(&at, &moved)
            && let Some([low, high]) = ends(&at)
        {
            if self.placement.is_gathered() {
                // In a grid of cells, the position of a geometry is the middle of its box.
                let middle = [0, 1].map(|axis| f64::midpoint(low[axis], high[axis]));
                return Spot::Box(world_box(middle, middle, [reach; 2]));
            }
            let world = world_box(low, high, [reach; 2]);
            return match wkb(0).filter(|_| outlined).and_then(outline) {
                Some((mut outline, _)) => {
                    outline.blur = reach / (2.0 * HALF_WORLD_METRES);
                    Spot::Shape { world, outline }
                }
                None => Spot::Box(world),
            };
        }
        let sides = wkb(if with_shapes { 6 } else { 0 }).and_then(positions);
        Spot::Box(sides.and_then(|sides| box_of(&sides)).unwrap_or(EVERYWHERE))
    }
}

/// The whole world.
const EVERYWHERE: WorldBox = WorldBox::new(0, 0, u32::MAX, u32::MAX);

/// The positions of several multipoints; `None` if one of them is missing.
fn positions_of<const N: usize>(wkb: [Option<&[u8]>; N]) -> Option<[Vec<[f64; 2]>; N]> {
    let all: Option<Vec<Vec<[f64; 2]>>> = wkb.into_iter().map(|wkb| wkb.and_then(positions)).collect();
    all?.try_into().ok()
}

/// The positions of a multipoint of two dimensions, as little-endian WKB (OGC 06-103r4, section 8).
fn positions(wkb: &[u8]) -> Option<Vec<[f64; 2]>> {
    // Byte order, type and number; of each point byte order, type and two coordinates.
    const HEAD: usize = 9;
    const POINT: usize = 21;
    let points = wkb.strip_prefix(&[1, 4, 0, 0, 0]).and_then(|_| wkb.get(HEAD..))?;
    let position = |point: &[u8]| {
        let (x, y) = point.get(POINT - 16..)?.split_first_chunk::<8>()?;
        Some([f64::from_le_bytes(*x), f64::from_le_bytes(*y.first_chunk()?)])
    };
    points.chunks(POINT).map(position).collect()
}

/// The greatest distance, in metres of EPSG:3857, of a vertex from the vertex of the shape that represents it. `at` are the vertices of the shape,
/// and `moved` the same vertices moved by `r` times the square root of two to the east, west, north and south. `None` if these do not bound the
/// distance.
///
/// The longer displacement of east and west, and the longer one of north and south, are taken as the legs of a right triangle. Its hypotenuse is at
/// least the square root of two times as long as any displacement of length `r` can become, regardless of how the projection stretches and turns. The
/// difference of opposite displacements is added, because the projection bends by that much there, or jumps, as between the areas of two datum
/// shifts. A line of such a jump that passes between a vertex and its representative also passes between the representative and one of its four moved
/// positions.
fn reach(at: &[[f64; 2]], moved: &[Vec<[f64; 2]>; 4]) -> Option<f64> {
    if moved.iter().any(|moved| moved.len() != at.len()) {
        return None;
    }
    let mut most = 0.0_f64;
    for (index, at) in at.iter().enumerate() {
        let [east, west, north, south] =
            [0, 1, 2, 3].map(|way: usize| [0, 1].map(|axis: usize| moved[way][index][axis] - at[axis]));
        let length = |way: [f64; 2]| way[0].hypot(way[1]);
        let both = |to: [f64; 2], fro: [f64; 2]| length([to[0] + fro[0], to[1] + fro[1]]);
        let straight = length(east).max(length(west)).hypot(length(north).max(length(south)));
        let bend = both(east, west) + both(north, south);
        let far = straight + bend;
        // The comparisons are false for NaN.
        if !(bend <= MAX_BEND * straight && far <= MAX_REACH) {
            return None;
        }
        most = most.max(far);
    }
    Some(most)
}

/// The least and the greatest coordinates; `None` if one is not finite, or there are none.
fn ends(at: &[[f64; 2]]) -> Option<[[f64; 2]; 2]> {
    let first = *at.first()?;
    let is_finite = at.iter().flatten().all(|coordinate| coordinate.is_finite());
    let end = |with: fn(f64, f64) -> f64| at.iter().fold(first, |end, at| [with(end[0], at[0]), with(end[1], at[1])]);
    is_finite.then(|| [end(f64::min), end(f64::max)])
}

/// The world box of a box in another reference system, computed from positions along its sides. It is expanded by the longest step between two
/// neighbouring positions, because the sides may bend by that much between them. `None` if a step is longer than [`MAX_REACH`], or a position is not
/// finite.
fn box_of(sides: &[[f64; 2]]) -> Option<WorldBox> {
    // Beyond the world, the distance between positions does not matter.
    let edge = HALF_WORLD_METRES * 1.05;
    let sides: Vec<[f64; 2]> = sides.iter().map(|[x, y]| [*x, y.clamp(-edge, edge)]).collect();
    let [low, high] = ends(&sides)?;
    let step = |axis: usize| sides.windows(2).map(|pair| (pair[1][axis] - pair[0][axis]).abs()).fold(0.0, f64::max);
    let steps = [step(0), step(1)];
    steps.iter().all(|step| *step <= MAX_REACH).then(|| world_box(low, high, steps))
}

/// The box between two corners, in metres of EPSG:3857, expanded by `grown` along each axis and cut to the world.
fn world_box(low: [f64; 2], high: [f64; 2], grown: [f64; 2]) -> WorldBox {
    #[expect(clippy::cast_precision_loss, reason = "2^32 is exact in a double")]
    let unit =
        |metres: f64| WorldBox::unit((metres + HALF_WORLD_METRES) / (2.0 * HALF_WORLD_METRES) * WORLD_UNITS as f64);
    let [x, y] = grown.map(|grown| grown + ROUNDING);
    WorldBox::new(unit(low[0] - x), unit(-high[1] - y), unit(high[0] + x), unit(-low[1] + y))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions of a projection, moved as the statement moves them.
    fn moved(at: &[[f64; 2]], r: f64, projected: impl Fn([f64; 2]) -> [f64; 2]) -> (Vec<[f64; 2]>, [Vec<[f64; 2]>; 4]) {
        let step = r * 2.0_f64.sqrt();
        let all = |x: f64, y: f64| at.iter().map(|at| projected([at[0] + x, at[1] + y])).collect();
        (all(0.0, 0.0), [all(step, 0.0), all(-step, 0.0), all(0.0, step), all(0.0, -step)])
    }

    #[test]
    fn no_position_near_a_vertex_is_farther_from_it_than_the_reach() {
        let turned = |[x, y]: [f64; 2]| [0.6 * x - 2.4 * y, 0.8 * x + 1.8 * y];
        let stretched = |[x, y]: [f64; 2]| [0.1 * x, 3.0 * y];
        let curved = |[x, y]: [f64; 2]| [x + y * y / 5e6, y + x * x / 5e6];
        // A datum shift ends at a slanted line between the vertex and its neighbours.
        let jumping = |[x, y]: [f64; 2]| if x + 0.4 * y > 900.0 { [x + 150.0, y - 200.0] } else { [x, y] };
        for projected in [&turned as &dyn Fn([f64; 2]) -> [f64; 2], &stretched, &curved, &jumping] {
            let (r, vertex) = (1000.0, [100.0, -50.0]);
            let (at, ways) = moved(&[vertex], r, projected);
            let reach = reach(&at, &ways).unwrap();
            let farthest = (0..3600).map(|angle| {
                let angle = f64::from(angle).to_radians() / 10.0;
                let [x, y] = projected([vertex[0] + r * angle.cos(), vertex[1] + r * angle.sin()]);
                (x - at[0][0]).hypot(y - at[0][1])
            });
            let farthest = farthest.fold(0.0, f64::max);
            assert!(farthest <= reach && reach < 2.9 * farthest, "{farthest} {reach}");
        }
    }

    #[test]
    fn there_is_no_reach_where_a_projection_wraps_bends_or_ends() {
        let wrapped = |[x, y]: [f64; 2]| [if x > 500.0 { x - 2.0 * HALF_WORLD_METRES } else { x }, y];
        let bent = |[x, y]: [f64; 2]| [x, (y + 2000.0).powi(5) / 1e12];
        let ending = |[x, y]: [f64; 2]| [x, if y > 500.0 { f64::INFINITY } else { y }];
        let unknown = |[x, y]: [f64; 2]| [x, if y > 500.0 { f64::NAN } else { y }];
        for projected in [&wrapped as &dyn Fn([f64; 2]) -> [f64; 2], &bent, &ending, &unknown] {
            let (at, ways) = moved(&[[0.0, 0.0]], 1000.0, projected);
            assert_eq!(reach(&at, &ways), None);
        }
        let (at, ways) = moved(&[[0.0, 0.0]], 1000.0, |at| at);
        assert!(reach(&at, &ways).is_some() && reach(&[at[0], at[0]], &ways).is_none());
    }

    #[test]
    fn the_box_of_sides_reaches_one_step_beyond_them() {
        let side = |y: f64| (0..=4).map(move |n| [f64::from(n) * 1e6, y]);
        let sides: Vec<[f64; 2]> = side(0.0).chain(side(2e6)).collect();
        assert_eq!(box_of(&sides), None, "the step back is too long");
        let sides: Vec<[f64; 2]> = side(0.0).collect();
        let unit = |metres: f64| metres / (2.0 * HALF_WORLD_METRES) * 2.0_f64.powi(32) + 2.0_f64.powi(31);
        let WorldBox { west, north, east, south } = box_of(&sides).unwrap();
        for (side, expected) in [(west, unit(-1e6)), (east, unit(5e6)), (north, unit(0.0)), (south, unit(0.0))] {
            assert!((f64::from(side) - expected).abs() < 5.0, "{side} {expected}");
        }
        assert_eq!(box_of(&[[0.0, 0.0], [f64::NAN, 0.0]]), None);
        assert_eq!(box_of(&[[0.0, f64::NAN]]), None);
        assert_eq!(box_of(&[]), None);
        // Beyond the world, bends do not matter.
        assert!(box_of(&[[0.0, 2e7], [0.0, f64::INFINITY]]).is_some());
    }

    #[test]
    fn positions_are_those_of_a_multipoint() {
        let mut wkb = vec![1, 4, 0, 0, 0, 2, 0, 0, 0];
        for [x, y] in [[1.5, -2.0], [3.0, 4.0]] {
            wkb.extend([1, 1, 0, 0, 0]);
            wkb.extend(f64::to_le_bytes(x));
            wkb.extend(f64::to_le_bytes(y));
        }
        assert_eq!(positions(&wkb), Some(vec![[1.5, -2.0], [3.0, 4.0]]));
        assert_eq!(positions(&wkb[..wkb.len() - 1]), None);
        assert_eq!(positions(&[1, 2, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
