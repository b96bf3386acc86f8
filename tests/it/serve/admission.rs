//! A running server is held to the admission rule: seeds and live requests stand still at gates in SQL, end one by one,
//! and after each step `/status.json` has to show what the rule says.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::gate::PASSES_DOORS;
use crate::support::nginx::{ask, read_answer};
use crate::support::program::{program, run, seed};
use crate::support::served::{Served, status};
use crate::support::{Db, until};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The doors of seeds and of live requests.
const SEED: i32 = 101;
const LIVE: i32 = 102;

/// How many statements of a kind find their door closed.
const DOORS: u32 = 60;

/// How the workers are shared.
#[derive(Debug, Clone, Copy)]
struct Shares {
    workers: usize,
    reserved: usize,
    guaranteed: usize,
}

/// Running and waiting live requests and batches of a seed, by the rule as the manual has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Load {
    live: [usize; 2],
    seed: [usize; 2],
}

impl Load {
    /// Starts what may start.
    fn settled(mut self, Shares { workers, reserved, guaranteed }: Shares) -> Load {
        loop {
            let (live, background) = (self.live[0], self.seed[0]);
            let is_free = live + background < workers;
            let takes_live = live < workers - guaranteed || background >= guaranteed || self.seed[1] == 0;
            let takes_seed =
                background < workers - reserved && (background < guaranteed || live + background + reserved < workers);
            let next = if is_free && self.live[1] > 0 && takes_live {
                &mut self.live
            } else if is_free && self.seed[1] > 0 && takes_seed {
                &mut self.seed
            } else {
                return self;
            };
            *next = [next[0] + 1, next[1] - 1];
        }
    }
}

/// A database with doors, and a target of zooms 0 to 5, from which tiles of zoom 14 are missing.
struct Stage {
    db: Db,
    folder: tempfile::TempDir,
    target: String,
    /// Tiles of zoom 14 in which something is drawn.
    tiles: Vec<String>,
}

impl Stage {
    fn new() -> Stage {
        let db = Db::with_facilities(400);
        db.run(PASSES_DOORS);
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("t.mbtiles").to_str().unwrap().to_owned();
        fs::write(folder.path().join("token"), TOKEN).unwrap();
        let stage = Stage { tiles: occupied(&db), db, folder, target };
        let config = stage.config(Shares { workers: 2, reserved: 1, guaranteed: 1 });
        let url = &stage.db.url;
        run(program().args(["track", "install", "--database-url", url, "--config", &config])).ok();
        seed(url, stage.target.as_ref(), &["--config", &config, "--zoom", "0-5"]).ok();
        stage
    }

    /// A configuration in which more batches of a seed wait than ever run.
    fn config(&self, Shares { workers, reserved, guaranteed }: Shares) -> String {
        let layer = |name: &str, zoom: &str, door: i32| {
            format!(
                "[[layer]]\nname = \"{name}\"\ntable = \"api_facility\"\nkey = [\"id\"]\nzoom = \"{zoom}\"\n\
                 properties = {{ id = \"id\", door = \"public.pass({door})\" }}\n"
            )
        };
        let text = format!(
            "{}{}[run]\nworkers = {}\nwindow = 64\nbatch_features = 100\nrows_mb = 0\n[changes]\ndebounce = \"20ms\"\n\
             [serve]\nworkers = {workers}\nlive_reserved = {reserved}\nbackground_guaranteed = {guaranteed}\n\
             live_timeout = \"10m\"\ntoken_file = {:?}\n",
            layer("facilities", "0-5", SEED),
            layer("deep", "14", LIVE),
            workers + 2,
            self.folder.path().join("token").to_str().unwrap(),
        );
        let path = self.folder.path().join("c.toml");
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Closes the doors, and begins a seed in a server.
    fn begun(&self, shares: Shares) -> Play<'_> {
        let config = self.config(shares);
        for door in [SEED, LIVE] {
            self.db.run(&format!("SELECT pg_advisory_lock({door} + 100, n) FROM generate_series(1, {DOORS}) n"));
        }
        let flags = ["--config", &config, "--live", "--writer", "--database-url", &self.db.url];
        let served = Served::new(&self.target, &flags);
        until("it writes", || served.admin("/status.json").1.contains("\"role\":\"writing\""));
        let body = json!({ "what": "seed" }).to_string();
        let headers = format!(
            "Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(status(&ask(served.admin, "POST", "/jobs", &headers)), 202);
        let load = Load { live: [0, 0], seed: [0, shares.workers + 2] }.settled(shares);
        let mut play = Play { stage: self, served, shares, load, clients: Vec::new(), asked: 0 };
        play.shows("the seed alone");
        play
    }
}

/// Tiles of zoom 14 in which a facility lies.
fn occupied(db: &Db) -> Vec<String> {
    let sql = "SELECT DISTINCT '14/' || floor((ST_X(location) + 180) / 360 * 16384)::int || '/' || \
               floor((1 - ln(tan(radians(ST_Y(location))) + 1 / cos(radians(ST_Y(location)))) / pi()) / 2 * 16384)::int \
               FROM api_facility WHERE abs(ST_Y(location)) < 80 ORDER BY 1";
    db.rows(sql).iter().map(|row| row.get(0)).collect()
}

/// A server under the doors, and what it should show.
struct Play<'a> {
    stage: &'a Stage,
    served: Served,
    shares: Shares,
    load: Load,
    /// The clients that wait for a live tile, the oldest first. The first `load.live[0]` of them are served now.
    clients: Vec<TcpStream>,
    asked: usize,
}

