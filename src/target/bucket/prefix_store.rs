//! What a run needs of a prefix: what [`tree::begin`](crate::target::tree::begin) and
//! [`tree::end`](crate::target::tree::end) do by requests to the server.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use futures_util::TryStreamExt as _;
use tokio::runtime::Handle;

use super::client::{Listed, MAX_NAMES_PER_DELETE, WriteCondition};
use super::lease::Lease;
use super::store::Store;
use super::tile_requests::Uploads;
use super::tree_notes::{entries, read_latest, read_noted, replace_note, write_note};
use super::version::{SharedVersion, is_awaited, note_published};
use super::{BucketError, header_note, unless_stopped, wait};
use crate::stop::Stop;
use crate::target::Tileset;
use crate::target::disk_list::ScratchError;
use crate::target::tree::notes::Begun;
use crate::target::tree::{BEGUN, Latest, Tag, Template, TreeOptions, TreeRefusal, TreeState, TreeStore, notes};
use crate::tile::TileId;

/// A prefix that a run writes, or whose version is switched.
pub(crate) struct PrefixStore<'a> {
    pub(crate) runtime: &'a Handle,
    pub(crate) stop: &'a Stop,
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a Lease,
    /// The tiles in flight; `None` if no tile is written.
    pub(crate) uploads: Option<&'a mut Uploads>,
    /// Names of tiles to be deleted, fewer than one request takes.
    pub(crate) doomed: Vec<String>,
    pub(crate) seen: SeenNotes,
    /// The version, written by shards, that the run publishes.
    pub(crate) adopted: Option<&'a SharedVersion>,
}

/// The notes of a prefix as the run has read them: the conditions under which it replaces them.
#[derive(Debug)]
pub(crate) struct SeenNotes {
    /// `metadata.json`; `None`: it was not read, and is replaced as it is then.
    metadata: Option<WriteCondition>,
    latest: WriteCondition,
    /// True if the run publishes a version.
    is_versioned: bool,
}

impl<'a> PrefixStore<'a> {
    pub(crate) const fn new(
        runtime: &'a Handle,
        stop: &'a Stop,
        store: &'a Store,
        lease: &'a Lease,
        is_versioned: bool,
    ) -> PrefixStore<'a> {
        let seen = SeenNotes { metadata: None, latest: WriteCondition::Always, is_versioned };
        PrefixStore { runtime, stop, store, lease, uploads: None, doomed: Vec::new(), seen, adopted: None }
    }

    /// Waits for requests, unless a stop is asked for.
    pub(crate) fn wait<T>(&self, requests: impl Future<Output = Result<T, BucketError>>) -> Result<T, BucketError> {
        wait(self.runtime, unless_stopped(self.stop, &self.store.location, requests))
    }

    fn foreign(&self, example: String) -> BucketError {
        BucketError::Foreign { place: self.store.location.to_string(), example }
    }

    fn delete_doomed(&mut self) -> Result<(), BucketError> {
        let names = std::mem::take(&mut self.doomed);
        match &mut self.uploads {
            Some(uploads) if !names.is_empty() => uploads.delete(names),
            _ => Ok(()),
        }
    }

    fn settle(&mut self) -> Result<(), BucketError> {
        self.uploads.as_mut().map_or(Ok(()), |uploads| uploads.settle())
    }
}

