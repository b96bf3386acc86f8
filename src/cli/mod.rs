//! The command line: a file for each verb, or for two that are alike, with its flags as typed ("not given" stays
//! `None`), the call of its work in `run`, and what it prints.
//!
//! | file | what |
//! |---|---|
//! | `config`, `copy`, `diff`, `doctor`, `init`, `inspect`, `jobs`, `publish`, `purge`, `shards`, `track`, `verify` | the verbs of these names |
//! | `closing` | how a run is shown, and the output at its end |
//! | `help` | the help of all verbs: flags in groups, what `-h` leaves to `--help`, examples, exit codes |
//! | `mistakes` | what people type who know other tools: the error names what they meant |
//! | `own_file` | `./oar-tiles.toml`: which verbs read it without being told, and when it is refused |
//! | `seed`, `seed_flags` | `oar-tiles seed` and `oar-tiles reseed`; their flags |
//! | `serve` | `oar-tiles serve` and `oar-tiles preview` |
//! | `settings` | the settings of a verb, from flags, the environment, and a file |
//! | `shell` | `oar-tiles completions` and `oar-tiles man` |
//! | `threads` | the threads that the program needs from its start on |
//! | `tilesets` | runs a verb for each of several tilesets: one after the other, or all in parallel if the verb runs until a signal |
//! | `variants` | verbs on a tileset with variants |

#![expect(clippy::doc_markdown, reason = "the texts of flags are the help that users read")]

mod closing;
mod config;
mod copy;
mod diff;
mod doctor;
mod help;
mod init;
mod inspect;
mod jobs;
mod mistakes;
mod own_file;
mod publish;
mod purge;
mod seed;
mod seed_flags;
mod serve;
mod settings;
mod shards;
mod shell;
mod threads;
mod tilesets;
mod track;
mod variants;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, ArgMatches, Args, FromArgMatches as _, Parser, Subcommand};
use config::run_config;
use copy::run_copy;
use diff::run_diff;
use doctor::run_doctor;
use init::run_init;
use inspect::run_inspect;
use jobs::run_jobs;
use own_file::take_own_file;
use publish::run_publish;
use purge::run_purge;
use seed::{run_reseed, run_seed};
use serve::{run_preview, run_serve};
use settings::log_form;
use shards::run_shards;
use shell::{run_completions, run_man};
use track::run_track;
use verify::run_verify;

use crate::config::{Flag, Progress};
use crate::exit::Exit;
use crate::report::{LogForm, say, say_failure, set_log_form};
use crate::run::{CommandError, interrupted};
use crate::signals;
use crate::stop::{Signal, Stop};
use crate::suggested::use_config;
use crate::target::TARGET_FORMS;
use crate::tile::{LonLatBox, ZoomList};

pub(crate) use config::ConfigFlags;
pub(crate) use copy::Copy;
pub use copy::render_copy;
pub(crate) use diff::Diff;
pub(crate) use doctor::Doctor;
pub use help::command;
pub(crate) use init::Init;
pub(crate) use inspect::Inspect;
pub(crate) use jobs::Jobs;
pub(crate) use publish::Publish;
pub use publish::render_versions;
pub(crate) use purge::{Purge, PurgeVerb};
pub(crate) use seed_flags::{Reseed, Seed};
pub(crate) use serve::{Preview, Serve};
pub(crate) use shards::Shards;
pub(crate) use shell::{Completions, Man};
pub(crate) use track::Track;
pub(crate) use verify::Verify;

/// What `--version` prints: the number, and in a release build the commit and its date (`build.rs`).
pub(crate) const VERSION: &str = env!("BUILD_VERSION");

