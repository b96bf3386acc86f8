//! Families in buckets and in versions, killed runs, and the verbs that take all variants.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::{CONDITION, World};
use crate::support::gate::PASS;
use crate::support::process::Start as _;
use crate::support::program::{Run, program, run, signal, wait};
use crate::support::s3::{Prefix, keys};
use crate::support::tracked::Tiles;
use crate::support::{Archive, Gate};

const RESEED: [&str; 3] = ["reseed", "--progress", "none"];

/// A family whose outputs may lie in S3.
struct Placed {
    world: World,
    prefix: Prefix,
    config: String,
    output: String,
}

impl Placed {
    /// `output` is that of the variants, with `S3` for a prefix of the test's own; `more` are further sections.
    fn new(output: &str, all: &str, more: &str) -> Placed {
        let (world, prefix) = (World::with_contributors(120, 3), Prefix::new());
        let base = format!("s3://{}/{}", prefix.location.bucket, prefix.location.prefix);
        let s3 = format!("[s3]\nendpoint = \"{}\"\nregion = \"us-east-1\"\npath_style = true\n", prefix.endpoint);
        let at = |text: &str| text.replace("S3/", &base);
        let config = world.family(&at(output), &at(all), &format!("{s3}{}", at(more)));
        let output = at(output).replace("FOLDER", world.path("").to_str().unwrap().trim_end_matches('/'));
        Placed { world, prefix, config, output }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).args(["--config", &self.config]);
        command.env("AWS_ACCESS_KEY_ID", keys().key).env("AWS_SECRET_ACCESS_KEY", keys().secret);
        command.env("DATABASE_URL", &self.world.db.url);
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        run(&mut self.command(arguments))
    }

    /// The target of a variant.
    fn of(&self, slug: &str) -> String {
        self.output.replace("{slug}", slug)
    }

    fn held(&self, target: &str) -> Tiles {
        let copy = self.world.path("held.mbtiles");
        self.run(&["copy", "--force", target, copy.to_str().unwrap()]).ok();
        Archive::open(&copy).stored()
    }

    #[track_caller]
    fn are_single_runs(&self) {
        for (number, slug) in self.world.slugs() {
            let expected = self.world.single_run(&CONDITION.replace("!number!", &number.to_string()));
            assert_eq!(self.held(&self.of(&slug)), expected, "{slug}");
        }
    }

    /// The keys of the objects below the prefix.
    fn keys_below(&self, part: &str) -> Vec<String> {
        let prefix = format!("{}{part}", self.prefix.location.prefix);
        let listing = self.prefix.client.list_objects_v2().bucket(&self.prefix.location.bucket).prefix(prefix).send();
        let listed = self.prefix.runtime.block_on(listing).unwrap();
        listed.contents().iter().map(|object| object.key().unwrap().to_owned()).collect()
    }
}

