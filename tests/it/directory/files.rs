//! A directory as a target: the same tiles as in an archive, read by others, brought in line and nothing more.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::archive::unpacked;
use crate::support::tree::{Tree, empty_folders};
use crate::support::{Archive, Db, seed, shared_data};

/// What `ogrinfo` says about a source; gives the number of features of each layer.
fn features(source: &Path) -> BTreeMap<String, u64> {
    let gdal = Command::new("ogrinfo").args(["-ro", "-al", "-so"]).arg(source).output().unwrap();
    let text = String::from_utf8_lossy(&gdal.stdout).into_owned() + &String::from_utf8_lossy(&gdal.stderr);
    assert!(gdal.status.success() && !text.contains("ERROR"), "{text}");
    let after = |begin: &'static str| text.lines().filter_map(move |line| line.strip_prefix(begin));
    after("Layer name: ")
        .map(str::to_owned)
        .zip(after("Feature Count: ").map(|count| count.trim().parse().unwrap()))
        .collect()
}

#[test]
fn a_file_and_a_directory_hold_the_same_tiles_byte_for_byte_and_gdal_reads_both() {
    let generated = Some(Db::with_facilities(1_000));
    let real = shared_data("facilities.csv").map(|path| Db::with_csv(&path));
    for db in generated.iter().chain(&real) {
        let tree = Tree::new();
        let file = tree.beside("t.mbtiles");
        seed(&db.url, &file, &["--zoom", "0-12"]).ok();
        let (written, unchanged, deleted) = tree.seed(&db.url, &["--zoom", "0-12"]);
        let expected = Archive::open(&file).stored();
        assert!(tree.tiles() == expected, "the tiles differ");
        assert_eq!((written, unchanged, deleted), (expected.len() as u64, 0, 0));
        let own: Vec<String> = tree.files().into_keys().filter(|name| !name.ends_with(".pbf")).collect();
        assert_eq!(own, [".oar-tiles/begun.json", "metadata.json", "tiles.json"]);
        let (one, other) = (features(&tree.path.join("12")), features(&file));
        assert!(one["facilities"] >= db.value::<i64>("SELECT count(*) FROM api_facility") as u64, "{one:?}");
        assert_eq!(one, other);
    }
}

