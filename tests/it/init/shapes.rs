//! What `init` writes for tables of many small shapes, and for rows of very many vertices.

use super::databases::{init, with_file, written};
use crate::support::folder::Folder;
use crate::support::program::Run;
use crate::support::{Archive, Db};

fn database(tables: &str) -> Db {
    let db = Db::new();
    db.run("SET search_path = public");
    db.run(tables);
    db
}

/// A table of squares of `side` degrees, in rows of 200 that are `apart` degrees apart.
fn squares(name: &str, count: u32, side: f64, apart: f64) -> String {
    format!(
        "CREATE TABLE {name} (id int PRIMARY KEY, geom geometry(Polygon, 4326));
        INSERT INTO {name} SELECT n, ST_MakeEnvelope(x, y, x + {side}, y + {side}, 4326)
        FROM (SELECT n, 8 + {apart} * (n % 200) AS x, 47 + {apart} * (n / 200) AS y FROM generate_series(1, {count}) AS n) AS placed;
        CREATE INDEX ON {name} USING gist (geom);"
    )
}

/// What `init` writes about the layer's zooms, budgets and simplification.
fn drawn(db: &Db, folder: &Folder, table: &str) -> String {
    let file = format!("{table}.toml");
    init(db, folder, &["--table", table, "--output", &file]).ok();
    let text = std::fs::read_to_string(folder.beside(&file)).unwrap();
    let is_meant = |line: &&str| {
        ["zoom =", "max_", "min_", "on_large_tile", "[layer.simplify]"].iter().any(|key| line.starts_with(key))
    };
    text.lines().filter(is_meant).collect::<Vec<_>>().join("\n")
}

#[test]
fn small_shapes_are_drawn_from_the_zoom_at_which_they_can_be_seen_and_read_once() {
    let forests =
        "INSERT INTO land SELECT 100000 + n, ST_SetSRID(ST_Expand(ST_MakePoint(8 + n / 40.0, 47.2), 0.01), 4326)
        FROM generate_series(1, 20) AS n;";
    let db = database(
        &[
            squares("houses", 10_000, 0.0002, 0.001),
            squares("gardens", 50_000, 0.00036, 0.00036),
            "UPDATE gardens SET geom = ST_Buffer(ST_Centroid(geom), 0.00018);".to_owned(),
            squares("land", 10_000, 0.0002, 0.001),
            forests.to_owned(),
        ]
        .concat(),
    );
    let folder = Folder::new();
    assert_eq!(drawn(&db, &folder, "houses"), "zoom = \"0-14\"\nzoom = \"12-22\"");
    // Gardens of 33 vertices can be seen at one zoom at which a tile has too many of them.
    let thinned = "zoom = \"0-14\"\nzoom = \"13-22\"\nmax_tile_features = { \"0-13\" = 20000 }\nmax_tile_bytes = { \"0-13\" = 500000 }\non_large_tile = \"thin\"";
    assert_eq!(drawn(&db, &folder, "gardens"), thinned);
    // The large ones among small ones are drawn before these.
    let sizes = "zoom = \"0-14\"\nzoom = \"7-22\"\n[layer.simplify]\nzoom = \"0-10\"\nmin_area = 1\nmin_length = 1";
    assert_eq!(drawn(&db, &folder, "land"), sizes);
    let seed = |table: &str| {
        let (file, output) = (format!("{table}.toml"), format!("{table}.mbtiles"));
        let mut command = crate::support::program::bare_program();
        command.args([
            "seed",
            "-v",
            "--progress",
            "none",
            "--config",
            &file,
            "--output",
            &output,
            "--database-url",
            &db.url,
        ]);
        let said = crate::support::program::run(command.current_dir(folder.beside(""))).ok().stderr;
        (said, Archive::open(&folder.beside(&output)))
    };
    let (said, _) = seed("houses");
    assert!(!said.contains("its rows are not cached"), "{said}");
    let (_, land) = seed("land");
    let zooms = |zoom: u8| land.tiles().keys().filter(|tile| tile.0 == zoom).count();
    assert!((7..=14).all(|zoom| zooms(zoom) > 0) && zooms(6) == 0);
}

/// The statements at the end of a line.
fn statements(said: &str) -> &str {
    said.split("how the pieces follow the table: ").nth(1).unwrap().lines().next().unwrap().trim()
}

#[test]
fn a_row_with_very_many_vertices_is_named_with_a_view_of_its_pieces() {
    let coast = "ST_Collect(ST_Buffer(ST_SetSRID(ST_MakePoint(i * 3, 50), 4326), 1, 1200))";
    for (kind, coast, as_geometry) in [
        ("geometry(MultiPolygon, 4326)", coast.to_owned(), "geom"),
        ("geography(MultiPolygon, 4326)", format!("{coast}::geography"), "geom::geometry"),
        ("geometry(MultiPolygon, 3035)", format!("ST_Transform({coast}, 3035)"), "geom"),
        // Its ring crosses itself.
        (
            "geometry(Polygon, 4326)",
            "ST_Segmentize('SRID=4326;POLYGON((0 0, 40 40, 40 0, 0 40, 0 0))'::geometry, 0.003)".to_owned(),
            "ST_MakeValid(geom)",
        ),
    ] {
        let db = database(&format!(
            "CREATE TABLE coast (id int PRIMARY KEY, \"the name\" text, geom {kind});
            INSERT INTO coast SELECT 7, 'shore', {coast} FROM generate_series(1, 12) AS i HAVING count(*) > 0;
            CREATE INDEX ON coast USING gist (geom)"
        ));
        let folder = Folder::new();
        let said = init(&db, &folder, &[]).ok().stdout;
        assert!(said.contains("note: a row of \"public\".\"coast\" has "), "{said}");
        let printed = statements(&said).to_owned();
        let doctor: Run = with_file(&db, &folder, &["doctor"]);
        assert!(doctor.stdout.contains("layer \"coast\": 1 row of the first 200000 has 50000 vertices or more: each tile that such a row touches reads all of its vertices: 7 ("), "{}", doctor.stdout);
        assert_eq!(statements(&doctor.stdout), printed);
        db.run(&printed);
        let area = format!(
            "SELECT abs(sum(ST_Area(geom)) / (SELECT ST_Area({as_geometry}) FROM coast) - 1) < 1e-9
             AND count(DISTINCT piece_id) = count(*) AND count(*) > 50 AND max(ST_NPoints(geom)) <= 256 AND min(\"the name\") = 'shore' FROM coast_pieces"
        );
        assert!(db.value::<bool>(&area), "{kind}");
        std::fs::remove_file(folder.beside("oar-tiles.toml")).unwrap();
        let said = init(&db, &folder, &["--table", "coast_pieces"]).ok().stdout;
        assert!(!said.contains("ST_Subdivide"), "{said}");
        assert!(written(&folder).contains("key = [\"piece_id\"]"), "{}", written(&folder));
        with_file(&db, &folder, &["seed", "--zoom", "0-4", "--progress", "none"]).ok();
        assert!(!Archive::open(&folder.beside("coast_pieces.mbtiles")).tiles().is_empty());
        let doctor = with_file(&db, &folder, &["doctor"]).stdout;
        assert!(!doctor.contains("vertices or more"), "{doctor}");
    }
}
