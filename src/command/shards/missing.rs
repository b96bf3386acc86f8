//! Finds out which shards are missing before a commit.

use crate::shards::{ShardsError, WorkFolder};

/// The numbers of the shards that are done.
///
/// # Errors
/// If any of the shards 1 to `shards` is not done.
pub(super) fn none_missing(work: &WorkFolder, run: &str, shards: u32) -> Result<Vec<u32>, ShardsError> {
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
