//! `oar-tiles track status` and `track prune`: what the change log holds, how far targets are behind, and taking out what all of
//! them have seen.

use std::sync::Arc;
use std::time::Duration;

use super::CommandError;
use super::reseed::behind;
use super::seed::restarting;
use super::target::{Place, Reach};
use crate::changes::{self, Cursor};
use crate::config::Settings;
use crate::postgis::Database;
use crate::report::{Backlog, BehindTarget, Report, grouped, print, render_backlog, say};
use crate::stop::Stop;

/// Runs `track status`.
///
/// # Errors
/// If there is no log, it cannot be read, or others can alter it; and once all is said, if a target needs a seed, or the triggers
/// can do more than append to the log.
pub async fn status(
    settings: &Settings,
    targets: &[String],
    json: bool,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<(), CommandError> {
    let look = async |_restarts| {
        let database = Database::new(&settings.connect, settings.session.clone(), stop)?;
        let snapshot = database.snapshot().await?;
        let schema = &settings.changes.schema;
        let safety = match changes::checked(&database, &snapshot, schema).await {
            Err(error) if !matches!(error, changes::Error::Mendable { .. }) => return Err(error.into()),
            safety => safety,
        };
        let logged = changes::logged(&database, &snapshot, schema).await?;
        Ok((safety, logged, changes::quiet(&snapshot).await?))
    };
    let (safety, logged, quiet) = restarting(settings, report, stop, look).await?;
    let mut told = Vec::new();
    for target in named(settings, targets) {
        let place = Place::parse(&target)?;
        let reach = Reach::new(settings, false, stop);
        let behind = async |_restarts| Box::pin(behind(settings, &place, &reach, stop)).await;
        told.push(match restarting(settings, report, stop, behind).await {
            Ok(behind) => behind,
            Err(error) if error.needs_seed() => BehindTarget {
                target: place.to_string(),
                needs_seed: Some(error.to_string()),
                reasons: Vec::new(),
                dirty: None,
                unfinished: Vec::new(),
            },
            Err(error) => return Err(error),
        });
    }
    let backlog = Backlog {
        tables: logged.into_iter().map(|one| (one.table, one.rows, one.oldest)).collect(),
        targets: told,
        no_notifications: quiet.map(|quiet| quiet.to_string()),
    };
    let text = if json {
        serde_json::to_string_pretty(&backlog).map_err(std::io::Error::from)? + "\n"
    } else {
        render_backlog(&backlog)
    };
    print(&text)?;
    let needs_seed = backlog.targets.iter().filter(|target| target.needs_seed.is_some()).count();
    if needs_seed > 0 {
        if let Err(error) = safety {
            say(&format!("warning: {error}"));
        }
        return Err(CommandError::NeedSeeds { targets: needs_seed, of: backlog.targets.len() });
    }
    Ok(safety?)
}

/// The targets given, or the one of the settings.
fn named(settings: &Settings, targets: &[String]) -> Vec<String> {
    if targets.is_empty() { vec![settings.tileset.output.to_string_lossy().into_owned()] } else { targets.to_vec() }
}

/// Runs `track prune`.
///
/// # Errors
/// If a target cannot be read, or the role may not write the log.
pub async fn prune(
    settings: &Settings,
    targets: &[String],
    older: Option<Duration>,
    stop: &Stop,
) -> Result<(), CommandError> {
    let database = Database::new(&settings.connect, settings.session.clone(), stop)?;
    let mut seen: Vec<Cursor> = Vec::new();
    // By age alone, no target has to be there.
    if older.is_none() || !targets.is_empty() {
        for target in named(settings, targets) {
            let (place, reach) = (Place::parse(&target)?, Reach::new(settings, false, stop));
            seen.push(super::seed::reading(stop, move || super::reseed::cursor_of(&place, &reach)).await?);
        }
    }
    let pruned = changes::prune(&database, &settings.changes.schema, &seen, older).await?;
    let (rows, left) = (grouped(pruned.rows), grouped(pruned.left));
    Ok(print(&format!("{rows} changed rows taken out of the change log of {}, {left} left\n", database.server()))?)
}
