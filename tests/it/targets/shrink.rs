//! An emptied table, or an import half done, does not replace a map by nothing: a run that would take away more than
//! `max_shrink` allows is refused, whatever the target, before anything is deleted.

use std::collections::BTreeMap;
use std::process::Stdio;

use crate::support::places::{Places, Tiles};
use crate::support::process::Start as _;
use crate::support::program::{Run, signal, wait};
use crate::support::world::Followed;
use crate::support::{Db, until};

/// One target of each kind.
const TARGETS: [&str; 5] = ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/", "s3:t.pmtiles"];

const HELD: &str = " tiles in these zooms and boxes, and ";
const NOTHING_LOST: &str = "No tile was deleted, the manifest is unchanged. See whether a table is empty, or an import half done; if not, allow it for one seed or reseed with --allow-shrink";

fn followed(facilities: u32) -> Followed {
    Followed::new(Db::with_facilities(facilities), Places::new())
}

impl Followed {
    fn tiles_of(&self, name: &str) -> Tiles {
        self.places.read_by_others_or_copy(name)
    }

    /// Asserts that a run is refused, and that it has moved no manifest.
    #[track_caller]
    fn refuses_tiles(&self, name: &str, run: impl FnOnce() -> Run) {
        let manifest = self.manifest(name);
        let refused = run().fails(1, &[&format!("error: {} holds ", self.places.place(name)), HELD, NOTHING_LOST]);
        assert!(refused.stderr.contains(": max_shrink is 50%. "), "{}", refused.stderr);
        assert_eq!(self.manifest(name), manifest, "{name}");
    }

    /// Asserts that a target still has all of these tiles.
    #[track_caller]
    fn still_has(&self, name: &str, tiles: &Tiles) {
        let left = self.tiles_of(name);
        let gone: Vec<_> = tiles.keys().filter(|tile| !left.contains_key(tile)).collect();
        assert_eq!(gone, Vec::<&(u8, u32, u32)>::new(), "{name}");
    }
}

#[test]
fn an_emptied_table_replaces_nothing_unless_that_is_allowed() {
    // So few rows that the tiles decide (`lost_rows.rs` has more).
    let world = followed(100);
    for name in TARGETS {
        world.writes("seed", name, &["--zoom", "0-6"]).ok();
    }
    let before: BTreeMap<&str, Tiles> = TARGETS.iter().map(|name| (*name, world.tiles_of(name))).collect();
    world.db.run("CREATE TABLE kept AS TABLE api_facility; TRUNCATE api_facility");
    for name in TARGETS {
        // With -q, too, the refusal is the one thing that is said.
        for arguments in [&["--zoom", "0-6"][..], &["--zoom", "3"], &["--zoom", "0-6", "-q"]] {
            world.refuses_tiles(name, || world.writes("seed", name, arguments));
        }
        // By the log, or by the seed that it leads to.
        world.refuses_tiles(name, || world.writes("reseed", name, &[]));
        world.refuses_tiles(name, || world.writes("reseed", name, &["--or-seed"]));
        assert!(world.tiles_of(name) == before[name], "{name}: refused by the plan, it has written nothing");
        if name.ends_with('/') {
            // Zooms of which the target holds nothing may be empty.
            world.writes("seed", name, &["--zoom", "7"]).ok();
            assert!(world.tiles_of(name) == before[name], "{name}");
        }
        world.writes("seed", name, &["--zoom", "0-6", "--allow-shrink"]).ok();
        assert_eq!(world.manifest(name)["stored"], 0, "{name}");
        world.writes("seed", name, &["--zoom", "0-6"]).ok();
    }
    // An import comes, and goes on.
    world.db.run("INSERT INTO api_facility TABLE kept");
    for name in TARGETS {
        world.writes("seed", name, &["--zoom", "0-6"]).ok();
        assert!(world.tiles_of(name) == before[name], "{name}");
    }
}

