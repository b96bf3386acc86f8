//! The seam below targets in buckets: named bytes with a condition, as a library for one kind of server offers them.
//!
//! | client | servers | feature |
//! |---|---|---|
//! | `aws` | Amazon S3 and what speaks its protocol | `s3` |
//! | `cloud` | Azure Blob Storage, Google Cloud Storage | `clouds` |
//!
//! Everything above ([`Store`](super::store::Store), the lease, the sinks, the readers, notes and work files) knows one
//! [`ObjectClient`] and no library. A program that was built without the feature of a scheme has no client for it:
//! [`BucketShared::client`](super::BucketShared) then fails with
//! [`BucketError::NotBuilt`](super::BucketError::NotBuilt).

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Encryption;
use super::refusal::Refusal;
pub(crate) use crate::target::note_store::WriteCondition;
use crate::target::tree::Tag;

/// The most names in one request that deletes objects (Amazon S3 API Reference, `DeleteObjects`).
pub(crate) const MAX_NAMES_PER_DELETE: usize = 1_000;

/// The answer to a request, with all its attempts.
pub(crate) type Answer<'a, T> = BoxFuture<'a, Result<T, Refusal>>;

#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) body: Vec<u8>,
    /// Identifies this content: the `ETag`.
    pub(crate) tag: String,
    /// The MD5 of the whole object's bytes, if the server says it.
    pub(crate) digest: Tag,
}

/// What a server says of an object without its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// The length in bytes.
    pub(crate) length: u64,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Tag,
}

#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// The key; relative to a prefix where a [`Store`](super::store::Store) lists.
    pub(crate) name: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Tag,
}

#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) found: Vec<Listed>,
    /// The continuation token of the next page; `None` after the last.
    pub(crate) next: Option<String>,
}

/// The headers with which an object is stored (RFC 9110, section 8).
#[derive(Debug, Clone, Default)]
pub(crate) struct ObjectHeaders {
    pub(crate) content_type: &'static str,
    pub(crate) is_gzip: bool,
    pub(crate) cache_control: Option<String>,
    pub(crate) storage_class: Option<String>,
    /// The user's metadata, without the prefix that a server wants before each name.
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) encryption: Encryption,
}

#[derive(Debug, Clone)]
pub(crate) struct Put {
    pub(crate) body: Vec<u8>,
    pub(crate) headers: ObjectHeaders,
    /// The MD5 of the body, which the server checks (RFC 1864); `None` if the body is too small to matter.
    pub(crate) digest: Tag,
    pub(crate) condition: WriteCondition,
    /// How much longer than the settings allow the request may take, because its body is long.
    pub(crate) line_time: Duration,
}

#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Counts from 0.
    pub(crate) number: u64,
    pub(crate) bytes: Vec<u8>,
    /// The MD5 of the bytes, which the server checks.
    pub(crate) digest: [u8; 16],
    /// As in [`Put`].
    pub(crate) line_time: Duration,
}

/// A part that the server copies from the object that the upload is to replace.
#[derive(Debug, Clone)]
pub(crate) struct CopiedPart<'a> {
    /// Counts from 0, together with the parts that are sent.
    pub(crate) number: u64,
    /// The bytes of the object.
    pub(crate) range: Range<u64>,
    /// The `ETag` that the object must still have; `None` for a server that knows no such condition.
    pub(crate) tag: Option<&'a str>,
    /// As in [`Put`].
    pub(crate) line_time: Duration,
}

/// A part that the server says it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListedPart {
    /// Counts from 0.
    pub(crate) number: u64,
    /// In bytes.
    pub(crate) length: u64,
}

/// An upload whose parts were all sent.
#[derive(Debug)]
pub(crate) struct SentParts<'a> {
    pub(crate) id: &'a str,
    /// The `ETag`s of the parts, in order.
    pub(crate) tags: Vec<String>,
    /// As in [`Put`].
    pub(crate) condition: &'a WriteCondition,
    pub(crate) line_time: Duration,
}

