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
    /// The address under which clients find the target, for TileJSON. An empty one: addresses are relative on purpose. Without one, what
    /// the target was last given; else addresses are relative.
    pub public_url: Option<String>,
    /// Whether tiles are stored as gzip.
    pub packed: bool,
}

impl TreeOptions {
    /// The address of tiles as TileJSON gives it, if nobody said where clients find the target. Map clients do not resolve it.
    pub(in crate::sink) fn relative_address(&self) -> Option<String> {
        // The place of a layer or a version is told as it is written.
        self.public_url.is_none().then(|| self.template.text().to_owned())
    }
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
