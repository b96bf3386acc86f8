//! `serve`, `preview`, and `jobs`, which sends requests to a server.

use std::sync::Arc;

use http::Method;
use oar_tiles::cli::{Jobs, JobsServer, Preview, Serve, SettingFlags};
use oar_tiles::command::reseed::{FamilyWatchWriter, ReseedOptions, WatchWriter};
use oar_tiles::command::serve::{NamedJobs, OnceReady, ServedFamily, ServedJob, ServedJobs};
use oar_tiles::command::{jobs, serve};
use oar_tiles::config::{ConfigError, JobSettings};
use oar_tiles::report::{Style, print, print_as_json, report, start_log};
use oar_tiles::run::{CommandError, Family, Job};
use oar_tiles::serve::{
    FamilyWriter, ListenAddress, RereadSettings, ServeOptions, SettingsReader, TargetWriter, TilesetHeaders,
};
use oar_tiles::stop::Stop;
use serde_json::Value;

use super::drafting::drafted_catalogue;
use super::given::{
    has_file, lists_tilesets, resolved, resolved_all, resolved_all_over, resolved_for, resolved_to_read, says_nothing,
};
use super::on_runtime;
use super::variants::not_for_variants;

/// What a server serves.
#[derive(Clone)]
enum ServedKind {
    /// One tileset, at the root of all paths.
    One,
    /// The tilesets that the configuration lists.
    Listed,
    /// Everything in the database, by a draft.
    Discovered(String),
}

impl ServedKind {
    fn of(arguments: &Serve, flags: &SettingFlags, stop: &Stop) -> Result<ServedKind, CommandError> {
        if arguments.target.is_some() {
            return Ok(ServedKind::One);
        }
        if lists_tilesets(flags)? {
            return Ok(ServedKind::Listed);
        }
        let server = if says_nothing(flags)? { Some(resolved(flags, false, "serve")?.server) } else { None };
        // A writer needs a target.
        match server {
            Some(server) if server.live.is_some() && server.writer.is_none() && !arguments.check => {
                Ok(ServedKind::Discovered(drafted_catalogue(flags, stop)?))
            }
            _ if has_variants(flags)? => Ok(ServedKind::Listed),
            _ => Ok(ServedKind::One),
        }
    }

    /// The settings of each tileset.
    fn settings(
        &self,
        arguments: &Serve,
        flags: &SettingFlags,
        names_output: bool,
    ) -> Result<Vec<JobSettings>, CommandError> {
        match (self, &arguments.target) {
            (ServedKind::Listed, _) => resolved_all(flags, names_output),
            (ServedKind::Discovered(draft), _) => resolved_all_over(flags, draft),
            (ServedKind::One, Some(target)) if names_output => Ok(vec![resolved_for(flags, target, "serve")?]),
            (ServedKind::One, _) => Ok(vec![resolved(flags, names_output, "serve")?]),
        }
    }
}

pub(super) fn run_serve(arguments: &Serve, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let flags = arguments.given();
    let kind = ServedKind::of(arguments, &flags, stop)?;
    if arguments.check {
        return check_ready(&first_of(kind.settings(arguments, &flags, false)?)?.server);
    }
    let settings = kind.settings(arguments, &flags, true)?;
    let options = first_of(settings.clone())?.server;
    let reread: SettingsReader = Arc::new({
        let (arguments, kind) = (arguments.clone(), kind.clone());
        move || reread(&arguments, &flags, &kind).map_err(|error| error.to_string())
    });
    on_runtime(async || {
        let (mut served, mut families) = (Vec::new(), Vec::new());
        for settings in settings {
            if let Some(family) = Family::of(&settings).filter(|_| matches!(kind, ServedKind::Listed)) {
                let (how, report) = (settings.tileset.watch, report(Style::Warnings));
                let writer = options.writer.map(|writer| {
                    let watch = FamilyWatchWriter::new(family.clone(), how, writer, &report);
                    watch as Arc<dyn FamilyWriter>
                });
                let all = family.all()?;
                families.push(ServedFamily { family, writer });
                // The writer of the variants also writes the tileset without conditions.
                if let Some(all) = all {
                    served.push(ServedJob::read_only(Job::new(all, false, &report, stop)?));
                }
                continue;
            }
            if options.writer.is_some() {
                not_for_variants(
                    &settings,
                    "serve TARGET --writer",
                    "leave TARGET out, so that all variants are written and served",
                )?;
            }
            let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
            if let ServedKind::Discovered(_) = kind {
                served.push(ServedJob::live_only(job));
                continue;
            }
            let how = job.settings.tileset.watch;
            let writer = options.writer.map(|writer| {
                let watch = WatchWriter::new(job.clone(), ReseedOptions::default(), how, writer);
                watch as Arc<dyn TargetWriter>
            });
            served.push(ServedJob { writer, ..ServedJob::read_only(job) });
        }
        let served = match (&kind, served.pop()) {
            (ServedKind::One, Some(one)) => ServedJobs::One(Box::new(one)),
            (_, last) => ServedJobs::ByName(NamedJobs { tilesets: served.into_iter().chain(last).collect(), families }),
        };
        serve::run(&served, &options, OnceReady::SayWhere, Some(reread), stop).await
    })
}

/// True if a chosen tileset has variants, so that it is served below its name.
fn has_variants(flags: &SettingFlags) -> Result<bool, CommandError> {
    Ok(resolved_all(flags, false)?.iter().any(|settings| Family::of(settings).is_some()))
}

