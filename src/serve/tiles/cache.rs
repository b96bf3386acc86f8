//! The cache: the most requested tiles in the form in which they are sent, up to a limit in bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::future::Cache;
use moka::{Entry, Expiry};
use sha2::{Digest as _, Sha256};

use crate::cursor::Cursor;
use crate::encode::{DecodeError, Gunzip, is_gzip};
use crate::hex::hex;
use crate::serve::http::answer::Encoding;
use crate::serve::known_changes::LiveEpoch;
use crate::serve::live::FlightKey;
use crate::serve::parameters::ParametersKey;
use crate::tile::TileId;

/// A tile in the form in which it is sent.
#[derive(Debug, Clone)]
pub(crate) struct EncodedTile {
    pub(crate) body: Bytes,
    pub(crate) encoding: Encoding,
    /// The strong entity tag, with its quotes: 128 bits of SHA-256 over the stored bytes, then the encoding. Tiles with
    /// equal bytes have the same tag, whenever they were rendered.
    pub(crate) tag: Arc<str>,
}

impl EncodedTile {
    /// A tile as it is stored: gzip, for clients that accept it, or not packed, for all clients.
    pub(crate) fn as_stored(stored: Box<[u8]>) -> EncodedTile {
        let hash = hex(&Sha256::digest(&stored)[..16]);
        let encoding = if is_gzip(&stored) { Encoding::Gzip } else { Encoding::Identity };
        EncodedTile { tag: tag(&hash, encoding), body: stored.into(), encoding }
    }

    /// The tile for clients that do not accept gzip. Unpacking a large tile may take long.
    /// Fails if the tile's gzip data is broken, or it unpacks to more than `most` bytes.
    pub(crate) fn unpacked(&self, most: usize) -> Result<EncodedTile, DecodeError> {
        if self.encoding == Encoding::Identity {
            return Ok(self.clone());
        }
        let body = Gunzip::new().unpack_at_most(&self.body, most)?.into();
        Ok(EncodedTile { body, encoding: Encoding::Identity, tag: tag(self.hash(), Encoding::Identity) })
    }

    /// The hash of the stored bytes: the same in every encoding.
    pub(crate) fn hash(&self) -> &str {
        self.tag.get(1..33).unwrap_or_default()
    }
}

fn tag(hash: &str, encoding: Encoding) -> Arc<str> {
    let letter = match encoding {
        Encoding::Gzip => 'g',
        Encoding::Identity => 'i',
    };
    Arc::from(format!("\"{hash}-{letter}\""))
}

#[derive(Debug, Clone)]
pub(crate) struct CachedTile {
    /// The tile; `None` if the target does not hold it or it is empty.
    pub(crate) tile: Option<EncodedTile>,
    /// What is known of a tile that the database rendered; `None` for stored tiles, which stay until the target
    /// changes.
    live: Option<LiveFacts>,
    /// How it came into the cache.
    pub(crate) way: CacheOrigin,
}

/// What is known of a tile that the database rendered.
#[derive(Debug, Clone)]
struct LiveFacts {
    epoch: LiveEpoch,
    /// The database state that it shows.
    snapshot: Arc<Cursor>,
    /// When it becomes stale if no change log is followed.
    fresh_until: Instant,
}

/// How a tile came into the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheOrigin {
    Asked,
    /// It was rendered before a client asked for it.
    Ahead,
    /// Another server had rendered it.
    Shared,
}

/// How long a live tile is kept after it became stale, for the case that no fresh one can be rendered.
const STALE_KEPT: Duration = Duration::from_secs(24 * 3_600);

impl CachedTile {
    /// The form of a tile that was read from the target.
    pub(crate) const fn of_target(tile: Option<EncodedTile>) -> CachedTile {
        CachedTile { tile, live: None, way: CacheOrigin::Asked }
    }

    /// The form of a tile that the database rendered for a flight, from a database state.
    pub(crate) fn of_live(stored: Option<Box<[u8]>>, key: FlightKey, snapshot: Cursor) -> CachedTile {
        let live = LiveFacts { epoch: key.epoch, snapshot: Arc::new(snapshot), fresh_until: Instant::now() };
        CachedTile { tile: stored.map(EncodedTile::as_stored), live: Some(live), way: CacheOrigin::Asked }
    }

    /// The same form with another `way`, which is fresh for `time` if no change log is followed.
    pub(crate) fn kept_for(mut self, time: Duration, way: CacheOrigin) -> CachedTile {
        if let Some(live) = &mut self.live {
            live.fresh_until = Instant::now() + time;
        }
        CachedTile { way, ..self }
    }

    /// How long the tile has been stale by its age; `None` if it is not stale.
    pub(crate) fn stale_for(&self) -> Option<Duration> {
        Instant::now().checked_duration_since(self.live.as_ref()?.fresh_until)
    }

