//! Parses, starts logging, runs the command, ends with an exit code.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use http::Method;
use oar_tiles::changes::WatchOptions;
use oar_tiles::cli::{
    Cli, Command, Copy, Inspect, Jobs, JobsServer, Preview, Publish, Purge, PurgeVerb, Reseed, Seed, Serve,
    SettingFlags, Track, TrackPrune, Verify,
};
use oar_tiles::command::reseed::{ReseedOptions, ReseedOutcome, WatchWriter};
use oar_tiles::command::serve::OnceReady;
use oar_tiles::command::track::InstallWork;
use oar_tiles::command::{config, copy, inspect, jobs, publish, purge, reseed, seed, serve, track, verify};
use oar_tiles::config::{CONFIG_VARIABLE, ConfigValues, JobSettings, Progress, Settings, gather};
use oar_tiles::exit::Exit;
use oar_tiles::postgis::Parts;
use oar_tiles::report::{
    Report, ReportFile, ReseedReport, RunMetrics, Style, grouped, print, print_as_json, print_json, print_script,
    render_backlog, render_contents, render_copy, render_delivered, render_dirty, render_features, render_findings,
    render_plan, render_planned_purges, render_purge_status, render_reseed, render_run, render_versions, report, say,
    say_error, start_log,
};
use oar_tiles::run::{CommandError, DirtyFilter, Job, TileList, TilesWanted, area, interrupted};
use oar_tiles::serve::{ServeOptions, SettingsReader, TargetWriter};
use oar_tiles::signals;
use oar_tiles::sink::MaxShrink;
use oar_tiles::stop::Stop;
use serde::Serialize;
use serde_json::Value;

/// After a load of `reseed --watch` glibc's allocator keeps most of what the load has taken; jemalloc gives it back within seconds
/// (docs/benchmarks.md, "Under load").
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
        Command::Purge(arguments) => run_purge(arguments, &stop),
        Command::Verify(arguments) => run_verify(arguments, &stop),
        Command::Inspect(arguments) => run_inspect(arguments, &stop),
        Command::Copy(arguments) => run_copy(arguments, &stop),
        Command::Serve(arguments) => run_serve(arguments, &stop),
        Command::Preview(arguments) => run_preview(arguments, &stop),
        Command::Track(arguments) => run_track(arguments, &stop),
        Command::Jobs(arguments) => run_jobs(arguments),
        Command::Config(flags) => run_config(flags),
    };
    match ended.map_err(|error| interrupted(error, &stop)) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            // A server that was asked to end did what it was asked.
            if matches!(error, CommandError::Stopped(_)) {
                say(&error.to_string());
            } else {
                say_error(&error);
            }
            Exit::of(error.kind(), stop.asked()).into()
        }
    }
}

fn environment() -> Parts {
    Parts::from_environment(|name| std::env::var(name).ok())
}

fn gathered(flags: &SettingFlags) -> Result<ConfigValues, CommandError> {
    let file = flags
        .config
        .clone()
        .or_else(|| std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from));
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Ok(gather(file.as_deref(), variables, flags.flags())?)
}

/// The settings of a command. One that `writes` a target needs its name.
fn resolved(flags: &SettingFlags, writes: bool) -> Result<JobSettings, CommandError> {
    let values = gathered(flags)?;
    let settings = Settings::resolve(&values, &environment(), &flags.layer)?.job()?;
    if writes {
        values.names_output()?;
    }
    Ok(settings)
}

/// The settings of a command whose target is an argument.
fn resolved_for(flags: &SettingFlags, target: &str) -> Result<JobSettings, CommandError> {
    let mut settings = resolved(flags, false)?;
    settings.tileset.output = PathBuf::from(target);
    Ok(settings)
}

/// How the run is shown.
fn style(settings: &JobSettings, quiet: bool) -> Style {
    match settings.run.progress {
        _ if quiet => Style::Quiet,
        Progress::Auto => Style::Auto,
        Progress::Bar => Style::Bar,
        Progress::Lines => Style::Lines,
        Progress::Json => Style::Json,
        Progress::None => Style::Warnings,
    }
}

/// What is shown at the end of a run: a table, and a file.
struct Closing {
    prints: bool,
    file: Option<ReportFile>,
}

