//! A target in S3: a prefix that is brought in line tile by tile, or an archive that is replaced as a whole.
//!
//! ```text
//!  create: lease ─► begin: whose target? what is there? ─► write: same MD5? or PUT ─► finish: wait, delete, notes, release
//!          lease    list, inventory                        uploads (bounded)          publish
//!                   or, where the rest stays, nothing      or HEAD first
//! ```

mod cause;
mod client;
mod error;
mod flight;
mod headers;
mod holder;
mod lease;
mod location;
mod open;
mod options;
mod pmtiles;
mod publish;
mod read;
mod shared;
mod store;
mod upload;
mod uploads;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest as _, Md5};
use tokio::runtime::Handle;

use self::lease::Lease;
use self::open::Open;
use self::store::Store;
use super::tree::{Inventory, Latest, Tag, TreeOptions};
use super::{Described, Finished, Metadata, Needs, Sink, TileChange, TileEdit, Tileset, Written};
use crate::stop::Stop;
use crate::tile::Order;

pub use cause::S3Cause;
pub use error::{Action, S3Error};
pub use flight::{Flights, InFlight};
pub use location::{LocationError, S3Key, S3Location};
pub use options::{CacheRule, Encryption, S3Headers, S3Keys, S3Options, without_user};
pub use pmtiles::S3Pmtiles;
pub use read::{S3Object, S3Reader, s3_versions};
pub use shared::S3Shared;
pub use upload::S3Archive;

/// The most names of one `DeleteObjects` (Amazon S3 API Reference).
const MOST_DELETED_AT_ONCE: usize = 1_000;

/// The longest that giving back the lease may hold up the end of a run that failed.
const PARTING: Duration = Duration::from_secs(5);

/// The longest that undoing something in the bucket may hold up the end of a run after a stop was asked for: the process ends
/// 2 s after a signal.
const UNDOING: Duration = Duration::from_secs(1);

/// A tileset below a prefix of a bucket, one object for each tile.
///
/// Tiles go up as they come; how many at once is bounded, and [`Sink::write`] waits for room. Made and used from a thread
/// that may block, beside a runtime with worker threads.
#[derive(Debug)]
pub struct S3 {
    runtime: Handle,
    stop: Stop,
    store: Arc<Store>,
    tree: TreeOptions,
    lease: Option<Lease>,
    open: Option<Open>,
}

/// Waits for something asynchronous from a thread that may block.
fn wait<F: Future>(runtime: &Handle, future: F) -> F::Output {
    tokio::task::block_in_place(|| runtime.block_on(future))
}

impl S3 {
    /// Takes the lease on a target. Credentials come from the ordinary chain.
    ///
    /// # Errors
    /// If the bucket cannot be reached or written, or another run holds the lease.
    pub fn create(
        location: S3Location,
        options: S3Options,
        tree: TreeOptions,
        runtime: Handle,
        stop: &Stop,
    ) -> Result<S3, S3Error> {
        let place = location.to_string();
        let (store, lease) = wait(&runtime, async {
            tokio::select! {
                biased;
                _ = stop.wait() => Err(S3Error::Interrupted { place }),
                taken = async {
                    let store = Store::open(location, options).await?;
                    let lease = Lease::take(&store, &runtime).await?;
                    Ok((store, lease))
                } => taken,
            }
        })?;
        Ok(S3 { runtime, stop: stop.clone(), store, tree, lease: Some(lease), open: None })
    }

    /// How many requests were in flight for tiles; to be kept beyond [`Sink::finish`].
    #[must_use]
    pub fn flights(&self) -> Flights {
        self.store.flights.clone()
    }

    /// Switches the map to another version, or to the one before.
    ///
    /// # Errors
    /// If there is no such version, or the bucket cannot be written.
    pub fn rollback(mut self, to: Option<&str>) -> Result<Latest, S3Error> {
        let Some(lease) = &self.lease else { return Err(self.not_open()) };
        let switched = wait(&self.runtime, async {
            tokio::select! {
                biased;
                _ = self.stop.wait() => Err(self.not_open()),
                switched = publish::rollback(&self.store, lease, to) => switched,
            }
        })?;
        self.release()?;
        Ok(switched)
    }

