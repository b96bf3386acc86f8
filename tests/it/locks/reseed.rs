//! Locks of a reseed: all of its sessions take them before rows are read, and a watch holds none while it waits.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::gate::gated;
use crate::support::other_sessions::Statements;
use crate::support::process::Start as _;
use crate::support::program::{program, run, wait};
use crate::support::tracked::show_the_same;
use crate::support::watch_process::Watching;
use crate::support::{Db, Gate, Place, seed, until};

/// A database with a change log, a configuration whose statements come to the gate, and a target that a change has made
/// stale.
struct World {
    db: Db,
    folder: tempfile::TempDir,
    config: String,
}

impl World {
    fn new(place: Place, lock_timeout: &str, prepare: &str) -> World {
        let db = Db::with_facilities(150);
        db.run(prepare);
        let folder = tempfile::tempdir().unwrap();
        let config = gated(folder.path(), place, &format!("[database]\nlock_timeout = \"{lock_timeout}\"\n"));
        run(program().args(["track", "install", "--config", &config, "--database-url", &db.url])).ok();
        World { db, folder, config }
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("t.mbtiles")
    }

    fn seed(&self, target: &Path) {
        seed(&self.db.url, target, &["--config", &self.config, "--zoom", "0-6"]).ok();
    }

    fn assert_fresh(&self) {
        let fresh = self.folder.path().join("fresh.mbtiles");
        self.seed(&fresh);
        show_the_same(&self.target(), &fresh);
    }
}

/// Where no closed formula leads from a tile to its rows, a reseed surveys the layer. Somebody who wants the table for
/// himself during that survey waits for the session that reads; the workers need no further lock, so the run ends
/// first.
#[test]
fn a_reseed_of_many_batches_takes_all_of_its_locks_before_its_survey() {
    let prepare = "ALTER TABLE api_facility ALTER COLUMN location TYPE geometry(Point, 3395) USING ST_Transform(location::geometry, 3395)";
    let world = World::new(Place::Survey, "20s", prepare);
    world.seed(&world.target());
    world.db.run("UPDATE api_facility SET name = upper(name) || '!'");
    let gate = Gate::close(&world.db);
    let mut command = program();
    command.args(["reseed", "--progress", "none", "--config", &world.config, "--database-url", &world.db.url]);
    command.arg("--output").arg(world.target());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start();
    gate.wait_for(1);
    let sessions = "SELECT count(DISTINCT pid) FROM pg_locks WHERE granted AND relation = 'api_facility'::regclass AND mode = 'AccessShareLock'";
    // Two workers beside the session that holds the snapshot.
    assert_eq!(world.db.value::<i64>(sessions), 3);
    let statements = Statements::start(&world.db.url, &["ALTER TABLE api_facility ADD COLUMN more int"]);
    until("somebody waits", || {
        world.db.value("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'api_facility'::regclass")
    });
    gate.open();
    let ended = wait(child).ok();
    statements.end("ALTER TABLE");
    assert!(!ended.stderr.contains("starting over"), "{}", ended.stderr);
    world.assert_fresh();
}

/// While it waits for changes it holds no lock; while it renders it gives way, and converges.
#[test]
fn a_watch_gives_way_and_goes_on() {
    let world = World::new(Place::Render, "300ms", "");
    world.seed(&world.target());
    let watching = Watching::start(&world.db.url, &world.target(), &["--config", &world.config, "--poll", "200ms"]);
    until("somebody watches", || {
        world.db.value("SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND granted")
    });
    // Of a run that looks for changes it may have to wait for a moment, of one that waits it need not.
    Statements::start(&world.db.url, &["ALTER TABLE api_facility ADD COLUMN idle int"])
        .end("ALTER TABLE of an idle watch");
    let gate = Gate::close(&world.db);
    world.db.run("UPDATE api_facility SET name = upper(name) || '!' WHERE id < 'C'");
    gate.wait_for(1);
    Statements::start(&world.db.url, &["ALTER TABLE api_facility ADD COLUMN busy int"])
        .end("ALTER TABLE of a busy watch");
    gate.open();
    watching.says("which gave way");
    watching.says(" dirty tile");
    assert_eq!(watching.end(), 0);
    world.assert_fresh();
}
