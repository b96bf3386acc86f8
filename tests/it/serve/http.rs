//! What a request meets: statuses, headers, encodings, conditions, limits.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use serde_json::Value;

use crate::support::archive::unpacked;
use crate::support::nginx::{ask, read_answer};
use crate::support::places::Places;
use crate::support::program::{program, run, seed};
use crate::support::served::{Served, small_target, status};
use crate::support::{Archive, Db};

/// A place with the same tiles in every kind of target, and their bytes.
fn every_kind() -> (Places, [&'static str; 5]) {
    let db = Db::with_facilities(300);
    let places = Places::new();
    let kinds = ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/", "s3:t.pmtiles"];
    places.seed(&db, kinds[0], &["--zoom", "0-5"]).ok();
    for kind in &kinds[1..] {
        places.run("copy", &[&places.place(kinds[0]), &places.place(kind), "--public-url", "relative"]).ok();
    }
    (places, kinds)
}

#[test]
fn every_kind_of_target_gives_the_stored_bytes_to_who_takes_gzip_and_the_unpacked_ones_to_others() {
    let (places, targets) = every_kind();
    let archive = Archive::open(&places.folder.path().join("t.mbtiles"));
    let tiles = archive.stored();
    assert!(tiles.len() > 20);
    let mut tags: Vec<(Option<String>, Option<String>)> = Vec::new();
    for target in targets {
        let served = Served::at(&places, target, &[]);
        for ((zoom, x, y), stored) in &tiles {
            let path = format!("/{zoom}/{x}/{y}.pbf");
            let packed = served.get(&path, "Accept-Encoding: gzip, br\r\n");
            assert_eq!(status(&packed), 200, "{target} {path} {}", packed.head);
            assert!(packed.body == *stored, "{target} {path}");
            assert_eq!(packed.header("content-encoding"), Some("gzip"));
            let plain = served.get(&path, "");
            assert!(plain.body == unpacked(stored), "{target} {path}");
            assert_eq!(plain.header("content-encoding"), None);
            for answer in [&packed, &plain] {
                assert_eq!(answer.header("content-type"), Some("application/vnd.mapbox-vector-tile"));
                assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
                assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
                assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
                assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
                assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
            }
            assert_ne!(packed.header("etag"), plain.header("etag"), "{target} {path}");
        }
        let root = |headers| served.get("/0/0/0.pbf", headers).header("etag").map(str::to_owned);
        tags.push((root("Accept-Encoding: gzip\r\n"), root("")));
        let tilejson = served.json("/tiles.json");
        assert_eq!(tilejson["tiles"][0], format!("{}{{z}}/{{x}}/{{y}}.pbf", served.url), "{target}");
        assert_eq!((&tilejson["minzoom"], &tilejson["maxzoom"]), (&0.into(), &5.into()), "{target}");
        assert_eq!(tilejson["vector_layers"][0]["id"], "facilities", "{target}");
    }
    tags.dedup();
    assert_eq!(tags.len(), 1, "equal tiles have equal tags, whatever the target: {tags:?}");
}

#[test]
fn a_condition_that_holds_is_answered_with_304_and_what_a_cache_has_to_update() {
    let (db, folder) = (Db::with_facilities(300), tempfile::tempdir().unwrap());
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-3"]).ok();
    let served = Served::new(target.to_str().unwrap(), &["--cdn-cache-control", "max-age=86400"]);
    let tag = |headers: &str| served.get("/0/0/0.pbf", headers).header("etag").unwrap().to_owned();
    let (packed, plain) = (tag("Accept-Encoding: gzip\r\n"), tag(""));
    for (condition, accepts, expected) in [
        (packed.clone(), "gzip", 304),
        (plain.clone(), "gzip", 200),
        (plain.clone(), "identity", 304),
        (packed.clone(), "identity", 200),
        (format!("W/{packed}"), "gzip", 304),
        (format!("\"x\", {packed}"), "gzip", 304),
        ("*".to_owned(), "gzip", 304),
        ("\"x\"".to_owned(), "gzip", 200),
    ] {
        let headers = format!("If-None-Match: {condition}\r\nAccept-Encoding: {accepts}\r\n");
        let answer = served.get("/0/0/0.pbf", &headers);
        assert_eq!(status(&answer), expected, "{condition} {accepts}");
        assert_eq!(answer.header("etag"), Some(if accepts == "gzip" { &*packed } else { &*plain }));
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
        assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
        assert_eq!(answer.header("cdn-cache-control"), Some("max-age=86400"));
        assert_eq!(answer.body.is_empty(), expected == 304);
    }
    let head = ask(served.port, "HEAD", "/0/0/0.pbf", "Accept-Encoding: gzip\r\n");
    let get = served.get("/0/0/0.pbf", "Accept-Encoding: gzip\r\n");
    assert!(head.body.is_empty() && head.header("content-length") == get.header("content-length"), "{}", head.head);
    let document = served.get("/tiles.json", "");
    let condition = format!("If-None-Match: {}\r\n", document.header("etag").unwrap());
    assert_eq!(status(&served.get("/tiles.json", &condition)), 304);
}

#[test]
fn what_is_empty_missing_or_wrong_has_a_status_of_its_own() {
    let (db, folder) = (Db::with_facilities(300), tempfile::tempdir().unwrap());
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "2-5", "--bbox", "0,-80,179,80"]).ok();
    for (flag, empty) in [("204", 204), ("200", 200), ("404", 404)] {
        let served = Served::new(target.to_str().unwrap(), &["--empty-status", flag]);
        for (method, path, expected) in [
            // Somewhere in the Southern Ocean, within the boxes.
            ("GET", "/5/17/26.pbf", empty),
            ("GET", "/5/0/15.pbf", 404),
            ("GET", "/1/1/0.pbf", 404),
            ("GET", "/6/33/20.pbf", 404),
            ("GET", "/05/17/26.pbf", 400),
            ("GET", "/5/+17/26.pbf", 400),
            ("GET", "/5/32/26.pbf", 400),
            ("GET", "/5/17/-1.pbf", 400),
            ("GET", "/5/17/99999999999999999999.pbf", 400),
            ("GET", "/5/17/26.png", 404),
            ("GET", "/", 404),
            ("GET", "/.oar-tiles/lock", 404),
            ("GET", "/../../etc/passwd", 404),
            ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
            ("GET", "/metrics", 404),
            ("POST", "/5/17/26.pbf", 405),
            ("DELETE", "/tiles.json", 405),
            ("OPTIONS", "/5/17/26.pbf", 204),
        ] {
            let answer = ask(served.port, method, path, "");
            assert_eq!(status(&answer), expected, "{method} {path}: {}", answer.head);
            assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{path}");
            if expected == 405 || method == "OPTIONS" {
                assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
            } else if path == "/5/17/26.pbf" {
                assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
                assert!(answer.body.is_empty());
            } else {
                assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
                let error: Value = serde_json::from_slice(&answer.body).unwrap();
                assert!(error["error"].as_str().is_some_and(|text| !text.contains("postgres")), "{error}");
            }
        }
        let long = format!("/{}", "x".repeat(3_000));
        assert_eq!(status(&ask(served.port, "GET", &long, "")), 414);
        let header = format!("X-Long: {}\r\n", "x".repeat(20_000));
        assert_eq!(status(&ask(served.port, "GET", "/tiles.json", &header)), 431);
    }
}

