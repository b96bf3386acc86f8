//! The triggers run as a role that can do no more than append to the log, whoever installs them and whatever becomes of
//! it.

use crate::support::tracking::Tracking;

const MILLS: &str = "
    CREATE TABLE mill (id int PRIMARY KEY, name text, kind text, location geometry(Point, 4326));
    CREATE TABLE match (id int PRIMARY KEY, mill_id int, score int);
    CREATE TABLE secret (word text);
    INSERT INTO mill SELECT i, 'mill ' || i, 'k', ST_SetSRID(ST_MakePoint(i, i), 4326) FROM generate_series(1, 3) AS i;";

const LAYER: &str = "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = [\"name\"]\n";

/// The owners of the functions.
fn owners(tracking: &Tracking) -> Vec<String> {
    let sql = "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'oar_tiles'::regnamespace ORDER BY 1";
    tracking.db.rows(sql).iter().map(|row| row.get(0)).collect()
}

/// The one role as which the triggers run.
fn owner(tracking: &Tracking) -> String {
    let [owner] = &owners(tracking)[..] else { panic!("{:?}", owners(tracking)) };
    owner.clone()
}

fn is_there(tracking: &Tracking, role: &str) -> bool {
    tracking.db.value(&format!("SELECT to_regrole('{role}') IS NOT NULL"))
}

/// What `track status` says of a target, seeded just now.
fn status(tracking: &Tracking) -> crate::support::program::Run {
    let target = tracking.path("status.mbtiles");
    tracking.oar_tiles("seed", &["--zoom", "0-2"], &target).ok();
    tracking.track(&["status", target.to_str().unwrap()])
}

#[test]
fn the_triggers_run_as_a_role_that_can_only_append() {
    let tracking = Tracking::installed(MILLS, LAYER);
    let owner = owner(&tracking);
    assert!(owner.starts_with("oar_tiles_"), "{owner}");
    let is_nobody: bool = tracking.db.value(&format!(
        "SELECT NOT (rolsuper OR rolinherit OR rolcreaterole OR rolcreatedb OR rolcanlogin OR rolreplication OR rolbypassrls)
            AND NOT EXISTS (SELECT FROM pg_auth_members WHERE oid IN (member, roleid)) FROM pg_roles WHERE rolname = '{owner}'"
    ));
    assert!(is_nobody);
    for refused in [
        "SELECT * FROM secret",
        "UPDATE mill SET name = ''",
        "DELETE FROM oar_tiles.change",
        "SELECT * FROM oar_tiles.change",
        "UPDATE oar_tiles.watch SET name = ''",
        "INSERT INTO oar_tiles.state DEFAULT VALUES",
        "CREATE TABLE oar_tiles.more ()",
        "CREATE TABLE public.more ()",
        "CREATE FUNCTION oar_tiles.more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TRIGGER more AFTER INSERT ON oar_tiles.change EXECUTE FUNCTION oar_tiles.note_1()",
    ] {
        let said = tracking.psql(&format!("SET search_path = public; SET ROLE {owner}; {refused}"));
        assert!(said.contains("permission denied"), "{refused}: {said}");
    }
    assert_eq!(
        tracking.psql(&format!("SET ROLE {owner}; INSERT INTO oar_tiles.change (watch, rows) VALUES (1, 0)")),
        ""
    );
    tracking.forget();
    tracking.db.run("UPDATE mill SET name = 'x' WHERE id = 1; TRUNCATE mill");
    assert_eq!(tracking.log(), ["1 1,1", "3 1,1 2,2 3,3"]);
    status(&tracking).ok();
    let removed = tracking.track(&["remove"]).ok().stdout;
    assert!(removed.contains(&format!("role {owner}: removed\n")), "{removed}");
    assert!(!is_there(&tracking, &owner));
}

