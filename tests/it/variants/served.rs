//! A server of families: each variant below its value, a list of its own, and bounds that many variants do not move.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::World;
use crate::support::folder::Folder;
use crate::support::nginx::Answer;
use crate::support::program::{Run, program, run};
use crate::support::served::{GZIP, Served, status};
use crate::support::{Archive, Db, schemas, until};

/// Values that no path may take for anything but a value.
const ODD: [&str; 9] = ["bd", "a/b", "..", ".", "5", "assets", "tiles.json", "l\u{f6}w %41", "{slug}"];

pub(super) fn served(config: &str, arguments: &[&str]) -> Served {
    let mut command = program();
    command.args(["serve", "--config", config, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
    Served::of(command.args(arguments))
}

fn tile(served: &Served, variant: &str, tile: (u8, u32, u32)) -> Answer {
    served.get(&format!("{variant}{}/{}/{}.pbf", tile.0, tile.1, tile.2), GZIP)
}

/// The path in a URL of the server.
fn path_in(served: &Served, url: &Value) -> String {
    let url = url.as_str().unwrap();
    url.strip_prefix(&format!("http://127.0.0.1:{}", served.port)).unwrap_or_else(|| panic!("{url}")).to_owned()
}

/// A family whose variants differ in which part of the facilities they have, by a list of values.
pub(super) struct Listed {
    db: Db,
    folder: Folder,
}

impl Listed {
    pub(super) fn new(values: &[&str], all: bool, more: &str) -> (Listed, String) {
        let world = Listed { db: Db::with_facilities(60), folder: Folder::new() };
        let config = world.write(values, all, more);
        (world, config)
    }

    fn write(&self, values: &[&str], all: bool, more: &str) -> String {
        let folder = self.folder.beside("").display().to_string();
        let folder = folder.trim_end_matches('/');
        let list: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(at, value)| format!("{{ slug = {}, part = {} }}", json!(value), at % 3))
            .collect();
        let all = if all { format!("all = \"{folder}/all.pmtiles\"\n") } else { String::new() };
        self.folder.config(&format!(
            "[tileset]\nname = \"family\"\nzoom = \"0-2\"\n[tileset.variants]\nvalues = [{}]\nwhere = {{ facilities = \"abs(hashtext(id)) % 3 = !part!\" }}\noutput = \"{folder}/by/{{slug}}.pmtiles\"\n{all}{more}\n[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\ngeometry = \"location\"\nkey = [\"id\"]\nproperties = [\"id\"]\n",
            list.join(", ")
        ))
    }

    pub(super) fn oar_tiles(&self, config: &str, arguments: &[&str]) -> Run {
        run(program().args(arguments).args(["--config", config, "--database-url", &self.db.url]))
    }

    fn held(&self, target: &Path) -> crate::support::tracked::Tiles {
        let copy = self.folder.beside("held.mbtiles");
        run(program().args(["copy", "--force", target.to_str().unwrap(), copy.to_str().unwrap()])).ok();
        Archive::open(&copy).stored()
    }
}

#[test]
fn each_variant_is_served_below_its_value_and_all_under_the_name_of_the_tileset() {
    let (world, config) = Listed::new(&ODD, true, "[serve]\ntag_headers = [\"Cache-Tag\"]\n");
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    let served = served(&config, &["--preview", "--cache-control", "max-age=600"]);
    let list = served.json("/family/variants.json");
    schemas::text_fits("variant-list", &list.to_string());
    assert_eq!((&list["count"], &list["pages"]), (&json!(ODD.len()), &json!(1)));
    let mut tags = std::collections::BTreeSet::new();
    for variant in list["variants"].as_array().unwrap() {
        let (value, path) = (variant["values"]["slug"].as_str().unwrap(), path_in(&served, &variant["url"]));
        let segment = path.trim_start_matches("/family/").trim_end_matches('/');
        let held = world.held(&world.folder.beside(&format!("by/{segment}.pmtiles").replace("%7E", "~")));
        for (coord, bytes) in &held {
            let answer = tile(&served, &path, *coord);
            assert_eq!((status(&answer), answer.body == *bytes), (200, true), "{value} {path} {coord:?}");
            assert_eq!(answer.header("cache-control"), Some("max-age=600"));
            tags.insert(answer.header("cache-tag").unwrap().to_owned());
            // The value itself, percent-encoded, is another address of the same tile, which no purge by URL reaches.
            let exact = format!(
                "/family/{}/",
                percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC)
            );
            let other = tile(&served, &exact, *coord);
            assert_eq!((status(&other), other.body == *bytes), (200, true), "{value} {exact} {coord:?}");
            if exact != path {
                assert_eq!(other.header("cache-control"), Some("max-age=5"), "{exact}");
            }
            assert_eq!(status(&tile(&served, &path, *coord)), 200);
        }
        let tilejson = served.json(&format!("{path}tiles.json"));
        assert_eq!(tilejson["tiles"][0], format!("{}{{z}}/{{x}}/{{y}}.pbf", variant["url"].as_str().unwrap()));
        let page = String::from_utf8(served.get(&path, "").body).unwrap();
        assert!(page.contains(&format!("data-public-url=\"{}\"", variant["url"].as_str().unwrap())), "{page}");
        assert_eq!(status(&served.get(&format!("{path}assets/preview.js"), "")), 200);
        let moved = served.get(path.trim_end_matches('/'), "");
        // What the tileset without conditions has under this name goes first.
        let expected = if value == "tiles.json" { 200 } else { 308 };
        assert_eq!(status(&moved), expected, "{path}");
    }
    assert!(tags.len() >= ODD.len(), "each variant has tags of its own: {tags:?}");
    for ((zoom, x, y), bytes) in world.held(&world.folder.beside("all.pmtiles")) {
        let answer = served.get(&format!("/family/{zoom}/{x}/{y}.pbf"), GZIP);
        assert_eq!((status(&answer), answer.body == bytes), (200, true), "{zoom}/{x}/{y}");
    }
    for path in ["/family/tiles.json", "/family/", "/family/assets/preview.js"] {
        assert_eq!(status(&served.get(path, "")), 200, "{path}");
    }
    let catalogue = served.json("/catalog");
    schemas::text_fits("catalogue", &catalogue.to_string());
    let url = format!("http://127.0.0.1:{}/family/", served.port);
    assert_eq!(catalogue["tilesets"].as_array().unwrap().len(), 1);
    let family = json!({ "name": "family", "variants": ODD.len(), "url": format!("{url}{{slug}}/"), "list": format!("{url}variants.json") });
    assert_eq!(catalogue["families"], json!([family]));
    let index = String::from_utf8(served.get("/", "").body).unwrap();
    assert!(index.contains("9 variants</a>"), "{index}");
}

