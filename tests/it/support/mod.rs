//! What tests stand on: a database of their own, the program, its archives.

pub mod archive;
pub mod database;
pub mod program;

pub use archive::Archive;
pub use database::Db;
pub use program::seed;

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
