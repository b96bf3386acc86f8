//! The unit of work between planning and rendering: the tiles that one statement renders.

use std::collections::HashMap;
use std::sync::Arc;

use super::{SourceBox, TileCoord, TileRect, WorldRect, Zoom};

/// Where one layer's features of an area are searched.
#[derive(Debug, Clone, PartialEq)]
pub enum SearchBox {
    /// In the area, grown by the layer's margin; the source converts it to the layer's reference system.
    Area,
    /// In this box, which touches the box of every feature of the area.
    Source(SourceBox),
    /// In this part of the area only.
    World(WorldRect),
    /// In these parts of the area's only tile; the source may return more features. It may have cached the rows there.
    Near(Vec<GridBox>),
    /// In these tiles. The source asks once for each tile, because the layer's query depends on the tile. The
    /// rectangles are one tile wide.
    Tiles(Vec<TileRect>),
    /// In this box, which touches the box of every feature of the area, but only for these tiles: the features' boxes
    /// touch other tiles, too.
    Listed(SourceBox, Vec<TileRect>),
    /// Nowhere: the layer has no feature in the area.
    Nothing,
}

/// A rectangle of tiles, and where the features of each layer are searched.
#[derive(Debug, Clone, PartialEq)]
pub struct Area {
    /// The tiles.
    pub rect: TileRect,
    /// One for each layer of the batch.
    pub search: Vec<SearchBox>,
}

/// Tiles with the same content as another one, because all of them lie wholly inside the same polygons.
#[derive(Debug, Clone, PartialEq)]
pub struct Repeat {
    /// The area of one of these tiles, which is rendered for all.
    pub rendered: Arc<Area>,
    /// The tiles.
    pub tiles: Vec<TileRect>,
}

/// What one layer is expected to contribute to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerCount {
    /// Tiles in which the layer has a candidate.
    pub tiles: u64,
    /// Pairs of a candidate and a tile.
    pub features: u64,
}

/// Which tiles of a batch's areas are planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlannedTiles {
    /// Those in which at least one layer has a candidate. The plan has counted the candidates.
    Occupied,
    /// All of them. The plan has not counted candidates.
    Every,
}

/// A set of tiles rendered together: the unit of work of the bounded pool.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The rectangles; no tile lies in two of them.
    pub areas: Vec<Area>,
    /// More tiles, which are not rendered one by one. None of them is planned in the areas.
    pub repeats: Vec<Repeat>,
    /// Which tiles of the areas are planned.
    pub planned: PlannedTiles,
    /// How many tiles are planned, repeated ones included.
    pub tiles: u64,
    /// What each layer is expected to contribute to the areas, in the order of the layers. With
    /// [`PlannedTiles::Every`], the tiles in which the layer may be drawn and an estimate of features.
    pub layers: Vec<LayerCount>,
    /// True if the batch's source waits for cell counts that are still being computed. Such batches are rendered after
    /// the others if the pipeline's window has room for every batch.
    pub needs_cell_counts: bool,
}

impl Batch {
    /// The zoom of the first area; with [`PlannedTiles::Occupied`] all areas have the same.
    pub fn zoom(&self) -> Option<Zoom> {
        let repeated = self.repeats.first().map(|repeat| &*repeat.rendered);
        self.areas.first().or(repeated).map(|area| area.rect.zoom)
    }

    /// Adds another batch of the same layers, whose rectangles share no tile with these.
    pub fn join(&mut self, other: Batch) {
        self.areas.extend(other.areas);
        for repeat in other.repeats {
            match self.repeats.iter_mut().find(|own| Arc::ptr_eq(&own.rendered, &repeat.rendered)) {
                Some(own) => own.tiles.extend(repeat.tiles),
                None => self.repeats.push(repeat),
            }
        }
        self.tiles += other.tiles;
        self.needs_cell_counts |= other.needs_cell_counts;
        for (own, others) in self.layers.iter_mut().zip(other.layers) {
            own.tiles += others.tiles;
            own.features += others.features;
        }
    }