#[test]
fn what_is_no_value_is_404_and_reaches_no_file() {
    let (world, config) = Listed::new(&["bd", "in"], false, "");
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    // A variant that nobody lists, beside the others.
    std::fs::copy(world.folder.beside("by/bd.pmtiles"), world.folder.beside("by/other.pmtiles")).unwrap();
    let served = served(&config, &[]);
    assert_eq!(status(&served.get("/family/bd/0/0/0.pbf", "")), 200);
    let long = "x".repeat(1_500);
    for value in [
        "other",
        "BD",
        "bd%20",
        "%62d%00",
        "bd%00",
        "%00",
        "..",
        "%2e%2e",
        "..%2fby%2fbd",
        "%2E%2E%2Fby%2Fbd",
        "..%5Cbd",
        "%FF",
        "%",
        "%zz",
        "by%2Fbd",
        "bd.pmtiles",
        "~62d",
        "*",
        "%7Bslug%7D",
        "%27%20OR%201=1",
        "",
        ".family.variants.pmtiles.oar-tiles",
        &long,
    ] {
        for rest in ["0/0/0.pbf", "tiles.json", "", "family.json", "../bd/tiles.json"] {
            let answer = served.get(&format!("/family/{value}/{rest}"), "");
            assert!(matches!(status(&answer), 404 | 400), "{value}/{rest} {}", answer.head);
        }
    }
    for (path, expected) in [
        ("/family/%62d/0/0/0.pbf", 200),
        ("/family/bd/00/0/0.pbf", 400),
        ("/family/bd/%2e%2e/in/0/0/0.pbf", 404),
        ("/family/bd/in/0/0/0.pbf", 404),
        ("/family/tiles.json", 404),
        ("/family/0/0/0.pbf", 404),
        ("/family/variants.json?page=2", 404),
        ("/family/variants.json?page=0", 404),
        ("/family/variants.json?page=99999999999999999999", 404),
        ("/family/variants.json?x=1", 404),
        ("/bd/0/0/0.pbf", 404),
    ] {
        assert_eq!(status(&served.get(path, "")), expected, "{path}");
    }
    assert_eq!(status(&served.get(&format!("/family/{}/0/0/0.pbf", "y".repeat(3_000)), "")), 414);
    let state: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
    assert_eq!(
        (&state["families"][0]["variants"], &state["families"][0]["failure"]),
        (&json!(2), &Value::Null),
        "{state}"
    );
    assert!(state["families"][0]["open"].as_u64().unwrap() <= 2, "{state}");
    let metrics = served.admin("/metrics").1;
    assert!(metrics.contains("oar_tiles_variants{tileset=\"family\"} 2"), "{metrics}");
    assert!(!metrics.contains("family/"), "no metric has the value of a variant: {metrics}");
}

