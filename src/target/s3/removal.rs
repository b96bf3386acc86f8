//! Deletes whole targets.

use tokio::runtime::Handle;

use super::store::{MAX_NAMES_PER_DELETE, Store};
use super::{Action, S3Error, S3Key, S3Location, S3Options};

/// Deletes every object below a prefix. May wait for the server.
///
/// # Errors
/// If the server refuses.
pub fn remove_prefix(location: S3Location, options: S3Options, runtime: &Handle) -> Result<(), S3Error> {
    super::wait(runtime, async {
        let store = Store::open(location, options).await?;
        let (mut names, mut from) = (Vec::new(), None);
        loop {
            let page = store.list("", from).await?;
            names.extend(page.found.into_iter().map(|(name, _)| name));
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        remove(&store, &names).await
    })
}

/// Deletes an archive, and its notes. May wait for the server.
///
/// # Errors
/// If the server refuses.
pub fn remove_archive(archive: &S3Key, options: S3Options, runtime: &Handle) -> Result<(), S3Error> {
    super::wait(runtime, async {
        let store = Store::open(archive.bucket_as_location(), options).await?;
        let (above, name) = archive.key.rsplit_once('/').map_or(("", &*archive.key), |(above, name)| (above, name));
        let slash = if above.is_empty() { "" } else { "/" };
        let notes = format!("{above}{slash}.{name}.oar-tiles/");
        let (mut names, mut from) = (vec![archive.key.clone()], None);
        loop {
            let page = store.list(&notes, from).await?;
            names.extend(page.found.into_iter().map(|(name, _)| name));
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        remove(&store, &names).await
    })
}

async fn remove(store: &Store, names: &[String]) -> Result<(), S3Error> {
    for some in names.chunks(MAX_NAMES_PER_DELETE) {
        if let Some((name, refusal)) = store.delete(some).await.into_iter().next() {
            return Err(store.error(Action::Delete, &name, refusal));
        }
    }
    Ok(())
}
