//! The help of all verbs: flags in groups, what `-h` leaves to `--help`, examples, exit codes. Completions and manual
//! pages are made from the same [`command`].

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Arg, Command, CommandFactory as _};

use super::Cli;

/// The headings, and the flags below each, by their names on the command line, separated by spaces. A flag has the same
/// heading at each verb, but for [`OF_ONE_VERB`].
const HEADINGS: &[(&str, &str)] = &[
    ("Input", "config no-config database-url tileset layer table workers target source a b html url"),
    ("Which tiles", "zoom bbox area variant tiles parents children since or-seed"),
    ("Target", "output public-url force allow-shrink prune-variants resume parts rollback to rewrite-headers"),
    ("Shards", "work shards shard hold hold-for frozen connections catch-up"),
    ("Keep running", "watch debounce poll"),
    ("Checks", "sample all database check rate header"),
    ("Change log", "reader owner older-than"),
    ("What is a finding", "transaction-age clock-difference"),
    ("Server", "listen admin token-file base-path trusted-proxy drain open"),
    ("Answers", "cache-control cdn-cache-control empty-status cache-mb changes preview assets basemap"),
    ("Live tiles and updates", "live writer"),
    (
        "Output",
        "dry-run progress report metrics changed-out dirty-out verbose quiet json geojson png sql schema \
         access-log wait forget style picture at label glyphs log",
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
    ("preview", "basemap", "Output"),
    ("purge", "all", "Which tiles"),
];

/// Flags that only `--help` shows, with the verb: `-h` has to fit on one screen.
const ONLY_IN_LONG_HELP: &[(&str, &str)] = &[
    // Of every verb.
    ("", "log no-config"),
    ("shards begin", "tileset public-url force progress verbose quiet"),
    ("shards run", "tileset public-url output zoom bbox progress"),
    ("shards commit", "tileset public-url force allow-shrink changed-out zoom bbox progress"),
    (
        "seed",
        "tileset variant layer workers area public-url force allow-shrink prune-variants resume parts changed-out metrics \
         progress report",
    ),
    (
        "reseed",
        "public-url allow-shrink prune-variants tiles area workers report parents children dirty-out \
         changed-out debounce poll metrics progress layer tileset zoom bbox",
    ),
    (
        "serve",
        "base-path basemap check cache-control cache-mb cdn-cache-control empty-status changes assets \
         access-log drain trusted-proxy layer tileset workers",
    ),
    ("preview", "basemap assets html style label glyphs public-url at tileset listen"),
    ("verify", "area layer tileset report workers json"),
    ("copy", "since area changed-out public-url force quiet"),
    ("diff", "area geojson json header sample"),
    ("config", "schema public-url layer zoom bbox output workers tileset progress"),
    ("doctor", "transaction-age clock-difference json url tileset"),
    ("purge", "forget dry-run"),
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
const GETTING_STARTED: &str = "To begin: oar-tiles init --database-url URL writes oar-tiles.toml for the tables that it finds, oar-tiles seed \
                               makes the tiles, oar-tiles preview shows them.";

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
    let examples: Vec<String> = examples()
        .filter(|example| example.verb == path)
        .map(|example| format!("  {}\n      {}", example.what, example.command))
        .collect();
    let below = format!("Examples:\n{}\n\n{EXIT_CODES}", examples.join("\n"));
    verb.mut_args(|arg| with_heading(arg, &path))
        .mut_subcommands(|below| with_help(below, &path))
        .after_long_help(below)
}

/// An argument that takes a target: its help also names the services of the feature `clouds` if the program has it.
fn with_clouds(arg: Arg) -> Arg {
    let Some(help) = arg.get_help().map(ToString::to_string).filter(|_| cfg!(feature = "clouds")) else { return arg };
    let Some(start) = help.rfind("s3://bucket/") else { return arg };
    let end = help[start..].find([' ', ';']).map_or(help.len(), |length| start + length);
    // Only with --help: with -h, the help of a command fits a screen.
    arg.long_help(format!(
        "{}, or the same below az://container/ or (untested) gs://bucket/{}",
        &help[..end],
        &help[end..]
    ))
}

/// A flag with its heading. Positional arguments keep clap's own.
fn with_heading(arg: Arg, verb: &str) -> Arg {
    let arg = with_clouds(arg);
    let Some(name) = arg.get_long().map(str::to_owned) else { return arg };
    let is_long = ONLY_IN_LONG_HELP.iter().any(|(of, names)| *of == verb && has(names, &name));
    let arg = arg.hide_short_help(is_long);
    match heading(verb, &name) {
        Some(heading) => arg.help_heading(heading),
        None => arg,
    }
}

/// True if a list of flags has one of this name.
fn has(names: &str, name: &str) -> bool {
    names.split(' ').any(|other| other == name)
}

/// The heading of a flag at a verb.
fn heading(verb: &str, name: &str) -> Option<&'static str> {
    let own = OF_ONE_VERB.iter().find(|(of, flag, _)| *of == verb && *flag == name).map(|(_, _, heading)| *heading);
    own.or_else(|| HEADINGS.iter().find(|(_, names)| has(names, name)).map(|(heading, _)| *heading))
}

