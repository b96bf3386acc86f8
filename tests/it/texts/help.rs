//! The help of every command.

use crate::support::program::{bare_program, run};
use crate::texts::compare;

/// What `--help` prints, wrapped for a terminal of 100 columns.
fn help(command: &[&str]) -> String {
    run(bare_program().args(command).arg("--help").env("COLUMNS", "100")).ok().stdout
}

#[test]
fn the_help_of_every_command() {
    compare("help", &help(&[]));
    for command in [
        "init", "seed", "reseed", "publish", "purge", "verify", "inspect", "copy", "serve", "preview", "track", "jobs",
        "config", "doctor",
    ] {
        compare(&format!("help_{command}"), &help(&[command]));
    }
    compare("help_purge_status", &help(&["purge", "status"]));
    for command in ["install", "status", "prune", "remove"] {
        compare(&format!("help_track_{command}"), &help(&["track", command]));
    }
    for command in ["submit", "list", "show", "cancel"] {
        compare(&format!("help_jobs_{command}"), &help(&["jobs", command]));
    }
}

#[test]
fn every_command_has_a_snapshot_of_its_help() {
    // As clap lists them: a line that begins with two blanks and a name below "Commands:".
    let commands = |text: &str| -> Vec<String> {
        let below = text.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap().to_owned();
        let names = below.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned));
        names.filter(|name| !name.is_empty() && name != "help").collect()
    };
    let all = commands(&help(&[])).into_iter().map(|name| format!("help_{name}"));
    let of_track = commands(&help(&["track"])).into_iter().map(|name| format!("help_track_{name}"));
    let folder = crate::support::repository("tests/it/texts/snapshots");
    for name in all.chain(of_track) {
        assert!(folder.join(format!("{name}.snap")).exists(), "{name} is missing in `the_help_of_every_command`");
    }
}
