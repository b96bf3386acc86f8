//! A server, a database, a role or a PostGIS that will not do: which one, the cause once, and what to run or change.

use std::net::TcpListener;

use crate::support::database::with_database;
use crate::support::program::{program, run};
use crate::support::refusal::NOWHERE;
use crate::support::tracked::Tracked;
use crate::support::watch_process::Watching;
use crate::support::{Archive, Db, OldTarget, seed, until};

/// The server's URL over TCP, for a database: the parts before and after the password, and the password.
fn over_tcp(database: &str) -> (String, String, String) {
    let url = with_database(&std::env::var("TEST_DATABASE_URL_TCP").expect("run scripts/test"), database);
    let (front, back) = url.split_once('@').unwrap();
    let (user, password) = front.rsplit_once(':').unwrap();
    (user.to_owned(), format!("@{back}"), password.to_owned())
}

/// The URL of a database as somebody else.
fn as_role(db: &Db, role: &str) -> String {
    db.url.replacen("oar_tiles@", &format!("{role}@"), 1)
}

/// A role that may log in, and nothing else. Dropped at the end of the test.
struct Role<'a> {
    db: &'a Db,
    name: String,
}

impl Role<'_> {
    fn new<'a>(db: &'a Db, name: &str) -> Role<'a> {
        let name = format!("{}_{name}", db.name);
        db.run(&format!("CREATE ROLE {name} LOGIN"));
        Role { db, name }
    }

    fn may(&self, what: &str) {
        self.db.run(&format!("GRANT {what} TO {}", self.name));
    }

    fn url(&self) -> String {
        as_role(self.db, &self.name)
    }
}

impl Drop for Role<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.db.run(&format!("DROP OWNED BY {0}; DROP ROLE {0}", self.name));
        }
    }
}

#[test]
fn a_server_that_cannot_be_reached_is_named_with_the_cause() {
    let old = OldTarget::new();
    // Takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    for (server, database, cause) in [
        ("nobody@127.0.0.1:1", "nothing", "Connection refused"),
        ("nobody@db.invalid:5432", "nothing", "failed to lookup address information"),
        (&format!("nobody@127.0.0.1:{silent_port}"), "nothing", "it takes the connection, but does not answer"),
    ] {
        let text = format!(
            "error: cannot reach the database {server}/{database}: is it running, and are host and port right? (--database-url, DATABASE_URL, PGHOST, PGPORT)\n  cause: {cause}"
        );
        let mut command = program();
        command.args(["seed", "--database-url", &format!("postgresql://{server}/{database}"), "--output"]);
        old.refuses_command(command.arg(&old.path).env("OAR_TILES_CONNECT_TIMEOUT", "1s"), 1, &[&text]);
    }
    old.refuses(
        "postgresql:///nothing?host=/nowhere&port=1",
        &[],
        1,
        &["cannot reach the database /nowhere:1/nothing: is it running", "cause: No such file"],
    );
}

#[test]
fn a_user_whom_the_server_does_not_let_in_is_told_so() {
    let old = OldTarget::new();
    let (front, back, password) = over_tcp("postgres");
    let place = back.strip_prefix('@').unwrap();
    for (url, user, cause) in [
        (format!("{front}:wrong-secret{back}"), "oar_tiles", "password authentication failed for user \"oar_tiles\"\n"),
        (
            format!("postgresql://stranger:{password}{back}"),
            "stranger",
            "password authentication failed for user \"stranger\"\n",
        ),
        (format!("{front}{back}"), "oar_tiles", "password missing\n"),
    ] {
        let text = format!(
            "error: the database {user}@{place} does not let the user in: check user name and password (--database-url, DATABASE_URL, PGUSER, PGPASSWORD)\n  cause: {cause}"
        );
        let ended = old.refuses(&url, &["-vv"], 1, &[&text]);
        assert!(!ended.stderr.contains("wrong-secret") && !ended.stderr.contains(&password), "{}", ended.stderr);
    }
}

