//! `repair`: shapes that are not valid, and shapes that jump across ±180°, are drawn as the documented expression gives
//! them, by seeds and reseeds, with no more rights than to read.

use crate::rendering::reference::{Plain, compare, is_same, plainly};
use crate::support::folder::Folder;
use crate::support::program::{Run, program, run};
use crate::support::tracked::{Tracked, differences};
use crate::support::{Archive, Cluster, Db, atlas, repository, seed, until};

const SHAPES: &str = include_str!("repair_shapes.sql");

/// The functions of the manual, for degrees and, with other names, for metres.
fn functions() -> String {
    let manual = std::fs::read_to_string(repository("docs/world-edge.md")).unwrap();
    let functions: String = manual
        .split("```sql\n")
        .filter(|block| block.starts_with("CREATE FUNCTION "))
        .map(|block| block.split("```").next().unwrap())
        .collect();
    assert_eq!(functions.matches("CREATE FUNCTION").count(), 3);
    let mut in_metres = functions.clone();
    for (degrees, metres) in [
        ("359.9999999999", "40075016.67"),
        ("* 90)", "* 2e8)"),
        ("90 ELSE", "2e8 ELSE"),
        ("360", "40075016.685578488"),
        ("180", "20037508.342789244"),
        ("90 AND", "10018754.171394622 AND"),
        ("jumps(", "jumps_in_metres("),
        ("unwrapped(", "unwrapped_in_metres("),
        ("repaired(", "repaired_in_metres("),
    ] {
        assert!(in_metres.contains(degrees), "{degrees}");
        in_metres = in_metres.replace(degrees, metres);
    }
    functions + &in_metres
}

/// A table of shapes of every kind, in degrees, and the same in other systems.
const TABLES: &str = "
    CREATE TABLE degrees AS SELECT i AS id, 'n' || i % 7 AS name, shape(i % 12, i, false)::geometry(Geometry, 4326) AS g FROM generate_series(1, 132) AS i;
    INSERT INTO degrees VALUES (1001, 'curve', 'SRID=4326;CURVEPOLYGON(COMPOUNDCURVE(CIRCULARSTRING(10 50, 12 52, 14 50), (14 50, 10 48, 10 50)), (11 49.5, 17 49.5, 17 51, 11 51, 11 49.5))'),
        (1003, NULL, NULL), (1004, 'empty', 'SRID=4326;POLYGON EMPTY'),
        (1005, 'collection', 'SRID=4326;GEOMETRYCOLLECTION(POLYGON((0 0, 3 3, 3 0, 0 3, 0 0)), POINT(5 5))'), (1006, 'point', 'SRID=4326;POINT(20 20)'),
        (1007, 'beyond', 'SRID=4326;POLYGON((175 0, 185 4, 185 0, 175 4, 175 0))'), (1008, 'around', 'SRID=4326;POLYGON((-180 -3, 180 -3, 180 -2, -180 -2, -180 -3))'),
        (1009, 'twice', 'SRID=4326;LINESTRING(3 4, 3 4)'), (1010, 'wide', 'SRID=4326;LINESTRING(-60 12, 170 13)');
    CREATE TABLE metres AS SELECT id, name, ST_Transform(g, 3857) AS g FROM degrees WHERE id < 1000 OR id = 1008;
    CREATE TABLE nad83 AS SELECT id, name, ST_SetSRID(g, 4269) AS g FROM degrees WHERE id < 1000;
    INSERT INTO nad83 SELECT 1002, 'with z and m', ST_Force4D(g, 3, 4) FROM nad83 WHERE id = 13;
    CREATE TABLE projected AS SELECT id, name, ST_SetSRID(ST_Translate(ST_Scale(g, 8000, 8000), 500000, 5700000), 25832) AS g FROM degrees WHERE id < 1000 AND id % 12 IN (0, 1, 2, 3, 7, 8, 10);
    CREATE TABLE sphere AS SELECT id, name, g::geography AS g FROM degrees WHERE id < 1000;
    CREATE TABLE bow_ties AS SELECT id, name, g::geometry(Polygon, 4326) AS g FROM degrees WHERE id < 1000 AND id % 12 IN (0, 1);
    DO $$ DECLARE t text; BEGIN FOREACH t IN ARRAY ARRAY['degrees', 'metres', 'nad83', 'projected', 'sphere', 'bow_ties'] LOOP
        EXECUTE format('ALTER TABLE %1$s ADD PRIMARY KEY (id); CREATE INDEX ON %1$s USING gist (g)', t);
    END LOOP; END $$;";

