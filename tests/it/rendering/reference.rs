//! Every stored tile is what the plain one-tile query returns, and the tiles that are not stored are exactly those
//! for which it returns nothing. Every tile of every zoom, not a sample.

use std::fmt::Write as _;
use std::path::Path;

use crate::support::tracked::Tiles;
use crate::support::{Archive, Db, seed, shared_data};

/// One layer for the plain query.
pub(crate) struct Plain<'a> {
    pub name: &'a str,
    /// A query that gives `m` (geometry in EPSG:3857), `key` and the properties.
    pub rows: &'a str,
    pub properties: &'a str,
    pub extent: u32,
    pub buffer: u32,
    pub zooms: std::ops::RangeInclusive<u8>,
}

/// What the plain query returns for every tile that any feature could be seen in: the tiles of its box and all that
/// border on them. Farther ones cannot hold it, for no buffer here is wider than a tile.
pub(crate) fn plainly(db: &Db, layers: &[Plain<'_>], zooms: std::ops::RangeInclusive<u8>) -> Tiles {
    let mut tiles = Tiles::new();
    for (number, layer) in layers.iter().enumerate() {
        let Plain { name, rows, properties, extent, buffer, .. } = layer;
        let table = format!("plain_{name} {number}");
        let mut sql = format!(
            "DROP TABLE IF EXISTS \"{table}\", \"{table} tiles\";
             CREATE TABLE \"{table}\" AS SELECT * FROM ({rows}) AS rows;
             CREATE INDEX ON \"{table}\" USING gist (m); ANALYZE \"{table}\";"
        );
        let (from, to) = (*layer.zooms.start().max(zooms.start()), *layer.zooms.end().min(zooms.end()));
        write!(
            sql,
            "CREATE TABLE \"{table} tiles\" AS SELECT z, x, y, tile FROM (
                SELECT DISTINCT z, x, y FROM \"{table}\", generate_series({from}, {to}) AS z,
                    LATERAL (SELECT 40075016.685578488 / (1 << z) AS side) AS s,
                    generate_series(greatest(0, floor((ST_XMin(m) + 20037508.342789244) / side)::int - 1), least((1 << z) - 1, floor((ST_XMax(m) + 20037508.342789244) / side)::int + 1)) AS x,
                    generate_series(greatest(0, floor((20037508.342789244 - ST_YMax(m)) / side)::int - 1), least((1 << z) - 1, floor((20037508.342789244 - ST_YMin(m)) / side)::int + 1)) AS y
            ) AS near CROSS JOIN LATERAL (
                SELECT ST_AsMVT(t, '{name}', {extent}, 'geom') AS tile FROM (
                    SELECT ST_AsMVTGeom(m, ST_TileEnvelope(z, x, y), {extent}, {buffer}, true) AS geom, {properties}
                    FROM \"{table}\" WHERE m && ST_Expand(ST_TileEnvelope(z, x, y), 40075016.685578488 / (1 << z))
                    ORDER BY key
                ) AS t WHERE geom IS NOT NULL
            ) AS plain WHERE length(tile) > 0;"
        )
        .unwrap();
        db.run(&sql);
        for row in db.rows(&format!("SELECT z, x, y, tile FROM \"{table} tiles\"")) {
            let (zoom, x, y): (i32, i32, i32) = (row.get(0), row.get(1), row.get(2));
            tiles.entry((zoom as u8, x as u32, y as u32)).or_default().extend_from_slice(row.get(3));
        }
    }
    tiles
}

