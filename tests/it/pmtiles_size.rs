//! Promise 8 for PMTiles: memory does not grow with the number of tiles.

use std::process::Command;
use std::time::Instant;

use oar_tiles::sink::{Pmtiles, PmtilesReader, Sink as _, TileEdit};
use oar_tiles::stop::Stop;

use super::pmtiles_file::{first_of, metadata, tile};

/// Set for the process of its own in which memory is measured.
const CHILD: &str = "OAR_TILES_TEST_PMTILES_SIZE";

/// The most memory that this process ever had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A million tiles with gaps, of 40 to 300 bytes, every tenth a repetition.
fn write_a_million(path: &std::path::Path) {
    const TILES: u64 = 1_000_000;
    let before = peak();
    let begun = Instant::now();
    let mut sink = Pmtiles::create(path, &Stop::new()).unwrap();
    for piece in 0..TILES / 1_000 {
        let edits = (piece * 1_000..(piece + 1) * 1_000).map(|number| {
            let content = if number.is_multiple_of(10) { number % 1_000 } else { number };
            let bytes = content.to_le_bytes().repeat(5 + (content % 32) as usize);
            TileEdit::Put(tile(first_of(14) + number * 3), bytes.into())
        });
        sink.write(edits.collect()).unwrap();
    }
    let written = begun.elapsed();
    sink.finish(&metadata("0-14", "{}")).unwrap();
    let all = begun.elapsed();
    eprintln!("grown by {} KiB", peak() - before);
    eprintln!(
        "{:.0} tiles/s; {:.2} s of writing, {:.2} s of finishing",
        TILES as f64 / all.as_secs_f64(),
        written.as_secs_f64(),
        all.saturating_sub(written).as_secs_f64()
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_million_tiles_are_written_in_bounded_memory() {
    if let Some(path) = std::env::var_os(CHILD) {
        write_a_million(std::path::Path::new(&path));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.pmtiles");
    let name = "pmtiles_size::a_million_tiles_are_written_in_bounded_memory";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, &path)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stderr);
    eprintln!("{told}");
    assert!(child.status.success(), "{told}{}", String::from_utf8_lossy(&child.stdout));
    let grown = told.lines().find_map(|line| line.strip_prefix("grown by ")).unwrap();
    let grown: u64 = grown.trim_end_matches(" KiB").parse().unwrap();
    // 32 MiB are the table of contents, 4 MB the pages of entries.
    assert!(grown < 60 * 1_024, "{grown} KiB");
    assert_eq!(PmtilesReader::open(&path).unwrap().check().unwrap(), Vec::<String>::new());
}
