//! The sweep: which tiles each feature touches, and how many features touch each tile, in the archive's order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;

use super::PlanLayer;
use super::outlines::{FeatureRun, OutlineRuns};
use super::touched::touched_tiles;
use crate::tile::{Footprints, SortedPoints, TileRect, WorldRect, Zoom};

/// A run of tiles in one column that one feature touches. Sixteen bytes: there is one for each feature and column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Touch {
    /// The position of the run's first tile in the archive's order, above eight bits of the layer's index.
    key: u64,
    /// The number of tiles.
    length: u32,
    /// The feature's index within its layer; [`INTERIOR`] is added if the tiles lie wholly inside the feature.
    feature: u32,
}

/// The bit of a touch for tiles that lie wholly inside the feature.
const INTERIOR: u32 = 1 << 31;

impl Touch {
    const fn start(self) -> u64 {
        self.key >> 8
    }

    const fn end(self) -> u64 {
        self.start() + self.length as u64
    }

    const fn layer(self) -> usize {
        (self.key & 0xff) as usize
    }
}

/// A run of neighbouring tiles of one column, all touched by the same features.
#[derive(Debug)]
pub struct Touched<'a> {
    /// The position of the first tile: its column above the zoom's bits, its TMS row in them.
    pub start: u64,
    /// The number of tiles.
    pub tiles: u64,
    /// For each layer, the number of features that touch each of the tiles.
    pub counts: &'a [u64],
    /// Whether the tiles lie wholly inside each of these features.
    pub is_interior: bool,
    /// Every feature that touches the run.
    active: &'a Active,
}

impl Touched<'_> {
    /// The index of the layer and of the feature within it, for every feature that touches the run; not sorted.
    pub fn members(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.active.iter().map(|Reverse((_, layer, feature))| (*layer, *feature & !INTERIOR))
    }
}

/// The features that touch the current tile, by the position at which they end.
type Active = BinaryHeap<Reverse<(u64, usize, u32)>>;

/// The most points whose touches are in memory at a time, unless more lie in one column.
const MAX_POINTS_AT_ONCE: usize = if cfg!(test) { 64 } else { 1 << 19 };

/// Calls `each` with the tiles that the features touch at a zoom, inside the parts of the coverage (which share no tile), sorted in the
/// archive's order: slab by slab of neighbouring columns, from west to east, each with few enough points.
pub(super) fn in_slabs(
    zoom: Zoom,
    layers: &[PlanLayer],
    outlines: &OutlineRuns,
    parts: &[TileRect],
    mut each: impl FnMut(&[Touch]),
) {
    // A stack of the columns yet to be cut: the western ones are the last.
    let mut waiting = vec![(0, zoom.last())];
    while let Some((first, last)) = waiting.pop() {
        let columns = TileRect { zoom, x0: first, y0: 0, x1: last, y1: zoom.last() };
        let near: usize = layers.iter().map(|layer| points_near(layer, &columns)).sum();
        if near > MAX_POINTS_AT_ONCE && first < last {
            let middle = first + (last - first) / 2;
            waiting.extend([(middle + 1, last), (first, middle)]);
            continue;
        }
        let parts: Vec<TileRect> = parts.iter().filter_map(|part| part.common(&columns)).collect();
        if !parts.is_empty() {
            each(&touches(layers, outlines, &columns, &parts));
        }
    }
}

/// The number of a layer's points that may touch some columns; 0 for a layer of other features.
fn points_near(layer: &PlanLayer, columns: &TileRect) -> usize {
    match layer.places.at(columns.zoom) {
        Footprints::Points(points) if layer.zooms.contains(columns.zoom) => near(layer, points, columns).len(),
        _ => 0,
    }
}

/// The indexes of the points that may touch some columns.
fn near(layer: &PlanLayer, points: &SortedPoints, columns: &TileRect) -> Range<usize> {
    let WorldRect { west, east, .. } = columns.world(layer.margin.units(columns.zoom));
    points.between(west, east)
}

/// The tiles that the features touch in some columns, inside parts of these, sorted in the archive's order.
fn touches(layers: &[PlanLayer], outlines: &OutlineRuns, columns: &TileRect, parts: &[TileRect]) -> Vec<Touch> {
    let zoom = columns.zoom;
    let features: Vec<Range<usize>> = layers
        .iter()
        .map(|layer| match layer.places.at(zoom) {
            _ if !layer.zooms.contains(zoom) => 0..0,
            Footprints::Points(points) => near(layer, points, columns),
            others => 0..others.len(),
        })
        .collect();
    // Most layers need less. Unused capacity costs no memory until it is written, and one large allocation returns to the system at once, while a
    // growing vector would leave pieces that the allocator keeps.
    let mut touches = Vec::with_capacity(features.iter().map(Range::len).sum::<usize>() * 9 / 4);
    for ((number, layer), features) in layers.iter().enumerate().zip(features) {
        let (margin, footprints) = (layer.margin.units(zoom), layer.places.at(zoom));
        for feature in features.filter(|feature| !outlines.has(number, *feature)) {
            let (tiles, others) = touched_tiles(zoom, margin, footprints.world(feature));
            add_touches(number, feature, &tiles, parts, &mut touches);
            if let Some(others) = others {
                add_touches(number, feature, &others, parts, &mut touches);
            }
        }
    }
    for run in outlines.of_columns(columns) {
        run.add_touches(parts, &mut touches);
    }
    touches.sort_unstable();
    touches
}

