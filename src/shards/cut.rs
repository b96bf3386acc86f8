//! Divides the columns of tiles among the shards.

use std::collections::BTreeMap;

use super::plan::PlannedShard;
use crate::tile::{Batch, ColumnRange, ColumnRanges, Zoom};

/// A zoom is cut into strips that all deeper zooms share if it has at least this many columns for each shard. With
/// fewer columns, strips would be of unequal weight, and tiles of shallow zooms would show rows far beyond their strip.
const MIN_COLUMNS_PER_SHARD: u64 = 4;

/// If the heaviest shards of two cuts differ by less than this share, the cut with the lower total cost is taken.
const TIE: f64 = 0.03;

/// Who renders the shards of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutFor {
    /// Machines, side by side: the heaviest shard is as light as possible.
    Machines,
    /// One process, one after the other: together they cost as little as possible, so rows are read as few times as
    /// possible.
    OneProcess,
}

/// A list of units that is cut into contiguous parts.
struct Cut {
    units: Vec<Weighed>,
    ends: Vec<usize>,
    heaviest: f64,
    whole: f64,
}

/// Cuts all columns of `zooms` into `shards` shards of about equal weight. Every column of every zoom belongs to one
/// shard.
///
/// A shard reads the rows between its westernmost and its easternmost tile. The tiles of shallow zooms show rows of the
/// whole world, so these zooms come first, as many as possible in one shard. The columns of the deeper zooms follow
/// each other from west to east. The zoom at which that begins is found by trying each. For one process, all zooms that
/// come first are one shard, which reads all rows once.
#[must_use]
pub fn cut(weights: &ColumnWeights, zooms: &[Zoom], shards: u32, cut_for: CutFor) -> Vec<PlannedShard> {
    let Some(deepest) = zooms.last().copied() else { return Vec::new() };
    let is_strip = |zoom: Zoom| 1_u64 << zoom.get() >= MIN_COLUMNS_PER_SHARD * u64::from(shards) || zoom == deepest;
    let units = units(weights, zooms, deepest, is_strip);
    let rows = weights.rows_by_place(deepest);
    let mut best: Option<Cut> = None;
    for first in zooms
        .iter()
        .copied()
        .take_while(|zoom| !is_strip(*zoom))
        .chain(zooms.iter().copied().find(|zoom| is_strip(*zoom)))
    {
        let is_ahead = |unit: &Weighed| matches!(unit.unit, CutUnit::Column(zoom, _) if zoom < first);
        let (ahead, behind): (Vec<Weighed>, Vec<Weighed>) = units.iter().copied().partition(is_ahead);
        let is_apart = cut_for == CutFor::OneProcess && shards > 1 && !ahead.is_empty();
        let ends = if is_apart {
            let behind = ends(&behind, &rows, shards - 1).into_iter().map(|end| ahead.len() + end);
            std::iter::once(ahead.len()).chain(behind).collect()
        } else {
            ends(&[&ahead[..], &behind[..]].concat(), &rows, shards)
        };
        let units = [ahead, behind].concat();
        let costs: Vec<f64> = groups(&units, &ends).map(|group| group.cost(&rows)).collect();
        let (heaviest, whole) = (costs.iter().copied().fold(0.0, f64::max), costs.iter().sum());
        let is_better = best.as_ref().is_none_or(|best| match cut_for {
            CutFor::Machines => {
                heaviest < best.heaviest * (1.0 - TIE) || heaviest < best.heaviest * (1.0 + TIE) && whole < best.whole
            }
            CutFor::OneProcess => whole < best.whole,
        });
        if is_better {
            best = Some(Cut { units, ends, heaviest, whole });
        }
    }
    let strip_zooms: Vec<Zoom> = zooms.iter().copied().filter(|zoom| is_strip(*zoom)).collect();
    best.map_or_else(Vec::new, |best| best.shards(&rows, &strip_zooms, deepest))
}

