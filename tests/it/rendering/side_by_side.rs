//! Several sessions read the rows of a table side by side: tiles are those of one session, on one snapshot.

use std::path::Path;

use crate::support::gate::PASS;
use crate::support::program::{run, seed_command, start_seed, wait};
use crate::support::{Archive, Db, Gate, seed};

/// Many rows in few tiles. Their keys say nothing of where they lie in the table; some are NULL, others have many
/// equals.
const MANY: &str = "
    CREATE TABLE many AS SELECT md5(i::text)::uuid AS tag, (i * 7919::int8) % 30011 AS wide, (hashint4(i) % 5)::int2 AS short, hashint4(i * 3) AS whole,
        CASE WHEN i % 9 > 0 THEN left(md5((i * 5)::text), 3) END AS maybe,
        (ARRAY['zebra', 'Ärger', 'apple', 'Zoo', 'éclair', ' blank', '_under', 'a''quote', 'ab', 'a b'])[1 + i % 10] || '-' || i AS word,
        rpad(chr(97 + i % 26) || i, 9)::char(12) AS padded, i / 3.0 AS exact, repeat('x', 40) AS filler,
        ST_SetSRID(ST_MakePoint(90 + (hashint4(i) % 1000) * 3e-2, 23 + (hashint4(-i) % 1000) * 3e-2), 4326) AS place
    FROM generate_series(1, 16000) AS i;
    CREATE INDEX ON many USING gist (place); CREATE UNIQUE INDEX ON many (tag); ANALYZE many";

/// How the log says that sessions read side by side.
const BY_SESSIONS: &str = "parts of its rows are read side by side";

fn seeded(db: &Db, folder: &Path, key: &str, workers: &str, rows_mb: &str) -> (Archive, String) {
    let (config, output) = (folder.join("c.toml"), folder.join(format!("{workers}-{rows_mb}.mbtiles")));
    let layer = format!(
        "[[layer]]\nname = \"many\"\ntable = \"many\"\nkey = {key}\nproperties = [\"tag\", \"short\", \"maybe\", \"word\"]\n"
    );
    std::fs::write(&config, layer).unwrap();
    let arguments = ["--config", config.to_str().unwrap(), "--zoom", "1-4", "-vv", "--force", "--workers", workers];
    let (mut command, report) = (seed_command(&db.url, &output, &arguments), folder.join("r.json"));
    let ran = run(command.arg("--report").arg(&report).env("OAR_TILES_ROWS_MB", rows_mb)).ok();
    assert!(ran.stderr.contains(" rows are cached, "), "{}", ran.stderr);
    // The survey may say so, too.
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let lines: Vec<&str> =
        ran.stderr.lines().filter_map(|line| line.split_once(BY_SESSIONS)).map(|(line, _)| line).collect();
    let expected = lines.get(1).and_then(|line| line.split_whitespace().last()).unwrap_or("1");
    assert_eq!(report["reading_sessions"].to_string(), expected, "{}", ran.stderr);
    (Archive::open(&output), ran.stderr)
}

#[test]
fn the_order_in_tiles_is_that_of_the_key_however_many_sessions_read() {
    let db = Db::new();
    db.run(MANY);
    let folder = tempfile::tempdir().unwrap();
    for (key, is_cut) in [
        ("[\"tag\"]", true),
        ("[\"wide\", \"tag\"]", true),
        ("[\"short\", \"whole\", \"tag\"]", true),
        ("[\"maybe\", \"word\", \"tag\"]", true),
        ("[\"word\", \"tag\"]", true),
        ("[\"padded\", \"tag\"]", true),
        // A type whose bounds are not given as texts.
        ("[\"exact\", \"tag\"]", false),
    ] {
        let (one, said) = seeded(&db, folder.path(), key, "1", "100");
        assert!(!said.contains(BY_SESSIONS), "{said}");
        let expected = one.stored();
        for rows_mb in ["100", "1"] {
            let (several, said) = seeded(&db, folder.path(), key, "4", rows_mb);
            // The survey, and the reading of rows.
            assert_eq!(said.matches(BY_SESSIONS).count(), 1 + usize::from(is_cut), "{key}: {said}");
            assert_eq!(said.contains("in a scratch file"), rows_mb == "1", "{said}");
            assert!(several.stored() == expected, "{key}, rows_mb = {rows_mb}");
        }
    }
}

/// A config of the rows of `from` (a setting with the table or query), and what a seed of it by some workers says and
/// stores.
fn seeded_from(url: &str, folder: &Path, from: &str, workers: &str, more: &[&str]) -> (Archive, String) {
    let (config, output) = (folder.join("v.toml"), folder.join("v.mbtiles"));
    let layer = format!(
        "[[layer]]\nname = \"many\"\n{from}\ngeometry = \"place\"\nkey = [\"tag\"]\nproperties = [\"tag\", \"short\", \"maybe\", \"word\"]\n"
    );
    std::fs::write(&config, layer).unwrap();
    let arguments = ["--config", config.to_str().unwrap(), "--zoom", "1-4", "-vv", "--force", "--workers", workers];
    let ran = seed(url, &output, &[&arguments[..], more].concat()).ok();
    let said = format!("{}{}", ran.stderr, ran.stdout);
    assert!(said.contains(" rows are cached, "), "{said}");
    (Archive::open(&output), said)
}

