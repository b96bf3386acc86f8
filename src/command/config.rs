//! `oar-tiles config`: the settings and where each value came from.

use crate::config::{ConfigValues, Settings};
use crate::postgis::Parts;
use crate::run::CommandError;

/// The values as TOML, each with its origin.
///
/// # Errors
/// If they do not make valid settings.
pub fn config(values: &ConfigValues, environment: &Parts, layers: &[String]) -> Result<String, CommandError> {
    let settings = Settings::resolve(values, environment, layers)?;
    Ok(format!("# database: {}\n{}", settings.database.connect.server(), values.show()))
}
