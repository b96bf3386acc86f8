//! What `--version` says: `build.rs` is compiled and run in a repository, in files without one, and at a given date;
//! and the versions that the manual's page of upgrades names.

use std::path::Path;
use std::process::Command;

use crate::support::program::{bare_program, run};
use crate::support::repository;

/// What the build script makes the version, in a folder.
fn version_in(script: &Path, folder: &Path, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(script);
    command.current_dir(folder).env_remove("SOURCE_COMMIT").env_remove("SOURCE_DATE_EPOCH");
    command.env("CARGO_PKG_VERSION", "1.2.3").env("CARGO_MANIFEST_DIR", folder).env("PROFILE", "release");
    let said = run(command.envs(variables.iter().copied())).ok().stdout;
    // Cargo takes a file that does not exist for one that changed, and would run the script, and compile the crate,
    // each time.
    for watched in said.lines().filter_map(|line| line.strip_prefix("cargo::rerun-if-changed=")) {
        assert!(watched == "build.rs" || folder.join(watched).is_file(), "{watched}");
    }
    said.lines().find_map(|line| line.strip_prefix("cargo::rustc-env=BUILD_VERSION=")).unwrap().to_owned()
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.current_dir(folder).args(["-c", "user.name=n", "-c", "user.email=e@example.org"]).args(arguments);
    command.env("GIT_COMMITTER_DATE", "2024-02-29T23:30:00 -0300");
    run(&mut command).ok().stdout.trim().to_owned()
}

#[test]
fn the_version_names_commit_and_date_where_they_are_known() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    run(Command::new("rustc").args(["--edition", "2024", "-o"]).arg(&script).arg(repository("build.rs"))).ok();

    // The files of an archive.
    let archive = folder.path().join("archive");
    std::fs::create_dir(&archive).unwrap();
    assert_eq!(version_in(&script, &archive, &[]), "1.2.3");
    assert_eq!(version_in(&script, &archive, &[("PATH", "")]), "1.2.3", "without git");
    let given = [("SOURCE_COMMIT", "0123456789abcdef"), ("SOURCE_DATE_EPOCH", "951782400")];
    assert_eq!(version_in(&script, &archive, &given), "1.2.3 (0123456789ab 2000-02-29)");

    // A repository: the commit's date is the one in UTC.
    let clone = folder.path().join("clone");
    std::fs::create_dir(&clone).unwrap();
    git(&clone, &["init", "-q"]);
    git(&clone, &["commit", "-q", "--allow-empty", "-m", "first"]);
    let commit = git(&clone, &["rev-parse", "--short=10", "HEAD"]);
    assert_eq!(version_in(&script, &clone, &[]), format!("1.2.3 ({commit} 2024-03-01)"));
    let at_the_start = [("SOURCE_DATE_EPOCH", "0")];
    assert_eq!(version_in(&script, &clone, &at_the_start), format!("1.2.3 ({commit} 1970-01-01)"));
    assert_eq!(version_in(&script, &clone, &[("PROFILE", "debug")]), "1.2.3", "a development build");

    // A copy of the files inside another repository has not that one's commit.
    let inside = clone.join("vendored");
    std::fs::create_dir(&inside).unwrap();
    assert_eq!(version_in(&script, &inside, &[]), "1.2.3");
}

#[test]
fn the_program_says_its_version() {
    for flag in ["--version", "-V"] {
        let said = run(bare_program().arg(flag)).ok().stdout;
        assert!(said.starts_with(concat!("oar-tiles ", env!("CARGO_PKG_VERSION"))), "{said}");
    }
}

#[test]
fn the_page_of_upgrades_names_the_versions_of_the_program() {
    let page = std::fs::read_to_string(repository("docs/upgrading.md")).unwrap();
    for (what, version) in [
        ("rendering, part of a target's fingerprint (`-r`)", oar_tiles::draw::RENDERING_VERSION),
        ("packing, part of a target's fingerprint (`-p`)", oar_tiles::encode::PACKING_VERSION),
        ("manifest of a target", oar_tiles::manifest::MANIFEST_VERSION),
        ("plan of `shards`", oar_tiles::shards::PLAN_VERSION),
    ] {
        assert!(page.contains(&format!("| {what} | {version} |")), "{what} is {version}");
    }
    // Of those that are private, the program prints this one; `scripts/docs --check` compares the rest.
    let said = run(bare_program().args(["config", "--json"])).ok().stdout;
    let stated = serde_json::from_str::<serde_json::Value>(&said).unwrap()["schema_version"].take();
    assert!(page.contains(&format!("| JSON that is printed (`schema_version`) | {stated} |")), "{stated}");
}
