//! Tiles age by the change log: stored ones are stale as soon as it knows a change in them, live ones leave memory and
//! Redis, at any zoom, and all others stay.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::gate::{Gate, Place, gated};
use crate::support::nginx::Answer;
use crate::support::one_client_listener::Door;
use crate::support::other_sessions::Connection;
use crate::support::program::{ROWS_LAYER, program, run, seed};
use crate::support::redis::Redis;
use crate::support::served::{GZIP, Served, status};
use crate::support::{Archive, Db, until};

/// A tracked database, and a target of zooms 0 to 2 of its facilities.
struct LoggedServer {
    db: Db,
    folder: tempfile::TempDir,
    config: String,
}

/// Two facilities far from each other and from the edges of tiles: in 2/3/1, 4/12/6, 11/1564/889, and in 2/1/2, 4/6/8,
/// 7/49/66.
const FACILITIES: &str = "TRUNCATE api_facility; \
    INSERT INTO api_facility (id, name, address, country_code, location, created_at, updated_at) \
    SELECT id, 'name', 'address', 'BD', ST_SetSRID(ST_MakePoint(x, y), 4326), now(), now() FROM (VALUES ('BD1', 95, 23), ('BR1', -40, -8)) AS f (id, x, y)";

const EDIT: &str = "UPDATE api_facility SET name = name || '!' WHERE id = 'BD1'";

impl LoggedServer {
    /// With these lines in `[serve]`, and layers of [`ROWS_LAYER`].
    fn new(lines: &str) -> LoggedServer {
        let db = Db::with_facilities(1);
        db.run(FACILITIES);
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("c.toml");
        let text = format!(
            "{ROWS_LAYER}\n[changes]\ndebounce = \"10ms\"\n[serve]\ncache_control = \"max-age=86400\"\n{lines}\n"
        );
        fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap().to_owned();
        let tracked = LoggedServer { db, folder, config };
        tracked.install();
        tracked
    }

    /// Installs the log, and seeds the target.
    fn install(&self) {
        let install = ["track", "install", "--database-url", &self.db.url, "--config", &self.config];
        run(program().args(install)).ok();
        seed(&self.db.url, &self.target(), &["--config", &self.config, "--zoom", "0-2"]).ok();
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("t.mbtiles")
    }

    fn served(&self, arguments: &[&str]) -> Served {
        let common = ["--config", &self.config, "--database-url", &self.db.url, "--trusted-proxy", "127.0.0.1"];
        Served::new(self.target().to_str().unwrap(), &[&common[..], arguments].concat())
    }

    /// A server with live tiles, once it follows the log.
    fn live(&self, arguments: &[&str]) -> Served {
        let served = self.served(&[&["--live"], arguments].concat());
        until("it follows the log", || log_of(&served)["followed"] == true);
        served
    }

    fn reseed(&self) {
        let target = self.target();
        let reseed =
            ["reseed", "--progress", "none", "--database-url", &self.db.url, "--config", &self.config, "--output"];
        run(program().args(reseed).arg(&target)).ok();
    }

    /// What a seed of some zooms stores now.
    fn fresh(&self, zooms: &str) -> crate::support::places::Tiles {
        let place = self.folder.path().join("fresh.mbtiles");
        seed(&self.db.url, &place, &["--config", &self.config, "--zoom", zooms, "--force"]).ok();
        Archive::open(Path::new(&place)).stored()
    }
}

/// What a server knows of the log.
fn log_of(served: &Served) -> Value {
    let status: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
    status["change_log"].clone()
}

fn is_stale(answer: &Answer) -> bool {
    answer.header("cache-status").is_some_and(|status| status.starts_with("oar-tiles; hit; ttl=-"))
}

