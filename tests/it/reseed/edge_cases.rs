//! What happens to a table, a view or the database itself, rather than to rows: a reseed is right, or refuses.

use std::process::Stdio;

use crate::support::process::Start as _;
use crate::support::program::{program, run, wait};
use crate::support::tracked::{SOME, Tracked};
use crate::support::{Cluster, Db, until};

const ZOOM: [&str; 2] = ["--zoom", "0-5"];

#[test]
fn a_table_that_is_rewritten_while_the_run_waits_for_it_is_read_on_a_new_snapshot() {
    for verb in ["reseed", "seed"] {
        let tracked = Tracked::facilities(200);
        let target = tracked.seed("t.mbtiles", &ZOOM);
        tracked.db.run(&format!("UPDATE api_facility SET name = 'changed' WHERE {SOME}"));
        // A rewritten table shows older snapshots nothing of what was in it.
        tracked.db.run("BEGIN; ALTER TABLE api_facility ADD COLUMN score float DEFAULT random()");
        let mut command = program();
        command
            .args([verb, "--progress", "none", "--database-url", &tracked.db.url, "--output"])
            .arg(&target)
            .args(ZOOM);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start();
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        until("the run waits for the table", || tracked.db.value::<i64>(waiting) == 1);
        tracked.db.run("COMMIT");
        let done = wait(child).ok();
        assert!(
            done.stderr.contains("api_facility was rewritten or truncated just after the snapshot was taken, which cannot see its rows any more: starting over on a new snapshot (1 of 3)"),
            "{verb}: {}",
            done.stderr
        );
        tracked.is_fresh(&target, &ZOOM);
    }
}

#[test]
fn what_the_layers_read_has_to_be_what_it_was() {
    let again = "a full seed: the tables and views that its layers read are not those of then: one was replaced, redefined, attached or detached";
    let view = "[[layer]]\nname = \"v\"\ntable = \"v\"\ngeometry = \"location\"\nkey = [\"id\"]\nproperties = [\"id\", \"name\"]\n[[layer.track]]\ntable = \"api_facility\"\ngeometry = \"SELECT changed.location\"\n";
    let plain = "[[layer]]\nname = \"f\"\ntable = \"api_facility\"\nproperties = [\"id\", \"name\"]\n";
    let undeclared = "[[layer]]\nname = \"v\"\ntable = \"v\"\ngeometry = \"location\"\nkey = [\"id\"]\nproperties = [\"id\", \"name\"]\n";
    for (config, before_seed, after_seed, text) in [
        (
            view,
            "",
            "CREATE OR REPLACE VIEW v AS SELECT id, upper(name)::varchar(200) AS name, location FROM api_facility",
            again,
        ),
        // Another table under the name at the time of the seed, and the first one again now.
        (
            plain,
            "ALTER TABLE api_facility RENAME TO other; CREATE TABLE api_facility (LIKE other INCLUDING ALL)",
            "DROP TABLE api_facility; ALTER TABLE other RENAME TO api_facility",
            again,
        ),
        (plain, "CREATE TABLE child () INHERITS (api_facility)", "DROP TABLE child", again),
        (
            plain,
            "",
            "ALTER TABLE api_facility SET UNLOGGED",
            "\"public\".\"api_facility\" is unlogged, so a crash empties it without a trigger",
        ),
        (
            plain,
            "",
            "ALTER TABLE api_facility ENABLE ROW LEVEL SECURITY; ALTER TABLE api_facility FORCE ROW LEVEL SECURITY; CREATE ROLE anyone_NAME LOGIN; \
             CREATE POLICY few ON api_facility USING (NOT is_closed); GRANT USAGE ON SCHEMA oar_tiles TO anyone_NAME; \
             GRANT SELECT ON api_facility, oar_tiles.state, oar_tiles.watch, oar_tiles.watched, oar_tiles.member, oar_tiles.needs, oar_tiles.change TO anyone_NAME",
            "api_facility has row level security: which rows this role sees may change without any row being changed",
        ),
        (
            undeclared,
            "",
            "UPDATE api_facility SET name = 'unseen'",
            "layer \"v\": none of the tables that it reads is tracked. Declare each of them with [[layer.track]]",
        ),
    ] {
        let db = Db::with_facilities(100);
        db.run("CREATE VIEW v AS SELECT id, name, location FROM api_facility");
        let tracked = Tracked { db, folder: tempfile::tempdir().unwrap() };
        let config_path = tracked.path("c.toml");
        std::fs::write(&config_path, config).unwrap();
        let config_path = config_path.to_str().unwrap();
        tracked.oar_tiles(&["track", "install", "--config", config_path]).ok();
        let role = format!("anyone_{}", tracked.db.name);
        // The tests' role is called as the log's schema, which so comes first in its search path.
        let named = |sql: &str| format!("SET search_path = public; {}", sql.replace("anyone_NAME", &role));
        tracked.db.run(&named(before_seed));
        let target = tracked.seed("t.mbtiles", &["--zoom", "0-3", "--config", config_path]);
        tracked.db.run(&named(after_seed));
        let refused = if after_seed.contains("anyone_NAME") {
            let (scheme, rest) = tracked.db.url.split_once("://").unwrap();
            let url = format!("{scheme}://{role}@{}", rest.split_once('@').unwrap().1);
            let mut command = program();
            command.args(["reseed", "--progress", "none", "--config", config_path, "--database-url", &url, "--output"]);
            run(command.arg(&target))
        } else {
            tracked.reseed(&target, &["--config", config_path])
        };
        refused.fails(4, &[&target.display().to_string(), text]);
        if after_seed.contains("anyone_NAME") {
            tracked.db.run(&named("DROP OWNED BY anyone_NAME; DROP ROLE anyone_NAME"));
        }
    }
}

