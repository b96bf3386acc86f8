//! Tiles that are linear in degrees, and features from a part of the buffer: byte for byte what the one-tile query
//! gives that works in degrees and compares places as doubles.

use std::fmt::Write as _;

use crate::rendering::reference::is_same;
use crate::support::tracked::{Tiles, Tracked};
use crate::support::{Archive, Db, seed};

/// Points all over the world, in several reference systems, and shapes of all kinds.
const TABLES: &str = "
    CREATE TABLE p4326 AS SELECT i AS id, ST_SetSRID(ST_MakePoint(
        -180 + (i * 7919 % 3600001) / 1e4, -85 + (i * 104729 % 1700001) / 1e4), 4326)::geometry(Point, 4326) AS g FROM generate_series(1, 60) AS i;
    INSERT INTO p4326 SELECT 1000 + row_number() OVER (), ST_SetSRID(ST_MakePoint(lon, lat), 4326) FROM (VALUES
        (0, 0), (180, 0), (-180, 0), (179.99999, 84.9), (-180, 85.0511), (0, -85.0511), (90, 66.513260443111), (8.05, 52.27), (8.05, 52.27)) AS edges (lon, lat);
    CREATE TABLE p3857 AS SELECT id, ST_Transform(g, 3857)::geometry(Point, 3857) AS g FROM p4326;
    CREATE TABLE geog AS SELECT id, g::geography(Point, 4326) AS g FROM p4326;
    CREATE TABLE shapes AS SELECT row_number() OVER () AS id, ST_SetSRID(wkt::geometry, 4326) AS g FROM (VALUES
        ('POINT(8.05 52.27)'), ('MULTIPOINT((8 52), (8.2 52.3), (9.02 53))'), ('LINESTRING(7.5 52, 8.5 52.6, 8.4 52.1)'), ('LINESTRING(-120 -51, 11 54)'),
        ('POLYGON((7 51, 9.01 51, 9.01 53, 7 53, 7 51), (7.5 51.5, 8.5 51.5, 8.5 52.5, 7.5 52.5, 7.5 51.5))'),
        ('POLYGON((-179 60, -100 60, -100 84, -179 84, -179 60))'), ('CURVEPOLYGON(CIRCULARSTRING(8 52, 8.2 52.2, 8.4 52, 8.2 51.8, 8 52))'),
        ('POINT EMPTY'), (NULL)) AS odd (wkt);
    CREATE TABLE shapes25832 AS SELECT id, ST_Transform(g, 25832) AS g FROM shapes WHERE id NOT IN (4, 6);
    ALTER TABLE p4326 ADD PRIMARY KEY (id); ALTER TABLE p3857 ADD PRIMARY KEY (id); ALTER TABLE geog ADD PRIMARY KEY (id);
    ALTER TABLE shapes ADD PRIMARY KEY (id); ALTER TABLE shapes25832 ADD PRIMARY KEY (id);";

