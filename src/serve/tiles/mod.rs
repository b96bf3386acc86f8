//! Where a tile comes from.
//!
//! | file | subject |
//! |---|---|
//! | `served` | the cache, then the target, then the database; which stored tiles are stale, and which of them clients have seen in a refreshed state |
//! | `cache` | the most requested tiles in memory, as they are sent |
//! | `rendered` | tiles that the database renders, and what a client gets that does not wait for one; tiles of requests that give values for parameters; the ancestors, neighbours and children of a tile |

pub(crate) mod cache;
pub(crate) mod rendered;
pub(crate) mod served;

use std::sync::Arc;
use std::time::{Duration, Instant};

use served::ServedTiles;
use tokio::task::JoinError;

use super::http::address::ClientKey;
use super::http::answer::Encoding;
use super::http::unread::AnswerMemory;
use super::live::LiveError;
use super::parameters::TooManyKeys;
use crate::cdn::Outbox;
use crate::encode::DecodeError;
use crate::target::ReadError;

// What is known of the target apart from its tiles: how old the last look at it is, and which purges wait for its CDNs.

impl ServedTiles {
    /// The time of the last look at the target: an answer that is begun now shows at least the state of that moment.
    /// Files are checked by each request, a target in a bucket is polled. Call this before the state is taken, because
    /// a newer state does no harm.
    pub(crate) fn look(&self) -> Instant {
        self.target.polled().unwrap_or_else(Instant::now)
    }

    /// The purges that wait for the CDNs of the target, for the metrics; `None` if the outbox cannot be read.
    pub(crate) async fn outbox(&self) -> Option<Outbox> {
        let target = Arc::clone(&self.target);
        let read = tokio::task::spawn_blocking(move || Outbox::read(target.notes())).await;
        match read {
            Ok(Ok(outbox)) => Some(outbox),
            Ok(Err(error)) => {
                tracing::info!("the metrics do not say what waits for CDNs: {error}");
                None
            }
            Err(_died) => None,
        }
    }
}

// Where a tile came from, or why there is none.

/// What a request for a tile says besides the tile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AskedBy<'a> {
    /// The encoding that the client accepts.
    pub(crate) encoding: Encoding,
    pub(crate) client: ClientKey,
    /// Where the memory of the answer counts until it is sent.
    pub(crate) reserved: &'a AnswerMemory,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TileOrigin {
    Memory,
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
    #[error(transparent)]
    Read(Arc<ReadError>),
    #[error("a tile cannot be unpacked: {0}")]
    Broken(String),
    #[error(transparent)]
    Live(LiveError),
    /// This client has read too little of its earlier answers; it gets no other one until it reads or closes them.
    #[error("the client has not read its answers")]
    TooMuchUnread(ClientKey),
    #[error("too many values of parameters are new")]
    TooManyKeys(TooManyKeys),
    #[error("the run that wrote the target could not render it")]
    Unrendered,
    #[error("the tileset has no tile there")]
    OutOfScope,
    /// The thread that read or unpacked the tile died.
    #[error("a thread died: {0}")]
    Died(String),
}

impl From<DecodeError> for TileError {
    fn from(error: DecodeError) -> TileError {
        TileError::Broken(error.to_string())
    }
}

impl From<JoinError> for TileError {
    fn from(error: JoinError) -> TileError {
        TileError::Died(error.to_string())
    }
}

impl TileError {
    /// True if another client than this one is refused. Requests for one tile share a read and its error; those of
    /// other clients have to read again then.
    pub(crate) fn refuses_another(&self, client: ClientKey) -> bool {
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

#[cfg(test)]
mod tests;
