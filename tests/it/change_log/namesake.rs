//! A role with the name of the change log's schema: its tables are not taken for the log's, nor the log's for its own.

use crate::support::program::{bare_program, program, run};
use crate::support::{Archive, Db, seed};

const LAYER: &str = "[[layer]]\nname = \"state\"\ntable = \"state\"\n";

#[test]
fn a_role_with_the_name_of_the_log_draws_its_own_tables() {
    let db = Db::new();
    db.run(&format!("ALTER DATABASE {} SET search_path = \"$user\", public", db.name));
    db.run("SET search_path = public");
    db.run(
        "CREATE TABLE state (id int PRIMARY KEY, geom geometry(Point, 4326));
         INSERT INTO state SELECT n, ST_SetSRID(ST_MakePoint(n, n), 4326) FROM generate_series(1, 9) AS n",
    );
    let folder = tempfile::tempdir().unwrap();
    let (config, target) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    std::fs::write(&config, LAYER).unwrap();
    let oar_tiles = |arguments: &[&str]| {
        run(program().args(arguments).args(["--config", config.to_str().unwrap(), "--database-url", &db.url]))
    };
    let note = "the role \"oar_tiles\" has the name of the change log's schema, which so comes first on its search path: a table that it makes without naming a schema lies in the change log. Run ALTER ROLE \"oar_tiles\" SET search_path = public, or choose another schema under [changes]";
    let installed = oar_tiles(&["track", "install"]).ok();
    assert_eq!(installed.stderr.matches(note).count(), 1, "{}", installed.stderr);
    let doctor = oar_tiles(&["doctor"]);
    assert!(format!("{}{}", doctor.stdout, doctor.stderr).contains(note), "{}{}", doctor.stdout, doctor.stderr);
    seed(&db.url, &target, &["--config", config.to_str().unwrap(), "--zoom", "0-3"]).ok();
    assert!(!Archive::open(&target).tiles().is_empty());
    db.run("INSERT INTO state VALUES (100, ST_SetSRID(ST_MakePoint(100, 10), 4326))");
    run(program()
        .args(["reseed", "--progress", "none", "--database-url", &db.url, "--config"])
        .arg(&config)
        .arg("--output")
        .arg(&target))
    .ok();
    let reseeded = Archive::open(&target).tiles();
    seed(&db.url, &target, &["--config", config.to_str().unwrap(), "--zoom", "0-3"]).ok();
    assert_eq!(reseeded, Archive::open(&target).tiles());

    // A table of the user's in the log's schema is found, and those of the log are not.
    db.run("CREATE TABLE oar_tiles.lost (id int PRIMARY KEY, geom geometry(Point, 4326)); INSERT INTO oar_tiles.lost TABLE state");
    let mut init = bare_program();
    let found = run(init.args(["init", "--database-url", &db.url]).current_dir(folder.path())).ok().stdout;
    assert!(found.contains("oar_tiles.lost") && !found.contains("oar_tiles.state"), "{found}");
    run(bare_program()
        .args(["seed", "--config", "oar-tiles.toml", "--zoom", "0", "--database-url", &db.url])
        .current_dir(folder.path()))
    .ok();

    let held = oar_tiles(&["track", "remove"]);
    held.fails(
        2,
        &[
            "holds what is not of the change log: table oar_tiles.lost. Nothing was removed. Move each to another schema (ALTER TABLE oar_tiles.lost SET SCHEMA public), or drop it, and run the command again",
        ],
    );
    db.run("ALTER TABLE oar_tiles.lost SET SCHEMA public");
    oar_tiles(&["track", "remove"]).ok();
    assert!(!oar_tiles(&["doctor"]).stderr.contains("panicked"));
}
