//! Delivery: what waits in the outbox becomes items and is sent, provider by provider.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};

use super::items::{FullPyramid, PlanRules, PurgeBy, PurgePlan, TileAddresses, TilesToPurge, TilesetTag, plan};
use super::outbox::{Outbox, OutboxEntry, OutboxError, PurgeQueue, seconds_now, tiles_of};
use super::pace::{PurgeAllowance, PurgeBudget};
use super::provider::{
    ItemKind, Provider, ProviderFacts, PurgeBatch, PurgeName, PurgeOptions, batches, names, provider,
};
use super::sender::{SendEnd, Sent, send};
use crate::sink::NoteStore;
use crate::stop::Stop;
use crate::tile::{TileCoord, ZoomList};

/// What is known of a target whose CDNs are told.
#[derive(Clone)]
pub struct PurgeTarget {
    /// The notes of the target, with the outbox.
    pub notes: Arc<dyn NoteStore>,
    /// The number of the publication that its manifest names; `None` if there is no target.
    pub published: Option<u64>,
    /// The name of the tileset, from which tags are made.
    pub name: String,
    /// Its zooms.
    pub zooms: ZoomList,
    /// The patterns of the names of its tiles, one for each layer where layers are kept apart.
    pub patterns: Vec<String>,
    /// Lists all tiles, for a provider that knows no other way to purge everything. May wait for a disk or a server.
    pub all_tiles: AllTiles,
}

/// Lists all tiles of a target, or says why that is not possible.
pub type AllTiles = Arc<dyn Fn() -> Result<Vec<TileCoord>, String> + Send + Sync>;

/// What became of one provider's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The provider.
    pub provider: &'static str,
    /// How the CDN knows the target.
    pub url: String,
    /// The items that were taken.
    pub sent: usize,
    /// How many tiles they hit at most that did not change.
    pub beyond: u64,
    /// True if the user wants a command to fail that has not told this provider.
    pub required: bool,
    /// How it ended.
    pub end: DeliveryEnd,
}

/// How a delivery ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// Nothing waits.
    Done,
    /// The rest waits for the next command, for this reason.
    Waits(String),
    /// The provider refuses until somebody changes something.
    Stopped(String),
}

/// The name of a provider's queue in the outbox.
#[must_use]
pub fn queue_name(options: &PurgeOptions) -> String {
    format!("{} {}", options.provider.name(), options.url.whole(options.url.path()))
}

/// What would be sent to one provider.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedPurge {
    /// The provider.
    pub provider: &'static str,
    /// How the CDN knows the target.
    pub url: String,
    /// How many tiles wait; `None` for everything.
    pub tiles: Option<usize>,
    /// The names, as they would be sent.
    pub names: Vec<PurgeName>,
    /// How many tiles they hit at most that did not change.
    pub beyond: u64,
    /// What they cost in US dollars, with what was sent this month.
    pub dollars: f64,
}

/// Tells all providers what waits for them. With `retries`, also those that have refused for good before. A stop ends it early.
///
/// # Errors
/// If the outbox cannot be read or written. What a provider does is no error.
pub async fn deliver(
    target: &PurgeTarget,
    purges: &[PurgeOptions],
    retries: bool,
    stop: &Stop,
) -> Result<Vec<Delivered>, OutboxError> {
    let deliveries: Vec<_> = purges.iter().map(|options| Delivery { target, options, stop }.run(retries)).collect();
    futures_util::future::try_join_all(deliveries).await
}

/// What would be sent, with `more` in the outbox. May wait for a disk or a server.
///
/// # Errors
/// If the outbox cannot be read.
pub fn planned(
    target: &PurgeTarget,
    purges: &[PurgeOptions],
    more: Option<&OutboxEntry>,
) -> Result<Vec<PlannedPurge>, OutboxError> {
    let (outbox, stop) = (Outbox::read(&*target.notes)?, Stop::new());
    let mut planned = Vec::new();
    for options in purges {
        let mut queue = outbox.queues.get(&queue_name(options)).cloned().unwrap_or_default();
        queue.waiting.extend(more.cloned());
        let url = options.url.whole(options.url.path());
        // Nothing is sent, so a secret that is not there is no obstacle.
        let facts = options.provider.facts();
        let delivery = Delivery { target, options, stop: &stop };
        let max_items = match options.budget.allowance(&queue.spent, SystemTime::now()) {
            PurgeAllowance::Items(items) => items,
            PurgeAllowance::Wait(_) => 1,
        };
        let plan = delivery.plan(&facts, &queue.waiting, max_items);
        let mut names = queue.left;
        names.extend(self::names(&plan.items, &delivery.addresses()));
        let spent = PurgeBudget::after(&queue.spent, names.len(), SystemTime::now()).items;
        let tiles = queue.waiting.iter().fold(TilesToPurge::default(), |all, entry| all.joined(tiles_of(entry)));
        planned.push(PlannedPurge {
            provider: facts.name,
            url,
            tiles: tiles.count(),
            names,
            beyond: plan.beyond,
            dollars: facts.price.dollars_of(spent),
        });
    }
    Ok(planned)
}

