//! Filters that are too long for an address: they are posted, and tiles, counts and TileJSON are asked for with their
//! id.

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::support::folder::Folder;
use crate::support::nginx::{Answer, ask, read_answer};
use crate::support::program::seed;
use crate::support::served::{GZIP, Served, status};
use crate::support::{Db, until};

const ITEMS: &str = "
CREATE TABLE items (id int PRIMARY KEY, kind text, geom geometry(Point, 4326) NOT NULL);
INSERT INTO items SELECT i, (ARRAY['a', 'b', 'c'])[1 + i % 3], ST_SetSRID(ST_MakePoint(i * 7 % 340 - 170, i * 3 % 140 - 70), 4326)
FROM generate_series(1, 300) AS i;
CREATE INDEX ON items USING gist (geom)";

const CONFIG: &str = "[tileset]\nname = \"items\"
[[tileset.parameter]]\nname = \"kind\"\ntype = \"text[]\"\nfacet = { items = \"kind\" }
[[tileset.parameter]]\nname = \"id\"\ntype = \"integer[]\"\nmax_values = 10000\nwhere = { items = \"id = ANY (!id!)\" }
[[tileset.parameter]]\nname = \"area\"\ntype = \"polygon\"\nwhere = { items = \"ST_Within(geom, !area!)\" }
[[tileset.parameter]]\nname = \"box\"\ntype = \"box\"\nwhere = { items = \"geom && !box!\" }
[[layer]]\nname = \"items\"\ntable = \"items\"\ngeometry = \"geom\"\nproperties = [\"id\"]\nfacets = [\"kind\"]\n";

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

struct World {
    db: Db,
    folder: Folder,
}

impl World {
    fn new() -> World {
        let world = World { db: Db::new(), folder: Folder::new() };
        world.db.run(ITEMS);
        world
    }

    fn served(&self, serve: &str) -> Served {
        let (config, target) =
            (self.folder.config(&format!("{CONFIG}[serve]\n{serve}\n")), self.folder.beside("t.mbtiles"));
        seed(&self.db.url, &target, &["--config", &config, "--zoom", "0"]).ok();
        let own = ["--config", &config, "--live", "--database-url", &self.db.url];
        Served::new(target.to_str().unwrap(), &own)
    }
}

/// The beginning of a request that posts something.
fn head(path: &str, kind: &str, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n{more}\r\n")
}

fn sends(served: &Served, text: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    // The server may have answered, and closed, before it has read all.
    drop(stream.write_all(text));
    stream
}

fn post(served: &Served, kind: &str, more: &str, body: &str) -> Answer {
    let head = head("/filters", kind, &format!("Content-Length: {}\r\n{more}", body.len()));
    read_answer(sends(served, format!("{head}{body}").as_bytes()))
}

