//! Jobs over HTTP: who may submit them, what becomes of them, and that the description tells the truth.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use serde_json::{Value, json};

use super::writer::Fleet;
use crate::support::nginx::{Answer, ask};
use crate::support::process::Start as _;
use crate::support::program::{program, run};
use crate::support::served::{GZIP, Served, status};
use crate::support::until;

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A fleet whose servers take jobs with [`TOKEN`], and a seeded target.
fn fleet() -> Fleet {
    fleet_with("t.mbtiles", str::to_owned)
}

/// The same with a configuration that is changed before anything is installed or seeded.
pub(crate) fn fleet_with(kind: &str, change: impl Fn(&str) -> String) -> Fleet {
    let fleet = Fleet::configured(change);
    let token = fleet.places.folder.path().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    fleet.serves_with(&format!("token_file = {:?}\n", token.to_str().unwrap()));
    fleet.seeded(kind);
    fleet
}

/// A server that writes, once it does.
pub(crate) fn writer(fleet: &Fleet, kind: &str) -> Served {
    let served = fleet.writer(kind, "--writer");
    until("it writes", || served.admin("/status.json").1.contains("\"role\":\"writing\""));
    served
}

/// Answers of the admin listener, kept to be compared with the description: method, path, status, body.
#[derive(Default)]
pub(crate) struct Answers(Vec<(String, String, u16, Value)>);