/// All units from west to east. If several begin at the same place, the shallower ones come first.
fn units(weights: &ColumnWeights, zooms: &[Zoom], deepest: Zoom, is_strip: impl Fn(Zoom) -> bool) -> Vec<Weighed> {
    let mut units: Vec<Weighed> = Vec::new();
    for zoom in zooms.iter().copied().filter(|zoom| !is_strip(*zoom)) {
        let of_zoom = weights.tiles.get(&zoom);
        units.extend((0..=zoom.last()).map(|column| {
            let tiles = of_zoom.and_then(|zoom| zoom.get(&column)).copied().unwrap_or_default();
            let (from, wide) = (first_of(zoom, column, deepest), 1 << (deepest.get() - zoom.get()));
            Weighed { unit: CutUnit::Column(zoom, column), tiles, from, end: from + wide }
        }));
    }
    // A column of a shallower zoom belongs to the shard with the first of the columns below it.
    let mut strips: BTreeMap<u32, (f64, u64)> = BTreeMap::new();
    for zoom in zooms.iter().copied().filter(|zoom| is_strip(*zoom)) {
        for (column, weight) in weights.tiles.get(&zoom).into_iter().flatten() {
            let (tiles, wide) = strips.entry(column << (deepest.get() - zoom.get())).or_default();
            (*tiles, *wide) = (*tiles + weight, (*wide).max(1 << (deepest.get() - zoom.get())));
        }
    }
    units.extend(strips.into_iter().map(|(column, (tiles, wide))| {
        let from = u64::from(column);
        Weighed { unit: CutUnit::Strip(column), tiles, from, end: from + wide }
    }));
    let depth = |unit: &Weighed| match unit.unit {
        CutUnit::Column(zoom, _) => zoom.get(),
        CutUnit::Strip(_) => deepest.get() + 1,
    };
    units.sort_by_key(|unit| (unit.from, depth(unit)));
    units
}

fn groups<'a>(units: &'a [Weighed], ends: &'a [usize]) -> impl Iterator<Item = Group> + 'a {
    let begins = std::iter::once(0).chain(ends.iter().copied());
    begins.zip(ends).map(|(from, end)| units[from..*end].iter().fold(Group::NONE, Group::with))
}

impl Cut {
    fn shards(&self, rows: &RowSums, strip_zooms: &[Zoom], deepest: Zoom) -> Vec<PlannedShard> {
        let mut planned = Vec::new();
        let (mut from, mut strip_from) = (0, 0);
        for (number, (end, group)) in self.ends.iter().copied().zip(groups(&self.units, &self.ends)).enumerate() {
            let own = &self.units[from..end];
            let is_last = number + 1 == self.ends.len();
            let mut columns: BTreeMap<Zoom, Vec<ColumnRange>> = BTreeMap::new();
            for Weighed { unit, .. } in own {
                let CutUnit::Column(zoom, column) = *unit else { continue };
                let ranges = columns.entry(zoom).or_default();
                match ranges.last_mut() {
                    Some(range) if range.last + 1 == column => range.last = column,
                    _ => ranges.push(ColumnRange { zoom, first: column, last: column }),
                }
            }
            let mut ranges: Vec<ColumnRange> = columns.into_values().flatten().collect();
            // The strip ends where the strip of the next shard begins. So columns without features belong to a shard,
            // too, because rows may appear there.
            let has_strip = own.iter().any(|one| matches!(one.unit, CutUnit::Strip(_))) || is_last;
            if has_strip {
                let next = self.units[end..].iter().find_map(|one| match one.unit {
                    CutUnit::Strip(column) => Some(u64::from(column)),
                    CutUnit::Column(..) => None,
                });
                let strip_end = if is_last { 1_u64 << deepest.get() } else { next.unwrap_or(1_u64 << deepest.get()) };
                ranges.extend(strip_zooms.iter().filter_map(|zoom| range(*zoom, deepest, strip_from, strip_end)));
                strip_from = strip_end;
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sums of counts")]
            let [weight, rows] = [group.cost(rows), group.rows(rows).rows].map(|sum| sum.round() as u64);
            planned.push(PlannedShard { weight, rows, columns: ColumnRanges::new(ranges) });
            from = end;
        }
        planned
    }
}

/// The columns of `zoom` whose first column of the deepest zoom lies in `from..end`.
fn range(zoom: Zoom, deepest: Zoom, from: u64, end: u64) -> Option<ColumnRange> {
    let wide = 1_u64 << (deepest.get() - zoom.get());
    let (first, behind) = (from.div_ceil(wide), end.div_ceil(wide));
    let column = |column: u64| u32::try_from(column).ok();
    (first < behind).then_some(())?;
    Some(ColumnRange { zoom, first: column(first)?, last: column(behind - 1)? })
}

// Cuts a list of columns into contiguous parts of about equal weight.

/// A unit that is not cut further: a column of a shallow zoom, or a column of the deepest zoom together with all
/// columns of strip zooms above it that begin there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CutUnit {
    Column(Zoom, u32),
    Strip(u32),
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Weighed {
    pub(crate) unit: CutUnit,
    /// The cost of drawing its tiles.
    pub(crate) tiles: f64,
    /// The columns of the deepest zoom below its tiles.
    pub(crate) from: u64,
    pub(crate) end: u64,
}

/// Consecutive units, as one shard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    tiles: f64,
    from: u64,
    end: u64,
}

