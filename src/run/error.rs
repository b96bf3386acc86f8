//! Why a command ended without success.

use std::path::PathBuf;

use tokio::task::JoinError;

use super::describe::TileCause;
use super::dirty::TileListError;
use super::row_loss::LostRows;
use crate::cdn::OutboxError;
use crate::config::ConfigError;
use crate::cursor::CursorError;
use crate::encode::{DecodeError, EncodeError};
use crate::error::{ErrorKind, Obstacle};
use crate::plan::HeavyTile;
use crate::postgis::QueryError;
use crate::report::{FileMoment, MetricsFileError, ReportFileError, WORK_IS_DONE};
use crate::scratch::temporary_folder;
use crate::shards::ShardsError;
use crate::stop::{Signal, Stop};
use crate::suggested::{PURGE, RESEED, SEED};
use crate::target::{LocationError, MaxShrink, ReadError, SwitchError, TargetError, TargetUrlError};
use crate::tile::{TileCoord, TileId, ZoomError};

/// How a database comes to have another history than a target or a shard has seen.
pub(crate) const OTHER_HISTORY: &str = "it shows changes that the database's change log does not hold any more, or other changes have their transaction numbers: the database was restored from a backup or a snapshot of its disk, is a copy, failed over to a standby that lacked the last commits, or lost them in a crash (synchronous_commit = off)";

