//! Attempts at shards of whole targets that are killed, started twice, or come late: they change nothing of the result.

use std::time::Duration;

use super::divided::{COUNTRIES, Divided, are_fresh};
use super::helpers::{names, write};
use crate::support::gate::PASS;
use crate::support::killed::is_killed_at;
use crate::support::process::Process;
use crate::support::program::{signal, wait};
use crate::support::tracked::Tracked;
use crate::support::{Gate, until};

#[test]
fn attempts_that_are_killed_doubled_or_late_change_nothing_of_the_result() {
    let tracked = Tracked::facilities(200);
    let divided = Divided::countries(&tracked, "divided", "/");
    let id = divided.begin(2);
    divided.verb("commit", &[]).fails(1, &["2 of 2 shards of run ", " are not done: 1-2. Run these again"]);
    // Killed at some of its steps, and run again.
    for step in [3, 30] {
        assert!(is_killed_at(step, &divided.command("run", &["--shard", "1", "--workers", "1"])));
    }
    for double in [0, 1].map(|_| divided.start(1)) {
        wait(double).ok();
    }
    // One that is stopped between two targets.
    let late = divided.start(2);
    let notes = divided.notes(&id);
    until("it has begun", || !names(&notes, "attempt-0002-").is_empty());
    std::thread::sleep(Duration::from_millis(30));
    signal(&late, "STOP");
    let other = divided.start(2);
    std::thread::sleep(Duration::from_millis(600));
    signal(&late, "CONT");
    for attempt in [late, other] {
        wait(attempt).ok();
    }
    write(&tracked.db, &mut fastrand::Rng::with_seed(9));
    for step in [2, 20] {
        is_killed_at(step, &divided.command("commit", &[]));
    }
    let committed = divided.verb("commit", &[]);
    assert!(committed.code == 0 || committed.stderr.contains("holds no run"), "{}", committed.stderr);
    are_fresh(&tracked, &divided, "/");
    assert_eq!(names(&divided.folder.join("work"), ""), [".oar-tiles"]);
}

/// Two attempts at shard 1 that are stopped between their snapshots and their first targets.
fn stopped_attempts(divided: &Divided<'_>) -> [Process; 2] {
    let gate = Gate::close(divided.db);
    let late = [(); 2].map(|()| divided.start(1));
    gate.wait_for(2);
    for attempt in &late {
        signal(attempt, "STOP");
    }
    gate.open();
    late
}

/// Variants whose values are read at a gate, after the snapshot was taken.
fn gated<'a>(tracked: &'a Tracked, folder: &str, ending: &str) -> Divided<'a> {
    let values = COUNTRIES.replace("lower(country_code) AS", &format!("lower(country_code) || {PASS} AS"));
    Divided::of_values(tracked, folder, ending, &values)
}

#[test]
fn an_attempt_that_is_stopped_before_its_first_target_writes_nothing_once_its_shard_is_done() {
    let tracked = Tracked::facilities(150);
    for (folder, ending) in [("files", ".mbtiles"), ("folders", "/")] {
        let divided = gated(&tracked, folder, ending);
        divided.begin(1);
        let [after_the_shard, after_the_commit] = stopped_attempts(&divided);
        let some = "id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 20)";
        tracked.db.run(&format!("DELETE FROM api_facility WHERE {some}"));
        divided.run(1).ok();
        let unchanged_by = |late, when: &str| {
            let before = contents(&divided.folder);
            signal(&late, "CONT");
            let late = wait(late).ok();
            assert_eq!(late.stderr.trim(), "shard 1 was done already", "{when}");
            assert!(contents(&divided.folder) == before, "{ending}, {when}");
        };
        unchanged_by(after_the_shard, "after the shard");
        divided.verb("commit", &[]).ok();
        unchanged_by(after_the_commit, "after the commit");
        are_fresh(&tracked, &divided, ending);
    }
}

/// All files below a folder that clients may see, with their bytes.
fn contents(folder: &std::path::Path) -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let (mut files, mut folders) = (std::collections::BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_own = path.file_name().is_some_and(|name| name.to_str().unwrap().starts_with('.'));
            if path.is_dir() && !is_own {
                folders.push(path);
            } else if !is_own {
                files.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}
