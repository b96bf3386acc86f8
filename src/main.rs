//! Parses, starts logging, runs the command, ends with an exit code.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;
use oar_tiles::changes::WatchOptions;
use oar_tiles::cli::{Cli, Command, Copy, Given, Inspect, Publish, Reseed, Seed, Track, Verify};
use oar_tiles::command::reseed::{ReseedOptions, TileList, What, area};
use oar_tiles::command::{
    CommandError, backlog, config, copy, inspect, interrupted, publish, reseed, seed, track, verify,
};
use oar_tiles::config::{CONFIG_VARIABLE, Progress, Settings, Values, gather};
use oar_tiles::exit::Exit;
use oar_tiles::postgis::Parts;
use oar_tiles::report::{Style, report, say};
use oar_tiles::signals;
use oar_tiles::sink::MaxShrink;
use oar_tiles::stop::Stop;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// After a load of `reseed --watch` the system's allocator keeps what the load has taken: 230 MB of 288 MB, where jemalloc has given all but
/// 30 MB back 10 s later.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before anything that may wait: reading a configuration can.
    let stop = Stop::new();
    signals::listen(&stop);
    let ended = match &cli.command {
        Command::Seed(arguments) => run_seed(arguments, &stop),
        Command::Reseed(arguments) => run_reseed(arguments, &stop),
        Command::Publish(arguments) => run_publish(arguments, &stop),
        Command::Verify(arguments) => run_verify(arguments, &stop),
        Command::Inspect(arguments) => run_inspect(arguments, &stop),
        Command::Copy(arguments) => run_copy(arguments, &stop),
        Command::Track(arguments) => run_track(arguments, &stop),
        Command::Config(given) => {
            gathered(given).and_then(|values| config::config(&values, &environment(), &given.layer))
        }
    };
    match ended.map_err(|error| interrupted(error, &stop)) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            say(&explained(&error));
            Exit::of(error.kind(), stop.asked()).into()
        }
    }
}

/// The error, and the cause beneath it once.
fn explained(error: &CommandError) -> String {
    let mut text = format!("error: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!("\n  cause: {cause}"));
        source = cause.source();
    }
    text
}

fn environment() -> Parts {
    Parts::from_environment(|name| std::env::var(name).ok())
}

fn gathered(given: &Given) -> Result<Values, CommandError> {
    let file = given
        .config
        .clone()
        .or_else(|| std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from));
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok(gather(file.as_deref(), variables, given.flags())?)
}

/// The settings of a command; one that `writes` must know where.
fn resolved(given: &Given, writes: bool) -> Result<Settings, CommandError> {
    let values = gathered(given)?;
    let settings = Settings::resolve(&values, &environment(), &given.layer)?;
    if writes {
        values.names_output()?;
    }
    Ok(settings)
}

/// How the run is shown.
fn style(settings: &Settings, quiet: bool) -> Style {
    match settings.progress {
        _ if quiet => Style::Quiet,
        Progress::Auto => Style::Auto,
        Progress::Bar => Style::Bar,
        Progress::Lines => Style::Lines,
        Progress::Json => Style::Json,
        Progress::None => Style::Warnings,
    }
}

fn run_seed(arguments: &Seed, stop: &Stop) -> Result<(), CommandError> {
    log(arguments.verbose);
    let mut settings = resolved(&arguments.given, !arguments.dry_run)?;
    if arguments.allow_shrink {
        settings.tileset.max_shrink = MaxShrink::ALL;
    }
    let style = style(&settings, arguments.quiet);
    let options = seed::SeedOptions {
        dry_run: arguments.dry_run,
        force: arguments.force,
        changed_out: arguments.changed_out.clone(),
        report: arguments.report.clone(),
        table: !matches!(style, Style::Json | Style::Quiet),
    };
    let report = report(style);
    on_runtime(async || seed::seed(&settings, &options, &report, stop).await)
}

fn run_reseed(arguments: &Reseed, stop: &Stop) -> Result<(), CommandError> {
    log(arguments.verbose);
    let mut settings = resolved(&arguments.given, true)?;
    if arguments.allow_shrink {
        settings.tileset.max_shrink = MaxShrink::ALL;
    }
    let style = match style(&settings, arguments.quiet) {
        // A bar of a few milliseconds, again and again, is of no use.
        Style::Auto | Style::Bar | Style::Lines if arguments.watch => Style::Warnings,
        style => style,
    };
    let what = match (&arguments.tiles, &*arguments.area) {
        (Some(path), _) => {
            What::Tiles(TileList { path: path.clone(), parents: arguments.parents, children: arguments.children })
        }
        (None, []) => What::Log,
        (None, areas) => What::Area(areas.iter().map(|text| area(text)).collect::<Result<Vec<_>, _>>()?.concat()),
    };
    let options = ReseedOptions {
        what,
        since: arguments.since.clone(),
        zoom: arguments.given.zoom.clone(),
        bbox: arguments.given.bbox.clone(),
        dry_run: arguments.dry_run,
        or_seed: arguments.or_seed,
        dirty_out: arguments.dirty_out.clone(),
        changed_out: arguments.changed_out.clone(),
        report: arguments.report.clone(),
        table: !matches!(style, Style::Json | Style::Quiet),
        watch: arguments.watch.then_some(WatchOptions {
            debounce: arguments.debounce.unwrap_or(settings.watch.debounce),
            poll: arguments.poll.unwrap_or(settings.watch.poll),
        }),
        has_warned: false,
    };
    let report = report(style);
    on_runtime(async || reseed::reseed(&settings, &options, &report, stop).await)
}

