//! How layers met their budgets, and which tiles could not be rendered, as text and as JSON.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::grouped;
use crate::tile::TileCoord;

/// How a layer met its budget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LayerBudget {
    /// The name of the layer.
    pub layer: String,
    /// Tiles in which features were left out.
    pub thinned_tiles: u64,
    /// The number of features left out; a feature is counted once for each tile that lacks it.
    pub features_left_out: u64,
    /// Tiles in which the layer still has more bytes than `max_tile_bytes`.
    pub large_tiles: u64,
    /// The one with the most bytes; `None` if there is none.
    pub heaviest: Option<LargeTile>,
}

/// A tile in which a layer has more bytes than its budget allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LargeTile {
    /// The tile.
    pub tile: TileCoord,
    /// Size of the layer's part of the tile, compressed separately, in bytes.
    pub bytes: u64,
    /// The budget (`max_tile_bytes`), in bytes.
    pub limit: u64,
}

/// A layer that could not be rendered in a tile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedLayer {
    /// The tile.
    pub tile: TileCoord,
    /// The name of the layer.
    pub layer: String,
    /// Why it could not be rendered.
    pub cause: String,
}

/// The most tiles that a text names.
const NAMED: usize = 10;

impl LayerBudget {
    /// Sentences for the user about this layer's budget; empty if there is nothing to report.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let layer = &self.layer;
        let thinned = (self.thinned_tiles > 0).then(|| {
            let (tiles, features) = (counted(self.thinned_tiles, "tile"), counted(self.features_left_out, "feature"));
            format!("layer \"{layer}\": {tiles} thinned to max_tile_features or max_tile_bytes, {features} left out")
        });
        let large = self.heaviest.map(|LargeTile { tile, bytes, limit }| {
            let tiles = grouped(self.large_tiles);
            format!(
                "layer \"{layer}\": tiles with more bytes than max_tile_bytes: {tiles}; the heaviest is tile {tile} with {bytes}, and {limit} allowed. Raise max_tile_bytes, draw less at this zoom, or set on_large_tile = \"thin\""
            )
        });
        thinned.into_iter().chain(large).collect()
    }
}

/// A count with its noun, such as `1 tile` or `2 tiles`.
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// Says which layers could not be rendered in which tiles; it names the first ten tiles.
#[must_use]
pub fn named(failed: &[FailedLayer]) -> String {
    let mut layers: Vec<(&str, Vec<String>)> = Vec::new();
    for FailedLayer { tile, layer, .. } in failed.iter().take(NAMED) {
        match layers.iter_mut().find(|(name, _)| name == layer) {
            Some((_, tiles)) => tiles.push(tile.to_string()),
            None => layers.push((layer, vec![tile.to_string()])),
        }
    }
    let layers = layers.into_iter().map(|(layer, tiles)| format!("layer \"{layer}\" in {}", tiles.join(", ")));
    let more = match failed.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {} more", grouped(more as u64)),
    };
    layers.collect::<Vec<_>>().join("; ") + &more
}

/// One line for each layer that left out features to meet its budget.
pub(super) fn thinned_lines(layers: &[LayerBudget]) -> String {
    let thinned = layers.iter().filter(|layer| layer.thinned_tiles > 0);
    thinned
        .map(|layer| {
            let (tiles, left_out) = (counted(layer.thinned_tiles, "tile"), counted(layer.features_left_out, "feature"));
            format!("layer \"{}\": thinned {tiles}, left out {left_out}\n", layer.layer)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ten_tiles_are_named() {
        let failed = |layer: &str, tile: String| FailedLayer {
            tile: tile.parse().unwrap(),
            layer: layer.to_owned(),
            cause: String::new(),
        };
        let mut all = vec![failed("a", "0/0/0".to_owned()), failed("b", "0/0/0".to_owned())];
        assert_eq!(named(&all), "layer \"a\" in 0/0/0; layer \"b\" in 0/0/0");
        all.extend((0..10).map(|x| failed("a", format!("4/{x}/3"))));
        assert_eq!(
            named(&all),
            "layer \"a\" in 0/0/0, 4/0/3, 4/1/3, 4/2/3, 4/3/3, 4/4/3, 4/5/3, 4/6/3, 4/7/3; layer \"b\" in 0/0/0 and 2 more"
        );
    }
}