#[test]
fn a_connection_that_the_server_does_not_accept_is_named_with_the_next_step() {
    let old = OldTarget::new();
    let db = Db::empty();
    let role = Role::new(&db, "outsider");
    db.run(&format!("REVOKE CONNECT ON DATABASE {} FROM PUBLIC", db.name));
    let (front, back, password) = over_tcp("postgres");
    for (url, next, cause) in [
        (
            with_database(&db.url, "no_such_database"),
            "name a database that exists",
            "database \"no_such_database\" does not exist\n",
        ),
        (
            role.url(),
            "run GRANT CONNECT ON DATABASE … TO … as its owner, or connect as another user",
            &format!("permission denied for database \"{}\"", db.name),
        ),
        (
            format!("{front}:{password}{back}?sslmode=require"),
            "check sslmode, and sslrootcert, which names the authority of its certificate",
            "server does not support TLS\n",
        ),
    ] {
        let text = format!(" does not accept the connection: {next}\n  cause: {cause}");
        old.refuses(&url, &[], 1, &[&text]);
    }
}

#[test]
fn settings_that_the_server_refuses_are_named() {
    let old = OldTarget::new();
    let db = Db::with_facilities(1);
    for (text, cause) in [
        ("work_mem = \"lots\"", "invalid value for parameter \"work_mem\": \"lots\""),
        ("statement_timeout = \"100days\"", "8640000000"),
    ] {
        let message = "error: opening a session: the database could not run the query. look into the cause (work_mem and statement_timeout stand in [database])";
        old.refuses_config(&db.url, &format!("[database]\n{text}"), &[], 1, &[message, cause]);
    }
}

#[test]
fn a_database_without_postgis_or_with_an_old_one_is_refused() {
    let old = OldTarget::new();
    let db = Db::empty();
    let shown = |what: &str| format!("/{} {what}\n", db.name);
    old.refuses(
        &db.url,
        &[],
        2,
        &["error: the database ", &shown("has no PostGIS: run CREATE EXTENSION postgis in it as its owner")],
    );
    db.run("CREATE EXTENSION postgis");
    for version in ["3.0.3", "2.5.4dev"] {
        db.run(&format!(
            "CREATE OR REPLACE FUNCTION postgis_lib_version() RETURNS text LANGUAGE sql AS $$ SELECT '{version}' $$"
        ));
        old.refuses(&db.url, &[], 2, &[&shown(&format!(
            "has PostGIS {version}: 3.1 is the oldest that works; upgrade it (ALTER EXTENSION postgis UPDATE, after installing the newer package)"
        ))]);
    }
    // Then the version of the extension counts.
    db.run("CREATE OR REPLACE FUNCTION postgis_lib_version() RETURNS text LANGUAGE sql AS 'SELECT NULL'");
    old.refuses(&db.url, &[], 2, &["has no table"]);
}

