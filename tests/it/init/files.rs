//! The file that `init` writes: never over another, and readable by people.

use super::databases::{database, init, written};
use crate::support::database::Db;
use crate::support::folder::Folder;
use crate::support::program::{bare_program, run};
use crate::texts::init::{compare_said, compare_written};

#[test]
fn no_file_is_ever_overwritten() {
    let (db, folder) = (database("natural_earth"), Folder::new());
    std::fs::write(folder.beside("mine.toml"), "mine").unwrap();
    std::os::unix::fs::symlink("nowhere", folder.beside("link.toml")).unwrap();
    for name in ["mine.toml", "link.toml"] {
        init(&db, &folder, &["--output", name]).fails(
            2,
            &[&format!("error: {name} is there already, and init overwrites nothing: name another file with --output, or move this one away")],
        );
    }
    assert_eq!(std::fs::read_to_string(folder.beside("mine.toml")).unwrap(), "mine");
    assert!(!folder.beside("nowhere").exists());
    init(&db, &folder, &["--output", "no/folder.toml"]).fails(
        2,
        &["error: cannot write no/folder.toml: name another file with --output\n  cause: No such file or directory"],
    );
    init(&db, &folder, &["-o", "other.toml", "--table", "ne_mixed"]).ok();
    assert!(folder.beside("other.toml").exists());
}

#[test]
fn the_file_and_what_is_said_of_it() {
    let (db, folder) = (database("martin"), Folder::new());
    let said =
        init(&db, &folder, &["--table", "no_key", "--table", "points1_*", "--table", "unknown_system"]).ok().stdout;
    compare_said(&said.replace(&db.name, "DATABASE"));
    compare_written(&written(&folder).replace(&db.name, "DATABASE"));
}

/// As they stand there, in a shell in which `init` found its database.
#[test]
fn the_commands_to_go_on_with_run() {
    let (db, folder) = (Db::with_facilities(20), Folder::new());
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_oar-tiles")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let shell = |line: &str| {
        let mut shell = std::process::Command::new("bash");
        shell.args(["-ec", line]).current_dir(folder.beside("")).env("PATH", &path).env("DATABASE_URL", &db.url);
        run(&mut shell).ok().stdout
    };
    let said = shell("oar-tiles init --output \"it's my map.toml\"");
    let (_, next) = said.split_once("it's my map.toml: 1 layer. Next:\n").unwrap_or_else(|| panic!("{said}"));
    shell(&format!("{} --zoom 0-2", next.lines().next().unwrap()));
    assert_eq!(next.lines().nth(1), Some("  oar-tiles preview api_facility.mbtiles"));
    assert!(folder.beside("api_facility.mbtiles").is_file());
}

#[test]
fn commands_in_messages_have_the_configuration_of_the_run() {
    let (db, folder) = (database("django"), Folder::new());
    let config = folder.beside("my map.toml");
    let mut init = bare_program();
    run(init.args(["init", "--table", "*_place*", "--database-url", &db.url, "--output"]).arg(&config)).ok();
    let said = |arguments: &[&str]| {
        let mut command = bare_program();
        command.args(arguments).args(["--database-url", &db.url, "--output"]).arg(folder.beside("t.mbtiles"));
        run(command.arg("--config").arg(&config)).stderr
    };
    said(&["seed", "--zoom", "0-3"]);
    let config = config.display();
    let next = format!("Run oar-tiles track install --config '{config}', then oar-tiles seed --config '{config}' once");
    let told = said(&["reseed", "--zoom", "0-3"]);
    assert!(told.contains(&next), "{told}");
}

#[test]
fn polygons_are_written_before_lines_and_lines_before_points() {
    let (db, folder) = (Db::new(), Folder::new());
    for (name, kind, value) in [
        ("a", "Point", "POINT(1 1)"),
        ("b", "Geometry", "LINESTRING(1 1, 2 2)"),
        ("c", "MultiPolygon", "MULTIPOLYGON(((0 0, 1 0, 1 1, 0 0)))"),
        ("d", "Point", "POINT(2 2)"),
        ("e", "Polygon", "POLYGON((0 0, 1 0, 1 1, 0 0))"),
    ] {
        db.run(&format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, geom geometry({kind}, 4326)); INSERT INTO {name} VALUES (1, 'SRID=4326;{value}')"
        ));
    }
    init(&db, &folder, &[]).ok();
    let text = written(&folder);
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("table = ")).collect();
    assert_eq!(names, ["\"c\"", "\"e\"", "\"b\"", "\"a\"", "\"d\""]);
}
