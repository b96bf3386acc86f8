//! Where single points have changed: in which tiles, and what lies around them.

use std::collections::HashMap;

use super::parts::parts;
use crate::plan::{Dirty, Drawn, touched_tiles};
use crate::tile::{Neighbourhood, Order, Spot, TileCoord, TileRect, WORLD_UNITS, Zoom};

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

    /// Whether the places of any layer are known.
    #[must_use]
    pub fn are_known(&self) -> bool {
        self.known.contains(&true)
    }

    /// What lies around the places of a layer with a grid of so many units along a tile's side, if they are known; `None` if they are
    /// too few for the trouble, or the zooms too low.
    #[must_use]
    pub fn neighbourhood(&self, layer: usize, extent: u32) -> Option<Neighbourhood> {
        if !*self.known.get(layer)? {
            return None;
        }
        let unit = |zoom: Zoom| (WORLD_UNITS >> zoom.get()) / i64::from(extent);
        let mut shown: Vec<TileCoord> = Vec::new();
        let mut places: Vec<[u32; 2]> = Vec::new();
        for (tile, all) in self.tiles.iter().filter(|(tile, _)| unit(tile.zoom()) <= NEAR) {
            let before = places.len();
            places.extend(all.iter().filter(|(number, _)| *number == layer).map(|(_, place)| *place));
            if places.len() > before {
                shown.push(*tile);
            }
        }
        let from = shown.iter().map(|tile| tile.zoom()).min()?;
        places.sort_unstable();
        places.dedup();
        if places.len() < FEW {
            return None;
        }
        shown.sort_unstable_by_key(|tile| Order::ZoomColumnTmsRow.place(*tile));
        let sample = |tile: TileCoord| {
            let places: Vec<[u32; 2]> = self.of(layer, tile)?.collect();
            let some = places.iter().step_by(places.len().div_ceil(FEW)).copied();
            Some((tile, parts(tile, extent, FEW, some)?))
        };
        let some = shown.iter().step_by(shown.len().div_ceil(SAMPLES)).filter_map(|tile| sample(*tile));
        let (samples, cells) = (some.collect(), cells(&places, reach(unit(from))));
        Some(Neighbourhood { from, cells, places: places.len() as u64, samples })
    }
}

/// Fewer places are looked at tile by tile.
const FEW: usize = 16;

/// A neighbourhood begins at the zoom at which a unit of the grid is no more than so many world units wide, 40 metres: zoom 8, if it has
/// 4096 along a side.
const NEAR: i64 = 4096;

/// How far from a place lies what may be drawn where it is, in world units: three units of the grid (the place is rounded, the box
/// around it reaches one more, and features are rounded), which are cut to whole world units here, and four world units ([`Grid`]).
///
/// [`Grid`]: super::parts::Grid
const fn reach(unit: i64) -> i64 {
    3 * (unit + 1) + 4
}

/// So many tiles at most are samples.
const SAMPLES: usize = 64;

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

#[cfg(test)]
mod tests {
    use super::super::parts::Grid;
    use super::*;

    fn tile(zoom: u8, x: u32, y: u32) -> TileCoord {
        TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
    }

    /// Places in all tiles of some zooms that show them.
    fn in_tiles(zooms: impl Iterator<Item = u8> + Clone, places: &[[u32; 2]]) -> SpotsInTiles {
        let mut tiles = ByTile::new();
        for zoom in zooms {
            for [x, y] in places {
                let shift = 32 - u32::from(zoom);
                let at = |unit: u32| unit.checked_shr(shift).unwrap_or_default();
                tiles.entry(tile(zoom, at(*x), at(*y))).or_default().push((0, [*x, *y]));
            }
        }
        SpotsInTiles { known: vec![true, false], tiles }
    }

    #[test]
    fn a_neighbourhood_holds_what_parts_search() {
        let mut chance = 11_u64;
        let mut next = |below: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u32::try_from((chance >> 31) % below).unwrap()
        };
        let last = u32::MAX;
        let deep = (17..=22).map(|least| (4096, least));
        for (extent, least) in
            [(256, 0), (1000, 0), (4096, 0), (4096, 14), (65_536, 0), (1 << 20, 22)].into_iter().chain(deep)
        {
            let mut places = vec![[0, 0], [last, 0], [0, last], [last, last], [1 << 31, 1 << 31]];
            places.extend((0..40).map(|_| [next(1 << 32), next(1 << 32)]));
            // Neighbours, and the same once more.
            places.extend((0..60).map(|_| [(1 << 30) + next(40_000), (1 << 30) + next(40_000)]));
            places.push(places[7]);
            let found = in_tiles(least..=22, &places).neighbourhood(0, extent).unwrap();
            assert!(found.from.get() >= least && found.samples.len() > 30 && found.samples.len() <= SAMPLES);
            let sides: Vec<_> = found.cells.iter().map(|cell| cell.world(0)).collect();
            for (number, one) in sides.iter().enumerate() {
                let overlaps = |other: &(i64, i64, i64, i64)| {
                    one.0 < other.2 && other.0 < one.2 && one.1 < other.3 && other.1 < one.3
                };
                assert!(!sides[..number].iter().any(overlaps), "{one:?}");
            }
            let holds =
                |[x, y]: [i64; 2]| sides.iter().any(|(w, n, e, s)| (w..e).contains(&&x) && (n..s).contains(&&y));
            for deeper in found.from.get()..=22 {
                for [x, y] in &places {
                    let shift = 32 - deeper;
                    let grid = Grid::of(tile(deeper, x >> shift, y >> shift), extent);
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
    fn a_neighbourhood_is_as_wide_as_the_least_zoom_needs() {
        let places: Vec<[u32; 2]> = (0..16).map(|x| [x, 1]).collect();
        let of =
            |zooms: std::ops::RangeInclusive<u8>, places: &[[u32; 2]]| in_tiles(zooms, places).neighbourhood(0, 4096);
        // Cells of 76 metres at the corner of the world, of which each place needs some; then of ten metres.
        for (zooms, from, cells, last) in [(0..=14, 8, 19, 1), (14..=14, 14, 22, 0)] {
            let found = of(zooms, &places).unwrap();
            let cell = TileRect { zoom: Zoom::new(cells).unwrap(), x0: 0, y0: 0, x1: last, y1: last };
            assert_eq!((found.from.get(), found.cells), (from, vec![cell]));
        }
        assert_eq!(of(0..=14, &places[1..]), None);
        assert_eq!(of(0..=7, &places), None);
        assert_eq!(in_tiles(8..=8, &places).neighbourhood(1, 4096), None);
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
        assert!(spots.layers[0].is_some());
        spots.add(0, Spot::Box([1, 1, 2, 1]));
        assert!(spots.layers[0].is_none());
    }
}
