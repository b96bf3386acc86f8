//! Every tile is what the function gives for it.

use serde_json::{Value, json};

use super::{World, text};
use crate::support::Archive;
use crate::support::program::{program, run, seed};
use crate::support::tracked::differences;

#[test]
fn every_tile_is_what_the_function_gives_however_it_is_declared() {
    let world = World::new();
    let warning = "is called for every tile of its zooms and boxes, 341 times";
    for (layer, call) in [
        ("function = \"places\"", "places(z, x, y)"),
        ("function = \"places\"\noccupied = \"SELECT g FROM place\"", "places(z, x, y)"),
        (
            "function = \"public.places(integer, integer, integer)\"\noccupied = \"SELECT ST_Transform(g, 3395) AS g FROM place WHERE abs(ST_Y(g)) < 60\"",
            "CASE WHEN EXISTS (SELECT FROM place WHERE abs(ST_Y(g)) < 60 AND ST_Transform(g, 3857) && ST_TileEnvelope(z, x, y, margin => 64 / 4096.0)) THEN places(z, x, y) END",
        ),
        ("function = \"places_of\"", "SELECT mvt FROM places_of(z, x, y, '{}')"),
        (
            "function = \"places_of\"\nquery = { kind = \"mill\", list = [1, 2.5, true] }",
            "SELECT mvt FROM places_of(z, x, y, '{\"kind\": \"mill\"}')",
        ),
        ("function = \"two\"", "places(z, x, y)"),
        (
            "function = \"two\"\nquery = { kind = \"it's\" }",
            "SELECT mvt FROM places_of(z, x, y, '{\"kind\": \"it''s\"}')",
        ),
        ("function = '\"Odd Ones\".\"Tile.Of $it\"'", "places(z, x, y)"),
        ("function = \"tabled\"", "places(z, x, y)"),
        ("function = \"keyed\"", "places(z, x, y)"),
        (
            "function = \"by_text\"\nquery = { kind = \"mill\" }",
            "SELECT mvt FROM places_of(z, x, y, '{\"kind\": \"mill\"}')",
        ),
        ("function = \"unnamed\"", "places(z, x, y)"),
        // Without a query it is called with an empty one, as for a request without parameters.
        ("function = \"otherwise\"", "SELECT mvt FROM places_of(z, x, y, '{}')"),
        ("function = '\"mixedCase\"'", "places(z, x, y)"),
        ("function = \"nothing\"", "CASE WHEN (x + y) % 3 = 0 THEN places(z, x, y) END"),
        ("function = \"no_row\"", "CASE WHEN (x + y) % 3 = 0 THEN places(z, x, y) END"),
        ("function = \"other.places\"", "CASE WHEN z < 3 THEN places(z, x, y) END"),
    ] {
        let (target, done) = world.seed(layer);
        let done = done.ok();
        assert_eq!(done.stderr.contains(warning), !layer.contains("occupied"), "{layer}: {}", done.stderr);
        let (found, given) = (Archive::open(&target).tiles(), world.given(call));
        let is_small = ["it's", "other", "no"].iter().any(|part| layer.contains(part));
        assert!(given.len() > 100 || is_small, "{layer}: {}", given.len());
        assert_eq!(differences(&found, &given).first(), None, "{layer}");
    }
}

#[test]
fn few_calls_are_cut_into_batches_for_all_workers() {
    let world = World::new();
    let (target, report) = (world.folder.beside("t.mbtiles"), world.folder.beside("plan.json"));
    let config = world.config("function = \"places\"");
    let flags =
        ["--config", &config, "--zoom", "4", "--workers", "2", "--dry-run", "--report", report.to_str().unwrap()];
    seed(&world.db.url, &target, &flags).ok();
    let plan: Value = serde_json::from_str(&std::fs::read_to_string(&report).unwrap()).unwrap();
    // All 256 calls would fit into one statement.
    let batches = plan["zooms"][0]["batches"].as_u64().unwrap();
    assert!((32..=64).contains(&batches), "{plan}");
}

