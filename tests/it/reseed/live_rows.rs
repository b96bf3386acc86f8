//! Rows that a watch keeps between its looks: points and cells are what a fresh seed draws, whatever happens to the
//! rows meanwhile.

use std::path::{Path, PathBuf};

use crate::serve::live_keys::{KEY_COLUMNS, KEYED};
use crate::support::chance::Chance;
use crate::support::program::{program, run};
use crate::support::tracked::{Tracked, show_the_same};
use crate::support::watch_process::Watching;
use crate::support::{Db, until};

/// Rows in towns and all over the world, some at the same point, some beyond the world, some without a place.
pub(crate) const ROWS: &str = "
CREATE TABLE rows (id int PRIMARY KEY, kind int, word text, shown boolean, geom geometry(Point, 4326));
INSERT INTO rows SELECT i, i % 7, 'w' || i % 31, i % 5 > 0, ST_SetSRID(CASE
        WHEN i % 50 = 0 THEN NULL WHEN i % 51 = 0 THEN ST_MakePoint(i % 9, 86) WHEN i % 3 = 0 THEN ST_MakePoint(12.5 + i % 4, 41.9)
        WHEN i % 3 = 1 THEN ST_MakePoint(hashint4(i) % 1000 * 0.18, hashint4(-i) % 1000 * 0.08)
        ELSE ST_MakePoint(90 + hashint4(i) % 1000 * 1e-3, 23 + hashint4(-i) % 1000 * 1e-3) END, 4326) FROM generate_series(1, 3000) AS i;
CREATE INDEX ON rows USING gist (geom)";

const LAYERS: &str = r#"
[tileset]
max_shrink = "100%"
[[layer]]
name = "grid"
table = "rows"
geometry = "geom"
zoom = "0-6"
buffer = 256
[layer.aggregate]
cell = "hexagon"
size = "1/8"
having = "!xmin! >= -180 AND !xmax! <= 180"
properties = { count = "count(*)", xmin = "!xmin!" }
[[layer]]
name = "folded"
table = "rows"
geometry = "geom"
where = "shown"
zoom = "1-5"
[layer.aggregate]
cell = "square"
size = "1/4"
draw = "centroid"
properties = { words = "count(DISTINCT word)", least = "min(kind)", all = "sum(kind)::text" }
[[layer]]
name = "merged"
table = "rows"
geometry = "geom"
properties = ["id", "word"]
[layer.cluster]
zoom = "0-5"
cell = "hexagon"
merge = true
"#;

/// Layers of points, whose rows are kept once many have moved.
pub(crate) const POINTS: &str = r#"
[tileset]
max_shrink = "100%"
[[layer]]
name = "plain"
table = "rows"
geometry = "geom"
properties = ["id", "word", "kind"]
[[layer]]
name = "latitudes"
table = "rows"
geometry = "geom"
where = "shown"
zoom = "0-3,5-7"
feature_id = "id"
tile_bounds = "degrees"
buffer = 512
candidates = 0.1
properties = { word = "word", z = "!zoom!", x = "!x!" }
"#;

/// A map as `init` writes it for a large table, with narrower limits: clusters in which lone rows are drawn as
/// themselves, points at the deeper zooms, and features left out of large tiles.
const WRITTEN_BY_INIT: &str = r#"
[tileset]
max_shrink = "100%"
[[layer]]
name = "rows"
table = "rows"
geometry = "geom"
key = ["id"]
properties = ["id", "kind", "word"]
max_tile_features = { "0-6" = 40 }
max_tile_bytes = { "0-6" = 2000 }
on_large_tile = "thin"
[layer.cluster]
zoom = "0-5"
cell = "hexagon"
size = "1/32"
merge = true
"#;

/// One of [`CHANGES`] with numbers.
pub(crate) fn filled(template: &str, chance: &mut Chance) -> String {
    let ends = [("{a}", 360), ("{b}", 360), ("{c}", 97), ("{d}", 3000)];
    ends.iter().fold(template.to_owned(), |sql, (name, end)| sql.replace(name, &chance.below(*end).to_string()))
}

