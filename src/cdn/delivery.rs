//! Delivery: the entries that wait in the outbox become items, which are sent to each provider.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use super::outbox::{Outbox, OutboxEntry, OutboxError, PurgeQueue, Rebound, SentEntries};
use super::pace::{self, PurgeAllowance, PurgeBudget, TokenBucket};
use super::planning::{Planning, PurgeTarget};
use super::provider::{ItemKind, Provider, PurgeBatch, PurgeName, PurgeOptions, SendError, batches, names, provider};
use crate::backoff::Backoff;
use crate::clock::seconds_now;
use crate::hex::hash_of_texts;
use crate::stop::Stop;

/// The default time for which a command waits for a provider.
const WAIT: Duration = Duration::from_secs(30);

/// The outcome of a delivery to one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    pub provider: &'static str,
    /// The URL under which the CDN serves the target.
    pub url: String,
    /// The number of items that the provider accepted.
    pub sent: usize,
    /// The most unchanged tiles that the items can hit.
    pub unchanged: u64,
    /// True if a command is to fail when it could not deliver to this provider.
    pub required: bool,
    pub end: DeliveryEnd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryEnd {
    Done,
    /// The rest waits for the next command, for this reason.
    Waits(String),
    /// The rest waits until the run that wrote it has published.
    Unpublished,
    /// Everything was sent, and will be sent once more (rebound) after this time.
    Repeats(Duration),
    /// The provider refuses until somebody changes something.
    Stopped(String),
}

impl DeliveryEnd {
    /// Why the rest waits; `None` if nothing does.
    pub fn waits_for(&self) -> Option<&str> {
        match self {
            DeliveryEnd::Waits(why) => Some(why),
            DeliveryEnd::Unpublished => Some("a run has not published it yet"),
            DeliveryEnd::Done | DeliveryEnd::Repeats(_) | DeliveryEnd::Stopped(_) => None,
        }
    }
}

/// The name of a provider's queue in the outbox.
pub fn queue_name(options: &PurgeOptions) -> String {
    format!("{} {}", options.provider.name(), options.url.whole(options.url.path()))
}

/// How long a delivery goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryPatience {
    /// True to retry providers that refused permanently before.
    pub retries: bool,
    /// True to wait for rebounds, at most for the `wait` of a provider's options.
    pub repeats: bool,
}

/// Sends every provider the purges that wait for it. A stop ends the delivery early.
/// Fails if the outbox cannot be read or written. A provider's failure is not an error here; [`Delivered::end`] says
/// how each delivery ended.
pub async fn deliver(
    target: &PurgeTarget,
    purges: &[PurgeOptions],
    patience: DeliveryPatience,
    stop: &Stop,
) -> Result<Vec<Delivered>, OutboxError> {
    let begun = Instant::now();
    let deliveries: Vec<_> =
        purges.iter().map(|options| Delivery { target, options, patience, stop, begun }.run()).collect();
    futures_util::future::try_join_all(deliveries).await
}

/// The delivery of one provider's queue.
struct Delivery<'a> {
    target: &'a PurgeTarget,
    options: &'a PurgeOptions,
    patience: DeliveryPatience,
    stop: &'a Stop,
    /// When the delivery began. The manifest named [`PurgeTarget::published`] before that.
    begun: Instant,
}

