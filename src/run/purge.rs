//! `oar-tiles purge`: sends CDNs what waits in a target's outbox, or what the user names.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};

use super::dirty::listed;
use super::{CommandError, TilesetRun, if_any};
use crate::cdn::{
    AllTiles, Delivered, DeliveryEnd, DeliveryPatience, Outbox, OutboxEntry, OutboxError, PlannedPurge, PurgeOptions,
    PurgeQueue, PurgeTarget, TagSender, TilesToPurge, deliver, planned, queue_name, tiles_of,
};
use crate::manifest::publication_of;
use crate::report::{PurgeStatus, Report};
use crate::serve::SETTLE;
use crate::suggested::PURGE;
use crate::target::HeaderNote;
use crate::tile::{LayerId, Slice, TileRectList};

/// The options of `purge`, in addition to the settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct PurgeRequest {
    /// Also purge every tile.
    pub all: bool,
    /// Also purge the tiles of this list.
    pub tiles: Option<PathBuf>,
    /// Forget what waits, and send nothing.
    pub forget: bool,
}

/// Sends the CDNs of the run's target what waits and what was requested. Fails if there are no CDNs in the settings,
/// the outbox cannot be used, or a CDN that is required was not notified.
pub(crate) async fn purge(run: &TilesetRun, request: &PurgeRequest) -> Result<Vec<Delivered>, CommandError> {
    add(run, request).await?;
    if request.forget {
        return Ok(Vec::new());
    }
    run.purge_published(true).await
}

/// What would be sent. Changes nothing.
pub(crate) async fn dry_run(run: &TilesetRun, request: &PurgeRequest) -> Result<Vec<PlannedPurge>, CommandError> {
    let entry = entry(request)?;
    let owned = run.clone();
    let purges = purges(run)?.to_vec();
    spawn_blocking(move || Ok(planned(&owned.purge_target()?, &purges, entry.as_ref())?)).await?
}

/// What waits for each CDN, including CDNs that are no longer in the settings.
pub(crate) async fn status(run: &TilesetRun) -> Result<Vec<PurgeStatus>, CommandError> {
    purges(run)?;
    run.purge_status().await
}

fn purges(run: &TilesetRun) -> Result<&[crate::cdn::PurgeOptions], CommandError> {
    match &run.settings.tileset.purges[..] {
        [] => Err(CommandError::NoPurges { target: run.target.to_string() }),
        purges => Ok(purges),
    }
}

/// The user's request as an entry of the outbox.
fn entry(request: &PurgeRequest) -> Result<Option<OutboxEntry>, CommandError> {
    let tiles = match (&request.tiles, request.all) {
        (_, true) => None,
        (Some(path), false) => TileRectList::of(listed(path)?.into_iter().map(|(_, tile)| tile)),
        (None, false) => return Ok(None),
    };
    let id = crate::manifest::Publication::after(None).id;
    Ok(Some(OutboxEntry::new(0, id, tiles, Vec::new())))
}

/// Adds the request to the outbox, so that it is sent even if this command is killed.
async fn add(run: &TilesetRun, request: &PurgeRequest) -> Result<(), CommandError> {
    let names: Vec<String> = purges(run)?.iter().map(queue_name).collect();
    let (entry, forgets, notes) = (entry(request)?, request.forget, run.target.notes()?);
    let changed = move || {
        Outbox::change(&*notes, |outbox| {
            if forgets {
                // Also forgets what waits for CDNs that are no longer in the settings.
                outbox.queues.retain(|name, _| names.contains(name));
            }
            for name in &names {
                let queue = outbox.queues.entry(name.clone()).or_default();
                if forgets {
                    *queue = PurgeQueue { spent: queue.spent, ..PurgeQueue::default() };
                }
                if let Some(entry) = &entry {
                    queue.add(entry.clone());
                }
            }
        })
    };
    spawn_blocking(changed).await??;
    Ok(())
}

// Purges after a publish: sends the content of the run's outbox to CDNs.

impl TilesetRun {
    /// What a purge has to know about the run's target. May wait for a disk or a server.
    pub(crate) fn purge_target(&self) -> Result<PurgeTarget, CommandError> {
        let tileset = &self.settings.tileset;
        let described = self.target.reader_of_what_is_there()?.map(|mut reader| reader.describe()).transpose()?;
        // A target without a manifest (a copy of a part), or one that an older program has written, has no publication
        // number to wait for.
        let number = |manifest: Option<String>| {
            manifest.and_then(|text| publication_of(&text)).map_or(u64::MAX, |publication| publication.number)
        };
        let published = described.map(|described| number(described.manifest));
        let template = self.target.options.addresses(&self.target.url);
        let patterns = if template.layers_apart() {
            let slices =
                (0..tileset.layers.len()).filter_map(|number| Some(Slice::Layer(LayerId(u16::try_from(number).ok()?))));
            slices.map(|slice| template.address(slice)).collect()
        } else {
            vec![template.address(Slice::Whole)]
        };
        let target = self.target.clone();
        let all_tiles: AllTiles = Arc::new(move || {
            let listed = target.reader().and_then(|mut reader| Ok(reader.list()?));
            listed.map(|tiles| tiles.into_iter().map(|id| id.coord).collect()).map_err(|error| error.to_string())
        });
        Ok(PurgeTarget {
            notes: self.target.notes()?,
            published,
            tag: tileset.bucket.names.tag.clone(),
            zooms: tileset.zooms.clone(),
            patterns,
            purges_filtered: tileset.purges_filtered(),
            all_tiles,
            tags: self.tag_sender()?,
            // Servers check files at each request, but poll a target in a bucket.
            settle: if self.target.url.is_in_bucket() { SETTLE } else { Duration::ZERO },
        })
    }

