//! Tiles that are being uploaded and deleted: a bounded number of requests in flight, with every failure counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::client::{Put, WriteCondition};
use super::refusal::{Meaning, Refusal};
use super::store::Store;
use super::{Action, BucketCause, BucketError, unless_stopped, wait};
use crate::stop::Stop;
use crate::target::tree::Tag;
use crate::tile::TileId;

/// The most names of failed tiles that an error lists.
const MAX_LISTED_FAILURES: usize = 20;

/// The number of requests that may fail one after the other before the run gives up. A request fails only after all its
/// attempts, over seconds: a server that fails this many is not about to recover. One interruption that hits all
/// requests in flight (64 by default) stays below the limit.
const MAX_FAILURES_IN_A_ROW: u64 = 100;

/// The most bytes of tiles in flight, in KiB; a larger tile is uploaded alone. 64 common tiles have far less: at most
/// 100 kB each.
const MAX_KIB_IN_FLIGHT: u32 = 32 << 10;

/// Bytes in KiB, rounded up, at most [`MAX_KIB_IN_FLIGHT`].
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX).min(MAX_KIB_IN_FLIGHT)
}

#[derive(Debug, Default)]
struct Failures {
    count: u64,
    in_a_row: u64,
    succeeded: u64,
    shown: Vec<String>,
    first: Option<(Action, String, Refusal)>,
    /// The refusal after which further requests are pointless.
    end: Option<(Action, String, Refusal)>,
}

impl Failures {
    fn add(&mut self, limit: u64, action: Action, name: &str, refusal: Refusal) {
        self.count += 1;
        self.in_a_row += 1;
        if self.shown.len() < MAX_LISTED_FAILURES {
            self.shown.push(format!("{name} ({})", refusal.cause));
        }
        if self.end.is_none() && (refusal.concerns_all() || self.in_a_row >= limit) {
            self.end = Some((action, name.to_owned(), refusal.clone()));
        }
        self.first.get_or_insert_with(|| (action, name.to_owned(), refusal));
    }
}

/// The most attempts to add a tile if the server refuses it although no such tile exists: another request for it was in
/// flight, and failed.
const MAX_CONFLICTS: u32 = 5;

/// The pause between these attempts.
const CONFLICT_PAUSE: Duration = Duration::from_millis(200);

/// A tile to be written. `digest` is the MD5 of `bytes`, which the server checks (RFC 1864).
fn put_of_tile(store: &Store, tile: TileId, bytes: Vec<u8>, digest: [u8; 16], packed: bool) -> Put {
    let headers = super::headers::of_tile(&store.options, tile, packed);
    Put { body: bytes, headers, digest: Some(digest), condition: WriteCondition::Always, line_time: Duration::ZERO }
}

/// Adds a tile unless it exists. If a tile with other bytes exists, counts it in `found`.
async fn add(
    store: &Store,
    name: &str,
    tile: TileId,
    bytes: Vec<u8>,
    wanted: [u8; 16],
    packed: bool,
    found: &AtomicU64,
) -> Result<(), Refusal> {
    let mut attempt = 1;
    loop {
        let put = put_of_tile(store, tile, bytes.clone(), wanted, packed);
        let refusal = match store.put(name, Put { condition: WriteCondition::Absent, ..put }).await {
            Err(refusal) if refusal.meaning == Meaning::Condition => refusal,
            outcome => return outcome.map(drop),
        };
        match store.client.head(&store.key(name)).await {
            Ok(there) => {
                // An earlier attempt of this request may have stored it.
                if there.digest != Some(wanted) {
                    found.fetch_add(1, Ordering::Relaxed);
                }
                return Ok(());
            }
            Err(Refusal { meaning: Meaning::Missing, .. }) if attempt < MAX_CONFLICTS => {
                attempt += 1;
                tokio::time::sleep(CONFLICT_PAUSE).await;
            }
            Err(Refusal { meaning: Meaning::Missing, .. }) => return Err(refusal),
            Err(other) => return Err(other),
        }
    }
}