/// The tables with what is drawn of a row, in EPSG:3857.
const DRAWN: [(&str, &str); 6] = [
    (
        "degrees",
        "CASE WHEN id = 1007 THEN ST_Transform(ST_UnaryUnion(ST_CollectionExtract(ST_WrapX(ST_WrapX(ST_CollectionExtract(ST_MakeValid(ST_SnapToGrid(ST_Force2D(repaired(g)), 180 / 1099511627776.0, 0)), 3), 180, -360), -180, 360), 3)), 3857)
            ELSE ST_Transform(ST_CurveToLine(repaired(CASE WHEN GeometryType(g) = 'CURVEPOLYGON' THEN ST_CurveToLine(g) ELSE g END)), 3857) END",
    ),
    ("metres", "repaired_in_metres(g)"),
    ("nad83", "ST_Transform(repaired(g), 3857)"),
    ("projected", "ST_Transform(repaired(g), 3857)"),
    ("sphere", "ST_Transform(repaired(g::geometry), 3857)"),
    ("bow_ties", "ST_Transform(repaired(g), 3857)"),
];

fn database() -> Db {
    let db = Db::new();
    db.run(&functions());
    db.run(SHAPES);
    db.run(TABLES);
    db
}

/// A configuration with a layer for each of some tables.
fn config<'a>(folder: &tempfile::TempDir, tables: impl IntoIterator<Item = &'a str>, more: &str, run: &str) -> String {
    let layer = |table| format!("[[layer]]\nname = \"{table}\"\ntable = \"{table}\"\nrepair = true\n{more}\n");
    let path = folder.path().join("c.toml");
    std::fs::write(&path, tables.into_iter().map(layer).collect::<String>() + run).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn every_tile_of_repaired_shapes_is_the_documented_expression() {
    let (db, folder) = (database(), tempfile::tempdir().unwrap());
    let output = folder.path().join("t.mbtiles");
    for (table, drawn) in DRAWN {
        let rows = format!(
            "SELECT * FROM (SELECT {drawn} AS m, id, id AS key, name FROM {table}) AS rows WHERE NOT ST_IsEmpty(m)"
        );
        let plain = Plain { name: table, rows: &rows, properties: "id, name", extent: 4096, buffer: 64, zooms: 0..=7 };
        let expected = plainly(&db, &[plain], 0..=7);
        assert!(expected.len() > 100, "{table}: {}", expected.len());
        for (more, run) in [
            ("", ""),
            ("", "[run]\nbatch_features = 20"),
            ("on_large_tile = \"thin\"", ""),
            ("min_zoom = \"id * 0\"", ""),
        ] {
            let config = config(&folder, [table], &format!("properties = [\"id\", \"name\"]\n{more}"), run);
            let done = seed(&db.url, &output, &["--force", "--config", &config, "--zoom", "0-7"]).ok();
            assert!(!done.stderr.contains("jump") && !done.stderr.contains("valid"), "{table}: {}", done.stderr);
            is_same(&Archive::open(&output).tiles(), &expected);
        }
    }
}

#[test]
fn real_countries_that_jump_are_drawn_right_by_a_role_that_may_only_read() {
    let (db, folder) = (Db::new(), tempfile::tempdir().unwrap());
    db.run(&functions());
    atlas::load(&db, "countries", "world-atlas/countries-50m.json", "countries");
    let role = format!("reader_{}", std::process::id());
    db.run(&format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT ON countries TO {role}; REVOKE TEMPORARY, CREATE ON DATABASE {name} FROM PUBLIC; REVOKE EXECUTE ON FUNCTION jumps, unwrapped, repaired FROM PUBLIC;
         ALTER ROLE {role} SET default_transaction_read_only = on",
        name = db.value::<String>("SELECT quote_ident(current_database())")
    ));
    let output = folder.path().join("t.mbtiles");
    let config = config(&folder, ["countries"], "properties = [\"name\"]", "");
    let reader = |more: &[&str]| {
        let mut command = program();
        command.args(["seed", "--progress", "none", "--force", "--config", &config, "--zoom", "0-5", "--output"]);
        run(command.arg(&output).args(more).args(["--database-url", &as_role(&db, &role)]))
    };
    let done = reader(&[]).ok();
    db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    assert_eq!(done.stderr, "");
    let rows = "SELECT ST_Transform(repaired(g), 3857) AS m, id AS key, name FROM countries";
    let plain = Plain { name: "countries", rows, properties: "name", extent: 4096, buffer: 64, zooms: 0..=5 };
    let tiles = compare(&db, &output, &[plain], 0..=5);
    assert!(tiles > 900, "{tiles}");
}

