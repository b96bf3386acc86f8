//! A writer is killed between any two steps of a take-over, of a publish and of a job. With a target in a bucket each
//! step that others can see is a request that writes; a proxy holds the one at which the writer dies, before the bucket
//! has it or after.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::writer::{Fleet, answers, bodies};
use crate::support::places::Tiles;
use crate::support::process::Start as _;
use crate::support::program::program;
use crate::support::proxy::{Fault, Proxy, Seen};
use crate::support::served::Served;
use crate::support::until;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// How many requests that write a case lets through at most. A take-over with a publish, or a job, has fewer.
const STEPS: usize = 14;

/// The writers that run at once.
const AT_ONCE: usize = 7;

/// Longer than the test.
const NEVER: Duration = Duration::from_secs(600);

/// A bucket's door, which closes at one request.
struct Door {
    proxy: Proxy,
    /// True once it counts.
    counts: Arc<AtomicBool>,
    /// True once the request was there.
    is_closed: Arc<AtomicBool>,
}

impl Door {
    /// A door that closes at the request that writes with this number, counted from 0. Of even numbers the bucket has
    /// got the request.
    fn at(step: usize, endpoint: &str) -> Door {
        let (counts, is_closed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (counting, closed, seen) = (Arc::clone(&counts), Arc::clone(&is_closed), AtomicUsize::new(0));
        let proxy = Proxy::before(endpoint, move |request: &Seen| {
            if closed.load(Ordering::SeqCst) {
                return Fault::Slow(NEVER);
            }
            // Renewals of a lease are steps, too: they come when they like.
            let is_step = counting.load(Ordering::SeqCst) && matches!(&*request.method, "PUT" | "DELETE" | "POST");
            if !is_step || seen.fetch_add(1, Ordering::SeqCst) != step {
                return Fault::None;
            }
            closed.store(true, Ordering::SeqCst);
            if step.is_multiple_of(2) { Fault::Lost } else { Fault::Slow(NEVER) }
        });
        Door { proxy, counts, is_closed }
    }
}

/// A target of its own for each step, all of one database.
struct Stage {
    fleet: Fleet,
    kinds: Vec<String>,
}

impl Stage {
    fn new() -> Stage {
        let fleet = Fleet::new();
        let token = fleet.places.folder.path().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        let config = std::fs::read_to_string(&fleet.places.config).unwrap();
        std::fs::write(&fleet.places.config, format!("{config}token_file = {:?}\n", token.to_str().unwrap())).unwrap();
        let kinds: Vec<String> = (0..STEPS).map(|step| format!("s3:tiles{step}/")).collect();
        for some in kinds.chunks(AT_ONCE) {
            let mut seeds: Vec<_> = some
                .iter()
                .map(|kind| fleet.places.seed_command(&fleet.db, kind, &["--zoom", "0-3", "--public-url", "relative"]))
                .map(|mut command| command.start())
                .collect();
            assert!(seeds.iter_mut().all(|seed| seed.wait().unwrap().success()));
        }
        Stage { fleet, kinds }
    }

