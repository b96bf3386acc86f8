//! `./oar-tiles.toml`: read where no configuration is named, refused where somebody else may have written it, and the
//! target that it names.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::Db;
use crate::support::folder::Folder;
use crate::support::program::{ROWS_LAYER, bare_program, run};

const FILE: &str = "oar-tiles.toml";

/// The program in a folder, without a configuration by flag or variable.
fn within(folder: &Folder, words: &[&str]) -> Command {
    let mut command = bare_program();
    command.args(words).current_dir(folder.beside(""));
    command
}

/// A folder with the file, which draws every facility of a database.
fn with_the_file(db: &Db) -> Folder {
    let folder = Folder::new();
    let text =
        format!("[database]\nurl = \"{}\"\n[tileset]\nzoom = \"0-2\"\noutput = \"own.mbtiles\"\n{ROWS_LAYER}", db.url);
    fs::write(folder.beside(FILE), text).unwrap();
    mode(&folder.beside(FILE), 0o644);
    folder
}

/// A configuration without a database.
fn sound() -> String {
    format!("[tileset]\noutput = \"own.mbtiles\"\n{ROWS_LAYER}")
}

fn mode(file: &Path, mode: u32) {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn from_a_database_to_a_target_without_an_argument() {
    let db = Db::with_facilities(50);
    let folder = with_the_file(&db);
    let seeded = run(&mut within(&folder, &["seed"])).ok();
    assert!(seeded.stderr.starts_with("configuration: oar-tiles.toml\n"), "{}", seeded.stderr);
    assert_eq!(seeded.stderr.matches("configuration:").count(), 1, "{}", seeded.stderr);
    assert!(seeded.stdout.ends_with(": own.mbtiles\n"), "{}", seeded.stdout);
    // cron sends what is said to somebody.
    assert_eq!(run(&mut within(&folder, &["seed", "--quiet"])).ok().stderr, "");
    for words in [&["verify"][..], &["verify", "--database"], &["inspect"], &["config", "--check"]] {
        run(&mut within(&folder, words)).ok();
    }
    // The only target is compared with that of the file.
    run(&mut within(&folder, &["copy", "own.mbtiles", "other.pmtiles"])).ok();
    run(&mut within(&folder, &["diff", "other.pmtiles"])).ok();
    db.run("DELETE FROM api_facility");
    run(&mut within(&folder, &["seed", "--allow-shrink"])).ok();
    run(&mut within(&folder, &["diff", "other.pmtiles"])).fails(1, &["configuration: oar-tiles.toml"]);
    // A target that is an argument needs no configuration.
    let verified = run(&mut within(&folder, &["verify", "other.pmtiles"])).ok();
    assert!(!verified.stderr.contains("configuration:"), "{}", verified.stderr);
}

#[test]
fn flag_and_variable_go_before_and_a_flag_turns_it_off() {
    let folder = Folder::new();
    fs::write(folder.beside(FILE), "broken").unwrap();
    mode(&folder.beside(FILE), 0o644);
    fs::write(folder.beside("good.toml"), sound()).unwrap();
    run(&mut within(&folder, &["config", "--check"])).fails(2, &["oar-tiles.toml, line 1"]);
    run(&mut within(&folder, &["config", "--check", "--config", "good.toml"])).ok();
    run(within(&folder, &["config", "--check"]).env("OAR_TILES_CONFIG", "good.toml")).ok();
    run(&mut within(&folder, &["config", "--check", "--no-config"])).ok();
    let whole = "error: no configuration says what to draw: ";
    run(&mut within(&folder, &["seed", "--no-config"])).fails(2, &[whole]);
    // A server draws, too, whatever tells it to.
    run(&mut within(&folder, &["serve", "--no-config", "--writer"])).fails(2, &[whole]);
    run(within(&folder, &["serve", "a.mbtiles", "--no-config"]).env("OAR_TILES_LIVE", "true")).fails(2, &[whole]);
}

#[test]
fn a_file_of_somebody_else_is_not_read() {
    let folder = Folder::new();
    let file = folder.beside(FILE);
    fs::write(&file, sound()).unwrap();
    let refused = |cause: &str| {
        let whole = format!(
            "error: ./oar-tiles.toml is not read: {cause}. A configuration can run programs and name credentials: if you trust this one, name it with --config oar-tiles.toml; else give --no-config\n"
        );
        run(&mut within(&folder, &["seed"])).fails(2, &[&whole]);
        run(&mut within(&folder, &["config", "--check", "--config", FILE])).ok();
        run(&mut within(&folder, &["config", "--check", "--no-config"])).ok();
    };
    mode(&file, 0o646);
    refused("others may write it (chmod go-w oar-tiles.toml)");
    mode(&file, 0o644);
    run(&mut within(&folder, &["config", "--check"])).ok();
    fs::write(folder.beside("metadata.json"), "{}").unwrap();
    refused("this folder is a target (it holds metadata.json)");
    fs::remove_file(folder.beside("metadata.json")).unwrap();
    // Only root may give a file away.
    if chown(&file, Some(12_345), None).is_ok() {
        refused("it belongs to the user with the number 12345, not to you or root");
        chown(&file, Some(0), Some(12_345)).unwrap();
        mode(&file, 0o664);
        refused("others may write it (chmod go-w oar-tiles.toml)");
        mode(&file, 0o644);
    }
    fs::rename(&file, folder.beside("real.toml")).unwrap();
    symlink("real.toml", &file).unwrap();
    refused("it is no file, but a link or something else");
}

#[test]
fn what_people_write_otherwise_is_named_with_its_line() {
    let folder = Folder::new();
    for (text, says) in [
        (
            "[layer]\nname = \"a\"\n",
            "line 1: [layer] is one of a list: write [[layer]], with two brackets on each side",
        ),
        ("[purge]\nprovider = \"nginx\"\n", "line 1: [purge] is one of a list: write [[purge]]"),
        ("[tileset]\nzoom = 5-9\n", "line 2: a list of zooms stands in quotes: zoom = \"5-9\""),
        ("[tileset]\nzoom = 5,9 # two\n", "line 2: a list of zooms stands in quotes: zoom = \"5,9\""),
    ] {
        fs::write(folder.beside("c.toml"), text).unwrap();
        run(&mut within(&folder, &["config", "--check", "--config", "c.toml"])).fails(2, &[says]);
    }
    run(&mut within(&folder, &["seed", "--table", "a", "--database-url", "gis"])).fails(
        2,
        &["the database URL cannot be read (it is one word): for a database of that name write postgresql://user@host:5432/NAME"],
    );
}

#[test]
fn a_database_that_nobody_has_named_is_not_called_unreachable() {
    // Where a server listens on the default socket, it answers.
    let sockets = ["/var/run/postgresql/.s.PGSQL.5432", "/run/postgresql/.s.PGSQL.5432"];
    if sockets.iter().any(|socket| Path::new(socket).exists()) || TcpStream::connect("127.0.0.1:5432").is_ok() {
        println!("skipped: a PostgreSQL of this machine listens at the default address");
        return;
    }
    let folder = Folder::new();
    let whole = "error: no database is named: give --database-url postgresql://USER@HOST/NAME, or set DATABASE_URL, or PGHOST and PGDATABASE (the default, ";
    run(&mut within(&folder, &["init"])).fails(1, &[whole]);
}

#[test]
fn what_has_no_target_says_how_to_name_one() {
    let folder = Folder::new();
    for (words, called) in [
        (&["verify"][..], "verify needs a target: oar-tiles verify TARGET"),
        (&["inspect"], "inspect needs a target: oar-tiles inspect TARGET"),
        (&["preview"], "preview needs a target: oar-tiles preview TARGET"),
        (&["diff", "a.mbtiles"], "diff needs a target: oar-tiles diff A B"),
    ] {
        let whole =
            format!("error: {called}; or a configuration that names one, in ./oar-tiles.toml or with --config FILE\n");
        run(&mut within(&folder, words)).fails(2, &[&whole]);
    }
    let two = "[[tileset]]\nname = \"a\"\noutput = \"a.mbtiles\"\n[[tileset]]\nname = \"b\"\noutput = \"b.mbtiles\"\n";
    fs::write(folder.beside(FILE), format!("{two}{ROWS_LAYER}")).unwrap();
    mode(&folder.beside(FILE), 0o644);
    for verb in ["verify", "inspect", "preview"] {
        let whole = format!(
            "error: {verb} is for one tileset, and this configuration has several: choose it with --tileset (a, b)\n"
        );
        run(&mut within(&folder, &[verb])).fails(2, &[&whole]);
    }
}
