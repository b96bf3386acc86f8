//! `diff` with a running endpoint: a target and what a server answers, feature by feature.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::certificates::certificates;
use crate::support::nginx::Nginx;
use crate::support::program::{ROWS_LAYER, Run, over_rows, program, run};
use crate::support::served::{Served, small_target};
use crate::support::stub::{Stub, StubAnswer, StubRequest};
use crate::support::tracked::differences;
use crate::support::{Archive, Db, seed};

const TILES: &str = "{z}/{x}/{y}.pbf";

fn command(target: impl AsRef<Path>, url: &str, arguments: &[&str]) -> Command {
    let mut command = program();
    command.arg("diff").arg(target.as_ref()).args([url, "--rate", "1000"]).args(arguments);
    command
}

fn diff(target: impl AsRef<Path>, url: &str, arguments: &[&str]) -> Run {
    run(&mut command(target, url, arguments))
}

fn report(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap()
}

/// A count of a report, added up over its zooms.
fn sum(report: &Value, name: &str) -> usize {
    let zooms = report["zooms"].as_array().unwrap();
    zooms.iter().map(|zoom| usize::try_from(zoom[name].as_u64().unwrap()).unwrap()).sum()
}

#[test]
fn a_target_equals_what_servers_make_of_it() {
    let (_folder, target) = small_target();
    let count = Archive::open(Path::new(&target)).stored().len();
    let served = Served::new(&target, &[]);
    let same = report(&diff(&target, &format!("{}{TILES}", served.url), &["--json"]).ok());
    assert_eq!((sum(&same, "equal"), sum(&same, "packed_otherwise")), (count, 0), "{same}");
    assert_eq!(same["b"], format!("{}{TILES}", served.url));
    // A query may hold a key, and output goes into logs.
    let keyed = diff(&target, &format!("{}{TILES}?key=secret", served.url), &["--json"]).ok();
    assert!(!keyed.stdout.contains("secret") && !keyed.stderr.contains("secret"), "{} {}", keyed.stdout, keyed.stderr);
    assert_eq!(report(&keyed)["b"], format!("{}{TILES}?…", served.url));
    // nginx, with files of the same tiles, and with TLS before the server.
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("files");
    run(program().arg("copy").arg(&target).arg(&files)).ok();
    let nginx = Nginx::of_folder(&files);
    let plain = diff(&target, &format!("http://127.0.0.1:{}/{TILES}", nginx.port), &[]).ok();
    assert!(plain.stderr.contains(" tiles, at most 1000 a second"), "{}", plain.stderr);
    let authority = certificates(folder.path(), "own");
    let nginx = Nginx::with_tls_before(&served.url, folder.path());
    let https = format!("https://localhost:{}/admin/{TILES}?v=1", nginx.port);
    run(command(&target, &https, &[]).env("SSL_CERT_FILE", &authority)).ok();
    diff(&target, &https, &[]).fails(1, &["its certificate is not trusted", "SSL_CERT_FILE names further"]);
    // Rows counted from the south, as TMS has them.
    let port = served.port;
    let south = Stub::new(move |request| {
        let numbers: Vec<u32> = request.path[1..].split('/').map(|part| part.parse().unwrap()).collect();
        let [z, x, y] = [numbers[0], numbers[1], (1 << numbers[0]) - 1 - numbers[2]];
        let answer = crate::support::nginx::ask(port, "GET", &format!("/{z}/{x}/{y}.pbf"), "");
        StubAnswer::Sends(200, String::new(), answer.body)
    });
    diff(&target, &format!("{}/{{z}}/{{x}}/{{-y}}", south.url), &["--sample", "8"]).ok();
}

