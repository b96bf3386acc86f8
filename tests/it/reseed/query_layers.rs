//! A layer over a query follows changes of the tables that are declared beneath it.

use crate::support::Archive;
use crate::support::Db;
use crate::support::manual;
use crate::support::program::{Run, program, run};
use crate::support::tracked::{SOME, differences};
use crate::support::tracking::Tracking;

/// A query over two tables, and where changes in each are seen.
const LAYERS: &str = r#"
[[layer]]
name = "f"
sql = """
SELECT f.id, f.name, f.location, count(m.id) AS matches
FROM api_facility f LEFT JOIN match m ON m.facility_id = f.id
WHERE f.location && !bbox! AND (!zoom! > 3 OR NOT f.is_closed)
GROUP BY f.id
"""
key = ["id"]
properties = ["name", "matches"]

[[layer.track]]
table = "api_facility"
geometry = "SELECT changed.location"

[[layer.track]]
table = "match"
geometry = "SELECT f.location FROM api_facility f WHERE f.id = changed.facility_id"

[[layer]]
name = "cells"
sql = "SELECT id, location FROM api_facility WHERE NOT is_closed"
key = ["id"]
zoom = "0-5"
[layer.aggregate]
cell = "square"
size = "1/16"
properties = { n = "count(*)" }
[[layer.track]]
table = "api_facility"
geometry = "SELECT changed.location"
"#;

const DRAWN: &str = "geometry = \"SELECT changed.location\"\n";

struct World {
    db: Db,
    folder: tempfile::TempDir,
}

impl World {
    fn new(layers: &str) -> World {
        let db = Db::with_facilities(1_500);
        db.run(
            "CREATE TABLE match (id serial PRIMARY KEY, facility_id varchar(32));
             INSERT INTO match (facility_id) SELECT id FROM api_facility WHERE id < 'D'; CREATE INDEX ON match (facility_id)",
        );
        let world = World { db, folder: tempfile::tempdir().unwrap() };
        world.configure(layers);
        world
    }

    fn configure(&self, layers: &str) {
        std::fs::write(self.folder.path().join("c.toml"), layers).unwrap();
    }

    fn oar_tiles(&self, arguments: &[&str], output: Option<&str>) -> Run {
        let mut command = program();
        command
            .args(arguments)
            .args(["--database-url", &self.db.url, "--config"])
            .arg(self.folder.path().join("c.toml"));
        if let Some(output) = output {
            command.args(["--progress", "none", "--output"]).arg(self.folder.path().join(output));
        }
        run(&mut command)
    }

    fn stored(&self, name: &str) -> crate::support::tracked::Tiles {
        Archive::open(&self.folder.path().join(name)).stored()
    }
}

#[test]
fn a_reseed_of_a_query_leaves_what_a_fresh_seed_would() {
    let world = World::new(LAYERS);
    let installed = world.oar_tiles(&["track", "install"], None).ok();
    assert_eq!(installed.stderr, "", "every table is declared");
    world.oar_tiles(&["seed", "--zoom", "0-9"], Some("t.mbtiles")).ok();
    for (change, seen) in [
        (format!("UPDATE api_facility SET name = name || '!' WHERE {SOME}"), true),
        (format!("UPDATE api_facility SET location = ST_Translate(location, 3, 1) WHERE {SOME}"), true),
        (format!("UPDATE api_facility SET is_closed = NOT is_closed WHERE {SOME}"), true),
        (format!("DELETE FROM api_facility WHERE {SOME}"), true),
        (
            "INSERT INTO match (facility_id) SELECT id FROM api_facility ORDER BY md5(id || 'x') LIMIT 3".to_owned(),
            true,
        ),
        ("DELETE FROM match WHERE id % 7 = 0".to_owned(), true),
        ("UPDATE api_facility SET address = 'elsewhere', updated_at = now()".to_owned(), false),
    ] {
        let before = world.stored("t.mbtiles");
        world.db.run(&change);
        let done = world.oar_tiles(&["reseed"], Some("t.mbtiles")).ok();
        assert_eq!(!done.stdout.starts_with("nothing to do"), seen, "{change}: {}", done.stdout);
        world.oar_tiles(&["seed", "--zoom", "0-9"], Some("fresh.mbtiles")).ok();
        let (after, fresh) = (world.stored("t.mbtiles"), world.stored("fresh.mbtiles"));
        let wrong = differences(&after, &fresh);
        assert!(wrong.is_empty(), "{change}: {} of {}, such as {:?}", wrong.len(), fresh.len(), wrong.first());
        assert_eq!(!differences(&before, &after).is_empty(), seen, "{change}");
    }
    let before = world.stored("t.mbtiles");
    world.oar_tiles(&["reseed", "--area", "60,5,100,35"], Some("t.mbtiles")).ok();
    assert!(differences(&before, &world.stored("t.mbtiles")).is_empty(), "an area that has not changed");
}

