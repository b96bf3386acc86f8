//! What is drawn and packed changes only with a new version in the fingerprint, and a target of another version is
//! never called up to date.

use std::path::Path;

use md5::{Digest as _, Md5};
use oar_tiles::draw::RENDERING_VERSION;
use oar_tiles::encode::PACKING_VERSION;
use serde_json::Value;

use crate::support::places::Places;
use crate::support::tracked::Tracked;
use crate::support::tree::Tree;
use crate::support::{Archive, Db, seed};

/// Each rendering version and the MD5 of the tileset below, unpacked, as PostGIS 3.3 draws it with that version.
///
/// Version 3 draws areas that are not valid where version 2 left them out; the tileset has none. Version 4 draws short
/// lines of a row of many lines where version 3 left them out; the tileset has none.
const RENDERED: [(u32, &str); 4] = [
    (1, "742b8c6ba86a834605ca7d641b4162a0"),
    (2, "0f4292ab1db606dcb729e622b560d63b"),
    (3, "0f4292ab1db606dcb729e622b560d63b"),
    (4, "0f4292ab1db606dcb729e622b560d63b"),
];

/// Points, lines and polygons, some beyond the edges of the world; no value is left to chance.
const TABLES: &str = include_str!("drawing_versions.sql");

/// Every way of drawing: rows read once and drawn by the database, cells, clusters, thinned tiles, tiles in degrees.
const LAYERS: &str = r#"
[tileset]
zoom = "0-7"
[[layer]]
name = "mills"
table = "mill"
feature_id = "id"
[[layer]]
name = "shapes"
table = "shape"
extent = 512
buffer = 100
[[layer]]
name = "hexagons"
table = "mill"
zoom = "0-5"
[layer.aggregate]
cell = "hexagon"
size = "1/8"
draw = "polygon"
properties = { count = "count(*)", best = "max(score)", names = "count(DISTINCT name)", xmin = "!xmin!" }
[[layer]]
name = "clusters"
table = "mill"
properties = ["id", "name"]
[layer.cluster]
zoom = "0-4"
properties = { open = "bool_or(open)" }
[[layer]]
name = "thinned"
table = "mill"
properties = ["name", "score"]
max_tile_features = 5
max_tile_bytes = 400
on_large_tile = "thin"
rank = "score"
[[layer]]
name = "degrees"
table = "mill"
zoom = "4-7"
tile_bounds = "degrees"
candidates = 0.2
properties = { id = "id", x = "!x!", z = "!zoom!" }
property_zooms = { id = "5-7" }
"#;

