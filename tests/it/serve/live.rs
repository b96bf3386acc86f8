//! Tiles that the target does not know, rendered on request: the bytes of a seed, one query a tile, bounds, and a
//! database that goes away.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use serde_json::Value;

use crate::support::archive::unpacked;
use crate::support::cluster::psql;
use crate::support::folder::Folder;
use crate::support::gate::{Gate, Place, gated};
use crate::support::nginx::{Answer, read_answer};
use crate::support::places::Places;
use crate::support::program::{ROWS_LAYER, bare_program, program, run, seed};
use crate::support::served::{Served, status};
use crate::support::{Archive, Cluster, Db, until};

const GZIP: &str = "Accept-Encoding: gzip\r\n";

/// A target of zooms 0 and 1, served with live tiles beyond.
struct Live {
    served: Served,
    _folder: tempfile::TempDir,
}

/// A target of zooms 0 and 1 of a configuration.
fn small(db: &Db, config: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles").to_str().unwrap().to_owned();
    seed(&db.url, Path::new(&target), &["--config", config, "--zoom", "0-1"]).ok();
    (folder, target)
}

fn served(db_url: &str, target: &str, config: &str, more: &[&str]) -> Served {
    let arguments = ["--config", config, "--live", "--database-url", db_url, "--trusted-proxy", "127.0.0.1"];
    Served::new(target, &[&arguments[..], more].concat())
}

impl Live {
    /// With every rendering behind the gate, and more lines below `[serve]`.
    fn gated(db: &Db, lines: &str) -> Live {
        let folder = tempfile::tempdir().unwrap();
        let config = gated(folder.path(), Place::Render, &format!("[serve]\n{lines}\n"));
        let target = folder.path().join("t.mbtiles").to_str().unwrap().to_owned();
        seed(&db.url, Path::new(&target), &["--config", &config, "--zoom", "0-1"]).ok();
        Live { served: served(&db.url, &target, &config, &[]), _folder: folder }
    }

    fn tile(&self, path: &str) -> Answer {
        self.served.get(path, GZIP)
    }

    /// A number of `/status.json` about live tiles.
    fn count(&self, name: &str) -> u64 {
        let status: Value = serde_json::from_str(&self.served.admin("/status.json").1).unwrap();
        status["live"][name].as_u64().unwrap()
    }

    /// A request whose answer is not read.
    fn begin(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.served.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{GZIP}\r\n").unwrap();
        stream
    }
}

