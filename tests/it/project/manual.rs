//! The commands of README and manual run, their configuration is valid, their files and links exist.

use std::process::Command;

use oar_tiles::target::TARGET_FORMS;

use super::examples::is_known;
use crate::support::manual;
use crate::support::program::run;
use crate::support::served::{Served, status};
use crate::support::{Db, repository};

#[test]
fn every_command_of_the_manual_runs() {
    let db = Db::with_facilities(500);
    let folder = tempfile::tempdir().unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_oar-tiles")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    // The two commands, the benchmark and this very test are run by scripts/test; see there.
    let by_the_test_script = std::fs::read_to_string(repository("scripts/test")).unwrap();
    let (mut seen, mut served) = (0, Vec::new());
    for line in manual::blocks("sh").iter().flat_map(|block| block.lines()) {
        seen += 1;
        let command = line.split('#').next().unwrap().trim();
        if ["serve", "preview"].iter().any(|verb| command.split_whitespace().nth(1) == Some(verb)) {
            served.push(command.to_owned());
        } else if command.starts_with("oar-tiles ") {
            if command == "oar-tiles init" {
                // README and manual each begin in an empty folder, and init overwrites nothing.
                drop(std::fs::remove_file(folder.path().join("oar-tiles.toml")));
            }
            let mut shell = Command::new("bash");
            shell.args(["-ec", command]).current_dir(folder.path()).env("PATH", &path).env("DATABASE_URL", &db.url);
            run(&mut shell).ok();
        } else if command != "scripts/test" {
            let script = command.split(' ').next().unwrap();
            assert!(by_the_test_script.contains(script), "nobody runs «{command}»");
            assert!(repository(script).is_file(), "{script}");
        }
    }
    assert!(seen >= 6, "{seen}");
    // What goes on until it is ended, with ports of its own.
    for command in served {
        let mut given: Vec<&str> = command.split_whitespace().skip(1).collect();
        for part in &mut given {
            if part.starts_with("127.0.0.1:") {
                *part = "127.0.0.1:0";
            }
        }
        let mut command_line = crate::support::program::bare_program();
        command_line.args(given).current_dir(folder.path()).env("DATABASE_URL", &db.url);
        let running = Served::of(&mut command_line);
        assert_eq!(status(&running.get("/tiles.json", "")), 200, "{command}");
    }
    assert!(folder.path().join("api_facility.mbtiles").is_file() && folder.path().join("part.mbtiles").is_file());
}

/// Commands that are shown and not run, because they go on, or need a bucket or an account: the program takes their
/// verbs, flags and values.
#[test]
fn every_command_that_the_manual_shows_is_known() {
    let blocks = [manual::blocks("console"), manual::blocks("text"), manual::blocks("ini")].concat();
    let shown = blocks.iter().flat_map(|block| block.lines()).filter_map(|line| {
        let line = line.trim_start_matches("$ ").trim_start_matches("ExecStart=/usr/local/bin/");
        Some(line.strip_prefix("oar-tiles ")?.split(" #").next().unwrap().trim_end_matches(" &"))
    });
    let shown: Vec<&str> = shown.collect();
    assert!(shown.len() > 20, "{shown:?}");
    shown.into_iter().for_each(is_known);
}

#[test]
fn every_configuration_of_the_manual_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let examples = manual::blocks("toml");
    assert!(!examples.is_empty());
    for (number, example) in examples.iter().enumerate() {
        let file = folder.path().join(format!("{number}.toml"));
        std::fs::write(&file, example).unwrap();
        let shown = run(crate::support::program::program().args(["config", "--config"]).arg(&file)).ok();
        assert!(shown.stdout.contains(file.to_str().unwrap()), "{}", shown.stdout);
    }
}

#[test]
fn the_manual_names_files_that_exist() {
    for word in manual::text().split(['`', '(', ')', ' ', '\n', '|', ',']) {
        if ["tests/", "src/", "scripts/", "benches/"].iter().any(|folder| word.starts_with(folder)) {
            let path = word.trim_end_matches([':', '.', ';']);
            assert!(repository(path).exists(), "{path}");
        }
    }
}

/// Where the sample and the manual list the forms of targets, they list all.
/// The tables of what goes with what name the test of each combination by its path.
#[test]
fn the_tests_that_hold_combinations_exist() {
    let limits = std::fs::read_to_string(repository("docs/limits.md")).unwrap();
    let names = limits.lines().filter(|line| line.starts_with('|')).flat_map(|line| line.split('`').skip(1).step_by(2));
    let paths: Vec<String> = names.filter(|name| name.contains("::")).map(|name| name.replace("::", "/")).collect();
    assert!(paths.len() > 60, "{}", paths.len());
    for path in paths {
        assert!(repository(&format!("tests/it/{path}.rs")).is_file(), "docs/limits.md: tests/it/{path}.rs");
    }
}

