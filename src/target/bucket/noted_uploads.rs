//! The uploads in parts that runs have begun to an archive, noted beside it: the parts of a run that was killed cost
//! money until somebody aborts the upload, and the next run finds it here.
//!
//! An upload is noted before its first part is sent, until it is complete or aborted. Only what is noted is ever
//! aborted: a server lists all uploads to a key, but not which program has begun them. Nor does it say which of them
//! are still under way, so a run aborts
//!
//! | when | uploads | why that is safe |
//! |---|---|---|
//! | before its own upload | of processes of this machine that have ended, and those that should have ended long ago | nobody sends their parts |
//! | after it has replaced the archive | those that were noted before | an upload is completed on condition that the archive is the one that its run has seen, which it is no more |

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::client::{WriteCondition, line_time};
use super::lease::Holder;
use super::refusal::{Meaning, Refusal};
use super::store::Store;
use super::tree_notes::write_note;
use super::{Action, BucketError, ObjectKey};
use crate::clock::milliseconds;
use crate::error::with_causes;

/// How long an upload takes at most, beside the time that its bytes take on the slowest line: a day.
const MAX_UPLOAD_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// How long after that the run of an upload that may not be aborted is still asked to: a week after it began.
const MAX_REFUSED_TIME: Duration = Duration::from_secs(6 * 24 * 60 * 60);

/// The most uploads that are aborted at once.
const MAX_ABORTS_IN_FLIGHT: usize = 4;

/// What removes uploads that no run aborts.
const LIFECYCLE: &str = "Have a lifecycle rule of the bucket for incomplete uploads remove them";

/// How often the note is written while other runs write it, too.
const MAX_ATTEMPTS: u32 = 4;

/// The pauses between the requests that abort an upload, less than [`MAX_UNDO_TIME`](super::MAX_UNDO_TIME) altogether.
const PAUSES_OF_ABORTS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];

#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    #[serde(default)]
    uploads: Vec<NotedUpload>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct NotedUpload {
    id: String,
    run: Holder,
    /// When the upload has certainly ended, in milliseconds since 1970 (UTC), by the clock of its run.
    expires: u64,
}

impl NotedUpload {
    fn new(id: String, length: u64, now: SystemTime) -> NotedUpload {
        let expires = milliseconds(now + MAX_UPLOAD_TIME + line_time(length));
        NotedUpload { id, run: Holder::this_run(now), expires }
    }

    /// True if it is no longer tried to abort it after the server has refused that.
    fn is_given_up(&self, now: SystemTime) -> bool {
        now.checked_sub(MAX_REFUSED_TIME).is_some_and(|then| self.expires <= milliseconds(then))
    }

    fn may_be_under_way(&self, now: SystemTime) -> bool {
        self.expires > milliseconds(now) && !self.run.is_gone()
    }
}

/// The note on an archive's uploads, as this run has last read or written it. What goes wrong with it is a warning: it
/// serves only to find what a killed run leaves.
#[derive(Debug)]
pub(crate) struct NotedUploads {
    store: Arc<Store>,
    /// The archive's name in the store.
    archive: String,
    /// The note's name in the store.
    name: String,
    uploads: Vec<NotedUpload>,
    /// The note as it was when `uploads` was read or written.
    seen: WriteCondition,
    /// The ids of uploads that need not be noted any more.
    over: Vec<String>,
    /// The id of this run's upload.
    own: Option<String>,
}

impl NotedUploads {
    /// Reads the note, and aborts the uploads that are certainly not under way; `None` if it cannot be read. A damaged
    /// one is replaced. `store` holds the whole bucket.
    pub(crate) async fn begin(store: &Arc<Store>, archive: &ObjectKey) -> Option<NotedUploads> {
        let mut noted = NotedUploads {
            store: Arc::clone(store),
            archive: archive.key.clone(),
            name: format!("{}/uploads.json", archive.folder_beside()),
            uploads: Vec::new(),
            seen: WriteCondition::Absent,
            over: Vec::new(),
            own: None,
        };
        let read = match noted.read().await {
            Err(damaged @ BucketError::Note { .. }) => noted.replace_damaged(&damaged, archive).await,
            read => read,
        };
        if let Err(error) = read {
            let cause = with_causes(&error);
            noted.warn(&format!("what killed runs have left of uploads to {archive} is not looked for: {cause}"));
            return None;
        }
        let now = SystemTime::now();
        noted.abort(|upload| !upload.may_be_under_way(now)).await;
        Some(noted)
    }