/// What happens to the rows, one after the other, with numbers in place of `{a}` to `{d}`.
pub(crate) const CHANGES: &[&str] = &[
    "UPDATE rows SET geom = ST_SetSRID(ST_MakePoint({a} - 180, {b} / 2.2 - 81), 4326) WHERE id % 97 = {c} % 97",
    "DELETE FROM rows WHERE id = {d}",
    "INSERT INTO rows (id, kind, word, shown, geom) SELECT 100000 + {a} * 1000 + i, i, 'n' || i, true, ST_SetSRID(ST_MakePoint(12.5, 41.9), 4326) FROM generate_series(1, 3) AS i ON CONFLICT DO NOTHING",
    "UPDATE rows SET shown = NOT shown WHERE id % 31 = {c} % 31",
    "UPDATE rows SET word = 'x' || {d}, kind = {b} WHERE id < {c}",
    "UPDATE rows SET geom = ST_Translate(geom, 0.0001, 0) WHERE id % 13 = 0 AND abs(ST_X(geom)) < 170",
    "UPDATE rows SET geom = NULL WHERE id = {d}",
    "UPDATE rows SET id = id + 500000 WHERE id = {d}",
    // Twice at the same point within one look, and back; of others, a column that few layers show.
    "UPDATE rows SET kind = -kind - 1 WHERE id % 17 = 0; UPDATE rows SET kind = -kind - 1 WHERE id % 17 = 0; UPDATE rows SET word = 'y' WHERE id % 29 = {c} % 29",
    "UPDATE rows SET geom = ST_Translate(geom, 1, 0) WHERE id = {d}; UPDATE rows SET geom = ST_Translate(geom, -1, 0) WHERE id = {d}",
];

/// A map that shows less of its rows than the log notes: `word` is there for filters. Purges of tiles go to the end of a
/// file.
const LESS_THAN_LOGGED: &str = r#"
[serve]
tag_headers = ["xkey"]
[[purge]]
provider = "command"
by = "tag"
url = "https://tiles.test/"
settle = "0s"
rebound = "0s"
program = ['sh', '-c', 'cat "$OAR_TILES_PURGE_LIST" >>"$0"', '{told}']
[tileset]
max_shrink = "100%"
[[tileset.parameter]]
name = "word"
type = "text[]"
facet = { plain = "word" }
[[layer]]
name = "counted"
table = "rows"
geometry = "geom"
where = "shown"
zoom = "0-4"
[layer.aggregate]
cell = "square"
size = "1/4"
draw = "centroid"
properties = { count = "count(*)", all = "sum(kind)::text" }
[[layer]]
name = "plain"
table = "rows"
geometry = "geom"
where = "shown"
zoom = "3-7"
properties = ["id", "kind"]
facets = ["word"]
"#;

/// What is left out of large tiles is decided by a column that none shows.
const RANKED: &str = r#"
[tileset]
max_shrink = "100%"
[[layer]]
name = "plain"
table = "rows"
geometry = "geom"
zoom = "3-7"
properties = ["id"]
rank = "kind"
max_tile_features = 10
on_large_tile = "thin"
"#;

/// Points that stand where their degrees are.
const IN_DEGREES: &str = r#"
[tileset]
max_shrink = "100%"
[[layer]]
name = "plain"
table = "rows"
geometry = "geom"
zoom = "4-6"
properties = ["id", "kind"]
facets = ["word"]
tile_bounds = "degrees"
"#;

/// Two longitudes next to the boundary between two grid units of zoom 6, which are the same in metres.
const SAME_METRES: &str = "
    CREATE TABLE near AS
    SELECT row_number() OVER ()::int AS id, a, b, (k % 700) / 100.0 + 0.301 AS y
    FROM (SELECT k, ((k + 0.5) * 360 / 262144)::float8 AS b FROM generate_series(-60000, 60000, 7) AS k) AS boundary,
        LATERAL (SELECT b - b * 1.2e-16::float8 AS a) AS beside
    WHERE a <> b AND ST_X(ST_Transform(ST_SetSRID(ST_MakePoint(a, 1), 4326), 3857)) = ST_X(ST_Transform(ST_SetSRID(ST_MakePoint(b, 1), 4326), 3857))
    LIMIT 1000;
    INSERT INTO rows SELECT 20000 + id, 1, 'a', true, ST_SetSRID(ST_MakePoint(a, y), 4326) FROM near";

