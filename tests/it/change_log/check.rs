//! Whether the log can be trusted, and each reason for which it cannot.

use crate::support::Db;
use crate::support::program::ROWS_LAYER;
use crate::support::tracking::Tracking;

const TABLES: &str = "
    CREATE TABLE mill (id int PRIMARY KEY, name text, more text, location geometry(Point, 4326)) PARTITION BY RANGE (id);
    CREATE TABLE mill_1 PARTITION OF mill FOR VALUES FROM (0) TO (10);
    CREATE TABLE mill_2 PARTITION OF mill FOR VALUES FROM (10) TO (20);
    INSERT INTO mill SELECT i, 'mill ' || i, '', ST_SetSRID(ST_MakePoint(i, i), 4326) FROM generate_series(1, 3) AS i;";

const LAYER: &str = "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = [\"name\"]\n";

/// What is done to an installed log, and what the check then says: all of it, but for numbers.
#[track_caller]
fn distrusted(cases: &[(&str, &str)]) {
    for (change, expected) in cases {
        let tracking = Tracking::installed(TABLES, LAYER);
        let since = tracking.now();
        assert_eq!(tracking.check(&since).map(|watches| watches[0].len()), Ok(1), "before {change}");
        tracking.db.run(change);
        assert_eq!(tracking.check(&since).unwrap_err(), *expected, "{change}");
    }
}

#[test]
fn a_table_that_was_out_of_sight_is_not_trusted() {
    let unnoticed = "layer \"mills\": changes of \"public\".\"mill\" may have gone by unnoticed: ";
    let again = ". Run oar-tiles track install, then oar-tiles seed once";
    let cases = [
        ("ALTER TABLE mill DISABLE TRIGGER oar_tiles_1_update", "triggers of \"public\".\"mill\" are disabled"),
        ("ALTER TABLE mill_1 DISABLE TRIGGER ALL", "triggers of \"public\".\"mill_1\" are disabled"),
        ("ALTER TABLE mill_2 ENABLE TRIGGER oar_tiles_1_update", "triggers of \"public\".\"mill_2\" are disabled"),
        (
            "ALTER TABLE mill DISABLE TRIGGER oar_tiles_1_update; ALTER TABLE mill ENABLE ALWAYS TRIGGER oar_tiles_1_update",
            "triggers of \"public\".\"mill\" were altered, or disabled for a while",
        ),
        ("DROP TRIGGER oar_tiles_1_truncate ON mill_1", "\"public\".\"mill_1\" lacks triggers that were installed"),
        (
            "CREATE OR REPLACE FUNCTION oar_tiles.note_1() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
            "the function of its triggers is not the one that was installed",
        ),
        (
            "CREATE TABLE mill_3 PARTITION OF mill FOR VALUES FROM (20) TO (30)",
            "\"public\".\"mill_3\" became its partition, child or parent since the triggers were installed",
        ),
        (
            "ALTER TABLE mill DETACH PARTITION mill_2",
            "\"public\".\"mill_2\" was its partition, child or parent when the triggers were installed",
        ),
        (
            "ALTER TABLE mill DETACH PARTITION mill_2; ALTER TABLE mill ATTACH PARTITION mill_2 FOR VALUES FROM (10) TO (20)",
            "\"public\".\"mill_2\" was detached and attached since the triggers were installed",
        ),
    ];
    let cases: Vec<(&str, String)> =
        cases.iter().map(|(change, what)| (*change, format!("{unnoticed}{what}{again}"))).collect();
    distrusted(&cases.iter().map(|(change, expected)| (*change, expected.as_str())).collect::<Vec<_>>());
}

#[test]
fn a_table_or_column_that_is_another_one_is_not_trusted() {
    let again = "Run oar-tiles track install, then oar-tiles seed once";
    distrusted(&[
        (
            "ALTER TABLE mill RENAME TO old; CREATE TABLE mill (LIKE old INCLUDING ALL)",
            &format!(
                "layer \"mills\": \"public\".\"mill\" is not the table whose changes are noted: that one is called \"public\".\"old\" now. {again}"
            ),
        ),
        (
            "CREATE TABLE new (LIKE mill INCLUDING ALL); DROP TABLE mill; ALTER TABLE new RENAME TO mill",
            &format!(
                "layer \"mills\": \"public\".\"mill\" is not the table whose changes are noted: that one is gone. {again}"
            ),
        ),
        (
            "ALTER TABLE mill ALTER COLUMN name TYPE varchar(9) USING left(name, 9)",
            &format!(
                "layer \"mills\": \"name\" of \"public\".\"mill\" was altered since its changes are noted. {again}"
            ),
        ),
        (
            "ALTER TABLE mill DROP COLUMN name; ALTER TABLE mill ADD COLUMN name text DEFAULT 'x'",
            &format!(
                "layer \"mills\": \"name\" of \"public\".\"mill\" was altered since its changes are noted. {again}"
            ),
        ),
    ]);
}

