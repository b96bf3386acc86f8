//! Where a tile came from, or why there is none.

use std::sync::Arc;
use std::time::Duration;

use crate::serve::http::negotiate::Encoding;
use crate::serve::http::peers::ClientKey;
use crate::serve::live::LiveError;
use crate::serve::parameters::TooManyKeys;
use crate::sink::ReadError;

/// What a request for a tile says besides the tile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskedBy {
    /// The encoding that the client accepts.
    pub(crate) encoding: Encoding,
    pub(crate) client: ClientKey,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TileOrigin {
    /// The cache.
    Memory,
    /// The target.
    Target,
    /// The tile is empty: the target does not hold it, and it lies in the scope of the manifest.
    Empty,
    /// The database rendered it for this request.
    Live,
    /// The database rendered it for an earlier request that was still waiting for it.
    Collapsed,
    /// The cache: it was rendered ahead, next to a tile that was asked for.
    Ahead,
    /// Redis: another server had rendered it.
    Shared,
    /// The cache, in a state that has been stale for this time.
    Stale(Duration),
    /// The content of the nearest stored ancestor.
    Ancestor,
}

/// Why a tile could not be read or rendered.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum TileError {
    /// The target could not be read.
    #[error(transparent)]
    Read(Arc<ReadError>),
    /// The client does not accept gzip, and the stored tile's gzip data is broken.
    #[error("a tile cannot be unpacked: {0}")]
    Broken(String),
    /// The database could not render it.
    #[error(transparent)]
    Live(LiveError),
    /// This client leaves so many answers unread that it gets no further one.
    #[error("the client has not read its answers")]
    TooMuchUnread(ClientKey),
    /// Too many new values of parameters were asked for.
    #[error("too many values of parameters are new")]
    TooManyKeys(TooManyKeys),
    /// The run that wrote the target could not render the tile.
    #[error("the run that wrote the target could not render it")]
    Unrendered,
    /// The tile lies outside of the tileset.
    #[error("the tileset has no tile there")]
    Beyond,
    /// The thread that read or unpacked the tile died.
    #[error("a thread died: {0}")]
    Died(String),
}

impl TileError {
    /// True if another client than this one is refused. Requests for one tile share a read and its error; those of other
    /// clients have to read again then.
    pub(super) fn refuses_another(&self, client: ClientKey) -> bool {
        matches!(self, TileError::TooMuchUnread(refused) if *refused != client)
    }

    /// The time after which a client may ask again.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            TileError::Live(error) => Duration::from_secs(error.retry_seconds()),
            _ => Duration::from_secs(1),
        }
    }
}