#[test]
fn views_queries_and_parts_of_the_world_are_read_by_several_sessions_where_that_is_cheap() {
    let db = Db::new();
    db.run(MANY);
    // Rows without a place are skipped and counted once, whoever reads them.
    db.run(
        "INSERT INTO many (tag, place) VALUES (gen_random_uuid(), NULL), (gen_random_uuid(), 'SRID=4326;POINT EMPTY');
         CREATE TABLE shorts AS SELECT n::int2 AS short, 'short ' || n AS called FROM generate_series(0, 4) AS n;
         CREATE VIEW shown AS SELECT * FROM many;
         CREATE VIEW joined AS SELECT many.*, called FROM many LEFT JOIN shorts USING (short);
         CREATE VIEW made AS SELECT tag, short, maybe, word, ST_SetSRID(ST_MakePoint(ST_X(place), ST_Y(place)), 4326)::geometry(Point, 4326) AS place FROM many;
         CREATE VIEW distinct_rows AS SELECT DISTINCT ON (tag) tag, short, maybe, word, place FROM many ORDER BY tag, word;
         CREATE VIEW costly AS SELECT tag, short, maybe, word, place FROM many AS m
             WHERE (SELECT count(*) FROM shorts WHERE called < word) >= 0;
         CREATE VIEW dear AS SELECT tag, short, maybe, word, place FROM many WHERE place IS NULL OR ST_Transform(place, 3857) IS NOT NULL;
         ANALYZE",
    );
    let columns = "tag, short, maybe, word, place";
    let role = format!("{}_some_columns", db.name);
    db.run(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT ({columns}) ON many TO {role}"));
    let folder = tempfile::tempdir().unwrap();
    let (one, _) = seeded_from(&db.url, folder.path(), "table = \"many\"", "1", &[]);
    let all = one.stored();
    let query = format!("sql = \"SELECT {columns} FROM many WHERE true\"");
    let part = ["--bbox", "61,1,111,52"];
    let (one, _) = seeded_from(&db.url, folder.path(), "table = \"many\"", "1", &part);
    let of_part = one.stored();
    assert!(of_part != all);
    for (from, sessions) in [
        ("table = \"shown\"", true),
        ("table = \"joined\"", true),
        ("table = \"made\"", true),
        (query.as_str(), true),
        ("table = \"distinct_rows\"", false),
        ("table = \"costly\"", false),
        ("table = \"dear\"", false),
    ] {
        let (found, said) = seeded_from(&db.url, folder.path(), from, "4", &[]);
        // The survey, and the reading of rows.
        assert_eq!(said.matches(BY_SESSIONS).count(), if sessions { 2 } else { 0 }, "{from}: {said}");
        assert!(said.contains(" whose geometry is NULL"), "{from}: {said}");
        assert!(found.stored() == all, "{from}");
        let (found, said) = seeded_from(&db.url, folder.path(), from, "4", &part);
        assert_eq!(said.contains(BY_SESSIONS), sessions, "{from}: {said}");
        assert!(found.stored() == of_part, "{from}, a part");
    }
    let (found, said) = seeded_from(&db.url, folder.path(), "table = \"many\"", "4", &part);
    assert_eq!(said.matches(BY_SESSIONS).count(), 2, "{said}");
    assert!(found.stored() == of_part, "a part of the table");
    // A role that may not read the pages one by one, as no role may before PostgreSQL 14.
    let url = db.url.replacen("oar_tiles@", &format!("{role}@"), 1);
    let (found, said) = seeded_from(&url, folder.path(), "table = \"many\"", "4", &[]);
    assert_eq!(said.matches(BY_SESSIONS).count(), 2, "{said}");
    assert!(found.stored() == all, "with rights to some columns");
    db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn a_writer_changes_nothing_for_several_sessions() {
    let db = Db::with_facilities(9_000);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    let layer = format!(
        "[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\nkey = [\"id\"]\nwhere = \"{PASS} = ''\"\nzoom = \"0-4\"\nproperties = [\"id\", \"name\"]\n[run]\nworkers = 3\n"
    );
    std::fs::write(&config, layer).unwrap();
    let arguments = ["--config", config.to_str().unwrap()];
    let (before, output) = (folder.path().join("before.mbtiles"), folder.path().join("t.mbtiles"));
    seed(&db.url, &before, &arguments).ok();
    let gate = Gate::close(&db);
    let child = start_seed(&db.url, &output, &arguments);
    // The sessions of the survey: the table is cut in two.
    gate.wait_for(2);
    db.run(
        "UPDATE api_facility SET location = ST_Translate(location, 0.5, 0.005), name = name || '!' WHERE id > 'D';
         DELETE FROM api_facility WHERE random() < 0.3;
         INSERT INTO api_facility SELECT id || '+', name, address, country_code, location, is_closed, created_at, updated_at FROM api_facility WHERE random() < 0.3",
    );
    gate.open();
    wait(child).ok();
    assert!(Archive::open(&output).stored() == Archive::open(&before).stored(), "the writer shows");
    seed(&db.url, &output, &arguments).ok();
    assert!(Archive::open(&output).stored() != Archive::open(&before).stored(), "the writer has written nothing");
}