#[test]
fn a_missing_right_is_named_with_its_grant() {
    let old = OldTarget::new();
    let db = Db::with_facilities(10);
    db.run(
        "CREATE SCHEMA \"Secret\"; CREATE TABLE \"Secret\".\"Mill\" AS TABLE api_facility;
         ALTER TABLE \"Secret\".\"Mill\" ADD PRIMARY KEY (id); CREATE INDEX ON \"Secret\".\"Mill\" USING gist (location);",
    );
    let role = Role::new(&db, "reader");
    let (name, url) = (&role.name, role.url());
    let no_right = format!(
        "layer \"facilities\": the role \"{name}\" may not read \"public\".\"api_facility\". Run GRANT SELECT ON \"public\".\"api_facility\" TO \"{name}\" as its owner\n"
    );
    old.refuses(&url, &[], 2, &[&no_right]);

    let mill = "[[layer]]\nname = \"m\"\nschema = \"Secret\"\ntable = \"Mill\"\nproperties = [\"id\", \"name\"]";
    old.refuses_config(&url, mill, &[], 2, &[&format!(
        "layer \"m\": the role \"{name}\" may not use the schema \"Secret\". Run GRANT USAGE ON SCHEMA \"Secret\" TO \"{name}\" as its owner\n"
    )]);
    role.may("USAGE ON SCHEMA \"Secret\"");
    let no_table = format!(
        "layer \"m\": the role \"{name}\" may not read \"Secret\".\"Mill\". Run GRANT SELECT ON \"Secret\".\"Mill\" TO \"{name}\" as its owner\n"
    );
    old.refuses_config(&url, mill, &[], 2, &[&no_table]);

    // Rights to some columns are rights to the layer, if it needs no others.
    role.may("SELECT (id, location) ON \"Secret\".\"Mill\"");
    old.refuses_config(&url, mill, &[], 2, &[&no_table]);
    role.may("SELECT (name) ON \"Secret\".\"Mill\"");
    db.run("ALTER TABLE \"Secret\".\"Mill\" ALTER location DROP NOT NULL; INSERT INTO \"Secret\".\"Mill\" (id, name, address, country_code, created_at, updated_at) VALUES ('nowhere', '', '', '', now(), now())");
    let output = old.beside("columns.mbtiles");
    let done = seed(&url, &output, &["--zoom", "0-3", "--config", &old.config(mill)]).ok();
    assert!(done.stdout.contains(": nowhere\n"), "{}", done.stdout);

    // SELECT on the table is enough for everything.
    role.may("SELECT ON api_facility");
    let (theirs, ours) = (old.beside("theirs.mbtiles"), old.beside("ours.mbtiles"));
    seed(&url, &theirs, &["--zoom", "0-6"]).ok();
    seed(&db.url, &ours, &["--zoom", "0-6"]).ok();
    assert!(Archive::open(&theirs).stored() == Archive::open(&ours).stored());
}

