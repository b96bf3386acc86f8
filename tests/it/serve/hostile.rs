//! Clients that mean harm: slow ones, silent ones, floods, requests that are none.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::jobs::{Answers, fleet_with, with_token, writer};
use crate::support::nginx::{ask, read_answer};
use crate::support::process::Start as _;
use crate::support::program::{over_rows, program, seed};
use crate::support::served::{GZIP, Served, small_target, status};
use crate::support::{Db, until};

#[test]
fn who_sends_no_request_is_cut_off_and_holds_nobody_up() {
    let (db, folder) = (Db::with_facilities(50), tempfile::tempdir().unwrap());
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-1"]).ok();
    let served = Served::new(target.to_str().unwrap(), &[]);
    let mut silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(("127.0.0.1", served.port)).unwrap()).collect();
    for (number, stream) in silent.iter_mut().enumerate().filter(|(number, _)| number % 2 == 1) {
        write!(stream, "GET /0/0/0.pbf HTTP/1.1\r\nX-{number}: ").unwrap();
    }
    assert_eq!(status(&served.get("/0/0/0.pbf", "")), 200);
    let begun = Instant::now();
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut rest = Vec::new();
        // A reset is an end, too.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    // One address has 64 connections; the rest are closed, and when some end, others are served again.
    let held: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(("127.0.0.1", served.port)).unwrap()).collect();
    let mut refused = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    refused.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut nothing = Vec::new();
    assert!(refused.read_to_end(&mut nothing).is_err() || nothing.is_empty());
    drop(held);
    until("connections are free again", || {
        let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
        let asked = write!(stream, "GET /0/0/0.pbf HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = Vec::new();
        asked.is_ok() && stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 200")
    });
}

/// How many of the headers below are well-formed (RFC 9110, section 5.5), though what they say may be nonsense.
const SOUND_HEADERS: usize = 6;

/// A number that follows from the one before (Knuth's MMIX generator).
fn next(chance: &mut u64) -> u64 {
    *chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *chance >> 33
}

#[test]
fn odd_paths_and_headers_are_answered_and_never_with_an_error_of_the_server() {
    let (_folder, target) = small_target();
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
        "X-Forwarded-For: ,,\r\n",
        "Host: \r\n",
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
        let number = usize::try_from(next(&mut chance)).unwrap() % headers.len();
        let header = headers[number];
        // The first headers are odd, but headers; such a request gets an answer.
        let is_a_request =
            number < SOUND_HEADERS && path.chars().all(|c| c.is_ascii_alphanumeric() || "/.%+-~".contains(c));
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
            assert!(answer.is_empty() && !is_a_request, "{method} /{path} {header:?}: {text} {read:?}");
            continue;
        };
        let known = [200, 204, 304, 400, 404, 405, 408, 411, 413, 414, 417, 431, 501];
        assert!(known.contains(&code) && code < 500, "{method} /{path} {header:?}: {text}");
    }
    assert_eq!(status(&served.get("/0/0/0.pbf", GZIP)), 200);
    assert_eq!(served.ends_after("-TERM"), Some(143));
}

/// Runs slowhttptest against a server until it ends; what it says at its end. Meanwhile tiles are answered.
fn under_slow_clients(served: &Served, arguments: &[&str]) -> String {
    let mut attack = Command::new("slowhttptest");
    attack.args(arguments).args(["-c", "200", "-r", "200", "-u", &format!("{}0/0/0.pbf", served.url)]);
    let mut attack = attack.stdout(Stdio::piped()).stderr(Stdio::null()).start();
    let mut answered = 0;
    while attack.try_wait().unwrap().is_none() {
        let begun = Instant::now();
        assert_eq!(status(&served.get("/0/0/0.pbf", GZIP)), 200);
        assert!(begun.elapsed() < Duration::from_secs(5), "a tile from memory took {:?}", begun.elapsed());
        answered += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(answered > 20, "{answered}");
    let mut said = String::new();
    attack.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    said
}

#[test]
fn slow_headers_and_slow_reads_hold_nobody_up() {
    let (_folder, target) = small_target();
    // All come from this address, which may have as many connections as it likes.
    let served = Served::new(&target, &["--trusted-proxy", "127.0.0.1"]);
    std::thread::scope(|scope| {
        let headers = scope.spawn(|| under_slow_clients(&served, &["-H", "-i", "1", "-x", "10", "-l", "60"]));
        under_slow_clients(&served, &["-X", "-w", "1", "-y", "1", "-n", "1", "-z", "1", "-k", "3", "-l", "4"]);
        // It ends before its time only if every connection was closed by the server.
        let said = headers.join().unwrap();
        assert!(said.contains("No open connections left"), "{said}");
    });
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The frames of an answer: their kinds and payloads, until the server ends the connection.
fn frames(stream: &mut TcpStream) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return found;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if stream.read_exact(&mut payload).is_err() {
            return found;
        }
        found.push((head[3], payload));
    }
}