    /// Writes an empty note instead of one that cannot be read.
    async fn replace_damaged(&mut self, damaged: &BucketError, archive: &ObjectKey) -> Result<(), BucketError> {
        let tag = write_note(&self.store, &self.name, b"{}".to_vec(), self.condition()).await?;
        self.seen = WriteCondition::Unchanged(tag);
        let place = self.store.place(&self.name);
        let cause = std::error::Error::source(damaged).map(ToString::to_string).unwrap_or_default();
        tracing::warn!(
            "{place} was damaged, and is written anew ({cause}): uploads to {archive} that killed runs have left are not known any more. {LIFECYCLE}"
        );
        Ok(())
    }

    /// The condition on which the note is written.
    fn condition(&self) -> &WriteCondition {
        if self.store.options.section.conditional_writes { &self.seen } else { &WriteCondition::Always }
    }

    /// Notes an upload of this run. `length` is that of the archive, in bytes.
    pub(crate) async fn add(&mut self, id: &str, length: u64) {
        self.own = Some(id.to_owned());
        let new = NotedUpload::new(id.to_owned(), length, SystemTime::now());
        if let Err(error) = self.write(Some(new)).await {
            let (archive, cause) = (self.store.place(&self.archive), with_causes(&error));
            self.warn(&format!(
                "if this run is killed, the parts of its upload to {archive} stay in the bucket: {cause}"
            ));
        }
    }

    /// True if the note names an upload.
    pub(crate) fn names(&self, id: &str) -> bool {
        self.uploads.iter().any(|upload| upload.id == id)
    }

    /// Notes that this run's upload is aborted.
    pub(crate) async fn aborted(&mut self) {
        self.over.extend(self.own.take());
        self.write_over().await;
    }

    /// Aborts the uploads that were noted before this run replaced, or removed, the archive.
    pub(crate) async fn replaced(&mut self) {
        let own = self.own.take();
        self.abort(|upload| Some(&upload.id) != own.as_ref()).await;
        self.over.extend(own);
        self.write_over().await;
    }

    async fn abort(&mut self, is_over: impl Fn(&NotedUpload) -> bool) {
        let left: Vec<&NotedUpload> =
            self.uploads.iter().filter(|upload| !self.over.contains(&upload.id) && is_over(upload)).collect();
        let (store, archive) = (&self.store, &self.archive);
        let aborting =
            left.into_iter().map(async |upload| (upload, abort_surely(store, archive, &upload.id, true).await));
        let answers: Vec<_> = stream::iter(aborting).buffer_unordered(MAX_ABORTS_IN_FLIGHT).collect().await;
        let (mut over, mut given_up, mut refused, now) = (Vec::new(), 0, Vec::new(), SystemTime::now());
        for (upload, answer) in answers {
            match answer {
                Ok(()) => over.push(upload.id.clone()),
                Err(refusal) => {
                    if !refusal.is_passing() && upload.is_given_up(now) {
                        over.push(upload.id.clone());
                        given_up += 1;
                    }
                    refused.push(refusal);
                }
            }
        }
        let (archive, aborted) = (self.store.place(&self.archive), over.len() - given_up);
        if aborted > 0 {
            tracing::info!("uploads to {archive} that earlier runs have left, aborted: {aborted}");
        }
        if let Some(refusal) = refused.first() {
            let error = self.store.error(Action::Abort, &self.archive, refusal.clone());
            let (count, cause) = (refused.len(), with_causes(&error));
            let next = match given_up {
                0 => String::new(),
                _ => format!(". Of these, {given_up} are older than a week, and no run tries it again. {LIFECYCLE}"),
            };
            self.warn(&format!(
                "uploads to {archive} that earlier runs have left, and that stay: {count}: {cause}{next}"
            ));
        }
        self.over.extend(over);
    }

