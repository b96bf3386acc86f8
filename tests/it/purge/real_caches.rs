//! The one that matters: a real cache before `serve` and before a directory, rows that change, clients that read through the cache, runs
//! that are killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::nginx::{Answer, Nginx, ask};
use crate::support::places::{Places, files_below};
use crate::support::process::Start as _;
use crate::support::program::{program, run, signal, wait};
use crate::support::served::{Served, status};
use crate::support::varnish::Varnish;
use crate::support::{Db, seed};

const ZOOMS: &str = "0-4";

/// What clients say that they take. A cache that keeps a copy for each has to lose them all.
const ENCODINGS: [&str; 3] = ["gzip", "gzip, deflate, br, zstd", "identity"];

/// All addresses of the zooms.
fn addresses() -> Vec<String> {
    (0..=4_u32)
        .flat_map(|z| (0..1_u32 << z).flat_map(move |x| (0..1_u32 << z).map(move |y| format!("/{z}/{x}/{y}.pbf"))))
        .collect()
}

/// True if a tile lies in the south-west, where no facility changes, and is of a zoom at which that is a tile of its own.
fn is_untouched(address: &str) -> bool {
    let mut parts = address.trim_start_matches('/').trim_end_matches(".pbf").split('/');
    let mut next = || parts.next().unwrap().parse::<u32>().unwrap();
    let (z, x, y) = (next(), next(), next());
    z >= 2 && x < (1 << z) / 2 - 1 && y > (1 << z) / 2
}

/// What a client sees: nothing for an empty tile.
fn seen(answer: &Answer) -> Vec<u8> {
    assert!(matches!(status(answer), 200 | 204), "{}", answer.head);
    match answer.header("content-encoding") {
        Some("gzip") => crate::support::unpacked(&answer.body),
        _ => answer.body.clone(),
    }
}

/// True if the cache answered by itself.
fn is_hit(answer: &Answer) -> bool {
    answer.header("x-cache").is_some_and(|said| said.eq_ignore_ascii_case("hit"))
}

/// A cache before a server of this machine.
enum Cache {
    Varnish(Varnish),
    Nginx(Nginx),
}

impl Cache {
    fn port(&self) -> u16 {
        match self {
            Cache::Varnish(cache) => cache.port,
            Cache::Nginx(cache) => cache.port,
        }
    }

    fn get(&self, path: &str, encoding: &str) -> Answer {
        ask(self.port(), "GET", path, &format!("Accept-Encoding: {encoding}\r\n"))
    }
}

/// What stands between the cache and the tiles; ends with the value.
struct Origin {
    port: u16,
    _serving: Option<Served>,
    _web: Option<Nginx>,
}

fn serving(places: &Places) -> Origin {
    let served = Served::at(places, "tiles/", &["--cache-control", "public, max-age=3600"]);
    Origin { port: served.port, _serving: Some(served), _web: None }
}

fn web_server(places: &Places) -> Origin {
    let web = Nginx::of_folder(Path::new(places.place("tiles/").trim_end_matches('/')));
    Origin { port: web.port, _serving: None, _web: Some(web) }
}

#[test]
fn varnish_shows_a_fresh_seed_when_the_outbox_is_empty_and_nothing_else_was_a_miss() {
    holds("provider = \"varnish\"", serving, |port| Cache::Varnish(Varnish::before(port)), is_untouched);
}

#[test]
fn varnish_purges_by_tags_what_serve_has_tagged() {
    // Zooms 0 to 4 are one band: everything is hit.
    let purge = "provider = \"varnish\"\nby = \"tag\"";
    holds(purge, serving, |port| Cache::Varnish(Varnish::before(port)), |_| false);
}

#[test]
fn nginx_before_serve_shows_a_fresh_seed_when_the_outbox_is_empty() {
    holds("provider = \"nginx\"", serving, |port| Cache::Nginx(Nginx::purging(port)), is_untouched);
}

#[test]
fn nginx_before_a_directory_shows_a_fresh_seed_when_the_outbox_is_empty() {
    // What is not there is not kept, so it is no hit.
    holds("provider = \"nginx\"", web_server, |port| Cache::Nginx(Nginx::purging(port)), |_| false);
}

