//! Filtered tiles drawn from kept rows and the set of those that match: the bytes of a server that keeps no rows, one
//! statement for each filter, and never rows and a set of different states.

use std::collections::BTreeMap;
use std::fs;
use std::thread;

use super::live_rows::Live;
use crate::support::chance::Chance;
use crate::support::nginx::Answer;
use crate::support::served::{GZIP, Served, status};
use crate::support::tracked::Tracked;
use crate::support::{Archive, Db, seed, until};

/// What rows are chosen by. None of it is a property, so that an edit shows in no tile without a filter.
const COLUMNS: &str = "
ALTER TABLE rows ADD COLUMN tags text[], ADD COLUMN day date, ADD COLUMN score float8;
UPDATE rows SET score = id % 100, day = DATE '2024-01-01' + id % 300, word = CASE WHEN id % 6 > 0 THEN word END,
    tags = CASE id % 8 WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN ARRAY['a', NULL] WHEN 3 THEN ARRAY['b'] WHEN 4 THEN ARRAY['a', 'b'] ELSE ARRAY['c'] END;
INSERT INTO words SELECT i, 'w' || i % 4 FROM generate_series(1, 1500) AS i;
CREATE TABLE uuids (id uuid PRIMARY KEY, kind smallint, geom geometry(Point, 4326));
INSERT INTO uuids SELECT md5(id::text)::uuid, kind, geom FROM rows WHERE id < 400;
CREATE INDEX ON uuids USING gist (geom);
CREATE TABLE names (id varchar(20) PRIMARY KEY, kind smallint, geom geometry(Point, 4326));
INSERT INTO names SELECT 'n' || id, kind, geom FROM rows WHERE id < 400;
CREATE INDEX ON names USING gist (geom);
CREATE FUNCTION slowly(id uuid, kind smallint, above numeric) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN IF id = md5(7::text)::uuid THEN PERFORM pg_sleep(0.8); END IF; RETURN kind > above; END'";

/// Layers with keys of every kind; one has no conditions.
const LAYERS: &str = r#"
[tileset]
max_shrink = "100%"
[[tileset.parameter]]
name = "kind"
type = "integer[]"
where = { plain = "kind = ANY (!kind!)", uuids = "kind = ANY (!kind!)", names = "kind = ANY (!kind!)" }
[[tileset.parameter]]
name = "word"
type = "text"
where = { plain = "rows.word = !word!" }
[[tileset.parameter]]
name = "tag"
type = "text[]"
where = { plain = "tags && !tag!" }
[[tileset.parameter]]
name = "above"
type = "number"
where = { plain = "score > !above!" }
[[tileset.parameter]]
name = "box"
type = "box"
where = { plain = "geom && !box!" }
[[tileset.parameter]]
name = "day"
type = "text"
where = { plain = "to_char(day, 'YYYY-MM-DD') >= !day!" }
[[tileset.parameter]]
name = "listed"
type = "text"
where = { plain = "id IN (SELECT w.id FROM words w WHERE w.word = !listed!)" }
[[tileset.parameter]]
name = "like"
type = "text"
where = { plain = "word ~ !like!" }
[[tileset.parameter]]
name = "slow"
type = "number"
where = { plain = "pg_sleep(0.01) IS NOT NULL AND kind > !slow!" }
[[tileset.parameter]]
name = "slowly"
type = "number"
where = { uuids = "slowly(id, kind, !slowly!::numeric)" }
[[tileset.parameter]]
name = "low"
type = "number"
[[tileset.parameter]]
name = "high"
type = "number"
[[tileset.condition]]
uses = ["low", "high"]
where = { plain = "score BETWEEN !low! AND !high!" }
default = { low = 2.5 }
[[tileset.parameter]]
name = "area"
type = "polygon"
where = { plain = "ST_Within(geom, !area!)" }
[[layer]]
name = "plain"
table = "rows"
geometry = "geom"
properties = ["id"]
[[layer]]
name = "whole"
table = "rows"
geometry = "geom"
zoom = "0-2"
feature_id = "id"
properties = ["kind"]
[[layer]]
name = "uuids"
table = "uuids"
geometry = "geom"
zoom = "0-3"
properties = ["id"]
[[layer]]
name = "names"
table = "names"
geometry = "geom"
zoom = "0-3"
properties = ["id"]
"#;

/// A server that keeps rows, and one that asks the database for each tile.
pub(crate) struct Pair {
    pub(crate) live: Live,
    pub(crate) plain: Served,
}

fn tiles(zoom: u8) -> impl Iterator<Item = (u8, u32, u32)> + Clone {
    (0..1_u32 << zoom).flat_map(move |x| (0..1_u32 << zoom).map(move |y| (zoom, x, y)))
}

fn is_same(one: &Answer, other: &Answer) -> bool {
    matches!(status(one), 200 | 204) && status(one) == status(other) && one.body == other.body
}

impl Pair {
    fn new(logged: &str, rows_mb: u32) -> Pair {
        let pair = Pair::of(logged, LAYERS, rows_mb);
        pair.live.asks_until("tiles from rows", |rows| rows["tiles"].as_u64().unwrap() > 0);
        pair
    }

    fn of(logged: &str, layers: &str, rows_mb: u32) -> Pair {
        Pair::over(COLUMNS, logged, layers, rows_mb)
    }