/// At zoom 2, the shallowest, a facility is drawn up to 39 km from where it is.
const MOVED: &str = r#"
[[layer]]
name = "f"
sql = "SELECT id, name, ST_SnapToGrid(ST_Transform(location, 3857), !pixel_width! * 2) AS g FROM api_facility"
key = ["id"]
zoom = "2-9"
[[layer.track]]
table = "api_facility"
geometry = "SELECT ST_Expand(ST_Transform(changed.location, 3857), 40000)"
"#;

#[test]
fn a_query_that_moves_its_geometries_is_followed_as_far_as_it_moves_them() {
    let world = World::new(MOVED);
    world.oar_tiles(&["track", "install"], None).ok();
    world.oar_tiles(&["seed", "--zoom", "0-7"], Some("t.mbtiles")).ok();
    for change in [
        format!("UPDATE api_facility SET location = ST_Translate(location, 0.3, 0.1) WHERE {SOME}"),
        format!("DELETE FROM api_facility WHERE {SOME}"),
    ] {
        let before = world.stored("t.mbtiles");
        world.db.run(&change);
        world.oar_tiles(&["reseed"], Some("t.mbtiles")).ok();
        world.oar_tiles(&["seed", "--zoom", "0-7"], Some("fresh.mbtiles")).ok();
        let (after, fresh) = (world.stored("t.mbtiles"), world.stored("fresh.mbtiles"));
        assert!(differences(&after, &fresh).is_empty(), "{change}: {:?}", differences(&after, &fresh));
        assert!(!differences(&before, &after).is_empty(), "{change}");
    }
}

#[test]
fn tables_beneath_a_query_are_found_and_have_to_be_declared() {
    let sql = "sql = \"SELECT id, name, location FROM api_facility WHERE location && !bbox!\"\nkey = [\"id\"]\n";
    let world = World::new(&format!("[[layer]]\nname = \"f\"\n{sql}"));
    let installed = world.oar_tiles(&["track", "install"], None).ok();
    let warning = "warning: layer \"f\" reads \"public\".\"api_facility\", whose changes are not noted: nobody has said where they are seen. Declare it in the layer: [[layer.track]] with table = \"public.api_facility\"";
    assert!(installed.stderr.contains(warning), "{}", installed.stderr);
    world.oar_tiles(&["seed", "--zoom", "0-5"], Some("t.mbtiles")).ok();
    world.oar_tiles(&["reseed"], Some("t.mbtiles")).fails(
        4,
        &["layer \"f\": none of the tables that it reads is tracked. Declare each of them with [[layer.track]]"],
    );

    world.configure(&format!("[[layer]]\nname = \"f\"\n{sql}[[layer.track]]\ntable = \"api_facility\"\n{DRAWN}"));
    assert_eq!(world.oar_tiles(&["track", "install"], None).ok().stderr, "");
    // The query decides the bytes: a target of another one is not brought up to date.
    world.oar_tiles(&["seed", "--zoom", "0-5"], Some("t.mbtiles")).ok();
    assert!(world.oar_tiles(&["reseed"], Some("t.mbtiles")).ok().stdout.starts_with("nothing to do"));
    let other = sql.replace("!bbox!", "!bbox! AND !zoom! > 2");
    world.configure(&format!("[[layer]]\nname = \"f\"\n{other}[[layer.track]]\ntable = \"api_facility\"\n{DRAWN}"));
    world.oar_tiles(&["reseed"], Some("t.mbtiles")).fails(4, &["it was seeded with another configuration"]);
}

