//! What dies beside the server: writers in the middle of their work, and the database.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::writer::Fleet;
use crate::support::places::Places;
use crate::support::process::Start as _;
use crate::support::program::{ROWS_LAYER, humble, program, run, seed};
use crate::support::s3::Prefix;
use crate::support::s3_server::S3Server;
use crate::support::served::{GZIP, Served, small_target, status};
use crate::support::{Archive, Cluster, Db, until};

/// Sets a flag when it is dropped, also by a panic: a scope waits for its threads, and they for the flag.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_writer_that_is_killed_beside_the_server_costs_no_answer() {
    let db = Db::with_facilities(500);
    let places = Places::new();
    for kind in ["t.mbtiles", "tiles/"] {
        let flags = ["--zoom", "0-5", "--public-url", "relative"];
        places.seed(&db, kind, &flags).ok();
        let served = Served::at(&places, kind, &[]);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _ends = SetAtEnd(&done);
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut count = 0;
                        while !done.load(Ordering::Relaxed) {
                            for path in ["/0/0/0.pbf", "/1/1/0.pbf", "/5/23/13.pbf"] {
                                let answer = served.get(path, GZIP);
                                assert!(matches!(status(&answer), 200 | 204), "{kind} {path}: {}", answer.head);
                                count += 1;
                            }
                        }
                        count
                    })
                })
                .collect();
            for round in 0..8_u64 {
                db.run(&format!("UPDATE api_facility SET name = name || '{round}'"));
                let mut writer = places.seed_command(&db, kind, &flags).start();
                // At other moments of its work each time; when is not asserted.
                std::thread::sleep(Duration::from_millis(40 * round));
                writer.kill().unwrap();
                writer.wait().unwrap();
            }
            done.store(true, Ordering::Relaxed);
            assert!(readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u32>() > 50);
        });
        let before = served.get("/0/0/0.pbf", GZIP).body;
        db.run("UPDATE api_facility SET name = name || 'x'");
        places.seed(&db, kind, &flags).ok();
        assert!(served.get("/0/0/0.pbf", GZIP).body != before, "{kind}: the next run is noticed");
    }
}

/// Dies within a commit: some pages of the archive are written, the old ones are in the journal. With the word
/// `journal`, none is written yet, and the archive looks untouched.
const DIES_IN_A_COMMIT: &str = r#"
import os, signal, sqlite3, sys
path = sys.argv[1]
before, times = open(path, "rb").read(), os.stat(path)
writer = sqlite3.connect(path, isolation_level=None)
# With a cache of one page SQLite writes pages, and first the journal, before the transaction ends.
writer.execute("PRAGMA cache_size = 1")
writer.execute("BEGIN EXCLUSIVE")
writer.execute("UPDATE tiles SET tile_data = zeroblob(9000)")
assert open(path, "rb").read() != before
if "journal" in sys.argv:
    with open(path, "r+b") as file:
        file.write(before)
        file.truncate(len(before))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
os.kill(os.getpid(), signal.SIGKILL)
"#;

fn dies_in_a_commit(target: &str, how: &str) {
    let ended = Command::new("python3").args(["-c", DIES_IN_A_COMMIT, target, how]).status().unwrap();
    // The hot journal that it leaves may be rolled back by a server before anybody else sees it.
    assert_eq!(ended.signal(), Some(9), "{how}");
}

#[test]
fn a_commit_that_a_killed_writer_left_is_rolled_back() {
    for how in ["pages", "journal"] {
        let (_folder, target) = small_target();
        let stored = Archive::open(Path::new(&target)).stored();
        let served = Served::new(&target, &[]);
        assert!(served.get("/0/0/0.pbf", GZIP).body == stored[&(0, 0, 0)]);
        dies_in_a_commit(&target, how);
        for ((zoom, x, y), bytes) in &stored {
            let answer = served.get(&format!("/{zoom}/{x}/{y}.pbf"), GZIP);
            assert!(answer.body == *bytes, "{how} {zoom}/{x}/{y}: {}", answer.head);
        }
        assert_eq!(served.admin("/readyz").0, 200, "{how}");
        assert!(!Path::new(&format!("{target}-journal")).exists(), "{how}");
    }
}

#[test]
fn where_the_server_may_not_write_memory_answers_until_somebody_has_rolled_back() {
    for how in ["pages", "journal"] {
        let (folder, target) = small_target();
        let stored = Archive::open(Path::new(&target)).stored();
        let (known, cold) = ("/0/0/0.pbf", "/1/1/0.pbf");
        let permit = |of_folder: u32, of_file: u32| {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(of_folder)).unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(of_file)).unwrap();
        };
        let mut command = program();
        command.args(["serve", &target, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
        let served = Served::of(&mut humble(&command));
        assert!(served.get(known, GZIP).body == stored[&(0, 0, 0)]);
        dies_in_a_commit(&target, how);
        permit(0o555, 0o444);
        for _ in 0..2 {
            let away = served.get(cold, GZIP);
            assert_eq!((status(&away), away.header("cache-control")), (503, Some("no-store")), "{how}");
            assert!(served.get(known, GZIP).body == stored[&(0, 0, 0)], "{how}: from memory");
            let (code, reasons) = served.admin("/readyz");
            assert!(code == 503 && reasons.contains("was left half written by a program that was killed"), "{reasons}");
        }
        permit(0o755, 0o644);
        run(program().args(["inspect", &target])).ok();
        assert!(served.get(cold, GZIP).body == stored[&(1, 1, 0)], "{how}");
        assert_eq!(served.admin("/readyz").0, 200, "{how}");
    }
}

