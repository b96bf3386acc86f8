//! Uploads in parts that a run has left in the bucket: the next one aborts them, and no other program's.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use oar_tiles::stop::Stop;
use oar_tiles::target::{BucketArchive, BucketError, BucketOptions, ObjectKey, PmtilesReader};

use super::archives::uploads;
use crate::reseed::changed_out::stored;
use crate::support::Db;
use crate::support::places::Places;
use crate::support::process::Start as _;
use crate::support::program::{program, run};
use crate::support::proxy::{Fault, Proxy, Seen};
use crate::support::s3::{Prefix, options, options_with};
use crate::support::tracked::{Tiles, Tracked, differences};

fn key(prefix: &Prefix) -> ObjectKey {
    format!("{}a.pmtiles", prefix.location).parse().unwrap()
}

fn upload(prefix: &Prefix, options: BucketOptions, path: &std::path::Path) -> Result<String, BucketError> {
    BucketArchive::begin(&key(prefix), options, prefix.runtime.handle().clone(), &Stop::new())?.upload(path)
}

/// A file of three parts, different for each number.
fn file(folder: &tempfile::TempDir, number: u8) -> (PathBuf, Vec<u8>) {
    let bytes = vec![number; 12 << 20];
    let path = folder.path().join(number.to_string());
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

/// True for a request that aborts an upload.
fn aborts(seen: &Seen) -> bool {
    seen.method == "DELETE" && seen.target.contains("uploadId=")
}

/// True for a request for the note on uploads.
fn is_note(seen: &Seen) -> bool {
    seen.target.contains("/uploads.json")
}

/// What a server says to those who may not do what they ask for.
const DENIED: Fault = Fault::Error(403, "AccessDenied", "no");

/// Options that make one attempt.
fn hasty(proxy: &Proxy) -> BucketOptions {
    options_with(&proxy.endpoint, |section| section.attempts = 1)
}

/// Leaves an upload with a part, by a run that may neither send its second part nor abort.
fn leave_one(prefix: &Prefix, folder: &tempfile::TempDir) {
    let proxy = Proxy::before(&prefix.endpoint, |seen| {
        let is_second = seen.target.contains("partNumber=2");
        if is_second || aborts(seen) { DENIED } else { Fault::None }
    });
    upload(prefix, hasty(&proxy), &file(folder, 200).0).unwrap_err();
}

/// The ids in the note; `None` if there is no note.
fn noted(prefix: &Prefix) -> Option<Vec<String>> {
    let note: serde_json::Value =
        serde_json::from_slice(prefix.objects().get(".a.pmtiles.oar-tiles/uploads.json")?).ok()?;
    Some(note["uploads"].as_array()?.iter().map(|upload| upload["id"].as_str().unwrap().to_owned()).collect())
}

#[test]
fn the_next_run_aborts_what_a_run_has_left_and_no_other_programs_upload() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    // To the same key, and to one that begins with it.
    for name in ["a.pmtiles", "a.pmtiles.new"] {
        let name = format!("{}{name}", prefix.location.prefix);
        let create = prefix.client.create_multipart_upload().bucket(&prefix.location.bucket).key(&name);
        let created = prefix.runtime.block_on(create.send()).unwrap();
        let part = prefix.client.upload_part().bucket(&prefix.location.bucket).key(&name).part_number(1);
        let part = part.upload_id(created.upload_id().unwrap()).body(b"theirs".to_vec().into());
        prefix.runtime.block_on(part.send()).unwrap();
    }
    leave_one(&prefix, &folder);
    leave_one(&prefix, &folder);
    assert_eq!((uploads(&prefix), noted(&prefix).unwrap().len()), (4, 2));
    let (path, bytes) = file(&folder, 1);
    upload(&prefix, options(&prefix.endpoint), &path).unwrap();
    assert!(prefix.objects()["a.pmtiles"] == bytes);
    assert_eq!((uploads(&prefix), noted(&prefix)), (2, Some(vec![])));
    // So does one that is sent by one request, and one that removes the archive.
    leave_one(&prefix, &folder);
    let small = folder.path().join("small");
    std::fs::write(&small, "small").unwrap();
    upload(&prefix, options(&prefix.endpoint), &small).unwrap();
    assert_eq!((uploads(&prefix), noted(&prefix)), (2, Some(vec![])));
    leave_one(&prefix, &folder);
    assert_eq!(uploads(&prefix), 3);
    let handle = prefix.runtime.handle();
    oar_tiles::target::remove_archive(&key(&prefix), options(&prefix.endpoint), handle).unwrap();
    assert_eq!((uploads(&prefix), prefix.objects().len()), (2, 0));
}

