//! A run into a target that is brought in line with its tileset: what its notes said before, what the run may do, and
//! what becomes of each edit. Directories and prefixes of buckets differ in how they read, write and delete named
//! bytes, and in nothing of this.

use std::sync::Arc;

use super::inventory::Tag;
use super::notes::{Begun, TargetNotes};
use super::{Doomed, Intent, Inventory, Latest, OpenIntents, Publishing, Template, TreeOptions};
use crate::manifest::configuration_of;
use crate::target::changed::{HeldBefore, InterruptedRuns};
use crate::target::disk_list::ScratchError;
use crate::target::{BeforeManifest, ChangedTiles, Described, TileChange, TileEdit, Tileset, Unwritten, Written};
use crate::tile::TileId;

/// What the notes of a target say before a run.
#[derive(Debug, Default)]
pub(crate) struct TreeState {
    pub(crate) noted: TargetNotes,
    /// The fingerprint in the manifest, which the last finished run wrote.
    pub(crate) manifest: Option<String>,
    /// What was begun last, whether it finished or not.
    pub(crate) begun: Option<Begun>,
    /// The template of the tiles' names.
    pub(crate) template: Option<String>,
}

/// Why a run may not write into a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TreeRefusal {
    /// A version is written as a whole, and this run keeps the tiles that it does not write.
    Whole,
    /// There is no finished tileset whose tiles could be kept.
    NoTileset,
    /// The target holds the tileset with this fingerprint.
    OtherTileset(String),
}

impl TreeState {
    /// The fingerprint of the tiles: that of the run begun last, whether it finished or not.
    pub(crate) fn owner(&self) -> Option<&str> {
        self.begun.as_ref().map(|begun| begun.fingerprint.as_str()).or(self.manifest.as_deref())
    }

    /// True if oar-tiles wrote the tiles: another program's metadata does not count.
    pub(crate) fn is_ours(&self) -> bool {
        self.owner().is_some()
    }

    /// True if a run has finished in the target.
    pub(crate) fn is_finished(&self) -> bool {
        self.manifest.is_some()
    }

    /// True if the target holds exactly this tileset, and nothing else was begun there.
    fn is_of(&self, tileset: &Tileset) -> bool {
        let ours = |fingerprint: &str| fingerprint == tileset.fingerprint;
        self.manifest.as_deref().is_some_and(ours) && self.owner().is_some_and(ours)
    }

    fn manifest_text(&self) -> Option<&str> {
        self.noted.described.manifest.as_deref()
    }

    /// The runs that have not finished.
    pub(crate) fn unfinished(&self) -> Vec<Intent> {
        self.begun.as_ref().map_or_else(Vec::new, |begun| begun.unfinished(self.manifest_text()))
    }

    /// Why a run of this tileset may not write here, if it may not.
    pub(crate) fn refusal(&self, options: &TreeOptions, tileset: &Tileset) -> Option<TreeRefusal> {
        let versioned = options.publish != Publishing::InPlace;
        if tileset.unwritten == Unwritten::Keep && versioned {
            return Some(TreeRefusal::Whole);
        }
        if tileset.unwritten == Unwritten::Keep && !self.is_finished() {
            return Some(TreeRefusal::NoTileset);
        }
        // A new version shares no tile with the tileset before it, so that one may be another tileset.
        let is_other = |found: &&str| configuration_of(found) != configuration_of(&tileset.fingerprint);
        let other = self.owner().filter(|found| !versioned && !options.force && is_other(found));
        other.map(|found| TreeRefusal::OtherTileset(found.to_owned()))
    }

    /// A version of exactly this tileset that was begun and not published.
    pub(crate) fn pending(&self, tileset: &Tileset, published: Option<&Latest>) -> Option<&str> {
        let begun = self.begun.as_ref().filter(|begun| begun.fingerprint == tileset.fingerprint)?;
        let pending = begun.pending.as_deref()?;
        // The run may have been killed after it switched clients to the version and before it noted that. Clients then
        // see the version, so it must not change any more.
        let is_published = published.is_some_and(|latest| latest.versions.iter().any(|other| other.version == pending));
        (!is_published).then_some(pending)
    }

