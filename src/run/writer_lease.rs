//! Decides which of several servers writes a target. A note is kept with the target. The writer renews it, and another
//! server replaces it if it was not renewed for the whole time of the lease.
//!
//! The lease only saves work: every run takes the target's own lock, and checks under it that the manifest is still the
//! one with which it began. Clocks need not agree, because a server measures the age of another server's renewal by its
//! own clock, from the moment when it first saw that renewal. `target/lease_clock` says how the lease of a bucket
//! differs.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::CommandError;
use crate::error::with_causes;
use crate::hex::random_hex;
use crate::target::{
    BeforeManifest, BeforeManifestError, GENERATOR, KeptNote, LeaseClock, NoteError, NoteStore, PublishedTiles,
    WriteCondition, host,
};

/// The name of the note.
const WRITER: &str = "writer.json";

/// The longest pause between two attempts to take another process's lease.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The longest lease that is accepted from another process's note.
const MAX_LEASE: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct WriterNote {
    /// Random.
    id: String,
    /// The holder, for people; empty once the lease was given back.
    holder: String,
    /// How long the lease lasts after a renewal, in milliseconds.
    lease: u64,
    /// Counts renewals, so that each renewal changes the content.
    renewed: u64,
}

#[derive(Debug)]
pub(crate) struct WriterLease {
    notes: Arc<dyn NoteStore>,
    name: String,
    note: WriterNote,
    tag: String,
    clock: Arc<LeaseClock>,
}

/// Lets a run publish only while the lease is held, so that a process that was paused does not write a target that its
/// successor has taken over.
#[derive(Debug)]
struct OnlyWhileHeld(Arc<LeaseClock>);

impl BeforeManifest for OnlyWhileHeld {
    fn stored(&self, _stored: &PublishedTiles) -> Result<(), BeforeManifestError> {
        if self.0.is_held() {
            return Ok(());
        }
        Err(NoteError::Changed { place: format!("the lease {WRITER}") }.into())
    }
}

/// The result of an attempt to take the lease.
enum Attempt {
    Taken(WriterLease),
    /// Another process has it.
    Held(String),
}

pub(crate) struct LeaseWait {
    notes: Arc<dyn NoteStore>,
    name: String,
    time: Duration,
    /// The note as it was seen last, and since when it is unchanged.
    seen: Option<KeptNote>,
    since: Instant,
}

impl LeaseWait {
    pub(crate) fn new(notes: Arc<dyn NoteStore>, time: Duration) -> LeaseWait {
        LeaseWait::on_note(notes, WRITER.to_owned(), time)
    }

    /// Waits for the lease of the note `name`, one of several notes that are each held by one process.
    pub(crate) fn on_note(notes: Arc<dyn NoteStore>, name: String, time: Duration) -> LeaseWait {
        LeaseWait { notes, name, time, seen: None, since: Instant::now() }
    }

    /// Takes the lease if it is free. May wait for a server.
    pub(crate) fn take_if_free(&mut self) -> Result<Option<WriterLease>, NoteError> {
        Ok(match self.attempt()? {
            Attempt::Taken(lease) => Some(lease),
            Attempt::Held(_) => None,
        })
    }

