//! Names and texts that others chose (files, versions, layers, tables, the database's messages) never steer the user's
//! terminal: control characters in them are printed escaped.

use std::process::Command;

use crate::support::Db;
use crate::support::damaged::{packed, pmtiles, pmtiles_directory, small_tile};
use crate::support::folder::Folder;
use crate::support::program::{Run, program, run, seed_command};
use crate::support::refusal::NOWHERE;

/// Clears the screen (ESC [ 2 J), rings the bell, goes back to the beginning of the line, and clears the screen by its
/// 8-bit form.
const HOSTILE: &str = "x\u{1b}[2J\u{7}\r\u{9b}2Jy";

/// How [`HOSTILE`] is printed.
const SHOWN: &str = "x\\u{1b}[2J\\u{7}\\r\\u{9b}2Jy";

/// Asserts that a command's output holds no control character but line breaks, and returns what it printed.
#[track_caller]
fn harmless(command: &mut Command) -> Run {
    let ended = run(command);
    for text in [&ended.stdout, &ended.stderr] {
        let steers = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(steers), "{text:?}");
    }
    ended
}

#[test]
fn names_of_files_and_folders_are_escaped() {
    let folder = Folder::new();
    // A target that is not there, and one that holds a stranger's file.
    let missing = folder.beside(&format!("{HOSTILE}.mbtiles"));
    harmless(program().arg("inspect").arg(&missing)).fails(2, &[&format!("{SHOWN}.mbtiles: name a file.mbtiles")]);
    let strangers = folder.beside("strangers");
    std::fs::create_dir(&strangers).unwrap();
    std::fs::write(strangers.join(HOSTILE), "").unwrap();
    let seed = &mut seed_command(NOWHERE, &strangers, &[]);
    harmless(seed).fails(2, &[&format!("holds other files, such as {SHOWN}, and no notes of oar-tiles")]);
}

#[test]
fn what_a_target_says_about_itself_is_escaped() {
    let folder = Folder::new();
    let target = folder.beside("tiles");
    std::fs::create_dir(&target).unwrap();
    let json = |value: &serde_json::Value| serde_json::to_vec(value).unwrap();
    // Metadata with a template that is none.
    let metadata = serde_json::json!({ "oar_tiles_template": format!("{HOSTILE}/{{z}}/{{x}}/{{y}}/{{q}}") });
    std::fs::write(target.join("metadata.json"), json(&metadata)).unwrap();
    harmless(program().arg("inspect").arg(&target)).fails(1, &[SHOWN]);
    // The name of a tileset and of a layer, as text and as JSON.
    let layer =
        serde_json::json!({ "vector_layers": [{ "id": HOSTILE, "fields": { HOSTILE: "String" } }] }).to_string();
    let metadata = serde_json::json!({ "name": HOSTILE, "json": layer });
    std::fs::write(target.join("metadata.json"), json(&metadata)).unwrap();
    let shown = harmless(program().arg("inspect").arg(&target)).ok();
    assert!(shown.stdout.contains(&format!("name: {SHOWN}\n")), "{}", shown.stdout);
    let machine = harmless(program().args(["inspect", "--json"]).arg(&target)).ok();
    let value: serde_json::Value = serde_json::from_str(&machine.stdout).unwrap();
    assert_eq!(value["name"], HOSTILE, "escaped JSON means the same");
    // The names of versions.
    let version = serde_json::json!({ "version": HOSTILE, "published": 1 });
    let latest = serde_json::json!({ "version": HOSTILE, "versions": [version] });
    std::fs::write(target.join("latest.json"), json(&latest)).unwrap();
    let publish = || {
        let mut publish = program();
        publish.args(["publish", "--output"]).arg(target.join("")).env("OAR_TILES_PUBLISH", "versioned");
        publish.env("OAR_TILES_TEMPLATE", "{version}/{z}/{x}/{y}.pbf");
        publish
    };
    let versions = harmless(&mut publish()).ok();
    assert!(versions.stdout.starts_with(&format!("shown  {SHOWN}  published ")), "{}", versions.stdout);
    harmless(publish().args(["--to", "other"])).fails(2, &[&format!("there is no version other (there is {SHOWN})")]);
}

#[test]
fn what_an_archive_says_about_itself_is_escaped() {
    let folder = Folder::new();
    let tile = small_tile();
    let root = packed(&pmtiles_directory(&[(0, 1, tile.len() as u64, 0)]));
    let metadata = serde_json::json!({ "name": HOSTILE, "vector_layers": [{ "id": HOSTILE, "fields": {} }] });
    let archive = folder.beside("a.pmtiles");
    let bytes = pmtiles(&root, b"", &packed(metadata.to_string().as_bytes()), &tile, tile.len() as u64, true);
    std::fs::write(&archive, bytes).unwrap();
    let shown = harmless(program().arg("inspect").arg(&archive)).ok();
    assert!(shown.stdout.contains(&format!("name: {SHOWN}\n")), "{}", shown.stdout);
    harmless(program().arg("verify").arg(&archive));
    // A view whose definition names a table that is none.
    let archive = folder.beside("a.mbtiles");
    let connection = rusqlite::Connection::open(&archive).unwrap();
    connection
        .execute_batch(&format!(
            "CREATE TABLE metadata (name text, value text);
             CREATE VIEW tiles AS SELECT zoom_level, tile_column, tile_row, tile_data FROM \"{HOSTILE}\";"
        ))
        .unwrap();
    drop(connection);
    harmless(program().arg("inspect").arg(&archive))
        .fails(2, &[&format!("its tiles shows {SHOWN}, which is no table")]);
}

#[test]
fn what_the_database_says_is_escaped() {
    let db = Db::new();
    db.run(&format!("CREATE TABLE \"{HOSTILE}\" (id integer PRIMARY KEY, location geometry(Point, 4326))"));
    db.run(&format!("INSERT INTO \"{HOSTILE}\" VALUES (1, 'POINT(1 2)'), (2, 'POINT EMPTY')"));
    let folder = Folder::new();
    let quoted = serde_json::to_string(HOSTILE).unwrap();
    let config =
        folder.config(&format!("[[layer]]\nname = \"a\"\ntable = {quoted}\nkey = [\"id\"]\ngeometry = \"location\"\n"));
    // The table's name in the log of -v, in warnings and in errors.
    let target = folder.beside("t.mbtiles");
    let seeded = harmless(&mut seed_command(&db.url, &target, &["--config", &config, "--zoom", "0-1", "-vv"])).ok();
    assert!(seeded.stderr.contains(SHOWN), "{}", seeded.stderr);
    db.run(&format!("ALTER TABLE \"{HOSTILE}\" DROP COLUMN id"));
    let refused = harmless(&mut seed_command(&db.url, &target, &["--config", &config, "--zoom", "0-1"]));
    assert!(refused.code != 0 && refused.stderr.contains(SHOWN), "{}", refused.stderr);
}
