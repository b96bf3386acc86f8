//! The purges that were sent to CDNs, and those that wait, as text.

use schemars::JsonSchema;
use serde::Serialize;

use super::summary::table;
use super::{grouped, timed};
use crate::purge::{Delivered, DeliveryEnd, PlannedPurge};

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

/// The purges that wait, as a table.
#[must_use]
pub fn render_purge_status(all: &[PurgeStatus]) -> String {
    let row = |status: &PurgeStatus| {
        vec![
            status.provider.clone(),
            status.tiles.map_or_else(|| "all".to_owned(), grouped),
            grouped(status.items),
            status.oldest_seconds.map_or_else(String::new, |seconds| {
                format!("{} ago", timed(std::time::Duration::from_secs(seconds).as_secs_f64()))
            }),
            grouped(status.spent_this_month),
            status.stopped.clone().map_or_else(|| "ready".to_owned(), |why| format!("stopped: {why}")),
        ]
    };
    table(
        &["CDN", "tiles waiting", "items left", "oldest", "items this month", "state"],
        &all.iter().map(row).collect::<Vec<_>>(),
    )
}

/// The outcome of deliveries, one line for each CDN.
#[must_use]
pub fn render_delivered(all: &[Delivered]) -> String {
    let line = |one: &Delivered| {
        let end = match &one.end {
            DeliveryEnd::Done => "nothing waits".to_owned(),
            DeliveryEnd::Waits(why) => format!("the rest waits: {why}"),
            DeliveryEnd::Repeats(wait) => {
                format!("nothing waits but the same once more, in {}", timed(wait.as_secs_f64()))
            }
            DeliveryEnd::Stopped(why) => format!("stopped: {why}"),
        };
        let items = if one.sent == 1 { "item" } else { "items" };
        format!("{} ({}): {} {items} sent, {end}\n", one.provider, one.url, grouped(one.sent as u64))
    };
    if all.is_empty() { "nothing waits\n".to_owned() } else { all.iter().map(line).collect() }
}

/// The most names of a planned purge that are shown.
const MAX_SHOWN_NAMES: usize = 20;

/// The purges that would be sent, as text.
#[must_use]
pub fn render_planned_purges(all: &[PlannedPurge]) -> String {
    let one = |plan: &PlannedPurge| {
        let tiles =
            plan.tiles.map_or_else(|| "every tile".to_owned(), |count| format!("{} tiles", grouped(count as u64)));
        let mut text = format!(
            "{} ({}): {tiles} wait, {} items would be sent, which hit at most {} tiles beyond these; this month's cost ${:.2}\n",
            plan.provider,
            plan.url,
            grouped(plan.names.len() as u64),
            grouped(plan.beyond),
            plan.dollars,
        );
        for name in plan.names.iter().take(MAX_SHOWN_NAMES) {
            text.push_str(&format!("  {} {}\n", name.kind.name(), name.name));
        }
        let more = plan.names.len().saturating_sub(MAX_SHOWN_NAMES);
        if more > 0 {
            text.push_str(&format!("  and {} more\n", grouped(more as u64)));
        }
        text
    };
    all.iter().map(one).collect()
}
