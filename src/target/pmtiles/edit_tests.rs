//! Archives that are edited again and again, compared with a map in memory to which the same edits are applied.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use super::directories::WriteFault;
use super::layout::{HEADER_LENGTH, ROOT_END};
use super::rebuild_tests::{ExpectedTiles, content, held, metadata, tileset};
use super::tests::tile;
use super::write::TILES;
use super::{Pmtiles, PmtilesReader, WrittenAnew};
use crate::stop::{Signal, Stop};
use crate::target::{Finished, ReadError, RunKind, Sink as _, TileEdit, TileReader as _, Tileset, Written};

/// Begins an edit of an archive of any size.
fn edit(path: &Path, tileset: &Tileset) -> Pmtiles {
    let mut sink = Pmtiles::create(path, &Stop::new()).unwrap();
    let mut old = PmtilesReader::open(path).unwrap();
    let described = old.describe().unwrap();
    assert!(old.can_be_edited(&described));
    sink.edit(old, &described, tileset).unwrap();
    sink
}

fn apply(mut sink: Pmtiles, edits: &[TileEdit]) -> (Written, Finished) {
    let mut written = Written::default();
    for piece in edits.chunks(40) {
        written += sink.write(piece.to_vec()).unwrap();
    }
    (written, sink.finish(&metadata()).unwrap())
}

/// Writes a new archive of these tiles.
fn seed(path: &Path, tiles: &ExpectedTiles) {
    let mut sink = Pmtiles::create(path, &Stop::new()).unwrap();
    sink.write(tiles.iter().map(|(id, bytes)| TileEdit::Put(tile(*id), bytes.clone().into())).collect()).unwrap();
    sink.finish(&metadata()).unwrap();
}

/// Some 700 tiles; most contents differ from each other.
fn many(chance: &mut fastrand::Rng) -> ExpectedTiles {
    let ids: Vec<u64> = (0..700).filter(|_| chance.usize(..9) > 0).collect();
    ids.into_iter().map(|id| (id, any_content(chance))).collect()
}

fn any_content(chance: &mut fastrand::Rng) -> Vec<u8> {
    if chance.usize(..4) == 0 { content(chance.usize(..13)) } else { (0..100).map(|_| chance.u8(..)).collect() }
}

/// The bytes of the tile data that no entry names.
fn dead_bytes(path: &Path) -> u64 {
    let mut reader = PmtilesReader::open(path).unwrap();
    let mut named = BTreeMap::new();
    let walked = reader.walk(&mut |_, entry| {
        named.insert(entry.offset, u64::from(entry.length));
        Ok(())
    });
    walked.unwrap();
    reader.header.tiles.length - named.values().sum::<u64>()
}

#[test]
fn what_another_program_has_put_in_order_has_no_dead_bytes_whatever_its_metadata_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    let tiles = many(&mut fastrand::Rng::with_seed(1));
    seed(&path, &tiles);
    let (last, _) = tiles.last_key_value().unwrap();
    apply(edit(&path, &tileset()), &[TileEdit::Remove(tile(*last))]);
    let dead = |path: &Path| PmtilesReader::open(path).unwrap().describe().unwrap().dead.unwrap().bytes;
    assert!(dead(&path) > 0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[96] = 1;
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(dead(&path), 0);
    assert_eq!(PmtilesReader::open(&path).unwrap().check().unwrap(), Vec::<String>::new());
}

