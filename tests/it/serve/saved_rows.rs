//! The file in which a server leaves its live rows for the next one: a restart reads no table, tiles are those of a
//! seed, and a file that does not fit is ignored.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;

use oar_tiles::config::{Settings, gather};
use oar_tiles::postgis::{ConnectParts, Database, probe, shows_rows_as_written};
use oar_tiles::stop::Stop;
use serde_json::Value;

use super::live_keys::{KEY_COLUMNS, KEYED};
use super::live_rows::Live;
use super::rows_in_file::WIDE;
use crate::reseed::live_rows::{CHANGES, POINTS, filled};
use crate::support::chance::Chance;
use crate::support::cluster::psql;
use crate::support::database::with_database;
use crate::support::program::{humble, program, run, seed};
use crate::support::served::{GZIP, Served, status};
use crate::support::{Cluster, Db, until};

/// What a server says that cannot write it.
const NOT_KEPT: &str = "rows for live tiles are not kept for the next start: ";

impl Live {
    /// The file beside the target.
    fn file(&self) -> PathBuf {
        if let Some(folder) = self.target.strip_suffix('/') {
            return PathBuf::from(format!("{folder}/.oar-tiles/notes/live-rows"));
        }
        let (folder, name) = self.target.rsplit_once('/').unwrap();
        PathBuf::from(format!("{folder}/.{name}.oar-tiles/live-rows"))
    }

    /// Starts a further server, whose log goes to a file.
    pub(crate) fn starts(&mut self) {
        let mut command = self.command(&self.tracked.db.url);
        self.served = Served::of(command.stderr(fs::File::create(self.tracked.path("log")).unwrap()));
    }

