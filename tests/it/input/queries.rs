//! Queries that are none, or do not give what a layer needs: which layer, what was found, and what to write instead.

use crate::support::folder::Folder;
use crate::support::{Db, OldTarget, seed};

/// Layers, each with what its refusal has to say.
#[track_caller]
fn refused(layers: &[(&str, &[&str])]) {
    let db = Db::with_facilities(60);
    db.run(
        "CREATE TABLE metres AS SELECT id, ST_Transform(location, 25832) AS g, location::geography AS place FROM api_facility WHERE location && ST_MakeEnvelope(0, 40, 20, 60, 4326);
         INSERT INTO metres SELECT 'one', 'SRID=25832;POINT(400000 5800000)', 'POINT(8 52)'",
    );
    let old = OldTarget::new();
    for (layer, texts) in layers {
        let config = format!("[[layer]]\nname = \"mills\"\n{layer}");
        old.refuses_config(&db.url, &config, &["--zoom", "0-5"], 2, texts);
    }
}

#[test]
fn a_query_that_is_none_or_not_one_is_refused() {
    let key = "layer[mills].sql (from ";
    refused(&[
        ("table = \"t\"\nsql = \"SELECT 1\"", &[key, "): stands beside table: a layer has one or the other\n"]),
        (
            "",
            &[
                "layer[mills].table (from ",
                "): is missing, and there is no sql and no function: write table = \"…\", sql = \"\"\"SELECT …\"\"\" or function = \"…\"\n",
            ],
        ),
        (
            "schema = \"s\"\nsql = \"SELECT 1\"",
            &["layer[mills].schema (from ", "belongs to table: name the schema in the query\n"],
        ),
        (
            "sql = \" -- none\"",
            &[key, "): is empty: write a SELECT that gives the geometry, the key and the properties\n"],
        ),
        (
            "sql = \"SELECT 1; SELECT 2\"",
            &[key, "): has a ; before its end: write one SELECT; only its end may have one\n"],
        ),
        (
            "sql = \"SELECT !box!\"",
            &[
                key,
                "): has !box!, which is no placeholder: there is !bbox!, !zoom!, !pixel_width!, !pixel_height!, !scale_denominator!\n",
            ],
        ),
        (
            "sql = \"SELECT 1 WHERE g && !bbox\"",
            &[key, "): has !bbox, which lacks an exclamation mark: there is !bbox!"],
        ),
        (
            "sql = \"SELECT 1 WHERE g && BBOX! AND true\"",
            &[key, "): has BBOX!, which lacks an exclamation mark: there is !bbox!"],
        ),
        (
            "sql = \"SELECT !X!\"",
            &[
                key,
                "): has !X!: the column and row of a tile are not known when tiles are planned. Select with !bbox!, or write a property such as x = \"!x!\"\n",
            ],
        ),
        ("sql = \"SELECT $1\"", &[key, "): has the parameter $1, for which there is no value: there is !bbox!"]),
        (
            "sql = \"SELECT id, ST_AsMVTGeom(g, !BBOX!) AS g FROM t\"",
            &[
                key,
                "): calls ST_AsMVTGeom: let it give the geometry itself; it is cut to the tile and written afterwards\n",
            ],
        ),
        (
            "sql = \"SELECT * FROM api_facility WHERE location && !bbox!\"\nproperties = [\"id\"]\n[layer.cluster]",
            &[
                key,
                "): has !bbox! beside [layer.cluster]: a cell needs all of its members, wherever tiles end. Leave the condition with !bbox! out: the index is used all the same\n",
            ],
        ),
    ]);
}

