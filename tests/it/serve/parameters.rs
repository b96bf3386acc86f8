//! Live parameters: the bytes of a seed with the same condition, one key however they are written, bounds, and nothing
//! that reaches SQL as text.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::support::archive::{Address, Archive};
use crate::support::browser::Browser;
use crate::support::folder::Folder;
use crate::support::nginx::Answer;
use crate::support::program::{program, run, seed};
use crate::support::redis::Redis;
use crate::support::served::{GZIP, Served, status};
use crate::support::{Db, repository, until};

const LAYER: &str =
    "[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\ngeometry = \"location\"\nkey = [\"id\"]
[layer.properties]\nid = \"id\"\nname = \"name\"\ncountry_code = \"country_code\"\n";

const CONTRIBUTORS: &str = "CREATE TABLE facility_contributor (facility_id varchar, contributor_id bigint);
    INSERT INTO facility_contributor SELECT id, 1 + ascii(right(id, 1)) % 4 FROM api_facility;
    INSERT INTO facility_contributor SELECT id, 9 FROM api_facility WHERE right(id, 1) < '4'";

/// A database, and the registry's example with a target of zooms 0 and 1 of all facilities.
struct World {
    db: Db,
    folder: Folder,
}

impl World {
    fn new() -> World {
        let world = World { db: Db::with_facilities(400), folder: Folder::new() };
        world.db.run(CONTRIBUTORS);
        world
    }

    fn path(&self, name: &str) -> String {
        self.folder.beside(name).to_str().unwrap().to_owned()
    }

    /// Serves the example with more lines behind it.
    fn served(&self, more: &str, arguments: &[&str]) -> Served {
        let example = std::fs::read_to_string(repository("examples/registry-filters.toml")).unwrap();
        let (config, target) = (self.path("c.toml"), self.path("t.mbtiles"));
        std::fs::write(&config, format!("{example}{more}")).unwrap();
        if !Path::new(&target).exists() {
            seed(&self.db.url, Path::new(&target), &["--config", &config, "--zoom", "0-1"]).ok();
        }
        let own = ["--config", &config, "--live", "--database-url", &self.db.url];
        Served::new(&target, &[&own[..], arguments].concat())
    }

    /// The tiles that a seed with a condition stores.
    fn seeded(&self, condition: &str) -> BTreeMap<Address, Vec<u8>> {
        let (config, target) = (self.path("s.toml"), self.path("s.mbtiles"));
        let layer = LAYER.replace("[layer.properties]", &format!("where = \"{condition}\"\n[layer.properties]"));
        std::fs::write(&config, layer).unwrap();
        seed(&self.db.url, Path::new(&target), &["--config", &config, "--zoom", "0-3"]).ok();
        Archive::open(Path::new(&target)).stored()
    }

    /// The two countries with the most facilities.
    fn countries(&self) -> [String; 2] {
        let rows = self.db.rows("SELECT country_code FROM api_facility GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 2");
        [0, 1].map(|row| rows[row].get(0))
    }
}

fn all_tiles() -> impl Iterator<Item = Address> {
    (0..=3_u8).flat_map(|z| (0..1_u32 << z).flat_map(move |x| (0..1_u32 << z).map(move |y| (z, x, y))))
}

