//! A version that the shards of a seed write together, before their commit publishes it.
//!
//! Shards only add tiles (`If-None-Match: *`), so the first shard that writes a tile wins. A request may come late,
//! because its process was stopped or the network delayed it; it changes no existing tile. Only the commit replaces and
//! deletes tiles, and switches clients.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::client::{Listed, Object, WriteCondition};
use super::store::Store;
use super::tile_requests::Uploads;
use super::tree_notes::write_note;
use super::{BucketError, BucketLocation, BucketOptions, wait};
use crate::clock::seconds_now;
use crate::stop::Stop;
use crate::target::tree::{BEGUN, Latest, Template, notes};
use crate::tile::{ColumnRanges, TileId};

/// How long a version of shards that was never published is protected from other runs, which remove versions that
/// nobody publishes.
const LIFE_OF_SHARED_VERSION: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The note of a version that was begun, `begun.json`. A run of one process leaves it empty.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct VersionNote {
    /// The run of shards that writes the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shards: Option<String>,
    /// When it began, in seconds since 1970 (UTC).
    #[serde(default)]
    began: u64,
}

impl VersionNote {
    fn read(object: Option<&Object>) -> VersionNote {
        object.and_then(|object| serde_json::from_slice(&object.body).ok()).unwrap_or_default()
    }

    /// The note of a version that a run begins now.
    pub(crate) fn begun_by(run: &str) -> VersionNote {
        let began = seconds_now();
        VersionNote { shards: Some(run.to_owned()), began }
    }

    /// True if the version may still be published.
    fn is_awaited(&self) -> bool {
        let now = seconds_now();
        self.shards.is_some() && now.saturating_sub(self.began) < LIFE_OF_SHARED_VERSION.as_secs()
    }
}

/// Removes the run from the note of a published version, so that the version is removed like any other once it has
/// expired.
pub(crate) async fn note_published(store: &Store, version: &str) -> Result<(), BucketError> {
    write_note(store, &notes::of_version(version, BEGUN), b"{}".to_vec(), &WriteCondition::Always).await.map(drop)
}

/// A version, and the run of shards that writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedVersion {
    pub version: String,
    pub run: String,
}

impl SharedVersion {
    pub(crate) fn note(&self) -> String {
        notes::of_version(&self.version, BEGUN)
    }

    /// Whether the run may still publish the version. Must be called with the lease held: only a holder of it publishes
    /// or removes a version.
    pub(crate) async fn state(&self, store: &Store, published: Option<&Latest>) -> Result<SharedState, BucketError> {
        if published.is_some_and(|latest| latest.versions.iter().any(|known| known.version == self.version)) {
            return Ok(SharedState::Published);
        }
        let note = VersionNote::read(store.get(&self.note()).await?.as_ref());
        Ok(if note.shards.as_deref() == Some(&*self.run) { SharedState::Awaited } else { SharedState::Gone })
    }

    /// Refuses a version that the run may not publish, or not any more; see [`SharedVersion::state`].
    pub(crate) async fn check(&self, store: &Store, published: Option<&Latest>) -> Result<(), BucketError> {
        if self.state(store, published).await? == SharedState::Awaited {
            return Ok(());
        }
        Err(BucketError::NoVersion { place: store.location.to_string(), version: self.version.clone() })
    }
}

/// What has become of a version that shards write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedState {
    /// It waits for the commit of its run.
    Awaited,
    /// Clients may have its tiles, which never change again.
    Published,
    /// It was given up, or another run has removed it.
    Gone,
}

/// Gives up a version of shards: the next run of the target removes its tiles. May wait for the server.
pub fn give_up_shared(
    location: BucketLocation,
    options: BucketOptions,
    version: &SharedVersion,
    runtime: &Handle,
) -> Result<(), BucketError> {
    wait(runtime, async {
        let store = Store::open(location, options).await?;
        let Some(object) = store.get(&version.note()).await? else { return Ok(()) };
        if VersionNote::read(Some(&object)).shards.as_deref() != Some(&*version.run) {
            return Ok(());
        }
        write_note(&store, &version.note(), b"{}".to_vec(), &WriteCondition::Unchanged(object.tag)).await.map(drop)
    })
}

