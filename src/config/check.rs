//! Finds all problems of a configuration, not only the first: each wrong value is noted and removed, and the rest is
//! read again.

use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::Flag;
use super::error::ConfigError;
use super::sample::read;
use super::settings::Settings;
use super::values::{ConfigValues, Origin};
use crate::config::variables;
use crate::postgis::ConnectParts;

/// The most problems that are searched. They are enough for a file that is no configuration at all.
const MAX_PROBLEMS: usize = 100;

/// The result of a check of the values.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) problems: Vec<ConfigError>,
    /// The settings of each tileset, without the wrong values. A tileset of which nothing is left has no entry.
    pub settings: Vec<Settings>,
}

/// The origins of the values, in the form in which [`gather`](super::gather) takes them.
#[derive(Clone, Copy)]
pub(crate) struct CheckedSources<'a> {
    pub file: Option<&'a Path>,
    pub variables: &'a [(String, String)],
    pub flags: &'a [Flag],
    /// The connection parameters in the environment.
    pub connection: &'a ConnectParts,
    /// The layers that are wanted; all if empty.
    pub layers: &'a [String],
    /// The tilesets that are wanted; all if empty.
    pub(crate) tilesets: &'a [String],
}

pub(crate) fn check(sources: CheckedSources<'_>) -> Result<Checked, ConfigError> {
    let mut problems = Vec::new();
    let mut values = ConfigValues::defaults()?;
    if let Some(path) = sources.file {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let text = without_problems(path, text, sources.variables, &mut problems);
                if let Err(error) = values.add_file_text(&text, path) {
                    problems.push(error);
                }
            }
            Err(source) => problems.push(ConfigError::Unreadable { path: path.to_owned(), source }),
        }
    }
    for variable in sources.variables {
        problems.extend(values.add_environment([variable.clone()]).err());
    }
    for (flag, key, value) in sources.flags {
        values.add_flag(flag, key, value.clone());
    }
    let tilesets = values.tilesets(sources.tilesets).unwrap_or_else(|error| {
        problems.push(error);
        Vec::new()
    });
    let mut settings = Vec::new();
    for mut values in tilesets {
        problems.extend(values.names_output().err());
        settings.extend(resolved(&mut values, sources, &mut problems)?);
    }
    let mut texts = Vec::new();
    problems.retain(|problem| {
        let text = problem.to_string();
        let is_new = !texts.contains(&text);
        texts.push(text);
        is_new
    });
    Ok(Checked { problems, settings })
}

/// The text of a file with its variables replaced, and without the parts that cannot be read.
fn without_problems(
    path: &Path,
    mut text: String,
    variables: &[(String, String)],
    problems: &mut Vec<ConfigError>,
) -> String {
    let look_up = |name: &str| variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
    while problems.len() < MAX_PROBLEMS {
        match variables::expanded(path, &text, &look_up) {
            Ok(expanded) => {
                text = expanded;
                break;
            }
            Err(error) => {
                let line = if let ConfigError::InFile { line, .. } = &error { *line } else { 0 };
                let start = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
                let at = text[start..].find("${").map_or(start, |found| start + found);
                problems.push(error);
                if !blank(&mut text, at) {
                    break;
                }
            }
        }
    }
    while problems.len() < MAX_PROBLEMS {
        let Err(error) = read(&text) else { break };
        problems.push(ConfigError::in_file(path, &text, &error));
        if !error.span().is_some_and(|span| blank(&mut text, span.start)) {
            // No part of the file can be read.
            return String::new();
        }
    }
    text
}

/// Replaces the key and value, or the table, at a position with blanks. Line numbers stay the same. False if there is
/// nothing at the position.
fn blank(text: &mut String, at: usize) -> bool {
    let Ok(table) = DeTable::parse(text) else { return false };
    let Some(entry) = smallest(table.get_ref(), at) else { return false };
    let is_header = text
        .get(..entry.start)
        .is_some_and(|before| before.rsplit('\n').next().is_some_and(|line| line.trim_start().starts_with('[')))
        || text[entry.start..].starts_with('[') && entry.is_table;
    let (start, end) = if is_header { section(text, entry.start) } else { (entry.start, entry.end) };
    // In a list or inline table, the comma after the entry goes with it.
    let end = match text[end..].trim_start_matches([' ', '\t']).strip_prefix(',') {
        Some(rest) if !is_header => text.len() - rest.len(),
        _ => end,
    };
    let blanks: String = text[start..end].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
    if blanks.trim() == text[start..end].trim() {
        return false;
    }
    text.replace_range(start..end, &blanks);
    true
}

/// The bytes of a key with its value.
struct FileEntry {
    start: usize,
    end: usize,
    is_table: bool,
}

