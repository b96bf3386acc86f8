//! The queue: live requests and background work share the workers by the rule, and the server allows as many sessions
//! as that takes.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use oar_tiles::mvt::{MvtLayer, decode};
use serde_json::{Value, json};

use super::writer::Fleet;
use crate::support::gate::{Gate, Place, gated};
use crate::support::nginx::{ask, read_answer};
use crate::support::program::{ROWS_LAYER, program, run, seed};
use crate::support::served::{Served, status};
use crate::support::{Cluster, Db, until};

/// A target of zooms 0 and 1, and its configuration.
fn target(db: &Db, folder: &Path, lines: &str) -> (String, String) {
    let (config, target) = (folder.join("c.toml"), folder.join("t.mbtiles"));
    fs::write(&config, format!("{ROWS_LAYER}\n[serve]\n{lines}\n")).unwrap();
    let config = config.to_str().unwrap().to_owned();
    seed(&db.url, &target, &["--config", &config, "--zoom", "0-1"]).ok();
    (config, target.to_str().unwrap().to_owned())
}

#[test]
fn workers_are_shared_as_the_settings_say_and_the_status_shows_it() {
    let db = Db::with_facilities(50);
    let folder = tempfile::tempdir().unwrap();
    let (config, target) = target(&db, folder.path(), "workers = 8\nlive_reserved = 3\nbackground_guaranteed = 2");
    let served = Served::new(&target, &["--config", &config, "--live", "--database-url", &db.url]);
    let status: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
    let none = json!({ "live": 0, "refresh": 0, "reseed": 0, "neighbour": 0, "seed": 0 });
    assert_eq!(
        status["queue"],
        json!({ "workers": 8, "live_reserved": 3, "background_guaranteed": 2, "running": none, "waiting": none })
    );
    assert_eq!(served.get("/4/11/6.pbf", "").header("cache-status"), Some("oar-tiles; fwd=uri-miss; stored"));
    let metrics = served.admin("/metrics").1;
    for line in [
        "oar_tiles_queue_wait_seconds_count{class=\"live\"} 1",
        "oar_tiles_queue_waiting{class=\"seed\"} 0",
        "oar_tiles_workers{class=\"live\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
}

#[test]
fn shares_and_sessions_that_do_not_fit_are_refused() {
    let db = Db::with_facilities(50);
    let folder = tempfile::tempdir().unwrap();
    let (config, target) = target(&db, folder.path(), "workers = 8\nlive_reserved = 3\nbackground_guaranteed = 2");
    let fails = |workers: &str, texts: &[&str]| {
        let arguments = ["serve", &target, "--config", &config, "--live", "--database-url", &db.url];
        run(program().args(arguments).args(["--listen", "127.0.0.1:0", "--workers", workers])).fails(2, texts);
    };
    fails("3", &["serve.live_reserved", "live_reserved = 3 must be less than workers = 3"]);
    fails("4", &["serve.background_guaranteed", "background_guaranteed = 2 must be at most 1"]);
    fails("250", &["259 sessions are needed", "lower serve.workers (--workers), or raise what limits them"]);
}

/// A server whose live tiles wait at the gate, over a target of zooms 0 and 1.
fn gated_server(db: &Db, folder: &Path, lines: &str) -> Served {
    let config = gated(folder, Place::Render, &format!("[serve]\nlive_timeout = \"10m\"\n{lines}\n"));
    let target = folder.join("t.mbtiles").to_str().unwrap().to_owned();
    seed(&db.url, Path::new(&target), &["--config", &config, "--zoom", "0-1"]).ok();
    Served::new(&target, &["--config", &config, "--live", "--database-url", &db.url])
}

/// The numbers of tasks of a class that run and that wait.
fn tasks(served: &Served, class: &str) -> [u64; 2] {
    let status: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
    ["running", "waiting"].map(|what| status["queue"][what][class].as_u64().unwrap())
}

#[test]
fn a_client_that_need_not_wait_gets_what_the_tile_above_shows_and_the_next_one_the_tile() {
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    let served = gated_server(&db, folder.path(), "workers = 1\nanswer_within = \"50ms\"");
    let gate = Gate::close(&db);
    let meanwhile = served.get("/4/11/6.pbf", "");
    assert_eq!(status(&meanwhile), 200, "{}", meanwhile.head);
    assert_eq!(meanwhile.header("cache-status"), Some("oar-tiles; fwd=uri-miss; detail=ancestor"));
    assert_eq!((meanwhile.header("cache-control"), meanwhile.header("etag")), (Some("no-store"), None));
    assert_eq!(meanwhile.header("cdn-cache-control"), Some("no-store"));
    let shown = decode(&meanwhile.body).unwrap();
    let ids = |layers: &[MvtLayer<'_>]| -> BTreeSet<String> {
        let of = |layer: &MvtLayer<'_>| -> Vec<String> {
            let all = layer.features.iter().flat_map(|feature| layer.properties(feature));
            all.filter(|(name, _)| *name == "id").map(|(_, value)| format!("{value:?}")).collect()
        };
        layers.iter().flat_map(of).collect()
    };
    let shown = ids(&shown);
    // A second one joins the same flight, which nobody waits for, and which goes on.
    assert_eq!(served.get("/4/11/6.pbf", "If-None-Match: *\r\n").header("etag"), None);
    gate.wait_for(1);
    assert_eq!(tasks(&served, "live"), [1, 0]);
    gate.open();
    until("the tile is there", || served.get("/4/11/6.pbf", "").header("cache-status") == Some("oar-tiles; hit"));
    let tile = served.get("/4/11/6.pbf", "");
    let drawn = decode(&tile.body).unwrap();
    let (drawn, tag) = (ids(&drawn), tile.header("etag"));
    // Facilities are drawn at all zooms, so both show the same ones, but for those at the edge of the buffer: the tile
    // above has a coarser grid.
    let both = drawn.intersection(&shown).count();
    assert!(both > 10 && both * 10 > drawn.union(&shown).count() * 9 && tag.is_some(), "{both} {drawn:?} {shown:?}");
}

