//! `shards status` and `shards abort`.

use crate::clock::{milliseconds_now, moment};
use crate::report::{ShardState, ShardStatus, ShardsStatus};
use crate::run::{CommandError, Target, TilesetRun};
use crate::shards::{RunEnd, ShardPlan, ShardsError, StateKind, WorkFolder};

/// The state of the run in a work folder. May wait for a server.
pub(crate) fn status(work: &WorkFolder) -> Result<ShardsStatus, CommandError> {
    let plan = work.begun()?;
    let (numbers, attempts) = (work.done_numbers(&plan.run)?, work.attempts(&plan.run)?);
    let mut shards = Vec::new();
    for (number, weight) in (1..).zip(plan.shards.iter().map(|shard| shard.weight)) {
        let done = match numbers.binary_search(&number) {
            Ok(_) => work.done(&plan.run, number)?,
            Err(_) => None,
        };
        let attempt = attempts.iter().find(|attempt| attempt.note.shard == number && attempt.is_alive);
        let attempt = attempt.filter(|_| done.is_none()).map(|attempt| &attempt.note);
        let state = match (&done, attempt) {
            (Some(_), _) => ShardState::Done,
            (None, Some(_)) => ShardState::Running,
            (None, None) => ShardState::Missing,
        };
        let running = attempt.map(|attempt| milliseconds_now().saturating_sub(attempt.began) as f64 / 1e3);
        shards.push(ShardStatus {
            shard: number,
            state,
            weight,
            tiles: done.as_ref().map(|done| done.tiles),
            bytes: done.as_ref().map(|done| done.bytes),
            seconds: done.as_ref().map(|done| done.seconds).or(running),
            holder: attempt.map(|attempt| attempt.holder.clone()),
        });
    }
    let count = |state| u32::try_from(shards.iter().filter(|shard| shard.state == state).count()).unwrap_or(u32::MAX);
    let is_done = |shard: &&ShardStatus| shard.state == ShardState::Done;
    let state = match plan.state {
        StateKind::Tracked => "tracked",
        StateKind::Held => "held",
        StateKind::Frozen => "frozen",
    };
    Ok(ShardsStatus {
        run: plan.run.clone(),
        output: plan.output.clone(),
        state,
        connections: plan.connections,
        started: moment(plan.started),
        tiles: plan.tiles,
        done: count(ShardState::Done),
        running: count(ShardState::Running),
        missing: count(ShardState::Missing),
        bytes: shards.iter().filter_map(|shard| shard.bytes).sum(),
        seconds: shards.iter().filter(is_done).filter_map(|shard| shard.seconds).sum(),
        shards,
    })
}

/// Gives up the run in a work folder, even if another version of the program began it. Returns its id; `None` if the
/// plan could not be read, and was removed. May wait for a server.
pub(crate) fn abort(tileset_run: &TilesetRun, work: &WorkFolder) -> Result<Option<String>, CommandError> {
    let run = match work.run() {
        Err(ShardsError::Damaged { .. }) => {
            work.remove_plan()?;
            return Ok(None);
        }
        run => run?.ok_or_else(|| ShardsError::NoPlan { work: work.name.clone() })?,
    };
    // The plan of another program version cannot be read, and is skipped.
    match work.plan() {
        Ok(Some(plan)) => give_up(&tileset_run.target, work, &plan)?,
        Ok(None) | Err(_) => work.end(&run, RunEnd::Aborted)?,
    }
    Ok(Some(run))
}

/// Gives up the run of a plan. May wait for a server.
pub(crate) fn give_up(target: &Target, work: &WorkFolder, plan: &ShardPlan) -> Result<(), CommandError> {
    work.end(&plan.run, RunEnd::Aborted)?;
    if let Some(version) = plan.shared()
        && let Err(error) = target.beside(&plan.output).and_then(|target| target.give_up_shared(&version))
    {
        tracing::warn!("the tiles of version {} of {} stay for a week: {error}", version.version, plan.output);
    }
    Ok(())
}

// Finds out which shards are missing before a commit.

/// The numbers of the shards that are done.
pub(crate) fn none_missing(work: &WorkFolder, run: &str, shards: u32) -> Result<Vec<u32>, ShardsError> {
    let numbers: Vec<u32> = work.done_numbers(run)?;
    let missing: Vec<u32> = (1..=shards).filter(|number| numbers.binary_search(number).is_err()).collect();
    if missing.is_empty() {
        return Ok(numbers);
    }
    Err(ShardsError::Missing {
        run: run.to_owned(),
        missing: u32::try_from(missing.len()).unwrap_or(u32::MAX),
        shards,
        named: named(&missing),
    })
}

/// Numbers as ranges, such as `3,7-9`, which `sbatch --array` takes, too.
fn named(numbers: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let one = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_shards_are_named_as_ranges() {
        assert_eq!(named(&[1]), "1");
        assert_eq!(named(&[3, 4, 5, 9, 11, 12]), "3-5,9,11-12");
    }
}
