//! A run and statements that want a table for themselves: nobody waits longer for the run than `lock_timeout`, and the
//! run converges. Each statement is fired at each phase of a seed, while a third session reads the table all the time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::support::gate::gated;
use crate::support::other_sessions::{Reader, Statements};
use crate::support::process::Process;
use crate::support::program::{Run, start_seed, wait};
use crate::support::{Archive, Db, Gate, Place, seed, until};

/// What a table is before the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Table {
    Plain,
    /// In two partitions, of which one is filled and not attached.
    HalfAttached,
    Partitioned,
    Materialized,
}

/// What somebody else does.
struct Case {
    name: &'static str,
    table: Table,
    statements: &'static [&'static str],
    /// Whether it waits for readers of the table.
    waits: bool,
}

const CASES: [Case; 12] = [
    Case {
        name: "TRUNCATE",
        table: Table::Plain,
        statements: &["BEGIN; TRUNCATE api_facility; INSERT INTO api_facility SELECT * FROM changed; COMMIT"],
        waits: true,
    },
    Case {
        name: "ADD COLUMN",
        table: Table::Plain,
        statements: &["ALTER TABLE api_facility ADD COLUMN more float DEFAULT random()"],
        waits: true,
    },
    Case { name: "VACUUM FULL", table: Table::Plain, statements: &["VACUUM FULL api_facility"], waits: true },
    Case { name: "REINDEX", table: Table::Plain, statements: &["REINDEX TABLE api_facility"], waits: true },
    Case {
        name: "CREATE INDEX",
        table: Table::Plain,
        statements: &["CREATE INDEX ON api_facility (name)"],
        waits: false,
    },
    Case {
        name: "DROP and CREATE at once",
        table: Table::Plain,
        statements: &["BEGIN; DROP TABLE api_facility; CREATE TABLE api_facility (LIKE changed INCLUDING ALL);
                       INSERT INTO api_facility SELECT * FROM changed; COMMIT"],
        waits: true,
    },
    Case {
        name: "DROP, then CREATE",
        table: Table::Plain,
        statements: &[
            "DROP TABLE api_facility",
            // In one transaction: a run that starts over in between would seed an empty table.
            "BEGIN; CREATE TABLE api_facility (LIKE changed INCLUDING ALL); INSERT INTO api_facility SELECT * FROM changed; COMMIT",
        ],
        waits: true,
    },
    Case {
        name: "ATTACH",
        table: Table::HalfAttached,
        statements: &["ALTER TABLE api_facility ATTACH PARTITION high FOR VALUES FROM ('I') TO (MAXVALUE)"],
        waits: false,
    },
    Case {
        name: "DETACH",
        table: Table::Partitioned,
        statements: &["ALTER TABLE api_facility DETACH PARTITION high"],
        waits: true,
    },
    Case { name: "DROP of a partition", table: Table::Partitioned, statements: &["DROP TABLE high"], waits: true },
    Case {
        name: "REFRESH",
        table: Table::Materialized,
        statements: &["REFRESH MATERIALIZED VIEW api_facility"],
        waits: true,
    },
    Case {
        name: "REFRESH CONCURRENTLY",
        table: Table::Materialized,
        statements: &["REFRESH MATERIALIZED VIEW CONCURRENTLY api_facility"],
        waits: false,
    },
];

const HALVES: &str = "
    ALTER TABLE api_facility RENAME TO old;
    CREATE TABLE api_facility (LIKE old INCLUDING DEFAULTS, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE INDEX ON api_facility USING gist (location);
    CREATE TABLE low PARTITION OF api_facility FOR VALUES FROM (MINVALUE) TO ('I');
    CREATE TABLE high (LIKE old INCLUDING ALL);
    INSERT INTO high SELECT * FROM old WHERE id >= 'I';
    INSERT INTO api_facility SELECT * FROM old WHERE id < 'I';";

impl Table {
    /// A database with the table, and what it is to hold later in `changed`.
    fn database(self) -> Db {
        let db = Db::with_facilities(50);
        db.run(
            "CREATE INDEX ON api_facility USING gist (location);
             CREATE TABLE changed (LIKE api_facility INCLUDING ALL);
             INSERT INTO changed SELECT * FROM api_facility;
             UPDATE changed SET name = upper(name) || '!'",
        );
        match self {
            Table::Plain => {}
            Table::HalfAttached => db.run(HALVES),
            Table::Partitioned => {
                db.run(HALVES);
                db.run("ALTER TABLE api_facility ATTACH PARTITION high FOR VALUES FROM ('I') TO (MAXVALUE)");
            }
            Table::Materialized => db.run(
                "ALTER TABLE api_facility RENAME TO old;
                 CREATE MATERIALIZED VIEW api_facility AS TABLE old;
                 CREATE UNIQUE INDEX ON api_facility (id); CREATE INDEX ON api_facility USING gist (location);
                 UPDATE old SET name = upper(name) || '!'",
            ),
        }
        db
    }
}

/// A database, a configuration whose statements come to the gate, and a target.
struct World {
    db: Db,
    folder: tempfile::TempDir,
    config: String,
}

const ZOOM: &str = "0-6";

impl World {
    fn new(table: Table, place: Place, lock_timeout: &str) -> World {
        let folder = tempfile::tempdir().unwrap();
        let more = format!("[database]\nlock_timeout = \"{lock_timeout}\"\n");
        // Zoom 14 stands for the last one.
        let config = gated(folder.path(), place, &more);
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("0-14", ZOOM).replace("0-13", "0-5").replace("\"14\"", "\"6\"")).unwrap();
        World { db: table.database(), folder, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn arguments(&self) -> [&str; 4] {
        ["--config", &self.config, "--zoom", ZOOM]
    }

    fn start(&self, output: &Path) -> Process {
        start_seed(&self.db.url, output, &self.arguments())
    }

    fn seed(&self, name: &str) -> Tiles {
        let path = self.path(name);
        seed(&self.db.url, &path, &self.arguments()).ok();
        Archive::open(&path).stored()
    }

    /// Whether somebody waits for a relation of this database.
    fn somebody_waits(&self) -> bool {
        self.db.value(
            "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND locktype = 'relation' AND mode = 'AccessExclusiveLock'
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
    }
}

type Tiles = BTreeMap<(u8, u32, u32), Vec<u8>>;

const LIMIT: Duration = Duration::from_millis(300);

/// What a loaded machine adds to a wait.
const SLACK: Duration = Duration::from_secs(5);

fn started_over(run: &Run) -> bool {
    run.stderr.contains("starting over on a new snapshot (1 of 3)")
}

/// Nobody opens the gate before the statement is done: the run has to give way in the middle of what it does.
fn gives_way(place: Place) {
    for case in &CASES {
        let what = format!("{} at {place:?}", case.name);
        let undisturbed = undisturbed(case);
        let world = World::new(case.table, place, "300ms");
        let target = world.path("t.mbtiles");
        let begun = Instant::now();
        world.seed("undisturbed.mbtiles");
        let undisturbed_run = begun.elapsed();
        let gate = Gate::close(&world.db);
        let begun = Instant::now();
        let run = world.start(&target);
        gate.wait_for(1);
        let reader = Reader::start(&world.db.url, "SELECT count(*) FROM api_facility");
        let statements = Statements::start(&world.db.url, case.statements);
        statements.end(&what);
        gate.open();
        let run = wait(run).ok();
        let took = begun.elapsed();
        assert!(
            took < 3 * undisturbed_run + undisturbed + LIMIT + SLACK,
            "{what}: the run took {took:?}, undisturbed {undisturbed_run:?}: {}",
            run.stderr
        );
        let longest = reader.longest_wait();
        assert!(longest < LIMIT + undisturbed + SLACK, "{what}: the reader waited {longest:?}: {}", run.stderr);
        let is_attached = case.table == Table::HalfAttached;
        assert_eq!(started_over(&run), case.waits || is_attached, "{what}: {}", run.stderr);
        if case.waits {
            let named = "somebody, role \"oar_tiles\", ";
            assert!(
                run.stderr.contains(named) && run.stderr.contains(" behind this run, which gave way"),
                "{}",
                run.stderr
            );
        }
        let found = Archive::open(&target).stored();
        // A view that is refreshed without a lock shows this snapshot what it was.
        if case.waits || is_attached {
            assert!(found == world.seed("after.mbtiles"), "{what}: it is not as a fresh seed");
        }
    }
}

/// How long the statements take if nobody is in their way; measured once.
fn undisturbed(case: &Case) -> Duration {
    static KNOWN: Mutex<BTreeMap<&str, Duration>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap();
    *known
        .entry(case.name)
        .or_insert_with(|| Statements::start(&case.table.database().url, case.statements).end(case.name))
}

#[test]
fn a_run_gives_way_in_its_survey() {
    gives_way(Place::Survey);
}

#[test]
fn a_run_gives_way_while_it_reads_rows() {
    gives_way(Place::Rows);
}

#[test]
fn a_run_gives_way_while_it_renders() {
    gives_way(Place::Render);
}

#[test]
fn a_run_gives_way_late_in_its_rendering() {
    gives_way(Place::Deep);
}

/// The gate is opened as soon as somebody waits: all sessions have their locks by then, so the run ends as if nobody
/// did.
fn goes_on(place: Place) {
    // The key of a materialized view is looked at before the survey, and comes to the same gate: the locks are held by
    // then, too.
    for case in CASES.iter().filter(|case| case.waits) {
        let what = format!("{} at {place:?}", case.name);
        let world = World::new(case.table, place, "20s");
        let (target, before) = (world.path("t.mbtiles"), world.seed("before.mbtiles"));
        let gate = Gate::close(&world.db);
        let run = world.start(&target);
        gate.wait_for(1);
        let statements = Statements::start(&world.db.url, case.statements);
        until("somebody waits", || world.somebody_waits());
        gate.open();
        let run = wait(run).ok();
        statements.end(&what);
        assert!(!started_over(&run), "{what}: {}", run.stderr);
        assert!(Archive::open(&target).stored() == before, "{what}");
    }
}

#[test]
fn a_run_that_holds_its_locks_ends_before_those_who_wait() {
    for place in [Place::Survey, Place::Rows] {
        goes_on(place);
    }
}

#[test]
fn a_run_that_renders_ends_before_those_who_wait() {
    for place in [Place::Render, Place::Deep] {
        goes_on(place);
    }
}
