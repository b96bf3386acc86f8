//! Changes of rows beyond ±180°: after a reseed the tiles are those of a fresh seed.

use crate::support::Db;
use crate::support::tracked::Tracked;

/// Tables that have no row beyond the edge yet.
const TABLES: &str = "
    CREATE TABLE points AS SELECT i AS id, 'n' || i AS name, ST_SetSRID(ST_MakePoint(-180 + (i * 7919 % 360001) / 1e3, (i * 7907 % 160001) / 1e3 - 80), 4326)::geometry(Point, 4326) AS g FROM generate_series(1, 700) AS i;
    CREATE TABLE metres AS SELECT id, name, ST_Transform(g, 3857)::geometry(Point, 3857) AS g FROM points;
    CREATE TABLE shapes AS SELECT id, name, ST_Buffer(g, 0.4, 2)::geometry(Geometry, 4326) AS g FROM points WHERE abs(ST_X(g)) < 179;
    CREATE TABLE shapes_3857 AS SELECT id, name, ST_Transform(g, 3857) AS g FROM shapes;
    CREATE TABLE nad83 AS SELECT id, name, ST_SetSRID(g, 4269)::geometry(Geometry, 4269) AS g FROM shapes WHERE id < 300;
    DO $$ DECLARE t text; BEGIN FOREACH t IN ARRAY ARRAY['points', 'metres', 'shapes', 'shapes_3857', 'nad83'] LOOP
        EXECUTE format('ALTER TABLE %1$s ADD PRIMARY KEY (id); CREATE INDEX ON %1$s USING gist (g)', t);
    END LOOP; END $$;";

