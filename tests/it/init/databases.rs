//! What `init` writes for databases of other people is seeded as it is.

use crate::support::database::Db;
use crate::support::program::{Run, bare_program, run};
use crate::support::{Archive, atlas, folder::Folder, repository};

/// A part of `databases.sql`.
pub(crate) fn part(name: &str) -> String {
    let all = include_str!("databases.sql");
    let found = all.split("-- part ").find_map(|part| part.strip_prefix(name)?.strip_prefix('\n'));
    found.unwrap_or_else(|| panic!("{name} is not there")).to_owned()
}

/// A database with a part of `databases.sql`.
pub(crate) fn database(name: &str) -> Db {
    let db = Db::new();
    db.run("SET search_path = public");
    db.run(&part(name));
    db
}

/// `oar-tiles init` with more arguments; the file is `oar-tiles.toml` in the folder.
pub(crate) fn init(db: &Db, folder: &Folder, arguments: &[&str]) -> Run {
    let mut command = bare_program();
    command.args(["init", "--database-url", &db.url]).args(arguments).current_dir(folder.beside(""));
    run(&mut command)
}

/// The same instead of the file that is there.
fn anew(db: &Db, folder: &Folder, arguments: &[&str]) -> Run {
    std::fs::remove_file(folder.beside("oar-tiles.toml")).unwrap();
    init(db, folder, arguments)
}

/// The text of the file that `init` wrote.
pub(crate) fn written(folder: &Folder) -> String {
    std::fs::read_to_string(folder.beside("oar-tiles.toml")).unwrap()
}

/// A command with the file, in its folder.
pub(crate) fn with_file(db: &Db, folder: &Folder, arguments: &[&str]) -> Run {
    let mut command = bare_program();
    command.args(arguments).args(["--config", "oar-tiles.toml", "--database-url", &db.url]);
    run(command.current_dir(folder.beside("")))
}

/// The layers of an archive, by the names in its metadata.
pub(crate) fn layers(archive: &Archive) -> Vec<String> {
    let json: serde_json::Value = serde_json::from_str(&archive.metadata("json").unwrap()).unwrap();
    json["vector_layers"].as_array().unwrap().iter().map(|layer| layer["id"].as_str().unwrap().to_owned()).collect()
}

/// Seeds what `init` has written, at low zooms; every layer that the file has must be there.
#[track_caller]
fn seeds(db: &Db, folder: &Folder, output: &str) -> Archive {
    with_file(db, folder, &["seed", "--zoom", "0-5", "--progress", "none"]).ok();
    let archive = Archive::open(&folder.beside(output));
    assert!(!archive.tiles().is_empty());
    archive
}

