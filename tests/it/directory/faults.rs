//! Kill it, stop it, fill the disk, put something in the way: a directory keeps what is right, says what is wrong, and
//! the next run makes it what a fresh one would be.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::support::database::with_database;
use crate::support::gate::gated;
use crate::support::program::{humble, run, seed_command, signal, start_seed, wait, wrapped};
use crate::support::refusal::{NOWHERE, names};
use crate::support::tree::{Tree, files, tiles};
use crate::support::{Db, Gate, Place, SmallDisk, seed, until};

/// Everything in a tree that two equal runs have in common: the manifest tells the time.
fn content(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = files(root);
    files.insert("metadata.json".to_owned(), Vec::new());
    // The list of what the last run changed.
    files.retain(|name, _| !name.starts_with(".oar-tiles/notes/"));
    files
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn killed_at_any_moment_and_run_again_it_is_what_a_fresh_run_gives() {
    let chance: u64 = std::env::var("TEST_CHANCE")
        .map_or_else(|_| RandomState::new().hash_one("moments"), |chance| chance.parse().unwrap());
    eprintln!("TEST_CHANCE={chance}");
    let db = Db::with_facilities(600);
    let old = Tree::new();
    old.seed(&db.url, &["--zoom", "0-9"]);
    db.run("UPDATE api_facility SET location = ST_Translate(location, 0.3, 0.3); DELETE FROM api_facility WHERE country_code = 'CN'");
    let fresh = Tree::new();
    let begun = Instant::now();
    fresh.seed(&db.url, &["--zoom", "0-9"]);
    let whole = begun.elapsed();
    let (before, after, fresh) = (old.tiles(), fresh.tiles(), content(&fresh.path));
    let (mut early, mut middle) = (0, 0);
    for (what, from) in [("first seed", None), ("seed again", Some(&old.path))] {
        for moment in 0..5_u32 {
            let tree = Tree::new();
            if let Some(from) = from {
                copy(from, &tree.path);
            }
            let hasher = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default();
            let within = hasher.hash_one((chance, moment, what)) % 1_000;
            let mut child = start_seed(&db.url, &tree.path, &["--zoom", "0-9"]);
            std::thread::sleep(whole.mul_f64((f64::from(moment) + within as f64 / 1_000.0) / 5.0));
            child.kill().unwrap();
            child.wait().unwrap();
            let shown = format!("{what}, moment {moment} of {whole:?}, TEST_CHANCE={chance}");
            let left = if tree.path.exists() { tree.tiles() } else { BTreeMap::new() };
            for (address, bytes) in &left {
                let whole = before.get(address) == Some(bytes) || after.get(address) == Some(bytes);
                assert!(whole, "{shown}: {address:?} is neither old nor new");
            }
            if left.is_empty() || left == before {
                early += 1;
            } else if left != after {
                middle += 1;
            }
            let (written, unchanged, _) = tree.seed(&db.url, &["--zoom", "0-9"]);
            assert!(content(&tree.path) == fresh, "{shown}");
            let right = left.iter().filter(|(address, bytes)| after.get(address) == Some(bytes)).count() as u64;
            assert_eq!(
                (unchanged, written),
                (right, after.len() as u64 - right),
                "{shown}: what was right is not written again"
            );
        }
    }
    eprintln!("killed at ten moments: {early} before a tile was written, {middle} in the middle");
}

#[test]
fn killed_in_the_middle_it_keeps_what_is_right_and_the_next_run_writes_the_rest() {
    let db = Db::with_facilities(300);
    let tree = Tree::new();
    let config = gated(&tree.beside(""), Place::Deep, "");
    for again in [false, true] {
        if again {
            db.run("UPDATE api_facility SET location = ST_Translate(location, 0.3, 0.3) WHERE id LIKE '%5'");
        }
        let fresh = tree.beside(if again { "fresh again" } else { "fresh" });
        seed(&db.url, &fresh, &["--config", &config]).ok();
        let held = || if tree.path.exists() { tree.tiles() } else { BTreeMap::new() };
        let (before, after) = (held(), tiles(&fresh));
        let gate = Gate::close(&db);
        let mut child = start_seed(&db.url, &tree.path, &["--config", &config]);
        gate.wait_for(2);
        until("tiles in the tree", || held() != before);
        child.kill().unwrap();
        child.wait().unwrap();
        gate.open();
        let left = tree.tiles();
        assert!(
            left.iter().all(|(address, bytes)| [&before, &after].iter().any(|known| known.get(address) == Some(bytes)))
        );
        let right = left.iter().filter(|(address, bytes)| after.get(address) == Some(bytes)).count() as u64;
        let (written, unchanged, _) = tree.seed(&db.url, &["--config", &config]);
        assert_eq!((unchanged, written), (right, after.len() as u64 - right), "what was right is not written again");
        assert!(content(&tree.path) == content(&fresh));
    }
}

#[test]
fn folders_are_filled_beside_and_what_a_killed_run_left_of_one_is_removed() {
    let db = Db::with_facilities(300);
    let fresh = Tree::new();
    fresh.seed(&db.url, &["--zoom", "0-7"]);
    // Columns, rows first, layers in between, and no folder at all.
    for template in ["{z}/{x}/{y}.pbf", "{z}/{y}/{x}.pbf", "{layer}/{z}/{x}/{y}.pbf", "{z}-{x}-{y}.pbf"] {
        let tree = Tree::new();
        let left = ["partial-folder", "partial-folder-1", "partial-folder-3"].map(|name| {
            let folder = tree.path.join(".oar-tiles").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("64.pbf"), b"half a ti").unwrap();
            folder
        });
        let config = tree.config(&format!("[target]\ntemplate = \"{template}\"\n"));
        let name = |(z, x, y): &(u8, u32, u32)| {
            [("{layer}", "facilities"), ("{z}", &z.to_string()), ("{x}", &x.to_string()), ("{y}", &y.to_string())]
                .into_iter()
                .fold(template.to_owned(), |name, (part, value)| name.replace(part, value))
        };
        let mut wanted: BTreeMap<String, Vec<u8>> =
            fresh.tiles().iter().map(|(address, bytes)| (name(address), bytes.clone())).collect();
        // What somebody else has put into a folder stays, beside the tiles that come there.
        let folder =
            wanted.keys().nth(wanted.len() / 2).and_then(|name| name.rsplit_once('/')).map_or("", |(folder, _)| folder);
        let mine = if folder.is_empty() { "mine.pbf".to_owned() } else { format!("{folder}/mine.pbf") };
        fs::create_dir_all(tree.path.join(&mine).parent().unwrap()).unwrap();
        fs::write(tree.path.join(&mine), b"mine").unwrap();
        wanted.insert(mine, b"mine".to_vec());
        seed(&db.url, &tree.path, &["--zoom", "0-7", "--config", &config]).ok();
        assert!(left.iter().all(|folder| !folder.exists()), "{template}");
        // A run that writes nothing removes it, too.
        fs::create_dir_all(&left[1]).unwrap();
        seed(&db.url, &tree.path, &["--zoom", "0-7", "--config", &config]).ok();
        assert!(!left[1].exists(), "{template}");
        // A tile that is replaced is written beside it.
        let beside: Vec<_> = wanted
            .keys()
            .filter(|name| !name.ends_with("mine.pbf"))
            .step_by(5)
            .take(3)
            .map(|name| {
                let tile = tree.path.join(name);
                fs::write(&tile, b"another").unwrap();
                let staged = tile.with_file_name(format!(".{}.partial", tile.file_name().unwrap().to_str().unwrap()));
                fs::write(&staged, b"half a ti").unwrap();
                staged
            })
            .collect();
        seed(&db.url, &tree.path, &["--zoom", "0-7", "--config", &config]).ok();
        assert!(beside.iter().all(|staged| !staged.exists()), "{template}");
        let tiles: BTreeMap<String, Vec<u8>> =
            tree.files().into_iter().filter(|(name, _)| name.ends_with(".pbf")).collect();
        assert!(tiles == wanted, "{template}");
    }
}

