//! A separate S3 server for a test that kills it. Stopped and removed when the value is dropped.

use std::path::PathBuf;
use std::process::Command;

use oar_tiles::target::S3Keys;
use tempfile::TempDir;

/// A server.
pub(crate) struct S3Server {
    pub endpoint: String,
    pub keys: S3Keys,
    folder: TempDir,
}

impl S3Server {
    /// A new server.
    pub(crate) fn new() -> S3Server {
        let keys = S3Keys { key: String::new(), secret: String::new(), session: None };
        let mut server = S3Server { endpoint: String::new(), keys, folder: tempfile::tempdir().unwrap() };
        let said = server.run("start");
        let mut lines = said.lines().map(str::to_owned);
        for place in [&mut server.endpoint, &mut server.keys.key, &mut server.keys.secret] {
            *place = lines.next().unwrap();
        }
        server
    }

    /// Kills it by `kill -9`: requests that it had not answered may or may not have been done.
    pub(crate) fn kill(&self) {
        self.run("stop");
    }

    /// Starts it again, on the same port.
    pub(crate) fn start(&self) {
        assert_eq!(self.run("start").lines().next(), Some(self.endpoint.as_str()));
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("s3")
    }

    fn run(&self, verb: &str) -> String {
        let done = Command::new(super::repository("scripts/s3")).arg(verb).arg(self.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Err(error) = Command::new(super::repository("scripts/s3")).arg("stop").arg(self.path()).status() {
            eprintln!("the server in {} is left behind: {error}", self.path().display());
        }
    }
}