impl Closing {
    /// Checks before the work that the file can be written.
    fn new(prints: bool, file: Option<&PathBuf>, output: &Path) -> Result<Closing, CommandError> {
        let file = file.map(|path| ReportFile::new(path, output)).transpose()?;
        Ok(Closing { prints, file })
    }

    fn show(&self, table: &str, value: &impl Serialize) -> Result<(), CommandError> {
        if self.prints {
            print(table)?;
        }
        self.file.iter().try_for_each(|file| file.write(value))?;
        Ok(())
    }
}

/// How a run ended, noted in the file of `--metrics` if there is one.
fn noted(metrics: &RunMetrics, ended: Result<(), CommandError>, stop: &Stop) -> Result<(), CommandError> {
    let exit = ended.as_ref().map_or_else(|error| Exit::of(error.kind(), stop.asked()), |()| Exit::Done);
    let written = metrics.end(exit as u8);
    ended?;
    Ok(written?)
}

fn run_seed(arguments: &Seed, stop: &Stop) -> Result<(), CommandError> {
    start_log(arguments.verbose);
    let mut settings = resolved(&arguments.given, !arguments.dry_run)?;
    if arguments.allow_shrink {
        settings.tileset.max_shrink = MaxShrink::ALL;
    }
    let style = style(&settings, arguments.quiet);
    let prints = !matches!(style, Style::Json | Style::Quiet);
    let closing = Closing::new(prints, arguments.report.as_ref(), &settings.tileset.output)?;
    let mut metrics = RunMetrics::begin(arguments.metrics.as_deref(), "seed", &settings.tileset.output)?;
    let ended = on_runtime(async || {
        let job = Job::new(settings, arguments.force, &report(style), stop)?;
        let job = job.with_changed_out(arguments.changed_out.as_deref())?;
        if arguments.dry_run {
            let plan = seed::plan_seed(&job).await?;
            return closing.show(&render_plan(&plan), &plan);
        }
        let done = seed::seed(&job).await?;
        closing.show(&render_run(&done), &done)?;
        metrics.wrote(done.written, done.bytes);
        job.purge_published(false).await?;
        seed::complete(&done)
    });
    noted(&metrics, ended, stop)
}

fn run_reseed(arguments: &Reseed, stop: &Stop) -> Result<(), CommandError> {
    start_log(arguments.verbose);
    let mut settings = resolved(&arguments.given, true)?;
    if arguments.allow_shrink {
        settings.tileset.max_shrink = MaxShrink::ALL;
    }
    let style = match style(&settings, arguments.quiet) {
        // A bar of a few milliseconds, again and again, is of no use.
        Style::Auto | Style::Bar | Style::Lines if arguments.watch => Style::Warnings,
        style => style,
    };
    let options = reseed_options(arguments)?;
    let prints = !matches!(style, Style::Json | Style::Quiet);
    let output = settings.tileset.output.clone();
    let closing = Closing::new(prints, arguments.report.as_ref(), &output)?;
    let how = WatchOptions {
        debounce: arguments.debounce.unwrap_or(settings.tileset.watch.debounce),
        poll: arguments.poll.unwrap_or(settings.tileset.watch.poll),
    };
    let mut metrics = RunMetrics::begin(arguments.metrics.as_deref(), "reseed", &settings.tileset.output)?;
    let ended = on_runtime(async || {
        let job = Job::new(settings, false, &report(style), stop)?;
        let job = job.with_changed_out(arguments.changed_out.as_deref())?;
        if arguments.watch {
            return reseed::watch(&job, &options, how, |outcome| {
                note_watched(&mut metrics, outcome)?;
                show_watched(outcome, prints)
            })
            .await;
        }
        let outcome = reseed::reseed(&job, &options).await?;
        match &outcome {
            ReseedOutcome::Nothing => {
                let nothing = ReseedReport::nothing(output.display().to_string());
                closing.show(&render_reseed(&nothing), &nothing)?;
            }
            ReseedOutcome::Planned(plan) => closing.show(&render_dirty(plan), plan)?,
            ReseedOutcome::Done(done) => closing.show(&render_reseed(done), done)?,
            ReseedOutcome::Seeded(done) => closing.show(&render_run(done), done)?,
        }
        match &outcome {
            ReseedOutcome::Nothing => metrics.wrote(0, 0),
            ReseedOutcome::Planned(_) => {}
            ReseedOutcome::Done(done) => metrics.wrote(done.written, done.bytes),
            ReseedOutcome::Seeded(done) => metrics.wrote(done.written, done.bytes),
        }
        if !arguments.dry_run {
            // Also where nothing changed: an earlier run may have left something.
            job.purge_published(false).await?;
        }
        outcome.complete()
    });
    noted(&metrics, ended, stop)
}

