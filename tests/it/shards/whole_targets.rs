//! Shards that are whole targets: variants, and several tilesets of one configuration. Each target is what a seed of it makes, whatever is killed, started
//! twice or comes late, and whoever writes between the shards and the commit.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::helpers::{names, without_times, write};
use crate::support::killed::is_killed_at;
use crate::support::places::files_below;
use crate::support::process::{Process, Start as _};
use crate::support::program::{Run, program, run, signal, wait};
use crate::support::tracked::{Tracked, differences};
use crate::support::{Archive, Db, until};

const LAYER: &str = "name = \"facilities\"\ntable = \"api_facility\"\ngeometry = \"location\"\nkey = [\"id\"]\nproperties = [\"id\", \"name\"]\n";

/// The countries, one of which has no name.
const COUNTRIES: &str = "SELECT DISTINCT lower(country_code) AS country FROM api_facility WHERE country_code <> ''";

/// Targets in a folder, and a work folder.
struct Divided<'a> {
    db: &'a Db,
    folder: PathBuf,
    config: String,
}

impl<'a> Divided<'a> {
    /// The countries as variants whose outputs have an ending, beside one tileset of everything.
    fn countries(tracked: &'a Tracked, folder: &str, ending: &str) -> Divided<'a> {
        Divided::with(
            tracked,
            folder,
            &format!(
                "[tileset]\nzoom = \"0-5\"\n[tileset.variants]\nvalues = \"{COUNTRIES}\"\nwhere = {{ facilities = \"lower(country_code) = !country!\" }}\noutput = \"FOLDER/by/{{country}}{ending}\"\nall = \"FOLDER/all{ending}\"\n[[layer]]\n{LAYER}"
            ),
        )
    }

    fn with(tracked: &'a Tracked, folder: &str, text: &str) -> Divided<'a> {
        let folder = tracked.path(folder);
        std::fs::create_dir(&folder).unwrap();
        let config = folder.join("map.toml");
        std::fs::write(&config, text.replace("FOLDER", folder.to_str().unwrap())).unwrap();
        tracked.oar_tiles(&["track", "install", "--config", config.to_str().unwrap()]).ok();
        Divided { db: &tracked.db, config: config.to_str().unwrap().to_owned(), folder }
    }

    fn command(&self, verb: &str, arguments: &[&str]) -> std::process::Command {
        let mut command = program();
        command.args(["shards", verb, "--work"]).arg(self.folder.join("work/")).args(["--config", &self.config]);
        if ["begin", "run", "commit"].contains(&verb) {
            command.args(["--database-url", &self.db.url, "--progress", "none"]);
        }
        command.args(arguments);
        command
    }

    fn verb(&self, verb: &str, arguments: &[&str]) -> Run {
        run(&mut self.command(verb, arguments))
    }

    fn begin(&self, shards: u32) -> String {
        self.verb("begin", &["--shards", &shards.to_string()]).ok().stdout.trim().to_owned()
    }

    fn run(&self, shard: u32) -> Run {
        self.verb("run", &["--shard", &shard.to_string(), "--workers", "2"])
    }

    fn start(&self, shard: u32) -> Process {
        let mut command = self.command("run", &["--shard", &shard.to_string(), "--workers", "1"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start()
    }

    fn whole(&self, verb: &str) -> Run {
        run(program().args([verb, "--progress", "none", "--config", &self.config, "--database-url", &self.db.url]))
    }

    /// The targets of the variants, by their names.
    fn variants(&self) -> Vec<String> {
        let mut all = names(&self.folder.join("by"), "");
        all.retain(|name| !name.starts_with('.') && !name.contains(".compared"));
        all.sort();
        all
    }
}

/// The tiles of a target.
fn tiles(target: &Path) -> crate::support::tracked::Tiles {
    let copy = target.with_extension("copied.mbtiles");
    run(program().args(["copy", "--force"]).arg(target).arg(&copy)).ok();
    let stored = Archive::open(&copy).stored();
    std::fs::remove_file(&copy).unwrap();
    stored
}

/// Asserts that the targets of a family are those of a fresh seed, beside others that are not its variants any more.
#[track_caller]
fn are_fresh(tracked: &Tracked, divided: &Divided<'_>, ending: &str) {
    let fresh = Divided::countries(tracked, &format!("fresh{}", fastrand::u64(..)), ending);
    fresh.whole("seed").ok();
    assert!(fresh.variants().len() > 3);
    for name in fresh.variants().iter().map(|name| format!("by/{name}")).chain([format!("all{ending}")]) {
        let (found, expected) = (tiles(&divided.folder.join(&name)), tiles(&fresh.folder.join(&name)));
        assert_eq!(differences(&found, &expected).len(), 0, "{name}");
    }
}

#[test]
fn variants_are_byte_for_byte_those_of_a_seed_of_the_family_however_they_are_divided() {
    let tracked = Tracked::facilities(300);
    let single = Divided::countries(&tracked, "single", ".mbtiles");
    single.whole("seed").ok();
    for shards in [1, 3, 6] {
        let divided = Divided::countries(&tracked, &format!("{shards}"), ".mbtiles");
        divided.begin(shards);
        (1..=shards).for_each(|shard| drop(divided.run(shard).ok()));
        let committed = divided.verb("commit", &[]).ok();
        assert!(committed.stdout.contains(" variants: 0 tiles written"), "{}", committed.stdout);
        assert_eq!(divided.variants(), single.variants());
        for name in single.variants().iter().map(|name| format!("by/{name}")).chain(["all.mbtiles".to_owned()]) {
            let same = without_times(&divided.folder.join(&name)) == without_times(&single.folder.join(&name));
            assert!(same, "{name} of {shards} shards");
        }
        // The family's manifest names all of them: nothing is left to do.
        let reseeded = divided.whole("reseed").ok();
        assert!(reseeded.stdout.contains(" variants: 0 tiles written"), "{}", reseeded.stdout);
        divided.verb("status", &[]).fails(2, &["holds no run"]);
    }
}

#[test]
fn a_commit_brings_variants_to_its_own_state_seeds_new_ones_and_names_those_that_are_gone() {
    for ending in [".pmtiles", "/"] {
        let tracked = Tracked::facilities(300);
        let divided = Divided::countries(&tracked, "divided", ending);
        divided.begin(3);
        let mut random = fastrand::Rng::with_seed(22);
        // A value that comes after the plan has a shard.
        tracked.db.run("UPDATE api_facility SET country_code = 'A1' WHERE id = (SELECT max(id) FROM api_facility)");
        for shard in [3, 1, 2] {
            divided.run(shard).ok();
            (0..3).for_each(|_| write(&tracked.db, &mut random));
        }
        let seeded = divided.variants();
        assert!(seeded.iter().any(|name| name.starts_with("a1")), "{seeded:?}");
        let gone = seeded.last().unwrap();
        let country = gone.trim_end_matches(".pmtiles");
        tracked.db.run(&format!(
            "UPDATE api_facility SET country_code = 'ZZ' WHERE lower(country_code) = '{country}';
             UPDATE api_facility SET country_code = 'B1' WHERE id IN (SELECT id FROM api_facility ORDER BY id LIMIT 4)"
        ));
        let committed = divided.verb("commit", &[]).ok();
        let is_named = committed.stdout.contains(&format!("/{country}{ending}: still there"));
        assert!(is_named && committed.stdout.contains(", 2 seeded, "), "{}", committed.stdout);
        are_fresh(&tracked, &divided, ending);
        let reseeded = divided.whole("reseed").ok();
        assert!(reseeded.stdout.contains(" variants: 0 tiles written"), "{}", reseeded.stdout);
    }
}

#[test]
fn several_tilesets_of_a_file_are_divided_as_a_whole() {
    let tracked = Tracked::facilities(150);
    let text = format!(
        "[[layer]]\n{LAYER}[tileset_defaults]\nzoom = \"0-4\"\n[[tileset]]\nname = \"plain\"\noutput = \"FOLDER/plain.mbtiles\"\n\
         [[tileset]]\nname = \"tree\"\noutput = \"FOLDER/tree/\"\n[[tileset]]\nname = \"countries\"\n[tileset.variants]\nvalues = \"{COUNTRIES}\"\n\
         where = {{ facilities = \"lower(country_code) = !country!\" }}\noutput = \"FOLDER/by/{{country}}.pmtiles\"\n"
    );
    let (divided, single) = (Divided::with(&tracked, "divided", &text), Divided::with(&tracked, "single", &text));
    divided.begin(4);
    let mut random = fastrand::Rng::with_seed(5);
    for shard in 1..=4 {
        divided.run(shard).ok();
        write(&tracked.db, &mut random);
    }
    let status = divided.verb("status", &["--json"]).ok();
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!((&status["done"], &status["state"]), (&4.into(), &"tracked".into()), "{status}");
    divided.verb("commit", &[]).ok();
    single.whole("seed").ok();
    for name in
        single.variants().iter().map(|name| format!("by/{name}")).chain(["plain.mbtiles", "tree"].map(str::to_owned))
    {
        let (found, expected) = (tiles(&divided.folder.join(&name)), tiles(&single.folder.join(&name)));
        assert_eq!(differences(&found, &expected).len(), 0, "{name}");
    }
}

#[test]
fn attempts_that_are_killed_doubled_or_late_change_nothing_of_the_result() {
    let tracked = Tracked::facilities(200);
    let divided = Divided::countries(&tracked, "divided", "/");
    let id = divided.begin(2);
    divided.verb("commit", &[]).fails(1, &["2 of 2 shards of run ", " are not done: 1-2. Run these again"]);
    // Killed at some of its steps, and run again.
    for step in [3, 30] {
        assert!(is_killed_at(step, &divided.command("run", &["--shard", "1", "--workers", "1"])));
    }
    for double in [0, 1].map(|_| divided.start(1)) {
        wait(double).ok();
    }
    // One that is stopped between two targets.
    let late = divided.start(2);
    let notes = divided.folder.join("work/.oar-tiles/notes").join(&id);
    until("it has begun", || !names(&notes, "attempt-0002-").is_empty());
    std::thread::sleep(Duration::from_millis(30));
    signal(&late, "STOP");
    let other = divided.start(2);
    std::thread::sleep(Duration::from_millis(600));
    signal(&late, "CONT");
    for attempt in [late, other] {
        wait(attempt).ok();
    }
    write(&tracked.db, &mut fastrand::Rng::with_seed(9));
    for step in [2, 20] {
        is_killed_at(step, &divided.command("commit", &[]));
    }
    let committed = divided.verb("commit", &[]);
    assert!(committed.code == 0 || committed.stderr.contains("holds no run"), "{}", committed.stderr);
    are_fresh(&tracked, &divided, "/");
    assert_eq!(names(&divided.folder.join("work"), ""), [".oar-tiles"]);
}

#[test]
fn an_attempt_that_wakes_after_the_commit_publishes_nothing() {
    let tracked = Tracked::facilities(400);
    let divided = Divided::countries(&tracked, "divided", ".mbtiles");
    let id = divided.begin(1);
    let late = divided.start(1);
    let notes = divided.folder.join("work/.oar-tiles/notes").join(&id);
    until("it has begun", || !names(&notes, "attempt-0001-").is_empty());
    signal(&late, "STOP");
    // It may have a target open: that one would be waited for.
    let another = divided.start(1);
    std::thread::sleep(Duration::from_millis(1_500));
    let is_done = !names(&notes, "done-0001").is_empty();
    if !is_done {
        signal(&late, "CONT");
    }
    wait(another).ok();
    divided.verb("commit", &[]).ok();
    tracked.db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 100)");
    divided.whole("reseed").ok();
    let before = files_below(&divided.folder);
    signal(&late, "CONT");
    let late = wait(late).ok();
    assert!(late.stderr.contains("shard 1 ") || late.stderr.is_empty(), "{}", late.stderr);
    if is_done {
        assert!(late.stderr.contains("shard 1 was done already"), "{}", late.stderr);
        assert!(files_below(&divided.folder) == before);
    }
}

#[test]
fn what_cannot_be_divided_into_targets_is_refused() {
    let tracked = Tracked::facilities(20);
    let divided = Divided::countries(&tracked, "divided", ".mbtiles");
    let begin = |more: &[&str]| divided.verb("begin", &[&["--shards", "2"], more].concat());
    begin(&["--hold"]).fails(2, &["--hold is not for shards of variants or of several tilesets: leave it out"]);
    begin(&["--frozen"]).fails(2, &["--frozen is not for shards of variants or of several tilesets"]);
    begin(&[]).ok();
    let other = divided.folder.join("other.toml");
    let text = std::fs::read_to_string(&divided.config).unwrap();
    std::fs::write(&other, text.replace("\"name\"]", "\"name\", \"address\"]")).unwrap();
    let with = |verb: &str, more: &[&str]| {
        let mut command = program();
        command.args(["shards", verb, "--work"]).arg(divided.folder.join("work/"));
        run(command.args(["--database-url", &tracked.db.url, "--config", other.to_str().unwrap()]).args(more))
    };
    with("run", &["--shard", "1"]).fails(2, &["was begun with other settings: the layers or variants of "]);
    with("commit", &[]).fails(2, &["was begun with other settings: the layers or variants of "]);
    divided
        .verb("run", &["--shard", "1", "--zoom", "0-3"])
        .fails(2, &["zoom is \"0-3\" here, and \"0-5\" in the plan"]);
    (1..=2).for_each(|shard| drop(divided.run(shard).ok()));
    divided
        .verb("commit", &["--changed-out", "changed.txt"])
        .fails(2, &["--changed-out is not for shards of variants or of several tilesets"]);
    divided.verb("abort", &[]).ok();
    assert!(!divided.variants().is_empty(), "what was seeded stays");
    let in_bucket = text.replace(divided.folder.to_str().unwrap(), "s3://nowhere").replace(".mbtiles\"", "/\"");
    std::fs::write(&other, in_bucket).unwrap();
    with("begin", &["--shards", "2"]).fails(2, &["is written in place, where a late request of a shard could replace"]);
    tracked.db.run("DROP SCHEMA oar_tiles CASCADE");
    let no_state = ["there is no change log that would bring all targets to one state", "know no other way"];
    begin(&[]).fails(2, &no_state);
}
