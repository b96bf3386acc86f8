//! Processes that tests start. Each is killed when its value is dropped, so a test that fails leaves none behind.
//! Nothing else in these tests starts a process without waiting for it (`project::processes`).

use std::ops::{Deref, DerefMut};
use std::process::{Child, Command, Output};

/// A process that was started. It is killed when the value is dropped, unless it has ended.
pub(crate) struct Process(Option<Child>);

impl Process {
    /// Waits until it has ended; returns what it has written to the pipes that were not taken.
    pub(crate) fn wait_with_output(mut self) -> std::io::Result<Output> {
        self.0.take().expect("only this takes it").wait_with_output()
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.0.as_ref().expect("only its end takes it")
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        self.0.as_mut().expect("only its end takes it")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(child) = &mut self.0 else { return };
        let has_ended = matches!(child.try_wait(), Ok(Some(_)));
        if !has_ended && let Err(error) = child.kill().and_then(|()| child.wait()) {
            eprintln!("process {} is left behind: {error}", child.id());
        }
    }
}

/// Starts a command.
pub(crate) trait Start {
    /// Starts it and does not wait.
    fn start(&mut self) -> Process;
}

/// Takes away the variables of the tester's environment that change what the program and psql do, unless the test has
/// set them.
pub(crate) fn shielded(command: &mut Command) -> &mut Command {
    let given: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let is_setting = text.starts_with("PG") || text.starts_with("OAR_TILES_") || text == "DATABASE_URL";
        let is_setting = is_setting || text.starts_with("AZURE_") || text.starts_with("GOOGLE_");
        if is_setting && !given.contains(&name) {
            command.env_remove(&name);
        }
    }
    command
}

impl Start for Command {
    #[track_caller]
    fn start(&mut self) -> Process {
        match shielded(self).spawn() {
            Ok(child) => Process(Some(child)),
            Err(error) => {
                panic!("{} cannot be started: {error}: does scripts/test install it?", self.get_program().display())
            }
        }
    }
}
