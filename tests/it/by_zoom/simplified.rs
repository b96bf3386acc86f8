//! `simplify`: every tile is cut from the geometry that the plain query simplifies for its zoom, so that nothing shifts
//! at the edges of tiles.

use std::path::Path;

use super::{DEEPEST, World, plain};
use crate::rendering::reference::{Plain, compare};
use crate::support::{Archive, OldTarget};

/// The side of a pixel at zoom `z`, of which a tile has 256.
const PIXEL: &str = "(40075016.685578488::float8 / 256 / (1 << z))";

/// All that a layer can be simplified by.
const EVERYTHING: &str = "simplify = { tolerance = 1.5, snap = 24, min_area = 9, min_length = 20.5, zoom = \"0-7\" }\n";

/// A layer over each table of shapes, in metres and in degrees. Without a buffer, a feature that is moved into a tile
/// has to be searched farther away.
fn layers(simplify: &str) -> String {
    ["shape", "degrees"]
        .map(|table| {
            format!(
                "[[layer]]\nname = \"{table}\"\ntable = \"{table}\"\nproperties = [\"name\"]\nbuffer = 0\n{simplify}"
            )
        })
        .concat()
}

/// The tables of shapes, with points among them.
fn world(layers: &str) -> World {
    World::with(
        "INSERT INTO shape SELECT 1000 + id, name, '', workers, from_zoom, to_zoom, ST_Transform(g, 3857) FROM mill WHERE id <= 60;
         CREATE TABLE degrees (id int PRIMARY KEY, name text, g geometry(Geometry, 4326));
         INSERT INTO degrees SELECT id, name, ST_Transform(g, 4326) FROM shape;
         CREATE INDEX ON degrees USING gist (g);",
        layers,
    )
}

/// Compares a target with the plain query over rows that are simplified to `simplified`, SQL over `m` and the zoom `z`;
/// NULL is not drawn.
fn is_plain(world: &World, target: &Path, simplified: impl Fn(u8) -> String) {
    let mut rows = Vec::new();
    for zoom in 0..=DEEPEST {
        for (table, m) in [("shape", "g"), ("degrees", "ST_Transform(g, 3857)")] {
            let simplified = simplified(zoom).replace("PIXEL", PIXEL);
            let row = format!("SELECT {m} AS m, id, name, {zoom} AS z FROM {table}");
            rows.push((zoom, table, format!("SELECT {simplified} AS m, id AS key, name FROM ({row}) AS row")));
        }
    }
    let plain: Vec<_> = rows.iter().map(|(zoom, name, rows)| Plain { buffer: 0, ..plain(name, rows, *zoom) }).collect();
    let tiles = compare(&world.tracked.db, target, &plain, 0..=DEEPEST);
    assert!(tiles > 150, "{tiles}");
}

/// A row by everything that a layer can be simplified by, at zooms 0 to 7.
fn by_everything(zoom: u8) -> String {
    if zoom > 7 {
        return "m".to_owned();
    }
    "CASE WHEN ST_Dimension(m) = 0 THEN m
        WHEN ST_Dimension(m) = 2 AND ST_Area(m) < 9 * PIXEL ^ 2 THEN NULL
        WHEN ST_Dimension(m) = 1 AND ST_Length(m) < 20.5 * PIXEL THEN NULL
        ELSE ST_SnapToGrid(ST_SimplifyPreserveTopology(m, 1.5 * PIXEL), 24 * PIXEL) END"
        .to_owned()
}

#[test]
fn every_tile_is_what_the_plain_query_of_the_simplified_rows_returns() {
    let world = world(&layers("simplify = { tolerance = 0.5 }\n"));
    let target = world.seed("tolerance.mbtiles", &[]);
    is_plain(&world, &target, |_zoom| {
        "CASE WHEN ST_Dimension(m) = 0 THEN m ELSE ST_SimplifyPreserveTopology(m, 0.5 * PIXEL) END".to_owned()
    });
    world.configure(&layers(EVERYTHING));
    let target = world.seed("everything.mbtiles", &[]);
    is_plain(&world, &target, by_everything);
    world.tracked.oar_tiles(&["verify", "--database", "--config", &world.config, target.to_str().unwrap()]).ok();
}

