//! Which columns of tiles belong to which shard.

use std::collections::BTreeMap;

use super::plan::PlannedShard;
use crate::tile::{Batch, ColumnRange, ColumnRanges, Zoom};

/// A zoom is cut into strips that all deeper zooms share if it has at least this many columns for each shard: with fewer, strips would be of unequal
/// weight, and tiles of shallow zooms would show rows far beyond their strip.
const MIN_COLUMNS_PER_SHARD: u64 = 4;

/// What the columns of a plan weigh, by zoom.
#[derive(Debug, Default)]
pub struct ColumnWeights(BTreeMap<Zoom, BTreeMap<u32, f64>>);

impl ColumnWeights {
    /// Adds the tiles of a batch, which weigh `weight` together.
    #[expect(clippy::cast_precision_loss, reason = "weights are estimates")]
    pub fn add(&mut self, batch: &Batch, weight: u64) {
        let repeated = batch.repeats.iter().flat_map(|repeat| &repeat.tiles).copied();
        let rects: Vec<_> = batch.areas.iter().map(|area| area.rect).chain(repeated).collect();
        let columns: u64 = rects.iter().map(|rect| u64::from(rect.x1 - rect.x0) + 1).sum();
        // A tile without features costs a little, too.
        let each = (weight.max(batch.tiles).max(1)) as f64 / columns.max(1) as f64;
        for rect in rects {
            let zoom = self.0.entry(rect.zoom).or_default();
            for column in rect.x0..=rect.x1 {
                *zoom.entry(column).or_default() += each;
            }
        }
    }
}

/// A part of the tiles that is not cut further: a column of a shallow zoom, or a column of the deepest zoom with all columns above deeper zooms
/// that begin there.
#[derive(Debug, Clone, Copy)]
enum CutUnit {
    Column(Zoom, u32),
    Strip(u32),
}

