//! What is told when tiles come by other ways than a run: by a copy, by a switch to another version.

use super::told::{ONE, ToldPlaces};

#[test]
fn a_copy_into_the_configured_target_is_told_and_one_to_elsewhere_is_not() {
    let told = ToldPlaces::new("tiles/", "");
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
    let told = ToldPlaces::with("tiles/", "settle = \"0s\"", |config| {
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