#[test]
fn two_logs_of_one_database_have_a_role_each() {
    let tracking = Tracking::installed(MILLS, LAYER);
    let first = owner(&tracking);
    tracking.configure(&format!("[changes]\nschema = \"other\"\n{LAYER}"));
    tracking.install(&[]).ok();
    tracking.db.run("UPDATE mill SET name = 'x' WHERE id = 1");
    assert_eq!(tracking.db.value::<i64>("SELECT count(*) FROM other.change"), 1);
    tracking.track(&["remove"]).ok();
    assert!(is_there(&tracking, &first));
    tracking.db.run("TRUNCATE mill");
    assert_eq!(tracking.log(), ["1 1,1", "3 1,1 2,2 3,3"]);
}

#[test]
fn whoever_may_make_roles_is_a_member_of_none_afterwards() {
    let tracking = Tracking::over(MILLS, LAYER);
    tracking.run(&format!(
        "CREATE ROLE MILLER LOGIN CREATEROLE; ALTER TABLE mill OWNER TO MILLER; ALTER TABLE match OWNER TO MILLER; GRANT CREATE ON DATABASE {} TO MILLER",
        tracking.db.name
    ));
    let (miller, since) = (tracking.named("MILLER"), tracking.now());
    tracking.track_as(&miller, &["install"]).ok();
    let role = owner(&tracking);
    assert!(role.starts_with("oar_tiles_"), "{role}");
    assert!(tracking.check(&since).is_err());
    let since = tracking.now();
    // A second install replaces the function.
    tracking.configure(&LAYER.replace("[\"name\"]", "[\"name\", \"kind\"]"));
    tracking.track_as(&miller, &["install"]).ok();
    tracking.configure(LAYER);
    assert!(tracking.check(&since).is_ok());
    assert_eq!(owner(&tracking), role);
    // From PostgreSQL 16 on, whoever makes a role may administer it for good, and has none of its rights by that.
    let members: i64 = tracking.db.value(
        "SELECT count(*) FROM pg_auth_members AS m JOIN pg_roles AS r ON r.oid = m.roleid
         WHERE r.rolname ~ '^oar_tiles_' AND m.member::regrole::text ~ 'miller'
           AND NOT to_jsonb(m) @> '{\"inherit_option\": false, \"set_option\": false}'",
    );
    assert_eq!(members, 0);
    tracking.db.run("UPDATE mill SET kind = 'x' WHERE id = 1; TRUNCATE mill");
    assert_eq!(tracking.log(), ["1 1,1", "3 1,1 2,2 3,3"]);
    tracking.track_as(&miller, &["remove"]).ok();
    assert!(!is_there(&tracking, &role));
    tracking.drop_roles();
}

#[test]
fn without_the_right_to_make_roles_functions_belong_to_the_owner_of_the_table_and_never_to_a_superuser() {
    let tracking = Tracking::over(MILLS, LAYER);
    tracking.run("CREATE ROLE MILLER LOGIN; CREATE ROLE BOSS SUPERUSER; CREATE SCHEMA oar_tiles AUTHORIZATION MILLER; ALTER TABLE mill OWNER TO MILLER");
    let miller = tracking.named("MILLER");
    tracking.track_as(&miller, &["install"]).ok();
    assert_eq!(owner(&tracking), miller);
    tracking.db.run("UPDATE mill SET name = 'x' WHERE id = 1; TRUNCATE mill");
    assert_eq!(tracking.log(), ["1 1,1", "3 1,1 2,2 3,3"]);
    assert!(tracking.track_as(&miller, &["install"]).ok().stdout.starts_with("everything is installed"));
    // A superuser does not write into a log that another role can alter.
    tracking.install(&["--reader", "pg_monitor"]).fails(2, &[&format!("it belongs to \"{miller}\"")]);
    tracking.track_as(&miller, &["remove"]).ok();

    tracking.run("ALTER TABLE mill OWNER TO BOSS; GRANT BOSS TO MILLER; CREATE SCHEMA oar_tiles AUTHORIZATION MILLER");
    let refused = tracking.track_as(&miller, &["install"]).fails(
        2,
        &[
            &tracking.named("the triggers on \"public\".\"mill\" would run as its owner \"BOSS\", a superuser"),
            "Have a superuser run CREATE ROLE \"oar_tiles_",
        ],
    );
    let (_, rest) = refused.stderr.split_once("Have a superuser run ").unwrap();
    let (statements, rest) = rest.split_once(" Then run oar-tiles track install --owner ").unwrap();
    let role = rest.trim();
    assert_eq!(tracking.psql(statements), "");
    tracking.track_as(&miller, &["install", "--owner", role]).ok();
    assert_eq!(owner(&tracking), role);
    tracking.db.run("INSERT INTO mill VALUES (1, 'y', 'k', 'SRID=4326;POINT(1 1)')");
    assert_eq!(tracking.log(), ["1 1,1"]);
    tracking.track_as(&miller, &["remove"]).ok();
    // A role that was given stays, with no rights.
    tracking.db.run(&format!("DROP ROLE {role}"));
    tracking.drop_roles();
}