#[test]
fn however_often_it_is_edited_an_archive_holds_what_a_new_one_would() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    let (mut in_place, mut anew) = (0, 0);
    for seed_number in 1..=40 {
        let chance = &mut fastrand::Rng::with_seed(seed_number);
        let mut tiles = many(chance);
        seed(&path, &tiles);
        for round in 0..8 {
            let before = std::fs::read(&path).unwrap();
            let (often, mut edits, mut expected) = (1 + chance.u64(..160), Vec::new(), [0; 5]);
            for id in (0..720).filter(|_| chance.u64(..700) < often).collect::<Vec<_>>() {
                let old = tiles.get(&id).cloned();
                match chance.usize(..6) {
                    0 => {
                        edits.push(TileEdit::Remove(tile(id)));
                        expected[1] += 1;
                        expected[4] += u64::from(tiles.remove(&id).is_some());
                    }
                    // As it is, or as long as it is.
                    kind => {
                        let bytes = match (kind, &old) {
                            (1, Some(old)) => old.clone(),
                            (2, Some(old)) => old.iter().rev().copied().collect(),
                            _ => any_content(chance),
                        };
                        expected[if old.as_ref() == Some(&bytes) { 2 } else { 0 }] += 1;
                        expected[3] += u64::from(old.is_none());
                        edits.push(TileEdit::Put(tile(id), bytes.clone().into()));
                        tiles.insert(id, bytes);
                    }
                }
            }
            let (written, finished) = apply(edit(&path, &tileset()), &edits);
            let counts = [written.stored, written.removed, written.unchanged, written.added, written.deleted];
            let name = format!("seed {seed_number}, round {round}");
            assert_eq!((counts, finished.deleted), (expected, expected[4]), "{name}");
            assert!(held(&path) == tiles, "{name}");
            let after = std::fs::read(&path).unwrap();
            let mut reader = PmtilesReader::open(&path).unwrap();
            let (dead, stays) = (reader.describe().unwrap().dead.unwrap(), PmtilesReader::open(&path).unwrap());
            assert_eq!(dead.bytes, dead_bytes(&path), "{name}");
            let is_edited = !stays.header.clustered;
            if is_edited {
                let end = old_end(&before);
                assert!(before[ROOT_END..end] == after[ROOT_END..end], "{name}: what stays lies where it lay");
                assert!(dead.bytes * 100 <= dead.total * 30, "{name}: {dead:?}");
                in_place += 1;
            } else {
                anew += usize::from(counts[0] > 0);
                assert_eq!(dead.bytes, 0);
            }
            let root = stays.header.root;
            assert!(root.offset == HEADER_LENGTH as u64 && root.end().unwrap() <= TILES, "{name}");
        }
    }
    assert!(in_place > 100 && anew > 20, "{in_place} times in place, {anew} times anew");
}

/// Where the tile data of an archive ends.
fn old_end(bytes: &[u8]) -> usize {
    let header = super::layout::Header::from_bytes(bytes).unwrap();
    header.tiles.end().unwrap() as usize
}

/// Tiles of 1 kB; those of the second list are to be changed.
fn even() -> ExpectedTiles {
    let mut chance = fastrand::Rng::with_seed(5);
    (0..300).map(|id| (id, (0..1_000).map(|_| chance.u8(..)).collect())).collect()
}

fn changed(tiles: &ExpectedTiles, ids: std::ops::Range<u64>) -> Vec<TileEdit> {
    let reversed = |bytes: &Vec<u8>| bytes.iter().rev().copied().collect();
    tiles.range(ids).map(|(id, bytes)| TileEdit::Put(tile(*id), reversed(bytes))).collect()
}

#[test]
fn an_edit_without_changes_moves_the_metadata_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    seed(&path, &even());
    let before = std::fs::read(&path).unwrap();
    apply(edit(&path, &tileset()), &changed(&even(), 0..0));
    assert!(std::fs::read(&path).unwrap() == before);
    assert!(PmtilesReader::open(&path).unwrap().header.clustered);
}

