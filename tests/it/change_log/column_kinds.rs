//! What the triggers note on partitions and children, of odd names and types, and of every kind of geometry.

use crate::support::tracking::Tracking;

#[test]
fn partitions_and_children_are_noted_whichever_table_is_written() {
    let tables = "
        CREATE TABLE mill (id int, part int, name text, location geometry(Point, 4326), PRIMARY KEY (id, part)) PARTITION BY LIST (part);
        CREATE TABLE mill_1 PARTITION OF mill FOR VALUES IN (1);
        -- Its columns stand in another order.
        CREATE TABLE mill_2 (location geometry(Point, 4326), gone int, name text, part int NOT NULL, id int NOT NULL);
        ALTER TABLE mill_2 DROP COLUMN gone;
        ALTER TABLE mill ATTACH PARTITION mill_2 FOR VALUES IN (2);
        CREATE TABLE loom (id int PRIMARY KEY, name text, location geometry(Point, 4326));
        CREATE TABLE loom_child (more text) INHERITS (loom);";
    let layers = "
        [[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = [\"name\"]
        [[layer]]\nname = \"looms\"\ntable = \"loom\"\nproperties = [\"name\"]
        [[layer]]\nname = \"part\"\ntable = \"mill_2\"\nkey = [\"id\"]\nproperties = [\"name\"]";
    // The layer over a partition has a watch of its own, with triggers on the parent as well.
    let tracking = Tracking::installed(tables, layers);
    let point = |i: i32| format!("ST_SetSRID(ST_MakePoint({i}, {i}), 4326)");
    for (sql, mills, looms, part) in [
        (
            format!("INSERT INTO mill VALUES (1, 1, 'a', {}), (2, 2, 'b', {})", point(1), point(2)),
            vec!["2 1,1 2,2"],
            vec![],
            vec!["2 1,1 2,2"],
        ),
        (
            format!("INSERT INTO mill_2 (id, part, name, location) VALUES (3, 2, 'c', {})", point(3)),
            vec!["1 3,3"],
            vec![],
            vec!["1 3,3"],
        ),
        ("UPDATE mill SET name = 'd' WHERE id < 3".to_owned(), vec!["2 1,1 2,2"], vec![], vec!["2 1,1 2,2"]),
        ("UPDATE mill_1 SET name = 'e'".to_owned(), vec!["1 1,1"], vec![], vec![]),
        ("UPDATE mill_1 SET name = 'e'".to_owned(), vec![], vec![], vec![]),
        // From one partition to the other.
        ("UPDATE mill SET part = 2 WHERE id = 1".to_owned(), vec!["2 1,1 1,1"], vec![], vec!["2 1,1 1,1"]),
        ("DELETE FROM mill_2 WHERE id = 3".to_owned(), vec!["1 3,3"], vec![], vec!["1 3,3"]),
        ("TRUNCATE mill".to_owned(), vec!["2 1,1 2,2"], vec![], vec!["2 1,1 2,2"]),
        (format!("INSERT INTO loom_child VALUES (1, 'a', {}, 'x')", point(1)), vec![], vec!["1 1,1"], vec![]),
        (format!("INSERT INTO loom VALUES (1, 'twin', {})", point(2)), vec![], vec!["1 2,2"], vec![]),
        ("UPDATE loom_child SET more = 'y'".to_owned(), vec![], vec![], vec![]),
        // Both have the key 1, and change their names with each other: each is compared with both.
        (
            "UPDATE loom SET name = CASE name WHEN 'a' THEN 'twin' ELSE 'a' END".to_owned(),
            vec![],
            vec!["4 1,1 1,1 1,1 2,2 2,2 2,2"],
            vec![],
        ),
        ("TRUNCATE loom".to_owned(), vec![], vec!["1 1,1", "1 2,2"], vec![]),
    ] {
        tracking.forget();
        tracking.db.run(&sql);
        for (table, expected) in [("mill", mills), ("loom", looms), ("mill_2", part)] {
            let sql = format!(
                "SELECT concat_ws(' ', rows, (SELECT string_agg(format('%s,%s', a, b), ' ' ORDER BY a, b) FROM unnest(x, y) AS p (a, b)))
                 FROM oar_tiles.change AS c JOIN oar_tiles.watch AS w ON w.id = c.watch WHERE w.relation = 'public.{table}'::regclass ORDER BY 1"
            );
            let found: Vec<String> = tracking.db.rows(&sql).iter().map(|row| row.get(0)).collect();
            assert_eq!(found, expected, "{table} after {sql}");
        }
    }
}

#[test]
fn odd_names_and_types_of_extensions_are_noted() {
    let tables = "
        CREATE EXTENSION citext SCHEMA public;
        CREATE SCHEMA \"Odd \"\"place\"\".of $oar_tiles$ it\";
        CREATE TYPE public.\"Mood\" AS ENUM ('glad', 'sad');
        CREATE TABLE \"Odd \"\"place\"\".of $oar_tiles$ it\".\"A 'mill', 100%\" (
            \"The \"\"key\"\"\" citext PRIMARY KEY, \"naïve 'name' %s\" citext, \"o.x\" \"Mood\", \"row\" bpchar, here geometry(Point, 4326));";
    let config =
        "[[layer]]\nname = \"mills\"\nschema = 'Odd \"place\".of $oar_tiles$ it'\ntable = \"A 'mill', 100%\"\n";
    let tracking = Tracking::installed(tables, config);
    let table = "\"Odd \"\"place\"\".of $oar_tiles$ it\".\"A 'mill', 100%\"";
    for (sql, expected) in [
        (format!("INSERT INTO {table} VALUES ('a', 'Name', 'glad', 'x', 'SRID=4326;POINT(1 2)')"), vec!["1 1,2"]),
        // Equal as citext, and other bytes.
        (format!("UPDATE {table} SET \"naïve 'name' %s\" = 'NAME'"), vec!["1 1,2"]),
        (format!("UPDATE {table} SET \"The \"\"key\"\"\" = 'A'"), vec!["1 1,2"]),
        (format!("UPDATE {table} SET \"o.x\" = 'sad', \"row\" = 'x '"), vec!["1 1,2"]),
        (format!("UPDATE {table} SET \"row\" = 'x '"), vec![]),
        (format!("TRUNCATE {table}"), vec!["1 1,2"]),
    ] {
        tracking.forget();
        tracking.db.run(&sql);
        assert_eq!(tracking.log(), expected, "{sql}");
    }
    assert_eq!(tracking.check(&tracking.now()).unwrap()[0].len(), 1);
}

#[test]
fn every_kind_of_geometry_is_noted_and_none_stops_a_writer() {
    let tables = "
        CREATE TABLE typed (id int PRIMARY KEY, g geometry(Geometry, 4326));
        CREATE TABLE areas (id int PRIMARY KEY, g geometry(MultiPolygon, 3857));
        CREATE TABLE metres (id int PRIMARY KEY, g geometry(LineString, 25832));
        CREATE TABLE earth (id int PRIMARY KEY, g geography(Point, 4326));
        CREATE TABLE free (id int PRIMARY KEY, g geometry);
        CREATE TABLE high (id int PRIMARY KEY, g geometry(PointZ, 4326));
        INSERT INTO free VALUES (0, 'SRID=4326;POINT(0 0)');";
    let layers: Vec<String> = ["typed", "areas", "metres", "earth", "free", "high"]
        .iter()
        .map(|table| format!("[[layer]]\nname = \"{table}\"\ntable = \"{table}\"\n"))
        .collect();
    let tracking = Tracking::installed(tables, &layers.concat());
    for (table, geometry, expected) in [
        ("typed", "POINT(1 2)", "1 1,2"),
        ("typed", "POINT EMPTY", ""),
        ("typed", "POINT(NaN 2)", "1 NaN,2"),
        ("typed", "LINESTRING(0 0, 2 1)", "1 SRID=4326;LINESTRING(0 0,2 1)"),
        ("typed", "MULTIPOINT(0 0, 2 1)", "1 SRID=4326;POLYGON((0 0,0 1,2 1,2 0,0 0))"),
        ("typed", "CIRCULARSTRING(0 0, 1 1, 2 0)", "1 SRID=4326;POLYGON((0 0,0 1,2 1,2 0,0 0))"),
        ("typed", "GEOMETRYCOLLECTION(POINT(3 3))", "1 SRID=4326;POINT(3 3)"),
        ("typed", "GEOMETRYCOLLECTION EMPTY", ""),
        ("typed", "TIN(((0 0, 0 1, 1 1, 0 0)))", "1 SRID=4326;POLYGON((0 0,0 1,1 1,1 0,0 0))"),
        ("areas", "MULTIPOLYGON(((0 0, 0 1, 1 1, 0 0)))", "1 SRID=3857;MULTIPOLYGON(((0 0,0 1,1 1,0 0)))"),
        ("metres", "LINESTRING(0 0, 2 1)", "1 SRID=25832;LINESTRING(0 0,2 1)"),
        ("earth", "POINT(1 2)", "1 1,2"),
        ("free", "SRID=4326;LINESTRING(0 0, 2 1)", "1 SRID=4326;LINESTRING(0 0,2 1)"),
        ("free", "SRID=25832;LINESTRING(0 0, 2 1)", "1 SRID=25832;LINESTRING(0 0,2 1)"),
        ("free", "POINT(5 6)", "1 POINT(5 6)"),
        ("high", "POINT Z (1 2 3)", "1 1,2"),
    ] {
        tracking.forget();
        let srid = match table {
            "areas" => "SRID=3857;",
            "metres" => "SRID=25832;",
            "free" => "",
            _ => "SRID=4326;",
        };
        tracking.db.run(&format!("INSERT INTO {table} VALUES (1, '{srid}{geometry}')"));
        let noted = tracking.log().join("|");
        assert_eq!(noted, expected, "{table} {geometry}");
        tracking.db.run(&format!(
            "UPDATE {table} SET g = g; UPDATE {table} SET g = NULL WHERE id = 1; DELETE FROM {table} WHERE id = 1"
        ));
        assert_eq!(
            tracking.log().len(),
            2 * usize::from(!expected.is_empty()),
            "{table} {geometry}: {:?}",
            tracking.log()
        );
    }
    // Not finite, in every place where a number may stand.
    for geometry in ["LINESTRING(0 0, NaN 1)", "MULTIPOINT(NaN NaN, 1 1)"] {
        tracking.db.run(&format!(
            "INSERT INTO typed VALUES (1, 'SRID=4326;{geometry}'); UPDATE typed SET g = NULL; TRUNCATE typed"
        ));
    }
    tracking.forget();
    tracking.db.run(
        "INSERT INTO high VALUES (1, 'SRID=4326;POINT Z (1 2 3)'); UPDATE high SET g = 'SRID=4326;POINT Z (1 2 4)'",
    );
    assert_eq!(tracking.log(), ["1 1,2", "1 1,2"], "another height is another value, at the same place");
}