    /// Gives the lease back at the end of a run that has done everything. A stop shortens the wait for that; then the lease
    /// ends by itself.
    fn release(&mut self) -> Result<(), S3Error> {
        let Some(lease) = self.lease.take() else { return Ok(()) };
        let released = wait(&self.runtime, self.stop.within(UNDOING, lease.release()));
        released.unwrap_or_else(|| {
            self.not_released("no answer before the end");
            Ok(())
        })
    }

    fn not_released(&self, why: impl std::fmt::Display) {
        tracing::warn!("the lease on {} ends by itself: {why}", self.store.location);
    }

    fn not_open(&self) -> S3Error {
        S3Error::Interrupted { place: self.store.location.to_string() }
    }
}

impl Open {
    /// Edits a target that was listed: what is passed on the way is not there any more.
    fn edit_in_order(&mut self, edits: Vec<TileEdit>, packed: bool) -> Result<Written, S3Error> {
        let mut written = Written::default();
        for edit in edits {
            let mut here = None;
            if let Some(inventory) = &mut self.inventory {
                let met = inventory.meet(edit.id())?;
                here = met.here;
                for id in met.passed {
                    self.doomed.add(id)?;
                }
            }
            written += self.edit(edit, here, packed)?;
        }
        Ok(written)
    }

    /// Edits a target whose other tiles stay: only the tiles that are handed over are looked at.
    fn edit_looked_up(&mut self, edits: Vec<TileEdit>, packed: bool) -> Result<Written, S3Error> {
        let names: Vec<String> = edits.iter().map(|edit| self.template.name(edit.id())).collect();
        let found = self.uploads.look(&names)?;
        let mut written = Written::default();
        for (edit, here) in edits.into_iter().zip(found) {
            written += self.edit(edit, here, packed)?;
        }
        Ok(written)
    }

    /// Has an edit made; `here` is what the target holds.
    fn edit(&mut self, edit: TileEdit, here: Option<Tag>, packed: bool) -> Result<Written, S3Error> {
        let mut written = Written::default();
        match edit {
            TileEdit::Keep(..) if here.is_some() && self.keeps => written.unchanged = 1,
            TileEdit::Keep(id, None) => {
                if here.is_some() {
                    self.doomed.add(id)?;
                    written.deleted = 1;
                }
                written.missing = 1;
            }
            TileEdit::Put(id, bytes) | TileEdit::Keep(id, Some(bytes)) => {
                let digest: [u8; 16] = Md5::digest(&bytes).into();
                if here == Some(Some(digest)) {
                    written.unchanged = 1;
                } else {
                    self.uploads.put(self.template.name(id), id.coord.zoom(), bytes, digest, packed)?;
                    written.stored = 1;
                    written.added = here.is_none().into();
                    self.changed.as_mut().map_or(Ok(()), |changed| changed.add(id, TileChange::Written))?;
                }
            }
            TileEdit::Remove(id) => {
                if here.is_some() {
                    self.doomed.add(id)?;
                    written.deleted = 1;
                }
                written.removed = 1;
            }
        }
        Ok(written)
    }

    /// Deletes what vanished; gives how many tiles that were.
    fn delete_doomed(&mut self) -> Result<u64, S3Error> {
        let (mut names, mut deleted) = (Vec::new(), 0);
        loop {
            let mut vanished = self.doomed.next()?;
            if vanished.is_empty()
                && let Some(inventory) = &mut self.inventory
            {
                vanished = inventory.rest()?;
            }
            let is_end = vanished.is_empty();
            deleted += vanished.len() as u64;
            if let Some(changed) = &mut self.changed {
                vanished.iter().try_for_each(|id| changed.add(*id, TileChange::Deleted))?;
            }
            names.extend(vanished.into_iter().map(|id| self.template.name(id)));
            while names.len() >= MOST_DELETED_AT_ONCE || is_end && !names.is_empty() {
                let rest = names.split_off(names.len().min(MOST_DELETED_AT_ONCE));
                self.uploads.delete(std::mem::replace(&mut names, rest))?;
            }
            if is_end {
                return Ok(deleted);
            }
        }
    }
}

