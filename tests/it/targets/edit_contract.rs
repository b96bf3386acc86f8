//! What the sink's contract (`src/target/mod.rs`) says of edits, `Unwritten::Keep`, held by every sink that can edit.

use std::collections::BTreeMap;

use oar_tiles::target::{Publishing, Sink as _, TileEdit, Written};
use oar_tiles::tile::TileCoord;

use crate::support::s3::Prefix;
use crate::support::sinks::{Faulty, MemoryTarget};
use crate::support::targets::{
    ArchiveInBucket, Held, InBucket, OfMbtiles, PmtilesFile, Target, edit, edits, hand_over, held_by, in_folder, key,
    look, needs, once_free, staying, tileset, tree, write,
};

/// What becomes of a tile: by its column and row, so that all kinds lie side by side in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    NotHandedOver,
    Equal,
    Changed,
    Removed,
    /// It could not be rendered; of some, other layers could.
    Kept,
}

fn fate(tile: TileCoord) -> Fate {
    use Fate::{Changed, Equal, Kept, NotHandedOver, Removed};
    [NotHandedOver, Equal, Changed, Removed, NotHandedOver, Kept, Changed][(tile.x() + 2 * tile.y()) as usize % 7]
}

/// Tiles that were put and tiles that were removed before, each with a fate; those that were not there are put or
/// removed.
fn changes<T: Target>(target: &T) -> Vec<TileEdit> {
    let changed = |edit: TileEdit| {
        let id = edit.id();
        match (fate(id.coord), &edit) {
            (Fate::NotHandedOver, _) => None,
            (Fate::Removed, _) | (Fate::Equal, TileEdit::Remove(_)) => Some(TileEdit::Remove(id)),
            (Fate::Equal, _) => Some(edit),
            (Fate::Kept, _) => Some(TileEdit::Keep(
                id,
                id.coord.x().is_multiple_of(2).then(|| b"\x1f\x8b of other layers".to_vec().into()),
            )),
            // As long as the old bytes, and longer, and one content for many.
            (Fate::Changed, _) => Some(TileEdit::Put(
                id,
                match id.coord.x() % 3 {
                    0 => [&[0x1f, 0x8b, 9][..], id.to_string().as_bytes()].concat().into(),
                    1 => [&[0x1f, 0x8b, 9][..], id.to_string().repeat(20).as_bytes()].concat().into(),
                    _ => b"\x1f\x8b everywhere the same".to_vec().into(),
                },
            )),
        }
    };
    edits(needs(target), 0, |_| false).into_iter().filter_map(changed).collect()
}

fn applied(mut held: Held, edits: &[TileEdit]) -> Held {
    for edit in edits {
        match edit {
            TileEdit::Put(id, bytes) => drop(held.insert(key(*id), bytes.to_vec())),
            TileEdit::Remove(id) => drop(held.remove(&key(*id))),
            TileEdit::Keep(id, Some(bytes)) => drop(held.entry(key(*id)).or_insert_with(|| bytes.to_vec())),
            TileEdit::Keep(_, None) => {}
        }
    }
    held
}

