//! The Dockerfile, by its form: no container runtime is at hand. What it copies exists, the program takes its commands,
//! its health check says whether a server is ready, and the packed program is small enough.

use std::fs;

use crate::support::program::{bare_program, run};
use crate::support::served::Served;
use crate::support::{Db, repository, seed};

/// The Dockerfile's instructions with their arguments, comments and line ends taken out.
fn instructions() -> Vec<(String, String)> {
    let text = fs::read_to_string(repository("Dockerfile")).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let split = |line: &str| line.split_once(' ').map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()));
    joined.lines().filter_map(split).collect()
}

/// The arguments of the instructions with a name.
fn all<'i>(instructions: &'i [(String, String)], name: &str) -> Vec<&'i str> {
    instructions.iter().filter(|(found, _)| found == name).map(|(_, rest)| rest.as_str()).collect()
}

/// A command in its JSON form.
fn words(json: &str) -> Vec<String> {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

#[test]
fn the_image_is_built_from_files_that_exist_and_runs_as_nobody() {
    let found = instructions();
    let known = ["FROM", "RUN", "WORKDIR", "COPY", "ARG", "ENV", "EXPOSE", "USER", "HEALTHCHECK", "ENTRYPOINT", "CMD"];
    for (name, rest) in &found {
        assert!(known.contains(&name.as_str()) && !rest.is_empty(), "{name} {rest}");
    }
    let from = all(&found, "FROM");
    let toolchain = fs::read_to_string(repository("Cargo.toml")).unwrap();
    let oldest = toolchain.lines().find_map(|line| line.strip_prefix("rust-version = \"1.")).unwrap();
    let used = from[0].strip_prefix("rust:1.").unwrap().split('-').next().unwrap();
    assert!(used.parse::<u16>().unwrap() >= oldest.trim_end_matches('"').parse().unwrap(), "{used} < {oldest}");
    assert!(from.len() == 2 && from[0].ends_with(" AS build"), "{from:?}");
    assert!(from[1].starts_with("gcr.io/distroless/static-") && from[1].ends_with(":nonroot"), "{}", from[1]);
    assert_eq!(all(&found, "USER"), ["nonroot"]);
    // docker run -P publishes what is exposed: never the admin listener.
    assert_eq!(all(&found, "EXPOSE"), ["8080"]);
    // What is built is what is copied.
    assert_eq!(all(&found, "COPY"), [". .", "--from=build /oar-tiles /usr/bin/oar-tiles"]);
    let build = all(&found, "RUN").join(" ");
    assert!(build.contains("-o /oar-tiles ") && build.contains("--locked") && build.contains("musl-tools"), "{build}");
    for script in build.split_whitespace().filter(|word| word.starts_with("scripts/")) {
        assert!(repository(script).is_file(), "{script}");
    }
    // Files that the build needs are not left out of it.
    let ignored = fs::read_to_string(repository(".dockerignore")).unwrap();
    assert_eq!(ignored.lines().collect::<Vec<_>>(), ["/target", "/.git"]);
}

#[test]
fn the_images_commands_are_those_of_the_program() {
    let found = instructions();
    let entry = words(all(&found, "ENTRYPOINT")[0]);
    assert_eq!(entry, ["/usr/bin/oar-tiles"]);
    assert_eq!(words(all(&found, "CMD").last().unwrap()), ["serve"]);
    let health = all(&found, "HEALTHCHECK")[0].split_once("CMD ").unwrap().1;
    let health = words(health);
    assert_eq!(health[0], entry[0]);

    let db = Db::with_facilities(20);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-1"]).ok();
    let served = Served::new(target.to_str().unwrap(), &[]);
    let check = |admin: &str| run(bare_program().args(&health[1..]).env("OAR_TILES_ADMIN", admin));
    assert_eq!(check(&format!("127.0.0.1:{}", served.admin)).ok().stdout, "ready\n");
    // As the image sets it: at every address.
    assert_eq!(check(&format!("0.0.0.0:{}", served.admin)).ok().stdout, "ready\n");
    fs::remove_file(&target).unwrap();
    check(&format!("0.0.0.0:{}", served.admin)).fails(1, &["answered 503"]);
    let port = served.admin;
    drop(served);
    check(&format!("127.0.0.1:{port}")).fails(1, &["cannot be asked"]);
    check("systemd:0").fails(2, &["systemd has opened", "give --admin"]);
    run(bare_program().args(["serve", "--check"])).fails(2, &["knows no address", "give --admin"]);
}
