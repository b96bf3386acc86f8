//! What jobs do: the target's bytes change, a running job ends when it is taken back, and too many are turned away.

use std::path::Path;

use serde_json::{Value, json};

use super::jobs::{Answers, TOKEN, fleet_with, followed, with_token, writer};
use super::writer::Fleet;
use crate::support::archive::unpacked;
use crate::support::certificates::certificates;
use crate::support::gate::{Gate, Place, gated};
use crate::support::nginx::Nginx;
use crate::support::program::{program, run};
use crate::support::served::{GZIP, Served};
use crate::support::until;

/// A layer that shows a setting of the database, which no trigger notes.
const MARKED: &str = "[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\nkey = [\"id\"]\n\
    properties = { id = \"id\", name = \"name\", mark = \"current_setting('test.mark', true)\" }\n";

/// True if a tile shows a text.
fn shows(body: &[u8], text: &str) -> bool {
    let tile = unpacked(body);
    tile.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn each_kind_of_job_changes_the_bytes_of_the_target_by_itself() {
    for kind in ["t.mbtiles", "s3:tiles/"] {
        // The watch looks at the start and before a job, and not by itself: whatever changes is a job's doing.
        let folder = tempfile::tempdir().unwrap();
        let told = folder.path().join("told");
        let purge = format!(
            "[[purge]]\nprovider = \"command\"\nurl = \"https://tiles.test/\"\nsettle = \"0s\"\nprogram = ['sh', '-c', 'cat \"$OAR_TILES_PURGE_LIST\" >>\"$0\"', '{}']\n[changes]",
            told.display()
        );
        let fleet = fleet_with(kind, |config| {
            let layer = config.find("[s3]").unwrap();
            let config = format!("{MARKED}{}", &config[layer..]).replace("[changes]", &purge);
            config.replace("debounce = \"20ms\"", "debounce = \"10m\"\npoll = \"10m\"")
        });
        let names_told = || std::fs::read(&told).map_or(0, |told| told.len());
        let served = writer(&fleet, kind);
        let mut answers = Answers::default();
        let tile = || served.get("/1/1/0.pbf", GZIP);
        let mark = |text: &str| {
            fleet.db.run(&format!("ALTER DATABASE {} SET test.mark = '{text}'", fleet.db.name));
        };
        for (number, job) in [
            json!({ "what": "tiles", "tiles": ["0/0/0", "1/1/0"] }),
            json!({ "what": "area", "area": [60, 0, 120, 60], "zoom": "0-2" }),
            json!({ "what": "seed" }),
            json!({ "what": "log" }),
        ]
        .iter()
        .enumerate()
        {
            let text = format!("marked{number}");
            let (before, told_before) = (tile(), names_told());
            mark(&text);
            // A reseed by the log renders what has changed, with the mark of now.
            fleet.db.run("UPDATE api_facility SET name = name || '!'");
            assert!(tile().body == before.body, "{kind} {job}: nobody has looked");
            let (code, submitted, _) = answers.submit(&served, "", job);
            assert_eq!(code, 202, "{kind} {job}: {submitted}");
            let last = followed(&served, submitted["id"].as_u64().unwrap()).pop().unwrap();
            assert_eq!(last["state"], "done", "{kind} {job}: {last}");
            let after = tile();
            assert!(shows(&after.body, &text), "{kind} {job}: {last}");
            assert!(after.header("etag") != before.header("etag"));
            until("the CDN is told what the job has changed", || names_told() > told_before);
        }
        // The look before the job finds nothing: only the job publishes.
        mark("alone");
        let told_before = names_told();
        let (_, submitted, _) = answers.submit(&served, "", &json!({ "what": "tiles", "tiles": ["2/2/1"] }));
        assert_eq!(followed(&served, submitted["id"].as_u64().unwrap()).pop().unwrap()["state"], "done");
        until("the CDN is told what the job alone has changed", || names_told() > told_before);
        let (_, submitted, _) = answers.submit(&served, "", &json!({ "what": "seed" }));
        assert_eq!(followed(&served, submitted["id"].as_u64().unwrap()).pop().unwrap()["state"], "done");
        let stored = fleet.places.read_by_others(kind);
        assert!(tile().body == stored[&(1, 1, 0)], "{kind}");
        assert!(stored == fleet.fresh(), "{kind}: after the log's job the target is as a fresh seed");
    }
}

/// A fleet whose reseeds wait at a gate, and whose watch looks at the start only.
fn gated_fleet() -> Fleet {
    fleet_with("t.mbtiles", |config| {
        let folder = tempfile::tempdir().unwrap();
        let layers = std::fs::read_to_string(gated(folder.path(), Place::Render, "")).unwrap();
        let rest = config.find("[s3]").unwrap();
        format!("{layers}{}", &config[rest..]).replace("debounce = \"20ms\"", "debounce = \"10m\"\npoll = \"10m\"")
    })
}

#[test]
fn a_job_that_runs_ends_when_it_is_taken_back_and_the_next_one_runs() {
    let fleet = gated_fleet();
    let served = writer(&fleet, "t.mbtiles");
    let mut answers = Answers::default();
    let before = served.get("/0/0/0.pbf", GZIP);
    let gate = Gate::close(&fleet.db);
    for job in [json!({ "what": "tiles", "tiles": ["0/0/0"] }), json!({ "what": "seed" })] {
        let (code, submitted, _) = answers.submit(&served, "", &job);
        assert_eq!(code, 202, "{submitted}");
        let id = submitted["id"].as_u64().unwrap();
        gate.wait_for(1);
        assert_eq!(answers.ask(&served, "GET", &format!("/jobs/{id}"), "", "").1["state"], "running");
        let (code, _, _) = answers.ask(&served, "DELETE", &format!("/jobs/{id}"), &with_token(), "");
        assert_eq!(code, 200);
        let last = followed(&served, id).pop().unwrap();
        assert_eq!((&last["state"], &last["cause"]), (&"cancelled".into(), &Value::Null), "{last}");
        until("its statements are cancelled", || {
            let waiting =
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";
            fleet.db.value::<i64>(waiting) == 0
        });
        assert!(served.get("/0/0/0.pbf", GZIP).body == before.body, "nothing of it is there");
        assert_eq!(answers.ask(&served, "DELETE", &format!("/jobs/{id}"), &with_token(), "").0, 409);
    }
    gate.open();
    let (_, submitted, _) = answers.submit(&served, "", &json!({ "what": "tiles", "tiles": ["0/0/0"] }));
    let last = followed(&served, submitted["id"].as_u64().unwrap()).pop().unwrap();
    assert_eq!(last["state"], "done", "{last}");
    assert!(served.get("/0/0/0.pbf", GZIP).body == before.body, "nothing has changed");
}

#[test]
fn an_equal_job_that_waits_is_the_same_one_and_too_many_are_turned_away() {
    let fleet = gated_fleet();
    let served = writer(&fleet, "t.mbtiles");
    let mut answers = Answers::default();
    let gate = Gate::close(&fleet.db);
    let tile = |number: usize| json!({ "what": "tiles", "tiles": [format!("5/{}/{}", number % 32, number / 32)] });
    assert_eq!(answers.submit(&served, "", &json!({ "what": "tiles", "tiles": ["0/0/0"] })).0, 202);
    gate.wait_for(1);
    let ids: Vec<Value> = (0..100)
        .map(|number| {
            let (code, submitted, _) = answers.submit(&served, "", &tile(number));
            assert_eq!(code, 202, "{number}: {submitted}");
            submitted["id"].clone()
        })
        .collect();
    let (code, equal, answer) = answers.submit(&served, "", &tile(7));
    assert_eq!((code, &equal["id"]), (200, &ids[7]));
    assert_eq!(answer.header("location"), Some(format!("/jobs/{}", ids[7]).as_str()));
    let (code, refused, answer) = answers.submit(&served, "", &tile(100));
    assert_eq!((code, answer.header("retry-after")), (429, Some("10")), "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("100 jobs wait already"), "{refused}");
    // One is taken back: there is room for one.
    assert_eq!(answers.ask(&served, "DELETE", &format!("/jobs/{}", ids[0]), &with_token(), "").0, 200);
    assert_eq!(answers.submit(&served, "", &tile(100)).0, 202);
    assert_eq!(answers.submit(&served, "", &tile(101)).0, 429);
}

#[test]
fn jobs_are_submitted_over_a_socket_and_over_https_and_to_nobody_else() {
    let fleet = fleet_with("t.mbtiles", str::to_owned);
    let folder = fleet.places.folder.path();
    let authority = certificates(folder, "authority");
    let shell = |admin: &str, trusted: &Path, arguments: &[&str]| {
        let mut command = program();
        command.env("OAR_TILES_TOKEN", TOKEN).env("SSL_CERT_FILE", trusted);
        run(command.arg("jobs").args(arguments).args(["--admin", admin]))
    };
    let submits = |admin: &str| {
        let area = ["submit", "area", "--area=-180,-80,180,80", "--zoom", "0-1", "--wait"];
        let said = shell(admin, &authority, &area).ok();
        assert!(said.stdout.lines().last().unwrap().ends_with("done       area"), "{admin}: {}", said.stdout);
        assert!(shell(admin, &authority, &["list"]).ok().stdout.contains("done"), "{admin}");
    };
    let socket = format!("unix:{}", folder.join("admin.sock").display());
    let mut command = program();
    command.args(["serve", &fleet.places.place("t.mbtiles"), "--config", &fleet.places.config, "--writer"]);
    command.args(["--listen", "127.0.0.1:0", "--drain", "0s", "--database-url", &fleet.db.url]);
    let served = Served::of(command.env("OAR_TILES_ADMIN", &socket));
    until("it writes", || shell(&socket, &authority, &["submit", "log"]).code == 0);
    submits(&socket);
    assert_eq!(served.ends_after("-TERM"), Some(143));
    let served = writer(&fleet, "t.mbtiles");
    let nginx = Nginx::with_tls_before(&format!("http://127.0.0.1:{}/", served.admin), folder);
    let https = format!("https://localhost:{}/admin/", nginx.port);
    submits(&https);
    // A certificate that nobody trusts, one of another name, and what is no address.
    let other = certificates(
        &{
            let other = folder.join("other");
            std::fs::create_dir(&other).unwrap();
            other
        },
        "other",
    );
    shell(&https, &other, &["list"]).fails(2, &["cannot be asked", "certificate"]);
    shell(&https.replace("localhost", "127.0.0.1"), &authority, &["list"]).fails(2, &["certificate"]);
    shell("ftp://localhost", &authority, &["list"])
        .fails(2, &["is no address of an admin listener: write http://HOST:PORT, https://HOST or unix:PATH"]);
    shell("unix:/nowhere/admin.sock", &authority, &["list"]).fails(2, &["cannot be asked", "No such file"]);
}

#[test]
fn each_key_that_came_with_an_equal_job_stays_a_key_of_that_job() {
    let fleet = gated_fleet();
    let served = writer(&fleet, "t.mbtiles");
    let mut answers = Answers::default();
    let (seed, log) = (json!({ "what": "seed" }), json!({ "what": "log" }));
    let key = |key: &str| format!("Idempotency-Key: {key}\r\n");
    let gate = Gate::close(&fleet.db);
    assert_eq!(answers.submit(&served, "", &json!({ "what": "tiles", "tiles": ["0/0/0"] })).0, 202);
    gate.wait_for(1);
    let (code, submitted, _) = answers.submit(&served, "", &seed);
    assert_eq!(code, 202, "{submitted}");
    let id = submitted["id"].as_u64().unwrap();
    let (code, of_log, _) = answers.submit(&served, "", &log);
    assert_eq!(code, 202, "{of_log}");
    for number in 0..64 {
        let (code, joined, _) = answers.submit(&served, &key(&format!("k{number}")), &seed);
        assert_eq!((code, joined["id"].as_u64()), (200, Some(id)), "{number}: {joined}");
    }
    // A key more could not be kept, so the client has to come again. Without a key, and with a known one, the job is
    // the same.
    let (code, refused, answer) = answers.submit(&served, &key("k64"), &seed);
    assert_eq!((code, answer.header("retry-after")), (429, Some("10")), "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("has 64 Idempotency-Keys already"), "{refused}");
    for headers in [String::new(), key("k63")] {
        let (code, joined, _) = answers.submit(&served, &headers, &seed);
        assert_eq!((code, joined["id"].as_u64()), (200, Some(id)), "{headers}");
    }
    // The key of a job is a key of no other.
    assert_eq!(answers.submit(&served, &key("of-log"), &log).0, 200);
    let (code, refused, _) = answers.submit(&served, &key("of-log"), &seed);
    assert_eq!(code, 422, "{refused}");
    gate.open();
    assert_eq!(followed(&served, id).pop().unwrap()["state"], "done");
    let known = |served: &Served, answers: &mut Answers| {
        for number in [0, 1, 63] {
            let (code, joined, _) = answers.submit(served, &key(&format!("k{number}")), &seed);
            assert_eq!((code, joined["id"].as_u64()), (200, Some(id)), "{number}: {joined}");
        }
    };
    known(&served, &mut answers);
    drop(served);
    known(&writer(&fleet, "t.mbtiles"), &mut answers);
}

#[test]
fn a_writer_that_needs_a_person_says_so_once_and_follows_the_log_only_once_it_can() {
    let fleet = fleet_with("t.mbtiles", str::to_owned);
    let log = fleet.places.folder.path().join("log");
    let mut command = program();
    command.args(["serve", &fleet.places.place("t.mbtiles"), "--config", &fleet.places.config, "--writer"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
    command.args(["--database-url", &fleet.db.url]).stderr(std::fs::File::create(&log).unwrap());
    let served = Served::of(&mut command);
    let (follows, fails) = ("follows the change log of ", " cannot be brought up to date: ");
    let count = |text: &str| std::fs::read_to_string(&log).unwrap().matches(text).count();
    until("it follows", || count(follows) == 1);
    let mut answers = Answers::default();
    // Each job makes the writer look at once.
    let mut job = || {
        let (code, submitted, _) = answers.submit(&served, "", &json!({ "what": "log" }));
        assert_eq!(code, 202, "{submitted}");
        followed(&served, submitted["id"].as_u64().unwrap()).pop().unwrap()["state"].clone()
    };
    // The first look is over: in the midst of one, the schema would be there and not readable.
    assert_eq!(job(), "done");
    fleet.db.run("DROP SCHEMA oar_tiles CASCADE");
    for _ in 0..4 {
        assert_eq!(job(), "failed");
    }
    let text = || std::fs::read_to_string(&log).unwrap();
    until("it is said", || count(fails) > 0);
    assert_eq!((count(follows), count(fails)), (1, 1), "{}", text());
    // The next cause is said, too. Then a person seeds the target.
    run(program().args(["track", "install", "--database-url", &fleet.db.url, "--config", &fleet.places.config])).ok();
    assert_eq!(job(), "failed");
    assert_eq!(job(), "failed");
    assert_eq!((count(follows), count(fails)), (1, 2), "{}", text());
    fleet.seeded("t.mbtiles");
    assert_eq!(job(), "done");
    until("it follows again", || count(follows) == 2);
}
