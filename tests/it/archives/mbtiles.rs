//! The archive as other people's programs read it, and as MBTiles 1.3 wants it.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::support::database::with_database;
use crate::support::gate::gated;
use crate::support::program::{humble, run, seed_command, start_seed, wait};
use crate::support::refusal::names;
use crate::support::{Archive, Db, Gate, OldTarget, Place, seed};

/// A point in the north-east of the world lies in tile 1/1/0 (XYZ), which MBTiles calls column 1, row 1: the golden
/// tile.
#[test]
fn rows_are_counted_from_the_south() {
    let db = Db::with_facilities(0);
    db.run("INSERT INTO api_facility VALUES ('A', 'Mill', 'Road', 'TR', ST_SetSRID(ST_MakePoint(29, 41), 4326), false, now(), now())");
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    seed(&db.url, &output, &["--zoom", "0-2"]).ok();
    let archive = Archive::open(&output);
    let mut tiles = archive.0.prepare("SELECT zoom_level, tile_column, tile_row FROM tiles ORDER BY 1, 2, 3").unwrap();
    let rows = tiles.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let rows: Vec<(u8, u32, u32)> = rows.unwrap().map(Result::unwrap).collect();
    assert_eq!(rows, [(0, 0, 0), (1, 1, 1), (2, 2, 2)]);
    // Layer "facilities", version 2, extent 4096; one feature, a point at (2378, 1536) of tile 0/0/0.
    let tile = &archive.tiles()[&(0, 0, 0)];
    assert_eq!(&tile[..2], &[0x1a, u8::try_from(tile.len() - 2).unwrap()], "one layer that fills the tile");
    assert_eq!(&tile[2..14], b"\x0a\x0afacilities", "its name");
    // MoveTo of one point (9), then the zigzag varints of 2378 and 1536: 4756 and 3072.
    let point = [0x09, 0x94, 0x25, 0x80, 0x18];
    assert!(tile.windows(5).any(|window| window == point), "{tile:02x?}");
}

#[test]
fn the_file_passes_sqlites_and_gdals_eyes() {
    let db = Db::with_facilities(2_000);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    seed(&db.url, &output, &["--zoom", "3-8"]).ok();
    let archive = Archive::open(&output);
    let one = |sql: &str| archive.0.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(one("PRAGMA integrity_check"), "ok");
    assert_eq!(one("PRAGMA journal_mode"), "delete", "never left in WAL mode");
    assert_eq!(one("SELECT printf('%08x', application_id) FROM pragma_application_id"), "4d504258");
    let header = std::fs::read(&output).unwrap();
    assert_eq!(header[18..20], [1, 1], "the file format's versions: 2 would be WAL");
    let names: BTreeSet<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, BTreeSet::from(["t.mbtiles".to_owned()]), "nothing is left beside it");

    let metadata = |name: &str| archive.metadata(name).unwrap();
    assert_eq!(metadata("format"), "pbf");
    assert_eq!(
        (metadata("minzoom").as_str(), metadata("maxzoom").as_str(), metadata("name").as_str()),
        ("3", "8", "facilities")
    );
    let json: serde_json::Value = serde_json::from_str(&metadata("json")).unwrap();
    let expected = serde_json::json!([{
        "id": "facilities", "description": "", "minzoom": 3, "maxzoom": 8,
        "fields": { "id": "String", "name": "String", "address": "String", "country_code": "String", "is_closed": "Boolean" }
    }]);
    assert_eq!(json["vector_layers"], expected);
    let bounds: Vec<f64> = metadata("bounds").split(',').map(|side| side.parse().unwrap()).collect();
    for (side, sql) in ["ST_XMin", "ST_YMin", "ST_XMax", "ST_YMax"].iter().enumerate() {
        let found: f64 = db.value(&format!("SELECT {sql}(ST_Extent(location)) FROM api_facility"));
        assert!((bounds[side] - found).abs() < 1e-5, "{bounds:?}, {sql} {found}");
    }
    let center: Vec<f64> = metadata("center").split(',').map(|part| part.parse().unwrap()).collect();
    assert!(
        bounds[0] <= center[0]
            && center[0] <= bounds[2]
            && bounds[1] <= center[1]
            && center[1] <= bounds[3]
            && (center[2] - 3.0).abs() < 1e-9
    );
    let manifest: serde_json::Value = serde_json::from_str(&metadata("oar_tiles_manifest")).unwrap();
    let tiles: u32 = archive.0.query_row("SELECT count(*) FROM tiles", [], |row| row.get(0)).unwrap();
    assert_eq!(manifest["stored"], tiles);
    assert_eq!(manifest["planned"].as_u64().unwrap(), u64::from(tiles) + manifest["empty"].as_u64().unwrap());
    assert!(manifest["snapshot"].as_str().unwrap().contains(':'), "{manifest}");

    let gdal = Command::new("ogrinfo")
        .args(["-ro", "-al", "-so"])
        .arg(&output)
        .output()
        .expect("gdal-bin is installed by scripts/test");
    let text = String::from_utf8_lossy(&gdal.stdout).into_owned() + &String::from_utf8_lossy(&gdal.stderr);
    assert!(gdal.status.success(), "{text}");
    assert!(text.contains("using driver `MBTiles' successful"), "{text}");
    assert!(
        text.contains("Layer name: facilities")
            && text.contains("country_code: String")
            && text.contains("is_closed: Integer(Boolean)"),
        "{text}"
    );
    // At its deepest zoom GDAL sees each facility at least once; those in a buffer more often.
    let count: u64 =
        text.lines().find_map(|line| line.strip_prefix("Feature Count: ")).unwrap().trim().parse().unwrap();
    assert!((2_000..2_400).contains(&count), "{count}");
}