    /// Who sends tags with the tiles. May wait for a server.
    fn tag_sender(&self) -> Result<TagSender, CommandError> {
        let tileset = &self.settings.tileset;
        let s3 = &tileset.bucket;
        if self.target.url.stores_objects() && s3.has_band() {
            let now = s3.headers_digest();
            let note = HeaderNote::read(&*self.target.notes()?).map_err(OutboxError::from)?;
            let is_complete = note.is_some_and(|note| note.is_complete && note.headers == now);
            return Ok(if is_complete { TagSender::Bucket(now) } else { TagSender::Nobody });
        }
        let sent = &self.settings.server.tile_headers;
        let with_band: Vec<String> = sent
            .headers
            .iter()
            .filter(|header| header.text.has_band())
            .map(|header| format!("{}: {}", header.name, header.text))
            .collect();
        if with_band.is_empty() {
            return Ok(TagSender::Nobody);
        }
        Ok(TagSender::Server(format!("{} of {}", with_band.join(", "), sent.names.tag.as_str())))
    }

    /// Like [`TilesetRun::purge_target`], but `None` if no CDN has to be notified, which one read of the outbox shows.
    fn purge_target_if_something_waits(&self) -> Result<Option<PurgeTarget>, CommandError> {
        let outbox = Outbox::read(&*self.target.notes()?)?;
        let queue = |options: &PurgeOptions| outbox.queues.get(&queue_name(options));
        let waits = self.settings.tileset.purges.iter().filter_map(queue).any(|queue| !queue.is_empty());
        waits.then(|| self.purge_target()).transpose()
    }

    /// Notifies the CDNs of what was published, and waits for each as long as its settings say. What could not be sent
    /// stays in the outbox, with a warning. With `retries`, CDNs that have refused for good are asked again. Fails if
    /// the outbox cannot be read or written, or a CDN that is required was not notified.
    pub(crate) async fn purge_published(&self, retries: bool) -> Result<Vec<Delivered>, CommandError> {
        let patience = DeliveryPatience { retries, repeats: true };
        let delivered = self.notify_cdns(&self.settings.tileset.purges, patience).await?;
        let mut missing = Vec::new();
        if !self.settings.tileset.purges.is_empty() {
            let status = self.purge_status().await?;
            for left in status.iter().filter(|left| !is_configured(&left.provider, &self.settings.tileset.purges)) {
                let message = format!(
                    "what changed waits for {}, and no [[purge]] has this address: put it back, or run {PURGE} --forget when that cache is no longer used",
                    left.provider
                );
                self.report.warn(message);
            }
        }
        for one in &delivered {
            let Some(message) = warning(one) else { continue };
            self.report.warn(message);
            if one.required {
                missing.push(format!("{} ({})", one.provider, one.url));
            }
        }
        if missing.is_empty() {
            return Ok(delivered);
        }
        Err(CommandError::NotPurged { target: self.target.to_string(), providers: missing.join(", ") })
    }

    /// The outbox of the run's target.
    pub(crate) async fn outbox(&self) -> Result<Outbox, CommandError> {
        let notes = self.target.notes()?;
        Ok(spawn_blocking(move || Outbox::read(&*notes)).await??)
    }

    /// What waits for each CDN of the settings, and for CDNs that were in the settings at the time of a publish.
    pub(crate) async fn purge_status(&self) -> Result<Vec<PurgeStatus>, CommandError> {
        let purges = &self.settings.tileset.purges;
        if purges.is_empty() {
            return Ok(Vec::new());
        }
        let outbox = self.outbox().await?;
        let of = |options: &PurgeOptions| {
            let name = queue_name(options);
            let queue = outbox.queues.get(&name).cloned().unwrap_or_default();
            status_of(name, &queue)
        };
        let removed = outbox.queues.iter().filter(|(name, queue)| !queue.is_empty() && !is_configured(name, purges));
        let of_removed = |(name, queue): (&String, &PurgeQueue)| PurgeStatus {
            stopped: Some("no [[purge]] has this address".to_owned()),
            ..status_of(name.clone(), queue)
        };
        Ok(purges.iter().map(of).chain(removed.map(of_removed)).collect())
    }

    async fn notify_cdns(
        &self,
        purges: &[PurgeOptions],
        patience: DeliveryPatience,
    ) -> Result<Vec<Delivered>, CommandError> {
        if purges.is_empty() {
            return Ok(Vec::new());
        }
        let run = self.clone();
        let target = spawn_blocking(move || run.purge_target_if_something_waits()).await??;
        let Some(target) = target else { return Ok(Vec::new()) };
        Ok(deliver(&target, purges, patience, &self.stop).await?)
    }
}

