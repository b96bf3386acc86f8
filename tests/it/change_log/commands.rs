//! What the triggers note of every kind of statement, on every kind of table.

use crate::support::Db;
use crate::support::program::ROWS_LAYER;
use crate::support::tracking::Tracking;

const MILLS: &str = "
    CREATE TABLE mill (id int PRIMARY KEY, name text, score numeric, note json, ratio float8, seen timestamptz,
        location geometry(Point, 4326));";

const LAYER: &str =
    "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = [\"name\", \"score\", \"note\", \"ratio\"]\n";

const ROWS: &str =
    "INSERT INTO mill SELECT i, 'mill ' || i, 1.0, '{\"a\": 1}', 0, now(), ST_SetSRID(ST_MakePoint(i, i), 4326)
    FROM generate_series(1, 3) AS i;";

/// Runs each statement over the same three rows, and compares what the log then holds.
#[track_caller]
fn notes(tracking: &Tracking, cases: &[(&str, &[&str])]) {
    for (sql, expected) in cases {
        tracking.db.run(&format!("DELETE FROM mill; {ROWS}"));
        tracking.forget();
        tracking.db.run(sql);
        let mut noted = tracking.log();
        // Which trigger of a MERGE comes first is the server's affair.
        noted.sort();
        assert_eq!(noted, *expected, "{sql}");
    }
}

#[test]
fn every_kind_of_statement_notes_where_rows_were_and_are() {
    let tracking = Tracking::installed(MILLS, LAYER);
    notes(
        &tracking,
        &[
            ("INSERT INTO mill VALUES (4, 'new', 1, '{}', 0, now(), 'SRID=4326;POINT(4 4)')", &["1 4,4"]),
            ("INSERT INTO mill (id) VALUES (4)", &[]),
            ("INSERT INTO mill (id, location) VALUES (4, 'SRID=4326;POINT EMPTY')", &[]),
            ("UPDATE mill SET name = 'other' WHERE id = 1", &["1 1,1"]),
            ("UPDATE mill SET name = NULL", &["3 1,1 2,2 3,3"]),
            ("UPDATE mill SET name = name", &[]),
            ("UPDATE mill SET seen = now()", &[]),
            ("UPDATE mill SET name = name || ' x', location = location WHERE id < 3", &["2 1,1 2,2"]),
            ("UPDATE mill SET location = 'SRID=4326;POINT(9 8)' WHERE id = 1", &["1 1,1 9,8"]),
            ("UPDATE mill SET location = NULL WHERE id = 1", &["1 1,1"]),
            ("UPDATE mill SET location = 'SRID=4326;POINT EMPTY' WHERE id = 1", &["1 1,1"]),
            // A new key is a row that goes and one that comes.
            ("UPDATE mill SET id = 10 WHERE id = 1", &["2 1,1 1,1"]),
            ("UPDATE mill SET id = 6 - id WHERE id = 1 OR id = 2", &["4 1,1 1,1 2,2 2,2"]),
            // Equal by "=", but another text in the tile.
            ("UPDATE mill SET score = 1.00 WHERE id = 2", &["1 2,2"]),
            ("UPDATE mill SET note = '{\"a\":1}' WHERE id = 2", &["1 2,2"]),
            ("UPDATE mill SET ratio = '-0' WHERE id = 2", &["1 2,2"]),
            ("DELETE FROM mill WHERE id > 1", &["2 2,2 3,3"]),
            ("DELETE FROM mill WHERE id > 100", &[]),
            ("TRUNCATE mill", &["3 1,1 2,2 3,3"]),
            (
                "COPY mill (id, location) FROM PROGRAM 'printf \"4\\t0101000020E610000000000000000010400000000000001040\\n\"'",
                &["1 4,4"],
            ),
            (
                "INSERT INTO mill (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
                &["1 1,1"],
            ),
            ("INSERT INTO mill (id, name) VALUES (1, 'x') ON CONFLICT DO NOTHING", &[]),
            (
                "MERGE INTO mill USING (VALUES (1), (2), (4)) AS v (i) ON id = i
                 WHEN MATCHED AND i = 1 THEN UPDATE SET name = 'merged'
                 WHEN MATCHED THEN DELETE
                 WHEN NOT MATCHED THEN INSERT (id, location) VALUES (i, 'SRID=4326;POINT(4 4)')",
                &["1 1,1", "1 2,2", "1 4,4"],
            ),
            (
                "WITH gone AS (DELETE FROM mill WHERE id = 1 RETURNING *) INSERT INTO mill SELECT 7, name, 1, note, 0, seen, location FROM gone",
                &["1 1,1", "1 1,1"],
            ),
            ("BEGIN; UPDATE mill SET name = 'x'; ROLLBACK", &[]),
            (
                "BEGIN; SAVEPOINT a; UPDATE mill SET name = 'x'; ROLLBACK TO a; UPDATE mill SET name = 'y' WHERE id = 1; COMMIT",
                &["1 1,1"],
            ),
            (
                "BEGIN; UPDATE mill SET name = 'x' WHERE id = 1; UPDATE mill SET name = 'mill 1' WHERE id = 1; COMMIT",
                &["1 1,1", "1 1,1"],
            ),
            (
                "SET session_replication_role = replica; UPDATE mill SET name = 'x' WHERE id = 1; RESET session_replication_role",
                &["1 1,1"],
            ),
            ("BEGIN ISOLATION LEVEL SERIALIZABLE; DELETE FROM mill WHERE id = 1; COMMIT", &["1 1,1"]),
            // Its snapshot may not show all that goes.
            ("BEGIN ISOLATION LEVEL REPEATABLE READ; TRUNCATE mill; COMMIT", &["0 everything"]),
        ],
    );
}

