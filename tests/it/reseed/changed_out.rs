//! `--changed-out` names exactly the tiles that changed: its file against the target's tiles before and after.

use std::collections::BTreeSet;
use std::path::Path;

use oar_tiles::target::{DirectoryReader, MbtilesReader, PmtilesReader, Template, TileReader, read_all};

use crate::support::program::{program, run};
use crate::support::tracked::{SOME, Tiles, Tracked, differences, listed};
use crate::support::watch_process::Watching;

/// The stored tiles of a target of any kind.
pub(crate) fn stored(target: &Path) -> Tiles {
    let mut reader: Box<dyn TileReader> = match target.extension().and_then(|ending| ending.to_str()) {
        Some("mbtiles") => Box::new(MbtilesReader::open(target).unwrap()),
        Some("pmtiles") => Box::new(PmtilesReader::open(target).unwrap()),
        _ => Box::new(DirectoryReader::open(target, &Template::new("{z}/{x}/{y}.pbf").unwrap()).unwrap()),
    };
    let ids = reader.list().unwrap();
    let mut tiles = Tiles::new();
    read_all::<oar_tiles::target::ReadError>(&mut *reader, &ids, |id, bytes| {
        tiles.insert((id.coord.zoom().get(), id.coord.x(), id.coord.y()), bytes.unwrap().into_vec());
        Ok(())
    })
    .unwrap();
    tiles
}

/// A target, and the file beside it.
struct Follower<'a> {
    tracked: &'a Tracked,
    target: std::path::PathBuf,
    file: std::path::PathBuf,
}

impl Follower<'_> {
    /// Runs a command that is to change the target, and checks that the file tells the truth; gives how many tiles it
    /// names.
    #[track_caller]
    fn tells_the_truth(&self, arguments: &[&str]) -> usize {
        let before = stored(&self.target);
        run(&mut self.command(arguments)).ok();
        let truth = differences(&before, &stored(&self.target));
        assert_eq!(listed(&self.file), truth, "{arguments:?}");
        let lines: Vec<String> = std::fs::read_to_string(&self.file).unwrap().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), lines.iter().collect::<BTreeSet<_>>().len(), "each once");
        truth.len()
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = program();
        command.args(arguments).args(["--changed-out", self.file.to_str().unwrap()]);
        if arguments[0] != "copy" {
            command.args(["--progress", "none", "--database-url", &self.tracked.db.url, "--output"]).arg(&self.target);
        }
        command
    }
}

#[test]
fn seed_reseed_and_copy_name_every_tile_that_changed() {
    let tracked = Tracked::facilities(2_000);
    for name in ["t.mbtiles", "t.pmtiles", "tiles/"] {
        let (target, file) = (tracked.path(name), tracked.path("changed.txt"));
        let follower = Follower { tracked: &tracked, target: target.clone(), file: file.clone() };
        let seed = ["seed", "--zoom", "0-6"];
        // There was nothing to compare with.
        run(&mut follower.command(&seed)).ok();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "*\n", "{name}");
        assert_eq!(follower.tells_the_truth(&seed), 0, "{name}");
        assert_eq!(follower.tells_the_truth(&["reseed"]), 0, "{name}");
        tracked.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE {SOME}"));
        let reseeded = follower.tells_the_truth(&["reseed"]);
        tracked.db.run(&format!("UPDATE api_facility SET name = name || '?' WHERE {SOME}"));
        let seeded = follower.tells_the_truth(&seed);
        assert!(reseeded >= 7 && reseeded == seeded, "{name}: {reseeded}, {seeded}");
        // Tiles vanish, and others come.
        tracked.db.run(&format!("DELETE FROM api_facility WHERE {SOME}"));
        assert!(follower.tells_the_truth(&["reseed"]) >= 7, "{name}");
        tracked.db.run(&format!("UPDATE api_facility SET location = ST_Translate(location, 1, 1) WHERE {SOME}"));
        assert!(follower.tells_the_truth(&seed) >= 7, "{name}");
        // A dirty tile whose bytes turn out equal has not changed.
        tracked.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE {SOME}"));
        tracked.db.run(&format!("UPDATE api_facility SET name = left(name, -1) WHERE {SOME}"));
        let dirty = tracked.path("dirty.txt");
        assert_eq!(follower.tells_the_truth(&["reseed", "--dirty-out", dirty.to_str().unwrap()]), 0, "{name}");
        assert!(listed(&dirty).len() >= 7, "{name}");
        // A copy follows its source.
        let source = target.to_str().unwrap();
        let copied = tracked.path(&format!("copy-{name}"));
        let copy = Follower { tracked: &tracked, target: copied.clone(), file: file.clone() };
        let arguments = ["copy", source, copied.to_str().unwrap()];
        run(&mut copy.command(&arguments)).ok();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "*\n", "{name}");
        tracked.db.run(&format!("UPDATE api_facility SET name = name || '.' WHERE {SOME}"));
        let reseeded = follower.tells_the_truth(&["reseed"]);
        assert_eq!(copy.tells_the_truth(&arguments), reseeded, "{name}");
    }
}

#[test]
fn a_file_of_changed_tiles_that_cannot_be_written_is_refused_before_the_work() {
    let tracked = Tracked::facilities(20);
    let target = tracked.path("t.mbtiles");
    let nowhere = tracked.path("nowhere/changed.txt");
    let changed_out = ["--changed-out", nowhere.to_str().unwrap()];
    let text = format!("cannot write the changed tiles to {}: choose another --changed-out", nowhere.display());
    let mut command = program();
    command.args(["seed", "--zoom", "0-2", "--database-url", &tracked.db.url, "--output"]).arg(&target);
    run(command.args(changed_out)).fails(2, &[&text]);
    assert!(!target.exists());
    tracked.seed("t.mbtiles", &["--zoom", "0-2"]);
    let before = std::fs::read(&target).unwrap();
    tracked.db.run("UPDATE api_facility SET name = name || '!'");
    tracked.reseed(&target, &changed_out).fails(2, &[&text]);
    assert!(std::fs::read(&target).unwrap() == before);
}

#[test]
fn a_watch_lists_the_changes_of_each_of_its_reseeds() {
    let tracked = Tracked::facilities(300);
    let file = tracked.path("changed.txt");
    for name in ["t.mbtiles", "tiles/"] {
        let target = tracked.seed(name, &["--zoom", "0-6"]);
        let watching =
            Watching::start(&tracked.db.url, &target, &["--poll", "1h", "--changed-out", file.to_str().unwrap()]);
        // Written anew each time: a list holds the changes of the last reseed alone. The second change takes tiles
        // away.
        for sql in [
            format!("UPDATE api_facility SET name = name || '!' WHERE {SOME}"),
            format!("DELETE FROM api_facility WHERE {SOME}"),
        ] {
            let before = stored(&target);
            tracked.db.run(&sql);
            // Printed after the list was written.
            watching.says(" dirty tile");
            let truth = differences(&before, &stored(&target));
            assert!(truth.len() >= 5, "{name}: {sql}");
            assert_eq!(listed(&file), truth, "{name}: {sql}");
        }
        assert_eq!(watching.end(), 0, "{name}");
    }
}
