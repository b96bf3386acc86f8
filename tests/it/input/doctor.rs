//! `oar-tiles doctor`: each finding is provoked once, and says what to do.

use std::path::Path;

use oar_tiles::target::S3Keys;
use serde_json::Value;

use crate::support::places::Places;
use crate::support::pooler::Pooler;
use crate::support::program::{Run, humble, program, run};
use crate::support::s3::{keys, reader_keys};
use crate::support::{Cluster, Db, seed, until};

/// A database with a change log, and a target that is up to date.
struct Patient {
    db: Db,
    folder: tempfile::TempDir,
    target: String,
}

impl Patient {
    fn new() -> Patient {
        Patient::of(Db::with_facilities(100))
    }

    fn of(db: Db) -> Patient {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("t.mbtiles").display().to_string();
        run(program().args(["track", "install", "--database-url", &db.url])).ok();
        seed(&db.url, Path::new(&target), &["--zoom", "0-3"]).ok();
        Patient { db, folder, target }
    }

    fn doctor(&self, arguments: &[&str]) -> Run {
        run(program().args(["doctor", &self.target, "--database-url", &self.db.url]).args(arguments))
    }

    /// Asserts that there is a finding of this level with these texts.
    #[track_caller]
    fn finds(&self, arguments: &[&str], level: &str, texts: &[&str]) {
        has(&self.doctor(arguments), level, texts);
    }
}

#[track_caller]
pub(crate) fn has(run: &Run, level: &str, texts: &[&str]) {
    assert_eq!(
        run.code,
        i32::from(run.stdout.contains("\nerror ") || run.stdout.starts_with("error ")),
        "{}",
        run.stderr
    );
    // The remedy stands on the line below.
    let lines: Vec<&str> = run.stdout.lines().collect();
    let found = lines.iter().enumerate().any(|(at, line)| {
        let remedy = lines.get(at + 1).filter(|next| next.trim_start().starts_with('→')).unwrap_or(&"");
        let with_remedy = format!("{line} {remedy}");
        line.starts_with(level) && texts.iter().all(|text| with_remedy.contains(text))
    });
    assert!(found, "no {level} with {texts:?} in:\n{}{}", run.stdout, run.stderr);
}

#[test]
fn a_healthy_installation_has_no_finding_but_good_ones() {
    let patient = Patient::new();
    let done = patient.doctor(&[]).ok();
    for text in
        ["PostgreSQL 1", "PostGIS 3", "layer \"facilities\" can be drawn", " is up to date", "nobody else writes it"]
    {
        has(&done, "ok", &[text]);
    }
    assert!(done.stdout.ends_with("0 errors, 0 warnings\n"), "{}", done.stdout);
    let json: Value = serde_json::from_str(&patient.doctor(&["--json"]).ok().stdout).unwrap();
    assert!(json["results"].as_array().unwrap().iter().all(|one| one["level"] == "fine"), "{json}");
    // Nothing was changed by looking.
    run(program().args(["verify", &patient.target])).ok();
}