#[test]
fn what_does_not_touch_the_layer_is_trusted() {
    let tracking = Tracking::installed(TABLES, LAYER);
    let since = tracking.now();
    for change in [
        "UPDATE mill SET name = 'x'",
        "ALTER TABLE mill DROP COLUMN more",
        "ALTER TABLE mill ADD COLUMN another int DEFAULT 7",
        "CREATE INDEX ON mill (name)",
        "VACUUM FULL mill",
        "VACUUM FULL pg_trigger",
        "VACUUM (FREEZE, ANALYZE)",
        "CREATE TRIGGER other AFTER INSERT ON mill EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "ALTER TABLE mill DISABLE TRIGGER other",
        "GRANT SELECT ON mill TO public",
    ] {
        tracking.db.run(change);
        assert_eq!(tracking.check(&since).map(|watches| watches[0].len()), Ok(1), "{change}");
    }
}

#[test]
fn a_log_that_does_not_reach_back_is_not_trusted() {
    let tracking = Tracking::over(TABLES, LAYER);
    let server = tracking.db.value::<String>("SELECT current_database()::text");
    let before = tracking.now();
    let message = tracking.check(&before).unwrap_err();
    assert!(message.starts_with("changes are not noted in the database ") && message.contains(&server), "{message}");
    assert!(message.ends_with(
        ": it has no change log in the schema \"oar_tiles\". Run oar-tiles track install, then oar-tiles seed once"
    ));
    tracking.install(&[]).ok();
    assert_eq!(
        tracking.check(&before).unwrap_err(),
        "layer \"mills\": changes of \"public\".\"mill\" are noted since after the target was written. Run oar-tiles seed once"
    );
    let installed = tracking.now();
    tracking.configure(&LAYER.replace("[\"name\"]", "[\"name\", \"more\"]"));
    assert_eq!(
        tracking.check(&installed).unwrap_err(),
        "layer \"mills\": what it reads is not tracked: it is new, or its table, properties, key, where or [[layer.track]] changed. Run oar-tiles track install, then oar-tiles seed once"
    );
    tracking.install(&[]).ok();
    assert_eq!(
        tracking.check(&installed).unwrap_err(),
        "layer \"mills\": changes of \"more\" of \"public\".\"mill\" are noted since after the target was written. Run oar-tiles seed once"
    );
    let wider = tracking.now();
    assert!(tracking.check(&wider).is_ok());
    // The other configuration goes on as before.
    tracking.configure(LAYER);
    assert!(tracking.check(&installed).is_ok());

    tracking.db.run(&format!("UPDATE oar_tiles.state SET pruned = '{}'", installed.xmin() - 1));
    assert!(tracking.check(&installed).is_ok(), "all that is pruned was seen");
    tracking.db.run(&format!("UPDATE oar_tiles.state SET pruned = '{}'", installed.xmin()));
    assert_eq!(
        tracking.check(&installed).unwrap_err(),
        format!(
            "the change log no longer holds what the target has not seen: it was pruned up to transaction {0}, and the target has seen all before {0}. Run oar-tiles seed",
            installed.xmin()
        )
    );
    let later = format!("{0}:{0}:", tracking.now().xmax() + 1_000_000).parse().unwrap();
    let message = tracking.check(&later).unwrap_err();
    assert!(
        message.contains(" is older than the target: it ended at transaction ")
            && message.contains(&format!("up to {}", later.xmax())),
        "{message}"
    );
    tracking.db.run("UPDATE oar_tiles.state SET layout = 9");
    let newer = "the change log in the schema \"oar_tiles\" has layout 9, this program knows 4: update oar-tiles";
    assert_eq!(tracking.check(&wider).unwrap_err(), newer);
    tracking.install(&[]).fails(1, &[newer]);
}

