//! CDNs after a publish: what the run's outbox holds is sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::attempts::aside;
use super::{CommandError, Job};
use crate::manifest::publication_of;
use crate::purge::{AllTiles, Delivered, DeliveryEnd, Outbox, PurgeOptions, PurgeTarget, deliver, queue_name};
use crate::report::{Event, Report};
use crate::tile::{LayerId, Slice};

impl Job {
    /// What a purge has to know about the job's target. May wait for a disk or a server.
    pub(crate) fn purge_target(&self) -> Result<PurgeTarget, CommandError> {
        let tileset = &self.settings.tileset;
        let described = self.target.reader_of_what_is_there()?.map(|mut reader| reader.describe()).transpose()?;
        // A target without a manifest (a copy of a part), or one that an older program has written, has no numbers to wait for.
        let number = |manifest: Option<String>| {
            manifest.and_then(|text| publication_of(&text)).map_or(u64::MAX, |publication| publication.number)
        };
        let published = described.map(|described| number(described.manifest));
        let names: Vec<String> = tileset.layers.iter().map(|layer| layer.options.name.clone()).collect();
        let template = tileset.tree.template.clone().with_layers(names.iter().map(String::as_str));
        let patterns = if template.layers_apart() {
            let slices = (0..names.len()).filter_map(|number| Some(Slice::Layer(LayerId(u16::try_from(number).ok()?))));
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
            name: tileset.name.clone(),
            zooms: tileset.zooms.clone(),
            patterns,
            all_tiles,
        })
    }

    /// The same; `None` if no CDN has to be told anything, which one look at the outbox shows.
    fn purge_target_if_something_waits(&self) -> Result<Option<PurgeTarget>, CommandError> {
        let outbox = Outbox::read(&*self.target.notes()?)?;
        let queue = |options: &PurgeOptions| outbox.queues.get(&queue_name(options));
        let waits = self.settings.tileset.purges.iter().filter_map(queue).any(|queue| !queue.is_empty());
        waits.then(|| self.purge_target()).transpose()
    }

    /// Tells the CDNs what was published; waits for each as long as its settings say. What is not told is left in the outbox, with a
    /// warning. With `retries`, those that have refused for good are asked again.
    ///
    /// # Errors
    /// If the outbox cannot be read or written, or a CDN that is required was not told.
    pub async fn purge_published(&self, retries: bool) -> Result<Vec<Delivered>, CommandError> {
        let delivered = self.tell_cdns(retries).await?;
        let mut missing = Vec::new();
        for one in &delivered {
            let Some(message) = warning(one) else { continue };
            self.report.event(&Event::Warning { message });
            if one.required {
                missing.push(format!("{} ({})", one.provider, one.url));
            }
        }
        if missing.is_empty() {
            return Ok(delivered);
        }
        Err(CommandError::NotPurged { target: self.target.to_string(), providers: missing.join(", ") })
    }

    async fn tell_cdns(&self, retries: bool) -> Result<Vec<Delivered>, CommandError> {
        let purges = &self.settings.tileset.purges;
        if purges.is_empty() {
            return Ok(Vec::new());
        }
        let job = self.clone();
        let target = aside(move || job.purge_target_if_something_waits()).await??;
        let Some(target) = target else { return Ok(Vec::new()) };
        Ok(deliver(&target, purges, retries, &self.stop).await?)
    }
}

/// What the user has to know of a CDN that was not told everything.
fn warning(one: &Delivered) -> Option<String> {
    let (provider, url) = (one.provider, &one.url);
    match &one.end {
        DeliveryEnd::Done => None,
        DeliveryEnd::Waits(why) => Some(format!(
            "{provider} ({url}) was not told everything yet: {why}. The next run tells the rest, or oar-tiles purge"
        )),
        DeliveryEnd::Stopped(why) => Some(format!(
            "{provider} ({url}) refuses to be told what changed, and shows old tiles: {why}. Put that right, then run oar-tiles purge"
        )),
    }
}

/// How often a task tries again what waits.
const PURGE_RETRY: Duration = Duration::from_secs(15);

/// Tells CDNs beside a run that goes on: at its beginning, whenever it is woken, and while something waits.
pub(crate) struct PurgeTask {
    wake: Arc<Notify>,
    task: JoinHandle<()>,
}

impl PurgeTask {
    /// Begins; `None` if there are no CDNs.
    pub(crate) fn begin(job: &Job) -> Option<PurgeTask> {
        if job.settings.tileset.purges.is_empty() {
            return None;
        }
        let (wake, job) = (Arc::new(Notify::new()), job.clone());
        let woken = Arc::clone(&wake);
        let task = tokio::spawn(async move {
            let mut said = Vec::new();
            while job.stop.asked().is_none() {
                let told = job.tell_cdns(false).await;
                let (waits, messages) = match &told {
                    Ok(all) => (
                        all.iter().any(|one| matches!(one.end, DeliveryEnd::Waits(_))),
                        all.iter().filter(|one| one.end != DeliveryEnd::Done).filter_map(warning).collect(),
                    ),
                    Err(error) => (true, vec![error.to_string()]),
                };
                report_new(&*job.report, &mut said, messages);
                let retry =
                    async { if waits { tokio::time::sleep(PURGE_RETRY).await } else { std::future::pending().await } };
                tokio::select! {
                    () = woken.notified() => {}
                    () = retry => {}
                    _ = job.stop.wait() => {}
                }
            }
        });
        Some(PurgeTask { wake, task })
    }

    /// Something was published.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits for its end, after a stop was asked for: a request that is under way is finished.
    pub(crate) async fn end(mut self) {
        if let Err(error) = (&mut self.task).await {
            tracing::warn!("telling CDNs has ended early: {error}");
        }
    }
}

impl Drop for PurgeTask {
    fn drop(&mut self) {
        // What it has not told stays in the outbox.
        self.task.abort();
    }
}

/// Reports messages that were not reported the last time.
fn report_new(report: &dyn Report, said: &mut Vec<String>, messages: Vec<String>) {
    for message in messages.iter().filter(|message| !said.contains(message)) {
        report.event(&Event::Warning { message: message.clone() });
    }
    *said = messages;
}
