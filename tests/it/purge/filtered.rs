//! Filtered tiles in a cache: kept as long as others where every later change of them purges their tag, and only there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::nginx::{Answer, ask};
use crate::support::program::{program, run};
use crate::support::served::{GZIP, Served, status};
use crate::support::varnish::{Varnish, purge_token_line};
use crate::support::{Db, until};

/// Filters that go by their row and its columns alone.
const FOLLOWED: [&str; 3] = ["?country=AA", "?country=BB&name=Fa", "?name=edited"];

/// A filter by another table.
const BY_ANOTHER_TABLE: &str = "?listed=x";

const LAYER: &str = r#"
[tileset]
zoom = "0-5"
[serve]
live = true
tag_headers = ["xkey", "Surrogate-Key"]
cache_control = "public, max-age=3600"
[[tileset.parameter]]
name = "country"
type = "text[]"
facet = { facilities = "country_code" }
[[tileset.parameter]]
name = "name"
type = "text"
where = { facilities = "name LIKE !name! || '%'" }
[[tileset.parameter]]
name = "slow"
type = "text"
where = { facilities = "slowly(name, !slow!)" }
[[tileset.parameter]]
name = "listed"
type = "text"
where = { facilities = "id IN (SELECT id FROM lists WHERE list = !listed!)" }
[[tileset.parameter]]
name = "synonym"
type = "text[]"
facet = { facilities = "country_code" }
map = { table = "synonyms", from = "given", to = "meant" }
[[layer]]
name = "facilities"
table = "api_facility"
geometry = "location"
properties = ["id"]
facets = ["country_code"]
"#;

/// A tileset with filters, a server of it, and Varnish before that.
struct World {
    db: Db,
    folder: tempfile::TempDir,
    served: Served,
    cache: Varnish,
}

