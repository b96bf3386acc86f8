//! Changes: a reseed makes of every variant what a seed makes, and follows values that come and go.

use super::{World, bytes_of};

const RESEED: [&str; 3] = ["reseed", "--progress", "none"];

/// Changes of every kind, as SQL; `n` tells them apart.
fn changes(n: u32) -> [String; 6] {
    let some = format!("id IN (SELECT id FROM api_facility ORDER BY md5(id || '{n}') LIMIT 3)");
    [
        format!("UPDATE api_facility SET location = ST_Translate(location, 2, 1) WHERE {some}"),
        format!("UPDATE api_facility SET name = name || '{n}' WHERE {some}"),
        format!("DELETE FROM api_facility WHERE {some}"),
        format!("DELETE FROM membership WHERE md5(facility || '{n}') < '08'"),
        format!("INSERT INTO membership SELECT 1 + {n} % 5, id FROM api_facility WHERE {some}"),
        format!("UPDATE membership SET contributor = 1 + ({n} + contributor) % 5 WHERE md5(facility || '{n}') < '08'"),
    ]
}

#[test]
fn after_any_changes_a_reseed_leaves_what_a_seed_makes() {
    let world = World::with_contributors(300, 5);
    let config = world.contributors(".mbtiles");
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    for n in 0..6 {
        let all = changes(n);
        // Another mixture each time.
        world.db.run(&all[n as usize]);
        world.db.run(&all[(n as usize * 2 + 1) % 6]);
        world.oar_tiles(&config, &["reseed", "--progress", "none", "--allow-shrink"]).ok();
        if n % 2 == 1 {
            world.variants_are_single_runs(".mbtiles");
        }
    }
    // A run refuses to take most tiles away, unless it is allowed to.
    world.db.run("DELETE FROM membership WHERE contributor = 2");
    let strict = |arguments: &[&str]| {
        let mut command = crate::support::program::program();
        command.args(arguments).args(["--config", &config, "--database-url", &world.db.url]);
        crate::support::program::run(command.env("OAR_TILES_MAX_SHRINK", "10%"))
    };
    strict(&RESEED).fails(3, &["by/c2.mbtiles holds", "max_shrink is 10%"]);
    strict(&["reseed", "--progress", "none", "--allow-shrink"]).ok();
    let before = bytes_of(&world, "by");
    let nothing = world.oar_tiles(&config, &RESEED).ok();
    assert!(nothing.stdout.contains("5 variants: 0 tiles written"), "{}", nothing.stdout);
    assert_eq!(bytes_of(&world, "by"), before);
}

#[test]
fn values_that_come_are_seeded_and_values_that_go_are_named() {
    let world = World::with_contributors(200, 4);
    let config = world.contributors(".pmtiles");
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    world.db.run("DELETE FROM contributor WHERE number = 3; INSERT INTO contributor VALUES (9, 'new'); INSERT INTO membership SELECT 9, id FROM api_facility LIMIT 30");
    let done = world.oar_tiles(&config, &RESEED).ok();
    for text in [
        "by/new.pmtiles: new",
        "by/c3.pmtiles: still there, and its values are gone: --prune-variants deletes it",
        "1 seeded",
    ] {
        assert!(done.stdout.contains(text), "«{text}» in {}", done.stdout);
    }
    world.variants_are_single_runs(".pmtiles");
    // It is not forgotten.
    let again = world.oar_tiles(&config, &RESEED).ok();
    assert!(again.stdout.contains("by/c3.pmtiles: still there"), "{}", again.stdout);
    let pruned = world.oar_tiles(&config, &["reseed", "--progress", "none", "--prune-variants"]).ok();
    assert!(pruned.stdout.contains("by/c3.pmtiles: deleted, for its values are gone"), "{}", pruned.stdout);
    assert_eq!(world.names("by"), ["c1.pmtiles", "c2.pmtiles", "c4.pmtiles", "new.pmtiles"]);
    let last = world.oar_tiles(&config, &RESEED).ok();
    assert!(!last.stdout.contains("c3"), "{}", last.stdout);
}

