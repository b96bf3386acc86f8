//! `oar-tiles config`: the settings and where each value came from.

use super::CommandError;
use crate::config::{Settings, Values};
use crate::postgis::Parts;
use crate::report::print;

/// Prints the values, after checking that they make valid settings.
///
/// # Errors
/// If they do not.
pub fn config(values: &Values, environment: &Parts, layers: &[String]) -> Result<(), CommandError> {
    let settings = Settings::resolve(values, environment, layers)?;
    print(&format!("# database: {}\n{}", settings.connect.server(), values.show()))?;
    Ok(())
}
