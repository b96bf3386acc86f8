//! `write_back`: the writer stores live tiles in partial regions of the target, and keeps them up to date there.

use std::path::Path;

use serde_json::Value;

use super::writer::Fleet;
use crate::support::places::Tiles;
use crate::support::served::{GZIP, Served, status};
use crate::support::until;

/// A fleet whose writer writes back.
fn fleet() -> Fleet {
    let fleet = Fleet::new();
    let config = std::fs::read_to_string(&fleet.places.config).unwrap();
    std::fs::write(&fleet.places.config, format!("{config}write_back = true\nlive = true\n")).unwrap();
    fleet
}

/// A server that writes.
fn writer(fleet: &Fleet, kind: &str) -> Served {
    let served = fleet.writer(kind, "--writer");
    until("it writes", || served.admin("/status.json").1.contains("\"role\":\"writing\""));
    served
}

/// Tiles of zooms 6 and 8, which the target has not, as a seed of these zooms has them: three of each.
fn wanted(fleet: &Fleet) -> Tiles {
    fleet.places.seed(&fleet.db, "deep.mbtiles", &["--zoom", "6,8"]).ok();
    let all = fleet.places.read_by_others("deep.mbtiles");
    let some = |zoom| all.iter().filter(move |((z, ..), _)| *z == zoom).step_by(7).take(3);
    some(6).chain(some(8)).map(|(tile, bytes)| (*tile, bytes.clone())).collect()
}

fn get(served: &Served, (zoom, x, y): (u8, u32, u32)) -> Vec<u8> {
    let answer = served.get(&format!("/{zoom}/{x}/{y}.pbf"), GZIP);
    assert!(matches!(status(&answer), 200 | 204), "{}", answer.head);
    answer.body
}

/// The tiles that the target stores outside of its scope.
fn beyond(fleet: &Fleet, kind: &str) -> Tiles {
    fleet.places.read_by_others(kind).into_iter().filter(|((zoom, ..), _)| *zoom > 5).collect()
}

fn manifest(fleet: &Fleet, kind: &str) -> Value {
    let told = fleet.places.run("inspect", &[&fleet.places.place(kind), "--json"]).ok();
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    told["manifest"].clone()
}

/// Waits until the target is sound: its tiles are there before its manifest is.
fn is_sound(fleet: &Fleet, kind: &str) {
    let place = fleet.places.place(kind);
    until("the target is sound", || {
        let database = ["--database", "--database-url", &fleet.db.url];
        let beside = fleet.places.run("verify", &[&[&*place], &database[..]].concat());
        beside.code == 0 && fleet.places.run("verify", &[&place]).code == 0
    });
}

/// Live tiles are stored, brought up to date, deleted, and become part of the scope.
fn keeps_live_tiles(kind: &str) {
    let fleet = fleet();
    fleet.seeded(kind);
    let served = writer(&fleet, kind);
    let tiles = wanted(&fleet);
    for (tile, bytes) in &tiles {
        assert!(get(&served, *tile) == *bytes, "{kind} {tile:?}: live");
    }
    until("they are stored", || beyond(&fleet, kind) == tiles);
    let told = manifest(&fleet, kind);
    assert_eq!(told["partial"], serde_json::json!([{ "zooms": "6,8", "bbox": [] }]), "{kind}");
    assert_eq!((&told["version"], &told["zooms"]), (&2.into(), &"0-5".into()), "{kind}");
    let from_target = || -> u64 {
        let metrics = served.admin("/metrics").1;
        let all = metrics.lines().filter(|line| line.starts_with("oar_tiles_http_seconds_count"));
        let of = all.filter(|line| line.contains("source=\"target\""));
        of.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    };
    until("the server knows", || {
        let status: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
        status["writer"]["published"].as_u64() >= Some(2)
    });
    let before = from_target();
    for (tile, bytes) in &tiles {
        assert!(get(&served, *tile) == *bytes, "{kind} {tile:?}: stored");
    }
    assert_eq!(from_target(), before + tiles.len() as u64, "{kind}");
    is_sound(&fleet, kind);

    // A change shows in the tiles that are stored, and no other tile of these zooms is stored for it.
    fleet.db.run("UPDATE api_facility SET name = name || '!'");
    let tiles = wanted(&fleet);
    until("they are brought up to date", || beyond(&fleet, kind) == tiles);
    // A tile in which nothing is drawn any more is deleted.
    let gone = *tiles.keys().next_back().unwrap();
    let (zoom, x, y) = gone;
    fleet.db.run(&format!(
        "DELETE FROM api_facility WHERE location && ST_Transform(ST_Expand(ST_TileEnvelope({zoom}, {x}, {y}), 9000), 4326)"
    ));
    until("it is deleted", || !beyond(&fleet, kind).contains_key(&gone));
    assert!(get(&served, gone).is_empty());
    is_sound(&fleet, kind);
    drop(served);

    // A seed of a zoom makes it part of the scope, and gives up the others.
    fleet.places.seed(&fleet.db, kind, &["--zoom", "0-6", "--public-url", "relative"]).ok();
    let told = manifest(&fleet, kind);
    assert_eq!((&told["partial"], &told["version"]), (&Value::Null, &1.into()), "{kind}");
    assert!(beyond(&fleet, kind).keys().all(|(zoom, ..)| *zoom == 6), "{kind}");
    is_sound(&fleet, kind);
}

