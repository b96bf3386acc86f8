//! Publications: whoever knows one finds out which tiles the later ones changed, whatever was killed in between.

use std::collections::BTreeSet;
use std::sync::Arc;

use oar_tiles::manifest::{Publication, publication_of};
use oar_tiles::target::{
    BeforeManifest, BeforeManifestError, BucketNotes, ChangeListWriter, ChangeLists, FolderNotes, Metadata, NoteError,
    NoteStore, PublishedTiles, Publishing, RunKind, Sink, TileEdit, Tileset, WriteCondition,
};
use oar_tiles::tile::{TileCoord, TileRectList};

use crate::support::s3::{Prefix, options};
use crate::support::targets::{
    ArchiveInBucket, InBucket, OfMbtiles, PmtilesFile, Target, edits, in_folder, look, metadata, needs, once_free,
    staying, tileset, tree,
};

/// How a run ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Finished,
    /// After its tiles, before its list.
    BeforeTheList,
    /// After its list, before its manifest.
    BeforeTheManifest,
}

/// Fails, as a kill would.
#[derive(Debug)]
struct Killed;

impl BeforeManifest for Killed {
    fn stored(&self, _published: &PublishedTiles) -> Result<(), BeforeManifestError> {
        Err(NoteError::Name { name: "killed".to_owned() }.into())
    }
}

fn shown<T: Target>(target: &T) -> Option<Publication> {
    publication_of(&look(target).1.manifest?)
}

/// One run with a publication.
fn publish<T: Target>(target: &T, notes: &Arc<dyn NoteStore>, whole: bool, edits: &[TileEdit], end: End) {
    let before = if whole { None } else { shown(target) };
    let publication = Publication::after(before.as_ref());
    let writer = ChangeListWriter { notes: Arc::clone(notes), before, publication: publication.clone() };
    let mut listeners: Vec<Arc<dyn BeforeManifest>> = vec![Arc::new(writer)];
    if end == End::BeforeTheManifest {
        listeners.push(Arc::new(Killed));
    }
    let run = Tileset {
        list_changes: false,
        before_manifest: listeners,
        dirty: TileRectList::of(edits.iter().map(|edit| edit.id().coord)),
        ..if whole { tileset("0-7", &[]) } else { staying() }
    };
    if whole {
        run_to(once_free(|| target.sink()), &run, edits, &publication, end);
    } else {
        let run = Tileset {
            run: RunKind::Reseed { database: "d".to_owned(), complete: true, max_dead_percent: Some(30) },
            ..run
        };
        run_to(once_free(|| target.editor()), &run, edits, &publication, end);
    }
}

fn run_to<S: Sink>(mut sink: S, run: &Tileset, edits: &[TileEdit], publication: &Publication, end: End) {
    sink.begin(run).unwrap();
    for piece in edits.chunks(33) {
        sink.write(piece.to_vec()).unwrap();
    }
    let number = publication.number.to_string();
    let mut manifest: serde_json::Value = serde_json::from_str(&metadata(&number).manifest).unwrap();
    manifest["publication"] = serde_json::to_value(publication).unwrap();
    let metadata = Metadata { manifest: manifest.to_string(), ..metadata(&number) };
    match end {
        End::BeforeTheList => drop(sink),
        End::BeforeTheManifest => drop(sink.finish(&metadata).unwrap_err()),
        End::Finished => drop(sink.finish(&metadata).unwrap()),
    }
}

/// The tiles that differ between two looks.
fn differing<T: Target>(target: &T, before: &crate::support::targets::Held) -> BTreeSet<String> {
    let (after, _) = look(target);
    let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differ = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
    differ.map(|(zoom, x, y, _)| format!("{zoom}/{x}/{y}")).collect()
}

fn listed(notes: &dyn NoteStore, from: &Publication, to: &Publication) -> Option<BTreeSet<String>> {
    let tiles = ChangeLists::read(notes).unwrap().tiles_between(from, to)?;
    Some(tiles.tiles().map(|tile| tile.to_string()).collect())
}

