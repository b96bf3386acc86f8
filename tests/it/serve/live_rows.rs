//! Live tiles drawn from rows that a server keeps: the bytes of a seed, whatever happens to the rows, and the database
//! again where the rows cannot be trusted.

use std::fs;

use oar_tiles::mvt::decode;
use serde_json::Value;

use crate::reseed::live_rows::{CHANGES, POINTS, ROWS, filled};
use crate::support::chance::Chance;
use crate::support::cluster::{Cluster, psql};
use crate::support::database::with_database;
use crate::support::other_sessions::Connection;
use crate::support::program::{program, run, seed};
use crate::support::served::{Served, status};
use crate::support::tracked::{Tiles, Tracked};
use crate::support::{Archive, Db, until};

const GZIP: &str = "Accept-Encoding: gzip\r\n";

/// A server of a target of zooms 0 and 1 that renders the others on request, from rows that it may keep.
pub(crate) struct Live {
    pub(crate) tracked: Tracked,
    pub(crate) config: String,
    pub(crate) target: String,
    pub(crate) served: Served,
}

/// Every tile of zooms 2 to 4, of which the target has none.
fn tiles() -> impl Iterator<Item = (u8, u32, u32)> + Clone {
    (2..=4_u8).flat_map(|z| (0..1_u32 << z).flat_map(move |x| (0..1_u32 << z).map(move |y| (z, x, y))))
}

impl Live {
    fn new(layers: &str) -> Live {
        Live::of(Db::new(), layers, "t.mbtiles")
    }

    /// The same with a target of this name, in a database of the test.
    pub(crate) fn of(db: Db, layers: &str, target: &str) -> Live {
        Live::start(db, "", layers, layers, target)
    }

    /// Serves layers live from rows that some SQL changed. The log is installed for `logged`.
    pub(crate) fn over(sql: &str, logged: &str, layers: &str) -> Live {
        Live::start(Db::new(), sql, logged, layers, "t.mbtiles")
    }

    fn start(db: Db, sql: &str, logged: &str, layers: &str, target: &str) -> Live {
        db.run(ROWS);
        db.run("CREATE TABLE words (id int PRIMARY KEY, word text)");
        db.run(sql);
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("c.toml");
        fs::write(&config, logged).unwrap();
        let config = config.to_str().unwrap().to_owned();
        let tracked = Tracked { db, folder };
        tracked.oar_tiles(&["track", "install", "--config", &config]).ok();
        fs::write(&config, layers).unwrap();
        let target = format!("{}/{target}", tracked.folder.path().display());
        seed(&tracked.db.url, target.as_ref(), &["--config", &config, "--zoom", "0-1"]).ok();
        let own = ["--config", &config, "--live", "--database-url", &tracked.db.url];
        let served = Served::new(&target, &own);
        Live { tracked, config, target, served }
    }

    pub(crate) fn rows(&self) -> Value {
        serde_json::from_str::<Value>(&self.served.admin("/status.json").1).unwrap()["live_rows"].clone()
    }

    /// Asks for tiles that nobody has asked for until the server says so of its rows.
    pub(crate) fn asks_until(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        let mut tiles =
            (5..=7_u8).flat_map(|z| (0..1_u32 << z).flat_map(move |x| (0..1_u32 << z).map(move |y| (z, x, y))));
        until(what, || {
            for (zoom, x, y) in tiles.by_ref().take(60) {
                self.served.get(&format!("/{zoom}/{x}/{y}.pbf"), GZIP);
            }
            is_so(&self.rows())
        });
    }

    pub(crate) fn keeps_rows(&self) {
        self.asks_until("the rows to be read", |rows| rows["rows"].as_u64().unwrap() > 0);
    }

    /// Compares every tile with those of a seed, once the server shows what is in the table now.
    pub(crate) fn shows_what_a_seed_shows(&self, what: &str) {
        self.shows(what, &self.seeded());
    }

