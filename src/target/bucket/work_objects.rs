//! The large objects of a work folder in S3.

use std::path::Path;

use tokio::runtime::Handle;

use super::store::Store;
use super::{S3Archive, S3Error, S3Key, S3Location, S3Object, S3Options, remove_prefix, wait};
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
    pub const fn new(location: S3Location, options: S3Options, runtime: Handle, stop: Stop) -> S3WorkObjects {
        S3WorkObjects { location, options, runtime, stop }
    }

    pub(crate) fn place(&self, name: &str) -> String {
        format!("{}{name}", self.location)
    }

    fn key(&self, name: &str) -> S3Key {
        S3Key {
            scheme: self.location.scheme,
            bucket: self.location.bucket.clone(),
            key: format!("{}{name}", self.location.prefix),
        }
    }

    pub(crate) fn store(&self, name: &str, file: &Path) -> Result<(), S3Error> {
        let archive = S3Archive::begin_alone(&self.key(name), self.options.clone(), self.runtime.clone(), &self.stop)?;
        archive.upload(file).map(drop)
    }

    pub(crate) fn open(&self, name: &str) -> Result<S3Object, ReadError> {
        S3Object::open(&self.key(name), self.options.clone(), self.runtime.clone())
    }

    /// The names of the first thousand objects.
    pub(crate) fn first_names(&self) -> Result<Vec<String>, S3Error> {
        wait(&self.runtime, async {
            let store = Store::open(self.location.clone(), self.options.clone()).await?;
            Ok(store.list("", None).await?.found.into_iter().map(|object| object.name).collect())
        })
    }

    /// Removes the objects whose names begin with a text.
    pub(crate) fn remove_all(&self, begin: &str) -> Result<(), S3Error> {
        let location = S3Location { prefix: format!("{}{begin}", self.location.prefix), ..self.location.clone() };
        remove_prefix(location, self.options.clone(), &self.runtime)
    }
}
