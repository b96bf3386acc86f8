//! Aggregates that the survey works out while it reads the rows give what the database gives when it puts the rows of
//! each cell together.

use std::collections::BTreeMap;
use std::path::Path;

use oar_tiles::mvt::decode;

use crate::support::program::{run, seed_command};
use crate::support::tracked::Tracked;
use crate::support::{Archive, Db, seed};

/// Rows around some towns, on the edges of the world and a centimetre apart on both sides of a cell's, in several
/// reference systems, with values of every kind that is folded.
const ROWS: &str = include_str!("aggregates_in_the_survey.sql");

/// Aggregates that are folded.
const FOLDED: &[(&str, &str)] = &[
    ("n", "count(*)"),
    ("some", "COUNT (word)"),
    ("words", "count(DISTINCT word)"),
    ("tags", "count(DISTINCT tag) * 10 + count(distinct flag)"),
    ("days", "count(DISTINCT day)"),
    ("rows", "count((flag, word)) + count(part)"),
    ("least", "min(short)"),
    ("most", "max(whole)"),
    ("widest", "max(wide)::text"),
    ("sum", "sum(whole)"),
    ("shorts", "sum(short) FILTER (WHERE flag)"),
    ("wides", "sum(wide)::text"),
    ("mean", "avg(whole)::text"),
    ("mean_wide", "avg(wide)::text || ' ' || coalesce(avg(short) FILTER (WHERE word > 'w2'), 0)"),
    ("all_of", "bool_and(flag)"),
    ("every_of", "every(flag)"),
    ("any_of", "bool_or(flag AND whole > 0)"),
    ("first", "min(day)::text"),
    ("last", "max(stamp)::text || ' ' || min(local)::text"),
    ("crew", "sum(workers) FILTER (WHERE word IN ('w1', 'it''s', ')'))"),
    ("share", "round(100.0 * count(*) FILTER (WHERE flag) / count(*), 1)::text"),
    ("west", "!xmin!"),
];

/// The aggregates as a table of the configuration; `as_rows` keeps them from being folded, for a comment cannot be told
/// from SQL.
fn properties(of: &[(&str, &str)], as_rows: bool) -> String {
    let comment = if as_rows { " /* of rows */" } else { "" };
    let one = |(name, sql): &(&str, &str)| format!("{name} = \"{sql}{comment}\"");
    format!("{{ {} }}", of.iter().map(one).collect::<Vec<_>>().join(", "))
}

fn written(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Seeds layers twice, their aggregates folded and not, and compares every tile.
#[track_caller]
fn compare(db: &Db, zooms: &str, layers: &dyn Fn(bool) -> String, arguments: &[&str]) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let seeded = |as_rows: bool| {
        let config = written(folder.path(), &format!("{as_rows}.toml"), &layers(as_rows));
        let output = folder.path().join(format!("{as_rows}.mbtiles"));
        let arguments = [&["--config", &config, "--zoom", zooms, "-vv"], arguments].concat();
        let run = seed(&db.url, &output, &arguments).ok();
        assert_eq!(run.stderr.contains("its aggregates are folded"), !as_rows, "{}", run.stderr);
        assert!(!run.stderr.contains("are not folded"), "{}", run.stderr);
        Archive::open(&output).tiles()
    };
    let (found, expected) = (seeded(false), seeded(true));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (tile, bytes) in &found {
        let decoded = || (decode(bytes).unwrap(), decode(&expected[tile]).unwrap());
        assert!(*bytes == expected[tile], "{tile:?}:\n{:#?}", decoded());
    }
    found.len()
}

