//! Patched tiles: what changed is put into the tile that the target holds, and nobody can tell it from a
//! tile rendered at once.

use std::collections::HashMap;
use std::path::Path;

use oar_tiles::mvt;
use oar_tiles::mvt::{FeatureKey, PointLayer};
use oar_tiles::target::{DirectoryReader, MbtilesReader, PmtilesReader, Template, TileReader};
use oar_tiles::tile::{GridBox, TileId};
use serde_json::Value;

use crate::support::archive::unpacked;
use crate::support::places::files_below;
use crate::support::program::{program, run, seed_command};
use crate::support::{Archive, Db, shared_data};

/// A layer of a test: its name, how it is configured, and whether it can be patched.
struct Case {
    name: &'static str,
    key: &'static str,
    config: &'static str,
    is_patched: bool,
}

/// Keys of every kind, and what is in the way of patching.
const CASES: &[Case] = &[
    Case { name: "texts", key: "text", config: "properties = [\"word\", \"id\", \"price\"]", is_patched: true },
    Case {
        name: "named",
        key: "varchar(20)",
        config: "properties = { Key = \"id\", up = \"upper(word)\" }",
        is_patched: true,
    },
    Case {
        name: "numbers",
        key: "bigint",
        config: "properties = [\"id\", \"word\", \"price\", \"open\"]",
        is_patched: true,
    },
    Case {
        name: "feature_ids",
        key: "integer",
        config: "feature_id = \"id\"\nproperties = [\"word\", \"open\"]",
        is_patched: true,
    },
    Case { name: "alone", key: "integer", config: "feature_id = \"id\"\nproperties = []", is_patched: true },
    Case {
        name: "uuids",
        key: "uuid",
        config: "properties = [\"id\", \"word\"]\nextent = 512\nbuffer = 200",
        is_patched: true,
    },
    Case {
        name: "address",
        key: "text",
        config: "properties = { id = \"id\", z = \"!zoom!\", x = \"!x!\" }\ncandidates = 0.01\nwhere = \"word <> 'w3'\"",
        is_patched: true,
    },
    // As ogr2ogr and ST_Multi write points.
    Case { name: "members", key: "integer", config: "properties = [\"id\", \"word\"]", is_patched: true },
    Case { name: "mixed", key: "integer", config: "properties = [\"id\", \"word\"]", is_patched: true },
    Case { name: "letters", key: "text", config: "properties = [\"id\"]", is_patched: false },
    Case { name: "unnamed", key: "text", config: "properties = [\"word\"]", is_patched: false },
    Case { name: "made", key: "text", config: "properties = { id = \"md5(id)\" }", is_patched: false },
    Case { name: "padded", key: "char(9)", config: "properties = [\"id\"]", is_patched: false },
    Case { name: "json", key: "text", config: "properties = [\"id\", \"more\"]", is_patched: false },
    // Without an index of places, each look would read the whole table.
    Case { name: "unindexed", key: "text", config: "properties = [\"id\"]", is_patched: false },
    Case { name: "degrees", key: "text", config: "properties = [\"id\"]\ntile_bounds = \"degrees\"", is_patched: true },
    Case {
        name: "thinned",
        key: "text",
        config: "properties = [\"id\"]\non_large_tile = \"thin\"\nmax_tile_features = 100\nrank = \"price\"",
        is_patched: false,
    },
];

impl Case {
    /// The key of the row of a number; the numbers of neighbouring rows are far apart, so that no order of keys is that
    /// of the rows.
    fn id(&self, number: &str) -> String {
        let mixed = format!("(({number}) * 7919 % 100003)");
        match self.key {
            "bigint" => format!("{mixed} - 50000"),
            "integer" => mixed,
            "uuid" => format!("md5(({mixed})::text)::uuid"),
            _ if self.name == "letters" => format!("chr(200 + ({mixed}) % 300) || {mixed}"),
            _ => format!("to_hex(({mixed})::int)"),
        }
    }

