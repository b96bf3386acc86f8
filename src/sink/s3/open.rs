//! Opening a target: whose is it, what does it hold?

use std::sync::Arc;
use std::time::SystemTime;

use tokio::runtime::Handle;

use super::S3Error;
use super::lease::Lease;
use super::store::{Condition, Object, Store};
use super::uploads::Uploads;
use crate::manifest::configuration_of;
use crate::sink::changed::HeldBefore;
use crate::sink::tree::notes::{self, Begun, Noted};
use crate::sink::tree::{
    Doomed, Intent, Inventory, Latest, OpenIntents, Publish, Tag, Template, TreeOptions, new_version,
};
use crate::sink::{ChangedTiles, Described, Tileset, Unwritten};
use crate::stop::Stop;

/// A target that takes tiles.
#[derive(Debug)]
pub(super) struct Open {
    /// What the target holds is of the same tileset: a tile that cannot be rendered stays.
    pub(super) keeps: bool,
    /// With layers and version.
    pub(super) template: Template,
    pub(super) layers: Vec<String>,
    pub(super) fingerprint: String,
    /// What was noted as begun before this run.
    pub(super) begun_before: Begun,
    /// Runs that will not have finished yet when this one has.
    pub(super) unfinished: Vec<Intent>,
    pub(super) version: Option<String>,
    /// What the target held at the beginning and the run is responsible for; `None` where what is not handed over stays: each tile
    /// is then asked for by itself.
    pub(super) inventory: Option<Inventory>,
    pub(super) uploads: Uploads,
    /// What is deleted at the end, beside what is left of the inventory.
    pub(super) doomed: Doomed,
    /// Which tiles change, if that is wanted.
    pub(super) changed: Option<ChangedTiles>,
    /// What has to hold for the notes to be replaced: they are as they were at the beginning.
    pub(super) metadata: Condition,
    pub(super) latest: Condition,
    pub(super) versions: Option<Latest>,
    /// The address under which clients find the target, as an earlier run was given it.
    pub(super) public_url: Option<String>,
}

impl Open {
    /// What stays noted as begun when the run has finished.
    pub(super) fn begun_at_the_end(&self) -> Begun {
        Begun { fingerprint: self.fingerprint.clone(), pending: None, unfinished: self.unfinished.clone() }
    }
}

/// Looks at a target, and notes what is begun; gives also what the target said about itself, if its tiles stay.
pub(super) async fn open(
    store: &Arc<Store>,
    lease: &Lease,
    tree: &TreeOptions,
    tileset: &Tileset,
    (runtime, stop): (&Handle, &Stop),
) -> Result<(Open, Option<Described>), S3Error> {
    let metadata = store.get(notes::METADATA).await?;
    let begun = lease.begun().await;
    let noted = metadata.as_ref().map(|object| read_noted(store, object)).transpose()?;
    let Noted { described, template: template_before, .. } = noted.unwrap_or_default();
    let public_url = described.public_url.clone();
    let manifest = described.manifest.as_deref().and_then(notes::fingerprint);
    let unfinished = begun.unfinished(described.manifest.as_deref());
    let owner = Some(begun.fingerprint.clone()).filter(|begun| !begun.is_empty()).or_else(|| manifest.clone());
    let versioned = matches!(tree.publish, Publish::Versioned { .. });
    if tileset.unwritten == Unwritten::Keep {
        if versioned {
            return Err(S3Error::Whole { place: store.location.to_string() });
        }
        if manifest.is_none() {
            return Err(S3Error::NoTileset { place: store.location.to_string() });
        }
    }
    // A new version holds nothing of the tileset before it.
    let is_other = |owner: &String| configuration_of(owner) != configuration_of(&tileset.fingerprint);
    if !versioned && !tree.force && owner.as_ref().is_some_and(is_other) {
        return Err(S3Error::OtherTileset { place: store.location.to_string() });
    }
    let latest = if versioned { store.get(notes::LATEST).await? } else { None };
    let versions = latest.as_ref().map(|object| read_latest(store, object)).transpose()?;
    let version = versioned.then(|| {
        let continued = begun.pending.clone().filter(|_| begun.fingerprint == tileset.fingerprint);
        continued.unwrap_or_else(|| new_version(SystemTime::now(), versions.as_ref()))
    });
    let mut template = tree.template.clone().with_layers(tileset.layers.iter().map(String::as_str));
    if let Some(version) = &version {
        template = template.with_version(version);
    }
    let foreign_allowed = owner.is_some() || tree.force;
    if !foreign_allowed && metadata.is_some() {
        let example = notes::METADATA.to_owned();
        return Err(S3Error::Foreign { place: store.location.to_string(), example });
    }
    let is_of_this = |fingerprint: &Option<String>| fingerprint.as_ref() == Some(&tileset.fingerprint);
    let continues = match tileset.unwritten {
        Unwritten::Keep => true,
        // Tiles that another configuration or another version drew are no part of this tileset; a new version is written as a whole.
        Unwritten::Delete => !versioned && is_of_this(&manifest) && is_of_this(&owner),
    };
    let mut intents = if versioned {
        OpenIntents::untouched(tileset, unfinished.clone())
    } else {
        OpenIntents::begin(tileset, unfinished.clone(), described.manifest.as_deref(), continues)
    };
    let inventory = match tileset.unwritten {
        Unwritten::Delete => Some(inventory(store, &template, tileset, foreign_allowed, &mut intents).await?),
        Unwritten::Keep => None,
    };
    let fingerprint = tileset.fingerprint.clone();
    lease.note(Begun { fingerprint, pending: version.clone(), unfinished: intents.noted.clone() }).await?;
    if let Some(version) = &version {
        // By this note a version is found and removed even if it is never published.
        super::publish::note(store, &notes::of_version(version, BEGUN), b"{}".to_vec(), &Condition::Always).await?;
    }
    let held_before = HeldBefore {
        has_tileset: manifest.is_some(),
        has_unfinished_runs: !unfinished.is_empty(),
        has_same_template: template_before.as_deref() == Some(tree.template.text()),
        is_new_version: versioned,
    };
    // A new version is written as a whole.
    let before = continues.then_some(Described { unfinished, ..described });
    let keeps = !tree.force || tileset.unwritten == Unwritten::Keep || owner.as_ref() == Some(&tileset.fingerprint);
    let open = Open {
        keeps,
        template,
        layers: tileset.layers.clone(),
        begun_before: begun,
        unfinished: intents.left(),
        fingerprint: tileset.fingerprint.clone(),
        version,
        inventory,
        uploads: Uploads::new(store, runtime, stop),
        doomed: Doomed::default(),
        changed: ChangedTiles::in_line(tileset, &held_before),
        metadata: Condition::as_seen(metadata.as_ref().map(|object| &object.tag)),
        latest: Condition::as_seen(latest.as_ref().map(|object| &object.tag)),
        versions,
        public_url,
    };
    Ok((open, before))
}

