//! `inspect`: the summary of a target, a tile as a table and as GeoJSON.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::archive::unpacked;
use crate::support::damaged::{Chance, changed, packed};
use crate::support::program::{Run, program, run};
use crate::support::{Archive, Db, seed};

fn inspect(target: &Path, arguments: &[&str]) -> Run {
    run(program().arg("inspect").arg(target).args(arguments))
}

#[test]
fn the_summary_counts_what_is_there() {
    let db = Db::with_facilities(500);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    seed(&db.url, &output, &["--zoom", "1-5"]).ok();
    let stored = Archive::open(&output).stored();
    let json: Value = serde_json::from_str(&inspect(&output, &["--json"]).ok().stdout).unwrap();
    assert_eq!((json["tiles"].as_u64().unwrap() as usize, json["name"].as_str()), (stored.len(), Some("facilities")));
    assert_eq!(json["manifest"]["stored"], json["tiles"]);
    assert_eq!(json["vector_layers"][0]["fields"]["is_closed"], "Boolean");
    for zoom in json["zooms"].as_array().unwrap() {
        let level = zoom["zoom"].as_u64().unwrap() as u8;
        let there = || stored.iter().filter(|(tile, _)| tile.0 == level);
        let mut sizes: Vec<usize> = there().map(|(_, bytes)| bytes.len()).collect();
        sizes.sort_unstable();
        assert_eq!(zoom["tiles"], sizes.len());
        assert_eq!(zoom["bytes"], sizes.iter().sum::<usize>());
        if sizes.iter().all(|size| *size < 1 << 14) {
            assert_eq!(zoom["median"], sizes[sizes.len().div_ceil(2) - 1]);
        }
        assert_eq!(zoom["largest"]["bytes"], *sizes.last().unwrap());
    }
    let table = inspect(&output, &[]).ok().stdout;
    let line = |start: &str| {
        table.lines().find(|line| line.trim_start().starts_with(start)).unwrap_or_else(|| panic!("{start}: {table}"))
    };
    assert_eq!(line("zoom").split_whitespace().collect::<Vec<_>>().join(" "), "zoom tiles bytes median p95 largest");
    assert!(line("all").contains(&stored.len().to_string()), "{table}");
    assert!(
        line("layer: ")
            .contains("facilities (zooms 1-5): address String, country_code String, id String, is_closed Boolean"),
        "{table}"
    );
    assert!(line("snapshot: ").contains(json["manifest"]["snapshot"].as_str().unwrap()), "{table}");
    assert!(line("seeded: 20").ends_with('Z'), "{table}");
    // What another program made says less.
    let bare = changed(&output, "bare", "DELETE FROM metadata WHERE name <> 'format'");
    let table = inspect(&bare, &[]).ok().stdout;
    assert!(table.contains("manifest: none"), "{table}");
}

/// Degrees of longitude and latitude, whatever the geometry.
fn degrees(coordinates: &Value, into: &mut Vec<(f64, f64)>) {
    let parts = coordinates.as_array().unwrap();
    match (parts[0].as_f64(), parts.get(1).and_then(Value::as_f64)) {
        (Some(longitude), Some(latitude)) => into.push((longitude, latitude)),
        _ => parts.iter().for_each(|part| degrees(part, into)),
    }
}

