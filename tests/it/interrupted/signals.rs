//! Whatever the program waits for: SIGINT ends it with 130 and SIGTERM with 143, soon.
//!
//! Each test is a table of waits. A run of each is started, brought to its wait, and told to stop, by one signal and by
//! the other.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::gate::gated;
use crate::support::places::Places;
use crate::support::process::{Process, Start as _};
use crate::support::program::{Run, program, run, signal, wait};
use crate::support::proxy::{Proxy, SLOW_DOWN};
use crate::support::s3::Prefix;
use crate::support::served::small_target;
use crate::support::silent::{FullPipe, Silence, SilentServer, fifo, is_read};
use crate::support::{Db, Gate, Place, seed, until};

const SIGNALS: [(&str, i32); 2] = [("INT", 130), ("TERM", 143)];

fn start(command: &mut Command) -> Process {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start()
}

/// A command with its arguments in one text; what stands in braces is put in place of its name.
fn command(line: &str, names: &[(&str, &str)]) -> Command {
    let mut command = program();
    for word in line.split(' ') {
        let filled =
            names.iter().fold(word.to_owned(), |word, (name, value)| word.replace(&format!("{{{name}}}"), value));
        command.arg(filled);
    }
    command
}

/// Waits until a process listens to SIGINT and SIGTERM. Before that they kill it, as they kill any process.
#[track_caller]
fn listens(child: &Process) {
    let status = format!("/proc/{}/status", child.id());
    until("the program listens to signals", || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0").trim();
        let caught = u64::from_str_radix(caught, 16).unwrap_or_default();
        [2, 15].iter().all(|number| caught >> (number - 1) & 1 == 1)
    });
}