/// The settings of the first tileset. The settings of the server are the same in all.
fn first_of(settings: Vec<JobSettings>) -> Result<JobSettings, CommandError> {
    let none = || ConfigError::NotOneTileset { what: "serve", names: Vec::new() };
    Ok(settings.into_iter().next().ok_or_else(none)?)
}

/// Reads the settings of a server again.
fn reread(arguments: &Serve, flags: &SettingFlags, kind: &ServedKind) -> Result<RereadSettings, CommandError> {
    let settings = kind.settings(arguments, flags, false)?;
    let headers = settings.iter().map(|settings| TilesetHeaders {
        tileset: settings.tileset.name.as_str().into(),
        headers: settings.server.tile_headers.clone(),
    });
    Ok(RereadSettings { headers: headers.collect(), options: first_of(settings)?.server })
}

/// Asks the admin listener of the server with these settings whether it is ready.
fn check_ready(options: &ServeOptions) -> Result<(), CommandError> {
    let refused = |what: &str| {
        let what = format!("{what}: give --admin the address of the server's admin listener, such as 127.0.0.1:9180");
        Err(CommandError::Admin { url: "serve --check".to_owned(), what })
    };
    let url = match &options.admin {
        None => return refused("knows no address to ask"),
        Some(ListenAddress::Inherited(_)) => return refused("cannot ask a socket that systemd has opened"),
        // The unspecified address stands for every address, and cannot be connected to.
        Some(ListenAddress::Tcp(address)) if address.ip().is_unspecified() => {
            let loopback = if address.is_ipv4() { "127.0.0.1" } else { "[::1]" };
            format!("http://{loopback}:{}", address.port())
        }
        Some(ListenAddress::Tcp(address)) => format!("http://{address}"),
        Some(socket @ ListenAddress::Unix(_)) => socket.to_string(),
    };
    let server = jobs::AdminServer::new(&url, None)?;
    on_runtime(async || server.ask(Method::GET, "/readyz", None).await).map_err(|error| match error {
        CommandError::Admin { url, what } => CommandError::NotReady(format!("{url} {what}")),
        other => other,
    })?;
    Ok(print("ready\n")?)
}

pub(super) fn run_preview(arguments: &Preview, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let Some(target) = &arguments.target else { return preview_database(arguments, stop) };
    let settings = preview_settings(arguments, target)?;
    if let Some(file) = &arguments.html {
        return on_runtime(async || {
            let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
            serve::write_page(&job, file, arguments.public_url.clone()).await
        });
    }
    if let Some(file) = &arguments.style {
        return on_runtime(async || {
            let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
            serve::write_style(&job, file, arguments.public_url.clone(), arguments.label.as_deref()).await
        });
    }
    let (live, shares) = (settings.server.live.clone().filter(|_| arguments.live), settings.server.shares);
    let preview = ServeOptions::of_preview(arguments.listen.clone(), arguments.assets.clone());
    let then = if arguments.open { OnceReady::OpenBrowser } else { OnceReady::SayWhere };
    show(settings, &ServeOptions { live, shares, ..preview }, then, stop)
}

/// Shows what the configuration draws or, without a configuration, everything in the database. There is no target.
fn preview_database(arguments: &Preview, stop: &Stop) -> Result<(), CommandError> {
    let flags = arguments.given();
    let settings = if has_file(&flags) {
        resolved_all(&flags, false)?
    } else {
        resolved_all_over(&flags, &drafted_catalogue(&flags, stop)?)?
    };
    let of_first = first_of(settings.clone())?.server;
    let preview = ServeOptions::of_preview(arguments.listen.clone(), arguments.assets.clone());
    let options = ServeOptions { live: of_first.live, shares: of_first.shares, ..preview };
    let then = if arguments.open { OnceReady::OpenBrowser } else { OnceReady::SayWhere };
    on_runtime(async || {
        let job = |settings| Job::new(settings, false, &report(Style::Warnings), stop).map(ServedJob::live_only);
        let tilesets = settings.into_iter().map(job).collect::<Result<_, _>>()?;
        let served = ServedJobs::ByName(NamedJobs { tilesets, families: Vec::new() });
        serve::run(&served, &options, then, None, stop).await
    })
}

/// Shows the target of a run that has ended, on any free port of this machine.
pub(super) fn preview(settings: JobSettings, stop: &Stop) -> Result<(), CommandError> {
    let options = ServeOptions::of_preview(ListenAddress::ANY_LOCAL, None);
    show(settings, &options, OnceReady::SayWhere, stop)
}

fn show(settings: JobSettings, options: &ServeOptions, then: OnceReady, stop: &Stop) -> Result<(), CommandError> {
    on_runtime(async || {
        let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
        let served = ServedJobs::One(Box::new(ServedJob::read_only(job)));
        serve::run(&served, options, then, None, stop).await
    })
}

/// The settings of a preview. Only live tiles need the settings of the tileset that the target holds.
fn preview_settings(arguments: &Preview, target: &str) -> Result<JobSettings, CommandError> {
    if arguments.live {
        resolved_for(&arguments.given(), target, "preview --live")
    } else {
        resolved_to_read(&arguments.given(), target)
    }
}

pub(super) fn run_jobs(arguments: &Jobs) -> Result<(), CommandError> {
    let server = |given: &JobsServer| {
        let server = jobs::AdminServer::new(&given.admin, given.token_file.as_deref())?;
        Ok::<_, CommandError>(match &given.tileset {
            Some(name) => server.for_tileset(name),
            None => server,
        })
    };
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
