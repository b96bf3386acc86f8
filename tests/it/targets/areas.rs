//! Areas with borders of any form: `seed`, `copy` and `reseed` know their tiles from those of their boxes.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::archive::Address;
use crate::support::folder::Folder;
use crate::support::places::Places;
use crate::support::program::{program, run, seed_command};
use crate::support::{Archive, Db};

/// A triangle with a hole, and a part on both sides of the antimeridian.
const AREA: &str = r#"{ "type": "FeatureCollection", "features": [
    { "type": "Feature", "properties": {}, "geometry": { "type": "Polygon", "coordinates": [
        [[-20.3, -30.1], [60.7, -20.2], [10.9, 55.6], [-20.3, -30.1]],
        [[10.1, -10.2], [12.3, 15.4], [25.2, -5.1], [10.1, -10.2]]] } },
    { "type": "Feature", "properties": {}, "geometry": { "type": "Polygon", "coordinates": [
        [[172.2, -44.4], [-171.7, -40.1], [-174.3, -15.8], [172.2, -44.4]]] } }] }"#;

/// The same as SQL, in metres; the part at the antimeridian is projected half a world farther west, where nothing wraps
/// it.
const AREA_SQL: &str = "ST_Collect(ARRAY[
    ST_Transform(ST_GeomFromText('POLYGON((-20.3 -30.1, 60.7 -20.2, 10.9 55.6, -20.3 -30.1), (10.1 -10.2, 12.3 15.4, 25.2 -5.1, 10.1 -10.2))', 4326), 3857),
    ST_Translate(ST_Transform(ST_GeomFromText('POLYGON((-7.8 -44.4, 8.3 -40.1, 5.7 -15.8, -7.8 -44.4))', 4326), 3857), 20037508.342789244, 0)])";

fn seeded(db: &Db, output: &Path, arguments: &[&str]) -> BTreeMap<Address, Vec<u8>> {
    run(&mut seed_command(&db.url, output, arguments)).ok();
    Archive::open(output).stored()
}

/// Whether PostGIS says that the area touches a tile; a hair within its sides, for the sides themselves are nobody's.
fn is_touched(db: &Db, tiles: &BTreeMap<Address, Vec<u8>>) -> BTreeMap<Address, Vec<u8>> {
    touched_by(db, tiles, AREA_SQL)
}

fn touched_by(db: &Db, tiles: &BTreeMap<Address, Vec<u8>>, area: &str) -> BTreeMap<Address, Vec<u8>> {
    let list: Vec<String> = tiles.keys().map(|(z, x, y)| format!("({z}, {x}, {y})")).collect();
    let sql = format!(
        "WITH area AS (SELECT geom AS g FROM ST_Dump({area})),
         world AS (SELECT 2 * 20037508.342789244 AS width)
         SELECT z, x, y FROM (VALUES {}) AS t (z, x, y), world
         WHERE EXISTS (SELECT FROM area, generate_series(-1, 1) AS by WHERE ST_Intersects(
             ST_Expand(ST_TileEnvelope(z, x, y), -0.01), ST_Translate(g, by * width, 0)))",
        list.join(", ")
    );
    let touched: Vec<Address> = db
        .rows(&sql)
        .iter()
        .map(|row| (row.get::<_, i32>(0) as u8, row.get::<_, i32>(1) as u32, row.get::<_, i32>(2) as u32))
        .collect();
    tiles.iter().filter(|(address, _)| touched.contains(address)).map(|(a, t)| (*a, t.clone())).collect()
}

/// Places all over the world.
fn database() -> Db {
    let db = Db::with_facilities(300);
    db.run("INSERT INTO api_facility (id, name, address, country_code, location, is_closed, created_at, updated_at) SELECT 'X' || i, 'n', 'a', 'FR', ST_SetSRID(ST_MakePoint((i * 7919 % 36000) / 100.0 - 180, (i * 104729 % 14000) / 100.0 - 70), 4326), false, now(), now() FROM generate_series(1, 3000) AS i");
    db
}

#[test]
fn an_area_has_the_same_tiles_in_every_kind_of_target() {
    let (db, places) = (database(), Places::new());
    let area = places.place("area.geojson");
    std::fs::write(&area, AREA).unwrap();
    let flags = ["--zoom", "0-4", "--public-url", "relative", "--area", &area];
    let seeded = |kind: &str| {
        places.seed(&db, kind, &flags).ok();
        places.read_by_others_or_copy(kind)
    };
    let expected = seeded("t.mbtiles");
    assert!(expected.len() > 20, "{}", expected.len());
    for kind in ["t.pmtiles", "tiles/", "s3:tiles/", "s3:t.pmtiles"] {
        assert!(seeded(kind) == expected, "{kind}");
    }
}

