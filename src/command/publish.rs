//! `oar-tiles publish`: which versions a target has, and which one the map shows.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::CommandError;
use super::target::{Place, Reach};
use crate::config::Settings;
use crate::report::print;
use crate::sink::{Latest, TargetError, directory_versions, switch_directory};
use crate::stop::Stop;

/// What `publish` was asked for, beside the settings.
#[derive(Debug, Clone, Default)]
pub struct PublishOptions {
    /// Show the version before.
    pub rollback: bool,
    /// Show this version.
    pub to: Option<String>,
}

/// Switches the map to another version if asked to, and prints the versions.
///
/// # Errors
/// If the target has no versions, not that one, or cannot be written.
pub fn publish(settings: &Settings, options: &PublishOptions, stop: &Stop) -> Result<(), CommandError> {
    let reach = Reach::new(settings, false, stop);
    let place = Place::parse(&settings.tileset.output.to_string_lossy())?;
    let latest = match &place {
        Place::Directory(path) => directory(path, options)?,
        Place::Mbtiles(_) | Place::Pmtiles(_) | Place::S3Pmtiles { .. } => {
            return Err(CommandError::NoVersions { place: place.to_string() });
        }
        Place::S3Prefix { .. } => {
            reach.s3_versions(&place, options.rollback || options.to.is_some(), options.to.as_deref())?
        }
    };
    Ok(print(&table(&latest))?)
}

fn directory(path: &Path, options: &PublishOptions) -> Result<Latest, CommandError> {
    let latest = if options.rollback || options.to.is_some() {
        switch_directory(path, options.to.as_deref()).map_err(TargetError::from)??
    } else {
        directory_versions(path).map_err(TargetError::from)?
    };
    Ok(latest)
}

/// The versions, one a line, the one that the map shows marked.
fn table(latest: &Latest) -> String {
    let mut text = String::new();
    for version in &latest.versions {
        let mark = if version.version == latest.version { "shown" } else { "     " };
        let published = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(version.published));
        text.push_str(&format!("{mark}  {}  published {published}\n", version.version));
    }
    text
}
