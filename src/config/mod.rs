//! File, environment and flags become checked settings; secrets cannot be printed.

mod budget;
mod error;
mod file;
mod layer;
mod margin;
mod placeholders;
mod rows;
mod s3;
mod serve;
mod settings;
mod show;
mod values;

use std::path::Path;

pub use error::ConfigError;
pub use file::Progress;
pub use settings::{DatabaseSettings, JobSettings, LayerSettings, RunSettings, Settings, TilesetSettings};
pub use values::{CONFIG_VARIABLE, ConfigValues, Origin, SAMPLE};

/// A flag that was given: its name, the key that it sets, the value.
pub type Flag = (&'static str, &'static str, toml::Value);

/// Gathers the values: defaults, then the file, then the environment, then the flags.
///
/// # Errors
/// If a layer cannot be read or names an unknown key.
pub fn gather(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: Vec<Flag>,
) -> Result<ConfigValues, ConfigError> {
    let mut values = ConfigValues::defaults()?;
    if let Some(file) = file {
        values.add_file(file)?;
    }
    values.add_environment(environment)?;
    for (flag, key, value) in flags {
        values.add_flag(flag, key, value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