    /// The table with some rows in one town, many of them at the same places.
    fn create(&self) -> String {
        let Case { name, key, .. } = self;
        format!(
            "CREATE TABLE {name} (id {key} PRIMARY KEY, number int, word text, price float8, open boolean, more jsonb, stamp timestamptz, place geometry({kind}, {srid}));
             INSERT INTO {name} SELECT {id}, n, 'w' || n % 7, CASE WHEN n % 5 > 0 THEN n / 8.0 END, n % 3 = 0,
                 jsonb_build_object('k' || n % 4, n % 6), NULL, {place} FROM generate_series(1, 400) AS n;
             {index}",
            index = if *name == "unindexed" { String::new() } else { format!("CREATE INDEX ON {name} USING gist (place)") },
            id = self.id("n"),
            kind = match *name {
                "members" => "MultiPoint",
                "mixed" => "Geometry",
                _ => "Point",
            },
            srid = self.srid(),
            place = self.place("n % 90", "n % 90"),
        )
    }

    fn srid(&self) -> u32 {
        if self.name == "numbers" { 3857 } else { 4326 }
    }

    /// A place in the town. Its tiles of zoom 12 end in it.
    fn place(&self, east: &str, north: &str) -> String {
        let point = format!(
            "ST_SetSRID(ST_MakePoint(90.35 + hashint4({east}) % 900 / 1e5, 23.72 + hashint4(7 + {north}) % 900 / 1e5), 4326)"
        );
        let point = match self.name {
            "members" => format!("ST_Multi({point})"),
            "mixed" => format!("(CASE WHEN hashint4({east}) % 2 = 0 THEN {point} ELSE ST_Multi({point}) END)"),
            _ => point,
        };
        if self.srid() == 4326 { point } else { format!("ST_Transform({point}, {})", self.srid()) }
    }

    fn layer(&self) -> String {
        format!("[[layer]]\nname = \"{0}\"\ntable = \"{0}\"\ngeometry = \"place\"\n{1}\n", self.name, self.config)
    }

    /// Changes of one step: what `number` picks differs from step to step.
    fn changes(&self, step: u32) -> String {
        let name = self.name;
        let some = |of: u32| format!("hashint4(number + {}) % {of} = 0", step * 1_000);
        match step {
            // One row: its properties, among them values that others have, and new ones.
            0 => format!("UPDATE {name} SET word = 'w' || number % 5 || 'new', price = 1.5 WHERE number = 17"),
            // Some move by less than a unit of the grid, or a little.
            1 => format!("UPDATE {name} SET place = ST_Translate(place, {}) WHERE {}", self.little(), some(40)),
            // Some go, some come, at places where others are; a value that only one had is gone.
            2 => format!(
                "DELETE FROM {name} WHERE {} OR number = 17;
                 INSERT INTO {name} (id, number, word, place) SELECT {}, n, CASE WHEN n % 2 = 0 THEN 'w0' END, {} FROM generate_series(1001, 1009) AS n",
                some(50),
                self.id("n"),
                self.place("n % 90", "n % 90"),
            ),
            // Keys change; rows leave the town and others come back; what is noted twice.
            3 => format!(
                "UPDATE {name} SET id = {} WHERE {};
                 UPDATE {name} SET place = ST_Translate(place, {}) WHERE {};
                 UPDATE {name} SET word = NULL WHERE {}; UPDATE {name} SET word = 'w1' WHERE {}",
                self.id("number + 20000"),
                some(60),
                self.far(),
                some(70),
                some(80),
                some(160),
            ),
            // All rows at one place go.
            4 => format!("DELETE FROM {name} WHERE place = (SELECT place FROM {name} WHERE number = 90 OR number = 180 LIMIT 1)"),
            // Nearly all go.
            _ => format!("DELETE FROM {name} WHERE number % 400 > 9"),
        }
    }

    fn little(&self) -> &'static str {
        if self.srid() == 4326 { "3e-6, 0.00011" } else { "0.3, 11" }
    }

    fn far(&self) -> &'static str {
        if self.srid() == 4326 { "0, 30" } else { "0, 3e6" }
    }
}

/// What a reseed said of itself.
fn reseeded(url: &str, config: &str, target: &str, report: &Path) -> Value {
    let mut command = program();
    command.args(["reseed", "--config", config, "--database-url", url, "--progress", "none", "--output", target]);
    run(command.arg("--report").arg(report)).ok();
    serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap()
}