/// Waits until a process does nothing: a fifth of a second in which none of its threads has run.
#[track_caller]
fn waits(child: &Process) {
    listens(child);
    let switches = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).into_iter().flatten().flatten();
        let status = tasks.map(|task| std::fs::read_to_string(task.path().join("status")).unwrap_or_default());
        status.map(|text| text.lines().filter(|line| line.contains("ctxt_switches")).collect::<String>()).collect()
    };
    let (mut before, mut since): (Vec<String>, Instant) = (Vec::new(), Instant::now());
    until("the program waits", || {
        let now = switches();
        if now != before {
            (before, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(200)
    });
}

/// Sends a signal, and gives the run when it has ended. Two seconds are promised; a loaded machine may take longer.
#[track_caller]
fn stopped(child: Process, (name, code): (&str, i32), what: &str) -> Run {
    listens(&child);
    let begun = Instant::now();
    signal(&child, name);
    let ended = wait(child);
    let took = begun.elapsed();
    assert_eq!(ended.code, code, "{what}, {name}: {}{}", ended.stdout, ended.stderr);
    eprintln!("{what}, {name}: ended after {took:?}");
    assert!(took < Duration::from_secs(10), "{what}, {name}: took {took:?}");
    ended
}

/// The same for a run that can still say so.
#[track_caller]
fn interrupted(child: Process, by: (&str, i32), what: &str) {
    let ended = stopped(child, by, what);
    assert!(ended.stderr.contains("error: interrupted"), "{what}: {}", ended.stderr);
}

/// A database with a change log, and a target that follows it.
fn tracked_target(db: &Db, folder: &Path) -> String {
    run(program().args(["track", "install", "--database-url", &db.url])).ok();
    let target = folder.join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-2"]).ok();
    target.to_str().unwrap().to_owned()
}

#[test]
fn a_database_that_does_not_answer() {
    let db = Db::with_facilities(20);
    let folder = tempfile::tempdir().unwrap();
    let target = tracked_target(&db, folder.path());
    let every = [
        "seed --output {new} --database-url {url}",
        "seed --dry-run --output {new} --database-url {url}",
        "reseed --output {old} --database-url {url}",
        "reseed --dry-run --output {old} --database-url {url}",
        "reseed --or-seed --output {old} --database-url {url}",
        "reseed --watch --output {old} --database-url {url}",
        "verify {old} --database --database-url {url}",
        "track install --database-url {url}",
        "track status {old} --database-url {url}",
        "track prune --older-than 1h --database-url {url}",
        "track prune {old} --database-url {url}",
        "track remove --database-url {url}",
    ];
    for (silence, parameters) in [
        (Silence::AtOnce, ""),
        (Silence::AtOnce, "connect_timeout=3600"),
        (Silence::AfterTls, "sslmode=require"),
        (Silence::AfterLogin, "sslmode=disable"),
    ] {
        let new = folder.path().join("new.mbtiles");
        for (line, by) in every.iter().zip(SIGNALS.into_iter().cycle()) {
            // One each: a watch connects twice.
            let server = SilentServer::new(silence);
            let url = server.database(&db, parameters);
            let names = [("new", new.to_str().unwrap()), ("old", &target), ("url", &url)];
            let child = start(&mut command(line, &names));
            server.meets_a_client();
            interrupted(child, by, &format!("{silence:?} {line}"));
        }
        assert!(!new.exists());
    }
}

#[test]
fn a_fifo_that_nobody_writes() {
    let db = Db::with_facilities(20);
    let folder = tempfile::tempdir().unwrap();
    let target = tracked_target(&db, folder.path());
    let pipe = fifo(folder.path().join("pipe"));
    let new = folder.path().join("new.mbtiles");
    let names = [
        ("new", new.to_str().unwrap()),
        ("old", &target),
        ("url", &db.url),
        ("pipe", pipe.to_str().unwrap()),
        ("host", "postgresql://oar_tiles@127.0.0.1:1/x"),
    ];
    for (line, by) in [
        "seed --config {pipe}",
        "reseed --config {pipe}",
        "reseed --watch --config {pipe}",
        "publish --config {pipe}",
        "verify {old} --config {pipe}",
        "inspect {old} --config {pipe}",
        "copy {old} {new} --config {pipe}",
        "track install --config {pipe}",
        "track status --config {pipe}",
        "config --config {pipe}",
        "reseed --tiles {pipe} --output {old} --database-url {url}",
        "reseed --area {pipe} --output {old} --database-url {url}",
        "seed --output {new} --database-url {host}?sslmode=verify-full&sslrootcert={pipe}",
    ]
    .iter()
    .zip(SIGNALS.into_iter().cycle())
    {
        let child = start(&mut command(line, &names));
        let held = is_read(&pipe);
        interrupted(child, by, line);
        drop(held);
    }
}

#[test]
fn a_fifo_that_nobody_reads() {
    let db = Db::with_facilities(20);
    let folder = tempfile::tempdir().unwrap();
    let target = tracked_target(&db, folder.path());
    let pipe = fifo(folder.path().join("pipe"));
    let new = folder.path().join("new.mbtiles");
    let names = [("new", new.to_str().unwrap()), ("old", &target), ("url", &db.url), ("pipe", pipe.to_str().unwrap())];
    for (line, by) in [
        "seed --report {pipe} --output {new} --database-url {url}",
        "reseed --report {pipe} --output {old} --database-url {url}",
        "reseed --dirty-out {pipe} --output {old} --database-url {url}",
        "verify {old} --report {pipe}",
    ]
    .iter()
    .zip(SIGNALS.into_iter().cycle())
    {
        let child = start(&mut command(line, &names));
        waits(&child);
        interrupted(child, by, line);
    }
    assert!(!new.exists());
}

#[test]
fn a_reader_that_does_not_read() {
    let db = Db::with_facilities(20);
    let folder = tempfile::tempdir().unwrap();
    let target = tracked_target(&db, folder.path());
    db.run("UPDATE api_facility SET name = 'changed'");
    let full = FullPipe::new(folder.path().join("full"));
    let new = folder.path().join("new.mbtiles");
    let copied = folder.path().join("copied.mbtiles");
    let names =
        [("new", new.to_str().unwrap()), ("copied", copied.to_str().unwrap()), ("old", &target), ("url", &db.url)];
    for (line, by) in [
        "seed --zoom 0-2 --output {new} --database-url {url}",
        "seed --progress json --zoom 0-2 --output {new} --database-url {url}",
        "seed --dry-run --zoom 0-2 --output {new} --database-url {url}",
        "reseed --dry-run --output {old} --database-url {url}",
        "reseed --watch --progress json --output {old} --database-url {url}",
        "verify {old}",
        "inspect {old}",
        "inspect {old} 0/0/0 --geojson",
        "copy {old} {copied}",
        "track install --sql --layer facilities --database-url {url}",
        "track status {old} --database-url {url}",
        "track remove --sql --database-url {url}",
        "config",
    ]
    .iter()
    .zip(SIGNALS.into_iter().cycle())
    {
        let mut command = command(line, &names);
        let child = command.stdin(Stdio::null()).stdout(full.writer()).stderr(Stdio::piped()).start();
        waits(&child);
        interrupted(child, by, line);
    }
    // Nothing can be said to those who do not read standard error.
    for by in SIGNALS {
        let mut command = command("seed --progress lines --output {new} --database-url {url}", &names);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(full.writer()).start();
        waits(&child);
        stopped(child, by, "standard error");
    }
}

/// The commands that deal with a bucket.
const WITH_BUCKETS: [&str; 12] = [
    "seed --config {config} --output {prefix} --database-url {url}",
    "seed --config {config} --output {archive} --database-url {url}",
    "reseed --config {config} --output {prefix} --database-url {url}",
    "reseed --config {config} --output {archive} --database-url {url}",
    "verify {prefix} --config {config}",
    "inspect {archive} --config {config}",
    "copy {prefix} {new} --config {config}",
    "copy {old} {prefix} --config {config}",
    "publish --config {config} --output {prefix}",
    "publish --rollback --config {config} --output {prefix}",
    "track status {prefix} --config {config} --database-url {url}",
    "track prune {archive} --config {config} --database-url {url}",
];

fn stops_before_a_bucket(endpoint: &str, settings: &str, mut is_met: impl FnMut()) {
    let db = Db::with_facilities(20);
    let places = Places::with(Prefix::new());
    let target = tracked_target(&db, places.folder.path());
    let config = std::fs::read_to_string(&places.config).unwrap().replace(&places.prefix.endpoint, endpoint);
    std::fs::write(&places.config, config + settings).unwrap();
    let new = places.place("new.mbtiles");
    let (prefix, archive) = (places.place("s3:tiles/"), places.place("s3:t.pmtiles"));
    let names = [
        ("config", places.config.as_str()),
        ("prefix", &prefix),
        ("archive", &archive),
        ("new", &new),
        ("old", &target),
        ("url", &db.url),
    ];
    for (line, by) in WITH_BUCKETS.iter().zip(SIGNALS.into_iter().cycle()) {
        let child = start(places.with_keys(&mut command(line, &names)));
        is_met();
        interrupted(child, by, line);
    }
    assert!(!Path::new(&new).exists());
}

#[test]
fn a_bucket_that_does_not_answer() {
    let server = SilentServer::new(Silence::AtOnce);
    stops_before_a_bucket(&format!("http://{}", server.address), "", || server.meets_a_client());
}

#[test]
fn a_server_of_tiles_that_does_not_answer() {
    let (_folder, target) = small_target();
    for by in SIGNALS {
        let server = SilentServer::new(Silence::AtOnce);
        let url = format!("http://{}/{{z}}/{{x}}/{{y}}", server.address);
        let child = start(program().args(["diff", &target, &url]));
        server.meets_a_client();
        interrupted(child, by, "diff with a silent server");
    }
}

#[test]
fn a_bucket_that_is_asked_again_and_again() {
    let prefix = Prefix::new();
    let proxy = Proxy::before(&prefix.endpoint, |_| SLOW_DOWN);
    stops_before_a_bucket(&proxy.endpoint.clone(), "attempts = 20\n", || {
        until("a request", || !proxy.take_seen().is_empty());
    });
}

#[test]
fn a_bucket_that_falls_silent_when_something_has_to_be_undone() {
    let db = Db::with_facilities(300);
    let places = Places::new();
    let config = gated(places.folder.path(), Place::Render, "");
    let s3 = std::fs::read_to_string(&places.config).unwrap();
    let s3 = &s3[s3.find("[s3]").unwrap()..];
    for by in SIGNALS {
        let proxy = Proxy::before(&places.prefix.endpoint, |_| crate::support::proxy::Fault::None);
        let text = std::fs::read_to_string(&config).unwrap() + &s3.replace(&places.prefix.endpoint, &proxy.endpoint);
        let path = places.folder.path().join("undo.toml");
        std::fs::write(&path, text).unwrap();
        let gate = Gate::close(&db);
        let mut command = command("seed --progress none --zoom 0-5", &[]);
        command.args(["--database-url", &db.url, "--output", &places.place("s3:tiles/"), "--config"]).arg(&path);
        let child = start(places.with_keys(&mut command));
        gate.wait_for(1);
        // The lease is held, and cannot be given back.
        proxy.rule(|_| crate::support::proxy::Fault::Slow(Duration::from_secs(30)));
        interrupted(child, by, "the lease");
        gate.open();
        proxy.rule(|_| crate::support::proxy::Fault::None);
        until("the next run gets the lease", || {
            let mut command = crate::support::program::seed_command(
                &db.url,
                Path::new(&places.place("s3:tiles/")),
                &["--config", path.to_str().unwrap(), "--zoom", "0-1"],
            );
            run(places.with_keys(command.arg("--force"))).code == 0
        });
    }
}

#[test]
fn a_lock_in_the_database() {
    let db = Db::with_facilities(20);
    let folder = tempfile::tempdir().unwrap();
    let target = tracked_target(&db, folder.path());
    db.run("UPDATE api_facility SET name = 'changed'");
    let new = folder.path().join("new.mbtiles");
    let names = [("new", new.to_str().unwrap()), ("old", &target), ("url", &db.url)];
    // Not by pg_stat_activity, which shows one state to a whole transaction.
    let waiting = "SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
                   WHERE d.datname = current_database() AND NOT l.granted";
    for (table, lines) in [
        (
            "oar_tiles.change",
            &[
                "reseed --output {old} --database-url {url}",
                "reseed --dry-run --output {old} --database-url {url}",
                "reseed --watch --output {old} --database-url {url}",
                "track status {old} --database-url {url}",
                "track prune --older-than 1h --database-url {url}",
                "track remove --database-url {url}",
            ][..],
        ),
        (
            "api_facility",
            &[
                "seed --output {new} --database-url {url}",
                "seed --dry-run --output {new} --database-url {url}",
                "reseed --output {old} --database-url {url}",
                "verify {old} --database --database-url {url}",
                "track remove --database-url {url}",
            ],
        ),
    ] {
        for line in lines {
            for by in SIGNALS {
                db.run(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"));
                let child = start(&mut command(line, &names));
                until("a session waits for the lock", || db.value::<i64>(waiting) > 0);
                interrupted(child, by, &format!("{table}: {line}"));
                // It was cancelled in the server, too.
                until("the server lets go", || db.value::<i64>(waiting) == 0);
                db.run("ROLLBACK");
            }
        }
    }
    // Nothing of all that was done.
    run(&mut command("track status {old} --database-url {url}", &names)).ok();
}

#[test]
fn an_archive_that_another_program_reads() {
    let db = Db::with_facilities(20);
    let folder = tempfile::tempdir().unwrap();
    let target = tracked_target(&db, folder.path());
    db.run("UPDATE api_facility SET name = 'changed'");
    let before = std::fs::read(&target).unwrap();
    let other = rusqlite::Connection::open(&target).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    for by in SIGNALS {
        let child =
            start(&mut command("reseed --output {old} --database-url {url}", &[("old", &target), ("url", &db.url)]));
        // It looks at the lock a hundred times a second, and has opened the archive before.
        until("it waits for the archive", || {
            std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().flatten().any(|fd| {
                std::fs::read_link(fd.path()).is_ok_and(|path| path == Path::new(&target).canonicalize().unwrap())
            })
        });
        interrupted(child, by, "the archive");
    }
    drop(other);
    assert!(std::fs::read(&target).unwrap() == before);
}