#[test]
fn requests_that_are_reset_at_once_end_their_connection_and_nobody_elses() {
    // Kinds of frames, an error code and settings (RFC 9113, sections 6 and 7).
    let [headers, rst_stream, settings, goaway] = [1_u8, 3, 4, 7];
    let enhance_your_calm = 11;
    let [max_concurrent_streams, max_header_list_size] = [3_u16, 6];
    let (_folder, target) = small_target();
    let served = Served::new(&target, &[]);
    // GET, http, the path and the authority as literals without an index (RFC 7541, section 6.2.2 and appendix A).
    let request = [&[0x82, 0x86, 0x04, 10][..], b"/0/0/0.pbf", &[0x01, 1], b"x"].concat();
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(settings, 0, 0, &[]));
    for number in 0..20_000_u32 {
        flood.extend(frame(headers, 0x5, 2 * number + 1, &request));
        // CANCEL.
        flood.extend(frame(rst_stream, 0, 2 * number + 1, &8_u32.to_be_bytes()));
    }
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut writing = stream.try_clone().unwrap();
    let answered = std::thread::scope(|scope| {
        // The server may end the connection before all is written.
        scope.spawn(move || drop(writing.write_all(&flood)));
        frames(&mut stream)
    });
    let announced = &answered.iter().find(|(kind, _)| *kind == settings).unwrap().1;
    let setting = |name: u16| {
        let entry = announced.chunks(6).find(|entry| entry[..2] == name.to_be_bytes()).unwrap();
        u32::from_be_bytes(entry[2..].try_into().unwrap())
    };
    assert_eq!((setting(max_concurrent_streams), setting(max_header_list_size)), (32, 16_384));
    let end = &answered.iter().find(|(kind, _)| *kind == goaway).expect("the connection is ended").1;
    assert_eq!(u32::from_be_bytes(end[4..8].try_into().unwrap()), enhance_your_calm);
    let (_, metrics) = served.admin("/metrics");
    let asked = metrics.lines().find(|line| line.starts_with("oar_tiles_http_seconds_count{route=\"tile\""));
    let asked: u32 = asked.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap());
    assert!(asked < 10_000, "{asked} of 20,000 requests were worked on");
    assert_eq!(status(&served.get("/0/0/0.pbf", GZIP)), 200);
}

/// A header that says which client a trusted proxy asks for.
fn asked_for(client: &str) -> String {
    format!("X-Forwarded-For: {client}\r\n")
}

/// The number behind a name in the metrics.
fn metric(served: &Served, name: &str) -> u64 {
    let (_, metrics) = served.admin("/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name}: {metrics}")).parse().unwrap()
}

/// Sends a request whose answer nobody reads.
fn unread(port: u16, path: &str, client: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n{}\r\n", asked_for(client)).unwrap();
    stream
}

