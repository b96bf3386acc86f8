//! The end of a run below a prefix: what [`tree::end`](crate::target::tree::end) does by requests to the server.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use tokio::runtime::Handle;

use super::client::{Condition, MAX_NAMES_PER_DELETE};
use super::lease::Lease;
use super::note::{entries, read_latest, replace_note, write_note};
use super::store::Store;
use super::uploads::Uploads;
use super::version::{is_awaited, note_published};
use super::{S3Error, wait};
use crate::stop::Stop;
use crate::target::tree::notes::Begun;
use crate::target::tree::{Latest, Template, TreeStore, notes, switch};

/// A prefix whose run ends, or whose version is switched.
pub(crate) struct PrefixEnd<'a> {
    pub(crate) runtime: &'a Handle,
    pub(crate) stop: &'a Stop,
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a Lease,
    /// The tiles in flight; `None` if no tile is written.
    pub(crate) uploads: Option<&'a mut Uploads>,
    /// Names of tiles to be deleted, fewer than one request takes.
    pub(crate) doomed: Vec<String>,
    /// The condition for replacing `metadata.json`; `None`: it is replaced as it is then.
    pub(crate) metadata: Option<Condition>,
    /// The condition for replacing `latest.json`.
    pub(crate) latest: Condition,
    pub(crate) is_versioned: bool,
}

impl PrefixEnd<'_> {
    /// Waits for requests, unless a stop is asked for.
    fn wait<T>(&self, requests: impl Future<Output = Result<T, S3Error>>) -> Result<T, S3Error> {
        wait(self.runtime, async {
            tokio::select! {
                biased;
                _ = self.stop.wait() => Err(S3Error::Interrupted { place: self.store.location.to_string() }),
                done = requests => done,
            }
        })
    }

    fn delete_doomed(&mut self) -> Result<(), S3Error> {
        let names = std::mem::take(&mut self.doomed);
        match &mut self.uploads {
            Some(uploads) if !names.is_empty() => uploads.delete(names),
            _ => Ok(()),
        }
    }

    fn settle(&mut self) -> Result<(), S3Error> {
        self.uploads.as_mut().map_or(Ok(()), |uploads| uploads.settle())
    }
}

impl TreeStore for PrefixEnd<'_> {
    type Error = S3Error;

    /// A reader finds the metadata by one request.
    const SHOWS_METADATA: bool = true;

    fn note_error(&self, name: &str, source: serde_json::Error) -> S3Error {
        S3Error::Note { place: self.store.place(name), source }
    }

    fn wait_for_tiles(&mut self) -> Result<(), S3Error> {
        self.settle()
    }

    fn delete_tile(&mut self, name: String) -> Result<bool, S3Error> {
        self.doomed.push(name);
        if self.doomed.len() == MAX_NAMES_PER_DELETE {
            self.delete_doomed()?;
        }
        Ok(true)
    }

    fn sync_tiles(&mut self) -> Result<(), S3Error> {
        self.delete_doomed()?;
        self.settle()
    }

    fn confirm(&mut self) -> Result<(), S3Error> {
        self.wait(self.lease.confirm())
    }

    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, S3Error> {
        Ok(self.wait(self.store.get(name))?.map(|object| object.body))
    }

    fn put(&mut self, name: &str, body: &[u8]) -> Result<(), S3Error> {
        self.wait(write_note(self.store, name, body.to_vec(), &Condition::Always)).map(drop)
    }

    fn keep(&mut self, name: &str, body: &[u8]) -> Result<(), S3Error> {
        self.wait(replace_note(self.store, name, body))
    }

    fn replace(&mut self, name: &str, body: &[u8]) -> Result<(), S3Error> {
        let seen = if name == notes::LATEST { Some(&self.latest) } else { self.metadata.as_ref() };
        match seen {
            Some(seen) => self.wait(write_note(self.store, name, body.to_vec(), seen)).map(drop),
            None => self.keep(name, body),
        }
    }

    fn names(&mut self, folder: &str) -> Result<BTreeSet<String>, S3Error> {
        self.wait(entries(self.store, folder))
    }

    fn remove(&mut self, name: &str) -> Result<(), S3Error> {
        self.wait(self.store.remove(&[name.to_owned()]))
    }

    /// In place, the note is written when the lease is given back.
    fn note_begun(&mut self, begun: Begun) -> Result<(), S3Error> {
        if self.is_versioned {
            return self.wait(self.lease.note(begun));
        }
        wait(self.runtime, self.lease.finish(begun));
        Ok(())
    }

    fn note_published(&mut self, version: &str) -> Result<(), S3Error> {
        self.wait(note_published(self.store, version))
    }

    fn is_awaited(&mut self, version: &str) -> Result<bool, S3Error> {
        self.wait(is_awaited(self.store, version))
    }

    fn remove_version(&mut self, version: &str, template: &Template) -> Result<ControlFlow<()>, S3Error> {
        let store = self.store;
        self.wait(async {
            let mut from = None;
            loop {
                let page = store.list(&template.prefix(), from).await?;
                let names = page.found.into_iter().map(|object| object.name);
                let tiles: Vec<String> = names.filter(|name| template.read(name).is_some()).collect();
                store.remove(&tiles).await?;
                from = page.next;
                if from.is_none() {
                    break;
                }
            }
            store.remove(&store.names(&notes::of_version(version, "")).await?).await
        })?;
        Ok(ControlFlow::Continue(()))
    }
}

/// Switches clients to the version `to`, or to the one before the current one, and copies its notes to where clients
/// look for them.
pub(crate) fn rollback(
    store: &Store,
    lease: &Lease,
    runtime: &Handle,
    stop: &Stop,
    to: Option<&str>,
) -> Result<Latest, S3Error> {
    let (metadata, doomed) = (None, Vec::new());
    let mut end = PrefixEnd {
        runtime,
        stop,
        store,
        lease,
        uploads: None,
        doomed,
        metadata,
        latest: Condition::Always,
        is_versioned: true,
    };
    let Some(object) = end.wait(store.get(notes::LATEST))? else {
        return Err(S3Error::Missing { place: store.place(notes::LATEST) });
    };
    let before = read_latest(store, &object)?;
    let shown = before.version.clone();
    let switched = before.switched(to);
    let latest = switched.map_err(|source| S3Error::Switch { place: store.location.to_string(), source })?;
    end.latest = Condition::Unchanged(object.tag);
    switch(&mut end, &latest, &shown)?;
    Ok(latest)
}
