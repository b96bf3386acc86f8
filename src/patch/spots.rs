//! Where single points have changed, and what of a tile has to be looked at for it.

use std::collections::HashMap;

use crate::mvt::GridBox;
use crate::plan::{Dirty, Drawn, touched_tiles};
use crate::tile::{Spot, TileCoord, TileRect, WORLD_UNITS, Zoom};

/// So many places are told apart at most, and so many in tiles: 8 bytes each and 16.
const MOST: usize = 50_000;
const MOST_IN_TILES: usize = 2_000_000;

/// Where points of some layers have changed: old places and new ones.
#[derive(Debug, Clone, Default)]
pub struct Spots {
    /// Of each layer; `None` where the places are not known one by one.
    layers: Vec<Option<Vec<[u32; 2]>>>,
    count: usize,
}

impl Spots {
    /// No place yet, of layers that are looked at place by place, and of others.
    #[must_use]
    pub fn new(by_place: impl Iterator<Item = bool>) -> Spots {
        Spots { layers: by_place.map(|known| known.then(Vec::new)).collect(), count: 0 }
    }

    /// Notes a place at which a layer has changed. Where it is no single position, or there are too many, the layer's places are not
    /// known any more.
    pub fn add(&mut self, layer: usize, spot: Spot) {
        let [west, north, east, south] = spot.world();
        let Some(Some(places)) = self.layers.get_mut(layer) else { return };
        self.count += 1;
        if (west, north) == (east, south) && self.count <= MOST {
            places.push([west, north]);
        } else {
            self.forget(layer);
        }
    }

    /// The places of a layer are not known one by one.
    pub fn forget(&mut self, layer: usize) {
        if let Some(places) = self.layers.get_mut(layer) {
            *places = None;
        }
    }

    /// The cells, no two of which overlap, in which every row lies that may be drawn where one of the places of a layer is, and the
    /// zoom from which on that holds, with a grid of so many units along a tile's side.
    ///
    /// `None` where the places are not known one by one, where they are too few for the trouble, and where tiles are coarse to the end.
    #[must_use]
    pub fn neighbourhood(&self, layer: usize, extent: u32) -> Option<(Zoom, Vec<TileRect>)> {
        let places = self.layers.get(layer)?.as_ref().filter(|places| places.len() >= FEW)?;
        let unit = |zoom: Zoom| (WORLD_UNITS >> zoom.get()) / i64::from(extent);
        let zoom = (0..=Zoom::MAX.get()).filter_map(Zoom::new).find(|zoom| unit(*zoom) <= NEAR)?;
        Some((zoom, cells(places, REACH * (unit(zoom) + 1))))
    }

    /// Whether the places of any layer are known.
    #[must_use]
    pub fn are_known(&self) -> bool {
        self.layers.iter().any(Option::is_some)
    }

    /// The places that each dirty tile shows.
    #[must_use]
    pub fn in_tiles(&self, dirty: &Dirty, layers: &[Drawn]) -> SpotsInTiles {
        let (mut tiles, mut count) = (ByTile::new(), 0);
        for (number, (places, drawn)) in self.layers.iter().zip(layers).enumerate() {
            for place in places.iter().flatten() {
                let [x, y] = *place;
                for zoom in dirty.zooms().into_iter().filter(|zoom| drawn.zooms.contains(*zoom)) {
                    let touched = touched_tiles(zoom, drawn.margin.units(zoom), [x, y, x, y]);
                    for tile in touched.iter().filter(|tile| dirty.is_marked(*tile)) {
                        tiles.entry(tile).or_default().push((number, *place));
                        count += 1;
                    }
                }
                if count > MOST_IN_TILES {
                    return SpotsInTiles::default();
                }
            }
        }
        SpotsInTiles { known: self.layers.iter().map(Option::is_some).collect(), tiles }
    }
}

/// Fewer places are looked at tile by tile.
const FEW: usize = 16;

/// The unit of a grid is so many world units wide, 40 metres, where a neighbourhood begins: of zoom 8 if it has 4096 along a side.
const NEAR: i64 = 4096;

/// What may be drawn where a place is lies within so many units of the grid: each is rounded, and so are boxes around them ([`Grid`]).
const REACH: i64 = 4;

