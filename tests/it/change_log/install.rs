//! Installing the change log and removing it: what is watched, what is refused, and that it can be done again and by
//! hand.

use std::process::Command;

use super::{LAYER, MILLS};
use crate::support::program::{program, run};
use crate::support::tracking::{Tracking, watched};
use crate::support::{Db, until};

/// Everything about the log but for numbers that differ from one database to the next.
fn state(db: &Db) -> Vec<String> {
    let sql = "
        SELECT format('watch %s %s %s %s %s %s %s', w.id, w.name, w.geometry, w.query, w.logged, w.key, w.truncate_rows) FROM oar_tiles.watch AS w
        UNION ALL SELECT format('column %s %s %s', watch, column_name, attnum) FROM oar_tiles.watched
        UNION ALL SELECT format('member %s %s %s', watch, name, regexp_replace(triggers, ' [0-9]+$', '', 'gn')) FROM oar_tiles.member
        UNION ALL SELECT format('needs %s %s %s', layer, watch, columns) FROM oar_tiles.needs
        UNION ALL SELECT format('state %s %s %s', layout, installs, last_watch) FROM oar_tiles.state
        UNION ALL SELECT format('trigger %s %s %s', tgrelid::regclass, tgname, tgenabled) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT regexp_replace(format('function %s %s %s', proname, proconfig, prosrc), 'atttypid = [0-9]+|ARRAY\\[[0-9, ]+\\]::oid', '', 'g')
            FROM pg_proc WHERE pronamespace = 'oar_tiles'::regnamespace
        UNION ALL SELECT format('relation %s %s %s', relname, relkind, replace(relacl::text, (SELECT owner FROM oar_tiles.state), 'owner'))
            FROM pg_class WHERE relnamespace = 'oar_tiles'::regnamespace AND relkind <> 't'
        ORDER BY 1";
    db.rows(sql).iter().map(|row| row.get(0)).collect()
}

/// The same with transactions: to see that nothing was touched.
fn touched(db: &Db) -> Vec<String> {
    let sql = "
        SELECT format('%s %s', xmin, w) FROM oar_tiles.watch AS w UNION ALL SELECT format('%s %s', xmin, w) FROM oar_tiles.watched AS w
        UNION ALL SELECT format('%s %s', xmin, w) FROM oar_tiles.member AS w UNION ALL SELECT format('%s %s', xmin, w) FROM oar_tiles.needs AS w
        UNION ALL SELECT format('%s %s', xmin, w) FROM oar_tiles.state AS w UNION ALL SELECT format('%s %s', xmin, tgname) FROM pg_trigger
        UNION ALL SELECT format('%s %s', xmin, proname) FROM pg_proc WHERE pronamespace = 'oar_tiles'::regnamespace ORDER BY 1";
    db.rows(sql).iter().map(|row| row.get(0)).collect()
}

