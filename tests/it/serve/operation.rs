//! What an operator needs: readiness, sockets of systemd, signals, access log.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::nginx::{Balancer, ask};
use crate::support::places::Places;
use crate::support::process::Start as _;
use crate::support::program::{ROWS_LAYER, program};
use crate::support::proxy::{Fault, Proxy};
use crate::support::served::{GZIP, Served, small_target, status};
use crate::support::{Db, until};

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
    let (folder, target) = small_target();
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
    let (_folder, target) = small_target();
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
    let (folder, target) = small_target();
    let config = folder.path().join("c.toml");
    let write = |lines: &str| fs::write(&config, format!("{ROWS_LAYER}\n[serve]\n{lines}\n")).unwrap();
    write("cache_control = \"max-age=1\"");
    let served = Served::new(&target, &["--config", config.to_str().unwrap()]);
    let told = || served.get("/0/0/0.pbf", "").header("cache-control").unwrap().to_owned();
    assert_eq!(told(), "max-age=1");
    write("cache_control = \"max-age=2\"\nempty_status = 200");
    served.signal("-HUP");
    until("the new settings hold", || told() == "max-age=2");
    assert_eq!(status(&served.get("/3/4/6.pbf", "")), 200);
    for wrong in ["cache_control = 7", "cache_control = \"immutable\"", "cache_control = \"a\\nb\""] {
        write(wrong);
        served.signal("-HUP");
        for _ in 0..20 {
            assert_eq!(told(), "max-age=2", "{wrong}");
        }
    }
    let more = "cache_control = \"max-age=3\"\npublic_url = \"https://tiles.example.org/f\"\npreview = true\nbase_path = \"/not-yet\"";
    write(more);
    served.signal("-HUP");
    until("right ones are taken again", || told() == "max-age=3");
    let tilejson = served.json("/tiles.json");
    assert_eq!(tilejson["tiles"][0], "https://tiles.example.org/f/{z}/{x}/{y}.pbf");
    assert_eq!(status(&served.get("/", "")), 200, "the page with the map is there now");
    assert_eq!(served.ends_after("-TERM"), Some(143));
}

