//! Cuts the sweep into batches of about equal weight. A batch has one rectangle in each part of the coverage: whole
//! columns side by side, or a piece of one column if the column alone is too heavy. Batches follow each other in the
//! archive's order without gaps.

use std::collections::{HashMap, HashSet};

use super::{
    ContentNumber, HeavyTile, MAX_HEAVIEST_TILES, OverLimit, PlanLayer, SharedContents, SweptRun, ZoomPlan,
    touched_tiles,
};
use crate::tile::{
    Area, Batch, LayerCount, LayerIndex, MIN_TILES_OF_OUTLINE, OutlineRun, PlannedTiles, Repeat, SearchBox, SourceBox,
    TileCoord, TileRect, Zoom, outline_reach,
};

/// The smallest box that touches the boxes of all features that were added: along each axis, from the least upper side
/// to the greatest lower side. A feature that is larger than the area does not enlarge it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SearchBounds {
    least_upper: [f32; 2],
    greatest_lower: [f32; 2],
}

impl SearchBounds {
    pub(crate) const NONE: SearchBounds =
        SearchBounds { least_upper: [f32::INFINITY; 2], greatest_lower: [f32::NEG_INFINITY; 2] };

    pub(crate) fn add(&mut self, source: SourceBox<f32>) {
        self.join(&SearchBounds {
            least_upper: [source.max_x, source.max_y],
            greatest_lower: [source.min_x, source.min_y],
        });
    }

    pub(crate) fn join(&mut self, other: &SearchBounds) {
        for axis in 0..2 {
            self.least_upper[axis] = self.least_upper[axis].min(other.least_upper[axis]);
            self.greatest_lower[axis] = self.greatest_lower[axis].max(other.greatest_lower[axis]);
        }
    }

    /// The box; `None` if no feature was added.
    fn source(&self) -> Option<SourceBox> {
        let [[min_x, max_x], [min_y, max_y]] = [0, 1].map(|axis| {
            let (a, b) = (f64::from(self.least_upper[axis]), f64::from(self.greatest_lower[axis]));
            [a.min(b), a.max(b)]
        });
        (min_x.is_finite() && min_y.is_finite()).then_some(SourceBox { min_x, min_y, max_x, max_y })
    }

    pub(crate) fn search(&self) -> SearchBox {
        self.source().map_or(SearchBox::Nothing, SearchBox::Source)
    }
}

/// A run of tiles in the current column, all touched by the same features. The cutter keeps its counts and boxes, layer
/// by layer.
#[derive(Debug, Clone, Copy)]
struct ColumnRun {
    start: u64,
    tiles: u64,
    /// The weight of each tile: the number of its features, each multiplied by the weight of a feature of its layer.
    weight: u64,
    /// The content that the tiles share with others.
    content: Option<ContentNumber>,
}

/// A rectangle of the current batch.
#[derive(Debug)]
struct OpenArea {
    /// The index of its part of the coverage. A rectangle may include tiles without features, but none outside of its
    /// part.
    part: usize,
    columns: (u32, u32),
    rows: (u32, u32),
    touching: Vec<SearchBounds>,
    /// The occupied tiles, for each layer whose batches list its tiles.
    tiles: Vec<Vec<TileRect>>,
}

#[derive(Debug)]
struct OpenBatch {
    areas: Vec<OpenArea>,
    repeats: Vec<Repeat>,
    contents: HashMap<ContentNumber, usize>,
    tiles: u64,
    weight: u64,
    layers: Vec<LayerCount>,
}

/// Some tiles of one column, and the features that touch each of them, layer by layer.
#[derive(Clone, Copy)]
struct ColumnPiece<'a> {
    start: u64,
    tiles: u64,
    content: Option<ContentNumber>,
    counts: &'a [u64],
    touching: &'a [SearchBounds],
}

/// Adds a piece of a column, joined to the piece south of it if they touch. Pieces of a column come from south to
/// north.
fn add_rows(tiles: &mut Vec<TileRect>, piece: TileRect) {
    match tiles.last_mut() {
        Some(below) if (below.x0, below.x1) == (piece.x0, piece.x1) && below.y0 == piece.y1 + 1 => below.y0 = piece.y0,
        _ => tiles.push(piece),
    }
}