#[test]
fn health_metrics_and_status_are_on_the_admin_listener_alone() {
    let (db, folder) = (Db::with_facilities(300), tempfile::tempdir().unwrap());
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-3"]).ok();
    let served = Served::new(target.to_str().unwrap(), &[]);
    for _ in 0..3 {
        served.get("/0/0/0.pbf", "Accept-Encoding: gzip\r\n");
    }
    served.get("/3/9/9.pbf", "");
    assert_eq!(served.admin("/livez"), (200, "ok\n".to_owned()));
    assert_eq!(served.admin("/readyz"), (200, "{\"ready\":true,\"reasons\":[],\"schema_version\":1}\n".to_owned()));
    let (code, metrics) = served.admin("/metrics");
    assert_eq!(code, 200);
    for line in [
        "oar_tiles_http_requests_total{route=\"tile\",status=\"200\"} 3",
        "oar_tiles_http_requests_total{route=\"tile\",status=\"400\"} 1",
        "oar_tiles_cache_total{result=\"hit\"} 2",
        "oar_tiles_cache_total{result=\"miss\"} 1",
    ] {
        assert!(metrics.lines().any(|given| given == line), "{line}\n{metrics}");
    }
    let status: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
    assert_eq!(
        (&status["ready"], &status["zooms"], &status["changes_noticed"]),
        (&true.into(), &"0-3".into(), &0.into())
    );
    assert_eq!(served.admin("/0/0/0.pbf").0, 404);
    assert_eq!(served.ends_after("-TERM"), Some(143));
}

#[test]
fn what_cannot_be_served_is_said_before_anything_listens() {
    let (db, folder) = (Db::with_facilities(50), tempfile::tempdir().unwrap());
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-1"]).ok();
    let target = target.to_str().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let missing = folder.path().join("none.mbtiles").display().to_string();
    for (arguments, texts) in [
        (&[&*missing][..], &["there is no ", "none.mbtiles: name a file.mbtiles"][..]),
        (
            &[target, "--listen", &address],
            &["cannot listen on 127.0.0.1:", "choose another address", "cause: Address already in use"],
        ),
        (
            &[target, "--listen", "192.0.2.1:8080"],
            &["cannot listen on 192.0.2.1:8080", "cause: Cannot assign requested address"],
        ),
        (
            &[target, "--listen", "localhost:8080"],
            &["\"localhost:8080\" is no address to listen on: write an IP address and a port"],
        ),
        (
            &[target, "--listen", "0.0.0.0:0"],
            &["0.0.0.0:0 is no address that clients can name", "give --public-url https://"],
        ),
        (&[target, "--cache-control", "a\nb"], &["\"a\\nb\" cannot be sent as Cache-Control"]),
        (&["tiles.zip"], &["\"tiles.zip\" names no target"]),
    ] {
        run(program().arg("serve").args(arguments)).fails(2, texts);
    }
}

