//! Reseeds of tiles and areas that the user names, and of a part.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::archive::Address;
use crate::support::tracked::{SOME, Tracked, differences};
use crate::support::{Archive, Cluster, Db, until};

#[test]
fn tiles_of_a_list_are_rendered_whatever_changed() {
    let tracked = Tracked::facilities(500);
    let target = tracked.seed("t.mbtiles", &["--zoom", "2-8"]);
    let kept = Archive::open(&target).metadata("oar_tiles_manifest").unwrap();
    let before = Archive::open(&target).stored();
    tracked.db.run("ALTER TABLE api_facility DISABLE TRIGGER ALL; UPDATE api_facility SET name = 'secret'");
    let list = tracked.path("expired.txt");
    let one = *before.keys().find(|tile| tile.0 == 6).unwrap();
    std::fs::write(&list, format!("{0}/{1}/{2}\n{0}/{1}/{2}\n", one.0, one.1, one.2)).unwrap();
    let list = list.to_str().unwrap();
    let done = tracked.reseed(&target, &["--tiles", list]).ok();
    assert!(
        done.stdout.contains("1 dirty tile, 1 written") && done.stdout.contains("the target's snapshot stays"),
        "{}",
        done.stdout
    );
    assert_eq!(differences(&before, &Archive::open(&target).stored()), BTreeSet::from([one]));
    tracked.reseed(&target, &["--tiles", list, "--parents", "--children"]).ok();
    let family = |tile: &Address| {
        let (high, low) = if tile.0 < one.0 { (tile, &one) } else { (&one, tile) };
        let up = low.0 - high.0;
        (low.1 >> up, low.2 >> up) == (high.1, high.2)
    };
    let expected: BTreeSet<Address> = before.keys().copied().filter(family).collect();
    assert_eq!(differences(&before, &Archive::open(&target).stored()), expected);
    let snapshot = |manifest: &str| serde_json::from_str::<serde_json::Value>(manifest).unwrap()["snapshot"].clone();
    let now = Archive::open(&target).metadata("oar_tiles_manifest").unwrap();
    assert_eq!(snapshot(&now), snapshot(&kept));
    for (lines, text) in [
        ("2/0/0\n\n# said\n9x/1/1\n", "expired.txt line 4: \"9x/1/1\" is no tile: write z/x/y, such as 12/3345/1782"),
        ("3/9/0\n", "expired.txt line 1: \"3/9/0\" is no tile: write z/x/y, such as 12/3345/1782"),
        (
            "2/0/0\n10/0/0\n",
            "expired.txt line 2: tile 10/0/0 is of a zoom that the target does not hold: take it out of the list, or add --parents or --children",
        ),
    ] {
        std::fs::write(list, lines).unwrap();
        tracked.reseed(&target, &["--tiles", list]).fails(2, &[text]);
    }
    let nowhere = tracked.path("nowhere.txt");
    tracked.reseed(&target, &["--tiles", nowhere.to_str().unwrap()]).fails(
        2,
        &["cannot read the tile list ", "nowhere.txt: name a file, or - for standard input", "cause: No such file"],
    );
}

#[test]
fn an_area_is_rendered_and_cleared_whatever_changed() {
    let tracked = Tracked::facilities(500);
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-9"]);
    tracked.db.run("ALTER TABLE api_facility DISABLE TRIGGER ALL; DELETE FROM api_facility WHERE ST_X(location) > 100; UPDATE api_facility SET name = 'new'");
    let done = tracked.reseed(&target, &["--area", "100,-85,180,85"]).ok();
    assert!(done.stdout.contains(" deleted"), "{}", done.stdout);
    let (found, fresh) = (Archive::open(&target).stored(), tracked.seed("fresh.mbtiles", &["--zoom", "0-9"]));
    let wrong = differences(&found, &Archive::open(&fresh).stored());
    assert!(!wrong.is_empty());
    // At zoom 9, 100° east is the 398th column.
    for tile in wrong {
        assert!((f64::from(tile.1) + 1.0) / f64::from(1 << tile.0) * 360.0 - 180.0 <= 100.01, "{tile:?}");
    }
    tracked.reseed(&target, &["--area=-180,-85,100,85"]).ok();
    tracked.is_fresh(&target, &["--zoom", "0-9"]);
    tracked.reseed(&target, &["--area", "1,2,3"]).fails(2, &["the area \"1,2,3\" cannot be read: there is no such file, and as a box: \"1,2,3\" is no box: write west,south,east,north"]);
}

#[test]
fn a_dry_run_says_how_many_tiles_and_why_and_writes_nothing() {
    let tracked = Tracked::facilities(500);
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-6"]);
    let before = std::fs::read(&target).unwrap();
    tracked.db.run(&format!("UPDATE api_facility SET name = 'x' WHERE {SOME}"));
    let done = tracked.reseed(&target, &["--dry-run"]).ok();
    assert!(done.stdout.starts_with("zoom  dirty\n   0      1\n"), "{}", done.stdout);
    assert!(done.stdout.contains("\"public\".\"api_facility\": 5 rows changed\n"), "{}", done.stdout);
    assert!(done.stdout.ends_with(" dirty tiles\n"), "{}", done.stdout);
    assert!(before == std::fs::read(&target).unwrap());
}

#[test]
fn narrowed_to_some_zooms_the_other_changes_stay_to_be_found() {
    let tracked = Tracked::facilities(500);
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-8"]);
    tracked.db.run(&format!("UPDATE api_facility SET name = 'x' WHERE {SOME}"));
    let before = Archive::open(&target).stored();
    tracked.reseed(&target, &["--zoom", "4-5"]).ok();
    let zooms: BTreeSet<u8> =
        differences(&before, &Archive::open(&target).stored()).iter().map(|tile| tile.0).collect();
    assert_eq!(zooms, BTreeSet::from([4, 5]));
    let done = tracked.reseed(&target, &[]).ok();
    assert!(done.stdout.contains(" unchanged"), "{}", done.stdout);
    tracked.is_fresh(&target, &["--zoom", "0-8"]);
}

