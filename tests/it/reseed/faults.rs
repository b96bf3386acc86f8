//! Reseeds that are interrupted: kill the process, the database or the S3 server at any moment; running the command
//! again converges, and nothing is missed.

use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::gate::gated;
use crate::support::places::Places;
use crate::support::process::Start as _;
use crate::support::program::{Run, program, run, signal, wait};
use crate::support::proxy::{Fault, Proxy};
use crate::support::s3::Prefix;
use crate::support::s3_server::S3Server;
use crate::support::{Archive, Cluster, Db, Gate, Place, seed, until};

const ZOOM: [&str; 2] = ["--zoom", "0-9"];

/// A change in many places, another one each time.
fn change(db: &Db, round: u64) {
    db.run(&format!(
        "UPDATE api_facility SET location = ST_Translate(location, 0.3, 0.2), name = 'r{round}' WHERE hashtext(id) & 15 = {} % 16;
         DELETE FROM api_facility WHERE hashtext(id) & 63 = {round} % 64",
        round * 7
    ));
}

fn install(url: &str) {
    run(program().args(["track", "install", "--database-url", url])).ok();
}

fn reseed_command(places: &Places, url: &str, name: &str) -> Command {
    let mut command = program();
    command.args(["reseed", "--progress", "none", "--config", &places.config, "--database-url", url, "--output"]);
    places.with_keys(command.arg(places.place(name)));
    command
}

fn reseed(places: &Places, db: &Db, name: &str) -> Run {
    run(&mut reseed_command(places, &db.url, name))
}

