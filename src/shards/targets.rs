//! A run whose shards are whole targets: several tilesets of one configuration, and variants. Contains the plan, the notes of shards, and the
//! division of targets.

use serde::{Deserialize, Serialize};

use crate::manifest::{DatabaseIdentity, DatabaseMark, Witness};

/// The plan of a run whose shards are whole targets. Variants are divided by their outputs, so that a value that appears after the plan also
/// belongs to a shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetsPlan {
    /// [`PLAN_VERSION`](super::PLAN_VERSION).
    pub version: u32,
    /// The run's id.
    pub run: String,
    /// The program.
    pub generator: String,
    /// The tilesets, in the order of the configuration.
    pub tilesets: Vec<PlannedTileset>,
    /// The database of the plan.
    pub database: DatabaseIdentity,
    /// The witness of the plan's snapshot; `None` if the database has no change log that the role may read.
    #[serde(default)]
    pub witness: Option<Witness>,
    /// The most sessions of all shards together.
    pub connections: u32,
    /// The time at which it was begun, in seconds since 1970 (UTC).
    pub started: u64,
    /// True if targets that hold another tileset are overwritten.
    pub force: bool,
    /// Tiles planned.
    pub tiles: u64,
    /// The shards, in order.
    pub shards: Vec<TargetsShard>,
}

/// A tileset of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTileset {
    /// Its name.
    pub name: String,
    /// Its target, or the output of its variants with `{name}` for the values.
    pub output: String,
    /// The zooms.
    pub zooms: String,
    /// The boxes.
    pub bbox: Vec<String>,
    /// A hash of the configuration of its layers and variants.
    pub settings: String,
    /// The number of its targets.
    pub targets: u64,
}

/// A shard: some targets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetsShard {
    /// Its cost. The unit is a feature that is drawn into a tile from cached rows.
    pub weight: u64,
    /// Its targets.
    pub parts: Vec<TargetsPart>,
}

/// The targets of one tileset that belong to a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetsPart {
    /// The index of the tileset in [`TargetsPlan::tilesets`].
    pub tileset: usize,
    /// True if the shard has the target with all rows: the one of a tileset without variants, or `all`.
    pub whole: bool,
    /// Its variants; `None` if it has none.
    pub variants: Option<OutputRange>,
}

/// A range of variants, in the byte order of their outputs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRange {
    /// The first output; `None` if the range has no beginning.
    pub from: Option<String>,
    /// The first output after the range; `None` if the range has no end.
    pub before: Option<String>,
}

impl OutputRange {
    /// True if the variant with this output is in the range.
    #[must_use]
    pub fn contains(&self, output: &str) -> bool {
        self.from.as_deref().is_none_or(|from| from <= output)
            && self.before.as_deref().is_none_or(|before| output < before)
    }
}

/// A target with its cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeighedTarget {
    /// The index of the tileset.
    pub tileset: usize,
    /// The output of a variant; `None` for the target with all rows.
    pub variant: Option<String>,
    /// Its cost.
    pub weight: u64,
}

/// Divides targets into `shards` shards of about equal weight. Each shard is a contiguous part of the targets in this order: by tileset, first
/// the target with all rows, then the variants by their outputs. If there are fewer targets than shards, the last shards have none.
#[must_use]
pub fn divide(mut targets: Vec<WeighedTarget>, shards: u32) -> Vec<TargetsShard> {
    targets.sort_by(|one, other| (one.tileset, &one.variant).cmp(&(other.tileset, &other.variant)));
    let mut divided: Vec<TargetsShard> = Vec::new();
    let mut from = 0;
    for end in ends(&targets, shards) {
        let mut shard = TargetsShard::default();
        for (number, target) in targets.iter().enumerate().take(end).skip(from) {
            shard.weight += target.weight;
            let is_same = shard.parts.last().is_some_and(|part| part.tileset == target.tileset);
            if !is_same {
                shard.parts.push(TargetsPart { tileset: target.tileset, whole: false, variants: None });
            }
            let Some(part) = shard.parts.last_mut() else { continue };
            let neighbour = |other: Option<&WeighedTarget>| {
                other.is_some_and(|other| other.tileset == target.tileset && other.variant.is_some())
            };
            match &target.variant {
                None => part.whole = true,
                Some(output) => {
                    // The range with the first variants of a tileset has no beginning, and the one with the last variants has no end.
                    let is_first = number == 0 || !neighbour(targets.get(number - 1));
                    let own = part
                        .variants
                        .get_or_insert_with(|| OutputRange { from: (!is_first).then(|| output.clone()), before: None });
                    let next = targets.get(number + 1);
                    own.before = next.filter(|_| neighbour(next)).and_then(|next| next.variant.clone());
                }
            }
        }
        divided.push(shard);
        from = end;
    }
    divided.resize(shards as usize, TargetsShard::default());
    divided
}