#[test]
fn a_stop_leaves_a_tree_that_can_be_used_and_the_next_run_is_right() {
    let db = Db::with_facilities(300);
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let tree = Tree::new();
        let config = gated(&tree.beside(""), Place::Deep, "");
        let fresh = tree.beside("fresh");
        seed(&db.url, &fresh, &["--config", &config]).ok();
        let fresh = content(&fresh);
        for again in [false, true] {
            if again {
                db.run("UPDATE api_facility SET name = name || '!' WHERE id LIKE '%5'");
            }
            let before = again.then(|| (tree.tiles(), tree.files()["metadata.json"].clone()));
            let gate = Gate::close(&db);
            let child = start_seed(&db.url, &tree.path, &["--config", &config]);
            gate.wait_for(2);
            signal(&child, name);
            wait(child).fails(code, &[&format!(
                "error: interrupted: what was written so far stays in {}, its manifest is unchanged: run the command again to go on",
                tree.path.display()
            )]);
            assert!(!tree.path.join(".oar-tiles/partial").exists());
            assert_eq!(
                tree.files().get("metadata.json"),
                before.as_ref().map(|(_, metadata)| metadata),
                "the manifest moved"
            );
            gate.open();
            tree.seed(&db.url, &["--config", &config]);
            if !again {
                assert!(content(&tree.path) == fresh, "{name}");
            }
        }
        db.run("UPDATE api_facility SET name = replace(name, '!', '')");
    }
}

