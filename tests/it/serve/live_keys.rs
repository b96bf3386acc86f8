//! Rows that are kept by keys of every type: bytes that sort as the database does, behind the features. Tiles are those
//! of a seed, and filters choose what they choose without kept rows.

use std::fmt::Write as _;

use super::live_rows::Live;
use super::live_sets::Pair;
use crate::reseed::live_rows::{CHANGES, filled};
use crate::support::chance::Chance;
use crate::support::{Db, until};

/// Random values of every type whose order is known, some of them at the ends of their types.
const TYPES: &str = r#"
CREATE TABLE keys (i int PRIMARY KEY, kind int, flag bool NOT NULL, i2 smallint NOT NULL, i8 bigint NOT NULL, f4 real NOT NULL, f8 float8 NOT NULL,
    num numeric NOT NULL, txt text COLLATE "und-x-icu" NOT NULL, vc varchar(30) NOT NULL, ch char(6) NOT NULL, nm name NOT NULL, raw bytea NOT NULL,
    day date NOT NULL, tm time NOT NULL, ts timestamp NOT NULL, tz timestamptz NOT NULL, u uuid NOT NULL, span interval NOT NULL, geom geometry(Point, 4326));
SELECT setseed(0.47);
INSERT INTO keys SELECT i, i % 7, random() < 0.5, floor((random() - 0.5) * 65535), floor((random() - 0.5) * 1.8e19)::int8,
    CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' WHEN 3 THEN '-Infinity' WHEN 4 THEN '-0' ELSE (random() - 0.5) * power(10::float8, i % 60 - 30) END,
    CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' WHEN 3 THEN '-Infinity' WHEN 4 THEN '-0' ELSE (random() - 0.5) * power(10::float8, i % 500 - 250) END,
    CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' WHEN 3 THEN '-Infinity' WHEN 4 THEN 0 WHEN 5 THEN 1 WHEN 6 THEN 10000.00 WHEN 7 THEN -10000 WHEN 8 THEN -10000.0001
        ELSE ((random() - 0.5)::numeric || 'e' || (i % 60 - 30))::numeric END,
    (SELECT coalesce(string_agg((ARRAY['a', 'A', 'b', 'ä', E'\u0001', '漢', ' ', '😀'])[1 + floor(random() * 8 + 0 * g)], ''), '') FROM generate_series(1, 1 + i % 9) AS g),
    substr(md5(random()::text), 1, 1 + i % 5), substr(md5(random()::text), 1, 1 + i % 3), (ARRAY['n', 'Ñ', 'N'])[1 + i % 3] || substr(md5(random()::text), 1, 1 + i % 3),
    decode((SELECT string_agg((ARRAY['00', '01', 'ff', '7f'])[1 + floor(random() * 4 + 0 * g)], '') FROM generate_series(1, 1 + i % 5) AS g), 'hex'),
    CASE i WHEN 1 THEN 'infinity' WHEN 2 THEN '-infinity' ELSE DATE '2000-01-01' + floor((random() - 0.5) * 2000)::int END,
    CASE i WHEN 1 THEN '24:00' ELSE TIME '00:00' + random() * interval '24 h' END,
    CASE i WHEN 1 THEN 'infinity' WHEN 2 THEN '-infinity' ELSE timestamp '2000-01-01' + (random() - 0.5) * interval '9000 d' END,
    CASE i WHEN 1 THEN 'infinity' WHEN 2 THEN '-infinity' ELSE timestamptz '2000-01-01' + (random() - 0.5) * interval '9000 d' END,
    md5(random()::text)::uuid, random() * interval '9 d', ST_SetSRID(ST_MakePoint(random() * 340 - 170, random() * 160 - 80), 4326)
    FROM generate_series(1, 400) AS i;
CREATE INDEX ON keys USING gist (geom)"#;

