//! Archives of any layout, with any edits, compared with a map in memory to which the same edits are applied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::layout::{Entry, PmtilesCompression};
use super::tests::{Archive, entry, tile};
use super::{Pmtiles, PmtilesReader};
use crate::encode::TileFormat;
use crate::stop::{Signal, Stop};
use crate::target::{Metadata, ReadError, Sink as _, TileEdit, TileReader as _, Tileset, Unwritten, Written, read_all};
use crate::tile::{Coverage, LonLatBox, Scope};

pub(crate) type ExpectedTiles = BTreeMap<u64, Vec<u8>>;

/// Few different contents: some are equally long, and one is longer than what is read at a time.
pub(crate) fn content(number: usize) -> Vec<u8> {
    let length = match number {
        13 => (1 << 20) + 7,
        _ => 1 + number / 2 * 90,
    };
    (0..length).map(|at| (at * 31 + number) as u8).collect()
}

/// An archive of these tiles: leaves of any size, tile data in any order and with gaps.
fn archive(tiles: &ExpectedTiles, chance: &mut fastrand::Rng) -> Vec<u8> {
    let mut archive = Archive::sound(PmtilesCompression::Gzip);
    let mut contents: Vec<&Vec<u8>> = tiles.values().collect::<BTreeSet<_>>().into_iter().collect();
    let clustered = chance.usize(..2) == 0;
    let (mut data, mut places) = (Vec::new(), BTreeMap::new());
    if clustered {
        // In the order of the first tile that has each content.
        let mut seen = BTreeSet::new();
        contents = tiles.values().filter(|content| seen.insert(*content)).collect();
    }
    for content in contents {
        data.extend(std::iter::repeat_n(0, if clustered { 0 } else { chance.usize(..3) }));
        places.insert(content, data.len() as u64);
        data.extend(content);
    }
    let mut entries: Vec<Entry> = Vec::new();
    for (id, content) in tiles {
        let new = entry(*id, places[content], content.len() as u32, 1);
        match entries.last_mut() {
            Some(last) if new.id == last.id + u64::from(last.run) && new.offset == last.offset => last.run += 1,
            _ => entries.push(new),
        }
    }
    archive.header.packing = PmtilesCompression::Gzip;
    archive.header.clustered = clustered;
    (archive.root, archive.leaves, archive.tiles) = (Vec::new(), Vec::new(), data);
    let mut rest = &entries[..];
    while let Some(first) = rest.first() {
        let (leaf, behind) = rest.split_at(1 + chance.usize(..rest.len().min(9)));
        if chance.usize(..3) == 0 {
            archive.root.extend(leaf);
        } else {
            archive.root.push(entry(first.id, archive.leaves.len() as u64, 1, 0));
            archive.leaves.push(leaf.to_vec());
        }
        rest = behind;
    }
    archive.to_bytes()
}

pub(crate) fn metadata() -> Metadata {
    Metadata {
        name: "rebuilt".to_owned(),
        format: TileFormat::MVT,
        description: None,
        attribution: None,
        version: None,
        zooms: "0-5".parse().unwrap(),
        bounds: LonLatBox::from_sides([-1.0, -1.0, 1.0, 1.0]),
        center: None,
        vector_layers: Vec::new(),
        manifest: "{}".to_owned(),
    }
}

pub(crate) fn tileset() -> Tileset {
    Tileset::of_test(Scope { zooms: "0-5".parse().unwrap(), coverage: Coverage::new(&[]) }, Unwritten::Keep)
}

pub(crate) fn held(path: &Path) -> ExpectedTiles {
    let mut reader = PmtilesReader::open(path).unwrap();
    assert_eq!(reader.check().unwrap(), Vec::<String>::new());
    let walked = reader.walk(&mut |_, entry| {
        let zooms = [entry.id, entry.id + u64::from(entry.run) - 1].map(|id| tile(id).coord.zoom());
        assert_eq!(zooms[0], zooms[1], "a run ends with its zoom");
        Ok(())
    });
    walked.unwrap();
    let listed = reader.list().unwrap();
    let mut tiles = ExpectedTiles::new();
    read_all(&mut reader, &listed, |id, bytes| {
        tiles.insert(id.coord.pmtiles_id(), bytes.unwrap().into());
        Ok::<_, ReadError>(())
    })
    .unwrap();
    tiles
}

