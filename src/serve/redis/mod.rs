//! The cache that several servers share, in Redis: tiles that one of them has rendered need not be rendered by the
//! others.
//!
//! ```text
//! flight ─► budget, circuit breaker ─► Redis ─ a signed, fresh entry ─► memory
//!                                            └ anything else ─────────► queue, rendered, written to Redis without waiting for it
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `entry` | the form of a value and its signature, by which other values are refused |
//! | `link` | the circuit breaker: a server that fails repeatedly is not asked for a while; the connection to Redis |
//! | `announce` | servers notify each other of publications |
//!
//! The cache only saves work and time: no answer waits longer than [`BUDGET`] for it. Without it every tile is
//! rendered, and publications are found by polling.

mod announce;
mod entry;
mod link;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant, SystemTime};

use entry::MAX_VALUE_BYTES;
use link::{CircuitBreaker, LinkError, RedisLink};
use tokio::sync::Semaphore;

use super::observe::FailureState;
use super::observe::metrics::Metrics;
use crate::clock::since_1970;
use crate::cursor::StateInHistory;

pub(crate) use entry::RedisEntry;
pub use entry::SharedSecret;
pub use link::{RedisUrl, RedisUrlError};

/// The longest that a client waits for Redis.
const BUDGET: Duration = Duration::from_millis(50);

/// The time limit of an exchange for which no client waits.
const WRITE_LIMIT: Duration = Duration::from_secs(1);

/// The most concurrent writes of tiles to Redis; further tiles are not written.
const MAX_WRITES: usize = 64;

/// The largest tile that is written to Redis, in bytes.
const MAX_ENTRY_BYTES: usize = 8 << 20;

/// How much of a value decides whether it is still the one that was read.
const COMPARED_BYTES: usize = 256;

/// The most by which another server's clock may be ahead.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(2);

struct RedisCacheParts {
    link: RedisLink,
    breaker: CircuitBreaker,
    writes: Arc<Semaphore>,
    trouble: FailureState,
    metrics: Arc<Metrics>,
    /// True while announcements are received.
    is_heard: AtomicBool,
    /// The number of publications that were found because they were announced.
    announced: AtomicU64,
}

/// The shared cache. Clones share the connection.
#[derive(Clone)]
pub(crate) struct RedisCache(Arc<RedisCacheParts>);

/// The tiles of one tileset in the shared cache, signed with its key.
#[derive(Clone)]
pub(crate) struct RedisTiles {
    cache: RedisCache,
    secret: SharedSecret,
    /// The beginning of all names: the version of the values' form, and the key's name.
    prefix: String,
}

/// Why a lookup in the shared cache found nothing, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SharedResult {
    Miss,
    /// The value was not signed by a server with the same key, or is broken.
    Broken,
    /// Redis did not answer in time, or with an error.
    Error,
    /// Redis was not asked, because it had failed before.
    Skipped,
}

impl SharedResult {
    const fn name(self) -> &'static str {
        match self {
            SharedResult::Miss => "miss",
            SharedResult::Broken => "broken",
            SharedResult::Error => "error",
            SharedResult::Skipped => "skipped",
        }
    }
}

impl RedisCache {
    /// A cache at an address, to which it begins to connect. Must be called on a runtime.
    /// Fails if the program was built without Redis, or the address is not that of a Redis server.
    pub(crate) fn new(url: &RedisUrl, metrics: Arc<Metrics>) -> Result<RedisCache, RedisUrlError> {
        let shared = RedisCache(Arc::new(RedisCacheParts {
            link: RedisLink::new(url)?,
            breaker: CircuitBreaker::new(),
            writes: Arc::new(Semaphore::new(MAX_WRITES)),
            trouble: FailureState::new("Redis does not answer", "Redis answers again"),
            metrics,
            is_heard: AtomicBool::new(false),
            announced: AtomicU64::new(0),
        }));
        let first = shared.clone();
        tokio::spawn(async move {
            // This opens the connection early; if that fails, the log says why.
            drop(first.noted(WRITE_LIMIT, first.0.link.get("oar-tiles", 1)).await);
        });
        Ok(shared)
    }

    /// The tiles that are signed with a key.
    pub(crate) fn tiles(&self, secret: SharedSecret) -> RedisTiles {
        let prefix = format!("oar-tiles:v{}:{}", entry::VERSION, secret.name());
        RedisTiles { cache: self.clone(), secret, prefix }
    }

    /// Runs an exchange within a limit, and notes whether Redis works.
    async fn noted<T>(
        &self,
        limit: Duration,
        exchange: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let done = tokio::time::timeout(limit, exchange).await.unwrap_or(Err(LinkError::Slow));
        match &done {
            Ok(_) => {
                self.0.breaker.succeeded();
                self.0.trouble.recovered();
            }
            // A server that is full or still loading answers at once, so asking it again costs no time.
            Err(error @ LinkError::Refused(_)) => self.0.trouble.failed(error),
            Err(error) => {
                self.0.breaker.failed(Instant::now());
                self.0.trouble.failed(error);
            }
        }
        done
    }
}