/// A client of one bucket.
///
/// - A request is repeated as the options of the target say; its future ends with the last attempt.
/// - Of several writers with the same condition one succeeds; the others get
///   [`Meaning::Condition`](super::refusal::Meaning::Condition).
/// - Readers see an object as it was before a write or after it, never a part.
/// - Deleting what does not exist succeeds.
pub(crate) trait ObjectClient: fmt::Debug + Send + Sync {
    /// Reads an object, or a range of it (RFC 9110, section 14.1.2). Refuses more than `most` bytes, whatever length
    /// the server announces.
    fn get<'a>(&'a self, key: &'a str, range: Option<Range<u64>>, most: usize) -> Answer<'a, Object>;

    fn head<'a>(&'a self, key: &'a str) -> Answer<'a, Head>;

    /// Writes an object; returns its new `ETag`.
    fn put<'a>(&'a self, key: &'a str, put: Put) -> Answer<'a, String>;

    /// Lists one page of the keys that start with `begin`; `from` is the continuation token of the page before.
    fn list<'a>(&'a self, begin: &'a str, from: Option<String>) -> Answer<'a, Page>;

    /// Deletes up to [`MAX_NAMES_PER_DELETE`] objects; returns those that could not be deleted.
    fn delete<'a>(&'a self, keys: &'a [String]) -> BoxFuture<'a, Vec<(String, Refusal)>>;

    /// Gives an object other headers if it still has this `ETag`; its bytes stay.
    fn set_headers<'a>(&'a self, key: &'a str, headers: ObjectHeaders, tag: Option<&'a str>) -> Answer<'a, ()>;

    /// Begins an upload in parts; returns its id.
    fn begin_parts<'a>(&'a self, key: &'a str, headers: ObjectHeaders) -> Answer<'a, String>;

    /// Sends a part; returns its `ETag`. Called in the order of the parts; the answers may come in another.
    fn put_part<'a>(&'a self, key: &'a str, id: &'a str, part: Part) -> Answer<'a, String>;

    /// Has the server copy a part; returns its `ETag`.
    /// Fails with [`Meaning::Unknown`](super::refusal::Meaning::Unknown) if the server says that it cannot do that, or
    /// not under the condition.
    fn copy_part<'a>(&'a self, key: &'a str, id: &'a str, part: CopiedPart<'a>) -> Answer<'a, String>;

    /// Lists the parts that the server has, in order.
    fn list_parts<'a>(&'a self, key: &'a str, id: &'a str) -> Answer<'a, Vec<ListedPart>>;

    /// Makes an object of the parts.
    fn complete_parts<'a>(&'a self, key: &'a str, sent: SentParts<'a>) -> Answer<'a, ()>;

    /// Gives an upload in parts up.
    fn abort_parts<'a>(&'a self, key: &'a str, id: &'a str) -> Answer<'a, ()>;

    /// True if [`ObjectClient::complete_parts`] honours its condition. If not, an archive is written under a lease.
    fn has_conditional_parts(&self) -> bool;

    /// True if an upload in parts stays until it is aborted, which another process can do by its id.
    fn keeps_uploads(&self) -> bool;

    /// True if the client may have parts copied; whether the server can, only [`ObjectClient::copy_part`] says.
    fn can_copy_parts(&self) -> bool;

    /// True if [`ObjectClient::list`] gives the digest of each object that one request stored. If not, a run asks for
    /// the objects whose digest it needs.
    fn lists_digests(&self) -> bool;
}

/// The pause before the second attempt of a request; it doubles with each further one.
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// The longest wait for a connection to a bucket's server.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest pause between two attempts of a request: a run that pauses longer looks dead.
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(20);

/// The slowest line that the time limits allow for, in bytes a second.
const MIN_BYTES_PER_SECOND: u64 = 256 << 10;

/// How much longer a request with so many bytes may take than the limits in the settings, which are meant for tiles.
pub(crate) fn line_time(bytes: u64) -> Duration {
    Duration::from_secs(bytes / MIN_BYTES_PER_SECOND)
}