#[test]
fn answers_that_nobody_reads_take_bounded_memory_and_leave_room_for_others() {
    let (db, place) = (Db::with_facilities(50), tempfile::tempdir().unwrap());
    let (folder, config) = (place.path().join("tiles/"), place.path().join("serve.toml"));
    let lines = "[serve]\nunread_mb = 64\ncache_mb = 1\ntrusted_proxies = [\"127.0.0.1\"]\n";
    std::fs::write(&config, over_rows(lines)).unwrap();
    let config = config.to_str().unwrap();
    seed(&db.url, &folder, &["--config", config, "--zoom", "0-3", "--public-url", "relative"]).ok();
    // Tiles of more than the buffers of a connection, as no run of this program would write them. Each is 16 MB.
    for row in 0..8_u8 {
        std::fs::create_dir_all(folder.join("3/2")).unwrap();
        std::fs::write(folder.join(format!("3/2/{row}.pbf")), vec![row; 16 << 20]).unwrap();
    }
    let served = Served::new(folder.to_str().unwrap(), &["--config", config]);
    let held = || metric(&served, "oar_tiles_unread_bytes") >> 20;
    let cut = || metric(&served, "oar_tiles_answers_cut_total{reason=\"memory\"}");
    // One client has half of it: two tiles. The third answer ends, or is refused.
    let mut greedy: Vec<TcpStream> =
        (0..2).map(|row| unread(served.port, &format!("/3/2/{row}.pbf"), "192.0.2.1")).collect();
    until("they count", || held() == 32);
    let refused = served.get("/3/2/2.pbf", &asked_for("192.0.2.1"));
    assert_eq!((status(&refused), refused.header("cache-control")), (429, Some("no-store")));
    assert_eq!(status(&served.get("/0/0/0.pbf", &asked_for("192.0.2.2"))), 200);
    // Others fill the rest.
    greedy.push(unread(served.port, "/3/2/3.pbf", "192.0.2.2"));
    greedy.push(unread(served.port, "/3/2/4.pbf", "192.0.2.3"));
    until("all is taken", || held() == 64);
    assert_eq!(cut(), 0);
    // The next one gets room from the client with the most.
    greedy.push(unread(served.port, "/3/2/5.pbf", "192.0.2.4"));
    until("an answer ends for it", || cut() == 1);
    until("its memory is free", || held() <= 64);
    // Who reads gets everything meanwhile.
    let whole = served.get("/3/2/6.pbf", &asked_for("192.0.2.5"));
    assert!(status(&whole) == 200 && whole.body == vec![6; 16 << 20]);
    drop(greedy);
    until("nothing is held", || held() == 0);
}

/// The memory that a process has now, in MB.
fn resident_megabytes(process: u32) -> u64 {
    status_megabytes(process, "VmRSS:")
}

