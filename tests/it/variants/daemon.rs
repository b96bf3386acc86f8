//! Families that a process keeps up to date: `reseed --watch`, alone and beside a server, and `serve --writer`.

use std::process::Command;

use serde_json::Value;

use super::{CONDITION, World};
use crate::support::program::{program, run, signal};
use crate::support::served::{GZIP, Served, status};
use crate::support::tracked::Tiles;
use crate::support::until;
use crate::support::watch_process::Watching;

/// Short waits, and a lease that ends soon.
const QUICK: &str = "[changes]\ndebounce = \"20ms\"\n[serve]\nwriter_lease = \"1s\"\n";

impl World {
    /// A family in archives that is tracked and seeded.
    fn followed(&self) -> String {
        let config = self.family("FOLDER/by/{slug}.pmtiles", "FOLDER/all.pmtiles", QUICK);
        self.oar_tiles(&config, &["track", "install"]).ok();
        self.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
        config
    }

    fn command(&self, config: &str, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).args(["--config", config, "--database-url", &self.db.url]);
        command
    }

    fn served(&self, config: &str, arguments: &[&str]) -> Served {
        let listen = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"];
        Served::of(&mut self.command(config, &[&listen, arguments].concat()))
    }

    /// The tiles of a contributor, by a run of their own.
    fn tiles_of(&self, number: i32) -> Tiles {
        self.single_run(&CONDITION.replace("!number!", &number.to_string()))
    }
}

/// Waits until a server answers with exactly these tiles of a variant, or of all with an empty name.
fn serves(served: &Served, variant: &str, tiles: &Tiles) {
    assert!(tiles.len() > 5);
    let variant = if variant.is_empty() { String::new() } else { format!("{variant}/") };
    for ((zoom, x, y), bytes) in tiles {
        let path = format!("/facilities/{variant}{zoom}/{x}/{y}.pbf");
        until(&format!("{path} is fresh"), || {
            let answer = served.get(&path, GZIP);
            status(&answer) == 200 && answer.body == *bytes
        });
    }
}

fn writer(served: &Served) -> Value {
    let state: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
    state["families"][0]["writer"].clone()
}

#[test]
fn a_watch_keeps_all_variants_fresh_and_a_server_beside_it_serves_them() {
    let world = World::with_contributors(120, 4);
    let config = world.followed();
    let served = world.served(&config, &[]);
    serves(&served, "c2", &world.tiles_of(2));
    assert_eq!(writer(&served), Value::Null);
    let watch = ["reseed", "--watch", "--progress", "none", "--poll", "200ms", "-vv"];
    let watching = Watching::of(&mut world.command(&config, &watch));
    watching.says("by/{slug}.pmtiles, from snapshot ");
    // The first look is at each target; one that finds no change is at none.
    watching.says("4 of 4 variants are untouched");
    for _ in 0..3 {
        let line = loop {
            let line = watching.lines.recv().unwrap();
            if line.contains("places have changed") || line.contains("variants are untouched") {
                break line;
            }
        };
        assert!(line.contains("0 places have changed"), "{line}");
    }
    world.db.run("UPDATE api_facility SET name = name || ' and sons' WHERE id IN (SELECT facility FROM membership WHERE contributor = 2)");
    let line = watching.says("published ");
    assert!(line.contains("by/{slug}.pmtiles: ") && line.contains(" targets, "), "{line}");
    serves(&served, "c2", &world.tiles_of(2));
    // A value that comes, and one that goes.
    world.db.run("INSERT INTO contributor VALUES (9, 'new'); INSERT INTO membership SELECT 9, id FROM api_facility LIMIT 30; DELETE FROM contributor WHERE number = 3");
    watching.says("by/c3.pmtiles: still there, and kept up to date no more, for its values are gone");
    serves(&served, "new", &world.tiles_of(9));
    until("the vanished one is not served", || status(&served.get("/facilities/c3/0/0/0.pbf", "")) == 404);
    world.db.run("UPDATE api_facility SET location = ST_Translate(location, 1, 1) WHERE id IN (SELECT facility FROM membership WHERE contributor = 9)");
    serves(&served, "new", &world.tiles_of(9));
    serves(&served, "", &world.single_run("true"));
    assert_eq!(watching.end(), 0);
    world.variants_are_single_runs(".pmtiles");
    let nothing = world.oar_tiles(&config, &["reseed", "--progress", "none"]).ok();
    assert!(nothing.stdout.contains("4 variants: 0 tiles written"), "{}", nothing.stdout);
}

#[test]
fn a_watch_goes_on_beside_a_variant_that_fails_and_ends_where_all_need_a_seed() {
    let world = World::with_contributors(120, 4);
    let config = world.followed();
    std::fs::rename(world.path("by/c2.pmtiles"), world.path("aside")).unwrap();
    let watch = ["reseed", "--watch", "--progress", "none", "--poll", "200ms"];
    let watching = Watching::of(&mut world.command(&config, &watch));
    watching.says("c2.pmtiles needs a full seed: there is none yet");
    // The others go on, and the one that is back is brought up to date without a change.
    world.db.run("UPDATE api_facility SET name = name || '!'");
    watching.says("published ");
    std::fs::rename(world.path("aside"), world.path("by/c2.pmtiles")).unwrap();
    until("c2 is fresh", || world.held("by/c2.pmtiles") == world.tiles_of(2));
    assert_eq!(watching.end(), 0);
    world.variants_are_single_runs(".pmtiles");
    world.db.run("DROP SCHEMA oar_tiles CASCADE");
    let ended = world.oar_tiles(&config, &watch);
    ended.fails(4, &["by/{slug}.pmtiles cannot be brought up to date"]);
}

#[test]
fn of_two_servers_one_writes_all_variants_and_the_other_takes_over() {
    let world = World::with_contributors(120, 4);
    let config = world.followed();
    let first = world.served(&config, &["--writer"]);
    until("the first one writes", || writer(&first)["role"] == "writing");
    let second = world.served(&config, &["--writer=auto"]);
    until("the second one stands by", || writer(&second)["role"] == "standby");
    let both = |variant: &str, tiles: &Tiles| [&first, &second].map(|served| serves(served, variant, tiles));
    both("c2", &world.tiles_of(2));
    world.db.run("UPDATE api_facility SET name = name || ' and sons'");
    both("c2", &world.tiles_of(2));
    both("", &world.single_run("true"));
    let state = writer(&second);
    assert_eq!((&state["role"], &state["published"]), (&"standby".into(), &0.into()), "the other one lives: {state}");
    until("it says that it has published", || writer(&first)["published"].as_u64() > Some(0));
    world.db.run(
        "INSERT INTO contributor VALUES (9, 'new'); INSERT INTO membership SELECT 9, id FROM api_facility LIMIT 30",
    );
    both("new", &world.tiles_of(9));
    // The one that writes is gone without a word.
    signal(&first.child, "KILL");
    until("the second one writes", || writer(&second)["role"] == "writing");
    world.db.run("UPDATE api_facility SET location = ST_Translate(location, 1, 1)");
    serves(&second, "c4", &world.tiles_of(4));
    assert_eq!(second.ends_after("-TERM"), Some(143));
    world.oar_tiles(&config, &["reseed", "--progress", "none"]).ok();
    world.variants_are_single_runs(".pmtiles");
    let target = world.path("by/c2.pmtiles");
    let one = ["serve", target.to_str().unwrap(), "--writer", "--listen", "127.0.0.1:0"];
    run(&mut world.command(&config, &one))
        .fails(2, &["serve TARGET --writer is not for a tileset with variants (facilities): leave TARGET out"]);
}