    pub(crate) fn over(sql: &str, logged: &str, layers: &str, rows_mb: u32) -> Pair {
        let live = Live::over(sql, logged, &format!("{layers}[run]\nrows_mb = {rows_mb}\n"));
        let (config, target) = (live.tracked.path("0.toml"), live.tracked.path("t.mbtiles"));
        fs::write(&config, format!("{layers}[run]\nrows_mb = 0\n")).unwrap();
        let own = ["--config", config.to_str().unwrap(), "--live", "--database-url", &live.tracked.db.url];
        let plain = Served::new(target.to_str().unwrap(), &own);
        for served in [&plain, &live.served] {
            until("the log is followed", || served.admin("/status.json").1.contains("\"followed\":true"));
        }
        Pair { live, plain }
    }

    /// True if both servers answer the tiles of a filter alike.
    pub(crate) fn shows_the_same(&self, filter: &str, zooms: &[u8]) -> bool {
        zooms.iter().flat_map(|zoom| tiles(*zoom)).all(|(zoom, x, y)| {
            let path = format!("/{zoom}/{x}/{y}.pbf?{filter}");
            let [own, plain] = [&self.live.served, &self.plain].map(|served| served.get(&path, GZIP));
            let is_same = is_same(&own, &plain);
            if !is_same {
                eprintln!(
                    "{path}: {} {} bytes, {} {} bytes",
                    status(&own),
                    own.body.len(),
                    status(&plain),
                    plain.body.len()
                );
            }
            is_same
        })
    }

    pub(crate) fn count(&self, what: &str) -> u64 {
        self.live.rows()[what].as_u64().unwrap()
    }

    /// Waits until both servers draw live tiles of a state after this moment.
    pub(crate) fn has_new_snapshots(&self) {
        let before = self.live.rows()["snapshot"].clone();
        self.live.tracked.db.run("SELECT pg_current_xact_id()");
        self.live.asks_until("another snapshot", |rows| rows["snapshot"].is_string() && rows["snapshot"] != before);
        // The other server's snapshot lives as long.
        thread::sleep(std::time::Duration::from_secs(2));
    }
}

#[test]
fn filtered_tiles_from_sets_are_those_of_the_database_after_every_change() {
    let pair = Pair::new(LAYERS, 64);
    let filters = [
        "kind=3&kind=5",
        "word=w7",
        "tag=a",
        "tag=b&tag=x",
        "kind=1&word=w4&tag=c",
        "above=60.5",
        "box=10,20,100,60",
        "kind=77",
        "high=20",
        "low=3&high=9",
        "area=POLYGON((0+0,150+0,60+80,0+0))",
    ];
    let all = |what: &str, zooms: &[u8]| {
        for filter in filters {
            until(&format!("{filter} {what}"), || pair.shows_the_same(filter, zooms));
        }
    };
    all("at first", &[2]);
    // One for each layer that a filter has a condition for.
    let sets = filters.len() as u64 + 2 * 3;
    until("each set to be asked for", || {
        all("again", &[2]);
        pair.count("set_statements") == sets
    });
    let changes = [
        "UPDATE rows SET kind = 5 WHERE id % 11 = 4",
        "UPDATE rows SET word = NULL WHERE word = 'w7' AND id % 2 = 0; UPDATE rows SET word = 'w7' WHERE id % 29 = 0",
        "UPDATE rows SET tags = NULL WHERE id % 13 = 0; UPDATE rows SET tags = '{a,b,NULL}' WHERE id % 17 = 0",
        "UPDATE uuids SET kind = 5 WHERE kind = 2; UPDATE names SET kind = (kind + 1) % 7 WHERE id LIKE '%1'",
        "INSERT INTO uuids SELECT md5('x' || id)::uuid, 3, geom FROM rows WHERE id < 50; DELETE FROM names WHERE kind = 3 AND id LIKE '%2'",
        "DELETE FROM rows WHERE id % 23 = 0",
        "INSERT INTO rows SELECT 5000 + i, i % 7, 'w' || i % 8, true, ST_SetSRID(ST_MakePoint(i - 150, i % 70), 4326), '{c}', NULL, i FROM generate_series(1, 200) AS i",
        "UPDATE rows SET geom = ST_SetSRID(ST_MakePoint(id % 170, id % 80), 4326) WHERE id % 19 = 0",
        "UPDATE rows SET geom = NULL WHERE id % 37 = 0; UPDATE rows SET geom = ST_SetSRID(ST_MakePoint(1, 1), 4326) WHERE geom IS NULL AND id % 3 = 0",
        "UPDATE rows SET id = id + 100000, score = 99 WHERE id % 41 = 0",
    ];
    // A set is not read again: what it misses of one change, it still misses after the next.
    for changes in changes.chunks(2) {
        for change in changes {
            pair.live.tracked.db.run(change);
        }
        // Else both may answer what they had before.
        pair.has_new_snapshots();
        all(&changes.join("; "), &[2]);
    }
    all("at last", &[3]);
    let rows = pair.live.rows();
    assert!(rows["reads"] == 1 && rows["why_not"].is_null() && rows["sets"] == sets, "{rows}");
    let of_sets = (filters.len() * (16 + changes.len() / 2 * 16 + 64)) as u64;
    assert!(pair.count("set_tiles") > of_sets / 4 && pair.count("set_bytes") > 0, "{rows}");
    let metrics = pair.live.served.admin("/metrics").1;
    assert!(metrics.contains(&format!("oar_tiles_live_sets{{}} {sets}\n")), "{metrics}");
}

/// Points of which features are left out, by rank and by key.
const THINNED: &str = r#"
[tileset]
max_shrink = "100%"
[[tileset.parameter]]
name = "kind"
type = "integer[]"
where = { ranked = "kind = ANY (!kind!)", plain = "kind = ANY (!kind!)" }
[[layer]]
name = "ranked"
table = "rows"
geometry = "geom"
properties = ["id"]
on_large_tile = "thin"
max_tile_features = 25
rank = "score"
[[layer]]
name = "plain"
table = "rows"
geometry = "geom"
properties = ["id"]
on_large_tile = "thin"
max_tile_features = 10
"#;

