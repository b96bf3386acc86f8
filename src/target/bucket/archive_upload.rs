//! The upload of an archive, by one request or in parts: readers see the old archive or the new one.
//!
//! Of an edited archive the server copies the parts that lie in what stays; the others are sent. All parts are equally
//! long, as some servers demand (Cloudflare R2):
//!
//! ```text
//!  │ front │ stays                                           │ tail                 │
//!  │ sent           │ copied         │ copied         │ sent           │ sent       │
//! ```

use std::fs::File;
use std::io;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use futures_util::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, stream};
use md5::{Digest as _, Md5};
use tokio::runtime::Handle;

use super::client::{CopiedPart, ListedPart, Part, Put, SentParts, WriteCondition, line_time};
use super::lease::Lease;
use super::noted_uploads::{NotedUploads, abort_surely};
use super::refusal::{Meaning, Refusal};
use super::store::{Store, digest};
use super::{
    Action, BucketCause, BucketError, BucketLocation, BucketOptions, Flights, MAX_UNDO_TIME, ObjectKey, unless_stopped,
    wait,
};
use crate::hex::hex;
use crate::scratch::temporary_folder;
use crate::stop::Stop;
use crate::target::ReadError;
use crate::target::pmtiles::{EditedArchive, ReadAt};
use crate::target::tree::Tag;

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
    pub(crate) old: OldObject,
    /// The lease on the archive, where an upload in parts honours no condition.
    lease: Option<Box<Lease>>,
    /// True if its uploads in parts are noted: several runs may write it, and an upload outlives its process.
    notes_uploads: bool,
}

/// An object as it was when a run began: it is read only as long as nobody replaces it.
#[derive(Debug, Clone)]
pub(crate) struct OldObject {
    runtime: Handle,
    stop: Stop,
    store: Arc<Store>,
    name: String,
    place: String,
    /// The condition of the upload: the object is as it was at the beginning.
    seen: WriteCondition,
    /// The length of the object at the beginning, in bytes; `None` if there was none.
    length: Option<u64>,
}

impl OldObject {
    /// The `ETag`; `None` if there was no object.
    fn tag(&self) -> Option<&str> {
        match &self.seen {
            WriteCondition::Unchanged(tag) => Some(tag),
            WriteCondition::Always | WriteCondition::Absent => None,
        }
    }

    /// True if a stop was asked for.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.asked().is_some()
    }

    async fn fetch(&self, range: Range<u64>) -> Result<Vec<u8>, BucketError> {
        let _flight = self.store.flights.begin();
        let most = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let object = self.store.read(&self.name, Some(range.clone()), most).await;
        let object = object.map_err(|refusal| match refusal.meaning {
            Meaning::Missing => BucketError::Deleted { place: self.place.clone() },
            _ => self.store.error(Action::Get, &self.name, refusal),
        })?;
        let same = self.tag().is_none_or(|tag| tag == object.tag);
        if same && object.body.len() as u64 == range.end - range.start {
            return Ok(object.body);
        }
        Err(BucketError::Changed { place: self.place.clone() })
    }

    /// Fetches a range by several requests.
    fn pieces(&self, range: Range<u64>) -> impl Stream<Item = Result<Vec<u8>, BucketError>> {
        let at_once = MAX_DOWNLOADS_IN_FLIGHT.min(self.store.options.section.in_flight.get());
        let begin = range.clone().step_by(usize::try_from(DOWNLOAD_BYTES_PER_REQUEST).unwrap_or(usize::MAX));
        let ranges = stream::iter(begin).map(move |begin| begin..range.end.min(begin + DOWNLOAD_BYTES_PER_REQUEST));
        ranges.map(|range| self.fetch(range)).buffered(at_once)
    }

    /// Writes a range of the object's bytes to a file.
    /// Fails if the archive cannot be read or `file` not be written, or somebody else replaced it in the meantime.
    pub(crate) fn download(
        &self,
        range: Range<u64>,
        mut file: &File,
        unwritable: impl Fn(io::Error) -> BucketError,
    ) -> Result<(), BucketError> {
        let written = async {
            let mut pieces = pin!(self.pieces(range));
            while let Some(piece) = pieces.try_next().await? {
                file.write_all(&piece).map_err(&unwritable)?;
            }
            Ok(())
        };
        wait(&self.runtime, unless_stopped(&self.stop, &self.place, written))
    }

    /// True if between the first and the last part of an edited archive there is another one. `tiles` is the range of
    /// the tile data.
    pub(crate) fn has_part_within(&self, tiles: Range<u64>) -> bool {
        let size = self.store.options.section.part_size();
        let begin = tiles.start.next_multiple_of(size);
        begin.checked_add(size).is_some_and(|end| end <= tiles.end)
    }

    /// True if the archive is longer than two parts.
    pub(crate) fn is_long(&self) -> bool {
        let least = 2 * self.store.options.section.part_size();
        self.length.is_some_and(|length| length > least)
    }

    /// True if the client can have parts of the archive copied, and the server has not refused it.
    pub(crate) fn can_be_copied(&self) -> bool {
        self.tag().is_some() && self.store.client.can_copy_parts() && !self.store.options.shared.refuses_copies()
    }
}