#[test]
fn a_dry_run_says_that_most_planned_tiles_will_be_empty() {
    let world = World::new();
    let planned = |layer: &str| {
        let target = world.folder.beside("t.mbtiles");
        let config = world.config(layer);
        seed(&world.db.url, &target, &["--config", &config, "--zoom", "5-6", "--dry-run"]).ok().stderr
    };
    let says = "of 5120 planned tiles will be empty: they take time and nothing is stored of them";
    let everywhere = planned("function = \"places\"");
    assert!(everywhere.contains(says), "{everywhere}");
    let occupied = planned("function = \"places\"\noccupied = \"SELECT g FROM place\"");
    assert!(!occupied.contains("will be empty"), "{occupied}");
}

#[test]
fn a_function_stands_beside_layers_of_rows_in_every_target_and_its_comment_describes_it() {
    let world = World::new();
    let layers =
        "function = \"places\"\nzoom = \"1-3\"\n[[layer]]\nname = \"points\"\ntable = \"place\"\nproperties = [\"id\"]";
    let config = world.config(layers);
    let rows = "CASE WHEN z BETWEEN 1 AND 3 THEN places(z, x, y) END";
    let points = "SELECT ST_AsMVT(t, 'points') FROM (SELECT ST_AsMVTGeom(ST_Transform(g, 3857), ST_TileEnvelope(z, x, y), 4096, 64) AS geom, id
        FROM place WHERE ST_Transform(g, 3857) && ST_TileEnvelope(z, x, y, margin => 64 / 4096.0) ORDER BY id) AS t WHERE geom IS NOT NULL";
    let given = world.given(&format!("COALESCE({rows}, '') || COALESCE(({points}), '')"));
    for name in ["t.mbtiles", "t.pmtiles", "tiles/"] {
        let target = format!("{}{}", world.folder.beside("").display(), name);
        let seed =
            ["seed", "--progress", "none", "--config", &config, "--database-url", &world.db.url, "--output", &target];
        run(program().args(seed)).ok();
        let copy = world.folder.beside("copy.mbtiles");
        if name == "t.mbtiles" {
            std::fs::copy(&target, &copy).unwrap();
        } else {
            run(program().args(["copy", "--force", &target, text(&copy)])).ok();
        }
        assert_eq!(differences(&Archive::open(&copy).tiles(), &given).first(), None, "{name}");
        let verify = ["verify", "--database", "--config", &config, "--database-url", &world.db.url, &target];
        run(program().args(verify)).ok();
    }
    let archive = Archive::open(&world.folder.beside("t.mbtiles"));
    assert_eq!(archive.metadata("description").as_deref(), Some("Places of work"));
    assert_eq!(archive.metadata("attribution").as_deref(), Some("the town"));
    let told: Value = serde_json::from_str(&archive.metadata("json").unwrap()).unwrap();
    let fields = json!({ "id": "Number", "kind": "String" });
    let place = json!({ "id": "places", "description": "One a row", "minzoom": 1, "maxzoom": 3, "fields": fields });
    assert_eq!(told["vector_layers"][0], place);
    assert_eq!(told["vector_layers"][1]["id"], "points");
}

#[test]
fn packed_tiles_of_a_function_are_stored_as_what_is_in_them() {
    let world = World::new();
    // PostgreSQL cannot pack; so one tile that was packed before.
    let tile: Vec<u8> = world.given("places(z, x, y)")[&(0, 0, 0)].clone();
    let packed: String = oar_tiles::encode::Gzip::new(oar_tiles::encode::Level::new(6).unwrap())
        .pack(&tile)
        .unwrap()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    world.db.run(&format!(
        "CREATE FUNCTION packed(z int, x int, y int) RETURNS bytea LANGUAGE sql STABLE AS $$ SELECT '\\x{packed}'::bytea $$"
    ));
    let (target, done) = world.seed("function = \"packed\"\nzoom = \"0\"");
    done.ok();
    assert_eq!(Archive::open(&target).tiles()[&(0, 0, 0)], tile);
}
