//! A reseed of a PMTiles archive leaves most of it where it lies: the tiles are those of a seed, what is dead is
//! counted, and a run of its own removes it.

use std::path::Path;
use std::process::Stdio;
use std::time::SystemTime;

use oar_tiles::stop::Stop;
use oar_tiles::target::{Pmtiles, PmtilesReader, Sink as _, TileReader as _};
use oar_tiles::tile::Order;

use super::changed_out::stored;
use crate::s3::edits::{Tiles, put, staying};
use crate::support::clock::set_forward;
use crate::support::gate::{Gate, PASS};
use crate::support::killed::{RENAMES, SYNCS, is_killed_at_one_of};
use crate::support::process::Start as _;
use crate::support::program::{ROWS_LAYER, Run, program, run, wait};
use crate::support::s3::{metadata, tiles, tileset};
use crate::support::tracked::{SOME, Tracked, differences};
use crate::support::until;
use crate::support::watch_process::Watching;

/// At these zooms each tile has few facilities, so that few bytes change with one of them.
const ZOOMS: [&str; 2] = ["--zoom", "8-12"];

/// The dead bytes of an archive in percent of its tile data; `None` if there are none.
fn dead_percent(path: &Path) -> Option<u64> {
    let dead = PmtilesReader::open(path).unwrap().describe().unwrap().dead.unwrap();
    (dead.bytes > 0).then(|| dead.bytes * 100 / dead.total)
}

#[track_caller]
fn is_fresh(tracked: &Tracked, path: &Path) {
    is_fresh_by(tracked, path, &[]);
}

/// `more` are further arguments of a seed.
#[track_caller]
fn is_fresh_by(tracked: &Tracked, path: &Path, more: &[&str]) {
    let fresh = stored(&tracked.seed("fresh.pmtiles", &[&ZOOMS, more].concat()));
    let wrong = differences(&stored(path), &fresh);
    assert!(wrong.is_empty(), "{} of {}: {:?}", wrong.len(), fresh.len(), wrong.first());
}

/// Changes the facilities whose hash begins with one of some hexadecimal digits.
fn rename(tracked: &Tracked, digits: &str) {
    tracked.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE md5(id) ~ '^[{digits}]'"));
}

/// Has a watch leave more than 30 % of the bytes of an archive dead, and no more than half. `more` are further
/// arguments of the watch.
fn leave_dead_bytes(tracked: &Tracked, path: &Path, more: &[&str]) -> Option<u64> {
    let watching = Watching::start(&tracked.db.url, path, &[&["--poll", "1h"], more].concat());
    // An eighth of the facilities each time.
    for digits in ["01", "23", "45", "67", "89"] {
        if dead_percent(path) <= Some(30) {
            rename(tracked, digits);
            watching.says(" dirty tile");
        }
    }
    assert_eq!(watching.end(), 0);
    let dead = dead_percent(path);
    assert!((Some(31)..=Some(50)).contains(&dead), "{dead:?}");
    dead
}

#[test]
fn an_edited_archive_is_read_by_every_verb_and_is_what_a_seed_would_write() {
    let tracked = Tracked::facilities(3_000);
    let path = tracked.seed("t.pmtiles", &ZOOMS);
    let old = std::fs::read(&path).unwrap();
    assert!(old.len() > 1 << 20, "{} bytes: too few to be left where they lie", old.len());
    for change in [
        format!("UPDATE api_facility SET name = name || '!' WHERE {SOME}"),
        format!("UPDATE api_facility SET location = ST_Translate(location, 1, 1) WHERE {SOME}"),
        format!("DELETE FROM api_facility WHERE {SOME}"),
    ] {
        tracked.db.run(&change);
        tracked.reseed(&path, &[]).ok();
        assert!(dead_percent(&path).is_some(), "{change}");
        is_fresh(&tracked, &path);
    }
    assert!(std::fs::read(&path).unwrap()[16_384..1 << 20] == old[16_384..1 << 20], "what was there lies where it lay");
    let (archive, fresh) = (path.to_str().unwrap(), tracked.path("fresh.pmtiles"));
    run(program().args(["verify", archive, "--database", "--database-url", &tracked.db.url])).ok();
    run(program().args(["diff", archive, fresh.to_str().unwrap()])).ok();
    let shown = run(program().args(["inspect", archive])).ok();
    assert!(
        shown.stdout.contains("dead bytes: ") && shown.stdout.contains(" that belong to no tile any more"),
        "{}",
        shown.stdout
    );
    let copied = tracked.path("copied.pmtiles");
    run(program().args(["copy", archive, copied.to_str().unwrap()])).ok();
    assert_eq!(dead_percent(&copied), None);
    assert!(stored(&copied) == stored(&path));
}

