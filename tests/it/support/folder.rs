//! A folder of a test's own, with a target somewhere in it and what a run needs beside that.

use std::path::PathBuf;

use tempfile::TempDir;

use super::program::over_rows;

/// A folder; removed with the value.
pub(crate) struct Folder(TempDir);

impl Folder {
    /// A new one.
    pub(crate) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    /// A path in it, beside the target or beside the folder of the target's own.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a configuration; gives its path.
    pub(crate) fn config(&self, text: &str) -> String {
        let path = self.beside("c.toml");
        std::fs::write(&path, over_rows(text)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}
