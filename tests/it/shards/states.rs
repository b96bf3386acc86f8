//! One state: tracked, held, frozen; and databases that are not that of the plan.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::helpers::{Sharded, names, write};
use crate::support::program::{seed, signal, wait};
use crate::support::tracked::{Tracked, differences};
use crate::support::{Archive, Cluster, Db, until};

#[test]
fn while_others_write_the_commit_shows_its_own_state() {
    let tracked = Tracked::facilities(300);
    let sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
    let mut random = fastrand::Rng::with_seed(22);
    sharded.begin(5, &[]);
    for shard in [4, 1, 5, 2, 3] {
        (0..4).for_each(|_| write(&tracked.db, &mut random));
        sharded.run(shard).ok();
        if shard == 4 {
            // Every tile of the first shard, and what no later shard has to tell.
            tracked.db.run("UPDATE api_facility SET name = name || ' & Sons'");
        }
    }
    (0..4).for_each(|_| write(&tracked.db, &mut random));
    sharded.verb("commit", &[]).ok();
    let target = Path::new(&sharded.target);
    tracked.is_fresh(target, &["--zoom", "0-7"]);
    // Its cursor is that of the commit: nothing is left to do.
    let report = tracked.path("report.json");
    tracked.reseed(target, &["--report", report.to_str().unwrap()]).ok();
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(report["dirty"], 0);
}