    /// A writer that reaches the bucket through a door.
    fn writer(&self, kind: &str, door: &Door) -> Served {
        let places = &self.fleet.places;
        let mut command: Command = program();
        command.args(["serve", &places.place(kind), "--config", &places.config, "--writer=auto", "--drain", "0s"]);
        command.args(["--database-url", &self.fleet.db.url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.env("OAR_TILES_S3_ENDPOINT", &door.proxy.endpoint);
        Served::of(places.with_keys(&mut command))
    }

    fn wanted(&self) -> Tiles {
        self.fleet.places.seed(&self.fleet.db, "fresh.mbtiles", &["--zoom", "0-3"]).ok();
        self.fleet.places.read_by_others("fresh.mbtiles")
    }

    /// Starts a writer for each target, does `begin` with each, waits until each has come to its step, and kills them.
    fn kills(&self, counts_at_start: bool, begin: impl Fn(&Served, &Door) + Sync) -> usize {
        let mut reached = 0;
        for (part, kinds) in self.kinds.chunks(AT_ONCE).enumerate() {
            let doors: Vec<Door> = (0..kinds.len())
                .map(|number| Door::at(part * AT_ONCE + number, &self.fleet.places.prefix.endpoint))
                .collect();
            for door in &doors {
                door.counts.store(counts_at_start, Ordering::SeqCst);
            }
            let writers: Vec<Served> = kinds.iter().zip(&doors).map(|(kind, door)| self.writer(kind, door)).collect();
            for (writer, door) in writers.iter().zip(&doors) {
                if !counts_at_start {
                    until("it writes", || role(writer) == "writing");
                }
                door.counts.store(true, Ordering::SeqCst);
            }
            std::thread::scope(|scope| {
                for (writer, door) in writers.iter().zip(&doors) {
                    let begin = &begin;
                    scope.spawn(move || begin(writer, door));
                }
            });
            for (writer, door) in writers.iter().zip(&doors) {
                until("it has come to its step, or is done", || {
                    door.is_closed.load(Ordering::SeqCst) || published(writer) > 0
                });
                reached += usize::from(door.is_closed.load(Ordering::SeqCst));
            }
            // Killed by the drop, all at once.
            drop(writers);
        }
        reached
    }

    /// New writers bring every target to what a fresh seed would have.
    fn converges(&self, check: impl Fn(&Served)) {
        let wanted = self.wanted();
        for kinds in self.kinds.chunks(AT_ONCE) {
            let next: Vec<Served> = kinds.iter().map(|kind| self.fleet.writer(kind, "--writer=auto")).collect();
            for served in &next {
                until("the next writer has brought the target up to date", || {
                    let told = answers(served, &wanted);
                    told.iter().map(|(path, (body, _))| (path.clone(), body.clone())).eq(bodies(&wanted))
                });
                check(served);
            }
        }
    }
}

fn status_of(served: &Served) -> Value {
    serde_json::from_str(&served.admin("/status.json").1).unwrap()
}

fn role(served: &Served) -> String {
    status_of(served)["writer"]["role"].as_str().unwrap_or_default().to_owned()
}

fn published(served: &Served) -> u64 {
    status_of(served)["writer"]["published"].as_u64().unwrap_or_default()
}

#[test]
fn a_writer_that_is_killed_at_any_step_of_a_take_over_and_its_publish_loses_nothing() {
    let stage = Stage::new();
    stage.fleet.db.run("UPDATE api_facility SET name = name || '!' WHERE id = (SELECT min(id) FROM api_facility)");
    let reached = stage.kills(true, |_, _| {});
    assert!(reached > 8, "{reached} writers came to their step");
    stage.converges(|_| {});
}

#[test]
fn a_writer_that_is_killed_at_any_step_of_a_job_does_it_the_next_time() {
    let stage = Stage::new();
    let submitted = AtomicUsize::new(0);
    let reached = stage.kills(false, |served, door| {
        let body = json!({ "what": "seed" }).to_string();
        let mut client = TcpStream::connect(("127.0.0.1", served.admin)).unwrap();
        client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        write!(
            client,
            "POST /jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = [0; 12];
        until("it is taken, or the door is closed", || {
            client.read_exact(&mut answer).is_ok() || door.is_closed.load(Ordering::SeqCst)
        });
        submitted.fetch_add(usize::from(answer.ends_with(b" 202")), Ordering::SeqCst);
    });
    assert!(reached > 8, "{reached} writers came to their step");
    assert!(submitted.load(Ordering::SeqCst) > 8);
    stage.converges(|served| {
        until("no job waits or runs", || {
            let jobs: Value = serde_json::from_str(&served.admin("/jobs").1).unwrap();
            let all = jobs["jobs"].as_array().unwrap();
            all.iter().all(|job| job["state"] == "done")
        });
    });
}

/// How many tiles a writer stores before it is killed.
const TILES_BEFORE_ITS_DEATH: usize = 12;

#[test]
fn a_writer_that_is_killed_in_every_publish_gets_on_from_what_is_stored() {
    let fleet = Fleet::new();
    let kind = "s3:tiles/";
    fleet.places.seed(&fleet.db, kind, &["--zoom", "0-4", "--public-url", "relative"]).ok();
    fleet.db.run("UPDATE api_facility SET name = name || '!'");
    let stored: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut writers = 0;
    loop {
        writers += 1;
        let (is_over, stored, of_writer) = (Arc::new(AtomicBool::new(false)), Arc::clone(&stored), AtomicUsize::new(0));
        let said = Arc::clone(&is_over);
        let proxy = Proxy::before(&fleet.places.prefix.endpoint, move |request: &Seen| {
            if !request.is_tile() {
                return Fault::None;
            }
            if of_writer.fetch_add(1, Ordering::SeqCst) >= TILES_BEFORE_ITS_DEATH {
                said.store(true, Ordering::SeqCst);
                return Fault::Slow(NEVER);
            }
            stored.lock().unwrap().push(request.target.clone());
            Fault::None
        });
        let mut command: Command = program();
        command.args(["serve", &fleet.places.place(kind), "--config", &fleet.places.config, "--writer=auto"]);
        command.args(["--drain", "0s", "--database-url", &fleet.db.url]);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.env("OAR_TILES_S3_ENDPOINT", &proxy.endpoint);
        let writer = Served::of(fleet.places.with_keys(&mut command));
        until("it has stored some tiles, or published", || is_over.load(Ordering::SeqCst) || published(&writer) > 0);
        if published(&writer) > 0 {
            break;
        }
        assert!(writers < 20, "it does not get on");
    }
    // Hardly any tile is stored twice: those that were on their way when a writer was killed.
    let stored = stored.lock().unwrap();
    let tiles: std::collections::BTreeSet<&String> = stored.iter().collect();
    assert!(
        writers > 2 && stored.len() <= tiles.len() + 2 * writers,
        "{writers} writers, {} of {}",
        stored.len(),
        tiles.len()
    );
    fleet.places.seed(&fleet.db, "fresh.mbtiles", &["--zoom", "0-4"]).ok();
    assert!(fleet.places.read_by_others_or_copy(kind) == fleet.places.read_by_others("fresh.mbtiles"));
}
