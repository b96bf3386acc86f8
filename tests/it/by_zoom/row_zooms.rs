//! `min_zoom` and `max_zoom`: each tile shows the rows whose own zooms hold its zoom, and a change of these zooms is
//! seen.

use serde_json::Value;

use super::{DEEPEST, World, gathered, plain};
use crate::rendering::reference::compare;
use crate::support::OldTarget;

const ZOOMS: &str = "min_zoom = \"from_zoom\"\nmax_zoom = \"to_zoom\"\n";

/// The same condition for one zoom.
fn condition(zoom: u8) -> String {
    format!("(from_zoom IS NULL OR from_zoom <= {zoom}) AND (to_zoom IS NULL OR to_zoom >= {zoom})")
}

fn layers(zooms: &str) -> String {
    format!(
        "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = [\"name\"]\nfeature_id = \"id\"\n{zooms}
         [[layer]]\nname = \"shapes\"\ntable = \"shape\"\nproperties = [\"name\"]\nwhere = \"workers < 900\"\n{zooms}"
    )
}

#[test]
fn every_tile_is_what_the_plain_query_of_the_rows_of_its_zoom_returns() {
    // With the id of features, which the plain query here does not write, left out.
    let world = World::new(&layers(ZOOMS).replace("feature_id = \"id\"\n", ""));
    let target = world.seed("t.mbtiles", &[]);
    let rows: Vec<(u8, &str, String)> = (0..=DEEPEST)
        .flat_map(|zoom| {
            let of = |columns: &str, rest: &str| {
                format!("SELECT {columns}, id AS key, name FROM {rest} {}", condition(zoom))
            };
            [
                (zoom, "mills", of("ST_Transform(g, 3857) AS m", "mill WHERE")),
                (zoom, "shapes", of("g AS m", "shape WHERE workers < 900 AND")),
            ]
        })
        .collect();
    let plain: Vec<_> = rows.iter().map(|(zoom, name, rows)| plain(name, rows, *zoom)).collect();
    let tiles = compare(&world.tracked.db, &target, &plain, 0..=DEEPEST);
    assert!(tiles > 200, "{tiles}");
    world.tracked.oar_tiles(&["verify", "--database", "--config", &world.config, target.to_str().unwrap()]).ok();
}

#[test]
fn cells_clusters_thinned_tiles_and_queries_are_those_of_a_layer_with_the_rows_of_the_zoom_alone() {
    let layers = |zooms: &str| {
        let query = "name = \"query\"\nsql = \"SELECT * FROM mill WHERE g && !bbox!\"\nkey = [\"id\"]";
        format!("{}[[layer]]\n{query}\n{zooms}\n", gathered(zooms))
    };
    World::new(&layers(ZOOMS)).shows_each_zoom_alone(layers, condition);
}

#[test]
fn a_reseed_after_changes_of_the_zooms_of_rows_gives_the_tiles_of_a_seed() {
    let world = World::new(&layers(ZOOMS));
    let target = world.seed("t.mbtiles", &[]);
    for table in ["mill", "shape"] {
        let changes = [
            "from_zoom = 8 - from_zoom WHERE id % 10 = 3",
            "to_zoom = 9 - to_zoom WHERE id % 10 = 4",
            "from_zoom = NULL, to_zoom = NULL WHERE id % 20 = 5",
            "from_zoom = 6 WHERE id = 7",
            "from_zoom = 4 WHERE id = 7",
            "to_zoom = 'NaN' WHERE id = 7",
            "from_zoom = 9, name = name || '!' WHERE id = 7",
            "g = ST_Translate(g, 1, 1) WHERE id % 30 = 1",
        ];
        world.follows(&target, table, &changes);
    }
}

#[test]
fn a_patched_tile_shows_the_rows_of_its_zoom() {
    let world = World::new(&layers(ZOOMS));
    let target = world.seed("t.mbtiles", &[]);
    let report = world.tracked.path("report.json");
    let mut patched = 0;
    for (from, id) in [(0, 10), (5, 10), (9, 10), (3, 11), (7, 12)] {
        world.tracked.db.run(&format!("UPDATE mill SET from_zoom = {from}, to_zoom = NULL WHERE id = {id}"));
        let arguments = ["--config", &world.config, "--report", report.to_str().unwrap()];
        world.tracked.reseed(&target, &arguments).ok();
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&report).unwrap()).unwrap();
        patched += report["patched"].as_u64().unwrap();
        world.tracked.is_fresh(&target, &["--config", &world.config]);
    }
    assert!(patched > 5, "{patched}");
}

#[test]
fn another_expression_is_another_tileset() {
    let world = World::new(&layers(ZOOMS));
    let target = world.seed("t.mbtiles", &[]);
    world.is_up_to_date(&target);
    for other in ["", "min_zoom = \"from_zoom\"\n", "min_zoom = \"from_zoom\"\nmax_zoom = \"to_zoom + 1\"\n"] {
        world.configure(&layers(other));
        world.tracked.oar_tiles(&["track", "install", "--config", &world.config]).ok();
        let done = world.tracked.reseed(&target, &["--config", &world.config]);
        done.fails(4, &["it was seeded with another configuration"]);
    }
}

#[test]
fn an_expression_that_is_no_number_of_a_row_is_refused() {
    let world = World::new(&layers(""));
    let old = OldTarget::new();
    for (key, sql, what) in [
        ("min_zoom", "from_zom", "the database does not understand min_zoom as a number"),
        ("max_zoom", "name", "the database does not understand max_zoom as a number"),
        ("min_zoom", "max(from_zoom)", "min_zoom looks at other rows or gives several values"),
        ("max_zoom", "row_number() OVER ()", "max_zoom looks at other rows or gives several values"),
    ] {
        let config = format!("[[layer]]\nname = \"mills\"\ntable = \"mill\"\n{key} = \"{sql}\"");
        let next = "It is SQL over the columns of \"public\".\"mill\", a zoom for each row: \"id\", \"name\", ";
        old.refuses_config(&world.tracked.db.url, &config, &["--zoom", "0-4"], 2, &[what, next]);
    }
}
