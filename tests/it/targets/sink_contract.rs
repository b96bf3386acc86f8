//! The sink's contract (`src/target/mod.rs`), held by every sink: one suite, the in-memory sink and the fault-injecting
//! one included. What concerns edits of a target, whose other tiles stay, is in `edit_contract.rs`.

use oar_tiles::target::{Metadata, Publishing, Sink as _, TileEdit, Tileset, TreeOptions, VectorLayer};

use crate::support::s3::Prefix;
use crate::support::sinks::{Faulty, MemoryTarget};
use crate::support::targets::{
    File, Held, InBucket, OfMbtiles, PmtilesFile, Target, edits, held_by, in_folder, look, metadata, needs, once_free,
    tileset, tree, write,
};

fn holds_what_was_put_and_nothing_else<T: Target>(target: &T) {
    let needs = needs(target);
    let first = edits(needs, 0, |_| false);
    let (written, deleted) = write(target, &first, &tileset("0-7", &[]), "first");
    assert_eq!((written.stored, written.unchanged, deleted), (held_by(&first).len() as u64, 0, 0));
    let (held, described) = look(target);
    assert_eq!(held, held_by(&first));
    assert!(described.manifest.unwrap().contains("first"));
    assert_eq!((described.name.as_deref(), described.zooms), (Some("contract"), Some((0, 7))));
    assert_eq!(described.bounds.map(|bounds| bounds.sides()), Some([-10.0, -20.0, 30.0, 40.0]));
    assert_eq!(described.vector_layers, metadata("").vector_layers);

    // Again, with other bytes at zoom 5 and without the tiles of zoom 3.
    let second: Vec<TileEdit> = edits(needs, 1, |tile| tile.zoom().get() == 5)
        .into_iter()
        .filter(|edit| edit.id().coord.zoom().get() != 3)
        .collect();
    let (written, deleted) = write(target, &second, &tileset("0-7", &[]), "second");
    let (held, described) = look(target);
    assert_eq!(held, held_by(&second));
    assert!(described.manifest.unwrap().contains("second"));
    if target.in_line() {
        let of_zoom = |edits: &[TileEdit], zoom| held_by(edits).keys().filter(|key| key.0 == zoom).count() as u64;
        assert_eq!((written.stored, deleted), (of_zoom(&second, 5), of_zoom(&first, 3)));
        let (written, deleted) = write(target, &second, &tileset("0-7", &[]), "third");
        assert_eq!((written.stored, written.unchanged, deleted), (0, held.len() as u64, 0), "nothing is written twice");
    }
}

fn what_is_outside_of_the_scope_stays<T: Target>(target: &T) {
    if !target.in_line() {
        return;
    }
    let needs = needs(target);
    let first = edits(needs, 0, |_| false);
    write(target, &first, &tileset("0-7", &[]), "first");
    // Nothing is rendered in a box at zooms 5 and 6: only what lies there goes.
    let narrow = tileset("5-6", &["0,-85,180,85"]);
    let (_, deleted) = write(target, &[], &narrow, "second");
    let inside = |key: &(u8, u32, u32, Option<u16>)| (5..=6).contains(&key.0) && key.1 >= 1 << (key.0 - 1);
    let (held, _) = look(target);
    let expected: Held = held_by(&first).into_iter().filter(|(key, _)| !inside(key)).collect();
    assert_eq!(deleted, (held_by(&first).len() - expected.len()) as u64);
    assert!(deleted > 0);
    assert_eq!(held, expected);
}

fn an_unfinished_run_shows_no_manifest_and_the_next_one_is_right<T: Target>(target: &T) {
    let needs = needs(target);
    let first = edits(needs, 0, |_| false);
    write(target, &first, &tileset("0-7", &[]), "first");
    let second = edits(needs, 2, |tile| tile.zoom().get() > 3);
    let mut sink = once_free(|| target.sink());
    sink.begin(&tileset("0-7", &[])).unwrap();
    sink.write(second[..second.len() / 2].to_vec()).unwrap();
    drop(sink);
    let (held, described) = look(target);
    assert!(described.manifest.unwrap().contains("first"), "the manifest is the last to move");
    if target.in_line() {
        let (old, new) = (held_by(&first), held_by(&second));
        assert!(held.iter().all(|(key, bytes)| old.get(key) == Some(bytes) || new.get(key) == Some(bytes)));
    } else {
        assert_eq!(held, held_by(&first));
    }
    write(target, &second, &tileset("0-7", &[]), "second");
    assert_eq!(look(target).0, held_by(&second));
}

