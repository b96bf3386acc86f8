//! `oar-tiles publish`: lists the versions of a target, or switches clients to another one.

use super::{CommandError, TilesetRun, VersionSwitch};
use crate::cdn::{Outbox, OutboxEntry, queue_name};
use crate::config::layer_names;
use crate::manifest::Publication;
use crate::target::{Latest, RewrittenHeaders};
use crate::tile::TileRectList;

/// Switches clients to another version if `switch` asks for it. Returns the versions. Fails if the target has no
/// versions, lacks the wanted one, or cannot be written.
pub(crate) fn publish(run: &TilesetRun, switch: VersionSwitch<'_>) -> Result<Latest, CommandError> {
    let switches = switch != VersionSwitch::Stay;
    if switches && !run.settings.tileset.purges.is_empty() {
        // Also before the switch: if the program is killed between the two, nothing else would notify the CDNs.
        add_documents(run)?;
    }
    let latest = run.target.versions(switch)?;
    if switches && !run.settings.tileset.purges.is_empty() {
        add_documents(run)?;
    }
    Ok(latest)
}

/// Gives every tile of a prefix in S3 the headers of the settings, and adds an entry for all tiles to the outbox of the
/// CDNs. Fails if the target is not a prefix in S3, or cannot be written.
pub(crate) fn rewrite_headers(run: &TilesetRun) -> Result<RewrittenHeaders, CommandError> {
    let rewritten = run.target.rewrite_headers(&layer_names(&run.settings.tileset.layers))?;
    if !run.settings.tileset.purges.is_empty() {
        add(run, &OutboxEntry::new(0, Publication::after(None).id, None, Vec::new()))?;
    }
    Ok(rewritten)
}

/// Adds the documents that name a version to the outbox.
fn add_documents(run: &TilesetRun) -> Result<(), CommandError> {
    let documents = run.target.options.documents(&run.target.url);
    add(run, &OutboxEntry::new(0, Publication::after(None).id, Some(TileRectList::default()), documents))
}

fn add(run: &TilesetRun, entry: &OutboxEntry) -> Result<(), CommandError> {
    let names: Vec<String> = run.settings.tileset.purges.iter().map(queue_name).collect();
    Outbox::change(&*run.target.notes()?, |outbox| {
        for name in &names {
            outbox.queues.entry(name.clone()).or_default().add(entry.clone());
        }
    })?;
    Ok(())
}
