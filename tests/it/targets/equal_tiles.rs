//! One seed into all kinds of targets: the same tiles, byte for byte, as other people's readers see them; copies and
//! second runs keep them so.

use std::path::Path;

use crate::support::places::Places;
use crate::support::process::Start as _;
use crate::support::program::wait;
use crate::support::{Archive, Db, shared_data};

#[test]
fn one_seed_gives_every_target_the_same_tiles_as_others_read_them() {
    let db = match shared_data("facilities.csv") {
        Some(csv) => Db::with_csv(&csv),
        None => Db::with_facilities(300),
    };
    let places = Places::new();
    places.seed(&db, "t.mbtiles", &["--zoom", "0-7"]).ok();
    let tiles = places.read_by_others("t.mbtiles");
    assert!(tiles.len() > 150, "{}", tiles.len());
    for name in ["t.pmtiles", "tiles/", "s3:tiles/"] {
        places.seed(&db, name, &["--zoom", "0-7"]).ok();
        assert!(places.read_by_others(name) == tiles, "{name} holds other tiles");
    }
    // The archive in S3 is the one that a file would be, but for the time in its manifest.
    places.seed(&db, "s3:t.pmtiles", &["--zoom", "0-7"]).ok();
    let objects = places.prefix.objects();
    std::fs::write(places.place("down.pmtiles"), &objects["t.pmtiles"]).unwrap();
    assert!(places.read_by_others("down.pmtiles") == tiles, "the archive in S3 holds other tiles");

    for name in ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/", "s3:t.pmtiles"] {
        let place = places.place(name);
        places.run("verify", &[&place]).ok();
        places.run("verify", &[&place, "--all", "--database", "--database-url", &db.url]).ok();
        let shown = places.run("inspect", &[&place]).ok().stdout;
        assert!(shown.contains(&tiles.len().to_string()) || shown.contains("all"), "{shown}");
    }
}

#[test]
fn any_target_is_copied_into_any_other_byte_for_byte() {
    let db = Db::with_facilities(300);
    let places = Places::new();
    places.seed(&db, "0.mbtiles", &["--zoom", "0-8"]).ok();
    let tiles = places.read_by_others("0.mbtiles");
    // Each kind is once read and once written.
    let chain = ["0.mbtiles", "s3:1/", "2.pmtiles", "3/", "s3:4.pmtiles", "5/", "s3:6/", "7.mbtiles"];
    for pair in chain.windows(2) {
        places.run("copy", &[&places.place(pair[0]), &places.place(pair[1])]).ok();
        places.run("verify", &[&places.place(pair[1])]).ok();
    }
    assert!(places.read_by_others("7.mbtiles") == tiles);
    assert!(places.read_by_others("2.pmtiles") == tiles);
    assert!(places.read_by_others("s3:6/") == tiles);
    // Each copy is a publication of its own.
    let manifest = |name: &str| {
        let text = Archive::open(Path::new(&places.place(name))).metadata("oar_tiles_manifest").unwrap();
        let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(manifest["publication"].take().is_object(), "{text}");
        manifest
    };
    assert_eq!(manifest("7.mbtiles"), manifest("0.mbtiles"), "the rest of the manifest goes along");

    // Again: nothing is written to what is in line.
    let again = places.run("copy", &[&places.place("7.mbtiles"), &places.place("s3:6/")]).ok();
    assert!(again.stdout.starts_with("0 tiles stored, "), "{}", again.stdout);
}

#[test]
fn a_second_seed_writes_nothing_to_a_target_in_line_and_the_report_counts_requests() {
    let db = Db::with_facilities(300);
    let places = Places::new();
    let report = places.place("r.json");
    let told = |places: &Places| {
        places.seed(&db, "s3:tiles/", &["--zoom", "0-7", "--report", &report]).ok();
        serde_json::from_slice::<serde_json::Value>(&std::fs::read(&report).unwrap()).unwrap()
    };
    let first = told(&places);
    let tiles = first["manifest"]["stored"].as_u64().unwrap();
    assert_eq!((first["written"].as_u64(), first["unchanged"].as_u64()), (Some(tiles), Some(0)), "{first}");
    assert!(first["requests"]["requests"].as_u64().unwrap() >= tiles, "{first}");
    assert!(first["requests"]["most_in_flight"].as_u64().unwrap() <= 64, "{first}");
    let second = told(&places);
    assert_eq!((second["written"].as_u64(), second["unchanged"].as_u64()), (Some(0), Some(tiles)), "{second}");
    db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility ORDER BY id LIMIT 30)");
    let third = told(&places);
    assert!(third["deleted"].as_u64().unwrap() > 0 && third["unchanged"].as_u64().unwrap() > 0, "{third}");
    places.seed(&db, "fresh.mbtiles", &["--zoom", "0-7"]).ok();
    assert!(places.read_by_others("s3:tiles/") == places.read_by_others("fresh.mbtiles"));
}

#[test]
fn kill_9_at_random_moments_then_a_second_run_gives_the_tiles_of_an_undisturbed_one() {
    let db = Db::with_facilities(250);
    let places = Places::new();
    places.seed(&db, "fresh.mbtiles", &["--zoom", "0-7"]).ok();
    let tiles = places.read_by_others("fresh.mbtiles");
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
    eprintln!("moments from {seed}");
    for (number, name) in ["t.pmtiles", "s3:tiles/", "s3:t.pmtiles", "s3:tiles/", "t.pmtiles"].iter().enumerate() {
        let mut child = places.seed_command(&db, name, &["--zoom", "0-7"]).start();
        let moment = 20 + (seed >> (8 * number) & 0xff) * 2;
        std::thread::sleep(std::time::Duration::from_millis(moment));
        child.kill().unwrap();
        wait(child);
        // The lease of a killed run ends by itself.
        crate::support::until("the lease of the killed run ends", || {
            let again = places.seed(&db, name, &["--zoom", "0-7"]);
            assert!(again.code == 0 || again.stderr.contains("another run is writing"), "{}", again.stderr);
            again.code == 0
        });
        if *name == "s3:t.pmtiles" {
            std::fs::write(places.place("down.pmtiles"), &places.prefix.objects()["t.pmtiles"]).unwrap();
            assert!(places.read_by_others("down.pmtiles") == tiles, "{name}");
        } else {
            assert!(places.read_by_others(name) == tiles, "{name}, killed after {moment} ms");
        }
    }
}
