//! `oar-tiles reseed --watch`: woken by a commit, steady through outages, gone when asked.

use crate::support::gate::gated;
use crate::support::program::{program, run};
use crate::support::tracked::Tracked;
use crate::support::watch_process::Watching;
use crate::support::{Archive, Cluster, Db, Gate, Place, seed, until};

const ZOOM: [&str; 2] = ["--zoom", "0-8"];

#[test]
fn a_commit_wakes_it_and_a_signal_ends_it_with_success() {
    let tracked = Tracked::over(Db::with_facilities(300));
    let target = tracked.seed("t.mbtiles", &ZOOM);
    // The poll is so slow that only a notice can wake it.
    let watching = Watching::start(&tracked.db.url, &target, &["--poll", "1h"]);
    until("somebody watches", || tracked.db.value::<bool>(WATCHED));
    for round in 0..3 {
        tracked.db.run(&format!("UPDATE api_facility SET name = 'w{round}' WHERE id < 'C'"));
        watching.says(" dirty tile");
        until("the target shows it", || {
            let done = run(program()
                .args(["reseed", "--dry-run", "--database-url", &tracked.db.url, "--output"])
                .arg(&target))
            .ok();
            done.stdout.starts_with("nothing to do")
        });
        tracked.is_fresh(&target, &ZOOM);
    }
    assert_eq!(watching.end(), 0);
}

#[test]
fn while_writers_commit_all_the_time_it_wants_no_notifications_and_misses_nothing() {
    let tracked = Tracked::over(Db::with_facilities(300));
    let target = tracked.seed("t.mbtiles", &ZOOM);
    // The poll is so slow that only a notification, or a look of its own, can find a change.
    let watching = Watching::start(&tracked.db.url, &target, &["--poll", "1h"]);
    until("somebody watches", || tracked.db.value::<bool>(WATCHED));
    let mut number = 0;
    let mut edit = || {
        number += 1;
        tracked.db.run(&format!("UPDATE api_facility SET name = 'w{number}' WHERE id < 'C'"));
    };
    let is_shown = || {
        let mut command = program();
        command.args(["reseed", "--dry-run", "--database-url", &tracked.db.url, "--output"]).arg(&target);
        run(&mut command).ok().stdout.starts_with("nothing to do")
    };
    until("it gives up notifications", || {
        edit();
        !tracked.db.value::<bool>(WATCHED)
    });
    edit();
    until("the target shows the last edit", is_shown);
    // Its trigger finds nobody who waits, and somebody does when it commits.
    let early = tracked.db.again();
    early.run("BEGIN; UPDATE api_facility SET name = 'early' WHERE id < 'C'");
    until("it wants notifications again", || tracked.db.value::<bool>(WATCHED));
    // Longer than the pause between two polls.
    std::thread::sleep(std::time::Duration::from_millis(1_200));
    early.run("COMMIT");
    until("the target shows an edit that sent no notification", is_shown);
    edit();
    until("the target shows an edit that sent one", is_shown);
    assert_eq!(watching.end(), 0);
    tracked.is_fresh(&target, &ZOOM);
}

#[test]
fn a_lost_notice_costs_no_more_than_a_poll() {
    let tracked = Tracked::over(Db::with_facilities(300));
    let target = tracked.seed("t.mbtiles", &ZOOM);
    let watching = Watching::start(&tracked.db.url, &target, &["--poll", "200ms"]);
    // Noted as if nobody had watched: no notice is sent.
    tracked.db.run("DELETE FROM api_facility WHERE id < 'C'");
    watching.says(" dirty tile");
    assert_eq!(watching.end(), 0);
    tracked.is_fresh(&target, &ZOOM);
}

#[test]
fn a_restarted_database_is_waited_for_and_watched_again() {
    // What no commit has the server write is lost.
    let mut cluster = Cluster::with(&["wal_writer_delay=10s"]);
    let mut tracked = Tracked::over(Db::with_facilities_on(&cluster.url, 300));
    let target = tracked.seed("t.mbtiles", &ZOOM);
    let watching = Watching::start(&tracked.db.url, &target, &["--poll", "1s"]);
    tracked.db.run("UPDATE api_facility SET name = 'before' WHERE id < 'C'");
    watching.says(" dirty tile");
    cluster.crash();
    watching.says("trying again in ");
    cluster.start();
    tracked.db.reconnect();
    tracked.db.run("UPDATE api_facility SET name = 'after' WHERE id < 'C'");
    watching.says(" dirty tile");
    assert_eq!(watching.end(), 0);
    tracked.is_fresh(&target, &ZOOM);
}

#[test]
fn what_needs_a_seed_ends_it() {
    let db = Db::with_facilities(100);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    let watching = Watching::start(&db.url, &target, &[]);
    watching.says("needs a full seed: there is none yet");
    assert_eq!(watching.ended(), 4);
}

/// Whether somebody waits for the triggers' notifications.
const WATCHED: &str = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

