//! Changes: those that are noted are followed, a function that was replaced asks for a seed, and live tiles are what
//! the function gives.

use super::{World, text};
use crate::support::Archive;
use crate::support::program::{program, run};
use crate::support::served::{GZIP, Served, status};
use crate::support::tracked::differences;

const LAYER: &str = "function = \"places\"\noccupied = \"SELECT g FROM place\"
    [[layer.track]]\ntable = \"place\"\ngeometry = \"SELECT changed.g\"";

impl World {
    fn verb(&self, verb: &[&str], config: &str) -> crate::support::program::Run {
        run(program().args(verb).args(["--config", config, "--database-url", &self.db.url]))
    }
}

#[test]
fn a_reseed_after_any_change_shows_what_the_function_gives_now() {
    let world = World::new();
    let config = world.config(LAYER);
    world.verb(&["track", "install"], &config).ok();
    let (target, done) = world.seed(LAYER);
    done.ok();
    let reseed = ["reseed", "--progress", "none", "--output", text(&target)];
    for change in [
        "UPDATE place SET g = ST_Translate(g, 1, 1) WHERE id % 40 = 3",
        "UPDATE place SET kind = 'port' WHERE id = 7",
        "DELETE FROM place WHERE id % 50 = 4",
        "INSERT INTO place VALUES (1000, 'mill', ST_SetSRID(ST_MakePoint(179.99, 10), 4326))",
    ] {
        world.db.run(change);
        let done = world.verb(&reseed, &config).ok();
        assert!(done.stdout.contains("dirty tiles"), "{}", done.stdout);
        let (found, given) = (Archive::open(&target).tiles(), world.given("places(z, x, y)"));
        assert_eq!(differences(&found, &given).first(), None, "{change}");
    }
    world.verb(&reseed, &config).ok();
    // The text of the function decides bytes, as the configuration does.
    world.db.run(
        "CREATE OR REPLACE FUNCTION places(z int, x int, y int) RETURNS bytea LANGUAGE sql STABLE AS $$
            SELECT ST_AsMVT(t, 'places') FROM (SELECT id, ST_AsMVTGeom(ST_Transform(g, 3857), ST_TileEnvelope(z, x, y)) AS geom FROM place) AS t WHERE geom IS NOT NULL $$",
    );
    world.verb(&reseed, &config).fails(4, &["needs a full seed", "Run oar-tiles seed"]);
}

#[test]
fn a_function_whose_tables_nobody_named_is_not_followed_in_silence() {
    let world = World::new();
    let layer = "function = \"places\"";
    let config = world.config(layer);
    let install = world.verb(&["track", "install"], &config);
    install.fails(
        2,
        &[
            "layer \"f\"",
            "PostgreSQL does not record what a function reads",
            "Declare each table that it reads in [[layer.track]]",
        ],
    );
}

#[test]
fn live_tiles_are_what_the_function_gives() {
    let world = World::new();
    let config = world.config("function = \"places\"");
    let target = world.folder.beside("t.mbtiles");
    let seed = ["seed", "--progress", "none", "--zoom", "0-1", "--output", text(&target)];
    world.verb(&seed, &config).ok();
    let served = Served::new(text(&target), &["--config", &config, "--live", "--database-url", &world.db.url]);
    for ((zoom, x, y), bytes) in world.given("places(z, x, y)").into_iter().filter(|((zoom, ..), _)| *zoom == 3) {
        let answer = served.get(&format!("/{zoom}/{x}/{y}.pbf"), GZIP);
        assert_eq!(status(&answer), 200, "{}", answer.head);
        assert!(crate::support::unpacked(&answer.body) == bytes, "{zoom}/{x}/{y}");
    }
}
