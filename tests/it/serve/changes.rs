//! A target that other processes seed, reseed, switch or break while it is served.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::places::Places;
use crate::support::program::{program, run};
use crate::support::proxy::{Fault, Proxy};
use crate::support::served::{GZIP, Served, small_target, status};
use crate::support::{Db, until};

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

/// The number of tiles that the server knows without a lookup, once it does.
fn known_tiles(served: &Served) -> u64 {
    let mut known = None;
    until("the tiles are listed", || {
        let status: serde_json::Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
        known = status["known_tiles"].as_u64();
        known.is_some()
    });
    known.unwrap()
}

/// A server of a prefix that is reached through a proxy.
fn through(proxy: &Proxy, places: &Places) -> Served {
    let mut command = program();
    command.args(["serve", &places.place("s3:tiles/"), "--config", &places.config, "--drain", "0s"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).env("OAR_TILES_S3_ENDPOINT", &proxy.endpoint);
    Served::of(places.with_keys(&mut command))
}

#[test]
fn missing_tiles_are_known_without_a_request_to_the_bucket() {
    let db = Db::with_facilities(200);
    let places = Places::new();
    places.seed(&db, "s3:tiles/", &["--zoom", "0-4", "--public-url", "relative"]).ok();
    let proxy = Proxy::before(&places.prefix.endpoint, |_| Fault::None);
    let served = through(&proxy, &places);
    assert!(known_tiles(&served) > 20);
    proxy.take_seen();
    let (mut empty, mut stored) = (0, 0);
    for (x, y) in (0..16).flat_map(|x| (0..16).map(move |y| (x, y))) {
        match status(&served.get(&format!("/4/{x}/{y}.pbf"), GZIP)) {
            204 => empty += 1,
            200 => stored += 1,
            other => panic!("{other}"),
        }
    }
    let asked = proxy.take_seen().iter().filter(|seen| seen.target.contains(".pbf")).count();
    assert!(empty > 100 && stored > 10 && asked == stored, "{empty} empty, {stored} stored, {asked} requests");
}

#[test]
fn a_bucket_that_may_be_read_and_not_listed_is_refused_with_what_to_do() {
    let db = Db::with_facilities(50);
    let places = Places::new();
    places.seed(&db, "s3:tiles/", &["--zoom", "0-1", "--public-url", "relative"]).ok();
    let proxy = Proxy::before(&places.prefix.endpoint, |seen| {
        let lists = seen.target.contains("list-type=2");
        if lists { Fault::Error(403, "AccessDenied", "Access Denied") } else { Fault::None }
    });
    let mut command = program();
    command.args(["serve", &places.place("s3:tiles/"), "--config", &places.config, "--listen", "127.0.0.1:0"]);
    command.env("OAR_TILES_S3_ENDPOINT", &proxy.endpoint);
    run(places.with_keys(&mut command))
        .fails(1, &["not allowed to list s3://", "a policy has to allow \"s3:ListBucket\""]);
}

#[test]
fn no_tile_that_is_there_is_ever_called_empty_while_others_write() {
    for kind in ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/"] {
        let db = Db::with_facilities(200);
        let places = Places::new();
        let flags = ["--zoom", "0-5", "--public-url", "relative"];
        places.seed(&db, kind, &flags).ok();
        let served = Served::at(&places, kind, &[]);
        let before = known_tiles(&served);
        // In the Southern Ocean, where nothing was.
        let path = "/5/17/26.pbf";
        assert_eq!(status(&served.get(path, GZIP)), 204, "{kind}");
        db.run("INSERT INTO api_facility SELECT (jsonb_populate_record(f, jsonb_build_object('id', f.id || 'x', 'location', ST_SetSRID(ST_MakePoint(15, -75), 4326)))).* FROM api_facility f LIMIT 1");
        places.seed(&db, kind, &flags).ok();
        if kind.starts_with("s3:") {
            until("the tile is there", || status(&served.get(path, GZIP)) == 200);
        } else {
            assert_eq!(status(&served.get(path, GZIP)), 200, "{kind}: it was published");
        }
        until("the new list is there", || known_tiles(&served) > before);
        assert_eq!(status(&served.get(path, GZIP)), 200, "{kind}");
        db.run("DELETE FROM api_facility WHERE id LIKE '%x'");
        places.seed(&db, kind, &flags).ok();
        until("it is gone", || status(&served.get(path, GZIP)) == 204);
    }
}

