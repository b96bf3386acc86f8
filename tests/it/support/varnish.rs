//! Varnish with the lines of `examples/varnish.vcl`.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use super::nginx::{Answer, ask};
use super::process::{Process, Start as _};
use super::{repository, until};

/// The token of who may purge the caches of `examples/`.
pub(crate) const PURGE_TOKEN: &str = "0123456789abcdef0123456789abcdef-purge";

/// Writes the token into a folder; the line of `[[purge]]` that names its file.
pub(crate) fn purge_token_line(folder: &std::path::Path) -> String {
    let file = folder.join("purge-token");
    std::fs::write(&file, format!("{PURGE_TOKEN}\n")).unwrap();
    format!("token_file = \"{}\"\n", file.display())
}

/// Varnish, killed when the value is dropped.
pub(crate) struct Varnish {
    _child: Process,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Varnish {
    /// Varnish in front of a server of this machine.
    pub(crate) fn before(backend: u16) -> Varnish {
        Varnish::edited(backend, |vcl| vcl)
    }

    /// The same with other lines.
    pub(crate) fn edited(backend: u16, edit: impl Fn(String) -> String) -> Varnish {
        let folder = tempfile::tempdir().unwrap();
        let vcl = std::fs::read_to_string(repository("examples/varnish.vcl")).unwrap();
        let port = ".port = \"8080\";";
        assert!(vcl.contains(port));
        let file = folder.path().join("tiles.vcl");
        let (token, own) = ("/etc/varnish/purge-token", folder.path().join("purge-token"));
        assert!(vcl.contains(token));
        purge_token_line(folder.path());
        let vcl = vcl.replace(port, &format!(".port = \"{backend}\";")).replace(token, own.to_str().unwrap());
        std::fs::write(&file, edit(vcl)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap());
        let child = Command::new("varnishd")
            .env("PATH", path)
            .args(["-F", "-j", "none", "-s", "malloc,64m", "-a", &format!("127.0.0.1:{port}"), "-n"])
            .arg(folder.path().join("state"))
            .arg("-f")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .start();
        let varnish = Varnish { _child: child, port, _folder: folder };
        until("varnish listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        varnish
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        ask(self.port, "GET", path, "Accept-Encoding: gzip\r\n")
    }
}