#[test]
fn natural_earth_is_seeded_as_it_is() {
    let (db, folder) = (database("natural_earth"), Folder::new());
    let said = init(&db, &folder, &[]).ok().stdout;
    let archive = seeds(&db, &folder, &format!("{}.mbtiles", db.name));
    let expected = ["empty_table", "ne_countries", "ne_mixed", "ne_rivers", "ne_places", "os_sites", "two_systems"];
    assert_eq!(layers(&archive), expected);
    let text = written(&folder);
    for line in [
        "ALTER TABLE \"public\".\"ne_places\" ALTER COLUMN \"geom\" TYPE geometry(Point, 4326) USING ST_SetSRID(\"geom\", 4326);",
        "CREATE INDEX ON \"public\".\"ne_rivers\" USING gist (\"geom\");",
    ] {
        assert!(said.contains(line), "{said}");
        assert!(text.replace("\n#  ", "").contains(line), "{text}");
    }
    assert!(!said.contains("CREATE INDEX ON \"public\".\"ne_countries\""), "{said}");
    // A client that asks for places finds clusters at low zooms.
    assert!(text.contains("[layer.cluster]"), "{text}");
    for line in ["ne_countries  table", "27700", "-180.00,-80.00,179.00,79.00", "ogc_fid"] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[test]
fn a_schema_of_django_is_seeded_as_it_is_and_kept_up_to_date() {
    let (db, folder) = (database("django"), Folder::new());
    init(&db, &folder, &[]).ok();
    let output = format!("{}.mbtiles", db.name);
    let archive = seeds(&db, &folder, &output);
    assert_eq!(
        layers(&archive),
        ["places_place_outline", "places_place_reach", "places_place_location", "places_with_owner"]
    );
    let text = written(&folder);
    for line in [
        "photo (bytea, binary data)",
        "search (tsvector, an index of words)",
        "spot (point, a geometry that PostGIS does not draw)",
        "tags = '\"tags\"::text'",
        "codes = '\"codes\"::text'",
        "'Größe in m²' = '\"Größe in m²\"::float8'",
        "select = '\"select\"'",
        "point_count_of_row = '\"point_count\"'",
        "SELECT placed.\"location\" FROM \"public\".\"places_place\" AS placed WHERE placed.\"owner_id\" = changed.\"id\"",
    ] {
        let text = text.replace("\n#  ", "").replace("\"Größe in m²\" =", "'Größe in m²' =");
        assert!(text.contains(line), "{line}: {text}");
    }
    // What a view shows of two tables follows both.
    let installed = with_file(&db, &folder, &["track", "install"]).ok();
    assert!(!installed.stderr.contains("nobody has said"), "{}", installed.stderr);
    seeds(&db, &folder, &output);
    db.run("UPDATE auth_user SET username = 'somebody else' WHERE id = 2; DELETE FROM places_place WHERE \"point_count\" = 7");
    with_file(&db, &folder, &["reseed"]).ok();
    let reseeded = Archive::open(&folder.beside(&output)).tiles();
    std::fs::remove_file(folder.beside(&output)).unwrap();
    assert_eq!(reseeded, seeds(&db, &folder, &output).tiles());
}

#[test]
fn tables_as_martin_tests_them_are_seeded_as_they_are() {
    let (db, folder) = (database("martin"), Folder::new());
    let said = init(&db, &folder, &[]).ok().stdout;
    let archive = seeds(&db, &folder, &format!("{}.mbtiles", db.name));
    let found = layers(&archive);
    for layer in [
        "MixPoints",
        "table_source",
        "no_key",
        "points1_vw",
        "points1_mv",
        "only_places",
        "geographies",
        "parts",
        "public_points1",
        "other_points1",
        "line\n[[layer]] '''\" # ${HOME}",
        "breaks",
    ] {
        assert_eq!(found.contains(&layer.to_owned()), layer != "breaks", "{layer}: {found:?}");
    }
    // Twins are told apart.
    let tile = archive.tiles().remove(&(0, 0, 0)).unwrap();
    let tile = oar_tiles::mvt::decode(&tile).unwrap();
    let rows = |layer: &str| tile.iter().find(|one| one.name == layer).unwrap().features.len();
    assert_eq!((rows("no_key"), rows("only_places")), (23, 23));
    for line in [
        "not drawn: geom of unknown_system: its geometries have SRID 0",
        "not drawn: geom of never_filled: it was never refreshed: REFRESH MATERIALIZED VIEW \"public\".\"never_filled\";",
        "not drawn: geom of breaks_everywhere: it cannot be read: division by zero",
        "not drawn: geom of breaks: it cannot be read: division by zero",
        "note: \"public\".\"no_key\" has no key",
        "ALTER TABLE \"public\".\"no_key\" ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;",
        "note: \"public\".\"table_source\" has no key. The values of \"gid\" are all different today",
        "note: \"public\".\"points1_mv\" is a materialized view, whose changes no trigger notes",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[test]
fn a_table_without_a_key_is_kept_up_to_date() {
    let (db, folder) = (database("martin"), Folder::new());
    init(&db, &folder, &["--table", "no_key", "--table", "only_*"]).ok();
    with_file(&db, &folder, &["track", "install"]).ok();
    let output = format!("{}.mbtiles", db.name);
    seeds(&db, &folder, &output);
    db.run("DELETE FROM no_key WHERE ctid IN (SELECT ctid FROM no_key WHERE name = 'same' LIMIT 1); UPDATE no_key SET name = 'only one' WHERE ctid IN (SELECT ctid FROM no_key WHERE name = 'twin' LIMIT 1)");
    with_file(&db, &folder, &["reseed"]).ok();
    let reseeded = Archive::open(&folder.beside(&output)).tiles();
    std::fs::remove_file(folder.beside(&output)).unwrap();
    assert_eq!(reseeded, seeds(&db, &folder, &output).tiles());
}

#[test]
fn the_box_of_a_batch_uses_the_index_of_a_table_without_a_key() {
    let (db, folder) = (database("martin"), Folder::new());
    db.run("INSERT INTO no_key SELECT 'far', ST_SetSRID(ST_MakePoint(i * 10, 9000000), 900913) FROM generate_series(1, 20000) AS i; ANALYZE no_key");
    init(&db, &folder, &["--table", "no_key"]).ok();
    let file: toml::Table = toml::from_str(&written(&folder)).unwrap();
    let sql = file["layer"][0]["sql"].as_str().unwrap();
    let plan = db.rows(&format!(
        "EXPLAIN SELECT * FROM ({sql}) AS q WHERE geom && ST_MakeEnvelope(0, 0, 100000, 100000, 900913)"
    ));
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("no_key_geom_idx")), "{plan:#?}");
}

#[test]
fn of_the_columns_of_openstreetmap_those_with_values_become_properties() {
    let (db, folder) = (database("osm2pgsql"), Folder::new());
    init(&db, &folder, &[]).ok();
    seeds(&db, &folder, &format!("{}.mbtiles", db.name));
    let text = written(&folder);
    let file: toml::Table = toml::from_str(&text).unwrap();
    let layers = file["layer"].as_array().unwrap();
    let layer = layers.iter().find(|layer| layer["name"].as_str() == Some("planet_osm_point")).unwrap();
    let properties: Vec<&str> = layer["properties"].as_array().unwrap().iter().filter_map(|one| one.as_str()).collect();
    assert_eq!(properties, ["osm_id", "amenity", "highway", "name", "shop"]);
    let text = text.replace("\n#  ", "");
    for part in
        ["# Of 69 columns these have a value in the most rows", "Add what the map needs", "surface", "wetland", "tags"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// However different the numbers are today: the next update may bring a way that is split.
#[test]
fn the_number_of_an_object_of_openstreetmap_is_a_key_of_points_alone() {
    let (db, folder) = (database("osm2pgsql"), Folder::new());
    let said = init(&db, &folder, &[]).ok().stdout;
    let (point, line) = ("\"public\".\"planet_osm_point\"", "\"public\".\"planet_osm_line\"");
    let remedy = format!("ALTER TABLE {line} ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;");
    for text in [
        format!("ALTER TABLE {point} ADD PRIMARY KEY (\"osm_id\");"),
        format!(
            "{line} has no key (osm_id is none: osm2pgsql splits long ways and relations into several rows), so its rows are told apart by their whole content, which costs time. Mend it: {remedy} osm2pgsql --append keeps that column; --create makes the table anew, without it"
        ),
        "note: \"public\".\"planet_osm_roads\" holds rows of osm2pgsql's table of lines once more, for low zooms: leave it out".to_owned(),
    ] {
        assert!(said.contains(&text), "{text}: {said}");
    }
    assert!(!said.contains(&format!("ALTER TABLE {line} ADD PRIMARY KEY")), "{said}");
    let output = format!("{}.mbtiles", db.name);
    with_file(&db, &folder, &["track", "install"]).ok();
    seeds(&db, &folder, &output);
    // The update that would break a key.
    db.run("INSERT INTO planet_osm_line SELECT osm_id, name, ST_Translate(way, 100, 100) FROM planet_osm_line WHERE osm_id = 7");
    with_file(&db, &folder, &["reseed"]).ok();
    let reseeded = Archive::open(&folder.beside(&output)).tiles();
    std::fs::remove_file(folder.beside(&output)).unwrap();
    assert_eq!(reseeded, seeds(&db, &folder, &output).tiles());
    db.run(&remedy);
    let said = init(&db, &folder, &["--table", "planet_osm_line", "--output", "keyed.toml"]).ok().stdout;
    assert!(!said.contains("note:"), "{said}");
}

#[test]
fn a_foreign_table_is_drawn_and_its_limits_are_said() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run("SET search_path = public");
    db.run("CREATE TABLE far (id int PRIMARY KEY, name text, geom geometry(Point, 4326));
        INSERT INTO far SELECT i, 'n' || i, ST_SetSRID(ST_MakePoint(i % 360 - 180, i % 160 - 80), 4326) FROM generate_series(1, 200) AS i;
        CREATE EXTENSION postgres_fdw");
    let server = format!(
        "CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (dbname '{}', {})",
        db.name,
        own_server(&db)
    );
    db.run(&format!("{server}; CREATE USER MAPPING FOR CURRENT_USER SERVER here OPTIONS ({});
        CREATE FOREIGN TABLE near (id int, name text, geom geometry(Point, 4326)) SERVER here OPTIONS (schema_name 'public', table_name 'far')", own_role(&db)));
    let said = init(&db, &folder, &["--table", "near"]).ok().stdout;
    for line in ["near   foreign table  geom    POINT  4326  200", "is a foreign table, whose changes no trigger notes"]
    {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_eq!(layers(&seeds(&db, &folder, "near.mbtiles")), ["near"]);
    // One whose server is gone does not keep the others from being drawn.
    db.run("CREATE SERVER gone FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1'); CREATE USER MAPPING FOR CURRENT_USER SERVER gone;
        CREATE FOREIGN TABLE absent (id int, geom geometry(Point, 4326)) SERVER gone");
    let said = init(&db, &folder, &["--output", "all.toml"]).ok().stdout;
    assert!(said.contains("not drawn: geom of absent: it cannot be read: could not connect to server"), "{said}");
    assert!(said.contains("all.toml: 2 layers"), "{said}");
}

/// The options by which a server reaches itself.
fn own_server(db: &Db) -> String {
    let row =
        &db.rows("SELECT current_setting('port'), split_part(current_setting('unix_socket_directories'), ',', 1)")[0];
    format!("port '{}', host '{}'", row.get::<_, String>(0), row.get::<_, String>(1).trim())
}

/// The option by which it lets itself in.
fn own_role(db: &Db) -> String {
    format!("user '{}'", db.rows("SELECT current_user::text")[0].get::<_, String>(0))
}

/// A table of more than a quarter of a gigabyte is read in part: its rows are estimated.
#[test]
fn of_a_large_table_a_sample_is_read() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run("SET search_path = public");
    // Pages that hold one row each.
    db.run("CREATE UNLOGGED TABLE wide (id int PRIMARY KEY, padding text, geom geometry(Point, 4326)) WITH (fillfactor = 10);
        ALTER TABLE wide ALTER padding SET STORAGE PLAIN;
        INSERT INTO wide SELECT i, repeat('x', 7000), ST_SetSRID(ST_MakePoint(i % 360 - 180, i % 160 - 80), 4326) FROM generate_series(1, 34000) AS i;
        CREATE INDEX ON wide USING gist (geom); ANALYZE wide");
    let said = init(&db, &folder, &[]).ok().stdout;
    assert!(said.contains("  ~34"), "{said}");
    let text = written(&folder);
    assert!(text.contains("[layer.cluster]"), "{text}");
}

#[test]
fn polygons_that_are_not_valid_are_repaired_and_named_with_the_remedy() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run("SET search_path = public");
    // A ring that crosses itself, with many points; another that is valid, and a small one that is not.
    db.run(
        "CREATE TABLE lands (id int PRIMARY KEY, geom geometry(Geometry, 4326));
        INSERT INTO lands SELECT 1, ST_Segmentize('SRID=4326;POLYGON((0 0, 40 40, 40 0, 0 40, 0 0))'::geometry, 0.1);
        INSERT INTO lands SELECT 2, ST_Buffer('SRID=4326;POINT(-50 0)'::geometry, 20, 400);
        INSERT INTO lands VALUES (3, 'SRID=4326;POLYGON((-100 0, -60 40, -60 0, -100 40, -100 0))'), (4, 'SRID=4326;LINESTRING(1 1, 1 1)');
        CREATE INDEX ON lands USING gist (geom)",
    );
    let said = init(&db, &folder, &[]).ok().stdout;
    let remedy = "UPDATE \"public\".\"lands\" SET \"geom\" = ST_CollectionExtract(ST_MakeValid(\"geom\"), 3) WHERE NOT (ST_IsValidDetail(\"geom\")).valid AND GeometryType(\"geom\") IN ('POLYGON', 'MULTIPOLYGON');";
    for part in [
        &format!(
            "has polygons that are not valid (2 of those looked at), such as rings that cross each other: they are {REPAIRED}. Or mend the table, and leave repair out: "
        ),
        remedy,
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let doctor = with_file(&db, &folder, &["doctor"]).stdout;
    let named = format!(
        "layer \"lands\": 2 rows of those looked at are polygons that are not valid (1, 3); they are {REPAIRED}"
    );
    assert!(doctor.contains(&named), "{doctor}");
    leave_repair_out(&folder);
    let doctor = with_file(&db, &folder, &["doctor"]).stdout;
    for part in [
        "2 rows of those looked at are polygons that are not valid: PostGIS may draw them wrongly or leave parts of them out: 1, 3",
        "set repair = true in the layer, which checks each row and repairs such rows, once in a seed and in each statement of a reseed, or mend them in the table: ",
        remedy,
    ] {
        assert!(doctor.contains(part), "{part}: {doctor}");
    }
    // As doctor prints it, in psql.
    let printed = &doctor[doctor.find("UPDATE ").unwrap()..];
    let printed = &printed[..=printed.find(';').unwrap()];
    let ran = std::process::Command::new("psql").args(["-XAt", &db.url, "-c", printed]).output().unwrap();
    let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8(said).unwrap());
    assert_eq!(said, ["UPDATE 2\n", ""]);
    assert!(!init(&db, &folder, &["--output", "again.toml"]).ok().stdout.contains("not valid"));
    assert!(!std::fs::read_to_string(folder.beside("again.toml")).unwrap().contains("repair"));
    let kept = "SELECT ST_AsText(geom) = 'LINESTRING(1 1,1 1)' FROM lands WHERE id = 4";
    assert!(db.value::<bool>(kept), "a line that is not valid stays as it is");

    // A column of polygons takes one of polygons in parts.
    db.run(
        "CREATE TABLE fields (id int PRIMARY KEY, geom geometry(Polygon, 4326));
        INSERT INTO fields SELECT 1, ST_Segmentize('SRID=4326;POLYGON((0 0, 40 40, 40 0, 0 40, 0 0))'::geometry, 0.1);
        CREATE INDEX ON fields USING gist (geom)",
    );
    let said = init(&db, &folder, &["--table", "fields", "--output", "fields.toml"]).ok().stdout;
    let remedy = "ALTER TABLE \"public\".\"fields\" ALTER COLUMN \"geom\" TYPE geometry(MultiPolygon, 4326) USING ST_Multi(ST_CollectionExtract(ST_MakeValid(\"geom\"), 3));";
    assert!(said.contains(remedy), "{said}");
    db.run(&remedy.replace("\"public\".", ""));
    assert!(db.value::<bool>("SELECT ST_IsValid(geom) AND ST_NumGeometries(geom) = 2 FROM fields"));
}

/// A map client draws a feature of at most 65,535 vertices at once.
#[test]
fn a_coast_in_fine_detail_is_simplified_where_a_map_cannot_show_it() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run("SET search_path = public");
    db.run(
        "CREATE TABLE coasts AS WITH shore AS (
                SELECT n, 2 * pi() * n / 150000 AS angle, 40 + 0.4 * sin(n / 5.0) AS radius FROM generate_series(0, 149999) AS n),
            ring AS (SELECT ST_MakeLine(ST_MakePoint(radius * cos(angle), radius * sin(angle)) ORDER BY n) AS g FROM shore)
        SELECT 1 AS id, ST_SetSRID(ST_MakePolygon(ST_AddPoint(g, ST_StartPoint(g))), 4326)::geometry(Polygon, 4326) AS geom FROM ring;
        ALTER TABLE coasts ADD PRIMARY KEY (id); CREATE INDEX ON coasts USING gist (geom);
        CREATE TABLE fields AS SELECT n AS id, ST_SetSRID(ST_Expand(ST_MakePoint(n / 10, n % 40), 0.2), 4326)::geometry(Polygon, 4326) AS geom
            FROM generate_series(1, 1000) AS n;
        ALTER TABLE fields ADD PRIMARY KEY (id); CREATE INDEX ON fields USING gist (geom)",
    );
    init(&db, &folder, &[]).ok();
    let text = written(&folder);
    let lines = "[layer.simplify]\nzoom = \"0-2\"\ntolerance = 0.5\n";
    assert_eq!((text.matches(lines).count(), text.matches("[layer.simplify]").count()), (1, 1), "{text}");
    with_file(&db, &folder, &["seed", "--zoom", "0", "--progress", "none"]).ok();
    let target = format!("{}.mbtiles", db.name);
    let mut inspecting = bare_program();
    inspecting.args(["inspect", &target, "0/0/0", "--layer", "coasts", "--geojson"]).current_dir(folder.beside(""));
    let shown = run(&mut inspecting).ok().stdout;
    let positions = shown.matches('[').count();
    assert!(positions < 20_000, "{positions}");
}

#[test]
fn a_partitioned_table_gets_a_key_that_it_can_have() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run("SET search_path = public");
    db.run(
        "CREATE TABLE events (kind int, geom geometry(Point, 4326)) PARTITION BY LIST (kind);
        CREATE TABLE events_1 PARTITION OF events DEFAULT;
        INSERT INTO events SELECT i % 3, ST_SetSRID(ST_MakePoint(i % 7, 1), 4326) FROM generate_series(1, 60) AS i;
        CREATE INDEX ON events USING gist (geom)",
    );
    let said = init(&db, &folder, &["--table", "events"]).ok().stdout;
    let remedy = said.split("Mend it: ").nth(1).unwrap().lines().next().unwrap();
    assert_eq!(remedy, "ALTER TABLE \"public\".\"events\" ADD COLUMN id uuid NOT NULL DEFAULT gen_random_uuid();");
    db.run(remedy);
    let said = anew(&db, &folder, &["--table", "events"]).ok().stdout;
    assert!(said.contains("The values of \"id\" are all different today, and each run checks that\n"), "{said}");
}

#[test]
fn of_a_table_without_rows_only_an_index_tells_a_key() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run("SET search_path = public");
    db.run(
        "CREATE TABLE planet_osm_point (osm_id bigint, name text, way geometry(Point, 3857));
         CREATE TABLE keyed (osm_id bigint PRIMARY KEY, way geometry(Point, 3857));
         CREATE INDEX ON planet_osm_point USING gist (way); CREATE INDEX ON keyed USING gist (way)",
    );
    let said = init(&db, &folder, &[]).ok().stdout;
    let note = "note: \"public\".\"planet_osm_point\" has no row, so its zooms, and what tells rows apart, are not known: fill it, and run oar-tiles init again\n";
    assert!(said.contains("note: \"public\".\"keyed\" has no row, so its zooms are not known: fill it, and"), "{said}");
    assert!(said.contains(note) && !said.contains("all different today"), "{said}");
    let text = written(&folder);
    assert!(text.contains("key = [\"row_digest\", \"row_copy\"]") && text.contains("key = [\"osm_id\"]"), "{text}");
    let seeded = with_file(&db, &folder, &["seed"]).ok();
    let warning = "layer \"planet_osm_point\" has no feature to draw: is its table filled, and its where right?";
    assert!(seeded.stderr.contains(warning), "{}", seeded.stderr);
    assert!(seeded.stdout.contains("; nothing was rendered\n"), "{}", seeded.stdout);
}

/// The functions that mend jumps, as the manual prints them.
fn create_functions_of_the_manual(db: &Db) {
    let manual = std::fs::read_to_string(repository("docs/world-edge.md")).unwrap();
    let functions = manual.split("```sql\n").filter(|block| block.starts_with("CREATE FUNCTION "));
    let functions: Vec<&str> = functions.map(|block| block.split("```").next().unwrap()).collect();
    assert_eq!(functions.len(), 3);
    for function in functions {
        db.run(function);
    }
}

/// What `init` and `doctor` say of rows that a layer repairs.
const REPAIRED: &str = "repaired while drawn (repair = true), which checks each row and repairs such rows, once in a seed and in each statement of a reseed";

/// Takes `repair = true` out of the file that `init` wrote.
fn leave_repair_out(folder: &Folder) {
    let text = written(folder);
    assert!(text.contains("\nrepair = true\n"), "{text}");
    std::fs::write(folder.beside("oar-tiles.toml"), text.replace("\nrepair = true\n", "\n")).unwrap();
}

/// Boxes around the world, and lines along a parallel, beside shapes that jump.
const AROUND_THE_WORLD: &str = "
CREATE TABLE zone (id int PRIMARY KEY, geom geometry(Geometry, 4326), place geography);
INSERT INTO zone VALUES (1, 'SRID=4326;POLYGON((-180 -60,180 -60,180 60,-180 60,-180 -60))'),
    (2, 'SRID=4326;LINESTRING(-180 0,180 0)'),
    (3, 'SRID=4326;POLYGON((170 62,-170 62,-170 70,170 70,170 62))'),
    (4, 'SRID=4326;POLYGON((-180 10,180 10,180 20,0 20,-180 20,-180 10))'),
    (5, 'SRID=4326;MULTIPOLYGON(((-180 -20,180 -20,180 -10,-180 -10,-180 -20)),((0 0,1 0,1 1,0 0)))'),
    (6, 'SRID=4326;MULTIPOLYGON(((-180 -20,180 -20,180 -10,-180 -10,-180 -20)),((170 62,-170 62,-170 70,170 70,170 62)))'),
    (7, 'SRID=4326;MULTILINESTRING((-180 1,180 1),(179 3,-179 3))'),
    (8, 'SRID=4326;POLYGON EMPTY'), (9, NULL), (10, 'SRID=4326;GEOMETRYCOLLECTION(LINESTRING(170 0,-170 0),POINT(1 1))');
CREATE INDEX ON zone USING gist (geom)";

#[test]
fn what_mends_jumps_leaves_all_other_shapes_as_they_are() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run("SET search_path = public");
    db.run(AROUND_THE_WORLD);
    create_functions_of_the_manual(&db);
    let jumps = format!(
        "4 rows have lines or rings that jump from one side of ±180° to the other (10, 3, 6, …); they are {REPAIRED}"
    );
    let remedy = "UPDATE \"public\".\"zone\" SET \"geom\" = unwrapped(\"geom\") WHERE jumps(\"geom\");";
    let said = init(&db, &folder, &["--table", "zone"]).ok().stdout;
    assert!(said.contains(&jumps) && said.contains(remedy), "{said}");
    let shapes = || -> Vec<String> {
        let rows = db.rows("SELECT coalesce(ST_AsText(ST_Normalize(geom)), '-') FROM zone ORDER BY id");
        rows.iter().map(|row| row.get(0)).collect()
    };
    let before = shapes();
    // Whoever runs the function on all rows loses nothing either.
    for statement in [remedy, "UPDATE zone SET geom = unwrapped(geom)"] {
        db.run(statement);
        let after = shapes();
        let kept: Vec<usize> = (0..10).filter(|row| before[*row] == after[*row]).map(|row| row + 1).collect();
        assert_eq!(kept, [1, 2, 4, 5, 8, 9, 10], "{after:?}");
    }
    let mended = "SELECT bool_and(ST_IsValid(geom) AND NOT jumps(geom)) AND sum(ST_Area(geom)) = 20 * 8 * 2 + 360 * 10 FROM zone WHERE id IN (3, 6, 7)";
    assert!(db.value::<bool>(mended), "{:?}", shapes());

    // The same shapes as geographies.
    db.run("UPDATE zone SET place = 'POLYGON((170 62,-170 62,-170 70,170 70,170 62))', geom = NULL WHERE id = 3; UPDATE zone SET place = 'LINESTRING(1 1, 2 2)' WHERE place IS NULL");
    db.run("ALTER TABLE zone DROP COLUMN geom");
    let said = anew(&db, &folder, &["--table", "zone"]).ok().stdout;
    let remedy = "UPDATE \"public\".\"zone\" SET \"place\" = unwrapped(\"place\"::geometry)::geography WHERE jumps(\"place\"::geometry);";
    assert!(said.contains("1 row has lines or rings that jump") && said.contains(remedy), "{said}");
    let seed = || with_file(&db, &folder, &["seed", "--zoom", "0-3", "--output", "t.mbtiles"]).ok().stderr;
    assert!(!seed().contains("jump"), "{}", seed());
    leave_repair_out(&folder);
    assert!(seed().contains(remedy), "{}", seed());
    db.run(remedy);
    assert!(!seed().contains("jump"), "{}", seed());
}

#[test]
fn shapes_that_jump_across_the_edge_are_repaired_and_named_with_sql_that_mends_them() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run("SET search_path = public");
    atlas::load(&db, "countries", "world-atlas/countries-50m.json", "countries");
    let rows = "3 rows have lines or rings that jump from one side of ±180° to the other";
    let jumps = format!("{rows}: they are drawn as bands across the map: 171, 240, 76");
    let remedy = "UPDATE \"public\".\"countries\" SET \"g\" = unwrapped(\"g\") WHERE jumps(\"g\");";
    let said = init(&db, &folder, &[]).ok().stdout;
    let functions = "with the functions unwrapped and jumps of docs/world-edge.md";
    let repaired = format!("layer \"countries\": {rows} (171, 240, 76); they are {REPAIRED}");
    let note = format!("note: {repaired}. Or mend the table, and leave repair out: {remedy} {functions}");
    assert!(said.contains(&note), "{said}");
    let doctor = with_file(&db, &folder, &["doctor"]).stdout;
    assert!(doctor.contains(&repaired) && !doctor.contains(remedy), "{doctor}");
    leave_repair_out(&folder);
    let doctor = with_file(&db, &folder, &["doctor"]).stdout;
    let cure = format!(
        "set repair = true in the layer, which checks each row and repairs such rows, once in a seed and in each statement of a reseed, or mend them in the table: {remedy}"
    );
    assert!(doctor.contains(&jumps) && doctor.contains(&cure), "{doctor}");
    let mend = format!("{jumps}. Set repair = true in the layer, or mend them: {remedy} {functions}");
    let seed = || with_file(&db, &folder, &["seed", "--zoom", "0-3", "--output", "t.mbtiles"]).ok().stderr;
    assert!(seed().contains(&format!("layer \"countries\": {mend}")));
    create_functions_of_the_manual(&db);
    db.run(remedy);
    let holds = |name: &str, place: &str| {
        let sql = format!(
            "SELECT ST_IsValid(g) AND ST_Intersects(g, 'SRID=4326;POINT({place})') FROM countries WHERE name = '{name}'"
        );
        db.value::<bool>(&sql)
    };
    for (name, inside) in
        [("Russia", "100 60"), ("Russia", "-175 66.8"), ("Antarctica", "20 -80"), ("Antarctica", "90 -88")]
    {
        assert!(holds(name, inside), "{name} {inside}");
    }
    assert!(!holds("Russia", "-30 67") && !holds("Fiji", "0 -16.5"));
    assert!(!seed().contains("jump"), "{}", seed());
}
