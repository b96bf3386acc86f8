//! The sweep: which tiles each feature touches, and how many features touch each tile, in the archive's order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::ops::ControlFlow;

use super::cut::{FeatureRun, OutlineRuns};
use super::{LayerPoints, PlanLayer, touched_tiles};
use crate::tile::{RingDirection, TileRect, WorldBox, Zoom};

/// A run of tiles in one column that one feature touches, or some points. Sixteen bytes: there is one for each feature
/// and column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Touch {
    /// The position of the run's first tile in the archive's order, above eight bits of the layer's index.
    key: u64,
    /// The number of tiles.
    length: u32,
    /// The feature's index within its layer, with [`INTERIOR`] if the tiles lie wholly inside the feature, and
    /// [`TURNED`] if its ring runs counterclockwise; or a number of points with [`POINTS`].
    feature: u32,
}

/// The bit that marks a touch whose tiles lie wholly inside the feature.
const INTERIOR: u32 = 1 << 31;

/// The bit that marks a touch of points, which are only counted. The bits below it hold their number.
const POINTS: u32 = 1 << 30;

/// The bit that marks, together with [`INTERIOR`], a ring that runs counterclockwise: it is drawn with another first
/// vertex.
const TURNED: u32 = 1 << 29;

pub(crate) const ONE_POINT: u32 = POINTS | 1;

const fn features(feature: u32) -> u32 {
    if feature & POINTS == 0 { 1 } else { feature & (POINTS - 1) }
}

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

    /// Adds another touch's points to this touch, if both touch the same tiles.
    fn merge(&mut self, other: Touch) -> bool {
        let is_same =
            (self.key, self.length) == (other.key, other.length) && self.feature & other.feature & POINTS != 0;
        let together = features(self.feature) + features(other.feature);
        if !is_same || together >= POINTS {
            return false;
        }
        self.feature = POINTS | together;
        true
    }
}

/// The touches collected so far. Touches of points are merged when there are many. Then each tile has one of them,
/// however many points lie in it.
#[derive(Debug, Default)]
pub(crate) struct TouchList {
    all: Vec<Touch>,
    merge_at: usize,
}

const MIN_MERGED: usize = if cfg!(test) { 16 } else { 1 << 16 };

impl TouchList {
    /// Reserves room for the touches of some features, most of which touch one or two columns.
    pub(crate) fn with_room(features: usize) -> TouchList {
        // Unused capacity costs no memory until it is written, and one large allocation returns to the system at once,
        // while a growing vector would leave pieces that the allocator keeps.
        TouchList { all: Vec::with_capacity(features * 9 / 4), merge_at: 0 }
    }

    /// Adds the touches of one feature inside some parts. `feature` is the feature's index, or [`ONE_POINT`].
    pub(crate) fn add(&mut self, number: usize, feature: u32, tiles: &TileRect, parts: &[TileRect]) {
        let (zoom, last) = (tiles.zoom.get(), tiles.zoom.last());
        for inside in common_parts(parts, tiles) {
            for x in inside.x0..=inside.x1 {
                self.all.push(Touch {
                    key: (u64::from(x) << zoom | u64::from(last - inside.y1)) << 8 | number as u64,
                    length: inside.y1 - inside.y0 + 1,
                    feature,
                });
            }
        }
    }

    pub(crate) fn add_point(&mut self, number: usize, tiles: &TileRect, parts: &[TileRect]) {
        self.add(number, ONE_POINT, tiles, parts);
        if self.all.len() >= self.merge_at.max(MIN_MERGED) {
            self.merge();
            self.merge_at = 2 * self.all.len();
        }
    }

    fn merge(&mut self) {
        self.all.sort_unstable();
        self.all.dedup_by(|next, kept| kept.merge(*next));
    }

    /// The touches in the archive's order.
    pub(crate) fn sorted(mut self) -> Vec<Touch> {
        self.merge();
        self.all
    }
}