#[test]
fn geojson_has_the_databases_coordinates_and_properties() {
    let db = Db::with_facilities(800);
    let places: BTreeMap<String, (f64, f64, String, Option<bool>)> = db
        .rows("SELECT id, ST_X(location), ST_Y(location), name, is_closed FROM api_facility")
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3), row.get(4))))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    seed(&db.url, &output, &["--zoom", "0-12"]).ok();
    let mut seen = 0;
    for (zoom, x, y) in Archive::open(&output).stored().into_keys().step_by(97) {
        let shown = inspect(&output, &[&format!("{zoom}/{x}/{y}"), "--geojson"]).ok().stdout;
        let json: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(json["type"], "FeatureCollection");
        let unit = 360.0 / f64::from(1 << zoom) / 4096.0;
        for feature in json["features"].as_array().unwrap() {
            assert_eq!((&feature["type"], &feature["layer"]), (&"Feature".into(), &"facilities".into()));
            assert_eq!(feature["geometry"]["type"], "Point");
            let (longitude, latitude, name, closed) = &places[feature["properties"]["id"].as_str().unwrap()];
            let mut found = Vec::new();
            degrees(&feature["geometry"]["coordinates"], &mut found);
            assert!((found[0].0 - longitude).abs() <= unit && (found[0].1 - latitude).abs() <= unit, "{feature}");
            assert_eq!(
                (feature["properties"]["name"].as_str(), feature["properties"]["is_closed"].as_bool()),
                (Some(name.as_str()), *closed)
            );
            seen += 1;
        }
    }
    assert!(seen > 800, "{seen}");
    let table = inspect(&output, &["0/0/0"]).ok().stdout;
    assert_eq!(table.lines().count(), 801);
    assert_eq!(
        table.lines().next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["layer", "id", "geometry", "properties"]
    );
    assert!(places.values().all(|(_, _, name, _)| table.contains(name)), "{table}");
    for (arguments, code, text) in [
        (&["0/0/1"][..], 2, "\"0/0/1\" is no tile: columns and rows of zoom 0 are 0 to 0"),
        (&["tile"], 2, "\"tile\" is no tile: write zoom/column/row, such as 4/13/6"),
        (&["12/0/0"], 1, "t.mbtiles has no tile 12/0/0: nothing is drawn there"),
        (&["13/0/0"], 1, "t.mbtiles has no tile 13/0/0: its zooms are 0 to 12"),
        (&["0/0/0", "--layer", "roads"], 1, "t.mbtiles has no layer \"roads\" in tile 0/0/0: there is facilities"),
        (&["--geojson"], 2, "<Z/X/Y>"),
        (&["0/0/0", "--json"], 2, "cannot be used with"),
    ] {
        inspect(&output, arguments).fails(code, &[text]);
    }
    assert_eq!(inspect(&output, &["0/0/0", "--layer", "facilities"]).ok().stdout, table);
    let broken =
        changed(&output, "broken", "UPDATE tiles SET tile_data = substr(tile_data, 1, 40) WHERE zoom_level = 0");
    inspect(&broken, &["0/0/0"]).fails(1, &["tile 0/0/0 cannot be decoded", "cause: its gzip is broken"]);
}

/// Points, lines, polygons with holes, and properties of every kind: GDAL reads of a tile what we read.
#[test]
fn gdal_reads_the_same_from_a_tile() {
    let db = Db::with_facilities(0);
    db.run(
        "CREATE TABLE things AS SELECT n, n * 1000000007::int8 AS long, n / 7.0::float8 AS double, n / 7.0::float4 AS single, n % 2 = 0 AS even, 'Näh \"' || n || '\"' AS text,
            CASE n % 6 WHEN 0 THEN ST_MakePoint(n, n) WHEN 1 THEN ST_Collect(ST_MakePoint(n, -n), ST_MakePoint(n + 1, 3))
                WHEN 2 THEN ST_MakeLine(ST_MakePoint(n, 0), ST_MakePoint(5, n)) WHEN 3 THEN ST_Collect(ST_MakeLine(ST_MakePoint(n, 0), ST_MakePoint(5, n)), ST_MakeLine(ST_MakePoint(-n, 0), ST_MakePoint(-5, n)))
                WHEN 4 THEN ST_Difference(ST_Buffer(ST_MakePoint(n, n), 9), ST_Buffer(ST_MakePoint(n, n), 4))
                ELSE ST_Union(ST_Difference(ST_Buffer(ST_MakePoint(n, n), 9), ST_Buffer(ST_MakePoint(n, n), 4)), ST_Buffer(ST_MakePoint(-n, n), 3)) END AS g
         FROM generate_series(1, 40) AS n;
         UPDATE things SET g = ST_SetSRID(g, 4326); ALTER TABLE things ADD PRIMARY KEY (n); ALTER TABLE things ALTER g TYPE geometry(Geometry, 4326)",
    );
    let folder = tempfile::tempdir().unwrap();
    let (config, output) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    std::fs::write(&config, "[[layer]]\nname = \"things\"\ntable = \"things\"\nfeature_id = \"n\"\nbuffer = 0\n")
        .unwrap();
    seed(&db.url, &output, &["--zoom", "0-4", "--config", config.to_str().unwrap()]).ok();
    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    for ((zoom, x, y), packed) in Archive::open(&output).stored() {
        let file = folder.path().join("tile.pbf");
        std::fs::write(&file, unpacked(&packed)).unwrap();
        let place = [("Z", u32::from(zoom)), ("X", x), ("Y", y)]
            .map(|(axis, value)| ["-oo".to_owned(), format!("{axis}={value}")]);
        let gdal = Command::new("ogr2ogr")
            .args([
                "-f",
                "GeoJSON",
                "-t_srs",
                "EPSG:4326",
                "-lco",
                "RFC7946=NO",
                "-lco",
                "COORDINATE_PRECISION=12",
                "-oo",
                "CLIP=NO",
            ])
            .args(place.as_flattened())
            .arg("/vsistdout/")
            .arg(&file)
            .output()
            .expect("gdal-bin is installed by scripts/test");
        assert!(gdal.status.success(), "{}", String::from_utf8_lossy(&gdal.stderr));
        let theirs: Value = serde_json::from_slice(&gdal.stdout).unwrap();
        let ours: Value =
            serde_json::from_str(&inspect(&output, &[&format!("{zoom}/{x}/{y}"), "--geojson"]).ok().stdout).unwrap();
        let (ours, theirs) = (ours["features"].as_array().unwrap(), theirs["features"].as_array().unwrap());
        assert_eq!(ours.len(), theirs.len(), "{zoom}/{x}/{y}");
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert_eq!(ours["id"], theirs["properties"]["mvt_id"], "{ours}\n{theirs}");
            let kind = ours["geometry"]["type"].as_str().unwrap();
            assert_eq!(kind, theirs["geometry"]["type"], "{ours}\n{theirs}");
            *kinds.entry(kind.to_owned()).or_default() += 1;
            let (mut our, mut their) = (Vec::new(), Vec::new());
            degrees(&ours["geometry"]["coordinates"], &mut our);
            degrees(&theirs["geometry"]["coordinates"], &mut their);
            if kind.ends_with("Polygon") {
                // GDAL leaves rings as the tile turns them.
                let order = |a: &(f64, f64), b: &(f64, f64)| a.partial_cmp(b).unwrap();
                let rounded = |all: &mut Vec<(f64, f64)>| {
                    for (x, y) in all {
                        (*x, *y) = ((*x * 1e7).round(), (*y * 1e7).round());
                    }
                };
                rounded(&mut our);
                rounded(&mut their);
                our.sort_by(order);
                their.sort_by(order);
                assert_eq!(our.len(), their.len());
                assert!(
                    our.iter().zip(&their).all(|(a, b)| (a.0 - b.0).abs() < 2.0 && (a.1 - b.1).abs() < 2.0),
                    "{ours}\n{theirs}"
                );
            } else {
                assert_eq!(our.len(), their.len());
                assert!(
                    our.iter().zip(&their).all(|(a, b)| (a.0 - b.0).abs() < 1e-7 && (a.1 - b.1).abs() < 1e-7),
                    "{ours}\n{theirs}"
                );
            }
            for (name, value) in ours["properties"].as_object().unwrap() {
                let other = &theirs["properties"][name];
                // GDAL writes numbers by their double, and booleans by the layer's type.
                let same = match (value.as_f64(), other.as_f64()) {
                    (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a.abs().max(1.0),
                    _ => value == other,
                };
                assert!(same, "{name}: {value} {other}");
            }
        }
    }
    assert_eq!(
        kinds.keys().map(String::as_str).collect::<Vec<_>>(),
        ["LineString", "MultiLineString", "MultiPoint", "MultiPolygon", "Point", "Polygon"]
    );
}