fn a_family_in_a_bucket_is_kept(output: &str, ending: &str) {
    let placed = Placed::new(output, &format!("S3/all{ending}"), "");
    placed.run(&["track", "install"]).ok();
    placed.run(&RESEED).fails(4, &["its variants were never seeded"]);
    placed.run(&["seed", "--progress", "none"]).ok();
    placed.are_single_runs();
    placed.world.db.run("INSERT INTO api_facility (id, name, address, country_code, location, created_at, updated_at) VALUES ('own', 'own', '', 'BD', ST_SetSRID(ST_MakePoint(-120, -50), 4326), now(), now()); INSERT INTO membership VALUES (2, 'own')");
    let planned = placed.run(&["reseed", "--dry-run"]).ok();
    assert!(planned.stdout.contains("brought up to date"), "{}", planned.stdout);
    let done = placed.run(&[&RESEED[..], &["-vv"]].concat()).ok();
    assert!(done.stderr.contains("2 of 3 variants are untouched"), "{}", done.stdout);
    placed.are_single_runs();
    let untouched = placed.run(&[&RESEED[..], &["-vv"]].concat()).ok();
    assert!(untouched.stderr.contains("3 of 3 variants are untouched"), "{}", untouched.stdout);
    // A value that goes, and comes again.
    placed.world.db.run("DELETE FROM contributor WHERE number = 3");
    let kept = placed.run(&RESEED).ok();
    assert!(kept.stdout.contains(&format!("{}: still there", placed.of("c3"))), "{}", kept.stdout);
    assert!(!placed.keys_below("by/c3").is_empty());
    let pruned = placed.run(&[&RESEED[..], &["--prune-variants"]].concat()).ok();
    assert!(pruned.stdout.contains(&format!("{}: deleted", placed.of("c3"))), "{}", pruned.stdout);
    assert_eq!(placed.keys_below("by/c3"), [""; 0]);
    assert!(!placed.keys_below("by/c2").is_empty());
    placed.world.db.run("INSERT INTO contributor VALUES (3, 'c3')");
    placed.run(&RESEED).ok();
    placed.are_single_runs();
    // Verbs on one variant, and the log.
    placed.run(&["verify", &placed.of("c2"), "--database"]).ok();
    let inspected = placed.run(&["inspect", &placed.of("c2")]).ok();
    assert!(inspected.stdout.contains("facilities/c2"), "{}", inspected.stdout);
    // What other tests have open on the server decides how much goes.
    let pruned = placed.run(&["track", "prune"]).ok();
    assert!(pruned.stdout.contains(" taken out of the change log"), "{}", pruned.stdout);
    placed.run(&["doctor", &placed.of("c1")]).ok();
}

#[test]
fn a_family_of_prefixes_in_s3_is_kept_up_to_date() {
    a_family_in_a_bucket_is_kept("S3/by/{slug}/", "/");
}

#[test]
fn a_family_of_archives_in_s3_is_kept_up_to_date() {
    a_family_in_a_bucket_is_kept("S3/by/{slug}.pmtiles", ".pmtiles");
}

