//! The documents of a work folder: the plan, which is written once and never changes, and what shards and commits say beside it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::manifest::DatabaseIdentity;
use crate::report::{FailedLayer, LayerBudget, SkippedRows};
use crate::sink::{Needs, SharedVersion};
use crate::tile::{ColumnRanges, LonLatBox, Order};

/// The version of the layout of the plan and of the runs.
pub const PLAN_VERSION: u32 = 3;

/// How the shards come to one state of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateKind {
    /// Each shard has its own snapshot; the commit renders again what changed since.
    Tracked,
    /// All shards import one snapshot, which `begin --hold` keeps.
    Held,
    /// Nobody writes the database.
    Frozen,
}

/// The plan of a run. It holds no rows, and no batches: each shard plans the tiles of its columns itself, at its snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardPlan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// The run's id.
    pub run: String,
    /// The program.
    pub generator: String,
    /// The fingerprint of the configuration, with the rendering and the packing version.
    pub fingerprint: String,
    /// A hash of the tables and views that the layers read.
    pub reads: String,
    /// The target.
    pub output: String,
    /// The zooms.
    pub zooms: String,
    /// The boxes.
    pub bbox: Vec<String>,
    /// True if the target wants its tiles along the Hilbert curve; else by zoom, column and row.
    pub hilbert: bool,
    /// True if the target keeps the layers of a tile apart.
    pub layers_apart: bool,
    /// The version of an S3 prefix that shards write themselves; `None` where the commit writes the target.
    pub shared_version: Option<String>,
    /// How the shards come to one state.
    pub state: StateKind,
    /// The database of the plan.
    pub database: DatabaseIdentity,
    /// The cursor of the plan's snapshot.
    pub cursor: String,
    /// `pg_current_snapshot()` of the plan.
    pub seen: String,
    /// The sessions that all shards together may have.
    pub connections: u32,
    /// When it was begun, in seconds since 1970 (UTC).
    pub started: u64,
    /// How long the survey and the plan took, in seconds.
    pub plan_seconds: f64,
    /// Tiles planned.
    pub tiles: u64,
    /// Pairs of a feature and a tile.
    pub features: u64,
    /// The box around all features.
    #[serde(with = "bounds_text")]
    pub bounds: LonLatBox,
    /// Rows that are skipped.
    pub skipped: Vec<SkippedRows>,
    /// Warnings of the plan.
    pub warnings: Vec<String>,
    /// The shards, in order.
    pub shards: Vec<PlannedShard>,
}

/// Bounds as text, each side so that the same number is read again. A box in settings must have an extent; that around one point has none.
mod bounds_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::tile::LonLatBox;

    pub(super) fn serialize<S: Serializer>(bounds: &LonLatBox, serializer: S) -> Result<S::Ok, S::Error> {
        let LonLatBox { west, south, east, north } = bounds;
        serializer.collect_str(&format_args!("{west},{south},{east},{north}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LonLatBox, D::Error> {
        let text = String::deserialize(deserializer)?;
        let sides: Option<Vec<f64>> = text.split(',').map(|side| side.parse().ok()).collect();
        match sides.as_deref() {
            Some(&[west, south, east, north]) => Ok(LonLatBox { west, south, east, north }),
            _ => Err(D::Error::custom(format!("{text:?} are no bounds"))),
        }
    }
}

/// A shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShard {
    /// What it costs: 1 is a feature that is drawn into a tile from rows in memory.
    pub weight: u64,
    /// About how many rows it reads.
    pub rows: u64,
    /// Its columns.
    pub columns: ColumnRanges,
}

impl ShardPlan {
    /// The order and form of the edits that the target wants.
    #[must_use]
    pub const fn needs(&self) -> Needs {
        let order = if self.hilbert { Order::Hilbert } else { Order::ZoomColumnTmsRow };
        Needs { order, layers_apart: self.layers_apart }
    }

