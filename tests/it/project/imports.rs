//! Who may import whom: the top-level modules, and the parts of the large ones. No two files import each other, but for a parent and
//! its children. The table of the top level stands in `src/lib.rs` for people and here for the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A module's parts and the parts that each may import, beside itself.
type Table = &'static [(&'static str, &'static [&'static str])];

/// The verbs. What several of them need is in `run`.
const COMMAND: Table = &[
    ("config", &[]),
    ("copy", &[]),
    ("diff", &[]),
    ("doctor", &[]),
    ("init", &[]),
    ("inspect", &[]),
    ("jobs", &[]),
    ("publish", &[]),
    ("purge", &[]),
    ("reseed", &[]),
    ("schemas", &[]),
    ("seed", &[]),
    ("serve", &[]),
    ("shards", &[]),
    ("track", &[]),
    ("verify", &[]),
];

/// The top level.
const MODULES: Table = &[
    ("tile", &[]),
    ("error", &[]),
    ("cursor", &[]),
    ("stop", &[]),
    ("suggested", &[]),
    ("encode", &[]),
    ("manifest", &[]),
    ("https", &[]),
    ("mvt", &["tile"]),
    ("cells", &["tile"]),
    ("scratch", &["tile"]),
    ("source", &["tile"]),
    ("plan", &["cells", "scratch", "tile"]),
    ("sink", &["tile", "stop", "error", "encode", "manifest"]),
    ("patch", &["tile", "encode", "mvt", "source", "sink", "plan"]),
    ("postgis", &["cells", "tile", "stop", "error", "encode", "mvt", "scratch", "source", "manifest", "suggested"]),
    ("changes", &["tile", "error", "cursor", "postgis", "suggested"]),
    ("purge", &["tile", "stop", "error", "https", "sink", "suggested"]),
    ("pipeline", &["tile", "encode", "source", "sink"]),
    ("report", &["tile", "manifest", "plan", "pipeline", "sink", "purge", "suggested"]),
    ("shards", &["tile", "error", "manifest", "postgis", "report", "sink", "suggested"]),
    ("config", &["cells", "tile", "encode", "postgis", "changes", "pipeline", "sink", "serve", "purge"]),
    ("cli", &["tile", "changes", "config", "serve"]),
    (
        "run",
        &[
            "tile",
            "stop",
            "error",
            "encode",
            "manifest",
            "source",
            "plan",
            "scratch",
            "sink",
            "postgis",
            "pipeline",
            "report",
            "config",
            "changes",
            "patch",
            "serve",
            "purge",
            "shards",
            "suggested",
        ],
    ),
    (
        "command",
        &[
            "run",
            "tile",
            "stop",
            "error",
            "encode",
            "https",
            "manifest",
            "mvt",
            "source",
            "plan",
            "scratch",
            "sink",
            "postgis",
            "pipeline",
            "report",
            "config",
            "changes",
            "patch",
            "serve",
            "purge",
            "shards",
            "suggested",
        ],
    ),
    ("exit", &["error", "stop"]),
    ("signals", &["exit", "report", "stop"]),
    ("serve", &["error", "tile", "cursor", "stop", "encode", "manifest", "mvt", "sink", "purge"]),
    ("lib", &[]),
    (
        "bin",
        &[
            "changes",
            "cli",
            "command",
            "config",
            "exit",
            "postgis",
            "report",
            "run",
            "serve",
            "shards",
            "signals",
            "sink",
            "stop",
            "suggested",
        ],
    ),
];

/// `src/postgis/`.
const POSTGIS: Table = &[
    ("session", &[]),
    ("layer", &["session"]),
    ("sql", &["layer", "session"]),
    ("probe", &["sql", "layer", "session"]),
    ("split", &["sql", "layer", "session"]),
    ("survey", &["split", "sql", "layer", "session"]),
    ("refresh", &["probe", "layer", "session"]),
    ("variants", &["layer", "session"]),
    ("render", &["split", "variants", "survey", "probe", "sql", "layer", "session"]),
    ("discover", &["probe", "layer", "session"]),
];

