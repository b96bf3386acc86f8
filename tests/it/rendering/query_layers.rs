//! Layers over queries: the tiles are those of the same layer from its table, and those of the plain one-tile query
//! where the query depends on the tile.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::archive::Address;
use crate::support::folder::Folder;
use crate::support::program::{Run, program, run};
use crate::support::tracked::differences;
use crate::support::{Archive, Db, seed};

type Tiles = BTreeMap<Address, Vec<u8>>;

/// Seeds a layer, with more of the configuration and more arguments.
#[track_caller]
fn tiles(db: &Db, layer: &str, more: &str, arguments: &[&str]) -> Tiles {
    let (tiles, told) = tiles_and_warnings(db, layer, more, arguments);
    assert_eq!(told, "", "{layer}");
    tiles
}

fn tiles_and_warnings(db: &Db, layer: &str, more: &str, arguments: &[&str]) -> (Tiles, String) {
    let folder = Folder::new();
    let output = folder.beside("t.mbtiles");
    let config = folder.config(&format!("{more}\n[[layer]]\nname = \"f\"\n{layer}\n"));
    let done = seed(&db.url, &output, &[&["--config", &config, "--workers", "2"], arguments].concat()).ok();
    (Archive::open(&output).tiles(), done.stderr)
}

#[track_caller]
fn same(found: &Tiles, expected: &Tiles, what: &str) {
    let wrong = differences(found, expected);
    assert!(
        wrong.is_empty(),
        "{} of {} tiles differ, such as {:?}: {what}",
        wrong.len(),
        expected.len(),
        wrong.first()
    );
}

fn query(sql: &str) -> String {
    format!("sql = '''{sql}'''\nkey = [\"id\"]\nproperties = {{ id = \"id\", n = \"upper(name)\" }}")
}

const TABLE: &str = "table = \"api_facility\"\nproperties = { id = \"id\", n = \"upper(name)\" }";
const SMALL: &str = "[run]\nbatch_features = 60";

#[test]
fn a_query_gives_the_tiles_of_its_table_however_it_is_written_and_cut_into_batches() {
    let db = Db::with_facilities(500);
    let expected = tiles(&db, TABLE, "", &["--zoom", "0-10"]);
    assert!(expected.len() > 1_000, "{}", expected.len());
    for sql in [
        "SELECT * FROM api_facility",
        "SELECT * FROM api_facility; -- all of them;",
        "WITH f AS (SELECT id, name, location FROM api_facility) SELECT * FROM f -- !nothing! is replaced here",
        "SELECT id, name, location, 'it''s !bbox! ;' AS \"a !zoom! b\" FROM api_facility /* !x! */
             WHERE name != '--' AND name !~ '^;' AND name !~~* $q$!zoom! ; '$q$ AND NOT (name =E'\\'!y!')",
        // As Tegola has it, and as t-rex has it.
        "SELECT id, name, location FROM api_facility WHERE location && !BBOX! AND !ZOOM! != 23",
        "SELECT id, name, location FROM api_facility WHERE ST_Intersects(location, !bbox!) AND !pixel_width!>0 AND !scale_denominator!>0",
        "SELECT id, name, ST_Transform(location, 3857) AS g FROM api_facility WHERE location && ST_Transform(!bbox!, 4326)",
        "WITH near AS (SELECT * FROM api_facility WHERE location &&!BBOX!) SELECT DISTINCT ON (id) id, name, location FROM near ORDER BY id",
        "SELECT id, name, location FROM api_facility WHERE CASE WHEN !zoom! >= 5 THEN !pixel_height! < 5000 ELSE !z! <= 4 END",
    ] {
        for more in ["", SMALL] {
            same(&tiles(&db, &query(sql), more, &["--zoom", "0-10"]), &expected, sql);
        }
    }
}

