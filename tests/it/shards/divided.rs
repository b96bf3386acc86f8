//! Runs whose shards are whole targets: what their tests share.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::helpers::names;
use crate::support::places::files_below;
use crate::support::process::{Process, Start as _};
use crate::support::program::{Run, program, run};
use crate::support::tracked::{Tiles, Tracked, differences};
use crate::support::{Archive, Db};

pub(super) const LAYER: &str = "name = \"facilities\"\ntable = \"api_facility\"\ngeometry = \"location\"\nkey = [\"id\"]\nproperties = [\"id\", \"name\"]\n";

/// Some of the countries: Albania to Belarus, with two that come later.
pub(super) const COUNTRIES: &str =
    "SELECT DISTINCT lower(country_code) AS country FROM api_facility WHERE country_code BETWEEN 'A' AND 'BZ'";

/// Targets in a folder, and a work folder.
pub(super) struct Divided<'a> {
    pub db: &'a Db,
    pub folder: PathBuf,
    pub config: String,
    /// The environment of all commands.
    pub variables: Vec<(String, String)>,
}

impl<'a> Divided<'a> {
    /// The countries as variants whose outputs have an ending, beside one tileset of everything.
    pub(super) fn countries(tracked: &'a Tracked, folder: &str, ending: &str) -> Divided<'a> {
        Divided::of_values(tracked, folder, ending, COUNTRIES)
    }

    /// The same, where a query of one's own gives the values.
    pub(super) fn of_values(tracked: &'a Tracked, folder: &str, ending: &str, values: &str) -> Divided<'a> {
        Divided::with(
            tracked,
            folder,
            &format!(
                "[tileset]\nzoom = \"0-5\"\n[tileset.variants]\nvalues = \"{values}\"\nwhere = {{ facilities = \"lower(country_code) = !country!\" }}\noutput = \"FOLDER/by/{{country}}{ending}\"\nall = \"FOLDER/all{ending}\"\n[[layer]]\n{LAYER}"
            ),
        )
    }

    /// A configuration in which FOLDER stands for the folder.
    pub(super) fn with(tracked: &'a Tracked, folder: &str, text: &str) -> Divided<'a> {
        let folder = tracked.path(folder);
        std::fs::create_dir(&folder).unwrap();
        let config = folder.join("map.toml");
        std::fs::write(&config, text.replace("FOLDER", folder.to_str().unwrap())).unwrap();
        tracked.oar_tiles(&["track", "install", "--config", config.to_str().unwrap()]).ok();
        Divided { db: &tracked.db, config: config.to_str().unwrap().to_owned(), folder, variables: Vec::new() }
    }

    pub(super) fn command(&self, verb: &str, arguments: &[&str]) -> std::process::Command {
        let mut command = program();
        command.args(["shards", verb, "--work"]).arg(self.folder.join("work/")).args(["--config", &self.config]);
        if ["begin", "run", "commit"].contains(&verb) {
            command.args(["--database-url", &self.db.url, "--progress", "none"]);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value))).args(arguments);
        command
    }

    pub(super) fn verb(&self, verb: &str, arguments: &[&str]) -> Run {
        run(&mut self.command(verb, arguments))
    }

    pub(super) fn begin(&self, shards: u32) -> String {
        self.verb("begin", &["--shards", &shards.to_string()]).ok().stdout.trim().to_owned()
    }

    pub(super) fn run(&self, shard: u32) -> Run {
        self.verb("run", &["--shard", &shard.to_string(), "--workers", "2"])
    }

    pub(super) fn start(&self, shard: u32) -> Process {
        let mut command = self.command("run", &["--shard", &shard.to_string(), "--workers", "1"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start()
    }

    pub(super) fn whole(&self, verb: &str) -> Run {
        let mut command = program();
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        run(command.args([verb, "--progress", "none", "--config", &self.config, "--database-url", &self.db.url]))
    }

    /// The notes of a run.
    pub(super) fn notes(&self, run: &str) -> PathBuf {
        self.folder.join("work/.oar-tiles/notes").join(run)
    }

    /// The targets of the variants, by their names.
    pub(super) fn variants(&self) -> Vec<String> {
        let mut all = names(&self.folder.join("by"), "");
        all.retain(|name| !name.starts_with('.') && !name.contains(".compared"));
        all.sort();
        all
    }
}

/// The tiles of a target.
pub(super) fn tiles(target: &Path) -> Tiles {
    if target.is_dir() {
        return files_below(target);
    }
    if target.extension().is_some_and(|ending| ending == "mbtiles") {
        return Archive::open(target).stored();
    }
    let copy = target.with_extension("copied.mbtiles");
    run(program().args(["copy", "--force"]).arg(target).arg(&copy)).ok();
    let stored = Archive::open(&copy).stored();
    std::fs::remove_file(&copy).unwrap();
    stored
}

/// Asserts that the targets of a family are those of a fresh seed, beside others that are not its variants any more.
#[track_caller]
pub(super) fn are_fresh(tracked: &Tracked, divided: &Divided<'_>, ending: &str) {
    // Archives of this kind are read without a process for each.
    let fresh = Divided::countries(tracked, &format!("fresh{}", fastrand::u64(..)), ".mbtiles");
    fresh.whole("seed").ok();
    assert!(fresh.variants().len() > 3);
    for name in fresh.variants().iter().map(|name| format!("by/{name}")).chain(["all.mbtiles".to_owned()]) {
        let theirs = name.replace(".mbtiles", ending.trim_end_matches('/'));
        let (found, expected) = (tiles(&divided.folder.join(&theirs)), tiles(&fresh.folder.join(&name)));
        assert_eq!(differences(&found, &expected).len(), 0, "{theirs}");
    }
}