#[test]
fn each_kind_of_difference_is_counted_and_named() {
    let db = Db::with_facilities(300);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (a, b) = (path("a.mbtiles"), path("b.mbtiles"));
    seed(&db.url, &a, &["--zoom", "0-6"]).ok();
    db.run(
        "UPDATE api_facility SET name = name || '!' WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 3);
         UPDATE api_facility SET location = ST_Translate(location, 0.001, 0) WHERE id = (SELECT min(id) FROM api_facility);
         DELETE FROM api_facility WHERE id = (SELECT max(id) FROM api_facility);
         INSERT INTO api_facility SELECT 'new', name, address, country_code, 'SRID=4326;POINT(-150 -60)', is_closed, now(), now()
           FROM api_facility LIMIT 1",
    );
    seed(&db.url, &b, &["--zoom", "0-6"]).ok();
    let (one, other) = (Archive::open(&a).stored(), Archive::open(&b).stored());
    let wrong = differences(&one, &other);
    let served = Served::new(b.to_str().unwrap(), &[]);
    let url = format!("{}{TILES}", served.url);
    let all: String = one.keys().chain(other.keys()).map(|(z, x, y)| format!("{z}/{x}/{y}\n")).collect();
    // Two tiles that neither has.
    std::fs::write(path("all.txt"), format!("{all}6/0/0\n5/0/0\n")).unwrap();
    let list = ["--tiles", path("all.txt").to_str().unwrap()].map(str::to_owned);
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    let message = format!("differ in {} tiles", wrong.len());
    let found = diff(&a, &url, &[&list[..], &["--json"]].concat()).fails(1, &[&message]);
    let found = report(&found);
    let count = |holds: &dyn Fn(&(u8, u32, u32)) -> bool| wrong.iter().filter(|tile| holds(tile)).count();
    assert_eq!(sum(&found, "only_a"), count(&|tile| !other.contains_key(tile)), "{found}");
    assert_eq!(sum(&found, "only_b"), count(&|tile| !one.contains_key(tile)), "{found}");
    assert_eq!(sum(&found, "differ"), count(&|tile| one.contains_key(tile) && other.contains_key(tile)), "{found}");
    assert_eq!(sum(&found, "equal"), one.keys().filter(|tile| one.get(tile) == other.get(tile)).count(), "{found}");
    assert_eq!(sum(&found, "both_empty"), 2, "{found}");
    // At zoom 0 nobody sees that the one facility has moved.
    let world = &found["differing"][0];
    assert_eq!(world["tile"], "0/0/0");
    assert_eq!(
        world["layers"][0],
        serde_json::json!({ "layer": "facilities", "extents": null, "only_a": 1, "only_b": 1, "moved": 0, "farthest": null,
            "altered": 3, "properties": ["name"], "other_ids": 0 })
    );
    let moved = |tile: &&Value| tile["layers"][0]["moved"] == 1 && tile["tile"].as_str().unwrap().starts_with("6/");
    let moved = found["differing"].as_array().unwrap().iter().find(moved).expect("a facility that has moved");
    assert_eq!(moved["layers"][0]["farthest"], 1, "{moved}");
    // For a person.
    let table = diff(&a, &url, &list).fails(1, &[&message]);
    let line = "0/0/0 facilities: 1 feature only in A; 1 feature only in B; 3 features with other properties (name)\n";
    assert!(table.stdout.contains(line), "{}", table.stdout);
    assert!(table.stdout.contains(" moved, by 1 unit at most\n"), "{}", table.stdout);
    assert!(table.stdout.contains("\nasked for, and empty in both: 2\n"), "{}", table.stdout);
    let map = diff(&a, &url, &[&list[..], &["--geojson", "--zoom", "5"]].concat()).fails(1, &[]);
    assert_eq!(report(&map)["features"].as_array().unwrap().len(), wrong.iter().filter(|tile| tile.0 == 5).count());
}

#[test]
fn another_order_of_properties_is_no_difference() {
    let db = Db::with_facilities(100);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let layer = ROWS_LAYER.replace("\"id\", \"name\", \"address\"", "\"address\", \"name\", \"id\"");
    assert_ne!(layer, ROWS_LAYER);
    std::fs::write(path("other.toml"), layer).unwrap();
    let (a, b) = (path("a.mbtiles"), path("b.mbtiles"));
    seed(&db.url, &a, &["--zoom", "0-3"]).ok();
    seed(&db.url, &b, &["--zoom", "0-3", "--config", path("other.toml").to_str().unwrap()]).ok();
    let served = Served::new(b.to_str().unwrap(), &[]);
    let found = report(&diff(&a, &format!("{}{TILES}", served.url), &["--json"]).ok());
    let count = Archive::open(&a).stored().len();
    assert_eq!((sum(&found, "equal"), sum(&found, "packed_otherwise")), (count, count), "{found}");
}

/// Compares a target with a server that answers as a function says; returns what the server was asked, too.
fn beside(
    answer: impl FnMut(&StubRequest) -> StubAnswer + Send + 'static,
    arguments: &[&str],
) -> (Run, Vec<StubRequest>) {
    let (_folder, target) = small_target();
    let stub = Stub::new(answer);
    let found = diff(target, &format!("{}/{TILES}", stub.url), arguments);
    (found, stub.asked())
}

