//! `oar-tiles doctor`: what stands in the way of a run, or will one day, and what to do about it. Nothing is rendered or written; the lock of a
//! target that exists is taken for a moment.
//!
//! | file | what |
//! |---|---|
//! | `database` | server, layers, sessions, transactions, clock |
//! | `change_log` | the log, and how far the target is behind |
//! | `target` | rights, space, lock |
//! | `address` | what clients get where they find the tiles |

mod address;
mod change_log;
mod database;
mod target;

use std::time::Duration;

use crate::error::ErrorKind;
use crate::postgis::Database;
use crate::report::{CheckArea, CheckLevel, Checkup, with_causes};
use crate::run::{CommandError, Job};

/// What `doctor` was asked for, beside the settings.
#[derive(Debug, Clone)]
pub struct DoctorOptions {
    /// Transactions that are older are warned of.
    pub transaction_age: Duration,
    /// Differences between the clocks that are larger are warned of.
    pub clock_difference: Duration,
    /// False if the settings name no target.
    pub has_target: bool,
    /// Where clients find the TileJSON, or the folder that it lies in; `None` for the target's public URL, if the settings name one.
    pub url: Option<String>,
}

/// Checks everything that the settings name.
///
/// # Errors
/// If a stop was asked for.
pub async fn doctor(job: &Job, options: &DoctorOptions) -> Result<Checkup, CommandError> {
    let mut checkup = Checkup::default();
    let settings = &job.settings.database;
    let database = Database::new(&settings.connect, settings.session.clone(), &job.stop)?;
    match database::check(job, &database, options, &mut checkup).await {
        Ok(()) => match change_log::check(job, &database, options, &mut checkup).await {
            Ok(()) => {}
            Err(error) => note(&mut checkup, CheckArea::ChangeLog, error)?,
        },
        // The change log is in the database.
        Err(error) => note(&mut checkup, CheckArea::Database, error)?,
    }
    if options.has_target
        && let Err(error) = target::check(job, &mut checkup).await
    {
        note(&mut checkup, CheckArea::Target, error)?;
    }
    let public_url = job.settings.tileset.tree.public_url.as_ref().filter(|url| !url.is_empty());
    if let Some(url) = options.url.as_ref().or(public_url) {
        address::check(url, &job.stop, &mut checkup).await?;
    }
    Ok(checkup)
}

/// Notes an error as a result, unless a stop was asked for.
fn note(checkup: &mut Checkup, area: CheckArea, error: CommandError) -> Result<(), CommandError> {
    if error.kind() == ErrorKind::Interrupted {
        return Err(error);
    }
    checkup.add(area, CheckLevel::Error, with_causes(&error));
    Ok(())
}

/// The error that counts the results, if there is an error among them. Warnings are no failure.
///
/// # Errors
/// If there is an error among the results.
pub fn healthy(checkup: &Checkup) -> Result<(), CommandError> {
    match checkup.count(CheckLevel::Error) {
        0 => Ok(()),
        errors => Err(CommandError::Unhealthy { errors }),
    }
}
