//! Schedulers that are run for real, with the examples as they are shipped: GNU parallel, and a Slurm of one node.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::program::{over_rows, run};
use crate::support::repository;
use crate::support::tracked::Tracked;
use crate::support::until;

/// A configuration, and the folder of the program as the examples call it, by its name.
fn configured(tracked: &Tracked) -> PathBuf {
    let (config, target) = (tracked.path("oar-tiles.toml"), tracked.path("t.mbtiles"));
    let [url, target] = [tracked.db.url.clone(), target.display().to_string()];
    let settings = format!("[database]\nurl = {url:?}\n[tileset]\nzoom = \"0-5\"\noutput = {target:?}\n");
    std::fs::write(&config, over_rows(&settings)).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_oar-tiles"), tracked.path("oar-tiles")).unwrap();
    config
}

/// A command that finds the program.
fn command(tracked: &Tracked, name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}:/usr/sbin", tracked.folder.path().display()));
    command.env("HOME", tracked.folder.path()).current_dir(tracked.folder.path());
    command
}

#[test]
fn gnu_parallel_runs_its_example() {
    let tracked = Tracked::facilities(400);
    let config = configured(&tracked);
    let mut parallel = command(&tracked, "sh");
    run(parallel.arg(example("parallel.sh")).arg(&config).arg(tracked.path("work/"))).ok();
    tracked.is_fresh(&tracked.path("t.mbtiles"), &["--zoom", "0-5"]);
}

/// A Slurm of this machine alone, with its daemons in a folder.
struct Slurm<'t>(&'t Tracked);

