//! Changed positions of points: the tiles that show them, and the rows around them.

use std::collections::HashMap;

use super::parts;
use crate::plan::{Dirty, DrawnLayer, touched_tiles};
use crate::tile::{
    ChangeLocation, LayerIndex, Margin, Neighbourhood, Order, TileBounds, TileCoord, TileRect, WORLD_UNITS, WorldBox,
    Zoom,
};

/// The most positions that are kept, 8 bytes each.
const MAX_POSITIONS: usize = 50_000;

/// The most pairs of a position and a tile that are kept, 16 bytes each.
const MAX_POSITIONS_IN_TILES: usize = 2_000_000;

/// The old and new positions of changed points, by layer, in world units.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChangedPositions {
    /// `None` for a layer whose changed positions are not known.
    layers: Vec<Option<Vec<[u32; 2]>>>,
    count: usize,
}

impl ChangedPositions {
    /// No position yet. `is_known` says for each layer whether its changed positions will be given one by one.
    pub(crate) fn new(is_known: impl Iterator<Item = bool>) -> ChangedPositions {
        ChangedPositions { layers: is_known.map(|known| known.then(Vec::new)).collect(), count: 0 }
    }

    /// Adds a changed position of a layer, by its index. If `spot` is not a single point, or there are too many
    /// positions, the layer's positions are no longer known.
    pub(crate) fn add(&mut self, layer: LayerIndex, spot: &ChangeLocation) {
        let at = spot.world();
        let Some(Some(positions)) = self.layers.get_mut(layer.0) else { return };
        self.count += 1;
        if at.is_position() && self.count <= MAX_POSITIONS {
            positions.push([at.west, at.north]);
        } else {
            self.forget(layer);
        }
    }

    /// Drops the positions of a layer: they are no longer known.
    pub(crate) fn forget(&mut self, layer: LayerIndex) {
        if let Some(positions) = self.layers.get_mut(layer.0) {
            *positions = None;
        }
    }

    pub(crate) fn in_tiles(&self, dirty: &Dirty, layers: &[DrawnLayer]) -> PositionsInTiles {
        let (mut tiles, mut count, zooms) = (ByTile::new(), 0, dirty.marked_zooms());
        for (index, (positions, drawn)) in self.layers.iter().zip(layers).enumerate() {
            for position in positions.iter().flatten() {
                let [x, y] = *position;
                for zoom in zooms.iter().copied().filter(|zoom| drawn.zooms.contains(*zoom)) {
                    let (touched, _) = touched_tiles(zoom, drawn.margin.units(zoom), WorldBox::of_unit(x, y));
                    for tile in touched.iter().filter(|tile| dirty.is_marked(*tile)) {
                        tiles.entry(tile).or_default().push((LayerIndex(index), *position));
                        count += 1;
                    }
                }
                if count > MAX_POSITIONS_IN_TILES {
                    return PositionsInTiles::default();
                }
            }
        }
        PositionsInTiles { known: self.layers.iter().map(Option::is_some).collect(), tiles }
    }
}

type ByTile = HashMap<TileCoord, Vec<(LayerIndex, [u32; 2])>>;

#[derive(Debug, Clone, Default)]
pub(crate) struct PositionsInTiles {
    known: Vec<bool>,
    tiles: ByTile,
}