#[test]
fn a_query_that_does_not_give_what_it_promises_is_refused_with_what_it_gives() {
    let understand = "layer \"mills\": the database does not understand its query. sql is one SELECT, as psql takes it once values stand for the placeholders\n  cause: ";
    refused(&[
        ("sql = \"SELEC 1\"", &[understand, "syntax error at or near "]),
        ("sql = \"SELECT * FROM nowhere\"", &[understand, "relation \"nowhere\" does not exist"]),
        (
            "sql = \"SELECT * FROM api_facility WHERE location && !zoom!\"",
            &[understand, "operator does not exist: geometry && integer"],
        ),
        ("sql = \"DELETE FROM api_facility RETURNING *\"", &[understand, "syntax error at or near"]),
        (
            "sql = \"SELECT id, id, location FROM api_facility\"\nkey = [\"id\"]",
            &["layer \"mills\": its query gives two columns \"id\". Leave one out, or rename it with AS\n"],
        ),
        (
            "sql = \"SELECT id, name FROM api_facility\"\nkey = [\"id\"]",
            &[
                "layer \"mills\": its query gives no column of type geometry or geography. Let it give one (not packed by ST_AsBinary), beside what it gives now: \"id\" varchar, \"name\" varchar\n",
            ],
        ),
        (
            "sql = \"SELECT id, ST_AsBinary(location) AS g FROM api_facility\"\nkey = [\"id\"]\ngeometry = \"g\"",
            &[
                "layer \"mills\": geometry names the column \"g\", which is of type bytea. Give the geometry itself: leave ST_AsBinary(…) out\n",
            ],
        ),
        (
            "sql = \"SELECT id, location FROM api_facility\"\nkey = [\"id\"]\ngeometry = \"locatio\"",
            &[
                "layer \"mills\": geometry names the column \"locatio\", which its query does not have. Did you mean \"location\"?\n",
            ],
        ),
        (
            "sql = \"SELECT id, location FROM api_facility\"",
            &[
                "layer \"mills\": its query has no primary key. Set key to the column or columns that tell its rows apart, such as key = [\"id\"]. It gives \"id\", \"location\"\n",
            ],
        ),
        (
            "sql = \"SELECT id, location FROM api_facility\"\nkey = [\"gid\"]",
            &[
                "layer \"mills\": key names the column \"gid\", which its query does not have. It has \"id\", \"location\"\n",
            ],
        ),
        (
            "sql = \"SELECT left(id, 1) AS id, location FROM api_facility WHERE !zoom! < 99 AND location && !bbox!\"\nkey = [\"id\"]",
            &[
                "layer \"mills\": the key (\"id\") does not tell the rows of its query apart: ",
                "Set key to columns that are unique together\n",
            ],
        ),
        (
            "sql = \"SELECT id, location FROM api_facility\"\nkey = [\"id\"]\nproperties = { n = \"name\" }",
            &[
                "layer \"mills\": the database does not understand properties or where. They are SQL over the columns of its query: \"id\", \"location\"\n  cause: column \"name\" does not exist",
            ],
        ),
        (
            "sql = \"SELECT id, ST_SetSRID(location, 0) AS g FROM api_facility\"\nkey = [\"id\"]",
            &[
                "layer \"mills\": the geometries in \"g\" of its query have SRID 0: nobody can tell where they lie. If they are longitudes and latitudes, write ST_SetSRID(…, 4326) in the query\n",
            ],
        ),
        (
            "sql = \"SELECT id, CASE WHEN !zoom! < 12 THEN location ELSE ST_Transform(location, 3857) END AS g FROM api_facility\"\nkey = [\"id\"]",
            &[
                "layer \"mills\": the geometries in \"g\" of its query have several SRIDs: 3857, 4326. Bring them to one with ST_Transform in the query\n",
            ],
        ),
        (
            "sql = \"SELECT id, g FROM metres WHERE g && !bbox!\"\nkey = [\"id\"]",
            &[
                "layer \"mills\": its query has !bbox!, and \"g\" is in EPSG:25832: a tile is a box in EPSG:3857 and EPSG:4326 only. Give ST_Transform(\"g\", 3857)",
            ],
        ),
        (
            "sql = \"SELECT id, place FROM metres WHERE place && !bbox!\"\nkey = [\"id\"]",
            &[
                "layer \"mills\": its query has !bbox!, and \"place\" is of type geography, whose boxes are no boxes of tiles. Give geometries, such as location::geometry, and compare !bbox! with them\n",
            ],
        ),
        (
            "sql = \"SELECT id, location FROM api_facility WHERE ST_Intersects(ST_Transform(location, 3857), !bbox!)\"\nkey = [\"id\"]",
            &[
                "layer \"mills\": its query compares !bbox!, which is in EPSG:4326 as its geometry \"location\" is, with a geometry in another system. Bring it there: ST_Transform(!bbox!, …)\n  cause: ",
            ],
        ),
    ]);
}

#[test]
fn a_query_whose_rows_depend_on_how_it_is_asked_is_found_out() {
    let db = Db::with_facilities(300);
    let old = OldTarget::new();
    let query = |sql: &str| format!("[[layer]]\nname = \"mills\"\nsql = '''{sql}'''\nkey = [\"id\"]");
    let small = |sql: &str| format!("[run]\nbatch_features = 40\n{}", query(sql));
    for (config, texts) in [
        (
            query("SELECT id, location FROM api_facility WHERE current_query() NOT LIKE 'WITH%' OR id < 'C'"),
            [
                "gave other rows when it was asked again, ",
                " tiles came back for ",
                ": the result is not complete, nothing was published. Let it give the same rows whenever it is asked",
            ],
        ),
        (
            small("SELECT id, location FROM api_facility WHERE location && !bbox! ORDER BY id LIMIT 20"),
            [
                "gives more for the boxes of tiles than for the box of the world, ",
                " features came for ",
                ": the result is not complete, nothing was published. Use !bbox! only to select",
            ],
        ),
        (
            small(
                "SELECT id, location FROM api_facility WHERE location && !bbox! AND (ST_Area(!bbox!) < 5000 OR id < 'C')",
            ),
            [
                "gives more for the boxes of tiles than for the box of the world, ",
                " planned around the tiles ",
                "leave out LIMIT and whatever else depends on how large the box is",
            ],
        ),
    ] {
        let texts = [&["error: layer \"mills\": its query "], &texts[..]].concat();
        old.refuses_config(&db.url, &config, &["--zoom", "5-6"], 1, &texts);
    }
}

#[test]
fn a_limit_beside_the_box_is_warned_of() {
    let db = Db::with_facilities(30);
    let folder = Folder::new();
    for (end, name) in [("LIMIT 50", "LIMIT"), ("FETCH FIRST 50 ROWS ONLY", "FETCH FIRST")] {
        let config = folder.config(&format!(
            "[[layer]]\nname = \"mills\"\nsql = \"SELECT id, location FROM api_facility WHERE location && !bbox! ORDER BY id {end}\"\nkey = [\"id\"]"
        ));
        let done = seed(&db.url, &folder.beside("t.mbtiles"), &["--zoom", "0-3", "--config", &config]).ok();
        let warning = format!(
            "layer \"mills\": its query has !bbox! and {name}. Tiles are planned by what the query gives for the whole world, so features beyond the {name} are in no tile."
        );
        assert!(done.stderr.contains(&warning), "{}", done.stderr);
    }
}