    /// Waits until this process has the lease. `held` gets the holder at each attempt, `failed` the reason why an
    /// attempt failed.
    pub(crate) async fn taken(mut self, held: impl Fn(String), failed: impl Fn(String)) -> WriterLease {
        let pause = (self.time / 8).clamp(Duration::from_millis(20), MAX_PAUSE);
        loop {
            let attempted = spawn_blocking(move || {
                let attempted = self.attempt();
                (self, attempted)
            });
            match attempted.await {
                Ok((waiting, attempted)) => {
                    self = waiting;
                    match attempted {
                        Ok(Attempt::Taken(lease)) => return lease,
                        Ok(Attempt::Held(holder)) => held(holder),
                        Err(error) => failed(with_causes(&error)),
                    }
                }
                Err(died) => {
                    failed(CommandError::from(died).to_string());
                    return std::future::pending().await;
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn attempt(&mut self) -> Result<Attempt, NoteError> {
        let found = self.notes.read(&self.name)?;
        let Some(found) = found else { return self.take(&WriteCondition::Absent) };
        // A note that cannot be parsed is treated as one whose holder does not renew it.
        let note = serde_json::from_slice::<WriterNote>(&found.body).ok();
        let condition = WriteCondition::Unchanged(found.tag.clone());
        if note.as_ref().is_some_and(|note| note.holder.is_empty()) {
            return self.take(&condition);
        }
        let theirs = note.as_ref().map_or(Duration::ZERO, |note| Duration::from_millis(note.lease)).min(MAX_LEASE);
        if self.seen.as_ref() != Some(&found) {
            (self.seen, self.since) = (Some(found), Instant::now());
        } else if self.since.elapsed() > theirs.max(self.time) {
            return self.take(&condition);
        }
        Ok(Attempt::Held(note.map_or_else(|| "an unknown holder".to_owned(), |note| note.holder)))
    }

    fn take(&self, condition: &WriteCondition) -> Result<Attempt, NoteError> {
        let since = humantime::format_rfc3339_seconds(SystemTime::now());
        let note = WriterNote {
            id: random_hex(2),
            holder: format!("{GENERATOR}, process {} on {}, since {since}", std::process::id(), host()),
            lease: u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX),
            renewed: 0,
        };
        let begun = Instant::now();
        match self.notes.write(&self.name, &body(&note), condition) {
            Ok(tag) => {
                let clock = Arc::new(LeaseClock::new(self.time, begun));
                let (notes, name) = (Arc::clone(&self.notes), self.name.clone());
                Ok(Attempt::Taken(WriterLease { notes, name, note, tag, clock }))
            }
            Err(NoteError::Changed { .. }) => Ok(Attempt::Held("a process that was faster".to_owned())),
            Err(error) => Err(error),
        }
    }
}

fn body(note: &WriterNote) -> Vec<u8> {
    // Plain data can always be serialized.
    serde_json::to_vec(note).unwrap_or_default()
}

impl WriterLease {
    /// Lets a run publish only while this lease is held.
    pub(crate) fn listener(&self) -> Arc<dyn BeforeManifest> {
        Arc::new(OnlyWhileHeld(Arc::clone(&self.clock)))
    }

    /// Renews the lease whenever a third of its time has passed. Returns the reason once the lease is lost.
    pub(crate) async fn renew_until_lost(&mut self) -> String {
        loop {
            tokio::time::sleep(self.clock.renewal_pause()).await;
            let begun = Instant::now();
            let note = WriterNote { renewed: self.note.renewed + 1, ..self.note.clone() };
            let (notes, condition, text) =
                (Arc::clone(&self.notes), WriteCondition::Unchanged(self.tag.clone()), body(&note));
            let name = self.name.clone();
            match spawn_blocking(move || notes.write(&name, &text, &condition)).await {
                Ok(Ok(tag)) => {
                    (self.note, self.tag) = (note, tag);
                    self.clock.renewed(begun);
                }
                Ok(Err(NoteError::Changed { .. })) => return "another process has taken it over".to_owned(),
                Ok(Err(error)) if self.clock.is_held() => {
                    tracing::warn!("the lease cannot be renewed yet: {error}");
                }
                Ok(Err(error)) => return error.to_string(),
                Err(died) => return CommandError::from(died).to_string(),
            }
        }
    }

    /// Gives the lease back, so that another process need not wait until it expires.
    pub(crate) async fn release(self) {
        self.clock.given_back();
        let note = WriterNote { holder: String::new(), ..self.note };
        let condition = WriteCondition::Unchanged(self.tag);
        let released = spawn_blocking(move || self.notes.write(&self.name, &body(&note), &condition)).await;
        if let Ok(Err(error)) = released {
            tracing::info!("the lease is not given back, and ends by itself: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::FolderNotes;

    fn wait(notes: &Arc<dyn NoteStore>, time: Duration) -> LeaseWait {
        LeaseWait::new(Arc::clone(notes), time)
    }

    #[test]
    fn one_of_several_holds_the_lease_until_it_is_given_back_or_no_longer_renewed() {
        let folder = tempfile::tempdir().unwrap();
        let notes: Arc<dyn NoteStore> = Arc::new(FolderNotes::of_directory(folder.path()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // The lease is renewed after a third of this time, and on a busy machine a task may wait for a second.
        let time = Duration::from_secs(2);
        runtime.block_on(async {
            let taken = |time| wait(&notes, time).taken(|_| {}, |error| panic!("{error}"));
            let mut first = taken(time).await;
            // Nobody else gets the lease while it is renewed.
            tokio::select! {
                lost = first.renew_until_lost() => panic!("{lost}"),
                _ = taken(time) => panic!("two hold it"),
                () = tokio::time::sleep(time * 2) => {}
            }
            let listener = first.listener();
            first.release().await;
            let mut second = taken(Duration::from_secs(60)).await;
            second.release().await;
            assert!(listener.stored(&PublishedTiles::default()).is_err(), "it was given back");
            // A lease that is not renewed goes to the next process, and its holder finds out.
            second = taken(time).await;
            let listener = second.listener();
            assert!(listener.stored(&PublishedTiles::default()).is_ok());
            let third = taken(time).await;
            assert!(listener.stored(&PublishedTiles::default()).is_err());
            assert_eq!(second.renew_until_lost().await, "another process has taken it over");
            assert!(third.listener().stored(&PublishedTiles::default()).is_ok());
        });
    }

    #[test]
    fn a_note_that_is_none_is_replaced_after_the_time_of_a_lease() {
        let folder = tempfile::tempdir().unwrap();
        let notes: Arc<dyn NoteStore> = Arc::new(FolderNotes::of_directory(folder.path()));
        notes.write(WRITER, b"{\"lease\":\"long\"}", &WriteCondition::Always).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // On a busy machine there may be a while between two lines.
        let time = Duration::from_secs(2);
        let lease = runtime.block_on(wait(&notes, time).taken(|_| {}, |error| panic!("{error}")));
        assert!(lease.listener().stored(&PublishedTiles::default()).is_ok());
    }
}