/// The cells that boxes reach which go so many world units around places in every direction.
fn cells(places: &[[u32; 2]], reach: i64) -> Vec<TileRect> {
    let zoom = (0..Zoom::MAX.get()).find(|zoom| WORLD_UNITS >> zoom <= reach).and_then(Zoom::new).unwrap_or(Zoom::MAX);
    let inside = |unit: i64| u32::try_from(unit.clamp(0, WORLD_UNITS - 1)).unwrap_or(u32::MAX);
    let cell = |unit: i64| inside(unit).checked_shr(u32::from(32 - zoom.get())).unwrap_or_default();
    let mut cells: Vec<[u32; 2]> = Vec::new();
    for [x, y] in places.iter().map(|place| place.map(i64::from)) {
        let columns = cell(x - reach)..=cell(x + reach);
        cells.extend((cell(y - reach)..=cell(y + reach)).flat_map(|y| columns.clone().map(move |x| [y, x])));
    }
    cells.sort_unstable();
    cells.dedup();
    let runs = cells.chunk_by(|one, next| one[0] == next[0] && one[1] + 1 == next[1]);
    let runs =
        runs.map(|run| TileRect { zoom, x0: run[0][1], y0: run[0][0], x1: run[run.len() - 1][1], y1: run[0][0] });
    // Runs that lie below each other, as those around one place do, are one.
    let mut rects: HashMap<(u32, u32), Vec<TileRect>> = HashMap::new();
    for run in runs {
        let below = rects.entry((run.x0, run.x1)).or_default();
        match below.last_mut() {
            Some(above) if above.y1 + 1 == run.y0 => above.y1 = run.y0,
            _ => below.push(run),
        }
    }
    rects.into_values().flatten().collect()
}

/// The layers, by their places among the layers, and the changed places that each tile shows.
type ByTile = HashMap<TileCoord, Vec<(usize, [u32; 2])>>;

/// The changed places that each tile shows.
#[derive(Debug, Clone, Default)]
pub struct SpotsInTiles {
    known: Vec<bool>,
    tiles: ByTile,
}

impl SpotsInTiles {
    /// The places of a layer in a tile; `None` if they are not known one by one.
    pub(super) fn of(&self, layer: usize, tile: TileCoord) -> Option<impl Iterator<Item = [u32; 2]> + '_> {
        let all = self.tiles.get(&tile).map_or(&[][..], Vec::as_slice);
        let known = self.known.get(layer).copied().unwrap_or_default();
        known.then(|| all.iter().filter(move |(number, _)| *number == layer).map(|(_, place)| *place))
    }
}

/// A part of a tile that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// The positions in the tile's grid.
    pub(super) grid: GridBox,
    /// A box in world units (west, north, east, south) in which every feature lies that may be drawn there.
    pub(super) world: [i64; 4],
}

/// The parts of a tile, of so many grid units along a side, that show some places; `None` once there are more than `most`. Their world
/// boxes lie apart from each other, so that no row is found twice.
///
/// `ST_AsMVTGeom` rounds a position to the nearest one of the grid, so a feature is drawn no farther than one unit from where it lies.
pub(super) fn parts(
    tile: TileCoord,
    extent: u32,
    most: usize,
    places: impl Iterator<Item = [u32; 2]>,
) -> Option<Vec<Part>> {
    let grid = Grid::of(tile, extent);
    let mut boxes: Vec<GridBox> = Vec::new();
    for place in places {
        let mut one = grid.around(place);
        while let Some(near) = boxes.iter().position(|other| grid.is_near(&one, other)) {
            one = hull(one, boxes.swap_remove(near));
        }
        boxes.push(one);
        // Each place is compared with every box: too many are not worth it.
        if boxes.len() > most {
            return None;
        }
    }
    Some(boxes.into_iter().map(|one| Part { grid: one, world: grid.world(&one) }).collect())
}

/// The positions of a tile's grid at which features of some places may be drawn: a box for each.
pub(super) fn boxes(tile: TileCoord, extent: u32, places: impl Iterator<Item = [u32; 2]>) -> Vec<GridBox> {
    let grid = Grid::of(tile, extent);
    let mut boxes: Vec<GridBox> = places.map(|place| grid.around(place)).collect();
    boxes.sort_unstable();
    boxes.dedup();
    boxes
}

/// The grid of a tile.
struct Grid {
    west: f64,
    north: f64,
    /// World units of one unit of the grid.
    unit: f64,
}

/// World units that every rounding between the two arithmetics takes at most, on either side.
const SLACK: f64 = 2.0;

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "world units are exact in doubles")]
impl Grid {
    fn of(tile: TileCoord, extent: u32) -> Grid {
        let (west, north, east, _) = TileRect::from(tile).world(0);
        Grid { west: west as f64, north: north as f64, unit: (east - west) as f64 / f64::from(extent) }
    }

    /// Where features of a world unit may be drawn.
    fn around(&self, [x, y]: [u32; 2]) -> GridBox {
        let at = |units: f64, edge: f64| (units - edge) / self.unit;
        let (x, y) = (f64::from(x), f64::from(y));
        GridBox {
            west: at(x, self.west).floor() as i64 - 1,
            north: at(y, self.north).floor() as i64 - 1,
            east: at(x + 1.0, self.west).ceil() as i64 + 1,
            south: at(y + 1.0, self.north).ceil() as i64 + 1,
        }
    }

    /// The world units of everything that may be drawn in a box.
    fn world(&self, one: &GridBox) -> [i64; 4] {
        let least = |grid: i64, edge: f64| ((grid - 1) as f64 * self.unit + edge - SLACK).floor() as i64;
        let most = |grid: i64, edge: f64| ((grid + 1) as f64 * self.unit + edge + SLACK).ceil() as i64;
        [
            least(one.west, self.west),
            least(one.north, self.north),
            most(one.east, self.west),
            most(one.south, self.north),
        ]
    }

