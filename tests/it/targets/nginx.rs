//! A directory served by nginx with the manual's own lines.

use std::fs;

use crate::support::archive::unpacked;
use crate::support::nginx::Nginx;
use crate::support::{Db, Tree};

#[test]
fn nginx_serves_a_directory_with_the_lines_of_the_manual() {
    let db = Db::with_facilities(300);
    let tree = Tree::new();
    tree.seed(&db.url, &["--zoom", "0-5"]);
    let nginx = Nginx::with_the_manuals_lines(&tree);
    let stored = fs::read(tree.path.join("0/0/0.pbf")).unwrap();
    let tile = nginx.get("/tiles/0/0/0.pbf", "Accept-Encoding: gzip\r\n");
    assert!(tile.head.starts_with("HTTP/1.1 200 "), "{}", tile.head);
    assert_eq!(tile.header("content-encoding"), Some("gzip"));
    assert_eq!(tile.header("content-type"), Some("application/vnd.mapbox-vector-tile"));
    assert_eq!(tile.header("cache-control"), Some("public, max-age=86400, stale-while-revalidate=604800"));
    assert_eq!(tile.header("access-control-allow-origin"), Some("*"));
    assert!(tile.body == stored, "the file as it is");
    assert_eq!(unpacked(&tile.body)[0], 0x1a);

    let tag = tile.header("etag").unwrap().to_owned();
    let known = format!("If-None-Match: {tag}\r\n");
    let again = nginx.get("/tiles/0/0/0.pbf", &known);
    assert!(again.head.starts_with("HTTP/1.1 304 ") && again.body.is_empty(), "{}", again.head);
    // An unchanged seed keeps what clients have cached good; a change does not.
    tree.seed(&db.url, &["--zoom", "0-5"]);
    assert!(nginx.get("/tiles/0/0/0.pbf", &known).head.starts_with("HTTP/1.1 304 "));
    db.run("UPDATE api_facility SET name = name || ' and more'");
    tree.seed(&db.url, &["--zoom", "0-5"]);
    assert!(nginx.get("/tiles/0/0/0.pbf", &known).head.starts_with("HTTP/1.1 200 "));

    // Somewhere in the Pacific.
    let empty = nginx.get("/tiles/5/0/31.pbf", "");
    assert!(empty.head.starts_with("HTTP/1.1 204 ") && empty.body.is_empty(), "{}", empty.head);
    assert_eq!((empty.header("content-encoding"), empty.header("access-control-allow-origin")), (None, Some("*")));
    let described = nginx.get("/tiles/tiles.json", "");
    assert_eq!(
        (described.header("content-type"), described.header("content-encoding")),
        (Some("application/json"), None)
    );
    assert!(described.body == fs::read(tree.path.join("tiles.json")).unwrap());
    for hidden in ["/tiles/.oar-tiles/lock", "/tiles/.oar-tiles/begun.json"] {
        let answer = nginx.get(hidden, "");
        assert!(answer.head.starts_with("HTTP/1.1 404 "), "{hidden}: {}", answer.head);
    }
}
