//! What an operator needs: readiness, sockets of systemd, signals, access log, metrics that Prometheus takes.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::nginx::{Balancer, ask};
use crate::support::places::Places;
use crate::support::program::{ROWS_LAYER, program, seed};
use crate::support::proxy::{Fault, Proxy};
use crate::support::served::{Served, status};
use crate::support::{Db, until};

const GZIP: &str = "Accept-Encoding: gzip\r\n";

/// A target of zooms 0 to 3.
fn target() -> (tempfile::TempDir, String) {
    let (db, folder) = (Db::with_facilities(300), tempfile::tempdir().unwrap());
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-3"]).ok();
    let target = target.to_str().unwrap().to_owned();
    (folder, target)
}

fn signalled(served: &Served, signal: &str) {
    assert!(Command::new("kill").args([signal, &served.child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_bucket_that_is_away_is_said_by_readyz_while_memory_answers() {
    let db = Db::with_facilities(200);
    let places = Places::new();
    places.seed(&db, "s3:tiles/", &["--zoom", "0-3", "--public-url", "relative"]).ok();
    let proxy = Proxy::before(&places.prefix.endpoint, |_| Fault::None);
    let mut command = program();
    command.args(["serve", &places.place("s3:tiles/"), "--config", &places.config, "--drain", "0s"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).env("OAR_TILES_S3_ENDPOINT", &proxy.endpoint);
    let served = Served::of(places.with_keys(&mut command));
    assert_eq!((served.admin("/readyz").0, status(&served.get("/0/0/0.pbf", GZIP))), (200, 200));
    proxy.rule(|_| Fault::Error(403, "AccessDenied", "Access Denied"));
    until("readyz says so", || served.admin("/readyz").0 == 503);
    let (_, reasons) = served.admin("/readyz");
    assert!(reasons.contains("the target cannot be read: "), "{reasons}");
    assert_eq!(status(&served.get("/0/0/0.pbf", GZIP)), 200, "from memory");
    let cold = served.get("/1/1/0.pbf", GZIP);
    assert_eq!((status(&cold), cold.header("cache-control")), (503, Some("no-store")));
    proxy.rule(|_| Fault::None);
    until("it is ready again", || served.admin("/readyz").0 == 200);
    assert_eq!(status(&served.get("/1/1/0.pbf", GZIP)), 200);
}

#[test]
fn a_supervisor_is_told_when_the_server_is_ready_and_when_it_ends() {
    let (folder, target) = target();
    let socket = folder.path().join("notify");
    let supervisor = UnixDatagram::bind(&socket).unwrap();
    supervisor.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let told = || {
        let mut text = [0; 64];
        let length = supervisor.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let mut command = program();
    command.args(["serve", &target, "--listen", "127.0.0.1:0", "--drain", "0s"]).env("NOTIFY_SOCKET", &socket);
    let served = Served::of(&mut command);
    assert_eq!(told(), "READY=1");
    assert_eq!(status(&served.get("/0/0/0.pbf", "")), 200);
    assert_eq!(served.ends_after("-TERM"), Some(143));
    assert_eq!(told(), "STOPPING=1");
}

/// Runs a command with a listening socket as systemd passes it, as file descriptor 3.
const PASS_SOCKET: &str = r#"
import os, socket, sys
listener = socket.socket()
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"#;

#[test]
fn a_socket_that_systemd_has_opened_is_used() {
    let (_folder, target) = target();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut command = Command::new("python3");
    command.args(["-c", PASS_SOCKET, &port, env!("CARGO_BIN_EXE_oar-tiles"), "serve", &target]);
    let served = Served::of(command.args(["--listen", "systemd:0"]));
    assert_eq!(served.port.to_string(), port);
    assert_eq!(status(&served.get("/0/0/0.pbf", "")), 200);
    drop(served);
    let none = program().args(["serve", &target, "--listen", "systemd:0"]).output().unwrap();
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(none.status.code() == Some(2) && said.contains("cannot listen on systemd:0"), "{said}");
}

#[test]
fn settings_are_read_again_at_a_hangup_and_wrong_ones_are_not_taken() {
    let (folder, target) = target();
    let config = folder.path().join("c.toml");
    let write = |lines: &str| fs::write(&config, format!("{ROWS_LAYER}\n[serve]\n{lines}\n")).unwrap();
    write("cache_control = \"max-age=1\"");
    let served = Served::new(&target, &["--config", config.to_str().unwrap()]);
    let told = || served.get("/0/0/0.pbf", "").header("cache-control").unwrap().to_owned();
    assert_eq!(told(), "max-age=1");
    write("cache_control = \"max-age=2\"\nempty_status = 200");
    signalled(&served, "-HUP");
    until("the new settings hold", || told() == "max-age=2");
    assert_eq!(status(&served.get("/3/4/6.pbf", "")), 200);
    for wrong in ["cache_control = 7", "cache_control = \"immutable\"", "cache_control = \"a\\nb\""] {
        write(wrong);
        signalled(&served, "-HUP");
        for _ in 0..20 {
            assert_eq!(told(), "max-age=2", "{wrong}");
        }
    }
    write("cache_control = \"max-age=3\"");
    signalled(&served, "-HUP");
    until("right ones are taken again", || told() == "max-age=3");
    assert_eq!(served.ends_after("-TERM"), Some(143));
}

#[test]
fn a_second_signal_cuts_the_drain_short() {
    let (_folder, target) = target();
    let mut command = program();
    command.args(["serve", &target, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "10m"]);
    let served = Served::of(&mut command);
    signalled(&served, "-TERM");
    until("it says that it ends", || served.admin("/readyz").0 == 503);
    assert_eq!(status(&served.get("/0/0/0.pbf", "")), 200, "it still answers");
    // The test ends in time only if the second one counts.
    assert_eq!(served.ends_after("-TERM"), Some(143));
}

#[test]
fn no_request_fails_while_one_of_two_servers_ends_under_load_behind_a_proxy() {
    let (folder, target) = target();
    let sockets = [folder.path().join("0.sock"), folder.path().join("1.sock")];
    let begin = |number: usize| {
        let listen = format!("unix:{}", sockets[number].display());
        let mut command = program();
        command.args(["serve", &target, "--listen", &listen, "--drain", "100ms"]);
        let served = Served::of(command.args(["--public-url", "http://127.0.0.1:1/"]));
        // The workers of nginx are another account.
        fs::set_permissions(&sockets[number], fs::Permissions::from_mode(0o777)).unwrap();
        Some(served)
    };
    let mut servers = [begin(0), begin(1)];
    let balancer = Balancer::of(&sockets);
    let (done, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for path in ["/0/0/0.pbf", "/1/1/0.pbf", "/3/4/6.pbf"] {
                        let answer = ask(balancer.port, "GET", path, GZIP);
                        assert!(matches!(status(&answer), 200 | 204), "{path}: {}", answer.head);
                        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
                        assert_eq!(answer.body.len(), length, "{path}: the whole answer");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for round in 0..20 {
            let before = answered.load(Ordering::Relaxed);
            until("there is load", || answered.load(Ordering::Relaxed) > before + 20);
            let server = &mut servers[round % 2];
            assert_eq!(server.take().unwrap().ends_after("-TERM"), Some(143));
            *server = begin(round % 2);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(answered.load(Ordering::Relaxed) > 400);
}

#[test]
fn each_request_is_a_line_of_the_access_log() {
    let (_folder, target) = target();
    for style in ["text", "json"] {
        let mut command = program();
        command.args(["serve", &target, "--listen", "127.0.0.1:0", "--drain", "0s", "--access-log", style]);
        let mut child = command.args(["--trusted-proxy", "127.0.0.1"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let port = first.split("127.0.0.1:").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
        ask(port, "GET", "/0/0/0.pbf", GZIP);
        ask(port, "GET", "/0/0/0.pbf?a=%22b", "X-Forwarded-For: 203.0.113.7, 198.51.100.2\r\n");
        ask(port, "HEAD", "/3/4/6.pbf", GZIP);
        ask(port, "GET", "/nothing", "");
        let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let lines: Vec<String> = lines.map(Result::unwrap).collect();
        assert_eq!(lines.len(), 4, "{lines:?}");
        for (line, (client, request, code, source)) in lines.iter().zip([
            ("127.0.0.1", "GET /0/0/0.pbf", 200, "target"),
            ("198.51.100.2", "GET /0/0/0.pbf?a=%22b", 200, "memory"),
            ("127.0.0.1", "HEAD /3/4/6.pbf", 204, "empty"),
            ("127.0.0.1", "GET /nothing", 404, "none"),
        ]) {
            if style == "text" {
                let words = format!(" {client} \"{request} HTTP/1.1\" {code} ");
                assert!(line.contains(&words) && line.ends_with(source) && line.starts_with("20"), "{line}");
            } else {
                let read: Value = serde_json::from_str(line).unwrap();
                let asked = format!("{} {}", read["method"].as_str().unwrap(), read["path"].as_str().unwrap());
                assert_eq!((&read["client"], asked.as_str(), &read["status"]), (&client.into(), request, &code.into()));
                assert_eq!(read["source"], source);
                assert!(read["seconds"].as_f64().unwrap() < 60.0 && read["time"].as_str().unwrap().ends_with('Z'));
            }
        }
        assert_eq!(child.wait().unwrap().code(), Some(143));
    }
}

#[test]
fn answers_say_how_long_they_took_if_that_is_wanted() {
    let (folder, target) = target();
    let config = folder.path().join("c.toml");
    fs::write(&config, format!("{ROWS_LAYER}\n[serve]\nserver_timing = true\n")).unwrap();
    let served = Served::new(&target, &["--config", config.to_str().unwrap()]);
    for (path, source) in [("/0/0/0.pbf", "target;dur="), ("/0/0/0.pbf", "memory;dur="), ("/3/4/6.pbf", "empty;dur=")] {
        let answer = served.get(path, GZIP);
        assert!(answer.header("server-timing").unwrap().starts_with(source), "{}", answer.head);
    }
    assert_eq!(Served::new(&target, &[]).get("/0/0/0.pbf", GZIP).header("server-timing"), None);
}

/// Feeds a program; its exit code and everything that it said.
fn fed(command: &mut Command, text: &str) -> (Option<i32>, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("scripts/test installs promtool");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

#[test]
fn prometheus_takes_the_metrics_and_the_rules() {
    let (_folder, target) = target();
    let served = Served::new(&target, &[]);
    for path in ["/0/0/0.pbf", "/0/0/0.pbf", "/3/4/6.pbf", "/tiles.json", "/9/9", "/03/4/6.pbf"] {
        served.get(path, GZIP);
    }
    let (code, metrics) = served.admin("/metrics");
    assert_eq!(code, 200);
    let (code, said) = fed(Command::new("promtool").args(["check", "metrics"]), &metrics);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{metrics}");
    // Every metric that rules and dashboard ask for is one that the server has.
    let manual = fs::read_to_string(crate::support::repository("docs/serving.md")).unwrap();
    let rules = crate::support::repository("examples/prometheus-rules.yaml");
    let checked = Command::new("promtool").args(["check", "rules"]).arg(&rules).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let dashboard = fs::read_to_string(crate::support::repository("examples/grafana-dashboard.json")).unwrap();
    let panels: Value = serde_json::from_str(&dashboard).unwrap();
    assert!(panels["panels"].as_array().unwrap().iter().all(|panel| panel["targets"][0]["expr"].is_string()));
    for text in [&fs::read_to_string(&rules).unwrap(), &dashboard, &manual] {
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':') {
            let name = ["_bucket", "_count", "_sum"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
            if name.starts_with("oar_tiles_") && !name.starts_with("oar_tiles_run_") {
                assert!(metrics.contains(&format!("# TYPE {name} ")), "{name}\n{metrics}");
            }
        }
    }
}

#[test]
fn a_writer_that_is_killed_beside_the_server_costs_no_answer() {
    let db = Db::with_facilities(500);
    let places = Places::new();
    for kind in ["t.mbtiles", "tiles/"] {
        let flags = ["--zoom", "0-5", "--public-url", "relative"];
        places.seed(&db, kind, &flags).ok();
        let served = Served::at(&places, kind, &[]);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut count = 0;
                        while !done.load(Ordering::Relaxed) {
                            for path in ["/0/0/0.pbf", "/1/1/0.pbf", "/5/23/13.pbf"] {
                                let answer = served.get(path, GZIP);
                                assert!(matches!(status(&answer), 200 | 204), "{kind} {path}: {}", answer.head);
                                count += 1;
                            }
                        }
                        count
                    })
                })
                .collect();
            for round in 0..8_u64 {
                db.run(&format!("UPDATE api_facility SET name = name || '{round}'"));
                let mut writer = places.seed_command(&db, kind, &flags).spawn().unwrap();
                // At other moments of its work each time; when is not asserted.
                std::thread::sleep(Duration::from_millis(40 * round));
                writer.kill().unwrap();
                writer.wait().unwrap();
            }
            done.store(true, Ordering::Relaxed);
            assert!(readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u32>() > 50);
        });
        let before = served.get("/0/0/0.pbf", GZIP).body;
        db.run("UPDATE api_facility SET name = name || 'x'");
        places.seed(&db, kind, &flags).ok();
        assert!(served.get("/0/0/0.pbf", GZIP).body != before, "{kind}: the next run is noticed");
    }
}

/// A number that follows from the one before (Knuth's MMIX generator).
fn next(chance: &mut u64) -> u64 {
    *chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *chance >> 33
}

#[test]
fn odd_paths_and_headers_are_answered_and_never_with_an_error_of_the_server() {
    let (_folder, target) = target();
    let served = Served::new(&target, &["--preview"]);
    let seed =
        std::env::var("TEST_FUZZ_SEED").map_or_else(|_| u64::from(std::process::id()), |text| text.parse().unwrap());
    println!("TEST_FUZZ_SEED={seed}");
    let mut chance = seed;
    let pieces = [
        "/",
        "0",
        "1",
        "3",
        "7",
        "22",
        "23",
        "-1",
        "+1",
        "01",
        "4294967296",
        "18446744073709551616",
        ".pbf",
        ".mvt",
        ".json",
        "tiles",
        "..",
        "%2e%2e",
        "%00",
        "%2f",
        "%",
        "?",
        "??x=1",
        "#",
        "{z}",
        ";",
        "\\",
        "//",
        "é",
        "assets/",
        "preview.js",
        "a",
        "*",
        "~",
        "e5",
        "0x1",
        "metrics",
        ".",
        " ",
        "\t",
    ];
    let headers = [
        "Accept-Encoding: gzip;q=0.5, *;q=0\r\n",
        "Accept-Encoding: ,,;;q=,gzip;q=1.5;q=2\r\n",
        "If-None-Match: \"\r\n",
        "If-None-Match: W/\"a\", *\r\n",
        "Range: bytes=0-1\r\n",
        "Host: \r\n",
        "X-Forwarded-For: ,,\r\n",
        "Expect: 100-continue\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\n",
        ":\r\n",
        "\r\n",
        "A\r\n",
        "Accept-Encoding: \u{1}\r\n",
        "Content-Length: -1\r\n",
    ];
    for _ in 0..1_500 {
        let path: String = (0..=next(&mut chance) % 6)
            .map(|_| pieces[usize::try_from(next(&mut chance)).unwrap() % pieces.len()])
            .collect();
        let header = headers[usize::try_from(next(&mut chance)).unwrap() % headers.len()];
        let method =
            ["GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE", "BREW"][usize::try_from(next(&mut chance)).unwrap() % 7];
        let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let sent = write!(stream, "{method} /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n");
        let mut answer = Vec::new();
        // A request that is none may be cut off, before its end or after.
        let read = sent.and_then(|()| stream.read_to_end(&mut answer));
        let text = String::from_utf8_lossy(&answer);
        let Some(code) = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse::<u16>().ok()) else {
            assert!(answer.is_empty(), "{method} /{path} {header:?}: {text} {read:?}");
            continue;
        };
        let known = [200, 204, 304, 400, 404, 405, 408, 411, 413, 414, 417, 431, 501];
        assert!(known.contains(&code) && code < 500, "{method} /{path} {header:?}: {text}");
    }
    assert_eq!(status(&served.get("/0/0/0.pbf", GZIP)), 200);
    assert_eq!(served.ends_after("-TERM"), Some(143));
}

#[test]
fn curl_sees_the_same_in_every_encoding_condition_method_and_protocol() {
    let (folder, target) = target();
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
fn a_run_in_cron_leaves_its_metrics_for_prometheus() {
    let (db, folder) = (Db::with_facilities(100), tempfile::tempdir().unwrap());
    let (target, metrics) = (folder.path().join("t.mbtiles"), folder.path().join("oar.prom"));
    let file = metrics.to_str().unwrap();
    seed(&db.url, &target, &["--zoom", "0-2", "--metrics", file]).ok();
    let first = fs::read_to_string(&metrics).unwrap();
    let (code, said) = fed(Command::new("promtool").args(["check", "metrics"]), &first);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{first}");
    let value = |text: &str, name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{verb=\"seed\",output=\"")));
        line.unwrap_or_else(|| panic!("{name}: {text}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value(&first, "oar_tiles_run_tiles") > 3.0 && value(&first, "oar_tiles_run_bytes") > 100.0, "{first}");
    assert!(value(&first, "oar_tiles_run_exit_code") == 0.0 && value(&first, "oar_tiles_run_duration_seconds") > 0.0);
    // A run that fails says so, and when the last one succeeded.
    db.run("ALTER TABLE api_facility RENAME TO elsewhere");
    seed(&db.url, &target, &["--zoom", "0-2", "--metrics", file]).fails(2, &["api_facility"]);
    let second = fs::read_to_string(&metrics).unwrap();
    assert!((value(&second, "oar_tiles_run_exit_code") - 2.0).abs() < 1e-9, "{second}");
    for name in ["oar_tiles_run_success_timestamp_seconds", "oar_tiles_run_tiles", "oar_tiles_run_bytes"] {
        assert!((value(&first, name) - value(&second, name)).abs() < 1e-9, "{name}");
    }
    seed(&db.url, &target, &["--metrics", target.to_str().unwrap()]).fails(2, &["choose another --metrics"]);
    seed(&db.url, &target, &["--metrics", "/nowhere/oar.prom"])
        .fails(2, &["cannot write the metrics /nowhere/oar.prom"]);
}