fn what_is_not_handed_over_stays_and_the_rest_is_counted<T: Target>(target: &T) {
    let first = edits(needs(target), 0, |_| false);
    write(target, &first, &tileset("0-7", &[]), "first");
    let (before, stamps) = (held_by(&first), target.stamps());
    let edits = changes(target);
    let expected = applied(before.clone(), &edits);
    let ((written, deleted), described) = edit(target, &edits, "second");
    assert!(described.manifest.unwrap().contains("first"), "what it was before");
    let count = |holds: &dyn Fn(&TileEdit) -> bool| edits.iter().filter(|edit| holds(edit)).count() as u64;
    let is_new = |edit: &TileEdit| !before.contains_key(&key(edit.id()));
    let is_equal = |edit: &TileEdit| matches!(edit, TileEdit::Put(id, bytes) if before.get(&key(*id)).is_some_and(|held| held[..] == **bytes));
    let is_kept = |edit: &TileEdit| matches!(edit, TileEdit::Keep(..)) && !is_new(edit);
    // With bytes, what is to be kept and is not there is put.
    let is_put = |edit: &TileEdit| {
        matches!(edit, TileEdit::Put(..)) || matches!(edit, TileEdit::Keep(_, Some(_)) if is_new(edit))
    };
    let is_removed = |edit: &TileEdit| matches!(edit, TileEdit::Remove(_));
    let expected_counts = [
        count(&|edit| is_put(edit) && !is_equal(edit)),
        count(&is_removed),
        count(&|edit| is_equal(edit) || is_kept(edit)),
        count(&|edit| is_put(edit) && is_new(edit)),
        count(&|edit| is_removed(edit) && !is_new(edit)),
        count(&|edit| matches!(edit, TileEdit::Keep(_, None)) && is_new(edit)),
    ];
    let Written { stored, removed, unchanged, missing, added, deleted: of_removed } = written;
    let counts = [stored, removed, unchanged, added, of_removed, missing];
    assert_eq!((counts, deleted), (expected_counts, written.deleted));
    assert!(expected_counts.iter().all(|count| *count > 0) && expected.len() > before.len() / 2, "{expected_counts:?}");
    let (held, described) = look(target);
    assert_eq!(held, expected);
    assert!(described.manifest.unwrap().contains("second"));
    assert_eq!(target.reader().unwrap().check().unwrap(), Vec::<String>::new());
    // The others were not touched.
    let changed: BTreeMap<_, _> =
        target.stamps().into_iter().filter(|(name, stamp)| stamps.get(name) != Some(stamp)).collect();
    assert_eq!(changed.len() as u64, if stamps.is_empty() { 0 } else { written.stored }, "{changed:?}");

    // Again: all of it is there. Without any edit the manifest moves alone.
    let stamps = target.stamps();
    let ((written, deleted), _) = edit(target, &edits, "third");
    assert_eq!(
        (written.stored, written.unchanged, written.added, deleted),
        (0, count(&|edit| is_put(edit) || is_kept(edit)), 0, 0)
    );
    let ((written, deleted), described) = edit(target, &[], "fourth");
    assert_eq!((written.total(), written.added, deleted), (0, 0, 0));
    assert!(described.manifest.unwrap().contains("third"));
    let (held, described) = look(target);
    assert_eq!(held, expected);
    assert!(described.manifest.unwrap().contains("fourth"));
    assert_eq!(target.stamps(), stamps);
}

fn dropped_before_the_end_it_shows_the_old_manifest_and_the_next_run_is_right<T: Target>(target: &T) {
    let first = edits(needs(target), 0, |_| false);
    write(target, &first, &tileset("0-7", &[]), "first");
    let (old, edits) = (target.bytes(), changes(target));
    // Of the calls that fail, the odd ones are obeyed first.
    for fails_at in [None, Some(1), Some(2)] {
        let mut sink = Faulty::new(once_free(|| target.editor()), fails_at.unwrap_or(usize::MAX));
        sink.begin(&staying()).unwrap();
        let half = edits.len() / 2;
        let failed = edits[..half].chunks(11).try_for_each(|piece| sink.write(piece.to_vec()).map(drop)).err();
        assert_eq!(failed.map(|error| error.to_string()), fails_at.map(|_| "on purpose".to_owned()));
        drop(sink);
        assert!(target.bytes() == old, "an archive is the old one, byte for byte");
        let (held, described) = look(target);
        assert!(described.manifest.unwrap().contains("first"));
        let (before, after) = (held_by(&first), applied(held_by(&first), &edits));
        let touched = |key: &_| held.get(key) == before.get(key) || held.get(key) == after.get(key);
        assert!(before.keys().chain(after.keys()).all(touched), "each tile is old or new");
        assert!(held.keys().all(|key| before.contains_key(key) || after.contains_key(key)));
    }
    edit(target, &edits, "second");
    assert_eq!(look(target).0, applied(held_by(&first), &edits));
    // And a whole run over that.
    write(target, &first, &tileset("0-7", &[]), "third");
    assert_eq!(look(target).0, held_by(&first));
}