#[test]
fn rendered_bytes_change_only_with_a_new_rendering_version() {
    let db = Db::new();
    let postgis: String = db.value("SELECT postgis_lib_version()");
    if !postgis.starts_with("3.3.") {
        eprintln!("SKIPPED: the bytes are known as PostGIS 3.3 draws them, and this is {postgis}");
        return;
    }
    db.run(TABLES);
    let folder = tempfile::tempdir().unwrap();
    let hash = |rows_mb: u32| {
        let (config, output) = (folder.path().join("c.toml"), folder.path().join(format!("{rows_mb}.mbtiles")));
        std::fs::write(&config, format!("[run]\nrows_mb = {rows_mb}\n{LAYERS}")).unwrap();
        seed(&db.url, &output, &["--config", config.to_str().unwrap()]).ok();
        let mut hash = Md5::new();
        let tiles = Archive::open(&output).tiles();
        assert!(tiles.len() > 1_000, "{}", tiles.len());
        for ((zoom, x, y), mvt) in tiles {
            hash.update(format!("{zoom}/{x}/{y} {}\n", mvt.len()));
            hash.update(mvt);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let found = hash(160);
    assert_eq!(found, hash(0), "rows that are read once give the tiles that the database draws");
    assert!(RENDERED.is_sorted_by(|one, next| one.0 < next.0), "each version has one line");
    assert_eq!(
        RENDERED.last(),
        Some(&(RENDERING_VERSION, found.as_str())),
        "rows are drawn to other bytes than before: raise RENDERING_VERSION, and add a line with the new number and hash"
    );
}

/// What stands for this program's versions in a fingerprint.
fn ours() -> String {
    format!("-r{RENDERING_VERSION}-p{PACKING_VERSION}")
}

/// What stands for the versions at the end of a target's fingerprint.
fn versions(target: &Path) -> String {
    let manifest: Value = serde_json::from_str(&Archive::open(target).metadata("oar_tiles_manifest").unwrap()).unwrap();
    let fingerprint = manifest["fingerprint"].as_str().unwrap().to_owned();
    fingerprint[fingerprint.find('-').unwrap()..].to_owned()
}

#[test]
fn a_target_of_another_version_needs_a_seed_and_the_reason_names_the_versions() {
    let tracked = Tracked::facilities(200);
    let zoom = ["--zoom", "0-5"];
    let whole = tracked.seed("whole.mbtiles", &zoom);
    let ours = ours();
    assert_eq!(versions(&whole), ours);
    for (theirs, named) in [
        ("", "(no rendering or packing version noted)"),
        ("-r0-p1", "(rendering version 0, packing version 1)"),
        ("-r1-p0", "(rendering version 1, packing version 0)"),
        ("-r9-p9", "(rendering version 9, packing version 9)"),
    ] {
        let old = tracked.path("old.mbtiles");
        std::fs::copy(&whole, &old).unwrap();
        let sql = "UPDATE metadata SET value = replace(value, ?1, ?2) WHERE name = 'oar_tiles_manifest'";
        let archive = rusqlite::Connection::open(&old).unwrap();
        assert_eq!(archive.execute(sql, [format!("{ours}\""), format!("{theirs}\"")]).unwrap(), 1);
        drop(archive);
        let before = std::fs::read(&old).unwrap();
        let reason = format!("another version of oar-tiles drew it {named} than this one (rendering version ");
        let refused = tracked.reseed(&old, &[]).fails(4, &["needs a full seed: ", &reason]);
        assert!(!refused.stderr.contains("another configuration"), "{}", refused.stderr);
        let status = tracked.oar_tiles(&["track", "status", old.to_str().unwrap()]).fails(4, &[]);
        assert!(status.stdout.contains(&reason), "{}", status.stdout);
        tracked.oar_tiles(&["verify", "--database", old.to_str().unwrap()]).fails(2, &[&reason]);
        assert!(before == std::fs::read(&old).unwrap());
        let seeded = tracked.reseed(&old, &["--or-seed"]).ok();
        assert!(seeded.stderr.contains(&reason), "{}", seeded.stderr);
        assert_eq!(versions(&old), ours);
        tracked.is_fresh(&old, &zoom);
    }
}

/// The configuration is the same, so it is the same tileset: nobody has to force an upgrade.
#[test]
fn a_directory_and_a_prefix_of_another_version_are_seeded_without_force() {
    let db = Db::with_facilities(100);
    let tree = Tree::new();
    tree.seed(&db.url, &["--zoom", "0-4"]);
    let right = tree.tiles();
    // An older program drew and noted it.
    for name in ["metadata.json", ".oar-tiles/begun.json"] {
        let text = std::fs::read_to_string(tree.path.join(name)).unwrap();
        std::fs::write(tree.path.join(name), text.replace(&ours(), "")).unwrap();
    }
    std::fs::write(tree.path.join("0/0/0.pbf"), "drawn otherwise").unwrap();
    let (written, unchanged, deleted) = tree.seed(&db.url, &["--zoom", "0-4"]);
    assert_eq!((written, unchanged, deleted), (1, right.len() as u64 - 1, 0));
    assert!(tree.tiles() == right && tree.manifest()["fingerprint"].as_str().unwrap().ends_with(&ours()));

    let places = Places::new();
    places.seed(&db, "s3:tiles/", &["--zoom", "0-4"]).ok();
    let old = |name: &str| {
        let text = String::from_utf8(places.prefix.objects()[name].clone()).unwrap();
        places.prefix.put(name, text.replace(&ours(), "").as_bytes());
    };
    old("tiles/metadata.json");
    old("tiles/.oar-tiles/lease.json");
    places.seed(&db, "s3:tiles/", &["--zoom", "0-4"]).ok();
    assert!(String::from_utf8_lossy(&places.prefix.objects()["tiles/metadata.json"]).contains(&ours()));
}
