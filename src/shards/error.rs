//! Why a shard, or the commit of all shards, failed.

use crate::error::ErrorKind;
use crate::suggested::{SHARDS_ABORT, SHARDS_BEGIN, SHARDS_COMMIT, SHARDS_STATUS, TRACK_INSTALL};
use crate::target::{NoteError, TargetError, WorkFileError};

/// Why a shard, or the commit of all shards, failed.
#[derive(Debug, thiserror::Error)]
pub enum ShardsError {
    #[error("--work {text}: write a folder/ that all machines share, or s3://bucket/prefix/")]
    NoWorkFolder { text: String },
    #[error("--work {text} is the output: the work folder has to be another one, such as s3://bucket/.seed/")]
    WorkIsTarget { text: String },
    #[error(
        "--work {work} holds {example}, which is no part of a run: nothing was written. Name an empty folder, or one that is not there yet"
    )]
    Stranger { work: String, example: String },
    #[error(
        "{folder} holds {example}, which seed --resume has not left there: nothing was written. Move it away, or seed without --resume"
    )]
    StrangerInParts { folder: String, example: String },
    #[error(
        "layer \"{layer}\" has refresh = true, and what is refreshed for one part of a seed would not be what another part has read: seed without --resume"
    )]
    RefreshesInParts { layer: String },
    #[error("{work} holds no run: begin one with {SHARDS_BEGIN}")]
    NoPlan { work: String },
    #[error(
        "{work} holds run {run} already: finish it with {SHARDS_COMMIT}, give it up with {SHARDS_ABORT}, or name another work folder"
    )]
    Begun { work: String, run: String },
    #[error("{place} cannot be read ({what}): give the run up with {SHARDS_ABORT}, and begin again")]
    Damaged { place: String, what: String },
    #[error("--shards {shards}: at most {most} are possible")]
    TooManyShards { shards: u32, most: u32 },
    #[error("run {run} in {work} was given up: begin again with {SHARDS_BEGIN}")]
    Aborted { work: String, run: String },
    #[error(
        "run {run} in {work} was begun by {theirs}, and this is {ours}: use one version for begin, run and commit, or begin again"
    )]
    OtherVersion {
        work: String,
        run: String,
        /// The program that made the plan.
        theirs: String,
        ours: String,
    },
    #[error(
        "run {run} in {work} was begun with other settings: {what}. Give every shard and the commit the configuration of begin, or begin again"
    )]
    OtherSettings { work: String, run: String, what: String },
    #[error(
        "which shard is this? Write --shard 1/{shards} to --shard {shards}/{shards}, set OAR_TILES_SHARD, or run it as an indexed job of a scheduler (docs/scale-out.md lists the variables)"
    )]
    NoIndex { shards: u32 },
    #[error("{from} is {text:?}, which is no shard: write a number from 1 to {shards}, or K/N such as 3/{shards}")]
    BadIndex { from: String, text: String, shards: u32 },
    #[error(
        "{first} and {second} are both set: which shard is this? Say it with --shard K/{shards} or OAR_TILES_SHARD"
    )]
    TwoIndexes { first: String, second: String, shards: u32 },
    #[error(
        "{from} = {text} is shard {number}, and run {run} has {shards}: give the job as many indexes as begin has --shards"
    )]
    OutOfRange {
        from: String,
        text: String,
        /// The shard, counted from 1.
        number: i64,
        run: String,
        shards: u32,
    },
    #[error(
        "there is no change log that would bring all shards to one state ({why}): run {TRACK_INSTALL} as the owner of the tables, hold one snapshot with begin --hold, or say with --frozen that nobody writes the database"
    )]
    NoState {
        /// Why the change log does not suffice.
        why: String,
    },
    #[error(
        "layer \"{layer}\" has refresh = true, and shards must not refresh it each by itself: hold one snapshot with begin --hold"
    )]
    Refreshes { layer: String },
    #[error("shards divides one tileset, and this configuration has {has}: {next}")]
    SeveralTargets {
        /// What the configuration has: tilesets, or the variants of one.
        has: String,
        next: String,
    },
    #[error(
        "the snapshot of run {run} is gone, for begin --hold has ended, and so has every shard that had it: give the run up with {SHARDS_ABORT}, and begin again"
    )]
    SnapshotGone { run: String },
    #[error(
        "the database is not as it was when run {run} began (snapshot {now}, and it was {then}): --frozen needs a copy that nobody writes. Give the run up with {SHARDS_ABORT}, and begin again"
    )]
    Thawed { run: String, now: String, then: String },
    #[error("run {run} in {work}: {why}. Give every shard and the commit the database of begin")]
    OtherDatabase { work: String, run: String, why: String },
    #[error(
        "{missing} of {shards} shards of run {run} are not done: {named}. Run these again, then commit ({SHARDS_STATUS} shows which run now). If they end with 4, give the run up with {SHARDS_ABORT}"
    )]
    Missing { run: String, missing: u32, shards: u32, named: String },
    #[error(
        "the database has not seen yet what shard {shard} has ({behind} is behind {ahead}): commit against the primary, wait longer with --catch-up, or commit again once the replica has caught up"
    )]
    Behind {
        /// The shard, counted from 1.
        shard: u32,
        behind: String,
        ahead: String,
    },
    #[error(
        "the database has not seen yet what the parts have ({behind} is behind {ahead}): seed from the primary, or run the command again once the replica has caught up. The parts are kept"
    )]
    BehindParts { behind: String, ahead: String },
    #[error(
        "the shards of run {run} rendered {rendered} tiles for {planned} planned: the result is not complete, nothing was published. Please report this"
    )]
    Miscounted { run: String, planned: u64, rendered: u64 },
    #[error("tile {tile} came twice from the shards, or out of order: nothing was published. Please report this")]
    Order { tile: String },
    #[error("this shard lost its place among the connections ({why}): run it again")]
    LostSlot { why: String },
    #[error(
        "run {run} has not ended within {limit} (--hold-for): the snapshot was given up. Shards that have it go on; others cannot begin any more"
    )]
    HoldLimit { run: String, limit: String },
    #[error(transparent)]
    Note(#[from] NoteError),
    #[error(transparent)]
    File(#[from] WorkFileError),
    /// The target, where shards write it themselves.
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("cannot write {place}: make room there, or look into the cause")]
    Write { place: String, source: std::io::Error },
}

