//! The help of all verbs: flags in groups, what `-h` leaves to `--help`, examples, exit codes. Completions and manual pages are made from
//! the same [`command`].

mod examples;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Arg, Command, CommandFactory as _};

use self::examples::EXAMPLES;
use super::Cli;

/// The headings, and the flags below each, by their names on the command line. A flag has the same heading at each verb, but for [`OF_ONE_VERB`].
const HEADINGS: &[(&str, &[&str])] = &[
    (
        "Input",
        &[
            "config",
            "database-url",
            "tileset",
            "layer",
            "table",
            "workers",
            "target",
            "source",
            "a",
            "b",
            "html",
            "url",
        ],
    ),
    ("Which tiles", &["zoom", "bbox", "area", "variant", "tiles", "parents", "children", "since", "or-seed"]),
    (
        "Target",
        &["output", "public-url", "force", "allow-shrink", "prune-variants", "rollback", "to", "rewrite-headers"],
    ),
    ("Shards", &["work", "shards", "shard", "hold", "hold-for", "frozen", "connections", "catch-up"]),
    ("Keep running", &["watch", "debounce", "poll"]),
    ("Checks", &["sample", "all", "database", "check"]),
    ("Change log", &["reader", "owner", "older-than"]),
    ("What is a finding", &["transaction-age", "clock-difference"]),
    ("Server", &["listen", "admin", "token-file", "base-path", "trusted-proxy", "drain", "open"]),
    ("Answers", &["cache-control", "cdn-cache-control", "empty-status", "cache-mb", "changes", "preview", "assets"]),
    ("Live tiles and updates", &["live", "writer"]),
    (
        "Output",
        &[
            "dry-run",
            "progress",
            "report",
            "metrics",
            "changed-out",
            "dirty-out",
            "verbose",
            "quiet",
            "json",
            "geojson",
            "png",
            "sql",
            "schema",
            "access-log",
            "wait",
            "forget",
            "style",
            "label",
            "log",
        ],
    ),
];

/// Flags that mean something else at one verb: the verb, the flag, its heading there.
const OF_ONE_VERB: &[(&str, &str, &str)] = &[
    ("serve", "public-url", "Server"),
    ("serve", "check", "Server"),
    ("serve", "workers", "Live tiles and updates"),
    ("serve", "database-url", "Live tiles and updates"),
    ("serve", "layer", "Live tiles and updates"),
    ("preview", "tileset", "Live tiles and updates"),
    ("preview", "database-url", "Live tiles and updates"),
    ("preview", "public-url", "Output"),
    ("seed", "preview", "Output"),
    ("preview", "html", "Output"),
    ("preview", "assets", "Server"),
    ("purge", "all", "Which tiles"),
];

/// Flags that only `--help` shows, with the verb: `-h` has to fit on one screen.
const ONLY_IN_LONG_HELP: &[(&str, &[&str])] = &[
    // Of every verb.
    ("", &["log"]),
    ("shards begin", &["tileset", "public-url", "force", "progress", "verbose", "quiet"]),
    ("shards run", &["tileset", "public-url", "output", "zoom", "bbox", "progress"]),
    ("shards commit", &["tileset", "public-url", "force", "allow-shrink", "changed-out", "zoom", "bbox", "progress"]),
    (
        "seed",
        &[
            "tileset",
            "variant",
            "public-url",
            "force",
            "allow-shrink",
            "prune-variants",
            "changed-out",
            "metrics",
            "progress",
        ],
    ),
    (
        "reseed",
        &[
            "public-url",
            "allow-shrink",
            "prune-variants",
            "parents",
            "children",
            "since",
            "dirty-out",
            "changed-out",
            "debounce",
            "poll",
            "metrics",
            "progress",
            "layer",
            "tileset",
            "zoom",
            "bbox",
        ],
    ),
    (
        "serve",
        &[
            "base-path",
            "cdn-cache-control",
            "empty-status",
            "changes",
            "assets",
            "access-log",
            "drain",
            "trusted-proxy",
            "layer",
            "tileset",
            "workers",
        ],
    ),
];

/// What the exit codes mean (`exit`), below each verb's long help.
const EXIT_CODES: &str = "\
Exit codes:
  0    All done
  1    Failed while running
  2    Wrong usage or configuration; nothing was begun
  3    Done in part; the message says what is missing
  4    The target needs a full seed; nothing was changed
  130  Interrupted (SIGINT)
  143  Ended (SIGTERM)";

/// What stands below the help of the whole program.
const GETTING_STARTED: &str = "To begin: oar-tiles init --database-url URL writes a configuration for the tables that it finds, oar-tiles seed \
                               --config FILE makes the tiles, oar-tiles preview TARGET shows them.";

/// Colours as cargo has them; none where `NO_COLOR` is set or no terminal is.
const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// The command line with its whole help.
#[must_use]
pub fn command() -> Command {
    let whole = Cli::command().styles(STYLES).after_help(GETTING_STARTED);
    let whole = whole.after_long_help(format!("{GETTING_STARTED}\n\n{EXIT_CODES}"));
    whole.mut_args(|arg| with_heading(arg, "")).mut_subcommands(|verb| with_help(verb, ""))
}