fn reseed_options(arguments: &Reseed) -> Result<ReseedOptions, CommandError> {
    let tiles = match (&arguments.tiles, &*arguments.area) {
        (Some(path), _) => {
            TilesWanted::List(TileList { path: path.clone(), parents: arguments.parents, children: arguments.children })
        }
        (None, []) => TilesWanted::Changed,
        (None, areas) => {
            TilesWanted::Area(areas.iter().map(|text| area(text)).collect::<Result<Vec<_>, _>>()?.concat())
        }
    };
    let filter = DirtyFilter {
        tiles,
        since: arguments.since.clone(),
        zoom: arguments.given.zoom.clone(),
        bbox: arguments.given.bbox.clone(),
        leaves_unrendered: false,
    };
    Ok(ReseedOptions {
        filter,
        dry_run: arguments.dry_run,
        or_seed: arguments.or_seed,
        dirty_out: arguments.dirty_out.clone(),
        has_warned: false,
        on_dirty: None,
        jobs: None,
    })
}

/// Notes one outcome of a watch in the file of `--metrics`.
fn note_watched(metrics: &mut RunMetrics, outcome: &ReseedOutcome) -> Result<(), CommandError> {
    let seconds = |parts: [f64; 3]| Duration::try_from_secs_f64(parts.iter().sum()).unwrap_or_default();
    match outcome {
        ReseedOutcome::Nothing => metrics.unchanged()?,
        ReseedOutcome::Planned(_) => {}
        ReseedOutcome::Done(done) => {
            let took = seconds([done.plan_seconds, done.render_seconds, done.finish_seconds]);
            metrics.published(done.written, done.bytes, took)?;
        }
        ReseedOutcome::Seeded(done) => {
            let took = seconds([done.plan_seconds, done.render_seconds, done.finish_seconds]);
            metrics.published(done.written, done.bytes, took)?;
        }
    }
    Ok(())
}

/// Shows one outcome of a watch.
fn show_watched(outcome: &ReseedOutcome, prints: bool) -> Result<(), CommandError> {
    match outcome {
        ReseedOutcome::Done(done) if prints => Ok(print(&render_reseed(done))?),
        ReseedOutcome::Seeded(done) if prints => Ok(print(&render_run(done))?),
        _ => Ok(()),
    }
}

fn run_publish(arguments: &Publish, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let settings = resolved(&arguments.given, true)?;
    let options = publish::PublishOptions { rollback: arguments.rollback, to: arguments.to.clone() };
    on_runtime(async || {
        let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
        let latest = tokio::task::block_in_place(|| publish::publish(&job, &options))?;
        print(&render_versions(&latest))?;
        job.purge_published(false).await.map(drop)
    })
}

fn run_purge(arguments: &Purge, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let (flags, target, is_json) = match &arguments.verb {
        Some(PurgeVerb::Status(status)) => (status.given(), &status.target, Some(status.json)),
        None => (arguments.what.given(), &arguments.what.target, None),
    };
    let settings = match target {
        Some(target) => resolved_for(&flags, target)?,
        None => resolved(&flags, true)?,
    };
    let what = &arguments.what;
    let request = purge::PurgeRequest { all: what.all, tiles: what.tiles.clone(), forget: what.forget };
    on_runtime(async || {
        let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
        match is_json {
            Some(true) => print_as_json(&purge::status(&job).await?)?,
            Some(false) => print(&render_purge_status(&purge::status(&job).await?))?,
            None if what.dry_run => print(&render_planned_purges(&purge::dry_run(&job, &request).await?))?,
            None => print(&render_delivered(&purge::purge(&job, &request).await?))?,
        }
        Ok(())
    })
}

