//! `oar-tiles config`: the settings and where each value came from; what is wrong with them.

use crate::config::{Checked, CheckedSources, ConfigError, ConfigValues, Settings, ShownConfig, check};
use crate::postgis::{Database, Parts, try_layers};
use crate::run::CommandError;
use crate::stop::Stop;

/// The values as TOML, each with its origin.
///
/// # Errors
/// If they do not make valid settings.
pub fn config(values: &ConfigValues, environment: &Parts, layers: &[String]) -> Result<String, CommandError> {
    let settings = Settings::resolve(values, environment, layers)?;
    Ok(format!("# database: {}\n{}", settings.database.connect.server(), values.show()))
}

/// The values for programs, each with its origin.
///
/// # Errors
/// If they do not make valid settings.
pub fn config_json(values: &ConfigValues, environment: &Parts, layers: &[String]) -> Result<ShownConfig, CommandError> {
    Settings::resolve(values, environment, layers)?;
    Ok(values.shown())
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct ConfigProblems {
    /// The problems.
    pub problems: Vec<CommandError>,
    /// What the database warns of.
    pub warnings: Vec<String>,
}

/// Checks the settings, and with `database` also whether the database can draw their layers.
///
/// # Errors
/// If a stop was asked for.
pub async fn check_config(
    sources: CheckedSources<'_>,
    database: bool,
    stop: &Stop,
) -> Result<ConfigProblems, CommandError> {
    let Checked { problems, settings } = check(sources)?;
    let mut found =
        ConfigProblems { problems: problems.into_iter().map(CommandError::from).collect(), warnings: Vec::new() };
    if let Some(settings) = settings.filter(|_| database) {
        match ask_database(settings, stop, &mut found).await {
            Err(error @ CommandError::Interrupted(_)) => return Err(error),
            Err(error) => found.problems.push(error),
            Ok(()) => {}
        }
    }
    Ok(found)
}

async fn ask_database(settings: Settings, stop: &Stop, found: &mut ConfigProblems) -> Result<(), CommandError> {
    let database = Database::new(&settings.database.connect, settings.database.session.clone(), stop)?;
    let snapshot = database.snapshot().await?;
    let tilesets = settings.tilesets.into_iter();
    let layers: Vec<_> = tilesets.flat_map(|tileset| tileset.layers).map(|layer| layer.options).collect();
    // A layer that is drawn in several ways has the same problem in each.
    let mut texts = Vec::new();
    for trial in Box::pin(try_layers(&snapshot, &layers)).await? {
        found
            .warnings
            .extend(trial.warnings.into_iter().filter(|warning| !texts.contains(warning)).collect::<Vec<_>>());
        texts.clone_from(&found.warnings);
        let Some(error) = trial.error else { continue };
        if !found.problems.iter().any(|problem| problem.to_string() == error.to_string()) {
            found.problems.push(CommandError::Database(error));
        }
    }
    Ok(())
}

/// The error that counts the problems, if there are any.
///
/// # Errors
/// If there are problems.
pub fn without_problems(found: &ConfigProblems) -> Result<(), CommandError> {
    match found.problems.len() {
        0 => Ok(()),
        problems => Err(CommandError::Config(ConfigError::Problems { problems })),
    }
}
