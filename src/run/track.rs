//! `oar-tiles track`: the change log, and the triggers that fill it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::dirty::{Look, Work};
use super::fitted_filters::fitted_filters;
use super::identity::LogIdentity;
use super::target::TargetState;
use super::{CommandError, DirtyFilter, Family, TilesetRun, blocking_read, restarting};
use crate::change_log;
use crate::change_log::{Cursor, InstallKind, InstallRequest, RequestCondition, TrackedLayer};
use crate::config::{DatabaseSettings, LayerCondition, Settings};
use crate::error::ErrorKind;
use crate::manifest::Witness;
use crate::postgis::{Layer, probe, refresh_views};
use crate::report::{Backlog, BehindTarget, LoggedTable, Report};
use crate::stop::Stop;

/// The options of `track install`, in addition to the settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct InstallOptions {
    /// Print the statements and run nothing.
    pub sql: bool,
    /// Roles that may read the log.
    pub readers: Vec<String>,
    /// The role that owns the triggers' functions, which run with its rights.
    pub owner: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct InstallOutcome {
    pub server: String,
    pub warnings: Vec<String>,
    pub work: InstallWork,
}

/// The steps of an installation.
#[derive(Debug, Clone)]
pub(crate) enum InstallWork {
    /// Nothing was done: these statements are to be run with psql.
    Sql(String),
    /// Nothing was done, because everything was there.
    Nothing,
    /// These steps were done.
    Steps(InstallKind, Vec<String>),
}

/// Runs `track install`, in one transaction.
pub(crate) async fn install(
    settings: &Settings,
    options: &InstallOptions,
    stop: &Stop,
) -> Result<InstallOutcome, CommandError> {
    let database = settings.database.open(stop)?;
    let layers = &settings.tileset.layers;
    // A materialized view that was never filled cannot be probed.
    if !options.sql {
        refresh_views(&database, &layers.iter().collect::<Vec<_>>()).await?;
    }
    let snapshot = database.snapshot().await?;
    let probed = probe(&snapshot, layers).await?;
    let request =
        InstallRequest { readers: &options.readers, owner: options.owner.as_deref(), is_printed: options.sql };
    let filters = fitted_filters(&snapshot, &probed.layers, &settings.tileset.filters).await?;
    // It holds locks, for which the install would wait.
    drop(snapshot);
    let conditions = |layer: &Layer| {
        let condition = |LayerCondition { sql, values, is_tracked, .. }| RequestCondition { sql, values, is_tracked };
        filters.of_layer(layer).into_iter().map(condition).collect()
    };
    let tracked = |layer: &Arc<Layer>| TrackedLayer { layer: Arc::clone(layer), conditions: conditions(layer) };
    let tracked: Vec<TrackedLayer> = probed.layers.iter().map(tracked).collect();
    let installation = change_log::plan_install(&database, &settings.database.changes, &tracked, request).await?;
    let warnings = probed.superuser.iter().chain(&installation.warnings).cloned().collect();
    let work = if options.sql {
        InstallWork::Sql(installation.sql)
    } else if let Some(kind) = installation.kind {
        change_log::run(&database, &installation).await?;
        InstallWork::Steps(kind, installation.steps)
    } else {
        InstallWork::Nothing
    };
    Ok(InstallOutcome { server: database.server().to_string(), warnings, work })
}

/// The statements that remove the triggers and the change log.
pub(crate) fn removal(settings: &DatabaseSettings) -> String {
    change_log::removal(&settings.changes.schema)
}

/// Runs `track remove`, in one transaction; returns its steps.
pub(crate) async fn remove(settings: &DatabaseSettings, stop: &Stop) -> Result<Vec<String>, CommandError> {
    let database = settings.open(stop)?;
    Ok(change_log::remove(&database, &settings.changes.schema).await?)
}

// `oar-tiles track status` and `track prune`: report the content of the change log and how far targets are behind it,
// and delete what all targets have seen.

