//! Targets: how a target is reached, and whether a run may replace what is there.
//!
//! | file | what |
//! |---|---|
//! | `targets` | how targets of each kind are opened and written; a sink of any kind |
//! | `claim` | what a run asks of its target before it writes |
//! | `refusal` | whether a target belongs to the tileset of a run; whether a run would leave too few of a target's tiles |
//! | `state` | what a target shows according to its manifest, and whether it fits the database and the settings |

mod claim;
mod refusal;
mod state;
mod targets;

use std::fmt;
use std::sync::Arc;

use super::{CommandError, KnownState};
use crate::manifest::Publication;
use crate::stop::Stop;
use crate::target::{BeforeManifest, ChangeListWriter, PartialScope, ReadError, TargetUrl};
use crate::tile::TileRectList;

pub(crate) use claim::{Claimed, claim, judge_rows, narrower_archive_warning, relative_address_warning};
pub(crate) use refusal::{TilesBefore, TilesetNames, refuse_other, refuse_shrink};
pub(crate) use state::{TargetState, needs_seed, why_not_repairable};
pub(crate) use targets::{AnySink, OpenedSink, TargetOptions, VersionSwitch};

/// A target: where it is, and how it is reached.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its kind, and its path or address.
    pub url: TargetUrl,
    pub(crate) options: TargetOptions,
    /// What the manifest of its family says that it shows, if it is a variant whose family was seeded.
    pub(crate) known: Option<KnownState>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl Target {
    /// The same target with another stop.
    pub(crate) fn under(&self, stop: &Stop) -> Target {
        Target { options: self.options.under(stop), ..self.clone() }
    }

    /// Another target with the same options.
    pub(crate) fn beside(&self, text: &str) -> Result<Target, CommandError> {
        self.options.target(text)
    }

    /// The partial regions that a run of all tiles gives up; an archive has none, because it is replaced as a whole.
    /// May wait for a server.
    pub(crate) fn partial(&self) -> Result<PartialScope, CommandError> {
        if self.url.is_archive() {
            return Ok(PartialScope::default());
        }
        let reader = match self.reader_of_what_is_there() {
            // A foreign target is refused, or replaced, when the sink is begun.
            Err(CommandError::Read(ReadError::Foreign { .. })) => None,
            reader => reader?,
        };
        let described = reader.and_then(|mut reader| reader.describe().ok());
        let manifest = described.and_then(|described| serde_json::from_str(&described.manifest?).ok());
        Ok(manifest.map_or_else(PartialScope::default, |manifest| PartialScope::of(&manifest)))
    }

    /// Everything that is notified of what a run with this publication changes, before its manifest becomes visible.
    /// Rows have changed in no tiles but `changed`; `None` if in any.
    pub(crate) fn before_manifest(
        &self,
        before: Option<&Publication>,
        publication: &Publication,
        changed: Option<&TileRectList>,
    ) -> Result<Vec<Arc<dyn BeforeManifest>>, CommandError> {
        let notes = self.notes()?;
        let outbox = self.options.outbox_writer(&self.url, Arc::clone(&notes), publication, changed);
        let (before, publication) = (before.cloned(), publication.clone());
        let mut listeners: Vec<Arc<dyn BeforeManifest>> = self.options.listeners.clone();
        listeners.push(Arc::new(ChangeListWriter { notes, before, publication }));
        listeners.extend(outbox);
        Ok(listeners)
    }

    /// The same target, with runs that also notify `listener`.
    pub(crate) fn with_listener(mut self, listener: Arc<dyn BeforeManifest>) -> Target {
        self.options.listeners.push(listener);
        self
    }

    /// The same target, with runs that also notify the listeners of `other`.
    pub(crate) fn telling_listeners_of(mut self, other: &Target) -> Target {
        self.options.listeners.extend(other.options.listeners.iter().cloned());
        self
    }

    /// True if the target is a directory or a prefix that is published as versions.
    pub(crate) fn publishes_versions(&self) -> bool {
        !self.url.is_archive() && self.options.writes_versions()
    }
}