impl Delivery<'_> {
    async fn run(self) -> Result<Delivered, OutboxError> {
        let name = self.options.provider.name();
        let mut delivered = Delivered {
            provider: name,
            url: self.options.url.whole(self.options.url.path()),
            sent: 0,
            unchanged: 0,
            required: self.options.section.required.unwrap_or(false),
            end: DeliveryEnd::Done,
        };
        let queue = self.queue()?;
        if queue.is_empty() {
            return Ok(delivered);
        }
        if let (Some(why), false) = (&queue.stopped, self.patience.retries) {
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
        let deadline = Instant::now() + self.options.section.wait.map_or(WAIT, Duration::from);
        delivered.end = loop {
            if let Some(end) = self.once(&*provider, deadline, &mut delivered).await? {
                break end;
            }
        };
        Ok(delivered)
    }

    /// Sends what is ready. Returns `None` if more may be ready now.
    async fn once(
        &self,
        provider: &dyn Provider,
        deadline: Instant,
        delivered: &mut Delivered,
    ) -> Result<Option<DeliveryEnd>, OutboxError> {
        let queue = self.queue()?;
        if !queue.left.is_empty() {
            return self.send_left(provider, &queue, deadline, delivered).await;
        }
        // A due rebound is sent before new entries; otherwise constant changes would delay it forever.
        if let Some(due) = queue.rebounds.iter().find(|rebound| rebound.at <= seconds_now()) {
            return self.send_again(provider, &queue, due, deadline).await;
        }
        let entries = queue.ready(self.target.published);
        if entries.is_empty() {
            let Some(next) = queue.rebounds.iter().map(|rebound| rebound.at).min() else {
                let is_all = queue.waiting.is_empty();
                return Ok(Some(if is_all { DeliveryEnd::Done } else { DeliveryEnd::Unpublished }));
            };
            let wait = Duration::from_secs(next.saturating_sub(seconds_now()));
            let is_over = self.patience.repeats && self.pause(wait, deadline).await;
            return Ok((!is_over).then_some(DeliveryEnd::Repeats(wait)));
        }
        let settled =
            self.options.section.settle.map_or(self.target.settle, Duration::from).saturating_sub(self.begun.elapsed());
        if !self.pause(settled, deadline).await {
            return Ok(Some(DeliveryEnd::Waits("servers of the target may still answer with old tiles".to_owned())));
        }
        let max_items = match self.allowed(&queue, deadline).await {
            Ok(max_items) => max_items,
            Err(ends) => return Ok(ends),
        };
        let planning = Planning { target: self.target, options: self.options, facts: self.options.provider.facts() };
        let by = planning.by(&queue);
        let plan = tokio::task::block_in_place(|| planning.plan_listed(&entries, max_items, &by));
        let all = names(&plan.items, &planning.addresses());
        let of = identity(&entries);
        let sent = self.send(provider, &all, &of, deadline).await;
        delivered.sent += sent.taken;
        delivered.unchanged += plan.unchanged;
        let left = left_names(&sent.left);
        let noted = SentEntries { rest: planning.rest(&entries, &left, &of), entries, of, left };
        let is_all = sent.end == SendEnd::All;
        self.note(&sent, |queue| {
            if sent.taken == 0 && !is_all {
                // Nothing was accepted: the entries keep waiting, and are merged with later ones.
                return;
            }
            queue.sent(&noted);
            if let Some(rebound) = self.options.rebound {
                let merged = noted.entries.iter().cloned().reduce(OutboxEntry::merged);
                let at = due(rebound);
                if let Some(entry) = merged {
                    let entry = OutboxEntry { id: noted.of.clone(), ..entry };
                    queue.add_rebound(Rebound { at, entry, by_address: by.establishes.is_some() });
                }
            }
            if let (Some(tags), true) = (&by.establishes, is_all) {
                queue.tags = Some(tags.clone());
            }
        })
    }

    /// The number of items that the budget allows now. Otherwise how the delivery ends, because the wait would go
    /// beyond the deadline, or a stop is asked for; `None` after a wait for the budget, so that the caller looks again.
    async fn allowed(&self, queue: &PurgeQueue, deadline: Instant) -> Result<usize, Option<DeliveryEnd>> {
        match self.options.budget.allowance(&queue.spent, SystemTime::now()) {
            PurgeAllowance::Items(items) => Ok(items),
            PurgeAllowance::Wait(wait) => {
                if self.pause(wait + Duration::from_secs(1), deadline).await {
                    return Err(None);
                }
                let wait = humantime::format_duration(Duration::from_secs(wait.as_secs().max(1)));
                Err(Some(DeliveryEnd::Waits(format!("the budget allows the next item in {wait}"))))
            }
        }
    }

    /// Sends the names that an earlier purge left over, as the same requests.
    async fn send_left(
        &self,
        provider: &dyn Provider,
        queue: &PurgeQueue,
        deadline: Instant,
        delivered: &mut Delivered,
    ) -> Result<Option<DeliveryEnd>, OutboxError> {
        let sent = self.send(provider, &queue.left, &queue.left_of, deadline).await;
        delivered.sent += sent.taken;
        let left = left_names(&sent.left);
        self.note(&sent, |now| {
            now.left.clone_from(&left);
            if let (true, Some(rebound)) = (left.is_empty(), self.options.rebound) {
                let of = std::mem::take(&mut now.left_of);
                let at = due(rebound);
                now.rebounds.iter_mut().filter(|one| one.entry.id == of).for_each(|one| one.at = one.at.max(at));
            }
        })
    }

    /// Sends a rebound: what was sent before, once more, within the budget.
    async fn send_again(
        &self,
        provider: &dyn Provider,
        queue: &PurgeQueue,
        due: &Rebound,
        deadline: Instant,
    ) -> Result<Option<DeliveryEnd>, OutboxError> {
        let max_items = match self.allowed(queue, deadline).await {
            Ok(max_items) => max_items,
            Err(ends) => return Ok(ends),
        };
        let planning = Planning { target: self.target, options: self.options, facts: self.options.provider.facts() };
        let by = if due.by_address { Planning::everything() } else { planning.by(queue) };
        let entries = std::slice::from_ref(&due.entry);
        let plan = tokio::task::block_in_place(|| planning.plan_listed(entries, max_items, &by));
        let of = format!("again {} {}", due.at, due.entry.id);
        let sent = self.send(provider, &names(&plan.items, &planning.addresses()), &of, deadline).await;
        let left = left_names(&sent.left);
        let rest = planning.rest(entries, &left, &due.entry.id);
        self.note(&sent, |now| {
            if left.is_empty() {
                now.rebounds.retain(|one| one != due);
            } else if let Some(one) = now.rebounds.iter_mut().find(|one| *one == due) {
                one.entry = rest.clone();
            }
        })
    }

    async fn send(&self, provider: &dyn Provider, names: &[PurgeName], of: &str, deadline: Instant) -> Sent {
        let batches = batches(names, |kind| provider.limits(kind), of);
        let within = deadline.saturating_duration_since(Instant::now());
        send(self.options.provider.name(), provider, batches, within, self.stop).await
    }

    /// Writes to the outbox what was sent and what it cost. Returns how the delivery ends, or `None` if it goes on.
    fn note(&self, sent: &Sent, how: impl Fn(&mut PurgeQueue)) -> Result<Option<DeliveryEnd>, OutboxError> {
        let now = SystemTime::now();
        self.change(|queue| {
            how(queue);
            if sent.taken > 0 {
                queue.spent = PurgeBudget::after(&queue.spent, sent.taken, now);
            }
            queue.stopped = match &sent.end {
                SendEnd::Refused(what) => Some(what.clone()),
                _ => None,
            };
        })?;
        Ok(match &sent.end {
            SendEnd::All => None,
            SendEnd::TimeUp(Some(what)) => Some(DeliveryEnd::Waits(what.clone())),
            SendEnd::TimeUp(None) => {
                Some(DeliveryEnd::Waits("the provider takes no more items in this time".to_owned()))
            }
            SendEnd::Stopped => Some(DeliveryEnd::Waits("a stop was asked for".to_owned())),
            SendEnd::Refused(what) => Some(DeliveryEnd::Stopped(what.clone())),
        })
    }

    /// Waits for `wait`. Returns false if that would go beyond the deadline, or if a stop is asked for.
    async fn pause(&self, wait: Duration, deadline: Instant) -> bool {
        if wait.is_zero() {
            return true;
        }
        pause(wait, deadline, self.stop, None).await.is_ok()
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

/// When a rebound is due, in seconds since 1970: rounded up, because it may not come early.
fn due(rebound: Duration) -> u64 {
    seconds_now() + rebound.as_secs().max(1) + 1
}

fn left_names(batches: &[PurgeBatch]) -> Vec<PurgeName> {
    let of_batch = |batch: &PurgeBatch| {
        let kind = batch.kind;
        batch.names.iter().map(|name| PurgeName { kind, name: name.clone() }).collect::<Vec<_>>()
    };
    batches.iter().flat_map(of_batch).collect()
}

/// Identifies the publishes that are sent together: a hash of their ids.
fn identity(entries: &[OutboxEntry]) -> String {
    hash_of_texts(entries.iter().map(|entry| &entry.id))
}

// Sends batches to a provider: within its rates, with pauses after refusals, until a deadline.

/// The outcome of sending batches.
#[derive(Debug)]
pub struct Sent {
    /// The batches that the provider did not accept, in their order.
    pub left: Vec<PurgeBatch>,
    /// How many names the provider accepted.
    pub taken: usize,
    /// How many times the provider asked to wait, or could not be reached.
    pub refusals: u32,
    pub end: SendEnd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendEnd {
    /// The provider accepted all batches.
    All,
    /// The time is up; with the last refusal, if one was the cause.
    TimeUp(Option<String>),
    /// The provider refuses until somebody changes something.
    Refused(String),
    /// A stop was asked for.
    Stopped,
}

/// Sends batches in their order until all are accepted, `within` has passed, a stop is asked for or the provider
/// refuses permanently. A batch that is in flight when the time is up is waited for. `name` is the provider's in
/// messages.
pub async fn send(
    name: &str,
    provider: &dyn Provider,
    batches: Vec<PurgeBatch>,
    within: Duration,
    stop: &Stop,
) -> Sent {
    let end = Instant::now() + within;
    let mut pace = Pace { name, provider, requests: HashMap::new(), items: HashMap::new() };
    let mut pauses = pace::PAUSES;
    let mut sent = Sent { left: Vec::new(), taken: 0, refusals: 0, end: SendEnd::All };
    let mut waiting = batches.into_iter();
    while let Some(batch) = waiting.next() {
        if let Err(why) = one(&mut pace, &mut pauses, &batch, end, stop, &mut sent.refusals).await {
            sent.end = why;
            sent.left = std::iter::once(batch).chain(waiting).collect();
            break;
        }
        sent.taken += batch.names.len();
    }
    sent
}

/// Sends one batch; retries as long as the provider asks to wait.
async fn one(
    pace: &mut Pace<'_>,
    pauses: &mut Backoff,
    batch: &PurgeBatch,
    end: Instant,
    stop: &Stop,
    refusals: &mut u32,
) -> Result<(), SendEnd> {
    let mut refusal = None;
    loop {
        while let Err(wait) = pace.take(batch) {
            pause(wait, end, stop, refusal.as_ref()).await?;
        }
        if stop.asked().is_some() {
            return Err(SendEnd::Stopped);
        }
        match pace.provider.send(batch).await {
            Ok(()) => {
                pauses.reset();
                return Ok(());
            }
            Err(SendError::Refused { what }) => return Err(SendEnd::Refused(what)),
            Err(SendError::Later { what, retry_after }) => {
                *refusals += 1;
                tracing::info!("{} asks to wait: {what}", pace.name);
                let wait = pace::pause(pauses, retry_after, fastrand::f64());
                refusal = Some(what);
                pause(wait, end, stop, refusal.as_ref()).await?;
            }
        }
    }
}

/// Waits for `wait`. If that would go beyond `end`, returns [`SendEnd::TimeUp`] at once.
async fn pause(wait: Duration, end: Instant, stop: &Stop, refusal: Option<&String>) -> Result<(), SendEnd> {
    if Instant::now() + wait > end {
        return Err(SendEnd::TimeUp(refusal.cloned()));
    }
    tokio::select! {
        () = tokio::time::sleep(wait) => Ok(()),
        _ = stop.wait() => Err(SendEnd::Stopped),
    }
}

/// The rates of a provider, by kind of names.
struct Pace<'a> {
    /// The provider's name in messages.
    name: &'a str,
    provider: &'a dyn Provider,
    requests: HashMap<ItemKind, TokenBucket>,
    items: HashMap<ItemKind, TokenBucket>,
}

impl Pace<'_> {
    /// Takes the tokens that a batch needs, or returns how long to wait for them.
    fn take(&mut self, batch: &PurgeBatch) -> Result<(), Duration> {
        let (limits, now) = (self.provider.limits(batch.kind), Instant::now());
        let items = self.items.entry(batch.kind).or_insert_with(|| TokenBucket::new(limits.items, now));
        let requests = self.requests.entry(batch.kind).or_insert_with(|| TokenBucket::new(limits.requests, now));
        let count = f64::from(u32::try_from(batch.names.len()).unwrap_or(u32::MAX));
        // Takes from both buckets or from none: the clone only tests the first one.
        items.clone().take(count, now)?;
        requests.take(1.0, now)?;
        items.take(count, now)
    }
}

// A dry run: what would be sent, without sending it.

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