impl<'t> Slurm<'t> {
    fn start(tracked: &'t Tracked) -> Slurm<'t> {
        let folder = tracked.folder.path();
        let at = |name: &str| folder.join(name).display().to_string();
        let key: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(1_024).collect();
        std::fs::write(at("key"), key).unwrap();
        std::fs::set_permissions(at("key"), std::fs::Permissions::from_mode(0o400)).unwrap();
        for folder in ["state", "spool"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        let host = run(Command::new("hostname").arg("-s")).ok().stdout;
        let [controller, node] =
            [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
        let (host, folder) = (host.trim(), folder.display());
        let settings = format!(
            "ClusterName=tiles\nSlurmctldHost={host}(127.0.0.1)\nAuthType=auth/munge\nAuthInfo=socket={folder}/munge.sock\n\
             ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSlurmUser=root\nSlurmdUser=root\n\
             SlurmctldPort={controller}\nSlurmdPort={node}\nSlurmctldPidFile={folder}/controller.pid\nSlurmdPidFile={folder}/node.pid\n\
             SlurmctldLogFile={folder}/controller.log\nSlurmdLogFile={folder}/node.log\nStateSaveLocation={folder}/state\n\
             SlurmdSpoolDir={folder}/spool\nReturnToService=2\nMpiDefault=none\nSelectType=select/cons_tres\n\
             SelectTypeParameters=CR_Core\nSchedulerParameters=batch_sched_delay=0,sched_interval=2\n\
             SlurmdParameters=config_overrides\nNodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN\n\
             PartitionName=tiles Nodes=ALL Default=YES State=UP\n"
        );
        std::fs::write(at("slurm.conf"), settings).unwrap();
        let slurm = Slurm(tracked);
        run(slurm.command("munged").arg("--force").args([
            format!("--key-file={}", at("key")),
            format!("--socket={}", at("munge.sock")),
            format!("--pid-file={}", at("munge.pid")),
            format!("--seed-file={}", at("seed")),
            format!("--log-file={}", at("munge.log")),
        ]))
        .ok();
        run(&mut slurm.command("slurmctld")).ok();
        run(&mut slurm.command("slurmd")).ok();
        slurm
    }

    fn command(&self, name: &str) -> Command {
        let mut command = command(self.0, name);
        command.env("SLURM_CONF", self.0.path("slurm.conf"));
        command
    }
}

impl Drop for Slurm<'_> {
    fn drop(&mut self) {
        for name in ["node.pid", "controller.pid", "munge.pid"] {
            if let Ok(pid) = std::fs::read_to_string(self.0.path(name)) {
                let _ended = Command::new("kill").arg(pid.trim()).status();
            }
        }
    }
}

#[test]
fn a_slurm_array_runs_its_example_its_advice_for_missing_shards_and_the_commit_after_it() {
    let tracked = Tracked::facilities(400);
    let config = configured(&tracked);
    let slurm = Slurm::start(&tracked);
    let text = std::fs::read_to_string(example("slurm.sh")).unwrap();
    // Smaller: this machine has one node.
    let mut smaller = text.clone();
    for (large, small) in [
        ("--shards 64", "--shards 5"),
        // The first call starts some of the shards, as if the others had failed.
        ("shards=1-64", "shards=1,3-4"),
        ("%8\"", "%2\""),
        ("cpus-per-task=4", "cpus-per-task=1"),
        ("--workers 4", "--workers 1"),
    ] {
        assert!(smaller.contains(large), "{large} in {text}");
        smaller = smaller.replace(large, small);
    }
    std::fs::write(tracked.path("slurm.sh"), smaller).unwrap();
    let call = |more: &[&str]| {
        let mut call = slurm.command("sh");
        let ended = call.arg(tracked.path("slurm.sh")).arg(&config).arg(tracked.path("work/")).args(more);
        run(ended).ok();
        until("all jobs have ended", || run(slurm.command("squeue").arg("--noheader")).ok().stdout.trim().is_empty());
        said(tracked.folder.path())
    };
    let said = call(&[]);
    let (_, missing) = said.split_once(" are not done: ").unwrap_or_else(|| panic!("{said}"));
    let (missing, _) = missing.split_once(". Run these again").unwrap();
    assert_eq!(missing, "2,5");
    let advice = "# once more with the numbers of the shards that oar-tiles shards status names as missing.";
    assert!(
        text.contains(advice) && text.contains("\n#   sh slurm.sh oar-tiles.toml /shared/seed/ 2,5,7-9\n"),
        "{text}"
    );
    let said = call(&[missing]);
    assert!(tracked.path("t.mbtiles").exists(), "{said}");
    tracked.is_fresh(&tracked.path("t.mbtiles"), &["--zoom", "0-5"]);
}

/// What jobs and daemons have written.
fn said(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let texts = files.filter(|path| path.extension().is_some_and(|ending| ending == "out" || ending == "log"));
    texts.map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

fn example(name: &str) -> PathBuf {
    repository("examples/scale-out").join(name)
}

/// Plain processes with the variables that schedulers set: not these schedulers themselves.
#[test]
fn the_variables_of_each_scheduler_say_which_shard_a_process_is() {
    let tracked = Tracked::facilities(30);
    for (variables, first) in [
        (&["JOB_COMPLETION_INDEX"][..], 0),
        (&["AWS_BATCH_JOB_ARRAY_INDEX"], 0),
        (&["CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT=2", "CLOUD_RUN_TASK_ATTEMPT=0", "CLOUD_RUN_JOB=seed"], 0),
        (&["SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN=1", "SLURM_ARRAY_TASK_STEP=1"], 0),
        (&["NOMAD_ALLOC_INDEX", "NOMAD_GROUP_NAME=seed"], 0),
        (&["SGE_TASK_ID", "SGE_TASK_FIRST=1", "SGE_TASK_LAST=2"], 1),
        (&["LSB_JOBINDEX", "LSB_JOBID=7"], 1),
        (&["PBS_ARRAY_INDEX", "PBS_JOBID=7[0]"], 0),
        (&["BATCH_TASK_INDEX", "BATCH_TASK_COUNT=2"], 0),
    ] {
        let sharded = super::helpers::Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
        sharded.begin(2, &[]);
        for index in first..first + 2 {
            let mut command = sharded.command("run", &["--workers", "1"]);
            command.env(variables[0], index.to_string());
            command.envs(variables[1..].iter().map(|variable| variable.split_once('=').unwrap()));
            let said = run(&mut command).ok().stderr;
            assert!(said.contains(&format!("shard {} is done", index - first + 1)), "{}: {said}", variables[0]);
        }
        let mut beyond = sharded.command("run", &[]);
        run(beyond.env(variables[0], (first + 2).to_string()))
            .fails(2, &[&format!("{} = ", variables[0]), "is shard 3"]);
        sharded.verb("commit", &[]).ok();
    }
}