/// The plan knows where features are, not what is drawn of them: what is left is known when tiles are rendered.
#[test]
fn what_only_shows_when_tiles_are_rendered_is_refused_before_anything_is_deleted() {
    let world = followed(100);
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
        world.writes("seed", name, &["--zoom", "0-6"]).ok();
    }
    // What is left of each box is its diagonal, in the same box.
    world.db.run("UPDATE road SET g = ST_SetSRID(ST_MakeLine(ST_MakePoint(ST_XMin(g), ST_YMin(g)), ST_MakePoint(ST_XMax(g), ST_YMax(g))), 4326)");
    world.writes("seed", "fresh.mbtiles", &["--zoom", "0-6"]).ok();
    let fresh = world.tiles_of("fresh.mbtiles");
    for name in TARGETS {
        let before = world.tiles_of(name);
        world.refuses_tiles(name, || world.writes("seed", name, &["--zoom", "0-6"]));
        world.still_has(name, &before);
        world.refuses_tiles(name, || world.writes("reseed", name, &[]));
        world.still_has(name, &before);
        let done = world.writes("reseed", name, &["--allow-shrink"]).ok();
        assert!(!done.stdout.starts_with("nothing to do"), "{}", done.stdout);
        assert!(world.tiles_of(name) == fresh, "{name}");
    }
}

#[test]
fn how_much_may_go_is_a_setting() {
    let world = followed(200);
    let text = std::fs::read_to_string(&world.places.config).unwrap();
    for (share, allowed) in [("90%", true), ("100%", true), ("10%", false)] {
        std::fs::write(&world.places.config, format!("{text}[tileset]\nmax_shrink = \"{share}\"\n")).unwrap();
        let fresh = Db::with_facilities(200);
        let world = Followed { db: fresh, places: Places::new() };
        std::fs::write(&world.places.config, format!("{text}[tileset]\nmax_shrink = \"{share}\"\n")).unwrap();
        world.writes("seed", "t.mbtiles", &["--zoom", "0-9"]).ok();
        world.db.run("DELETE FROM api_facility WHERE hashtext(id) & 1 = 0");
        let ended = world.writes("seed", "t.mbtiles", &["--zoom", "0-9"]);
        if allowed {
            ended.ok();
        } else {
            ended.fails(1, &[&format!(": max_shrink is {share}. ")]);
        }
    }
    std::fs::write(&world.places.config, format!("{text}[tileset]\nmax_shrink = \"half\"\n")).unwrap();
    world
        .writes("seed", "t.mbtiles", &[])
        .fails(2, &["tileset.max_shrink (from ", "\"half\" is no share of tiles: write \"0%\" to \"100%\""]);
}

#[test]
fn a_watch_says_so_and_goes_on_trying() {
    let world = followed(100);
    world.writes("seed", "tiles/", &["--zoom", "0-5"]).ok();
    let before = world.tiles_of("tiles/");
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
    assert!(world.tiles_of("tiles/") == before);
    world.db.run("INSERT INTO api_facility TABLE kept; UPDATE api_facility SET name = name || '!'");
    until("the watch goes on", || world.tiles_of("tiles/") != before);
    assert!(world.tiles_of("tiles/").len() == before.len());
    signal(&child, "TERM");
    wait(child).ok();
}

#[test]
fn a_seed_with_fewer_zooms_says_that_an_archive_loses_the_others() {
    let (db, places) = (Db::with_facilities(50), Places::new());
    for (name, is_archive) in [("t.mbtiles", true), ("t.pmtiles", true), ("tiles/", false)] {
        let warning = format!(
            "warning: {} has tiles outside of this seed's zooms and boxes, which it will lose: an archive is replaced as a whole. To keep them, stop this run, and name another file with --output\n",
            places.place(name)
        );
        let seed = |arguments: &[&str]| places.seed(&db, name, arguments).ok().stderr;
        for (arguments, is_narrower) in [
            (&["--zoom", "0-4"][..], false),
            (&["--zoom", "0-4"], false),
            (&["--zoom", "0-4", "--bbox", "60,5,100,35"], true),
            (&["--zoom", "0-5", "--bbox", "60,5,100,35"], false),
            (&["--zoom", "5", "--bbox", "60,5,100,35"], true),
        ] {
            let said = seed(arguments);
            assert_eq!(said.contains(&warning), is_archive && is_narrower, "{name} {arguments:?}: {said}");
        }
    }
}
