//! `oar-tiles doctor --url`: what browsers and caches get where clients find the tiles.

use serde_json::json;

use super::doctor::has;
use crate::support::program::{Run, program, run};
use crate::support::served::{GZIP as GZIP_TAKEN, Served, small_target};
use crate::support::stub::{Stub, StubAnswer, StubRequest};

const KIND: &str = "content-type: application/vnd.mapbox-vector-tile\r\n";
const GZIP: &str = "content-encoding: gzip\r\n";
const KEPT: &str = "cache-control: public, max-age=60\r\netag: \"1\"\r\n";
const OPEN: &str = "access-control-allow-origin: *\r\n";

/// What a server answers for tiles, and what its TileJSON says.
#[derive(Clone)]
struct Answers {
    tilejson: Option<String>,
    status: u16,
    headers: String,
    body: Vec<u8>,
    /// Further headers from the second request for the tile on.
    later: &'static str,
    knows_tags: bool,
    /// What the cache probe of `serve` says; `None` if another server answers.
    probe: Option<fn(&str) -> String>,
}

impl Answers {
    fn good() -> Answers {
        let headers = [KIND, GZIP, KEPT, OPEN].concat();
        Answers { tilejson: None, status: 200, headers, body: tile(), later: "", knows_tags: true, probe: None }
    }

    fn answer(&self, host: &str, request: &StubRequest, seen: usize) -> StubAnswer {
        if request.path.ends_with("tiles.json") {
            let named = json!({ "tilejson": "3.0.0", "tiles": [format!("http://{host}/{{z}}/{{x}}/{{y}}.pbf")] });
            let text = self.tilejson.clone().unwrap_or_else(|| named.to_string());
            return StubAnswer::Says(200, OPEN, text);
        }
        if let Some((_, query)) = request.path.split_once("/cache-probe.pbf") {
            let says = self.probe.map(|probe| probe(query.trim_start_matches('?')));
            return says.map_or(StubAnswer::of(404, ""), |text| StubAnswer::Says(200, OPEN, text));
        }
        if self.knows_tags && request.header("if-none-match").is_some() {
            return StubAnswer::Sends(304, String::new(), Vec::new());
        }
        let later = if seen > 0 { self.later } else { "" };
        StubAnswer::Sends(self.status, format!("{}{later}", self.headers), self.body.clone())
    }

    fn doctor(self) -> Run {
        let mut tiles_seen = 0;
        let server = Stub::new(move |request| {
            let host = request.header("host").unwrap_or_default().to_owned();
            let answer = self.answer(&host, request, tiles_seen);
            tiles_seen += usize::from(!request.path.ends_with(".json"));
            answer
        });
        doctor(&server.url)
    }
}

/// A packed tile with a point.
fn tile() -> Vec<u8> {
    let (_folder, target) = small_target();
    let served = Served::new(&target, &[]);
    let answer = served.get("/0/0/0.pbf", GZIP_TAKEN);
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    answer.body
}

/// Without a database, which is an error of its own.
fn doctor(url: &str) -> Run {
    run(program().args(["doctor", "--database-url", "postgresql://127.0.0.1:1/nowhere", "--url", url]))
}

#[test]
fn what_serve_answers_is_as_browsers_and_caches_need_it() {
    let (_folder, target) = small_target();
    let served = Served::new(&target, &[]);
    let found = doctor(&served.url);
    for text in ["is a TileJSON of tiles at http://", "is a vector tile of", "caches may keep tiles: Cache-Control: "] {
        has(&found, "ok", &["address", text]);
    }
    assert!(found.stdout.ends_with("1 error, 0 warnings\n"), "only the database is not there:\n{}", found.stdout);
}

