//! Several tilesets in one command: the snapshot that their seeds share, and how the command ends.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::shared_rows::SharedRows;
use super::{CommandError, SeveralError};
use crate::config::{DatabaseSettings, JobSettings};
use crate::error::ErrorKind;
use crate::postgis::{Database, Error, LayerOptions, SessionOptions, Snapshot, refresh_views};
use crate::stop::Stop;

/// The snapshot that the seeds of several tilesets share, so that all of them show one state of the database. A seed
/// that has to start over takes a new snapshot for itself and for the seeds after it.
#[derive(Clone, Default)]
pub struct SharedSnapshot {
    held: Arc<Mutex<Option<Arc<Snapshot>>>>,
    /// The layers whose materialized views are refreshed before the snapshot is taken.
    refreshed: Arc<[LayerOptions]>,
    /// The rows that several of the tilesets draw from.
    rows: Arc<SharedRows>,
}

impl SharedSnapshot {
    /// A snapshot that is taken after the materialized views of `layers` were refreshed, if the layers ask for it.
    #[must_use]
    pub fn after_refreshing(layers: impl IntoIterator<Item = LayerOptions>) -> SharedSnapshot {
        SharedSnapshot { refreshed: layers.into_iter().collect(), ..SharedSnapshot::default() }
    }

    /// The same snapshot for the seeds of `tilesets`, which also share the rows of layers that are the same in several
    /// of them.
    #[must_use]
    pub fn sharing_rows_of(self, tilesets: &[JobSettings]) -> SharedSnapshot {
        SharedSnapshot { rows: Arc::new(SharedRows::of(tilesets)), ..self }
    }

    /// The rows that several tilesets draw from.
    pub(crate) fn rows(&self) -> &SharedRows {
        &self.rows
    }

    /// The snapshot for one run, in a session of its own, because the locks of the session tell what a run reads.
    pub(crate) async fn get(
        &self,
        settings: &DatabaseSettings,
        database: &Database,
        stop: &Stop,
    ) -> Result<Snapshot, Error> {
        let held = self.lock().clone();
        let held = if let Some(held) = held {
            held
        } else {
            // This session is in addition to the sessions of the run's pool.
            let session = SessionOptions { connections: 1, ..settings.session.clone() };
            let own = Database::new(&settings.connect, session, stop)?;
            let before = refresh_views(database, &self.refreshed.iter().collect::<Vec<_>>()).await?;
            let taken = own.snapshot().await?;
            let taken = match before {
                Some(cursor) => taken.known_since(cursor),
                None => taken,
            };
            self.lock().insert(Arc::new(taken)).clone()
        };
        database.snapshot_of(&held).await
    }

    /// Releases the snapshot, because its session may be lost. The rows that were read on it are forgotten.
    pub(crate) fn release(&self) {
        self.lock().take();
        self.rows.forget();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Snapshot>>> {
        // A poisoned lock is harmless, because the value is replaced as a whole.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tilesets of a command that failed.
#[derive(Debug)]
pub struct FailedTilesets {
    of: usize,
    failed: Vec<(String, ErrorKind)>,
}

impl FailedTilesets {
    /// No failure yet of `tilesets` tilesets.
    #[must_use]
    pub const fn of(tilesets: usize) -> FailedTilesets {
        FailedTilesets { of: tilesets, failed: Vec::new() }
    }

    pub fn add(&mut self, tileset: String, error: &CommandError) {
        self.failed.push((tileset, error.kind()));
    }

    /// # Errors
    /// If any tileset failed.
    pub fn into_result(self) -> Result<(), CommandError> {
        let FailedTilesets { of, failed } = self;
        let Some((_, first)) = failed.first() else { return Ok(()) };
        let are_alike = failed.len() == of && failed.iter().all(|(_, kind)| kind == first);
        let kind = match first {
            _ if !are_alike => ErrorKind::Partial,
            // Each run has already restarted as often as it may.
            ErrorKind::Transient(_) => ErrorKind::Failed,
            kind => *kind,
        };
        let tilesets = failed.into_iter().map(|(name, _)| name).collect();
        Err(SeveralError::Tilesets { tilesets, of, kind }.into())
    }
}