#[test]
fn a_stored_tile_that_changed_is_stale_at_once_refreshed_for_the_next_and_fresh_after_a_publish() {
    let tracked = LoggedServer::new("workers = 2\nlive_timeout = \"10m\"\n");
    let served = tracked.live(&[]);
    let [here, there] = ["/2/3/1.pbf", "/2/1/2.pbf"];
    let (before, other) = (served.get(here, GZIP), served.get(there, GZIP));
    assert_eq!(
        (before.header("cache-control"), other.header("cache-control")),
        (Some("max-age=86400"), Some("max-age=86400"))
    );
    tracked.db.run(EDIT);
    // The stored bytes, as long as nothing is rendered; then those of a seed.
    let mut stale = None;
    until("the fresh one is there", || {
        let answer = served.get(here, GZIP);
        if is_stale(&answer) {
            assert!(answer.body == before.body && answer.header("etag") == before.header("etag"));
            assert_eq!(answer.header("cache-control"), Some("max-age=5"));
            stale = Some(answer);
            return false;
        }
        answer.body != before.body
    });
    assert!(stale.is_some(), "it was sent at once");
    let fresh = tracked.fresh("0-2");
    let shown = served.get(here, GZIP);
    assert!(shown.body == fresh[&(2, 3, 1)] && shown.header("cache-control") == Some("max-age=86400"));
    // Which tiles are dirty stands in the status: one at each zoom.
    assert_eq!(log_of(&served)["dirty_tiles"], 3, "{}", log_of(&served));
    let untouched = served.get(there, GZIP);
    assert!(untouched.body == other.body && untouched.header("cache-control") == Some("max-age=86400"));
    assert_eq!(untouched.header("cache-status"), Some("oar-tiles; hit"));
    // A tile in which nothing is drawn any more.
    tracked.db.run("DELETE FROM api_facility WHERE id = 'BR1'");
    until("it is gone", || {
        let answer = served.get(there, GZIP);
        assert!(status(&answer) == 204 || is_stale(&answer) || answer.body == other.body);
        status(&answer) == 204
    });
    tracked.reseed();
    until("nothing is dirty", || {
        served.get(here, GZIP);
        log_of(&served)["dirty_tiles"] == 0
    });
    let published = served.get(here, GZIP);
    assert!(published.body == fresh[&(2, 3, 1)] && !is_stale(&published));
    assert_eq!(published.header("cache-control"), Some("max-age=86400"));
}

#[test]
fn a_tile_that_the_writer_is_about_to_render_is_stale_without_live_tiles_too() {
    let tracked = LoggedServer::new("");
    let lines = "[changes]\ndebounce = \"10ms\"\n[serve]\nworkers = 2\ncache_control = \"max-age=86400\"\n";
    let tracked = LoggedServer { config: gated(tracked.folder.path(), Place::Render, lines), ..tracked };
    tracked.install();
    let served = tracked.served(&["--writer"]);
    until("it writes", || served.admin("/status.json").1.contains("\"role\":\"writing\""));
    let [here, there] = ["/2/3/1.pbf", "/2/1/2.pbf"];
    let before = served.get(here, GZIP);
    assert_eq!(before.header("cache-control"), Some("max-age=86400"));
    let gate = Gate::close(&tracked.db);
    tracked.db.run(EDIT);
    gate.wait_for(1);
    let stale = served.get(here, GZIP);
    assert!(is_stale(&stale) && stale.body == before.body, "{}", stale.head);
    assert_eq!(stale.header("cache-control"), Some("max-age=5"));
    assert_eq!(served.get(there, GZIP).header("cache-control"), Some("max-age=86400"));
    gate.open();
    until("it is published", || served.get(here, GZIP).body != before.body);
    // Readers may see the publication before the server knows that it is its own, and so what it has brought.
    until("it may be kept again", || served.get(here, GZIP).header("cache-control") == Some("max-age=86400"));
}

#[test]
fn a_live_tile_leaves_memory_when_a_change_touches_it_and_no_other_does_also_across_a_publish() {
    // Their time is short: where the log is followed, it does not matter.
    let tracked = LoggedServer::new("live_ttl = \"1ms\"");
    let served = tracked.live(&[]);
    let paths = ["/4/12/6.pbf", "/11/1564/889.pbf", "/4/6/8.pbf", "/7/49/66.pbf"];
    let before: Vec<Answer> = paths.iter().map(|path| served.get(path, GZIP)).collect();
    assert!(
        before.iter().all(|answer| status(answer) == 200),
        "{:?}",
        before.iter().map(|answer| &answer.head).collect::<Vec<_>>()
    );
    let from_memory = |path: &str| {
        let answer = served.get(path, GZIP);
        (answer.header("cache-status") == Some("oar-tiles; hit"), answer.body)
    };
    for path in paths {
        assert!(from_memory(path).0, "{path}");
    }
    for round in 0..3 {
        tracked.db.run(EDIT);
        if round == 1 {
            tracked.reseed();
        }
        let fresh = tracked.fresh("4,11");
        for (path, tile) in [(paths[0], (4, 12, 6)), (paths[1], (11, 1564, 889))] {
            until("it is as a seed would have it", || served.get(path, GZIP).body == fresh[&tile]);
        }
        // After a publish, nobody knows for a moment what else has changed up to it.
        until("the log has told what changed up to the publication", || {
            let status: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
            let xmax = |snapshot: &Value| snapshot.as_str().unwrap().split(':').nth(1).unwrap().parse::<u64>().unwrap();
            xmax(&status["change_log"]["snapshot"]) >= xmax(&status["snapshot"])
        });
        for (path, before) in paths.iter().zip(&before).skip(2) {
            let (is_memory, body) = from_memory(path);
            assert!(is_memory && body == before.body, "{round} {path}: it has not changed");
        }
    }
    // Everything at once.
    tracked.db.run("TRUNCATE api_facility");
    for path in paths {
        until("it is empty", || status(&served.get(path, GZIP)) == 204);
    }
}

