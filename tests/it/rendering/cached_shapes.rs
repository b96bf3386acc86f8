//! Lines and polygons whose rows are cached and drawn at all zooms give the tiles that the database draws at each.

use serde_json::Value;

use super::cached_rows::compare;
use crate::support::Db;
use crate::support::program::{run, seed_command};

const SHAPES: &str = include_str!("cached_shapes.sql");

fn layer(table: &str, geometry: &str, more: &str) -> String {
    format!(
        "[[layer]]\nname = \"{table}\"\ntable = \"{table}\"\ngeometry = \"{geometry}\"\nproperties = [\"name\", \"class\"]\n{more}\n"
    )
}

#[test]
fn lines_and_polygons_read_once_are_drawn_as_the_database_draws_them() {
    let db = Db::new();
    db.run(SHAPES);
    for (table, geometry, zooms, more) in [
        ("lines", "metres", "6-14", ""),
        ("lines", "degrees", "6-13", "feature_id = \"id\"\nextent = 512\nbuffer = 8"),
        ("lines", "lambert", "8-13", "buffer = 0\nwhere = \"class < 5\""),
        ("areas", "metres", "6-14", ""),
        ("areas", "degrees", "6-13", "feature_id = \"id\"\nextent = 512\nbuffer = 8"),
        ("areas", "lambert", "8-13", "buffer = 300\nkey = [\"class\", \"id\"]"),
    ] {
        let told = compare(&db, zooms, &layer(table, geometry, more), &[], 1);
        // The polygons are drawn by the database where they are no simple ones.
        assert!(told.contains("lines and polygons drawn from cached rows: "), "{told}");
        assert_eq!(told.contains("the database was asked for 0 of them"), table == "lines", "{told}");
    }
    // Beside each other, with a constant of each tile, in a part of the world.
    let both = layer("lines", "metres", "") + &layer("areas", "degrees", "").replace("\"class\"]", "\"class\"]\n");
    compare(&db, "6-13", &both, &["--bbox", "6.9,43.9,7.02,44.2"], 2);
}

/// What another writer made of a geometry's stored box decides whether `ST_AsMVTGeom` draws it; heights, whether two
/// vertices are the same.
#[test]
fn shapes_that_cannot_be_read_once_are_drawn_by_the_database() {
    let db = Db::new();
    db.run(SHAPES);
    db.run("UPDATE lines SET metres = postgis_dropbbox(metres) WHERE id = 77");
    let stderr = compare(&db, "8-12", &layer("lines", "metres", ""), &[], 0);
    assert!(stderr.contains("its rows are not cached: some are not lines or polygons"), "{stderr}");
    // Heights are seen before all rows are read, and so are points.
    for (column, other) in
        [("high", "ST_Force3D(metres)"), ("mixed", "CASE WHEN id = 3 THEN ST_Centroid(metres) ELSE metres END")]
    {
        db.run(&format!("CREATE TABLE {column} AS SELECT id, name, class, {other} AS metres FROM areas; ALTER TABLE {column} ADD PRIMARY KEY (id)"));
        let stderr = compare(&db, "8-12", &layer(column, "metres", ""), &[], 0);
        assert!(
            stderr.contains("its rows are not cached: some are not lines or polygons of two dimensions"),
            "{stderr}"
        );
    }
}

/// Where cached shapes lie is known without a survey, unless a polygon fills many tiles. The plan, and what is said of
/// rows that cannot be drawn, are those of a survey.
#[test]
fn a_plan_from_shapes_that_were_read_is_that_of_a_survey() {
    let db = Db::new();
    db.run(SHAPES);
    // Long lines, which do not touch all tiles of their boxes, and rows that cannot be drawn.
    db.run(
        "INSERT INTO lines (id, name, class, metres, degrees)
         SELECT 5000 + n, 'long', 1, m, ST_Transform(m, 4326) FROM generate_series(1, 9) AS n
             CROSS JOIN LATERAL (SELECT ST_SetSRID(ST_MakeLine(ST_MakePoint(776000, 5450000), ST_MakePoint(776000 + 9000 * cos(n), 5450000 + 9000 * sin(n))), 3857) AS m) AS long;
         INSERT INTO lines (id, name, class, metres, degrees) VALUES (6001, 'none', 1, NULL, NULL), (6002, 'empty', 1, 'SRID=3857;LINESTRING EMPTY', 'SRID=4326;LINESTRING EMPTY'),
             (6003, 'beyond', 1, 'SRID=3857;LINESTRING(0 3e7, 9 3e7)', 'SRID=4326;LINESTRING(3 89, 4 89)');
         INSERT INTO areas (id, name, class, metres) VALUES (7001, 'large', 1, ST_MakeEnvelope(776000, 5440000, 786000, 5450000, 3857));",
    );
    let folder = tempfile::tempdir().unwrap();
    for (table, geometry) in [("lines", "metres"), ("lines", "degrees"), ("areas", "metres")] {
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("c.toml"), layer(table, geometry, "")).unwrap();
        let planned = |rows_mb: &str| {
            let arguments = ["--config", &path("c.toml"), "--zoom", "8-13", "--report", &path("report.json"), "-vv"];
            let mut command = seed_command(&db.url, &folder.path().join(format!("{table}.mbtiles")), &arguments);
            let ran = run(command.env("OAR_TILES_ROWS_MB", rows_mb)).ok();
            let told: Value = serde_json::from_slice(&std::fs::read(path("report.json")).unwrap()).unwrap();
            let manifest = &told["manifest"];
            ([manifest["planned"].clone(), manifest["bounds"].clone(), told["skipped"].clone()], ran.stderr)
        };
        let ((read, stderr), (surveyed, _)) = (planned("100"), planned("0"));
        assert_eq!(read, surveyed, "{table}");
        assert_eq!(read[2].as_array().unwrap().len(), if table == "lines" { 3 } else { 0 }, "{read:?}");
        let is_from_rows = stderr.contains("its tiles are planned from the rows that are cached");
        assert_eq!(is_from_rows, table == "lines", "{stderr}");
    }
}