#[test]
fn what_lists_the_forms_of_targets_lists_all() {
    // An example may begin with a name of its own, such as facilities.mbtiles.
    let forms = TARGET_FORMS.split(", ").flat_map(|part| part.split(" or "));
    let forms: Vec<&str> = forms.map(|form| form.trim_start_matches("a ").trim_start_matches("file")).collect();
    let sample = std::fs::read_to_string(repository("sample-config.toml")).unwrap();
    let text = format!("{sample}\n{}", manual::text());
    let lists: Vec<&str> =
        text.lines().filter(|line| line.contains("file.pmtiles") && line.contains("directory/")).collect();
    assert!(lists.len() >= 3, "{lists:?}");
    for list in lists {
        let missing: Vec<&&str> = forms.iter().filter(|form| !list.contains(**form)).collect();
        assert!(missing.is_empty(), "{missing:?} missing in: {list}");
    }
}

#[test]
fn the_readme_is_a_door_and_the_generated_pages_are_up_to_date() {
    let readme = std::fs::metadata(repository("README.md")).unwrap().len();
    assert!(readme <= 8192, "README.md has {readme} bytes");
    run(Command::new(repository("scripts/docs")).arg("--check")).ok();
}

/// The files are named as the manual lists them, and the page stays a door.
#[test]
fn readme_is_ready_for_the_address_of_the_first_release() {
    let address = "https://github.com/someone/oar-tiles";
    let said = run(Command::new(repository("scripts/docs")).args(["--get-it", address])).ok().stdout;
    let (version, text) = (env!("CARGO_PKG_VERSION"), manual::text());
    for file in ["oar-tiles-VERSION-x86_64-unknown-linux-musl.tar.gz", "oar-tiles_VERSION-1_amd64.deb"] {
        assert!(text.contains(&format!("| `{file}` |")), "{file}");
        let url = format!("{address}/releases/download/v{version}/{}", file.replace("VERSION", version));
        assert!(said.contains(&url), "{url}: {said}");
    }
    let readme = std::fs::read_to_string(repository("README.md")).unwrap();
    let today = readme.split("scripts/docs -->\n").nth(1).unwrap().split("<!--").next().unwrap();
    let then = readme.len() - today.len() + said.len();
    assert!(then <= 8192, "README.md has {then} bytes then");
}

/// The last cell of a row is what it says about the first; one word in capitals there stands for something that
/// somebody meant to write.
#[test]
fn no_cell_of_a_table_is_left_to_be_filled() {
    let manual = manual::text();
    let placeholder = |cell: &str| {
        let is_word = cell.len() >= 4 && cell.chars().all(|letter| letter.is_ascii_uppercase());
        is_word || ["TODO", "TBD", "???", "…"].contains(&cell)
    };
    let rows = manual.lines().filter(|line| line.starts_with("| ") && line.ends_with('|'));
    let cells: Vec<&str> = rows.filter_map(|row| row.trim_matches('|').split(" | ").last()).map(str::trim).collect();
    assert!(cells.len() > 300, "{}", cells.len());
    let left: Vec<&&str> = cells.iter().filter(|cell| placeholder(cell)).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A reader on a slow line gets every picture, and each is on a page.
#[test]
fn pictures_of_the_manual_are_small_and_each_is_shown() {
    let (manual, readme) = (manual::text(), std::fs::read_to_string(repository("README.md")).unwrap());
    for picture in std::fs::read_dir(repository("docs/pictures")).unwrap() {
        let picture = picture.unwrap();
        let (name, bytes) = (picture.file_name().display().to_string(), picture.metadata().unwrap().len());
        assert!(bytes <= 1_000_000, "{name} has {bytes} bytes");
        assert!(manual.contains(&format!("pictures/{name})")), "no page shows {name}");
    }
    for name in ["demo.png", "edit.webp"] {
        assert!(readme.contains(&format!("(docs/pictures/{name})")), "README does not show {name}");
    }
    // An animation, not its first picture alone.
    let edit = std::fs::read(repository("docs/pictures/edit.webp")).unwrap();
    assert!(edit.windows(4).filter(|four| four == b"ANMF").count() > 10);
}