/// What the rest of an answer begins with.
fn first_line(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

fn sessions_at_the_gate(db: &Db) -> i64 {
    db.value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'")
}

/// Configurations by what their layers are.
fn kinds_of_layers() -> [(&'static str, String); 5] {
    let query = "[[layer]]\nname = \"asked\"\nkey = [\"id\"]\nsql = \"SELECT id, name, location FROM api_facility WHERE location && !bbox! AND !zoom! >= 2\"\n";
    let cells = "[[layer]]\nname = \"cells\"\ntable = \"api_facility\"\nkey = [\"id\"]\n[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/8\"\nproperties = { count = \"count(*)\", name = \"min(name)\" }\n";
    let clusters = "[[layer]]\nname = \"near\"\ntable = \"api_facility\"\nkey = [\"id\"]\nproperties = [\"name\"]\n[layer.cluster]\nsize = \"1/8\"\nzoom = \"0-3\"\n";
    // World Mercator: no closed formula leads from a tile to its rows.
    let projected = "[[layer]]\nname = \"projected\"\nkey = [\"id\"]\nsql = \"SELECT id, name, ST_Transform(location, 3395) AS location FROM api_facility\"\n";
    [
        ("rows", ROWS_LAYER.to_owned()),
        ("a query", query.to_owned()),
        ("cells and clusters", format!("{cells}{clusters}")),
        ("another reference system", projected.to_owned()),
        ("several layers", format!("{ROWS_LAYER}{query}{cells}")),
    ]
}

#[test]
fn live_tiles_have_the_bytes_of_a_seed_for_every_kind_of_layer() {
    let db = Db::with_facilities(300);
    for ((kind, layers), name) in kinds_of_layers().into_iter().zip(["t.mbtiles", "t.pmtiles"].into_iter().cycle()) {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("c.toml");
        fs::write(&config, layers).unwrap();
        let config = config.to_str().unwrap();
        let whole = folder.path().join("whole.mbtiles");
        seed(&db.url, &whole, &["--config", config, "--zoom", "0-4"]).ok();
        let stored = Archive::open(&whole).stored();
        let target = folder.path().join(name);
        seed(&db.url, &target, &["--config", config, "--zoom", "0-1"]).ok();
        let served = served(&db.url, target.to_str().unwrap(), config, &[]);
        let (mut drawn, mut empty) = (0, 0);
        for (zoom, x, y) in
            (0..=4_u8).flat_map(|z| (0..1_u32 << z).flat_map(move |x| (0..1_u32 << z).map(move |y| (z, x, y))))
        {
            let path = format!("/{zoom}/{x}/{y}.pbf");
            let answer = served.get(&path, GZIP);
            if let Some(stored) = stored.get(&(zoom, x, y)) {
                assert_eq!(status(&answer), 200, "{kind} {path}: {}", answer.head);
                assert!(answer.body == *stored, "{kind} {path}: live bytes differ from the seed's");
                drawn += usize::from(zoom > 1);
            } else {
                assert_eq!(status(&answer), 204, "{kind} {path}: {}", answer.head);
                empty += usize::from(zoom > 1);
            }
        }
        assert!(drawn > 20 && empty > 20, "{kind}: {drawn} {empty}");
        let (x, y) = stored.keys().find(|(zoom, ..)| *zoom == 4).map(|(_, x, y)| (*x, *y)).unwrap();
        let plain = served.get(&format!("/4/{x}/{y}.pbf"), "");
        assert!(plain.body == unpacked(&stored[&(4, x, y)]), "{kind}: for clients without gzip");
        assert_eq!(plain.header("cache-status"), Some("oar-tiles; hit"));
    }
}

#[test]
fn live_tiles_are_drawn_beside_an_archive_in_s3() {
    let (db, places) = (Db::with_facilities(200), Places::new());
    places.seed(&db, "s3:t.pmtiles", &["--zoom", "0-1"]).ok();
    places.seed(&db, "whole.mbtiles", &["--zoom", "0-4"]).ok();
    let stored = Archive::open(Path::new(&places.place("whole.mbtiles"))).stored();
    let served = Served::at(&places, "s3:t.pmtiles", &["--live", "--database-url", &db.url]);
    for ((zoom, x, y), stored) in &stored {
        let answer = served.get(&format!("/{zoom}/{x}/{y}.pbf"), GZIP);
        assert_eq!(status(&answer), 200, "{zoom}/{x}/{y}: {}", answer.head);
        assert!(answer.body == *stored, "{zoom}/{x}/{y}: live bytes differ from the seed's");
    }
    assert!(stored.keys().any(|(zoom, ..)| *zoom == 4));
}

#[test]
fn layers_that_are_kept_apart_are_rendered_apart() {
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    let (_, layers) = &kinds_of_layers()[4];
    fs::write(
        &config,
        format!("{layers}[target]\ntemplate = \"{{layer}}/{{z}}/{{x}}/{{y}}.pbf\"\npublic_url = \"relative\"\n"),
    )
    .unwrap();
    let config = config.to_str().unwrap();
    let (whole, target) = (folder.path().join("whole"), folder.path().join("t"));
    seed(&db.url, &whole, &["--config", config, "--zoom", "0-3"]).ok();
    seed(&db.url, &target, &["--config", config, "--zoom", "0-1"]).ok();
    let served = served(&db.url, target.to_str().unwrap(), config, &[]);
    for layer in ["facilities", "asked", "cells"] {
        for (x, y) in (0..8).flat_map(|x| (0..8).map(move |y| (x, y))) {
            let path = format!("{layer}/3/{x}/{y}.pbf");
            let answer = served.get(&format!("/{path}"), GZIP);
            match fs::read(whole.join(&path)) {
                Ok(stored) => assert!(status(&answer) == 200 && answer.body == stored, "{path} {}", answer.head),
                Err(_) => assert_eq!(status(&answer), 204, "{path}"),
            }
        }
    }
    assert_eq!(status(&served.get("/lakes/3/0/0.pbf", "")), 404);
}

#[test]
fn five_hundred_requests_for_one_cold_tile_make_one_query() {
    let db = Db::with_facilities(300);
    let live = Live::gated(&db, "workers = 4\nlive_timeout = \"10m\"");
    let gate = Gate::close(&db);
    // One thread sends them all: a connection that has asked for nothing within seconds is closed, and a thread of its
    // own may begin late.
    let asked: Vec<TcpStream> = (0..500).map(|_| live.begin("/4/11/6.pbf")).collect();
    until("all requests wait", || live.count("requests") == 500);
    gate.wait_for(1);
    assert_eq!((sessions_at_the_gate(&db), live.count("running"), live.count("queued")), (1, 1, 0));
    gate.open();
    let answers: Vec<Answer> = asked.into_iter().map(read_answer).collect();
    let first = &answers[0];
    assert!(answers.iter().all(|answer| status(answer) == 200 && answer.body == first.body && !answer.body.is_empty()));
    let alone =
        answers.iter().filter(|answer| answer.header("cache-status") == Some("oar-tiles; fwd=uri-miss; stored"));
    assert_eq!(alone.count(), 1);
    // From then on from memory, in both encodings.
    let _closed = Gate::close(&db);
    assert_eq!(live.tile("/4/11/6.pbf").header("cache-status"), Some("oar-tiles; hit"));
    assert_eq!(live.served.get("/4/11/6.pbf?x=1", "").header("cache-status"), Some("oar-tiles; hit"));
}

#[test]
fn beyond_the_queue_requests_are_turned_away_at_once_and_never_cached() {
    let db = Db::with_facilities(300);
    let live = Live::gated(&db, "workers = 1\nlive_queue = 2\nlive_timeout = \"10m\"");
    let gate = Gate::close(&db);
    let waiting = [live.begin("/4/11/6.pbf"), live.begin("/4/12/6.pbf"), live.begin("/4/13/6.pbf")];
    until("one is rendered, two wait", || (live.count("running"), live.count("queued")) == (1, 2));
    let refused = live.tile("/4/10/6.pbf");
    assert_eq!(status(&refused), 503, "{}", refused.head);
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    let seconds: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds));
    // What the target knows needs no worker.
    assert_eq!(status(&live.tile("/0/0/0.pbf")), 200);
    gate.open();
    for stream in waiting {
        let first = first_line(stream);
        assert!(first.starts_with("HTTP/1.1 20"), "{first}");
    }
    assert!(matches!(status(&live.tile("/4/10/6.pbf")), 200 | 204));
}