/// Pregenerates static vector tiles from PostGIS: all zooms in seconds, from one snapshot of the database
#[derive(Debug, Parser)]
#[command(name = "oar-tiles", version = VERSION, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Form of the log on standard error: plain, timed (time and level before each line), json, or auto: plain on a
    /// terminal, timed elsewhere [env: OAR_TILES_LOG]
    #[arg(long, global = true, value_name = "FORM", value_enum, hide_possible_values = true, display_order = 900)]
    pub log: Option<LogForm>,
    /// Do not read ./oar-tiles.toml, which commands read that have no other configuration
    #[arg(long, global = true, display_order = 901)]
    pub(crate) no_config: bool,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look for tables with a geometry in a database, and write a configuration for them
    Init(Init),
    /// Render every tile in which a feature falls, at all zooms, into the target
    Seed(Seed),
    /// Bring a target up to date: render only the tiles that changed since its snapshot
    Reseed(Reseed),
    /// Seed on several machines: cut a seed into shards that a scheduler runs, and publish them together
    #[command(subcommand)]
    Shards(Shards),
    /// List the versions of a target, or switch clients to another version
    Publish(Publish),
    /// Tell CDNs which tiles changed: what waits since the last publish, or what is named
    Purge(Purge),
    /// Check a target: structure, counts and tiles; with --database also compare it with the database
    Verify(Verify),
    /// Show what a target holds, or what one of its tiles holds
    Inspect(Inspect),
    /// Copy the tiles of a target, byte for byte, to another target of any kind
    Copy(Copy),
    /// Compare the tiles of two targets, or with a server; exit code 1 if they differ
    Diff(Diff),
    /// Serve a target over HTTP: tiles, TileJSON, metrics
    Serve(Serve),
    /// Show a target on a map in the browser; no database is needed
    Preview(Preview),
    /// Set up and look after the change log in the database, which tells reseed what changed
    #[command(subcommand)]
    Track(Track),
    /// Submit jobs to a server that writes its target, and look after them
    #[command(subcommand)]
    Jobs(Jobs),
    /// Print the settings and where each value came from, or check them
    Config(ConfigFlags),
    /// Look for what stands in the way of runs, or will one day, in the database, the change log and the target
    Doctor(Doctor),
    /// Print what a shell needs to complete commands and flags
    Completions(Completions),
    /// Print the manual page, or write the pages of all commands into a folder
    Man(Man),
}

/// Flags that override the configuration.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SettingFlags {
    /// Configuration file; sample-config.toml shows every key [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Database, as a URL or a key=value string [env: DATABASE_URL, PG*]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// Zooms, such as 0-14, 7 or 0-4,8,10-12 [env: OAR_TILES_ZOOM]
    #[arg(long, value_name = "LIST")]
    pub zoom: Option<ZoomList>,
    /// Box in degrees; repeat the flag for several boxes; a box with west > east crosses 180° [env: OAR_TILES_BBOX]
    #[arg(long, value_name = "W,S,E,N", allow_hyphen_values = true, action = ArgAction::Append)]
    pub bbox: Vec<LonLatBox>,
    #[arg(long, short, value_name = "TARGET", help = format!("Target: {TARGET_FORMS} [env: OAR_TILES_OUTPUT]"))]
    pub output: Option<PathBuf>,
    /// URL under which clients find a directory or bucket, such as https://host/path; tiles.json refers to it [env:
    /// OAR_TILES_PUBLIC_URL]
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Use only this layer; repeat the flag for several layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// Only this tileset, if the configuration has several; repeat the flag for several tilesets [default: all]
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub tileset: Vec<String>,
    /// Database sessions that render in parallel; 0: one for each CPU [env: OAR_TILES_WORKERS]
    #[arg(long, value_name = "N")]
    pub workers: Option<u16>,
    /// How to show progress [env: OAR_TILES_PROGRESS]
    #[arg(long, value_name = "STYLE")]
    pub progress: Option<Progress>,
    /// The settings that flags of one verb give.
    #[arg(skip)]
    pub more: Vec<Flag>,
}

impl SettingFlags {
    /// The settings that were given as flags, by key.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        let boxes = || self.bbox.iter().map(ToString::to_string).collect::<Vec<_>>().into();
        let mut flags = typed([
            ("--database-url", "database.url", self.database_url.as_deref().map(toml::Value::from)),
            ("--zoom", "tileset.zoom", self.zoom.as_ref().map(|zoom| zoom.to_string().into())),
            ("--bbox", "tileset.bbox", (!self.bbox.is_empty()).then(boxes)),
            ("--output", "tileset.output", self.output.as_ref().map(|output| output.to_string_lossy().as_ref().into())),
            ("--public-url", "target.public_url", self.public_url.as_deref().map(toml::Value::from)),
            ("--workers", "run.workers", self.workers.map(|workers| i64::from(workers).into())),
            ("--progress", "run.progress", self.progress.and_then(|style| toml::Value::try_from(style).ok())),
        ]);
        flags.extend(self.more.iter().cloned());
        flags
    }
}

/// The flags that were typed: their names, keys and values.
fn typed<const N: usize>(flags: [(&'static str, &'static str, Option<toml::Value>); N]) -> Vec<Flag> {
    flags.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value?))).collect()
}

// Parses the command line, starts logging, runs the command, and ends with an exit code.

