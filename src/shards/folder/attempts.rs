//! The notes of attempts at shards: heartbeats, the tiles that they add to the target, and snapshots that others can import.

use std::collections::HashSet;

use super::super::ShardsError;
use super::super::plan::{AddingNote, AttemptNote, DoneNote, now};
use super::{WorkFolder, bytes};
use crate::postgis::ExportedSnapshot;
use crate::sink::NoteCondition;

/// The time without a heartbeat after which an attempt counts as dead, in milliseconds.
const ATTEMPT_LIFE: u64 = 60_000;

/// An attempt at a shard, and whether it is alive.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its note.
    pub note: AttemptNote,
    /// True if its heartbeat is less than a minute old, by this machine's clock.
    pub is_alive: bool,
}

impl WorkFolder {
    /// Writes the heartbeat of an attempt.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note_attempt(&self, run: &str, attempt: &AttemptNote) -> Result<(), ShardsError> {
        let attempt = AttemptNote { alive: now(), ..attempt.clone() };
        self.notes.write(&attempt_name(run, &attempt), &bytes(&attempt), &NoteCondition::Always)?;
        Ok(())
    }

    /// Removes the note of an attempt.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn forget_attempt(&self, run: &str, attempt: &AttemptNote) -> Result<(), ShardsError> {
        Ok(self.notes.remove(&attempt_name(run, attempt))?)
    }

    /// The attempts.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn attempts(&self, run: &str) -> Result<Vec<Attempt>, ShardsError> {
        let now = now();
        let mut attempts = Vec::new();
        for name in self.notes.list(run)?.iter().filter(|name| name.contains("/attempt-")) {
            // Attempts may end while they are listed.
            if let Some(note) = self.read::<AttemptNote>(name)? {
                attempts.push(Attempt { is_alive: now.saturating_sub(note.alive) < ATTEMPT_LIFE, note });
            }
        }
        Ok(attempts)
    }

    /// Notes that an attempt adds tiles to the target itself.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note_adding(&self, run: &str, adding: &AddingNote) -> Result<(), ShardsError> {
        let name = format!("{run}/adding-{:04}-{}.json", adding.shard, adding.id);
        self.notes.write(&name, &bytes(adding), &NoteCondition::Always)?;
        Ok(())
    }

    /// The attempts that have added tiles to the target, without those that have completed their shards.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn other_adding(&self, run: &str, shards: &[DoneNote]) -> Result<Vec<AddingNote>, ShardsError> {
        let done: HashSet<&str> = shards.iter().filter_map(|shard| shard.adding.as_deref()).collect();
        let is_other = |name: &String| {
            let id = name.split_once("/adding-").and_then(|(_, rest)| rest.split_once('-')?.1.strip_suffix(".json"));
            id.is_some_and(|id| !done.contains(id))
        };
        let mut others = Vec::new();
        for name in self.notes.list(run)?.iter().filter(|name| is_other(name)) {
            others.extend(self.read::<AddingNote>(name)?);
        }
        Ok(others)
    }

    /// True if an attempt other than `own` has noted that it adds tiles of the shard to the target.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn was_adding(&self, run: &str, own: &AddingNote) -> Result<bool, ShardsError> {
        let (begin, name) = (format!("/adding-{:04}-", own.shard), format!("-{}.json", own.id));
        Ok(self.notes.list(run)?.iter().any(|other| other.contains(&begin) && !other.ends_with(&name)))
    }

    /// Adds a snapshot that others can import.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add_snapshot(&self, run: &str, id: &str, snapshot: &ExportedSnapshot) -> Result<(), ShardsError> {
        self.notes.write(&format!("{run}/snapshot-{id}.json"), &bytes(snapshot), &NoteCondition::Always)?;
        Ok(())
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn forget_snapshot(&self, run: &str, id: &str) -> Result<(), ShardsError> {
        Ok(self.notes.remove(&format!("{run}/snapshot-{id}.json"))?)
    }

    /// The snapshots that can be imported, if their sessions are still open.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn snapshots(&self, run: &str) -> Result<Vec<ExportedSnapshot>, ShardsError> {
        let mut snapshots = Vec::new();
        for name in self.notes.list(run)?.iter().filter(|name| name.contains("/snapshot-")) {
            snapshots.extend(self.read(name)?);
        }
        Ok(snapshots)
    }
}

fn attempt_name(run: &str, attempt: &AttemptNote) -> String {
    format!("{run}/attempt-{:04}-{}.json", attempt.shard, attempt.attempt)
}
