//! Tiles as they are answered: from memory, or from the target.

use std::sync::Arc;

use bytes::Bytes;
use moka::future::Cache;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::http::negotiate::Encoding;
use super::tileset::{ServedState, ServedTarget};
use crate::encode::{Gunzip, is_gzip};
use crate::sink::ReadError;
use crate::tile::TileId;

/// A tile that can be sent.
#[derive(Debug, Clone)]
pub(crate) struct ServedTile {
    /// The body.
    pub(crate) body: Bytes,
    /// How the body is encoded.
    pub(crate) encoding: Encoding,
    /// The strong entity tag, with its quotes: 128 bits of SHA-256 over the stored bytes, then the encoding. Equal tiles keep it, whenever
    /// they were rendered.
    pub(crate) tag: Arc<str>,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TileOrigin {
    /// The cache.
    Memory,
    /// The target.
    Target,
}

/// Why a tile could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum TileError {
    /// The target.
    #[error(transparent)]
    Read(Arc<ReadError>),
    /// A stored tile that is no gzip, for a client that takes none.
    #[error("a tile cannot be unpacked: {0}")]
    Broken(String),
    /// A thread died.
    #[error("a thread died: {0}")]
    Died(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CacheKey {
    state: u64,
    tile: TileId,
    encoding: Encoding,
}

/// What a cached tile takes beside its bytes: key, tag and the cache's own tables.
const ENTRY_BYTES: u32 = 256;

/// Tiles that are read from the target at once, each by a reader of its own. A bucket answers many requests at once; more readers of a
/// file than cores only take memory.
const READS_OF_A_BUCKET: usize = 64;
const READS_OF_A_FILE: usize = 8;

/// The tiles of a target, the most wanted of them in memory.
#[derive(Clone)]
pub(crate) struct ServedTiles {
    target: Arc<ServedTarget>,
    /// `None` stands for a tile that the target does not hold.
    cache: Cache<CacheKey, Option<ServedTile>>,
    reads: Arc<Semaphore>,
}

impl ServedTiles {
    /// The tiles of a target, with at most so many bytes of them in memory.
    pub(crate) fn new(target: Arc<ServedTarget>, cache_bytes: u64) -> ServedTiles {
        let weigh = |_: &CacheKey, tile: &Option<ServedTile>| {
            let bytes = tile.as_ref().map_or(0, |tile| tile.body.len());
            u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(ENTRY_BYTES)
        };
        let reads = if target.needs_polling() { READS_OF_A_BUCKET } else { READS_OF_A_FILE };
        let cache = Cache::builder().max_capacity(cache_bytes).weigher(weigh).build();
        ServedTiles { target, cache, reads: Arc::new(Semaphore::new(reads)) }
    }

    /// The present state of the target.
    pub(crate) async fn state(&self) -> Result<Arc<ServedState>, TileError> {
        let last = self.target.last();
        if self.target.is_current(&last) {
            return Ok(last);
        }
        let target = Arc::clone(&self.target);
        aside(move || target.current()).await
    }

    /// A tile of a state for a client that takes `encoding`; `None` if the target does not hold it.
    pub(crate) async fn tile(
        &self,
        state: &Arc<ServedState>,
        tile: TileId,
        encoding: Encoding,
    ) -> (Result<Option<ServedTile>, TileError>, TileOrigin) {
        let key = CacheKey { state: state.number, tile, encoding };
        if !state.is_settled {
            return (self.read(state, tile, encoding).await, TileOrigin::Target);
        }
        if let Some(held) = self.cache.get(&key).await {
            return (Ok(held), TileOrigin::Memory);
        }
        // Requests for the same tile wait for the one that reads it.
        let read = self.cache.try_get_with(key, self.read(state, tile, encoding)).await;
        (read.map_err(|error| TileError::clone(&error)), TileOrigin::Target)
    }

    async fn read(
        &self,
        state: &Arc<ServedState>,
        tile: TileId,
        encoding: Encoding,
    ) -> Result<Option<ServedTile>, TileError> {
        let (target, state) = (Arc::clone(&self.target), Arc::clone(state));
        let _permit = self.reads.acquire().await;
        let stored = aside(move || target.read(&state, tile)).await?;
        stored.map(|stored| served(stored, encoding)).transpose()
    }

    /// The state that was read last.
    pub(crate) fn last(&self) -> Arc<ServedState> {
        self.target.last()
    }

    /// Bytes that the cache holds, about.
    pub(crate) fn cached_bytes(&self) -> u64 {
        self.cache.weighted_size()
    }
}

/// A stored tile as a client that takes `encoding` gets it. Stored gzip is sent untouched; a tile that is stored unpacked is sent so.
fn served(stored: Box<[u8]>, encoding: Encoding) -> Result<ServedTile, TileError> {
    let hash: String = Sha256::digest(&stored).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let tagged = |letter: char| Arc::from(format!("\"{hash}-{letter}\""));
    if is_gzip(&stored) && encoding == Encoding::Gzip {
        return Ok(ServedTile { body: stored.into(), encoding: Encoding::Gzip, tag: tagged('g') });
    }
    let body = if is_gzip(&stored) {
        Gunzip::new().unpack(&stored).map_err(|error| TileError::Broken(error.to_string()))?.into()
    } else {
        stored.into()
    };
    Ok(ServedTile { body, encoding: Encoding::Identity, tag: tagged('i') })
}

/// Does what blocks on a thread for that.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, TileError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| TileError::Read(Arc::new(error))),
        Err(error) => Err(TileError::Died(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{Level, Packer, Packing};

    #[test]
    fn each_encoding_has_its_own_tag_and_equal_bytes_keep_it() {
        let packed = Packer::new(Packing::Gzip(Level::new(6).unwrap())).pack(b"some bytes of a tile").unwrap();
        let gzip = served(packed.clone(), Encoding::Gzip).unwrap();
        assert_eq!((&*gzip.body, gzip.encoding), (&*packed, Encoding::Gzip));
        let plain = served(packed.clone(), Encoding::Identity).unwrap();
        assert_eq!((&*plain.body, plain.encoding), (&b"some bytes of a tile"[..], Encoding::Identity));
        assert_ne!(gzip.tag, plain.tag);
        assert_eq!(gzip.tag, served(packed, Encoding::Gzip).unwrap().tag);
        assert!(gzip.tag.starts_with('"') && gzip.tag.ends_with("-g\"") && gzip.tag.len() == 36, "{}", gzip.tag);
    }
}