impl ReadAt for OldObject {
    fn place(&self) -> &str {
        &self.place
    }

    fn length(&self) -> u64 {
        self.length.unwrap_or_default()
    }

    fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let range = offset..offset + length as u64;
        Ok(wait(&self.runtime, unless_stopped(&self.stop, &self.place, self.fetch(range)))?)
    }
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
        let (place, seen) = (store.place(&name), WriteCondition::as_seen(tag.as_ref()));
        let notes_uploads = writers == Writers::Several && store.client.keeps_uploads();
        let old = OldObject { runtime, stop: stop.clone(), store, name, place, seen, length };
        Ok(BucketArchive { old, lease, notes_uploads })
    }

    /// Downloads the object that was there at the beginning; returns its URL, or `None` if there was none.
    /// Fails if the archive cannot be read or written to `to`, or somebody else replaced it in the meantime.
    pub(crate) fn download(&self, to: &Path) -> Result<Option<String>, BucketError> {
        let Some(length) = self.old.length else { return Ok(None) };
        let unwritable = |source| BucketError::Scratch { path: to.to_owned(), source };
        let file = File::create_new(to).map_err(unwritable)?;
        self.old.download(0..length, &file, unwritable)?;
        Ok(Some(self.place()))
    }

    /// The count of requests in flight.
    pub fn flights(&self) -> Flights {
        self.old.store.flights.clone()
    }

    /// True if no other run can replace the object meanwhile. Otherwise the upload fails if one has.
    pub(crate) const fn is_locked(&self) -> bool {
        self.lease.is_some()
    }

    /// The object's URL.
    pub(crate) fn place(&self) -> String {
        self.old.place.clone()
    }

    /// Uploads a finished file; returns the archive's URL. If the upload fails or a stop was asked for, no part stays
    /// in the bucket.
    /// Fails if the file cannot be read, the bucket cannot be written, or somebody else replaced the archive meanwhile.
    pub fn upload(self, path: &Path) -> Result<String, BucketError> {
        let unreadable = |source| BucketError::File { path: path.to_owned(), place: self.place(), source };
        let file = File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let upload = Upload { archive: &self, source: Source::File { path, file: Arc::new(file) }, length };
        wait(&self.old.runtime, upload.send())?;
        Ok(self.place())
    }

    /// Uploads what is new in an edited archive, and has the server copy the rest. Returns false, and leaves no part in
    /// the bucket, if the server does not copy parts; otherwise as [`BucketArchive::upload`].
    pub(crate) fn upload_edited(&self, edited: &EditedArchive) -> Result<bool, BucketError> {
        let upload = Upload { archive: self, source: Source::Edited(edited), length: edited.length() };
        Ok(wait(&self.old.runtime, upload.send())? == Sent::Stored)
    }

    /// Fails if somebody else has replaced the object since the beginning, where the server does not see to it.
    async fn check_unchanged(&self) -> Result<(), BucketError> {
        let Some(lease) = &self.lease else { return Ok(()) };
        lease.confirm().await?;
        self.check_tag().await
    }

    /// Fails if somebody else has replaced the object since the beginning.
    async fn check_tag(&self) -> Result<(), BucketError> {
        let head = self.old.store.head(&self.old.name).await?;
        let (is_there, tag) = (head.is_some(), head.and_then(|head| head.tag));
        match WriteCondition::as_seen(tag.as_ref()) == self.old.seen {
            true => Ok(()),
            false if is_there => Err(BucketError::Changed { place: self.place() }),
            false => Err(BucketError::Deleted { place: self.place() }),
        }
    }
}