/// The tiles of a target.
fn tiles(path: &Path) -> HashMap<TileId, Box<[u8]>> {
    let mut reader: Box<dyn TileReader> = match path.extension().and_then(|ending| ending.to_str()) {
        Some("pmtiles") => Box::new(PmtilesReader::open(path).unwrap()),
        Some("mbtiles") => Box::new(MbtilesReader::open(path).unwrap()),
        _ => Box::new(DirectoryReader::open(path, &Template::new("{layer}/{z}/{x}/{y}.pbf").unwrap()).unwrap()),
    };
    let ids = reader.list().unwrap();
    let bytes = reader.read(&ids).unwrap();
    ids.into_iter().zip(bytes.into_iter().map(Option::unwrap)).collect()
}

#[test]
fn patched_tiles_are_those_of_a_fresh_seed() {
    let (db, folder) = (Db::new(), tempfile::tempdir().unwrap());
    for case in CASES {
        db.run(&case.create());
    }
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let config = |name: &str, more: &str, cases: &[&Case]| {
        let path = path(name);
        let layers: String = cases.iter().map(|case| case.layer()).collect();
        std::fs::write(&path, format!("[tileset]\nzoom = \"0,9,12-13\"\n[run]\nworkers = 2\n{more}\n{layers}"))
            .unwrap();
        path
    };
    let all: Vec<&Case> = CASES.iter().collect();
    let apart = "[target]\ntemplate = \"{layer}/{z}/{x}/{y}.pbf\"\ncompression = \"none\"";
    let whole = config("all.toml", "", &all);
    let install = ["track", "install", "--config", &whole, "--database-url", &db.url];
    run(program().args(install)).ok();
    // All layers in one tile, in every kind of target, and each by itself.
    let mut targets = vec![
        (whole.clone(), path("all.mbtiles"), None),
        (whole, path("all.pmtiles"), None),
        (config("apart.toml", apart, &all), path("apart/"), None),
    ];
    for case in CASES {
        let config = config(&format!("{}.toml", case.name), "", &[case]);
        targets.push((config, path(&format!("{}.mbtiles", case.name)), Some(case)));
    }
    let seed = |config: &str, target: &str| {
        run(seed_command(&db.url, Path::new(target), &["--config", config]).arg("--force")).ok();
    };
    for (config, target, _) in &targets {
        seed(config, target);
    }
    for step in 0..=5 {
        for case in CASES {
            db.run(&case.changes(step));
        }
        // By themselves they only show which layers are patched.
        let alone = [1, 3].contains(&step);
        for (config, target, case) in targets.iter().filter(|(_, _, case)| case.is_none() || alone) {
            let told = reseeded(&db.url, config, target, &folder.path().join("report.json"));
            let patched = told["patched"].as_u64().unwrap();
            if let Some(case) = case {
                assert!(told["dirty"].as_u64() > Some(0));
                assert_eq!(patched > 0, case.is_patched, "{}, step {step}: {patched}", case.name);
            }
            if case.is_some() {
                continue;
            }
            assert!(patched > 0 || step == 5, "{target}, step {step}");
            // The tiles of both archives are the same.
            let fresh = target.replace("all.pmtiles", "fresh.mbtiles").replace("all.", "fresh.");
            let fresh = fresh.replace("apart", &format!("fresh{step}"));
            if !target.ends_with(".pmtiles") {
                seed(config, &fresh);
            }
            let (held, fresh) = (tiles(Path::new(target)), tiles(Path::new(&fresh)));
            assert_eq!(held.len(), fresh.len(), "{target}, step {step}");
            for (tile, bytes) in &held {
                assert!(fresh[tile] == *bytes, "{target}, step {step}, tile {tile:?}");
            }
        }
    }
}