#[test]
fn a_shared_live_tile_that_a_change_has_touched_is_not_taken_from_redis() {
    let redis = Redis::start("hunter2", &[]);
    let tracked = LoggedServer::new(&format!("redis_url = \"{}\"", redis.url()));
    let [here, there] = ["/4/12/6.pbf", "/4/6/8.pbf"];
    let before = {
        let first = tracked.live(&[]);
        let before = [first.get(here, GZIP), first.get(there, GZIP)];
        until("both are in Redis", || redis.ask(&[b"DBSIZE"]) == b"2");
        before
    };
    // Nobody is there to see it.
    tracked.db.run(EDIT);
    let fresh = tracked.fresh("4");
    // On a busy machine Redis may be asked in vain.
    until("the other one is taken from Redis", || {
        let second = tracked.live(&[]);
        let (changed, same) = (second.get(here, GZIP), second.get(there, GZIP));
        assert!(changed.body == fresh[&(4, 12, 6)] && changed.body != before[0].body, "{}", changed.head);
        assert!(same.body == before[1].body);
        same.header("cache-status") == Some("oar-tiles; hit; detail=redis")
    });
}

#[test]
fn without_a_log_the_status_says_why_and_live_tiles_age_by_their_time() {
    let db = Db::with_facilities(50);
    let folder = tempfile::tempdir().unwrap();
    let (config, target) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    fs::write(&config, format!("{ROWS_LAYER}\n[serve]\nlive_ttl = \"300ms\"\n")).unwrap();
    let (config, target) = (config.to_str().unwrap(), target.to_str().unwrap());
    seed(&db.url, Path::new(target), &["--config", config, "--zoom", "0-1"]).ok();
    let served = Served::new(target, &["--config", config, "--live", "--database-url", &db.url]);
    until("it has looked", || log_of(&served)["failure"].is_string());
    let log = log_of(&served);
    assert!(log["followed"] == false && log["failure"].as_str().unwrap().contains("track install"), "{log}");
    let tile = || served.get("/3/6/3.pbf", GZIP).body;
    let before = tile();
    db.run("UPDATE api_facility SET name = name || '!'");
    until("its time is over", || tile() != before);
}

/// How long browsers and CDNs may keep a tile.
fn kept(answer: &Answer) -> [&str; 2] {
    ["cache-control", "cdn-cache-control"].map(|name| answer.header(name).unwrap_or_default())
}

/// What they may keep it for as long as nobody knows whether it has changed, and otherwise.
const SHORT: [&str; 2] = ["max-age=5", "max-age=5"];
const LONG: [&str; 2] = ["max-age=86400", "max-age=7200"];

