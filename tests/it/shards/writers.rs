//! Writers that never stop: tracked shards show the state of their commit, held ones that of their plan.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::helpers::Sharded;
use crate::support::places::Tiles;
use crate::support::program::{ROWS_LAYER, program, run, signal, wait};
use crate::support::tracked::{Tracked, differences};
use crate::support::{Archive, Db, seed, until};

/// Keeps every version of every row with its transaction, so that the table can be made again as any snapshot saw it.
const HISTORY: &str = "
    CREATE TABLE history (number bigserial, xid xid8 NOT NULL DEFAULT pg_current_xact_id(), gone boolean, facility api_facility);
    INSERT INTO history (gone, facility) SELECT false, f FROM api_facility f;
    CREATE FUNCTION note_history() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            INSERT INTO history (gone, facility) VALUES (true, OLD);
        ELSE
            INSERT INTO history (gone, facility) VALUES (false, NEW);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER history AFTER INSERT OR UPDATE OR DELETE ON api_facility FOR EACH ROW EXECUTE FUNCTION note_history()";

/// The kind of change that adds rows.
const INSERT: u8 = 1;

/// A statement of some kind, at random places.
fn change(db: &Db, random: &mut fastrand::Rng, kind: u8) {
    let some = format!("id IN (SELECT id FROM api_facility ORDER BY md5(id || '{}') LIMIT 3)", random.u32(..));
    let place =
        format!("ST_SetSRID(ST_MakePoint({}, {}), 4326)", random.f64() * 360.0 - 180.0, random.f64() * 160.0 - 80.0);
    db.run(&match kind {
        0 => format!("DELETE FROM api_facility WHERE {some}"),
        INSERT => format!(
            "INSERT INTO api_facility SELECT (jsonb_populate_record(f, jsonb_build_object('id', md5(id || '{}')))).*
             FROM api_facility f WHERE {some}",
            random.u32(..)
        ),
        2 => format!("UPDATE api_facility SET location = {place} WHERE {some}"),
        3 => format!("UPDATE api_facility SET name = left(name, 30) || '{}' WHERE {some}", random.u8(..)),
        _ => format!("UPDATE api_facility SET location = ST_Translate(location, 0.01, 0.01) WHERE {some}"),
    });
}

/// Does something while others write all the time.
fn while_others_write(db: &Db, number: u64, work: impl FnOnce()) {
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (db, ended) = (db.again(), &ended);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(number * 2 + writer);
                while !ended.load(Ordering::Relaxed) {
                    // Two writers of the same rows could wait for each other: the second one adds rows.
                    let kind = if writer == 0 { random.u8(0..5) } else { INSERT };
                    change(&db, &mut random, kind);
                    std::thread::sleep(Duration::from_millis(if writer == 0 { 3 } else { 30 }));
                }
            });
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        ended.store(true, Ordering::Relaxed);
        done.unwrap();
    });
}

/// The tiles of the state that an archive says it shows.
fn at_its_snapshot(db: &Db, folder: &Path, archive: &Archive) -> Tiles {
    let manifest: serde_json::Value = serde_json::from_str(&archive.metadata("oar_tiles_manifest").unwrap()).unwrap();
    let snapshot = manifest["snapshot"].as_str().unwrap();
    db.run(&format!(
        "DROP TABLE IF EXISTS restored;
         CREATE TABLE restored (LIKE api_facility INCLUDING ALL);
         INSERT INTO restored SELECT (facility).* FROM (
             SELECT DISTINCT ON ((facility).id) facility, gone FROM history
             WHERE pg_visible_in_snapshot(xid, '{snapshot}') ORDER BY (facility).id, number DESC
         ) AS latest WHERE NOT gone"
    ));
    let config = folder.join("restored.toml");
    std::fs::write(&config, ROWS_LAYER.replace("api_facility", "restored")).unwrap();
    let path = folder.join("restored.mbtiles");
    seed(&db.url, &path, &["--zoom", "0-7", "--config", config.to_str().unwrap()]).ok();
    Archive::open(&path).stored()
}

/// Renders all shards in some order; some attempts are killed, some shards have two at once.
fn run_all(sharded: &Sharded<'_>, count: u32, random: &mut fastrand::Rng) {
    let mut order: Vec<String> = (1..=count).map(|shard| shard.to_string()).collect();
    random.shuffle(&mut order);
    for shard in &order {
        let arguments = ["--shard", shard, "--workers", "1"];
        if random.bool() {
            let killed = sharded.start("run", &arguments);
            std::thread::sleep(Duration::from_millis(random.u64(0..300)));
            signal(&killed, "KILL");
            wait(killed);
        }
        let attempts: Vec<_> = (0..random.u8(1..3)).map(|_| sharded.start("run", &arguments)).collect();
        for attempt in attempts {
            wait(attempt).ok();
        }
    }
}

#[test]
fn tracked_shards_show_the_state_of_their_commit_whatever_is_written_meanwhile() {
    let tracked = Tracked::facilities(250);
    tracked.db.run(HISTORY);
    for (round, name) in (0..).zip(["a.mbtiles", "b.pmtiles"]) {
        let mut random = fastrand::Rng::with_seed(100 + round);
        let sharded = Sharded::into(&tracked.db, tracked.folder.path(), name);
        let count = random.u32(2..6);
        while_others_write(&tracked.db, round, || {
            sharded.begin(count, &[]);
            run_all(&sharded, count, &mut random);
            let killed = sharded.start("commit", &[]);
            std::thread::sleep(Duration::from_millis(random.u64(0..200)));
            signal(&killed, "KILL");
            wait(killed);
            let committed = sharded.verb("commit", &[]);
            assert!(committed.code == 0 || committed.stderr.contains("holds no run"), "{}", committed.stderr);
        });
        let copy = tracked.path("copy.mbtiles");
        run(program().args(["copy", "--force", &sharded.target]).arg(&copy)).ok();
        let archive = Archive::open(&copy);
        let then = at_its_snapshot(&tracked.db, tracked.folder.path(), &archive);
        assert_eq!(differences(&archive.stored(), &then).len(), 0, "{name}, {count} shards");
    }
}

#[test]
fn held_shards_show_the_state_of_their_plan_whatever_is_written_meanwhile() {
    let db = Db::with_facilities(250);
    db.run(HISTORY);
    let folder = tempfile::tempdir().unwrap();
    let sharded = Sharded::into(&db, folder.path(), "t.mbtiles");
    let mut random = fastrand::Rng::with_seed(200);
    while_others_write(&db, 7, || {
        let holder = sharded.start("begin", &["--shards", "4", "--hold"]);
        until("the run is begun", || sharded.verb("status", &[]).code == 0);
        run_all(&sharded, 4, &mut random);
        sharded.verb("commit", &[]).ok();
        assert_eq!(wait(holder).code, 0, "it ends with the commit");
    });
    let archive = Archive::open(Path::new(&sharded.target));
    let then = at_its_snapshot(&db, folder.path(), &archive);
    assert_eq!(differences(&archive.stored(), &then).len(), 0);
}
