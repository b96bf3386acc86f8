//! The settings that a verb was given: by flags, the environment, and a file.

use std::path::PathBuf;

use clap::ValueEnum as _;
use oar_tiles::cli::{ConfigFlags, LogFlag, SettingFlags};
use oar_tiles::command::{config, schemas};
use oar_tiles::config::{
    CONFIG_VARIABLE, CheckedSources, ConfigError, ConfigValues, JobSettings, LOG_VARIABLE, Settings, gather,
};
use oar_tiles::postgis::Parts;
use oar_tiles::report::{LogForm, print, print_as_json, print_document, say_problem, say_warning};
use oar_tiles::run::CommandError;
use oar_tiles::stop::Stop;

use super::on_runtime;

/// The form of the log: as the flag says, else as the environment says.
pub(super) fn log_form(flag: Option<LogFlag>) -> Result<LogForm, CommandError> {
    let flag = match (flag, std::env::var(LOG_VARIABLE)) {
        (None, Ok(value)) if !value.is_empty() => LogFlag::from_str(&value, false).map_err(|_unknown| {
            let message = format!("\"{value}\" is no form of the log: write auto, plain, timed or json");
            ConfigError::BadVariable { variable: LOG_VARIABLE.to_owned(), message }
        })?,
        (flag, _) => flag.unwrap_or(LogFlag::Auto),
    };
    Ok(match flag {
        LogFlag::Auto => LogForm::Auto,
        LogFlag::Plain => LogForm::Plain,
        LogFlag::Timed => LogForm::Timed,
        LogFlag::Json => LogForm::Json,
    })
}

pub(super) fn environment() -> Parts {
    Parts::from_environment(|name| std::env::var(name).ok())
}

fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

pub(super) fn gathered(flags: &SettingFlags) -> Result<ConfigValues, CommandError> {
    gathered_over(flags, None)
}

/// The values of a command; the layers of a draft replace those of the file.
fn gathered_over(flags: &SettingFlags, draft: Option<&str>) -> Result<ConfigValues, CommandError> {
    Ok(gather(config_file(flags).as_deref(), draft, variables(), flags.flags())?)
}

/// The configuration file of a command.
fn config_file(flags: &SettingFlags) -> Option<PathBuf> {
    let of_environment = || std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    flags.config.clone().or_else(of_environment)
}

/// The settings of a command that has no file.
pub(super) fn resolved_without_file(flags: &SettingFlags) -> Result<JobSettings, CommandError> {
    let values = gather(None, None, variables(), flags.flags())?;
    Ok(Settings::resolve(&values, &environment(), &[])?.job()?)
}

/// The settings with which the tables of the database are looked for: the layers do not matter.
pub(super) fn resolved_without_layers(flags: &SettingFlags) -> Result<JobSettings, CommandError> {
    Ok(Settings::resolve(&gathered(flags)?, &environment(), &[])?.job()?)
}

/// The settings with the layers, zooms and output of a draft.
pub(super) fn resolved_over(flags: &SettingFlags, draft: &str) -> Result<JobSettings, CommandError> {
    let values = gathered_over(flags, Some(draft))?;
    Ok(Settings::resolve(&values, &environment(), &flags.layer)?.job()?)
}

/// The settings of a command. One that `writes` a target needs its name.
pub(super) fn resolved(flags: &SettingFlags, writes: bool) -> Result<JobSettings, CommandError> {
    let values = gathered(flags)?;
    let settings = Settings::resolve(&values, &environment(), &flags.layer)?.job()?;
    if writes {
        values.names_output()?;
    }
    Ok(settings)
}

/// True if the settings of a command name an output.
pub(super) fn names_output(flags: &SettingFlags) -> Result<bool, CommandError> {
    Ok(gathered(flags)?.names_output().is_ok())
}

/// The settings of a command whose target is an argument.
pub(super) fn resolved_for(flags: &SettingFlags, target: &str) -> Result<JobSettings, CommandError> {
    let mut settings = resolved(flags, false)?;
    settings.tileset.output = PathBuf::from(target);
    Ok(settings)
}

pub(super) fn run_config(arguments: &ConfigFlags, stop: &Stop) -> Result<(), CommandError> {
    let flags = &arguments.given;
    if let Some(name) = &arguments.schema {
        return Ok(print_as_json(&schema_of(name)?)?);
    }
    if arguments.check {
        return run_check(arguments, stop);
    }
    let values = gathered(flags)?;
    if arguments.json {
        return Ok(print_document(&config::config_json(&values, &environment(), &flags.layer)?)?);
    }
    Ok(print(&config::config(&values, &environment(), &flags.layer)?)?)
}

/// The schema of this name.
fn schema_of(name: &str) -> Result<serde_json::Value, CommandError> {
    let all = schemas::schemas();
    if name == schemas::ALL {
        return Ok(schemas::by_name(all));
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
    };
    let found = on_runtime(async || config::check_config(sources, arguments.database, stop).await)?;
    found.problems.iter().for_each(|problem| say_problem(problem));
    found.warnings.iter().for_each(|warning| say_warning(warning));
    config::without_problems(&found)?;
    let name = file.map_or_else(|| "the configuration".to_owned(), |file| file.display().to_string());
    Ok(print(&format!("{name}: no problem found\n"))?)
}
