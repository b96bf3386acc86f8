//! Promises 3 and 4: after any history of changes by several sessions at once, a reseed leaves the same tiles as a
//! fresh seed.
//!
//! A history is what happens to one table. Many tables, of every kind that is tracked, live side by side in one
//! database and one tileset, so that each reseed is about many histories.

pub(super) mod chance;
mod tables;
mod world;

use world::World;

/// Runs some rounds of histories; others by `TEST_HISTORIES=ROUNDS`.
#[expect(clippy::print_stdout, reason = "tests show it if they fail")]
fn histories(mut world: World, rounds: u64) {
    let rounds = std::env::var("TEST_HISTORIES").map_or(rounds, |rounds| rounds.parse().unwrap());
    let begin = match std::env::var("TEST_HISTORIES_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() * 1_000,
    };
    let mut histories = 0;
    for seed in begin..begin + rounds {
        // Printed only if the round fails.
        println!("TEST_HISTORIES_SEED={seed} TEST_HISTORIES=1 shows this round again");
        histories += world.round(seed);
    }
    println!("{histories} histories");
}

#[test]
fn after_any_history_a_reseed_equals_a_fresh_seed() {
    histories(World::of_every_kind(10), 4);
}

#[test]
fn after_a_thousand_histories_of_points_a_reseed_equals_a_fresh_seed() {
    histories(World::of_points(100), 10);
}