#[test]
fn filtered_tiles_from_sets_are_thinned_among_the_rows_that_match() {
    let pair = Pair::of(THINNED, THINNED, 64);
    pair.live.asks_until("tiles from rows", |rows| rows["tiles"].as_u64().unwrap() > 0);
    let all = |what: &str| {
        for filter in ["kind=3&kind=5", "kind=1", "kind=77"] {
            until(&format!("{filter} {what}"), || pair.shows_the_same(filter, &[0, 1, 3]));
        }
    };
    all("at first");
    all("again");
    let before = pair.count("set_tiles");
    for change in [
        "UPDATE rows SET score = 1000 - score WHERE id % 2 = 0",
        "UPDATE rows SET score = NULL WHERE id % 3 = 0; UPDATE rows SET kind = 3 WHERE id % 11 = 0",
    ] {
        pair.live.tracked.db.run(change);
        pair.has_new_snapshots();
        all(change);
    }
    let rows = pair.live.rows();
    assert!(rows["reads"] == 1 && rows["why_not"].is_null() && pair.count("set_tiles") > before, "{rows}");
}

/// Cells of every kind, beside points.
const CELLS: &str = r#"
[tileset]
max_shrink = "100%"
[[tileset.parameter]]
name = "kind"
type = "integer[]"
where = { hexagons = "kind = ANY (!kind!)", clusters = "kind = ANY (!kind!)", squares = "kind = ANY (!kind!)", points = "kind = ANY (!kind!)" }
[[tileset.parameter]]
name = "tag"
type = "text[]"
where = { hexagons = "tags && !tag!", squares = "tags && !tag!" }
[[tileset.parameter]]
name = "listed"
type = "text"
where = { clusters = "id IN (SELECT w.id FROM words w WHERE w.word = !listed!)" }
[[layer]]
name = "hexagons"
table = "rows"
geometry = "geom"
zoom = "0-6"
[layer.aggregate]
cell = "hexagon"
size = "1/8"
having = "count(*) < 100"
properties = { rows = "least(count(*), 9)", xmin = "!xmin!", kinds = "sum(kind)", mean = "avg(kind)", all_ok = "bool_and(kind < 6)" }
[[layer]]
name = "clusters"
table = "rows"
geometry = "geom"
properties = ["id", "word"]
[layer.cluster]
cell = "hexagon"
merge = true
size = "1/8"
zoom = "0-4"
properties = { most = "max(kind)", words = "count(word)" }
[[layer]]
name = "squares"
table = "rows"
geometry = "geom"
zoom = "2-5"
max_tile_features = 20
on_large_tile = "thin"
[layer.aggregate]
cell = "square"
size = "1/16"
draw = "center"
properties = { rows = "count(*)" }
[[layer]]
name = "points"
table = "rows"
geometry = "geom"
zoom = "4-14"
properties = ["id"]
"#;

#[test]
fn cells_of_live_tiles_and_of_filters_are_counted_from_rows_as_the_database_counts_them() {
    let pair = Pair::of(CELLS, CELLS, 64);
    pair.live.asks_until("cells to be counted", |rows| rows["counted_tiles"].as_u64().unwrap() > 0);
    let filters = ["v=1", "kind=3&kind=5", "kind=2&tag=c", "listed=w2", "kind=77"];
    let all = |what: &str, zooms: &[u8]| {
        for filter in filters {
            until(&format!("{filter} {what}"), || pair.shows_the_same(filter, zooms));
        }
    };
    all("at first", &[3]);
    let changes = [
        "UPDATE rows SET kind = 5 WHERE id % 11 = 4; UPDATE rows SET tags = NULL WHERE id % 13 = 0",
        "DELETE FROM rows WHERE id % 23 = 0; UPDATE rows SET word = NULL WHERE id % 7 = 0",
        "INSERT INTO rows SELECT 5000 + i, i % 7, 'w' || i % 8, true, ST_SetSRID(ST_MakePoint(i - 150, i % 70), 4326), '{c}', NULL, i FROM generate_series(1, 200) AS i",
        "UPDATE rows SET geom = ST_SetSRID(ST_MakePoint(id % 170, id % 80), 4326), kind = NULL WHERE id % 19 = 0",
        "UPDATE rows SET id = id + 100000 WHERE id % 41 = 0",
        "DELETE FROM rows WHERE id % 3 > 0",
    ];
    for change in changes {
        pair.live.tracked.db.run(change);
        // Else both may answer what they had before it.
        pair.has_new_snapshots();
        all(change, &[2]);
    }
    all("at last", &[3]);
    let rows = pair.live.rows();
    assert!(rows["reads"] == 1 && rows["why_not"].is_null(), "{rows}");
    let tiles = (filters.len() * (64 + changes.len() * 16 + 64)) as u64;
    assert!(pair.count("counted_tiles") > tiles / 4 && pair.count("set_tiles") > tiles / 10, "{rows} of {tiles}");
}

