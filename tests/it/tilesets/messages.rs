//! What is refused, and how a command ends of which a part has failed.

use super::World;
use crate::support::Archive;

#[test]
fn one_that_fails_does_not_stop_the_others() {
    let world = World::with_facilities();
    let config = world.several();
    // Another program's folder.
    std::fs::create_dir(world.path("part")).unwrap();
    std::fs::write(world.path("part/letter.txt"), "dear").unwrap();
    let seed = ["seed", "--progress", "none"];
    world.oar_tiles(&config, &seed).fails(
        3,
        &[
            "holds other files, such as letter.txt",
            "tilesets that failed: 1 of 3 (part), each for the reason given above. Run the command again for them alone, with --tileset part",
        ],
    );
    assert!(Archive::open(&world.path("whole.mbtiles")).stored().len() > 10);
    // If all of them fail alike, the command fails like that.
    let text = std::fs::read_to_string(&config).unwrap();
    let nowhere = world.file(
        "nowhere.toml",
        &text.replace("/whole.", "/none/whole.").replace("/low.", "/none/low.").replace("/part\"", "/none/part/\""),
    );
    let failed = "tilesets that failed: 3 of 3 (whole, low, part)";
    world.oar_tiles(&nowhere, &seed).fails(2, &[failed, "--tileset whole --tileset low --tileset part"]);
}

#[test]
fn what_is_for_one_tileset_says_how_to_choose_it() {
    let world = World::with_facilities();
    let config = world.several();
    let says = |arguments: &[&str], code: i32, text: &str| {
        world.oar_tiles(&config, arguments).fails(code, &[text]);
    };
    let choose = "is for one tileset, and this configuration has several: choose it with --tileset (whole, low, part)";
    says(&["serve"], 2, "tileset \"whole\" cannot be served");
    says(&["doctor", "--json"], 2, &format!("--json {choose}"));
    says(&["verify", "elsewhere.mbtiles", "--database"], 2, &format!("verify --database {choose}"));
    says(
        &["seed", "--report", "run.json"],
        2,
        "--report run.json: each tileset writes its own file; write {tileset} into its name, such as run-{tileset}.json",
    );
    says(&["seed", "--tileset", "whol"], 2, "there is no tileset \"whol\". Did you mean \"whole\"?");
    says(&["seed", "--tileset", "x"], 2, "there is no tileset \"x\": there is whole, low, part");
    says(&["seed", "--output", "x.mbtiles"], 2, "tileset (from");
    says(
        &["seed", "--output", "x.mbtiles"],
        2,
        "\"whole\" and \"low\" have the same output, \"x.mbtiles\": give each its own; a flag or variable for all of them needs --tileset",
    );
    assert!(!world.path("x.mbtiles").exists());
}
