//! What people type who know other tools: the error names what they meant.
//!
//! The tables list flags and verbs of tippecanoe, martin, tegola, t-rex, bbox and `MapProxy`, and what comes to mind.

use clap::Error;
use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::target::{Scheme, is_archive_name};

/// Flags that no verb has, and what to write instead; with the verbs at which this is so, none for all.
const FLAGS: &[(&[&str], &[&str], &str)] = &[
    (
        &["--minzoom", "--min-zoom", "--maxzoom", "--max-zoom", "--zooms", "--zoom-levels", "--levels", "-z", "-Z"],
        &[],
        "zooms are one list: --zoom 0-14",
    ),
    (&["--port", "-p"], &["serve", "preview"], "the port is a part of the address: --listen 127.0.0.1:8080"),
    (
        &["--host", "--bind", "--address", "--addr", "--listen-addresses", "-l"],
        &["serve", "preview"],
        "write address and port: --listen 127.0.0.1:8080",
    ),
    (&["--cors", "--allow-origin"], &["serve"], "serve lets the pages of every site read its tiles, without a flag"),
    (&["--readonly", "--read-only"], &["serve"], "serve writes nothing without --writer"),
    (
        &["--format", "--driver", "--type", "-F"],
        &[],
        "the name of the target says its kind: --output facilities.pmtiles, facilities.mbtiles, tiles/ or s3://bucket/tiles/",
    ),
    (&["--schema", "--schemas"], &["init", "seed"], "name the tables with their schema: --table 'SCHEMA.*'"),
    (
        &["--where", "--filter", "-j", "--sql", "--query"],
        &["seed", "reseed", "init"],
        "which rows a layer shows stands in the configuration: where = \"…\" or sql = \"…\" in its [[layer]]",
    ),
    (
        &["--simplify", "--simplification", "--buffer", "--extent", "--tile-size", "--geometry", "--srid"],
        &["seed", "reseed", "init"],
        "this is a key of [[layer]] in the configuration; oar-tiles init writes one to begin with",
    ),
    (&["--output", "-o", "--target", "--input", "-i"], &["serve", "preview", "verify", "inspect"], TARGET_IS_ARGUMENT),
    (
        &["--out", "--output-file", "--output-directory", "--outfile", "--dest", "--destination", "--target", "-e"],
        &["seed", "reseed", "init"],
        "where the tiles go: --output facilities.mbtiles",
    ),
    (
        &["--input", "-i", "--source"],
        &["seed", "init"],
        "what is drawn: --table NAME, or the [[layer]]s of --config FILE",
    ),
    (&["--source"], &["copy"], "both targets are arguments: oar-tiles copy FROM TO"),
    (
        &["--db", "--database", "--dsn", "--connection", "--connection-string", "--postgres", "--pg", "--url", "-d"],
        &["init", "seed", "reseed", "track", "shards", "preview", "serve"],
        "which database: --database-url postgresql://USER@HOST/NAME, or the variable DATABASE_URL",
    ),
    (
        &["--user", "--username", "-U", "--password", "-W", "--dbname"],
        &["init", "seed", "reseed", "track", "shards", "serve"],
        "the URL has all of it: --database-url postgresql://USER:PASSWORD@HOST:PORT/NAME; or the variables PGUSER, PGPASSWORD and so on",
    ),
    (
        &["--threads", "--concurrency", "--jobs", "--parallel", "--pool-size", "--pool_size", "--processes", "-c"],
        &["seed", "reseed", "shards", "serve"],
        "sessions that render in parallel: --workers N",
    ),
    (
        &["--bounds", "--bounding-box", "--extent", "--clip-bounding-box"],
        &["seed", "reseed", "copy", "diff", "shards", "verify"],
        "a box in degrees: --bbox WEST,SOUTH,EAST,NORTH",
    ),
    (&["--layers", "-L"], &["seed", "reseed", "serve"], "one layer a flag: --layer roads --layer places"),
    (&["--tables"], &["seed", "init"], "one table or pattern a flag: --table roads --table 'osm_*'"),
    (
        &["--config-file", "--conf", "-f"],
        &["serve", "seed", "reseed", "init", "track"],
        "the file: --config oar-tiles.toml",
    ),
    (
        &["--overwrite", "--replace", "-f"],
        &["seed", "copy"],
        "a target of the same tileset is replaced without a flag; --force replaces another one",
    ),
    (
        &["--update", "--incremental", "--refresh", "--delta", "--since"],
        &["seed"],
        "what changed since the last run is rendered by oar-tiles reseed",
    ),
    (
        &["--since"],
        &["reseed"],
        "it renders what changed since the target's own snapshot, however often it runs; --tiles and --area render more",
    ),
    (
        &["--daemon", "--loop", "--follow"],
        &["seed", "reseed"],
        "to run on and follow changes: oar-tiles reseed --watch",
    ),
    (&["--silent", "--no-progress"], &[], "to see less: --quiet, or --progress none where a verb has it"),
    (&["--debug", "--trace"], &[], "to see more: --verbose, where a verb has it"),
    (&["--preview-port"], &["seed"], "the address of the map: oar-tiles preview TARGET --listen 127.0.0.1:8080"),
];

const TARGET_IS_ARGUMENT: &str = "the target is an argument: oar-tiles VERB facilities.mbtiles";

