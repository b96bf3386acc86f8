//! A separate folder for a test, with a target somewhere in it and the other files that a run needs.

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

    /// A path in it, next to the target or next to the target's own folder.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a configuration; returns its path.
    pub(crate) fn config(&self, text: &str) -> String {
        let path = self.beside("c.toml");
        std::fs::write(&path, over_rows(text)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}
