//! Two examples for each verb.

/// One command, and what it is for.
pub(super) struct Example {
    /// The verb that it belongs to.
    pub verb: &'static str,
    /// What it does.
    pub what: &'static str,
    /// As typed. Quotes are single ones.
    pub command: &'static str,
}

const fn example(verb: &'static str, what: &'static str, command: &'static str) -> Example {
    Example { verb, what, command }
}

/// All of them, in the order of the verbs.
pub(super) const EXAMPLES: &[Example] = &[
    example("init", "All tables of a database", "oar-tiles init --database-url postgresql://reader@localhost/gis"),
    example("init", "Some of them, by name", "oar-tiles init --table 'osm_*' --output osm.toml"),
    example("seed", "As the configuration says", "oar-tiles seed --config oar-tiles.toml"),
    example("seed", "The plan for some zooms of a box", "oar-tiles seed --zoom 0-10 --bbox 60,5,100,35 --dry-run"),
    example(
        "reseed",
        "What changed since the last run, else everything",
        "oar-tiles reseed --or-seed --config oar-tiles.toml",
    ),
    example("reseed", "As a service", "oar-tiles reseed --watch --or-seed --config oar-tiles.toml"),
    example(
        "shards",
        "The plan, into a folder that all machines share",
        "oar-tiles shards begin --work /mnt/seed/ --shards 16",
    ),
    example("shards", "How far it is", "oar-tiles shards status --work /mnt/seed/"),
    example(
        "shards begin",
        "64 shards, brought to one state by the change log",
        "oar-tiles shards begin --work s3://bucket/.seed/ --shards 64 --config oar-tiles.toml",
    ),
    example(
        "shards begin",
        "One snapshot for all, without a change log",
        "oar-tiles shards begin --work /mnt/seed/ --shards 16 --hold --hold-for 4h",
    ),
    example(
        "shards run",
        "As the scheduler says which",
        "oar-tiles shards run --work s3://bucket/.seed/ --config oar-tiles.toml",
    ),
    example("shards run", "The third of 16", "oar-tiles shards run --work /mnt/seed/ --shard 3/16"),
    example(
        "shards commit",
        "Once all shards are done",
        "oar-tiles shards commit --work s3://bucket/.seed/ --config oar-tiles.toml",
    ),
    example(
        "shards commit",
        "With the closing table as JSON",
        "oar-tiles shards commit --work /mnt/seed/ --report seed.json",
    ),
    example("shards status", "What is done, running and missing", "oar-tiles shards status --work s3://bucket/.seed/"),
    example("shards status", "For a program", "oar-tiles shards status --work /mnt/seed/ --json"),
    example("shards abort", "Give the run up", "oar-tiles shards abort --work s3://bucket/.seed/"),
    example(
        "shards abort",
        "With the keys of a configuration",
        "oar-tiles shards abort --work s3://bucket/.seed/ --config oar-tiles.toml",
    ),
    example("publish", "List the versions", "oar-tiles publish --output tiles/"),
    example("publish", "Switch back to the one before", "oar-tiles publish --output tiles/ --rollback"),
    example("purge", "What would be sent", "oar-tiles purge --dry-run --config oar-tiles.toml"),
    example("purge", "Send what waits, and purge some tiles besides", "oar-tiles purge tiles/ --tiles tiles.txt"),
    example(
        "purge status",
        "What waits for the CDNs of the configuration",
        "oar-tiles purge status --config oar-tiles.toml",
    ),
    example("purge status", "For a program", "oar-tiles purge status tiles/ --json"),
    example("verify", "Structure, counts and tiles", "oar-tiles verify facilities.mbtiles"),
    example(
        "verify",
        "Every tile beside the database",
        "oar-tiles verify tiles/ --all --database --config oar-tiles.toml",
    ),
    example("inspect", "Tiles and bytes by zoom, layers, snapshot", "oar-tiles inspect facilities.pmtiles"),
    example("inspect", "The features of a tile", "oar-tiles inspect facilities.pmtiles 3/5/2 --geojson"),
    example("copy", "A file as a directory", "oar-tiles copy facilities.mbtiles tiles/"),
    example(
        "copy",
        "A part of it",
        "oar-tiles copy facilities.mbtiles portugal.pmtiles --zoom 0-10 --area portugal.geojson",
    ),
    example("diff", "Two targets, by zoom", "oar-tiles diff yesterday.mbtiles today.pmtiles"),
    example("diff", "The tiles that differ, for a map", "oar-tiles diff tiles/ s3://bucket/tiles/ --zoom 10 --geojson"),
    example("serve", "A file to this machine", "oar-tiles serve facilities.mbtiles"),
    example(
        "serve",
        "Kept up to date, with a map",
        "oar-tiles serve --config oar-tiles.toml --listen 0.0.0.0:8080 --writer --preview",
    ),
    example("preview", "In the browser", "oar-tiles preview facilities.mbtiles --open"),
    example(
        "preview",
        "As a page of your own",
        "oar-tiles preview tiles/ --html map.html --public-url https://www.example.org/tiles",
    ),
    example("track", "Once, before the first seed", "oar-tiles track install --config oar-tiles.toml"),
    example("track", "How far a target is behind", "oar-tiles track status --config oar-tiles.toml"),
    example(
        "track install",
        "Triggers that log where rows change",
        "oar-tiles track install --reader tiles --config oar-tiles.toml",
    ),
    example("track install", "The statements, for somebody who may run them", "oar-tiles track install --sql"),
    example("track status", "The log and the configuration's target", "oar-tiles track status --config oar-tiles.toml"),
    example("track status", "Several targets, for a program", "oar-tiles track status a.mbtiles b.pmtiles --json"),
    example("track prune", "What all targets have seen", "oar-tiles track prune a.mbtiles b.pmtiles"),
    example("track prune", "What is old, seen or not", "oar-tiles track prune --older-than 30d"),
    example("track remove", "The triggers and the log", "oar-tiles track remove --config oar-tiles.toml"),
    example("track remove", "The statements, for somebody who may run them", "oar-tiles track remove --sql"),
    example("jobs", "Submit a job", "oar-tiles jobs submit log --admin http://127.0.0.1:9180"),
    example("jobs", "List jobs", "oar-tiles jobs list --admin http://127.0.0.1:9180"),
    example("jobs submit", "Render what changed", "oar-tiles jobs submit log --wait --admin http://127.0.0.1:9180"),
    example(
        "jobs submit",
        "Render a box",
        "oar-tiles jobs submit area --area 60,5,100,35 --admin unix:/run/oar-tiles/admin",
    ),
    example("jobs list", "With the token in OAR_TILES_TOKEN", "oar-tiles jobs list --admin http://127.0.0.1:9180"),
    example(
        "jobs list",
        "With the token in a file",
        "oar-tiles jobs list --admin http://127.0.0.1:9180 --token-file token",
    ),
    example("jobs show", "With the token in OAR_TILES_TOKEN", "oar-tiles jobs show 7 --admin http://127.0.0.1:9180"),
    example(
        "jobs show",
        "With the token in a file",
        "oar-tiles jobs show 7 --admin http://127.0.0.1:9180 --token-file token",
    ),
    example(
        "jobs cancel",
        "With the token in OAR_TILES_TOKEN",
        "oar-tiles jobs cancel 7 --admin http://127.0.0.1:9180",
    ),
    example(
        "jobs cancel",
        "With the token in a file",
        "oar-tiles jobs cancel 7 --admin http://127.0.0.1:9180 --token-file token",
    ),
    example("config", "Every setting and where it came from", "oar-tiles config --config oar-tiles.toml"),
    example(
        "config",
        "Every problem, also those of the database",
        "oar-tiles config --check --database --config oar-tiles.toml",
    ),
    example("doctor", "Database, change log and target", "oar-tiles doctor --config oar-tiles.toml"),
    example("doctor", "What browsers get, too", "oar-tiles doctor --url https://tiles.example.org/facilities"),
    example(
        "completions",
        "For bash",
        "oar-tiles completions bash > ~/.local/share/bash-completion/completions/oar-tiles",
    ),
    example("completions", "For fish", "oar-tiles completions fish > ~/.config/fish/completions/oar-tiles.fish"),
    example("man", "Read it", "oar-tiles man | man -l -"),
    example("man", "Write all pages", "oar-tiles man --output ~/.local/share/man/man1"),
];

#[cfg(test)]
impl Example {
    /// What the program is started with: without quotes, and only up to what a shell does with its output.
    pub(super) fn words(&self) -> impl Iterator<Item = String> {
        self.command.split(' ').take_while(|word| ![">", "|"].contains(word)).map(|word| word.replace('\'', ""))
    }
}