#[test]
fn who_leaves_frees_the_queue_and_cancels_what_nobody_else_waits_for() {
    let db = Db::with_facilities(300);
    let live = Live::gated(&db, "workers = 1\nlive_timeout = \"10m\"");
    let gate = Gate::close(&db);
    let (first, second) = (live.begin("/4/11/6.pbf"), live.begin("/4/11/6.pbf"));
    gate.wait_for(1);
    let queued = live.begin("/4/12/6.pbf");
    until("the other tile waits", || live.count("requests") == 3);
    drop(queued);
    until("it has left the queue", || live.count("queued") == 0);
    drop(first);
    until("the first client has left", || live.count("requests") == 1);
    assert_eq!(sessions_at_the_gate(&db), 1, "somebody still waits for it");
    drop(second);
    // The gate is closed: only a cancelled statement leaves it.
    until("the query is cancelled", || sessions_at_the_gate(&db) == 0);
    // Its session is given to nobody before it is done: the next tile is rendered, and right.
    let next = live.begin("/4/11/6.pbf");
    gate.wait_for(1);
    assert_eq!(sessions_at_the_gate(&db), 1);
    gate.open();
    assert!(first_line(next).starts_with("HTTP/1.1 200"));
    let (_folder, whole) = {
        let folder = tempfile::tempdir().unwrap();
        let config = gated(folder.path(), Place::Render, "");
        let whole = folder.path().join("w.mbtiles");
        seed(&db.url, &whole, &["--config", &config, "--zoom", "4"]).ok();
        (folder, Archive::open(&whole).stored())
    };
    let stored = &whole[&(4, 11, 6)];
    assert!(live.tile("/4/11/6.pbf").body == *stored);
}

