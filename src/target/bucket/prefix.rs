//! The sink of a prefix: a run from its beginning to its end.

use std::sync::Arc;
use std::time::Duration;

use md5::{Digest as _, Md5};
use tokio::runtime::Handle;

use super::lease::Lease;
use super::prefix_store::{PrefixStore, SeenNotes, claim};
use super::store::Store;
use super::tile_requests::Uploads;
use super::version::{SharedState, SharedVersion, VersionNote};
use super::{BucketError, BucketLocation, BucketOptions, Flights, MAX_UNDO_TIME, unless_stopped, wait};
use crate::stop::Stop;
use crate::target::tree::notes::Begun;
use crate::target::tree::{self, Latest, Publishing, Tag, TreeOptions, TreeRun, TreeStore as _, notes};
use crate::target::{ChangedTiles, Described, Finished, Metadata, Needs, Sink, TileChange, TileEdit, Tileset, Written};
use crate::tile::Order;

/// How long a failed run waits for the server to confirm that the lease is given back.
const MAX_RELEASE_TIME: Duration = Duration::from_secs(5);

/// The sink of a tileset below a prefix of a bucket, with one object for each tile.
///
/// [`Sink::write`] starts uploads and returns; it waits only while the allowed number is in flight. Create and use this
/// sink on a thread that may block, with a multi-threaded runtime running.
#[derive(Debug)]
pub struct BucketTiles {
    pub(crate) runtime: Handle,
    pub(crate) stop: Stop,
    pub(crate) store: Arc<Store>,
    pub(crate) tree: TreeOptions,
    pub(crate) lease: Option<Lease>,
    open: Option<Open>,
    /// The version, written by shards, that this run publishes.
    pub(crate) adopted: Option<SharedVersion>,
}

/// A run between [`Sink::begin`] and its end.
#[derive(Debug)]
struct Open {
    run: TreeRun,
    /// What was noted as begun before this run.
    begun_before: Begun,
    uploads: Uploads,
    seen: SeenNotes,
}

impl BucketTiles {
    /// Takes the lease on a target. Credentials come from the SDK's default chain, unless the options hold keys.
    /// Fails if the bucket cannot be reached or written, or another run holds the lease.
    pub fn create(
        location: BucketLocation,
        options: BucketOptions,
        tree: TreeOptions,
        runtime: Handle,
        stop: &Stop,
    ) -> Result<BucketTiles, BucketError> {
        let place = location.to_string();
        let taken = async {
            let store = Store::open(location, options).await?;
            let lease = Lease::take(&store, &runtime).await?;
            Ok((store, lease))
        };
        let (store, lease) = wait(&runtime, unless_stopped(stop, place, taken))?;
        Ok(BucketTiles { runtime, stop: stop.clone(), store, tree, lease: Some(lease), open: None, adopted: None })
    }

    /// The count of requests in flight; it stays readable after [`Sink::finish`].
    pub fn flights(&self) -> Flights {
        self.store.flights.clone()
    }

    /// Switches clients to the version `to`, or to the version before the current one.
    /// Fails if there is no such version, or the bucket cannot be written.
    pub fn rollback(mut self, to: Option<&str>) -> Result<Latest, BucketError> {
        let Some(lease) = &self.lease else { return Err(self.not_open()) };
        let mut prefix = PrefixStore::new(&self.runtime, &self.stop, &self.store, lease, true);
        let Some(before) = prefix.latest()? else {
            return Err(BucketError::Missing { place: self.store.place(notes::LATEST) });
        };
        let shown = before.version.clone();
        let switched = before.switched(to);
        let latest =
            switched.map_err(|source| BucketError::Switch { place: self.store.location.to_string(), source })?;
        tree::switch(&mut prefix, &latest, &shown)?;
        self.release()?;
        Ok(latest)
    }

    /// Gives the lease back after a run that is complete. After a stop was asked for, waits at most [`MAX_UNDO_TIME`];
    /// a lease that was not given back expires.
    pub(crate) fn release(&mut self) -> Result<(), BucketError> {
        let Some(lease) = self.lease.take() else { return Ok(()) };
        let released = wait(&self.runtime, self.stop.within(MAX_UNDO_TIME, lease.release()));
        released.unwrap_or_else(|| {
            self.not_released("no answer before the end");
            Ok(())
        })
    }

    fn not_released(&self, why: impl std::fmt::Display) {
        tracing::warn!("the lease on {} could not be given back, and expires by itself: {why}", self.store.location);
    }