/// Why a command ended without success.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Database(#[from] crate::postgis::Error),
    #[error(transparent)]
    Changes(crate::change_log::ChangeLogError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Shards(#[from] ShardsError),
    #[error(transparent)]
    TargetUrl(#[from] TargetUrlError),
    #[error(
        "cannot start {wanted} threads: raise the limit of processes (ulimit -u, TasksMax of a systemd unit, the limit of pids of a container), or end others of this user"
    )]
    Threads { wanted: usize, source: std::io::Error },
    #[error("something is in the way: {errors} of the findings above {}", if *errors == 1 { "is an error" } else { "are errors" })]
    Unhealthy { errors: u64 },
    #[error("there is no schema {name:?}: write one of {names}")]
    NoSuchSchema { name: String, names: String },
    #[error(
        "{target} holds another tileset ({found}), and this run writes {wanted}: choose another target, or write over it with --force"
    )]
    OtherTileset { target: String, found: String, wanted: String },
    #[error("oar-tiles did not write {target} ({what}): choose another target, or write over it with --force")]
    Foreign { target: String, what: String },
    #[error("{target} is one file: only a directory and a prefix of a bucket have versions")]
    NoVersions { target: String },
    #[error(
        "{target} is published, but not every CDN that is required was told: {providers}. What it has to be told is kept: run {PURGE}"
    )]
    NotPurged { target: String, providers: String },
    #[error("the configuration names no CDN for {target}: write a [[purge]] (sample-config.toml shows its keys)")]
    NoPurges { target: String },
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error(
        "{target} has no latest.json: it was not published with publish = \"versioned\", so there is nothing to switch back to"
    )]
    Unversioned { target: String },
    /// The map cannot be switched.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// A place that cannot be in S3.
    #[error(transparent)]
    Location(#[from] LocationError),
    #[error("{target} would be copied onto itself: name another target")]
    SameTarget { target: String },
    #[error("{target} needs a full seed: {why}. Run {SEED}, or reseed with --or-seed")]
    NeedsSeed { target: String, why: String },
    #[error("{target} needs a full seed: {OTHER_HISTORY}. Run {SEED}, or reseed with --or-seed")]
    OtherHistory { target: String },
    #[error(
        "targets that need a full seed: {targets} of {of}, for the reasons given above. Run {SEED}, or reseed with --or-seed"
    )]
    NeedSeeds { targets: usize, of: usize },
    #[error(
        "{target} holds {} tiles in these zooms and boxes, and {} would be left: max_shrink is {max}. No tile was deleted, the manifest is unchanged. See whether a table is empty, or an import half done; if not, allow it for one seed or reseed with --allow-shrink",
        crate::report::grouped(*held),
        crate::report::grouped(*left)
    )]
    Shrinks { target: String, held: u64, left: u64, max: MaxShrink },
    #[error(
        "{target} would lose rows: {}. max_shrink is {max}. Nothing was written, the manifest is unchanged. See whether a table is empty, or an import half done; if not, allow it for one seed or reseed with --allow-shrink",
        lost.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    LosesRows { target: String, lost: Vec<LostRows>, max: MaxShrink },
    #[error(transparent)]
    TileList(#[from] TileListError),
    #[error("the area {text:?} cannot be read: {what}")]
    NoArea {
        text: String,
        /// What is wrong with it, and what to write.
        what: String,
    },
    /// A request to a command does not fit the target.
    #[error("{target}: {what}")]
    Unfit {
        target: String,
        /// What does not fit, and what to do.
        what: String,
    },
    #[error(
        "--since compares one target with an older one: join them first (oar-tiles copy A B joined.mbtiles), and copy that one"
    )]
    NoPatchOfSeveral,
    #[error("copy needs a source and a target: oar-tiles copy SOURCE TARGET")]
    NoCopyTarget,
    /// A run could not write its archive anew because of its dead bytes. Without that it may succeed.
    #[error(transparent)]
    NotCompacted(Box<CommandError>),
    #[error("{target}: other runs keep changing it. Run the command again when they are done")]
    Contended { target: String },
    #[error("{text:?} is no tile: {what}")]
    NoTile { text: String, what: String },
    /// A tile, or a layer of it, that a target does not hold.
    #[error("{target} has no {what}")]
    NotThere { target: String, what: String },
    #[error("{target}: tile {tile} cannot be decoded. Seed or copy it again; verify names all such tiles")]
    BrokenTile { target: String, tile: TileCoord, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{target} is not sound: {findings} listed above. Seed or copy it again")]
    Unsound { target: String, findings: String },
    /// Two targets differ.
    #[error("{a} and {b} differ in {} {}", crate::report::grouped(*tiles), if *tiles == 1 { "tile" } else { "tiles" })]
    Differ { a: String, b: String, tiles: u64 },
    /// A running endpoint cannot be compared with a target.
    #[error("{address}: {what}")]
    Endpoint {
        address: String,
        /// What it answers, and what to do.
        what: String,
    },
    #[error(
        "not every tile could be rendered: {tiles}. What {target} held of them stays as it was, everything else is done. Mend what the cause names, then run {RESEED}, which renders them again (or seed)"
    )]
    Unrendered {
        target: String,
        tiles: String,
        /// Why the first of them failed.
        source: TileCause,
    },
    /// A result that is not complete: tiles that could not be rendered or packed, or a count that is wrong.
    #[error("{0}")]
    Incomplete(String),
    #[error("tile {tile} is listed, but it cannot be found: has {changed}?")]
    Vanished { tile: TileId, changed: &'static str },
    /// A tile that cannot be packed.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// A stored tile that cannot be unpacked.
    #[error("tile {tile}: {cause}")]
    Decode { tile: TileId, cause: DecodeError },
    /// The state of a database, as a database or a note gives it.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    #[error(transparent)]
    Zooms(#[from] ZoomError),
    #[error(transparent)]
    Condition(#[from] QueryError),
    #[error("layer \"{layer}\": tiles with more than {limit} features: {tiles}; the heaviest is tile {} with {}. Raise max_tile_features, draw the layer from a deeper zoom, or set on_large_tile = \"thin\" or \"warn\"", heaviest.tile, heaviest.features)]
    LargeTile { layer: String, tiles: u64, limit: u64, heaviest: HeavyTile },
    #[error(
        "the database went away {attempts} times: the target's manifest is unchanged. Look into the server's log, and run the command again (restarts in [database] sets how often it tries)"
    )]
    Restarts {
        /// How often the run was begun.
        attempts: u32,
        source: crate::postgis::Error,
    },
    #[error(
        "others in the database kept this run from its end {attempts} times: the target's manifest is unchanged. Run the command again when what the cause names is done (restarts and lock_timeout in [database] set how often it tries, and how long it waits)"
    )]
    HeldUp {
        /// How often the run was begun.
        attempts: u32,
        source: crate::postgis::Error,
    },
    /// The database has no table that can be drawn, or none that was asked for.
    #[error("{what}")]
    NothingToDraw {
        /// What there is, and what to do.
        what: String,
    },
    /// A file that a command writes for people, in addition to the target.
    #[error(transparent)]
    File(#[from] WrittenFileError),
    /// Several tilesets, or the variants of one.
    #[error(transparent)]
    Several(#[from] SeveralError),
    /// The report cannot be written.
    #[error(transparent)]
    NoReport(#[from] ReportFileError),
    #[error(transparent)]
    NoMetrics(#[from] MetricsFileError),
    #[error(
        "where clients find the tiles of {target} is not known: give --public-url https://…, below which {{z}}/{{x}}/{{y}} and tiles.json are"
    )]
    NoPublicUrl { target: String },
    #[error("{url:?} is no URL that a page can ask for tiles: give --public-url https://…")]
    NoUrl { url: String },
    #[error("\"{url}\" is no URL that a map can ask for glyphs: give --glyphs https://…")]
    NoGlyphsUrl { url: String },
    /// The admin listener of a server does not answer, or refused the request.
    #[error("{url} {what}")]
    Admin { url: String, what: String },
    /// A server is not ready, or does not answer: its URL and what happened.
    #[error("{0}")]
    NotReady(String),
    #[error(
        "live tiles cannot be written back into {target}: a PMTiles archive is written anew as a whole for each batch. Serve an MBTiles file, a directory or a prefix of a bucket, or leave serve.write_back out"
    )]
    WrittenAsAWhole { target: String },
    #[error(
        "a server cannot keep {target} up to date: it is published with publish = \"versioned\", and a version is written as a whole. Publish in place, or leave --writer and serve.writer out and run {SEED} when something has changed"
    )]
    WriterOfVersions { target: String },
    #[error(
        "the map of the parameter \"{parameter}\" cannot be used: {what}. Let map in its [[tileset.parameter]] name a table of the pairs that requests need, or leave it out"
    )]
    UnfitMap { parameter: String, what: String },
    #[error("{target} cannot be brought up to date: {why}")]
    LogGap { target: String, why: crate::change_log::LogGap },
    #[error("cannot write to standard output")]
    Output(#[from] std::io::Error),
    /// A server could not begin.
    #[error(transparent)]
    Serve(#[from] crate::serve::ServeError),
    #[error("stopped: no request was left unanswered")]
    Stopped(Signal),
    #[error("a thread died ({0}): please report this")]
    Died(String),
    #[error(
        "where features lie cannot be read back from the temporary folder {}. Look into its disk, or set TMPDIR to another folder",
        temporary_folder().display()
    )]
    Scratch(#[source] std::io::Error),
    #[error("interrupted: the target is unchanged")]
    Interrupted(Signal),
    #[error(
        "interrupted: what was written so far stays in {target}, its manifest is unchanged: run the command again to go on"
    )]
    InterruptedSynchronized { target: String, signal: Signal },
    #[error("interrupted: {target} is unchanged, and the parts that are done are kept: run the command again to go on")]
    InterruptedInParts { target: String, signal: Signal },
}

