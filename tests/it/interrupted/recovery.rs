//! A standby ends readings of rows that the primary has removed: the message names the settings, and no tile is wrong.

use std::path::Path;
use std::process::Stdio;

use crate::support::gate::gated;
use crate::support::other_sessions::Connection;
use crate::support::process::Start as _;
use crate::support::program::{Run, program, run, wait};
use crate::support::served::{GZIP, Served, status};
use crate::support::{Archive, Cluster, Db, Place, database, seed, until};

/// A change that a reseed has to see, after which old versions of rows are there to be removed.
const CHANGE: &str = "UPDATE api_facility SET name = name || '!' WHERE id < 'C'";

/// A tracked database on a primary, and a standby that waits for no reading.
struct Pair {
    primary: Db,
    /// A session of the standby.
    admin: Connection,
    url: String,
    folder: tempfile::TempDir,
    config: String,
    // Stopped after the sessions.
    _servers: [Cluster; 2],
}

impl Pair {
    fn new() -> Pair {
        let server = Cluster::new();
        let primary = Db::with_facilities_on(&server.url, 150);
        let folder = tempfile::tempdir().unwrap();
        let config = gated(folder.path(), Place::Render, "");
        run(program().args(["track", "install", "--config", &config, "--database-url", &primary.url])).ok();
        let standby = Cluster::standby_of(&server);
        let url = database::with_database(&standby.url, &primary.name);
        let admin = Connection::open(&url, "admin");
        admin.run("ALTER SYSTEM SET max_standby_streaming_delay = 0");
        admin.run("SELECT pg_reload_conf()");
        until("the setting is there", || admin.value::<String>("SHOW max_standby_streaming_delay") == "0");
        let pair = Pair { primary, admin, url, folder, config, _servers: [server, standby] };
        pair.catches_up();
        pair
    }

    fn target(&self) -> std::path::PathBuf {
        self.folder.path().join("t.mbtiles")
    }

    fn seed(&self, url: &str, target: &Path) -> Run {
        seed(url, target, &["--config", &self.config, "--zoom", "0-3"])
    }

    /// What a seed of the primary stores now.
    fn fresh(&self, zooms: &str) -> crate::support::places::Tiles {
        let target = self.folder.path().join("fresh.mbtiles");
        seed(&self.primary.url, &target, &["--config", &self.config, "--zoom", zooms, "--force"]).ok();
        Archive::open(&target).stored()
    }

    fn catches_up(&self) {
        let now: String = self.primary.value("SELECT pg_current_wal_insert_lsn()::text");
        until("the standby has it", || self.admin.value(&format!("SELECT pg_last_wal_replay_lsn() >= '{now}'")));
    }

    /// While a session of the standby waits at the gate, removes rows that it can see; as often as there are conditions
    /// for the rows.
    fn removes_what_is_read(&self, rows: &[&str], starts: impl FnOnce()) {
        self.admin.run("SELECT pg_advisory_lock(1)");
        let mut since: String = self.admin.value("SELECT clock_timestamp()::text");
        starts();
        for rows in rows {
            // The session that waits now was not there the time before.
            let waiting = format!(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event = 'advisory' AND query_start > '{since}'"
            );
            until("a session at the gate", || self.admin.value::<i64>(&waiting) >= 1);
            self.primary.run(&format!("DELETE FROM api_facility WHERE {rows}"));
            since = self.admin.value("SELECT clock_timestamp()::text");
            // Cut off, the table's end would need a lock, which ends readings for another reason.
            self.primary.run("VACUUM (TRUNCATE off) api_facility");
            self.catches_up();
        }
        self.admin.run("SELECT pg_advisory_unlock(1)");
    }
}

const NAMED: &str = "the standby cancelled the query for what came from the primary (hot_standby_feedback and max_standby_streaming_delay decide how often)";

#[test]
fn a_reseed_whose_snapshot_a_standby_ends_names_the_settings_and_starts_over() {
    let pair = Pair::new();
    let target = pair.target();
    pair.seed(&pair.url, &target).ok();
    pair.primary.run(CHANGE);
    pair.catches_up();
    let mut reseeding = None;
    pair.removes_what_is_read(&["id > 'V'"], || {
        let mut command = program();
        command.args([
            "reseed",
            "--progress",
            "none",
            "--config",
            &pair.config,
            "--database-url",
            &pair.url,
            "--output",
        ]);
        reseeding = Some(command.arg(&target).stdout(Stdio::piped()).stderr(Stdio::piped()).start());
    });
    let ended = wait(reseeding.unwrap()).ok();
    assert!(ended.stderr.contains(NAMED), "{}", ended.stderr);
    assert!(ended.stderr.contains("starting over on a new snapshot (1 of 3)"), "{}", ended.stderr);
    assert!(Archive::open(&target).stored() == pair.fresh("0-3"));
}

#[test]
fn a_live_tile_whose_snapshot_a_standby_ends_is_rendered_on_the_next_one_or_refused_with_the_settings_in_the_log() {
    let pair = Pair::new();
    pair.seed(&pair.url, &pair.target()).ok();
    let mut command = program();
    command.args(["serve", pair.target().to_str().unwrap(), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.args(["--live", "--drain", "0s", "--config", &pair.config, "--database-url", &pair.url]);
    command.stderr(Stdio::piped());
    let said = Served::saying(&mut command, |served| {
        until("it follows the log", || served.admin("/readyz").0 == 200);
        // What a client gets whose tile is begun before these rows are removed.
        let asked = |path: &str, rows: &[&str]| {
            std::thread::scope(|threads| {
                let mut asking = None;
                pair.removes_what_is_read(rows, || asking = Some(threads.spawn(|| served.get(path, GZIP))));
                asking.unwrap().join().unwrap()
            })
        };
        let once = asked("/4/12/6.pbf", &["id > 'V'"]);
        assert_eq!(status(&once), 200, "{}", once.head);
        assert!(once.body == pair.fresh("4")[&(4, 12, 6)], "not the tile of the state before");
        let twice = asked(
            "/5/24/13.pbf",
            &["id < 'B'", "id IN (SELECT id FROM api_facility WHERE id LIKE 'BD%' ORDER BY id LIMIT 5)"],
        );
        assert_eq!(status(&twice), 503, "{}", twice.head);
        until("it is rendered after a while", || status(&served.get("/5/24/13.pbf", GZIP)) != 503);
        let after = served.get("/5/24/13.pbf", GZIP);
        assert!(after.body == pair.fresh("5").remove(&(5, 24, 13)).unwrap_or_default());
    });
    assert!(said.contains(NAMED), "{said}");
}
