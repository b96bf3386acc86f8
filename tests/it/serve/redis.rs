//! Tiles that servers share in Redis: found there by others, and never a wrong answer or an error because of Redis.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::writer::Fleet;
use crate::support::certificates::certificates;
use crate::support::nginx::ask;
use crate::support::program::{ROWS_LAYER, program, run, seed};
use crate::support::redis::Redis;
use crate::support::served::{Served, status};
use crate::support::{Db, until};

const GZIP: &str = "Accept-Encoding: gzip\r\n";

/// A target of zooms 0 and 1, and servers of it that share a Redis server.
struct Shared {
    folder: tempfile::TempDir,
    db: Db,
}

impl Shared {
    fn new(redis: &Redis, lines: &str) -> Shared {
        let shared = Shared { folder: tempfile::tempdir().unwrap(), db: Db::with_facilities(300) };
        let secret = shared.path("redis");
        fs::write(&secret, redis.url() + "\n").unwrap();
        fs::write(shared.path("signatures"), "0123456789abcdef0123456789abcdef\n").unwrap();
        let text = format!("{ROWS_LAYER}\n[serve]\nredis_url_file = {secret:?}\n{lines}\n");
        let text = text.replace("{secret}", &format!("redis_secret_file = {:?}", shared.path("signatures")));
        fs::write(shared.path("c.toml"), text).unwrap();
        shared.seed();
        shared
    }

    fn seed(&self) {
        let arguments = ["--config", &self.path("c.toml"), "--zoom", "0-1"];
        seed(&self.db.url, Path::new(&self.path("t.mbtiles")), &arguments).ok();
    }