impl RedisTiles {
    pub(crate) fn name(&self, tile: &str) -> String {
        format!("{}:{tile}", self.prefix)
    }

    /// The entry of a name that is younger than `max_age` (`None` for any age), with its age. `None` if there is none,
    /// or if Redis does not answer within [`BUDGET`]. The caller counts an entry that is found, because it knows
    /// whether the entry is new enough.
    pub(crate) async fn get(&self, name: &str, max_age: Option<Duration>) -> Option<(RedisEntry, Duration)> {
        match self.asked(name, max_age).await {
            Ok(found) => Some(found),
            Err(result) => {
                self.cache.0.metrics.count_redis_lookup(result.name());
                None
            }
        }
    }

    async fn asked(&self, name: &str, max_age: Option<Duration>) -> Result<(RedisEntry, Duration), SharedResult> {
        let parts = &self.cache.0;
        if !parts.breaker.may_try(Instant::now()) {
            return Err(SharedResult::Skipped);
        }
        // One byte more shows that a value is too long.
        let value = match self.cache.noted(BUDGET, parts.link.get(name, MAX_VALUE_BYTES + 1)).await {
            Ok(value) if value.is_empty() => return Err(SharedResult::Miss),
            Ok(value) => value,
            Err(_noted) => return Err(SharedResult::Error),
        };
        let entry = if value.len() > MAX_VALUE_BYTES { None } else { RedisEntry::read(&self.secret, name, &value) };
        let Some(entry) = entry else {
            // It would keep the tile's next value out, if it looks like one of a later database state.
            self.remove(name, &value);
            return Err(SharedResult::Broken);
        };
        match entry.age(since_1970(SystemTime::now())) {
            Some(age) if max_age.is_none_or(|max_age| age < max_age) => Ok((entry, age)),
            // If the age does not matter, a wrong clock does not matter either.
            None if max_age.is_none() => Ok((entry, Duration::ZERO)),
            _ => Err(SharedResult::Miss),
        }
    }

    /// Removes a value that no server will take, without waiting for the result.
    fn remove(&self, name: &str, value: &[u8]) {
        let begins = value.get(..COMPARED_BYTES).unwrap_or(value).to_vec();
        let (cache, name) = (self.cache.clone(), name.to_owned());
        let Ok(permit) = Arc::clone(&cache.0.writes).try_acquire_owned() else { return };
        tokio::spawn(async move {
            // A failure is logged by `noted`.
            drop(cache.noted(WRITE_LIMIT, cache.0.link.remove(&name, &begins)).await);
            drop(permit);
        });
    }

    /// Removes an entry that shows another history of the database: it would keep the tile's next value out, if its
    /// state looks like a later one.
    pub(crate) fn forget(&self, name: &str, entry: &RedisEntry) {
        if let Some(value) = entry.value(&self.secret, name) {
            self.remove(name, &value);
        }
    }

    /// Writes a tile that was rendered now to Redis, without waiting for the result. An entry that shows a later
    /// database state stays.
    pub(crate) fn put(&self, name: String, stored: Option<&[u8]>, shown: &StateInHistory, life: Duration) {
        let parts = Arc::clone(&self.cache.0);
        let is_too_large = stored.is_some_and(|stored| stored.len() > MAX_ENTRY_BYTES);
        let Ok(permit) = Arc::clone(&parts.writes).try_acquire_owned() else { return };
        if is_too_large || !parts.breaker.may_try(Instant::now()) {
            return;
        }
        let entry = RedisEntry {
            stored: stored.map(Into::into),
            shown: shown.clone(),
            rendered: since_1970(SystemTime::now()),
        };
        let Some(value) = entry.value(&self.secret, &name) else { return };
        let shared = self.cache.clone();
        tokio::spawn(async move {
            // A failure is logged by `noted`.
            drop(shared.noted(WRITE_LIMIT, shared.0.link.put(&name, &value, life)).await);
            drop(permit);
        });
    }
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use super::*;

    /// The client's own limit for an answer is twenty times the budget.
    #[tokio::test]
    async fn a_redis_that_never_answers_is_given_up_within_the_budget_and_not_only_when_its_client_gives_up() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://{}", silent.local_addr().unwrap()).parse().unwrap();
        let shared = RedisCache::new(&url, Arc::new(Metrics::new())).unwrap();
        let tiles = shared.tiles(SharedSecret::new(b"x").unwrap());
        tokio::select! {
            biased;
            given_up = shared.0.link.get("key", 1) => panic!("the client came first: {given_up:?}"),
            found = tiles.get("key", None) => assert!(found.is_none()),
        }
    }
}