#[test]
fn the_limits_of_addresses_are_read_again_at_a_hangup() {
    let (folder, target) = small_target();
    let config = folder.path().join("c.toml");
    let write = |lines: &str| fs::write(&config, format!("{ROWS_LAYER}\n[serve]\n{lines}\n")).unwrap();
    write("max_connections_of_address = 1");
    let served = Served::new(&target, &["--config", config.to_str().unwrap()]);
    // A connection that is kept open; further ones of this address are closed at once.
    let mut held = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    write!(held, "GET /0/0/0.pbf HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(held.read(&mut [0; 16]).unwrap() > 0);
    let is_served = || {
        let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
        let asked = write!(stream, "GET /0/0/0.pbf HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        asked.is_ok() && stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 200")
    };
    assert!(!is_served());
    write("max_connections_of_address = 1\ntrusted_proxies = [\"127.0.0.0/8\"]");
    served.signal("-HUP");
    until("a trusted proxy may have more", is_served);
    write("max_connections_of_address = 1");
    served.signal("-HUP");
    until("and no longer", || !is_served());
}

#[test]
fn a_second_signal_cuts_the_drain_short() {
    let (_folder, target) = small_target();
    let mut command = program();
    command.args(["serve", &target, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "1m"]);
    let served = Served::of(&mut command);
    let begun = Instant::now();
    served.signal("-TERM");
    until("it says that it ends", || served.admin("/readyz").0 == 503);
    assert_eq!(status(&served.get("/0/0/0.pbf", "")), 200, "it still answers");
    assert_eq!(served.ends_after("-TERM"), Some(143));
    assert!(begun.elapsed() < Duration::from_secs(55), "the second one counts: {:?}", begun.elapsed());
}

#[test]
fn no_request_fails_while_one_of_two_servers_ends_under_load_behind_a_proxy() {
    let (folder, target) = small_target();
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
    let (folder, target) = small_target();
    for style in ["text", "json"] {
        let config = folder.path().join("c.toml");
        let write = |log: &str, timing: bool| {
            let lines = format!("trusted_proxies = [\"127.0.0.1\"]\naccess_log = \"{log}\"\nserver_timing = {timing}");
            fs::write(&config, format!("{ROWS_LAYER}\n[serve]\n{lines}\n")).unwrap();
        };
        write("none", false);
        let mut command = program();
        command.args(["serve", &target, "--listen", "127.0.0.1:0", "--drain", "0s", "--config"]).arg(&config);
        let mut child = command.stdout(Stdio::piped()).start();
        let id = child.id().to_string();
        let signal = |name: &str| Command::new("kill").args([name, &id]).status().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        let port = first.split("127.0.0.1:").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
        // Without the log nothing is written; a hangup begins it, and the first request that is logged says that it was
        // so.
        ask(port, "GET", "/1/1/0.pbf", GZIP);
        write(style, true);
        assert!(signal("-HUP").success());
        until("the log is on", || ask(port, "GET", "/1/0/0.pbf", GZIP).header("server-timing").is_some());
        let length = ask(port, "GET", "/0/0/0.pbf", GZIP).body.len();
        let unpacked =
            ask(port, "GET", "/0/0/0.pbf?a=%22b", "X-Forwarded-For: 203.0.113.7, 198.51.100.2\r\n").body.len();
        ask(port, "HEAD", "/3/4/6.pbf", GZIP);
        let nothing = ask(port, "GET", "/nothing", "").body.len();
        assert!(signal("-TERM").success());
        let lines: Vec<String> = lines.map(Result::unwrap).collect();
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert!(lines[0].contains("/1/0/0.pbf"), "{lines:?}");
        for (line, (client, request, code, bytes, source)) in lines[1..].iter().zip([
            ("127.0.0.1", "GET /0/0/0.pbf", 200, length, "target"),
            ("198.51.100.2", "GET /0/0/0.pbf?a=%22b", 200, unpacked, "memory"),
            ("127.0.0.1", "HEAD /3/4/6.pbf", 204, 0, "empty"),
            ("127.0.0.1", "GET /nothing", 404, nothing, "none"),
        ]) {
            if style == "text" {
                let words = format!(" {client} \"{request} HTTP/1.1\" {code} {bytes} ");
                assert!(line.contains(&words) && line.ends_with(source) && line.starts_with("20"), "{line}");
            } else {
                crate::support::schemas::text_fits("access-log", line);
                let read: Value = serde_json::from_str(line).unwrap();
                let asked = format!("{} {}", read["method"].as_str().unwrap(), read["path"].as_str().unwrap());
                assert_eq!((&read["client"], asked.as_str(), &read["status"]), (&client.into(), request, &code.into()));
                assert_eq!((&read["source"], &read["bytes"]), (&source.into(), &bytes.into()));
                assert!(read["seconds"].as_f64().unwrap() < 60.0 && read["time"].as_str().unwrap().ends_with('Z'));
            }
        }
        assert_eq!(child.wait().unwrap().code(), Some(143));
    }
}

#[test]
fn answers_say_how_long_they_took_if_that_is_wanted() {
    let (folder, target) = small_target();
    let config = folder.path().join("c.toml");
    fs::write(&config, format!("{ROWS_LAYER}\n[serve]\nserver_timing = true\n")).unwrap();
    let served = Served::new(&target, &["--config", config.to_str().unwrap()]);
    for (path, source) in [("/0/0/0.pbf", "target;dur="), ("/0/0/0.pbf", "memory;dur="), ("/3/4/6.pbf", "empty;dur=")] {
        let answer = served.get(path, GZIP);
        assert!(answer.header("server-timing").unwrap().starts_with(source), "{}", answer.head);
    }
    assert_eq!(Served::new(&target, &[]).get("/0/0/0.pbf", GZIP).header("server-timing"), None);
}
