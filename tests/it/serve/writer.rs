//! Servers that keep their target up to date: one writes, others stand by or read, and each forgets exactly the tiles
//! that changed.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use crate::support::browser::Browser;
use crate::support::places::{Places, Tiles};
use crate::support::process::Start as _;
use crate::support::program::{program, run, signal};
use crate::support::schemas::text_fits;
use crate::support::served::{Served, status};
use crate::support::{Db, until};

const GZIP: &str = "Accept-Encoding: gzip\r\n";

/// A tracked database, and places for its targets.
pub(crate) struct Fleet {
    pub(crate) db: Db,
    pub(crate) places: Places,
}

impl Fleet {
    pub(crate) fn new() -> Fleet {
        Fleet::of(Db::with_facilities(400), Places::new())
    }

    /// The same on servers of its own.
    pub(crate) fn of(db: Db, places: Places) -> Fleet {
        Fleet::made(Fleet { db, places }, str::to_owned)
    }

    /// With another configuration.
    pub(crate) fn configured(change: impl Fn(&str) -> String) -> Fleet {
        Fleet::made(Fleet { db: Db::with_facilities(400), places: Places::new() }, change)
    }

    fn made(fleet: Fleet, change: impl Fn(&str) -> String) -> Fleet {
        let config = std::fs::read_to_string(&fleet.places.config).unwrap();
        let more = "\n[changes]\ndebounce = \"20ms\"\n\n[serve]\nwriter_lease = \"1s\"\nchanges = true\ncache_control = \"public, max-age=86400\"\n";
        std::fs::write(&fleet.places.config, change(&(config + more))).unwrap();
        let install = ["track", "install", "--database-url", &fleet.db.url, "--config", &fleet.places.config];
        run(program().args(install)).ok();
        fleet
    }

    /// Adds lines to `[serve]`.
    pub(crate) fn serves_with(&self, lines: &str) {
        let config = std::fs::read_to_string(&self.places.config).unwrap();
        std::fs::write(&self.places.config, config + lines).unwrap();
    }

    pub(crate) fn seeded(&self, kind: &str) {
        self.places.seed(&self.db, kind, &["--zoom", "0-5", "--public-url", "relative"]).ok();
    }

    pub(crate) fn writer(&self, kind: &str, when: &str) -> Served {
        Served::at(&self.places, kind, &[when, "--database-url", &self.db.url])
    }

    /// The command of a writer of a local target.
    fn writer_command(&self, name: &str) -> std::process::Command {
        let (target, mut command) = (self.places.place(name), program());
        command.args(["serve", &target, "--config", &self.places.config, "--database-url", &self.db.url, "--writer"]);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
        command
    }

    /// The tiles of a fresh seed.
    pub(crate) fn fresh(&self) -> Tiles {
        self.seeded("fresh.mbtiles");
        self.places.read_by_others("fresh.mbtiles")
    }

    /// Moves some facilities, so that tiles come and go.
    pub(crate) fn change(&self, round: u32) {
        self.db.run(&format!(
            "UPDATE api_facility SET name = 'changed {round}' WHERE id = (SELECT min(id) FROM api_facility)"
        ));
    }
}

fn status_of(served: &Served) -> Value {
    serde_json::from_str(&served.admin("/status.json").1).unwrap()
}

fn role(served: &Served) -> String {
    status_of(served)["writer"]["role"].as_str().unwrap_or("none").to_owned()
}

/// The bodies of some tiles, as a server answers them, with what it says of its cache.
pub(crate) fn answers(served: &Served, tiles: &Tiles) -> BTreeMap<String, (Vec<u8>, String)> {
    let paths = tiles.keys().map(|(zoom, x, y)| format!("{zoom}/{x}/{y}"));
    let answer = |path: String| {
        let answer = served.get(&format!("/{path}.pbf"), GZIP);
        let cache = answer.header("cache-status").unwrap_or_default().to_owned();
        (path, (answer.body, cache))
    };
    paths.map(answer).collect()
}

pub(crate) fn bodies(tiles: &Tiles) -> BTreeMap<String, Vec<u8>> {
    tiles.iter().map(|((zoom, x, y), bytes)| (format!("{zoom}/{x}/{y}"), bytes.clone())).collect()
}

