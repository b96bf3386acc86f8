//! Refuses a run that would lose more rows of a layer than `max_shrink` allows. The tiles of an emptied layer may all
//! be there still, because another layer or a few rows fill them, so the manifest holds how many rows each layer has,
//! and what it had within the last day.

use std::fmt;
use std::sync::Arc;

use super::{CommandError, Target};
use crate::clock::seconds_now;
use crate::manifest::{LayerRows, RowCounts, RowsThen};
use crate::postgis::Layer;
use crate::report::grouped;
use crate::target::MaxShrink;
use crate::tile::ZoomList;

/// How long a higher number of rows is remembered, in seconds: losses of one day add up.
const DAY: u64 = 24 * 3_600;

/// Of the counts within an hour only the highest is kept, in seconds.
const HOUR: u64 = 3_600;

/// A layer that would lose too many rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRows {
    pub layer: String,
    /// The most rows that it had within the last day.
    pub before: u64,
    pub now: u64,
}

impl fmt::Display for LostRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LostRows { layer, before, now } = self;
        let share = u128::from(before.saturating_sub(*now)) * 100 / u128::from((*before).max(1));
        write!(
            f,
            "layer \"{layer}\" had {} rows in the last day and has {} now, {share} % fewer",
            grouped(*before),
            grouped(*now)
        )
    }
}

/// What a run knows of a layer's rows without counting them now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KnownRows {
    Counted(u64),
    /// At most this many have come or gone since the manifest's count.
    Touched(u64),
    /// Any number may have come or gone since the manifest's count.
    Unknown,
    /// They have to be counted in any case.
    Outdated,
    /// The layer has no rows that can be counted, or none in the run's zooms.
    Uncounted,
}

impl KnownRows {
    pub(crate) fn of_survey(rows: Option<u64>) -> KnownRows {
        rows.map_or(KnownRows::Uncounted, KnownRows::Counted)
    }
}

/// The layers of a run, whose rows are judged.
pub(crate) struct RowsJudge<'a> {
    pub(crate) target: &'a Target,
    pub(crate) max: MaxShrink,
    pub(crate) layers: &'a [Arc<Layer>],
    pub(crate) zooms: &'a ZoomList,
    /// The boxes, as in a manifest.
    pub(crate) bbox: Vec<String>,
    /// The counts in the target's manifest.
    pub(crate) before: Option<&'a RowCounts>,
}

impl RowsJudge<'_> {
    /// The counts for the new manifest. `known` is what is known of each layer; `count` counts the rows of a layer, by
    /// its index, where that does not suffice.
    pub(crate) async fn judge(
        &self,
        known: &[KnownRows],
        mut count: impl AsyncFnMut(usize) -> Result<Option<u64>, CommandError>,
    ) -> Result<RowCounts, CommandError> {
        let now = seconds_now();
        // Rows of other boxes cannot be compared.
        let comparable = self.before.filter(|before| before.bbox == self.bbox);
        let (mut layers, mut lost, mut names): (Vec<LayerRows>, Vec<LostRows>, Vec<(&str, String)>) =
            Default::default();
        for (index, (layer, known)) in self.layers.iter().zip(known).enumerate() {
            let Some(zooms) = layer.zooms_of_count(self.zooms).map(|zooms| zooms.to_string()) else { continue };
            if *known == KnownRows::Uncounted {
                continue;
            }
            let name = layer.name();
            let is_own = |rows: &&LayerRows| rows.layer == name && rows.zooms == zooms;
            let before = comparable.and_then(|before| before.layers.iter().find(is_own));
            names.push((name, zooms.clone()));
            let new =
                |rows| LayerRows { layer: name.to_owned(), zooms: zooms.clone(), rows, changed: 0, before: Vec::new() };
            let rows = match self.settled(*known, before, now) {
                Settled::Rows(rows) => rows,
                Settled::Stays { changed } => {
                    layers.extend(before.map(|before| LayerRows { changed, ..before.clone() }));
                    continue;
                }
                Settled::Forgotten => continue,
                Settled::Open => match count(index).await? {
                    Some(rows) => rows,
                    None => continue,
                },
            };
            match before {
                Some(before) if self.max != MaxShrink::ALL => {
                    let most = most(before, now);
                    if !self.max.allows_rows(most, rows) {
                        lost.push(LostRows { layer: name.to_owned(), before: most, now: rows });
                    }
                    layers.push(counted(before, rows, now));
                }
                // A loss that was allowed is no loss for the next run.
                _ => layers.push(new(rows)),
            }
        }
        if !lost.is_empty() {
            let (target, max) = (self.target.to_string(), self.max);
            lost.dedup();
            return Err(CommandError::LosesRows { target, lost, max });
        }
        // A run of other zooms leaves what was counted for those that it does not draw.
        let has_layer = |rows: &&LayerRows| self.layers.iter().any(|layer| layer.name() == rows.layer);
        let is_other =
            |rows: &&LayerRows| !names.iter().any(|(name, zooms)| rows.layer == *name && rows.zooms == *zooms);
        layers.extend(
            comparable.iter().flat_map(|before| before.layers.iter().filter(has_layer).filter(is_other).cloned()),
        );
        Ok(RowCounts { bbox: self.bbox.clone(), layers })
    }

    /// What is known of a layer suffices, or its rows have to be counted.
    fn settled(&self, known: KnownRows, before: Option<&LayerRows>, now: u64) -> Settled {
        let is_certain = |rows: u64, changed: u64| {
            before.is_none_or(|before| self.max.allows_rows(most(before, now), rows.saturating_sub(changed)))
        };
        match (known, before) {
            (KnownRows::Counted(rows), _) => Settled::Rows(rows),
            (KnownRows::Outdated, _) => Settled::Open,
            (KnownRows::Touched(0), Some(before)) => Settled::Stays { changed: before.changed },
            // Nobody asks how many rows there are. The next run that does counts them.
            (_, _) if self.max == MaxShrink::ALL => Settled::Forgotten,
            (KnownRows::Touched(touched), Some(before)) => {
                let changed = before.changed.saturating_add(touched);
                if is_certain(before.rows, changed) { Settled::Stays { changed } } else { Settled::Open }
            }
            _ => Settled::Open,
        }
    }
}