#[test]
fn tiles_that_were_cut_or_changed_never_make_it_panic() {
    let db = Db::with_facilities(30);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    seed(&db.url, &output, &["--zoom", "0-4"]).ok();
    let mut chance = Chance(0x5eed);
    let mut broken = 0;
    for raw in Archive::open(&output).tiles().into_values() {
        for end in 0..raw.len() {
            assert!(oar_tiles::mvt::decode(&raw[..end]).is_err() || end == 0, "cut off at {end} of {}", raw.len());
        }
        for _ in 0..2_000 {
            let mut changed = raw.clone();
            for _ in 0..=chance.below(3) {
                let at = chance.below(changed.len());
                changed[at] = chance.below(256) as u8;
            }
            broken += u32::from(oar_tiles::mvt::decode(&changed).is_err());
        }
    }
    assert!(broken > 1_000, "{broken}");
}

#[test]
fn an_archive_that_is_being_written_is_read_with_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wal.mbtiles");
    let writer = Connection::open(&path).unwrap();
    writer
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE metadata (name text, value text); INSERT INTO metadata VALUES ('name', 'in the log');
             CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob);",
        )
        .unwrap();
    writer.execute("INSERT INTO tiles VALUES (0, 0, 0, ?1)", [packed(&[])]).unwrap();
    assert!(folder.path().join("wal.mbtiles-wal").metadata().unwrap().len() > 0);
    let json: Value = serde_json::from_str(&inspect(&path, &["--json"]).ok().stdout).unwrap();
    assert_eq!((json["name"].as_str(), json["tiles"].as_u64()), (Some("in the log"), Some(1)));
}