/// Runs what `--sql` printed, as whoever is handed it does.
fn psql(db: &Db, sql: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.sql");
    std::fs::write(&file, sql).unwrap();
    let done = Command::new("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(&file)
        .arg(&db.url)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn installing_again_changes_nothing() {
    let tracking = Tracking::over(MILLS, LAYER);
    let first = tracking.install(&[]).ok();
    for text in [
        "schema \"oar_tiles\": the change log\n",
        "\"public\".\"mill\": triggers on \"public\".\"mill\"; notes changes of \"id\", \"location\", \"name\"\n",
        "layer \"mills\": noted what it needs\n",
        "Run oar-tiles seed once",
    ] {
        assert!(first.stdout.contains(text), "«{text}» is missing in {}", first.stdout);
    }
    assert!(!first.stdout.contains("track status"), "{}", first.stdout);
    let before = touched(&tracking.db);
    let again = tracking.install(&[]).ok();
    assert!(again.stdout.starts_with("everything is installed in ") && again.stderr.is_empty(), "{}", again.stdout);
    assert_eq!(tracking.install(&["--sql"]).ok().stdout, "-- Everything is installed.\n");
    assert_eq!(touched(&tracking.db), before);
}

#[test]
fn two_configurations_share_what_they_watch() {
    let tracking = Tracking::installed(MILLS, LAYER);
    let since = tracking.now();
    tracking.configure("[[layer]]\nname = \"kinds\"\ntable = \"mill\"\nproperties = [\"kind\"]\n");
    let second = tracking.install(&[]).ok();
    let next = "From now on these changes are noted in ";
    let status = ", too. oar-tiles track status names the targets that need a seed: those that draw what was not noted until now\n";
    assert!(second.stdout.contains(next) && second.stdout.contains(status), "{}", second.stdout);
    assert!(second.stdout.contains("\"public\".\"mill\": the triggers stay on"), "{}", second.stdout);
    assert_eq!(watched(&tracking.db), ["mill: id kind location name"]);
    tracking.configure(LAYER);
    assert!(tracking.check(&since).is_ok(), "the first configuration's targets need no seed");
    assert!(
        tracking.install(&[]).ok().stdout.starts_with("everything is installed"),
        "and nothing is taken away again"
    );
    tracking.db.run(
        "UPDATE mill SET kind = 'x' WHERE id = 1; UPDATE mill SET more = 'x'; UPDATE mill SET name = 'x' WHERE id = 2",
    );
    assert_eq!(tracking.log(), ["1 1,1", "1 2,2"]);
}

#[test]
fn the_printed_statements_do_what_install_does() {
    let config = "
        [changes]\ntruncate_rows = 5
        [[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = { a = \"name || E'\\\\\\\\ $oar_tiles$'\", b = \"(SELECT max(score) FROM match WHERE mill_id = mill.id)\" }
        [[layer.track]]\ntable = \"match\"\ngeometry = \"SELECT location FROM mill WHERE id = changed.mill_id\"\n";
    let (by_program, by_hand) = (Tracking::over(MILLS, config), Tracking::over(MILLS, config));
    by_program.install(&["--reader", "pg_monitor"]).ok();
    let sql = by_hand.install(&["--sql", "--reader", "pg_monitor"]).ok().stdout;
    assert!(sql.starts_with("BEGIN READ WRITE;\n") && sql.ends_with("\nCOMMIT;\n"), "{sql}");
    assert!(by_hand.check(&by_hand.now()).is_err(), "printing changes nothing");
    psql(&by_hand.db, &sql);
    assert_eq!(state(&by_hand.db), state(&by_program.db));
    assert!(by_hand.check(&by_hand.now()).is_ok());
    assert!(by_hand.install(&[]).ok().stdout.starts_with("everything is installed"));
    // Printed before somebody else installed, run after it.
    by_hand.configure(LAYER);
    let late = by_hand.install(&["--sql"]).ok().stdout;
    by_hand.install(&[]).ok();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, late).unwrap();
    let refused = Command::new("psql")
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(file.path())
        .arg(&by_hand.db.url)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("something else was installed meanwhile"));
}

#[test]
fn removing_leaves_nothing() {
    for by_hand in [false, true] {
        let tracking = Tracking::over(MILLS, LAYER);
        let objects = || {
            tracking.db.value::<i64>(
                "SELECT (SELECT count(*) FROM pg_class) + (SELECT count(*) FROM pg_proc) + (SELECT count(*) FROM pg_trigger)
                    + (SELECT count(*) FROM pg_namespace WHERE nspname !~ '^pg_') + (SELECT count(*) FROM pg_type)",
            )
        };
        let before = objects();
        tracking.install(&[]).ok();
        if by_hand {
            psql(&tracking.db, &tracking.track(&["remove", "--sql"]).ok().stdout);
        } else {
            let removed = tracking.track(&["remove"]).ok();
            assert!(removed.stdout.contains("\"public\".\"mill\": triggers removed\n"), "{}", removed.stdout);
        }
        assert_eq!(objects(), before);
        tracking.db.run("UPDATE mill SET name = 'x'");
        tracking.track(&["remove"]).fails(2, &["there is no change log in the schema \"oar_tiles\" of "]);
        tracking.install(&[]).ok();
    }
}

#[test]
fn a_schema_of_somebody_else_is_left_alone() {
    let tracking = Tracking::over(MILLS, &format!("[changes]\nschema = \"public\"\n{LAYER}"));
    let foreign = "the schema \"public\" of ";
    let next = " holds tables, but no change log: it is not touched. Set schema in [changes] to a name that is free";
    for arguments in [&["install"][..], &["install", "--sql"], &["remove"]] {
        tracking.track(arguments).fails(2, &[foreign, next]);
    }
    let sql = tracking.track(&["remove", "--sql"]).ok().stdout;
    assert!(sql.contains("there is no change log in this schema"));
    for schema in ["", "pg_log", "a$b", "{x}", &"x".repeat(64)] {
        tracking.configure(&format!("[changes]\nschema = \"{schema}\"\n{LAYER}"));
        tracking.install(&[]).fails(2, &["changes.schema (from ", "cannot name it: write 1 to 63 bytes"]);
    }
}

#[test]
fn the_log_may_be_called_anything() {
    for schema in ["The \\\"log\\\", it's 100%", &"lång".repeat(12)] {
        let tracking = Tracking::over(MILLS, &format!("[changes]\nschema = \"{schema}\"\n{LAYER}"));
        tracking.install(&[]).ok();
        assert!(tracking.install(&[]).ok().stdout.starts_with("everything is installed"));
        tracking.db.run("UPDATE mill SET name = 'x'; TRUNCATE mill");
        let name = schema.replace("\\\"", "\"\"");
        assert_eq!(tracking.db.value::<i64>(&format!("SELECT count(*) FROM \"{name}\".change")), 2);
        assert!(tracking.check(&tracking.now()).is_ok());
        tracking.track(&["remove"]).ok();
    }
}

#[test]
fn without_the_rights_the_statements_are_for_somebody_else() {
    let tracking = Tracking::over(
        &format!(
            "{MILLS}
            DO $$ BEGIN CREATE ROLE mill_owner LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
            DO $$ BEGIN CREATE ROLE mill_reader LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
            ALTER TABLE mill OWNER TO mill_owner; GRANT SELECT ON mill TO mill_reader;"
        ),
        LAYER,
    );
    let hand = "Hand the owner what oar-tiles track install --sql prints, to run with psql\n  cause: ";
    for role in ["mill_reader", "mill_owner"] {
        tracking
            .track_as(role, &["install"])
            .fails(1, &["the role may not install the change log in ", hand, "permission denied for database"]);
    }
    let sql = tracking.track_as("mill_reader", &["install", "--sql"]).ok().stdout;
    // A schema that was made for the owner is as good as the right to make one.
    tracking.db.run("CREATE SCHEMA oar_tiles AUTHORIZATION mill_owner");
    tracking.track_as("mill_owner", &["install"]).ok();
    tracking.db.run("UPDATE mill SET name = 'x' WHERE id = 1; SET ROLE mill_owner; TRUNCATE mill; RESET ROLE");
    assert_eq!(tracking.log(), ["1 1,1", "3 1,1 2,2 3,3"]);
    tracking
        .track_as("mill_reader", &["remove"])
        .fails(1, &["the role may not remove the change log", "track remove --sql"]);
    tracking.track_as("mill_owner", &["remove"]).ok();
    psql(&tracking.db, &sql);
    assert!(tracking.check(&tracking.now()).is_ok());
    // Whoever may not ask with a view of its own watches all columns.
    let other = Tracking::over(MILLS, LAYER);
    other.db.run(&format!("REVOKE TEMPORARY ON DATABASE {} FROM public; ALTER TABLE mill OWNER TO mill_owner; CREATE SCHEMA oar_tiles AUTHORIZATION mill_owner", other.db.name));
    other
        .track_as("mill_owner", &["install"])
        .ok()
        .fails(0, &["warning: layer \"mills\": the role may not make temporary views"]);
    assert_eq!(watched(&other.db), ["mill: id kind location more name"]);
}

#[test]
fn installing_again_heals_what_was_altered() {
    for (change, noted) in [
        ("ALTER TABLE mill DISABLE TRIGGER ALL", "triggers"),
        ("DROP TRIGGER oar_tiles_1_update ON mill", "triggers"),
        ("ALTER TRIGGER oar_tiles_1_update ON mill RENAME TO \"an odd, name\"", "triggers"),
        (
            "CREATE OR REPLACE FUNCTION oar_tiles.note_1() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "triggers",
        ),
        ("DROP FUNCTION oar_tiles.note_1() CASCADE", "triggers"),
        ("ALTER TABLE mill ALTER COLUMN name TYPE varchar(50)", "the triggers stay"),
        ("ALTER TABLE mill DROP CONSTRAINT mill_pkey, ADD PRIMARY KEY (name)", "the triggers stay"),
        (
            "ALTER TABLE mill RENAME TO old; CREATE TABLE mill AS TABLE old; ALTER TABLE mill ADD PRIMARY KEY (id)",
            "triggers",
        ),
        ("CREATE TABLE child () INHERITS (mill)", "triggers"),
        (
            "DROP TABLE mill; CREATE TABLE mill (id int PRIMARY KEY, name text, location geometry(Point, 4326));
          INSERT INTO mill VALUES (1, 'a', 'SRID=4326;POINT(1 1)')",
            "triggers",
        ),
    ] {
        let tracking = Tracking::installed(MILLS, LAYER);
        let since = tracking.now();
        tracking.db.run(change);
        let healed = tracking.install(&[]).ok();
        assert!(healed.stdout.contains(&format!("\"public\".\"mill\": {noted} on ")), "{change}: {}", healed.stdout);
        let trusted = tracking.check(&since);
        assert!(trusted.is_err(), "{change}: what happened in between is not known");
        assert!(tracking.check(&tracking.now()).is_ok(), "{change}");
        tracking.forget();
        tracking.db.run("UPDATE mill SET name = 'x' WHERE id = 1");
        assert_eq!(tracking.log().len(), 1, "{change}: {:?}", tracking.log());
        assert!(tracking.install(&[]).ok().stdout.starts_with("everything is installed"), "{change}");
        let triggers: i64 = tracking
            .db
            .value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.mill'::regclass AND NOT tgisinternal");
        assert_eq!(triggers, 4, "{change}");
    }
}

#[test]
fn whoever_wrote_before_the_triggers_has_ended_when_they_are_there() {
    let tracking = Tracking::over(MILLS, LAYER);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (client, connection) =
        runtime.block_on(tokio_postgres::connect(&tracking.db.url, tokio_postgres::NoTls)).unwrap();
    runtime.spawn(connection);
    runtime.block_on(client.batch_execute("BEGIN; UPDATE public.mill SET name = 'early' WHERE id = 1")).unwrap();
    let writing: String = runtime.block_on(client.query_one("SELECT pg_current_xact_id()::text", &[])).unwrap().get(0);
    std::thread::scope(|scope| {
        let install = scope.spawn(|| tracking.install(&[]).ok());
        until("install waits for the writer", || {
            tracking
                .db
                .value::<i64>("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'public.mill'::regclass")
                == 1
        });
        runtime.block_on(client.batch_execute("COMMIT")).unwrap();
        install.join().unwrap();
    });
    assert_eq!(tracking.log(), Vec::<String>::new(), "it wrote before");
    // Every snapshot that sees the triggers' transaction sees the writer's.
    let unseen: bool = tracking.db.value(&format!("SELECT since <= '{writing}'::xid8 AND NOT EXISTS (SELECT FROM public.mill WHERE name = 'early') FROM oar_tiles.watch"));
    assert!(!unseen);
}

#[test]
fn with_quiet_the_verbs_that_change_the_log_print_nothing() {
    let db = Db::with_facilities(1);
    for verb in [&["install"][..], &["prune", "--older-than", "1h"], &["remove"]] {
        let arguments = [&["track"], verb, &["-q", "--database-url", &db.url]].concat();
        let ended = run(program().args(arguments)).ok();
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""), "{verb:?}");
    }
    assert_eq!(db.value::<i64>("SELECT count(*) FROM pg_namespace WHERE nspname = 'oar_tiles'"), 0);
}