// Files that commands write for people, in addition to the target: lists of tiles, pages, pictures, configurations.

/// Why a file that a command writes in addition to the target cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WrittenFileError {
    #[error("{} is there already, and init overwrites nothing: name another file with --output, or move this one away", path.display())]
    DraftExists { path: PathBuf },
    #[error("cannot write {}: name another file with --output", path.display())]
    NoDraft { path: PathBuf, source: std::io::Error },
    #[error("{flag} {}: each tileset writes its own file; write {{tileset}} into its name, such as run-{{tileset}}.json", path.display())]
    OneFile { flag: &'static str, path: PathBuf },
    #[error("cannot write the dirty tiles to {}: {}", path.display(), moment.advice("--dirty-out", "nothing was published, and the manifest is unchanged"))]
    NoTileList { path: PathBuf, moment: FileMoment, source: std::io::Error },
    #[error("cannot write the changed tiles to {}: {}", path.display(), moment.advice("--changed-out", WORK_IS_DONE))]
    NoChangedList { path: PathBuf, moment: FileMoment, source: std::io::Error },
    #[error("cannot write the page {}: choose another --html", path.display())]
    NoPage { path: PathBuf, moment: FileMoment, source: std::io::Error },
    #[error("cannot write the style {}: choose another --style", path.display())]
    NoStyle { path: PathBuf, moment: FileMoment, source: std::io::Error },
    #[error("cannot write the picture {}: choose another file", path.display())]
    NoPicture { path: PathBuf, moment: FileMoment, source: std::io::Error },
    #[error(
        "a picture is no text for a terminal: name a file, or pipe it into a program that shows pictures there, such as kitten icat or img2sixel"
    )]
    PictureOnTerminal,
    #[error("cannot write manual pages into {}: name another folder with --output", path.display())]
    NoManualPages { path: PathBuf, source: std::io::Error },
}

