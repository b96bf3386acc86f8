//! Snapshots that no test refers to are leftovers: each name stands in a test's source.

use std::path::PathBuf;

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(crate::support::repository(folder)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == ending)).collect()
}

#[test]
fn every_snapshot_is_compared_by_a_test() {
    let sources: String =
        files("tests/it/texts", "rs").iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let snapshots = files("tests/it/texts/snapshots", "snap");
    assert!(snapshots.len() > 20, "no snapshots were found");
    for snapshot in snapshots {
        let name = snapshot.file_stem().unwrap().to_str().unwrap();
        // The names of helps are composed of those of commands.
        let is_named = match name.strip_prefix("short_").unwrap_or(name).strip_prefix("help_") {
            Some(command) => command.split('_').all(|part| sources.contains(&format!("\"{part}\""))),
            None => sources.contains(&format!("\"{name}\"")),
        };
        assert!(is_named, "no test compares {name}: delete {}", snapshot.display());
    }
}
