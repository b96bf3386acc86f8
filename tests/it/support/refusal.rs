//! The common part of every refusal: its exit code, its message, and the old target untouched.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;

use super::folder::Folder;
use super::program::{Run, program, run, seed_command};

/// No server listens there: a run that is refused without the database must be refused before it connects.
pub(crate) const NOWHERE: &str = "postgresql://nobody@127.0.0.1:1/nothing";

/// An old target in a folder of its own, and a configuration next to that folder.
pub(crate) struct OldTarget {
    /// The old target.
    pub path: PathBuf,
    before: Vec<u8>,
    folder: Folder,
}

impl OldTarget {
    /// A small archive.
    pub(crate) fn new() -> OldTarget {
        let folder = Folder::new();
        std::fs::create_dir(folder.beside("tiles")).unwrap();
        let path = folder.beside("tiles/t.mbtiles");
        let archive = Connection::open(&path).unwrap();
        archive
            .execute_batch(
                "CREATE TABLE metadata (name text, value text);
                 CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob);
                 INSERT INTO tiles VALUES (0, 0, 0, x'1a00');",
            )
            .unwrap();
        drop(archive);
        OldTarget::keep(folder, path)
    }

    /// Another file at the path of the target.
    pub(crate) fn holding(bytes: &[u8]) -> OldTarget {
        let old = OldTarget::new();
        std::fs::write(&old.path, bytes).unwrap();
        OldTarget::keep(old.folder, old.path)
    }

    fn keep(folder: Folder, path: PathBuf) -> OldTarget {
        OldTarget { before: std::fs::read(&path).unwrap(), path, folder }
    }

    /// `seed` into the old target, to be refused.
    #[track_caller]
    pub(crate) fn refuses(&self, url: &str, arguments: &[&str], code: i32, texts: &[&str]) -> Run {
        self.refuses_command(&mut seed_command(url, &self.path, arguments), code, texts)
    }

    /// `seed` with a configuration into the old target, to be refused.
    #[track_caller]
    pub(crate) fn refuses_config(&self, url: &str, text: &str, arguments: &[&str], code: i32, texts: &[&str]) -> Run {
        let config = self.config(text);
        self.refuses(url, &[&["--config", &config], arguments].concat(), code, texts)
    }

    /// `seed` with an environment variable into the old target, to be refused.
    #[track_caller]
    pub(crate) fn refuses_variable(&self, name: &str, value: &str, code: i32, texts: &[&str]) -> Run {
        let mut command = program();
        self.refuses_command(command.args(["seed", "--output"]).arg(&self.path).env(name, value), code, texts)
    }

    /// Runs a command that must be refused. Asserts the code, each text, that each cause is printed once, that nothing
    /// is on standard output, and that the old target and its folder are as they were.
    #[track_caller]
    pub(crate) fn refuses_command(&self, command: &mut Command, code: i32, texts: &[&str]) -> Run {
        let ended = run(command).fails(code, texts);
        let shown = format!("{command:?}\n{}", ended.stderr);
        assert_eq!(ended.stdout, "", "standard output is data: {shown}");
        assert_eq!(ended.stderr.matches("error: ").count(), 1, "one error: {shown}");
        for cause in ended.stderr.lines().filter_map(|line| line.strip_prefix("  cause: ")) {
            assert_eq!(ended.stderr.matches(cause).count(), 1, "a cause is printed once: {shown}");
        }
        self.is_untouched(&shown);
        ended
    }

    /// Asserts that the target is what it was, byte for byte, and that no other file lies next to it.
    #[track_caller]
    pub(crate) fn is_untouched(&self, shown: &str) {
        assert!(std::fs::read(&self.path).unwrap() == self.before, "the target changed: {shown}");
        assert_eq!(names(self.path.parent().unwrap()), BTreeSet::from(["t.mbtiles".to_owned()]), "{shown}");
    }
}

/// Paths next to the target's own folder are paths in the outer folder.
impl Deref for OldTarget {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.folder
    }
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> BTreeSet<String> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
