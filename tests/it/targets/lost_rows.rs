//! A layer that loses most of its rows is refused though its tiles stay: because a few rows fill them, or another layer
//! does. Losses of a day add up, and a reseed counts rows only if the changed ones could be too many.

use crate::support::places::{Places, Tiles};
use crate::support::program::Run;
use crate::support::watch_process::Watching;
use crate::support::world::Followed;
use crate::support::{Db, until};

/// One target of each kind.
const TARGETS: [&str; 5] = ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/", "s3:t.pmtiles"];

/// Two tables of 2,000 points on 40 places: the first of each place fills the tiles of the others.
const TABLES: &str = "
    CREATE TABLE site (id int PRIMARY KEY, name text, g geometry(Point, 4326));
    INSERT INTO site SELECT n, 's' || n, ST_SetSRID(ST_MakePoint(n % 40 * 3 - 60, n % 40 - 20), 4326) FROM generate_series(0, 1999) AS n;
    CREATE TABLE shop AS TABLE site;
    ALTER TABLE shop ADD PRIMARY KEY (id);
    CREATE INDEX ON site USING gist (g);
    CREATE INDEX ON shop USING gist (g)";

const NOTHING_LOST: &str = "Nothing was written, the manifest is unchanged. See whether a table is empty, or an import half done; if not, allow it for one seed or reseed with --allow-shrink";

/// A layer over a table, with more lines.
fn layer(name: &str, table: &str, more: &str) -> String {
    format!("[[layer]]\nname = \"{name}\"\ntable = \"{table}\"\nkey = [\"id\"]\n{more}\n")
}

impl Followed {
    /// The layers are those of these tables, with `s` for plural.
    fn of_tables(tables: &[&str]) -> Followed {
        let world = Followed { db: Db::new(), places: Places::new() };
        world.db.run(TABLES);
        let layers: String =
            tables.iter().map(|table| layer(&format!("{table}s"), table, "properties = [\"name\"]")).collect();
        world.configured(&format!("{layers}[tileset]\nzoom = \"0-6\"\n"))
    }

    /// With these sections instead of the layers and the tileset.
    fn configured(self, sections: &str) -> Followed {
        let text = std::fs::read_to_string(&self.places.config).unwrap();
        let (_, s3) = text.split_once("[s3]").unwrap();
        std::fs::write(&self.places.config, format!("{sections}[s3]{s3}")).unwrap();
        self.run("track", &["install"]).ok();
        self
    }

    /// What the manifest says of the rows of the first layer.
    fn rows(&self, name: &str) -> serde_json::Value {
        self.manifest(name)["rows"]["layers"][0].clone()
    }

    /// The tiles of some targets.
    fn tiles(&self, names: &[&str]) -> Vec<Tiles> {
        names.iter().map(|name| self.places.read_by_others_or_copy(name)).collect()
    }

    /// Asserts that a run is refused because of these layers, and that it has moved no manifest.
    #[track_caller]
    fn refuses(&self, name: &str, layers: &str, run: impl FnOnce() -> Run) {
        let (manifest, place) = (self.manifest(name), self.places.place(name));
        let refused =
            run().fails(1, &[&format!("error: {place} would lose rows: {layers}. max_shrink is 50%. {NOTHING_LOST}")]);
        assert_eq!(refused.stdout, "");
        assert!(self.manifest(name) == manifest, "{name}");
    }
}

