//! Thousands of archives and tiles that were changed at random, by numbers that are the same in each run: whatever they
//! hold, reading ends with a result or an error, without a panic and in bounded memory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oar_tiles::encode::Gunzip;
use oar_tiles::mvt;
use oar_tiles::target::{MbtilesReader, PmtilesReader, ReadError, TileReader, read_all};

use crate::support::damaged::{Chance, TILES, mbtiles, packed, point, put_varint, tile_of};
use crate::support::folder::Folder;
use crate::support::program::{limited, program, run};

/// The longest that one look may take: far more than any does, on a machine that does ten other things.
const LONGEST: Duration = Duration::from_secs(20);

/// Bytes changed in one of the ways that have broken readers.
fn mutated(bytes: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _ in 0..=chance.below(6) {
        let at = chance.below(changed.len().max(1));
        let end = (at + 1 + chance.below(12)).min(changed.len());
        match chance.below(8) {
            0 => changed.truncate(at.max(1)),
            1 => changed.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << chance.below(8)),
            2 => changed[at.min(end)..end].fill(0xff),
            3 => changed[at.min(end)..end].fill(0),
            // The end of a number of variable width is moved.
            4 => changed.get_mut(at).into_iter().for_each(|byte| *byte ^= 0x80),
            5 => {
                let piece = changed[at.min(end)..end].to_vec();
                let to = chance.below(changed.len());
                changed.splice(to..to, piece);
            }
            6 => {
                let mut number = Vec::new();
                put_varint(&mut number, u64::MAX >> chance.below(64));
                let to = chance.below(changed.len());
                let replaced = to..(to + number.len()).min(changed.len());
                changed.splice(replaced, number);
            }
            _ => changed.get_mut(at).into_iter().for_each(|byte| *byte = chance.below(256) as u8),
        }
        if changed.is_empty() {
            changed.push(0);
        }
    }
    changed
}

/// Reads all of a target and decodes its tiles; gives how many could be.
fn read(mut reader: Box<dyn TileReader>) -> Result<usize, ReadError> {
    let (described, checked) = (reader.describe(), reader.check());
    let tiles = reader.list()?;
    let (mut gunzip, mut sound) = (Gunzip::new(), 0);
    // Of an archive that claims to hold the world, the first ones.
    let first = &tiles[..tiles.len().min(500)];
    read_all(&mut *reader, first, |_, stored| {
        let raw = stored.and_then(|stored| gunzip.unpack(&stored).ok());
        sound += usize::from(raw.is_some_and(|raw| mvt::decode(&raw).is_ok()));
        Ok::<(), ReadError>(())
    })?;
    described?;
    checked?;
    Ok(sound)
}

/// Sound archives of each kind: a table, a view over two, and PMTiles with a root alone and with leaf directories.
fn archives(folder: &Folder) -> Vec<(&'static str, Vec<u8>)> {
    let flat = folder.beside("flat.mbtiles");
    let many = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n LIMIT 60)";
    mbtiles(
        &flat,
        &[
            TILES,
            "CREATE UNIQUE INDEX tile_index ON tiles (zoom_level, tile_column, tile_row)",
            &format!("INSERT INTO tiles {many} SELECT 6, i, 63 - i, ?1 FROM n"),
        ],
    );
    let shared = folder.beside("shared.mbtiles");
    mbtiles(
        &shared,
        &[
            "CREATE TABLE map (zoom_level integer, tile_column integer, tile_row integer, tile_id text)",
            "CREATE UNIQUE INDEX map_index ON map (zoom_level, tile_column, tile_row)",
            "CREATE TABLE images (tile_id text PRIMARY KEY, tile_data blob)",
            &format!("INSERT INTO map {many} SELECT 6, i, i, 'a' || i % 7 FROM n"),
            "INSERT INTO images SELECT DISTINCT tile_id, ?1 FROM map",
            "CREATE VIEW tiles AS SELECT zoom_level, tile_column, tile_row, tile_data FROM map JOIN images USING (tile_id)",
        ],
    );
    let copied = folder.beside("copied.pmtiles");
    run(program().arg("copy").arg(&flat).arg(&copied)).ok();
    let bytes = |path: &Path| std::fs::read(path).unwrap();
    vec![
        ("mbtiles", bytes(&flat)),
        ("mbtiles", bytes(&shared)),
        ("pmtiles", bytes(&copied)),
        ("pmtiles", with_leaves()),
    ]
}

/// A PMTiles archive with plain directories, so that changes reach them.
fn with_leaves() -> Vec<u8> {
    use crate::support::damaged::{pmtiles, pmtiles_directory, small_tile};
    let tile = small_tile();
    let length = tile.len() as u64;
    let leaf = |first: u64| pmtiles_directory(&[(first, 3, length, 0), (first + 5, 1, length, 0)]);
    let (one, two) = (leaf(0), leaf(21));
    let root = pmtiles_directory(&[
        (0, 0, one.len() as u64, 0),
        (21, 0, two.len() as u64, one.len() as u64),
        (80, 4, length, 0),
    ]);
    pmtiles(&root, &[one, two].concat(), b"{\"vector_layers\": []}", &tile, length, false)
}

