//! The queue: live requests and background work share the workers by the rule, and the server allows as many sessions as that takes.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::Db;
use crate::support::program::{ROWS_LAYER, program, run, seed};
use crate::support::served::Served;

/// A target of zooms 0 and 1, and its configuration.
fn target(db: &Db, folder: &Path, lines: &str) -> (String, String) {
    let (config, target) = (folder.join("c.toml"), folder.join("t.mbtiles"));
    fs::write(&config, format!("{ROWS_LAYER}\n[serve]\n{lines}\n")).unwrap();
    let config = config.to_str().unwrap().to_owned();
    seed(&db.url, &target, &["--config", &config, "--zoom", "0-1"]).ok();
    (config, target.to_str().unwrap().to_owned())
}

#[test]
fn workers_are_shared_as_the_settings_say_and_the_status_shows_it() {
    let db = Db::with_facilities(50);
    let folder = tempfile::tempdir().unwrap();
    let (config, target) = target(&db, folder.path(), "workers = 8\nlive_reserved = 3\nbackground_guaranteed = 2");
    let served = Served::new(&target, &["--config", &config, "--live", "--database-url", &db.url]);
    let status: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
    let none = json!({ "live": 0, "refresh": 0, "reseed": 0, "neighbour": 0, "seed": 0 });
    assert_eq!(
        status["queue"],
        json!({ "workers": 8, "live_reserved": 3, "background_guaranteed": 2, "running": none, "waiting": none })
    );
    assert_eq!(served.get("/4/11/6.pbf", "").header("cache-status"), Some("oar-tiles; fwd=uri-miss; stored"));
    let metrics = served.admin("/metrics").1;
    for line in [
        "oar_tiles_queue_wait_seconds_count{class=\"live\"} 1",
        "oar_tiles_queue_waiting{class=\"seed\"} 0",
        "oar_tiles_workers{class=\"live\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
}

#[test]
fn shares_and_sessions_that_do_not_fit_are_refused() {
    let db = Db::with_facilities(50);
    let folder = tempfile::tempdir().unwrap();
    let (config, target) = target(&db, folder.path(), "workers = 8\nlive_reserved = 3\nbackground_guaranteed = 2");
    let fails = |workers: &str, texts: &[&str]| {
        let arguments = ["serve", &target, "--config", &config, "--live", "--database-url", &db.url];
        run(program().args(arguments).args(["--listen", "127.0.0.1:0", "--workers", workers])).fails(2, texts);
    };
    fails("3", &["serve.live_reserved", "live_reserved = 3 must be less than workers = 3"]);
    fails("4", &["serve.background_guaranteed", "background_guaranteed = 2 must be at most 1"]);
    fails("250", &["253 sessions are needed", "lower serve.workers (--workers), or raise what limits them"]);
}