/// What [`RowsJudge::settled`] decides.
enum Settled {
    Rows(u64),
    /// The manifest's count stays: so few rows have changed since that no loss could be refused.
    Stays {
        changed: u64,
    },
    /// There is no count.
    Forgotten,
    /// The rows have to be counted.
    Open,
}

/// The most rows that a layer had within the last day.
fn most(rows: &LayerRows, now: u64) -> u64 {
    let recent = rows.before.iter().filter(|then| then.until.saturating_add(DAY) >= now);
    recent.map(|then| then.rows).max().unwrap_or_default().max(rows.rows)
}

/// The count of a layer after it was counted anew.
fn counted(before: &LayerRows, rows: u64, now: u64) -> LayerRows {
    let last = RowsThen { rows: before.rows, until: now };
    let recent = before.before.iter().filter(|then| then.until.saturating_add(DAY) >= now);
    let mut kept: Vec<RowsThen> = Vec::new();
    for then in recent.chain([&last]).filter(|then| then.rows > rows) {
        kept.retain(|older| older.rows > then.rows);
        match kept.last_mut() {
            Some(older) if older.until / HOUR == then.until / HOUR => older.until = then.until,
            _ => kept.push(then.clone()),
        }
    }
    LayerRows { rows, changed: 0, before: kept, ..before.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: u64) -> LayerRows {
        LayerRows { layer: "a".to_owned(), zooms: "0-3".to_owned(), rows, changed: 0, before: Vec::new() }
    }

    #[test]
    fn losses_of_a_day_add_up_and_older_ones_are_forgotten() {
        let start = 1_800_000_000 / DAY * DAY;
        let mut layer = rows(1_000);
        for slice in 1..=10_u64 {
            layer = counted(&layer, 1_000 - slice * 60, start + slice * HOUR);
        }
        assert_eq!((layer.rows, most(&layer, start + 10 * HOUR)), (400, 1_000));
        // The first count was good until the second, an hour after the start.
        assert_eq!(most(&layer, start + HOUR + DAY), 1_000);
        assert_eq!(most(&layer, start + HOUR + DAY + 1), 940);
        assert_eq!(most(&layer, start + 9 * HOUR + DAY), 520);
        assert_eq!(most(&layer, start + 11 * HOUR + DAY), 400);
        // What was never counted again holds until now.
        assert_eq!(most(&rows(1_000), start + 100 * DAY), 1_000);
        assert_eq!(most(&counted(&rows(1_000), 10, start + 100 * DAY), start + 101 * DAY), 1_000);
        // Growth leaves nothing to remember.
        assert_eq!(counted(&layer, 1_000, start + 11 * HOUR).before, []);
    }

    #[test]
    fn a_layer_that_is_counted_every_second_keeps_a_count_for_each_hour() {
        let start = 1_800_000_000 / DAY * DAY;
        let mut layer = rows(1_000_000);
        for second in (0..2 * DAY).step_by(60) {
            layer = counted(&layer, 900_000 - second, start + second);
            assert!(layer.before.len() <= 26, "{}", layer.before.len());
        }
        let now = start + 2 * DAY;
        let a_day_before = 900_000 - DAY;
        assert!((a_day_before..=a_day_before + HOUR + 60).contains(&most(&layer, now)), "{}", most(&layer, now));
    }
}
