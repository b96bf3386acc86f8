//! Warnings about a result: which there are, and that they are shown in every style.

use crate::support::folder::Folder;
use crate::support::program::{Run, program, run, seed};
use crate::support::{Db, Tree};

/// `seed` with a configuration, and nothing but what the arguments say.
fn seeded(db: &Db, folder: &Folder, config: &str, arguments: &[&str]) -> Run {
    let mut command = program();
    let config = folder.config(config);
    command.args(["seed", "--database-url", &db.url, "--config", &config, "--output"]);
    run(command.arg(folder.beside("t.mbtiles")).args(arguments)).ok()
}

#[test]
fn quiet_hides_progress_and_tables_and_never_warnings() {
    let db = Db::new();
    db.run(
        "CREATE TABLE mills (id int, g geometry(Point, 4326));
         INSERT INTO mills VALUES (1, 'SRID=4326;POINT(8 52)'), (2, NULL), (NULL, NULL), (3, 'SRID=4326;POINT(8 90)');
         CREATE TABLE nobody (id int PRIMARY KEY, g geometry(Point, 4326));
         CREATE INDEX ON nobody USING gist (g)",
    );
    let folder = Folder::new();
    let config = "[[layer]]\nname = \"mills\"\ntable = \"mills\"\nkey = [\"id\"]\n[[layer]]\nname = \"nobody\"\ntable = \"nobody\"\n";
    let quiet = seeded(&db, &folder, config, &["--zoom", "0-3", "-q"]);
    assert_eq!(quiet.stdout, "");
    let mut lines: Vec<&str> = quiet.stderr.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "warning: layer \"mills\": \"public\".\"mills\" has no spatial index, so every batch reads the whole table. Run CREATE INDEX ON \"public\".\"mills\" USING gist (\"g\")",
            "warning: layer \"mills\": skipped 1 row outside of the Web Mercator world (beyond ±85.0511° or ±180°): 3",
            "warning: layer \"mills\": skipped 2 rows whose geometry is NULL: 2, NULL",
            "warning: layer \"nobody\" has no feature to draw: is its table filled, and its where right?",
        ]
    );
    // Elsewhere the rows stand in the closing table, and are not said twice.
    let table = seeded(&db, &folder, config, &["--zoom", "0-3", "--progress", "none"]);
    assert!(
        table.stdout.contains("layer \"mills\": skipped 2 rows whose geometry is NULL: 2, NULL\n"),
        "{}",
        table.stdout
    );
    assert!(!table.stderr.contains("skipped"), "{}", table.stderr);
    let json = seeded(&db, &folder, config, &["--zoom", "0-3", "--progress", "json"]);
    let skipped =
        "\"event\":\"skipped\",\"layer\":\"mills\",\"reason\":\"NULL\",\"rows\":2,\"examples\":[\"2\",\"NULL\"]}";
    assert!(json.stdout.lines().any(|line| line.ends_with(skipped)), "{}", json.stdout);
}

#[test]
fn a_layer_that_ends_before_the_tileset_is_warned_of_with_the_remedy() {
    let db = Db::with_facilities(100);
    let layer = |name: &str, rest: &str| {
        format!("[[layer]]\nname = \"{name}\"\ntable = \"api_facility\"\nproperties = [\"id\"]\n{rest}\n")
    };
    let vanishes = |name: &str, last: u8, deepest: u8, gone: u8, remedy: &str| {
        format!(
            "warning: layer \"{name}\" is drawn up to zoom {last} and the tileset goes to {deepest}: the layer vanishes from zoom {gone} on, because map clients enlarge tiles only beyond the deepest zoom of the whole tileset. Give the layer zoom = \"{remedy}\", or seed it into a tileset of its own\n"
        )
    };
    let cells = "cell = \"square\"\nsize = \"1/4\"\nproperties = { count = \"count(*)\" }";
    for (config, zoom, expected) in [
        (layer("regions", "zoom = \"0-6\"") + &layer("mills", ""), "0-10", vanishes("regions", 6, 10, 7, "0-10")),
        (layer("regions", "zoom = \"2-4\"") + &layer("mills", ""), "0-4,8", vanishes("regions", 4, 8, 8, "2-8")),
        (layer("regions", "zoom = \"0-6\""), "0-6", String::new()),
        (layer("regions", "zoom = \"0-22\""), "0-10", String::new()),
        // One layer in two parts.
        (layer("mills", &format!("[layer.aggregate]\nzoom = \"0-6\"\n{cells}")), "0-10", String::new()),
        (layer("mills", "[layer.cluster]\nzoom = \"0-6\""), "0-10", String::new()),
        (layer("mills", "property_zooms = { id = \"7-22\" }"), "0-10", String::new()),
        (
            layer("mills", &format!("zoom = \"0-8\"\n[layer.aggregate]\nzoom = \"0-6\"\n{cells}")),
            "0-10",
            vanishes("mills", 8, 10, 9, "0-10"),
        ),
        // Single facilities follow their cells.
        (
            layer("grid", &format!("zoom = \"0-6\"\n[layer.aggregate]\n{cells}"))
                .replace("properties = [\"id\"]\n", "")
                + &layer("mills", "zoom = \"7-22\""),
            "0-10",
            String::new(),
        ),
        // A hole of one zoom is no succession.
        (
            layer("grid", "zoom = \"0-5\"") + &layer("mills", "zoom = \"7-22\""),
            "0-10",
            vanishes("grid", 5, 10, 6, "0-10"),
        ),
    ] {
        let folder = Folder::new();
        for arguments in [&["--progress", "none"][..], &["-q"], &["--dry-run", "--progress", "none"]] {
            let done = seeded(&db, &folder, &config, &[arguments, &["--zoom", zoom]].concat());
            assert_eq!(done.stderr, expected, "{config} {zoom} {arguments:?}");
        }
    }
    // Each layer has tiles and a TileJSON of its own, with its own zooms.
    let config = layer("regions", "zoom = \"0-4\"") + &layer("mills", "");
    let folder = Folder::new();
    let apart = folder.config(&format!(
        "[target]\ntemplate = \"{{layer}}/{{z}}/{{x}}/{{y}}.pbf\"\npublic_url = \"relative\"\n{config}"
    ));
    let tree = Tree::new();
    let done = seed(&db.url, &tree.path, &["--zoom", "0-6", "--config", &apart]).ok();
    assert_eq!(done.stderr, "");
    // An archive has no such template.
    let done = seed(&db.url, &tree.beside("t.mbtiles"), &["--zoom", "0-6", "--config", &apart]).ok();
    assert_eq!(done.stderr, vanishes("regions", 4, 6, 5, "0-6"));
}
