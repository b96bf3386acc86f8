//! The configuration: values from the compiled-in sample, a file, the environment and flags become checked settings.
//! Secrets are never printed.
//!
//! | file | what is in it |
//! |---|---|
//! | `file` | the keys of a configuration file |
//! | `sample` | the compiled-in sample: defaults, comments, and the variables of keys |
//! | `values` | the values of all origins; the last origin that has a value takes precedence |
//! | `settings` | the values, checked, as the option structs of the parts |
//! | `variants`, `variant_settings` | families of tilesets that differ in the values of parameters |
//! | `layer` | the checks of layers: their rows, bands of zooms, limits, placeholders, functions |
//! | `by_zoom`, `cells`, `shapes` | of a layer: values that differ by zoom, cells and clusters, margin and simplification |
//! | `area` | the area of a tileset |
//! | `memory` | how much memory the process may use |
//! | `filters` | what requests for live tiles may ask: parameters, facets and conditions, and what a request sets |
//! | `parameters` | the checks of the sections `[[tileset.parameter]]` and `[[tileset.condition]]` |
//! | `purge` | the checks of the sections `[[purge]]` |
//! | `tilesets`, `s3` | the values of each of several tilesets; the checks of the sections `[target]` and `[s3]`; headers and metadata with placeholders; whether tags are sent |
//! | `variables` | `${NAME}` in the strings of a file |
//! | `check` | all problems of a configuration at once |
//! | `show` | the output of `oar-tiles config`; the JSON Schema of a file |
//! | `error` | errors of the configuration |
//! | `serve` | the section `[serve]`, checked |

mod area;
mod by_zoom;
mod cells;
mod check;
mod error;
mod file;
mod filters;
mod layer;
mod memory;
mod parameters;
mod purge;
mod s3;
mod sample;
mod serve;
mod settings;
mod shapes;
mod show;
mod tilesets;
mod values;
mod variables;
mod variant_settings;
mod variants;

use std::path::Path;

pub(crate) use area::area_parts;
pub(crate) use check::{Checked, CheckedSources, check};
pub(crate) use error::ConfigError;
pub(crate) use error::nearest;
pub(crate) use file::Progress;
pub(crate) use filters::{AskedCondition, ConditionKey, FilterSettings, LayerCondition, ParameterSettings};
#[cfg(test)]
pub(crate) use sample::SAMPLE;
pub(crate) use serve::preview_options;
pub use settings::Settings;
pub(crate) use settings::{DatabaseSettings, TilesetSettings, layer_names};
pub(crate) use show::{ShownConfig, schema};
pub use values::ConfigValues;
pub(crate) use values::{CONFIG_VARIABLE, LOG_VARIABLE};
pub(crate) use variants::{ValueSegment, VariantSettings, VariantValues};

/// A flag that was given: the flag's name, the key that it sets, and the value.
pub(crate) type Flag = (&'static str, &'static str, toml::Value);

/// Gathers the values of all origins: the defaults, then the file, then a draft for tables of the database, then the
/// environment, then the flags.
///
/// # Errors
/// If an origin cannot be read or has an unknown key.
pub fn gather(
    file: Option<&Path>,
    draft: Option<&str>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: Vec<Flag>,
) -> Result<ConfigValues, ConfigError> {
    let mut values = ConfigValues::defaults()?;
    let environment: Vec<(String, String)> = environment.into_iter().collect();
    let look_up = |name: &str| environment.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
    if let Some(file) = file {
        values.add_file(file, &look_up)?;
    }
    if let Some(draft) = draft {
        values.add_draft(draft)?;
    }
    values.add_environment(environment)?;
    for (flag, key, value) in flags {
        values.add_flag(flag, key, value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