#[test]
fn a_run_that_begins_nothing_leaves_nothing_behind() {
    let tree = Tree::new();
    seed(NOWHERE, &tree.path, &[]).fails(1, &["127.0.0.1"]);
    assert!(!tree.path.exists());
    fs::create_dir(&tree.path).unwrap();
    seed(NOWHERE, &tree.path, &[]).fails(1, &["127.0.0.1"]);
    assert!(names(&tree.path).is_empty(), "{:?}", names(&tree.path));
}

#[test]
fn an_output_that_cannot_be_a_directory_is_refused_before_the_database_is_asked() {
    let tree = Tree::new();
    let file = tree.beside("file");
    fs::write(&file, "mine").unwrap();
    let slash = format!("{}/", file.display());
    seed(NOWHERE, Path::new(&slash), &[]).fails(
        2,
        &[&format!(
            "error: the output {} is a file: name a file.mbtiles, a file.pmtiles, a directory/, ",
            file.display()
        )],
    );
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    let deep = tree.beside("no/where/tiles");
    seed(NOWHERE, &deep, &[]).fails(
        2,
        &[&format!(
            "error: the folder {} of the output {} does not exist: make it, or choose another --output",
            tree.beside("no/where").display(),
            deep.display()
        )],
    );
    assert!(!tree.beside("no").exists());
}

#[test]
fn what_stands_in_the_way_of_a_tile_is_named_and_left_alone() {
    let db = Db::with_facilities(50);
    let tree = Tree::new();
    fs::create_dir(&tree.path).unwrap();
    fs::write(tree.path.join("3"), "mine").unwrap();
    let shown = tree.path.join("3");
    seed(&db.url, &tree.path, &["--zoom", "0-4"]).fails(
        1,
        &[&format!(
            "error: {} is a file where a folder of tiles must be: remove it, or choose another --output or template",
            shown.display()
        )],
    );
    assert_eq!(fs::read(&shown).unwrap(), b"mine");
    assert!(tree.path.join("2").is_dir() && !tree.path.join("metadata.json").exists());
    fs::remove_file(shown).unwrap();
    fs::remove_dir_all(tree.path.join("0")).unwrap();
    fs::create_dir_all(tree.path.join("0/0/0.pbf/mine")).unwrap();
    let shown = tree.path.join("0/0/0.pbf");
    seed(&db.url, &tree.path, &["--zoom", "0-4"]).fails(
        1,
        &[&format!("error: cannot write {}: a folder has the name of a tile: remove it, or choose another --output or template\n  cause: ", shown.display())],
    );
    assert!(shown.join("mine").is_dir() && !tree.path.join(".oar-tiles/partial").exists());
    fs::remove_dir_all(shown).unwrap();
    tree.seed(&db.url, &["--zoom", "0-4"]);
    let fresh = Tree::new();
    fresh.seed(&db.url, &["--zoom", "0-4"]);
    assert!(content(&tree.path) == content(&fresh.path));
}