#[test]
fn a_role_that_is_named_owns_the_functions_if_it_can_do_nothing_else() {
    let tracking = Tracking::over(MILLS, LAYER);
    tracking.run("CREATE ROLE KEEPER; CREATE ROLE MILLER LOGIN; ALTER TABLE mill OWNER TO MILLER");
    let keeper = tracking.named("KEEPER");
    for (change, undo, text) in [
        ("", "", "names the role \"nobody_at_all\", which is not there"),
        ("", "", "names the role \"oar_tiles\", which is a superuser"),
        ("ALTER ROLE KEEPER LOGIN", "ALTER ROLE KEEPER NOLOGIN", "can do more than they need: it may log in"),
        ("ALTER ROLE KEEPER CREATEDB", "ALTER ROLE KEEPER NOCREATEDB", "it may make roles or databases"),
        ("GRANT pg_monitor TO KEEPER", "REVOKE pg_monitor FROM KEEPER", "it is a member of pg_monitor"),
        (
            "GRANT pg_execute_server_program TO KEEPER",
            "REVOKE pg_execute_server_program FROM KEEPER",
            "who is a superuser or can become one",
        ),
        ("GRANT UPDATE ON secret TO KEEPER", "REVOKE UPDATE ON secret FROM KEEPER", "it may UPDATE on public.secret"),
        (
            "ALTER TABLE secret OWNER TO KEEPER",
            "ALTER TABLE secret OWNER TO CURRENT_USER",
            "it owns table public.secret",
        ),
    ] {
        tracking.run(change);
        let named = ["nobody_at_all", "oar_tiles"].into_iter().find(|role| text.contains(&format!("\"{role}\"")));
        tracking.install(&["--owner", named.unwrap_or(&keeper)]).fails(2, &[text]);
        let schemas: i64 = tracking.db.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'oar_tiles'");
        assert_eq!(schemas, 0, "{change}");
        tracking.run(undo);
    }
    tracking.install(&[]).ok();
    let (made, since) = (owner(&tracking), tracking.now());
    let told = tracking.install(&["--owner", &keeper]).ok().stdout;
    assert!(told.contains(&format!("role \"{keeper}\": the triggers run as it\n")), "{told}");
    assert_eq!(owner(&tracking), keeper);
    assert!(!is_there(&tracking, &made), "the role that was made is not needed any more");
    assert!(tracking.check(&since).is_ok(), "nothing went by unnoticed");
    assert!(tracking.install(&[]).ok().stdout.starts_with("everything is installed"), "it stays so");
    tracking.db.run("TRUNCATE mill");
    assert_eq!(tracking.log(), ["3 1,1 2,2 3,3"]);
    status(&tracking).ok();
    // The owner of the table may do with it what it likes anyway.
    tracking.install(&["--owner", &tracking.named("MILLER")]).ok();
    assert_eq!(owner(&tracking), tracking.named("MILLER"));
    status(&tracking).ok();
    tracking.track(&["remove"]).ok();
    tracking.db.run(&format!("DROP ROLE {keeper}"));
    tracking.drop_roles();
}

