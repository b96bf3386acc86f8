//! What the readers and the sink of one target have in common: a client with its open connections, and the `ETag`s of tiles that were read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_s3::Client;

use super::client::connect;
use super::error::Where;
use super::{S3Error, S3Location, S3Options};
use crate::sink::tree::Tag;

/// What all clones of some [`S3Options`] share: the client of the bucket that was opened first, with its credentials and open connections,
/// and the `ETag`s of tiles that were read since a sink began to edit them.
#[derive(Debug, Clone, Default)]
pub struct S3Shared(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    bucket: Option<OpenBucket>,
    /// By their names; `None` unless a sink edits the target.
    read: Option<HashMap<String, ReadTile>>,
}

/// What a read of a tile has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadTile {
    /// There is none.
    Absent,
    /// Its `ETag`.
    Present(Tag),
}

impl ReadTile {
    /// What the target holds; `None` for nothing.
    pub(super) const fn held(self) -> Option<Tag> {
        match self {
            ReadTile::Absent => None,
            ReadTile::Present(tag) => Some(tag),
        }
    }
}

/// A client, and where it was opened.
#[derive(Debug)]
struct OpenBucket {
    location: S3Location,
    endpoint: Option<String>,
    client: Client,
    place: Where,
}

impl S3Shared {
    /// Drops the client: the next request looks for credentials and connects anew. For whoever tries again after a failure.
    pub fn reset(&self) {
        self.contents().bucket = None;
    }

    /// The client of a bucket, made if there is none. Nothing is asked of the server yet.
    pub(super) async fn client(&self, location: &S3Location, options: &S3Options) -> Result<(Client, Where), S3Error> {
        if let Some(open) = &self.contents().bucket
            && open.location == *location
            && open.endpoint == options.endpoint
        {
            return Ok((open.client.clone(), open.place.clone()));
        }
        let (client, place) = connect(location, options).await?;
        let (location, endpoint) = (location.clone(), options.endpoint.clone());
        self.contents().bucket = Some(OpenBucket { location, endpoint, client: client.clone(), place: place.clone() });
        Ok((client, place))
    }

    /// Begins to keep the `ETag`s of tiles that are read: nobody else writes the target from now on.
    pub(super) fn keep_tags(&self) {
        self.contents().read = Some(HashMap::new());
    }

    /// Forgets them, and keeps no more.
    pub(super) fn drop_tags(&self) {
        self.contents().read = None;
    }

    /// Notes what a read of a tile has found.
    pub(super) fn note(&self, name: &str, found: ReadTile) {
        if let Some(read) = &mut self.contents().read {
            read.insert(name.to_owned(), found);
        }
    }

    /// Takes what a read of a tile has found; `None` if the tile was not read.
    pub(super) fn take(&self, name: &str) -> Option<ReadTile> {
        self.contents().read.as_mut()?.remove(name)
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Each value is whole at any moment: a panic elsewhere does not break it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
