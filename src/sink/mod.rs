//! Where tiles go, and how what is there is read back.
//!
//! | target | written by | read by | how a run of all tiles changes it | how edits change it ([`Unwritten::Keep`]) |
//! |---|---|---|---|---|
//! | MBTiles file | [`Mbtiles`] | [`MbtilesReader`] | replaced as a whole | in place, in one transaction |
//! | PMTiles file | [`Pmtiles`] | [`PmtilesReader`] | replaced as a whole | replaced; what stays is copied |
//! | directory | [`Directory`] | [`DirectoryReader`] | brought in line, tile by tile | tile by tile, without a walk |
//! | S3 prefix | [`S3`] | [`S3Reader`] | brought in line, tile by tile | tile by tile, without a listing |
//! | PMTiles in S3 | [`S3Pmtiles`] | [`S3Object::pmtiles`] | replaced as a whole | fetched, rebuilt, replaced |

mod changed;
mod compare;
mod directory;
mod error;
mod lock_file;
mod mbtiles;
mod metadata;
mod pmtiles;
mod read;
mod s3;
mod scratch;
mod shrink;
mod staging;
mod tree;

use crate::tile::{Order, TileId};

pub use changed::{ChangedRange, ChangedTiles, TileChange};
pub use directory::{Directory, DirectoryError, DirectoryReader, directory_versions, switch_directory};
pub use error::TargetError;
pub use mbtiles::{MBTILES_APPLICATION_ID, Mbtiles, MbtilesError, MbtilesReader};
pub use metadata::{GENERATOR, Metadata, VectorLayer};
pub use pmtiles::{Pmtiles, PmtilesError, PmtilesReader};
pub use read::{Described, ReadError, TileReader, read_all};
pub use s3::{
    Action, CacheRule, Encryption, Flights, InFlight, LocationError, S3, S3Archive, S3Cause, S3Error, S3Headers, S3Key,
    S3Keys, S3Location, S3Object, S3Options, S3Pmtiles, S3Reader, s3_versions, without_user,
};
pub use scratch::ScratchError;
pub use shrink::{MaxShrink, MaxShrinkError};
pub use staging::{NoFolder, StagingError};
pub use tree::{
    Intent, IntentKind, Latest, Publish, Scope, SwitchError, Template, TemplateError, TreeOptions, Version,
    is_own_name, new_version,
};

/// What is to be done with one tile, or with one layer of it where the target keeps layers apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TileEdit {
    /// The target is to hold these bytes, packed as it stores them.
    Put(TileId, Box<[u8]>),
    /// It renders to nothing: the target is not to hold it.
    Remove(TileId),
    /// A layer of it could not be rendered, so what it should hold is not known: what the target holds stays as it is. Where it holds
    /// nothing it is to hold these bytes, of the other layers, or nothing.
    Keep(TileId, Option<Box<[u8]>>),
}

impl TileEdit {
    /// Which tile.
    #[must_use]
    pub const fn id(&self) -> TileId {
        match self {
            TileEdit::Put(id, _) | TileEdit::Remove(id) | TileEdit::Keep(id, _) => *id,
        }
    }
}

/// What a sink asks of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// The order in which tiles are to be written; the layers of a tile follow each other by their numbers.
    pub order: Order,
    /// Whether each layer of a tile is an edit of its own.
    pub layers_apart: bool,
}

/// What has become of the tiles handed over, and of those that a target held before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Tiles stored: new ones, and ones whose bytes differ.
    pub stored: u64,
    /// Tiles handed over that the target does not hold (any more), because they render to nothing.
    pub removed: u64,
    /// Tiles that the target held already, with the same bytes; and those that it keeps because they could not be rendered.
    pub unchanged: u64,
    /// Tiles that could not be rendered, and that the target does not hold.
    pub missing: u64,
    /// Of the tiles stored, those that the target did not hold before; an archive that is replaced as a whole held none.
    pub added: u64,
    /// Of the tiles removed, those that the target held before.
    pub deleted: u64,
}

impl Written {
    /// All tiles handed over.
    #[must_use]
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

/// What a run is going to write, known once the database was asked.
#[derive(Debug, Clone)]
pub struct Tileset {
    /// A hash of everything in the configuration that decides a tile's bytes.
    pub fingerprint: String,
    /// The names of the layers, by their numbers.
    pub layers: Vec<String>,
    /// What the run is responsible for.
    pub scope: Scope,
    /// What happens to the tiles in its scope that it does not hand over.
    pub unwritten: Unwritten,
    /// What the run does: noted in a synchronized target until it has finished.
    pub run: RunKind,
    /// Whether [`Finished::changed`] is wanted. Only then an archive that is replaced is compared with the old one, for which that is
    /// read once (in S3: downloaded).
    pub list_changes: bool,
}

/// What a run does, and whose rows it shows. `database` tells the database and the tables that the run reads from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunKind {
    /// It renders all tiles of its scope.
    Seed {
        /// The database and the tables.
        database: String,
    },
    /// It renders what changed.
    Reseed {
        /// The database and the tables.
        database: String,
        /// Whether every part of the target is up to date when it has finished: then it has mended what earlier runs of the same tileset
        /// and database left unfinished.
        complete: bool,
    },
    /// It copies another target.
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

/// How a target is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// For a run of all tiles ([`Unwritten::Delete`]). There need not be a target yet.
    Replace,
    /// For edits of a target that is there ([`Unwritten::Keep`]).
    Edit,
}

