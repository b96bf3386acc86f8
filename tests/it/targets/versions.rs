//! Versions: a run's tiles go under a new name, the map is switched when all are there, and can be switched back.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::program::{Run, program, run, start_seed};
use crate::support::refusal::{NOWHERE, names};
use crate::support::tree::Tree;
use crate::support::{Db, Gate, seed, until};

/// A layer behind the gate, and how versions are kept.
fn config(tree: &Tree, more: &str) -> String {
    tree.config(&format!(
        "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\n\
         properties = {{ name = \"name\", gate = \"pg_advisory_xact_lock_shared(1)::text\" }}\n\
         [tileset]\nzoom = \"0-5\"\n[run]\nworkers = 1\nbatch_features = 20\n\
         [target]\ntemplate = \"tile/{{layer}}/{{version}}/{{z}}/{{x}}/{{y}}.pbf\"\npublish = \"versioned\"\n{more}\n"
    ))
}

fn publish(tree: &Tree, arguments: &[&str]) -> Run {
    run(program().args(["publish", "--output"]).arg(&tree.path).args(arguments))
}

/// The version that `latest.json` names, checked against the address in the map's TileJSON.
#[track_caller]
fn shown(tree: &Tree) -> String {
    let version = tree.json("latest.json")["version"].as_str().unwrap().to_owned();
    assert_eq!(tree.json("mills.tiles.json")["tiles"], json!([format!("tile/mills/{version}/{{z}}/{{x}}/{{y}}.pbf")]));
    version
}