#[test]
fn an_edit_is_killed_at_each_file_operation_and_the_old_archive_or_the_new_one_is_there() {
    let tracked = Tracked::facilities(3_000);
    let path = tracked.seed("t.pmtiles", &ZOOMS);
    let mut command = program();
    command.args(["reseed", "--progress", "none", "--database-url", &tracked.db.url, "--output"]).arg(&path);
    let (mut before, mut kills) = (stored(&path), 0);
    for number in 1.. {
        tracked.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE {SOME}"));
        let operations = format!("copy_file_range,ftruncate,pwrite64,{SYNCS},{RENAMES}");
        let is_killed = is_killed_at_one_of(&operations, number, &command);
        assert_eq!(PmtilesReader::open(&path).unwrap().check().unwrap(), Vec::<String>::new());
        let found = stored(&path);
        tracked.reseed(&path, &[]).ok();
        let after = stored(&path);
        assert!(before != after && (found == before || found == after), "killed at {number}");
        assert!(dead_percent(&path).is_some(), "killed at {number}");
        before = after;
        kills += u32::from(is_killed);
        if !is_killed {
            break;
        }
    }
    assert!(kills >= 3, "{kills}");
    is_fresh(&tracked, &path);
    let names: Vec<_> =
        std::fs::read_dir(tracked.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().ends_with(".partial")), "{names:?}");
}

#[test]
fn a_watch_leaves_dead_bytes_that_the_next_run_removes() {
    let tracked = Tracked::facilities(3_000);
    let path = tracked.seed("t.pmtiles", &ZOOMS);
    leave_dead_bytes(&tracked, &path, &[]);
    let length = std::fs::metadata(&path).unwrap().len();
    // No tile changes, but every byte moves: a CDN has to know.
    let (config, told) = (tracked.path("c.toml"), tracked.path("told"));
    let purge = format!(
        "[[purge]]\nprovider = \"command\"\nurl = \"https://tiles.test/t.pmtiles\"\nrebound = \"0s\"\nsettle = \"0s\"\nprogram = ['sh', '-c', 'cat \"$OAR_TILES_PURGE_LIST\" >>\"$0\"', '{}']\n",
        told.display()
    );
    std::fs::write(&config, ROWS_LAYER.to_owned() + &purge).unwrap();
    let report = tracked.path("report.json");
    let more = ["--config", config.to_str().unwrap(), "--report", report.to_str().unwrap()];
    let ended = tracked.reseed(&path, &more).ok();
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    let why = report["written_anew"].as_str().unwrap();
    assert!(why.contains(" bytes of its tile data would belong to no tile"), "{why}");
    assert!(ended.stdout.contains(&format!("written anew as a whole: {why}\n")), "{}", ended.stdout);
    assert_eq!(std::fs::read_to_string(&told).unwrap().trim(), "https://tiles.test/t.pmtiles");
    assert_eq!(dead_percent(&path), None);
    assert!(std::fs::metadata(&path).unwrap().len() < length * 3 / 4);
    is_fresh(&tracked, &path);
    // Nothing is left to be done.
    let bytes = std::fs::read(&path).unwrap();
    tracked.reseed(&path, &[]).ok();
    assert!(std::fs::read(&path).unwrap() == bytes);
}

#[test]
fn a_watch_wakes_when_its_hours_begin() {
    let tracked = Tracked::facilities(3_000);
    let (path, config) = (tracked.seed("t.pmtiles", &ZOOMS), tracked.path("c.toml"));
    leave_dead_bytes(&tracked, &path, &[]);
    std::fs::write(&config, format!("{ROWS_LAYER}[changes]\ncompact_between = \"02:00-03:00\"\n")).unwrap();
    let mut command = program();
    command.args(["reseed", "--watch", "--progress", "none", "--poll", "1h", "--database-url", &tracked.db.url]);
    command.arg("--config").arg(&config).arg("--output").arg(&path);
    // For the program it is five seconds before two o'clock.
    let (now, day) = (SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(), 24 * 60 * 60);
    set_forward(&mut command, tracked.folder.path(), day + 2 * 60 * 60 - 5 - now % day);
    let watching = Watching::of(&mut command);
    watching.says("from snapshot ");
    assert!(dead_percent(&path) > Some(30), "it is too early");
    until("the archive is written anew", || dead_percent(&path).is_none());
    assert_eq!(watching.end(), 0);
    is_fresh(&tracked, &path);
}

