//! What is served after the target, or a part of it, is gone: never an empty map that caches may keep.

use std::path::Path;

use crate::support::places::{Places, files_below};
use crate::support::program::{program, run, seed};
use crate::support::served::{GZIP, Served, status};
use crate::support::{Db, until};

/// The zooms that [`seeded`] stores, which has some hundred tiles.
const ZOOMS: [&str; 2] = ["--zoom", "0-6"];

/// Seeds a directory.
fn seeded(db: &Db, folder: &Path, settings: &str) -> String {
    let (target, config) = (folder.join("tiles"), folder.join("c.toml"));
    std::fs::write(&config, format!("{}{settings}", crate::support::program::ROWS_LAYER)).unwrap();
    seed(&db.url, &target.join(""), &[&["--config", config.to_str().unwrap()], &ZOOMS[..]].concat()).ok();
    target.join("").to_str().unwrap().to_owned()
}

#[test]
fn a_directory_whose_volume_is_not_mounted_is_no_empty_map() {
    let (db, folder) = (Db::with_facilities(300), tempfile::tempdir().unwrap());
    let target = seeded(&db, folder.path(), "");
    let served = Served::new(&target, &["--cdn-cache-control", "max-age=86400"]);
    assert_eq!(status(&served.get("/0/0/0.pbf", GZIP)), 200);
    let aside = folder.path().join("unmounted");
    std::fs::rename(&target, &aside).unwrap();
    std::fs::create_dir(&target).unwrap();
    for file in ["", "README.txt"] {
        if !file.is_empty() {
            std::fs::write(Path::new(&target).join(file), "a mount point").unwrap();
        }
        for path in ["/0/0/0.pbf", "/6/0/0.pbf", "/tiles.json"] {
            let answer = served.get(path, GZIP);
            assert_eq!(status(&answer), 503, "{path}: {}", answer.head);
            assert!(answer.head.contains("no-store") && !answer.head.contains("max-age"), "{}", answer.head);
        }
        let (code, reasons) = served.admin("/readyz");
        assert!(
            code == 503 && reasons.contains("is no directory of tiles (it has neither a metadata.json nor"),
            "{reasons}"
        );
    }
    std::fs::remove_dir_all(&target).unwrap();
    std::fs::rename(&aside, &target).unwrap();
    until("the volume is back", || status(&served.get("/0/0/0.pbf", GZIP)) == 200);
    assert_eq!(served.admin("/readyz").0, 200);
}

#[test]
fn a_place_without_tiles_is_refused_at_the_start() {
    let places = Places::new();
    let folder = places.folder.path();
    std::fs::create_dir(folder.join("empty")).unwrap();
    std::fs::create_dir_all(folder.join("of-others/4/5")).unwrap();
    std::fs::write(folder.join("of-others/4/5/6.txt"), "text").unwrap();
    for (name, said) in [
        ("empty/", "is no directory of tiles (it has neither a metadata.json nor a file named as {z}/{x}/{y}.pbf)"),
        ("of-others/", "is no directory of tiles (it has neither a metadata.json nor a file named as {z}/{x}/{y}.pbf)"),
        ("s3:empty/", "is no prefix of tiles (it has neither a metadata.json nor an object named as {z}/{x}/{y}.pbf)"),
    ] {
        let mut command = program();
        command.args(["serve", &places.place(name), "--config", &places.config, "--listen", "127.0.0.1:0"]);
        run(places.with_keys(&mut command)).fails(2, &[said]);
    }
    // Another program's tiles, which have no notes.
    std::fs::write(folder.join("of-others/4/5/6.pbf"), "tile").unwrap();
    let served = Served::new(&places.place("of-others/"), &[]);
    assert_eq!(status(&served.get("/4/5/6.pbf", GZIP)), 200);
}

#[test]
fn a_stored_tile_that_is_gone_is_not_answered_as_empty() {
    for settings in ["", "[target]\ntemplate = \"{version}/{z}/{x}/{y}.pbf\"\npublish = \"versioned\"\n"] {
        let (db, folder) = (Db::with_facilities(300), tempfile::tempdir().unwrap());
        let target = seeded(&db, folder.path(), settings);
        // The folder of the version, which is part of each address.
        let version = std::fs::read_dir(&target).unwrap().map(|entry| entry.unwrap());
        let version = version.into_iter().find(|entry| !settings.is_empty() && entry.path().join("0").is_dir());
        let version = version.map_or(String::new(), |entry| format!("{}/", entry.file_name().to_str().unwrap()));
        let tiles = files_below(&Path::new(&target).join(&version));
        let tiles: Vec<String> = tiles.keys().map(|(z, x, y)| format!("{version}{z}/{x}/{y}.pbf")).collect();
        assert!(tiles.len() > 100, "{}", tiles.len());
        let served = Served::new(&target, &[]);
        let mut tiles = tiles.iter();
        // Until the server has listed the tiles, it does not know that they were there.
        until("a tile is known to be gone", || {
            let tile = tiles.next().expect("the server lists tiles within seconds");
            std::fs::remove_file(Path::new(&target).join(tile)).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(50));
            let answer = served.get(&format!("/{tile}"), GZIP);
            assert!(matches!(status(&answer), 503 | 204), "{}", answer.head);
            status(&answer) == 503
        });
        // A tile that never was is empty.
        assert_eq!(status(&served.get(&format!("/{version}6/63/63.pbf"), GZIP)), 204);
        assert_eq!(status(&served.get(&format!("/{}", tiles.next().unwrap()), GZIP)), 200);
    }
}