impl ShardsError {
    /// What is wrong with a file of the work folder that has to be written again; `None` for another error.
    pub(crate) fn damage(&self) -> Option<String> {
        match self {
            ShardsError::Damaged { place, what } => Some(format!("{place} cannot be read ({what})")),
            ShardsError::File(error) if error.is_missing() => Some("its file is gone".to_owned()),
            _ => None,
        }
    }

    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            ShardsError::NoWorkFolder { .. }
            | ShardsError::WorkIsTarget { .. }
            | ShardsError::Stranger { .. }
            | ShardsError::StrangerInParts { .. }
            | ShardsError::RefreshesInParts { .. }
            | ShardsError::NoPlan { .. }
            | ShardsError::TooManyShards { .. }
            | ShardsError::OtherVersion { .. }
            | ShardsError::OtherSettings { .. }
            | ShardsError::NoIndex { .. }
            | ShardsError::BadIndex { .. }
            | ShardsError::TwoIndexes { .. }
            | ShardsError::OutOfRange { .. }
            | ShardsError::NoState { .. }
            | ShardsError::SeveralTargets { .. }
            | ShardsError::Refreshes { .. } => ErrorKind::Usage,
            ShardsError::Aborted { .. } | ShardsError::SnapshotGone { .. } | ShardsError::Thawed { .. } => {
                ErrorKind::NeedsSeed
            }
            ShardsError::File(error) => error.kind(),
            ShardsError::Target(error) => error.kind(),
            ShardsError::Begun { .. }
            | ShardsError::Damaged { .. }
            | ShardsError::OtherDatabase { .. }
            | ShardsError::Missing { .. }
            | ShardsError::Behind { .. }
            | ShardsError::BehindParts { .. }
            | ShardsError::Miscounted { .. }
            | ShardsError::Order { .. }
            | ShardsError::LostSlot { .. }
            | ShardsError::HoldLimit { .. }
            | ShardsError::Note(_)
            | ShardsError::Write { .. } => ErrorKind::Failed,
        }
    }
}
