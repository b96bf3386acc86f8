//! `seed --resume`: a seed in parts by one process. Whatever is killed, changed or damaged meanwhile, the same command
//! again leaves what a plain seed leaves, from the parts that can still be used.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use oar_tiles::target::{PmtilesReader, TileReader as _};

use super::helpers::{Sharded, names, without_times, write};
use super::same_as_a_seed::pmtiles_parts;
use super::shared_version::{filled, fresh, shown, versioned, versions};
use crate::support::database::with_database;
use crate::support::killed::{RENAMES, SYNCS, is_killed_at_one_of};
use crate::support::places::{Places, files_below};
use crate::support::process::Start as _;
use crate::support::program::{Run, program, run, signal, wait};
use crate::support::proxy::{Fault, Proxy};
use crate::support::s3::{Prefix, keys};
use crate::support::tracked::{Tracked, show_the_same};
use crate::support::{Cluster, Db, SmallDisk, seed, until};

const ZOOMS: [&str; 2] = ["--zoom", "0-4"];

/// A seed in three parts, which says how far it is.
fn resume(url: &str, target: &Path, more: &[&str]) -> Command {
    let mut command = program();
    command.args(["seed", "--resume", "--parts", "3", "--progress", "lines", "--database-url", url, "--output"]);
    command.arg(target).args(ZOOMS).args(more);
    command
}

/// The folder with the parts of a target.
fn parts(target: &Path) -> PathBuf {
    if target.to_str().unwrap().ends_with('/') {
        return target.join(".oar-tiles/notes/parts");
    }
    let name = target.file_name().unwrap().to_str().unwrap();
    target.with_file_name(format!(".{name}.oar-tiles")).join("parts")
}

/// The parts of a target as a run of shards, of which some are rendered.
fn begun<'a>(tracked: &'a Tracked, target: &Path, done: &[u32]) -> (Sharded<'a>, String) {
    begun_on(&tracked.db, target, done)
}

/// The same on some server.
fn begun_on<'a>(db: &'a Db, target: &Path, done: &[u32]) -> (Sharded<'a>, String) {
    let mut sharded = Sharded::into(db, target.parent().unwrap(), target.file_name().unwrap().to_str().unwrap());
    sharded.work = format!("{}/", parts(target).to_str().unwrap());
    sharded.more = ZOOMS.map(str::to_owned).to_vec();
    let id = sharded.begin(3, &[]);
    for part in done {
        sharded.run(*part).ok();
    }
    (sharded, id)
}

/// Nothing is left of the parts but how their run has ended.
#[track_caller]
fn nothing_is_left(target: &Path) {
    assert_eq!(names(&parts(target), ""), [".oar-tiles"]);
    let left = Command::new("find").arg(parts(target)).args(["-type", "f", "-not", "-name", ".lock"]).output().unwrap();
    let left = String::from_utf8(left.stdout).unwrap();
    assert!(left.lines().all(|file| file.ends_with("/ended.json")), "{left}");
}

#[test]
fn an_archive_in_parts_is_byte_for_byte_that_of_a_plain_seed_after_kills_at_random_moments() {
    let tracked = Tracked::facilities(400);
    let mut random = fastrand::Rng::with_seed(44);
    for name in ["t.pmtiles", "t.mbtiles"] {
        let plain = tracked.seed(&format!("plain-{name}"), &ZOOMS);
        let target = tracked.path(name);
        for _ in 0..8 {
            let mut command = resume(&tracked.db.url, &target, &[]);
            let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).start();
            std::thread::sleep(Duration::from_millis(random.u64(0..400)));
            signal(&child, "KILL");
            wait(child);
        }
        run(&mut resume(&tracked.db.url, &target, &[])).ok();
        if name.ends_with(".pmtiles") {
            assert!(pmtiles_parts(&target) == pmtiles_parts(&plain));
        } else {
            assert!(without_times(&target) == without_times(&plain));
        }
        nothing_is_left(&target);
    }
}

