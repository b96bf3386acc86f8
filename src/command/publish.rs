//! `oar-tiles publish`: lists the versions of a target, or switches clients to another one.

use std::path::Path;

use crate::config::layer_names;
use crate::manifest::Publication;
use crate::purge::{Outbox, OutboxEntry, queue_name};
use crate::run::{CommandError, Job, TargetUrl};
use crate::sink::{Latest, RewrittenHeaders, TargetError, directory_versions, switch_directory};
use crate::tile::TileRectList;

/// What `publish` was asked for, beside the settings.
#[derive(Debug, Clone, Default)]
pub struct PublishOptions {
    /// Switch back to the version before the current one.
    pub rollback: bool,
    /// Switch to this version.
    pub to: Option<String>,
}

/// Switches clients to another version, if the options ask for it; returns the versions.
///
/// # Errors
/// If the target has no versions, not the one asked for, or cannot be written.
pub fn publish(job: &Job, options: &PublishOptions) -> Result<Latest, CommandError> {
    let switches = options.rollback || options.to.is_some();
    if switches && !job.settings.tileset.purges.is_empty() {
        // Before the switch, too: after a kill between the two nobody else would tell the CDNs.
        add_documents(job)?;
    }
    let latest = switched(job, options)?;
    if switches && !job.settings.tileset.purges.is_empty() {
        add_documents(job)?;
    }
    Ok(latest)
}

/// Gives every tile of a prefix in S3 the headers of the settings, and puts everything into the outbox of the CDNs.
///
/// # Errors
/// If the target is no prefix in S3, or cannot be written.
pub fn rewrite_headers(job: &Job) -> Result<RewrittenHeaders, CommandError> {
    let rewritten = job.target.rewrite_headers(&layer_names(&job.settings.tileset.layers))?;
    if !job.settings.tileset.purges.is_empty() {
        add(job, &OutboxEntry::new(0, Publication::after(None).id, None, Vec::new()))?;
    }
    Ok(rewritten)
}

/// Puts the documents that lead to a version into the outbox.
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

fn switched(job: &Job, options: &PublishOptions) -> Result<Latest, CommandError> {
    let target = &job.target;
    match &target.url {
        TargetUrl::Directory(path) => directory(path, options),
        TargetUrl::Mbtiles(_) | TargetUrl::Pmtiles(_) | TargetUrl::S3Pmtiles { .. } => {
            Err(CommandError::NoVersions { target: target.to_string() })
        }
        TargetUrl::S3Prefix { .. } => {
            target.s3_versions(options.rollback || options.to.is_some(), options.to.as_deref())
        }
    }
}

fn directory(path: &Path, options: &PublishOptions) -> Result<Latest, CommandError> {
    let latest = if options.rollback || options.to.is_some() {
        switch_directory(path, options.to.as_deref()).map_err(TargetError::from)??
    } else {
        directory_versions(path).map_err(TargetError::from)?
    };
    Ok(latest)
}
