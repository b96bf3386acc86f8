//! Sends batches to a provider: within its rates, with pauses after refusals, until a deadline.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::pace::{PurgeBackoff, TokenBucket};
use super::provider::{ItemKind, Provider, PurgeBatch, SendError};
use crate::stop::Stop;

/// The outcome of sending batches.
#[derive(Debug)]
pub struct Sent {
    /// The batches that the provider did not accept, in their order.
    pub left: Vec<PurgeBatch>,
    /// How many names the provider accepted.
    pub taken: usize,
    /// How many times the provider asked to wait, or could not be reached.
    pub refusals: u32,
    /// Why it ended.
    pub end: SendEnd,
}

/// Why sending ended.
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

/// Sends batches in their order until all are accepted, `within` has passed, a stop is asked for or the provider refuses permanently. A batch that is
/// in flight when the time is up is waited for.
pub async fn send(provider: &dyn Provider, batches: Vec<PurgeBatch>, within: Duration, stop: &Stop) -> Sent {
    let end = Instant::now() + within;
    let mut pace = Pace { provider, requests: HashMap::new(), items: HashMap::new() };
    let mut backoff = PurgeBackoff::default();
    let mut sent = Sent { left: Vec::new(), taken: 0, refusals: 0, end: SendEnd::All };
    let mut waiting = batches.into_iter();
    while let Some(batch) = waiting.next() {
        if let Err(why) = one(&mut pace, &mut backoff, &batch, end, stop, &mut sent.refusals).await {
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
    backoff: &mut PurgeBackoff,
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
                backoff.succeeded();
                return Ok(());
            }
            Err(SendError::Refused { what }) => return Err(SendEnd::Refused(what)),
            Err(SendError::Later { what, retry_after }) => {
                *refusals += 1;
                tracing::info!("{} asks to wait: {what}", pace.provider.facts().name);
                let wait = backoff.pause(retry_after, fastrand::f64());
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