#[test]
fn the_note_is_asked_for_once_and_written_twice_and_a_short_archive_needs_none() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    let proxy = Proxy::before(&prefix.endpoint, |_| Fault::None);
    let of_note = || proxy.take_seen().into_iter().filter(is_note).map(|seen| seen.method).collect::<Vec<_>>();
    upload(&prefix, options(&proxy.endpoint), &file(&folder, 1).0).unwrap();
    assert_eq!(of_note(), ["GET", "PUT", "PUT"]);
    let small = folder.path().join("small");
    std::fs::write(&small, "small").unwrap();
    upload(&prefix, options(&proxy.endpoint), &small).unwrap();
    assert_eq!(of_note(), ["GET"], "it replaces a long one");
    upload(&prefix, options(&proxy.endpoint), &small).unwrap();
    assert_eq!(of_note(), [""; 0]);
}

#[test]
fn a_run_without_these_rights_says_so_and_goes_on() {
    let (places, folder) = (Places::new(), tempfile::tempdir().unwrap());
    let prefix = &places.prefix;
    let config = std::fs::read_to_string(&places.config).unwrap();
    std::fs::write(&places.config, config + "part_size_mb = 5\nattempts = 1\n").unwrap();
    let source = super::archive_edits::large_archive(&folder);
    let target = places.place("s3:a.pmtiles");
    let copy = |rule: fn(&Seen) -> Fault| {
        let proxy = Proxy::before(&prefix.endpoint, rule);
        let mut command = program();
        command.arg("copy").arg(&source).args([&target, "--force", "--config", &places.config]);
        command.args(["--public-url", "relative"]).env("OAR_TILES_S3_ENDPOINT", &proxy.endpoint);
        let ended = run(places.with_keys(&mut command)).ok();
        assert!(prefix.objects()["a.pmtiles"].len() > 12 << 20);
        ended.stderr
    };
    leave_one(prefix, &folder);
    for (rule, warning) in [
        (
            (|seen: &Seen| if is_note(seen) && seen.method == "GET" { DENIED } else { Fault::None })
                as fn(&Seen) -> Fault,
            "what killed runs have left of uploads to",
        ),
        (
            |seen| if is_note(seen) && seen.method == "PUT" { DENIED } else { Fault::None },
            "if this run is killed, the parts of its upload to",
        ),
        (
            |seen| if aborts(seen) { DENIED } else { Fault::None },
            "that earlier runs have left, and that stay: 1: not allowed to abort",
        ),
    ] {
        let before = noted(prefix);
        let said = copy(rule);
        assert_eq!(said.matches("WARN").count() + said.matches("warning").count(), 1, "{said}");
        assert!(said.contains(warning) && said.contains("AccessDenied"), "{said}");
        // The second one has aborted it, and could not say so.
        assert_eq!(noted(prefix), before, "{said}");
        if uploads(prefix) == 0 {
            prefix.put(".a.pmtiles.oar-tiles/uploads.json", b"{}");
            leave_one(prefix, &folder);
        }
    }
    // A note that is none is written anew.
    prefix.put(".a.pmtiles.oar-tiles/uploads.json", b"{");
    let (said, again) = (copy(|_| Fault::None), copy(|_| Fault::None));
    for text in ["/uploads.json was damaged, and is written anew (", "Have a lifecycle rule of the bucket"] {
        assert!(said.contains(text) && !again.contains(text), "{said}");
    }
    assert_eq!(noted(prefix), Some(vec![]));
    // So it is by a run that notes nothing itself.
    prefix.put(".a.pmtiles.oar-tiles/uploads.json", b"none");
    let small = folder.path().join("small");
    std::fs::write(&small, "small").unwrap();
    upload(prefix, options(&prefix.endpoint), &small).unwrap();
    assert_eq!(prefix.objects()[".a.pmtiles.oar-tiles/uploads.json"], b"{}");
}

