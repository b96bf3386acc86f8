//! Dirty tiles: the tiles in which a change can be seen.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::cut::SearchBounds;
use super::sweep::{common_parts, distinct_columns};
use super::touched_tiles;
use crate::cells::CellGrid;
use crate::tile::{
    ChangeLocation, Coverage, LayerFootprints, MIN_TILES_OF_OUTLINE, Margin, Order, Outline, OutlineRun, Scope,
    SearchBox, TileCoord, TileRect, WorldBox, Zoom, ZoomList, outline_reach,
};

/// At which zooms a layer is drawn, and how far beyond its tiles.
#[derive(Debug, Clone)]
pub(crate) struct DrawnLayer {
    pub zooms: ZoomList,
    /// How far beyond its tiles it is drawn.
    pub margin: Margin,
    pub(crate) grid: Option<CellGrid>,
}

impl DrawnLayer {
    /// The box in which a change is visible at a zoom. In a layer of cells, it is the box of the drawn cell, or of all
    /// cells that the change touches.
    fn change_box(&self, zoom: Zoom, spot: &ChangeLocation) -> WorldBox {
        match (self.grid, spot) {
            (None, spot) => spot.world(),
            (Some(grid), ChangeLocation::Point(at)) => grid.change_box(zoom, *at),
            // The change may be in any of the cells that the box touches.
            (Some(grid), ChangeLocation::Box(world) | ChangeLocation::Shape { world, .. }) => {
                let WorldBox { west, north, east, south } = *world;
                let reach = u32::try_from(grid.reach(zoom)).unwrap_or(u32::MAX);
                let (less, more) = (|end: u32| end.saturating_sub(reach), |end: u32| end.saturating_add(reach));
                // The sides of a box that crosses ±180° may meet.
                let is_around = west > east && less(west) <= more(east);
                let (west, east) = if is_around { (0, u32::MAX) } else { (less(west), more(east)) };
                WorldBox { west, north: less(north), east, south: more(south) }
            }
        }
    }
}

/// The error if a full seed is cheaper than the dirty tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyDirtyTiles;

/// The set of dirty tiles. A tile is dirty if the old or new position of a changed feature lies in the tile grown by
/// the layer's margin, by the arithmetic of the seed's plan.
#[derive(Debug)]
pub(crate) struct Dirty {
    /// The tiles of the scope at each zoom: rectangles that share no tile.
    parts: BTreeMap<Zoom, Vec<TileRect>>,
    tiles: HashSet<TileCoord>,
    /// The dirty tiles that lie wholly inside a changed polygon: a seed renders one of them for all.
    inside: HashSet<TileCoord>,
    most: usize,
}

impl Dirty {
    /// No dirty tile yet. `most` is the most tiles that the set may hold.
    pub(crate) fn new(parts: &[Scope], most: usize) -> Dirty {
        let mut rects: BTreeMap<Zoom, Vec<TileRect>> = BTreeMap::new();
        for part in parts {
            for zoom in part.zooms.iter() {
                rects.entry(zoom).or_default().extend(part.coverage.rects(zoom));
            }
        }
        let parts = rects.into_iter().map(|(zoom, rects)| (zoom, distinct_columns(&rects))).collect();
        Dirty { parts, tiles: HashSet::new(), inside: HashSet::new(), most }
    }

