//! The state of a seed in shards.

use schemars::JsonSchema;
use serde::Serialize;

use super::{sized, timed};

/// What `shards status` says.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ShardsStatus {
    /// The run's id.
    pub run: String,
    /// The target.
    pub output: String,
    /// How the shards come to one state: `tracked`, `held` or `frozen`.
    pub state: &'static str,
    /// The sessions that all shards together may have.
    pub connections: u32,
    /// When the run was begun (RFC 3339).
    pub started: String,
    /// Tiles planned.
    pub tiles: u64,
    /// The number of shards that are done.
    pub done: u32,
    /// The number of shards that are rendered now.
    pub running: u32,
    /// The number of other shards.
    pub missing: u32,
    /// Bytes that the shards have left for the commit.
    pub bytes: u64,
    /// The time that the shards which are done took, added up, in seconds.
    pub seconds: f64,
    /// The shards, in order.
    pub shards: Vec<ShardStatus>,
}

/// What `shards status` says of one shard.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ShardStatus {
    /// Which one, counted from 1.
    pub shard: u32,
    /// `done`, `running` or `missing`.
    pub state: ShardState,
    /// What it costs, by the plan's estimate; 1 is a feature that is drawn into a tile from rows in memory.
    pub weight: u64,
    /// Tiles that it planned, if it is done.
    pub tiles: Option<u64>,
    /// Bytes that it has left for the commit, if it is done.
    pub bytes: Option<u64>,
    /// The time that it took, or has taken up to now, in seconds.
    pub seconds: Option<f64>,
    /// Who renders it now.
    pub holder: Option<String>,
}

/// The state of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ShardState {
    /// It is done.
    Done,
    /// An attempt was seen in the last minute.
    Running,
    /// Neither.
    Missing,
}

/// The state of a run as text.
#[must_use]
pub fn render_shards(status: &ShardsStatus) -> String {
    let ShardsStatus { run, output, state, connections, done, running, missing, .. } = status;
    let mut text = format!(
        "run {run} into {output} ({state}, up to {connections} connections): {} of {} shards done, {running} running, {missing} missing; {} in {}\n",
        done,
        status.shards.len(),
        sized(status.bytes),
        timed(status.seconds),
    );
    let all: u64 = status.shards.iter().map(|shard| shard.weight).sum();
    for shard in status.shards.iter().filter(|shard| shard.state != ShardState::Done) {
        text.push_str(&match (&shard.holder, shard.seconds) {
            (Some(holder), Some(seconds)) => {
                format!("  shard {}: running for {}, {holder}\n", shard.shard, timed(seconds))
            }
            _ => format!("  shard {}: missing, {} % of the work\n", shard.shard, 100 * shard.weight / all.max(1)),
        });
    }
    text
}
