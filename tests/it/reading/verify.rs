//! `verify`: sound targets pass, every kind of damage is found and named.

use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::Connection;

use crate::support::damaged::{as_images_and_map, changed, changed_tile, packed};
use crate::support::places::Places;
use crate::support::program::{Run, over_rows, program, run};
use crate::support::s3::keys;
use crate::support::{Archive, Db, seed};

fn verify(target: &Path, arguments: &[&str]) -> Run {
    run(program().arg("verify").arg(target).args(arguments))
}

fn against(db: &Db, target: &Path, arguments: &[&str]) -> Run {
    verify(target, &[&["--database", "--database-url", &db.url], arguments].concat())
}

/// Lines and polygons over the facilities, which lie in the layer's buffer here and there.
const SHAPES: &str = "
    CREATE TABLE shapes AS SELECT row_number() OVER () AS id, is_closed, CASE row_number() OVER () % 3
        WHEN 0 THEN ST_MakeLine(location, ST_Translate(location, 0.7, 0.3))
        WHEN 1 THEN ST_Difference(ST_Buffer(location, 0.5), ST_Buffer(location, 0.2))
        ELSE ST_Collect(location, ST_Translate(location, 0.1, 0.1)) END::geometry(Geometry, 4326) AS g
    FROM (SELECT * FROM api_facility WHERE ST_X(location) BETWEEN -170 AND 170 LIMIT 60) AS sixty;
    ALTER TABLE shapes ADD PRIMARY KEY (id); CREATE INDEX ON shapes USING gist (g);";

