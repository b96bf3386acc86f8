//! The change log amid what administrators do: rights are taken, the database is dumped and restored, all tables are
//! published, columns are altered.

use crate::support::Db;
use crate::support::program::{program, run};
use crate::support::tracking::Tracking;

const MILLS: &str = "
    CREATE TABLE mill (id int PRIMARY KEY, name text, location geometry(Point, 4326));
    INSERT INTO mill SELECT i, 'mill ' || i, ST_SetSRID(ST_MakePoint(i, i), 4326) FROM generate_series(1, 3) AS i;";

const LAYER: &str = "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = [\"name\"]\n";

/// Takes from everybody what PostGIS's schema gives, and gives it to WRITER.
const TAKEN: &str = "
    CREATE ROLE WRITER LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO WRITER;
    GRANT USAGE ON SCHEMA public TO WRITER; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO WRITER;
    REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;";

/// What `track status` says of a target, seeded just now.
fn status(tracking: &Tracking) -> crate::support::program::Run {
    let target = tracking.path("status.mbtiles");
    tracking.oar_tiles("seed", &["--zoom", "0-2"], &target).ok();
    tracking.track(&["status", target.to_str().unwrap()])
}

fn owner(tracking: &Tracking) -> String {
    tracking
        .db
        .value("SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'oar_tiles'::regnamespace")
}

#[test]
fn what_is_taken_from_public_is_not_taken_from_the_triggers() {
    let shapes = "
        CREATE TABLE way (id int PRIMARY KEY, shape geometry(LineString, 4326)); CREATE TABLE flat (id int PRIMARY KEY, shape geometry(Polygon, 31467));
        CREATE TABLE any_shape (id int, shape geometry); CREATE TABLE round (id int PRIMARY KEY, shape geography(Point, 4326));";
    let layers = "
        [[layer]]\nname = \"ways\"\ntable = \"way\"\nproperties = []\ngeometry = \"shape\"
        [[layer]]\nname = \"flats\"\ntable = \"flat\"\nproperties = []\ngeometry = \"shape\"
        [[layer]]\nname = \"any\"\ntable = \"any_shape\"\nproperties = []\ngeometry = \"shape\"\nsrid = 4326\nkey = [\"id\"]
        [[layer]]\nname = \"rounds\"\ntable = \"round\"\nproperties = []\ngeometry = \"shape\"\n";
    let tracking =
        Tracking::installed(&format!("{MILLS}{shapes}"), &format!("{LAYER}{}", layers.replace("\nsrid = 4326", "")));
    tracking.run(TAKEN);
    tracking.run(
        "SET ROLE WRITER; UPDATE mill SET name = 'x' WHERE id = 1; TRUNCATE mill;
         INSERT INTO way SELECT n, ST_SetSRID(ST_MakeLine(ARRAY(SELECT ST_MakePoint(i / 1e4, sin(i) * 10) FROM generate_series(1, n) AS i)), 4326) FROM unnest(ARRAY[2, 9000]) AS n;
         INSERT INTO flat SELECT n, ST_Buffer(ST_SetSRID(ST_MakePoint(3500000, 5400000), 31467), 1000, n) FROM unnest(ARRAY[2, 2000]) AS n;
         INSERT INTO any_shape SELECT id, shape FROM way UNION ALL SELECT -id, ST_Collect(ARRAY[shape, shape, shape]) FROM way;
         INSERT INTO round VALUES (1, 'POINT(1 1)');
         UPDATE way SET shape = ST_Reverse(shape); UPDATE flat SET shape = ST_Reverse(shape); UPDATE any_shape SET shape = ST_Reverse(shape); UPDATE round SET shape = 'POINT(2 2)';
         RESET ROLE",
    );
    assert_eq!(tracking.log().len(), 10);
    status(&tracking).ok();
    tracking.track(&["remove"]).ok();
    tracking.drop_roles();
}

