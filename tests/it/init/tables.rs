//! Which tables `init` and `seed --table` take: by pattern, without a configuration.

use super::databases::{database, init, layers, written};
use crate::support::Archive;
use crate::support::database::Db;
use crate::support::folder::Folder;
use crate::support::program::{bare_program, program, run};

#[test]
fn the_demo_is_found() {
    let (db, folder) = (Db::with_facilities(2_000), Folder::new());
    let said = init(&db, &folder, &[]).ok().stdout;
    let found = said.lines().nth(1).unwrap().split("  ").map(str::trim).filter(|cell| !cell.is_empty());
    assert_eq!(found.take(6).collect::<Vec<_>>(), ["api_facility", "table", "location", "POINT", "4326", "2 000"]);
    assert!(said.ends_with("oar-tiles.toml: 1 layer. Next, with the same URL:\n  oar-tiles seed --database-url URL\n  oar-tiles preview\n"), "{said}");
    let text = written(&folder);
    assert!(text.contains("[layer.cluster]\n") && text.contains("on_large_tile = \"thin\"\n"), "{text}");
    let mut seed = bare_program();
    seed.args(["seed", "--config", "oar-tiles.toml", "--zoom", "0-6", "--database-url", &db.url]);
    run(seed.current_dir(folder.beside(""))).ok();
    assert_eq!(layers(&Archive::open(&folder.beside("api_facility.mbtiles"))), ["api_facility"]);
}

#[test]
fn multipoints_of_one_member_are_points_until_one_has_two() {
    let (db, folder) = (Db::new(), Folder::new());
    // As ogr2ogr and ST_Multi store points; an empty one is drawn nowhere.
    db.run(
        "CREATE TABLE stop (id int PRIMARY KEY, name text, g geometry(MultiPoint, 4326));
         INSERT INTO stop SELECT i, 'stop ' || i, ST_Multi(ST_SetSRID(ST_MakePoint(8 + i % 50 / 100.0, 47 + i / 50 / 100.0), 4326))
         FROM generate_series(1, 2000) AS i;
         INSERT INTO stop VALUES (3000, 'nowhere', 'SRID=4326;MULTIPOINT EMPTY'), (3001, NULL, NULL);
         CREATE INDEX ON stop USING gist (g)",
    );
    let kind = |said: &str| {
        said.lines()
            .nth(1)
            .unwrap()
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .nth(3)
            .unwrap()
            .to_owned()
    };
    let said = init(&db, &folder, &[]).ok().stdout;
    assert_eq!(kind(&said), "MULTIPOINT of one point each", "{said}");
    // Clusters, and the zooms of points.
    let text = written(&folder);
    assert!(text.contains("[layer.cluster]\n") && text.contains("zoom = \"0-14\"\n"), "{text}");
    let mut seed = bare_program();
    seed.args([
        "seed",
        "--config",
        "oar-tiles.toml",
        "--zoom",
        "8-10",
        "--output",
        "t.mbtiles",
        "--database-url",
        &db.url,
    ]);
    run(seed.current_dir(folder.beside(""))).ok();
    assert_eq!(layers(&Archive::open(&folder.beside("t.mbtiles"))), ["stop"]);
    // The row with two lies last, where a quick look would miss it.
    db.run("INSERT INTO stop VALUES (4000, 'two', 'SRID=4326;MULTIPOINT(8 47, 8.1 47.1)')");
    std::fs::remove_file(folder.beside("oar-tiles.toml")).unwrap();
    let said = init(&db, &folder, &[]).ok().stdout;
    assert_eq!(kind(&said), "MULTIPOINT", "{said}");
    assert!(!written(&folder).contains("[layer.cluster]"));
}

#[test]
fn patterns_choose_tables() {
    let db = database("martin");
    for (patterns, expected) in [
        (&["points1"][..], &["other_points1", "public_points1"][..]),
        (&["public.points1"], &["points1"]),
        (&["other.*", "M?xPoints"], &["MixPoints", "points1"]),
        (&["points1_*"], &["points1_mv", "points1_vw"]),
    ] {
        let folder = Folder::new();
        let output = folder.beside("a.mbtiles");
        let mut seed = bare_program();
        seed.args(["seed", "--progress", "none", "--zoom", "0-3", "--database-url", &db.url, "--output"]).arg(&output);
        for pattern in patterns {
            seed.args(["--table", pattern]);
        }
        run(&mut seed).ok();
        assert_eq!(layers(&Archive::open(&output)), expected, "{patterns:?}");
    }
}

#[test]
fn the_tables_of_seed_replace_layers_zooms_and_output_of_the_file_and_nothing_else() {
    let (db, folder) = (database("natural_earth"), Folder::new());
    let config = folder.config("[tileset]\nname = \"mine\"\ndescription = \"my tiles\"\noutput = \"mine.mbtiles\"\nbbox = [\"-30,-30,30,30\"]\n[[layer]]\nname = \"absent\"\ntable = \"absent\"\n");
    let mut seed = program();
    seed.args(["seed", "--config", &config, "--table", "ne_places", "--zoom", "0-2", "--database-url", &db.url]);
    run(seed.current_dir(folder.beside(""))).ok();
    assert!(!folder.beside("mine.mbtiles").exists());
    let archive = Archive::open(&folder.beside("ne_places.mbtiles"));
    assert_eq!(archive.metadata("description").as_deref(), Some("my tiles"));
    assert_eq!(archive.metadata("name").as_deref(), Some("ne_places"));
    assert_eq!(layers(&archive), ["ne_places"]);
}

#[test]
fn both_ways_give_the_same_tiles() {
    let (db, folder) = (database("django"), Folder::new());
    init(&db, &folder, &["--table", "*with_owner"]).ok();
    for (arguments, output) in
        [(["--config", "oar-tiles.toml"], "file.mbtiles"), (["--table", "*with_owner"], "table.mbtiles")]
    {
        let mut seed = bare_program();
        seed.args(["seed", "--zoom", "0-8", "--database-url", &db.url, "--output", output]).args(arguments);
        run(seed.current_dir(folder.beside(""))).ok();
    }
    let [file, table] = ["file.mbtiles", "table.mbtiles"].map(|name| Archive::open(&folder.beside(name)).stored());
    assert_eq!(file, table);
    assert!(!file.is_empty());
}
