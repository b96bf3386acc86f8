//! A directory served by nginx with the manual's own lines.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use super::support::archive::unpacked;
use super::support::{Db, Tree, manual, until};

/// nginx, stopped with the value.
struct Nginx {
    child: Child,
    port: u16,
    _prefix: tempfile::TempDir,
}

/// An answer: its first line and headers in lower case, and its body.
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim))
    }
}

impl Nginx {
    /// Serves the tree's folder with the block of the manual.
    fn with_the_manuals_lines(tree: &Tree) -> Nginx {
        let text = manual::text();
        let block = text.split("```nginx\n").nth(1).unwrap().split("```").next().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let prefix = tempfile::tempdir().unwrap();
        // As root, nginx's workers are another account and have to pass through.
        for folder in [prefix.path(), &tree.beside("")] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let below = |name: &str| prefix.path().join(name).display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {};\n", below(name)))
            .collect();
        let config = format!(
            "daemon off;\nworker_processes 1;\npid {};\nerror_log {};\nevents {{ }}\nhttp {{\naccess_log off;\n{temporary}\
             server {{\nlisten 127.0.0.1:{port};\nroot {};\n{block}\n}}\n}}\n",
            below("pid"),
            below("log"),
            tree.beside("").display()
        );
        fs::write(prefix.path().join("nginx.conf"), config).unwrap();
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
        // Where Debian puts it, which is on the path of root alone.
        let installed = std::path::Path::new("/usr/sbin/nginx");
        let child = Command::new(if installed.exists() { installed } else { "nginx".as_ref() })
            .env("PATH", path)
            .args(["-p", &below(""), "-e", &below("log"), "-c", &below("nginx.conf")])
            .stderr(Stdio::inherit())
            .spawn()
            .expect("nginx is installed by scripts/test");
        let nginx = Nginx { child, port, _prefix: prefix };
        until("nginx listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        nginx
    }

    fn get(&self, path: &str, headers: &str) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let end = all.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
        let lines = String::from_utf8(all[..end].to_vec()).unwrap();
        let lower = |line: &str| match line.split_once(": ") {
            Some((name, value)) => format!("{}: {value}\n", name.to_lowercase()),
            None => format!("{line}\n"),
        };
        Answer { head: lines.lines().map(lower).collect(), body: all[end + 4..].to_vec() }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with the master when it is asked to.
        let asked = Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status();
        if !asked.is_ok_and(|asked| asked.success()) || self.child.wait().is_err() {
            eprintln!("nginx {} is left behind", self.child.id());
        }
    }
}

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