#[test]
fn killed_at_each_rename_and_sync_with_edits_between_it_shows_what_a_fresh_seed_shows() {
    let tracked = Tracked::facilities(60);
    let mut random = fastrand::Rng::with_seed(45);
    for (name, operations) in [("t.mbtiles", RENAMES), ("t/", RENAMES), ("t.pmtiles", SYNCS)] {
        let target = tracked.path(name);
        let (mut step, mut kills) = (1, 0);
        loop {
            let is_killed = is_killed_at_one_of(operations, step, &resume(&tracked.db.url, &target, &[]));
            write(&tracked.db, &mut random);
            if is_killed {
                run(&mut resume(&tracked.db.url, &target, &[])).ok();
                let copy = tracked.path("copy.mbtiles");
                run(program().args(["copy", "--force"]).arg(&target).arg(&copy)).ok();
                tracked.is_fresh(&copy, &ZOOMS);
            }
            if !is_killed {
                break;
            }
            kills += 1;
            step += 1 + step / 3;
        }
        assert!(kills >= 3, "{name}: {kills} kills");
    }
}

#[test]
fn what_is_done_is_kept_and_only_the_rest_is_rendered() {
    let tracked = Tracked::facilities(60);
    let target = tracked.path("t.mbtiles");
    begun(&tracked, &target, &[1, 3]);
    tracked.db.run("UPDATE api_facility SET name = name || '!' WHERE id = (SELECT min(id) FROM api_facility)");
    // The same target by another path.
    let other = tracked.folder.path().join("./t.mbtiles");
    let ended = run(&mut resume(&tracked.db.url, &other, &[])).ok();
    assert!(ended.stderr.contains("part 2 of 3; 2 parts are done"), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("part ").count(), 1, "{}", ended.stderr);
    tracked.is_fresh(&target, &ZOOMS);
    nothing_is_left(&target);
    // Whoever seeds again seeds everything.
    let again = run(&mut resume(&tracked.db.url, &target, &[])).ok();
    assert!(again.stderr.contains("part 1 of 3; 0 parts are done"), "{}", again.stderr);
}

/// Map clients ask for no tile beyond the bounds.
#[test]
fn the_bounds_hold_a_row_that_came_between_the_plan_and_its_part() {
    let tracked = Tracked::facilities(40);
    let place = |x: &str, y: &str| format!("SET location = ST_SetSRID(ST_MakePoint({x}, {y}), 4326)");
    tracked.db.run(&format!("UPDATE api_facility {}", place("5 + random() * 5", "45 + random() * 5")));
    let target = tracked.path("t.pmtiles");
    begun(&tracked, &target, &[]);
    let one = "WHERE id = (SELECT min(id) FROM api_facility)";
    tracked.db.run(&format!("UPDATE api_facility {} {one}", place("150", "-30")));
    run(&mut resume(&tracked.db.url, &target, &[])).ok();
    let bounds = |path: &Path| PmtilesReader::open(path).unwrap().describe().unwrap().bounds.unwrap();
    let (found, fresh) = (bounds(&target), bounds(&tracked.seed("fresh.pmtiles", &ZOOMS)));
    assert_eq!(found.joined(fresh), found, "{fresh:?}");
}

