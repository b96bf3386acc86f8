//! The source: a constant says what it bounds, a parameter is no tuple, messages name commands by constants.

use std::path::{Path, PathBuf};

use oar_tiles::cli::command;
use oar_tiles::suggested::SuggestedCommand;

/// Names of constants that say neither what they bound nor in which unit.
const VAGUE: [&str; 7] = ["FEW", "MOST", "LEAST", "LARGE", "WORTH", "CHUNK", "UNSURE"];

/// The Rust files below a folder of the repository: path in that folder and text.
pub(super) fn texts_below(folder: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, files) } else { files.push(path) }
        }
    }
    let root = crate::support::repository(folder);
    let mut files = Vec::new();
    walk(Path::new(&root), &mut files);
    let code = files.iter().filter(|path| path.extension().is_some_and(|ending| ending == "rs"));
    code.map(|path| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    })
    .collect()
}

/// The source files without their tests: path below `src` and text.
pub(super) fn sources() -> Vec<(String, String)> {
    let code =
        texts_below("src").into_iter().filter(|(name, _)| !name.ends_with("tests.rs") && !name.contains("/tests/"));
    code.map(|(name, text)| (name, without_tests(&text).to_owned())).collect()
}

/// What stands before the first module of tests that a file itself contains.
fn without_tests(text: &str) -> &str {
    let begins =
        |at: &usize| text[*at..].lines().nth(1).is_some_and(|line| line.contains("mod ") && line.ends_with('{'));
    let tests = text.match_indices("#[cfg(test)]").map(|(at, _)| at).find(begins);
    &text[..tests.unwrap_or(text.len())]
}

/// The name that follows one of some keywords at the beginning of a line, after its visibility.
fn declared<'t>(line: &'t str, keywords: &[&str]) -> Option<&'t str> {
    let line = line.trim_start();
    let line = match line.strip_prefix("pub") {
        None => line,
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.trim_start(),
    };
    let rest = keywords.iter().find_map(|keyword| line.strip_prefix(keyword)?.strip_prefix(' '))?;
    Some(&rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())])
}

#[test]
fn a_constant_says_what_it_bounds() {
    let mut vague = Vec::new();
    for (file, text) in sources() {
        let names = text.lines().filter_map(|line| declared(line, &["const", "static"]));
        vague.extend(names.filter(|name| VAGUE.contains(name)).map(|name| format!("{file}: {name}")));
    }
    assert!(vague.is_empty(), "name what it bounds, and the unit: {vague:#?}");
}

/// Whether a tuple of parameters begins here: `(one, other): `.
fn is_tuple(text: &str) -> bool {
    let Some((names, kind)) = text.strip_prefix('(').and_then(|text| text.split_once("): ")) else { return false };
    let are_names = names.chars().all(|c| c.is_alphanumeric() || "_, ".contains(c)) && names.contains(", ");
    are_names && kind.starts_with(['&', '(', 'V', 'O', 'M', 'P', 'S'])
}

