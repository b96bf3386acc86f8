//! A run of `reseed --watch`.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::process::{Process, Start as _};
use crate::support::program::{program, signal, wait};

/// A watching run, and its output. It is killed when the value is dropped, even if the test fails: otherwise it would
/// keep open what the test has opened.
pub(crate) struct Watching {
    child: Process,
    pub lines: Receiver<String>,
}

impl Watching {
    /// Starts it.
    pub(crate) fn start(url: &str, target: &Path, arguments: &[&str]) -> Watching {
        let mut command = program();
        command.args([
            "reseed",
            "--watch",
            "--progress",
            "none",
            "--debounce",
            "50ms",
            "--database-url",
            url,
            "--output",
        ]);
        Watching::of(command.arg(target).args(arguments))
    }

    /// Starts a command that watches.
    pub(crate) fn of(command: &mut Command) -> Watching {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.start();
        let (heard, lines) = channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        for from in [Box::new(out) as Box<dyn std::io::Read + Send>, Box::new(err)] {
            let heard = heard.clone();
            std::thread::spawn(move || {
                BufReader::new(from).lines().map_while(Result::ok).for_each(|line| drop(heard.send(line)));
            });
        }
        Watching { child, lines }
    }

    /// Waits for a line that holds a text.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) -> String {
        let mut seen = String::new();
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(60)) {
            if line.contains(text) {
                return line;
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        panic!("«{text}» never came:\n{seen}");
    }

    /// Sends it a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Waits until it has ended; returns the exit code.
    pub(crate) fn ended(self) -> i32 {
        wait(self.child).code
    }

    /// Asks it to end; returns the exit code, and the output that was not read before.
    pub(crate) fn end_with_lines(self) -> (i32, String) {
        self.signal("TERM");
        let code = wait(self.child).code;
        (code, self.lines.iter().map(|line| line + "\n").collect())
    }

    /// Asks it to end.
    pub(crate) fn end(self) -> i32 {
        self.signal("TERM");
        self.ended()
    }
}
