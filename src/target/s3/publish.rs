//! The end of a run: writes the notes, the manifest last; with versions, switches clients and removes old versions.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::S3Error;
use super::client::Condition;
use super::lease::Lease;
use super::note::{BEGUN, noted_versions, read_latest, read_noted, replace_note, write_note};
use super::open::Open;
use super::store::Store;
use super::version::{is_awaited, note_published};
use crate::target::Metadata;
use crate::target::tree::{Latest, Publishing, Template, TreeOptions, notes};

/// Writes the notes of a run whose tiles are all stored; with versions, switches clients to the new one and deletes
/// expired versions.
pub(crate) async fn finish(
    store: &Store,
    lease: &Lease,
    tree: &TreeOptions,
    open: &Open,
    metadata: &Metadata,
) -> Result<(), S3Error> {
    let place = |source| S3Error::Note { place: store.place(notes::METADATA), source };
    let notes = notes::finished(metadata, &open.run.layers, &open.run.template, tree).map_err(place)?;
    if let Some(version) = &open.run.version {
        for own in &notes {
            let name = notes::of_version(version, &own.name);
            write_note(store, &name, own.body.clone(), &Condition::Always).await?;
        }
    }
    lease.confirm().await?;
    for own in notes.iter().filter(|own| own.name != notes::METADATA) {
        replace_note(store, &own.name, &own.body).await?;
    }
    let Publishing::Versioned { keep, keep_for } = tree.publish else {
        return manifest(store, &notes, open).await;
    };
    let Some(version) = &open.run.version else { return Ok(()) };
    let now = SystemTime::now();
    let mut latest = Latest::published(open.run.published.clone(), version, now);
    latest.take_expired(keep, keep_for, now);
    let body = serde_json::to_vec_pretty(&latest).map_err(place)?;
    write_note(store, notes::LATEST, body, &open.latest).await?;
    manifest(store, &notes, open).await?;
    lease.note(open.run.begun_at_the_end()).await?;
    note_published(store, version).await?;
    // If `latest.json` was lost, it is not known which versions are old, so no version is removed.
    let Some(before) = &open.run.published else { return Ok(()) };
    let own: BTreeSet<&str> = notes.iter().map(|own| own.name.as_str()).collect();
    remove_gone(store, &before.version, &own).await?;
    sweep(store, &tree.template.clone().with_layers(open.run.layers.iter().map(String::as_str)), &latest).await
}

/// Removes the TileJSON of layers that the version `before` has, and the current version, whose notes are `own`, does
/// not.
async fn remove_gone(store: &Store, before: &str, own: &BTreeSet<&str>) -> Result<(), S3Error> {
    let begin = notes::of_version(before, "");
    let shown = store.names(&begin).await?;
    let shown = shown.iter().filter_map(|name| name.strip_prefix(&begin));
    let gone: Vec<String> =
        shown.filter(|name| notes::is_tilejson(name) && !own.contains(name)).map(str::to_owned).collect();
    store.remove(&gone).await
}

async fn manifest(store: &Store, notes: &[notes::NoteFile], open: &Open) -> Result<(), S3Error> {
    for own in notes.iter().filter(|own| own.name == notes::METADATA) {
        write_note(store, &own.name, own.body.clone(), &open.metadata).await?;
    }
    Ok(())
}

/// Switches clients to the version `to`, or to the one before the current one, and copies its notes to where clients
/// look for them.
pub(crate) async fn rollback(store: &Store, lease: &Lease, to: Option<&str>) -> Result<Latest, S3Error> {
    let Some(object) = store.get(notes::LATEST).await? else {
        return Err(S3Error::Missing { place: store.place(notes::LATEST) });
    };
    let before = read_latest(store, &object)?;
    let shown = before.version.clone();
    let switched = before.switched(to);
    let latest = switched.map_err(|source| S3Error::Switch { place: store.location.to_string(), source })?;
    lease.confirm().await?;
    let begin = notes::of_version(&latest.version, "");
    let mut own = Vec::new();
    for name in store.names(&begin).await? {
        let short = name.strip_prefix(&begin).unwrap_or_default().to_owned();
        if short != BEGUN {
            let body = store.get(&name).await?.ok_or_else(|| S3Error::Missing { place: store.place(&name) })?.body;
            own.push((short, body));
        }
    }
    // The manifest is replaced last, after the switch.
    for (short, body) in own.iter().filter(|(short, _)| short != notes::METADATA) {
        replace_note(store, short, body).await?;
    }
    let body = serde_json::to_vec_pretty(&latest)
        .map_err(|source| S3Error::Note { place: store.place(notes::LATEST), source })?;
    write_note(store, notes::LATEST, body, &Condition::Still(object.tag)).await?;
    for (short, body) in own.iter().filter(|(short, _)| short == notes::METADATA) {
        replace_note(store, short, body).await?;
    }
    let own = own.iter().map(|(short, _)| short.as_str()).collect();
    remove_gone(store, &shown, &own).await?;
    Ok(latest)
}

/// Deletes every version that `latest` does not list: expired versions, and versions that were begun and never
/// published. A version's notes are deleted last, so that the next run finds what an interrupted deletion left.
/// `template`, with its layers, is used for a version without notes.
async fn sweep(store: &Store, template: &Template, latest: &Latest) -> Result<(), S3Error> {
    for version in noted_versions(store).await? {
        if latest.versions.iter().any(|stays| stays.version == version) {
            continue;
        }
        if is_awaited(store, &version).await? {
            continue;
        }
        let old = template_of(store, &version).await?.unwrap_or_else(|| template.clone()).with_version(&version);
        let mut from = None;
        loop {
            let page = store.list(&old.prefix(), from).await?;
            let tiles: Vec<String> =
                page.found.into_iter().map(|object| object.name).filter(|name| old.read(name).is_some()).collect();
            store.remove(&tiles).await?;
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        store.remove(&store.names(&notes::of_version(&version, "")).await?).await?;
    }
    Ok(())
}

/// The template of a version, with its layers, by its notes: the version may have another template and other layers
/// than this run. `None` if the notes do not name a template of versions.
async fn template_of(store: &Store, version: &str) -> Result<Option<Template>, S3Error> {
    let Some(object) = store.get(&notes::of_version(version, notes::METADATA)).await? else { return Ok(None) };
    // Damaged notes of an old version do not prevent a new one from being published.
    let noted = read_noted(store, &object).unwrap_or_default();
    let template = noted.template.as_deref().map(Template::new).and_then(Result::ok).filter(Template::is_versioned);
    Ok(template.map(|template| template.with_layers(noted.layers.iter().map(String::as_str))))
}
