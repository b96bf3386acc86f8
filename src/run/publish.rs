//! `oar-tiles publish`: lists the versions of a target, or switches clients to another one.

use super::{CommandError, Job, VersionSwitch};
use crate::cdn::{Outbox, OutboxEntry, queue_name};
use crate::config::layer_names;
use crate::manifest::Publication;
use crate::target::{Latest, RewrittenHeaders};
use crate::tile::TileRectList;

/// Switches clients to another version if `switch` asks for it. Returns the versions. Fails if the target has no
/// versions, lacks the wanted one, or cannot be written.
pub(crate) fn publish(job: &Job, switch: VersionSwitch<'_>) -> Result<Latest, CommandError> {
    let switches = switch != VersionSwitch::Stay;
    if switches && !job.settings.tileset.purges.is_empty() {
        // Also before the switch: if the program is killed between the two, nothing else would notify the CDNs.
        add_documents(job)?;
    }
    let latest = job.target.versions(switch)?;
    if switches && !job.settings.tileset.purges.is_empty() {
        add_documents(job)?;
    }
    Ok(latest)
}

/// Gives every tile of a prefix in S3 the headers of the settings, and adds an entry for all tiles to the outbox of the
/// CDNs. Fails if the target is not a prefix in S3, or cannot be written.
pub(crate) fn rewrite_headers(job: &Job) -> Result<RewrittenHeaders, CommandError> {
    let rewritten = job.target.rewrite_headers(&layer_names(&job.settings.tileset.layers))?;
    if !job.settings.tileset.purges.is_empty() {
        add(job, &OutboxEntry::new(0, Publication::after(None).id, None, Vec::new()))?;
    }
    Ok(rewritten)
}

/// Adds the documents that name a version to the outbox.
fn add_documents(job: &Job) -> Result<(), CommandError> {
    let documents = Outbox::DOCUMENTS.map(str::to_owned).to_vec();
    add(job, &OutboxEntry::new(0, Publication::after(None).id, Some(TileRectList::default()), documents))
}

fn add(job: &Job, entry: &OutboxEntry) -> Result<(), CommandError> {
    let names: Vec<String> = job.settings.tileset.purges.iter().map(queue_name).collect();
    Outbox::change(&*job.target.notes()?, |outbox| {
        for name in &names {
            outbox.queues.entry(name.clone()).or_default().add(entry.clone());
        }
    })?;
    Ok(())
}
