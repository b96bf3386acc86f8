//! Checks the change log: whether it exists, is safe and complete, how many changes wait in it, and how much space it
//! takes.

use super::DoctorOptions;
use crate::change_log;
use crate::change_log::{backlogs, check_safety, namesake_of_log};
use crate::error::{ErrorKind, with_causes};
use crate::postgis::{Database, quoted};
use crate::report::{CheckArea, CheckLevel, Checkup, grouped};
use crate::run::dirty::{Look, Work};
use crate::run::{CommandError, DirtyFilter, TilesetRun};
use crate::suggested::TRACK_PRUNE;

const AREA: CheckArea = CheckArea::ChangeLog;

/// The number of changed rows above which the log should have been pruned.
const MAX_LOGGED_ROWS: u64 = 100_000;

/// The age of changes above which they should have been pruned, in seconds: a week.
const MAX_LOGGED_SECONDS: f64 = 7.0 * 86_400.0;

/// The number of dead rows below which there is no bloat.
const MIN_DEAD_ROWS: i64 = 10_000;

pub(crate) async fn check(
    run: &TilesetRun,
    database: &Database,
    options: &DoctorOptions,
    checkup: &mut Checkup,
) -> Result<(), CommandError> {
    let schema = &run.settings.database.changes.schema;
    let snapshot = database.snapshot().await?;
    match check_safety(database, &snapshot, schema).await {
        Ok(()) => {}
        Err(error @ change_log::ChangeLogError::LacksRights { .. }) => {
            checkup.add(AREA, CheckLevel::Error, with_causes(&error));
        }
        Err(error @ change_log::ChangeLogError::Repairable { .. }) => {
            checkup.add(AREA, CheckLevel::Warning, with_causes(&error));
        }
        Err(error) => return Err(error.into()),
    }
    if let Some(namesake) = namesake_of_log(&snapshot, schema).await? {
        checkup.add(AREA, CheckLevel::Warning, namesake);
    }
    let logged = match backlogs(database, &snapshot, schema).await {
        Err(change_log::ChangeLogError::LogGap(why)) => {
            // A target that is only seeded needs no change log.
            checkup.add(AREA, CheckLevel::Warning, why.to_string());
            return Ok(());
        }
        logged => logged?,
    };
    let rows: u64 = logged.iter().map(|one| one.rows).sum();
    let oldest = logged.iter().filter_map(|one| one.oldest).fold(0.0, f64::max);
    if rows > MAX_LOGGED_ROWS || oldest > MAX_LOGGED_SECONDS {
        checkup.warn(
            AREA,
            format!("{} changed rows wait in it, the oldest for {:.0} hours", grouped(rows), oldest / 3_600.0),
            format!("run {TRACK_PRUNE} with all targets that follow it, each day"),
        );
    } else {
        checkup.fine(
            AREA,
            format!("tables that are tracked: {}; changed rows in the log: {}", logged.len(), grouped(rows)),
        );
    }
    let sql = format!(
        "SELECT n_dead_tup, n_live_tup FROM pg_stat_all_tables WHERE relid = '{}.change'::regclass",
        quoted(schema).replace('\'', "''")
    );
    for row in snapshot.all("looking for dead rows in the change log", &sql, &[]).await? {
        let (dead, live): (i64, i64) = (row.get(0), row.get(1));
        if dead > MIN_DEAD_ROWS && dead > live {
            checkup.warn(
                AREA,
                format!("{} dead rows are in its table", grouped(dead.unsigned_abs())),
                format!(
                    "run VACUUM {}.change; autovacuum does so unless a long transaction is in its way",
                    quoted(schema)
                ),
            );
        }
    }
    drop(snapshot);
    if options.has_target { behind(run, checkup).await } else { Ok(()) }
}

/// How far the target is behind the log.
async fn behind(run: &TilesetRun, checkup: &mut Checkup) -> Result<(), CommandError> {
    let filter = DirtyFilter::default();
    let look = async { Look::begin(run, &filter, false).await?.work(None).await };
    match Box::pin(look).await {
        Ok(Work::Nothing) => checkup.fine(AREA, format!("{} is up to date", run.target)),
        Ok(Work::Some(changed)) => {
            let dirty = grouped(changed.dirty.len() as u64);
            checkup.fine(AREA, format!("{} has {dirty} dirty tiles, which the next reseed renders", run.target));
        }
        Ok(Work::All(_)) => {
            checkup.fine(AREA, format!("so much has changed that the next reseed renders all of {}", run.target));
        }
        Err(error) if error.kind() == ErrorKind::NeedsSeed => {
            checkup.add(AREA, CheckLevel::Error, with_causes(&error));
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