    /// What starts a server.
    fn command(&self) -> std::process::Command {
        let mut command = program();
        command.args(["serve", &self.path("t.mbtiles"), "--config", &self.path("c.toml"), "--live"]);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
        command.args(["--database-url", &self.db.url]);
        command
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn server(&self) -> Served {
        let config = self.path("c.toml");
        Served::new(
            &self.path("t.mbtiles"),
            &["--config", &config, "--live", "--database-url", &self.db.url, "--trusted-proxy", "127.0.0.1"],
        )
    }
}

/// How many looks into Redis had a result.
fn count(served: &Served, result: &str) -> u64 {
    let metrics = served.admin("/metrics").1;
    let name = format!("oar_tiles_redis_total{{result=\"{result}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

/// The key of a tile; there is one publication.
fn key(redis: &Redis, path: &str) -> String {
    let end = path.trim_start_matches('/').trim_end_matches(".pbf");
    redis.keys().into_iter().find(|key| key.ends_with(&format!(":{end}"))).unwrap()
}

#[test]
fn what_one_server_rendered_the_others_have_and_strangers_bytes_are_not_taken() {
    let redis = Redis::start("hunter2", &[]);
    let shared = Shared::new(&redis, "live_ttl = \"10m\"\n{secret}");
    let first = shared.server();
    let (path, other) = ("/4/11/6.pbf", "/4/12/6.pbf");
    let rendered = first.get(path, GZIP);
    assert_eq!(rendered.header("cache-status"), Some("oar-tiles; fwd=uri-miss; stored"));
    let second_tile = first.get(other, GZIP);
    until("both are in Redis", || redis.ask(&[b"DBSIZE"]) == b"2");
    let value = redis.ask(&[b"GET", key(&redis, path).as_bytes()]);
    shared.db.run("UPDATE api_facility SET name = name || '!'");
    // On a busy machine Redis may be asked in vain.
    until("another server has it", || {
        let second = shared.server();
        let found = second.get(path, GZIP);
        if found.header("cache-status") != Some("oar-tiles; hit; detail=redis") {
            redis.ask(&[b"SET", key(&redis, path).as_bytes(), &value]);
            return false;
        }
        assert!(found.body == rendered.body && found.header("etag") == rendered.header("etag"));
        assert_eq!(second.get(path, GZIP).header("cache-status"), Some("oar-tiles; hit"));
        count(&second, "hit") == 1
    });
    // The value of another tile, and bytes of somebody else.
    let wrong = redis.ask(&[b"GET", key(&redis, other).as_bytes()]);
    let key = key(&redis, path);
    let mut broken = 0;
    // One bit of the tile itself; and more than any tile has.
    let mut forged = value.clone();
    *forged.last_mut().unwrap() ^= 1;
    for value in [&wrong[..], &forged, b"", b"oar1", &[0xff; 4_096], &vec![b'x'; 9 << 20]] {
        redis.ask(&[b"SET", key.as_bytes(), value]);
        let third = shared.server();
        let answer = third.get(path, GZIP);
        assert_eq!(answer.header("cache-status"), Some("oar-tiles; fwd=uri-miss; stored"));
        assert!(answer.body != rendered.body && answer.body != second_tile.body, "it is rendered anew");
        broken += count(&third, "broken");
        until("Redis has it again", || redis.ask(&[b"GET", key.as_bytes()]) != value);
    }
    assert!(broken > 0);
    // A value of another type, then nothing at all.
    redis.ask(&[b"DEL", key.as_bytes()]);
    redis.ask(&[b"LPUSH", key.as_bytes(), b"x"]);
    assert_eq!(status(&shared.server().get(path, GZIP)), 200);
    redis.ask(&[b"FLUSHALL"]);
    assert_eq!(shared.server().get(path, GZIP).header("cache-status"), Some("oar-tiles; fwd=uri-miss; stored"));
    // Another publication: its live tiles are other ones.
    seed(&shared.db.url, Path::new(&shared.path("t.mbtiles")), &["--config", &shared.path("c.toml"), "--zoom", "0-1"])
        .ok();
    assert_eq!(shared.server().get(path, GZIP).header("cache-status"), Some("oar-tiles; fwd=uri-miss; stored"));
}

#[test]
fn tiles_are_signed_with_a_secret_or_the_change_logs_key_and_without_both_none_is_shared() {
    let redis = Redis::start("hunter2", &[]);
    let path = "/4/11/6.pbf";
    let asked = |shared: &Shared, others: &str| {
        until("the server finds it", || {
            let found = shared.server().get(path, GZIP);
            found.header("cache-status") == Some("oar-tiles; hit; detail=redis")
        });
        let all = redis.keys();
        assert!(all.iter().all(|key| key.starts_with("oar-tiles:v3:")), "{all:?}");
        assert!(!others.is_empty() || all.len() == 1, "{all:?}");
        all
    };
    // Neither: the server says so, and Redis stays empty.
    let shared = Shared::new(&redis, "live_ttl = \"10m\"");
    let mut server = shared.command();
    let said = Served::saying(server.stderr(std::process::Stdio::piped()), |served| {
        assert_eq!(status(&served.get(path, GZIP)), 200);
        assert_eq!(count(served, "hit") + count(served, "miss"), 0);
    });
    assert!(said.contains("are not shared in Redis: there is no key to sign them"), "{said}");
    assert!(redis.keys().is_empty());
    // The log's key.
    run(program().args(["track", "install", "--database-url", &shared.db.url, "--config", &shared.path("c.toml")]))
        .ok();
    shared.seed();
    let by_log = asked(&shared, "");
    // A secret: another key, and so other names. What was signed with one is not read with another.
    let config = fs::read_to_string(shared.path("c.toml")).unwrap();
    fs::write(shared.path("c.toml"), format!("{config}redis_secret_file = {:?}\n", shared.path("signatures"))).unwrap();
    let both = asked(&shared, "the log's");
    assert_eq!((by_log.len(), both.len()), (1, 2), "{both:?}");
    // Too short, or not there.
    for (secret, text) in [("short", "has 5 bytes, and needs at least 32"), ("", "cannot be read")] {
        match secret {
            "" => fs::remove_file(shared.path("signatures")).unwrap(),
            secret => fs::write(shared.path("signatures"), secret).unwrap(),
        }
        let failed = run(&mut shared.command()).fails(2, &["serve.redis_secret_file", text]);
        assert!(secret.is_empty() || !failed.stderr.contains(secret), "{}", failed.stderr);
    }
}

#[test]
fn a_redis_that_hangs_dies_or_is_full_costs_no_request() {
    let mut redis = Redis::start("hunter2", &["--maxmemory", "2mb", "--maxmemory-policy", "noeviction"]);
    let shared = Shared::new(&redis, "live_ttl = \"1ms\"\n{secret}");
    let served = shared.server();
    let (is_over, expected) = (AtomicBool::new(false), Mutex::new(HashMap::new()));
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..4_u32)
            .map(|number| {
                let (is_over, expected, port) = (&is_over, &expected, served.port);
                scope.spawn(move || {
                    let mut asked = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        let path = format!("/5/{}/{}.pbf", 20 + (asked + number) % 8, 10 + asked % 5);
                        let begun = Instant::now();
                        let answer = ask(port, "GET", &path, GZIP);
                        assert!(matches!(status(&answer), 200 | 204), "{path}: {}", answer.head);
                        assert!(begun.elapsed() < Duration::from_secs(20), "{path}");
                        let mut expected = expected.lock().unwrap();
                        let known = expected.entry(path).or_insert_with(|| answer.body.clone());
                        assert!(*known == answer.body);
                        asked += 1;
                    }
                    asked
                })
            })
            .collect();
        let more = |result: &str| {
            let before = count(&served, result);
            until(result, || count(&served, result) > before);
        };
        more("miss");
        redis.signal("-STOP");
        more("error");
        more("skipped");
        redis.signal("-CONT");
        more("miss");
        redis.kill();
        more("skipped");
        redis.restart();
        more("miss");
        // Nothing more can be written.
        redis.ask(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
        more("miss");
        is_over.store(true, Ordering::Relaxed);
        for asked in asking {
            assert!(asked.join().unwrap() > 0);
        }
    });
    assert_eq!(served.admin("/readyz").0, 200);
}

