//! The beginning of a run into a target that is brought in line: whose target it is, which tiles it holds, and the note
//! of the run, which is written before the first tile changes.

use super::notes::Begun;
use super::{
    Inventory, Latest, OpenIntents, Publishing, Template, TreeOptions, TreeRun, TreeState, TreeStore, VERSIONS, notes,
    template_of_run, unused_version,
};
use crate::target::{Described, Tileset, Unwritten};

/// Begins a run of `tileset`. Also returns the description of the target, if its other tiles stay. Fills in the public
/// URL that an earlier run was given, unless this one was given one.
/// Fails if the target holds another tileset or files of others, or cannot be read and written.
pub(crate) fn begin<S: TreeStore>(
    store: &mut S,
    options: &mut TreeOptions,
    tileset: &Tileset,
) -> Result<(TreeRun, Option<Described>), S::Error> {
    let state = store.state(options.force)?;
    if let Some(refusal) = state.refusal(options, tileset) {
        return Err(store.refused(refusal, tileset));
    }
    if !options.force {
        store.check(&state, options)?;
    }
    let is_new_version = options.publish != Publishing::InPlace;
    let published = if is_new_version { store.latest()? } else { None };
    let adopted = if is_new_version { store.adopted(published.as_ref())? } else { None };
    let is_adopted = adopted.is_some();
    let version = match adopted {
        None if is_new_version => Some(own_version(store, &state, options, tileset, published.as_ref())?),
        adopted => adopted,
    };
    let template = template_of_run(options, tileset, version.as_deref());
    let ours = options.force || is_new_version || state.is_ours();
    let mut intents = state.intents(tileset, is_new_version);
    let inventory = match tileset.unwritten {
        Unwritten::Delete if !is_adopted => Some(inventory(store, &template, tileset, ours, &mut intents)?),
        Unwritten::Delete | Unwritten::Keep => None,
    };
    // A version of shards belongs to them: no other run may continue it.
    if !is_adopted {
        let fingerprint = tileset.fingerprint.clone();
        store.note_begun(Begun { fingerprint, pending: version.clone(), unfinished: intents.noted.clone() })?;
        let is_empty = !state.is_ours() && inventory.as_ref().is_some_and(|inventory| inventory.count() == 0);
        store.prepare(version.as_deref(), is_empty)?;
        if let Some(version) = &version {
            // If the version is never published, a later run finds its tiles by this note and removes them.
            let name = notes::of_version(version, notes::METADATA);
            let body = notes::begun(&tileset.layers, &template).map_err(|source| store.note_error(&name, source))?;
            store.put(&name, &body)?;
        }
    }
    if options.public_url.is_none() {
        options.public_url = match &published {
            Some(latest) if !S::SHOWS_METADATA => noted(store, &latest.version)?.described.public_url,
            _ => state.noted.described.public_url.clone(),
        };
    }
    let run = TreeRun::new(&state, options, tileset, version, published, inventory, intents.left());
    Ok((run, state.before(tileset, is_new_version)))
}

/// The version to write: the one that an interrupted run of the same tileset and template began, or a new one.
fn own_version<S: TreeStore>(
    store: &mut S,
    state: &TreeState,
    options: &TreeOptions,
    tileset: &Tileset,
    published: Option<&Latest>,
) -> Result<String, S::Error> {
    if let Some(pending) = state.pending(tileset, published)
        && noted(store, pending)?.template.as_deref() == Some(options.template.text())
    {
        return Ok(pending.to_owned());
    }
    Ok(unused_version(published, store.names(VERSIONS)?))
}

/// The metadata of a version. Damaged notes of an old version do not prevent a new one from being written.
pub(crate) fn noted<S: TreeStore>(store: &mut S, version: &str) -> Result<notes::TargetNotes, S::Error> {
    let body = store.metadata_of(version)?;
    Ok(body.and_then(|body| notes::read(&body).ok()).unwrap_or_default())
}

/// Lists the tiles of the run's scope that the target holds, and shows each tile to `intents`.
fn inventory<S: TreeStore>(
    store: &mut S,
    template: &Template,
    tileset: &Tileset,
    ours: bool,
    intents: &mut OpenIntents,
) -> Result<Inventory, S::Error> {
    let mut inventory = Inventory::new()?;
    store.list_tiles(template, ours, &mut |id, tag| {
        intents.see(id);
        // A version that was begun is continued as a whole: all of its tiles count.
        if template.is_versioned() { inventory.add(id, tag) } else { inventory.add_of(tileset, id, tag) }
    })?;
    Ok(inventory)
}
