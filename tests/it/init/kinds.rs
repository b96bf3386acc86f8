//! Tables whose kind changes what a run sees of them: inheritance, several reference systems, domains, row level
//! security.

use super::databases::{init, with_file, written};
use crate::support::database::Db;
use crate::support::program::{program, run};
use crate::support::{Archive, folder::Folder, seed};

#[test]
fn a_primary_key_is_not_unique_over_the_children_of_a_table() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run(
        "CREATE TABLE mill (id int PRIMARY KEY, name text, geom geometry(Point, 4326));
         CREATE TABLE mill_old () INHERITS (mill);
         INSERT INTO mill SELECT n, 'new', ST_SetSRID(ST_MakePoint(n, n), 4326) FROM generate_series(1, 9) AS n;
         INSERT INTO mill_old SELECT n, 'old', ST_SetSRID(ST_MakePoint(n, n), 4326) FROM generate_series(1, 9) AS n",
    );
    let said = init(&db, &folder, &["--table", "mill"]).ok();
    assert!(said.stdout.contains("note: \"public\".\"mill\" has no key"), "{}", said.stdout);
    std::fs::write(folder.beside("c.toml"), "[[layer]]\nname = \"mill\"\ntable = \"mill\"\n").unwrap();
    let config = folder.beside("c.toml");
    let seeded = |config: &str| seed(&db.url, &folder.beside("t.mbtiles"), &["--config", config, "--zoom", "0-3"]);
    seeded(config.to_str().unwrap())
        .fails(2, &["the key (\"id\") does not tell the rows of \"public\".\"mill\" apart: 2 rows have the key \"1\""]);
    // Where the values differ in all of them, the primary key of the parent is the key.
    db.run("UPDATE mill_old SET id = id + 1000");
    seeded(config.to_str().unwrap()).ok();
}

#[test]
fn coordinates_of_several_systems_have_no_box_in_common() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run(
        "CREATE TABLE one (id int PRIMARY KEY, geom geometry(Point, 4326));
         INSERT INTO one VALUES (1, ST_SetSRID(ST_MakePoint(1, 2), 4326)), (2, ST_SetSRID(ST_MakePoint(3, 4), 4326));
         CREATE TABLE two (id int PRIMARY KEY, geom geometry);
         INSERT INTO two VALUES (1, ST_SetSRID(ST_MakePoint(1, 2), 4326)), (2, ST_SetSRID(ST_MakePoint(2e6, 3e6), 3857))",
    );
    let said = init(&db, &folder, &[]).ok().stdout;
    let line = |table: &str| said.lines().find(|line| line.starts_with(table)).unwrap_or_else(|| panic!("{said}"));
    assert!(line("one ").contains("1.00,2.00,3.00,4.00"), "{said}");
    assert!(line("two ").contains("3857, 4326") && !line("two ").contains(".00,"), "{said}");
}

#[test]
fn a_domain_over_geometry_is_drawn_as_geometry_is() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run(
        "CREATE DOMAIN place AS geometry(Point, 4326) CHECK (ST_X(VALUE) < 170);
         CREATE TABLE plain (id int PRIMARY KEY, geom geometry(Point, 4326));
         INSERT INTO plain SELECT n, ST_SetSRID(ST_MakePoint(n, n), 4326) FROM generate_series(1, 60) AS n;
         CREATE TABLE sites (id int PRIMARY KEY, geom place); INSERT INTO sites TABLE plain; CREATE INDEX ON sites USING gist (geom)",
    );
    let said = init(&db, &folder, &["--table", "sites"]).ok().stdout;
    assert!(said.contains("sites") && said.contains("POINT") && said.contains("4326"), "{said}");
    with_file(&db, &folder, &["seed", "--zoom", "0-3", "--progress", "none"]).ok();
    assert!(written(&folder).contains("table = \"sites\""), "{}", written(&folder));
    let tiles = |rows: &str| {
        let (config, target) = (folder.beside("c.toml"), folder.beside("t.mbtiles"));
        std::fs::write(&config, format!("[tileset]\nname = \"{}\"\n[[layer]]\nname = \"sites\"\n{rows}\n", rows.len()))
            .unwrap();
        drop(std::fs::remove_file(&target));
        seed(&db.url, &target, &["--config", config.to_str().unwrap(), "--zoom", "0-6"]).ok();
        Archive::open(&target).tiles()
    };
    let expected = tiles("table = \"plain\"");
    assert!(!expected.is_empty());
    assert_eq!(tiles("table = \"sites\""), expected);
    assert_eq!(tiles("sql = \"SELECT id, geom FROM sites\"\nkey = [\"id\"]"), expected);
    std::fs::write(folder.beside("c.toml"), "[[layer]]\nname = \"sites\"\ntable = \"sites\"\n").unwrap();
    run(program().args(["track", "install", "--database-url", &db.url, "--config"]).arg(folder.beside("c.toml")))
        .fails(2, &["\"geom\" of \"public\".\"sites\" is of the domain ", ", whose changes no trigger logs"]);
}

#[test]
fn rows_that_policies_may_hide_are_named() {
    let (db, folder) = (Db::new(), Folder::new());
    let role = format!("{}_reader", db.name);
    db.run(&format!(
        "CREATE TABLE mill (id int PRIMARY KEY, geom geometry(Point, 4326)); CREATE INDEX ON mill USING gist (geom);
         INSERT INTO mill SELECT n, ST_SetSRID(ST_MakePoint(n, n), 4326) FROM generate_series(1, 20) AS n;
         ALTER TABLE mill ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON mill FOR SELECT USING (id <= 10);
         CREATE ROLE {role} LOGIN; GRANT SELECT ON mill TO {role}"
    ));
    let url = db.url.replacen("oar_tiles@", &format!("{role}@"), 1);
    let config = folder.beside("c.toml");
    std::fs::write(
        &config,
        "[[layer]]\nname = \"mill\"\ntable = \"mill\"\n[[layer]]\nname = \"again\"\ntable = \"mill\"\n",
    )
    .unwrap();
    let warning = format!(
        "row level security: policies decide which rows of public.mill the role \"{role}\" sees, and only these are drawn. For all rows, connect as a role with BYPASSRLS, or run CREATE POLICY oar_tiles ON public.mill FOR SELECT TO \"{role}\" USING (true) as its owner"
    );
    let all = || {
        drop(std::fs::remove_file(folder.beside("oar-tiles.toml")));
        let seeded =
            seed(&url, &folder.beside("t.mbtiles"), &["--config", config.to_str().unwrap(), "--zoom", "0-3"]).ok();
        let doctor = run(program().args(["doctor", "--database-url", &url, "--config"]).arg(&config));
        let mut init = crate::support::program::bare_program();
        let init = run(init.args(["init", "--database-url", &url]).current_dir(folder.beside("")));
        [seeded, doctor, init].map(|one| format!("{}{}", one.stdout, one.stderr))
    };
    for said in all() {
        assert_eq!(said.matches(&warning).count(), 1, "{said}");
    }
    db.run(&format!("CREATE POLICY oar_tiles ON public.mill FOR SELECT TO \"{role}\" USING (true)"));
    for said in all() {
        assert!(!said.contains("row level security"), "{said}");
    }
    db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}
