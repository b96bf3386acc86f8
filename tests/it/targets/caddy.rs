//! A directory served by Caddy with `examples/Caddyfile`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use crate::support::nginx::{Answer, ask};
use crate::support::process::{Process, Start as _};
use crate::support::{Db, Tree, repository, until};

/// Caddy, stopped with the value.
struct Caddy {
    _child: Process,
    port: u16,
    _home: tempfile::TempDir,
}

impl Caddy {
    fn before(tree: &Tree) -> Caddy {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let home = tempfile::tempdir().unwrap();
        let example = fs::read_to_string(repository("examples/Caddyfile")).unwrap();
        let (address, root) =
            (format!("http://127.0.0.1:{port}, http://localhost:{port}"), tree.path.display().to_string());
        let config =
            [("tiles.example.org", &address), ("/srv/tiles", &root)].into_iter().fold(example, |text, (from, to)| {
                assert!(text.contains(from), "{from}");
                text.replace(from, to)
            });
        let file = home.path().join("Caddyfile");
        fs::write(&file, config).unwrap();
        let mut caddy = Command::new("caddy");
        caddy.env("HOME", home.path()).args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
        let child = caddy.stderr(Stdio::null()).start();
        until("Caddy listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Caddy { _child: child, port, _home: home }
    }

    fn get(&self, path: &str, headers: &str) -> Answer {
        ask(self.port, "GET", path, headers)
    }
}

#[test]
fn caddy_serves_a_directory_as_the_example_says() {
    let db = Db::with_facilities(200);
    let tree = Tree::new();
    tree.seed(&db.url, &["--zoom", "0-4"]);
    let caddy = Caddy::before(&tree);
    let tile = caddy.get("/0/0/0.pbf", "Accept-Encoding: gzip\r\n");
    assert!(tile.head.starts_with("HTTP/1.1 200 "), "{}", tile.head);
    assert_eq!(tile.header("content-type"), Some("application/vnd.mapbox-vector-tile"));
    assert_eq!(tile.header("content-encoding"), Some("gzip"));
    assert_eq!(tile.header("cache-control"), Some("public, max-age=86400, stale-while-revalidate=604800"));
    assert_eq!(tile.header("access-control-allow-origin"), Some("*"));
    assert!(tile.body == fs::read(tree.path.join("0/0/0.pbf")).unwrap(), "the file as it is");
    let known = format!("If-None-Match: {}\r\n", tile.header("etag").unwrap());
    assert!(caddy.get("/0/0/0.pbf", &known).head.starts_with("HTTP/1.1 304 "));
    // Somewhere in the Pacific.
    let empty = caddy.get("/4/0/15.pbf", "");
    assert!(empty.head.starts_with("HTTP/1.1 204 ") && empty.body.is_empty(), "{}", empty.head);
    assert_eq!((empty.header("content-encoding"), empty.header("access-control-allow-origin")), (None, Some("*")));
    assert_eq!(empty.header("cache-control"), Some("public, max-age=86400, stale-while-revalidate=604800"));
    let described = caddy.get("/tiles.json", "");
    assert_eq!(
        (described.header("content-type"), described.header("content-encoding")),
        (Some("application/json"), None)
    );
    assert!(described.body == fs::read(tree.path.join("tiles.json")).unwrap());
    for hidden in ["/.oar-tiles/lock", "/.oar-tiles/begun.json", "/.oar-tiles/"] {
        assert!(caddy.get(hidden, "").head.starts_with("HTTP/1.1 404 "), "{hidden}");
    }
    db.run("UPDATE api_facility SET name = name || ' and more'");
    tree.seed(&db.url, &["--zoom", "0-4"]);
    assert!(caddy.get("/0/0/0.pbf", &known).head.starts_with("HTTP/1.1 200 "));
}