#[test]
fn a_truncate_of_more_rows_than_set_notes_everything() {
    let config = format!("[changes]\ntruncate_rows = 2\n{LAYER}");
    let tracking = Tracking::installed(MILLS, &config);
    notes(
        &tracking,
        &[
            ("TRUNCATE mill", &["0 everything"]),
            ("DELETE FROM mill WHERE id = 1; TRUNCATE mill", &["1 1,1", "2 2,2 3,3"]),
        ],
    );
}

#[test]
fn a_backfill_that_changes_nothing_visible_costs_the_log_nothing() {
    let tracking = Tracking::of(Db::with_facilities(12_000), ROWS_LAYER);
    tracking.install(&[]).ok();
    tracking.db.run("UPDATE api_facility SET updated_at = now()");
    assert_eq!(tracking.log(), Vec::<String>::new());
}

#[test]
fn a_large_change_is_noted_in_rows_of_a_thousand() {
    let tracking = Tracking::of(Db::with_facilities(12_000), ROWS_LAYER);
    tracking.install(&[]).ok();
    for (sql, places) in [
        ("UPDATE api_facility SET name = 'a'", 12_000),
        ("UPDATE api_facility SET location = ST_Translate(location, 0.5, 0)", 24_000),
        ("UPDATE api_facility SET name = 'b' WHERE id < 'D'", 1),
        ("CREATE TABLE public.copy AS TABLE public.api_facility; DELETE FROM api_facility", 12_000),
        ("INSERT INTO api_facility SELECT * FROM public.copy", 12_000),
        ("TRUNCATE api_facility", 12_000),
    ] {
        tracking.forget();
        tracking.db.run(sql);
        let row = &tracking
            .db
            .rows("SELECT sum(rows), sum(cardinality(x)), sum(cardinality(y)), max(rows) FROM oar_tiles.change")[0];
        let (rows, x, y, most): (i64, i64, i64, i32) = (row.get(0), row.get(1), row.get(2), row.get(3));
        if places == 1 {
            assert!(x == rows && x == y && i64::from(most) == rows, "{sql}: {rows} {x} {y} {most}");
        } else {
            assert_eq!((rows, x, y, most), (12_000, places, places, 1000), "{sql}");
        }
    }
    let wanted: i64 = tracking.db.value("SELECT count(DISTINCT ST_AsText(location)) FROM public.copy");
    let noted: i64 = tracking.db.value("SELECT count(DISTINCT (a, b)) FROM oar_tiles.change, unnest(x, y) AS p (a, b)");
    assert_eq!(noted, wanted, "every place is there");
}