/// Width and height of a PNG (W3C, "Portable Network Graphics", 11.2.1).
fn size_of(picture: &[u8]) -> (u32, u32) {
    assert_eq!(&picture[..8], b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[test]
fn a_tile_is_drawn_as_a_picture() {
    let db = Db::with_facilities(500);
    let folder = tempfile::tempdir().unwrap();
    let (output, picture) = (folder.path().join("t.mbtiles"), folder.path().join("tile.png"));
    seed(&db.url, &output, &["--zoom", "0-1"]).ok();
    let drawn = |tile: &str, arguments: &[&str]| {
        let arguments: Vec<&str> =
            [tile, "--png", picture.to_str().unwrap()].iter().chain(arguments).copied().collect();
        assert_eq!(inspect(&output, &arguments).ok().stdout, format!("{}\n", picture.display()));
        std::fs::read(&picture).unwrap()
    };
    let whole = drawn("0/0/0", &[]);
    assert_eq!(size_of(&whole), (1_024, 1_024));
    assert!(whole.len() > 2_000, "a white picture has {} bytes", whole.len());
    assert_eq!(drawn("0/0/0", &["--layer", "facilities"]), whole);
    assert_ne!(drawn("1/1/0", &[]), whole);
    let piped = program().args(["inspect", output.to_str().unwrap(), "0/0/0", "--png", "-"]).output().unwrap();
    assert_eq!(piped.stdout, whole);
    let missing = folder.path().join("missing/tile.png");
    let refused = inspect(&output, &["0/0/0", "--png", missing.to_str().unwrap()]);
    refused.fails(2, &["cannot write the picture ", "choose another file", "No such file"]);
    // The target itself, under its own name or another one, is not replaced by a picture of it.
    let (link, before) = (folder.path().join("link.png"), std::fs::read(&output).unwrap());
    std::os::unix::fs::symlink(&output, &link).unwrap();
    for path in [&output, &link] {
        let refused = inspect(&output, &["0/0/0", "--png", path.to_str().unwrap()]);
        refused.fails(2, &["cannot write the picture ", "it would replace the output"]);
    }
    assert!(std::fs::read(&output).unwrap() == before);
}

/// The colours are those of the base map, and of the first layer.
#[test]
fn a_map_is_drawn_as_a_picture_without_a_browser() {
    let db = Db::with_facilities(0);
    db.run("INSERT INTO api_facility VALUES ('zurich', 'Zürich', '', 'CH', 'SRID=4326;POINT(8.55 47.37)', false, now(), now())");
    let folder = tempfile::tempdir().unwrap();
    let (output, picture) = (folder.path().join("t.mbtiles"), folder.path().join("map.png"));
    seed(&db.url, &output, &["--zoom", "2-6"]).ok();
    let drawn = |arguments: &[&str]| {
        let mut command = program();
        command.arg("preview").arg(&output).arg("--picture").arg(&picture).args(arguments);
        assert_eq!(run(&mut command).ok().stdout, format!("{}\n", picture.display()));
        let bytes = std::fs::read(&picture).unwrap();
        assert_eq!(size_of(&bytes), (1_280, 800));
        let pixels = tiny_skia::Pixmap::decode_png(&bytes).unwrap();
        move |x, y| {
            let pixel = pixels.pixel(x, y).unwrap();
            [pixel.red(), pixel.green(), pixel.blue()]
        }
    };
    let (water, land) = ([216, 226, 232], [246, 245, 241]);
    let is_blue = |[red, green, blue]: [u8; 3]| red < 100 && green < 160 && blue > 160;
    let is_near = |one: [u8; 3], other: [u8; 3]| one.iter().zip(other).all(|(one, other)| one.abs_diff(other) <= 2);
    let world = drawn(&["--at", "0,0,0"]);
    let (gulf, congo) = (world(640, 400), world(700, 400));
    assert!(is_near(gulf, water) && is_near(congo, land), "{gulf:?} {congo:?}");
    for zoom in [2, 6, 9] {
        let map = drawn(&["--at", &format!("8.55,47.37,{zoom}")]);
        assert!(is_blue(map(640, 400)), "zoom {zoom}: {:?}", map(640, 400));
        assert!(!is_blue(map(640, 420)), "zoom {zoom}: {:?}", map(640, 420));
    }
    // The target begins at zoom 2.
    let shallow = drawn(&["--at", "8.55,47.37,1"]);
    assert!(!is_blue(shallow(640, 400)), "{:?}", shallow(640, 400));
    let by_itself = drawn(&[]);
    assert!(is_blue(by_itself(640, 400)), "{:?}", by_itself(640, 400));
    let mut command = program();
    command.args(["preview", output.to_str().unwrap(), "--picture", "m.png", "--at", "8.55,47.37"]);
    run(&mut command).fails(2, &["\"8.55,47.37\" is no center: write longitude,latitude,zoom, such as 13.4,52.52,9"]);
}