    /// Cuts the batch in two: a batch with about `most` features, but at least one tile, and the rest. The rest is
    /// `None` if it is empty. It is always `None` with [`PlannedTiles::Occupied`], because then it is not known which
    /// tiles of a part are planned.
    #[must_use]
    pub fn cut(self, most: u64) -> (Batch, Option<Batch>) {
        let (features, tiles) = (self.features(), self.tiles.max(1));
        if self.planned == PlannedTiles::Occupied || features <= most || tiles == 1 {
            return (self, None);
        }
        // Features are estimated for the whole batch, not for each tile.
        let scaled = u128::from(most) * u128::from(tiles) / u128::from(features);
        let mut left = u64::try_from(scaled).unwrap_or(u64::MAX).clamp(1, tiles - 1);
        let (mut first, mut others) = (Vec::new(), Vec::new());
        for area in self.areas {
            let own = area.rect.tiles();
            if own <= left {
                left -= own;
                first.push(area);
                continue;
            }
            let (mut taken, rest) = area.split(left);
            left = 0;
            first.append(&mut taken);
            others.extend(rest);
        }
        let part = |areas: Vec<Area>| {
            let own: u64 = areas.iter().map(|area| area.rect.tiles()).sum();
            let scaled =
                |count: u64| u64::try_from(u128::from(count) * u128::from(own) / u128::from(tiles)).unwrap_or(count);
            // A layer that is planned for the batch is planned for each of its parts.
            let layers = self.layers.iter().map(|layer| LayerCount {
                tiles: if layer.tiles == 0 { 0 } else { scaled(layer.tiles).max(1) },
                features: scaled(layer.features),
            });
            Batch {
                areas,
                repeats: Vec::new(),
                planned: self.planned,
                tiles: own,
                layers: layers.collect(),
                needs_cell_counts: self.needs_cell_counts,
            }
        };
        (part(first), Some(part(others)))
    }

    /// Pairs of a candidate and a tile over all layers: the size of the batch.
    pub fn features(&self) -> u64 {
        self.layers.iter().map(|layer| layer.features).sum()
    }
}

impl Area {
    /// The area in two halves, or `None` for a single tile.
    pub fn halves(&self) -> Option<(Area, Area)> {
        let (a, b) = self.rect.halves()?;
        Some((self.within(a), self.within(b)))
    }

    /// Splits the area into its first `tiles` tiles and the others, as rectangles: whole rows, or a part of the only
    /// row.
    fn split(&self, tiles: u64) -> (Vec<Area>, Vec<Area>) {
        let rect = self.rect;
        let wide = u64::from(rect.x1 - rect.x0) + 1;
        let part = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        if tiles == 0 {
            return (Vec::new(), vec![self.clone()]);
        }
        if rect.y0 == rect.y1 {
            let end = rect.x0 + part(tiles) - 1;
            return (
                vec![self.within(TileRect { x1: end, ..rect })],
                vec![self.within(TileRect { x0: end + 1, ..rect })],
            );
        }
        // At least one row: a few more tiles than requested do no harm.
        let rows = part((tiles / wide).max(1)).min(rect.y1 - rect.y0);
        let end = rect.y0 + rows - 1;
        (vec![self.within(TileRect { y1: end, ..rect })], vec![self.within(TileRect { y0: end + 1, ..rect })])
    }

    /// A part of the area.
    #[must_use]
    pub fn within(&self, rect: TileRect) -> Area {
        let search = self.search.iter().map(|search| match search {
            SearchBox::Tiles(tiles) => SearchBox::Tiles(tiles.iter().filter_map(|one| one.common(&rect)).collect()),
            SearchBox::Listed(source, tiles) => {
                SearchBox::Listed(*source, tiles.iter().filter_map(|one| one.common(&rect)).collect())
            }
            other => other.clone(),
        });
        Area { rect, search: search.collect() }
    }
}

// The surroundings of changed positions: parts of a tile's grid, and cells in which rows are cached.

