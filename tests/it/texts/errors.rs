//! The catalogue of errors: the text of every `#[error("…")]` in the source, by file, type and variant.

use std::path::Path;

use oar_tiles::suggested::SuggestedCommand;

use crate::texts::compare;

/// The source files below a folder, sorted by path.
fn sources(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.ends_with("tests") {
            sources(&path, found);
        } else if path.to_str().is_some_and(|path| path.ends_with(".rs") && !path.ends_with("tests.rs")) {
            found.push(path);
        }
    }
}

/// The text of an attribute's string literal, and what follows it.
fn literal(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => match characters.next().unwrap().1 {
                'n' => value.push('\n'),
                '\n' => {
                    let rest = characters.as_str().trim_start();
                    let (more, behind) = literal(rest);
                    return (value + &more, behind);
                }
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    panic!("a literal without an end: {text}");
}

/// The arguments of an attribute behind its literal, up to the bracket that ends it.
fn arguments(text: &str) -> Vec<String> {
    let (mut depth, mut arguments, mut current, mut is_text) = (0, Vec::new(), String::new(), false);
    for character in text.chars() {
        match character {
            '"' => is_text = !is_text,
            '(' | '[' if !is_text => depth += 1,
            ')' if !is_text && depth == 0 => break,
            ')' | ']' if !is_text => depth -= 1,
            ',' if !is_text && depth == 0 => {
                arguments.push(std::mem::take(&mut current).trim().to_owned());
                continue;
            }
            _ => {}
        }
        current.push(character);
    }
    arguments.push(current.trim().to_owned());
    arguments.into_iter().filter(|argument| !argument.is_empty()).collect()
}

/// A message with its unnamed placeholders replaced by the expressions that fill them.
fn with_arguments(message: &str, arguments: Vec<String>) -> String {
    let (named, unnamed): (Vec<String>, Vec<String>) = arguments.into_iter().partition(|argument| {
        argument.split_once(" = ").is_some_and(|(name, _)| name.chars().all(char::is_alphanumeric))
    });
    let mut message = unnamed
        .into_iter()
        .fold(message.to_owned(), |message, argument| message.replacen("{}", &format!("{{{argument}}}"), 1));
    for (name, command) in SuggestedCommand::ALL {
        message = message.replace(&format!("{{{name}}}"), &command.to_string());
    }
    for argument in named {
        let (name, value) = argument.split_once(" = ").unwrap();
        message = message.replace(&format!("{{{name}}}"), &format!("{{{value}}}"));
    }
    message
}

/// The identifier that a declaration or a variant begins with.
fn identifier(line: &str) -> String {
    line.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The messages of a file: the name of the type or variant, and its text.
fn messages(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("#[error(") {
        let inside = text[at + "#[error(".len()..].trim_start();
        let Some(begin) = inside.strip_prefix('"') else { continue };
        let (message, behind) = literal(begin);
        let message = with_arguments(&message, arguments(behind.trim_start().trim_start_matches(',')));
        let end = behind.find(")]\n").unwrap();
        // What is declared: behind further attributes and documentation.
        let declared = behind[end + 3..].lines().map(str::trim);
        let declared = declared.into_iter().find(|line| !line.starts_with("#[") && !line.starts_with("///")).unwrap();
        let of_type = |line: &str| {
            let line =
                line.trim_start_matches("pub(super) ").trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            line.strip_prefix("struct ").or_else(|| line.strip_prefix("enum ")).map(identifier)
        };
        let name = of_type(declared).unwrap_or_else(|| {
            let owner = text[..at].lines().rev().find_map(of_type).unwrap();
            format!("{owner}::{}", identifier(declared))
        });
        found.push((name, message));
    }
    found
}

#[test]
fn every_error_says_what_where_and_what_next() {
    let root = crate::support::repository("src");
    let mut files = Vec::new();
    sources(Path::new(&root), &mut files);
    let mut catalogue = String::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let messages = messages(text.split("#[cfg(test)]\nmod tests {").next().unwrap());
        if !messages.is_empty() {
            let name = file.strip_prefix(&root).unwrap().display().to_string();
            catalogue.push_str(&format!("\n{name}\n"));
        }
        for (name, message) in messages {
            catalogue.push_str(&format!("  {name}\n    {}\n", message.replace('\n', "\n    ")));
        }
    }
    assert!(catalogue.matches("\n    ").count() > 150, "the messages were not found");
    compare("errors", catalogue.trim_start());
}

#[test]
fn messages_are_taken_out_of_attributes() {
    let text = "pub enum E {\n    /// Documentation.\n    #[error(\"a \\\"b\\\" {c} {}: {d}\", path.display(), d = f(\"(\", g))]\n    #[from]\n    One { c: u8 },\n    #[error(transparent)]\n    Two(X),\n}\n#[error(\n    \"long\"\n)]\npub struct S;\n";
    let found = messages(text);
    let expected = [("E::One", "a \"b\" {c} {path.display()}: {f(\"(\", g)}"), ("S", "long")];
    assert_eq!(found, expected.map(|(name, message)| (name.to_owned(), message.to_owned())));
}