/// The change log and its targets.
#[derive(Debug)]
pub(crate) struct LogStatus {
    /// The content of the log, and how far targets are behind it.
    pub backlog: Backlog,
    /// The error if the triggers are not safe, or fail.
    safety: Result<(), change_log::ChangeLogError>,
}

impl LogStatus {
    /// The status without any tileset.
    const fn empty() -> LogStatus {
        let backlog = Backlog { tables: Vec::new(), targets: Vec::new(), no_notifications: None };
        LogStatus { backlog, safety: Ok(()) }
    }

    /// The warning about triggers that are not safe, if a more important error is reported instead.
    pub(crate) fn warning(&self) -> Option<String> {
        self.safety.as_ref().err().filter(|_| self.backlog.targets_to_seed() > 0).map(ToString::to_string)
    }

    /// Fails if a target needs a seed, or the triggers can do more than append to the log.
    pub(crate) fn check_sound(self) -> Result<(), CommandError> {
        match self.backlog.targets_to_seed() {
            0 => Ok(self.safety?),
            targets => Err(CommandError::NeedSeeds { targets, of: self.backlog.targets.len() }),
        }
    }
}

/// Runs `track status`. Fails if there is no log, it cannot be read, or other roles can alter it.
pub(crate) async fn status(
    tilesets: &[Settings],
    targets: &[String],
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<LogStatus, CommandError> {
    let Some(Settings { database, .. }) = tilesets.first() else { return Ok(LogStatus::empty()) };
    let look = async |_restarts| {
        let schema = &database.changes.schema;
        let database = database.open(stop)?;
        let snapshot = database.snapshot().await?;
        let safety = match change_log::check_safety(&database, &snapshot, schema).await {
            Err(error)
                if !matches!(
                    error,
                    change_log::ChangeLogError::Repairable { .. } | change_log::ChangeLogError::LacksRights { .. }
                ) =>
            {
                return Err(error.into());
            }
            safety => safety,
        };
        let logged = change_log::backlogs(&database, &snapshot, schema).await?;
        Ok((safety, logged, change_log::notify_obstacle(&snapshot).await?))
    };
    let (safety, logged, quiet) = restarting(database, report, stop, look).await?;
    let mut behind = Vec::new();
    for settings in settings_of(tilesets, targets) {
        let settings = match Family::of(&settings) {
            None => settings,
            Some(family) => {
                behind.push(behind_family(&family, report, stop).await?);
                match family.all()? {
                    Some(all) => all,
                    None => continue,
                }
            }
        };
        let run = TilesetRun::new(settings, false, report, stop)?;
        let attempt = async |_restarts| Box::pin(behind_target(&run)).await;
        behind.push(match restarting(database, report, stop, attempt).await {
            Ok(behind) => behind,
            Err(error) if error.kind() == ErrorKind::NeedsSeed => BehindTarget {
                target: run.target.to_string(),
                needs_seed: Some(error.to_string()),
                purges: run.purge_status().await?,
                ..BehindTarget::default()
            },
            Err(error) => return Err(error),
        });
    }
    let table =
        |one: change_log::WatchBacklog| LoggedTable { table: one.table, rows: one.rows, oldest_seconds: one.oldest };
    let backlog = Backlog {
        tables: logged.into_iter().map(table).collect(),
        targets: behind,
        no_notifications: quiet.map(|quiet| quiet.to_string()),
    };
    Ok(LogStatus { backlog, safety })
}

/// How far the variants of a tileset are behind. One variant stands for all, because the log has the places of all
/// changes, whichever variant they concern.
async fn behind_family(family: &Family, report: &Arc<dyn Report>, stop: &Stop) -> Result<BehindTarget, CommandError> {
    let seen = async {
        let nothing = BehindTarget { dirty: Some(0), ..BehindTarget::default() };
        let Some(run) = family.sample(report, stop).await? else { return Ok(nothing) };
        let attempt = async |_restarts| Box::pin(behind_target(&run)).await;
        restarting(&family.settings().database, report, stop, attempt).await
    };
    let behind = match seen.await {
        Err(error) if error.kind() == ErrorKind::NeedsSeed => {
            BehindTarget { needs_seed: Some(error.to_string()), ..BehindTarget::default() }
        }
        seen => seen?,
    };
    Ok(BehindTarget { target: family.output(), ..behind })
}

async fn behind_target(run: &TilesetRun) -> Result<BehindTarget, CommandError> {
    let filter = DirtyFilter::default();
    let (reasons, dirty) = match Look::begin(run, &filter, false).await?.work(None).await? {
        Work::Nothing => (Vec::new(), Some(0)),
        Work::Some(changed) => (changed.reasons, Some(changed.dirty.len() as u64)),
        Work::All(reasons) => (reasons, None),
    };
    let target = run.target.clone();
    let described = spawn_blocking(move || Ok::<_, CommandError>(target.reader()?.describe()?)).await??;
    let unfinished = described.unfinished.iter().map(ToString::to_string).collect();
    let purges = run.purge_status().await?;
    Ok(BehindTarget { target: run.target.to_string(), needs_seed: None, reasons, dirty, unfinished, purges })
}

/// The settings for each of the targets; for the outputs of all tilesets if `targets` is empty. A target that is the
/// output of no tileset is treated as one of the first tileset.
pub(crate) fn settings_of(tilesets: &[Settings], targets: &[String]) -> Vec<Settings> {
    if targets.is_empty() {
        return tilesets.to_vec();
    }
    let of_target = |target: &String| {
        let own = tilesets.iter().find(|settings| settings.tileset.output == Path::new(target));
        let mut settings = own.or(tilesets.first())?.clone();
        settings.tileset.output = PathBuf::from(target);
        Some(settings)
    };
    targets.iter().filter_map(of_target).collect()
}

/// The result of `track prune`.
#[derive(Debug, Clone)]
pub(crate) struct PrunedLog {
    pub server: String,
    /// Changed rows deleted.
    pub rows: u64,
    /// Changed rows that are left.
    pub left: u64,
    /// The open transaction that keeps the targets from having seen these rows, in words.
    pub(crate) kept_by: Option<String>,
}

/// Runs `track prune`. Fails if a target cannot be read, or the role may not write the log.
pub(crate) async fn prune(
    database: &DatabaseSettings,
    targets: &[Settings],
    older: Option<Duration>,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<PrunedLog, CommandError> {
    let schema = &database.changes.schema;
    let database = database.open(stop)?;
    let (mut seen, mut witnessed): (Vec<Cursor>, Vec<(String, Vec<Witness>)>) = (Vec::new(), Vec::new());
    for settings in targets {
        let settings = match Family::of(settings) {
            None => settings.clone(),
            Some(family) => {
                let record = family.recorded(report, stop).await?;
                seen.push(record.snapshot.parse()?);
                witnessed.push((family.output(), record.witnesses));
                match family.all()? {
                    Some(all) => all,
                    None => continue,
                }
            }
        };
        let target = TilesetRun::new(settings.clone(), false, report, stop)?.target;
        let name = target.to_string();
        let state = blocking_read(stop, move || TargetState::read(&target)).await?;
        seen.push(state.cursor);
        witnessed.push((name, state.witnesses));
    }
    // The cursor of a target that shows another history says nothing about what others have seen of this log.
    let snapshots = witnessed.iter().flat_map(|(_, witnesses)| witnesses).map(|witness| witness.snapshot.as_str());
    let log = LogIdentity::read(&database.snapshot().await?, schema, snapshots).await?;
    let other = log.and_then(|log| witnessed.into_iter().find(|(_, witnesses)| log.contradicts(witnesses)));
    if let Some((target, _)) = other {
        return Err(CommandError::OtherHistory { target });
    }
    let pruned = change_log::prune(&database, schema, &seen, older).await?;
    let change_log::Pruned { rows, left, kept_by } = pruned;
    Ok(PrunedLog { server: database.server().to_string(), rows, left, kept_by })
}
