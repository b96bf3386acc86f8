//! Rows near many changed places, read once by a reseed: the tiles are those of a fresh seed.

use std::path::Path;

use crate::rendering::cached_rows::ROWS;
use crate::support::program::{Run, program, run, seed_command};
use crate::support::{Archive, Db};

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
name = \"latitudes\"
table = \"rows\"
geometry = \"degrees\"
tile_bounds = \"degrees\"
candidates = 0.2
buffer = 1024
properties = { id = \"id\", tag = \"tag\", x = \"!x!\", zoom = \"!zoom!\" }
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
    std::fs::write(&config, format!("[tileset]\nzoom = \"3,7-9,11,18,22\"\n[run]\nworkers = 2\n{LAYERS}")).unwrap();
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
        let layers = ["degrees", "mercator", "latitudes", "halves"].map(|layer| {
            let lines = |log: &str| {
                let read = |line: &&str| line.contains(&format!("\"{layer}\"")) && line.contains("rows are cached");
                log.lines().filter(read).count()
            };
            (lines(&near), lines(&searched))
        });
        let all = [(1, 0); 3];
        assert_eq!(layers[..3], all, "round {round}:\n{near}");
        assert!(round != 1 || layers[3] == (1, 0), "{near}");
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

/// Seeds a target of some layers, changes rows, reseeds, and compares every tile with those of a fresh seed. Gives what
/// the reseed has said.
#[track_caller]
fn reseeded(db: &Db, zooms: &str, layers: &str, changes: &str, rows_mb: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    std::fs::write(place("c.toml"), format!("[tileset]\nzoom = \"{zooms}\"\n[run]\nworkers = 2\n{layers}")).unwrap();
    let config = place("c.toml");
    run(program().args(["track", "install", "--database-url", &db.url, "--config"]).arg(&config)).ok();
    let seed = |name: &str| run(seed_command(&db.url, &place(name), &["--config"]).arg(&config)).ok();
    seed("t.mbtiles");
    db.run(changes);
    let said = reseed(db, &config, &place("t.mbtiles"), rows_mb).stderr;
    if !layers.contains("random()") {
        seed("fresh.mbtiles");
        let [held, fresh] = ["t.mbtiles", "fresh.mbtiles"].map(|name| Archive::open(&place(name)).stored());
        assert!(held == fresh && !held.is_empty(), "{said}");
    }
    said
}

const ODD: &str = "layer \"odd\": the cached rows near changes do not give what the database draws there, so the database draws all of them. Does a property change from one query to the next? If not, please report this";

/// A table of points in so many degrees around a place in Europe, with an index.
fn points(db: &Db, table: &str, rows: u32, degrees: f64) {
    db.run(&format!(
        "CREATE TABLE {table} AS SELECT i AS id, 'n' || i * 7919 % 1009 || md5(i::text) AS name,
            ST_SetSRID(ST_MakePoint(10 + {degrees} * (i * 7919 % 10007) / 10007, 45 + {degrees} * (i * 104729 % 10009) / 10009), 4326) AS place
            FROM generate_series(1::int8, {rows}) AS i;
         ALTER TABLE {table} ADD PRIMARY KEY (id); CREATE INDEX ON {table} USING gist (place); ANALYZE {table}"
    ));
}

fn layer(table: &str, more: &str) -> String {
    format!("[[layer]]\nname = \"{table}\"\ntable = \"{table}\"\n{more}\n")
}

#[test]
fn rows_that_are_others_with_each_query_are_not_relied_on() {
    let db = Db::new();
    points(&db, "odd", 3_000, 0.1);
    points(&db, "plain", 3_000, 0.1);
    // Tiles of which something is only taken away show no difference.
    let changes = "DELETE FROM odd WHERE id % 3 = 0; UPDATE odd SET name = 'x' WHERE id % 50 = 1; UPDATE plain SET name = 'x' WHERE id % 50 = 1";
    let odd = layer("odd", "properties = { id = \"id\", luck = \"random()\" }");
    let said = reseeded(&db, "8-12", &format!("{odd}{}", layer("plain", "")), changes, "100");
    assert_eq!(said.matches("please report").count(), 1, "{said}");
    assert!(said.contains(ODD), "{said}");
    // A layer that is drawn whole is nobody's concern.
    let odd = layer("odd", "properties = { luck = \"random()\" }");
    let said = reseeded(
        &db,
        "8-12",
        &format!("{odd}{}", layer("plain", "")),
        "UPDATE odd SET name = 'y' WHERE id % 50 = 1; UPDATE plain SET name = 'y' WHERE id % 50 = 1",
        "100",
    );
    assert!(said.contains("rows are cached") && !said.contains("please report"), "{said}");
}

#[test]
fn dense_and_heavy_tiles_are_patched_with_rows_read_once() {
    let db = Db::new();
    points(&db, "heavy", 6_000, 0.05);
    let heavy = layer("heavy", "properties = [\"id\", \"name\"]\nmax_tile_bytes = 1500");
    let said = reseeded(&db, "10-14", &heavy, "UPDATE heavy SET name = 'x' || id WHERE id % 100 = 0", "100");
    assert!(said.contains("rows are cached"), "{said}");
    assert!(!said.contains("please report") && !said.contains("cannot be patched"), "{said}");
    // At the end of the world a spatial index takes places for neighbours that are metres apart.
    db.run(
        "CREATE TABLE edge AS SELECT i AS id, 'n' || i % 9 AS name, ST_Transform(ST_SetSRID(ST_MakePoint(
            179.99 + (i % 60 - 30) * 0.0001 / 30, -85.04 + (i / 60 % 20 - 10) * 0.0001 / 30), 4326), 3857) AS place FROM generate_series(1, 400) AS i;
         ALTER TABLE edge ADD PRIMARY KEY (id); CREATE INDEX ON edge USING gist (place); ANALYZE edge",
    );
    for (zooms, rows_mb) in [("20,22", "0"), ("14,20,22", "100")] {
        let said =
            reseeded(&db, zooms, &layer("edge", ""), "UPDATE edge SET name = name || 'q' WHERE id % 9 = 0", rows_mb);
        assert_eq!(said.contains("rows are cached"), rows_mb != "0", "{said}");
        assert!(!said.contains("please report") && !said.contains("cannot be patched"), "{said}");
    }
}