/// The versions in `latest.json`, the newest first.
fn known(tree: &Tree) -> Vec<String> {
    let latest = tree.json("latest.json");
    latest["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| version["version"].as_str().unwrap().to_owned())
        .collect()
}

/// The versions whose tiles are there.
fn held(tree: &Tree) -> BTreeSet<String> {
    names(&tree.path.join("tile/mills"))
}

/// The tiles of a version, by their names below it.
fn tiles(tree: &Tree, version: &str) -> Vec<(String, Vec<u8>)> {
    let prefix = format!("tile/mills/{version}/");
    tree.files().into_iter().filter_map(|(name, bytes)| Some((name.strip_prefix(&prefix)?.to_owned(), bytes))).collect()
}

#[test]
fn each_run_is_a_new_version_and_the_map_is_switched_forth_and_back() {
    let db = Db::with_facilities(100);
    let tree = Tree::new();
    let config = config(&tree, "");
    let arguments = ["--config", &config];
    let mut versions: Vec<String> = Vec::new();
    for change in
        ["", "UPDATE api_facility SET name = name || '!'", "DELETE FROM api_facility WHERE country_code = 'CN'"]
    {
        db.run(change);
        let before: Vec<_> = versions.iter().map(|version| tiles(&tree, version)).collect();
        let (_, unchanged, deleted) = tree.seed(&db.url, &arguments);
        assert_eq!((unchanged, deleted), (0, 0));
        versions.push(shown(&tree));
        assert!(before.iter().zip(&versions).all(|(before, version)| tiles(&tree, version) == *before));
    }
    let newest_first: Vec<String> = versions.iter().rev().cloned().collect();
    assert_eq!((known(&tree), held(&tree)), (newest_first, versions.iter().cloned().collect()));
    let fresh = Tree::new();
    fresh.seed(&db.url, &arguments);
    assert!(
        tiles(&tree, &versions[2]) == tiles(&fresh, &shown(&fresh))
            && tiles(&tree, &versions[0]) != tiles(&tree, &versions[2])
    );

    let listed = publish(&tree, &[]).ok().stdout;
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    for (line, (mark, version)) in
        lines.iter().zip([("shown", &versions[2]), ("     ", &versions[1]), ("     ", &versions[0])])
    {
        assert!(line.starts_with(&format!("{mark}  {version}  published 20")), "{listed}");
    }
    for (arguments, goal) in
        [(&["--rollback"][..], 1), (&["--rollback"], 0), (&["--to", &versions[2]], 2), (&["--to", &versions[0]], 0)]
    {
        let listed = publish(&tree, arguments).ok().stdout;
        assert!(listed.contains(&format!("shown  {}  ", versions[goal])), "{listed}");
        assert_eq!(shown(&tree), versions[goal]);
    }
    let before = tree.files();
    publish(&tree, &["--rollback"])
        .fails(2, &[&format!("error: version {} is the oldest: there is nothing to switch back to", versions[0])]);
    publish(&tree, &["--to", "x"]).fails(
        2,
        &[&format!(
            "error: there is no version x (there is {}, {}, {}): name one of these with --to",
            versions[2], versions[1], versions[0]
        )],
    );
    assert!(tree.files() == before);
    // The next run is shown again; the one that was shown until then stays whatever its age.
    tree.seed(&db.url, &arguments);
    assert!(!versions.contains(&shown(&tree)));
}

#[test]
fn old_versions_go_by_count_and_by_age_with_their_files_only() {
    let db = Db::with_facilities(60);
    let tree = Tree::new();
    let one = config(&tree, "keep_versions = 1");
    let mut versions: Vec<String> = Vec::new();
    for _ in 0..3 {
        tree.seed(&db.url, &["--config", &one]);
        versions.push(shown(&tree));
        fs::write(tree.path.join(format!("tile/mills/{}/mine.txt", versions[0])), "mine").unwrap();
    }
    assert_eq!(known(&tree), [versions[2].clone(), versions[1].clone()]);
    assert_eq!(
        tiles(&tree, &versions[0]),
        [("mine.txt".to_owned(), b"mine".to_vec())],
        "its tiles are gone, files of others stay"
    );
    assert_eq!(names(&tree.path.join(".oar-tiles/versions")), versions[1..].iter().cloned().collect());
    publish(&tree, &["--rollback"]).ok();
    publish(&tree, &["--rollback"]).fails(2, &["is the oldest"]);
    // Young ones stay, whatever the count; then one with other layers and another template, which goes by its own
    // names.
    let young = config(&tree, "keep_versions = 0\nkeep_for = \"1h\"");
    tree.seed(&db.url, &["--config", &young]);
    assert_eq!(known(&tree).len(), 3);
    let text = fs::read_to_string(&young).unwrap();
    let other = text.replace("\"mills\"", "\"plants\"").replace("tile/{layer}", "other/{layer}").replace("1h", "0s");
    let other = tree.config(&other);
    tree.seed(&db.url, &["--config", &other]);
    let version = tree.json("latest.json")["version"].as_str().unwrap().to_owned();
    assert_eq!(known(&tree), std::slice::from_ref(&version));
    assert_eq!(
        tree.json("plants.tiles.json")["tiles"],
        json!([format!("other/plants/{version}/{{z}}/{{x}}/{{y}}.pbf")])
    );
    let left: Vec<String> = tree.files().into_keys().filter(|name| !name.starts_with("other/plants/")).collect();
    let own = |name: &str| format!(".oar-tiles/versions/{version}/{name}");
    let mut expected = vec![
        ".oar-tiles/begun.json".to_owned(),
        own("metadata.json"),
        own("plants.tiles.json"),
        "latest.json".to_owned(),
        "plants.tiles.json".to_owned(),
        format!("tile/mills/{}/mine.txt", versions[0]),
    ];
    expected.sort();
    assert_eq!(left, expected);
}

/// Starts a run that stops before its second batch, and kills it once some tiles are written, but before it is
/// published. The version shown stays as it is. Returns the version that lies there.
fn killed(db: &Db, tree: &Tree, config: &str) -> String {
    let notes =
        || -> Vec<(String, Vec<u8>)> { tree.files().into_iter().filter(|(name, _)| !name.contains('/')).collect() };
    let count = || tree.files().keys().filter(|name| name.ends_with(".pbf")).count();
    loop {
        let (before, first, published) = (count(), shown(tree), notes());
        let tiles_before = tiles(tree, &first);
        let gate = Gate::close(db);
        let mut child = start_seed(&db.url, &tree.path, &["--config", config]);
        gate.wait_for(1);
        let begun = tree.path.join(".oar-tiles/begun.json");
        until("the run has begun", || begun.exists());
        // One batch after the other is let through.
        gate.open();
        until("some tiles are written", || count() > before + 100);
        child.kill().unwrap();
        child.wait().unwrap();
        if shown(tree) != first {
            // On a busy machine the run may have been faster than this process.
            tree.seed(&db.url, &["--config", config]);
            continue;
        }
        assert!(notes() == published && tiles(tree, &first) == tiles_before, "the version shown was touched");
        let pending = tree.json(".oar-tiles/begun.json")["pending"].as_str().unwrap().to_owned();
        assert!(pending != first && !tiles(tree, &pending).is_empty());
        return pending;
    }
}

#[test]
fn an_interrupted_version_is_not_shown_and_the_next_run_finishes_it() {
    let db = Db::with_facilities(3_000);
    let tree = Tree::new();
    let config = config(&tree, "");
    let config = tree.config(&fs::read_to_string(config).unwrap().replace("0-5", "0-9"));
    tree.seed(&db.url, &["--config", &config]);
    db.run("UPDATE api_facility SET name = name || '!'");
    let pending = killed(&db, &tree, &config);
    let written = tiles(&tree, &pending).len() as u64;
    // A narrower run finishes it: nothing is left of what the killed one had written beyond.
    let (_, unchanged, deleted) = tree.seed(&db.url, &["--config", &config, "--zoom", "0-1"]);
    assert!(unchanged > 0 && deleted > 0 && unchanged + deleted == written, "{unchanged} {deleted} {written}");
    assert_eq!(shown(&tree), pending);
    assert!(tiles(&tree, &pending).iter().all(|(name, _)| name.starts_with(['0', '1'])));
    // Killed after the switch and before it was noted: the version shown must not be written again.
    let begun = tree.path.join(".oar-tiles/begun.json");
    let mut begun_note: Value = serde_json::from_slice(&fs::read(&begun).unwrap()).unwrap();
    assert_eq!(begun_note["pending"], Value::Null);
    begun_note["pending"] = json!(pending);
    fs::write(&begun, begun_note.to_string()).unwrap();
    tree.seed(&db.url, &["--config", &config]);
    assert!(shown(&tree) != pending);
    // One of another tileset is not continued; it goes at the end of the next run.
    let abandoned = killed(&db, &tree, &config);
    let other = tree.config(&fs::read_to_string(&config).unwrap().replace("name = \"name\"", "name = \"id\""));
    tree.seed(&db.url, &["--config", &other, "--zoom", "0-2"]);
    assert!(shown(&tree) != abandoned && !held(&tree).contains(&abandoned), "{abandoned} lies about");
}

#[test]
fn publish_says_why_there_is_nothing_to_switch() {
    let db = Db::with_facilities(20);
    let tree = Tree::new();
    tree.seed(&db.url, &["--zoom", "0-2"]);
    let refused = format!(
        "error: {} has no latest.json: it was not published with publish = \"versioned\", so there is nothing to switch back to",
        tree.path.display()
    );
    for arguments in [&[][..], &["--rollback"], &["--to", "x"]] {
        publish(&tree, arguments).fails(2, &[&refused]);
    }
    let file = tree.beside("t.mbtiles");
    run(program().args(["publish", "--output"]).arg(&file)).fails(
        2,
        &[&format!("error: {} is one file: only a directory and a prefix of a bucket have versions", file.display())],
    );
    fs::write(tree.path.join("latest.json"), "{").unwrap();
    for arguments in [&[][..], &["--rollback"]] {
        publish(&tree, arguments).fails(
            1,
            &[&format!(
                "error: {} is damaged: remove it, and run with --force\n  cause: ",
                tree.path.join("latest.json").display()
            )],
        );
    }
    let versioned = Tree::new();
    let config = config(&versioned, "");
    versioned.seed(&db.url, &["--config", &config]);
    fs::write(versioned.path.join("latest.json"), "[]").unwrap();
    seed(&db.url, &versioned.path, &["--config", &config])
        .fails(1, &[&format!("error: {} is damaged: remove it", versioned.path.join("latest.json").display())]);
    // Without it nobody knows which versions are old: they stay.
    fs::remove_file(versioned.path.join("latest.json")).unwrap();
    versioned.seed(&db.url, &["--config", &config]);
    assert_eq!((known(&versioned).len(), held(&versioned).len()), (1, 2));
    // From versions to none and back: the old tiles would stay.
    seed(&db.url, &tree.path, &["--config", &config])
        .fails(2, &["are named {z}/{x}/{y}.pbf, this configuration names them tile/{layer}/{version}/"]);
    let plain = versioned
        .config(&fs::read_to_string(&config).unwrap().replace("/{version}", "").replace("versioned", "in-place"));
    seed(&db.url, &versioned.path, &["--config", &plain]).fails(
        2,
        &["are named tile/{layer}/{version}/{z}/{x}/{y}.pbf, this configuration names them tile/{layer}/{z}"],
    );
}

#[test]
fn a_server_that_would_write_versions_is_refused_before_it_serves() {
    let tree = Tree::new();
    let versions = "[target]\npublish = \"versioned\"\ntemplate = \"{version}/{z}/{x}/{y}.pbf\"\n";
    let family =
        "[tileset.variants]\nvalues = [{ c = \"x\" }]\nwhere = { facilities = \"id = !c!\" }\noutput = \"OUT/{c}/\"\n";
    for tileset in [
        format!("[tileset]\noutput = \"{}\"\n", tree.path.display()),
        family.replace("OUT", tree.path.to_str().unwrap()),
    ] {
        let config = tree.config(&format!("{tileset}{versions}"));
        let mut command: Command = program();
        command.args(["serve", "--writer", "--config", &config, "--listen", "127.0.0.1:0", "--database-url", NOWHERE]);
        run(&mut command)
            .fails(2, &["a server cannot keep ", "a version is written as a whole", "run oar-tiles seed "]);
    }
}

#[test]
fn templates_and_settings_that_do_not_fit_are_named_before_the_database_is_asked() {
    let tree = Tree::new();
    for (text, message) in [
        ("template = \"{version}/{z}/{x}/{y}\"", "target.template (from "),
        (
            "template = \"{version}/{z}/{x}/{y}\"",
            "): \"{version}/{z}/{x}/{y}\" has a {version}: write publish = \"versioned\" with it",
        ),
        (
            "publish = \"versioned\"",
            "): versions need a {version} in the template \"{z}/{x}/{y}.pbf\": write {version}/{z}/{x}/{y}.pbf or the like",
        ),
        (
            "template = \"{z}/{x}\"",
            "): \"{z}/{x}\" has 0 of {y} and {-y}: each of {z}, {x} and one of {y} and {-y} is needed once",
        ),
        (
            "template = \"{z}/{x}/{y}/{t}\"",
            "): \"{z}/{x}/{y}/{t}\" has the placeholder {t}: write {z}, {x}, {y}, {-y}, {layer} or {version}",
        ),
        ("template = \"../{z}/{x}/{y}\"", "): \"../{z}/{x}/{y}\" is no name below the target: write no leading /"),
        ("template = \".oar-tiles/{z}/{x}/{y}\"", "begins with .oar-tiles, where the program keeps its own notes"),
        ("template = \"metadata.json\"", "has 0 of {z}"),
        ("compression = \"zstd\"", "line 2: unknown variant `zstd`, expected `gzip` or `none`"),
        ("publish = \"never\"", "line 2: unknown variant `never`, expected `in-place` or `versioned`"),
        ("keep_versions = -1", "line 2: invalid value: integer `-1`"),
        ("keep_for = \"long\"", "line 2: \"long\" is no duration"),
        ("templat = \"x\"", "line 2: unknown key \"templat\". Did you mean \"template\"?"),
    ] {
        let config = tree.config(&format!("[target]\n{text}\n"));
        seed(NOWHERE, &tree.path, &["--config", &config]).fails(2, &[message]);
        assert!(!tree.path.exists(), "{text}");
    }
    // `Command` alone: the environment wins over the file, and is named.
    let mut command: Command = program();
    command.args(["seed", "--output"]).arg(&tree.path).env("OAR_TILES_TEMPLATE", "{z}");
    run(&mut command).fails(2, &["target.template (from OAR_TILES_TEMPLATE): \"{z}\" has 0 of {x}"]);
}
