//! Random histories of a fleet: writers change rows, two servers that want to write and one that reads answer clients,
//! from the target, memory, Redis and the database, and all of them are killed now and then. After quiet every server
//! answers every tile as a fresh seed would. Meanwhile no client of one server sees a tile go back in time, and entity
//! tags change exactly if bytes do.
//!
//! `OAR_TILES_TEST_ROUNDS` says how many changes are made to each kind of target (2 if it is not set),
//! `OAR_TILES_TEST_SEED` begins another history; a failing one prints its seed.
//!
//! Under load, without kills: every answer of two servers is noted with its times, while writers count a property up
//! and one server is paused now and then. `OAR_TILES_TEST_SECONDS` says for how long (2 for each kind of target if it
//! is not set).

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use super::writer::{Fleet, answers, bodies};
use crate::support::chance::Chance;
use crate::support::redis::Redis;
use crate::support::served::{Served, status};
use crate::support::until;

const GZIP: &str = "Accept-Encoding: gzip\r\n";

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

/// An answer: what it shows, by whom and when. Times are since the begin of the history.
#[derive(Debug, Clone)]
struct Answered {
    node: usize,
    path: usize,
    begun: Duration,
    ended: Duration,
    round: u64,
    /// True if nobody may keep it for longer than 5 s.
    is_short: bool,
    /// Where it came from.
    cache: String,
}

/// How long servers of one target may differ (`settle`).
const SETTLE: Duration = Duration::from_secs(2);

/// Checks that no answer is older than one that had ended when its request began: of the same server, and of any other
/// after `SETTLE`, unless nobody keeps it. Returns how many answers were older than one of another server.
fn check(answers: &mut [Answered], paths: &[String]) -> usize {
    answers.sort_by_key(|answer| answer.begun);
    let mut by_end: Vec<Answered> = answers.to_vec();
    by_end.sort_by_key(|answer| answer.ended);
    let mut older = 0;
    for (number, path) in paths.iter().enumerate() {
        // What each server had answered, and what all had answered a while ago.
        let (mut newest, mut settled): ([Option<Answered>; 2], Option<Answered>) = ([None, None], None);
        let of_path = |answer: &&Answered| answer.path == number;
        let (mut ended, mut long_ended) =
            (by_end.iter().filter(of_path).peekable(), by_end.iter().filter(of_path).peekable());
        let raise = |slot: &mut Option<Answered>, answer: &Answered| {
            if slot.as_ref().is_none_or(|newest| newest.round < answer.round) {
                *slot = Some(answer.clone());
            }
        };
        for answer in answers.iter().filter(of_path) {
            while let Some(before) = ended.next_if(|before| before.ended < answer.begun) {
                raise(&mut newest[before.node], before);
            }
            while let Some(before) = long_ended.next_if(|before| before.ended + SETTLE < answer.begun) {
                raise(&mut settled, before);
            }
            if let Some(newest) = newest[answer.node].as_ref().filter(|newest| newest.round > answer.round) {
                panic!("{path}: {answer:?} is older than {newest:?} of the same server");
            }
            older += usize::from(newest.iter().flatten().any(|newest| newest.round > answer.round));
            if let Some(settled) = settled.as_ref().filter(|settled| settled.round > answer.round) {
                assert!(answer.is_short, "{path}: {answer:?} may be kept, and is older than {settled:?}");
            }
        }
    }
    older
}

/// A client under load: notes every answer of a server.
fn noting(served: &Served, node: usize, paths: &[String], start: Instant, is_over: &AtomicBool) -> Vec<Answered> {
    let (mut answers, mut number) = (Vec::new(), node);
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        let path = number % paths.len();
        let begun = start.elapsed();
        let answer = served.get(&paths[path], GZIP);
        let ended = start.elapsed();
        let Some(round) = round_of(&answer.body).filter(|_| status(&answer) == 200) else { continue };
        let is_placeholder = answer.header("cache-status").is_some_and(|status| status.contains("ancestor"));
        if !is_placeholder {
            let kept = answer.header("cache-control").unwrap_or_default();
            let is_short = kept.contains("max-age=5") || kept.contains("no-store");
            let cache = answer.header("cache-status").unwrap_or_default().to_owned();
            answers.push(Answered { node, path, begun, ended, round, is_short, cache });
        }
    }
    answers
}