// Two examples for each verb.

/// One command, and what it is for.
pub(crate) struct Example {
    /// The verb that it belongs to.
    pub verb: &'static str,
    /// What it does.
    pub what: &'static str,
    /// As typed. Quotes are single ones.
    pub command: &'static str,
}

/// The examples: the verb, what the command does, and the command.
fn examples() -> impl Iterator<Item = Example> {
    EXAMPLES.lines().filter_map(|line| {
        let (verb, rest) = line.split_once(" | ")?;
        let (what, command) = rest.split_once(" | ")?;
        Some(Example { verb, what, command })
    })
}

const EXAMPLES: &str = "\
init | All tables of a database | oar-tiles init --database-url postgresql://reader@localhost/gis
init | Some of them, by name | oar-tiles init --table 'osm_*' --output osm.toml
seed | As the configuration says | oar-tiles seed
seed | The plan for some zooms of a box | oar-tiles seed --zoom 0-10 --bbox 60,5,100,35 --dry-run
reseed | What changed since the last run, else everything | oar-tiles reseed --or-seed --config oar-tiles.toml
reseed | As a service | oar-tiles reseed --watch --or-seed --config oar-tiles.toml
shards | The plan, into a folder that all machines share | oar-tiles shards begin --work /mnt/seed/ --shards 16
shards | How far it is | oar-tiles shards status --work /mnt/seed/
shards begin | 64 shards, brought to one state by the change log | oar-tiles shards begin --work s3://bucket/.seed/ --shards 64 --config oar-tiles.toml
shards begin | One snapshot for all, without a change log | oar-tiles shards begin --work /mnt/seed/ --shards 16 --hold --hold-for 4h
shards run | As the scheduler says which | oar-tiles shards run --work s3://bucket/.seed/ --config oar-tiles.toml
shards run | The third of 16 | oar-tiles shards run --work /mnt/seed/ --shard 3/16
shards commit | Once all shards are done | oar-tiles shards commit --work s3://bucket/.seed/ --config oar-tiles.toml
shards commit | With the closing table as JSON | oar-tiles shards commit --work /mnt/seed/ --report seed.json
shards status | What is done, running and missing | oar-tiles shards status --work s3://bucket/.seed/
shards status | For a program | oar-tiles shards status --work /mnt/seed/ --json
shards abort | Give the run up | oar-tiles shards abort --work s3://bucket/.seed/
shards abort | With the keys of a configuration | oar-tiles shards abort --work s3://bucket/.seed/ --config oar-tiles.toml
publish | List the versions | oar-tiles publish --output tiles/
publish | Switch back to the one before | oar-tiles publish --output tiles/ --rollback
purge | What would be sent | oar-tiles purge --dry-run --config oar-tiles.toml
purge | Send what waits, and purge some tiles besides | oar-tiles purge tiles/ --tiles tiles.txt
purge status | What waits for the CDNs of the configuration | oar-tiles purge status --config oar-tiles.toml
purge status | For a program | oar-tiles purge status tiles/ --json
verify | Structure, counts and tiles | oar-tiles verify facilities.mbtiles
verify | Every tile beside the database | oar-tiles verify tiles/ --all --database --config oar-tiles.toml
inspect | Tiles and bytes by zoom, layers, snapshot | oar-tiles inspect facilities.pmtiles
inspect | The features of a tile | oar-tiles inspect facilities.pmtiles 3/5/2 --geojson
copy | A file as a directory | oar-tiles copy facilities.mbtiles tiles/
copy | A part of it | oar-tiles copy facilities.mbtiles portugal.pmtiles --zoom 0-10 --area portugal.geojson
diff | Two targets, by zoom | oar-tiles diff yesterday.mbtiles today.pmtiles
diff | A target and a server | oar-tiles diff facilities.mbtiles 'https://tiles.example/{z}/{x}/{y}.pbf' --sample 500
serve | A file to this machine | oar-tiles serve facilities.mbtiles
serve | Kept up to date, with a map | oar-tiles serve --config oar-tiles.toml --listen 0.0.0.0:8080 --writer --preview
preview | In the browser | oar-tiles preview facilities.mbtiles --open
preview | As a page of your own | oar-tiles preview tiles/ --html map.html --public-url https://www.example.org/tiles
track | Once, before the first seed | oar-tiles track install --config oar-tiles.toml
track | How far a target is behind | oar-tiles track status --config oar-tiles.toml
track install | Triggers that log where rows change | oar-tiles track install --reader tiles --config oar-tiles.toml
track install | The statements, for somebody who may run them | oar-tiles track install --sql
track status | The log and the configuration's target | oar-tiles track status --config oar-tiles.toml
track status | Several targets, for a program | oar-tiles track status a.mbtiles b.pmtiles --json
track prune | What all targets have seen | oar-tiles track prune a.mbtiles b.pmtiles
track prune | What is old, seen or not | oar-tiles track prune --older-than 30d
track remove | The triggers and the log | oar-tiles track remove --config oar-tiles.toml
track remove | The statements, for somebody who may run them | oar-tiles track remove --sql
jobs | Submit a job | oar-tiles jobs submit log --admin http://127.0.0.1:9180
jobs | List jobs | oar-tiles jobs list --admin http://127.0.0.1:9180
jobs submit | Render what changed | oar-tiles jobs submit log --wait --admin http://127.0.0.1:9180
jobs submit | Render a box | oar-tiles jobs submit area --area 60,5,100,35 --admin unix:/run/oar-tiles/admin
jobs list | With the token in OAR_TILES_TOKEN | oar-tiles jobs list --admin http://127.0.0.1:9180
jobs list | With the token in a file | oar-tiles jobs list --admin http://127.0.0.1:9180 --token-file token
jobs show | With the token in OAR_TILES_TOKEN | oar-tiles jobs show 7 --admin http://127.0.0.1:9180
jobs show | With the token in a file | oar-tiles jobs show 7 --admin http://127.0.0.1:9180 --token-file token
jobs cancel | With the token in OAR_TILES_TOKEN | oar-tiles jobs cancel 7 --admin http://127.0.0.1:9180
jobs cancel | With the token in a file | oar-tiles jobs cancel 7 --admin http://127.0.0.1:9180 --token-file token
config | Every setting and where it came from | oar-tiles config --config oar-tiles.toml
config | Every problem, also those of the database | oar-tiles config --check --database --config oar-tiles.toml
doctor | Database, change log and target | oar-tiles doctor --config oar-tiles.toml
doctor | What browsers get, too | oar-tiles doctor --url https://tiles.example.org/facilities
completions | For bash | oar-tiles completions bash > ~/.local/share/bash-completion/completions/oar-tiles
completions | For fish | oar-tiles completions fish > ~/.config/fish/completions/oar-tiles.fish
man | Read it | oar-tiles man | man -l -
man | Write all pages | oar-tiles man --output ~/.local/share/man/man1
";

