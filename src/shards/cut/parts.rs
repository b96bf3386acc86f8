//! Cuts a list of columns into contiguous parts of about equal weight.

use super::weights::{RowCost, RowSums};
use crate::tile::Zoom;

/// A unit that is not cut further: a column of a shallow zoom, or a column of the deepest zoom together with all columns of strip zooms above it
/// that begin there.
#[derive(Debug, Clone, Copy)]
pub(super) enum CutUnit {
    Column(Zoom, u32),
    Strip(u32),
}

/// A unit with its cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weighed {
    pub(super) unit: CutUnit,
    /// The cost of drawing its tiles.
    pub(super) tiles: f64,
    /// The columns of the deepest zoom below its tiles.
    pub(super) from: u64,
    pub(super) end: u64,
}

/// Consecutive units, as one shard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    tiles: f64,
    from: u64,
    end: u64,
}

impl Group {
    pub(super) const NONE: Group = Group { tiles: 0.0, from: u64::MAX, end: 0 };

    pub(super) fn with(self, unit: &Weighed) -> Group {
        Group { tiles: self.tiles + unit.tiles, from: self.from.min(unit.from), end: self.end.max(unit.end) }
    }

    /// The rows that the group reads: those between its westernmost and easternmost tiles, each once.
    pub(super) fn rows(self, rows: &RowSums) -> RowCost {
        if self.from < self.end { rows.between(self.from, self.end) } else { RowCost::default() }
    }

    pub(super) fn cost(self, rows: &RowSums) -> f64 {
        self.tiles + self.rows(rows).cost
    }
}

/// The end of each of `shards` contiguous parts of a list, so that the heaviest part is as light as possible. If a single unit is about as heavy
/// as that part, the rest of the list after it is cut into lighter parts.
pub(super) fn ends(units: &[Weighed], rows: &RowSums, shards: u32) -> Vec<usize> {
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

/// The ends of contiguous parts of a list. Each part has as many units as cost at most `most`, or a single unit that costs more.
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

/// The least possible cost of the heaviest part, if a list is cut into `shards` contiguous parts; accurate to within a hundredth.
fn lightest(units: &[Weighed], rows: &RowSums, shards: usize) -> f64 {
    let heaviest = units.iter().map(|unit| Group::NONE.with(unit).cost(rows)).fold(0.0, f64::max);
    let high = units.iter().fold(Group::NONE, Group::with).cost(rows);
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let (mut low, mut high) = (heaviest.max(high / shards as f64), high.max(heaviest));
    while high - low > low / 100.0 {
        let middle = f64::midpoint(low, high);
        if parts(units, rows, middle).len() <= shards { high = middle } else { low = middle }
    }
    high
}