#[test]
fn whatever_the_old_archive_looks_like_the_new_one_is_sound_and_holds_what_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    for seed in 1..=200 {
        let chance = &mut fastrand::Rng::with_seed(seed);
        // Large contents are slow to make, so few archives have one.
        let (dense, kinds) = (1 + chance.usize(..4), 1 + chance.usize(..if seed % 40 == 0 { 14 } else { 13 }));
        let mut tiles: ExpectedTiles =
            (0..700).filter(|_| chance.usize(..4) < dense).map(|id| (id, Vec::new())).collect();
        let mut last = 0;
        for bytes in tiles.values_mut() {
            // Runs, some of which continue into the next zoom.
            last = if chance.usize(..3) == 0 { last } else { chance.usize(..kinds) };
            *bytes = content(last);
        }
        std::fs::write(&path, archive(&tiles, chance)).unwrap();
        let often = [1, 30, 1_000][chance.usize(..3)];
        let (mut edits, mut expected) = (Vec::new(), [0; 5]);
        for id in (0..710).filter(|_| often > 1 && chance.usize(..often) < 20).collect::<Vec<_>>() {
            let kind = [chance.usize(..13), 14][usize::from(chance.usize(..13) == 0)];
            let old = tiles.get(&id).cloned();
            if kind == 14 {
                edits.push(TileEdit::Remove(tile(id)));
                expected[1] += 1;
                expected[4] += u64::from(tiles.remove(&id).is_some());
                continue;
            }
            let bytes =
                if chance.usize(..3) == 0 { old.clone().unwrap_or_else(|| content(kind)) } else { content(kind) };
            expected[if old.as_ref() == Some(&bytes) { 2 } else { 0 }] += 1;
            expected[3] += u64::from(old.is_none());
            edits.push(TileEdit::Put(tile(id), bytes.clone().into()));
            tiles.insert(id, bytes);
        }
        let mut sink = Pmtiles::create(&path, &Stop::new()).unwrap();
        assert_eq!(sink.begin(&tileset()).unwrap().unwrap().name.as_deref(), Some("n"));
        let mut written = Written::default();
        for piece in edits.chunks(40) {
            written += sink.write(piece.to_vec()).unwrap();
        }
        let finished = sink.finish(&metadata()).unwrap();
        let counts = [written.stored, written.removed, written.unchanged, written.added, written.deleted];
        assert_eq!((counts, finished.deleted), (expected, expected[4]), "seed {seed}");
        assert!(held(&path) == tiles, "seed {seed}");
        // A content that was shared is still shared: each content is stored once from the old archive, and at most once
        // more by an edit.
        let needed: usize = tiles.values().collect::<BTreeSet<_>>().iter().map(|content| content.len()).sum();
        let stored = PmtilesReader::open(&path).unwrap().header.tiles.length;
        assert!(stored <= 2 * needed as u64, "seed {seed}: {stored} bytes stored, {needed} needed");
    }
}

#[test]
fn an_old_archive_that_is_not_for_us_is_refused_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    let shown = path.display().to_string();
    let mut damaged = Archive::sound(PmtilesCompression::Gzip);
    damaged.header.packing = PmtilesCompression::Gzip;
    damaged.leaves[2][1].offset = 999;
    let mut deep = Archive::sound(PmtilesCompression::Gzip);
    deep.header.packing = PmtilesCompression::Gzip;
    deep.leaves[2][2].id = 1 << 50;
    for (bytes, text) in [
        (
            Archive::sound(PmtilesCompression::Gzip).to_bytes(),
            format!(
                "the tiles of {shown} are not packed as gzip, and all tiles of an archive are packed alike: seed it anew"
            ),
        ),
        (
            damaged.to_bytes(),
            format!(
                "{shown} is damaged: the tile of tile id 30 is said to have 3 bytes at 999 of a section of 20 bytes. Seed or copy it again"
            ),
        ),
        (
            deep.to_bytes(),
            format!("{shown} is no PMTiles archive of vector tiles (its tile id 1125899906842624 lies beyond zoom 22)"),
        ),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let mut sink = Pmtiles::create(&path, &Stop::new()).unwrap();
        let failed = sink.begin(&tileset()).and_then(|_| sink.finish(&metadata())).unwrap_err().to_string();
        assert_eq!(failed, text);
        assert!(std::fs::read(&path).unwrap() == bytes);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}

#[test]
fn a_stop_while_tiles_are_copied_leaves_the_old_archive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    let bytes =
        archive(&(0..700).map(|id| (id, content(id as usize % 13))).collect(), &mut fastrand::Rng::with_seed(7));
    std::fs::write(&path, &bytes).unwrap();
    let stop = Stop::new();
    let mut sink = Pmtiles::create(&path, &stop).unwrap();
    sink.begin(&tileset()).unwrap();
    stop.ask(Signal::Interrupt);
    let failed = sink.finish(&metadata()).unwrap_err().to_string();
    assert_eq!(failed, format!("interrupted while writing {}", path.with_file_name(".t.pmtiles.partial").display()));
    assert!(std::fs::read(&path).unwrap() == bytes);
}