/// Keys over these columns; each is unique.
const KEYS: [&[&str]; 16] = [
    &["num"],
    &["f8"],
    &["i8"],
    &["u"],
    &["ts"],
    &["tz", "flag"],
    &["flag", "i"],
    &["i2", "tm", "i"],
    &["f4", "i"],
    &["txt", "raw", "i"],
    &["vc", "num"],
    &["ch", "i"],
    &["nm", "vc", "i"],
    &["raw", "txt", "i"],
    &["day", "i"],
    &["num", "raw", "f8"],
];

/// Layers that show none of the columns of their keys.
fn layers_with(keys: &[&[&str]]) -> String {
    let name = |number: usize| format!("by_{number}");
    let conditions: Vec<String> =
        (0..keys.len()).map(|number| format!("{} = \"kind = !kind!\"", name(number))).collect();
    let mut layers = format!(
        "[tileset]\nmax_shrink = \"100%\"\n[[tileset.parameter]]\nname = \"kind\"\ntype = \"integer\"\nwhere = {{ {} }}\n",
        conditions.join(", ")
    );
    for (number, key) in keys.iter().enumerate() {
        let layer = name(number);
        write!(layers, "[[layer]]\nname = \"{layer}\"\ntable = \"keys\"\ngeometry = \"geom\"\nkey = {key:?}\nproperties = [\"kind\"]\n")
            .unwrap();
    }
    layers
}

#[test]
fn rows_with_random_keys_of_every_type_are_kept_in_the_order_of_the_database() {
    let layers = layers_with(&KEYS);
    let pair = Pair::over(TYPES, &layers, &layers, 64);
    pair.live.keeps_rows();
    // Rows that are not in strictly ascending order are not kept.
    assert_eq!(pair.count("rows"), 400 * KEYS.len() as u64, "{}", pair.live.rows());
    pair.live.shows_what_a_seed_shows("the rows");
    let same = |what: &str| until(what, || pair.shows_the_same("kind=3", &[2]));
    same("a filter");
    let (statements, reads) = (pair.count("set_statements"), pair.count("reads"));
    assert!(statements >= KEYS.len() as u64, "{}", pair.live.rows());
    // Other kinds at the same keys, other keys, and new rows: sets ask about the rows that came by their keys.
    for change in [
        "UPDATE keys SET kind = (kind + 1) % 7 WHERE i % 5 = 0 OR i < 9",
        "UPDATE keys SET num = num / 3, f8 = -f8, ts = ts + interval '1 ms', raw = raw || '\\x00', txt = txt || 'b' WHERE i % 9 = 0",
        "INSERT INTO keys SELECT i + 1000, 3, flag, i2, i8 + 1, f4, f8 / 3, num * 3 + 0.00001, txt, vc || 'x', ch, nm, raw, day, tm, ts + interval '1 s', tz + interval '1 s', md5(u::text)::uuid, span,
            ST_SetSRID(ST_MakePoint(ST_Y(geom), ST_X(geom) / 3), 4326) FROM keys WHERE i BETWEEN 10 AND 60; DELETE FROM keys WHERE i % 11 = 3",
    ] {
        pair.live.tracked.db.run(change);
        pair.live.shows_what_a_seed_shows(change);
        same(change);
    }
    let rows = pair.live.rows();
    assert!(pair.count("set_statements") > statements && pair.count("reads") == reads, "{rows}");
    assert!(rows["why_not"].is_null() && pair.count("set_tiles") > 0 && pair.count("drops") == 0, "{rows}");
}

#[test]
fn rows_whose_keys_have_an_order_that_is_not_known_or_are_null_are_the_databases() {
    let null =
        format!("{TYPES}; ALTER TABLE keys ALTER COLUMN num DROP NOT NULL; UPDATE keys SET num = NULL WHERE i = 9");
    for (sql, key, why) in [
        (TYPES, &["span", "i"][..], "a key whose order is known"),
        (&null, &["num"], "keys that are unique and not NULL"),
    ] {
        let layers = layers_with(&[key]);
        let live = Live::over(sql, &layers, &layers);
        live.asks_until(why, |rows| rows["why_not"].as_str().is_some_and(|text| text.contains(why)));
        live.shows_what_a_seed_shows(why);
        assert_eq!(live.rows()["tiles"], 0, "{}", live.rows());
    }
}

