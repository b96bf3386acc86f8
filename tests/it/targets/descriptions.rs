//! What a target says for people: where a map begins, what layers and properties are.

use serde_json::{Value, json};

use crate::support::Db;
use crate::support::folder::Folder;
use crate::support::places::Places;
use crate::support::program::{program, run};
use crate::support::served::{Served, status};

const LAYER: &str = "[[layer]]
name = \"facilities\"
description = \"Places where clothes are made\"
property_descriptions = { name = \"As its owner calls it\" }
table = \"api_facility\"
geometry = \"location\"
properties = [\"name\", \"is_closed\"]
";

#[test]
fn center_and_descriptions_stand_in_every_kind_of_target() {
    let db = Db::with_facilities(50);
    let (places, folder) = (Places::new(), Folder::new());
    let keys = std::fs::read_to_string(&places.config).unwrap();
    let s3 = keys.find("[s3]").map_or("", |at| &keys[at..]);
    let s3 = s3.find("[[layer]]").map_or(s3, |at| &s3[..at]);
    let config = folder.config(&format!(
        "[tileset]\nzoom = \"0-3\"\ncenter = \"90.4,23.7,2\"\n[target]\npublic_url = \"relative\"\n{s3}\n{LAYER}"
    ));
    for kind in ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/"] {
        let place = places.place(kind);
        let mut command = program();
        command.args([
            "seed",
            "--progress",
            "none",
            "--database-url",
            &db.url,
            "--config",
            &config,
            "--output",
            &place,
        ]);
        run(places.with_keys(&mut command)).ok();
        let mut copied = folder.beside(&format!("copy-of-{}", kind.replace([':', '/'], "-")));
        copied.set_extension("mbtiles");
        let mut copy = program();
        copy.args(["copy", "--config", &config, &place]).arg(&copied);
        run(places.with_keys(&mut copy)).ok();
        for target in [&place, copied.to_str().unwrap()] {
            let mut command = program();
            command.args(["serve", target, "--config", &config, "--listen", "127.0.0.1:0"]);
            let served = Served::of(places.with_keys(&mut command));
            let answer = served.get("/tiles.json", "");
            assert_eq!(status(&answer), 200, "{target}");
            let told: Value = serde_json::from_slice(&answer.body).unwrap();
            let near = |one: &Value, other: f64| (one.as_f64().unwrap() - other).abs() < 1e-6;
            assert!(near(&told["center"][0], 90.4) && near(&told["center"][1], 23.7), "{target}: {told}");
            assert_eq!(told["center"][2], 2, "{target}");
            let layer = &told["vector_layers"][0];
            assert_eq!(layer["description"], "Places where clothes are made", "{target}");
            assert_eq!(layer["fields"], json!({ "name": "As its owner calls it", "is_closed": "Boolean" }), "{target}");
        }
    }
    let written: Value = serde_json::from_slice(
        &std::fs::read(format!("{}/tiles.json", places.place("tiles/").trim_end_matches('/'))).unwrap(),
    )
    .unwrap();
    assert_eq!(written["center"], json!([90.4, 23.7, 2]));
}

#[test]
fn texts_that_fit_nothing_are_refused() {
    let folder = Folder::new();
    for (text, message) in [
        (
            "[tileset]\ncenter = \"90,23\"",
            "line 2: \"90,23\" is no center: write longitude,latitude,zoom, such as 13.4,52.52,9",
        ),
        (
            "[[layer]]\nname = \"a\"\ntable = \"t\"\nproperties = [\"x\"]\nproperty_descriptions = { y = \"?\" }",
            "layer[a].property_descriptions (from ",
        ),
    ] {
        let config = folder.config(text);
        run(program().args(["config", "--config", &config])).fails(2, &[message]);
    }
}
