//! A run that reads several tables and a transaction that locks them in the other order: no deadlock ends either.

use std::time::Duration;

use crate::support::other_sessions::Connection;
use crate::support::program::{program, run, start_seed, wait};
use crate::support::{Archive, Db, until};

const LAYERS: &str = "
[[layer]]
name = \"a\"
table = \"a\"
[[layer]]
name = \"b\"
table = \"b\"
";

#[test]
fn a_transaction_that_locks_in_the_other_order_is_not_ended_by_a_deadlock() {
    let db = Db::new();
    for table in ["a", "b"] {
        db.run(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, geom geometry(Point, 4326));
             INSERT INTO {table} SELECT n, ST_SetSRID(ST_MakePoint(n, n), 4326) FROM generate_series(1, 50) AS n"
        ));
    }
    let folder = tempfile::tempdir().unwrap();
    let (config, target) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    std::fs::write(&config, LAYERS).unwrap();
    let config = config.to_str().unwrap();
    let somebody = Connection::open(&db.url, "somebody");
    somebody.run("BEGIN; LOCK TABLE b IN ACCESS EXCLUSIVE MODE");
    let child = start_seed(&db.url, &target, &["--config", config, "--zoom", "0-4"]);
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'b'::regclass AND NOT granted)";
    until("the run waits", || db.value::<bool>(waits));
    // Longer than deadlock_timeout (1 s): now the run has looked for a deadlock and found none, and the other session
    // looks next.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(somebody.tries("LOCK TABLE a IN ACCESS EXCLUSIVE MODE"), "the run made a deadlock");
    somebody.run("COMMIT");
    let ended = wait(child).ok();
    assert!(!ended.stderr.contains("starting over"), "{}", ended.stderr);
    assert!(!Archive::open(&target).tiles().is_empty());

    // Who keeps the lock is named after lock_timeout, as ever.
    somebody.run("BEGIN; LOCK TABLE b IN ACCESS EXCLUSIVE MODE");
    let brief = format!("[database]\nlock_timeout = \"700ms\"\nrestarts = 0\n{LAYERS}");
    std::fs::write(config, brief).unwrap();
    let mut command = program();
    command.args(["seed", "--progress", "none", "--zoom", "0-4", "--config", config, "--database-url", &db.url]);
    command.arg("--output").arg(&target);
    run(&mut command).fails(
        1,
        &[
            "it waited longer than lock_timeout (700ms) for a lock on \"public\".\"b\", which process ",
            "(somebody, role \"oar_tiles\", LOCK",
        ],
    );
    somebody.run("ROLLBACK");
}
