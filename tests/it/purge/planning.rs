//! What it takes to plan a purge of many tiles. How long it takes, `scripts/bench --purge` measures.

use std::process::Command;

use super::command_line::Purged;
use crate::support::program::{program, run};

/// Runs a command; prints the peak of its memory in kilobytes, then what it printed.
const MEASURE: &str = r"
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
printed = process.stdout.read().decode()
_, status, usage = os.wait4(process.pid, 0)
assert status == 0, status
print(usage.ru_maxrss)
print(printed)
";

#[test]
fn a_change_of_a_hundred_thousand_tiles_is_planned_in_little_memory() {
    let purged = Purged::new("provider = \"cloudfront\"\ndistribution = \"E1\"");
    let config = std::fs::read_to_string(&purged.config).unwrap();
    std::fs::write(&purged.config, config.replace("zoom = \"0-8\"", "zoom = \"0-14\"")).unwrap();
    let planned = |tiles: Vec<String>| {
        let list = purged.list(tiles.into_iter());
        let mut python = Command::new(std::env::var("TEST_PYTHON").expect("scripts/test installs Python"));
        python.args(["-c", MEASURE]).arg(program().get_program()).args(["purge", "--dry-run", "--tiles", &list]);
        let ran = run(python.args([&purged.target, "--config", &purged.config])).ok();
        let (kilobytes, printed) = ran.stdout.split_once('\n').unwrap();
        (kilobytes.parse::<u64>().unwrap(), printed.to_owned())
    };
    let (alone, _) = planned(vec!["0/0/0".to_owned()]);
    let squares = (0..1_000).map(|square| (square % 40 * 397, square / 40 * 613));
    let tiles = squares
        .flat_map(|(left, top)| (0..100).map(move |number| format!("14/{}/{}", left + number / 10, top + number % 10)));
    let (many, printed) = planned(tiles.collect());
    let digits: String = printed.chars().filter(|c| !c.is_whitespace()).collect();
    assert!(digits.contains("100000tileswait,2890itemswouldbesent"), "{printed}");
    assert!(many < alone + 50_000, "{alone} kB for one tile, {many} kB for all");
}