#[test]
fn a_seed_of_an_area_makes_exactly_the_tiles_that_it_touches() {
    let (db, folder) = (database(), Folder::new());
    let area = folder.beside("area.geojson");
    std::fs::write(&area, AREA).unwrap();
    let whole = seeded(&db, &folder.beside("whole.mbtiles"), &["--zoom", "0-5"]);
    let expected = is_touched(&db, &whole);
    let found = seeded(&db, &folder.beside("part.mbtiles"), &["--zoom", "0-5", "--area", area.to_str().unwrap()]);
    let keys = |tiles: &BTreeMap<Address, Vec<u8>>| tiles.keys().copied().collect::<Vec<_>>();
    assert_eq!(keys(&found), keys(&expected));
    assert_eq!(found, expected);
    assert!(found.len() * 2 < whole.len() && found.len() > 50, "{} of {}", found.len(), whole.len());
    // A copy of the area is the same.
    let copy = folder.beside("copy.mbtiles");
    let mut copied = program();
    copied.arg("copy").arg(folder.beside("whole.mbtiles")).arg(&copy).arg("--area").arg(&area);
    run(&mut copied).ok();
    assert_eq!(Archive::open(&copy).stored(), expected);
    run(program().args(["verify", "--database", "--database-url", &db.url]).arg(folder.beside("part.mbtiles"))).ok();
}

/// A star with 360 tips across the antimeridian, as GeoJSON and as SQL. Boxes of tiles that follow its border are
/// thousands from zoom 7 on.
#[test]
fn a_border_with_many_bends_is_followed_at_every_zoom() {
    let (db, folder) = (Db::with_facilities(10), Folder::new());
    db.run("INSERT INTO api_facility (id, name, address, country_code, location, is_closed, created_at, updated_at) SELECT 'X' || i, 'n', 'a', 'FR', ST_SetSRID(ST_MakePoint((i * 7919 % 9000) / 100.0 - 45 + CASE WHEN i % 9000 * 7919 % 9000 < 4500 THEN 180 ELSE -180 END, (i * 104729 % 8000) / 100.0 - 40), 4326), false, now(), now() FROM generate_series(1, 3000) AS i");
    let spots = |middle: f64| {
        let spot = |step: u32| {
            let angle = f64::from(step % 720).to_radians() / 2.0;
            let reach = if step.is_multiple_of(2) { 40.0 } else { 15.0 };
            [middle + reach * angle.cos(), reach * angle.sin()]
        };
        (0..=720).map(spot).collect::<Vec<_>>()
    };
    let area = folder.beside("star.geojson");
    let json = |middle| serde_json::json!({ "type": "Polygon", "coordinates": [spots(middle)] }).to_string();
    std::fs::write(&area, json(180.0)).unwrap();
    let sql = format!(
        "ST_Translate(ST_Transform(ST_SetSRID(ST_GeomFromGeoJSON('{}'), 4326), 3857), 20037508.342789244, 0)",
        json(0.0)
    );
    let zooms = ["--zoom", "3,7-10"];
    let whole = seeded(&db, &folder.beside("whole.mbtiles"), &zooms);
    let expected = touched_by(&db, &whole, &sql);
    let output = folder.beside("part.mbtiles");
    let area = ["--area", area.to_str().unwrap()];
    let found = seeded(&db, &output, &[&zooms[..], &area].concat());
    let keys = |tiles: &BTreeMap<Address, Vec<u8>>| tiles.keys().copied().collect::<Vec<_>>();
    assert_eq!(keys(&found), keys(&expected));
    assert_eq!(found, expected);
    assert!(found.len() * 4 < whole.len() * 3 && found.len() > 1_000, "{} of {}", found.len(), whole.len());
    // The target's area and one that is asked for.
    let verify = |target: &str, arguments: &[&str]| {
        let mut verify = program();
        verify.args(["verify", "--database", "--database-url", &db.url]).arg(folder.beside(target)).args(arguments);
        run(&mut verify).ok()
    };
    verify("part.mbtiles", &[]);
    verify("part.mbtiles", &area);
    verify("whole.mbtiles", &area);
    verify("part.mbtiles", &["--area=150,-20,-170,20"]);
}

