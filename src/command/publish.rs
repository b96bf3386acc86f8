//! `oar-tiles publish`: lists the versions of a target, or switches clients to another one.

use std::path::Path;

use crate::run::{CommandError, Job, TargetUrl};
use crate::sink::{Latest, TargetError, directory_versions, switch_directory};

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
