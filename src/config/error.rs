//! Errors of the configuration.

use std::path::{Path, PathBuf};

use super::file::{former_connect_timeout, former_key};
use crate::suggested::SEED;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}: name a TOML file with --config", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error(
        "./oar-tiles.toml is not read: {cause}. A configuration can run programs and name credentials: if you trust this one, name it with --config oar-tiles.toml; else give --no-config"
    )]
    NotOwnFile {
        /// Whose it is, or where it lies.
        cause: String,
    },
    #[error(
        "no configuration says what to draw: oar-tiles init --database-url URL writes one for the tables that it finds, as oar-tiles.toml, which is read from the working directory; --config FILE names another, and {SEED} --table NAME needs none"
    )]
    NoConfiguration,
    #[error("{} has no [[layer]], so there is nothing to draw: add [[layer]] with name and table, or have oar-tiles init write a file for the tables that it finds", path.display())]
    NoLayers { path: PathBuf },
    #[error(
        "{verb} needs a target: {called}; or a configuration that names one, in ./oar-tiles.toml or with --config FILE"
    )]
    NoTarget {
        verb: &'static str,
        /// How the command is called with a target.
        called: &'static str,
    },
    /// Something in the file is wrong.
    #[error("{}, line {line}: {message}", path.display())]
    InFile {
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, and what to write.
        message: String,
    },
    #[error("the environment variable {variable} is unknown{hint}")]
    UnknownVariable { variable: String, hint: String },
    #[error("the environment variable {variable} is \"{text}\", which is no whole number")]
    NotANumber { variable: String, text: String, source: std::num::ParseIntError },
    #[error("the environment variable {variable}: {message}")]
    BadVariable {
        variable: String,
        /// What is wrong, and what to write.
        message: String,
    },
    /// A value that does not fit.
    #[error("{key} (from {origin}): {what}")]
    Setting {
        key: String,
        origin: String,
        /// What is wrong, and what to write.
        what: String,
    },
    #[error(
        "{layers} has layers of its own and names no output: write output = \"NAME.mbtiles\" below [tileset], or give --output (the default is the file of the default layers)"
    )]
    NoOutput { layers: String },
    #[error("{what} is for one tileset, and this configuration has several: choose it with --tileset ({})", names.join(", "))]
    NotOneTileset { what: &'static str, names: Vec<String> },
    /// `--tileset` names a tileset that is not there.
    #[error("there is no tileset \"{wanted}\"{hint}")]
    UnknownTileset { wanted: String, hint: String },
    /// `--layer` names a layer that is not there.
    #[error("there is no layer \"{wanted}\"{hint}")]
    UnknownLayer { wanted: String, hint: String },
    #[error("the configuration has problems: {problems}, each named above")]
    Problems { problems: usize },
    /// The variants of a tileset do not fit their values.
    #[error("{key} {what}")]
    Variants {
        key: String,
        /// What is wrong, and what to write.
        what: String,
    },
    #[error("--variant is for a tileset with variants, and {tileset} has no [tileset.variants]: leave it out")]
    NoVariants { tileset: String },
    /// The database URL.
    #[error(transparent)]
    Connection(#[from] crate::postgis::Error),
}

impl ConfigError {
    /// The TOML parser's error, with the line and the most similar key.
    pub(crate) fn in_file(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
        let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or_default());
        let line = before.matches('\n').count() + 1;
        let message = match unknown_key(error.message()) {
            Some((wanted, known)) => {
                former_key(wanted).or_else(|| former_connect_timeout(wanted, &known)).unwrap_or_else(|| {
                    let hint = nearest(wanted, known.iter().copied());
                    format!(
                        "unknown key \"{wanted}\"{}",
                        hint.unwrap_or_else(|| format!(". Known here: {}", known.join(", ")))
                    )
                })
            }
            None => match missing_key(error.message()) {
                Some(key) => format!("{} has no {key}: write {key} = …", table_at(text, line)),
                None => mistaken_syntax(text.lines().nth(line - 1).unwrap_or_default(), error.message())
                    .unwrap_or_else(|| error.message().trim_end().replace('\n', ", ")),
            },
        };
        ConfigError::InFile { path: path.to_owned(), line, message }
    }

    pub(crate) fn unknown_variable<'a>(variable: String, known: impl Iterator<Item = &'a str>) -> ConfigError {
        let hint = nearest(&variable, known).unwrap_or_else(|| ". sample-config.toml names them all".to_owned());
        ConfigError::UnknownVariable { variable, hint }
    }
}

/// The key and the known ones in serde's message "unknown field `a`, expected one of `b`, `c`".
fn unknown_key(message: &str) -> Option<(&str, Vec<&str>)> {
    let mut names = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    Some((names.next()?, names.collect()))
}

/// The key in serde's message "missing field `a`".
fn missing_key(message: &str) -> Option<&str> {
    message.trim_end().strip_prefix("missing field `")?.strip_suffix('`')
}

/// What is wrong in a line that TOML, or the list that a key takes, does not allow, and what to write instead.
fn mistaken_syntax(line: &str, message: &str) -> Option<String> {
    let line = line.split('#').next().unwrap_or_default().trim();
    if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
        && message.trim_end() == "invalid type: map, expected a sequence"
    {
        return Some(format!("[{name}] is one of a list: write [[{name}]], with two brackets on each side"));
    }
    let (key, value) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim()))?;
    let is_range =
        value.contains(['-', ',']) && value.chars().all(|c| c.is_ascii_digit() || ['-', ',', ' '].contains(&c));
    (key == "zoom" && is_range).then(|| format!("a list of zooms stands in quotes: zoom = \"{value}\""))
}

/// The table that begins in a line of a file, counted from 1, and the layer that it belongs to, as text.
fn table_at(text: &str, line: usize) -> String {
    let layers = text.lines().take(line).filter(|line| line.trim().starts_with("[[layer]]")).count();
    match text.lines().nth(line - 1).and_then(|header| header.trim().split(']').next()) {
        Some("[[layer") => format!("this [[layer]], number {layers} of the file,"),
        Some(header) if header.starts_with("[[layer.") => format!("{header}]] of [[layer]] number {layers}"),
        Some(header) if header.starts_with("[layer.") => format!("{header}] of [[layer]] number {layers}"),
        _ => "a table that begins here".to_owned(),
    }
}

/// ". Did you mean …?" with the known name that is most similar to `wanted`; `None` if none is similar.
pub(crate) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!(". Did you mean \"{name}\"?"))
}