#[test]
fn rights_that_the_triggers_lack_are_named_and_given_by_another_install() {
    let tracking = Tracking::installed(MILLS, LAYER);
    let role = owner(&tracking);
    tracking.run(TAKEN);
    let target = tracking.path("t.mbtiles");
    tracking.oar_tiles("seed", &["--zoom", "0-2"], &target).ok();
    for (taken, lacks) in [
        (
            "USAGE ON SCHEMA public",
            format!(
                "the role \"{role}\" lacks USAGE on the schema \"public\": GRANT USAGE ON SCHEMA \"public\" TO \"{role}\""
            ),
        ),
        (
            "EXECUTE ON FUNCTION public.st_x(geometry)",
            format!(
                "the role \"{role}\" lacks EXECUTE on st_x(geometry): GRANT EXECUTE ON FUNCTION st_x(geometry) TO \"{role}\""
            ),
        ),
        ("USAGE ON SCHEMA oar_tiles", format!("the role \"{role}\" lacks USAGE on the schema \"oar_tiles\"")),
        (
            "INSERT ON oar_tiles.change",
            format!(
                "the role \"{role}\" lacks INSERT (watch, rows, x, y, places, keys, everything) on \"oar_tiles\".\"change\""
            ),
        ),
        ("SELECT ON oar_tiles.watch", format!("the role \"{role}\" lacks SELECT on \"oar_tiles\".\"watch\"")),
    ] {
        tracking.db.run(&format!("REVOKE {taken} FROM {role}"));
        let texts = [
            "the triggers in ",
            " lack rights, so that writes to the tracked tables fail: ",
            &lacks,
            "Run oar-tiles track install again",
        ];
        status(&tracking).fails(1, &texts);
        let doctor = run(program()
            .args(["doctor", "--database-url", &tracking.db.url])
            .env("OAR_TILES_CONFIG", tracking.config()));
        assert!(doctor.stdout.contains(&lacks), "{taken}: {}", doctor.stdout);
        assert!(!tracking.install(&[]).ok().stdout.starts_with("everything is installed"), "{taken}");
        assert!(tracking.install(&[]).ok().stdout.starts_with("everything is installed"), "{taken}");
        status(&tracking).ok();
        tracking.run("SET ROLE WRITER; UPDATE mill SET name = name || 'x'; RESET ROLE");
    }
    assert_eq!(tracking.log().len(), 5);
    // Who may not grant what is lacking installs nothing.
    tracking.track(&["remove"]).ok();
    tracking.run("CREATE ROLE MILLER LOGIN CREATEROLE; ALTER TABLE mill OWNER TO MILLER; CREATE SCHEMA oar_tiles AUTHORIZATION MILLER");
    tracking.run("GRANT USAGE ON SCHEMA public TO MILLER; GRANT SELECT ON ALL TABLES IN SCHEMA public TO MILLER; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO MILLER");
    tracking.track_as(&tracking.named("MILLER"), &["install"]).fails(
        2,
        &[
            "its own checks refused to install it",
            "the triggers would lack rights that this role may not grant: ",
            " lacks EXECUTE on public.st_x(public.geometry): GRANT EXECUTE ON FUNCTION public.st_x(public.geometry) TO \"oar_tiles_",
            " lacks USAGE on the schema \"public\": GRANT USAGE ON SCHEMA \"public\" TO \"oar_tiles_",
            ". Have a superuser install, or name a role that has them with --owner",
        ],
    );
    tracking.drop_roles();
}

#[test]
fn a_point_column_that_takes_any_shape_stops_no_writer_and_is_told() {
    let tracking = Tracking::installed(MILLS, LAYER);
    let since = tracking.now();
    tracking.db.run("ALTER TABLE mill ALTER location TYPE geometry(Geometry, 4326)");
    tracking.db.run("INSERT INTO mill VALUES (4, 'line', 'SRID=4326;LINESTRING(1 1, 2 2)'); UPDATE mill SET location = 'SRID=4326;LINESTRING(1 1, 2 2)'");
    assert_eq!(tracking.log(), ["0 everything", "0 everything"]);
    let reason = tracking.check(&since).unwrap_err();
    assert!(
        reason.contains(
            "\"location\" of \"public\".\"mill\" was altered since its changes are noted. Run oar-tiles track install"
        ),
        "{reason}"
    );
    tracking.install(&[]).ok();
    tracking.forget();
    tracking.db.run("UPDATE mill SET name = 'x' WHERE id = 4");
    assert_eq!(tracking.log(), ["1 SRID=4326;LINESTRING(1 1,2 2)"]);
}