#[test]
fn a_layer_that_loses_its_rows_is_refused_though_its_tiles_stay() {
    let world = Followed::of_tables(&["site"]);
    for name in TARGETS {
        world.writes("seed", name, &[]).ok();
        assert_eq!(world.rows(name), serde_json::json!({ "layer": "sites", "zooms": "0-22", "rows": 2_000 }), "{name}");
    }
    world.db.run("CREATE TABLE kept AS TABLE site; DELETE FROM site WHERE id >= 100");
    let lost = "layer \"sites\" had 2 000 rows in the last day and has 100 now, 95 % fewer";
    let tiles = world.tiles(&TARGETS);
    for name in TARGETS {
        world.refuses(name, lost, || world.writes("seed", name, &[]));
        world.refuses(name, lost, || world.writes("seed", name, &["--zoom", "5"]));
        world.refuses(name, lost, || world.writes("reseed", name, &[]));
        // Zooms of the target are judged as well.
        world.refuses(name, lost, || world.writes("reseed", name, &["--zoom", "2"]));
    }
    assert!(world.tiles(&TARGETS) == tiles, "a refused run has written tiles");
    // What was allowed is no loss for the next run.
    for (number, name) in TARGETS.iter().enumerate() {
        let verb = if number % 2 == 0 { "reseed" } else { "seed" };
        let stored = world.manifest(name)["stored"].clone();
        world.writes(verb, name, &["--allow-shrink"]).ok();
        assert_eq!(world.manifest(name)["stored"], stored, "{name}: no tile is gone");
    }
    world.db.run("UPDATE site SET name = name || '!' WHERE id < 60");
    for name in TARGETS {
        world.writes("reseed", name, &[]).ok();
        assert_eq!(world.rows(name)["rows"], 100, "{name}");
        // Few rows may go.
        world.writes("seed", name, &[]).ok();
    }
    world.db.run("DELETE FROM site WHERE id >= 40; DELETE FROM site WHERE id = 39");
    world.writes("seed", "t.mbtiles", &[]).ok();
    world.writes("reseed", "tiles/", &[]).ok();
}

/// What a layer draws of its rows does not count: a cell stays as long as one row is in it, and a thinned tile is full
/// with few rows.
#[test]
fn rows_count_in_layers_of_every_kind_as_long_as_they_have_a_position() {
    let world = Followed { db: Db::new(), places: Places::new() };
    world.db.run(TABLES);
    let kinds = [
        ("counts", "[layer.aggregate]\ncell = \"square\"\nsize = \"1/8\"\nproperties = { count = \"count(*)\" }"),
        (
            "cells",
            "[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/8\"\nproperties = { names = \"string_agg(name, ' ' ORDER BY id)\" }",
        ),
        ("clusters", "properties = [\"name\"]\n[layer.cluster]"),
        ("thinned", "properties = [\"name\"]\nmax_tile_features = 5\non_large_tile = \"thin\""),
        ("boxes", "properties = [\"name\"]\nsql = \"SELECT id, name, ST_Expand(g, 0.1) AS g FROM site\""),
    ];
    let layers: String = kinds
        .iter()
        .map(|(name, more)| {
            let own = layer(name, "site", more);
            if more.contains("sql = ") { own.replace("table = \"site\"\n", "geometry = \"g\"\n") } else { own }
        })
        .collect();
    let tracked = "[[layer.track]]\ntable = \"site\"\ngeometry = \"SELECT ST_Expand(changed.g, 0.1)\"\n";
    let world = world.configured(&format!("{layers}{tracked}[tileset]\nzoom = \"0-4\"\n"));
    world.writes("seed", "t.mbtiles", &[]).ok();
    world.db.run("UPDATE site SET g = NULL WHERE id >= 100");
    let lost: Vec<String> = kinds
        .iter()
        .map(|(name, _)| format!("layer \"{name}\" had 2 000 rows in the last day and has 100 now, 95 % fewer"))
        .collect();
    for verb in ["seed", "reseed"] {
        world.refuses("t.mbtiles", &lost.join("; "), || world.writes(verb, "t.mbtiles", &[]));
    }
}