    /// The tiles of a seed of all zooms that the server is asked for.
    pub(crate) fn seeded(&self) -> Tiles {
        let fresh = self.tracked.path("fresh.mbtiles");
        drop(fs::remove_file(&fresh));
        let mut command = program();
        command.args(["seed", "--config", &self.config, "--progress", "none", "--zoom", "2-4", "--database-url"]);
        run(command.arg(&self.tracked.db.url).arg("--output").arg(&fresh).env("OAR_TILES_ROWS_MB", "0")).ok();
        Archive::open(&fresh).stored()
    }

    pub(crate) fn shows(&self, what: &str, stored: &Tiles) {
        Live::shows_by(&self.served, what, stored);
    }

    /// Compares every tile of a server with these.
    pub(crate) fn shows_by(served: &Served, what: &str, stored: &Tiles) {
        until(what, || {
            tiles().all(|(zoom, x, y)| {
                let answer = served.get(&format!("/{zoom}/{x}/{y}.pbf"), GZIP);
                match stored.get(&(zoom, x, y)) {
                    Some(stored) => status(&answer) == 200 && answer.body == *stored,
                    None => status(&answer) == 204,
                }
            })
        });
    }
}

#[test]
fn live_tiles_drawn_from_kept_rows_are_those_of_a_seed_after_every_change() {
    let live = Live::new(POINTS);
    assert_eq!(live.rows()["why_not"], "few live tiles have been asked for so far");
    live.keeps_rows();
    let mut chance = Chance(41);
    for change in CHANGES {
        let sql = filled(change, &mut chance);
        live.tracked.db.run(&sql);
        live.shows_what_a_seed_shows(&sql);
    }
    let rows = live.rows();
    assert!(rows["tiles"].as_u64().unwrap() > 100 && rows["reads"] == 1 && rows["why_not"].is_null(), "{rows}");
    live.tracked.db.run("TRUNCATE rows; INSERT INTO rows SELECT i, 1, 'b', true, ST_SetSRID(ST_MakePoint(i % 90, i % 60), 4326) FROM generate_series(1, 500) AS i");
    live.shows_what_a_seed_shows("an emptied table");
    assert_eq!(live.rows()["rows"], 1_000, "{}", live.rows());
}

/// The restored database goes on with other changes, under the numbers of the lost transactions.
#[test]
fn rows_of_a_database_that_was_set_back_are_never_shown() {
    let mut cluster = Cluster::new();
    let db = Db::on(&cluster.url);
    db.run("CREATE EXTENSION postgis");
    let live = Live::of(db, POINTS, "t.mbtiles");
    live.keeps_rows();
    let copy = cluster.disk_snapshot();
    let change =
        |by: i32| format!("UPDATE rows SET kind = kind + {by}, geom = ST_Translate(geom, {by}, 0) WHERE id % 7 = {by}");
    psql(&live.tracked.db.url, &change(1));
    live.shows_what_a_seed_shows("a change after the database was started again");
    let rows = live.rows();
    assert!(rows["rows"].as_u64().unwrap() > 0 && rows["drops"] == 0, "{rows}");
    let name = live.tracked.db.name.clone();
    cluster.restore(&copy, |url| drop(psql(&with_database(url, &name), &change(2))));
    live.shows_what_a_seed_shows("a database that was set back");
    let rows = live.rows();
    assert!(rows["drops"].as_u64().unwrap() > 0, "{rows}");
    let why = "the database has another history";
    let behind = format!("{why}: it is at an earlier state than before");
    assert!(rows["why_not"] == why || rows["why_not"] == behind, "{rows}");
}

