//! Merging cells into clusters around those with the most members ([`CellGrid::merges`](super::CellGrid::merges)).

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::code_hasher::CodeHasher;
use super::{CellShape, code_step};

/// The number of members of each cell, by its code.
pub(super) type MembersByCode = HashMap<i64, u64, BuildHasherDefault<CodeHasher>>;

/// The code of the peak of each cell that is none itself and has one beside it.
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
        // A row of squares: 5 is a peak, 3 lies between the peaks 5 and 9, 2 and 1 climb to nothing that is no peak.
        let members: MembersByCode =
            [5, 3, 9, 2, 1, 4, 4].into_iter().zip(0..).map(|(count, a)| (code(a, 0), count)).collect();
        let mut found: Vec<_> = peaks(&members, CellShape::Square).into_iter().collect();
        found.sort_unstable();
        // Of the two equal ones the first is the peak.
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
}