#[test]
fn a_folder_with_files_of_others_is_not_deleted_with_its_variant() {
    let world = World::with_contributors(200, 4);
    let config = world.contributors("/");
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    world.db.run("DELETE FROM contributor WHERE number = 3");
    let own = world.path("by/c3/6/notes.txt");
    std::fs::create_dir_all(own.parent().unwrap()).unwrap();
    std::fs::write(&own, "mine").unwrap();
    let prune = ["reseed", "--progress", "none", "--prune-variants"];
    let refused = world.oar_tiles(&config, &prune);
    refused.fails(3, &["by/c3/ cannot be deleted: look into the cause", "files in it that are none of its tiles: 1"]);
    assert!(own.exists() && world.names("by/c3").contains(&"metadata.json".to_owned()), "{:?}", world.names("by/c3"));
    std::fs::remove_file(&own).unwrap();
    let pruned = world.oar_tiles(&config, &prune).ok();
    assert!(pruned.stdout.contains("by/c3/: deleted, for its values are gone"), "{}", pruned.stdout);
    assert_eq!(world.names("by"), ["c1", "c2", "c4"]);
}

#[test]
fn a_value_that_returns_finds_no_old_tiles() {
    let world = World::with_contributors(200, 4);
    let config = world.contributors(".mbtiles");
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    world.db.run("DELETE FROM contributor WHERE number = 3");
    world.oar_tiles(&config, &RESEED).ok();
    world.db.run("UPDATE api_facility SET location = ST_Translate(location, 3, 1), name = 'moved' WHERE id IN (SELECT facility FROM membership WHERE contributor = 3 LIMIT 5)");
    world.oar_tiles(&config, &RESEED).ok();
    world.db.run("INSERT INTO contributor VALUES (3, 'c3')");
    world.oar_tiles(&config, &RESEED).ok();
    world.variants_are_single_runs(".mbtiles");
}

#[test]
fn a_family_that_was_never_seeded_says_so() {
    let world = World::with_contributors(50, 3);
    let config = world.contributors(".mbtiles");
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &RESEED).fails(4, &["by/{slug}.mbtiles", "its variants were never seeded"]);
    world.oar_tiles(&config, &["reseed", "--progress", "none", "--or-seed"]).ok();
    world.variants_are_single_runs(".mbtiles");
}

#[test]
fn a_variant_that_loses_its_rows_is_refused_and_the_others_are_not() {
    let world = World::with_contributors(1_200, 3);
    let config = world.contributors(".mbtiles");
    let strict = |arguments: &[&str]| {
        let mut command = crate::support::program::program();
        command.args(arguments).args(["--config", &config, "--database-url", &world.db.url]);
        crate::support::program::run(command.env_remove("OAR_TILES_MAX_SHRINK"))
    };
    strict(&["track", "install"]).ok();
    strict(&["seed", "--progress", "none"]).ok();
    world.db.run(
        "DELETE FROM membership WHERE contributor = 2 AND facility NOT IN
             (SELECT facility FROM membership WHERE contributor = 2 ORDER BY facility LIMIT 20);
         UPDATE api_facility SET name = name || '!' WHERE id IN (SELECT facility FROM membership WHERE contributor = 3)",
    );
    let before = bytes_of(&world, "by");
    for arguments in [&RESEED[..], &["seed", "--progress", "none"]] {
        let refused = strict(arguments).fails(
            3,
            &["by/c2.mbtiles would lose rows: layer \"facilities\" had ", " now, 96 % fewer. max_shrink is 50%"],
        );
        assert_eq!(refused.stderr.matches("would lose rows").count(), 1, "{}", refused.stderr);
    }
    let after = bytes_of(&world, "by");
    assert!(after["c2.mbtiles"] == before["c2.mbtiles"] && after["c3.mbtiles"] != before["c3.mbtiles"]);
    strict(&["reseed", "--progress", "none", "--allow-shrink"]).ok();
    world.variants_are_single_runs(".mbtiles");
}
