//! How much of a layer a tile may hold: features and bytes, and what happens to tiles with more.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use oar_tiles::mvt;

use crate::support::archive::{Address, unpacked};
use crate::support::places::files_below;
use crate::support::program::{Run, program, run};
use crate::support::tracked::{SOME, Tracked};
use crate::support::{Archive, Db, OldTarget, seed};

/// A layer for the slow reference.
struct Slow<'a> {
    name: &'a str,
    /// A query that gives `m` (geometry in EPSG:3857), `key`, `rank` and the properties.
    rows: &'a str,
    properties: &'a str,
}

/// What a tile should hold: the layer with its best features, by one query a tile.
fn best(db: &Db, layer: &Slow<'_>, (z, x, y): Address, most: u64) -> (Vec<u8>, u64) {
    let Slow { name, rows, properties } = layer;
    let row = &db.rows(&format!(
        "WITH drawn AS (
            SELECT ST_AsMVTGeom(m, ST_TileEnvelope({z}, {x}, {y}), 4096, 64, true) AS geom, key, rank, {properties}
            FROM ({rows}) AS rows
        ), best AS (SELECT * FROM drawn WHERE geom IS NOT NULL ORDER BY rank DESC NULLS LAST, key LIMIT {most})
        SELECT ST_AsMVT(t, '{name}', 4096, 'geom'), (SELECT count(*) FROM drawn WHERE geom IS NOT NULL)
        FROM (SELECT geom, {properties} FROM best ORDER BY key) AS t"
    ))[0];
    (row.get(0), row.get::<_, i64>(1).cast_unsigned())
}

const RANK: &str = "CASE WHEN length(name) % 7 > 0 THEN length(name) % 7 END";

fn facilities() -> String {
    format!(
        "SELECT ST_Transform(location, 3857) AS m, id COLLATE \"C\" AS key, {RANK} AS rank, id, name FROM api_facility"
    )
}

fn config(budget: &str) -> String {
    format!("[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\nproperties = [\"id\", \"name\"]\n{budget}\n")
}

fn thin(limits: &str) -> String {
    config(&format!("on_large_tile = \"thin\"\nrank = \"{RANK}\"\n{limits}"))
}

/// A seed that succeeds, with its report.
fn told(db: &Db, output: &Path, old: &OldTarget, config: &str, arguments: &[&str]) -> (Run, Value) {
    let (config, report) = (old.config(config), old.beside("r.json"));
    let arguments = [arguments, &["--config", &config, "--report", report.to_str().unwrap()]].concat();
    let run = seed(&db.url, output, &arguments).ok();
    (run, serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap())
}

fn features(mvt: &[u8]) -> u64 {
    mvt::decode(mvt).unwrap().iter().map(|layer| layer.features.len() as u64).sum()
}

#[test]
fn a_thinned_tile_holds_the_best_features_by_rank_and_key_whatever_the_batches() {
    let db = Db::with_facilities(700);
    let old = OldTarget::new();
    let text = thin("max_tile_features = { \"0-2\" = 90, \"3-5\" = 7 }");
    let layer = Slow { name: "mills", rows: &facilities(), properties: "id, name" };
    let mut first = None;
    for batch in ["10000", "40"] {
        let output = old.beside(&format!("{batch}.mbtiles"));
        let text = format!("[run]\nbatch_features = {batch}\n{text}");
        let (run, report) = told(&db, &output, &old, &text, &["--zoom", "0-6"]);
        let tiles = Archive::open(&output).tiles();
        assert!(*first.get_or_insert_with(|| tiles.clone()) == tiles, "other batches, other tiles");
        let (mut thinned, mut left_out, mut drawn) = (0, 0, 0);
        for (address, tile) in &tiles {
            let most = [90, 90, 90, 7, 7, 7, u32::MAX][usize::from(address.0)].into();
            let (expected, all) = best(&db, &layer, *address, most);
            assert!(*tile == expected, "{address:?}");
            thinned += u64::from(all > most);
            left_out += all.saturating_sub(most);
            drawn += all.min(most);
        }
        assert!(thinned > 20 && thinned < tiles.len() as u64 / 2, "{thinned} of {}", tiles.len());
        let expected = json!({ "layer": "mills", "thinned_tiles": thinned, "features_left_out": left_out, "large_tiles": 0, "heaviest": null });
        assert_eq!((&report["budgets"], &report["features"]), (&json!([expected]), &json!(drawn)));
        let warning = format!(
            "layer \"mills\": {thinned} tiles thinned to max_tile_features or max_tile_bytes, {} features left out",
            grouped(left_out)
        );
        assert_eq!((run.stderr, &report["warnings"]), (format!("warning: {warning}\n"), &json!([warning])));
        let line = format!("layer \"mills\": thinned {thinned} tiles, left out {} features\n", grouped(left_out));
        assert!(run.stdout.contains(&line), "{}", run.stdout);
        let config = old.config(&text);
        let verify = ["verify", "--database", "--all", "--database-url", &db.url, "--config", &config];
        crate::support::program::run(program().args(verify).arg(&output)).ok();
    }
    // The plan knows the tiles with too many features, and does not refuse them.
    let config = old.config(&text);
    let plan = seed(&db.url, &old.beside("t.mbtiles"), &["--zoom", "0-6", "--dry-run", "--config", &config]).ok();
    let text = "warning: layer \"mills\": tiles to be thinned to max_tile_features: ";
    assert!(
        plan.stderr.contains(text) && plan.stderr.contains("; the heaviest is tile 0/0/0 with 700\n"),
        "{}",
        plan.stderr
    );
}

