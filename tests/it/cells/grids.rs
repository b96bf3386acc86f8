//! Cells: every tile is what a slow query of another making gives, which joins real
//! polygons with the rows; the counts of each zoom add up; a cell reads the same in every tile that shows it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use oar_tiles::mvt::decode;

use crate::support::archive::Address;
use crate::support::{Archive, Db, seed, shared_data};

/// A layer of cells for the slow query.
#[derive(Clone, Copy)]
struct Slow<'a> {
    name: &'a str,
    table: &'a str,
    geometry: &'a str,
    /// How a cell is drawn, as in the configuration.
    cell: &'a str,
    draw: &'a str,
    /// How the edges of hexagons run, as in the configuration.
    edges: &'a str,
    /// Cells along a tile.
    along: u32,
    /// The properties: names and aggregates.
    properties: &'a [(&'a str, &'a str)],
    buffer: u32,
}

const COUNT: &[(&str, &str)] = &[("count", "count(*)")];

const GRID: Slow<'_> = Slow {
    name: "grid",
    table: "api_facility",
    geometry: "location",
    cell: "hexagon",
    draw: "center",
    edges: "mercator",
    along: 8,
    properties: COUNT,
    buffer: 256,
};

impl Slow<'_> {
    fn config(&self) -> String {
        let Slow { name, table, geometry, cell, draw, edges, along, buffer, .. } = self;
        let mut properties = String::new();
        for (name, sql) in self.properties {
            write!(properties, "{name} = {sql:?}, ").unwrap();
        }
        format!(
            "[[layer]]\nname = \"{name}\"\ntable = \"{table}\"\ngeometry = \"{geometry}\"\nkey = [\"id\"]\nbuffer = {buffer}
             [layer.aggregate]\ncell = \"{cell}\"\nsize = \"1/{along}\"\ndraw = \"{draw}\"\nedges = \"{edges}\"\nproperties = {{ {properties} }}\n"
        )
    }

    /// A query that gives the cells of a zoom that may hold a row, as polygons: `a`, `b`, `cell`.
    fn polygons(&self) -> String {
        match self.cell {
            "square" => "SELECT DISTINCT a, b, ST_MakeEnvelope(a * w - 20037508.342789244, 20037508.342789244 - (b + 1) * w, (a + 1) * w - 20037508.342789244, 20037508.342789244 - b * w, 3857) AS cell
                FROM places, generate_series(floor((x + 20037508.342789244) / w)::int - 1, floor((x + 20037508.342789244) / w)::int + 1) AS a,
                    generate_series(floor((20037508.342789244 - y) / w)::int - 1, floor((20037508.342789244 - y) / w)::int + 1) AS b".to_owned(),
            // The lowest corner is at (i·w, j·√3·w) or half a step further in both; then round it goes.
            _ => "SELECT a, b, ST_SetSRID(ST_MakePolygon(ST_MakeLine(ARRAY[
                    ST_MakePoint(x0, y0), ST_MakePoint(x0 + w / 2, y0 + s / 2), ST_MakePoint(x0 + w / 2, y0 + s * 1.5), ST_MakePoint(x0, y0 + s * 2),
                    ST_MakePoint(x0 - w / 2, y0 + s * 1.5), ST_MakePoint(x0 - w / 2, y0 + s / 2), ST_MakePoint(x0, y0)])), 3857) AS cell
                FROM (SELECT DISTINCT 2 * i + h AS a, 2 * j + h AS b, (i + h / 2.0) * w AS x0, (j + h / 2.0) * sqrt(3) * w AS y0, w, w / sqrt(3) AS s
                    FROM places, generate_series(0, 1) AS h, generate_series(floor(x / w)::int - 1, floor(x / w)::int + 1) AS i,
                        generate_series(floor(y / (w * sqrt(3)))::int - 1, floor(y / (w * sqrt(3)))::int + 1) AS j) AS lattice".to_owned(),
        }
        .replace("places,", &format!("\"{}_places\" AS places, LATERAL (SELECT {{w}} AS w) AS width,", self.name))
    }

    /// Every tile of some zooms as the slow query gives it.
    fn tiles(&self, db: &Db, zooms: std::ops::RangeInclusive<u8>) -> BTreeMap<Address, Vec<u8>> {
        let Slow { name, table, geometry, draw, edges, along, buffer, .. } = *self;
        db.run(&format!(
            "CREATE TABLE \"{name}_places\" AS SELECT *, ST_X(p) AS x, ST_Y(p) AS y, floor((ST_X(p) + 20037508.342789244) / 40075016.685578488 * 4294967296)::bigint AS ux,
                 floor((20037508.342789244 - ST_Y(p)) / 40075016.685578488 * 4294967296)::bigint AS uy
             FROM (SELECT *, ST_SetSRID(ST_MakePoint((ST_XMin(m) + ST_XMax(m)) / 2, (ST_YMin(m) + ST_YMax(m)) / 2), 3857) AS p
                 FROM (SELECT *, ST_Transform({geometry}::geometry, 3857) AS m FROM {table}) AS r) AS r WHERE abs(ST_Y(p)) < 20037508.3;
             CREATE INDEX ON \"{name}_places\" USING gist (p)"
        ));
        let properties: String = self.properties.iter().fold(String::new(), |mut text, (name, sql)| {
            write!(text, ", {sql} AS \"{name}\"").unwrap();
            text
        });
        let names: String = self.properties.iter().map(|(name, _)| format!(", \"{name}\"")).collect();
        let standing = match draw {
            "center" => "ST_Centroid(cell)",
            "polygon" => "cell",
            _ => {
                "ST_SetSRID(ST_MakePoint((div(sum(ux), count(*)) + 0.5) / 4294967296 * 40075016.685578488 - 20037508.342789244, 20037508.342789244 - (div(sum(uy), count(*)) + 0.5) / 4294967296 * 40075016.685578488), 3857)"
            }
        };
        // A polygon of the same corners in degrees. Not by ST_Transform, which moves corners beyond ±180° to the other side
        // of the world.
        db.run("CREATE OR REPLACE FUNCTION in_degrees(g geometry) RETURNS geometry LANGUAGE sql IMMUTABLE AS 'SELECT CASE WHEN ST_GeometryType(g) = ''ST_Point'' THEN ST_MakePoint(ST_X(g), degrees(atan(sinh(ST_Y(g) / 6378137))))
            ELSE ST_MakePolygon(ST_MakeLine(ARRAY(SELECT ST_MakePoint(ST_X(geom), degrees(atan(sinh(ST_Y(geom) / 6378137)))) FROM ST_DumpPoints(g) ORDER BY path))) END'");
        let is_in = if edges == "degrees" {
            "cell && p AND ST_Intersects(in_degrees(cell), in_degrees(p))"
        } else {
            "ST_Intersects(cell, p)"
        };
        let mut tiles: BTreeMap<Address, Vec<u8>> = BTreeMap::new();
        for zoom in zooms {
            let side = 40_075_016.685_578_49 / f64::from(1_u32 << zoom);
            let polygons = self.polygons().replace("{w}", &format!("{:?}::float8", side / f64::from(along)));
            // A point on an edge goes to the cell with the greatest numbers, as a floor does.
            let standing_table = format!("\"{name}_{zoom}\"");
            db.run(&format!(
                "CREATE TABLE {standing_table} AS WITH cells AS MATERIALIZED ({polygons}),
                 member AS MATERIALIZED (SELECT DISTINCT ON (r.id) r.*, a, b, cell FROM \"{name}_places\" AS r JOIN cells ON {is_in} ORDER BY r.id, a DESC, b DESC)
                 SELECT a, b, {standing} AS stands{properties} FROM member GROUP BY a, b, cell;
                 CREATE INDEX ON {standing_table} USING gist (stands); ANALYZE {standing_table}"
            ));
            // No buffer here is wider than a fifteenth of a tile.
            let sql = format!(
                "WITH tile AS (SELECT DISTINCT tx, ty FROM {standing_table},
                     generate_series(greatest(0, floor((ST_XMin(stands) + 20037508.342789244) / {side:?} - 0.07)::int), least({last}, floor((ST_XMax(stands) + 20037508.342789244) / {side:?} + 0.07)::int)) AS tx,
                     generate_series(greatest(0, floor((20037508.342789244 - ST_YMax(stands)) / {side:?} - 0.07)::int), least({last}, floor((20037508.342789244 - ST_YMin(stands)) / {side:?} + 0.07)::int)) AS ty)
                 SELECT tx, ty, mvt FROM tile CROSS JOIN LATERAL (
                     SELECT ST_AsMVT(t, '{name}', 4096, 'geom') AS mvt FROM (
                         SELECT ST_AsMVTGeom(stands, ST_TileEnvelope({zoom}, tx, ty), 4096, {buffer}, true) AS geom{names} FROM {standing_table}
                         WHERE stands && ST_Expand(ST_TileEnvelope({zoom}, tx, ty), {side:?} * 0.07) ORDER BY a, b) AS t WHERE geom IS NOT NULL) AS drawn
                 WHERE length(mvt) > 0",
                last = (1_u32 << zoom) - 1,
            );
            for row in db.rows(&sql) {
                let (x, y): (i32, i32) = (row.get(0), row.get(1));
                tiles.entry((zoom, x as u32, y as u32)).or_default().extend_from_slice(row.get(2));
            }
        }
        tiles
    }
}