#[test]
fn a_multipoint_of_one_member_is_patched_and_one_with_more_is_drawn_by_the_database() {
    let (db, folder) = (Db::new(), tempfile::tempdir().unwrap());
    let cases: Vec<&Case> = CASES.iter().filter(|case| ["members", "mixed"].contains(&case.name)).collect();
    let layers: String = cases.iter().map(|case| case.layer()).collect();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, format!("[tileset]\nzoom = \"0,9,12-13\"\n{layers}")).unwrap();
    let config = config.to_str().unwrap();
    for case in &cases {
        db.run(&case.create());
    }
    run(program().args(["track", "install", "--config", config, "--database-url", &db.url])).ok();
    let (held, fresh) = (folder.path().join("held.mbtiles"), folder.path().join("fresh.mbtiles"));
    let seed = |target: &Path| run(seed_command(&db.url, target, &["--config", config, "-vv"]).arg("--force")).ok();
    assert_eq!(seed(&held).stderr.matches(" rows are cached, ").count(), 2);
    let moved = "ST_Collect(ST_GeometryN(place, 1), ST_Translate(ST_GeometryN(place, 1), 0.0004, 0.0003))";
    for (change, are_points) in [
        ("word = 'x' WHERE number = 17", true),
        // Two members, then other changes beside them, then one again: its other place is gone.
        (&*format!("place = {moved} WHERE number = 17"), false),
        ("word = 'y' WHERE number IN (17, 18)", false),
        ("place = ST_Multi(ST_GeometryN(place, 2)) WHERE number = 17", true),
        ("word = 'z' WHERE number IN (17, 18)", true),
        // Rows that cannot be drawn, and members twice at one place.
        (
            "place = CASE WHEN number = 17 THEN ST_SetSRID('MULTIPOINT EMPTY'::geometry, 4326) END WHERE number IN (17, 18)",
            true,
        ),
        ("place = ST_Collect(ST_GeometryN(place, 1), ST_GeometryN(place, 1)) WHERE number = 19", false),
        ("place = ST_Multi(ST_GeometryN(place, 1)) WHERE number = 19", true),
        ("place = ST_Translate(place, 0.0001, 0.0001) WHERE number = 20", true),
    ] {
        for case in &cases {
            db.run(&format!("UPDATE {} SET {change}", case.name));
        }
        let told = reseeded(&db.url, config, held.to_str().unwrap(), &folder.path().join("report.json"));
        let cached = seed(&fresh).stderr.matches(" rows are cached, ").count();
        assert_eq!(cached, if are_points { 2 } else { 0 }, "{change}");
        // What had two places before cannot be patched, even if it has one now.
        let is_patched = are_points && !change.contains("ST_GeometryN(place, 2)");
        assert_eq!(told["patched"].as_u64() > Some(0), is_patched, "{change}: {told}");
        assert!(told["dirty"].as_u64() > Some(0) && tiles(&held) == tiles(&fresh), "{change}");
    }
}

/// The layer of each tile of an archive, taken apart and written again, with all or none of its features as new ones.
fn is_written_again(path: &Path, known: &PointLayer) {
    let everywhere = GridBox { west: -100_000, north: -100_000, east: 100_000, south: 100_000 };
    let mut features = 0;
    for (tile, stored) in Archive::open(path).stored() {
        let raw = unpacked(&stored);
        let layers = mvt::split(&raw).unwrap();
        let [(_, layer)] = layers[..] else { panic!("{tile:?}: {} layers", layers.len()) };
        let count = mvt::count_features(layer).unwrap();
        features += count;
        let same = mvt::replaced(layer, layer, &[everywhere], known);
        assert!(same == Some((layer.to_vec(), count)), "{tile:?}: all features replaced by themselves");
        let same = mvt::replaced(layer, &[], &[], known);
        assert!(same == Some((layer.to_vec(), count)), "{tile:?}: none replaced");
        assert_eq!(mvt::replaced(layer, &[], &[everywhere], known), Some((Vec::new(), 0)), "{tile:?}: all gone");
        let mut whole = Vec::new();
        mvt::put_layer(&mut whole, layer);
        assert!(whole == raw, "{tile:?}");
    }
    assert!(features > 1_000);
}

const PROPERTIES: [&str; 5] = ["id", "name", "address", "country_code", "is_closed"];

#[test]
fn a_layer_taken_apart_is_written_again_as_postgis_wrote_it() {
    let known = PointLayer { key: FeatureKey::Property(0), properties: PROPERTIES.map(str::to_owned).to_vec() };
    let folder = tempfile::tempdir().unwrap();
    let written = |db: &Db| {
        let path = folder.path().join("t.mbtiles");
        run(&mut seed_command(&db.url, &path, &["--zoom", "0-14"])).ok();
        is_written_again(&path, &known);
    };
    let db = Db::with_facilities(3_000);
    db.run(
        "UPDATE api_facility SET is_closed = CASE WHEN hashtext(id) % 3 = 0 THEN NULL ELSE hashtext(id) % 2 = 0 END",
    );
    written(&db);
    for file in ["facilities.csv", "facilities-later.csv"] {
        if let Some(csv) = shared_data(file) {
            written(&Db::with_csv(&csv));
        }
    }
}

