//! What the manual says of SQL types holds: each of its examples is put into a tile.

use oar_tiles::mvt;
use oar_tiles::mvt::MvtValue;

use crate::support::archive::unpacked;
use crate::support::program::{program, run};
use crate::support::{Archive, Db, manual, seed};

/// The rows of its table: an SQL expression, the kind, the value.
fn examples() -> Vec<(String, String, String)> {
    let text = manual::text();
    let table = text.split("| SQL | in the tile | value |\n|---|---|---|\n").nth(1).expect("the table of types");
    let mut found = Vec::new();
    for line in table.lines().take_while(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim_start).collect();
        let [sql, kind, value] = cells[..] else { panic!("{line}") };
        for sql in sql.split("`, `") {
            let value = value.trim_end().trim_matches('`');
            found.push((sql.trim().trim_matches('`').to_owned(), kind.to_owned(), value.to_owned()));
        }
    }
    found
}

fn shown(value: MvtValue<'_>) -> (&'static str, String) {
    match value {
        MvtValue::Bool(yes) => ("bool", yes.to_string()),
        MvtValue::Int(number) | MvtValue::Sint(number) => ("integer", number.to_string()),
        MvtValue::Uint(number) => ("integer", number.to_string()),
        MvtValue::Float(number) => ("float", number.to_string()),
        MvtValue::Double(number) => ("double", number.to_string()),
        MvtValue::Text(text) => ("text", text.to_owned()),
    }
}

#[test]
fn sql_types_are_encoded_as_the_manual_says() {
    let db = Db::new();
    db.run(
        "CREATE TYPE size AS ENUM ('small', 'large'); CREATE DOMAIN whole AS integer;
         CREATE TABLE mill (id int PRIMARY KEY, g geometry(Point, 4326)); INSERT INTO mill VALUES (1, 'SRID=4326;POINT(8 52)')",
    );
    let examples = examples();
    assert!(examples.len() > 20, "{}", examples.len());
    let folder = tempfile::tempdir().unwrap();
    let (config, output) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    let properties: String = examples
        .iter()
        .enumerate()
        .map(|(i, (sql, ..))| format!("p{i} = {}\n", toml::Value::from(sql.as_str())))
        .collect();
    std::fs::write(&config, format!("[[layer]]\nname = \"mill\"\ntable = \"mill\"\n[layer.properties]\n{properties}"))
        .unwrap();
    seed(&db.url, &output, &["--config", config.to_str().unwrap(), "--zoom", "0"]).ok();
    let archive = Archive::open(&output);
    let raw = unpacked(&archive.stored()[&(0, 0, 0)]);
    let layers = mvt::decode(&raw).unwrap();
    let found: std::collections::BTreeMap<&str, MvtValue<'_>> = layers[0].properties(&layers[0].features[0]).collect();
    for (i, (sql, kind, value)) in examples.iter().enumerate() {
        let own = found.get(format!("p{i}").as_str()).copied().map(shown);
        let expected = match kind.as_str() {
            "no property" | "a property for each key" => None,
            kind => Some((kind, value.clone())),
        };
        assert_eq!(own, expected, "{sql}");
        if kind == "a property for each key" {
            assert_eq!((found["a"], found["b"], found.get("c")), (MvtValue::Uint(1), MvtValue::Text("t"), None));
        }
    }
    // And the target describes them so. It cannot describe the keys of jsonb, which is no error.
    let verified = run(program().arg("verify").arg(&output)).ok();
    let note = "note: layer \"mill\" has properties that are not described, first in tile 0/0/0: \"a\", \"b\". The keys of jsonb are such properties; others were renamed or added since the description was written\n";
    assert!(verified.stdout.starts_with(note), "{}", verified.stdout);
    assert!(verified.stdout.contains(": sound ("), "{}", verified.stdout);
}
