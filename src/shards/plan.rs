//! The notes of a work folder: the plan, which is written once and never changes, and the notes of shards and commits.

use serde::{Deserialize, Serialize};

use crate::manifest::{DatabaseIdentity, Witness};
use crate::report::{FailedLayer, LayerBudget, SkippedRows};
use crate::target::{Needs, SharedVersion};
use crate::tile::{ColumnRanges, LonLatBox, Order};

/// The version of the layout of the plan and of the runs.
pub const PLAN_VERSION: u32 = 5;

/// How the shards are brought to one state of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StateKind {
    /// Each shard has its own snapshot; the commit renders again what changed since.
    Tracked,
    /// All shards import one snapshot, which `begin --hold` keeps.
    Held,
    /// Nothing writes the database.
    Frozen,
}

/// The plan of a run. It contains neither rows nor batches: each shard plans the tiles of its columns itself, at its
/// snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ShardPlan {
    pub version: u32,
    /// The run's id.
    pub run: String,
    pub generator: String,
    /// The fingerprint of the configuration, with the rendering and the packing version.
    pub fingerprint: String,
    /// A hash of the tables and views that the layers read.
    pub reads: String,
    pub output: String,
    pub zooms: String,
    pub bbox: Vec<String>,
    /// True if the target wants its tiles along the Hilbert curve; otherwise it wants them by zoom, column and row.
    pub(crate) hilbert: bool,
    /// True if the target stores the layers of a tile separately.
    pub layers_apart: bool,
    /// The version of an S3 prefix that shards write themselves; `None` if the commit writes the target.
    pub(crate) shared_version: Option<String>,
    pub state: StateKind,
    pub database: DatabaseIdentity,
    /// The cursor of the plan's snapshot.
    pub cursor: String,
    /// The witness of the plan's snapshot; `None` if the database has no change log that the role may read.
    #[serde(default)]
    pub witness: Option<Witness>,
    /// `pg_current_snapshot()` of the plan.
    pub seen: String,
    /// The most sessions of all shards together.
    pub(crate) connections: u32,
    /// The time at which it was begun, in seconds since 1970 (UTC).
    pub started: u64,
    /// How long the survey and the plan took, in seconds.
    pub plan_seconds: f64,
    pub tiles: u64,
    /// Pairs of a feature and a tile.
    pub features: u64,
    /// The number of rows of each layer, where it is known.
    #[serde(default)]
    pub rows: Vec<Option<u64>>,
    /// The box around all features.
    #[serde(with = "bounds_text")]
    pub bounds: LonLatBox,
    pub skipped: Vec<SkippedRows>,
    pub warnings: Vec<String>,
    /// The shards, in order.
    pub shards: Vec<PlannedShard>,
}

/// Bounds as text. Each side is written so that it reads back as the same number. The text form in settings is not
/// used, because a box there must have an extent, and the box around a single point has none.
mod bounds_text {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::tile::LonLatBox;