fn of_two_writers_the_second_is_told<T: Target>(target: &T) {
    write(target, &edits(needs(target), 0, |_| false), &tileset("0-7", &[]), "first");
    if target.is_locked() {
        let first = once_free(|| target.editor());
        for refused in [target.editor().err().map(|e| e.to_string()), target.sink().err().map(|e| e.to_string())] {
            let refused = refused.expect("two writers at once");
            assert!(refused.contains(target.busy()), "{refused}");
        }
        drop(first);
        let first = once_free(|| target.sink());
        let Err(refused) = target.editor() else { panic!("two writers at once") };
        assert!(refused.to_string().contains(target.busy()), "{refused}");
        drop(first);
        drop(once_free(|| target.editor()));
        return;
    }
    let mut sinks = [once_free(|| target.editor()), once_free(|| target.editor())];
    for sink in &mut sinks {
        drop(sink.begin(&staying()).unwrap());
    }
    let [first, second] = sinks;
    hand_over(first, &changes(target), "second").unwrap();
    let expected = look(target).0;
    let refused = hand_over(second, &[], "third").unwrap_err().to_string();
    assert!(refused.contains("was changed by somebody else during the run"), "{refused}");
    let (held, described) = look(target);
    assert!(held == expected && described.manifest.unwrap().contains("second"));
}

fn an_empty_target_is_edited_and_edited_empty<T: Target>(target: &T) {
    write(target, &[], &tileset("0-7", &[]), "first");
    let all = edits(needs(target), 0, |_| false);
    let ((written, deleted), _) = edit(target, &all, "second");
    assert_eq!((written.stored, written.added, deleted), (held_by(&all).len() as u64, held_by(&all).len() as u64, 0));
    assert_eq!(look(target).0, held_by(&all));
    let gone: Vec<TileEdit> = all.iter().map(|edit| TileEdit::Remove(edit.id())).collect();
    let ((written, deleted), _) = edit(target, &gone, "third");
    assert_eq!((written.removed, written.added, deleted), (gone.len() as u64, 0, held_by(&all).len() as u64));
    assert_eq!(look(target).0, Held::new());
}

/// Every promise, each on a target of its own.
pub(crate) fn edits_keep_the_contract<T: Target>(new: impl Fn() -> T) {
    what_is_not_handed_over_stays_and_the_rest_is_counted(&new());
    dropped_before_the_end_it_shows_the_old_manifest_and_the_next_run_is_right(&new());
    of_two_writers_the_second_is_told(&new());
    an_empty_target_is_edited_and_edited_empty(&new());
}

#[test]
fn edits_of_an_mbtiles_file_keep_the_contract() {
    edits_keep_the_contract(|| in_folder(OfMbtiles));
}

#[test]
fn edits_of_a_pmtiles_file_keep_the_contract() {
    edits_keep_the_contract(|| in_folder(PmtilesFile));
}

#[test]
fn edits_of_a_directory_keep_the_contract_under_any_template() {
    for template in ["{z}/{x}/{y}.pbf", "t/{layer}/{z}/{x}/{-y}.mvt", "{x}-{y}-{z}"] {
        edits_keep_the_contract(|| in_folder(tree(template, Publishing::InPlace)));
    }
}

#[test]
fn edits_of_a_prefix_of_a_bucket_keep_the_contract() {
    edits_keep_the_contract(|| InBucket(Prefix::new(), tree("{z}/{x}/{y}.pbf", Publishing::InPlace)));
    // Twice as many objects: once is enough.
    let layers_apart = InBucket(Prefix::new(), tree("t/{layer}/{z}/{x}/{-y}.mvt", Publishing::InPlace));
    what_is_not_handed_over_stays_and_the_rest_is_counted(&layers_apart);
}

