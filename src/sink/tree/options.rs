//! What the user sets for a target that keeps each tile under a name of its own.

use std::time::Duration;

use super::Template;

/// How a directory or a bucket is written.
#[derive(Debug, Clone)]
pub struct TreeOptions {
    /// Where each tile lies below the target.
    pub template: Template,
    /// How the map gets to see a run's tiles.
    pub publish: Publish,
    /// Write into a target that holds another tileset, or files that look like tiles and are not ours.
    pub force: bool,
    /// The address under which clients find the target, for TileJSON; without it addresses are relative.
    pub public_url: Option<String>,
    /// Whether tiles are stored as gzip.
    pub packed: bool,
}

/// How the map gets to see a run's tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publish {
    /// Tiles that differ are replaced one by one.
    InPlace,
    /// Tiles go under a new version; TileJSON and `latest.json` are switched to it when all are there.
    Versioned {
        /// How many old versions stay.
        keep: usize,
        /// How long an old version stays at least.
        keep_for: Duration,
    },
}
