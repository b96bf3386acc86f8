//! One database state gives one set of bytes, whatever happens meanwhile.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::support::archive::Address;
use crate::support::gate::gated;
use crate::support::program::{over_rows, start_seed, wait};
use crate::support::{Archive, Db, Gate, Place, seed, until};

/// The tiles as stored, and the archive's own hash of them.
fn content(path: &Path) -> (BTreeMap<Address, Vec<u8>>, Option<String>) {
    let archive = Archive::open(path);
    (archive.stored(), archive.metadata("agg_tiles_hash"))
}

#[test]
fn a_writer_that_moves_facilities_during_the_run_changes_nothing() {
    let moves = "UPDATE api_facility SET location = ST_Translate(location, random() * 0.02 - 0.01, 0.005), name = name || '!';
                 DELETE FROM api_facility WHERE random() < 0.02;
                 INSERT INTO api_facility SELECT id || '+', name, address, country_code, location, is_closed, created_at, updated_at
                     FROM api_facility WHERE random() < 0.05 ON CONFLICT DO NOTHING;
                 VACUUM api_facility";
    let db = Db::with_facilities(500);
    let folder = tempfile::tempdir().unwrap();
    let (before, output) = (folder.path().join("before.mbtiles"), folder.path().join("t.mbtiles"));
    for place in [Place::Survey, Place::Rows, Place::Render, Place::Deep] {
        let config = gated(folder.path(), place, "");
        seed(&db.url, &before, &["--config", &config]).ok();
        let before = content(&before);
        let gate = Gate::close(&db);
        let child = start_seed(&db.url, &output, &["--config", &config]);
        // Its snapshot is taken now.
        gate.wait_for(1);
        let (over, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let mut psql = Command::new("psql");
                    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &db.url]);
                    for statement in moves.split(';') {
                        psql.args(["-c", statement]);
                    }
                    assert!(psql.status().unwrap().success());
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
            until("the writer has written", || rounds.load(Ordering::Relaxed) >= 3);
            gate.open();
            let ended = wait(child);
            over.store(true, Ordering::Relaxed);
            ended.ok();
        });
        assert!(content(&output) == before, "{place:?}: the writer shows");
        seed(&db.url, &output, &["--config", &config]).ok();
        assert!(content(&output) != before, "{place:?}: the writer has written nothing");
    }
}

#[test]
fn the_same_rows_give_the_same_bytes() {
    let db = Db::with_facilities(1_500);
    let folder = tempfile::tempdir().unwrap();
    let (first, again) = (folder.path().join("first.mbtiles"), folder.path().join("again.mbtiles"));
    seed(&db.url, &first, &["--workers", "2"]).ok();
    let first = content(&first);
    assert!(first.1.is_some());
    for (what, sql, workers, batch) in [
        ("again", "SELECT", "2", 10_000),
        ("one worker", "SELECT", "1", 10_000),
        ("many workers and small batches", "SELECT", "5", 97),
        ("one batch", "SELECT", "3", 1_000_000),
        ("rows written again", "UPDATE api_facility SET name = name", "2", 10_000),
        ("rows in another order", "CLUSTER api_facility USING api_facility_location", "2", 10_000),
        ("another plan", "DROP INDEX api_facility_location; VACUUM FULL api_facility", "2", 2_000),
    ] {
        sql.split(';').for_each(|statement| db.run(statement));
        let config = folder.path().join("c.toml");
        std::fs::write(&config, over_rows(&format!("[run]\nbatch_features = {batch}"))).unwrap();
        seed(&db.url, &again, &["--config", config.to_str().unwrap(), "--workers", workers]).ok();
        assert!(content(&again) == first, "{what}");
    }
}
