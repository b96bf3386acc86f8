//! `on_tile_error`: a layer that cannot be rendered in some tile. What the target holds of such a tile is never
//! deleted, and never replaced by what is known to lack something; the run says so, and the next reseed makes it good.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use oar_tiles::mvt;

use crate::support::archive::{Address, unpacked};
use crate::support::places::{Places, Tiles};
use crate::support::program::{ROWS_LAYER, Run, program, run, seed};
use crate::support::tracked::differences;
use crate::support::world::Followed;
use crate::support::{Archive, Db, OldTarget, Tree};

/// A facility by itself, far from the edges of its tiles.
const LONELY: &str = "INSERT INTO api_facility VALUES ('lonely', 'Lonely Mill', 'A', 'NZ', ST_SetSRID(ST_MakePoint(-150, -40), 4326), false, now(), now())";

/// The tiles in which it lies.
const ITS_TILES: [Address; 5] = [(0, 0, 0), (1, 0, 1), (2, 0, 2), (3, 0, 4), (4, 1, 9)];

/// Makes its property impossible to work out, and possible again.
const BREAK: &str = "UPDATE api_facility SET name = '' WHERE id = 'lonely'";
const MEND: &str = "UPDATE api_facility SET name = 'Mended' WHERE id = 'lonely'";

/// Two layers; the second one raises an error where a name is empty.
const LAYERS: &str = "[[layer]]\nname = \"all\"\ntable = \"api_facility\"\nproperties = [\"id\"]\n\n[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\non_tile_error = \"skip\"\nproperties = { id = \"id\", letters = \"1000 / length(name)\" }\n";

/// What is said of them.
const NAMED: &str = "layer \"mills\" in 0/0/0, 1/0/1, 2/0/2, 3/0/4, 4/1/9.";

const KINDS: [&str; 4] = ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/"];

/// Targets of all kinds with the two layers.
fn world() -> Followed {
    let (db, places) = (Db::with_facilities(100), Places::new());
    let text = std::fs::read_to_string(&places.config).unwrap().replace(ROWS_LAYER, "") + LAYERS;
    std::fs::write(&places.config, text).unwrap();
    db.run(LONELY);
    Followed::new(db, places)
}

impl Followed {
    fn reported_reseed(&self, name: &str) -> (Run, Value) {
        let report = self.places.place("r.json");
        let run = self.writes("reseed", name, &["--report", &report]);
        (run, serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap())
    }

    /// What a seed of now holds.
    fn fresh_tiles(&self) -> Tiles {
        self.places.seed(&self.db, "fresh.mbtiles", &["--zoom", "0-4"]).ok();
        self.places.read_by_others("fresh.mbtiles")
    }

    fn compared(&self, name: &str) -> Run {
        self.run("verify", &["--database", "--all", &self.places.place(name)])
    }
}

fn layers(packed: &[u8]) -> Vec<String> {
    mvt::decode(&unpacked(packed)).unwrap().iter().map(|layer| layer.name.to_owned()).collect()
}

/// A run that is done in part says of which tiles, once, and why.
#[track_caller]
fn in_part(run: Run, place: &str) -> Run {
    let place = place.strip_suffix('/').filter(|_| !place.starts_with("s3:")).unwrap_or(place);
    let run = run.fails(
        3,
        &[
            &format!("error: not every tile could be rendered: {NAMED} What {place} held of them stays as it was, everything else is done. Mend what the cause names, then run oar-tiles reseed"),
            ", which renders them again (or seed)\n",
            "  cause: division by zero\n",
        ],
    );
    assert_eq!(run.stderr.matches("division by zero").count(), 1, "{}", run.stderr);
    run
}

