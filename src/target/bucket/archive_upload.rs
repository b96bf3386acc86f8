//! The upload of an archive, by one request or in parts: readers see the old archive or the new one.

use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use md5::{Digest as _, Md5};
use tokio::runtime::Handle;

use super::client::{Condition, Part, Put, SentParts, line_time};
use super::lease::Lease;
use super::refusal::{Meaning, Refusal};
use super::store::Store;
use super::{Action, BucketError, BucketOptions, Flights, MAX_UNDO_TIME, ObjectKey, unless_stopped, wait};
use crate::hex::hex;
use crate::stop::Stop;

/// The media type of PMTiles (PMTiles v3, section 7).
const PMTILES: &str = "application/vnd.pmtiles";

/// The most parts of an upload (Amazon S3 User Guide, "Multipart upload limits").
const MAX_PARTS: u64 = 10_000;

/// The most bytes of parts in flight. A part is held in memory, so that it can be sent again.
const MAX_PART_BYTES_IN_FLIGHT: u64 = 256 << 20;

/// Bytes that one request downloads: few enough to repeat, enough to use the line's full speed.
const DOWNLOAD_BYTES_PER_REQUEST: u64 = 8 << 20;
/// The most requests of a download in flight.
const MAX_DOWNLOADS_IN_FLIGHT: usize = 8;

/// An archive in a bucket that a run is going to replace.
#[derive(Debug)]
pub struct BucketArchive {
    runtime: Handle,
    stop: Stop,
    store: Arc<Store>,
    name: String,
    /// The condition of the upload: the object is as it was at the beginning.
    seen: Condition,
    /// The length of the object at the beginning, in bytes; `None` if there was none.
    length: Option<u64>,
    /// The lease on the archive, where an upload in parts honours no condition.
    lease: Option<Box<Lease>>,
}

impl BucketArchive {
    /// Asks for the object that is stored now: the upload will replace only this object.
    pub fn begin(
        key: &ObjectKey,
        options: BucketOptions,
        runtime: Handle,
        stop: &Stop,
    ) -> Result<BucketArchive, BucketError> {
        BucketArchive::begin_with(key, options, runtime, stop, Writers::Several)
    }

    /// As [`BucketArchive::begin`], for an object whose name nobody else writes.
    pub(crate) fn begin_alone(
        key: &ObjectKey,
        options: BucketOptions,
        runtime: Handle,
        stop: &Stop,
    ) -> Result<BucketArchive, BucketError> {
        BucketArchive::begin_with(key, options, runtime, stop, Writers::One)
    }

    fn begin_with(
        key: &ObjectKey,
        options: BucketOptions,
        runtime: Handle,
        stop: &Stop,
        writers: Writers,
    ) -> Result<BucketArchive, BucketError> {
        let name = key.key.clone();
        let beginning = async {
            let store = Store::open(key.bucket_as_location(), options).await?;
            // Lists first, because the answer to HEAD has no body that could report a missing bucket.
            store.list(&name, None).await?;
            let lease = if writers == Writers::One || store.client.has_conditional_parts() {
                None
            } else {
                Some(Box::new(Lease::take_beside(&store, key, &runtime).await?))
            };
            let there = store.head(&name).await?;
            Ok::<_, BucketError>((store, lease, there))
        };
        let (store, lease, there) = wait(&runtime, unless_stopped(stop, key, beginning))?;
        let (length, tag) = there.map_or((None, None), |head| (Some(head.length), head.tag));
        let seen = Condition::as_seen(tag.as_ref());
        Ok(BucketArchive { runtime, stop: stop.clone(), store, name, seen, length, lease })
    }

    /// Downloads the object that was there at the beginning; returns its URL, or `None` if there was none.
    /// Fails if the archive cannot be read or written to `to`, or somebody else replaced it in the meantime.
    pub(crate) fn download(&self, to: &Path) -> Result<Option<String>, BucketError> {
        let Some(length) = self.length else { return Ok(None) };
        let place = self.store.place(&self.name);
        let unwritable = |source| BucketError::Scratch { path: to.to_owned(), source };
        let mut file = File::create_new(to).map_err(unwritable)?;
        let at_once = MAX_DOWNLOADS_IN_FLIGHT.min(self.store.options.section.in_flight.get());
        let offsets: Vec<u64> =
            (0..length).step_by(usize::try_from(DOWNLOAD_BYTES_PER_REQUEST).unwrap_or(usize::MAX)).collect();
        for offsets in offsets.chunks(at_once) {
            let ranges = stream::iter(offsets)
                .map(|offset| self.fetch(*offset..length.min(offset + DOWNLOAD_BYTES_PER_REQUEST)));
            let pieces = ranges.buffered(at_once).try_collect::<Vec<Vec<u8>>>();
            let pieces = wait(&self.runtime, unless_stopped(&self.stop, &place, pieces))?;
            pieces.iter().try_for_each(|piece| file.write_all(piece)).map_err(unwritable)?;
        }
        Ok(Some(place))
    }