#[test]
fn variants_that_come_change_and_go_are_followed() {
    let world = World::with_contributors(120, 4);
    let config = world.contributors(".pmtiles");
    let all = |arguments: &[&str]| world.oar_tiles(&config, arguments).ok();
    all(&["track", "install"]);
    all(&["seed", "--progress", "none"]);
    let served = served(&config, &[]);
    let list = served.json("/catalog");
    let tileset = list["families"][0]["name"].as_str().unwrap().to_owned();
    assert_eq!(list["families"][0]["variants"], 4);
    let path = |slug: &str| format!("/{tileset}/{slug}/0/0/0.pbf");
    let old = served.get(&path("c2"), GZIP);
    assert_eq!(status(&old), 200);
    // A change of its rows.
    world.db.run("UPDATE api_facility SET name = name || ' and sons'");
    all(&["reseed", "--progress", "none"]);
    until("the change is served", || served.get(&path("c2"), GZIP).body != old.body);
    assert_ne!(served.get(&path("c2"), GZIP).header("etag"), old.header("etag"));
    // A new value.
    assert_eq!(status(&served.get(&path("c9"), "")), 404);
    world.db.run(
        "INSERT INTO contributor VALUES (9, 'c9'); INSERT INTO membership SELECT 9, id FROM api_facility LIMIT 20",
    );
    all(&["reseed", "--progress", "none"]);
    until("the new variant is served", || status(&served.get(&path("c9"), "")) == 200);
    // One that vanishes is served no more, first while its target still stands, then without.
    world.db.run("DELETE FROM contributor WHERE number = 9");
    all(&["reseed", "--progress", "none"]);
    until("the vanished one is not served", || status(&served.get(&path("c9"), "")) == 404);
    assert!(world.path("by/c9.pmtiles").exists());
    all(&["reseed", "--progress", "none", "--prune-variants"]);
    assert_eq!(status(&served.get(&path("c9"), "")), 404);
    // One damaged target does no harm to the others, and the server is ready.
    std::fs::write(world.path("by/c3.pmtiles"), "no archive").unwrap();
    until("the damage is noticed", || status(&served.get(&path("c3"), "")) == 503);
    assert_eq!((status(&served.get(&path("c2"), "")), served.admin("/readyz").0), (200, 200));
    // Without the manifest the server goes on with what it knows, and says so.
    let manifest = std::fs::read_dir(world.path("by")).unwrap().map(|entry| entry.unwrap().path());
    let notes =
        manifest.into_iter().find(|path| path.display().to_string().contains(".variants.pmtiles.oar-tiles")).unwrap();
    std::fs::rename(&notes, world.path("aside")).unwrap();
    until("readyz says that the manifest is gone", || {
        served.admin("/readyz").1.contains("the manifest of the variants cannot be read")
    });
    assert_eq!(status(&served.get(&path("c2"), "")), 200);
    std::fs::rename(world.path("aside"), &notes).unwrap();
    until("it is ready again", || served.admin("/readyz").0 == 200);
}

