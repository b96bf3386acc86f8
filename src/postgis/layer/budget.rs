//! How much of a layer a tile may hold, and what happens to tiles that hold more or cannot be rendered.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::tile::{Zoom, ZoomLimits};

/// What happens when a tile holds more of a layer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLargeTile {
    /// The tile is named, the run goes on.
    Warn,
    /// The run ends: for features before it renders, for bytes at that tile.
    Fail,
    /// The least features are left out.
    Thin,
}

/// What happens when a layer cannot be rendered in one tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTileError {
    /// The run ends.
    Fail,
    /// The layer is left out of the tile, or the target's old tile stays; the run goes on, and says so at its end.
    Skip,
}

/// How much of a layer a tile may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// The most features.
    pub features: ZoomLimits,
    /// The most bytes of the layer's part of a tile, packed by itself.
    pub bytes: ZoomLimits,
    /// What happens to tiles with more.
    pub on_large_tile: OnLargeTile,
    /// An SQL expression over a row: where features are left out, those with the greatest values stay.
    pub rank: Option<String>,
}

impl Budget {
    /// Whether features are left out to keep to it.
    #[must_use]
    pub fn thins(&self) -> bool {
        self.on_large_tile == OnLargeTile::Thin
    }

    /// What decides bytes in tiles, at some zooms: nothing unless features are left out.
    pub(in crate::postgis) fn definition(&self, zooms: impl Iterator<Item = Zoom>) -> String {
        if !self.thins() {
            return String::new();
        }
        let limits: Vec<_> = zooms.map(|zoom| (self.features.at(zoom), self.bytes.at(zoom))).collect();
        format!("thinned to {limits:?} by {:?}", self.rank)
    }

    /// The most features of each zoom, as an array parameter: zoom 0 first, NULL where a zoom has no limit.
    pub(in crate::postgis) fn most_features(&self) -> Vec<Option<i64>> {
        let limit = |zoom: Zoom| self.features.at(zoom).and_then(|limit| i64::try_from(limit.get()).ok());
        (0..=Zoom::MAX.get()).filter_map(Zoom::new).map(limit).collect()
    }
}

/// The same number of features at most at every zoom, as a statement's array.
pub(in crate::postgis) fn so_many(features: NonZeroU64) -> Vec<Option<i64>> {
    vec![i64::try_from(features.get()).ok(); usize::from(Zoom::MAX.get()) + 1]
}

/// A rank ready for a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rank {
    /// The expression over a row.
    pub sql: String,
    /// Its type has a collation; ordering by it is made the same everywhere by `COLLATE "C"`.
    pub collated: bool,
}
