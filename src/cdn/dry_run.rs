//! A dry run: what would be sent, without sending it.

use std::time::SystemTime;

use super::delivery::queue_name;
use super::outbox::{Outbox, OutboxEntry, OutboxError};
use super::pace::{PurgeAllowance, PurgeBudget};
use super::planning::{Planning, PurgeTarget};
use super::provider::{PurgeName, PurgeOptions, names};

/// What would be sent to one provider.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedPurge {
    pub provider: &'static str,
    /// The URL under which the CDN serves the target.
    pub url: String,
    /// How many tiles wait; `None` for everything.
    pub tiles: Option<usize>,
    /// The names, as they would be sent.
    pub names: Vec<PurgeName>,
    /// The most unchanged tiles that the names can hit.
    pub unchanged: u64,
    /// The price in US dollars of all items of this month: those sent already, and these.
    pub dollars: f64,
}

/// What would be sent if `more` were in the outbox, too. May wait for a disk or a server.
pub fn planned(
    target: &PurgeTarget,
    purges: &[PurgeOptions],
    more: Option<&OutboxEntry>,
) -> Result<Vec<PlannedPurge>, OutboxError> {
    let outbox = Outbox::read(&*target.notes)?;
    let one = |options: &PurgeOptions| {
        let mut queue = outbox.queues.get(&queue_name(options)).cloned().unwrap_or_default();
        queue.waiting.extend(more.cloned());
        // Nothing is sent, so a missing secret is no obstacle.
        let facts = options.provider.facts();
        let planning = Planning { target, options, facts };
        let max_items = match options.budget.allowance(&queue.spent, SystemTime::now()) {
            PurgeAllowance::Items(items) => items,
            PurgeAllowance::Wait(_) => 1,
        };
        let plan = planning.plan(&queue.waiting, max_items, &planning.by(&queue));
        let tiles = queue.tiles().count();
        let mut names = queue.left;
        names.extend(self::names(&plan.items, &planning.addresses()));
        let spent = PurgeBudget::after(&queue.spent, names.len(), SystemTime::now()).items;
        PlannedPurge {
            provider: facts.name,
            url: options.url.whole(options.url.path()),
            tiles,
            names,
            unchanged: plan.unchanged,
            dollars: facts.price.dollars_of(spent),
        }
    };
    Ok(purges.iter().map(one).collect())
}