    pub(crate) fn not_open(&self) -> BucketError {
        BucketError::Interrupted { place: self.store.location.to_string() }
    }
}

impl Open {
    /// What the target holds of the tiles of edits: from the list of the beginning, if there is one; otherwise the
    /// server is asked for each.
    fn held(&mut self, edits: &[TileEdit]) -> Result<Vec<Option<Tag>>, BucketError> {
        if !self.run.has_inventory() {
            let names: Vec<String> = edits.iter().map(|edit| self.run.template.name(edit.id())).collect();
            return self.uploads.head(&names);
        }
        let mut found: Vec<Option<Tag>> =
            edits.iter().map(|edit| self.run.meet(edit.id())).collect::<Result<_, _>>()?;
        if !self.uploads.lists_digests() {
            let unknown: Vec<usize> = (0..edits.len())
                .filter(|at| found[*at] == Some(None) && matches!(edits[*at], TileEdit::Put(..)))
                .collect();
            let names: Vec<String> = unknown.iter().map(|at| self.run.template.name(edits[*at].id())).collect();
            for (at, here) in unknown.into_iter().zip(self.uploads.head(&names)?) {
                // A tile that vanished since the listing is written; it counts as one that was there.
                found[at] = Some(here.flatten());
            }
        }
        Ok(found)
    }

    /// Applies edits to a version of shards. The caller knows what is stored, and hands over nothing that is right
    /// already.
    fn edit_all(&mut self, edits: Vec<TileEdit>, packed: bool) -> Result<Written, BucketError> {
        let mut written = Written::default();
        for edit in edits {
            match edit {
                TileEdit::Put(id, bytes) | TileEdit::Keep(id, Some(bytes)) => {
                    let digest: [u8; 16] = Md5::digest(&bytes).into();
                    self.uploads.put(self.run.template.name(id), id, bytes, digest, packed)?;
                    (written.stored, written.added) = (written.stored + 1, written.added + 1);
                }
                TileEdit::Keep(id, None) => {
                    self.run.doom(id, true)?;
                    written.missing += 1;
                }
                TileEdit::Remove(id) => {
                    self.run.doom(id, true)?;
                    written.removed += 1;
                }
            }
        }
        Ok(written)
    }

    /// Applies one edit; `here` is what the target holds of the tile.
    fn edit(
        &mut self,
        edit: TileEdit,
        here: Option<Tag>,
        packed: bool,
        written: &mut Written,
    ) -> Result<(), BucketError> {
        let Some((id, bytes)) = self.run.apply(edit, here.is_some(), written)? else { return Ok(()) };
        let digest: [u8; 16] = Md5::digest(&bytes).into();
        if here == Some(Some(digest)) {
            written.unchanged += 1;
            return Ok(());
        }
        self.uploads.put(self.run.template.name(id), id, bytes, digest, packed)?;
        written.stored += 1;
        written.added += u64::from(here.is_none());
        self.run.note_change(id, TileChange::Written)?;
        if let Some(changed) = self.run.changed.as_mut().filter(|_| here.is_none()) {
            changed.add_new(id)?;
        }
        Ok(())
    }
}

impl Sink for BucketTiles {
    type Error = BucketError;