/// Facets of every type, over points and cells.
const FACETS: &str = r#"
[tileset]
max_shrink = "100%"
[[tileset.parameter]]
name = "kind"
type = "integer[]"
facet = { points = "kind", hexagons = "kind" }
[[tileset.parameter]]
name = "between"
type = "range"
facet = { points = "kind" }
[[tileset.parameter]]
name = "word"
type = "text[]"
facet = { points = "word", hexagons = "word" }
[[tileset.parameter]]
name = "combine"
type = "text"
allowed = ["AND", "OR"]
[[tileset.parameter]]
name = "tag"
type = "text[]"
facet = { points = "tags", hexagons = "tags" }
match = { from = "combine", values = { AND = "all", OR = "any" } }
[[tileset.parameter]]
name = "number"
type = "integer[]"
facet = { points = "numbers", hexagons = "numbers" }
[[tileset.parameter]]
name = "even"
type = "boolean"
facet = { points = "even" }
[[tileset.parameter]]
name = "above"
type = "number"
where = { points = "score > !above!", hexagons = "score > !above!" }
[[tileset.parameter]]
name = "listed"
type = "text"
where = { points = "id IN (SELECT w.id FROM words w WHERE w.word = !listed!)", hexagons = "id IN (SELECT w.id FROM words w WHERE w.word = !listed!)" }
[[layer]]
name = "points"
table = "rows"
geometry = "geom"
properties = ["id"]
facets = ["kind", "word", "tags", "numbers", "even"]
[[layer]]
name = "hexagons"
table = "rows"
geometry = "geom"
zoom = "0-6"
facets = ["kind", "word", "tags", "numbers"]
[layer.aggregate]
cell = "hexagon"
size = "1/8"
properties = { rows = "count(*)" }
"#;

const FACET_COLUMNS: &str = "
ALTER TABLE rows ADD COLUMN numbers int[], ADD COLUMN even bool;
UPDATE rows SET even = CASE WHEN id % 5 > 0 THEN id % 2 = 0 END,
    numbers = CASE id % 6 WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN ARRAY[id % 50, NULL] ELSE ARRAY[id % 50, id % 7, id % 7] END";

/// The number of rows of each layer, their box, and the number of those with each value, as the server says.
fn counts(served: &Served, filter: &str) -> serde_json::Value {
    let answer = served.get(&format!("/values.json?{filter}"), "");
    assert_eq!(status(&answer), 200, "{filter} {}", answer.head);
    serde_json::from_slice(&answer.body).unwrap()
}

#[test]
fn facets_choose_the_rows_that_their_conditions_choose_without_a_statement() {
    let pair = Pair::over(&format!("{COLUMNS};{FACET_COLUMNS}"), FACETS, FACETS, 64);
    pair.live.asks_until("cells to be counted", |rows| rows["counted_tiles"].as_u64().unwrap() > 0);
    let filters = [
        "kind=3&kind=5",
        "kind=-9223372036854775808",
        "between=2..4&tag=a",
        "between=..1",
        "word=w7&word=none&word=w1",
        "tag=a&tag=b",
        "tag=a&tag=b&combine=AND",
        "tag=c&combine=AND&kind=1&number=3&even=true",
        "number=7&number=3&number=-1",
        "even=false",
        "tag=missing",
    ];
    let all = |what: &str, zooms: &[u8]| {
        for filter in filters {
            until(&format!("{filter} {what}"), || pair.shows_the_same(filter, zooms));
            // Both servers learn of a change, each at its own time.
            until(&format!("counts of {filter} {what}"), || {
                counts(&pair.live.served, filter) == counts(&pair.plain, filter)
            });
        }
    };
    all("at first", &[3]);
    let changes = [
        "UPDATE rows SET kind = 5 WHERE id % 11 = 4",
        "UPDATE rows SET word = NULL WHERE word = 'w7' AND id % 2 = 0; UPDATE rows SET word = 'w7', even = NULL WHERE id % 29 = 0",
        "UPDATE rows SET tags = NULL WHERE id % 13 = 0; UPDATE rows SET tags = '{a,b,NULL}', numbers = '{3,3,7}' WHERE id % 17 = 0",
        "DELETE FROM rows WHERE id % 23 = 0",
        "INSERT INTO rows SELECT 5000 + i, i % 7, 'w' || i % 8, true, ST_SetSRID(ST_MakePoint(i - 150, i % 70), 4326), '{c,b}', NULL, i, ARRAY[i], i % 2 = 0 FROM generate_series(1, 200) AS i",
        "UPDATE rows SET geom = ST_SetSRID(ST_MakePoint(id % 170, id % 80), 4326), numbers = NULL WHERE id % 19 = 0",
        "UPDATE rows SET id = id + 100000, kind = 3 WHERE id % 41 = 0",
        "DELETE FROM rows WHERE kind = 3 AND id % 2 = 0",
    ];
    for change in changes {
        pair.live.tracked.db.run(change);
        // Else both may answer what they had before it.
        pair.has_new_snapshots();
        all(change, &[2]);
    }
    let rows = pair.live.rows();
    assert!(rows["reads"] == 1 && rows["why_not"].is_null() && rows["set_statements"] == 0, "{rows}");
    assert!(pair.count("facet_sets") > filters.len() as u64, "{rows}");
    // A condition in SQL is asked about once for both layers, whatever the facets beside it.
    let mixed = ["kind=3&above=70", "kind=5&above=70&tag=a", "above=70"];
    for filter in mixed {
        until(filter, || pair.shows_the_same(filter, &[2]));
    }
    assert_eq!(pair.count("set_statements"), 1, "{}", pair.live.rows());
    for filter in [mixed[0], mixed[1], ""] {
        until(filter, || counts(&pair.live.served, filter) == counts(&pair.plain, filter));
    }
    assert_eq!(counts(&pair.plain, "tag=missing")["layers"]["points"]["bounds"], serde_json::Value::Null);
}

