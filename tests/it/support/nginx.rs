//! nginx with the manual's own lines, and a page with a map next to the tiles.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::process::{Process, Start as _};
use super::varnish::PURGE_TOKEN;
use super::{Tree, manual, until};

/// nginx, stopped when the value is dropped.
pub(crate) struct Nginx {
    child: Process,
    pub port: u16,
    _prefix: tempfile::TempDir,
}

/// Pages next to the tiles.
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
        Nginx::with_the_manuals_block(tree, 0)
    }

    /// The same with another of the manual's blocks: 1 for versions, 2 for PMTiles.
    pub(crate) fn with_the_manuals_block(tree: &Tree, number: usize) -> Nginx {
        let block = &manual::blocks("nginx")[number];
        fs::set_permissions(tree.beside(""), fs::Permissions::from_mode(0o755)).unwrap();
        Nginx::with("", &format!("root {};\n{block}\n{PAGES}", tree.beside("").display()))
    }

    /// Serves a folder with tiles as the manual describes it, but at the root of the server.
    pub(crate) fn of_folder(folder: &Path) -> Nginx {
        let text = manual::text();
        let block = text.split("```nginx\n").nth(1).unwrap().split("```").next().unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(folder.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        let block = block.replace("location /tiles/ {", "location / {");
        Nginx::with("", &format!("root {};\n{block}", folder.display()))
    }

    /// Serves a folder with pages, scripts and archives.
    pub(crate) fn of_pages(folder: &Path) -> Nginx {
        let types =
            "types { text/html html; text/css css; text/javascript js; } default_type application/octet-stream;";
        Nginx::with("", &format!("root {};\n{types}", folder.display()))
    }

    /// The cache of `examples/nginx-purge.conf` before a server of this machine.
    pub(crate) fn purging(backend: u16) -> Nginx {
        Nginx::purging_edited(backend, |text| text)
    }

    /// The same with other lines.
    pub(crate) fn purging_edited(backend: u16, edit: impl Fn(String) -> String) -> Nginx {
        const MODULE: &str = "load_module /usr/lib/nginx/modules/ngx_http_cache_purge_module.so;";
        let example = edit(fs::read_to_string(super::repository("examples/nginx-purge.conf")).unwrap());
        Nginx::start(MODULE, |port, prefix| {
            fs::write(prefix.join("purge-token"), format!("\"Bearer {PURGE_TOKEN}\" 1;\n")).unwrap();
            [
                ("listen 80;", format!("listen 127.0.0.1:{port};")),
                ("/var/cache/nginx/tiles", prefix.join("cache").display().to_string()),
                ("http://127.0.0.1:8080", format!("http://127.0.0.1:{backend}")),
                ("/etc/nginx/purge-token", prefix.join("purge-token").display().to_string()),
            ]
            .into_iter()
            .fold(example.clone(), |text, (from, to)| {
                assert!(text.contains(from), "{from}");
                text.replace(from, &to)
            })
        })
    }

    /// The cache of `examples/nginx.conf` before a server of this machine, without TLS, and with other lines.
    pub(crate) fn caching(backend: u16, edit: impl Fn(String) -> String) -> Nginx {
        let example = edit(fs::read_to_string(super::repository("examples/nginx.conf")).unwrap());
        Nginx::start("", |port, prefix| {
            let without_tls = example.lines().filter(|line| !line.trim_start().starts_with("ssl_certificate"));
            let text = without_tls.collect::<Vec<_>>().join("\n");
            [
                ("listen 443 ssl;", format!("listen 127.0.0.1:{port};")),
                ("/var/cache/nginx/tiles", prefix.join("cache").display().to_string()),
                ("server 127.0.0.1:8080;", format!("server 127.0.0.1:{backend};")),
            ]
            .into_iter()
            .fold(text, |text, (from, to)| {
                assert!(text.contains(from), "{from}");
                text.replace(from, &to)
            })
        })
    }

    /// A TLS proxy for `localhost` at a separate port, with the certificate of a folder. It passes requests below
    /// `/admin/` to a server.
    pub(crate) fn with_tls_before(server: &str, folder: &Path) -> Nginx {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = |name: &str| folder.join(name).display().to_string();
        let (certificate, key) = (file("server.crt"), file("server.key"));
        let block = format!(
            "listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};\n\
             location /admin/ {{ proxy_pass {server}; }}"
        );
        let mut nginx = Nginx::with("", &block);
        nginx.port = port;
        nginx
    }

    /// nginx with some lines before its server block, and some in it.
    fn with(before: &str, block: &str) -> Nginx {
        Nginx::start("", |port, _| format!("{before}\nserver {{\nlisten 127.0.0.1:{port};\n{block}\n}}"))
    }

    /// nginx with its modules. `http` returns the content of the context `http` for a port and a folder.
    fn start(modules: &str, http: impl FnOnce(u16, &Path) -> String) -> Nginx {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let prefix = tempfile::tempdir().unwrap();
        let http = http(port, prefix.path());
        // If the test runs as root, nginx's workers use another account and must be able to enter the folder.
        fs::set_permissions(prefix.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let below = |name: &str| prefix.path().join(name).display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|name| format!("{name}_temp_path {};\n", below(name)))
            .collect();
        let config = format!(
            "{modules}\ndaemon off;\nworker_processes 1;\npid {};\nerror_log {};\nevents {{ }}\nhttp {{\naccess_log off;\n{temporary}{http}\n}}\n",
            below("pid"),
            below("log"),
        );
        fs::write(prefix.path().join("nginx.conf"), config).unwrap();
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
        // Debian installs it here, which is only on the path of root.
        let installed = std::path::Path::new("/usr/sbin/nginx");
        let child = Command::new(if installed.exists() { installed } else { "nginx".as_ref() })
            .env("PATH", path)
            .args(["-p", &below(""), "-e", &below("log"), "-c", &below("nginx.conf")])
            .stderr(Stdio::inherit())
            .start();
        let nginx = Nginx { child, port, _prefix: prefix };
        until("nginx listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        nginx
    }

    pub(crate) fn get(&self, path: &str, headers: &str) -> Answer {
        ask(self.port, "GET", path, headers)
    }
}

/// nginx in front of some servers on Unix sockets, as an operator sets it up: it skips a server that refuses a
/// connection.
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
        // Only one account may enter the sockets' folder, unless it is opened.
        for folder in sockets.iter().filter_map(|socket| socket.parent()) {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Balancer(Nginx::with(&before, block))
    }
}

