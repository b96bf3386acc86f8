//! `seed --variant`: some variants of a family by themselves, in jobs that may run at once. Each adds to the family's
//! manifest, and none takes away what it did not seed.

use std::process::{Command, Stdio};

use super::World;
use crate::support::killed::is_killed_at;
use crate::support::process::{Process, Start as _};
use crate::support::program::{program, wait};

impl World {
    fn seeding(&self, config: &str, variants: &[&str]) -> Command {
        let mut command = program();
        command.args(["seed", "--progress", "none", "--config", config, "--database-url", &self.db.url]);
        command.args(variants.iter().flat_map(|name| ["--variant", *name]));
        command
    }

    /// Starts seeds of these variants, each in a job of its own.
    fn jobs(&self, config: &str, jobs: &[&[&str]]) -> Vec<Process> {
        let start = |variants: &&[&str]| {
            let mut command = self.seeding(config, variants);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).start()
        };
        jobs.iter().map(start).collect()
    }

    /// The variants that a reseed finds missing in the family's manifest. The reseed seeds them, and `all`.
    fn added_by_reseed(&self, config: &str) -> Vec<String> {
        let report = self.path("report.json");
        let flags = ["reseed", "--or-seed", "--progress", "none", "--report", report.to_str().unwrap()];
        self.oar_tiles(config, &flags).ok();
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        let name = |output: &serde_json::Value| output.as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        report["added"].as_array().into_iter().flatten().map(name).collect()
    }
}

#[test]
fn jobs_at_once_each_add_their_variants_and_a_reseed_goes_on_from_all_of_them() {
    let world = World::with_contributors(150, 8);
    let config = world.contributors(".mbtiles");
    world.oar_tiles(&config, &["track", "install"]).ok();
    let jobs: [&[&str]; 6] = [&["c1", "c2"], &["c3"], &["c4"], &["c5"], &["c6"], &["c7"]];
    for job in world.jobs(&config, &jobs) {
        wait(job).ok();
    }
    assert_eq!(world.names("by"), (1..=7).map(|n| format!("c{n}.mbtiles")).collect::<Vec<_>>());
    world.db.run(
        "UPDATE api_facility SET name = name || '!' WHERE id IN (SELECT id FROM api_facility ORDER BY id LIMIT 40)",
    );
    assert_eq!(world.added_by_reseed(&config), ["c8.mbtiles"], "the others are in the manifest");
    world.variants_are_single_runs(".mbtiles");
    // A job beside a family that is complete changes nothing of the others.
    let before = super::bytes_of(&world, "by");
    world.jobs(&config, &[&["c3"]]).into_iter().for_each(|job| drop(wait(job).ok()));
    let mut after = super::bytes_of(&world, "by");
    after.insert("c3.mbtiles".to_owned(), before["c3.mbtiles"].clone());
    assert!(after == before, "only c3 is another file");
    assert!(world.added_by_reseed(&config).is_empty());
    world.oar_tiles(&config, &["seed", "--progress", "none"]).ok();
    world.variants_are_single_runs(".mbtiles");
}

#[test]
fn a_change_between_two_jobs_is_seen_by_the_next_reseed() {
    let world = World::with_contributors(100, 4);
    let config = world.contributors("/");
    world.oar_tiles(&config, &["track", "install"]).ok();
    for (number, variant) in ["c2", "c3", "c4", "c1"].into_iter().enumerate() {
        world.jobs(&config, &[&[variant]]).into_iter().for_each(|job| drop(wait(job).ok()));
        let some = format!("id IN (SELECT id FROM api_facility ORDER BY md5(id || '{number}') LIMIT 15)");
        world.db.run(&format!("UPDATE api_facility SET name = name || '{number}' WHERE {some}"));
    }
    assert!(world.added_by_reseed(&config).is_empty());
    world.variants_are_single_runs("/");
}

#[test]
fn a_job_that_is_killed_at_any_step_takes_nothing_away_and_converges_when_it_is_run_again() {
    let world = World::with_contributors(60, 3);
    let config = world.contributors(".mbtiles");
    world.oar_tiles(&config, &["track", "install"]).ok();
    world.jobs(&config, &[&["c1"]]).into_iter().for_each(|job| drop(wait(job).ok()));
    let (mut step, mut kills) = (1, 0);
    while is_killed_at(step, &world.seeding(&config, &["c2", "c3"])) {
        (step, kills) = (step + 1 + step / 3, kills + 1);
    }
    assert!(kills > 5, "{kills}");
    // The last one was not killed.
    world.db.run(
        "UPDATE api_facility SET name = name || '!' WHERE id IN (SELECT id FROM api_facility ORDER BY id LIMIT 20)",
    );
    assert!(world.added_by_reseed(&config).is_empty());
    world.variants_are_single_runs(".mbtiles");
}

#[test]
fn a_variant_that_is_not_there_is_refused_with_a_similar_one_or_the_way_to_list_them() {
    let world = World::with_contributors(20, 3);
    let config = world.contributors(".mbtiles");
    let says = |config: &str, variants: &[&str], said: &[&str]| {
        crate::support::program::run(&mut world.seeding(config, variants)).fails(2, said);
    };
    says(&config, &["c1", "c33"], &["has no variant \"c33\". Did you mean \"c3\"?"]);
    says(&config, &["Liechtenstein"], &["has no variant \"Liechtenstein\": oar-tiles seed ", " --dry-run lists them"]);
    assert!(!world.path("by").exists());
    let single = world.single("true");
    says(
        &single,
        &["c1"],
        &["--variant is for a tileset with variants, and ", " has no [tileset.variants]: leave it out"],
    );
    // Other conditions would make a family of two kinds, so that --force does not help.
    world.jobs(&config, &[&["c1"]]).into_iter().for_each(|job| drop(wait(job).ok()));
    let text = std::fs::read_to_string(&config).unwrap().replace("contributor = !number!", "contributor >= !number!");
    std::fs::write(&config, text).unwrap();
    let mut forced = world.seeding(&config, &["c2"]);
    crate::support::program::run(forced.arg("--force"))
        .fails(2, &["tileset.variants.where differs from that with which"]);
}