#[test]
fn a_tile_that_is_lost_or_broken_in_the_target_is_rendered_whole() {
    let tracked = crate::support::tracked::Tracked::facilities(2_000);
    let target = tracked.path("tiles");
    let place = format!("{}/", target.display());
    let place = Path::new(&place);
    run(&mut seed_command(&tracked.db.url, place, &["--zoom", "0-5"])).ok();
    let before = files_below(&target);
    let tile = |z: u32, x: u32, y: u32| target.join(format!("{z}/{x}/{y}.pbf"));
    for (broken, what) in [
        (None, "lost"),
        (Some(&b"no tile at all"[..]), "no tile"),
        // A gzip of nothing.
        (Some(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0][..]), "an empty gzip"),
        (Some(&b""[..]), "no byte"),
    ] {
        match broken {
            None => std::fs::remove_file(tile(0, 0, 0)).unwrap(),
            Some(bytes) => std::fs::write(tile(0, 0, 0), bytes).unwrap(),
        }
        tracked.db.run("UPDATE api_facility SET name = name || '.' WHERE id IN (SELECT min(id) FROM api_facility)");
        tracked.reseed(place, &[]).ok();
        let fresh = tracked.path("fresh");
        let fresh_place = format!("{}/", fresh.display());
        run(&mut seed_command(&tracked.db.url, Path::new(&fresh_place), &["--zoom", "0-5"])).ok();
        let (held, fresh) = (files_below(&target), files_below(&fresh));
        assert!(held == fresh && held.len() == before.len(), "{what}");
    }
}

#[test]
fn a_layer_that_is_lost_from_a_tile_comes_back_with_a_change_of_another() {
    let db = Db::with_facilities(300);
    db.run("CREATE TABLE other AS SELECT * FROM api_facility; ALTER TABLE other ADD PRIMARY KEY (id); CREATE INDEX ON other USING gist (location)");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    let layers = ["api_facility", "other"].map(|table| format!("[[layer]]\nname = \"{table}\"\ntable = \"{table}\"\n"));
    let apart = "[tileset]\nzoom = \"0-2\"\n[target]\ntemplate = \"{layer}/{z}/{x}/{y}.pbf\"\n";
    std::fs::write(&config, format!("{apart}{}", layers.concat())).unwrap();
    let config = config.to_str().unwrap();
    run(program().args(["track", "install", "--config", config, "--database-url", &db.url])).ok();
    let place = |name: &str| folder.path().join(name);
    run(&mut seed_command(&db.url, &place("held/"), &["--config", config])).ok();
    std::fs::remove_file(place("held/other/0/0/0.pbf")).unwrap();
    db.run("UPDATE api_facility SET name = name || '.' WHERE id IN (SELECT min(id) FROM api_facility)");
    let held = place("held/");
    reseeded(&db.url, config, held.to_str().unwrap(), &place("report.json"));
    run(&mut seed_command(&db.url, &place("fresh/"), &["--config", config])).ok();
    assert!(tiles(&place("held")) == tiles(&place("fresh")));
}

#[test]
fn a_jsonb_property_gives_the_names_that_its_objects_hold() {
    let db = Db::new();
    db.run(
        "CREATE TABLE named (id text PRIMARY KEY, more jsonb, place geometry(Point, 4326));
         CREATE INDEX ON named USING gist (place);
         INSERT INTO named SELECT n::text, '{}', ST_SetSRID(ST_MakePoint(n / 9.0, 1), 4326) FROM generate_series(1, 100) AS n;
         UPDATE named SET more = '{\"more\": \"x\"}' WHERE id = '50'",
    );
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "[tileset]\nzoom = \"0-3\"\n[[layer]]\nname = \"named\"\ntable = \"named\"\n").unwrap();
    let config = config.to_str().unwrap();
    run(program().args(["track", "install", "--config", config, "--database-url", &db.url])).ok();
    let (held, fresh) = (folder.path().join("held.mbtiles"), folder.path().join("fresh.mbtiles"));
    run(&mut seed_command(&db.url, &held, &["--config", config])).ok();
    db.run("DELETE FROM named WHERE id = '50'");
    reseeded(&db.url, config, held.to_str().unwrap(), &folder.path().join("report.json"));
    run(&mut seed_command(&db.url, &fresh, &["--config", config])).ok();
    assert!(tiles(&held) == tiles(&fresh));
}
