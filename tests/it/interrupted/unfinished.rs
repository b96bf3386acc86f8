//! What an interrupted run leaves in a synchronized target is never called up to date: whatever its scope, its
//! configuration, its database, every command names it, and a reseed mends it or needs a seed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::damaged::Chance;
use crate::support::gate::gated;
use crate::support::places::Places;
use crate::support::process::{Process, Start as _};
use crate::support::program::{ROWS_LAYER, Run, humble, program, run};
use crate::support::tree::files;
use crate::support::{Db, Gate, Place, until};

/// The targets that are synchronized.
const TARGETS: [&str; 2] = ["tiles/", "s3:tiles/"];

/// A database with the change log, targets, and configurations of which some wait at a gate.
struct World {
    db: Db,
    places: Places,
    /// Every zoom is drawn from one table; zoom 14 waits at the gate.
    config: String,
}

impl World {
    fn new(facilities: u32) -> World {
        let (db, places) = (Db::with_facilities(facilities), Places::new());
        let config = gated(places.folder.path(), Place::Deep, &s3_settings(&places));
        let world = World { db, places, config };
        world.run(&["track", "install"]).ok();
        world
    }

    /// The same tables under another configuration.
    fn other_config(&self) -> String {
        let path = self.places.folder.path().join("other.toml");
        let text = std::fs::read_to_string(&self.config).unwrap();
        std::fs::write(&path, format!("{text}[layer_defaults]\nbuffer = 0\n")).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command_with(&self, config: &str, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).args(["--config", config]);
        let asks_nobody = ["inspect", "copy"].contains(&arguments[0])
            || arguments[0] == "verify" && !arguments.contains(&"--database");
        if !asks_nobody {
            command.args(["--database-url", &self.db.url]);
        }
        self.places.with_keys(&mut command);
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        run(&mut self.command_with(&self.config, arguments))
    }

    fn seed(&self, name: &str, arguments: &[&str]) -> Run {
        self.run(&[&["seed", "--progress", "none", "--output", &self.places.place(name)], arguments].concat())
    }

    fn reseed(&self, name: &str, arguments: &[&str]) -> Run {
        self.run(&[&["reseed", "--progress", "none", "--output", &self.places.place(name)], arguments].concat())
    }

    fn start(&self, config: &str, arguments: &[&str]) -> Process {
        let mut command = self.command_with(config, arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).start()
    }

    /// The names of the tiles in a target.
    fn tiles(&self, name: &str) -> std::collections::BTreeMap<String, Vec<u8>> {
        let all = match name.strip_prefix("s3:") {
            Some(prefix) => {
                let of = |(name, bytes): (String, Vec<u8>)| Some((name.strip_prefix(prefix)?.to_owned(), bytes));
                self.places.prefix.objects().into_iter().filter_map(of).collect()
            }
            None => files(Path::new(&self.places.place(name))),
        };
        all.into_iter().filter(|(name, _)| name.ends_with(".pbf")).collect()
    }

    /// Starts a seed that stops at zoom 14, and kills it once it has written tiles of zoom 9 or deeper.
    fn kill_a_seed(&self, name: &str, config: &str, arguments: &[&str]) {
        let before = self.tiles(name);
        let gate = Gate::close(&self.db);
        let place = self.places.place(name);
        let mut child = self.start(
            config,
            &[&["seed", "--progress", "none", "--zoom", "0-14", "--output", &place], arguments].concat(),
        );
        gate.wait_for(1);
        let is_deep = |name: &String| ["9/", "10/", "11/", "12/", "13/"].iter().any(|zoom| name.starts_with(zoom));
        until("tiles of deep zooms", || {
            self.tiles(name).iter().any(|(name, bytes)| is_deep(name) && before.get(name) != Some(bytes))
        });
        child.kill().unwrap();
        child.wait().unwrap();
        gate.open();
    }