fn run_verify(arguments: &Verify, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let settings = resolved_for(&arguments.given(), &arguments.target)?;
    let amount = match (arguments.sample, arguments.all) {
        (Some(count), _) => verify::TilesToCheck::Sample(count),
        (None, true) => verify::TilesToCheck::All,
        (None, false) => verify::TilesToCheck::Fitting,
    };
    let options = verify::VerifyOptions { amount, database: arguments.database };
    let closing = Closing::new(true, arguments.report.as_ref(), &settings.tileset.output)?;
    on_runtime(async || {
        let found = verify::verify(&Job::new(settings, false, &report(Style::Warnings), stop)?, &options).await?;
        closing.show(&render_findings(&found), &found)?;
        verify::sound(&found)
    })
}

fn run_inspect(arguments: &Inspect, stop: &Stop) -> Result<(), CommandError> {
    let Inspect { target, tile, layer, geojson, json, config } = arguments;
    let flags = SettingFlags { config: config.clone(), ..SettingFlags::default() };
    let settings = resolved_for(&flags, target)?;
    let options = inspect::InspectOptions { tile: tile.clone(), layer: layer.clone(), geojson: *geojson };
    on_runtime(async || {
        let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
        match inspect::inspect(&job, options).await? {
            inspect::Inspection::Summary(contents) if *json => print_as_json(&*contents)?,
            inspect::Inspection::Summary(contents) => print(&render_contents(&contents))?,
            inspect::Inspection::Features(features) => print(&render_features(&features))?,
            inspect::Inspection::GeoJson(text) => print_json(&text)?,
        }
        Ok(())
    })
}

fn run_serve(arguments: &Serve, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let flags = arguments.given();
    let settings = match &arguments.target {
        Some(target) => resolved_for(&flags, target)?,
        None => resolved(&flags, true)?,
    };
    let options = settings.server.clone();
    let reread: SettingsReader =
        Arc::new(move || resolved(&flags, false).map(|settings| settings.server).map_err(|error| error.to_string()));
    on_runtime(async || {
        let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
        let how = job.settings.tileset.watch;
        let writer = options.writer.map(|writer| {
            let watch = WatchWriter::new(job.clone(), ReseedOptions::default(), how, writer);
            watch as Arc<dyn TargetWriter>
        });
        serve::run(&job, &options, OnceReady::SayWhere, writer, Some(reread)).await
    })
}

fn run_preview(arguments: &Preview, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let settings = resolved_for(&arguments.given(), &arguments.target)?;
    if let Some(file) = &arguments.html {
        return on_runtime(async || {
            let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
            serve::write_page(&job, file, arguments.public_url.clone()).await
        });
    }
    let (live, shares) = (settings.server.live.clone().filter(|_| arguments.live), settings.server.shares);
    let preview = ServeOptions::of_preview(arguments.listen.clone(), arguments.assets.clone());
    let options = ServeOptions { live, shares, ..preview };
    let then = if arguments.open { OnceReady::OpenBrowser } else { OnceReady::SayWhere };
    on_runtime(async || {
        let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
        serve::run(&job, &options, then, None, None).await
    })
}

fn run_copy(arguments: &Copy, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let Copy { source, target, zoom, bbox, force, changed_out, public_url, config } = arguments;
    let flags = SettingFlags { config: config.clone(), public_url: public_url.clone(), ..SettingFlags::default() };
    let mut settings = resolved(&flags, false)?;
    // The CDNs of the configuration stand before its own output.
    if settings.tileset.output != Path::new(target) {
        settings.tileset.purges.clear();
    }
    settings.tileset.output = PathBuf::from(target);
    let options = copy::CopyOptions { source: source.clone(), zoom: zoom.clone(), bbox: bbox.clone() };
    on_runtime(async || {
        let job = Job::new(settings, *force, &report(Style::Warnings), stop)?;
        let job = job.with_changed_out(changed_out.as_deref())?;
        print(&render_copy(&copy::copy(&job, &options).await?))?;
        job.purge_published(false).await.map(drop)
    })
}

