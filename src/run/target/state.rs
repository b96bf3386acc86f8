//! The state of a target according to its manifest, and whether it fits the database and the settings.

use super::{Target, regions_to_seed, why_not_repairable};
use crate::change_log::Cursor;
use crate::config::{JobSettings, TilesetSettings};
use crate::manifest::{DatabaseIdentity, MANIFEST_VERSION, Manifest, Region, Witness, drawn_otherwise};
use crate::postgis::Reads;
use crate::run::identity::{LogIdentity, SameDatabase, compare};
use crate::run::{CommandError, KnownState};
use crate::target::{Described, GENERATOR, PartialScope, ReadError};
use crate::tile::{NoTile, Scope, TileCoord, area_texts};

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
    pub(crate) fn settings(&self, settings: &JobSettings, target: &Target) -> Result<JobSettings, CommandError> {
        settings_of(&self.manifest.last_seeded(), settings, target)
    }

    /// The settings of the seeds that together, one after the other, bring the whole target up to date. May wait for a
    /// server.
    pub(crate) fn settings_to_seed(
        &self,
        settings: &JobSettings,
        target: &Target,
    ) -> Result<Vec<JobSettings>, CommandError> {
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
    pub(crate) fn is_readdressed(&self, settings: &JobSettings, target: &Target) -> bool {
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
fn settings_of(region: &Region, settings: &JobSettings, target: &Target) -> Result<JobSettings, CommandError> {
    let unreadable = |error| needs_seed(target, format!("its manifest cannot be read ({error})"));
    settings.of_region(region).map_err(unreadable)
}

/// The version of a manifest's layout. It is parsed before the rest, because the rest may have another form.
#[derive(serde::Deserialize)]
struct ManifestVersion {
    version: u32,
}
