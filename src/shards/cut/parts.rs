//! A list of columns, cut into contiguous parts of about equal weight.

use super::weights::{RowCost, RowSums};
use crate::tile::Zoom;

/// A part of the tiles that is not cut further: a column of a shallow zoom, or a column of the deepest zoom with all columns above deeper zooms
/// that begin there.
#[derive(Debug, Clone, Copy)]
pub(super) enum CutUnit {
    Column(Zoom, u32),
    Strip(u32),
}

/// A unit with what it costs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weighed {
    pub(super) unit: CutUnit,
    /// What drawing its tiles costs.
    pub(super) tiles: f64,
    /// The columns of the deepest zoom that its tiles lie above.
    pub(super) from: u64,
    pub(super) end: u64,
}

/// Units one after the other, as one shard.
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

    /// The rows between its westernmost and easternmost tiles are read, each once.
    pub(super) fn rows(self, rows: &RowSums) -> RowCost {
        if self.from < self.end { rows.between(self.from, self.end) } else { RowCost::default() }
    }

    pub(super) fn cost(self, rows: &RowSums) -> f64 {
        self.tiles + self.rows(rows).cost
    }
}

/// Where each of `shards` contiguous parts of a list ends, so that the heaviest part is as light as can be. Behind a unit that alone is as heavy
/// as that, the rest is cut into lighter parts.
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

/// Contiguous parts of a list, each with as many units as cost `most`, or one that costs more: where each ends.
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

/// What the heaviest of some contiguous parts of a list costs at least, to within a hundredth.
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