fn grouped(number: u64) -> String {
    if number < 1_000 { number.to_string() } else { format!("{} {:03}", number / 1_000, number % 1_000) }
}

/// A line is a candidate in every tile of its box, and drawn in few of them: elsewhere it must take no other's place.
/// Text ranks are ordered by their bytes, and their NULLs come last.
#[test]
fn what_is_not_drawn_in_a_tile_takes_no_place_in_it() {
    let db = Db::new();
    db.run(
        "CREATE TABLE line (id int PRIMARY KEY, g geometry(Geometry, 4326), grade text COLLATE \"und-x-icu\");
         INSERT INTO line SELECT i, ST_SetSRID(ST_MakeLine(ST_MakePoint(-170 + i, -60), ST_MakePoint(i * 4, 10 + i)), 4326),
            CASE WHEN i % 5 > 0 THEN chr(65 + 32 * (i % 2) + i % 3) END FROM generate_series(1, 40) AS i;
         CREATE INDEX ON line USING gist (g)",
    );
    let old = OldTarget::new();
    let output = old.beside("t.mbtiles");
    let text = "[[layer]]\nname = \"lines\"\ntable = \"line\"\nproperties = [\"id\"]\non_large_tile = \"thin\"\nmax_tile_features = 3\nrank = \"grade\"\n";
    let rows = "SELECT ST_Transform(g, 3857) AS m, id AS key, grade COLLATE \"C\" AS rank, id FROM line";
    let layer = Slow { name: "lines", rows, properties: "id" };
    told(&db, &output, &old, text, &["--zoom", "0-4"]);
    let tiles = Archive::open(&output).tiles();
    let mut occupied = 0;
    for z in 0..=4 {
        for (x, y) in (0..1 << z).flat_map(|x| (0..1 << z).map(move |y| (x, y))) {
            let (expected, all) = best(&db, &layer, (z, x, y), 3);
            assert_eq!(tiles.get(&(z, x, y)), Some(&expected).filter(|_| all > 0), "{z}/{x}/{y}");
            occupied += usize::from(all > 0);
        }
    }
    assert_eq!(occupied, tiles.len());
}

#[test]
fn a_reseed_thins_as_a_seed_does() {
    let tracked = Tracked::over(Db::with_facilities(900));
    // The rank reads a column that nothing else shows, here or in the sample configuration.
    let text = "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\nproperties = [\"id\"]\non_large_tile = \"thin\"\nrank = \"extract(epoch FROM updated_at)\"\nmax_tile_features = 40\nmax_tile_bytes = { \"0-2\" = 700 }\n";
    let path = tracked.path("c.toml");
    std::fs::write(&path, text).unwrap();
    let config = ["--config", path.to_str().unwrap()];
    tracked.oar_tiles(&[&["track", "install"], &config[..]].concat()).ok();
    let arguments = [&config[..], &["--zoom", "0-7"]].concat();
    for kind in ["t.mbtiles", "tiles/"] {
        let target = tracked.seed(kind, &arguments);
        for change in [
            format!("UPDATE api_facility SET updated_at = now() + interval '1 day' WHERE {SOME}"),
            format!("UPDATE api_facility SET updated_at = '1970-01-01' WHERE {SOME}"),
            format!("UPDATE api_facility SET location = ST_Translate(location, 1, 1) WHERE {SOME}"),
            format!("DELETE FROM api_facility WHERE {SOME}"),
        ] {
            tracked.db.run(&change);
            let report = tracked.path("r.json");
            let done = tracked.reseed(&target, &[&config[..], &["--report", report.to_str().unwrap()]].concat()).ok();
            assert!(done.stdout.contains("layer \"mills\": thinned "), "{}", done.stdout);
            let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
            assert!(report["budgets"][0]["features_left_out"].as_u64().unwrap() > 100, "{report}");
            assert!(report["written"].as_u64().unwrap() > 0, "{change}");
            if kind == "tiles/" {
                let fresh = tracked.seed("fresh.mbtiles", &arguments);
                assert!(files_below(&target) == Archive::open(&fresh).stored(), "{change}");
            } else {
                tracked.is_fresh(&target, &arguments);
            }
        }
    }
}