/// Whatever is killed: when the outbox is empty, every tile in the cache is that of a fresh seed, and no request for a tile of which
/// `stays_cached` says so was a miss.
fn holds(purge: &str, origin: fn(&Places) -> Origin, cache: fn(u16) -> Cache, stays_cached: fn(&str) -> bool) {
    let (db, places) = (Db::with_facilities(300), Places::new());
    let target = places.place("tiles/");
    let append = |text: &str| {
        let config = std::fs::read_to_string(&places.config).unwrap();
        std::fs::write(&places.config, config + text).unwrap();
    };
    append("[serve]\ntag_headers = [\"Surrogate-Key\"]\n");
    let origin = origin(seeded(&db, &places, &target));
    let cache = cache(origin.port);
    append(&format!(
        "[[purge]]\n{purge}\nurl = \"http://localhost/\"\ncaches = [\"http://127.0.0.1:{}\"]\nrebound = \"1s\"\n",
        cache.port()
    ));
    let reseed = || {
        let mut command = program();
        command.args(["reseed", "--progress", "none", "--config", &places.config, "--database-url", &db.url]);
        command.args(["--output", &target, "--zoom", ZOOMS]);
        command
    };
    // Everything is cached, in every form.
    let forms =
        || addresses().into_iter().flat_map(|address| ENCODINGS.map(move |encoding| (address.clone(), encoding)));
    for (address, encoding) in forms() {
        seen(&cache.get(&address, encoding));
    }
    let is_warm = |(address, encoding): (String, &str)| {
        let answer = cache.get(&address, encoding);
        is_hit(&answer) || status(&answer) == 204 && !stays_cached(&address)
    };
    assert!(forms().all(is_warm), "the cache is warm");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (first, encoding) in [(0, ENCODINGS[0]), (170, ENCODINGS[1])] {
            let (cache, done) = (&cache, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    for address in addresses().iter().skip(first) {
                        let answer = cache.get(address, encoding);
                        seen(&answer);
                        assert!(!stays_cached(address) || is_hit(&answer), "{address} was a miss");
                    }
                }
            });
        }
        for round in 0..9 {
            db.run(&format!(
                "UPDATE api_facility SET name = name || ' {round}', location = ST_SetSRID(ST_MakePoint(ST_X(location) + 1, ST_Y(location)), 4326) WHERE ST_X(location) > 0 AND id IN (SELECT id FROM api_facility WHERE ST_X(location) BETWEEN 1 AND 170 ORDER BY md5(id::text || {round}) LIMIT 3)"
            ));
            let child = reseed()
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .start();
            if round % 3 < 2 {
                std::thread::sleep(Duration::from_millis(40 + 31 * round));
                signal(&child, "KILL");
            }
            wait(child);
        }
        run(&mut reseed()).ok();
        run(program().args(["purge", &target, "--config", &places.config])).ok();
        done.store(true, Ordering::Relaxed);
    });
    let waits = run(program().args(["purge", "status", &target, "--json", "--config", &places.config])).ok().stdout;
    let waits: serde_json::Value = serde_json::from_str(&waits).unwrap();
    assert_eq!((&waits["cdns"][0]["tiles"], &waits["cdns"][0]["stopped"]), (&0.into(), &serde_json::Value::Null));
    let fresh = places.folder.path().join("fresh");
    seed(&db.url, &fresh, &["--zoom", ZOOMS, "--public-url", "relative"]).ok();
    let fresh: BTreeMap<String, Vec<u8>> = files_below(&fresh)
        .into_iter()
        .map(|((z, x, y), bytes)| (format!("/{z}/{x}/{y}.pbf"), crate::support::unpacked(&bytes)))
        .collect();
    for (address, encoding) in forms() {
        let expected = fresh.get(&address).cloned().unwrap_or_default();
        assert!(seen(&cache.get(&address, encoding)) == expected, "{address} ({encoding}) is an old tile in the cache");
    }
}

/// A seeded target with a change log.
fn seeded<'a>(db: &Db, places: &'a Places, target: &str) -> &'a Places {
    let database = ["--database-url", &db.url, "--config", &places.config];
    run(program().args(["track", "install"]).args(database)).ok();
    run(program().args(["seed", "--output", target, "--zoom", ZOOMS, "--public-url", "relative"]).args(database)).ok();
    places
}