/// The requests for tiles that were answered.
fn answered_tiles(served: &Served) -> u64 {
    let (_, metrics) = served.admin("/metrics");
    let lines = metrics.lines().filter(|line| line.starts_with("oar_tiles_http_seconds_count{route=\"tile\""));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// Each tile takes a few kB in the target and 3.5 MB unpacked. Whoever unpacks all for which one connection may ask has
/// 112 MB; the client may have 8 MB, so that two tiles and the texts of refusals fit.
#[test]
fn tiles_are_not_unpacked_for_a_client_that_reads_none_of_them() {
    let (db, place) = (Db::with_facilities(50), tempfile::tempdir().unwrap());
    let (folder, config) = (place.path().join("tiles/"), place.path().join("serve.toml"));
    let lines = "[serve]\nunread_mb = 16\ncache_mb = 1\ntrusted_proxies = [\"127.0.0.1\"]\n";
    std::fs::write(&config, over_rows(lines)).unwrap();
    let config = config.to_str().unwrap();
    seed(&db.url, &folder, &["--config", config, "--zoom", "0-3", "--public-url", "relative"]).ok();
    let (mut paths, size) = (Vec::new(), 7 << 19);
    for (column, row) in (0..4_u8).flat_map(|column| (0..8_u8).map(move |row| (column, row))) {
        let mut packing = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packing.write_all(&vec![8 * column + row; size]).unwrap();
        std::fs::create_dir_all(folder.join(format!("3/{column}"))).unwrap();
        std::fs::write(folder.join(format!("3/{column}/{row}.pbf")), packing.finish().unwrap()).unwrap();
        paths.push(format!("/3/{column}/{row}.pbf"));
    }
    let served = Served::new(folder.to_str().unwrap(), &["--config", config]);
    // What a client reads is unpacked for it, one tile after the other; the server is warm then.
    for path in &paths[..4] {
        let whole = served.get(path, &asked_for("192.0.2.5"));
        assert_eq!((status(&whole), whole.body.len()), (200, size));
    }
    let (before, idle) = (answered_tiles(&served), resident_megabytes(served.child.id()));
    // SETTINGS_INITIAL_WINDOW_SIZE = 0 (RFC 9113, section 6.5.2), then 32 requests; the last field is
    // X-Forwarded-For without an index (RFC 7541, section 6.2.2).
    let mut attack = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    attack.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    for (number, path) in (0..).zip(&paths) {
        let path = [&[0x04, u8::try_from(path.len()).unwrap()][..], path.as_bytes()].concat();
        let from = [&[0x00, 15][..], b"x-forwarded-for", &[9], b"192.0.2.1"].concat();
        let request = [&[0x82, 0x86][..], &path, &[0x01, 1], b"x", &from].concat();
        attack.extend(frame(1, 0x5, 2 * number + 1, &request));
    }
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    stream.write_all(&attack).unwrap();
    until("all are answered", || answered_tiles(&served) == before + 32);
    until("the two that the client may have count", || metric(&served, "oar_tiles_unread_bytes") >> 20 == 7);
    let grown = status_megabytes(served.child.id(), "VmHWM:") - idle;
    assert!(grown < 40, "{grown} MB for 8 MB of answers");
    // The others were refused before the work: none was unpacked and then ended.
    assert_eq!(metric(&served, "oar_tiles_http_requests_total{route=\"tile\",status=\"429\"}"), 30);
    assert_eq!(metric(&served, "oar_tiles_answers_cut_total{reason=\"memory\"}"), 0);
    let other = served.get(&paths[31], &asked_for("192.0.2.2"));
    assert_eq!((status(&other), other.body.len()), (200, size), "others get their tiles meanwhile");
    drop(stream);
    until("nothing is held", || metric(&served, "oar_tiles_unread_bytes") == 0);
}

#[test]
fn the_body_of_a_job_that_does_not_come_is_not_waited_for() {
    let fleet = fleet_with("t.mbtiles", str::to_owned);
    let served = writer(&fleet, "t.mbtiles");
    let mut stream = TcpStream::connect(("127.0.0.1", served.admin)).unwrap();
    let head = format!("POST /jobs HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: 14\r\n", with_token());
    write!(stream, "{head}\r\n{{\"what\":").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
    let mut code = [0; 12];
    stream.read_exact(&mut code).unwrap();
    assert_eq!(std::str::from_utf8(&code).unwrap(), "HTTP/1.1 408");
    let (code, job, _) = Answers::default().submit(&served, "", &serde_json::json!({ "what": "log" }));
    assert_eq!(code, 202, "{job}");
}

#[test]
fn two_clients_do_not_take_all_places_of_those_who_wait_for_changes() {
    let (_folder, target) = small_target();
    let served = Served::new(&target, &["--changes", "--trusted-proxy", "127.0.0.1"]);
    let subscribes = |client: &str| {
        let mut stream = unread(served.port, "/changes", client);
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).unwrap();
        (begin == *b"HTTP/1.1 200", stream)
    };
    let mut all: Vec<TcpStream> = Vec::new();
    for number in 0..256 {
        let (is_there, stream) = subscribes(["192.0.2.1", "192.0.2.2"][number % 2]);
        assert!(is_there, "{number}");
        all.push(stream);
    }
    let (is_there, _own) = subscribes("192.0.2.1");
    assert!(!is_there, "it has as many as the other");
    let (is_there, _stream) = subscribes("192.0.2.3");
    assert!(is_there);
}