/// The touches of one feature inside some parts.
pub(super) fn add_touches(
    number: usize,
    feature: usize,
    tiles: &TileRect,
    parts: &[TileRect],
    touches: &mut Vec<Touch>,
) {
    let (zoom, last) = (tiles.zoom.get(), tiles.zoom.last());
    for inside in common_parts(parts, tiles) {
        for x in inside.x0..=inside.x1 {
            #[expect(clippy::cast_possible_truncation, reason = "a layer holds fewer than 2^32 features")]
            touches.push(Touch {
                key: (u64::from(x) << zoom | u64::from(last - inside.y1)) << 8 | number as u64,
                length: inside.y1 - inside.y0 + 1,
                feature: feature as u32,
            });
        }
    }
}

impl FeatureRun {
    /// The touches of the run inside some parts.
    pub(super) fn add_touches(&self, parts: &[TileRect], touches: &mut Vec<Touch>) {
        let feature = self.feature | if self.run.is_interior { INTERIOR } else { 0 };
        add_touches(usize::from(self.layer), feature as usize, &self.rect(), parts, touches);
    }
}

/// What lies both in some tiles and in parts as [`distinct_columns`] gives them. An area with a winding border has thousands of parts.
pub(super) fn common_parts<'a>(parts: &'a [TileRect], tiles: &'a TileRect) -> impl Iterator<Item = TileRect> + 'a {
    let first = parts.partition_point(|part| part.x1 < tiles.x0);
    let near = parts[first..].iter().take_while(|part| part.x0 <= tiles.x1);
    near.filter_map(|part| part.common(tiles))
}

/// The same tiles as rectangles that share no tile, so that overlapping boxes are planned once: columns are cut wherever a rectangle begins or
/// ends, and the rows of each strip are joined.
pub(super) fn distinct_columns(rects: &[TileRect]) -> Vec<TileRect> {
    let Some(zoom) = rects.first().map(|rect| rect.zoom) else { return Vec::new() };
    let mut sides: Vec<RectSide> = rects
        .iter()
        .flat_map(|rect| {
            let side = |column, open| RectSide { column, top: rect.y0, below: rect.y1 + 1, open };
            [side(rect.x0, 1), side(rect.x1 + 1, -1)]
        })
        .collect();
    sides.sort_unstable_by_key(|side| side.column);
    let mut distinct = Vec::new();
    // By how many rectangles a row of the strip has more than the row above, where that is not 0.
    let mut steps: BTreeMap<u32, i32> = BTreeMap::new();
    let mut first = 0;
    for at_column in sides.chunk_by(|one, other| one.column == other.column) {
        let column = at_column[0].column;
        let (mut open, mut top) = (0, 0);
        for (row, step) in &steps {
            if open == 0 {
                top = *row;
            }
            open += step;
            if open == 0 {
                distinct.push(TileRect { zoom, x0: first, y0: top, x1: column - 1, y1: row - 1 });
            }
        }
        for RectSide { top, below, open, .. } in at_column {
            for (row, step) in [(*top, *open), (*below, -open)] {
                let sum = steps.entry(row).or_default();
                *sum += step;
                if *sum == 0 {
                    steps.remove(&row);
                }
            }
        }
        first = column;
    }
    distinct
}

/// The western or eastern side of a rectangle.
struct RectSide {
    /// The first column that the rectangle has, or the first that it has no more.
    column: u32,
    top: u32,
    /// The row below its last.
    below: u32,
    /// 1 where it begins, -1 where it ends.
    open: i32,
}

/// Walks the touched tiles in the archive's order and calls `each` with every run of tiles that the same features touch.
pub(super) fn sweep(touches: &[Touch], layers: usize, mut each: impl FnMut(&Touched<'_>)) {
    let mut counts = vec![0_u64; layers];
    let mut active = Active::new();
    let mut left = touches;
    let mut place = 0;
    // How many of the active features the tiles lie wholly inside of.
    let mut around = 0;
    loop {
        while let Some(Reverse((end, layer, feature))) = active.peek().copied() {
            if end > place {
                break;
            }
            active.pop();
            counts[layer] -= 1;
            around -= usize::from(feature & INTERIOR != 0);
        }
        if active.is_empty() {
            match left.first() {
                Some(next) => place = next.start(),
                None => return,
            }
        }
        while let Some((touch, rest)) = left.split_first() {
            if touch.start() > place {
                break;
            }
            counts[touch.layer()] += 1;
            around += usize::from(touch.feature & INTERIOR != 0);
            active.push(Reverse((touch.end(), touch.layer(), touch.feature)));
            left = rest;
        }
        let Some(Reverse((first_end, _, _))) = active.peek() else { return };
        let next = left.first().map_or(*first_end, |touch| touch.start().min(*first_end));
        let is_interior = around == active.len();
        each(&Touched { start: place, tiles: next - place, counts: &counts, is_interior, active: &active });
        place = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_boxes_share_no_tile() {
        let zoom = Zoom::new(4).unwrap();
        let rect = |x0, y0, x1, y1| TileRect { zoom, x0, y0, x1, y1 };
        let rects = [rect(0, 0, 5, 5), rect(3, 3, 8, 8), rect(3, 3, 3, 3), rect(10, 0, 10, 2)];
        let distinct = distinct_columns(&rects);
        let mut seen = std::collections::BTreeSet::new();
        for r in &distinct {
            for x in r.x0..=r.x1 {
                for y in r.y0..=r.y1 {
                    assert!(seen.insert((x, y)), "{x}/{y} twice");
                }
            }
        }
        let wanted = (0..16).flat_map(|x| (0..16).map(move |y| (x, y)));
        let wanted: std::collections::BTreeSet<_> = wanted
            .filter(|(x, y)| rects.iter().any(|r| (r.x0..=r.x1).contains(x) && (r.y0..=r.y1).contains(y)))
            .collect();
        assert_eq!(seen, wanted);
    }
}