/// What the one-tile query gives: for every tile of the world down to zoom 4, below that for those near anything.
fn plainly(db: &Db, table: &str, degrees: bool, candidates: Option<f64>, buffer: u32) -> Tiles {
    let (srid, box_of) = if degrees { (4326, "ST_Transform(envelope, 4326)") } else { (3857, "envelope") };
    let near = candidates.map_or("true".to_owned(), |c| {
        format!(
            "ST_XMax(d) > ST_XMin(box) - {c} * (ST_XMax(box) - ST_XMin(box)) AND ST_XMin(d) < ST_XMax(box) + {c} * (ST_XMax(box) - ST_XMin(box))
             AND ST_YMax(d) > ST_YMin(box) - {c} * (ST_YMax(box) - ST_YMin(box)) AND ST_YMin(d) < ST_YMax(box) + {c} * (ST_YMax(box) - ST_YMin(box))"
        )
    });
    let sql = format!(
        "WITH row AS MATERIALIZED (
            SELECT id, ST_Transform(c, {srid}) AS d, ST_Transform(c, 3857) AS m
            FROM {table}, LATERAL (SELECT ST_CurveToLine(g::geometry) AS c) AS curves WHERE NOT ST_IsEmpty(g::geometry)
        ),
        tile AS (
            SELECT z, x, y FROM generate_series(0, 4) AS z, generate_series(0, (1 << z) - 1) AS x, generate_series(0, (1 << z) - 1) AS y
            UNION
            SELECT z, x, y FROM row, generate_series(5, 7) AS z, LATERAL (SELECT 40075016.685578488 / (1 << z) AS side) AS s,
                generate_series(greatest(0, floor((ST_XMin(m) + 20037508.342789244) / side)::int - 2), least((1 << z) - 1, floor((ST_XMax(m) + 20037508.342789244) / side)::int + 2)) AS x,
                generate_series(greatest(0, floor((20037508.342789244 - ST_YMax(m)) / side)::int - 2), least((1 << z) - 1, floor((20037508.342789244 - ST_YMin(m)) / side)::int + 2)) AS y
        )
        SELECT z, x, y, mvt FROM tile, LATERAL (SELECT ST_TileEnvelope(z, x, y) AS envelope) AS e, LATERAL (SELECT {box_of} AS box) AS b,
        LATERAL (
            SELECT ST_AsMVT(t, 'l', 4096, 'geom') AS mvt FROM (
                SELECT ST_AsMVTGeom(d, box, 4096, {buffer}, true) AS geom, id FROM row WHERE {near} ORDER BY id
            ) AS t WHERE geom IS NOT NULL
        ) AS plain WHERE length(mvt) > 0"
    );
    let rows = db.rows(&sql);
    let address = |row: &tokio_postgres::Row| {
        let (zoom, x, y): (i32, i32, i32) = (row.get(0), row.get(1), row.get(2));
        (zoom as u8, x as u32, y as u32)
    };
    rows.iter().map(|row| (address(row), row.get(3))).collect()
}

#[test]
fn tiles_in_degrees_and_from_a_part_of_the_buffer_are_what_the_plain_query_returns() {
    let db = Db::new();
    db.run(TABLES);
    let folder = tempfile::tempdir().unwrap();
    let (config, output) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    for table in ["p4326", "p3857", "geog", "shapes", "shapes25832"] {
        for (degrees, candidates, buffer) in [
            (true, None, 1024),
            (true, Some(0.2), 1024),
            (true, Some(0.01), 64),
            (true, None, 0),
            (false, Some(0.2), 1024),
            (false, Some(0.7), 4096),
        ] {
            // How a point is carried in degrees differs, not how it is drawn: one way of each says all.
            if matches!(table, "p3857" | "geog") && candidates != Some(0.2) {
                continue;
            }
            let mut text = format!(
                "[[layer]]\nname = \"l\"\ntable = \"{table}\"\nproperties = [\"id\"]\nbuffer = {buffer}\ntile_bounds = \"{}\"\n",
                if degrees { "degrees" } else { "mercator" }
            );
            if let Some(candidates) = candidates {
                writeln!(text, "candidates = {candidates}").unwrap();
            }
            std::fs::write(&config, &text).unwrap();
            let (config, zooms) = (config.to_str().unwrap(), "0-7");
            seed(&db.url, &output, &["--config", config, "--zoom", zooms]).ok();
            let found = Archive::open(&output).tiles();
            println!("{text}");
            let tiles = is_same(&found, &plainly(&db, table, degrees, candidates, buffer));
            assert!(tiles > 10, "{text}{tiles}");
        }
    }
}