#[test]
fn a_role_without_temporary_views_is_told_what_is_not_known() {
    let sql = "sql = \"SELECT id, name, location FROM api_facility\"\nkey = [\"id\"]\n";
    let world =
        World::new(&format!("[[layer]]\nname = \"f\"\n{sql}[[layer.track]]\ntable = \"api_facility\"\n{DRAWN}"));
    let (db, role) = (&world.db, format!("{}_owner", world.db.name));
    db.run(&format!(
        "REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC; CREATE ROLE {role} LOGIN; GRANT CREATE ON DATABASE {name} TO {role};
         ALTER TABLE api_facility OWNER TO {role}",
        name = db.name
    ));
    let url = db.url.replacen("oar_tiles@", &format!("{role}@"), 1);
    let config = world.folder.path().join("c.toml");
    let installed = run(program().args(["track", "install", "--database-url", &url, "--config"]).arg(config)).ok();
    assert!(installed.stderr.contains("the role may not make temporary views"), "{}", installed.stderr);
    world.oar_tiles(&["seed", "--zoom", "0-5"], Some("t.mbtiles")).ok();
    db.run(&format!("UPDATE api_facility SET name = 'x' WHERE {SOME}"));
    world.oar_tiles(&["reseed"], Some("t.mbtiles")).ok();
    world.oar_tiles(&["seed", "--zoom", "0-5"], Some("fresh.mbtiles")).ok();
    assert!(world.stored("t.mbtiles") == world.stored("fresh.mbtiles"));
    db.run(&format!("REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// The labels of the manual's recipe, with polygons that the log holds, their boxes, and covers of them. The layer of
/// the polygons would dirty the same tiles, so it is left out.
#[test]
fn one_label_for_each_polygon_follows_its_polygon() {
    let recipe = manual::blocks("toml").into_iter().find(|block| block.contains("lake_labels")).unwrap();
    let layers: Vec<&str> = recipe.split("[[layer]]\n").collect();
    let [tileset, _, labels] = layers[..] else { panic!("{recipe}") };
    let tables = "CREATE TABLE lake (id int PRIMARY KEY, name text, geom geometry(Geometry, 4326));
        INSERT INTO lake SELECT n, 'lake ' || n, ST_Difference(ST_Buffer(p, 0.4, 3), ST_Buffer(ST_Translate(p, 0.2, 0), 0.3, 3))
        FROM (SELECT n, ST_SetSRID(ST_MakePoint(n % 20, n / 20), 4326) AS p FROM generate_series(1, 130) AS n) AS placed;
        CREATE INDEX ON lake USING gist (geom);";
    let lakes = Tracking::installed(tables, &format!("{tileset}[[layer]]\n{labels}"));
    let (target, fresh) = (lakes.path("t.mbtiles"), lakes.path("fresh.mbtiles"));
    let zoom = ["--zoom", "4,9"];
    lakes.oar_tiles("seed", &zoom, &target).ok();
    for change in [
        "UPDATE lake SET geom = ST_Translate(geom, 0, 0.3) WHERE id = 7; DELETE FROM lake WHERE id = 10",
        "UPDATE lake SET geom = ST_Rotate(geom, 1, ST_Centroid(geom)) WHERE id > 20",
        "UPDATE lake SET geom = ST_Segmentize(geom, 0.0005) WHERE id = 9",
        "UPDATE lake SET geom = ST_Translate(geom, 3, 3), name = 'moved' WHERE id = 9",
    ] {
        lakes.db.run(change);
        lakes.oar_tiles("reseed", &[], &target).ok();
        lakes.oar_tiles("seed", &[&zoom[..], &["--force"]].concat(), &fresh).ok();
        assert!(Archive::open(&target).tiles() == Archive::open(&fresh).tiles(), "{change}");
    }
}