#[test]
fn no_change_is_missed_that_comes_during_the_commit() {
    let tracked = Tracked::facilities(200);
    let sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
    let ended = AtomicBool::new(false);
    let writer = tracked.db.again();
    std::thread::scope(|scope| {
        let ended = &ended;
        scope.spawn(move || {
            let mut random = fastrand::Rng::with_seed(7);
            while !ended.load(Ordering::Relaxed) {
                write(&writer, &mut random);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sharded.whole(3, &[])));
        ended.store(true, Ordering::Relaxed);
        done.unwrap();
    });
    let target = Path::new(&sharded.target);
    tracked.reseed(target, &[]).ok();
    tracked.is_fresh(target, &["--zoom", "0-7"]);
}

#[test]
fn held_shards_show_the_snapshot_of_the_plan_though_sessions_may_not_idle() {
    let db = Db::with_facilities(200);
    db.run(&format!("ALTER DATABASE {} SET idle_in_transaction_session_timeout = '1s'", db.name));
    let folder = tempfile::tempdir().unwrap();
    let then = folder.path().join("then.mbtiles");
    seed(&db.url, &then, &["--zoom", "0-7"]).ok();
    let sharded = Sharded::into(&db, folder.path(), "t.mbtiles");
    let holder = sharded.start("begin", &["--shards", "3", "--hold"]);
    until("the run is begun", || sharded.verb("status", &[]).code == 0);
    std::thread::sleep(Duration::from_millis(1_500));
    let mut random = fastrand::Rng::with_seed(3);
    for shard in 1..=3 {
        (0..5).for_each(|_| write(&db, &mut random));
        sharded.run(shard).ok();
    }
    sharded.verb("commit", &[]).ok();
    assert_eq!(wait(holder).code, 0, "it ends with the commit");
    let (found, then) = (Archive::open(Path::new(&sharded.target)).stored(), Archive::open(&then).stored());
    assert_eq!(differences(&found, &then).len(), 0);
}

#[test]
fn without_the_holder_a_shard_says_that_the_snapshot_is_gone() {
    let db = Db::with_facilities(50);
    let folder = tempfile::tempdir().unwrap();
    let sharded = Sharded::into(&db, folder.path(), "t.mbtiles");
    let holder = sharded.start("begin", &["--shards", "2", "--hold"]);
    until("the run is begun", || sharded.verb("status", &[]).code == 0);
    sharded.run(1).ok();
    signal(&holder, "KILL");
    wait(holder);
    until("its session has ended", || {
        db.value::<i64>("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()") == 0
    });
    sharded.run(2).fails(4, &["the snapshot of run ", " is gone"]);
    sharded.verb("commit", &[]).fails(1, &["1 of 2 shards of run ", " are not done: 2. Run these again"]);
    sharded.verb("abort", &[]).ok();
    assert!(!Path::new(&sharded.target).exists());
    assert_eq!(names(Path::new(&sharded.work), ""), [".oar-tiles"]);
}

#[test]
fn a_frozen_database_that_changes_is_refused() {
    let db = Db::with_facilities(50);
    let folder = tempfile::tempdir().unwrap();
    let sharded = Sharded::into(&db, folder.path(), "t.mbtiles");
    sharded.begin(2, &["--frozen"]);
    write(&db, &mut fastrand::Rng::with_seed(1));
    sharded.run(2).fails(4, &["the database is not as it was when run ", "--frozen needs a copy that nobody writes"]);
}

#[test]
fn a_snapshot_of_the_same_name_on_another_server_or_of_another_state_is_refused_with_both() {
    let db = Db::with_facilities(20);
    let folder = tempfile::tempdir().unwrap();
    let sharded = Sharded::into(&db, folder.path(), "t.mbtiles");
    let holder = sharded.start("begin", &["--shards", "1", "--hold"]);
    until("the run is begun", || sharded.verb("status", &[]).code == 0);
    let status: serde_json::Value = serde_json::from_str(&sharded.verb("status", &["--json"]).stdout).unwrap();
    let notes = sharded.notes(status["run"].as_str().unwrap());
    let path = notes.join(&names(&notes, "snapshot-")[0]);
    let text = std::fs::read_to_string(&path).unwrap();
    // The name is that of a snapshot here: nothing but its origin tells that another one is meant.
    for (part, other) in [("started", "2020-02-02 00:00:00+00"), ("database", "7"), ("snapshot", "7:7:")] {
        let mut note: serde_json::Value = serde_json::from_str(&text).unwrap();
        note["origin"][part] = other.into();
        std::fs::write(&path, note.to_string()).unwrap();
        let texts = ["stands for several servers, and the sessions of a run need one: ", " (started ", ", and "];
        let refused = sharded.verb("run", &["--shard", "1"]).fails(1, &texts);
        assert!(part == "database" || refused.stderr.contains(other), "{}", refused.stderr);
    }
    std::fs::write(&path, text).unwrap();
    sharded.run(1).ok();
    sharded.verb("commit", &[]).ok();
    wait(holder).ok();
}

#[test]
fn a_standby_is_not_the_server_of_a_held_snapshot() {
    let primary = Cluster::new();
    let db = Db::with_facilities_on(&primary.url_tcp, 50);
    let standby = Cluster::standby_of(&primary);
    let folder = tempfile::tempdir().unwrap();
    let sharded = Sharded::into(&db, folder.path(), "t.mbtiles");
    let holder = sharded.start("begin", &["--shards", "2", "--hold"]);
    until("the run is begun", || sharded.verb("status", &[]).code == 0);
    let elsewhere = crate::support::database::with_database(&standby.url_tcp, &db.name);
    let mut command = crate::support::program::program();
    command.args(["shards", "run", "--work", &sharded.work, "--shard", "1", "--progress", "none"]);
    command.args(["--database-url", &elsewhere]).args(&sharded.more);
    let refused = crate::support::program::run(&mut command);
    refused.fails(1, &["stands for several servers, and the sessions of a run need one: ", " (started ", ", and "]);
    signal(&holder, "TERM");
    assert_eq!(wait(holder).code, 143);
}

#[test]
fn a_commit_that_would_lose_rows_is_refused_unless_that_is_allowed() {
    for hold in [false, true] {
        let tracked = Tracked::facilities(600);
        let mut sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
        sharded.variables = vec![("OAR_TILES_MAX_SHRINK".to_owned(), "50%".to_owned())];
        sharded.whole(2, &[]);
        let before = std::fs::read(&sharded.target).unwrap();
        let loss = || tracked.db.run("DELETE FROM api_facility WHERE id NOT IN (SELECT id FROM api_facility LIMIT 40)");
        let mut holder = None;
        if hold {
            loss();
            holder = Some(sharded.start("begin", &["--shards", "2", "--hold"]));
            until("the run is begun", || sharded.verb("status", &[]).code == 0);
        } else {
            sharded.begin(2, &[]);
        }
        (1..=2).for_each(|shard| drop(sharded.run(shard).ok()));
        if !hold {
            // What the plan has counted is gone when the shards are committed.
            loss();
        }
        let said = "t.mbtiles would lose rows: layer \"facilities\" had 600 rows in the last day and has 40 now, \
                    93 % fewer. max_shrink is 50%";
        sharded.verb("commit", &[]).fails(1, &[said, "--allow-shrink"]);
        assert!(std::fs::read(&sharded.target).unwrap() == before, "the target was touched");
        sharded.verb("commit", &["--allow-shrink"]).ok();
        if let Some(holder) = holder {
            drop(wait(holder).ok());
        }
        // The next run compares with what there is now.
        sharded.whole(2, &[]);
        tracked.is_fresh(Path::new(&sharded.target), &["--zoom", "0-7"]);
    }
}