#[test]
fn what_is_changed_about_a_log_is_seen_by_status_and_by_the_next_install() {
    let tracking = Tracking::over(MILLS, LAYER);
    tracking.run("CREATE ROLE MILLER LOGIN; CREATE ROLE ATTACKER; ALTER TABLE mill OWNER TO MILLER; GRANT USAGE ON SCHEMA public TO ATTACKER");
    tracking.install(&[]).ok();
    let role = owner(&tracking);
    let trigger =
        "CREATE TRIGGER theirs AFTER INSERT ON oar_tiles.change EXECUTE FUNCTION suppress_redundant_updates_trigger()";
    let said = tracking.psql(&tracking.named(&format!("SET ROLE MILLER; {trigger}")));
    assert!(said.contains("permission denied"), "{said}");
    for (change, undo, text) in [
        (
            trigger.to_owned(),
            "DROP TRIGGER theirs ON oar_tiles.change".to_owned(),
            "it has the trigger theirs on table ",
        ),
        (
            "GRANT TRIGGER ON oar_tiles.change TO MILLER".to_owned(),
            "REVOKE TRIGGER ON \"oar_tiles\".\"change\" FROM MILLER".to_owned(),
            "\"MILLER\" may TRIGGER on the table \"change\": REVOKE TRIGGER ON \"oar_tiles\".\"change\" FROM \"MILLER\"",
        ),
        (
            "GRANT UPDATE (query) ON oar_tiles.watch TO MILLER".to_owned(),
            "REVOKE UPDATE (query) ON oar_tiles.watch FROM MILLER".to_owned(),
            "\"MILLER\" may UPDATE on the table \"watch\"",
        ),
        (
            "ALTER TABLE oar_tiles.needs OWNER TO MILLER".to_owned(),
            "ALTER TABLE oar_tiles.needs OWNER TO CURRENT_USER".to_owned(),
            "the table \"needs\" belongs to \"MILLER\"",
        ),
        (
            "GRANT CREATE ON SCHEMA oar_tiles TO PUBLIC".to_owned(),
            "REVOKE CREATE ON SCHEMA oar_tiles FROM PUBLIC".to_owned(),
            "PUBLIC may make objects in it",
        ),
        (
            "CREATE FUNCTION oar_tiles.theirs() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION oar_tiles.theirs() OWNER TO MILLER".to_owned(),
            "DROP FUNCTION oar_tiles.theirs()".to_owned(),
            "it holds function ",
        ),
        (
            "CREATE POLICY theirs ON oar_tiles.change".to_owned(),
            "DROP POLICY theirs ON oar_tiles.change".to_owned(),
            "it has the policy theirs on table ",
        ),
        (
            "CREATE RULE theirs AS ON INSERT TO oar_tiles.change DO ALSO SELECT 1".to_owned(),
            "DROP RULE theirs ON oar_tiles.change".to_owned(),
            "it has the rule theirs on table ",
        ),
        (
            "CREATE TABLE public.theirs () INHERITS (oar_tiles.change)".to_owned(),
            "DROP TABLE public.theirs".to_owned(),
            "it has the table ",
        ),
    ] {
        tracking.run(&change);
        let text = tracking.named(text);
        status(&tracking).fails(2, &["the schema \"oar_tiles\" of ", " is not safe for the change log: ", &text]);
        tracking.install(&["--reader", "pg_monitor"]).fails(2, &[&text]);
        assert!(tracking.psql(&tracking.track(&["remove", "--sql"]).ok().stdout).contains(&text), "{change}");
        tracking.run(&undo);
        status(&tracking).ok();
    }
    // What another install puts right.
    for (change, text) in [
        (format!("ALTER ROLE {role} CREATEDB LOGIN"), "it may make roles or databases"),
        (
            format!(
                "ALTER FUNCTION oar_tiles.note_1() OWNER TO {}",
                tracking.db.value::<String>("SELECT current_user::text")
            ),
            "a superuser or can become one",
        ),
    ] {
        tracking.run(&change);
        let told = status(&tracking);
        assert!(told.code == 1 || told.code == 4, "{change}: {}", told.stderr);
        told.fails(
            if change.starts_with("ALTER ROLE") { 1 } else { 4 },
            &["the triggers in ", " are not safe: ", text, "Run oar-tiles track install again"],
        );
        tracking.install(&[]).ok();
        assert_eq!(owner(&tracking), role);
        status(&tracking).ok();
    }
    tracking.drop_roles();
}