#[test]
fn many_variants_take_few_files_and_a_bounded_list() {
    let names: Vec<String> = (0..1_100).map(|number| format!("v{number}")).collect();
    let values: Vec<&str> = names.iter().map(String::as_str).collect();
    let (world, config) = Listed::new(&values[..3], false, "");
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    // The archives of the others are copies: what a server does with them is the same, and they are there at once.
    let notes = world.folder.beside("by/.family.variants.pmtiles.oar-tiles");
    let list = std::fs::read_dir(notes.join("variants")).unwrap().next().unwrap().unwrap().path();
    let mut variants: Value = serde_json::from_slice(&std::fs::read(&list).unwrap()).unwrap();
    let first = variants[0].clone();
    for name in &names[3..] {
        let mut variant = first.clone();
        variant["segments"] = json!([name]);
        let of_name = |value: &Value| {
            if value.as_str().is_some_and(|text| text.starts_with('v')) { json!(name) } else { value.clone() }
        };
        variant["values"] = variant["values"].as_array().unwrap().iter().map(of_name).collect();
        variants.as_array_mut().unwrap().push(variant);
        std::fs::hard_link(world.folder.beside("by/v0.pmtiles"), world.folder.beside(&format!("by/{name}.pmtiles")))
            .unwrap();
    }
    std::fs::write(&list, variants.to_string()).unwrap();
    let config = world.write(&values, false, "");
    let served = served(&config, &[]);
    let files = || std::fs::read_dir(format!("/proc/{}/fd", served.child.id())).map_or(0, Iterator::count);
    let before = files();
    for name in &names {
        assert_eq!(status(&served.get(&format!("/family/{name}/0/0/0.pbf"), "")), 200, "{name}");
    }
    let state: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
    assert!(state["families"][0]["open"].as_u64().unwrap() <= 64, "{state}");
    let begun = Instant::now();
    while files() > before + 80 && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(files() <= before + 80, "{} open files, {before} before", files());
    let page = served.json("/family/variants.json");
    assert_eq!(
        (page["variants"].as_array().unwrap().len(), &page["pages"], &page["count"]),
        (1_000, &json!(2), &json!(1_100))
    );
    let next = served.json(&path_in(&served, &page["next"]));
    assert_eq!((next["variants"].as_array().unwrap().len(), &next["next"]), (100, &Value::Null));
    assert!(served.get("/catalog", "").body.len() < 1_000);
}

#[test]
fn a_server_of_a_family_that_was_never_seeded_says_so() {
    let (_world, config) = Listed::new(&["bd"], true, "");
    run(program().args(["serve", "--config", &config, "--listen", "127.0.0.1:0"]))
        .fails(4, &["its variants were never seeded"]);
}

/// Numbers that look random, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

#[test]
fn random_paths_below_names_are_never_500_and_never_a_file() {
    let (world, config) = Listed::new(&["bd", "a/b", ".."], true, "");
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    let secret = "what no client may see";
    for place in ["secret", "by/secret.json", "by/tiles.json"] {
        std::fs::write(world.folder.beside(place), secret).unwrap();
    }
    let served = served(&config, &["--preview"]);
    let pieces = [
        "family",
        "bd",
        "a%2Fb",
        "a~2Fb",
        "~2E.",
        "..",
        ".",
        "%2e%2e",
        "%2F",
        "%5c",
        "%00",
        "%",
        "%ff",
        "0",
        "00",
        "+1",
        "-1",
        "1e3",
        "4294967296",
        "0.pbf",
        "0.mvt",
        "0.png",
        "tiles.json",
        "variants.json",
        "changes",
        "assets",
        "preview.js",
        "secret",
        "secret.json",
        "all.pmtiles",
        "by",
        "catalog",
        "",
        "{z}",
        "etc",
        "passwd",
        "family.json",
        ";a=b",
        "bd.pmtiles",
        "\u{00}",
        "日",
    ];
    let mut random = Random(7);
    for _ in 0..4_000 {
        let (mut path, depth) = (String::new(), 1 + random.below(8));
        if random.below(3) > 0 {
            path.push_str("/family");
        }
        for _ in 0..depth {
            path.push('/');
            for _ in 0..=random.below(7) / 6 {
                path.push_str(pieces[random.below(pieces.len())]);
            }
        }
        let path = path.replace('\u{0}', "%00").replace('日', "%E6%97%A5");
        // Events never end.
        if path.ends_with("/changes") {
            continue;
        }
        let answer = served.get(&path, "");
        assert!(matches!(status(&answer), 200 | 204 | 308 | 400 | 404), "{path} {}", answer.head);
        assert!(!String::from_utf8_lossy(&answer.body).contains(secret), "{path}");
    }
    assert_eq!(served.admin("/readyz").0, 200);
}