#[test]
fn redis_is_reached_over_tls_and_believed_only_with_a_trusted_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let authority = certificates(folder.path(), "authority");
    let (redis, url) = Redis::start_with_tls("hunter2", folder.path());
    let shared = Shared::new(&redis, "live_ttl = \"10m\"\n{secret}");
    fs::write(shared.path("redis"), url).unwrap();
    let server = |trusted: &Path| Served::of(shared.command().env("SSL_CERT_FILE", trusted));
    let path = "/4/11/6.pbf";
    let rendered = server(&authority).get(path, GZIP);
    // On a busy machine Redis may be asked in vain.
    until("it is in Redis", || {
        redis.ask(&[b"DBSIZE"]) == b"1" || {
            server(&authority).get(path, GZIP);
            false
        }
    });
    until("another server has it", || {
        let found = server(&authority).get(path, GZIP);
        assert!(found.body == rendered.body);
        found.header("cache-status") == Some("oar-tiles; hit; detail=redis")
    });
    // A server whose certificate nobody vouches for is not asked for tiles, and costs no answer.
    let other = tempfile::tempdir().unwrap();
    let stranger = server(&certificates(other.path(), "other"));
    let alone = stranger.get(path, GZIP);
    assert!(status(&alone) == 200 && alone.body == rendered.body);
    assert_eq!(alone.header("cache-status"), Some("oar-tiles; fwd=uri-miss; stored"));
    assert!(count(&stranger, "error") + count(&stranger, "skipped") > 0 && count(&stranger, "hit") == 0);
}

#[test]
fn readers_learn_of_a_publish_from_redis_and_without_it_by_polling() {
    let mut redis = Redis::start("hunter2", &[]);
    let fleet = Fleet::new();
    fleet.serves_with(&format!("redis_url = \"{}\"\n", redis.url()));
    let kind = "s3:tiles/";
    fleet.seeded(kind);
    let writer = fleet.writer(kind, "--writer");
    let reader = Served::at(&fleet.places, kind, &[]);
    let about = |name: &str| -> serde_json::Value {
        let status: serde_json::Value = serde_json::from_str(&reader.admin("/status.json").1).unwrap();
        status["redis"][name].clone()
    };
    until("it writes", || writer.admin("/status.json").1.contains("\"role\":\"writing\""));
    until("the reader listens", || about("listens") == true);
    let mut round = 0;
    let mut edit = || {
        round += 1;
        let before = reader.get("/0/0/0.pbf", GZIP).body;
        fleet.change(round);
        until("the reader has it", || reader.get("/0/0/0.pbf", GZIP).body != before);
    };
    // Now and then its poll is faster.
    until("some were announced", || {
        edit();
        about("publications_announced").as_u64() >= Some(2)
    });
    redis.kill();
    until("nobody is heard", || about("listens") == false);
    let announced = about("publications_announced");
    edit();
    edit();
    assert_eq!(about("publications_announced"), announced);
    redis.restart();
    until("the reader listens again", || about("listens") == true);
    // What strangers say does no harm.
    for message in [&b"x"[..], b"", b"a b c", &[0xff; 1_000]] {
        redis.ask(&[b"PUBLISH", b"oar-tiles:published", message]);
    }
    until("some were announced", || {
        edit();
        about("publications_announced").as_u64() > announced.as_u64()
    });
}

#[test]
fn addresses_of_redis_are_checked_at_the_start_and_never_shown() {
    let db = Db::with_facilities(50);
    let folder = tempfile::tempdir().unwrap();
    let (config, target) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    fs::write(&config, ROWS_LAYER).unwrap();
    let (config, target) = (config.to_str().unwrap(), target.to_str().unwrap());
    seed(&db.url, Path::new(target), &["--config", config, "--zoom", "0"]).ok();
    let with = |lines: &str| fs::write(config, format!("{ROWS_LAYER}\n[serve]\n{lines}\n")).unwrap();
    let arguments =
        ["serve", target, "--config", config, "--live", "--listen", "127.0.0.1:0", "--database-url", &db.url];
    for (lines, text) in [
        ("redis_url = \"cache:hunter2@6379\"", "the address of Redis must have the form"),
        ("redis_url_file = \"/nowhere/redis\"", "/nowhere/redis cannot be read"),
        ("redis_url = \"redis://h\"\nredis_url_file = \"/dev/null\"", "one of them is enough"),
    ] {
        with(lines);
        let failed = run(program().args(arguments)).fails(2, &["serve.redis_url", text]);
        assert!(!failed.stderr.contains("hunter2"), "{}", failed.stderr);
    }
    with("redis_url = \"redis://u:hunter2@127.0.0.1:1\"");
    let shown = program().args(["config", "--config", config]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("redis_url = \"redis://u:(hidden)@127.0.0.1:1\""), "{shown}");
}
