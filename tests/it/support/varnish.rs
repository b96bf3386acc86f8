//! Varnish with the lines of `examples/varnish.vcl`.

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

use super::nginx::{Answer, ask};
use super::process::{Process, Start as _};
use super::{repository, until};

/// Varnish, killed when the value is dropped.
pub(crate) struct Varnish {
    _child: Process,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Varnish {
    /// Varnish in front of a server of this machine.
    pub(crate) fn before(backend: u16) -> Varnish {
        let folder = tempfile::tempdir().unwrap();
        let vcl = std::fs::read_to_string(repository("examples/varnish.vcl")).unwrap();
        let port = ".port = \"8080\";";
        assert!(vcl.contains(port));
        let file = folder.path().join("tiles.vcl");
        std::fs::write(&file, vcl.replace(port, &format!(".port = \"{backend}\";"))).unwrap();
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
