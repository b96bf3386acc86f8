//! `serve --live` and `preview --live` without a configuration: every table, view and function of the database that can
//! be drawn is a tileset.

use serde_json::Value;

use crate::support::folder::Folder;
use crate::support::program::{bare_program, run};
use crate::support::served::{Served, status};
use crate::support::{Archive, Db, until};

const DATABASE: &str = "
CREATE TABLE place (id int PRIMARY KEY, kind text, g geometry(Point, 4326));
INSERT INTO place SELECT i, CASE i % 2 WHEN 0 THEN 'mill' ELSE 'farm' END, ST_SetSRID(ST_MakePoint(5 + i % 40, 10 + i % 30), 4326) FROM generate_series(1, 200) AS i;
CREATE VIEW mills AS SELECT id, g FROM place WHERE kind = 'mill';
CREATE SCHEMA other;
CREATE TABLE other.\"Odd name/\" (id int PRIMARY KEY, shape geometry(Polygon, 3857));
INSERT INTO other.\"Odd name/\" VALUES (1, ST_SetSRID(ST_MakeEnvelope(0, 0, 5e6, 5e6), 3857));
CREATE TABLE nowhere (id int PRIMARY KEY, g geometry);
INSERT INTO nowhere VALUES (1, ST_MakePoint(700000, 5000000));
CREATE FUNCTION tiles(z int, x int, y int) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT ST_AsMVT(t, 'tiles') FROM (SELECT ST_AsMVTGeom(ST_Transform(g, 3857), ST_TileEnvelope(z, x, y)) AS geom, id FROM place ORDER BY id) AS t WHERE geom IS NOT NULL $$;
CREATE FUNCTION other.of_kind(zoom int, x int, y int, query json) RETURNS TABLE (mvt bytea, key text) LANGUAGE sql STABLE AS $$ SELECT tiles(zoom, x, y), 'k' $$;
CREATE FUNCTION raster(z int, x int, y int) RETURNS bytea LANGUAGE sql STABLE AS $$ SELECT NULL::bytea $$;
COMMENT ON FUNCTION raster IS '{\"content_type\": \"image/png\"}';
CREATE FUNCTION sum_of(a int, b int, c int) RETURNS bytea LANGUAGE sql STABLE AS $$ SELECT NULL::bytea $$;
";

fn database() -> Db {
    let db = Db::new();
    db.run(DATABASE);
    db
}

fn catalogue(served: &Served) -> Value {
    served.json("/catalog")
}