/// A transaction that was committed last, but is not the newest by its number, is lost in a crash.
#[test]
fn rows_that_a_crash_has_lost_are_not_shown_afterwards() {
    let mut cluster = Cluster::with(&["wal_writer_delay=10000", "bgwriter_lru_maxpages=0", "autovacuum=off"]);
    let db = Db::on(&cluster.url);
    db.run("CREATE EXTENSION postgis");
    let live = Live::of(db, POINTS, "t.mbtiles");
    live.keeps_rows();
    let url = &live.tracked.db.url;
    let kinds = "SELECT string_agg(kind::text, ' ' ORDER BY id) FROM rows WHERE id % 7 = 1";
    // The commit is lost unless the server writes it to its disk before, which it does every ten seconds.
    let is_lost = (0..5).any(|_| {
        psql(url, "CHECKPOINT");
        let first = Connection::open(url, "first");
        first.run("BEGIN; SET LOCAL synchronous_commit = off; UPDATE rows SET kind = kind + 1 WHERE id % 7 = 1");
        psql(url, "UPDATE rows SET kind = kind + 1 WHERE id % 7 = 2");
        first.run("COMMIT");
        live.shows_what_a_seed_shows("both changes");
        let before = psql(url, kinds);
        cluster.restart();
        psql(url, kinds) != before
    });
    assert!(is_lost, "no crash has lost anything");
    live.shows_what_a_seed_shows("the rows after the crash");
    psql(url, "UPDATE rows SET kind = kind + 1 WHERE id % 7 = 3");
    live.shows_what_a_seed_shows("a change after that");
    assert!(live.rows()["drops"].as_u64().unwrap() > 0, "{}", live.rows());
}

#[test]
fn live_tiles_with_points_between_two_units_are_drawn_from_rows() {
    // Half a unit of the grid of zoom 2.
    let between = "UPDATE rows SET geom = ST_SetSRID(ST_MakePoint((300 * id % 16000 + 0.5) / 16384 * 360 - 180, 10), 4326) WHERE id % 100 = 7";
    let live = Live::over(between, POINTS, POINTS);
    live.keeps_rows();
    // The snapshot from before is used for a while.
    live.asks_until("tiles from rows", |rows| rows["tiles"].as_u64().unwrap() > 0);
    let from_rows = || live.rows()["tiles"].as_u64().unwrap();
    for what in ["the rows as read", "later rows"] {
        let (seeded, before) = (live.seeded(), from_rows());
        live.shows(what, &seeded);
        let drawn = from_rows() - before;
        assert!(drawn >= seeded.len() as u64, "{what}: {drawn} of {} tiles, {}", seeded.len(), live.rows());
        live.tracked.db.run("UPDATE rows SET word = word || 'y'");
    }
}

#[test]
fn live_tiles_of_a_layer_that_is_thinned_are_those_of_a_seed() {
    let layer =
        "[[layer]]\nname = \"thinned\"\ntable = \"rows\"\ngeometry = \"geom\"\nproperties = [\"id\", \"word\"]\n
        max_tile_features = 60\non_large_tile = \"thin\"\n";
    for budget in ["max_tile_bytes = 1500", "rank = \"kind\""] {
        let live = Live::new(&format!("[tileset]\nmax_shrink = \"100%\"\n{layer}{budget}\n"));
        live.keeps_rows();
        live.shows_what_a_seed_shows("the rows");
        let move_some = "UPDATE rows SET geom = ST_Translate(geom, 3, 2) WHERE id % 7 = 0 AND abs(ST_X(geom)) < 170";
        for change in [move_some, "UPDATE rows SET kind = CASE WHEN id % 11 > 0 THEN id % 13 END WHERE id % 2 = 0"] {
            live.tracked.db.run(change);
            live.shows_what_a_seed_shows(change);
        }
        let rows = live.rows();
        assert!(rows["tiles"].as_u64().unwrap() > 50 && rows["why_not"].is_null(), "{rows}");
    }
}

#[test]
fn rows_are_not_kept_without_memory_or_a_log() {
    for (lines, drop_log) in [("[run]\nrows_mb = 0\n", false), ("", true)] {
        let live = Live::new(&format!("{POINTS}\n{lines}"));
        if drop_log {
            live.tracked.oar_tiles(&["track", "remove", "--config", &live.config]).ok();
        }
        live.asks_until("an answer", |rows| {
            let why = rows["why_not"].to_string();
            why.contains("rows_mb leaves no room") || why.contains("a change log of their own")
        });
        live.shows_what_a_seed_shows("the rows");
        assert_eq!(live.rows()["tiles"], 0);
    }
}

