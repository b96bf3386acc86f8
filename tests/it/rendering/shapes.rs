//! Lines and polygons that fill many tiles: planned by what they touch, rendered once where tiles lie inside of the
//! same polygons. Every tile is what the plain one-tile query returns.

use std::path::Path;

use super::reference::{Plain, compare};
use crate::support::program::{program, run};
use crate::support::{Archive, Db, seed};

const SHAPES: &str = include_str!("shapes.sql");

/// Seeds the layer `shapes` with further settings.
fn seed_shapes(db: &Db, output: &Path, settings: &str, zooms: &str) {
    let config = output.with_extension("toml");
    std::fs::write(
        &config,
        format!("[[layer]]\nname = \"shapes\"\ntable = \"shapes\"\nproperties = [\"name\"]\n{settings}\n[tileset]\nzoom = \"{zooms}\"\n"),
    )
    .unwrap();
    seed(&db.url, output, &["--config", config.to_str().unwrap()]).ok();
}

fn plain(rows: &str, extent: u32, buffer: u32, deepest: u8) -> Plain<'_> {
    Plain { name: "shapes", rows, properties: "name", extent, buffer, zooms: 0..=deepest }
}

const ROWS: &str = "SELECT ST_Transform(g, 3857) AS m, id AS key, name FROM shapes";

#[test]
fn large_shapes_are_what_the_plain_query_returns() {
    let db = Db::new();
    db.run(SHAPES);
    let folder = tempfile::tempdir().unwrap();
    for (extent, buffer, batch, deepest, least) in
        [(4096, 64, 2_000, 8, 2_500), (512, 0, 37, 7, 700), (4096, 600, 300, 7, 700)]
    {
        let output = folder.path().join(format!("{extent}-{buffer}.mbtiles"));
        let settings = format!("extent = {extent}\nbuffer = {buffer}\n[run]\nbatch_features = {batch}");
        let zooms = format!("0-{deepest}");
        seed_shapes(&db, &output, &settings, &zooms);
        let tiles = compare(&db, &output, &[plain(ROWS, extent, buffer, deepest)], 0..=deepest);
        assert!(tiles > least, "{tiles}");
        // Along the Hilbert curve: the same tiles.
        let other = output.with_extension("pmtiles");
        seed_shapes(&db, &other, &settings, &zooms);
        let back = folder.path().join(format!("{extent}-{buffer}-back.mbtiles"));
        run(program().arg("copy").args([&other, &back])).ok();
        assert_eq!(Archive::open(&back).tiles(), Archive::open(&output).tiles());
    }
}

#[test]
fn large_shapes_in_other_reference_systems_are_what_the_plain_query_returns() {
    let db = Db::new();
    db.run(SHAPES);
    db.run(
        "CREATE TABLE other AS SELECT id, name, ST_Transform(g, 3035) AS g FROM shapes WHERE name ~ '^(star|small)';
         DROP TABLE shapes; ALTER TABLE other RENAME TO shapes; ALTER TABLE shapes ADD PRIMARY KEY (id); CREATE INDEX ON shapes USING gist (g)",
    );
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    seed_shapes(&db, &output, "", "0-8");
    let tiles = compare(&db, &output, &[plain(ROWS, 4096, 64, 8)], 0..=8);
    assert!(tiles > 500, "{tiles}");
}

