//! `oar-tiles reseed --watch`: woken by a commit, steady through outages, gone when asked.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::support::program::{program, run, signal, wait};
use super::support::{Archive, Cluster, Db, seed, until};

/// A watching run, and what it says.
struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    fn start(url: &str, target: &Path, arguments: &[&str]) -> Watching {
        let mut command = program();
        command.args([
            "reseed",
            "--watch",
            "--progress",
            "none",
            "--debounce",
            "50ms",
            "--database-url",
            url,
            "--output",
        ]);
        command.arg(target).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (heard, lines) = channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        for from in [Box::new(out) as Box<dyn std::io::Read + Send>, Box::new(err)] {
            let heard = heard.clone();
            std::thread::spawn(move || {
                BufReader::new(from).lines().map_while(Result::ok).for_each(|line| drop(heard.send(line)));
            });
        }
        Watching { child, lines }
    }

    /// Waits for a line that holds a text.
    #[track_caller]
    fn says(&self, text: &str) -> String {
        let mut seen = String::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(60)) {
            if line.contains(text) {
                return line;
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        panic!("«{text}» never came:\n{seen}");
    }

    /// Asks it to end.
    fn end(self) -> i32 {
        signal(&self.child, "TERM");
        wait(self.child).code
    }
}

fn install(url: &str) {
    run(program().args(["track", "install", "--database-url", url])).ok();
}

fn is_fresh(url: &str, target: &Path) {
    let fresh = target.with_extension("fresh.mbtiles");
    seed(url, &fresh, &["--zoom", "0-8"]).ok();
    assert!(Archive::open(target).stored() == Archive::open(&fresh).stored());
}

#[test]
fn a_commit_wakes_it_and_a_signal_ends_it_with_success() {
    let db = Db::with_facilities(300);
    install(&db.url);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-8"]).ok();
    // The poll is so slow that only a notice can wake it.
    let watching = Watching::start(&db.url, &target, &["--poll", "1h"]);
    let watches = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    until("somebody watches", || db.value::<i64>(watches) == 1);
    for round in 0..3 {
        db.run(&format!("UPDATE api_facility SET name = 'w{round}' WHERE id < 'C'"));
        watching.says(" dirty tile");
        until("the target shows it", || {
            let done =
                run(program().args(["reseed", "--dry-run", "--database-url", &db.url, "--output"]).arg(&target)).ok();
            done.stdout.starts_with("nothing to do")
        });
        is_fresh(&db.url, &target);
    }
    assert_eq!(watching.end(), 0);
}

#[test]
fn a_lost_notice_costs_no_more_than_a_poll() {
    let db = Db::with_facilities(300);
    install(&db.url);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-8"]).ok();
    let watching = Watching::start(&db.url, &target, &["--poll", "200ms"]);
    // Noted as if nobody had watched: no notice is sent.
    db.run("DELETE FROM api_facility WHERE id < 'C'");
    watching.says(" dirty tile");
    assert_eq!(watching.end(), 0);
    is_fresh(&db.url, &target);
}

#[test]
fn a_restarted_database_is_waited_for_and_watched_again() {
    let mut cluster = Cluster::new();
    let mut db = Db::with_facilities_on(&cluster.url, 300);
    install(&db.url);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-8"]).ok();
    let watching = Watching::start(&db.url, &target, &["--poll", "1s"]);
    db.run("UPDATE api_facility SET name = 'before' WHERE id < 'C'");
    watching.says(" dirty tile");
    cluster.crash();
    watching.says("trying again in ");
    cluster.start();
    db.reconnect();
    db.run("UPDATE api_facility SET name = 'after' WHERE id < 'C'");
    watching.says(" dirty tile");
    assert_eq!(watching.end(), 0);
    is_fresh(&db.url, &target);
}

#[test]
fn what_needs_a_seed_ends_it() {
    let db = Db::with_facilities(100);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    let watching = Watching::start(&db.url, &target, &[]);
    watching.says("needs a full seed: there is none yet");
    assert_eq!(wait(watching.child).code, 4);
}