#[test]
fn an_address_without_a_tilejson_is_named_with_what_to_do() {
    has(&doctor("http://127.0.0.1:1"), "error", &["cannot be reached: ", "look whether the server runs"]);
    has(&doctor("no address"), "error", &["is no address: ", "write it as https://host/path"]);
    let nothing = Stub::new(|_| StubAnswer::of(404, ""));
    has(&doctor(&nothing.url), "error", &["/tiles.json answers 404", "give the address of the TileJSON"]);
    let page = Stub::new(|_| StubAnswer::Says(200, OPEN, "<html>".to_owned()));
    has(&doctor(&page.url), "error", &["is no JSON", "give the address of the TileJSON"]);
    let closed = Stub::new(|_| StubAnswer::of(200, "{}"));
    has(
        &doctor(&format!("{}/map.json", closed.url)),
        "error",
        &["map.json come with no Access-Control", "send Access"],
    );
    has(&doctor(&closed.url), "error", &["names no tiles, so it is no TileJSON"]);
    let listed = Stub::new(|_| StubAnswer::Says(200, "vary: Accept-Encoding, Origin\r\n", "{}".to_owned()));
    let by_site = "depend on the site of the page (Vary: Origin): pages of https://map.example may not read them";
    has(&doctor(&listed.url), "warning", &[by_site, "allowed_origins in [serve]"]);
    let cut = Stub::new(|_| StubAnswer::Cut);
    has(&doctor(&cut.url), "error", &["cannot be reached: "]);
    let relative = json!({ "tiles": ["{z}/{x}/{y}.pbf"] }).to_string();
    let found = Answers { tilejson: Some(relative), ..Answers::good() }.doctor();
    has(&found, "error", &["names its tiles as {z}/{x}/{y}.pbf, and MapLibre shows an empty map", "--public-url"]);
}

#[test]
fn tiles_that_no_browser_reads_are_errors() {
    let good = Answers::good();
    let raw = b"<html>no tile</html>".to_vec();
    let cases = [
        (Answers { headers: [KIND, KEPT, OPEN].concat(), ..good.clone() }, "packed as gzip and comes without"),
        (Answers { body: raw.clone(), ..good.clone() }, "comes with Content-Encoding: gzip, and its body"),
        (Answers { body: raw, headers: [KIND, KEPT, OPEN].concat(), ..good.clone() }, "is no vector tile: "),
        (Answers { headers: [KIND, GZIP, KEPT].concat(), ..good.clone() }, "tiles at http"),
        (Answers { status: 403, ..good.clone() }, "answers 403"),
        (Answers { status: 500, ..good }, "answers 500"),
    ];
    for (answers, text) in cases {
        has(&answers.doctor(), "error", &["address", text]);
    }
}

#[test]
fn what_becomes_of_queries_is_said_if_serve_answers() {
    fn own(query: &str) -> String {
        query.to_owned()
    }
    fn of_another(_: &str) -> String {
        "probe=1".to_owned()
    }
    fn page(_: &str) -> String {
        "<html>".to_owned()
    }
    fn nothing(_: &str) -> String {
        String::new()
    }
    let good = Answers::good();
    let with = |probe: Option<fn(&str) -> String>| Answers { probe, ..good.clone() }.doctor();
    has(&with(Some(own)), "ok", &["no cache gives one client's query to others"]);
    has(&with(Some(of_another)), "warning", &["the answer to another query", "once the tileset has"]);
    for probe in [None, Some(page as fn(&str) -> String)] {
        let found = with(probe);
        assert!(!found.stdout.contains("query"), "{}", found.stdout);
    }
    // Queries that do not arrive are nothing to a tileset without parameters.
    has(&with(Some(nothing)), "ok", &["no cache gives one client's query to others"]);
}

#[test]
fn what_costs_more_than_it_has_to_is_a_warning() {
    let good = Answers::good();
    let with = |headers: &[&str]| Answers { headers: headers.concat(), ..good.clone() };
    let stored = "cache-control: no-store\r\netag: \"1\"\r\n";
    let untagged = "cache-control: public, max-age=60\r\n";
    let cases = [
        (with(&[GZIP, KEPT, OPEN]), "comes as Content-Type: (none)"),
        (with(&[KIND, GZIP, stored, OPEN]), "Cache-Control: no-store, so that no CDN keeps it"),
        (with(&[KIND, GZIP, "etag: \"1\"\r\n", OPEN]), "without Cache-Control"),
        (with(&[KIND, GZIP, untagged, OPEN]), "without ETag"),
        (Answers { knows_tags: false, ..good.clone() }, "and not 304 to If-None-Match: \"1\""),
        (Answers { later: "cf-cache-status: DYNAMIC\r\n", ..good.clone() }, "(cf-cache-status: DYNAMIC)"),
        (Answers { status: 204, body: Vec::new(), ..good.clone() }, "none of the first tiles"),
    ];
    for (answers, text) in cases {
        has(&answers.doctor(), "warning", &["address", text]);
    }
    let kept = Answers { later: "x-cache: Hit from cloudfront\r\n", ..good };
    has(&kept.doctor(), "ok", &["the CDN keeps tiles: x-cache: Hit"]);
}
