//! What tests of shards share.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::Db;
use crate::support::process::{Process, Start as _};
use crate::support::program::{Run, program, run};

/// A run of shards: its database, its target, its work folder.
pub(super) struct Sharded<'a> {
    pub db: &'a Db,
    pub target: String,
    pub work: String,
    /// More arguments of begin, run and commit.
    pub more: Vec<String>,
    /// The environment of all commands.
    pub variables: Vec<(String, String)>,
}

impl<'a> Sharded<'a> {
    /// Into a target beside a work folder.
    pub(super) fn into(db: &'a Db, folder: &Path, target: &str) -> Sharded<'a> {
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let (more, variables) = (vec!["--zoom".to_owned(), "0-7".to_owned()], Vec::new());
        Sharded { db, target: path(target), work: path("work/"), more, variables }
    }

    pub(super) fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(["shards", verb, "--work", &self.work]).args(arguments);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if ["begin", "run", "commit"].contains(&verb) {
            command.args(["--database-url", &self.db.url, "--progress", "none"]).args(&self.more);
        }
        if verb == "begin" {
            command.args(["--output", &self.target]);
        }
        command
    }

    pub(super) fn verb(&self, verb: &str, arguments: &[&str]) -> Run {
        run(&mut self.command(verb, arguments))
    }

    /// Begins a run; gives its id.
    pub(super) fn begin(&self, shards: u32, arguments: &[&str]) -> String {
        let shards = shards.to_string();
        let begun = self.verb("begin", &[&["--shards", &shards], arguments].concat()).ok();
        begun.stdout.trim().to_owned()
    }

    pub(super) fn run(&self, shard: u32) -> Run {
        self.verb("run", &["--shard", &shard.to_string(), "--workers", "1"])
    }

    pub(super) fn start(&self, verb: &str, arguments: &[&str]) -> Process {
        let mut command = self.command(verb, arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start()
    }

    /// Begins, renders every shard and commits.
    pub(super) fn whole(&self, shards: u32, arguments: &[&str]) {
        self.begin(shards, arguments);
        (1..=shards).for_each(|shard| drop(self.run(shard).ok()));
        self.verb("commit", &[]).ok();
    }

    /// The folder of the notes of a run.
    pub(super) fn notes(&self, run: &str) -> PathBuf {
        Path::new(&self.work).join(".oar-tiles/notes").join(run)
    }
}

/// The names in a folder that begin with a text.
pub(super) fn names(folder: &Path, begin: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned());
    names.filter(|name| name.starts_with(begin)).collect()
}

/// An MBTiles file with one text in the place of its manifest, which holds times, and without the count of transactions
/// that have written it (SQLite file format, sections 1.3.7 and 1.3.15), so that the other bytes can be compared.
pub(super) fn without_times(path: &Path) -> Vec<u8> {
    let copy = path.with_extension("compared");
    std::fs::copy(path, &copy).unwrap();
    let file = rusqlite::Connection::open(&copy).unwrap();
    file.execute_batch(
        "PRAGMA journal_mode = DELETE; UPDATE metadata SET value = 'times' WHERE name = 'oar_tiles_manifest'; VACUUM",
    )
    .unwrap();
    drop(file);
    let mut bytes = std::fs::read(&copy).unwrap();
    for counter in [24..28, 92..96] {
        bytes[counter].fill(0);
    }
    bytes
}

/// A random statement of a writer.
pub(super) fn write(db: &Db, random: &mut fastrand::Rng) {
    let some = format!("id IN (SELECT id FROM api_facility ORDER BY md5(id || '{}') LIMIT 3)", random.u32(..));
    let place =
        format!("ST_SetSRID(ST_MakePoint({}, {}), 4326)", random.f64() * 360.0 - 180.0, random.f64() * 160.0 - 80.0);
    db.run(&match random.u8(0..4) {
        0 => format!("DELETE FROM api_facility WHERE {some}"),
        1 => format!("UPDATE api_facility SET location = {place} WHERE {some}"),
        2 => format!("UPDATE api_facility SET name = name || '!' WHERE {some}"),
        _ => format!("UPDATE api_facility SET location = ST_Translate(location, 0.01, 0.01) WHERE {some}"),
    });
}