impl Drop for BucketArchive {
    /// Gives the lease back, so that the next run does not have to wait until it expires.
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        // The timer needs the runtime in which it is made.
        let released = wait(&self.old.runtime, async { tokio::time::timeout(MAX_UNDO_TIME, lease.release()).await });
        if !matches!(released, Ok(Ok(()))) {
            tracing::warn!("the lease on {} could not be given back, and expires by itself", self.old.place);
        }
    }
}

/// How many runs may write an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writers {
    One,
    Several,
}

/// An archive that is being uploaded.
struct Upload<'a> {
    archive: &'a BucketArchive,
    source: Source<'a>,
    length: u64,
}

/// Where the bytes of an upload come from.
enum Source<'a> {
    File { path: &'a Path, file: Arc<File> },
    Edited(&'a EditedArchive),
}

/// How an upload ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Stored,
    /// The server does not copy parts, and nothing was stored.
    NoCopies,
}

/// A part that the server has.
struct SentPart {
    /// From 0 on.
    number: u64,
    tag: String,
    /// The MD5 of its bytes, if it is known.
    digest: Tag,
    /// True if the server has copied it.
    is_copy: bool,
}

/// Why a part could not be sent or copied.
enum PartFault {
    NoCopies(Refusal),
    Failed(BucketError),
}

impl From<BucketError> for PartFault {
    fn from(error: BucketError) -> PartFault {
        PartFault::Failed(error)
    }
}