#[test]
fn a_parameter_is_no_tuple() {
    let mut tuples = Vec::new();
    for (file, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            // On a line of its own, or on the line of its function.
            let is_found = match line.split_once("fn ") {
                Some((_, function)) => function.match_indices('(').any(|(at, _)| is_tuple(&function[at..])),
                None => is_tuple(line.trim_start()),
            };
            if is_found {
                tuples.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(tuples.is_empty(), "give each its own parameter, or name the pair as a struct: {tuples:#?}");
}

/// What follows from a target's kind has a name in `TargetUrl`, so that outside of two files nobody matches it.
#[test]
fn nobody_else_tells_the_kinds_of_targets_apart() {
    let mut matched = Vec::new();
    let others = |file: &str| !["target/url.rs", "run/target/targets.rs"].contains(&file);
    for (file, text) in sources().into_iter().filter(|(file, _)| others(file)) {
        let variants = text.match_indices("TargetUrl::").map(|(at, found)| &text[at + found.len()..]);
        let count = variants.filter(|rest| rest.starts_with(char::is_uppercase)).count();
        if count > 0 {
            matched.push(format!("{file}: {count}"));
        }
    }
    assert!(matched.is_empty(), "ask TargetUrl for the fact, such as its storage: {matched:#?}");
}

/// A path in backticks in the documentation of a module, or a file's name, is one that exists: from the repository,
/// from `src`, or from where the file stands.
#[test]
fn the_documentation_of_modules_names_files_that_exist() {
    let source = crate::support::repository("src");
    let (mut seen, mut gone) = (0, Vec::new());
    for (name, text) in texts_below("src") {
        let file = source.join(&name);
        let folders = [
            crate::support::repository("."),
            source.clone(),
            file.parent().unwrap().to_owned(),
            file.with_extension(""),
        ];
        let docs = text.lines().filter_map(|line| line.trim_start().strip_prefix("//!"));
        for word in docs.flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let is_path = word.contains('/') && word.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.".contains(c));
            // Notes of targets and files of users begin with a dot, names of notes have parts in capitals; PostGIS is
            // written in C.
            let has_capitals = word.contains(|c: char| c.is_ascii_uppercase());
            let is_elsewhere = word.starts_with('.') || has_capitals || word.ends_with(".c") || word == "z/x/y";
            if is_elsewhere || !is_path && !word.ends_with(".rs") {
                continue;
            }
            seen += 1;
            let exists = |folder: &PathBuf| folder.join(word).exists() || folder.join(format!("{word}.rs")).is_file();
            if !folders.iter().any(exists) {
                gone.push(format!("{name}: {word}"));
            }
        }
    }
    assert!(seen > 50, "{seen}");
    assert!(gone.is_empty(), "{gone:#?}");
}

/// A message that spells a command would leave out the `--config FILE` that the run was given.
#[test]
fn messages_name_commands_by_constants() {
    let mut spelled = Vec::new();
    for (file, text) in sources().into_iter().filter(|(file, _)| !file.starts_with("cli/") && file != "suggested.rs") {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let is_spelled = SuggestedCommand::ALL.iter().any(|(_, command)| {
                line.match_indices(&format!("oar-tiles {}", command.verbs())).any(|(at, found)| {
                    let rest = &line[at + found.len()..];
                    !rest.starts_with(" --config") && !rest.starts_with(|c: char| c.is_alphanumeric())
                })
            });
            if is_spelled {
                spelled.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(spelled.is_empty(), "name the constant of src/suggested.rs: {spelled:#?}");
    for (_, suggested) in SuggestedCommand::ALL {
        let verb = suggested.verbs().split(' ').fold(command(), |of, verb| of.find_subcommand(verb).unwrap().clone());
        assert!(verb.get_arguments().any(|argument| argument.get_id() == "config"), "{suggested} takes no --config");
    }
}

/// The names in backticks in the first column of the tables of a module's documentation.
fn listed(text: &str) -> Vec<&str> {
    let doc = text.lines().map_while(|line| line.strip_prefix("//!"));
    let rows = doc.filter_map(|line| line.trim().strip_prefix("| `"));
    rows.flat_map(|row| row.split('|').next().unwrap_or_default().split('`').step_by(2))
        .map(|name| name.trim_end_matches('/'))
        .collect()
}

/// Whoever opens a folder finds in its `mod.rs` what each file is, and no file that is gone.
#[test]
fn each_module_lists_its_files() {
    let texts = texts_below("src");
    let mut wrong = Vec::new();
    for (name, text) in &texts {
        let Some(folder) = name.strip_suffix("mod.rs").filter(|folder| !folder.ends_with("tests/")) else { continue };
        let below = texts.iter().filter_map(|(other, _)| other.strip_prefix(folder));
        let mut files: Vec<&str> = below
            .filter_map(|rest| match rest.split_once('/') {
                Some((inner, "mod.rs")) => Some(inner),
                Some(_) => None,
                None => rest.strip_suffix(".rs").filter(|file| *file != "mod"),
            })
            .filter(|file| *file != "tests" && !file.ends_with("_tests"))
            .collect();
        let mut names = listed(text);
        files.sort_unstable();
        names.sort_unstable();
        let missing: Vec<&&str> = files.iter().filter(|file| !names.contains(file)).collect();
        let gone: Vec<&&str> = names.iter().filter(|listed| !files.contains(listed)).collect();
        if !missing.is_empty() || !gone.is_empty() {
            wrong.push(format!("{name}: missing {missing:?}, gone {gone:?}"));
        }
    }
    assert!(wrong.is_empty(), "a row of a table for each file: {wrong:#?}");
}