#[cfg(test)]
impl Example {
    /// What the program is started with: without quotes, and only up to what a shell does with its output.
    pub(crate) fn words(&self) -> impl Iterator<Item = String> {
        self.command.split(' ').take_while(|word| ![">", "|"].contains(word)).map(|word| word.replace('\'', ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

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
        for flag in HEADINGS
            .iter()
            .flat_map(|(_, names)| names.split(' '))
            .filter(|flag| !["target", "source", "a", "b"].contains(flag))
        {
            assert!(verbs.iter().any(|(_, verb)| flags(verb).iter().any(|name| name == flag)), "no verb has --{flag}");
        }
        let at_verbs = OF_ONE_VERB.iter().map(|(verb, flag, _)| (*verb, *flag));
        let long = ONLY_IN_LONG_HELP.iter().flat_map(|(verb, names)| names.split(' ').map(|name| (*verb, name)));
        for (path, flag) in at_verbs.chain(long) {
            let verb = verbs.iter().find(|(name, _)| name == path).unwrap();
            assert!(flags(&verb.1).iter().any(|name| name == flag), "{path} has no --{flag}");
        }
    }

    #[test]
    fn each_verb_has_two_examples_that_the_command_line_takes() {
        for (path, verb) in verbs(&command(), "") {
            let examples: Vec<_> = examples().filter(|example| example.verb == path).collect();
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