#[test]
fn a_column_of_another_type_stops_no_writer() {
    let tracked = Tracked::facilities(50);
    for change in [
        "ALTER TABLE api_facility ALTER COLUMN name TYPE int USING length(name)",
        "ALTER TABLE api_facility ALTER COLUMN name TYPE json USING to_json(name)",
        "ALTER TABLE api_facility ALTER COLUMN name TYPE point USING point(0, 0)",
    ] {
        tracked.db.run(change);
        tracked.db.run("UPDATE api_facility SET updated_at = now(); UPDATE api_facility SET address = address || '!'");
        tracked.db.run("DELETE FROM api_facility WHERE id = (SELECT min(id) FROM api_facility)");
    }
}

#[test]
fn a_standby_is_followed_through_a_failover_and_a_timeline_that_is_known_must_be_the_same() {
    let primary = Cluster::new();
    let db = Db::with_facilities_on(&primary.url, 200);
    let tracked = Tracked::over(db);
    let standby = Cluster::standby_of(&primary);
    let there = crate::support::database::with_database(&standby.url, &tracked.db.name);
    let target = tracked.path("t.mbtiles");
    let run_there = |verb: &str| {
        let mut command = program();
        command.args([verb, "--progress", "none", "--database-url", &there, "--output"]).arg(&target);
        if verb == "seed" {
            command.args(ZOOM);
        }
        run(&mut command)
    };
    until("the standby has caught up", || run_there("seed").code == 0);
    tracked.db.run(&format!("UPDATE api_facility SET name = 'x' WHERE {SOME}"));
    until("the change is there", || run_there("reseed").ok().stdout.contains("dirty tiles"));
    tracked.is_fresh(&target, &ZOOM);
    // A role that may ask for the cluster's identity need not have the right to ask for its timeline.
    tracked.db.run(
        "CREATE ROLE humble LOGIN; GRANT SELECT ON api_facility TO humble;
         REVOKE EXECUTE ON FUNCTION pg_control_checkpoint() FROM PUBLIC",
    );
    let (scheme, rest) = there.split_once("://").unwrap();
    let humble = format!("{scheme}://humble@{}", rest.split_once('@').unwrap().1);
    let of_role = tracked.path("humble.mbtiles");
    until("the role is there", || crate::support::seed(&humble, &of_role, &ZOOM).code == 0);
    // A standby does not know its timeline, and nothing was lost.
    standby.promote();
    assert!(run_there("reseed").ok().stdout.starts_with("nothing to do"));
    // This one was on timeline 1 when it was seeded by the primary.
    let before = tracked.seed("before.mbtiles", &ZOOM);
    let mut command = program();
    command.args(["reseed", "--database-url", &there, "--output"]).arg(&before);
    run(&mut command).fails(
        4,
        &["the database was restored, or failed over to a standby, since then (it is on timeline 2, and was on 1)"],
    );
}

#[test]
fn a_row_on_the_edge_of_the_world_is_seen_where_it_is_drawn() {
    for (srid, places) in [
        (4326, ["10, -85.05112878", "10, -85.0511287798066", "180, 0", "-180, 85.0511287798066"]),
        (
            3857,
            [
                "5, -20037508.3428",
                "20037508.3428, 7",
                "20037508.342789244, -20037508.342789244",
                "-20037508.342789244, 3",
            ],
        ),
    ] {
        let db = Db::new();
        db.run(&format!(
            "CREATE TABLE api_facility (id text PRIMARY KEY, name text, address text, country_code text, is_closed boolean, location geometry(Point, {srid}));
             CREATE INDEX ON api_facility USING gist (location)"
        ));
        let add = |id: usize, place: &str| {
            db.run(&format!("INSERT INTO api_facility VALUES ('f{id}', 'n', 'a', 'ZZ', false, ST_SetSRID(ST_MakePoint({place}), {srid}))"));
        };
        add(9, "1, 1");
        places.iter().enumerate().for_each(|(id, place)| add(id, place));
        let tracked = Tracked::over(db);
        let target = tracked.seed("t.mbtiles", &ZOOM);
        for (id, place) in places.iter().enumerate() {
            for change in [
                format!("UPDATE api_facility SET name = 'changed' WHERE id = 'f{id}'"),
                format!("DELETE FROM api_facility WHERE id = 'f{id}'"),
                format!(
                    "INSERT INTO api_facility SELECT 'new{id}', name, address, country_code, is_closed, ST_SetSRID(ST_MakePoint({place}), {srid}) FROM api_facility WHERE id = 'f9'"
                ),
            ] {
                tracked.db.run(&change);
                tracked.reseed(&target, &[]).ok();
                tracked.is_fresh(&target, &ZOOM);
            }
        }
    }
}
