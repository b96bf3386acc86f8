//! What the readers and the sink of one target share: a client with its open connections, and the `ETag`s of tiles that
//! were read.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::client::ObjectClient;
use super::refusal::RequestContext;
use super::{BucketError, BucketLocation, BucketOptions, CloudSettings, S3Keys, S3Section};
use crate::target::tree::Tag;

/// What all clones of one [`BucketOptions`] share: the client of the bucket opened last, with its credentials and open
/// connections, and the `ETag`s of tiles that were read since a sink began to edit them.
#[derive(Debug, Clone)]
pub struct BucketShared {
    parts: Arc<Mutex<SharedParts>>,
    large_reads: Arc<Semaphore>,
}

impl Default for BucketShared {
    fn default() -> BucketShared {
        BucketShared { parts: Arc::default(), large_reads: Arc::new(Semaphore::new(MAX_LARGE_READS)) }
    }
}

/// The most bytes of a read that does not count as large. Readers of one target may have many such reads in flight.
pub(crate) const MAX_SMALL_READ_BYTES: usize = 1 << 20;

/// The most large reads in flight at once for one target, over all its readers. A stored tile has at most 64 MB, so the
/// large tiles in flight take at most 256 MB.
const MAX_LARGE_READS: usize = 4;

#[derive(Debug, Default)]
struct SharedParts {
    bucket: Option<OpenBucket>,
    /// The tiles read, by name; `None` unless a sink edits the target.
    read: Option<HashMap<String, ReadTile>>,
    /// True if the server has refused to copy parts of an archive.
    refuses_copies: bool,
    /// True if the server has refused to do so under a condition.
    refuses_copy_conditions: bool,
    /// The last warning about uploads that stay in the bucket.
    said_of_uploads: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadTile {
    Absent,
    /// A tile with this `ETag`.
    Present(Tag),
}

impl ReadTile {
    /// The digest of the tile that the target holds; `None` if it holds none.
    pub(crate) const fn held(self) -> Option<Tag> {
        match self {
            ReadTile::Absent => None,
            ReadTile::Present(tag) => Some(tag),
        }
    }
}

/// A client, and the bucket and settings that it was made for.
#[derive(Debug)]
struct OpenBucket {
    location: BucketLocation,
    settings: ClientSettings,
    client: Arc<dyn ObjectClient>,
    place: RequestContext,
}

/// The options that a client depends on. Clones of [`BucketOptions`] may differ in them.
#[derive(Debug, PartialEq)]
struct ClientSettings {
    section: S3Section,
    keys: Option<S3Keys>,
    cloud: CloudSettings,
}

impl ClientSettings {
    fn of(options: &BucketOptions) -> ClientSettings {
        let BucketOptions { section, keys, cloud, .. } = options;
        ClientSettings { section: section.clone(), keys: keys.clone(), cloud: cloud.clone() }
    }
}

impl BucketShared {
    /// Drops the client, so that the next request looks for credentials and connects again, and what the server has
    /// refused. For a retry after a failure.
    pub fn reset(&self) {
        let mut parts = self.parts.lock();
        parts.bucket = None;
        (parts.refuses_copies, parts.refuses_copy_conditions) = (false, false);
    }

    /// The client of a bucket; makes one if there is none. Sends no request to the bucket.
    pub(crate) async fn client(
        &self,
        location: &BucketLocation,
        options: &BucketOptions,
    ) -> Result<(Arc<dyn ObjectClient>, RequestContext), BucketError> {
        options.check()?;
        let settings = ClientSettings::of(options);
        if let Some(open) = &self.parts.lock().bucket
            && open.location == *location
            && open.settings == settings
        {
            return Ok((Arc::clone(&open.client), open.place.clone()));
        }
        let (client, place) = connect(location, options).await?;
        let open =
            OpenBucket { location: location.clone(), settings, client: Arc::clone(&client), place: place.clone() };
        self.parts.lock().bucket = Some(open);
        Ok((client, place))
    }

    /// Begins to keep the `ETag`s of tiles that are read. Must be called once the lease is held, so that no other run
    /// changes the tiles.
    pub(crate) fn keep_tags(&self) {
        self.parts.lock().read = Some(HashMap::new());
    }

    /// Drops the `ETag`s that were kept, and keeps no more of them.
    pub(crate) fn drop_tags(&self) {
        self.parts.lock().read = None;
    }

    /// Keeps the result of reading a tile.
    pub(crate) fn note(&self, name: &str, found: ReadTile) {
        if let Some(read) = &mut self.parts.lock().read {
            read.insert(name.to_owned(), found);
        }
    }

    /// Removes and returns the result of reading a tile; `None` if the tile was not read.
    pub(crate) fn take(&self, name: &str) -> Option<ReadTile> {
        self.parts.lock().read.as_mut()?.remove(name)
    }

    /// True if the server has refused to copy a part of an archive, since the process began.
    pub(crate) fn refuses_copies(&self) -> bool {
        self.parts.lock().refuses_copies
    }

    /// Notes that the server copies no parts, so that no other run of this process asks for it.
    pub(crate) fn note_no_copies(&self) {
        self.parts.lock().refuses_copies = true;
    }

    /// True if the server has refused to copy a part on condition that the archive is still the same, since the process
    /// began.
    pub(crate) fn refuses_copy_conditions(&self) -> bool {
        self.parts.lock().refuses_copy_conditions
    }

    /// Notes that the server copies parts without a condition only.
    pub(crate) fn note_no_copy_conditions(&self) {
        self.parts.lock().refuses_copy_conditions = true;
    }

    /// True if a warning about uploads is another than the last one; it is the last one from now on.
    pub(crate) fn is_new_warning(&self, message: &str) -> bool {
        let said = &mut self.parts.lock().said_of_uploads;
        if said == message {
            return false;
        }
        message.clone_into(said);
        true
    }

    /// Waits until a read of up to `bytes` bytes may begin; it may run until the permit is dropped. Small reads need no
    /// permit.
    pub(crate) async fn begin_read(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        if bytes <= MAX_SMALL_READ_BYTES as u64 {
            return None;
        }
        // The semaphore is never closed.
        Arc::clone(&self.large_reads).acquire_owned().await.ok()
    }
}

/// Makes the client for the scheme of a location. Sends no request to the bucket.
async fn connect(
    location: &BucketLocation,
    options: &BucketOptions,
) -> Result<(Arc<dyn ObjectClient>, RequestContext), BucketError> {
    match location.scheme {
        #[cfg(feature = "s3")]
        super::Scheme::S3 => super::aws::connect(location, options).await,
        #[cfg(feature = "clouds")]
        super::Scheme::Azure | super::Scheme::Google => super::cloud::connect(location, options),
        #[cfg(not(all(feature = "s3", feature = "clouds")))]
        scheme => {
            // What is wrong in the settings is said first.
            options.check()?;
            Err(BucketError::NotBuilt {
                place: location.to_string(),
                what: scheme.service(),
                feature: scheme.feature(),
            })
        }
    }
}