impl Sink for S3 {
    type Error = S3Error;

    fn needs(&self) -> Needs {
        Needs { order: Order::ZoomColumnTmsRow, layers_apart: self.tree.template.layers_apart() }
    }

    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, S3Error> {
        let Some(lease) = &self.lease else { return Err(self.not_open()) };
        let place = self.store.location.to_string();
        let (open, before) = wait(&self.runtime, async {
            tokio::select! {
                biased;
                _ = self.stop.wait() => Err(S3Error::Interrupted { place }),
                open = open::open(&self.store, lease, &self.tree, tileset, (&self.runtime, &self.stop)) => open,
            }
        })?;
        if self.tree.public_url.is_none() {
            self.tree.public_url.clone_from(&open.public_url);
        }
        if open.inventory.is_none() {
            self.store.options.shared.keep_tags();
        }
        self.open = Some(open);
        Ok(before)
    }

    fn relative_address(&self) -> Option<String> {
        self.tree.relative_address()
    }

    fn held(&self) -> Option<u64> {
        let open = self.open.as_ref().filter(|open| open.version.is_none())?;
        open.inventory.as_ref().map(Inventory::count)
    }

    fn claim(&mut self) -> Result<(), S3Error> {
        let Some(lease) = &self.lease else { return Err(self.not_open()) };
        let place = self.store.location.to_string();
        wait(&self.runtime, async {
            tokio::select! {
                biased;
                _ = self.stop.wait() => Err(S3Error::Interrupted { place }),
                claimed = open::claim(&self.store, lease, &self.tree) => claimed,
            }
        })
    }

    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, S3Error> {
        if let Some(lease) = &self.lease {
            lease.check()?;
        }
        let packed = self.tree.packed;
        let Some(open) = &mut self.open else { return Err(self.not_open()) };
        match open.inventory {
            Some(_) => open.edit_in_order(edits, packed),
            None => open.edit_looked_up(edits, packed),
        }
    }

    fn finish(mut self, metadata: &Metadata) -> Result<Finished, S3Error> {
        let Some(mut open) = self.open.take() else { return Err(self.not_open()) };
        // Every new tile is there before the first old one goes.
        open.uploads.settle()?;
        let deleted = open.delete_doomed()?;
        open.uploads.settle()?;
        let Some(lease) = &self.lease else { return Err(self.not_open()) };
        let place = self.store.location.to_string();
        wait(&self.runtime, async {
            tokio::select! {
                biased;
                _ = self.stop.wait() => Err(S3Error::Interrupted { place }),
                done = publish::finish(&self.store, lease, &self.tree, &open, metadata) => done,
            }
        })?;
        if let Some(lease) = &self.lease {
            wait(&self.runtime, lease.finish(open.begun_at_the_end()));
        }
        self.release()?;
        let in_flight = Some(self.store.flights.seen());
        let place = self.store.location.to_string();
        Ok(Finished { place, deleted, in_flight, changed: open.changed.take() })
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.store.options.shared.drop_tags();
        // What is in flight ends here; then the lease is given back, so that the next run need not wait for its end.
        let open = self.open.take();
        let Some(lease) = self.lease.take() else { return };
        // A run that gives up before its first tile has begun nothing.
        let begun = open.filter(|open| !open.uploads.has_sent()).map(|open| open.begun_before);
        let release = async {
            if let Some(begun) = begun {
                lease.finish(begun).await;
            }
            tokio::time::timeout(PARTING, lease.release()).await
        };
        match wait(&self.runtime, self.stop.within(UNDOING, release)) {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => self.not_released(error),
            Some(Err(_)) | None => self.not_released("no answer in time"),
        }
    }
}
