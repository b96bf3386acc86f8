//! What a visitor sees: MapLibre in a browser, with tiles from nginx and from a bucket that is open to everybody.

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::nginx::{Nginx, page_with_a_map};
use crate::support::places::Places;
use crate::support::s3::Prefix;
use crate::support::{Db, Tree, manual};

/// What the map of a TileJSON shows: how many features, and which errors it met.
#[track_caller]
fn shown(browser: &mut Browser, nginx: &Nginx, page: &str, tilejson: &str) -> (Value, Value) {
    browser.open(&format!("http://127.0.0.1:{}{page}?{tilejson}", nginx.port));
    let shown = browser.value_once_there("window.shown ?? (window.errors?.length ? -1 : null)");
    (shown, browser.value("window.errors"))
}

#[test]
fn a_map_shows_the_features_where_addresses_are_whole_and_nothing_where_they_are_not() {
    let db = Db::with_facilities(300);
    let tree = Tree::new();
    let page = page_with_a_map(&tree, "facilities");
    let nginx = Nginx::with_the_manuals_lines(&tree);
    let mut browser = Browser::new();
    let tiles = format!("http://127.0.0.1:{}/tiles", nginx.port);
    // Why there is a warning: not even an error tells the visitor.
    let warned = tree.seeded(&db.url, &["--zoom", "0-2"]).2;
    assert!(warned.stderr.contains("MapLibre shows an empty map then"), "{}", warned.stderr);
    assert_eq!(shown(&mut browser, &nginx, page, &format!("{tiles}/tiles.json")), (json!(0), json!([])));
    tree.seed(&db.url, &["--zoom", "0-2", "--public-url", &tiles]);
    assert_eq!(shown(&mut browser, &nginx, page, &format!("{tiles}/tiles.json")), (json!(300), json!([])));

    // A bucket that visitors read, with the policy and the rule of the manual.
    let mut prefix = Prefix::new();
    prefix.location.bucket = "oar-tiles-public".to_owned();
    let places = Places::with(prefix);
    let (prefix, bucket) = (&places.prefix, "oar-tiles-public");
    let create = prefix.client.create_bucket().bucket(bucket);
    prefix.runtime.block_on(create.send()).unwrap();
    let url = format!("{}/{bucket}/{}tiles", prefix.endpoint, prefix.location.prefix);
    places.seed(&db, "s3:tiles/", &["--zoom", "0-2", "--public-url", &url]).ok();
    let blocks = manual::blocks("json");
    let has = |text: &str| blocks.iter().find(|block| block.contains(text)).unwrap();
    let (policy, cors) = (has("tiles.example.org/facilities/"), has("AllowedOrigins"));
    let names = policy.matches("tiles.example.org/facilities/").count();
    let policy = policy.replace("tiles.example.org/facilities/", &format!("{bucket}/{}tiles/", prefix.location.prefix));
    assert_eq!(names, 2, "{policy}");
    let put = prefix.client.put_bucket_policy().bucket(bucket).policy(policy);
    prefix.runtime.block_on(put.send()).unwrap();
    let rule: Value = serde_json::from_str(cors).unwrap();
    assert_eq!(rule, json!([{ "AllowedMethods": ["GET"], "AllowedOrigins": ["*"] }]));
    assert_eq!(shown(&mut browser, &nginx, page, &format!("{url}/tiles.json")), (json!(300), json!([])));
    // The program's own notes are for nobody.
    let status = |browser: &mut Browser, name: &str| {
        browser.value(&format!("fetch(\"{name}\").then((answer) => answer.status)"))
    };
    assert_eq!(status(&mut browser, &format!("{url}/metadata.json")), 200);
    assert_eq!(status(&mut browser, &format!("{url}/.oar-tiles/lease.json")), 403);
    assert_eq!(status(&mut browser, &format!("{tiles}/.oar-tiles/begun.json")), 404);
}
