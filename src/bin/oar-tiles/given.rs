//! The settings that a verb was given: by flags, the environment, and a file.

use std::path::PathBuf;

use oar_tiles::cli::SettingFlags;
use oar_tiles::command::config;
use oar_tiles::config::{CONFIG_VARIABLE, ConfigValues, JobSettings, Settings, gather};
use oar_tiles::postgis::Parts;
use oar_tiles::report::print;
use oar_tiles::run::CommandError;

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
    let file = flags
        .config
        .clone()
        .or_else(|| std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from));
    Ok(gather(file.as_deref(), draft, variables(), flags.flags())?)
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

/// The settings of a command whose target is an argument.
pub(super) fn resolved_for(flags: &SettingFlags, target: &str) -> Result<JobSettings, CommandError> {
    let mut settings = resolved(flags, false)?;
    settings.tileset.output = PathBuf::from(target);
    Ok(settings)
}

pub(super) fn run_config(flags: &SettingFlags) -> Result<(), CommandError> {
    let values = gathered(flags)?;
    Ok(print(&config::config(&values, &environment(), &flags.layer)?)?)
}
