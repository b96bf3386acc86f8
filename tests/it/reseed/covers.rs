//! Covers of large geometries in other reference systems than EPSG:4326 and 3857: dirty is every tile that the geometry
//! touches, and far fewer than its box does.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::histories::chance::Chance;
use crate::support::Db;
use crate::support::archive::Address;
use crate::support::program::{program, run};
use crate::support::tracked::{Tracked, listed};

/// A reference system, and a box in degrees in which it is used: west, south, east, north.
type System = (i32, [f64; 4]);

/// Conformal, of equal areas, oblique; metres, feet, degrees, grads from Paris.
const SYSTEMS: &[System] = &[
    (25832, [7.0, 51.5, 12.0, 54.0]),
    (2154, [-3.0, 44.0, 4.0, 46.0]),
    (27700, [-5.0, 53.0, -1.0, 57.0]),
    (3035, [14.0, 41.0, 24.0, 46.0]),
    (4258, [12.0, 58.0, 24.0, 67.0]),
    (2056, [7.0, 46.2, 9.5, 47.3]),
    (5070, [-110.0, 31.0, -90.0, 45.0]),
    (2263, [-74.5, 40.0, -73.0, 41.0]),
    (4269, [-135.0, 48.0, -115.0, 60.0]),
    (4807, [0.0, 47.5, 5.0, 49.0]),
];

/// Tables of shapes, one for each reference system, the log of their changes, and a target that follows it.
struct Large {
    tracked: Tracked,
    config: String,
    target: PathBuf,
}

impl Large {
    /// `column` is the type of the geometry columns, `{srid}` in it the system.
    fn new(systems: &[System], column: &str, zooms: &str) -> Large {
        let tracked = Tracked { db: Db::new(), folder: tempfile::tempdir().unwrap() };
        // A rectangle, so that the target has many tiles.
        tracked.db.run("CREATE TABLE ground (id int PRIMARY KEY, g geometry(Polygon, 4326)); INSERT INTO ground VALUES (1, ST_MakeEnvelope(-12, 36, 30, 70, 4326))");
        let mut config = format!("[tileset]\nzoom = \"{zooms}\"\n[[layer]]\nname = \"ground\"\ntable = \"ground\"\n");
        for (srid, _) in systems {
            let column = column.replace("{srid}", &srid.to_string());
            tracked.db.run(&format!("CREATE TABLE shape_{srid} (id int PRIMARY KEY, name text, g {column}); CREATE INDEX ON shape_{srid} USING gist (g)"));
            config += &format!("[[layer]]\nname = \"s{srid}\"\ntable = \"shape_{srid}\"\nproperties = [\"name\"]\n");
        }
        let path = tracked.path("c.toml");
        std::fs::write(&path, config).unwrap();
        let (config, target) = (path.to_str().unwrap().to_owned(), tracked.path("t.mbtiles"));
        Large { tracked, config, target }
    }

    fn install_and_seed(&self) {
        let url = &self.tracked.db.url;
        run(program().args(["track", "install", "--config", &self.config, "--database-url", url])).ok();
        self.tracked.seed("t.mbtiles", &["--config", &self.config]);
    }

    /// A reseed that leaves what a fresh seed would: the tiles that it rendered.
    #[track_caller]
    fn reseed(&self) -> BTreeSet<Address> {
        let dirty = self.tracked.path("dirty.txt");
        let arguments = ["--config", &self.config, "--dirty-out", dirty.to_str().unwrap()];
        self.tracked.reseed(&self.target, &arguments).ok();
        self.tracked.is_fresh(&self.target, &["--config", &self.config]);
        listed(&dirty)
    }

