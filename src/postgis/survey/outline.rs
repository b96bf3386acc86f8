//! Outlines of lines and polygons, from WKB.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use crate::postgis::layer::{Layer, Placement};
use crate::postgis::session::{Error, Session, Snapshot};
use crate::postgis::sql;
use crate::postgis::wkb::WkbReader;
use crate::tile::{
    BoxFootprint, ChangeLocation, Footprints, HALF_WORLD_METRES, Outline, OutlinedBoxes, WORLD_UNITS, WorldBox,
};

/// The most memory for the outlines of a layer. Further features are planned by their boxes.
const MAX_OUTLINES_BYTES: usize = 64 << 20;

/// The outlines of a layer's features.
pub(crate) struct Outlines {
    /// True if a feature looks the same in all tiles that it fills.
    are_alike: bool,
    /// True if `ST_AsMVTGeom` clips each ring of a polygon by itself ([`Outline`]).
    are_clipped_by_rings: bool,
    known: BTreeMap<u32, Outline>,
    bytes: usize,
    /// The number of outlines of areas that are not valid.
    pub(crate) invalid: u64,
}

impl Outlines {
    /// An empty collection for a layer's features.
    pub(crate) async fn of(layer: &Layer, session: &Session, context: &str) -> Result<Outlines, Error> {
        let are_clipped_by_rings =
            layer.lists_tiles() && session.one(context, sql::CLIPS_BY_RINGS, &[]).await?.get::<_, bool>(0);
        let are_alike = layer.is_same_in_each_tile();
        Ok(Outlines { are_alike, are_clipped_by_rings, known: BTreeMap::new(), bytes: 0, invalid: 0 })
    }

    /// Adds the outline of the feature with this index, if the row has one in its columns 6 and 7
    /// (`postgis/sql/survey.rs`).
    pub(crate) fn add(&mut self, index: usize, row: &Row) {
        if let Some(wkb) = row.get::<_, Option<&[u8]>>(6) {
            self.add_shape(index, wkb, row.get::<_, Option<bool>>(7) == Some(true));
        }
    }

    /// Adds the outline of the feature with this index, from its geometry in EPSG:3857.
    pub(crate) fn add_shape(&mut self, index: usize, wkb: &[u8], is_valid_area: bool) {
        let Ok(index) = u32::try_from(index) else { return };
        // WKB takes sixteen bytes for a vertex.
        if self.bytes + wkb.len() / 16 * Outline::VERTEX_SIZE > MAX_OUTLINES_BYTES {
            return;
        }
        let Some((mut outline, polygons)) = outline(wkb) else { return };
        outline.has_interior = self.are_alike && (is_valid_area || self.are_clipped_by_rings);
        outline.is_clipped_by_rings = self.are_clipped_by_rings;
        self.invalid += u64::from(polygons > 0 && !is_valid_area);
        self.bytes += outline.bytes();
        self.known.insert(index, outline);
    }

    /// The boxes of all features with these outlines.
    pub(crate) fn with(self, boxes: Vec<BoxFootprint>) -> Footprints {
        if self.known.is_empty() {
            return Footprints::Boxes(boxes);
        }
        Footprints::Outlined(OutlinedBoxes { boxes, outlines: self.known })
    }
}

/// The outline of a geometry in EPSG:3857, as little-endian WKB of two dimensions (OGC 06-103r4, section 8), and how
/// many polygons it has. `None` if it has a type without straight edges, or lies far outside of the world.
pub(crate) fn outline(wkb: &[u8]) -> Option<(Outline, u32)> {
    let (mut reader, mut outline) = (WkbReader::new(wkb), Outline::default());
    reader.read(&mut |part| {
        outline.begin(part.polygon);
        for [x, y] in part.vertices() {
            let share = |metres: f64| (metres + HALF_WORLD_METRES) / (2.0 * HALF_WORLD_METRES);
            if !outline.add([share(x), share(-y)]) {
                return None;
            }
        }
        outline.end();
        Some(())
    })?;
    Some((outline, reader.polygons()))
}

// Positions of changed geometries for which the change log holds covers (`postgis/sql/survey.rs`) in a reference system
// other than EPSG:4326 and 3857.
//
// Each vertex of the geometry lies within `r` of the vertex of the cover's shape that represents it, and edges are
// drawn as straight lines between vertices in EPSG:3857. So the drawn geometry is no farther from the shape, in
// EPSG:3857, than the farthest vertex is from its representative. This distance is measured at each vertex of the
// shape, by moving that vertex ([`reach`]).

/// The greatest distance, in metres, by which a position may be uncertain, or by which two neighbouring positions may
/// lie apart: a sixteenth of the world. Two positions on different sides of ±180° lie nearly the whole world apart.
const MAX_REACH: f64 = HALF_WORLD_METRES / 8.0;

/// The most that the displacements of a position which is moved in opposite directions may differ, as a fraction of the
/// displacements. A greater difference is a sign of a pole or an end of the reference system.
const MAX_BEND: f64 = 0.25;