#[test]
fn a_tile_that_takes_too_long_is_given_up_and_cancelled() {
    let db = Db::with_facilities(300);
    let live = Live::gated(&db, "workers = 1\nlive_timeout = \"1s\"");
    let gate = Gate::close(&db);
    let late = live.tile("/4/11/6.pbf");
    assert_eq!(
        (status(&late), late.header("cache-control"), late.header("retry-after")),
        (503, Some("no-store"), Some("1"))
    );
    assert!(!String::from_utf8_lossy(&late.body).contains("SELECT"));
    until("the query is cancelled", || sessions_at_the_gate(&db) == 0);
    gate.open();
    until("it is rendered", || status(&live.tile("/4/11/6.pbf")) == 200);
}

#[test]
fn a_failed_tile_answers_all_who_wait_and_is_not_kept() {
    let db = Db::with_facilities(300);
    db.run("CREATE TABLE broken (id int); INSERT INTO broken VALUES (1)");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    let layer = "[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\nkey = [\"id\"]\nproperties = { id = \"id\", bad = \"1 / (CASE WHEN EXISTS (SELECT FROM broken WHERE id = 2) THEN 0 ELSE 1 END)\" }\n";
    fs::write(&config, layer).unwrap();
    let config = config.to_str().unwrap();
    let (_target_folder, target) = small(&db, config);
    let served = served(&db.url, &target, config, &[]);
    db.run("INSERT INTO broken VALUES (2)");
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..20).map(|_| scope.spawn(|| served.get("/4/11/6.pbf", GZIP))).collect();
        for answer in asked {
            let answer = answer.join().unwrap();
            let text = String::from_utf8(answer.body.clone()).unwrap();
            assert_eq!((status(&answer), answer.header("cache-control")), (503, Some("no-store")), "{text}");
            assert!(!text.contains("division") && !text.contains("broken"), "{text}");
        }
    });
    assert_eq!(status(&served.get("/0/0/0.pbf", GZIP)), 200);
    db.run("DELETE FROM broken WHERE id = 2");
    until("it is rendered", || status(&served.get("/4/11/6.pbf", GZIP)) == 200);
}

#[test]
fn without_its_database_the_target_is_served_and_live_tiles_come_back_by_themselves() {
    let mut cluster = Cluster::new();
    let mut db = Db::with_facilities_on(&cluster.url, 300);
    let folder = Folder::new();
    let config = &*folder.config(ROWS_LAYER);
    let (_target_folder, target) = small(&db, config);
    let served = served(&db.url, &target, config, &[]);
    assert_eq!(status(&served.get("/4/11/6.pbf", GZIP)), 200);
    until("it knows that there is no log", || served.admin("/readyz").0 == 200);
    for round in 0..2 {
        cluster.crash();
        for path in ["/0/0/0.pbf", "/1/1/0.pbf", "/4/11/6.pbf"] {
            assert_eq!(status(&served.get(path, GZIP)), 200, "{path}: known");
        }
        let x = 12 + round;
        let cold = served.get(&format!("/4/{x}/6.pbf"), GZIP);
        assert_eq!((status(&cold), cold.header("cache-control")), (503, Some("no-store")));
        assert_eq!(served.admin("/readyz").0, 200, "the target alone can be served");
        cluster.start();
        until("live tiles are there again", || {
            matches!(status(&served.get(&format!("/4/{x}/6.pbf"), GZIP)), 200 | 204)
        });
    }
    db.reconnect();
}

