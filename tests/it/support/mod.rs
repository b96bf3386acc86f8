//! The common base of the tests: separate databases, the program, its archives.

pub(crate) mod archive;
pub(crate) mod atlas;
#[cfg(feature = "clouds")]
pub(crate) mod azure;
pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod chance;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod damaged;
pub(crate) mod database;
pub(crate) mod disk;
pub(crate) mod features;
pub(crate) mod folder;
pub(crate) mod gate;
pub(crate) mod killed;
pub(crate) mod manual;
pub(crate) mod nginx;
pub(crate) mod one_client_listener;
pub(crate) mod other_sessions;
pub(crate) mod places;
pub(crate) mod pooler;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod redis;
pub(crate) mod refusal;
pub(crate) mod s3;
pub(crate) mod s3_server;
pub(crate) mod schemas;
pub(crate) mod served;
pub(crate) mod silent;
pub(crate) mod sinks;
pub(crate) mod stub;
pub(crate) mod targets;
pub(crate) mod tracked;
pub(crate) mod tracking;
pub(crate) mod tree;
pub(crate) mod varnish;
pub(crate) mod watch_process;
pub(crate) mod world;

pub(crate) use archive::{Archive, unpacked};
pub(crate) use cluster::Cluster;
pub(crate) use database::Db;
pub(crate) use disk::SmallDisk;
pub(crate) use gate::{Gate, Place};
pub(crate) use one_client_listener::Door;
pub(crate) use program::seed;
pub(crate) use refusal::OldTarget;
pub(crate) use tree::Tree;

use std::io::Write as _;

/// Waits until a condition holds. Two minutes are long enough on a machine that is busy with other tests.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed().as_secs() < 120, "still waiting: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Writes the message of a failing test to standard error at once, in addition to what the test harness prints at its
/// end. So a log that was cut off shows it, too.
pub(crate) fn say_failures_at_once() {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current();
            // Not by eprintln!, which the harness captures.
            drop(writeln!(std::io::stderr(), "FAILURE in {}: {panic}", thread.name().unwrap_or("a thread")));
            default(panic);
        }));
    });
}

/// A file in the folder of real facilities, if it exists. Tests that need it report when they are skipped.
pub(crate) fn shared_data(file: &str) -> Option<std::path::PathBuf> {
    let folder = std::env::var_os("TEST_SHARED_DATA").map(std::path::PathBuf::from);
    let path = folder.map(|folder| folder.join(file)).filter(|path| path.is_file());
    if path.is_none() {
        eprintln!("SKIPPED: no shared data, {file} is not tested");
    }
    path
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