/// A run of neighbouring tiles of one column, all touched by the same features.
#[derive(Debug)]
pub(crate) struct SweptRun<'a> {
    /// The position of the first tile: its column above the zoom's bits, its TMS row in them.
    pub start: u64,
    pub tiles: u64,
    /// For each layer, the number of features that touch each of the tiles.
    pub counts: &'a [u64],
    /// Whether the tiles lie wholly inside each of these features.
    pub(crate) is_interior: bool,
    /// Every feature that touches the run.
    active: &'a Active,
}

impl SweptRun<'_> {
    /// The index of the layer and the index of the feature within it, for every feature that touches the run and is not
    /// a point; not sorted.
    pub(crate) fn members(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let others = self.active.iter().filter(|Reverse((_, _, feature))| feature & POINTS == 0);
        others.map(|Reverse((_, layer, feature))| {
            let bits = if feature & INTERIOR == 0 { 0 } else { INTERIOR | TURNED };
            (*layer, *feature & !bits)
        })
    }

    /// Identifies the content of tiles that are [interior](SweptRun::is_interior): the layer of each feature, and its
    /// index with the direction of its ring; not sorted.
    pub(crate) fn contents(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        self.active.iter().map(|Reverse((_, layer, feature))| (*layer, *feature))
    }
}

/// The features that touch the current tile, by the position at which they end.
type Active = BinaryHeap<Reverse<(u64, usize, u32)>>;

/// The approximate number of points in memory at a time, each with its touches.
pub(crate) const MAX_POINTS_AT_ONCE: u64 = if cfg!(test) { 64 } else { 1 << 19 };

/// Calls `each` with the tiles that the features touch at a zoom, inside the parts of the coverage (which share no
/// tile), sorted in the archive's order. This happens slab by slab, from west to east: a slab is some neighbouring
/// columns with few enough points.
pub(crate) fn in_slabs(
    zoom: Zoom,
    layers: &[PlanLayer],
    outlines: &OutlineRuns,
    parts: &[TileRect],
    mut each: impl FnMut(&[Touch]),
) -> io::Result<()> {
    // A stack of the columns that have not been cut yet. The western ones are the last on the stack.
    let mut waiting = vec![(0, zoom.last())];
    while let Some((first, last)) = waiting.pop() {
        let columns = TileRect { zoom, x0: first, y0: 0, x1: last, y1: zoom.last() };
        let near: u64 = layers.iter().map(|layer| points_near(layer, &columns)).sum();
        if near > MAX_POINTS_AT_ONCE && first < last {
            let middle = first + (last - first) / 2;
            waiting.extend([(middle + 1, last), (first, middle)]);
            continue;
        }
        let parts: Vec<TileRect> = parts.iter().filter_map(|part| part.common(&columns)).collect();
        if !parts.is_empty() {
            each(&touches(layers, outlines, &columns, &parts)?);
        }
    }
    Ok(())
}

/// The approximate number of a layer's points that may touch some tiles; 0 for a layer of other features.
pub(crate) fn points_near(layer: &PlanLayer, tiles: &TileRect) -> u64 {
    match layer.points(tiles.zoom) {
        Some(points) if layer.zooms.contains(tiles.zoom) => {
            points.about_within(&tiles.world(layer.margin.units(tiles.zoom)))
        }
        _ => 0,
    }
}

/// Calls `each` with every point of a layer that may touch the tiles `near`, and the tiles that the point touches,
/// until `each` breaks.
pub(crate) fn points_touching(
    layer: &PlanLayer,
    points: LayerPoints<'_>,
    near: &TileRect,
    mut each: impl FnMut([u32; 2], TileRect) -> ControlFlow<()>,
) -> io::Result<()> {
    let margin = layer.margin.units(near.zoom);
    // A point's box does not cross ±180°.
    points
        .within(&near.world(margin), |[x, y]| each([x, y], touched_tiles(near.zoom, margin, WorldBox::of_unit(x, y)).0))
}

