//! Requests in flight that write tiles and delete them: bounded, and every failure kept.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::primitives::ByteStream;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::cause::{Meaning, Refusal, S3Cause};
use super::error::Action;
use super::open::digest;
use super::store::Store;
use super::upload::head;
use super::{S3Error, wait};
use crate::sink::tree::Tag;
use crate::stop::Stop;
use crate::tile::Zoom;

/// Names shown of those that failed.
const SHOWN: usize = 20;

/// Failures in a row, without any success between, after which a run gives up. A request fails only after all its attempts,
/// over seconds, so a server that takes none of so many is not about to recover; and one gust that hits everything in flight
/// (64 by default) stays below it.
const IN_A_ROW: u64 = 100;

/// The most bytes of tiles in flight, in KiB; a larger tile goes up alone. 64 requests of common tiles, which have 100 KB at most, have far
/// less.
const MAX_KIB_IN_FLIGHT: u32 = 32 << 10;

/// The room that some bytes take, in KiB.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX).min(MAX_KIB_IN_FLIGHT)
}

/// What failed.
#[derive(Debug, Default)]
struct Failures {
    count: u64,
    in_a_row: u64,
    succeeded: u64,
    shown: Vec<String>,
    first: Option<(Action, String, Refusal)>,
    /// The refusal that makes any further request pointless.
    end: Option<(Action, String, Refusal)>,
}

impl Failures {
    fn add(&mut self, limit: u64, action: Action, name: &str, refusal: Refusal) {
        self.count += 1;
        self.in_a_row += 1;
        if self.shown.len() < SHOWN {
            self.shown.push(format!("{name} ({})", refusal.cause));
        }
        if self.end.is_none() && (refusal.concerns_all() || self.in_a_row >= limit) {
            self.end = Some((action, name.to_owned(), refusal.clone()));
        }
        self.first.get_or_insert_with(|| (action, name.to_owned(), refusal));
    }
}

/// The requests of a run.
#[derive(Debug)]
pub(super) struct Uploads {
    store: Arc<Store>,
    runtime: Handle,
    stop: Stop,
    room: Arc<Semaphore>,
    /// Room for the bytes of tiles, in KiB.
    room_kib: Arc<Semaphore>,
    tasks: JoinSet<()>,
    failures: Arc<Mutex<Failures>>,
    limit: u64,
    has_sent: bool,
}

impl Uploads {
    pub(super) fn new(store: &Arc<Store>, runtime: &Handle, stop: &Stop) -> Uploads {
        let in_flight = store.options.in_flight.get();
        Uploads {
            store: Arc::clone(store),
            runtime: runtime.clone(),
            stop: stop.clone(),
            room: Arc::new(Semaphore::new(in_flight)),
            room_kib: Arc::new(Semaphore::new(MAX_KIB_IN_FLIGHT as usize)),
            tasks: JoinSet::new(),
            failures: Arc::default(),
            limit: IN_A_ROW.max(in_flight as u64 + 1),
            has_sent: false,
        }
    }

    /// Sends a tile, once there is room. `digest` is the MD5 of its bytes, which the server checks (RFC 1864).
    pub(super) fn put(
        &mut self,
        name: String,
        zoom: Zoom,
        bytes: Box<[u8]>,
        digest: [u8; 16],
        packed: bool,
    ) -> Result<(), S3Error> {
        self.check()?;
        let permits = (self.permit(&self.room, 1)?, self.permit(&self.room_kib, kib(bytes.len()))?);
        self.has_sent = true;
        let (store, failures, limit) = (Arc::clone(&self.store), Arc::clone(&self.failures), self.limit);
        self.tasks.spawn_on(
            async move {
                let flight = store.flights.begin();
                let request = store.client.put_object().body(ByteStream::from(bytes.into_vec()));
                let request = super::headers::of_tile(request, &store.options.headers, zoom, packed)
                    .content_md5(aws_smithy_types::base64::encode(digest));
                let outcome = store.put(request, &name).await;
                drop(flight);
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                match outcome {
                    Ok(_) => (failures.in_a_row, failures.succeeded) = (0, failures.succeeded + 1),
                    Err(refusal) => failures.add(limit, Action::Put, &name, refusal),
                }
                drop(permits);
            },
            &self.runtime,
        );
        Ok(())
    }