#[test]
fn a_stop_keeps_the_parts_that_are_done_and_says_so() {
    let tracked = Tracked::facilities(60);
    let target = tracked.path("t.mbtiles");
    begun(&tracked, &target, &[1]);
    // The second part waits for a lock.
    let door = tracked.db.again();
    door.run("BEGIN; LOCK TABLE api_facility");
    let mut command = resume(&tracked.db.url, &target, &[]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start();
    std::thread::sleep(Duration::from_millis(700));
    // It holds the target, so another one is refused.
    run(&mut resume(&tracked.db.url, &target, &[])).fails(1, &["another run is writing ", "t.mbtiles: wait until"]);
    signal(&child, "TERM");
    wait(child)
        .fails(143, &["t.mbtiles is unchanged, and the parts that are done are kept: run the command again to go on"]);
    door.run("ROLLBACK");
    let ended = run(&mut resume(&tracked.db.url, &target, &[])).ok();
    assert!(ended.stderr.contains("part 2 of 3; 1 part is done"), "{}", ended.stderr);
}

#[test]
fn without_a_change_log_it_says_before_it_begins_that_it_would_start_over() {
    let db = Db::with_facilities(30);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    let ended = run(&mut resume(&db.url, &target, &[])).ok();
    let said =
        "if this seed is killed, the next one starts over, as without --resume: changes are not noted in the database";
    let warned = ended.stderr.find(said).unwrap_or_else(|| panic!("{}", ended.stderr));
    assert!(warned < ended.stderr.find("reading where the features").unwrap(), "{}", ended.stderr);
    assert!(!ended.stderr.contains("part 1 of"), "{}", ended.stderr);
    seed(&db.url, &folder.path().join("plain.mbtiles"), &ZOOMS).ok();
    assert!(without_times(&target) == without_times(&folder.path().join("plain.mbtiles")));
    assert!(!parts(&target).exists());
}

/// Parts that cannot be used are given up with the reason, and all is rendered again.
fn starts_over(change: impl FnOnce(&Tracked), more: &[&str], why: &str) -> Run {
    let tracked = Tracked::facilities(40);
    let target = tracked.path("t.mbtiles");
    let (_sharded, id) = begun(&tracked, &target, &[1, 2]);
    change(&tracked);
    let config = tracked.path("other.toml");
    let more: Vec<&str> =
        more.iter().map(|flag| if *flag == "OTHER" { config.to_str().unwrap() } else { flag }).collect();
    let ended = run(&mut resume(&tracked.db.url, &target, &more)).ok();
    let said = ended.stderr.find("2 of 3 parts of the seed of 20").unwrap_or_else(|| panic!("{}", ended.stderr));
    assert!(ended.stderr[said..].contains(" are of no use: "), "{}", ended.stderr);
    assert!(ended.stderr[said..].contains(why), "{}", ended.stderr);
    assert!(!parts(&target).join(id).exists());
    seed(&tracked.db.url, &tracked.path("fresh.mbtiles"), &[&ZOOMS, &more[..]].concat()).ok();
    assert!(without_times(&target) == without_times(&tracked.path("fresh.mbtiles")));
    ended
}

/// Changes a note of the parts.
fn rewritten(target: &Path, name: &str, change: impl Fn(&mut serde_json::Value)) {
    let notes = parts(target).join(".oar-tiles/notes");
    let folders = names(&notes, "").into_iter().map(|folder| notes.join(folder)).chain([notes.clone()]);
    let path = folders.map(|folder| folder.join(name)).find(|path| path.exists()).unwrap();
    let mut note = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut note);
    std::fs::write(path, serde_json::to_vec(&note).unwrap()).unwrap();
}

/// A standby may catch up, and is waited for; a primary never does.
#[test]
fn parts_of_another_database_or_of_a_state_that_was_lost_start_over_at_once() {
    let lost = |tracked: &Tracked| {
        for part in ["done-0001.json", "done-0002.json"] {
            rewritten(&tracked.path("t.mbtiles"), part, |note| note["seen"] = "4000000000:4000000000:".into());
        }
    };
    starts_over(lost, &[], "it shows changes that the database's change log does not hold any more");
    let elsewhere = |tracked: &Tracked| {
        lost(tracked);
        rewritten(&tracked.path("t.mbtiles"), "plan.json", |plan| plan["database"]["name"] = "elsewhere".into());
    };
    starts_over(elsewhere, &[], "its plan is of another database (\"elsewhere\"");
}

#[test]
fn parts_meet_a_standby_that_lags_and_one_that_is_promoted_between_them() {
    let primary = Cluster::new();
    let tracked = Tracked::over(Db::with_facilities_on(&primary.url_tcp, 100));
    let standby = Cluster::standby_of(&primary);
    let (replica, url) = (Db::there(&standby.url, &tracked.db.name), with_database(&standby.url, &tracked.db.name));
    let all_is_there = || {
        let now = tracked.db.value::<String>("SELECT pg_current_wal_lsn()::text");
        until("the replica has all", || {
            replica.value::<bool>(&format!("SELECT pg_last_wal_replay_lsn() >= '{now}'::pg_lsn"))
        });
    };
    let goes_on = |ended: &Run| assert!(!ended.stderr.contains("of no use"), "{}", ended.stderr);
    all_is_there();
    // Once it goes on, sessions of the replica are not to be ended by what it replays.
    replica.run("ALTER SYSTEM SET max_standby_streaming_delay = -1");
    replica.run("SELECT pg_reload_conf()");
    replica.run("SELECT pg_wal_replay_pause()");
    let mut random = fastrand::Rng::with_seed(9);
    write(&tracked.db, &mut random);
    let target = tracked.path("t.mbtiles");
    drop(begun(&tracked, &target, &[1, 2]));
    // The replica has seen neither the parts' state nor that of their plan: nothing is published until it has.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&mut resume(&url, &target, &[])));
        std::thread::sleep(Duration::from_secs(2));
        assert!(!target.exists() && !waiting.is_finished());
        replica.run("SELECT pg_wal_replay_resume()");
        goes_on(&waiting.join().unwrap().ok());
    });
    tracked.is_fresh(&target, &ZOOMS);
    // The replica renders parts, and goes on as a primary, with changes of its own.
    write(&tracked.db, &mut random);
    all_is_there();
    let late = tracked.path("late.mbtiles");
    drop(begun_on(&replica, &late, &[1, 2]));
    standby.promote();
    write(&replica, &mut random);
    goes_on(&run(&mut resume(&url, &late, &[])).ok());
    seed(&url, &tracked.path("plain.mbtiles"), &ZOOMS).ok();
    show_the_same(&late, &tracked.path("plain.mbtiles"));
}

