//! A reseed looks at the variants by themselves that a change may concern, and leaves the others alone.

use super::{LAYER, World, bytes_of};
use crate::support::program::Run;

const RESEED: [&str; 4] = ["reseed", "--progress", "none", "-vv"];

/// Asserts how many variants a run has left alone.
#[track_caller]
fn untouched(run: &Run, variants: &str) {
    let text = format!("{variants} variants are untouched");
    assert!(run.stderr.contains(&text), "«{text}» in {}", run.stderr);
}

#[test]
fn a_change_concerns_the_variants_that_its_row_was_in_or_is_in() {
    let world = World::with_contributors(300, 6);
    let config = world.contributors(".pmtiles");
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    let reseed = || world.oar_tiles(&config, &RESEED).ok();
    untouched(&reseed(), "6 of 6");
    // Each is seeded with a facility that nobody else has, at a place where nothing else is.
    world.db.run(
        "INSERT INTO api_facility (id, name, address, country_code, location, created_at, updated_at) SELECT 'own' || n, 'own', '', 'BD', ST_SetSRID(ST_MakePoint(-120 + 7 * n, -50), 4326), now(), now() FROM generate_series(2, 6) AS n;
         INSERT INTO membership SELECT n, 'own' || n FROM generate_series(2, 6) AS n",
    );
    reseed();
    let before = bytes_of(&world, "by");
    for (change, left) in [
        ("UPDATE api_facility SET name = 'renamed' WHERE id = 'own2'", "5 of 6"),
        ("UPDATE api_facility SET location = ST_Translate(location, 1, 1) WHERE id = 'own2'", "5 of 6"),
        ("UPDATE membership SET contributor = 4 WHERE facility = 'own2'", "4 of 6"),
        ("DELETE FROM membership WHERE facility = 'own3'", "5 of 6"),
        ("INSERT INTO membership VALUES (5, 'own3')", "5 of 6"),
        ("DELETE FROM api_facility WHERE id = 'own6'", "5 of 6"),
    ] {
        world.db.run(change);
        let done = reseed();
        untouched(&done, left);
        untouched(&reseed(), "6 of 6");
    }
    world.variants_are_single_runs(".pmtiles");
    // c1 was never concerned.
    assert!(bytes_of(&world, "by")["c1.pmtiles"] == before["c1.pmtiles"]);
}

#[test]
fn a_target_that_somebody_replaced_is_looked_at_by_itself() {
    let world = World::with_contributors(200, 4);
    let config = world.contributors(".mbtiles");
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    let (target, old) = (world.path("by/c2.mbtiles"), world.path("old.mbtiles"));
    std::fs::copy(&target, &old).unwrap();
    world.db.run("UPDATE api_facility SET location = ST_Translate(location, 1, 1) WHERE id IN (SELECT facility FROM membership WHERE contributor = 2)");
    world.oar_tiles(&config, &RESEED).ok();
    // A backup comes back: what has changed since then is made up for.
    std::fs::copy(&old, &target).unwrap();
    untouched(&world.oar_tiles(&config, &RESEED).ok(), "3 of 4");
    world.variants_are_single_runs(".mbtiles");
    untouched(&world.oar_tiles(&config, &RESEED).ok(), "4 of 4");
    std::fs::remove_file(&target).unwrap();
    world.oar_tiles(&config, &RESEED).fails(3, &["c2.mbtiles needs a full seed: there is none yet"]);
}