#[test]
fn what_a_foreign_key_changes_is_noted() {
    let tables = "
        CREATE TABLE mill (id int PRIMARY KEY, parent int REFERENCES mill ON DELETE CASCADE ON UPDATE CASCADE, name text, location geometry(Point, 4326));
        INSERT INTO mill SELECT i, nullif(i - 1, 0), 'a', ST_SetSRID(ST_MakePoint(i, i), 4326) FROM generate_series(1, 3) AS i;";
    let config = "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = [\"name\", \"parent\"]";
    let tracking = Tracking::installed(tables, config);
    let places = || {
        let sql = "SELECT string_agg(DISTINCT a::text, ' ' ORDER BY a::text) FROM oar_tiles.change, unnest(x) AS a";
        tracking.db.value::<Option<String>>(sql).unwrap_or_default()
    };
    tracking.db.run("UPDATE mill SET id = 10 WHERE id = 1");
    assert_eq!(places(), "1 2", "the child's reference changed with it");
    tracking.forget();
    tracking.db.run("DELETE FROM mill WHERE id = 10");
    assert_eq!(places(), "1 2 3");
}

#[test]
fn without_a_key_the_rows_that_differ_are_noted() {
    let tables = "CREATE TABLE mill (id int, name text, score numeric, note json, ratio float8, seen timestamptz, location geometry(Point, 4326));";
    let tracking = Tracking::installed(tables, &format!("{LAYER}key = [\"id\"]\n"));
    notes(
        &tracking,
        &[
            ("UPDATE mill SET name = 'other' WHERE id = 1", &["2 1,1 1,1"]),
            ("UPDATE mill SET seen = now()", &[]),
            ("UPDATE mill SET score = 1.00, seen = now()", &["6 1,1 1,1 2,2 2,2 3,3 3,3"]),
            ("UPDATE mill SET location = 'SRID=4326;POINT(9 8)' WHERE id = 1", &["2 1,1 9,8"]),
            (
                "UPDATE mill SET ratio = 0.1::float8 + 0.2::float8; SET extra_float_digits = 0; UPDATE mill SET ratio = 0.3 WHERE id = 1; RESET extra_float_digits",
                &["2 1,1 1,1", "6 1,1 1,1 2,2 2,2 3,3 3,3"],
            ),
            // Two rows that are the same in all that is watched; one of them changes.
            (
                "INSERT INTO mill SELECT id, name, score, note, ratio, now(), location FROM mill WHERE id = 1; UPDATE mill SET name = 'x' WHERE ctid = (SELECT max(ctid) FROM mill)",
                &["1 1,1", "2 1,1 1,1"],
            ),
            ("DELETE FROM mill WHERE id = 1", &["1 1,1"]),
        ],
    );
}

