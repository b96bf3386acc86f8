//! Several tilesets in one command: the snapshot that their seeds share, and how the command ends.

use std::sync::{Arc, Mutex, PoisonError};

use super::CommandError;
use crate::error::ErrorKind;
use crate::postgis::{Database, Error, Snapshot};

/// The snapshot that the seeds of several tilesets share, so that all of them show one state of the database. A seed that has to start over takes
/// a new one for itself and for those after it.
#[derive(Clone, Default)]
pub struct SharedSnapshot(Arc<Mutex<Option<Arc<Snapshot>>>>);

impl SharedSnapshot {
    /// The snapshot; taken now if there is none.
    pub(crate) async fn get(&self, database: &Database) -> Result<Arc<Snapshot>, Error> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(snapshot) = held {
            return Ok(snapshot);
        }
        let snapshot = Arc::new(database.snapshot().await?);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&snapshot));
        Ok(snapshot)
    }

    /// Gives the snapshot up with its locks: its session may be lost, or others may wait for it.
    pub(crate) fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// The tilesets of a command that failed.
#[derive(Debug)]
pub struct FailedTilesets {
    of: usize,
    failed: Vec<(String, ErrorKind)>,
}

impl FailedTilesets {
    /// None of so many yet.
    #[must_use]
    pub const fn of(tilesets: usize) -> FailedTilesets {
        FailedTilesets { of: tilesets, failed: Vec::new() }
    }

    /// Adds one.
    pub fn add(&mut self, tileset: String, error: &CommandError) {
        self.failed.push((tileset, error.kind()));
    }

    /// # Errors
    /// If there is any.
    pub fn into_result(self) -> Result<(), CommandError> {
        let FailedTilesets { of, failed } = self;
        let Some((_, first)) = failed.first() else { return Ok(()) };
        let are_alike = failed.len() == of && failed.iter().all(|(_, kind)| kind == first);
        let kind = match first {
            _ if !are_alike => ErrorKind::Partial,
            // Each run has tried often enough.
            ErrorKind::Transient(_) => ErrorKind::Failed,
            kind => *kind,
        };
        let tilesets = failed.into_iter().map(|(name, _)| name).collect();
        Err(CommandError::Tilesets { tilesets, of, kind })
    }
}
