//! A plan of either kind, as it is stored in the work folder.

use serde::{Deserialize, Serialize};

use super::plan::ShardPlan;
use super::targets::TargetsPlan;

/// The plan of a run that was begun.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum BegunPlan {
    /// Shards are strips of one tileset.
    Columns(Box<ShardPlan>),
    /// Shards are whole targets.
    Targets(Box<TargetsPlan>),
}

/// The figures that a finished shard of either kind reports.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct DoneFigures {
    /// The number of its tiles.
    pub tiles: u64,
    /// The bytes that it has left for the commit, or in its targets.
    pub bytes: u64,
    /// The total time of the attempt, in seconds.
    pub seconds: f64,
}

impl BegunPlan {
    /// The run's id.
    #[must_use]
    pub fn run(&self) -> &str {
        match self {
            BegunPlan::Columns(plan) => &plan.run,
            BegunPlan::Targets(plan) => &plan.run,
        }
    }

    /// The costs of the shards, in their order.
    #[must_use]
    pub fn weights(&self) -> Vec<u64> {
        match self {
            BegunPlan::Columns(plan) => plan.shards.iter().map(|shard| shard.weight).collect(),
            BegunPlan::Targets(plan) => plan.shards.iter().map(|shard| shard.weight).collect(),
        }
    }

    /// The number of shards.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.weights().len()).unwrap_or(u32::MAX)
    }

    /// The cost of the heaviest shard, relative to the mean; 1 if there is nothing to draw.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio of estimates")]
    pub fn heaviest(&self) -> f64 {
        let weights = self.weights();
        let (all, most) = (weights.iter().sum::<u64>(), weights.iter().copied().max().unwrap_or_default());
        if all == 0 { 1.0 } else { most as f64 * weights.len() as f64 / all as f64 }
    }
}
