//! A column that declares no reference system: its rows tell it, and they may be gone, or others.

use crate::support::Db;
use crate::support::tracked::Tracked;

const ZOOM: [&str; 2] = ["--zoom", "0,2,6,11"];

/// One place for a table and a view of it. The position in the view is computed, so that its column declares no system
/// either, and the change log asks a query for it.
const LAYERS: &str = r#"
[[layer]]
name = "t"
table = "t"
[[layer]]
name = "cells"
table = "t"
[layer.aggregate]
cell = "square"
size = "1/4"
draw = "polygon"
properties = { n = "count(*)" }
[[layer]]
name = "v"
table = "v"
key = ["id"]
[[layer.track]]
table = "t"
geometry = "SELECT ST_Translate(changed.place, 1, 0)"
[[layer]]
name = "cells of v"
table = "v"
key = ["id"]
where = "ST_SRID(place) IN (4326, 3857, 2193)"
[layer.aggregate]
cell = "hexagon"
size = "1/4"
draw = "polygon"
properties = { n = "count(*)" }
[[layer.track]]
table = "t"
geometry = "SELECT ST_Translate(changed.place, 1, 0)"
"#;

/// A line that begins at 180° and lies beyond it, and one in the middle of the world, in metres.
const IN_METRES: &str = "INSERT INTO t VALUES
    ('a', 'SRID=3857;LINESTRING(20037508.342789244 18807214.1, 20038508.34 18808214.1)'),
    ('b', 'SRID=3857;LINESTRING(500000 500000, 501000 501000)'), ('c', 'SRID=3857;LINESTRING(-20037600 5000, -20037000 5000)')";
/// Such lines in degrees, and in the system of New Zealand, whose area reaches across 180°.
const IN_DEGREES: &str = "INSERT INTO t VALUES ('d', 'SRID=4326;LINESTRING(179.999 50, 180.001 50)')";
const IN_NEW_ZEALAND: &str =
    "INSERT INTO t SELECT 'e', ST_Transform('SRID=4326;LINESTRING(177 -40, 178 -41)'::geometry, 2193)";

fn world(first: &str) -> (Tracked, String) {
    let db = Db::new();
    db.run("CREATE TABLE t (id text PRIMARY KEY, place geometry); CREATE VIEW v AS SELECT id, ST_Translate(place, 1, 0) AS place FROM t");
    db.run(first);
    let tracked = Tracked { db, folder: tempfile::tempdir().unwrap() };
    let config = tracked.path("c.toml");
    std::fs::write(&config, LAYERS).unwrap();
    let config = config.to_str().unwrap().to_owned();
    tracked.oar_tiles(&["track", "install", "--config", &config]).ok();
    (tracked, config)
}

#[test]
fn rows_of_another_reference_system_or_of_none_any_more_are_removed_where_they_were_drawn() {
    for (first, then) in [
        (IN_METRES, ""),
        (IN_DEGREES, ""),
        (IN_NEW_ZEALAND, ""),
        (IN_METRES, IN_DEGREES),
        (IN_DEGREES, IN_METRES),
        (IN_METRES, IN_NEW_ZEALAND),
        (IN_NEW_ZEALAND, IN_METRES),
    ] {
        for emptied in ["DELETE FROM t", "TRUNCATE t"] {
            let (tracked, config) = world(first);
            let arguments = [&ZOOM[..], &["--config", &config]].concat();
            let target = tracked.seed("t.mbtiles", &arguments);
            tracked.db.run(&format!("{emptied}; {then}"));
            tracked.reseed(&target, &["--allow-shrink", "--config", &config]).ok();
            tracked.is_fresh(&target, &arguments);
        }
    }
}

#[test]
fn a_row_of_an_unknown_reference_system_that_no_layer_draws_stops_no_reseed() {
    let (tracked, config) = world(IN_METRES);
    std::fs::write(&config, "[[layer]]\nname = \"t\"\ntable = \"t\"\nwhere = \"id <> 'odd'\"").unwrap();
    tracked.oar_tiles(&["track", "install", "--config", &config]).ok();
    let arguments = [&ZOOM[..], &["--config", &config]].concat();
    let target = tracked.seed("t.mbtiles", &arguments);
    tracked.db.run("INSERT INTO t VALUES ('odd', 'SRID=998999;POINT(1 1)'), ('z', 'SRID=3857;POINT(77 77)')");
    tracked.reseed(&target, &["--config", &config]).ok();
    tracked.db.run("DELETE FROM t WHERE id = 'odd'");
    tracked.reseed(&target, &["--config", &config]).ok();
    tracked.is_fresh(&target, &arguments);
}
