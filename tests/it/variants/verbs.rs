//! Verbs that know variants.

use super::World;
use crate::support::until;

#[test]
fn verbs_on_one_target_find_its_variant() {
    let world = World::with_contributors(150, 4);
    let config = world.contributors(".mbtiles");
    let all = |arguments: &[&str]| world.oar_tiles(&config, arguments);
    all(&["track", "install"]).ok();
    let planned = all(&["seed", "--dry-run"]).ok();
    assert!(planned.stdout.contains("by/c2.mbtiles: number = 2, slug = c2\n"), "{}", planned.stdout);
    assert!(!world.path("by").exists());
    all(&["seed", "--progress", "none"]).ok();
    for target in ["by/c2.mbtiles", "all.mbtiles"] {
        let path = world.path(target);
        all(&["verify", path.to_str().unwrap(), "--database"]).ok();
    }
    // A variant of another content is found out.
    std::fs::copy(world.path("by/c3.mbtiles"), world.path("by/c2.mbtiles")).unwrap();
    let wrong = all(&["verify", world.path("by/c2.mbtiles").to_str().unwrap(), "--database"]);
    assert_ne!(wrong.code, 0, "{}", wrong.stdout);
    all(&["verify", world.path("by/c9.mbtiles").to_str().unwrap(), "--database"]).fails(2, &["c9.mbtiles"]);
    all(&["reseed", "--progress", "none"])
        .fails(3, &["c2.mbtiles needs a full seed: it was seeded with another configuration"]);
    all(&["seed", "--progress", "none"]).fails(3, &["c2.mbtiles holds another tileset (\"facilities/c3\""]);
    all(&["seed", "--progress", "none", "--force"]).ok();
    let status = all(&["track", "status"]).ok();
    for target in ["by/{slug}.mbtiles", "all.mbtiles"] {
        assert!(status.stdout.contains(target), "{}", status.stdout);
    }
    // What is committed while transactions of other tests are open stays in the log until a later reseed.
    until("a reseed leaves nothing in the log", || {
        world.db.run("UPDATE api_facility SET name = name || 'x'");
        all(&["reseed", "--progress", "none"]).ok();
        all(&["track", "prune"]).ok().stdout.contains(" 0 left")
    });
}

#[test]
fn the_report_is_one_for_all_variants() {
    let world = World::with_contributors(100, 3);
    let config = world.contributors(".mbtiles");
    let file = world.path("report.json");
    world.oar_tiles(&config, &["seed", "--quiet", "--report", file.to_str().unwrap()]).ok();
    let report: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!((report["variants"].as_u64(), report["seeded"].as_u64()), (Some(3), Some(4)));
    assert!(report["written"].as_u64().unwrap() > 10, "{report}");
}