/// The tiles that the features touch in some columns, inside parts of these, sorted in the archive's order.
fn touches(
    layers: &[PlanLayer],
    outlines: &OutlineRuns,
    columns: &TileRect,
    parts: &[TileRect],
) -> io::Result<Vec<Touch>> {
    let zoom = columns.zoom;
    let drawn = || layers.iter().enumerate().filter(|(_, layer)| layer.zooms.contains(zoom));
    let others = drawn().filter(|(_, layer)| layer.points(zoom).is_none());
    let mut touches = TouchList::with_room(others.map(|(_, layer)| layer.footprints.at(zoom).len()).sum());
    for (number, layer) in drawn() {
        if let Some(points) = layer.points(zoom) {
            points_touching(layer, points, columns, |_, tiles| {
                touches.add_point(number, &tiles, parts);
                ControlFlow::Continue(())
            })?;
            continue;
        }
        let (margin, footprints) = (layer.margin.units(zoom), layer.footprints.at(zoom));
        for feature in (0..footprints.len()).filter(|feature| !outlines.has(number, *feature)) {
            let (tiles, others) = touched_tiles(zoom, margin, footprints.world(feature));
            #[expect(clippy::cast_possible_truncation, reason = "a layer holds fewer than 2^29 such features")]
            for tiles in std::iter::once(tiles).chain(others) {
                touches.add(number, feature as u32, &tiles, parts);
            }
        }
    }
    for run in outlines.of_columns(columns) {
        run.add_touches(parts, &mut touches);
    }
    Ok(touches.sorted())
}

impl FeatureRun {
    /// The touches of the run inside some parts.
    pub(crate) fn add_touches(&self, parts: &[TileRect], touches: &mut TouchList) {
        let bits = match self.run.interior {
            None => 0,
            Some(RingDirection::Clockwise) => INTERIOR,
            Some(RingDirection::Counterclockwise) => INTERIOR | TURNED,
        };
        let feature = self.feature | bits;
        touches.add(usize::from(self.layer), feature, &self.rect(), parts);
    }
}

/// The intersections of some tiles with parts that [`distinct_columns`] has made. An area with a winding border has
/// thousands of parts.
pub(crate) fn common_parts<'a>(parts: &'a [TileRect], tiles: &'a TileRect) -> impl Iterator<Item = TileRect> + 'a {
    let first = parts.partition_point(|part| part.x1 < tiles.x0);
    let near = parts[first..].iter().take_while(|part| part.x0 <= tiles.x1);
    near.filter_map(|part| part.common(tiles))
}

/// The same tiles as rectangles that share no tile, so that overlapping boxes are planned once: columns are cut
/// wherever a rectangle begins or ends, and the rows of each strip are joined.
pub(crate) fn distinct_columns(rects: &[TileRect]) -> Vec<TileRect> {
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
    // For each row, how many more rectangles cover it than the row above it in the strip, if the difference is not 0.
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
    /// The first column of the rectangle, or the first column beyond it.
    column: u32,
    top: u32,
    /// The row below its last.
    below: u32,
    /// 1 where the rectangle begins, -1 where it ends.
    open: i32,
}

/// Walks the touched tiles in the archive's order and calls `each` with every run of tiles that the same features
/// touch.
pub(crate) fn sweep(touches: &[Touch], layers: usize, mut each: impl FnMut(&SweptRun<'_>)) {
    let mut counts = vec![0_u64; layers];
    let mut active = Active::new();
    let mut left = touches;
    let mut place = 0;
    // How many of the active features contain the tiles wholly.
    let mut around = 0;
    loop {
        while let Some(Reverse((end, layer, feature))) = active.peek().copied() {
            if end > place {
                break;
            }
            active.pop();
            counts[layer] -= u64::from(features(feature));
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
            counts[touch.layer()] += u64::from(features(touch.feature));
            around += usize::from(touch.feature & INTERIOR != 0);
            active.push(Reverse((touch.end(), touch.layer(), touch.feature)));
            left = rest;
        }
        let Some(Reverse((first_end, _, _))) = active.peek() else { return };
        let next = left.first().map_or(*first_end, |touch| touch.start().min(*first_end));
        let is_interior = around == active.len();
        each(&SweptRun { start: place, tiles: next - place, counts: &counts, is_interior, active: &active });
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