/// A box of grid points of a tile, its edges included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GridBox {
    /// Its least x.
    pub west: i64,
    /// Its least y.
    pub north: i64,
    /// Its greatest x.
    pub east: i64,
    /// Its greatest y.
    pub south: i64,
}

impl GridBox {
    /// Whether a position lies in it.
    pub fn holds(&self, [x, y]: [i64; 2]) -> bool {
        (self.west..=self.east).contains(&x) && (self.north..=self.south).contains(&y)
    }
}

/// An index of boxes by position.
#[derive(Debug)]
pub struct GridBoxes<'b> {
    /// Small boxes, by the squares of the grid that they touch.
    by_square: HashMap<[i64; 2], Vec<&'b GridBox>>,
    large: Vec<&'b GridBox>,
}

impl<'b> GridBoxes<'b> {
    /// The side of an index square is 2 to this power grid units.
    const SQUARE: u32 = 4;
    /// A box that touches more index squares is not indexed.
    const MAX_SQUARES_PER_BOX: i64 = 64;
    /// Up to this many boxes are not indexed: comparing with each is faster.
    const MAX_UNINDEXED_BOXES: usize = 8;

    /// Builds the index.
    pub fn new(boxes: &'b [GridBox]) -> GridBoxes<'b> {
        let (mut by_square, mut large) = (HashMap::new(), Vec::new());
        for one in boxes {
            let [[west, north], [east, south]] = [[one.west, one.north], [one.east, one.south]].map(GridBoxes::square);
            if boxes.len() <= GridBoxes::MAX_UNINDEXED_BOXES
                || (east - west + 1).saturating_mul(south - north + 1) > GridBoxes::MAX_SQUARES_PER_BOX
            {
                large.push(one);
                continue;
            }
            for square in (north..=south).flat_map(|y| (west..=east).map(move |x| [x, y])) {
                by_square.entry(square).or_insert_with(Vec::new).push(one);
            }
        }
        GridBoxes { by_square, large }
    }

    fn square(at: [i64; 2]) -> [i64; 2] {
        at.map(|unit| unit >> GridBoxes::SQUARE)
    }

    /// Whether a position lies in one of the boxes.
    pub fn hold(&self, at: [i64; 2]) -> bool {
        let near = if self.by_square.is_empty() { None } else { self.by_square.get(&GridBoxes::square(at)) };
        near.into_iter().flatten().chain(&self.large).any(|one| one.holds(at))
    }
}

/// A part of a tile in which something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedPart {
    /// Its grid points.
    pub grid: GridBox,
    /// The rectangle in which every feature lies that may be drawn at these grid points.
    pub world: WorldRect,
}

/// The surroundings of the changed positions of a layer of points, in which rows are cached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbourhood {
    /// From this zoom on, `cells` hold every row that may be drawn at the same grid point as a changed position.
    pub from: Zoom,
    /// Rectangles that do not overlap.
    pub cells: Vec<TileRect>,
    /// The number of changed positions.
    pub places: u64,
    /// Some tiles, each with its changed parts, to compare cached rows with what the database renders.
    pub samples: Vec<(TileCoord, Vec<ChangedPart>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_found_in_the_boxes_that_hold_it() {
        let mut chance = 5_u64;
        let mut next = |below: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::try_from((chance >> 33) % below).unwrap() - 40
        };
        for many in [0, 1, 8, 9, 40] {
            let mut boxes: Vec<GridBox> = Vec::new();
            for number in 0..many {
                // One in ten is wide.
                let (west, north, side) = (next(400), next(400), if number % 10 == 9 { 200 } else { 5 });
                boxes.push(GridBox { west, north, east: west + side, south: north + side - 1 });
            }
            let found = GridBoxes::new(&boxes);
            for _ in 0..2_000 {
                let at = [next(450), next(450)];
                assert_eq!(found.hold(at), boxes.iter().any(|one| one.holds(at)), "{at:?} {boxes:?}");
            }
        }
    }
}
