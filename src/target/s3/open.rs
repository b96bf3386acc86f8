//! The beginning of a run: checks whose target it is, reads what it holds, and notes the intent of the run.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::S3Error;
use super::client::{Condition, Listed};
use super::lease::Lease;
use super::note::{begin_header_note, entries, read_latest, read_noted, write_note};
use super::store::Store;
use super::uploads::Uploads;
use super::version::SharedVersion;
use crate::stop::Stop;
use crate::target::tree::notes::Begun;
use crate::target::tree::{
    BEGUN, Inventory, Latest, OpenIntents, Publishing, Template, TreeOptions, TreeRefusal, TreeRun, TreeState,
    VERSIONS, notes, template_of_run, unused_version,
};
use crate::target::{ChangedTiles, Described, Tileset, Unwritten};

/// A target between [`Sink::begin`](crate::target::Sink::begin) and its end.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) run: TreeRun,
    /// What was noted as begun before this run.
    pub(crate) begun_before: Begun,
    pub(crate) uploads: Uploads,
    /// The condition for replacing `metadata.json`: it is as it was at the beginning.
    pub(crate) metadata: Condition,
    /// The same for `latest.json`.
    pub(crate) latest: Condition,
    /// The public URL that an earlier run was given.
    pub(crate) public_url: Option<String>,
}

/// Opens a target for a run of `tileset`, and notes the run's intent. Also returns the description of the target, if
/// its other tiles stay.
///
/// # Errors
/// If the target holds another tileset or files of others, or the bucket cannot be read and written.
pub(crate) async fn open(
    store: &Arc<Store>,
    lease: &Lease,
    tree: &TreeOptions,
    tileset: &Tileset,
    adopted: Option<&SharedVersion>,
    runtime: &Handle,
    stop: &Stop,
) -> Result<(Open, Option<Described>), S3Error> {
    let metadata = store.get(notes::METADATA).await?;
    let begun = lease.begun().await;
    let noted = metadata.as_ref().map(|object| read_noted(store, object)).transpose()?.unwrap_or_default();
    let state = TreeState {
        manifest: noted.described.manifest.as_deref().and_then(notes::fingerprint),
        begun: Some(begun.clone()).filter(|begun| !begun.fingerprint.is_empty()),
        template: noted.template.clone(),
        noted,
    };
    let is_new_version = matches!(tree.publish, Publishing::Versioned { .. });
    match state.refusal(tree, tileset) {
        Some(TreeRefusal::Whole) => return Err(S3Error::Whole { place: store.location.to_string() }),
        Some(TreeRefusal::NoTileset) => return Err(S3Error::NoTileset { place: store.location.to_string() }),
        Some(TreeRefusal::OtherTileset(_)) => return Err(S3Error::OtherTileset { place: store.location.to_string() }),
        None => {}
    }
    let latest = if is_new_version { store.get(notes::LATEST).await? } else { None };
    let published = latest.as_ref().map(|object| read_latest(store, object)).transpose()?;
    if let Some(adopted) = adopted {
        adopted.check(store, published.as_ref()).await?;
    }
    let version = match adopted {
        _ if !is_new_version => None,
        Some(adopted) => Some(adopted.version.clone()),
        None => Some(match pending(store, &state, tree, tileset, published.as_ref()).await? {
            Some(pending) => pending,
            None => unused_version(published.as_ref(), entries(store, VERSIONS).await?),
        }),
    };
    let template = template_of_run(tree, tileset, version.as_deref());
    let foreign_allowed = state.is_ours() || tree.force;
    if !foreign_allowed && metadata.is_some() {
        let example = notes::METADATA.to_owned();
        return Err(S3Error::Foreign { place: store.location.to_string(), example });
    }
    let mut intents = state.intents(tileset, is_new_version);
    let inventory = match tileset.unwritten {
        Unwritten::Delete if adopted.is_some() => None,
        Unwritten::Delete => Some(inventory(store, &template, tileset, foreign_allowed, &mut intents).await?),
        Unwritten::Keep => None,
    };
    let fingerprint = tileset.fingerprint.clone();
    // A version of shards belongs to them: no other run may continue it.
    if adopted.is_none() {
        lease.note(Begun { fingerprint, pending: version.clone(), unfinished: intents.noted.clone() }).await?;
    }
    if version.is_none() {
        let is_empty = !state.is_ours() && inventory.as_ref().is_some_and(|inventory| inventory.count() == 0);
        begin_header_note(store, is_empty).await?;
    }
    if let Some(version) = version.as_ref().filter(|_| adopted.is_none()) {
        // If the version is never published, a later run finds it by these notes and removes it.
        write_note(store, &notes::of_version(version, BEGUN), b"{}".to_vec(), &Condition::Always).await?;
        note_template(store, version, &tileset.layers, &template).await?;
    }
    let mut run = TreeRun::new(&state, tree, tileset, version, published, inventory, intents.left());
    run.changed = run.changed.take().map(ChangedTiles::knowing_new);
    let open = Open {
        run,
        begun_before: begun,
        uploads: Uploads::new(store, runtime, stop),
        metadata: Condition::as_seen(metadata.as_ref().map(|object| &object.tag)),
        latest: Condition::as_seen(latest.as_ref().map(|object| &object.tag)),
        public_url: state.public_url().map(str::to_owned),
    };
    Ok((open, state.before(tileset, is_new_version)))
}

