//! Targets: how tiles are stored, and how they are read back.
//!
//! ```text
//!  open ─► begin(tileset) ─► write(edits)… ─► finish(metadata): durable, manifest last ─► Finished: counts, changed tiles
//! ```
//!
//! | target | written by | read by | how a run of all tiles changes it | how edits change it ([`Unwritten::Keep`]) |
//! |---|---|---|---|---|
//! | MBTiles file | [`Mbtiles`] | [`MbtilesReader`] | replaced as a whole | in place, in one transaction |
//! | PMTiles file | [`Pmtiles`] | [`PmtilesReader`] | replaced as a whole | replaced; what stays is shared or copied |
//! | directory | [`Directory`] | [`DirectoryReader`] | synchronized, tile by tile | tile by tile, without a walk |
//! | S3 prefix | [`BucketTiles`] | [`BucketReader`] | synchronized, tile by tile | tile by tile, without a listing |
//! | PMTiles in a bucket | [`BucketPmtiles`] | [`BucketObject::pmtiles`] | replaced as a whole | replaced; what stays is copied by the server, else downloaded |
//!
//! | file | what |
//! |---|---|
//! | `changed` | the list of the tiles that a finished run changed: for `--changed-out`, the eviction of caches and the purging of CDNs |
//! | `compare` | compares a new archive, while it is written, with the archive that it replaces, tile by tile in one order |
//! | `disk_list` | lists that grow with the tileset, kept in scratch files so that memory stays bounded: the tiles that a target holds, edits that wait for the end of a run, directory entries, changed tiles |
//! | `error` | the errors of all kinds of targets, and their kinds |
//! | `lease_clock` | what the leases of a bucket and of a server's writer share, and how they differ |
//! | `lock_file` | lock files |
//! | `metadata` | the metadata of a target, in the form of each target format |
//! | `note_store` | small documents that are kept with a target of any kind: the lists of changed tiles, and other data that the next writer or server of the target must find again |
//! | `publication` | publications: which tiles each change of a target has changed, for readers that keep copies of tiles |
//! | `read` | reading a target: its description, its list of tiles, their bytes |
//! | `shrink` | the setting `max_shrink`: how many of a target's tiles, and of a layer's rows, a run may take away |
//! | `staging` | staged files: written next to the target, synced, then renamed over it |
//! | `url` | the kind of target that a text names, and how it is stored |
//! | `work_files` | the large files of a work folder, which the shards of a seed leave for its commit |
//! | `directory/` | directory targets: a file for each tile |
//! | `mbtiles/` | the MBTiles 1.3 archive: an `SQLite` file with the tables `metadata` and `tiles`, written and read |
//! | `pmtiles/` | PMTiles v3 archives, written and read as the specification says |
//! | `bucket/` | targets in buckets, of S3 and of other clouds: a prefix with an object for each tile, which a run synchronizes, or a PMTiles object, which a run replaces |
//! | `tree/` | the common part of directories and S3 prefixes: each tile has a name of its own, and a run synchronizes the stored tiles |
//!
//! Named bytes are read, written, listed and deleted at four places, because each promises something else:
//!
//! | place | what lies there | written | two writers |
//! |---|---|---|---|
//! | a directory: `Files` | tiles and notes of a directory, of which no name leads through a link | staged and renamed, tiles by several threads and synced together | the lock keeps the second out |
//! | a bucket: `Store` | all objects of a bucket | by a request of its own, many in flight | a condition on each write; the lease keeps the second out |
//! | notes: [`NoteStore`] | small documents beside a target of any kind, under plain names | durable at once, also by who holds neither lock nor lease | a condition on each write |
//! | work folders: [`WorkFiles`] | files of any length that shards leave | once, durable at once | each name has one writer |
//!
//! What a run into a directory or a prefix needs of the first two is the trait `TreeStore` in `tree/store`.
//!
//! The files of `bucket/` know one trait, and each library behind it has one file.
//!
//! To add a kind of target, write a folder with a [`Sink`] and a [`TileReader`]. Six files are edited:
//!
//! 1. this one: the module, its exports, the tables above;
//! 2. `target/url.rs`: the kind, how its text is read and written, how it is stored, and [`TARGET_FORMS`], which help
//!    texts and messages show;
//! 3. `target/error.rs`: its errors, and which of them says that another run writes the target;
//! 4. `run/target/targets.rs`: how it is opened for reading and writing, where its notes are;
//! 5. `sample-config.toml`: a test names the lines that list the forms of targets, and `scripts/docs` writes the
//!    manual's;
//! 6. `tests/it/project/imports.rs`: which modules the folder may import.
//!
//! The behaviour tests run on every kind: it gets an `impl Target` in `tests/it/support/targets.rs`, and a test each in
//! `tests/it/targets/sink_contract.rs` and `tests/it/targets/edit_contract.rs`. A kind that is stored in another way
//! than those of `Storage` (a file, a folder, a prefix, an object) also has to be served, examined and deleted: the
//! compiler names where.

