//! The log: time and level on each line where no terminal is, or JSON; warnings and failures are events, too; a watch
//! says what it follows and what it published.

use serde_json::Value;

use crate::support::program::{Run, program, run};
use crate::support::watch_process::Watching;
use crate::support::{Db, seed};

const LAYER: &str =
    "[[layer]]\nname = \"mills\"\ntable = \"mills\"\ngeometry = \"g\"\nkey = [\"id\"]\nproperties = [\"id\"]\n";

/// A table without an index, of which each seed warns.
fn mills() -> (Db, tempfile::TempDir, String) {
    let db = Db::with_facilities(1);
    db.run("CREATE TABLE mills (id int PRIMARY KEY, g geometry(Point, 4326))");
    db.run("INSERT INTO mills SELECT n, ST_Point(n, n, 4326) FROM generate_series(1, 20) AS n");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, LAYER).unwrap();
    let config = config.display().to_string();
    (db, folder, config)
}

fn seeded(db: &Db, folder: &tempfile::TempDir, config: &str, arguments: &[&str]) -> Run {
    let output = folder.path().join("t.mbtiles").display().to_string();
    let given = ["seed", "--config", config, "--database-url", &db.url, "--zoom", "0-3", "--output", &output];
    run(program().env_remove("OAR_TILES_LOG").args(given).args(arguments))
}

/// The lines of JSON.
fn records(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

/// The level and the rest of each line, each of which begins with a time.
fn timed(text: &str) -> Vec<(String, String)> {
    let split = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let time = words.next().unwrap();
        humantime::parse_rfc3339(time).unwrap_or_else(|_| panic!("no time: {line}"));
        (words.next().unwrap().to_owned(), words.next().unwrap_or_default().to_owned())
    };
    text.lines().map(split).collect()
}

#[test]
fn each_line_has_time_and_level_where_no_terminal_is() {
    let (db, folder, config) = mills();
    let done = seeded(&db, &folder, &config, &[]).ok();
    let lines = timed(&done.stderr);
    assert!(lines.iter().any(|(level, text)| level == "WARN" && text.contains("has no spatial index")), "{lines:?}");
    assert!(lines.iter().any(|(level, text)| level == "INFO" && text.starts_with("planned ")), "{lines:?}");
    let nowhere = "postgresql://127.0.0.1:1/nowhere";
    let failed = run(program().env_remove("OAR_TILES_LOG").args(["track", "remove", "--database-url", nowhere]));
    let lines = timed(&failed.stderr);
    assert!(lines.iter().all(|(level, _)| level == "ERROR") && lines.len() > 1, "each line of an error: {lines:?}");
    let plain = run(program().args(["track", "remove", "--log", "plain", "--database-url", nowhere]));
    assert!(plain.stderr.starts_with("error: "), "{}", plain.stderr);
}

#[test]
fn a_first_seed_does_not_say_that_nothing_is_there_and_v_says_why_rows_are_not_cached() {
    let (db, folder, config) = mills();
    let first = seeded(&db, &folder, &config, &["-v"]).ok().stderr;
    assert!(!first.contains("there is no "), "{first}");
    std::fs::write(&config, format!("{LAYER}zoom = \"0-1\"\n")).unwrap();
    let few = seeded(&db, &folder, &config, &["-v", "--force"]).ok().stderr;
    assert!(few.contains("layer \"mills\": its rows are not cached: each is drawn in fewer than 3 tiles"), "{few}");
    let object = "jsonb_build_object('a', id)";
    let objects = format!("properties = {{ id = \"id\", one = \"{object}\", other = \"{object}\" }}\n");
    std::fs::write(&config, LAYER.replace("properties = [\"id\"]\n", &objects)).unwrap();
    let objects = seeded(&db, &folder, &config, &["-v", "--force"]).ok().stderr;
    assert!(objects.contains("not cached: they have other than plain values, are simplified"), "{objects}");
}

#[test]
fn a_layer_of_two_parts_is_named_once_and_progress_says_that_it_counts_up() {
    let (db, folder, config) = mills();
    std::fs::write(&config, format!("{LAYER}[layer.cluster]\nzoom = \"0-1\"\n")).unwrap();
    let lines = timed(&seeded(&db, &folder, &config, &["--progress", "lines"]).ok().stderr);
    let of = |begin: &str| lines.iter().filter(|(_, text)| text.starts_with(begin)).count();
    assert_eq!(of("reading where the features of \"mills\" lie"), 1, "{lines:?}");
    let zooms = lines.iter().filter(|(_, text)| text.starts_with("at zoom "));
    assert!(of("at zoom ") == 3 && zooms.clone().all(|(_, text)| text.contains(" so far, ")), "{lines:?}");
}