#[test]
fn cells_are_counted_from_rows_only_if_the_database_counts_the_same() {
    let cells = |condition: &str| {
        format!(
            "[tileset]\nmax_shrink = \"100%\"\n[[layer]]\nname = \"grid\"\ntable = \"rows\"\ngeometry = \"geom\"\nwhere = \"{condition}\"\n[layer.aggregate]\ncell = \"square\"\nsize = \"1/4\"\nproperties = {{ rows = \"count(*)\" }}\n"
        )
    };
    let counted = Live::new(&cells("shown"));
    counted.asks_until("cells to be counted", |rows| rows["counted_tiles"].as_u64().unwrap() > 0);
    // Other rows with each query: one in fifty, so that no tile is the same by chance.
    let other = Live::new(&cells("id % 50 = (SELECT (random() * 49)::int)"));
    other.asks_until("the rows to be compared", |rows| {
        rows["why_not"].as_str().is_some_and(|why| why.starts_with("no layer's rows can be kept: "))
    });
    assert_eq!(other.rows()["counted_tiles"], 0, "{}", other.rows());
    // Beside points of the same rows, cells with other values at each query are still cells.
    let points = "[[layer]]\nname = \"points\"\ntable = \"rows\"\ngeometry = \"geom\"\nwhere = \"shown\"\nproperties = [\"id\"]\n";
    let random = cells("shown").replace("count(*)", "count(*) + (random() * 1e6)::int8");
    let both = Live::new(&format!("{random}{points}"));
    both.keeps_rows();
    // Rows of points stay, though cells of other rows are left to the database.
    let beside = Live::new(&format!("{}{points}", cells("id % 50 = (SELECT (random() * 49)::int)")));
    beside.keeps_rows();
    for kind in 0..3 {
        let before = beside.rows()["snapshot"].clone();
        beside.tracked.db.run(&format!("UPDATE rows SET kind = {kind} WHERE id < 50"));
        beside.asks_until("a further step", |rows| rows["snapshot"] != before && rows["rows"] != 0);
    }
    assert!(beside.rows()["reads"] == 1 && beside.rows()["drops"] == 0, "{}", beside.rows());
    let before = both.rows()["database_tiles"].as_u64().unwrap();
    both.asks_until("the database to draw", |rows| rows["database_tiles"].as_u64().unwrap() > before + 100);
    let tile = format!("{:?}", decode(&both.served.get("/3/4/3.pbf", "").body).unwrap());
    assert!(["\"grid\"", "\"rows\"", "\"points\""].iter().all(|name| tile.contains(name)), "{tile}");
    assert_eq!(both.rows()["counted_tiles"], 0, "{}", both.rows());
}

