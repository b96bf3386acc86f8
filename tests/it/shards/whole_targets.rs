//! Shards that are whole targets: variants, and several tilesets of one configuration. Each target is what a seed of it makes, whoever writes between
//! the shards and the commit.

use super::divided::{COUNTRIES, Divided, LAYER, are_fresh, tiles};
use super::helpers::{without_times, write};
use crate::support::places::Places;
use crate::support::program::{program, run};
use crate::support::tracked::{Tracked, differences};

#[test]
fn variants_are_byte_for_byte_those_of_a_seed_of_the_family_however_they_are_divided() {
    let tracked = Tracked::facilities(300);
    let single = Divided::countries(&tracked, "single", ".mbtiles");
    single.whole("seed").ok();
    for shards in [1, 4] {
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
            if shard == 3 {
                // Every tile of the first shard, and what no later shard has to tell.
                tracked.db.run("UPDATE api_facility SET name = name || ' & Sons'");
            }
        }
        let seeded = divided.variants();
        assert!(seeded.iter().any(|name| name.starts_with("a1")), "{seeded:?}");
        let gone = seeded.last().unwrap();
        let country = gone.trim_end_matches(".pmtiles");
        tracked.db.run(&format!(
            "UPDATE api_facility SET country_code = 'ZZ' WHERE lower(country_code) = '{country}';
             UPDATE api_facility SET country_code = 'B1' WHERE id IN (SELECT id FROM api_facility WHERE country_code = 'BD' ORDER BY id LIMIT 4)"
        ));
        let committed = divided.verb("commit", &[]).ok();
        let is_named = committed.stdout.contains(&format!("/{country}{ending}: still there"));
        assert!(is_named && committed.stdout.contains(", 1 seeded, "), "{}", committed.stdout);
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
fn variants_of_points_and_of_lines_in_versions_of_prefixes_are_divided_as_well() {
    let (tracked, places) = (Tracked::facilities(60), Places::new());
    tracked.db.run(
        "CREATE TABLE way (id int PRIMARY KEY, country text, geom geometry(LineString, 4326));
         INSERT INTO way SELECT n, (ARRAY['aa', 'bb', 'cc'])[1 + n % 3], ST_SetSRID(ST_MakeLine(
             ST_MakePoint(n * 7 % 340 - 170, n % 120 - 60), ST_MakePoint((n * 7 + 13) % 340 - 170, n % 100 - 50)), 4326)
         FROM generate_series(1, 30) n",
    );
    // The settings of S3 are those of other tests.
    let s3 = std::fs::read_to_string(&places.config).unwrap();
    let s3 = &s3[s3.find("[s3]").unwrap()..];
    let text = |beginning: &str, ending: &str, more: &str| {
        format!(
            "[[layer]]\n{LAYER}[[layer]]\nname = \"ways\"\ntable = \"way\"\ngeometry = \"geom\"\nkey = [\"id\"]\n\
             [tileset_defaults]\nzoom = \"0-3\"\n\
             [[tileset]]\nname = \"points\"\nlayers = [\"facilities\"]\n[tileset.variants]\nvalues = \"{COUNTRIES}\"\n\
             where = {{ facilities = \"lower(country_code) = !country!\" }}\noutput = \"{beginning}points-{{country}}{ending}\"\n\
             [[tileset]]\nname = \"lines\"\nlayers = [\"ways\"]\n[tileset.variants]\nvalues = \"SELECT DISTINCT country FROM way\"\n\
             where = {{ ways = \"country = !country!\" }}\noutput = \"{beginning}lines-{{country}}{ending}\"\n{more}"
        )
    };
    let versioned = "[target]\ntemplate = \"{version}/{z}/{x}/{y}.pbf\"\npublish = \"versioned\"\n";
    let bucket = places.place("s3:t/");
    let mut divided = Divided::with(&tracked, "divided", &text(&bucket, "/", &(versioned.to_owned() + s3)));
    let keys = &places.prefix.keys;
    divided.variables = [("AWS_ACCESS_KEY_ID", &keys.key), ("AWS_SECRET_ACCESS_KEY", &keys.secret)]
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .to_vec();
    divided.begin(3);
    for shard in 1..=3 {
        divided.run(shard).ok();
        write(&tracked.db, &mut fastrand::Rng::with_seed(shard.into()));
        tracked.db.run("UPDATE way SET geom = ST_Translate(geom, 1, 1) WHERE id % 5 = 0");
    }
    divided.verb("commit", &[]).ok();
    let single = Divided::with(&tracked, "single", &text("FOLDER/by/", ".mbtiles", ""));
    single.whole("seed").ok();
    let names = single.variants();
    for beginning in ["lines-", "points-"] {
        assert!(names.iter().filter(|name| name.starts_with(beginning)).count() > 1, "{names:?}");
    }
    for name in names {
        let (prefix, copy) = (name.replace(".mbtiles", "/"), divided.folder.join(&name));
        let mut copied = program();
        copied.args(["copy", "--config", &divided.config, &format!("{bucket}{prefix}")]).arg(&copy);
        run(places.with_keys(&mut copied)).ok();
        assert_eq!(differences(&tiles(&copy), &tiles(&single.folder.join("by").join(&name))).len(), 0, "{name}");
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