/// Starts the server of a target under a limit of open files, as `ulimit` takes it.
fn limited(target: &str, limit: &str, log: &std::path::Path) -> Served {
    let with = program();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit {limit}; exec \"$0\" \"$@\"")]).arg(with.get_program());
    for (name, value) in with.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        command.env(name, value);
    }
    command.args(["serve", target, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
    command.args(["--trusted-proxy", "127.0.0.1"]).stderr(std::fs::File::create(log).unwrap());
    Served::of(&mut command)
}

#[test]
fn a_flood_of_connections_leaves_descriptors_for_the_admin_listener() {
    let (folder, target) = small_target();
    let log = folder.path().join("log");
    // The soft limit is raised; a hard one leaves fewer connections.
    for (limit, said) in [("-Sn 160", None), ("-n 160", Some("the system allows 160 open files"))] {
        let served = limited(&target, limit, &log);
        let flood: Vec<TcpStream> = (0..400).map(|_| TcpStream::connect(("127.0.0.1", served.port)).unwrap()).collect();
        for _ in 0..20 {
            assert_eq!(served.admin("/livez"), (200, "ok\n".to_owned()), "{limit}");
        }
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(!text.contains("could not be accepted"), "{limit}: {text}");
        assert!(said.is_none_or(|said| text.contains(said)), "{limit}: {text}");
        let taken = text.lines().filter(|line| line.contains("connections are taken")).count();
        assert_eq!(taken, usize::from(said.is_some()), "one line for a flood: {text}");
        drop(flood);
    }
}

#[test]
fn no_url_of_a_request_is_fetched_and_headers_that_lie_change_no_answer() {
    let fleet = fleet_with("t.mbtiles", str::to_owned);
    let served = writer(&fleet, "t.mbtiles");
    // Whoever fetches one of these is heard here.
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = trap.local_addr().unwrap().to_string();
    let url = format!("http://{host}/trap");
    trap.set_nonblocking(true).unwrap();
    let lies = format!(
        "X-Forwarded-Host: {host}\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /evil\r\nForwarded: host={host};proto=https;for=127.0.0.1\r\n\
         X-Forwarded-For: 127.0.0.1\r\nX-Original-URL: /metrics\r\nX-Rewrite-URL: {url}\r\nX-HTTP-Method-Override: DELETE\r\nReferer: {url}\r\nVia: 1.1 {host}\r\n"
    );
    for port in [served.port, served.admin] {
        for path in [
            &*url,
            "/tiles.json",
            "/0/0/0.pbf",
            "/jobs",
            "/livez",
            &format!("/?url={url}"),
            &format!("//{host}/0/0/0.pbf"),
        ] {
            let (plain, twisted) = (ask(port, "GET", path, ""), ask(port, "GET", path, &lies));
            assert_eq!(status(&plain), status(&twisted), "{path}");
            // The admin listener's answers about the process change by themselves.
            assert!(plain.body == twisted.body, "{path}: {}", String::from_utf8_lossy(&twisted.body));
            assert!(!twisted.head.contains(&host) && !String::from_utf8_lossy(&twisted.body).contains(&host), "{path}");
        }
        ask(port, "CONNECT", &host, "");
        // Another name of the host, as a page gives it whose name points here.
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "GET /tiles.json HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        assert!(!String::from_utf8_lossy(&read_answer(stream).body).contains(&host));
    }
    let polygon = serde_json::json!({ "type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]],
        "crs": { "type": "link", "properties": { "href": url } } });
    let mut answers = Answers::default();
    for (number, (job, expected)) in [
        (serde_json::json!({ "what": "area", "area": url }), 400),
        (serde_json::json!({ "what": "area", "area": { "$ref": url } }), 400),
        (serde_json::json!({ "what": "tiles", "tiles": [url] }), 400),
        (serde_json::json!({ "what": "seed", "output": url }), 400),
        (serde_json::json!({ "what": "log", "callback": url }), 400),
        (serde_json::json!({ "what": "area", "area": polygon, "zoom": "0" }), 202),
    ]
    .into_iter()
    .enumerate()
    {
        let (code, answer, head) = answers.submit(&served, &format!("{lies}Idempotency-Key: {url}?{number}\r\n"), &job);
        assert_eq!(code, expected, "{job}: {answer}");
        assert!(head.header("location").is_none_or(|location| location.starts_with("/jobs/")));
    }
    // Who says that they come from here has no token for that.
    let body = format!("{lies}Content-Type: application/json\r\nContent-Length: 14\r\n\r\n{{\"what\":\"log\"}}");
    assert_eq!(status(&ask(served.admin, "POST", "/jobs", &body)), 401);
    assert_eq!(trap.accept().map(drop).unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "somebody has fetched it");
    // It would have been heard.
    let _caller = TcpStream::connect(trap.local_addr().unwrap()).unwrap();
    until("the trap hears", || trap.accept().is_ok());
}

/// A proxy in front may find another end of such a body than the server, and then one client's bytes are another one's
/// request.
#[test]
fn a_body_that_two_readers_may_read_differently_is_refused_and_ends_its_connection() {
    let (_folder, target) = small_target();
    let served = Served::new(&target, &[]);
    for codings in ["x, chunked", "chunked, chunked", "identity, chunked", "gzip,chunked", ", chunked"] {
        for (port, path) in [(served.port, "/0/0/0.pbf"), (served.admin, "/livez")] {
            let next = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: {codings}\r\n\r\n0\r\n\r\n{next}"
            );
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut all = Vec::new();
            // The rest of what was sent may reset the connection.
            drop(stream.read_to_end(&mut all));
            let text = String::from_utf8_lossy(&all);
            assert!(text.starts_with("HTTP/1.1 400 "), "{codings}: {text}");
            assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{codings}: {text}");
        }
    }
    let plain = "Transfer-Encoding: Chunked\r\n\r\n0\r\n";
    assert_eq!(status(&ask(served.port, "GET", "/0/0/0.pbf", plain)), 200);
}