#[test]
fn whoever_holds_the_advisory_lock_holds_nobody_up() {
    let tracked = Tracked::over(Db::with_facilities(300));
    let target = tracked.seed("t.mbtiles", &ZOOM);
    let (class, object) = oar_tiles::change_log::WATCHER_LOCK;
    // Any role may take it. And in the session that holds it, the triggers see nobody who waits, and send no
    // notification.
    tracked.db.run(&format!("SELECT pg_advisory_lock({class}, {object})"));
    let watching = Watching::start(&tracked.db.url, &target, &["--poll", "1h"]);
    watching.says(&format!("another session holds the advisory lock ({class}, {object})"));
    for round in 0..2 {
        tracked.db.run(&format!("UPDATE api_facility SET name = 'w{round}' WHERE id < 'C'"));
        watching.says(" dirty tile");
        tracked.is_fresh(&target, &ZOOM);
    }
    // Once it is free, notifications come again.
    tracked.db.run(&format!("SELECT pg_advisory_unlock({class}, {object})"));
    until("somebody watches", || tracked.db.value::<bool>(WATCHED));
    tracked.db.run("UPDATE api_facility SET name = 'free' WHERE id < 'C'");
    watching.says(" dirty tile");
    tracked.is_fresh(&target, &ZOOM);
    assert_eq!(watching.end(), 0);
}

#[test]
fn where_transactions_may_be_prepared_changes_are_looked_for_and_it_says_so() {
    let cluster = Cluster::with(&["max_prepared_transactions=10"]);
    let tracked = Tracked::over(Db::with_facilities_on(&cluster.url, 300));
    let target = tracked.seed("t.mbtiles", &ZOOM);
    let watching = Watching::start(&tracked.db.url, &target, &["--poll", "1h"]);
    let told = watching.says("no notifications wake this run (max_prepared_transactions is 10 in this server");
    assert!(told.contains("it looks into the change log every 100ms instead"), "{told}");
    let status = run(program().args(["track", "status", "--database-url", &tracked.db.url]).arg(&target)).ok();
    assert!(
        status.stdout.contains("no notifications wake reseed --watch (max_prepared_transactions is 10 in this server"),
        "{}",
        status.stdout
    );
    let status =
        run(program().args(["track", "status", "--json", "--database-url", &tracked.db.url]).arg(&target)).ok();
    assert!(status.stdout.contains("\"no_notifications\": \"max_prepared_transactions is 10"), "{}", status.stdout);
    // One that was prepared first and is committed last has the older number.
    tracked.db.run("BEGIN; UPDATE api_facility SET name = 'first' WHERE id < 'C'; PREPARE TRANSACTION 'first'");
    for change in [
        "UPDATE api_facility SET name = 'second' WHERE id > 'C'",
        "COMMIT PREPARED 'first'",
        "BEGIN; UPDATE api_facility SET name = 'third' WHERE id > 'C'; PREPARE TRANSACTION 'third'; COMMIT PREPARED 'third'",
    ] {
        for statement in change.split("; ") {
            tracked.db.run(statement);
        }
        watching.says(" dirty tile");
        tracked.is_fresh(&target, &ZOOM);
    }
    assert_eq!(watching.end(), 0);
}

#[test]
fn a_standby_is_looked_at_for_changes() {
    let primary = Cluster::new();
    let db = Db::with_facilities_on(&primary.url, 300);
    run(program().args(["track", "install", "--database-url", &db.url])).ok();
    let standby = Cluster::standby_of(&primary);
    let url = crate::support::database::with_database(&standby.url, &db.name);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    until("the standby has caught up", || seed(&url, &target, &["--zoom", "0-8"]).code == 0);
    let watching = Watching::start(&url, &target, &["--poll", "1h"]);
    watching.says("no notifications wake this run (this server is a standby");
    for round in 0..2 {
        db.run(&format!("UPDATE api_facility SET name = 'w{round}' WHERE id < 'C'"));
        watching.says(" dirty tile");
    }
    assert_eq!(watching.end(), 0);
}

#[test]
fn a_signal_lets_tiles_in_hand_be_finished() {
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    let config = gated(folder.path(), Place::Render, "");
    run(program().args(["track", "install", "--config", &config, "--database-url", &db.url])).ok();
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--config", &config, "--zoom", "0-8"]).ok();
    db.run("UPDATE api_facility SET name = 'in hand' WHERE id < 'C'");
    let gate = Gate::close(&db);
    let watching = Watching::start(&db.url, &target, &["--config", &config]);
    gate.wait_for(1);
    watching.signal("TERM");
    gate.open();
    watching.says(" dirty tile");
    assert_eq!(watching.ended(), 0);
    let fresh = folder.path().join("fresh.mbtiles");
    seed(&db.url, &fresh, &["--config", &config, "--zoom", "0-8"]).ok();
    assert!(Archive::open(&target).stored() == Archive::open(&fresh).stored());
}