    /// The version that shards write themselves.
    #[must_use]
    pub fn shared(&self) -> Option<SharedVersion> {
        let version = self.shared_version.clone()?;
        Some(SharedVersion { version, run: self.run.clone() })
    }

    /// The number of shards.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.shards.len()).unwrap_or(u32::MAX)
    }

    /// A shard, counted from 1.
    #[must_use]
    pub fn shard(&self, number: u32) -> Option<&PlannedShard> {
        self.shards.get(usize::try_from(number).ok()?.checked_sub(1)?)
    }
}

/// A shard that is rendered. Kept with the run until it has ended, and renewed while the attempt lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptNote {
    /// The shard, counted from 1.
    pub shard: u32,
    /// The attempt's id.
    pub attempt: String,
    /// Who renders it, for people.
    pub holder: String,
    /// When it began, in milliseconds since 1970 (UTC).
    pub began: u64,
    /// When it was last known to live, by its own clock.
    pub alive: u64,
}

/// An attempt that adds tiles to the target itself, at one snapshot. Written before its first tile, and kept with the run: the commit renders
/// again what changed since this snapshot, too, for tiles of it may be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddingNote {
    /// The shard, counted from 1.
    pub shard: u32,
    /// Random: an attempt that starts over on a new snapshot has another.
    pub id: String,
    /// The cursor of its snapshot.
    pub cursor: String,
    /// True once it has ended in order: no request of it is under way.
    pub has_ended: bool,
}

/// Figures of a zoom of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DoneZoom {
    /// The zoom.
    pub zoom: u8,
    /// Features drawn.
    pub features: u64,
    /// Time that workers spent on it, in seconds.
    pub worker_seconds: f64,
}

/// What a shard says about layers and tiles that were not as they should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// How layers met their budgets.
    pub budgets: Vec<LayerBudget>,
    /// Tiles in which a layer could not be rendered.
    pub failed: Vec<FailedLayer>,
}

/// A shard that is done. The first attempt of a shard that writes it has done the shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DoneNote {
    /// The shard, counted from 1.
    pub shard: u32,
    /// The attempt.
    pub attempt: String,
    /// The file with its sorted run; `None` if it has no tile.
    pub file: Option<String>,
    /// The file's length in bytes.
    pub bytes: u64,
    /// The CRC-32 of the file.
    pub crc32: u32,
    /// Records in the file.
    pub edits: u64,
    /// The [`AddingNote`] of an attempt that has added its tiles to the target.
    pub adding: Option<String>,
    /// True if the target holds the bytes that the file says: no other attempt has added tiles of this shard.
    pub is_exact: bool,
    /// Tiles that it planned.
    pub tiles: u64,
    /// The cursor of its snapshot.
    pub cursor: String,
    /// `pg_current_snapshot()` of its snapshot.
    pub seen: String,
    /// Figures for each zoom.
    pub zooms: Vec<DoneZoom>,
    /// How layers fared.
    pub layers: LayerRecord,
    /// Time to survey, to plan and to read rows, in seconds.
    pub plan_seconds: f64,
    /// Time to read rows, in seconds.
    pub reading_seconds: f64,
    /// How many sessions read the rows of a layer side by side, at most; 0 if no rows were read.
    #[serde(default)]
    pub reading_sessions: usize,
    /// Time to render, in seconds.
    pub render_seconds: f64,
    /// The whole time of the attempt, in seconds.
    pub seconds: f64,
    /// The workers.
    pub workers: usize,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunEnd {
    /// It was committed.
    Committed,
    /// It was given up.
    Aborted,
}

/// A run that has ended, for attempts that come late.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedRun {
    /// The run's id.
    pub run: String,
    /// How it ended.
    pub end: RunEnd,
}

/// A random id of 16 hexadecimal digits.
#[must_use]
pub fn random_id() -> String {
    // The standard library keys each state at random, from the system's source of randomness.
    format!("{:016x}", std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id()))
}

/// The time, in milliseconds since 1970 (UTC).
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
