//! Points whose rows are cached and drawn at all zooms give the tiles that the database draws at each.

use std::path::Path;

use oar_tiles::mvt::decode;

use crate::support::program::{bare_program, run, seed_command};
use crate::support::{Archive, Db, SmallDisk, seed};

/// Rows around some towns, on the edges of the world and of tiles, in the middle between two units of a grid, in
/// several reference systems, with values of every kind that a tile can hold.
pub(crate) const ROWS: &str = include_str!("cached_rows.sql");

const PLAIN: &str = "properties = [\"id\", \"word\", \"hash\", \"flag\", \"short\", \"whole\", \"wide\", \"part\", \"short_part\", \"exact\", \"day\", \"stamp\", \"tag\", \"group\", \"Name of \\\"it\\\"\"]";

fn written(folder: &Path, text: &str) -> String {
    let path = folder.join("c.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Seeds layers with and without cached rows, and compares every tile. `read_once` is the number of layers with cached
/// rows. Gives the output of the first run.
#[track_caller]
pub(crate) fn compare(db: &Db, zooms: &str, layers: &str, arguments: &[&str], read_once: usize) -> String {
    let folder = tempfile::tempdir().unwrap();
    let config = written(folder.path(), layers);
    let seeded = |rows_mb: &str| {
        let output = folder.path().join(format!("{rows_mb}.mbtiles"));
        let mut command = seed_command(&db.url, &output, &["--config", &config, "--zoom", zooms, "-vv"]);
        let run = run(command.args(arguments).env("OAR_TILES_ROWS_MB", rows_mb)).ok();
        assert!(!run.stderr.contains("please report"), "{}", run.stderr);
        (Archive::open(&output).tiles(), run.stdout + &run.stderr)
    };
    let ((found, stderr), (expected, without)) = (seeded("100"), seeded("0"));
    let count = |stderr: &str| stderr.matches(" rows are cached, ").count();
    assert_eq!((count(&stderr), count(&without)), (read_once, 0), "{layers}\n{stderr}");
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (tile, bytes) in &found {
        let decoded = || (decode(bytes).unwrap(), decode(&expected[tile]).unwrap());
        assert!(*bytes == expected[tile], "{tile:?}:\n{:#?}", decoded());
    }
    assert!(found.len() > 10, "{} tiles", found.len());
    stderr
}

fn layer(name: &str, geometry: &str, more: &str) -> String {
    format!("[[layer]]\nname = \"{name}\"\ntable = \"rows\"\ngeometry = \"{geometry}\"\n{more}\n")
}

#[test]
fn rows_read_once_are_drawn_as_the_database_draws_them() {
    let db = Db::new();
    db.run(ROWS);
    for (geometry, more) in [
        ("degrees", PLAIN.to_owned()),
        ("mercator", PLAIN.to_owned()),
        ("round", "properties = [\"word\"]\nkey = [\"group\", \"hash\", \"id\"]".to_owned()),
        ("high", "properties = []\nfeature_id = \"id\"\nkey = [\"tag\", \"id\"]".to_owned()),
        ("lambert", "properties = [\"flag\", \"part\"]\nfeature_id = \"whole\"\nkey = [\"hash\", \"id\"]".to_owned()),
        ("degrees", format!("{PLAIN}\nbuffer = 0\nextent = 256")),
        ("degrees", format!("{PLAIN}\nbuffer = 700\nextent = 512\nwhere = \"id % 3 > 0\"")),
        ("degrees", "properties = { id = \"id\", words = \"ARRAY[word, NULL, 'é, \\\"']\", numbers = \"ARRAY[[id % 3, NULL]]\", none = \"ARRAY[]::text[]\", objects = \"ARRAY[object, NULL]\", json = \"json_build_object('n', id % 2)\", took = \"make_interval(days => id % 4)\", time = \"stamp::time\", net = \"'10.0.0.0/8'::cidr\", raw = \"decode('00ff', 'hex')\", called = \"word::name\" }".to_owned()),
        ("mercator", "extent = 65536\nbuffer = 1\nproperties = { a = \"upper(word)\", x = \"id * 2.5\", c = \"CASE WHEN flag THEN NULL ELSE 1 END\" }".to_owned()),
    ] {
        compare(&db, "0-9", &layer("points", geometry, &more), &[], 1);
    }
}

#[test]
fn points_between_two_units_are_drawn_where_the_database_says() {
    let db = Db::new();
    db.run(ROWS);
    let is_asked = |stderr: &str| stderr.contains("the database said where ");
    for more in ["", "buffer = 0", "extent = 512\nbuffer = 8"] {
        let halves = format!("[[layer]]\nname = \"halves\"\ntable = \"halves\"\n{more}\n");
        let stderr = compare(&db, "0-14", &halves, &[], 1);
        assert!(is_asked(&stderr) && !stderr.contains("left to the database"), "{stderr}");
    }
    // So many that the database draws their tiles: a regular grid in the middle between units.
    db.run(
        "CREATE TABLE grid AS SELECT row_number() OVER () AS id, ST_SetSRID(ST_MakePoint((x + 0.5) / 4096 * 360 - 180, y), 4326) AS degrees
        FROM generate_series(0, 4000, 40) AS x, generate_series(-60, 60, 3) AS y; ALTER TABLE grid ADD PRIMARY KEY (id); CREATE INDEX ON grid USING gist (degrees)",
    );
    let stderr = compare(&db, "0-6", "[[layer]]\nname = \"grid\"\ntable = \"grid\"\n", &[], 1);
    assert!(stderr.contains("the database draws the tiles of "), "{stderr}");
}

/// Points in the middle between two units of tiles that are linear in degrees, and on the last place at which the
/// database draws them with a buffer of 64 units and with 0.01 and 0.2 of a tile around it.
const IN_DEGREES: &str = "
CREATE TABLE between AS SELECT row_number() OVER () AS id, ST_SetSRID(ST_MakePoint(
    (x + across) / (1 << z) * 360 - 180, north - (north - south) * along), 4326) AS degrees
FROM generate_series(2, 11) AS z CROSS JOIN generate_series(1, 24) AS i
CROSS JOIN LATERAL (SELECT (i * 7919 + z) % (1 << z) AS x, (i * 104729 + 3 * z) % (1 << z) AS y) AS tile
CROSS JOIN LATERAL (SELECT degrees(atan(sinh(pi() * (1 - 2 * (y::float8 / (1 << z)))))) AS north,
    degrees(atan(sinh(pi() * (1 - 2 * ((y + 1)::float8 / (1 << z)))))) AS south) AS sides
CROSS JOIN LATERAL (SELECT (ARRAY[i + 0.5, i, 4096 + 64.5, -64.5, 4096 + 40.96, -819.2])[1 + i % 6] / 4096 AS across,
    (ARRAY[3 * i + 0.5, 4096 + 819.2, i, i + 0.5, -40.96, -64.5, i + 0.25])[1 + i % 7] / 4096 AS along) AS place
WHERE abs(north - (north - south) * along) < 85;
INSERT INTO between SELECT 10000 + n, ST_SetSRID(ST_MakePoint(x, y), 4326) FROM (VALUES (1, 180, 3), (2, -180, 3), (3, 180.00000000001, 4),
    (4, -179.9999999, -5), (5, 179.999, -84.9), (6, 0, 85.0511287)) AS edge (n, x, y);
ALTER TABLE between ADD PRIMARY KEY (id), ADD COLUMN metres geometry(Point, 3857);
UPDATE between SET metres = ST_Transform(degrees, 3857); CREATE INDEX ON between USING gist (degrees); CREATE INDEX ON between USING gist (metres)";

#[test]
fn rows_read_once_are_drawn_in_degrees_from_parts_of_the_buffer_and_with_the_tiles_address() {
    let db = Db::new();
    db.run(ROWS);
    db.run(IN_DEGREES);
    // A property may have the value of the tile's address, too.
    let address = "properties = { id = \"id\", x = \"!x!\", y = \"!y!\", z = \"!zoom!\", same = \"id % 9\" }";
    for (table, geometry, more) in [
        ("rows", "degrees", "tile_bounds = \"degrees\""),
        ("rows", "mercator", "tile_bounds = \"degrees\"\nbuffer = 0\nextent = 512"),
        ("rows", "lambert", "candidates = 0.2\nbuffer = 1024"),
        ("rows", "degrees", "tile_bounds = \"degrees\"\ncandidates = 0.001\nwhere = \"flag\""),
        ("between", "degrees", "tile_bounds = \"degrees\""),
        ("between", "metres", "tile_bounds = \"degrees\"\ncandidates = 0.01"),
        ("between", "degrees", "tile_bounds = \"degrees\"\ncandidates = 0.2\nbuffer = 1024"),
        ("between", "metres", "candidates = 0.01"),
    ] {
        let layers = format!(
            "[[layer]]\nname = \"points\"\ntable = \"{table}\"\ngeometry = \"{geometry}\"\n{more}\n{address}\n"
        );
        compare(&db, "0-11", &layers, &[], 1);
        if table == "rows" && geometry != "lambert" {
            compare(&db, "19-22", &layers, &["--bbox", "5,8,5.2,8.2", "--bbox", "-0.001,-0.001,0.001,0.001"], 1);
        }
    }
    // The database says where points between two units are drawn.
    let layers = format!("{}{address}\n", layer("points", "degrees", "tile_bounds = \"degrees\""));
    let both = layers.clone() + &layers.replace("points", "more").replace("\"rows\"", "\"between\"");
    let stderr = compare(&db, "3-11", &both, &[], 2);
    assert!(stderr.contains("the database said where "), "{stderr}");
    // A tile whose rows are in a scratch file knows its address, too.
    db.run("CREATE TABLE wide AS SELECT id, repeat(md5(id::text), 40) AS text, degrees FROM rows; ALTER TABLE wide ADD PRIMARY KEY (id)");
    let wide = "[[layer]]\nname = \"wide\"\ntable = \"wide\"\ntile_bounds = \"degrees\"\nproperties = { text = \"text\", z = \"!zoom!\", x = \"!x!\" }\n";
    let folder = tempfile::tempdir().unwrap();
    let config = written(folder.path(), wide);
    let seeded = |rows_mb: &str| {
        let output = folder.path().join(format!("{rows_mb}.mbtiles"));
        let mut command = seed_command(&db.url, &output, &["--config", &config, "--zoom", "0-6", "-vv"]);
        let run = run(command.env("OAR_TILES_ROWS_MB", rows_mb)).ok();
        (Archive::open(&output).tiles(), run.stderr)
    };
    let ((spilled, stderr), (expected, _)) = (seeded("1"), seeded("0"));
    assert!(stderr.contains("rows are cached, in a scratch file") && stderr.contains(" pieces"), "{stderr}");
    assert!(spilled == expected);
}

#[test]
fn deep_zooms_boxes_and_other_layers_are_as_before() {
    let db = Db::new();
    db.run(ROWS);
    let query = "[[layer]]\nname = \"asked\"\nsql = \"SELECT id, mercator AS geom, word FROM rows WHERE flag\"\ngeometry = \"geom\"\nkey = [\"id\"]\nproperties = [\"word\"]\n";
    let (first, last) = (layer("a", "degrees", PLAIN), layer("b", "mercator", "zoom = \"3-8\"\nproperties = [\"id\"]"));
    let three = format!("{first}{query}{last}");
    compare(&db, "0-8", &three, &[], 3);
    compare(&db, "4-12", &three, &["--bbox", "20,0,60,40", "--bbox", "-1,-1,1,1"], 3);
    compare(&db, "19-22", &first, &["--bbox", "5,8,5.2,8.2", "--bbox", "-0.001,-0.001,0.001,0.001"], 1);
    // Cells at low zooms, rows at the others.
    compare(&db, "0-8", &format!("{first}[layer.cluster]\nzoom = \"0-3\"\nsize = \"1/4\"\n"), &[], 1);
}

#[test]
fn what_is_not_the_same_in_every_tile_is_left_to_the_database() {
    let db = Db::new();
    db.run(ROWS);
    compare(&db, "0-6", &layer("points", "lambert", "properties = [\"id\"]\ntile_bounds = \"degrees\""), &[], 0);
    for more in [
        "properties = { id = \"id\", object = \"object\", other = \"object\" }",
        // An error of a row that lies in the box, but in no tile of it: nobody needs that row.
        "properties = { id = \"id\", odd = \"1 / (id - 5003)\" }\nbeyond = \"skip\"",
    ] {
        compare(&db, "0-6", &layer("points", "degrees", more), &[], 0);
    }
    // A rank that fails for a row in no tile, which only the database finds out.
    let failing = "properties = [\"id\"]\nbeyond = \"skip\"\nmax_tile_features = 100\non_large_tile = \"thin\"\nrank = \"1 / (id - 5003)\"";
    compare(&db, "0-6", &layer("points", "degrees", failing), &[], 0);
    // One zoom does not pay.
    compare(&db, "6", &layer("points", "degrees", PLAIN), &[], 0);
}

/// Layers of which features are left out, by rank: values of all types that are compared here, with NULLs, ties and NaN.
const RANKS: [&str; 18] = [
    "CASE WHEN id % 5 > 0 THEN id % 13 - 6 END",
    "whole",
    "wide",
    "short",
    "part",
    "short_part",
    "exact",
    "CASE id % 9 WHEN 0 THEN 'NaN' WHEN 1 THEN 0 WHEN 2 THEN -12.0001 ELSE (id % 4 - 2) * 1e4 + (id % 3) * 1e-5 END::numeric",
    "flag",
    "word",
    "CASE WHEN flag THEN upper(word) ELSE word || ' ' END",
    "hash::char(34)",
    "word::name",
    "tag",
    "day",
    "stamp",
    "grade",
    "decode(substr(hash, 1, 2 * (id % 3)), 'hex')",
];

#[test]
fn large_tiles_of_a_thinned_layer_are_drawn_from_rows_read_once() {
    let db = Db::new();
    db.run(ROWS);
    db.run("CREATE DOMAIN grade AS text CHECK (length(VALUE) < 10); ALTER TABLE rows ADD COLUMN grade grade COLLATE \"und-x-icu\"; UPDATE rows SET grade = CASE id % 4 WHEN 1 THEN 'B' WHEN 2 THEN 'a' WHEN 3 THEN 'ä' END");
    let thinned = |name: &str, budget: &str| {
        layer(name, "degrees", &format!("properties = [\"id\", \"word\"]\non_large_tile = \"thin\"\n{budget}"))
    };
    let ranked = |number: usize, rank: &str| {
        thinned(
            &format!("ranked_{number}"),
            &format!("rank = \"{rank}\"\nmax_tile_features = {{ \"0-4\" = 40, \"5-8\" = 3 }}"),
        )
    };
    let mut layers: Vec<String> = RANKS.iter().enumerate().map(|(number, rank)| ranked(number, rank)).collect();
    layers.extend([
        thinned("by_key", "max_tile_features = 100"),
        thinned("one", "max_tile_features = 1"),
        thinned("bytes", "max_tile_bytes = 3000\nrank = \"word\""),
        thinned("both", "max_tile_bytes = { \"1-2\" = 5000 }\nmax_tile_features = { \"0-1\" = 700 }\nrank = \"hash\""),
        // A rank behind an object.
        thinned("objects", "max_tile_features = 7\nrank = \"whole\"").replace("\"word\"", "\"object\""),
        // Below clusters.
        thinned("below", "max_tile_features = 20\nrank = \"part\"\n[layer.cluster]\nzoom = \"0-3\"\nsize = \"1/4\""),
    ]);
    let stderr = compare(&db, "0-7", &layers.concat(), &[], layers.len());
    let left: Vec<&str> = stderr.lines().filter(|line| line.contains("left to the database")).collect();
    // The clusters alone.
    assert!(left.iter().all(|line| line.contains("\"below\"")), "{left:?}");
    // Of values that are not compared here, the database draws the tiles from which some are left out.
    let unknown = ["stamp - timestamptz '2000-01-01'", "object", "ARRAY[id % 7]"];
    let layers: Vec<String> = unknown.iter().enumerate().map(|(number, rank)| ranked(number, rank)).collect();
    let stderr = compare(&db, "0-7", &layers.concat(), &[], layers.len());
    for number in 0..layers.len() {
        let text =
            format!("layer \"ranked_{number}\": areas left to the database, for ambiguous points or large tiles");
        assert!(stderr.contains(&text), "{text}: {stderr}");
    }
}

#[test]
fn what_is_not_drawn_takes_no_place_in_a_thinned_tile_from_rows_read_once() {
    let db = Db::new();
    db.run(ROWS);
    db.run(IN_DEGREES);
    for (table, geometry, more) in [
        ("between", "metres", "candidates = 0.01\nmax_tile_features = 2\nrank = \"id % 3\""),
        ("between", "degrees", "tile_bounds = \"degrees\"\nmax_tile_features = 2"),
        ("rows", "degrees", "buffer = 0\nextent = 256\nmax_tile_features = 3\nrank = \"word\""),
        ("halves", "degrees", "buffer = 8\nextent = 512\nmax_tile_features = 4\nrank = \"id % 5\""),
    ] {
        let layers = format!(
            "[[layer]]\nname = \"points\"\ntable = \"{table}\"\ngeometry = \"{geometry}\"\nproperties = [\"id\"]\non_large_tile = \"thin\"\n{more}\n"
        );
        let stderr = compare(&db, "0-11", &layers, &[], 1);
        let is_asked = stderr.contains("the database said where ");
        assert_eq!(is_asked, table != "rows", "{table}\n{stderr}");
        assert!(!stderr.contains("left to the database"), "{table}\n{stderr}");
    }
}

#[test]
fn what_is_left_out_is_reported_alike_whatever_draws() {
    let db = Db::with_facilities(2_000);
    let folder = tempfile::tempdir().unwrap();
    let thinned = "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\nproperties = [\"id\", \"name\"]\non_large_tile = \"thin\"\nmax_tile_features = 200\nmax_tile_bytes = { \"2-9\" = 4000 }\n";
    let config = written(folder.path(), thinned);
    let told = |rows_mb: &str| {
        let (output, report) = (folder.path().join(format!("{rows_mb}.mbtiles")), folder.path().join("r.json"));
        let arguments = ["--config", &config, "--zoom", "0-9", "--report", report.to_str().unwrap()];
        let ran = run(seed_command(&db.url, &output, &arguments).env("OAR_TILES_ROWS_MB", rows_mb)).ok();
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        let drawing = report["stages"]["drawing"].as_f64().unwrap();
        let tables: Vec<String> = ran.stdout.lines().filter(|line| line.contains("thin")).map(str::to_owned).collect();
        (drawing > 0.0, (report["budgets"].clone(), tables, Archive::open(&output).tiles()))
    };
    let ((is_cached, found), (is_not, expected)) = (told("100"), told("0"));
    assert!(is_cached && !is_not);
    assert!(found.0[0]["thinned_tiles"].as_u64() > Some(10) && !found.1.is_empty(), "{:?}", found.1);
    assert!(
        (&found.0, &found.1) == (&expected.0, &expected.1),
        "{:?} {:?}",
        (found.0, found.1),
        (expected.0, expected.1)
    );
    assert!(found.2 == expected.2);
}

/// Towns of many rows, whose keys say nothing of where they lie, beside rows all over the world.
const MANY: &str = "CREATE TABLE many AS SELECT i AS id, md5(i::text) AS word, i % 7 AS kind,
             ST_SetSRID(ST_MakePoint(90 + (hashint4(i) % 1000) * 3e-5 + (i % 5) * 20, 23 + (hashint4(-i) % 1000) * 3e-5 - (i % 3) * 30), 4326) AS degrees
         FROM generate_series(1, 17000) AS i;
         INSERT INTO many SELECT 100000 + id, word, 8, degrees FROM rows WHERE word IS NOT NULL AND ST_X(degrees) BETWEEN -180 AND 180 AND ST_Y(degrees) BETWEEN -85 AND 85;
         ALTER TABLE many ADD PRIMARY KEY (word, id)";

#[test]
fn rows_beyond_the_memory_are_drawn_from_a_scratch_file() {
    let db = Db::new();
    db.run(ROWS);
    db.run(MANY);
    let folder = tempfile::tempdir().unwrap();
    let config = written(
        folder.path(),
        "[[layer]]\nname = \"many\"\ntable = \"many\"\nkey = [\"word\", \"id\"]\nproperties = [\"id\", \"word\", \"kind\"]\n",
    );
    let seeded = |name: &str, rows_mb: &str| {
        let output = folder.path().join(name);
        let zooms = ["--config", &config, "--zoom", "3-8", "-vv", "--workers", "5"];
        let run = run(seed_command(&db.url, &output, &zooms).env("OAR_TILES_ROWS_MB", rows_mb)).ok();
        (folder.path().join(name), run.stderr)
    };
    let (plain, _) = seeded("plain.mbtiles", "0");
    let expected = Archive::open(&plain).tiles();
    for (name, rows_mb) in [("spilled.mbtiles", "1"), ("spilled.pmtiles", "1"), ("memory.mbtiles", "auto")] {
        let (output, stderr) = seeded(name, rows_mb);
        assert_eq!(stderr.contains("rows are cached, in a scratch file"), rows_mb == "1", "{stderr}");
        assert!(stderr.contains(" rows are cached, "), "however many the workers: {stderr}");
        // Half of the memory does not hold the rows of the lowest zooms at once.
        assert_eq!(stderr.contains(" pieces"), rows_mb == "1", "{stderr}");
        assert!(!stderr.contains("left to the database"), "{stderr}");
        let target = output.to_str().unwrap();
        let copy = folder.path().join(format!("{name}.copy.mbtiles"));
        run(bare_program().args(["copy", target, copy.to_str().unwrap()])).ok();
        let found = Archive::open(&copy).tiles();
        assert_eq!(found.len(), expected.len());
        assert!(found == expected, "{name}");
    }
}

#[test]
fn rows_in_a_scratch_file_have_ranks() {
    let db = Db::new();
    db.run(ROWS);
    db.run(MANY);
    let folder = tempfile::tempdir().unwrap();
    let config = written(
        folder.path(),
        "[[layer]]\nname = \"many\"\ntable = \"many\"\nkey = [\"word\", \"id\"]\nproperties = [\"id\", \"word\"]\non_large_tile = \"thin\"\nmax_tile_features = 30\nrank = \"kind\"\n",
    );
    let seeded = |rows_mb: &str| {
        let output = folder.path().join(format!("{rows_mb}.mbtiles"));
        let arguments = ["--config", &config, "--zoom", "3-12", "-vv", "--workers", "5"];
        let run = run(seed_command(&db.url, &output, &arguments).env("OAR_TILES_ROWS_MB", rows_mb)).ok();
        (Archive::open(&output).tiles(), run.stderr)
    };
    let (expected, _) = seeded("0");
    for (rows_mb, is_spilled) in [("1", true), ("100", false)] {
        let (found, stderr) = seeded(rows_mb);
        assert_eq!(stderr.contains("rows are cached, in a scratch file"), is_spilled, "{stderr}");
        // Tiles whose rows do not fit into the memory at once are the database's.
        assert_eq!(stderr.contains("left to the database"), is_spilled, "{stderr}");
        assert!(found == expected, "{rows_mb}");
    }
}

/// Wide rows, and rows beside the buffers of tiles in which nothing else lies, in the same columns.
const WIDE_AND_BESIDE: &str = "
CREATE TABLE wide AS SELECT i AS id, repeat('x', 10000) AS name,
    ST_SetSRID(ST_MakePoint(10 + (hashint4(i) & 65535) / 1700.0 - 185 * (i % 2), 10 + (hashint4(-i) & 65535) / 1700.0), 4326) AS loc
FROM generate_series(1, 700) AS i;
INSERT INTO wide SELECT 50000 + i, 'beside', ST_Transform(ST_SetSRID(ST_MakePoint(
    -20037508.342789244 + 40075016.685578488 / 64 * (2 + (i % 30) * 2 - 64 / 4096.0 - (1 + i % 11) / 8.0 / 4096),
    20037508.342789244 - 40075016.685578488 / 64 * (45 + (i / 30) * 3 + 0.5)), 3857), 4326)
FROM generate_series(1, 120) AS i;
ALTER TABLE wide ADD PRIMARY KEY (id); CREATE INDEX ON wide USING gist (loc); ANALYZE wide";

#[test]
fn tiles_whose_rows_all_lie_beyond_their_buffer_are_empty_however_little_memory_there_is() {
    let db = Db::new();
    db.run(WIDE_AND_BESIDE);
    let folder = tempfile::tempdir().unwrap();
    let config = written(
        folder.path(),
        "[[layer]]\nname = \"wide\"\ntable = \"wide\"\ngeometry = \"loc\"\nproperties = [\"id\", \"name\"]\n",
    );
    let seeded = |rows_mb: &str| {
        let output = folder.path().join(format!("{rows_mb}.mbtiles"));
        let mut command = seed_command(&db.url, &output, &["--config", &config, "--zoom", "4-6", "-vv"]);
        let stderr = run(command.env("OAR_TILES_ROWS_MB", rows_mb)).ok();
        (Archive::open(&output).tiles(), stderr)
    };
    let ((tiles, spilled), (expected, memory)) = (seeded("1"), seeded("100"));
    assert!(spilled.stderr.contains("with 0 features is drawn in "), "{}", spilled.stderr);
    let empty =
        |run: &crate::support::program::Run| run.stdout.lines().last().unwrap().split(':').next().unwrap().to_owned();
    assert!(!empty(&spilled).contains(" 0 rendered to nothing"), "{}", spilled.stdout);
    assert_eq!(empty(&spilled), empty(&memory));
    assert!(tiles == expected);
}

#[test]
fn a_temporary_folder_that_takes_no_rows_is_named_and_the_database_draws() {
    let db = Db::new();
    db.run(ROWS);
    db.run("CREATE TABLE wide AS SELECT id, degrees, repeat(hash, 200) AS text FROM rows WHERE id < 1500; ALTER TABLE wide ADD PRIMARY KEY (id)");
    let folder = tempfile::tempdir().unwrap();
    let wide = "[[layer]]\nname = \"wide\"\ntable = \"wide\"\nproperties = [\"text\"]\n";
    // Far fewer of them than of others are written together.
    compare(&db, "0-5", wide, &[], 1);
    let config = written(folder.path(), &format!("[run]\nrows_mb = 1\n{wide}"));
    let output = folder.path().join("a.mbtiles");
    let missing = folder.path().join("missing");
    let mut command = seed_command(&db.url, &output, &["--config", &config, "--zoom", "0-5"]);
    // SQLite's own scratch lists go elsewhere.
    command.env("TMPDIR", &missing).env("SQLITE_TMPDIR", folder.path());
    let stderr = run(&mut command).ok().stderr;
    let missing = missing.display();
    let expected = format!(
        "layer \"wide\": its rows are not cached: they take more memory than rows_mb allows, and the temporary folder {missing} does not take them (No such file or directory (os error 2)"
    );
    assert!(stderr.contains(&expected), "{stderr}");
    assert!(stderr.contains("Make room there, set TMPDIR to another one, or raise rows_mb"), "{stderr}");
    let tiles = Archive::open(&output).tiles();
    assert!(tiles.len() > 10);

    // A folder that is full after some of them.
    if let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), "300k") {
        let stderr = run(command.env("TMPDIR", &disk.path)).ok().stderr;
        let expected =
            format!("the temporary folder {} does not take them (No space left on device", disk.path.display());
        assert!(stderr.contains(&expected), "{stderr}");
        assert!(stderr.contains("Make room there, set TMPDIR to another one, or raise rows_mb"), "{stderr}");
        assert!(Archive::open(&output).tiles() == tiles);
        assert_eq!(std::fs::read_dir(&disk.path).unwrap().count(), 0, "nothing is left there");
    }

    let config = written(folder.path(), "[run]\nrows_mb = 50000000\n");
    let expected = format!("run.rows_mb (from {config}): 50000000 must lie between 0 and 16000000");
    run(bare_program().args(["seed", "--config", &config])).fails(2, &[&expected]);
}