#[test]
fn simplified_tiles_are_smaller_and_points_stay_where_they_are() {
    let bytes = |world: &World, name: &str, layers: &str| {
        world.configure(layers);
        let stored = Archive::open(&world.seed(name, &[])).stored();
        (stored.values().map(Vec::len).sum::<usize>(), stored)
    };
    let world = world(&layers(""));
    let ((whole, _), (simplified, _)) =
        (bytes(&world, "s.mbtiles", &layers("")), bytes(&world, "s.mbtiles", &layers(EVERYTHING)));
    assert!(simplified * 10 < whole * 8, "{simplified} of {whole}");
    let points =
        |simplify: &str| format!("[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = [\"name\"]\n{simplify}");
    let ((_, plain), (_, simplified)) =
        (bytes(&world, "p.mbtiles", &points("")), bytes(&world, "p.mbtiles", &points(EVERYTHING)));
    assert!(plain == simplified);
}

#[test]
fn a_reseed_after_changes_of_simplified_shapes_gives_the_tiles_of_a_seed() {
    let world = world(&layers(EVERYTHING));
    let target = world.seed("t.mbtiles", &[]);
    for table in ["shape", "degrees"] {
        for change in [
            "UPDATE TABLE SET g = ST_Translate(g, 0.02, 0.01) WHERE id % 9 = 1",
            "UPDATE TABLE SET g = ST_Translate(g, 0.3, 0.3) WHERE id % 31 = 2",
            // Below the least area at more zooms, and above it at more.
            "UPDATE TABLE SET g = ST_Scale(g, ST_MakePoint(0.7, 0.7), ST_Centroid(g)) WHERE id % 10 = 3",
            "UPDATE TABLE SET g = ST_Scale(g, ST_MakePoint(3, 3), ST_Centroid(g)) WHERE id % 10 = 4",
            "UPDATE TABLE SET name = name || '!' WHERE id % 20 = 5",
            "DELETE FROM TABLE WHERE id % 10 = 6",
        ] {
            world.tracked.db.run(&change.replace("TABLE", table));
            world.reseeds(&target);
        }
    }
}

#[test]
fn another_way_to_simplify_is_another_tileset() {
    let world = world(&layers(EVERYTHING));
    let target = world.seed("t.mbtiles", &[]);
    world.is_up_to_date(&target);
    for other in ["", "simplify = { tolerance = 1.5, snap = 24, min_area = 9, min_length = 20.5, zoom = \"0-6\" }\n"] {
        world.configure(&layers(other));
        let done = world.tracked.reseed(&target, &["--config", &world.config]);
        done.fails(4, &["it was seeded with another configuration"]);
    }
    for part in ["tolerance = 1.5", "snap = 24", "min_area = 9", "min_length = 20.5"] {
        world.configure(&layers(&EVERYTHING.replace(part, &format!("{part}1"))));
        let done = world.tracked.reseed(&target, &["--config", &world.config]);
        done.fails(4, &["it was seeded with another configuration"]);
    }
}

#[test]
fn what_cannot_be_simplified_is_refused_with_what_to_write() {
    let old = OldTarget::new();
    for (rest, text) in [
        ("simplify = {}", "layer[a].simplify (from "),
        ("simplify = {}", "says nothing to do: write tolerance = 0.5, snap, min_area or min_length\n"),
        (
            "simplify = { tolerance = 0 }",
            ": 0 pixels are out of range: write more than 0 and at most 256, such as 0.5\n",
        ),
        ("simplify = { snap = nan }", "layer[a].simplify.snap (from "),
        (
            "simplify = { min_area = 1e6 }",
            "1000000 square pixels are out of range: write more than 0 and at most 65536",
        ),
        ("simplify = { tolerence = 1 }", "unknown key \"tolerence\". Did you mean \"tolerance\"?"),
        (
            "tile_bounds = \"degrees\"\nsimplify = { tolerance = 1 }",
            "stands beside tile_bounds = \"degrees\", and only whole tiles in metres are simplified: leave one out\n",
        ),
        ("candidates = 0.2\nsimplify = { tolerance = 1 }", "stands beside candidates, and only "),
        (
            "simplify = { tolerance = 1, zoom = \"20-22\" }\nzoom = \"0-9\"",
            "does nothing: the layer draws no single rows at these zooms. Give it other zooms, or leave it out\n",
        ),
        (
            "simplify = { tolerance = 1 }\n[layer.aggregate]\ncell = \"square\"\nsize = 1\nproperties = { n = \"count(*)\" }",
            "does nothing: the layer draws no single rows at these zooms",
        ),
    ] {
        let config = format!("[[layer]]\nname = \"a\"\ntable = \"t\"\n{rest}");
        old.refuses_config(crate::support::refusal::NOWHERE, &config, &["--zoom", "0-9"], 2, &[text]);
    }
}