impl World {
    fn new() -> World {
        let (db, folder) = (Db::with_facilities(400), tempfile::tempdir().unwrap());
        db.run(
            "UPDATE api_facility SET country_code = CASE WHEN right(id, 1) < '8' THEN 'AA' ELSE 'BB' END;
             CREATE FUNCTION slowly(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
                 'BEGIN IF $1 = ''slow'' THEN PERFORM pg_sleep(1.8); END IF; RETURN $1 LIKE $2 || ''%''; END';
             CREATE TABLE lists (id text, list text); INSERT INTO lists SELECT id, 'x' FROM api_facility LIMIT 100;
             CREATE TABLE synonyms (given text, meant text); INSERT INTO synonyms VALUES ('one', 'AA')",
        );
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let write = |purge: &str| std::fs::write(at("c.toml"), format!("{LAYER}{purge}")).unwrap();
        // A server asks only how caches are purged; where they are is for the one who purges.
        write(
            "[[purge]]\nprovider = \"varnish\"\nby = \"tag\"\nurl = \"http://localhost/\"\ncaches = [\"http://127.0.0.1:1\"]\n",
        );
        let arguments = |verb: &str| {
            let mut command = program();
            command.args(verb.split(' ')).args(["--config", &at("c.toml"), "--database-url", &db.url]);
            command
        };
        run(&mut arguments("track install")).ok();
        run(arguments("seed --progress none").args(["--output", &at("t.mbtiles")])).ok();
        let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"];
        let served = Served::of(arguments("serve").args(listen).arg(at("t.mbtiles")));
        let cache = Varnish::edited(served.port, |vcl| {
            let lines = "    if (req.url ~ \"\\?\") {\n        return (pass);\n    }\n";
            assert!(vcl.contains(lines));
            vcl.replace(lines, "")
        });
        write(&format!(
            "[[purge]]\nprovider = \"varnish\"\nby = \"tag\"\nurl = \"http://localhost/\"\nrebound = \"1s\"\ncaches = [\"http://127.0.0.1:{}\"]\n{}",
            cache.port,
            purge_token_line(folder.path())
        ));
        World { db, folder, served, cache }
    }

    fn oar_tiles(&self, verb: &str) {
        let at = |name: &str| self.folder.path().join(name);
        let mut command = program();
        command.args(verb.split(' ')).arg("--config").arg(at("c.toml")).args(["--database-url", &self.db.url]);
        run(command.arg("--output").arg(at("t.mbtiles"))).ok();
    }

    /// Brings the target up to date; what waits for the cache is sent, and once more after a second.
    fn reseed(&self) {
        self.oar_tiles("reseed --progress none");
        std::thread::sleep(Duration::from_millis(2_100));
        let place = self.folder.path().join("t.mbtiles");
        run(program().arg("purge").arg(place).arg("--config").arg(self.folder.path().join("c.toml"))).ok();
    }

    fn through_cache(&self, path: &str) -> Answer {
        ask(self.cache.port, "GET", path, GZIP)
    }

    fn control(&self, path: &str) -> String {
        let answer = self.served.get(path, GZIP);
        assert!(matches!(status(&answer), 200 | 204), "{path}: {}", answer.head);
        answer.header("cache-control").unwrap_or_default().to_owned()
    }

    /// Asks for tiles that nobody has asked for until the server keeps rows and knows what is in the log.
    fn asks_until_long(&self) {
        let mut deeper = (7..13_u8).flat_map(|z| (0..1_u32 << z).map(move |x| (z, x, (1_u32 << z) / 3)));
        let is_long = |of: &&str| self.control(&format!("/1/1/0.pbf{of}")) == "max-age=1, s-maxage=3600";
        until("caches may keep filtered tiles", || {
            for (z, x, y) in deeper.by_ref().take(5) {
                self.served.get(&format!("/{z}/{x}/{y}.pbf"), GZIP);
            }
            let (left, rows) = (deeper.clone().next(), self.served.admin("/status.json").1);
            assert!(left.is_some(), "{}: {rows}", self.control("/1/1/0.pbf?country=AA"));
            FOLLOWED.iter().all(is_long)
        });
    }

    /// The addresses of all filters, with what the server answers itself.
    fn shown(&self) -> BTreeMap<String, Vec<u8>> {
        addresses().map(|path| (path.clone(), self.served.get(&path, GZIP).body)).collect()
    }
}

fn is_hit(answer: &Answer) -> bool {
    answer.header("x-cache").is_some_and(|said| said.eq_ignore_ascii_case("hit"))
}

/// Tiles of zooms 3 and 5 of every filter that goes by its row alone, and those without a filter.
fn addresses() -> impl Iterator<Item = String> {
    let columns = [(3, 0..8), (5, 20..23_u32)].into_iter().flat_map(|(z, xs)| xs.map(move |x| (z, x)));
    let tiles = columns.flat_map(|(z, x)| ((1 << z) / 4..(1_u32 << z) / 2).map(move |y| format!("/{z}/{x}/{y}.pbf")));
    tiles.flat_map(|tile| [""].into_iter().chain(FOLLOWED).map(move |filter| format!("{tile}{filter}")))
}

#[test]
fn a_cache_keeps_filtered_tiles_until_an_edit_that_they_may_show() {
    let world = World::new();
    world.asks_until_long();
    // What no purge reaches: another table, a table of synonyms, a zoom that is not stored, a server's other name for
    // it.
    for short in [
        format!("/1/1/0.pbf{BY_ANOTHER_TABLE}"),
        format!("/1/1/0.pbf?country=AA&{}", &BY_ANOTHER_TABLE[1..]),
        "/1/1/0.pbf?synonym=one".to_owned(),
        "/6/40/24.pbf?country=AA".to_owned(),
        "/1/1/0.pbf?other=1".to_owned(),
        "/1/1/0.pbf?country=AA&other=1".to_owned(),
    ] {
        assert!(world.control(&short).ends_with("max-age=5"), "{short}: {}", world.control(&short));
    }
    pinned_tiles_are_of_the_publication_that_the_address_names(&world);
    an_answer_of_before_a_publication_is_not_kept(&world);
    // The first publication establishes the tags; those after it purge nothing else.
    world.db.run("UPDATE api_facility SET name = name || ' a' WHERE id = (SELECT min(id) FROM api_facility)");
    world.reseed();
    for round in 0..3 {
        let before = world.shown();
        for path in addresses() {
            world.through_cache(&path);
        }
        // Neither the country nor the name is in a tile: without a filter nothing changes.
        let edits = [
            "UPDATE api_facility SET country_code = CASE country_code WHEN 'AA' THEN 'BB' ELSE 'AA' END WHERE id IN (SELECT max(id) FROM api_facility)",
            "UPDATE api_facility SET name = 'edited' WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 2)",
            "UPDATE api_facility SET country_code = 'CC' WHERE country_code = 'AA' AND id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 9)",
        ];
        world.db.run(edits[round]);
        world.reseed();
        let (mut kept, mut changed) = (0, 0);
        for (path, bytes) in world.shown() {
            let answer = world.through_cache(&path);
            assert!(answer.body == bytes, "round {round}: {path} is an old tile in the cache");
            kept += usize::from(is_hit(&answer));
            changed += usize::from(before[&path] != bytes);
            assert!(path.contains('?') || before[&path] == bytes, "{path}");
        }
        assert!(changed > 0 && kept > addresses().count() / 3, "round {round}: {changed} changed, {kept} kept");
    }
}

fn pinned_tiles_are_of_the_publication_that_the_address_names(world: &World) {
    let document = |query: &str| -> serde_json::Value {
        serde_json::from_slice(&world.served.get(&format!("/tiles.json{query}"), "").body).unwrap()
    };
    let shown = document("")["g"].as_str().unwrap().to_owned();
    let template = document(&format!("?g={shown}&country=AA"))["tiles"][0].to_string();
    assert!(template.ends_with(&format!("{{y}}.pbf?country=AA&g={shown}\"")), "{template}");
    let (number, id) = shown.split_once('-').unwrap();
    let tile = |query: &str, publication: &str| format!("/1/1/0.pbf?{query}g={publication}");
    for (path, expected) in [
        (tile("", &shown), "public, max-age=3600"),
        (tile("country=AA&", &shown), "public, max-age=3600"),
        (tile("listed=x&", &shown), "max-age=5"),
        (tile("country=AA&made=up&", &shown), "max-age=5"),
        // Caches would keep something newer under the name of an older publication, or of another target.
        (tile("", &format!("0-{id}")), "max-age=5"),
        (tile("", &format!("{number}-00000000")), "max-age=5"),
        (tile("country=AA&", &format!("{number}-00000000")), "max-age=1, s-maxage=3600"),
        (format!("/6/40/24.pbf?g={shown}"), "max-age=5"),
    ] {
        assert!(world.control(&path).ends_with(expected), "{path}: {}", world.control(&path));
    }
    let later = number.parse::<u64>().unwrap() + 1;
    let early = world.served.get(&tile("country=AA&", &format!("{later}-{id}")), GZIP);
    assert_eq!(
        (status(&early), early.header("cache-control"), early.header("retry-after")),
        (503, Some("no-store"), Some("1"))
    );
    assert!(String::from_utf8_lossy(&early.body).contains("does not show that publication yet"), "{}", early.head);
    assert_eq!(status(&world.served.get("/1/1/0.pbf?g=42", GZIP)), 400);
}

/// Its rendering begins before an edit is published, and ends after the cache was told.
fn an_answer_of_before_a_publication_is_not_kept(world: &World) {
    world.db.run("UPDATE api_facility SET name = 'slow' WHERE id = (SELECT min(id) FROM api_facility)");
    world.oar_tiles("reseed --progress none");
    // Purges wait for longer than the filter takes.
    let (own, plain) = (world.folder.path().join("c.toml"), world.folder.path().join("plain.toml"));
    let text = std::fs::read_to_string(&own).unwrap();
    std::fs::write(&plain, text.split("[[purge]]").next().unwrap()).unwrap();
    let target = world.folder.path().join("t.mbtiles");
    // The times of the publications that ended after the answer.
    let mut early = Vec::new();
    let mut is_late = |round: u32| {
        let path = format!("/1/1/0.pbf?slow=edited{round}");
        let began = Instant::now();
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| (world.served.get(&path, GZIP), began.elapsed()));
            std::thread::sleep(Duration::from_millis(300));
            world.db.run(&format!("UPDATE api_facility SET name = 'edited{round}' WHERE id IN (SELECT id FROM api_facility WHERE ST_X(location) > 20 AND ST_Y(location) > 20 LIMIT 1)"));
            let mut command = program();
            command
                .args(["reseed", "--progress", "none", "--config"])
                .arg(&plain)
                .args(["--database-url", &world.db.url]);
            let publishing = Instant::now();
            run(command.arg("--output").arg(&target)).ok();
            // On a busy machine the answer may come before the publication.
            let is_later = !asking.is_finished();
            if !is_later {
                early.push(publishing.elapsed());
            }
            let (answer, took) = asking.join().unwrap();
            let control = answer.header("cache-control").unwrap_or_default().to_owned();
            assert!(!is_later || control == "no-store", "an answer that took {took:?}: {control}");
            // One that takes longer than servers may show an old state is not kept anyway.
            is_later && took < Duration::from_secs(2)
        })
    };
    let is_seen = (0..8).any(&mut is_late);
    // Where every publication takes nearly as long as the answer, neither can be made to end first.
    let is_slow = early.len() == 8 && early.iter().all(|took| took.as_secs_f64() > 1.2);
    assert!(is_seen || is_slow, "the publications came after the answers: {early:?}");
}