/// A part of the day that begins and ends so many hours from now.
fn hours_from_now(begin: u64, end: u64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() / 60;
    let time = |hours: u64| format!("{:02}:{:02}", (now / 60 + hours) % 24, now % 60);
    format!("{}-{}", time(begin), time(end))
}

#[test]
fn a_watch_writes_an_archive_anew_between_two_publishes_and_earlier_at_hours_that_its_operator_sets() {
    let tracked = Tracked::facilities(3_000);
    let config = tracked.path("c.toml");
    let mut number = 0;
    // An eighth of the facilities each time.
    let mut change = |watching: &Watching| {
        let digits = ["01", "23", "45", "67", "89", "ab", "cd", "ef"][number % 8];
        number += 1;
        assert!(number <= 40, "no publish leaves as many dead bytes");
        tracked.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE md5(id) ~ '^[{digits}]'"));
        watching.says(" dirty tile");
    };
    let quiet = hours_from_now(23, 25);
    for (hours, percent, says) in
        [(hours_from_now(2, 4), 50, Some("more than half of the bytes of ")), (quiet.clone(), 30, None)]
    {
        let path = tracked.seed("t.pmtiles", &ZOOMS);
        std::fs::write(&config, format!("{ROWS_LAYER}[changes]\ncompact_between = \"{hours}\"\n")).unwrap();
        let watching = Watching::start(&tracked.db.url, &path, &["--poll", "1h", "--config", config.to_str().unwrap()]);
        // No publish does it, whatever it leaves.
        while dead_percent(&path) <= Some(percent) {
            change(&watching);
        }
        change(&watching);
        says.map(|text| watching.says(text));
        until("the archive is written anew", || dead_percent(&path).is_none());
        assert_eq!(watching.end(), 0);
        is_fresh(&tracked, &path);
    }
    // A look that finds no changes does it, too.
    let path = tracked.path("t.pmtiles");
    let watching = Watching::start(&tracked.db.url, &path, &["--poll", "1h"]);
    while dead_percent(&path) <= Some(30) {
        change(&watching);
    }
    assert_eq!(watching.end(), 0);
    let watching = Watching::start(&tracked.db.url, &path, &["--poll", "1h", "--config", config.to_str().unwrap()]);
    until("the archive is written anew", || dead_percent(&path).is_none());
    assert_eq!(watching.end(), 0);
    is_fresh(&tracked, &path);
}

/// A watch that finds more than 30 % of the bytes of its archive dead, and may not write it.
#[test]
fn a_watch_that_cannot_write_an_archive_anew_says_so_once_and_publishes_changes_meanwhile() {
    let tracked = Tracked::facilities(3_000);
    let (path, config) = (tracked.seed("t.pmtiles", &ZOOMS), tracked.path("c.toml"));
    let before = leave_dead_bytes(&tracked, &path, &[]);
    let held = std::fs::File::create(path.with_file_name(".t.pmtiles.partial")).unwrap();
    held.lock().unwrap();
    std::fs::write(&config, format!("{ROWS_LAYER}[changes]\ncompact_between = \"00:00-24:00\"\n")).unwrap();
    let more = ["--poll", "100ms", "--config", config.to_str().unwrap()];
    let watching = Watching::start(&tracked.db.url, &path, &more);
    let said = watching.says("t.pmtiles could not be written anew without its dead bytes: ");
    assert!(said.contains("it is tried again in 1m") && said.contains("Changes are published meanwhile"), "{said}");
    // Some looks later nothing more was said.
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    drop(held);
    rename(&tracked, "ab");
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.contains(" dirty tile")) {
        lines.push(watching.lines.recv_timeout(std::time::Duration::from_secs(60)).unwrap());
    }
    let is_warning = |line: &&String| line.contains("trying again") || line.contains("written anew");
    assert_eq!(lines.iter().filter(is_warning).collect::<Vec<_>>(), [""; 0]);
    assert!(dead_percent(&path) > before, "changes came without another attempt");
    assert_eq!(watching.end(), 0);
    is_fresh(&tracked, &path);
}