    /// Asserts that nothing is left to do, and that the target shows what the database holds.
    #[track_caller]
    fn is_right(&self, name: &str) {
        let place = self.places.place(name);
        let nothing = self.reseed(name, &[]).ok();
        assert!(nothing.stdout.starts_with("nothing to do"), "{name}: {}{}", nothing.stdout, nothing.stderr);
        let verified = self.run(&["verify", "--all", "--database", &place]);
        assert_eq!(verified.code, 0, "{name}: {}{}", verified.stdout, verified.stderr);
        assert!(!verified.stdout.contains("not finished"), "{name}: {}", verified.stdout);
        let shown = self.run(&["inspect", &place]).ok().stdout;
        assert!(!shown.contains("not finished"), "{name}: {shown}");
    }

    /// Asserts that every command names an unfinished run in some words, and that none but a seed changes the target.
    #[track_caller]
    fn is_named(&self, name: &str, run: &str, why: &str) {
        let (place, before) = (self.places.place(name), self.tiles(name));
        self.reseed(name, &[]).fails(4, &["needs a full seed: ", run, why]);
        let status = self.run(&["track", "status", &place]).fails(4, &[]);
        assert!(status.stdout.contains(run) && status.stdout.contains(why), "{}", status.stdout);
        let found = self.run(&["verify", &place]).fails(1, &[]);
        assert!(found.stdout.contains("runs that have not finished: 1\n"), "{}", found.stdout);
        assert!(found.stdout.contains(run) && found.stdout.contains(why), "{}", found.stdout);
        let shown = self.run(&["inspect", &place]).ok().stdout;
        assert!(shown.contains(&format!("not finished: {run}")), "{shown}");
        let json: serde_json::Value =
            serde_json::from_str(&self.run(&["inspect", "--json", &place]).ok().stdout).unwrap();
        assert!(json["unfinished"][0].as_str().unwrap().starts_with(run), "{json}");
        assert!(self.tiles(name) == before, "{name} has changed");
    }
}

/// How the S3 server of some places is reached.
fn s3_settings(places: &Places) -> String {
    std::fs::read_to_string(&places.config).unwrap().replace(ROWS_LAYER, "")
}

#[test]
fn a_killed_seed_of_more_zooms_is_named_until_a_seed_of_these_zooms_has_finished() {
    let world = World::new(12);
    for name in TARGETS {
        world.seed(name, &["--zoom", "0-4"]).ok();
        world.is_right(name);
        world.kill_a_seed(name, &world.config, &[]);
        let why = "and reaches beyond what the manifest speaks for (zooms 0-4): seed with its zooms and boxes";
        world.is_named(name, "a seed of zooms 0-14 that began 20", why);
        // A narrower one leaves the deep tiles where they are.
        world.seed(name, &["--zoom", "0-4"]).ok();
        world.is_named(name, "a seed of zooms 0-14 that began 20", why);
        world.seed(name, &["--zoom", "0-14"]).ok();
        world.is_right(name);
    }
}

#[test]
fn reseed_or_seed_seeds_what_an_interrupted_run_has_begun_too() {
    let world = World::new(12);
    for name in TARGETS {
        world.seed(name, &["--zoom", "0-4"]).ok();
        world.kill_a_seed(name, &world.config, &[]);
        let deepest = world.tiles(name).keys().filter_map(|name| name.split('/').next()?.parse::<u8>().ok()).max();
        let done = world.reseed(name, &["--or-seed"]).ok();
        assert!(done.stderr.contains("a seed of zooms 0-14 that began "), "{}", done.stderr);
        world.is_right(name);
        let now = world.tiles(name).keys().filter_map(|name| name.split('/').next()?.parse::<u8>().ok()).max();
        assert!(now == deepest && deepest > Some(8), "{now:?} {deepest:?}");
    }
}

#[test]
fn a_killed_seed_of_another_configuration_is_named_until_one_of_both_has_finished() {
    let world = World::new(40);
    let other = world.other_config();
    for name in TARGETS {
        world.seed(name, &["--zoom", "0-14"]).ok();
        world.kill_a_seed(name, &other, &["--force"]);
        let why = "and its tiles are of another configuration (their fingerprint is ";
        world.is_named(name, "a seed of zooms 0-14 that began 20", why);
        // To the other configuration, the manifest is of another one.
        let place = world.places.place(name);
        run(&mut world.command_with(&other, &["reseed", "--progress", "none", "--output", &place]))
            .fails(4, &["needs a full seed: "]);
        world.seed(name, &["--zoom", "0-14"]).fails(2, &["holds another tileset"]);
        // A narrower one leaves tiles of the other.
        world.seed(name, &["--zoom", "0-3", "--force"]).ok();
        world.reseed(name, &[]).fails(4, &["another configuration (their fingerprint is "]);
        world.seed(name, &["--zoom", "0-14", "--force"]).ok();
        world.is_right(name);
    }
}

