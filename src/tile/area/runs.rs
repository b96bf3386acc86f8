//! Rows of tiles: runs of columns, and rectangles made of them.

use std::collections::{BTreeMap, HashSet};

use crate::tile::{TileRect, Zoom};

/// Columns of tiles in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TileRun {
    pub(super) first: u32,
    pub(super) last: u32,
}

/// Columns of tiles. The numbers continue beyond the antimeridian.
#[derive(Debug, Clone, Copy)]
pub(super) struct CrossedColumns {
    pub(super) first: i64,
    pub(super) last: i64,
}

/// Runs without overlaps, in order, in the world's own columns.
pub(super) fn merged(columns: Vec<CrossedColumns>, side: i64) -> Vec<TileRun> {
    let mut within: Vec<TileRun> = Vec::new();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "columns of a zoom are 0..2^22")]
    let run = |first: i64, last: i64| TileRun { first: first as u32, last: last as u32 };
    for CrossedColumns { first, last } in columns {
        if last - first + 1 >= side {
            return vec![run(0, side - 1)];
        }
        let (from, to) = (first.rem_euclid(side), last.rem_euclid(side));
        if from <= to {
            within.push(run(from, to));
        } else {
            within.extend([run(from, side - 1), run(0, to)]);
        }
    }
    joined(within)
}

/// The union of runs of a row, in order.
pub(super) fn joined(mut runs: Vec<TileRun>) -> Vec<TileRun> {
    runs.sort_unstable();
    let mut joined: Vec<TileRun> = Vec::new();
    for run in runs {
        match joined.last_mut().filter(|last| run.first <= last.last + 1) {
            Some(last) => last.last = last.last.max(run.last),
            None => joined.push(run),
        }
    }
    joined
}

/// The tiles of some rows as rectangles that share no tile: equal runs of consecutive rows become one rectangle.
pub(super) fn rects_of(rows: &BTreeMap<u32, Vec<TileRun>>, zoom: Zoom) -> Vec<TileRect> {
    let mut open: Vec<(TileRun, u32)> = Vec::new();
    let (mut rects, mut before) = (Vec::new(), None);
    let mut close = |run: TileRun, y0: u32, y1: u32| rects.push(TileRect { zoom, x0: run.first, y0, x1: run.last, y1 });
    for (row, runs) in rows {
        let goes_on = before.is_some_and(|before| before + 1 == *row);
        // The runs of a row are in order, and no two of them are equal.
        let goes_on = |run: &TileRun| goes_on && runs.binary_search(run).is_ok();
        let (kept, ended): (Vec<_>, Vec<_>) = open.into_iter().partition(|(run, _)| goes_on(run));
        for (run, from) in ended {
            close(run, from, before.unwrap_or(*row));
        }
        let known: HashSet<TileRun> = kept.iter().map(|(run, _)| *run).collect();
        let fresh = runs.iter().filter(|run| !known.contains(run)).map(|run| (*run, *row));
        let fresh: Vec<_> = fresh.collect();
        open = kept.into_iter().chain(fresh).collect();
        before = Some(*row);
    }
    for (run, from) in open {
        close(run, from, before.unwrap_or(from));
    }
    rects
}
