//! The program itself, run as a user runs it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::process::{Process, Start as _, shielded};

/// A run that has ended.
pub(crate) struct Run {
    /// The exit code; -1 after a signal that was not caught.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// Asserts success.
    #[track_caller]
    pub(crate) fn ok(self) -> Run {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    /// Asserts the exit code and that standard error holds each text.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, texts: &[&str]) -> Run {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        for text in texts {
            assert!(self.stderr.contains(text), "«{text}» is missing in:\n{}", self.stderr);
        }
        self
    }
}

/// `oar-tiles` without any variable of the tester's environment that could change its behaviour. Without a
/// configuration of its own, a run draws every facility at every zoom.
pub(crate) fn program() -> Command {
    let mut command = bare_program();
    // Many tests empty tables on purpose; other tests check what `max_shrink` refuses.
    command.env("OAR_TILES_CONFIG", ROWS).env("OAR_TILES_MAX_SHRINK", "100%");
    command
}

/// The configuration of runs that are given none.
pub(crate) const ROWS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/every-facility.toml");

/// Settings, with the layer of [`ROWS`] if they have none. The lines of the settings stay where they are.
pub(crate) fn over_rows(settings: &str) -> String {
    if settings.contains("[[layer]]") || settings.contains("layer = ") {
        settings.to_owned()
    } else {
        format!("{settings}\n{ROWS_LAYER}")
    }
}

/// What [`ROWS`] holds.
pub(crate) const ROWS_LAYER: &str = include_str!("../../../scripts/every-facility.toml");

/// The same without any configuration: the defaults. It stands in a folder that holds no target and no configuration,
/// and into which nobody can write: whatever lies in the clone changes nothing.
pub(crate) fn bare_program() -> Command {
    super::say_failures_at_once();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oar-tiles"));
    shielded(&mut command).current_dir("/proc");
    // The form for a terminal. The form for a pipe has tests of its own.
    command.env("OAR_TILES_LOG", "plain");
    command
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Run {
    let output = shielded(command).stdin(Stdio::null()).output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// `oar-tiles seed` of a database into a file, with more arguments, not yet started.
pub(crate) fn seed_command(url: &str, output: &Path, arguments: &[&str]) -> Command {
    let mut command = program();
    command.args(["seed", "--progress", "none", "--database-url", url, "--output"]).arg(output).args(arguments);
    command
}

/// A command as the last arguments of another, in the same folder and environment.
pub(crate) fn wrapped(mut by: Command, command: &Command) -> Command {
    by.arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        by.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => by.env(name, value),
            None => by.env_remove(name),
        };
    }
    by
}

/// The same command without root's right to read and write everywhere.
pub(crate) fn humble(command: &Command) -> Command {
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let mut humble = Command::new(if root { "setpriv" } else { "env" });
    if root {
        humble.arg("--bounding-set=-dac_override,-dac_read_search");
    }
    wrapped(humble, command)
}

/// Runs `oar-tiles seed` of a database into a file, with more arguments.
pub(crate) fn seed(url: &str, output: &Path, arguments: &[&str]) -> Run {
    run(&mut seed_command(url, output, arguments))
}

/// Starts `oar-tiles seed` and does not wait.
pub(crate) fn start_seed(url: &str, output: &Path, arguments: &[&str]) -> Process {
    let mut command = seed_command(url, output, arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start()
}

/// Sends a signal, by name as `kill` knows it.
pub(crate) fn signal(child: &Process, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits for a started run; one that never ends is killed, and fails the test.
#[track_caller]
pub(crate) fn wait(mut child: Process) -> Run {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("the run does not end: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The same command, ended after a minute, for one that would serve for ever if it were not refused.
pub(crate) fn ending(command: &Command) -> Command {
    let mut limited = Command::new("timeout");
    limited.arg("60");
    wrapped(limited, command)
}

/// The same command as a user of its own, who may have this many processes and threads, with a timeout of half a
/// minute.
pub(crate) fn with_threads(command: &Command, most: u32) -> Command {
    let mut limited = Command::new("timeout");
    limited.args(["-s", "KILL", "30"]);
    if Command::new("id").arg("-u").output().unwrap().stdout == b"0\n" {
        // A number that no account has: threads of all processes of a user count.
        limited.args(["setpriv", "--reuid=61234", "--regid=61234", "--clear-groups"]);
    }
    limited.args(["prlimit", &format!("--nproc={most}")]);
    wrapped(limited, command)
}

/// The same command with at most this many kilobytes of memory, and a timeout of a minute.
pub(crate) fn limited(command: &Command, kilobytes: u32) -> Command {
    let mut limited = Command::new("timeout");
    limited.args(["-s", "KILL", "60", "sh", "-c", &format!("ulimit -c 0; ulimit -v {kilobytes}; exec \"$@\""), "sh"]);
    wrapped(limited, command)
}
