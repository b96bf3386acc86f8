//! Databases of other encodings than UTF8, whose texts `ST_AsMVT` would write into tiles as they are.

use crate::support::program::{Run, bare_program, run};
use crate::support::{Archive, Db};

const TABLE: &str = "
    CREATE TABLE mill (id int PRIMARY KEY, name text, built date, height numeric, location geometry(Point, 4326));
    INSERT INTO mill VALUES (1, 'M' || CASE getdatabaseencoding() WHEN 'LATIN1' THEN chr(252) ELSE convert_from(decode('c3bc', 'hex'), 'SQL_ASCII') END || 'hle', '1850-01-01', 12.5, ST_SetSRID(ST_MakePoint(8, 50), 4326));
    CREATE FUNCTION tile(z int, x int, y int) RETURNS bytea LANGUAGE sql STABLE
        AS $$ SELECT ST_AsMVT(t, 'mills') FROM (SELECT m.id, ST_AsMVTGeom(ST_Transform(m.location, 3857), ST_TileEnvelope(z, x, y)) AS geom FROM mill m) AS t $$;";

struct World {
    db: Db,
    folder: tempfile::TempDir,
}

impl World {
    fn new(encoding: &str) -> World {
        let db = Db::encoded(encoding);
        db.run(TABLE);
        World { db, folder: tempfile::tempdir().unwrap() }
    }

    fn run(&self, arguments: &[&str], layer: &str) -> Run {
        let (config, target) = (self.folder.path().join("c.toml"), self.folder.path().join("t.mbtiles"));
        let zoom = if layer.contains("zoom") { "" } else { "zoom = \"0-2\"\n" };
        std::fs::write(&config, format!("[[layer]]\n{layer}\n{zoom}")).unwrap();
        let mut command = bare_program();
        command.args(arguments).args(["--database-url", &self.db.url, "--config"]).arg(config);
        if matches!(arguments, ["seed" | "reseed", ..]) {
            command.args(["--progress", "none", "--output"]).arg(target);
        }
        run(&mut command)
    }
}

const TEXT: &str = "name = \"mills\"\ntable = \"mill\"\nproperties = [\"height\", \"name\"]";
const PLAIN: &str = "name = \"mills\"\ntable = \"mill\"\nproperties = [\"built\", \"height\"]";

#[test]
fn a_layer_with_texts_in_a_database_of_another_encoding_is_refused_before_anything_is_drawn() {
    let world = World::new("LATIN1");
    let text = "layer \"mills\": the encoding of the database is LATIN1, and texts in tiles have to be UTF-8. ST_AsMVT does not convert texts, so the property \"name\" would be damaged. Draw from a copy in a database with the encoding UTF8 (createdb -T template0 -E UTF8 NAME, then pg_dump | psql), or use only numbers, dates and ASCII names";
    world.run(&["seed"], TEXT).fails(2, &[text]);
    world.run(&["config", "--check", "--database"], TEXT).fails(2, &[text]);
    let doctor = world.run(&["doctor"], TEXT);
    assert!(doctor.code == 1 && format!("{}{}", doctor.stdout, doctor.stderr).contains(text), "{}", doctor.stdout);
    assert!(!world.folder.path().join("t.mbtiles").exists());
    let named = "name = \"mills\"\ntable = \"mill\"\nproperties = { \"höhe\" = \"height\" }";
    world.run(&["seed"], named).fails(2, &["so the name of the property \"höhe\" would be damaged"]);
    world
        .run(&["seed"], &PLAIN.replace("\"mills\"", "\"mühlen\""))
        .fails(2, &["so the name of the layer would be damaged"]);
    // What holds ASCII only is drawn.
    world.run(&["seed"], PLAIN).ok();
    world.run(&["reseed", "--dry-run"], TEXT).fails(2, &[text]);
    let seeded = world.run(&["seed", "--force"], "name = \"mills\"\nfunction = \"tile\"\nzoom = \"0-2\"").ok();
    let text = "layer \"mills\": the encoding of the database is LATIN1, and texts in tiles have to be UTF-8. ST_AsMVT does not convert texts, so the function has to, or may write only ASCII";
    assert!(seeded.stderr.contains(text), "{}", seeded.stderr);
}

#[test]
fn texts_of_a_database_that_checks_no_encoding_are_drawn_with_a_warning() {
    let world = World::new("SQL_ASCII");
    let seeded = world.run(&["seed"], TEXT).ok();
    let text = "layer \"mills\": the encoding of the database is SQL_ASCII, so nothing has checked the bytes of its texts, and ST_AsMVT writes them into tiles as they are. They have to be UTF-8, or map clients show other characters or refuse the tiles: look at the property \"name\"";
    assert!(seeded.stderr.contains(text), "{}", seeded.stderr);
    assert_eq!(Archive::open(&world.folder.path().join("t.mbtiles")).stored().len(), 3);
    assert!(!world.run(&["seed"], PLAIN).ok().stderr.contains("SQL_ASCII"));
}
