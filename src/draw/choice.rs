//! Which source draws what. The functions here choose what a run prepares for a layer; the last column of the table
//! says where the choice is made for each tile or area: `patch` decides for a patch, `draw` for the others.
//!
//! | source | draws | prepared | at the first of these that holds |
//! |---|---|---|---|
//! | patch | tiles of points that the target holds, where little changed | by the reseed, from the changed positions | the layer is patchable, the tile is stored with it, and few enough of its features changed |
//! | cached rows | points that differ from tile to tile only by their places and the tile's address | [`Preparation::CacheRows`] in a seed, [`Preparation::CacheNeighbourhood`] in a reseed | the rows are cached, and none of the tile's points is left out by a rank that cannot be compared here; the database is asked where ambiguous ones are drawn |
//! | cached rows | lines and polygons that are drawn as they are stored | [`Preparation::CacheRows`] in a seed of many, and in a reseed whose dirty tiles show as many features as there are rows | the rows are cached, and none in the tile has very many vertices |
//! | counted cells | cells and clusters | by the survey, which counts and folds while it reads | the survey counted all cells of the zoom |
//! | database | every layer | nothing | always |
//!
//! All give the same bytes, so these are decisions about time alone.

use crate::postgis::LayerTraits;

/// What a run is about to do with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerWork {
    /// To draw all of its tiles.
    Seed(CacheCost),
    /// To draw its dirty tiles.
    Reseed {
        /// True if the positions of all changes are known.
        knows_positions: bool,
        /// The memory that cached rows may take, in bytes.
        memory: usize,
    },
    /// To draw dirty tiles that cannot be patched.
    DirtyTiles(CacheCost),
}

/// What is prepared before a layer is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preparation {
    CacheRows,
    /// The rows near changed positions are cached.
    CacheNeighbourhood,
    /// Nothing: the database draws what no other source has.
    None,
}

/// Decides what is prepared for a layer.
pub(crate) fn preparation(layer: LayerTraits, work: &LayerWork) -> Preparation {
    match work {
        LayerWork::Seed(cost) if layer.has_cacheable_rows && should_cache_rows(cost) => Preparation::CacheRows,
        LayerWork::Seed(cost)
            if layer.has_cacheable_shapes && cost.rows >= MIN_CACHED_SHAPES && should_cache_rows(cost) =>
        {
            Preparation::CacheRows
        }
        LayerWork::Reseed { knows_positions: true, memory: 1.. } if layer.is_patchable => {
            Preparation::CacheNeighbourhood
        }
        LayerWork::DirtyTiles(cost)
            if layer.has_cacheable_shapes
                && cost.memory > 0
                && cost.rows >= MIN_CACHED_SHAPES
                && cost.features >= cost.rows =>
        {
            Preparation::CacheRows
        }
        LayerWork::Seed(_) | LayerWork::Reseed { .. } | LayerWork::DirtyTiles(_) => Preparation::None,
    }
}

/// The cost of caching all rows of a layer, and of not caching them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheCost {
    /// The number of the layer's rows; 0 if they differ from zoom to zoom.
    pub rows: u64,
    /// The number of features that the run draws from them, counted in each tile.
    pub features: u64,
    /// The memory that cached rows may take, in bytes. Rows that take more are kept in a scratch file.
    pub memory: usize,
}

/// Caching reads each row once more than the survey does. That pays if a row is drawn in at least this many tiles.
const MIN_TILES_PER_ROW: u64 = 3;

/// The fewest lines and polygons that are cached. Fewer are mostly large ones, such as countries, and the database
/// draws few in no time.
const MIN_CACHED_SHAPES: u64 = 1_000;

/// True if reading all rows once is cheaper than one query per zoom: each row is drawn in at least three tiles.
///
/// The number of workers does not count. They query the rows side by side, but the server works as much for each of
/// them: with 16 workers on two cores a million points (zooms 6-14) took 35 s from the database and 21 s from cached
/// rows.
pub(crate) fn should_cache_rows(cost: &CacheCost) -> bool {
    cost.memory > 0 && cost.rows > 0 && cost.features / cost.rows >= MIN_TILES_PER_ROW
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cached_if_they_are_drawn_often_enough() {
        let cost = CacheCost { rows: 1_000, features: 3_000, memory: 1 };
        for (cost, expected) in [
            (cost, true),
            (CacheCost { features: 2_999, ..cost }, false),
            (CacheCost { memory: 0, ..cost }, false),
            (CacheCost { rows: 0, ..cost }, false),
        ] {
            assert_eq!(should_cache_rows(&cost), expected, "{cost:?}");
        }
    }

    #[test]
    fn what_is_prepared_follows_from_the_layer_and_the_work() {
        let points = LayerTraits {
            has_cacheable_rows: true,
            has_cacheable_shapes: false,
            is_thinned: false,
            is_patchable: true,
        };
        let shapes =
            LayerTraits { has_cacheable_rows: false, has_cacheable_shapes: true, is_patchable: false, ..points };
        let many = CacheCost { rows: 1_000, features: 3_000, memory: 100 };
        let numbered = LayerTraits { is_patchable: false, ..points };
        let drawn = LayerTraits { has_cacheable_rows: false, ..numbered };
        let cost = CacheCost { rows: 1, features: 9, memory: 100 };
        let reseed = LayerWork::Reseed { knows_positions: true, memory: 1 };
        for (layer, work, expected) in [
            (points, LayerWork::Seed(cost), Preparation::CacheRows),
            (LayerTraits { is_thinned: true, ..points }, LayerWork::Seed(cost), Preparation::CacheRows),
            (numbered, LayerWork::Seed(cost), Preparation::CacheRows),
            (numbered, reseed, Preparation::None),
            (drawn, LayerWork::Seed(cost), Preparation::None),
            (points, LayerWork::Seed(CacheCost { rows: 0, ..cost }), Preparation::None),
            (shapes, LayerWork::Seed(cost), Preparation::None),
            (shapes, LayerWork::Seed(many), Preparation::CacheRows),
            (shapes, LayerWork::Seed(CacheCost { features: 2_999, ..many }), Preparation::None),
            (shapes, reseed, Preparation::None),
            (shapes, LayerWork::DirtyTiles(CacheCost { features: 1_000, ..many }), Preparation::CacheRows),
            (shapes, LayerWork::DirtyTiles(CacheCost { features: 999, ..many }), Preparation::None),
            (points, LayerWork::DirtyTiles(many), Preparation::None),
            (points, reseed, Preparation::CacheNeighbourhood),
            (points, LayerWork::Reseed { knows_positions: false, memory: 1 }, Preparation::None),
            (points, LayerWork::Reseed { knows_positions: true, memory: 0 }, Preparation::None),
        ] {
            assert_eq!(preparation(layer, &work), expected, "{layer:?} {work:?}");
        }
    }
}