impl Upload<'_> {
    async fn send(&self) -> Result<Sent, BucketError> {
        let OldObject { stop, place, .. } = &self.archive.old;
        let interrupted = || BucketError::Interrupted { place: place.clone() };
        let mut noted = unless_stopped(stop, place, async { Ok(self.noted_uploads().await) }).await?;
        if !self.has_parts(self.length) {
            let sent = unless_stopped(stop, place, self.send_at_once()).await?;
            self.note_replaced(noted).await;
            return Ok(sent);
        }
        // A stop does not cancel this request at once: an upload whose id did not arrive could not be aborted.
        let id =
            Box::pin(stop.within(MAX_UNDO_TIME, self.begin_parts())).await.unwrap_or_else(|| Err(interrupted()))?;
        let sending = async {
            if let Some(noted) = &mut noted {
                noted.add(&id, self.length).await;
            }
            self.send_parts(&id).await
        };
        let sent = unless_stopped(stop, place, sending).await;
        if matches!(sent, Ok(Sent::Stored)) {
            self.note_replaced(noted).await;
        } else {
            self.abort(&id, noted).await;
        }
        sent
    }

    /// True if an archive of this length is sent in parts.
    fn has_parts(&self, length: u64) -> bool {
        length > self.archive.old.store.options.section.part_size()
    }

    /// What is noted of uploads to this archive. A short archive that replaces a short one asks for nothing.
    async fn noted_uploads(&self) -> Option<NotedUploads> {
        let OldObject { store, name, length, .. } = &self.archive.old;
        let may_have_uploads = self.has_parts(self.length) || length.is_none_or(|length| self.has_parts(length));
        if !self.archive.notes_uploads || !may_have_uploads {
            return None;
        }
        let BucketLocation { scheme, bucket, .. } = store.location.clone();
        NotedUploads::begin(store, &ObjectKey { scheme, bucket, key: name.clone() }).await
    }

    /// Aborts what other runs have left. The archive is published, so that a stop cannot undo it any more.
    async fn note_replaced(&self, noted: Option<NotedUploads>) {
        if let Some(mut noted) = noted {
            self.archive.old.stop.within(MAX_UNDO_TIME, noted.replaced()).await;
        }
    }

    /// The error of a request of this upload. What is missing is the object that it was to replace, or else the upload.
    async fn error(&self, refusal: Refusal) -> BucketError {
        let OldObject { store, name, place, .. } = &self.archive.old;
        if refusal.meaning != Meaning::Missing {
            return store.error(Action::Put, name, refusal);
        }
        match self.archive.check_tag().await {
            Ok(()) => BucketError::UploadGone { place: place.clone(), source: refusal.cause },
            Err(error) => error,
        }
    }

    /// Reads bytes that are to be sent.
    async fn read(&self, range: Range<u64>) -> Result<Vec<u8>, BucketError> {
        let place = || self.archive.place();
        match &self.source {
            Source::File { path, file } => {
                let (file, length) = (Arc::clone(file), range.end - range.start);
                let read = blocking(move || {
                    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
                    file.read_exact_at(&mut bytes, range.start).map(|()| bytes)
                });
                let path = path.to_path_buf();
                read.await.map_err(|source| BucketError::File { path, place: place(), source })
            }
            Source::Edited(edited) => {
                let stays = edited.stays();
                let mut bytes = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or_default());
                bytes.extend_from_slice(edited.front(&range));
                let old = range.start.max(stays.start)..range.end.min(stays.end);
                if !old.is_empty() {
                    let mut pieces = pin!(self.archive.old.pieces(old));
                    while let Some(piece) = pieces.try_next().await? {
                        bytes.extend(piece);
                    }
                }
                let tail = edited.tail(&range);
                let path = temporary_folder();
                let tail = blocking(move || tail.read()).await;
                bytes.extend(tail.map_err(|source| BucketError::File { path, place: place(), source })?);
                Ok(bytes)
            }
        }
    }

    async fn send_at_once(&self) -> Result<Sent, BucketError> {
        let OldObject { store, name, seen, .. } = &self.archive.old;
        let bytes = self.read(0..self.length).await?;
        let digest: [u8; 16] = Md5::digest(&bytes).into();
        let headers = super::headers::of_archive(&store.options, PMTILES);
        let line_time = line_time(self.length);
        let put = Put { body: bytes, headers, digest: Some(digest), condition: seen.clone(), line_time };
        let _flight = store.flights.begin();
        match store.put(name, put).await {
            Ok(_) => Ok(Sent::Stored),
            Err(refusal) => self.unless_stored(Some(hex(digest)), refusal).await,
        }
    }

    /// [`Sent::Stored`] if the server has stored the archive in spite of the refusal: the answer to the first attempt
    /// may have been lost, and the second attempt refused because the object had changed.
    async fn unless_stored(&self, digest: Option<String>, refusal: Refusal) -> Result<Sent, BucketError> {
        if matches!(refusal.meaning, Meaning::Condition | Meaning::Missing)
            && let Some(digest) = digest
            && let Some(head) = self.archive.old.store.head(&self.archive.old.name).await?
            && head.length == self.length
            && (head.tag.is_some_and(|tag| tag.trim_matches('"') == digest)
                || head.digest.is_some_and(|found| hex(found) == digest))
        {
            return Ok(Sent::Stored);
        }
        Err(self.error(refusal).await)
    }

    async fn begin_parts(&self) -> Result<String, BucketError> {
        let OldObject { store, name, .. } = &self.archive.old;
        let headers = super::headers::of_archive(&store.options, PMTILES);
        match store.client.begin_parts(&store.key(name), headers).await {
            Ok(id) => Ok(id),
            Err(refusal) => Err(self.error(refusal).await),
        }
    }

    async fn send_parts(&self, id: &str) -> Result<Sent, BucketError> {
        let OldObject { store, name, seen, .. } = &self.archive.old;
        let size = store.options.section.part_size().max(self.length.div_ceil(MAX_PARTS));
        let at_once = usize::try_from(MAX_PART_BYTES_IN_FLIGHT / size)
            .unwrap_or(1)
            .clamp(1, store.options.section.in_flight.get());
        let key = store.key(name);
        let range = |number: u64| number * size..self.length.min((number + 1) * size);
        let (copied, own): (Vec<u64>, Vec<u64>) =
            (0..self.length.div_ceil(size)).partition(|number| self.copied(&range(*number)).is_some());
        let (key, line_time, whole_time) = (&key, line_time(size), line_time(self.length));
        // One part after the other is read and handed over, as the client wants it; they are sent at once.
        let own = stream::iter(own).then(|number| async move {
            let bytes = self.read(range(number)).await?;
            let digest: [u8; 16] = Md5::digest(&bytes).into();
            let part = Part { number, bytes, digest, line_time };
            Ok((number, Some(digest), store.client.put_part(key, id, part)))
        });
        let copied = stream::iter(copied).map(|number| {
            let range = range(number);
            let part = CopiedPart { number, tag: self.copied(&range), range, line_time };
            Ok((number, None, self.copy(key, id, part).boxed()))
        });
        // The server copies while the others are read and sent.
        let sent = stream::select(own, copied).map(|part: Result<_, BucketError>| async move {
            let (number, own_digest, sending) = part?;
            let _flight = store.flights.begin();
            match sending.await {
                Ok(tag) => {
                    let digest = own_digest.or_else(|| digest(tag.trim_matches('"')));
                    Ok(SentPart { number, tag, digest, is_copy: own_digest.is_none() })
                }
                Err(refusal) if own_digest.is_none() && may_take_whole(&refusal) => Err(PartFault::NoCopies(refusal)),
                Err(refusal) => Err(self.error(refusal).await.into()),
            }
        });
        let parts = match sent.buffer_unordered(at_once).try_collect::<Vec<SentPart>>().await {
            Ok(mut parts) => {
                parts.sort_by_key(|part| part.number);
                parts
            }
            Err(PartFault::Failed(error)) => return Err(error),
            Err(PartFault::NoCopies(refusal)) => {
                self.tell_no_copies(&refusal).await?;
                return Ok(Sent::NoCopies);
            }
        };
        if parts.iter().any(|part| part.is_copy)
            && let Err(refusal) = self.check_lengths(key, id, size).await
        {
            if !may_take_whole(&refusal) {
                return Err(self.error(refusal).await);
            }
            self.tell_no_copies(&refusal).await?;
            return Ok(Sent::NoCopies);
        }
        let digests: Option<Vec<[u8; 16]>> = parts.iter().map(|part| part.digest).collect();
        let tags = parts.into_iter().map(|part| part.tag).collect();
        self.archive.check_unchanged().await?;
        if matches!(self.source, Source::Edited(_)) {
            // A server may know no conditions of copies, or ignore them.
            self.archive.check_tag().await?;
        }
        let sent = SentParts { id, tags, condition: seen, line_time: whole_time };
        match store.client.complete_parts(key, sent).await {
            Ok(()) => Ok(Sent::Stored),
            Err(refusal) => {
                let of_parts =
                    |digests: Vec<[u8; 16]>| format!("{}-{}", hex(Md5::digest(digests.concat())), digests.len());
                self.unless_stored(digests.map(of_parts), refusal).await
            }
        }
    }

    /// Refuses parts of other lengths than were asked for: a server that does not know the range of a copy may copy the
    /// whole object, and an archive made of that would be broken. `size` is the length of all parts but the last.
    async fn check_lengths(&self, key: &str, id: &str, size: u64) -> Result<(), Refusal> {
        let listed = self.archive.old.store.client.list_parts(key, id).await?;
        let expected = (0..self.length.div_ceil(size))
            .map(|number| ListedPart { number, length: size.min(self.length - number * size) });
        if listed.iter().copied().eq(expected.clone()) {
            return Ok(());
        }
        let found = listed.iter().copied().map(Some).chain(std::iter::repeat(None));
        let wrong = expected.zip(found).find(|(expected, found)| *found != Some(*expected));
        let cause = match wrong {
            Some((ListedPart { number, length }, Some(found))) if found.number == number => {
                format!("it made {} bytes of part {} where {length} were asked for", found.length, number + 1)
            }
            _ => format!("it lists {} parts of {}", listed.len(), self.length.div_ceil(size)),
        };
        // No run of this process should try it again.
        self.archive.old.store.options.shared.note_no_copies();
        Err(Refusal { meaning: Meaning::Other, cause: BucketCause(cause) })
    }

    /// Says that the whole archive is sent because a copy was refused, or is not what was asked for.
    /// Fails if it was refused because the object is another one now.
    async fn tell_no_copies(&self, refusal: &Refusal) -> Result<(), BucketError> {
        let OldObject { store, place, .. } = &self.archive.old;
        let cause = &refusal.cause;
        if refusal.meaning == Meaning::Missing {
            self.archive.check_tag().await?;
        }
        if refusal.meaning == Meaning::Unknown {
            tracing::info!("{place}: the server copies no parts ({cause}): sending the whole archive");
        } else {
            tracing::warn!(
                "{place}: the server has not copied what stays of the archive ({cause}): sending the whole archive"
            );
        }
        // Everything else may pass.
        if matches!(refusal.meaning, Meaning::Unknown | Meaning::Denied) {
            store.options.shared.note_no_copies();
        }
        Ok(())
    }

    /// Has the server copy a part, without the condition if it knows none of copies (Cloudflare R2). Whether the object
    /// is still the same is then only seen before the last step.
    async fn copy(&self, key: &str, id: &str, part: CopiedPart<'_>) -> Result<String, Refusal> {
        let store = &self.archive.old.store;
        let shared = &store.options.shared;
        if !shared.refuses_copy_conditions() {
            match store.client.copy_part(key, id, part.clone()).await {
                Err(refusal) if refusal.meaning == Meaning::Unknown => {}
                answered => return answered,
            }
        }
        let copied = store.client.copy_part(key, id, CopiedPart { tag: None, ..part }).await;
        if copied.is_ok() {
            shared.note_no_copy_conditions();
        }
        copied
    }

    /// The `ETag` of the old object, if the server can copy these bytes from it.
    fn copied(&self, range: &Range<u64>) -> Option<&str> {
        let Source::Edited(edited) = self.source else { return None };
        let stays = edited.stays();
        self.archive.old.tag().filter(|_| stays.start <= range.start && range.end <= stays.end)
    }

    /// Asks the server to delete the parts. Warns if the upload could not be aborted: its parts cost money until they
    /// are deleted.
    async fn abort(&self, id: &str, noted: Option<NotedUploads>) {
        let OldObject { store, name, stop, place, .. } = &self.archive.old;
        let next = if noted.as_ref().is_some_and(|noted| noted.names(id)) {
            "The next run that replaces the archive aborts it"
        } else {
            "Abort the upload, or have a lifecycle rule remove such parts"
        };
        let aborting = async {
            let aborted = abort_surely(store, name, id, matches!(self.source, Source::Edited(_))).await;
            if let (Ok(()), Some(mut noted)) = (&aborted, noted) {
                noted.aborted().await;
            }
            aborted
        };
        match stop.within(MAX_UNDO_TIME, aborting).await {
            Some(Err(refusal)) => {
                let error = store.error(Action::Abort, name, refusal.clone());
                tracing::warn!("the parts of upload {id} stay in the bucket: {error}: {}. {next}", refusal.cause);
            }
            Some(Ok(())) => {}
            None => tracing::warn!(
                "the parts of upload {id} to {place} may stay in the bucket: the server has not answered in time. {next}"
            ),
        }
    }
}

/// Deletes an archive, and its notes. May wait for the server.
pub fn remove_archive(archive: &ObjectKey, options: BucketOptions, runtime: &Handle) -> Result<(), BucketError> {
    wait(runtime, async {
        let store = Store::open(archive.bucket_as_location(), options).await?;
        let noted = if store.client.keeps_uploads() { NotedUploads::begin(&store, archive).await } else { None };
        // Nobody can complete an upload any more only when the archive is gone.
        store.remove(std::slice::from_ref(&archive.key)).await?;
        if let Some(mut noted) = noted {
            noted.replaced().await;
        }
        let names: Vec<String> = store.names(&format!("{}/", archive.folder_beside())).await?;
        store.remove(&names).await
    })
}

/// True if the server may take the whole archive although it has refused to copy a part with this.
fn may_take_whole(refusal: &Refusal) -> bool {
    matches!(refusal.meaning, Meaning::Unknown | Meaning::Denied | Meaning::Missing | Meaning::Server | Meaning::Other)
}

/// Runs what waits for a disk.
async fn blocking(read: impl FnOnce() -> io::Result<Vec<u8>> + Send + 'static) -> io::Result<Vec<u8>> {
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other).flatten()
}
