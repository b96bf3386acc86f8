//! Deletes whole targets.

use tokio::runtime::Handle;

use super::store::Store;
use super::{S3Error, S3Key, S3Location, S3Options};

/// Deletes every object below a prefix. May wait for the server.
///
/// # Errors
/// If the server refuses.
pub fn remove_prefix(location: S3Location, options: S3Options, runtime: &Handle) -> Result<(), S3Error> {
    super::wait(runtime, async {
        let store = Store::open(location, options).await?;
        store.remove(&store.names("").await?).await
    })
}

/// Deletes an archive, and its notes. May wait for the server.
///
/// # Errors
/// If the server refuses.
pub fn remove_archive(archive: &S3Key, options: S3Options, runtime: &Handle) -> Result<(), S3Error> {
    super::wait(runtime, async {
        let store = Store::open(archive.bucket_as_location(), options).await?;
        let mut names = vec![archive.key.clone()];
        names.extend(store.names(&format!("{}/", archive.folder_beside())).await?);
        store.remove(&names).await
    })
}