fn status_of(provider: String, queue: &PurgeQueue) -> PurgeStatus {
    let counted = |tiles: TilesToPurge| tiles.count().map(|count| count as u64);
    let again = queue.rebounds.iter().fold(TilesToPurge::default(), |all, one| all.joined(tiles_of(&one.entry)));
    PurgeStatus {
        provider,
        tiles: counted(queue.tiles()),
        again: counted(again),
        items: queue.left.len() as u64,
        oldest_seconds: queue.oldest(),
        spent_this_month: queue.spent.items,
        stopped: queue.stopped.clone(),
    }
}

/// True if the queue belongs to one of the configured CDNs.
fn is_configured(queue: &str, purges: &[PurgeOptions]) -> bool {
    purges.iter().any(|options| queue_name(options) == queue)
}

/// The warning for a CDN that was not notified of everything; `None` if there is nothing to report.
fn warning(one: &Delivered) -> Option<String> {
    let (provider, url) = (one.provider, &one.url);
    match &one.end {
        DeliveryEnd::Done | DeliveryEnd::Repeats(_) => None,
        end @ (DeliveryEnd::Waits(_) | DeliveryEnd::Unpublished) => Some(format!(
            "{provider} ({url}) was not told everything yet: {}. The next run tells the rest, or {PURGE}",
            end.waits_for().unwrap_or_default()
        )),
        DeliveryEnd::Stopped(why) => Some(format!(
            "{provider} ({url}) refuses to be told what changed, and shows old tiles: {why}. Put that right, then run {PURGE}"
        )),
    }
}

/// The pause before a task retries what waits.
const PURGE_RETRY: Duration = Duration::from_secs(15);

/// Notifies CDNs while a run goes on: at its beginning, whenever it is woken, and while something waits. Each CDN has a
/// task of its own, so that a slow one does not delay another.
pub(crate) struct PurgeTask {
    wake: Vec<Arc<Notify>>,
    tasks: Vec<JoinHandle<()>>,
}

impl PurgeTask {
    /// Starts the tasks; `None` if there are no CDNs.
    pub(crate) fn begin(run: &TilesetRun) -> Option<PurgeTask> {
        let purges = &run.settings.tileset.purges;
        if purges.is_empty() {
            return None;
        }
        let wake: Vec<Arc<Notify>> = purges.iter().map(|_| Arc::new(Notify::new())).collect();
        let one = |(options, woken): (&PurgeOptions, &Arc<Notify>)| {
            tokio::spawn(notify_cdn(run.clone(), options.clone(), Arc::clone(woken)))
        };
        let tasks = purges.iter().zip(&wake).map(one).collect();
        Some(PurgeTask { wake, tasks })
    }

    /// Wakes the tasks because something was published.
    pub(crate) fn wake(&self) {
        self.wake.iter().for_each(|wake| wake.notify_one());
    }

    /// Waits until the tasks end after a stop was asked for. A request that is under way is finished.
    pub(crate) async fn end(mut self) {
        for task in &mut self.tasks {
            if let Err(error) = task.await {
                tracing::warn!("telling CDNs has ended early: {error}");
            }
        }
    }
}

impl Drop for PurgeTask {
    fn drop(&mut self) {
        // What the tasks have not sent stays in the outbox.
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Notifies one CDN until a stop is asked for.
async fn notify_cdn(run: TilesetRun, options: PurgeOptions, woken: Arc<Notify>) {
    let mut said = Vec::new();
    while run.stop.asked().is_none() {
        let patience = DeliveryPatience { retries: false, repeats: false };
        let delivered = run.notify_cdns(std::slice::from_ref(&options), patience).await;
        let (next, messages) = match &delivered {
            Ok(all) => {
                let next = all.iter().find_map(|one| match &one.end {
                    DeliveryEnd::Waits(_) | DeliveryEnd::Unpublished => Some(PURGE_RETRY),
                    DeliveryEnd::Repeats(wait) => Some(*wait),
                    DeliveryEnd::Done | DeliveryEnd::Stopped(_) => None,
                });
                // What this process is about to publish wakes this task again.
                let is_told = |one: &&Delivered| one.end != DeliveryEnd::Unpublished;
                (next, all.iter().filter(is_told).filter_map(warning).collect())
            }
            Err(error) => (Some(PURGE_RETRY), vec![error.to_string()]),
        };
        report_new(&*run.report, &mut said, messages);
        tokio::select! {
            () = woken.notified() => {}
            () = if_any(next.map(tokio::time::sleep)) => {}
            _ = run.stop.wait() => {}
        }
    }
}

/// Reports messages that were not reported the last time.
fn report_new(report: &dyn Report, said: &mut Vec<String>, messages: Vec<String>) {
    for message in messages.iter().filter(|message| !said.contains(message)) {
        report.warn(message.clone());
    }
    *said = messages;
}