const TWO_LAYERS: &str = "
    [tileset]
    zoom = \"0-9\"
    [[layer]]
    name = \"shapes\"
    table = \"shapes\"
    feature_id = \"id\"
    buffer = 200
    [[layer]]
    name = \"facilities\"
    table = \"api_facility\"
    zoom = \"2-9\"
    properties = { id = \"id\", number = \"length(name)\", ratio = \"length(name) / 3.0::float4\", closed = \"is_closed\" }
    [run]
    batch_features = 50";

#[test]
fn an_area_is_verified_by_itself() {
    let db = Db::with_facilities(400);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-7", "--bbox=-170,-80,170,80"]).ok();
    let verify = |arguments: &[&str]| {
        run(program().arg("verify").arg(&target).args(["--database", "--database-url", &db.url]).args(arguments))
    };
    verify(&["--area", "60,5,100,35"]).ok();
    // A change on the other side of the world is seen in the tiles of low zooms only, and in the whole.
    db.run("UPDATE api_facility SET location = ST_SetSRID(ST_MakePoint(-100, 40), 4326) WHERE ST_X(location) < 0");
    let found = verify(&["--area", "60,5,100,35"]).fails(1, &["is not sound"]);
    let far = verify(&[]).fails(1, &["is not sound"]);
    let tiles = |text: &str| -> usize { text.matches("tile ").count() };
    assert!(tiles(&found.stdout) < tiles(&far.stdout), "{}{}", found.stdout, far.stdout);
    assert!(!found.stdout.contains("should not be there"), "{}", found.stdout);
    verify(&["--area", "171,-10,179,10"]).ok();
    verify(&["--area", "nowhere.geojson"])
        .fails(2, &["the area \"nowhere.geojson\" cannot be read: there is no such file"]);
}

#[test]
fn what_was_seeded_is_sound_and_shows_the_database() {
    let db = Db::with_facilities(1_000);
    db.run(SHAPES);
    // The easternmost of all lies two units of the grid before tile 9/511/…, which shows it in its buffer: that tile
    // lies outside of the bounds, and yet is no mistake.
    db.run("INSERT INTO api_facility VALUES ('edge', 'Edge', '', 'FJ', ST_SetSRID(ST_MakePoint(179.2965, -17), 4326), false, now(), now())");
    let folder = tempfile::tempdir().unwrap();
    let (config, output) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    std::fs::write(&config, TWO_LAYERS).unwrap();
    let config = ["--config", config.to_str().unwrap()];
    for boxes in [&[][..], &["--bbox", "60,-20,121.3,30", "--bbox", "170,-50,-170,50"]] {
        seed(&db.url, &output, &[&config[..], boxes].concat()).ok();
        let stored = Archive::open(&output).stored();
        assert!(stored.contains_key(&(9, 511, 280)), "the tile beyond the bounds");
        let tiles = stored.len();
        assert!((100..1_000_000).contains(&tiles), "{tiles}");
        let alone = verify(&output, &[]).ok();
        let grouped = |number: usize| {
            if number < 1_000 { number.to_string() } else { format!("{} {:03}", number / 1_000, number % 1_000) }
        };
        let path = output.display();
        assert_eq!(alone.stdout, format!("{path}: sound ({} tiles, all decoded)\n", grouped(tiles)));
        assert_eq!(alone.stderr, "");
        let compared = against(&db, &output, &config).ok();
        assert!(
            compared.stdout.contains(": sound (") && compared.stdout.contains(" planned rendered again)"),
            "{}",
            compared.stdout
        );
        assert!(compared.stdout.contains(", all of "), "{}", compared.stdout);
    }
    let sample = against(&db, &output, &[&config[..], &["--sample", "100"]].concat()).ok();
    assert!(sample.stdout.contains("a sample of 100 decoded, a sample of "), "{}", sample.stdout);
    let report = folder.path().join("r.json");
    verify(&output, &["--all", "--report", report.to_str().unwrap()]).ok();
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!((&json["findings"], &json["decoded"]), (&serde_json::json!([]), &json["tiles"]));
}

/// What is done to a tile's bytes.
type Change = fn(Vec<u8>) -> Vec<u8>;

#[test]
fn every_kind_of_damage_is_found_and_named() {
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("t.mbtiles");
    seed(&db.url, &sound, &["--zoom", "0-6"]).ok();
    let count = Archive::open(&sound).stored().len();
    let less = format!("it says that {count} tiles are stored, but there are {}", count - 1);
    for (number, (sql, texts)) in [
        ("DELETE FROM tiles WHERE zoom_level = 0", &["manifest: 1\n", &less, "agg_tiles_hash is "][..]),
        (
            "DROP INDEX tile_index; INSERT INTO tiles SELECT * FROM tiles WHERE zoom_level = 0",
            &["structure: 2\n", "tile 0/0/0 has two rows"],
        ),
        (
            "INSERT INTO tiles SELECT 9, 0, 0, tile_data FROM tiles WHERE zoom_level = 0",
            &["tile 9/0/511 is not of the zooms 0-6", "tile 9/0/511 lies outside of minzoom 0 and maxzoom 6"],
        ),
        (
            "INSERT INTO tiles SELECT 6, 0, 0, tile_data FROM tiles WHERE zoom_level = 6 LIMIT 1",
            &["tiles outside of the zooms or bounds: 1\n  tile 6/0/63 does not touch the bounds\n"],
        ),
        (
            "INSERT INTO tiles SELECT 0, 5, 0, tile_data FROM tiles WHERE zoom_level = 0",
            &["the row with zoom_level 0, tile_column 5, tile_row 0 lies outside of its zoom"],
        ),
        ("UPDATE metadata SET value = 'AB' WHERE name = 'agg_tiles_hash'", &["its agg_tiles_hash is AB, but its tiles have "]),
        ("PRAGMA journal_mode = WAL", &["it is in WAL mode", "PRAGMA journal_mode = DELETE"]),
        ("PRAGMA application_id = 7", &["its application_id is 0x00000007: MBTiles has 0x4d504258 (or none)"]),
        (
            "UPDATE metadata SET value = json_set(value, '$.stored', 7) WHERE name = 'oar_tiles_manifest'",
            &["it says that 7 tiles are stored, but there are "],
        ),
        ("UPDATE metadata SET value = '{' WHERE name = 'oar_tiles_manifest'", &["manifest: 1\n  it cannot be read (EOF"]),
        ("UPDATE metadata SET value = '{' WHERE name = 'json'", &["its metadata has the json \"{\", which cannot be read"]),
        ("UPDATE metadata SET value = 'x,1' WHERE name = 'bounds'", &["its metadata has the bounds \"x,1\", which cannot be read"]),
        ("DELETE FROM metadata WHERE name = 'format'", &["its metadata has no format, which MBTiles 1.3 demands"]),
        (
            "CREATE TABLE m AS SELECT * FROM metadata; DROP TABLE metadata; ALTER TABLE m RENAME TO metadata; INSERT INTO metadata VALUES ('name', 'other')",
            &["its metadata has \"name\" twice"],
        ),
        (
            "UPDATE metadata SET value = replace(value, '\"id\":\"facilities\"', '\"id\":\"roads\"') WHERE name = 'json'",
            &["that are not described: 1\n  tile 0/0/0: layer \"facilities\" is not described\n"],
        ),
        (
            "UPDATE metadata SET value = json_set(value, '$.vector_layers[0].fields.is_closed', 'Number') WHERE name = 'json'",
            &["the property \"is_closed\" is a Boolean, but described as Number\n"],
        ),
        (
            "UPDATE metadata SET value = json_set(value, '$.vector_layers[0].minzoom', 1) WHERE name = 'json'",
            &["not described: 1\n  tile 0/0/0: layer \"facilities\" is described for the zooms 1-6 only\n"],
        ),
        ("UPDATE tiles SET tile_data = 'text' WHERE zoom_level = 0", &["the tile_data of tile 0/0/0 is no blob"]),
        ("UPDATE tiles SET tile_data = NULL WHERE zoom_level = 0", &["SQLite's integrity check: NULL value in tiles.tile_data"]),
    ]
    .into_iter()
    .enumerate()
    {
        // NULL is only possible without the table's own check.
        let sql = if sql.contains("= NULL") {
            &format!("PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'tile_data blob NOT NULL', 'tile_data blob') WHERE name = 'tiles'; PRAGMA writable_schema = RESET; {sql}; PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'tile_data blob', 'tile_data blob NOT NULL') WHERE name = 'tiles'")
        } else {
            sql
        };
        let damaged = changed(&sound, &format!("d{number}"), sql);
        names(&damaged, sql, texts);
    }
    let flip: Change = |mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        bytes
    };
    let unpack: Change = |bytes| crate::support::archive::unpacked(&bytes);
    let cut: Change = |bytes| {
        let raw = crate::support::archive::unpacked(&bytes);
        packed(&raw[..raw.len() - 3])
    };
    let twice: Change = |bytes| packed(&crate::support::archive::unpacked(&bytes).repeat(2));
    let changes: [(&str, Change, &[&str]); 6] = [
        ("flip", flip, &["tiles that cannot be decoded: 1\n  tile 0/0/0: its gzip is broken", "agg_tiles_hash is "]),
        ("unpack", unpack, &["tile 0/0/0 is not gzip, which MBTiles 1.3 demands of vector tiles"]),
        ("cut", cut, &["  tile 0/0/0: its vector tile is broken: a field is cut off\n"]),
        ("twice", twice, &["  tile 0/0/0: its vector tile is broken: two layers are named \"facilities\"\n"]),
        ("nothing", |_| packed(&[]), &["tiles without a feature: 1\n  tile 0/0/0\n"]),
        (
            "no feature",
            |_| packed(b"\x1a\x09\x0a\x02no\x28\x80\x20\x78\x02"),
            &["tiles without a feature: 1\n  tile 0/0/0\n"],
        ),
    ];
    for (name, change, texts) in changes {
        names(&changed_tile(&sound, name, (0, 0, 0), change), name, texts);
    }
    // What another program made is sound too, without manifest and hash.
    let other = as_images_and_map(&sound, false);
    Connection::open(&other).unwrap().execute("INSERT INTO metadata VALUES ('name', 'other')", []).unwrap();
    verify(&other, &[]).ok();
}