mod bucket;
mod changed;
mod compare;
mod directory;
mod disk_list;
mod error;
mod lease_clock;
mod lock_file;
mod mbtiles;
mod metadata;
mod note_store;
mod pmtiles;
mod publication;
mod read;
mod shrink;
mod staging;
mod tree;
mod url;
mod work_files;

use std::sync::Arc;

use crate::tile::{Order, Scope, TileId, TileRectList};

pub(crate) use lease_clock::{LeaseClock, host};
pub(crate) use read::MAX_DEAD_PERCENT;
pub(crate) use url::{Storage, is_archive_name};
pub(crate) use work_files::{is_id, shard_of_file};

pub use bucket::{
    Action, BucketArchive, BucketCause, BucketError, BucketLocation, BucketNotes, BucketObject, BucketOptions,
    BucketPmtiles, BucketReader, BucketShared, BucketTiles, BucketWorkFiles, CacheRule, CloudSettings, Encryption,
    Flight, Flights, HeaderNote, InFlight, LocationError, ObjectKey, RewrittenHeaders, S3Keys, S3Section, Scheme,
    SharedState, SharedVersion, VersionTiles, WorkLease, bucket_versions, give_up_shared, remove_archive,
    remove_prefix, without_user,
};
pub use changed::{ChangedRange, ChangedTiles, TileChange};
pub use directory::{Directory, DirectoryError, DirectoryReader, FolderNotes, directory_versions, switch_directory};
pub use disk_list::ScratchError;
pub use error::TargetError;
pub use mbtiles::{MBTILES_APPLICATION_ID, Mbtiles, MbtilesError, MbtilesPatch, MbtilesReader};
pub use metadata::{GENERATOR, Metadata, VectorLayer};
pub use note_store::{KeptNote, MAX_KEPT_NOTE, NoteError, NoteStore, WriteCondition};
pub use pmtiles::{Pmtiles, PmtilesError, PmtilesReader, WrittenAnew};
pub use publication::{BeforeManifest, BeforeManifestError, ChangeList, ChangeListWriter, ChangeLists, PublishedTiles};
pub use read::{DeadBytes, Described, ReadError, TileReader, read_all};
pub use shrink::{MaxShrink, MaxShrinkError};
pub use staging::{NoFolder, StagingError};
pub(crate) use tree::documents;
pub use tree::{
    Compression, Intent, IntentKind, Latest, PartialScope, PublishMode, Publishing, SwitchError, TargetSection,
    Template, TemplateError, TreeOptions, Version, is_own_name, new_version,
};
pub use url::{TARGET_FORMS, TargetUrl, TargetUrlError};
pub use work_files::{WorkFile, WorkFileError, WorkFiles};

/// What a run does with one tile, or with one layer of a tile where the target keeps layers apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TileEdit {
    /// Store these bytes, packed as the target stores them.
    Put(TileId, Box<[u8]>),
    /// Delete the tile if the target holds it: it renders to nothing.
    Remove(TileId),
    /// Keep what the target holds: a layer of the tile could not be rendered, so its bytes are not known. A target that
    /// holds nothing for this tile stores these bytes, which are those of the other layers.
    Keep(TileId, Option<Box<[u8]>>),
}

impl TileEdit {
    pub const fn id(&self) -> TileId {
        match self {
            TileEdit::Put(id, _) | TileEdit::Remove(id) | TileEdit::Keep(id, _) => *id,
        }
    }
}

/// What a sink requires of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The order of edits; layers of a tile follow each other by their indexes.
    pub order: Order,
    /// True if each layer of a tile is an edit of its own.
    pub layers_apart: bool,
}

/// Counts of what a sink did with edits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Tiles stored: new ones, and ones whose bytes differ.
    pub stored: u64,
    /// Tiles of [`TileEdit::Remove`], whether the target held them or not.
    pub removed: u64,
    /// Tiles that the target already held with the same bytes, and tiles of [`TileEdit::Keep`] that it holds.
    pub unchanged: u64,
    /// Tiles of [`TileEdit::Keep`] without bytes that the target does not hold.
    pub missing: u64,
    /// Of the tiles stored, those that the target did not hold before. An archive that is replaced counts as empty
    /// before.
    pub added: u64,
    /// Of the tiles removed, those that the target held before.
    pub deleted: u64,
}

impl Written {
    /// All edits: stored, removed, unchanged and missing.
    pub const fn total(&self) -> u64 {
        self.stored + self.removed + self.unchanged + self.missing
    }
}