/// A target that was completed.
#[derive(Debug)]
pub struct Finished {
    /// Where it is: a path or a URL.
    pub place: String,
    /// Tiles that the target held and holds no longer: those that render to nothing now, and those that this run is
    /// responsible for and did not hand over.
    pub deleted: u64,
    /// Requests to a server for tiles, if there was one.
    pub in_flight: Option<InFlight>,
    /// Which tiles changed, if [`Tileset::list_changes`] asked for them.
    pub changed: Option<ChangedTiles>,
}

/// A target that takes tiles.
///
/// The contract, which `tests/it/targets/sink_contract.rs` and `edit_contract.rs` check for every sink:
/// - Edits come in the order that [`Sink::needs`] asks for, each tile at most once.
/// - [`Sink::write`] accounts for every edit handed over: `written.total() == edits.len()`.
/// - A tile that was accepted is not durable yet. It is when [`Sink::finish`] returned `Ok`; the sink then has synced
///   what it wrote, and the manifest was the last thing to become visible.
/// - Nothing is deleted before [`Sink::finish`]: whoever drops a sink that was not finished has lost no tile.
/// - Nobody ever sees half a tile. An archive is the old one until `finish` succeeds, and the new one then, also where it is
///   edited in place. A target that is brought in line shows each tile old or new, and the old manifest until every tile is
///   new.
/// - After `finish` the target holds the tiles put, those outside of the run's responsibility (other zooms, other boxes) as
///   they were, and no others; what is not a tile of the tileset was never touched. With [`Unwritten::Keep`] it also holds
///   every tile that was not handed over, byte for byte as it was, and what is equal already is not written.
/// - A tile of [`TileEdit::Keep`] that a target holds stays as it is, unless the target is replaced as a whole: that holds nothing yet.
/// - What a run may change in a target that is brought in line is durable in the target's private notes before its first tile is, as an
///   [`Intent`]: kind of run, fingerprint, database, scope. It is taken out after the manifest has moved. Readers give all of them
///   ([`Described::unfinished`]). A later run takes out the intents of others as far as it has mended them: one of all tiles, if afterwards
///   no tile beyond its own scope can come from them; a complete reseed, all, for its caller has looked at them. An archive needs
///   none: it is replaced, or edited in one transaction, as a whole.
/// - With [`Tileset::list_changes`], `finish` hands out [`ChangedTiles`]: exactly the tiles whose stored bytes are others than the target
///   held when the sink was begun, and exactly those that it held then and holds no longer, in the order of [`Sink::needs`]. A tile that
///   is written again with equal bytes is not among them. (An object in S3 is equal if its `ETag` is the MD5 of the bytes; encrypted
///   with a key of its own it has another `ETag`, and counts as changed.) Where that cannot be told, [`ChangedTiles::everything`] says
///   so and why: the target held no tileset or another one; an earlier run did not finish, so its changes are unknown; an archive that is
///   replaced cannot be read or is packed otherwise; a new version is published, whose tiles have addresses of their own.
/// - Dropping a sink that was not finished removes whatever was staged. An archive stays as it was; a target that is
///   brought in line keeps what was already right, and the next run goes on from there.
/// - After an error the sink takes nothing more; it is to be dropped.
/// - One writer a target: a second sink on the same target is refused when it is made, and says who holds it.
pub trait Sink: Send {
    /// What an error looks like.
    type Error: std::error::Error + Send + Sync + 'static;

    /// What the pipeline has to see to.
    fn needs(&self) -> Needs;

    /// Is told what is coming, once, before the first edit. A target that is brought in line looks at what it holds, and gives
    /// what it said about itself up to now: tiles outside of the run's scope stay. With [`Unwritten::Keep`] every target gives
    /// that; no other run of ours changes it any more.
    ///
    /// # Errors
    /// If the target holds something else, or cannot be read.
    fn begin(&mut self, tileset: &Tileset) -> Result<Option<Described>, Self::Error>;

    /// The address of tiles as the target's TileJSON is going to give it, if that is relative because nobody ever said where clients find
    /// the target. Known once the sink was told what is coming.
    fn relative_address(&self) -> Option<String> {
        None
    }

    /// Refuses a target that holds what the run may not write over, as far as that can be told before the database is asked;
    /// [`Sink::begin`] looks at the rest.
    ///
    /// # Errors
    /// If the target holds something else, or cannot be read.
    fn claim(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// How many tiles in the scope of the run the target held when it was begun, if that was counted: by a run of all tiles that brings
    /// a target in line.
    fn held(&self) -> Option<u64> {
        None
    }

    /// Takes the next edits. May wait until earlier ones are stored, so that what is in flight is bounded.
    ///
    /// # Errors
    /// If the target cannot take them, or could not take earlier ones.
    fn write(&mut self, edits: Vec<TileEdit>) -> Result<Written, Self::Error>;

    /// Makes everything durable and visible, the metadata with the manifest last.
    ///
    /// # Errors
    /// If the target cannot be completed, or a stop was asked for; the manifest is the old one then.
    fn finish(self, metadata: &Metadata) -> Result<Finished, Self::Error>;
}