#[test]
fn a_server_that_starts_while_its_database_is_away_serves_the_target_and_then_live_tiles() {
    let mut cluster = Cluster::new();
    let mut db = Db::with_facilities_on(&cluster.url, 300);
    let folder = Folder::new();
    let config = &*folder.config(ROWS_LAYER);
    let (_target_folder, target) = small(&db, config);
    cluster.crash();
    let start = || {
        let mut command = program();
        command.args(["serve", &target, "--config", config, "--live", "--database-url", &db.url]);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
        command
    };
    let said = Served::saying(start().stderr(std::process::Stdio::piped()), |served| {
        for path in ["/0/0/0.pbf", "/1/1/0.pbf"] {
            let stored = served.get(path, GZIP);
            assert_eq!((status(&stored), stored.header("cache-control")), (200, Some("max-age=5")), "{path}");
        }
        let cold = served.get("/4/11/6.pbf", GZIP);
        assert_eq!((status(&cold), cold.header("cache-control")), (503, Some("no-store")));
        let count = served.get("/count.json", "");
        let text = String::from_utf8(count.body.clone()).unwrap();
        assert!(status(&count) == 503 && text.contains("the rows cannot be counted at the moment"), "{text}");
        until("it says that it has not read the log", || served.admin("/readyz").1.contains("cannot reach"));
        let status_of: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
        assert!(status_of["live_rows"]["why_not"].as_str().unwrap().contains("cannot reach"), "{status_of}");
        cluster.start();
        until("live tiles are rendered", || status(&served.get("/4/11/6.pbf", GZIP)) == 200);
        assert_eq!(served.json("/tiles.json")["maxzoom"], 22);
        assert_eq!(status(&served.get("/count.json", "")), 200);
    });
    let warned =
        format!("{target}: it is served without live tiles until the database answers: cannot reach the database ");
    assert!(said.contains(&warned), "{said}");
    assert!(said.contains(&format!("{target}: the database answers, and live tiles are rendered")), "{said}");
    // Live tiles that do not fit the target are found out later than otherwise.
    cluster.crash();
    let other = folder.beside("other.toml");
    let layer = "[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\nkey = [\"id\"]\nproperties = [\"id\"]\n";
    fs::write(&other, layer).unwrap();
    let served = served(&db.url, &target, other.to_str().unwrap(), &[]);
    assert_eq!(status(&served.get("/0/0/0.pbf", GZIP)), 200);
    cluster.start();
    until("it says that they do not fit", || {
        let (ready, reasons) = served.admin("/readyz");
        ready == 503 && reasons.contains("the target was made with another configuration")
    });
    assert_eq!((status(&served.get("/0/0/0.pbf", GZIP)), status(&served.get("/4/11/6.pbf", GZIP))), (200, 503));
    // Without the name of a database, and without a target, there is nothing to wait for.
    cluster.crash();
    run(program().args(["serve", &target, "--config", config, "--live", "--listen", "127.0.0.1:0"]))
        .fails(1, &["no database is named"]);
    cluster.start();
    db.reconnect();
}

