//! Parses the command line, starts logging, runs the command, and ends with an exit code.
//!
//! | file | verbs |
//! |---|---|
//! | `seeding` | `seed`, `reseed` |
//! | `sharding` | `shards` |
//! | `targets` | `publish`, `purge`, `verify`, `inspect`, `copy`, `diff` |
//! | `serving` | `serve`, `preview`, `jobs` |
//! | `tracking` | `track`, `doctor` |
//! | `drafting` | `init`; the layers of `seed --table` |
//! | `shell` | `completions`, `man` |
//! | `given` | the settings of a verb; `config` |
//! | `tilesets` | runs a verb for each of several tilesets |
//! | `variants` | verbs on a tileset with variants |
//! | `threads` | the threads that every command needs |
//! | `shown` | how a run is shown, and its closing table |

mod drafting;
mod given;
mod seeding;
mod serving;
mod sharding;
mod shell;
mod shown;
mod targets;
mod threads;
mod tilesets;
mod tracking;
mod variants;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, FromArgMatches as _};
use oar_tiles::cli::{Cli, Command, command};
use oar_tiles::exit::Exit;
use oar_tiles::report::{say, say_failure, set_log_form};
use oar_tiles::run::{CommandError, interrupted};
use oar_tiles::signals;
use oar_tiles::stop::{Signal, Stop};
use oar_tiles::suggested::use_config;

use drafting::run_init;
use given::{log_form, run_config};
use seeding::{run_reseed, run_seed};
use serving::{run_jobs, run_preview, run_serve};
use sharding::run_shards;
use shell::{run_completions, run_man};
use targets::{run_copy, run_diff, run_inspect, run_publish, run_purge, run_verify};
use tracking::{run_doctor, run_track};

/// After a load of `reseed --watch`, glibc's allocator keeps most of the memory that the load has taken. jemalloc returns it within seconds
/// (docs/benchmarks.md, "Under load").
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let typed = command().get_matches();
    let cli = Cli::from_arg_matches(&typed).unwrap_or_else(|error| error.format(&mut command()).exit());
    if let Some(file) = config_flag(&typed) {
        use_config(&file);
    }
    match log_form(cli.log) {
        Ok(form) => set_log_form(form),
        Err(error) => return failed(&error, None),
    }
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

/// Reports why a command failed, and returns its exit code.
fn failed(error: &CommandError, stop: Option<Signal>) -> ExitCode {
    let exit = Exit::of(error.kind(), stop);
    say_failure(error, error.failure_kind(), exit as u8);
    exit.into()
}

/// Runs a command to its end.
fn on_runtime<T>(command: impl AsyncFnOnce() -> Result<T, CommandError>) -> Result<T, CommandError> {
    let runtime = threads::runtime()?;
    let done = runtime.block_on(command());
    // There is nothing left to wait for, so an idle connection must not delay the end.
    runtime.shutdown_background();
    done
}
