//! The content of the change log and how far targets are behind it, as text and as JSON.

use schemars::JsonSchema;
use serde::Serialize;

use super::reseeded::{Reason, changed_rows};
use super::summary::{counted, table};
use super::{grouped, timed, visible_line};
use crate::suggested::PURGE;

/// The change log and the targets that follow it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Backlog {
    /// What the log holds of each table.
    pub tables: Vec<LoggedTable>,
    /// The targets that the user asked about.
    pub targets: Vec<BehindTarget>,
    /// Why the triggers send no notifications; `None` if they do. Without them, `reseed --watch` polls the log.
    pub no_notifications: Option<String>,
}

/// What the change log holds of a table.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct LoggedTable {
    /// Schema and table, quoted.
    pub table: String,
    /// The number of changed rows in the log.
    pub rows: u64,
    /// The age of the oldest change, in seconds; `None` if there is none.
    pub oldest_seconds: Option<f64>,
}

impl Backlog {
    /// The number of targets that need a full seed.
    pub fn targets_to_seed(&self) -> usize {
        self.targets.iter().filter(|target| target.needs_seed.is_some()).count()
    }
}

/// How far a target is behind the change log.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct BehindTarget {
    /// The path or URL of the target.
    pub target: String,
    /// Why the target needs a full seed; `None` if a reseed is enough.
    pub needs_seed: Option<String>,
    /// The changes that the target does not show yet, by table.
    pub reasons: Vec<Reason>,
    /// The number of dirty tiles; `None` if every tile would be rendered.
    pub dirty: Option<u64>,
    /// Runs that began to change the target and did not finish, in words. The next reseed repairs what they left.
    pub unfinished: Vec<String>,
    /// What waits for the CDNs of the target.
    pub purges: Vec<PurgeStatus>,
}

/// What waits for one CDN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct PurgeStatus {
    /// The provider and how it knows the target.
    pub provider: String,
    /// Tiles that wait; `None` for every tile.
    pub tiles: Option<u64>,
    /// Items that are left of a purge that was sent in part.
    pub items: u64,
    /// Tiles that were sent and are to be sent once more; `None` for every tile.
    pub again: Option<u64>,
    /// The age of the oldest publish that waits.
    pub oldest_seconds: Option<u64>,
    /// Items sent in the last month in which any were.
    pub spent_this_month: u64,
    /// Why the provider refuses, if it does.
    pub stopped: Option<String>,
}

/// The backlog as text for a person.
pub fn render_backlog(backlog: &Backlog) -> String {
    let rows: Vec<Vec<String>> = backlog
        .tables
        .iter()
        .map(|LoggedTable { table, rows, oldest_seconds }| {
            vec![
                visible_line(table),
                grouped(*rows),
                oldest_seconds.map_or_else(String::new, |oldest| format!("{} ago", timed(oldest))),
            ]
        })
        .collect();
    let mut text = table(&["table", "changed rows", "oldest"], &rows);
    for target in &backlog.targets {
        // Tiles that could not be rendered are not changed rows; they are counted as dirty tiles.
        let rows = changed_rows(&target.reasons);
        let oldest = target.reasons.iter().map(|reason| reason.seconds).fold(0.0, f64::max);
        let behind = match (&target.needs_seed, rows, target.dirty) {
            (Some(why), ..) => why.clone(),
            (None, 0, Some(dirty)) if dirty > 0 => {
                format!("nothing changed, {} that could not be rendered before", counted(dirty, "tile"))
            }
            (None, 0, _) => "up to date".to_owned(),
            (None, rows, Some(dirty)) => {
                format!(
                    "behind by {}, {}, {}",
                    counted(rows, "changed row"),
                    timed(oldest),
                    counted(dirty, "dirty tile")
                )
            }
            (None, rows, None) => {
                format!("behind by {}, {}: every tile would be rendered", counted(rows, "changed row"), timed(oldest))
            }
        };
        // The text of `needs_seed` names the target already.
        let who = if target.needs_seed.is_some() { String::new() } else { format!("{}: ", target.target) };
        text.push_str(&format!("{who}{behind}\n"));
        for run in &target.unfinished {
            text.push_str(&format!(
                "{}: {run} has not finished; it is under way, or the next reseed mends it\n",
                target.target
            ));
        }
    }
    for target in &backlog.targets {
        text.extend(target.purges.iter().filter_map(|purge| undelivered(&target.target, purge)));
    }
    if let Some(why) = &backlog.no_notifications {
        text.push_str(&format!("no notifications wake reseed --watch ({why}): it looks into the change log instead\n"));
    }
    text
}

/// A line about the purges that wait for a CDN of a target; `None` if no purge waits.
fn undelivered(target: &str, purge: &PurgeStatus) -> Option<String> {
    let tiles = purge.tiles.map_or_else(|| "every tile".to_owned(), |tiles| counted(tiles, "tile"));
    match &purge.stopped {
        Some(why) => Some(format!(
            "{target}: {} is not purged, and {tiles} and {} wait: {why}. Put that right, then run {PURGE}\n",
            purge.provider,
            counted(purge.items, "item")
        )),
        None if purge.tiles == Some(0) && purge.items == 0 => None,
        None => Some(format!("{target}: {} has not been told of {tiles} yet\n", purge.provider)),
    }
}