#[test]
fn default_privileges_give_nobody_more_than_reading() {
    let tracking = Tracking::over(MILLS, LAYER);
    tracking.run(
        "CREATE ROLE ATTACKER; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO ATTACKER, PUBLIC; ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO ATTACKER;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO ATTACKER, PUBLIC",
    );
    tracking.install(&[]).ok();
    let rights: Vec<String> = tracking
        .db
        .rows(&tracking.named(
            "SELECT DISTINCT concat_ws(' ', a.privilege_type, CASE a.grantee WHEN 0 THEN 'public' ELSE 'theirs' END)
             FROM (SELECT relacl FROM pg_class WHERE relnamespace = 'oar_tiles'::regnamespace UNION ALL SELECT nspacl FROM pg_namespace WHERE nspname = 'oar_tiles'
                   UNION ALL SELECT proacl FROM pg_proc WHERE pronamespace = 'oar_tiles'::regnamespace) AS o (acl), aclexplode(acl) AS a
             WHERE a.grantee IN (0, to_regrole('ATTACKER')) ORDER BY 1",
        ))
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(rights, ["SELECT public", "SELECT theirs", "USAGE public", "USAGE theirs"]);
    status(&tracking).ok();
    tracking.drop_roles();
}

/// Makes the log what an earlier version left behind: functions that run casts and belong to the superuser who
/// installed.
const LAYOUT_1: &str = "
    DO $$ DECLARE one record; BEGIN
        FOR one IN SELECT oid FROM pg_proc WHERE pronamespace = 'oar_tiles'::regnamespace LOOP
            EXECUTE replace(pg_get_functiondef(one.oid), 'RETURN NULL;', 'RETURN NULL; -- an earlier version');
            EXECUTE format('ALTER FUNCTION %s OWNER TO CURRENT_USER', one.oid::regprocedure);
        END LOOP; END $$;
    UPDATE oar_tiles.watch AS w SET noter_xmin = p.xmin FROM pg_proc AS p WHERE p.oid = w.noter;
    DO $$ BEGIN EXECUTE format('DROP OWNED BY %I', (SELECT owner FROM oar_tiles.state)); EXECUTE format('DROP ROLE %I', (SELECT owner FROM oar_tiles.state)); END $$;
    ALTER TABLE oar_tiles.state DROP COLUMN owner, DROP COLUMN owner_is_made; UPDATE oar_tiles.state SET layout = 1;";

