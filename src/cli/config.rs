//! `oar-tiles config`.

use clap::Args;

use super::settings::{config_file, environment, gathered, one_of, variables};
use super::{SettingFlags, on_runtime};
use crate::config::CheckedSources;
use crate::report::{print, print_as_json, print_document, say_problem, say_warning};
use crate::run::{CommandError, config};
use crate::stop::Stop;

/// `oar-tiles config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigFlags {
    /// Flags that override the configuration.
    #[command(flatten)]
    pub given: SettingFlags,
    /// Check the settings and name every problem, not only the first; nothing is rendered
    #[arg(long)]
    pub check: bool,
    /// With --check: also ask the database whether the layers can be drawn
    #[arg(long, requires = "check")]
    pub database: bool,
    /// Print the JSON Schema of a configuration file, for editors, or of what the program prints as JSON (docs/json.md
    /// has the names; all)
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "configuration", conflicts_with_all = ["check", "json"])]
    pub schema: Option<String>,
    /// Print the settings as JSON
    #[arg(long, conflicts_with = "check")]
    pub json: bool,
}

pub(crate) fn run_config(arguments: &ConfigFlags, stop: &Stop) -> Result<(), CommandError> {
    let flags = &arguments.given;
    if let Some(name) = &arguments.schema {
        return Ok(print_as_json(&schema_of(name)?)?);
    }
    if arguments.check {
        return run_check(arguments, stop);
    }
    let mut values = gathered(flags)?;
    if !flags.tileset.is_empty() {
        values = one_of(&values, flags, "config --tileset")?;
    }
    if arguments.json {
        return Ok(print_document(&config::config_json(&values, &environment(), &flags.layer)?)?);
    }
    Ok(print(&config::config(&values, &environment(), &flags.layer)?)?)
}

/// The schema of this name.
fn schema_of(name: &str) -> Result<serde_json::Value, CommandError> {
    let all = config::schemas();
    if name == config::ALL {
        return Ok(config::by_name(all));
    }
    let names: Vec<&str> = all.iter().map(|one| one.name).collect();
    let unknown = || CommandError::NoSuchSchema { name: name.to_owned(), names: names.join(", ") };
    Ok(all.iter().find(|one| one.name == name).ok_or_else(unknown)?.schema.clone())
}

fn run_check(arguments: &ConfigFlags, stop: &Stop) -> Result<(), CommandError> {
    let flags = &arguments.given;
    let (file, variables): (_, Vec<_>) = (config_file(flags), variables().collect());
    let sources = CheckedSources {
        file: file.as_deref(),
        variables: &variables,
        flags: &flags.flags(),
        connection: &environment(),
        layers: &flags.layer,
        tilesets: &flags.tileset,
    };
    let found = on_runtime(async || config::check_config(sources, arguments.database, stop).await)?;
    found.problems.iter().for_each(|problem| say_problem(problem));
    found.warnings.iter().for_each(|warning| say_warning(warning));
    config::without_problems(&found)?;
    let name = file.map_or_else(|| "the configuration".to_owned(), |file| file.display().to_string());
    Ok(print(&format!("{name}: no problem found\n"))?)
}