#[test]
fn tiles_that_a_smaller_forced_seed_leaves_of_another_configuration_are_named() {
    let world = World::new(12);
    let other = world.other_config();
    for name in TARGETS {
        run(&mut world.command_with(
            &other,
            &["seed", "--progress", "none", "--zoom", "0-9", "--output", &world.places.place(name)],
        ))
        .ok();
        world.seed(name, &["--zoom", "0-5", "--force"]).ok();
        world.is_named(
            name,
            "a replaced tileset of zooms 0-9",
            "tiles of a replaced tileset of zooms 0-9 are still there",
        );
        world.seed(name, &["--zoom", "0-9"]).ok();
        world.is_right(name);
    }
}

#[test]
fn a_seed_that_fails_half_way_is_named_like_one_that_was_killed() {
    let world = World::new(12);
    world.seed("tiles/", &["--zoom", "0-4"]).ok();
    let place = world.places.place("tiles/");
    std::fs::write(Path::new(&place).join("8"), "in the way, as the end of a disk").unwrap();
    world.seed("tiles/", &["--zoom", "0-8"]).fails(1, &["is a file where a folder of tiles must be"]);
    assert!(world.tiles("tiles/").keys().any(|name| name.starts_with("7/")));
    world.is_named(
        "tiles/",
        "a seed of zooms 0-8 that began 20",
        "reaches beyond what the manifest speaks for (zooms 0-4)",
    );
    std::fs::remove_file(Path::new(&place).join("8")).unwrap();
    world.seed("tiles/", &["--zoom", "0-8"]).ok();
    world.is_right("tiles/");
}

/// The same zooms, configuration and database: what the interrupted run left is a later state of what the manifest
/// speaks for.
#[test]
fn a_killed_seed_of_the_same_scope_is_mended_by_a_reseed_which_counts_anew() {
    let world = World::new(12);
    for name in TARGETS {
        world.seed(name, &["--zoom", "0-14"]).ok();
        world.db.run("UPDATE api_facility SET location = ST_Translate(location, 0.4, 0.3) WHERE hashtext(id) & 3 = 0");
        world.kill_a_seed(name, &world.config, &[]);
        let place = world.places.place(name);
        let status = world.run(&["track", "status", &place]).ok().stdout;
        assert!(
            status.contains("a seed of zooms 0-14 that began 20") && status.contains("the next reseed mends it"),
            "{status}"
        );
        let found = world.run(&["verify", &place]).stdout;
        assert!(found.contains("note: a seed of zooms 0-14 that began 20"), "{found}");
        assert!(!found.contains("runs that have not finished"), "{found}");
        world.reseed(name, &[]).ok();
        world.is_right(name);
        // Nothing has changed since the manifest, and still there is a note to be taken out.
        world.kill_a_seed_without_changes(name);
        world.reseed(name, &[]).ok();
        world.is_right(name);
    }
}

impl World {
    /// Kills a seed at zoom 14 that has nothing to write.
    fn kill_a_seed_without_changes(&self, name: &str) {
        let gate = Gate::close(&self.db);
        let mut child = self.start(
            &self.config,
            &["seed", "--progress", "none", "--zoom", "0-14", "--output", &self.places.place(name)],
        );
        gate.wait_for(1);
        child.kill().unwrap();
        child.wait().unwrap();
        gate.open();
    }
}