impl Play<'_> {
    fn shown(&self) -> Load {
        let status: Value = serde_json::from_str(&self.served.admin("/status.json").1).unwrap();
        let of = |class: &str| {
            ["running", "waiting"].map(|what| usize::try_from(status["queue"][what][class].as_u64().unwrap()).unwrap())
        };
        Load { live: of("live"), seed: of("seed") }
    }

    /// Waits until the server shows what it should, five times in a row: it may show the same before and after a step,
    /// and something else in between.
    #[track_caller]
    fn shows(&mut self, step: &str) {
        let begun = std::time::Instant::now();
        let mut in_a_row = 0;
        while in_a_row < 5 {
            let shown = self.shown();
            in_a_row = if shown == self.load { in_a_row + 1 } else { 0 };
            assert!(begun.elapsed().as_secs() < 60, "{:?}, {step}: {shown:?} and not {:?}", self.shares, self.load);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    fn step(&mut self, step: &str, change: impl FnOnce(&mut Load)) {
        change(&mut self.load);
        self.load = self.load.settled(self.shares);
        self.shows(step);
    }

    /// A client asks for a tile that nobody has asked for.
    fn arrives(&mut self) {
        let mut client = TcpStream::connect(("127.0.0.1", self.served.port)).unwrap();
        write!(client, "GET /{}.pbf HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", self.stage.tiles[self.asked])
            .unwrap();
        self.asked += 1;
        self.clients.push(client);
        self.step("a live request", |load| load.live[1] += 1);
    }

    /// The client that has waited longest goes away: its worker becomes free.
    fn leaves(&mut self) {
        drop(self.clients.remove(0));
        self.step("a live request ends", |load| load.live[0] -= 1);
    }

    /// One batch of the seed gets through its door.
    fn batch_ends(&mut self) {
        let at_doors = format!(
            "SELECT objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
             AND classid = {} AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1",
            SEED + 100
        );
        let at_doors = || -> Vec<i64> { self.stage.db.rows(&at_doors).iter().map(|row| row.get(0)).collect() };
        let mut doors = Vec::new();
        until("every batch that runs stands at its door", || {
            doors = at_doors();
            doors.len() == self.load.seed[0]
        });
        let first = doors[0];
        self.stage.db.run(&format!("SELECT pg_advisory_unlock({}, {first})", SEED + 100));
        // Its worker comes back with the next batch.
        self.load.seed[0] -= 1;
        self.load = self.load.settled(self.shares);
        // The server may show the same before and after: the batch that begins instead tells that it has ended.
        let running = self.load.seed[0];
        until("the batches that run afterwards stand at their doors", || {
            at_doors().iter().filter(|door| **door != first).count() == running
        });
        self.step("a batch of the seed ends", |load| load.seed[1] += 1);
    }

    /// Opens all doors: the seed ends well, and every client that still waits gets its tile.
    fn ends(self) {
        self.stage.db.run("SELECT pg_advisory_unlock_all()");
        for client in self.clients {
            assert_eq!(status(&read_answer(client)), 200);
        }
        let mut last = Value::Null;
        until("the seed is done", || {
            let jobs: Value = serde_json::from_str(&self.served.admin("/jobs").1).unwrap();
            let all = jobs["jobs"].as_array().unwrap_or_else(|| panic!("{jobs}"));
            last = all.iter().max_by_key(|job| job["id"].as_u64()).unwrap().clone();
            last["state"] != "running" && last["state"] != "queued"
        });
        assert_eq!(last["state"], "done", "{last}");
    }
}

#[test]
fn ten_workers_six_seeds_and_eight_live_requests_as_in_the_example_of_renderd() {
    let stage = Stage::new();
    let mut play = stage.begun(Shares { workers: 10, reserved: 4, guaranteed: 0 });
    assert_eq!(play.load, Load { live: [0, 0], seed: [6, 6] });
    for _ in 0..8 {
        play.arrives();
    }
    assert_eq!(play.load, Load { live: [4, 4], seed: [6, 6] }, "four start at once");
    for waiting in (0..4).rev() {
        play.batch_ends();
        assert_eq!(play.load.live[1], waiting, "four start as workers get free, and no seed");
    }
    assert_eq!(play.load, Load { live: [8, 0], seed: [2, 10] });
    for free in 1..=4 {
        play.leaves();
        assert_eq!(play.load.seed[0], 2, "{free} are free, and no seed starts");
    }
    play.leaves();
    assert_eq!(play.load, Load { live: [3, 0], seed: [3, 9] }, "five were free");
    play.ends();
}

#[test]
fn whatever_the_shares_are_the_server_starts_what_the_rule_says() {
    let stage = Stage::new();
    for (workers, reserved, guaranteed) in [(1, 0, 0), (2, 1, 1), (2, 0, 1), (4, 1, 1), (6, 2, 2)] {
        let shares = Shares { workers, reserved, guaranteed };
        let mut play = stage.begun(shares);
        let mut chance = 17 * workers as u64 + guaranteed as u64;
        for _ in 0..14 {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match chance >> 33 & 3 {
                0 if play.load.seed[0] > 0 => play.batch_ends(),
                1 if play.load.live[0] > 0 => play.leaves(),
                _ if play.clients.len() < 2 * workers + 2 => play.arrives(),
                _ if play.load.live[0] > 0 => play.leaves(),
                _ => play.batch_ends(),
            }
        }
        play.ends();
    }
}

#[test]
fn a_request_promotes_the_tile_that_waits_in_the_background_and_joins_the_one_that_is_rendered() {
    let stage = Stage::new();
    // A facility in the middle of each of nine tiles; the first statement finds its door open.
    let (x, y) = (8200, 5300);
    stage.db.run(&format!(
        "INSERT INTO api_facility (id, name, address, country_code, location, is_closed, created_at, updated_at)
         SELECT format('n%s-%s', x, y), '', '', 'XX', ST_Transform(ST_Centroid(ST_TileEnvelope(14, x, y)), 4326), false, now(), now()
         FROM generate_series({x} - 1, {x} + 1) x, generate_series({y} - 1, {y} + 1) y;
         SELECT pg_advisory_lock({LIVE} + 100, n) FROM generate_series(2, {DOORS}) n"
    ));
    let shares = Shares { workers: 2, reserved: 1, guaranteed: 1 };
    let config = stage.config(shares);
    std::fs::write(&config, fs::read_to_string(&config).unwrap() + "neighbours = true\n").unwrap();
    let served = Served::new(&stage.target, &["--config", &config, "--live", "--database-url", &stage.db.url]);
    let shown = || -> Value { serde_json::from_str(&served.admin("/status.json").1).unwrap() };
    let [running, waiting] = ["running", "waiting"];
    let count = |what: &str, class: &str| shown()["queue"][what][class].as_u64().unwrap();
    // What it finds of the rows above would otherwise make the tiles that wait older than those that are asked for.
    until("it follows the log", || shown()["change_log"]["followed"] == true);
    let path = |right: i32, down: i32| format!("/14/{}/{}.pbf", x + right, y + down);
    assert_eq!(status(&served.get(&path(0, 0), "")), 200);
    until("a neighbour is rendered and seven wait", || {
        (count(running, "neighbour"), count(waiting, "neighbour")) == (1, 7)
    });
    let asks = |path: String| {
        let mut client = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
        write!(client, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        client
    };
    let tasks = |class: &str| [count(running, class), count(waiting, class)];
    // A request is counted before it has found its place in the queue.
    let queue_shows = |requests: u64, live: [u64; 2], neighbour: [u64; 2]| {
        let begun = std::time::Instant::now();
        loop {
            let seen = (shown()["live"]["requests"].as_u64().unwrap(), tasks("live"), tasks("neighbour"));
            if seen == (requests, live, neighbour) {
                break;
            }
            assert!(begun.elapsed().as_secs() < 30, "{seen:?} and not {:?}", (requests, live, neighbour));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    };
    // The last of the ring: it takes the worker that is reserved for live requests.
    let mut clients = vec![asks(path(1, 1))];
    queue_shows(1, [1, 0], [1, 6]);
    // The same once more, and the first of the ring, which is rendered already: nothing is rendered twice.
    clients.extend([asks(path(1, 1)), asks(path(-1, -1))]);
    queue_shows(3, [1, 0], [1, 6]);
    // A third one has to wait, and tiles that nobody has asked for are given up.
    clients.push(asks(path(1, 0)));
    queue_shows(4, [1, 1], [1, 0]);
    stage.db.run("SELECT pg_advisory_unlock_all()");
    for client in clients {
        let answer = read_answer(client);
        assert!(status(&answer) == 200 && !answer.body.is_empty(), "{}", answer.head);
    }
}
