//! Random sets: after any history of changes, a reseed of a family leaves what a seed makes, and touches the variants
//! only whose tiles differ.

use std::collections::BTreeMap;

use super::{CONDITION, World};
use crate::support::Archive;
use crate::support::chance::Chance;
use crate::support::tracked::Tiles;

impl Chance {
    /// A change, as SQL.
    fn change(&mut self) -> String {
        let (n, many) = (self.below(1_000_000), 1 + self.below(3));
        let some = format!("id IN (SELECT id FROM api_facility ORDER BY md5(id || '{n}') LIMIT {many})");
        let slug = 1 + self.below(9);
        match self.below(11) {
            0 => format!("UPDATE api_facility SET location = ST_Translate(location, 0.4, 0.3) WHERE {some}"),
            1 => format!(
                "UPDATE api_facility SET location = ST_SetSRID(ST_MakePoint(-100 + {slug}, 40), 4326) WHERE {some}"
            ),
            2 => format!("UPDATE api_facility SET name = name || '{n}' WHERE {some}"),
            3 => format!("DELETE FROM api_facility WHERE {some}"),
            4 => format!("UPDATE api_facility SET location = NULL WHERE {some}"),
            // Two facilities at one place.
            5 => format!(
                "UPDATE api_facility SET location = (SELECT location FROM api_facility ORDER BY md5(id || 'o{n}') LIMIT 1) WHERE {some}"
            ),
            // Only the sets change.
            6 => format!("DELETE FROM membership WHERE md5(facility || contributor || '{n}') < '08'"),
            7 => format!("INSERT INTO membership SELECT {slug}, id FROM api_facility WHERE {some}"),
            8 => format!("UPDATE membership SET contributor = nullif({slug}, 9) WHERE md5(facility || '{n}') < '06'"),
            // Values come and go.
            9 => format!("INSERT INTO contributor VALUES ({slug}, 'c{slug}') ON CONFLICT DO NOTHING"),
            _ => format!("DELETE FROM contributor WHERE number = {slug} AND number > 2"),
        }
    }
}

/// The tiles of every target below a folder, by the slug.
fn held(world: &World, folder: &str, ending: &str) -> BTreeMap<String, Tiles> {
    let slugs = world.db.rows("SELECT slug FROM contributor ORDER BY slug");
    let slugs = slugs.iter().map(|row| row.get::<_, String>(0));
    slugs
        .map(|slug| {
            let tiles = if ending == ".mbtiles" {
                Archive::open(&world.path(&format!("{folder}/{slug}{ending}"))).stored()
            } else {
                world.held(&format!("{folder}/{slug}{ending}"))
            };
            (slug, tiles)
        })
        .collect()
}

fn history(ending: &str, first: u64) {
    let world = World::with_contributors(150, 7);
    world.db.run("ALTER TABLE api_facility ALTER location DROP NOT NULL");
    let mut chance = Chance(first);
    let config = world.contributors(ending);
    let text = std::fs::read_to_string(&config).unwrap();
    let fresh = text.replace("/by/", "/fresh/").replace(&format!("/all{ending}"), "/fresh-all.mbtiles");
    let fresh = fresh.replace(&format!("{{slug}}{ending}"), "{slug}.mbtiles");
    let fresh = world.file("fresh.toml", &fresh);
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    for step in 0..5 {
        let changes: Vec<String> = (0..=chance.below(3)).map(|_| chance.change()).collect();
        for change in &changes {
            world.db.run(change);
        }
        world.oar_tiles(&config, &["reseed", "--progress", "none", "--allow-shrink", "--prune-variants"]).ok();
        let seed = ["seed", "--progress", "none", "--force", "--allow-shrink", "--prune-variants"];
        world.oar_tiles(&fresh, &seed).ok();
        let what = format!("{ending}, chance {first}, step {step}, after {changes:#?}");
        let now = held(&world, "by", ending);
        for (slug, expected) in held(&world, "fresh", ".mbtiles") {
            assert!(now[&slug] == expected, "{slug}: {what}");
        }
        assert!(world.held(&format!("all{ending}")) == world.held("fresh-all.mbtiles"), "{what}");
        if let Some((slug, tiles)) = now.iter().nth(usize::try_from(chance.below(now.len() as u64)).unwrap()) {
            let number = slug.trim_start_matches('c');
            assert!(*tiles == world.single_run(&CONDITION.replace("!number!", number)), "{slug}: {what}");
        }
    }
}

#[test]
fn a_reseed_of_random_sets_in_mbtiles_is_a_seed() {
    history(".mbtiles", 3);
    history(".mbtiles", 71);
}

#[test]
fn a_reseed_of_random_sets_in_pmtiles_is_a_seed() {
    history(".pmtiles", 17);
}

#[test]
fn a_reseed_of_random_sets_in_directories_is_a_seed() {
    history("/", 29);
}