/// Further columns of the rows, which whatever happens to these brings up to date.
pub(crate) const KEY_COLUMNS: &str = r#"
ALTER TABLE rows ADD COLUMN amount numeric GENERATED ALWAYS AS ((id - 1500)::numeric / 8) STORED,
    ADD COLUMN part text GENERATED ALWAYS AS (CASE id % 3 WHEN 0 THEN 'a' WHEN 1 THEN 'ab' ELSE 'á' END || (id / 10)::text) STORED,
    ADD COLUMN number int GENERATED ALWAYS AS (id % 10) STORED,
    ADD COLUMN label text GENERATED ALWAYS AS ('é' || id::text) STORED,
    ADD COLUMN more jsonb GENERATED ALWAYS AS (CASE WHEN id % 4 > 0 THEN ('{"n": ' || (id % 12)::text || ', "word": "' || (id % 5)::text || '", "none": null, "of": [1], "even": ' ||
        (id % 2 = 0)::text || '}')::jsonb WHEN id % 8 = 0 THEN '{}' END) STORED;
CREATE UNIQUE INDEX ON rows (amount);
CREATE UNIQUE INDEX ON rows (part, number);
CREATE UNIQUE INDEX ON rows (label)"#;

/// Layers with keys of which no tile holds enough, and with members of objects.
pub(crate) const KEYED: &str = r#"
[tileset]
max_shrink = "100%"
[[tileset.parameter]]
name = "word"
type = "text[]"
facet = { plain = "word" }
[[tileset.parameter]]
name = "kind"
type = "integer"
where = { plain = "kind = !kind!", objects = "kind = !kind!", labels = "kind = !kind!", cells = "kind = !kind!", grid = "kind = !kind!" }
[[layer]]
name = "plain"
table = "rows"
geometry = "geom"
key = ["part", "number"]
properties = ["word", "kind"]
facets = ["word"]
[[layer]]
name = "amounts"
table = "rows"
geometry = "geom"
key = ["amount"]
properties = ["amount"]
on_large_tile = "thin"
max_tile_features = 200
rank = "kind"
[[layer]]
name = "labels"
table = "rows"
geometry = "geom"
key = ["label"]
properties = ["label", "kind"]
[[layer]]
name = "objects"
table = "rows"
geometry = "geom"
where = "shown"
properties = ["id", "more", "word"]
[[layer]]
name = "cells"
table = "rows"
geometry = "geom"
key = ["part", "number"]
zoom = "0-3"
[layer.aggregate]
cell = "square"
size = "1/4"
draw = "centroid"
properties = { rows = "count(*)", all = "sum(kind)::text" }
[[layer]]
name = "hidden"
table = "rows"
geometry = "geom"
properties = ["word"]
# Its rows are those of the layer before.
[[layer]]
name = "grid"
table = "rows"
geometry = "geom"
zoom = "0-3"
[layer.aggregate]
cell = "square"
size = "1/8"
properties = { rows = "count(*)" }
"#;

#[test]
fn tiles_and_filters_from_rows_with_composite_hidden_and_numeric_keys_and_objects_are_those_of_the_database() {
    let pair = Pair::over(KEY_COLUMNS, KEYED, KEYED, 64);
    pair.live.keeps_rows();
    let mut chance = Chance(47);
    let before = pair.live.rows();
    let mut seeded_tiles = 0;
    for (number, change) in CHANGES.iter().enumerate() {
        let sql = filled(change, &mut chance);
        pair.live.tracked.db.run(&sql);
        if number % 3 == 0 {
            let seeded = pair.live.seeded();
            pair.live.shows(&sql, &seeded);
            seeded_tiles += seeded.len() as u64;
        }
        for filter in ["word=w7&word=w8", "kind=3", "kind=2&word=x7"] {
            until(&format!("{filter}, {sql}"), || pair.shows_the_same(filter, &[2]));
        }
    }
    // What has changed is joined with the other rows.
    pair.live.tracked.db.run("UPDATE rows SET word = 'j' || id % 9");
    pair.live.asks_until("joined rows", |rows| rows["changed"].as_u64().unwrap() < 4 * 1_500);
    pair.live.shows_what_a_seed_shows("joined rows");
    until("facets of joined rows", || pair.shows_the_same("word=j3", &[2]));
    let rows = pair.live.rows();
    assert_eq!(
        (&rows["reads"], &rows["drops"], &rows["why_no_facets"]),
        (&before["reads"], &before["drops"], &serde_json::Value::Null),
        "{rows}"
    );
    assert!(pair.count("tiles") - before["tiles"].as_u64().unwrap() >= seeded_tiles / 2, "{seeded_tiles} {rows}");
    assert!(
        pair.count("facet_sets") > 0 && pair.count("set_statements") > 0 && pair.count("counted_tiles") > 0,
        "{rows}"
    );
}