#[test]
fn a_postgis_in_a_schema_of_its_own_works_or_names_the_grant() {
    let old = OldTarget::new();
    let db = Db::empty();
    db.run(
        "CREATE SCHEMA \"My GIS\"; CREATE EXTENSION postgis SCHEMA \"My GIS\";
         CREATE TABLE api_facility (id int PRIMARY KEY, name text, address text, country_code text, is_closed boolean, location \"My GIS\".geometry(Point, 4326));
         CREATE INDEX ON api_facility USING gist (location);
         INSERT INTO api_facility (id, location) VALUES (1, \"My GIS\".ST_SetSRID(\"My GIS\".ST_MakePoint(8, 52), 4326))",
    );
    let role = Role::new(&db, "reader");
    role.may("SELECT ON api_facility");
    let text = format!(
        "the role \"{0}\" may not use the schema \"My GIS\", in which PostGIS is: run GRANT USAGE ON SCHEMA \"My GIS\" TO \"{0}\" as its owner\n",
        role.name
    );
    old.refuses(&role.url(), &[], 2, &[&text]);
    role.may("USAGE ON SCHEMA \"My GIS\"");
    seed(&role.url(), &old.path, &[]).ok();
    let expected = Archive::open(&old.path).stored();
    assert_eq!(expected.len(), 15);
    // A search path that names no schema at all; SET search_path = '' would name one without letters.
    db.run(&format!(
        "SELECT set_config('search_path', '', false); ALTER ROLE {} SET search_path FROM CURRENT; RESET search_path",
        role.name
    ));
    let output = old.beside("no_path.mbtiles");
    let config = old.config("[[layer]]\nname = \"facilities\"\ntable = \"public.api_facility\"");
    seed(&role.url(), &output, &["--config", &config]).ok();
    assert!(Archive::open(&output).stored() == expected);
}

#[test]
fn passwords_are_never_shown() {
    let db = Db::with_facilities(5);
    let old = OldTarget::new();
    let (front, back, password) = over_tcp(&db.name);
    let url = format!("{front}:{password}{back}");
    let config = old.config(&format!("[database]\nurl = \"{url}\""));
    let plain = format!("{front}{back}");
    let mut runs = Vec::new();
    for mode in ["none", "lines", "json", "bar"] {
        let output = old.beside("new.mbtiles");
        runs.push(
            run(program()
                .args(["seed", "-vv", "--zoom", "0-2", "--progress", mode, "--config", &config, "--output"])
                .arg(&output))
            .ok(),
        );
        let mut command = program();
        command.args(["seed", "-vv", "--zoom", "0-2", "--progress", mode, "--database-url", &plain, "--output"]);
        runs.push(run(command.arg(&output).env("PGPASSWORD", &password)).ok());
    }
    runs.push(run(program().args(["config", "--config", &config])).ok());
    runs.push(run(program().args(["config", "--database-url", &url])).ok());
    runs.push(run(program().args(["config"]).env("DATABASE_URL", &url).env("PGPASSWORD", &password)).ok());
    // Errors from the settings to the rendering.
    let wrong = old.config(&format!("[database]\nurl = \"{url}\"\n[tileset]\nzom = 1"));
    runs.push(run(program().args(["config", "--config", &wrong])).fails(2, &["line 4: unknown key"]));
    let wrong = old.config(&format!("[database]\nurl = \"{url}\"\nurll = \"{url}\""));
    runs.push(run(program().args(["config", "--config", &wrong])).fails(2, &["line 3: unknown key"]));
    runs.push(
        run(program().args(["seed", "-vv", "--database-url", &url.replacen("postgresql", "mysql", 1)]))
            .fails(2, &["cannot be read"]),
    );
    runs.push(
        run(program().args(["seed", "-vv", "--database-url", &format!("{url}?port=x")])).fails(2, &["cannot be read"]),
    );
    runs.push(old.refuses(
        &NOWHERE.replacen("nobody", &format!("nobody:{password}"), 1),
        &["-vv"],
        1,
        &["cannot reach"],
    ));
    runs.push(old.refuses(&with_database(&url, "no_such_database"), &["-vv"], 1, &["does not accept"]));
    runs.push(old.refuses_config(
        &url,
        "[[layer]]\nname = \"x\"\ntable = \"no_such_table\"",
        &["-vv"],
        2,
        &["no table"],
    ));
    for ended in runs {
        assert!(
            !ended.stdout.contains(&password) && !ended.stderr.contains(&password),
            "{}{}",
            ended.stdout,
            ended.stderr
        );
    }
}

/// What a role or a database may limit for its sessions. Older servers do not know all of them.
const CARRIED_LIMITS: [(&str, &str); 9] = [
    ("statement_timeout", "300ms"),
    ("lock_timeout", "300ms"),
    ("idle_in_transaction_session_timeout", "300ms"),
    ("idle_session_timeout", "300ms"),
    ("transaction_timeout", "300ms"),
    ("work_mem", "64kB"),
    ("gin_fuzzy_search_limit", "1"),
    ("exit_on_error", "on"),
    ("default_transaction_read_only", "on"),
];

/// Sets all limits that the server knows, for new sessions in the database.
fn limit(db: &Db) {
    for (name, value) in CARRIED_LIMITS {
        if !db.rows(&format!("SELECT FROM pg_settings WHERE name = '{name}'")).is_empty() {
            db.run(&format!("ALTER DATABASE {} SET {name} = '{value}'", db.name));
        }
    }
}

#[test]
fn limits_that_a_database_carries_end_no_run() {
    let db = Db::with_facilities(1);
    db.run(
        "CREATE MATERIALIZED VIEW late AS SELECT f.*, pg_sleep(0.6)::text AS slept FROM api_facility AS f;
         CREATE UNIQUE INDEX ON late (id)",
    );
    limit(&db);
    // Its refresh and its one tile take longer than every limit, the session with the snapshot waits meanwhile, and a
    // statement fails.
    let slow = "[tileset]\nzoom = \"0\"\n[run]\nworkers = 1\n\
        [[layer]]\nname = \"late\"\ntable = \"late\"\ngeometry = \"location\"\nkey = [\"id\"]\nrefresh = true\nproperties = { slow = \"pg_sleep(0.6)::text\" }\n\
        [[layer]]\nname = \"broken\"\ntable = \"api_facility\"\non_tile_error = \"skip\"\nproperties = { x = \"1 / (length(id) - length(id))\" }\n";
    let tracked = Tracked::over(db);
    std::fs::write(tracked.path("slow.toml"), slow).unwrap();
    let slow = tracked.path("slow.toml").to_str().unwrap().to_owned();
    let ended = seed(&tracked.db.url, &tracked.path("slow.mbtiles"), &["--config", &slow]);
    let said = ended.fails(3, &["broken"]).stderr;
    assert!(!said.contains("starting over"), "{said}");
    assert_eq!(Archive::open(&tracked.path("slow.mbtiles")).stored().len(), 1);

    let target = tracked.seed("t.mbtiles", &["--zoom", "0"]);
    let watching = Watching::start(&tracked.db.url, &target, &[]);
    watching.says("from snapshot ");
    // A watch whose waiting session was ended opens another without a word.
    let watchers = || {
        let rows = tracked.db.rows(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        );
        rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>()
    };
    until("it waits", || watchers().len() == 1);
    let first = watchers();
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(watchers(), first, "the same session waits");
    tracked.db.run("UPDATE api_facility SET name = 'renamed'");
    watching.says(" dirty tile");
    let target_name = target.to_str().unwrap();
    until("the target shows it", || {
        let done = tracked.oar_tiles(&["reseed", "--dry-run", "--output", target_name]).ok();
        done.stdout.starts_with("nothing to do")
    });
    let (_, said) = watching.end_with_lines();
    assert!(!said.contains("lost"), "{said}");
    tracked.oar_tiles(&["track", "prune", target_name]).ok();
    tracked.is_fresh(&target, &["--zoom", "0"]);
}

#[test]
fn a_limit_of_index_scans_leaves_no_row_out() {
    let db = Db::empty();
    db.run(
        "CREATE EXTENSION postgis;
         CREATE TABLE mills AS SELECT i AS id, ARRAY[i % 2] AS tags, ST_Point(i % 100, i % 50, 4326) AS geom FROM generate_series(1, 20000) AS i;
         ALTER TABLE mills ADD PRIMARY KEY (id);
         CREATE INDEX ON mills USING gin (tags);
         ANALYZE mills",
    );
    db.run(&format!("ALTER DATABASE {} SET enable_seqscan = off", db.name));
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "[[layer]]\nname = \"mills\"\ntable = \"mills\"\nwhere = \"tags @> ARRAY[1]\"\n").unwrap();
    let [before, after] = ["before.mbtiles", "after.mbtiles"].map(|name| {
        let target = folder.path().join(name);
        seed(&db.url, &target, &["--zoom", "0-1", "--config", config.to_str().unwrap()]).ok();
        limit(&db);
        Archive::open(&target).stored()
    });
    assert_eq!(before.len(), 5);
    assert!(before == after);
}

#[test]
fn the_limit_of_temporary_files_is_named() {
    let old = OldTarget::new();
    let db = Db::with_facilities(3_000);
    db.run(&format!("ALTER DATABASE {} SET temp_file_limit = '64kB'", db.name));
    let next = "Raise temp_file_limit of the role in the server, or work_mem in [database], and run the command again";
    let settings = "[database]\nwork_mem = \"64kB\"\n[run]\nrows_mb = 0\nworkers = 1\n";
    old.refuses_config(&db.url, settings, &[], 1, &[next, "cause: temporary file size exceeds "]);
}