fn open(path: &Path) -> Result<Box<dyn TileReader>, ReadError> {
    Ok(match path.extension().and_then(|ending| ending.to_str()) {
        Some("mbtiles") => Box::new(MbtilesReader::open(path)?),
        _ => Box::new(PmtilesReader::open(path)?),
    })
}

#[test]
fn thousands_of_changed_archives_are_read_to_an_end() {
    let folder = Folder::new();
    let archives = archives(&folder);
    for (kind, bytes) in &archives {
        let path = folder.beside(&format!("sound.{kind}"));
        std::fs::write(&path, bytes).unwrap();
        assert!(open(&path).and_then(read).unwrap() > 10, "{kind}");
    }
    let path = |kind: &str| -> PathBuf { folder.beside(&format!("changed.{kind}")) };
    let mut chance = Chance(0x5eed);
    let (mut refused, rounds) = (0, 3_000);
    for round in 0..rounds {
        let (kind, bytes) = &archives[round % archives.len()];
        let changed = mutated(bytes, &mut chance);
        let path = path(kind);
        std::fs::write(&path, changed).unwrap();
        let begun = Instant::now();
        refused += usize::from(open(&path).and_then(read).is_err());
        assert!(begun.elapsed() < LONGEST, "round {round} took {:?}", begun.elapsed());
    }
    assert!((rounds / 10..rounds).contains(&refused), "{refused} of {rounds}");
}

#[test]
fn changed_archives_end_every_command_in_bounded_memory() {
    let folder = Folder::new();
    let archives = archives(&folder);
    let mut chance = Chance(0xb0d7);
    for round in 0..60 {
        let (kind, bytes) = &archives[round % archives.len()];
        let path = folder.beside(&format!("changed.{kind}"));
        std::fs::write(&path, mutated(bytes, &mut chance)).unwrap();
        let copied = folder.beside("copied.mbtiles");
        for arguments in [&["verify", "--all"][..], &["inspect"], &["inspect", "--geojson"], &["copy"]] {
            let mut command = program();
            command.arg(arguments[0]).arg(&path).args(&arguments[1..]);
            match arguments {
                ["copy"] => command.arg(&copied),
                ["inspect", "--geojson"] => command.arg("6/0/0"),
                _ => &mut command,
            };
            let ended = run(&mut limited(&command, 1_000_000));
            assert!([0, 1, 2].contains(&ended.code), "round {round} {command:?}: {} {}", ended.code, ended.stderr);
            assert!(!ended.stderr.contains("panicked"), "round {round} {command:?}: {}", ended.stderr);
        }
    }
}

#[test]
fn changed_tiles_are_decoded_or_named() {
    let property = [vec![0x1a, 0x01, b'k'], vec![0x22, 0x03, 0x0a, 0x01, b'v'], vec![0x22, 0x02, 0x28, 0x05]];
    let tagged = vec![0x12, 0x0d, 0x08, 0x07, 0x12, 0x02, 0x00, 0x01, 0x18, 0x01, 0x22, 0x03, 0x09, 0x02, 0x02];
    let line = vec![0x12, 0x0a, 0x18, 0x02, 0x22, 0x06, 0x09, 0x02, 0x02, 0x0a, 0x04, 0x04];
    let ring = vec![0x12, 0x0d, 0x18, 0x03, 0x22, 0x09, 0x09, 0x00, 0x00, 0x12, 0x02, 0x00, 0x00, 0x02, 0x0f];
    let tile = tile_of(&[&property[..], &[point(), tagged, line, ring]].concat());
    assert_eq!(mvt::decode(&tile).unwrap()[0].features.len(), 4);
    let packed = packed(&tile);
    let mut gunzip = Gunzip::new();
    let mut chance = Chance(0x711e);
    let (mut sound, mut unpacked, rounds) = (0, 0, 40_000);
    for _ in 0..rounds {
        let changed = mutated(&tile, &mut chance);
        if let Ok(layers) = mvt::decode(&changed) {
            sound += 1;
            let drawn = layers.iter().flat_map(|layer| layer.features.iter().map(move |feature| (layer, feature)));
            let seen: usize = drawn.map(|(layer, feature)| layer.properties(feature).count()).sum();
            assert!(seen <= changed.len());
        }
        // What patches read of a tile.
        for (_, layer) in mvt::split(&changed).unwrap_or_default() {
            assert!(mvt::count_features(layer).is_none_or(|count| count <= changed.len()));
        }
        unpacked += usize::from(gunzip.unpack(&mutated(&packed, &mut chance)).is_ok());
    }
    assert!(sound > rounds / 200 && sound < rounds && unpacked < rounds, "{sound} {unpacked}");
}