#[test]
fn many_rows_that_come_into_one_tile_are_put_there() {
    let db = Db::new();
    points(&db, "few", 20, 20.0);
    points(&db, "others", 30_000, 40.0);
    let layers = format!("{}{}", layer("few", ""), layer("others", ""));
    let come = "INSERT INTO few SELECT i, 'new', ST_SetSRID(ST_MakePoint(10.001 + i % 97 / 100.0, 45.001 + i % 89 / 100.0), 4326) FROM generate_series(100, 4000) AS i";
    let said = reseeded(&db, "8", &layers, come, "100");
    assert!(said.contains("rows are cached") && !said.contains("please report"), "{said}");
}

#[test]
fn few_changes_low_zooms_and_rows_that_take_too_much_memory_are_looked_for_in_each_tile() {
    let db = Db::new();
    points(&db, "rows", 2_000, 0.5);
    let some = |rows: u32| format!("UPDATE rows SET name = name || '.' WHERE id <= {rows}");
    points(&db, "dense", 4_000, 0.003);
    let said = reseeded(&db, "8-12", &layer("dense", ""), "UPDATE dense SET name = name || '.' WHERE id <= 20", "100");
    assert!(said.contains("its rows are not cached: they are too many"), "{said}");
    let large = "UPDATE rows SET name = repeat(md5(id::text), 4000) WHERE id <= 40";
    for (zooms, changes, rows_mb, expected) in [
        ("8-12", &some(7)[..], "100", None),
        ("0-7", &some(100), "100", None),
        ("8-12", &some(100), "0", None),
        ("8-12", large, "1", Some("its rows are not cached: they take more memory than rows_mb allows")),
        (
            "8-9",
            "DELETE FROM rows WHERE id % 2 = 0 OR id <= 2000",
            "100",
            Some("its rows are not cached: nothing is left where it has changed"),
        ),
    ] {
        let more = "INSERT INTO rows VALUES (9999, 'alone', 'SRID=4326;POINT(-60 9)') ON CONFLICT DO NOTHING";
        let said = reseeded(&db, zooms, &layer("rows", ""), &format!("{changes}; {more}"), rows_mb);
        assert!(expected.is_some() || !said.contains("rows are cached"), "{said}");
        assert!(expected.is_none_or(|expected| said.contains(expected)), "{said}");
    }
}
