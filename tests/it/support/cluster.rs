//! A separate server for a test that stops it, copies it or sets it up differently. Stopped and removed when the value
//! is dropped.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A server.
pub(crate) struct Cluster {
    /// Its URL over the socket, as a superuser.
    pub url: String,
    /// Its URL over TCP, with the password.
    pub url_tcp: String,
    folder: TempDir,
}

impl Cluster {
    /// A new server.
    pub(crate) fn new() -> Cluster {
        Cluster::begin(|path| vec!["start".into(), path.into()])
    }

    /// A new server with settings of its own, such as `max_connections=20`.
    pub(crate) fn with(settings: &[&str]) -> Cluster {
        Cluster::begin(|path| {
            let settings = settings.iter().map(PathBuf::from);
            ["start".into(), path.to_owned()].into_iter().chain(settings).collect()
        })
    }

    /// Restarts it with the settings of `ALTER SYSTEM`. What was not written by a checkpoint may be lost.
    pub(crate) fn restart(&mut self) {
        self.crash();
        self.start();
    }

    /// A hot standby of another.
    pub(crate) fn standby_of(primary: &Cluster) -> Cluster {
        Cluster::begin(|path| vec!["standby".into(), path.into(), primary.path()])
    }

    fn begin(arguments: impl Fn(&Path) -> Vec<PathBuf>) -> Cluster {
        // If the test runs as root, another account runs the server and must be able to enter the folder. A socket's
        // path must be short.
        let base = Some(std::env::temp_dir()).filter(|base| base.as_os_str().len() <= 50);
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        let folder = tempfile::Builder::new()
            .prefix("oar-tiles.")
            .permissions(permissions)
            .tempdir_in(base.unwrap_or_else(|| "/tmp".into()))
            .unwrap();
        let mut cluster = Cluster { url: String::new(), url_tcp: String::new(), folder };
        cluster.run(&arguments(&cluster.path()));
        cluster
    }

    /// Where its files are.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("pg")
    }

    /// Starts it again, on the same port.
    pub(crate) fn start(&mut self) {
        let before = self.url.clone();
        self.run(&["start".into(), self.path()]);
        assert_eq!(self.url, before);
    }

    /// Stops it, as in a crash.
    pub(crate) fn crash(&self) {
        self.stop("immediate");
    }

    fn stop(&self, mode: &str) {
        let stopped =
            Command::new(super::repository("scripts/postgres")).arg("stop").arg(self.path()).arg(mode).status();
        assert!(stopped.unwrap().success());
    }

    /// Copies the files of its disk, while it is stopped for a moment.
    pub(crate) fn disk_snapshot(&mut self) -> PathBuf {
        let copy = self.folder.path().join("snapshot");
        self.stop("fast");
        copy_files(&self.path().join("data"), &copy);
        self.start();
        copy
    }

    /// Replaces its disk by the copy. `meanwhile` gets the URL of the restored server at another port; then it listens
    /// on the old port again.
    pub(crate) fn restore(&mut self, copy: &Path, meanwhile: impl FnOnce(&str)) {
        let (data, before) = (self.path().join("data"), (self.url.clone(), self.url_tcp.clone()));
        self.crash();
        let options = std::fs::read(data.join("postmaster.opts")).unwrap();
        std::fs::remove_dir_all(&data).unwrap();
        copy_files(copy, &data);
        std::fs::remove_file(data.join("postmaster.opts")).unwrap();
        self.run(&["start".into(), self.path()]);
        meanwhile(&self.url);
        self.stop("fast");
        std::fs::write(data.join("postmaster.opts"), options).unwrap();
        (self.url, self.url_tcp) = before;
        self.start();
    }

    /// Makes a standby a primary.
    pub(crate) fn promote(&self) {
        assert_eq!(psql(&self.url, "SELECT pg_promote()"), "t");
    }

    fn run(&mut self, arguments: &[PathBuf]) {
        let done = Command::new(super::repository("scripts/postgres")).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let urls = String::from_utf8(done.stdout).unwrap();
        let (url, url_tcp) = urls.trim().split_once('\n').unwrap();
        (self.url, self.url_tcp) = (url.to_owned(), url_tcp.to_owned());
    }
}

/// Copies a folder with its owners and modes.
fn copy_files(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Runs SQL in a session of its own, so that the server may be another one at each time; returns what it prints.
#[track_caller]
pub(crate) fn psql(url: &str, sql: &str) -> String {
    let done = Command::new("psql").args(["-XAtq", "-v", "ON_ERROR_STOP=1", url, "-c", sql]).output().unwrap();
    assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) =
            Command::new(super::repository("scripts/postgres")).arg("stop").arg(self.path()).arg("immediate").status()
        {
            eprintln!("the server in {} is left behind: {error}", self.path().display());
        }
    }
}
