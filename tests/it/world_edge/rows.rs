//! The edge of the world: rows beyond it by rounding are drawn; rows farther beyond ±180° are cut there, and drawn on
//! the other side, clipped or skipped, as the layer says.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::rendering::reference::{Plain, compare, is_same, plainly};
use crate::support::program::{Run, program, run, seed_command};
use crate::support::{Archive, Db};

/// The documented expressions: what is drawn of a geometry where half the world is so wide.
pub(crate) const FUNCTIONS: &str = include_str!("rows_functions.sql");

/// Shapes at and beyond the edge, and some inside of the world; those with a number of 100 and more reach beyond it.
const SHAPES: &str = include_str!("rows_shapes.sql");

pub(crate) struct Edge {
    pub db: Db,
    pub folder: tempfile::TempDir,
}

impl Edge {
    pub(crate) fn new(sql: &str) -> Edge {
        let db = Db::new();
        db.run(FUNCTIONS);
        db.run(sql);
        Edge { db, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn config(&self, text: &str) -> String {
        let path = self.path("c.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Seeds a layer; gives what was said, and the report.
    #[track_caller]
    pub(crate) fn seed(&self, output: &Path, layer: &str, arguments: &[&str]) -> (Run, Value) {
        let (config, report) = (self.config(layer), self.path("report.json"));
        let mut command = seed_command(&self.db.url, output, &["--force", "--config", &config, "--report"]);
        let done = run(command.arg(&report).args(arguments)).ok();
        (done, serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap())
    }
}

/// A layer of a table, with its ids.
pub(crate) fn layer(table: &str, more: &str) -> String {
    format!("[[layer]]\nname = \"l\"\ntable = \"{table}\"\nproperties = [\"id\"]\n{more}\n")
}

fn plain(rows: &str, zooms: std::ops::RangeInclusive<u8>) -> Plain<'_> {
    Plain { name: "l", rows, properties: "id", extent: 4096, buffer: 64, zooms }
}

#[test]
fn rows_beyond_an_edge_by_rounding_are_drawn() {
    let at = "VALUES (1, 10, 85.0511287798066), (2, 10, -85.0511287798066), (3, 20, 85.05112878), (4, 20, -85.05112878), (5, 180.00000000000003, 5),
        (6, -180.00000000000003, 6), (7, 180.000000000057, 85.0511287798066), (8, -180.000000000057, -85.05112878), (9, 8, 52)";
    let in_metres = "VALUES (1, 7, 20037508.351), (2, 7, -20037508.351), (3, 20037508.351, 8), (4, -20037508.351, 9), (5, 20037508.342789248, 10),
        (6, -20037508.351, -20037508.351), (7, 20037508.351, 20037508.351), (8, 1, 2)";
    let edge = Edge::new(&format!(
        "CREATE TABLE degrees AS SELECT id, ST_SetSRID(ST_MakePoint(x, y), 4326)::geometry(Point, 4326) AS g FROM ({at}) AS at (id, x, y);
         CREATE TABLE metres AS SELECT id, ST_SetSRID(ST_MakePoint(x, y), 3857)::geometry(Point, 3857) AS g FROM ({in_metres}) AS at (id, x, y);
         CREATE TABLE lines AS SELECT id, ST_MakeLine(g, ST_Translate(g, -sign(ST_X(g)), -sign(ST_Y(g)))) AS g FROM degrees;
         CREATE TABLE kiribati (id int, g geometry(Polygon, 4326));
         INSERT INTO kiribati VALUES (1, 'SRID=4326;POLYGON((170 10,180.00000000000003 10,180 20,170 20,170 10))');
         ALTER TABLE degrees ADD PRIMARY KEY (id); ALTER TABLE metres ADD PRIMARY KEY (id); ALTER TABLE lines ADD PRIMARY KEY (id);
         ALTER TABLE kiribati ADD PRIMARY KEY (id);
         CREATE INDEX ON degrees USING gist (g); CREATE INDEX ON metres USING gist (g); CREATE INDEX ON lines USING gist (g); CREATE INDEX ON kiribati USING gist (g);"
    ));
    let output = edge.path("t.mbtiles");
    for table in ["degrees", "metres", "lines", "kiribati"] {
        let features: i64 = edge.db.value(&format!("SELECT count(*) FROM {table}"));
        let rows = format!("SELECT ST_Transform(g, 3857) AS m, id, id AS key FROM {table}");
        let expected = plainly(&edge.db, &[plain(&rows, 0..=7)], 0..=7);
        for beyond in ["wrap", "clip", "skip"] {
            for rows_mb in ["0", "100"] {
                let text = layer(table, &format!("beyond = \"{beyond}\"\n[run]\nrows_mb = {rows_mb}"));
                let (done, told) = edge.seed(&output, &text, &["--zoom", "0-7"]);
                assert_eq!(done.stderr, "", "{text}");
                assert_eq!((&told["skipped"], &told["zooms"][0]["features"]), (&json!([]), &json!(features)), "{text}");
                is_same(&Archive::open(&output).tiles(), &expected);
            }
        }
    }
    // In cells, they count where they are.
    let output = edge.path("cells.mbtiles");
    for (table, cell) in [("degrees", "square"), ("metres", "hexagon"), ("lines", "square")] {
        let sums = format!("[layer.aggregate]\ncell = \"{cell}\"\nsize = \"1/8\"\nproperties = {{ n = \"count(*)\" }}");
        let text = format!("[[layer]]\nname = \"l\"\ntable = \"{table}\"\n{sums}");
        let (done, told) = edge.seed(&output, &text, &["--zoom", "0-5"]);
        assert_eq!((done.stderr.as_str(), &told["skipped"]), ("", &json!([])), "{table}");
        let tiles = Archive::open(&output).tiles();
        let counted: i64 =
            crate::support::features::features(&tiles[&(0, 0, 0)], "l").iter().map(|cell| cell.whole("n")).sum();
        assert_eq!(counted, edge.db.value::<i64>(&format!("SELECT count(*) FROM {table}")), "{table}");
    }
}

/// The warning of a layer of [`SHAPES`].
fn warned(rows: &str, done: &str) -> String {
    format!("layer \"l\": {rows} beyond ±180°: they are {done}: 100, 101, 102, …")
}

#[test]
fn rows_beyond_180_degrees_are_wrapped_as_documented() {
    let edge = Edge::new(SHAPES);
    edge.db.run(
        "CREATE TABLE metres AS SELECT id, ST_SetSRID(ST_Affine(ST_CurveToLine(g), 20037508.342789244 / 180, 0, 0, 120000, 0, 0), 3857) AS g FROM shapes WHERE id <> 114;
         CREATE TABLE nad83 AS SELECT id, ST_SetSRID(g, 4269) AS g FROM shapes;
         CREATE TABLE other_name AS SELECT id, ST_SetSRID(g, 102100) AS g FROM metres;
         ALTER TABLE other_name ADD PRIMARY KEY (id); CREATE INDEX ON other_name USING gist (g);
         ALTER TABLE metres ADD PRIMARY KEY (id); ALTER TABLE nad83 ADD PRIMARY KEY (id); CREATE INDEX ON metres USING gist (g); CREATE INDEX ON nad83 USING gist (g);",
    );
    let output = edge.path("t.mbtiles");
    let half = "20037508.342789244";
    for (table, drawn, rows) in [
        ("shapes", "ST_Transform(wrapped(ST_CurveToLine(g), 180), 3857)".to_owned(), "18 rows reach"),
        ("metres", format!("wrapped(g, {half})"), "17 rows reach"),
        ("other_name", format!("ST_Transform(wrapped(g, {half}), 3857)"), "17 rows reach"),
        ("nad83", "ST_Transform(wrapped(ST_CurveToLine(g), 180), 3857)".to_owned(), "18 rows reach"),
    ] {
        let wrapped = "cut there, and what lies beyond is drawn on the other side of the world (beyond = \"wrap\")";
        let drawn = format!("SELECT {drawn} AS m, id, id AS key FROM {table}");
        let expected = plainly(&edge.db, &[plain(&drawn, 0..=8)], 0..=8);
        assert!(expected.len() > 3_000, "{table}: {}", expected.len());
        for more in ["", "[run]\nbatch_features = 20"] {
            let (done, told) = edge.seed(&output, &layer(table, more), &["--zoom", "0-8"]);
            assert_eq!(done.stderr, format!("warning: {}\n", warned(rows, wrapped)));
            assert_eq!((&told["skipped"], &told["warnings"]), (&json!([]), &json!([warned(rows, wrapped)])), "{table}");
            is_same(&Archive::open(&output).tiles(), &expected);
        }
    }
    let seen = |tile, id: i64| {
        let tiles = Archive::open(&output).tiles();
        crate::support::features::features(&tiles[&tile], "l").iter().any(|feature| feature.whole("id") == id)
    };
    assert!(seen((3, 0, 4), 100) && seen((3, 7, 4), 100), "on both sides of the edge");
}

#[test]
fn rows_beyond_180_degrees_are_clipped_or_skipped_where_the_layer_says_so() {
    let edge = Edge::new(SHAPES);
    let output = edge.path("t.mbtiles");
    let (done, told) = edge.seed(&output, &layer("shapes", "beyond = \"clip\""), &["--zoom", "0-7"]);
    let text = warned("18 rows reach", "cut there, and what lies beyond is not drawn (beyond = \"clip\")");
    assert_eq!(done.stderr, format!("warning: {text}\n"));
    let skipped = json!([{ "layer": "l", "reason": "outside", "rows": 4, "examples": ["102", "104", "114"] }]);
    assert_eq!(told["skipped"], skipped);
    let rows = "SELECT * FROM (SELECT ST_Transform(clipped(ST_CurveToLine(g), 180), 3857) AS m, id, id AS key FROM shapes) AS s WHERE NOT ST_IsEmpty(m)";
    compare(&edge.db, &output, &[plain(rows, 0..=7)], 0..=7);

    let defaults = format!("[layer_defaults]\nbeyond = \"skip\"\n{}", layer("shapes", ""));
    let (done, told) = edge.seed(&output, &defaults, &["--zoom", "0-7"]);
    assert_eq!(done.stderr, format!("warning: {}\n", warned("18 rows reach", "not drawn (beyond = \"skip\")")));
    let skipped = json!([{ "layer": "l", "reason": "outside", "rows": 18, "examples": ["100", "101", "102"] }]);
    assert_eq!(told["skipped"], skipped);
    let rows = "SELECT ST_Transform(g, 3857) AS m, id, id AS key FROM shapes WHERE id < 100";
    compare(&edge.db, &output, &[plain(rows, 0..=7)], 0..=7);
}

#[test]
fn a_small_row_over_the_antimeridian_is_planned_where_it_is() {
    let edge = Edge::new(SHAPES);
    let output = edge.path("t.mbtiles");
    let text = layer("shapes", "where = \"id IN (2, 117)\"");
    let (_, told) = edge.seed(&output, &text, &["--zoom", "14", "--bbox", "175,-18,-180,-15", "--dry-run"]);
    let planned = |told: &Value| told["zooms"][0]["tiles"].as_u64().unwrap();
    assert!(planned(&told) <= 4, "{told}");
    let (_, told) = edge.seed(&output, &layer("shapes", "where = \"id = 117\""), &["--zoom", "14", "--dry-run"]);
    assert!((2..=8).contains(&planned(&told)), "{told}");
    let (done, _) = edge.seed(&output, &layer("shapes", "where = \"id = 117\""), &["--zoom", "14"]);
    let text = "layer \"l\": 1 row reaches beyond ±180°: it is cut there, and what lies beyond is drawn on the other side of the world (beyond = \"wrap\"): 117";
    assert_eq!(done.stderr, format!("warning: {text}\n"));
    let columns: Vec<u32> = Archive::open(&output).tiles().keys().map(|(_, x, _)| *x).collect();
    assert!(columns.contains(&0) && columns.contains(&16_383), "{columns:?}");
}

#[test]
fn boxes_at_the_antimeridian_show_what_the_whole_world_shows_there() {
    let edge = Edge::new(SHAPES);
    edge.db.run(
        "CREATE TABLE points AS SELECT i AS id, ST_SetSRID(ST_MakePoint(-200 + i, (i * 37 % 160) - 80), 4326)::geometry(Point, 4326) AS g FROM generate_series(1, 400) AS i;
         ALTER TABLE points ADD PRIMARY KEY (id); CREATE INDEX ON points USING gist (g)",
    );
    let (output, part) = (edge.path("t.mbtiles"), edge.path("part.mbtiles"));
    for table in ["shapes", "points"] {
        edge.seed(&output, &layer(table, ""), &["--zoom", "3-7"]);
        let whole = Archive::open(&output).stored();
        for bbox in ["175,-80,-175,80", "-180,-80,-170,80", "170,-80,180,80"] {
            let bbox = format!("--bbox={bbox}");
            edge.seed(&part, &layer(table, ""), &["--zoom", "3-7", &bbox]);
            let found = Archive::open(&part).stored();
            assert!(found.len() > 20 && found.iter().all(|(tile, bytes)| whole[tile] == *bytes), "{table} {bbox}");
            let shallowest = found.keys().filter(|(zoom, ..)| *zoom == 7).count();
            let columns: std::collections::BTreeSet<u32> =
                found.keys().filter(|(zoom, ..)| *zoom == 7).map(|(_, x, _)| *x).collect();
            let wanted = whole.keys().filter(|(zoom, x, _)| *zoom == 7 && columns.contains(x));
            let wanted = wanted.filter(|(_, _, y)| (21..=106).contains(y)).count();
            assert!(shallowest >= wanted, "{table} {bbox}: {shallowest} of {wanted}");
        }
    }
}

#[test]
fn verify_reports_the_rows_that_no_tile_shows() {
    let edge = Edge::new(SHAPES);
    edge.db.run("INSERT INTO shapes VALUES (200, 'SRID=4326;POINT(900 5)'), (201, NULL)");
    let output = edge.path("t.mbtiles");
    let text = layer("shapes", "");
    edge.seed(&output, &text, &["--zoom", "0-5"]);
    let (config, report) = (edge.config(&text), edge.path("found.json"));
    let mut command = program();
    command.arg("verify").arg(&output).args(["--database", "--database-url", &edge.db.url, "--config", &config]);
    let done = run(command.arg("--report").arg(&report)).ok();
    let lines = "layer \"l\": skipped 1 row whose geometry is NULL: 201
layer \"l\": skipped 1 row outside of the Web Mercator world (beyond ±85.0511° or ±180°): 200\n";
    assert!(done.stdout.starts_with(lines), "{}", done.stdout);
    assert!(done.stdout.contains(": sound ("), "{}", done.stdout);
    let found: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(found["skipped"].as_array().unwrap().len(), 2, "{found}");
}