/// The kind of the failure to write a file beside the work. Exit code 2 says that nothing was begun.
pub(crate) const fn kind_at(moment: FileMoment) -> ErrorKind {
    match moment {
        FileMoment::Before => ErrorKind::Usage,
        FileMoment::After => ErrorKind::Failed,
    }
}

impl WrittenFileError {
    /// What kind of failure this is. Files beside the work are checked before it begins.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            WrittenFileError::NoTileList { moment, .. }
            | WrittenFileError::NoChangedList { moment, .. }
            | WrittenFileError::NoPage { moment, .. }
            | WrittenFileError::NoStyle { moment, .. }
            | WrittenFileError::NoPicture { moment, .. } => kind_at(*moment),
            WrittenFileError::DraftExists { .. }
            | WrittenFileError::NoDraft { .. }
            | WrittenFileError::PictureOnTerminal
            | WrittenFileError::OneFile { .. } => ErrorKind::Usage,
            WrittenFileError::NoManualPages { .. } => ErrorKind::Failed,
        }
    }
}

// The kind of each error of a command, and what an error means once a stop was asked for.

impl From<crate::change_log::ChangeLogError> for CommandError {
    /// A failure of the database stays a database error, whatever was read, because a run starts over when the
    /// connection is lost.
    fn from(error: crate::change_log::ChangeLogError) -> CommandError {
        match error {
            crate::change_log::ChangeLogError::Database(error) => CommandError::Database(error),
            other => CommandError::Changes(other),
        }
    }
}

/// After a stop was asked for, turns every error that the stop may have caused into the interruption.
pub(crate) fn interrupted(error: CommandError, stop: &Stop) -> CommandError {
    let is_because_of_the_stop = match error.kind() {
        ErrorKind::Interrupted | ErrorKind::Transient(Obstacle::Lost | Obstacle::HeldUp | Obstacle::GaveWay) => true,
        ErrorKind::Transient(Obstacle::Unreachable)
        | ErrorKind::Usage
        | ErrorKind::NeedsSeed
        | ErrorKind::Partial
        | ErrorKind::Failed => false,
    };
    match (stop.asked(), &error) {
        // These errors say more about what the run leaves.
        (
            _,
            CommandError::InterruptedSynchronized { .. }
            | CommandError::InterruptedInParts { .. }
            | CommandError::Stopped(_),
        ) => error,
        (Some(signal), _) if is_because_of_the_stop => CommandError::Interrupted(signal),
        _ => error,
    }
}

impl From<Signal> for CommandError {
    fn from(signal: Signal) -> CommandError {
        CommandError::Interrupted(signal)
    }
}

impl From<JoinError> for CommandError {
    fn from(error: JoinError) -> CommandError {
        CommandError::Died(error.to_string())
    }
}

