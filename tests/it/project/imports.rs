//! Who may import whom. The table stands in `src/lib.rs` for people and here for the machine.

use std::collections::BTreeSet;
use std::path::Path;

/// A room and the rooms that it may import, beside itself.
const MAY_IMPORT: [(&str, &[&str]); 22] = [
    ("tile", &[]),
    ("error", &[]),
    ("stop", &[]),
    ("encode", &[]),
    ("manifest", &[]),
    ("mvt", &["tile"]),
    ("cells", &["tile"]),
    ("source", &["tile"]),
    ("plan", &["cells", "tile"]),
    ("sink", &["tile", "stop", "error", "encode", "manifest"]),
    ("patch", &["tile", "encode", "mvt", "source", "sink", "plan"]),
    ("postgis", &["cells", "tile", "stop", "error", "encode", "mvt", "source", "manifest"]),
    ("changes", &["tile", "error", "postgis"]),
    ("pipeline", &["tile", "encode", "source", "sink"]),
    ("report", &["tile", "manifest", "plan", "pipeline"]),
    ("config", &["cells", "tile", "encode", "postgis", "changes", "pipeline", "sink"]),
    ("cli", &["tile", "changes", "config"]),
    (
        "command",
        &[
            "tile", "stop", "error", "encode", "manifest", "mvt", "source", "plan", "sink", "postgis", "pipeline",
            "report", "config", "changes", "patch",
        ],
    ),
    ("exit", &["error", "stop"]),
    ("signals", &["exit", "report", "stop"]),
    ("lib", &[]),
    ("main", &["changes", "cli", "command", "config", "exit", "postgis", "report", "signals", "sink", "stop"]),
];

fn imports(path: &Path, found: &mut BTreeSet<String>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            imports(&entry.unwrap().path(), found);
        }
        return;
    }
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    for line in code {
        for marker in ["crate::", "oar_tiles::"] {
            for (at, _) in line.match_indices(marker) {
                let rest = &line[at + marker.len()..];
                found.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            }
        }
    }
}

#[test]
fn imports_go_down() {
    let source = crate::support::repository("src");
    let mut rooms = BTreeSet::new();
    for entry in std::fs::read_dir(&source).unwrap() {
        let path = entry.unwrap().path();
        let room = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (_, may) =
            MAY_IMPORT.iter().find(|(name, _)| *name == room).unwrap_or_else(|| panic!("{room} is not in the table"));
        let mut found = BTreeSet::new();
        imports(&path, &mut found);
        for other in found {
            assert!(other == room || may.contains(&other.as_str()), "{room} may not import {other}");
        }
        rooms.insert(room);
    }
    assert_eq!(rooms.len(), MAY_IMPORT.len(), "the table names a room that is not there");
}