#[test]
fn boxes_and_zooms_limit_a_query_as_they_limit_its_table() {
    let db = Db::with_facilities(700);
    for arguments in [
        &["--zoom", "3,7-9", "--bbox", "60,5,100,35", "--bbox", "170,-50,-170,50"][..],
        &["--zoom", "11", "--bbox", "-10,35,40,60"],
    ] {
        let expected = tiles(&db, TABLE, SMALL, arguments);
        assert!(expected.len() > 50, "{}", expected.len());
        for condition in ["location && !bbox!", "!zoom! < 99", "location && !bbox! AND !zoom! < 99"] {
            let sql = format!("SELECT id, name, location FROM api_facility WHERE {condition}");
            same(&tiles(&db, &query(&sql), SMALL, arguments), &expected, &sql);
        }
    }
}

/// A tile that the box of a line touches and the line itself does not is planned, and the query gives nothing for it.
#[test]
fn lines_and_areas_that_a_tile_does_not_show_may_be_left_out_by_the_query() {
    let db = Db::new();
    db.run(
        "CREATE TABLE shape (id int PRIMARY KEY, name text, g geometry(Geometry, 4326));
         INSERT INTO shape SELECT i, 'line', ST_SetSRID(ST_MakeLine(ST_MakePoint(i * 5, i), ST_MakePoint(i * 5 + 9, i + 8)), 4326) FROM generate_series(-30, 30) AS i;
         INSERT INTO shape VALUES (100, 'world', ST_MakeEnvelope(-180, -90, 180, 90, 4326)), (101, 'hook', 'SRID=4326;LINESTRING(-85 -60, 85 -60, 85 70)'),
             (102, 'far north', 'SRID=4326;LINESTRING(20 80, 30 89)'), (103, 'edge', 'SRID=4326;LINESTRING(179 10, 180 11)'), (104, 'point', 'SRID=4326;POINT(7 7)');
         DELETE FROM shape WHERE id < 100 AND ST_YMax(g) > 85;
         -- A straight line on the map is straight in this system only.
         ALTER TABLE shape ALTER g TYPE geometry(Geometry, 3857) USING ST_Transform(ST_Intersection(g, ST_MakeEnvelope(-180, -89, 180, 89, 4326)), 3857);
         CREATE INDEX ON shape USING gist (g)",
    );
    let properties = "key = [\"id\"]\nproperties = [\"name\"]\nbuffer = 300";
    // With the one that covers the world, every tile shows something; without it, tiles are planned that show nothing.
    for (condition, least) in [("true", 5_000), ("id <> 100", 150)] {
        let table = format!("table = \"shape\"\nwhere = \"{condition}\"\n{properties}");
        let expected = tiles(&db, &table, "", &["--zoom", "0-6"]);
        assert!(expected.len() > least, "{}", expected.len());
        for sql in [
            "SELECT * FROM shape WHERE ST_Intersects(g, !bbox!)",
            "SELECT * FROM shape WHERE g && !bbox!",
            "SELECT id, name, ST_Transform(g, 4326) AS g FROM shape WHERE g && ST_Transform(!bbox!, 3857)",
        ] {
            for more in ["", SMALL] {
                let layer = format!("sql = '''{sql} AND {condition}'''\n{properties}");
                let found = tiles(&db, &layer, more, &["--zoom", "0-6"]);
                same(&found, &expected, sql);
            }
        }
    }
}

