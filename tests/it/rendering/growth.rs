//! How the work of statements grows with the data: at most linearly in features, tiles, and pairs of both. A statement that compares each feature of a
//! batch with each tile, or each cell with each area, is right and fast in all other tests.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::folder::Folder;
use crate::support::program::{program, run};
use crate::support::served::{Served, status};
use crate::support::{Db, seed};

/// The work by statement: the rows that all nodes of its plans returned or left out.
type Work = BTreeMap<String, f64>;

/// The server's log so far.
fn log(db: &Db) -> String {
    let socket = db.url.split("host=").nth(1).unwrap().split('&').next().unwrap();
    let log = std::fs::read(format!("{socket}/server.log")).expect("scripts/postgres logs beside its socket");
    String::from_utf8_lossy(&log).into_owned()
}

/// The rows that the nodes of a plan returned or left out.
fn rows(plan: &Value) -> f64 {
    let number = |name: &str| plan[name].as_f64().unwrap_or_default();
    let own = number("Actual Rows")
        + number("Rows Removed by Filter")
        + number("Rows Removed by Join Filter")
        + number("Rows Removed by Index Recheck");
    own * number("Actual Loops") + plan["Plans"].as_array().into_iter().flatten().map(rows).sum::<f64>()
}

/// The work of all statements of a seed, a reseed after one row in ten has moved, a seed by the database alone, and a live tile that shows all rows, over
/// tables of `count` disjoint small shapes and as many points, spread over an area of the same size.
fn work(count: u32) -> Work {
    let db = Db::new();
    let (shapes, points) = (format!("shapes_{}", db.name), format!("points_{}", db.name));
    let place = "x + 1.2 * ((id * 0.7548776662) % 1), y + 0.8 * ((id * 0.5698402910) % 1)";
    let at = format!("ST_SetSRID(ST_MakePoint({}), 4326)", place.replace("x +", "8.5 +").replace("y +", "47.1 +"));
    db.run(&format!(
        "CREATE TABLE {shapes} AS SELECT id, 'shape ' || id AS name, ST_Expand({at}, 0.0001) AS g FROM generate_series(1, {count}) AS id;
         CREATE TABLE {points} AS SELECT id, 'point ' || id AS name, {at} AS g FROM generate_series(1, {count}) AS id;
         ALTER TABLE {shapes} ADD PRIMARY KEY (id); CREATE INDEX ON {shapes} USING gist (g);
         ALTER TABLE {points} ADD PRIMARY KEY (id); CREATE INDEX ON {points} USING gist (g);
         ANALYZE {shapes}; ANALYZE {points};"
    ));
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_nested_statements = on",
        "auto_explain.log_analyze = on",
        "auto_explain.log_timing = off",
        "auto_explain.log_format = json",
    ] {
        db.run(&format!("ALTER DATABASE {} SET {setting}", db.name));
    }
    let folder = Folder::new();
    let layers = |rows: &str| {
        let layer = |name: &str, table: &str, more: &str| {
            format!("[[layer]]\nname = \"{name}\"\ntable = \"{table}\"\n{more}\n")
        };
        format!(
            "{}{}{}{}[run]\nworkers = 1\nbatch_features = 100000\n{rows}\n",
            layer("shapes", &shapes, "properties = [\"name\"]"),
            layer("points", &points, "properties = [\"name\"]"),
            layer(
                "cells",
                &points,
                "[layer.aggregate]\ncell = \"square\"\nsize = \"1/8\"\nproperties = { count = \"count(*)\", names = \"string_agg(name, '/' ORDER BY id)\" }"
            ),
            layer("clusters", &points, "properties = [\"name\"]\n[layer.cluster]"),
        )
    };
    let before = log(&db).len();
    let (config, target) = (folder.config(&layers("")), folder.beside("t.mbtiles"));
    run(program().args(["track", "install", "--database-url", &db.url, "--config", &config])).ok();
    seed(&db.url, &target, &["--zoom", "10-14", "--config", &config]).ok();
    for table in [&shapes, &points] {
        db.again().run(&format!("UPDATE {table} SET g = ST_Translate(g, 0.01, 0.01) WHERE id % 10 = 0"));
    }
    run(program().args(["reseed", "--database-url", &db.url, "--config", &config, "--output"]).arg(&target)).ok();
    let live = ["--config", &config, "--live", "--database-url", &db.url];
    let served = Served::new(target.to_str().unwrap(), &live);
    assert_eq!(status(&served.get("/8/134/89.pbf", "")), 200);
    drop(served);
    let by_database = folder.config(&layers("rows_mb = 0"));
    seed(&db.url, &folder.beside("d.mbtiles"), &["--zoom", "10-14", "--config", &by_database]).ok();

    let mut work = Work::new();
    // Only this test asks for plans in JSON. Lines after the first of an entry begin with a tab.
    for entry in log(&db)[before..].split(" plan:\n\t{").skip(1) {
        let plan: String = entry.split_inclusive('\n').take_while(|line| !line.starts_with("20")).collect();
        let Ok(explained) = serde_json::from_str::<Value>(&format!("{{{plan}")) else { panic!("{plan}") };
        let statement = explained["Query Text"].as_str().unwrap_or_default().replace(&db.name, "");
        *work.entry(statement).or_default() += rows(&explained["Plan"]);
    }
    work
}

/// The rows of each table in the smaller run.
const FEW_ROWS: u32 = 300;

/// The most nodes of a plan that each row of a table passes, in a statement that reads it once.
const MOST_STEPS_OF_A_ROW: f64 = 10.0;

#[test]
fn the_work_of_statements_grows_at_most_linearly_with_small_shapes_points_and_cells() {
    let (few, many) = (work(FEW_ROWS), work(4 * FEW_ROWS));
    for part in ["by_box", "sorted AS", "ST_AsBinary(ST_Force2D(m)"] {
        assert!(many.keys().any(|statement| statement.contains(part)), "no statement with «{part}»");
    }
    for (statement, work) in &many {
        // With few rows some statements are not worth their cost. What they do with many is bounded by the number of rows.
        let before = few.get(statement).copied().unwrap_or(f64::from(FEW_ROWS) * MOST_STEPS_OF_A_ROW);
        assert!(
            *work <= 4.0 * 1.25 * before + 5_000.0,
            "four times as many features take {work} rows instead of {before}: {statement}"
        );
    }
}
