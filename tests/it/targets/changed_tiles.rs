//! Sinks say exactly which tiles changed: the list after `finish` against the target's tiles read before and after.

use std::collections::BTreeSet;

use oar_tiles::stop::Stop;
use oar_tiles::target::{ChangedTiles, Mbtiles, OpenMode, Publishing, Sink as _, TileChange, TileEdit, Tileset};

use crate::support::chance::Chance;
use crate::support::s3::Prefix;
use crate::support::sinks::MemoryTarget;
use crate::support::targets::{
    ArchiveInBucket, Held, InBucket, OfMbtiles, PmtilesFile, Target, edits, finished, in_folder, key, look, needs,
    once_free, staying, tileset, tree, write,
};

type Key = (u8, u32, u32, Option<u16>);

/// The keys of a list, and whether its order and its tiles agree.
fn listed(changed: &ChangedTiles) -> [BTreeSet<Key>; 2] {
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    let mut coords = BTreeSet::new();
    for range in changed.ranges() {
        let range = range.unwrap();
        for id in range.tiles() {
            assert!(found[usize::from(range.change == TileChange::Deleted)].insert(key(id)), "{id} is listed twice");
            coords.insert((id.coord.zoom().get(), id.coord.x(), id.coord.y()));
        }
    }
    let once: Vec<_> = changed.coords().map(Result::unwrap).collect();
    assert!(once.is_sorted_by_key(|tile| tile.zoom()), "zoom after zoom");
    let once: Vec<_> = once.iter().map(|tile| (tile.zoom().get(), tile.x(), tile.y())).collect();
    assert_eq!((once.len(), once.into_iter().collect::<BTreeSet<_>>()), (coords.len(), coords));
    found
}

/// What really changed between two looks.
fn truth(before: &Held, after: &Held) -> [BTreeSet<Key>; 2] {
    let written = after.iter().filter(|(key, bytes)| before.get(*key) != Some(bytes)).map(|(key, _)| *key);
    let deleted = before.keys().filter(|key| !after.contains_key(*key)).copied();
    [written.collect(), deleted.collect()]
}

/// Some of the tiles that [`edits`] knows, most of them as they were; others get new bytes, are removed, kept or not
/// handed over.
fn some(all: &[TileEdit], chance: &mut Chance) -> Vec<TileEdit> {
    let fate = |edit: &TileEdit| {
        let id = edit.id();
        Some(match chance.below(10) {
            0 => TileEdit::Remove(id),
            1 => TileEdit::Put(id, format!("\u{1f}\u{8b}{id}{}", chance.below(3)).into_bytes().into()),
            2 => TileEdit::Put(id, b"\x1f\x8b everywhere the same".to_vec().into()),
            3 => TileEdit::Keep(id, Some(b"\x1f\x8b of other layers".to_vec().into())),
            4 => TileEdit::Keep(id, None),
            5 => return None,
            _ => edit.clone(),
        })
    };
    all.iter().filter_map(fate).collect()
}

/// One run between two looks: its list is the truth, or says that everything counts as changed.
fn told<T: Target>(target: &T, tileset: Option<&Tileset>, edits: &[TileEdit], run: &str) -> Option<&'static str> {
    let (before, _) = look(target);
    let (written, done) = if let Some(tileset) = tileset {
        let mut sink = once_free(|| target.sink());
        sink.begin(tileset).unwrap();
        finished(sink, edits, run).unwrap()
    } else {
        let mut sink = once_free(|| target.editor());
        sink.begin(&staying()).unwrap();
        finished(sink, edits, run).unwrap()
    };
    let changed = done.changed.expect("the tileset asks for it");
    let (found, (after, _)) = (listed(&changed), look(target));
    match changed.everything() {
        Some(_) => assert!(found[0].len() as u64 <= written.stored),
        None => assert_eq!(found, truth(&before, &after), "{run}"),
    }
    if target.in_line() && changed.everything().is_none() {
        assert_eq!(found.map(|tiles| tiles.len() as u64), [written.stored, done.deleted]);
    }
    changed.everything()
}

/// A first run, then runs of all tiles, of a part and of edits in turn.
fn says_which_tiles_changed<T: Target>(target: &T, first: Option<&str>, later: Option<&str>, is_edited: bool) {
    // Each request to a bucket takes milliseconds.
    let seeds = if target.is_remote() { 1 } else { 4 };
    let all = edits(needs(target), 0, |_| false);
    assert_eq!(told(target, Some(&tileset("0-7", &[])), &all, "first"), first);
    for seed in 0..seeds {
        let mut chance = Chance(seed);
        let run = some(&all, &mut chance);
        assert_eq!(told(target, Some(&tileset("0-7", &[])), &run, &format!("whole {seed}")), later);
        assert_eq!(told(target, Some(&tileset("0-7", &[])), &run, &format!("again {seed}")), later);
        if is_edited {
            assert_eq!(told(target, None, &some(&all, &mut chance), &format!("edited {seed}")), None);
            assert_eq!(told(target, None, &[], &format!("edited by nothing {seed}")), None);
        }
        // Only zoom 6, whose tiles are all alike.
        let part: Vec<TileEdit> = run.iter().filter(|edit| edit.id().coord.zoom().get() == 6).cloned().collect();
        assert_eq!(told(target, Some(&tileset("6", &[])), &part, &format!("a part {seed}")), later);
    }
}

