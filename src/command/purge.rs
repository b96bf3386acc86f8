//! `oar-tiles purge`: sends CDNs what waits in a target's outbox, or what the user names.

use std::path::PathBuf;

use crate::purge::{Delivered, Outbox, OutboxEntry, PlannedPurge, PurgeQueue, planned, queue_name};
use crate::report::PurgeStatus;
use crate::run::attempts::aside;
use crate::run::look::listed;
use crate::run::{CommandError, Job};
use crate::tile::TileRectList;

/// The options of `purge`, in addition to the settings.
#[derive(Debug, Clone, Default)]
pub struct PurgeRequest {
    /// Also purge every tile.
    pub all: bool,
    /// Also purge the tiles of this list.
    pub tiles: Option<PathBuf>,
    /// Forget what waits, and send nothing.
    pub forget: bool,
}

/// Sends the CDNs of the job's target what waits and what was requested.
///
/// # Errors
/// If there are no CDNs in the settings, the outbox cannot be used, or a CDN that is required was not notified.
pub async fn purge(job: &Job, request: &PurgeRequest) -> Result<Vec<Delivered>, CommandError> {
    add(job, request).await?;
    if request.forget {
        return Ok(Vec::new());
    }
    job.purge_published(true).await
}

/// What would be sent. Changes nothing.
///
/// # Errors
/// If the outbox cannot be read.
pub async fn dry_run(job: &Job, request: &PurgeRequest) -> Result<Vec<PlannedPurge>, CommandError> {
    let entry = entry(request)?;
    let owned = job.clone();
    let purges = purges(job)?.to_vec();
    aside(move || Ok(planned(&owned.purge_target()?, &purges, entry.as_ref())?)).await?
}

/// What waits for each CDN, including CDNs that are no longer in the settings.
///
/// # Errors
/// If the outbox cannot be read.
pub async fn status(job: &Job) -> Result<Vec<PurgeStatus>, CommandError> {
    purges(job)?;
    job.purge_status().await
}

/// The CDNs of the settings.
fn purges(job: &Job) -> Result<&[crate::purge::PurgeOptions], CommandError> {
    match &job.settings.tileset.purges[..] {
        [] => Err(CommandError::NoPurges { target: job.target.to_string() }),
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
async fn add(job: &Job, request: &PurgeRequest) -> Result<(), CommandError> {
    let names: Vec<String> = purges(job)?.iter().map(queue_name).collect();
    let (entry, forgets, notes) = (entry(request)?, request.forget, job.target.notes()?);
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
    aside(changed).await??;
    Ok(())
}