/// The layers as a configuration file.
fn config(folder: &Path, zooms: &str, layers: &[String]) -> String {
    let path = folder.join("cells.toml");
    std::fs::write(&path, format!("[tileset]\nzoom = \"{zooms}\"\n{}", layers.concat())).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Seeds the layers and compares every tile; gives how many there are.
#[track_caller]
fn compare(db: &Db, layers: &[Slow<'_>], zooms: std::ops::RangeInclusive<u8>) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    let texts: Vec<String> = layers.iter().map(Slow::config).collect();
    let list = format!("{}-{}", zooms.start(), zooms.end());
    let run = seed(&db.url, &output, &["--config", &config(folder.path(), &list, &texts)]).ok();
    let found = Archive::open(&output).tiles();
    let mut expected: BTreeMap<Address, Vec<u8>> = BTreeMap::new();
    for layer in layers {
        for (tile, bytes) in layer.tiles(db, zooms.clone()) {
            expected.entry(tile).or_default().extend(bytes);
        }
    }
    let missing: Vec<_> = expected.keys().filter(|tile| !found.contains_key(tile)).take(5).collect();
    let ghosts: Vec<_> = found.keys().filter(|tile| !expected.contains_key(tile)).take(5).collect();
    assert_eq!((missing, ghosts), (vec![], vec![]), "missing tiles and ghosts\n{}", run.stderr);
    let different: Vec<_> =
        found.iter().filter(|(tile, bytes)| expected[tile] != **bytes).map(|(tile, _)| tile).collect();
    if let Some(tile) = different.first() {
        let (found, expected) = (decode(&found[tile]).unwrap(), decode(&expected[tile]).unwrap());
        panic!("{} tiles differ, such as {tile:?}:\n{found:?}\n{expected:?}", different.len());
    }
    found.len()
}

#[test]
fn generated_facilities_in_cells_of_every_kind_are_what_the_slow_query_gives() {
    let db = Db::with_facilities(700);
    let named: &[(&str, &str)] = &[
        ("count", "count(*)"),
        ("countries", "count(DISTINCT country_code)"),
        ("names", "string_agg(left(name, 3), '' ORDER BY id)"),
    ];
    let tiles =
        compare(&db, &[GRID, Slow { name: "means", cell: "square", draw: "centroid", along: 16, ..GRID }], 0..=14);
    assert!(tiles > 4_000, "{tiles}");
    let layers = [
        Slow { name: "hexagons", draw: "polygon", properties: named, along: 4, ..GRID },
        Slow { name: "squares", cell: "square", draw: "polygon", along: 2, buffer: 64, ..GRID },
        Slow { name: "named", cell: "square", draw: "centroid", along: 8, properties: named, ..GRID },
        Slow { name: "tile", cell: "square", draw: "center", along: 1, properties: named, ..GRID },
    ];
    compare(&db, &layers, 0..=8);
}

/// Places all over the world, so that some lie between the edges of both kinds.
#[test]
fn hexagons_with_edges_straight_in_degrees_are_what_the_slow_query_gives() {
    let db = Db::new();
    db.run("CREATE TABLE places AS SELECT i AS id, ST_SetSRID(ST_MakePoint(i * 137.50776405 % 360 - 180, degrees(asin(i / 1500.0 * 1.98 - 0.99))), 4326) AS location FROM generate_series(1, 1500) AS i;
        ALTER TABLE places ADD PRIMARY KEY (id); CREATE INDEX ON places USING gist (location)");
    let summed: &[(&str, &str)] = &[("count", "count(*)"), ("ids", "string_agg(id::text, ',' ORDER BY id)")];
    let bent = Slow { table: "places", edges: "degrees", ..GRID };
    let layers = [
        Slow { name: "counted", ..bent },
        Slow { name: "drawn", draw: "polygon", properties: summed, ..bent },
        Slow { name: "mean", draw: "centroid", along: 9, ..bent },
        Slow { name: "straight", edges: "mercator", properties: summed, ..bent },
    ];
    compare(&db, &layers, 0..=6);
    let moved = |zoom: u8| {
        let sql = "SELECT count(*) FROM drawn_{z} AS one FULL JOIN straight_{z} AS other USING (a, b) WHERE one.ids IS DISTINCT FROM other.ids";
        db.value::<i64>(&sql.replace("{z}", &zoom.to_string()))
    };
    assert!(moved(0) > moved(2) && moved(2) > 0, "{} {}", moved(0), moved(2));
}

#[test]
fn real_facilities_in_cells_are_what_the_slow_query_gives() {
    for file in ["facilities.csv", "facilities-later.csv"] {
        let Some(csv) = shared_data(file) else { return };
        let db = Db::with_csv(&csv);
        let squares = Slow { name: "squares", cell: "square", draw: "centroid", ..GRID };
        let tiles = compare(&db, &[GRID, squares], 0..=14);
        assert!(tiles > 3_000, "{tiles}");
    }
}

/// Rows in other reference systems, geographies, and geometries that are no points: they lie in the middle of their
/// boxes.
const ELSEWHERE: &str = "
    CREATE TABLE degrees AS SELECT i AS id, ST_SetSRID(ST_MakePoint(6 + (i * 37 % 101) / 25.0, 46 + (i * 53 % 103) / 60.0), 4326) AS g FROM generate_series(1, 400) AS i;
    CREATE TABLE swiss AS SELECT id, ST_Transform(g, 2056) AS g FROM degrees;
    CREATE TABLE geographies AS SELECT id, g::geography(Point, 4326) AS g FROM degrees;
    CREATE TABLE shapes AS SELECT id, CASE id % 3 WHEN 0 THEN ST_Buffer(ST_Transform(g, 3857), 500 + id * 40) WHEN 1 THEN ST_Transform(ST_MakeLine(g, ST_Translate(g, 0.3, 0.1)), 3857) ELSE ST_Transform(g, 3857) END AS g FROM degrees;
    ALTER TABLE swiss ADD PRIMARY KEY (id); ALTER TABLE geographies ADD PRIMARY KEY (id); ALTER TABLE shapes ADD PRIMARY KEY (id);
    CREATE INDEX ON swiss USING gist (g); CREATE INDEX ON geographies USING gist (g); CREATE INDEX ON shapes USING gist (g);";

#[test]
fn rows_in_any_reference_system_and_of_any_kind_are_put_together() {
    let db = Db::new();
    db.run(ELSEWHERE);
    let of: &[(&str, &str)] = &[("count", "count(*)"), ("ids", "sum(id)")];
    for (table, cell, draw) in [
        ("swiss", "hexagon", "center"),
        ("swiss", "square", "centroid"),
        ("geographies", "hexagon", "polygon"),
        ("geographies", "square", "center"),
        ("shapes", "square", "centroid"),
        ("shapes", "hexagon", "center"),
    ] {
        for (name, properties) in [("counted", COUNT), ("summed", of)] {
            let name = format!("{name} {table} {cell}");
            let layer =
                Slow { name: &name, table, geometry: "g", cell, draw, along: 4, properties, buffer: 64, ..GRID };
            compare(&db, &[layer], 0..=8);
        }
    }
}

/// The properties of cells and lone rows, by where they stand and their id.
type CellsByPlace = BTreeMap<((i64, i64), Option<String>), BTreeMap<String, String>>;

/// Where a feature stands, and its properties.
type ShownCell = ((i64, i64), BTreeMap<String, String>);

/// The features of a layer in every tile of an archive: where each stands, in units of the zoom's grid from its
/// north-west corner, and its properties.
fn shown(archive: &Path, layer: &str) -> BTreeMap<u8, Vec<ShownCell>> {
    let mut zooms: BTreeMap<u8, Vec<_>> = BTreeMap::new();
    for ((zoom, x, y), raw) in Archive::open(archive).tiles() {
        for decoded in decode(&raw).unwrap().iter().filter(|decoded| decoded.name == layer) {
            for feature in &decoded.features {
                let at = feature.geometry.positions().next().unwrap();
                let at = (i64::from(x) * 4096 + i64::from(at[0]), i64::from(y) * 4096 + i64::from(at[1]));
                let properties =
                    decoded.properties(feature).map(|(name, value)| (name.to_owned(), format!("{value:?}")));
                zooms.entry(zoom).or_default().push((at, properties.collect()));
            }
        }
    }
    zooms
}

fn number(value: &str) -> i64 {
    value.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or_else(|_| panic!("{value}"))
}

/// Asserts that a cell reads the same wherever it is shown, and that the counts of each zoom add up to `total`.
#[track_caller]
fn adds_up(archive: &Path, layer: &str, count: &str, total: i64) {
    let zooms = shown(archive, layer);
    assert_eq!(zooms.keys().copied().collect::<Vec<u8>>(), (0..=14).collect::<Vec<u8>>());
    for (zoom, features) in zooms {
        let mut cells: CellsByPlace = BTreeMap::new();
        for (at, properties) in features {
            // Single rows may share a place.
            let known = cells.entry((at, properties.get("id").cloned())).or_insert_with(|| properties.clone());
            assert_eq!(*known, properties, "zoom {zoom}, {at:?}");
        }
        let sum: i64 = cells.values().map(|properties| properties.get(count).map_or(1, |value| number(value))).sum();
        assert_eq!(sum, total, "zoom {zoom}");
    }
}

#[test]
fn the_counts_of_every_zoom_add_up_and_a_cell_reads_the_same_in_every_tile() {
    let real = ["facilities.csv", "facilities-later.csv"].into_iter().filter_map(shared_data);
    let databases = real.map(|csv| Db::with_csv(&csv)).chain([Db::with_facilities(1_500)]);
    for db in databases {
        // The edges of the world, and where three hexagons meet.
        db.run("INSERT INTO api_facility SELECT 'E' || n, '', '', 'XX', ST_SetSRID(ST_MakePoint(x, y), 4326), false, now(), now()
                FROM (VALUES (1, 180, 0), (2, -180, 0), (3, 0, 0), (4, 0, 85.05), (5, 180, -85.05), (6, -180, 85.05), (7, 179.9999, 60.1), (8, -179.9999, 60.1)) AS edge (n, x, y)");
        let total = db.value::<i64>("SELECT count(*) FROM api_facility");
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("t.mbtiles");
        let hexagons = Slow { name: "hexagons", ..GRID };
        let squares = Slow { name: "squares", cell: "square", along: 8, ..GRID };
        let texts = [hexagons.config(), squares.config()];
        seed(&db.url, &output, &["--config", &config(folder.path(), "0-14", &texts)]).ok();
        adds_up(&output, "hexagons", "count", total);
        adds_up(&output, "squares", "count", total);
    }
}

#[test]
fn the_tiles_do_not_depend_on_how_the_work_is_cut() {
    let db = Db::with_facilities(1_500);
    let folder = tempfile::tempdir().unwrap();
    let layers = [
        GRID.config(),
        Slow {
            name: "means",
            cell: "square",
            draw: "centroid",
            properties: &[("n", "count(*)"), ("last", "max(name)")],
            ..GRID
        }
        .config(),
        CLUSTERED.to_owned(),
    ];
    let config = config(folder.path(), "0-10", &layers);
    let seeded = |name: &str, arguments: &[&str]| {
        let output = folder.path().join(name);
        seed(&db.url, &output, &[&["--config", &config], arguments].concat()).ok();
        output
    };
    let whole = Archive::open(&seeded("whole.mbtiles", &[])).stored();
    let small = folder.path().join("small.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&small, format!("{text}[run]\nbatch_features = 60\nworkers = 3\n")).unwrap();
    let cut = folder.path().join("cut.mbtiles");
    seed(&db.url, &cut, &["--config", small.to_str().unwrap()]).ok();
    assert!(whole == Archive::open(&cut).stored());
    // A part of the world shows the same tiles, members beyond its edge counted in.
    let part = Archive::open(&seeded("part.mbtiles", &["--bbox", "88,20,115,31"])).stored();
    assert!(part.len() > 100);
    for (tile, bytes) in &part {
        assert!(whole[tile] == *bytes, "{tile:?}");
    }
    // Along the Hilbert curve the batches are squares.
    let tiles = seeded("tiles.pmtiles", &[]);
    let copied = folder.path().join("copied.mbtiles");
    let done = crate::support::program::run(crate::support::program::program().arg("copy").args([&tiles, &copied]));
    done.ok();
    assert!(whole == Archive::open(&copied).stored());
}

/// Clusters up to zoom 9, single facilities from zoom 10.
const CLUSTERED: &str = "[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\ngeometry = \"location\"
    properties = [\"id\", \"name\", \"is_closed\"]
    [layer.cluster]\nzoom = \"0-9\"\nproperties = { countries = \"count(DISTINCT country_code)\" }\n";

#[test]
fn clusters_are_what_map_clients_expect() {
    let db = Db::with_facilities(4_000);
    for further in ["", "merge = true\n", "cell = \"hexagon\"\nsize = 0.1\n", "cell = \"hexagon\"\nmerge = true\n"] {
        clustered(&db, &CLUSTERED.replace("zoom = \"0-9\"\n", &format!("zoom = \"0-9\"\n{further}")));
    }
}

fn clustered(db: &Db, layer: &str) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    let run = seed(&db.url, &output, &["--config", &config(folder.path(), "0-14", &[layer.to_owned()])]).ok();
    adds_up(&output, "facilities", "point_count", 4_000);
    let (mut clusters, mut lone) = (0, 0);
    for (zoom, features) in shown(&output, "facilities") {
        let mut numbers: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for (at, properties) in features {
            let names: Vec<&str> = properties.keys().map(String::as_str).collect();
            if names == ["id", "is_closed", "name"] {
                lone += u32::from(zoom < 10);
                continue;
            }
            assert!(zoom < 10, "{properties:?}");
            assert_eq!(names, ["cluster", "cluster_id", "countries", "point_count", "point_count_abbreviated"]);
            clusters += 1;
            let count = number(&properties["point_count"]);
            assert!(count > 1 && number(&properties["countries"]) <= count);
            assert_eq!(properties["cluster"], "Bool(true)");
            let abbreviated =
                properties["point_count_abbreviated"].trim_matches(|c: char| !c.is_alphanumeric() && c != '.');
            let text = abbreviated.trim_start_matches("Text").trim_matches(|c: char| !c.is_alphanumeric());
            let expected =
                if count < 1_000 { count.to_string() } else { format!("{}k", (count as f64 / 100.0).round() / 10.0) };
            assert_eq!(text, expected);
            // The number tells the cluster, at every zoom.
            let id = properties["cluster_id"].clone();
            assert_eq!(*numbers.entry(id).or_insert(at), at);
        }
    }
    assert!(clusters > 100 && lone > 100, "{clusters} {lone}\n{}", run.stderr);
    // One entry for the layer, however it is drawn.
    let about: serde_json::Value = serde_json::from_str(&Archive::open(&output).metadata("json").unwrap()).unwrap();
    let layers = about["vector_layers"].as_array().unwrap();
    assert_eq!((layers.len(), &layers[0]["minzoom"], &layers[0]["maxzoom"]), (1, &0.into(), &14.into()));
    for name in ["cluster", "point_count", "countries", "name"] {
        assert!(layers[0]["fields"].get(name).is_some(), "{name}: {}", layers[0]);
    }
}