    async fn fetch(&self, range: Range<u64>) -> Result<Vec<u8>, BucketError> {
        let _flight = self.store.flights.begin();
        let most = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let object = self.store.read(&self.name, Some(range.clone()), most).await;
        let object = object.map_err(|refusal| self.store.error(Action::Get, &self.name, refusal))?;
        let same = match &self.seen {
            Condition::Unchanged(tag) => *tag == object.tag,
            Condition::Always | Condition::Absent => true,
        };
        if same && object.body.len() as u64 == range.end - range.start {
            return Ok(object.body);
        }
        Err(BucketError::Changed { place: self.store.place(&self.name) })
    }

    /// The count of requests in flight.
    pub fn flights(&self) -> Flights {
        self.store.flights.clone()
    }

    /// The object's URL.
    pub(crate) fn place(&self) -> String {
        self.store.place(&self.name)
    }

    /// Uploads a finished file; returns the archive's URL. If the upload fails or a stop was asked for, no part stays
    /// in the bucket.
    /// Fails if the file cannot be read, the bucket cannot be written, or somebody else replaced the archive meanwhile.
    pub fn upload(self, path: &Path) -> Result<String, BucketError> {
        let unreadable =
            |source| BucketError::File { path: path.to_owned(), place: self.store.place(&self.name), source };
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let upload = Upload { archive: &self, path, file: Arc::new(file), length };
        wait(&self.runtime, upload.send())?;
        Ok(self.store.place(&self.name))
    }

    /// Fails if somebody else has replaced the object since the beginning, where the server does not see to it.
    async fn check_unchanged(&self) -> Result<(), BucketError> {
        let Some(lease) = &self.lease else { return Ok(()) };
        lease.confirm().await?;
        let tag = self.store.head(&self.name).await?.and_then(|head| head.tag);
        if Condition::as_seen(tag.as_ref()) == self.seen {
            return Ok(());
        }
        Err(BucketError::Changed { place: self.store.place(&self.name) })
    }
}

impl Drop for BucketArchive {
    /// Gives the lease back, so that the next run does not have to wait until it expires.
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        // The timer needs the runtime in which it is made.
        let released = wait(&self.runtime, async { tokio::time::timeout(MAX_UNDO_TIME, lease.release()).await });
        if !matches!(released, Ok(Ok(()))) {
            let place = self.store.place(&self.name);
            tracing::warn!("the lease on {place} could not be given back, and expires by itself");
        }
    }
}

/// How many runs may write an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writers {
    One,
    Several,
}

/// A file that is being uploaded.
struct Upload<'a> {
    archive: &'a BucketArchive,
    path: &'a Path,
    file: Arc<File>,
    length: u64,
}