#[test]
fn a_feature_on_the_last_place_of_the_candidates_is_not_drawn_and_one_before_it_is() {
    let db = Db::new();
    // The edge is as ST_MakeEnvelope and the registry work it out; a box of single precision could not tell these
    // apart.
    db.run(
        "CREATE TABLE p AS
         WITH tile AS (SELECT 2995::float8 / 4096 * 360 - 180 AS west, 2996::float8 / 4096 * 360 - 180 AS east,
            degrees(atan(sinh(pi() * (1 - 2 * (1755::float8 / 4096))))) AS south, degrees(atan(sinh(pi() * (1 - 2 * (1754::float8 / 4096))))) AS north),
         edge AS (SELECT *, east + (east - west) * 0.2 AS lon, south - (north - south) * 0.2 AS lat FROM tile)
         SELECT name AS id, ST_SetSRID(ST_MakePoint(x, y), 4326)::geometry(Point, 4326) AS g FROM edge, LATERAL (VALUES
            ('east', lon, south), ('east, inside', lon - 2e-14, south), ('east, outside', lon + 1e-7, south),
            ('south', east, lat), ('south, inside', east, lat + 1e-14), ('south, outside', east, lat - 1e-7)) AS at (name, x, y);
         ALTER TABLE p ADD PRIMARY KEY (id)",
    );
    let folder = tempfile::tempdir().unwrap();
    let (config, output) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    std::fs::write(
        &config,
        "[[layer]]\nname = \"l\"\ntable = \"p\"\nbuffer = 1024\ncandidates = \"1/5\"\ntile_bounds = \"degrees\"",
    )
    .unwrap();
    seed(&db.url, &output, &["--config", config.to_str().unwrap(), "--zoom", "12"]).ok();
    let tiles = Archive::open(&output).tiles();
    let found = crate::support::features::features(&tiles[&(12, 2995, 1754)], "l");
    let ids: std::collections::BTreeSet<String> =
        found.iter().map(|feature| format!("{:?}", feature.properties["id"])).collect();
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), ["Text(\"east, inside\")", "Text(\"south, inside\")"]);
}

/// Layers that are seen farther than their buffer says, in Mercator.
const FAR: &str = "
    [[layer]]
    name = \"degrees\"
    table = \"api_facility\"
    properties = [\"name\"]
    buffer = 1024
    candidates = 0.2
    tile_bounds = \"degrees\"
    [[layer]]
    name = \"cells\"
    table = \"api_facility\"
    tile_bounds = \"degrees\"
    buffer = 512
    [layer.aggregate]
    cell = \"square\"
    size = \"1/16\"
    properties = { count = \"count(*)\" }";

#[test]
fn a_reseed_of_tiles_in_degrees_is_what_a_seed_gives() {
    let db = Db::with_facilities(400);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, FAR).unwrap();
    let arguments = ["--config", config.to_str().unwrap(), "--zoom", "0-9"];
    let tracked = Tracked { db, folder };
    tracked.oar_tiles(&["track", "install", "--config", config.to_str().unwrap()]).ok();
    let target = tracked.seed("t.mbtiles", &arguments);
    for (dx, dy) in [(0.0, 0.001), (3.0, 20.0), (-10.0, 9.0), (0.7, -25.0), (0.0, 0.3)] {
        tracked.db.run(&format!(
            "UPDATE api_facility SET location = ST_Translate(location, {dx}, {dy}) WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id || {dx}) LIMIT 7)
             AND ST_X(location) BETWEEN -165 AND 165 AND ST_Y(location) BETWEEN -50 AND 60"
        ));
        tracked.reseed(&target, &["--config", config.to_str().unwrap()]).ok();
        tracked.is_fresh(&target, &arguments);
    }
}

#[test]
fn cells_stand_in_degrees_as_well() {
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    let (config, output) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    std::fs::write(&config, FAR).unwrap();
    seed(&db.url, &output, &["--config", config.to_str().unwrap(), "--layer", "cells", "--zoom", "3"]).ok();
    let rows = db.rows(
        "SELECT x, y, mvt FROM generate_series(0, 7) AS x, generate_series(0, 7) AS y,
            LATERAL (SELECT ST_Transform(ST_TileEnvelope(3, x, y), 4326) AS box) AS b, LATERAL (
            SELECT ST_AsMVT(t, 'cells', 4096, 'geom') AS mvt FROM (
                SELECT ST_AsMVTGeom(ST_Transform(ST_SetSRID(ST_MakePoint((a + 0.5) * w, (b + 0.5) * w), 3857), 4326), box, 4096, 512, true) AS geom, count
                FROM (SELECT floor(ST_X(m) / w) AS a, floor(ST_Y(m) / w) AS b, w, count(*) FROM api_facility,
                    LATERAL (SELECT ST_Transform(location, 3857) AS m, 40075016.685578488 / 128 AS w) AS s GROUP BY a, b, w) AS cell
                ORDER BY a, -b
            ) AS t WHERE geom IS NOT NULL) AS plain WHERE length(mvt) > 0",
    );
    let expected = rows.iter().map(|row| {
        let (x, y): (i32, i32) = (row.get(0), row.get(1));
        ((3, x as u32, y as u32), row.get(2))
    });
    is_same(&Archive::open(&output).tiles(), &expected.collect());
}