    /// The tiles of a zoom that the boxes of all shapes touch, and whether their shapes do.
    fn touched(&self, systems: &[System], zoom: u8) -> (BTreeSet<Address>, usize) {
        let all = systems.iter().map(|(srid, _)| match srid {
            // What reaches beyond ±180° is cut there before it is drawn, where PostGIS alone draws edges across the
            // world.
            4258 | 4269 => format!(
                "SELECT ST_Transform(ST_SetSRID(ST_ClipByBox2D(ST_Translate(g, turn, 0), ST_MakeEnvelope(-180, -90, 180, 90)), {srid}), 3857)
                 FROM shape_{srid}, unnest(ARRAY[-360, 0, 360]) AS turn WHERE id = 1
                 AND ST_XMin(g) + turn < 180 AND ST_XMax(g) + turn > -180"
            ),
            _ => format!("SELECT ST_Transform(g, 3857) FROM shape_{srid} WHERE id = 1"),
        });
        let all = all.collect::<Vec<_>>().join(" UNION ALL ");
        let (half, tiles, last) =
            (20_037_508.342_789_244, 2.0 * 20_037_508.342_789_244 / f64::from(1_u32 << zoom), (1 << zoom) - 1);
        let number = |metres: String| format!("greatest(0, least({last}, floor(({metres}) / {tiles})))::int");
        let [west, east, north, south] = [
            format!("ST_XMin(m) + {half}"),
            format!("ST_XMax(m) + {half}"),
            format!("{half} - ST_YMax(m)"),
            format!("{half} - ST_YMin(m)"),
        ]
        .map(number);
        let sql = format!(
            "SELECT x, y, bool_or(ST_Intersects(m, ST_TileEnvelope({zoom}, x, y)))
             FROM ({all}) AS shapes (m), generate_series({west}, {east}) AS x, generate_series({north}, {south}) AS y GROUP BY x, y"
        );
        let rows = self.tracked.db.rows(&sql);
        let touched = rows.iter().filter(|row| row.get(2));
        let number = |row: &tokio_postgres::Row, column: usize| u32::try_from(row.get::<_, i32>(column)).unwrap();
        (touched.map(|row| (zoom, number(row, 0), number(row, 1))).collect(), rows.len())
    }
}

/// A line or polygon of more than 32 kB somewhere in the box of a reference system: an expression.
fn large_shape((srid, [west, south, east, north]): System, chance: &mut Chance) -> String {
    let (width, height) = ((east - west) / 2.0, (north - south) / 2.0);
    let (x, y) = (f64::midpoint(west, east), f64::midpoint(south, north));
    let part = chance.between(0.3, 0.7);
    let (rx, ry) = (width * part, height * part);
    let (cx, cy) = (x + chance.between(-0.2, 0.2) * width, y + chance.between(-0.2, 0.2) * height);
    let (vertices, waves, turn) = (2200 + chance.below(1800), 2 + chance.below(5), chance.between(0.0, 6.3));
    // Some noise, which decides which vertices a cover leaves out.
    let at = format!("((n % {vertices}) / {vertices}.0)");
    let noise = format!("0.004 * sin((n % {vertices}) * 12.9898)");
    let (dx, dy) = if chance.often(30) {
        // Along a diagonal.
        (format!("2 * {at} - 1 + {noise}"), format!("1 - 2 * {at} + 0.1 * sin({waves} * 6.2831853 * {at}) + {noise}"))
    } else {
        let radius = format!("(1 + 0.3 * sin({waves} * 6.2831853 * {at} + {turn}) + {noise})");
        (format!("{radius} * cos(6.2831853071795865 * {at})"), format!("{radius} * sin(6.2831853071795865 * {at})"))
    };
    let is_ring = dx.contains("cos");
    let vertex =
        format!("ST_Transform(ST_SetSRID(ST_MakePoint({cx} + {rx} * ({dx}), {cy} + {ry} * ({dy})), 4326), {srid})");
    let last = if is_ring { vertices } else { vertices - 1 };
    let line = format!("(SELECT ST_MakeLine({vertex} ORDER BY n) FROM generate_series(0, {last}) AS n)");
    match (is_ring, chance.below(3)) {
        (true, 0) => format!("ST_MakePolygon({line})"),
        (true, 1) => format!("ST_Multi(ST_MakePolygon({line}))"),
        _ => line,
    }
}