#[test]
fn parts_of_another_configuration_start_over() {
    let other = |tracked: &Tracked| {
        let layer = "[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\ngeometry = \"location\"\nkey = [\"id\"]\nbuffer = 7\n";
        std::fs::write(tracked.path("other.toml"), layer).unwrap();
    };
    starts_over(other, &["--config", "OTHER"], "their fingerprint is ");
    starts_over(|_| {}, &["--bbox", "0,0,90,60"], "bbox is ");
}

#[test]
fn parts_of_a_table_that_was_replaced_start_over() {
    let replaced = |tracked: &Tracked| {
        tracked.db.run(
            "ALTER TABLE api_facility RENAME TO api_facility_old;
             CREATE TABLE api_facility (LIKE api_facility_old INCLUDING ALL);
             INSERT INTO api_facility SELECT * FROM api_facility_old LIMIT 20",
        );
        tracked.oar_tiles(&["track", "install"]).ok();
    };
    starts_over(replaced, &[], "the tables and views that the layers read are not those of then");
}

#[test]
fn parts_whose_change_log_was_pruned_or_dropped_start_over() {
    let pruned = |tracked: &Tracked| {
        tracked.db.run("UPDATE api_facility SET name = name || '!' WHERE id = (SELECT min(id) FROM api_facility)");
        tracked.oar_tiles(&["track", "prune", "--older-than", "0s"]).ok();
    };
    starts_over(pruned, &[], "it was pruned up to transaction ");
    let dropped = |tracked: &Tracked| drop(tracked.oar_tiles(&["track", "remove"]).ok());
    let ended = starts_over(dropped, &[], "it has no change log in the schema ");
    assert!(ended.stderr.contains("if this seed is killed, the next one starts over"), "{}", ended.stderr);
}

#[test]
fn parts_of_another_version_of_the_program_start_over() {
    let tracked = Tracked::facilities(40);
    let target = tracked.path("t.mbtiles");
    begun(&tracked, &target, &[1]);
    let plan = parts(&target).join(".oar-tiles/notes/plan.json");
    let text = std::fs::read_to_string(&plan).unwrap();
    let ours = concat!("oar-tiles ", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(ours), "{text}");
    std::fs::write(&plan, text.replace(ours, "oar-tiles 0.0.1")).unwrap();
    let ended = run(&mut resume(&tracked.db.url, &target, &[])).ok();
    let said = "the parts that oar-tiles 0.0.1 has rendered are of no use to this version: the seed starts over";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    tracked.is_fresh(&target, &ZOOMS);
    nothing_is_left(&target);
}

#[test]
fn a_part_that_is_damaged_or_gone_is_rendered_again() {
    let tracked = Tracked::facilities(60);
    let target = tracked.path("t.mbtiles");
    let (sharded, id) = begun(&tracked, &target, &[1, 2, 3]);
    let files = parts(&target).join(&id);
    let file = |part: u32| files.join(&names(&files, &format!("shard-{part:04}-"))[0]);
    let mut bytes = std::fs::read(file(1)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file(1), bytes).unwrap();
    std::fs::remove_file(file(2)).unwrap();
    std::fs::write(sharded.notes(&id).join("done-0003.json"), "{").unwrap();
    let ended = run(&mut resume(&tracked.db.url, &target, &[])).ok();
    for said in [
        "part 1 is rendered again: ",
        " cannot be read (",
        "part 2 is rendered again: its file is gone",
        "part 3 is rendered again: ",
        "/done-0003.json in ",
    ] {
        assert!(ended.stderr.contains(said), "«{said}» is missing in:\n{}", ended.stderr);
    }
    tracked.is_fresh(&target, &ZOOMS);
    nothing_is_left(&target);
}

