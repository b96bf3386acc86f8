//! Several targets in one command, tilesets or variants: the snapshot that their seeds share, which of them failed, and
//! how the command ends.

use std::sync::Arc;

use parking_lot::Mutex;

use super::shared_rows::SharedRows;
use super::{CommandError, SeveralError};
use crate::config::{DatabaseSettings, Settings};
use crate::error::ErrorKind;
use crate::postgis::{Database, Error, LayerOptions, SessionOptions, Snapshot, refresh_views};
use crate::report::{FailedVariant, say_problem};
use crate::stop::Stop;

/// The snapshot that the seeds of several tilesets share, so that all of them show one state of the database. A seed
/// that has to start over takes a new snapshot for itself and for the seeds after it.
#[derive(Clone, Default)]
pub(crate) struct SharedSnapshot {
    held: Arc<Mutex<Option<Arc<Snapshot>>>>,
    /// The layers whose materialized views are refreshed before the snapshot is taken.
    refreshed: Arc<[LayerOptions]>,
    /// The rows that several of the tilesets draw from.
    rows: Arc<SharedRows>,
}

impl SharedSnapshot {
    /// A snapshot that is taken after the materialized views of `layers` were refreshed, if the layers ask for it.
    pub(crate) fn after_refreshing(layers: impl IntoIterator<Item = LayerOptions>) -> SharedSnapshot {
        SharedSnapshot { refreshed: layers.into_iter().collect(), ..SharedSnapshot::default() }
    }

    /// The same snapshot for the seeds of `tilesets`, which also share the rows of layers that are the same in several
    /// of them.
    pub(crate) fn sharing_rows_of(self, tilesets: &[Settings]) -> SharedSnapshot {
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
        let held = self.held.lock().clone();
        let held = if let Some(held) = held {
            held
        } else {
            // This session is in addition to the sessions of the run's pool.
            let session = SessionOptions { connections: 1, ..settings.session.clone() };
            let own = Database::new(&settings.connect, session, stop)?;
            let taken = refreshed_snapshot(database, &own, self.refreshed.iter()).await?;
            self.held.lock().insert(Arc::new(taken)).clone()
        };
        database.snapshot_of(&held).await
    }

    /// Releases the snapshot, because its session may be lost. The rows that were read on it are forgotten.
    pub(crate) fn release(&self) {
        self.held.lock().take();
        self.rows.forget();
    }
}

/// Refreshes the materialized views for which `layers` ask, and takes a snapshot in a session of `own`. The snapshot's
/// cursor is from before the refresh.
pub(crate) async fn refreshed_snapshot<'a>(
    database: &Database,
    own: &Database,
    layers: impl Iterator<Item = &'a LayerOptions>,
) -> Result<Snapshot, Error> {
    let before = refresh_views(database, &layers.collect::<Vec<_>>()).await?;
    let snapshot = own.snapshot().await?;
    Ok(match before {
        Some(cursor) => snapshot.known_since(cursor),
        None => snapshot,
    })
}

/// The most variants that the closing error names.
const MAX_NAMED: usize = 5;

/// The targets of a command that failed: tilesets, or variants of one.
#[derive(Debug)]
pub(crate) struct FailedTargets {
    several: SeveralTargets,
    /// The number of targets that the command handles.
    of: usize,
    failed: Vec<FailedTarget>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SeveralTargets {
    Tilesets,
    /// The variants of the tileset with this name, and the tileset without conditions.
    VariantsOf(String),
}

#[derive(Debug)]
struct FailedTarget {
    /// The tileset, or the output of the variant.
    name: String,
    error: String,
    kind: ErrorKind,
}

impl FailedTargets {
    /// No failure yet of `of` targets.
    pub(crate) const fn none(several: SeveralTargets, of: usize) -> FailedTargets {
        FailedTargets { several, of, failed: Vec::new() }
    }

