//! A small file system of a test's own, to be filled.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory; unmounted with the value.
pub(crate) struct SmallDisk {
    /// Where it is mounted.
    pub path: PathBuf,
}

impl SmallDisk {
    /// Mounts a file system of a size, such as "3m", as a new folder. If that is not allowed, reports that the test is
    /// skipped.
    pub(crate) fn mount(path: &Path, size: &str) -> Option<SmallDisk> {
        std::fs::create_dir(path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(path).output();
        match mounted {
            Ok(mounted) if mounted.status.success() => Some(SmallDisk { path: path.to_owned() }),
            other => {
                eprintln!("SKIPPED: a small disk cannot be mounted here ({other:?})");
                None
            }
        }
    }

    /// Gives it another size; what is on it stays.
    pub(crate) fn resize(&self, size: &str) {
        let resized = Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.path).status();
        assert!(resized.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if !Command::new("umount").arg(&self.path).status().is_ok_and(|done| done.success()) {
            eprintln!("{} is still mounted", self.path.display());
        }
    }
}