#[test]
fn facets_that_the_log_does_not_have_are_left_to_the_database() {
    let logged = FACETS.split("[[layer]]").skip(1).map(|layer| format!("[[layer]]{layer}")).collect::<String>();
    let pair = Pair::over(&format!("{COLUMNS};{FACET_COLUMNS}"), &logged, FACETS, 64);
    pair.live.asks_until("cells to be counted", |rows| rows["counted_tiles"].as_u64().unwrap() > 0);
    assert!(pair.shows_the_same("tag=a", &[2]));
    pair.live.tracked.db.run("UPDATE rows SET tags = '{z}'");
    pair.has_new_snapshots();
    assert!(pair.shows_the_same("tag=a", &[3]) && pair.shows_the_same("tag=z", &[2]));
    for filter in ["", "kind=3"] {
        assert_eq!(counts(&pair.live.served, filter), counts(&pair.plain, filter));
    }
    assert_eq!(pair.count("facet_sets"), 0, "{}", pair.live.rows());
}

#[test]
fn a_set_whose_condition_sees_more_than_the_row_is_of_one_snapshot() {
    let pair = Pair::new(LAYERS, 64);
    let filters = ["listed=w2", "listed=w2&kind=4", "day=2024-08-01"];
    for filter in filters {
        assert!(pair.shows_the_same(filter, &[2]), "{filter}");
    }
    // On a busy machine they take too long to be worth it.
    until("the sets to be asked for", || pair.count("set_statements") >= 2);
    // No trigger notes this.
    pair.live.tracked.db.run("UPDATE words SET word = 'w' || (id + 1) % 4");
    pair.has_new_snapshots();
    for filter in filters {
        assert!(pair.shows_the_same(filter, &[3]), "{filter}");
    }
}

/// PostgreSQL calls `now()` stable, and a sub-select reads another row, so only the configuration can say that nothing
/// but the row and a tracked table decides.
#[test]
fn a_set_of_a_condition_that_is_said_to_be_tracked_outlives_its_snapshot() {
    let listed = "where = { plain = \"id IN (SELECT w.id FROM words w WHERE w.word = !listed!)\" }";
    let said = listed.replace("!)", "!) AND now() IS NOT NULL") + "\ntracked = true";
    let untracked = LAYERS.replace(listed, &said);
    let track =
        "[[layer.track]]\ntable = \"words\"\ngeometry = \"SELECT r.geom FROM rows r WHERE r.id = changed.id\"\n";
    let tracked = untracked.replacen("[[layer]]\nname = \"whole\"", &format!("{track}[[layer]]\nname = \"whole\""), 1);
    let pair = Pair::of(&tracked, &tracked, 64);
    let (live, db) = (&pair.live, &pair.live.tracked.db);
    live.asks_until("tiles from rows", |rows| rows["tiles"].as_u64().unwrap() > 0);
    until("a set outlives its snapshot", || {
        let before = pair.count("set_statements");
        let filter = format!("listed=x{before}");
        let is_shown = pair.shows_the_same(&filter, &[2]);
        let (asked, drawn) = (pair.count("set_statements"), pair.count("set_tiles"));
        pair.has_new_snapshots();
        let is_drawn = pair.shows_the_same(&filter, &[3]) && pair.count("set_tiles") > drawn;
        is_shown && is_drawn && asked == before + 1 && pair.count("set_statements") == asked
    });
    db.run("UPDATE rows SET word = 'other' WHERE id % 5 = 0");
    db.run("UPDATE words SET word = 'w2' WHERE id % 7 = 1; DELETE FROM words WHERE id % 11 = 3");
    db.run("INSERT INTO words SELECT id + 2000, 'w2' FROM words WHERE id < 20");
    pair.has_new_snapshots();
    for filter in ["listed=w0", "listed=w1", "listed=w2", "listed=w3"] {
        assert!(pair.shows_the_same(filter, &[2, 3]), "{filter}: {}", live.rows());
    }
    // What nobody tracks is named when the log is installed, also if the layer reads it without the condition, and the
    // condition is not believed: it is no need of the log.
    let needs = || db.value::<i64>("SELECT count(DISTINCT definition) FROM oar_tiles.needs");
    let with_tracked = needs();
    let read_by_layer =
        untracked.replacen("name = \"plain\"", "name = \"plain\"\nwhere = \"EXISTS (SELECT FROM words)\"", 1);
    for config in [untracked, read_by_layer] {
        fs::write(&live.config, config).unwrap();
        db.run("DELETE FROM oar_tiles.needs");
        let installed = live.tracked.oar_tiles(&["track", "install", "--config", &live.config]).ok();
        let said = [
            "layer \"plain\" reads \"public\".\"words\", whose changes are not noted: nobody has said where they are seen",
            "is said to be tracked, and may read what the change log does not note, for the reason above: tracked has no effect",
        ];
        assert!(said.iter().all(|said| installed.stderr.contains(said)), "{}", installed.stderr);
        assert_eq!(needs(), with_tracked - 1, "{}", installed.stderr);
    }
}

#[test]
fn facets_beside_a_condition_that_sees_more_than_the_row_are_of_one_snapshot() {
    let pair = Pair::over(&format!("{COLUMNS};{FACET_COLUMNS}"), FACETS, FACETS, 64);
    pair.live.asks_until("cells to be counted", |rows| rows["counted_tiles"].as_u64().unwrap() > 0);
    let filter = "kind=3&listed=w2";
    until("a set of both", || pair.shows_the_same(filter, &[2]) && pair.count("facet_sets") > 0);
    pair.live.tracked.db.run("UPDATE words SET word = 'w' || (id + 1) % 4");
    pair.has_new_snapshots();
    assert!(pair.shows_the_same(filter, &[3]), "{}", pair.live.rows());
    assert_eq!(counts(&pair.live.served, filter), counts(&pair.plain, filter));
}

