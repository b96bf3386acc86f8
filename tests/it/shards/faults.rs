//! Kills, doubles, late attempts, servers that refuse.

use std::path::Path;
use std::time::Duration;

use super::helpers::{Sharded, names, write};
use crate::support::places::Places;
use crate::support::program::{program, run, signal, wait};
use crate::support::proxy::{Fault, Proxy, SLOW_DOWN};
use crate::support::s3::{Prefix, keys};
use crate::support::tracked::Tracked;
use crate::support::until;

#[test]
fn whatever_is_killed_and_run_again_the_result_is_that_of_a_seed() {
    let tracked = Tracked::facilities(200);
    for (round, name) in ["a.mbtiles", "b.pmtiles", "c/"].into_iter().enumerate() {
        let mut random = fastrand::Rng::with_seed(round as u64);
        let mut sharded = Sharded::into(&tracked.db, tracked.folder.path(), name);
        sharded.work = tracked.path(&format!("work{round}/")).to_str().unwrap().to_owned();
        let count = random.u32(1..6);
        let shards = count.to_string();
        let killed = |verb: &str, arguments: &[&str], random: &mut fastrand::Rng| {
            let child = sharded.start(verb, arguments);
            std::thread::sleep(Duration::from_millis(random.u64(0..250)));
            signal(&child, "KILL");
            wait(child);
        };
        killed("begin", &["--shards", &shards], &mut random);
        let begun = sharded.verb("begin", &["--shards", &shards]);
        assert!(begun.code == 0 || begun.stderr.contains("already"), "{}", begun.stderr);
        let mut order: Vec<String> = (1..=count).map(|shard| shard.to_string()).collect();
        random.shuffle(&mut order);
        for shard in &order {
            write(&tracked.db, &mut random);
            killed("run", &["--shard", shard], &mut random);
            let doubles = [0, 1].map(|_| sharded.start("run", &["--shard", shard]));
            for double in doubles {
                wait(double).ok();
            }
        }
        write(&tracked.db, &mut random);
        for _ in 0..2 {
            killed("commit", &[], &mut random);
        }
        let committed = sharded.verb("commit", &[]);
        // It may have ended before it was killed.
        assert!(committed.code == 0 || committed.stderr.contains("holds no run"), "{}", committed.stderr);
        let copy = tracked.path("copy.mbtiles");
        run(program().args(["copy", "--force", &sharded.target]).arg(&copy)).ok();
        tracked.is_fresh(&copy, &["--zoom", "0-7"]);
        assert_eq!(names(Path::new(&sharded.work), "shard"), [""; 0]);
    }
}

#[test]
fn an_attempt_that_wakes_after_the_commit_changes_nothing() {
    let tracked = Tracked::facilities(300);
    let sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t/");
    let run = sharded.begin(1, &[]);
    let late = sharded.start("run", &["--shard", "1", "--workers", "1"]);
    until("it has begun", || !names(&sharded.notes(&run), "attempt-0001-").is_empty());
    signal(&late, "STOP");
    sharded.run(1).ok();
    sharded.verb("commit", &[]).ok();
    tracked.db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 100)");
    tracked.reseed(Path::new(&sharded.target), &[]).ok();
    let before = crate::support::places::files_below(Path::new(&sharded.target));
    signal(&late, "CONT");
    let late = wait(late).ok();
    assert!(late.stderr.contains("shard 1 was done already"), "{}", late.stderr);
    assert!(crate::support::places::files_below(Path::new(&sharded.target)) == before);
    assert_eq!(names(Path::new(&sharded.work), ""), [".oar-tiles"], "nothing is left of it");
}

#[test]
fn a_server_that_refuses_now_and_then_delays_shards_and_nothing_else() {
    let tracked = Tracked::facilities(100);
    let proxy = Proxy::before(&Prefix::new().endpoint, |seen| match seen.number % 7 {
        3 => SLOW_DOWN,
        5 if seen.method == "PUT" => Fault::Lost,
        _ => Fault::None,
    });
    let places = Places::with(Prefix::on(&proxy.endpoint, keys()));
    let config = std::fs::read_to_string(&places.config).unwrap();
    std::fs::write(&places.config, config.replace("lease = \"2s\"", "lease = \"20s\"")).unwrap();
    let keys = &places.prefix.keys;
    let sharded = Sharded {
        db: &tracked.db,
        target: places.place("s3:t/"),
        work: places.place("s3:work/"),
        more: ["--zoom", "0-3", "--config", &places.config].map(str::to_owned).to_vec(),
        variables: vec![
            ("AWS_ACCESS_KEY_ID".to_owned(), keys.key.clone()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), keys.secret.clone()),
            ("OAR_TILES_CONFIG".to_owned(), places.config.clone()),
        ],
    };
    sharded.whole(2, &[]);
    proxy.rule(|_| Fault::None);
    places.seed(&tracked.db, "single.mbtiles", &["--zoom", "0-3"]).ok();
    assert!(places.read_by_others("s3:t/") == places.read_by_others("single.mbtiles"));
}