#[test]
fn a_restart_takes_rows_with_keys_behind_them_and_objects_over() {
    let mut live = Live::over(KEY_COLUMNS, KEYED, KEYED);
    live.keeps_rows();
    live.is_saved();
    live.ends("-KILL");
    let mut chance = Chance(53);
    for change in CHANGES {
        live.tracked.db.run(&filled(change, &mut chance));
    }
    live.starts();
    live.has_taken_over();
    live.shows_what_a_seed_shows("a restart");
    live.draws_from_rows();
}

/// Rows without a place on the map, as PostGIS may hold them.
pub(crate) const NOWHERE: [&str; 5] = [
    "ST_MakePoint('NaN', 'NaN')",
    "ST_MakePoint('NaN', 3)",
    "ST_MakePoint('Infinity', 1)",
    "ST_MakePoint(2, '-Infinity')",
    "'POINT EMPTY'::geometry",
];

#[test]
fn rows_whose_positions_are_no_numbers_change_nothing_beside_kept_rows() {
    let of = |place: &str| format!("ST_SetSRID({place}, 4326)");
    let mut before = String::new();
    for (number, place) in NOWHERE.iter().enumerate() {
        write!(before, "INSERT INTO rows VALUES (60000 + {number}, 1, 'n', true, {});", of(place)).unwrap();
    }
    let layers = "[tileset]\nmax_shrink = \"100%\"\n[[layer]]\nname = \"plain\"\ntable = \"rows\"\ngeometry = \"geom\"\nproperties = [\"id\", \"word\"]\n
        [[layer]]\nname = \"cells\"\ntable = \"rows\"\ngeometry = \"geom\"\n[layer.aggregate]\ncell = \"square\"\nsize = \"1/4\"\nproperties = { rows = \"count(*)\" }\n";
    let live = Live::of(Db::new(), layers, "t.mbtiles");
    live.keeps_rows();
    live.tracked.db.run(&before);
    live.shows_what_a_seed_shows("rows that came");
    for (number, place) in NOWHERE.iter().enumerate() {
        // One leaves its place, one that had none gets one, and one goes.
        let [from, to] = [300 * number + 7, 60_000 + number];
        live.tracked.db.run(&format!(
            "UPDATE rows SET geom = {} WHERE id = {from}; UPDATE rows SET geom = ST_SetSRID(ST_MakePoint(10 + {number}, 20), 4326), word = 'm' WHERE id = {to}; UPDATE rows SET word = 'o' WHERE id = {from}",
            of(place)
        ));
        live.shows_what_a_seed_shows(place);
    }
    // Read anew, they are there from the beginning.
    let other = Live::over(&before, layers, layers);
    other.keeps_rows();
    other.shows_what_a_seed_shows("rows from the beginning");
    other.tracked.db.run("UPDATE rows SET word = 'p'; DELETE FROM rows WHERE id = 60001");
    other.shows_what_a_seed_shows("later");
    for rows in [live.rows(), other.rows()] {
        let are_drawn = ["tiles", "counted_tiles"].iter().all(|what| rows[what].as_u64().unwrap() > 20);
        assert!(are_drawn && rows["drops"] == 0 && rows["reads"] == 1, "{rows}");
    }
}
