//! Targets that somebody altered to do harm after a seed: a reseed, which reads the tiles that it patches, ends in
//! bounded memory, with an error or with the right tiles.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::archives::hostile::{MEMORY, ended};
use crate::support::program::{Run, program};
use crate::support::tracked::Tracked;

/// Zooms of the targets. All of their tiles change.
const ZOOM: [&str; 2] = ["--zoom", "0-4"];

struct World {
    tracked: Tracked,
    /// What was seeded and not altered.
    sound: PathBuf,
    /// What a reseed of it gives.
    fresh: PathBuf,
}

impl World {
    /// A target, and a change of a few facilities: the other features of each tile stay, so tiles are patched.
    fn new(name: &str) -> World {
        let tracked = Tracked::facilities(2_000);
        let sound = tracked.seed(name, &ZOOM);
        tracked.db.run("UPDATE api_facility SET name = name || '!' WHERE hashtext(id) & 127 = 0");
        let fresh = tracked.seed("fresh.mbtiles", &ZOOM);
        World { tracked, sound, fresh }
    }

    fn reseed(&self, target: &Path) -> Run {
        let mut command = program();
        command.args(["reseed", "--progress", "none", "--database-url", &self.tracked.db.url, "--output"]).arg(target);
        ended(&command, MEMORY)
    }

    /// Asserts that the reseed of an altered archive is refused with a text, or makes it as good as a fresh one.
    #[track_caller]
    fn is_refused_or_mended(&self, name: &str, sql: &str, text: &str) {
        let path = self.tracked.path(name);
        std::fs::copy(&self.sound, &path).unwrap();
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        let reseeded = self.reseed(&path);
        if reseeded.code == 0 && text.is_empty() {
            let (found, fresh) = (stored(&path), stored(&self.fresh));
            assert!(found == fresh, "{name}: other tiles than a fresh seed's");
        } else {
            assert!(
                reseeded.code != 0 && reseeded.stderr.contains(text),
                "{name}: «{text}» is missing in {}",
                reseeded.stderr
            );
        }
    }
}

/// Tiles of an archive, packed.
fn stored(path: &Path) -> Vec<(u8, u32, u32, Vec<u8>)> {
    let connection = Connection::open(path).unwrap();
    let mut rows =
        connection.prepare("SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles ORDER BY 1, 2, 3").unwrap();
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    rows.query_map([], row).unwrap().map(Result::unwrap).collect()
}

#[test]
fn an_archive_that_was_altered_is_refused_or_mended_in_bounded_memory() {
    let world = World::new("t.mbtiles");
    // More than a tile may be unpacked to.
    let bomb = {
        let mut packed = Vec::new();
        let mut raw = std::io::repeat(0).take(300_000_000);
        let mut encoder = flate2::write::GzEncoder::new(&mut packed, flate2::Compression::fast());
        std::io::copy(&mut raw, &mut encoder).unwrap();
        encoder.finish().unwrap();
        packed
    };
    let hex: String = bomb.iter().map(|byte| format!("{byte:02x}")).collect();
    for (name, sql, text) in [
        (
            "view.mbtiles",
            "ALTER TABLE tiles RENAME TO t; CREATE VIEW tiles AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n)
             SELECT 4 AS zoom_level, i & 15 AS tile_column, 0 AS tile_row, x'1f8b' AS tile_data FROM n".to_owned(),
            "its tiles is a view other than columns of one table",
        ),
        ("large.mbtiles", "UPDATE tiles SET tile_data = zeroblob(900000000) WHERE zoom_level = 0".to_owned(), ""),
        ("bomb.mbtiles", format!("UPDATE tiles SET tile_data = x'{hex}' WHERE zoom_level = 0"), ""),
        ("empty.mbtiles", "UPDATE tiles SET tile_data = x'' WHERE zoom_level = 0".to_owned(), ""),
        ("text.mbtiles", "UPDATE tiles SET tile_data = 'no tile' WHERE zoom_level = 0".to_owned(), ""),
        (
            "note.mbtiles",
            "UPDATE metadata SET value = value || printf('%.*c', 40000000, ' ') WHERE name = 'oar_tiles_manifest'".to_owned(),
            "its metadata has more than the 16 MB that are read",
        ),
        (
            "trigger.mbtiles",
            "CREATE TRIGGER more AFTER UPDATE ON tiles BEGIN INSERT INTO metadata VALUES (random(), zeroblob(900000000)); END".to_owned(),
            "",
        ),
    ] {
        world.is_refused_or_mended(name, &sql, text);
    }
}
