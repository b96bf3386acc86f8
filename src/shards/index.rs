//! Finds out which shard a process renders: from `--shard`, `OAR_TILES_SHARD`, or the variable that a scheduler sets.

use super::ShardsError;

const OWN_VARIABLE: &str = "OAR_TILES_SHARD";

/// The variables of schedulers, and the index of the first shard in each. `None`: it numbers the jobs of one call and
/// not the shards of a run, so that a call for some shards would render others. Sources: the documentation of each
/// (docs/scale-out.md). Slurm also has the least index and the step of an array in its variables; an array of the
/// shards that are missing has others than that of all shards.
const SCHEDULERS: &[(&str, Option<i64>)] = &[
    ("JOB_COMPLETION_INDEX", Some(0)),
    ("AWS_BATCH_JOB_ARRAY_INDEX", Some(0)),
    ("SLURM_ARRAY_TASK_ID", Some(0)),
    ("CLOUD_RUN_TASK_INDEX", Some(0)),
    ("PARALLEL_SEQ", None),
    ("NOMAD_ALLOC_INDEX", Some(0)),
    ("SGE_TASK_ID", Some(1)),
    ("LSB_JOBINDEX", Some(1)),
    ("PBS_ARRAY_INDEX", Some(0)),
    ("BATCH_TASK_INDEX", Some(0)),
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardIndex {
    /// Its number, counted from 1.
    pub number: u32,
    /// The flag or the variable that gave the number.
    pub from: String,
}

/// Finds out which of the `shards` shards of a run this process renders. `flag` is the value of `--shard`; `variable`
/// reads the environment. Fails if no source gives an index, two variables do, or the index is beyond the plan.
pub(crate) fn index_of(
    flag: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
    run: &str,
    shards: u32,
) -> Result<ShardIndex, ShardsError> {
    let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    if let Some(text) = flag {
        return typed("--shard", text, run, shards);
    }
    if let Some(text) = variable(OWN_VARIABLE) {
        return typed(OWN_VARIABLE, &text, run, shards);
    }
    let mut set = SCHEDULERS.iter().filter_map(|(name, first)| {
        // Grid Engine sets its variable to "undefined" for jobs that are not arrays, LSF sets it to 0.
        let none = match *name {
            "SGE_TASK_ID" => "undefined",
            "LSB_JOBINDEX" => "0",
            _ => "",
        };
        Some((*name, *first, variable(name).filter(|value| value != none)?))
    });
    let Some((name, first, text)) = set.next() else { return Err(ShardsError::NoIndex { shards }) };
    if let Some((second, ..)) = set.next() {
        return Err(ShardsError::TwoIndexes { first: name.to_owned(), second: second.to_owned(), shards });
    }
    let Some(first) = first else { return Err(ShardsError::NoIndex { shards }) };
    let index: i64 = text.trim().parse().map_err(|_no_number| ShardsError::BadIndex {
        from: name.to_owned(),
        text: text.clone(),
        shards,
    })?;
    let number = index.saturating_sub(first).saturating_add(1);
    checked(ShardIndex { number: 0, from: name.to_owned() }, number, &text, run, shards)
}

/// `K` or `K/N`, counted from 1.
fn typed(from: &str, text: &str, run: &str, shards: u32) -> Result<ShardIndex, ShardsError> {
    let bad = || ShardsError::BadIndex { from: from.to_owned(), text: text.to_owned(), shards };
    let (number, of) = text.split_once('/').map_or((text, None), |(number, of)| (number, Some(of)));
    let number = number.trim().parse::<i64>().map_err(|_no_number| bad())?;
    if let Some(of) = of
        && of.trim().parse::<u32>().ok() != Some(shards)
    {
        return Err(bad());
    }
    checked(ShardIndex { number: 0, from: from.to_owned() }, number, text, run, shards)
}

fn checked(index: ShardIndex, number: i64, text: &str, run: &str, shards: u32) -> Result<ShardIndex, ShardsError> {
    match u32::try_from(number) {
        Ok(number) if (1..=shards).contains(&number) => Ok(ShardIndex { number, ..index }),
        _ => Err(ShardsError::OutOfRange {
            from: index.from,
            text: text.to_owned(),
            number,
            run: run.to_owned(),
            shards,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(flag: Option<&str>, set: &[(&str, &str)]) -> Result<u32, String> {
        let variable = |name: &str| set.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        index_of(flag, variable, "r1", 8).map(|index| index.number).map_err(|error| error.to_string())
    }

    #[test]
    fn the_flag_comes_first_then_the_own_variable_then_that_of_the_scheduler() {
        let kubernetes = ("JOB_COMPLETION_INDEX", "0");
        assert_eq!(index(Some("3/8"), &[("OAR_TILES_SHARD", "4"), kubernetes]), Ok(3));
        assert_eq!(index(Some("8"), &[]), Ok(8));
        assert_eq!(index(None, &[("OAR_TILES_SHARD", "4/8"), kubernetes]), Ok(4));
        assert_eq!(index(None, &[kubernetes]), Ok(1));
    }

    #[test]
    fn each_scheduler_counts_in_its_own_way() {
        for (set, expected) in [
            (&[("JOB_COMPLETION_INDEX", "7")][..], 8),
            (&[("AWS_BATCH_JOB_ARRAY_INDEX", "0")], 1),
            (&[("CLOUD_RUN_TASK_INDEX", "2")], 3),
            (&[("NOMAD_ALLOC_INDEX", "5")], 6),
            (&[("SGE_TASK_ID", "1")], 1),
            (&[("SGE_TASK_ID", "undefined"), ("LSB_JOBINDEX", "0"), ("PBS_ARRAY_INDEX", "3")], 4),
            (&[("LSB_JOBINDEX", "8")], 8),
            (&[("BATCH_TASK_INDEX", "1")], 2),
            (&[("SLURM_ARRAY_TASK_ID", "3")], 4),
            // Of an array of the missing shards, 2 and 5.
            (&[("SLURM_ARRAY_TASK_ID", "4"), ("SLURM_ARRAY_TASK_MIN", "1"), ("SLURM_ARRAY_TASK_MAX", "4")], 5),
            (&[("SLURM_ARRAY_TASK_ID", "6"), ("SLURM_ARRAY_TASK_MIN", "2"), ("SLURM_ARRAY_TASK_STEP", "2")], 7),
        ] {
            assert_eq!(index(None, set), Ok(expected), "{set:?}");
        }
    }

    #[test]
    fn what_is_no_shard_of_the_run_is_refused_with_its_source() {
        for (flag, set, message) in [
            (
                None,
                &[][..],
                "which shard is this? Write --shard 1/8 to --shard 8/8, set OAR_TILES_SHARD, or run it as an indexed job of a scheduler (docs/scale-out.md lists the variables)",
            ),
            (
                None,
                &[("PARALLEL_SEQ", "1")],
                "which shard is this? Write --shard 1/8 to --shard 8/8, set OAR_TILES_SHARD, or run it as an indexed job of a scheduler (docs/scale-out.md lists the variables)",
            ),
            (
                None,
                &[("CLOUD_RUN_TASK_INDEX", "1"), ("JOB_COMPLETION_INDEX", "1")],
                "JOB_COMPLETION_INDEX and CLOUD_RUN_TASK_INDEX are both set: which shard is this? Say it with --shard K/8 or OAR_TILES_SHARD",
            ),
            (
                None,
                &[("JOB_COMPLETION_INDEX", "8")],
                "JOB_COMPLETION_INDEX = 8 is shard 9, and run r1 has 8: give the job as many indexes as begin has --shards",
            ),
            (
                Some("0"),
                &[],
                "--shard = 0 is shard 0, and run r1 has 8: give the job as many indexes as begin has --shards",
            ),
            (Some("2/4"), &[], "--shard is \"2/4\", which is no shard: write a number from 1 to 8, or K/N such as 3/8"),
            (
                None,
                &[("SLURM_ARRAY_TASK_ID", "5:2")],
                "SLURM_ARRAY_TASK_ID is \"5:2\", which is no shard: write a number from 1 to 8, or K/N such as 3/8",
            ),
            (
                None,
                &[("OAR_TILES_SHARD", "two")],
                "OAR_TILES_SHARD is \"two\", which is no shard: write a number from 1 to 8, or K/N such as 3/8",
            ),
        ] {
            assert_eq!(index(flag, set), Err(message.to_owned()));
        }
    }
}
