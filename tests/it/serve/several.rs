//! Several tilesets on one server: each below its name, a catalogue, one admin listener, shared workers and memory, a
//! writer for each.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::jobs::{TOKEN, with_token};
use crate::support::archive::Archive;
use crate::support::folder::Folder;
use crate::support::nginx::ask;
use crate::support::program::{program, run};
use crate::support::served::{GZIP, Served, status};
use crate::support::{Db, until};

/// A facility that lies in tile 4/8/7 and in no other of zoom 4.
const FACILITY: &str = "INSERT INTO api_facility VALUES ('NEW', 'new', 'x', 'BD', ST_SetSRID(ST_MakePoint(11, 11), 4326), false, now(), now())";

/// A database, and a configuration of two tilesets with live tiles and a token.
struct World {
    db: Db,
    folder: Folder,
    config: String,
}

impl World {
    fn new(serve: &str) -> World {
        let (db, folder) = (Db::with_facilities(300), Folder::new());
        std::fs::write(folder.beside("token"), TOKEN).unwrap();
        let text = |name: &str| folder.beside(name).display().to_string();
        let (all, low, token) = (text("all.mbtiles"), text("low.pmtiles"), text("token"));
        let config = folder.config(&format!(
            "[tileset_defaults]\nzoom = \"0-2\"\n[[tileset]]\nname = \"all\"\ndescription = \"Everything <b>\"\nlayers = [\"facilities\"]\noutput = \"{all}\"
[[tileset]]\nname = \"löw\"\nlayers = [\"low\"]\noutput = \"{low}\"
[serve]\ntoken_file = \"{token}\"\nworkers = 2\n{serve}
[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\nkey = [\"id\"]\nproperties = [\"id\", \"name\"]\nzoom = \"0-5\"
[[layer]]\nname = \"low\"\ntable = \"api_facility\"\nkey = [\"id\"]\nproperties = [\"country_code\"]\nwhere = \"right(id, 1) < '5'\"\nzoom = \"0-5\"\n"
        ));
        World { db, folder, config }
    }

    fn oar_tiles(&self, arguments: &[&str]) {
        run(program().args(arguments).args(["--config", &self.config, "--database-url", &self.db.url])).ok();
    }

    fn archive(&self, name: &str) -> Archive {
        let copy: PathBuf = self.folder.beside("copy.mbtiles");
        let from = self.folder.beside(name);
        run(program().args(["copy", "--force", from.to_str().unwrap(), copy.to_str().unwrap()])).ok();
        Archive::open(&copy)
    }

    fn served(&self, arguments: &[&str]) -> Served {
        let mut command = program();
        command.args(["serve", "--config", &self.config, "--database-url", &self.db.url]);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
        Served::of(command.args(arguments))
    }
}

#[test]
fn each_tileset_is_served_below_its_name_and_listed_and_counted_under_it() {
    let world = World::new("");
    world.oar_tiles(&["seed", "--progress", "none"]);
    let served = world.served(&["--live", "--preview"]);
    let (all, low) = (world.archive("all.mbtiles"), world.archive("low.pmtiles"));
    for (path, archive) in [("all", &all), ("l%C3%B6w", &low)] {
        for ((zoom, x, y), bytes) in archive.stored() {
            let answer = served.get(&format!("/{path}/{zoom}/{x}/{y}.pbf"), GZIP);
            assert_eq!(status(&answer), 200);
            assert!(answer.body == bytes, "{path}/{zoom}/{x}/{y}");
        }
    }
    // Live tiles of both, which differ.
    let live = ["/all/4/11/6.pbf", "/l%C3%B6w/4/11/6.pbf"].map(|path| served.get(path, GZIP));
    assert!(live.iter().all(|answer| status(answer) == 200) && live[0].body != live[1].body);

    let (url, catalogue) = (&format!("http://127.0.0.1:{}/", served.port), served.json("/catalog"));
    crate::support::schemas::text_fits("catalogue", &catalogue.to_string());
    let tileset = |name: &str, path: &str, layer: &str| {
        json!({ "name": name, "tilejson": [format!("{url}{path}/tiles.json")], "layers": [layer], "minzoom": 0, "maxzoom": 5,
            "live": true, "map": format!("{url}{path}/") })
    };
    let mut first = tileset("all", "all", "facilities");
    first["description"] = "Everything <b>".into();
    let second = tileset("löw", "l%C3%B6w", "low");
    assert_eq!(catalogue, json!({ "schema_version": 1, "tilesets": [first, second] }));
    let tilejson = served.json("/l%C3%B6w/tiles.json");
    assert_eq!(tilejson["tiles"][0], format!("{url}l%C3%B6w/{{z}}/{{x}}/{{y}}.pbf"));
    let index = String::from_utf8(served.get("/", "").body).unwrap();
    assert!(
        index.contains(&format!("<a href=\"{url}all/\">all</a>")) && index.contains("Everything &lt;b&gt;"),
        "{index}"
    );
    assert!(
        String::from_utf8(served.get("/all/", "").body).unwrap().contains(&format!("data-public-url=\"{url}all/\""))
    );
    assert_eq!(status(&served.get("/all/assets/preview.js", "")), 200);
    let moved = served.get("/all", "");
    assert_eq!((status(&moved), moved.header("location")), (308, Some(&*format!("{url}all/"))));
    for path in [
        "/0/0/0.pbf",
        "/tiles.json",
        "/other/0/0/0.pbf",
        "/all//0/0/0.pbf",
        "/all/catalog",
        "/%FF/0/0/0.pbf",
        "/all/%2e%2e/0/0/0.pbf",
    ] {
        assert_eq!(status(&served.get(path, "")), 404, "{path}");
    }

    let metrics = served.admin("/metrics").1;
    for line in [
        "oar_tiles_http_requests_total{tileset=\"all\",route=\"tile\",status=\"200\"}",
        "oar_tiles_render_seconds_count{tileset=\"löw\"} 1",
        "oar_tiles_http_requests_total{route=\"tilejson\",status=\"200\"}",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    let heads: Vec<&str> = metrics.lines().filter(|line| line.starts_with("# TYPE")).collect();
    assert!(heads.iter().all(|head| heads.iter().filter(|other| *other == head).count() == 1));
    let health: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
    assert_eq!((&health["ready"], &health["tilesets"][1]["name"]), (&true.into(), &"löw".into()));
    std::fs::remove_file(world.folder.beside("low.pmtiles")).unwrap();
    let (status, ready) = served.admin("/readyz");
    assert!(status == 503 && ready.contains("löw: "), "{ready}");
}

#[test]
fn one_tileset_that_was_chosen_has_all_paths_and_the_others_none() {
    let world = World::new("");
    world.oar_tiles(&["seed", "--progress", "none"]);
    for arguments in [&["--tileset", "all"][..], &[world.folder.beside("all.mbtiles").to_str().unwrap()]] {
        let served = world.served(arguments);
        assert_eq!(status(&served.get("/0/0/0.pbf", "")), 200);
        assert_eq!(status(&served.get("/all/0/0/0.pbf", "")), 404);
        assert_eq!(served.json("/catalog")["tilesets"][0]["tilejson"][0], format!("{}tiles.json", served.url));
        assert!(!served.admin("/metrics").1.contains("tileset="));
    }
}

#[test]
fn each_target_has_its_writer_and_its_jobs() {
    let world = World::new("");
    world.oar_tiles(&["track", "install"]);
    world.oar_tiles(&["seed", "--progress", "none"]);
    let served = world.served(&["--writer"]);
    until("both write", || served.admin("/status.json").1.matches("\"role\":\"writing\"").count() == 2);
    let before = ["/all/2/2/1.pbf", "/l%C3%B6w/2/2/1.pbf"].map(|path| served.get(path, GZIP).body);
    world.db.run(&FACILITY.replace("NEW", "N0"));
    for (path, before) in ["/all/2/2/1.pbf", "/l%C3%B6w/2/2/1.pbf"].iter().zip(&before) {
        until("the change is published", || served.get(path, GZIP).body != *before);
    }
    let submit = |path: &str| {
        let body = json!({ "what": "area", "area": [0, 0, 20, 20] }).to_string();
        ask(served.admin, "POST", path, &format!("{}Content-Length: {}\r\n\r\n{body}", with_token(), body.len()))
    };
    let submitted = submit("/l%C3%B6w/jobs");
    assert_eq!(
        (status(&submitted), submitted.header("location")),
        (202, Some("/l%C3%B6w/jobs/1")),
        "{}",
        submitted.head
    );
    assert_eq!(status(&submit("/jobs")), 405, "a job names its tileset");
    until("it is done", || served.admin("/l%C3%B6w/jobs/1").1.contains("\"state\":\"done\""));
    let listed: Value = serde_json::from_str(&served.admin("/jobs").1).unwrap();
    assert_eq!((listed["jobs"].as_array().unwrap().len(), &listed["jobs"][0]["tileset"]), (1, &"löw".into()));
    let admin = format!("http://127.0.0.1:{}", served.admin);
    let list = run(program().args(["jobs", "list", "--admin", &admin, "--tileset", "löw"])).ok();
    assert_eq!(list.stdout.lines().count(), 1, "{}", list.stdout);
    assert!(run(program().args(["jobs", "list", "--admin", &admin, "--tileset", "all"])).ok().stdout.is_empty());
}

#[test]
fn a_tileset_that_cannot_be_served_is_named() {
    let world = World::new("");
    world.oar_tiles(&["seed", "--progress", "none", "--tileset", "all"]);
    let mut command = program();
    command.args(["serve", "--config", &world.config, "--listen", "127.0.0.1:0"]);
    run(&mut command).fails(2, &["tileset \"löw\" cannot be served", "low.pmtiles"]);
}