#[test]
fn a_large_truncate_is_told_until_a_target_has_seen_it() {
    let tracking = Tracking::installed(TABLES, &format!("[changes]\ntruncate_rows = 1\n{LAYER}"));
    tracking.db.run("CREATE TABLE kept AS SELECT * FROM mill_1");
    let since = tracking.now();
    tracking.db.run("BEGIN; TRUNCATE mill; ROLLBACK; DELETE FROM mill WHERE id = 3");
    assert!(tracking.check(&since).is_ok(), "it was rolled back");
    let told = "layer \"mills\": \"public\".\"mill\" may differ everywhere. A TRUNCATE of it or of a partition noted no rows (more than truncate_rows in [changes], or rows that its transaction or the triggers' role may not see), or a column was missing when it changed. Run oar-tiles seed";
    // Of many rows; and of one row in a transaction that may not see all rows.
    for (before, truncate) in [
        ("SELECT", "TRUNCATE mill"),
        (
            "INSERT INTO mill SELECT * FROM kept LIMIT 1",
            "BEGIN ISOLATION LEVEL REPEATABLE READ; TRUNCATE mill_1; COMMIT",
        ),
    ] {
        tracking.db.run(before);
        let since = tracking.now();
        tracking.db.run(truncate);
        assert_eq!(tracking.check(&since).unwrap_err(), told, "{truncate}");
        assert!(tracking.check(&tracking.now()).is_ok());
    }
}

#[test]
fn a_table_that_replication_writes_is_not_trusted() {
    let tracking = Tracking::installed(TABLES, LAYER);
    let since = tracking.now();
    tracking.db.run("CREATE PUBLICATION p FOR TABLE mill");
    let other = Tracking::installed(TABLES, LAYER);
    let there = other.now();
    other.db.run("CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false)");
    other.db.run(
        "INSERT INTO pg_subscription_rel SELECT oid, 'public.mill_1'::regclass, 'i', NULL FROM pg_subscription
         WHERE subname = 's' AND subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
    );
    let message = other.check(&there).unwrap_err();
    let installed = other.install(&[]).ok();
    assert!(
        installed.stderr.contains(
            "warning: public.mill_1 is written by logical replication, which fires no triggers of statements"
        ),
        "{}",
        installed.stderr
    );
    other.db.run("ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s");
    assert!(
        message.starts_with(
            "layer \"mills\": \"public\".\"mill_1\" is written by logical replication, which fires no such triggers"
        ),
        "{message}"
    );
    assert!(other.check(&there).is_ok() && tracking.check(&since).is_ok());
}

#[test]
fn a_reader_needs_no_more_than_the_right_to_read() {
    let tracking = Tracking::over(
        &format!(
            "{TABLES}
            DO $$ BEGIN CREATE ROLE \"tile reader\" LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
            GRANT SELECT ON mill TO \"tile reader\";"
        ),
        LAYER,
    );
    tracking.install(&[]).ok();
    let since = tracking.now();
    assert_eq!(
        tracking.check_as("tile%20reader", &since).unwrap_err(),
        "the role \"tile reader\" may not read the change log: run oar-tiles track install --reader \"tile reader\" as its owner, or GRANT USAGE ON SCHEMA \"oar_tiles\" TO \"tile reader\"; GRANT SELECT ON ALL TABLES IN SCHEMA \"oar_tiles\" TO \"tile reader\""
    );
    tracking.install(&["--reader", "tile reader"]).ok();
    assert_eq!(tracking.check_as("tile%20reader", &since).map(|watches| watches[0].len()), Ok(1));
}

#[test]
fn what_notes_everything_is_found_by_an_index_however_long_the_log_is() {
    let tracking = Tracking::of(Db::with_facilities(10), ROWS_LAYER);
    tracking.install(&[]).ok();
    tracking.db.run("INSERT INTO oar_tiles.change (watch, rows) SELECT 1, 1 FROM generate_series(1, 20000); ANALYZE oar_tiles.change");
    let sql = include_str!("../../../src/change_log/sql/facts.sql");
    let condition =
        "FROM {schema}.change AS e WHERE e.everything AND e.watch = w.id\n            AND e.xid >= pg_snapshot_xmin(";
    assert!(sql.contains(condition), "the statement asked here is the one of the check");
    let plan = tracking.db.rows(
        "EXPLAIN SELECT FROM oar_tiles.watch AS w WHERE EXISTS (SELECT FROM oar_tiles.change AS e WHERE e.everything AND e.watch = w.id
            AND e.xid >= pg_snapshot_xmin('1:1:'::text::pg_snapshot))",
    );
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    assert!(plan.join("\n").contains("change_everything"), "{plan:?}");
}