#[test]
fn what_the_database_lacks_is_an_error_and_what_slows_it_a_warning() {
    let patient = Patient::new();
    let nowhere = run(program().args(["doctor", "--database-url", "postgresql://127.0.0.1:1/nowhere"]));
    has(&nowhere, "error", &["database", "127.0.0.1:1"]);
    patient.db.run("DROP INDEX IF EXISTS api_facility_location");
    patient.db.run("DO $$ DECLARE one text; BEGIN FOR one IN SELECT indexname FROM pg_indexes
        WHERE tablename = 'api_facility' AND indexdef LIKE '%gist%' LOOP EXECUTE 'DROP INDEX ' || quote_ident(one); END LOOP; END $$");
    patient.finds(&[], "warning", &["database", "has no spatial index", "CREATE INDEX ON"]);
    let who = format!("doctor_{}", patient.db.name);
    patient.db.run(&format!("CREATE ROLE \"{who}\" LOGIN"));
    let url =
        patient.db.url.replace("user=oar_tiles", &format!("user={who}")).replace("oar_tiles@", &format!("{who}@"));
    let refused = run(program().args(["doctor", &patient.target, "--database-url", &url]));
    patient.db.run(&format!(
        "ALTER ROLE \"{who}\" IN DATABASE \"{}\" SET session_replication_role = replica",
        patient.db.name
    ));
    has(&refused, "error", &["api_facility", "GRANT SELECT"]);
    let few = format!("ALTER ROLE \"{who}\" CONNECTION LIMIT 4; GRANT SELECT ON api_facility TO \"{who}\"");
    patient.db.run(&few);
    let limited = run(program().args(["doctor", &patient.target, "--database-url", &url]));
    patient.db.run(&format!("REVOKE ALL ON api_facility FROM \"{who}\""));
    has(
        &limited,
        "warning",
        &["this role has ", " free connections, and a run opens ", "ALTER ROLE … CONNECTION LIMIT"],
    );
    patient.finds(&[], "warning", &["session_replication_role is replica for", &who, "RESET session_replication_role"]);
    patient.db.run(&format!("DROP ROLE \"{who}\""));
}

#[test]
fn transactions_sessions_and_clocks_are_looked_at() {
    let cluster = Cluster::with(&["max_prepared_transactions=5", "max_connections=15"]);
    let patient = Patient::of(Db::with_facilities_on(&cluster.url, 100));
    patient.finds(&[], "warning", &["max_prepared_transactions is 5", "set max_prepared_transactions = 0"]);
    let other = Db::with_facilities_on(&cluster.url, 1);
    drop(other);
    patient.db.run("BEGIN; INSERT INTO api_facility SELECT * FROM api_facility LIMIT 0; PREPARE TRANSACTION 'left'");
    patient.finds(
        &["--transaction-age", "0s"],
        "warning",
        &["the prepared transaction 'left'", "ROLLBACK PREPARED 'left'"],
    );
    patient.db.run("ROLLBACK PREPARED 'left'");
    let config = patient.folder.path().join("c.toml");
    std::fs::write(&config, format!("{}\n[run]\nworkers = 40\n", crate::support::program::ROWS_LAYER)).unwrap();
    patient.finds(
        &["--config", config.to_str().unwrap()],
        "warning",
        &["free connections, and a run opens 42", "lower workers"],
    );
    patient.finds(&["--clock-difference", "0s"], "ok", &["PostgreSQL"]);
}

#[test]
fn the_log_is_looked_at_with_its_triggers_and_its_backlog() {
    let patient = Patient::new();
    patient.db.run("UPDATE api_facility SET name = 'x'");
    patient.finds(&[], "ok", &["dirty tiles, which the next reseed renders"]);
    patient.db.run("UPDATE oar_tiles.change SET at = now() - interval '30 days'");
    patient.finds(&[], "warning", &["changed rows wait in it, the oldest for 720 hours", "track prune"]);
    patient.db.run("ALTER TABLE api_facility DISABLE TRIGGER ALL");
    patient.finds(
        &[],
        "error",
        &["change log", "triggers of \"public\".\"api_facility\" are disabled", "track install"],
    );
    run(program().args(["track", "remove", "--database-url", &patient.db.url])).ok();
    patient.finds(&[], "warning", &["change log", "track install"]);
}

#[test]
fn a_pooler_in_between_is_named() {
    let patient = Patient::new();
    let url = Pooler::new(6).url(&patient.db);
    // It is gone again: the address does not answer.
    has(
        &run(program().args(["doctor", &patient.target, "--database-url", &url])),
        "error",
        &["database", "127.0.0.1:"],
    );
    let pooler = Pooler::new(6);
    let through = run(program().args(["doctor", &patient.target, "--database-url", &pooler.url(&patient.db)]));
    let found = [
        "the server itself listens on port ",
        "a pooler or a forwarded port is in between",
        "pool_mode = session in PgBouncer",
    ];
    has(&through, "warning", &found);
    assert!(!patient.doctor(&[]).stdout.contains("pooler"));
}

#[test]
fn the_lease_and_the_rights_of_a_bucket_are_looked_at() {
    let (db, places) = (Db::with_facilities(50), Places::new());
    let target = places.place("s3:");
    places.seed(&db, "s3:", &["--zoom", "0-2"]).ok();
    let doctor = |keys: &S3Keys| {
        let mut command = program();
        command.args(["doctor", &target, "--config", &places.config, "--database-url", &db.url]);
        run(command.env("AWS_ACCESS_KEY_ID", &keys.key).env("AWS_SECRET_ACCESS_KEY", &keys.secret))
    };
    has(&doctor(&keys()), "ok", &[&target, "can be written, and nobody else writes it"]);
    has(&doctor(&reader_keys()), "error", &["target", &target]);
    let held = places.prefix.sink();
    has(&doctor(&keys()), "warning", &["another run is writing", "its lease ends at"]);
    drop(held);
}

#[test]
fn dead_rows_in_the_log_are_bloat() {
    let patient = Patient::new();
    patient.db.run("ALTER TABLE oar_tiles.change SET (autovacuum_enabled = off)");
    patient
        .db
        .run("INSERT INTO oar_tiles.change SELECT (c).* FROM (SELECT c FROM oar_tiles.change AS c LIMIT 0) AS one");
    patient.db.run("UPDATE api_facility SET name = 'x'");
    // Each statement leaves as many dead rows as the log has entries.
    patient.db.run("INSERT INTO oar_tiles.change SELECT c.* FROM oar_tiles.change AS c, generate_series(1, 12000)");
    patient.db.run("DELETE FROM oar_tiles.change WHERE ctid > '(0,1)'");
    until("the statistics know it", || {
        patient.db.run("SELECT pg_stat_clear_snapshot()");
        patient.db.value::<bool>("SELECT n_dead_tup > 10000 FROM pg_stat_all_tables WHERE relname = 'change'")
    });
    patient.finds(&[], "warning", &["dead rows are in its table", "VACUUM \"oar_tiles\".change"]);
}

#[test]
fn a_target_without_room_rights_or_peace_is_named() {
    let patient = Patient::new();
    let missing = patient.folder.path().join("none.mbtiles").display().to_string();
    let done = run(program().args(["doctor", &missing, "--database-url", &patient.db.url]));
    has(&done, "warning", &["there is no ", "run oar-tiles seed"]);
    let shut = patient.folder.path().join("shut");
    std::fs::create_dir(&shut).unwrap();
    std::fs::set_permissions(&shut, std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
    let mut command = program();
    command.args(["doctor", "--database-url", &patient.db.url]).arg(shut.join("t.mbtiles"));
    has(&run(&mut humble(&command)), "error", &["files cannot be made in", "the right to write there"]);
    std::fs::write(patient.folder.path().join("text.mbtiles"), "no tiles").unwrap();
    let text = patient.folder.path().join("text.mbtiles").display().to_string();
    has(
        &run(program().args(["doctor", &text, "--database-url", &patient.db.url])),
        "error",
        &["target", "text.mbtiles"],
    );
    // Another run holds it, as the lock file says.
    let lock = std::fs::File::create(patient.folder.path().join(".t.mbtiles.partial")).unwrap();
    lock.lock().unwrap();
    patient.finds(&[], "warning", &["another run is writing", "wait until it is done"]);
}