#[test]
fn a_strangers_folder_is_refused_and_a_broken_plan_can_be_given_up() {
    let tracked = Tracked::facilities(20);
    let target = tracked.path("t.mbtiles");
    let seeded = || run(&mut resume(&tracked.db.url, &target, &[]));
    std::fs::create_dir_all(parts(&target)).unwrap();
    std::fs::write(parts(&target).join("letters.txt"), "dear").unwrap();
    seeded()
        .fails(2, &["parts/ holds letters.txt, which seed --resume has not left there: nothing was written. Move it"]);
    assert_eq!(names(&parts(&target), ""), ["letters.txt"]);
    std::fs::remove_file(parts(&target).join("letters.txt")).unwrap();
    std::fs::remove_dir(parts(&target)).unwrap();
    let theirs = tracked.path("theirs");
    std::fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::symlink(&theirs, parts(&target)).unwrap();
    seeded().fails(2, &["parts/ holds files behind a symbolic link, which seed --resume has not left there"]);
    assert_eq!(names(&theirs, ""), [""; 0]);
    std::fs::remove_file(parts(&target)).unwrap();

    let (sharded, id) = begun(&tracked, &target, &[1]);
    std::fs::write(parts(&target).join(".oar-tiles/notes/plan.json"), "{").unwrap();
    seeded().fails(1, &["plan.json in ", "give the run up with oar-tiles shards abort", "/parts/, and begin again"]);
    sharded.verb("abort", &[]).ok();
    assert!(!parts(&target).join(id).exists());
    seeded().ok();
    tracked.is_fresh(&target, &ZOOMS);
    // A run that holds one snapshot for its shards is nobody else's.
    let holder = sharded.start("begin", &["--shards", "2", "--hold"]);
    until("the run is begun", || sharded.verb("status", &[]).code == 0);
    seeded().fails(1, &[" holds run ", " already: finish it with oar-tiles shards commit"]);
    sharded.verb("abort", &[]).ok();
    wait(holder);
}

#[test]
fn nothing_outside_of_the_folder_of_parts_is_removed_and_nothing_of_others_in_it() {
    let tracked = Tracked::facilities(20);
    let target = tracked.path("t.mbtiles");
    let seeded = || run(&mut resume(&tracked.db.url, &target, &[]));
    let theirs = tracked.path("theirs");
    std::fs::create_dir(&theirs).unwrap();
    let letters = theirs.join("letters.txt");
    std::fs::write(&letters, "dear").unwrap();
    // A link with the name of a run.
    let link = parts(&target).join("0123456789abcdef");
    std::fs::create_dir_all(parts(&target)).unwrap();
    std::os::unix::fs::symlink(&theirs, &link).unwrap();
    seeded().fails(2, &["parts/ holds 0123456789abcdef, which seed --resume has not left there"]);
    assert!(letters.exists() && link.is_symlink());
    std::fs::remove_file(&link).unwrap();
    // A folder with such a name.
    std::fs::create_dir(&link).unwrap();
    std::fs::rename(&letters, link.join("letters.txt")).unwrap();
    seeded().ok();
    std::fs::rename(link.join("letters.txt"), &letters).unwrap();
    std::fs::remove_dir(&link).unwrap();
    // Notes that name other files and folders.
    for file in [letters.to_str().unwrap(), "../../theirs/letters.txt"] {
        begun(&tracked, &target, &[1, 2, 3]);
        rewritten(&target, "done-0002.json", |note| note["file"] = file.into());
        let ended = seeded().ok();
        assert!(ended.stderr.contains("part 2 is rendered again: ") && letters.exists(), "{}", ended.stderr);
    }
    begun(&tracked, &target, &[1]);
    rewritten(&target, "plan.json", |plan| plan["run"] = "../../theirs".into());
    seeded().fails(1, &["plan.json in ", "\"../../theirs\" is no id of a run", "oar-tiles shards abort"]);
    assert!(letters.exists());
}