/// What the plain one-tile query gives for every tile near a row; `rows` gives `m` in EPSG:3857, `id` and `name`,
/// `PIXEL` and `ZOOM` stand for the numbers.
fn plainly(db: &Db, rows: &str, zooms: std::ops::RangeInclusive<u8>) -> Tiles {
    let mut tiles = Tiles::new();
    for zoom in zooms {
        let side = 2.0 * 20_037_508.342_789_244 / f64::from(1 << zoom);
        let rows = rows.replace("PIXEL", &format!("{:?}", side / 256.0)).replace("ZOOM", &zoom.to_string());
        let tile =
            |end: &str, low: &str| format!("least((1 << {zoom}) - 1, greatest(0, floor(({end}) / {side})::int {low}))");
        db.run(&format!(
            "DROP TABLE IF EXISTS plain; CREATE TEMP TABLE plain AS SELECT * FROM ({rows}) AS rows; CREATE INDEX ON plain USING gist (m); ANALYZE plain"
        ));
        let found = db.rows(&format!(
            "SELECT x, y, mvt FROM (
                 SELECT DISTINCT x, y FROM plain,
                     generate_series({}, {}) AS x, generate_series({}, {}) AS y
             ) AS near CROSS JOIN LATERAL (
                 SELECT ST_AsMVT(t, 'f', 4096, 'geom') AS mvt FROM (
                     SELECT ST_AsMVTGeom(m, ST_TileEnvelope({zoom}, x, y), 4096, 64, true) AS geom, id, upper(name) AS n
                     FROM plain WHERE m && ST_Expand(ST_TileEnvelope({zoom}, x, y), {side}) ORDER BY id COLLATE \"C\"
                 ) AS t WHERE geom IS NOT NULL
             ) AS plainly WHERE length(mvt) > 0",
            tile("ST_XMin(m) + 20037508.342789244", "- 1"),
            tile("ST_XMax(m) + 20037508.342789244", "+ 1"),
            tile("20037508.342789244 - ST_YMax(m)", "- 1"),
            tile("20037508.342789244 - ST_YMin(m)", "+ 1"),
        ));
        for row in found {
            tiles.insert((zoom, row.get::<_, i32>(0) as u32, row.get::<_, i32>(1) as u32), row.get(2));
        }
    }
    tiles
}

#[test]
fn what_depends_on_the_zoom_is_what_the_plain_query_with_that_zoom_gives() {
    let db = Db::with_facilities(700);
    db.run(
        "CREATE TABLE metres AS SELECT id, name, ST_Transform(location, 3857)::geometry(Point, 3857) AS g FROM api_facility; CREATE INDEX ON metres USING gist (g);
         CREATE TABLE ring AS SELECT id, name, ST_Buffer(g, 200000)::geometry(Polygon, 3857) AS g FROM metres WHERE abs(ST_Y(g)) < 1.5e7 LIMIT 60; CREATE INDEX ON ring USING gist (g)",
    );
    // Some reach beyond the edge of the world. A query with !bbox! is asked for what lies in the tile's own box.
    db.run(crate::world_edge::rows::FUNCTIONS);
    for (sql, plain, beyond) in [
        (
            "SELECT id, name, ST_SnapToGrid(g, !pixel_width! * 40) AS g FROM metres",
            "SELECT id, name, ST_SnapToGrid(g, PIXEL * 40) AS m FROM metres",
            "wrap",
        ),
        (
            "SELECT id, name, ST_SimplifyPreserveTopology(g, !pixel_width! * 8) AS g FROM ring WHERE g && !bbox!",
            "SELECT id, name, ST_SimplifyPreserveTopology(g, PIXEL * 8) AS m FROM ring",
            "clip",
        ),
        (
            // Other rows, another kind of geometry and another key at some zooms.
            "SELECT id || !zoom! AS id, name, CASE WHEN !zoom! < 4 THEN ST_Centroid(g) ELSE g END AS g FROM ring WHERE !zoom! BETWEEN 2 AND 6 AND ascii(id) % 3 < !zoom!",
            "SELECT id || ZOOM AS id, name, CASE WHEN ZOOM < 4 THEN ST_Centroid(g) ELSE g END AS m FROM ring WHERE ZOOM BETWEEN 2 AND 6 AND ascii(id) % 3 < ZOOM",
            "wrap",
        ),
    ] {
        let drawn = if beyond == "wrap" { "wrapped" } else { "clipped" };
        let plain = format!("SELECT id, name, {drawn}(m, 20037508.342789244) AS m FROM ({plain}) AS rows");
        let expected = plainly(&db, &plain, 0..=7);
        assert!(!expected.is_empty(), "{sql}");
        for more in ["", SMALL] {
            let layer = format!("beyond = \"{beyond}\"\n{}", query(sql));
            let (found, told) = tiles_and_warnings(&db, &layer, more, &["--zoom", "0-7"]);
            same(&found, &expected, sql);
            assert!(told.lines().all(|line| line.contains("beyond ±180°")), "{told}");
        }
    }
}

