//! Layers over materialized views with `refresh = true`: seed and reseed refresh them, and lose no change that comes
//! meanwhile.

use crate::support::tracking::Tracking;
use crate::support::{Archive, until};

const TABLES: &str = "
    CREATE TABLE mill (id int PRIMARY KEY, name text, is_open bool DEFAULT true, place geometry(Point, 4326));
    INSERT INTO mill SELECT n, 'mill ' || n, true, ST_SetSRID(ST_MakePoint(n % 60 - 30, n / 60), 4326) FROM generate_series(1, 600) AS n;
    CREATE MATERIALIZED VIEW open_mill AS SELECT id, name, place FROM mill WHERE is_open WITH NO DATA;
    CREATE INDEX ON open_mill USING gist (place);";

/// A unique index lets a refresh run beside readers.
const UNIQUE: &str = "CREATE UNIQUE INDEX ON open_mill (id);";

const TRACK: &str = "[[layer.track]]\ntable = \"mill\"\ngeometry = \"SELECT changed.place\"\n";

const REFRESHED: &str =
    "[[layer]]\nname = \"mills\"\ntable = \"open_mill\"\nkey = [\"id\"]\nproperties = [\"name\"]\nrefresh = true\n";

const ZOOM: [&str; 2] = ["--zoom", "0-6"];

fn mills(further: &str) -> Tracking {
    Tracking::installed(&[TABLES, further].concat(), &[REFRESHED, TRACK].concat())
}

/// Asserts that a target is what a fresh seed makes.
#[track_caller]
fn is_fresh(mills: &Tracking, target: &std::path::Path) {
    let fresh = mills.path("fresh.mbtiles");
    mills.oar_tiles("seed", &[&ZOOM[..], &["--force"]].concat(), &fresh).ok();
    assert!(Archive::open(target).tiles() == Archive::open(&fresh).tiles());
}

#[test]
fn seed_and_reseed_show_what_the_tables_beneath_hold() {
    for further in ["", UNIQUE] {
        let mills = mills(further);
        let target = mills.path("t.mbtiles");
        // It was never filled.
        mills.oar_tiles("seed", &ZOOM, &target).ok();
        assert!(Archive::open(&target).tiles().len() > 50);
        for change in [
            "INSERT INTO mill VALUES (1000, 'new', true, 'SRID=4326;POINT(100 50)')",
            "UPDATE mill SET is_open = false WHERE id = 7",
            "UPDATE mill SET place = 'SRID=4326;POINT(-100 -50)', name = 'moved' WHERE id = 8",
            "DELETE FROM mill WHERE id = 9",
        ] {
            mills.db.run(change);
            let done = mills.oar_tiles("reseed", &[], &target).ok();
            assert!(done.stdout.contains(" written"), "{change}: {}", done.stdout);
            is_fresh(&mills, &target);
        }
    }
}

#[test]
fn a_change_that_is_made_during_the_refresh_is_in_the_next_reseed() {
    let slow = "DROP MATERIALIZED VIEW open_mill; CREATE MATERIALIZED VIEW open_mill AS
        SELECT id, name, place FROM mill WHERE is_open AND (SELECT pg_sleep(1.5)) IS NOT NULL WITH NO DATA;
        CREATE INDEX ON open_mill USING gist (place);";
    let mills = mills(slow);
    let target = mills.path("t.mbtiles");
    let refreshing = "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^REFRESH' AND state = 'active'
        AND wait_event = 'PgSleep' AND datname = current_database()";
    let during = |verb: &str, arguments: &[&str], change: &str| {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| mills.oar_tiles(verb, arguments, &target).ok());
            until("the refresh", || mills.db.value::<i64>(refreshing) > 0);
            mills.db.run(change);
            run.join().unwrap();
        });
    };
    during("seed", &ZOOM, "INSERT INTO mill VALUES (1000, 'first', true, 'SRID=4326;POINT(100 50)')");
    // Layers over the table itself would show it already, so that a history without it is another one.
    let manifest = Archive::open(&target).metadata("oar_tiles_manifest").unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&manifest).unwrap()["witness"]["transactions"], 1);
    mills.db.run("UPDATE mill SET name = 'changed' WHERE id = 1");
    during("reseed", &[], "INSERT INTO mill VALUES (1001, 'second', true, 'SRID=4326;POINT(-100 -50)')");
    mills.oar_tiles("reseed", &[], &target).ok();
    is_fresh(&mills, &target);
}

#[test]
fn what_only_looks_changes_no_view() {
    let mills = mills(UNIQUE);
    let target = mills.path("t.mbtiles");
    mills.oar_tiles("seed", &ZOOM, &target).ok();
    mills.db.run("INSERT INTO mill VALUES (1000, 'new', true, 'SRID=4326;POINT(100 50)')");
    for (verb, arguments) in [("seed", &["--dry-run", "--zoom", "0-6"][..]), ("reseed", &["--dry-run"])] {
        mills.oar_tiles(verb, arguments, &target).ok();
        assert_eq!(mills.db.value::<i64>("SELECT count(*) FROM open_mill"), 600, "{verb}");
    }
}

#[test]
fn what_cannot_be_refreshed_is_named_with_what_to_do() {
    let mills = Tracking::over(&[TABLES, UNIQUE].concat(), REFRESHED);
    let target = mills.path("t.mbtiles");
    mills
        .install(&[])
        .fails(2, &["is a materialized view, and REFRESH fires no trigger", "Set refresh = true and declare"]);
    let who = format!("reader_{}", mills.db.name);
    mills.db.run(&format!(
        "REFRESH MATERIALIZED VIEW open_mill; CREATE ROLE \"{who}\" LOGIN; GRANT SELECT ON open_mill, mill TO \"{who}\""
    ));
    let url = mills.db.url.replace("user=oar_tiles", &format!("user={who}")).replace("oar_tiles@", &format!("{who}@"));
    let as_reader = |config: &str| {
        mills.configure(config);
        let config = mills.config();
        let arguments =
            ["seed", "--database-url", &url, "--config", config.to_str().unwrap(), "--zoom", "0", "--output"];
        crate::support::program::run(crate::support::program::program().args(arguments).arg(&target))
    };
    let refused = as_reader(REFRESHED);
    let table = as_reader(&REFRESHED.replace("open_mill", "mill"));
    let query = as_reader(&REFRESHED.replace("table = \"open_mill\"", "sql = \"SELECT * FROM open_mill\""));
    let may_read = as_reader(&REFRESHED.replace("refresh = true", "refresh = false"));
    mills.db.run(&format!("DROP OWNED BY \"{who}\"; DROP ROLE \"{who}\""));
    refused.fails(
        2,
        &[
            "\"open_mill\" is refreshed by its owner \"oar_tiles\" only, and this role is",
            &format!("Run GRANT \"oar_tiles\" TO \"{who}\""),
        ],
    );
    table.fails(2, &["it has refresh = true, and \"public\".\"mill\" is no materialized view. Leave refresh out"]);
    query.fails(2, &["layer[mills].refresh", "is for a layer that names a materialized view with table: leave it out"]);
    may_read.ok();
}
