//! The settings of a verb, from flags, the environment, and a file.

use std::path::{Path, PathBuf};

use clap::ValueEnum as _;

use super::SettingFlags;
use crate::config::{CONFIG_VARIABLE, ConfigError, ConfigValues, LOG_VARIABLE, Settings, gather};
use crate::postgis::ConnectParts;
use crate::report::LogForm;
use crate::run::CommandError;

/// The form of the log, from the flag or else from the environment.
pub(crate) fn log_form(flag: Option<LogForm>) -> Result<LogForm, CommandError> {
    match (flag, std::env::var(LOG_VARIABLE)) {
        (Some(form), _) => Ok(form),
        (None, Ok(value)) if !value.is_empty() => Ok(LogForm::from_str(&value, false).map_err(|_unknown| {
            let message = format!("\"{value}\" is no form of the log: write auto, plain, timed or json");
            ConfigError::BadVariable { variable: LOG_VARIABLE.to_owned(), message }
        })?),
        (None, _) => Ok(LogForm::Auto),
    }
}

pub(crate) fn environment() -> ConnectParts {
    ConnectParts::from_environment(|name| std::env::var(name).ok())
}

pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

pub(crate) fn gathered(flags: &SettingFlags) -> Result<ConfigValues, CommandError> {
    gathered_over(flags, None)
}

/// The values of a command. The layers of a draft replace those of the file.
fn gathered_over(flags: &SettingFlags, draft: Option<&str>) -> Result<ConfigValues, CommandError> {
    Ok(gather(config_file(flags).as_deref(), draft, variables(), flags.flags())?)
}

/// The configuration file of a command.
pub(crate) fn config_file(flags: &SettingFlags) -> Option<PathBuf> {
    let of_environment = || std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    flags.config.clone().or_else(of_environment)
}

/// The settings of a command that has no file.
pub(crate) fn resolved_without_file(flags: &SettingFlags) -> Result<Settings, CommandError> {
    let values = gather(None, None, variables(), flags.flags())?;
    Ok(Settings::resolve(&values, &environment(), &[])?)
}

/// The settings for a search of the database's tables. The layers do not matter.
pub(crate) fn resolved_without_layers(flags: &SettingFlags) -> Result<Settings, CommandError> {
    Ok(Settings::resolve(&one_of(&gathered(flags)?, flags, "this command")?, &environment(), &[])?)
}

/// Like [`resolved_without_layers`], but if there are several tilesets and the flags choose none, the settings of the
/// first.
pub(crate) fn resolved_first_without_layers(flags: &SettingFlags) -> Result<Settings, CommandError> {
    let values = gathered(flags)?;
    let first = values.tilesets(&flags.tileset)?.into_iter().next().unwrap_or(values);
    Ok(Settings::resolve(&first, &environment(), &[])?)
}

/// The settings, with the layers, zooms and output of a draft.
pub(crate) fn resolved_over(flags: &SettingFlags, draft: &str) -> Result<Settings, CommandError> {
    let values = gathered_over(flags, Some(draft))?;
    Ok(Settings::resolve(&one_of(&values, flags, "seed --table")?, &environment(), &flags.layer)?)
}

/// The settings of each tileset of a draft.
pub(crate) fn resolved_all_over(flags: &SettingFlags, draft: &str) -> Result<Vec<Settings>, CommandError> {
    let tilesets = gathered_over(flags, Some(draft))?.tilesets(&[])?;
    tilesets.iter().map(|values| resolved_one(values, flags, false)).collect()
}

/// True if nothing tells a command what to work on: there is no file, no output and no layer, and the default output
/// does not exist.
pub(crate) fn says_nothing(flags: &SettingFlags) -> Result<bool, CommandError> {
    if has_file(flags) || !flags.tileset.is_empty() || !flags.layer.is_empty() {
        return Ok(false);
    }
    Ok(gathered(flags)?.has_default_output() && !resolved(flags, false, "serve")?.tileset.output.exists())
}

/// True if a command was given a configuration file.
pub(crate) fn has_file(flags: &SettingFlags) -> bool {
    config_file(flags).is_some()
}

/// The settings of each tileset that the flags choose. A command that `writes` targets needs their names.
pub(crate) fn resolved_all(flags: &SettingFlags, writes: bool) -> Result<Vec<Settings>, CommandError> {
    let tilesets = gathered(flags)?.tilesets(&flags.tileset)?;
    tilesets.iter().map(|values| resolved_one(values, flags, writes)).collect()
}

/// Refuses a command that draws, and whose configuration names no layer.
pub(crate) fn names_layers(flags: &SettingFlags) -> Result<(), CommandError> {
    let file = config_file(flags);
    let tilesets = gathered(flags)?.tilesets(&flags.tileset)?;
    Ok(tilesets.iter().try_for_each(|values| values.names_layers(file.as_deref()))?)
}