impl Group {
    pub(crate) const NONE: Group = Group { tiles: 0.0, from: u64::MAX, end: 0 };

    pub(crate) fn with(self, unit: &Weighed) -> Group {
        Group { tiles: self.tiles + unit.tiles, from: self.from.min(unit.from), end: self.end.max(unit.end) }
    }

    /// The rows that the group reads: those between its westernmost and easternmost tiles, each once.
    pub(crate) fn rows(self, rows: &RowSums) -> RowCost {
        if self.from < self.end { rows.between(self.from, self.end) } else { RowCost::default() }
    }

    pub(crate) fn cost(self, rows: &RowSums) -> f64 {
        self.tiles + self.rows(rows).cost
    }
}

/// The end of each of `shards` contiguous parts of a list, so that the heaviest part is as light as possible. If a
/// single unit is about as heavy as that part, the rest of the list after it is cut into lighter parts.
pub(crate) fn ends(units: &[Weighed], rows: &RowSums, shards: u32) -> Vec<usize> {
    let (mut ends, mut from, mut left) = (Vec::new(), 0, shards as usize);
    loop {
        let most = lightest(&units[from..], rows, left);
        let parts = parts(&units[from..], rows, most);
        let is_heavy = |unit: &Weighed| Group::NONE.with(unit).cost(rows) > most * 0.98;
        let begins = std::iter::once(0).chain(parts.iter().copied());
        let heavy = begins.zip(&parts).position(|(begin, end)| units[from + begin..from + end].iter().any(is_heavy));
        let taken = match heavy {
            Some(number) if parts.len() < left => number + 1,
            _ => parts.len(),
        };
        ends.extend(parts[..taken].iter().map(|end| from + end));
        left -= taken;
        from = ends.last().copied().unwrap_or_default();
        if from == units.len() || left == 0 {
            ends.resize(shards as usize, units.len());
            return ends;
        }
    }
}

/// The ends of contiguous parts of a list. Each part has as many units as cost at most `most`, or a single unit that
/// costs more.
fn parts(units: &[Weighed], rows: &RowSums, most: f64) -> Vec<usize> {
    let (mut ends, mut group) = (Vec::new(), Group::NONE);
    for (number, unit) in units.iter().enumerate() {
        let with = group.with(unit);
        if group.tiles > 0.0 && with.cost(rows) > most * (1.0 + 1e-9) {
            ends.push(number);
            group = Group::NONE.with(unit);
        } else {
            group = with;
        }
    }
    ends.push(units.len());
    ends
}

/// The least possible cost of the heaviest part, if a list is cut into `shards` contiguous parts; accurate to within a
/// hundredth.
fn lightest(units: &[Weighed], rows: &RowSums, shards: usize) -> f64 {
    let heaviest = units.iter().map(|unit| Group::NONE.with(unit).cost(rows)).fold(0.0, f64::max);
    let high = units.iter().fold(Group::NONE, Group::with).cost(rows);
    let (mut low, mut high) = (heaviest.max(high / shards as f64), high.max(heaviest));
    while high - low > low / 100.0 {
        let middle = f64::midpoint(low, high);
        if parts(units, rows, middle).len() <= shards { high = middle } else { low = middle }
    }
    high
}

// The cost of columns of tiles, and of the rows below them from west to east.

/// The number of rows, and the cost of reading them once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RowCost {
    pub(crate) rows: f64,
    pub(crate) cost: f64,
}

/// The cost of the columns of a plan, by zoom: of the tiles that are drawn, and of the rows that have to be read for
/// them.
#[derive(Debug, Default)]
pub struct ColumnWeights {
    pub(crate) tiles: BTreeMap<Zoom, BTreeMap<u32, f64>>,
    rows: BTreeMap<Zoom, BTreeMap<u32, RowCost>>,
}