#[test]
fn a_tree_that_may_not_be_written_is_named_and_keeps_what_it_has() {
    let db = Db::with_facilities(50);
    let url = with_database(&std::env::var("TEST_DATABASE_URL_TCP").expect("run scripts/test"), &db.name);
    let tree = Tree::new();
    tree.seed(&db.url, &["--zoom", "0-4"]);
    let before = tree.files();
    db.run("UPDATE api_facility SET name = name || '!'");
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let own = tree.path.join(".oar-tiles");
    let lock = own.join("lock");
    for (closed, message) in [
        (
            vec![&own, &lock],
            format!(
                "error: cannot lock {}: give yourself the right to write there, or choose another --output\n  cause: Permission denied",
                lock.display()
            ),
        ),
        (
            vec![&own],
            format!(
                "error: cannot write {}: give yourself the right to write there, or choose another --output\n  cause: Permission denied",
                own.join("partial").display()
            ),
        ),
    ] {
        for path in &closed {
            mode(path, 0o555);
        }
        let ended = run(&mut humble(&seed_command(&url, &tree.path, &["--zoom", "0-4"])));
        for path in &closed {
            mode(path, 0o755);
        }
        ended.fails(1, &[&message]);
        assert!(tree.files() == before);
    }
    let folder = tree.path.join("0/0");
    mode(&folder, 0o555);
    let ended = run(&mut humble(&seed_command(&url, &tree.path, &["--zoom", "0-4"])));
    mode(&folder, 0o755);
    ended.fails(
        1,
        &[&format!("error: cannot write {}: give yourself the right to write there", folder.join("0.pbf").display())],
    );
    assert!(tree.files() == before);
}

#[test]
fn a_full_disk_fails_the_run_keeps_what_was_written_and_goes_on_when_there_is_room() {
    let db = Db::with_facilities(2_000);
    let tree = Tree::new();
    let fresh = Tree::new();
    fresh.seed(&db.url, &["--zoom", "0-10"]);
    // A file-size limit of 100 kB, which only the tiles of the lowest zooms exceed.
    let command = seed_command(&db.url, &tree.path, &["--zoom", "0-10"]);
    let mut limited = Command::new("bash");
    limited.args(["-c", "ulimit -f 20; exec \"$0\" \"$@\""]);
    let partial = tree.path.join(".oar-tiles/partial");
    let text = "make room on its disk and run the command again; the tiles written so far are kept, the manifest is unchanged\n  cause: ";
    run(&mut wrapped(limited, &command)).fails(1, &[&format!("error: no room to write {}", partial.display()), text]);
    assert!(!partial.exists() && !tree.path.join("metadata.json").exists());
    tree.seed(&db.url, &["--zoom", "0-10"]);
    let fresh = content(&fresh.path);
    assert!(content(&tree.path) == fresh);

    let Some(disk) = SmallDisk::mount(&tree.beside("disk"), "3m") else { return };
    let output = disk.path.join("tiles");
    seed(&db.url, &output, &["--zoom", "0-10"]).fails(1, &["error: no room to write ", text]);
    let left = files(&output);
    assert!(
        left.len() > 100 && !left.contains_key("metadata.json") && !left.keys().any(|name| name.contains("partial"))
    );
    assert!(left.iter().filter(|(name, _)| name.ends_with(".pbf")).all(|(name, bytes)| fresh[name] == *bytes));
    disk.resize("64m");
    seed(&db.url, &output, &["--zoom", "0-10"]).ok();
    assert!(content(&output) == fresh);
}

#[test]
fn of_two_runs_on_one_directory_the_second_is_told_who_writes_it() {
    let db = Db::with_facilities(100);
    let tree = Tree::new();
    let config = gated(&tree.beside(""), Place::Render, "");
    let gate = Gate::close(&db);
    let first = start_seed(&db.url, &tree.path, &["--config", &config]);
    gate.wait_for(2);
    let process = first.id();
    seed(&db.url, &tree.path, &["--force"]).fails(
        1,
        &[
            &format!("error: another run is writing {} (process {process} since 20", tree.path.display()),
            "): wait until it is done, or choose another --output",
        ],
    );
    gate.open();
    wait(first).ok();
    assert!(tree.tiles().keys().any(|(zoom, ..)| *zoom == 14));
}

