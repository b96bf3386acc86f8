//! Live rows that the tilesets of a server, and its writer, take from each other: one of them reads the table, and all
//! show what a seed shows.

use std::fs;

use serde_json::Value;

use super::rows_in_file::WIDE;
use crate::reseed::live_rows::{CHANGES, ROWS, filled};
use crate::support::chance::Chance;
use crate::support::program::{program, run};
use crate::support::served::{GZIP, Served, status};
use crate::support::tracked::{Tracked, show_the_same};
use crate::support::{Archive, Db, until};

const PLAIN: &str =
    "[[layer]]\nname = \"plain\"\ntable = \"rows\"\ngeometry = \"geom\"\nproperties = [\"id\", \"word\", \"kind\"]\n";

const SHOWN: &str = "[[layer]]\nname = \"shown\"\ntable = \"rows\"\ngeometry = \"geom\"\nwhere = \"shown\"\nproperties = [\"id\", \"word\", \"kind\"]\n";

/// A server of three tilesets, two of them of the same layer, with other zooms in their targets.
struct World {
    tracked: Tracked,
    served: Served,
}

impl World {
    fn new(sql: &str, arguments: &[&str]) -> World {
        World::with(sql, "", arguments)
    }

    /// The same with more lines in the configuration.
    fn with(sql: &str, lines: &str, arguments: &[&str]) -> World {
        let (db, folder) = (Db::new(), tempfile::tempdir().unwrap());
        db.run(sql);
        let tracked = Tracked { db, folder };
        let tileset = |name: &str, layer: &str, zoom: &str| {
            let output = tracked.path(&format!("{name}.mbtiles")).display().to_string();
            format!(
                "[[tileset]]\nname = \"{name}\"\nlayers = [\"{layer}\"]\noutput = \"{output}\"\nzoom = \"{zoom}\"\n"
            )
        };
        let tilesets = [tileset("one", "plain", "0"), tileset("two", "plain", "0-1"), tileset("other", "shown", "0")];
        let config = format!(
            "{lines}[tileset_defaults]\nmax_shrink = \"100%\"\n{}[changes]\ndebounce = \"20ms\"\n{PLAIN}{SHOWN}",
            tilesets.concat()
        );
        fs::write(tracked.path("c.toml"), config).unwrap();
        fs::write(tracked.path("plain.toml"), format!("[tileset]\n{PLAIN}")).unwrap();
        fs::write(tracked.path("shown.toml"), format!("[tileset]\n{SHOWN}")).unwrap();
        let config = tracked.path("c.toml").display().to_string();
        tracked.oar_tiles(&["track", "install", "--config", &config]).ok();
        tracked.oar_tiles(&["seed", "--progress", "none", "--config", &config]).ok();
        let mut command = program();
        command.args(["serve", "--config", &config, "--database-url", &tracked.db.url, "--live"]).args(arguments);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
        World { served: Served::of(&mut command), tracked }
    }

    /// What the server says of a tileset's rows.
    fn rows(&self, name: &str) -> Value {
        let all: Value = serde_json::from_str(&self.served.admin("/status.json").1).unwrap();
        let tilesets = all["tilesets"].as_array().unwrap();
        tilesets.iter().find(|tileset| tileset["name"] == name).unwrap()["live_rows"].clone()
    }

    /// Asks for tiles of a tileset that nobody has asked for until the server says so of its rows.
    fn asks_until(&self, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut tiles =
            (5..=8_u8).flat_map(|z| (0..1_u32 << z).flat_map(move |x| (0..1_u32 << z).map(move |y| (z, x, y))));
        until(what, || {
            for (zoom, x, y) in tiles.by_ref().take(60) {
                self.served.get(&format!("/{name}/{zoom}/{x}/{y}.pbf"), GZIP);
            }
            is_so(&self.rows(name))
        });
        self.rows(name)
    }

    fn keeps_rows(&self, name: &str) -> Value {
        self.asks_until(name, "the rows to be kept", |rows| rows["rows"].as_u64().unwrap() > 0)
    }