#[test]
fn tilejson_and_metadata_say_what_is_there() {
    let db = Db::with_facilities(500);
    let tree = Tree::new();
    let config = tree.config(
        "[tileset]\nname = \"Mills\"\nattribution = \"me\"\n[target]\npublic_url = \"https://t.example.org/m/\"\n",
    );
    tree.seed(&db.url, &["--zoom", "2-7", "--config", &config]);
    let fields = json!({ "id": "String", "name": "String", "address": "String", "country_code": "String", "is_closed": "Boolean" });
    let layers = json!([{ "id": "facilities", "description": "", "minzoom": 2, "maxzoom": 7, "fields": fields }]);
    let shown = tree.json("tiles.json");
    let side = |sql: &str| db.value::<f64>(&format!("SELECT {sql}(ST_Extent(location)) FROM api_facility"));
    let sides = [side("ST_XMin"), side("ST_YMin"), side("ST_XMax"), side("ST_YMax")];
    for (expected, found) in sides.iter().zip(shown["bounds"].as_array().unwrap()) {
        assert!((expected - found.as_f64().unwrap()).abs() < 1e-6, "{shown}");
    }
    assert_eq!(shown["center"][2], 2);
    // TileJSON 3.0.0, section 3: tilejson, tiles and vector_layers are required.
    for (name, value) in [
        ("tilejson", json!("3.0.0")),
        ("tiles", json!(["https://t.example.org/m/{z}/{x}/{y}.pbf"])),
        ("vector_layers", layers.clone()),
        ("name", json!("Mills")),
        ("attribution", json!("me")),
        ("minzoom", json!(2)),
        ("maxzoom", json!(7)),
        ("scheme", json!("xyz")),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    let metadata = tree.json("metadata.json");
    assert_eq!(
        (&metadata["minzoom"], &metadata["maxzoom"], &metadata["format"]),
        (&json!("2"), &json!("7"), &json!("pbf"))
    );
    let inner: serde_json::Value = serde_json::from_str(metadata["json"].as_str().unwrap()).unwrap();
    assert_eq!(inner["vector_layers"], layers);
    assert_eq!(tree.manifest()["stored"].as_u64().unwrap(), tree.tiles().len() as u64);
    // A later run without an address keeps the one that the target has; without an address of its own, tiles are found
    // beside the file.
    tree.seed(&db.url, &["--zoom", "2-7"]);
    assert_eq!(tree.json("tiles.json")["tiles"], json!(["https://t.example.org/m/{z}/{x}/{y}.pbf"]));
    tree.seed(&db.url, &["--zoom", "2-7", "--public-url", "relative"]);
    assert_eq!(tree.json("tiles.json")["tiles"], json!(["{z}/{x}/{y}.pbf"]));
}

#[test]
fn a_second_run_writes_nothing_and_touches_no_tile() {
    let db = Db::with_facilities(1_000);
    let tree = Tree::new();
    let (written, ..) = tree.seed(&db.url, &["--zoom", "0-9"]);
    let (stamps, shown) = (tree.stamps(), fs::metadata(tree.path.join("tiles.json")).unwrap().modified().unwrap());
    let (done, _, run) = tree.seeded(&db.url, &["--zoom", "0-9"]);
    assert_eq!(done, (0, written, 0));
    assert!(tree.stamps() == stamps, "a tile was touched");
    assert_eq!(fs::metadata(tree.path.join("tiles.json")).unwrap().modified().unwrap(), shown, "TileJSON was touched");
    let line = format!("(0 written, {written} unchanged, 0 deleted): {}", tree.path.display());
    assert!(
        run.stdout.replace('\u{2009}', " ").contains(&line.replace(&written.to_string(), &spaced(written))),
        "{}",
        run.stdout
    );
}

/// A count as the closing line groups it.
fn spaced(count: u64) -> String {
    if count < 1_000 { count.to_string() } else { format!("{} {:03}", count / 1_000, count % 1_000) }
}

#[test]
fn a_run_after_changes_writes_what_differs_deletes_what_vanished_and_nothing_else() {
    let db = Db::with_facilities(1_000);
    let tree = Tree::new();
    tree.seed(&db.url, &["--zoom", "0-10"]);
    // Files of others, some of which look nearly like tiles.
    let foreign = [
        "10/notes.txt",
        "10/0/01.pbf",
        "3/1/1.pbf.bak",
        "3/1/8.pbf",
        "23/0/0.pbf",
        "3/1/1.png",
        "index.html",
        "x/0/0/0.pbf",
    ];
    for name in foreign {
        let path = tree.path.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    let (before, stamps) = (tree.tiles(), tree.stamps());
    db.run(
        "UPDATE api_facility SET name = name || ' (moved)', location = ST_Translate(location, 1, 1) WHERE id LIKE '%7';
         DELETE FROM api_facility WHERE country_code IN ('FJ', 'NZ', 'AU');
         INSERT INTO api_facility VALUES ('N', 'New', '', 'IS', ST_SetSRID(ST_MakePoint(-21.9, 64.1), 4326), false, now(), now())",
    );
    let (done, _, run) = tree.seeded(&db.url, &["--zoom", "0-10"]);
    let fresh = Tree::new();
    fresh.seed(&db.url, &["--zoom", "0-10"]);
    let (fresh, now, new_stamps) = (fresh.tiles(), tree.tiles(), tree.stamps());
    let strange = |(address, _): &(&(u8, u32, u32), &Vec<u8>)| {
        !foreign.contains(&format!("{}/{}/{}.pbf", address.0, address.1, address.2).as_str())
    };
    assert!(now.iter().filter(strange).eq(fresh.iter()), "not what a fresh seed holds");
    let differ = fresh.iter().filter(|(address, bytes)| before.get(address) != Some(bytes)).count() as u64;
    let vanished = before.iter().filter(strange).filter(|(address, _)| !fresh.contains_key(address)).count() as u64;
    assert!(differ > 100 && vanished > 10 && differ < fresh.len() as u64, "{differ} {vanished}");
    assert_eq!(done, (differ, fresh.len() as u64 - differ, vanished));
    assert!(run.stdout.contains(&format!("{vanished} deleted): ")), "{}", run.stdout);
    for (address, stamp) in stamps {
        let rewritten = now.get(&address) != before.get(&address);
        assert_eq!(new_stamps.get(&address) != Some(&stamp), rewritten, "{address:?}");
    }
    assert_eq!(empty_folders(&tree.path), Vec::<std::path::PathBuf>::new());
    for name in foreign {
        assert_eq!(fs::read_to_string(tree.path.join(name)).unwrap(), name);
    }
}

#[test]
fn when_every_row_is_gone_no_tile_and_no_folder_is_left() {
    let db = Db::with_facilities(200);
    let tree = Tree::new();
    let (written, ..) = tree.seed(&db.url, &["--zoom", "0-8"]);
    db.run("DELETE FROM api_facility");
    assert_eq!(tree.seed(&db.url, &["--zoom", "0-8", "--allow-shrink"]), (0, 0, written));
    assert_eq!(
        crate::support::refusal::names(&tree.path),
        [".oar-tiles", "metadata.json", "tiles.json"].map(str::to_owned).into()
    );
}

#[test]
fn boxes_and_zooms_limit_what_is_compared_and_deleted_and_the_rest_is_kept_in_mind() {
    let db = Db::with_facilities(1_000);
    let tree = Tree::new();
    tree.seed(&db.url, &["--zoom", "0-8"]);
    let (before, first, shown) = (tree.tiles(), tree.manifest(), tree.json("tiles.json"));
    assert_eq!(first["kept"], json!(null));
    db.run("DELETE FROM api_facility WHERE country_code IN ('CN', 'BD')");
    let fresh = Tree::new();
    fresh.seed(&db.url, &["--zoom", "0-8"]);
    let fresh = fresh.tiles();
    // China lies in the box, Bangladesh beside it; zooms 0 to 6 are not asked for.
    let arguments = ["--zoom", "7-8", "--bbox", "100,15,130,45"];
    let (_, _, deleted) = tree.seed(&db.url, &arguments);
    let inside = |address: &(u8, u32, u32)| {
        let (zoom, x, y) = *address;
        let column = |lon: f64| ((lon + 180.0) / 360.0 * f64::from(1 << zoom)) as u32;
        let row = |lat: f64| {
            ((1.0 - lat.to_radians().tan().asinh() / std::f64::consts::PI) / 2.0 * f64::from(1 << zoom)) as u32
        };
        zoom >= 7 && (column(100.0)..=column(130.0)).contains(&x) && (row(45.0)..=row(15.0)).contains(&y)
    };
    let mut expected = before.clone();
    expected.retain(|address, _| !inside(address));
    expected
        .extend(fresh.iter().filter(|(address, _)| inside(address)).map(|(address, bytes)| (*address, bytes.clone())));
    assert!(tree.tiles() == expected);
    assert_eq!(
        deleted as usize,
        before.keys().filter(|address| inside(address) && !fresh.contains_key(address)).count()
    );
    assert!(deleted > 10 && expected != fresh);

    let narrow = tree.manifest();
    assert_eq!((&narrow["zooms"], &narrow["bbox"]), (&json!("7-8"), &json!(["100,15,130,45"])));
    assert_eq!(narrow["kept"], json!([{ "zooms": "0-8", "bbox": [] }]));
    assert_eq!(
        narrow["snapshot"], first["snapshot"],
        "changes are to be looked for from the oldest state that is shown"
    );
    let still = tree.json("tiles.json");
    for name in ["minzoom", "maxzoom", "vector_layers"] {
        assert_eq!(still[name], shown[name], "{name}");
    }
    for (now, then) in still["bounds"].as_array().unwrap().iter().zip(shown["bounds"].as_array().unwrap()) {
        // They were read back from six digits.
        assert!((now.as_f64().unwrap() - then.as_f64().unwrap()).abs() < 1e-6, "{still}");
    }
    // Once more, with --force, and elsewhere: nothing is forgotten, and what lies within what is kept is not noted
    // again.
    for arguments in [&arguments[..], &["--zoom", "8", "--bbox", "0,40,10,50", "--force"], &["--zoom", "3"]] {
        tree.seed(&db.url, arguments);
        let again = tree.manifest();
        assert_eq!(again["kept"], json!([{ "zooms": "0-8", "bbox": [] }]), "{arguments:?}");
        assert_eq!(again["snapshot"], first["snapshot"], "{arguments:?}");
    }
    tree.seed(&db.url, &["--zoom", "0-8"]);
    assert!(tree.tiles() == fresh);
    let whole = tree.manifest();
    assert_eq!(whole["kept"], json!(null));
    assert!(whole["snapshot"] != first["snapshot"]);
}

/// Two layers of one table.
const TWO_LAYERS: &str = "[[layer]]\nname = \"open\"\ntable = \"api_facility\"\nproperties = [\"name\"]\nwhere = \"NOT is_closed\"\n\
     [[layer]]\nname = \"all of them\"\ntable = \"api_facility\"\nproperties = [\"id\"]\nzoom = \"3-7\"\n";

#[test]
fn a_layer_in_the_template_splits_the_tileset() {
    let db = Db::with_facilities(500);
    let tree = Tree::new();
    let config = tree.config(TWO_LAYERS);
    let file = tree.beside("t.mbtiles");
    seed(&db.url, &file, &["--zoom", "0-7", "--config", &config]).ok();
    let config = tree.config(&format!("{TWO_LAYERS}[target]\ntemplate = \"t/{{layer}}/{{z}}/{{x}}/{{-y}}.mvt\"\n"));
    let (written, ..) = tree.seed(&db.url, &["--zoom", "0-7", "--config", &config]);
    let mut files = tree.files();
    let mut count = 0;
    for ((zoom, x, y), whole) in Archive::open(&file).tiles() {
        let row = (1 << zoom) - 1 - y;
        let mut layer = |name: &str| {
            let raw = files.remove(&format!("t/{name}/{zoom}/{x}/{row}.mvt")).map(|packed| unpacked(&packed));
            count += u64::from(raw.is_some());
            raw.unwrap_or_default()
        };
        let (open, all) = (layer("open"), layer("all%20of%20them"));
        // A tile is its layers one after the other (MVT 2.1, section 4.1); each begins with its name.
        assert!([&open[..], &all[..]].concat() == whole, "{zoom}/{x}/{y}");
        let named = |raw: &[u8], name: &str| {
            raw.is_empty()
                || raw
                    .windows(name.len() + 2)
                    .take(6)
                    .any(|part| part == [&[0x0a, name.len() as u8], name.as_bytes()].concat())
        };
        assert!(named(&open, "open") && named(&all, "all of them"), "{zoom}/{x}/{y}");
    }
    assert_eq!(written, count);
    let left: Vec<&String> = files.keys().collect();
    assert_eq!(left, [".oar-tiles/begun.json", "all%20of%20them.tiles.json", "metadata.json", "open.tiles.json"]);
    for (name, id, zooms) in [("open", "open", (0, 7)), ("all%20of%20them", "all of them", (3, 7))] {
        let shown = tree.json(&format!("{name}.tiles.json"));
        assert_eq!(shown["tiles"], json!([format!("t/{name}/{{z}}/{{x}}/{{-y}}.mvt")]));
        let layers = shown["vector_layers"].as_array().unwrap();
        assert_eq!(layers.len(), 1);
        assert_eq!(
            (&layers[0]["id"], &layers[0]["minzoom"], &layers[0]["maxzoom"]),
            (&json!(id), &json!(zooms.0), &json!(zooms.1))
        );
    }
    assert_eq!(tree.seed(&db.url, &["--zoom", "0-7", "--config", &config]), (0, written, 0));
}

#[test]
fn without_compression_tiles_are_the_plain_bytes() {
    let db = Db::with_facilities(300);
    let tree = Tree::new();
    tree.seed(&db.url, &["--zoom", "0-6"]);
    let packed = tree.tiles();
    let config = tree.config("[target]\ncompression = \"none\"\n");
    let arguments = ["--zoom", "0-6", "--config", &config];
    seed(&db.url, &tree.path, &arguments).fails(2, &["holds another tileset (its fingerprint is ", "with --force"]);
    assert!(tree.tiles() == packed);
    tree.seed(&db.url, &[&arguments[..], &["--force"]].concat());
    let expected: BTreeMap<_, _> = packed.iter().map(|(address, packed)| (*address, unpacked(packed))).collect();
    assert!(tree.tiles() == expected);
    assert!(features(&tree.path.join("6"))["facilities"] >= 300);
    // An archive always holds gzip.
    seed(&db.url, &tree.beside("t.mbtiles"), &arguments).ok();
    assert!(Archive::open(&tree.beside("t.mbtiles")).stored() == packed);
}