#[test]
fn live_tiles_are_kept_in_an_mbtiles_file() {
    keeps_live_tiles("t.mbtiles");
}

#[test]
fn live_tiles_are_kept_in_a_directory() {
    keeps_live_tiles("tiles/");
}

#[test]
fn live_tiles_are_kept_in_a_bucket() {
    keeps_live_tiles("s3:tiles/");
}

#[test]
fn cells_and_tiles_beside_a_box_are_kept_and_brought_up_to_date() {
    let cells = "[[layer]]\nname = \"cells\"\ntable = \"api_facility\"\ngeometry = \"location\"\nkey = [\"id\"]\n[layer.aggregate]\n\
                 cell = \"square\"\nsize = \"1/8\"\ndraw = \"center\"\nproperties = { count = \"count(*)\" }\n\n[s3]";
    let fleet = Fleet::configured(|config| config.replace("[s3]", cells) + "write_back = true\nlive = true\n");
    let kind = "tiles/";
    let east = ["--zoom", "0-5", "--bbox", "0,-85,180,85", "--public-url", "relative"];
    fleet.places.seed(&fleet.db, kind, &east).ok();
    // Far from the box, or deeper than it.
    let is_outside = |(zoom, x, _): (u8, u32, u32)| zoom == 7 || zoom == 5 && x < 13;
    let whole = || {
        fleet.places.seed(&fleet.db, "deep.mbtiles", &["--zoom", "5,7"]).ok();
        fleet.places.read_by_others("deep.mbtiles")
    };
    let stored = || -> Tiles {
        let all = fleet.places.read_by_others(kind).into_iter();
        all.filter(|(tile, _)| is_outside(*tile)).collect()
    };
    let served = writer(&fleet, kind);
    let all = whole();
    let some = |zoom| all.keys().copied().filter(move |tile| tile.0 == zoom && is_outside(*tile)).step_by(4).take(4);
    let asked: Vec<(u8, u32, u32)> = some(5).chain(some(7)).collect();
    assert!(asked.len() >= 5, "{asked:?}");
    let of_asked =
        |all: &Tiles| -> Tiles { asked.iter().filter_map(|tile| Some((*tile, all.get(tile)?.clone()))).collect() };
    for tile in &asked {
        assert!(get(&served, *tile) == all[tile], "{tile:?}: live");
    }
    until("they are stored", || stored() == of_asked(&all));
    // Most cells have another count now, and some tiles are empty.
    fleet.db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM api_facility) AS r WHERE n % 3 > 0)");
    let all = whole();
    until("they are brought up to date", || stored() == of_asked(&all));
    is_sound(&fleet, kind);
}