/// The version that an interrupted run of the same tileset and template has begun, unless it is published.
async fn pending(
    store: &Store,
    state: &TreeState,
    tree: &TreeOptions,
    tileset: &Tileset,
    published: Option<&Latest>,
) -> Result<Option<String>, S3Error> {
    let Some(version) = state.pending(tileset, published) else { return Ok(None) };
    let noted = store.get(&notes::of_version(version, notes::METADATA)).await?;
    let noted = noted.map(|object| read_noted(store, &object).unwrap_or_default());
    let is_same = noted.is_some_and(|noted| noted.template.as_deref() == Some(tree.template.text()));
    Ok(is_same.then(|| version.to_owned()))
}

/// Notes how the tiles of a version are named, before the first of them is written.
pub(crate) async fn note_template(
    store: &Store,
    version: &str,
    layers: &[String],
    template: &Template,
) -> Result<(), S3Error> {
    let name = notes::of_version(version, notes::METADATA);
    let body = notes::begun(layers, template).map_err(|source| S3Error::Note { place: store.place(&name), source })?;
    write_note(store, &name, body, &Condition::Always).await.map(drop)
}

/// Refuses a target that others wrote, like [`open`], but before the database is probed.
pub(crate) async fn claim(store: &Store, lease: &Lease, tree: &TreeOptions) -> Result<(), S3Error> {
    // Tiles are recognized by the names of layers and versions, which are not known yet.
    let has_unknown_names = tree.template.layers_apart() || tree.template.is_versioned();
    if tree.force || has_unknown_names || !lease.begun().await.fingerprint.is_empty() {
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
        if let Some(example) = page.found.into_iter().map(|object| object.name).find(is_tile) {
            return Err(S3Error::Foreign { place: place(), example });
        }
        from = page.next;
        if from.is_none() {
            return Ok(());
        }
    }
}

/// Lists the tiles in the run's scope that the target holds, and shows each tile to `intents`.
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
        for Listed { name, digest: tag, .. } in page.found {
            let Some(id) = template.read(&name) else { continue };
            if !foreign_allowed {
                return Err(S3Error::Foreign { place: store.location.to_string(), example: name });
            }
            // A version that was begun is continued as a whole: all of its tiles count.
            if template.is_versioned() {
                inventory.add(id, tag)?;
            } else {
                inventory.add_of(tileset, id, tag)?;
            }
            intents.see(id);
        }
        from = page.next;
        if from.is_none() {
            return Ok(inventory);
        }
    }
}
