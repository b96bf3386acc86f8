//! Tests leave no process behind, even when they fail: whatever they start is killed with its value.

use std::path::Path;
use std::process::Command;

use super::names::texts_below;
use crate::support::process::Start as _;
use crate::support::until;

#[test]
fn a_process_ends_with_the_test_that_started_it() {
    let (tell, told) = std::sync::mpsc::channel();
    let failed = std::thread::spawn(move || {
        let process = Command::new("sleep").arg("600").start();
        tell.send(process.id()).unwrap();
        assert_eq!(process.id(), 0, "on purpose");
    });
    let id = told.recv().unwrap();
    assert!(failed.join().is_err());
    // Another process may have its number by now, but not its name.
    let name = format!("/proc/{id}/comm");
    until("it has ended", || {
        std::fs::read_to_string(&name).is_ok_and(|name| name != "sleep\n") || !Path::new(&name).exists()
    });
}

#[test]
fn only_one_place_starts_processes() {
    let bare: Vec<String> = texts_below("tests/it")
        .into_iter()
        .filter(|(name, _)| name != "support/process.rs" && name != "project/processes.rs")
        .filter(|(_, text)| text.contains(".spawn()") || text.contains("Command::spawn"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        bare, [""; 0],
        "use support::process::Start: the process is killed with its value, even if the test fails"
    );
}
