//! A run that has its snapshot before it has the target: another run may bring the target to a later state meanwhile.

use crate::support::gate::PASS;
use crate::support::places::files_below;
use crate::support::process::Start as _;
use crate::support::program::{program, run, wait};
use crate::support::tracked::{Tracked, differences};
use crate::support::{Archive, Gate};

/// Two tilesets that a seed shows at one snapshot. The rows of the first wait at the gate; zoom 5 of the second cannot
/// be drawn while a name is empty.
fn config(tracked: &Tracked) -> String {
    let layer = |name: &str, zoom: &str, property: &str| {
        format!(
            "[[layer]]\nname = \"{name}\"\ntable = \"api_facility\"\ngeometry = \"location\"\nkey = [\"id\"]\nzoom = \"{zoom}\"\n\
             properties = {{ it = \"{property}\" }}\n"
        )
    };
    let [first, tree] = ["first.mbtiles", "tree/"].map(|name| tracked.path(name).display().to_string());
    let text = [
        layer("gated", "0", PASS),
        layer("names", "0-4", "name"),
        layer("deep", "5", "1000 / length(name)"),
        // Tile by tile, zoom by zoom.
        "[run]\nrows_mb = 0\nworkers = 1\n[tileset_defaults]\nzoom = \"0-5\"\n".to_owned(),
        format!("[[tileset]]\nname = \"first\"\nlayers = [\"gated\"]\noutput = \"{first}\"\n"),
        format!("[[tileset]]\nname = \"tree\"\nlayers = [\"names\", \"deep\"]\noutput = \"{tree}\"\n"),
    ];
    let path = tracked.path("two.toml");
    std::fs::write(&path, text.concat()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn tiles_that_an_interrupted_run_left_of_an_older_state_than_the_target_are_rendered_again() {
    let tracked = Tracked::facilities(60);
    let config = config(&tracked);
    let command = |arguments: &[&str]| {
        let mut command = program();
        command.args(arguments).args(["--config", &config, "--database-url", &tracked.db.url]);
        command
    };
    let oar_tiles = |arguments: &[&str]| run(&mut command(arguments));
    oar_tiles(&["track", "install"]).ok();
    oar_tiles(&["seed", "--progress", "none"]).ok();
    let last = "id = (SELECT max(id) FROM api_facility)";
    tracked.db.run(&format!("UPDATE api_facility SET name = '' WHERE {last}"));
    let gate = Gate::close(&tracked.db);
    let overtaken = command(&["seed", "--progress", "none"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .start();
    gate.wait_for(1);
    tracked.db.run("UPDATE api_facility SET name = name || ' & Sons'");
    oar_tiles(&["reseed", "--progress", "none", "--tileset", "tree"]).ok();
    let tree = tracked.path("tree");
    let fresh = files_below(&tree);
    gate.open();
    wait(overtaken).fails(3, &["division by zero"]);
    let left = differences(&files_below(&tree), &fresh).len();
    assert!(left > 0, "it has left tiles of its own state");
    oar_tiles(&["reseed", "--progress", "none", "--tileset", "tree"]).ok();
    assert_eq!(differences(&files_below(&tree), &fresh).len(), 0, "of {left} tiles");
    let again = tracked.path("again.mbtiles");
    oar_tiles(&["seed", "--progress", "none", "--tileset", "tree", "--output", again.to_str().unwrap()]).ok();
    assert_eq!(differences(&Archive::open(&again).stored(), &fresh).len(), 0);
}