    /// Marks every tile in which a change of a layer can be seen.
    pub(crate) fn mark(&mut self, layer: &DrawnLayer, spot: &ChangeLocation) -> Result<(), TooManyDirtyTiles> {
        for (zoom, parts) in &self.parts {
            if !layer.zooms.contains(*zoom) {
                continue;
            }
            let (touched, others) = touched_tiles(*zoom, layer.margin.units(*zoom), layer.change_box(*zoom, spot));
            let rects = match (spot, others) {
                (ChangeLocation::Shape { outline, .. }, None) if layer.grid.is_none() => {
                    DirtyShape { outline, layer, most: self.most }.rects(parts, &touched)?
                }
                _ => std::iter::once(touched).chain(others).map(|rect| ShapeRect { rect, is_inside: false }).collect(),
            };
            for ShapeRect { rect, is_inside } in rects {
                for part in common_parts(parts, &rect) {
                    if is_inside && part.tiles() <= self.most as u64 {
                        self.inside.extend(part.iter().filter(|tile| !self.tiles.contains(tile)));
                        add(&mut self.tiles, self.most, &part)?;
                    } else {
                        add(&mut self.tiles, self.most, &part)?;
                        if !self.inside.is_empty() {
                            for tile in part.iter() {
                                self.inside.remove(&tile);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Marks every tile in which any feature of a layer can be seen.
    pub(crate) fn mark_all(&mut self, layer: &DrawnLayer, all: &LayerFootprints) -> Result<(), TooManyDirtyTiles> {
        for (zoom, parts) in &self.parts {
            if layer.zooms.contains(*zoom) {
                let footprints = all.at(*zoom);
                for feature in 0..footprints.len() {
                    let (touched, others) = touched_tiles(*zoom, layer.margin.units(*zoom), footprints.world(feature));
                    for touched in std::iter::once(touched).chain(others) {
                        add_within(&mut self.tiles, self.most, parts, &touched)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Marks a tile, if it is in the scope; returns whether it is.
    pub(crate) fn mark_tile(&mut self, tile: TileCoord) -> Result<bool, TooManyDirtyTiles> {
        let belongs = self.holds(tile);
        if belongs {
            add(&mut self.tiles, self.most, &TileRect::from(tile))?;
        }
        Ok(belongs)
    }

    /// Marks a tile that the caller has chosen, even if it lies beyond the scope or there are too many tiles.
    pub(crate) fn mark_chosen(&mut self, tile: TileCoord) {
        self.tiles.insert(tile);
    }

    /// Marks all tiles of a deeper `zoom` that lie in `tile`; returns whether any of them is in the scope.
    pub(crate) fn mark_below(&mut self, tile: TileCoord, zoom: Zoom) -> Result<bool, TooManyDirtyTiles> {
        let down = zoom.get().saturating_sub(tile.zoom().get());
        let last = (1 << down) - 1;
        let (x0, y0) = (tile.x() << down, tile.y() << down);
        let below = TileRect { zoom, x0, y0, x1: x0 + last, y1: y0 + last };
        let parts = self.parts.get(&zoom).map_or(&[][..], Vec::as_slice);
        let mut belongs = false;
        for inside in common_parts(parts, &below) {
            belongs = true;
            add(&mut self.tiles, self.most, &inside)?;
        }
        Ok(belongs)
    }

    pub(crate) fn zooms(&self) -> Vec<Zoom> {
        self.parts.keys().copied().collect()
    }

    /// The zooms of the dirty tiles, including chosen tiles beyond the scope.
    pub(crate) fn marked_zooms(&self) -> BTreeSet<Zoom> {
        self.tiles.iter().map(|tile| tile.zoom()).collect()
    }

    /// Narrows the scope to some zooms (`None` for all) and a coverage. Returns whether that leaves tiles out.
    pub(crate) fn narrow(&mut self, zooms: Option<&ZoomList>, coverage: &Coverage) -> bool {
        let before = self.tiles_in_scope();
        self.parts.retain(|zoom, parts| {
            let within = distinct_columns(&coverage.rects(*zoom));
            *parts = parts.iter().flat_map(|part| common_parts(&within, part)).collect();
            parts.sort_unstable_by_key(|part| (part.x0, part.y0));
            zooms.is_none_or(|zooms| zooms.contains(*zoom)) && !parts.is_empty()
        });
        self.tiles_in_scope() < before
    }

    fn tiles_in_scope(&self) -> u64 {
        self.parts.values().flatten().map(TileRect::tiles).sum()
    }

    /// Whether a tile is in the scope.
    pub(crate) fn holds(&self, tile: TileCoord) -> bool {
        let one = TileRect::from(tile);
        self.parts.get(&tile.zoom()).is_some_and(|parts| common_parts(parts, &one).next().is_some())
    }

    /// The number of dirty tiles.
    pub(crate) fn len(&self) -> usize {
        self.tiles.len()
    }

    /// The number of dirty tiles that show nothing of the change but the inside of a polygon.
    pub(crate) fn inside(&self) -> usize {
        self.inside.len()
    }

    /// Whether no tile is dirty.
    pub(crate) fn is_empty(&self) -> bool {
        self.tiles.is_empty()
    }

    /// The dirty tiles, not sorted.
    pub(crate) fn iter(&self) -> impl Iterator<Item = TileCoord> + '_ {
        self.tiles.iter().copied()
    }

    pub(crate) fn is_marked(&self, tile: TileCoord) -> bool {
        self.tiles.contains(&tile)
    }

    /// The dirty tiles, sorted.
    pub(crate) fn in_order(&self, order: Order) -> Vec<TileCoord> {
        let mut tiles: Vec<TileCoord> = self.tiles.iter().copied().collect();
        tiles.sort_by_cached_key(|tile| order.sort_key(*tile));
        tiles
    }
}

/// Where a layer's features are searched in each dirty tile. Needed if a tile's area cannot be converted to the layer's
/// reference system by a closed formula.
#[derive(Debug)]
pub(crate) struct FeatureSearch(HashMap<TileCoord, SearchBounds>);

impl FeatureSearch {
    /// Finds the features that each dirty tile shows.
    pub(crate) fn new(dirty: &Dirty, layer: &DrawnLayer, all: &LayerFootprints) -> FeatureSearch {
        let mut found: HashMap<TileCoord, SearchBounds> = HashMap::new();
        let zooms: BTreeSet<Zoom> =
            dirty.marked_zooms().into_iter().filter(|zoom| layer.zooms.contains(*zoom)).collect();
        for zoom in &zooms {
            let footprints = all.at(*zoom);
            let features = if footprints.has_sources() { footprints.len() } else { 0 };
            for feature in 0..features {
                let (touched, others) = touched_tiles(*zoom, layer.margin.units(*zoom), footprints.world(feature));
                let mut note = |tile: TileCoord| {
                    let touching = found.entry(tile).or_insert(SearchBounds::NONE);
                    let in_west = tile.x() <= zoom.last() / 2;
                    footprints.sources(feature, in_west).for_each(|source| touching.add(source));
                };
                for touched in std::iter::once(touched).chain(others) {
                    if touched.tiles() <= dirty.len() as u64 {
                        touched.iter().filter(|tile| dirty.tiles.contains(tile)).for_each(&mut note);
                    } else {
                        let inside = |tile: &&TileCoord| touched.common(&TileRect::from(**tile)).is_some();
                        let of_zoom = dirty.tiles.iter().filter(|tile| tile.zoom() == *zoom);
                        of_zoom.filter(inside).copied().for_each(&mut note);
                    }
                }
            }
        }
        FeatureSearch(found)
    }

    /// Where the features of some dirty tiles are searched.
    pub(crate) fn search(&self, rect: &TileRect) -> SearchBox {
        let mut all = SearchBounds::NONE;
        for tile in rect.iter().filter_map(|tile| self.0.get(&tile)) {
            all.join(tile);
        }
        all.search()
    }
}

fn add_within(
    tiles: &mut HashSet<TileCoord>,
    most: usize,
    parts: &[TileRect],
    touched: &TileRect,
) -> Result<(), TooManyDirtyTiles> {
    for inside in common_parts(parts, touched) {
        add(tiles, most, &inside)?;
    }
    Ok(())
}

fn add(tiles: &mut HashSet<TileCoord>, most: usize, rect: &TileRect) -> Result<(), TooManyDirtyTiles> {
    if rect.tiles() > most as u64 {
        return Err(TooManyDirtyTiles);
    }
    tiles.extend(rect.iter());
    if tiles.len() > most { Err(TooManyDirtyTiles) } else { Ok(()) }
}

// The dirty tiles of a line or polygon: those that it touches, not all of its box.

/// A changed line or polygon of a layer.
pub(crate) struct DirtyShape<'a> {
    pub(crate) outline: &'a Outline,
    pub(crate) layer: &'a DrawnLayer,
    /// The most tiles that may be dirty.
    pub(crate) most: usize,
}

/// Some tiles that a shape touches.
pub(crate) struct ShapeRect {
    pub(crate) rect: TileRect,
    /// True if they lie wholly inside of a polygon.
    pub(crate) is_inside: bool,
}

impl DirtyShape<'_> {
    /// The tiles of a scope that the shape touches, and some others between the scope's parts. `touched` are the tiles
    /// of the shape's box.
    pub(crate) fn rects(&self, parts: &[TileRect], touched: &TileRect) -> Result<Vec<ShapeRect>, TooManyDirtyTiles> {
        if touched.tiles() < MIN_TILES_OF_OUTLINE {
            return Ok(vec![ShapeRect { rect: *touched, is_inside: false }]);
        }
        let Some(within) = common_parts(parts, touched).reduce(TileRect::joined) else { return Ok(Vec::new()) };
        let rect = |OutlineRun { x, y0, y1, interior }| ShapeRect {
            rect: TileRect { x0: x, y0, x1: x, y1, ..within },
            is_inside: interior.is_some(),
        };
        Ok(self.tiles(within)?.into_iter().map(rect).collect())
    }

    fn tiles(&self, within: TileRect) -> Result<Vec<OutlineRun>, TooManyDirtyTiles> {
        let zoom = within.zoom.get();
        // Each touched tile contains touched tiles of deeper zooms. So a count at a shallower zoom shows whether there
        // are too many, before the runs of a deep zoom fill the memory.
        if let Some(above) = zoom.checked_sub(ZOOMS_LOOKED_ABOVE).and_then(Zoom::new)
            && within.tiles() > (self.most as u64).saturating_mul(1 << (2 * ZOOMS_LOOKED_ABOVE))
        {
            let up = |number: u32| number >> ZOOMS_LOOKED_ABOVE;
            let TileRect { x0, y0, x1, y1, .. } = within;
            let runs = self.tiles(TileRect { zoom: above, x0: up(x0), y0: up(y0), x1: up(x1), y1: up(y1) })?;
            let tiles: u64 = runs.iter().map(|run| u64::from(run.y1 - run.y0) + 1).sum();
            // At a lower zoom the margin is wider, so more tiles are allowed there.
            if tiles > (self.most as u64).saturating_mul(4) {
                return Err(TooManyDirtyTiles);
            }
        }
        let margin = self.layer.margin;
        Ok(self.outline.tiles(outline_reach(margin.units(within.zoom), margin.extent, within.zoom), &within))
    }
}

/// How many zooms above a deep one the tiles of a shape are counted first.
const ZOOMS_LOOKED_ABOVE: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{BoxFootprint, Footprints, SourceBox};

    fn zoom(level: u8) -> Zoom {
        Zoom::new(level).unwrap()
    }

    fn drawn(zooms: &str, buffer: u32) -> DrawnLayer {
        DrawnLayer { zooms: zooms.parse().unwrap(), margin: Margin::plain(4096, buffer), grid: None }
    }

    fn whole(zooms: &str) -> Scope {
        Scope { zooms: zooms.parse().unwrap(), coverage: Coverage::new(&[]) }
    }

    fn names(tiles: &[TileCoord]) -> Vec<String> {
        tiles.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_place_dirties_the_tiles_whose_buffer_it_touches() {
        let mut dirty = Dirty::new(&[whole("0-3")], 100);
        // One unit east of the middle of the world, ten south of it.
        dirty
            .mark(
                &drawn("1-2", 64),
                &ChangeLocation::Box(WorldBox::new(0x8000_0001, 0x8000_000a, 0x8000_0001, 0x8000_000a)),
            )
            .unwrap();
        assert_eq!(
            names(&dirty.in_order(Order::ZoomColumnTmsRow)),
            ["1/0/1", "1/0/0", "1/1/1", "1/1/0", "2/1/2", "2/1/1", "2/2/2", "2/2/1"]
        );
        let mut dirty = Dirty::new(&[whole("3")], 100);
        dirty
            .mark(
                &drawn("0-22", 64),
                &ChangeLocation::Box(WorldBox::new(0x9000_0000, 0x1000_0000, 0x9000_0000, 0x1000_0000)),
            )
            .unwrap();
        assert_eq!(names(&dirty.in_order(Order::Hilbert)), ["3/4/0"]);
    }

    #[test]
    fn tiles_outside_of_the_tileset_are_not_dirty() {
        let west = Scope { zooms: "2".parse().unwrap(), coverage: Coverage::new(&["-180,-85,0,85".parse().unwrap()]) };
        let mut dirty = Dirty::new(&[west, whole("1")], 100);
        dirty.mark(&drawn("0-22", 64), &ChangeLocation::Box(WorldBox::new(0, 0, u32::MAX, u32::MAX))).unwrap();
        assert_eq!(dirty.len(), 4 + 8);
        let tile = |z, x, y| TileCoord::new(zoom(z), x, y).unwrap();
        assert_eq!(dirty.mark_tile(tile(2, 3, 0)), Ok(false));
        assert_eq!(dirty.mark_tile(tile(5, 3, 0)), Ok(false));
        assert_eq!(dirty.mark_tile(tile(2, 1, 0)), Ok(true));
        assert_eq!(dirty.len(), 12, "a tile is counted once");
    }

    #[test]
    fn a_box_over_the_antimeridian_dirties_the_tiles_at_both_ends() {
        let mut dirty = Dirty::new(&[whole("0-3")], 100);
        let (west, east) = (0xf000_0000, 0x0800_0000);
        dirty
            .mark(&drawn("0-22", 0), &ChangeLocation::Box(WorldBox::new(west, 0x1000_0000, east, 0x1000_0000)))
            .unwrap();
        assert_eq!(
            names(&dirty.in_order(Order::ZoomColumnTmsRow)),
            ["0/0/0", "1/0/0", "1/1/0", "2/0/0", "2/3/0", "3/0/0", "3/7/0"]
        );
        // Cells of a whole tile at zoom 1 reach around the world.
        let grid = CellGrid {
            shape: crate::cells::CellShape::Square,
            size: 1.0,
            geometry: crate::cells::CellGeometry::Center,
            merges: false,
            edges: crate::cells::CellEdges::Mercator,
        };
        let mut dirty = Dirty::new(&[whole("2")], 100);
        let layer = DrawnLayer { grid: Some(grid), ..drawn("0-22", 0) };
        dirty
            .mark(&layer, &ChangeLocation::Box(WorldBox::new(0xa000_0000, 0x1000_0000, 0x6000_0000, 0x1000_0000)))
            .unwrap();
        assert_eq!(names(&dirty.in_order(Order::ZoomColumnTmsRow)).len(), 8);
    }

    #[test]
    fn too_many_tiles_are_an_error_before_they_fill_the_memory() {
        let mut dirty = Dirty::new(&[whole("0-22")], 1_000);
        assert_eq!(
            dirty.mark(&drawn("0-22", 0), &ChangeLocation::Box(WorldBox::new(0, 0, u32::MAX, u32::MAX))),
            Err(TooManyDirtyTiles)
        );
        assert!(dirty.len() <= 2_000);
    }

    #[test]
    fn a_feature_is_searched_in_the_dirty_tiles_that_show_it() {
        let mut dirty = Dirty::new(&[whole("1-4")], 100);
        let layer = drawn("0-22", 0);
        dirty
            .mark(&layer, &ChangeLocation::Box(WorldBox::new(0x9000_0000, 0x1800_0000, 0x9000_0000, 0x1800_0000)))
            .unwrap();
        let feature = |world: WorldBox, at: f32| BoxFootprint {
            world,
            source: SourceBox { min_x: at, min_y: at, max_x: at + 1.0, max_y: at + 1.0 },
        };
        let footprints = LayerFootprints::Same(Footprints::Boxes(vec![
            feature(WorldBox::new(0x9000_0000, 0x1000_0000, 0x9100_0000, 0x1900_0000), 5.0),
            feature(WorldBox::new(0, 0, u32::MAX, u32::MAX), 7.0),
            feature(WorldBox::of_unit(0x2000_0000, 0xf000_0000), 9.0),
        ]));
        let found = FeatureSearch::new(&dirty, &layer, &footprints);
        for tile in dirty.in_order(Order::Hilbert) {
            let both = SourceBox { min_x: 6.0, min_y: 6.0, max_x: 7.0, max_y: 7.0 };
            assert_eq!(found.search(&TileRect::from(tile)), SearchBox::Source(both), "{tile}");
        }
        let clean = TileRect::from(TileCoord::new(zoom(4), 0, 0).unwrap());
        assert_eq!(found.search(&clean), SearchBox::Nothing);
    }
}