#[test]
fn columns_that_are_called_as_the_triggers_own_stop_no_writer() {
    let tables = "CREATE TABLE mill (id int, oar_tiles_image text, oar_tiles_nth int, location geometry(Point, 4326)); CREATE TABLE child (oar_tiles_image_ int) INHERITS (mill);
        INSERT INTO mill VALUES (1, 'a', 1, 'SRID=4326;POINT(1 1)'); INSERT INTO child VALUES (2, 'a', 1, 'SRID=4326;POINT(2 2)', 3)";
    let layer = "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nkey = [\"id\"]\nproperties = [\"oar_tiles_image\", \"oar_tiles_nth\"]\n";
    let tracking = Tracking::installed(tables, layer);
    tracking.db.run("UPDATE ONLY mill SET oar_tiles_image = 'b'");
    tracking.db.run("UPDATE child SET oar_tiles_nth = 5; UPDATE child SET oar_tiles_image_ = 5");
    assert_eq!(tracking.log(), ["2 1,1 1,1", "2 2,2 2,2"]);
}

#[test]
fn a_log_out_of_a_dump_that_is_ahead_of_the_server_begins_anew() {
    let tracking = Tracking::installed(MILLS, LAYER);
    let target = tracking.path("t.mbtiles");
    let zoom = ["--zoom", "0-2"];
    for ahead in [
        "UPDATE oar_tiles.state SET pruned = '9000000000'",
        "INSERT INTO oar_tiles.change (xid, watch, rows, everything) SELECT '9000000000', i, 0, true FROM generate_series(1, 10) AS i",
    ] {
        tracking.oar_tiles("seed", &zoom, &target).ok();
        let key: String = tracking.db.value("SELECT identity_key FROM oar_tiles.state");
        tracking.db.run(ahead);
        tracking.oar_tiles("reseed", &[], &target).fails(
            4,
            &[
                "the change log knows transactions up to 9000000000, and the next one of the database ",
                "Run oar-tiles track install, then oar-tiles seed once",
            ],
        );
        let installed = tracking.install(&[]).ok().stdout;
        assert!(
            installed.contains("schema \"oar_tiles\": emptied, because it is ahead of the database"),
            "{installed}"
        );
        assert!(tracking.install(&[]).ok().stdout.starts_with("everything is installed"));
        assert_ne!(key, tracking.db.value::<String>("SELECT identity_key FROM oar_tiles.state"));
        tracking.oar_tiles("reseed", &[], &target).fails(4, &["Run oar-tiles seed"]);
        tracking.oar_tiles("seed", &zoom, &target).ok();
        tracking.db.run("UPDATE mill SET name = name || 'x' WHERE id = 1");
        tracking.oar_tiles("reseed", &[], &target).ok();
    }
}

#[test]
fn a_database_that_publishes_all_tables_has_a_log() {
    for is_before in [true, false] {
        let tracking = Tracking::over(MILLS, LAYER);
        if !is_before {
            tracking.install(&[]).ok();
            // As an earlier version left it.
            tracking.db.run("ALTER TABLE oar_tiles.change REPLICA IDENTITY DEFAULT; ALTER TABLE oar_tiles.needs REPLICA IDENTITY DEFAULT");
        }
        tracking.db.run("CREATE PUBLICATION everything FOR ALL TABLES");
        tracking.install(&[]).ok();
        assert!(tracking.install(&[]).ok().stdout.starts_with("everything is installed"));
        tracking.configure(&format!("{LAYER}where = \"id < 3\"\n"));
        tracking.install(&[]).ok();
        let target = tracking.path("t.mbtiles");
        tracking.oar_tiles("seed", &["--zoom", "0-2"], &target).ok();
        tracking.db.run("UPDATE mill SET name = 'x' WHERE id = 1");
        tracking.oar_tiles("reseed", &[], &target).ok();
        let pruned = tracking.track(&["prune", target.to_str().unwrap(), "--older-than", "0s"]).ok();
        assert!(pruned.stdout.starts_with("1 changed rows taken out"), "{}", pruned.stdout);
        tracking.track(&["remove"]).ok();
    }
}