impl std::ops::AddAssign for Written {
    fn add_assign(&mut self, other: Written) {
        self.stored += other.stored;
        self.removed += other.removed;
        self.unchanged += other.unchanged;
        self.missing += other.missing;
        self.added += other.added;
        self.deleted += other.deleted;
    }
}

/// What a run is about to write. Known once the database was probed.
#[derive(Debug, Clone)]
pub struct Tileset {
    /// A hash of everything in the configuration that decides a tile's bytes.
    pub fingerprint: String,
    /// The names of the layers, by their indexes.
    pub layers: Vec<String>,
    /// The zooms and boxes that the run writes. Outside of them it changes no tiles except those of partial regions.
    pub scope: Scope,
    /// The partial regions that the target's manifest names so far. A run of all tiles deletes what is stored there,
    /// because the next manifest does not speak for these regions.
    pub partial: PartialScope,
    /// What happens to the tiles in its scope that it does not hand over.
    pub unwritten: Unwritten,
    /// What the run does: noted in a synchronized target until it has finished.
    pub run: RunKind,
    /// True if the run wants [`Finished::changed`]. Only then is an archive that is replaced compared with the old one,
    /// which is read once for that (in S3: downloaded).
    pub list_changes: bool,
    /// The tiles that a run with [`Unwritten::Keep`] may change; `None` if they are all tiles of its scope, or too many
    /// for a list. Noted in a synchronized target until the run has finished.
    pub dirty: Option<TileRectList>,
    /// Receive the list of changes before the manifest becomes visible.
    pub before_manifest: Vec<Arc<dyn BeforeManifest>>,
}

impl Tileset {
    /// True if a sink must list the changed tiles wherever that costs nothing, which is everywhere except in an archive
    /// that is replaced.
    fn lists_edits(&self) -> bool {
        self.list_changes || !self.before_manifest.is_empty()
    }
}

/// The kind of a run. `database` identifies the database and the tables that it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunKind {
    /// It renders all tiles of its scope.
    Seed {
        database: String,
        /// The snapshot that its tiles show, as `pg_current_snapshot()` gives it.
        snapshot: String,
    },
    /// It renders the dirty tiles.
    Reseed {
        database: String,
        /// True if the whole target is up to date once the run has finished. Then the run has repaired what earlier,
        /// unfinished runs of the same tileset and database left.
        complete: bool,
        /// The share of [`DeadBytes`], in percent of the tile data, beyond which a PMTiles archive is written anew as a
        /// whole; `None` if that is put off.
        max_dead_percent: Option<u64>,
    },
    Copy,
}

/// What happens to the tiles in a run's scope that the run does not hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// They are deleted: the run hands over every tile that there is.
    Delete,
    /// They stay as they are: the run hands over what may have changed.
    Keep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// For a run of all tiles ([`Unwritten::Delete`]). The target need not exist.
    Replace,
    /// For edits of a target that exists ([`Unwritten::Keep`]).
    Edit,
}

/// A target that was completed.
#[derive(Debug, Default)]
pub struct Finished {
    /// The target's path or URL.
    pub place: String,
    /// Tiles that the target no longer holds: they render to nothing now, or lie in the run's scope and were not handed
    /// over.
    pub deleted: u64,
    /// The requests for tiles, if the target is on a server.
    pub in_flight: Option<InFlight>,
    /// The list of changed tiles, if [`Tileset::list_changes`] asked for it. [`Tileset::before_manifest`] asks for it,
    /// too, but only where the changes are known without a comparison of two archives.
    pub changed: Option<ChangedTiles>,
    /// Why an edit has written the whole archive anew, if it has.
    pub anew: Option<WrittenAnew>,
}