/// True if a version that was never published must stay for its shards. Otherwise its note is changed to say that it is
/// being removed, because a late commit must not publish what is left of it.
pub(crate) async fn is_awaited(store: &Store, version: &str) -> Result<bool, BucketError> {
    let name = notes::of_version(version, BEGUN);
    let found = store.get(&name).await?;
    let note = VersionNote::read(found.as_ref());
    if note.is_awaited() {
        return Ok(true);
    }
    if let (Some(object), Some(_)) = (found, note.shards) {
        write_note(store, &name, b"{}".to_vec(), &WriteCondition::Unchanged(object.tag)).await?;
    }
    Ok(false)
}

/// Adds tiles to a version that several processes write. It takes no lease.
#[derive(Debug)]
pub struct VersionTiles {
    template: Template,
    packed: bool,
    store: Arc<Store>,
    runtime: Handle,
    uploads: Uploads,
    found: Arc<AtomicU64>,
    /// Tiles that an earlier attempt has added, with the MD5 of their bytes.
    known: HashMap<TileId, [u8; 16]>,
}

/// The most columns that are listed to find the tiles that an earlier attempt has added. Each column takes a request;
/// without the lists a tile takes two.
const MAX_LISTED_COLUMNS: u64 = 16_384;

impl VersionTiles {
    /// The tiles of a version, by a template with its layers. Credentials come as for
    /// [`BucketTiles::create`](super::BucketTiles::create).
    pub fn open(
        location: BucketLocation,
        options: BucketOptions,
        template: Template,
        packed: bool,
        runtime: &Handle,
        stop: &Stop,
    ) -> Result<VersionTiles, BucketError> {
        let store = wait(runtime, Store::open(location, options))?;
        let found = Arc::new(AtomicU64::new(0));
        let uploads = Uploads::new(&store, runtime, stop).adding_only(Arc::clone(&found));
        let known = HashMap::new();
        Ok(VersionTiles { template, packed, store, runtime: runtime.clone(), uploads, found, known })
    }

    /// Finds the tiles of some columns that an earlier attempt has added: those with the same bytes are not sent again.
    pub fn list(&mut self, columns: &ColumnRanges) -> Result<(), BucketError> {
        let ranges = columns.ranges();
        let count: u64 = ranges.iter().map(|range| u64::from(range.last - range.first) + 1).sum();
        if count > MAX_LISTED_COLUMNS {
            return Ok(());
        }
        let (store, template) = (&self.store, &self.template);
        let all = ranges.iter().flat_map(|range| (range.first..=range.last).map(|column| (range.zoom, column)));
        let prefixes: Vec<String> = all.filter_map(|(zoom, column)| template.column_prefix(zoom, column)).collect();
        let listed = stream::iter(prefixes).map(|prefix| async move {
            let of_page = |found: Vec<Listed>| {
                let known = |object: Listed| Some((template.read(&object.name)?, object.digest?));
                found.into_iter().filter_map(known).collect::<Vec<_>>()
            };
            store.pages(&prefix).map_ok(of_page).try_concat().await
        });
        let listed = listed.buffer_unordered(store.options.section.in_flight.get()).try_collect::<Vec<_>>();
        self.known = wait(&self.runtime, listed)?.into_iter().flatten().collect();
        Ok(())
    }

    /// Starts to add a tile, once there is room; returns the MD5 of its bytes.
    /// Fails if earlier tiles could not be added, or a stop was asked for.
    pub fn add(&mut self, tile: TileId, bytes: Box<[u8]>) -> Result<[u8; 16], BucketError> {
        let digest: [u8; 16] = Md5::digest(&bytes).into();
        if self.known.remove(&tile) == Some(digest) {
            return Ok(digest);
        }
        self.uploads.put(self.template.name(tile), tile, bytes, digest, self.packed)?;
        Ok(digest)
    }

    /// Waits until every tile is stored; returns how many existed before, with bytes that are not known.
    /// Fails if a tile could not be added, or a stop was asked for.
    pub fn settle(&mut self) -> Result<u64, BucketError> {
        self.uploads.settle()?;
        Ok(self.found.load(Ordering::Relaxed))
    }
}
