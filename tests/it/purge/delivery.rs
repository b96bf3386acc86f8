//! What a publish changed is told, once it is durable, and never lost.

use std::path::PathBuf;
use std::process::Command;

use crate::support::Db;
use crate::support::places::Places;
use crate::support::program::{Run, program, run};

/// A target whose CDN is a script: it appends what it is told to `told`, and ends as `ends` says.
pub(super) struct PurgedPlaces {
    pub(super) db: Db,
    pub(super) places: Places,
    kind: &'static str,
}

const SCRIPT: &str =
    r#"cd "$0"; cat "$OAR_TILES_PURGE_LIST" >>told; echo "$OAR_TILES_PURGE_REFERENCE" >>references; . ./ends"#;

impl PurgedPlaces {
    pub(super) fn new(kind: &'static str, more: &str) -> PurgedPlaces {
        PurgedPlaces::with(kind, &format!("settle = \"0s\"\n{}", more.replace("settle = \"0s\"", "")), |config| config)
    }

    /// The same with another configuration from the beginning.
    pub(super) fn with(kind: &'static str, more: &str, change: impl Fn(String) -> String) -> PurgedPlaces {
        let (db, places) = (Db::with_facilities(60), Places::new());
        let told = PurgedPlaces { db, places, kind };
        told.end_with("exit 0");
        let folder = told.places.folder.path().to_str().unwrap().to_owned();
        let purge = format!(
            "[[purge]]\nprovider = \"command\"\nurl = \"https://tiles.test/\"\nrebound = \"0s\"\nwait = \"2s\"\nprogram = ['sh', '-c', '''{SCRIPT}''', '{folder}']\n{more}\n[tileset]\noutput = '{}'\nzoom = \"0-3\"\n[target]\npublic_url = \"relative\"\n",
            told.places.place(kind)
        );
        let config = std::fs::read_to_string(&told.places.config).unwrap();
        std::fs::write(&told.places.config, change(config + &purge)).unwrap();
        told.verb("track", &["install"]).ok();
        told
    }

    /// Changes the configuration.
    pub(super) fn configure(&self, change: impl Fn(String) -> String) {
        let config = std::fs::read_to_string(&self.places.config).unwrap();
        let changed = change(config.clone());
        assert_ne!(changed, config);
        std::fs::write(&self.places.config, changed).unwrap();
    }

    pub(super) fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = program();
        command.arg(verb).args(arguments).args(["--config", &self.places.config]);
        if matches!(verb, "seed" | "reseed" | "track") {
            command.args(["--database-url", &self.db.url]);
        }
        self.places.with_keys(&mut command);
        command
    }

    pub(super) fn verb(&self, verb: &str, arguments: &[&str]) -> Run {
        run(&mut self.command(verb, arguments))
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.places.folder.path().join(name)
    }

    /// How the script ends from now on.
    pub(super) fn end_with(&self, script: &str) {
        std::fs::write(self.file("ends"), script).unwrap();
    }

    /// What was told since the last question, sorted.
    pub(super) fn told(&self) -> Vec<String> {
        let file = self.file("told");
        let mut lines: Vec<String> =
            std::fs::read_to_string(&file).unwrap_or_default().lines().map(str::to_owned).collect();
        std::fs::write(file, "").unwrap();
        lines.sort();
        lines
    }

    /// A change of some rows, and a reseed; gives what `--changed-out` says, as the script is told it.
    pub(super) fn change(&self, rows: &str) -> (Run, Vec<String>) {
        self.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE {rows}"));
        let out = self.file("changed.txt");
        let ran = self.verb("reseed", &["--changed-out", out.to_str().unwrap()]);
        let mut expected: Vec<String> = std::fs::read_to_string(out)
            .unwrap_or_default()
            .lines()
            .map(|tile| format!("https://tiles.test/{tile}.pbf"))
            .collect();
        expected.sort();
        (ran, expected)
    }

    pub(super) fn status(&self) -> serde_json::Value {
        let all: serde_json::Value =
            serde_json::from_str(&self.verb("purge", &["status", "--json"]).ok().stdout).unwrap();
        all["cdns"].clone()
    }
}

pub(super) const ONE: &str = "id = (SELECT min(id) FROM api_facility)";
pub(super) const OTHER: &str = "id = (SELECT max(id) FROM api_facility)";

#[test]
fn each_publish_of_every_kind_of_target_is_told_exactly() {
    for kind in ["t.mbtiles", "t.pmtiles", "tiles/", "s3:tiles/", "s3:t.pmtiles"] {
        let told = PurgedPlaces::new(kind, "");
        told.verb("seed", &[]).ok();
        assert_eq!(told.told(), ["https://tiles.test/*"], "{kind}: of a first seed nothing else is known");
        let (ran, expected) = told.change(ONE);
        ran.ok();
        assert_eq!(told.told(), expected, "{kind}");
        assert_eq!(expected.len(), 4, "{kind}: one tile a zoom");
        told.verb("reseed", &[]).ok();
        assert!(told.told().is_empty(), "{kind}: nothing changed");
        // A full seed is told exactly, too.
        told.db.run(&format!("UPDATE api_facility SET name = 'other' WHERE {OTHER}"));
        told.verb("seed", &[]).ok();
        assert_eq!(told.told().len(), 4, "{kind}");
        assert_eq!(told.status()[0]["tiles"], 0);
    }
}

