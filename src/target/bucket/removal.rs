//! Deletes whole targets.

use tokio::runtime::Handle;

use super::store::Store;
use super::{BucketError, BucketLocation, BucketOptions, ObjectKey};

/// Deletes every object below a prefix. May wait for the server.
pub fn remove_prefix(location: BucketLocation, options: BucketOptions, runtime: &Handle) -> Result<(), BucketError> {
    super::wait(runtime, async {
        let store = Store::open(location, options).await?;
        store.remove(&store.names("").await?).await
    })
}

/// Deletes an archive, and its notes. May wait for the server.
pub fn remove_archive(archive: &ObjectKey, options: BucketOptions, runtime: &Handle) -> Result<(), BucketError> {
    super::wait(runtime, async {
        let store = Store::open(archive.bucket_as_location(), options).await?;
        let mut names = vec![archive.key.clone()];
        names.extend(store.names(&format!("{}/", archive.folder_beside())).await?);
        store.remove(&names).await
    })
}