/// The URL of the database for a role.
fn as_role(db: &Db, role: &str) -> String {
    db.url.replace("user=oar_tiles", &format!("user={role}")).replace("oar_tiles@", &format!("{role}@"))
}

/// Layers that are planned and brought up to date in different ways.
const LAYERS: &str = "
[[layer]]
name = \"degrees\"
table = \"degrees\"
repair = true
[[layer]]
name = \"simplified\"
table = \"degrees\"
repair = true
simplify = { tolerance = 0.5 }
[[layer]]
name = \"metres\"
table = \"metres\"
repair = true
[[layer]]
name = \"nad83\"
table = \"nad83\"
repair = true
[[layer]]
name = \"projected\"
table = \"projected\"
repair = true
[[layer]]
name = \"sphere\"
table = \"sphere\"
repair = true
[[layer]]
name = \"view\"
sql = \"SELECT id, name, g FROM degrees WHERE id % 3 > 0\"
key = [\"id\"]
repair = true
[[layer.track]]
table = \"degrees\"
geometry = \"SELECT changed.g\"
";

/// Changes that pseudorandom numbers decide: kinds of shapes become other kinds; few rows and many, small shapes and
/// large ones.
fn changes(round: i32) -> String {
    let (share, fine) = match round % 4 {
        0 => (29, false),
        1 => (41, true),
        2 => (1, false),
        _ => (37, true),
    };
    let kind = format!("((id * 31 + {round} * 17) % 12)");
    let chosen = format!("(id * 13 + {round} * 7) % {share} = 0 AND id < 1000");
    let scaled = "ST_SetSRID(ST_Translate(ST_Scale(s, 8000, 8000), 500000, 5700000), 25832)";
    let update = |table: &str, g: &str, only: &str| {
        format!(
            "UPDATE {table} SET g = {} WHERE {chosen}{only};",
            g.replace("s,", &format!("shape({kind}, id + {round}, {fine}),"))
                .replace("s)", &format!("shape({kind}, id + {round}, {fine}))"))
        )
    };
    let mut sql = [
        update("degrees", "(s)", ""),
        update("metres", "ST_Transform(s, 3857)", ""),
        update("nad83", "ST_SetSRID(s, 4269)", ""),
        update("projected", scaled, &format!(" AND {kind} IN (0, 1, 2, 3, 7, 8, 10)")),
        update("sphere", "(s)::geography", ""),
    ]
    .concat();
    if round % 3 == 1 {
        sql.push_str(&format!("DELETE FROM degrees WHERE id % 11 = {round} % 11; UPDATE metres SET name = 'x' || {round} WHERE id % 12 IN (4, 6);"));
        sql.push_str(&format!("INSERT INTO degrees SELECT 2000 + 100 * {round} + i, 'new', shape(i, i + {round}, false) FROM generate_series(0, 11) AS i"));
    }
    sql
}

#[test]
fn a_reseed_of_repaired_shapes_is_what_a_seed_gives_after_any_history() {
    let (db, folder) = (database(), tempfile::tempdir().unwrap());
    for table in ["metres", "nad83", "projected", "sphere"] {
        db.run(&format!("DELETE FROM {table} WHERE id > 36 AND id < 1000"));
    }
    let config = folder.path().join("c.toml");
    std::fs::write(&config, format!("[tileset]\nzoom = \"0-3,5\"\n{LAYERS}")).unwrap();
    let config = ["--config", config.to_str().unwrap()];
    let tracked = Tracked { db, folder };
    tracked.oar_tiles(&[&["track", "install"][..], &config].concat()).ok();
    let target = tracked.seed("t.mbtiles", &config);
    for round in 0..4 {
        let before = Archive::open(&target).stored();
        tracked.db.run(&changes(round));
        let done = tracked.reseed(&target, &[&config[..], &["-vv"]].concat()).ok();
        assert!(!done.stderr.contains("please report"), "round {round}: {}", done.stderr);
        let fresh = tracked.seed("fresh.mbtiles", &config);
        let (found, fresh) = (Archive::open(&target).stored(), Archive::open(&fresh).stored());
        let wrong = differences(&found, &fresh);
        assert!(wrong.is_empty(), "round {round}: {} of {}: {:?}", wrong.len(), fresh.len(), wrong.first());
        assert!(!differences(&before, &fresh).is_empty(), "round {round}: nothing has changed");
    }
}

#[test]
fn a_change_of_one_shape_that_jumps_dirties_where_it_is_drawn_and_not_the_world() {
    let (db, folder) = (database(), tempfile::tempdir().unwrap());
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "[tileset]\nzoom = \"7\"\n[[layer]]\nname = \"l\"\ntable = \"degrees\"\nrepair = true")
        .unwrap();
    let config = ["--config", config.to_str().unwrap()];
    let tracked = Tracked { db, folder };
    tracked.oar_tiles(&[&["track", "install"][..], &config].concat()).ok();
    let target = tracked.seed("t.mbtiles", &config);
    // A bow-tie dirties its own tiles, and a jump those between its latitudes, on both sides of the edge.
    for (id, changed, most, rows) in [
        (9001, "SRID=4326;POLYGON((10 10, 12 12, 12 10, 10 12, 10 10))", 9, 56..=60),
        (9002, "SRID=4326;POLYGON((179 0.5, -179 0.5, -179 1, 179 1, 179 0.5))", 128 * 2, 63..=64),
    ] {
        tracked.db.run(&format!("INSERT INTO degrees VALUES ({id}, 'new', '{changed}')"));
        let list = tracked.path("dirty.txt");
        tracked.reseed(&target, &[&config[..], &["--dirty-out", list.to_str().unwrap()]].concat()).ok();
        let dirty = crate::support::tracked::listed(&list);
        assert!(!dirty.is_empty() && dirty.len() <= most, "{id}: {}", dirty.len());
        assert!(dirty.iter().all(|(_, _, y)| rows.contains(y)), "{id}: {dirty:?}");
        tracked.is_fresh(&target, &config);
    }
}

