//! An emptied table, or an import half done, does not replace a map by nothing: a run that would take away more than
//! `max_shrink` allows is refused, whatever the target, before anything is deleted.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::support::places::{Places, Tiles};
use crate::support::process::Start as _;
use crate::support::program::{Run, program, run, signal, wait};
use crate::support::{Db, until};

/// One target of each kind.
const TARGETS: [&str; 5] = ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/", "s3:t.pmtiles"];

const HELD: &str = " tiles in these zooms and boxes, and ";
const NOTHING_LOST: &str = "No tile was deleted, the manifest is unchanged. See whether a table is empty, or an import half done; if not, run the command again with --allow-shrink";

/// A database and targets that follow it.
struct World {
    db: Db,
    places: Places,
}

impl World {
    fn new(facilities: u32) -> World {
        let world = World { db: Db::with_facilities(facilities), places: Places::new() };
        world.run("track", &["install"]).ok();
        world
    }

    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = program();
        command.env_remove("OAR_TILES_MAX_SHRINK");
        command.arg(verb).args(arguments).args(["--config", &self.places.config, "--database-url", &self.db.url]);
        self.places.with_keys(&mut command);
        command
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> Run {
        run(&mut self.command(verb, arguments))
    }

    fn seed(&self, name: &str, arguments: &[&str]) -> Run {
        let place = self.places.place(name);
        self.run("seed", &[&["--progress", "none", "--output", &place], arguments].concat())
    }

    fn reseed(&self, name: &str, arguments: &[&str]) -> Run {
        let place = self.places.place(name);
        self.run("reseed", &[&["--progress", "none", "--output", &place], arguments].concat())
    }

    fn tiles(&self, name: &str) -> Tiles {
        self.places.read_by_others_or_copy(name)
    }

    /// What the target says of its last run.
    fn manifest(&self, name: &str) -> serde_json::Value {
        let place = self.places.place(name);
        let shown =
            run(self.places.with_keys(program().args(["inspect", "--json", &place, "--config", &self.places.config])));
        let shown: serde_json::Value = serde_json::from_str(&shown.ok().stdout).unwrap();
        shown["manifest"].clone()
    }

    /// Asserts that a run is refused, and that it has moved no manifest.
    #[track_caller]
    fn refuses(&self, name: &str, run: impl FnOnce() -> Run) {
        let manifest = self.manifest(name);
        let refused = run().fails(1, &[&format!("error: {} holds ", self.places.place(name)), HELD, NOTHING_LOST]);
        assert!(refused.stderr.contains(": max_shrink is 50%. "), "{}", refused.stderr);
        assert_eq!(self.manifest(name), manifest, "{name}");
    }

    /// Asserts that a target still has all of these tiles.
    #[track_caller]
    fn still_has(&self, name: &str, tiles: &Tiles) {
        let left = self.tiles(name);
        let gone: Vec<_> = tiles.keys().filter(|tile| !left.contains_key(tile)).collect();
        assert_eq!(gone, Vec::<&(u8, u32, u32)>::new(), "{name}");
    }
}

#[test]
fn an_emptied_table_replaces_nothing_unless_that_is_allowed() {
    // So few rows that the tiles decide (`lost_rows.rs` has more).
    let world = World::new(100);
    for name in TARGETS {
        world.seed(name, &["--zoom", "0-6"]).ok();
    }
    let before: BTreeMap<&str, Tiles> = TARGETS.iter().map(|name| (*name, world.tiles(name))).collect();
    world.db.run("CREATE TABLE kept AS TABLE api_facility; TRUNCATE api_facility");
    for name in TARGETS {
        // With -q, too, the refusal is the one thing that is said.
        for arguments in [&["--zoom", "0-6"][..], &["--zoom", "3"], &["--zoom", "0-6", "-q"]] {
            world.refuses(name, || world.seed(name, arguments));
        }
        // By the log, or by the seed that it leads to.
        world.refuses(name, || world.reseed(name, &[]));
        world.refuses(name, || world.reseed(name, &["--or-seed"]));
        assert!(world.tiles(name) == before[name], "{name}: refused by the plan, it has written nothing");
        if name.ends_with('/') {
            // Zooms of which the target holds nothing may be empty.
            world.seed(name, &["--zoom", "7"]).ok();
            assert!(world.tiles(name) == before[name], "{name}");
        }
        world.seed(name, &["--zoom", "0-6", "--allow-shrink"]).ok();
        assert_eq!(world.manifest(name)["stored"], 0, "{name}");
        world.seed(name, &["--zoom", "0-6"]).ok();
    }
    // An import comes, and goes on.
    world.db.run("INSERT INTO api_facility TABLE kept");
    for name in TARGETS {
        world.seed(name, &["--zoom", "0-6"]).ok();
        assert!(world.tiles(name) == before[name], "{name}");
    }
}

