//! What is durable first: the plan is written when shards can begin, and a run ends when its target is complete.

use super::helpers::Sharded;
use crate::support::killed::renamed_and_removed;
use crate::support::tracked::Tracked;

/// The number of the first or last operation that names one of these files.
#[track_caller]
fn place(operations: &[String], names: &[&str], is_first: bool) -> usize {
    let mut of = operations.iter().enumerate().filter(|(_, line)| names.iter().any(|name| line.contains(name)));
    let found = if is_first { of.next() } else { of.next_back() };
    found.unwrap_or_else(|| panic!("{names:?} in {operations:#?}")).0
}

/// Asserts that a commit has put `last`, the last file of its targets, in its place before it ends the run or removes
/// anything of it.
#[track_caller]
fn ends_after(operations: &[String], last: &[&str]) {
    let ends = place(operations, &["\"ended.json\"", "\"plan.json\"", "\"done-0", "\"shard-0"], true);
    assert!(place(operations, last, false) < ends, "{operations:#?}");
}

#[test]
fn nothing_of_a_run_is_removed_until_its_target_is_complete() {
    let tracked = Tracked::facilities(20);
    for (name, last) in [("t.mbtiles", ".partial\""), ("t.pmtiles", "\"t.pmtiles\""), ("t/", "\"metadata.json\"")] {
        let mut sharded = Sharded::into(&tracked.db, tracked.folder.path(), name);
        sharded.more = ["--zoom", "0-2"].map(str::to_owned).to_vec();
        sharded.begin(1, &[]);
        sharded.run(1).ok();
        ends_after(&renamed_and_removed(&sharded.command("commit", &[])), &[last]);
    }
}

#[test]
fn a_plan_is_written_when_the_snapshot_that_its_shards_look_for_is_there() {
    let tracked = Tracked::facilities(5);
    let sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
    let operations = renamed_and_removed(&sharded.command("begin", &["--shards", "1", "--hold", "--hold-for", "1ms"]));
    assert!(
        place(&operations, &["\"snapshot-"], true) < place(&operations, &["\"plan.json\""], true),
        "{operations:#?}"
    );
}