/// A reseed of a configuration whose statements come to the gate.
fn gated_reseed(config: &str, db: &Db, target: &Path) -> Command {
    let mut command = program();
    command.args(["reseed", "--progress", "none", "--config", config, "--database-url", &db.url, "--output"]);
    command.arg(target).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Asserts that a target shows what a fresh seed shows.
#[track_caller]
fn is_fresh(places: &Places, db: &Db, name: &str) {
    let fresh = places.folder.path().join("fresh.mbtiles");
    seed(&db.url, &fresh, &ZOOM).ok();
    let found = if name == "s3:t.pmtiles" {
        places.run("copy", &[&places.place(name), &places.place("copied.mbtiles")]).ok();
        places.read_by_others("copied.mbtiles")
    } else {
        places.read_by_others(name)
    };
    assert!(found == Archive::open(&fresh).stored(), "{name} is not as a fresh seed");
}

/// By what the moments of a test are chosen: another number each time, or the one that is given.
fn chance() -> u64 {
    std::env::var("TEST_CHANCE")
        .map_or_else(|_| RandomState::new().hash_one("moments"), |chance| chance.parse().unwrap())
}

#[test]
fn a_reseed_killed_at_any_moment_is_continued_by_the_next() {
    let chance = chance();
    println!("TEST_CHANCE={chance} shows these moments again");
    let (db, places) = (Db::with_facilities(250), Places::new());
    install(&db.url);
    let targets = ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/", "s3:t.pmtiles"];
    for (number, name) in (0..).zip(targets) {
        places.seed(&db, name, &ZOOM).ok();
        // How long one takes, undisturbed.
        change(&db, number);
        let begun = Instant::now();
        reseed(&places, &db, name).ok();
        let whole = u64::try_from(begun.elapsed().as_micros()).unwrap();
        for round in 0..5 {
            change(&db, number * 10 + round);
            let mut command = reseed_command(&places, &db.url, name);
            let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).start();
            let moment = chance.rotate_left(u32::try_from(number * 5 + round).unwrap()) % whole;
            std::thread::sleep(Duration::from_micros(moment));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // A lease in S3 outlives who held it.
        std::thread::sleep(Duration::from_millis(if name.starts_with("s3:tiles") { 2_100 } else { 0 }));
        reseed(&places, &db, name).ok();
        is_fresh(&places, &db, name);
        assert!(reseed(&places, &db, name).ok().stdout.starts_with("nothing to do"), "{name}");
    }
}

#[test]
fn a_database_that_crashes_in_the_middle_is_asked_again() {
    let mut cluster = Cluster::new();
    let mut db = Db::with_facilities_on(&cluster.url, 500);
    let places = Places::new();
    let config = gated(places.folder.path(), Place::Render, "");
    let target = places.folder.path().join("t.mbtiles");
    run(program().args(["track", "install", "--config", &config, "--database-url", &db.url])).ok();
    seed(&db.url, &target, &["--config", &config, "--zoom", "0-9"]).ok();
    change(&db, 3);
    let gate = Gate::close(&db);
    let mut command = gated_reseed(&config, &db, &target);
    let child = command.start();
    gate.wait_for(1);
    cluster.crash();
    cluster.start();
    db.reconnect();
    let done = wait(child).ok();
    assert!(done.stderr.contains("starting over on a new snapshot (1 of 3)"), "{}", done.stderr);
    let fresh = places.folder.path().join("fresh.mbtiles");
    seed(&db.url, &fresh, &["--config", &config, "--zoom", "0-9"]).ok();
    assert!(Archive::open(&target).stored() == Archive::open(&fresh).stored());
}

#[test]
fn a_database_that_crashes_before_anything_is_rendered_is_asked_again() {
    let mut cluster = Cluster::new();
    let mut db = Db::with_facilities_on(&cluster.url, 300);
    let places = Places::new();
    install(&db.url);
    let target = places.folder.path().join("t.mbtiles");
    seed(&db.url, &target, &ZOOM).ok();
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    // While the layers are looked at, while it is seen whether the log can be trusted, and while the log is read.
    for (round, table) in (0..).zip(["api_facility", "oar_tiles.state", "oar_tiles.change"]) {
        change(&db, round);
        db.run("CHECKPOINT");
        db.run(&format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"));
        let mut command = reseed_command(&places, &db.url, "t.mbtiles");
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start();
        until("it waits for the table", || db.value::<i64>(waiting) > 0);
        cluster.crash();
        cluster.start();
        db.reconnect();
        let done = wait(child).ok();
        let told = "starting over on a new snapshot (1 of 3)";
        assert!(done.stderr.contains(told), "{table}: {}", done.stderr);
        is_fresh(&places, &db, "t.mbtiles");
    }
}

#[test]
fn an_s3_server_killed_at_any_moment_of_a_reseed_has_everything_after_the_next() {
    let chance = chance();
    println!("TEST_CHANCE={chance} shows these moments again");
    let server = S3Server::new();
    let (db, places) = (Db::with_facilities(250), Places::with(Prefix::on(&server.endpoint, server.keys.clone())));
    install(&db.url);
    let patient = std::fs::read_to_string(&places.config).unwrap();
    // While the server is away, a run gives up soon.
    let hurried = "attempts = 3\nrequest_timeout = \"2s\"\n";
    let hurried = format!("{patient}{hurried}");
    let (mut done, mut failed) = (0, 0);
    for (number, name) in (0_u64..).zip(["s3:tiles/", "s3:t.pmtiles"]) {
        places.seed(&db, name, &ZOOM).ok();
        change(&db, number);
        let begun = Instant::now();
        reseed(&places, &db, name).ok();
        let whole = u64::try_from(begun.elapsed().as_micros()).unwrap();
        std::fs::write(&places.config, &hurried).unwrap();
        // It takes its time to come back each time.
        for round in 0..2_u32 {
            change(&db, number * 10 + u64::from(round));
            let mut command = reseed_command(&places, &db.url, name);
            let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start();
            std::thread::sleep(Duration::from_micros(
                chance.rotate_left(round * 7 + u32::try_from(number).unwrap()) % whole,
            ));
            server.kill();
            let ended = wait(child);
            match ended.code {
                0 => done += 1,
                1 | 3 => failed += 1,
                code => panic!("exit code {code}: {}", ended.stderr),
            }
            server.start();
            places.prefix.wait_for_server();
        }
        std::fs::write(&places.config, &patient).unwrap();
        // A lease in S3 outlives who held it.
        std::thread::sleep(Duration::from_millis(2_100));
        reseed(&places, &db, name).ok();
        is_fresh(&places, &db, name);
        assert!(reseed(&places, &db, name).ok().stdout.starts_with("nothing to do"), "{name}");
    }
    println!("{done} reseeds were done before, {failed} gave up");
    assert!(failed > 0, "the moments were ill chosen");
}

#[test]
fn a_bucket_that_goes_away_in_the_middle_keeps_its_cursor() {
    let (db, places) = (Db::with_facilities(600), Places::new());
    install(&db.url);
    places.seed(&db, "s3:tiles/", &ZOOM).ok();
    change(&db, 1);
    // After forty writes of tiles, nobody answers any more.
    let mut writes = 0;
    let proxy = Proxy::before(&places.prefix.endpoint, move |seen| {
        writes += u32::from(seen.is_tile());
        if writes > 40 { Fault::Reset } else { Fault::None }
    });
    let config = places.folder.path().join("broken.toml");
    let text = std::fs::read_to_string(&places.config).unwrap().replace(&places.prefix.endpoint, &proxy.endpoint);
    std::fs::write(&config, text + "attempts = 2\nrequest_timeout = \"2s\"\n").unwrap();
    let mut command = program();
    command.args(["reseed", "--progress", "none", "--database-url", &db.url, "--config"]).arg(&config);
    let failed = run(places.with_keys(command.arg("--output").arg(places.place("s3:tiles/"))));
    assert!([1, 3].contains(&failed.code), "{}: {}", failed.code, failed.stderr);
    change(&db, 2);
    std::thread::sleep(Duration::from_millis(2_100));
    reseed(&places, &db, "s3:tiles/").ok();
    is_fresh(&places, &db, "s3:tiles/");
}

#[test]
fn of_two_reseeds_at_once_one_is_told_to_wait() {
    let (db, places) = (Db::with_facilities(300), Places::new());
    let config = gated(places.folder.path(), Place::Render, "");
    run(program().args(["track", "install", "--config", &config, "--database-url", &db.url])).ok();
    for name in ["t.mbtiles", "t.pmtiles", "tiles/"] {
        let target = places.folder.path().join(name);
        let target = if name.ends_with('/') { target.join("") } else { target };
        let reseed = |target: &Path| gated_reseed(&config, &db, target);
        seed(&db.url, &target, &["--config", &config, "--zoom", "0-9"]).ok();
        change(&db, 5);
        let gate = Gate::close(&db);
        let first = reseed(&target).start();
        gate.wait_for(1);
        run(&mut reseed(&target)).fails(1, &["another run "]);
        gate.open();
        wait(first).ok();
        assert!(run(&mut reseed(&target)).ok().stdout.starts_with("nothing to do"), "{name}");
    }
}

#[test]
fn an_interrupted_reseed_leaves_the_target_and_goes_on_later() {
    let (db, places) = (Db::with_facilities(300), Places::new());
    let config = gated(places.folder.path(), Place::Render, "");
    run(program().args(["track", "install", "--config", &config, "--database-url", &db.url])).ok();
    let target = places.folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--config", &config, "--zoom", "0-9"]).ok();
    let before = std::fs::read(&target).unwrap();
    change(&db, 6);
    let gate = Gate::close(&db);
    let mut command = gated_reseed(&config, &db, &target);
    let child = command.start();
    gate.wait_for(1);
    signal(&child, "TERM");
    wait(child).fails(143, &["error: interrupted: the target is unchanged"]);
    assert!(std::fs::read(&target).unwrap() == before);
    gate.open();
    let done = run(&mut command).ok();
    assert!(done.stdout.contains(" dirty tiles"), "{}", done.stdout);
}
