//! The notes of a target in a bucket: parsed, and written on a condition.

use super::S3Error;
use super::cause::Meaning;
use super::error::Action;
use super::store::{Condition, Object, Store};
use crate::sink::tree::Latest;
use crate::sink::tree::notes::{self, TargetNotes};

/// The note of a version that was begun.
pub(super) const BEGUN: &str = "begun.json";

pub(super) fn read_noted(store: &Store, object: &Object) -> Result<TargetNotes, S3Error> {
    notes::read(&object.body).map_err(|source| S3Error::Note { place: store.place(notes::METADATA), source })
}

pub(super) fn read_latest(store: &Store, object: &Object) -> Result<Latest, S3Error> {
    serde_json::from_slice(&object.body).map_err(|source| S3Error::Note { place: store.place(notes::LATEST), source })
}

/// Replaces a note unless its body is the same already, so that caches stay valid.
pub(super) async fn replace_note(store: &Store, name: &str, body: &[u8]) -> Result<(), S3Error> {
    let before = store.get(name).await?;
    if before.as_ref().is_some_and(|object| object.body == body) {
        return Ok(());
    }
    write_note(store, name, body.to_vec(), &Condition::as_seen(before.as_ref().map(|object| &object.tag))).await
}

/// Writes a note.
///
/// # Errors
/// [`S3Error::Changed`] if the condition does not hold and the note is not already as wanted; else whatever the server refuses.
pub(super) async fn write_note(store: &Store, name: &str, body: Vec<u8>, condition: &Condition) -> Result<(), S3Error> {
    match store.put_note(name, body.clone(), condition).await {
        Ok(_) => Ok(()),
        // A server without conditional writes was warned about when the lease was taken.
        Err(refusal) if refusal.meaning == Meaning::Unknown && *condition != Condition::Always => {
            let written = store.put_note(name, body, &Condition::Always).await;
            written.map(|_| ()).map_err(|refusal| store.error(Action::Put, name, refusal))
        }
        // The server may have stored the first attempt without its answer arriving, and refused the second.
        Err(refusal) if matches!(refusal.meaning, Meaning::Condition | Meaning::Missing) => {
            match store.get(name).await? {
                Some(object) if object.body == body => Ok(()),
                _ if refusal.meaning == Meaning::Condition => Err(S3Error::Changed { place: store.place(name) }),
                _ => Err(store.error(Action::Put, name, refusal)),
            }
        }
        Err(refusal) => Err(store.error(Action::Put, name, refusal)),
    }
}
