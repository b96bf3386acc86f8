//! The one that matters: a real cache before `serve` and before a directory, rows that change, clients that read
//! through the cache, runs that are killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::input::doctor::has;
use crate::support::nginx::{Answer, Nginx, ask};
use crate::support::places::{Places, files_below};
use crate::support::process::Start as _;
use crate::support::program::{ROWS_LAYER, program, run, signal, wait};
use crate::support::served::{Served, status};
use crate::support::varnish::{PURGE_TOKEN, Varnish, purge_token_line};
use crate::support::{Db, seed, until};

const ZOOMS: &str = "0-4";

/// What clients say that they take. A cache that keeps a copy for each has to lose them all.
const ENCODINGS: [&str; 3] = ["gzip", "gzip, deflate, br, zstd", "identity"];

/// All addresses of the zooms.
fn addresses() -> Vec<String> {
    (0..=4_u32)
        .flat_map(|z| (0..1_u32 << z).flat_map(move |x| (0..1_u32 << z).map(move |y| format!("/{z}/{x}/{y}.pbf"))))
        .collect()
}

/// True if a tile lies in the south-west, where no facility changes, and is of a zoom at which that is a tile of its
/// own.
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

/// A server with a live parameter below `/facilities`, and a tile that differs by it: the path, and what two values and
/// none give.
struct WithParameters {
    served: Served,
    _folder: tempfile::TempDir,
    _db: Db,
}

const TILE: &str = "/facilities/1/1/0.pbf";
const QUERIES: [&str; 3] = ["", "?country=AA", "?country=BB"];

