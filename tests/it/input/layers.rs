//! Layers that name what is not there or does not fit: which layer, what is wrong, and what to write or run instead.

use crate::support::{Archive, Db, OldTarget, seed};

/// Tables that do not fit.
const TABLES: &str = include_str!("layers.sql");

/// The columns of `api_facility`, as a refusal lists them.
const COLUMNS: &str =
    "\"id\", \"name\", \"address\", \"country_code\", \"location\", \"is_closed\", \"created_at\", \"updated_at\"";

/// Layers, each with what its refusal has to say; a dry run refuses them as well.
#[track_caller]
fn refused(layers: &[(&str, &[&str])]) {
    let db = Db::with_facilities(20);
    db.run(TABLES);
    let old = OldTarget::new();
    for (layer, texts) in layers {
        let config = format!("[[layer]]\nname = \"mills\"\n{layer}");
        for arguments in [&["--zoom", "0-4"][..], &["--dry-run"]] {
            old.refuses_config(&db.url, &config, arguments, 2, &[&["error: layer \"mills\": "], *texts].concat());
        }
    }
}

#[test]
fn a_relation_or_geometry_that_does_not_fit_is_refused_with_the_next_step() {
    refused(&[
        (
            "table = \"api_facilty\"",
            &[
                "/",
                "has no table or view \"api_facilty\". Did you mean \"api_facility\"? Set table (and schema) of the layer\n",
            ],
        ),
        ("table = \"xyzzy\"", &["has no table or view \"xyzzy\". Set table (and schema) of the layer\n"]),
        (
            "table = \"api_facility\"\nschema = \"publik\"",
            &["has no table or view \"publik.api_facility\". Did you mean \"api_facility\"?"],
        ),
        (
            "table = \"api_facility\"\ngeometry = \"loction\"",
            &[
                "geometry names the column \"loction\", which \"public\".\"api_facility\" does not have. Did you mean \"location\"?\n",
            ],
        ),
        (
            "table = \"api_facility\"\ngeometry = \"xyzzy\"",
            &["which \"public\".\"api_facility\" does not have. It has ", COLUMNS],
        ),
        (
            "table = \"api_facility\"\ngeometry = \"name\"",
            &[
                "geometry names the column \"name\", which is of type varchar. Name a column of type geometry or geography\n",
            ],
        ),
        (
            "table = \"plain\"",
            &[
                "\"public\".\"plain\" has no column of type geometry or geography. Choose another table, or a view that makes one (ST_SetSRID(ST_MakePoint(lon, lat), 4326))\n",
            ],
        ),
        (
            "table = \"two\"",
            &["\"public\".\"two\" has several geometry columns. Set geometry to one of \"a\", \"b\"\n"],
        ),
        (
            "table = \"unplaced\"",
            &[
                "the geometries in \"g\" of \"public\".\"unplaced\" have SRID 0: nobody can tell where they lie. If they are longitudes and latitudes, run ALTER TABLE \"public\".\"unplaced\" ALTER COLUMN \"g\" TYPE geometry(Geometry, 4326) USING ST_SetSRID(\"g\", 4326)\n",
            ],
        ),
        (
            "table = \"several\"",
            &[
                "the geometries in \"g\" of \"public\".\"several\" have several SRIDs: 4326, 25832. Bring them to one with ST_Transform, in the table or in a view\n",
            ],
        ),
        (
            "table = \"lost\"",
            &[
                "SRID 990001, which the table spatial_ref_sys does not have. Add it there, or set the right one with ST_SetSRID\n",
            ],
        ),
        (
            "table = \"far\"",
            &[
                "a geometry cannot be brought from SRID 25832 to Web Mercator. Look for coordinates far outside of that reference system, and mend them or leave them out with where (\"g\" && ST_MakeEnvelope(…, 25832))\n  cause: ",
            ],
        ),
    ]);
}

