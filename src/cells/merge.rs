//! Merging cells into clusters around the cells with the most members ([`CellGrid::merges`](super::CellGrid::merges)).

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::code_hasher::CodeHasher;
use super::{CellShape, code_step};

/// The number of members of each cell, by its code.
pub(super) type MembersByCode = HashMap<i64, u64, BuildHasherDefault<CodeHasher>>;

/// The code of the peak next to each cell; without cells that are peaks themselves, and cells without a peak next to them.
pub(super) fn peaks(members: &MembersByCode, shape: CellShape) -> HashMap<i64, i64, BuildHasherDefault<CodeHasher>> {
    let near = |code: i64| {
        let codes = shape.steps().iter().map(move |step| code + code_step(*step));
        codes.filter_map(|code| Some((code, *members.get(&code)?)))
    };
    // More members first, then the smaller code.
    let is_before =
        |(code, count): (i64, u64), (other, others): (i64, u64)| count > others || count == others && code < other;
    let is_peak = |code: i64, count: u64| near(code).all(|other| !is_before(other, (code, count)));
    let peak_beside = |code: i64| {
        let peaks = near(code).filter(|(other, count)| is_peak(*other, *count));
        peaks.reduce(|best, other| if is_before(other, best) { other } else { best })
    };
    let cells = members.iter().filter(|(code, count)| !is_peak(**code, **count));
    cells.filter_map(|(code, _)| Some((*code, peak_beside(*code)?.0))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Cell;

    #[test]
    fn cells_belong_to_the_largest_peak_beside_them() {
        let code = |a, b| Cell { a, b }.code();
        // A row of squares: 5 and 9 are peaks, and 3 between them belongs to 9. 2 and 1 belong to the peaks next to them.
        let members: MembersByCode =
            [5, 3, 9, 2, 1, 4, 4].into_iter().zip(0..).map(|(count, a)| (code(a, 0), count)).collect();
        let mut found: Vec<_> = peaks(&members, CellShape::Square).into_iter().collect();
        found.sort_unstable();
        // Of the two equal cells, the first is the peak.
        assert_eq!(
            found,
            [(code(1, 0), code(2, 0)), (code(3, 0), code(2, 0)), (code(4, 0), code(5, 0)), (code(6, 0), code(5, 0))]
        );
        let hexagons: MembersByCode =
            [(code(0, 0), 2), (code(2, 0), 3), (code(1, 1), 1), (code(4, 2), 1)].into_iter().collect();
        let mut found: Vec<_> = peaks(&hexagons, CellShape::Hexagon).into_iter().collect();
        found.sort_unstable();
        assert_eq!(found, [(code(0, 0), code(2, 0)), (code(1, 1), code(2, 0))]);
    }

    #[test]
    fn a_change_alters_clusters_up_to_three_steps_away() {
        // The distance in steps: the number of steps of the shortest walk from the middle.
        let far = |shape: CellShape, code: i64| {
            let Cell { a, b } = Cell::of(code);
            match shape {
                CellShape::Square => a.abs().max(b.abs()),
                CellShape::Hexagon => b.abs() + (a.abs() - b.abs()).max(0) / 2,
            }
        };
        let mut random = 7_u64;
        let mut below = |most: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % most
        };
        for shape in [CellShape::Square, CellShape::Hexagon] {
            let mut farthest = 0;
            for _ in 0..2_000 {
                let around = (-6..=6).flat_map(|a| (-6..=6).map(move |b| Cell { a, b }));
                let cells = around.filter(|cell| shape == CellShape::Square || (cell.a ^ cell.b) & 1 == 0);
                let before: MembersByCode =
                    cells.map(|cell| (cell.code(), below(4))).filter(|(_, count)| *count > 0).collect();
                let middle = Cell { a: 0, b: 0 }.code();
                let mut after = before.clone();
                *after.entry(middle).or_default() += 1;
                let of = |members: &MembersByCode| {
                    let peaks = peaks(members, shape);
                    let cluster = |code: i64| peaks.get(&code).copied().unwrap_or(code);
                    let mut clusters: std::collections::BTreeMap<i64, std::collections::BTreeMap<i64, u64>> =
                        std::collections::BTreeMap::new();
                    for (code, count) in members {
                        clusters.entry(cluster(*code)).or_default().insert(*code, *count);
                    }
                    clusters
                };
                let (before, after) = (of(&before), of(&after));
                let differ = |code: &&i64| before.get(*code) != after.get(*code);
                let altered = before.keys().chain(after.keys()).filter(differ);
                farthest = altered.map(|code| far(shape, *code)).fold(farthest, i64::max);
            }
            // A cluster is drawn up to one step from its peak (`CHANGE_STEPS`).
            assert_eq!(farthest, 3, "{shape:?}");
        }
    }
}