#[test]
fn a_shape_that_jumps_is_brought_up_to_date_if_the_log_holds_only_its_box() {
    let (db, folder) = (database(), tempfile::tempdir().unwrap());
    db.run(
        "CREATE TABLE many (id int PRIMARY KEY, g geometry(Polygon, 4326)); CREATE INDEX ON many USING gist (g);
         INSERT INTO many SELECT i, ST_Buffer(ST_SetSRID(ST_MakePoint(10 + i / 100.0, 10), 4326), 1, 2) FROM generate_series(2, 150) AS i;
         INSERT INTO many VALUES (1, ST_ShiftLongitude(ST_Buffer('SRID=4326;POINT(180 -10)'::geometry, 25, 4)))",
    );
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "[tileset]\nzoom = \"0-5\"\n[[layer]]\nname = \"l\"\ntable = \"many\"\nrepair = true")
        .unwrap();
    let config = ["--config", config.to_str().unwrap()];
    let tracked = Tracked { db, folder };
    tracked.oar_tiles(&[&["track", "install"][..], &config].concat()).ok();
    let target = tracked.seed("t.mbtiles", &config);
    // More than a hundred rows in one statement are noted with their boxes.
    tracked.db.run("UPDATE many SET g = ST_Translate(g, 0, 4)");
    let done = tracked.reseed(&target, &[&config[..], &["-vv"]].concat()).ok();
    assert!(!done.stderr.contains("rendering every tile"), "{}", done.stderr);
    tracked.is_fresh(&target, &config);
}

#[test]
fn repair_is_refused_where_nothing_can_be_repaired() {
    let db = Db::with_facilities(10);
    let folder = Folder::new();
    let said = |layer: &str| -> Run {
        let path = folder.beside("c.toml");
        std::fs::write(&path, format!("[[layer]]\nname = \"l\"\nrepair = true\n{layer}")).unwrap();
        seed(&db.url, &folder.beside("t.mbtiles"), &["--config", path.to_str().unwrap()])
    };
    for (layer, why) in [
        (
            "table = \"api_facility\"",
            "repair is for lines and polygons, and \"location\" of \"public\".\"api_facility\" is a column of points. Leave repair out",
        ),
        ("function = \"tile\"", "stands beside function, which gives whole tiles"),
        (
            "table = \"api_facility\"\n[layer.aggregate]\ncell = \"square\"\nsize = \"1/8\"\nproperties = { n = \"count(*)\" }",
            "does nothing: the layer draws no single rows at these zooms",
        ),
    ] {
        let refused = said(layer);
        assert!(refused.code == 2 && refused.stderr.contains(why), "{layer}: {} {}", refused.code, refused.stderr);
    }
}