#[test]
fn json_has_a_line_for_each_event_and_the_last_says_why_it_failed() {
    let (db, folder, config) = mills();
    let done = seeded(&db, &folder, &config, &["--log", "json", "-v"]).ok();
    let lines = records(&done.stderr);
    for line in &lines {
        assert_eq!(line["schema_version"], 1);
        assert!(humantime::parse_rfc3339(line["time"].as_str().unwrap()).is_ok(), "{line}");
    }
    let named = |name: &str| lines.iter().find(|line| line["event"] == name).unwrap_or_else(|| panic!("{name}"));
    assert!(named("warning")["message"].as_str().unwrap().contains("has no spatial index"));
    assert_eq!((&named("planned")["level"], named("planned")["tiles"].as_u64() > Some(0)), (&"info".into(), true));
    db.run("DROP TABLE mills");
    let failed = seeded(&db, &folder, &config, &["--log=json", "--progress", "none"]);
    let lines = records(&failed.stderr);
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["event"], &last["level"], &last["kind"], &last["exit_code"]),
        (&"failed".into(), &"error".into(), &"usage".into(), &2.into())
    );
    assert!(last["message"].as_str().unwrap().contains("mills"), "{last}");
}

#[test]
fn the_environment_sets_the_form_and_a_word_that_is_none_is_refused() {
    let (db, folder, config) = mills();
    let with = |form: &str| {
        let given = ["seed", "--config", &config, "--database-url", &db.url, "--zoom", "0-3", "--output"];
        run(program().env("OAR_TILES_LOG", form).args(given).arg(folder.path().join("t.mbtiles")))
    };
    assert!(records(&with("json").ok().stderr).iter().any(|line| line["event"] == "warning"));
    with("xml").fails(
        2,
        &["the environment variable OAR_TILES_LOG: \"xml\" is no form of the log: write auto, plain, timed or json"],
    );
}

#[test]
fn progress_as_json_holds_warnings_and_the_failure() {
    let (db, folder, config) = mills();
    let done = seeded(&db, &folder, &config, &["--progress", "json", "--log", "plain"]).ok();
    let events = records(&done.stdout);
    assert!(events.iter().any(|event| event["event"] == "warning" && event["level"] == "warn"), "{}", done.stdout);
    assert!(done.stderr.starts_with("warning: layer \"mills\""), "the log has it, too: {}", done.stderr);
    assert_eq!(events.last().unwrap()["event"], "done");
    db.run("DROP TABLE mills");
    let failed = seeded(&db, &folder, &config, &["--progress", "json"]);
    assert_eq!(records(&failed.stdout).last().unwrap()["event"], "failed", "{}", failed.stdout);
}

#[test]
fn a_watch_says_what_it_follows_and_what_each_publish_brought() {
    let db = Db::with_facilities(300);
    run(program().args(["track", "install", "--database-url", &db.url])).ok();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-6"]).ok();
    let watching = Watching::start(&db.url, &target, &["--poll", "1h", "--log", "json"]);
    let follows: Value = serde_json::from_str(&watching.says("\"event\":\"watching\"")).unwrap();
    assert_eq!((&follows["target"], &follows["poll_seconds"]), (&target.display().to_string().into(), &3600.0.into()));
    assert_eq!(follows["layers"], serde_json::json!(["facilities"]));
    let cursor = db.value::<String>("SELECT pg_current_snapshot()::text");
    let named = follows["cursor"].as_str().unwrap();
    assert_eq!(named.matches(':').count(), cursor.matches(':').count(), "a snapshot: {named}");
    db.run("UPDATE api_facility SET name = 'new' WHERE id < 'C'");
    let published: Value = serde_json::from_str(&watching.says("\"event\":\"published\"")).unwrap();
    let changed = db.value::<i64>("SELECT count(*) FROM api_facility WHERE id < 'C'");
    let figure = |name: &str| published[name].as_f64().unwrap_or_else(|| panic!("{name}: {published}"));
    assert_eq!(published["rows"], changed, "{published}");
    assert!(figure("tiles") > 0.0 && figure("bytes") > 0.0 && figure("dirty") >= figure("tiles"), "{published}");
    assert!(figure("latency_seconds") > 0.0 && figure("latency_seconds") < 60.0, "{published}");
    let said = published["message"].as_str().unwrap();
    assert!(said.contains(&format!("{changed} changed rows, ")) && said.contains(" after the oldest change"), "{said}");
    assert_eq!(watching.end(), 0);
}