/// Compares an archive with the plain query, tile by tile.
#[track_caller]
pub(crate) fn compare(db: &Db, archive: &Path, layers: &[Plain<'_>], zooms: std::ops::RangeInclusive<u8>) -> usize {
    is_same(&Archive::open(archive).tiles(), &plainly(db, layers, zooms))
}

/// Compares the tiles of an archive with others, and gives how many there are.
#[track_caller]
pub(crate) fn is_same(found: &Tiles, expected: &Tiles) -> usize {
    let missing: Vec<_> = expected.keys().filter(|tile| !found.contains_key(tile)).take(5).collect();
    let ghosts: Vec<_> = found.keys().filter(|tile| !expected.contains_key(tile)).take(5).collect();
    assert_eq!((missing, ghosts), (vec![], vec![]), "missing tiles and ghosts");
    let different: Vec<_> =
        found.iter().filter(|(tile, bytes)| expected[tile] != **bytes).map(|(tile, _)| tile).collect();
    assert!(different.is_empty(), "{} tiles differ, such as {:?}", different.len(), different[0]);
    found.len()
}

const REGISTRY: Plain<'_> = Plain {
    name: "facilities",
    rows: "SELECT ST_Transform(location, 3857) AS m, id COLLATE \"C\" AS key, id, name, address, country_code, is_closed FROM api_facility",
    properties: "id, name, address, country_code, is_closed",
    extent: 4096,
    buffer: 64,
    zooms: 0..=14,
};

#[test]
fn generated_facilities_are_what_the_plain_query_returns() {
    let db = Db::with_facilities(3_000);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("t.mbtiles");
    seed(&db.url, &output, &[]).ok();
    let tiles = compare(&db, &output, &[REGISTRY], 0..=14);
    assert!(tiles > 10_000, "{tiles}");
}

#[test]
fn real_facilities_are_what_the_plain_query_returns() {
    for file in ["facilities.csv", "facilities-later.csv"] {
        let Some(csv) = shared_data(file) else { return };
        let db = Db::with_csv(&csv);
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("t.mbtiles");
        seed(&db.url, &output, &["--zoom", "0-14"]).ok();
        let tiles = compare(&db, &output, &[REGISTRY], 0..=14);
        assert!(tiles > 3_000, "{tiles}");
    }
}

/// Every kind of geometry, in longitudes and latitudes around Osnabrück, where all four reference systems are at home
/// or near.
const ODD: &str = include_str!("reference.sql");

fn odd_table(srid: i32) -> String {
    let placed = if srid == 27700 { "kind NOT LIKE 'on a tile%'" } else { "true" };
    format!(
        "CREATE TABLE odd_{srid} AS SELECT id, kind, \"Odd \"\"name\"\".\", ST_Transform(g, {srid}) AS g FROM odd_4326 WHERE {placed};
         ALTER TABLE odd_{srid} ADD PRIMARY KEY (id); CREATE INDEX ON odd_{srid} USING gist (g);"
    )
}

#[test]
fn odd_geometries_in_any_reference_system_are_what_the_plain_query_returns() {
    let db = Db::new();
    db.run(ODD);
    for srid in [4326, 3857, 25832, 27700] {
        if srid != 4326 {
            db.run(&odd_table(srid));
        }
        let folder = tempfile::tempdir().unwrap();
        let (config, output) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
        std::fs::write(
            &config,
            format!("[[layer]]\nname = \"odd_{srid}\"\ntable = \"odd_{srid}\"\nproperties = ['kind', 'Odd \"name\".']\nbuffer = 256\n[tileset]\nzoom = \"0-13\"\n[run]\nbatch_features = 40"),
        )
        .unwrap();
        seed(&db.url, &output, &["--config", config.to_str().unwrap()]).ok();
        let rows = format!(
            "SELECT ST_Transform(ST_CurveToLine(g), 3857) AS m, id AS key, kind, \"Odd \"\"name\"\".\" FROM odd_{srid} WHERE NOT ST_IsEmpty(g)"
        );
        let plain = Plain {
            name: &format!("odd_{srid}"),
            rows: &rows,
            properties: "kind, \"Odd \"\"name\"\".\"",
            extent: 4096,
            buffer: 256,
            zooms: 0..=13,
        };
        let tiles = compare(&db, &output, &[plain], 0..=13);
        assert!(tiles > 2_000, "SRID {srid}: {tiles}");
    }
}