#[test]
fn a_killed_reseed_is_mended_by_the_next_which_counts_anew() {
    let world = World::new(12);
    let gated = gated(world.places.folder.path(), Place::Render, &s3_settings(&world.places));
    let run_with = |arguments: &[&str]| run(&mut world.command_with(&gated, arguments));
    run_with(&["track", "install"]).ok();
    for name in TARGETS {
        let place = world.places.place(name);
        run_with(&["seed", "--progress", "none", "--zoom", "0-9", "--output", &place]).ok();
        world.db.run("UPDATE api_facility SET location = ST_Translate(location, 0.3, 0.3) WHERE hashtext(id) & 3 = 0");
        let gate = Gate::close(&world.db);
        let mut child = world.start(&gated, &["reseed", "--progress", "none", "--output", &place]);
        gate.wait_for(1);
        child.kill().unwrap();
        child.wait().unwrap();
        gate.open();
        // As if it had come so far as to add a tile and to delete one.
        let tiles = world.tiles(name);
        let gone = tiles.keys().last().unwrap().clone();
        let reader = run_with(&["inspect", &place]).ok().stdout;
        assert!(reader.contains("not finished: a reseed of zooms 0-9 that began 20"), "{reader}");
        if !name.starts_with("s3:") {
            std::fs::remove_file(Path::new(&place).join(&gone)).unwrap();
        }
        run_with(&["reseed", "--progress", "none", "--output", &place]).ok();
        let found = run_with(&["verify", &place]);
        assert!(!found.stdout.contains("it says that"), "the count: {}", found.stdout);
        assert!(
            run_with(&["reseed", "--progress", "none", "--output", &place]).ok().stdout.starts_with("nothing to do")
        );
    }
}

#[test]
fn a_killed_seed_from_another_database_is_named() {
    let world = World::new(12);
    let elsewhere = Db::with_facilities(30);
    for name in TARGETS {
        world.seed(name, &["--zoom", "0-14"]).ok();
        let place = world.places.place(name);
        let gate = Gate::close(&elsewhere);
        let mut command = program();
        command.args(["seed", "--progress", "none", "--zoom", "0-14", "--config", &world.config, "--output", &place]);
        command
            .args(["--database-url", &elsewhere.url])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = world.places.with_keys(&mut command).start();
        gate.wait_for(1);
        until("the note", || world.run(&["inspect", &place]).stdout.contains("not finished: a seed of zooms 0-14"));
        child.kill().unwrap();
        child.wait().unwrap();
        gate.open();
        world.is_named(
            name,
            "a seed of zooms 0-14 that began 20",
            "and its tiles show another database or other tables",
        );
        world.seed(name, &["--zoom", "0-14"]).ok();
        world.is_right(name);
    }
}

#[test]
fn a_copy_that_fails_half_way_is_named() {
    let world = World::new(200);
    world.seed("source/", &["--zoom", "0-9"]).ok();
    // Of the last tile there is only a name.
    let source = world.places.place("source/");
    let last = world.tiles("source/").into_keys().max_by_key(|name| {
        let mut parts = name.trim_end_matches(".pbf").split('/').map(|part| part.parse::<u32>().unwrap());
        (parts.next(), parts.next())
    });
    let last = Path::new(&source).join(last.unwrap());
    std::fs::remove_file(&last).unwrap();
    std::os::unix::fs::symlink("/nowhere", &last).unwrap();
    for name in TARGETS {
        world.seed(name, &["--zoom", "0-4"]).ok();
        world
            .run(&["copy", &source, &world.places.place(name)])
            .fails(1, &["it is a symbolic link, which is not followed here"]);
        world.is_named(name, "a copy of zooms 0-22 that began 20", "has not finished: copy the tiles again");
        // Nothing of it lies deeper than 9.
        world.seed(name, &["--zoom", "0-9"]).ok();
        world.is_right(name);
    }
}

#[test]
fn a_run_that_is_under_way_is_no_interrupted_one_to_a_reseed() {
    let world = World::new(12);
    for name in TARGETS {
        world.seed(name, &["--zoom", "0-4"]).ok();
        let place = world.places.place(name);
        let gate = Gate::close(&world.db);
        let child = world.start(&world.config, &["seed", "--progress", "none", "--zoom", "0-14", "--output", &place]);
        gate.wait_for(1);
        until("the note", || world.run(&["inspect", &place]).stdout.contains("not finished: a seed of zooms 0-14"));
        world.reseed(name, &[]).fails(1, &["another run is writing "]);
        gate.open();
        crate::support::program::wait(child).ok();
        world.is_right(name);
    }
}