#[test]
fn what_is_wrong_once_the_database_is_back_is_said_and_mended_without_a_restart() {
    let mut cluster = Cluster::new();
    let mut db = Db::with_facilities_on(&cluster.url, 300);
    let folder = Folder::new();
    let tileset = |name: &str| {
        let output = folder.beside(&format!("{name}.mbtiles"));
        format!("[[tileset]]\nname = \"{name}\"\noutput = {output:?}\nzoom = \"0-1\"\nlayers = [\"facilities\"]\n")
    };
    let config = &*folder.config(&format!("{}{}{ROWS_LAYER}", tileset("one"), tileset("two")));
    run(program().args(["seed", "--config", config, "--database-url", &db.url])).ok();
    let rename = |from: &str, to: &str| psql(&db.url, &format!("ALTER TABLE {from} RENAME TO {to}"));
    rename("api_facility", "gone");
    cluster.crash();
    let mut command = program();
    command.args(["serve", "--config", config, "--live", "--database-url", &db.url, "--drain", "0s"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).stderr(std::process::Stdio::piped());
    let said = Served::saying(&mut command, |served| {
        let stored = |name: &str| status(&served.get(&format!("/{name}/0/0/0.pbf"), GZIP));
        let live = |name: &str| status(&served.get(&format!("/{name}/4/11/6.pbf"), GZIP));
        assert_eq!(["one", "two"].map(stored), [200; 2]);
        cluster.start();
        until("it says what is missing", || {
            let (ready, notes) = served.admin("/readyz");
            let missing = notes.matches("no live tiles are rendered yet: layer").count();
            ready == 200 && missing == 2 && notes.contains("api_facility")
        });
        assert_eq!((["one", "two"].map(stored), ["one", "two"].map(live)), ([200; 2], [503; 2]));
        rename("gone", "api_facility");
        until("live tiles are rendered", || ["one", "two"].map(live) == [200; 2]);
    });
    for name in ["one", "two"] {
        let place = folder.beside(&format!("{name}.mbtiles")).display().to_string();
        for what in ["it is served without live tiles", "live tiles cannot be rendered: layer", "the database answers"]
        {
            assert_eq!(said.matches(&format!("{place}: {what}")).count(), 1, "{what}: {said}");
        }
    }
    db.reconnect();
}

#[test]
fn the_layers_zooms_bound_what_is_asked_and_tilejson_says_so() {
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    fs::write(&config, "[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\nkey = [\"id\"]\nproperties = [\"id\"]\nzoom = \"1-6\"\n").unwrap();
    let config = config.to_str().unwrap();
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--config", config, "--zoom", "1-2", "--bbox", "60,0,120,60"]).ok();
    let target = target.to_str().unwrap();
    let still = Served::new(target, &["--config", config]);
    let tilejson = |served: &Served| -> Value { served.json("/tiles.json") };
    assert_eq!((&tilejson(&still)["minzoom"], &tilejson(&still)["maxzoom"]), (&1.into(), &2.into()));
    assert_eq!(status(&still.get("/6/44/26.pbf", GZIP)), 404);
    let served = served(&db.url, target, config, &[]);
    for (path, expected) in [("/7/88/52.pbf", 404), ("/0/0/0.pbf", 404), ("/6/70/1.pbf", 400), ("/6/0/0.pbf", 204)] {
        assert_eq!(status(&served.get(path, GZIP)), expected, "{path}");
    }
    let document = tilejson(&served);
    assert_eq!((&document["minzoom"], &document["maxzoom"]), (&1.into(), &6.into()), "{document}");
    assert_eq!(document["vector_layers"][0]["maxzoom"], 6);
    assert_eq!(document["bounds"][0], -180.0);
}

#[test]
fn a_target_that_is_written_again_shows_new_live_tiles_and_one_of_other_settings_none() {
    let db = Db::with_facilities(300);
    let folder = Folder::new();
    let config = &*folder.config(ROWS_LAYER);
    let (_target_folder, target) = small(&db, config);
    let served = served(&db.url, &target, config, &[]);
    let tile = || served.get("/4/11/6.pbf", GZIP);
    let before = tile();
    assert_eq!(status(&before), 200);
    db.run("UPDATE api_facility SET name = name || '!'");
    assert!(tile().body == before.body, "from memory, until live_ttl or the next publish");
    seed(&db.url, Path::new(&target), &["--config", config, "--zoom", "0-1"]).ok();
    until("the live tile is a new one", || tile().body != before.body);
    assert_eq!(status(&tile()), 200);
    // Other settings: tiles beside the stored ones would not fit.
    let other = folder.beside("other.toml");
    fs::write(
        &other,
        "[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\nkey = [\"id\"]\nproperties = [\"id\"]\n",
    )
    .unwrap();
    let other = other.to_str().unwrap();
    seed(&db.url, Path::new(&target), &["--config", other, "--zoom", "0-1", "--force"]).ok();
    assert_eq!(status(&tile()), 503);
    assert_eq!(status(&served.get("/0/0/0.pbf", GZIP)), 200);
    let (code, reasons) = served.admin("/readyz");
    assert!(code == 503 && reasons.contains("made with another configuration"), "{reasons}");
    let arguments =
        ["serve", &target, "--config", config, "--live", "--database-url", &db.url, "--listen", "127.0.0.1:0"];
    run(program().args(arguments)).fails(2, &["the target was made with another configuration (its fingerprint is "]);
}

#[test]
fn live_tiles_need_a_database() {
    let db = Db::with_facilities(50);
    let folder = Folder::new();
    let config = &*folder.config(ROWS_LAYER);
    let (_target_folder, target) = small(&db, config);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = format!("postgresql://nobody@127.0.0.1:{port}/none");
    let arguments = ["serve", &target, "--config", config, "--live", "--listen", "127.0.0.1:0"];
    let everything = ["serve", "--live", "--no-config", "--listen", "127.0.0.1:0", "--database-url", &nobody];
    run(bare_program().args(everything)).fails(1, &[&format!("127.0.0.1:{port}")]);
    for (value, text) in [("0s", "0s must lie between 100ms and 10m"), ("1h", "1h must lie between")] {
        fs::write(config, format!("{ROWS_LAYER}\n[serve]\nlive_timeout = \"{value}\"\n")).unwrap();
        run(program().args(arguments).args(["--database-url", &db.url])).fails(2, &["serve.live_timeout", text]);
    }
}