#[test]
fn what_killed_seeds_have_left_of_parts_is_removed_before_the_next_part() {
    let tracked = Tracked::facilities(300);
    let target = tracked.seed("t.mbtiles", &ZOOMS);
    let (_sharded, id) = begun(&tracked, &target, &[1]);
    let files = parts(&target).join(id);
    let done = names(&files, "shard-0001-");
    for name in ["shard-0002-0123456789abcdef.run", "shard-0001-0123456789abcdef.run", ".oar-tiles.a1B2c3.part"] {
        std::fs::write(files.join(name), "some tiles").unwrap();
    }
    // It is refused before its next part.
    tracked.db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 250)");
    run(resume(&tracked.db.url, &target, &[]).env("OAR_TILES_MAX_SHRINK", "50%")).fails(1, &["would lose rows: "]);
    assert_eq!(done.len(), 1);
    assert_eq!(names(&files, ""), done);
}

#[test]
fn a_seed_that_would_lose_too_many_rows_is_refused_before_its_first_part() {
    let tracked = Tracked::facilities(300);
    let target = tracked.seed("t.mbtiles", &ZOOMS);
    tracked.db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 250)");
    let resume = |more: &[&str]| run(resume(&tracked.db.url, &target, more).env("OAR_TILES_MAX_SHRINK", "50%"));
    let refused = resume(&[]).fails(1, &["t.mbtiles would lose rows: ", "max_shrink is 50%"]);
    assert!(!refused.stderr.contains("part 1 of"), "{}", refused.stderr);
    resume(&["--allow-shrink"]).ok();
    tracked.is_fresh(&target, &ZOOMS);
}

#[test]
fn whether_a_seed_that_goes_on_loses_rows_is_judged_by_those_that_are_there_now() {
    let tracked = Tracked::facilities(300);
    let target = tracked.seed("t.mbtiles", &ZOOMS);
    let resume = || run(resume(&tracked.db.url, &target, &[]).env("OAR_TILES_MAX_SHRINK", "50%"));
    let lose = || {
        tracked.db.run(
            "CREATE TABLE lost AS SELECT * FROM api_facility ORDER BY md5(id) LIMIT 250;
             DELETE FROM api_facility WHERE id IN (SELECT id FROM lost)",
        );
    };
    lose();
    begun(&tracked, &target, &[1]);
    tracked.db.run("INSERT INTO api_facility SELECT * FROM lost; DROP TABLE lost");
    let ended = resume().ok();
    assert!(ended.stderr.contains("part 2 of 3; 1 part is done"), "{}", ended.stderr);
    tracked.is_fresh(&target, &ZOOMS);
    begun(&tracked, &target, &[1]);
    lose();
    let refused = resume().fails(1, &["t.mbtiles would lose rows: ", "max_shrink is 50%"]);
    assert!(!refused.stderr.contains("part 2 of"), "{}", refused.stderr);
}

#[test]
fn on_a_full_disk_the_parts_that_are_done_stay() {
    let tracked = Tracked::facilities(3_000);
    let Some(disk) = SmallDisk::mount(&tracked.path("disk"), "20k") else { return };
    let target = disk.path.join("t.mbtiles");
    let done = || {
        let status = program().args(["shards", "status", "--json", "--work"]).arg(parts(&target)).output().unwrap();
        let status: Option<serde_json::Value> = serde_json::from_slice(&status.stdout).ok();
        status.map_or(0, |status| status["done"].as_u64().unwrap())
    };
    // A little more room each time, until a part fits.
    for kilobytes in (40..).step_by(40) {
        run(&mut resume(&tracked.db.url, &target, &[])).fails(1, &["cannot write "]);
        if done() > 0 {
            break;
        }
        disk.resize(&format!("{kilobytes}k"));
    }
    let done = done();
    assert!(done < 3, "one part does not fit");
    disk.resize("20m");
    let ended = run(&mut resume(&tracked.db.url, &target, &[])).ok();
    let parts_are = if done == 1 { "part is" } else { "parts are" };
    assert!(ended.stderr.contains(&format!(" of 3; {done} {parts_are} done")), "{}", ended.stderr);
    assert!(!ended.stderr.contains("part 1 of 3; 0 parts"), "{}", ended.stderr);
    tracked.is_fresh(&target, &ZOOMS);
}

