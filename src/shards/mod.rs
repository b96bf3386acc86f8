//! One seed in parts, which the machines of an existing scheduler render: what the parts share.
//!
//! ```text
//!  begin: survey, cut ─► plan ─┬─► run 1: its columns ─► sorted run, done ─┐
//!                     (folder) ├─► run 2                                   ├─► commit: repair, merge ─► sink, manifest last
//!                              └─► run n                                   ┘
//! ```
//!
//! A shard is a strip of columns of tiles, at all zooms. Its rows are read once for all zooms, as in a seed. Shallow
//! zooms, which have fewer columns than there are shards, are cut one after the other. So a shard's tiles of one zoom
//! are neighbours in the target's order (in MBTiles and directories a contiguous run). The commit merges the runs of
//! all shards in that order into the one writer that a seed has, so an archive is byte for byte the same as that of one
//! machine.
//!
//! Shards write only to the work folder, so an attempt that is late cannot change what is published. The one exception
//! is a new version of an S3 prefix: there each shard adds its tiles itself, with conditional writes
//! ([`VersionTiles`](crate::target::VersionTiles)), and its run says which tiles these are.
//!
//! | file | what |
//! |---|---|
//! | `plan` | the plan and the other documents of the work folder |
//! | `cut` | which columns belong to which shard |
//! | `index` | finds out which shard a process renders: a flag, or the variable of a scheduler |
//! | `folder` | the work folder: notes and files, and who wrote a note first |
//! | `run_file` | what a shard writes: its sorted run, written, read and checked, and the tiles of a new version |
//! | `merge` | several runs as one |
//! | `error` | why a shard or a commit failed |
//!
//! The verbs are in `run/shards`.

mod cut;
mod error;
mod folder;
mod index;
mod merge;
mod plan;
mod run_file;

pub(crate) use cut::ColumnWeights;
pub use cut::{CutFor, cut};
pub(crate) use error::ShardsError;
pub(crate) use folder::WorkFolder;
pub(crate) use index::index_of;
pub use merge::Merged;
pub(crate) use merge::MergedRecord;
pub(crate) use plan::{AddingNote, AttemptNote, DoneNote, DoneZoom, LayerRecord, RunEnd, ShardPlan, StateKind};
pub use plan::{PLAN_VERSION, PlannedShard};
pub(crate) use run_file::{FinishedShard, RunRecord, ShardSink};
pub use run_file::{RunReader, RunSink};
