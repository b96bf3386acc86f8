//! Changes: one change log for all tilesets, and each target with its own cursor.

use super::{NAMES, World};
use crate::support::program::{program, run};
use crate::support::until;
use crate::support::watch_process::Watching;

#[test]
fn a_reseed_brings_every_tileset_up_to_date() {
    let world = World::with_facilities();
    let config = world.several();
    let all = |arguments: &[&str]| world.oar_tiles(&config, arguments);
    // The change log has what the layers of every tileset read.
    all(&["track", "install"]).ok();
    all(&["seed", "--progress", "none"]).ok();
    world.db.run("UPDATE api_facility SET location = ST_Translate(location, 3, 2) WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 5)");
    let status = all(&["track", "status"]);
    assert_eq!(status.code, 0, "{}{}", status.stdout, status.stderr);
    for target in NAMES {
        assert!(status.stdout.contains(target), "{}", status.stdout);
    }
    assert_eq!(status.stdout.matches("dirty").count(), 3, "{}", status.stdout);
    // One is brought up to date alone; what the others have not seen stays in the log.
    all(&["reseed", "--progress", "none", "--tileset", "low"]).ok();
    let pruned = all(&["track", "prune"]).ok();
    assert!(!pruned.stdout.contains(" 0 left"), "{}", pruned.stdout);
    all(&["reseed", "--progress", "none"]).ok();
    let fresh = world.file(
        "fresh.toml",
        &std::fs::read_to_string(&config)
            .unwrap()
            .replace("/whole.", "/fresh-whole.")
            .replace("/low.", "/fresh-low.")
            .replace("/part\"", "/fresh-part\""),
    );
    world.oar_tiles(&fresh, &["seed", "--progress", "none"]).ok();
    for target in NAMES {
        let found = world.copied(target).stored();
        let fresh = world.copied(&format!("fresh-{target}")).stored();
        assert_eq!(found, fresh, "{target}");
        let verified = world.path(target);
        all(&["verify", verified.to_str().unwrap(), "--database"]).ok();
    }
    // What is committed while transactions of other tests are open stays in the log until a later reseed.
    until("a reseed leaves nothing in the log", || {
        world.db.run("UPDATE api_facility SET name = name || 'x'");
        all(&["reseed", "--progress", "none"]).ok();
        all(&["track", "prune"]).ok().stdout.contains(" 0 left")
    });
}

#[test]
fn a_watch_keeps_every_tileset_up_to_date_and_one_that_fails_stops_no_other() {
    let world = World::with_facilities();
    let config = world.several();
    let all = |arguments: &[&str]| world.oar_tiles(&config, arguments);
    all(&["track", "install"]).ok();
    all(&["seed", "--progress", "none", "--tileset", "whole", "--tileset", "part"]).ok();
    let arguments = ["reseed", "--watch", "--progress", "none", "--debounce", "50ms", "--config", &config];
    let watching = Watching::of(program().args(arguments).args(["--database-url", &world.db.url]));
    // One was never seeded: it is named while the others go on.
    watching.says("low.pmtiles");
    world.db.run("UPDATE api_facility SET location = ST_Translate(location, 3, 2) WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 5)");
    for target in ["whole.mbtiles", "part"] {
        let path = world.path(target);
        let verify = ["verify", path.to_str().unwrap(), "--database", "--config", &config];
        until(target, || run(program().args(verify).args(["--database-url", &world.db.url])).code == 0);
    }
    let (code, said) = watching.end_with_lines();
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("tilesets that failed: 1 of 3 (low)"), "{said}");
}
