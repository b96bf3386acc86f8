//! Real servers that are not as one would have them: poolers, standbys, holders that die.

use std::path::Path;

use super::helpers::{Sharded, names, write};
use crate::support::database::with_database;
use crate::support::gate::gated;
use crate::support::pooler::{Pooler, address, spread};
use crate::support::program::{Run, program, run, seed, signal, wait};
use crate::support::tracked::{Tracked, differences};
use crate::support::{Archive, Cluster, Db, Gate, Place, until};

/// A verb against another address of the database.
fn elsewhere(sharded: &Sharded, url: &str, verb: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = program();
    command.args(["shards", verb, "--work", &sharded.work, "--progress", "none", "--database-url", url]);
    command.args(&sharded.more).args(arguments);
    command
}

#[test]
fn a_pooler_with_too_few_connections_delays_shards_and_mixes_nothing() {
    let tracked = Tracked::facilities(200);
    let sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
    // A shard with one worker wants three sessions at once, or more while it plans.
    let url = Pooler::new(4);
    let url_of = url.url(&tracked.db);
    run(&mut elsewhere(&sharded, &url_of, "begin", &["--shards", "3", "--output", &sharded.target])).ok();
    let mut random = fastrand::Rng::with_seed(4);
    for shard in ["1", "2", "3"] {
        write(&tracked.db, &mut random);
        run(&mut elsewhere(&sharded, &url_of, "run", &["--shard", shard, "--workers", "1"])).ok();
    }
    run(&mut elsewhere(&sharded, &url_of, "commit", &["--workers", "1"])).ok();
    tracked.is_fresh(Path::new(&sharded.target), &["--zoom", "0-7"]);
}

#[test]
fn one_address_for_a_primary_and_a_standby_is_refused_with_both_names_and_mixes_nothing() {
    let primary = Cluster::new();
    let db = Db::with_facilities_on(&primary.url_tcp, 100);
    let tracked = Tracked::over(db);
    let standby = Cluster::standby_of(&primary);
    let (first, second) = (address(&primary.url_tcp), address(&standby.url_tcp));
    for held in [true, false] {
        let mut sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
        sharded.work = tracked.path(&format!("work{held}/")).to_str().unwrap().to_owned();
        let holder = held.then(|| sharded.start("begin", &["--shards", "2", "--hold"]));
        if holder.is_none() {
            sharded.begin(2, &[]);
        }
        until("the run is begun", || sharded.verb("status", &[]).code == 0);
        // Every second session is one of the standby.
        let port = spread(vec![first.clone(), second.clone()], |_| ());
        let url = with_database(&primary.url_tcp, &tracked.db.name).replace(&first, &format!("127.0.0.1:{port}"));
        let refused = run(&mut elsewhere(&sharded, &url, "run", &["--shard", "1"]));
        let texts = ["stands for several servers", &format!("{first} (started "), &format!("{second} (started ")];
        refused.fails(1, &texts);
        assert!(!Path::new(&sharded.target).exists(), "nothing was published");
        for shard in 1..=2 {
            sharded.run(shard).ok();
        }
        sharded.verb("commit", &[]).ok();
        holder.map(|holder| wait(holder).ok());
        tracked.is_fresh(Path::new(&sharded.target), &["--zoom", "0-7"]);
        std::fs::remove_file(&sharded.target).unwrap();
    }
}

#[test]
fn while_a_shard_has_the_snapshot_the_death_of_the_holder_ends_nothing() {
    let db = Db::with_facilities(60);
    let folder = tempfile::tempdir().unwrap();
    let mut sharded = Sharded::into(&db, folder.path(), "t.mbtiles");
    let config = gated(folder.path(), Place::Rows, "");
    sharded.more.extend(["--config".to_owned(), config.clone()]);
    let then = folder.path().join("then.mbtiles");
    seed(&db.url, &then, &["--zoom", "0-7", "--config", &config]).ok();
    let holder = sharded.start("begin", &["--shards", "2", "--hold"]);
    until("the run is begun", || sharded.verb("status", &[]).code == 0);
    let gate = Gate::close(&db);
    let first = sharded.start("run", &["--shard", "1", "--workers", "1"]);
    gate.wait_for(1);
    signal(&holder, "KILL");
    wait(holder);
    db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 30)");
    let second = sharded.start("run", &["--shard", "2", "--workers", "1"]);
    gate.wait_for(2);
    gate.open();
    wait(first).ok();
    wait(second).ok();
    sharded.verb("commit", &[]).ok();
    let (found, then) = (Archive::open(Path::new(&sharded.target)).stored(), Archive::open(&then).stored());
    assert_eq!(differences(&found, &then).len(), 0);
}

#[test]
fn a_commit_waits_for_a_replica_that_is_behind() {
    let primary = Cluster::new();
    let tracked = Tracked::over(Db::with_facilities_on(&primary.url_tcp, 100));
    let standby = Cluster::standby_of(&primary);
    let replica = Db::there(&standby.url, &tracked.db.name);
    let url = with_database(&standby.url, &tracked.db.name);
    let sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
    sharded.begin(2, &[]);
    let caught_up = || {
        let now = tracked.db.value::<String>("SELECT pg_current_wal_lsn()::text");
        until("the replica has all", || {
            replica.value::<bool>(&format!("SELECT pg_last_wal_replay_lsn() >= '{now}'::pg_lsn"))
        });
    };
    caught_up();
    // Once it goes on, sessions of the replica are not to be ended by what it replays.
    replica.run("ALTER SYSTEM SET max_standby_streaming_delay = -1");
    replica.run("SELECT pg_reload_conf()");
    replica.run("SELECT pg_wal_replay_pause()");
    let mut random = fastrand::Rng::with_seed(8);
    write(&tracked.db, &mut random);
    (1..=2).for_each(|shard| drop(sharded.run(shard).ok()));
    let commit = |more: &[&str]| -> Run { run(&mut elsewhere(&sharded, &url, "commit", more)) };
    commit(&["--catch-up", "1s"]).fails(
        1,
        &["the database has not seen yet what shard 1 has", "commit against the primary, wait longer with --catch-up"],
    );
    assert!(!Path::new(&sharded.target).exists());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| commit(&[]));
        std::thread::sleep(std::time::Duration::from_secs(2));
        replica.run("SELECT pg_wal_replay_resume()");
        waiting.join().unwrap().ok();
    });
    caught_up();
    tracked.is_fresh(Path::new(&sharded.target), &["--zoom", "0-7"]);
    assert_eq!(names(Path::new(&sharded.work), "shard"), [""; 0]);
}