/// The requests of a run in flight.
#[derive(Debug)]
pub(crate) struct Uploads {
    store: Arc<Store>,
    runtime: Handle,
    stop: Stop,
    room: Arc<Semaphore>,
    /// A permit for each KiB of tiles in flight.
    room_kib: Arc<Semaphore>,
    tasks: JoinSet<()>,
    failures: Arc<Mutex<Failures>>,
    limit: u64,
    has_sent: bool,
    /// For tiles that are only added: the number of tiles that already existed. `None`: tiles are replaced.
    adding_only: Option<Arc<AtomicU64>>,
}

impl Uploads {
    pub(crate) fn new(store: &Arc<Store>, runtime: &Handle, stop: &Stop) -> Uploads {
        let in_flight = store.options.section.in_flight.get();
        Uploads {
            store: Arc::clone(store),
            runtime: runtime.clone(),
            stop: stop.clone(),
            room: Arc::new(Semaphore::new(in_flight)),
            room_kib: Arc::new(Semaphore::new(MAX_KIB_IN_FLIGHT as usize)),
            tasks: JoinSet::new(),
            failures: Arc::default(),
            limit: MAX_FAILURES_IN_A_ROW.max(in_flight as u64 + 1),
            has_sent: false,
            adding_only: None,
        }
    }

    /// Makes the uploads replace no tile: an existing tile stays, and is counted in `found`.
    pub(crate) fn adding_only(mut self, found: Arc<AtomicU64>) -> Uploads {
        self.adding_only = Some(found);
        self
    }

    /// Starts the upload of a tile, once there is room. `digest` is the MD5 of `bytes`, which the server checks (RFC
    /// 1864).
    pub(crate) fn put(
        &mut self,
        name: String,
        tile: TileId,
        bytes: Box<[u8]>,
        digest: [u8; 16],
        packed: bool,
    ) -> Result<(), BucketError> {
        self.check()?;
        let permits = (self.permit(&self.room, 1)?, self.permit(&self.room_kib, kib(bytes.len()))?);
        self.has_sent = true;
        let (store, failures, limit) = (Arc::clone(&self.store), Arc::clone(&self.failures), self.limit);
        let found = self.adding_only.clone();
        self.tasks.spawn_on(
            async move {
                let flight = store.flights.begin();
                let outcome = if let Some(found) = found {
                    add(&store, &name, tile, bytes.into_vec(), digest, packed, &found).await
                } else {
                    let put = put_of_tile(&store, tile, bytes.into_vec(), digest, packed);
                    store.put(&name, put).await.map(drop)
                };
                drop(flight);
                let mut failures = failures.lock();
                match outcome {
                    Ok(()) => (failures.in_a_row, failures.succeeded) = (0, failures.succeeded + 1),
                    Err(refusal) => failures.add(limit, Action::Put, &name, refusal),
                }
                drop(permits);
            },
            &self.runtime,
        );
        Ok(())
    }

    /// Starts to delete up to [`MAX_NAMES_PER_DELETE`](super::client::MAX_NAMES_PER_DELETE) tiles, once there is room.
    pub(crate) fn delete(&mut self, names: Vec<String>) -> Result<(), BucketError> {
        self.check()?;
        let permit = self.permit(&self.room, 1)?;
        self.has_sent = true;
        let (store, failures, limit) = (Arc::clone(&self.store), Arc::clone(&self.failures), self.limit);
        self.tasks.spawn_on(
            async move {
                let flight = store.flights.begin();
                let left = store.delete(&names).await;
                drop(flight);
                let mut failures = failures.lock();
                if left.len() < names.len() {
                    (failures.in_a_row, failures.succeeded) = (0, failures.succeeded + 1);
                }
                // A request that failed as a whole counts as one failure in a row, however many names it had.
                let before = failures.in_a_row;
                for (name, refusal) in left {
                    failures.in_a_row = before;
                    failures.add(limit, Action::Delete, &name, refusal);
                }
                drop(permit);
            },
            &self.runtime,
        );
        Ok(())
    }