#[test]
fn a_further_table_of_a_layer_costs_the_rows_only_where_it_changes() {
    let track =
        "[[layer.track]]\ntable = \"words\"\ngeometry = \"SELECT r.geom FROM rows r WHERE r.id = changed.id\"\n";
    let layers = format!(
        "[[layer]]\nname = \"told\"\ntable = \"rows\"\ngeometry = \"geom\"\n
         properties = {{ id = \"id\", word = \"(SELECT w.word FROM words w WHERE w.id = rows.id)\" }}\n{track}"
    );
    let live = Live::new(&layers);
    live.keeps_rows();
    live.tracked.db.run("UPDATE rows SET geom = ST_Translate(geom, 0.5, 0.5) WHERE id IN (5, 8, 11)");
    live.shows_what_a_seed_shows("moved rows");
    let rows = live.rows();
    assert!(
        rows["reads"] == 1 && rows["rows"].as_u64().unwrap() > 2_000 && rows["tiles"].as_u64().unwrap() > 10,
        "{rows}"
    );
    live.tracked.db.run("INSERT INTO words SELECT i, 'told' || i FROM generate_series(1, 40) AS i");
    live.shows_what_a_seed_shows("words");
    let rows = live.rows();
    assert_eq!(
        rows["why_not"], "what changed since is not known, too much, or does not fit into rows_mb with the rows",
        "{rows}"
    );
}

#[test]
fn keys_whose_type_is_altered_and_more_changes_than_a_step_takes_are_what_a_seed_shows() {
    let layer = "[tileset]\nmax_shrink = \"100%\"\n[[layer]]\nname = \"plain\"\ntable = \"rows\"\ngeometry = \"geom\"\nkey = [\"id\"]\nproperties = [\"kind\"]\n[serve]\nlive_ttl = \"1s\"\n[changes]\npoll = \"1s\"\n";
    let live = Live::new(layer);
    live.keeps_rows();
    live.shows_what_a_seed_shows("the rows");
    for altered in ["bigint", "numeric USING -id::numeric", "int"] {
        live.tracked.db.run(&format!("ALTER TABLE rows ALTER COLUMN id TYPE {altered}"));
        live.shows_what_a_seed_shows(altered);
        live.tracked.db.run("UPDATE rows SET kind = kind + 1 WHERE kind < 3");
        live.shows_what_a_seed_shows("a change after that");
        // The log lacks changes of the altered column until then.
        live.tracked.oar_tiles(&["track", "install", "--config", &live.config]).ok();
    }
    live.keeps_rows();
    let reads = live.rows()["reads"].as_u64().unwrap();
    live.tracked.db.run("INSERT INTO rows SELECT 10000 + i, 1, 'new', true, ST_SetSRID(ST_MakePoint(i % 500 * 1e-3, i / 500 * 1e-3), 4326) FROM generate_series(1, 200001) AS i");
    live.shows_what_a_seed_shows("more rows than a step takes");
    live.tracked.db.run("UPDATE rows SET kind = 2 WHERE id = 10001");
    live.asks_until("the rows to be read anew", |rows| rows["rows"].as_u64().unwrap() > 200_000);
    assert_eq!(live.rows()["reads"], reads + 1, "{}", live.rows());
    live.shows_what_a_seed_shows("the rows that were read anew");
}

#[test]
fn keys_of_texts_in_a_database_of_another_encoding_are_the_databases() {
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let db = Db::encoded(encoding);
        let layer = "[tileset]\nmax_shrink = \"100%\"\n[[layer]]\nname = \"cells\"\ntable = \"rows\"\ngeometry = \"geom\"\nkey = [\"word\"]\n[layer.aggregate]\ncell = \"square\"\nsize = \"1/4\"\nproperties = { rows = \"count(*)\" }\n";
        let sql = "UPDATE rows SET word = chr(200 + id % 50) || id; ALTER TABLE rows ADD UNIQUE (word); ALTER TABLE rows ALTER word SET NOT NULL";
        let sql = if encoding == "LATIN1" { sql } else { &sql.replace("chr(200", "chr(70") };
        let live = Live::start(db, sql, layer, layer, "t.mbtiles");
        live.asks_until("an answer", |rows| {
            rows["why_not"].as_str().is_some_and(|why| why.contains("a key whose order is known"))
        });
        live.shows_what_a_seed_shows(encoding);
        for change in [
            "UPDATE rows SET geom = ST_Translate(geom, 3, 2) WHERE id % 7 = 0 AND abs(ST_X(geom)) < 170",
            "DELETE FROM rows WHERE id % 9 = 0",
        ] {
            live.tracked.db.run(change);
            live.shows_what_a_seed_shows(change);
        }
    }
}

#[test]
fn rows_that_cannot_be_kept_any_more_are_not_said_to_be_there() {
    let live = Live::new(POINTS);
    live.keeps_rows();
    live.tracked.db.run("DROP INDEX rows_geom_idx; DELETE FROM rows WHERE id % 2 = 0");
    live.asks_until("the rows to be dropped", |rows| rows["rows"] == 0);
    let rows = live.rows();
    let why = "the geometry, the spatial index or the key of a layer was altered or dropped";
    assert!(rows["why_not"] == why && rows["snapshot"].is_null() && rows["bytes"] == 0, "{rows}");
    live.shows_what_a_seed_shows("without an index");
}