    async fn write_over(&mut self) {
        if let Err(error) = self.write(None).await {
            // The next run aborts what is no upload any more, which does no harm.
            tracing::info!("{}: {}", self.store.place(&self.name), with_causes(&error));
        }
    }

    async fn read(&mut self) -> Result<(), BucketError> {
        let found = self.store.get(&self.name).await?;
        self.seen = WriteCondition::as_seen(found.as_ref().map(|object| &object.tag));
        let note = found.map_or_else(|| Ok(Note::default()), |object| serde_json::from_slice(&object.body));
        self.uploads = note.map_err(|source| self.store.note_error(&self.name, source))?.uploads;
        Ok(())
    }

    /// Writes the note without the uploads that are over, and with a new one.
    async fn write(&mut self, new: Option<NotedUpload>) -> Result<(), BucketError> {
        let mut attempts = 1;
        loop {
            let stay = self.uploads.iter().filter(|upload| !self.over.contains(&upload.id)).cloned();
            let uploads: Vec<NotedUpload> = stay.chain(new.clone()).collect();
            if new.is_none() && uploads.len() == self.uploads.len() {
                return Ok(());
            }
            let note = Note { uploads };
            let body = serde_json::to_vec_pretty(&note).map_err(|source| self.store.note_error(&self.name, source))?;
            match write_note(&self.store, &self.name, body, self.condition()).await {
                Ok(tag) => {
                    (self.uploads, self.seen) = (note.uploads, WriteCondition::Unchanged(tag));
                    return Ok(());
                }
                Err(BucketError::Changed { .. }) if attempts < MAX_ATTEMPTS => attempts += 1,
                Err(error) => return Err(error),
            }
            self.read().await?;
        }
    }

    /// Warns, unless the last warning of this process was the same: a watch begins many uploads.
    fn warn(&self, message: &str) {
        if self.store.options.shared.is_new_warning(message) {
            tracing::warn!("{message}");
        }
    }
}

/// Asks the server to delete the parts of an upload.
///
/// A copy that the server is still at may end after the upload was aborted, and its part stays (Amazon S3 API
/// Reference, `AbortMultipartUpload`). So `asks_again` is true where the server may be copying: until it knows no such
/// upload.
pub(crate) async fn abort_surely(store: &Store, name: &str, id: &str, asks_again: bool) -> Result<(), Refusal> {
    let key = store.key(name);
    let pauses: &[Duration] = if asks_again { &PAUSES_OF_ABORTS } else { &[] };
    let mut aborted = store.client.abort_parts(&key, id).await;
    for pause in pauses {
        if aborted.is_err() {
            break;
        }
        tokio::time::sleep(*pause).await;
        aborted = store.client.abort_parts(&key, id).await;
    }
    aborted.or_else(|refusal| if refusal.meaning == Meaning::Missing { Ok(()) } else { Err(refusal) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_may_be_under_way_until_its_process_or_its_time_has_ended() {
        let now = SystemTime::now();
        let upload = NotedUpload::new("id".to_owned(), 10 << 30, now);
        let day = Duration::from_secs(24 * 60 * 60);
        assert!(upload.may_be_under_way(now + day));
        // 10 GiB at 256 KiB a second take 11 hours and more.
        assert!(upload.may_be_under_way(now + day + Duration::from_secs(11 * 3_600)));
        assert!(!upload.may_be_under_way(now + day + Duration::from_secs(12 * 3_600)));
        let text = serde_json::to_string(&Note { uploads: vec![upload] }).unwrap();
        let pid = format!("\"pid\":{}", std::process::id());
        assert!(text.contains(&pid), "{text}");
        // Beyond the largest process id of Linux (2^22).
        let gone: Note = serde_json::from_str(&text.replace(&pid, "\"pid\":8388608")).unwrap();
        assert!(!gone.uploads[0].may_be_under_way(now));
        assert!(serde_json::from_str::<Note>("{}").unwrap().uploads.is_empty());
    }
}
