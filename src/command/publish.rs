//! `oar-tiles publish`: which versions a target has, and which one the map shows.

use std::path::Path;

use crate::run::{CommandError, Job, TargetUrl};
use crate::sink::{Latest, TargetError, directory_versions, switch_directory};

/// What `publish` was asked for, beside the settings.
#[derive(Debug, Clone, Default)]
pub struct PublishOptions {
    /// Show the version before.
    pub rollback: bool,
    /// Show this version.
    pub to: Option<String>,
}

/// Switches the map to another version if asked to; gives the versions.
///
/// # Errors
/// If the target has no versions, not that one, or cannot be written.
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