fn nothing_is_taken_before_the_beginning<T: Target>(target: &T) {
    // Only what is brought in line has anything to read at the beginning.
    if !target.in_line() {
        return;
    }
    let first = edits(needs(target), 0, |_| false);
    write(target, &first, &tileset("0-7", &[]), "first");
    assert!(once_free(|| target.sink()).write(first.clone()).is_err());
    assert!(once_free(|| target.sink()).finish(&metadata("never")).is_err());
    let (held, described) = look(target);
    assert_eq!(held, held_by(&first));
    assert!(described.manifest.unwrap().contains("first"));
}

fn a_second_writer_is_told<T: Target>(target: &T) {
    let first = once_free(|| target.sink());
    let Err(refused) = target.sink() else { panic!("two writers at once") };
    assert!(refused.to_string().contains(target.busy()), "{refused}");
    drop(first);
    drop(once_free(|| target.sink()));
}

fn a_failing_write_leaves_a_target_that_the_next_run_makes_right<T: Target>(target: &T) {
    let needs = needs(target);
    let first = edits(needs, 0, |_| false);
    write(target, &first, &tileset("0-7", &[]), "first");
    for fails_at in [0, 1, 3] {
        let mut sink = Faulty::new(once_free(|| target.sink()), fails_at);
        let failed = (|| {
            sink.begin(&tileset("0-7", &[])).map(drop)?;
            for piece in edits(needs, 3, |_| true).chunks(33) {
                sink.write(piece.to_vec()).map(drop)?;
            }
            sink.finish(&metadata("never")).map(drop)
        })();
        assert!(failed.unwrap_err().to_string().contains("on purpose"));
        let (held, described) = look(target);
        assert!(described.manifest.unwrap().contains("first"));
        if !target.in_line() {
            assert_eq!(held, held_by(&first));
        }
    }
    write(target, &first, &tileset("0-7", &[]), "again");
    assert_eq!(look(target).0, held_by(&first));
}

fn an_empty_tileset_is_a_valid_target<T: Target>(target: &T) {
    write(target, &[], &tileset("0-7", &[]), "empty");
    let (held, described) = look(target);
    assert_eq!((held, described.name.as_deref()), (Held::new(), Some("contract")));
}

/// Every promise, each on a target of its own.
pub(crate) fn keeps_the_contract<T: Target>(new: impl Fn() -> T) {
    holds_what_was_put_and_nothing_else(&new());
    what_is_outside_of_the_scope_stays(&new());
    an_unfinished_run_shows_no_manifest_and_the_next_one_is_right(&new());
    nothing_is_taken_before_the_beginning(&new());
    a_second_writer_is_told(&new());
    a_failing_write_leaves_a_target_that_the_next_run_makes_right(&new());
    an_empty_tileset_is_a_valid_target(&new());
}

#[test]
fn an_mbtiles_file_keeps_the_contract() {
    keeps_the_contract(|| in_folder(OfMbtiles));
}

#[test]
fn a_directory_keeps_the_contract_under_any_template() {
    for template in ["{z}/{x}/{y}.pbf", "t/{layer}/{z}/{x}/{-y}.mvt", "{x}-{y}-{z}"] {
        keeps_the_contract(|| in_folder(tree(template, Publishing::InPlace)));
    }
}

#[test]
fn a_versioned_directory_keeps_the_contract() {
    let publish = Publishing::Versioned { keep: 1, keep_for: std::time::Duration::ZERO };
    keeps_the_contract(|| in_folder(tree("{layer}/{version}/{z}/{x}/{y}.pbf", publish)));
}

#[test]
fn a_pmtiles_file_keeps_the_contract() {
    keeps_the_contract(|| in_folder(PmtilesFile));
}

#[test]
fn a_prefix_of_a_bucket_keeps_the_contract() {
    keeps_the_contract(|| InBucket(Prefix::new(), tree("{z}/{x}/{y}.pbf", Publishing::InPlace)));
    keeps_the_contract(|| InBucket(Prefix::new(), tree("t/{layer}/{z}/{x}/{-y}.mvt", Publishing::InPlace)));
}

#[test]
fn a_versioned_prefix_of_a_bucket_keeps_the_contract() {
    let publish = Publishing::Versioned { keep: 1, keep_for: std::time::Duration::ZERO };
    for template in ["{version}/{z}/{x}/{y}.pbf", "{layer}/{version}/{z}/{x}/{y}.pbf"] {
        keeps_the_contract(|| InBucket(Prefix::new(), tree(template, publish)));
    }
}