#[test]
fn a_log_of_an_earlier_version_is_told_and_put_right_without_a_seed() {
    let tracking = Tracking::installed(MILLS, LAYER);
    // Another configuration in the same log.
    let other = format!(
        "{LAYER}[[layer.track]]\ntable = \"match\"\ngeometry = \"SELECT location FROM mill WHERE id = changed.mill_id\"\n"
    );
    tracking.configure(&other);
    tracking.install(&[]).ok();
    tracking.configure(LAYER);
    tracking.db.run(LAYOUT_1);
    let since = tracking.now();
    let target = tracking.path("t.mbtiles");
    tracking.oar_tiles("seed", &["--zoom", "0-2"], &target).ok();
    tracking.db.run("UPDATE mill SET name = 'x' WHERE id = 1");
    let told = [
        "the triggers in ",
        " are not safe: an earlier version of oar-tiles installed them",
        "Run oar-tiles track install again",
    ];
    tracking.track(&["status", target.to_str().unwrap()]).fails(1, &told);
    tracking.oar_tiles("reseed", &[], &target).ok().fails(0, &told);
    let installed = tracking.install(&[]).ok();
    assert!(installed.stdout.contains("can only append to the log"), "{}", installed.stdout);
    assert!(owner(&tracking).starts_with("oar_tiles_"));
    let left: i64 = tracking.db.value("SELECT count(*) FROM pg_proc WHERE prosrc LIKE '%an earlier version%'");
    assert_eq!(left, 0, "the functions of all configurations are new");
    tracking.track(&["status", target.to_str().unwrap()]).ok();
    assert!(tracking.check(&since).is_ok());
    tracking.configure(&other);
    assert!(tracking.check(&since).is_ok());
    assert!(tracking.install(&[]).ok().stdout.starts_with("everything is installed"));
    tracking.forget();
    tracking.db.run("INSERT INTO match VALUES (1, 2, 3); TRUNCATE mill");
    assert_eq!(tracking.log(), [r#"1 {"mill_id": "2"}"#, "3 1,1 2,2 3,3"]);
    // Removed without having been put right.
    tracking.db.run(LAYOUT_1);
    tracking.track(&["remove"]).ok();
}

#[test]
fn a_name_that_ends_a_remark_is_no_statement() {
    let tracking = Tracking::over(
        "CREATE TABLE mill (id int PRIMARY KEY, \"a\rCREATE TABLE public.injected (); --\" text, location geometry(Point, 4326))",
        "[[layer]]\nname = \"mills\"\ntable = \"mill\"\n",
    );
    tracking.install(&[]).ok();
    assert!(tracking.db.rows("SELECT FROM pg_class WHERE relname = 'injected'").is_empty());
}

#[test]
fn a_superuser_who_reads_is_warned_where_others_own_something() {
    let tracking = Tracking::installed(MILLS, LAYER);
    let target = tracking.path("t.mbtiles");
    let warning = "warning: the role \"oar_tiles\" is a superuser, and others own objects in this database (such as ";
    for verb in ["seed", "reseed"] {
        let alone = tracking.oar_tiles(verb, &[], &target).ok();
        assert!(!alone.stderr.contains(warning), "{}", alone.stderr);
    }
    tracking.run("CREATE ROLE ATTACKER; CREATE ROLE WRITER LOGIN; GRANT ATTACKER TO WRITER; CREATE VIEW mine AS SELECT 1; ALTER VIEW mine OWNER TO ATTACKER");
    tracking.db.run("UPDATE mill SET name = 'x'");
    for arguments in [&["seed"][..], &["reseed"], &["seed", "--dry-run"]] {
        let warned = tracking.oar_tiles(arguments[0], &arguments[1..], &target).ok();
        assert_eq!(warned.stderr.matches(warning).count(), 1, "{arguments:?}: {}", warned.stderr);
    }
    tracking.install(&[]).fails(0, &[warning]);
    // A reader of its own.
    tracking.run("GRANT SELECT ON mill TO WRITER");
    let other = tracking.path("other.mbtiles");
    let url = tracking.db.url.replace("oar_tiles@", &format!("{}@", tracking.named("WRITER")));
    let own = crate::support::seed(&url, &other, &["--config", tracking.config().to_str().unwrap()]).ok();
    assert!(!own.stderr.contains("superuser"), "{}", own.stderr);
    tracking.drop_roles();
}
