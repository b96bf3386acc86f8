//! `diff`: the tiles in which two targets differ, whatever kinds they are of.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::process::Start as _;
use crate::support::program::{Run, program, run};
use crate::support::tracked::differences;
use crate::support::{Archive, Db, seed};

fn diff(a: &Path, b: &Path, arguments: &[&str]) -> Run {
    run(program().arg("diff").arg(a).arg(b).args(arguments))
}

#[test]
fn targets_of_all_kinds_are_compared_tile_by_tile() {
    let db = Db::with_facilities(400);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let plain = path("plain.toml");
    let rows = crate::support::program::over_rows("[target]\ncompression = \"none\"\n");
    std::fs::write(&plain, rows).unwrap();
    let (a, b, directory) = (path("a.mbtiles"), path("b.pmtiles"), path("d"));
    seed(&db.url, &a, &["--zoom", "0-7"]).ok();
    seed(&db.url, &b, &["--zoom", "0-7"]).ok();
    seed(&db.url, &directory, &["--zoom", "0-7", "--config", plain.to_str().unwrap()]).ok();
    let same = diff(&a, &b, &[]).ok();
    assert!(same.stdout.contains("zoom") && !same.stdout.contains("packed otherwise"), "{}", same.stdout);
    // The same tiles, one of them not packed.
    let count = Archive::open(&a).stored().len();
    let packed = diff(&a, &directory, &[]).ok();
    assert!(packed.stdout.ends_with(&format!("equal, but packed otherwise: {count}\n")), "{}", packed.stdout);

    db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 3);
            UPDATE api_facility SET location = ST_Translate(location, 1, 1) WHERE id = (SELECT min(id) FROM api_facility)");
    let later = path("later.mbtiles");
    seed(&db.url, &later, &["--zoom", "1-8"]).ok();
    let (one, other) = (Archive::open(&a).stored(), Archive::open(&later).stored());
    let wrong = differences(&one, &other);
    let message = format!("{} and {} differ in {} tiles", a.display(), later.display(), wrong.len());
    let found = diff(&a, &later, &["--json"]).fails(1, &[&message]);
    let report: Value = serde_json::from_str(&found.stdout).unwrap();
    let sum = |name: &str| -> u64 {
        report["zooms"].as_array().unwrap().iter().map(|zoom| zoom[name].as_u64().unwrap()).sum()
    };
    let count = |holds: &dyn Fn(&(u8, u32, u32)) -> bool| wrong.iter().filter(|tile| holds(tile)).count() as u64;
    assert_eq!(sum("only_a"), count(&|tile| !other.contains_key(tile)));
    assert_eq!(sum("only_b"), count(&|tile| !one.contains_key(tile)));
    assert_eq!(sum("differ"), count(&|tile| one.contains_key(tile) && other.contains_key(tile)));
    assert_eq!(sum("equal") as usize, one.keys().filter(|tile| one.get(tile) == other.get(tile)).count());
    assert!(sum("differ") > 5 && sum("only_a") > 0 && sum("only_b") > 50, "{report}");
    // The same from a directory and a PMTiles archive, as GeoJSON, of a zoom and of an area.
    let copied = path("later");
    run(program().arg("copy").arg(&later).arg(&copied)).ok();
    let map = diff(&b, &copied, &["--geojson"]).fails(1, &[]);
    let map: Value = serde_json::from_str(&map.stdout).unwrap();
    let features = map["features"].as_array().unwrap();
    assert_eq!(features.len(), wrong.len());
    for feature in features {
        let part = |name: &str| feature["properties"][name].as_u64().unwrap() as u32;
        let tile = (part("z") as u8, part("x"), part("y"));
        let expected = match (one.contains_key(&tile), other.contains_key(&tile)) {
            (true, true) => "differs",
            (true, false) => "only_a",
            _ => "only_b",
        };
        assert!(wrong.contains(&tile));
        assert_eq!(feature["properties"]["difference"], expected, "{tile:?}");
    }
    let of_zoom = wrong.iter().filter(|tile| tile.0 == 5).count();
    let message = format!("differ in {of_zoom} tiles");
    let table = diff(&a, &later, &["--zoom", "5"]).fails(1, &[&message]);
    assert_eq!(table.stdout.lines().count(), 4, "{}", table.stdout);
    diff(&a, &later, &["--zoom", "8", "--bbox=-180,-85,-179.9,-84"]).ok();
}

#[test]
fn targets_that_cannot_be_compared_are_named() {
    let db = Db::with_facilities(50);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let apart = path("apart.toml");
    let rows = crate::support::program::over_rows("[target]\ntemplate = \"{layer}/{z}/{x}/{y}.pbf\"\n");
    std::fs::write(&apart, rows).unwrap();
    let (whole, layers) = (path("a.mbtiles"), path("apart"));
    seed(&db.url, &whole, &["--zoom", "0-3"]).ok();
    seed(&db.url, &layers, &["--zoom", "0-3", "--config", apart.to_str().unwrap()]).ok();
    let says = "keeps the layers of a tile apart, and the other target does not: they cannot be compared";
    for (a, b) in [(&whole, &layers), (&layers, &whole)] {
        diff(a, b, &[]).fails(2, &[&format!("{}: it {says}", layers.display())]);
    }
    diff(&layers, &layers, &[]).ok();
    diff(&whole, &path("nothing.mbtiles"), &[]).fails(2, &["there is no ", "nothing.mbtiles"]);
}

#[test]
fn who_closes_the_output_early_has_seen_enough() {
    let db = Db::with_facilities(200);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("a.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-1"]).ok();
    let mut command = program();
    command.arg("inspect").arg(&target).args(["0/0/0", "--geojson"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).start();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(0), ""));
}