#[test]
fn what_is_folded_is_what_the_rows_of_each_cell_give() {
    let db = Db::new();
    db.run(ROWS);
    let layer = |geometry: &str, cell: &str, draw: &str, more: &str, as_rows: bool| {
        format!(
            "[[layer]]\nname = \"{geometry} {cell} {draw}\"\ntable = \"rows\"\ngeometry = \"{geometry}\"\nbuffer = 256\n{more}\n
             [layer.aggregate]\ncell = \"{cell}\"\nsize = \"1/4\"\ndraw = \"{draw}\"\nproperties = {}\n",
            properties(FOLDED, as_rows)
        )
    };
    let kinds = |as_rows: bool| {
        [
            layer("degrees", "hexagon", "center", "", as_rows),
            layer("mercator", "square", "centroid", "where = \"id % 2 = 0\"", as_rows),
            layer("lambert", "square", "polygon", "", as_rows),
            layer("lambert", "hexagon", "centroid", "", as_rows),
            layer("round", "hexagon", "polygon", "", as_rows),
            layer("lambert", "hexagon", "center", "", as_rows)
                .replace("size = \"1/4\"", "size = \"1/8\"\nedges = \"degrees\""),
            layer("line", "square", "center", "", as_rows),
            layer("degrees", "square", "center", "max_tile_features = 5\non_large_tile = \"thin\"", as_rows),
            layer("degrees", "hexagon", "polygon", "", as_rows) + "having = \"max(whole) > 0 AND count(*) > 1\"\n",
            layer("degrees", "square", "centroid", "tile_bounds = \"degrees\"\ncandidates = 0.05", as_rows)
                + "having = \"min(short) < 0\"\n",
            layer("mercator", "hexagon", "center", "tile_bounds = \"degrees\"\nextent = 512", as_rows)
                + "having = \"!xmin! >= -180 AND !xmax! <= 180\"\n",
        ]
        .concat()
    };
    let tiles = compare(&db, "0-7", &kinds, &[]);
    assert!(tiles > 800, "{tiles}");
    // In parts of the world cells have members beyond its edge.
    compare(&db, "4-6", &kinds, &["--bbox", "20,5,60,30", "--bbox", "170,-90,-170,90"]);
    let query = |as_rows| {
        kinds(as_rows)
            .replace("table = \"rows\"", "sql = \"SELECT * FROM rows WHERE id % (!zoom! + 2) > 0\"\nkey = [\"id\"]")
    };
    compare(&db, "0-5", &query, &["--workers", "1"]);
}

#[test]
fn counted_cells_are_encoded_once_and_drawn_as_the_database_draws_them() {
    let db = Db::new();
    db.run(ROWS);
    let folder = tempfile::tempdir().unwrap();
    let own = "properties = { n = \"count(*)\", west = \"!xmin!\", z = \"!zoom!\", x = \"!x!\", odd = \"nullif(max(whole) % 2, 0)\" }";
    let layer = |name: &str, more: &str| {
        format!("[[layer]]\nname = \"{name}\"\ntable = \"rows\"\ngeometry = \"degrees\"\nbuffer = 256\n{more}\n{own}\n")
    };
    let config = [
        layer("all", "[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/8\""),
        layer(
            "some",
            "max_tile_features = 4\non_large_tile = \"thin\"\n[layer.aggregate]\ncell = \"square\"\nsize = \"1/4\"\ndraw = \"centroid\"\nhaving = \"count(*) > 2\"",
        ),
        layer("none", "[layer.aggregate]\ncell = \"square\"\nsize = \"1/4\"\nhaving = \"count(*) < 0\""),
        // A cell of one row is that row.
        layer(
            "lone",
            "key = [\"id\"]\nproperties = [\"id\", \"word\"]\n[layer.cluster]\ncell = \"hexagon\"\nmerge = true\nsize = \"1/8\"\nzoom = \"0-6\"",
        ),
        // The database alone draws these.
        layer("polygons", "[layer.aggregate]\ncell = \"square\"\nsize = \"1/4\"\ndraw = \"polygon\""),
    ];
    let config = written(folder.path(), "c.toml", &config.concat());
    let seeded = |rows_mb: &str| {
        let output = folder.path().join(format!("{rows_mb}.mbtiles"));
        let mut command = seed_command(&db.url, &output, &["--config", &config, "--zoom", "0-8", "-vv"]);
        let run = run(command.env("OAR_TILES_ROWS_MB", rows_mb)).ok();
        assert!(!run.stderr.contains("please report"), "{}", run.stderr);
        let mut cached: Vec<String> = run
            .stderr
            .lines()
            .filter(|line| line.contains(" cells of "))
            .map(|line| line.split("layer ").nth(1).unwrap().split(':').next().unwrap().to_owned())
            .collect();
        cached.sort();
        (Archive::open(&output).tiles(), cached)
    };
    let ((found, cached), (expected, without)) = (seeded("100"), seeded("0"));
    assert_eq!((cached.join(" "), without.len()), ("\"all\" \"lone\" \"none\" \"some\"".to_owned(), 0));
    assert!(found.len() > 800 && found == expected);
}