#[test]
fn an_upload_that_may_not_be_aborted_is_forgotten_after_a_week_and_that_is_told_once() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    let proxy = Proxy::before(&prefix.endpoint, |seen| if aborts(seen) { DENIED } else { Fault::None });
    let again = || {
        proxy.take_seen();
        upload(&prefix, hasty(&proxy), &file(&folder, 1).0).unwrap();
        proxy.take_seen().iter().filter(|seen| aborts(seen)).count()
    };
    leave_one(&prefix, &folder);
    let left = noted(&prefix).unwrap();
    assert_eq!((again() > 0, noted(&prefix).unwrap()), (true, left));
    // As it is six days after its end, and a day later.
    let name = ".a.pmtiles.oar-tiles/uploads.json";
    let mut note = prefix.note(name).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_millis();
    for (days, is_kept) in [(5, true), (6, false)] {
        note["uploads"][0]["expires"] = (u64::try_from(now).unwrap() - days * 24 * 60 * 60 * 1_000).into();
        prefix.put(name, note.to_string().as_bytes());
        assert!(again() > 0);
        assert_eq!(noted(&prefix).unwrap().len(), usize::from(is_kept), "{days}");
    }
    assert_eq!(again(), 0);
    assert_eq!(uploads(&prefix), 1, "it is left to the bucket's lifecycle rule");
}

#[test]
fn a_few_uploads_are_aborted_at_once() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    leave_one(&prefix, &folder);
    let name = ".a.pmtiles.oar-tiles/uploads.json";
    let mut note = prefix.note(name).unwrap();
    let mut one = note["uploads"][0].clone();
    one["expires"] = 1.into();
    let many = (0..30).map(|number| {
        one["id"] = format!("none{number}").into();
        one.clone()
    });
    note["uploads"] = many.collect();
    prefix.put(name, note.to_string().as_bytes());
    let proxy = Proxy::before(&prefix.endpoint, |seen| if aborts(seen) { Fault::Held } else { Fault::None });
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| upload(&prefix, options(&proxy.endpoint), &file(&folder, 1).0));
        crate::support::until("uploads are being aborted", || proxy.held() >= 4);
        std::thread::sleep(std::time::Duration::from_millis(200));
        assert_eq!(proxy.held(), 4);
        proxy.let_go();
        sending.join().unwrap().unwrap();
    });
    assert_eq!(noted(&prefix), Some(vec![]));
}

#[test]
fn a_run_under_way_keeps_its_upload_unless_another_has_replaced_the_archive() {
    for is_replaced in [false, true] {
        let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
        prefix.put("a.pmtiles", b"old");
        let proxy = Proxy::before(&prefix.endpoint, |seen| {
            if seen.target.contains("partNumber=3") { Fault::Held } else { Fault::None }
        });
        let (slow, theirs) = (file(&folder, 1), file(&folder, 2));
        let archive = BucketArchive::begin(
            &key(&prefix),
            options(&proxy.endpoint),
            prefix.runtime.handle().clone(),
            &Stop::new(),
        );
        let (archive, ended) = (archive.unwrap(), mpsc::channel());
        let path = slow.0.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || ended.0.send(archive.upload(&path)).unwrap());
            crate::support::until("a part is under way", || proxy.held() == 1);
            if is_replaced {
                upload(&prefix, options(&prefix.endpoint), &theirs.0).unwrap();
            } else {
                leave_one(&prefix, &folder);
            }
            assert_eq!(uploads(&prefix), if is_replaced { 0 } else { 2 });
            proxy.let_go();
        });
        let expected = match ended.1.recv().unwrap() {
            Ok(_) if !is_replaced => slow.1,
            Err(BucketError::Changed { .. }) if is_replaced => theirs.1,
            other => panic!("{other:?}"),
        };
        assert!(prefix.objects()["a.pmtiles"] == expected);
        // The other one is known from a time after this run had begun: the next one aborts it.
        let left = usize::from(!is_replaced);
        assert_eq!((uploads(&prefix), noted(&prefix).unwrap().len()), (left, left));
        upload(&prefix, options(&prefix.endpoint), &theirs.0).unwrap();
        assert_eq!((uploads(&prefix), noted(&prefix)), (0, Some(vec![])));
    }
}

