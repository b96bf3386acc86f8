//! The state of a target according to its manifest, and whether it fits the database and the settings.

use super::Target;
use crate::change_log::Cursor;
use crate::config::{Settings, TilesetSettings};
use crate::manifest::{
    DatabaseIdentity, MANIFEST_VERSION, Manifest, Region, Witness, configuration_of, drawn_otherwise,
};
use crate::postgis::Reads;
use crate::run::describe::database_of;
use crate::run::identity::{LogIdentity, SameDatabase, compare};
use crate::run::{CommandError, KnownState};
use crate::target::{Described, GENERATOR, Intent, IntentKind, PartialScope, ReadError};
use crate::tile::{NoTile, Scope, TileCoord, ZoomList, area_texts};

/// A target that a reseed may bring up to date, according to its manifest.
#[derive(Debug, Clone)]
pub(crate) struct TargetState {
    pub(crate) described: Described,
    pub(crate) manifest: Manifest,
    /// The snapshot up to which the target has seen the change log.
    pub(crate) cursor: Cursor,
    /// The regions of the tileset that the target holds.
    pub(crate) parts: Vec<Scope>,
    pub(crate) partial: PartialScope,
    /// Tiles that earlier runs could not render.
    pub(crate) unrendered: Vec<TileCoord>,
    /// The witnesses of all database states that the target has seen.
    pub(crate) witnesses: Vec<Witness>,
}

pub(crate) fn needs_seed(target: &Target, why: impl Into<String>) -> CommandError {
    CommandError::NeedsSeed { target: target.to_string(), why: why.into() }
}