impl Upload<'_> {
    async fn send(&self) -> Result<(), BucketError> {
        let BucketArchive { store, stop, .. } = self.archive;
        let interrupted = || BucketError::Interrupted { place: self.place() };
        if self.length <= store.options.section.part_size() {
            return unless_stopped(stop, self.place(), self.send_at_once()).await;
        }
        // A stop does not cancel this request at once: an upload whose id did not arrive could not be aborted.
        let id =
            Box::pin(stop.within(MAX_UNDO_TIME, self.begin_parts())).await.unwrap_or_else(|| Err(interrupted()))?;
        let sent = unless_stopped(stop, self.place(), self.send_parts(&id)).await;
        if sent.is_err() {
            self.abort(&id).await;
        }
        sent
    }

    fn place(&self) -> String {
        self.archive.store.place(&self.archive.name)
    }

    fn error(&self, refusal: Refusal) -> BucketError {
        self.archive.store.error(Action::Put, &self.archive.name, refusal)
    }

    async fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, BucketError> {
        let file = Arc::clone(&self.file);
        let read = move || {
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
            file.read_exact_at(&mut bytes, offset).map(|()| bytes)
        };
        let read = tokio::task::spawn_blocking(read).await.map_err(std::io::Error::other).flatten();
        read.map_err(|source| BucketError::File { path: self.path.to_owned(), place: self.place(), source })
    }

    async fn send_at_once(&self) -> Result<(), BucketError> {
        let BucketArchive { store, name, seen, .. } = self.archive;
        let bytes = self.read(0, self.length).await?;
        let digest: [u8; 16] = Md5::digest(&bytes).into();
        let headers = super::headers::of_archive(&store.options, PMTILES);
        let line_time = line_time(self.length);
        let put = Put { body: bytes, headers, digest: Some(digest), condition: seen.clone(), line_time };
        let _flight = store.flights.begin();
        match store.put(name, put).await {
            Ok(_) => Ok(()),
            Err(refusal) => self.unless_stored(&hex(digest), refusal).await,
        }
    }

    /// `Ok` if the server has stored the file in spite of the refusal: the answer to the first attempt may have been
    /// lost, and the second attempt refused because the object had changed.
    async fn unless_stored(&self, digest: &str, refusal: Refusal) -> Result<(), BucketError> {
        if matches!(refusal.meaning, Meaning::Condition | Meaning::Missing)
            && let Some(head) = self.archive.store.head(&self.archive.name).await?
            && head.length == self.length
            && (head.tag.is_some_and(|tag| tag.trim_matches('"') == digest)
                || head.digest.is_some_and(|found| hex(found) == digest))
        {
            return Ok(());
        }
        Err(self.error(refusal))
    }

    async fn begin_parts(&self) -> Result<String, BucketError> {
        let BucketArchive { store, name, .. } = self.archive;
        let headers = super::headers::of_archive(&store.options, PMTILES);
        store.client.begin_parts(&store.key(name), headers).await.map_err(|refusal| self.error(refusal))
    }

    async fn send_parts(&self, id: &str) -> Result<(), BucketError> {
        let BucketArchive { store, name, seen, .. } = self.archive;
        let size = store.options.section.part_size().max(self.length.div_ceil(MAX_PARTS));
        let at_once = usize::try_from(MAX_PART_BYTES_IN_FLIGHT / size)
            .unwrap_or(1)
            .clamp(1, store.options.section.in_flight.get());
        let key = store.key(name);
        // One part after the other is read and handed over, as the client wants it; they are sent at once.
        let sent = stream::iter(0..self.length.div_ceil(size))
            .then(|number| {
                let offset = number * size;
                let length = size.min(self.length - offset);
                async move {
                    let bytes = self.read(offset, length).await?;
                    let digest: [u8; 16] = Md5::digest(&bytes).into();
                    Ok::<_, BucketError>(Part { number, bytes, digest, line_time: line_time(length) })
                }
            })
            .map(|part| {
                let part = part.map(|part| (part.digest, store.client.put_part(&key, id, part)));
                async move {
                    let (digest, sending) = part?;
                    let _flight = store.flights.begin();
                    Ok::<_, BucketError>((digest, sending.await.map_err(|refusal| self.error(refusal))?))
                }
            });
        let parts: Vec<([u8; 16], String)> = sent.buffered(at_once).try_collect::<Vec<_>>().await?;
        let (digests, tags): (Vec<[u8; 16]>, Vec<String>) = parts.into_iter().unzip();
        self.archive.check_unchanged().await?;
        let sent = SentParts { id, tags, condition: seen, line_time: line_time(self.length) };
        match store.client.complete_parts(&key, sent).await {
            Ok(()) => Ok(()),
            Err(refusal) => {
                let digest = format!("{}-{}", hex(Md5::digest(digests.concat())), digests.len());
                self.unless_stored(&digest, refusal).await
            }
        }
    }

    /// Asks the server to delete the parts. Warns if the upload could not be aborted: its parts cost money until they
    /// are deleted.
    async fn abort(&self, id: &str) {
        let BucketArchive { store, name, stop, .. } = self.archive;
        let key = store.key(name);
        match stop.within(MAX_UNDO_TIME, store.client.abort_parts(&key, id)).await {
            Some(Err(refusal)) if refusal.meaning != Meaning::Missing => {
                let error = store.error(Action::Abort, name, refusal.clone());
                tracing::warn!("the parts of upload {id} stay in the bucket: {error}: {}", refusal.cause);
            }
            Some(_) => {}
            None => tracing::warn!(
                "the parts of upload {id} to {} may stay in the bucket: the server has not answered in time. Abort the upload, or have a lifecycle rule remove such parts",
                self.place()
            ),
        }
    }
}