/// Jobs at once add their variants to one family, and a reseed seeds the rest.
#[test]
fn jobs_at_once_add_their_variants_to_a_family_of_archives_or_in_a_bucket() {
    for (output, all) in [
        ("FOLDER/by/{slug}.pmtiles", "FOLDER/all.pmtiles"),
        ("S3/by/{slug}/", "S3/all/"),
        ("S3/by/{slug}.pmtiles", "S3/all.pmtiles"),
    ] {
        let placed = Placed::new(output, all, "");
        placed.run(&["track", "install"]).ok();
        let slugs: Vec<String> = placed.world.slugs().into_iter().map(|(_, slug)| slug).collect();
        let [last, jobs @ ..] = &slugs[..] else { panic!("{slugs:?}") };
        let start = |slug: &String| {
            let mut job = placed.command(&["seed", "--progress", "none", "--variant", slug]);
            job.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start()
        };
        let started: Vec<_> = jobs.iter().map(start).collect();
        for job in started {
            wait(job).ok();
        }
        let report = placed.world.path("report.json");
        placed.run(&[&RESEED[..], &["--or-seed", "--report", report.to_str().unwrap()]].concat()).ok();
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        let added: Vec<&str> = report["added"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert!(added.len() == 1 && added[0].contains(last.as_str()), "{output}: {added:?} of {slugs:?}");
        placed.are_single_runs();
    }
}

fn versions_are_kept(output: &str, all: &str) {
    let versioned = "[target]\ntemplate = \"{version}/{z}/{x}/{y}.pbf\"\npublish = \"versioned\"\nkeep_versions = 3\n";
    let placed = Placed::new(output, all, versioned);
    placed.run(&["track", "install"]).ok();
    placed.run(&["seed", "--progress", "none"]).ok();
    placed.are_single_runs();
    let before = placed.held(&placed.of("c2"));
    placed.world.db.run("UPDATE api_facility SET name = name || '!' WHERE id IN (SELECT facility FROM membership WHERE contributor = 2)");
    let refused = placed.run(&RESEED);
    let why = "a version is written as a whole: seed it, or publish in place";
    assert!(refused.code != 0 && refused.stderr.contains(why), "{} {}", refused.code, refused.stderr);
    placed.run(&["seed", "--progress", "none"]).ok();
    placed.are_single_runs();
    // Each variant goes back by one version, and forth again.
    let back = placed.run(&["publish", "--rollback"]).ok();
    for name in ["facilities", "facilities/c1", "facilities/c2", "facilities/c3"] {
        assert!(back.stderr.contains(&format!("tileset {name}\n")), "{name}: {}{}", back.stdout, back.stderr);
    }
    assert!(placed.held(&placed.of("c2")) == before);
    placed.run(&["seed", "--progress", "none"]).ok();
    placed.are_single_runs();
}

#[test]
fn versions_of_variants_in_directories_are_switched_together() {
    versions_are_kept("FOLDER/by/{slug}/", "FOLDER/all/");
}

#[test]
fn versions_of_variants_in_s3_are_switched_together() {
    versions_are_kept("S3/by/{slug}/", "S3/all/");
}

#[test]
fn a_killed_reseed_of_a_family_is_made_up_for() {
    for ending in [".mbtiles", ".pmtiles", "/"] {
        let world = World::with_contributors(150, 4);
        let config = world.contributors(ending);
        world.oar_tiles(&config, &["track", "install"]).ok();
        world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
        for round in 0..6_u64 {
            let change = [
                format!("UPDATE api_facility SET name = name || '{round}'"),
                "UPDATE membership SET contributor = 2 + (contributor + 1) % 3 WHERE md5(facility) < '40'".to_owned(),
                "UPDATE api_facility SET location = ST_Translate(location, 1, 1) WHERE md5(id) < '20'".to_owned(),
            ];
            world.db.run(&change[usize::try_from(round % 3).unwrap()]);
            let mut command = program();
            command.args(RESEED).args(["--config", &config, "--database-url", &world.db.url]);
            let quiet = std::process::Stdio::null;
            let child = command.stdin(quiet()).stdout(quiet()).stderr(quiet()).start();
            // At another moment in each round, from the first look to the last variant.
            std::thread::sleep(Duration::from_millis(60 + 90 * round));
            signal(&child, "KILL");
            wait(child);
        }
        world.oar_tiles(&config, &RESEED).ok();
        world.variants_are_single_runs(ending);
        let nothing = world.oar_tiles(&config, &RESEED).ok();
        assert!(nothing.stdout.contains("4 variants: 0 tiles written"), "{}", nothing.stdout);
    }
}

#[test]
fn a_family_whose_sessions_are_lost_in_the_middle_shows_all_of_its_rows() {
    // Rows that are read once for all variants, and variants that the database draws one after the other: the last ones
    // stand before the gate.
    for run in ["", "[run]\nrows_mb = 0\nworkers = 2\nbatch_features = 50\n"] {
        let world = World::with_contributors(150, 5);
        let config = world.family("FOLDER/by/{slug}.pmtiles", "FOLDER/all.pmtiles", run);
        let gated =
            format!("properties = {{ id = \"id\", name = \"name\", gate = \"CASE WHEN id = 'own' THEN {PASS} END\" }}");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("properties = [\"id\", \"name\"]", &gated)).unwrap();
        world.db.run("INSERT INTO api_facility (id, name, address, country_code, location, created_at, updated_at) VALUES ('own', 'own', '', 'BD', ST_SetSRID(ST_MakePoint(-120, -50), 4326), now(), now()); INSERT INTO membership VALUES (4, 'own')");
        let gate = Gate::close(&world.db);
        let mut command = program();
        command.args(["seed", "--progress", "none", "--config", &config, "--database-url", &world.db.url]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start();
        gate.wait_for(1);
        let lost = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";
        assert!(!world.db.rows(lost).is_empty());
        gate.open();
        wait(child).ok();
        let names = ["by/c1", "by/c2", "by/c3", "by/c4", "by/c5", "all"].map(|name| format!("{name}.pmtiles"));
        let held = names.each_ref().map(|name| world.held(name));
        world.oar_tiles(&config, &["seed", "--progress", "none", "--force"]).ok();
        assert_eq!(held, names.each_ref().map(|name| world.held(name)), "{run}");
    }
}

#[test]
fn more_changes_than_can_be_told_apart_are_brought_in() {
    let world = World::with_contributors(1_300, 3);
    let config = world.contributors(".mbtiles");
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    world.db.run("UPDATE api_facility SET location = ST_Translate(location, 0.5, 0.5), name = name || '!'");
    let done = world.oar_tiles(&config, &[&RESEED[..], &["-vv"]].concat()).ok();
    assert!(!done.stderr.contains("variants are untouched"), "{}", done.stderr);
    world.variants_are_single_runs(".mbtiles");
    let nothing = world.oar_tiles(&config, &RESEED).ok();
    assert!(nothing.stdout.contains("3 variants: 0 tiles written"), "{}", nothing.stdout);
}

#[test]
fn cdns_are_told_of_the_variants_that_changed() {
    let purge = "[target]\npublic_url = \"https://tiles.test/{slug}\"\n[[purge]]\nprovider = \"command\"\nurl = \"https://tiles.test/{slug}/\"\nsettle = \"0s\"\nrebound = \"0s\"\nprogram = ['sh', '-c', 'cat \"$OAR_TILES_PURGE_LIST\" >>FOLDER/told']\n";
    let placed = Placed::new("FOLDER/by/{slug}/", "FOLDER/all/", purge);
    placed.run(&["track", "install"]).ok();
    placed.run(&["seed", "--progress", "none"]).ok();
    let told = |slug: &str| {
        let told = std::fs::read_to_string(placed.world.path("told")).unwrap_or_default();
        told.lines().filter(|line| line.contains(&format!("/{slug}/"))).count()
    };
    let before = ["c1", "c2", "c3", "all"].map(told);
    placed.world.db.run("INSERT INTO api_facility (id, name, address, country_code, location, created_at, updated_at) VALUES ('own', 'own', '', 'BD', ST_SetSRID(ST_MakePoint(-120, -50), 4326), now(), now()); INSERT INTO membership VALUES (2, 'own')");
    placed.run(&RESEED).ok();
    let after = ["c1", "c2", "c3", "all"].map(told);
    assert!(after[1] > before[1] && after[3] > before[3], "{before:?} {after:?}");
    assert_eq!((after[0], after[2]), (before[0], before[2]));
    // By hand: everything of every target.
    let by_hand = placed.run(&["purge", "--all"]).ok();
    for (at, slug) in ["c1", "c2", "c3", "all"].iter().enumerate() {
        assert!(told(slug) > after[at], "{slug}: {}", by_hand.stdout);
    }
    let status = placed.run(&["purge", "status"]).ok();
    assert_eq!(status.stdout.matches("ready").count(), 4, "{}", status.stdout);
}

#[test]
fn doctor_looks_at_a_variant_with_what_the_family_knows() {
    let world = World::with_contributors(120, 3);
    let config = world.contributors(".mbtiles");
    world.oar_tiles(&config, &["track", "install"]).ok();
    let early = world.oar_tiles(&config, &["doctor"]);
    assert!(early.stdout.contains("there is no ") && early.stdout.contains("by/c1.mbtiles yet"), "{}", early.stdout);
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    // The first variant has nothing, so its own manifest stays as it is; the log is pruned by what the family shows.
    world.db.run("UPDATE api_facility SET name = name || '!'");
    world.oar_tiles(&config, &RESEED).ok();
    world.oar_tiles(&config, &["track", "prune"]).ok();
    let c1 = world.path("by/c1.mbtiles");
    for arguments in [&["doctor"][..], &["doctor", c1.to_str().unwrap()]] {
        let done = world.oar_tiles(&config, arguments).ok();
        assert!(done.stdout.contains("by/c1.mbtiles is up to date"), "{}", done.stdout);
    }
    world.oar_tiles(&config, &["verify", c1.to_str().unwrap(), "--database"]).ok();
}
