//! A run is killed at each of its file operations in turn (by strace, which delivers SIGKILL at the entry of a system
//! call). The next run makes the tiles right, and the CDN has heard of every tile that differs from what it may have
//! cached.

use super::delivery::{ONE, PurgedPlaces};
use crate::support::killed::is_killed_at;
use crate::support::places::Tiles;

/// The addresses of tiles that differ, or are in one of both.
fn differing(one: &Tiles, other: &Tiles) -> Vec<String> {
    let all = one.keys().chain(other.keys());
    let mut found: Vec<String> = all
        .filter(|address| one.get(address) != other.get(address))
        .map(|(z, x, y)| format!("https://tiles.test/{z}/{x}/{y}.pbf"))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// What runs after a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The same again.
    Same,
    /// A seed with another extent, which changes every tile.
    OtherConfiguration,
}

fn is_right_after_any_kill(kind: &'static str, next: Next, least_kills: u32) {
    let told = PurgedPlaces::new(kind, "");
    told.verb("seed", &[]).ok();
    let (mut step, mut kills, mut cached) = (1, 0, told.places.read_by_others(kind));
    loop {
        told.told();
        told.db.run(&format!("UPDATE api_facility SET name = name || '!' WHERE {ONE}"));
        let is_killed = is_killed_at(step, &told.command("reseed", &[]));
        kills += u32::from(is_killed);
        if next == Next::OtherConfiguration {
            let (whole, half) = ("geometry = \"location\"\n", "geometry = \"location\"\nextent = 2048\n");
            told.configure(
                |text| if text.contains(half) { text.replace(half, whole) } else { text.replace(whole, half) },
            );
            told.verb("seed", &["--force"]).ok();
        } else {
            told.verb("reseed", &[]).ok();
        }
        told.verb("purge", &[]).ok();
        let (now, heard) = (told.places.read_by_others(kind), told.told());
        told.places.seed(&told.db, "fresh.mbtiles", &["--zoom", "0-3"]).ok();
        assert!(now == told.places.read_by_others("fresh.mbtiles"), "{kind}, killed at {step}: the tiles");
        let missed: Vec<String> = differing(&cached, &now).into_iter().filter(|tile| !heard.contains(tile)).collect();
        let is_everything = heard.contains(&"https://tiles.test/*".to_owned());
        assert!(missed.is_empty() || is_everything, "{kind}, killed at {step}: the CDN has not heard of {missed:?}");
        assert_eq!(told.status()[0]["tiles"], 0, "{kind}, killed at {step}");
        if !is_killed {
            break;
        }
        cached = now;
        // The first ones one by one, later ones in growing steps.
        step += 1 + step / 10;
    }
    assert!(kills >= least_kills, "{kind}: {kills} kills");
}

#[test]
fn a_run_into_mbtiles_is_killed_at_each_file_operation() {
    is_right_after_any_kill("t.mbtiles", Next::Same, 8);
}

#[test]
fn a_run_into_a_directory_is_killed_at_each_file_operation() {
    is_right_after_any_kill("tiles/", Next::Same, 8);
}

#[test]
fn a_run_of_another_configuration_goes_on_after_any_kill() {
    is_right_after_any_kill("tiles/", Next::OtherConfiguration, 8);
}

#[test]
fn a_run_into_pmtiles_is_killed_at_each_file_operation() {
    // It writes another file, and renames it.
    is_right_after_any_kill("t.pmtiles", Next::Same, 3);
}
