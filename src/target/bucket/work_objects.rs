//! The large objects of a work folder in a bucket.

use std::path::Path;

use tokio::runtime::Handle;

use super::lease::Lease;
use super::store::Store;
use super::{
    BucketArchive, BucketError, BucketLocation, BucketObject, BucketOptions, MAX_UNDO_TIME, ObjectKey, remove_prefix,
    unless_stopped, wait,
};
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

    /// Takes the lease on the objects.
    /// Fails if another process holds it.
    pub(crate) fn lease(&self) -> Result<WorkLease, BucketError> {
        let taken = async {
            let store = Store::open(self.location.clone(), self.options.clone()).await?;
            Lease::take(&store, &self.runtime).await
        };
        let lease = wait(&self.runtime, unless_stopped(&self.stop, &self.location, taken))?;
        Ok(WorkLease { lease, runtime: self.runtime.clone(), place: self.location.to_string() })
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

    /// The names of the first thousand objects that begin with a text.
    pub(crate) fn first_names(&self, begin: &str) -> Result<Vec<String>, BucketError> {
        wait(&self.runtime, async {
            let store = Store::open(self.location.clone(), self.options.clone()).await?;
            Ok(store.list(begin, None).await?.found.into_iter().map(|object| object.name).collect())
        })
    }

    /// Removes the objects whose names begin with a text.
    pub(crate) fn remove_all(&self, begin: &str) -> Result<(), BucketError> {
        let location = BucketLocation { prefix: format!("{}{begin}", self.location.prefix), ..self.location.clone() };
        remove_prefix(location, self.options.clone(), &self.runtime)
    }
}

/// The lease on the objects of a work folder. It is given back when it is dropped.
#[derive(Debug)]
pub struct WorkLease {
    lease: Lease,
    runtime: Handle,
    place: String,
}

impl WorkLease {
    /// Fails if the lease was lost. Sends no request.
    pub(crate) fn check(&self) -> Result<(), BucketError> {
        self.lease.check()
    }
}

impl Drop for WorkLease {
    fn drop(&mut self) {
        // The timer needs the runtime in which it is made.
        let release = async { tokio::time::timeout(MAX_UNDO_TIME, self.lease.release()).await };
        if !matches!(wait(&self.runtime, release), Ok(Ok(()))) {
            tracing::warn!("the lease on {} could not be given back, and expires by itself", self.place);
        }
    }
}