#[test]
fn a_unix_socket_takes_the_place_of_a_dead_one_and_of_nothing_else() {
    let (db, folder) = (Db::with_facilities(50), tempfile::tempdir().unwrap());
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-1"]).ok();
    let (target, socket) = (target.to_str().unwrap(), folder.path().join("s.sock"));
    let listen = format!("unix:{}", socket.display());
    let arguments = ["serve", target, "--listen", &listen, "--public-url", "http://127.0.0.1:1/tiles"];
    std::fs::write(&socket, b"somebody's notes").unwrap();
    run(program().args(arguments)).fails(2, &["cannot listen on unix:", "cause: Address already in use"]);
    assert_eq!(std::fs::read(&socket).unwrap(), b"somebody's notes");
    std::fs::remove_file(&socket).unwrap();
    for _ in 0..2 {
        let served = Served::of(program().args(arguments));
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        write!(stream, "GET /tiles.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("http://127.0.0.1:1/tiles/{z}/{x}/{y}.pbf"),
            "{answer}"
        );
        // The one that listens is not replaced.
        run(program().args(arguments)).fails(2, &["cause: Address already in use"]);
        // Killed, it leaves its socket behind.
        drop(served);
        assert!(socket.exists());
    }
}

#[test]
fn curl_sees_the_same_in_every_encoding_condition_method_and_protocol() {
    let (folder, target) = small_target();
    let served = Served::new(&target, &[]);
    let url = format!("{}0/0/0.pbf", served.url);
    let (body, head) = (folder.path().join("body"), folder.path().join("head"));
    let curl = |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--output",
            body.to_str().unwrap(),
            "--dump-header",
            head.to_str().unwrap(),
        ]);
        let done =
            command.args(["--write-out", "%{http_code} %{http_version}"]).args(arguments).arg(&url).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        let head = fs::read_to_string(&head).unwrap().to_lowercase();
        let field = |name: &str| head.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
        let text = String::from_utf8(done.stdout).unwrap();
        (text, field("etag:"), field("content-encoding:"), fs::read(&body).unwrap_or_default())
    };
    let plain = curl(&[]).3;
    for protocol in ["--http1.1", "--http2-prior-knowledge", "--http1.0"] {
        let version = if protocol == "--http2-prior-knowledge" { "2" } else { "1.1" };
        for encoding in ["identity", "gzip", "br", "gzip;q=0"] {
            let accepts = format!("Accept-Encoding: {encoding}");
            let (said, tag, found, _) = curl(&[protocol, "-H", &accepts]);
            assert!(said.starts_with("200 "), "{protocol} {encoding} {said}");
            assert!(said.ends_with(version) || protocol == "--http1.0", "{protocol}: {said}");
            assert_eq!(found.as_deref(), (encoding == "gzip").then_some("gzip"), "{protocol} {encoding}");
            let tag = tag.unwrap();
            for (condition, expected) in
                [(tag.clone(), "304"), (format!("W/{tag}"), "304"), ("\"x\"".to_owned(), "200")]
            {
                let condition = format!("If-None-Match: {condition}");
                for method in [&["-X", "GET"][..], &["--head"]] {
                    let (said, again, ..) = curl(&[&[protocol, "-H", &accepts, "-H", &condition], method].concat());
                    assert!(said.starts_with(expected), "{protocol} {encoding} {condition} {method:?}: {said}");
                    assert_eq!(again.as_ref(), Some(&tag));
                }
            }
        }
        let (_, _, _, unpacked) = curl(&[protocol, "--compressed"]);
        assert!(unpacked == plain, "{protocol}: what curl unpacks is what it gets unpacked");
    }
}

#[test]
fn a_request_names_one_host_unless_it_is_of_http_1_0() {
    let (_folder, target) = small_target();
    let served = Served::new(&target, &[]);
    for (port, path) in [(served.port, "/0/0/0.pbf"), (served.admin, "/livez")] {
        for (head, expected) in [
            ("HTTP/1.1\r\nHost: localhost", 200),
            ("HTTP/1.1\r\nHost:", 200),
            ("HTTP/1.1\r\nA: b", 400),
            ("HTTP/1.1\r\nHost: localhost\r\nHost: localhost", 400),
            ("HTTP/1.1\r\nHost: localhost\r\nHost: 127.0.0.1", 400),
            ("HTTP/1.0\r\nA: b", 200),
            ("HTTP/1.0\r\nHost: localhost\r\nHost: 127.0.0.1", 400),
        ] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            write!(stream, "GET {path} {head}\r\nConnection: close\r\n\r\n").unwrap();
            let answer = read_answer(stream);
            assert_eq!(status(&answer), expected, "{path} {head:?}: {}", answer.head);
        }
    }
}
