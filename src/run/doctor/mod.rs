//! `oar-tiles doctor`: what prevents a run now or may do so one day, and what to do about it. Nothing is rendered or
//! written. The lock of a target that exists is taken for a moment.
//!
//! | file | what |
//! |---|---|
//! | `database` | server, layers, sessions, transactions, clock |
//! | `change_log` | the log, and how far the target is behind |
//! | `target` | rights, space, lock |
//! | `address` | what clients get at the address of the tiles |

mod address;
mod change_log;
mod database;
mod target;

use std::time::Duration;

use super::{CommandError, TilesetRun};
use crate::error::{ErrorKind, with_causes};
use crate::report::{CheckArea, CheckLevel, Checkup};

/// The options of `doctor`, in addition to the settings.
#[derive(Debug, Clone)]
pub(crate) struct DoctorOptions {
    /// The age of a transaction above which there is a warning.
    pub(crate) transaction_age: Duration,
    /// The difference between the clocks above which there is a warning.
    pub(crate) clock_difference: Duration,
    /// False if the settings name no target.
    pub(crate) has_target: bool,
    /// The address at which clients find the TileJSON or its folder; `None` for the target's public URL, if the
    /// settings name one.
    pub url: Option<String>,
}

/// Checks everything that the settings name.
pub(crate) async fn doctor(run: &TilesetRun, options: &DoctorOptions) -> Result<Checkup, CommandError> {
    let mut checkup = Checkup::default();
    let database = run.database()?;
    match database::check(run, &database, options, &mut checkup).await {
        Ok(()) => match change_log::check(run, &database, options, &mut checkup).await {
            Ok(()) => {}
            Err(error) => note(&mut checkup, CheckArea::ChangeLog, error)?,
        },
        // The change log is in the same database, so it is not checked.
        Err(error) => note(&mut checkup, CheckArea::Database, error)?,
    }
    if options.has_target
        && let Err(error) = target::check(run, &mut checkup).await
    {
        note(&mut checkup, CheckArea::Target, error)?;
    }
    let public_url = run.settings.tileset.tree.public_url.as_ref().filter(|url| !url.is_empty());
    if let Some(url) = options.url.as_ref().or(public_url) {
        address::check(url, &run.stop, &mut checkup).await?;
    }
    Ok(checkup)
}

/// Adds an error as a result, unless it is the interruption by a stop.
fn note(checkup: &mut Checkup, area: CheckArea, error: CommandError) -> Result<(), CommandError> {
    if error.kind() == ErrorKind::Interrupted {
        return Err(error);
    }
    checkup.add(area, CheckLevel::Error, with_causes(&error));
    Ok(())
}

/// The error that counts the errors among the results, if there are any. Warnings are not a failure.
pub(crate) fn healthy(checkup: &Checkup) -> Result<(), CommandError> {
    match checkup.count(CheckLevel::Error) {
        0 => Ok(()),
        errors => Err(CommandError::Unhealthy { errors }),
    }
}
