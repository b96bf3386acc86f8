//! Whole runs: a tileset in a container is seeded, brought up to date, served, read by every verb, copied, and is what
//! it would be in a file.

use std::path::Path;

use crate::support::Db;
use crate::support::azure::{Container, with_account};
use crate::support::program::{Run, program, run};
use crate::support::served::{GZIP, Served, status};

fn oar_tiles(db: Option<&Db>, arguments: &[&str]) -> Run {
    let mut command = program();
    with_account(command.args(arguments));
    if let Some(db) = db {
        command.args(["--database-url", &db.url]);
    }
    run(&mut command)
}

fn differs_from_none(one: &str, other: &str) {
    oar_tiles(None, &["diff", one, other]).ok();
}

#[test]
fn a_tileset_in_a_container_goes_through_its_whole_life() {
    let (db, container, folder) = (Db::with_facilities(400), Container::new(), tempfile::tempdir().unwrap());
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    oar_tiles(Some(&db), &["track", "install"]).ok();
    for name in ["tiles/", "t.pmtiles"] {
        let place = container.place(name);
        let seed = ["seed", "--progress", "none", "--zoom", "0-6", "--output", &place];
        oar_tiles(Some(&db), &seed).ok();
        db.run("UPDATE api_facility SET location = ST_Translate(location, 0.1, 0) WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id::text) LIMIT 9)");
        db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id || 'x') LIMIT 9)");
        oar_tiles(Some(&db), &["reseed", "--progress", "none", "--output", &place]).ok();
        oar_tiles(None, &["verify", &place]).ok();
        oar_tiles(Some(&db), &["verify", "--database", &place]).ok();
        assert!(oar_tiles(None, &["inspect", &place]).ok().stdout.contains("facilities"));

        let fresh = file(&format!("{}.mbtiles", name.trim_end_matches('/')));
        oar_tiles(Some(&db), &["seed", "--progress", "none", "--zoom", "0-6", "--output", &fresh]).ok();
        differs_from_none(&place, &fresh);
        let copied = container.place(&format!("copy-of-{name}"));
        oar_tiles(None, &["copy", &fresh, &copied]).ok();
        differs_from_none(&copied, &fresh);
        let back = file(&format!("back-{}.mbtiles", name.trim_end_matches('/')));
        oar_tiles(None, &["copy", &place, &back]).ok();
        differs_from_none(&back, &fresh);

        let mut serving = program();
        let served = Served::of(with_account(serving.args(["serve", &place, "--listen", "127.0.0.1:0"])));
        assert_eq!(status(&served.get("/0/0/0.pbf", GZIP)), 200, "{name}");
    }
    assert!(Path::new(&file("tiles.mbtiles")).exists());
}

#[test]
fn changed_headers_reach_every_tile() {
    let (db, container, folder) = (Db::with_facilities(50), Container::new(), tempfile::tempdir().unwrap());
    let (place, config) = (container.place("t/"), folder.path().join("c.toml"));
    let with_rule = |rule: &str, arguments: &[&str]| {
        let text = crate::support::program::over_rows(&format!("[s3]\ncache_control = \"{rule}\"\n"));
        std::fs::write(&config, text).unwrap();
        let mut command = program();
        with_account(command.args(arguments).env("OAR_TILES_CONFIG", &config));
        run(&mut command).ok()
    };
    with_rule("max-age=1", &["seed", "--database-url", &db.url, "--zoom", "0-3", "--output", &place]);
    let before = container.blobs();
    with_rule("max-age=2", &["publish", "--rewrite-headers", "--output", &place]);
    let after = container.blobs();
    for (name, was) in before.iter().filter(|(name, _)| name.ends_with(".pbf")) {
        let is = &after[name];
        assert!(is.bytes == was.bytes, "{name}");
        assert_eq!((was.cache_control.as_str(), is.cache_control.as_str()), ("max-age=1", "max-age=2"), "{name}");
    }
}

#[test]
fn shards_write_a_version_in_a_container_together() {
    let (db, container, folder) = (Db::with_facilities(300), Container::new(), tempfile::tempdir().unwrap());
    let (place, work) = (container.place("t/"), container.place(".seed/"));
    let config = folder.path().join("c.toml");
    oar_tiles(Some(&db), &["track", "install"]).ok();
    let text = "[target]\npublish = \"versioned\"\ntemplate = \"{version}/{z}/{x}/{y}.pbf\"\n";
    std::fs::write(&config, crate::support::program::over_rows(text)).unwrap();
    let shards = |verb: &str, arguments: &[&str]| {
        let mut command = program();
        command.args(["shards", verb, "--work", &work]).args(arguments);
        command.args(["--zoom", "0-5", "--database-url", &db.url, "--progress", "none"]);
        run(with_account(command.env("OAR_TILES_CONFIG", &config))).ok()
    };
    shards("begin", &["--shards", "2", "--output", &place]);
    shards("run", &["--shard", "1"]);
    shards("run", &["--shard", "2"]);
    shards("commit", &[]);
    let fresh = folder.path().join("fresh.mbtiles").to_str().unwrap().to_owned();
    oar_tiles(Some(&db), &["seed", "--progress", "none", "--zoom", "0-5", "--output", &fresh]).ok();
    differs_from_none(&place, &fresh);
}
