//! What a target says of its database: enough to tell another one, nothing that a visitor could use.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::places::Places;
use crate::support::program::{program, run};
use crate::support::tracked::{SOME, Tracked};
use crate::support::{Archive, Db};

fn manifest(target: &Path) -> Value {
    serde_json::from_str(&Archive::open(target).metadata("oar_tiles_manifest").unwrap()).unwrap()
}

/// Has a manifest say something else of its database.
pub(crate) fn set_database(target: &Path, database: &Value) {
    let mut manifest = manifest(target);
    manifest["database"] = database.clone();
    let archive = rusqlite::Connection::open(target).unwrap();
    let sql = "UPDATE metadata SET value = ?1 WHERE name = 'oar_tiles_manifest'";
    assert_eq!(archive.execute(sql, [manifest.to_string()]).unwrap(), 1);
}

/// What manifests said of the database at first.
pub(crate) fn plain(db: &Db) -> Value {
    let text: String = db.value(
        "SELECT json_build_object('system_identifier', (SELECT system_identifier::text FROM pg_control_system()), 'name', current_database(),
            'timeline', (SELECT timeline_id FROM pg_control_checkpoint()), 'oid', (SELECT oid::int8 FROM pg_database WHERE datname = current_database()),
            'postgresql', current_setting('server_version'), 'postgis', postgis_lib_version())::text",
    );
    serde_json::from_str(&text).unwrap()
}

#[test]
fn nothing_in_a_target_tells_a_visitor_which_database_it_shows() {
    let (db, places) = (Db::with_facilities(50), Places::new());
    run(program().args(["track", "install", "--database-url", &db.url])).ok();
    let identity = plain(&db);
    let secrets: Vec<String> = ["name", "oid", "system_identifier", "postgresql", "postgis"]
        .iter()
        .map(|key| identity[key].as_str().map_or_else(|| identity[key].to_string(), str::to_owned))
        .collect();
    for name in ["t.mbtiles", "tiles/", "s3:tiles/"] {
        places.seed(&db, name, &["--zoom", "0-2", "--public-url", "relative"]).ok();
        let text = match name {
            "t.mbtiles" => Archive::open(Path::new(&places.place(name))).metadata("oar_tiles_manifest").unwrap(),
            "tiles/" => std::fs::read_to_string(Path::new(&places.place(name)).join("metadata.json")).unwrap(),
            _ => String::from_utf8(places.prefix.objects()["tiles/metadata.json"].clone()).unwrap(),
        };
        for secret in &secrets {
            // As a word: a number may be a part of another one.
            let is_said =
                text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.')).any(|word| word == secret);
            assert!(!is_said, "{secret} in {text}");
        }
    }
    let said = manifest(Path::new(&places.place("t.mbtiles")))["database"].clone();
    let keys: Vec<&String> = said.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["cluster", "database", "key", "postgis", "timeline"]);
    assert!(said.as_object().unwrap().values().all(|hash| hash.as_str().unwrap().len() == 64), "{said}");
}

