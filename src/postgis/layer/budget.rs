//! How much of a layer a tile may hold, and what happens to tiles that hold more or cannot be rendered.

use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tile::{Zoom, ZoomLimits};

/// What happens when a tile holds more of a layer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLargeTile {
    /// The run names the tile and goes on.
    Warn,
    /// The run ends: before it renders if a tile has too many features, at the tile if it has too many bytes.
    Fail,
    /// Features of the lowest rank are left out.
    Thin,
}

/// What happens when a layer cannot be rendered in one tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTileError {
    /// The run ends.
    Fail,
    /// The layer is left out of the tile, or the target's old tile stays. The run goes on and reports the tile at its end.
    Skip,
}

/// Limits of a layer's part of a tile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// The most features.
    pub features: ZoomLimits,
    /// The most bytes of the layer's part of a tile, compressed separately.
    pub bytes: ZoomLimits,
    /// What happens to tiles that hold more.
    pub on_large_tile: OnLargeTile,
    /// An SQL expression over a row. Features with the greatest values stay when others are left out.
    pub rank: Option<String>,
}

impl Budget {
    /// True if features are left out of tiles that hold more than the budget.
    #[must_use]
    pub fn thins(&self) -> bool {
        self.on_large_tile == OnLargeTile::Thin
    }

    /// The budget of a layer whose tiles are stored unchanged: without a limit of features, and without leaving any out.
    #[must_use]
    pub fn of_whole_tiles(self) -> Budget {
        let on_large_tile = if self.thins() { OnLargeTile::Warn } else { self.on_large_tile };
        Budget { features: ZoomLimits::everywhere(None), on_large_tile, rank: None, ..self }
    }

    /// The most features at each zoom, as an array parameter: zoom 0 first, NULL where a zoom has no limit.
    pub(in crate::postgis) fn max_features(&self) -> Vec<Option<i64>> {
        let limit = |zoom: Zoom| self.features.at(zoom).and_then(|limit| i64::try_from(limit.get()).ok());
        (0..=Zoom::MAX.get()).filter_map(Zoom::new).map(limit).collect()
    }
}

/// The same limit of features at every zoom, as the array parameter of [`Budget::max_features`].
pub(in crate::postgis) fn same_max_features(features: NonZeroU64) -> Vec<Option<i64>> {
    vec![i64::try_from(features.get()).ok(); usize::from(Zoom::MAX.get()) + 1]
}

/// The rank of a layer's features, ready for a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rank {
    /// The expression over a row.
    pub sql: String,
    /// True if its type has a collation; `COLLATE "C"` then makes the order the same on every server.
    pub collated: bool,
}
