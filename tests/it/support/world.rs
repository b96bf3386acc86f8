//! A database, and a folder with configurations and targets.

use std::path::PathBuf;
use std::process::Command;

use super::folder::Folder;
use super::places::Places;
use super::program::{Run, program, run};
use super::{Archive, Db};

/// A database, and a folder with configurations and targets.
pub(crate) struct World {
    pub db: Db,
    pub folder: Folder,
}

impl World {
    pub(crate) fn of(db: Db) -> World {
        World { db, folder: Folder::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.beside(name)
    }

    /// Writes a configuration in which `FOLDER` stands for the folder; returns its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        let folder = path.parent().unwrap().to_str().unwrap();
        std::fs::write(&path, text.replace("FOLDER", folder)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn oar_tiles(&self, config: &str, arguments: &[&str]) -> Run {
        run(program().args(arguments).args(["--config", config, "--database-url", &self.db.url]))
    }

    /// Copies a target of any kind into an archive.
    pub(crate) fn copied(&self, target: &str) -> Archive {
        let (from, to) = (self.path(target), self.path("copied.mbtiles"));
        run(program().args(["copy", "--force"]).args([from, to.clone()])).ok();
        Archive::open(&to)
    }
}

/// A database with a change log, and targets of all kinds that follow it, under the `max_shrink` of the configuration.
pub(crate) struct Followed {
    pub db: Db,
    pub places: Places,
}

impl Followed {
    /// Installs the change log for the layers of the configuration of these places.
    pub(crate) fn new(db: Db, places: Places) -> Followed {
        let followed = Followed { db, places };
        followed.run("track", &["install"]).ok();
        followed
    }

    pub(crate) fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = program();
        command.env_remove("OAR_TILES_MAX_SHRINK");
        command.arg(verb).args(arguments).args(["--config", &self.places.config, "--database-url", &self.db.url]);
        self.places.with_keys(&mut command);
        command
    }

    pub(crate) fn run(&self, verb: &str, arguments: &[&str]) -> Run {
        run(&mut self.command(verb, arguments))
    }

    /// Runs a verb that writes a target.
    pub(crate) fn writes(&self, verb: &str, name: &str, arguments: &[&str]) -> Run {
        let place = self.places.place(name);
        self.run(verb, &[&["--progress", "none", "--output", &place], arguments].concat())
    }

    /// What the target says of its last run.
    pub(crate) fn manifest(&self, name: &str) -> serde_json::Value {
        let shown = self.places.run("inspect", &["--json", &self.places.place(name)]).ok();
        let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
        shown["manifest"].clone()
    }
}
