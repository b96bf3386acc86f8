//! A run of `reseed --watch`.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::support::program::{program, signal, wait};

/// A watching run, and what it says.
pub(crate) struct Watching {
    pub child: Child,
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
        let mut child = command.spawn().unwrap();
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

    /// Asks it to end; gives the exit code, and what it said that was not heard before.
    pub(crate) fn end_with_lines(self) -> (i32, String) {
        signal(&self.child, "TERM");
        let code = wait(self.child).code;
        (code, self.lines.iter().map(|line| line + "\n").collect())
    }

    /// Asks it to end.
    pub(crate) fn end(self) -> i32 {
        signal(&self.child, "TERM");
        wait(self.child).code
    }
}