fn tells_readers_what_changed<T: Target>(target: &T, notes: &Arc<dyn NoteStore>) {
    let some = |version: u8, changes: fn(TileCoord) -> bool| edits(needs(target), version, changes);
    let part = |version: u8, column: u32| {
        let edits = edits(needs(target), version, |_| true);
        edits.into_iter().filter(|edit| edit.id().coord.x() % 16 == column).collect::<Vec<_>>()
    };
    publish(target, notes, true, &some(0, |_| false), End::Finished);
    let first = shown(target).unwrap();
    assert_eq!(listed(&**notes, &first, &first), Some(BTreeSet::new()));
    let (held, _) = look(target);

    publish(target, notes, false, &part(1, 3), End::Finished);
    let second = shown(target).unwrap();
    assert_eq!((second.number, listed(&**notes, &first, &second)), (2, Some(differing(target, &held))));
    publish(target, notes, false, &part(2, 5), End::Finished);
    publish(target, notes, false, &[], End::Finished);
    let fourth = shown(target).unwrap();
    assert_eq!((fourth.number, listed(&**notes, &first, &fourth)), (4, Some(differing(target, &held))));

    // Killed before its list, and before its manifest: the next list has what that run changed, and no list leads to
    // it.
    for (version, end) in [(3, End::BeforeTheList), (4, End::BeforeTheManifest)] {
        let (before, (held, _)) = (shown(target).unwrap(), look(target));
        publish(target, notes, false, &part(version, 7), end);
        assert_eq!(shown(target).unwrap(), before);
        assert!(listed(&**notes, &first, &before).is_some(), "the way to what is shown is still there");
        publish(target, notes, false, &part(version, 9), End::Finished);
        let (changed, told) = (differing(target, &held), listed(&**notes, &before, &shown(target).unwrap()).unwrap());
        assert!(told.is_superset(&changed), "{:?}", changed.difference(&told));
        let more: Vec<&String> = told.difference(&changed).collect();
        assert!(more.is_empty() || target.in_line() && more.len() <= part(version, 7).len(), "{more:?}");
    }

    // Damaged or a stranger's: a gap, mended by the next publication.
    for body in ["", "{\"lists\":[{\"number\":1}]}", "{\"lists\":7}", "\u{0}"] {
        let before = shown(target).unwrap();
        notes.write("changes.json", body.as_bytes(), &WriteCondition::Always).unwrap();
        assert_eq!(listed(&**notes, &first, &before), None, "{body:?}");
        publish(target, notes, false, &part(version_of(body), 11), End::Finished);
        assert!(listed(&**notes, &before, &shown(target).unwrap()).is_some(), "{body:?}");
    }
}

/// A version that no other run has.
fn version_of(body: &str) -> u8 {
    u8::try_from(100 + body.len()).unwrap()
}

#[test]
fn a_directory_tells_its_readers_what_changed() {
    let target = in_folder(tree("{z}/{x}/{y}.pbf", Publishing::InPlace));
    let notes: Arc<dyn NoteStore> = Arc::new(FolderNotes::of_directory(&target.path("tiles")));
    tells_readers_what_changed(&target, &notes);
    let apart = in_folder(tree("{layer}/{z}/{x}/{y}.pbf", Publishing::InPlace));
    let notes: Arc<dyn NoteStore> = Arc::new(FolderNotes::of_directory(&apart.path("tiles")));
    tells_readers_what_changed(&apart, &notes);
}

#[test]
fn archives_tell_their_readers_what_changed() {
    let target = in_folder(OfMbtiles);
    let notes: Arc<dyn NoteStore> = Arc::new(FolderNotes::beside(&target.path("t.mbtiles")));
    tells_readers_what_changed(&target, &notes);
    let target = in_folder(PmtilesFile);
    let notes: Arc<dyn NoteStore> = Arc::new(FolderNotes::beside(&target.path("t.pmtiles")));
    tells_readers_what_changed(&target, &notes);
}

#[test]
fn targets_in_a_bucket_tell_their_readers_what_changed() {
    let target = InBucket(Prefix::new(), tree("{z}/{x}/{y}.pbf", Publishing::InPlace));
    let (location, handle) = (target.0.location.clone(), target.0.runtime.handle().clone());
    let notes: Arc<dyn NoteStore> = Arc::new(BucketNotes::of_prefix(location, options(&target.0.endpoint), handle));
    tells_readers_what_changed(&target, &notes);
    let target = ArchiveInBucket(Prefix::new());
    let key = format!("{}t.pmtiles", target.0.location).parse().unwrap();
    let handle = target.0.runtime.handle().clone();
    let notes: Arc<dyn NoteStore> = Arc::new(BucketNotes::beside(&key, options(&target.0.endpoint), handle));
    tells_readers_what_changed(&target, &notes);
}

#[test]
fn an_archive_of_the_same_name_inherits_no_list() {
    let target = in_folder(OfMbtiles);
    let notes: Arc<dyn NoteStore> = Arc::new(FolderNotes::beside(&target.path("t.mbtiles")));
    let all = edits(needs(&target), 0, |_| false);
    publish(&target, &notes, true, &all, End::Finished);
    let first = shown(&target).unwrap();
    let saved = target.bytes().unwrap();
    publish(&target, &notes, false, &edits(needs(&target), 1, |tile| tile.x() == 3), End::Finished);
    let second = shown(&target).unwrap();
    // An older copy is put back, and goes on from there.
    std::fs::write(target.path("t.mbtiles"), saved).unwrap();
    assert_eq!(listed(&*notes, &second, &first), None);
    publish(&target, &notes, false, &edits(needs(&target), 1, |tile| tile.x() == 5), End::Finished);
    let other_second = shown(&target).unwrap();
    assert_eq!(other_second.number, second.number);
    assert_eq!(listed(&*notes, &second, &other_second), None);
    assert!(listed(&*notes, &first, &other_second).is_some());
    // Another archive takes the name.
    publish(&target, &notes, true, &all, End::Finished);
    assert_eq!(listed(&*notes, &other_second, &shown(&target).unwrap()), None);
}