#[test]
fn a_database_that_restarts_under_load_costs_live_tiles_alone() {
    let mut cluster = Cluster::new();
    let mut db = Db::with_facilities_on(&cluster.url, 300);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    // Live tiles are kept so shortly that each is rendered again and again.
    fs::write(&config, format!("{ROWS_LAYER}\n[serve]\nlive_ttl = \"50ms\"\n")).unwrap();
    let config = config.to_str().unwrap();
    let whole = folder.path().join("whole.mbtiles");
    seed(&db.url, &whole, &["--config", config, "--zoom", "0-3"]).ok();
    let stored = Archive::open(&whole).stored();
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--config", config, "--zoom", "0-1"]).ok();
    let live = ["--config", config, "--live", "--database-url", &db.url];
    let served = Served::new(target.to_str().unwrap(), &live);
    let (done, [known, rendered, refused]) = (AtomicBool::new(false), [const { AtomicU32::new(0) }; 3]);
    let ask = |zoom: u8, x: u32, y: u32| {
        let answer = served.get(&format!("/{zoom}/{x}/{y}.pbf"), GZIP);
        let expected = stored.get(&(zoom, x, y));
        match status(&answer) {
            200 => assert!(Some(&answer.body) == expected, "{zoom}/{x}/{y}: another tile"),
            204 => assert!(expected.is_none(), "{zoom}/{x}/{y} is called empty"),
            503 => assert_eq!(answer.header("cache-control"), Some("no-store")),
            other => panic!("{zoom}/{x}/{y}: {other}"),
        }
        status(&answer)
    };
    // A tile that nobody has asked for: no older one can be sent in its place.
    let asked = AtomicU32::new(0);
    let ask_cold = || {
        let number = asked.fetch_add(1, Ordering::Relaxed);
        let answer = served.get(&format!("/10/{}/{}.pbf", number % 1024, number / 1024), GZIP);
        assert!(matches!(status(&answer), 200 | 204 | 503), "{}", answer.head);
        status(&answer)
    };
    let (ask, ask_cold) = (&ask, &ask_cold);
    std::thread::scope(|scope| {
        let _ends = SetAtEnd(&done);
        for offset in 0..4 {
            let (done, known, rendered, refused) = (&done, &known, &rendered, &refused);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    assert!(ask(1, offset % 2, 0) < 300, "what the target knows needs no database");
                    known.fetch_add(1, Ordering::Relaxed);
                    for (x, y) in (0..8).map(|x| (x, (x + offset) % 8)) {
                        ask(3, x, y);
                        let counted = if ask_cold() == 503 { refused } else { rendered };
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let grows = |what: &str, count: &AtomicU32| {
            let before = count.load(Ordering::Relaxed);
            until(what, || count.load(Ordering::Relaxed) > before + 20);
        };
        for _ in 0..2 {
            grows("live tiles are rendered", &rendered);
            cluster.crash();
            grows("live tiles are refused", &refused);
            grows("tiles of the target are answered", &known);
            cluster.start();
        }
        grows("live tiles are rendered again", &rendered);
    });
    db.reconnect();
}

#[test]
fn a_writer_outlives_its_database_and_its_bucket() {
    let (mut cluster, bucket) = (Cluster::new(), S3Server::new());
    let places = Places::with(Prefix::on(&bucket.endpoint, bucket.keys.clone()));
    let mut fleet = Fleet::of(Db::with_facilities_on(&cluster.url, 300), places);
    let kind = "s3:tiles/";
    fleet.seeded(kind);
    let served = fleet.writer(kind, "--writer");
    let renamed = |fleet: &Fleet, name: &str| fleet.db.run(&format!("UPDATE api_facility SET name = '{name}'"));
    let shows = |name: &str| {
        let answer = served.get("/1/1/0.pbf", GZIP);
        assert_eq!(status(&answer), 200, "{name}: {}", answer.head);
        String::from_utf8_lossy(&crate::support::archive::unpacked(&answer.body)).contains(name)
    };
    renamed(&fleet, "first");
    until("the first change is shown", || shows("first"));
    until("it is in memory", || served.get("/1/1/0.pbf", GZIP).header("cache-status") == Some("oar-tiles; hit"));
    // Without its bucket the writer can neither publish nor renew its lease.
    bucket.kill();
    renamed(&fleet, "while the bucket is away");
    assert!(shows("first"), "from memory");
    bucket.start();
    until("the change is shown once the bucket is back", || shows("while the bucket is away"));
    cluster.crash();
    assert!(shows("while the bucket is away"));
    cluster.start();
    fleet.db.reconnect();
    renamed(&fleet, "after the crash");
    until("the change is shown once the database is back", || shows("after the crash"));
    let wanted = fleet.fresh();
    // The first tile is there before the last one is: they are published in place.
    until("nothing is lost", || {
        let told = super::writer::answers(&served, &wanted);
        let told: BTreeMap<String, Vec<u8>> = told.into_iter().map(|(path, (body, _))| (path, body)).collect();
        told == super::writer::bodies(&wanted)
    });
}