#[test]
fn every_tile_keeps_to_its_budget_of_bytes_and_is_nearly_full_of_the_best() {
    let db = Db::with_facilities(3_000);
    let old = OldTarget::new();
    let (output, limit) = (old.beside("t.mbtiles"), 4_000);
    let text = thin(&format!("max_tile_bytes = {limit}"));
    let (_, report) = told(&db, &output, &old, &text, &["--zoom", "0-6"]);
    let layer = Slow { name: "mills", rows: &facilities(), properties: "id, name" };
    let stored = Archive::open(&output).stored();
    let (mut thinned, mut left_out) = (0, 0);
    for (address, packed) in &stored {
        assert!(packed.len() <= limit, "{address:?} has {} bytes", packed.len());
        let tile = unpacked(packed);
        let (expected, all) = best(&db, &layer, *address, features(&tile));
        assert!(tile == expected, "{address:?}");
        let missing = all - features(&tile);
        thinned += u64::from(missing > 0);
        left_out += missing;
        assert!(missing == 0 || packed.len() >= limit * 95 / 100, "{address:?} has only {} bytes", packed.len());
    }
    assert!(thinned > 10, "{thinned}");
    let budgets = &report["budgets"][0];
    assert_eq!((&budgets["thinned_tiles"], &budgets["features_left_out"]), (&json!(thinned), &json!(left_out)));
    // Other batches, several workers: the same bytes.
    let again = old.beside("again.mbtiles");
    told(&db, &again, &old, &format!("[run]\nbatch_features = 30\nworkers = 3\n{text}"), &["--zoom", "0-6"]);
    assert!(Archive::open(&again).stored() == stored);
    // Unpacked, the bytes are those that are stored, too.
    let tree = old.beside("tree");
    let plain = format!("[target]\ncompression = \"none\"\n{text}");
    told(&db, &tree, &old, &plain, &["--zoom", "0-4"]);
    let files = files_below(&tree);
    assert!(files.values().all(|tile| tile.len() <= limit) && files.values().any(|tile| tile.len() > limit * 95 / 100));
    let config = old.config(&plain);
    let verify = ["verify", "--database", "--all", "--database-url", &db.url, "--config", &config];
    run(program().args(verify).arg(&tree)).ok();
}

/// Not even the best feature fits: the layer is not drawn in the tile, and its features are counted.
#[test]
fn a_feature_larger_than_the_budget_is_left_out() {
    let db = Db::with_facilities(30);
    let old = OldTarget::new();
    let text = "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\non_large_tile = \"thin\"\nmax_tile_bytes = 900\nproperties = { noise = \"(SELECT string_agg(md5(id || i), '') FROM generate_series(1, 50) AS i)\" }\n";
    let output = old.beside("t.mbtiles");
    let (_, report) = told(&db, &output, &old, text, &["--zoom", "0"]);
    assert_eq!(Archive::open(&output).stored(), BTreeMap::new());
    assert_eq!(
        report["budgets"],
        json!([{ "layer": "mills", "thinned_tiles": 1, "features_left_out": 30, "large_tiles": 0, "heaviest": null }])
    );
    assert_eq!((&report["manifest"]["empty"], &report["manifest"]["stored"]), (&json!(1), &json!(0)));
}