#[test]
fn agg_tiles_hash_is_what_the_mbtiles_tool_computes() {
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    seed(&db.url, &output, &["--zoom", "0-9"]).ok();
    // The tool's definition: MD5 over zoom, column, row as text and the bytes, ordered by the three numbers. By another
    // implementation than ours.
    let script = "import sqlite3, hashlib, sys
h = hashlib.md5()
for z, x, y, d in sqlite3.connect(sys.argv[1]).execute('SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles ORDER BY 1, 2, 3'):
    h.update(f'{z}{x}{y}'.encode()); h.update(d)
print(h.hexdigest().upper())";
    let python = Command::new("python3").args(["-c", script]).arg(&output).output().unwrap();
    let expected = String::from_utf8(python.stdout).unwrap();
    assert_eq!(Archive::open(&output).metadata("agg_tiles_hash").unwrap(), expected.trim());
}

#[test]
fn rows_lie_in_the_file_in_the_order_of_the_index() {
    let db = Db::with_facilities(3_000);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    seed(&db.url, &output, &["--workers", "4"]).ok();
    let archive = Archive::open(&output);
    let out_of_order: u32 = archive
        .0
        .query_row(
            "SELECT count(*) FROM (SELECT (zoom_level << 58) | (tile_column << 29) | tile_row AS place,
                lag((zoom_level << 58) | (tile_column << 29) | tile_row) OVER (ORDER BY rowid) AS before FROM tiles) WHERE place <= before",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(out_of_order, 0);
}

#[test]
fn what_sqlite_writes_beside_the_old_file_during_a_run_fails_the_run() {
    let db = Db::with_facilities(10);
    let old = OldTarget::new();
    let config = gated(&old.beside(""), Place::Render, "");
    for end in ["-wal", "-journal"] {
        let gate = Gate::close(&db);
        let child = start_seed(&db.url, &old.path, &["--config", &config]);
        gate.wait_for(1);
        let left = old.path.with_file_name(format!("t.mbtiles{end}"));
        std::fs::write(&left, "changes").unwrap();
        gate.open();
        wait(child).fails(1, &[&left.display().to_string(), "would be applied to the new file"]);
        assert_eq!(std::fs::read(&left).unwrap(), b"changes", "{end}");
        std::fs::remove_file(&left).unwrap();
        old.is_untouched(end);
    }
}

#[test]
fn a_folder_that_cannot_be_synced_fails_the_run_and_the_new_file_is_in_place() {
    let db = Db::with_facilities(10);
    let old = OldTarget::new();
    let folder = old.path.parent().unwrap();
    let mode = |mode| std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
    // Over TCP: the folder of the socket belongs to another.
    let url = with_database(&std::env::var("TEST_DATABASE_URL_TCP").expect("run scripts/test"), &db.name);
    // Files may be made in it and renamed, but it cannot be opened.
    mode(0o333);
    let ended = run(&mut humble(&seed_command(&url, &old.path, &["--zoom", "0-5"])));
    mode(0o755);
    let text = format!(
        "error: the new {} is in place, but its folder {} could not be synced, so a power cut may bring the old one back: run sync before you rely on it\n  cause: Permission denied",
        old.path.display(),
        folder.display()
    );
    ended.fails(1, &[&text]);
    assert!(Archive::open(&old.path).stored().keys().any(|(zoom, ..)| *zoom == 5));
    assert_eq!(names(folder).len(), 1, "nothing is left beside it");
}