    /// The description of the target, if its other tiles stay or are those of exactly this tileset.
    pub(crate) fn before(&self, tileset: &Tileset, is_new_version: bool) -> Option<Described> {
        let stays = match tileset.unwritten {
            Unwritten::Keep => true,
            // Tiles that another configuration or another version drew do not belong to this tileset. A new version is
            // written as a whole.
            Unwritten::Delete => !is_new_version && self.is_of(tileset),
        };
        stays.then(|| Described { unfinished: self.unfinished(), ..self.noted.described.clone() })
    }

    /// The unfinished runs that are noted before the run's first tile.
    pub(crate) fn intents(&self, tileset: &Tileset, is_new_version: bool) -> OpenIntents {
        if is_new_version {
            return OpenIntents::untouched(tileset, self.unfinished());
        }
        let continues = self.before(tileset, is_new_version).is_some();
        OpenIntents::begin(tileset, self.unfinished(), self.manifest_text(), continues)
    }
}

/// The template of a run's tiles, with the names of the layers and the version filled in.
pub(crate) fn template_of_run(options: &TreeOptions, tileset: &Tileset, version: Option<&str>) -> Template {
    let template = options.template.clone().with_layers(tileset.layers.iter().map(String::as_str));
    version.map_or(template.clone(), |version| template.with_version(version))
}

/// A tile whose bytes the target is to hold.
pub(crate) type TileToStore = (TileId, Box<[u8]>);

/// A run between [`Sink::begin`](crate::target::Sink::begin) and its end.
#[derive(Debug)]
pub(crate) struct TreeRun {
    /// True if the target holds the same tileset: a tile that cannot be rendered stays.
    keeps: bool,
    pub(crate) fingerprint: String,
    /// With the names of the layers and the version filled in.
    pub(crate) template: Template,
    pub(crate) layers: Vec<String>,
    /// The version that is written, if the target has versions.
    pub(crate) version: Option<String>,
    /// The versions published before; `None` if there are none.
    pub(crate) published: Option<Latest>,
    /// The tiles in the run's scope that the target held at the beginning. `None` for a run that keeps unwritten tiles;
    /// it asks for each tile instead.
    inventory: Option<Inventory>,
    /// Tiles to delete at the end, in addition to the rest of the inventory.
    doomed: Doomed,
    /// The unfinished runs that stay noted after this run.
    unfinished: Vec<Intent>,
    /// The list of changed tiles, if the run wants one.
    pub(crate) changed: Option<ChangedTiles>,
    /// Receive the list of changes before the manifest is written.
    pub(crate) before_manifest: Vec<Arc<dyn BeforeManifest>>,
}

impl TreeRun {
    /// A run that begins. `unfinished` are the runs that stay noted after it.
    pub(crate) fn new(
        state: &TreeState,
        options: &TreeOptions,
        tileset: &Tileset,
        version: Option<String>,
        published: Option<Latest>,
        inventory: Option<Inventory>,
        unfinished: Vec<Intent>,
    ) -> TreeRun {
        let held_before = HeldBefore {
            has_tileset: state.is_finished(),
            interrupted: InterruptedRuns::of(&state.unfinished()),
            has_same_template: state.template.as_deref() == Some(options.template.text()),
            is_new_version: version.is_some(),
        };
        TreeRun {
            keeps: !options.force || tileset.unwritten == Unwritten::Keep || state.is_of(tileset),
            fingerprint: tileset.fingerprint.clone(),
            template: template_of_run(options, tileset, version.as_deref()),
            layers: tileset.layers.clone(),
            version,
            published,
            inventory,
            doomed: Doomed::default(),
            unfinished,
            changed: ChangedTiles::of_synchronized(tileset, held_before),
            before_manifest: tileset.before_manifest.clone(),
        }
    }

    /// What stays noted as begun once the run has finished.
    pub(crate) fn begun_at_the_end(&self) -> Begun {
        Begun { fingerprint: self.fingerprint.clone(), pending: None, unfinished: self.unfinished.clone() }
    }

    /// True if the tiles of the run's scope were listed at the beginning.
    pub(crate) const fn has_inventory(&self) -> bool {
        self.inventory.is_some()
    }

    /// How many tiles of the run's scope the target held, if they were listed and are not those of a new version.
    pub(crate) fn held(&self) -> Option<u64> {
        self.inventory.as_ref().filter(|_| self.version.is_none()).map(Inventory::count)
    }

