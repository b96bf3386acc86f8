//! Installing, removing and pruning beside open transactions: who waits for whom, and how long.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::support::tracked::{SOME, Tracked};
use crate::support::tracking::Tracking;
use crate::support::{Cluster, Db, until};

const MILLS: &str = "
    CREATE TABLE a (id int PRIMARY KEY, location geometry(Point, 4326)); CREATE TABLE b (LIKE a INCLUDING ALL);
    INSERT INTO a VALUES (1, NULL), (2, NULL); INSERT INTO b VALUES (1, NULL);";

const LAYERS: &str = "[[layer]]\nname = \"a\"\ntable = \"a\"\nproperties = []\n[[layer]]\nname = \"b\"\ntable = \"b\"\nproperties = []\n";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn connected(runtime: &tokio::runtime::Runtime, url: &str) -> Client {
    let (client, connection) = runtime.block_on(tokio_postgres::connect(url, NoTls)).unwrap();
    runtime.spawn(connection);
    client
}

#[test]
fn no_writer_is_ended_by_a_deadlock_with_an_install_or_a_removal() {
    let tracking = Tracking::over(MILLS, LAYERS);
    let runtime = runtime();
    for arguments in [&["install"][..], &["remove"]] {
        let writer = connected(&runtime, &tracking.db.url);
        runtime.block_on(writer.batch_execute("BEGIN; UPDATE public.b SET id = id")).unwrap();
        std::thread::scope(|scope| {
            let command = scope.spawn(|| tracking.track(arguments).ok());
            std::thread::sleep(Duration::from_millis(1500));
            // The command wants both tables, and one of them is the writer's.
            runtime.block_on(writer.batch_execute("UPDATE public.a SET id = id; SELECT pg_sleep(2); COMMIT")).unwrap();
            command.join().unwrap();
        });
    }
}

#[test]
fn writers_wait_no_longer_than_a_try_of_an_install() {
    let tracking = Tracking::over(MILLS, LAYERS);
    let runtime = runtime();
    let (long, short) = (connected(&runtime, &tracking.db.url), connected(&runtime, &tracking.db.url));
    for arguments in [&["install"][..], &["remove"]] {
        runtime.block_on(long.batch_execute("BEGIN; UPDATE public.a SET id = id WHERE id = 1")).unwrap();
        let longest = std::thread::scope(|scope| {
            let begun = Instant::now();
            let command = scope.spawn(|| tracking.track(arguments));
            let mut longest = Duration::ZERO;
            while !command.is_finished() {
                let write = Instant::now();
                runtime.block_on(short.batch_execute("UPDATE public.a SET id = id WHERE id = 2")).unwrap();
                longest = longest.max(write.elapsed());
                std::thread::sleep(Duration::from_millis(20));
            }
            let verb = arguments[0];
            command.join().unwrap().fails(
                1,
                &[&format!("a table was not free within 10 s to {verb} the change log: nothing was changed. Run the command again when no long transaction writes it")],
            );
            assert!(begun.elapsed() > Duration::from_secs(9), "{:?}", begun.elapsed());
            longest
        });
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        runtime.block_on(long.batch_execute("COMMIT")).unwrap();
        tracking.track(&["install"]).ok();
    }
}

#[test]
fn who_holds_the_lock_of_installs_is_named() {
    let tracking = Tracking::over(MILLS, LAYERS);
    let runtime = runtime();
    let other = connected(&runtime, &tracking.db.url);
    runtime
        .block_on(other.batch_execute("SET application_name = 'a cuckoo'; SELECT pg_advisory_lock(1868657268, 2)"))
        .unwrap();
    let pid: i32 = runtime.block_on(other.query_one("SELECT pg_backend_pid()", &[])).unwrap().get(0);
    tracking.install(&[]).fails(
        1,
        &[
            "the advisory lock (1868657268, 2), which one install at a time takes, was not free within 10 s: nothing was changed",
            &format!("cause: process {pid} (a cuckoo, role oar_tiles) holds the advisory lock"),
        ],
    );
    runtime.block_on(other.batch_execute("SELECT pg_advisory_unlock(1868657268, 2)")).unwrap();
    tracking.install(&[]).ok();
}

#[test]
fn an_autovacuum_does_not_keep_an_install_out() {
    let cluster = Cluster::with(&["autovacuum=on", "autovacuum_naptime=1"]);
    let db = Db::on(&cluster.url);
    db.run("CREATE EXTENSION postgis");
    db.run(MILLS);
    // A page in a tenth of a second.
    db.run(
        "ALTER TABLE a SET (autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1);
         INSERT INTO a SELECT i FROM generate_series(10, 100000) AS i; DELETE FROM a WHERE id > 10",
    );
    let tracking = Tracking::of(db, LAYERS);
    until("an autovacuum is at work", || {
        tracking.db.value::<bool>("SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum WHERE relid = 'a'::regclass)")
    });
    tracking.install(&[]).ok();
}

#[test]
fn an_open_transaction_that_keeps_entries_in_the_log_is_named() {
    // A server of its own: other tests' transactions would keep the entries, too.
    let cluster = Cluster::with(&["max_prepared_transactions=2"]);
    let tracked = Tracked::over(Db::with_facilities_on(&cluster.url, 500));
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-3"]);
    let runtime = runtime();
    let other = connected(&runtime, &tracked.db.url);
    let pid: i32 = runtime.block_on(other.query_one("SELECT pg_backend_pid()", &[])).unwrap().get(0);
    for (end, named) in [
        ("", format!("because a transaction of process {pid} is open")),
        ("PREPARE TRANSACTION 'forgotten'", "because the prepared transaction 'forgotten' is open".to_owned()),
    ] {
        runtime.block_on(other.batch_execute(&format!("ROLLBACK; BEGIN; SELECT pg_current_xact_id(); {end}"))).unwrap();
        tracked.db.run(&format!("UPDATE api_facility SET name = name || 'x' WHERE {SOME}"));
        tracked.reseed(&target, &[]).ok();
        let pruned = tracked.oar_tiles(&["track", "prune", target.to_str().unwrap()]).ok().stdout;
        assert!(pruned.contains(" left, ") && pruned.contains(&named), "{named}: {pruned}");
    }
    runtime.block_on(other.batch_execute("ROLLBACK PREPARED 'forgotten'")).unwrap();
    tracked.db.run(&format!("UPDATE api_facility SET name = name || 'x' WHERE {SOME}"));
    tracked.reseed(&target, &[]).ok();
    assert!(tracked.oar_tiles(&["track", "prune", target.to_str().unwrap()]).ok().stdout.contains(", 0 left\n"));
}