    /// Whether the world boxes of two boxes might touch.
    fn is_near(&self, one: &GridBox, other: &GridBox) -> bool {
        let gap = 3 + (2.0 * (SLACK + 2.0) / self.unit).ceil() as i64;
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
        let world = [west + 4096 * 8 - 2, north + 4096 * 5 - 2, west + 4096 * 13 + 2, north + 4096 * 10 + 2];
        assert_eq!(parts, Some(vec![Part { grid, world }]));
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
                        let apart = |low: usize, high: usize| {
                            one.world[high] < other.world[low] || other.world[high] < one.world[low]
                        };
                        assert!(apart(0, 2) || apart(1, 3), "{zoom}: {one:?} {other:?}");
                    }
                }
                for [x, y] in places.into_iter().map(|place| place.map(i64::from)) {
                    let holds = |part: &&Part| {
                        let [west, north, east, south] = part.world;
                        (west..=east).contains(&x) && (north..=south).contains(&y)
                    };
                    assert_eq!(parts.iter().filter(holds).count(), 1);
                }
            }
        }
    }

    #[test]
    fn a_neighbourhood_holds_what_parts_search() {
        let mut chance = 11_u64;
        let mut next = |below: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((chance >> 31) % below).unwrap()
        };
        let last = u32::MAX;
        for extent in [256, 1000, 4096, 65_536] {
            let mut spots = Spots::new([true].into_iter());
            let mut places = vec![[0, 0], [last, 0], [0, last], [last, last], [1 << 31, 1 << 31]];
            places.extend((0..40).map(|_| [next(1 << 32), next(1 << 32)]));
            // Neighbours, and the same once more.
            places.extend((0..60).map(|_| [(1 << 30) + next(40_000), (1 << 30) + next(40_000)]));
            places.push(places[7]);
            for [x, y] in &places {
                spots.add(0, Spot::Box([*x, *y, *x, *y]));
            }
            let (zoom, cells) = spots.neighbourhood(0, extent).unwrap();
            let sides: Vec<_> = cells.iter().map(|cell| cell.world(0)).collect();
            for (number, one) in sides.iter().enumerate() {
                let overlaps = |other: &(i64, i64, i64, i64)| {
                    one.0 < other.2 && other.0 < one.2 && one.1 < other.3 && other.1 < one.3
                };
                assert!(!sides[..number].iter().any(overlaps), "{one:?}");
            }
            let holds =
                |[x, y]: [i64; 2]| sides.iter().any(|(w, n, e, s)| (w..e).contains(&&x) && (n..s).contains(&&y));
            for deeper in (zoom.get()..=22).filter_map(Zoom::new) {
                for [x, y] in &places {
                    let shift = 32 - deeper.get();
                    let coord = TileCoord::new(deeper, x >> shift, y >> shift).unwrap();
                    let grid = Grid::of(coord, extent);
                    let [west, north, east, south] = grid.world(&grid.around([*x, *y]));
                    let inside = |side: i64| side.clamp(0, WORLD_UNITS - 1);
                    for corner in [[west, north], [east, north], [west, south], [east, south]] {
                        assert!(holds(corner.map(inside)), "extent {extent}, zoom {deeper}: {x} {y}");
                    }
                }
            }
        }
    }

    #[test]
    fn too_few_places_have_no_neighbourhood() {
        let mut spots = Spots::new([true, false].into_iter());
        for x in 0..15 {
            spots.add(0, Spot::Box([x, 1, x, 1]));
        }
        assert_eq!(spots.neighbourhood(0, 4096), None);
        spots.add(0, Spot::Box([99, 1, 99, 1]));
        let (zoom, cells) = spots.neighbourhood(0, 4096).unwrap();
        // Cells of 153 metres at the corner of the world; one has 2 × 2 neighbours there.
        let cell = TileRect { zoom: Zoom::new(18).unwrap(), x0: 0, y0: 0, x1: 1, y1: 1 };
        assert_eq!((zoom, cells), (Zoom::new(8).unwrap(), vec![cell]));
        assert_eq!(spots.neighbourhood(1, 4096), None);
    }

    #[test]
    fn too_many_places_are_not_told_apart() {
        let mut spots = Spots::new([true, false, true].into_iter());
        let at = |x: u32| Spot::Box([x, 1, x, 1]);
        spots.add(1, at(1));
        for x in 0..50_000 {
            spots.add(0, at(x));
        }
        assert!(spots.layers[0].is_some() && spots.layers[1].is_none());
        spots.add(2, at(1));
        assert!(spots.layers[2].is_none());
        assert!(spots.are_known());
        spots.add(0, Spot::Box([1, 1, 2, 1]));
        assert!(!spots.are_known());
    }
}
