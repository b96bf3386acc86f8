//! The end of a run into a target that is brought in line: what is no longer in the tileset is deleted, the manifest is
//! written last, clients are switched to a new version, and old versions are removed.

use std::time::SystemTime;

use super::begin::noted;
use super::notes::NoteFile;
use super::{BEGUN, Latest, Publishing, Template, TreeOptions, TreeRun, TreeStore, VERSIONS, notes};
use crate::target::publication::tell;
use crate::target::{ChangedTiles, Metadata, TileChange};

/// Ends a run whose last edit was handed over. Returns the number of tiles that were deleted, and the list of changed
/// tiles.
pub(crate) fn end<S: TreeStore>(
    store: &mut S,
    mut run: TreeRun,
    options: &TreeOptions,
    metadata: &Metadata,
) -> Result<(u64, Option<ChangedTiles>), S::Error> {
    // Every new tile is stored before the first old one is deleted.
    store.wait_for_tiles()?;
    let mut deleted = 0;
    loop {
        let vanished = run.vanished()?;
        if vanished.is_empty() {
            break;
        }
        for id in vanished {
            if store.delete_tile(run.template.name(id))? {
                deleted += 1;
                run.note_change(id, TileChange::Deleted)?;
            }
        }
    }
    store.sync_tiles()?;
    tell(&run.before_manifest, run.changed.as_ref())?;
    publish(store, &run, options, metadata)?;
    Ok((deleted, run.changed.take()))
}

/// Writes the notes of a run whose tiles are all stored, the manifest last; with versions, switches clients to the new
/// one and removes those that are not listed any more.
fn publish<S: TreeStore>(
    store: &mut S,
    run: &TreeRun,
    options: &TreeOptions,
    metadata: &Metadata,
) -> Result<(), S::Error> {
    let own = notes::finished(metadata, &run.layers, &run.template, options)
        .map_err(|source| store.note_error(notes::METADATA, source))?;
    let Some(version) = &run.version else {
        store.confirm()?;
        own.iter().filter(|note| !is_metadata(note)).try_for_each(|note| store.keep(&note.name, &note.body))?;
        own.iter().filter(|note| is_metadata(note)).try_for_each(|note| store.replace(&note.name, &note.body))?;
        return store.note_begun(run.begun_at_the_end());
    };
    own.iter().try_for_each(|note| store.put(&notes::of_version(version, &note.name), &note.body))?;
    store.confirm()?;
    let shown = run.published.as_ref().map(|before| before.version.as_str());
    let now = SystemTime::now();
    let mut latest = Latest::published(run.published.clone(), version, now);
    if let Publishing::Versioned { keep, keep_for } = options.publish {
        // `sweep` finds the expired versions, because `latest.json` no longer lists them.
        latest.take_expired(keep, keep_for, now);
    }
    show(store, &latest, &own, shown)?;
    store.note_begun(run.begun_at_the_end())?;
    store.note_published(version)?;
    // Clients have been switched: a failure from here on leaves old tiles and does no other harm. If `latest.json` was
    // lost, it is not known which versions are old, so no version is removed.
    if shown.is_none() {
        return Ok(());
    }
    let layers = run.layers.iter().map(String::as_str);
    sweep(store, &options.template.clone().with_layers(layers), &latest)
}

/// Switches clients from the version `shown` to the version that `latest` names, and shows them its notes.
pub(crate) fn switch<S: TreeStore>(store: &mut S, latest: &Latest, shown: &str) -> Result<(), S::Error> {
    store.confirm()?;
    let mut own = Vec::new();
    for name in store.names(&notes::of_version(&latest.version, ""))? {
        let body = if name == BEGUN { None } else { store.get(&notes::of_version(&latest.version, &name))? };
        own.extend(body.map(|body| NoteFile { name, body }));
    }
    show(store, latest, &own, Some(shown))
}

/// Shows clients the version that `latest` names, whose notes are `own`: first its TileJSON, then `latest.json`, then
/// the manifest. Removes the TileJSON of layers that only the version `shown` has, which they saw before.
fn show<S: TreeStore>(store: &mut S, latest: &Latest, own: &[NoteFile], shown: Option<&str>) -> Result<(), S::Error> {
    own.iter().filter(|note| !is_metadata(note)).try_for_each(|note| store.keep(&note.name, &note.body))?;
    let body = serde_json::to_vec_pretty(latest).map_err(|source| store.note_error(notes::LATEST, source))?;
    store.replace(notes::LATEST, &body)?;
    if S::SHOWS_METADATA {
        own.iter().filter(|note| is_metadata(note)).try_for_each(|note| store.replace(&note.name, &note.body))?;
    }
    let Some(shown) = shown else { return Ok(()) };
    let is_gone = |name: &String| notes::is_tilejson(name) && !own.iter().any(|note| note.name == *name);
    let before = store.names(&notes::of_version(shown, ""))?;
    before.iter().filter(|name| is_gone(name)).try_for_each(|name| store.remove(name))
}

fn is_metadata(note: &NoteFile) -> bool {
    note.name == notes::METADATA
}

/// Removes every version that `latest` does not list: expired versions, versions that were begun and never published,
/// and versions whose removal was interrupted. `template`, with its layers, is used for a version without notes.
fn sweep<S: TreeStore>(store: &mut S, template: &Template, latest: &Latest) -> Result<(), S::Error> {
    for version in store.names(VERSIONS)? {
        if latest.versions.iter().any(|stays| stays.version == version) || store.is_awaited(&version)? {
            continue;
        }
        let noted = noted(store, &version)?;
        // The version may have another template and other layers than this run.
        let own = noted.template.as_deref().map(Template::new).and_then(Result::ok).filter(Template::is_versioned);
        let own = own.map(|own| own.with_layers(noted.layers.iter().map(String::as_str)));
        let template = own.unwrap_or_else(|| template.clone()).with_version(&version);
        if store.remove_version(&version, &template)?.is_break() {
            break;
        }
    }
    Ok(())
}