/// `src/changes/`.
const CHANGES: Table = &[
    ("untracked", &[]),
    ("error", &["untracked"]),
    ("options", &[]),
    ("log", &["error"]),
    ("relations", &["log", "options", "error"]),
    ("install", &["relations", "log", "options", "error", "untracked"]),
    ("read", &["log", "options", "error", "untracked"]),
];

/// `src/sink/`. `tree` is what directories and buckets have in common; a kind of target imports another only where it stores it: a PMTiles
/// archive in S3.
const SINK: Table = &[
    ("error", &[]),
    ("lock_file", &[]),
    ("metadata", &[]),
    ("scratch", &[]),
    ("shrink", &[]),
    ("read", &[]),
    ("changed", &["scratch"]),
    ("compare", &[]),
    ("note_store", &[]),
    ("work_files", &["read", "s3"]),
    ("publication", &["changed", "note_store", "scratch"]),
    ("staging", &["lock_file"]),
    ("tree", &["metadata", "scratch"]),
    ("directory", &["changed", "lock_file", "note_store", "publication", "read", "scratch", "staging", "tree"]),
    ("mbtiles", &["compare", "lock_file", "metadata", "publication", "read", "scratch", "staging"]),
    ("pmtiles", &["compare", "lock_file", "metadata", "publication", "read", "scratch", "staging"]),
    ("s3", &["changed", "metadata", "note_store", "pmtiles", "publication", "read", "scratch", "tree"]),
];

/// A file's place in the tree of modules, such as `["postgis", "sql", "cells"]` for `postgis/sql/cells/mod.rs`.
type ModulePath = Vec<String>;

/// All files below a folder, by their module paths relative to `src`.
fn modules(folder: &Path) -> BTreeMap<ModulePath, PathBuf> {
    let source = crate::support::repository("src");
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(&source).unwrap().with_extension("");
            let mut module: ModulePath =
                relative.components().map(|part| part.as_os_str().to_str().unwrap().to_owned()).collect();
            if module.last().is_some_and(|last| last == "mod") {
                module.pop();
            }
            found.insert(module, path);
        }
    }
    found
}

/// The paths that a file imports or names, from `crate::`, `oar_tiles::` or `super::` on, as paths from the crate's root. Items in braces
/// are told apart.
fn imports(module: &ModulePath, text: &str) -> BTreeSet<ModulePath> {
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    // Unit tests may look upwards.
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut found = BTreeSet::new();
    for marker in ["crate::", "oar_tiles::", "super::"] {
        for (at, _) in code.match_indices(marker) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || before == '_' || before == ':' {
                continue;
            }
            let mut base = if marker == "super::" { parent(module) } else { Vec::new() };
            let mut rest = &code[at + marker.len()..];
            while let Some(shorter) = rest.strip_prefix("super::") {
                (base, rest) = (parent(&base), shorter);
            }
            tree(&base, rest, &mut found);
        }
    }
    found
}

fn parent(module: &ModulePath) -> ModulePath {
    module[..module.len().saturating_sub(1)].to_vec()
}

/// The paths of a use tree such as `a::{b, c::d}`; gives what follows it.
fn tree<'a>(base: &ModulePath, text: &'a str, found: &mut BTreeSet<ModulePath>) -> &'a str {
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches([',', ' ', '\n']);
            match rest.strip_prefix('}') {
                Some(behind) => return behind,
                None if rest.is_empty() => return rest,
                None => {}
            }
            let behind = tree(base, rest, found);
            rest = behind.find([',', '}']).map_or("", |at| &behind[at..]);
        }
    }
    let length = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(length);
    let path: ModulePath = base.iter().cloned().chain([name.to_owned()]).collect();
    if let Some(rest) = rest.strip_prefix("::") {
        return tree(&path, rest, found);
    }
    found.insert(path);
    rest
}

