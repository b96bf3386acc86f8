//! Stored tiles that are older than `expires`: sent at once, rendered anew, and never again after a client has seen the
//! fresh one.

use std::path::Path;

use serde_json::Value;

use crate::support::gate::{Gate, Place, gated};
use crate::support::program::seed;
use crate::support::served::{Served, status};
use crate::support::{Db, until};

/// A server of a target of zooms 0 to 2 whose tiles expire after a second.
fn expiring(db: &Db, folder: &Path, config: &str) -> Served {
    let target = folder.join("t.mbtiles").to_str().unwrap().to_owned();
    seed(&db.url, Path::new(&target), &["--config", config, "--zoom", "0-2"]).ok();
    Served::new(&target, &["--config", config, "--live", "--database-url", &db.url])
}

fn is_stale(answer: &crate::support::nginx::Answer) -> bool {
    answer.header("cache-status").is_some_and(|status| status.starts_with("oar-tiles; hit; ttl=-"))
}

#[test]
fn a_tile_that_has_expired_is_sent_at_once_and_rendered_for_the_next() {
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    let lines = "[serve]\nexpires = { \"0-1\" = \"1s\" }\ncache_control = \"max-age=60\"\nlive_timeout = \"10m\"\nworkers = 2\n";
    let config = gated(folder.path(), Place::Render, lines);
    let served = expiring(&db, folder.path(), &config);
    db.run("UPDATE api_facility SET name = name || '!'");
    let gate = Gate::close(&db);
    until("it has expired", || is_stale(&served.get("/1/1/0.pbf", "")));
    // It is rendered, at the gate; clients do not wait for that.
    let stale = served.get("/1/1/0.pbf", "");
    assert_eq!((status(&stale), stale.header("cache-control")), (200, Some("max-age=5")));
    gate.wait_for(1);
    let shown: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
    assert_eq!(shown["queue"]["running"]["refresh"], 1, "{shown}");
    // Zoom 2 does not expire. On a busy machine the server may not know yet that there is no log of changes.
    until("caches may keep a tile of zoom 2", || {
        served.get("/2/2/1.pbf", "").header("cache-control") == Some("max-age=60")
    });
    gate.open();
    until("the fresh one is there", || !is_stale(&served.get("/1/1/0.pbf", "")));
    let fresh = served.get("/1/1/0.pbf", "");
    assert!(fresh.body != stale.body && fresh.header("etag") != stale.header("etag"));
    assert_eq!(fresh.header("cache-control"), Some("max-age=60"));
}

#[test]
fn who_has_seen_the_fresh_tile_never_sees_the_stored_one_again_and_a_patient_client_gets_it_at_once() {
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    // Memory keeps nothing: what was refreshed is lost at once.
    let lines =
        "[serve]\nexpires = \"1s\"\nrefresh = \"patient\"\ncache_mb = 0\nlive_ttl = \"10m\"\nlive_timeout = \"10m\"\n";
    let config = gated(folder.path(), Place::Render, lines);
    let served = expiring(&db, folder.path(), &config);
    let stored = served.get("/0/0/0.pbf", "");
    db.run("UPDATE api_facility SET name = name || '!'");
    // On a busy machine a patient client may wait in vain, but not for ever.
    until("a client gets the fresh one", || {
        let answer = served.get("/0/0/0.pbf", "");
        assert_eq!(status(&answer), 200);
        answer.body != stored.body
    });
    for _ in 0..20 {
        assert!(served.get("/0/0/0.pbf", "").body != stored.body);
    }
    // Nor if it takes longer than a client's patience.
    let gate = Gate::close(&db);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| served.get("/0/0/0.pbf", ""));
        gate.wait_for(1);
        std::thread::sleep(std::time::Duration::from_millis(200));
        gate.open();
        assert!(asked.join().unwrap().body != stored.body);
    });
}