/// A version that was begun.
pub(super) const BEGUN: &str = "begun.json";

fn read_noted(store: &Store, object: &Object) -> Result<Noted, S3Error> {
    notes::read(&object.body).map_err(|source| S3Error::Note { place: store.place(notes::METADATA), source })
}

pub(super) fn read_latest(store: &Store, object: &Object) -> Result<Latest, S3Error> {
    serde_json::from_slice(&object.body).map_err(|source| S3Error::Note { place: store.place(notes::LATEST), source })
}

/// Refuses a target that somebody else wrote, as [`open`] does, before the database is asked.
pub(super) async fn claim(store: &Store, lease: &Lease, tree: &TreeOptions) -> Result<(), S3Error> {
    // Which layers there are is not known yet.
    let is_told_later = tree.template.layers_apart() || tree.template.is_versioned();
    if tree.force || is_told_later || !lease.begun().await.fingerprint.is_empty() {
        return Ok(());
    }
    let place = || store.location.to_string();
    if let Some(metadata) = store.get(notes::METADATA).await? {
        let described = read_noted(store, &metadata)?.described;
        return match described.manifest.as_deref().and_then(notes::fingerprint) {
            Some(_ours) => Ok(()),
            None => Err(S3Error::Foreign { place: place(), example: notes::METADATA.to_owned() }),
        };
    }
    let mut from = None;
    loop {
        let page = store.list(&tree.template.prefix(), from).await?;
        let is_tile = |name: &String| tree.template.read(name).is_some();
        if let Some((example, _)) = page.found.into_iter().find(|(name, _)| is_tile(name)) {
            return Err(S3Error::Foreign { place: place(), example });
        }
        from = page.next;
        if from.is_none() {
            return Ok(());
        }
    }
}

/// Lists the tiles that the target holds and the run is responsible for.
async fn inventory(
    store: &Store,
    template: &Template,
    tileset: &Tileset,
    foreign_allowed: bool,
    intents: &mut OpenIntents,
) -> Result<Inventory, S3Error> {
    let mut inventory = Inventory::new()?;
    let begin = template.prefix();
    let mut from = None;
    loop {
        let page = store.list(&begin, from).await?;
        for (name, tag) in page.found {
            let Some(id) = template.read(&name) else { continue };
            if !foreign_allowed {
                return Err(S3Error::Foreign { place: store.location.to_string(), example: name });
            }
            // A version that was begun is continued as a whole.
            if template.is_versioned() || tileset.scope.holds(id) {
                inventory.add(id, tag.as_deref().and_then(digest))?;
            }
            intents.see(id);
        }
        from = page.next;
        if from.is_none() {
            return Ok(inventory);
        }
    }
}

/// The MD5 of an object's bytes, if its `ETag` looks like one (Amazon S3 API Reference, "Object"): an object that came in
/// parts has a `-` in it. One that KMS encrypted looks like one and is none; it never equals a tile's.
pub(super) fn digest(tag: &str) -> Tag {
    if tag.len() != 32 || !tag.is_ascii() {
        return None;
    }
    let mut digest = [0; 16];
    for (place, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(tag.get(place * 2..place * 2 + 2)?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_a_digest_only_if_it_looks_like_one() {
        let plain = "d41d8cd98f00b204e9800998ecf8427e";
        assert_eq!(digest(plain).unwrap()[..3], [0xd4, 0x1d, 0x8c]);
        for tag in [
            "",
            "d41d8cd98f00b204e9800998ecf8427e-2",
            "x41d8cd98f00b204e9800998ecf8427e",
            "ü1d8cd98f00b204e9800998ecf8427",
        ] {
            assert_eq!(digest(tag), None, "{tag}");
        }
    }
}