/// Runs the command that was typed, and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let typed = command().try_get_matches().unwrap_or_else(|error| mistakes::explained(error, &words).exit());
    let mut cli = Cli::from_arg_matches(&typed).unwrap_or_else(|error| error.format(&mut command()).exit());
    if let Some(file) = config_flag(&typed) {
        use_config(&file);
    }
    match log_form(cli.log) {
        Ok(form) => set_log_form(form),
        Err(error) => return failed(&error, None),
    }
    if !cli.no_config
        && let Err(error) = take_own_file(&mut cli.command, is_quiet(&typed))
    {
        return failed(&error.into(), None);
    }
    warn_of_wide_boxes(&typed);
    // Before anything that may block, such as reading a configuration.
    let stop = Stop::new();
    signals::listen(&stop);
    let ended = match &cli.command {
        Command::Init(arguments) => run_init(arguments, &stop),
        Command::Seed(arguments) => run_seed(arguments, &stop),
        Command::Reseed(arguments) => run_reseed(arguments, &stop),
        Command::Shards(arguments) => run_shards(arguments, &stop),
        Command::Publish(arguments) => run_publish(arguments, &stop),
        Command::Purge(arguments) => run_purge(arguments, &stop),
        Command::Verify(arguments) => run_verify(arguments, &stop),
        Command::Inspect(arguments) => run_inspect(arguments, &stop),
        Command::Copy(arguments) => run_copy(arguments, &stop),
        Command::Diff(arguments) => run_diff(arguments, &stop),
        Command::Serve(arguments) => run_serve(arguments, &stop),
        Command::Preview(arguments) => run_preview(arguments, &stop),
        Command::Track(arguments) => run_track(arguments, &stop),
        Command::Jobs(arguments) => run_jobs(arguments),
        Command::Config(arguments) => run_config(arguments, &stop),
        Command::Doctor(arguments) => run_doctor(arguments, &stop),
        Command::Completions(arguments) => run_completions(arguments),
        Command::Man(arguments) => run_man(arguments),
    };
    match ended.map_err(|error| interrupted(error, &stop)) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            // A server that was asked to end has done what it was asked to do.
            if matches!(error, CommandError::Stopped(_)) {
                say(&error.to_string());
            } else {
                return failed(&error, stop.asked());
            }
            Exit::of(error.kind(), stop.asked()).into()
        }
    }
}

/// The file that `--config` names, on the verb or on any of its subcommands.
fn config_flag(typed: &ArgMatches) -> Option<PathBuf> {
    let inner = typed.subcommand().and_then(|(_, matches)| config_flag(matches));
    inner.or_else(|| typed.try_get_one::<PathBuf>("config").ok().flatten().cloned())
}

/// Names each box that runs over the 180th meridian and takes more than half of the world: more often than not, west
/// and east were swapped.
fn warn_of_wide_boxes(typed: &ArgMatches) {
    let boxes = typed.try_get_many::<LonLatBox>("bbox").ok().flatten().into_iter().flatten();
    for LonLatBox { west, south, east, north } in boxes.filter(|one| one.crosses_antimeridian()) {
        let width = 360.0 - (west - east);
        if width > 180.0 {
            say(&format!(
                "--bbox {west},{south},{east},{north} runs east from {west}° over 180° to {east}°, {width}° wide; for the box between {east}° and {west}° write --bbox {east},{south},{west},{north}"
            ));
        }
    }
    if let Some((_, verb)) = typed.subcommand() {
        warn_of_wide_boxes(verb);
    }
}

/// True if the verb, or the one below it, was told to be quiet.
fn is_quiet(typed: &ArgMatches) -> bool {
    let own = typed.try_get_one::<bool>("quiet").is_ok_and(|quiet| quiet == Some(&true));
    own || typed.subcommand().is_some_and(|(_, matches)| is_quiet(matches))
}

/// Reports why a command failed, and returns its exit code.
fn failed(error: &CommandError, stop: Option<Signal>) -> ExitCode {
    let kind = error.kind();
    let exit = Exit::of(kind, stop);
    say_failure(error, kind, exit as u8);
    exit.into()
}

/// Runs a command to its end.
pub(crate) fn on_runtime<T>(command: impl AsyncFnOnce() -> Result<T, CommandError>) -> Result<T, CommandError> {
    let runtime = threads::runtime()?;
    let done = runtime.block_on(command());
    // There is nothing left to wait for, so an idle connection must not delay the end.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn flags_that_are_not_given_give_nothing() {
        let Command::Seed(seed) = Cli::try_parse_from(["oar-tiles", "seed"]).unwrap().command else { panic!() };
        assert_eq!(seed.given.flags(), []);
        let arguments = [
            "oar-tiles",
            "seed",
            "--bbox",
            "-10,-5,10,5",
            "--bbox=170,-50,-170,50",
            "--zoom",
            "0-2,5",
            "--progress",
            "json",
        ];
        let Command::Seed(seed) = Cli::try_parse_from(arguments).unwrap().command else { panic!() };
        let flags: Vec<String> =
            seed.given.flags().iter().map(|(flag, key, value)| format!("{flag} {key} {value}")).collect();
        assert_eq!(
            flags,
            [
                "--zoom tileset.zoom \"0-2,5\"",
                "--bbox tileset.bbox [\"-10,-5,10,5\", \"170,-50,-170,50\"]",
                "--progress run.progress \"json\""
            ]
        );
    }
}
