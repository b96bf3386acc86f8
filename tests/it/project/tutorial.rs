//! The tutorial, step by step: its files are written, its commands run, and the map at its end follows an edit.

use std::net::TcpListener;
use std::process::Command;

use crate::support::nginx::ask;
use crate::support::process::{Process, Start as _};
use crate::support::program::{bare_program, run};
use crate::support::served::{GZIP, Served, status};
use crate::support::{Db, repository, until};

/// A block of code: its language and text.
fn steps() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(repository("docs/tutorial.md")).unwrap();
    let blocks = text.split("```").skip(1).step_by(2);
    blocks.map(|block| block.split_once('\n').map(|(name, text)| (name.to_owned(), text.to_owned())).unwrap()).collect()
}

#[test]
fn the_tutorial_leads_from_an_empty_folder_to_a_map_that_follows_edits() {
    let (db, folder) = (Db::new(), tempfile::tempdir().unwrap());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_oar-tiles")).parent().unwrap();
    let path = format!("{}:{}:/usr/sbin", program.display(), std::env::var("PATH").unwrap());
    let shell = |command: &str| {
        let mut shell = Command::new("bash");
        shell.args(["-ec", command]).current_dir(folder.path()).env("PATH", &path).env("DATABASE_URL", &db.url);
        shell
    };
    // A tile of Zürich, in which only the last bakery stands.
    let zurich = || ask(port, "GET", "/tiles/12/2145/1434.pbf", GZIP);
    let mut running: Vec<Process> = Vec::new();
    for (language, text) in steps() {
        let text = text.replace("8080", &port.to_string());
        let file = match language.as_str() {
            "sql" => Some("bakeries.sql"),
            "toml" => Some("oar-tiles.toml"),
            "nginx" => Some("nginx.conf"),
            "html" => Some("site/index.html"),
            "console" => None,
            other => panic!("{other}"),
        };
        if let Some(file) = file {
            std::fs::write(folder.path().join(file), &text).unwrap();
            continue;
        }
        for command in text.lines().map(|line| line.strip_prefix("$ ").unwrap()) {
            if command.starts_with("oar-tiles preview") {
                let mut preview = bare_program();
                preview.args(["preview", "--listen", "127.0.0.1:0"]).current_dir(folder.path());
                assert_eq!(status(&Served::of(preview.env("DATABASE_URL", &db.url)).get("/tiles.json", "")), 200);
            } else if command.starts_with("nginx") {
                running.push(shell(&format!("exec {command} -g 'daemon off; master_process off;'")).start());
                until("nginx answers", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
                assert!(String::from_utf8(ask(port, "GET", "/", "").body).unwrap().contains("<title>Bakeries</title>"));
                let document = ask(port, "GET", "/tiles/tiles.json", "");
                let document: serde_json::Value = serde_json::from_slice(&document.body).unwrap();
                let address = format!("http://localhost:{port}/tiles/{{z}}/{{x}}/{{y}}.pbf");
                assert_eq!(document["tiles"][0], address, "{document}");
                assert_eq!(status(&zurich()), 204);
            } else if let Some(command) = command.strip_suffix(" &") {
                running.push(shell(&format!("exec {command}")).start());
            } else {
                run(&mut shell(command)).ok();
            }
        }
    }
    until("the new bakery is on the map", || status(&zurich()) == 200);
    run(&mut shell("oar-tiles verify --database")).ok();
    run(&mut shell("oar-tiles track remove")).ok();
    assert_eq!(running.len(), 2);
}