#[test]
fn an_edited_target_keeps_its_old_tile_until_it_can_be_rendered_again() {
    let world = world();
    for name in KINDS {
        world.places.seed(&world.db, name, &["--zoom", "0-4"]).ok();
    }
    for name in KINDS {
        let place = world.places.place(name);
        let before = world.places.read_by_others(name);
        // Others change, too: what can be rendered is published.
        world.db.run(BREAK);
        world.db.run("UPDATE api_facility SET name = name || '!' WHERE country_code = 'BD'");
        let (run, report) = world.reported_reseed(name);
        in_part(run, &place);
        let after = world.places.read_by_others(name);
        for tile in ITS_TILES {
            assert!(before[&tile] == after[&tile], "{name}: {tile:?} has changed");
        }
        assert!(differences(&before, &after).len() > 2, "{name}: the others are brought up to date");
        let failed = report["failed"].as_array().unwrap();
        assert_eq!(failed[0], json!({ "tile": "0/0/0", "layer": "mills", "cause": "division by zero" }));
        assert_eq!((failed.len(), &report["complete"]), (5, &json!(false)));
        assert_eq!(report["manifest"]["unrendered"], json!(["0/0/0", "1/0/1", "2/0/2", "3/0/4", "4/1/9"]));
        // It says so itself: what is not known is not wrong.
        world.compared(name).ok();
        let shown = world.places.run("inspect", &[&place]).ok().stdout;
        assert!(shown.contains("could not be rendered: 5 tiles\n"), "{shown}");
        let status = world.run("track", &["status", &place]).ok().stdout;
        assert!(status.contains(": nothing changed, 5 tiles that could not be rendered before\n"), "{status}");

        // Nothing has changed: it is tried again.
        let (run, report) = world.reported_reseed(name);
        assert!(
            in_part(run, &place)
                .stdout
                .starts_with("could not be rendered before: 5 tiles\n5 dirty tiles, 5 unchanged ")
        );
        assert_eq!((&report["written"], &report["unchanged"]), (&json!(0), &json!(5)));
        assert!(world.places.read_by_others(name) == after, "{name}");

        world.db.run(MEND);
        let (run, report) = world.reported_reseed(name);
        run.ok();
        assert_eq!((&report["manifest"]["unrendered"], &report["complete"]), (&Value::Null, &json!(true)));
        assert!(differences(&world.places.read_by_others(name), &world.fresh_tiles()).is_empty(), "{name}");
        assert!(world.reported_reseed(name).0.ok().stdout.starts_with("nothing to do"));
        world.compared(name).ok();
    }
}

#[test]
fn a_seed_keeps_old_tiles_where_it_brings_in_line_and_leaves_the_layer_out_where_it_writes_anew() {
    let world = world();
    for name in KINDS {
        world.places.seed(&world.db, name, &["--zoom", "0-4"]).ok();
    }
    let old = world.fresh_tiles();
    world.db.run(BREAK);
    for name in KINDS {
        let report = world.places.place("r.json");
        let run = world.places.seed(&world.db, name, &["--zoom", "0-4", "--report", &report]);
        let run = in_part(run, &world.places.place(name));
        assert!(run.stdout.contains(", 5 could not be rendered"), "{}", run.stdout);
        let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        assert_eq!((report["failed"].as_array().unwrap().len(), &report["manifest"]["empty"]), (5, &json!(0)));
        let tiles = world.places.read_by_others(name);
        assert_eq!(tiles.len(), old.len());
        for tile in ITS_TILES {
            if name.ends_with('/') {
                assert!(tiles[&tile] == old[&tile], "{name}: {tile:?} has changed");
            } else {
                assert_eq!(layers(&tiles[&tile]), ["all"], "{name}: {tile:?}");
            }
        }
        assert_eq!(differences(&tiles, &old).len(), if name.ends_with('/') { 0 } else { 5 }, "{name}");
        world.compared(name).ok();
    }
    // A tile that is known to be incomplete is found as soon as it could be rendered, and mended by a reseed.
    world.db.run(MEND);
    for name in KINDS {
        let found = world.compared(name).fails(1, &["is not sound: 5 findings"]);
        assert!(found.stdout.contains("tiles that differ from the database: 5\n"), "{}", found.stdout);
        world.reported_reseed(name).0.ok();
        assert!(differences(&world.places.read_by_others(name), &world.fresh_tiles()).is_empty(), "{name}");
    }
}

/// Where nothing was before, what can be rendered of a tile is better than nothing.
#[test]
fn a_new_target_holds_what_could_be_rendered() {
    let world = world();
    world.db.run(BREAK);
    for name in KINDS {
        in_part(world.places.seed(&world.db, name, &["--zoom", "0-4"]), &world.places.place(name));
        let tiles = world.places.read_by_others(name);
        for (tile, packed) in &tiles {
            let expected: &[&str] = if ITS_TILES.contains(tile) { &["all"] } else { &["all", "mills"] };
            assert_eq!(layers(packed), expected, "{name}: {tile:?}");
        }
        world.compared(name).ok();
    }
}