#[test]
fn a_property_that_changes_from_query_to_query_is_noticed() {
    let db = Db::new();
    db.run(ROWS);
    let folder = tempfile::tempdir().unwrap();
    let config = written(folder.path(), &layer("odd", "degrees", "properties = { id = \"id\", luck = \"random()\" }"));
    let run = seed(&db.url, &folder.path().join("a.mbtiles"), &["--config", &config, "--zoom", "0-5"]).ok();
    let expected = "layer \"odd\": its cached rows do not give the tiles that the database draws, so the database draws all of them. Does a property change from one query to the next? If not, please report this";
    assert!(run.stderr.contains(expected), "{}", run.stderr);
}

#[test]
fn a_seed_says_what_its_time_went_into() {
    let db = Db::with_facilities(1_200);
    let folder = tempfile::tempdir().unwrap();
    let stages = |rows_mb: &str| {
        let (output, report) = (folder.path().join("t.mbtiles"), folder.path().join("r.json"));
        let mut command = seed_command(&db.url, &output, &["--zoom", "0-9", "--force", "--report"]);
        let ran = run(command.arg(&report).env("OAR_TILES_ROWS_MB", rows_mb)).ok();
        assert!(ran.stdout.contains(" limits the speed\n"), "{}", ran.stdout);
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        let of = |name: &str| report["stages"][name].as_f64().unwrap();
        let all = ["database", "drawing", "packing", "writing"].map(of);
        assert!(all.iter().all(|share| (0.0..=1.0).contains(share)) && of("packing") > 0.0 && of("writing") > 0.0);
        let busiest = report["stages"]["bottleneck"].as_str().unwrap();
        assert!(all.iter().all(|share| *share <= of(busiest)), "{report}");
        assert!(report["reading_seconds"].as_f64() <= report["plan_seconds"].as_f64());
        [of("database"), of("drawing")]
    };
    assert!(stages("100")[1] > 0.0, "points are drawn without the database");
    let [database, drawing] = stages("0");
    assert!(database > 0.0 && drawing == 0.0, "the database draws everything");
}