#[test]
fn a_target_keeps_its_area() {
    let (db, folder) = (database(), Folder::new());
    let area = folder.beside("area.geojson");
    std::fs::write(&area, AREA).unwrap();
    let output = folder.beside("part.mbtiles");
    let zooms = ["--zoom", "0-5", "--area", area.to_str().unwrap()];
    let track = |what: &str| run(program().args(["track", what, "--database-url", &db.url])).ok();
    track("install");
    seeded(&db, &output, &zooms);
    db.run("UPDATE api_facility SET name = 'changed' WHERE id IN ('X1', 'X2', 'X3', 'X40', 'X500', 'X600', 'X700', 'X800'); DELETE FROM api_facility WHERE id = 'X900'");
    // No area is named: the target knows its own.
    std::fs::remove_file(&area).unwrap();
    run(program().args(["reseed", "--database-url", &db.url, "--output"]).arg(&output)).ok();
    let reseeded = Archive::open(&output).tiles();
    std::fs::write(&area, AREA).unwrap();
    std::fs::remove_file(&output).unwrap();
    seeded(&db, &output, &zooms);
    assert_eq!(reseeded, Archive::open(&output).tiles());
}

#[test]
fn a_reseed_of_an_area_renders_its_tiles_and_not_those_of_its_box() {
    let (db, folder) = (database(), Folder::new());
    let area = folder.beside("area.geojson");
    std::fs::write(&area, AREA).unwrap();
    let output = folder.beside("whole.mbtiles");
    let whole = seeded(&db, &output, &["--zoom", "4-5"]);
    let listed = folder.beside("dirty.txt");
    let mut reseed = program();
    reseed.args(["reseed", "--database-url", &db.url, "--output"]).arg(&output);
    reseed.arg("--area").arg(&area).arg("--dirty-out").arg(&listed);
    run(&mut reseed).ok();
    let dirty = std::fs::read_to_string(&listed).unwrap();
    let touched = is_touched(&db, &whole);
    for (z, x, y) in whole.keys() {
        let is_listed = dirty.lines().any(|line| line == format!("{z}/{x}/{y}"));
        assert_eq!(is_listed, touched.contains_key(&(*z, *x, *y)), "{z}/{x}/{y}");
    }
}

#[test]
fn an_area_is_a_setting_that_boxes_replace() {
    let (db, folder) = (database(), Folder::new());
    std::fs::write(folder.beside("a.geojson"), AREA).unwrap();
    std::fs::write(folder.beside("point.geojson"), "{ \"type\": \"Point\", \"coordinates\": [1, 2] }").unwrap();
    std::fs::write(folder.beside("no.geojson"), "no").unwrap();
    let zooms_of = |settings: &str, arguments: &[&str]| {
        let config = folder.config(&format!("[tileset]\nzoom = 3\noutput = \"t.mbtiles\"\n{settings}"));
        let mut seed = program();
        seed.args(["seed", "--progress", "none", "--config", &config, "--database-url", &db.url]).args(arguments);
        run(seed.current_dir(folder.beside("")))
    };
    let count = || {
        let tiles = Archive::open(&folder.beside("t.mbtiles")).stored().len();
        std::fs::remove_file(folder.beside("t.mbtiles")).unwrap();
        tiles
    };
    let mut counts = Vec::new();
    for (settings, arguments) in [
        ("", &[][..]),
        ("area = \"a.geojson\"", &[]),
        ("area = \"a.geojson\"", &["--bbox", "-1,-1,1,1"]),
        ("bbox = [\"-1,-1,1,1\"]", &["--area", "a.geojson"]),
        ("area = \"-1,-1,1,1\"", &[]),
        ("", &["--area=-1,-1,1,1"]),
    ] {
        zooms_of(settings, arguments).ok();
        counts.push(count());
    }
    let [whole, area, boxed] = counts[..3] else { panic!() };
    assert!(whole > area && area > boxed, "{counts:?}");
    assert_eq!(counts[3..], [area, boxed, boxed]);
    for (settings, arguments, message) in [
        ("area = \"a.geojson\"\nbbox = [\"1,1,2,2\"]", &[][..], "tileset.area (from "),
        (
            "area = \"point.geojson\"",
            &[],
            "\"point.geojson\": it holds no geometry with an extent: write a GeoJSON with polygons (RFC 7946)",
        ),
        ("area = \"no.geojson\"", &[], "\"no.geojson\": expected "),
        ("area = \"none.geojson\"", &[], "\"none.geojson\": there is no such file, and as a box: "),
        ("", &["--area", "none.geojson"], "tileset.area (from --area): \"none.geojson\": there is no such file"),
        (
            "",
            &["--area", "a.geojson", "--bbox", "1,1,2,2"],
            "the argument '--area <AREA>' cannot be used with '--bbox <W,S,E,N>'",
        ),
    ] {
        zooms_of(settings, arguments).fails(2, &[message]);
    }
}