#[test]
fn a_set_is_of_one_snapshot_if_the_log_lacks_the_column_of_its_condition() {
    let logged =
        LAYERS.split("[[layer]]").enumerate().filter(|(at, _)| *at > 0).map(|(_, layer)| format!("[[layer]]{layer}"));
    let pair = Pair::new(&logged.collect::<String>(), 64);
    until("a set to be asked for", || pair.shows_the_same("above=70", &[2]) && pair.count("set_statements") >= 1);
    pair.live.tracked.db.run("UPDATE rows SET score = 100 - score");
    pair.has_new_snapshots();
    assert!(pair.shows_the_same("above=70", &[3]), "{}", pair.live.rows());
    // Another install adds it, and the next snapshots know.
    let install = || pair.live.tracked.oar_tiles(&["track", "install", "--config", &pair.live.config]).ok();
    install();
    assert!(install().stdout.contains("everything is installed"));
    until("a set outlives its snapshot", || {
        let before = pair.count("set_statements");
        for (zoom, x, y) in tiles(5).filter(|(_, x, y)| x + y == 8) {
            pair.live.served.get(&format!("/{zoom}/{x}/{y}.pbf?kind=2&above={before}"), GZIP);
        }
        pair.has_new_snapshots();
        for (zoom, x, y) in tiles(5).filter(|(_, x, y)| x + y == 9) {
            pair.live.served.get(&format!("/{zoom}/{x}/{y}.pbf?kind=2&above={before}"), GZIP);
        }
        pair.count("set_statements") == before + 1
    });
}

#[test]
fn clients_with_filters_of_their_own_and_the_same_one_share_statements() {
    let pair = Pair::new(LAYERS, 64);
    let before = pair.count("set_statements");
    let ask = |filter: &str, client: usize| {
        for (zoom, x, y) in tiles(3).chain(tiles(2)).skip(client * 7) {
            let answer = pair.live.served.get(&format!("/{zoom}/{x}/{y}.pbf?{filter}"), GZIP);
            assert!(matches!(status(&answer), 200 | 204), "{}", answer.head);
        }
    };
    thread::scope(|scope| {
        for client in 0..8 {
            let filter = if client % 2 == 0 { "kind=2" } else { "tag=b" };
            scope.spawn(move || ask(filter, client));
        }
        for edit in 0..10 {
            let set = if edit % 2 == 0 { "kind = 2, tags = '{x}'" } else { "kind = 3, tags = '{b}'" };
            pair.live.tracked.db.run(&format!("UPDATE rows SET {set} WHERE id % 10 = {edit} % 10"));
        }
    });
    let edits = pair.count("set_statements") - before;
    assert!(edits >= 2, "{}", pair.live.rows());
    for filter in ["kind=2", "tag=b"] {
        until(filter, || pair.shows_the_same(filter, &[2, 3]));
    }
    // Nobody edits now: one statement for all who ask at once, of each layer. Rows that are joined with what changed
    // meanwhile are asked about again, so that other values are tried then.
    let mut values = 10..;
    until("three sets", || {
        let filter = format!("kind=1&kind={}", values.next().unwrap());
        let before = pair.count("set_statements");
        thread::scope(|scope| {
            for client in 0..8 {
                let filter = &filter;
                scope.spawn(move || ask(filter, client));
            }
        });
        pair.shows_the_same(&filter, &[2, 3]) && pair.count("set_statements") == before + 3
    });
}

#[test]
fn sets_take_no_more_than_their_share_of_the_memory() {
    let pair = Pair::new(LAYERS, 2);
    let share = (2 << 20) / 4;
    let filter = |number: u32| format!("above={}", 55.0 + f64::from(number) / 10.0);
    for number in 0..400 {
        let path = format!("/2/2/1.pbf?{}", filter(number));
        until(&path, || {
            let is_same = is_same(&pair.live.served.get(&path, GZIP), &pair.plain.get(&path, GZIP));
            is_same && pair.count("set_statements") > number.into()
        });
    }
    let rows = pair.live.rows();
    assert!(pair.count("set_statements") == 400 && pair.count("set_tiles") > 100, "{rows}");
    assert!(pair.count("sets") < 400 && (share / 2..=share).contains(&pair.count("set_bytes")), "{rows}");
    // The last one is still there, the first one is asked for again.
    assert!(pair.shows_the_same(&filter(399), &[3]));
    assert_eq!(pair.count("set_statements"), 400);
    until("the first one again", || pair.shows_the_same(&filter(0), &[3]) && pair.count("set_statements") == 401);
}

#[test]
fn the_database_draws_what_most_rows_match_and_what_it_does_not_take() {
    let pair = Pair::new(LAYERS, 64);
    until("a set to be asked for", || pair.shows_the_same("above=10", &[2, 3]) && pair.count("set_statements") == 1);
    assert_eq!(pair.count("set_tiles"), 0, "{}", pair.live.rows());
    let metrics = pair.live.served.admin("/metrics").1;
    let drawn = metrics.lines().find_map(|line| line.split_once("oar_tiles_live_rows_database_tiles{")).unwrap().1;
    let drawn = drawn.split_whitespace().next_back().unwrap().parse::<u64>().unwrap();
    assert!(drawn > 0 && drawn <= pair.count("database_tiles"), "{drawn} {}", pair.live.rows());
    let refused = pair.live.served.get("/2/2/1.pbf?like=%28", GZIP);
    assert_eq!(status(&refused), 400, "{}", refused.head);
    // A filter of no layer at a zoom is no filter.
    let path = "/3/4/3.pbf?like=w1";
    assert!(is_same(&pair.live.served.get(path, GZIP), &pair.plain.get(path, GZIP)));
}

