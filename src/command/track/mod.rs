//! `oar-tiles track`: the change log, and the triggers that fill it.

mod status;

use crate::changes::{self, InstallRequest, TrackedLayer};
use crate::config::{DatabaseSettings, JobSettings};
use crate::postgis::{Database, probe, refresh_views};
use crate::run::CommandError;
use crate::stop::Stop;

pub use status::{LogStatus, PrunedLog, prune, settings_of, status};

/// The options of `track install`, in addition to the settings.
#[derive(Debug, Clone, Default)]
pub struct InstallOptions {
    /// Print the statements and run nothing.
    pub sql: bool,
    /// Roles that may read the log.
    pub readers: Vec<String>,
    /// The role that owns the triggers' functions, which run with its rights.
    pub owner: Option<String>,
}

/// The outcome of an installation.
#[derive(Debug, Clone)]
pub struct InstallOutcome {
    /// The database.
    pub server: String,
    /// Warnings for the user.
    pub warnings: Vec<String>,
    /// What was done.
    pub work: InstallWork,
}

/// The steps of an installation.
#[derive(Debug, Clone)]
pub enum InstallWork {
    /// Nothing was done: these statements are to be run with psql.
    Sql(String),
    /// Nothing was done, because everything was there.
    Nothing,
    /// These steps were done.
    Steps(Vec<String>),
}

/// Runs `track install`, in one transaction.
///
/// # Errors
/// If a layer cannot be tracked, or the role lacks a right.
pub async fn install(
    settings: &JobSettings,
    options: &InstallOptions,
    stop: &Stop,
) -> Result<InstallOutcome, CommandError> {
    let database = Database::new(&settings.database.connect, settings.database.session.clone(), stop)?;
    let layers: Vec<_> = settings.tileset.layers.iter().map(|layer| layer.options.clone()).collect();
    // A materialized view that was never filled cannot be probed.
    if !options.sql {
        refresh_views(&database, &layers.iter().collect::<Vec<_>>()).await?;
    }
    let probed = probe(&database.snapshot().await?, &layers).await?;
    let tracked: Vec<TrackedLayer<'_>> = probed
        .layers
        .iter()
        .zip(&settings.tileset.layers)
        .map(|(layer, settings)| TrackedLayer { layer, track: &settings.track, refreshes: settings.options.refresh })
        .collect();
    let request =
        InstallRequest { readers: &options.readers, owner: options.owner.as_deref(), is_printed: options.sql };
    let installation = changes::plan_install(&database, &settings.database.changes, &tracked, request).await?;
    let warnings = probed.superuser.iter().chain(&installation.warnings).cloned().collect();
    let work = if options.sql {
        InstallWork::Sql(installation.sql)
    } else if installation.is_done {
        InstallWork::Nothing
    } else {
        changes::run(&database, &installation).await?;
        InstallWork::Steps(installation.steps)
    };
    Ok(InstallOutcome { server: database.server().to_string(), warnings, work })
}

/// The statements that remove the triggers and the change log.
#[must_use]
pub fn removal(settings: &DatabaseSettings) -> String {
    changes::removal(&settings.changes.schema)
}

/// Runs `track remove`, in one transaction; returns its steps.
///
/// # Errors
/// If there is no change log, or the role lacks a right.
pub async fn remove(settings: &DatabaseSettings, stop: &Stop) -> Result<Vec<String>, CommandError> {
    let database = Database::new(&settings.connect, settings.session.clone(), stop)?;
    Ok(changes::remove(&database, &settings.changes.schema).await?)
}