#[test]
fn a_run_that_writes_tiles_one_by_one_makes_the_list_useless_until_it_is_done() {
    let db = Db::with_facilities(200);
    let places = Places::new();
    let flags = ["--zoom", "0-5", "--public-url", "relative"];
    places.seed(&db, "tiles/", &flags).ok();
    let served = Served::at(&places, "tiles/", &[]);
    known_tiles(&served);
    let path = "/5/17/26.pbf";
    assert_eq!(status(&served.get(path, GZIP)), 204);
    // As a run does that is killed before its manifest: its note, then a tile.
    let folder = places.folder.path().join("tiles");
    let path_of_note = folder.join(".oar-tiles/begun.json");
    let mut note: serde_json::Value = serde_json::from_slice(&std::fs::read(&path_of_note).unwrap()).unwrap();
    note["unfinished"] = serde_json::json!([{ "run": "reseed", "fingerprint": "x", "zooms": "0-5", "began": 1 }]);
    std::fs::write(&path_of_note, note.to_string()).unwrap();
    std::fs::create_dir_all(folder.join("5/17")).unwrap();
    std::fs::copy(folder.join("0/0/0.pbf"), folder.join("5/17/26.pbf")).unwrap();
    assert_eq!(status(&served.get(path, GZIP)), 200, "what is there is never called empty");
    // The run goes on and replaces a tile that was asked for since it began, as often as that may be.
    let whole = std::fs::read(folder.join("0/0/0.pbf")).unwrap();
    for name in ["1/0/0.pbf", "1/1/0.pbf"] {
        let other = std::fs::read(folder.join(name)).unwrap();
        for bytes in [&other, &whole, &other] {
            std::fs::write(folder.join("new"), bytes).unwrap();
            std::fs::rename(folder.join("new"), folder.join("0/0/0.pbf")).unwrap();
            // Long enough for the state of the notes to be settled.
            std::thread::sleep(std::time::Duration::from_millis(60));
            assert!(served.get("/0/0/0.pbf", GZIP).body == *bytes, "{name}: each tile is shown as soon as it is there");
        }
    }
}

#[test]
fn large_tiles_of_a_bucket_are_read_a_few_at_a_time() {
    let db = Db::with_facilities(50);
    let places = Places::new();
    places.seed(&db, "s3:tiles/", &["--zoom", "0-3", "--public-url", "relative"]).ok();
    // Tiles of 1.5 MB, as no run of this program would write them.
    let paths: Vec<String> = (0..8).map(|x| format!("3/{x}/2.pbf")).collect();
    let body = vec![7; 3 << 19];
    for path in &paths {
        places.prefix.put(&format!("tiles/{path}"), &body);
    }
    let begun = Instant::now();
    let (seen, times) = (Mutex::new(BTreeSet::new()), Arc::new(Mutex::new(Vec::new())));
    let of_rule = Arc::clone(&times);
    // The first request for a large tile learns its size; the second one brings it, and takes half a second here.
    let proxy = Proxy::before(&places.prefix.endpoint, move |request| {
        if !request.target.contains("/2.pbf") || seen.lock().unwrap().insert(request.target.clone()) {
            return Fault::None;
        }
        of_rule.lock().unwrap().push(begun.elapsed());
        Fault::Slow(Duration::from_millis(500))
    });
    let served = &through(&proxy, &places);
    std::thread::scope(|scope| {
        let ask = move |path: &String| served.get(&format!("/{path}"), GZIP);
        let asked: Vec<_> = paths.iter().map(|path| scope.spawn(move || ask(path))).collect();
        for answer in asked {
            assert!(answer.join().unwrap().body == body);
        }
    });
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 8);
    for (earlier, later) in times.iter().zip(&times[4..]) {
        assert!(*later > *earlier + Duration::from_millis(400), "no more than four at once: {times:?}");
    }
}

#[test]
fn the_log_and_readyz_say_why_the_system_refuses_to_read_a_target() {
    let (folder, target) = small_target();
    let log = folder.path().join("log");
    let mut command = program();
    command.args(["serve", &target, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
    let served = Served::of(command.stderr(std::fs::File::create(&log).unwrap()));
    std::fs::remove_file(&target).unwrap();
    std::os::unix::fs::symlink(&target, &target).unwrap();
    let answer = served.get("/0/0/0.pbf", GZIP);
    assert_eq!(status(&answer), 503);
    assert!(!String::from_utf8(answer.body).unwrap().contains("os error"), "clients are not told");
    let expected = format!("cannot read {target} (Too many levels of symbolic links (os error 40))");
    let (code, reasons) = served.admin("/readyz");
    assert!(code == 503 && reasons.contains(&expected), "{reasons}");
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains(&format!("the target cannot be read: {expected}")), "{said}");
}
