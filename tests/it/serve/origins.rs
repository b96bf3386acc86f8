//! `[serve] allowed_origins`: pages of the listed sites may read every answer, others none, and no cache gives the
//! answer for one site to another.

use crate::support::nginx::{Answer, ask};
use crate::support::program::{ending, program, run};
use crate::support::served::{GZIP, Served, small_target, status};

fn served(target: &str, folder: &tempfile::TempDir, lines: &str) -> Served {
    let config = folder.path().join("c.toml");
    std::fs::write(&config, format!("[serve]\n{lines}\n")).unwrap();
    Served::new(target, &["--config", config.to_str().unwrap()])
}

fn from(origin: &str) -> String {
    format!("{GZIP}Origin: {origin}\r\n")
}

/// The site whose pages may read an answer, and what the answer depends on.
fn readers(answer: &Answer) -> [Option<&str>; 3] {
    ["access-control-allow-origin", "timing-allow-origin", "vary"].map(|name| answer.header(name))
}

#[test]
fn pages_of_listed_sites_may_read_and_no_others() {
    let (folder, target) = small_target();
    let served = served(
        &target,
        &folder,
        "allowed_origins = [\"https://map.example\", \"http://localhost:3000\"]\nchanges = true",
    );
    let tag = served.get("/0/0/0.pbf", GZIP).header("etag").unwrap().to_owned();
    for (method, path, more, expected) in [
        ("GET", "/0/0/0.pbf", String::new(), 200),
        ("HEAD", "/0/0/0.pbf", String::new(), 200),
        ("GET", "/0/0/0.pbf", format!("If-None-Match: {tag}\r\n"), 304),
        ("GET", "/3/4/6.pbf", String::new(), 204),
        ("GET", "/tiles.json", String::new(), 200),
        ("GET", "/catalog", String::new(), 200),
        ("GET", "/9/0/0.pbf", String::new(), 404),
        ("GET", "/01/0/0.pbf", String::new(), 400),
        ("GET", "/nothing", String::new(), 404),
        ("POST", "/0/0/0.pbf", String::new(), 405),
        ("OPTIONS", "/0/0/0.pbf", String::new(), 204),
    ] {
        for origin in ["https://map.example", "http://localhost:3000"] {
            let answer = ask(served.port, method, path, &format!("{}{more}", from(origin)));
            assert_eq!(status(&answer), expected, "{method} {path}");
            let own = [Some(origin), Some(origin), Some("Accept-Encoding, Origin")];
            assert_eq!(readers(&answer), own, "{method} {path} {origin}");
        }
        for headers in [
            from("https://other.example"),
            from("https://map.example.other"),
            from("https://map.example:444"),
            from("http://map.example"),
            from("https://MAP.example"),
            from("https://map.example/"),
            from("null"),
            from("*"),
            from(""),
            format!("{}Origin: https://map.example\r\n", from("https://map.example")),
            GZIP.to_owned(),
        ] {
            let answer = ask(served.port, method, path, &format!("{headers}{more}"));
            assert_eq!(status(&answer), expected, "{method} {path} {headers}");
            assert_eq!(readers(&answer), [None, None, Some("Accept-Encoding, Origin")], "{method} {path} {headers}");
            assert_eq!(answer.header("access-control-allow-methods"), None, "{method} {path} {headers}");
        }
    }
}

#[test]
fn an_empty_list_is_for_pages_of_the_server_alone() {
    let (folder, target) = small_target();
    let served = served(&target, &folder, "allowed_origins = []");
    let answer = served.get("/0/0/0.pbf", &from("https://map.example"));
    assert_eq!(readers(&answer), [None, None, Some("Accept-Encoding, Origin")]);
}

#[test]
fn what_no_browser_sends_is_refused_with_the_reason() {
    let (folder, target) = small_target();
    let config = folder.path().join("c.toml");
    for (origin, why) in [
        ("*", "without allowed_origins the pages of all sites may read"),
        ("null", "files and sandboxed pages of any site have it"),
        ("https://map.example/", "it ends after host and port, without a path or a slash"),
    ] {
        std::fs::write(&config, format!("[serve]\nallowed_origins = [\"https://a.example\", \"{origin}\"]\n")).unwrap();
        let text = format!(
            "serve.allowed_origins (from {}): \"{origin}\" is no origin of pages ({why}): write https://map.example.org or http://localhost:3000",
            config.display()
        );
        run(&mut ending(program().args(["serve", &target, "--config", config.to_str().unwrap()]))).fails(2, &[&text]);
    }
}