/// The plan knows where features are, not what is drawn of them: what is left is known when tiles are rendered.
#[test]
fn what_only_shows_when_tiles_are_rendered_is_refused_before_anything_is_deleted() {
    let world = World::new(100);
    // Lines of tiles beside their boxes' corners: the plan takes the whole box.
    world.db.run(
        "CREATE TABLE road (id int PRIMARY KEY, g geometry); CREATE INDEX ON road USING gist (g);
         INSERT INTO road SELECT i, ST_SetSRID(ST_Expand(ST_MakePoint(i * 7 - 60, i * 3 - 40), 20), 4326) FROM generate_series(1, 12) AS i",
    );
    let text = std::fs::read_to_string(&world.places.config).unwrap();
    let text = text
        .split_once("[s3]")
        .map(|(_, rest)| format!("[[layer]]\nname = \"roads\"\ntable = \"road\"\n[s3]{rest}"))
        .unwrap();
    std::fs::write(&world.places.config, text).unwrap();
    world.run("track", &["install"]).ok();
    for name in TARGETS {
        world.seed(name, &["--zoom", "0-6"]).ok();
    }
    // What is left of each box is its diagonal, in the same box.
    world.db.run("UPDATE road SET g = ST_SetSRID(ST_MakeLine(ST_MakePoint(ST_XMin(g), ST_YMin(g)), ST_MakePoint(ST_XMax(g), ST_YMax(g))), 4326)");
    world.seed("fresh.mbtiles", &["--zoom", "0-6"]).ok();
    let fresh = world.tiles("fresh.mbtiles");
    for name in TARGETS {
        let before = world.tiles(name);
        world.refuses(name, || world.seed(name, &["--zoom", "0-6"]));
        world.still_has(name, &before);
        world.refuses(name, || world.reseed(name, &[]));
        world.still_has(name, &before);
        let done = world.reseed(name, &["--allow-shrink"]).ok();
        assert!(!done.stdout.starts_with("nothing to do"), "{}", done.stdout);
        assert!(world.tiles(name) == fresh, "{name}");
    }
}

#[test]
fn how_much_may_go_is_a_setting() {
    let world = World::new(200);
    let text = std::fs::read_to_string(&world.places.config).unwrap();
    for (share, allowed) in [("90%", true), ("100%", true), ("10%", false)] {
        std::fs::write(&world.places.config, format!("{text}[tileset]\nmax_shrink = \"{share}\"\n")).unwrap();
        let fresh = Db::with_facilities(200);
        let world = World { db: fresh, places: Places::new() };
        std::fs::write(&world.places.config, format!("{text}[tileset]\nmax_shrink = \"{share}\"\n")).unwrap();
        world.seed("t.mbtiles", &["--zoom", "0-9"]).ok();
        world.db.run("DELETE FROM api_facility WHERE hashtext(id) & 1 = 0");
        let ended = world.seed("t.mbtiles", &["--zoom", "0-9"]);
        if allowed {
            ended.ok();
        } else {
            ended.fails(1, &[&format!(": max_shrink is {share}. ")]);
        }
    }
    std::fs::write(&world.places.config, format!("{text}[tileset]\nmax_shrink = \"half\"\n")).unwrap();
    world
        .seed("t.mbtiles", &[])
        .fails(2, &["tileset.max_shrink (from ", "\"half\" is no share of tiles: write \"0%\" to \"100%\""]);
}

#[test]
fn a_watch_says_so_and_goes_on_trying() {
    let world = World::new(100);
    world.seed("tiles/", &["--zoom", "0-5"]).ok();
    let before = world.tiles("tiles/");
    let place = world.places.place("tiles/");
    let mut command =
        world.command("reseed", &["--watch", "--debounce", "50ms", "--poll", "200ms", "--output", &place]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start();
    let errors = std::io::BufReader::new(child.stderr.take().unwrap());
    let (heard, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use std::io::BufRead as _;
        errors.lines().map_while(Result::ok).for_each(|line| drop(heard.send(line)));
    });
    world.db.run("CREATE TABLE kept AS TABLE api_facility; DELETE FROM api_facility");
    let refused = |line: &String| line.contains(HELD) && line.contains("--allow-shrink: trying again in ");
    let mut said = Vec::new();
    until("a refusal", || {
        said.extend(lines.try_iter());
        said.iter().any(refused)
    });
    assert!(world.tiles("tiles/") == before);
    world.db.run("INSERT INTO api_facility TABLE kept; UPDATE api_facility SET name = name || '!'");
    until("the watch goes on", || world.tiles("tiles/") != before);
    assert!(world.tiles("tiles/").len() == before.len());
    signal(&child, "TERM");
    wait(child).ok();
}