#[test]
fn each_of_several_tilesets_is_judged_by_itself() {
    let world = Followed { db: Db::new(), places: Places::new() };
    world.db.run(TABLES);
    let layers: String =
        ["site", "shop"].map(|table| layer(&format!("{table}s"), table, "properties = [\"name\"]")).concat();
    let names = ["both", "shops", "sites"];
    let tilesets: String = names
        .iter()
        .map(|name| {
            let place = world.places.place(&format!("{name}.mbtiles"));
            let own = if *name == "both" { String::new() } else { format!("layers = [\"{name}\"]\n") };
            format!("[[tileset]]\nname = \"{name}\"\n{own}zoom = \"0-4\"\noutput = \"{place}\"\n")
        })
        .collect();
    let world = world.configured(&format!("{tilesets}{layers}"));
    let target = |name: &str| format!("{name}.mbtiles");
    world.run("seed", &["--progress", "none"]).ok();
    world.db.run("UPDATE site SET name = 'new'; CREATE TABLE kept AS TABLE shop; DELETE FROM shop WHERE id >= 100");
    let lost = "layer \"shops\" had 2 000 rows in the last day and has 100 now, 95 % fewer";
    for verb in ["reseed", "seed"] {
        let before = names.map(|name| world.manifest(&target(name)));
        let refused = world.run(verb, &["--progress", "none"]);
        let places =
            ["both", "shops"].map(|name| format!("{} would lose rows: {lost}", world.places.place(&target(name))));
        let refused = refused.fails(3, &[&places[0], &places[1]]);
        assert!(!refused.stderr.contains("layer \"sites\""), "{}", refused.stderr);
        let after = names.map(|name| world.manifest(&target(name)));
        assert_eq!([0, 1, 2].map(|index| before[index] == after[index]), [true, true, false], "{verb}");
    }
    // A loss that is allowed for one is not allowed for another.
    world.run("reseed", &["--progress", "none", "--tileset", "shops", "--allow-shrink"]).ok();
    world.run("reseed", &["--progress", "none"]).fails(3, &[&world.places.place(&target("both"))]);
    world.db.run("INSERT INTO shop SELECT * FROM kept WHERE id >= 100");
    world.run("reseed", &["--progress", "none"]).ok();
}

#[test]
fn one_of_two_layers_that_is_emptied_is_refused() {
    let world = Followed::of_tables(&["site", "shop"]);
    for name in ["t.mbtiles", "tiles/"] {
        world.writes("seed", name, &[]).ok();
    }
    world.db.run("CREATE TABLE kept AS TABLE shop; TRUNCATE shop");
    let lost = "layer \"shops\" had 2 000 rows in the last day and has 0 now, 100 % fewer";
    let tiles = world.tiles(&["t.mbtiles", "tiles/"]);
    for name in ["t.mbtiles", "tiles/"] {
        world.refuses(name, lost, || world.writes("seed", name, &[]));
        world.refuses(name, lost, || world.writes("seed", name, &["-q", "--zoom", "0-3"]));
        world.refuses(name, lost, || world.writes("reseed", name, &["-q", "--or-seed"]));
    }
    assert!(world.tiles(&["t.mbtiles", "tiles/"]) == tiles, "a refused run has written tiles");
    world.db.run("INSERT INTO shop TABLE kept");
    world.writes("seed", "t.mbtiles", &[]).ok();
    world.db.run("DELETE FROM shop");
    world.refuses("t.mbtiles", lost, || world.writes("reseed", "t.mbtiles", &[]));
    // Both are named.
    world.db.run("DELETE FROM site WHERE id > 500");
    let both = format!("layer \"sites\" had 2 000 rows in the last day and has 501 now, 74 % fewer; {lost}");
    world.refuses("t.mbtiles", &both, || world.writes("reseed", "t.mbtiles", &[]));
    // Half of both is allowed.
    world.db.run("INSERT INTO site SELECT * FROM kept WHERE id BETWEEN 501 AND 999; INSERT INTO shop SELECT * FROM kept WHERE id < 1000");
    world.writes("reseed", "t.mbtiles", &[]).ok();
}