    /// What the target holds under each name: `None` for no tile, otherwise the MD5 of its bytes if its `ETag` is one.
    /// Asks the server only about tiles that were not read since the run began; these requests and the uploads share
    /// the limit of requests in flight.
    /// Fails if the server does not answer, or a stop was asked for.
    pub(crate) fn head(&self, names: &[String]) -> Result<Vec<Option<Tag>>, BucketError> {
        let interrupted = || BucketError::Interrupted { place: self.store.location.to_string() };
        let heads = stream::iter(names).map(|name| async move {
            // A patch has read the tile, and nobody else writes it while this run holds the lease.
            if let Some(found) = self.store.options.shared.take(name) {
                return Ok(found.held());
            }
            let _permit = self.room.acquire().await.map_err(|_closed| interrupted())?;
            let _flight = self.store.flights.begin();
            Ok(self.store.head(name).await?.map(|head| head.digest))
        });
        let found = heads.buffered(self.store.options.section.in_flight.get()).try_collect();
        wait(&self.runtime, unless_stopped(&self.stop, &self.store.location, found))
    }

    /// True if the listing of the target says the digests of tiles.
    pub(crate) fn lists_digests(&self) -> bool {
        self.store.client.lists_digests()
    }

    /// True if an upload or a deletion was started.
    pub(crate) const fn has_sent(&self) -> bool {
        self.has_sent
    }

    /// Waits until every request has ended.
    /// Fails if a request failed, or a stop was asked for.
    pub(crate) fn settle(&mut self) -> Result<(), BucketError> {
        let Uploads { tasks, failures, .. } = self;
        let ended = async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(died) = ended {
                    let refusal = Refusal { meaning: Meaning::Other, cause: BucketCause(died.to_string()) };
                    failures.lock().add(1, Action::Put, "a tile", refusal);
                }
            }
            Ok(())
        };
        wait(&self.runtime, unless_stopped(&self.stop, &self.store.location, ended))?;
        let failures = self.failures.lock();
        if failures.count == 0 { Ok(()) } else { Err(self.failed(&failures)) }
    }

    /// Fails if further requests are pointless, or a stop was asked for. Does not wait.
    fn check(&mut self) -> Result<(), BucketError> {
        while let Some(done) = self.tasks.try_join_next() {
            if let Err(died) = done {
                let refusal = Refusal { meaning: Meaning::Other, cause: BucketCause(died.to_string()) };
                let mut failures = self.failures.lock();
                failures.add(1, Action::Put, "a tile", refusal);
            }
        }
        let ended = {
            let failures = self.failures.lock();
            failures.end.is_some().then(|| self.failed(&failures))
        };
        if let Some(error) = ended {
            return Err(error);
        }
        match self.stop.asked() {
            Some(_signal) => Err(BucketError::Interrupted { place: self.store.location.to_string() }),
            None => Ok(()),
        }
    }

    /// Takes `amount` permits, once they are free.
    fn permit(&self, room: &Arc<Semaphore>, amount: u32) -> Result<OwnedSemaphorePermit, BucketError> {
        if let Ok(permit) = Arc::clone(room).try_acquire_many_owned(amount) {
            return Ok(permit);
        }
        let interrupted = || BucketError::Interrupted { place: self.store.location.to_string() };
        // The semaphore is never closed; if it were, nothing could be sent any more.
        let permit = async { Arc::clone(room).acquire_many_owned(amount).await.map_err(|_closed| interrupted()) };
        wait(&self.runtime, unless_stopped(&self.stop, &self.store.location, permit))
    }

    /// The error of the run: the cause itself if no request succeeded or no other can succeed; otherwise how many
    /// failed, and which.
    fn failed(&self, failures: &Failures) -> BucketError {
        if let Some((action, name, refusal)) = &failures.end
            && (refusal.concerns_all() || failures.succeeded == 0)
        {
            return self.store.error(*action, name, refusal.clone());
        }
        let source =
            failures.first.as_ref().map_or_else(|| BucketCause(String::new()), |(_, _, refusal)| refusal.cause.clone());
        let (missing, first) = (failures.count, failures.shown.clone());
        BucketError::Incomplete { place: self.store.location.to_string(), missing, first, source }
    }
}