#[test]
fn no_tile_waits_for_a_set_whose_statement_takes_long() {
    let pair = Pair::new(LAYERS, 64);
    // The statement for the set takes half a minute, those for the tiles read no row.
    for x in 50..56 {
        let path = format!("/7/{x}/60.pbf?slow=1");
        let answer = pair.live.served.get(&path, GZIP);
        assert!(is_same(&answer, &pair.plain.get(&path, GZIP)), "{path} {}", answer.head);
    }
}

#[test]
fn tiles_that_come_together_wait_for_the_set_of_their_filter() {
    let pair = Pair::new(LAYERS, 64);
    let mut above = 3.0;
    // The statement takes longer than a tile waits that holds a worker. A tile whose snapshot ends meanwhile is drawn
    // by the database, so that not every filter shows it.
    until("four tiles share a statement", || {
        above += 0.1;
        let before = ["set_statements", "set_tiles"].map(|what| pair.count(what));
        let paths = ["4/3", "3/3", "2/3", "5/3"].map(|place| format!("/3/{place}.pbf?slowly={above:.1}"));
        thread::scope(|scope| {
            for path in &paths {
                let served = &pair.live.served;
                scope.spawn(move || assert_eq!(status(&served.get(path, GZIP)), 200));
            }
        });
        let now = ["set_statements", "set_tiles"].map(|what| pair.count(what));
        assert!(paths.iter().all(|path| is_same(&pair.live.served.get(path, GZIP), &pair.plain.get(path, GZIP))));
        [now[0] - before[0], now[1] - before[1]] == [1, 4]
    });
}

#[test]
fn a_condition_whose_columns_cannot_be_watched_is_left_out_of_the_log() {
    let db = Db::new();
    db.run(
        "CREATE TABLE entity (id int PRIMARY KEY, geom geometry(Point, 4326));
        CREATE TABLE facility (country text, PRIMARY KEY (id)) INHERITS (entity);
        CREATE INDEX ON facility USING gist (geom)",
    );
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    let parameter = "[[tileset.parameter]]\nname = \"country\"\ntype = \"text[]\"\nwhere = { facility = \"country = ANY (!country!)\" }\n";
    let layer = "[[layer]]\nname = \"facility\"\ntable = \"facility\"\ngeometry = \"geom\"\nproperties = [\"id\"]\n";
    fs::write(&config, format!("{parameter}{layer}")).unwrap();
    let tracked = Tracked { db, folder };
    let installed = tracked.oar_tiles(&["track", "install", "--config", config.to_str().unwrap()]).ok();
    let why = "the columns that parameters' conditions read are not in the change log: ";
    assert!(installed.stderr.contains(why), "{}", installed.stderr);
}

/// A filter of one to three parameters of [`FACETS`].
fn any_filter(chance: &mut Chance) -> String {
    let mut parts: Vec<String> = (0..=chance.below(3))
        .map(|_| {
            let number = |chance: &mut Chance, end: u64| chance.below(end).to_string();
            let some = |chance: &mut Chance, name: &str, values: &[&str]| -> String {
                let value = |chance: &mut Chance| values[usize::try_from(chance.below(values.len() as u64)).unwrap()];
                let given: Vec<String> = (0..=chance.below(3)).map(|_| format!("{name}={}", value(chance))).collect();
                given.join("&")
            };
            match chance.below(8) {
                0 => some(chance, "kind", &["0", "1", "2", "3", "5", "-9"]),
                1 => format!("between={}..{}", number(chance, 3), 3 + chance.below(4)),
                2 => some(chance, "word", &["w1", "w2", "w7", "none"]),
                3 => some(chance, "tag", &["a", "b", "c", "missing"]),
                4 => some(chance, "tag", &["a", "b"]) + "&combine=AND",
                5 => some(chance, "number", &["3", "7", "0", "49"]),
                6 => format!("above={}", number(chance, 100)),
                _ => format!("listed=w{}", number(chance, 4)),
            }
        })
        .collect();
    // A parameter with a single value is given once.
    parts.sort();
    parts.dedup_by_key(|part| part.split('=').next().unwrap().to_owned());
    parts.join("&")
}

/// What a filter of [`any_filter`] means for a layer, in SQL of our own.
fn meaning(filter: &str, layer: &str) -> String {
    let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for pair in filter.split('&') {
        let (name, value) = pair.split_once('=').unwrap();
        values.entry(name).or_default().push(value);
    }
    let is_all = values.remove("combine").is_some();
    let condition = |(name, given): (&&str, &Vec<&str>)| {
        let list = given.join(",");
        match *name {
            "kind" => format!("kind = ANY ('{{{list}}}'::int[])"),
            "between" if layer == "points" => format!("kind BETWEEN {}", list.replace("..", " AND ")),
            "between" => "true".to_owned(),
            "word" => format!("word = ANY ('{{{list}}}'::text[])"),
            "tag" => format!("tags {} '{{{list}}}'::text[]", if is_all { "@>" } else { "&&" }),
            "number" => format!("numbers && '{{{list}}}'::int[]"),
            "above" => format!("score > {list}"),
            "listed" => format!("id IN (SELECT w.id FROM words w WHERE w.word = '{list}')"),
            other => panic!("{other}"),
        }
    };
    values.iter().map(condition).collect::<Vec<_>>().join(" AND ")
}