/// A target in S3 behind a proxy.
struct InS3 {
    tracked: Tracked,
    proxy: Proxy,
    places: Places,
    name: &'static str,
}

impl InS3 {
    fn new(name: &'static str) -> InS3 {
        let proxy = Proxy::before(&Prefix::new().endpoint, |_| Fault::None);
        let places = Places::with(Prefix::on(&proxy.endpoint, keys()));
        InS3 { tracked: Tracked::facilities(60), proxy, places, name }
    }

    fn is_archive(&self) -> bool {
        self.name.ends_with(".pmtiles")
    }

    /// A seed in two parts, of a prefix as a new version.
    fn resume(&self) -> Command {
        let config = std::fs::read_to_string(&self.places.config).unwrap().replace("lease = \"2s\"", "lease = \"20s\"");
        let Sharded { more, variables, .. } = versioned(&self.tracked, &self.places);
        if self.is_archive() || config.contains("[target]") {
            std::fs::write(&self.places.config, config).unwrap();
        }
        let mut command = program();
        command.args(["seed", "--resume", "--parts", "2", "--progress", "lines", "--database-url"]);
        command.args([&self.tracked.db.url, "--output", &self.places.place(self.name)]).args(more).envs(variables);
        command
    }

    /// Runs a seed whose note with this name the server refuses.
    fn fails_at(&self, note: &'static str) {
        self.proxy.rule(move |seen| match &*seen.method {
            "PUT" if seen.target.contains(note) => Fault::Error(403, "AccessDenied", "no"),
            _ => Fault::None,
        });
        let failed = run(&mut self.resume());
        assert!(failed.code > 0 && failed.stderr.contains(note), "{}", failed.stderr);
        self.proxy.rule(|_| Fault::None);
    }

    #[track_caller]
    fn is_fresh(&self) {
        let shows = if self.is_archive() {
            self.places.read_by_others_or_copy(self.name)
        } else {
            filled(versions(&self.places).remove(&shown(&self.places)).unwrap())
        };
        assert!(shows == fresh(&self.tracked, &self.places), "{}", self.name);
    }
}

#[test]
fn archives_and_versions_in_s3_go_on_as_well() {
    for name in ["s3:t.pmtiles", "s3:t/"] {
        let target = InS3::new(name);
        // The second part is rendered, but that is never noted.
        target.fails_at("done-0002");
        (0..3).for_each(|seed| write(&target.tracked.db, &mut fastrand::Rng::with_seed(seed)));
        target.proxy.take_seen();
        let ended = run(&mut target.resume()).ok();
        assert!(ended.stderr.contains("part 2 of 2; 1 part is done"), "{}", ended.stderr);
        target.is_fresh();
        // The lease on a prefix is not given back between the last part and the commit.
        let seen = target.proxy.take_seen();
        let done = seen.iter().position(|seen| seen.target.contains("done-0002") && seen.method == "PUT").unwrap();
        let mut until_commit = seen[done..].iter().take_while(|seen| !seen.target.contains("/t/latest.json"));
        assert!(!until_commit.any(|seen| seen.target.contains("/t/.oar-tiles/lease.json") && seen.method == "PUT"));
    }
}

#[test]
fn a_second_seed_of_an_archive_in_s3_is_refused_and_leaves_the_parts_of_the_first_alone() {
    let target = InS3::new("s3:t.pmtiles");
    target.fails_at("done-0002");
    let door = target.tracked.db.again();
    door.run("BEGIN; LOCK TABLE api_facility");
    let child = target.resume().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start();
    let lease = ".t.pmtiles.oar-tiles/parts/.oar-tiles/lease.json";
    until("the parts are held", || target.places.prefix.note(lease).unwrap()["holder"].is_object());
    let of_parts = || {
        let mut objects = target.places.prefix.objects();
        objects.retain(|name, _| name.contains("/parts/") && name != lease);
        objects
    };
    let before = of_parts();
    run(&mut target.resume()).fails(1, &["another run is writing s3://", "/parts/: oar-tiles "]);
    assert!(of_parts() == before && !before.is_empty());
    door.run("ROLLBACK");
    wait(child).ok();
    target.is_fresh();
}