/// The end of each of at most `shards` contiguous parts, so that the heaviest part is as light as possible.
fn ends(targets: &[WeighedTarget], shards: u32) -> Vec<usize> {
    let parts = |most: u64| {
        let (mut ends, mut sum) = (Vec::new(), 0);
        for (number, target) in targets.iter().enumerate() {
            if number > 0 && sum + target.weight > most {
                ends.push(number);
                sum = 0;
            }
            sum += target.weight;
        }
        ends.extend((!targets.is_empty()).then_some(targets.len()));
        ends
    };
    let mut low = targets.iter().map(|target| target.weight).max().unwrap_or_default();
    let mut high = targets.iter().map(|target| target.weight).sum::<u64>().max(low);
    while low < high {
        let middle = low + (high - low) / 2;
        if parts(middle).len() <= shards as usize { high = middle } else { low = middle + 1 }
    }
    parts(high)
}

/// A shard of whole targets that is done. The first attempt to write this note has done the shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetsDone {
    /// The shard, counted from 1.
    pub shard: u32,
    /// The attempt.
    pub attempt: String,
    /// The database state that all of its targets show. They may show a later one.
    pub cursor: String,
    /// `pg_current_snapshot()` of its last snapshot.
    pub seen: String,
    /// The witness of its last snapshot.
    #[serde(default)]
    pub witness: Option<Witness>,
    /// The families whose variants it has seeded.
    pub families: Vec<SeededFamily>,
    /// The number of targets that it has seeded.
    pub targets: u64,
    /// The number of their tiles.
    pub tiles: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// The total time of the attempt, in seconds.
    pub seconds: f64,
}

/// Variants that a shard has seeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeededFamily {
    /// The index of the tileset in [`TargetsPlan::tilesets`].
    pub tileset: usize,
    /// The identity of the database, as in a manifest.
    pub database: Option<DatabaseMark>,
    /// The number of notes that list the variants.
    pub lists: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(tileset: usize, variant: Option<&str>, weight: u64) -> WeighedTarget {
        WeighedTarget { tileset, variant: variant.map(str::to_owned), weight }
    }

    /// The shards to which a target belongs.
    fn owners(shards: &[TargetsShard], tileset: usize, variant: Option<&str>) -> Vec<usize> {
        let has = |part: &TargetsPart| {
            part.tileset == tileset
                && match variant {
                    None => part.whole,
                    Some(output) => part.variants.as_ref().is_some_and(|range| range.contains(output)),
                }
        };
        (0..shards.len()).filter(|number| shards[*number].parts.iter().any(has)).collect()
    }

    #[test]
    fn every_target_belongs_to_one_shard_also_a_variant_that_comes_later() {
        let mut random = fastrand::Rng::with_seed(22);
        for _ in 0..500 {
            let mut targets = Vec::new();
            for tileset in 0..random.usize(1..4) {
                if random.bool() {
                    targets.push(target(tileset, None, random.u64(0..100)));
                }
                for number in 0..random.u32(0..12) {
                    targets.push(target(tileset, Some(&format!("t/{:02}", number * 3)), random.u64(0..100)));
                }
            }
            random.shuffle(&mut targets);
            let shards = divide(targets.clone(), random.u32(1..9));
            for one in &targets {
                assert_eq!(owners(&shards, one.tileset, one.variant.as_deref()).len(), 1, "{one:?} {shards:?}");
            }
            // A new variant of a tileset that already had variants.
            for tileset in targets.iter().filter(|one| one.variant.is_some()).map(|one| one.tileset) {
                let new = format!("t/{:02}x", random.u32(0..40));
                assert_eq!(owners(&shards, tileset, Some(&new)).len(), 1, "{new} {shards:?}");
                assert_eq!(owners(&shards, tileset, Some("a")).len(), 1);
            }
        }
    }

    #[test]
    fn the_heaviest_shard_is_as_light_as_contiguous_parts_allow() {
        let weights = [5, 1, 1, 1, 5, 2];
        let targets: Vec<_> =
            weights.iter().enumerate().map(|(at, weight)| target(0, Some(&format!("{at}")), *weight)).collect();
        let of = |shards| divide(targets.clone(), shards).iter().map(|shard| shard.weight).collect::<Vec<_>>();
        assert_eq!(of(1), [15]);
        assert_eq!(of(3), [7, 6, 2]);
        assert_eq!(of(8), [5, 3, 5, 2, 0, 0, 0, 0]);
    }
}