impl Answers {
    pub(crate) fn ask(
        &mut self,
        served: &Served,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> (u16, Value, Answer) {
        let whole = format!("{headers}Content-Length: {}\r\n\r\n{body}", body.len());
        let answer = ask(served.admin, method, path, if body.is_empty() { headers } else { &whole });
        let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let template = if path.starts_with("/jobs/") { "/jobs/{id}" } else { path };
        self.0.push((method.to_owned(), template.to_owned(), status(&answer), value.clone()));
        (status(&answer), value, answer)
    }

    /// Submits a job with the token.
    pub(crate) fn submit(&mut self, served: &Served, headers: &str, job: &Value) -> (u16, Value, Answer) {
        self.ask(served, "POST", "/jobs", &format!("{}{headers}", with_token()), &job.to_string())
    }
}

pub(crate) fn with_token() -> String {
    format!("Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n")
}

/// The events of a job until the server ends them.
pub(crate) fn followed(served: &Served, id: u64) -> Vec<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", served.admin)).unwrap();
    write!(stream, "GET /jobs/{id}/events HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("text/event-stream"), "{text}");
    text.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect()
}

const FITS: &str = r#"
import json, jsonschema, sys
described = json.load(open(sys.argv[1]))
for method, path, status, body in json.load(sys.stdin):
    answer = described["paths"][path][method.lower()]["responses"][str(status)]
    schema = dict(answer["content"]["application/json"]["schema"], components=described["components"])
    jsonschema.Draft202012Validator(schema).validate(body)
"#;

#[test]
fn jobs_are_taken_from_who_has_the_token_done_and_told_as_described() {
    let fleet = fleet();
    let served = writer(&fleet, "t.mbtiles");
    let mut answers = Answers::default();
    let tile = || served.get("/0/0/0.pbf", GZIP);
    let jobs = [
        json!({ "what": "tiles", "tiles": ["0/0/0", "1/1/0"] }),
        json!({ "what": "area", "area": [-180, -80, 180, 80], "zoom": "0-2" }),
        json!({ "what": "seed" }),
        json!({ "what": "log" }),
    ];
    for (job, least) in jobs.iter().zip([2, 5, 0, 0]) {
        let (code, submitted, answer) = answers.submit(&served, "", job);
        assert_eq!(code, 202, "{job}: {submitted}");
        let id = submitted["id"].as_u64().unwrap();
        assert_eq!(answer.header("location"), Some(format!("/jobs/{id}").as_str()));
        let events = followed(&served, id);
        let last = events.last().unwrap();
        assert_eq!((&last["state"], &last["cause"]), (&"done".into(), &Value::Null), "{job}: {last}");
        assert!(last["report"]["dirty"].as_u64().unwrap_or_default() >= least, "{job}: {last}");
        let (code, shown, _) = answers.ask(&served, "GET", &format!("/jobs/{id}"), "", "");
        assert_eq!((code, &shown["state"]), (200, &"done".into()));
        assert!(shown["report"].is_object(), "{shown}");
        for key in ["submitted", "started", "ended"] {
            let moment = shown[key].as_str().unwrap_or_default();
            assert!(humantime::parse_rfc3339(moment).is_ok(), "{key}: {shown}");
        }
    }
    let json = "Content-Type: application/json\r\n";
    let token = with_token();
    let log = jobs[3].to_string();
    let many = json!({ "what": "tiles", "tiles": vec!["0/0/0"; 50_001] }).to_string();
    let large = json!({ "what": "area", "area": vec![json!([0, 0, 1, 1]); 100_000] }).to_string();
    for (method, path, headers, body, expected) in [
        ("POST", "/jobs", json.to_owned(), &*log, 401),
        ("POST", "/jobs", format!("{json}Authorization: Bearer {}\r\n", TOKEN.replace('0', "1")), &log, 401),
        ("POST", "/jobs", format!("{token}Sec-Fetch-Site: cross-site\r\n"), &log, 403),
        ("POST", "/jobs", format!("{token}Origin: http://evil.example\r\n"), &log, 403),
        ("POST", "/jobs", format!("Authorization: Bearer {TOKEN}\r\n"), &log, 415),
        ("POST", "/jobs", token.clone(), "{\"what\":\"everything\"}", 400),
        ("POST", "/jobs", token.clone(), &many, 413),
        ("POST", "/jobs", token.clone(), &large, 413),
        ("GET", "/jobs", String::new(), "", 200),
        ("GET", "/jobs/99", String::new(), "", 404),
        ("DELETE", "/jobs/99", token.clone(), "", 404),
        ("DELETE", "/jobs/1", token.clone(), "", 409),
        ("DELETE", "/jobs/1", String::new(), "", 401),
        ("POST", "/evict", token.clone(), "{}", 400),
        ("POST", "/evict", json.to_owned(), "{\"all\":true}", 401),
    ] {
        let (code, value, answer) = answers.ask(&served, method, path, &headers, body);
        assert_eq!(code, expected, "{method} {path} {headers}: {value}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    // A request that is repeated is one job.
    let key = "Idempotency-Key: a-1\r\n";
    let first = answers.submit(&served, key, &jobs[0]);
    let second = answers.submit(&served, key, &jobs[0]);
    assert_eq!((first.0, second.0, &first.1["id"]), (202, 200, &second.1["id"]));
    assert_eq!(answers.submit(&served, key, &jobs[3]).0, 422);
    assert_eq!(followed(&served, first.1["id"].as_u64().unwrap()).last().unwrap()["state"], "done");
    // The same from a shell.
    let url = format!("http://127.0.0.1:{}", served.admin);
    let shell = |arguments: &[&str]| {
        let mut command = program();
        run(command.arg("jobs").args(arguments).args(["--admin", &url]).env("OAR_TILES_TOKEN", TOKEN))
    };
    let said = shell(&["submit", "area", "--area=-180,-80,180,80", "--zoom", "0-1", "--wait"]).ok().stdout;
    assert!(said.lines().last().unwrap().ends_with("6  done       area"), "{said}");
    assert_eq!(shell(&["list"]).ok().stdout.lines().count(), 6);
    assert!(shell(&["show", "6"]).ok().stdout.contains("\"state\": \"done\""));
    shell(&["cancel", "6"]).fails(2, &["answered 409: the job has ended already"]);
    run(program().args(["jobs", "submit", "log", "--admin", &url])).fails(2, &["answered 401"]);
    // Tiles in memory are forgotten.
    let from_memory = || tile().header("cache-status") == Some("oar-tiles; hit");
    for body in ["{\"tiles\":[\"0/0/0\"]}", "{\"all\":true}"] {
        tile();
        assert!(from_memory());
        assert_eq!(answers.ask(&served, "POST", "/evict", &token, body).0, 200);
        assert!(!from_memory(), "{body}");
    }
    // A reader shows the jobs and takes none.
    let reader = Served::at(&fleet.places, "t.mbtiles", &[]);
    let (code, shown, _) = answers.ask(&reader, "GET", "/jobs", "", "");
    assert_eq!((code, shown["jobs"].as_array().unwrap().len()), (200, 6));
    assert_eq!(answers.submit(&reader, "", &jobs[3]).0, 409);
    assert_eq!(ask(served.admin, "PUT", "/jobs", "").header("allow"), Some("GET, HEAD, POST"));
    // Every answer is one that the description names, and of the form that it gives.
    let described = fleet.places.folder.path().join("openapi.json");
    std::fs::write(&described, served.admin("/openapi.json").1).unwrap();
    let mut python = Command::new(std::env::var("TEST_PYTHON").expect("scripts/test installs the readers"));
    let mut python = python.args(["-c", FITS]).arg(&described).stdin(std::process::Stdio::piped()).start();
    python.stdin.take().unwrap().write_all(json!(answers.0).to_string().as_bytes()).unwrap();
    assert!(python.wait().unwrap().success());
}

#[test]
fn a_job_that_was_taken_is_done_though_its_writer_is_killed() {
    let fleet = fleet();
    let served = writer(&fleet, "t.mbtiles");
    let mut answers = Answers::default();
    let ids: Vec<u64> =
        [json!({ "what": "seed" }), json!({ "what": "tiles", "tiles": ["1/1/0"] }), json!({ "what": "log" })]
            .iter()
            .map(|job| {
                let (code, submitted, _) = answers.submit(&served, "", job);
                assert_eq!(code, 202, "{submitted}");
                submitted["id"].as_u64().unwrap()
            })
            .collect();
    // Killed; its lease runs out, and the next one takes over.
    drop(served);
    let next = writer(&fleet, "t.mbtiles");
    for id in ids {
        assert_eq!(followed(&next, id).last().unwrap()["state"], "done");
    }
    assert_eq!(next.ends_after("-TERM"), Some(143));
}

#[test]
fn a_token_that_is_too_short_or_missing_is_said() {
    let fleet = Fleet::new();
    fleet.seeded("t.mbtiles");
    let mut answers = Answers::default();
    let served = Served::at(&fleet.places, "t.mbtiles", &[]);
    let (code, said, _) = answers.submit(&served, "", &json!({ "what": "log" }));
    assert!(code == 403 && said["error"].as_str().unwrap().contains("serve.token_file"), "{said}");
    let short = program()
        .args(["serve", &fleet.places.place("t.mbtiles"), "--listen", "127.0.0.1:0"])
        .env("OAR_TILES_TOKEN", "short")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&short.stderr).into_owned();
    assert!(short.status.code() == Some(2) && said.contains("OAR_TILES_TOKEN has 5 bytes"), "{said}");
}

#[test]
fn a_token_that_no_client_can_send_is_refused_and_the_old_one_stays() {
    let fleet = fleet();
    let place = fleet.places.folder.path().join("token");
    let log = fleet.places.folder.path().join("log");
    let mut command = program();
    command.args(["serve", &fleet.places.place("t.mbtiles"), "--config", &fleet.places.config, "--drain", "0s"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let served = Served::of(command.stderr(std::fs::File::create(&log).unwrap()));
    let evicts = || {
        let mut answers = Answers::default();
        answers.ask(&served, "POST", "/evict", &with_token(), "{\"all\":true}").0
    };
    assert_eq!(evicts(), 200);
    for (round, inside) in ["\n", " ", "\t", "\0", "\u{7f}"].iter().enumerate() {
        std::fs::write(&place, format!("{TOKEN}{inside}{TOKEN}\n")).unwrap();
        let text = format!("the token for jobs in {} has white space or control characters inside", place.display());
        served.signal("-HUP");
        until("it is logged", || {
            let said = std::fs::read_to_string(&log).unwrap();
            said.matches(&format!("the settings stay as they were: {text}")).count() == round + 1
        });
        assert_eq!(evicts(), 200, "{inside:?}");
        let own =
            ["serve", &fleet.places.place("t.mbtiles"), "--config", &fleet.places.config, "--listen", "127.0.0.1:0"];
        run(program().args(own)).fails(2, &[&text, "openssl rand -hex 32"]);
    }
}