#[test]
fn no_tile_is_stored_that_is_older_than_the_manifest() {
    let fleet = fleet();
    let kind = "t.mbtiles";
    fleet.seeded(kind);
    let served = writer(&fleet, kind);
    let tiles = wanted(&fleet);
    for round in 0..4 {
        for tile in tiles.keys() {
            get(&served, *tile);
        }
        // Between the rendering for the client and the storing, the rows change and are published.
        fleet.db.run(&format!("UPDATE api_facility SET name = 'round {round}'"));
        until("the change is published", || {
            // The server itself shows it before.
            let stored = &fleet.places.read_by_others(kind)[&(0, 0, 0)];
            String::from_utf8_lossy(&crate::support::archive::unpacked(stored)).contains(&format!("round {round}"))
        });
    }
    let tiles = wanted(&fleet);
    until("they are stored", || beyond(&fleet, kind).len() == tiles.len());
    // At every moment what is stored shows the state of the manifest: nothing is left to be done.
    assert!(beyond(&fleet, kind) == tiles);
    is_sound(&fleet, kind);
}

#[test]
fn a_reseed_without_the_server_keeps_the_stored_tiles_right_and_verify_finds_one_that_is_wrong() {
    for kind in ["t.mbtiles", "tiles/"] {
        let fleet = fleet();
        fleet.seeded(kind);
        let served = writer(&fleet, kind);
        let tiles = wanted(&fleet);
        for tile in tiles.keys() {
            get(&served, *tile);
        }
        until("they are stored", || beyond(&fleet, kind) == tiles);
        assert_eq!(served.ends_after("-TERM"), Some(143));
        fleet.db.run("UPDATE api_facility SET name = 'other'");
        let place = fleet.places.place(kind);
        fleet.places.run("reseed", &["--output", &place, "--database-url", &fleet.db.url, "--progress", "none"]).ok();
        assert!(beyond(&fleet, kind) == wanted(&fleet), "{kind}");
        is_sound(&fleet, kind);
        let (zoom, x, y) = *tiles.keys().next().unwrap();
        if kind == "tiles/" {
            let other = beyond(&fleet, kind).into_iter().next_back().unwrap().1;
            std::fs::write(Path::new(&place).join(format!("{zoom}/{x}/{y}.pbf")), other).unwrap();
        } else {
            // Few tiles differ, so that each is named.
            fleet.db.run(&format!(
                "UPDATE api_facility SET name = 'unseen' WHERE location && ST_Transform(ST_TileEnvelope({zoom}, {x}, {y}), 4326)"
            ));
        }
        let url = fleet.db.url.clone();
        let found = fleet.places.run("verify", &[&place, "--database", "--database-url", &url]);
        assert!(found.code == 1 && found.stdout.contains(&format!("tile {zoom}/{x}/{y}")), "{kind}: {}", found.stdout);
    }
}

#[test]
fn a_pmtiles_archive_cannot_be_written_back_into() {
    let fleet = fleet();
    fleet.seeded("t.pmtiles");
    let place = fleet.places.place("t.pmtiles");
    let flags = [&*place, "--writer", "--database-url", &fleet.db.url, "--listen", "127.0.0.1:0"];
    fleet
        .places
        .run("serve", &flags)
        .fails(2, &["live tiles cannot be written back into", "leave serve.write_back out"]);
}

#[test]
fn clients_cannot_fill_the_target_faster_than_its_limit() {
    let fleet = fleet();
    let config = std::fs::read_to_string(&fleet.places.config).unwrap();
    std::fs::write(&fleet.places.config, format!("{config}write_back_rate = 1\n")).unwrap();
    let kind = "t.mbtiles";
    fleet.seeded(kind);
    let served = writer(&fleet, kind);
    fleet.places.seed(&fleet.db, "deep.mbtiles", &["--zoom", "9"]).ok();
    let begun = std::time::Instant::now();
    let tiles: Vec<_> = fleet.places.read_by_others("deep.mbtiles").into_keys().take(60).collect();
    assert_eq!(tiles.len(), 60);
    for tile in &tiles {
        assert!(!get(&served, *tile).is_empty());
    }
    // A burst of 10 s, and then one tile a second; a batch every 2 s.
    let mut last = 0;
    for least in [10, 12] {
        until("some are stored", || {
            last = beyond(&fleet, kind).len();
            last >= least
        });
        let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
        assert!(last <= 11 + seconds, "{last} tiles in {seconds} s");
    }
    assert!(last < 60, "on a machine that is not far too busy");
    is_sound(&fleet, kind);
}