/// Holds the parts of a module to its table. Private children of the parts are the parts' own affair.
fn hold(module: &str, table: Table) {
    let folder = crate::support::repository("src").join(module);
    let depth = usize::from(!module.is_empty());
    let mut parts = BTreeSet::new();
    for (path, file) in modules(&folder) {
        // The parent itself names its parts.
        let Some(part) = path.get(depth) else { continue };
        parts.insert(part.clone());
        let (_, may) = table
            .iter()
            .find(|(name, _)| name == part)
            .unwrap_or_else(|| panic!("{part} is not in the table of {module}"));
        for other in imports(&path, &std::fs::read_to_string(&file).unwrap()) {
            let is_sibling = other.len() > depth && (depth == 0 || other[0] == module);
            let Some(other) = other.get(depth).filter(|_| is_sibling) else { continue };
            // A name that starts with a capital letter is an item of the parent.
            let is_part = depth == 0 || table.iter().any(|(name, _)| name == other);
            assert!(
                other == part || !is_part || may.contains(&other.as_str()),
                "{} may not import {other}",
                file.display()
            );
        }
    }
    let named: BTreeSet<String> = table.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(parts, named, "the table of {module} names other parts than there are");
}

/// The files that a file imports, by the longest known prefix of each path.
fn edges(module: &str) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
    let files = modules(&crate::support::repository("src").join(module));
    let own = |path: &ModulePath| {
        (1..=path.len()).rev().map(|end| path[..end].to_vec()).find(|prefix| files.contains_key(prefix))
    };
    let of = |(path, file): (&ModulePath, &PathBuf)| {
        let text = std::fs::read_to_string(file).unwrap();
        let others = imports(path, &text).iter().filter_map(own).filter(|other| other != path).collect();
        (path.clone(), others)
    };
    files.iter().map(of).collect()
}

/// A circle of files that import each other, beyond a parent and what lies below it.
fn circle(edges: &BTreeMap<ModulePath, BTreeSet<ModulePath>>) -> Option<Vec<ModulePath>> {
    let is_family = |one: &ModulePath, other: &ModulePath| one.starts_with(other) || other.starts_with(one);
    let next =
        |path: &ModulePath| edges[path].iter().filter(|other| !is_family(path, other)).cloned().collect::<Vec<_>>();
    for start in edges.keys() {
        let (mut waiting, mut from) = (vec![start.clone()], BTreeMap::new());
        while let Some(path) = waiting.pop() {
            for other in next(&path) {
                if other == *start {
                    let mut way = vec![start.clone(), path];
                    while let Some(before) = way.last().and_then(|last| from.get(last)) {
                        way.push(ModulePath::clone(before));
                    }
                    return Some(way);
                }
                if let std::collections::btree_map::Entry::Vacant(vacant) = from.entry(other.clone()) {
                    vacant.insert(path.clone());
                    waiting.push(other);
                }
            }
        }
    }
    None
}

#[test]
fn imports_go_down() {
    hold("", MODULES);
}

#[test]
fn imports_go_down_in_postgis() {
    hold("postgis", POSTGIS);
}

#[test]
fn imports_go_down_in_changes() {
    hold("changes", CHANGES);
}

#[test]
fn imports_go_down_in_sink() {
    hold("sink", SINK);
}

#[test]
fn no_verb_imports_another() {
    hold("command", COMMAND);
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    // Others join when they have none.
    let modules = [
        "postgis",
        "plan",
        "tile",
        "mvt",
        "patch",
        "report",
        "changes",
        "pipeline",
        "config",
        "sink",
        "cells",
        "source",
        "serve",
        "command/serve",
    ];
    let circles = modules.map(|module| circle(&edges(module)));
    assert_eq!(circles, modules.map(|_| None));
}

#[test]
fn paths_of_imports_are_told_apart() {
    let module: ModulePath = ["a", "b", "c"].map(str::to_owned).to_vec();
    let text = "use super::{d, e::{F, g::h}};\nuse super::super::x::Y;\n// use crate::no;\nlet z = crate::v::w(1);";
    let found: Vec<String> = imports(&module, text).iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::b::d", "a::b::e::F", "a::b::e::g::h", "a::x::Y", "v::w"]);
}