#[track_caller]
fn names(damaged: &Path, how: &str, texts: &[&str]) {
    let found = verify(damaged, &["--all"]).fails(1, &[" is not sound: ", " listed above. Seed or copy it again\n"]);
    for text in texts {
        assert!(found.stdout.contains(text), "{how}: «{text}» is missing in:\n{}", found.stdout);
    }
    assert!(found.stdout.lines().last().unwrap().contains(": not sound: "), "{how}: {}", found.stdout);
}

/// The tiles of a kind that a report names.
fn named(report: &Path, kind: &str) -> BTreeSet<String> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let Some(finding) = findings.iter().find(|finding| finding["kind"] == kind) else { return BTreeSet::new() };
    let examples = finding["examples"].as_array().unwrap().iter();
    let examples: BTreeSet<String> =
        examples.map(|tile| tile.as_str().unwrap().strip_prefix("tile ").unwrap().to_owned()).collect();
    assert_eq!(finding["count"], examples.len());
    examples
}

#[test]
fn with_the_database_exactly_the_tiles_that_differ_are_named() {
    let db = Db::with_facilities(400);
    let folder = tempfile::tempdir().unwrap();
    let (old, new, report) =
        (folder.path().join("old.mbtiles"), folder.path().join("new.mbtiles"), folder.path().join("r.json"));
    let zooms = ["--zoom", "2-6"];
    seed(&db.url, &old, &zooms).ok();
    db.run(
        "UPDATE api_facility SET name = name || '!' WHERE id = (SELECT min(id) FROM api_facility);
         DELETE FROM api_facility WHERE country_code = 'FJ';
         INSERT INTO api_facility VALUES ('pole', 'Pole', '', 'XX', ST_SetSRID(ST_MakePoint(-40.2, 70.1), 4326), false, now(), now())",
    );
    seed(&db.url, &new, &zooms).ok();
    let (before, after) = (Archive::open(&old).tiles(), Archive::open(&new).tiles());
    let shown = |(zoom, x, y): &(u8, u32, u32)| format!("{zoom}/{x}/{y}");
    let missing: BTreeSet<_> = after.keys().filter(|tile| !before.contains_key(tile)).map(shown).collect();
    let ghosts: BTreeSet<_> = before.keys().filter(|tile| !after.contains_key(tile)).map(shown).collect();
    let differ: BTreeSet<_> = before
        .iter()
        .filter(|(tile, bytes)| after.get(tile).is_some_and(|other| other != *bytes))
        .map(|(tile, _)| shown(tile))
        .collect();
    assert!(!missing.is_empty() && !ghosts.is_empty() && !differ.is_empty(), "{missing:?} {ghosts:?} {differ:?}");
    let found = against(&db, &old, &["--report", report.to_str().unwrap()]).fails(1, &[" is not sound: "]);
    assert_eq!(named(&report, "missing"), missing, "{}", found.stdout);
    assert_eq!(named(&report, "ghost"), ghosts, "{}", found.stdout);
    assert_eq!(named(&report, "different"), differ, "{}", found.stdout);
    // By itself the old file is sound, and the new one shows the database.
    verify(&old, &[]).ok();
    against(&db, &new, &[]).ok();
    // A sample may miss some, but it invents none.
    let config = folder.path().join("c.toml");
    std::fs::write(&config, over_rows("[run]\nbatch_features = 20")).unwrap();
    for sample in ["1", "40", "100"] {
        let arguments =
            ["--config", config.to_str().unwrap(), "--sample", sample, "--report", report.to_str().unwrap()];
        let sampled = against(&db, &old, &arguments);
        assert!(sampled.stdout.contains("a sample of "), "{}{}", sampled.stdout, sampled.stderr);
        for (kind, all) in [("missing", &missing), ("ghost", &ghosts), ("different", &differ)] {
            assert!(named(&report, kind).is_subset(all), "{kind}: {}", sampled.stdout);
        }
        against(&db, &new, &arguments).ok();
    }
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let db = Db::with_facilities(50);
    let folder = tempfile::tempdir().unwrap();
    let (output, config) = (folder.path().join("t.mbtiles"), folder.path().join("c.toml"));
    seed(&db.url, &output, &["--zoom", "0-2"]).ok();
    std::fs::write(&config, over_rows("[layer_defaults]\nbuffer = 65")).unwrap();
    against(&db, &output, &["--config", config.to_str().unwrap()])
        .fails(2, &["it was seeded with another configuration (its fingerprint is ", "Give the --config and --layer"]);
    let bare = changed(&output, "bare", "DELETE FROM metadata WHERE name = 'oar_tiles_manifest'");
    against(&db, &bare, &[])
        .fails(2, &["it has no manifest, so nobody knows what it should show. Verify it without --database"]);
    verify(&output, &["--report", output.to_str().unwrap()])
        .fails(2, &["cannot write the report", "it would replace the output"]);
    for (arguments, text) in [
        (&["--sample", "0"][..], "invalid value '0' for '--sample <N>'"),
        (&["--sample", "5", "--all"], "'--sample <N>' cannot be used with '--all'"),
        (&["--database-url", "postgresql:///x"], "--database"),
    ] {
        verify(&output, arguments).fails(2, &[text]);
    }
}

#[test]
fn a_folder_or_a_prefix_without_a_tileset_is_no_empty_tileset() {
    let folder = tempfile::tempdir().unwrap();
    let (empty, copied) = (folder.path().join("mistyped"), folder.path().join("copied.mbtiles"));
    std::fs::create_dir(&empty).unwrap();
    let (places, keys) = (Places::new(), keys());
    let (empty, prefix) = (empty.display().to_string(), places.prefix.location.to_string());
    let copied = copied.to_str().unwrap();
    for (place, what) in [
        (&empty, "is no directory of tiles (it has neither a metadata.json nor a file named as {z}/{x}/{y}.pbf)"),
        (&prefix, "is no prefix of tiles (it has neither a metadata.json nor an object named as {z}/{x}/{y}.pbf)"),
    ] {
        for verb in
            [vec!["verify", place], vec!["inspect", place], vec!["diff", place, place], vec!["copy", place, copied]]
        {
            let mut command = program();
            command.args(&verb).args(["--config", &places.config]);
            command.env("AWS_ACCESS_KEY_ID", &keys.key).env("AWS_SECRET_ACCESS_KEY", &keys.secret);
            run(&mut command).fails(2, &[&format!("{place} {what}")]);
        }
    }
}