#[test]
fn clusters_are_folded_and_lone_rows_are_drawn_as_they_are() {
    let db = Db::new();
    db.run(ROWS);
    let layer = |geometry: &str, more: &str, as_rows: bool| {
        format!(
            "[[layer]]\nname = \"{geometry} {}\"\ntable = \"rows\"\ngeometry = \"{geometry}\"\n
             properties = [\"id\", \"word\", \"flag\", \"day\"]\n{more}\n
             [layer.cluster]\nzoom = \"0-7\"\nproperties = {}\n",
            more.len(),
            properties(&FOLDED[1..21], as_rows)
        )
    };
    let kinds = |as_rows: bool| {
        [
            layer("degrees", "", as_rows),
            layer("mercator", "where = \"id % 3 > 0\"\nfeature_id = \"id\"", as_rows)
                .replace("feature_id = \"id\"", ""),
            layer("mercator", "max_tile_features = 7\non_large_tile = \"thin\"", as_rows),
        ]
        .concat()
    };
    let tiles = compare(&db, "0-8", &kinds, &[]);
    assert!(tiles > 800, "{tiles}");
    let query = |as_rows| {
        let comment = if as_rows { " /* of rows */" } else { "" };
        "[[layer]]\nname = \"asked\"\nsql = \"SELECT id, word, mercator FROM rows WHERE id % (!zoom! + 2) > 0\"\nkey = [\"id\"]\nproperties = [\"id\", \"word\"]
         [layer.cluster]\nzoom = \"0-7\"\nproperties = { words = \"count(DISTINCT word)"
            .to_owned()
            + comment
            + "\" }\n"
    };
    compare(&db, "0-8", &query, &["--bbox", "20,5,60,30"]);
}

/// The only tile of zoom 0: the values of one property by the number of rows.
#[test]
fn clusters_are_merged_by_the_survey_as_the_database_merges_them() {
    let db = Db::new();
    db.run(ROWS);
    let layer = |geometry: &str, cell: &str, size: &str, more: &str, as_rows: bool| {
        format!(
            "[[layer]]\nname = \"{geometry} {cell} {size}\"\ntable = \"rows\"\ngeometry = \"{geometry}\"\n
             properties = [\"id\", \"word\"]\n{more}\n
             [layer.cluster]\nzoom = \"0-7\"\nmerge = true\ncell = \"{cell}\"\nsize = {size}\nproperties = {}\n",
            properties(&FOLDED[1..21], as_rows)
        )
    };
    let kinds = |as_rows: bool| {
        [
            layer("degrees", "square", "0.125", "", as_rows),
            layer("mercator", "hexagon", "0.3", "where = \"id % 3 > 0\"", as_rows),
            layer("lambert", "square", "0.25", "buffer = 300", as_rows),
            layer("lambert", "hexagon", "0.1", "", as_rows),
            layer("mercator", "square", "0.0625", "max_tile_features = 7\non_large_tile = \"thin\"", as_rows)
                .replace("max_tile_features = 7", "max_tile_features = { 0-22 = 300 }"),
        ]
        .concat()
    };
    let tiles = compare(&db, "0-8", &kinds, &[]);
    assert!(tiles > 800, "{tiles}");
    compare(&db, "2-8", &kinds, &["--bbox", "20,5,60,30", "--bbox", "170,-90,-170,90"]);
}

fn whole_world(output: &Path, name: &str) -> BTreeMap<String, String> {
    let tiles = Archive::open(output).tiles();
    let layers = decode(&tiles[&(0, 0, 0)]).unwrap();
    let read = |feature, wanted: &str| {
        let mut properties = layers[0].properties(feature);
        properties.find(|(name, _)| *name == wanted).map(|(_, value)| format!("{value:?}")).unwrap_or_default()
    };
    layers[0].features.iter().map(|feature| (read(feature, "n"), read(feature, name))).collect()
}

#[test]
fn what_only_the_database_can_tell_is_left_to_it() {
    let db = Db::new();
    db.run(ROWS);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    let layer = |sql: &str, more: &str| {
        let text = format!(
            "[[layer]]\nname = \"grid\"\ntable = \"rows\"\ngeometry = \"degrees\"\n{more}
             [layer.aggregate]\ncell = \"square\"\nsize = \"1\"\nproperties = {{ n = \"count(*)\", value = \"{sql}\" }}\n"
        );
        written(folder.path(), "t.toml", &text)
    };
    for sql in [
        "max(word)",
        "sum(part)::text",
        "count(DISTINCT part::numeric)",
        "count(DISTINCT (flag, word))",
        "min(part)",
        "string_agg(word, '' ORDER BY id)",
        "sum(DISTINCT whole)",
        "max(whole) + array_length(array_agg(id), 1)",
        "count(*) + stddev_pop(3)",
        "percentile_disc(0.5) WITHIN GROUP (ORDER BY whole)",
        "max(whole) - (SELECT max(wide) / 1000000000000 FROM rows)",
        "count(*) + (SELECT count(*) FROM rows WHERE false)",
    ] {
        let run = seed(&db.url, &output, &["--config", &layer(sql, ""), "--zoom", "0", "-vv"]).ok();
        assert!(!run.stderr.contains("its aggregates are folded"), "{sql}: {}", run.stderr);
        // Row 3004, a hair beyond the northern edge, counts as row 3005 does, which is as far beyond the southern one.
        let value = db.value::<String>(&format!("SELECT ({sql})::text FROM rows WHERE degrees IS NOT NULL"));
        let shown = whole_world(&output, "value");
        assert!(shown.values().any(|shown| shown.contains(&value)), "{sql}: {value}, {shown:?}");
    }
    // Where a collation takes different texts for the same, their bytes do not tell.
    let distinct = layer("count(DISTINCT word)", "");
    let run = seed(&db.url, &output, &["--config", &distinct, "--zoom", "0", "-vv"]).ok();
    assert!(run.stderr.contains("its aggregates are folded"), "{}", run.stderr);
    db.run("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
            ALTER TABLE rows ALTER COLUMN word TYPE text COLLATE loose; UPDATE rows SET word = upper(word) WHERE id % 2 = 0");
    let run = seed(&db.url, &output, &["--config", &distinct, "--zoom", "0", "-vv"]).ok();
    assert!(!run.stderr.contains("its aggregates are folded"), "{}", run.stderr);
    assert!(
        whole_world(&output, "value").values().any(|value| value.contains("13")),
        "{:?}",
        whole_world(&output, "value")
    );

    // Functions of one's own may be called as the server's.
    let greatest = layer("max(workers)", "");
    for own in [
        "CREATE AGGREGATE max(workers) (SFUNC = int4smaller, STYPE = int4)",
        "DROP AGGREGATE max(workers); CREATE SCHEMA own; CREATE AGGREGATE own.max(int4) (SFUNC = int4smaller, STYPE = int4);
         ALTER DATABASE current SET search_path = own, public, pg_catalog",
    ] {
        let name = db.value::<String>("SELECT quote_ident(current_database())::text");
        db.run(&own.replace("DATABASE current", &format!("DATABASE {name}")));
        let run = seed(&db.url, &output, &["--config", &greatest, "--zoom", "0", "-vv"]).ok();
        assert!(!run.stderr.contains("its aggregates are folded"), "{}", run.stderr);
        assert!(whole_world(&output, "value").values().all(|value| value.contains('0')), "{:?}", whole_world(&output, "value"));
    }
    db.run("DROP SCHEMA own CASCADE");
    let run = seed(&db.url, &output, &["--config", &greatest, "--zoom", "0", "-vv"]).ok();
    assert!(run.stderr.contains("its aggregates are folded"), "{}", run.stderr);

    // A value that raises is asked for of all rows, though a tile may not need it: the tiles that do are named.
    db.run("UPDATE rows SET whole = 0 WHERE id = 3008");
    let raising = "sum(1000 / whole)";
    let zooms = ["--zoom", "0-3", "-vv"];
    let config = layer(raising, "");
    // One tile: of several, whichever is drawn first is the one that is named.
    let run = seed(&db.url, &output, &["--config", &config, "--zoom", "0", "-vv"]);
    run.fails(1, &["layer \"grid\", tile 0/0/0", "division by zero"]);
    let config = layer(raising, "on_tile_error = \"skip\"");
    let run = seed(&db.url, &output, &[&["--config", &config], &zooms[..]].concat());
    run.fails(3, &["are not folded", "0/0/0", "division by zero"]);
    let tiles: Vec<_> = Archive::open(&output).tiles().into_keys().filter(|(zoom, ..)| *zoom == 3).collect();
    assert!(tiles.len() > 10 && !tiles.contains(&(3, 1, 4)), "{tiles:?}");
    // The same where the message reads as if the geometry were to blame.
    db.run("UPDATE rows SET whole = 1 WHERE whole = 0");
    let beyond = "max(ST_X(ST_Transform(ST_SetSRID(ST_MakePoint(1e9 * (id / 3008), 0), 4326), 32632))::int8)";
    let config = layer(beyond, "on_tile_error = \"skip\"");
    seed(&db.url, &output, &[&["--config", &config], &zooms[..]].concat()).fails(3, &["are not folded", "0/0/0"]);
}

#[test]
fn nothing_is_worked_out_of_cells_that_do_not_show() {
    let db = Db::new();
    // The only cell with three rows lies beside the box.
    db.run("CREATE TABLE rows AS SELECT i AS id, ST_SetSRID(ST_MakePoint(CASE WHEN i < 4 THEN -85 ELSE -100 - i END, 30), 4326) AS g
                FROM generate_series(1, 20) AS i;
            ALTER TABLE rows ADD PRIMARY KEY (id); CREATE INDEX ON rows USING gist (g)");
    let layer = |as_rows: bool| {
        let properties = properties(&[("v", "max(id) / (count(*) - 3)")], as_rows);
        format!(
            "[[layer]]\nname = \"grid\"\ntable = \"rows\"\ngeometry = \"g\"\nbuffer = 0\n
             [layer.aggregate]\ncell = \"square\"\nsize = \"1/4\"\nproperties = {properties}\n"
        )
    };
    assert!(compare(&db, "3", &layer, &["--bbox", "-135,10,-91,50"]) > 0);
}

#[test]
fn columns_of_any_name_do_not_confuse_clusters() {
    let db = Db::new();
    let names = [
        "z",
        "area",
        "width",
        "shift",
        "margin",
        "ax0",
        "box",
        "m",
        "west",
        "north",
        "w",
        "s",
        "e",
        "n",
        "x",
        "y",
        "code",
        "cell",
        "members",
        "f0",
        "p0",
        "r0",
        "g",
        "pixel_width",
    ];
    let columns: String = names.iter().map(|name| format!(", i AS {name}")).collect();
    db.run(&format!(
        "CREATE TABLE rows AS SELECT i AS id, ST_SetSRID(ST_MakePoint(i % 37 * 9 - 170, i % 29 * 5 - 70), 4326) AS k0{columns} FROM generate_series(1, 900) AS i;
         ALTER TABLE rows ADD PRIMARY KEY (id); CREATE INDEX ON rows USING gist (k0)"
    ));
    let shown = names.map(|name| format!("\"{name}\"")).join(", ");
    let kinds = |as_rows: bool| {
        let of = properties(&[("sum_of", "sum(z) + max(width) + count(DISTINCT f0) + sum(members)")], as_rows);
        format!(
            "[[layer]]\nname = \"clusters\"\ntable = \"rows\"\nproperties = [{shown}]\n[layer.cluster]\nproperties = {of}\n
             [[layer]]\nname = \"asked\"\nsql = \"SELECT * FROM rows\"\nkey = [\"id\"]\nproperties = [{shown}]\n[layer.cluster]\nproperties = {of}\n
             [[layer]]\nname = \"grid\"\ntable = \"rows\"\n[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/4\"\nproperties = {of}\n"
        )
    };
    assert!(compare(&db, "0-5", &kinds, &[]) > 100);
}

#[test]
fn a_reseed_folds_what_a_few_tiles_need_of_all_rows() {
    let db = Db::new();
    db.run(ROWS);
    let tracked = Tracked { db, folder: tempfile::tempdir().unwrap() };
    let configured = |as_rows: bool| {
        let of = properties(FOLDED, as_rows);
        let text = format!(
            "[[layer]]\nname = \"grid\"\ntable = \"rows\"\ngeometry = \"degrees\"\nzoom = \"0-8\"\n
             [layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/8\"\nproperties = {of}\n
             [[layer]]\nname = \"clusters\"\ntable = \"rows\"\ngeometry = \"mercator\"\nproperties = [\"id\", \"word\"]\n
             [layer.cluster]\nsize = \"1/8\"\nzoom = \"0-8\"\nproperties = {}\n",
            properties(&FOLDED[1..21], as_rows)
        );
        written(tracked.folder.path(), &format!("{as_rows}.toml"), &text)
    };
    let (folded, of_rows) = (configured(false), configured(true));
    tracked.oar_tiles(&["track", "install", "--config", &folded]).ok();
    let target = tracked.seed("t.mbtiles", &["--config", &folded, "--zoom", "0-9"]);
    for (change, folds) in [
        ("UPDATE rows SET whole = 987654, day = 'infinity' WHERE id = 77", true),
        (
            "UPDATE rows SET degrees = ST_Translate(degrees, 0.001, 0), mercator = ST_Translate(mercator, 90, 0) WHERE id % 400 = 3",
            true,
        ),
        ("DELETE FROM rows WHERE id BETWEEN 3008 AND 3012", true),
        (
            "INSERT INTO rows (id, degrees, mercator, word) SELECT 6000 + id, degrees, mercator, 'new' FROM rows WHERE id IN (5, 3003)",
            true,
        ),
        ("UPDATE rows SET part = part + 1 WHERE id > 3000", true),
        ("SELECT 1", false),
    ] {
        tracked.db.run(change);
        let run = tracked.reseed(&target, &["--config", &folded, "-vv"]).ok();
        assert_eq!(run.stderr.contains("its aggregates are folded"), folds, "{change}: {}", run.stderr);
        tracked.is_fresh(&target, &["--config", &of_rows, "--zoom", "0-9"]);
    }
    // Far down no look at all rows is worth it.
    let tiles = written(tracked.folder.path(), "tiles.txt", "8/131/122\n");
    let run = tracked.reseed(&target, &["--config", &folded, "--tiles", &tiles, "-vv"]).ok();
    assert!(!run.stderr.contains("its aggregates are folded"), "{}", run.stderr);
}