    /// Compares tiles of tilesets with those of a seed of their layer, once the server shows what is in the table now.
    fn show_what_a_seed_shows(&self, layer: &str, names: &[&str], what: &str) {
        let fresh = self.tracked.path("fresh.mbtiles");
        drop(fs::remove_file(&fresh));
        let mut command = program();
        command.args(["seed", "--progress", "none", "--zoom", "2-4", "--database-url", &self.tracked.db.url]);
        command.arg("--config").arg(self.tracked.path(&format!("{layer}.toml"))).arg("--output").arg(&fresh);
        run(command.env("OAR_TILES_ROWS_MB", "0")).ok();
        let stored = Archive::open(&fresh).stored();
        for name in names {
            until(&format!("{name}: {what}"), || {
                (2..=4_u8).flat_map(|z| (0..1_u32 << z).flat_map(move |x| (0..1_u32 << z).map(move |y| (z, x, y)))).all(
                    |(zoom, x, y)| {
                        let answer = self.served.get(&format!("/{name}/{zoom}/{x}/{y}.pbf"), GZIP);
                        match stored.get(&(zoom, x, y)) {
                            Some(stored) => status(&answer) == 200 && answer.body == *stored,
                            None => status(&answer) == 204,
                        }
                    },
                )
            });
        }
    }
}

#[test]
fn tilesets_of_the_same_layer_read_its_rows_once_and_each_shows_what_a_seed_shows() {
    let world = World::new(ROWS, &[]);
    let one = world.keeps_rows("one");
    assert_eq!((&one["reads"], &one["taken"], &one["shared_bytes"]), (&1.into(), &0.into(), &0.into()), "{one}");
    // What has changed since has to be seen by who takes them.
    world.tracked.db.run("UPDATE rows SET geom = ST_Translate(geom, 0.5, 0.5) WHERE id % 22 = 0 AND id % 3 > 0");
    let two = world.keeps_rows("two");
    assert_eq!((&two["reads"], &two["taken"], &two["rows"]), (&0.into(), &1.into(), &one["rows"]), "{two}");
    assert_eq!(two["changed"].as_u64().map(|changed| changed > 100), Some(true), "{two}");
    let other = world.keeps_rows("other");
    assert_eq!((&other["reads"], &other["taken"], &other["shared_bytes"]), (&1.into(), &0.into(), &0.into()));
    let mut chance = Chance(47);
    for (number, change) in CHANGES.iter().enumerate() {
        let sql = filled(change, &mut chance);
        world.tracked.db.run(&sql);
        // Each of them steps first.
        let names = if number % 2 == 0 { ["one", "two"] } else { ["two", "one"] };
        world.show_what_a_seed_shows("plain", &names, &sql);
    }
    world.show_what_a_seed_shows("shown", &["other"], "all changes");
    // They may have joined what changed apart from each other, until their next steps.
    let mut tiles = (0..256).flat_map(|x| (0..256).map(move |y| (x, y)));
    until("shared rows", || {
        for (x, y) in tiles.by_ref().take(30) {
            for name in ["one", "two"] {
                world.served.get(&format!("/{name}/8/{x}/{y}.pbf"), GZIP);
            }
        }
        ["one", "two"].iter().all(|name| world.rows(name)["shared_bytes"].as_u64().unwrap() > 50_000)
    });
    for (name, [reads, taken, given]) in [("one", [1, 0, 1]), ("two", [0, 1, 0]), ("other", [1, 0, 0])] {
        let rows = world.rows(name);
        assert_eq!(
            [&rows["reads"], &rows["taken"], &rows["given"]].map(Value::as_u64),
            [reads, taken, given].map(Some)
        );
        assert!(rows["drops"] == 0 && rows["tiles"].as_u64().unwrap() > 50, "{name}: {rows}");
        let is_shared = rows["shared_bytes"].as_u64().unwrap() > 50_000;
        assert_eq!(is_shared, name != "other", "{name}: {rows}");
    }
    let metrics = world.served.admin("/metrics").1;
    for line in ["taken{tileset=\"two\"} 1", "given{tileset=\"one\"} 1", "reads{tileset=\"two\"} 0"] {
        assert!(metrics.contains(&format!("oar_tiles_live_rows_{line}\n")), "{line}: {metrics}");
    }
}