/// Sends one request to a server of this machine and reads the answer to its end. `headers` are whole lines.
pub(crate) fn ask(port: u16, method: &str, path: &str, headers: &str) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    // A server may answer, and close the connection, before it has read all of what it refuses.
    if let Err(error) = stream.write_all(request.as_bytes()) {
        assert!(is_closed(&error), "{error}");
    }
    read_answer(stream)
}

/// True if the other end has closed the connection.
fn is_closed(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// Reads an answer until the server closes the connection.
pub(crate) fn read_answer(mut stream: TcpStream) -> Answer {
    let mut all = Vec::new();
    if let Err(error) = stream.read_to_end(&mut all) {
        assert!(is_closed(&error) && !all.is_empty(), "{error}");
    }
    let end = all.windows(4).position(|part| part == b"\r\n\r\n").unwrap();
    let lines = String::from_utf8(all[..end].to_vec()).unwrap();
    let lower = |line: &str| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}\n", name.to_lowercase()),
        None => format!("{line}\n"),
    };
    let head: String = lines.lines().map(lower).collect();
    let body = &all[end + 4..];
    let is_chunked = head.contains("transfer-encoding: chunked");
    Answer { body: if is_chunked { joined(body) } else { body.to_vec() }, head }
}

/// The chunks of a body as one (RFC 9112, section 7.1).
fn joined(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = chunks.windows(2).position(|two| two == b"\r\n") {
        let length = usize::from_str_radix(std::str::from_utf8(&chunks[..end]).unwrap(), 16).unwrap();
        body.extend_from_slice(&chunks[end + 2..][..length]);
        chunks = &chunks[end + 2 + length + 2..];
        if length == 0 {
            break;
        }
    }
    body
}

/// Creates a page with a map below `pages` in the tree's folder; returns its name. The page shows the points of a layer
/// of the TileJSON that the query string names. Once everything is loaded, it reports in `shown` what it shows; it
/// reports errors in `errors`.
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
        // The workers of nginx end with the master if the master is asked to end.
        let asked = Command::new("kill").args(["-QUIT", &self.child.id().to_string()]).status();
        if !asked.is_ok_and(|asked| asked.success()) || self.child.wait().is_err() {
            eprintln!("nginx {} is left behind", self.child.id());
        }
    }
}
