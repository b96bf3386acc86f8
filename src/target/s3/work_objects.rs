//! The large objects of a work folder in S3.

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::store::Store;
use super::{S3Archive, S3Error, S3Key, S3Location, S3Object, S3Options, wait};
use crate::stop::Stop;
use crate::target::ReadError;

/// Objects below a prefix, each of which is written once.
#[derive(Debug, Clone)]
pub struct S3WorkObjects {
    location: S3Location,
    options: S3Options,
    runtime: Handle,
    stop: Stop,
}

impl S3WorkObjects {
    /// The objects below a prefix. Sends no request.
    #[must_use]
    pub const fn new(location: S3Location, options: S3Options, runtime: Handle, stop: Stop) -> S3WorkObjects {
        S3WorkObjects { location, options, runtime, stop }
    }

    /// The object's URL.
    #[must_use]
    pub fn place(&self, name: &str) -> String {
        format!("{}{name}", self.location)
    }

    fn key(&self, name: &str) -> S3Key {
        S3Key {
            scheme: self.location.scheme,
            bucket: self.location.bucket.clone(),
            key: format!("{}{name}", self.location.prefix),
        }
    }

    /// Stores a file.
    ///
    /// # Errors
    /// If it cannot be read, or the bucket cannot be written.
    pub fn store(&self, name: &str, file: &Path) -> Result<(), S3Error> {
        let archive = S3Archive::begin_alone(&self.key(name), self.options.clone(), self.runtime.clone(), &self.stop)?;
        archive.upload(file).map(drop)
    }

    /// Opens an object for reading.
    ///
    /// # Errors
    /// If the object does not exist, or cannot be read.
    pub fn open(&self, name: &str) -> Result<S3Object, ReadError> {
        S3Object::open(&self.key(name), self.options.clone(), self.runtime.clone())
    }

    /// The names of the first thousand objects.
    ///
    /// # Errors
    /// If the bucket cannot be listed.
    pub fn first_names(&self) -> Result<Vec<String>, S3Error> {
        wait(&self.runtime, async {
            let store: Arc<Store> = Store::open(self.location.clone(), self.options.clone()).await?;
            Ok(store.list("", None).await?.found.into_iter().map(|object| object.name).collect())
        })
    }

    /// Removes the objects whose names begin with a text.
    ///
    /// # Errors
    /// If the bucket cannot be listed or written.
    pub fn remove_all(&self, begin: &str) -> Result<(), S3Error> {
        wait(&self.runtime, async {
            let store: Arc<Store> = Store::open(self.location.clone(), self.options.clone()).await?;
            let found = store.names(begin).await?;
            store.remove(&found).await
        })
    }
}