#[test]
fn where_layers_stand_apart_only_the_failed_one_stays_as_it_was() {
    let world = world();
    let text = std::fs::read_to_string(&world.places.config).unwrap();
    std::fs::write(&world.places.config, format!("[target]\ntemplate = \"{{layer}}/{{z}}/{{x}}/{{y}}.pbf\"\n{text}"))
        .unwrap();
    world.places.seed(&world.db, "tiles/", &["--zoom", "0-4"]).ok();
    let before = world.places.place("tiles/");
    let read = |layer: &str| std::fs::read(Path::new(&before).join(layer).join("4/1/9.pbf")).unwrap();
    let old = (read("all"), read("mills"));
    world.db.run(BREAK);
    world.db.run("UPDATE api_facility SET location = ST_Translate(location, 1, 0) WHERE id = 'lonely'");
    in_part(world.places.seed(&world.db, "tiles/", &["--zoom", "0-4"]), &before);
    let new = (read("all"), read("mills"));
    assert!(old.0 != new.0 && old.1 == new.1);
}

#[test]
fn only_the_tiles_of_the_row_fail_also_where_the_index_finds_others() {
    let db = Db::new();
    // No closed formula leads from a tile to this reference system: a batch looks for its rows in one box.
    db.run(
        "CREATE TABLE mill (id int PRIMARY KEY, g geometry(Point, 25832), workers int);
         INSERT INTO mill SELECT i, ST_Transform(ST_SetSRID(ST_MakePoint(6.1 + (i * 37 % 101) / 20.0, 48 + (i * 53 % 103) / 20.0), 4326), 25832), 1 + i % 9
         FROM generate_series(1, 400) AS i;
         UPDATE mill SET workers = 0 WHERE id = 333;
         CREATE INDEX ON mill USING gist (g)",
    );
    let expected: BTreeSet<String> = db
        .rows(
            "SELECT format('%s/%s/%s', z, x, y) FROM mill, generate_series(0, 9) AS z, generate_series(0, (1 << z) - 1) AS x, generate_series(0, (1 << z) - 1) AS y
             WHERE id = 333 AND x BETWEEN floor((ST_X(ST_Transform(g, 4326)) + 180) / 360 * (1 << z)) - 1 AND floor((ST_X(ST_Transform(g, 4326)) + 180) / 360 * (1 << z)) + 1
                AND ST_AsMVTGeom(ST_Transform(g, 3857), ST_TileEnvelope(z, x, y), 4096, 64, true) IS NOT NULL",
        )
        .iter()
        .map(|row| row.get(0))
        .collect();
    let old = OldTarget::new();
    let text = |on: &str| {
        format!(
            "[[layer]]\nname = \"mills\"\ntable = \"mill\"\non_tile_error = \"{on}\"\nproperties = {{ share = \"100 / workers\" }}\n"
        )
    };
    for batch in ["10000", "60"] {
        let (output, report) = (old.beside("t.mbtiles"), old.beside("r.json"));
        let config = old.config(&format!("[run]\nbatch_features = {batch}\n{}", text("skip")));
        let arguments = ["--zoom", "0-9", "--config", &config, "--report", report.to_str().unwrap()];
        seed(&db.url, &output, &arguments).fails(3, &["layer \"mills\" in 0/0/0, "]);
        let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        let failed: Vec<String> =
            report["failed"].as_array().unwrap().iter().map(|f| f["tile"].as_str().unwrap().to_owned()).collect();
        assert_eq!((failed.len(), failed.into_iter().collect()), (expected.len(), expected.clone()));
    }
    // By default the run ends, and names a tile in which the row does lie.
    let refused = old.refuses_config(&db.url, &text("fail"), &["--zoom", "9"], 1, &["division by zero"]);
    let named = refused.stderr.split_once(", tile ").unwrap().1.split_once(':').unwrap().0;
    assert!(expected.contains(named), "{named} of {expected:?}");
}