impl PositionsInTiles {
    /// The changed positions of a layer in a tile; `None` if they are not known.
    pub(crate) fn of(&self, layer: LayerIndex, tile: TileCoord) -> Option<impl Iterator<Item = [u32; 2]> + Clone + '_> {
        let all = self.tiles.get(&tile).map_or(&[][..], Vec::as_slice);
        let known = self.known.get(layer.0).copied().unwrap_or_default();
        known.then(|| all.iter().filter(move |(index, _)| *index == layer).map(|(_, position)| *position))
    }

    /// Whether the changed positions of any layer are known.
    pub(crate) fn are_known(&self) -> bool {
        self.known.contains(&true)
    }

    /// The neighbourhood of a layer's changed positions, in which rows are cached. `margin` is the layer's. `None` if
    /// the positions are not known, too few to pay, or seen only at low zooms.
    pub(crate) fn neighbourhood(&self, layer: LayerIndex, margin: Margin) -> Option<Neighbourhood> {
        if !*self.known.get(layer.0)? {
            return None;
        }
        let unit = |zoom: Zoom| most_units(zoom, margin);
        let mut shown: Vec<TileCoord> = Vec::new();
        let mut places: Vec<[u32; 2]> = Vec::new();
        for (tile, all) in self.tiles.iter().filter(|(tile, _)| unit(tile.zoom()) <= MAX_UNIT) {
            let before = places.len();
            places.extend(all.iter().filter(|(index, _)| *index == layer).map(|(_, position)| *position));
            if places.len() > before {
                shown.push(*tile);
            }
        }
        let from = shown.iter().map(|tile| tile.zoom()).min()?;
        places.sort_unstable();
        places.dedup();
        if places.len() < MIN_POSITIONS {
            return None;
        }
        shown.sort_unstable_by_key(|tile| Order::ZoomColumnTmsRow.sort_key(*tile));
        let sample = |tile: TileCoord| {
            let places: Vec<[u32; 2]> = self.of(layer, tile)?.collect();
            let some = places.iter().step_by(places.len().div_ceil(MIN_POSITIONS)).copied();
            Some((tile, parts(tile, margin, MIN_POSITIONS, some)?))
        };
        let some = shown.iter().step_by(shown.len().div_ceil(MAX_SAMPLES)).filter_map(|tile| sample(*tile));
        let (samples, cells) = (some.collect(), cells(&places, reach(unit(from))));
        Some(Neighbourhood { from, cells, places: places.len() as u64, samples })
    }
}

/// Rows are cached from this many positions on; fewer are queried tile by tile.
const MIN_POSITIONS: usize = 16;

/// A neighbourhood begins at the first zoom whose grid units are at most this many world units (40 metres) wide: zoom 8
/// with an extent of 4096.
const MAX_UNIT: i64 = 4096;

/// The most world units that a unit of the grid of a zoom spans, rounded down.
fn most_units(zoom: Zoom, margin: Margin) -> i64 {
    let unit = (WORLD_UNITS >> zoom.get()) / i64::from(margin.extent);
    match margin.bounds {
        TileBounds::Mercator => unit,
        // A degree of latitude is longer in the poleward rows of a tile than in its middle: by the factor e^(2π/2^zoom)
        // at most within the tile, and by the same factor again in a buffer as wide as the tile.
        TileBounds::Degrees if zoom >= MIN_ZOOM_IN_DEGREES => (2 * unit).max(2),
        TileBounds::Degrees => i64::MAX,
    }
}

/// From this zoom on, a unit of a tile's grid in degrees is nowhere twice as high as it is wide.
const MIN_ZOOM_IN_DEGREES: Zoom = Zoom::new(6).unwrap();

/// The greatest distance, in world units, between a position and a row that is drawn at the same grid point: three grid
/// units (the position is rounded, the box around it reaches one unit farther, and features are rounded) and four world
/// units of rounding ([`TileGrid`]).
///
/// [`TileGrid`]: super::parts::TileGrid
const fn reach(unit: i64) -> i64 {
    3 * (unit + 1) + 4
}

/// The most tiles that are compared with what the database renders.
const MAX_SAMPLES: usize = 64;