fn run_track(arguments: &Track, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let (tracked, layers, needs_target) = match arguments {
        Track::Install(install) => (&install.tracked, &install.layer[..], false),
        Track::Status(status) => (&status.tracked, &status.layer[..], status.target.is_empty()),
        Track::Prune(prune) => (&prune.tracked, &[][..], prune.target.is_empty() && prune.older_than.is_none()),
        Track::Remove(remove) => (&remove.tracked, &[][..], false),
    };
    let settings = resolved(&SettingFlags { layer: layers.to_vec(), ..tracked.given() }, needs_target)?;
    let shown = report(Style::Warnings);
    match arguments {
        Track::Install(install) => {
            let options = track::InstallOptions {
                sql: install.sql,
                readers: install.reader.clone(),
                owner: install.owner.clone(),
            };
            on_runtime(async || install_log(&settings, &options, stop).await)
        }
        Track::Status(status) => on_runtime(async || {
            let found = track::status(&settings, &status.target, &shown, stop).await?;
            if status.json {
                print_as_json(&found.backlog)?;
            } else {
                print(&render_backlog(&found.backlog))?;
            }
            found.warning().iter().for_each(|warning| say(&format!("warning: {warning}")));
            found.sound()
        }),
        Track::Prune(prune) => on_runtime(async || prune_log(&settings, prune, &shown, stop).await),
        Track::Remove(remove) if remove.sql => Ok(print_script(&track::removal(&settings.database))?),
        Track::Remove(_) => on_runtime(async || {
            let steps = lines(&track::remove(&settings.database, stop).await?);
            Ok(print(&format!("{steps}The change log is gone from {}.\n", settings.database.connect.server()))?)
        }),
    }
}

async fn install_log(settings: &JobSettings, options: &track::InstallOptions, stop: &Stop) -> Result<(), CommandError> {
    let done = track::install(settings, options, stop).await?;
    done.warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
    let server = &done.server;
    match &done.work {
        InstallWork::Sql(sql) => print_script(sql)?,
        InstallWork::Nothing => print(&format!("everything is installed in {server}\n"))?,
        InstallWork::Steps(steps) => print(&format!(
            "{}From now on changes are noted in {server}. Run oar-tiles seed once: a target has to be younger than this.\n",
            lines(steps)
        ))?,
    }
    Ok(())
}

async fn prune_log(
    settings: &JobSettings,
    arguments: &TrackPrune,
    shown: &std::sync::Arc<dyn Report>,
    stop: &Stop,
) -> Result<(), CommandError> {
    let track::PrunedLog { server, rows, left } =
        track::prune(settings, &arguments.target, arguments.older_than, shown, stop).await?;
    let (rows, left) = (grouped(rows), grouped(left));
    Ok(print(&format!("{rows} changed rows taken out of the change log of {server}, {left} left\n"))?)
}

fn lines(steps: &[String]) -> String {
    steps.iter().map(|step| format!("{step}\n")).collect()
}

fn run_jobs(arguments: &Jobs) -> Result<(), CommandError> {
    let server = |server: &JobsServer| jobs::AdminServer::new(&server.admin, server.token_file.as_deref());
    let shown = |job: &Value| print(&jobs::line(job));
    on_runtime(async || match arguments {
        Jobs::Submit(submit) => {
            let server = server(&submit.server)?;
            let wanted =
                jobs::written(submit.what.name(), submit.tiles.as_deref(), &submit.area, submit.zoom.as_ref())?;
            let job = server.ask(Method::POST, "/jobs", Some(&wanted)).await?;
            if submit.wait {
                let id = job["id"].as_u64().unwrap_or_default();
                return server.wait(id, |job| shown(job).unwrap_or_default()).await;
            }
            Ok(shown(&job)?)
        }
        Jobs::List(given) => {
            let all = server(given)?.ask(Method::GET, "/jobs", None).await?;
            all["jobs"].as_array().into_iter().flatten().try_for_each(|job| Ok(shown(job)?))
        }
        Jobs::Show(one) => {
            let path = format!("/jobs/{}", one.id);
            Ok(print_as_json(&server(&one.server)?.ask(Method::GET, &path, None).await?)?)
        }
        Jobs::Cancel(one) => {
            let path = format!("/jobs/{}", one.id);
            Ok(shown(&server(&one.server)?.ask(Method::DELETE, &path, None).await?)?)
        }
    })
}

fn run_config(flags: &SettingFlags) -> Result<(), CommandError> {
    let values = gathered(flags)?;
    Ok(print(&config::config(&values, &environment(), &flags.layer)?)?)
}

/// Runs a command to its end.
fn on_runtime(command: impl AsyncFnOnce() -> Result<(), CommandError>) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CommandError::Output)?;
    let done = runtime.block_on(command());
    // Nothing is left to wait for: an idle connection must not hold the end up.
    runtime.shutdown_background();
    done
}