/// Clients, writers and pauses for some time.
fn history_under_load(kind: &str, lines: &str, time: Duration) {
    let redis = Redis::start("hunter2", &[]);
    let fleet = Fleet::new();
    fleet.serves_with(&format!("redis_url = \"{}\"\n{lines}\n", redis.url()));
    let first = "(SELECT min(id) FROM api_facility)";
    fleet.db.run(&format!("UPDATE api_facility SET name = 'round000001' WHERE id = {first}"));
    fleet.seeded(kind);
    let start = || {
        let live = ["--live", "--writer=auto", "--database-url", &fleet.db.url, "--trusted-proxy", "127.0.0.1"];
        Served::at(&fleet.places, kind, &live)
    };
    let servers = [start(), start()];
    let marked = |tiles: &crate::support::places::Tiles| -> Vec<String> {
        let named = tiles.iter().filter(|(_, body)| round_of(body).is_some());
        named.map(|((zoom, x, y), _)| format!("/{zoom}/{x}/{y}.pbf")).collect()
    };
    let mut paths = marked(&fleet.fresh());
    fleet.places.seed(&fleet.db, "beyond.mbtiles", &["--zoom", "6-7"]).ok();
    paths.extend(marked(&fleet.places.read_by_others("beyond.mbtiles")));
    // Some of each: those of the target, and those that are rendered.
    let paths: Vec<String> = paths.into_iter().skip(1).step_by(2).collect();
    let (is_over, begin) = (AtomicBool::new(false), Instant::now());
    let mut answers: Vec<Answered> = std::thread::scope(|scope| {
        let end = EndsClients(&is_over);
        let clients: Vec<_> = (0..16)
            .map(|number| {
                let (served, paths, is_over) = (&servers[number % 2], &paths, &is_over);
                scope.spawn(move || noting(served, number % 2, paths, begin, is_over))
            })
            .collect();
        for number in 0..2 {
            let (url, is_over) = (&fleet.db.url, &is_over);
            scope.spawn(move || {
                let writer = crate::support::other_sessions::Connection::open(url, &format!("writer {number}"));
                while !is_over.load(Ordering::Relaxed) {
                    writer.run(&format!(
                        "UPDATE api_facility SET name = 'round' || lpad((substr(name, 6)::int + 1)::text, 6, '0') WHERE id = {first}"
                    ));
                    std::thread::sleep(Duration::from_millis(15));
                }
            });
        }
        while begin.elapsed() < time {
            std::thread::sleep(time / 4);
            servers[1].signal("-STOP");
            std::thread::sleep(time / 8);
            servers[1].signal("-CONT");
        }
        drop(end);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let (count, rounds) = (answers.len(), answers.iter().map(|answer| answer.round).max());
    let older = check(&mut answers, &paths);
    let rendered = answers.iter().filter(|answer| answer.cache.contains("stored")).count();
    eprintln!(
        "{kind}: {count} answers, {rendered} not from memory, rounds up to {rounds:?}, {older} older than what the other server had answered"
    );
    assert!(count > 20, "{kind}: {count} answers");
}

#[test]
fn under_load_no_server_answers_a_tile_older_than_one_that_it_answered_before() {
    let time = Duration::from_secs(number("OAR_TILES_TEST_SECONDS", 2));
    for (kind, lines) in
        [("t.mbtiles", "cache_mb = 1"), ("tiles/", "write_back = true"), ("s3:tiles/", "refresh = \"patient\"")]
    {
        history_under_load(kind, lines, time);
    }
}
