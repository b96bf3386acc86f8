//! Files that a run writes beside its target: a path that cannot be written is wrong usage before the work, and a
//! failure after it, which keeps nothing else from being done.

use std::path::{Path, PathBuf};

use crate::support::SmallDisk;
use crate::support::program::{Run, program, run};
use crate::support::tracked::{SOME, Tracked};

/// A device that can be opened, and takes no byte.
const FULL: &str = "/dev/full";

const DONE: &str = ": what the command stored is stored and published, and only this file is missing. Make room for the file, or choose another ";

/// A database and a target that follows it.
struct World {
    tracked: Tracked,
    target: PathBuf,
}

impl World {
    fn new(name: &str) -> World {
        let tracked = Tracked::facilities(60);
        let target = tracked.seed(name, &["--zoom", "0-5"]);
        World { tracked, target }
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> Run {
        let mut command = program();
        command.args([verb, "--progress", "none", "--database-url", &self.tracked.db.url, "--output"]);
        command.arg(&self.target).args(arguments);
        run(&mut command)
    }

    /// The number of the publication that the target shows.
    fn published(&self) -> u64 {
        let shown = run(program().args(["inspect", "--json"]).arg(&self.target)).ok();
        let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
        shown["manifest"]["publication"]["number"].as_u64().unwrap()
    }

    fn change(&self) {
        self.tracked
            .db
            .run(&format!("UPDATE api_facility SET location = ST_Translate(location, 0.1, 0.1) WHERE {SOME}"));
    }
}

#[test]
fn a_file_that_takes_no_byte_fails_a_run_whose_target_is_published() {
    for name in ["t.mbtiles", "tiles/"] {
        let world = World::new(name);
        for (verb, flag) in [
            ("seed", "--report"),
            ("seed", "--metrics"),
            ("seed", "--changed-out"),
            ("reseed", "--report"),
            ("reseed", "--metrics"),
            ("reseed", "--changed-out"),
        ] {
            world.change();
            let (before, more) = (world.published(), if verb == "seed" { &["--zoom", "0-5"][..] } else { &[] });
            let ended = world.run(verb, &[&[flag, FULL], more].concat());
            ended.fails(1, &[" /dev/full", DONE, &format!("choose another {flag}\n"), "No space left on device"]);
            assert_eq!(world.published(), before + 1, "{verb} {flag} {name}");
            assert!(world.run("reseed", &[]).ok().stdout.starts_with("nothing to do"), "{verb} {flag} {name}");
        }
        // Nothing was published, so the next run does it.
        world.change();
        let before = world.published();
        world.run("reseed", &["--dirty-out", FULL]).fails(
            1,
            &["cannot write the dirty tiles to /dev/full: nothing was published, and the manifest is unchanged. Make room"],
        );
        assert_eq!(world.published(), before, "{name}");
        // One file that fails does not keep others from being written.
        let file = |name: &str| world.tracked.path(name).to_str().unwrap().to_owned();
        let (report, metrics) = (file("report.json"), file("oar.prom"));
        let ended = world.run("reseed", &["--changed-out", FULL, "--report", &report, "--metrics", &metrics]);
        assert!(ended.fails(1, &["cannot write the changed tiles to "]).stdout.contains(" tiles"));
        assert!(Path::new(&report).exists());
        assert!(std::fs::read_to_string(&metrics).unwrap().contains("oar_tiles_run_exit_code{verb=\"reseed\""));
        world.change();
        let ended = world.run("reseed", &["--report", FULL, "--metrics", FULL, "--changed-out", FULL]);
        ended.fails(1, &["cannot write the report ", "cannot write the changed tiles ", "cannot write the metrics "]);
    }
}

#[test]
fn other_verbs_end_in_the_same_way() {
    let world = World::new("t.mbtiles");
    let (target, copy) = (world.target.to_str().unwrap(), world.tracked.path("copy.mbtiles"));
    let mut copying = program();
    copying.args(["copy", target]).arg(&copy).args(["--changed-out", FULL]);
    let copied = run(&mut copying).fails(1, &["cannot write the changed tiles to /dev/full", DONE]);
    assert!(copy.exists() && copied.stdout.contains("copy.mbtiles"), "{}", copied.stdout);
    run(program().args(["verify", "--report", FULL, target])).fails(1, &["cannot write the report /dev/full"]);
    run(program().args(["inspect", target, "0/0/0", "--png", FULL])).fails(1, &["cannot write the picture /dev/full"]);
    // A device is written into, and never replaced.
    world.change();
    assert!(world.run("reseed", &["-q", "--metrics", "/dev/stdout"]).ok().stdout.contains("oar_tiles_run_exit_code"));
}

#[test]
fn a_disk_that_is_full_when_the_run_ends_is_no_wrong_usage() {
    let world = World::new("t.mbtiles");
    let Some(disk) = SmallDisk::mount(&world.tracked.path("disk"), "64k") else { return };
    let file = |name: &str| disk.path.join(name).to_str().unwrap().to_owned();
    let filler = file("filler");
    for (flag, name) in [("--report", "r.json"), ("--metrics", "m.prom"), ("--changed-out", "c.txt")] {
        std::fs::write(&filler, "").unwrap();
        let mut space = std::fs::File::options().append(true).open(&filler).unwrap();
        while std::io::Write::write_all(&mut space, &[1; 512]).is_ok() {}
        world.change();
        let before = world.published();
        world.run("reseed", &[flag, &file(name)]).fails(1, &[DONE, "No space left on device"]);
        assert_eq!(world.published(), before + 1, "{flag}");
    }
}

#[test]
fn a_path_that_cannot_be_written_is_refused_before_the_work() {
    let world = World::new("t.mbtiles");
    world.change();
    let before = world.published();
    for (verb, flags) in [
        ("seed", &["--report", "--metrics", "--changed-out"][..]),
        ("reseed", &["--report", "--metrics", "--changed-out", "--dirty-out"]),
    ] {
        for flag in flags {
            let missing = world.tracked.path("missing/file.txt");
            let refused = format!("choose another {flag}; nothing was begun");
            world.run(verb, &[flag, missing.to_str().unwrap()]).fails(2, &["cannot write ", &refused]);
        }
    }
    // The file is there and may be written, but no other one beside it, by which it would be replaced.
    if let Some(disk) = SmallDisk::mount(&world.tracked.path("disk"), "64k,nr_inodes=2") {
        let file = disk.path.join("oar.prom");
        std::fs::write(&file, "").unwrap();
        world.run("reseed", &["--metrics", file.to_str().unwrap()]).fails(2, &["cannot write the metrics "]);
    }
    assert_eq!(world.published(), before);
}

#[test]
fn a_commit_of_shards_whose_files_cannot_be_written_is_committed_and_a_commit_again_ends_with_0() {
    let tracked = Tracked::facilities(60);
    let path = |name: &str| tracked.path(name).to_str().unwrap().to_owned();
    let (target, work) = (path("t.mbtiles"), path("work/"));
    let shards = |verb: &str, arguments: &[&str]| {
        let mut command = program();
        command.args(["shards", verb, "--work", &work, "--database-url", &tracked.db.url, "--progress", "none"]);
        run(command.args(arguments))
    };
    for flag in ["--report", "--changed-out"] {
        tracked.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE {SOME}"));
        let id = shards("begin", &["--shards", "1", "--zoom", "0-5", "--output", &target]).ok().stdout;
        shards("run", &["--shard", "1"]).ok();
        shards("commit", &[flag, FULL]).fails(1, &[" /dev/full", DONE]);
        tracked.is_fresh(Path::new(&target), &["--zoom", "0-5"]);
        for _ in 0..2 {
            let again = shards("commit", &[]).ok();
            let said = format!("run {} was committed already, and {work} holds no other: nothing to do", id.trim());
            assert!(again.stderr.contains(&said), "{}", again.stderr);
        }
        assert_eq!(shards("commit", &["-q"]).ok().stderr, "");
    }
    // A run that was given up was not committed.
    shards("begin", &["--shards", "1", "--zoom", "0-5", "--output", &target]).ok();
    run(program().args(["shards", "abort", "--work", &work])).ok();
    shards("commit", &[]).fails(2, &["holds no run"]);
}
