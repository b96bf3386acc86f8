//! `oar-tiles reseed`: exactly the tiles in which something changed.

use crate::support::program::{program, run};
use crate::support::tracked::{SOME, Tracked, differences, listed};
use crate::support::{Archive, Db, shared_data};

#[test]
fn only_the_tiles_of_a_changed_facility_are_rendered_and_written() {
    let tracked = Tracked::facilities(2_000);
    let target = tracked.seed("t.mbtiles", &[]);
    let dirty = tracked.path("dirty.txt");
    let dirty_out = ["--dirty-out", dirty.to_str().unwrap()];
    for (change, words, exact) in [
        (format!("UPDATE api_facility SET name = name || ' & Sons' WHERE {SOME}"), "5 rows changed", true),
        (format!("UPDATE api_facility SET location = ST_Translate(location, 1, 1) WHERE {SOME}"), "5 rows changed", true),
        (format!("DELETE FROM api_facility WHERE {SOME}"), "5 rows changed", true),
        ("INSERT INTO api_facility SELECT 'new', 'N', 'A', 'NZ', ST_SetSRID(ST_MakePoint(-170, -30), 4326), false, now(), now()".to_owned(), "1 row changed", true),
        // It shows no longer; the tiles that it leaves are gone.
        ("DELETE FROM api_facility WHERE id = 'new'".to_owned(), "1 row changed", true),
        // Back and forth: noted, but nothing differs.
        ("UPDATE api_facility SET name = name || '!' WHERE id < 'CN'; UPDATE api_facility SET name = left(name, -1) WHERE id < 'CN'".to_owned(), "rows changed", false),
    ] {
        let before = Archive::open(&target).stored();
        tracked.db.run(&change);
        let done = tracked.reseed(&target, &dirty_out).ok();
        assert!(done.stdout.contains(&format!("\"public\".\"api_facility\": {words}")) || !exact, "{}", done.stdout);
        tracked.is_fresh(&target, &[]);
        let (differing, listed) = (differences(&before, &Archive::open(&target).stored()), listed(&dirty));
        assert!(differing.is_subset(&listed), "{change}");
        // A dirty tile without a difference was only touched by the buffer: the feature rounds to just outside of it.
        let explained = if exact { 1 } else { listed.len() };
        assert!(listed.len() - differing.len() <= explained, "{change}: {:?}", listed.difference(&differing));
        assert_eq!(!differing.is_empty(), exact, "{change}");
    }
    assert!(Archive::open(&target).metadata("agg_tiles_hash").is_none(), "it would be stale");
    let verified = run(program().args(["verify", "--database", "--database-url", &tracked.db.url]).arg(&target));
    verified.ok();
}

#[test]
fn nothing_changed_is_nothing_to_do_and_touches_nothing() {
    let tracked = Tracked::facilities(300);
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-9"]);
    let before = (std::fs::read(&target).unwrap(), std::fs::metadata(&target).unwrap().modified().unwrap());
    for change in [
        "SELECT 1",
        "UPDATE api_facility SET updated_at = now()",
        "UPDATE api_facility SET name = name, location = location",
        "BEGIN; UPDATE api_facility SET name = 'x'; ROLLBACK",
        "BEGIN; SAVEPOINT s; DELETE FROM api_facility; ROLLBACK TO SAVEPOINT s; COMMIT",
    ] {
        tracked.db.run(change);
        let done = tracked.reseed(&target, &[]).ok();
        assert_eq!(done.stdout, format!("nothing to do: {}\n", target.display()), "{change}");
        assert_eq!(tracked.db.value::<i64>("SELECT count(*) FROM oar_tiles.change"), 0, "{change}");
    }
    let after = (std::fs::read(&target).unwrap(), std::fs::metadata(&target).unwrap().modified().unwrap());
    assert!(before == after);
}