    fn command(&self, url: &str) -> Command {
        let mut command = program();
        command.args(["serve", &self.target, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
        command.args(["--config", &self.config, "--live", "--database-url", url]);
        command
    }

    /// Ends the server by a signal and waits until it has ended.
    pub(crate) fn ends(&mut self, signal: &str) {
        self.served.signal(signal);
        self.served.child.wait().unwrap();
    }

    fn said(&self) -> String {
        fs::read_to_string(self.tracked.path("log")).unwrap()
    }

    pub(crate) fn is_saved(&self) {
        until("the rows to be written", || !self.rows()["saved_seconds"].is_null());
    }

    /// The rows of the earlier server are there, and no table was read.
    pub(crate) fn has_taken_over(&self) -> Value {
        until("the rows to be taken over", || {
            let rows = self.rows();
            assert!(rows["why_not_loaded"].is_null(), "{rows}");
            rows["loads"] == 1
        });
        let rows = self.rows();
        assert!(rows["rows"].as_u64().unwrap() > 1_000 && rows["reads"] == 0, "{rows}");
        rows
    }

    /// The file is not used for this reason.
    fn ignores(&self, why: &str) {
        until("the file to be ignored", || !self.rows()["why_not_loaded"].is_null());
        let rows = self.rows();
        assert!(rows["why_not_loaded"].as_str().unwrap().contains(why), "{why}: {rows}");
        assert!(rows["loads"] == 0 && rows["rows"] == 0, "{rows}");
    }

    /// Draws tiles from rows, which still were not read.
    pub(crate) fn draws_from_rows(&self) {
        let rows = self.rows();
        assert!(rows["tiles"].as_u64().unwrap() > 20 && rows["reads"] == 0 && rows["drops"] == 0, "{rows}");
    }
}

#[test]
fn a_server_goes_on_with_the_rows_of_a_killed_or_ended_one() {
    let mut live = Live::of(Db::new(), POINTS, "t.mbtiles");
    live.keeps_rows();
    live.is_saved();
    assert_eq!(fs::metadata(live.file()).unwrap().permissions().mode() & 0o777, 0o600);
    let mut chance = Chance(43);
    // A killed server has written the rows when it had read them, an ended one writes them as they are.
    for signal in ["-KILL", "-TERM"] {
        live.ends(signal);
        let partial = live.file().with_file_name(".live-rows.partial");
        fs::write(&partial, "of a server that was killed while it wrote").unwrap();
        let before = fs::metadata(live.file()).unwrap().len();
        for change in CHANGES {
            let sql = filled(change, &mut chance);
            live.tracked.db.run(&sql);
        }
        live.starts();
        live.has_taken_over();
        assert!(!partial.exists());
        live.shows_what_a_seed_shows(signal);
        live.draws_from_rows();
        assert!(before > 50_000, "{before}");
        let metrics = live.served.admin("/metrics").1;
        for line in ["live_rows_loads{} 1", "live_rows_reads{} 0", "live_rows_drops{} 0"] {
            assert!(metrics.contains(&format!("oar_tiles_{line}\n")), "{line}: {metrics}");
        }
    }
}

#[test]
fn a_server_goes_on_with_rows_that_take_more_memory_than_it_may_use() {
    for (layers, sql, rows_mb) in [(POINTS, WIDE.to_owned(), 2), (KEYED, format!("{KEY_COLUMNS}; {WIDE}"), 6)] {
        goes_on_with_rows_in_a_file(&format!("{layers}\n[run]\nrows_mb = {rows_mb}\n"), &sql);
    }
}

fn goes_on_with_rows_in_a_file(layers: &str, sql: &str) {
    let mut live = Live::over(sql, layers, layers);
    live.keeps_rows();
    live.is_saved();
    for signal in ["-KILL", "-TERM"] {
        live.ends(signal);
        live.tracked.db.run("UPDATE rows SET kind = kind + 1, geom = ST_Translate(geom, 0.5, 0.5) WHERE id % 50 = 7");
        live.starts();
        let rows = live.has_taken_over();
        assert!(rows["file_bytes"].as_u64().unwrap() > 1_000_000, "{rows}");
        live.shows_what_a_seed_shows(signal);
        live.draws_from_rows();
    }
}

#[test]
fn a_file_that_was_damaged_or_replaced_is_ignored_and_tiles_are_right() {
    let mut live = Live::of(Db::new(), POINTS, "t.mbtiles");
    live.keeps_rows();
    live.is_saved();
    live.ends("-KILL");
    let (file, seeded) = (live.file(), live.seeded());
    let whole = fs::read(&file).unwrap();
    let with = |place: usize| {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x21;
        bytes
    };
    let (damaged, length) = ("it is damaged, or of another database", "it is longer or shorter than it says");
    for (what, bytes, why) in [
        ("no bytes", vec![], length),
        ("half", whole[..whole.len() / 2].to_vec(), length),
        ("another form", with(20), "it has another form"),
        ("its head", with(40), "its head cannot be read"),
        ("its positions", with(whole.len() / 3), damaged),
        ("its features", with(whole.len() - 100), damaged),
        ("its signature", with(whole.len() - 1), damaged),
        ("something else", b"oar-tiles".repeat(5_000), "it has another form"),
    ] {
        fs::write(&file, bytes).unwrap();
        live.starts();
        live.ignores(why);
        live.shows(what, &seeded);
        live.ends("-KILL");
    }
    // A link is not followed, but replaced.
    let elsewhere = live.tracked.path("elsewhere");
    fs::write(&elsewhere, &whole).unwrap();
    fs::remove_file(&file).unwrap();
    symlink(&elsewhere, &file).unwrap();
    live.starts();
    live.ignores("it is a symbolic link, which is not followed here");
    live.keeps_rows();
    live.is_saved();
    assert!(!file.is_symlink() && fs::read(&elsewhere).unwrap() == whole);
    live.ends("-TERM");
    // What is no file stays, and the server does without.
    fs::remove_file(&file).unwrap();
    fs::create_dir_all(file.join("kept")).unwrap();
    live.starts();
    live.keeps_rows();
    live.is_told_once();
    assert!(file.join("kept").is_dir());
    live.shows("a folder", &seeded);
    live.ends("-TERM");
    fs::remove_dir_all(&file).unwrap();
    // Nor may it write everywhere.
    let folder = file.parent().unwrap();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).unwrap();
    // Over TCP, because the socket is not everybody's.
    let url = with_database(&std::env::var("TEST_DATABASE_URL_TCP").unwrap(), &live.tracked.db.name);
    let mut command = humble(&live.command(&url));
    live.served = Served::of(command.stderr(fs::File::create(live.tracked.path("log")).unwrap()));
    live.keeps_rows();
    live.is_told_once();
    live.shows("a folder that may not be written", &seeded);
    live.ends("-TERM");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

impl Live {
    /// The server says once that it cannot write the file.
    fn is_told_once(&self) {
        until("the failure to be told", || !self.rows()["why_not_saved"].is_null());
        assert_eq!(self.said().matches(NOT_KEPT).count(), 1, "{}", self.said());
    }
}

#[test]
fn rows_of_another_configuration_or_another_database_are_ignored() {
    let mut live = Live::of(Db::new(), POINTS, "t.mbtiles");
    live.keeps_rows();
    live.is_saved();
    live.ends("-TERM");
    let whole = fs::read(live.file()).unwrap();
    let seeds = |live: &Live| {
        seed(&live.tracked.db.url, live.target.as_ref(), &["--config", &live.config, "--zoom", "0-1"]).ok();
        fs::write(live.file(), &whole).unwrap();
    };
    // Another property, another condition.
    for layers in [POINTS.replace("\"word\", \"kind\"", "\"word\""), POINTS.replace("\"shown\"", "\"NOT shown\"")] {
        fs::write(&live.config, layers).unwrap();
        seeds(&live);
        live.starts();
        live.ignores("its rows are of other layers");
        live.shows_what_a_seed_shows("another configuration");
        live.ends("-KILL");
    }
    fs::write(&live.config, POINTS).unwrap();
    // A copy, with the key and the log of the first.
    let (from, copy) = (live.tracked.db.name.clone(), format!("{}_copy", live.tracked.db.name));
    let server = live.tracked.db.url.replace(&from, "postgres");
    let others = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{from}'");
    until("the copy", || {
        psql(&server, &others);
        std::panic::catch_unwind(|| psql(&server, &format!("CREATE DATABASE {copy} TEMPLATE {from}"))).is_ok()
    });
    live.tracked.db = std::mem::ManuallyDrop::into_inner(Db::there(&server, &copy));
    live.tracked.db.run("DELETE FROM rows WHERE id % 3 = 0");
    seeds(&live);
    live.starts();
    live.ignores("they are of another database, or of another version of PostGIS");
    live.shows_what_a_seed_shows("a copy");
}

#[test]
fn rows_of_another_history_are_ignored() {
    let mut cluster = Cluster::new();
    let db = Db::on(&cluster.url);
    db.run("CREATE EXTENSION postgis");
    let mut live = Live::of(db, POINTS, "t.mbtiles");
    live.ends("-KILL");
    let disk = cluster.disk_snapshot();
    live.tracked.db.reconnect();
    live.starts();
    live.tracked.db.run("UPDATE rows SET word = 'lost' WHERE id % 2 = 0");
    live.keeps_rows();
    live.is_saved();
    live.ends("-TERM");
    let name = live.tracked.db.name.clone();
    cluster.restore(&disk, |url| {
        let url = with_database(url, &name);
        // It takes the transaction numbers of the other history, and more.
        (0..40).for_each(|_| drop(psql(&url, "UPDATE rows SET word = 'found' WHERE id % 3 = 0")));
    });
    live.tracked.db.reconnect();
    live.starts();
    live.ignores("the database has another history, or its change log does not reach back so far");
    live.shows_what_a_seed_shows("another history");
    // The disk as it was when the rows were kept: they are its own again.
    live.keeps_rows();
    live.is_saved();
    live.ends("-KILL");
    live.tracked.db.run("UPDATE rows SET word = 'late' WHERE id % 5 = 0");
    live.starts();
    live.has_taken_over();
    live.shows_what_a_seed_shows("the same history");
}

#[test]
fn the_file_in_a_directory_is_no_tile() {
    let mut live = Live::of(Db::new(), POINTS, "t/");
    live.keeps_rows();
    live.is_saved();
    assert!(live.file().is_file());
    for path in ["/.oar-tiles/notes/live-rows", "/%2eoar-tiles/notes/live-rows", "/.oar-tiles/notes/.live-rows.partial"]
    {
        assert_eq!(status(&live.served.get(path, GZIP)), 404, "{path}");
    }
    live.ends("-TERM");
    live.tracked.db.run("UPDATE rows SET word = 'other' WHERE id % 9 = 0");
    let copy = live.tracked.path("copy.mbtiles");
    let copy = copy.to_str().unwrap();
    live.tracked.oar_tiles(&["reseed", "--config", &live.config, "--progress", "none", "--output", &live.target]).ok();
    run(program().args(["copy", &live.target, copy])).ok();
    run(program().args(["diff", &live.target, copy])).ok();
    live.tracked.oar_tiles(&["verify", "--database", "--config", &live.config, &live.target]).ok();
    seed(&live.tracked.db.url, live.target.as_ref(), &["--config", &live.config, "--zoom", "0-1"]).ok();
    live.starts();
    live.has_taken_over();
    live.shows_what_a_seed_shows("a directory");
    live.draws_from_rows();
}

#[test]
fn only_rows_that_are_shown_as_they_were_written_outlive_their_time() {
    let db = Db::new();
    db.run("CREATE TYPE state AS ENUM ('new', 'old')");
    let table = |name: &str| {
        format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, word text, \"user\" text, seen timestamptz DEFAULT now(), was state DEFAULT 'new',
                 twice int GENERATED ALWAYS AS (id * 2) STORED, fit boolean DEFAULT true, geom geometry(Point, 4326));
             INSERT INTO {name} (id, word, \"user\", geom) SELECT i, 'w' || i, 'me', ST_SetSRID(ST_MakePoint(i, i / 2.0), 4326) FROM generate_series(1, 90) AS i;
             CREATE INDEX ON {name} USING gist (geom);"
        )
    };
    let mut layers = String::new();
    let cases = [
        ("plain", "properties = [\"id\", \"word\", \"user\"]", true),
        ("numbered", "feature_id = \"id\"\nproperties = { word = \"word\", z = \"!zoom!\" }", true),
        ("limited", "properties = [\"id\"]\nwhere = \"id > 3\"", false),
        ("chosen", "properties = [\"id\"]\nwhere = \"fit\"", true),
        ("unchosen", "properties = [\"id\"]\nwhere = \"NOT fit\"", false),
        ("computed", "properties = { id = \"id\", word = \"upper(word)\" }", false),
        ("keyword", "properties = { id = \"id\", who = \"user\" }", false),
        ("seen", "properties = [\"id\", \"seen\"]", false),
        ("state", "properties = [\"id\", \"was\"]", false),
        ("generated", "properties = [\"id\", \"twice\"]", false),
        ("view", "properties = [\"id\", \"word\"]\nkey = [\"id\"]", false),
    ];
    for (name, lines, _) in cases {
        if name == "view" {
            db.run("CREATE VIEW t_view AS SELECT id, word, geom FROM t_plain WHERE seen < now()");
        } else {
            db.run(&table(&format!("t_{name}")));
        }
        layers += &format!("[[layer]]\nname = \"{name}\"\ntable = \"t_{name}\"\ngeometry = \"geom\"\n{lines}\n");
    }
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    fs::write(&config, layers).unwrap();
    let flags = vec![("--database-url", "database.url", db.url.as_str().into())];
    let values = gather(Some(&config), None, [], flags).unwrap();
    let settings = Settings::resolve(&values, &ConnectParts::default(), &[]).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let stop = Stop::new();
        let database = Database::new(&settings.database.connect, settings.database.session.clone(), &stop).unwrap();
        let snapshot = database.snapshot().await.unwrap();
        let probed = probe(&snapshot, &settings.tileset.layers).await.unwrap();
        for (layer, (name, _, expected)) in probed.layers.iter().zip(cases) {
            assert_eq!(layer.name(), name);
            assert_eq!(shows_rows_as_written(&snapshot, layer, &[]).await.unwrap(), expected, "{name}");
        }
    });
}