#[test]
fn a_watch_puts_off_a_new_archive_longer_than_a_run_and_never_writes_it_in_a_publish() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    let of = |max_dead_percent| Tileset {
        run: RunKind::Reseed { database: "d".to_owned(), complete: true, max_dead_percent },
        ..tileset()
    };
    let (watch, publish) = (of(Some(50)), of(None));
    let dead = || PmtilesReader::open(&path).unwrap().describe().unwrap().dead.unwrap();
    for (tileset, expected) in [
        // Of 300 kB 60 are replaced each time: their bytes are dead, and as many are appended.
        (tileset(), [(60, 360), (120, 420), (0, 300)]),
        (watch.clone(), [(60, 360), (120, 420), (180, 480)]),
    ] {
        seed(&path, &even());
        for (round, (bytes, total)) in (1..).zip(expected) {
            let edits = changed(&even(), round * 60 - 60..round * 60);
            apply(edit(&path, &tileset), &edits);
            assert_eq!((dead().bytes, dead().total), (bytes * 1_000, total * 1_000), "{round}");
        }
    }
    // The next ones of the watch: 240 of 540, 300 of 600, and once more is too much, unless it publishes changes.
    let mut tiles = even();
    for (id, bytes) in tiles.range_mut(0..180) {
        assert!(*id < 180);
        bytes.reverse();
    }
    for (tileset, ids, expected) in
        [(&watch, 180..240, 240_000), (&watch, 240..300, 300_000), (&publish, 0..60, 360_000), (&watch, 60..120, 0)]
    {
        apply(edit(&path, tileset), &changed(&tiles, ids));
        assert_eq!(dead().bytes, expected);
    }
    // A run without changes, too, where a watch has left it to others.
    seed(&path, &even());
    for ids in [0..60, 60..120, 120..180] {
        apply(edit(&path, &watch), &changed(&even(), ids));
    }
    apply(edit(&path, &tileset()), &[]);
    assert_eq!(dead().bytes, 0);
    assert!(PmtilesReader::open(&path).unwrap().header.clustered);
}

#[test]
fn an_edit_of_most_tiles_becomes_a_new_archive_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    seed(&path, &even());
    let mut sink = edit(&path, &tileset());
    let edits = changed(&even(), 0..300);
    for piece in edits.chunks(40) {
        sink.write(piece.to_vec()).unwrap();
    }
    assert!(sink.edit.is_none() && sink.rebuild.is_some());
    assert_eq!(sink.finish(&metadata()).unwrap().anew, Some(WrittenAnew::ManyChanges));
    let expected: BTreeSet<Vec<u8>> = even().into_values().map(|bytes| bytes.into_iter().rev().collect()).collect();
    assert!(held(&path).into_values().collect::<BTreeSet<_>>() == expected);
    assert!(PmtilesReader::open(&path).unwrap().header.clustered);
}

#[test]
fn a_stop_or_an_old_file_that_was_cut_leaves_the_old_archive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    seed(&path, &even());
    let before = std::fs::read(&path).unwrap();
    let mut sink = edit(&path, &tileset());
    sink.write(changed(&even(), 0..30)).unwrap();
    sink.stop.ask(Signal::Interrupt);
    let refused = sink.finish(&metadata()).unwrap_err().to_string();
    assert_eq!(refused, format!("interrupted while writing {}", path.with_file_name(".t.pmtiles.partial").display()));
    assert!(std::fs::read(&path).unwrap() == before);

    let mut sink = edit(&path, &tileset());
    sink.write(changed(&even(), 0..30)).unwrap();
    let edited = sink.lay_out(&metadata()).unwrap().unwrap();
    File::options().write(true).open(&path).unwrap().set_len(100_000).unwrap();
    let refused = sink.write_edited(&edited).unwrap_err().to_string();
    assert!(refused.contains(" is damaged: it has become shorter during the run"), "{refused}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_copy_that_fails_in_the_middle_names_the_file_that_was_at_fault() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    seed(&path, &even());
    let mut sink = edit(&path, &tileset());
    sink.write(changed(&even(), 0..30)).unwrap();
    let edited = sink.lay_out(&metadata()).unwrap().unwrap();
    let write = |old: &File, new: &File| edited.write(old, "old.pmtiles", new, &Stop::new()).unwrap_err();
    // A folder is not read, and a file that is open for reading is not written.
    let (unreadable, unwritable) = (File::open(folder.path()).unwrap(), File::open(&path).unwrap());
    let fault = write(&unreadable, &tempfile::tempfile().unwrap());
    assert!(
        matches!(&fault, WriteFault::Old(ReadError::Io { path, .. }) if path == Path::new("old.pmtiles")),
        "{fault:?}"
    );
    let fault = write(&File::open(&path).unwrap(), &unwritable);
    assert!(matches!(&fault, WriteFault::Io(_)), "{fault:?}");
}