#[test]
fn what_is_no_tile_is_named_and_asked_for_once() {
    let gzip = |body: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, body).unwrap();
        packed.finish().unwrap()
    };
    let sends = |headers: &str, body: &[u8]| StubAnswer::Sends(200, headers.to_owned(), body.to_vec());
    let cases = [
        (
            sends("content-type: text/html; charset=utf-8\r\n", b"<html>"),
            "0/0/0: it answers 200 with a page (Content-Type: text/html; charset=utf-8)",
        ),
        (sends("", b"{\"error\": 1}"), "0/0/0: it answers 200, but its vector tile is broken: "),
        (sends("", &gzip(b"")), "come without Content-Encoding: no map client can read them"),
        (
            sends("content-encoding: gzip\r\n", b"plain"),
            "comes with Content-Encoding: gzip, and its body is not packed so",
        ),
        (sends("content-encoding: gzip\r\n", &gzip(b"cut")[..9]), "its gzip is broken"),
        (sends("content-encoding: br\r\n", b"x"), "comes with Content-Encoding: br, and only gzip was asked for"),
        (sends("", &vec![0; (64 << 20) + 1]), "its answer has more than 64 MB"),
        (StubAnswer::of(500, "no"), "0/0/0: it answers 500 Internal Server Error"),
        (StubAnswer::of(401, "no"), "it answers 401 Unauthorized: give what it asks for, such as --header"),
        (StubAnswer::of(403, "no"), "a bucket answers so for tiles that it does not have"),
        (
            StubAnswer::Says(429, "retry-after: 3600\r\n", String::new()),
            "asks for a pause of 3600 s: compare later, with a smaller --rate",
        ),
        (StubAnswer::Says(302, "location: /elsewhere\r\n", String::new()), "it redirects more than 3 times"),
        (
            StubAnswer::Says(302, "location: //other.example/0/0/0.pbf\r\n", String::new()),
            "with the address \"//other.example/0/0/0.pbf\", and no other server is asked",
        ),
        (StubAnswer::Cut, "0/0/0: it cannot be reached: "),
    ];
    for (answer, text) in cases {
        let redirects = matches!(&answer, StubAnswer::Says(_, "location: /elsewhere\r\n", _));
        let (found, asked) = beside(move |_| answer.clone(), &[]);
        let found = found.fails(1, &[text]);
        assert_eq!(found.stdout, "", "{text}");
        assert!(asked.len() == if redirects { 4 } else { 1 } || text.contains("reached"), "{text}: {}", asked.len());
    }
    // Nobody listens; and another server is never asked.
    let (_folder, target) = small_target();
    diff(&target, &format!("http://127.0.0.1:1/{TILES}"), &[]).fails(1, &["it cannot be reached: "]);
    let other = Stub::new(|_| StubAnswer::of(404, ""));
    let location: &'static str = format!("location: {}/0/0/0.pbf\r\n", other.url).leak();
    let (found, _) =
        beside(move |_| StubAnswer::Says(301, location, String::new()), &["--header", "Authorization: Bearer x"]);
    found.fails(1, &["no other server is asked: give the address at which the tiles are"]);
    assert_eq!(other.lines(), [""; 0]);
}

#[test]
fn no_answer_for_some_tiles_is_told_apart_from_a_difference() {
    let (_folder, target) = small_target();
    let served = Served::new(&target, &[]);
    let through = |request: &StubRequest, port: u16| {
        let answer = crate::support::nginx::ask(port, "GET", &request.path, "");
        StubAnswer::Sends(answer.head.split(' ').nth(1).unwrap().parse().unwrap(), String::new(), answer.body)
    };
    let port = served.port;
    let one = Stub::new(
        move |request| {
            if request.path == "/1/0/0.pbf" { StubAnswer::of(500, "") } else { through(request, port) }
        },
    );
    let found = diff(&target, &format!("{}/{TILES}", one.url), &[]);
    let text =
        "tiles that cannot be compared: 1, first 1/0/0: it answers 500 Internal Server Error. All others are equal";
    let found = found.fails(1, &[text]);
    assert!(found.stdout.contains("not compared: 1, first 1/0/0: it answers 500"), "{}", found.stdout);
    // Nobody waits for a server that is gone.
    let gone = Stub::new(
        move |request| {
            if request.path == "/0/0/0.pbf" { through(request, port) } else { StubAnswer::of(502, "") }
        },
    );
    diff(&target, &format!("{}/{TILES}", gone.url), &[]).fails(1, &[": it answers 502 Bad Gateway"]);
    assert_eq!(gone.asked().len(), 1 + 5);
    // A server without these tiles, as at a wrong path.
    let nothing = Stub::new(|_| StubAnswer::of(404, "<html>"));
    let found = diff(&target, &format!("{}/{TILES}", nothing.url), &[]).fails(1, &["differ in "]);
    assert!(found.stdout.contains("B has none of these tiles: is its address right?\n"), "{}", found.stdout);
    let empty = Stub::new(|_| StubAnswer::of(204, ""));
    diff(&target, &format!("{}/{TILES}", empty.url), &["--zoom", "0"]).fails(1, &["differ in 1 tile"]);
}