const LAYERS: &str = "
[[layer]]
name = \"points\"
table = \"points\"
[[layer]]
name = \"metres\"
table = \"metres\"
properties = [\"id\"]
[[layer]]
name = \"shapes\"
table = \"shapes\"
[[layer]]
name = \"shapes_3857\"
table = \"shapes_3857\"
[[layer]]
name = \"nad83\"
table = \"nad83\"
[[layer]]
name = \"cells\"
table = \"points\"
[layer.aggregate]
cell = \"hexagon\"
size = \"1/8\"
draw = \"centroid\"
properties = { n = \"count(*)\" }
[[layer]]
name = \"clusters\"
table = \"metres\"
properties = [\"id\"]
[layer.cluster]
size = \"1/64\"
merge = true
[[layer]]
name = \"shape cells\"
table = \"shapes\"
[layer.aggregate]
cell = \"square\"
size = \"1/8\"
properties = { n = \"count(*)\" }
";

/// What happens, round by round. The world is as wide in degrees as the number says, or in metres.
const ROUNDS: [&str; 6] = [
    // The first rows beyond the edge, few and then many.
    "UPDATE points SET g = ST_Translate(g, 360, 0) WHERE id = 7; UPDATE metres SET g = ST_Translate(g, -40075016.685578488, 0) WHERE id = 8;
     UPDATE shapes SET g = 'SRID=4326;POLYGON((179.5 -17, 180.5 -17, 180.5 -16, 179.5 -16, 179.5 -17))' WHERE id = 9;
     UPDATE shapes_3857 SET g = ST_Translate(g, 20037508.342789244 - ST_X(ST_Centroid(g)), 0) WHERE id = 10;
     UPDATE nad83 SET g = ST_Translate(g, -180 - ST_X(ST_Centroid(g)), 0) WHERE id = 11;
     -- Points at the edge itself stay where they are, and those of the same row beyond it are shifted.
     UPDATE shapes SET g = 'SRID=4326;MULTIPOINT(180 -84, 180.18 -84)' WHERE id = 12; UPDATE shapes SET g = 'SRID=4326;MULTIPOINT(-180 84, -180.2 84)' WHERE id = 14;
     UPDATE shapes_3857 SET g = 'SRID=3857;MULTIPOINT(20037508.342789244 -18807214.1, 20057508.342789244 -18807214.1)' WHERE id = 12",
    "UPDATE points SET g = ST_Translate(g, CASE WHEN id % 2 = 0 THEN 359.999 ELSE -360.001 END, 0.001) WHERE id % 9 = 0;
     UPDATE metres SET g = ST_Translate(g, 40075016.685578488, 30) WHERE id % 11 = 0;
     UPDATE shapes SET g = ST_Translate(g, 360, 0) WHERE id % 13 = 0;
     UPDATE shapes SET g = ST_Translate(g, 180 - ST_X(ST_Centroid(g)), 0) WHERE id % 17 = 0",
    // They show something else, move among themselves, and some come back.
    "UPDATE points SET name = name || '+' WHERE id % 18 = 0; UPDATE shapes SET name = 'other' WHERE id % 26 = 0;
     UPDATE points SET g = ST_Translate(g, -ST_X(g) + 179.99 + id % 21 / 1e3, 0) WHERE id % 27 = 0;
     UPDATE shapes_3857 SET g = ST_Translate(g, -40075016.685578488, 0) WHERE id % 19 = 0;
     UPDATE nad83 SET g = ST_Translate(g, 179.9 - ST_X(ST_Centroid(g)), 0) WHERE id % 23 = 0",
    "UPDATE points SET g = ST_WrapX(ST_WrapX(g, 180, -360), -180, 360) WHERE id % 4 = 1; UPDATE metres SET g = ST_Translate(g, -40075016.685578488, 0) WHERE id % 22 = 0;
     INSERT INTO points SELECT id + 5000, 'new', ST_Translate(g, 0.0001, 0) FROM points WHERE abs(ST_X(g)) > 179.9; INSERT INTO points VALUES (9000, 'far', 'SRID=4326;POINT(541 3)')",
    // Out of the world and around it.
    "UPDATE shapes SET g = 'SRID=4326;POLYGON((-190 1, 190 1, 190 1.02, -190 1.02, -190 1))' WHERE id = 9; UPDATE points SET g = 'SRID=4326;POINT(900 3)' WHERE id = 7;
     DELETE FROM metres WHERE id % 11 = 0",
    // None is left.
    "DELETE FROM points WHERE abs(ST_X(g)) > 180; DELETE FROM metres WHERE abs(ST_X(g)) > 20037508.35; DELETE FROM shapes WHERE ST_XMax(g) > 180 OR ST_XMin(g) < -180;
     DELETE FROM shapes_3857 WHERE ST_XMax(g) > 20037508.35 OR ST_XMin(g) < -20037508.35; DELETE FROM nad83 WHERE ST_XMax(g) > 180 OR ST_XMin(g) < -180",
];

#[test]
fn a_reseed_of_rows_beyond_the_edge_is_what_a_seed_gives() {
    for beyond in ["wrap", "clip", "skip"] {
        let rounds = if beyond == "wrap" { &ROUNDS[..] } else { &ROUNDS[..2] };
        let db = Db::new();
        db.run(TABLES);
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("c.toml");
        std::fs::write(
            &config,
            format!("[tileset]\nzoom = \"0-3,8\"\n[layer_defaults]\nbeyond = \"{beyond}\"\n{LAYERS}"),
        )
        .unwrap();
        let config = ["--config", config.to_str().unwrap()];
        let tracked = Tracked { db, folder };
        tracked.oar_tiles(&[&["track", "install"][..], &config].concat()).ok();
        let target = tracked.seed("t.mbtiles", &config);
        for (round, changes) in rounds.iter().enumerate() {
            tracked.db.run(changes);
            let done = tracked.reseed(&target, &[&config[..], &["-vv"]].concat()).ok();
            assert!(!done.stderr.contains("please report"), "{}", done.stderr);
            assert!(round > 3 || !done.stderr.contains("rendering every tile"), "{beyond}, round {round}");
            tracked.is_fresh(&target, &config);
        }
    }
}

#[test]
fn a_change_beyond_the_edge_dirties_the_tiles_on_both_sides_and_no_others() {
    let db = Db::new();
    db.run(TABLES);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, "[tileset]\nzoom = \"10\"\n[[layer]]\nname = \"shapes\"\ntable = \"shapes\"").unwrap();
    let config = ["--config", config.to_str().unwrap()];
    let tracked = Tracked { db, folder };
    tracked.oar_tiles(&[&["track", "install"][..], &config].concat()).ok();
    let target = tracked.seed("t.mbtiles", &config);
    tracked.db.run(
        "INSERT INTO shapes VALUES (9001, 'new', 'SRID=4326;POLYGON((179.9 -17, 180.1 -17, 180.1 -16.9, 179.9 -17))')",
    );
    let list = tracked.path("dirty.txt");
    tracked.reseed(&target, &[&config[..], &["--dirty-out", list.to_str().unwrap()]].concat()).ok();
    let columns: Vec<u32> = crate::support::tracked::listed(&list).iter().map(|(_, x, _)| *x).collect();
    assert!(columns.len() <= 8 && columns.contains(&0) && columns.contains(&1023), "{columns:?}");
    tracked.is_fresh(&target, &config);
    // Gone again: where it was is known from the log alone.
    tracked.db.run("DELETE FROM shapes WHERE id = 9001");
    tracked.reseed(&target, &config).ok();
    tracked.is_fresh(&target, &config);
}
