//! Random histories of a fleet: writers change rows, two servers that want to write and one that reads answer clients, from the target,
//! memory, Redis and the database, and all of them are killed now and then. After quiet every server answers every tile as a fresh seed would. Meanwhile no client of one server sees a tile go
//! back in time, and entity tags change exactly if bytes do.
//!
//! `OAR_TILES_TEST_ROUNDS` says how many changes are made to each kind of target (2 if it is not set), `OAR_TILES_TEST_SEED` begins another
//! history; a failing one prints its seed.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};

use super::writer::{Fleet, answers, bodies};
use crate::support::redis::Redis;
use crate::support::served::{Served, status};
use crate::support::until;

const GZIP: &str = "Accept-Encoding: gzip\r\n";

/// Numbers that look random and are the same for the same seed (Knuth's MMIX generator).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().map_or(otherwise, |text| text.parse().unwrap())
}

/// Prints the seed of a history that fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to see this history again: OAR_TILES_TEST_SEED={}", self.0);
        }
    }
}

/// The highest number that a feature of the tile is called by, such as 17 for "round000017".
fn round_of(body: &[u8]) -> Option<u64> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(body).read_to_end(&mut text).ok()?;
    let rounds = text.windows(11).filter(|window| window.starts_with(b"round"));
    rounds.filter_map(|window| std::str::from_utf8(&window[5..]).ok()?.parse().ok()).max()
}

/// What clients have seen: by entity tag the body, by body the tag.
#[derive(Default)]
struct Tags {
    bodies: Mutex<BTreeMap<String, Vec<u8>>>,
    tags: Mutex<BTreeMap<Vec<u8>, String>>,
}

impl Tags {
    fn see(&self, tag: &str, body: &[u8]) {
        let mut bodies = self.bodies.lock().unwrap();
        assert_eq!(bodies.entry(tag.to_owned()).or_insert_with(|| body.to_vec()), body, "{tag} names two bodies");
        let mut tags = self.tags.lock().unwrap();
        assert_eq!(tags.entry(body.to_vec()).or_insert_with(|| tag.to_owned()), tag, "a body has two tags");
    }
}

/// A client of one server at a time: of its process it never sees a tile go back.
fn client(node: &RwLock<Served>, paths: &[String], tags: &Tags, is_over: &AtomicBool) {
    let (mut process, mut last) = (0, BTreeMap::new());
    while !is_over.load(Ordering::Relaxed) {
        for path in paths {
            let served = node.read().unwrap();
            if served.child.id() != process {
                (process, last) = (served.child.id(), BTreeMap::new());
            }
            let answer = served.get(path, GZIP);
            if status(&answer) != 200 {
                continue;
            }
            tags.see(answer.header("etag").unwrap(), &answer.body);
            let (round, before) = (round_of(&answer.body), last.get(path).copied().flatten());
            assert!(round >= before, "{path} went back from {before:?} to {round:?}");
            last.insert(path, round);
        }
    }
}

/// Ends the clients, also if the history fails.
struct EndsClients<'a>(&'a AtomicBool);

impl Drop for EndsClients<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn history(kind: &str, rounds: u64, seed: u64) {
    let _seed = Seed(seed);
    let mut chance = Chance(seed);
    let fleet = Fleet::new();
    let redis = Redis::start("hunter2", &[]);
    fleet.serves_with(&format!("redis_url = \"{}\"\n", redis.url()));
    fleet.seeded(kind);
    // All of them render what the target does not hold, and share it; the last one only reads.
    let start = |number: usize| {
        let writer = if number < 2 { &["--writer=auto"][..] } else { &[] };
        let live = ["--live", "--database-url", &fleet.db.url, "--trusted-proxy", "127.0.0.1"];
        Served::at(&fleet.places, kind, &[&live[..], writer].concat())
    };
    let servers: Vec<RwLock<Served>> = (0..3).map(|number| RwLock::new(start(number))).collect();
    let rename = |round: u64| {
        fleet.db.run(&format!(
            "UPDATE api_facility SET name = 'round{round:06}' WHERE id = (SELECT min(id) FROM api_facility)"
        ));
    };
    rename(0);
    // The tiles in which that facility lies.
    let marked = |tiles: &crate::support::places::Tiles| -> Vec<String> {
        let named = tiles.iter().filter(|(_, body)| round_of(body).is_some());
        named.map(|((zoom, x, y), _)| format!("/{zoom}/{x}/{y}.pbf")).collect()
    };
    let mut paths = marked(&fleet.fresh());
    assert!(paths.len() >= 6, "{paths:?}");
    let beyond = || {
        fleet.places.seed(&fleet.db, "beyond.mbtiles", &["--zoom", "6-8"]).ok();
        fleet.places.read_by_others("beyond.mbtiles")
    };
    paths.extend(marked(&beyond()));
    let (tags, is_over) = (Tags::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let end = EndsClients(&is_over);
        let clients: Vec<_> =
            servers.iter().map(|server| scope.spawn(|| client(server, &paths, &tags, &is_over))).collect();
        for round in 1..=rounds {
            rename(round);
            if chance.below(3) == 0 {
                fleet.db.run(&format!(
                    "DELETE FROM api_facility WHERE id = (SELECT max(id) FROM api_facility) AND {round} > 0"
                ));
            }
            if chance.below(2) == 0 {
                let number = usize::try_from(chance.below(3)).unwrap();
                let mut server = servers[number].write().unwrap();
                server.child.kill().unwrap();
                server.child.wait().unwrap();
                *server = start(number);
            }
            std::thread::sleep(std::time::Duration::from_millis(chance.below(300)));
        }
        let mut wanted = fleet.fresh();
        // All of them would take long.
        wanted.extend(beyond().into_iter().filter(|(_, body)| round_of(body).is_some()));
        for server in &servers {
            let server = server.read().unwrap();
            until("every server answers as a fresh seed would", || {
                let told = answers(&server, &wanted);
                told.iter().map(|(path, (body, _))| (path.clone(), body.clone())).eq(bodies(&wanted))
            });
        }
        drop(end);
        for client in clients {
            client.join().unwrap();
        }
    });
}

#[test]
fn a_fleet_whose_servers_are_killed_converges_and_no_client_sees_a_tile_go_back() {
    let (rounds, seed) = (number("OAR_TILES_TEST_ROUNDS", 2), number("OAR_TILES_TEST_SEED", 17));
    for kind in ["t.mbtiles", "tiles/", "s3:tiles/"] {
        history(kind, rounds, seed);
    }
}