#[test]
fn a_seed_repairs_each_row_once() {
    let (db, folder) = (database(), tempfile::tempdir().unwrap());
    db.run("INSERT INTO bow_ties SELECT 5000 + id, name, g FROM bow_ties WHERE id = 13");
    // PostgreSQL then counts the calls of functions in C.
    let name = db.value::<String>("SELECT quote_ident(current_database())");
    db.run(&format!("ALTER DATABASE {name} SET track_functions = 'all'"));
    let calls = |of: &str| -> i64 {
        db.run("SELECT pg_stat_clear_snapshot()");
        db.value(&format!("SELECT coalesce(sum(calls), 0)::int8 FROM pg_stat_user_functions WHERE funcname = '{of}'"))
    };
    let flawed = db.value::<i64>("SELECT count(*) FROM bow_ties WHERE NOT ST_IsValid(g)");
    let output = folder.path().join("t.mbtiles");
    let seed = |run: &str| {
        let config = config(&folder, ["bow_ties"], "properties = [\"id\"]", run);
        let before = calls("st_makevalid");
        seed(&db.url, &output, &["--force", "--config", &config, "--zoom", "0-9"]).ok();
        let sessions =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        until("the counters are written", || db.value::<i64>(sessions) == 0 && calls("st_makevalid") > before);
        calls("st_makevalid") - before
    };
    // In few statements, and in many.
    for run in ["", "[run]\nbatch_features = 20"] {
        assert_eq!(seed(run), flawed, "{run}");
    }
    // Of two rows with the same shape, both are drawn.
    let rows = "SELECT ST_Transform(repaired(g), 3857) AS m, id, id AS key FROM bow_ties";
    let plain = Plain { name: "bow_ties", rows, properties: "id", extent: 4096, buffer: 64, zooms: 0..=9 };
    assert!(compare(&db, &output, &[plain], 0..=9) > 100);
}

#[test]
fn a_standby_is_enough_for_repaired_shapes() {
    let (primary, folder) = (Cluster::new(), tempfile::tempdir().unwrap());
    let db = Db::on(&primary.url);
    db.run("CREATE EXTENSION postgis");
    for part in [&functions(), SHAPES, TABLES] {
        db.run(part);
    }
    let standby = Cluster::standby_of(&primary);
    let copy = Db::there(&standby.url, &db.name);
    assert!(copy.value::<bool>("SELECT pg_is_in_recovery()"));
    let (output, config) = (folder.path().join("t.mbtiles"), config(&folder, ["degrees"], "properties = [\"id\"]", ""));
    seed(&copy.url, &output, &["--config", &config, "--zoom", "0-6"]).ok();
    let rows = format!(
        "SELECT * FROM (SELECT {} AS m, id, id AS key FROM degrees) AS rows WHERE NOT ST_IsEmpty(m)",
        DRAWN[0].1
    );
    let plain = Plain { name: "degrees", rows: &rows, properties: "id", extent: 4096, buffer: 64, zooms: 0..=6 };
    assert!(compare(&db, &output, &[plain], 0..=6) > 100);
}

#[test]
fn rows_that_several_sessions_read_are_repaired() {
    let (db, folder) = (Db::new(), tempfile::tempdir().unwrap());
    db.run(&functions());
    db.run(
        "CREATE TABLE fields AS SELECT i AS id, ST_SetSRID(ST_Translate(CASE WHEN i % 100 = 0
                THEN 'POLYGON((0 0, 0.4 0.4, 0.4 0, 0 0.4, 0 0))'::geometry ELSE ST_Buffer(ST_MakePoint(0.2, 0.2), 0.2, 4) END, i % 200 * 0.5, i / 200 * 0.5), 4326) AS g
            FROM generate_series(1, 8000) AS i;
        ALTER TABLE fields ADD PRIMARY KEY (id); CREATE INDEX ON fields USING gist (g); ANALYZE fields",
    );
    let (output, config) = (folder.path().join("t.mbtiles"), config(&folder, ["fields"], "properties = [\"id\"]", ""));
    let done = seed(&db.url, &output, &["--config", &config, "--zoom", "0-6", "--workers", "2", "-vv"]).ok();
    assert!(done.stderr.contains("2 parts of its rows are read side by side"), "{}", done.stderr);
    let rows = "SELECT ST_Transform(repaired(g), 3857) AS m, id, id AS key FROM fields";
    let plain = Plain { name: "fields", rows, properties: "id", extent: 4096, buffer: 64, zooms: 0..=6 };
    assert!(compare(&db, &output, &[plain], 0..=6) > 50);
}
