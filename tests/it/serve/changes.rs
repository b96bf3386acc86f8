//! A target that other processes seed, reseed, switch or break while it is served.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::places::Places;
use crate::support::program::{program, run};
use crate::support::served::{Served, status};
use crate::support::{Db, until};

const GZIP: &str = "Accept-Encoding: gzip\r\n";

#[test]
fn what_others_publish_is_answered_from_then_on() {
    for kind in ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/", "s3:t.pmtiles"] {
        let db = Db::with_facilities(200);
        let places = Places::new();
        let flags = ["--zoom", "0-2", "--public-url", "relative"];
        places.seed(&db, kind, &flags).ok();
        let served = Served::at(&places, kind, &[]);
        let tile = || served.get("/0/0/0.pbf", GZIP);
        let first = tile();
        assert_eq!(status(&first), 200, "{kind}");
        assert!(tile().body == first.body, "{kind}: from memory");
        for round in 0..3 {
            let before = tile();
            db.run(&format!("UPDATE api_facility SET name = name || ' {round}'"));
            places.seed(&db, kind, &flags).ok();
            if kind.starts_with("s3:") {
                // Within a second, says the contract; the wait ends as soon as it is so.
                until("the new tile is answered", || tile().body != before.body);
            } else {
                assert!(tile().body != before.body, "{kind} {round}: the next request is answered from the new state");
            }
            let known = format!("If-None-Match: {}\r\n{GZIP}", tile().header("etag").unwrap());
            assert_eq!(status(&served.get("/0/0/0.pbf", &known)), 304, "{kind}");
        }
        // Nothing changed: the tag stays, though the target was written again.
        let known = tile().header("etag").map(str::to_owned);
        places.seed(&db, kind, &flags).ok();
        assert_eq!(tile().header("etag").map(str::to_owned), known, "{kind}");
    }
}

#[test]
fn readers_meet_no_error_while_an_archive_is_edited_and_edits_are_not_held_up() {
    let db = Db::with_facilities(500);
    let places = Places::new();
    places.seed(&db, "t.mbtiles", &["--zoom", "0-4"]).ok();
    let config = places.config.clone();
    let track =
        |what: &[&str]| run(program().arg("track").args(what).args(["--database-url", &db.url, "--config", &config]));
    track(&["install"]).ok();
    places.seed(&db, "t.mbtiles", &["--zoom", "0-4"]).ok();
    let target = places.place("t.mbtiles");
    let served = Served::new(&target, &[]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = 0;
                    while !done.load(Ordering::Relaxed) {
                        for path in ["/0/0/0.pbf", "/1/1/0.pbf", "/4/11/6.pbf"] {
                            let answer = served.get(path, GZIP);
                            assert!(matches!(status(&answer), 200 | 204), "{path}: {}", answer.head);
                            answers += 1;
                        }
                    }
                    answers
                })
            })
            .collect();
        for round in 0..8 {
            db.run(&format!("UPDATE api_facility SET name = name || ' {round}' WHERE id IN (SELECT id FROM api_facility ORDER BY id LIMIT 20)"));
            let reseeded = run(program().args([
                "reseed",
                "--database-url",
                &db.url,
                "--config",
                &config,
                "--output",
                &target,
                "--progress",
                "none",
            ]));
            reseeded.ok();
        }
        done.store(true, Ordering::Relaxed);
        let answers: u32 = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        assert!(answers > 100, "{answers}");
    });
}

#[test]
fn a_target_that_went_away_is_said_by_readyz_and_comes_back_without_a_restart() {
    let db = Db::with_facilities(100);
    let places = Places::new();
    places.seed(&db, "t.pmtiles", &["--zoom", "0-2"]).ok();
    let target = places.place("t.pmtiles");
    let served = Served::new(&target, &[]);
    let tile = || served.get("/0/0/0.pbf", GZIP);
    let first = tile();
    let hidden = format!("{target}.hidden");
    std::fs::rename(&target, &hidden).unwrap();
    let away = tile();
    assert_eq!(
        (status(&away), away.header("retry-after"), away.header("cache-control")),
        (503, Some("1"), Some("no-store"))
    );
    assert!(!String::from_utf8(away.body).unwrap().contains("pmtiles"));
    let (code, reasons) = served.admin("/readyz");
    assert!(code == 503 && reasons.contains("there is no "), "{reasons}");
    std::fs::write(&target, b"not an archive").unwrap();
    assert_eq!(status(&tile()), 503);
    std::fs::rename(&hidden, &target).unwrap();
    assert!(tile().body == first.body);
    assert_eq!(served.admin("/readyz").0, 200);
}
