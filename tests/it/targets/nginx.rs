//! A directory served by nginx with the manual's own lines.

use std::fs;

use crate::support::archive::unpacked;
use crate::support::nginx::{Nginx, ask};
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
    assert_eq!(empty.header("cache-control"), tile.header("cache-control"));
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

#[test]
fn nginx_lets_clients_keep_the_tiles_of_a_version_and_asks_which_is_shown() {
    let (db, tree) = (Db::with_facilities(100), Tree::new());
    let config = tree.config(
        "[tileset]\nzoom = \"0-5\"\n[target]\ntemplate = \"{version}/{z}/{x}/{y}.pbf\"\npublish = \"versioned\"\nkeep_versions = 0\nkeep_for = \"0s\"",
    );
    let shown = || {
        tree.seed(&db.url, &["--config", &config]);
        tree.json("latest.json")["version"].as_str().unwrap().to_owned()
    };
    let first = shown();
    let nginx = Nginx::with_the_manuals_block(&tree, 1);
    let kept = Some("public, max-age=31536000, immutable");
    let tile = nginx.get(&format!("/tiles/{first}/0/0/0.pbf"), "");
    assert!(tile.head.starts_with("HTTP/1.1 200 "), "{}", tile.head);
    assert_eq!((tile.header("cache-control"), tile.header("content-encoding")), (kept, Some("gzip")));
    assert!(tile.body == fs::read(tree.path.join(format!("{first}/0/0/0.pbf"))).unwrap());
    let empty = nginx.get(&format!("/tiles/{first}/5/0/31.pbf"), "");
    assert!(empty.head.starts_with("HTTP/1.1 204 "), "{}", empty.head);
    assert_eq!((empty.header("cache-control"), empty.header("access-control-allow-origin")), (kept, Some("*")));
    for name in ["tiles.json", "latest.json"] {
        assert_eq!(nginx.get(&format!("/tiles/{name}"), "").header("cache-control"), Some("no-cache"), "{name}");
    }
    db.run("UPDATE api_facility SET name = name || '!'");
    assert_ne!(shown(), first);
    for tile in ["0/0/0", "5/0/31"] {
        let gone = nginx.get(&format!("/tiles/{first}/{tile}.pbf"), "");
        assert!(gone.head.starts_with("HTTP/1.1 404 ") && gone.header("cache-control").is_none(), "{}", gone.head);
    }
}

#[test]
fn nginx_sends_parts_of_an_archive() {
    let (db, tree) = (Db::with_facilities(100), Tree::new());
    let archive = tree.beside("t.pmtiles");
    let make = || crate::support::seed(&db.url, &archive, &["--zoom", "0-5"]).ok();
    make();
    let nginx = Nginx::with_the_manuals_block(&tree, 2);
    let header = || nginx.get("/t.pmtiles", "Range: bytes=0-126\r\nAccept-Encoding: gzip\r\n");
    let part = header();
    assert!(part.head.starts_with("HTTP/1.1 206 "), "{}", part.head);
    assert!(part.body == fs::read(&archive).unwrap()[..127]);
    for (name, value) in [
        ("content-type", Some("application/vnd.pmtiles")),
        ("content-encoding", None),
        ("cache-control", Some("public, max-age=60")),
        ("access-control-allow-origin", Some("*")),
    ] {
        assert_eq!(part.header(name), value, "{name}");
    }
    assert!(part.header("access-control-expose-headers").unwrap().contains("ETag"));
    let may = ask(nginx.port, "OPTIONS", "/t.pmtiles", "Origin: http://example.org\r\n");
    assert!(may.head.starts_with("HTTP/1.1 204 "), "{}", may.head);
    assert!(may.header("access-control-allow-headers").unwrap().contains("Range"));
    db.run("DELETE FROM api_facility WHERE id IN (SELECT id FROM api_facility LIMIT 5)");
    make();
    let other = header();
    assert!(part.header("etag").is_some() && other.header("etag") != part.header("etag"), "{}", other.head);
}