#[test]
fn what_an_older_program_has_begun_is_known_by_its_fingerprint() {
    let world = World::new(12);
    world.seed("tiles/", &["--zoom", "0-4"]).ok();
    let begun = Path::new(&world.places.place("tiles/")).join(".oar-tiles/begun.json");
    let mut note: serde_json::Value = serde_json::from_slice(&std::fs::read(&begun).unwrap()).unwrap();
    assert_eq!(note.get("unfinished"), None, "a finished run leaves none: {note}");
    note["fingerprint"] = "of another configuration".into();
    std::fs::write(&begun, note.to_string()).unwrap();
    world.is_named("tiles/", "a run of an older oar-tiles of zooms 0-22", "and its tiles are of another configuration");
    world.seed("tiles/", &["--zoom", "0-4", "--force"]).ok();
    world.is_right("tiles/");
}

#[test]
fn whoever_may_not_read_the_private_notes_reads_the_rest() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new(12);
    world.seed("tiles/", &["--zoom", "0-4"]).ok();
    let place = world.places.place("tiles/");
    let own = Path::new(&place).join(".oar-tiles");
    let mode = |mode| std::fs::set_permissions(&own, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o000);
    let shown = run(&mut humble(&world.command_with(&world.config, &["verify", &place])));
    mode(0o755);
    let shown = shown.ok();
    assert!(shown.stderr.contains("whether a run was interrupted there is not known"), "{}", shown.stderr);
}

/// The runs of the next test, each as arguments and whether it uses the other configuration.
const RUNS: [(&[&str], bool); 6] = [
    (&["seed", "--zoom", "0-3"], false),
    (&["seed", "--zoom", "0-8"], false),
    (&["seed", "--zoom", "2-7", "--bbox", "-20,-60,180,60"], false),
    (&["seed", "--zoom", "0-6", "--force"], true),
    (&["seed", "--zoom", "0-8", "--force"], false),
    (&["reseed"], false),
];

/// Kills runs of all scopes and of two configurations, one after the other, at moments that nobody chose.
/// `TEST_KILLS=ROUNDS` does more of it.
#[test]
fn after_any_kills_a_reseed_either_makes_all_right_or_asks_for_a_seed() {
    let rounds: u32 = std::env::var("TEST_KILLS").map_or(5, |rounds| rounds.parse().unwrap());
    let world = World::new(40);
    let other = world.other_config();
    for name in TARGETS {
        let mut chance = Chance(0x5eed_0001 + name.len() as u64);
        world.seed(name, &["--zoom", "0-8"]).ok();
        let place = world.places.place(name);
        let (mut mended, mut refused) = (0, 0);
        for round in 0..rounds {
            let mut history = Vec::new();
            for _ in 0..=chance.below(2) {
                let (arguments, is_other) = RUNS[chance.below(RUNS.len())];
                let config = if is_other { &other } else { &world.config };
                let delay = Duration::from_millis(30 + chance.below(400) as u64);
                history.push(format!("{} for {delay:?}", arguments.join(" ")));
                world.db.run("UPDATE api_facility SET location = ST_Translate(location, 0.1, 0) WHERE random() < 0.1");
                let mut child = world.start(
                    config,
                    &[&arguments[..1], &["--progress", "none", "--output", &place], &arguments[1..]].concat(),
                );
                std::thread::sleep(delay);
                // It may have ended before: that is a moment, too.
                let _ended = child.kill();
                child.wait().unwrap();
            }
            let told = format!("{name}, round {round}, {history:?}");
            let reseeded = world.reseed(name, &[]);
            match reseeded.code {
                0 => mended += 1,
                4 => {
                    refused += 1;
                    assert!(reseeded.stderr.contains("needs a full seed: "), "{told}: {}", reseeded.stderr);
                    world.seed(name, &["--zoom", "0-8", "--force"]).ok();
                }
                other => panic!("{told}: {other}: {}", reseeded.stderr),
            }
            println!("{told}: {}", reseeded.code);
            world.is_right(name);
        }
        println!("{name}: {mended} mended by a reseed, {refused} needed a seed");
    }
}
