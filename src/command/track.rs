//! `oar-tiles track`: the change log, and the triggers that fill it.

use super::CommandError;
use crate::changes::{self, InstallRequest, TrackedLayer};
use crate::config::Settings;
use crate::postgis::{Database, probe};
use crate::report::{print, say};
use crate::stop::Stop;

/// What `track install` was asked for, beside the settings.
#[derive(Debug, Clone, Default)]
pub struct InstallOptions {
    /// Print the statements and run nothing.
    pub sql: bool,
    /// Roles that may read the log.
    pub readers: Vec<String>,
    /// The role that is to own the functions of the triggers.
    pub owner: Option<String>,
}

/// Runs `track install`: all of it or nothing.
///
/// # Errors
/// If a layer cannot be tracked, or the role lacks a right.
pub async fn install(settings: &Settings, options: &InstallOptions, stop: &Stop) -> Result<(), CommandError> {
    let database = Database::new(&settings.connect, settings.session.clone(), stop)?;
    let layers: Vec<_> = settings.layers.iter().map(|layer| layer.options.clone()).collect();
    let probed = probe(&database.snapshot().await?, &layers).await?;
    let tracked: Vec<TrackedLayer<'_>> = probed
        .layers
        .iter()
        .zip(&settings.layers)
        .map(|(layer, settings)| TrackedLayer { layer, track: &settings.track })
        .collect();
    let request =
        InstallRequest { readers: &options.readers, owner: options.owner.as_deref(), is_printed: options.sql };
    let installation = changes::plan_install(&database, &settings.changes, &tracked, request).await?;
    for warning in probed.superuser.iter().chain(&installation.warnings) {
        say(&format!("warning: {warning}"));
    }
    if options.sql {
        return Ok(print(&installation.sql)?);
    }
    if installation.is_done {
        return Ok(print(&format!("everything is installed in {}\n", database.server()))?);
    }
    changes::run(&database, &installation).await?;
    let steps: String = installation.steps.iter().map(|step| format!("{step}\n")).collect();
    print(&format!(
        "{steps}From now on changes are noted in {}. Run oar-tiles seed once: a target has to be younger than this.\n",
        database.server()
    ))?;
    Ok(())
}

/// Runs `track remove`: all of it or nothing.
///
/// # Errors
/// If there is no change log, or the role lacks a right.
pub async fn remove(settings: &Settings, sql: bool, stop: &Stop) -> Result<(), CommandError> {
    let schema = &settings.changes.schema;
    if sql {
        return Ok(print(&changes::removal(schema))?);
    }
    let database = Database::new(&settings.connect, settings.session.clone(), stop)?;
    let steps = changes::remove(&database, schema).await?;
    let steps: String = steps.iter().map(|step| format!("{step}\n")).collect();
    print(&format!("{steps}The change log is gone from {}.\n", database.server()))?;
    Ok(())
}