/// A target that takes tiles.
///
/// The contract, which `tests/it/targets/sink_contract.rs` and `edit_contract.rs` check for every sink:
/// - [`Sink::begin`] comes before [`Sink::write`] and [`Sink::finish`]: a directory and a prefix fail otherwise. (In
///   this program, `OpenedSink` of `run/target` has no other step.)
/// - Edits come in the order that [`Sink::needs`] asks for, each tile at most once.
/// - [`Sink::write`] accounts for every edit handed over: `written.total() == edits.len()`.
/// - A tile that was accepted is not durable yet. It is when [`Sink::finish`] returned `Ok`; the sink then has synced
///   what it wrote, and the manifest was the last thing to become visible.
/// - Nothing is deleted before [`Sink::finish`]: dropping a sink that was not finished loses no tile.
/// - No reader ever sees half a tile. An archive is the old one until `finish` succeeds, and then the new one, even if
///   it is edited in place. A synchronized target shows each tile old or new, and the old manifest until every tile is
///   new.
/// - After `finish` the target holds the tiles that were put, and no others in the run's scope. Tiles outside of the
///   run's responsibility (other zooms, other boxes) stay as they were; of the partial regions a run of all tiles
///   leaves none. What is not a tile of the tileset was never touched. With [`Unwritten::Keep`] the target also holds
///   every tile that was not handed over, byte for byte as it was, and a tile whose bytes are equal already is not
///   written.
/// - A tile of [`TileEdit::Keep`] that a target holds stays as it is. An archive that is replaced as a whole holds
///   nothing yet: there the bytes of the edit are stored, if it has any.
/// - What a run may change in a synchronized target is durable in the target's private notes before its first tile is,
///   as an [`Intent`]: kind of run, fingerprint, database, scope. The intent is removed after the manifest has been
///   replaced. Readers return all intents ([`Described::unfinished`]). An archive needs none: it is replaced, or edited
///   in one transaction, as a whole.
/// - A run of all tiles removes the intents of other runs whose tiles all lie in its own scope, because it has written
///   all of these tiles again.
/// - A complete reseed removes all intents: its caller has checked that rendering the dirty tiles repairs what those
///   runs left.
/// - With [`Tileset::list_changes`], `finish` returns [`ChangedTiles`], in the order of [`Sink::needs`]: exactly the
///   tiles whose stored bytes differ from those that the target held when the sink was begun, and exactly the tiles
///   that it held then and no longer holds. A tile that is written again with equal bytes is not listed. (An object in
///   a bucket is equal if its `ETag` is the MD5 of the bytes. An object that is encrypted with KMS has another `ETag`,
///   and counts as changed.) If the exact list cannot be known, [`ChangedTiles::everything`] returns the reason: the
///   target held no tileset or another one; an earlier run did not finish, so its changes are unknown; an archive that
///   is replaced cannot be read or is packed otherwise; a new version is published, whose tiles have addresses of their
///   own.
/// - `finish` reports the changes to [`Tileset::before_manifest`] after all tiles are stored and before the manifest
///   becomes visible. If one of these listeners fails, the run fails. The reported list also has the tiles of
///   [`Intent::tiles`] of runs that did not finish.
/// - Dropping a sink that was not finished removes whatever was staged. An archive stays as it was; a synchronized
///   target keeps what was already right, and the next run goes on from there.
/// - After an error the sink accepts nothing more; the caller must drop it.
/// - A target has one writer, from the creation of its sink on: creating a second sink of the same target fails, and
///   the error names the holder. Only a PMTiles object in a bucket has no lock: of two writers, the second to finish
///   fails, because the object is no longer the one that it has seen. (Where an upload in parts honours no condition,
///   as in Azure, there is a lease.)
pub trait Sink: Send {
    type Error: std::error::Error + Send + Sync + 'static;

    /// The order and form of the edits that the sink takes.
    fn needs(&self) -> Needs;

    /// Prepares the target for a run. Called once, before the first edit. Returns the target's description so far if
    /// tiles outside of this run stay: for a synchronized target whose tiles outside of the scope belong to the same
    /// tileset, and for every target with [`Unwritten::Keep`].
    /// Fails if the target holds something else, or cannot be read.
    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, Self::Error>;

    /// The relative address of tiles that the target's TileJSON will have, if no public URL is known. Valid after
    /// [`Sink::begin`].
    fn relative_address(&self) -> Option<String> {
        None
    }

    /// Refuses a target that the run may not overwrite, as far as that is known before the database is probed.
    /// [`Sink::begin`] checks the rest.
    /// Fails if the target holds something else, or cannot be read.
    fn claim(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// The number of tiles in the run's scope that the target held at [`Sink::begin`]; `None` unless this is a run of
    /// all tiles into a synchronized target.
    fn held(&self) -> Option<u64> {
        None
    }

    /// Takes the next edits. Blocks while too many earlier ones are in flight.
    /// Fails if the target cannot store these edits, or could not store earlier ones.
    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, Self::Error>;

    /// Makes everything durable and visible, the metadata with the manifest last.
    /// Fails if the target cannot be completed, or a stop was asked for; the old manifest is then still in place.
    fn finish(self, metadata: &Metadata) -> Result<Finished, Self::Error>;
}

#[cfg(test)]
impl Tileset {
    /// A tileset without layers, for unit tests.
    pub(crate) fn of_test(scope: Scope, unwritten: Unwritten) -> Tileset {
        Tileset {
            fingerprint: "f".to_owned(),
            layers: Vec::new(),
            scope,
            partial: PartialScope::default(),
            unwritten,
            run: RunKind::Seed { database: "d".to_owned(), snapshot: "5:5:".to_owned() },
            list_changes: false,
            dirty: None,
            before_manifest: Vec::new(),
        }
    }
}