#[test]
fn another_tileset_is_written_over_only_with_force() {
    let db = Db::with_facilities(100);
    let tree = Tree::new();
    tree.seed(&db.url, &["--zoom", "0-4"]);
    let before = tree.files();
    let config = tree.config("[layer_defaults]\nbuffer = 0\n");
    let arguments = ["--zoom", "0-4", "--config", &config];
    let found = tree.manifest()["fingerprint"].as_str().unwrap().to_owned();
    seed(&db.url, &tree.path, &arguments).fails(
        2,
        &[
            &format!(
                "error: {} holds another tileset (its fingerprint is {found}, this configuration's is ",
                tree.path.display()
            ),
            "): choose another --output, or write over it with --force",
        ],
    );
    assert!(tree.files() == before);
    // What was begun with --force lies there from then on, finished or not.
    let gated = gated(&tree.beside(""), Place::Render, "");
    let gate = Gate::close(&db);
    let mut child = start_seed(&db.url, &tree.path, &["--config", &gated, "--force"]);
    gate.wait_for(2);
    child.kill().unwrap();
    child.wait().unwrap();
    gate.open();
    seed(&db.url, &tree.path, &["--zoom", "0-4"]).fails(2, &["holds another tileset"]);
    tree.seed(&db.url, &["--zoom", "3", "--force"]);
    assert_eq!(tree.manifest()["kept"], serde_json::json!(null), "the tiles of other zooms are not known to be right");
    tree.seed(&db.url, &["--zoom", "0-14"]);
    let fresh = Tree::new();
    fresh.seed(&db.url, &["--zoom", "0-14"]);
    assert!(content(&tree.path) == content(&fresh.path));
}

#[test]
fn tiles_of_other_names_or_of_others_are_refused_without_force() {
    let db = Db::with_facilities(50);
    let tree = Tree::new();
    fs::create_dir_all(tree.path.join("1/0")).unwrap();
    fs::write(tree.path.join("1/0/0.pbf"), "theirs").unwrap();
    // Metadata of another program does not make them ours.
    for metadata in [None, Some("{\"name\": \"theirs\", \"format\": \"pbf\"}")] {
        if let Some(text) = metadata {
            fs::write(tree.path.join("metadata.json"), text).unwrap();
        }
        let before = tree.files();
        seed(&db.url, &tree.path, &["--zoom", "0-3"]).fails(
            2,
            &[&format!("error: {} holds files that look like tiles, such as 1/0/0.pbf, and no metadata.json of oar-tiles: choose another --output, or let them be replaced and deleted with --force", tree.path.display())],
        );
        assert!(tree.files() == before && !tree.path.join(".oar-tiles").exists());
    }
    tree.seed(&db.url, &["--zoom", "0-3", "--force"]);
    let fresh = Tree::new();
    fresh.seed(&db.url, &["--zoom", "0-3"]);
    assert!(content(&tree.path) == content(&fresh.path));
    // The same tileset under other names would leave the old files.
    let config = tree.config("[target]\ntemplate = \"t/{z}/{x}/{y}.pbf\"\n");
    let before = tree.files();
    seed(&db.url, &tree.path, &["--zoom", "0-3", "--config", &config]).fails(
        2,
        &[&format!("error: the tiles in {} are named {{z}}/{{x}}/{{y}}.pbf, this configuration names them t/{{z}}/{{x}}/{{y}}.pbf, and the old ones would stay: choose another --output, or write beside them with --force and remove them yourself", tree.path.display())],
    );
    assert!(tree.files() == before);
}

#[test]
fn damaged_notes_are_named_and_what_is_noted_with_force_is_right_again() {
    let db = Db::with_facilities(50);
    let tree = Tree::new();
    tree.seed(&db.url, &["--zoom", "0-3"]);
    let right = content(&tree.path);
    for (name, damage) in [
        ("metadata.json", "{\"name\": \"faci"),
        ("metadata.json", "{\"oar_tiles_manifest\": \"{}\"}"),
        (".oar-tiles/begun.json", ""),
    ] {
        fs::write(tree.path.join(name), damage).unwrap();
        let before = tree.files();
        seed(&db.url, &tree.path, &["--zoom", "0-3"]).fails(
            1,
            &[&format!(
                "error: {} is damaged: remove it, and run with --force\n  cause: ",
                tree.path.join(name).display()
            )],
        );
        assert!(tree.files() == before, "{name}");
        tree.seed(&db.url, &["--zoom", "0-3", "--force"]);
        assert!(content(&tree.path) == right, "{name}");
    }
}
