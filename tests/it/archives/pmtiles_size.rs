//! Memory of PMTiles: it does not grow with the number of tiles.

use std::process::Command;
use std::time::Instant;

use oar_tiles::stop::Stop;
use oar_tiles::target::{Pmtiles, PmtilesReader, Sink as _, TileEdit, TileReader as _, Tileset, Unwritten};

use crate::archives::pmtiles::{first_of, metadata, tile};
use crate::support::s3::tileset;

/// Set for the process of its own in which memory is measured.
const CHILD: &str = "OAR_TILES_TEST_PMTILES_SIZE";

/// The most memory that this process ever had, in KiB, without the pages of its program that are in memory now.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    of("VmHWM:") - of("RssFile:")
}

/// The bytes of one of a million tiles, 40 to 300; every tenth is a repetition.
fn bytes(number: u64) -> Box<[u8]> {
    let content = if number.is_multiple_of(10) { number % 1_000 } else { number };
    content.to_le_bytes().repeat(5 + (content % 32) as usize).into()
}

/// Hands over a million tiles with gaps between them, or every `step`-th of them.
fn hand_over(path: &std::path::Path, step: usize, unwritten: Unwritten, new: impl Fn(u64) -> Box<[u8]>) {
    const TILES: u64 = 1_000_000;
    let before = peak();
    let begun = Instant::now();
    let mut sink = Pmtiles::create(path, &Stop::new()).unwrap();
    sink.begin(&Tileset { unwritten, ..tileset("f") }).unwrap();
    for piece in 0..TILES / 1_000 {
        let edits = (piece * 1_000..(piece + 1) * 1_000).step_by(step);
        let edits = edits.map(|number| TileEdit::Put(tile(first_of(14) + number * 3), new(number)));
        sink.write(edits.collect()).unwrap();
    }
    let written = begun.elapsed();
    sink.finish(&metadata("0-14", "{}")).unwrap();
    let all = begun.elapsed();
    eprintln!("grown by {} KiB", peak().saturating_sub(before));
    eprintln!(
        "{:.0} tiles/s; {:.2} s of writing, {:.2} s of finishing",
        TILES as f64 / all.as_secs_f64(),
        written.as_secs_f64(),
        all.saturating_sub(written).as_secs_f64()
    );
}

/// Runs a test of this file again, in a process of its own with an archive; gives by how many KiB it grew.
fn grown(name: &str, path: &std::path::Path) -> u64 {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("archives::pmtiles_size::{name}"), "--nocapture"])
        .env(CHILD, path)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stderr);
    eprintln!("{told}");
    assert!(child.status.success(), "{told}{}", String::from_utf8_lossy(&child.stdout));
    let grown = told.lines().find_map(|line| line.strip_prefix("grown by ")).unwrap();
    grown.trim_end_matches(" KiB").parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_million_tiles_are_written_in_bounded_memory() {
    if let Some(path) = std::env::var_os(CHILD) {
        hand_over(std::path::Path::new(&path), 1, Unwritten::Delete, bytes);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    let grown = grown("a_million_tiles_are_written_in_bounded_memory", &path);
    // 32 MiB are the table of contents, 4 MB the pages of entries.
    assert!(grown < 60 * 1_024, "{grown} KiB");
    assert_eq!(PmtilesReader::open(&path).unwrap().check().unwrap(), Vec::<String>::new());
}

#[cfg(target_os = "linux")]
#[test]
fn a_million_tiles_are_rebuilt_around_their_edits_in_bounded_memory() {
    if let Some(path) = std::env::var_os(CHILD) {
        hand_over(std::path::Path::new(&path), 3, Unwritten::Keep, |number| bytes(number + 1));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    hand_over(&path, 1, Unwritten::Delete, bytes);
    let grown = grown("a_million_tiles_are_rebuilt_around_their_edits_in_bounded_memory", &path);
    // The table of contents of the edits, the pages of entries, and a piece for each of 333,000 gaps.
    assert!(grown < 110 * 1_024, "{grown} KiB");
    let mut reader = PmtilesReader::open(&path).unwrap();
    assert_eq!(reader.check().unwrap(), Vec::<String>::new());
    let some: Vec<u64> = (0..1_000_000).step_by(997).collect();
    let ids: Vec<_> = some.iter().map(|number| tile(first_of(14) + number * 3)).collect();
    for (number, found) in some.iter().zip(reader.read(&ids).unwrap()) {
        let edited = (number % 1_000).is_multiple_of(3);
        assert_eq!(found, Some(bytes(if edited { number + 1 } else { *number })), "{number}");
    }
}