    /// Reports and counts a target that failed. Fails with the same error, if it ends the command: a stop was asked
    /// for, no other tileset is left, or the database is lost to variants. There may be thousands of them, each of
    /// which would wait for it again; tilesets are few, and each is tried.
    pub(crate) fn add(&mut self, name: String, error: CommandError, stop: &Stop) -> Result<(), CommandError> {
        let is_of_all = match self.several {
            SeveralTargets::Tilesets => self.of == 1,
            SeveralTargets::VariantsOf(_) => {
                matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::Transient(_))
                    || matches!(error, CommandError::Restarts { .. } | CommandError::HeldUp { .. })
            }
        };
        if is_of_all || stop.asked().is_some() {
            return Err(error);
        }
        say_problem(&error);
        self.failed.push(FailedTarget { name, error: error.to_string(), kind: error.kind() });
        Ok(())
    }

    /// True if all targets that failed were published, without some of their tiles.
    pub(crate) fn are_published(&self) -> bool {
        self.failed.iter().all(|failed| failed.kind == ErrorKind::Partial)
    }

    /// The failures for the report of a family.
    pub(crate) fn listed(&self) -> Vec<FailedVariant> {
        let one = |failed: &FailedTarget| FailedVariant { output: failed.name.clone(), error: failed.error.clone() };
        self.failed.iter().map(one).collect()
    }

    /// How the command ends.
    pub(crate) fn result(&self) -> Result<(), CommandError> {
        let FailedTargets { several, of, failed } = self;
        let Some(FailedTarget { kind: first, .. }) = failed.first() else { return Ok(()) };
        let are_alike = failed.len() == *of && failed.iter().all(|failed| failed.kind == *first);
        let kind = match first {
            _ if !are_alike => ErrorKind::Partial,
            // Each run has already restarted as often as it may.
            ErrorKind::Transient(_) => ErrorKind::Failed,
            kind => *kind,
        };
        let names = failed.iter().map(|failed| failed.name.clone());
        let (of, failed) = (*of, failed.len());
        Err(match several {
            SeveralTargets::Tilesets => SeveralError::Tilesets { tilesets: names.collect(), of, kind },
            SeveralTargets::VariantsOf(tileset) => SeveralError::Variants {
                tileset: tileset.clone(),
                outputs: names.take(MAX_NAMED).collect(),
                failed,
                of,
                kind,
            },
        }
        .into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> CommandError {
        CommandError::Contended { target: "t.mbtiles".to_owned() }
    }

    fn stale() -> CommandError {
        CommandError::NeedsSeed { target: "t.mbtiles".to_owned(), why: "it is old".to_owned() }
    }

    /// How a command of `of` targets ends after these failures: at once, or with a kind at its end.
    fn ended(several: SeveralTargets, of: usize, errors: Vec<CommandError>) -> Result<Option<ErrorKind>, ErrorKind> {
        let (mut failed, stop) = (FailedTargets::none(several, of), Stop::new());
        for error in errors {
            failed.add("t".to_owned(), error, &stop).map_err(|error| error.kind())?;
        }
        Ok(failed.result().err().map(|error| error.kind()))
    }

    #[test]
    fn a_command_ends_with_the_kind_that_all_failures_have_else_it_is_done_in_part() {
        let kind = |errors| ended(SeveralTargets::Tilesets, 2, errors);
        assert_eq!(kind(vec![]), Ok(None));
        assert_eq!(kind(vec![stale()]), Ok(Some(ErrorKind::Partial)));
        assert_eq!(kind(vec![stale(), lost()]), Ok(Some(ErrorKind::Partial)));
        assert_eq!(kind(vec![stale(), stale()]), Ok(Some(ErrorKind::NeedsSeed)));
        assert_eq!(kind(vec![lost(), lost()]), Ok(Some(ErrorKind::Failed)), "each has restarted often enough");
    }

    #[test]
    fn a_lost_database_ends_a_run_of_variants_at_once_and_not_one_of_tilesets() {
        let variants = || SeveralTargets::VariantsOf("mills".to_owned());
        assert!(matches!(ended(variants(), 3, vec![lost()]), Err(ErrorKind::Transient(_))));
        assert_eq!(ended(variants(), 3, vec![stale()]), Ok(Some(ErrorKind::Partial)));
        assert_eq!(ended(variants(), 1, vec![stale()]), Ok(Some(ErrorKind::NeedsSeed)));
        assert_eq!(ended(SeveralTargets::Tilesets, 3, vec![lost()]), Ok(Some(ErrorKind::Partial)));
        assert_eq!(ended(SeveralTargets::Tilesets, 1, vec![stale()]), Err(ErrorKind::NeedsSeed), "no other is left");
    }
}
