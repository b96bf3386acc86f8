//! The addresses of tiles in TileJSON: absolute where somebody said where clients find the target, and a warning where
//! nobody did.

use crate::support::places::Places;
use crate::support::program::{Run, program, run};
use crate::support::{Db, Tree, seed};

/// What is said of a target whose TileJSON gives relative addresses.
fn warning(place: &str, address: &str) -> String {
    format!(
        "warning: the TileJSON of {place} gives the address of its tiles as {address}, and MapLibre shows an empty map then: TileJSON wants whole addresses. Say where clients find {place} with --public-url https://… (public_url in [target]; once is enough), or set public_url = \"relative\" if no map reads the TileJSON\n"
    )
}

const URL: &str = "https://tiles.example.org/facilities";

#[test]
fn a_directory_and_a_bucket_say_where_their_tiles_are_or_warn() {
    let (db, places) = (Db::with_facilities(50), Places::new());
    let tracked = ["track", "install", "--database-url", &db.url];
    run(program().args(tracked)).ok();
    let config = std::fs::read_to_string(&places.config).unwrap();
    for name in ["tiles/", "s3:tiles/"] {
        let place = places.place(name);
        let address = || {
            let text = if name.starts_with("s3:") {
                places.prefix.objects()["tiles/tiles.json"].clone()
            } else {
                std::fs::read(std::path::Path::new(&place).join("tiles.json")).unwrap()
            };
            let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
            json["tiles"][0].as_str().unwrap().to_owned()
        };
        let warned = warning(&place, "{z}/{x}/{y}.pbf");
        for arguments in [&[][..], &["-q"]] {
            let done = places.seed(&db, name, &[&["--zoom", "0-2"], arguments].concat()).ok();
            assert_eq!(done.stderr, warned);
            assert_eq!(address(), "{z}/{x}/{y}.pbf");
        }
        let done = places.seed(&db, name, &["--zoom", "0-2", "--public-url", &format!("{URL}/")]).ok();
        assert_eq!((done.stderr.as_str(), address()), ("", format!("{URL}/{{z}}/{{x}}/{{y}}.pbf")));
        // It was said once: later runs of every kind know it.
        let done = places.seed(&db, name, &["--zoom", "0-3"]).ok();
        assert_eq!((done.stderr.as_str(), address()), ("", format!("{URL}/{{z}}/{{x}}/{{y}}.pbf")));
        db.run("UPDATE api_facility SET name = name || '!'");
        let reseed = ["--output", &place, "--database-url", &db.url, "--progress", "none"];
        let done = places.run("reseed", &reseed).ok();
        assert_eq!((done.stderr.as_str(), address()), ("", format!("{URL}/{{z}}/{{x}}/{{y}}.pbf")));
        // Another one is told though no tile has changed.
        let other = format!("{config}[target]\npublic_url = \"https://other.example.org\"\n");
        std::fs::write(&places.config, other).unwrap();
        let before = places.read_by_others(name);
        assert!(places.run("reseed", &[&reseed[..], &["--dry-run"]].concat()).ok().stdout.starts_with("nothing to do"));
        assert_eq!(address(), format!("{URL}/{{z}}/{{x}}/{{y}}.pbf"));
        places.run("reseed", &reseed).ok();
        assert_eq!(address(), "https://other.example.org/{z}/{x}/{y}.pbf");
        assert!(places.run("reseed", &reseed).ok().stdout.starts_with("nothing to do"));
        assert!(places.read_by_others(name) == before);
        // Another address, and none on purpose, take its place.
        std::fs::write(&places.config, format!("{config}[target]\npublic_url = \"http://[::1]:8080\"\n")).unwrap();
        places.seed(&db, name, &["--zoom", "0-3"]).ok();
        assert_eq!(address(), "http://[::1]:8080/{z}/{x}/{y}.pbf");
        let done = places.seed(&db, name, &["--zoom", "0-3", "--public-url", "relative"]).ok();
        assert_eq!((done.stderr.as_str(), address()), ("", "{z}/{x}/{y}.pbf".to_owned()));
        std::fs::write(&places.config, &config).unwrap();
        let done = places.seed(&db, name, &["--zoom", "0-3"]).ok();
        assert_eq!((done.stderr.as_str(), address()), ("", "{z}/{x}/{y}.pbf".to_owned()));
    }
}

#[test]
fn a_copy_warns_as_well_and_an_archive_has_no_addresses() {
    let (db, places) = (Db::with_facilities(50), Places::new());
    assert_eq!(places.seed(&db, "t.mbtiles", &["--zoom", "0-2"]).ok().stderr, "");
    assert_eq!(places.seed(&db, "s3:t.pmtiles", &["--zoom", "0-2"]).ok().stderr, "");
    let (source, target) = (places.place("t.mbtiles"), places.place("tiles/"));
    let copied = places.run("copy", &[&source, &target]).ok();
    assert_eq!(copied.stderr, warning(&target, "{z}/{x}/{y}.pbf"));
    assert_eq!(places.run("copy", &[&source, &target, "--public-url", URL]).ok().stderr, "");
    // The address belongs to the target that it was given for.
    let other = places.place("other/");
    assert_eq!(places.run("copy", &[&target, &other]).ok().stderr, warning(&other, "{z}/{x}/{y}.pbf"));
}

#[test]
fn versions_keep_the_address_that_was_given_once() {
    let (db, tree) = (Db::with_facilities(50), Tree::new());
    let config = tree.config("[target]\ntemplate = \"{version}/{z}/{x}/{y}.pbf\"\npublish = \"versioned\"\n");
    let seeded = |arguments: &[&str]| -> Run {
        let arguments = [&["--zoom", "0-1", "--config", &config], arguments].concat();
        seed(&db.url, &tree.path, &arguments).ok()
    };
    let warned = warning(tree.path.to_str().unwrap(), "{version}/{z}/{x}/{y}.pbf");
    assert_eq!(seeded(&[]).stderr, warned);
    assert_eq!(seeded(&["--public-url", URL]).stderr, "");
    assert_eq!(seeded(&[]).stderr, "");
    let address = tree.json("tiles.json")["tiles"][0].as_str().unwrap().to_owned();
    let shown = tree.json("latest.json")["version"].as_str().unwrap().to_owned();
    assert_eq!(address, format!("{URL}/{shown}/{{z}}/{{x}}/{{y}}.pbf"));
}