#[test]
fn the_upload_of_a_process_that_has_ended_is_aborted_though_the_next_run_fails() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    leave_one(&prefix, &folder);
    let first = noted(&prefix);
    // This process, to which the upload belongs, is alive.
    let fails = |seen: &Seen| {
        if seen.target.contains("partNumber=2") { DENIED } else { Fault::None }
    };
    let proxy = Proxy::before(&prefix.endpoint, fails);
    upload(&prefix, hasty(&proxy), &file(&folder, 1).0).unwrap_err();
    assert_eq!((uploads(&prefix), noted(&prefix)), (1, first));
    let note = String::from_utf8(prefix.objects()[".a.pmtiles.oar-tiles/uploads.json"].clone()).unwrap();
    // Beyond the largest process id of Linux (2^22).
    let gone = note.replace(&format!("\"pid\": {}", std::process::id()), "\"pid\": 8388608");
    assert_ne!(gone, note);
    prefix.put(".a.pmtiles.oar-tiles/uploads.json", gone.as_bytes());
    upload(&prefix, hasty(&proxy), &file(&folder, 1).0).unwrap_err();
    assert_eq!((uploads(&prefix), noted(&prefix)), (0, Some(vec![])));
}

/// A table of which every row is a tile of its own at zoom 8, most of them with 240 kB that no packer shortens much.
const SPOTS: &str = "
    CREATE TABLE spot (id integer PRIMARY KEY, number integer DEFAULT 0, text text, location geometry(Point, 4326));
    INSERT INTO spot (id, text, location)
        SELECT id, CASE id WHEN 50 THEN '' ELSE (SELECT string_agg(md5(id || ' ' || n), '') FROM generate_series(1, 6600) n) END,
            ST_SetSRID(ST_MakePoint(id % 10 * 2 + 1, id / 10 * 2 + 1), 4326)
        FROM generate_series(0, 99) id";