#[test]
fn until_the_log_was_read_a_server_is_not_ready_for_a_while_and_nobody_keeps_a_tile_for_long() {
    let tracked = LoggedServer::new("cdn_cache_control = \"max-age=7200\"");
    tracked.db.run(EDIT);
    let holder = Connection::open(&tracked.db.url, "holder");
    holder.run("BEGIN; LOCK oar_tiles.change IN ACCESS EXCLUSIVE MODE");
    let begun = std::time::Instant::now();
    let served = tracked.served(&["--live"]);
    let (ready, reasons) = served.admin("/readyz");
    if begun.elapsed().as_secs() < 5 {
        assert!(ready == 503 && reasons.contains("the change log was not read yet"), "{ready} {reasons}");
    }
    // A tile that changed, one that did not, an empty one, one that is rendered now, and one that the client has.
    let tag = format!("If-None-Match: {}\r\n", served.get("/2/1/2.pbf", "").header("etag").unwrap());
    for (path, headers, code) in [
        ("/2/3/1.pbf", "", 200),
        ("/2/1/2.pbf", "", 200),
        ("/2/0/0.pbf", "", 204),
        ("/4/6/8.pbf", "", 200),
        ("/2/1/2.pbf", &*tag, 304),
    ] {
        let answer = served.get(path, headers);
        assert_eq!((status(&answer), kept(&answer)), (code, SHORT), "{path} {}", answer.head);
    }
    // Stored tiles are served though the log cannot be read, and the server says what is wrong.
    until("it is ready", || served.admin("/readyz").0 == 200);
    let (_, body) = served.admin("/readyz");
    assert!(body.contains("\"notes\":[\"the change log could not be read for "), "{body}");
    assert_eq!(kept(&served.get("/2/1/2.pbf", "")), SHORT);
    holder.run("ROLLBACK");
    until("the log is followed", || kept(&served.get("/2/1/2.pbf", "")) == LONG);
    assert!(!served.admin("/readyz").1.contains("notes"));
    // And it stays so though nothing happens.
    for _ in 0..25 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let answer = served.get("/2/1/2.pbf", "");
        let looked = log_of(&served)["last_look_seconds"].as_f64().unwrap();
        assert!(kept(&answer) == LONG || looked > 1.0, "{} {looked}", answer.head);
    }
}

#[test]
fn a_server_that_was_paused_lets_nobody_keep_a_tile_for_long_that_changed_meanwhile() {
    let tracked = LoggedServer::new("cdn_cache_control = \"max-age=7200\"");
    let served = tracked.live(&[]);
    for round in 0..2 {
        let paths = ["/2/3/1.pbf", "/1/1/0.pbf", "/0/0/0.pbf"];
        let before: Vec<Answer> = paths.iter().map(|path| served.get(path, GZIP)).collect();
        served.signal("-STOP");
        tracked.db.run(EDIT);
        std::thread::sleep(std::time::Duration::from_millis(2_300));
        std::thread::scope(|scope| {
            // They wait in the server's socket, and are the first that it answers.
            let asked: Vec<_> = (0..12)
                .map(|number| {
                    let served = &served;
                    scope.spawn(move || (number % 3, served.get(paths[number % 3], GZIP)))
                })
                .collect();
            std::thread::sleep(std::time::Duration::from_millis(50));
            served.signal("-CONT");
            for asked in asked {
                let (number, answer) = asked.join().unwrap();
                let is_old = answer.body == before[number].body;
                assert!(!is_old || kept(&answer) == SHORT, "{round} {}: {}", paths[number], answer.head);
            }
        });
    }
}

#[test]
fn that_the_log_is_not_followed_any_more_is_said_once_with_the_cause_and_stored_tiles_are_served() {
    let tracked = LoggedServer::new("cdn_cache_control = \"max-age=7200\"");
    let door = Door::for_one(&tracked.db.name);
    door.open();
    let said = tracked.folder.path().join("said");
    let mut command = program();
    command.args(["serve", tracked.target().to_str().unwrap(), "--config", &tracked.config, "--live"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s", "--database-url", &door.url]);
    let served = Served::of(command.stderr(fs::File::create(&said).unwrap()));
    let path = "/2/1/2.pbf";
    until("the log is followed", || kept(&served.get(path, "")) == LONG);
    door.close();
    tracked.db.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    until("nobody keeps a tile for long", || kept(&served.get(path, "")) == SHORT);
    let lines = |text: &str| fs::read_to_string(&said).unwrap().lines().filter(|line| line.contains(text)).count();
    until("it is said", || lines("the change log has not been read for") > 0);
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    let (ready, notes) = served.admin("/readyz");
    assert!(ready == 200 && notes.contains("the change log has not been read for"), "{ready} {notes}");
    assert_eq!((status(&served.get(path, "")), kept(&served.get(path, ""))), (200, SHORT));
    door.open();
    until("the log is followed again", || kept(&served.get(path, "")) == LONG);
    until("that is said, too", || lines("the change log is followed again") > 0);
    let said = fs::read_to_string(&said).unwrap();
    assert_eq!((lines("has not been read for"), lines("is followed again")), (1, 1), "{said}");
    assert!(said.contains("cannot reach the database") || said.contains("lost the database"), "{said}");
}