#[test]
fn who_may_append_cannot_say_when() {
    let tracking = Tracking::over(MILLS, LAYER);
    tracking.run("CREATE ROLE KEEPER; CREATE ROLE MILLER LOGIN; ALTER TABLE mill OWNER TO MILLER");
    tracking.install(&["--owner", &tracking.named("MILLER")]).ok();
    let poison = "INSERT INTO oar_tiles.change (xid, watch, rows, everything) VALUES ('9000000000', 1, 0, true)";
    let said = tracking.psql(&tracking.named(&format!("SET ROLE MILLER; {poison}")));
    assert!(said.contains("permission denied for table change"), "{said}");
    tracking.run("SET ROLE MILLER; UPDATE mill SET name = 'x' WHERE id = 1; RESET ROLE");
    assert_eq!(tracking.log(), ["1 1,1"]);
    // As an earlier version left it.
    tracking.run("GRANT INSERT ON oar_tiles.change TO MILLER");
    status(&tracking).fails(
        1,
        &["the triggers in ", " are not safe: ", &tracking.named("\"MILLER\" may INSERT on the table \"change\"")],
    );
    tracking.install(&[]).ok();
    let said = tracking.psql(&tracking.named(&format!("SET ROLE MILLER; {poison}")));
    assert!(said.contains("permission denied for table change"), "{said}");
    tracking.run("SET ROLE MILLER; UPDATE mill SET name = 'y' WHERE id = 1; RESET ROLE");
    assert_eq!(tracking.log().len(), 2);
    status(&tracking).ok();
    tracking.track(&["remove"]).ok();
    tracking.drop_roles();
}

#[test]
fn a_copy_without_rights_stops_no_writer_and_is_not_trusted() {
    let tracking = Tracking::installed(MILLS, LAYER);
    let dump = tracking.path("dump.sql");
    let pg = |program: &str, arguments: &[&str]| {
        let done = std::process::Command::new(program).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    pg("pg_dump", &["-x", "--file", dump.to_str().unwrap(), &tracking.db.url]);
    let copy = Tracking::of(Db::empty(), LAYER);
    pg("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump.to_str().unwrap(), &copy.db.url]);
    assert_eq!(copy.psql("UPDATE public.mill SET name = 'x' WHERE id = 1; TRUNCATE public.mill"), "");
    assert_eq!(copy.log(), Vec::<String>::new());
    assert!(copy.check(&copy.now()).is_err());
    copy.install(&[]).ok();
    copy.db.run("INSERT INTO public.mill VALUES (1, 'a', 'SRID=4326;POINT(1 1)')");
    assert_eq!(copy.log(), ["1 1,1"]);
    assert!(copy.check(&copy.now()).is_ok());
    // The original fails where its rights are taken: nothing goes by unnoticed.
    tracking.db.run(&format!("REVOKE USAGE ON SCHEMA oar_tiles FROM {}", owner(&tracking)));
    assert!(tracking.psql("UPDATE public.mill SET name = 'x'").contains("permission denied for schema oar_tiles"));
    copy.track(&["remove"]).ok();
}

#[test]
fn the_owner_of_the_tables_backs_up_without_the_log_or_reads_it() {
    let tracking = Tracking::over(MILLS, LAYER);
    tracking.run("CREATE ROLE MILLER LOGIN; ALTER TABLE mill OWNER TO MILLER;");
    let miller = tracking.named("MILLER");
    let text = format!(
        "warning: backups by \"{miller}\", who owns tracked tables, fail with \"permission denied for schema\" from now on, unless they leave the change log out: pg_dump -N '\"oar_tiles\"'. Or let the role read it: oar-tiles track install --reader {miller}"
    );
    tracking.install(&[]).ok().fails(0, &[&text]);
    let url = tracking.db.url.replace("oar_tiles@", &format!("{miller}@"));
    let dumped = |arguments: &[&str]| {
        let done = std::process::Command::new("pg_dump").args(arguments).arg(&url).output().unwrap();
        String::from_utf8_lossy(&done.stderr).into_owned()
    };
    assert!(dumped(&[]).contains("permission denied for schema oar_tiles"), "{}", dumped(&[]));
    assert_eq!(dumped(&["-N", "\"oar_tiles\""]), "");
    tracking.install(&["--reader", &miller]).ok();
    assert_eq!(dumped(&[]), "");
    tracking.track(&["remove"]).ok();
    assert!(!tracking.install(&["--reader", &miller]).ok().stderr.contains("backups by"));
    tracking.track(&["remove"]).ok();
    tracking.drop_roles();
}