/// Subscribes to the changes of a server.
fn subscribed(served: &Served) -> impl Iterator<Item = (String, Value)> + use<> {
    let mut stream = TcpStream::connect(("127.0.0.1", served.port)).unwrap();
    stream.write_all(b"GET /changes HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains(" 200 "));
    let mut event = String::new();
    lines.filter_map(move |line| {
        if let Some(name) = line.strip_prefix("event: ") {
            name.clone_into(&mut event);
        }
        Some((event.clone(), serde_json::from_str(line.strip_prefix("data: ")?).unwrap()))
    })
}

#[test]
fn writer_and_reader_forget_exactly_the_tiles_that_changed() {
    for kind in ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/", "s3:t.pmtiles"] {
        let fleet = Fleet::new();
        fleet.seeded(kind);
        let before = fleet.fresh();
        let writer = fleet.writer(kind, "--writer");
        let reader = Served::at(&fleet.places, kind, &[]);
        until("it writes", || role(&writer) == "writing");
        let mut events = [&writer, &reader].map(subscribed);
        for events in &mut events {
            let (name, state) = events.next().unwrap();
            assert_eq!(name, "state", "{kind}");
            text_fits("changes-state", &state.to_string());
        }
        fleet.change(0);
        let changed: Vec<(String, Value)> = events.iter_mut().map(|events| events.next().unwrap()).collect();
        text_fits("changes-changed", &changed[0].1.to_string());
        for served in [&writer, &reader] {
            answers(served, &before);
        }
        // Warm and settled: everything from memory.
        for served in [&writer, &reader] {
            until("all tiles are cached", || {
                answers(served, &before).values().all(|(_, cache)| cache.ends_with("; hit"))
            });
        }
        let warm = fleet.fresh();
        fleet.change(1);
        let now: Vec<(String, Value)> = events.iter_mut().map(|events| events.next().unwrap()).collect();
        let after = fleet.fresh();
        let differs = |(tile, bytes): &(&(u8, u32, u32), &Vec<u8>)| warm.get(*tile) != Some(*bytes);
        let expected: Vec<String> =
            after.iter().filter(differs).map(|((zoom, x, y), _)| format!("{zoom}/{x}/{y}")).collect();
        assert!((6..12).contains(&expected.len()), "{kind}: {expected:?}");
        for ((name, event), (_, first)) in now.iter().zip(&changed) {
            let tiles = event["tiles"].as_str().unwrap_or_else(|| panic!("{kind}: {event}"));
            assert_eq!(tiles.split(' ').count(), expected.len(), "{kind}: {tiles}");
            assert!(
                name == "changed" && expected.iter().all(|tile| tiles.split(' ').any(|one| one == tile)),
                "{kind}: {tiles}"
            );
            assert_eq!(event["publication"].as_u64(), first["publication"].as_u64().map(|number| number + 1), "{kind}");
        }
        for served in [&writer, &reader] {
            let found = answers(served, &after);
            let told: BTreeMap<String, Vec<u8>> =
                found.iter().map(|(path, (body, _))| (path.clone(), body.clone())).collect();
            assert!(told == bodies(&after), "{kind}");
            let missed = found.iter().filter(|(_, (_, cache))| !cache.ends_with("; hit")).count();
            assert!((expected.len()..expected.len() + 3).contains(&missed), "{kind}: {missed} of {}", found.len());
        }
        let about = status_of(&writer);
        assert_eq!(
            (&about["writer"]["published"], &about["writer"]["failure"]),
            (&2.into(), &Value::Null),
            "{kind}: {about}"
        );
        assert_eq!(about["writer"]["lag_seconds"], 0.0, "{about}");
        assert!(writer.admin("/metrics").1.contains("\noar_tiles_generation_lag_seconds{} 0.0\n"));
        assert!(reader.admin("/metrics").1.contains("\noar_tiles_generation_lag_seconds{} -1.0\n"));
        // A server that has published sends nothing older from then on, also before it would have polled.
        fleet.change(2);
        until("it is published", || status_of(&writer)["writer"]["published"] == 3);
        let at_once = answers(&writer, &after);
        let wanted = bodies(&fleet.fresh());
        for (path, (body, _)) in &at_once {
            assert!(
                *body == wanted.get(path).cloned().unwrap_or_default(),
                "{kind}: {path} is older than what is published"
            );
        }
        assert_eq!(writer.ends_after("-TERM"), Some(143), "{kind}: its subscribers do not hold it up");
    }
}