const NO_ARCHIVE: Option<&str> = Some("there was no archive before");
const NO_TILESET: Option<&str> = Some("the target held no finished tileset before");

#[test]
fn an_mbtiles_file_says_which_tiles_changed() {
    says_which_tiles_changed(&in_folder(OfMbtiles), NO_ARCHIVE, None, true);
}

#[test]
fn a_pmtiles_file_says_which_tiles_changed() {
    says_which_tiles_changed(&in_folder(PmtilesFile), NO_ARCHIVE, None, true);
}

#[test]
fn a_directory_says_which_tiles_changed() {
    for template in ["{z}/{x}/{y}.pbf", "t/{layer}/{z}/{x}/{-y}.mvt", "{x}-{y}-{z}"] {
        says_which_tiles_changed(&in_folder(tree(template, Publishing::InPlace)), NO_TILESET, None, true);
    }
}

#[test]
fn a_prefix_of_a_bucket_says_which_tiles_changed() {
    let prefix = InBucket(Prefix::new(), tree("{z}/{x}/{y}.pbf", Publishing::InPlace));
    says_which_tiles_changed(&prefix, NO_TILESET, None, true);
}

#[test]
fn an_archive_in_a_bucket_says_which_tiles_changed() {
    let target = ArchiveInBucket(Prefix::new());
    let all = edits(needs(&target), 0, |_| false);
    write(&target, &all, &tileset("0-7", &[]), "first");
    for seed in 0..2 {
        let mut chance = Chance(seed);
        let run = some(&all, &mut chance);
        assert_eq!(told(&target, Some(&tileset("0-7", &[])), &run, "whole"), None);
        assert_eq!(told(&target, None, &some(&all, &mut chance), "edited"), None);
    }
}

#[test]
fn the_sink_in_memory_says_which_tiles_changed() {
    says_which_tiles_changed(&MemoryTarget::new(), NO_TILESET, None, true);
}

#[test]
fn a_new_version_counts_as_a_change_of_everything() {
    let publish = Publishing::Versioned { keep: 1, keep_for: std::time::Duration::ZERO };
    let version = Some("a new version was published, whose tiles have addresses of their own");
    says_which_tiles_changed(&in_folder(tree("{version}/{z}/{x}/{y}.pbf", publish)), version, version, false);
}

/// What an interrupted run changed is not known, so the next run says so; the one after it is exact again.
#[test]
fn after_a_run_that_did_not_finish_everything_counts_as_changed() {
    fn check<T: Target>(target: &T) {
        let all = edits(needs(target), 0, |_| false);
        write(target, &all, &tileset("0-7", &[]), "first");
        let other = edits(needs(target), 1, |_| true);
        let mut sink = once_free(|| target.sink());
        sink.begin(&tileset("0-7", &[])).unwrap();
        sink.write(other[..other.len() / 2].to_vec()).unwrap();
        drop(sink);
        let why = Some("an earlier run did not finish, so what it changed is not known");
        assert_eq!(told(target, Some(&tileset("0-7", &[])), &other, "second"), why);
        assert_eq!(told(target, Some(&tileset("0-7", &[])), &all, "third"), None);
    }
    check(&in_folder(tree("{z}/{x}/{y}.pbf", Publishing::InPlace)));
    check(&InBucket(Prefix::new(), tree("{z}/{x}/{y}.pbf", Publishing::InPlace)));
}

#[test]
fn without_being_asked_a_sink_lists_nothing() {
    let target = in_folder(OfMbtiles);
    let all = edits(needs(&target), 0, |_| false);
    for run in ["first", "second"] {
        let mut sink = once_free(|| target.sink());
        sink.begin(&Tileset { list_changes: false, ..tileset("0-7", &[]) }).unwrap();
        assert!(finished(sink, &all, run).unwrap().1.changed.is_none());
    }
}

/// An archive without an index in the order of tiles would have to be sorted: it is not compared.
#[test]
fn an_old_archive_without_an_index_makes_everything_count_as_changed() {
    let target = in_folder(OfMbtiles);
    let all = edits(needs(&target), 0, |_| false);
    write(&target, &all, &tileset("0-7", &[]), "first");
    let old = rusqlite::Connection::open(target.path("t.mbtiles")).unwrap();
    old.execute_batch("DROP INDEX tile_index").unwrap();
    drop(old);
    let why = Some("the archive that was replaced could not be compared");
    assert_eq!(told(&target, Some(&tileset("0-7", &[])), &all, "second"), why);
    assert_eq!(told(&target, Some(&tileset("0-7", &[])), &all, "third"), None);
}

/// A link, a pipe or a broken file in place of the old archive is refused or makes everything count, and the new
/// archive is whole.
#[test]
fn an_old_archive_that_is_damaged_makes_everything_count_as_changed() {
    let target = in_folder(OfMbtiles);
    let all = edits(needs(&target), 0, |_| false);
    write(&target, &all, &tileset("0-7", &[]), "first");
    let path = target.path("t.mbtiles");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end / 2..end - 100].fill(0xaa);
    std::fs::write(&path, bytes).unwrap();
    let mut sink = once_free(|| Mbtiles::open(&path, OpenMode::Replace, &Stop::new()));
    sink.begin(&tileset("0-7", &[])).unwrap();
    let (_, done) = finished(sink, &all, "second").unwrap();
    assert_eq!(done.changed.unwrap().everything(), Some("the archive that was replaced could not be compared"));
    assert_eq!(look(&target).0, crate::support::targets::held_by(&all));
}
