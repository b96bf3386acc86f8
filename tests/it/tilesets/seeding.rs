//! A seed of several tilesets makes what a seed of each makes, on one snapshot.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{LAYERS, NAMES, TILESETS, World};
use crate::support::Archive;
use crate::support::program::{program, run};

/// What the manifest of a target says.
fn manifest(world: &World, target: &str) -> serde_json::Value {
    let path = world.path(target);
    let shown = run(program().args(["inspect", "--json", path.to_str().unwrap()])).ok();
    serde_json::from_str::<serde_json::Value>(&shown.stdout).unwrap()["manifest"].clone()
}

#[test]
fn each_tileset_is_what_a_run_of_its_own_makes() {
    let world = World::with_facilities();
    let done = world.oar_tiles(&world.several(), &["seed", "--progress", "none"]).ok();
    for name in ["tileset whole", "tileset low", "tileset part"] {
        assert!(done.stderr.contains(name), "{}", done.stderr);
    }
    for (keys, target) in TILESETS.iter().zip(NAMES) {
        let alone = format!("[tileset]\nzoom = \"0-5\"\n{}\n{LAYERS}", keys.replace("KIND.", ""));
        // One tileset has all layers, unless it names some; its target is a section of its own.
        let alone =
            alone.replace("zoom = \"0-5\"\nname = \"low\"", "name = \"low\"").replace("FOLDER/", "FOLDER/alone-");
        let config = world.file("alone.toml", &alone);
        world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
        let found = world.copied(target).stored();
        let alone = world.copied(&format!("alone-{target}")).stored();
        assert!(found.len() > 5, "{target}: {}", found.len());
        assert_eq!(found, alone, "{target}");
        let (found, alone) = (manifest(&world, target), manifest(&world, &format!("alone-{target}")));
        assert_eq!(found["fingerprint"], alone["fingerprint"], "{target}");
    }
    let stored = Archive::open(&world.path("whole.mbtiles")).stored().len();
    assert!(world.path("part/0-0-0.mvt").is_file(), "the tileset's own template");
    // One of them again.
    let again = world.oar_tiles(&world.several(), &["seed", "--tileset", "low", "--zoom", "0-1"]).ok();
    assert!(!again.stderr.contains("tileset"), "{}", again.stderr);
    assert_eq!(Archive::open(&world.path("whole.mbtiles")).stored().len(), stored);
    let quiet = world.oar_tiles(&world.several(), &["seed", "--quiet", "--zoom", "0-1"]).ok();
    assert_eq!(quiet.stdout, "");
    assert!(!quiet.stderr.contains("tileset"), "{}", quiet.stderr);
}

#[test]
fn all_tilesets_of_a_seed_show_one_snapshot() {
    let world = World::with_facilities();
    let (config, done) = (world.several(), AtomicBool::new(false));
    let change = "UPDATE api_facility SET location = ST_Translate(location, 0.001, 0) WHERE id = (SELECT min(id) FROM api_facility)";
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                world.db.run(change);
                rounds += 1;
            }
            rounds
        });
        let seeded = world.oar_tiles(&config, &["seed", "--progress", "none"]);
        done.store(true, Ordering::Relaxed);
        assert!(writer.join().unwrap() > 2, "the writer wrote while the tilesets were seeded");
        seeded.ok();
    });
    let snapshots = NAMES.map(|target| manifest(&world, target)["snapshot"].clone());
    assert!(snapshots[0].is_string(), "{snapshots:?}");
    assert_eq!(snapshots[0], snapshots[1]);
    assert_eq!(snapshots[0], snapshots[2]);
}

#[test]
fn files_of_a_run_are_written_for_each_tileset() {
    let world = World::with_facilities();
    let config = world.several();
    let report = world.path("run-{tileset}.json");
    let metrics = world.path("{tileset}.prom");
    let files = ["--report", report.to_str().unwrap(), "--metrics", metrics.to_str().unwrap()];
    world.oar_tiles(&config, &[&["seed", "--progress", "none"][..], &files].concat()).ok();
    for (name, target) in ["whole", "low", "part"].iter().zip(NAMES) {
        let report = std::fs::read_to_string(world.path(&format!("run-{name}.json"))).unwrap();
        assert!(report.contains(target), "{report}");
        let metrics = std::fs::read_to_string(world.path(&format!("{name}.prom"))).unwrap();
        assert!(metrics.contains(target), "{metrics}");
    }
}
