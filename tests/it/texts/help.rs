//! The help of every command.

use std::process::Command;

use crate::support::program::{bare_program, run};
use crate::texts::compare;

/// What `-h` prints.
fn short_help(command: &[&str]) -> String {
    run(bare_program().args(command).arg("-h").env("COLUMNS", "100")).ok().stdout
}

/// What `--help` prints, wrapped for a terminal of 100 columns.
fn help(command: &[&str]) -> String {
    run(bare_program().args(command).arg("--help").env("COLUMNS", "100")).ok().stdout
}

#[test]
fn the_help_of_every_command() {
    compare("help", &help(&[]));
    for command in [
        "init",
        "seed",
        "reseed",
        "publish",
        "purge",
        "verify",
        "inspect",
        "copy",
        "diff",
        "serve",
        "preview",
        "track",
        "jobs",
        "config",
        "completions",
        "man",
        "doctor",
        "shards",
    ] {
        compare(&format!("help_{command}"), &help(&[command]));
    }
    for command in ["seed", "reseed", "serve"] {
        compare(&format!("short_help_{command}"), &short_help(&[command]));
    }
    compare("help_purge_status", &help(&["purge", "status"]));
    for command in ["install", "status", "prune", "remove"] {
        compare(&format!("help_track_{command}"), &help(&["track", command]));
    }
    for command in ["begin", "run", "commit", "status", "abort"] {
        compare(&format!("help_shards_{command}"), &help(&["shards", command]));
    }
    for command in ["submit", "list", "show", "cancel"] {
        compare(&format!("help_jobs_{command}"), &help(&["jobs", command]));
    }
}

/// A terminal of 40 lines.
#[test]
fn the_short_help_of_every_command_fits_a_screen() {
    let folder = crate::support::repository("tests/it/texts/snapshots");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut seen = 0;
    for name in names.filter_map(|name| Some(name.strip_prefix("help_")?.strip_suffix(".snap")?.to_owned())) {
        let command: Vec<&str> = name.split('_').collect();
        let lines = short_help(&command).lines().count();
        assert!((5..=40).contains(&lines), "{name}: {lines}");
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
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

/// What a verb prints at a terminal.
fn at_a_terminal(command: &str, variables: &[(&str, &str)]) -> String {
    let program = format!("{} {command}", env!("CARGO_BIN_EXE_oar-tiles"));
    let mut shell = Command::new("script");
    shell.args(["-qec", &program, "/dev/null"]).env_remove("NO_COLOR").env("TERM", "xterm");
    run(shell.envs(variables.iter().copied())).ok().stdout
}

#[test]
fn help_has_colours_at_a_terminal_unless_no_color_is_set() {
    assert!(at_a_terminal("seed -h", &[]).contains("\u{1b}["));
    assert!(!at_a_terminal("seed -h", &[("NO_COLOR", "1")]).contains('\u{1b}'));
    assert!(!short_help(&["seed"]).contains('\u{1b}'));
}

#[test]
fn each_shell_gets_completions_that_it_can_read() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(bare_program().args(["completions", shell])).ok().stdout;
        assert!(script.contains("allow-shrink") && script.contains("jobs"), "{shell}");
        if shell == "bash" {
            let file = folder.path().join("oar-tiles");
            std::fs::write(&file, script).unwrap();
            let asked = "COMP_WORDS=(oar-tiles seed --allow) COMP_CWORD=2; complete=($(complete -p oar-tiles)); \
                         for ((i = 0; i < ${#complete[@]}; i++)); do [ ${complete[i]} != -F ] || function=${complete[i + 1]}; done; \
                         $function oar-tiles --allow seed; echo ${COMPREPLY[@]}";
            let completed = run(Command::new("bash").args(["-ec", &format!(". {}; {asked}", file.display())])).ok();
            assert_eq!(completed.stdout.trim(), "--allow-shrink");
        }
    }
    run(bare_program().args(["completions", "tcsh"])).fails(2, &["invalid value 'tcsh'"]);
}

#[test]
fn each_command_has_a_manual_page() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man/man1");
    run(bare_program().args(["man", "--output"]).arg(&pages)).ok();
    let seed = std::fs::read_to_string(pages.join("oar-tiles-seed.1")).unwrap();
    for text in ["Render every tile", "\\-\\-allow\\-shrink", "Exit codes", "oar\\-tiles seed \\-\\-zoom"] {
        assert!(seed.contains(text), "«{text}» is missing in:\n{seed}");
    }
    for name in ["oar-tiles.1", "oar-tiles-track-install.1"] {
        assert!(pages.join(name).is_file(), "{name}");
    }
    assert!(run(bare_program().arg("man")).ok().stdout.contains(".TH oar-tiles 1"));
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    run(bare_program().args(["man", "--output"]).arg(&file)).fails(1, &["cannot write manual pages into", "--output"]);
}