#[test]
fn one_client_that_fills_the_queue_leaves_others_their_tiles_and_their_values() {
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    let more = "workers = 1\nlive_queue = 4\nparameter_keys = 8\ntrusted_proxies = [\"127.0.0.1\"]\n\
                [tileset]\nname = \"facilities\"\nzoom = \"0-14\"\n[[tileset.parameter]]\nname = \"id\"\ntype = \"text\"\nwhere = { facilities = \"id <> !id!\" }";
    let served = gated_server(&db, folder.path(), more);
    let gate = Gate::close(&db);
    let asks = |client: &str, path: &str| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", served.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Forwarded-For: {client}\r\n\r\n")
            .unwrap();
        stream
    };
    // One runs and four wait; the others are turned away, and their values do not count.
    let mut greedy = Vec::new();
    for number in 0..5_u64 {
        greedy.push(asks("192.0.2.1", &format!("/4/11/6.pbf?id=x{number}")));
        until("it is in the queue", || tasks(&served, "live") == [1, number]);
    }
    for number in 5..30 {
        let refused = read_answer(asks("192.0.2.1", &format!("/4/11/6.pbf?id=x{number}")));
        assert_eq!(status(&refused), 503, "{}", refused.head);
    }
    let other = asks("192.0.2.2", "/4/11/6.pbf?id=y");
    let displaced = read_answer(greedy.pop().unwrap());
    assert_eq!(status(&displaced), 503, "its last one made room: {}", displaced.head);
    let ends = |stream| {
        let answer = read_answer(stream);
        assert_eq!(status(&answer), 200, "{}", answer.head);
    };
    gate.open();
    ends(other);
    greedy.into_iter().for_each(ends);
}

