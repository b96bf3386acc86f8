//! Which features stay in a tile with more than its layer may have there: those with the greatest rank, and of equal
//! ones those whose keys come first.

use std::cmp::Reverse;

use crate::mvt::Features;
use crate::postgis::layer::Layer;
use crate::tile::Zoom;

/// The most features of a tile, by zoom; the features beyond are left out.
#[derive(Debug, Clone, Default)]
pub(crate) struct MostFeatures(Vec<Option<i64>>);

impl MostFeatures {
    /// The limits of a layer that is thinned to `limits` (zoom 0 first); no limits if the layer is not thinned.
    pub(crate) fn of(layer: &Layer, limits: &[Option<i64>]) -> MostFeatures {
        if layer.budget.thins() { MostFeatures(limits.to_vec()) } else { MostFeatures::default() }
    }

    /// The same limit at all zooms.
    #[cfg(test)]
    pub(crate) fn same(most: i64) -> MostFeatures {
        MostFeatures(vec![Some(most); 32])
    }

    /// The most features of a tile at `zoom`; `None` if there is no limit.
    pub(crate) fn at(&self, zoom: Zoom) -> Option<usize> {
        let most = self.0.get(usize::from(zoom.get())).copied().flatten()?;
        usize::try_from(most).ok()
    }
}

/// Features, and behind their numbers those of rows that came: the ranks of all.
#[derive(Clone, Copy)]
pub(crate) struct Ranks<'f> {
    pub(crate) features: &'f Features,
    pub(crate) added: Option<&'f Features>,
}

impl Ranks<'_> {
    /// Leaves features out of a tile that has more than `most`. `drawn` has the number and the position of each row, in
    /// the order of their keys, and so has what stays. `number` returns the number of a row's feature. False if only
    /// the database knows which stay.
    pub(crate) fn thin(
        self,
        layer: &Layer,
        most: Option<usize>,
        drawn: &mut Vec<(u32, [i32; 2])>,
        number: impl Fn(u32) -> u32,
    ) -> bool {
        let Some(most) = most.filter(|most| drawn.len() > *most) else { return true };
        if layer.rank.is_some() {
            if !self.features.are_ranked() {
                return false;
            }
            keep_best(drawn, most, |(row, _)| self.of(number(*row)));
        } else if layer.cells().is_some() {
            // Those with the most rows stay, and their features need not say how many these are.
            return false;
        } else {
            drawn.truncate(most);
        }
        true
    }

    /// The rank of a feature, by its number; the numbers of those that came follow those as read. `None`, which is less
    /// than any other, if it is NULL.
    fn of(&self, number: u32) -> Option<&[u8]> {
        match (usize::try_from(number).ok()?.checked_sub(self.features.len()), self.added) {
            (None, _) => self.features.rank(number),
            (Some(came), Some(added)) => added.rank(u32::try_from(came).ok()?),
            (Some(_), None) => None,
        }
    }
}

/// Keeps the `most` features with the greatest ranks, in their order; of equal ones the first.
fn keep_best<T: Copy, R: Ord>(features: &mut Vec<T>, most: usize, rank: impl Fn(&T) -> R) {
    let mut order: Vec<(Reverse<R>, usize)> = features.iter().map(|one| Reverse(rank(one))).zip(0..).collect();
    if most < order.len() {
        order.select_nth_unstable(most);
        order.truncate(most);
    }
    let mut kept: Vec<usize> = order.into_iter().map(|(_, place)| place).collect();
    kept.sort_unstable();
    *features = kept.into_iter().map(|place| features[place]).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_features_of_the_greatest_rank_stay_in_their_order() {
        let ranks: [Option<&[u8]>; 8] =
            [None, Some(b"b"), Some(b""), Some(b"b"), Some(b"ba"), None, Some(b"a"), Some(b"b")];
        for (most, expected) in [
            (0, &[][..]),
            (1, &[4]),
            (2, &[1, 4]),
            (3, &[1, 3, 4]),
            (4, &[1, 3, 4, 7]),
            (5, &[1, 3, 4, 6, 7]),
            (6, &[1, 2, 3, 4, 6, 7]),
            (7, &[0, 1, 2, 3, 4, 6, 7]),
            (8, &[0, 1, 2, 3, 4, 5, 6, 7]),
            (9, &[0, 1, 2, 3, 4, 5, 6, 7]),
        ] {
            let mut features: Vec<usize> = (0..8).collect();
            keep_best(&mut features, most, |number| ranks[*number]);
            assert_eq!(features, expected, "{most}");
        }
    }
}
