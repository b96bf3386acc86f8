//! The large objects of a work folder in a bucket.

use std::path::Path;

use tokio::runtime::Handle;

use super::store::Store;
use super::{BucketArchive, BucketError, BucketLocation, BucketObject, BucketOptions, ObjectKey, remove_prefix, wait};
use crate::stop::Stop;
use crate::target::ReadError;

/// Objects below a prefix, each of which is written once.
#[derive(Debug, Clone)]
pub struct BucketWorkFiles {
    location: BucketLocation,
    options: BucketOptions,
    runtime: Handle,
    stop: Stop,
}

impl BucketWorkFiles {
    /// The objects below a prefix. Sends no request.
    pub const fn new(location: BucketLocation, options: BucketOptions, runtime: Handle, stop: Stop) -> BucketWorkFiles {
        BucketWorkFiles { location, options, runtime, stop }
    }

    pub(crate) fn place(&self, name: &str) -> String {
        format!("{}{name}", self.location)
    }

    fn key(&self, name: &str) -> ObjectKey {
        ObjectKey {
            scheme: self.location.scheme,
            bucket: self.location.bucket.clone(),
            key: format!("{}{name}", self.location.prefix),
        }
    }

    pub(crate) fn store(&self, name: &str, file: &Path) -> Result<(), BucketError> {
        let archive =
            BucketArchive::begin_alone(&self.key(name), self.options.clone(), self.runtime.clone(), &self.stop)?;
        archive.upload(file).map(drop)
    }

    pub(crate) fn open(&self, name: &str) -> Result<BucketObject, ReadError> {
        BucketObject::open(&self.key(name), self.options.clone(), self.runtime.clone())
    }

    /// The names of the first thousand objects.
    pub(crate) fn first_names(&self) -> Result<Vec<String>, BucketError> {
        wait(&self.runtime, async {
            let store = Store::open(self.location.clone(), self.options.clone()).await?;
            Ok(store.list("", None).await?.found.into_iter().map(|object| object.name).collect())
        })
    }

    /// Removes the objects whose names begin with a text.
    pub(crate) fn remove_all(&self, begin: &str) -> Result<(), BucketError> {
        let location = BucketLocation { prefix: format!("{}{begin}", self.location.prefix), ..self.location.clone() };
        remove_prefix(location, self.options.clone(), &self.runtime)
    }
}