#[test]
fn a_busy_server_is_asked_more_slowly_and_says_who_asks() {
    let (_folder, target) = small_target();
    let served = Served::new(&target, &[]);
    let port = served.port;
    let mut asked = 0;
    let busy = Stub::new(move |request| {
        asked += 1;
        match asked {
            2 => StubAnswer::Says(429, "retry-after: 1\r\n", String::new()),
            4 => StubAnswer::Says(503, "retry-after: 0\r\n", String::new()),
            5 => StubAnswer::Says(307, "location: /moved.pbf?x=1\r\n", String::new()),
            _ if request.path == "/moved.pbf?x=1" => StubAnswer::of(404, ""),
            _ => StubAnswer::Sends(200, String::new(), crate::support::nginx::ask(port, "GET", &request.path, "").body),
        }
    });
    let arguments = ["--zoom", "0-1", "--header", "Referer: https://map.example/", "--header", "x-key:1"];
    let found = diff(&target, &format!("{}/{TILES}", busy.url), &arguments).fails(1, &[
        "differ in 1 tile",
        "answers 429 Too Many Requests: it is left alone for 1.0 s, and then at most 500.0 requests a second are sent",
        "answers 503 Service Unavailable: it is left alone for ",
    ]);
    let tiles = Archive::open(Path::new(&target)).stored().keys().filter(|tile| tile.0 < 2).count();
    assert_eq!(busy.asked().len(), tiles + 3, "{}", found.stderr);
    for request in busy.asked() {
        assert!(request.header("user-agent").unwrap().starts_with("oar-tiles/"), "{request:?}");
        assert_eq!(request.header("accept-encoding"), Some("gzip"));
        assert_eq!((request.header("referer"), request.header("x-key")), (Some("https://map.example/"), Some("1")));
    }
}

#[test]
fn addresses_and_flags_that_make_no_sense_are_refused_with_what_to_write() {
    let (folder, target) = small_target();
    let list = folder.path().join("list.txt");
    std::fs::write(&list, "# nothing\n").unwrap();
    let list = list.to_str().unwrap();
    let good = "https://tiles.example/{z}/{x}/{y}.pbf";
    let cases: [(&[&str], &str); 15] = [
        (&[&target, "https://tiles.example/tiles.json"], "no address of tiles: \"tiles.json\" has 0 of {z}"),
        (&[&target, "https://tiles.example"], "no address of tiles: \"\" has 0 of {z}"),
        (&[&target, "https://{s}.example/{z}/{x}/{y}.png"], "no URL: write https://host/path/{z}/{x}/{y}.pbf"),
        (&[&target, "https://tiles.example/{z}/{x}/{y}{r}.pbf"], "has the placeholder {r}"),
        (&[&target, "https://tiles.example/{layer}/{z}/{x}/{y}"], "{layer} and {version} are not filled in here"),
        (&[&target, "https://tiles.example/a b/{z}/{x}/{y}"], "no URL: write "),
        (&[&target, "https://user:secret@tiles.example/{z}/{x}/{y}"], "give --header 'Authorization: …' instead"),
        (&[good, &target], "name the target first, as in oar-tiles diff TARGET URL"),
        (&[good, good], "name the target first"),
        (&[&target, good, "--header", "secret"], "--header: write 'Name: value'"),
        (&[&target, good, "--header", "X: secret\nY: 1"], "--header \"X\": write 'Name: value'"),
        (&[&target, &target, "--rate", "5"], "--tiles, --sample, --rate and --header are for a server"),
        (&[&target, good, "--tiles", list], "there is no tile to compare"),
        (&[&target, good, "--tiles", "nowhere.txt"], "cannot read the tile list nowhere.txt"),
        (&[&target, good, "--rate", "0"], "0 is not in 1..=1000"),
    ];
    for (arguments, text) in cases {
        let refused = run(program().arg("diff").args(arguments)).fails(2, &[text]);
        assert!(!refused.stderr.contains("secret"), "{}", refused.stderr);
    }
    // The target of the configuration.
    let config = folder.path().join("own.toml");
    std::fs::write(&config, over_rows(&format!("[tileset]\noutput = \"{target}\"\n"))).unwrap();
    let served = Served::new(&target, &[]);
    let url = format!("{}{TILES}", served.url);
    run(program().args(["diff", &url, "--rate", "1000", "--config"]).arg(&config)).ok();
}