    /// What was listed of a tile. Edits come in the order of the list: tiles between two edits are not in the tileset
    /// any more, and are deleted at the end.
    pub(crate) fn meet(&mut self, id: TileId) -> Result<Option<Tag>, ScratchError> {
        let Some(inventory) = &mut self.inventory else { return Ok(None) };
        let met = inventory.meet(id)?;
        met.passed.into_iter().try_for_each(|passed| self.doomed.add(passed))?;
        Ok(met.here)
    }

    /// Counts an edit in `written`, and notes a tile to be deleted at the end. Returns the tile if it has to be stored.
    /// `is_held` is true if the target holds a tile there.
    pub(crate) fn apply(
        &mut self,
        edit: TileEdit,
        is_held: bool,
        written: &mut Written,
    ) -> Result<Option<TileToStore>, ScratchError> {
        match edit {
            TileEdit::Keep(..) if is_held && self.keeps => written.unchanged += 1,
            TileEdit::Put(id, bytes) | TileEdit::Keep(id, Some(bytes)) => return Ok(Some((id, bytes))),
            TileEdit::Keep(id, None) => {
                written.missing += 1;
                written.deleted += self.doom(id, is_held)?;
            }
            TileEdit::Remove(id) => {
                written.removed += 1;
                written.deleted += self.doom(id, is_held)?;
            }
        }
        Ok(None)
    }

    /// Notes that a tile is to be deleted at the end, if there is one; returns how many there are.
    pub(crate) fn doom(&mut self, id: TileId, is_held: bool) -> Result<u64, ScratchError> {
        if is_held {
            self.doomed.add(id)?;
        }
        Ok(is_held.into())
    }

    /// The next tiles to be deleted at the end, some at a time; none if there are no more.
    pub(crate) fn vanished(&mut self) -> Result<Vec<TileId>, ScratchError> {
        let doomed = self.doomed.next()?;
        match &mut self.inventory {
            Some(inventory) if doomed.is_empty() => inventory.rest(),
            _ => Ok(doomed),
        }
    }

    /// Lists a tile as changed, if the run wants such a list.
    pub(crate) fn note_change(&mut self, id: TileId, change: TileChange) -> Result<(), ScratchError> {
        self.changed.as_mut().map_or(Ok(()), |changed| changed.add(id, change))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::TargetSection;
    use crate::tile::{Scope, TileCoord, Zoom};

    fn tileset() -> Tileset {
        let tileset = Tileset::of_test(Scope::read("0-8", &[]).unwrap(), Unwritten::Delete);
        Tileset { fingerprint: "this".to_owned(), ..tileset }
    }

    /// A forced run into a target whose manifest has one fingerprint, and in which a run with another was begun.
    fn forced(manifest: Option<&str>, begun: Option<&str>) -> TreeRun {
        let begun = begun.map(|fingerprint| Begun { fingerprint: fingerprint.to_owned(), ..Begun::default() });
        let state = TreeState { manifest: manifest.map(str::to_owned), begun, ..TreeState::default() };
        let options = TreeOptions {
            template: Template::new("{z}/{x}/{y}.pbf").unwrap(),
            publish: Publishing::InPlace,
            force: true,
            public_url: None,
            section: TargetSection::default(),
        };
        assert_eq!(state.refusal(&options, &tileset()), None);
        TreeRun::new(&state, &options, &tileset(), None, None, None, Vec::new())
    }

    #[test]
    fn a_forced_run_keeps_tiles_that_it_cannot_render_only_of_the_same_finished_tileset() {
        let id: TileId = TileCoord::new(Zoom::MIN, 0, 0).unwrap().into();
        for (manifest, begun, keeps) in [
            (Some("this"), None, true),
            (Some("this"), Some("this"), true),
            (Some("this"), Some("other"), false),
            // A killed run of this tileset may have left tiles of the tileset before it.
            (Some("other"), Some("this"), false),
            (None, Some("this"), false),
        ] {
            let mut written = Written::default();
            assert_eq!(forced(manifest, begun).apply(TileEdit::Keep(id, None), true, &mut written).unwrap(), None);
            let expected = Written {
                unchanged: keeps.into(),
                missing: (!keeps).into(),
                deleted: (!keeps).into(),
                ..Written::default()
            };
            assert_eq!(written, expected, "{manifest:?} {begun:?}");
        }
    }
}
