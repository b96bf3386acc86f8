//! Notes of a target in a bucket: objects of their own, below the prefix or next to the archive.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::refusal::{Meaning, Refusal};
use super::store::Store;
use super::tree_notes::write_note;
use super::{Action, BucketError, BucketLocation, BucketOptions, ObjectKey, wait};
use crate::target::note_store::{KeptNote, MAX_KEPT_NOTE, NoteError, NoteStore, WriteCondition, parts};
use crate::target::tree::OWN_FOLDER;

#[derive(Debug, Clone)]
pub struct BucketNotes {
    location: BucketLocation,
    /// The beginning of the notes' names, below the location: ends with `/`.
    folder: String,
    options: BucketOptions,
    runtime: Handle,
}

impl BucketNotes {
    /// The notes of a prefix. Sends no request.
    pub fn of_prefix(location: BucketLocation, options: BucketOptions, runtime: Handle) -> BucketNotes {
        BucketNotes { location, folder: format!("{OWN_FOLDER}/notes/"), options, runtime }
    }

    /// The notes next to an archive. Sends no request.
    pub fn beside(archive: &ObjectKey, options: BucketOptions, runtime: Handle) -> BucketNotes {
        let folder = format!("{}/", archive.folder_beside());
        BucketNotes { location: archive.bucket_as_location(), folder, options, runtime }
    }

    /// The address of the folder of the notes; ends with `/`.
    pub(crate) fn address(&self) -> String {
        format!("{}{}", self.location, self.folder)
    }

    fn name(&self, name: &str) -> Result<String, NoteError> {
        parts(name)?;
        Ok(format!("{}{name}", self.folder))
    }

    fn refused(&self, action: &'static str, name: &str, error: BucketError) -> NoteError {
        match error {
            BucketError::Changed { place } => NoteError::Changed { place },
            BucketError::TooLarge { place, .. } => NoteError::TooLong { place },
            error => NoteError::Refused { action, place: format!("{}{name}", self.address()), source: error.into() },
        }
    }

    async fn store(&self) -> Result<Arc<Store>, BucketError> {
        Store::open(self.location.clone(), self.options.clone()).await
    }

    async fn get(&self, name: &str) -> Result<Option<KeptNote>, BucketError> {
        let store = self.store().await?;
        match store.read(name, None, MAX_KEPT_NOTE).await {
            Ok(object) => Ok(Some(KeptNote { body: object.body, tag: object.tag })),
            Err(Refusal { meaning: Meaning::Missing, .. }) => Ok(None),
            Err(refusal) => Err(store.error(Action::Get, name, refusal)),
        }
    }
}

impl NoteStore for BucketNotes {
    fn read(&self, name: &str) -> Result<Option<KeptNote>, NoteError> {
        let full = self.name(name)?;
        wait(&self.runtime, self.get(&full)).map_err(|error| self.refused("read", name, error))
    }

    fn write(&self, name: &str, body: &[u8], condition: &WriteCondition) -> Result<String, NoteError> {
        let full = self.name(name)?;
        let writing = async { write_note(&*self.store().await?, &full, body.to_vec(), condition).await };
        wait(&self.runtime, writing).map_err(|error| self.refused("write", name, error))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, NoteError> {
        let begin = format!("{}/", self.name(folder)?);
        let names = wait(&self.runtime, async { self.store().await?.names(&begin).await })
            .map_err(|error| self.refused("list", folder, error))?;
        let short = names.iter().filter_map(|name| name.strip_prefix(&self.folder)).filter(|name| parts(name).is_ok());
        let mut short: Vec<String> = short.map(str::to_owned).collect();
        short.sort_unstable();
        Ok(short)
    }

    fn remove(&self, name: &str) -> Result<(), NoteError> {
        let full = self.name(name)?;
        let removing = async { self.store().await?.remove(&[full]).await };
        wait(&self.runtime, removing).map_err(|error| self.refused("remove", name, error))
    }
}