impl CommandError {
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            CommandError::Interrupted(_)
            | CommandError::InterruptedSynchronized { .. }
            | CommandError::InterruptedInParts { .. }
            | CommandError::Stopped(_) => ErrorKind::Interrupted,
            CommandError::Config(_)
            | CommandError::LargeTile { .. }
            | CommandError::NothingToDraw { .. }
            | CommandError::NoPublicUrl { .. }
            | CommandError::NoUrl { .. }
            | CommandError::NoGlyphsUrl { .. }
            | CommandError::Admin { .. }
            | CommandError::WrittenAsAWhole { .. }
            | CommandError::WriterOfVersions { .. }
            | CommandError::UnfitMap { .. }
            | CommandError::Location(_)
            | CommandError::NoSuchSchema { .. }
            | CommandError::NoVersions { .. }
            | CommandError::NoPurges { .. }
            | CommandError::Unversioned { .. }
            | CommandError::Switch(_)
            | CommandError::TargetUrl(_)
            | CommandError::OtherTileset { .. }
            | CommandError::Foreign { .. }
            | CommandError::SameTarget { .. }
            | CommandError::Unfit { .. }
            | CommandError::NoPatchOfSeveral
            | CommandError::NoCopyTarget
            | CommandError::NoTile { .. }
            | CommandError::TileList(_)
            | CommandError::NoArea { .. } => ErrorKind::Usage,
            CommandError::NotCompacted(error) => error.kind(),
            CommandError::File(error) => error.kind(),
            CommandError::NoReport(error) => kind_at(error.moment),
            CommandError::NoMetrics(error) => kind_at(error.moment),
            CommandError::Several(error) => error.kind(),
            CommandError::Serve(error) => error.kind(),
            CommandError::Read(error) => error.kind(),
            CommandError::Database(error) => error.kind(),
            CommandError::Changes(error) => error.kind(),
            CommandError::Target(error) => error.kind(),
            CommandError::Shards(error) => error.kind(),
            CommandError::NeedsSeed { .. }
            | CommandError::OtherHistory { .. }
            | CommandError::NeedSeeds { .. }
            | CommandError::LogGap { .. } => ErrorKind::NeedsSeed,
            CommandError::Unrendered { .. } | CommandError::NotPurged { .. } => ErrorKind::Partial,
            CommandError::Contended { .. } => ErrorKind::Transient(Obstacle::HeldUp),
            // A run ends with `Restarts` or `HeldUp` once it has started over as often as it may.
            CommandError::Restarts { .. }
            | CommandError::HeldUp { .. }
            | CommandError::Incomplete(_)
            | CommandError::Vanished { .. }
            | CommandError::Encode(_)
            | CommandError::Decode { .. }
            | CommandError::Cursor(_)
            | CommandError::Zooms(_)
            | CommandError::Condition(_)
            | CommandError::Shrinks { .. }
            | CommandError::LosesRows { .. }
            | CommandError::NotReady(_)
            | CommandError::Output(_)
            | CommandError::NotThere { .. }
            | CommandError::BrokenTile { .. }
            | CommandError::Threads { .. }
            | CommandError::Unhealthy { .. }
            | CommandError::Differ { .. }
            | CommandError::Endpoint { .. }
            | CommandError::Unsound { .. }
            | CommandError::Outbox(_)
            | CommandError::Scratch(_)
            | CommandError::Died(_) => ErrorKind::Failed,
        }
    }
}

// Errors of one command for several tilesets, or for the variants of one.

/// Why a command for several tilesets or variants ended without success.
#[derive(Debug, thiserror::Error)]
pub enum SeveralError {
    #[error("tilesets that failed: {} of {of} ({}), each for the reason given above. Run the command again for them alone, with {}",
        tilesets.len(), tilesets.join(", "), again(tilesets))]
    Tilesets {
        tilesets: Vec<String>,
        /// How many tilesets the command was run for.
        of: usize,
        /// What kind of failure this is altogether.
        kind: ErrorKind,
    },
    #[error("variants of {tileset} that failed: {failed} of {of}, each for the reason given above: {}{}. Run the command again",
        outputs.join(", "), if outputs.len() < *failed { ", …" } else { "" })]
    Variants {
        tileset: String,
        /// The outputs of the first ones.
        outputs: Vec<String>,
        failed: usize,
        of: usize,
        /// What kind of failure this is altogether.
        kind: ErrorKind,
    },
    #[error(
        "{target} is no output of a variant of {tileset}: its variants go to {output}, for the values that its query gives now"
    )]
    NoVariant {
        target: String,
        tileset: String,
        /// The output, with `{name}` for the values.
        output: String,
    },
    /// `--variant` names a variant that is not there.
    #[error("{tileset} has no variant \"{wanted}\"{hint}")]
    UnknownVariant {
        wanted: String,
        tileset: String,
        /// A similar name, or how to list them.
        hint: String,
    },
    #[error("{what} is not for a tileset with variants ({tileset}): {next}")]
    NotForVariants { what: &'static str, tileset: String, next: &'static str },
    #[error("cannot make the folder {} of a variant: choose another output below [tileset.variants]", path.display())]
    NoVariantFolder { path: PathBuf, source: std::io::Error },
    #[error("{} cannot be deleted: look into the cause, then run the command again with --prune-variants", path.display())]
    NotRemoved { path: PathBuf, source: std::io::Error },
}

impl SeveralError {
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            SeveralError::Tilesets { kind, .. } | SeveralError::Variants { kind, .. } => *kind,
            SeveralError::NoVariant { .. }
            | SeveralError::NotForVariants { .. }
            | SeveralError::UnknownVariant { .. }
            | SeveralError::NoVariantFolder { .. } => ErrorKind::Usage,
            SeveralError::NotRemoved { .. } => ErrorKind::Failed,
        }
    }
}

/// The flags that choose tilesets.
fn again(tilesets: &[String]) -> String {
    tilesets.iter().map(|name| format!("--tileset {name}")).collect::<Vec<_>>().join(" ")
}
