//! A limit of processes that leaves too few threads.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::Db;
use crate::support::database::with_database;
use crate::support::program::{ROWS_LAYER, run, seed_command, with_threads};

#[test]
fn a_run_that_may_not_start_its_threads_says_so_and_ends() {
    let db = Db::with_facilities(300);
    // The folder of the server's socket is not open to everybody.
    let url = with_database(&std::env::var("TEST_DATABASE_URL_TCP").expect("run scripts/test"), &db.name);
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let (config, target) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    std::fs::write(&config, ROWS_LAYER).unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o644)).unwrap();
    let seed = seed_command(&url, &target, &["--config", config.to_str().unwrap(), "--zoom", "0-3", "--workers", "2"]);
    let mut refused = 0;
    for most in 1..=16 {
        let ended = run(&mut with_threads(&seed, most));
        let text = "threads: raise the limit of processes (ulimit -u, TasksMax of a systemd unit, the limit of pids of a container), or end others of this user\n  cause: ";
        match ended.code {
            0 => {}
            1 if ended.stderr.contains("error: cannot start ") && ended.stderr.contains(text) => refused += 1,
            // A thread that only some runs need.
            1 if ended.stderr.contains("error: a thread died (") => {}
            code => panic!("with {most} processes it ends with {code}: {}", ended.stderr),
        }
    }
    // No machine can do with four: three that may block, one that does not, and the first.
    assert!(refused >= 4, "{refused}");
}
