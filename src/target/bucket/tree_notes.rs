//! The notes of a target in a bucket: parsed, and written on a condition.

use std::collections::BTreeSet;

use super::client::{Object, WriteCondition};
use super::refusal::{Meaning, Refusal};
use super::store::Store;
use super::{Action, BucketError};
use crate::target::note_store::MAX_KEPT_NOTE;
use crate::target::tree::notes::TargetNotes;
use crate::target::tree::{Latest, notes};

/// The names of the files and folders in a folder, which ends with `/`.
pub(crate) async fn entries(store: &Store, folder: &str) -> Result<BTreeSet<String>, BucketError> {
    let all = store.names(folder).await?;
    Ok(all.iter().filter_map(|name| Some(name.strip_prefix(folder)?.split('/').next()?.to_owned())).collect())
}

pub(crate) fn read_noted(store: &Store, object: &Object) -> Result<TargetNotes, BucketError> {
    notes::read(&object.body).map_err(|source| store.note_error(notes::METADATA, source))
}

pub(crate) fn read_latest(store: &Store, object: &Object) -> Result<Latest, BucketError> {
    serde_json::from_slice(&object.body).map_err(|source| store.note_error(notes::LATEST, source))
}

/// Replaces a note unless it already has this body, so that caches stay valid.
pub(crate) async fn replace_note(store: &Store, name: &str, body: &[u8]) -> Result<(), BucketError> {
    let before = store.get(name).await?;
    if before.as_ref().is_some_and(|object| object.body == body) {
        return Ok(());
    }
    let seen = WriteCondition::as_seen(before.as_ref().map(|object| &object.tag));
    write_note(store, name, body.to_vec(), &seen).await.map(drop)
}

/// Writes a note; returns its new tag. If two writers write equal bodies, both succeed; so notes that must differ name
/// their writer. Fails with [`BucketError::Changed`] if the condition does not hold and the note is not already as
/// wanted; otherwise the server's refusal.
pub(crate) async fn write_note(
    store: &Store,
    name: &str,
    body: Vec<u8>,
    condition: &WriteCondition,
) -> Result<String, BucketError> {
    let refused = |refusal| store.error(Action::Put, name, refusal);
    match store.put_note(name, body.clone(), condition).await {
        // The user was warned about a server without conditional writes when the lease was taken.
        Err(refusal) if refusal.meaning == Meaning::Unknown && *condition != WriteCondition::Always => {
            store.put_note(name, body, &WriteCondition::Always).await.map_err(refused)
        }
        // The server may have stored the first attempt while its answer was lost, and then refused the second attempt.
        Err(refusal)
            if matches!(refusal.meaning, Meaning::Condition | Meaning::Missing)
                && *condition != WriteCondition::Always =>
        {
            match store.read(name, None, MAX_KEPT_NOTE.max(body.len())).await {
                Ok(object) if object.body == body => Ok(object.tag),
                Ok(_) | Err(Refusal { meaning: Meaning::Missing, .. }) => {
                    Err(BucketError::Changed { place: store.place(name) })
                }
                Err(refusal) => Err(store.error(Action::Get, name, refusal)),
            }
        }
        written => written.map_err(refused),
    }
}
