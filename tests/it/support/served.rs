//! `oar-tiles serve` and `preview` as processes.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::Db;
use super::nginx::{Answer, ask};
use super::places::Places;
use super::process::{Process, Start as _};
use super::program::{program, seed};

/// The header of clients that take gzip.
pub(crate) const GZIP: &str = "Accept-Encoding: gzip\r\n";

/// An MBTiles archive of zooms 0 to 3, in a folder of its own.
pub(crate) fn small_target() -> (tempfile::TempDir, String) {
    let (db, folder) = (Db::with_facilities(300), tempfile::tempdir().unwrap());
    let target = folder.path().join("t.mbtiles");
    seed(&db.url, &target, &["--zoom", "0-3"]).ok();
    let target = target.to_str().unwrap().to_owned();
    (folder, target)
}

/// Waits until the files of a target are old enough for a server to cache what it reads. On a fast machine the server
/// would otherwise read them too early. Does not wait long, because somebody may write the files all the time.
fn settles(target: &str) {
    let files = [target.to_owned(), format!("{target}/metadata.json"), format!("{target}/latest.json")];
    let is_old = |file: &String| {
        let written = std::fs::metadata(file).and_then(|file| file.modified());
        written.map_or(true, |written| written.elapsed().map_or(true, |age| age.as_millis() > 100))
    };
    let begun = std::time::Instant::now();
    while begun.elapsed().as_millis() < 500 && !files.iter().all(is_old) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A server, killed when the value is dropped.
pub(crate) struct Served {
    pub(crate) child: Process,
    /// Where its tiles are; ends with a slash.
    pub(crate) url: String,
    pub(crate) port: u16,
    /// The port of the admin listener.
    pub(crate) admin: u16,
}

impl Served {
    /// `oar-tiles serve TARGET` with ports of its own and more arguments.
    pub(crate) fn new(target: &str, arguments: &[&str]) -> Served {
        settles(target);
        let mut command = program();
        command.args(["serve", target, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
        Served::of(command.args(arguments))
    }

    /// The same for a target of some places, with their keys for S3.
    pub(crate) fn at(places: &Places, name: &str, arguments: &[&str]) -> Served {
        settles(&places.place(name));
        let mut command = program();
        command.args(["serve", &places.place(name), "--config", &places.config]);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]);
        Served::of(places.with_keys(command.args(arguments)))
    }

    /// Starts a command that serves and prints its addresses.
    pub(crate) fn of(command: &mut Command) -> Served {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).start();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = || lines.next().expect("the server says where it listens").unwrap();
        let url = line().split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
        let is_admin = command.get_args().any(|argument| argument == "--admin");
        let admin = if is_admin { port_of(&line()) } else { 0 };
        let port = port_of(&url);
        Served { child, url, port, admin }
    }

    /// Starts a command whose standard error is piped, does something with the server, and ends it; what it has said
    /// there.
    pub(crate) fn saying(command: &mut Command, with: impl FnOnce(&Served)) -> String {
        let mut served = Served::of(command);
        let mut stderr = served.child.stderr.take().unwrap();
        with(&served);
        served.ends_after("-TERM");
        let mut said = String::new();
        std::io::Read::read_to_string(&mut stderr, &mut said).unwrap();
        said
    }

    pub(crate) fn get(&self, path: &str, headers: &str) -> Answer {
        ask(self.port, "GET", path, headers)
    }

    /// A document of the public listener.
    #[track_caller]
    pub(crate) fn json(&self, path: &str) -> serde_json::Value {
        let answer = self.get(path, "");
        assert_eq!(status(&answer), 200, "{path} {}", answer.head);
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// The body of a page of the admin listener, with its status.
    pub(crate) fn admin(&self, path: &str) -> (u16, String) {
        let answer = ask(self.admin, "GET", path, "");
        (status(&answer), String::from_utf8(answer.body).unwrap())
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Sends a signal and waits for the end; returns the exit code.
    pub(crate) fn ends_after(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.child.wait().unwrap().code()
    }
}

/// The port in `http://127.0.0.1:PORT/…`.
fn port_of(line: &str) -> u16 {
    let digits = line.split("127.0.0.1:").nth(1).unwrap();
    digits.split('/').next().unwrap().parse().unwrap()
}

/// The status of an answer.
pub(crate) fn status(answer: &Answer) -> u16 {
    answer.head.split(' ').nth(1).unwrap().parse().unwrap()
}