/// The values of a property that counts, the greatest first.
fn counts(tile: &[u8], property: &str) -> Vec<i64> {
    let layers = mvt::decode(tile).unwrap();
    let layer = &layers[0];
    let count = |value| match value {
        mvt::MvtValue::Int(n) | mvt::MvtValue::Sint(n) => n,
        mvt::MvtValue::Uint(n) => n as i64,
        other => panic!("{other:?}"),
    };
    let all = layer.features.iter().flat_map(|feature| layer.properties(feature));
    let mut counts: Vec<i64> = all.filter(|(name, _)| *name == property).map(|(_, n)| count(n)).collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts
}

#[test]
fn of_cells_those_with_the_most_rows_stay() {
    // Cells that the survey has counted, and cells that are put together by the statement.
    for more in ["", ", m = \"min(country_code)\""] {
        of_cells_with_more_properties(more);
    }
}

#[track_caller]
fn of_cells_with_more_properties(properties: &str) {
    let db = Db::with_facilities(2_000);
    let old = OldTarget::new();
    let text = |more: &str| {
        format!(
            "[[layer]]\nname = \"grid\"\ntable = \"api_facility\"\n{more}\n[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/8\"\nproperties = {{ n = \"count(*)\"{properties} }}\n"
        )
    };
    let (all, few) = (old.beside("all.mbtiles"), old.beside("few.mbtiles"));
    told(&db, &all, &old, &text(""), &["--zoom", "1-7"]);
    let (_, report) =
        told(&db, &few, &old, &text("on_large_tile = \"thin\"\nmax_tile_features = 5"), &["--zoom", "1-7"]);
    let (all, few) = (Archive::open(&all).tiles(), Archive::open(&few).tiles());
    assert!(all.keys().eq(few.keys()));
    let mut left_out = 0;
    for (address, tile) in &all {
        let all = counts(tile, "n");
        assert_eq!(counts(&few[address], "n"), all[..all.len().min(5)], "{address:?}");
        left_out += all.len().saturating_sub(5);
    }
    assert!(left_out > 50, "{left_out}");
    assert_eq!(report["budgets"][0]["features_left_out"], json!(left_out));
}

#[test]
fn a_cluster_that_is_thinned_keeps_its_greatest_clusters_before_lone_facilities() {
    let db = Db::with_facilities(1_000);
    let old = OldTarget::new();
    let (output, again) = (old.beside("t.mbtiles"), old.beside("again.mbtiles"));
    let text = "[[layer]]\nname = \"c\"\ntable = \"api_facility\"\nproperties = [\"id\"]\non_large_tile = \"thin\"\nmax_tile_features = 6\nrank = \"length(name)\"\n[layer.cluster]\nzoom = \"0-5\"\n";
    told(&db, &output, &old, text, &["--zoom", "0-7"]);
    told(&db, &again, &old, &format!("[run]\nbatch_features = 20\n{text}"), &["--zoom", "0-7"]);
    let tiles = Archive::open(&output).tiles();
    assert!(tiles == Archive::open(&again).tiles());
    let most = tiles.values().map(|tile| features(tile)).max();
    assert_eq!(most, Some(6));
    told(&db, &again, &old, &text.replace("= 6", "= 0"), &["--zoom", "0-5"]);
    for (address, tile) in Archive::open(&again).tiles() {
        let all = counts(&tile, "point_count");
        assert_eq!(counts(&tiles[&address], "point_count"), all[..all.len().min(6)], "{address:?}");
    }
}

