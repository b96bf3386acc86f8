//! The commands that messages suggest. A run with `--config FILE` suggests commands with the same file: without it they
//! would work on the default layers, or on none.
//!
//! A message names a constant, `format!("… Run {SEED} once")`, and never spells a command; `tests/it/project/names.rs`
//! holds that.

use std::fmt;
use std::path::Path;
use std::sync::OnceLock;

/// The `--config FILE` of this process, as a shell reads it, with a space before it.
static CONFIG: OnceLock<String> = OnceLock::new();

/// The `--work FOLDER` of this process, in the same way.
static WORK: OnceLock<String> = OnceLock::new();

/// A command of this program, by its verbs. It is shown with the file that `use_config` was given; a command for shards
/// is also shown with the folder that `use_work` was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuggestedCommand(&'static str);

/// The configuration in the working directory, which commands read that are given no other; `init` writes it.
pub const OWN_FILE: &str = "oar-tiles.toml";

/// Sends waiting purges to CDNs.
pub const PURGE: SuggestedCommand = SuggestedCommand("purge");
/// Brings a target up to date.
pub const RESEED: SuggestedCommand = SuggestedCommand("reseed");
/// Makes all tiles.
pub const SEED: SuggestedCommand = SuggestedCommand("seed");
/// Abandons a run of shards.
pub const SHARDS_ABORT: SuggestedCommand = SuggestedCommand("shards abort");
/// Plans a run of shards.
pub const SHARDS_BEGIN: SuggestedCommand = SuggestedCommand("shards begin");
/// Joins and publishes what shards rendered.
pub const SHARDS_COMMIT: SuggestedCommand = SuggestedCommand("shards commit");
pub const SHARDS_RUN: SuggestedCommand = SuggestedCommand("shards run");
/// Shows how far shards are.
pub const SHARDS_STATUS: SuggestedCommand = SuggestedCommand("shards status");
/// Installs the change log.
pub const TRACK_INSTALL: SuggestedCommand = SuggestedCommand("track install");
/// Removes the entries of the change log that all targets have seen.
pub const TRACK_PRUNE: SuggestedCommand = SuggestedCommand("track prune");
/// Shows how far targets are behind the change log.
pub const TRACK_STATUS: SuggestedCommand = SuggestedCommand("track status");
/// Removes the change log.
pub const TRACK_REMOVE: SuggestedCommand = SuggestedCommand("track remove");

impl SuggestedCommand {
    /// All of them, with the names of their constants.
    pub const ALL: [(&str, SuggestedCommand); 12] = [
        ("PURGE", PURGE),
        ("RESEED", RESEED),
        ("SEED", SEED),
        ("SHARDS_ABORT", SHARDS_ABORT),
        ("SHARDS_BEGIN", SHARDS_BEGIN),
        ("SHARDS_COMMIT", SHARDS_COMMIT),
        ("SHARDS_RUN", SHARDS_RUN),
        ("SHARDS_STATUS", SHARDS_STATUS),
        ("TRACK_INSTALL", TRACK_INSTALL),
        ("TRACK_PRUNE", TRACK_PRUNE),
        ("TRACK_REMOVE", TRACK_REMOVE),
        ("TRACK_STATUS", TRACK_STATUS),
    ];

    /// Its verbs, such as "track install".
    #[must_use]
    pub const fn verbs(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for SuggestedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oar-tiles {}{}", self.0, CONFIG.get().map_or("", String::as_str))?;
        match WORK.get().filter(|_| self.0.starts_with("shards ")) {
            Some(work) if *self == SHARDS_BEGIN => write!(f, "{work} --shards N"),
            Some(work) => f.write_str(work),
            None => Ok(()),
        }
    }
}

/// The command that installs or removes the change log. `verb` is "install" or "remove".
pub(crate) fn track_command(verb: &str) -> SuggestedCommand {
    if verb == "remove" { TRACK_REMOVE } else { TRACK_INSTALL }
}

/// Sets the file that `--config` names. Called once per process, before the first message; later calls change nothing.
pub fn use_config(file: &Path) {
    CONFIG.get_or_init(|| format!(" --config {}", for_shell(&file.to_string_lossy())));
}

/// Sets the work folder that `--work` names. Called once per process, before the first message; later calls change
/// nothing.
pub fn use_work(folder: &str) {
    WORK.get_or_init(|| format!(" --work {}", for_shell(folder)));
}

/// A word as a POSIX shell reads it: in single quotes if it holds anything but letters, digits and a few harmless
/// signs.
pub fn for_shell(word: &str) -> String {
    let is_plain =
        |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '+' | ',' | ':' | '@' | '=' | '%');
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_can_be_pasted_into_a_shell() {
        for (word, pasted) in [
            ("a/b-c_1.toml", "a/b-c_1.toml"),
            ("my map.toml", "'my map.toml'"),
            ("it's.toml", r"'it'\''s.toml'"),
            ("$HOME.toml", "'$HOME.toml'"),
            ("", "''"),
        ] {
            assert_eq!(for_shell(word), pasted);
        }
    }
}