/// One provider's queue and its way to the provider.
struct Delivery<'a> {
    target: &'a PurgeTarget,
    options: &'a PurgeOptions,
    stop: &'a Stop,
}

impl Delivery<'_> {
    async fn run(self, retries: bool) -> Result<Delivered, OutboxError> {
        let name = self.options.provider.name();
        let mut delivered = Delivered {
            provider: name,
            url: self.options.url.whole(self.options.url.path()),
            sent: 0,
            beyond: 0,
            required: self.options.required,
            end: DeliveryEnd::Done,
        };
        let queue = self.queue()?;
        if queue.is_empty() {
            return Ok(delivered);
        }
        if let (Some(why), false) = (&queue.stopped, retries) {
            delivered.end = DeliveryEnd::Stopped(why.clone());
            return Ok(delivered);
        }
        let provider = match provider(self.options).await {
            Ok(provider) => provider,
            // Not noted in the outbox: the next command may have the secret that this one lacks.
            Err(error) => {
                delivered.end = DeliveryEnd::Stopped(error.to_string());
                return Ok(delivered);
            }
        };
        let deadline = Instant::now() + self.options.wait;
        delivered.end = loop {
            if let Some(end) = self.once(&*provider, deadline, &mut delivered).await? {
                break end;
            }
        };
        Ok(delivered)
    }

    /// Sends what is ready. `None` if something more may be ready now.
    async fn once(
        &self,
        provider: &dyn Provider,
        deadline: Instant,
        delivered: &mut Delivered,
    ) -> Result<Option<DeliveryEnd>, OutboxError> {
        let queue = self.queue()?;
        let entries = queue.ready(self.target.published);
        if entries.is_empty() && queue.left.is_empty() {
            if queue.again.is_empty() {
                let waits = (!queue.waiting.is_empty()).then(|| "a run has not published it yet".to_owned());
                return Ok(Some(waits.map_or(DeliveryEnd::Done, DeliveryEnd::Waits)));
            }
            return self.repeat(provider, &queue, deadline).await;
        }
        let settled = entries.iter().map(|entry| entry.time + self.options.settle.as_secs()).max().unwrap_or(0);
        if !self.wait_until(settled, deadline).await {
            return Ok(Some(DeliveryEnd::Waits("readers of the target may still hold old tiles".to_owned())));
        }
        let max_items = match self.options.budget.allowance(&queue.spent, SystemTime::now()) {
            PurgeAllowance::Items(items) => items,
            PurgeAllowance::Wait(wait) => {
                if !self.wait_until(seconds_now() + wait.as_secs() + 1, deadline).await {
                    let wait = humantime::format_duration(Duration::from_secs(wait.as_secs()));
                    return Ok(Some(DeliveryEnd::Waits(format!("the budget allows the next item in {wait}"))));
                }
                return Ok(None);
            }
        };
        let plan = self.planned(provider, &entries, max_items);
        let mut all = queue.left.clone();
        all.extend(names(&plan.items, &self.addresses()).into_iter().filter(|name| !queue.left.contains(name)));
        let of = identity(&entries, &queue.left_of);
        let batches = batches(&all, |kind| provider.limits(kind), &of);
        let sent = send(provider, batches, deadline.saturating_duration_since(Instant::now()), self.stop).await;
        delivered.sent += sent.taken;
        delivered.beyond += plan.beyond;
        let end = self.note(&entries, &of, &all, &sent)?;
        Ok(end)
    }

    /// Notes what was sent; how the delivery ends, if it does.
    fn note(
        &self,
        entries: &[OutboxEntry],
        of: &str,
        all: &[PurgeName],
        sent: &Sent,
    ) -> Result<Option<DeliveryEnd>, OutboxError> {
        let left = left_names(&sent.left);
        let now = SystemTime::now();
        self.change(|queue| {
            queue.sent(entries, left.clone(), of);
            queue.spent = PurgeBudget::after(&queue.spent, sent.taken, now);
            queue.stopped = match &sent.end {
                SendEnd::Refused(what) => Some(what.clone()),
                _ => None,
            };
            if let (Some(rebound), SendEnd::All) = (self.options.rebound, &sent.end) {
                queue.again.extend(all.iter().filter(|name| !queue.again.contains(name)).cloned().collect::<Vec<_>>());
                queue.again_at = seconds_now() + rebound.as_secs().max(1);
            }
        })?;
        Ok(match &sent.end {
            SendEnd::All => None,
            end => Some(ended(end)),
        })
    }

    /// Sends once more what was sent before.
    async fn repeat(
        &self,
        provider: &dyn Provider,
        queue: &PurgeQueue,
        deadline: Instant,
    ) -> Result<Option<DeliveryEnd>, OutboxError> {
        if !self.wait_until(queue.again_at, deadline).await {
            return Ok(Some(DeliveryEnd::Waits("the same is sent once more, for caches in two tiers".to_owned())));
        }
        let of = format!("again {}", queue.again_at);
        let batches = batches(&queue.again, |kind| provider.limits(kind), &of);
        let sent = send(provider, batches, deadline.saturating_duration_since(Instant::now()), self.stop).await;
        let left = left_names(&sent.left);
        let before = &queue.again;
        self.change(|queue| queue.again.retain(|name| left.contains(name) || !before.contains(name)))?;
        Ok(match &sent.end {
            SendEnd::All => None,
            end => Some(ended(end)),
        })
    }

    /// The plan, with a list of all tiles where the provider knows no other way to purge everything.
    fn planned(&self, provider: &dyn Provider, entries: &[OutboxEntry], max_items: usize) -> PurgePlan {
        let facts = provider.facts();
        let plan = self.plan(&facts, entries, max_items);
        let needs_list = !facts.takes_everything && plan.items.contains(&super::items::PurgeItem::Everything);
        if !needs_list {
            return plan;
        }
        match tokio::task::block_in_place(|| (self.target.all_tiles)()) {
            Ok(tiles) => {
                let tiles = TilesToPurge::listed(tiles);
                let rules = PlanRules { by: PurgeBy::Url, ..self.rules(&facts, max_items) };
                super::items::plan(&tiles, &documents(entries), &self.addresses(), &self.counts(), &rules)
            }
            Err(error) => {
                tracing::info!("the tiles of the target cannot be listed for {}: {error}", facts.name);
                plan
            }
        }
    }

    fn plan(&self, facts: &ProviderFacts, entries: &[OutboxEntry], max_items: usize) -> PurgePlan {
        let tiles = entries.iter().fold(TilesToPurge::default(), |all, entry| all.joined(tiles_of(entry)));
        plan(&tiles, &documents(entries), &self.addresses(), &self.counts(), &self.rules(facts, max_items))
    }

    fn rules(&self, facts: &ProviderFacts, max_items: usize) -> PlanRules {
        PlanRules {
            by: self.options.by.or(facts.takes.first().copied()).unwrap_or(PurgeBy::All),
            mixes: facts.mixes,
            max_items: max_items.min(facts.max_items).max(1),
            tag: TilesetTag::of(&self.target.name),
            zooms: self.target.zooms.clone(),
        }
    }

    fn counts(&self) -> FullPyramid {
        FullPyramid(self.target.zooms.clone())
    }

    fn addresses(&self) -> TileAddresses {
        TileAddresses::new(self.options.url.clone(), self.target.patterns.clone())
    }

    /// Waits until a time in seconds since 1970; false if that is after the deadline, or a stop is asked for.
    async fn wait_until(&self, time: u64, deadline: Instant) -> bool {
        let wait = Duration::from_secs(time.saturating_sub(seconds_now()));
        if wait.is_zero() {
            return true;
        }
        if Instant::now() + wait > deadline {
            return false;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => true,
            _ = self.stop.wait() => false,
        }
    }

    fn queue(&self) -> Result<PurgeQueue, OutboxError> {
        let mut outbox = tokio::task::block_in_place(|| Outbox::read(&*self.target.notes))?;
        Ok(outbox.queues.remove(&queue_name(self.options)).unwrap_or_default())
    }

    fn change(&self, how: impl Fn(&mut PurgeQueue)) -> Result<(), OutboxError> {
        let name = queue_name(self.options);
        let changed =
            || Outbox::change(&*self.target.notes, |outbox| how(outbox.queues.entry(name.clone()).or_default()));
        tokio::task::block_in_place(changed)?;
        Ok(())
    }
}

