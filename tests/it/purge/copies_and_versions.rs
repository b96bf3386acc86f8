//! What is told when tiles come by other ways than a run: by a copy, by a switch to another version.

use super::delivery::{ONE, PurgedPlaces};
use crate::support::killed::is_killed_at;
use crate::support::program::run;

#[test]
fn a_copy_into_the_configured_target_is_told_and_one_to_elsewhere_is_not() {
    let told = PurgedPlaces::new("tiles/", "");
    told.verb("seed", &[]).ok();
    let (other, tiles) = (told.places.place("other.mbtiles"), told.places.place("tiles/"));
    told.db.run(&format!("UPDATE api_facility SET name = 'copied' WHERE {ONE}"));
    told.verb("seed", &["--output", &other]).ok();
    told.told();
    told.verb("copy", &["--force", &other, &tiles]).ok();
    let lines = told.told();
    assert!(lines == ["https://tiles.test/*"] || lines.len() == 4, "{lines:?}");
    assert_eq!(told.status()[0]["tiles"], 0);
    told.verb("copy", &["--force", &tiles, &told.places.place("elsewhere.mbtiles")]).ok();
    assert!(told.told().is_empty(), "no CDN stands before a copy");
}

#[test]
fn a_switch_to_another_version_purges_the_documents_that_lead_to_it() {
    let told = PurgedPlaces::with("tiles/", "settle = \"0s\"", |config| {
        config.replace("[target]\n", "[target]\ntemplate = \"{version}/{z}/{x}/{y}.pbf\"\npublish = \"versioned\"\n")
    });
    let documents = ["latest.json", "metadata.json", "tiles.json"].map(|name| format!("https://tiles.test/{name}"));
    told.verb("seed", &[]).ok();
    assert_eq!(told.told(), documents);
    told.db.run(&format!("UPDATE api_facility SET name = 'newer' WHERE {ONE}"));
    told.verb("seed", &[]).ok();
    assert_eq!(told.told(), documents);
    let versions = told.verb("publish", &[]).ok().stdout;
    let first = versions.lines().find(|line| !line.starts_with("shown")).unwrap().split_whitespace().next().unwrap();
    assert!(told.told().is_empty(), "to look is no switch");
    told.verb("publish", &["--to", first]).ok();
    assert_eq!(told.told(), documents);
    // The CDN is away: what leads to the version waits like everything else.
    told.end_with("exit 75");
    told.verb(
        "publish",
        &["--to", versions.lines().find(|line| line.starts_with("shown")).unwrap().split_whitespace().nth(1).unwrap()],
    )
    .ok();
    told.end_with("exit 0");
    told.told();
    told.verb("purge", &[]).ok();
    assert_eq!(told.told(), documents);
    told.verb("publish", &["--rollback"]).ok();
    assert_eq!(told.told(), documents);
}

/// Each layer that is kept apart has a TileJSON of its own, which names the version.
#[test]
fn the_documents_of_layers_that_are_kept_apart_are_purged() {
    let told = PurgedPlaces::with("tiles/", "settle = \"0s\"", |config| {
        config.replace(
            "[target]\n",
            "[target]\ntemplate = \"{version}/{layer}/{z}/{x}/{y}.pbf\"\npublish = \"versioned\"\n",
        )
    });
    told.verb("seed", &[]).ok();
    let documents: Vec<String> = told.told();
    let of_layers: Vec<String> = std::fs::read_dir(told.places.place("tiles/"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".tiles.json"))
        .collect();
    assert_eq!(of_layers.len(), 1, "{of_layers:?}");
    let mut expected: Vec<String> = ["latest.json", "metadata.json", &of_layers[0]].map(str::to_owned).to_vec();
    expected.sort();
    let expected: Vec<String> = expected.iter().map(|name| format!("https://tiles.test/{name}")).collect();
    assert_eq!(documents, expected);
    told.db.run(&format!("UPDATE api_facility SET name = 'newer' WHERE {ONE}"));
    told.verb("seed", &[]).ok();
    assert_eq!(told.told(), expected);
    told.verb("publish", &["--rollback"]).ok();
    assert_eq!(told.told(), expected);
}

/// What `[target]` says of the names of tiles counts for other tilesets of the file, and not for an archive: a server
/// gives its tiles the usual addresses.
#[test]
fn tiles_of_an_archive_are_purged_by_their_usual_addresses() {
    let told = PurgedPlaces::with("t.mbtiles", "settle = \"0s\"", |config| {
        config
            .replace("[target]\n", "[target]\ntemplate = \"{version}/{layer}/{z}-{x}-{y}\"\npublish = \"versioned\"\n")
    });
    told.verb("seed", &[]).ok();
    told.told();
    let (_, changed) = told.change(ONE);
    let told = told.told();
    assert!(
        told.len() >= 4 && told.iter().all(|url| url.starts_with("https://tiles.test/") && url.ends_with(".pbf")),
        "{told:?}"
    );
    assert_eq!(told, changed);
}

/// Of a commit that is killed at some of its file operations, too: it is run again, and what it has published is told.
#[test]
fn a_commit_of_shards_tells_what_it_changed_whenever_it_is_killed() {
    for kind in ["tiles/", "t.mbtiles"] {
        let told = PurgedPlaces::new(kind, "");
        told.verb("seed", &[]).ok();
        let work = told.places.place("work/");
        let command = |verb: &str, more: &[&str]| {
            let mut command = told.command("shards", &[&[verb, "--work", &work], more].concat());
            command.args(["--database-url", &told.db.url]);
            command
        };
        let (mut step, mut cached) = (1, told.places.read_by_others(kind));
        loop {
            told.told();
            told.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE {ONE}"));
            run(&mut command("begin", &["--shards", "1"])).ok();
            run(&mut command("run", &["--shard", "1"])).ok();
            let is_killed = is_killed_at(step, &command("commit", &[]));
            if is_killed {
                let again = run(&mut command("commit", &[]));
                assert!(again.code == 0 || again.stderr.contains("holds no run"), "{}", again.stderr);
                told.verb("purge", &[]).ok();
            }
            let (now, heard) = (told.places.read_by_others(kind), told.told());
            let changed = now.iter().filter(|(tile, body)| cached.get(*tile) != Some(body));
            let changed: Vec<String> =
                changed.map(|((z, x, y), _)| format!("https://tiles.test/{z}/{x}/{y}.pbf")).collect();
            assert_eq!(changed.len(), 4, "{kind}, killed at {step}: one tile a zoom");
            let is_everything = heard.contains(&"https://tiles.test/*".to_owned());
            let missed: Vec<&String> = changed.iter().filter(|tile| !heard.contains(tile)).collect();
            assert!(missed.is_empty() || is_everything, "{kind}, killed at {step}: {missed:?} of {heard:?}");
            if !is_killed {
                assert_eq!(heard.len(), 4, "{kind}: exactly what changed");
                break;
            }
            cached = now;
            step += 2 + step / 2;
        }
        assert!(step > 4, "{kind}: it came to step {step}");
    }
}