#[test]
fn of_two_writers_one_writes_and_the_other_takes_over_when_it_is_killed_or_paused() {
    for kind in ["t.mbtiles", "s3:tiles/"] {
        let fleet = Fleet::new();
        fleet.seeded(kind);
        let all = fleet.fresh();
        let mut servers = vec![fleet.writer(kind, "--writer=auto"), fleet.writer(kind, "--writer=auto")];
        let roles = |servers: &[Served]| servers.iter().map(role).collect::<Vec<_>>();
        until("one writes and one stands by", || {
            let mut roles = roles(&servers);
            roles.sort();
            roles == ["standby", "writing"]
        });
        let same = |served: &Served, wanted: &Tiles| {
            let told = answers(served, wanted);
            told.iter().map(|(path, (body, _))| (path.clone(), body.clone())).eq(bodies(wanted))
        };
        // Paused for longer than its lease: the other takes over, and it finds out when it wakes.
        let paused = roles(&servers).iter().position(|role| role == "writing").unwrap();
        signal(&servers[paused].child, "STOP");
        fleet.change(0);
        let other = 1 - paused;
        until("the other writes", || role(&servers[other]) == "writing");
        let wanted = fleet.fresh();
        until("the other shows the change", || same(&servers[other], &wanted));
        signal(&servers[paused].child, "CONT");
        until("the paused one stands by", || role(&servers[paused]) == "standby");
        fleet.change(1);
        let wanted = fleet.fresh();
        for served in &servers {
            until("both show the next change", || same(served, &wanted));
        }
        assert_eq!(status_of(&servers[paused])["writer"]["published"], 0, "{kind}");
        // Killed, with a change that it has not seen.
        let mut killed = servers.remove(other);
        killed.child.kill().unwrap();
        killed.child.wait().unwrap();
        fleet.change(2);
        let wanted = fleet.fresh();
        until("nothing is lost", || same(&servers[0], &wanted));
        assert_eq!(role(&servers[0]), "writing", "{kind}");
        assert_eq!(all.len(), wanted.len());
        // Given back at its end, the lease is free at once.
        assert_eq!(servers.remove(0).ends_after("-TERM"), Some(143));
    }
}

#[test]
fn who_was_told_to_write_waits_for_another_writer_and_says_so() {
    let fleet = Fleet::new();
    fleet.seeded("t.mbtiles");
    let first = fleet.writer("t.mbtiles", "--writer");
    until("it writes", || role(&first) == "writing");
    let second = fleet.writer("t.mbtiles", "--writer=always");
    until("it waits", || role(&second) == "standby");
    let about = status_of(&second);
    let failure = about["writer"]["failure"].as_str().unwrap();
    assert!(failure.contains("another server writes") && failure.contains("This one serves"), "{about}");
    assert!(about["writer"]["held_by"].as_str().unwrap().contains("process"), "{about}");
    let (ready, notes) = second.admin("/readyz");
    assert!(ready == 200 && !notes.contains("the writer could not"), "it serves: {notes}");
    let wanted = fleet.fresh();
    let told = answers(&second, &wanted);
    assert!(told.iter().map(|(path, (body, _))| (path.clone(), body.clone())).eq(bodies(&wanted)));
    assert_eq!(first.ends_after("-TERM"), Some(143));
    until("it writes and has nothing to complain of", || {
        let about = status_of(&second);
        (about["writer"]["role"].as_str(), &about["writer"]["failure"]) == (Some("writing"), &Value::Null)
    });
}

#[test]
fn a_writer_that_cannot_write_says_why_in_the_log_and_the_status() {
    let fleet = Fleet::new();
    fleet.seeded("t.mbtiles");
    let lease = format!("{}.oar-tiles/writer.json", fleet.places.place(".t.mbtiles"));
    std::fs::create_dir_all(&lease).unwrap();
    let mut command = fleet.writer_command("t.mbtiles");
    let said = Served::saying(command.stderr(std::process::Stdio::piped()), |served| {
        until("it says why", || {
            let failure = status_of(served)["writer"]["failure"].clone();
            failure.as_str().is_some_and(|why| why.contains("writer.json") && why.contains("s a directory"))
        });
    });
    assert_eq!(said.matches("writer.json").count(), 1, "{said}");
}

#[test]
fn what_a_writer_refuses_to_publish_is_in_its_status_until_it_is_published() {
    let fleet = Fleet::new();
    fleet.seeded("t.mbtiles");
    let mut command = fleet.writer_command("t.mbtiles");
    let served = Served::of(command.env("OAR_TILES_MAX_SHRINK", "50%"));
    until("it writes", || role(&served) == "writing");
    let rows = "SELECT * FROM api_facility WHERE id > (SELECT min(id) FROM api_facility)";
    fleet.db.run(&format!("CREATE TABLE gone AS {rows}; DELETE FROM api_facility WHERE id IN (SELECT id FROM gone)"));
    let failure = || status_of(&served)["writer"]["failure"].clone();
    until("it says why", || failure().as_str().is_some_and(|why| why.contains("would lose")));
    let (ready, notes) = served.admin("/readyz");
    let note = "the writer could not bring its target up to date, and tries again: ";
    assert!(ready == 200 && notes.contains(note) && notes.contains("would lose"), "{ready} {notes}");
    fleet.db.run("INSERT INTO api_facility SELECT * FROM gone");
    until("it has nothing to complain of", || failure().is_null());
    assert!(!served.admin("/readyz").1.contains("the writer could not"));
}