struct Kept {
    tracked: Tracked,
    config: String,
    target: PathBuf,
    /// The zooms and boxes of the seeds that make the target, one after the other.
    seeds: &'static [&'static [&'static str]],
}

const WHOLE: &[&[&str]] = &[&["--zoom", "0-7"]];

impl Kept {
    fn new(target: &str, layers: &str, seeds: &'static [&'static [&'static str]]) -> Kept {
        Kept::over("", target, layers, seeds)
    }

    /// The same of rows that some SQL changed.
    fn over(sql: &str, target: &str, layers: &str, seeds: &'static [&'static [&'static str]]) -> Kept {
        let db = Db::new();
        db.run(ROWS);
        db.run(sql);
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("c.toml");
        std::fs::write(&config, layers).unwrap();
        let config = config.to_str().unwrap().to_owned();
        let tracked = Tracked { db, folder };
        tracked.oar_tiles(&["track", "install", "--config", &config]).ok();
        let target = tracked.path(target);
        let kept = Kept { tracked, config, target, seeds };
        kept.seed(&kept.target);
        kept
    }

    /// Seeds a target in which the database draws everything.
    fn seed(&self, target: &Path) {
        for part in self.seeds {
            let mut command = program();
            command.args(["seed", "--config", &self.config, "--progress", "none"]).args(*part);
            command.args(["--database-url", &self.tracked.db.url, "--output"]).arg(target);
            run(command.env("OAR_TILES_ROWS_MB", "0")).ok();
        }
    }

    fn watch(&self) -> Watching {
        let arguments = ["--config", &self.config, "-vv"];
        Watching::start(&self.tracked.db.url, &self.target, &arguments)
    }

    /// Waits until the target shows everything, and compares it with a seed in which the database draws all, or,
    /// if several seeds made it, each tile with the database.
    fn is_fresh(&self, what: &str) {
        until(what, || {
            let done = run(program()
                .args([
                    "reseed",
                    "--dry-run",
                    "--config",
                    &self.config,
                    "--database-url",
                    &self.tracked.db.url,
                    "--output",
                ])
                .arg(&self.target))
            .ok();
            done.stdout.starts_with("nothing to do")
        });
        if self.seeds.len() > 1 || self.target.is_dir() {
            let mut verify = program();
            verify.args(["verify", "--all", "--database", "--config", &self.config, "--database-url"]);
            run(verify.arg(&self.tracked.db.url).arg(&self.target)).ok();
            return;
        }
        let fresh = self.tracked.path("fresh.mbtiles");
        drop(std::fs::remove_file(&fresh));
        self.seed(&fresh);
        show_the_same(&self.target, &fresh);
    }
}

impl Kept {
    /// Changes rows until the watch keeps those of the layer "plain", and has published tiles that show them.
    fn keep_rows(&self, watching: &Watching) {
        self.published(watching, "UPDATE rows SET kind = kind + 1 WHERE id < 20000");
        let mut lines = String::new();
        while !lines.contains("layer \"plain\": live rows replaced") {
            lines = self.published(watching, "UPDATE rows SET kind = kind + 1 WHERE id = 1").1;
        }
    }

    /// Changes rows, and waits until that is published. Returns the number of dirty tiles, and the output till then.
    fn published(&self, watching: &Watching, sql: &str) -> (usize, String) {
        self.tracked.db.run(sql);
        let mut lines = String::new();
        loop {
            let line = watching.lines.recv_timeout(std::time::Duration::from_secs(60)).expect(sql);
            lines += &line;
            lines.push('\n');
            if let Some((before, _)) = line.split_once(" dirty tile").filter(|_| line.contains("published ")) {
                return (before.rsplit(' ').next().unwrap().replace(',', "").parse().unwrap(), lines);
            }
        }
    }
}

fn times(lines: &str, text: &str) -> usize {
    lines.matches(text).count()
}

/// Changes rows in many ways while a watch keeps the rows of all `layers` layers, is killed and begins again.
#[track_caller]
fn stays_fresh(kept: &Kept, layers: usize, first: Option<&str>) -> String {
    let (mut chance, mut all) = (Chance(40), String::new());
    for run in 0..2 {
        let watching = kept.watch();
        let mut lines = Vec::new();
        if let Some(first) = first {
            kept.tracked.db.run(first);
            kept.is_fresh(first);
            // They are read beside the looks.
            let is_kept = |line: &String| line.contains(" live rows are kept, ");
            while lines.iter().filter(|line| is_kept(line)).count() < layers {
                lines.push(watching.lines.recv_timeout(std::time::Duration::from_secs(60)).unwrap());
            }
        }
        for (number, change) in CHANGES.iter().enumerate() {
            let sql = filled(change, &mut chance);
            kept.tracked.db.run(&sql);
            if number % 2 == 1 {
                kept.is_fresh(&sql);
            }
        }
        kept.is_fresh("the last change");
        // Killed, the next watch reads the rows again.
        if run == 0 {
            watching.signal("KILL");
            lines.extend(watching.lines.iter());
        } else {
            lines.push(watching.end_with_lines().1);
        }
        let lines = lines.join("\n");
        // Cells are read once more, beside the looks, to be encoded.
        let reads = times(&lines, " live rows are kept, ");
        assert!((layers..=2 * layers).contains(&reads), "{reads} reads:\n{lines}");
        assert!(times(&lines, "live rows replaced in ") >= 4 * layers - 3, "{lines}");
        assert_eq!(times(&lines, "read anew") + times(&lines, "please report"), 0, "{lines}");
        all.push_str(&lines);
    }
    all
}

#[test]
fn cells_counted_from_rows_that_a_watch_keeps_are_those_of_a_seed() {
    stays_fresh(&Kept::new("t.mbtiles", LAYERS, WHOLE), 3, None);
}

#[test]
fn the_map_that_init_writes_is_drawn_from_rows_that_a_watch_keeps_as_by_a_seed() {
    let lines =
        stays_fresh(&Kept::new("t.mbtiles", WRITTEN_BY_INIT, WHOLE), 2, Some("UPDATE rows SET word = word || 'x'"));
    assert!(times(&lines, " cells encoded, ") > 3, "{lines}");
    assert!(times(&lines, "for ambiguous points or large tiles") > 0, "{lines}");
}

#[test]
fn points_drawn_from_rows_that_a_watch_keeps_are_those_of_a_seed() {
    let first = "UPDATE rows SET word = word || 'x'";
    stays_fresh(&Kept::new("t.mbtiles", POINTS, WHOLE), 2, Some(first));
}

#[test]
fn points_with_keys_that_no_tile_holds_and_objects_are_drawn_from_rows_that_a_watch_keeps() {
    let first = "UPDATE rows SET word = word || 'x'";
    stays_fresh(&Kept::over(KEY_COLUMNS, "t.mbtiles", KEYED, WHOLE), 5, Some(first));
}

#[test]
fn what_the_log_cannot_name_by_positions_is_read_anew() {
    let kept = Kept::new("t.mbtiles", LAYERS, WHOLE);
    let watching = kept.watch();
    let change = |sql: &str| {
        kept.tracked.db.run(sql);
        kept.is_fresh(sql);
    };
    change("UPDATE rows SET kind = 3 WHERE id = 6");
    // Another run brings the target forward meanwhile.
    watching.signal("STOP");
    kept.tracked.db.run("DELETE FROM rows WHERE id IN (3, 6, 9)");
    kept.tracked.reseed(&kept.target, &["--config", &kept.config]).ok();
    watching.signal("CONT");
    change("INSERT INTO rows VALUES (700001, 1, 'a', true, ST_SetSRID(ST_MakePoint(12.5, 41.9), 4326))");
    // Everything at once.
    change(
        "TRUNCATE rows; INSERT INTO rows SELECT i, 1, 'b', true, ST_SetSRID(ST_MakePoint(i % 90, i % 60), 4326) FROM generate_series(1, 500) AS i",
    );
    change("UPDATE rows SET geom = ST_Translate(geom, 3, 3) WHERE id < 20");
    let (_, lines) = watching.end_with_lines();
    assert!(times(&lines, " live rows are kept, ") > 3, "{lines}");
    // Without memory for rows, nothing is kept.
    let config = std::fs::read_to_string(&kept.config).unwrap();
    std::fs::write(&kept.config, format!("{config}\n[run]\nrows_mb = 0\n")).unwrap();
    let watching = kept.watch();
    change("DELETE FROM rows WHERE id < 30");
    let (_, lines) = watching.end_with_lines();
    assert_eq!(times(&lines, "live rows"), 0, "{lines}");
}

#[test]
fn rows_of_all_regions_of_a_target_are_kept() {
    // The layer has no tile that shows the whole world, and the last seed was of a town.
    let layers =
        LAYERS[..LAYERS.find("[[layer]]\nname = \"folded\"").unwrap()].replace("zoom = \"0-6\"", "zoom = \"3-7\"");
    let kept = Kept::new("tiles/", &layers, &[&["--zoom", "3-5"], &["--zoom", "6-7", "--bbox", "12,41,17,43"]]);
    let watching = kept.watch();
    for change in [
        "UPDATE rows SET geom = ST_Translate(geom, 0.5, 0.5) WHERE id IN (5, 8, 11)",
        "DELETE FROM rows WHERE id % 100 = 3",
        "INSERT INTO rows SELECT 900000 + i, 1, 'n', true, ST_SetSRID(ST_MakePoint(i * 20 - 100, 20), 4326) FROM generate_series(1, 9) AS i",
    ] {
        kept.tracked.db.run(change);
        kept.is_fresh(change);
    }
    let (_, lines) = watching.end_with_lines();
    // Once for the first look, once beside the looks.
    let reads = times(&lines, " live rows are kept, ");
    assert!((1..=2).contains(&reads) && times(&lines, "live rows replaced in ") >= 2, "{lines}");
}

#[test]
fn changes_that_no_tile_shows_make_none_dirty_and_are_purged_for_filters() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let kept = Kept::new("t.mbtiles", &LESS_THAN_LOGGED.replace("{told}", told.to_str().unwrap()), WHOLE);
    // A row where there is no other one.
    kept.tracked.db.run("INSERT INTO rows VALUES (20000, 1, 'a', true, ST_SetSRID(ST_MakePoint(-170, -84), 4326))");
    kept.seed(&kept.target);
    let watching = kept.watch();
    kept.keep_rows(&watching);
    let dirty = |sql: &str| kept.published(&watching, sql).0;
    let purged = |tag: &str| std::fs::read_to_string(&told).unwrap_or_default().lines().any(|line| line == tag);
    assert!(!purged("facilities-5-0-31"));
    for (sql, makes_dirty) in [
        ("UPDATE rows SET word = word || '!'", false),
        ("UPDATE rows SET kind = kind + 1; UPDATE rows SET kind = kind - 1", false),
        ("UPDATE rows SET shown = NOT shown WHERE id = 6; UPDATE rows SET shown = NOT shown WHERE id = 6", false),
        // Rows that no tile shows, before and after.
        ("UPDATE rows SET kind = kind + 1 WHERE NOT shown", false),
        ("UPDATE rows SET word = '?'; UPDATE rows SET kind = 50 WHERE id = 7", true),
        ("UPDATE rows SET word = ''; UPDATE rows SET shown = NOT shown WHERE id = 8", true),
        ("UPDATE rows SET word = '.'; UPDATE rows SET geom = ST_Translate(geom, 0.1, 0) WHERE id = 9", true),
        ("UPDATE rows SET word = ','; DELETE FROM rows WHERE id = 11", true),
        // Two rows exchange their places in the order of the tile.
        (
            "UPDATE rows SET id = -1 WHERE id = 3; UPDATE rows SET id = 3 WHERE id = 6; UPDATE rows SET id = 6 WHERE id = -1",
            true,
        ),
    ] {
        // What was purged for the change before does not count.
        drop(std::fs::remove_file(&told));
        let found = dirty(sql);
        assert_eq!(found > 0, makes_dirty, "{sql}: {found} dirty tiles");
        assert!(found < 30, "{sql}: {found} dirty tiles");
        if sql.starts_with("UPDATE rows SET word") {
            until("tiles under a filter by words are purged", || purged("facilities-5-0-31"));
        }
    }
    kept.is_fresh("the last change");
    let (_, lines) = watching.end_with_lines();
    assert_eq!(times(&lines, "read anew"), 0, "{lines}");
}

#[test]
fn rows_whose_degrees_change_and_whose_metres_do_not_make_tiles_dirty() {
    let kept = Kept::over(SAME_METRES, "t.mbtiles", IN_DEGREES, &[&["--zoom", "4-6"]]);
    let watching = kept.watch();
    kept.keep_rows(&watching);
    let moved = |to: &str| {
        format!(
            "UPDATE rows SET geom = ST_SetSRID(ST_MakePoint({to}, y), 4326) FROM near WHERE rows.id = 20000 + near.id"
        )
    };
    for to in ["b", "a"] {
        let (dirty, lines) = kept.published(&watching, &moved(to));
        assert!(dirty > 0 && lines.contains("live rows replaced"), "{dirty} dirty tiles: {lines}");
        kept.is_fresh(to);
    }
    let (dirty, _) = kept.published(
        &watching,
        "UPDATE rows SET kind = kind + 1 WHERE id < 20000; UPDATE rows SET kind = kind - 1 WHERE id < 20000",
    );
    assert_eq!(dirty, 0, "rows that stand where they are sure to stand");
    watching.end();
}

#[test]
fn ranks_that_no_tile_shows_make_tiles_dirty() {
    let kept = Kept::new("t.mbtiles", RANKED, WHOLE);
    let watching = kept.watch();
    kept.keep_rows(&watching);
    let dirty = |sql: &str| kept.published(&watching, sql);
    assert_eq!(dirty("UPDATE rows SET kind = kind + 1; UPDATE rows SET kind = kind - 1").0, 0);
    for change in [
        "UPDATE rows SET kind = 1000 - kind WHERE id < 40",
        "UPDATE rows SET kind = NULL WHERE id % 3 = 0",
        "UPDATE rows SET kind = id % 3 WHERE id % 2 = 0; DELETE FROM rows WHERE id % 13 = 0",
    ] {
        let (dirty, lines) = dirty(change);
        assert!(dirty > 0 && !lines.contains("left to the database"), "{dirty} dirty tiles: {lines}");
        kept.is_fresh(change);
    }
    watching.end();
}

#[test]
fn a_tile_that_does_not_show_what_the_kept_rows_were_is_drawn() {
    let layers = &LESS_THAN_LOGGED[LESS_THAN_LOGGED.find("[tileset]").unwrap()..];
    let kept = Kept::new("tiles/", layers, WHOLE);
    let watching = kept.watch();
    kept.keep_rows(&watching);
    let (change, back) =
        ("UPDATE rows SET kind = kind + 100 WHERE id = 7", "UPDATE rows SET kind = kind - 100 WHERE id = 7");
    let reseed = |more: &[&str]| kept.tracked.reseed(&kept.target, &[&["--config", &kept.config][..], more].concat());
    // No tile of zoom 7 can be written.
    let (zoom, away) = (kept.target.join("7"), kept.tracked.path("away"));
    let break_it = || {
        std::fs::rename(&zoom, &away).unwrap();
        std::fs::write(&zoom, "").unwrap();
    };
    let repair = || {
        std::fs::remove_file(&zoom).unwrap();
        std::fs::rename(&away, &zoom).unwrap();
    };
    assert_eq!(kept.published(&watching, &format!("{change}; {back}")).0, 0);
    // The watch fails itself, once the rows are those of its snapshot.
    break_it();
    kept.tracked.db.run(change);
    watching.says("trying again in");
    repair();
    kept.is_fresh("tiles of a look that has failed");
    kept.keep_rows(&watching);
    // Another run draws tiles in between, and the target's snapshot stays; the row is then as it was.
    watching.signal("STOP");
    kept.tracked.db.run(change);
    reseed(&["--area", "-180,-85,180,85"]).ok();
    kept.tracked.db.run(back);
    watching.signal("CONT");
    kept.is_fresh("tiles that another run has drawn");
    kept.keep_rows(&watching);
    // Another run fails in between.
    watching.signal("STOP");
    kept.tracked.db.run(change);
    break_it();
    assert_ne!(reseed(&[]).code, 0);
    repair();
    let checked = run(program().arg("verify").arg(&kept.target));
    let said = format!("{}{}", checked.stdout, checked.stderr);
    assert!(said.contains("has not finished"), "{said}");
    kept.tracked.db.run(back);
    watching.signal("CONT");
    kept.is_fresh("tiles of a run that has failed");
    watching.end();
}