#[test]
fn everything_that_can_be_drawn_is_served_and_what_cannot_says_why() {
    let (db, folder) = (database(), Folder::new());
    let log = folder.beside("log");
    let mut command = bare_program();
    command.current_dir(folder.beside("")).args(["serve", "--live", "--preview", "--database-url", &db.url]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s", "--workers", "2"]);
    command.stderr(std::fs::File::create(&log).unwrap());
    let served = Served::of(&mut command);
    let listed = catalogue(&served);
    let names: Vec<&str> =
        listed["tilesets"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Odd_name_", "mills", "place", "of_kind", "tiles"]);
    for tileset in listed["tilesets"].as_array().unwrap() {
        assert_eq!((&tileset["live"], &tileset["minzoom"], &tileset["maxzoom"]), (&true.into(), &0.into(), &22.into()));
    }
    let told = std::fs::read_to_string(&log).unwrap();
    for text in
        ["not drawn: g of nowhere: ", "not drawn: function raster(int4, int4, int4): ", "says that it gives image/png"]
    {
        assert!(told.contains(text), "{text} in {told}");
    }
    assert!(!told.contains("sum_of"), "its arguments are none of a tile");

    let plain = |table: &str, columns: &str| {
        db.rows(&format!(
            "SELECT ST_AsMVT(t, '{table}') FROM (SELECT ST_AsMVTGeom(ST_Transform(g, 3857), ST_TileEnvelope(3, 4, 3), 4096, 64) AS geom, {columns}
             FROM {table} ORDER BY id) AS t WHERE geom IS NOT NULL"
        ))[0]
            .get::<_, Vec<u8>>(0)
    };
    for (path, expected) in [
        ("/place/3/4/3.pbf", plain("place", "id, kind")),
        ("/mills/3/4/3.pbf", plain("mills", "id")),
        ("/tiles/3/4/3.pbf", db.rows("SELECT tiles(3, 4, 3)")[0].get(0)),
        ("/of_kind/3/4/3.pbf", db.rows("SELECT tiles(3, 4, 3)")[0].get(0)),
    ] {
        let answer = served.get(path, "");
        assert!(status(&answer) == 200 && answer.body == expected, "{path} {}", answer.head);
    }
    assert_eq!(status(&served.get("/Odd_name_/22/2097152/2097151.pbf", "")), 200);
    assert_eq!(status(&served.get("/place/0/0/0.pbf", "")), 200);
    assert_eq!(status(&served.get("/place/3/0/0.pbf", "")), 204);
    assert_eq!(status(&served.get("/nowhere/0/0/0.pbf", "")), 404);
    let tilejson = served.json("/place/tiles.json");
    assert_eq!(tilejson["vector_layers"][0]["fields"]["kind"], "String");
    assert_eq!(tilejson["bounds"], serde_json::json!([5.0, 10.0, 44.0, 39.0]));
    let status_of_all: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
    assert_eq!(status_of_all["ready"], true, "{status_of_all}");
    // A change shows once the tile is no longer fresh.
    assert!(served.admin("/status.json").1.contains("the tileset has no target"));
    let sessions = || {
        db.value::<i64>(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'oar%'",
        )
    };
    // Two that render and two that wait, and two snapshots of each tileset: one pool for all.
    until("the sessions are few", || sessions() <= 14);
}

#[test]
fn a_preview_without_a_target_shows_the_database() {
    let db = database();
    let served = Served::of(bare_program().args(["preview", "--live", "--database-url", &db.url]));
    let index = String::from_utf8(served.get("/", "").body).unwrap();
    assert!(index.contains(">mills</a>") && index.contains("/place/"), "{index}");
    assert_eq!(status(&served.get("/place/", "")), 200);
    assert_eq!(status(&served.get("/mills/2/2/1.pbf", "")), 200);
}

#[test]
fn a_draft_has_the_functions_as_comments() {
    let (db, folder) = (database(), Folder::new());
    let file = folder.beside("drafted.toml");
    let made = run(bare_program().args(["init", "--database-url", &db.url, "--output"]).arg(&file)).ok();
    let text = std::fs::read_to_string(&file).unwrap();
    let layer = "# [[layer]]\n# name = \"tiles\"\n# function = '\"public\".\"tiles\"(int4, int4, int4)'\n";
    assert!(text.contains(layer), "{text}");
    assert!(
        made.stdout.contains("not drawn: function tiles(int4, int4, int4): a seed calls it for every tile"),
        "{}",
        made.stdout
    );
    // Without the #, it is a layer.
    let all = text.replace(
        layer,
        "[[layer]]\nname = \"tiles\"\nfunction = '\"public\".\"tiles\"(int4, int4, int4)'\nzoom = \"0-2\"\n",
    );
    std::fs::write(&file, all).unwrap();
    let target = folder.beside("t.mbtiles");
    let seed = ["seed", "--progress", "none", "--zoom", "0-2", "--database-url", &db.url];
    run(bare_program().args(seed).arg("--config").arg(&file).arg("--output").arg(&target)).ok();
}

#[test]
fn a_seed_draws_the_functions_that_it_names() {
    let (db, folder) = (database(), Folder::new());
    let seed = |target: &str, tables: &[&str], more: &[&str]| {
        let mut command = bare_program();
        command.args(["seed", "--progress", "none", "--database-url", &db.url, "--output"]).arg(folder.beside(target));
        run(command.args(tables.iter().flat_map(|table| ["--table", *table])).args(more))
    };
    let named = seed("f.mbtiles", &["tiles"], &["--zoom", "0-3"]).ok();
    // A warning with the number of the tiles.
    assert!(named.stderr.contains("is called for every tile of its zooms and boxes, 85 times"), "{}", named.stderr);
    let stored = Archive::open(&folder.beside("f.mbtiles"));
    let expected: Vec<u8> = db.rows("SELECT tiles(3, 4, 3)")[0].get(0);
    assert_eq!(stored.tiles()[&(3, 4, 3)], expected);
    // Without --zoom it ends before the calls are too many.
    let planned = seed("f.mbtiles", &["other.of_kind"], &["--dry-run"]).ok();
    assert!(planned.stderr.contains(", 87381 times"), "{}", planned.stderr);
    // Beside a table, and with a pattern that was not written for it.
    seed("both.mbtiles", &["place", "tiles"], &["--zoom", "0-1"]).ok();
    let all = seed("all.mbtiles", &["*"], &["--zoom", "0-1"]).ok();
    let text = "not drawn: function tiles(int4, int4, int4): a seed calls it for every tile of its zooms: to draw it all the same, give --table tiles";
    assert!(all.stderr.contains(text) && !all.stderr.contains("is called for"), "{}", all.stderr);
    seed("none.mbtiles", &["raster"], &[]).fails(2, &["image/png", "nothing of what was found can be drawn"]);
}

#[test]
fn nothing_to_draw_and_no_target_is_an_error_with_the_next_step() {
    let db = Db::new();
    run(bare_program().args(["serve", "--live", "--database-url", &db.url]))
        .fails(2, &["no table or view in", "has a column of type geometry or geography"]);
    run(bare_program().args(["preview"]))
        .fails(2, &["preview needs a target: oar-tiles preview TARGET; or a configuration"]);
}