#[test]
fn zooms_and_boxes_that_cover_the_targets_own_move_its_snapshot_and_others_do_not() {
    // A server of its own: other tests' transactions would keep entries in the log.
    let cluster = Cluster::new();
    let tracked = Tracked::over(Db::with_facilities_on(&cluster.url, 500));
    let snapshot = |target: &Path| {
        let manifest = Archive::open(target).metadata("oar_tiles_manifest").unwrap();
        serde_json::from_str::<serde_json::Value>(&manifest).unwrap()["snapshot"].clone()
    };
    let asia = ["--zoom", "2-6", "--bbox", "60,0,120,50"];
    for (number, (seeded, given, covers)) in [
        (&["--zoom", "0-6"][..], &["--zoom", "0-6"][..], true),
        (&["--zoom", "0-6"], &["--zoom", "0-14"], true),
        (&["--zoom", "0-6"], &["--bbox", "-180,-85.06,180,85.06"], true),
        (&asia, &asia, true),
        (&asia, &["--bbox", "50,-10,130,60"], true),
        (&["--zoom", "0-6"], &["--zoom", "0-5"], false),
        (&["--zoom", "0-6"], &["--zoom", "0-6", "--bbox", "-180,-85.06,170,85.06"], false),
        (&asia, &["--zoom", "3-6", "--bbox", "50,-10,130,60"], false),
        (&asia, &["--zoom", "0-8", "--bbox", "60,0,110,50"], false),
    ]
    .into_iter()
    .enumerate()
    {
        let target = tracked.seed(&format!("{number}.mbtiles"), seeded);
        let before = snapshot(&target);
        tracked.db.run(&format!("UPDATE api_facility SET name = 'x{number}' WHERE {SOME}"));
        tracked.reseed(&target, given).ok();
        assert_eq!(snapshot(&target) != before, covers, "{seeded:?}: {given:?}");
        let again = tracked.reseed(&target, given).ok();
        assert_eq!(again.stdout.starts_with("nothing to do"), covers, "{seeded:?}: {given:?}: {}", again.stdout);
        if covers {
            tracked.is_fresh(&target, seeded);
        }
        let nothing_left = || {
            let pruned = tracked.oar_tiles(&["track", "prune", target.to_str().unwrap()]).ok().stdout;
            pruned.contains(", 0 left\n")
        };
        if covers {
            // What is committed while transactions of other tests are open stays in the log until a later reseed.
            until("a reseed leaves nothing in the log", || {
                nothing_left() || {
                    tracked.db.run(&format!("UPDATE api_facility SET name = name || 'y' WHERE {SOME}"));
                    tracked.reseed(&target, given).ok();
                    false
                }
            });
        } else {
            assert!(!nothing_left(), "{seeded:?}: {given:?}");
        }
        tracked.reseed(&target, &[]).ok();
        tracked.oar_tiles(&["track", "prune", target.to_str().unwrap()]).ok();
    }
}

#[test]
fn tiles_of_a_table_of_expired_tiles_are_rendered() {
    let tracked = Tracked::facilities(500);
    let target = tracked.seed("t.mbtiles", &["--zoom", "2-8"]);
    let before = Archive::open(&target).stored();
    tracked.db.run("ALTER TABLE api_facility DISABLE TRIGGER ALL; UPDATE api_facility SET name = 'secret'");
    let one = *before.keys().find(|tile| tile.0 == 6).unwrap();
    // As osm2pgsql makes it.
    tracked.db.run(&format!(
        "CREATE SCHEMA osm; CREATE TABLE osm.\"Expired\" (zoom int4 NOT NULL, x int4 NOT NULL, y int4 NOT NULL,
             first timestamptz DEFAULT now(), last timestamptz DEFAULT now(), PRIMARY KEY (zoom, x, y));
         INSERT INTO osm.\"Expired\" VALUES ({}, {}, {})",
        one.0, one.1, one.2
    ));
    let list = ["--tiles", "postgresql:osm.Expired"];
    let done = tracked.reseed(&target, &list).ok();
    assert!(done.stdout.contains("1 dirty tile, 1 written"), "{}", done.stdout);
    assert_eq!(differences(&before, &Archive::open(&target).stored()), BTreeSet::from([one]));
    let rows = tracked.db.value::<i64>("SELECT count(*) FROM osm.\"Expired\"");
    assert_eq!(rows, 1, "the table is read only");
    tracked.reseed(&target, &[&list[..], &["--parents"]].concat()).ok();
    assert!(differences(&before, &Archive::open(&target).stored()).len() > 3);
    for (sql, texts) in [
        ("UPDATE osm.\"Expired\" SET zoom = 3, x = 9", ["postgresql:osm.Expired line 1: \"3/9/", "is no tile"]),
        (
            "ALTER TABLE osm.\"Expired\" RENAME zoom TO z",
            ["reading the tiles that osm.Expired lists (columns zoom, x, y)", "column \"zoom\" does not exist"],
        ),
        (
            "DROP TABLE osm.\"Expired\"",
            ["reading the tiles that osm.Expired lists", "relation \"osm.Expired\" does not exist"],
        ),
    ] {
        tracked.db.run(sql);
        let ended = tracked.reseed(&target, &list);
        assert_ne!(ended.code, 0);
        assert!(texts.iter().all(|text| ended.stderr.contains(text)), "{}", ended.stderr);
    }
}