/// The tiles go under a new version with each run, and the version before is removed: by its own template and layers,
/// which may be others than those of the run that removes it. `options` are those of the target, for runs with another
/// template. `notes` are the names of its TileJSON.
fn a_version_is_removed_by_its_own_template_and_layers<T: Target>(
    target: &mut T,
    options: impl Fn(&mut T) -> &mut TreeOptions,
    notes: impl Fn(&T) -> Vec<String>,
) {
    let publish = Publishing::Versioned { keep: 0, keep_for: std::time::Duration::ZERO };
    let of = |fingerprint: &str, layers: [&str; 2]| Tileset {
        fingerprint: fingerprint.to_owned(),
        layers: layers.map(str::to_owned).to_vec(),
        ..tileset("0-7", &[])
    };
    let metadata_of = |layers: [&str; 2]| {
        let layer = |id: &&str| VectorLayer { id: (*id).to_owned(), maxzoom: 7, ..VectorLayer::default() };
        Metadata { vector_layers: layers.iter().map(layer).collect(), ..metadata("versions") }
    };
    let run = |target: &T, fingerprint: &str, layers: [&str; 2], finishes: bool| {
        let mut sink = once_free(|| target.sink());
        let mut edits = edits(sink.needs(), 0, |_| false);
        edits.retain(|edit| edit.id().coord.zoom().get() <= 4);
        sink.begin(&of(fingerprint, layers)).unwrap();
        for piece in edits.chunks(33) {
            sink.write(piece.to_vec()).unwrap();
        }
        if finishes {
            sink.finish(&metadata_of(layers)).unwrap();
        }
        held_by(&edits).len()
    };
    // Asserts that nothing but the tiles of one version is there, all of them below `prefixes`.
    let only = |target: &T, prefixes: &[&str], count: usize, why: &str| {
        let names: Vec<String> = target.stamps().into_keys().collect();
        let other = names.iter().find(|name| !prefixes.iter().any(|prefix| name.starts_with(prefix)));
        assert_eq!((other, names.len()), (None, count), "{why}");
    };
    let apart = "{layer}/{version}/{z}/{x}/{y}.pbf";
    *options(target) = tree(apart, publish);
    let count = run(target, "one", ["a", "b"], true);
    only(target, &["a/", "b/"], count, "the first version");
    run(target, "two", ["c", "b"], true);
    only(target, &["c/", "b/"], count, "a layer was renamed");
    assert_eq!(notes(target), ["b.tiles.json", "c.tiles.json"]);
    *options(target) = tree("other/{layer}/{version}/{z}/{x}/{y}.pbf", publish);
    run(target, "two", ["c", "b"], true);
    only(target, &["other/"], count, "another template");
    // What a run wrote that never finished, then the same tileset with another template.
    run(target, "two", ["c", "b"], false);
    *options(target) = tree(apart, publish);
    run(target, "two", ["c", "b"], true);
    only(target, &["c/", "b/"], count, "an interrupted version with another template");
    run(target, "two", ["c", "b"], false);
    run(target, "three", ["d", "e"], true);
    only(target, &["d/", "e/"], count, "an interrupted version with other layers");
    *options(target) = tree("{version}/{z}/{x}/{y}.pbf", publish);
    let count = run(target, "three", ["d", "e"], true);
    only(target, &["2"], count, "layers that are not kept apart any more");
    assert_eq!(notes(target), ["tiles.json"]);
}

#[test]
fn a_directory_removes_a_version_by_its_own_template_and_layers() {
    let mut target = in_folder(tree("{version}/{z}/{x}/{y}.pbf", Publishing::InPlace));
    let notes = |target: &File<TreeOptions>| {
        let names = std::fs::read_dir(target.path("tiles")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with("tiles.json")).collect();
        names.sort();
        names
    };
    a_version_is_removed_by_its_own_template_and_layers(&mut target, |target| &mut target.kind, notes);
}

#[test]
fn a_prefix_of_a_bucket_removes_a_version_by_its_own_template_and_layers() {
    let mut target = InBucket(Prefix::new(), tree("{version}/{z}/{x}/{y}.pbf", Publishing::InPlace));
    let notes = |target: &InBucket| {
        let names = target.0.stamps().into_keys();
        names.filter(|name| !name.contains('/') && name.ends_with("tiles.json")).collect::<Vec<_>>()
    };
    a_version_is_removed_by_its_own_template_and_layers(&mut target, |target| &mut target.1, notes);
}

#[test]
fn the_sink_in_memory_keeps_the_contract() {
    keeps_the_contract(MemoryTarget::new);
}
