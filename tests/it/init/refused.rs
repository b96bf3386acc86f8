//! Databases in which nothing can be drawn, and the sample's layer in a database that is not the sample's.

use super::databases::{database, init};
use crate::support::database::Db;
use crate::support::folder::Folder;
use crate::support::program::{bare_program, run};

#[test]
fn a_database_without_geometries_is_named() {
    let (db, folder) = (Db::new(), Folder::new());
    let seed =
        || run(bare_program().args(["seed", "--table", "*", "--database-url", &db.url]).current_dir(folder.beside("")));
    let none = "has a column of type geometry or geography. Is it the right database? ogr2ogr and shp2pgsql load files into it";
    init(&db, &folder, &[]).fails(2, &["error: no table or view in ", none]);
    seed().fails(2, &[none]);
    db.run("CREATE TABLE public.places (id int PRIMARY KEY, geom geometry); INSERT INTO public.places VALUES (1, ST_MakePoint(500000, 1))");
    init(&db, &folder, &["--table", "x*", "--table", "y"])
        .fails(2, &["error: no table or view with a geometry in ", "is called \"x*\" or \"y\": there is places"]);
    let nothing = "error: nothing of what was found can be drawn (1 looked at): mend what stands above, and run the command again";
    init(&db, &folder, &[]).fails(2, &[nothing]);
    seed().fails(2, &["not drawn: geom of places: its geometries have SRID 0", nothing]);
    assert!(!folder.beside("oar-tiles.toml").exists());
    init(&Db::empty(), &folder, &[]).fails(2, &["has no PostGIS"]);
}

#[test]
fn what_the_role_may_not_read_is_named_with_the_grant() {
    let (db, folder) = (database("natural_earth"), Folder::new());
    let role = format!("{}_reader", db.name);
    db.run(&format!(
        "CREATE ROLE {role} LOGIN; GRANT SELECT (gid, geom) ON ne_places TO {role}; GRANT SELECT ON ne_rivers TO {role};
         CREATE SCHEMA hidden; CREATE TABLE hidden.t (id int PRIMARY KEY, geom geometry(Point, 4326))"
    ));
    let url = db.url.replacen("oar_tiles@", &format!("{role}@"), 1);
    let mut command = bare_program();
    command.args(["init", "--database-url", &url]).current_dir(folder.beside(""));
    let said = run(&mut command).ok().stdout;
    let mut seed = bare_program();
    seed.args(["seed", "--config", "oar-tiles.toml", "--zoom", "0-2", "--database-url", &url])
        .current_dir(folder.beside(""));
    let seeded = run(&mut seed);
    db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    for line in [
        format!(
            "not drawn: wkb_geometry of ne_countries: the role may not read it: GRANT SELECT ON \"public\".\"ne_countries\" TO \"{role}\";"
        ),
        format!(
            "not drawn: geom of hidden.t: the role may not use the schema \"hidden\": GRANT USAGE ON SCHEMA \"hidden\" TO \"{role}\"; GRANT SELECT ON \"hidden\".\"t\" TO \"{role}\";"
        ),
        "no, no right to read".to_owned(),
    ] {
        assert!(said.contains(&line), "{line}: {said}");
    }
    seeded.ok();
    let text = super::databases::written(&folder);
    assert!(text.contains("name (text, the role may not read it)"), "{text}");
}

#[test]
fn nothing_is_drawn_that_nobody_has_asked_for() {
    let (db, folder) = (database("natural_earth"), Folder::new());
    let expected = "error: no configuration says what to draw: oar-tiles init --database-url URL writes one for the tables that it finds, as oar-tiles.toml, which is read from the working directory; --config FILE names another, and oar-tiles seed --table NAME needs none";
    for verb in [&["seed"][..], &["seed", "--dry-run"], &["reseed"], &["track", "install"]] {
        let mut command = bare_program();
        command.args(verb).args(["--database-url", &db.url]).current_dir(folder.beside(""));
        run(&mut command).fails(2, &[expected]);
    }
    // A file without layers draws nothing either.
    std::fs::write(folder.beside("empty.toml"), "[tileset]\noutput = \"a.mbtiles\"\n").unwrap();
    let mut empty = bare_program();
    empty.args(["seed", "--config", "empty.toml", "--database-url", &db.url]).current_dir(folder.beside(""));
    run(&mut empty).fails(2, &["has no [[layer]], so there is nothing to draw: add [[layer]] with name and table"]);
    // A table that somebody has named is an error of its own.
    let config = folder
        .config("[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\n[tileset]\noutput = \"a.mbtiles\"\n");
    let mut named = bare_program();
    named.args(["seed", "--config", &config, "--database-url", &db.url]).current_dir(folder.beside(""));
    run(&mut named).fails(2, &["has no table or view \"api_facility\". Set table (and schema) of the layer"]);
}