#[test]
fn an_aggregate_that_raises_fails_the_tiles_that_show_its_cell() {
    let db = Db::with_facilities(300);
    db.run(LONELY);
    db.run(BREAK);
    let old = OldTarget::new();
    let (output, report) = (old.beside("t.mbtiles"), old.beside("r.json"));
    let config = old.config(
        "[[layer]]\nname = \"grid\"\ntable = \"api_facility\"\non_tile_error = \"skip\"\n[layer.aggregate]\ncell = \"square\"\nsize = \"1/64\"\nproperties = { n = \"count(*)\", letters = \"count(*) / sum(length(name))\" }\n",
    );
    let arguments = ["--zoom", "3-5", "--config", &config, "--report", report.to_str().unwrap()];
    seed(&db.url, &output, &arguments).fails(3, &["layer \"grid\" in 3/0/4, 4/1/9, 5/2/19."]);
    let tiles = Archive::open(&output).stored();
    assert!(!tiles.contains_key(&(4, 1, 9)) && tiles.len() > 20);
    let verify = ["verify", "--database", "--database-url", &db.url, "--config", &config];
    run(program().args(verify).arg(&output)).ok();
}

#[test]
fn a_tile_that_takes_too_long_is_skipped_as_well() {
    let db = Db::with_facilities(60);
    db.run(LONELY);
    let old = OldTarget::new();
    let output = old.beside("t.mbtiles");
    let config = old.config(
        "[database]\nstatement_timeout = \"2s\"\n[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\non_tile_error = \"skip\"\nproperties = { id = \"id\", late = \"CASE WHEN id = 'lonely' THEN pg_sleep(60)::text END\" }\n",
    );
    seed(&db.url, &output, &["--zoom", "1", "--config", &config])
        .fails(3, &["layer \"mills\" in 1/0/1.", "  cause: the database cancelled the query after 2s\n"]);
    assert!(Archive::open(&output).stored().keys().eq([(1, 0, 0), (1, 1, 0), (1, 1, 1)].iter()));
}

#[test]
fn what_fails_everywhere_is_no_accident_and_publishes_nothing() {
    let db = Db::with_facilities(60);
    db.run(
        "CREATE FUNCTION refuse(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'not for you' USING ERRCODE = 'insufficient_privilege'; END $$",
    );
    let old = OldTarget::new();
    let text = |sql: &str| {
        format!(
            "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\non_tile_error = \"skip\"\nproperties = {{ x = \"{sql}\" }}\n"
        )
    };
    let many = "error: more than 300 tiles could not be rendered, the last of them ";
    let next = " (division by zero): that is more than on_tile_error = \"skip\" is for. Mend what the cause names\n";
    // One row, drawn in nearly every tile.
    db.run("CREATE TABLE sea (id int PRIMARY KEY, g geometry(Polygon, 4326)); INSERT INTO sea VALUES (1, ST_MakeEnvelope(-60, -50, 60, 50, 4326))");
    let zero = text("1 / (id - id)").replace("api_facility", "sea");
    old.refuses_config(&db.url, &zero, &["--zoom", "6"], 1, &[many, next]);
    // The statement is at fault, or the role, and no row.
    let one = ["--zoom", "0-3", "--workers", "1"];
    old.refuses_config(&db.url, &text("refuse(id)"), &one, 1, &["tile 0/0/0: ", "not for you"]);
}

#[test]
fn with_force_nothing_of_another_tileset_stays_in_a_tile_that_fails() {
    let world = world();
    let tree = Tree::new();
    let other =
        "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\nproperties = { id = \"id\", secret = \"name\" }\n";
    tree.seed(&world.db.url, &["--config", &tree.config(other), "--zoom", "0-4"]);
    world.db.run(BREAK);
    let config = tree.config(LAYERS);
    seed(&world.db.url, &tree.path, &["--config", &config, "--zoom", "0-4", "--force"]).fails(3, &[NAMED]);
    for (tile, packed) in tree.tiles() {
        let raw = unpacked(&packed);
        for layer in mvt::decode(&raw).unwrap() {
            let named =
                layer.features.iter().flat_map(|feature| layer.properties(feature)).any(|(name, _)| name == "secret");
            assert!(!named, "{tile:?}");
        }
    }
}
