//! Maps that others draw: Natural Earth's countries and land, the counties of the United States. Russia and Fiji lie on
//! both sides of ±180°, Antarctica crosses itself. Every tile is what the plain one-tile query returns.

use std::ops::RangeInclusive;

use super::reference::{Plain, compare};
use crate::support::{Db, atlas, seed};

/// A layer of a map.
struct Map {
    name: &'static str,
    file: &'static str,
    layer: &'static str,
    zooms: RangeInclusive<u8>,
    /// The fewest of its shapes that are not valid: the version of GDAL decides about some.
    invalid: i64,
    /// The fewest tiles that have to be drawn.
    tiles: usize,
}

/// Seeds a map, compares every tile, and gives the database.
fn as_the_plain_query_draws_it(map: &Map) -> Db {
    let Map { name, file, layer, zooms, invalid, tiles } = map;
    let db = Db::new();
    atlas::load(&db, name, file, layer);
    assert!(db.value::<i64>(&format!("SELECT count(*) FROM {name} WHERE NOT ST_IsValid(g)")) >= *invalid);
    let folder = tempfile::tempdir().unwrap();
    let (config, output) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    let (low, high) = (zooms.start(), zooms.end());
    std::fs::write(
        &config,
        format!("[[layer]]\nname = \"{name}\"\ntable = \"{name}\"\nproperties = [\"id\", \"name\"]\n[tileset]\nzoom = \"{low}-{high}\"\n"),
    )
    .unwrap();
    seed(&db.url, &output, &["--config", config.to_str().unwrap()]).ok();
    let rows = format!("SELECT ST_Transform(g, 3857) AS m, id AS key, id, name FROM {name}");
    let plain = Plain { name, rows: &rows, properties: "id, name", extent: 4096, buffer: 64, zooms: zooms.clone() };
    let found = compare(&db, &output, &[plain], zooms.clone());
    assert!(found >= *tiles, "{found}");
    db
}

#[test]
fn countries_are_what_the_plain_query_returns() {
    let db = as_the_plain_query_draws_it(&Map {
        name: "countries",
        file: "world-atlas/countries-50m.json",
        layer: "countries",
        zooms: 0..=4,
        invalid: 3,
        tiles: 240,
    });
    let invalid = "SELECT string_agg(name, ', ' ORDER BY name) FROM countries WHERE NOT ST_IsValid(g)";
    assert_eq!(db.value::<String>(invalid), "Antarctica, Fiji, Russia");
}

#[test]
fn coarse_countries_are_what_the_plain_query_returns_at_deeper_zooms() {
    as_the_plain_query_draws_it(&Map {
        name: "countries",
        file: "world-atlas/countries-110m.json",
        layer: "countries",
        zooms: 3..=7,
        invalid: 1,
        tiles: 5_000,
    });
}

#[test]
fn land_is_what_the_plain_query_returns() {
    as_the_plain_query_draws_it(&Map {
        name: "land",
        file: "world-atlas/land-50m.json",
        layer: "land",
        zooms: 0..=3,
        invalid: 1,
        tiles: 70,
    });
}

#[test]
fn counties_are_what_the_plain_query_returns() {
    as_the_plain_query_draws_it(&Map {
        name: "counties",
        file: "us-atlas/counties-10m.json",
        layer: "counties",
        zooms: 2..=7,
        invalid: 1,
        tiles: 500,
    });
}
