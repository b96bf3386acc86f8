//! nginx with the manual's own lines, and a page with a map beside the tiles.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Tree, manual, until};

/// nginx, stopped with the value.
pub(crate) struct Nginx {
    child: Child,
    pub port: u16,
    _prefix: tempfile::TempDir,
}

/// Pages beside the tiles.
const PAGES: &str = "location /pages/ { types { text/html html; text/css css; text/javascript mjs; } }";

/// An answer: its first line and headers in lower case, and its body.
pub(crate) struct Answer {
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::trim))
    }
}

impl Nginx {
    /// Serves the tree's folder with the block of the manual.
    pub(crate) fn with_the_manuals_lines(tree: &Tree) -> Nginx {
        let text = manual::text();
        let block = text.split("```nginx\n").nth(1).unwrap().split("```").next().unwrap();
        fs::set_permissions(tree.beside(""), fs::Permissions::from_mode(0o755)).unwrap();
        Nginx::with("", &format!("root {};\n{block}\n{PAGES}", tree.beside("").display()))
    }

    /// nginx with something before its server, and something in it.
    fn with(before: &str, block: &str) -> Nginx {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let prefix = tempfile::tempdir().unwrap();
        // As root, nginx's workers are another account and have to pass through.
        fs::set_permissions(prefix.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let below = |name: &str| prefix.path().join(name).display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {};\n", below(name)))
            .collect();
        let config = format!(
            "daemon off;\nworker_processes 1;\npid {};\nerror_log {};\nevents {{ }}\nhttp {{\naccess_log off;\n{temporary}\
             {before}\nserver {{\nlisten 127.0.0.1:{port};\n{block}\n}}\n}}\n",
            below("pid"),
            below("log"),
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

    pub(crate) fn get(&self, path: &str, headers: &str) -> Answer {
        ask(self.port, "GET", path, headers)
    }
}

/// nginx before some servers on Unix sockets, as an operator sets it up: a server that refuses a connection is passed over.
pub(crate) struct Balancer(Nginx);

impl std::ops::Deref for Balancer {
    type Target = Nginx;

    fn deref(&self) -> &Nginx {
        &self.0
    }
}

impl Balancer {
    /// Balances over the sockets.
    pub(crate) fn of(sockets: &[std::path::PathBuf]) -> Balancer {
        let servers: String =
            sockets.iter().map(|socket| format!("server unix:{} max_fails=0;\n", socket.display())).collect();
        let before = format!("upstream tiles {{\n{servers}keepalive 8;\n}}");
        let block = "location / { proxy_pass http://tiles; proxy_http_version 1.1; proxy_set_header Connection \"\"; }";
        // The sockets' folder is for one account alone, unless it is opened.
        for folder in sockets.iter().filter_map(|socket| socket.parent()) {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Balancer(Nginx::with(&before, block))
    }
}

/// Sends one request to a server of this machine and reads the answer to its end. `headers` are whole lines.
pub(crate) fn ask(port: u16, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").unwrap();
    read_answer(stream)
}

/// Reads an answer until the server closes the connection.
pub(crate) fn read_answer(mut stream: TcpStream) -> Answer {
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

/// Puts a page with a map below `pages` in the tree's folder; gives its name. It shows the points of a layer of the TileJSON that `?` names,
/// and says what it shows in `shown`, once everything is loaded, and in `errors`.
pub(crate) fn page_with_a_map(tree: &Tree, layer: &str) -> &'static str {
    let folder = tree.beside("pages");
    fs::create_dir(&folder).unwrap();
    let installed = std::env::var("TEST_MAPLIBRE").expect("scripts/test installs MapLibre");
    for name in ["maplibre-gl.mjs", "maplibre-gl-shared.mjs", "maplibre-gl-worker.mjs", "maplibre-gl.css"] {
        fs::copy(Path::new(&installed).join(name), folder.join(name)).unwrap();
    }
    let page = include_str!("map.html").replace("LAYER", layer);
    fs::write(folder.join("map.html"), page).unwrap();
    for entry in fs::read_dir(&folder).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    "/pages/map.html"
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