/// Clients keep the tiles of a version for good.
#[test]
fn a_version_that_is_published_is_never_edited() {
    let target = InS3::new("s3:t/");
    // The last step of a seed: it was published before.
    target.fails_at("ended.json");
    let published = shown(&target.places);
    let tiles = versions(&target.places).remove(&published).unwrap();
    target.tracked.db.run("UPDATE api_facility SET name = name || '!'");
    let ended = run(&mut target.resume()).ok();
    let said = format!(" is published already, as version {published}: this one starts over");
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);
    assert!(shown(&target.places) != published);
    assert!(versions(&target.places).remove(&published).unwrap() == tiles);
    target.is_fresh();
}

#[test]
fn parts_whose_version_is_gone_start_over() {
    let target = InS3::new("s3:t/");
    target.fails_at("done-0002");
    // As a run that removes it begins.
    for name in target.places.prefix.objects().keys().filter(|name| name.ends_with("/begun.json")) {
        target.places.prefix.put(name, b"{}");
    }
    let ended = run(&mut target.resume()).ok();
    let said = "1 of 2 parts of the seed of 20";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    assert!(
        ended.stderr.contains(" are of no use: the version that they have written was not published for a week"),
        "{}",
        ended.stderr
    );
    target.is_fresh();
}

#[test]
fn a_plain_seed_and_a_reseed_leave_parts_alone_and_a_directory_does_not_serve_them() {
    let tracked = Tracked::facilities(40);
    let target = tracked.path("t/");
    begun(&tracked, &target, &[1]);
    let kept = files_below(&parts(&target));
    seed(&tracked.db.url, &target, &ZOOMS).ok();
    tracked.reseed(&target, &[]).ok();
    assert!(files_below(&parts(&target)) == kept);
    tracked.db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 20)");
    let ended = run(&mut resume(&tracked.db.url, &target, &[])).ok();
    assert!(ended.stderr.contains("part 2 of 3; 1 part is done"), "{}", ended.stderr);
    let copy = tracked.path("copy.mbtiles");
    run(program().args(["copy"]).arg(&target).arg(&copy)).ok();
    tracked.is_fresh(&copy, &ZOOMS);
}

/// Nobody listens at the address of the database: it is refused before anything is read.
#[test]
fn what_cannot_be_seeded_in_parts_is_refused_when_the_command_line_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("map.toml");
    let target = folder.path().join("t.mbtiles");
    let said = |more: &[&str]| run(&mut resume("postgresql://127.0.0.1:1/none", &target, more));
    for (flag, with) in
        [("--dry-run", "--dry-run"), ("--variant", "--variant=x"), ("--prune-variants", "--prune-variants")]
    {
        said(&[with]).fails(2, &["the argument '--resume' cannot be used with", flag]);
    }
    let mut parts_alone = program();
    run(parts_alone.args(["seed", "--parts", "2"])).fails(2, &["--resume"]);
    let layer = "[[layer]]\nname = \"points\"\ntable = \"points\"\ngeometry = \"geom\"\nkey = [\"id\"]\n";
    let two = "[[tileset]]\nname = \"a\"\noutput = \"a.mbtiles\"\n[[tileset]]\nname = \"b\"\noutput = \"b/\"\n";
    let family = "[tileset]\nname = \"f\"\n[tileset.variants]\nvalues = [{ c = \"x\" }]\nwhere = { points = \"c = !c!\" }\noutput = \"{c}.mbtiles\"\n";
    for (text, texts) in [
        (
            format!("{layer}{two}"),
            "--resume is for one tileset, and this configuration has several: choose it with --tileset (a, b)",
        ),
        (
            format!("{layer}{family}"),
            "--resume is not for a tileset with variants (f): a seed of all variants begins again",
        ),
        (
            format!("{layer}refresh = true\n[tileset]\noutput = \"x.mbtiles\"\n"),
            "layer \"points\" has refresh = true, and what is refreshed for one part of a seed would not be what another part has read: seed without --resume",
        ),
    ] {
        std::fs::write(&config, text).unwrap();
        let mut command = program();
        command.args(["seed", "--resume", "--database-url", "postgresql://127.0.0.1:1/none", "--config"]).arg(&config);
        run(&mut command).fails(2, &[texts]);
    }
    assert!(!parts(&target).exists());
}