impl WithParameters {
    fn new() -> WithParameters {
        let (db, folder) = (Db::with_facilities(300), tempfile::tempdir().unwrap());
        db.run("UPDATE api_facility SET country_code = CASE WHEN right(id, 1) < '8' THEN 'AA' ELSE 'BB' END");
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let text = format!(
            "{ROWS_LAYER}\n[serve]\nlive = true\nbase_path = \"facilities\"\ncache_control = \"public, max-age=3600\"
             [[tileset.parameter]]\nname = \"country\"\ntype = \"text\"
             where = {{ facilities = \"country_code = !country!\" }}\n"
        );
        std::fs::write(at("c.toml"), text).unwrap();
        seed(&db.url, Path::new(&at("t.mbtiles")), &["--config", &at("c.toml"), "--zoom", "0-1"]).ok();
        let served = Served::new(&at("t.mbtiles"), &["--config", &at("c.toml"), "--database-url", &db.url, "--live"]);
        WithParameters { served, _folder: folder, _db: db }
    }

    /// What the server itself answers, for each query.
    fn expected(&self) -> Vec<(String, Vec<u8>)> {
        let answer = |query: &&str| {
            let path = format!("{TILE}{query}");
            let body = seen(&self.served.get(&path, "Accept-Encoding: gzip\r\n"));
            (path, body)
        };
        let all: Vec<_> = QUERIES.iter().map(answer).collect();
        assert!(all.iter().all(|(path, body)| all.iter().all(|(other, of)| path == other || body != of)));
        all
    }
}

/// Asks for each query some times, those with parameters first; the paths whose answer was that of another one.
fn mixed_up(cache: u16, expected: &[(String, Vec<u8>)]) -> Vec<&str> {
    let rounds = (0..3).flat_map(|_| expected.iter().rev());
    let wrong = rounds.filter(|(path, body)| seen(&ask(cache, "GET", path, "Accept-Encoding: gzip\r\n")) != *body);
    wrong.map(|(path, _)| path.as_str()).collect()
}

/// The lines of nginx that keep queries out of the cache taken away, and the line that puts them into the key put in.
fn keyed_by_query(text: &str) -> String {
    let kept = |line: &&str| {
        let line = line.trim_start();
        !["proxy_cache_key ", "proxy_no_cache ", "proxy_cache_bypass "].iter().any(|word| line.starts_with(word))
    };
    let text: Vec<&str> = text.lines().filter(kept).collect();
    text.join("\n").replace("# proxy_cache_key ", "proxy_cache_key ")
}

#[test]
fn no_client_gets_a_tile_by_parameters_that_another_one_gave() {
    let origin = WithParameters::new();
    let (expected, port) = (origin.expected(), origin.served.port);
    let caches = [Nginx::caching(port, |text| text), Nginx::purging(port)].map(Cache::Nginx);
    for cache in caches.into_iter().chain([Cache::Varnish(Varnish::before(port))]) {
        assert_eq!(mixed_up(cache.port(), &expected), Vec::<&str>::new());
        // Where the cache says so: the plain tile is kept, the others are not.
        for (path, _) in &expected {
            let said = cache.get(path, "gzip").header("x-cache").map(str::to_lowercase);
            assert!(said.is_none_or(|said| (said == "hit") != path.contains('?')), "{path}");
        }
    }
    // The variants in comments: each query has a copy of its own.
    let with_keys = [
        Cache::Nginx(Nginx::caching(port, |text| keyed_by_query(&text))),
        Cache::Nginx(Nginx::purging_edited(port, |text| keyed_by_query(&text))),
        Cache::Varnish(Varnish::edited(port, |vcl| {
            let lines = "    if (req.url ~ \"\\?\") {\n        return (pass);\n    }\n";
            assert!(vcl.contains(lines));
            vcl.replace(lines, "")
        })),
    ];
    for cache in with_keys {
        assert_eq!(mixed_up(cache.port(), &expected), Vec::<&str>::new());
        let is_kept = |(path, _): &(String, Vec<u8>)| {
            // For 5 s, so the machine must not be too busy in between.
            cache.get(path, "gzip");
            let answer = cache.get(path, "gzip");
            is_hit(&answer) || answer.header("x-cache").is_none()
        };
        until("each query has a copy of its own", || expected.iter().all(is_kept));
    }
}

/// Such a cache is found by the doctor, and not by a tile: the doctor itself would put one into it.
#[test]
fn the_doctor_finds_a_cache_that_gives_one_clients_query_to_others() {
    let origin = WithParameters::new();
    let (expected, port) = (origin.expected(), origin.served.port);
    let without = |text: String| {
        let is_kept = |line: &&str| !line.contains("proxy_no_cache ") && !line.contains("proxy_cache_bypass ");
        text.lines().filter(is_kept).collect::<Vec<_>>().join("\n")
    };
    let (sound, unsound) = (Nginx::caching(port, |text| text), Nginx::caching(port, without));
    let doctor = |port: u16| {
        let url = format!("http://127.0.0.1:{port}/facilities");
        run(program().args(["doctor", "--database-url", "postgresql://127.0.0.1:1/nowhere", "--url", &url]))
    };
    has(&doctor(sound.port), "ok", &["no cache gives one client's query to others"]);
    let found = doctor(unsound.port);
    has(&found, "error", &["the answer to another query", "proxy_no_cache and proxy_cache_bypass"]);
    assert!(!found.stdout.contains("no cache gives"), "{}", found.stdout);
    // It is what happens to tiles, too.
    assert!(!mixed_up(unsound.port, &expected).is_empty());
    has(&doctor(port), "ok", &["no cache gives one client's query to others"]);
}

/// Behind a TLS proxy of the same machine everybody comes from 127.0.0.1.
#[test]
fn nobody_purges_without_the_token_wherever_he_comes_from() {
    let origin = WithParameters::new();
    let port = origin.served.port;
    for cache in [Cache::Varnish(Varnish::before(port)), Cache::Nginx(Nginx::purging(port))] {
        let is_varnish = matches!(cache, Cache::Varnish(_));
        for (method, more) in [("PURGE", ""), ("BAN", ""), ("PURGE", "xkey-purge: facilities\r\n")] {
            if !is_varnish && (method == "BAN" || !more.is_empty()) {
                continue;
            }
            cache.get(TILE, "gzip");
            let short = &PURGE_TOKEN[1..];
            for wrong in [
                "",
                "Authorization: Bearer \r\n",
                "Authorization: Bearer\r\n",
                &format!("Authorization: Bearer {short}\r\n"),
            ] {
                let answer = ask(cache.port(), method, TILE, &format!("{wrong}{more}"));
                assert_eq!(status(&answer), 403, "{method} {wrong}: {}", answer.head);
                assert!(is_hit(&cache.get(TILE, "gzip")), "{method} {wrong}");
            }
            let right = format!("Authorization: Bearer {PURGE_TOKEN}\r\n{more}");
            assert_eq!(status(&ask(cache.port(), method, TILE, &right)), 200, "{method}");
        }
    }
}

/// Whatever is killed: when the outbox is empty, every tile in the cache is that of a fresh seed, and no request for a
/// tile of which `stays_cached` says so was a miss.
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
    let token = purge_token_line(places.folder.path());
    append(&format!(
        "[[purge]]\n{purge}\n{token}url = \"http://localhost/\"\ncaches = [\"http://127.0.0.1:{}\"]\nrebound = \"1s\"\n",
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
