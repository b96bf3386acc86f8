//! Lines and polygons whose rows are cached and drawn at all zooms give the tiles that the database draws at each.

use super::cached_rows::compare;
use crate::support::Db;

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
        let stderr = compare(&db, zooms, &layer(table, geometry, more), &[], 1);
        // The polygons are drawn by the database where they are no simple ones.
        assert_eq!(stderr.contains("shapes drawn one by one by the database"), table == "areas", "{stderr}");
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
