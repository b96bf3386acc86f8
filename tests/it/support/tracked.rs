//! A database with a change log, targets that follow it, and how they differ.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::archive::Address;
use super::program::{Run, program, run};
use super::{Archive, Db, seed};

/// A database with the change log installed, and a folder.
pub(crate) struct Tracked {
    pub db: Db,
    pub folder: tempfile::TempDir,
}

impl Tracked {
    pub(crate) fn facilities(count: u32) -> Tracked {
        Tracked::over(Db::with_facilities(count))
    }

    pub(crate) fn over(db: Db) -> Tracked {
        let tracked = Tracked { db, folder: tempfile::tempdir().unwrap() };
        tracked.oar_tiles(&["track", "install"]).ok();
        tracked
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn oar_tiles(&self, arguments: &[&str]) -> Run {
        run(program().args(arguments).args(["--database-url", &self.db.url]))
    }

    pub(crate) fn seed(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let path = self.path(name);
        seed(&self.db.url, &path, arguments).ok();
        path
    }

    pub(crate) fn reseed(&self, path: &Path, arguments: &[&str]) -> Run {
        let mut command = program();
        command.args(["reseed", "--progress", "none", "--database-url", &self.db.url, "--output"]).arg(path);
        run(command.args(arguments))
    }

    /// Asserts that a target shows the same as a fresh seed. A failure reports how many tiles differ, and the first of
    /// them.
    #[track_caller]
    pub(crate) fn is_fresh(&self, path: &Path, arguments: &[&str]) {
        show_the_same(path, &self.seed("fresh.mbtiles", arguments));
    }
}

/// Asserts that two archives hold the same tiles.
#[track_caller]
pub(crate) fn show_the_same(found: &Path, fresh: &Path) {
    let (found, fresh) = (Archive::open(found).stored(), Archive::open(fresh).stored());
    let wrong = differences(&found, &fresh);
    assert!(wrong.is_empty(), "{} of {}: {:?}", wrong.len(), fresh.len(), wrong.first());
}

pub(crate) type Tiles = std::collections::BTreeMap<Address, Vec<u8>>;

/// The tiles that differ, or that only one of both has.
pub(crate) fn differences(one: &Tiles, other: &Tiles) -> BTreeSet<Address> {
    one.keys().chain(other.keys()).copied().filter(|tile| one.get(tile) != other.get(tile)).collect()
}

/// The tiles of a list.
pub(crate) fn listed(path: &Path) -> BTreeSet<Address> {
    let text = std::fs::read_to_string(path).unwrap();
    let tile = |line: &str| {
        let numbers: Vec<u32> = line.split('/').map(|part| part.parse().unwrap()).collect();
        (u8::try_from(numbers[0]).unwrap(), numbers[1], numbers[2])
    };
    text.lines().map(tile).collect()
}

/// A condition that five facilities fulfil.
pub(crate) const SOME: &str = "id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 5)";