/// Calls `each` with every column of a batch, and the share of the batch that lies in it.
fn each_column(batch: &Batch, mut each: impl FnMut(Zoom, u32, f64)) {
    let repeated = batch.repeats.iter().flat_map(|repeat| &repeat.tiles).copied();
    let rects: Vec<_> = batch.areas.iter().map(|area| area.rect).chain(repeated).collect();
    let columns: u64 = rects.iter().map(|rect| u64::from(rect.x1 - rect.x0) + 1).sum();
    let share = 1.0 / columns.max(1) as f64;
    for rect in rects {
        (rect.x0..=rect.x1).for_each(|column| each(rect.zoom, column, share));
    }
}

impl ColumnWeights {
    /// The cost of all tiles, and of each row read once.
    pub(crate) fn whole(&self) -> f64 {
        let tiles: f64 = self.tiles.values().flat_map(BTreeMap::values).sum();
        tiles + self.rows.values().flat_map(BTreeMap::values).map(|rows| rows.cost).sum::<f64>()
    }

    /// Adds the cost of drawing the tiles of a batch.
    pub fn add(&mut self, batch: &Batch, cost: f64) {
        each_column(batch, |zoom, column, share| {
            *self.tiles.entry(zoom).or_default().entry(column).or_default() += cost * share;
        });
    }

    /// Adds rows that lie in the tiles of a batch, and the cost of reading them.
    pub(crate) fn add_rows(&mut self, batch: &Batch, rows: f64, cost: f64) {
        each_column(batch, |zoom, column, share| {
            let own = self.rows.entry(zoom).or_default().entry(column).or_default();
            (own.rows, own.cost) = (own.rows + rows * share, own.cost + cost * share);
        });
    }

    /// The rows from west to east: their positions among the columns of the deepest zoom, and the sums up to each
    /// position.
    pub(crate) fn rows_by_place(&self, deepest: Zoom) -> RowSums {
        let mut places: BTreeMap<u64, RowCost> = BTreeMap::new();
        for (zoom, columns) in &self.rows {
            for (column, own) in columns {
                let place = places.entry(first_of(*zoom, *column, deepest)).or_default();
                (place.rows, place.cost) = (place.rows + own.rows, place.cost + own.cost);
            }
        }
        let mut sums = RowSums { places: Vec::new(), sums: vec![RowCost::default()] };
        let mut sum = RowCost::default();
        for (place, own) in places {
            sum = RowCost { rows: sum.rows + own.rows, cost: sum.cost + own.cost };
            sums.places.push(place);
            sums.sums.push(sum);
        }
        sums
    }
}

/// Rows from west to east.
#[derive(Debug)]
pub(crate) struct RowSums {
    places: Vec<u64>,
    /// The sums of all rows before each position; the last one is the sum of all rows.
    sums: Vec<RowCost>,
}

impl RowSums {
    /// The rows in the columns `from..end` of the deepest zoom.
    pub(crate) fn between(&self, from: u64, end: u64) -> RowCost {
        let upto = |place: u64| self.sums[self.places.partition_point(|own| *own < place)];
        let (before, all) = (upto(from), upto(end));
        RowCost { rows: all.rows - before.rows, cost: all.cost - before.cost }
    }
}