    fn needs(&self) -> Needs {
        Needs { order: Order::ZoomColumnTmsRow, layers_apart: self.tree.template.layers_apart() }
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, BucketError> {
        let Some(lease) = &self.lease else { return Err(self.not_open()) };
        let begun_before = wait(&self.runtime, lease.begun());
        let is_versioned = self.tree.publish != Publishing::InPlace;
        let mut prefix = PrefixStore::new(&self.runtime, &self.stop, &self.store, lease, is_versioned);
        prefix.adopted = self.adopted.as_ref();
        let (mut run, before) = tree::begin(&mut prefix, &mut self.tree, tileset)?;
        let seen = prefix.seen;
        run.changed = run.changed.take().map(ChangedTiles::knowing_new);
        let uploads = Uploads::new(&self.store, &self.runtime, &self.stop);
        if !run.has_inventory() && self.adopted.is_none() {
            self.store.options.shared.keep_tags();
        }
        self.open = Some(Open { run, begun_before, uploads, seen });
        Ok(before)
    }

    fn relative_address(&self) -> Option<String> {
        self.tree.relative_address()
    }

    fn held(&self) -> Option<u64> {
        self.open.as_ref()?.run.held()
    }

    fn claim(&mut self) -> Result<(), BucketError> {
        let Some(lease) = &self.lease else { return Err(self.not_open()) };
        let prefix = PrefixStore::new(&self.runtime, &self.stop, &self.store, lease, false);
        prefix.wait(claim(&self.store, lease, &self.tree))
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, BucketError> {
        if let Some(lease) = &self.lease {
            lease.check()?;
            if lease.is_overdue() {
                wait(&self.runtime, lease.confirm())?;
            }
        }
        let packed = self.tree.packs();
        let Some(open) = &mut self.open else { return Err(self.not_open()) };
        if self.adopted.is_some() {
            return open.edit_all(edits, packed);
        }
        let mut written = Written::default();
        for (here, edit) in open.held(&edits)?.into_iter().zip(edits) {
            open.edit(edit, here, packed, &mut written)?;
        }
        Ok(written)
    }

    fn finish(mut self, metadata: &Metadata) -> Result<Finished, BucketError> {
        let Some(open) = self.open.take() else { return Err(self.not_open()) };
        let Some(lease) = &self.lease else { return Err(self.not_open()) };
        let Open { run, mut uploads, seen, .. } = open;
        let mut prefix = PrefixStore::new(&self.runtime, &self.stop, &self.store, lease, run.version.is_some());
        (prefix.uploads, prefix.seen) = (Some(&mut uploads), seen);
        let (deleted, changed) = tree::end(&mut prefix, run, &self.tree, metadata)?;
        self.release()?;
        let in_flight = Some(self.store.flights.seen());
        let place = self.store.location.to_string();
        Ok(Finished { place, deleted, in_flight, changed, anew: None })
    }
}

impl Drop for BucketTiles {
    fn drop(&mut self) {
        self.store.options.shared.drop_tags();
        // Dropping `open` aborts the uploads in flight. Then the lease is given back, so that the next run does not
        // have to wait until it expires.
        let open = self.open.take();
        let Some(lease) = self.lease.take() else { return };
        // A run that gives up before its first tile has begun nothing.
        let begun = open.filter(|open| !open.uploads.has_sent()).map(|open| open.begun_before);
        let release = async {
            if let Some(begun) = begun {
                lease.finish(begun).await;
            }
            tokio::time::timeout(MAX_RELEASE_TIME, lease.release()).await
        };
        match wait(&self.runtime, self.stop.within(MAX_UNDO_TIME, release)) {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => self.not_released(error),
            Some(Err(_)) | None => self.not_released("no answer in time"),
        }
    }
}

// A version that shards write together.

impl BucketTiles {
    /// Notes that shards are going to write a version with these layers, and gives the lease back. Other runs leave the
    /// version alone for a week.
    pub fn begin_shared(mut self, version: &SharedVersion, layers: &[String]) -> Result<(), BucketError> {
        let Some(lease) = &self.lease else { return Err(self.not_open()) };
        let mut prefix = PrefixStore::new(&self.runtime, &self.stop, &self.store, lease, true);
        let note = serde_json::to_vec(&VersionNote::begun_by(&version.run));
        let note = note.map_err(|source| prefix.note_error(&version.note(), source))?;
        prefix.put(&version.note(), &note)?;
        let name = notes::of_version(&version.version, notes::METADATA);
        let metadata = notes::begun(layers, &self.tree.template);
        prefix.put(&name, &metadata.map_err(|source| prefix.note_error(&name, source))?)?;
        self.release()
    }

    /// What has become of a version that shards write. If clients see it, its notes are written again, because the
    /// commit may have been killed before it had written all of them.
    pub fn shared_state(&self, version: &SharedVersion) -> Result<SharedState, BucketError> {
        let Some(lease) = &self.lease else { return Err(self.not_open()) };
        let mut prefix = PrefixStore::new(&self.runtime, &self.stop, &self.store, lease, true);
        let latest = prefix.latest()?;
        let state = prefix.wait(version.state(&self.store, latest.as_ref()))?;
        if let Some(latest) = latest.filter(|latest| latest.version == version.version) {
            tree::switch(&mut prefix, &latest, &version.version)?;
            prefix.note_published(&version.version)?;
        }
        Ok(state)
    }

    /// Makes this run write and publish a version that shards have written, instead of a version of its own. Must be
    /// called before [`Sink::begin`](crate::target::Sink::begin).
    pub fn adopt(&mut self, version: SharedVersion) {
        self.adopted = Some(version);
    }
}