#[test]
fn properties_filters_and_keys_that_do_not_fit_are_refused_with_the_next_step() {
    let understand = format!(
        "the database does not understand properties or where. They are SQL over the columns of \"public\".\"api_facility\": {COLUMNS}\n  cause: "
    );
    refused(&[
        (
            "table = \"api_facility\"\nproperties = [\"nme\"]",
            &[
                "properties names the column \"nme\", which \"public\".\"api_facility\" does not have. Did you mean \"name\"?\n",
            ],
        ),
        (
            "table = \"api_facility\"\nproperties = [\"location\"]",
            &[
                "properties names the geometry column \"location\". Leave it out, or write an expression such as ST_AsText(…)\n",
            ],
        ),
        ("table = \"api_facility\"\nproperties = { a = \"upper(name\" }", &[&understand, "syntax error at"]),
        (
            "table = \"api_facility\"\nproperties = { a = \"1; DROP TABLE api_facility\" }",
            &[&understand, "syntax error at or near \";\""],
        ),
        ("table = \"api_facility\"\nproperties = { a = \"\" }", &[&understand, "syntax error at"]),
        (
            "table = \"api_facility\"\nproperties = { a = \"upper(nme)\" }",
            &[&understand, "column \"nme\" does not exist"],
        ),
        (
            "table = \"api_facility\"\nproperties = { a = \"count(*)\" }",
            &[
                "a property looks at other rows or gives several values. Work it out in a query of your own, and draw the layer from that: sql = …\n  cause: aggregate functions are not allowed in WHERE",
            ],
        ),
        ("table = \"api_facility\"\nwhere = \"is_open\"", &[&understand, "column \"is_open\" does not exist"]),
        ("table = \"api_facility\"\nwhere = \"name\"", &[&understand, "argument of AND must be type boolean"]),
        (
            "table = \"api_facility\"\nfeature_id = \"name\"",
            &[
                "feature_id names the column \"name\", which is of type varchar. Feature ids are integers: name a smallint, integer or bigint column, or leave feature_id out\n",
            ],
        ),
        (
            "table = \"api_facility\"\nfeature_id = \"nmber\"",
            &["feature_id names the column \"nmber\", which \"public\".\"api_facility\" does not have."],
        ),
        (
            "table = \"api_facility\"\nkey = [\"idd\"]",
            &["key names the column \"idd\", which \"public\".\"api_facility\" does not have. Did you mean \"id\"?\n"],
        ),
        (
            "table = \"seen\"",
            &[
                "\"public\".\"seen\" has no primary key. Set key to the column or columns that tell its rows apart, such as key = [\"id\"]\n",
            ],
        ),
        (
            "table = \"twins\"\nkey = [\"a\"]",
            &[
                "the key (\"a\") does not tell the rows of \"public\".\"twins\" apart: 2 rows have the key \"1\". Set key to columns that are unique together\n",
            ],
        ),
        (
            "table = \"keyless\"\nkey = [\"b\"]",
            &[
                "the key (\"b\") does not tell the rows of \"public\".\"keyless\" apart: 2 rows have the key NULL. Set key to columns that are unique together, and never NULL\n",
            ],
        ),
        (
            "table = \"keyless\"\nkey = [\"a\", \"b\"]",
            &[
                "the key (\"a\", \"b\") does not tell the rows of \"public\".\"keyless\" apart: 2 rows have the key \"1/NULL\". Set key to columns that are unique together, and never NULL\n",
            ],
        ),
        (
            "sql = \"SELECT * FROM keyless\"\nkey = [\"b\"]",
            &[
                "the key (\"b\") does not tell the rows of its query apart: 2 rows have the key NULL. Set key to columns that are unique together, and never NULL\n",
            ],
        ),
    ]);
}

#[test]
fn what_the_refusals_advise_works() {
    let db = Db::with_facilities(20);
    db.run(TABLES);
    let old = OldTarget::new();
    let output = old.beside("new.mbtiles");
    db.run("ALTER TABLE \"public\".\"unplaced\" ALTER COLUMN \"g\" TYPE geometry(Geometry, 4326) USING ST_SetSRID(\"g\", 4326)");
    for layer in [
        "table = \"unplaced\"",
        "table = \"two\"\ngeometry = \"b\"",
        "table = \"seen\"\nkey = [\"id\"]",
        "table = \"twins\"\nkey = [\"a\", \"b\"]",
        "table = \"far\"\nwhere = '\"g\" && ST_MakeEnvelope(200000, 5000000, 900000, 6200000, 25832)'",
        "table = \"several\"\nwhere = \"ST_SRID(g) = 4326\"",
        "table = \"twins\"\nkey = [\"b\"]\nwhere = \"a = 1\"",
    ] {
        let config = old.config(&format!("[[layer]]\nname = \"mills\"\n{layer}"));
        seed(&db.url, &output, &["--zoom", "0-4", "--config", &config]).ok();
        let tiles = Archive::open(&output).stored().len();
        assert!(tiles >= 5 || layer.contains("two"), "{layer}: {tiles} tiles");
    }
}

/// The statements have names of their own, and none may catch a column's.
#[test]
fn columns_named_as_the_statements_name_things_are_still_columns() {
    let db = Db::new();
    // Key, geometry, property.
    let names = [
        ("k0", "w", "e"),
        ("p0", "m", "tile"),
        ("z", "geom", "shift"),
        ("west", "box", "mvt_geometry"),
        ("xy", "e", "margin"),
        ("key", "g", "reason"),
    ];
    db.run(
        "CREATE TABLE ordinary (a int PRIMARY KEY, b geometry(LineString, 4326), c text);
         INSERT INTO ordinary SELECT i, ST_SetSRID(ST_MakeLine(ST_MakePoint(i, 40), ST_MakePoint(i + 2, 41)), 4326), 'c' || i FROM generate_series(1, 20) AS i;
         INSERT INTO ordinary VALUES (99, NULL, 'x');
         CREATE INDEX ON ordinary USING gist (b)",
    );
    let old = OldTarget::new();
    let output = old.beside("new.mbtiles");
    let tiles = |geometry: &str, key: &str, property: &str, table: &str, bbox: &[&str]| {
        let config = old.config(&format!(
            "[[layer]]\nname = \"l\"\ntable = \"{table}\"\nproperties = {{ p = '\"{property}\"' }}\nwhere = '\"{key}\" > 3'"
        ));
        let done = seed(&db.url, &output, &[&["--zoom", "3-7", "--config", &config][..], bbox].concat()).ok();
        assert_eq!(done.stdout.contains("skipped 1 row whose geometry is NULL: 99\n"), bbox.is_empty(), "{geometry}");
        Archive::open(&output).stored()
    };
    for bbox in [&[][..], &["--bbox", "0,0,15,60"]] {
        let expected = tiles("b", "a", "c", "ordinary", bbox);
        assert!(expected.len() > 10, "{}", expected.len());
        for (key, geometry, property) in names {
            db.run(&format!(
                "DROP TABLE IF EXISTS odd; CREATE TABLE odd AS SELECT a AS {key}, b AS {geometry}, c AS {property} FROM ordinary;
                 ALTER TABLE odd ADD PRIMARY KEY ({key}); CREATE INDEX ON odd USING gist ({geometry})"
            ));
            assert!(tiles(geometry, key, property, "odd", bbox) == expected, "{key}, {geometry}, {property}");
        }
    }
}
