//! Points with a column of jsonb are drawn from cached rows as the database draws them.

use super::cached_rows::compare;
use crate::support::program::{run, seed_command};
use crate::support::{Archive, Db};

const OBJECTS: &str = include_str!("cached_objects.sql");

fn layer(properties: &str, more: &str) -> String {
    format!("[[layer]]\nname = \"objects\"\ntable = \"objects\"\nproperties = {properties}\n{more}\n")
}

#[test]
fn members_of_objects_are_drawn_from_rows_read_once_as_the_database_draws_them() {
    let db = Db::new();
    db.run(OBJECTS);
    let layers = [
        ("[\"object\", \"id\", \"word\"]", ""),
        ("[\"id\", \"object\", \"word\", \"size\"]", "feature_id = \"id\""),
        ("[\"word\", \"size\", \"tags\"]", "where = \"id % 3 > 0\""),
        ("[\"object\"]", ""),
        // A member may have the name of a tile's address, and its value.
        ("{ z = \"!zoom!\", tags = \"object\", zoom = \"!zoom!\", size = \"size\", x = \"!x!\" }", ""),
        ("{ word = \"word\", all = \"to_jsonb(word) || object\" }", ""),
        ("[\"size\", \"object\"]", "on_large_tile = \"thin\"\nmax_tile_features = 100\nrank = \"size\""),
    ];
    let named = |(number, (properties, more)): (usize, &(&str, &str))| {
        layer(properties, more).replace("name = \"objects\"", &format!("name = \"objects{number}\""))
    };
    let all: String = layers.iter().enumerate().map(named).collect();
    compare(&db, "0-8", &all, &["--workers", "3"], layers.len());
    // Several sessions read parts of them.
    db.run(
        "CREATE TABLE many AS SELECT id + 20000 * n AS id, place, size, object FROM objects CROSS JOIN generate_series(0, 3) AS n;
         ALTER TABLE many ADD PRIMARY KEY (id); ANALYZE many",
    );
    let many = layer("[\"size\", \"object\"]", "").replace("\"objects\"", "\"many\"");
    compare(&db, "0-6", &many, &["--workers", "3"], 1);
}

#[test]
fn lines_with_objects_are_drawn_from_rows_read_once_too() {
    let db = Db::new();
    db.run(OBJECTS);
    db.run(
        "CREATE TABLE lines AS SELECT id, word, object, ST_MakeLine(place, ST_Translate(place, 0.1, 0.1)) AS line FROM objects;
         ALTER TABLE lines ADD PRIMARY KEY (id); ANALYZE lines",
    );
    let lines = layer("[\"word\", \"object\", \"id\"]", "").replace("\"objects\"", "\"lines\"");
    compare(&db, "0-8", &lines, &[], 1);
}

#[test]
fn objects_whose_members_are_not_known_are_left_to_the_database() {
    let db = Db::new();
    db.run(OBJECTS);
    compare(&db, "0-6", &layer("[\"object\", \"word\", \"tags\"]", ""), &[], 0);
    // PostGIS writes a truth value anew for each feature if the name is so long.
    for (length, read_once) in [(255, 1), (256, 0)] {
        db.run(&format!(
            "UPDATE objects SET object = jsonb_build_object(repeat('n', {length}), true, 'other', id % 2 = 0) WHERE id % 100 < 3"
        ));
        let stderr = compare(&db, "0-6", &layer("[\"object\", \"word\"]", ""), &[], read_once);
        assert_eq!(stderr.contains("ST_AsMVT does not write them as plain points"), read_once == 0, "{stderr}");
    }
}

#[test]
fn members_of_objects_are_drawn_from_a_scratch_file_too() {
    let db = Db::new();
    db.run(OBJECTS);
    db.run(
        "CREATE TABLE wide AS SELECT id, place, word, object || jsonb_build_object('text', repeat(md5(id::text), 40)) AS object
         FROM objects WHERE jsonb_typeof(object) = 'object';
         ALTER TABLE wide ADD PRIMARY KEY (id)",
    );
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, layer("[\"id\", \"object\", \"word\"]", "").replace("\"objects\"", "\"wide\"")).unwrap();
    let seeded = |rows_mb: &str| {
        let output = folder.path().join(format!("{rows_mb}.mbtiles"));
        let arguments = ["--config", config.to_str().unwrap(), "--zoom", "0-5", "-vv"];
        let run = run(seed_command(&db.url, &output, &arguments).env("OAR_TILES_ROWS_MB", rows_mb)).ok();
        (Archive::open(&output).tiles(), run.stderr)
    };
    let ((spilled, stderr), (expected, _)) = (seeded("1"), seeded("0"));
    assert!(stderr.contains("rows are cached, in a scratch file") && stderr.contains(" pieces"), "{stderr}");
    assert!(!stderr.contains("please report"), "{stderr}");
    assert!(spilled == expected);
}