/// Cuts all columns of some zooms into `shards` shards of about equal weight. Every column of every zoom belongs to one shard.
#[must_use]
pub fn cut(weights: &ColumnWeights, zooms: &[Zoom], shards: u32) -> Vec<PlannedShard> {
    let Some(deepest) = zooms.last().copied() else { return Vec::new() };
    let is_strip = |zoom: Zoom| 1_u64 << zoom.get() >= MIN_COLUMNS_PER_SHARD * u64::from(shards) || zoom == deepest;
    let mut units: Vec<(CutUnit, f64)> = Vec::new();
    for zoom in zooms.iter().copied().filter(|zoom| !is_strip(*zoom)) {
        let of_zoom = weights.0.get(&zoom);
        let weight = |column: u32| of_zoom.and_then(|zoom| zoom.get(&column)).copied().unwrap_or_default();
        units.extend((0..=zoom.last()).map(|column| (CutUnit::Column(zoom, column), weight(column))));
    }
    let strip_zooms: Vec<Zoom> = zooms.iter().copied().filter(|zoom| is_strip(*zoom)).collect();
    // A column of a shallower zoom belongs to the shard that has the first of the columns below it.
    let mut strips: BTreeMap<u32, f64> = BTreeMap::new();
    for zoom in &strip_zooms {
        for (column, weight) in weights.0.get(zoom).into_iter().flatten() {
            *strips.entry(column << (deepest.get() - zoom.get())).or_default() += weight;
        }
    }
    units.extend(strips.iter().map(|(column, weight)| (CutUnit::Strip(*column), *weight)));
    let ends = ends(&units.iter().map(|(_, weight)| *weight).collect::<Vec<_>>(), shards);
    let mut planned = Vec::new();
    let (mut from, mut strip_from) = (0, 0);
    for (number, end) in ends.into_iter().enumerate() {
        let own = &units[from..end];
        let is_last = number + 1 == shards as usize;
        let mut ranges: Vec<ColumnRange> = Vec::new();
        for (unit, _) in own {
            let CutUnit::Column(zoom, column) = *unit else { continue };
            match ranges.last_mut() {
                Some(range) if range.zoom == zoom && range.last + 1 == column => range.last = column,
                _ => ranges.push(ColumnRange { zoom, first: column, last: column }),
            }
        }
        // The strip ends where that of the next shard begins, so that columns without features belong to somebody: rows may come there.
        let has_strip = own.iter().any(|(unit, _)| matches!(unit, CutUnit::Strip(_))) || is_last;
        if has_strip {
            let next = units[end..].iter().find_map(|(unit, _)| match unit {
                CutUnit::Strip(column) => Some(u64::from(*column)),
                CutUnit::Column(..) => None,
            });
            let strip_end = if is_last { 1_u64 << deepest.get() } else { next.unwrap_or(1_u64 << deepest.get()) };
            ranges.extend(strip_zooms.iter().filter_map(|zoom| range(*zoom, deepest, strip_from, strip_end)));
            strip_from = strip_end;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a sum of counts")]
        let weight = own.iter().map(|(_, weight)| weight).sum::<f64>().round() as u64;
        planned.push(PlannedShard { weight, columns: ColumnRanges::new(ranges) });
        from = end;
    }
    planned
}

/// The columns of a zoom whose first column of the deepest zoom lies in `from..end`.
fn range(zoom: Zoom, deepest: Zoom, from: u64, end: u64) -> Option<ColumnRange> {
    let wide = 1_u64 << (deepest.get() - zoom.get());
    let (first, behind) = (from.div_ceil(wide), end.div_ceil(wide));
    let column = |column: u64| u32::try_from(column).ok();
    (first < behind).then_some(())?;
    Some(ColumnRange { zoom, first: column(first)?, last: column(behind - 1)? })
}

/// Where each of `shards` contiguous parts of a list ends, so that the heaviest part is as light as can be, to within a thousandth.
fn ends(weights: &[f64], shards: u32) -> Vec<usize> {
    let whole: f64 = weights.iter().sum();
    let heaviest = weights.iter().copied().fold(0.0, f64::max);
    let (mut low, mut high) = (heaviest.max(whole / f64::from(shards)), whole.max(heaviest));
    let parts = |most: f64| {
        let (mut ends, mut sum) = (Vec::new(), 0.0);
        for (number, weight) in weights.iter().enumerate() {
            if sum + weight > most * (1.0 + 1e-9) && sum > 0.0 {
                ends.push(number);
                sum = 0.0;
            }
            sum += weight;
        }
        ends.push(weights.len());
        ends
    };
    while high - low > whole / 1_000.0 / f64::from(shards) {
        let middle = f64::midpoint(low, high);
        if parts(middle).len() <= shards as usize { high = middle } else { low = middle }
    }
    let mut ends = parts(high);
    ends.resize(shards as usize, weights.len());
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{Area, LayerCount, Planned, SearchBox, TileRect};

    fn zooms(last: u8) -> Vec<Zoom> {
        (0..=last).filter_map(Zoom::new).collect()
    }

    fn batch(zoom: u8, x0: u32, x1: u32) -> Batch {
        let zoom = Zoom::new(zoom).unwrap();
        Batch {
            areas: vec![Area { rect: TileRect { zoom, x0, y0: 0, x1, y1: 0 }, search: vec![SearchBox::Area] }],
            repeats: Vec::new(),
            planned: Planned::Occupied,
            tiles: 1,
            layers: vec![LayerCount { tiles: 1, features: 1 }],
            needs_cell_counts: false,
        }
    }

    /// Every column of every zoom belongs to exactly one shard.
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
                weights.add(&batch(zoom, x0, random.u32(x0..side)), random.u64(0..10_000));
            }
            let first = random.u8(0..=last);
            let zooms: Vec<Zoom> = zooms(last).into_iter().filter(|zoom| zoom.get() >= first).collect();
            for count in [1, 2, 3, 8, 50] {
                let shards = cut(&weights, &zooms, count);
                assert_eq!(shards.len(), count as usize);
                check(&shards, &zooms);
            }
        }
    }

    #[test]
    fn shards_weigh_about_the_same() {
        let mut random = fastrand::Rng::with_seed(22);
        let mut weights = ColumnWeights::default();
        // Most features lie in a few places, as facilities do.
        for zoom in 0..=14 {
            for _ in 0..4_000 {
                let place = if random.bool() { 0.55 + 0.05 * random.f64() } else { random.f64() };
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 2^14")]
                let x = (place * f64::from(1 << zoom)) as u32;
                weights.add(&batch(zoom, x, x), 10);
            }
        }
        for count in [2, 8, 12] {
            let shards = cut(&weights, &zooms(14), count);
            let (heaviest, all) =
                shards.iter().fold((0, 0), |(most, all), one| (one.weight.max(most), all + one.weight));
            assert!(heaviest * u64::from(count) * 10 <= all * 13, "{count}: {heaviest} of {all}");
        }
    }

    #[test]
    fn the_deep_zooms_of_a_shard_lie_above_each_other() {
        let mut weights = ColumnWeights::default();
        for zoom in 0..=10 {
            weights.add(&batch(zoom, 0, (1 << zoom) - 1), 1_000);
        }
        let shards = cut(&weights, &zooms(10), 4);
        let last: Vec<String> = shards[3].columns.ranges().iter().map(ToString::to_string).collect();
        assert_eq!(last.last().unwrap().split_once('-').unwrap().1, "1023");
        assert!(last.iter().any(|range| range.starts_with("5/")), "{last:?}");
        assert!(!last.iter().any(|range| range.starts_with("2/")), "{last:?}");
    }
}
