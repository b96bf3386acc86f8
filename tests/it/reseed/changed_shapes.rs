//! Changed lines and polygons: dirty is what their old and new shapes touch, not all tiles of their boxes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::histories::chance::Chance;
use crate::support::archive::Address;
use crate::support::program::{program, run};
use crate::support::tracked::{Tracked, differences, listed};
use crate::support::{Archive, Db, until};

/// A table of shapes, the log of its changes, and a target that follows it.
struct Shapes {
    tracked: Tracked,
    config: String,
    target: PathBuf,
}

/// A change's tiles.
struct Changed {
    /// Those that a reseed rendered.
    dirty: BTreeSet<Address>,
    /// Those that differ after it.
    differing: BTreeSet<Address>,
}

impl Shapes {
    /// With a rectangle around the world, so that the target has many tiles.
    fn new(column: &str, zooms: &str) -> Shapes {
        let tracked = Tracked { db: Db::new(), folder: tempfile::tempdir().unwrap() };
        tracked.db.run(&format!(
            "CREATE TABLE shape (id int PRIMARY KEY, name text, g {column}); CREATE INDEX ON shape USING gist (g);
             INSERT INTO shape VALUES (0, 'world', ST_MakeEnvelope(-170, -80, 170, 80, 4326))"
        ));
        let config = tracked.path("c.toml");
        let text = format!(
            "[[layer]]\nname = \"shapes\"\ntable = \"shape\"\nproperties = [\"name\"]\n[tileset]\nzoom = \"{zooms}\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let (config, target) = (config.to_str().unwrap().to_owned(), tracked.path("t.mbtiles"));
        Shapes { tracked, config, target }
    }

    fn install(&self) -> String {
        let url = &self.tracked.db.url;
        run(program().args(["track", "install", "--config", &self.config, "--database-url", url])).ok().stdout
    }

    fn seed(&self) {
        self.tracked.seed("t.mbtiles", &["--config", &self.config]);
    }

    /// Runs a statement, and a reseed that leaves what a fresh seed would.
    #[track_caller]
    fn change(&self, statement: &str) -> Changed {
        let before = Archive::open(&self.target).stored();
        self.tracked.db.run(statement);
        let dirty = self.tracked.path("dirty.txt");
        let arguments = ["--config", &self.config, "--dirty-out", dirty.to_str().unwrap()];
        self.tracked.reseed(&self.target, &arguments).ok();
        self.tracked.is_fresh(&self.target, &["--config", &self.config]);
        // A large box that is nearly all of the target is seeded: "everything".
        let is_all = std::fs::read_to_string(&dirty).unwrap() == "*\n";
        let dirty = if is_all { BTreeSet::new() } else { listed(&dirty) };
        Changed { dirty, differing: differences(&before, &Archive::open(&self.target).stored()) }
    }
}

const LINE: &str = "ST_GeomFromText('LINESTRING(-120 -60, 120 60)', 4326)";
const L: &str = "ST_GeomFromText('POLYGON((-120 -60, -120 60, -117 60, -117 -57, 120 -57, 120 -60, -120 -60))', 4326)";
const CROSSED: &str = "ST_GeomFromText('POLYGON((-120 -60, 120 60, 120 57, -120 -57, -120 -60))', 4326)";
/// Islands along a diagonal.
const ISLANDS: &str = "(SELECT ST_Collect(ST_Buffer(ST_SetSRID(ST_MakePoint(n * 6, n * 3), 4326), 1, 8)) FROM generate_series(-19, 19) AS n)";

#[test]
fn a_change_dirties_the_tiles_of_the_shape_and_not_of_its_box() {
    let shapes = Shapes::new("geometry(Geometry, 4326)", "0-6");
    shapes.install();
    shapes.seed();
    for (number, shape) in (1..).zip([LINE, L, CROSSED, ISLANDS]) {
        for statement in [
            format!("INSERT INTO shape VALUES ({number}, 'a', {shape})"),
            format!("UPDATE shape SET name = 'b' WHERE id = {number}"),
            format!("UPDATE shape SET g = ST_Translate(g, 20, 3) WHERE id = {number}"),
            format!("DELETE FROM shape WHERE id = {number}"),
        ] {
            let Changed { dirty, differing } = shapes.change(&statement);
            assert!(differing.is_subset(&dirty), "{statement}");
            assert!(differing.len() > 50, "{statement}: {}", differing.len());
            assert!(dirty.len() < differing.len() * 6 / 5, "{statement}: {} for {}", dirty.len(), differing.len());
        }
    }
    // Many rows in one statement are noted with their boxes.
    shapes.change(&format!("INSERT INTO shape SELECT n, 'many', ST_Translate(ST_Scale({L}, 0.02, 0.02), n, 0) FROM generate_series(1, 101) AS n"));
    let vertices = "SELECT max(ST_NPoints(place)) FROM oar_tiles.change, unnest(places) AS place WHERE rows > 100";
    assert_eq!(shapes.tracked.db.value::<i32>(vertices), 5);
    shapes.change("UPDATE shape SET name = 'more' WHERE id BETWEEN 1 AND 100");
}

#[test]
fn the_inside_of_a_large_polygon_is_seeded_and_a_small_change_is_not() {
    let shapes = Shapes::new("geometry(Geometry, 4326)", "0-6");
    shapes.install();
    shapes.seed();
    let report = shapes.tracked.path("report.json");
    let arguments = ["--config", &shapes.config, "--report", report.to_str().unwrap()];
    for (statement, is_seeded) in [
        // Nearly all of its tiles are alike, and a seed renders one of them.
        ("UPDATE shape SET name = 'b' WHERE id = 0".to_owned(), true),
        (format!("INSERT INTO shape VALUES (1, 'a', {L})"), false),
    ] {
        shapes.tracked.db.run(&statement);
        shapes.tracked.reseed(&shapes.target, &arguments).ok();
        let told: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        assert_eq!(told["dirty"].is_null(), is_seeded, "{statement}: {told}");
        shapes.tracked.is_fresh(&shapes.target, &["--config", &shapes.config]);
        assert!(shapes.tracked.reseed(&shapes.target, &arguments).ok().stdout.starts_with("nothing to do"));
    }
}

/// A row is read, transformed, simplified and cut for each area of a statement in which it lies. A function in a
/// property counts these areas.
#[test]
fn a_large_row_is_read_about_as_often_as_in_a_seed_and_not_for_each_column_of_tiles() {
    let (db, folder) = (Db::new(), tempfile::tempdir().unwrap());
    db.run(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET track_functions = pl', current_database()); END $$;
         CREATE FUNCTION counted(name text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN name; END $$;
         CREATE TABLE land (id int PRIMARY KEY, name text, g geometry(Polygon, 4326)); CREATE INDEX ON land USING gist (g);
         INSERT INTO land SELECT n, 'a', ST_Buffer(ST_SetSRID(ST_MakePoint(n * 37 % 300 - 150, n * 17 % 120 - 60), 4326), CASE n WHEN 1 THEN 9 ELSE 0.3 END) FROM generate_series(1, 60) AS n",
    );
    let tracked = Tracked { db, folder };
    let config = tracked.path("c.toml");
    let calls = || {
        let sessions =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
        until("the sessions have ended", || tracked.db.value::<i64>(sessions) == 0);
        tracked.db.value::<i64>("SELECT coalesce(sum(calls), 0)::int8 FROM pg_stat_user_functions")
    };
    for more in ["simplify = { tolerance = 0.5 }\n", ""] {
        let text = format!(
            "[tileset]\nzoom = \"0-6\"\n[run]\nworkers = 2\n[[layer]]\nname = \"land\"\ntable = \"land\"\nproperties = {{ name = \"CASE id WHEN 1 THEN counted(name) ELSE name END\" }}\nbuffer = 8192\n{more}"
        );
        std::fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap();
        tracked.oar_tiles(&["track", "install", "--config", config]).ok();
        let before = calls();
        let target = tracked.seed("t.mbtiles", &["--config", config, "--force"]);
        let seeded = calls() - before;
        tracked.db.run("UPDATE land SET name = name || 'b' WHERE id = 1");
        let before = calls();
        tracked.reseed(&target, &["--config", config]).ok();
        let reseeded = calls() - before;
        assert!(seeded > 0 && reseeded > 0 && reseeded <= 3 * seeded, "{more}: {reseeded}, not {seeded}");
        tracked.is_fresh(&target, &["--config", config, "--force"]);
    }
}

#[test]
fn a_large_shape_is_noted_with_a_cover_of_fewer_vertices() {
    let shapes = Shapes::new("geometry(Geometry, 4326)", "0-7");
    shapes.install();
    shapes.seed();
    let kinds = "SELECT DISTINCT GeometryType(place) FROM oar_tiles.change, unnest(places) AS place ORDER BY 1";
    let kinds = || shapes.tracked.db.rows(kinds).iter().map(|row| row.get(0)).collect::<Vec<String>>();
    for statement in [
        format!(
            "INSERT INTO shape VALUES (1, 'long', ST_Segmentize({LINE}, 0.1)), (2, 'islands', ST_Segmentize({ISLANDS}, 0.04))"
        ),
        "UPDATE shape SET name = 'other' WHERE id = 1".to_owned(),
        "UPDATE shape SET g = ST_Translate(g, 20, 3) WHERE id = 1".to_owned(),
        "DELETE FROM shape WHERE id IN (1, 2)".to_owned(),
    ] {
        let Changed { dirty, differing } = shapes.change(&statement);
        assert!(differing.is_subset(&dirty), "{statement}");
        assert!(differing.len() > 50, "{statement}: {}", differing.len());
        // Its box has thirty times as many.
        assert!(dirty.len() < differing.len() * 6, "{statement}: {} for {}", dirty.len(), differing.len());
    }
    assert_eq!(kinds(), ["GEOMETRYCOLLECTION"]);
    // A line at the edge of tiles, whose vertices beyond the edge are those that its cover leaves out.
    let teeth = "(SELECT ST_MakeLine(ST_SetSRID(ST_MakePoint(-170 + n * 0.159, CASE n % 9 WHEN 4 THEN 0.18 ELSE -0.1 END), 4326) ORDER BY n) FROM generate_series(0, 2138) AS n)";
    shapes.change(&format!("INSERT INTO shape VALUES (3, 'teeth', {teeth})"));
    let kept = "SELECT ST_YMax(ST_GeometryN(place, 1)) FROM oar_tiles.change, unnest(places) AS place ORDER BY xid DESC LIMIT 1";
    assert!(shapes.tracked.db.value::<f64>(kept) < 0.0);
    assert_eq!(kinds(), ["GEOMETRYCOLLECTION"]);
    // Beyond the latitudes of the world, and with too many vertices for any cover: the box.
    shapes.change(&format!("INSERT INTO shape VALUES (4, 'far', ST_Segmentize(ST_Scale({LINE}, 1, 1.48), 0.1))"));
    shapes.change(
        "SELECT setseed(0.5); INSERT INTO shape SELECT 5, 'noise', ST_MakeLine(ST_SetSRID(ST_MakePoint(-60 + 100 * random(), 50 * random()), 4326)) FROM generate_series(1, 5000)",
    );
    assert_eq!(kinds(), ["GEOMETRYCOLLECTION", "POLYGON"]);
}

/// No position of a geometry is farther from the shape of its cover than the cover says.
#[test]
fn a_cover_holds_all_of_its_geometry() {
    let begin = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = std::env::var("TEST_SHAPES_SEED").map_or(begin, |seed| seed.parse().unwrap());
    let mut chance = Chance::new(seed);
    let shapes = Shapes::new("geometry", "0-1");
    shapes.install();
    let rows: Vec<String> = (1..60)
        .map(|id| {
            let shape = some_shape(&mut chance);
            format!("({id}, 'a', ST_Segmentize({shape}, (SELECT (ST_Length(g) + ST_Perimeter(g)) / (2100 + 300 * {id}) FROM (SELECT {shape} AS g) AS s)))")
        })
        .collect();
    shapes.tracked.db.run(&format!("INSERT INTO shape VALUES {}", rows.join(", ")));
    // In metres, too.
    shapes.tracked.db.run("INSERT INTO shape SELECT id + 100, name, ST_Transform(g, 3857) FROM shape WHERE id > 0 AND id < 60 AND ST_YMin(g) > -85 AND ST_YMax(g) < 85");
    // Of a hole outside of its outer ring, ST_Distance knows nothing.
    let pairs = "SELECT count(*), max((SELECT max(least(ST_Distance(geom, ST_GeometryN(place, 1)), ST_Distance(geom, ST_Boundary(ST_GeometryN(place, 1))))) FROM ST_DumpPoints(g)) / ST_X(ST_EndPoint(ST_GeometryN(place, 2)))), bool_and(ST_Equals(ST_GeometryN(place, 3), ST_Envelope(g)))
        FROM oar_tiles.change, unnest(places) AS place JOIN shape ON ST_Envelope(g) = ST_GeometryN(place, 3) AND ST_SRID(g) = ST_SRID(place)
        WHERE GeometryType(place) = 'GEOMETRYCOLLECTION'";
    let row = &shapes.tracked.db.rows(pairs)[0];
    let (count, far, boxed): (i64, f64, bool) = (row.get(0), row.get(1), row.get(2));
    assert!(count > 20 && boxed, "TEST_SHAPES_SEED={seed}: {count}");
    assert!(far <= 1.0, "TEST_SHAPES_SEED={seed}: {far}");
}

#[test]
fn a_log_of_before_shapes_were_noted_is_read_and_upgraded() {
    let shapes = Shapes::new("geometry", "0-6");
    shapes.install();
    // As it was: the branch that notes shapes is never taken.
    shapes.tracked.db.run(
        "DO $$ DECLARE text text := pg_get_functiondef('oar_tiles.note_1'::regproc); BEGIN
             EXECUTE replace(replace(text, 'NOT EXISTS (SELECT FROM oar_tiles_new OFFSET 100)', 'false'), 'NOT EXISTS (SELECT FROM oar_tiles_old OFFSET 100)', 'false');
             UPDATE oar_tiles.state SET layout = 2;
             UPDATE oar_tiles.watch SET noter_xmin = (SELECT xmin FROM pg_proc WHERE oid = noter);
         END $$",
    );
    shapes.seed();
    let insert = format!("INSERT INTO shape VALUES (1, 'a', {LINE})");
    let by_box = shapes.change(&insert);
    assert!(by_box.dirty.len() > 3 * by_box.differing.len(), "{} {}", by_box.dirty.len(), by_box.differing.len());
    // Noted before the upgrade, read after it.
    shapes.tracked.db.run("UPDATE shape SET name = 'b' WHERE id = 1");
    let upgraded = shapes.install();
    assert!(upgraded.contains("the triggers stay"), "{upgraded}");
    assert_eq!(shapes.tracked.db.value::<i32>("SELECT layout FROM oar_tiles.state"), 4);
    let both = shapes.change(&format!("INSERT INTO shape VALUES (2, 'a', {L})"));
    assert!(both.dirty.len() > by_box.differing.len());
    let by_shape = shapes.change("UPDATE shape SET name = 'c' WHERE id = 1");
    assert!(by_shape.dirty.len() < by_box.dirty.len() / 3, "{} {}", by_shape.dirty.len(), by_box.dirty.len());
    assert!(shapes.install().contains("nothing to do") || shapes.install().contains("installed"));
}

/// Some shape: a star, a line, a ring that crosses itself or is turned round, parts, holes; small, large, beyond the
/// edges of the world.
fn some_shape(chance: &mut Chance) -> String {
    let (x, y) = (chance.between(-185.0, 185.0), chance.between(-84.0, 84.0));
    let size = *chance.one_of(&[0.3, 5.0, 40.0]);
    let corners = 3 + chance.below(9);
    let places: Vec<String> = (0..corners)
        .map(|_| {
            format!("{} {}", x + chance.between(-size, size), (y + chance.between(-size, size)).clamp(-89.0, 89.0))
        })
        .collect();
    let ring = format!("({}, {})", places.join(", "), places[0]);
    let hull = format!("ST_ConvexHull(ST_GeomFromText('MULTIPOINT({})', 4326))", places.join(", "));
    match chance.below(7) {
        0 => format!("ST_GeomFromText('LINESTRING({})', 4326)", places.join(", ")),
        1 | 2 => format!("ST_GeomFromText('POLYGON({ring})', 4326)"),
        3 => hull,
        4 => format!("ST_Difference({hull}, ST_Scale({hull}, '0.5 0.5'::geometry, ST_Centroid({hull})))")
            .replace("'0.5 0.5'::geometry", "ST_MakePoint(0.5, 0.5)"),
        5 => format!("ST_Collect({hull}, ST_Translate({hull}, {}, 1))", 2.0 * size),
        _ => {
            let line = format!("ST_GeomFromText('LINESTRING({})', 4326)", places.join(", "));
            let crossed = format!("ST_GeomFromText('POLYGON({ring})', 4326)");
            format!("ST_Segmentize({}, {})", chance.one_of(&[&hull, &line, &crossed]), size / 800.0)
        }
    }
}

#[test]
fn after_any_change_of_shapes_a_reseed_equals_a_fresh_seed() {
    let begin = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = std::env::var("TEST_SHAPES_SEED").map_or(begin, |seed| seed.parse().unwrap());
    let mut chance = Chance::new(seed);
    let column = chance.one_of(&["geometry", "geometry(Geometry, 4326)"]);
    let shapes = Shapes::new(column, "0-6");
    shapes.install();
    shapes.seed();
    for round in 0..8 {
        let statements: Vec<String> = (0..5)
            .map(|_| {
                let (id, shape) = (1 + chance.below(12), some_shape(&mut chance));
                match chance.below(6) {
                    0..=2 => format!(
                        "INSERT INTO shape VALUES ({id}, 'a', {shape}) ON CONFLICT (id) DO UPDATE SET g = excluded.g"
                    ),
                    3 => format!("UPDATE shape SET g = ST_Translate(g, 1, 0.5) WHERE id = {id}"),
                    4 => format!("UPDATE shape SET name = name || '+' WHERE id = {id}"),
                    _ => format!("DELETE FROM shape WHERE id = {id}"),
                }
            })
            .collect();
        shapes.tracked.db.run(&statements.join(";\n"));
        shapes.tracked.reseed(&shapes.target, &["--config", &shapes.config]).ok();
        let fresh = shapes.tracked.seed("fresh.mbtiles", &["--config", &shapes.config]);
        let (found, fresh) = (Archive::open(&shapes.target).stored(), Archive::open(&fresh).stored());
        let wrong = differences(&found, &fresh);
        assert!(wrong.is_empty(), "TEST_SHAPES_SEED={seed}, round {round}: {wrong:?}\n{}", statements.join(";\n"));
    }
}

/// The tiles of many scattered changes show nearly all rows, and statements for each would take longer than a seed.
#[test]
fn tiles_of_many_changed_shapes_are_drawn_from_rows_that_are_read_once() {
    let tracked = Tracked { db: Db::new(), folder: tempfile::tempdir().unwrap() };
    tracked.db.run(include_str!("../rendering/cached_shapes.sql"));
    // Far enough apart for many tiles.
    for (table, column, step) in [("lines", "metres", 40_000.0), ("areas", "degrees", 0.3)] {
        tracked
            .db
            .run(&format!("UPDATE {table} SET {column} = ST_Translate({column}, id % 40 * {step}, id / 75 * {step})"));
    }
    tracked.db.run("CREATE TABLE spots (id int PRIMARY KEY, spot geometry(Point, 3857)); INSERT INTO spots SELECT id, ST_Centroid(metres) FROM areas; ANALYZE");
    let layers = [("lines", "metres"), ("areas", "degrees"), ("spots", "spot")].map(|(table, column)| {
        format!("[[layer]]\nname = \"{table}\"\ntable = \"{table}\"\ngeometry = \"{column}\"\nproperties = [\"id\"]\n")
    });
    let config = tracked.path("c.toml");
    std::fs::write(&config, layers.concat() + "[tileset]\nzoom = \"4-12\"\n").unwrap();
    let arguments = ["--config", config.to_str().unwrap(), "-vv"];
    tracked.oar_tiles(&["track", "install", "--config", config.to_str().unwrap()]).ok();
    let target = tracked.seed("t.mbtiles", &arguments);
    for (rows, are_read) in [("id % 500 = 3", false), ("id % 20 = 3", true)] {
        tracked.db.run(&format!(
            "UPDATE lines SET metres = ST_Translate(metres, 30, -40) WHERE {rows};
             UPDATE areas SET degrees = ST_Translate(degrees, 0.0003, 0.0004) WHERE {rows};
             UPDATE spots SET spot = ST_Translate(spot, 30, -40) WHERE {rows}"
        ));
        let reseed = [&["reseed", "--output", target.to_str().unwrap()], &arguments[..]].concat();
        let told = tracked.oar_tiles(&reseed).ok().stderr;
        assert!(!told.contains("rendering every tile"), "{told}");
        for table in ["lines", "areas"] {
            let of_layer = format!("layer \"{table}\": ");
            let is_read = told.lines().any(|line| line.contains(&of_layer) && line.contains(" rows are cached, "));
            assert_eq!(is_read, are_read, "{table}, {rows}:\n{told}");
        }
        tracked.is_fresh(&target, &arguments);
    }
}

/// The estimate is of use, but nothing depends on it.
#[test]
fn shapes_whose_number_cannot_be_estimated_are_drawn_tile_by_tile() {
    let tracked = Tracked { db: Db::new(), folder: tempfile::tempdir().unwrap() };
    tracked.db.run(
        "CREATE TABLE lines (id int PRIMARY KEY, shape geometry(LineString, 3857));
         INSERT INTO lines SELECT id, ST_Translate('SRID=3857;LINESTRING(0 0, 3000 4000)', id % 20 * 40000, id / 20 * 40000)
         FROM generate_series(1, 400) AS id; ANALYZE;
         CREATE FUNCTION first() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
             IF current_query() LIKE 'EXPLAIN SELECT FROM%' THEN RAISE 'on purpose'; END IF;
             RETURN 1;
         END $$",
    );
    let config = tracked.path("c.toml");
    let layer = "[[layer]]\nname = \"lines\"\ntable = \"lines\"\ngeometry = \"shape\"\nwhere = \"id >= first()\"\n";
    std::fs::write(&config, format!("{layer}[tileset]\nzoom = \"8-12\"\n")).unwrap();
    let arguments = ["--config", config.to_str().unwrap(), "-vv"];
    tracked.oar_tiles(&["track", "install", "--config", config.to_str().unwrap()]).ok();
    let target = tracked.seed("t.mbtiles", &arguments);
    tracked.db.run("UPDATE lines SET shape = ST_Translate(shape, 30, -40)");
    let reseed = [&["reseed", "--output", target.to_str().unwrap()], &arguments[..]].concat();
    let told = tracked.oar_tiles(&reseed).ok().stderr;
    assert!(
        told.contains("layer \"lines\": its rows are not read once, as their number cannot be estimated: ")
            && told.contains("on purpose"),
        "{told}"
    );
    tracked.is_fresh(&target, &arguments);
}
