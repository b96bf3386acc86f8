//! `oar-tiles track`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand};

use super::settings::{resolved_all, resolved_to_draw};
use super::{SettingFlags, on_runtime};
use crate::change_log::InstallKind;
use crate::config::Settings;
use crate::report::{
    Report, Style, grouped, print, print_result, print_script, render_backlog, report, say_warning, start_log,
};
use crate::run::track::InstallWork;
use crate::run::{CommandError, track};
use crate::stop::Stop;
use crate::suggested::{SEED, TRACK_STATUS};

/// `oar-tiles track`.
#[derive(Debug, Subcommand)]
pub(crate) enum Track {
    /// Create the change log, and triggers on the tables that the layers read, which fill it
    Install(TrackInstall),
    /// Show what the change log holds, and how far targets are behind it
    Status(TrackStatus),
    /// Delete from the change log what all targets have seen
    Prune(TrackPrune),
    /// Remove the triggers and the change log from the database
    Remove(TrackRemove),
}

/// Where the change log is, and what is tracked.
#[derive(Debug, Args)]
pub(crate) struct Tracked {
    /// Configuration file [env: OAR_TILES_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Database, as a URL or a key=value string [env: DATABASE_URL, PG*]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
}

/// `oar-tiles track install`.
#[derive(Debug, Args)]
pub(crate) struct TrackInstall {
    /// Where the change log is, and what is tracked.
    #[command(flatten)]
    pub tracked: Tracked,
    /// Track only the tables of this layer; repeat the flag for several layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// Allow this role to read the change log, as reseed does; repeat the flag for several roles
    #[arg(long, value_name = "ROLE", action = ArgAction::Append)]
    pub reader: Vec<String>,
    /// Role that the triggers run as [default: a new role that can only append to the change log]
    #[arg(long, value_name = "ROLE")]
    pub owner: Option<String>,
    /// Print the statements, for psql; run nothing
    #[arg(long, conflicts_with = "quiet")]
    pub sql: bool,
    /// Print warnings and errors only
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles track status`.
#[derive(Debug, Args)]
pub(crate) struct TrackStatus {
    /// Where the change log is, and what is tracked.
    #[command(flatten)]
    pub tracked: Tracked,
    /// Targets to compare with the log [default: the output in the configuration]
    pub target: Vec<String>,
    /// Look only at this layer, if the targets were seeded with the same --layer; repeat the flag for several layers
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub layer: Vec<String>,
    /// Only this tileset, if the configuration has several; repeat the flag for several tilesets [default: all]
    #[arg(long, value_name = "NAME", action = ArgAction::Append)]
    pub tileset: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `oar-tiles track prune`.
#[derive(Debug, Args)]
pub(crate) struct TrackPrune {
    /// Where the change log is.
    #[command(flatten)]
    pub tracked: Tracked,
    /// All targets that are kept up to date from this log [default: the output in the configuration]
    pub target: Vec<String>,
    /// Also delete what is older than this, seen or not: a target that has not seen it then needs a full seed
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) older_than: Option<Duration>,
    /// Print warnings and errors only
    #[arg(long, short)]
    pub quiet: bool,
}

/// `oar-tiles track remove`.
#[derive(Debug, Args)]
pub(crate) struct TrackRemove {
    /// Where the change log is.
    #[command(flatten)]
    pub tracked: Tracked,
    /// Print the statements, for psql; run nothing
    #[arg(long, conflicts_with = "quiet")]
    pub sql: bool,
    /// Print warnings and errors only
    #[arg(long, short)]
    pub quiet: bool,
}

pub(crate) fn run_track(arguments: &Track, stop: &Stop) -> Result<(), CommandError> {
    start_log(0);
    let (tracked, layers, tilesets, needs_target) = match arguments {
        Track::Install(install) => (&install.tracked, &install.layer[..], &[][..], false),
        Track::Status(status) => (&status.tracked, &status.layer[..], &status.tileset[..], status.target.is_empty()),
        Track::Prune(prune) => {
            (&prune.tracked, &[][..], &[][..], prune.target.is_empty() && prune.older_than.is_none())
        }
        Track::Remove(remove) => (&remove.tracked, &[][..], &[][..], false),
    };
    let flags = SettingFlags {
        config: tracked.config.clone(),
        database_url: tracked.database_url.clone(),
        layer: layers.to_vec(),
        tileset: tilesets.to_vec(),
        ..SettingFlags::default()
    };
    let tilesets = match arguments {
        Track::Install(_) => resolved_to_draw(&flags, needs_target)?,
        Track::Status(_) | Track::Prune(_) | Track::Remove(_) => resolved_all(&flags, needs_target)?,
    };
    // There is one change log for all tilesets.
    let Some(settings) = Settings::with_all_layers(tilesets.clone()) else { return Ok(()) };
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
                let Some(settings) = Settings::with_all_layers(layers) else { return Ok(()) };
                install_log(&settings, &options, install.quiet, stop).await
            })
        }
        Track::Status(status) => on_runtime(async || {
            let found = Box::pin(track::status(&tilesets, &status.target, &shown, stop)).await?;
            print_result(status.json, &found.backlog, render_backlog)?;
            found.warning().iter().for_each(|warning| say_warning(warning));
            found.check_sound()
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

async fn install_log(
    settings: &Settings,
    options: &track::InstallOptions,
    quiet: bool,
    stop: &Stop,
) -> Result<(), CommandError> {
    let done = track::install(settings, options, stop).await?;
    done.warnings.iter().for_each(|warning| say_warning(warning));
    let server = &done.server;
    match &done.work {
        InstallWork::Sql(sql) => print_script(sql)?,
        _ if quiet => {}
        InstallWork::Nothing => print(&format!("everything is installed in {server}\n"))?,
        InstallWork::Steps(kind, steps) => {
            let next = match kind {
                InstallKind::First => format!(
                    "From now on changes are noted in {server}. Run {SEED} once: a target has to be younger than this.\n"
                ),
                InstallKind::NotesMore => format!(
                    "From now on these changes are noted in {server}, too. {TRACK_STATUS} names the targets that need a seed: those that draw what was not noted until now\n"
                ),
                InstallKind::NotesTheSame => String::new(),
            };
            print(&format!("{}{next}", lines(steps)))?;
        }
    }
    Ok(())
}

async fn prune_log(
    settings: &Settings,
    tilesets: &[Settings],
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