#[track_caller]
fn id_of(answer: &Answer) -> String {
    assert_eq!(status(answer), 200, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let json: Value = serde_json::from_slice(&answer.body).unwrap();
    json["filter"].as_str().unwrap().to_owned()
}

fn error_of(answer: &Answer) -> String {
    let error: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    error["error"].as_str().unwrap_or_default().to_owned()
}

/// A star around the origin with this many positions: no box, and no edge that crosses another.
fn star(positions: u32) -> Vec<[f64; 2]> {
    let corner = |at: u32| {
        let (angle, far) =
            (f64::from(at) / f64::from(positions) * std::f64::consts::TAU, 40.0 + f64::from(at % 2) * 0.1);
        [(angle.cos() * far * 2.0 * 1e4).round() / 1e4, (angle.sin() * far * 1e4).round() / 1e4]
    };
    let mut all: Vec<[f64; 2]> = (0..positions).map(corner).collect();
    all.push(all[0]);
    all
}

#[test]
fn a_posted_filter_has_one_id_and_chooses_the_rows_of_its_values() {
    let world = World::new();
    let served = world.served("");
    let by_json = |body: Value| post(&served, JSON, "", &body.to_string());
    let id = id_of(&by_json(json!({ "kind": ["b", "a", "a"], "id": null, "area": "" })));
    for other in [by_json(json!({ "kind": ["a", "b"] })), post(&served, FORM, "", "kind=b&kind=%61&id=")] {
        assert_eq!(id_of(&other), id);
    }
    let tile = |query: &str| {
        let answer = served.get(&format!("/1/1/0.pbf?{query}"), GZIP);
        assert_eq!(status(&answer), 200, "{query} {}", error_of(&answer));
        answer.body
    };
    assert!(tile(&format!("filter={id}")) == tile("kind=a&kind=b"));
    assert!(tile(&format!("v=1&filter={id}&kind=")) == tile("kind=a&kind=b"));
    assert!(tile(&format!("filter={id}")) != tile(""));
    let count = |query: &str| served.json(&format!("/count.json?{query}"));
    assert_eq!(count(&format!("filter={id}")), count("kind=a&kind=b"));
    let tiles = served.json(&format!("/tiles.json?v=3&filter={id}"))["tiles"][0].clone();
    assert_eq!(tiles, format!("{}{{z}}/{{x}}/{{y}}.pbf?filter={id}", served.url));
    // What no address holds: thousands of ids, and of positions.
    let many: Vec<u32> = (0..10_000).map(|at| if at < 100 { at } else { at * 100 }).collect();
    let ids = id_of(&by_json(json!({ "id": many, "box": [-170, -70, 170, 70] })));
    let counted =
        world.db.value::<i64>("SELECT count(*) FROM items WHERE id < 100 OR id % 100 = 0 AND id >= 10000").to_string();
    assert_eq!(count(&format!("filter={ids}"))["layers"]["items"]["count"].to_string(), counted);
    let area = json!({ "type": "Polygon", "coordinates": [star(9_000)] });
    let large = id_of(&by_json(json!({ "area": area, "kind": "c" })));
    let sql = format!(
        "SELECT count(*) FROM items WHERE kind = 'c' AND ST_Within(geom, ST_SetSRID(ST_GeomFromGeoJSON('{area}'), 4326))"
    );
    assert_eq!(
        count(&format!("filter={large}"))["layers"]["items"]["count"].to_string(),
        world.db.value::<i64>(&sql).to_string()
    );
    // Another server gives the same id, and says that it does not have the filter.
    let other = world.served("");
    let unknown = other.get(&format!("/1/1/0.pbf?filter={id}"), GZIP);
    assert_eq!((status(&unknown), unknown.header("cache-control")), (404, Some("no-store")));
    assert_eq!(error_of(&unknown), "this server does not have the filter, or not any more: post it again");
    assert_eq!(status(&other.get(&format!("/count.json?filter={id}"), "")), 404);
    assert_eq!(status(&other.get(&format!("/tiles.json?filter={id}"), "")), 404);
    assert_eq!(id_of(&post(&other, FORM, "", "kind=a&kind=b")), id);
    let here = other.get(&format!("/1/1/0.pbf?filter={id}"), GZIP);
    assert!(status(&here) == 200 && here.body == tile("kind=a&kind=b"));
    // It stands alone.
    for (query, what) in [
        (format!("filter={id}&kind=a"), "filter stands alone: post all values together"),
        (format!("filter={id}&filter={id}"), "filter stands there twice: post all values together"),
        ("filter=abc".to_owned(), "filter is no id: post the values to filters, which answers with it"),
    ] {
        let refused = served.get(&format!("/1/1/0.pbf?{query}"), GZIP);
        assert_eq!((status(&refused), error_of(&refused).as_str()), (400, what), "{query}");
    }
}

#[test]
fn what_is_no_filter_is_refused_with_the_reason() {
    let world = World::new();
    let served = world.served("allowed_origins = [\"https://map.example\"]");
    let deep = format!("{{\"area\": {}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let comb: Vec<String> =
        (0..9_000).map(|at| format!("{} {}", if at % 2 == 0 { -170 } else { 170 }, f64::from(at) * 0.01)).collect();
    let comb = format!("POLYGON(({},-170 89.99,-170 0))", comb.join(","));
    let many = json!({ "area": { "type": "Polygon", "coordinates": [star(10_001)] } }).to_string();
    let ids = json!({ "id": (0..10_001).collect::<Vec<u32>>() }).to_string();
    for (kind, body, code, what) in [
        ("text/plain", "kind=a", 415, "the Content-Type must be application/json or application/x-www-form-urlencoded"),
        ("", "{}", 415, "the Content-Type must be"),
        (JSON, "", 400, "the body is no JSON (EOF"),
        (JSON, "{\"kind\": [\"a\"", 400, "the body is no JSON (EOF"),
        (JSON, "[]", 400, "the body has to be an object with the parameters as members"),
        (JSON, "{}", 400, "the body gives no parameter a value"),
        (JSON, "{\"kind\": []}", 400, "the body gives no parameter a value"),
        (JSON, "{\"kinds\": [\"a\"]}", 400, "the tileset takes the parameters kind, id, area, box"),
        (JSON, "{\"kind\": [[\"a\"]]}", 400, "parameter kind: a value is a list inside a list"),
        (JSON, "{\"id\": [1.5]}", 400, "parameter id: a value is no whole number of 64 bits"),
        (JSON, "{\"area\": {\"type\": \"Point\"}}", 400, "parameter area: a value is no polygon: its type must be"),
        (JSON, "{\"box\": [1, 2, 3]}", 400, "parameter box: a value is no box"),
        (JSON, &deep, 400, "the body is no JSON (recursion limit"),
        (JSON, &many, 400, "parameter area: a value has more than 10000 positions"),
        (JSON, &ids, 400, "parameter id: more than 10000 different values"),
        (FORM, &format!("area={}", comb.replace(' ', "+")), 400, "too many long edges beside each other: simplify it"),
        (FORM, "kind=%FF", 400, "parameter kind: a value is no UTF-8"),
    ] {
        let refused = post(&served, kind, "", body);
        let error = error_of(&refused);
        assert!(status(&refused) == code && error.contains(what), "{kind} {error} {}", refused.head);
        assert_eq!(refused.header("cache-control"), Some("no-store"));
    }
    // Too large, whether its length is said or not.
    let large = format!("{{\"kind\": \"{}\"}}", "x".repeat(300 << 10));
    assert_eq!(status(&post(&served, JSON, "", &large)), 413);
    let chunked = format!(
        "{}{:x}\r\n{large}\r\n0\r\n\r\n",
        head("/filters", JSON, "Transfer-Encoding: chunked\r\n"),
        large.len()
    );
    assert_eq!(status(&read_answer(sends(&served, chunked.as_bytes()))), 413);
    // Other methods, and other places.
    for (method, path, code, allow) in [
        ("GET", "/filters", 405, Some("POST, OPTIONS")),
        ("HEAD", "/filters", 405, Some("POST, OPTIONS")),
        ("DELETE", "/filters", 405, Some("POST, OPTIONS")),
        ("POST", "/0/0/0.pbf", 405, Some("GET, HEAD, OPTIONS")),
        ("POST", "/nothing/filters", 405, Some("GET, HEAD, OPTIONS")),
        ("GET", "/nothing/filters", 404, None),
    ] {
        let answer = ask(served.port, method, path, "");
        assert_eq!((status(&answer), answer.header("allow")), (code, allow), "{method} {path}");
    }
    // A page of another site asks first whether it may.
    let asks = |origin: &str| {
        let more = format!(
            "Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n"
        );
        ask(served.port, "OPTIONS", "/filters", &more)
    };
    let allows = asks("https://map.example");
    let allowed = ["origin", "methods", "headers"]
        .map(|what| allows.header(&format!("access-control-allow-{what}")).unwrap_or_default().to_owned());
    assert_eq!(allowed, ["https://map.example", "POST, OPTIONS", "content-type, authorization"]);
    assert_eq!(asks("https://other.example").header("access-control-allow-origin"), None);
    let posted = post(&served, JSON, "Origin: https://map.example\r\n", "{\"kind\": \"a\"}");
    assert_eq!(posted.header("access-control-allow-origin"), Some("https://map.example"));
}

#[test]
fn a_client_that_sends_slowly_takes_no_place_of_others() {
    let world = World::new();
    let served = world.served("trusted_proxies = [\"127.0.0.1\"]");
    let slow = head("/filters", JSON, "X-Forwarded-For: 192.0.2.1\r\nContent-Length: 14\r\n");
    let mut open: Vec<TcpStream> = Vec::new();
    let by = |client: &str| post(&served, JSON, &format!("X-Forwarded-For: {client}\r\n"), "{\"kind\": \"a\"}");
    // One of them may come while the request that looks has a place.
    until("its places to be taken", || {
        open.push(sends(&served, slow.as_bytes()));
        status(&by("192.0.2.1")) == 429
    });
    let refused = by("192.0.2.1");
    assert_eq!(
        (error_of(&refused).as_str(), refused.header("retry-after")),
        ("too many filters are being posted", Some("1"))
    );
    id_of(&by("192.0.2.2"));
    drop(open);
    until("its places to be free", || status(&by("192.0.2.1")) == 200);
}