/// The smallest entry around a position.
fn smallest(table: &DeTable<'_>, at: usize) -> Option<FileEntry> {
    let mut best: Option<FileEntry> = None;
    let mut consider = |entry: FileEntry| {
        let holds = (entry.start..=entry.end).contains(&at);
        if holds && best.as_ref().is_none_or(|best| entry.end - entry.start < best.end - best.start) {
            best = Some(entry);
        }
    };
    for (key, value) in table {
        let is_table = matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_));
        // The span of a table with a header covers only the header.
        let (start, end) = (key.span().start.min(value.span().start), key.span().end.max(value.span().end));
        consider(FileEntry { start, end, is_table });
        let mut inner: Vec<&DeTable<'_>> = Vec::new();
        match value.get_ref() {
            DeValue::Table(table) => inner.push(table),
            DeValue::Array(values) => {
                for value in values {
                    if let DeValue::Table(table) = value.get_ref() {
                        consider(FileEntry { start: value.span().start, end: value.span().end, is_table: true });
                        inner.push(table);
                    }
                }
            }
            _ => {}
        }
        inner.into_iter().filter_map(|table| smallest(table, at)).for_each(&mut consider);
    }
    best
}

/// The lines of the section whose header is at a position, up to the header of another section.
fn section(text: &str, at: usize) -> (usize, usize) {
    let start = text[..at].rfind('\n').map_or(0, |line| line + 1);
    let header = text[start..].lines().next().unwrap_or_default().trim();
    let own = header.trim_matches(['[', ']', ' ']).to_owned() + ".";
    let mut end = start + text[start..].find('\n').map_or(text.len() - start, |line| line + 1);
    for line in text[end..].split_inclusive('\n') {
        let trimmed = line.trim_start();
        if trimmed.starts_with('[') && !trimmed.trim_start_matches('[').starts_with(&own) {
            break;
        }
        end += line.len();
    }
    (start, end)
}

/// The settings, without the values that do not fit.
fn resolved(
    values: &mut ConfigValues,
    sources: CheckedSources<'_>,
    problems: &mut Vec<ConfigError>,
) -> Result<Option<Settings>, ConfigError> {
    let defaults = ConfigValues::defaults()?;
    let mut layers = sources.layers.to_vec();
    while problems.len() < MAX_PROBLEMS {
        let error = match Settings::resolve(values, sources.connection, &layers) {
            Ok(settings) => return Ok(Some(settings)),
            Err(error) => error,
        };
        let is_dropped = match &error {
            ConfigError::Setting { key, .. } => drop_value(values, &defaults, key),
            ConfigError::Connection(_) => drop_value(values, &defaults, "database.url"),
            ConfigError::UnknownLayer { .. } => !std::mem::take(&mut layers).is_empty(),
            _ => false,
        };
        problems.push(error);
        if !is_dropped {
            break;
        }
    }
    Ok(None)
}

/// Removes the value that an error names, or replaces it with the default. False if the error names no value.
fn drop_value(values: &mut ConfigValues, defaults: &ConfigValues, key: &str) -> bool {
    if let Some(rest) = key.strip_prefix("layer[") {
        // The name may contain a bracket; a field does not.
        let Some((name, field)) = rest.rsplit_once("].").or_else(|| Some((rest.strip_suffix(']')?, ""))) else {
            return false;
        };
        let field = field.split(['.', '[']).next().unwrap_or_default();
        return drop_field(values, name, field);
    }
    // The values of one of several tilesets are stored under the section `[tileset]`.
    let of_tileset = key
        .strip_prefix("tileset[")
        .and_then(|rest| rest.rsplit_once("]."))
        .map(|(_, field)| format!("tileset.{field}"));
    let key = of_tileset.as_deref().unwrap_or(key);
    let key = key.split('[').next().unwrap_or(key);
    let section = key.split('.').next().unwrap_or(key);
    // The sections of a list have no values of their own.
    let place = [key, section].into_iter().find(|place| values.values.contains_key(*place));
    let Some(place) = place.filter(|place| values.origin(place) != Some(&Origin::Default)) else { return false };
    match defaults.values.get(place) {
        Some(default) => values.values.insert(place.to_owned(), default.clone()),
        None => values.values.remove(place),
    };
    true
}

/// Removes a field of a layer, or the whole layer if it has no such field.
fn drop_field(values: &mut ConfigValues, name: &str, field: &str) -> bool {
    let Some((toml::Value::Array(layers), origin)) = values.values.get_mut("layer") else { return false };
    let is_it = |layer: &toml::Value| layer.get("name").and_then(toml::Value::as_str) == Some(name);
    let Some(at) = layers.iter().position(is_it).filter(|_| *origin != Origin::Default) else { return false };
    let is_gone = layers[at].as_table_mut().is_some_and(|layer| layer.remove(field).is_some());
    if !is_gone {
        layers.remove(at);
    }
    !layers.is_empty()
}