/// Verbs of others, and the verb that does the same here.
const VERBS: &[(&[&str], &str)] = &[
    (
        &["generate", "gen", "render", "build", "make", "cache", "tile", "tiles", "export", "create-tiles", "run"],
        "seed",
    ),
    (&["update", "refresh", "sync", "reload", "incremental", "expire"], "reseed"),
    (&["watch", "follow", "daemon"], "reseed --watch"),
    (&["server", "start", "web", "host", "listen"], "serve"),
    (&["view", "show", "open", "map"], "preview"),
    (&["info", "meta", "metadata", "summary", "stats", "describe", "list", "ls", "decode"], "inspect"),
    (&["check", "validate", "test"], "verify"),
    (&["cp", "convert", "extract", "merge", "tile-join"], "copy"),
    (&["compare", "cmp"], "diff"),
    (&["new", "create", "discover", "setup", "genconfig", "configure"], "init"),
    (&["install", "triggers", "changelog"], "track install"),
    (&["invalidate", "purge-cache"], "purge"),
    (&["shard", "split"], "shards"),
    (&["rollback"], "publish --rollback"),
    (&["version"], "--version"),
];

/// The same error, with what its author probably meant. `words` is the command line.
pub(crate) fn explained(mut error: Error, words: &[String]) -> Error {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let tip = match error.kind() {
        ErrorKind::UnknownArgument => context(ContextKind::InvalidArg).and_then(|typed| unknown_argument(typed, words)),
        ErrorKind::InvalidSubcommand => context(ContextKind::InvalidSubcommand).and_then(unknown_verb),
        _ => None,
    };
    let Some(tip) = tip else { return error };
    for guess in [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand, ContextKind::TrailingArg] {
        error.remove(guess);
    }
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(tip)]));
    error
}

/// What a flag or an argument that the verb does not know was meant to be.
fn unknown_argument(typed: &str, words: &[String]) -> Option<String> {
    let verb = words.iter().skip(1).map(String::as_str).find(|word| !word.starts_with('-'))?;
    if !typed.starts_with('-') {
        return word(typed, verb);
    }
    let flag = typed.split('=').next()?;
    let found =
        FLAGS.iter().find(|(flags, verbs, _)| flags.contains(&flag) && (verbs.is_empty() || verbs.contains(&verb)));
    found.map(|(_, _, tip)| tip.replace("VERB", verb))
}

/// What a word without a flag was meant to be.
fn word(typed: &str, verb: &str) -> Option<String> {
    let ends = |endings: &[&str]| endings.iter().any(|ending| typed.to_ascii_lowercase().ends_with(ending));
    let is_url = typed.starts_with("postgres://") || typed.starts_with("postgresql://");
    let is_target = is_archive_name(typed) || typed.ends_with('/') || Scheme::split(typed).is_some();
    match verb {
        "init" if ends(&[".toml"]) => Some(format!("the file that init writes: --output {typed}")),
        "init" | "seed" | "reseed" | "track" | "config" if is_url => {
            Some("which database: --database-url URL".to_owned())
        }
        _ if ends(&[".toml"]) => Some(format!("the configuration: --config {typed}")),
        "seed" | "reseed" if is_target => Some(format!("where the tiles go: --output {typed}")),
        "init" | "seed" => Some(format!("a table: --table {typed}")),
        "reseed" => Some(format!("a layer of the configuration: --layer {typed}")),
        _ => None,
    }
}

/// The verb that does what another one is called elsewhere.
fn unknown_verb(typed: &str) -> Option<String> {
    let typed_lower = typed.to_ascii_lowercase();
    let ends = |ending: &str| typed_lower.ends_with(ending);
    if ends(".toml") {
        return Some(format!("a verb comes first: oar-tiles seed --config {typed}"));
    }
    if is_archive_name(typed) {
        return Some(format!("a verb comes first: oar-tiles preview {typed}, or oar-tiles serve {typed}"));
    }
    if typed.starts_with("postgres://") || typed.starts_with("postgresql://") {
        return Some("a verb comes first: oar-tiles init --database-url URL".to_owned());
    }
    let found = VERBS.iter().find(|(names, _)| names.contains(&typed_lower.as_str()));
    found.map(|(_, verb)| format!("here it is called: oar-tiles {verb}"))
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    /// Flags of a verb, and of the verbs below it.
    fn has_flag(verb: &Command, flag: &str) -> bool {
        let own = verb.get_arguments().any(|arg| {
            let long = arg.get_long().is_some_and(|name| flag.strip_prefix("--") == Some(name));
            long || arg.get_short().is_some_and(|name| flag == format!("-{name}"))
        });
        own || (verb.has_subcommands() && verb.get_subcommands().all(|below| has_flag(below, flag)))
    }

    #[test]
    fn nothing_is_listed_that_the_verb_has() {
        let program = crate::cli::command();
        for (flags, verbs, tip) in FLAGS {
            let chosen = program.get_subcommands().filter(|verb| verbs.contains(&verb.get_name())).collect::<Vec<_>>();
            assert_eq!(chosen.len(), verbs.len(), "{verbs:?}");
            for flag in *flags {
                let of_others = |verb: &&&Command| has_flag(verb, flag);
                // Where all have a flag, its tip never shows.
                assert!(verbs.is_empty() || !chosen.iter().all(|verb| of_others(&verb)), "{flag}: {tip}");
            }
        }
        for (names, verb) in VERBS {
            let first = verb.split(' ').next().unwrap();
            assert!(first.starts_with('-') || program.find_subcommand(first).is_some(), "{verb}");
            assert!(names.iter().all(|name| program.find_subcommand(name).is_none()), "{names:?}");
        }
    }
}