impl Pair {
    /// The tiles of zooms 0 to 2 that a seed of the rows that a filter means has.
    fn seeded(&self, filter: &str) -> BTreeMap<(u8, u32, u32), Vec<u8>> {
        let of_layer = |layer: &str| format!("table = \"rows\"\nwhere = \"{}\"", meaning(filter, layer));
        let layers = FACETS.split("[[layer]]").skip(1).map(|layer| {
            let name = if layer.contains("\"points\"") { "points" } else { "hexagons" };
            let lines = layer.lines().filter(|line| !line.starts_with("facets")).collect::<Vec<_>>().join("\n");
            format!("[[layer]]{}\n", lines.replace("table = \"rows\"", &of_layer(name)))
        });
        let (config, target) = (self.live.tracked.path("s.toml"), self.live.tracked.path("s.mbtiles"));
        fs::write(&config, layers.collect::<String>()).unwrap();
        let own = ["--config", config.to_str().unwrap(), "--zoom", "0-2", "--force", "--allow-shrink"];
        seed(&self.live.tracked.db.url, &target, &own).ok();
        Archive::open(&target).stored()
    }

    /// The tiles of zooms 0 to 2 of a filter that are not empty.
    fn filtered(&self, filter: &str) -> BTreeMap<(u8, u32, u32), Vec<u8>> {
        let all = (0..=2).flat_map(tiles).map(|(zoom, x, y)| {
            ((zoom, x, y), self.live.served.get(&format!("/{zoom}/{x}/{y}.pbf?{filter}"), GZIP).body)
        });
        all.filter(|(_, body)| !body.is_empty()).collect()
    }
}

fn any_change(chance: &mut Chance) -> String {
    let [a, b, c] = [97, 50, 5].map(|end| chance.below(end));
    let place = "ST_SetSRID(ST_MakePoint((id * 7) % 340 - 170, (id * 3) % 150 - 75), 4326)";
    match chance.below(9) {
        0 => format!("UPDATE rows SET kind = {c} WHERE id % 97 = {a}"),
        1 => format!("UPDATE rows SET tags = '{{a,b,NULL,a}}', numbers = '{{{b},{b},7}}' WHERE id % 50 = {b}"),
        2 => format!("UPDATE rows SET word = 'w{c}', even = NULL, score = {a} WHERE id % 97 = {a}"),
        3 => format!("DELETE FROM rows WHERE id % 97 = {a}"),
        4 => format!("UPDATE rows SET geom = {place} WHERE id % 97 = {a}"),
        // Several rows at one place, some of them beyond the world.
        5 => format!("UPDATE rows SET geom = ST_SetSRID(ST_MakePoint({a}, 60 + {c} * 8), 4326) WHERE id % 50 = {b}"),
        6 => format!(
            "INSERT INTO words SELECT coalesce(max(id), 0) + i, 'w' || i % 4 FROM words, generate_series(1, {b}) AS i GROUP BY i"
        ),
        7 => format!("UPDATE rows SET id = id + 1000000 WHERE id % 97 = {a} AND id < 1000000"),
        _ => format!(
            "BEGIN; UPDATE rows SET kind = kind + 1 WHERE id % 50 = {b}; DELETE FROM words WHERE id % 5 = {c}; COMMIT"
        ),
    }
}

/// Random filters over a random history, in which the server that keeps rows is killed now and then and takes over what
/// it had saved: its tiles, counts and values are those of a server that asks the database for each, and its tiles
/// those of a seed with that condition. `OAR_TILES_TEST_ROUNDS` and `OAR_TILES_TEST_SEED` as for other histories.
#[test]
fn random_filters_over_a_random_history_with_kills_are_those_of_the_database() {
    let number =
        |variable: &str, otherwise| std::env::var(variable).ok().map_or(otherwise, |text| text.parse().unwrap());
    let (rounds, seed) = (number("OAR_TILES_TEST_ROUNDS", 2), number("OAR_TILES_TEST_SEED", 17));
    let mut chance = Chance(seed);
    let mut pair = Pair::over(&format!("{COLUMNS};{FACET_COLUMNS}"), FACETS, FACETS, 64);
    pair.live.asks_until("cells to be counted", |rows| rows["counted_tiles"].as_u64().unwrap() > 0);
    for round in 0..rounds {
        let changes: Vec<String> = (0..=chance.below(3)).map(|_| any_change(&mut chance)).collect();
        let is_killed = round % 2 == 1;
        for (done, change) in changes.iter().enumerate() {
            if is_killed && done == 0 {
                pair.live.served.signal("-KILL");
                pair.live.served.child.wait().unwrap();
            }
            pair.live.tracked.db.run(change);
        }
        if is_killed {
            let own = ["--config", &pair.live.config, "--live", "--database-url", &pair.live.tracked.db.url];
            pair.live.served = Served::new(&pair.live.target, &own);
            pair.live.keeps_rows();
        }
        pair.has_new_snapshots();
        for _ in 0..4 {
            let filter = any_filter(&mut chance);
            let what = format!("seed {seed}, round {round}, {filter}, after {changes:?}");
            until(&what, || pair.shows_the_same(&filter, &[1, 2]));
            until(&what, || counts(&pair.live.served, &filter) == counts(&pair.plain, &filter));
            let seeded = pair.seeded(&filter);
            until(&format!("{what}: as a seed"), || pair.filtered(&filter) == seeded);
        }
    }
    assert!(pair.count("facet_sets") > 0, "{}", pair.live.rows());
}
