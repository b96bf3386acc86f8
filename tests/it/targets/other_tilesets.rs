//! What is not the tileset that a run writes is not written over: another tileset, what other programs made, a folder
//! of other things. All of it is refused before the database is asked.

use std::path::Path;

use rusqlite::Connection;

use crate::support::places::Places;
use crate::support::program::{bare_program, program, run, seed_command};
use crate::support::refusal::NOWHERE;
use crate::support::{Db, seed};

const ARCHIVES: [&str; 3] = ["t.mbtiles", "t.pmtiles", "s3:t.pmtiles"];
const TARGETS: [&str; 5] = ["t.mbtiles", "t.pmtiles", "s3:t.pmtiles", "tiles/", "s3:tiles/"];

/// A configuration of some layers beside others.
fn config(places: &Places, name: &str, layers: &[&str]) -> String {
    let s3 = std::fs::read_to_string(&places.config).unwrap();
    let s3 = s3.split_once("[s3]").unwrap().1.to_owned();
    let layer =
        |layer: &&str| format!("[[layer]]\nname = \"{layer}\"\ntable = \"api_facility\"\nproperties = [\"name\"]\n");
    let layers: String = layers.iter().map(layer).collect();
    let path = places.folder.path().join(format!("{name}.toml"));
    std::fs::write(&path, format!("[tileset]\nname = \"{name}\"\nzoom = \"0-3\"\n[s3]{s3}\n{layers}")).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn another_tileset_is_not_written_over_without_force() {
    let (db, places) = (Db::with_facilities(50), Places::new());
    let mills = config(&places, "mills", &["mills", "more"]);
    let roads = config(&places, "roads", &["roads"]);
    let renamed = config(&places, "renamed", &["mills", "more"]);
    let seed = |name: &str, url: &str, config: &str, more: &[&str]| {
        let mut command = seed_command(url, Path::new(&places.place(name)), &["--config", config]);
        run(places.with_keys(command.args(more)))
    };
    for name in TARGETS {
        seed(name, &db.url, &mills, &[]).ok();
        let before = places.read_by_others_or_copy(name);
        let place = places.place(name);
        // Nobody listens there.
        seed(name, NOWHERE, &roads, &[]).fails(
            2,
            &[&format!(
                "error: {place} holds another tileset (\"mills\" with the layers mills, more), and this run writes \"roads\" with the layers roads: choose another target, or write over it with --force\n"
            )],
        );
        if ARCHIVES.contains(&name) {
            seed(name, NOWHERE, &renamed, &[])
                .fails(2, &[&format!("error: {place} holds another tileset (\"mills\" with ")]);
        }
        // The same tileset goes on to the database, also with one of its layers only, or with one more.
        seed(name, NOWHERE, &mills, &[]).fails(1, &["cannot reach the database"]);
        seed(name, NOWHERE, &mills, &["--layer", "mills"]).fails(1, &["cannot reach the database"]);
        seed(name, NOWHERE, &config(&places, "mills", &["mills", "roads"]), &[])
            .fails(1, &["cannot reach the database"]);
        config(&places, "mills", &["mills", "more"]);
        assert!(places.read_by_others_or_copy(name) == before, "{name}");
        seed(name, &db.url, &roads, &["--force"]).ok();
        assert!(places.read_by_others_or_copy(name) != before, "{name}");
    }
}

#[test]
fn a_copy_does_not_write_over_another_tileset_without_force() {
    let (db, places) = (Db::with_facilities(50), Places::new());
    let (mills, roads) = (config(&places, "mills", &["mills"]), config(&places, "roads", &["roads"]));
    for (config, name) in [(&mills, "mills.mbtiles"), (&roads, "roads.mbtiles")] {
        seed(&db.url, Path::new(&places.place(name)), &["--config", config]).ok();
    }
    let copy = |from: &str, to: &str, more: &[&str]| {
        let mut command = program();
        command.args(["copy", &places.place(from), &places.place(to), "--config", &places.config]).args(more);
        run(places.with_keys(&mut command))
    };
    for name in TARGETS {
        copy("mills.mbtiles", name, &[]).ok();
        let before = places.read_by_others_or_copy(name);
        let text = format!("error: {} holds another tileset (", places.place(name));
        copy("roads.mbtiles", name, &[]).fails(2, &[&text, "with --force"]);
        assert!(places.read_by_others_or_copy(name) == before, "{name}");
        // The same again, and a part of it twice: that has no manifest, but says who wrote it.
        copy("mills.mbtiles", name, &[]).ok();
        if ARCHIVES.contains(&name) {
            copy("mills.mbtiles", name, &["--zoom", "0-2"]).ok();
            copy("mills.mbtiles", name, &["--zoom", "0-1"]).ok();
        }
        copy("roads.mbtiles", name, &["--force"]).ok();
    }
}

#[test]
fn an_archive_of_another_program_is_not_written_over_without_force() {
    let (db, places) = (Db::with_facilities(50), Places::new());
    for name in ARCHIVES {
        places.seed(&db, name, &["--zoom", "0-2"]).ok();
    }
    // As another program would have written it: without manifest and generator.
    let path = places.place("t.mbtiles");
    let sql = "DELETE FROM metadata WHERE name IN ('oar_tiles_manifest', 'generator')";
    assert_eq!(Connection::open(&path).unwrap().execute(sql, []).unwrap(), 2);
    let before = std::fs::read(&path).unwrap();
    seed(NOWHERE, Path::new(&path), &[]).fails(
        2,
        &[&format!(
            "error: oar-tiles did not write {path} (it holds \"facilities\" with the layers facilities, and has no manifest of oar-tiles): choose another target, or write over it with --force\n"
        )],
    );
    assert!(std::fs::read(&path).unwrap() == before);
    seed(&db.url, Path::new(&path), &["--zoom", "0-2", "--force"]).ok();
    // Something else under the name of an archive.
    places.prefix.put("t.pmtiles", b"my thesis");
    let place = places.place("s3:t.pmtiles");
    let mut command = seed_command(NOWHERE, Path::new(&place), &["--config", &places.config]);
    run(places.with_keys(&mut command))
        .fails(2, &[&format!("error: oar-tiles did not write {place} (it is no PMTiles archive")]);
    assert_eq!(places.prefix.objects()["t.pmtiles"], b"my thesis");
}

#[test]
fn a_folder_of_other_things_is_not_written_into_without_force() {
    let db = Db::with_facilities(50);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("home");
    for (kept, refused) in [
        (&["thesis.txt", "Pictures/"][..], true),
        (&["index.html"], true),
        (&["1a/"], true),
        (&[], false),
        (&[".git/", "lost+found/"], false),
        (&["tiles.json", "latest.json"], false),
    ] {
        std::fs::create_dir(&target).unwrap();
        for name in kept {
            match name.strip_suffix('/') {
                Some(name) => std::fs::create_dir(target.join(name)).unwrap(),
                None => std::fs::write(target.join(name), "mine").unwrap(),
            }
        }
        let names = || crate::support::refusal::names(&target);
        let before = names();
        if refused {
            let example = kept.iter().map(|name| name.trim_end_matches('/')).min().unwrap();
            let text = format!(
                "error: {} holds other files, such as {example}, and no notes of oar-tiles: choose another --output (a new folder, or an empty one), or write tiles beside them with --force\n",
                target.display()
            );
            seed(NOWHERE, &target, &["--zoom", "0-2"]).fails(2, &[&text]);
            assert_eq!(names(), before, "nothing is left behind");
            seed(&db.url, &target, &["--zoom", "0-2", "--force"]).ok();
        } else {
            seed(NOWHERE, &target, &["--zoom", "0-2"]).fails(1, &["cannot reach the database"]);
            seed(&db.url, &target, &["--zoom", "0-2"]).ok();
        }
        // From then on it is ours.
        seed(&db.url, &target, &["--zoom", "0-2"]).ok();
        assert!(before.is_subset(&names()), "what was there stays");
        std::fs::remove_dir_all(&target).unwrap();
    }
    // Tiles of somebody else are named before the database is asked, too.
    std::fs::create_dir_all(target.join("1/0")).unwrap();
    std::fs::write(target.join("1/0/0.pbf"), "theirs").unwrap();
    seed(NOWHERE, &target, &[]).fails(2, &["holds files that look like tiles, such as 1/0/0.pbf"]);
}

#[test]
fn layers_of_ones_own_need_an_output() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("roads.toml");
    std::fs::write(&config, "[[layer]]\nname = \"roads\"\ntable = \"road\"\n").unwrap();
    let text = format!(
        "error: {} has layers of its own and names no output: write output = \"NAME.mbtiles\" below [tileset], or give --output (the default is the file of the default layers)\n",
        config.display()
    );
    let command = |arguments: &[&str]| {
        let mut command = bare_program();
        command.args(arguments).args(["--config", config.to_str().unwrap()]).current_dir(folder.path());
        command.env("DATABASE_URL", NOWHERE);
        command
    };
    for verb in
        [&["seed"][..], &["reseed"], &["reseed", "--watch"], &["publish"], &["track", "status"], &["track", "prune"]]
    {
        run(&mut command(verb)).fails(2, &[&text]);
    }
    // Where nothing is written, and where a target is named.
    for verb in [
        &["seed", "--dry-run"][..],
        &["seed", "--output", "roads.mbtiles"],
        &["track", "install"],
        &["track", "status", "roads.mbtiles"],
    ] {
        run(&mut command(verb)).fails(1, &["cannot reach the database"]);
    }
    run(command(&["seed"]).env("OAR_TILES_OUTPUT", "roads.mbtiles")).fails(1, &["cannot reach the database"]);
    run(&mut command(&["config"])).ok();
    // Nothing is drawn that nobody has asked for.
    run(bare_program().arg("seed").env("DATABASE_URL", NOWHERE).current_dir(folder.path()))
        .fails(2, &["error: no configuration says what to draw: oar-tiles init --database-url URL writes one"]);
    assert_eq!(crate::support::refusal::names(folder.path()).len(), 1, "nothing was written");
}

#[test]
fn what_is_no_target_makes_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["abfs://bucket/tiles/", "https://example.org/tiles/", "-", "~/tiles", "$HOME/tiles/"] {
        let shown = format!(
            "error: {text:?} is no target that oar-tiles knows: write a file.mbtiles, a file.pmtiles, a directory/, s3://bucket/prefix/ or "
        );
        for arguments in [
            &["seed", "--database-url", NOWHERE, "--output", text][..],
            &["reseed", "--database-url", NOWHERE, "--output", text],
            &["verify", text],
            &["inspect", text],
            &["copy", "a.mbtiles", text],
            &["publish", "--output", text],
        ] {
            run(program().args(arguments).current_dir(folder.path())).fails(2, &[&shown]);
        }
    }
    assert!(crate::support::refusal::names(folder.path()).is_empty());
}