#[test]
fn points_in_any_reference_system_and_geographies_are_what_the_plain_query_returns() {
    let db = Db::with_facilities(400);
    for (srid, near) in [
        (3857, "true"),
        (25832, "ST_X(location) BETWEEN -6 AND 24 AND ST_Y(location) > 0"),
        (27700, "ST_X(location) BETWEEN -9 AND 3 AND ST_Y(location) > 35"),
    ] {
        db.run(&format!(
            "CREATE TABLE p{srid} AS SELECT id, name, ST_Transform(location, {srid})::geometry(Point, {srid}) AS g FROM api_facility WHERE {near};
             ALTER TABLE p{srid} ADD PRIMARY KEY (id); CREATE INDEX ON p{srid} USING gist (g)"
        ));
    }
    db.run(
        "CREATE TABLE geog AS SELECT id, name, location::geography(Point, 4326) AS g FROM api_facility;
         ALTER TABLE geog ADD PRIMARY KEY (id); CREATE INDEX ON geog USING gist (g);
         CREATE TABLE geog4269 AS SELECT id, name, ST_SetSRID(location, 4269)::geography(Point, 4269) AS g FROM api_facility;
         ALTER TABLE geog4269 ADD PRIMARY KEY (id); CREATE INDEX ON geog4269 USING gist (g);
         CREATE TABLE geogline AS SELECT id, name, ST_MakeLine(location, ST_Translate(location, 0.3, 0.2))::geography AS g FROM api_facility WHERE ST_X(location) BETWEEN -170 AND 170 LIMIT 40;
         ALTER TABLE geogline ADD PRIMARY KEY (id); CREATE INDEX ON geogline USING gist (g)",
    );
    // MultiPoints of one member, and of none.
    for srid in [3857, 4326, 25832] {
        let (from, geometry) = if srid == 4326 { ("api_facility", "location") } else { (&*format!("p{srid}"), "g") };
        let (dimension, made) = if srid == 4326 { ("ZM", "ST_Force4D") } else { ("", "") };
        db.run(&format!(
            "CREATE TABLE m{srid} AS SELECT id, name, {made}(ST_Multi({geometry}))::geometry(MultiPoint{dimension}, {srid}) AS g FROM {from};
             INSERT INTO m{srid} SELECT 'twice' || id, name, g FROM m{srid} WHERE hashtext(id) % 9 = 0;
             INSERT INTO m{srid} VALUES ('none', '', NULL), ('empty', '', {made}(ST_SetSRID('MULTIPOINT EMPTY'::geometry, {srid})));
             ALTER TABLE m{srid} ADD PRIMARY KEY (id); CREATE INDEX ON m{srid} USING gist (g)"
        ));
    }
    db.run(
        "CREATE TABLE mgeog AS SELECT id, name, g::geography(MultiPointZM, 4326) AS g FROM m4326;
         ALTER TABLE mgeog ADD PRIMARY KEY (id); CREATE INDEX ON mgeog USING gist (g);
         CREATE TABLE mixed AS SELECT id, name, CASE hashtext(id) % 3 WHEN 0 THEN ST_GeometryN(g, 1) WHEN 1 THEN ST_Force3DM(g) ELSE g END AS g FROM m3857;
         ALTER TABLE mixed ADD PRIMARY KEY (id); CREATE INDEX ON mixed USING gist (g);
         CREATE TABLE more AS SELECT id, name, CASE WHEN hashtext(id) % 5 = 0 THEN ST_Union(g, ST_Translate(g, 9000, 0)) ELSE g END AS g FROM m3857;
         ALTER TABLE more ADD PRIMARY KEY (id); CREATE INDEX ON more USING gist (g)",
    );
    for (table, zooms) in [
        ("m3857", "0-7"),
        ("m4326", "0-7"),
        ("m25832", "0-7"),
        ("mgeog", "0-7"),
        ("mixed", "0-7"),
        ("more", "0-7"),
        ("p3857", "0-14"),
        ("p25832", "0-14"),
        ("p27700", "0-14"),
        ("geog", "0-14"),
        ("geog4269", "0-14"),
        ("geogline", "0-11"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (config, output) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
        std::fs::write(&config, format!("[[layer]]\nname = \"{table}\"\ntable = \"{table}\"\nproperties = [\"name\"]\n[run]\nbatch_features = 100")).unwrap();
        let seeded = seed(&db.url, &output, &["--config", config.to_str().unwrap(), "--zoom", zooms, "-vv"]).ok();
        let is_cached = seeded.stderr.contains(" rows are cached, ");
        assert_eq!(is_cached, !["geogline", "more"].contains(&table), "{table}: {}", seeded.stderr);
        let rows = format!("SELECT ST_Transform(g::geometry, 3857) AS m, id COLLATE \"C\" AS key, name FROM {table}");
        let zooms = 0..=zooms[2..].parse().unwrap();
        let plain =
            Plain { name: table, rows: &rows, properties: "name", extent: 4096, buffer: 64, zooms: zooms.clone() };
        let tiles = compare(&db, &output, &[plain], zooms);
        assert!(tiles > 50, "{table}: {tiles}");
    }
}

#[test]
fn several_layers_stand_in_one_tile_in_the_order_of_the_file() {
    let db = Db::with_facilities(200);
    db.run(
        "CREATE SCHEMA \"My Schema\";
         CREATE VIEW \"My Schema\".\"A \"\"view\"\".v\" AS SELECT upper(name) AS \"NAME\", id AS \"Key.1\", location AS \"The Geom\" FROM api_facility WHERE country_code = 'BD';
         CREATE MATERIALIZED VIEW closed AS SELECT id, location, name FROM api_facility WHERE is_closed; CREATE INDEX ON closed USING gist (location);
         CREATE TABLE numbered AS SELECT row_number() OVER () AS n, location, name FROM api_facility; ALTER TABLE numbered ADD PRIMARY KEY (n);",
    );
    let folder = tempfile::tempdir().unwrap();
    let (config, output) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    std::fs::write(
        &config,
        r#"
        [tileset]
        zoom = "0-12"
        [run]
        batch_features = 50
        [[layer]]
        name = "view"
        schema = "My Schema"
        table = 'A "view".v'
        key = ["Key.1"]
        properties = { label = "\"NAME\"", "in words" = "CASE WHEN length(\"NAME\") > 20 THEN 'long' ELSE 'short' END" }
        extent = 512
        buffer = 500
        [[layer]]
        name = "closed"
        table = "public.closed"
        key = ["name", "id"]
        properties = []
        zoom = "3-9,11"
        [[layer]]
        name = "numbered"
        table = "numbered"
        properties = ["name"]
        where = "n % 2 = 0 -- every other one"
        feature_id = "n"
        zoom = "5-20"
        "#,
    )
    .unwrap();
    seed(&db.url, &output, &["--config", config.to_str().unwrap()]).ok();
    let view = Plain {
        name: "view",
        rows: "SELECT ST_Transform(\"The Geom\", 3857) AS m, \"Key.1\" COLLATE \"C\" AS key, \"NAME\" AS label, CASE WHEN length(\"NAME\") > 20 THEN 'long' ELSE 'short' END AS \"in words\" FROM \"My Schema\".\"A \"\"view\"\".v\"",
        properties: "label, \"in words\"",
        extent: 512,
        buffer: 500,
        zooms: 0..=12,
    };
    let found = Archive::open(&output).tiles();
    let mut expected = plainly(&db, &[view], 0..=12);
    // The plain helper knows neither gaps in zooms nor feature ids: those two layers are asked for by hand.
    for (name, rows, tail, zooms) in [
        (
            "closed",
            "SELECT ST_AsMVTGeom(ST_Transform(location, 3857), ST_TileEnvelope(z, x, y), 4096, 64) AS geom FROM closed ORDER BY name COLLATE \"C\", id COLLATE \"C\"",
            "",
            "z IN (3,4,5,6,7,8,9,11)",
        ),
        (
            "numbered",
            "SELECT ST_AsMVTGeom(ST_Transform(location, 3857), ST_TileEnvelope(z, x, y), 4096, 64) AS geom, name, n FROM numbered WHERE n % 2 = 0 ORDER BY numbered.n",
            ", 'n'",
            "z BETWEEN 5 AND 12",
        ),
    ] {
        db.run(&format!(
            "CREATE TABLE expected_{name} AS SELECT z, x, y, (SELECT ST_AsMVT(t, '{name}', 4096, 'geom'{tail}) FROM ({rows}) AS t WHERE geom IS NOT NULL) AS tile
             FROM (SELECT DISTINCT z, x, y FROM generate_series(0, 12) AS z, api_facility, LATERAL (SELECT ST_Transform(location, 3857) AS m, 40075016.685578488 / (1 << z) AS side) AS s,
                   LATERAL (SELECT floor((ST_X(m) + 20037508.342789244) / side)::int + i AS x FROM generate_series(-1, 1) AS i) AS xs,
                   LATERAL (SELECT floor((20037508.342789244 - ST_Y(m)) / side)::int + i AS y FROM generate_series(-1, 1) AS i) AS ys
                   WHERE {zooms} AND x BETWEEN 0 AND (1 << z) - 1 AND y BETWEEN 0 AND (1 << z) - 1
                   AND EXISTS (SELECT FROM {name} WHERE ST_Transform(location, 3857) && ST_Expand(ST_TileEnvelope(z, x, y), side / 20))) AS near"
        ));
        for row in db.rows(&format!("SELECT z, x, y, tile FROM expected_{name} WHERE length(tile) > 0")) {
            let (zoom, x, y): (i32, i32, i32) = (row.get(0), row.get(1), row.get(2));
            expected.entry((zoom as u8, x as u32, y as u32)).or_default().extend_from_slice(row.get(3));
        }
    }
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert!(found == expected, "some tile differs");
}

#[test]
fn a_foreign_table_a_partitioned_table_and_a_view_give_the_tiles_of_their_table() {
    let db = Db::with_facilities(600);
    let (socket, port) = (
        db.url.split("host=").nth(1).unwrap().split('&').next().unwrap(),
        db.url.split("port=").nth(1).unwrap().split('&').next().unwrap(),
    );
    db.run(&format!(
        "CREATE EXTENSION postgres_fdw;
         CREATE SERVER itself FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{socket}', port '{port}', dbname '{name}');
         CREATE USER MAPPING FOR oar_tiles SERVER itself OPTIONS (user 'oar_tiles');
         CREATE FOREIGN TABLE far (id varchar(32), name text, location geometry(Point, 4326)) SERVER itself OPTIONS (table_name 'api_facility');
         CREATE TABLE parts (id varchar(32) PRIMARY KEY, name text, location geometry(Point, 4326)) PARTITION BY HASH (id);
         CREATE TABLE part0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE part1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         CREATE INDEX ON parts USING gist (location);
         INSERT INTO parts SELECT id, name, location FROM api_facility;
         CREATE VIEW seen AS SELECT * FROM parts;",
        name = db.name
    ));
    let folder = tempfile::tempdir().unwrap();
    let tiles = |table: &str| {
        let (config, output) = (folder.path().join("c.toml"), folder.path().join(format!("{table}.mbtiles")));
        let layer = format!("[[layer]]\nname = \"f\"\ntable = \"{table}\"\nkey = [\"id\"]\nproperties = [\"name\"]");
        std::fs::write(&config, layer).unwrap();
        let done = seed(&db.url, &output, &["--zoom", "0-10", "--config", config.to_str().unwrap()]).ok();
        assert_eq!(done.stderr, "", "{table}");
        Archive::open(&output).stored()
    };
    let expected = tiles("api_facility");
    assert!(expected.len() > 1_000);
    for table in ["far", "parts", "seen"] {
        assert!(tiles(table) == expected, "{table}");
    }
}
