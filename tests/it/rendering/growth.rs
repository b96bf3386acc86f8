//! How the work of statements grows with the data: at most linearly in features, tiles, and pairs of both. A statement
//! that compares each feature of a batch with each tile, or each cell with each area, is right and fast in all other
//! tests.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::folder::Folder;
use crate::support::program::{program, run};
use crate::support::served::{Served, status};
use crate::support::{Db, seed};

/// What a statement did, all its runs together.
#[derive(Debug, Clone, Copy, Default)]
struct Work {
    /// The rows that all nodes of its plans returned or left out.
    rows: f64,
    /// The rows of the tables of shapes and points that it read: each row once for each area near it.
    read: f64,
}

/// The work by statement.
type WorkByStatement = BTreeMap<String, Work>;

/// The server's log so far.
fn log(db: &Db) -> String {
    let socket = db.url.split("host=").nth(1).unwrap().split('&').next().unwrap();
    let log = std::fs::read(format!("{socket}/server.log")).expect("scripts/postgres logs beside its socket");
    String::from_utf8_lossy(&log).into_owned()
}

/// Adds the work of a plan.
fn add(work: &mut Work, plan: &Value) {
    let number = |name: &str| plan[name].as_f64().unwrap_or_default();
    let (found, loops) = (number("Actual Rows"), number("Actual Loops"));
    let left_out = number("Rows Removed by Filter")
        + number("Rows Removed by Join Filter")
        + number("Rows Removed by Index Recheck");
    work.rows += (found + left_out) * loops;
    let is_of = |table: &str| table.starts_with("shapes_") || table.starts_with("points_");
    if plan["Relation Name"].as_str().is_some_and(is_of) {
        work.read += found * loops;
    }
    plan["Plans"].as_array().into_iter().flatten().for_each(|plan| add(work, plan));
}

/// The statement without the database states in it: those stand in quotes, as digits, colons and commas.
fn without_states(statement: &str) -> String {
    let is_state = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_digit() || matches!(c, ':' | ','));
    let parts = statement.split('\'').enumerate();
    let shown: Vec<&str> =
        parts.map(|(number, part)| if number % 2 == 1 && is_state(part) { "state" } else { part }).collect();
    shown.join("'")
}

/// The work of all statements of a seed, a reseed after one row in ten has moved, each in a statement of its own, a
/// seed by the database alone, and a live tile that shows all rows, over tables of `count` disjoint small shapes and as
/// many points, spread over an area of the same size.
fn work(count: u32) -> WorkByStatement {
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
            "{}{}{}{}{}[run]\nworkers = 1\nbatch_features = 100000\n{rows}\n",
            layer("shapes", &shapes, "properties = [\"name\"]"),
            layer("points", &points, "properties = [\"name\"]"),
            layer(
                "cells",
                &points,
                "[layer.aggregate]\ncell = \"square\"\nsize = \"1/8\"\nproperties = { count = \"count(*)\", names = \"string_agg(name, '/' ORDER BY id)\" }"
            ),
            layer(
                "counts",
                &points,
                "[layer.aggregate]\ncell = \"square\"\nsize = \"1/8\"\nproperties = { count = \"count(*)\" }"
            ),
            layer("clusters", &points, "properties = [\"name\"]\n[layer.cluster]"),
        )
    };
    let before = log(&db).len();
    let (config, target) = (folder.config(&layers("")), folder.beside("t.mbtiles"));
    run(program().args(["track", "install", "--database-url", &db.url, "--config", &config])).ok();
    seed(&db.url, &target, &["--zoom", "10-14", "--config", &config]).ok();
    for table in [&shapes, &points] {
        // Each statement makes an entry of its own in the log.
        db.again().run(&format!(
            "DO $$ BEGIN FOR changed IN 10..{count} BY 10 LOOP
                UPDATE {table} SET g = ST_Translate(g, 0.01, 0.01) WHERE id = changed;
            END LOOP; END $$"
        ));
    }
    run(program().args(["reseed", "--database-url", &db.url, "--config", &config, "--output"]).arg(&target)).ok();
    let live = ["--config", &config, "--live", "--database-url", &db.url];
    let served = Served::new(target.to_str().unwrap(), &live);
    assert_eq!(status(&served.get("/8/134/89.pbf", "")), 200);
    drop(served);
    let by_database = folder.config(&layers("rows_mb = 0"));
    seed(&db.url, &folder.beside("d.mbtiles"), &["--zoom", "10-14", "--config", &by_database]).ok();

    let mut work = WorkByStatement::new();
    // Only this test asks for plans in JSON. Lines after the first of an entry begin with a tab.
    for entry in log(&db)[before..].split(" plan:\n\t{").skip(1) {
        let plan: String = entry.split_inclusive('\n').take_while(|line| !line.starts_with("20")).collect();
        let Ok(explained) = serde_json::from_str::<Value>(&format!("{{{plan}")) else { panic!("{plan}") };
        let statement = explained["Query Text"].as_str().unwrap_or_default().replace(&db.name, "");
        add(work.entry(without_states(&statement)).or_default(), &explained["Plan"]);
    }
    work
}

/// The rows of each table in the smaller run.
const FEW_ROWS: u32 = 300;

/// The most nodes of a plan that each row of a table passes, in a statement that reads it once.
const MAX_STEPS_OF_A_ROW: f64 = 10.0;

/// The most times that a statement reads a row, all runs together: the probe of a layer reads each once, and there are
/// four layers of points, each probed by seven runs and looks. A statement that reads the whole table for each row
/// reads each 1,200 times.
const MAX_READS_OF_A_ROW: f64 = 40.0;

/// The rows that a statement may take in any case, such as for the catalog.
const FREE_ROWS: f64 = 1_000.0;

#[test]
fn the_work_of_statements_grows_at_most_linearly_with_small_shapes_points_and_cells() {
    let (few, many) = (work(FEW_ROWS), work(4 * FEW_ROWS));
    for part in [
        "by_box",
        "sorted AS",
        "ST_AsBinary(ST_Force2D(m)",
        // Counted cells; changed positions from the log, and the counts of changes.
        "AS cell (area, code, members, x, y)",
        "unnest(noted.x, noted.y) AS point (x, y)",
        "GROUP BY noted.watch",
    ] {
        assert!(many.keys().any(|statement| statement.contains(part)), "no statement with «{part}»");
    }
    for (statement, work) in &many {
        // With few rows some statements are not worth their cost. What they do with many is bounded by the number of
        // rows that they read, those of a seed and of a reseed.
        let rows = f64::max(f64::from(FEW_ROWS), work.read / 4.0);
        let not_seen = Work { rows: rows * MAX_STEPS_OF_A_ROW, read: 0.0 };
        let before = few.get(statement).copied().unwrap_or(not_seen);
        // More rows than four times as many may lie near dirty tiles: 30 changes make 57 % of the pairs of a row and a
        // zoom dirty, 120 make 77 %.
        let growth = if before.read > 0.0 { f64::max(4.0, work.read / before.read) } else { 4.0 };
        assert!(
            work.rows <= growth * 1.25 * before.rows + FREE_ROWS,
            "four times as many features take {work:?} instead of {before:?}: {statement}"
        );
        assert!(
            work.read <= f64::from(4 * FEW_ROWS) * MAX_READS_OF_A_ROW,
            "{work:?} of {} rows: {statement}",
            4 * FEW_ROWS
        );
    }
}
