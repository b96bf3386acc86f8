//! `begin`, a shard and a commit are killed at each of their steps in turn: at file operations, and before requests.
//! The same command again makes the target right, and an archive or a version shows the old tiles until it shows all
//! new ones.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::helpers::{Sharded, write};
use super::shared_version::{filled, fresh, shown, versioned, versions};
use crate::support::killed::{REMOVALS, RENAMES, SYNCS, is_killed_at, is_killed_at_one_of};
use crate::support::places::{Places, Tiles, files_below};
use crate::support::program::{program, run, wait};
use crate::support::proxy::{Fault, Proxy};
use crate::support::s3::{Prefix, keys};
use crate::support::tracked::Tracked;
use crate::support::{Archive, seed, until};

/// The tiles of a local target.
fn tiles(target: &str) -> Tiles {
    if target.ends_with('/') {
        return files_below(Path::new(target));
    }
    let copy = format!("{target}.copy.mbtiles");
    run(program().args(["copy", "--force", target, &copy])).ok();
    Archive::open(Path::new(&copy)).stored()
}

/// Copies a folder over another one.
fn copy(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// The next step after one: the first ones one by one, later ones in growing steps.
const fn after(step: usize) -> usize {
    step + 1 + step / 4
}

/// Commits again, after a commit that was killed: it may have ended before.
fn commit_again(sharded: &Sharded<'_>, what: &str) {
    let again = sharded.verb("commit", &[]);
    assert!(again.code == 0 || again.stderr.contains("holds no run"), "{what}: {}", again.stderr);
}

fn a_commit_is_right_after_any_kill(name: &str, least_kills: u32) {
    let tracked = Tracked::facilities(40);
    let (here, kept) = (tracked.path("here"), tracked.path("kept"));
    std::fs::create_dir(&here).unwrap();
    let mut sharded = Sharded::into(&tracked.db, &here, name);
    sharded.more = ["--zoom", "0-3"].map(str::to_owned).to_vec();
    let mut random = fastrand::Rng::with_seed(3);
    seed(&tracked.db.url, Path::new(&sharded.target), &["--zoom", "0-3"]).ok();
    let old = tiles(&sharded.target);
    write(&tracked.db, &mut random);
    sharded.begin(2, &[]);
    (1..=2).for_each(|shard| drop(sharded.run(shard).ok()));
    // The commit has something to repair.
    tracked.db.run("UPDATE api_facility SET name = name || '!' WHERE id = (SELECT min(id) FROM api_facility)");
    let new = tiles(tracked.seed("fresh.mbtiles", &["--zoom", "0-3"]).to_str().unwrap());
    copy(&here, &kept);
    let (mut step, mut kills, mut operations) = (1, 0, None);
    loop {
        let command = sharded.command("commit", &[]);
        let is_killed = match operations {
            None => is_killed_at(step, &command),
            Some(operations) => is_killed_at_one_of(operations, step, &command),
        };
        let what = format!("{name}, killed at {step} of {operations:?}");
        if is_killed && !name.ends_with('/') {
            let now = tiles(&sharded.target);
            assert!(now == old || now == new, "{what}: {} tiles", now.len());
        }
        commit_again(&sharded, &what);
        assert!(tiles(&sharded.target) == new, "{what}: the tiles");
        copy(&kept, &here);
        if !is_killed && operations.is_some() {
            break;
        }
        kills += u32::from(is_killed);
        // Whatever other threads do, each file that is put in its place comes once.
        (step, operations) = if is_killed { (after(step), operations) } else { (1, Some(RENAMES)) };
    }
    assert!(kills >= least_kills, "{name}: {kills} kills");
}

#[test]
fn a_commit_into_mbtiles_is_killed_at_each_file_operation() {
    a_commit_is_right_after_any_kill("t.mbtiles", 5);
}

#[test]
fn a_commit_into_pmtiles_is_killed_at_each_file_operation() {
    a_commit_is_right_after_any_kill("t.pmtiles", 4);
}

#[test]
fn a_commit_into_a_directory_is_killed_at_each_file_operation() {
    a_commit_is_right_after_any_kill("t/", 6);
}

#[test]
fn begin_and_a_shard_are_killed_at_each_file_operation() {
    let tracked = Tracked::facilities(15);
    let mut sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
    sharded.more = ["--zoom", "0-1"].map(str::to_owned).to_vec();
    let mut random = fastrand::Rng::with_seed(4);
    for (verb, operations) in
        [("begin", Some(RENAMES)), ("begin", Some(SYNCS)), ("begin", Some(REMOVALS)), ("run", None)]
    {
        let (mut step, mut kills) = (1, 0);
        loop {
            // In the end one row is left, and then none.
            write(&tracked.db, &mut random);
            let command = if verb == "begin" {
                sharded.command("begin", &["--shards", "1"])
            } else {
                sharded.begin(1, &[]);
                sharded.command("run", &["--shard", "1", "--workers", "1"])
            };
            let is_killed = match operations {
                None => is_killed_at(step, &command),
                Some(operations) => is_killed_at_one_of(operations, step, &command),
            };
            let what = format!("{verb}, killed at {step} of {operations:?}");
            if verb == "begin" && is_killed {
                let begun = sharded.verb("begin", &["--shards", "1"]);
                let is_begun = begun.stderr.contains("already");
                assert!(begun.code == 0 || is_begun, "{what}: {}", begun.stderr);
            }
            if verb == "begin" || is_killed {
                let ran = sharded.run(1);
                assert_eq!(ran.code, 0, "{what}: {}", ran.stderr);
            }
            let committed = sharded.verb("commit", &[]);
            assert_eq!(committed.code, 0, "{what}: {}", committed.stderr);
            tracked.is_fresh(Path::new(&sharded.target), &["--zoom", "0-1"]);
            if !is_killed {
                break;
            }
            kills += 1;
            // `begin` has few file operations.
            step += if verb == "begin" { 1 } else { 1 + step / 2 };
        }
        assert!(kills >= if verb == "begin" { 1 } else { 3 }, "{verb}, {operations:?}: {kills} kills");
    }
}

#[test]
fn a_commit_of_a_version_is_killed_before_each_of_its_requests() {
    let tracked = Tracked::facilities(40);
    let proxy = Proxy::before(&Prefix::new().endpoint, |_| Fault::None);
    let places = Places::with(Prefix::on(&proxy.endpoint, keys()));
    let (here, kept) = (places.folder.path().join("work"), places.folder.path().join("kept"));
    let sharded = versioned(&tracked, &places);
    sharded.whole(1, &[]);
    let old = fresh(&tracked, &places);
    write(&tracked.db, &mut fastrand::Rng::with_seed(3));
    sharded.begin(2, &[]);
    (1..=2).for_each(|shard| drop(sharded.run(shard).ok()));
    tracked.db.run("UPDATE api_facility SET name = name || '!' WHERE id = (SELECT min(id) FROM api_facility)");
    let new = fresh(&tracked, &places);
    let objects = places.prefix.objects();
    copy(&here, &kept);
    let (mut step, mut kills) = (1, 0);
    loop {
        let process = Arc::new(AtomicU32::new(0));
        let (of_rule, mut seen) = (Arc::clone(&process), 0);
        proxy.rule(move |_| {
            seen += 1;
            if seen < step {
                return Fault::None;
            }
            until("its number is known", || of_rule.load(Ordering::Relaxed) != 0);
            let killed = Command::new("kill").args(["-KILL", &of_rule.load(Ordering::Relaxed).to_string()]).output();
            drop(killed.unwrap());
            Fault::Reset
        });
        let child = sharded.start("commit", &[]);
        process.store(child.id(), Ordering::Relaxed);
        let ended = wait(child);
        let what = format!("killed before request {step}");
        proxy.rule(|_| Fault::None);
        assert!(ended.code == -1 || ended.code == 0, "{what}: {}", ended.stderr);
        let visible = filled(versions(&places).remove(&shown(&places)).unwrap_or_default());
        assert!(visible == old || visible == new, "{what}: {} tiles", visible.len());
        // Its lease would end by itself.
        if let Some(mut lease) = places.prefix.note("t/.oar-tiles/lease.json") {
            lease["expires"] = 0.into();
            places.prefix.put("t/.oar-tiles/lease.json", lease.to_string().as_bytes());
        }
        commit_again(&sharded, &what);
        assert!(filled(versions(&places).remove(&shown(&places)).unwrap()) == new, "{what}: the tiles");
        if ended.code == 0 {
            break;
        }
        kills += 1;
        step += 1 + step / 3;
        copy(&kept, &here);
        places.prefix.restore(&objects);
    }
    assert!(kills >= 8, "{kills} kills");
}