#[test]
fn a_writer_needs_no_right_to_the_log_and_cannot_lead_the_triggers_astray() {
    let tracking = Tracking::installed(
        &format!("{MILLS}{ROWS}
            DO $$ BEGIN CREATE ROLE writer LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
            GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON mill TO writer;
            CREATE SCHEMA evil AUTHORIZATION writer;
            -- Whoever finds these instead of the real ones runs them with the log owner's rights.
            CREATE FUNCTION evil.st_x(geometry) RETURNS float8 LANGUAGE plpgsql AS $$ BEGIN RAISE 'led astray'; END $$;
            CREATE FUNCTION evil.count(\"any\") RETURNS int8 LANGUAGE internal AS 'int8inc_any';
            CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'led astray'; END $$;
            CREATE FUNCTION evil.differ(record, record) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE 'led astray'; END $$;
            CREATE OPERATOR evil.*<> (LEFTARG = record, RIGHTARG = record, FUNCTION = evil.differ);
            CREATE TABLE evil.change (id int);"),
        LAYER,
    );
    tracking.db.run(
        "SET ROLE writer; SET search_path = evil, public, pg_catalog;
         CREATE TEMP TABLE pg_attribute (attrelid oid, attname name);
         UPDATE public.mill SET name = 'x', score = 2 WHERE id = 1;
         TRUNCATE public.mill;
         RESET ROLE; SET search_path = public",
    );
    assert_eq!(tracking.log(), ["1 1,1", "3 1,1 2,2 3,3"]);
    let rights: bool = tracking.db.value("SELECT has_schema_privilege('writer', 'oar_tiles', 'USAGE') OR has_function_privilege('writer', 'oar_tiles.note_1()', 'EXECUTE')");
    assert!(!rights);
}

#[test]
fn a_column_that_is_gone_stops_no_writer_and_is_told() {
    for (change, undo) in [
        ("ALTER TABLE mill RENAME COLUMN name TO called", "ALTER TABLE mill RENAME COLUMN called TO name"),
        ("ALTER TABLE mill DROP COLUMN name", "ALTER TABLE mill ADD COLUMN name text"),
        (
            "ALTER TABLE mill ALTER COLUMN location TYPE text",
            "ALTER TABLE mill ALTER COLUMN location TYPE geometry(Point, 4326) USING location::geometry",
        ),
    ] {
        let tracking = Tracking::installed(&format!("{MILLS}{ROWS}"), LAYER);
        let since = tracking.now();
        tracking.db.run(change);
        tracking.db.run("UPDATE mill SET score = 3 WHERE id = 1; DELETE FROM mill WHERE id = 2; TRUNCATE mill");
        assert_eq!(tracking.log(), ["0 everything"; 3], "{change}");
        tracking.db.run(undo);
        let reason = tracking.check(&since).unwrap_err();
        assert!(
            reason.contains("Run oar-tiles seed") || reason.contains("then oar-tiles seed once"),
            "{change}: {reason}"
        );
    }
}

#[test]
fn a_notice_is_given_only_while_somebody_watches() {
    let tracking = Tracking::installed(&format!("{MILLS}{ROWS}"), LAYER);
    let (class, object) = oar_tiles::change_log::WATCHER_LOCK;
    let queued = || tracking.db.value::<f64>("SELECT pg_notification_queue_usage()");
    // A listener that reads nothing keeps what is sent in the queue.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let (watcher, mut connection) =
        runtime.block_on(tokio_postgres::connect(&tracking.db.url, tokio_postgres::NoTls)).unwrap();
    runtime.spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let tokio_postgres::AsyncMessage::Notification(notice) = message {
                sender.send(notice.channel().to_owned()).unwrap();
            }
        }
    });
    runtime.block_on(watcher.batch_execute("LISTEN oar_tiles")).unwrap();
    tracking.db.run("UPDATE mill SET name = 'a'");
    runtime.block_on(watcher.batch_execute(&format!("SELECT pg_advisory_lock_shared({class}, {object})"))).unwrap();
    assert!(receiver.try_recv().is_err(), "nobody watched");
    tracking.db.run("UPDATE mill SET name = 'a'");
    tracking.db.run("UPDATE mill SET name = 'b' WHERE id = 1");
    assert_eq!(receiver.recv_timeout(std::time::Duration::from_secs(30)).unwrap(), "oar_tiles");
    runtime.block_on(watcher.batch_execute("SELECT 1")).unwrap();
    assert!(receiver.try_recv().is_err(), "what changed nothing gives no notice");
    let left: i64 =
        tracking.db.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()");
    assert_eq!((left, queued()), (0, 0.0));
}