#[test]
fn what_is_refused_waits_and_is_sent_together_when_the_cause_is_gone() {
    let told = PurgedPlaces::new("tiles/", "");
    told.verb("seed", &[]).ok();
    told.end_with("exit 78");
    told.told();
    let (ran, one) = told.change(ONE);
    let warned = ran.ok().stderr;
    assert!(warned.contains("refuses to be told what changed") && warned.contains("oar-tiles purge"), "{warned}");
    assert_eq!(told.told(), one);
    let (ran, other) = told.change(OTHER);
    assert!(ran.ok().stderr.contains("exit code 78"));
    assert!(told.told().is_empty(), "a provider that refuses for good is not asked again by itself");
    let status = told.status();
    assert!(status[0]["stopped"].as_str().unwrap().contains("exit code 78"), "{status}");
    assert!(told.verb("purge", &["status"]).ok().stdout.contains("stopped: sh ended with exit code 78"));
    let plan = told.verb("purge", &["--dry-run"]).ok().stdout;
    assert!(plan.contains("url https://") || plan.contains("  url /"), "{plan}");
    assert!(told.told().is_empty(), "--dry-run tells nobody");
    told.end_with("exit 0");
    told.verb("purge", &[]).ok();
    let mut both = [one, other].concat();
    both.sort();
    both.dedup();
    assert_eq!(told.told(), both);
    assert_eq!((&told.status()[0]["tiles"], &told.status()[0]["stopped"]), (&0.into(), &serde_json::Value::Null));
}

#[test]
fn a_required_cdn_that_was_not_told_makes_exit_code_3_and_the_target_is_published() {
    let told = PurgedPlaces::new("t.mbtiles", "required = true");
    told.end_with("exit 75");
    told.verb("seed", &[]).fails(3, &["not every CDN that is required was told", "oar-tiles purge"]);
    told.verb("verify", &[&told.places.place(told.kind)]).ok();
    told.end_with("exit 0");
    told.told();
    // A run that changes nothing tells what an earlier one has left.
    told.verb("reseed", &[]).ok();
    assert_eq!(told.told(), ["https://tiles.test/*"]);
}

#[test]
fn a_kill_while_the_cdn_is_told_loses_nothing_and_the_repeat_has_the_same_reference() {
    let told = PurgedPlaces::new("s3:tiles/", "");
    told.verb("seed", &[]).ok();
    std::fs::write(told.file("references"), "").unwrap();
    told.told();
    told.end_with("kill -9 $PPID");
    let (ran, _) = told.change(ONE);
    assert_eq!(ran.code, -1);
    let first = told.told();
    assert_eq!(first.len(), 4);
    told.end_with("exit 0");
    told.verb("purge", &[]).ok();
    assert_eq!(told.told(), first);
    let references = std::fs::read_to_string(told.file("references")).unwrap();
    let references: Vec<&str> = references.lines().collect();
    assert!(references.len() == 2 && references[0] == references[1], "{references:?}");
    told.verb("purge", &[]).ok();
    assert!(told.told().is_empty());
}

#[test]
fn tiles_that_the_user_names_are_purged_and_what_waits_can_be_forgotten() {
    let told = PurgedPlaces::new("t.pmtiles", "");
    told.verb("seed", &[]).ok();
    told.told();
    let list = told.file("list.txt");
    std::fs::write(&list, "3/1/2\n0/0/0\n").unwrap();
    told.verb("purge", &["--tiles", list.to_str().unwrap()]).ok();
    assert_eq!(told.told(), ["https://tiles.test/0/0/0.pbf", "https://tiles.test/3/1/2.pbf"]);
    told.verb("purge", &["--all"]).ok();
    assert_eq!(told.told(), ["https://tiles.test/*"]);
    told.end_with("exit 78");
    told.verb("purge", &["--all"]).ok();
    told.end_with("exit 0");
    told.told();
    told.verb("purge", &["--forget"]).ok();
    told.verb("purge", &[]).ok();
    assert!(told.told().is_empty());
    let none = run(program().args(["purge", "status", &told.places.place(told.kind)]));
    none.fails(2, &["names no CDN", "[[purge]]"]);
}

#[test]
fn what_is_sent_once_more_is_paid_from_the_same_budget() {
    let rebound = |config: String| config.replace("rebound = \"0s\"\nwait = \"2s\"", "rebound = \"1s\"\nwait = \"10s\"");
    let told = PurgedPlaces::with("tiles/", "settle = \"0s\"", rebound);
    told.verb("seed", &[]).ok();
    assert_eq!(told.told(), ["https://tiles.test/*"; 2]);
    assert_eq!((&told.status()[0]["spent_this_month"], &told.status()[0]["again"]), (&2.into(), &0.into()));
    // Of a budget of one item a day in advance nothing is left for it.
    told.configure(|config| config.replace("provider = \"command\"", "provider = \"command\"\nbudget_per_month = 3"));
    told.verb("purge", &["--forget"]).ok();
    let (ran, _) = told.change(ONE);
    let waits = ran.ok().stderr;
    assert!(waits.contains("the budget allows the next item in"), "{waits}");
    assert!(told.told().len() <= 1, "fewer and larger items, and none beyond the budget");
}

#[test]
fn what_is_sent_once_more_keeps_the_least_time_between_two_purges() {
    let rebound = |config: String| config.replace("rebound = \"0s\"", "rebound = \"1s\"");
    let told = PurgedPlaces::with("tiles/", "settle = \"0s\"\nmin_interval = \"1h\"", rebound);
    let warned = told.verb("seed", &[]).ok().stderr;
    assert_eq!(told.told(), ["https://tiles.test/*"], "{warned}");
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    let warned = told.verb("purge", &[]).ok().stderr;
    assert!(warned.contains("the budget allows the next item in 59m"), "{warned}");
    assert!(told.told().is_empty());
    assert!(told.status()[0]["again"].is_null(), "every tile is sent once more later");
}