    pub(crate) fn epoch(&self) -> Option<LiveEpoch> {
        Some(self.live.as_ref()?.epoch)
    }

    /// The database state that a live tile shows.
    pub(crate) fn snapshot(&self) -> Option<&Arc<Cursor>> {
        Some(&self.live.as_ref()?.snapshot)
    }

    /// The later one of two forms of a live tile. It shows all that the other one shows, so it is of the later one of
    /// their epochs: flights end in another order than they began.
    fn or_later(self, held: CachedTile) -> CachedTile {
        let Some((ours, theirs)) = self.live.as_ref().zip(held.live.as_ref()) else { return self };
        let epoch = ours.epoch.max(theirs.epoch);
        let held_is_later =
            match (ours.snapshot.sees_all_of(&theirs.snapshot), theirs.snapshot.sees_all_of(&ours.snapshot)) {
                (is_ours, true) => !is_ours,
                (true, false) => false,
                // States of two servers.
                (false, false) => theirs.epoch > ours.epoch,
            };
        let mut later = if held_is_later { held } else { self };
        if let Some(live) = &mut later.live {
            live.epoch = epoch;
        }
        later
    }

    /// True if both have the same content, no matter how they are encoded.
    pub(crate) fn shows_the_same(&self, other: &CachedTile) -> bool {
        fn hash(form: &CachedTile) -> Option<&str> {
            form.tile.as_ref()?.tag.get(1..33)
        }
        hash(self) == hash(other)
    }

    /// The form for clients that do not accept gzip. Unpacking a large tile may take long.
    /// Fails if the tile's gzip data is broken, or it unpacks to more than `most` bytes.
    pub(crate) fn unpacked(&self, most: usize) -> Result<CachedTile, DecodeError> {
        let tile = self.tile.as_ref().map(|tile| tile.unpacked(most)).transpose()?;
        Ok(CachedTile { tile, ..self.clone() })
    }

    /// True if the tile is gzip, so that it has to be unpacked for clients that do not accept gzip.
    pub(crate) fn is_packed(&self) -> bool {
        self.tile.as_ref().is_some_and(|tile| tile.encoding == Encoding::Gzip)
    }
}