fn documents(entries: &[OutboxEntry]) -> Vec<String> {
    let mut documents: Vec<String> = entries.iter().flat_map(|entry| entry.documents.clone()).collect();
    documents.sort();
    documents.dedup();
    documents
}

fn left_names(batches: &[PurgeBatch]) -> Vec<PurgeName> {
    let of_batch = |batch: &PurgeBatch| {
        let kind: ItemKind = batch.kind;
        batch.names.iter().map(|name| PurgeName { kind, name: name.clone() }).collect::<Vec<_>>()
    };
    batches.iter().flat_map(of_batch).collect()
}

fn ended(end: &SendEnd) -> DeliveryEnd {
    match end {
        SendEnd::All => DeliveryEnd::Done,
        SendEnd::TimeUp(Some(what)) => DeliveryEnd::Waits(what.clone()),
        SendEnd::TimeUp(None) => DeliveryEnd::Waits("the provider takes no more items in this time".to_owned()),
        SendEnd::Stopped => DeliveryEnd::Waits("a stop was asked for".to_owned()),
        SendEnd::Refused(what) => DeliveryEnd::Stopped(what.clone()),
    }
}

/// Identifies the publishes that are sent together: a hash of their ids.
fn identity(entries: &[OutboxEntry], left_of: &str) -> String {
    let mut hash = Sha256::new();
    for id in entries.iter().map(|entry| entry.id.as_str()).chain([left_of]) {
        hash.update(id);
        hash.update([0]);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