fn run_verify(arguments: &Verify, stop: &Stop) -> Result<(), CommandError> {
    log(0);
    let given = arguments.given();
    let settings = Settings::resolve(&gathered(&given)?, &environment(), &given.layer)?;
    let amount = match (arguments.sample, arguments.all) {
        (Some(count), _) => verify::Amount::Sample(count),
        (None, true) => verify::Amount::All,
        (None, false) => verify::Amount::Fitting,
    };
    let options = verify::VerifyOptions {
        target: arguments.target.clone(),
        amount,
        database: arguments.database,
        report: arguments.report.clone(),
    };
    let report = report(Style::Warnings);
    on_runtime(async || verify::verify(&options, &settings, &report, stop).await)
}

fn run_inspect(arguments: &Inspect, stop: &Stop) -> Result<(), CommandError> {
    let Inspect { target, tile, layer, geojson, json, config } = arguments;
    let settings = of_file(config.as_ref())?;
    let (target, tile, layer) = (target.clone(), tile.clone(), layer.clone());
    let options = inspect::InspectOptions { target, tile, layer, geojson: *geojson, json: *json };
    on_runtime(async || inspect::inspect(options, &settings, stop).await)
}

fn run_copy(arguments: &Copy, stop: &Stop) -> Result<(), CommandError> {
    log(0);
    let Copy { source, target, zoom, bbox, force, changed_out, public_url, config } = arguments;
    let given = Given { config: config.clone(), public_url: public_url.clone(), ..Given::default() };
    let settings = Settings::resolve(&gathered(&given)?, &environment(), &[])?;
    let (source, target) = (source.clone(), target.clone());
    let options = copy::CopyOptions {
        source,
        target,
        zoom: zoom.clone(),
        bbox: bbox.clone(),
        force: *force,
        changed_out: changed_out.clone(),
    };
    on_runtime(async || copy::copy(&options, &settings, stop).await)
}

fn run_track(arguments: &Track, stop: &Stop) -> Result<(), CommandError> {
    log(0);
    let (tracked, layers, needs_target) = match arguments {
        Track::Install(install) => (&install.tracked, &install.layer[..], false),
        Track::Status(status) => (&status.tracked, &status.layer[..], status.target.is_empty()),
        Track::Prune(prune) => (&prune.tracked, &[][..], prune.target.is_empty() && prune.older_than.is_none()),
        Track::Remove(remove) => (&remove.tracked, &[][..], false),
    };
    let settings = resolved(&Given { layer: layers.to_vec(), ..tracked.given() }, needs_target)?;
    match arguments {
        Track::Install(install) => {
            let options = track::InstallOptions {
                sql: install.sql,
                readers: install.reader.clone(),
                owner: install.owner.clone(),
            };
            on_runtime(async || track::install(&settings, &options, stop).await)
        }
        Track::Status(status) => {
            let report = report(Style::Warnings);
            on_runtime(async || backlog::status(&settings, &status.target, status.json, &report, stop).await)
        }
        Track::Prune(prune) => {
            on_runtime(async || backlog::prune(&settings, &prune.target, prune.older_than, stop).await)
        }
        Track::Remove(remove) => on_runtime(async || track::remove(&settings, remove.sql, stop).await),
    }
}

/// The settings of a command that needs no flags for them.
fn of_file(config: Option<&PathBuf>) -> Result<Settings, CommandError> {
    let given = Given { config: config.cloned(), ..Given::default() };
    Ok(Settings::resolve(&gathered(&given)?, &environment(), &[])?)
}

/// Runs a command to its end.
fn on_runtime(command: impl AsyncFnOnce() -> Result<(), CommandError>) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CommandError::Output)?;
    let done = runtime.block_on(command());
    // Nothing is left to wait for: an idle connection must not hold the end up.
    runtime.shutdown_background();
    done
}

fn run_publish(arguments: &Publish, stop: &Stop) -> Result<(), CommandError> {
    log(0);
    let settings = resolved(&arguments.given, true)?;
    let options = publish::PublishOptions { rollback: arguments.rollback, to: arguments.to.clone() };
    on_runtime(async || tokio::task::block_in_place(|| publish::publish(&settings, &options, stop)))
}

/// Logs go to standard error.
fn log(verbose: u8) {
    let level = match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        _ => tracing::Level::DEBUG,
    };
    // What libraries warn of, such as the AWS SDK of missing credentials, comes back as an error, which is reported with what to do.
    let libraries = if level == tracing::Level::DEBUG { LevelFilter::DEBUG } else { LevelFilter::OFF };
    let targets = Targets::new()
        .with_default(libraries)
        .with_target("oar_tiles", level)
        // A lost connection is reported where it matters; the pool would say it a second time.
        .with_target("deadpool.postgres", LevelFilter::OFF);
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
}
