//! Live rows that take more memory than `rows_mb` allows: their features are in a scratch file, and tiles are those of a
//! seed.

use std::fs;

use super::live_rows::Live;
use super::live_sets::Pair;
use crate::reseed::live_rows::{CHANGES, filled};
use crate::support::chance::Chance;
use crate::support::disk::SmallDisk;
use crate::support::program::program;
use crate::support::served::{GZIP, Served};
use crate::support::until;

/// Makes the features of all rows longer than two megabytes. Those of rows at one position stay short: they are read
/// together.
pub(crate) const WIDE: &str = "UPDATE rows SET word = word || repeat(md5(id::text), 34) WHERE id % 3 > 0";

/// Points in tiles of degrees, with a constant of the tile.
const POINTS: &str = r#"
[tileset]
max_shrink = "100%"
[[layer]]
name = "latitudes"
table = "rows"
geometry = "geom"
feature_id = "id"
tile_bounds = "degrees"
buffer = 512
candidates = 0.1
properties = { word = "word", kind = "kind", z = "!zoom!" }
"#;

/// Points with a facet and a condition.
const LAYERS: &str = r#"
[tileset]
max_shrink = "100%"
[[tileset.parameter]]
name = "kind"
type = "integer[]"
facet = { points = "kind" }
[[tileset.parameter]]
name = "above"
type = "integer"
where = { points = "id % 50 > !above!" }
[[layer]]
name = "points"
table = "rows"
geometry = "geom"
facets = ["kind"]
properties = ["id", "word", "kind"]
"#;

/// Points without their key, of which some are left out of large tiles, and cells of the same rows with a value that is folded.
const THINNED: &str = r#"
[tileset]
max_shrink = "100%"
[[layer]]
name = "few"
table = "rows"
geometry = "geom"
properties = ["word"]
on_large_tile = "thin"
max_tile_features = 60
rank = "kind"
[[layer]]
name = "folded"
table = "rows"
geometry = "geom"
zoom = "1-3"
[layer.aggregate]
cell = "square"
size = "1/4"
draw = "centroid"
properties = { rows = "count(*)", least = "min(kind)" }
"#;

fn with_memory(layers: &str, rows_mb: u32) -> String {
    format!("{layers}\n[run]\nrows_mb = {rows_mb}\n")
}

impl Live {
    fn has_rows_in_a_file(&self) {
        self.asks_until("rows in a file", |rows| rows["rows"].as_u64().unwrap() > 0);
        let rows = self.rows();
        assert!(rows["file_bytes"].as_u64().unwrap() > 1_000_000, "{rows}");
    }

    fn changes(&self, chance: &mut Chance, sql: &str) {
        let sql = filled(sql, chance);
        self.tracked.db.run(&sql);
        self.shows_what_a_seed_shows(&sql);
    }
}

#[test]
fn tiles_of_rows_in_a_scratch_file_are_those_of_a_seed_after_every_change() {
    let layers = with_memory(POINTS, 2);
    let live = Live::over(WIDE, &layers, &layers);
    live.has_rows_in_a_file();
    let mut chance = Chance(53);
    for change in CHANGES {
        live.changes(&mut chance, change);
    }
    let rows = live.rows();
    assert!(rows["tiles"].as_u64().unwrap() > 100 && rows["drops"] == 0, "{rows}");
    assert!(rows["bytes"].as_u64().unwrap() < 2 << 20, "{rows}");
    let metrics = live.served.admin("/metrics").1;
    let said = format!("oar_tiles_live_rows_file_bytes{{}} {}\n", rows["file_bytes"]);
    assert!(metrics.contains(&said), "{said}: {metrics}");
}

#[test]
fn rows_that_fill_the_memory_many_times_are_all_kept() {
    let layers = with_memory(LAYERS, 2);
    let live = Live::over(&WIDE.replace("34", "150"), &layers, &layers);
    live.has_rows_in_a_file();
    let rows = live.rows();
    let drawn: i64 = live.tracked.db.value("SELECT count(*) FROM rows WHERE abs(ST_Y(geom)) < 85.05");
    assert!(rows["rows"] == drawn && rows["file_bytes"].as_u64().unwrap() > 8_000_000, "{drawn} {rows}");
    live.shows_what_a_seed_shows("the rows");
    let rows = live.rows();
    assert!(rows["tiles"].as_u64().unwrap() > 100, "{rows}");
}

#[test]
fn rows_in_a_scratch_file_are_thinned_by_their_ranks_and_joined_with_what_changed() {
    let layers = with_memory(THINNED, 2);
    let live = Live::over(WIDE, &layers, &layers);
    live.has_rows_in_a_file();
    live.shows_what_a_seed_shows("the rows");
    let before = live.rows();
    live.tracked.db.run("UPDATE rows SET kind = id % 13, word = left(word, 90) WHERE id % 3 > 0 AND id % 4 = 0");
    live.asks_until("joined rows", |rows| {
        rows["snapshot"] != before["snapshot"] && rows["changed"].as_u64().unwrap() < 300
    });
    live.shows_what_a_seed_shows("joined rows");
    live.tracked.db.run("UPDATE rows SET geom = ST_Translate(geom, 3, 2) WHERE id % 7 = 0 AND abs(ST_X(geom)) < 170");
    live.shows_what_a_seed_shows("moved rows");
    let rows = live.rows();
    assert_eq!((&rows["reads"], &rows["drops"]), (&1.into(), &0.into()), "{rows}");
    assert!(rows["counted_tiles"].as_u64().unwrap() > 10, "{rows}");
    let bytes = |rows: &serde_json::Value| rows["file_bytes"].as_u64().unwrap();
    assert!(bytes(&rows) < bytes(&before) - 100_000, "{before} {rows}");
}

