//! Which source files name files by their paths to make, change or remove them.

use super::names::sources;

/// Where the source names files by their paths to make, change or remove them, and why that is right. Everything else
/// goes by handles of folders (`src/target/directory/folder.rs`, `src/target/lock_file.rs`), which follow no link.
const BY_PATH: [(&str, &str); 14] = [
    ("src/cli/shell.rs", "man --output: pages in a folder that the user named"),
    ("src/run/init/mod.rs", "init --output: a new file that the user named; one that is there is not replaced"),
    (
        "src/report/mod.rs",
        "--report, --png, --html, --style: the user named it, links are followed, and the target is not replaced",
    ),
    ("src/report/run_metrics.rs", "--metrics: the user named it; a new file replaces it, a device is written to"),
    ("src/run/dirty_file.rs", "--dirty-out and --changed-out"),
    (
        "src/run/family/record.rs",
        "the folder that the outputs of a family share is made; --prune-variants: a target that this program wrote, under its lock, and no folder \
         that holds files of others",
    ),
    ("src/run/family/run.rs", "the folder of a variant's output is made"),
    ("src/serve/http/address.rs", "a socket that the user named, on which nobody listens any more"),
    ("src/target/directory/lock.rs", "the target itself is made, and removed if nothing was begun"),
    ("src/target/lock_file.rs", "an archive that the user named is opened to be read"),
    ("src/target/mbtiles/companions.rs", "SQLite's journal is removed: a link as itself"),
    ("src/target/bucket/archive_upload.rs", "a new file in a temporary folder of our own"),
    ("src/target/work_files.rs", "the work folder of shards, which the user named; files are made under new names"),
    ("src/target/staging.rs", "the rights of an open file are set"),
];

/// Calls that take a path to make, change or remove something.
const CALLS: [&str; 10] = [
    "File::create",
    "OpenOptions",
    "fs::write",
    "fs::rename",
    "fs::copy",
    "fs::hard_link",
    "fs::remove_",
    "fs::create_dir",
    "set_permissions",
    "symlink(",
];

#[test]
fn nothing_else_is_made_changed_or_removed_by_its_path() {
    let by_path = sources().into_iter().filter(|(_, text)| CALLS.iter().any(|call| text.contains(call)));
    let found: Vec<String> = by_path.map(|(name, _)| format!("src/{name}")).collect();
    for name in &found {
        assert!(
            BY_PATH.iter().any(|(known, _)| known == name),
            "{name} writes by a path: by which names, and who made them?"
        );
    }
    assert_eq!(found.len(), BY_PATH.len(), "{found:?}");
}