/// The cells within `reach` world units of `places`.
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
    // Runs directly below each other, such as those around one position, are joined.
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
    use super::*;
    use crate::draw::patch::TileGrid;
    use crate::tile::WorldRect;

    fn tile(zoom: u8, x: u32, y: u32) -> TileCoord {
        TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap()
    }

    /// Places in all tiles of some zooms that show them.
    fn in_tiles(zooms: impl Iterator<Item = u8> + Clone, places: &[[u32; 2]]) -> PositionsInTiles {
        let mut tiles = ByTile::new();
        for zoom in zooms {
            for [x, y] in places {
                let shift = 32 - u32::from(zoom);
                let at = |unit: u32| unit.checked_shr(shift).unwrap_or_default();
                tiles.entry(tile(zoom, at(*x), at(*y))).or_default().push((LayerIndex(0), [*x, *y]));
            }
        }
        PositionsInTiles { known: vec![true, false], tiles }
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
        let plain = [(256, 0), (1000, 0), (4096, 0), (4096, 14), (65_536, 0), (1 << 20, 22)].into_iter().chain(deep);
        let mercator = plain.map(|(extent, least)| (Margin::plain(extent, 64), least));
        let in_degrees = [(4096, 0), (4096, 7), (65_536, 0), (1000, 9)];
        let in_degrees = in_degrees.map(|(extent, least)| {
            let plain = Margin::plain(extent, extent);
            (Margin { bounds: TileBounds::Degrees, ..plain }, least)
        });
        for (margin, least) in mercator.chain(in_degrees) {
            let mut places = vec![[0, 0], [last, 0], [0, last], [last, last], [1 << 31, 1 << 31]];
            places.extend((0..40).map(|_| [next(1 << 32), next(1 << 32)]));
            // Neighbours, and the same once more.
            places.extend((0..60).map(|_| [(1 << 30) + next(40_000), (1 << 30) + next(40_000)]));
            places.push(places[7]);
            let found = in_tiles(least..=22, &places).neighbourhood(LayerIndex(0), margin).unwrap();
            assert!(found.from.get() >= least && found.samples.len() > 30 && found.samples.len() <= MAX_SAMPLES);
            let sides: Vec<_> = found.cells.iter().map(|cell| cell.world(0)).collect();
            for (number, one) in sides.iter().enumerate() {
                let overlaps = |other: &WorldRect| {
                    one.west < other.east && other.west < one.east && one.north < other.south && other.north < one.south
                };
                assert!(!sides[..number].iter().any(overlaps), "{one:?}");
            }
            let holds = |[x, y]: [i64; 2]| {
                let mut cells = sides.iter();
                cells.any(|cell| (cell.west..cell.east).contains(&x) && (cell.north..cell.south).contains(&y))
            };
            for deeper in found.from.get()..=22 {
                for [x, y] in &places {
                    let shift = 32 - deeper;
                    let grid = TileGrid::of(tile(deeper, x >> shift, y >> shift), margin);
                    let WorldRect { west, north, east, south } = grid.world(&grid.around([*x, *y]));
                    let inside = |side: i64| side.clamp(0, WORLD_UNITS - 1);
                    for corner in [[west, north], [east, north], [west, south], [east, south]] {
                        assert!(holds(corner.map(inside)), "{margin:?}, zoom {deeper}: {x} {y}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_neighbourhood_is_as_wide_as_the_least_zoom_needs() {
        let places: Vec<[u32; 2]> = (0..16).map(|x| [x, 1]).collect();
        let of = |zooms: std::ops::RangeInclusive<u8>, places: &[[u32; 2]]| {
            in_tiles(zooms, places).neighbourhood(LayerIndex(0), Margin::plain(4096, 64))
        };
        // Cells of 76 metres at the corner of the world, then of ten metres. Neighbouring places share them.
        for (zooms, from, cells, last) in [(0..=14, 8, 19, 1), (14..=14, 14, 22, 0)] {
            let found = of(zooms, &places).unwrap();
            let cell = TileRect { zoom: Zoom::new(cells).unwrap(), x0: 0, y0: 0, x1: last, y1: last };
            assert_eq!((found.from.get(), found.cells), (from, vec![cell]));
        }
        assert_eq!(of(0..=14, &places[1..]), None);
        assert_eq!(of(0..=7, &places), None);
        assert_eq!(in_tiles(8..=8, &places).neighbourhood(LayerIndex(1), Margin::plain(4096, 64)), None);
    }

    #[test]
    fn too_many_positions_are_not_kept() {
        let mut spots = ChangedPositions::new([true, false, true].into_iter());
        let at = |x: u32| ChangeLocation::Box(WorldBox::new(x, 1, x, 1));
        spots.add(LayerIndex(1), &at(1));
        for x in 0..50_000 {
            spots.add(LayerIndex(0), &at(x));
        }
        assert!(spots.layers[0].is_some() && spots.layers[1].is_none());
        spots.add(LayerIndex(2), &at(1));
        assert!(spots.layers[2].is_none());
        assert!(spots.layers[0].is_some());
        spots.add(LayerIndex(0), &ChangeLocation::Box(WorldBox::new(1, 1, 2, 1)));
        assert!(spots.layers[0].is_none());
    }
}