/// What is added to a box, in metres: two world units.
const ROUNDING: f64 = 0.02;

/// The covers of one reference system.
pub(crate) struct Covers<'a> {
    /// The relation: an item of a FROM list.
    pub(crate) relation: &'a str,
    /// Its geometry column, quoted.
    pub(crate) column: &'a str,
    /// How geometries of the reference system are placed. `grid` is set if they are gathered in cells.
    pub(crate) placement: Placement<'a>,
    /// True if covers without a reference system are included.
    pub(crate) with_unknown: bool,
}

impl Covers<'_> {
    /// Calls `each` with places that contain the geometries.
    pub(crate) async fn places(
        &self,
        snapshot: &Snapshot,
        layer: &Layer,
        context: &str,
        each: &mut impl FnMut(ChangeLocation),
    ) -> Result<(), Error> {
        snapshot.keeper.set_savepoint().await?;
        // The drawn geometry of a row that is repaired may lie anywhere inside of its box.
        let ways = if self.placement.repair { &[false][..] } else { &[true, false] };
        for &with_shapes in ways {
            let statement = sql::covers(self.placement, self.relation, self.column, self.with_unknown, with_shapes);
            let place = |row: &Row| {
                each(self.place(row, with_shapes, layer.lists_tiles()));
                Ok(())
            };
            match snapshot.keeper.each(context, &statement, &[], place).await {
                // Positions near a geometry, or on its box, may lie beyond the end of the reference system even if the
                // geometry does not.
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
        each(ChangeLocation::Box(EVERYWHERE));
        Ok(())
    }

    fn place(&self, row: &Row, with_shapes: bool, outlined: bool) -> ChangeLocation {
        let wkb = |column: usize| row.get::<_, Option<&[u8]>>(column);
        if with_shapes
            && let Some([at, moved @ ..]) = positions_of([1, 2, 3, 4, 5].map(wkb))
            && let Some(reach) = reach(&at, &moved)
            && let Some([low, high]) = ends(&at)
        {
            if self.placement.is_gathered() {
                // In a grid of cells, the position of a geometry is the middle of its box.
                let middle = [0, 1].map(|axis| f64::midpoint(low[axis], high[axis]));
                return ChangeLocation::Box(world_box(middle, middle, [reach; 2]));
            }
            let world = world_box(low, high, [reach; 2]);
            return match wkb(0).filter(|_| outlined).and_then(outline) {
                Some((mut outline, _)) => {
                    outline.blur = reach / (2.0 * HALF_WORLD_METRES);
                    ChangeLocation::Shape { world, outline }
                }
                None => ChangeLocation::Box(world),
            };
        }
        let sides = wkb(if with_shapes { 6 } else { 0 }).and_then(positions);
        ChangeLocation::Box(sides.and_then(|sides| box_of(&sides)).unwrap_or(EVERYWHERE))
    }
}

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

/// The greatest distance, in metres of EPSG:3857, of a vertex from the vertex of the shape that represents it. `at` are
/// the vertices of the shape, and `moved` the same vertices moved by `r` times the square root of two to the east,
/// west, north and south. `None` if these do not bound the distance.
///
/// The longer displacement of east and west, and the longer one of north and south, are taken as the legs of a right
/// triangle. Its hypotenuse is at least the square root of two times as long as any displacement of length `r` can
/// become, regardless of how the projection stretches and turns. The difference of opposite displacements is added,
/// because the projection bends by that much there, or jumps, as between the areas of two datum shifts. A line of such
/// a jump that passes between a vertex and its representative also passes between the representative and one of its
/// four moved positions.
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

/// The world box of a box in another reference system, computed from positions along its sides. It is expanded by the
/// longest step between two neighbouring positions, because the sides may bend by that much between them. `None` if a
/// step is longer than [`MAX_REACH`], or a position is not finite.
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
    let unit =
        |metres: f64| WorldBox::unit((metres + HALF_WORLD_METRES) / (2.0 * HALF_WORLD_METRES) * WORLD_UNITS as f64);
    let [x, y] = grown.map(|grown| grown + ROUNDING);
    WorldBox::new(unit(low[0] - x), unit(-high[1] - y), unit(high[0] + x), unit(-low[1] + y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{OutlineRun, RingDirection, TileRect, Zoom};

    fn polygon(rings: &[&[[f64; 2]]]) -> Vec<u8> {
        let mut wkb = vec![1, 3, 0, 0, 0];
        wkb.extend(u32::try_from(rings.len()).unwrap().to_le_bytes());
        for ring in rings {
            wkb.extend(u32::try_from(ring.len()).unwrap().to_le_bytes());
            // Shares of the world.
            for [x, y] in *ring {
                wkb.extend(((x - 0.5) * 2.0 * HALF_WORLD_METRES).to_le_bytes());
                wkb.extend(((0.5 - y) * 2.0 * HALF_WORLD_METRES).to_le_bytes());
            }
        }
        wkb
    }

    #[test]
    fn a_polygon_with_a_hole_touches_its_edges_and_its_inside() {
        let ring = |from: f64, to: f64| [[from, from], [to, from], [to, to], [from, to], [from, from]];
        let (outer, hole) = (ring(0.06, 0.94), ring(0.32, 0.68));
        let (mut outline, polygons) = outline(&polygon(&[&outer, &hole])).unwrap();
        assert_eq!(polygons, 1);
        outline.has_interior = true;
        let zoom = Zoom::new(3).unwrap();
        let tiles = outline.tiles(0.02, &TileRect { zoom, x0: 0, y0: 0, x1: 7, y1: 7 });
        let run = |x, y0, y1, is_interior: bool| OutlineRun {
            x,
            y0,
            y1,
            interior: is_interior.then_some(RingDirection::Clockwise),
        };
        let column = |x: u32| tiles.iter().filter(|run| run.x == x).copied().collect::<Vec<_>>();
        assert_eq!(column(0), [run(0, 0, 7, false)]);
        assert_eq!(column(1), [run(1, 0, 0, false), run(1, 1, 6, true), run(1, 7, 7, false)]);
        // The tiles 3 and 4 of the columns 3 and 4 lie in the hole.
        assert_eq!(
            column(3),
            [
                run(3, 0, 0, false),
                run(3, 1, 1, true),
                run(3, 2, 2, false),
                run(3, 5, 5, false),
                run(3, 6, 6, true),
                run(3, 7, 7, false)
            ]
        );
    }

    /// The tile 4/4 of zoom 3: the direction of the one outer ring around it; empty if the tile is not planned.
    fn inside(rings: &[&[[f64; 2]]], is_clipped_by_rings: bool) -> Vec<Option<RingDirection>> {
        let (mut outline, _) = outline(&polygon(rings)).unwrap();
        (outline.has_interior, outline.is_clipped_by_rings) = (true, is_clipped_by_rings);
        let runs = outline.tiles(0.02, &TileRect { zoom: Zoom::new(3).unwrap(), x0: 0, y0: 0, x1: 7, y1: 7 });
        runs.iter().filter(|run| run.x == 4 && (run.y0..=run.y1).contains(&4)).map(|run| run.interior).collect()
    }

    #[test]
    fn what_a_tile_shows_follows_from_the_rings_around_it_whether_the_polygon_is_valid_or_not() {
        let ring = |from: f64, to: f64| [[from, from], [to, from], [to, to], [from, to], [from, from]];
        let turned = |ring: [[f64; 2]; 5]| {
            let mut turned = ring;
            turned.reverse();
            turned
        };
        let (clockwise, counterclockwise) = (Some(RingDirection::Clockwise), Some(RingDirection::Counterclockwise));
        let outer = ring(0.1, 0.9);
        let far = [[0.2, 2.5], [0.8, 2.5], [0.5, 2.5], [0.2, 2.5]];
        let beside = ring(0.1, 0.2);
        let twice = [ring(0.1, 0.9).as_slice(), &ring(0.12, 0.88)[..], &[[0.1, 0.1]]].concat();
        // The western lobe of a bow tie.
        let bow = [[0.3, 0.3], [0.3, 0.9], [3.0, 0.3], [3.0, 0.9], [0.3, 0.3]];
        for (rings, expected) in [
            (vec![&outer[..]], vec![clockwise]),
            (vec![&turned(outer)[..]], vec![counterclockwise]),
            // Crossed elsewhere.
            (
                vec![&[&outer[..4], &[[0.1, 0.15], [0.05, 0.12], [0.15, 0.1], [0.1, 0.1]][..]].concat()[..]],
                vec![clockwise],
            ),
            // A hole around the tile in an outer ring around it, and one elsewhere.
            (vec![&outer[..], &ring(0.3, 0.8)[..]], vec![]),
            (vec![&outer[..], &beside[..]], vec![clockwise]),
            // Around the tile twice, as one ring.
            (vec![&twice[..]], vec![]),
            // A hole outside of its outer ring, which lies next to the tile: what is drawn depends on the tile.
            (vec![&beside[..], &outer[..]], vec![None]),
            // The outer ring lies beyond all tiles, as that of Antarctica may: nothing is drawn.
            (vec![&far[..], &outer[..]], vec![]),
            (vec![&bow[..]], vec![counterclockwise]),
            (vec![&turned(bow)[..]], vec![clockwise]),
        ] {
            assert_eq!(inside(&rings, true), expected, "{rings:?}");
        }
        // Unless rings are clipped one by one.
        assert_eq!(inside(&[&far[..], &outer[..]], false), [None]);
    }

    #[test]
    fn what_is_no_wkb_of_straight_edges_has_no_outline() {
        assert_eq!(outline(&[]), None);
        assert_eq!(outline(&[0, 0, 0, 0, 1]), None);
        assert_eq!(outline(&[1, 8, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(outline(&[1, 2, 0, 0, 0, 255, 255, 255, 255]), None);
        let far = polygon(&[&[[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]]]);
        assert_eq!(outline(&far), None);
    }

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
