//! The beginning of a run: reads what the directory holds, and notes the run before the first tile changes.

use super::found::{BEGUN, DirectoryState, Started};
use super::staged::staged_tile;
use super::walk::walk;
use super::{Directory, DirectoryError, DirectoryRun, NewVersion, versions};
use crate::sink::changed::{HeldBefore, InterruptedRuns};
use crate::sink::tree::notes::{self, Begun};
use crate::sink::tree::{Doomed, Intent, Inventory, OpenIntents, Publishing, Template};
use crate::sink::{ChangedTiles, Described, Tileset, Unwritten};

impl Directory {
    /// The version to write: the one that an interrupted run of the same tileset began, or a new one.
    fn version(&self, tileset: &Tileset, found: &DirectoryState) -> Result<Option<NewVersion>, DirectoryError> {
        if self.options.publish == Publishing::InPlace {
            return Ok(None);
        }
        let latest = versions::latest(self.files.root())?;
        let pending = found.pending(tileset, self.options.template.text(), latest.as_ref());
        let name = match pending {
            Some(pending) => pending,
            None => versions::unused(&self.files, latest.as_ref())?,
        };
        Ok(Some(NewVersion { name, published: latest }))
    }

    pub(super) fn note_begun(
        &mut self,
        fingerprint: &str,
        pending: Option<&str>,
        unfinished: Vec<Intent>,
    ) -> Result<(), DirectoryError> {
        let begun = Begun { fingerprint: fingerprint.to_owned(), pending: pending.map(str::to_owned), unfinished };
        let started = Started { begun, template: self.options.template.text().to_owned() };
        let body = serde_json::to_vec(&started)
            .map_err(|source| DirectoryError::Note { path: self.root.join(BEGUN), source })?;
        self.files.keep_durably(BEGUN, &body)?;
        self.lock.keep();
        Ok(())
    }

    /// Lists the existing tiles of the run's scope; of a version, all tiles. Removes files that a killed run left next to tiles.
    ///
    /// # Errors
    /// If there is a tile and the target is not `ours`, or a folder cannot be read.
    fn take_inventory(
        &self,
        template: &Template,
        tileset: &Tileset,
        ours: bool,
        intents: &mut OpenIntents,
    ) -> Result<Inventory, DirectoryError> {
        let mut inventory = Inventory::new()?;
        let mut left_behind = Vec::new();
        let found = walk(self.files.root(), template, &self.stop, |name| {
            let Some(id) = template.read(name) else {
                if staged_tile(name).is_some_and(|tile| template.read(&tile).is_some()) {
                    left_behind.push(name.to_owned());
                }
                return Ok(());
            };
            if !ours {
                return Err(DirectoryError::NotOurs { path: self.root.clone(), example: name.to_owned() });
            }
            if template.is_versioned() {
                inventory.add(id, None)?;
            } else {
                inventory.add_of(tileset, id, None)?;
            }
            intents.see(id);
            Ok(())
        });
        match found {
            Ok(done) => done?,
            Err(_) if self.stop.asked().is_some() => {
                return Err(DirectoryError::Interrupted { path: self.root.clone() });
            }
            Err(error) => return Err(error.into_error("read the folder")),
        }
        if ours {
            left_behind.iter().try_for_each(|name| self.files.remove_left_behind(name))?;
        }
        Ok(inventory)
    }

    pub(super) fn begin_run(&mut self, tileset: &Tileset) -> Result<Option<Described>, DirectoryError> {
        let found = DirectoryState::read(&self.files, self.options.force)?;
        if tileset.unwritten == Unwritten::Keep {
            if self.options.publish != Publishing::InPlace {
                return Err(DirectoryError::Whole { path: self.root.clone() });
            }
            if !found.is_finished() {
                return Err(DirectoryError::NoTileset { path: self.root.clone() });
            }
        }
        if !self.options.force {
            found.allows(&self.root, &self.options, tileset)?;
        }
        let mut template = self.options.template.clone().with_layers(tileset.layers.iter().map(String::as_str));
        let version = self.version(tileset, &found)?;
        if let Some(version) = &version {
            template = template.with_version(&version.name);
        }
        let ours = self.options.force || version.is_some() || found.is_ours();
        let before = match tileset.unwritten {
            Unwritten::Keep => Some(found.described()),
            // A new version is written as a whole, so no earlier tiles stay in it.
            Unwritten::Delete if version.is_some() => None,
            Unwritten::Delete => found.before(tileset),
        };
        let mut intents = match version {
            Some(_) => OpenIntents::untouched(tileset, found.unfinished()),
            None => OpenIntents::begin(tileset, found.unfinished(), found.manifest_text(), before.is_some()),
        };
        let inventory = match tileset.unwritten {
            Unwritten::Delete => Some(self.take_inventory(&template, tileset, ours, &mut intents)?),
            Unwritten::Keep => None,
        };
        for files in std::iter::once(&self.files).chain(&self.others) {
            files.clear()?;
        }
        let begun_before = self.files.read(BEGUN)?;
        let pending = version.as_ref().map(|version| version.name.as_str());
        self.note_begun(&tileset.fingerprint, pending, intents.noted.clone())?;
        if let Some(version) = &version {
            let name = notes::of_version(&version.name, notes::METADATA);
            let body = notes::begun(&tileset.layers, &template)
                .map_err(|source| DirectoryError::Note { path: self.root.join(&name), source })?;
            self.files.put_durably(&name, &body)?;
        }
        if self.options.public_url.is_none() {
            self.options.public_url = self.public_url_before(&found, version.as_ref())?;
        }
        let keeps = !self.options.force || tileset.unwritten == Unwritten::Keep || found.is_of(tileset);
        let (unfinished, doomed) = (intents.left(), Doomed::default());
        let (fingerprint, layers) = (tileset.fingerprint.clone(), tileset.layers.clone());
        let held_before = HeldBefore {
            has_tileset: found.is_finished(),
            interrupted: InterruptedRuns::of(&found.unfinished()),
            has_same_template: found.has_template(&self.options),
            is_new_version: version.is_some(),
        };
        let changed = ChangedTiles::of_synchronized(tileset, held_before);
        let before_manifest = tileset.before_manifest.clone();
        self.run = Some(DirectoryRun {
            keeps,
            fingerprint,
            template,
            layers,
            inventory,
            begun_before,
            doomed,
            unfinished,
            changed,
            before_manifest,
            version,
        });
        Ok(before)
    }

    /// The public URL that an earlier run was given.
    fn public_url_before(
        &self,
        found: &DirectoryState,
        version: Option<&NewVersion>,
    ) -> Result<Option<String>, DirectoryError> {
        let Some(NewVersion { published: Some(latest), .. }) = version else {
            return Ok(found.public_url().map(str::to_owned));
        };
        let name = notes::of_version(&latest.version, notes::METADATA);
        let Some(body) = self.files.read(&name)? else { return Ok(None) };
        // Damaged notes of an old version do not prevent a new one from being written.
        Ok(notes::read(&body).map_or(None, |noted| noted.described.public_url))
    }
}