#[test]
fn large_areas_that_are_not_valid_are_named_however_few_tiles_there_are() {
    let db = Db::new();
    db.run(
        "CREATE TABLE area (id int PRIMARY KEY, g geometry(Polygon, 4326));
            INSERT INTO area VALUES
                (1, ST_GeomFromText('POLYGON((0 0, 60 60, 60 0, 0 60, 0 0))', 4326)),
                (2, ST_MakeEnvelope(-100, 0, -40, 60, 4326)),
                (3, ST_GeomFromText('POLYGON((0.001 0, 0.002 0.001, 0.002 0, 0.001 0.001, 0.001 0))', 4326))",
    );
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "[[layer]]\nname = \"areas\"\ntable = \"area\"\nproperties = [\"id\"]\n").unwrap();
    let planned = |zoom: &str| {
        let target = folder.path().join("t.mbtiles");
        seed(&db.url, &target, &["--config", config.to_str().unwrap(), "--zoom", zoom, "--dry-run"]).ok()
    };
    let says = "warning: layer \"areas\": 1 large area is not a valid polygon: PostGIS may draw them wrongly or leave parts of them out. ST_IsValid finds them; mend them with an UPDATE with ST_MakeValid";
    let many = planned("9");
    assert!(many.stderr.contains(says), "{}", many.stderr);
    let few = planned("0-5");
    assert!(few.stderr.contains(says), "{}", few.stderr);
    db.run("UPDATE area SET g = ST_MakeEnvelope(0, 0, 60, 60, 4326) WHERE id = 1");
    let mended = planned("9");
    assert!(!mended.stderr.contains("valid polygon"), "{}", mended.stderr);
}

#[test]
fn a_hole_without_an_outer_ring_in_the_world_is_neither_drawn_nor_planned() {
    let db = Db::new();
    // As Antarctica is in maps whose cut at 180 degrees was taken out: the outer ring is a line near the pole, and the
    // coast its hole. The parts reach around the world, so that the box of the shape does not leave it out.
    db.run(
        "CREATE TABLE area (id int PRIMARY KEY, g geometry(MultiPolygon, 4326));
         INSERT INTO area VALUES (1, ST_GeomFromText('MULTIPOLYGON(
             ((178.6 -89.999, 0 -89.999, -180 -89.999, 178.6 -89.999), (-179 -84, 179 -84, 179 -60, 0 -70, -179 -60, -179 -84)),
             ((-100 -50, -90 -50, -90 -45, -100 -45, -100 -50)), ((90 -50, 100 -50, 100 -45, 90 -45, 90 -50)))', 4326))",
    );
    let folder = tempfile::tempdir().unwrap();
    let (config, output) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    std::fs::write(&config, "[[layer]]\nname = \"area\"\ntable = \"area\"\nproperties = [\"id\"]\n").unwrap();
    let ran = seed(&db.url, &output, &["--config", config.to_str().unwrap(), "--zoom", "0-7"]).ok();
    let rows = "SELECT ST_Transform(g, 3857) AS m, id AS key, id FROM area";
    let plain = Plain { name: "area", rows, properties: "id", extent: 4096, buffer: 64, zooms: 0..=7 };
    let stored = compare(&db, &output, &[plain], 0..=7);
    assert!(ran.stdout.contains(&format!("{stored} planned, {stored} stored")), "{}", ran.stdout);
}

/// `ST_AsMVTGeom` draws nothing of a geometry whose box is smaller than half a grid unit. A row of many lines has a
/// large box, so its short lines are drawn where they cross to the next unit, whether the rows are cached or not.
#[test]
fn short_lines_of_a_scattered_row_are_what_the_plain_query_returns() {
    let db = Db::new();
    db.run(
        "CREATE TABLE shapes (id int PRIMARY KEY, name text, g geometry);
         SELECT setseed(0.5);
         INSERT INTO shapes SELECT id, 'row ' || id % 9, ST_Collect(ST_SetSRID(ST_MakeLine(ST_MakePoint(x, y), ST_MakePoint(x + a, y + b)), 3857))
         FROM (SELECT n % 1100 AS id, 1e7 * random() AS x, 1e7 * random() AS y, 60 * random() AS a, 60 * random() AS b FROM generate_series(1, 4400) AS n) AS lines GROUP BY id",
    );
    let folder = tempfile::tempdir().unwrap();
    let mut stored = Vec::new();
    for settings in ["[run]\nrows_mb = 0", "[run]\nrows_mb = 100", "extent = 256\nbuffer = 4\n[run]\nrows_mb = 100"] {
        let output = folder.path().join(format!("{}.mbtiles", stored.len()));
        seed_shapes(&db, &output, settings, "4-6");
        let (extent, buffer) = if settings.contains("extent") { (256, 4) } else { (4096, 64) };
        stored.push(compare(&db, &output, &[plain(ROWS, extent, buffer, 6)], 4..=6));
    }
    assert_eq!(stored[0], stored[1]);
}