    /// Deletes up to 1,000 names, once there is room.
    pub(super) fn delete(&mut self, names: Vec<String>) -> Result<(), S3Error> {
        self.check()?;
        let permit = self.permit(&self.room, 1)?;
        self.has_sent = true;
        let (store, failures, limit) = (Arc::clone(&self.store), Arc::clone(&self.failures), self.limit);
        self.tasks.spawn_on(
            async move {
                let flight = store.flights.begin();
                let left = store.delete(&names).await;
                drop(flight);
                let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                if left.len() < names.len() {
                    (failures.in_a_row, failures.succeeded) = (0, failures.succeeded + 1);
                }
                // A request that failed as a whole is one failure in a row, however many names it had.
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

    /// What there is under some names: `None` for one that is not there, the MD5 of its bytes if its `ETag` tells it. Asks the server only
    /// about those that were not read since the run began, as many at once as may be in flight beside what is.
    ///
    /// # Errors
    /// If the server does not say, or a stop was asked for.
    pub(super) fn look(&self, names: &[String]) -> Result<Vec<Option<Tag>>, S3Error> {
        let interrupted = || S3Error::Interrupted { place: self.store.location.to_string() };
        let looks = stream::iter(names).map(|name| async move {
            // A patch has read it, and nobody else may write it.
            if let Some(found) = self.store.options.shared.take(name) {
                return Ok(found.held());
            }
            let _permit = self.room.acquire().await.map_err(|_closed| interrupted())?;
            let _flight = self.store.flights.begin();
            let found = head(&self.store, name).await?;
            Ok(found.map(|(_, tag)| tag.and_then(|tag| digest(tag.trim_matches('"')))))
        });
        wait(&self.runtime, async {
            tokio::select! {
                biased;
                _ = self.stop.wait() => Err(interrupted()),
                found = looks.buffered(self.store.options.in_flight.get()).try_collect() => found,
            }
        })
    }

    /// Whether a tile was sent or deleted.
    pub(super) const fn has_sent(&self) -> bool {
        self.has_sent
    }

    /// Waits until everything has been answered.
    ///
    /// # Errors
    /// If anything failed, or a stop was asked for.
    pub(super) fn settle(&mut self) -> Result<(), S3Error> {
        let (runtime, stop) = (self.runtime.clone(), self.stop.clone());
        let place = self.store.location.to_string();
        let tasks = &mut self.tasks;
        let failures = &self.failures;
        wait(&runtime, async {
            loop {
                let next = tokio::select! {
                    biased;
                    _ = stop.wait() => return Err(S3Error::Interrupted { place }),
                    next = tasks.join_next() => next,
                };
                match next {
                    None => return Ok(()),
                    Some(Ok(())) => {}
                    Some(Err(died)) => {
                        let refusal = Refusal { meaning: Meaning::Other, cause: S3Cause(died.to_string()) };
                        failures.lock().unwrap_or_else(PoisonError::into_inner).add(1, Action::Put, "a tile", refusal);
                    }
                }
            }
        })?;
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.count == 0 { Ok(()) } else { Err(self.failed(&failures)) }
    }

    /// Gives the failures of requests that were answered; an error if there is no use in sending more.
    fn check(&mut self) -> Result<(), S3Error> {
        while let Some(done) = self.tasks.try_join_next() {
            if let Err(died) = done {
                let refusal = Refusal { meaning: Meaning::Other, cause: S3Cause(died.to_string()) };
                let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.add(1, Action::Put, "a tile", refusal);
            }
        }
        let ended = {
            let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            failures.end.is_some().then(|| self.failed(&failures))
        };
        if let Some(error) = ended {
            return Err(error);
        }
        match self.stop.asked() {
            Some(_signal) => Err(S3Error::Interrupted { place: self.store.location.to_string() }),
            None => Ok(()),
        }
    }

    /// Waits for room.
    fn permit(&self, room: &Arc<Semaphore>, amount: u32) -> Result<OwnedSemaphorePermit, S3Error> {
        if let Ok(permit) = Arc::clone(room).try_acquire_many_owned(amount) {
            return Ok(permit);
        }
        let interrupted = || S3Error::Interrupted { place: self.store.location.to_string() };
        wait(&self.runtime, async {
            tokio::select! {
                biased;
                _ = self.stop.wait() => Err(interrupted()),
                // The semaphore is never closed; if it were, nothing could be sent any more.
                permit = Arc::clone(room).acquire_many_owned(amount) => permit.map_err(|_closed| interrupted()),
            }
        })
    }

    /// The error of what failed: where nothing at all worked, or nothing can work any more, the cause of that.
    fn failed(&self, failures: &Failures) -> S3Error {
        if let Some((action, name, refusal)) = &failures.end
            && (refusal.concerns_all() || failures.succeeded == 0)
        {
            return self.store.error(*action, name, refusal.clone());
        }
        let source =
            failures.first.as_ref().map_or_else(|| S3Cause(String::new()), |(_, _, refusal)| refusal.cause.clone());
        let (missing, first) = (failures.count, failures.shown.clone());
        S3Error::Incomplete { place: self.store.location.to_string(), missing, first, source }
    }
}