const SPOTS_LAYER: &str = "
[tileset]
zoom = \"8\"
[[layer]]
name = \"spots\"
table = \"spot\"
geometry = \"location\"
properties = [\"id\", \"number\", \"text\"]
";

/// The uploads that the bucket remembers below the prefix, each with the number of its parts. Aborts them.
fn take_uploads(prefix: &Prefix) -> Vec<usize> {
    let (client, bucket) = (&prefix.client, &prefix.location.bucket);
    prefix.runtime.block_on(async {
        let listed =
            client.list_multipart_uploads().bucket(bucket).prefix(&prefix.location.prefix).send().await.unwrap();
        let mut parts = Vec::new();
        for upload in listed.uploads() {
            let (key, id) = (upload.key().unwrap(), upload.upload_id().unwrap());
            let of_upload = client.list_parts().bucket(bucket).key(key).upload_id(id).send().await.unwrap();
            parts.push(of_upload.parts().len());
            client.abort_multipart_upload().bucket(bucket).key(key).upload_id(id).send().await.unwrap();
        }
        parts
    })
}

#[test]
fn an_edit_that_is_killed_at_any_request_is_completed_by_the_next_run_and_leaves_no_part() {
    let db = Db::new();
    db.run(SPOTS);
    let tracked = Tracked { db, folder: tempfile::tempdir().unwrap() };
    let (places, url) = (Places::new(), tracked.db.url.clone());
    let prefix = &places.prefix;
    let config = std::fs::read_to_string(&places.config).unwrap();
    let (_, s3) = config.split_once("[s3]").unwrap();
    std::fs::write(&places.config, format!("{SPOTS_LAYER}[s3]{s3}part_size_mb = 5\n")).unwrap();
    tracked.oar_tiles(&["track", "install", "--config", &places.config]).ok();
    let target = places.place("s3:a.pmtiles");
    places
        .run("seed", &["--database-url", &url, "--progress", "none", "--output", &target, "--public-url", "relative"])
        .ok();
    assert!(prefix.objects()["a.pmtiles"].len() > 11 << 20);
    let reseed = |endpoint: &str| {
        let mut command = program();
        command.args(["reseed", "--progress", "none", "--database-url", &url, "--config", &places.config]);
        command.args(["--output", &target]).env("OAR_TILES_S3_ENDPOINT", endpoint);
        places.with_keys(&mut command);
        command
    };
    // What the archive shows at this moment. It is checked beside the next run: that takes as long as a run.
    let shown = |name: &str| {
        let path = tracked.path(name);
        let get = prefix.client.get_object().bucket(&prefix.location.bucket).key(key(prefix).key);
        let body = prefix.runtime.block_on(async { get.send().await.unwrap().body.collect().await.unwrap() });
        std::thread::spawn(move || {
            std::fs::write(&path, body.into_bytes()).unwrap();
            assert_eq!(PmtilesReader::open(&path).unwrap().check().unwrap(), Vec::<String>::new());
            stored(&path)
        })
    };
    let proxy = Proxy::before(&prefix.endpoint, |_| Fault::None);
    let (mut before, mut kills, mut empty) = (shown("before.pmtiles").join().unwrap(), 0, 0);
    let mut checking: Option<(u32, JoinHandle<Tiles>)> = None;
    let mut checked = |(last, after): (u32, JoinHandle<Tiles>)| {
        let after = after.join().unwrap();
        assert_eq!(differences(&before, &after).len(), 1, "killed at {last}");
        before = after;
    };
    let tag = || prefix.stamps()["a.pmtiles"].clone();
    for last in 1.. {
        tracked.db.run("UPDATE spot SET number = number + 1 WHERE id = 50");
        let (process, mut number) = (Arc::new(AtomicU32::new(0)), 0);
        let of_rule = Arc::clone(&process);
        proxy.rule(move |_| {
            number += 1;
            if number < last {
                return Fault::None;
            }
            // The server does what it was asked for; the process that asked is no more.
            while of_rule.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            if number == last {
                let process = of_rule.load(Ordering::Relaxed).to_string();
                assert!(Command::new("kill").args(["-KILL", &process]).status().unwrap().success());
            }
            Fault::Lost
        });
        let old = tag();
        let mut command = reseed(&proxy.endpoint);
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start();
        process.store(started.id(), Ordering::Relaxed);
        let ended = started.wait_with_output().unwrap();
        if ended.status.success() {
            break;
        }
        assert_eq!(ended.status.code(), None, "{}", String::from_utf8_lossy(&ended.stderr));
        kills += 1;
        let killed = (tag() != old).then(|| shown("killed.pmtiles"));
        run(&mut reseed(&prefix.endpoint)).ok();
        killed.map(|killed| killed.join().unwrap());
        let after = shown(&format!("after{}.pmtiles", last % 2));
        checking.replace((last, after)).map(&mut checked);
        // An upload without parts costs nothing.
        let left = take_uploads(prefix);
        assert!(left.iter().all(|parts| *parts == 0), "killed at {last}: {left:?}");
        empty += left.len();
    }
    checking.map(checked);
    assert!(kills >= 15 && empty <= 1, "{kills} {empty}");
    let fresh = tracked.path("fresh.pmtiles");
    let mut seed = program();
    seed.args(["seed", "--progress", "none", "--database-url", &url, "--config", &places.config, "--output"])
        .arg(&fresh);
    run(&mut seed).ok();
    assert!(stored(&fresh) == shown("end.pmtiles").join().unwrap());
}
