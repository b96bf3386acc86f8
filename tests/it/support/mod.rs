//! What tests stand on: a database of their own, the program, its archives.

pub mod archive;
pub mod browser;
pub mod cluster;
pub mod damaged;
pub mod database;
pub mod disk;
pub mod door;
pub mod features;
pub mod folder;
pub mod gate;
pub mod manual;
pub mod nginx;
pub mod others;
pub mod places;
pub mod program;
pub mod proxy;
pub mod refusal;
pub mod s3;
pub mod s3_server;
pub mod silent;
pub mod sinks;
pub mod targets;
pub mod tracked;
pub mod tracking;
pub mod tree;
pub mod watching;

pub use archive::Archive;
pub use cluster::Cluster;
pub use database::Db;
pub use disk::SmallDisk;
pub use door::Door;
pub use gate::{Gate, Place};
pub use program::seed;
pub use refusal::OldTarget;
pub use tree::Tree;

/// Waits until something holds; half a minute is the end of all patience.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed().as_secs() < 30, "still waiting: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// The folder of real facilities, if it is there; tests on it say when they skip.
pub fn shared_data(file: &str) -> Option<std::path::PathBuf> {
    let folder = std::env::var_os("TEST_SHARED_DATA").map(std::path::PathBuf::from);
    let path = folder.map(|folder| folder.join(file)).filter(|path| path.is_file());
    if path.is_none() {
        eprintln!("SKIPPED: no shared data, {file} is not tested");
    }
    path
}

/// A file of the repository.
pub fn repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
