//! Tests of gathering.

use super::*;
use crate::cells::CellShape;

#[test]
fn members_of_a_cell_are_shown_once() {
    let zooms: Vec<Zoom> = [0, 1, 9].map(|level| Zoom::new(level).unwrap()).into();
    let at = vec![[10.0, 10.5], [30.9, 20.0], [4_000_000_000.0, 7.0]];
    let members = Members { at, ..Members::default() };
    let grid = |geometry| CellGrid { shape: CellShape::Square, size: 0.5, geometry, merges: false };
    let gathered = |members: &Members, geometry| {
        let mut gathering = Gathering::new(grid(geometry), &zooms, None);
        // One by one, the last one first: the order does not matter.
        for number in [2, 0, 1] {
            let source = members.source.get(number).copied().into_iter().collect();
            gathering.add(Members { at: vec![members.at[number]], source, ..Members::default() });
        }
        assert_eq!(gathering.count(), 3);
        gathering.finish()
    };
    let (places, counts) = gathered(&members, CellGeometry::Centroid);
    let whole = TileRect { zoom: zooms[0], x0: 0, y0: 0, x1: 0, y1: 0 };
    let near: Vec<u64> =
        counts.near(&grid(CellGeometry::Centroid), &whole, 0, 0).map(|(cell, _)| cell.members).collect();
    assert_eq!(near, [2, 1]);
    let counts: Vec<usize> = zooms.iter().map(|zoom| places.at(*zoom).len()).collect();
    assert_eq!((counts, places.at(Zoom::MAX).len()), (vec![2, 2, 2], 0));
    assert_eq!(places.at(zooms[0]).world(0), WorldBox::of_unit(20, 15));
    let (places, _) = gathered(&members, CellGeometry::Center);
    assert_eq!(places.at(zooms[0]).world(0), WorldBox::of_unit(1 << 30, 1 << 30));
    let (places, _) = gathered(&members, CellGeometry::Polygon);
    assert_eq!(places.at(zooms[0]).world(1), WorldBox::new(1 << 31, 0, u32::MAX, 1 << 31));
    let at = SourceBox::<f32>::of_position;
    let members = Members { source: vec![at(1.0, 1.0), at(2.0, 3.0), at(9.0, 9.0)], ..members };
    let (places, _) = gathered(&members, CellGeometry::Center);
    assert_eq!(places.at(zooms[2]).sources(0, true).collect::<Vec<_>>(), [at(1.0, 1.0), at(2.0, 3.0)]);
}

#[test]
fn values_are_folded_where_cells_and_lone_members_are_few() {
    let zooms: Vec<Zoom> = [0, 2, 12].map(|level| Zoom::new(level).unwrap()).into();
    let grid = CellGrid { shape: CellShape::Square, size: 0.5, geometry: CellGeometry::Center, merges: false };
    // Some members in the middle of the first tile of zoom 2, and one in its corner.
    let gathered = |middle: usize, values: usize, few_lone: bool| {
        let mut at = vec![[8e8, 8e8]; middle];
        at.push([1.0, 1.0]);
        let wanted = WantedFolds { folds: vec![Fold::Values, Fold::Greatest], few_lone };
        let mut gathering = Gathering::new(grid, &zooms, Some(wanted));
        let values = (1..).flat_map(|value| [(value > 2).then_some(1), Some(value)]).take(values).collect();
        gathering.add(Members { at, values, ..Members::default() });
        gathering.finish().1
    };
    let folded = |counts: &CellCounts, level| -> Vec<Vec<Folded>> {
        let rect = TileRect { zoom: Zoom::new(level).unwrap(), x0: 0, y0: 0, x1: 0, y1: 0 };
        counts.near(&grid, &rect, 0, 0).map(|(_, folded)| folded.to_vec()).collect()
    };
    let known = |counts: &CellCounts| zooms.iter().map(|zoom| counts.has(*zoom)).collect::<Vec<_>>();
    let counts = gathered(10, 22, false);
    assert_eq!(known(&counts), [true, true, true]);
    assert_eq!(folded(&counts, 12), [[Some(1), Some(11)]], "the others are far away");
    assert_eq!(folded(&counts, 0), [[Some(9), Some(11)]]);
    assert_eq!(folded(&counts, 2), [[Some(1), Some(11)], [Some(8), Some(10)]]);
    assert_eq!(known(&gathered(10, 22, true)), [true, true, true], "one of eleven is alone");
    assert_eq!(known(&gathered(5, 12, true)), [true, false, false], "one of six is too many");
    assert_eq!(known(&gathered(10, 20, false)), [false, false, false], "a member came without values");
}

#[test]
fn the_cells_of_a_deep_zoom_are_kept_if_they_are_few() {
    let zooms: Vec<Zoom> = [0, 14].map(|level| Zoom::new(level).unwrap()).into();
    let grid = CellGrid { shape: CellShape::Square, size: 0.5, geometry: CellGeometry::Center, merges: false };
    let known = |cells: u32, folds: &[Fold]| {
        let wanted = WantedFolds { folds: folds.to_vec(), few_lone: false };
        let mut gathering = Gathering::new(grid, &zooms, Some(wanted));
        let mut all = 0..cells;
        while !all.is_empty() {
            let part: Vec<u32> = all.by_ref().take(10_000).collect();
            let at: Vec<[f64; 2]> = part.iter().map(|cell| [f64::from(*cell) * 131_072.0, 0.0]).collect();
            let values = vec![Some(1); part.len() * folds.len()];
            gathering.add(Members { at, values, ..Members::default() });
        }
        let counts = gathering.finish().1;
        zooms.iter().map(|zoom| counts.has(*zoom)).collect::<Vec<_>>()
    };
    assert_eq!(known(32_768, &[]), [true, true]);
    assert_eq!(known(32_768, &[Fold::Sum; 15]), [true, true]);
    assert_eq!(known(32_768, &[Fold::Sum; 16]), [true, false], "their values are too many");
}
