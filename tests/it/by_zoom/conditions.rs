//! `where` by zoom: each tile shows the rows that the condition of its zoom chooses, and changes of the columns in it
//! are seen.

use super::{DEEPEST, World, gathered, plain};
use crate::rendering::reference::compare;

const WHERE: &str = "where = { \"0-3\" = \"workers > 900\", \"4-5,8\" = \"workers > 500 -- many\" }\n";

/// The condition of a zoom, as [`WHERE`] has it.
fn condition(zoom: u8) -> &'static str {
    match zoom {
        0..=3 => "workers > 900",
        4 | 5 | 8 => "workers > 500",
        _ => "true",
    }
}

fn layers(condition: &str) -> String {
    format!(
        "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = [\"name\"]\n{condition}
         [[layer]]\nname = \"shapes\"\ntable = \"shape\"\nproperties = [\"name\"]\n{condition}"
    )
}

#[test]
fn every_tile_is_what_the_plain_query_with_the_condition_of_its_zoom_returns() {
    let world = World::new(&layers(WHERE));
    let target = world.seed("t.mbtiles", &[]);
    let rows: Vec<(u8, &str, String)> = (0..=DEEPEST)
        .flat_map(|zoom| {
            let of = |m: &str, table: &str| {
                format!("SELECT {m} AS m, id AS key, name FROM {table} WHERE {}", condition(zoom))
            };
            [(zoom, "mills", of("ST_Transform(g, 3857)", "mill")), (zoom, "shapes", of("g", "shape"))]
        })
        .collect();
    let plain: Vec<_> = rows.iter().map(|(zoom, name, rows)| plain(name, rows, *zoom)).collect();
    let tiles = compare(&world.tracked.db, &target, &plain, 0..=DEEPEST);
    assert!(tiles > 200, "{tiles}");
}

#[test]
fn cells_clusters_and_thinned_tiles_are_those_of_a_layer_with_the_condition_alone() {
    World::new(&gathered(WHERE)).shows_each_zoom_alone(gathered, |zoom| condition(zoom).to_owned());
}

#[test]
fn a_reseed_after_changes_of_columns_in_a_condition_gives_the_tiles_of_a_seed() {
    let world = World::new(&layers(WHERE));
    let target = world.seed("t.mbtiles", &[]);
    for table in ["mill", "shape"] {
        let changes = [
            "workers = 1000 - workers WHERE id % 10 = 3",
            "workers = 901 WHERE id % 100 = 7",
            "workers = NULL WHERE id % 100 = 8",
            "workers = 700, name = name || '!' WHERE id = 7",
            "g = ST_Translate(g, 1, 1) WHERE workers BETWEEN 490 AND 510",
        ];
        world.follows(&target, table, &changes);
        world.tracked.db.run(&format!("DELETE FROM {table} WHERE workers > 950"));
        world.reseeds(&target);
    }
}

#[test]
fn another_condition_at_one_zoom_is_another_tileset_and_the_same_at_every_zoom_is_none() {
    let world = World::new(&layers("where = \"workers > 500\""));
    let target = world.seed("t.mbtiles", &[]);
    world.configure(&layers("where = { \"0-4\" = \"workers > 500\", \"5-22\" = \"workers > 500\" }"));
    world.is_up_to_date(&target);
    world.configure(&layers("where = { \"0-4\" = \"workers > 500\", \"5-22\" = \"workers > 501\" }"));
    world.tracked.oar_tiles(&["track", "install", "--config", &world.config]).ok();
    world.tracked.reseed(&target, &["--config", &world.config]).fails(4, &["it was seeded with another configuration"]);
}

#[test]
fn a_layer_is_empty_only_if_it_is_at_every_zoom() {
    let condition = |shallow: &str, deep: &str| format!("where = {{ \"0-4\" = \"{shallow}\", \"5-22\" = \"{deep}\" }}");
    let world = World::new(&layers(&condition("workers > 5000", "true")));
    world.tracked.db.run("INSERT INTO mill (id) VALUES (2000); INSERT INTO shape (id, workers) VALUES (2000, 6000)");
    let warnings = |config: &str| {
        world.configure(config);
        let path = world.tracked.path("t.mbtiles");
        crate::support::seed(&world.tracked.db.url, &path, &["--config", &world.config, "-q"]).ok().stderr
    };
    // Rows of which several parts of the layer say that they were skipped are named once.
    let skipped = |layer: &str| format!("warning: layer \"{layer}\": skipped 1 row whose geometry is NULL: 2000\n");
    assert_eq!(warnings(&layers(&condition("workers > 5000", "true"))), skipped("mills") + &skipped("shapes"));
    let empty = |layer: &str| {
        format!("warning: layer \"{layer}\" has no feature to draw: is its table filled, and its where right?\n")
    };
    let nothing = layers(&condition("workers > 7000", "workers > 8000"));
    assert_eq!(warnings(&nothing), empty("mills") + &empty("shapes"));
}
