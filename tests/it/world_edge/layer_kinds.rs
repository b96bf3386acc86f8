//! Every kind of layer over rows beyond ±180° shows what it shows over the same rows wrapped beforehand; and the boxes
//! of tiles are worked out as `ST_TileEnvelope` does it.

use crate::support::Archive;
use crate::support::program::{run, seed_command};
use crate::world_edge::rows::Edge;

/// Points with longitudes from -540 to 540, many of them where others come to lie; lines and polygons of all sizes.
const TABLES: &str = "
    CREATE TABLE points AS SELECT i AS id, 'n' || i % 7 AS name, ST_SetSRID(ST_MakePoint(
        CASE WHEN i % 3 = 0 THEN (i * 7919 % 1080001) / 1e3 - 540 ELSE 178 + (i * 104729 % 4001) / 1e3 END, (i * 7907 % 160001) / 1e3 - 80), 4326)::geometry(Point, 4326) AS g
        FROM generate_series(1, 900) AS i;
    CREATE TABLE shapes AS SELECT id, name, CASE id % 3 WHEN 0 THEN ST_Buffer(g, id % 40 / 4.0, 2) WHEN 1 THEN ST_MakeLine(g, ST_Translate(g, id % 30, 3)) ELSE ST_Collect(g, ST_Translate(g, 2, 1)) END::geometry(Geometry, 4326) AS g
        FROM points WHERE id <= 240 AND abs(ST_X(g)) < 400;
    CREATE TABLE metres AS SELECT id, name, ST_SetSRID(ST_MakePoint(ST_X(g) * 20037508.342789244 / 180, ST_Y(g) * 2e5), 3857)::geometry(Point, 3857) AS g FROM points;
    CREATE TABLE points_wrapped AS SELECT id, name, wrapped(g, 180) AS g FROM points;
    CREATE TABLE shapes_wrapped AS SELECT id, name, wrapped(g, 180) AS g FROM shapes;
    CREATE TABLE metres_wrapped AS SELECT id, name, wrapped(g, 20037508.342789244) AS g FROM metres;
    DO $$ DECLARE t text; BEGIN FOREACH t IN ARRAY ARRAY['points', 'shapes', 'metres'] LOOP
        EXECUTE format('ALTER TABLE %1$s ADD PRIMARY KEY (id); CREATE INDEX ON %1$s USING gist (g);
            ALTER TABLE %1$s_wrapped ADD PRIMARY KEY (id); CREATE INDEX ON %1$s_wrapped USING gist (g)', t);
    END LOOP; END $$;";

/// Layers, each over what stands for a table in it.
const LAYERS: [(&str, &[&str]); 10] = [
    ("properties = [\"id\", \"name\"]", &["points", "shapes", "metres"]),
    ("properties = [\"id\"]\nbuffer = 512\ntile_bounds = \"degrees\"", &["points", "shapes", "metres"]),
    ("properties = [\"id\"]\nbuffer = 512\ncandidates = 0.03", &["points", "shapes"]),
    (
        "properties = [\"id\"]\nmax_tile_features = 9\non_large_tile = \"thin\"\nrank = \"length(name) + id % 50\"",
        &["points", "shapes", "metres"],
    ),
    (
        "[layer.aggregate]\ncell = \"square\"\nsize = \"1/16\"\ndraw = \"polygon\"\nproperties = { n = \"count(*)\", x = \"!xmin!\" }",
        &["points", "metres"],
    ),
    (
        "[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/8\"\ndraw = \"centroid\"\nproperties = { n = \"count(*)\", names = \"string_agg(name, ',' ORDER BY id)\" }",
        &["points", "metres"],
    ),
    (
        "[layer.aggregate]\ncell = \"square\"\nsize = \"1/8\"\nproperties = { n = \"count(*)\", most = \"max(id)\" }",
        &["points"],
    ),
    ("properties = [\"id\", \"name\"]\n[layer.cluster]\nsize = \"1/32\"\nzoom = \"0-5\"", &["points", "metres"]),
    (
        "properties = [\"id\", \"name\"]\n[layer.cluster]\nmerge = true\ncell = \"hexagon\"\nzoom = \"0-5\"",
        &["points", "metres"],
    ),
    (
        "properties = [\"id\", \"name\"]\n[layer.cluster]\nsize = \"1/64\"\nproperties = { names = \"string_agg(name, ',' ORDER BY id)\" }",
        &["points"],
    ),
];

#[test]
fn every_kind_of_layer_draws_rows_beyond_the_edge_as_rows_wrapped_before() {
    let edge = Edge::new(TABLES);
    let output = edge.path("t.mbtiles");
    for (text, tables) in LAYERS {
        for table in tables {
            for rows_mb in ["0", "100"] {
                let tiles = |relation: &str| {
                    let config = edge.config(&format!(
                        "[[layer]]\nname = \"l\"\ntable = \"{relation}\"\n{text}\n[run]\nbatch_features = 2000"
                    ));
                    let mut command =
                        seed_command(&edge.db.url, &output, &["--force", "--config", &config, "--zoom", "0-6"]);
                    let done = run(command.env("OAR_TILES_ROWS_MB", rows_mb)).ok();
                    assert_eq!(done.stderr.contains("beyond ±180°"), relation == *table, "{}", done.stderr);
                    assert!(!done.stderr.contains("please report"), "{}", done.stderr);
                    Archive::open(&output).stored()
                };
                let (found, expected) = (tiles(table), tiles(&format!("{table}_wrapped")));
                let wrong: Vec<_> = expected.keys().filter(|tile| found.get(*tile) != expected.get(*tile)).collect();
                assert!(
                    wrong.is_empty() && found.len() == expected.len(),
                    "{table} {text}: {} of {}: {:?}",
                    wrong.len(),
                    expected.len(),
                    wrong.first()
                );
                assert!(found.len() > 150, "{table} {text}: {}", found.len());
            }
        }
    }
}

#[test]
fn a_row_across_the_edge_counts_in_the_cell_of_its_middle() {
    let edge = Edge::new(
        "CREATE TABLE shapes (id int PRIMARY KEY, g geometry(Geometry, 4326));
         INSERT INTO shapes VALUES (1, 'SRID=4326;LINESTRING(170 10, 200 10.5)'), (2, 'SRID=4326;POLYGON((-184 10, -170 10, -170 11, -184 10))'),
            (3, 'SRID=4326;LINESTRING(160 10, 182 10.5)'), (4, 'SRID=4326;POINT(186 10)'), (5, 'SRID=4326;LINESTRING(183 10, 185 10)');
         CREATE INDEX ON shapes USING gist (g)",
    );
    let output = edge.path("t.mbtiles");
    let config = edge.config("[[layer]]\nname = \"l\"\ntable = \"shapes\"\n[layer.aggregate]\ncell = \"square\"\nsize = \"1\"\nproperties = { n = \"count(*)\" }");
    run(&mut seed_command(&edge.db.url, &output, &["--config", &config, "--zoom", "5"])).ok();
    let tiles = Archive::open(&output).tiles();
    let counts: Vec<_> = tiles
        .iter()
        .flat_map(|((_, x, _), raw)| {
            crate::support::features::features(raw, "l").into_iter().map(move |cell| (*x, cell.whole("n")))
        })
        .collect();
    // Cells of 11.25°: the middles of 1, 2, 4 and 5 lie at -175, -177, -174 and -176, that of 3 at 171.
    assert_eq!(counts, [(0, 4), (31, 1)]);
}

#[test]
fn a_query_gives_rows_beyond_the_edge_too() {
    let edge = Edge::new(TABLES);
    let output = edge.path("t.mbtiles");
    let tiles = |query: &str| {
        let config =
            edge.config(&format!("[[layer]]\nname = \"l\"\nsql = \"{query}\"\nkey = [\"id\"]\nproperties = [\"id\"]"));
        run(&mut seed_command(&edge.db.url, &output, &["--force", "--config", &config, "--zoom", "0-6"])).ok();
        Archive::open(&output).stored()
    };
    for (table, wrapped) in [("points", "points_wrapped"), ("shapes", "shapes_wrapped")] {
        let expected = tiles(&format!("SELECT id, g FROM {wrapped} WHERE id % 2 = 0"));
        for query in ["SELECT id, g FROM t WHERE id % 2 = 0", "SELECT id, g FROM t WHERE id % 2 = 0 AND !zoom! < 9"] {
            let found = tiles(&query.replace("FROM t", &format!("FROM {table}")));
            let wrong: Vec<_> = expected.keys().filter(|tile| found.get(*tile) != expected.get(*tile)).collect();
            assert!(wrong.is_empty() && found.len() == expected.len(), "{query} over {table}: {:?}", wrong.first());
        }
    }
}

/// The sides of a tile grown by a margin, as the rendering statement works them out.
const SIDES: &str = "ST_MakeEnvelope(-20037508.342789244::float8 + (x - m) * (40075016.685578488::float8 / (1 << z)), 20037508.342789244::float8 - (y + 1 + m) * (40075016.685578488::float8 / (1 << z)),
    -20037508.342789244::float8 + (x + 1 + m) * (40075016.685578488::float8 / (1 << z)), 20037508.342789244::float8 - (y - m) * (40075016.685578488::float8 / (1 << z)), 3857)";

