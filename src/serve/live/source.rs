//! What renders live tiles.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use crate::stop::Stop;
use crate::tile::{LayerId, Slice, TileId, Zoom, ZoomList};

/// Why a tile was not rendered. Clients are told none of it; the log is.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LiveError {
    /// The source failed at this tile.
    #[error("{0}")]
    Failed(String),
    /// The source can render nothing at the moment: the database is away, or others hold it up.
    #[error("{0}")]
    Away(String),
    /// It took too long.
    #[error("it was not rendered within {}", humantime::format_duration(*.0))]
    Late(Duration),
    /// Everybody who waited for it has gone, or the server ends.
    #[error("nobody waits for it any more")]
    Abandoned,
    /// It failed a moment ago, and is not tried again yet.
    #[error("it failed a moment ago")]
    JustFailed,
    /// Too many tiles wait.
    #[error("too many tiles wait to be rendered")]
    Overloaded {
        /// After what time there may be room.
        retry_after: Duration,
    },
    /// The target was made with another configuration: live tiles would not fit the stored ones.
    #[error(
        "the target was made with another configuration (its fingerprint is {target}, that of the settings {settings}): tiles beside the stored ones would not fit. Serve it with the configuration that it was seeded with, or seed it again"
    )]
    OtherTileset {
        /// The target's fingerprint.
        target: String,
        /// That of the settings.
        settings: String,
    },
}

/// A layer that can be rendered.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveLayer {
    /// Its name.
    pub name: String,
    /// Which layer; layers that are drawn differently at different zooms share it.
    pub id: LayerId,
    /// The zooms at which it is drawn.
    pub zooms: ZoomList,
}

/// A tile that was rendered on request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveTile {
    /// The tile as the target would store it; `None` if nothing is drawn in it.
    pub stored: Option<Box<[u8]>>,
    /// How long the database took.
    pub in_database: Duration,
}

/// Renders tiles on request.
///
/// The promise: [`LiveSource::render`] gives the bytes that a seed of the same database state would store, packed as the target packs. Each
/// call shows one database state, no older than some seconds. Calls run side by side, as many as the server lets.
pub trait LiveSource: Send + Sync + 'static {
    /// What decides the bytes of its tiles beside the data, to be compared with that of a target's manifest.
    fn fingerprint(&self) -> &str;

    /// The layers, in the order of the configuration.
    fn layers(&self) -> &[LiveLayer];

    /// Renders a tile as the database is at some moment after `since`. When `stop` is asked for, it cancels what the database runs for this tile and returns
    /// soon. It must be polled to its end.
    fn render<'a>(&'a self, tile: TileId, since: Instant, stop: &'a Stop)
    -> BoxFuture<'a, Result<LiveTile, LiveError>>;

    /// How many sessions it has in the database.
    fn sessions(&self) -> usize;
}

/// Whether a slice of a tile has a layer at a zoom.
pub(crate) fn draws(layers: &[LiveLayer], slice: Slice, zoom: Zoom) -> bool {
    layers.iter().any(|layer| layer.zooms.contains(zoom) && (slice == Slice::Whole || slice == Slice::Layer(layer.id)))
}
