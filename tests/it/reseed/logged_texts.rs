//! The change log's texts are read as the triggers wrote them, whatever the settings of the database and the reader.

use crate::support::Db;
use crate::support::tracking::Tracking;
use crate::support::{Archive, tracked::differences};

const TABLES: &str = "
    CREATE TABLE mill (id int PRIMARY KEY, codes text[], doc text, price money, location geometry(Point, 4326));
    CREATE TABLE note (id int PRIMARY KEY, codes text[], doc xml, price money);
    INSERT INTO mill SELECT i, ARRAY['a' || i, NULL], '<a/><b n=\"' || i || '\"/>', i::money, ST_SetSRID(ST_MakePoint(i, i), 4326)
    FROM generate_series(1, 40) AS i;";

const LAYER: &str = r#"
[[layer]]
name = "mills"
sql = "SELECT m.id, m.price, m.location, (SELECT count(*) FROM note n WHERE n.codes = m.codes OR n.doc::text = m.doc OR n.price = m.price) AS notes FROM mill m"
key = ["id"]
properties = ["notes", "price"]
zoom = "0-4"

[[layer.track]]
table = "note"
geometry = "SELECT m.location FROM mill m WHERE m.codes = changed.codes OR m.doc = changed.doc::text OR m.price = changed.price"
"#;

/// A database whose sessions begin with these settings.
fn tracking(settings: &[&str]) -> Tracking {
    let tracking = Tracking::installed(TABLES, LAYER);
    for setting in settings {
        tracking.db.run(&format!("ALTER DATABASE {} SET {setting}", tracking.db.name));
    }
    tracking
}

fn assert_reseeded(tracking: &Tracking, change: &str) {
    let (target, fresh) = (tracking.path("t.mbtiles"), tracking.path("fresh.mbtiles"));
    tracking.oar_tiles("seed", &[], &target).ok();
    let before = Archive::open(&target).stored();
    tracking.db.run(change);
    tracking.oar_tiles("reseed", &[], &target).ok();
    tracking.oar_tiles("seed", &[], &fresh).ok();
    let (after, fresh) = (Archive::open(&target).stored(), Archive::open(&fresh).stored());
    assert!(differences(&after, &fresh).is_empty(), "{change}: the tiles are stale");
    assert!(!differences(&before, &after).is_empty(), "{change}: no tile has changed");
}

#[test]
fn an_array_with_null_is_read_as_it_was_written_where_array_nulls_is_off() {
    assert_reseeded(&tracking(&["array_nulls = off"]), "INSERT INTO note VALUES (1, ARRAY['a7', NULL])");
}

#[test]
fn a_fragment_of_xml_is_read_where_xmloption_is_document() {
    let change = "INSERT INTO note VALUES (1, NULL, XMLPARSE(CONTENT '<a/><b n=\"7\"/>'))";
    assert_reseeded(&tracking(&["xmloption = document"]), change);
}

/// The locales that a server has, of those whose amounts of money read unlike those of "C".
fn locales_of_money(db: &Db) -> Vec<String> {
    let sql = "SELECT DISTINCT collcollate FROM pg_collation WHERE collcollate ~ '^(de_DE|es_AR)' ORDER BY 1";
    db.rows(sql).iter().map(|row| row.get(0)).collect()
}

#[test]
fn an_amount_of_money_is_read_as_it_was_written_and_drawn_as_the_reader_writes_it() {
    let tracking = tracking(&[]);
    assert_reseeded(&tracking, "INSERT INTO note VALUES (1, NULL, NULL, 7::money)");
    for locale in locales_of_money(&tracking.db) {
        tracking.db.run("TRUNCATE note");
        tracking.db.run(&format!("ALTER DATABASE {} SET lc_monetary = '{locale}'", tracking.db.name));
        assert_reseeded(&tracking, "INSERT INTO note VALUES (1, NULL, NULL, 7::money)");
    }
}

/// The settings of a function, from its catalog entry.
#[test]
fn the_triggers_fix_what_a_reader_of_the_log_fixes() {
    let tracking = tracking(&[]);
    let sql = "SELECT unnest(proconfig) FROM pg_proc WHERE pronamespace = 'oar_tiles'::regnamespace AND proname LIKE 'note\\_%' ORDER BY 1";
    let found: Vec<String> = tracking.db.rows(sql).iter().map(|row| row.get(0)).collect();
    for setting in ["array_nulls=on", "lc_monetary=C", "xmloption=content", "TimeZone=UTC", "DateStyle=ISO, MDY"] {
        assert!(found.iter().any(|one| one.eq_ignore_ascii_case(setting)), "{setting} is missing in {found:?}");
    }
}
