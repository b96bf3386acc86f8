//! `serve`, `preview`, and `jobs`, which talks to a server.

use std::sync::Arc;

use http::Method;
use oar_tiles::cli::{Jobs, JobsServer, Preview, Serve, SettingFlags};
use oar_tiles::command::reseed::{ReseedOptions, WatchWriter};
use oar_tiles::command::serve::{OnceReady, ServedJob, ServedJobs};
use oar_tiles::command::{jobs, serve};
use oar_tiles::config::{ConfigError, JobSettings};
use oar_tiles::report::{Style, print, print_as_json, report, start_log};
use oar_tiles::run::{CommandError, Job};
use oar_tiles::serve::{
    ListenAddress, RereadSettings, ServeOptions, SettingsReader, TargetWriter, TilesetHeaders,
};
use oar_tiles::stop::Stop;
use serde_json::Value;

use super::given::{lists_tilesets, resolved, resolved_all, resolved_for, resolved_to_read};
use super::on_runtime;

pub(super) fn run_serve(arguments: &Serve, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let flags = arguments.given();
    let is_listed = arguments.target.is_none() && lists_tilesets(&flags)?;
    if arguments.check {
        return check_ready(&first_of(served_settings(arguments, &flags, is_listed, false)?)?.server);
    }
    let settings = served_settings(arguments, &flags, is_listed, true)?;
    let options = first_of(settings.clone())?.server;
    let reread: SettingsReader = Arc::new({
        let arguments = arguments.clone();
        move || reread(&arguments, &flags, is_listed).map_err(|error| error.to_string())
    });
    on_runtime(async || {
        let served = settings.into_iter().map(|settings| {
            let job = Job::new(settings, false, &report(Style::Warnings), stop)?;
            let how = job.settings.tileset.watch;
            let writer = options.writer.map(|writer| {
                let watch = WatchWriter::new(job.clone(), ReseedOptions::default(), how, writer);
                watch as Arc<dyn TargetWriter>
            });
            Ok(ServedJob { job, writer })
        });
        let mut served = served.collect::<Result<Vec<_>, CommandError>>()?;
        let served = match served.pop() {
            Some(one) if !is_listed => ServedJobs::One(Box::new(one)),
            last => ServedJobs::ByName(served.into_iter().chain(last).collect()),
        };
        serve::run(&served, &options, OnceReady::SayWhere, Some(reread), stop).await
    })
}

/// The settings of each tileset that is served: of all that are listed, or of one.
fn served_settings(
    arguments: &Serve,
    flags: &SettingFlags,
    is_listed: bool,
    names_output: bool,
) -> Result<Vec<JobSettings>, CommandError> {
    match &arguments.target {
        Some(target) if names_output => Ok(vec![resolved_for(flags, target, "serve")?]),
        None if is_listed => resolved_all(flags, names_output),
        _ => Ok(vec![resolved(flags, names_output, "serve")?]),
    }
}

/// The settings of the first tileset: those of the server are the same in all.
fn first_of(settings: Vec<JobSettings>) -> Result<JobSettings, CommandError> {
    let none = || ConfigError::NotOneTileset { what: "serve", names: Vec::new() };
    Ok(settings.into_iter().next().ok_or_else(none)?)
}

/// Reads the settings of a server again.
fn reread(arguments: &Serve, flags: &SettingFlags, is_listed: bool) -> Result<RereadSettings, CommandError> {
    let settings = served_settings(arguments, flags, is_listed, false)?;
    let headers = settings.iter().map(|settings| TilesetHeaders {
        tileset: settings.tileset.name.as_str().into(),
        headers: settings.server.tile_headers.clone(),
    });
    Ok(RereadSettings { headers: headers.collect(), options: first_of(settings)?.server })
}

/// Asks the admin listener of a server that runs with these settings whether it is ready.
fn check_ready(options: &ServeOptions) -> Result<(), CommandError> {
    let refused = |what: &str| {
        let what = format!("{what}: give --admin the address of the server's admin listener, such as 127.0.0.1:9180");
        Err(CommandError::Admin { url: "serve --check".to_owned(), what })
    };
    let url = match &options.admin {
        None => return refused("knows no address to ask"),
        Some(ListenAddress::Inherited(_)) => return refused("cannot ask a socket that systemd has opened"),
        // Nobody can be reached at "every address".
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
    let settings = preview_settings(arguments)?;
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

/// The settings of a preview. Only live tiles need those of the tileset that was drawn.
fn preview_settings(arguments: &Preview) -> Result<JobSettings, CommandError> {
    if arguments.live {
        resolved_for(&arguments.given(), &arguments.target, "preview --live")
    } else {
        resolved_to_read(&arguments.given(), &arguments.target)
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