/// Counts and points of what the box selects: however batches are cut, it is the box of one tile, 65 of 4096 parts and
/// four units of 9 mm wider on each side, and cut to the world.
#[test]
fn what_a_query_gathers_by_the_box_it_gathers_for_each_tile_by_itself() {
    let db = Db::with_facilities(500);
    db.run("CREATE TABLE metres AS SELECT id, name, ST_Transform(location, 3857)::geometry(Point, 3857) AS g FROM api_facility");
    let gathered = |condition: &str| {
        format!(
            "SELECT left(name, 1) AS id, count(*)::text AS name, ST_Collect(g ORDER BY id) AS g FROM metres WHERE {condition} GROUP BY left(name, 1)"
        )
    };
    let rows = db.rows(&format!(
        "SELECT z, x, y, mvt FROM generate_series(0, 5) AS z, generate_series(0, (1 << z) - 1) AS x, generate_series(0, (1 << z) - 1) AS y,
             LATERAL (SELECT 20037508.342789244 * 2 / (1 << z) AS side, ST_TileEnvelope(z, x, y) AS tile) AS s,
             LATERAL (SELECT ST_Expand(tile, side * 65 / 4096 + 20037508.342789244 / (1 << 29)) AS box) AS b,
             LATERAL (SELECT ST_AsMVT(t, 'f', 4096, 'geom') AS mvt FROM (
                 SELECT ST_AsMVTGeom(g, tile, 4096, 64, true) AS geom, id, upper(name) AS n FROM ({}) AS q ORDER BY id COLLATE \"C\"
             ) AS t WHERE geom IS NOT NULL) AS m
         WHERE length(mvt) > 0",
        gathered("g && box")
    ));
    let address = |row: &tokio_postgres::Row| {
        let [z, x, y]: [i32; 3] = [0, 1, 2].map(|column| row.get(column));
        (z as u8, x as u32, y as u32)
    };
    let expected: Tiles = rows.iter().map(|row| (address(row), row.get(3))).collect();
    assert!(expected.len() > 100, "{}", expected.len());
    for more in ["", SMALL, "[run]\nbatch_features = 1"] {
        same(&tiles(&db, &query(&gathered("g && !bbox!")), more, &["--zoom", "0-5"]), &expected, more);
    }
}

#[test]
fn cells_and_clusters_over_a_query_are_those_over_its_table() {
    let db = Db::with_facilities(700);
    let gathered = [
        "[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/8\"\nproperties = { n = \"count(*)\", first = \"min(name)\", west = \"!xmin!\" }\nzoom = \"0-5\"",
        "[layer.cluster]\nzoom = \"0-6\"",
    ];
    for gathered in gathered {
        let all = tiles(&db, &format!("{TABLE}\n{gathered}"), "", &["--zoom", "0-8"]);
        let open = tiles(&db, &format!("{TABLE}\nwhere = \"NOT is_closed\"\n{gathered}"), "", &["--zoom", "0-2"]);
        let deeper = all.iter().filter(|((zoom, _, _), _)| *zoom > 2);
        let both: Tiles = open.iter().chain(deeper).map(|(address, tile)| (*address, tile.clone())).collect();
        for (condition, expected) in
            [("true", &all), ("!zoom! < 99 AND !pixel_width! > 0", &all), ("!zoom! > 2 OR NOT is_closed", &both)]
        {
            let sql = format!("SELECT * FROM api_facility WHERE {condition}");
            for more in ["", SMALL] {
                same(&tiles(&db, &format!("{}\n{gathered}", query(&sql)), more, &["--zoom", "0-8"]), expected, &sql);
            }
        }
    }
}