fn error_of(answer: &Answer) -> String {
    let error: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    error["error"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn tiles_with_parameters_have_the_bytes_of_a_seed_with_the_same_condition() {
    let world = World::new();
    let [first, second] = world.countries();
    let served = world.served("", &[]);
    let whole = world.seeded("true");
    for (query, condition) in [
        (format!("country={first}&country={second}"), format!("country_code IN ('{first}', '{second}')")),
        ("contributor=9".to_owned(), "right(id, 1) < '4'".to_owned()),
        (format!("name=A&country={first}"), format!("name ILIKE 'a%' AND country_code = '{first}'")),
        ("box=0,0,120,60".to_owned(), "location && ST_MakeEnvelope(0, 0, 120, 60, 4326)".to_owned()),
        ("country=ZZ".to_owned(), "false".to_owned()),
    ] {
        let stored = if condition == "false" { BTreeMap::new() } else { world.seeded(&condition) };
        assert!(stored != whole);
        for (zoom, x, y) in all_tiles() {
            let path = format!("/{zoom}/{x}/{y}.pbf?{query}");
            let answer = served.get(&path, GZIP);
            match stored.get(&(zoom, x, y)) {
                Some(bytes) => assert!(status(&answer) == 200 && answer.body == *bytes, "{path} {}", answer.head),
                None => assert_eq!(status(&answer), 204, "{path}"),
            }
        }
    }
    // Without parameters, the stored tile; with empty ones, too.
    for query in ["", "?", "?country=", "?v=7"] {
        let answer = served.get(&format!("/1/1/0.pbf{query}"), GZIP);
        assert!(answer.body == whole[&(1, 1, 0)], "{query}");
    }
}

#[test]
fn one_set_of_values_is_rendered_once_and_shared_once_however_it_is_written() {
    let world = World::new();
    let redis = Redis::start("hunter2", &[]);
    let secret = world.path("redis");
    std::fs::write(&secret, redis.url()).unwrap();
    let signatures = world.path("signatures");
    std::fs::write(&signatures, "0123456789abcdef0123456789abcdef").unwrap();
    let redis_files = format!("redis_url_file = {secret:?}\nredis_secret_file = {signatures:?}\n");
    let lines = format!("[serve]\n{redis_files}live_ttl = \"10m\"\n");
    let [first, second] = world.countries();
    let served = world.served(&lines, &[]);
    let asked = format!("/1/1/0.pbf?country={first}&country={second}");
    let rendered = served.get(&asked, GZIP);
    assert_eq!(rendered.header("cache-status"), Some("oar-tiles; fwd=uri-miss; stored"));
    let lower = second.to_lowercase();
    let (a, b) = first.split_at(1);
    let written = [
        format!("/1/1/0.pbf?country={second}&country={first}"),
        format!("/1/1/0.pbf?x=1&country={lower}&country={first}&country={lower}"),
        format!("/1/1/0.pbf?%63ountry=%{:02x}{b}&country={second}&country=", a.as_bytes()[0]),
    ];
    for path in &written {
        let answer = served.get(path, GZIP);
        assert_eq!(answer.header("cache-status"), Some("oar-tiles; hit"), "{path}");
        assert!(answer.body == rendered.body && answer.header("etag") == rendered.header("etag"));
    }
    until("it is in Redis", || redis.ask(&[b"DBSIZE"]) == b"1");
    // On a busy machine Redis may be asked in vain.
    until("another server has it", || {
        let shared = world.served(&lines, &[]).get(&written[1], GZIP);
        assert!(shared.body == rendered.body);
        shared.header("cache-status") == Some("oar-tiles; hit; detail=redis")
    });
    assert_eq!(redis.ask(&[b"DBSIZE"]), b"1");
}

#[test]
fn what_does_not_fit_is_refused_and_what_looks_like_sql_is_a_value() {
    let world = World::new();
    world.db.run("INSERT INTO api_facility VALUES ('ODD', E'o''dd\\\\\"; DROP TABLE api_facility; --{}', 'x', 'BD', ST_SetSRID(ST_MakePoint(100, 10), 4326), false, now(), now())");
    let served = world.served("", &[]);
    let found = served.get("/1/1/0.pbf?name=o%27dd%5C%22%3B+DROP+TABLE+api_facility%3B+--%7B%7D", GZIP);
    assert_eq!(status(&found), 200, "{}", found.head);
    for query in [
        "name='",
        "name=%27%20OR%20true",
        "name=%7B%22a%22%2C%22b%22%7D",
        "name=%25",
        "name=_",
        "name=$1",
        "name=%5C",
        "name=NULL",
        "name=o%2527",
    ] {
        let answer = served.get(&format!("/1/1/0.pbf?{query}"), GZIP);
        assert_eq!(status(&answer), 204, "{query} {}", answer.head);
    }
    assert_eq!(world.db.value::<i64>("SELECT count(*) FROM api_facility"), 401);
    let long = format!("name={}", "x".repeat(51));
    let huge = format!("name={}", "x".repeat(9_000));
    let many: String =
        (0..51).map(|n| format!("country={}{}&", (b'A' + n / 26) as char, (b'A' + n % 26) as char)).collect();
    for (query, expected) in [
        ("country=B'", "parameter country: a value does not match the pattern"),
        ("country=BGD", "does not match the pattern"),
        ("contributor=1;SELECT", "parameter contributor: a value is no whole number"),
        ("contributor=0", "is less than 1"),
        ("contributor=9223372036854775808", "is no whole number"),
        ("contributor=1.0", "is no whole number"),
        ("name=a&name=b", "more than 1 different values"),
        ("name=%00", "has control characters"),
        ("name=%C3", "is no UTF-8"),
        (&long, "has more than 50 characters"),
        (&huge, "the query has more than 8192 bytes"),
        (&many, "more than 50 different values"),
        ("box=1,2,3", "parameter box: a value is no box"),
        ("box=NaN,0,1,1", "is no box"),
        ("box=inf,0,1,1", "is no box"),
    ] {
        let answer = served.get(&format!("/1/1/0.pbf?{query}"), GZIP);
        assert_eq!(status(&answer), 400, "{query}");
        assert!(error_of(&answer).contains(expected), "{query}: {}", error_of(&answer));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let strict = world.served("[serve]\nundeclared_parameters = \"refuse\"\n", &[]);
    assert_eq!(status(&strict.get("/1/1/0.pbf?country=BD", GZIP)), 200);
    let refused = strict.get("/1/1/0.pbf?contry=BD", GZIP);
    assert_eq!(status(&refused), 400);
    assert_eq!(error_of(&refused), "the tileset takes the parameters contributor, country, name, box");
}

#[test]
fn made_up_values_are_turned_away_before_they_fill_the_caches() {
    let world = World::new();
    let served = world.served("[serve]\nparameter_keys = 5\n", &[]);
    let ask = |name: &str| served.get(&format!("/1/1/0.pbf?name={name}"), GZIP);
    for number in 0..5 {
        assert_eq!(status(&ask(&format!("x{number}"))), 204);
    }
    let refused = ask("x5");
    assert_eq!((status(&refused), refused.header("cache-control")), (429, Some("no-store")));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    // What is known, other tiles of it, and tiles without parameters are answered.
    assert_eq!(status(&served.get("/2/3/1.pbf?name=x0", GZIP)), 204);
    assert_eq!(status(&served.get("/1/1/0.pbf", GZIP)), 200);
}

#[test]
fn a_change_shows_in_tiles_with_parameters_too() {
    let world = World::new();
    let config = world.path("c.toml");
    drop(world.served("", &[]));
    let install = ["track", "install", "--config", &config, "--database-url", &world.db.url];
    run(program().args(install)).ok();
    seed(&world.db.url, Path::new(&world.path("t.mbtiles")), &["--config", &config, "--zoom", "0-1"]).ok();
    // Only the log can tell within this time.
    let served = world.served("[serve]\nlive_ttl = \"1h\"\n", &[]);
    until("the log is followed", || served.admin("/status.json").1.contains("\"followed\":true"));
    let path = "/3/6/3.pbf?name=changed";
    assert_eq!(status(&served.get(path, GZIP)), 204);
    world.db.run("UPDATE api_facility SET name = 'Changed', location = ST_SetSRID(ST_MakePoint(100, 10), 4326) WHERE id = (SELECT min(id) FROM api_facility)");
    until("the change shows", || status(&served.get(path, GZIP)) == 200);
}

#[test]
fn tilejson_lists_the_parameters_and_passes_their_values_on() {
    let world = World::new();
    let served = world.served("", &["--preview"]);
    let document = |query: &str| -> Value { served.json(&format!("/tiles.json{query}")) };
    let all = document("");
    assert_eq!(all["parameters"][1]["name"], "country");
    assert_eq!(all["parameters"][1]["type"], "text[]");
    assert_eq!(all["parameters"][0]["min"], 1.0);
    assert_eq!(all["tiles"][0], format!("{}{{z}}/{{x}}/{{y}}.pbf", served.url));
    let some = document("?country=in&x=1&country=BD&name=a%20b");
    assert_eq!(some["tiles"][0], format!("{}{{z}}/{{x}}/{{y}}.pbf?country=BD&country=IN&name=a%20b", served.url));
    assert_eq!(status(&served.get("/tiles.json?contributor=x", "")), 400);
}

#[test]
fn what_is_typed_into_the_preview_changes_the_tiles_that_it_asks_for() {
    let world = World::new();
    let served = world.served("", &["--preview"]);
    let mut browser = Browser::new();
    browser.open(&format!("{}#2/23.7/90.4", served.url));
    let drawn = "window.shownMap?.areTilesLoaded() && shownMap.queryRenderedFeatures().some((f) => f.layer.metadata?.layer) || null";
    browser.value_once_there(drawn);
    assert_eq!(browser.value("document.getElementById('parameters').hidden"), false);
    let typed = |name: &str, text: &str| {
        format!(
            "(() => {{ const input = document.getElementById('parameter-{name}'); input.value = {}; input.dispatchEvent(new Event('change')); return true; }})()",
            serde_json::json!(text)
        )
    };
    let asked = |query: &str| {
        format!(
            "performance.getEntriesByType('resource').some((one) => one.name.endsWith({})) || null",
            serde_json::json!(format!(".pbf?{query}"))
        )
    };
    let [first, second] = world.countries();
    // The values of a facet are offered with the number of rows that have each.
    let of_country = |country: &str| -> i64 {
        world.db.value(&format!("SELECT count(*) FROM api_facility WHERE country_code = '{country}'"))
    };
    let offered = "document.querySelector('#values-country option')?.label ?? null";
    assert_eq!(browser.value_once_there(offered), format!("{first} ({})", of_country(&first)));
    browser.value(&typed("country", &format!("{first}, {second}")));
    let chosen = "document.getElementById('chosen').textContent || null";
    let expected = format!(": {} chosen", of_country(&first) + of_country(&second));
    assert_eq!(browser.value_once_there(chosen), expected);
    browser.value_once_there(&asked(&format!("country={first}&country={second}")));
    // What is drawn is of these countries alone.
    let of_others = |countries: &[&str]| {
        format!(
            "window.shownMap?.areTilesLoaded() && shownMap.queryRenderedFeatures().filter((f) => f.properties.country_code).every((f) => {}.includes(f.properties.country_code)) || null",
            serde_json::json!(countries)
        )
    };
    browser.value_once_there(&of_others(&[&first, &second]));
    browser.value(&typed("country", ""));
    browser.value(&typed("name", "a & b?#=%"));
    browser.value_once_there(&asked("name=a+%26+b%3F%23%3D%25"));
    browser.value(&typed("name", ""));
    browser.value_once_there(drawn);
    assert_eq!(browser.take_errors(), Vec::<String>::new());
    browser.open("about:blank");
}

#[test]
fn a_slow_tile_is_logged_with_its_plan() {
    let world = World::new();
    let config_lines = "[serve]\nexplain_after = \"0s\"\n";
    let log = world.folder.beside("log");
    drop(world.served(config_lines, &[]));
    let mut command = program();
    command.args(["serve", &world.path("t.mbtiles"), "--config", &world.path("c.toml"), "--live"]);
    command.args(["--database-url", &world.db.url, "--listen", "127.0.0.1:0", "--drain", "0s"]);
    command.stderr(std::fs::File::create(&log).unwrap());
    let served = Served::of(&mut command);
    assert_eq!(status(&served.get("/2/3/1.pbf?country=BD", GZIP)), 200);
    let logged = || std::fs::read_to_string(&log).unwrap();
    until("the plan is logged", || logged().contains("the plan of layer \"facilities\""));
    assert!(
        logged().contains("tile 2/3/1 took longer than 0s") && logged().contains("current_setting"),
        "{}",
        logged()
    );
}

#[test]
fn a_function_gets_the_values_in_its_object() {
    let world = World::new();
    world.db.run(
        "CREATE FUNCTION places(z int, x int, y int, query json) RETURNS bytea LANGUAGE sql STABLE AS $$
            SELECT ST_AsMVT(t, 'places') FROM (
                SELECT ST_AsMVTGeom(ST_Transform(location, 3857), ST_TileEnvelope(z, x, y)) AS geom, id, query::text AS query FROM api_facility
                WHERE country_code IN (SELECT json_array_elements_text(query->'country')) ORDER BY id) AS t WHERE geom IS NOT NULL $$",
    );
    let config = world.folder.config(
        "[tileset]\nname = \"f\"\nzoom = \"0\"\n[[tileset.parameter]]\nname = \"country\"\ntype = \"text[]\"
[[layer]]\nname = \"places\"\nfunction = \"places\"\nquery = { country = [\"ZZ\"], fixed = 1 }\nzoom = \"0-4\"\n",
    );
    let target = world.path("f.mbtiles");
    seed(&world.db.url, Path::new(&target), &["--config", &config]).ok();
    let served = Served::new(&target, &["--config", &config, "--live", "--database-url", &world.db.url]);
    assert_eq!(status(&served.get("/1/1/0.pbf", "")), 204);
    let [first, second] = world.countries();
    let answer = served.get(&format!("/1/1/0.pbf?country={second}&country={first}"), "");
    let mut both = [first, second];
    both.sort();
    let rows = world
        .db
        .rows(&format!("SELECT places(1, 1, 0, '{{\"country\":[\"{}\",\"{}\"],\"fixed\":1}}')", both[0], both[1]));
    assert!(status(&answer) == 200 && answer.body == rows[0].get::<_, Vec<u8>>(0), "{}", answer.head);
}

#[test]
fn conditions_that_cannot_be_used_are_refused_before_the_first_request() {
    let world = World::new();
    drop(world.served("", &[]));
    let example = std::fs::read_to_string(world.path("c.toml")).unwrap();
    for (from, to, texts) in [
        (
            "starts_with(lower(name), !name!)",
            "starts_with(lower(nme), !name!)",
            &["layer \"facilities\"", "column \"nme\" does not exist"][..],
        ),
        ("starts_with(lower(name), !name!)", "true", &["tileset.parameter", "[name].where does not contain !name!"]),
        ("name = \"country\"", "name = \"Country\"", &["[Country] is no name"]),
        ("name = \"country\"", "name = \"name\"", &["has two called \"name\""]),
        ("pattern = \"[A-Z]{2}\"", "pattern = \"[A-Z\"", &["[country].pattern is no pattern"]),
        ("min = 1", "pattern = \"1\"", &["[contributor].pattern has no meaning for the type integer"]),
        (
            "where = { facilities = \"ST_Inter",
            "where = { lakes = \"ST_Inter",
            &["[box].where names the layer \"lakes\", which is not there"],
        ),
    ] {
        let config = world.folder.beside("wrong.toml");
        assert!(example.contains(from), "{from}");
        std::fs::write(&config, example.replacen(from, to, 1)).unwrap();
        let mut command = program();
        command.args([
            "serve",
            &world.path("t.mbtiles"),
            "--live",
            "--listen",
            "127.0.0.1:0",
            "--database-url",
            &world.db.url,
        ]);
        run(command.arg("--config").arg(&config)).fails(2, texts);
    }
}

#[test]
fn what_the_database_does_not_take_is_the_clients_fault_and_no_warning() {
    let world = World::new();
    let config = world.path("v.toml");
    // Where a tile may be left out whose rows cannot be drawn, too.
    let layer = LAYER.replace("[layer.properties]", "on_tile_error = \"skip\"\n[layer.properties]");
    let text = format!(
        "{layer}\n[serve]\nlive = true
[[tileset.parameter]]\nname = \"length\"\ntype = \"integer\"\nwhere = {{ facilities = \"length(name) = (!length!)::int2\" }}
[[tileset.parameter]]\nname = \"like\"\ntype = \"text\"\nwhere = {{ facilities = \"name ~ !like!\" }}\n"
    );
    std::fs::write(&config, text).unwrap();
    let target = world.path("v.mbtiles");
    seed(&world.db.url, Path::new(&target), &["--config", &config, "--zoom", "0"]).ok();
    let mut command = program();
    command.args(["serve", &target, "--config", &config, "--database-url", &world.db.url]);
    command.args(["--listen", "127.0.0.1:0", "--drain", "0s"]).stderr(std::process::Stdio::piped());
    let said = Served::saying(&mut command, |served| {
        for query in ["length=70000", "like=(", "like=a%7B9%7D%7B9", "length=70000", "like=%5B"] {
            let answer = served.get(&format!("/1/1/0.pbf?{query}"), GZIP);
            assert_eq!(status(&answer), 400, "{query}: {}", answer.head);
            assert_eq!(error_of(&answer), "the database does not take a value of the parameters", "{query}");
        }
        assert_eq!(status(&served.get("/1/1/0.pbf?like=.", GZIP)), 200);
        // What is wrong with the table is not the client's fault.
        world.db.run("ALTER TABLE api_facility RENAME COLUMN country_code TO code");
        let answer = served.get("/1/1/0.pbf?like=a", GZIP);
        assert_eq!(status(&answer), 503, "{}", answer.head);
    });
    assert!(
        !said.contains("does not take") && !said.contains("70000") && !said.contains("regular expression"),
        "{said}"
    );
    assert!(said.contains("warning"), "{said}");
}

#[test]
fn the_recipe_of_a_search_finds_what_it_says() {
    let recipes = std::fs::read_to_string(repository("docs/recipes.md")).unwrap();
    let recipe = recipes.split("## A search in texts").nth(1).unwrap();
    let block =
        |kind: &str| recipe.split(&format!("```{kind}\n")).nth(1).unwrap().split("```").next().unwrap().to_owned();
    let (db, folder) = (Db::with_facilities(60), Folder::new());
    db.run(&block("sql"));
    db.run(
        "UPDATE api_facility SET name = CASE right(id, 1) WHEN '1' THEN 'Le Café 100%' WHEN '2' THEN 'cafeteria' WHEN '3' THEN '1000' ELSE 'mill' END",
    );
    let (config, target) = (folder.config(&block("toml")), folder.beside("t.mbtiles"));
    seed(&db.url, &target, &["--config", &config, "--zoom", "0"]).ok();
    let served = Served::new(target.to_str().unwrap(), &["--config", &config, "--live", "--database-url", &db.url]);
    let count = |query: &str| {
        let answer = served.get(&format!("/count.json?q={query}"), "");
        serde_json::from_slice::<Value>(&answer.body).unwrap()["layers"]["facilities"]["count"].as_i64().unwrap()
    };
    let of =
        |ends: &str| -> i64 { db.value(&format!("SELECT count(*) FROM api_facility WHERE right(id, 1) IN ({ends})")) };
    for (query, ends) in [("CAF%C3%89", "'1', '2'"), ("100%25", "'1'"), ("100", "'1', '3'"), ("e%20c_f", "''")] {
        assert_eq!(count(query), of(ends), "{query}");
    }
    assert!(count("cafe") > 0);
}
