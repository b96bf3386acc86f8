//! The change log gives nobody rights: not the owner of a type or a table whose changes are noted, not whoever made the
//! log's schema before the install.

use crate::support::tracking::Tracking;

/// A table for what ran as whom, and functions that write into it. The function of a cast, of an operator, of a CHECK
/// and of a generated column: whoever runs one of them is in `ran`.
const ATTACKER: &str = "
    CREATE ROLE ATTACKER LOGIN; CREATE ROLE WRITER LOGIN;
    CREATE TABLE ran (what text, role text); GRANT SELECT, INSERT ON ran TO PUBLIC;
    CREATE SCHEMA evil AUTHORIZATION ATTACKER; GRANT USAGE, CREATE ON SCHEMA public TO ATTACKER;
    SET ROLE ATTACKER;
    CREATE FUNCTION evil.ran(text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('transaction_read_only') = 'on' AND current_user <> 'ATTACKER' THEN RAISE '% ran as %', $1, current_user; END IF;
        INSERT INTO public.ran VALUES ($1, current_user); RETURN true; END $$;
    CREATE TYPE evil.mood AS ENUM ('glad', 'sad');
    CREATE TYPE evil.pair AS (a int, b text);
    CREATE FUNCTION evil.word_is_fine(text) RETURNS bool LANGUAGE sql AS $$ SELECT evil.ran('check') $$;
    CREATE DOMAIN evil.word AS text CHECK (evil.word_is_fine(value));
    CREATE TYPE evil.span AS RANGE (subtype = int4);
    CREATE FUNCTION evil.built(int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM evil.ran('generated'); RETURN 'x'; END $$;";

/// Casts and operators of an own type, all of which note who runs them.
fn casts(kind: &str) -> String {
    let casts = ["text", "json", "jsonb", "varchar"].map(|target| {
        format!(
            "CREATE FUNCTION evil.to_{target}({kind}) RETURNS {target} LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM evil.ran('cast'); RETURN '1'; END $$;
             CREATE CAST ({kind} AS {target}) WITH FUNCTION evil.to_{target}({kind}) AS {};
             CREATE FUNCTION evil.from_{target}({target}) RETURNS {kind} LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM evil.ran('cast'); RETURN NULL; END $$;",
            if target == "text" { "IMPLICIT" } else { "ASSIGNMENT" }
        )
    });
    let operators = ["=", "<>", "<", "*<>", "*="].map(|operator| {
        format!("CREATE OPERATOR public.{operator} (LEFTARG = {kind}, RIGHTARG = {kind}, FUNCTION = evil.same);")
    });
    format!(
        "{} CREATE FUNCTION evil.same({kind}, {kind}) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM evil.ran('operator'); RETURN true; END $$; {}",
        casts.concat(),
        operators.concat()
    )
}

/// Who ran the attacker's functions.
fn ran(tracking: &Tracking) -> Vec<String> {
    let rows = tracking.db.rows("SELECT DISTINCT format('%s as %s', what, role) FROM public.ran ORDER BY 1");
    rows.iter().map(|row| row.get(0)).collect()
}

const MILLS: &str = "
    RESET ROLE;
    CREATE TABLE mill (id int PRIMARY KEY, mood evil.mood, moods evil.mood[], pair evil.pair, word evil.word, span evil.span,
        built text GENERATED ALWAYS AS (evil.built(id)) STORED, location geometry(Point, 4326));
    CREATE TABLE unkeyed (LIKE mill INCLUDING GENERATED);
    CREATE TABLE by_mood (mood evil.mood PRIMARY KEY, word evil.word, location geometry(Point, 4326));
    CREATE TABLE match (id int PRIMARY KEY, mill_id int, mood evil.mood, word evil.word, words evil.word[]);
    GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON mill, unkeyed, by_mood, match TO WRITER;
    GRANT USAGE ON SCHEMA evil TO WRITER;";

const LAYERS: &str = "
    [[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = { id = \"id\", mood = \"mood\", moods = \"moods\", pair = \"pair\", word = \"word\", span = \"span\", built = \"built\" }
    [[layer.track]]\ntable = \"match\"\ngeometry = \"SELECT location FROM mill WHERE id = changed.mill_id AND changed.mood IS NOT NULL AND changed.word IS NOT NULL\"
    [[layer]]\nname = \"unkeyed\"\ntable = \"unkeyed\"\nkey = [\"id\"]\nproperties = { mood = \"mood\", pair = \"pair\", word = \"word\", span = \"span\", built = \"built\" }
    [[layer]]\nname = \"by_mood\"\ntable = \"by_mood\"\nproperties = { word = \"word\" }\n";

fn attacked() -> Tracking {
    let tracking = Tracking::over("", LAYERS);
    tracking.run(ATTACKER);
    tracking.run(&format!("{}{}", casts("evil.mood"), MILLS));
    tracking
}

#[test]
fn what_the_owner_of_a_type_wrote_is_never_run_by_the_triggers() {
    let tracking = attacked();
    tracking.install(&[]).ok();
    let writes = "
        SET ROLE WRITER;
        INSERT INTO mill VALUES (1, 'glad', '{glad,sad}', '(1,x)', 'a', '[1,3)', DEFAULT, 'SRID=4326;POINT(1 1)'), (2, NULL, NULL, NULL, NULL, NULL, DEFAULT, 'SRID=4326;POINT(2 2)');
        INSERT INTO unkeyed VALUES (1, 'glad', '{glad,sad}', '(1,x)', 'a', '[1,3)', DEFAULT, 'SRID=4326;POINT(1 1)');
        INSERT INTO by_mood VALUES ('glad', 'a', 'SRID=4326;POINT(1 1)'), ('sad', 'a', 'SRID=4326;POINT(2 2)');
        INSERT INTO match VALUES (1, 1, 'glad', 'a', '{a}'), (2, 1, NULL, NULL, NULL);
        UPDATE mill SET mood = 'sad', pair = '(2,y)', word = 'b', span = '[1,4)' WHERE id = 1;
        UPDATE unkeyed SET mood = 'sad', pair = '(2,y)', word = 'b', span = '[1,4)' WHERE id = 1;
        UPDATE by_mood SET word = 'b';
        UPDATE match SET mood = 'sad', word = 'b' WHERE id = 1;
        DELETE FROM mill WHERE id = 2; DELETE FROM match WHERE id = 2;
        TRUNCATE mill, unkeyed, by_mood, match;
        RESET ROLE";
    tracking.run(writes);
    let expected = ["check", "generated"].map(|what| tracking.named(&format!("{what} as WRITER")));
    assert_eq!(ran(&tracking), expected, "nothing of it runs but what the writer's own statements run");
    assert_eq!(
        tracking.log(),
        [
            "2 1,1 2,2",
            "1 1,1",
            "2 1,1 2,2",
            r#"2 {"mood": "glad", "word": "a", "mill_id": "1"} {"mood": null, "word": null, "mill_id": "1"}"#,
            "1 1,1",
            "2 1,1 1,1",
            "2 1,1 2,2",
            r#"1 {"mood": "glad", "word": "a", "mill_id": "1"} {"mood": "sad", "word": "b", "mill_id": "1"}"#,
            "1 2,2",
            r#"1 {"mood": null, "word": null, "mill_id": "1"}"#,
            "1 1,1",
            "1 1,1",
            "2 1,1 2,2",
            r#"1 {"mood": "sad", "word": "b", "mill_id": "1"}"#,
        ]
    );
    tracking.drop_roles();
}

#[test]
fn a_schema_that_another_role_made_is_not_taken() {
    let fake = "CREATE TABLE oar_tiles.state (one bool, layout int, installs int8, last_watch int, pruned xid8);
        COMMENT ON TABLE oar_tiles.state IS 'oar-tiles change log'; INSERT INTO oar_tiles.state VALUES (true, 1, 0, 0, '0');
        CREATE TABLE oar_tiles.watch AS SELECT 1 AS id, 0::oid AS relation WHERE false; CREATE TABLE oar_tiles.watched (watch int);
        CREATE TABLE oar_tiles.member (watch int); CREATE TABLE oar_tiles.needs (watch int); CREATE TABLE oar_tiles.change (watch int);";
    let function = "CREATE FUNCTION oar_tiles.note_1() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';";
    for (schema, text) in [
        ("SET ROLE ATTACKER; CREATE SCHEMA oar_tiles; RESET ROLE".to_owned(), "it belongs to \"ATTACKER\""),
        (format!("SET ROLE ATTACKER; CREATE SCHEMA oar_tiles; {function} RESET ROLE"), "it belongs to \"ATTACKER\""),
        (
            format!("SET ROLE ATTACKER; CREATE SCHEMA oar_tiles; {function} RESET ROLE; ALTER SCHEMA oar_tiles OWNER TO CURRENT_USER"),
            "it holds function oar_tiles.note_1()",
        ),
        (
            "CREATE SCHEMA oar_tiles; GRANT ALL ON SCHEMA oar_tiles TO ATTACKER; SET ROLE ATTACKER; CREATE TYPE oar_tiles.t AS ENUM ('a'); RESET ROLE; REVOKE ALL ON SCHEMA oar_tiles FROM ATTACKER".to_owned(),
            "it holds type oar_tiles.t",
        ),
        (
            "CREATE SCHEMA oar_tiles; GRANT CREATE ON SCHEMA oar_tiles TO ATTACKER".to_owned(),
            "\"ATTACKER\" may make objects in it: REVOKE CREATE ON SCHEMA \"oar_tiles\" FROM \"ATTACKER\"",
        ),
        (
            "CREATE SCHEMA oar_tiles; GRANT CREATE ON SCHEMA oar_tiles TO PUBLIC".to_owned(),
            "PUBLIC may make objects in it: REVOKE CREATE ON SCHEMA \"oar_tiles\" FROM PUBLIC",
        ),
        (format!("SET ROLE ATTACKER; CREATE SCHEMA oar_tiles; {fake} RESET ROLE"), "it belongs to \"ATTACKER\""),
        (
            format!("SET ROLE ATTACKER; CREATE SCHEMA oar_tiles; {fake} RESET ROLE; ALTER SCHEMA oar_tiles OWNER TO CURRENT_USER"),
            "the table \"state\" belongs to \"ATTACKER\"",
        ),
    ] {
        let tracking = Tracking::over("", "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = []\n");
        tracking.db.run("CREATE TABLE mill (id int PRIMARY KEY, location geometry(Point, 4326))");
        tracking.run(&format!("CREATE ROLE ATTACKER; GRANT CREATE ON DATABASE {} TO ATTACKER", tracking.db.name));
        let printed = tracking.install(&["--sql"]).ok().stdout;
        tracking.run(&schema);
        let text = tracking.named(text);
        for arguments in [&[][..], &["--sql"]] {
            tracking.install(arguments).fails(2, &["the schema \"oar_tiles\" of ", &text]);
        }
        // Statements that were printed before are run after.
        let refused = tracking.psql(&printed);
        assert!(refused.contains(&text), "{schema}: {refused}");
        let triggers: i64 = tracking.db.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.mill'::regclass");
        assert_eq!(triggers, 0, "{schema}");
        tracking.drop_roles();
    }
}

#[test]
fn what_the_owner_of_a_type_wrote_is_never_run_by_a_reader_of_the_log() {
    let tracking = attacked();
    tracking.run("SET ROLE ATTACKER; CREATE CAST (text AS evil.mood) WITH FUNCTION evil.from_text(text); RESET ROLE");
    tracking.install(&[]).ok();
    tracking.run(
        "SET ROLE WRITER; INSERT INTO mill (id, location) VALUES (1, 'SRID=4326;POINT(1 1)'); INSERT INTO mill (id, location) VALUES (2, 'SRID=4326;POINT(2 2)');
         INSERT INTO by_mood VALUES ('sad', 'a', NULL); RESET ROLE",
    );
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    // Keys of rows that cannot be drawn are named.
    tracking.oar_tiles("seed", &["--zoom", "0-3"], &target).ok();
    tracking.run("SET ROLE WRITER; INSERT INTO match VALUES (1, 1, 'glad', 'a', '{a}'); RESET ROLE");
    let told = tracking.oar_tiles("reseed", &["--dry-run"], &target).ok();
    assert!(told.stdout.contains("\"public\".\"match\""), "{}", told.stdout);
    tracking.oar_tiles("reseed", &[], &target).ok();
    let only_writer = ran(&tracking).iter().all(|line| line.ends_with(&tracking.named("as WRITER")));
    assert!(only_writer, "{:?}", ran(&tracking));
    tracking.drop_roles();
}

#[test]
fn a_query_that_stands_in_the_log_only_is_not_run() {
    let tables = "CREATE TABLE mill (id int PRIMARY KEY, location geometry(Point, 4326)); CREATE TABLE match (id int PRIMARY KEY, mill_id int);";
    let layer = "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = []\n[[layer.track]]\ntable = \"match\"\ngeometry = \"SELECT location FROM mill WHERE id = changed.mill_id\"\n";
    let tracking = Tracking::installed(tables, layer);
    let since = tracking.now();
    assert_eq!(tracking.check(&since).map(|watches| watches[0].len()), Ok(2));
    tracking.db.run("UPDATE oar_tiles.watch SET query = 'SELECT location FROM mill' WHERE query IS NOT NULL");
    let reason = tracking.check(&since).unwrap_err();
    assert!(reason.starts_with("layer \"mills\": what it reads is not tracked"), "{reason}");
}

#[test]
fn values_of_every_type_that_can_be_read_back_are() {
    let tables = "
        CREATE EXTENSION citext SCHEMA public;
        CREATE TYPE \"Mood\" AS ENUM ('glad', 'so so', 'sad');
        CREATE DOMAIN mood_of_day AS \"Mood\";
        CREATE DOMAIN word AS varchar(20) CHECK (value <> '');
        CREATE TABLE mill (id int PRIMARY KEY, mood \"Mood\", name citext, location geometry(Point, 4326));
        CREATE TABLE match (id int PRIMARY KEY, mood \"Mood\", day mood_of_day, word word, words word[], name citext, names citext[], span int4range,
            note json, at timestamptz, area geometry(Polygon, 4326), pad char(5), yes boolean);
        INSERT INTO mill SELECT i, (enum_range(NULL::\"Mood\"))[i], 'Name ' || i, ST_SetSRID(ST_MakePoint(i, i), 4326) FROM generate_series(1, 3) AS i;";
    let layer = |condition: &str| {
        format!(
            "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = []\n[[layer.track]]\ntable = \"match\"\ngeometry = \"\"\"SELECT location FROM mill WHERE {condition}\"\"\"\n"
        )
    };
    let row = "INSERT INTO match VALUES (1, 'so so', 'so so', 'a', '{a,NULL}', 'NAME 2', '{x,NAME 2}', '[1,3)', '{\"a\": \"2\"}', '2026-01-02 03:04:05.678901+00', 'SRID=4326;POLYGON((1.5 1.5, 1.5 2.5, 2.5 2.5, 1.5 1.5))', 'b', true)";
    let zoom = ["--zoom", "9"];
    let seeded = |condition: &str| {
        let tracking = Tracking::installed(tables, &layer(condition));
        let target = tracking.path("t.mbtiles");
        tracking.oar_tiles("seed", &zoom, &target).ok();
        tracking.db.run(row);
        tracking.db.run("INSERT INTO match (id) VALUES (2)");
        (tracking, target)
    };
    for condition in [
        "mood = changed.mood",
        "id = 2 AND changed.day::\"Mood\" = 'so so'",
        "id = 2 AND changed.word = 'a' AND changed.words[2] IS NULL AND changed.words[1] = changed.word",
        "name = changed.name",
        "name = ANY (changed.names)",
        "id > lower(changed.span) AND id < upper(changed.span)",
        "id = (changed.note ->> 'a')::int",
        "id = 2 AND changed.at = timestamptz '2026-01-02 03:04:05.678901+00'",
        "location && changed.area",
        "id = 2 AND changed.pad = 'b' AND changed.yes",
        "id = 2 AND NOT (changed IS NULL)",
    ] {
        let (tracking, target) = seeded(condition);
        let list = tracking.path("dirty.txt");
        tracking.oar_tiles("reseed", &["--dirty-out", list.to_str().unwrap()], &target).ok();
        assert_eq!(std::fs::read_to_string(list).unwrap(), "9/258/253\n", "{condition}");
    }
    // A label that was renamed since is no reason to overlook the row.
    let (tracking, target) = seeded("mood = changed.mood");
    tracking.db.run("ALTER TYPE \"Mood\" RENAME VALUE 'so so' TO 'middling'");
    tracking.oar_tiles("reseed", &[], &target).fails(1, &["the enum of the column has no label so so any more"]);
}

#[test]
fn a_column_that_could_not_be_read_back_is_refused() {
    let tables = "
        CREATE TYPE pair AS (a int, b text); CREATE TYPE span AS RANGE (subtype = int4); CREATE TYPE mood AS ENUM ('glad');
        CREATE TABLE mill (id int PRIMARY KEY, location geometry(Point, 4326));
        CREATE TABLE match (id int PRIMARY KEY, pair pair, pairs pair[], span span, moods mood[]);";
    for column in ["pair", "pairs", "span", "moods"] {
        let layer = format!(
            "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = []\n[[layer.track]]\ntable = \"match\"\ngeometry = \"SELECT location FROM mill WHERE id = changed.id AND changed.{column} IS NOT NULL\"\n"
        );
        let tracking = Tracking::over(tables, &layer);
        tracking.install(&[]).fails(
            2,
            &[
                &format!("the geometry of [[layer.track]] for \"public\".\"match\" refers to \"{column}\" of type "),
                "Write the query without that column",
            ],
        );
    }
    // A type that is called as one of PostGIS.
    let tracking = Tracking::over(
        "CREATE SCHEMA other; CREATE DOMAIN other.geometry AS public.geometry; CREATE TABLE mill (id int PRIMARY KEY, location other.geometry); INSERT INTO mill VALUES (1, 'SRID=4326;POINT(1 1)')",
        "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = []\n",
    );
    tracking.install(&[]).fails(2, &["\"location\" of \"public\".\"mill\" is of type other.geometry"]);
}