/// The source of a cached tile. A change of the source makes the entry useless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CacheSource {
    State {
        /// The number of the state since which the tile is unchanged.
        since: u64,
        tile: TileId,
    },
    /// The database, in any epoch.
    Live {
        tile: TileId,
        /// The values that its request gives.
        parameters: ParametersKey,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CacheKey {
    tileset: u64,
    from: CacheSource,
    encoding: Encoding,
}

/// The memory that a cached tile takes in addition to its bytes, for its key, its tag and the cache's own tables.
const ENTRY_BYTES: u32 = 256;

/// A form of at least this many bytes makes room for itself at once. The cache evicts now and then only, some 64 new
/// forms later at the latest, and holds more than its limit until then.
const MIN_BYTES_EVICTED_FOR: usize = 256 << 10;

/// Evicts tiles that the database rendered some time after they became stale.
struct LiveExpiry;

impl Expiry<CacheKey, CachedTile> for LiveExpiry {
    fn expire_after_create(&self, _key: &CacheKey, form: &CachedTile, now: Instant) -> Option<Duration> {
        form.live.as_ref().map(|live| live.fresh_until.saturating_duration_since(now) + STALE_KEPT)
    }
}

/// The cache for one of the tilesets that share its memory. Clones are of the same tileset.
#[derive(Clone)]
pub(crate) struct TileCache {
    tiles: Cache<CacheKey, CachedTile>,
    /// The number that distinguishes its tiles from those of other tilesets.
    tileset: Arc<AtomicU64>,
    /// The last number that was given to a tileset.
    numbers: Arc<AtomicU64>,
}

impl TileCache {
    /// A cache that holds at most `bytes` bytes.
    pub(crate) fn new(bytes: u64) -> TileCache {
        let weigh = |_: &CacheKey, form: &CachedTile| {
            let bytes = form.tile.as_ref().map_or(0, |tile| tile.body.len());
            u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(ENTRY_BYTES)
        };
        let tiles = Cache::builder().max_capacity(bytes).weigher(weigh).expire_after(LiveExpiry).build();
        TileCache { tiles, tileset: Arc::default(), numbers: Arc::default() }
    }

    /// The same memory for another tileset.
    pub(crate) fn for_tileset(&self) -> TileCache {
        let number = self.next_number();
        TileCache { tileset: Arc::new(AtomicU64::new(number)), ..self.clone() }
    }

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn key(&self, from: CacheSource, encoding: Encoding) -> CacheKey {
        CacheKey { tileset: self.tileset.load(Ordering::Relaxed), from, encoding }
    }

    pub(crate) async fn get(&self, from: CacheSource, encoding: Encoding) -> Option<CachedTile> {
        self.tiles.get(&self.key(from, encoding)).await
    }

    /// The cached form, or the one that `make` returns. Concurrent requests for the same form share one call of `make`.
    pub(crate) async fn get_or_make<E: Clone + Send + Sync + 'static>(
        &self,
        from: CacheSource,
        encoding: Encoding,
        make: impl Future<Output = Result<CachedTile, E>>,
    ) -> Result<CachedTile, E> {
        let made_large = AtomicBool::new(false);
        let make = async {
            let result = make.await;
            let is_large =
                |form: &CachedTile| form.tile.as_ref().is_some_and(|tile| tile.body.len() >= MIN_BYTES_EVICTED_FOR);
            made_large.store(result.as_ref().is_ok_and(is_large), Ordering::Relaxed);
            result
        };
        let found = self.tiles.try_get_with(self.key(from, encoding), make).await;
        if made_large.load(Ordering::Relaxed) {
            self.tiles.run_pending_tasks().await;
        }
        found.map_err(|failure| E::clone(&failure))
    }

    pub(crate) async fn replace(&self, from: CacheSource, encoding: Encoding, form: CachedTile) {
        self.tiles.insert(self.key(from, encoding), form).await;
    }

    /// Caches a live tile in its stored form, unless one of a later database state is cached. Returns the one that is
    /// cached.
    pub(crate) async fn keep_live(&self, key: FlightKey, form: CachedTile) -> CachedTile {
        let entry = self.tiles.entry(self.key(key.cached(), Encoding::Gzip));
        let newest = |held: Option<Entry<CacheKey, CachedTile>>| {
            std::future::ready(match held {
                Some(held) => form.or_later(held.into_value()),
                None => form,
            })
        };
        entry.and_upsert_with(newest).await.into_value()
    }

    /// Evicts a tile in every encoding.
    pub(crate) async fn forget(&self, from: CacheSource) {
        for encoding in [Encoding::Gzip, Encoding::Identity] {
            self.forget_form(from, encoding).await;
        }
    }

    pub(crate) async fn forget_form(&self, from: CacheSource, encoding: Encoding) {
        self.tiles.invalidate(&self.key(from, encoding)).await;
    }

    /// Evicts all tiles of the tileset: from now on the tileset has another number, under which no tile is found. The
    /// tiles under the old number leave the cache because no request asks for them.
    pub(crate) fn forget_all(&self) {
        self.tileset.store(self.next_number(), Ordering::Relaxed);
    }

    /// The approximate size of the cache's content, in bytes, of all tilesets.
    pub(crate) fn bytes(&self) -> u64 {
        self.tiles.weighted_size()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::encode::{Level, Packer, Packing, TileCompression};

    #[tokio::test]
    async fn large_tiles_leave_the_cache_as_soon_as_others_need_their_room() {
        let cache = TileCache::new(4 << 20);
        let mut tags = Vec::new();
        for x in 0..32 {
            let tile = TileId::from(format!("5/{x}/0").parse::<crate::tile::TileCoord>().unwrap());
            let form = CachedTile::of_target(Some(EncodedTile::as_stored(vec![7; 1 << 20].into())));
            tags.push(Arc::downgrade(&form.tile.as_ref().unwrap().tag));
            let from = CacheSource::State { since: 0, tile };
            let make = std::future::ready(Ok::<_, Infallible>(form));
            cache.get_or_make(from, Encoding::Gzip, make).await.unwrap();
            let in_memory = tags.iter().filter(|tag| tag.strong_count() > 0).count();
            assert!(in_memory <= 4, "{in_memory} tiles of 1 MB in 4 MB");
        }
    }

    #[test]
    fn each_encoding_has_its_own_tag_and_equal_bytes_keep_it() {
        let packed = Packer::new(Packing::mvt(TileCompression::Gzip(Level::new(6).unwrap())))
            .pack(b"some bytes of a tile")
            .unwrap();
        let gzip = EncodedTile::as_stored(packed.clone());
        assert_eq!((&*gzip.body, gzip.encoding), (&*packed, Encoding::Gzip));
        let plain = gzip.unpacked(1 << 10).unwrap();
        assert_eq!((&*plain.body, plain.encoding), (&b"some bytes of a tile"[..], Encoding::Identity));
        assert_ne!(gzip.tag, plain.tag);
        assert_eq!(plain.unpacked(1 << 10).unwrap().tag, plain.tag);
        assert_eq!(gzip.tag, EncodedTile::as_stored(packed).tag);
        assert!(gzip.tag.starts_with('"') && gzip.tag.ends_with("-g\"") && gzip.tag.len() == 36, "{}", gzip.tag);
    }
}
