//! Caches behind caches, and servers that were not looking: an old tile that slips into a cache does not stay there.

use std::collections::HashSet;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::nginx::{Answer, ask, read_answer};
use crate::support::places::Places;
use crate::support::program::{Run, program, run};
use crate::support::served::{GZIP, Served, status};
use crate::support::stub::{Stub, StubAnswer};
use crate::support::varnish::{Varnish, purge_token_line};
use crate::support::{Db, until};

const TILE: &str = "/3/4/3.pbf";

/// A seeded target with a change log, a server of it, and the means to change it.
struct Changing {
    db: Db,
    places: Places,
    name: &'static str,
    served: Served,
}

impl Changing {
    fn new(name: &'static str) -> Changing {
        let (db, places) = (Db::with_facilities(200), Places::new());
        db.run("UPDATE api_facility SET location = ST_SetSRID(ST_MakePoint(5, 5), 4326) WHERE id = (SELECT min(id) FROM api_facility)");
        let database = ["--database-url", &db.url];
        places.run("track", &[&["install"][..], &database].concat()).ok();
        places.seed(&db, name, &["--zoom", "0-3", "--public-url", "relative"]).ok();
        let served = Served::at(&places, name, &["--cache-control", "public, max-age=3600"]);
        Changing { db, places, name, served }
    }

    fn purge(&self, purge: &str) {
        let config = std::fs::read_to_string(&self.places.config).unwrap();
        let token = purge_token_line(self.places.folder.path());
        let purge = format!("[[purge]]\nprovider = \"varnish\"\n{token}url = \"http://localhost/\"\n{purge}\n");
        std::fs::write(&self.places.config, config + &purge).unwrap();
    }

    /// Changes what the tile shows, and publishes it.
    fn publish(&self) -> Run {
        self.db.run("UPDATE api_facility SET name = name || '!' WHERE ST_Distance(location, ST_SetSRID(ST_MakePoint(5, 5), 4326)) < 1");
        let mut command = program();
        command.args(["reseed", "--progress", "none", "--config", &self.places.config, "--database-url", &self.db.url]);
        run(self.places.with_keys(command.args(["--output", &self.places.place(self.name), "--zoom", "0-3"])))
    }

    fn tell(&self) -> Run {
        self.places.run("purge", &[&self.places.place(self.name)])
    }
}

/// True if all threads of a process are stopped (proc(5), `/proc/PID/task/TID/stat`).
fn is_stopped(process: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|thread| thread.unwrap().path());
    threads.map(|thread| std::fs::read_to_string(thread.join("stat")).unwrap()).all(|stat| {
        let state = stat.rsplit_once(") ").unwrap().1;
        state.starts_with('T')
    })
}

fn is_miss(answer: &Answer) -> bool {
    answer.header("x-cache") == Some("miss")
}

/// Edge before shield before the server. The edge is purged first, and a client asks for the tile before the shield is:
/// the edge has the old tile again.
#[test]
fn a_rebound_mends_an_edge_that_was_purged_before_its_shield() {
    let changing = Changing::new("tiles/");
    let shield = Varnish::before(changing.served.port);
    let edge = Varnish::before(shield.port);
    let (edge_port, shield_port) = (edge.port, shield.port);
    let mut refilled = HashSet::new();
    let late = Stub::new(move |request| {
        if refilled.insert(request.path.clone()) {
            until("the edge was purged", || is_miss(&ask(edge_port, "GET", &request.path, GZIP)));
        }
        let headers = format!("x-purge: hard\r\nAuthorization: {}\r\n", request.header("authorization").unwrap());
        StubAnswer::of(status(&ask(shield_port, &request.method, &request.path, &headers)), "")
    });
    let caches = format!("caches = [\"http://127.0.0.1:{edge_port}\", \"{}\"]", late.url);
    changing.purge(&format!("{caches}\nsoft = false\nrebound = \"3s\"\nwait = \"1s\""));
    let old = edge.get(TILE).body;
    assert!(!is_miss(&edge.get(TILE)) && !is_miss(&shield.get(TILE)));
    changing.publish().ok();
    let new = changing.served.get(TILE, GZIP).body;
    assert!(new != old && shield.get(TILE).body == new);
    assert!(edge.get(TILE).body == old, "the purge in the wrong order leaves the old tile at the edge");
    let told = changing.places.run("purge", &["status", &changing.places.place("tiles/"), "--json"]).ok().stdout;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["cdns"][0]["tiles"], &told["cdns"][0]["again"]), (&0.into(), &4.into()), "{told}");
    until("the same was sent once more", || changing.tell().ok().stdout.contains(", nothing waits\n"));
    assert!(edge.get(TILE).body == new);
}

/// A server was stopped before a publish, and answers after the purge: what it answers is old, so no cache may keep it.
#[test]
fn what_a_server_answers_that_has_not_looked_for_long_is_kept_by_no_cache() {
    let changing = Changing::new("s3:tiles/");
    let cache = Varnish::before(changing.served.port);
    changing.purge(&format!("caches = [\"http://127.0.0.1:{}\"]\nrebound = \"0s\"", cache.port));
    let first = changing.served.get(TILE, GZIP);
    assert_eq!(first.header("cache-control"), Some("public, max-age=3600"));
    changing.served.signal("-STOP");
    // On a busy machine a thread may go on for a moment.
    until("every thread is stopped", || is_stopped(changing.served.child.id()));
    // Both the cache and clients of the server itself wait for it.
    let asking = |port: u16| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "GET {TILE} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{GZIP}\r\n").unwrap();
        stream
    };
    let direct: Vec<TcpStream> = (0..8).map(|_| asking(changing.served.port)).collect();
    let through = asking(cache.port);
    let published = changing.publish().ok();
    assert!(!published.stderr.contains("was not told"), "the CDN is told after settle: {}", published.stderr);
    changing.served.signal("-CONT");
    let answers: Vec<Answer> = direct.into_iter().map(read_answer).collect();
    assert!(
        answers.iter().any(|answer| answer.body == first.body),
        "it answers from what it knew before it was stopped"
    );
    for answer in answers.iter().filter(|answer| answer.body == first.body) {
        let said = [answer.header("cache-control"), answer.header("cdn-cache-control")];
        assert_eq!(said, [Some("no-store"); 2], "{}", answer.head);
    }
    assert!(read_answer(through).body == first.body, "the cache handed on what it was given");
    until("the server has looked", || changing.served.get(TILE, GZIP).body != first.body);
    let now = changing.served.get(TILE, GZIP);
    assert_eq!(now.header("cache-control"), Some("public, max-age=3600"));
    assert!(cache.get(TILE).body == now.body, "the cache has kept the old tile");
}

/// A server that polls a bucket may answer with the old tile for a second after the publish, and may be asked all the
/// while.
#[test]
fn a_cdn_before_a_server_that_polls_is_told_once_the_server_has_looked() {
    let changing = Changing::new("s3:tiles/");
    let cache = Varnish::before(changing.served.port);
    changing.purge(&format!("caches = [\"http://127.0.0.1:{}\"]\nrebound = \"0s\"", cache.port));
    let first = cache.get(TILE).body;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (cache, done) = (&cache, &done);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                cache.get(TILE);
            }
        });
        let published = changing.publish().ok();
        assert!(!published.stderr.contains("was not told"), "{}", published.stderr);
        done.store(true, Ordering::Relaxed);
    });
    until("the server has looked", || changing.served.get(TILE, GZIP).body != first);
    assert!(cache.get(TILE).body != first, "the cache has fetched the old tile again, and keeps it");
}