impl TargetState {
    /// Reads a target's manifest, and takes over what its family's manifest says of it. May wait for a server.
    pub(crate) fn read(target: &Target) -> Result<TargetState, CommandError> {
        let mut reader = match target.reader() {
            Err(CommandError::Read(ReadError::Missing { .. })) => return Err(needs_seed(target, "there is none yet")),
            reader => reader?,
        };
        let described = reader.describe()?;
        let Some(text) = &described.manifest else {
            return Err(needs_seed(
                target,
                "it has no manifest, so nobody knows what it shows (another program made it, or a copy of a part)",
            ));
        };
        let unreadable = |cause: String| needs_seed(target, format!("its manifest cannot be read ({cause})"));
        let version: ManifestVersion = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        if version.version > MANIFEST_VERSION {
            let why = format!(
                "its manifest is of version {} and this program knows {MANIFEST_VERSION}: a newer oar-tiles wrote it, which can bring it up to date",
                version.version
            );
            return Err(needs_seed(target, why));
        }
        let manifest: Manifest = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        let state = |text: &String| {
            text.parse::<Cursor>().map_err(|error: crate::change_log::CursorError| unreadable(error.to_string()))
        };
        let mut cursor = state(&manifest.snapshot)?;
        // An unfinished run that took its snapshot before it locked the target may have left tiles that are older than
        // the manifest.
        for left in described.unfinished.iter().flat_map(|intent| &intent.snapshots) {
            cursor = cursor.meet(&state(left)?);
        }
        let parts = manifest
            .regions()
            .map(|region| Scope::read(&region.zooms, &region.bbox))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unreadable(error.to_string()))?;
        let tile = |text: &String| text.parse().map_err(|NoTile| unreadable(format!("{text:?} is no tile")));
        let unrendered = manifest.unrendered.iter().map(tile).collect::<Result<_, CommandError>>()?;
        let partial = PartialScope::of(&manifest);
        if partial.regions().len() != manifest.partial.len() {
            return Err(unreadable("a partial region".to_owned()));
        }
        let witnesses: Vec<Witness> = manifest.witnesses().cloned().collect();
        for witness in &witnesses {
            state(&witness.snapshot)?;
        }
        let mut state = TargetState { described, manifest, cursor, parts, partial, unrendered, witnesses };
        target.known.iter().for_each(|known| state.know(known));
        Ok(state)
    }

    /// Takes over the cursor of the family's manifest, if that manifest is about the publication that the target shows.
    fn know(&mut self, known: &KnownState) {
        if self.needs_repair() {
            return;
        }
        let publication = self.manifest.publication.as_ref();
        if publication.is_some_and(|own| own.id == known.publication) && known.cursor.sees_all_of(&self.cursor) {
            self.cursor = known.cursor.clone();
            self.witnesses.extend(known.witnesses.iter().cloned());
        }
    }

    /// The state of tiles that are not published yet. They show `cursor` or a later state, and have to be brought
    /// forward at any cost.
    pub(crate) fn unpublished(cursor: Cursor, tileset: &TilesetSettings, unrendered: Vec<TileCoord>) -> TargetState {
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            generator: GENERATOR.to_owned(),
            snapshot: cursor.to_string(),
            zooms: tileset.zooms.to_string(),
            bbox: area_texts(&tileset.bbox),
            // So high that a seed is never chosen instead.
            stored: u64::MAX,
            ..Manifest::default()
        };
        let parts = vec![tileset.scope()];
        let (described, partial) = (Described::default(), PartialScope::of(&manifest));
        TargetState { described, manifest, cursor, parts, partial, unrendered, witnesses: Vec::new() }
    }

    /// True if a database state has everything that the target shows.
    pub(crate) fn is_seen_by(&self, now: &Cursor) -> bool {
        let cursors = self.witnesses.iter().filter_map(|witness| witness.snapshot.parse().ok());
        cursors.chain([self.cursor.clone()]).all(|seen: Cursor| now.sees_all_of(&seen))
    }

    /// The settings with the zooms and boxes of the target's last seed.
    pub(crate) fn settings(&self, settings: &Settings, target: &Target) -> Result<Settings, CommandError> {
        settings_of(&self.manifest.last_seeded(), settings, target)
    }

    /// The settings of the seeds that together, one after the other, bring the whole target up to date. May wait for a
    /// server.
    pub(crate) fn settings_to_seed(&self, settings: &Settings, target: &Target) -> Result<Vec<Settings>, CommandError> {
        let regions = regions_to_seed(target, &self.manifest, &self.described.unfinished)?;
        regions.iter().map(|region| settings_of(region, settings, target)).collect()
    }

    /// Why a reseed cannot repair what unfinished runs left in the target; `None` if it can.
    pub(crate) fn why_not_repairable(&self) -> Option<String> {
        self.described.unfinished.iter().find_map(|intent| why_not_repairable(intent, &self.manifest))
    }

    /// True if an unfinished run may have left something to repair.
    pub(crate) fn needs_repair(&self) -> bool {
        !self.described.unfinished.is_empty()
    }

    /// True if the public address in the settings differs from the one that a directory or a prefix has.
    pub(crate) fn is_readdressed(&self, settings: &Settings, target: &Target) -> bool {
        let wanted = settings.tileset.tree.public_url.as_ref();
        !target.url.is_archive() && wanted.is_some() && wanted != self.described.public_url.as_ref()
    }

    /// Refuses a target that shows another database, has another configuration, or was rendered by another PostGIS.
    /// Returns whether the target is known to show this database.
    pub(crate) fn fits(
        &self,
        target: &Target,
        identity: &DatabaseIdentity,
        log: Option<&LogIdentity>,
        fingerprint: &str,
        reads: &Reads,
    ) -> Result<SameDatabase, CommandError> {
        let key = log.map(LogIdentity::key);
        let same = compare(self.manifest.database.as_ref(), identity, key).map_err(|why| needs_seed(target, why))?;
        if let Some(why) = drawn_otherwise(&self.manifest.fingerprint, fingerprint) {
            return Err(needs_seed(target, why));
        }
        if self.manifest.fingerprint != fingerprint {
            let why = format!(
                "it was seeded with another configuration (its fingerprint is {}, that of the settings {fingerprint}): give the --config and --layer that it was seeded with, if it is to stay as it is",
                self.manifest.fingerprint
            );
            return Err(needs_seed(target, why));
        }
        if self.manifest.reads.as_ref().is_some_and(|then| *then != reads.digest) {
            let why = "the tables and views that its layers read are not those of then: one was replaced, redefined, attached or detached";
            return Err(needs_seed(target, why));
        }
        if let Some(why) = self.why_not_repairable() {
            return Err(needs_seed(target, why));
        }
        if let Some(table) = &reads.row_security {
            let why = format!(
                "{table} has row level security: which rows this role sees may change without any row being changed. Seed each time, or with a role that bypasses it"
            );
            return Err(needs_seed(target, why));
        }
        Ok(same)
    }
}

/// The settings with the zooms and boxes of a region.
fn settings_of(region: &Region, settings: &Settings, target: &Target) -> Result<Settings, CommandError> {
    let unreadable = |error| needs_seed(target, format!("its manifest cannot be read ({error})"));
    settings.of_region(region).map_err(unreadable)
}

/// The version of a manifest's layout. It is parsed before the rest, because the rest may have another form.
#[derive(serde::Deserialize)]
struct ManifestVersion {
    version: u32,
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
    let parts: Vec<Scope> = manifest.regions().filter_map(|part| Scope::read(&part.zooms, &part.bbox).ok()).collect();
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
        let scope = |region: &Region| Scope::read(&region.zooms, &region.bbox).ok();
        scope(inner).zip(scope(outer)).is_some_and(|(inner, outer)| inner.is_within(&[outer]))
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
