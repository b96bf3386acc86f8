//! Targets: how a target is reached, and whether a run may replace what is there.
//!
//! | file | what |
//! |---|---|
//! | `targets` | how targets of each kind are opened and written; a sink of any kind; whether a target belongs to the tileset of a run; whether a run would leave too few of a target's tiles |

mod targets;

use std::fmt;
use std::sync::Arc;

use super::describe::database_of;
use super::{CommandError, KnownState};
use crate::manifest::{Manifest, Publication, Region, configuration_of};
use crate::stop::Stop;
use crate::target::{BeforeManifest, ChangeListWriter, Intent, IntentKind, PartialScope, ReadError, Scope, TargetUrl};
use crate::tile::ZoomList;

pub(crate) use targets::{AnySink, TargetOptions, TilesBefore, TilesetNames, refuse_other, refuse_shrink};

/// A target: where it is, and how it is reached.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its kind, and its path or address.
    pub url: TargetUrl,
    /// How it is reached.
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
    pub(crate) fn before_manifest(
        &self,
        before: Option<&Publication>,
        publication: &Publication,
    ) -> Result<Vec<Arc<dyn BeforeManifest>>, CommandError> {
        let notes = self.notes()?;
        let outbox = self.options.outbox_writer(Arc::clone(&notes), publication);
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

// Unfinished runs of a target: whether a reseed repairs what they left, and which regions a seed has to cover if not.

/// Why a reseed cannot repair what an unfinished run left, and what to do; `None` if it can. It can if the unfinished
/// run may have changed only tiles for which the manifest speaks, and rendered them from the same tables with the same
/// configuration. Such a tile shows a later state than the manifest, or than the snapshot that the intent names, and
/// the reseed renders what changed since both anyway.
pub(crate) fn why_not_repairable(intent: &Intent, manifest: &Manifest) -> Option<String> {
    let left = match intent.run {
        IntentKind::Copy => return Some(format!("{intent} has not finished: copy the tiles again")),
        IntentKind::Replaced => format!("tiles of {intent} are still there"),
        IntentKind::Seed | IntentKind::Reseed | IntentKind::Unknown => format!("{intent} has not finished"),
    };
    let (theirs, ours) = (&intent.fingerprint, &manifest.fingerprint);
    if configuration_of(theirs) != configuration_of(ours) {
        return Some(format!(
            "{left}, and its tiles are of another configuration (their fingerprint is {theirs}, that of the manifest {ours}): seed with --force, and with its zooms and boxes, to replace them"
        ));
    }
    if theirs != ours {
        return Some(format!("{left}, and another version of oar-tiles drew its tiles ({theirs}, and not {ours})"));
    }
    if intent.database.as_deref() != Some(&database_of(manifest)) {
        return Some(format!("{left}, and its tiles show another database or other tables"));
    }
    let parts: Vec<Scope> = manifest.regions().filter_map(|part| Scope::read(&part.zooms, &part.bbox)).collect();
    if !intent.scope().is_within(&parts) {
        let held: Vec<String> = manifest.regions().map(|part| part.zooms).collect();
        return Some(format!(
            "{left}, and reaches beyond what the manifest speaks for (zooms {}): seed with its zooms and boxes",
            held.join(" and ")
        ));
    }
    None
}

/// The regions to seed so that nothing is left of an unfinished run: first the regions where its tiles lie, then those
/// for which the manifest speaks. The region of the last seed comes last. May wait for a server.
pub(crate) fn regions_to_seed(
    target: &Target,
    manifest: &Manifest,
    unfinished: &[Intent],
) -> Result<Vec<Region>, CommandError> {
    let mut regions = Vec::new();
    if unfinished.iter().any(|intent| why_not_repairable(intent, manifest).is_some()) {
        let tiles = target.reader()?.list()?;
        for intent in unfinished {
            let scope = intent.scope();
            let zooms = tiles.iter().filter(|id| scope.holds(**id)).map(|id| id.coord.zoom());
            if let Some(zooms) = ZoomList::of(zooms) {
                regions.push(Region {
                    zooms: zooms.to_string(),
                    bbox: intent.bbox.clone(),
                    snapshot: None,
                    witness: None,
                });
            }
        }
    }
    let parts: Vec<Region> = manifest.regions().collect();
    regions.extend(parts.into_iter().rev());
    let is_within = |inner: &Region, outer: &Region| {
        let scopes = Scope::read(&inner.zooms, &inner.bbox).zip(Scope::read(&outer.zooms, &outer.bbox));
        scopes.is_some_and(|(inner, outer)| inner.is_within(&[outer]))
    };
    let mut needed: Vec<Region> = Vec::new();
    for region in regions {
        if !needed.iter().any(|other| is_within(&region, other)) {
            needed.retain(|other| !is_within(other, &region));
            needed.push(region);
        }
    }
    Ok(needed)
}