#[test]
fn rows_that_cannot_be_drawn_are_named_and_the_rest_of_the_program_knows_queries_too() {
    let db = Db::with_facilities(400);
    db.run(
        "CREATE TABLE odd AS SELECT id, name, location::geometry AS g FROM api_facility;
         INSERT INTO odd VALUES ('none', '', NULL), ('far', '', 'SRID=4326;POINT(200 0)'), ('empty', '', 'SRID=4326;POINT EMPTY'), ('nan', '', 'SRID=4326;POINT(NaN 1)')",
    );
    let folder = Folder::new();
    for condition in ["true", "!zoom! >= 0", "id <> '' OR g && !bbox!"] {
        let sql = format!("SELECT * FROM odd WHERE {condition}");
        let config = folder.config(&format!("[[layer]]\nname = \"f\"\nbeyond = \"skip\"\n{}", query(&sql)));
        for output in ["t.mbtiles", "t.pmtiles", "tiles/"] {
            let output = folder.beside(output);
            let done = seed(&db.url, &output, &["--zoom", "0-6", "--force", "--config", &config]).ok();
            for text in ["NULL: none\n", "is empty: empty\n", "coordinates: nan\n", ": far\n"] {
                assert!(done.stdout.contains(text), "{condition}: {text}{}", done.stdout);
            }
        }
        let ours = |arguments: &[&str]| -> Run {
            run(program().args(arguments).args(["--database-url", &db.url, "--config", &config]))
        };
        let target = folder.beside("t.mbtiles");
        ours(&["verify", "--database", target.to_str().unwrap()]).ok();
        let planned =
            seed(&db.url, Path::new("never.mbtiles"), &["--zoom", "0-6", "--config", &config, "--dry-run"]).ok();
        assert!(planned.stdout.contains("skipped 1 row"), "{}", planned.stdout);
        assert!(ours(&["config"]).ok().stdout.contains(condition), "{condition}");
    }
    // What is in the table has changed: the target does not show it.
    db.run("DELETE FROM odd WHERE id < 'F'");
    let config = folder.beside("c.toml");
    let mut verify = program();
    verify.args(["verify", "--database", "--database-url", &db.url, "--config"]).arg(&config);
    run(verify.arg(folder.beside("t.mbtiles"))).fails(1, &[]);
}

#[test]
fn a_role_that_may_only_select_is_enough_for_a_query() {
    let db = Db::with_facilities(200);
    let role = format!("{}_reader", db.name);
    db.run(&format!(
        "REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO CURRENT_USER;
         CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT;
         ALTER ROLE {role} SET default_transaction_read_only = on; GRANT CONNECT ON DATABASE {name} TO {role}",
        name = db.name
    ));
    let folder = Folder::new();
    let output = folder.beside("t.mbtiles");
    let sql = "SELECT id, name, location FROM api_facility WHERE location && !bbox! AND !zoom! < 99";
    let config = folder.config(&format!("[[layer]]\nname = \"f\"\n{}", query(sql)));
    let url = db.url.replacen("oar_tiles@", &format!("{role}@"), 1);
    let seeded = || seed(&url, &output, &["--zoom", "0-8", "--config", &config]);
    seeded().fails(
        2,
        &[&format!("layer \"f\": the role \"{role}\" may not read everything that its query reads. Run GRANT SELECT ON … TO \"{role}\" as the owner of what the cause names\n  cause: permission denied for table api_facility")],
    );
    db.run(&format!("GRANT SELECT (id, name, location) ON api_facility TO {role}"));
    seeded().ok();
    same(&Archive::open(&output).tiles(), &tiles(&db, TABLE, "", &["--zoom", "0-8"]), sql);
    db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}