/// A page may let its own name lead to 127.0.0.1; a browser then lets it read the answers.
#[test]
fn another_sites_name_for_this_machine_opens_neither_the_admin_listener_nor_a_preview() {
    let (folder, target) = small_target();
    let config = folder.path().join("hosts.toml");
    std::fs::write(&config, "[serve]\nhosts = [\"metrics.internal\"]\n").unwrap();
    let served = Served::new(&target, &["--config", config.to_str().unwrap()]);
    let asked = |port: u16, request: &str, host: &str| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
        read_answer(stream)
    };
    let mut preview = crate::support::program::program();
    let preview = Served::of(preview.args(["preview", &target]));
    let known = ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:9180", "[::1]", "[::1]:80"];
    let strangers = [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
    ];
    for host in known {
        assert_eq!(status(&asked(served.admin, "GET /livez", host)), 200, "{host}");
        let shown = asked(preview.port, "GET /tiles.json", host);
        assert_eq!(status(&shown), 200, "{host}");
        assert_eq!(shown.header("access-control-allow-origin"), None, "pages of other sites read it");
    }
    for host in ["metrics.internal", "Metrics.Internal:80"] {
        assert_eq!(status(&asked(served.admin, "GET /metrics", host)), 200, "{host}");
        assert_eq!(status(&asked(preview.port, "GET /tiles.json", host)), 421, "{host}");
    }
    for host in strangers {
        for request in ["GET /metrics", "GET /status.json", "POST /jobs", "DELETE /jobs/1"] {
            assert_eq!(status(&asked(served.admin, request, host)), 421, "{host} {request}");
        }
        for request in ["GET /", "GET /tiles.json", "GET /0/0/0.pbf", "GET /changes"] {
            assert_eq!(status(&asked(preview.port, request, host)), 421, "{host} {request}");
        }
        assert_eq!(status(&asked(served.port, "GET /tiles.json", host)), 200, "tiles are for everybody");
    }
    // A whole address as the target of the request names a host, too.
    assert_eq!(status(&asked(served.admin, "GET http://evil.example/livez", "localhost")), 421);
    assert_eq!(asked(served.port, "GET /tiles.json", "x").header("access-control-allow-origin"), Some("*"));
}

/// The most memory that a process had, in MB.
fn peak_megabytes(process: u32) -> u64 {
    status_megabytes(process, "VmHWM:")
}

/// A number of `/proc/…/status`, in MB.
fn status_megabytes(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[test]
fn a_job_for_a_zigzag_over_the_world_takes_little_memory_and_becomes_few_boxes() {
    let fleet = fleet_with("t.mbtiles", str::to_owned);
    let served = writer(&fleet, "t.mbtiles");
    let before = peak_megabytes(served.child.id());
    let zigzag: Vec<[i32; 2]> = (0..60_000).map(|step| [step % 170, if step % 2 == 0 { -85 } else { 85 }]).collect();
    let tall = |step: i32| {
        let west = f64::from(step) / 8.0 - 150.0;
        vec![vec![[west, -85.0], [west + 0.01, 85.0], [west + 0.02, -85.0], [west, -85.0]]]
    };
    let many: Vec<_> = (0..2_400).map(tall).collect();
    let mut answers = Answers::default();
    for area in [
        serde_json::json!({ "type": "Polygon", "coordinates": [zigzag] }),
        serde_json::json!({ "type": "MultiPolygon", "coordinates": many }),
    ] {
        let (code, job, _) = answers.submit(&served, "", &serde_json::json!({ "what": "area", "area": area }));
        assert_eq!(code, 202, "{job}");
        let parts = job["job"]["area"].as_array().unwrap();
        assert!(parts.len() <= 400 && parts.iter().all(serde_json::Value::is_array), "{} parts", parts.len());
    }
    // As texts, which only the program itself writes.
    let tall = |step: i32| format!("POLYGON(({step} -85,{step} 85,{} -85,{step} -85))", step + 1);
    let texts: Vec<String> = (0..160).flat_map(|_| (0..16).map(tall)).collect();
    let (code, refused, _) = answers.submit(&served, "", &serde_json::json!({ "what": "area", "area": texts }));
    assert_eq!((code, refused["error"].as_str().unwrap().contains("too long and winding")), (400, true), "{refused}");
    let grown = peak_megabytes(served.child.id()) - before;
    assert!(grown < 250, "{grown} MB");
}