/// Makes the plan of one zoom from the runs of a sweep.
pub(crate) struct Cutter<'a> {
    zoom: Zoom,
    layers: &'a [PlanLayer],
    /// The coverage as rectangles that share no tile.
    parts: &'a [TileRect],
    /// The contents that enough tiles share.
    contents: &'a SharedContents,
    /// A reusable buffer for the features of a run.
    members: Vec<(usize, u32)>,
    /// The weight that a batch should have, in pairs of a feature and a tile.
    target: u64,
    /// The weight of a feature, for each layer.
    weights: Vec<u64>,
    /// True if at least one layer is searched by the boxes of its features, not by the area of the tiles.
    searches_by_members: bool,
    column: Vec<ColumnRun>,
    counts: Vec<u64>,
    touching: Vec<SearchBounds>,
    open: Option<OpenBatch>,
    plan: ZoomPlan,
}

impl OpenBatch {
    fn new(layers: usize) -> OpenBatch {
        let layers = vec![LayerCount::default(); layers];
        OpenBatch { areas: Vec::new(), repeats: Vec::new(), contents: HashMap::new(), tiles: 0, weight: 0, layers }
    }
}

impl<'a> Cutter<'a> {
    pub(crate) fn new(
        zoom: Zoom,
        layers: &'a [PlanLayer],
        contents: &'a SharedContents,
        parts: &'a [TileRect],
        target: u64,
    ) -> Cutter<'a> {
        Cutter {
            zoom,
            layers,
            parts,
            contents,
            members: Vec::new(),
            target,
            weights: layers.iter().map(|layer| layer.weight(zoom)).collect(),
            searches_by_members: layers.iter().any(|layer| layer.footprints.at(zoom).has_sources()),
            column: Vec::new(),
            counts: Vec::new(),
            touching: Vec::new(),
            open: None,
            plan: ZoomPlan::empty(zoom),
        }
    }

    /// Adds the next run; runs come in the archive's order.
    pub(crate) fn add(&mut self, swept: &SweptRun<'_>) {
        if self.column.first().is_some_and(|run| self.column_of(run.start) != self.column_of(swept.start)) {
            self.end_column();
        }
        let features = swept.counts.iter().sum();
        let weight = swept.counts.iter().zip(&self.weights).map(|(count, weight)| count * weight).sum();
        let content = self.contents.of(swept, &mut self.members);
        self.column.push(ColumnRun { start: swept.start, tiles: swept.tiles, weight, content });
        self.counts.extend_from_slice(swept.counts);
        let first = self.touching.len();
        self.touching.resize(first + self.layers.len(), SearchBounds::NONE);
        if self.searches_by_members {
            let in_west = self.column_of(swept.start) <= self.zoom.last() / 2;
            for (layer, feature) in swept.members() {
                for source in self.layers[layer].footprints.at(self.zoom).sources(feature as usize, in_west) {
                    self.touching[first + layer].add(source);
                }
            }
        }
        self.plan.tiles += swept.tiles;
        self.plan.features += swept.tiles * features;
        self.note_heavy(swept, features);
    }

    /// Ends the last batch and returns the plan.
    pub(crate) fn finish(mut self) -> ZoomPlan {
        self.end_column();
        self.close();
        self.plan
    }

    #[expect(clippy::cast_possible_truncation, reason = "a column fits in 22 bits")]
    fn column_of(&self, place: u64) -> u32 {
        (place >> self.zoom.get()) as u32
    }

    #[expect(clippy::cast_possible_truncation, reason = "a row fits in 22 bits")]
    fn row_of(&self, place: u64) -> u32 {
        (place & u64::from(self.zoom.last())) as u32
    }

    fn coord(&self, place: u64) -> TileCoord {
        TileCoord::from_tms(self.zoom, self.column_of(place), self.row_of(place))
    }

    fn note_heavy(&mut self, swept: &SweptRun<'_>, features: u64) {
        let tile = self.coord(swept.start);
        let heaviest = &mut self.plan.heaviest;
        if heaviest.len() < MAX_HEAVIEST_TILES || heaviest.last().is_some_and(|least| least.features < features) {
            let at = heaviest.partition_point(|heavy| heavy.features >= features);
            heaviest.insert(at, HeavyTile { tile, features });
            heaviest.truncate(MAX_HEAVIEST_TILES);
        }
        for (index, count) in swept.counts.iter().enumerate() {
            let layer = LayerIndex(index);
            if self.layers[index].max_tile_features.at(self.zoom).is_none_or(|limit| *count <= limit.get()) {
                continue;
            }
            let heavy = HeavyTile { tile, features: *count };
            match self.plan.over_limit.iter_mut().find(|over| over.layer == layer) {
                None => self.plan.over_limit.push(OverLimit { layer, tiles: swept.tiles, heaviest: heavy }),
                Some(over) => {
                    over.tiles += swept.tiles;
                    if heavy.features > over.heaviest.features {
                        over.heaviest = heavy;
                    }
                }
            }
        }
    }

    /// Puts the current column into batches.
    fn end_column(&mut self) {
        let column = std::mem::take(&mut self.column);
        let (counts, touching) = (std::mem::take(&mut self.counts), std::mem::take(&mut self.touching));
        let cost: u64 = column.iter().map(|run| run.tiles * run.weight).sum();
        if self.open.as_ref().is_some_and(|open| open.weight + cost > self.target) {
            self.close();
        }
        // A column that is up to a quarter over the target stays whole.
        let split = cost > self.target + self.target / 4;
        let layers = self.layers.len();
        for (number, run) in column.iter().enumerate() {
            let (counts, touching) = (&counts[number * layers..][..layers], &touching[number * layers..][..layers]);
            let piece = if split { (self.target / run.weight).clamp(1, run.tiles) } else { run.tiles };
            let mut done = 0;
            while done < run.tiles {
                let tiles = piece.min(run.tiles - done);
                let full = |open: &OpenBatch| open.weight + tiles * run.weight > self.target;
                if split && self.open.as_ref().is_some_and(full) {
                    self.close();
                }
                let (start, content) = (run.start + done, run.content);
                self.take(ColumnPiece { start, tiles, content, counts, touching });
                done += tiles;
            }
        }
        if split {
            self.close();
        }
        (self.column, self.counts, self.touching) = (column, counts, touching);
        self.column.clear();
        self.counts.clear();
        self.touching.clear();
    }

    /// Adds tiles of one column to the current batch.
    fn take(&mut self, piece: ColumnPiece<'_>) {
        if let Some(content) = piece.content {
            return self.repeat(content, piece);
        }
        let ColumnPiece { start, tiles, counts, touching, .. } = piece;
        let (column, first, last) = (self.column_of(start), self.row_of(start), self.row_of(start + tiles - 1));
        let part = self.part_of(column, first);
        let open = self.open.get_or_insert_with(|| OpenBatch::new(counts.len()));
        let at = open.areas.iter().rposition(|area| area.part == part).unwrap_or_else(|| {
            let (touching, tiles) = (vec![SearchBounds::NONE; counts.len()], vec![Vec::new(); counts.len()]);
            open.areas.push(OpenArea { part, columns: (column, column), rows: (first, last), touching, tiles });
            open.areas.len() - 1
        });
        let area = &mut open.areas[at];
        area.columns.1 = column;
        area.rows = (area.rows.0.min(first), area.rows.1.max(last));
        open.tiles += tiles;
        for (layer, count) in counts.iter().enumerate() {
            if *count > 0 {
                open.weight += tiles * count * self.weights[layer];
                open.layers[layer].tiles += tiles;
                open.layers[layer].features += tiles * count;
                area.touching[layer].join(&touching[layer]);
                if self.layers[layer].asks_each_tile || self.layers[layer].lists_tiles {
                    let (y0, y1) = (self.zoom.last() - last, self.zoom.last() - first);
                    add_rows(&mut area.tiles[layer], TileRect { zoom: self.zoom, x0: column, y0, x1: column, y1 });
                }
            }
        }
    }

    /// Adds tiles of one column whose content other tiles share.
    fn repeat(&mut self, content: ContentNumber, piece: ColumnPiece<'_>) {
        let ColumnPiece { start, tiles, counts, touching, .. } = piece;
        let (column, first, last) = (self.column_of(start), self.row_of(start), self.row_of(start + tiles - 1));
        let (y0, y1) = (self.zoom.last() - last, self.zoom.last() - first);
        let rect = TileRect { zoom: self.zoom, x0: column, y0, x1: column, y1 };
        let rendered = self.contents.rendered(content, || {
            let rect = TileRect { y1: y0, ..rect };
            let listed = |source| SearchBox::Listed(source, vec![rect]);
            let search = touching.iter().map(|touching| touching.source().map_or(SearchBox::Nothing, listed));
            Area { rect, search: search.collect() }
        });
        let open = self.open.get_or_insert_with(|| OpenBatch::new(counts.len()));
        let at = *open.contents.entry(content).or_insert_with(|| {
            open.repeats.push(Repeat { rendered, tiles: Vec::new() });
            open.repeats.len() - 1
        });
        let known = &mut open.repeats[at].tiles;
        match known.last_mut() {
            Some(west) if west.x1 + 1 == column && (west.y0, west.y1) == (y0, y1) => west.x1 = column,
            _ => add_rows(known, rect),
        }
        open.tiles += tiles;
        for (layer, count) in counts.iter().enumerate() {
            open.weight += tiles * count * self.weights[layer];
            open.layers[layer].features += tiles * count;
        }
    }

    /// The part of the coverage that a tile lies in.
    fn part_of(&self, column: u32, row: u32) -> usize {
        let y = self.zoom.last() - row;
        // The parts of a strip of columns follow each other from north to south.
        self.parts.partition_point(|part| part.x1 < column || part.x0 <= column && part.y1 < y)
    }

    /// Closes the current batch.
    fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let last = self.zoom.last();
        let area = |mut area: OpenArea| Area {
            rect: TileRect {
                zoom: self.zoom,
                x0: area.columns.0,
                y0: last - area.rows.1,
                x1: area.columns.1,
                y1: last - area.rows.0,
            },
            search: (0..open.layers.len())
                .map(|layer| {
                    match (open.layers[layer].tiles, self.layers[layer].footprints.at(self.zoom).has_sources()) {
                        (0, _) => SearchBox::Nothing,
                        _ if self.layers[layer].asks_each_tile => {
                            SearchBox::Tiles(std::mem::take(&mut area.tiles[layer]))
                        }
                        _ if self.layers[layer].lists_tiles => {
                            let tiles = std::mem::take(&mut area.tiles[layer]);
                            let listed = |source| SearchBox::Listed(source, tiles);
                            area.touching[layer].source().map_or(SearchBox::Nothing, listed)
                        }
                        (_, false) => SearchBox::Area,
                        (_, true) => area.touching[layer].search(),
                    }
                })
                .collect(),
        };
        let areas = open.areas.into_iter().map(area).collect();
        self.plan.batches.push(Batch {
            areas,
            repeats: open.repeats,
            planned: PlannedTiles::Occupied,
            tiles: open.tiles,
            layers: open.layers,
            needs_cell_counts: false,
        });
    }
}

