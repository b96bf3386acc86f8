//! `./oar-tiles.toml`: which verbs read it without being told, and when it is refused. A configuration can run programs
//! and name credentials, so a file of somebody else in the working directory must not be taken for one's own.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::{Command, PurgeVerb, Shards, Track};
use crate::config::{CONFIG_VARIABLE, ConfigError};
use crate::report::say;
use crate::suggested::OWN_FILE;

/// Names that stand in a target: a directory that holds one of them is no place for a configuration.
const NAMES_IN_TARGETS: [&str; 2] = ["metadata.json", ".oar-tiles"];

/// Gives the command the file of the working directory, if it needs a configuration and was given none. The log names
/// the file, unless the command was told to be quiet. Fails if the file is a link, or others may write it, or the
/// directory is a target.
pub(crate) fn take_own_file(command: &mut Command, is_quiet: bool) -> Result<(), ConfigError> {
    let is_named = std::env::var_os(CONFIG_VARIABLE).is_some_and(|name| !name.is_empty());
    let Some(place) = place(command).filter(|place| place.is_none() && !is_named) else { return Ok(()) };
    let file = Path::new(OWN_FILE);
    let Ok(metadata) = fs::symlink_metadata(file) else { return Ok(()) };
    if let Some(cause) = refusal(&metadata, geteuid().as_raw()) {
        return Err(ConfigError::NotOwnFile { cause });
    }
    if let Some(name) = NAMES_IN_TARGETS.iter().find(|name| Path::new(name).exists()) {
        return Err(ConfigError::NotOwnFile { cause: format!("this folder is a target (it holds {name})") });
    }
    if !is_quiet {
        say(&format!("configuration: {OWN_FILE}"));
    }
    *place = Some(file.to_owned());
    Ok(())
}

/// Why a file is not taken for the user's own.
fn refusal(metadata: &Metadata, user: u32) -> Option<String> {
    if !metadata.is_file() {
        return Some("it is no file, but a link or something else".to_owned());
    }
    if ![0, user].contains(&metadata.uid()) {
        return Some(format!("it belongs to the user with the number {}, not to you or root", metadata.uid()));
    }
    // Where each user has a group of their own, which has the same number, files are made so that it may write them.
    let group = metadata.mode() & 0o020 != 0 && metadata.gid() != user;
    (group || metadata.mode() & 0o002 != 0).then(|| "others may write it (chmod go-w oar-tiles.toml)".to_owned())
}

/// Where the verb keeps its `--config`; `None` if this call has no need of a configuration, such as a target that is an
/// argument.
fn place(command: &mut Command) -> Option<&mut Option<PathBuf>> {
    match command {
        Command::Seed(verb) => Some(&mut verb.given.config),
        Command::Reseed(verb) => Some(&mut verb.given.config),
        Command::Shards(Shards::Begin(verb)) => Some(&mut verb.given.config),
        Command::Shards(Shards::Run(verb)) => Some(&mut verb.given.config),
        Command::Shards(Shards::Commit(verb)) => Some(&mut verb.given.config),
        Command::Shards(Shards::Status(verb)) => Some(&mut verb.config),
        Command::Shards(Shards::Abort(verb)) => Some(&mut verb.config),
        Command::Publish(verb) => Some(&mut verb.config),
        Command::Purge(verb) => Some(match &mut verb.verb {
            Some(PurgeVerb::Status(status)) => &mut status.config,
            None => &mut verb.what.config,
        }),
        Command::Verify(verb) => (verb.database || verb.target.is_none()).then_some(&mut verb.config),
        Command::Inspect(verb) => verb.target.is_none().then_some(&mut verb.config),
        Command::Diff(verb) => verb.b.is_none().then_some(&mut verb.config),
        Command::Serve(verb) => {
            (verb.target.is_none() || verb.live || verb.writer.is_some()).then_some(&mut verb.config)
        }
        Command::Preview(verb) => (verb.target.is_none() || verb.live).then_some(&mut verb.config),
        Command::Track(Track::Install(verb)) => Some(&mut verb.tracked.config),
        Command::Track(Track::Status(verb)) => Some(&mut verb.tracked.config),
        Command::Track(Track::Prune(verb)) => Some(&mut verb.tracked.config),
        Command::Track(Track::Remove(verb)) => Some(&mut verb.tracked.config),
        Command::Config(verb) => verb.schema.is_none().then_some(&mut verb.given.config),
        Command::Doctor(verb) => Some(&mut verb.config),
        Command::Init(_) | Command::Copy(_) | Command::Jobs(_) | Command::Completions(_) | Command::Man(_) => None,
    }
}