#[test]
fn tiles_that_could_not_be_rendered_are_tried_again_though_no_row_has_changed() {
    let world = World::with_contributors(120, 4);
    let letters = |sql: &str| {
        world
            .db
            .run(&format!("CREATE OR REPLACE FUNCTION letters(of text) RETURNS int STABLE AS '{sql}' LANGUAGE sql"));
    };
    letters("SELECT 1000 / greatest(length(of), 1)");
    world.db.run(
        "INSERT INTO api_facility (id, name, address, country_code, location, created_at, updated_at) VALUES ('own', '', '', 'BD', ST_SetSRID(ST_MakePoint(-120, -50), 4326), now(), now());
         INSERT INTO membership VALUES (2, 'own')",
    );
    let config = world.contributors(".mbtiles");
    let text = std::fs::read_to_string(&config).unwrap();
    let shown = "on_tile_error = \"skip\"\nproperties = { id = \"id\", letters = \"letters(name::text)\" }";
    std::fs::write(&config, text.replace("properties = [\"id\", \"name\"]", shown)).unwrap();
    world.oar_tiles(&config, &["track", "install"]).ok();
    let seed = ["seed", "--progress", "none"];
    world.oar_tiles(&config, &seed).ok();
    let whole = world.held("by/c2.mbtiles");
    // The change log has nothing of what breaks its tiles, and nothing of what mends them.
    letters("SELECT 1000 / length(of)");
    world.oar_tiles(&config, &seed).fails(3, &["by/c2.mbtiles", "division by zero"]);
    assert_ne!(world.held("by/c2.mbtiles"), whole);
    letters("SELECT 1000 / greatest(length(of), 1)");
    untouched(&world.oar_tiles(&config, &RESEED).ok(), "3 of 4");
    assert_eq!(world.held("by/c2.mbtiles"), whole);
    untouched(&world.oar_tiles(&config, &RESEED).ok(), "4 of 4");
    // Of a first seed, too, though rows change before the next look.
    letters("SELECT 1000 / length(of)");
    std::fs::remove_dir_all(world.folder.beside("by")).unwrap();
    world.oar_tiles(&config, &seed).fails(3, &["by/c2.mbtiles", "division by zero"]);
    world.db.run("UPDATE api_facility SET name = 'changed' WHERE id IN (SELECT facility FROM membership WHERE contributor IN (2, 3) AND facility <> 'own' LIMIT 9)");
    world.oar_tiles(&config, &RESEED).fails(3, &["by/c2.mbtiles", "division by zero"]);
    letters("SELECT 1000 / greatest(length(of), 1)");
    world.oar_tiles(&config, &RESEED).ok();
    untouched(&world.oar_tiles(&config, &RESEED).ok(), "4 of 4");
    let reseeded: Vec<_> = ["by/c2.mbtiles", "by/c3.mbtiles", "all.mbtiles"].map(|output| world.held(output)).into();
    world.oar_tiles(&config, &[&seed[..], &["--force"]].concat()).ok();
    let seeded: Vec<_> = ["by/c2.mbtiles", "by/c3.mbtiles", "all.mbtiles"].map(|output| world.held(output)).into();
    assert_eq!(reseeded, seeded);
}

#[test]
fn a_log_that_cannot_be_trusted_is_one_message() {
    let world = World::with_contributors(60, 4);
    let config = world.contributors(".mbtiles");
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    let failed = world.oar_tiles(&config, &["reseed", "--progress", "none"]);
    let failed = failed.fails(4, &["by/{slug}.mbtiles cannot be brought up to date"]);
    assert_eq!(failed.stderr.matches("cannot be brought up to date").count(), 1, "{}", failed.stderr);
}

#[test]
fn a_key_that_tells_rows_apart_only_within_a_variant_is_enough() {
    let world = World::with_contributors(60, 4);
    world.db.run("CREATE VIEW of_contributor AS SELECT f.id, f.name, f.location, m.contributor FROM api_facility AS f JOIN membership AS m ON m.facility = f.id WHERE m.contributor IS NOT NULL GROUP BY 1, 2, 3, 4");
    let layer = LAYER.split("[[layer.track]]").next().unwrap().replace("api_facility", "of_contributor");
    let track = "[[layer.track]]\ntable = \"api_facility\"\ngeometry = \"SELECT changed.location\"\n[[layer.track]]\ntable = \"membership\"\ngeometry = \"SELECT location FROM api_facility WHERE id = changed.facility\"\n";
    let config = world.file(
        "view.toml",
        &format!(
            "[tileset]\nzoom = \"0-5\"\n[tileset.variants]\nvalues = \"SELECT number, slug FROM contributor\"\nwhere = {{ facilities = \"contributor = !number!\" }}\noutput = \"FOLDER/by/{{slug}}.mbtiles\"\n{layer}{track}"
        ),
    );
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    world.db.run("UPDATE api_facility SET name = 'x' || name WHERE id IN (SELECT facility FROM membership WHERE contributor = 3)");
    world.oar_tiles(&config, &["reseed", "--progress", "none"]).ok();
    let single = world.file(
        "single-view.toml",
        &format!(
            "[tileset]\nzoom = \"0-5\"\noutput = \"FOLDER/single.mbtiles\"\n{}",
            layer.replace("properties =", "where = \"contributor = 3\"\nproperties =")
        ),
    );
    world.oar_tiles(&single, &["seed", "--progress", "none"]).ok();
    assert_eq!(world.held("by/c3.mbtiles"), world.held("single.mbtiles"));
}