/// Like [`resolved_all`], for a command that draws.
pub(crate) fn resolved_to_draw(flags: &SettingFlags, writes: bool) -> Result<Vec<Settings>, CommandError> {
    // A setting that makes no sense is named before a layer that is missing.
    let settings = resolved_all(flags, writes)?;
    names_layers(flags)?;
    Ok(settings)
}

/// True if the configuration lists tilesets, and the flags choose none of them.
pub(crate) fn lists_tilesets(flags: &SettingFlags) -> Result<bool, CommandError> {
    Ok(flags.tileset.is_empty() && !gathered(flags)?.tileset_names().is_empty())
}

/// The settings of a command for one tileset. `what` names the command in messages. A command that `writes` a target
/// needs its name.
pub(crate) fn resolved(flags: &SettingFlags, writes: bool, what: &'static str) -> Result<Settings, CommandError> {
    resolved_one(&one_of(&gathered(flags)?, flags, what)?, flags, writes)
}

fn resolved_one(values: &ConfigValues, flags: &SettingFlags, writes: bool) -> Result<Settings, CommandError> {
    let settings = Settings::resolve(values, &environment(), &flags.layer)?;
    if writes {
        values.names_output()?;
    }
    Ok(settings)
}

/// The values of the only tileset, or of the one that the flags choose.
pub(crate) fn one_of(
    values: &ConfigValues,
    flags: &SettingFlags,
    what: &'static str,
) -> Result<ConfigValues, ConfigError> {
    let mut tilesets = values.tilesets(&flags.tileset)?;
    match (tilesets.pop(), tilesets.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(ConfigError::NotOneTileset {
            what,
            names: values.tileset_names().into_iter().map(str::to_owned).collect(),
        }),
    }
}

/// The error of a command or flag that is for one tileset, and got several.
pub(crate) fn several_tilesets(what: &'static str, tilesets: Vec<Settings>) -> CommandError {
    let names = tilesets.into_iter().map(|settings| settings.tileset.name).collect();
    ConfigError::NotOneTileset { what, names }.into()
}

/// True if the settings of a command name an output.
pub(crate) fn names_output(flags: &SettingFlags) -> Result<bool, CommandError> {
    let tilesets = gathered(flags)?.tilesets(&flags.tileset)?;
    Ok(tilesets.iter().all(|values| values.names_output().is_ok()))
}

/// The target of a command: its argument, or else the output of the configuration's only tileset. `called` is how the
/// command is called with a target.
pub(crate) fn target_of(
    flags: &SettingFlags,
    argument: Option<&str>,
    verb: &'static str,
    called: &'static str,
) -> Result<String, CommandError> {
    if let Some(target) = argument {
        return Ok(target.to_owned());
    }
    let values = gathered(flags)?;
    let one = one_of(&values, flags, verb)?;
    if !has_file(flags) && values.has_default_output() {
        return Err(ConfigError::NoTarget { verb, called }.into());
    }
    Ok(resolved_one(&one, flags, false)?.tileset.output.to_string_lossy().into_owned())
}

/// The settings of a command whose target is an argument. Of several tilesets, the one with this output is taken.
pub(crate) fn resolved_for(flags: &SettingFlags, target: &str, what: &'static str) -> Result<Settings, CommandError> {
    let settings = match resolved_by_output(flags, target)? {
        Some(settings) => settings,
        None => resolved(flags, false, what)?,
    };
    Ok(with_output(settings, target))
}

/// The settings of a command whose target is an argument, and to which the layers do not matter. Of several tilesets,
/// the one with this output is taken, or else the first.
pub(crate) fn resolved_to_read(flags: &SettingFlags, target: &str) -> Result<Settings, CommandError> {
    resolved_to_write(flags, target).map(|(settings, _is_own)| settings)
}

/// Like [`resolved_to_read`], for a target that is written. Also returns whether the target is the output of a tileset.
pub(crate) fn resolved_to_write(flags: &SettingFlags, target: &str) -> Result<(Settings, bool), CommandError> {
    let own = resolved_by_output(flags, target)?;
    let is_own = own.is_some();
    let settings = match own.or(resolved_all(flags, false)?.into_iter().next()) {
        Some(settings) => settings,
        None => resolved(flags, false, "this command")?,
    };
    Ok((with_output(settings, target), is_own))
}

/// The settings of the tileset with this output, if there is one.
fn resolved_by_output(flags: &SettingFlags, target: &str) -> Result<Option<Settings>, CommandError> {
    let all = resolved_all(flags, false)?;
    Ok(all.into_iter().find(|settings| settings.tileset.output == Path::new(target)))
}

pub(crate) fn with_output(mut settings: Settings, target: &str) -> Settings {
    settings.tileset.output = PathBuf::from(target);
    settings
}