#[test]
fn edits_of_an_archive_in_a_bucket_keep_the_contract() {
    edits_keep_the_contract(|| ArchiveInBucket(Prefix::new()));
}

#[test]
fn edits_of_the_sink_in_memory_keep_the_contract() {
    edits_keep_the_contract(MemoryTarget::new);
}

/// A version is written as a whole, and an archive that is not there cannot be edited.
#[test]
fn what_cannot_be_edited_is_refused_with_the_advice_to_seed() {
    let publish = Publishing::Versioned { keep: 1, keep_for: std::time::Duration::ZERO };
    let of_directory = in_folder(tree("{version}/{z}/{x}/{y}.pbf", publish));
    let of_bucket = InBucket(Prefix::new(), tree("{version}/{z}/{x}/{y}.pbf", publish));
    write(&of_directory, &[], &tileset("0-7", &[]), "first");
    write(&of_bucket, &[], &tileset("0-7", &[]), "first");
    let (directory, bucket) = (of_directory.path("tiles"), of_bucket.0.location.to_string());
    let text = |place: &str| {
        format!(
            "{place} is published with publish = \"versioned\", and a version is written as a whole: seed it, or publish in place"
        )
    };
    let refused = once_free(|| of_directory.editor()).begin(&staying()).unwrap_err().to_string();
    assert_eq!(refused, text(directory.to_str().unwrap()));
    assert_eq!(once_free(|| of_bucket.editor()).begin(&staying()).unwrap_err().to_string(), text(&bucket));

    let empty = in_folder(tree("{z}/{x}/{y}.pbf", Publishing::InPlace));
    let refused = empty.editor().unwrap().begin(&staying()).unwrap_err().to_string();
    let text =
        |place: &str| format!("{place} holds no tileset of oar-tiles that could be brought up to date: seed it first");
    assert_eq!(refused, text(empty.path("tiles").to_str().unwrap()));
    let empty = InBucket(Prefix::new(), tree("{z}/{x}/{y}.pbf", Publishing::InPlace));
    assert_eq!(empty.editor().unwrap().begin(&staying()).unwrap_err().to_string(), text(&empty.0.location.to_string()));

    let none = in_folder(OfMbtiles);
    let text =
        |place: &str| format!("there is no archive {place} whose tiles could be brought up to date: seed it first");
    assert_eq!(none.editor().unwrap_err().to_string(), text(none.path("t.mbtiles").to_str().unwrap()));
    let none = in_folder(PmtilesFile);
    let refused = none.editor().unwrap().begin(&staying()).unwrap_err().to_string();
    assert_eq!(refused, text(none.path("t.pmtiles").to_str().unwrap()));
    let none = ArchiveInBucket(Prefix::new());
    let refused = none.editor().unwrap().begin(&staying()).unwrap_err().to_string();
    assert_eq!(refused, text(&format!("{}t.pmtiles", none.0.location)));
}

#[test]
fn a_sink_refuses_what_it_is_not_made_for() {
    let target = in_folder(OfMbtiles);
    write(&target, &[], &tileset("0-7", &[]), "first");
    let text = |what: &str| {
        format!(
            "{what}: please report this; {} is unchanged",
            target.path("t.mbtiles").canonicalize().unwrap().display()
        )
    };
    let refused = once_free(|| target.sink()).begin(&staying()).unwrap_err().to_string();
    assert_eq!(refused, text("a new archive was to keep tiles of the old one"));
    let refused = once_free(|| target.editor()).begin(&tileset("0-7", &[])).unwrap_err().to_string();
    assert_eq!(refused, text("an archive was to be edited, and not to keep the tiles that are not handed over"));
}
