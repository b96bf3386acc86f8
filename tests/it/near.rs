//! Rows near many changed places, read once by a reseed: the tiles are those of a fresh seed.

use std::path::Path;

use super::stock::ROWS;
use super::support::program::{Run, program, run, seed_command};
use super::support::{Archive, Db};

/// Layers in two reference systems and with several grids, of keys of several kinds.
const LAYERS: &str = "
[[layer]]
name = \"degrees\"
table = \"rows\"
geometry = \"degrees\"
properties = [\"id\", \"word\", \"hash\", \"flag\", \"part\", \"stamp\", \"tag\"]
[[layer]]
name = \"mercator\"
table = \"rows\"
geometry = \"mercator\"
properties = [\"word\"]
feature_id = \"id\"
extent = 512
buffer = 100
where = \"id % 3 > 0\"
[[layer]]
name = \"halves\"
table = \"halves\"
";

/// Changes of many rows, some at once in one place.
const ROUNDS: [&str; 4] = [
    // A little aside; others come at corners of the cells that are read.
    "UPDATE rows SET degrees = ST_Translate(degrees, 0.0007, 0.0005), mercator = ST_Translate(mercator, 70, 50) WHERE id % 7 = 0 AND id <= 1500;
     INSERT INTO rows (id, word, mercator) SELECT 20000 + n, 'corner', ST_SetSRID(ST_MakePoint(n % 20 * cell, n / 20 * cell), 3857)
        FROM generate_series(0, 399) AS n, (SELECT 2 * 20037508.342789244 / 2 ^ 18 AS cell) AS side WHERE n * 7919 % 31 < 3",
    // Some go, others come where there are some; some lie between two units of a grid now.
    "DELETE FROM rows WHERE id % 31 = 0;
     INSERT INTO rows (id, word, tag, degrees, mercator) SELECT id + 10000, 'new', tag, degrees, mercator FROM rows WHERE id % 17 = 0 AND id <= 1500;
     UPDATE rows SET degrees = halves.degrees FROM halves WHERE halves.id = rows.id AND halves.id % 9 = 0;
     UPDATE halves SET degrees = ST_Translate(degrees, 360 / 2.0 ^ 23, 0) WHERE id % 11 = 0",
    // To the edges of the world and beyond, to one place, to nowhere.
    "UPDATE rows SET degrees = ST_SetSRID(ST_MakePoint(CASE WHEN id % 2 = 0 THEN 180 ELSE -180 END, id % 86), 4326) WHERE id % 13 = 0 AND id <= 1500;
     UPDATE rows SET mercator = (SELECT mercator FROM rows WHERE id = 100) WHERE id % 19 = 0 AND id <= 1500;
     UPDATE rows SET degrees = NULL WHERE id % 37 = 0; UPDATE rows SET degrees = 'SRID=4326;POINT(0 89)' WHERE id % 43 = 0",
    // What they show, and where they come back from.
    "UPDATE rows SET word = CASE WHEN id % 2 = 0 THEN 'word' || id % 5 END, flag = NOT flag WHERE id % 5 = 0;
     UPDATE rows SET degrees = ST_Transform(mercator, 4326) WHERE degrees IS NULL OR ST_Y(degrees) > 80",
];

fn reseed(db: &Db, config: &Path, target: &Path, rows_mb: &str) -> Run {
    let mut command = program();
    command.args(["reseed", "--database-url", &db.url, "--progress", "none", "-vv", "--config"]).arg(config);
    run(command.arg("--output").arg(target).env("OAR_TILES_ROWS_MB", rows_mb)).ok()
}

#[test]
fn tiles_patched_with_rows_read_once_are_those_of_a_fresh_seed() {
    let (db, folder) = (Db::new(), tempfile::tempdir().unwrap());
    db.run(ROWS);
    let config = folder.path().join("c.toml");
    std::fs::write(&config, format!("[tileset]\nzoom = \"3,7-11,14,18,22\"\n[run]\nworkers = 2\n{LAYERS}")).unwrap();
    run(program().args(["track", "install", "--database-url", &db.url, "--config"]).arg(&config)).ok();
    let place = |name: &str| folder.path().join(name);
    let seed = |name: &str| {
        run(seed_command(&db.url, &place(name), &["--force", "--config"]).arg(&config)).ok();
        Archive::open(&place(name)).stored()
    };
    seed("near.mbtiles");
    std::fs::copy(place("near.mbtiles"), place("searched.mbtiles")).unwrap();
    for (round, changes) in ROUNDS.iter().enumerate() {
        db.run(changes);
        let near = reseed(&db, &config, &place("near.mbtiles"), "100").stderr;
        let searched = reseed(&db, &config, &place("searched.mbtiles"), "0").stderr;
        let layers = ["degrees", "mercator", "halves"].map(|layer| {
            let lines = |log: &str| {
                let read = |line: &&str| line.contains(&format!("\"{layer}\"")) && line.contains("rows are read once");
                log.lines().filter(read).count()
            };
            (lines(&near), lines(&searched))
        });
        let both = [(1, 0); 2];
        assert_eq!(layers[..2], both, "round {round}:\n{near}");
        assert!(round != 1 || layers[2] == (1, 0), "{near}");
        // No row is read twice: a tile that has one twice would be drawn whole.
        assert!(!near.contains("please report") && !near.contains("cannot be patched"), "{near}");
        let fresh = seed("fresh.mbtiles");
        for name in ["near", "searched"] {
            let held = Archive::open(&place(&format!("{name}.mbtiles"))).stored();
            assert_eq!(held.len(), fresh.len(), "{name}, round {round}");
            let wrong: Vec<_> =
                held.iter().filter(|(tile, bytes)| fresh[*tile] != **bytes).map(|(tile, _)| tile).collect();
            assert!(
                wrong.is_empty(),
                "{name}, round {round}: {} tiles: {:?}",
                wrong.len(),
                &wrong[..wrong.len().min(9)]
            );
        }
    }
}

#[test]
fn rows_that_are_others_with_each_query_are_not_relied_on() {
    let (db, folder) = (Db::with_facilities(2_000), tempfile::tempdir().unwrap());
    let config = folder.path().join("c.toml");
    let layer =
        "[[layer]]\nname = \"odd\"\ntable = \"api_facility\"\nproperties = { id = \"id\", luck = \"random()\" }\n";
    std::fs::write(&config, format!("[tileset]\nzoom = \"0-9\"\n{layer}")).unwrap();
    let target = folder.path().join("t.mbtiles");
    run(program().args(["track", "install", "--database-url", &db.url, "--config"]).arg(&config)).ok();
    run(seed_command(&db.url, &target, &["--config"]).arg(&config)).ok();
    db.run("UPDATE api_facility SET location = ST_Translate(location, 0.001, 0) WHERE hashtext(id) % 5 = 0");
    let said = reseed(&db, &config, &target, "100").stderr;
    let expected = "tiles patched with rows that were read once are not those that the database draws, so it draws the rows of each tile. Does a property change from one query to the next? If not, please report this";
    assert_eq!(said.matches(expected).count(), 1, "{said}");
    run(program().args(["verify", "--all"]).arg(&target)).ok();
}

#[test]
fn few_changes_and_rows_that_take_too_much_memory_are_looked_for_in_each_tile() {
    let (db, folder) = (Db::with_facilities(1_000), tempfile::tempdir().unwrap());
    db.run("ALTER TABLE api_facility ALTER COLUMN address TYPE text");
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "[tileset]\nzoom = \"8-12\"\n[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\n")
        .unwrap();
    let place = |name: &str| folder.path().join(name);
    run(program().args(["track", "install", "--database-url", &db.url, "--config"]).arg(&config)).ok();
    let seed = |name: &str| run(seed_command(&db.url, &place(name), &["--force", "--config"]).arg(&config)).ok();
    seed("t.mbtiles");
    for (change, expected) in [
        ("name = name || '.' WHERE id IN (SELECT id FROM api_facility LIMIT 7)", None),
        (
            "address = repeat(md5(id), 4000) WHERE id IN (SELECT id FROM api_facility LIMIT 40)",
            Some("more memory than rows_mb allows"),
        ),
    ] {
        db.run(&format!("UPDATE api_facility SET {change}"));
        let said = reseed(&db, &config, &place("t.mbtiles"), "1").stderr;
        assert!(!said.contains("rows are read once"), "{said}");
        assert!(expected.is_none_or(|expected| said.contains(expected)), "{said}");
        seed("fresh.mbtiles");
        let [held, fresh] = ["t.mbtiles", "fresh.mbtiles"].map(|name| Archive::open(&place(name)).stored());
        assert!(held == fresh);
    }
}
