//! Tags of tiles in a bucket: when they are relied on, and what is purged by address beside them.

use super::delivery::{ONE, PurgedPlaces};

const METADATA: &str = "metadata = { \"cache-tag\" = \"{name},{band}\" }\n";
const BY_TAG: &str = "by = \"tag\"\nsettle = \"0s\"";

/// A target that was seeded before anybody thought of tags.
fn seeded_without_tags() -> PurgedPlaces {
    let told = PurgedPlaces::new("s3:tiles/", "settle = \"0s\"");
    told.verb("seed", &[]).ok();
    told.told();
    told.configure(|config| config.replace("[s3]\n", &format!("[s3]\n{METADATA}")).replace("settle = \"0s\"", BY_TAG));
    told
}

#[test]
fn a_bucket_that_was_seeded_with_tags_is_purged_by_them_once_everything_was_purged() {
    let told = PurgedPlaces::with("s3:tiles/", BY_TAG, |config| config.replace("[s3]\n", &format!("[s3]\n{METADATA}")));
    told.verb("seed", &[]).ok();
    assert_eq!(told.told(), ["https://tiles.test/*"], "what the CDN has cached before may carry no tags");
    told.change(ONE).0.ok();
    assert_eq!(told.told(), ["facilities-0-0-0"]);
    // A tile that comes into being was cached as an error, which carries no tag.
    told.db.run("UPDATE api_facility SET location = ST_SetSRID(ST_MakePoint(-140, -60), 4326) WHERE id = (SELECT max(id) FROM api_facility)");
    let out = told.file("changed.txt");
    told.verb("reseed", &["--changed-out", out.to_str().unwrap()]).ok();
    let lines = told.told();
    assert!(lines.contains(&"facilities-0-0-0".to_owned()), "{lines:?}");
    assert!(lines.contains(&"https://tiles.test/3/0/5.pbf".to_owned()), "{lines:?}");
    assert!(
        !lines.contains(&"https://tiles.test/0/0/0.pbf".to_owned()),
        "what was there before is purged by tag alone: {lines:?}"
    );
}

#[test]
fn tags_of_a_bucket_are_relied_on_after_one_pass_and_one_purge_of_everything() {
    let told = seeded_without_tags();
    let (ran, expected) = told.change(ONE);
    ran.ok();
    assert_eq!(told.told(), expected, "most tiles carry no tags: by address");
    // The CDN is away when the pass has ended: tags are relied on only after everything was purged.
    told.end_with("exit 75");
    let done = told.verb("publish", &["--rewrite-headers"]).ok();
    assert!(done.stdout.contains(" tiles have new headers\n"), "{}", done.stdout);
    let (ran, _) = told.change(ONE);
    ran.ok();
    assert!(told.told().iter().all(|line| line == "https://tiles.test/*"));
    told.end_with("exit 0");
    told.verb("purge", &[]).ok();
    assert_eq!(told.told(), ["https://tiles.test/*"]);
    told.change(ONE).0.ok();
    assert_eq!(told.told(), ["facilities-0-0-0"]);
    // Other tags: they are not relied on until the next pass.
    told.configure(|config| config.replace("{name},{band}", "{band},{name}"));
    let (ran, expected) = told.change(ONE);
    ran.ok();
    assert_eq!(told.told(), expected);
    told.verb("publish", &["--rewrite-headers"]).ok();
    assert_eq!(told.told(), ["https://tiles.test/*"]);
}

#[test]
fn only_a_prefix_in_place_has_headers_to_rewrite() {
    let told = PurgedPlaces::new("tiles/", "");
    told.verb("publish", &["--rewrite-headers"])
        .fails(2, &["only tiles below a prefix of a bucket have headers of their own"]);
}