pub(crate) fn first_of(zoom: Zoom, column: u32, deepest: Zoom) -> u64 {
    u64::from(column) << (deepest.get() - zoom.get().min(deepest.get()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{Area, Batch, LayerCount, PlannedTiles, SearchBox, TileRect};

    fn zooms(last: u8) -> Vec<Zoom> {
        (0..=last).filter_map(Zoom::new).collect()
    }

    fn batch(zoom: u8, x0: u32, x1: u32) -> Batch {
        let zoom = Zoom::new(zoom).unwrap();
        Batch {
            areas: vec![Area { rect: TileRect { zoom, x0, y0: 0, x1, y1: 0 }, search: vec![SearchBox::Area] }],
            repeats: Vec::new(),
            planned: PlannedTiles::Occupied,
            tiles: 1,
            layers: vec![LayerCount { tiles: 1, features: 1 }],
            needs_cell_counts: false,
        }
    }

    /// Checks that every column of every zoom belongs to exactly one shard.
    fn check(shards: &[PlannedShard], zooms: &[Zoom]) {
        for zoom in zooms {
            let mut owners = vec![0; zoom.last() as usize + 1];
            for range in shards.iter().flat_map(|shard| shard.columns.ranges()).filter(|range| range.zoom == *zoom) {
                owners[range.first as usize..=range.last as usize].iter_mut().for_each(|count| *count += 1);
            }
            assert!(owners.iter().all(|count| *count == 1), "zoom {zoom}: {owners:?}");
        }
    }

    #[test]
    fn every_column_belongs_to_one_shard_whatever_the_weights() {
        let mut random = fastrand::Rng::with_seed(22);
        for _ in 0..300 {
            let last = random.u8(0..12);
            let mut weights = ColumnWeights::default();
            for _ in 0..random.usize(0..200) {
                let zoom = random.u8(0..=last);
                let side = 1_u32 << zoom;
                let x0 = random.u32(0..side);
                let batch = batch(zoom, x0, random.u32(x0..side));
                weights.add(&batch, f64::from(random.u32(0..10_000)));
                if zoom == last {
                    weights.add_rows(&batch, 10.0, f64::from(random.u32(0..10_000)));
                }
            }
            let first = random.u8(0..=last);
            let zooms: Vec<Zoom> = zooms(last).into_iter().filter(|zoom| zoom.get() >= first).collect();
            for count in [1, 2, 3, 8, 50] {
                for cut_for in [CutFor::Machines, CutFor::OneProcess] {
                    let shards = cut(&weights, &zooms, count, cut_for);
                    assert_eq!(shards.len(), count as usize);
                    check(&shards, &zooms);
                }
            }
        }
    }

    #[test]
    fn shards_weigh_about_the_same() {
        let mut random = fastrand::Rng::with_seed(22);
        let mut weights = ColumnWeights::default();
        // Most features lie in a few places, like facilities.
        for zoom in 0..=14 {
            for _ in 0..4_000 {
                let place = if random.bool() { 0.55 + 0.05 * random.f64() } else { random.f64() };
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 2^14")]
                let x = (place * f64::from(1 << zoom)) as u32;
                weights.add(&batch(zoom, x, x), 10.0);
            }
        }
        for count in [2, 8, 12] {
            let shards = cut(&weights, &zooms(14), count, CutFor::Machines);
            let (heaviest, all) =
                shards.iter().fold((0, 0), |(most, all), one| (one.weight.max(most), all + one.weight));
            assert!(heaviest * u64::from(count) * 10 <= all * 13, "{count}: {heaviest} of {all}");
        }
    }

    #[test]
    fn the_deep_zooms_of_a_shard_lie_above_each_other() {
        let mut weights = ColumnWeights::default();
        for zoom in 0..=10 {
            weights.add(&batch(zoom, 0, (1 << zoom) - 1), 1_000.0);
        }
        let shards = cut(&weights, &zooms(10), 4, CutFor::Machines);
        let last: Vec<String> = shards[3].columns.ranges().iter().map(ToString::to_string).collect();
        assert_eq!(last.last().unwrap().split_once('-').unwrap().1, "1023");
        assert!(last.iter().any(|range| range.starts_with("5/")), "{last:?}");
        assert!(!last.iter().any(|range| range.starts_with("0/")), "{last:?}");
    }

    #[test]
    fn tiles_that_need_the_same_rows_come_into_one_shard_as_far_as_shards_stay_even() {
        let mut weights = ColumnWeights::default();
        for zoom in 0..=8 {
            weights.add(&batch(zoom, 0, (1 << zoom) - 1), 1_000.0);
        }
        weights.add_rows(&batch(8, 0, 255), 1_000.0, 4_000.0);
        let shards = cut(&weights, &zooms(8), 4, CutFor::Machines);
        check(&shards, &zooms(8));
        // The tile of zoom 0 cannot be cut. It costs 1,000 for its features, and the reading of all rows.
        assert_eq!(shards.iter().map(|shard| shard.weight).max(), Some(5_000));
        let rows: Vec<u64> = shards.iter().map(|shard| shard.rows).collect();
        assert!(rows.iter().sum::<u64>() <= 2_700, "{rows:?}");
        // One process draws the shallow zooms from all rows, read once, and the others from each row, read once more.
        let shards = cut(&weights, &zooms(8), 4, CutFor::OneProcess);
        check(&shards, &zooms(8));
        let rows: Vec<u64> = shards.iter().map(|shard| shard.rows).collect();
        assert!(rows[0] == 1_000 && rows.iter().sum::<u64>() <= 2_100, "{rows:?}");
    }
}