    pub(crate) fn serialize<S: Serializer>(bounds: &LonLatBox, serializer: S) -> Result<S::Ok, S::Error> {
        let LonLatBox { west, south, east, north } = bounds;
        serializer.collect_str(&format_args!("{west},{south},{east},{north}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LonLatBox, D::Error> {
        read(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }

    fn read(text: &str) -> Result<LonLatBox, String> {
        let sides: Option<Vec<f64>> = text.split(',').map(|side| side.parse().ok()).collect();
        match sides.as_deref() {
            Some(&[west, south, east, north]) => Ok(LonLatBox { west, south, east, north }),
            _ => Err(format!("{text:?} are no bounds")),
        }
    }

    /// The same where there may be none.
    pub(crate) mod optional {
        use serde::de::Error as _;
        use serde::{Deserialize as _, Deserializer, Serializer};

        use crate::tile::LonLatBox;

        #[expect(clippy::ref_option, reason = "serde hands the field over as it is")]
        pub(crate) fn serialize<S: Serializer>(bounds: &Option<LonLatBox>, serializer: S) -> Result<S::Ok, S::Error> {
            match bounds {
                Some(bounds) => super::serialize(bounds, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<LonLatBox>, D::Error> {
            let text = Option::<String>::deserialize(deserializer)?;
            text.map(|text| super::read(&text)).transpose().map_err(D::Error::custom)
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShard {
    /// Its cost. The unit is a feature that is drawn into a tile from cached rows.
    pub weight: u64,
    /// The approximate number of rows that it reads.
    pub rows: u64,
    pub columns: ColumnRanges,
}

impl ShardPlan {
    /// The order and form of the edits that the target wants.
    pub(crate) const fn needs(&self) -> Needs {
        let order = if self.hilbert { Order::Hilbert } else { Order::ZoomColumnTmsRow };
        Needs { order, layers_apart: self.layers_apart }
    }

    /// The version that shards write themselves; `None` if the commit writes the target.
    pub(crate) fn shared(&self) -> Option<SharedVersion> {
        let version = self.shared_version.clone()?;
        Some(SharedVersion { version, run: self.run.clone() })
    }

    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.shards.len()).unwrap_or(u32::MAX)
    }

    /// The cost of the heaviest shard, relative to the mean; 1 if there is nothing to draw.
    pub(crate) fn heaviest(&self) -> f64 {
        let weights = || self.shards.iter().map(|shard| shard.weight);
        let (all, most) = (weights().sum::<u64>(), weights().max().unwrap_or_default());
        if all == 0 { 1.0 } else { most as f64 * self.shards.len() as f64 / all as f64 }
    }

    /// A shard, counted from 1.
    pub(crate) fn shard(&self, number: u32) -> Option<&PlannedShard> {
        self.shards.get(usize::try_from(number).ok()?.checked_sub(1)?)
    }
}

/// An attempt at a shard. The note is kept until the run has ended, and renewed while the attempt is alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttemptNote {
    /// The shard, counted from 1.
    pub shard: u32,
    /// The attempt's id.
    pub attempt: String,
    /// The process that renders it, for people.
    pub(crate) holder: String,
    /// The time at which it began, in milliseconds since 1970 (UTC).
    pub began: u64,
    /// The time of its last heartbeat, by its own clock.
    pub(crate) alive: u64,
}

/// An attempt that adds tiles to the target itself, at one snapshot. The note is written before the first tile, and
/// kept with the run. The commit also renders again what changed since this snapshot, because tiles of the attempt may
/// be in the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AddingNote {
    /// The shard, counted from 1.
    pub shard: u32,
    /// A random id. An attempt that starts over on a new snapshot gets another one.
    pub id: String,
    pub cursor: String,
    #[serde(default)]
    pub witness: Option<Witness>,
    /// True once it has ended in order, so that none of its requests is pending.
    pub(crate) has_ended: bool,
}

/// The figures of a shard for one zoom.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct DoneZoom {
    pub zoom: u8,
    pub features: u64,
    /// Time that workers spent on it, in seconds.
    pub worker_seconds: f64,
}

/// A shard's record of layers over budget, and of tiles that could not be rendered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// How far layers kept their budgets.
    pub budgets: Vec<LayerBudget>,
    /// Tiles in which a layer could not be rendered.
    pub failed: Vec<FailedLayer>,
}

/// A shard that is done. The first attempt to write this note has done the shard.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DoneNote {
    /// The shard, counted from 1.
    pub shard: u32,
    pub attempt: String,
    /// The file with its sorted run; `None` if it has no tile.
    pub file: Option<String>,
    /// The file's length in bytes.
    pub bytes: u64,
    /// The CRC-32 of the file.
    pub(crate) crc32: u32,
    /// The number of records in the file.
    pub edits: u64,
    /// The [`AddingNote`] of an attempt that has added its tiles to the target.
    pub(crate) adding: Option<String>,
    /// True if the target certainly holds the bytes that the file names, because no other attempt has added tiles of
    /// this shard.
    pub(crate) is_exact: bool,
    /// The number of tiles that it planned.
    pub tiles: u64,
    /// The box around its features, which may have come after the plan; `None` if it has none.
    #[serde(with = "bounds_text::optional")]
    pub(crate) bounds: Option<LonLatBox>,
    pub cursor: String,
    #[serde(default)]
    pub witness: Option<Witness>,
    /// `pg_current_snapshot()` of its snapshot.
    pub seen: String,
    pub zooms: Vec<DoneZoom>,
    /// The record of layers over budget, and of tiles that could not be rendered.
    pub layers: LayerRecord,
    /// The time for surveying, planning and reading rows, in seconds.
    pub plan_seconds: f64,
    /// The time for reading rows, in seconds.
    pub reading_seconds: f64,
    /// The most sessions that read the rows of one layer in parallel; 0 if no rows were read.
    #[serde(default)]
    pub reading_sessions: usize,
    /// The time for rendering, in seconds.
    pub render_seconds: f64,
    /// The total time of the attempt, in seconds.
    pub seconds: f64,
    pub workers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RunEnd {
    Committed,
    /// It was given up.
    Aborted,
}

/// A run that has ended. Attempts that come late find it here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndedRun {
    /// The run's id.
    pub run: String,
    pub end: RunEnd,
}
