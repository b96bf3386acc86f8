//! Rows that cannot be drawn, statements that fail or take too long on one of them, tables without rows or index: what
//! is left out is counted and named, what cannot be left out names its tile.

use serde_json::{Value, json};

use crate::support::gate::gated;
use crate::support::program::{start_seed, wait};
use crate::support::{Archive, Db, Gate, OldTarget, Place, seed};

fn report(old: &OldTarget, db: &Db, arguments: &[&str]) -> (crate::support::program::Run, Value) {
    let path = old.beside("r.json");
    let arguments = [arguments, &["--force", "--report", path.to_str().unwrap()]].concat();
    let run = seed(&db.url, &old.path, &arguments).ok();
    (run, serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

/// Good and bad rows of points, of every other kind, and of another reference system. Good ones have ids below 10.
const ROWS: &str = include_str!("undrawable_rows.sql");

#[test]
fn rows_that_cannot_be_drawn_are_skipped_counted_and_named() {
    let db = Db::new();
    db.run(ROWS);
    let old = OldTarget::new();
    // A position whose Z is NaN is one that PROJ 9.6 cannot transform, and 9.1 can.
    let without_z = db.value::<bool>("SELECT ST_AsText(ST_Transform(g, 3857)) LIKE '%(NaN%' FROM shapes WHERE id = 4");
    for (table, drawn, skipped) in [
        (
            "points",
            3,
            &[
                ("NULL", 4, &["10", "11", "12"][..]),
                ("empty", 1, &["20"]),
                ("not finite", 3, &["30", "31", "32"]),
                ("outside", 7, &["40", "41", "42"]),
            ][..],
        ),
        (
            "shapes",
            if without_z { 5 } else { 6 },
            &[
                ("NULL", 1, &["10"]),
                ("empty", 3, &["20", "21", "22"]),
                ("not finite", if without_z { 8 } else { 7 }, &["30", "31", "32"]),
                ("outside", 5, &["40", "41", "42"]),
            ],
        ),
        (
            "metres",
            2,
            &[
                ("NULL", 1, &["10"]),
                ("empty", 1, &["20"]),
                ("not finite", 2, &["30", "31"]),
                ("outside", 3, &["40", "41", "42"]),
            ],
        ),
        ("north", 1, &[("NULL", 1, &["10"]), ("empty", 1, &["20"]), ("not finite", 2, &["30", "31"])]),
        ("globe", 2, &[("NULL", 1, &["10"]), ("empty", 1, &["20"]), ("outside", 1, &["40"])]),
    ] {
        // The line in metres reaches beyond the world, and is drawn as far as that goes.
        let beyond = if table == "metres" { "clip" } else { "skip" };
        let config = old.config(&format!("[[layer]]\nname = \"{table}\"\ntable = \"{table}\"\nbeyond = \"{beyond}\""));
        let arguments = ["--config", &config, "--zoom", "0-6"];
        let (run, told) = report(&old, &db, &arguments);
        let expected: Vec<Value> = skipped
            .iter()
            .map(|(reason, rows, examples)| json!({ "layer": table, "reason": reason, "rows": rows, "examples": examples }))
            .collect();
        assert_eq!(told["skipped"], Value::from(expected), "{table}");
        assert_eq!(told["zooms"][0]["features"], drawn, "{table}");
        let (planned, plan) = report(&old, &db, &[&arguments[..], &["--dry-run"]].concat());
        assert_eq!(plan["skipped"], told["skipped"], "{table}");
        for (reason, rows, examples) in skipped {
            let why = match *reason {
                "NULL" => "whose geometry is NULL",
                "empty" => "whose geometry is empty",
                "not finite" => "with NaN or infinite coordinates",
                _ => "outside of the Web Mercator world (beyond ±85.0511° or ±180°)",
            };
            let (noun, more) = (if *rows == 1 { "row" } else { "rows" }, if *rows > 3 { ", …" } else { "" });
            let line = format!("layer \"{table}\": skipped {rows} {noun} {why}: {}{more}\n", examples.join(", "));
            for run in [&run, &planned] {
                assert!(run.stdout.contains(&line), "«{line}» is missing in:\n{}", run.stdout);
            }
        }
        // The tiles are those of the good rows alone.
        let found = Archive::open(&old.path).stored();
        let and_z = if without_z && table == "shapes" { "OR id = 4" } else { "" };
        db.run(&format!("DELETE FROM {table} WHERE id >= 10 {and_z}"));
        let (_, told) = report(&old, &db, &arguments);
        assert_eq!(told["skipped"], json!([]), "{table}");
        assert!(found == Archive::open(&old.path).stored(), "{table}");
        assert!(found.len() >= 7, "{table}: {}", found.len());
    }
}

#[test]
fn surfaces_are_skipped_counted_and_named() {
    let db = Db::new();
    db.run(
        "CREATE TABLE mixed (id int PRIMARY KEY, g geometry(Geometry, 4326));
         INSERT INTO mixed SELECT n, ST_SetSRID(wkt::geometry, 4326) FROM (VALUES
            (1, 'POINT(8 52)'), (2, 'CURVEPOLYGON(CIRCULARSTRING(8 52, 8.5 52.5, 9 52, 8.5 51.5, 8 52))'), (3, 'GEOMETRYCOLLECTION(POINT(1 1))'),
            (10, 'TIN(((8 52, 9 52, 9 53, 8 52)))'), (11, 'TRIANGLE((8 52, 9 52, 9 53, 8 52))'), (12, 'POLYHEDRALSURFACE(((8 52, 9 52, 9 53, 8 52)))'),
            (13, 'GEOMETRYCOLLECTION(POINT(8 52), TRIANGLE((8 52, 9 52, 9 53, 8 52)))'),
            (14, 'GEOMETRYCOLLECTION(GEOMETRYCOLLECTION(POLYHEDRALSURFACE(((8 52, 9 52, 9 53, 8 52)))))')) AS rows (n, wkt);
         CREATE INDEX ON mixed USING gist (g);
         CREATE TABLE tin AS SELECT id, ST_Transform(g, 25832)::geometry(Tin, 25832) AS g FROM mixed WHERE id = 10;
         ALTER TABLE tin ADD PRIMARY KEY (id); CREATE INDEX ON tin USING gist (g);
         CREATE TABLE only_tin AS SELECT id, ST_SetSRID(g, 0)::geometry AS g FROM mixed WHERE id = 10;
         UPDATE only_tin SET g = ST_SetSRID(g, 3857); ALTER TABLE only_tin ADD PRIMARY KEY (id); CREATE INDEX ON only_tin USING gist (g);",
    );
    let old = OldTarget::new();
    for (table, rows, examples) in
        [("mixed", 5, &["10", "11", "12"][..]), ("tin", 1, &["10"]), ("only_tin", 1, &["10"])]
    {
        let config = old.config(&format!("[[layer]]\nname = \"l\"\ntable = \"{table}\""));
        let arguments = ["--config", &config, "--zoom", "0-9"];
        let (run, told) = report(&old, &db, &arguments);
        assert_eq!(
            told["skipped"],
            json!([{ "layer": "l", "reason": "unsupported", "rows": rows, "examples": examples }]),
            "{table}"
        );
        let (noun, more) = if rows == 1 { ("row", "") } else { ("rows", ", …") };
        let line = format!(
            "layer \"l\": skipped {rows} {noun} of a type that tiles cannot hold (TIN, TRIANGLE or POLYHEDRALSURFACE): {}{more}\n",
            examples.join(", ")
        );
        assert!(run.stdout.contains(&line), "{}", run.stdout);
        // The tiles are those of the good rows alone.
        let found = Archive::open(&old.path).stored();
        db.run(&format!("DELETE FROM {table} WHERE id >= 10"));
        let (_, told) = report(&old, &db, &arguments);
        assert_eq!(told["skipped"], json!([]), "{table}");
        assert!(found == Archive::open(&old.path).stored(), "{table}");
        assert_eq!(found.is_empty(), table != "mixed");
    }
}

#[test]
fn mixed_geometry_types_are_drawn() {
    let db = Db::new();
    db.run(
        "CREATE TABLE mixed (id int PRIMARY KEY, g geometry(Geometry, 4326));
         INSERT INTO mixed SELECT n, ST_SetSRID(wkt::geometry, 4326) FROM (VALUES
            (1, 'POINT(8 52)'), (2, 'MULTIPOINT((8 52), (9 53))'), (3, 'LINESTRING(8 52, 9 53)'), (4, 'MULTILINESTRING((8 52, 9 53), (7 51, 8 51))'),
            (5, 'POLYGON((8 52, 9 52, 9 53, 8 52))'), (6, 'MULTIPOLYGON(((8 52, 9 52, 9 53, 8 52)))'),
            (7, 'GEOMETRYCOLLECTION(POINT(8 52), POLYGON((8 52, 9 52, 9 53, 8 52)))'), (8, 'CIRCULARSTRING(8 52, 8.5 53, 9 52)'),
            (9, 'CURVEPOLYGON(CIRCULARSTRING(8 52, 8.5 52.5, 9 52, 8.5 51.5, 8 52))')) AS rows (n, wkt);
         CREATE INDEX ON mixed USING gist (g);",
    );
    let old = OldTarget::new();
    let config = old.config("[[layer]]\nname = \"mixed\"\ntable = \"mixed\"");
    let (run, told) = report(&old, &db, &["--config", &config, "--zoom", "7-9"]);
    assert_eq!((told["skipped"].clone(), run.stderr.as_str()), (json!([]), ""));
    assert!(told["zooms"][0]["features"].as_u64().unwrap() >= 9, "{told}");
    assert!(Archive::open(&old.path).stored().len() > 5);
}

#[test]
fn a_table_without_a_spatial_index_gives_the_same_tiles_and_a_warning() {
    let db = Db::with_facilities(500);
    db.run("CREATE TABLE \"No \"\"index\" AS TABLE api_facility; ALTER TABLE \"No \"\"index\" ADD PRIMARY KEY (id)");
    let old = OldTarget::new();
    let config = old.config("[[layer]]\nname = \"facilities\"\ntable = 'No \"index'\nproperties = [\"id\", \"name\", \"address\", \"country_code\", \"is_closed\"]");
    let create = "CREATE INDEX ON \"public\".\"No \"\"index\" USING gist (\"location\")";
    let warning = format!(
        "layer \"facilities\": \"public\".\"No \"\"index\" has no spatial index, so every batch reads the whole table. Run {create}"
    );
    let (run, told) = report(&old, &db, &["--config", &config, "--zoom", "0-8"]);
    assert_eq!(run.stderr, format!("warning: {warning}\n"));
    assert_eq!(told["warnings"], json!([warning]));
    let found = Archive::open(&old.path).stored();

    db.run(create);
    let (run, told) = report(&old, &db, &["--config", &config, "--zoom", "0-8"]);
    assert_eq!((run.stderr.as_str(), told["warnings"].clone()), ("", json!([])));
    assert!(found == Archive::open(&old.path).stored());
    seed(&db.url, &old.path, &["--zoom", "0-8"]).ok();
    assert!(found == Archive::open(&old.path).stored(), "the table that it was copied from");
}

#[test]
fn an_empty_table_gives_a_valid_archive_without_tiles_and_a_warning() {
    let db = Db::with_facilities(0);
    db.run("CREATE TABLE untyped (id int PRIMARY KEY, g geometry); CREATE INDEX ON untyped USING gist (g)");
    let old = OldTarget::new();
    for layer in ["table = \"api_facility\"", "table = \"untyped\"", "table = \"api_facility\"\nwhere = \"is_closed\""]
    {
        let config = old.config(&format!("[[layer]]\nname = \"mills\"\n{layer}"));
        let (run, told) = report(&old, &db, &["--config", &config, "--allow-shrink"]);
        let warning = "layer \"mills\" has no feature to draw: is its table filled, and its where right?";
        assert_eq!(run.stderr, format!("warning: {warning}\n"));
        assert_eq!((&told["warnings"], &told["manifest"]["planned"]), (&json!([warning]), &json!(0)));
        let archive = Archive::open(&old.path);
        assert_eq!(archive.stored().len(), 0);
        assert_eq!(archive.0.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
        for (name, value) in [
            ("format", "pbf"),
            ("minzoom", "0"),
            ("maxzoom", "14"),
            ("bounds", "-180.000000,-85.051129,180.000000,85.051129"),
        ] {
            assert_eq!(archive.metadata(name).as_deref(), Some(value), "{layer}: {name}");
        }
        let layers: Value = serde_json::from_str(&archive.metadata("json").unwrap()).unwrap();
        assert_eq!(layers["vector_layers"][0]["id"], "mills");
    }
}

/// Ten facilities far from each other; the seventh in tile 5/18/10.
fn ten() -> Db {
    let db = Db::new();
    db.run(
        "CREATE TABLE mills (id int PRIMARY KEY, g geometry(Point, 4326));
         INSERT INTO mills SELECT i, ST_SetSRID(ST_MakePoint(i * 30 - 175, -40), 4326) FROM generate_series(1, 10) AS i WHERE i <> 7;
         INSERT INTO mills VALUES (7, 'SRID=4326;POINT(29 50)');
         CREATE INDEX ON mills USING gist (g);",
    );
    db
}

#[test]
fn a_statement_that_fails_on_one_row_names_the_tile_and_the_layer() {
    let db = ten();
    let old = OldTarget::new();
    let next = "the database could not run the query. Mend what the cause names, and run the command again\n  cause: ";
    for (layer, place, cause) in [
        ("properties = { x = \"100 / (id - 7)\" }", "tile 5/18/10", "division by zero\n"),
        (
            "properties = { x = \"CASE WHEN id = 7 THEN 'x' ELSE '1' END::int\" }",
            "tile 5/18/10",
            "invalid input syntax for type integer: \"x\"\n",
        ),
        ("where = \"100 / (id - 7) <> 0\"", "reading where its features lie", "division by zero\n"),
    ] {
        let config = format!("[[layer]]\nname = \"m\"\ntable = \"mills\"\n{layer}");
        let text = format!("error: layer \"m\", {place}: {next}{cause}");
        for zoom in ["5", "5-8"] {
            old.refuses_config(&db.url, &config, &["--zoom", zoom, "--workers", "1"], 1, &[&text]);
        }
        old.refuses_config(&db.url, &config, &["--zoom", "5", "--dry-run"], 1, &[&text]);
    }
}

#[test]
fn a_statement_that_takes_too_long_names_the_tile_and_the_limit() {
    let db = ten();
    let old = OldTarget::new();
    for (layer, place) in [
        ("properties = { x = \"CASE WHEN id = 7 THEN pg_sleep(60)::text END\" }", "tile 5/18/10"),
        ("where = \"id <> 7 OR pg_sleep(60) IS NOT NULL\"", "reading where its features lie"),
    ] {
        let config =
            format!("[database]\nstatement_timeout = \"500ms\"\n[[layer]]\nname = \"m\"\ntable = \"mills\"\n{layer}");
        let text = format!(
            "error: layer \"m\", {place}: the database cancelled the query after 500ms (raise statement_timeout in [database], or lighten the layer with where or zoom)\n  cause: canceling statement due to statement timeout\n"
        );
        old.refuses_config(&db.url, &config, &["--zoom", "5", "--workers", "1"], 1, &[&text]);
    }
}

#[test]
fn a_statement_that_somebody_cancels_is_no_timeout() {
    let db = Db::with_facilities(10);
    let old = OldTarget::new();
    let config = gated(&old.beside(""), Place::Survey, "");
    let gate = Gate::close(&db);
    let child = start_seed(&db.url, &old.path, &["--config", &config]);
    gate.wait_for(1);
    db.run(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event = 'advisory'",
    );
    let ended = wait(child).fails(1, &[
        "error: layer \"facilities\", reading where its features lie: the database could not run the query. Somebody cancelled it in the server (pg_cancel_backend): run the command again\n  cause: ",
    ]);
    assert!(!ended.stderr.contains("statement_timeout"), "{}", ended.stderr);
    old.is_untouched("cancelled");
    gate.open();
}

#[test]
fn a_tile_with_too_many_features_is_named_before_the_work() {
    let db = Db::with_facilities(60);
    let old = OldTarget::new();
    // The property would fail in the first batch: the limit is looked at before.
    let config = |on: &str, sql: &str| {
        format!(
            "[layer_defaults]\nmax_tile_features = 59\n[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\non_large_tile = \"{on}\"\nproperties = {{ x = \"{sql}\" }}"
        )
    };
    let text = "layer \"mills\": tiles with more than 59 features: 1; the heaviest is tile 0/0/0 with 60. Raise max_tile_features, draw the layer from a deeper zoom, or set on_large_tile = \"thin\" or \"warn\"";
    let failing = config("fail", "1 / (length(id) - length(id))");
    for arguments in [&["--zoom", "0-3"][..], &["--zoom", "0-3", "--dry-run"]] {
        old.refuses_config(&db.url, &failing, arguments, 2, &[&format!("error: {text}\n")]);
    }
    let path = old.config(&config("warn", "name"));
    let new = OldTarget::new();
    let (run, told) = report(&new, &db, &["--zoom", "0-3", "--config", &path]);
    assert_eq!(run.stderr, format!("warning: {text}\n"));
    assert_eq!(told["warnings"], json!([text]));
    assert_eq!(told["zooms"][0]["features"], 60, "with a warning the tile is drawn");
    old.refuses_config(
        &db.url,
        &failing.replace("59", "0"),
        &["--zoom", "0-3", "--workers", "1"],
        1,
        &["tile 0/0/0: ", "division by zero"],
    );
}
