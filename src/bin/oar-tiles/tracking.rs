//! `track`: the change log; `doctor`: what may prevent a run.

use std::sync::Arc;

use oar_tiles::cli::{Doctor, SettingFlags, Track, TrackPrune};
use oar_tiles::command::track::InstallWork;
use oar_tiles::command::{doctor, track};
use oar_tiles::config::{ConfigError, JobSettings};
use oar_tiles::report::{
    Report, Style, grouped, print, print_document, print_script, render_backlog, render_checkup, report, say_warning,
    start_log,
};
use oar_tiles::run::{CommandError, Family, Job};
use oar_tiles::stop::Stop;
use oar_tiles::suggested::SEED;

use super::given::{names_output, resolved_all, resolved_for};
use super::on_runtime;
use super::tilesets::for_each;

pub(super) fn run_track(arguments: &Track, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let (tracked, layers, tilesets, needs_target) = match arguments {
        Track::Install(install) => (&install.tracked, &install.layer[..], &[][..], false),
        Track::Status(status) => (&status.tracked, &status.layer[..], &status.tileset[..], status.target.is_empty()),
        Track::Prune(prune) => {
            (&prune.tracked, &[][..], &[][..], prune.target.is_empty() && prune.older_than.is_none())
        }
        Track::Remove(remove) => (&remove.tracked, &[][..], &[][..], false),
    };
    let flags = SettingFlags { layer: layers.to_vec(), tileset: tilesets.to_vec(), ..tracked.given() };
    let tilesets = resolved_all(&flags, needs_target)?;
    // There is one change log for all tilesets.
    let Some(settings) = JobSettings::with_all_layers(tilesets.clone()) else { return Ok(()) };
    let shown = report(Style::Warnings);
    match arguments {
        Track::Install(install) => {
            let options = track::InstallOptions {
                sql: install.sql,
                readers: install.reader.clone(),
                owner: install.owner.clone(),
            };
            on_runtime(async || {
                let mut layers = Vec::new();
                for settings in &tilesets {
                    layers.append(&mut settings.tracked(&shown, stop).await?);
                }
                let Some(settings) = JobSettings::with_all_layers(layers) else { return Ok(()) };
                install_log(&settings, &options, install.quiet, stop).await
            })
        }
        Track::Status(status) => on_runtime(async || {
            let found = track::status(&tilesets, &status.target, &shown, stop).await?;
            if status.json {
                print_document(&found.backlog)?;
            } else {
                print(&render_backlog(&found.backlog))?;
            }
            found.warning().iter().for_each(|warning| say_warning(warning));
            found.sound()
        }),
        Track::Prune(prune) => on_runtime(async || prune_log(&settings, &tilesets, prune, &shown, stop).await),
        Track::Remove(remove) if remove.sql => Ok(print_script(&track::removal(&settings.database))?),
        Track::Remove(remove) => on_runtime(async || {
            let steps = lines(&track::remove(&settings.database, stop).await?);
            if remove.quiet {
                return Ok(());
            }
            Ok(print(&format!("{steps}The change log is gone from {}.\n", settings.database.connect.server()))?)
        }),
    }
}

pub(super) fn run_doctor(arguments: &Doctor, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let flags = arguments.given();
    let tilesets = match &arguments.target {
        Some(target) => vec![resolved_for(&flags, target, "doctor")?],
        None => resolved_all(&flags, false)?,
    };
    if arguments.json && tilesets.len() > 1 {
        let names = tilesets.into_iter().map(|settings| settings.tileset.name).collect();
        return Err(ConfigError::NotOneTileset { what: "--json", names }.into());
    }
    let options = doctor::DoctorOptions {
        transaction_age: arguments.transaction_age,
        clock_difference: arguments.clock_difference,
        has_target: arguments.target.is_some() || names_output(&flags)?,
        url: arguments.url.clone(),
    };
    let examine = async |settings: JobSettings| {
        let report = report(Style::Nothing);
        let job = match Family::of(&settings) {
            Some(family) => {
                let output = arguments.target.is_some().then_some(&*settings.tileset.output);
                Box::pin(family.one_target(output, &report, stop)).await?
            }
            None => Job::new(settings, false, &report, stop)?,
        };
        let checkup = doctor::doctor(&job, &options).await?;
        if arguments.json {
            print_document(&checkup)?;
        } else {
            print(&render_checkup(&checkup))?;
        }
        doctor::healthy(&checkup)
    };
    on_runtime(async || for_each(tilesets, false, stop, examine).await)
}

async fn install_log(
    settings: &JobSettings,
    options: &track::InstallOptions,
    quiet: bool,
    stop: &Stop,
) -> Result<(), CommandError> {
    let done = track::install(settings, options, stop).await?;
    done.warnings.iter().for_each(|warning| say_warning(warning));
    let server = &done.server;
    match &done.work {
        InstallWork::Sql(sql) => print_script(sql)?,
        InstallWork::Nothing | InstallWork::Steps(_) if quiet => {}
        InstallWork::Nothing => print(&format!("everything is installed in {server}\n"))?,
        InstallWork::Steps(steps) => print(&format!(
            "{}From now on changes are noted in {server}. Run {SEED} once: a target has to be younger than this.\n",
            lines(steps)
        ))?,
    }
    Ok(())
}

async fn prune_log(
    settings: &JobSettings,
    tilesets: &[JobSettings],
    arguments: &TrackPrune,
    shown: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<(), CommandError> {
    // With `older_than` alone, no target is read.
    let targets = match (arguments.older_than, &arguments.target[..]) {
        (Some(_), []) => Vec::new(),
        (_, named) => track::settings_of(tilesets, named),
    };
    let track::PrunedLog { server, rows, left, kept_by } =
        track::prune(&settings.database, &targets, arguments.older_than, shown, stop).await?;
    if arguments.quiet {
        return Ok(());
    }
    let why = match kept_by {
        _ if left == 0 => String::new(),
        None => ", which not every target has seen yet (track status)".to_owned(),
        Some(transaction) => format!(
            ", because {transaction} is open: no target can have seen all that was committed since it began. Reseed and prune again when it has ended"
        ),
    };
    let space = if rows == 0 {
        ""
    } else {
        "PostgreSQL uses their disk space again after a vacuum of the log's tables, which autovacuum does by itself\n"
    };
    let (rows, left) = (grouped(rows), grouped(left));
    Ok(print(&format!("{rows} changed rows taken out of the change log of {server}, {left} left{why}\n{space}"))?)
}

fn lines(steps: &[String]) -> String {
    steps.iter().map(|step| format!("{step}\n")).collect()
}