#[test]
fn another_database_and_another_postgis_are_told_by_the_logs_key() {
    let tracked = Tracked::facilities(100);
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-3"]);
    let said = manifest(&target)["database"].clone();
    for (field, text) in [
        ("cluster", "it shows another database than this one (\"test_"),
        ("database", "it shows another database than this one (\"test_"),
        (
            "timeline",
            "the database was restored, or failed over to a standby, since then (it is on timeline 1, and was on another one)",
        ),
        ("postgis", "another version of PostGIS rendered it, and the database has 3."),
        (
            "key",
            "it shows another database, or the change log was removed and installed anew since: the key by which its manifest says",
        ),
    ] {
        let mut other = said.clone();
        other[field] = json!("0".repeat(64));
        set_database(&target, &other);
        tracked.reseed(&target, &[]).fails(4, &["needs a full seed: ", text]);
        let list = tracked.path("list.txt");
        std::fs::write(&list, "0/0/0\n").unwrap();
        tracked.reseed(&target, &["--tiles", list.to_str().unwrap()]).fails(4, &[text]);
    }
    // What a role could not read then, or cannot now, says nothing against the target.
    let mut less = said.clone();
    less.as_object_mut().unwrap().retain(|key, _| !matches!(key.as_str(), "cluster" | "timeline"));
    set_database(&target, &less);
    tracked.db.run(&format!("UPDATE api_facility SET name = 'x' WHERE {SOME}"));
    tracked.reseed(&target, &[]).ok();
    assert_eq!(manifest(&target)["database"], said);
    tracked.is_fresh(&target, &["--zoom", "0-3"]);
    // A copy of the database has the key, and is another database.
    let dump = tracked.path("dump.sql");
    let pg = |program: &str, arguments: &[&str]| {
        let done = std::process::Command::new(program).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    pg("pg_dump", &["--file", dump.to_str().unwrap(), &tracked.db.url]);
    let copy = Db::empty();
    pg("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump.to_str().unwrap(), &copy.url]);
    let mut command = program();
    command.args(["reseed", "--database-url", &copy.url, "--output"]).arg(&target);
    let text = format!("it shows another database than this one (\"{}\", OID ", copy.name);
    run(&mut command).fails(4, &[&text, ": its snapshot says nothing here"]);
}

#[test]
fn manifests_that_say_it_plainly_are_compared_and_say_it_by_hashes_after_a_reseed() {
    let tracked = Tracked::facilities(100);
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-3"]);
    let said = manifest(&target)["database"].clone();
    set_database(&target, &plain(&tracked.db));
    assert!(tracked.reseed(&target, &[]).ok().stdout.starts_with("nothing to do"));
    tracked.db.run(&format!("UPDATE api_facility SET name = 'x' WHERE {SOME}"));
    tracked.reseed(&target, &[]).ok();
    assert_eq!(manifest(&target)["database"], said);
    tracked.is_fresh(&target, &["--zoom", "0-3"]);
}

#[test]
fn without_a_log_a_target_says_nothing_and_named_tiles_can_be_rendered() {
    let tracked = Tracked::facilities(100);
    tracked.oar_tiles(&["track", "remove"]).ok();
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-3"]);
    assert_eq!(manifest(&target)["database"], Value::Null);
    let list = tracked.path("list.txt");
    std::fs::write(&list, "0/0/0\n").unwrap();
    let tiles = ["--tiles", list.to_str().unwrap()];
    tracked.reseed(&target, &tiles).ok();
    // A log that is younger than the target cannot vouch for it.
    tracked.oar_tiles(&["track", "install"]).ok();
    tracked.reseed(&target, &[]).fails(4, &[" cannot be brought up to date: "]);
    tracked.reseed(&target, &tiles).ok();
    assert_eq!(manifest(&target)["database"], Value::Null, "tiles that were named do not vouch for the others");
}

#[test]
fn a_log_without_a_key_goes_on_working_and_gets_one_by_another_install() {
    let tracked = Tracked::facilities(100);
    tracked.db.run("ALTER TABLE oar_tiles.state DROP COLUMN identity_key");
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-3"]);
    assert_eq!(manifest(&target)["database"], Value::Null);
    tracked.db.run(&format!("UPDATE api_facility SET name = 'x' WHERE {SOME}"));
    tracked.reseed(&target, &[]).ok();
    tracked.is_fresh(&target, &["--zoom", "0-3"]);
    let step = "the key by which targets say which database they show\n";
    assert!(tracked.oar_tiles(&["track", "install"]).ok().stdout.contains(step));
    assert!(tracked.oar_tiles(&["track", "install"]).ok().stdout.starts_with("everything is installed in "));
    let why = "its manifest does not say which database it shows: it was seeded without the change log, or by a role that may not read it";
    tracked.reseed(&target, &[]).fails(4, &[why]);
    tracked.reseed(&target, &["--or-seed"]).ok();
    assert_eq!(manifest(&target)["database"]["key"].as_str().unwrap().len(), 64);
    tracked.db.run(&format!("UPDATE api_facility SET name = 'y' WHERE {SOME}"));
    tracked.reseed(&target, &[]).ok();
    tracked.is_fresh(&target, &["--zoom", "0-3"]);
}
