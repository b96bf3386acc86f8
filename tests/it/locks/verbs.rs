//! Locks and every verb that reads the database; locks that others hold when a run begins; what is too much for the
//! server.

use std::process::{Command, Stdio};

use crate::support::gate::gated;
use crate::support::other_sessions::{Connection, Statements};
use crate::support::process::Start as _;
use crate::support::program::{over_rows, program, run, wait};
use crate::support::{Archive, Cluster, Db, Gate, OldTarget, Place, database, seed, until};

/// A run of a verb, not started yet.
fn command(verb: &[&str], url: &str, config: &str, target: &std::path::Path) -> Command {
    let mut command = program();
    command.args(verb).args(["--config", config, "--database-url", url]);
    if verb[0] == "verify" || verb[0] == "track" {
        command.arg(target);
    } else {
        command.args(["--progress", "none", "--output"]).arg(target);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn every_verb_gives_way_and_ends_well() {
    let db = Db::with_facilities(150);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    let config = gated(folder.path(), Place::Render, "[database]\nlock_timeout = \"300ms\"\n");
    run(program().args(["track", "install", "--config", &config, "--database-url", &db.url])).ok();
    seed(&db.url, &target, &["--config", &config, "--zoom", "0-5"]).ok();
    let verbs: [&[&str]; 3] = [&["seed", "--dry-run", "--zoom", "0-5"], &["verify", "--database"], &["reseed"]];
    for (number, verb) in verbs.iter().enumerate() {
        db.run("UPDATE api_facility SET updated_at = now()");
        if verb[0] == "reseed" {
            db.run("UPDATE api_facility SET name = upper(name) WHERE id < 'C'");
        }
        let gate = Gate::close(&db);
        let child = command(verb, &db.url, &config, &target).start();
        gate.wait_for(1);
        let altered = format!("ALTER TABLE api_facility ADD COLUMN more_{number} int");
        Statements::start(&db.url, &[&altered]).end(verb[0]);
        gate.open();
        let ended = wait(child).ok();
        assert!(
            ended.stderr.contains(", ALTER TABLE) waited for \"public\".\"api_facility\" longer than lock_timeout (300ms) behind this run, which gave way: starting over on a new snapshot (1 of 3)"),
            "{verb:?}: {}",
            ended.stderr
        );
    }
    let fresh = folder.path().join("fresh.mbtiles");
    seed(&db.url, &fresh, &["--config", &config, "--zoom", "0-5"]).ok();
    assert!(Archive::open(&target).stored() == Archive::open(&fresh).stored());
}

#[test]
fn a_lock_that_others_hold_all_the_time_is_named_with_its_holder() {
    let db = Db::with_facilities(100);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    let config = folder.path().join("c.toml");
    std::fs::write(&config, over_rows("[database]\nlock_timeout = \"200ms\"\nrestarts = 1\n")).unwrap();
    let config = config.to_str().unwrap();
    run(program().args(["track", "install", "--config", config, "--database-url", &db.url])).ok();
    seed(&db.url, &target, &["--config", config, "--zoom", "0-4"]).ok();
    let before = std::fs::read(&target).unwrap();
    db.run("UPDATE api_facility SET name = upper(name) WHERE id < 'C'");
    let role = format!("{}_reader", db.name);
    db.run(&format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT ON api_facility TO {role};
         GRANT USAGE ON SCHEMA oar_tiles TO {role}; GRANT SELECT ON ALL TABLES IN SCHEMA oar_tiles TO {role}"
    ));
    let reader = db.url.replacen("oar_tiles@", &format!("{role}@"), 1);
    let holder = Connection::open(&db.url, "migration");
    let pid: i32 = holder.value("SELECT pg_backend_pid()");
    holder.run("BEGIN; ALTER TABLE api_facility ADD COLUMN more int");
    let verbs: [&[&str]; 6] = [
        &["seed"],
        &["seed", "--dry-run"],
        &["verify", "--database"],
        &["reseed"],
        &["reseed", "--or-seed", "--dry-run"],
        &["track", "status"],
    ];
    for verb in verbs {
        for (url, kind) in [(&db.url, ", ALTER TABLE"), (&reader, "")] {
            let ended = run(&mut command(verb, url, config, &target));
            let wait = format!(
                "it waited longer than lock_timeout (200ms) for a lock on \"public\".\"api_facility\", which process {pid} (migration, role \"oar_tiles\"{kind}) holds or waits for"
            );
            ended.fails(
                1,
                &[
                    &format!("{wait}: starting over on a new snapshot (1 of 1)"),
                    "error: others in the database kept this run from its end 2 times: the target's manifest is unchanged. Run the command again when what the cause names is done (restarts and lock_timeout in [database] set how often it tries, and how long it waits)\n  cause: layer \"facilities\": it waited",
                    "\n  cause: canceling statement due to lock timeout",
                ],
            );
            assert!(std::fs::read(&target).unwrap() == before, "{verb:?}");
        }
    }
    // The log, too.
    holder.run("ROLLBACK");
    holder.run("BEGIN; LOCK oar_tiles.change IN ACCESS EXCLUSIVE MODE");
    for verb in [&["reseed"][..], &["reseed", "--or-seed"], &["track", "status"]] {
        let named = format!(
            "\"oar_tiles\".\"change\", which process {pid} (migration, role \"oar_tiles\", LOCK) holds or waits for"
        );
        run(&mut command(verb, &db.url, config, &target)).fails(1, &[&named, "kept this run from its end 2 times"]);
        assert!(std::fs::read(&target).unwrap() == before, "{verb:?}");
    }
    holder.run("ROLLBACK");
    run(&mut command(&["reseed"], &reader, config, &target)).ok();
    db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// A function reads a table of its own accord: nobody knows of it before.
#[test]
fn a_lock_is_never_taken_for_a_tile_that_fails() {
    let db = Db::with_facilities(100);
    db.run(
        "CREATE TABLE other (n int); INSERT INTO other VALUES (1);
         CREATE FUNCTION looked_up() RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT n FROM other); END $$",
    );
    let old = OldTarget::new();
    let holder = Connection::open(&db.url, "migration");
    holder.run("BEGIN; LOCK other IN ACCESS EXCLUSIVE MODE");
    let layer = "rows_mb = 0\n[[layer]]\nname = \"f\"\ntable = \"api_facility\"\non_tile_error = \"skip\"\nproperties = { n = \"looked_up()\" }\n";
    for (limits, shown) in [
        ("lock_timeout = \"200ms\"\nstatement_timeout = \"10s\"", "200ms"),
        // Shorter than the limit of the statement, whatever is set.
        ("lock_timeout = \"1m\"\nstatement_timeout = \"1s\"", "500ms"),
    ] {
        let config = format!("[database]\nrestarts = 0\n{limits}\n[run]\n{layer}");
        let text = format!(
            ": it waited longer than lock_timeout ({shown}) for a lock on \"public\".\"other\", which process "
        );
        let ended = old.refuses_config(
            &db.url,
            &config,
            &["--zoom", "0-3"],
            1,
            &["kept this run from its end 1 times", "\n  cause: layer \"f\", t", &text],
        );
        assert!(!ended.stderr.contains("cancelled the query after"), "{}", ended.stderr);
    }
    holder.run("ROLLBACK");
}

#[test]
fn more_locks_than_the_server_has_room_for_are_refused_with_the_remedy() {
    let mut cluster = Cluster::new();
    let mut db = Db::with_facilities_on(&cluster.url, 50);
    db.run(
        "ALTER TABLE api_facility RENAME TO old;
         CREATE TABLE api_facility (LIKE old INCLUDING DEFAULTS, PRIMARY KEY (id)) PARTITION BY RANGE (id);
         CREATE INDEX ON api_facility USING gist (location);
         DO $$ BEGIN FOR n IN 0..149 LOOP
            EXECUTE format('CREATE TABLE part_%s PARTITION OF api_facility FOR VALUES FROM (%L) TO (%L)', n, lpad(n::text, 4, '0'), lpad((n + 1)::text, 4, '0'));
         END LOOP; END $$;
         CREATE TABLE rest PARTITION OF api_facility DEFAULT;
         INSERT INTO api_facility SELECT * FROM old",
    );
    db.run("ALTER SYSTEM SET max_locks_per_transaction = 10");
    db.run("CHECKPOINT");
    cluster.restart();
    db.reconnect();
    let old = OldTarget::new();
    // 151 tables with two indexes each, and those of the parent.
    let ended = old.refuses(&db.url, &["--workers", "12"], 2, &["error: the layers read "]);
    let (_, text) = ended.stderr.split_once("error: the layers read ").unwrap();
    let counted = " tables, partitions and indexes: 13 sessions take ";
    let (_, wanted) = text.split_once(": lower --workers, or set max_locks_per_transaction to at least ").unwrap();
    assert!(text.contains(counted), "{text}");
    db.run(&format!("ALTER SYSTEM SET max_locks_per_transaction = {}", wanted.split(' ').next().unwrap()));
    seed(&db.url, &old.beside("few.mbtiles"), &["--workers", "4"]).ok();
    cluster.restart();
    db.reconnect();
    seed(&db.url, &old.beside("more.mbtiles"), &["--workers", "12"]).ok();
}

#[test]
fn what_comes_from_the_primary_does_not_wait_for_a_run_on_a_standby() {
    let primary = Cluster::new();
    let db = Db::with_facilities_on(&primary.url, 150);
    let standby = Cluster::standby_of(&primary);
    let url = database::with_database(&standby.url, &db.name);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    let admin = Connection::open(&url, "admin");
    // Ours to be seen and released within the limit, or the server's own limit first.
    for (limit, delay, said) in [
        ("300ms", "-1", "which gave way"),
        ("30s", "100ms", "the standby cancelled the query for what came from the primary"),
    ] {
        admin.run(&format!("ALTER SYSTEM SET max_standby_streaming_delay = '{delay}'"));
        admin.run("SELECT pg_reload_conf()");
        until("the setting is there", || admin.value::<String>("SHOW max_standby_streaming_delay") == delay);
        let config = gated(folder.path(), Place::Render, &format!("[database]\nlock_timeout = \"{limit}\"\n"));
        admin.run("SELECT pg_advisory_lock(1)");
        let mut seeding = command(&["seed", "--zoom", "0-5"], &url, &config, &target);
        let child = seeding.start();
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";
        until("sessions at the gate", || admin.value::<i64>(waiting) >= 2);
        db.run(&format!(
            "BEGIN; TRUNCATE api_facility CASCADE; ROLLBACK; ALTER TABLE api_facility ADD COLUMN c_{} int",
            limit.len()
        ));
        let lsn: String = db.value("SELECT pg_current_wal_insert_lsn()::text");
        until("the standby has it", || admin.value(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")));
        admin.run("SELECT pg_advisory_unlock(1)");
        let ended = wait(child).ok();
        assert!(
            ended.stderr.contains(said) && ended.stderr.contains("starting over on a new snapshot (1 of 3)"),
            "{}",
            ended.stderr
        );
        assert!(!Archive::open(&target).stored().is_empty());
    }
}
