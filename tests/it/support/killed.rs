//! Runs that are killed at one of their file operations, by strace, which delivers SIGKILL at the entry of a system
//! call.

use std::process::{Command, Stdio};

use super::program::wrapped;

/// The system calls that change files.
const FILE_OPERATIONS: &str =
    "fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,pwrite64,ftruncate,mkdir,link,linkat";

/// The system calls that rename a file to its final name.
pub(crate) const RENAMES: &str = "rename,renameat,renameat2";

/// The system calls that make a file durable.
pub(crate) const SYNCS: &str = "fsync,fdatasync";

/// The system calls that remove a file.
pub(crate) const REMOVALS: &str = "unlink,unlinkat";

/// Runs a command until one of its threads is about to begin the call with this number of one of the system calls that
/// change files; returns true if that happened. Strace counts each thread and each system call separately. To reach a
/// call that comes after more calls of another thread, use [`is_killed_at_one_of`].
pub(crate) fn is_killed_at(number: usize, command: &Command) -> bool {
    is_killed_at_one_of(FILE_OPERATIONS, number, command)
}

/// The same for some of the system calls.
pub(crate) fn is_killed_at_one_of(operations: &str, number: usize, command: &Command) -> bool {
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={operations}")]);
    traced.args(["-e", &format!("inject={operations}:signal=SIGKILL:when={number}")]);
    let ended = wrapped(traced, command).stdin(Stdio::null()).output().unwrap();
    if ended.status.success() {
        return false;
    }
    // strace ends in the same way as the process that it traces, here by the signal.
    assert_eq!(ended.status.code(), None, "{}", String::from_utf8_lossy(&ended.stderr));
    true
}

/// Runs a command to its end, whether it succeeds or fails. Returns the files that it has renamed or removed, one line
/// of strace for each, in order.
pub(crate) fn renamed_and_removed(command: &Command) -> Vec<String> {
    let listed = tempfile::NamedTempFile::new().unwrap();
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-y", "-o"]).arg(listed.path());
    traced.args(["-e", "trace=rename,renameat,renameat2,unlink,unlinkat", "-e", "status=successful"]);
    wrapped(traced, command).stdin(Stdio::null()).output().unwrap();
    std::fs::read_to_string(listed.path()).unwrap().lines().map(str::to_owned).collect()
}
