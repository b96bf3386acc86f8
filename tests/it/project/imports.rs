//! Who may import whom. In each folder the parts stand in layers, and a part imports only parts of the layers before
//! its own. No two files import each other, but for a parent and its children.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Folders of `src` and their layers. The parts of a layer are separated by spaces and do not import each other, except
/// where a `+` joins them.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "backoff clock hex json prometheus threads",
            "setting",
            "cursor encode error https lib manifest stop suggested tile",
            "cells exit mvt scratch source",
            "target",
            "cdn pipeline plan postgis",
            "change_log draw report serve",
            "config shards signals",
            "run",
            "cli",
            "main",
        ],
    ),
    ("cdn", &["items pace", "provider", "outbox", "planning", "delivery"]),
    ("cells", &["fold grid", "gather", "kept row_cells"]),
    (
        "change_log",
        &["gap", "error", "log", "decoding safety witness", "facts", "relations waking", "install pruning read"],
    ),
    (
        "cli",
        &[
            "help jobs mistakes own_file seed_flags settings shell threads tilesets",
            "closing",
            "config copy diff doctor init inspect shards track variants",
            "publish purge serve verify",
            "seed",
        ],
    ),
    (
        "config",
        &[
            "filters",
            "file memory tests",
            "error sample",
            "variables variants",
            "values",
            "settings show",
            "area by_zoom cells shapes",
            "check layer parameters purge s3 serve tilesets variant_settings",
        ],
    ),
    (
        "draw",
        &[
            "areas choice family_tiles patch statements",
            "cells function",
            "cached_rows",
            "drawing",
            "checks family fit repeats",
            "live_rows neighbourhood",
        ],
    ),
    ("encode", &["small"]),
    ("mvt", &["tests wire", "clip geometry parts points", "compare features forms overzoom rings", "drawing shapes"]),
    ("pipeline", &["queue stats tests", "in_flight writer"]),
    ("plan", &["cut tests", "sweep", "dirty quad", "batches"]),
    ("postgis", &["session wkb", "layer", "sql variants", "probe split", "discover refresh survey"]),
    (
        "report",
        &[
            "document event family run_metrics",
            "summary terminal",
            "contents discovered reseeded",
            "backlog findings record",
            "bar lines",
        ],
    ),
    (
        "run",
        &[
            "config dirty_file endpoint fitted_filters identity init jobs picture publish queue_gate row_loss \
             writer_lease",
            "describe",
            "inspect target",
            "diff dirty finish",
            "kept_rows",
            "doctor error prepare+shared_rows+family purge serving track",
            "dry_run render tilesets",
            "seed",
            "family_seed",
            "copy reseed shards verify",
        ],
    ),
    (
        "serve",
        &[
            "http known_changes signature write_back",
            "parameters queue",
            "live+observe+options+redis+target+tiles",
            "jobs",
            "error writer",
            "preview",
            "public+tilesets",
            "admin",
            "server",
        ],
    ),
    ("shards", &["error index merge plan run_file", "cut folder"]),
    (
        "target",
        &[
            "compare disk_list error lease_clock lock_file metadata note_store read shrink work_files",
            "changed staging",
            "publication",
            "tree",
            "directory mbtiles pmtiles",
            "bucket",
            "url",
        ],
    ),
    (
        "tile",
        &["batch bbox coord feature margin order positions rect_list tag text world_box zoom", "area_part", "scope"],
    ),
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
            if path.extension().is_none_or(|extension| extension != "rs") {
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

/// The paths that a file imports or names, from `crate::`, `oar_tiles::` or `super::` on, as paths from the crate's
/// root. Items in braces are told apart.
fn imports(module: &ModulePath, text: &str) -> BTreeSet<ModulePath> {
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    // Unit tests may look upwards.
    let code = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
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

/// Holds the parts of a folder to its layers. Private children of the parts are the parts' own affair.
fn hold(folder: &str, layers: &[&str]) {
    let depth = usize::from(!folder.is_empty());
    let groups = layers.iter().zip(0..).flat_map(|(parts, layer)| parts.split(' ').map(move |group| (group, layer)));
    let layer_of: BTreeMap<&str, (&str, usize)> =
        groups.flat_map(|(group, layer)| group.split('+').map(move |part| (part, (group, layer)))).collect();
    let mut parts = BTreeSet::new();
    for (path, file) in modules(&crate::support::repository("src").join(folder)) {
        // The parent itself names its parts.
        let Some(part) = path.get(depth) else { continue };
        parts.insert(part.clone());
        let layer = layer_of.get(part.as_str());
        let (group, layer) = layer.unwrap_or_else(|| panic!("src/{folder}: {part} is in no layer"));
        for other in imports(&path, &std::fs::read_to_string(&file).unwrap()) {
            let is_sibling = other.len() > depth && (depth == 0 || other[0] == folder);
            let Some(other) = other.get(depth).filter(|_| is_sibling) else { continue };
            // Other names are items of the parent.
            let Some((other_group, other_layer)) = layer_of.get(other.as_str()) else { continue };
            assert!(
                other_group == group || other_layer < layer,
                "{} may not import {other}: it is in no layer before",
                file.display()
            );
        }
    }
    let named: BTreeSet<String> = layer_of.keys().map(|&name| name.to_owned()).collect();
    assert_eq!(parts, named, "the layers of src/{folder} name other parts than there are");
}

/// The files that a file imports, by the longest known prefix of each path.
fn edges() -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
    let files = modules(&crate::support::repository("src"));
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

/// Folders of `src` that have files in them.
fn folders() -> BTreeSet<String> {
    let paths = modules(&crate::support::repository("src")).into_keys();
    paths.filter(|path| path.len() > 1).map(|path| path[0].clone()).chain([String::new()]).collect()
}

#[test]
fn imports_go_down() {
    for (folder, layers) in LAYERS {
        hold(folder, layers);
    }
    assert_eq!(LAYERS.iter().map(|(folder, _)| (*folder).to_owned()).collect::<BTreeSet<_>>(), folders());
}

#[test]
fn serving_knows_no_database() {
    for (path, file) in modules(&crate::support::repository("src/serve")) {
        for other in imports(&path, &std::fs::read_to_string(&file).unwrap()) {
            let known = ["postgis", "change_log", "draw", "config", "run"];
            assert!(!known.contains(&other[0].as_str()), "{} may not import {}", file.display(), other.join("::"));
        }
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    assert_eq!(circle(&edges()), None);
}

#[test]
fn folders_below_src_are_two_deep_at_most() {
    for (path, file) in modules(&crate::support::repository("src")) {
        let is_folder = file.file_name().is_some_and(|name| name == "mod.rs");
        let folders = if is_folder { path.len() } else { path.len().saturating_sub(1) };
        let is_of_tests = path.last().is_some_and(|last| last == "tests");
        assert!(folders <= 2 || is_of_tests, "{} is deeper than two folders", file.display());
    }
}

#[test]
fn paths_of_imports_are_told_apart() {
    let module: ModulePath = ["a", "b", "c"].map(str::to_owned).to_vec();
    let text = "use super::{d, e::{F, g::h}};\nuse super::super::x::Y;\n// use crate::no;\nlet z = crate::v::w(1);";
    let found: Vec<String> = imports(&module, text).iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::b::d", "a::b::e::F", "a::b::e::g::h", "a::x::Y", "v::w"]);
}