#[test]
fn a_transaction_that_began_before_a_reseed_and_ends_after_it_is_found_by_the_next() {
    let tracked = Tracked::facilities(300);
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-8"]);
    let importer = Db::on(&tracked.db.url);
    drop(importer);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let importer = runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(&tracked.db.url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("BEGIN; UPDATE api_facility SET name = 'imported' WHERE id < 'D'").await.unwrap();
        client
    });
    for round in 0..2 {
        tracked.db.run(&format!("UPDATE api_facility SET name = 'r{round}' WHERE id > 'V'"));
        let done = tracked.reseed(&target, &[]).ok();
        assert!(done.stdout.contains("dirty tiles"), "{}", done.stdout);
        tracked.is_fresh(&target, &["--zoom", "0-8"]);
    }
    runtime.block_on(importer.batch_execute("COMMIT")).unwrap();
    tracked.reseed(&target, &[]).ok();
    tracked.is_fresh(&target, &["--zoom", "0-8"]);
    let done = tracked.reseed(&target, &[]).ok();
    assert!(done.stdout.starts_with("nothing to do"), "{}", done.stdout);
}

#[test]
fn the_real_change_set_dirties_exactly_the_tiles_that_differ() {
    let (Some(first), Some(later)) = (shared_data("facilities.csv"), shared_data("facilities-later.csv")) else {
        return;
    };
    let tracked = Tracked::over(Db::with_csv(&first));
    let target = tracked.seed("t.mbtiles", &[]);
    let later = Db::with_csv(&later);
    let before = Archive::open(&target).stored();
    let rows = later.rows("SELECT id, name, address, country_code, ST_AsEWKT(location) FROM api_facility");
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let mut change =
        "BEGIN; CREATE TEMP TABLE later (id text, name text, address text, country text, location geometry);"
            .to_owned();
    for row in &rows {
        let values: Vec<String> = (0..5).map(|column| quoted(row.get::<_, &str>(column))).collect();
        change.push_str(&format!("INSERT INTO later VALUES ({});", values.join(",")));
    }
    change.push_str(
        "DELETE FROM api_facility f WHERE NOT EXISTS (SELECT FROM later l WHERE l.id = f.id);
         UPDATE api_facility f SET name = l.name, address = l.address, country_code = l.country, location = l.location FROM later l WHERE l.id = f.id;
         INSERT INTO api_facility SELECT id, name, address, country, location, false, now(), now() FROM later l
             WHERE NOT EXISTS (SELECT FROM api_facility f WHERE l.id = f.id); COMMIT",
    );
    tracked.db.run("CREATE TABLE was AS SELECT * FROM api_facility");
    tracked.db.run(&change);
    let dirty = tracked.path("dirty.txt");
    tracked.reseed(&target, &["--dirty-out", dirty.to_str().unwrap()]).ok();
    tracked.is_fresh(&target, &[]);
    let (differing, listed) = (differences(&before, &Archive::open(&target).stored()), listed(&dirty));
    assert!(differing.is_subset(&listed));
    // A place that moved by less than a unit of the tile's grid is drawn where it was.
    let equal: Vec<_> = listed.difference(&differing).map(|(z, x, y)| format!("({z}, {x}, {y})")).collect();
    eprintln!("{} tiles differ, {} were dirty without differing", differing.len(), equal.len());
    let drawn = |row: &str| {
        format!("ST_AsText(ST_AsMVTGeom(ST_Transform({row}.location, 3857), ST_TileEnvelope(z, x, y), 4096, 64))")
    };
    let unexplained = tracked.db.value::<i64>(&format!(
        "SELECT count(*) FROM (VALUES {}) AS tile (z, x, y), was FULL JOIN api_facility AS now USING (id)
         WHERE {} IS DISTINCT FROM {} OR {} IS NOT NULL AND ROW(was.name, was.address, was.country_code) <> ROW(now.name, now.address, now.country_code)",
        equal.join(", "), drawn("was"), drawn("now"), drawn("now")
    ));
    assert_eq!(unexplained, 0);
}

#[test]
fn a_change_of_nearly_everything_is_rendered_as_a_seed() {
    let tracked = Tracked::facilities(30_000);
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-8"]);
    tracked.db.run("UPDATE api_facility SET location = ST_Translate(location, 0.01, 0)");
    let planned = tracked.reseed(&target, &["--dry-run"]).ok();
    assert!(planned.stdout.ends_with("so much changed that every tile would be rendered anew\n"), "{}", planned.stdout);
    let done = tracked.reseed(&target, &[]).ok();
    assert!(done.stdout.contains(" planned, "), "{}", done.stdout);
    tracked.is_fresh(&target, &["--zoom", "0-8"]);
    let done = tracked.reseed(&target, &[]).ok();
    assert!(done.stdout.starts_with("nothing to do"), "{}", done.stdout);
}
