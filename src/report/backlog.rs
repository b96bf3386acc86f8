//! What the change log holds and how far targets are behind, as text and as JSON.

use serde::Serialize;

use super::budgets::counted;
use super::reseeded::{Reason, UNRENDERED};
use super::summary::table;
use super::{grouped, timed, visible_line};

/// The change log and the targets that follow it.
#[derive(Debug, Clone, Serialize)]
pub struct Backlog {
    /// Each table: its name, the changed rows that the log holds, and how long ago the oldest was changed, in seconds.
    pub tables: Vec<(String, u64, Option<f64>)>,
    /// The targets asked about.
    pub targets: Vec<BehindTarget>,
    /// Why the triggers send no notifications, if they do not: `reseed --watch` looks for changes by itself then.
    pub no_notifications: Option<String>,
}

impl Backlog {
    /// How many targets need a full seed.
    #[must_use]
    pub fn targets_to_seed(&self) -> usize {
        self.targets.iter().filter(|target| target.needs_seed.is_some()).count()
    }
}

/// How far a target is behind.
#[derive(Debug, Clone, Serialize)]
pub struct BehindTarget {
    /// The target.
    pub target: String,
    /// Why it needs a full seed, if it does.
    pub needs_seed: Option<String>,
    /// What it has not seen.
    pub reasons: Vec<Reason>,
    /// Tiles in which that can be seen; `None` if every tile would be rendered.
    pub dirty: Option<u64>,
    /// Runs that have begun to change the target and have not finished, in words; the next reseed mends what they left.
    pub unfinished: Vec<String>,
}

/// The log and the targets, for a person.
#[must_use]
pub fn render_backlog(backlog: &Backlog) -> String {
    let rows: Vec<Vec<String>> = backlog
        .tables
        .iter()
        .map(|(name, rows, oldest)| {
            vec![
                visible_line(name),
                grouped(*rows),
                oldest.map_or_else(String::new, |oldest| format!("{} ago", timed(oldest))),
            ]
        })
        .collect();
    let mut text = table(&["table", "changed rows", "oldest"], &rows);
    for target in &backlog.targets {
        // Tiles that failed are no rows; they are dirty tiles like others.
        let changed = target.reasons.iter().filter(|reason| reason.what != UNRENDERED);
        let rows: u64 = changed.map(|reason| reason.rows).sum();
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
        // Why it needs a seed names the target itself.
        let who = if target.needs_seed.is_some() { String::new() } else { format!("{}: ", target.target) };
        text.push_str(&format!("{who}{behind}\n"));
        for run in &target.unfinished {
            text.push_str(&format!(
                "{}: {run} has not finished; it is under way, or the next reseed mends it\n",
                target.target
            ));
        }
    }
    if let Some(why) = &backlog.no_notifications {
        text.push_str(&format!("no notifications wake reseed --watch ({why}): it looks into the change log instead\n"));
    }
    text
}
