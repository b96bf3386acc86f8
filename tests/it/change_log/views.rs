//! Which tables and columns a layer reads, what is declared beside it, and what cannot be tracked.

use super::{LAYER, MILLS};
use crate::support::tracking::{Tracking, watched};

#[test]
fn the_columns_that_a_layer_reads_are_found_and_no_others() {
    let tables = format!("{MILLS}
        ALTER TABLE mill ADD COLUMN twice text GENERATED ALWAYS AS (kind || kind) STORED;
        CREATE TABLE area (id int PRIMARY KEY, name text, g geometry(Polygon, 4326));
        CREATE VIEW kinds AS SELECT id, upper(kind) AS kind, location FROM mill;
        CREATE VIEW seen AS SELECT k.*, m.score FROM kinds AS k LEFT JOIN match AS m ON m.mill_id = k.id;
        CREATE FUNCTION scored(int) RETURNS bigint LANGUAGE sql STABLE BEGIN ATOMIC SELECT count(*) FROM match WHERE mill_id = $1; END;");
    let layer = |rest: &str| format!("[[layer]]\nname = \"mills\"\n{rest}");
    let warned = |table: &str| {
        format!(
            "warning: layer \"mills\" reads \"public\".\"{table}\", whose changes are not noted: nobody has said where they are seen. Declare it in the layer: [[layer.track]] with table = \"public.{table}\" and geometry = an SQL query over the changed row that gives the places, such as \"SELECT changed.location\"\n"
        )
    };
    let declared =
        "[[layer.track]]\ntable = \"match\"\ngeometry = \"SELECT location FROM mill WHERE id = changed.mill_id\"\n";
    let mill = "[[layer.track]]\ntable = \"mill\"\ngeometry = \"SELECT changed.location\"\n";
    for (config, watches, warnings) in [
        (layer("table = \"mill\"\nproperties = []"), vec!["mill: id location"], vec![]),
        (
            layer(
                "table = \"mill\"\nproperties = { a = \"1\" }\nwhere = \"kind <> ''\"\nkey = [\"name\"]\nfeature_id = \"id\"",
            ),
            vec!["mill: id kind location name"],
            vec![],
        ),
        (
            layer("table = \"mill\"\nproperties = { a = \"lower(kind) || more\" }"),
            vec!["mill: id kind location more"],
            vec![],
        ),
        (layer("table = \"mill\"\nproperties = [\"twice\"]"), vec!["mill: id location twice"], vec![]),
        // A whole row is all of its columns.
        (
            layer("table = \"mill\"\nproperties = { a = \"to_jsonb(mill)::text\" }"),
            vec!["mill: id kind location more name twice"],
            vec![],
        ),
        (
            layer("table = \"mill\"\nproperties = { a = \"(SELECT max(score) FROM match WHERE mill_id = mill.id)\" }"),
            vec!["mill: id location"],
            vec![warned("match")],
        ),
        (
            layer("table = \"mill\"\nproperties = { a = \"scored(id)\" }"),
            vec!["mill: id location"],
            vec![warned("match")],
        ),
        (
            layer(&format!(
                "table = \"mill\"\nproperties = {{ a = \"(SELECT max(score) FROM match WHERE mill_id = mill.id)\" }}\n{declared}"
            )),
            vec!["match {mill_id}: id mill_id score", "mill: id location"],
            vec![],
        ),
        // Nothing that the database knows of reads it: whoever declares it knows why.
        (
            layer(&format!("table = \"mill\"\nproperties = []\n{declared}")),
            vec!["match {mill_id}: id mill_id score stamp", "mill: id location"],
            vec![],
        ),
        (
            layer("table = \"seen\"\nkey = [\"id\"]\nproperties = [\"kind\"]"),
            vec![],
            vec![warned("match"), warned("mill")],
        ),
        (
            layer(&format!("table = \"seen\"\nkey = [\"id\"]\nproperties = [\"kind\"]\n{mill}")),
            vec!["mill {location}: id kind location"],
            vec![warned("match")],
        ),
        (
            layer(&format!("table = \"seen\"\nkey = [\"id\"]\nproperties = [\"kind\"]\n{mill}{declared}")),
            vec!["match {mill_id}: id mill_id score", "mill {location}: id kind location"],
            vec![],
        ),
        (
            layer(
                "table = \"mill\"\nproperties = []\n[[layer.track]]\ntable = \"area\"\ngeometry = \"SELECT m.location FROM mill AS m WHERE changed.g && m.location AND changed IS NOT NULL\"",
            ),
            vec!["area {id,name,g}: g id name", "mill: id location"],
            vec![],
        ),
    ] {
        let tracking = Tracking::over(&tables, &config);
        let installed = tracking.install(&[]).ok();
        assert_eq!(watched(&tracking.db), watches, "{config}");
        assert_eq!(installed.stderr, warnings.concat(), "{config}");
        // A layer of which nothing is watched cannot be followed.
        assert_eq!(tracking.check(&tracking.now()).is_ok(), !watches.is_empty(), "{config}");
        let views: i64 = tracking.db.value("SELECT count(*) FROM pg_class WHERE relname LIKE 'oar_tiles%'");
        assert_eq!(views, 0, "nothing stays of what was asked");
    }
}

#[test]
fn a_declared_query_is_noted_by_what_it_refers_to() {
    let config = format!(
        "{LAYER}[[layer.track]]\ntable = \"match\"\ngeometry = \"SELECT location FROM mill WHERE id = changed.mill_id\"\n"
    );
    let tracking = Tracking::installed(MILLS, &config);
    for (sql, noted) in [
        ("INSERT INTO match VALUES (1, 2, 5, now()), (2, 3, 5, now())", r#"2 {"mill_id": "2"} {"mill_id": "3"}"#),
        ("UPDATE match SET score = 6 WHERE id = 1", r#"1 {"mill_id": "2"}"#),
        ("UPDATE match SET mill_id = 1 WHERE id = 1", r#"1 {"mill_id": "1"} {"mill_id": "2"}"#),
        ("UPDATE match SET mill_id = NULL WHERE id = 1", r#"1 {"mill_id": "1"} {"mill_id": null}"#),
        ("UPDATE match SET id = 9 WHERE id = 2", r#"2 {"mill_id": "3"} {"mill_id": "3"}"#),
        ("UPDATE match SET score = score", ""),
        ("DELETE FROM match WHERE id = 9", r#"1 {"mill_id": "3"}"#),
        ("TRUNCATE match", r#"1 {"mill_id": null}"#),
    ] {
        tracking.forget();
        tracking.db.run(sql);
        assert_eq!(tracking.log().join("|"), noted, "{sql}");
    }
    let found = &tracking.check(&tracking.now()).unwrap()[0][1];
    assert_eq!(
        format!("{:?}", found.source),
        r#"Query { sql: "SELECT location FROM mill WHERE id = changed.mill_id", columns: [("mill_id", "integer")] }"#
    );
}

#[test]
fn what_no_trigger_sees_is_refused_with_the_next_step() {
    let tables = format!(
        "{MILLS}
        CREATE MATERIALIZED VIEW still AS SELECT * FROM mill;
        CREATE VIEW above AS SELECT * FROM still;
        CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
        CREATE FOREIGN TABLE far (id int, location geometry(Point, 4326)) SERVER files OPTIONS (filename '/dev/null');
        CREATE TABLE parts (id int, location geometry(Point, 4326)) PARTITION BY LIST (id);
        CREATE FOREIGN TABLE far_part PARTITION OF parts FOR VALUES IN (1) SERVER files OPTIONS (filename '/dev/null');
        CREATE UNLOGGED TABLE short (id int PRIMARY KEY, location geometry(Point, 4326));
        CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (name text, location geometry(Point, 4326)) INHERITS (parent);"
    );
    let tracking = Tracking::over(&tables, LAYER);
    for (layer, text) in [
        (
            "table = \"still\"\nkey = [\"id\"]",
            "\"public\".\"still\" is a materialized view, and REFRESH fires no trigger: its changes cannot be noted. Set refresh = true and declare the tables beneath it with [[layer.track]], draw the layer from these tables, or run oar-tiles seed after each REFRESH\n",
        ),
        (
            "table = \"far\"\nkey = [\"id\"]",
            "\"public\".\"far\" is a foreign table: it is changed elsewhere, and its changes cannot be noted. Draw the layer from a table of this database",
        ),
        (
            "table = \"parts\"\nkey = [\"id\"]",
            "\"public\".\"parts\" has the foreign table \"public\".\"far_part\" as a partition or child, whose changes cannot be noted. Take it out",
        ),
        (
            "table = \"short\"",
            "\"public\".\"short\" is unlogged: a crash empties it, and nothing notes that. Run ALTER TABLE \"public\".\"short\" SET LOGGED",
        ),
        (
            "table = \"child\"\nkey = [\"id\"]",
            "rows of \"public\".\"child\" are also changed through its parent \"public\".\"parent\", which does not have the column \"location\". Draw the layer from \"public\".\"parent\", or add the column there",
        ),
        (
            "table = \"mill\"\n[[layer.track]]\ntable = \"still\"\ngeometry = \"SELECT changed.location\"",
            "\"public\".\"still\" is a materialized view",
        ),
        (
            "table = \"mill\"\n[[layer.track]]\ntable = \"above\"\ngeometry = \"SELECT changed.location\"",
            "[[layer.track]] names the view \"public\".\"above\", which has no rows of its own. Name the tables that it reads",
        ),
        (
            "table = \"mill\"\n[[layer.track]]\ntable = \"mach\"\ngeometry = \"SELECT changed.location\"",
            "has no table or view \"mach\". Did you mean \"match\"? Set table (and schema) of its [[layer.track]]\n",
        ),
        (
            "table = \"mill\"\n[[layer.track]]\ntable = \"match\"\ngeometry = \"SELECT location FROM mill WHERE id = changed.mil_id\"",
            "the database does not understand the geometry of [[layer.track]] for \"public\".\"match\". It is an SQL query over the changed row",
        ),
        (
            "table = \"mill\"\n[[layer.track]]\ntable = \"match\"\ngeometry = \"SELECT name FROM mill\"",
            "the geometry of [[layer.track]] for \"public\".\"match\" gives values of type text. Let its query give one column of type geometry or geography\n",
        ),
    ] {
        tracking.configure(&format!("[[layer]]\nname = \"mills\"\n{layer}\n"));
        for arguments in [&[][..], &["--sql"]] {
            let refused = tracking.install(arguments).fails(2, &["error: layer \"mills\": ", text]);
            assert!(refused.stdout.is_empty(), "{}", refused.stdout);
        }
    }
    tracking.configure("[[layer]]\nname = \"mills\"\ntable = \"above\"\nkey = [\"id\"]\n");
    tracking
        .install(&[])
        .ok()
        .fails(0, &["layer \"mills\" reads \"public\".\"still\", whose changes no trigger can note"]);
}