/// A configuration whose tiles wait at the gate.
fn gated(tracked: &Tracked, name: &str, more: &str) -> String {
    let config = tracked.path(name);
    std::fs::write(&config, gated_layer() + more).unwrap();
    let config = config.to_str().unwrap().to_owned();
    tracked.oar_tiles(&["track", "install", "--config", &config]).ok();
    config
}

fn gated_layer() -> String {
    format!(
        "[run]\nworkers = 1\n[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\nkey = [\"id\"]\nproperties = {{ id = \"id\", name = \"name\", address = \"address\", gate = \"{PASS}\" }}\n"
    )
}

/// Writes a file once more, as another program would.
fn write_again(path: &Path) {
    std::fs::write(path, std::fs::read(path).unwrap()).unwrap();
}

/// Runs a reseed, and while its tiles wait at the gate, another program writes the archive.
fn reseed_while_others_write(tracked: &Tracked, path: &Path, arguments: &[&str]) -> Run {
    let gate = Gate::close(&tracked.db);
    let mut command = program();
    command.args(["reseed", "--progress", "none", "--database-url", &tracked.db.url]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.start();
    gate.wait_for(1);
    write_again(path);
    gate.open();
    wait(child)
}

/// The archive is published all the same.
#[track_caller]
fn says_not_compacted(ended: &Run, name: &str, cause: &str) {
    let said = &ended.stderr;
    for text in [&*format!("{name} could not be written anew without its dead bytes: "), cause, NEXT] {
        assert!(ended.code == 0 && said.contains(text), "{text}: {} {said}", ended.code);
    }
    assert_eq!(said.matches(NEXT).count(), 1, "{said}");
}

const NEXT: &str = ". Its tiles are up to date, and the next run tries it again";
const BY_OTHERS: &str = "t.pmtiles was changed by somebody else during the run";

#[test]
fn a_reseed_that_cannot_write_an_archive_anew_publishes_its_changes() {
    let tracked = Tracked::facilities(3_000);
    let config = gated(&tracked, "gated.toml", "");
    let with_config = ["--config", &config];
    let path = tracked.seed("t.pmtiles", &[&ZOOMS[..], &with_config].concat());
    let before = leave_dead_bytes(&tracked, &path, &with_config);
    rename(&tracked, "ab");
    let arguments = [&with_config[..], &["--output", path.to_str().unwrap()]].concat();
    says_not_compacted(&reseed_while_others_write(&tracked, &path, &arguments), "t.pmtiles", BY_OTHERS);
    assert!(dead_percent(&path) > before, "it was edited");
    is_fresh_by(&tracked, &path, &with_config);
    // With nothing to publish.
    let held = std::fs::File::create(path.with_file_name(".t.pmtiles.partial")).unwrap();
    held.lock().unwrap();
    let ended = tracked.reseed(&path, &with_config);
    says_not_compacted(&ended, "t.pmtiles", "another run is writing ");
    assert!(ended.stdout.starts_with("nothing to do"), "{}", ended.stdout);
    drop(held);
    tracked.reseed(&path, &with_config).ok();
    assert_eq!(dead_percent(&path), None);
    is_fresh_by(&tracked, &path, &with_config);
}

#[test]
fn a_watch_publishes_the_changes_of_a_look_that_cannot_write_its_archive_anew() {
    let tracked = Tracked::facilities(3_000);
    let config = gated(&tracked, "gated.toml", "");
    let path = tracked.seed("t.pmtiles", &[&ZOOMS[..], &["--config", &config]].concat());
    let before = leave_dead_bytes(&tracked, &path, &["--config", &config]);
    let quiet = gated(&tracked, "quiet.toml", "[changes]\ncompact_between = \"00:00-24:00\"\n");
    // The first look has something to publish, and leaves the dead bytes to the second, which finds another change.
    tracked.db.run(&format!("UPDATE api_facility SET name = name || '?' WHERE {SOME}"));
    let gate = Gate::close(&tracked.db);
    let watching = Watching::start(&tracked.db.url, &path, &["--poll", "1h", "--config", &quiet]);
    gate.wait_for(1);
    tracked.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE {SOME}"));
    gate.let_one_through();
    watching.says(" dirty tile");
    gate.wait_for(1);
    write_again(&path);
    gate.open();
    let said = watching.says("t.pmtiles could not be written anew without its dead bytes: ");
    assert!(said.contains(BY_OTHERS) && said.contains("it is tried again in 1m"), "{said}");
    watching.says(" dirty tile");
    assert!(dead_percent(&path) > before, "it was edited");
    assert_eq!(watching.end(), 0);
    is_fresh_by(&tracked, &path, &["--config", &config]);
}

/// A family of one variant, which is seeded.
fn family(tracked: &Tracked, hours: &str) -> Vec<String> {
    family_of(tracked, hours, ROWS_LAYER)
}

fn family_of(tracked: &Tracked, hours: &str, layers: &str) -> Vec<String> {
    let config = tracked.path("c.toml");
    let text = format!(
        "[tileset]\nname = \"family\"\nzoom = \"8-12\"\n[tileset.variants]\nvalues = [{{ part = \"x\" }}]\nwhere = {{ facilities = \"id <> !part!\" }}\noutput = \"{}/of-{{part}}.pmtiles\"\n[changes]\ncompact_between = \"{hours}\"\n{layers}",
        tracked.folder.path().display(),
    );
    std::fs::write(&config, text).unwrap();
    let with_config = ["--config", config.to_str().unwrap(), "--database-url", &tracked.db.url].map(str::to_owned);
    run(program().args(["track", "install"]).args(&with_config)).ok();
    run(program().args(["seed", "--progress", "none"]).args(&with_config)).ok();
    with_config.into()
}

/// A watch of a family.
fn watching_family(with_config: &[String]) -> Watching {
    let mut command = program();
    command.args(["reseed", "--watch", "--progress", "none", "--debounce", "50ms", "--poll", "1h"]).args(with_config);
    let watching = Watching::of(&mut command);
    watching.says("from snapshot ");
    watching
}

#[test]
fn the_archive_of_a_variant_without_a_change_is_written_anew_as_well() {
    let tracked = Tracked::facilities(3_000);
    let path = tracked.path("of-x.pmtiles");
    let busy = family(&tracked, &hours_from_now(2, 4));
    let quiet = tracked.path("quiet.toml");
    let text = std::fs::read_to_string(&busy[1]).unwrap();
    std::fs::write(&quiet, text.replace(&hours_from_now(2, 4), "00:00-24:00")).unwrap();
    // So few that no publish leaves more than half of the bytes dead, of which the watch would write it anew.
    let mut digits = "0123456789abcdef".chars().cycle();
    for by_watch in [false, true] {
        let watching = watching_family(&busy);
        while dead_percent(&path) <= Some(30) {
            let some = digits.next().unwrap();
            tracked.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE md5(id) ~ '^[{some}]'"));
            watching.says("published ");
        }
        assert_eq!(watching.end(), 0);
        assert!(dead_percent(&path) <= Some(50));
        if by_watch {
            let with_config = ["--config", quiet.to_str().unwrap(), "--database-url", &tracked.db.url];
            let watching = watching_family(&with_config.map(str::to_owned));
            until("the archive is written anew", || dead_percent(&path).is_none());
            assert_eq!(watching.end(), 0);
        } else {
            run(program().args(["reseed", "--progress", "none"]).args(&busy)).ok();
            assert_eq!(dead_percent(&path), None);
        }
        is_fresh(&tracked, &path);
    }
}

#[test]
fn a_family_publishes_the_changes_of_a_variant_whose_archive_cannot_be_written_anew() {
    let tracked = Tracked::facilities(3_000);
    let path = tracked.path("of-x.pmtiles");
    let with_config = family_of(&tracked, &hours_from_now(2, 4), &gated_layer());
    let watching = watching_family(&with_config);
    let mut digits = "0123456789abcdef".chars();
    while dead_percent(&path) <= Some(30) {
        rename(&tracked, &digits.next().unwrap().to_string());
        watching.says("published ");
    }
    assert_eq!(watching.end(), 0);
    let before = dead_percent(&path);
    let without_variants = gated(&tracked, "gated.toml", "");
    rename(&tracked, "ab");
    let cause = "of-x.pmtiles was changed by somebody else during the run";
    says_not_compacted(
        &reseed_while_others_write(&tracked, &path, &["--config", &with_config[1]]),
        "of-x.pmtiles",
        cause,
    );
    assert!(dead_percent(&path) > before, "it was edited");
    is_fresh_by(&tracked, &path, &["--config", &without_variants]);
    // With nothing to publish.
    let held = std::fs::File::create(path.with_file_name(".of-x.pmtiles.partial")).unwrap();
    held.lock().unwrap();
    let reseed = || run(program().args(["reseed", "--progress", "none"]).args(&with_config));
    says_not_compacted(&reseed(), "of-x.pmtiles", "another run is writing ");
    drop(held);
    reseed().ok();
    assert_eq!(dead_percent(&path), None);
}

#[test]
fn a_watch_of_a_family_writes_a_variant_anew_after_its_publish() {
    let tracked = Tracked::facilities(3_000);
    let path = tracked.path("of-x.pmtiles");
    let watching = watching_family(&family(&tracked, &hours_from_now(23, 25)));
    let mut found = Vec::new();
    // An eighth of the facilities each time.
    for digits in ["01", "23", "45", "67", "89", "ab", "cd", "ef"] {
        tracked.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE md5(id) ~ '^[{digits}]'"));
        watching.says("published ");
        found.push(dead_percent(&path));
        if found.len() > 1 && found.last() == Some(&None) {
            break;
        }
    }
    assert_eq!(watching.end(), 0);
    let [.., Some(before), None] = found[..] else { panic!("{found:?}") };
    assert!(before > 30, "{found:?}");
    is_fresh(&tracked, &path);
}

/// An archive of these tiles.
fn archive(path: &Path, tiles: &Tiles) -> Vec<u8> {
    let mut sink = Pmtiles::create(path, &Stop::new()).unwrap();
    sink.begin(&tileset("f")).unwrap();
    sink.write(tiles.iter().map(put).collect()).unwrap();
    sink.finish(&metadata("f", 1)).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn an_archive_that_somebody_else_writes_or_replaces_during_an_edit_or_a_rebuild_stays_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let [path, other, copy] = ["t.pmtiles", "backup.pmtiles", "copy.pmtiles"].map(|name| folder.path().join(name));
    let mut chance = fastrand::Rng::with_seed(6);
    // The larger one is edited.
    for length in [200, 20_000] {
        let mut all = tiles(100, 1);
        all.sort_by_key(|(tile, _)| Order::Hilbert.sort_key(*tile));
        for (_, bytes) in &mut all {
            *bytes = std::iter::repeat_with(|| chance.u8(..)).take(length).collect();
        }
        let ours = archive(&path, &all);
        for (_, bytes) in &mut all {
            bytes.reverse();
        }
        let backup = archive(&other, &all);
        assert_eq!(backup.len(), ours.len());
        let by_others: [(&str, &dyn Fn()); 5] = [
            ("cp", &|| std::fs::write(&path, &backup).unwrap()),
            ("cp -p", &|| {
                let file = std::fs::File::options().write(true).open(&path).unwrap();
                let times = file.metadata().unwrap().modified().unwrap();
                std::io::Write::write_all(&mut &file, &backup).unwrap();
                file.set_modified(times).unwrap();
            }),
            ("cp, cut off", &|| std::fs::write(&path, &backup[..backup.len() / 2]).unwrap()),
            ("mv", &|| {
                std::fs::copy(&other, &copy).unwrap();
                std::fs::rename(&copy, &path).unwrap();
            }),
            ("rm", &|| std::fs::remove_file(&path).unwrap()),
        ];
        for (how, write) in by_others {
            std::fs::write(&path, &ours).unwrap();
            // The times of a file are those of the system's clock, which has ticks.
            std::thread::sleep(std::time::Duration::from_millis(20));
            let mut sink = Pmtiles::create(&path, &Stop::new()).unwrap();
            sink.begin(&staying()).unwrap();
            sink.write(vec![put(&all[50])]).unwrap();
            write();
            let theirs = std::fs::read(&path).ok();
            let error = sink.finish(&metadata("f", 2)).unwrap_err().to_string();
            assert!(
                error.contains("t.pmtiles was changed by somebody else during the run"),
                "{how}, {length}: {error}"
            );
            assert!(std::fs::read(&path).ok() == theirs, "{how}, {length}");
            assert!(!folder.path().join(".t.pmtiles.partial").exists(), "{how}, {length}");
        }
    }
}