#[test]
fn tilesets_share_rows_again_once_one_of_them_has_joined_them_with_what_changed() {
    let sql = "CREATE TABLE rows (id int PRIMARY KEY, kind int, word text, shown boolean, geom geometry(Point, 4326));
        INSERT INTO rows SELECT i, i % 7, 'w', true, ST_SetSRID(ST_MakePoint(i % 300, i / 300 * 0.5), 4326) FROM generate_series(1, 45000) AS i WHERE i % 300 < 180;
        CREATE INDEX ON rows USING gist (geom)";
    let world = World::new(sql, &[]);
    world.keeps_rows("one");
    world.keeps_rows("two");
    let before = world.rows("one")["snapshot"].clone();
    world.tracked.db.run("UPDATE rows SET kind = -1");
    world.asks_until("one", "the rows to be joined", |rows| rows["snapshot"] != before && rows["changed"] == 0);
    // The other one, which has not seen the change so far, goes on from them.
    let two = world.asks_until("two", "the joined rows", |rows| rows["snapshot"] != before && rows["changed"] == 0);
    assert!(two["shared_bytes"].as_u64().unwrap() > 500_000, "{two}");
    world.tracked.db.run("UPDATE rows SET geom = ST_Translate(geom, 0.1, 0.1) WHERE id % 500 < 3");
    world.show_what_a_seed_shows("plain", &["two", "one"], "moved rows");
    for name in ["one", "two"] {
        let rows = world.rows(name);
        assert!(rows["drops"] == 0 && rows["shared_bytes"].as_u64().unwrap() > 500_000, "{name}: {rows}");
    }
}

impl World {
    /// Waits until the target of the tileset "two" shows what is in the table.
    fn is_written(&self, what: &str) {
        let fresh = self.tracked.path("fresh.mbtiles");
        let config = self.tracked.path("plain.toml").display().to_string();
        drop(fs::remove_file(&fresh));
        let mut command = program();
        command.args(["seed", "--progress", "none", "--zoom", "0-1", "--config", &config, "--database-url"]);
        run(command.arg(&self.tracked.db.url).arg("--output").arg(&fresh).env("OAR_TILES_ROWS_MB", "0")).ok();
        let tiles = Archive::open(&fresh).stored();
        let target = self.tracked.path("two.mbtiles");
        until(what, || Archive::open(&target).stored() == tiles);
        show_the_same(&target, &fresh);
    }

    /// Changes some rows until a writer has taken those of the tileset "two".
    fn are_taken_by_a_writer(&self, some: &str) {
        self.keeps_rows("two");
        assert_eq!(self.rows("two")["given"], 0);
        for kind in ["kind + 1", "kind + 2"] {
            // Many, so that the writer wants the rows.
            self.tracked.db.run(&format!("UPDATE rows SET kind = {kind} WHERE {some}"));
            self.is_written(kind);
        }
        // The writers of both tilesets may.
        until("a writer to take them", || self.rows("two")["given"].as_u64().unwrap() > 0);
    }
}

#[test]
fn rows_in_a_scratch_file_are_taken_by_other_tilesets_and_by_the_writer() {
    // A third of the memory for each tileset, and what came lies beside the file.
    let sql = format!("{ROWS}; {}", WIDE.replace("34", "100"));
    let world = World::with(&sql, "[run]\nrows_mb = 15\n", &["--writer"]);
    world.are_taken_by_a_writer("id % 4 = 0");
    let mut chance = Chance(59);
    world.keeps_rows("one");
    for (number, change) in CHANGES.iter().enumerate() {
        let sql = filled(change, &mut chance);
        world.tracked.db.run(&sql);
        if number % 2 == 0 {
            world.is_written(&sql);
        }
        world.show_what_a_seed_shows("plain", &["one", "two"], &sql);
    }
    let rows = ["one", "two"].map(|name| world.rows(name));
    let sum = |of: &str| rows.iter().map(|rows| rows[of].as_u64().unwrap()).sum::<u64>();
    assert!(sum("drops") == 0 && sum("reads") == 1 && sum("given") > 0, "{rows:?}");
    assert!(rows.iter().all(|rows| rows["file_bytes"].as_u64().unwrap() > 1_000_000), "{rows:?}");
}

#[test]
fn the_writer_takes_the_rows_of_live_tiles() {
    let world = World::new(ROWS, &["--writer"]);
    world.are_taken_by_a_writer("id % 2 = 0");
    for sql in [
        "UPDATE rows SET geom = ST_Translate(geom, 0.5, 0.5) WHERE id % 11 = 0 AND id % 3 > 0",
        "DELETE FROM rows WHERE id % 101 = 0",
        "UPDATE rows SET word = 'last' WHERE id % 13 = 0",
    ] {
        world.tracked.db.run(sql);
        world.is_written(sql);
        world.show_what_a_seed_shows("plain", &["one", "two"], sql);
    }
    let [one, two] = ["one", "two"].map(|name| world.rows(name));
    assert!(two["reads"] == 1 && two["drops"] == 0 && one["drops"] == 0, "{one} {two}");
}