#[test]
fn neighbours_are_rendered_while_nothing_else_waits_and_their_hits_are_counted() {
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    let served = gated_server(&db, folder.path(), "workers = 2\nneighbours = true");
    assert_eq!(status(&served.get("/4/11/6.pbf", "")), 200);
    let count = |result: &str| -> u64 {
        let metrics = served.admin("/metrics").1;
        let name = format!("oar_tiles_neighbours_total{{result=\"{result}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    };
    until("the neighbours are there", || count("rendered") >= 8);
    let hit = served.get("/4/12/6.pbf", "");
    assert_eq!(hit.header("cache-status"), Some("oar-tiles; hit"));
    assert_eq!(count("hit"), 1);
}

#[test]
fn a_stale_tile_is_better_than_none() {
    let mut cluster = Cluster::new();
    let mut db = Db::with_facilities_on(&cluster.url, 300);
    let folder = tempfile::tempdir().unwrap();
    let (config, target) = target(&db, folder.path(), "live_ttl = \"100ms\"\ncache_control = \"max-age=60\"");
    let served = Served::new(&target, &["--config", &config, "--live", "--database-url", &db.url]);
    let mut fresh = served.get("/4/11/6.pbf", "");
    until("the log is followed", || {
        fresh = served.get("/4/11/6.pbf", "");
        (status(&fresh), fresh.header("cache-control")) == (200, Some("max-age=60"))
    });
    cluster.crash();
    let mut stale = served.get("/4/11/6.pbf", "");
    until("it is stale", || {
        stale = served.get("/4/11/6.pbf", "");
        stale.header("cache-control") == Some("max-age=5")
    });
    assert!(stale.header("cache-status").unwrap().starts_with("oar-tiles; hit; ttl=-"), "{}", stale.head);
    assert!(stale.body == fresh.body && stale.header("etag") == fresh.header("etag"));
    assert_eq!(status(&served.get("/4/12/6.pbf", "")), 503);
    cluster.start();
    db.reconnect();
    db.run("UPDATE api_facility SET name = name || '!'");
    until("it is fresh again", || served.get("/4/11/6.pbf", "").body != fresh.body);
    // For clients that take gzip, too: no form of the old tile is left.
    let packed = served.get("/4/11/6.pbf", "Accept-Encoding: gzip\r\n");
    assert!(crate::support::archive::unpacked(&packed.body) != fresh.body);
}

#[test]
fn the_batches_of_the_servers_writer_wait_in_its_queue() {
    let fleet = Fleet::new();
    fleet.seeded("t.mbtiles");
    let writer = fleet.writer("t.mbtiles", "--writer");
    fleet.db.run("UPDATE api_facility SET name = name || '!' WHERE id = (SELECT min(id) FROM api_facility)");
    until("batches of a reseed had their turn", || {
        let metrics = writer.admin("/metrics").1;
        let line = metrics.lines().find_map(|line| {
            line.strip_prefix("oar_tiles_queue_wait_seconds_count{class=\"reseed\"} ").map(str::to_owned)
        });
        line.is_some_and(|count| count != "0")
    });
    until("they have ended", || tasks(&writer, "reseed") == [0, 0]);
}

#[test]
fn batches_of_a_seed_are_smaller_where_the_layer_is_slow() {
    let batches = |property: &str| -> u64 {
        let db = Db::with_facilities(300);
        let folder = tempfile::tempdir().unwrap();
        let (config, token) = (folder.path().join("c.toml"), folder.path().join("token"));
        let secret = "0123456789abcdef0123456789abcdef";
        fs::write(&token, secret).unwrap();
        let text = format!(
            "[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\nkey = [\"id\"]\nproperties = {{ id = \"id\", slow = \"{property}\" }}\n\
             [run]\nworkers = 2\nrows_mb = 0\n[serve]\nworkers = 4\ntoken_file = {:?}\n",
            token.to_str().unwrap()
        );
        fs::write(&config, text).unwrap();
        let (config, target) = (config.to_str().unwrap(), folder.path().join("t.mbtiles"));
        run(program().args(["track", "install", "--database-url", &db.url, "--config", config])).ok();
        // As a map has it that was seeded elsewhere: what a run measures here begins with the job.
        seed(&db.url, &target, &["--config", config, "--zoom", "0-5"]).ok();
        let served =
            Served::new(target.to_str().unwrap(), &["--config", config, "--writer", "--database-url", &db.url]);
        until("it writes", || served.admin("/status.json").1.contains("\"role\":\"writing\""));
        let body = json!({ "what": "seed" }).to_string();
        let headers = format!(
            "Authorization: Bearer {secret}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(status(&ask(served.admin, "POST", "/jobs", &headers)), 202);
        until("the seed is done", || served.admin("/jobs/1").1.contains("\"state\":\"done\""));
        let metrics = served.admin("/metrics").1;
        let name = "oar_tiles_queue_wait_seconds_count{class=\"seed\"} ";
        metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
    };
    let (quick, slow) = (batches("''"), batches("pg_sleep(0.0025)::text"));
    // 2,200 features; a hundred of the slow ones take a quarter of a second.
    assert!(slow >= 16 && slow >= 2 * quick, "{slow} batches of a slow layer, {quick} of a quick one");
}