#[test]
fn slices_that_a_watch_publishes_add_up_within_a_day() {
    let world = Followed::of_tables(&["site"]);
    world.writes("seed", "tiles/", &[]).ok();
    let place = world.places.place("tiles/");
    let arguments = ["--watch", "--progress", "none", "--debounce", "50ms", "--poll", "200ms", "--output", &place];
    let watching = Watching::of(&mut world.command("reseed", &arguments));
    watching.says("follows the change log");
    let published = || world.manifest("tiles/")["publication"]["number"].as_u64().unwrap();
    let slice = |number: u32| {
        let from = 100 + number * 120;
        world.db.run(&format!("DELETE FROM site WHERE id BETWEEN {from} AND {}", from + 119));
    };
    // Each takes 6 % of what there was: after eight, 48 % are gone.
    for number in 0..8 {
        let before = published();
        slice(number);
        until("the slice is published", || published() > before);
        if number == 4 {
            // So many changed rows are counted anew, and what there was before is not forgotten.
            let before = published();
            world.db.run("UPDATE site SET name = name || '!'");
            until("the change is published", || published() > before);
            assert_eq!(world.rows("tiles/")["rows"], 1_400);
        }
    }
    let before = published();
    slice(8);
    let refused = watching.says("would lose rows");
    assert!(
        refused.contains("layer \"sites\" had 2 000 rows in the last day and has 920 now, 54 % fewer"),
        "{refused}"
    );
    slice(9);
    assert_eq!(published(), before);
    // Once enough rows are back, the watch goes on.
    world.db.run("INSERT INTO site SELECT n, 'new', ST_SetSRID(ST_MakePoint(n % 40 * 3 - 60, n % 40 - 20), 4326) FROM generate_series(5000, 5999) AS n");
    until("the watch goes on", || published() > before);
    assert_eq!(watching.end(), 0);
}

#[test]
fn a_reseed_counts_rows_only_if_the_changed_ones_could_be_too_many() {
    let world = Followed::of_tables(&["site"]);
    let target = "t.mbtiles";
    world.writes("seed", target, &[]).ok();
    let counts = |run: Run| run.ok().stderr.contains("its rows are counted");
    world.db.run("UPDATE site SET name = 'x' WHERE id < 400");
    assert!(!counts(world.writes("reseed", target, &["-vv"])));
    assert_eq!(
        world.rows(target),
        serde_json::json!({ "layer": "sites", "zooms": "0-22", "rows": 2_000, "changed": 400 })
    );
    world.db.run("UPDATE site SET name = 'y' WHERE id < 700");
    assert!(counts(world.writes("reseed", target, &["-vv"])), "1,100 may be gone");
    assert_eq!(world.rows(target), serde_json::json!({ "layer": "sites", "zooms": "0-22", "rows": 2_000 }));
    world.db.run("DELETE FROM site WHERE id BETWEEN 1000 AND 1899");
    assert!(!counts(world.writes("reseed", target, &["-vv"])));
    world.db.run("INSERT INTO site SELECT n, 'new', ST_SetSRID(ST_MakePoint(n % 40 * 3 - 60, n % 40 - 20), 4326) FROM generate_series(5000, 5199) AS n");
    assert!(counts(world.writes("reseed", target, &["-vv"])));
    let rows = world.rows(target);
    assert_eq!((&rows["rows"], &rows["before"][0]["rows"]), (&1_300.into(), &2_000.into()), "{rows}");
}

#[test]
fn a_manifest_without_counts_is_accepted_and_gets_them() {
    let world = Followed::of_tables(&["site"]);
    world.writes("seed", "t.mbtiles", &[]).ok();
    let path = world.places.place("t.mbtiles");
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute("UPDATE metadata SET value = json_remove(value, '$.rows') WHERE name = 'oar_tiles_manifest'", [])
        .unwrap();
    drop(file);
    assert_eq!(world.rows("t.mbtiles"), serde_json::Value::Null);
    world.db.run("DELETE FROM site WHERE id >= 300");
    world.writes("reseed", "t.mbtiles", &[]).ok();
    assert_eq!(world.rows("t.mbtiles")["rows"], 300);
    world.db.run("DELETE FROM site WHERE id >= 100");
    let lost = "layer \"sites\" had 300 rows in the last day and has 100 now, 66 % fewer";
    world.refuses("t.mbtiles", lost, || world.writes("reseed", "t.mbtiles", &[]));
}