// The tiles of outlines at one zoom.

/// A run of tiles that a feature with an outline touches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FeatureRun {
    pub(crate) run: OutlineRun,
    /// The feature's index within its layer.
    pub(crate) feature: u32,
    /// The layer's index; there are at most 255.
    pub(crate) layer: u8,
    zoom: Zoom,
}

impl FeatureRun {
    pub(crate) fn rect(&self) -> TileRect {
        let OutlineRun { x, y0, y1, .. } = self.run;
        TileRect { zoom: self.zoom, x0: x, y0, x1: x, y1 }
    }

    /// The part of the run that lies in a square of tiles.
    pub(crate) fn within(&self, square: &TileRect) -> Option<FeatureRun> {
        let TileRect { y0, y1, .. } = self.rect().common(square)?;
        Some(FeatureRun { run: OutlineRun { y0, y1, ..self.run }, ..*self })
    }
}

/// The tiles of all outlines at one zoom.
#[derive(Debug, Default)]
pub(crate) struct OutlineRuns {
    /// From west to east.
    pub(crate) runs: Vec<FeatureRun>,
    features: Vec<HashSet<u32>>,
}

impl OutlineRuns {
    pub(crate) fn new(zoom: Zoom, layers: &[PlanLayer]) -> OutlineRuns {
        let mut all = OutlineRuns { runs: Vec::new(), features: vec![HashSet::new(); layers.len()] };
        for (number, layer) in layers.iter().enumerate().filter(|(_, layer)| layer.zooms.contains(zoom)) {
            let footprints = layer.footprints.at(zoom);
            let margin = layer.margin.units(zoom);
            let reach = outline_reach(margin, layer.margin.extent, zoom);
            for (feature, outline) in footprints.outlines() {
                let (within, None) = touched_tiles(zoom, margin, footprints.world(feature as usize)) else { continue };
                if within.tiles() < MIN_TILES_OF_OUTLINE {
                    continue;
                }
                all.features[number].insert(feature);
                #[expect(clippy::cast_possible_truncation, reason = "there are at most 255 layers")]
                let run = |run| FeatureRun { run, feature, layer: number as u8, zoom };
                all.runs.extend(outline.tiles(reach, &within).into_iter().map(run));
            }
        }
        all.runs.sort_unstable_by_key(|run| run.run.x);
        all
    }

    /// True if the tiles of a feature are among these runs.
    pub(crate) fn has(&self, layer: usize, feature: usize) -> bool {
        let known = &self.features[layer];
        !known.is_empty() && u32::try_from(feature).is_ok_and(|feature| known.contains(&feature))
    }

    pub(crate) fn of_columns(&self, columns: &TileRect) -> &[FeatureRun] {
        let first = self.runs.partition_point(|run| run.run.x < columns.x0);
        let end = self.runs.partition_point(|run| run.run.x <= columns.x1);
        &self.runs[first..end.max(first)]
    }
}