#[test]
fn filters_choose_among_rows_in_a_scratch_file_what_the_database_chooses() {
    let pair = Pair::over(WIDE, LAYERS, LAYERS, 2);
    pair.live.has_rows_in_a_file();
    for change in ["SELECT 1", "UPDATE rows SET kind = 3, word = word || 'z' WHERE id % 5 = 1"] {
        pair.live.tracked.db.run(change);
        pair.has_new_snapshots();
        for filter in ["kind=3&kind=5", "above=44", "kind=3&above=30"] {
            assert!(pair.shows_the_same(filter, &[0, 2, 3]), "{change}: {filter}");
            for path in ["count.json", "values.json"] {
                let [own, plain] =
                    [&pair.live.served, &pair.plain].map(|served| served.get(&format!("/{path}?{filter}"), GZIP).body);
                assert!(!own.is_empty() && own == plain, "{change}: {path} {filter}");
            }
        }
    }
    let rows = pair.live.rows();
    assert!(pair.count("facet_sets") > 0 && pair.count("set_tiles") > 20 && rows["drops"] == 0, "{rows}");
    assert!(rows["why_no_facets"].is_null() && rows["file_bytes"].as_u64().unwrap() > 1_000_000, "{rows}");
}

impl Live {
    /// Starts a further server, whose temporary folder is another one, and whose log goes to a file.
    fn starts_with(&mut self, temporary: &std::path::Path) {
        let mut command = program();
        command.args(["serve", &self.target, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
        command.args(["--config", &self.config, "--live", "--database-url", &self.tracked.db.url]);
        // SQLite's own scratch lists go elsewhere.
        command.env("TMPDIR", temporary).env("SQLITE_TMPDIR", self.tracked.folder.path());
        self.served = Served::of(command.stderr(fs::File::create(self.tracked.path("log")).unwrap()));
    }

    fn says(&self, what: &str) {
        let log = || fs::read_to_string(self.tracked.path("log")).unwrap();
        until(what, || log().contains(what));
    }
}

#[test]
fn without_room_for_a_scratch_file_the_database_draws_and_the_log_says_so() {
    let layers = with_memory(POINTS, 2);
    let mut live = Live::over(WIDE, &layers, &layers);
    let missing = live.tracked.path("missing");
    live.starts_with(&missing);
    live.asks_until("the rows to be refused", |rows| {
        rows["why_not"].as_str().is_some_and(|why| why.starts_with("no layer's rows can be kept"))
    });
    live.says(&format!(
        "layer \"latitudes\": its rows are not cached: they take more memory than rows_mb allows, and the temporary folder {} does not take them (No such file or directory (os error 2)",
        missing.display()
    ));
    live.says("Make room there, set TMPDIR to another one, or raise rows_mb");
    live.shows_what_a_seed_shows("without a folder");
    assert_eq!((&live.rows()["tiles"], &live.rows()["file_bytes"]), (&0.into(), &0.into()));
}

#[test]
fn rows_whose_temporary_folder_has_no_room_for_joined_ones_are_dropped() {
    let layers = with_memory(POINTS, 2);
    let mut live = Live::over(WIDE, &layers, &layers);
    let Some(disk) = SmallDisk::mount(&live.tracked.path("disk"), "3m") else { return };
    live.starts_with(&disk.path);
    live.has_rows_in_a_file();
    live.tracked.db.run("UPDATE rows SET kind = id % 13 WHERE id % 4 = 0");
    live.asks_until("the rows to be dropped", |rows| rows["drops"] == 1);
    live.says("its rows are read anew: ");
    live.says(&format!(
        "the temporary folder {} does not take these with the others (No space left",
        disk.path.display()
    ));
    live.shows_what_a_seed_shows("a full folder");
    live.served.signal("-TERM");
    live.served.child.wait().unwrap();
    assert_eq!(fs::read_dir(&disk.path).unwrap().count(), 0, "nothing is left there");
}

#[test]
fn rows_whose_scratch_file_cannot_be_read_any_more_are_the_databases() {
    let layers = with_memory(POINTS, 2);
    let mut live = Live::over(WIDE, &layers, &layers);
    live.starts_with(live.tracked.folder.path().to_owned().as_path());
    live.has_rows_in_a_file();
    live.shows_what_a_seed_shows("the rows");
    // Somebody cuts the file, which has no name any more.
    let open = fs::read_dir(format!("/proc/{}/fd", live.served.child.id())).unwrap().map(|entry| entry.unwrap().path());
    let is_scratch = |path: &std::path::PathBuf| {
        let is_gone = fs::read_link(path).is_ok_and(|to| to.to_string_lossy().ends_with(" (deleted)"));
        is_gone && fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() > 1_000_000)
    };
    let files: Vec<std::path::PathBuf> = open.filter(is_scratch).collect();
    assert!(!files.is_empty());
    for file in files {
        fs::OpenOptions::new().write(true).open(file).unwrap().set_len(10).unwrap();
    }
    // Tiles in memory are forgotten with this.
    live.tracked.db.run("UPDATE rows SET kind = kind + 1");
    live.shows_what_a_seed_shows("a file that was cut");
    live.tracked.db.run("UPDATE rows SET geom = ST_Translate(geom, 0.5, 0.5) WHERE id % 50 = 7");
    live.shows_what_a_seed_shows("moved rows");
}