#[test]
fn a_watch_from_a_shell_beside_a_writer_does_no_harm() {
    for kind in ["t.mbtiles", "s3:tiles/"] {
        let fleet = Fleet::new();
        fleet.seeded(kind);
        let served = fleet.writer(kind, "--writer");
        until("it writes", || role(&served) == "writing");
        let mut command = program();
        command.args(["reseed", "--watch", "--progress", "none", "--config", &fleet.places.config]);
        command.args(["--database-url", &fleet.db.url, "--output", &fleet.places.place(kind)]);
        let mut watch = fleet.places.with_keys(&mut command).stdout(std::process::Stdio::null()).start();
        for round in 0..4 {
            fleet.change(round);
        }
        let wanted = fleet.fresh();
        until("all changes are there", || {
            let told = answers(&served, &wanted);
            told.iter().map(|(path, (body, _))| (path.clone(), body.clone())).eq(bodies(&wanted))
        });
        assert!(watch.try_wait().unwrap().is_none(), "{kind}: the watch goes on");
        until("the writer has nothing to complain of", || status_of(&served)["writer"]["failure"].is_null());
        watch.kill().unwrap();
        watch.wait().unwrap();
        assert!(fleet.places.read_by_others_or_copy(kind) == wanted, "{kind}");
    }
}

/// The most looks at the page until an edit shows, each with a request to the server and a pause of 20 ms: two seconds
/// on a quiet machine, more where everything takes longer.
const MAX_LOOKS: u32 = 90;

#[test]
fn an_edit_is_on_the_map_without_a_reload_though_browsers_may_keep_tiles_for_a_day() {
    let mut browser = Browser::new();
    // The second one counts rows from the south.
    for (kind, template, tile) in [("t.mbtiles", "", "2/2/1.pbf"), ("tiles/", "{z}-{x}/{-y}.pbf", "2-2/2.pbf")] {
        let fleet = Fleet::configured(|config| match template {
            "" => config.to_owned(),
            _ => format!("{config}[target]\ntemplate = \"{template}\"\n"),
        });
        fleet.seeded(kind);
        let arguments = ["--writer", "--database-url", &fleet.db.url, "--preview"];
        let served = Served::at(&fleet.places, kind, &arguments);
        until("it writes", || role(&served) == "writing");
        browser.open(&format!("{}#2/23.7/90.4", served.url));
        browser.value_once_there("window.shownMap?.areTilesLoaded() && shownMap.queryRenderedFeatures().some((f) => f.layer.metadata?.layer === 'facilities') || null");
        until("the page is subscribed", || status_of(&served)["subscribers"] == 1);
        browser.value("window.isTheSamePage = true");
        // The browser does keep tiles: it asks for this one once.
        let kept = format!(
            "(async () => {{ for (const _ of [0, 1]) await (await fetch('{}{tile}')).arrayBuffer(); return performance.getEntriesByType('resource').filter((one) => one.name.endsWith('{tile}')).at(-1).transferSize; }})()",
            served.url
        );
        assert_eq!(browser.value(&kept), 0, "{kind}");
        for round in 0..3 {
            let shown = format!(
                "shownMap.querySourceFeatures('tiles0', {{ sourceLayer: 'facilities' }}).some((f) => f.properties.name === 'edited {round}')"
            );
            fleet.db.run(&format!("UPDATE api_facility SET name = 'edited {round}'"));
            let mut looks = 0;
            while browser.value(&shown) != true {
                looks += 1;
                assert!(looks <= MAX_LOOKS, "{kind} {round}: the edit does not show");
                assert_eq!(status_of(&served)["subscribers"], 1);
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            println!("{kind}: edit {round} shows after {looks} looks");
        }
        assert_eq!(browser.value("window.isTheSamePage"), true, "{kind}: it was not loaded again");
        // What the edits have brought has flashed.
        browser.value_once_there("Number(document.body.dataset.flashed) > 0 || null");
        assert_eq!(browser.value("document.getElementById('message').value"), "", "{kind}");
        // The page would report the end of its server.
        browser.open("about:blank");
    }
}

#[test]
fn changes_are_told_only_where_that_is_wanted() {
    let db = Db::with_facilities(20);
    let places = Places::new();
    places.seed(&db, "t.mbtiles", &["--zoom", "0-1"]).ok();
    let served = Served::at(&places, "t.mbtiles", &[]);
    assert_eq!(status(&served.get("/changes", "")), 404);
}
