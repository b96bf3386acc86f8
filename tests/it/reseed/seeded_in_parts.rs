//! A target that was seeded in parts, by several runs: each part keeps the snapshot of its own run, and `--or-seed`
//! mends them all.

use std::path::Path;

use serde_json::Value;

use crate::support::places::Places;
use crate::support::world::Followed;
use crate::support::{Cluster, Db};

/// The targets that one run after the other may write into.
const TARGETS: [&str; 2] = ["tiles/", "s3:tiles/"];

impl Followed {
    fn change(&self) {
        self.db.run("UPDATE api_facility SET name = name || '!', location = ST_Translate(location, 0.2, 0.1) WHERE hashtext(id) & 7 = 0");
    }

    fn stored_manifest(&self, name: &str) -> Value {
        let text = match name.strip_prefix("s3:") {
            Some(prefix) => self.places.prefix.objects().remove(&format!("{prefix}metadata.json")).unwrap(),
            None => std::fs::read(Path::new(&self.places.place(name)).join("metadata.json")).unwrap(),
        };
        let metadata: Value = serde_json::from_slice(&text).unwrap();
        serde_json::from_str(metadata["oar_tiles_manifest"].as_str().unwrap()).unwrap()
    }

    /// Asserts that nothing is left to do, and that every tile is what the database would draw.
    #[track_caller]
    fn is_whole(&self, name: &str) {
        let nothing = self.writes("reseed", name, &[]).ok();
        assert!(nothing.stdout.starts_with("nothing to do"), "{name}: {}{}", nothing.stdout, nothing.stderr);
        let place = self.places.place(name);
        let found = self.run("verify", &["--all", "--database", &place]);
        assert_eq!(found.code, 0, "{name}: {}{}", found.stdout, found.stderr);
    }
}

#[test]
fn or_seed_seeds_every_part_and_the_next_reseed_has_nothing_to_do() {
    // Transaction ids are the cluster's: one that another test's database holds open would be older than what is pruned
    // here.
    let cluster = Cluster::new();
    let world = Followed::new(Db::with_facilities_on(&cluster.url, 200), Places::new());
    for name in TARGETS {
        world.writes("seed", name, &["--zoom", "0-3"]).ok();
        world.writes("seed", name, &["--zoom", "4-6"]).ok();
        world.writes("seed", name, &["--zoom", "7-8", "--bbox", "0,-60,180,60"]).ok();
        world.change();
        // Now the log no longer says what the target has not seen.
        world.run("track", &["prune", "--older-than", "0s"]).ok();
        world.writes("reseed", name, &[]).fails(4, &["the change log no longer holds what the target has not seen"]);
        world.writes("reseed", name, &["--or-seed"]).ok();
        world.is_whole(name);
    }
}

#[test]
fn changes_are_looked_for_since_the_oldest_of_the_parts() {
    let world = Followed::new(Db::with_facilities(200), Places::new());
    for name in TARGETS {
        world.writes("seed", name, &["--zoom", "0-3"]).ok();
        let oldest = world.stored_manifest(name)["snapshot"].clone();
        world.change();
        world.writes("seed", name, &["--zoom", "4-6"]).ok();
        let manifest = world.stored_manifest(name);
        assert_eq!(manifest["snapshot"], oldest, "{name}");
        assert_ne!(manifest["seed_snapshot"], oldest, "{name}");
        world.change();
        // The older part is seeded again: what is left is as old as the second run.
        world.writes("seed", name, &["--zoom", "0-3"]).ok();
        assert_eq!(world.stored_manifest(name)["snapshot"], manifest["seed_snapshot"], "{name}");
        world.writes("reseed", name, &[]).ok();
        let reseeded = world.stored_manifest(name);
        assert_eq!(reseeded["seed_snapshot"], Value::Null, "{name}");
        assert_eq!(reseeded["kept"][0]["snapshot"], Value::Null, "{name}");
        world.is_whole(name);
        // Parts that show one snapshot again are as old as each other.
        world.change();
        world.writes("reseed", name, &[]).ok();
        world.is_whole(name);
    }
}