#[test]
fn in_any_reference_system_a_large_shape_dirties_the_tiles_that_it_touches() {
    let begin = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = std::env::var("TEST_SHAPES_SEED").map_or(begin, |seed| seed.parse().unwrap());
    let mut chance = Chance::new(seed);
    let column = *chance.one_of(&["geometry(Geometry, {srid})", "geometry"]);
    let large = Large::new(SYSTEMS, column, "0-9");
    for system in SYSTEMS {
        let (srid, shape) = (system.0, large_shape(*system, &mut chance));
        // Another row, so that a column which declares no system tells it to the end.
        let [west, south, ..] = system.1;
        let small = format!(
            "ST_Transform(ST_SetSRID(ST_MakeLine(ST_MakePoint({west}, {south}), ST_MakePoint({west} + 0.01, {south})), 4326), {srid})"
        );
        large.tracked.db.run(&format!("INSERT INTO shape_{srid} VALUES (1, 'a', {shape}), (2, 'small', {small})"));
    }
    large.install_and_seed();
    let each = |statement: &str| {
        let all = SYSTEMS.iter().map(|(srid, _)| statement.replace("shape", &format!("shape_{srid}")));
        large.tracked.db.run(&all.collect::<Vec<_>>().join(";\n"));
    };
    let check = |what: &str, touched: &BTreeSet<Address>, of_boxes: usize| {
        let dirty: BTreeSet<Address> = large.reseed().into_iter().filter(|tile| tile.0 == 9).collect();
        let missed: Vec<_> = touched.difference(&dirty).collect();
        assert!(missed.is_empty(), "TEST_SHAPES_SEED={seed}, {what}: {missed:?}");
        let counts = format!(
            "TEST_SHAPES_SEED={seed}, {what}: {} dirty, {} touched, {of_boxes} of boxes",
            dirty.len(),
            touched.len()
        );
        println!("{counts}");
        assert!(touched.len() > 150 && dirty.len() < touched.len() * 2, "{counts}");
    };
    let (old, of_boxes) = large.touched(SYSTEMS, 9);
    each("UPDATE shape SET name = 'b' WHERE id = 1");
    check("renamed", &old, of_boxes);
    for (srid, area) in SYSTEMS {
        let shape = large_shape((*srid, *area), &mut chance);
        large.tracked.db.run(&format!("UPDATE shape_{srid} SET g = {shape} WHERE id = 1"));
    }
    let (new, more) = large.touched(SYSTEMS, 9);
    check("moved", &old.union(&new).copied().collect(), of_boxes + more);
    each("DELETE FROM shape WHERE id = 1");
    check("deleted", &new, more);
    let kinds = "SELECT string_agg(DISTINCT GeometryType(place), ' '), max(ST_MemSize(place)), count(DISTINCT ST_SRID(place)) FROM oar_tiles.change, unnest(places) AS place";
    let row = &large.tracked.db.rows(kinds)[0];
    let (kinds, most, systems): (String, i32, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!((kinds.as_str(), systems), ("GEOMETRYCOLLECTION", 10));
    assert!(most < 26_000, "{most}");
}

/// A line from the west to the east of the world's middle, with an own second vertex, and large: an expression.
fn odd_line(srid: i32, x: &str, y: &str) -> String {
    format!(
        "(SELECT ST_SetSRID(ST_MakeLine(CASE n WHEN 1400 THEN ST_MakePoint({x}, {y}) ELSE ST_MakePoint(8 + n * 0.0001, 50 + sin(n)) END ORDER BY n), {srid}) FROM generate_series(1, 2800) AS n)"
    )
}

#[test]
fn no_geometry_keeps_a_writer_from_writing() {
    const ODD: [[&str; 2]; 8] = [
        ["'NaN'", "50"],
        ["8", "'NaN'"],
        ["'Infinity'", "50"],
        ["'-Infinity'", "'Infinity'"],
        ["1.7e308", "50"],
        ["8", "1e12"],
        ["9e8", "-9e8"],
        ["8", "50"],
    ];
    let systems: Vec<System> = [25832, 4258, 4326, 3857].map(|srid| (srid, [0.0; 4])).to_vec();
    for column in ["geometry(Geometry, {srid})", "geometry"] {
        let large = Large::new(&systems, column, "0-2");
        large.install_and_seed();
        for srid in systems.iter().map(|(srid, _)| *srid) {
            let mut shapes: Vec<String> = ODD.iter().map(|[x, y]| odd_line(srid, x, y)).collect();
            // From one end of what a number can be to the other.
            shapes.push(format!("ST_AddPoint({}, ST_MakePoint(-1.7e308, 50))", odd_line(srid, "1.7e308", "0")));
            let lines = shapes.clone();
            shapes.extend(lines.iter().map(|line| format!("ST_Points({line})")));
            shapes
                .extend(lines.iter().map(|line| format!("ST_MakePolygon(ST_AddPoint({line}, ST_StartPoint({line})))")));
            let force = if column == "geometry" { "ST_Force3DZ" } else { "ST_Force2D" };
            shapes.extend(lines.iter().map(|line| format!("ST_Multi({force}({line}))")));
            shapes.extend(lines.iter().map(|line| format!("ST_Collect(ARRAY[{line}, {line}, {line}])")));
            shapes.push(format!(
                "(SELECT ST_MakeLine(ST_SetSRID(ST_MakePoint(8, 50), {srid})) FROM generate_series(1, 3000))"
            ));
            shapes.push(format!("(SELECT ST_LineToCurve(ST_MakePolygon(ST_MakeLine(ST_SetSRID(ST_MakePoint(8 + cos((n % 4000) / 636.6), 50 + sin((n % 4000) / 636.6)), {srid}) ORDER BY n))) FROM generate_series(0, 4000) AS n)"));
            shapes.push(format!(
                "ST_SetSRID('GEOMETRYCOLLECTION(POINT(8 50), LINESTRING(0 0, 1 0), POINT(8 50))'::geometry, {srid})"
            ));
            shapes.push(format!(
                "ST_SetSRID('GEOMETRYCOLLECTION(POINT EMPTY, LINESTRING EMPTY, POINT EMPTY)'::geometry, {srid})"
            ));
            shapes.push(format!("ST_SetSRID('TIN(((0 0, 0 1, 1 1, 0 0)))'::geometry, {srid})"));
            for (id, shape) in (1..).zip(&shapes) {
                large.tracked.db.run(&format!("INSERT INTO shape_{srid} VALUES ({id}, 'a', {shape})"));
            }
            for statement in [
                "UPDATE shape SET name = 'b'",
                "UPDATE shape SET g = ST_Translate(g, 1, 0)",
                "UPDATE shape SET g = ST_Reverse(g) WHERE id = 1",
                "TRUNCATE shape",
            ] {
                large.tracked.db.run(&statement.replace("shape", &format!("shape_{srid}")));
            }
            // More than a hundred in a statement are noted in another way.
            large.tracked.db.run(&format!("INSERT INTO shape_{srid} SELECT n, 'a', {} FROM generate_series(1, 101) AS n; DELETE FROM shape_{srid}", shapes[0]));
        }
        let most = "SELECT max(ST_MemSize(place)) FROM oar_tiles.change, unnest(places) AS place";
        assert!(large.tracked.db.value::<i32>(most) < 33_000);
        // Nothing is left of all that, and a reseed knows.
        large.reseed();
    }
}

/// A collection that reads like a cover, and another one.
#[test]
fn a_collection_of_three_is_no_cover() {
    let systems: &[System] = &[(25832, [5.0, 45.0, 12.0, 55.0])];
    let large = Large::new(systems, "geometry(Geometry, {srid})", "0-9");
    large.install_and_seed();
    for collection in [
        "LINESTRING(5e5 5.7e6, 5.01e5 5.7e6), LINESTRING(0 0, 9e5 0), POLYGON((4e5 5.6e6, 4e5 5.8e6, 6e5 5.8e6, 6e5 5.6e6, 4e5 5.6e6))",
        "LINESTRING(5e5 5.7e6, 5.01e5 5.7e6), LINESTRING(3e5 5.6e6, 6e5 5.5e6), POINT(4e5 5.6e6)",
    ] {
        large.tracked.db.run(&format!(
            "INSERT INTO shape_25832 VALUES (1, 'a', ST_SetSRID('GEOMETRYCOLLECTION({collection})'::geometry, 25832))"
        ));
        let (touched, _) = large.touched(systems, 9);
        let dirty = large.reseed();
        assert!(touched.len() > 5 && touched.is_subset(&dirty), "{collection}: {touched:?} {dirty:?}");
        large.tracked.db.run("DELETE FROM shape_25832");
        assert!(touched.is_subset(&large.reseed()), "{collection}");
    }
}

/// Around a pole, across ±180°, beside the end of the reference system, beyond the end of the world: whatever a cover
/// says, all tiles are found.
#[test]
fn where_a_cover_says_nothing_its_box_or_the_world_is_dirty() {
    let begin = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let seed = std::env::var("TEST_SHAPES_SEED").map_or(begin, |seed| seed.parse().unwrap());
    let mut chance = Chance::new(seed);
    let systems: &[System] = &[
        (3413, [-170.0, 60.0, 170.0, 80.0]),
        (2193, [172.0, -46.0, 186.0, -36.0]),
        (32660, [176.0, 40.0, 184.0, 60.0]),
        (4258, [-179.0, -85.0, 179.0, 89.5]),
        (4269, [170.0, 50.0, 195.0, 70.0]),
        (3035, [-60.0, 20.0, 80.0, 84.0]),
        (5070, [-170.0, 10.0, -20.0, 84.0]),
    ];
    let large = Large::new(systems, "geometry(Geometry, {srid})", "0-4");
    large.install_and_seed();
    let mut shapes: Vec<(System, String)> =
        systems.iter().map(|system| (*system, large_shape(*system, &mut chance))).collect();
    // Near the end of what PROJ transforms, a circle around 4321000 3210000: a vertex moved lies beyond, and so does a
    // corner of the box of the second.
    let end = |at: &str| {
        format!(
            "(SELECT ST_MakeLine(ST_SetSRID(ST_MakePoint({at}), 3035) ORDER BY n) FROM generate_series(0, 3000) AS n)"
        )
    };
    let around = systems[5];
    shapes.push((around, end("4321000 + 12.5e6 * n / 3000, 3210000 + sin(n)")));
    shapes.push((around, end("4321000 + 12.5e6 * cos(n / 2000.0), 3210000 + 12.5e6 * sin(n / 2000.0)")));
    // A line that reaches beyond 180°.
    let radius =
        "(1 + 0.3 * sin(6 * 6.2831853 * ((n % 3265) / 3265.0) + 3.11036461088087) + 0.004 * sin((n % 3265) * 12.9898))";
    let turn = "(6.2831853071795865 * ((n % 3265) / 3265.0))";
    shapes.push((systems[3], format!(
        "(SELECT ST_MakeLine(ST_Transform(ST_SetSRID(ST_MakePoint(30.319192238039335 + 122.04863457741072 * {radius} * cos{turn}, -2.995344468276592 + 59.49018640714573 * {radius} * sin{turn}), 4326), 4258) ORDER BY n) FROM generate_series(0, 3265) AS n)"
    )));
    for (system, shape) in shapes {
        let srid = system.0;
        // Longitudes beyond 180° stay as they are in a system of degrees.
        let shape = if srid == 4269 {
            shape.replace("ST_Transform(ST_SetSRID(", "(ST_SetSRID(").replace("4326), 4269)", "4269))")
        } else {
            shape
        };
        let mut before = BTreeSet::new();
        for statement in [
            format!("INSERT INTO shape_{srid} VALUES (1, 'a', {shape})"),
            format!("UPDATE shape_{srid} SET name = 'b'"),
            format!("DELETE FROM shape_{srid}"),
        ] {
            large.tracked.db.run(&statement);
            let (touched, _) = large.touched(&[system], 4);
            let dirty = large.reseed();
            let missed: Vec<_> = touched.union(&before).filter(|tile| !dirty.contains(tile)).collect();
            assert!(missed.is_empty(), "TEST_SHAPES_SEED={seed}, {statement}: {missed:?}");
            assert!(srid == 4269 || touched.len() + before.len() > 2, "{statement}");
            before = touched;
        }
    }
}