#[test]
fn boxes_of_tiles_are_those_of_st_tile_envelope_bit_for_bit() {
    let edge = Edge::new("");
    // Every tile down to zoom 6, and some thousand of each deeper zoom.
    let all = "SELECT z, x, y, 0::float8 AS m FROM generate_series(0, 6) AS z, generate_series(0, (1 << z) - 1) AS x, generate_series(0, (1 << z) - 1) AS y";
    let some = "SELECT z, (i * 7919::int8 % (1 << z))::int AS x, (i * 104729::int8 % (1 << z))::int AS y, 0 FROM generate_series(7, 22) AS z, generate_series(1, 4000) AS i
        UNION ALL SELECT z, x, i * ((1 << z) - 1) / 9, 0 FROM generate_series(7, 22) AS z, LATERAL (VALUES (0), ((1 << z) - 1)) AS ends (x), generate_series(0, 9) AS i";
    // With a margin, where the tiles' margins lie inside of the world: PostGIS 3.6 clips others.
    let grown = "SELECT z, 3 + (i * 7919::int8 % ((1 << z) - 6))::int, 3 + (i * 104729::int8 % ((1 << z) - 6))::int, m
        FROM generate_series(4, 22) AS z, (VALUES (1 / 64.0::float8), (0.1), (0.5), (1), (2.3)) AS margins (m), generate_series(1, 500) AS i";
    for tiles in [all, some, grown] {
        let sql = format!(
            "SELECT count(*), count(*) FILTER (WHERE ST_AsBinary(ST_TileEnvelope(z, x, y, margin => m)) <> ST_AsBinary({SIDES})) FROM ({tiles}) AS tile (z, x, y, m)"
        );
        let row = &edge.db.rows(&sql)[0];
        let (count, different): (i64, i64) = (row.get(0), row.get(1));
        assert!(count > 5_000 && different == 0, "{different} of {count}");
    }
}