impl TreeStore for PrefixStore<'_> {
    type Error = BucketError;

    /// A reader finds the metadata by one request.
    const SHOWS_METADATA: bool = true;

    fn state(&mut self, _force: bool) -> Result<TreeState, BucketError> {
        let metadata = self.wait(self.store.get(notes::METADATA))?;
        self.seen.metadata = Some(WriteCondition::as_seen(metadata.as_ref().map(|object| &object.tag)));
        let noted = metadata.map(|object| read_noted(self.store, &object)).transpose()?.unwrap_or_default();
        let begun = wait(self.runtime, self.lease.begun());
        Ok(TreeState {
            manifest: noted.described.manifest.as_deref().and_then(notes::fingerprint),
            begun: Some(begun).filter(|begun| !begun.fingerprint.is_empty()),
            template: noted.template.clone(),
            noted,
        })
    }

    fn refused(&self, refusal: TreeRefusal, _tileset: &Tileset) -> BucketError {
        let place = self.store.location.to_string();
        match refusal {
            TreeRefusal::Whole => BucketError::Whole { place },
            TreeRefusal::NoTileset => BucketError::NoTileset { place },
            TreeRefusal::OtherTileset(_) => BucketError::OtherTileset { place },
        }
    }

    /// Refuses another program's metadata.
    fn check(&self, state: &TreeState, _options: &TreeOptions) -> Result<(), BucketError> {
        if !state.is_ours() && matches!(self.seen.metadata, Some(WriteCondition::Unchanged(_))) {
            return Err(self.foreign(notes::METADATA.to_owned()));
        }
        Ok(())
    }

    fn latest(&mut self) -> Result<Option<Latest>, BucketError> {
        let object = self.wait(self.store.get(notes::LATEST))?;
        self.seen.latest = WriteCondition::as_seen(object.as_ref().map(|object| &object.tag));
        object.map(|object| read_latest(self.store, &object)).transpose()
    }

    fn adopted(&mut self, published: Option<&Latest>) -> Result<Option<String>, BucketError> {
        let Some(adopted) = self.adopted else { return Ok(None) };
        self.wait(adopted.check(self.store, published))?;
        Ok(Some(adopted.version.clone()))
    }

    fn list_tiles(
        &mut self,
        template: &Template,
        ours: bool,
        each: &mut dyn FnMut(TileId, Tag) -> Result<(), ScratchError>,
    ) -> Result<(), BucketError> {
        self.wait(async {
            let begin = template.prefix();
            let mut pages = self.store.pages(&begin);
            while let Some(found) = pages.try_next().await? {
                for Listed { name, digest, .. } in found {
                    match template.read(&name) {
                        Some(_) if !ours => return Err(self.foreign(name)),
                        Some(id) => each(id, digest)?,
                        None => {}
                    }
                }
            }
            Ok(())
        })
    }

    fn prepare(&mut self, version: Option<&str>, is_empty: bool) -> Result<(), BucketError> {
        match version {
            Some(version) => self.put(&notes::of_version(version, BEGUN), b"{}"),
            None => self.wait(header_note::begin(self.store, is_empty)),
        }
    }

    fn note_error(&self, name: &str, source: serde_json::Error) -> BucketError {
        self.store.note_error(name, source)
    }

    fn wait_for_tiles(&mut self) -> Result<(), BucketError> {
        self.settle()
    }

    fn delete_tile(&mut self, name: String) -> Result<bool, BucketError> {
        self.doomed.push(name);
        if self.doomed.len() == MAX_NAMES_PER_DELETE {
            self.delete_doomed()?;
        }
        Ok(true)
    }

    fn sync_tiles(&mut self) -> Result<(), BucketError> {
        self.delete_doomed()?;
        self.settle()
    }

    fn confirm(&mut self) -> Result<(), BucketError> {
        self.wait(self.lease.confirm())
    }

    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, BucketError> {
        Ok(self.wait(self.store.get(name))?.map(|object| object.body))
    }

    fn put(&mut self, name: &str, body: &[u8]) -> Result<(), BucketError> {
        self.wait(write_note(self.store, name, body.to_vec(), &WriteCondition::Always)).map(drop)
    }

    fn keep(&mut self, name: &str, body: &[u8]) -> Result<(), BucketError> {
        self.wait(replace_note(self.store, name, body))
    }

    fn replace(&mut self, name: &str, body: &[u8]) -> Result<(), BucketError> {
        let seen = if name == notes::LATEST { Some(&self.seen.latest) } else { self.seen.metadata.as_ref() };
        match seen {
            Some(seen) => self.wait(write_note(self.store, name, body.to_vec(), seen)).map(drop),
            None => self.keep(name, body),
        }
    }

    fn names(&mut self, folder: &str) -> Result<BTreeSet<String>, BucketError> {
        self.wait(entries(self.store, folder))
    }

    fn remove(&mut self, name: &str) -> Result<(), BucketError> {
        self.wait(self.store.remove(&[name.to_owned()]))
    }

    /// The end of a run in place, which has uploads, is noted when the lease is given back.
    fn note_begun(&mut self, begun: Begun) -> Result<(), BucketError> {
        if self.seen.is_versioned || self.uploads.is_none() {
            return self.wait(self.lease.note(begun));
        }
        wait(self.runtime, self.lease.finish(begun));
        Ok(())
    }

    fn note_published(&mut self, version: &str) -> Result<(), BucketError> {
        self.wait(note_published(self.store, version))
    }

    fn is_awaited(&mut self, version: &str) -> Result<bool, BucketError> {
        self.wait(is_awaited(self.store, version))
    }

    fn remove_version(&mut self, version: &str, template: &Template) -> Result<ControlFlow<()>, BucketError> {
        let store = self.store;
        self.wait(async {
            let begin = template.prefix();
            let mut pages = store.pages(&begin);
            while let Some(found) = pages.try_next().await? {
                let names = found.into_iter().map(|object| object.name);
                let tiles: Vec<String> = names.filter(|name| template.read(name).is_some()).collect();
                store.remove(&tiles).await?;
            }
            store.remove(&store.names(&notes::of_version(version, "")).await?).await
        })?;
        Ok(ControlFlow::Continue(()))
    }
}

/// Refuses a target that others wrote, like [`TreeStore::check`], but before the database is probed.
pub(crate) async fn claim(store: &Store, lease: &Lease, tree: &TreeOptions) -> Result<(), BucketError> {
    // Tiles are recognized by the names of layers and versions, which are not known yet.
    let has_unknown_names = tree.template.layers_apart() || tree.template.is_versioned();
    if tree.force || has_unknown_names || !lease.begun().await.fingerprint.is_empty() {
        return Ok(());
    }
    let place = || store.location.to_string();
    if let Some(metadata) = store.get(notes::METADATA).await? {
        let described = read_noted(store, &metadata)?.described;
        return match described.manifest.as_deref().and_then(notes::fingerprint) {
            Some(_ours) => Ok(()),
            None => Err(BucketError::Foreign { place: place(), example: notes::METADATA.to_owned() }),
        };
    }
    let begin = tree.template.prefix();
    let mut pages = store.pages(&begin);
    while let Some(found) = pages.try_next().await? {
        let is_tile = |name: &String| tree.template.read(name).is_some();
        if let Some(example) = found.into_iter().map(|object| object.name).find(is_tile) {
            return Err(BucketError::Foreign { place: place(), example });
        }
    }
    Ok(())
}