#[test]
fn a_tile_with_too_many_bytes_is_named_or_ends_the_run() {
    let db = Db::with_facilities(400);
    let old = OldTarget::new();
    let limits = "max_tile_bytes = { \"0-3\" = 5000 }";
    // Two layers: each has its budget for itself, whatever the whole tile has.
    let text = |on: &str| {
        let few =
            "[[layer]]\nname = \"few\"\ntable = \"api_facility\"\nproperties = [\"id\"]\nwhere = \"id < 'BD02'\"\n";
        format!("{few}{}", config(&format!("on_large_tile = \"{on}\"\n{limits}")))
    };
    let output = old.beside("t.mbtiles");
    let (run, report) = told(&db, &output, &old, &text("warn"), &["--zoom", "0-3"]);
    let (stored, largest) = (Archive::open(&output).stored(), &report["zooms"][0]["largest"]);
    assert_eq!((&largest["tile"], &largest["bytes"]), (&json!("0/0/0"), &json!(stored[&(0, 0, 0)].len())));
    assert_eq!(report["zooms"][0]["largest_layer"], "mills");
    assert!(run.stdout.lines().nth(1).unwrap().contains(" 0/0/0 mills "), "{}", run.stdout);
    let heaviest = &report["budgets"][0]["heaviest"];
    let bytes = heaviest["bytes"].as_u64().unwrap();
    assert!(bytes > 5_000 && bytes < stored[&(0, 0, 0)].len() as u64, "{bytes}");
    assert_eq!((&heaviest["tile"], &heaviest["limit"]), (&json!("0/0/0"), &json!(5_000)));
    let large = report["budgets"][0]["large_tiles"].as_u64().unwrap();
    let warning = format!(
        "layer \"mills\": tiles with more bytes than max_tile_bytes: {large}; the heaviest is tile 0/0/0 with {bytes}, and 5000 allowed. Raise max_tile_bytes, draw less at this zoom, or set on_large_tile = \"thin\""
    );
    assert_eq!((run.stderr, &report["warnings"]), (format!("warning: {warning}\n"), &json!([warning])));
    assert!(large > 1, "{report}");

    let text = text("fail");
    let refusal = format!(
        "error: layer \"mills\", tile 0/0/0: it has {bytes} bytes, packed, and max_tile_bytes is 5000 at this zoom. Raise it, draw less at this zoom (property_zooms, where, [layer.aggregate]), or set on_large_tile = \"thin\" or \"warn\"\n"
    );
    old.refuses_config(&db.url, &text, &["--zoom", "0-3", "--workers", "1"], 1, &[&refusal]);
    // Zooms that are not named have no limit.
    told(&db, &output, &old, &text, &["--zoom", "4"]);
}

#[test]
fn a_reseed_warns_of_a_layer_once_a_day() {
    let tracked = Tracked::facilities(300);
    let file = tracked.path("c.toml");
    std::fs::write(&file, config("max_tile_bytes = { \"0\" = 100 }")).unwrap();
    let file = file.to_str().unwrap();
    tracked.oar_tiles(&["track", "install", "--config", file]).ok();
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-2", "--config", file]);
    let warned_at = |moment: &str| {
        let archive = rusqlite::Connection::open(&target).unwrap();
        let sql = format!(
            "UPDATE metadata SET value = json_set(value, '$.warned.mills', {moment}) WHERE name = 'oar_tiles_manifest'"
        );
        assert_eq!(archive.execute(&sql, []).unwrap(), 1);
    };
    let reseed = || {
        tracked.db.run(&format!("UPDATE api_facility SET name = name || '.' WHERE {SOME}"));
        let report = tracked.path("r.json");
        let done = tracked.reseed(&target, &["-q", "--config", file, "--report", report.to_str().unwrap()]).ok();
        let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        assert_eq!(report["warnings"].as_array().unwrap().len(), 1, "{report}");
        done.stderr
    };
    let warning = "warning: layer \"mills\": tiles with more bytes than max_tile_bytes: 1; ";
    assert_eq!(reseed(), "", "the seed has warned");
    // A moment that is yet to come is none.
    for then in ["unixepoch() - 24 * 3600 - 1", "unixepoch() + 3600"] {
        warned_at(then);
        let said = reseed();
        assert!(said.starts_with(warning) && said.lines().count() == 1, "{said}");
        assert_eq!(reseed(), "");
    }
}

#[test]
fn a_rank_that_does_not_fit_is_refused_with_the_next_step() {
    let db = Db::with_facilities(20);
    db.run("ALTER TABLE api_facility ADD extra json");
    let old = OldTarget::new();
    let understand = "layer \"mills\": the database does not understand rank. It is SQL over the columns of \"public\".\"api_facility\", one value a row, the greater the better: \"id\", ";
    for (rank, texts) in [
        ("workers", &[understand, "column \"workers\" does not exist"][..]),
        ("length(name", &[understand, "syntax error at"]),
        ("", &[understand, "syntax error at"]),
        ("count(*)", &[understand, "aggregate functions are not allowed in WHERE"]),
        (
            "extra",
            &["layer \"mills\": the values of rank have no order. It is SQL over", "ordering operator for type json"],
        ),
    ] {
        let text = config(&format!("on_large_tile = \"thin\"\nrank = \"{rank}\""));
        old.refuses_config(&db.url, &text, &["--zoom", "0-3"], 2, texts);
    }
}