/// A verb, below those that it belongs to, with headings and examples.
fn with_help(verb: Command, above: &str) -> Command {
    let path = format!("{above} {}", verb.get_name()).trim_start().to_owned();
    let examples: Vec<String> = EXAMPLES
        .iter()
        .filter(|example| example.verb == path)
        .map(|example| format!("  {}\n      {}", example.what, example.command))
        .collect();
    let below = format!("Examples:\n{}\n\n{EXIT_CODES}", examples.join("\n"));
    verb.mut_args(|arg| with_heading(arg, &path))
        .mut_subcommands(|below| with_help(below, &path))
        .after_long_help(below)
}

/// A flag with its heading. Positional arguments keep clap's own.
fn with_heading(arg: Arg, verb: &str) -> Arg {
    let Some(name) = arg.get_long().map(str::to_owned) else { return arg };
    let is_long = ONLY_IN_LONG_HELP.iter().any(|(of, names)| *of == verb && names.contains(&name.as_str()));
    let arg = arg.hide_short_help(is_long);
    match heading(verb, &name) {
        Some(heading) => arg.help_heading(heading),
        None => arg,
    }
}

/// The heading of a flag at a verb.
fn heading(verb: &str, name: &str) -> Option<&'static str> {
    let own = OF_ONE_VERB.iter().find(|(of, flag, _)| *of == verb && *flag == name).map(|(_, _, heading)| *heading);
    own.or_else(|| HEADINGS.iter().find(|(_, names)| names.contains(&name)).map(|(heading, _)| *heading))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    /// The most lines that a verb's `-h` may have, at 100 columns.
    const MAX_LINES_OF_SHORT_HELP: usize = 40;

    /// Each verb with its path, those that only hold others included.
    fn verbs(of: &Command, above: &str) -> Vec<(String, Command)> {
        let below = of.get_subcommands().flat_map(|verb| {
            let path = format!("{above} {}", verb.get_name()).trim_start().to_owned();
            [vec![(path.clone(), verb.clone())], verbs(verb, &path)].concat()
        });
        below.collect()
    }

    #[test]
    fn each_flag_has_a_heading_and_each_heading_its_flags() {
        let mut verbs = verbs(&command(), "");
        verbs.push((String::new(), command()));
        let flags = |verb: &Command| -> Vec<String> {
            verb.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
        };
        for (path, verb) in &verbs {
            for flag in flags(verb) {
                assert!(heading(path, &flag).is_some(), "{path} --{flag} has no heading");
            }
        }
        for flag in
            HEADINGS.iter().flat_map(|(_, names)| *names).filter(|flag| !["target", "source", "a", "b"].contains(flag))
        {
            assert!(verbs.iter().any(|(_, verb)| flags(verb).iter().any(|name| name == flag)), "no verb has --{flag}");
        }
        let at_verbs = OF_ONE_VERB.iter().map(|(verb, flag, _)| (*verb, *flag));
        let long = ONLY_IN_LONG_HELP.iter().flat_map(|(verb, names)| names.iter().map(|name| (*verb, *name)));
        for (path, flag) in at_verbs.chain(long) {
            let verb = verbs.iter().find(|(name, _)| name == path).unwrap();
            assert!(flags(&verb.1).iter().any(|name| name == flag), "{path} has no --{flag}");
        }
    }

    #[test]
    fn the_short_help_fits_on_a_screen() {
        for (path, _) in verbs(&command(), "") {
            // As it is run, with the flags of every verb.
            let words = ["oar-tiles"].into_iter().chain(path.split(' ')).chain(["-h"]);
            let help = command().term_width(100).try_get_matches_from(words).unwrap_err().to_string();
            let lines = help.lines().count();
            assert!(help.contains("Usage") && lines <= MAX_LINES_OF_SHORT_HELP, "{path} -h has {lines} lines");
        }
    }

    #[test]
    fn each_verb_has_two_examples_that_the_command_line_takes() {
        for (path, verb) in verbs(&command(), "") {
            let examples: Vec<_> = EXAMPLES.iter().filter(|example| example.verb == path).collect();
            assert_eq!(examples.len(), 2, "{path}");
            for example in examples {
                let words: Vec<String> = example.words().collect();
                let typed = command().try_get_matches_from(&words);
                assert!(typed.is_ok(), "{}: {}", example.command, typed.unwrap_err());
                let first = path.split(' ').zip(words.iter().skip(1)).all(|(verb, word)| verb == word);
                assert!(first || verb.has_subcommands(), "{}", example.command);
            }
        }
    }

    #[test]
    fn the_help_has_every_exit_code() {
        use Exit::{Done, Failed, Interrupted, NeedsSeed, Partial, Terminated, Usage};
        for exit in [Done, Failed, Usage, Partial, NeedsSeed, Interrupted, Terminated] {
            assert!(EXIT_CODES.contains(&format!("\n  {:<5}", exit as u8)), "{exit:?}");
        }
        assert_eq!(EXIT_CODES.lines().count(), 8);
    }
}
