//! Renders tiles outside of the target's scope when they are requested.
//!
//! ```text
//! request ─► memory ─► a flight for the tile: joined, or begun ─► queue ─► worker ─► memory ─► every waiting request
//! ```
//!
//! | file | what |
//! |---|---|
//! | `counts` | how many rows a request chooses |
//! | `flights` | one flight per tile for all requests; from the queue to its result |
//! | `history` | which database states of shared tiles belong to the history of this database |
//! | `table` | the flights in progress, the requests that wait for them, failures |
//!
//! A flight is a separate task. A client that disconnects ends it only if no other request waits for it: then the
//! flight leaves the queue, or its statement is cancelled.

mod counts;
mod flights;
mod history;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use serde::Serialize;

use super::known_changes::KnownChanges;
use super::parameters::GivenParameters;
use super::redis::SharedSecret;
use crate::cursor::{Cursor, NewestLogged, StateInHistory};
use crate::stop::Stop;
use crate::tile::{LayerId, Slice, TileId, Zoom, ZoomList};

pub(crate) use counts::CountedFor;
pub use counts::{CountRequest, Counted, LayerCounts, MAX_VALUES, ParameterRows};
pub(crate) use flights::{FlightContext, FlightCounts, FlightRequest, LiveFlights};
pub(crate) use table::FlightKey;

// The trait for what renders live tiles.

/// Why a tile was not rendered. The reason is logged, and not sent to clients.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LiveError {
    #[error("{0}")]
    Failed(String),
    /// The source can render no tile at present: the database is away, or locks of others delay it.
    #[error("{0}")]
    Away(String),
    #[error("the database does not take a value that the request gives: {0}")]
    Refused(String),
    #[error("it was not rendered within {}", humantime::format_duration(*.0))]
    Late(Duration),
    #[error("nobody waits for it any more")]
    Abandoned,
    /// The tile failed a moment ago, and is not tried again yet.
    #[error("it failed a moment ago")]
    JustFailed,
    #[error("too many tiles wait to be rendered")]
    Overloaded {
        /// The time after which there may be room again.
        retry_after: Duration,
    },
    /// The target was made with another configuration, so that live tiles would not fit the stored ones.
    #[error(
        "the target was made with another configuration (its fingerprint is {target}, that of the settings {settings}): tiles beside the stored ones would not fit. Serve it with the configuration that it was seeded with, or seed it again"
    )]
    OtherTileset { target: String, settings: String },
}

#[derive(Debug, Clone, PartialEq)]
pub struct LiveLayer {
    pub name: String,
    /// The identity of the layer; layers of the configuration that are one layer drawn differently at different zooms
    /// share it.
    pub id: LayerId,
    pub zooms: ZoomList,
}

/// A tile that is to be rendered.
#[derive(Debug, Clone)]
pub struct LiveRequest {
    pub tile: TileId,
    /// The values of parameters that its rows must fulfil; `None` for all rows.
    pub given: Option<Arc<GivenParameters>>,
    /// The tile must show a database state that was taken after this moment.
    pub since: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveTile {
    /// The tile in the form in which the target would store it; `None` if it is empty.
    pub stored: Option<Box<[u8]>>,
    /// How long the database took.
    pub in_database: Duration,
    /// The database state that it shows.
    pub shown: StateInHistory,
}

/// Whether a publication follows the changes that come after the database state which a filtered tile shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaterChanges {
    /// Some changes may lead to no publication.
    Unknown,
    /// The change log has each of them, so a publication follows.
    Published,
    /// That publication purges the tags of the tiles, too.
    Purged,
}

/// What the database says of a state that a tile shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateCheck {
    /// The database state at this moment.
    pub present: Cursor,
    /// The newest transaction in the change log that the tile's state sees.
    pub newest: NewestLogged,
}

/// The rows of points that a tileset keeps to draw live tiles without the database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LiveRowsReport {
    /// How many rows are kept; 0 if none are.
    pub rows: usize,
    /// The memory that they take, in bytes.
    pub bytes: usize,
    /// The part of `bytes` that another tileset of this server, or its writer, keeps in the same memory.
    pub shared_bytes: usize,
    /// The bytes of their encoded features in scratch files, in addition to `bytes`; 0 if all are in memory.
    pub file_bytes: u64,
    /// The database state that they show; `None` if none are kept.
    pub snapshot: Option<String>,
    /// Why none are kept; `None` if some are.
    pub why_not: Option<String>,
    /// How many live tiles were drawn from them since the server began.
    pub tiles: u64,
    /// How many live tiles were drawn whose cells were counted from them, since the server began.
    pub counted_tiles: u64,
    /// How many live tiles the database drew while rows were kept, since the server began. It drew the counted cells of
    /// some of them.
    pub database_tiles: u64,
    /// How many times they were read since the server began.
    pub reads: u64,
    /// True while they are being read from the table, or from the file of an earlier server.
    pub being_read: bool,
    /// The time since they were brought to the state that they show; `None` if none are kept.
    pub last_look_seconds: Option<u64>,
    /// How many of them came or went since they were read, or joined with what had changed.
    pub changed: usize,
    /// How many times they were dropped since the server began: they were too old, or it was not known what had
    /// changed.
    pub drops: u64,
    /// How many times they were taken from the file of an earlier server since this one began.
    pub loads: u64,
    /// How many times they were taken from another tileset of this server, or its writer, since the server began.
    pub taken: u64,
    /// How many times others took them from this tileset since the server began.
    pub given: u64,
    /// Why the file of an earlier server was not used; `None` if it was, or there is none.
    pub why_not_loaded: Option<String>,
    /// The time since they were written to that file; `None` if this server has not written it.
    pub saved_seconds: Option<u64>,
    /// Why they are not written to that file; `None` if they are, or nothing was tried so far.
    pub why_not_saved: Option<String>,
    /// Why facets cannot be used, so that the database chooses rows by them; `None` if all can, or no rows are kept.
    pub why_no_facets: Option<String>,
    /// How many filters have a matching set, or were refused one.
    pub sets: usize,
    /// The memory that the sets take, in bytes.
    pub set_bytes: usize,
    /// How many statements asked for a set since the server began.
    pub set_statements: u64,
    /// How many sets were made of facets, without a statement, since the server began.
    pub facet_sets: u64,
    /// How many of both kinds of tiles were drawn with sets.
    pub set_tiles: u64,
}

/// Renders tiles on request.
///
/// The promise: [`LiveSource::render`] gives the bytes that a seed of the same database state would store, in the
/// target's packing. Each call shows one database state, at most a few seconds old. The server limits how many calls
/// run concurrently.
pub trait LiveSource: Send + Sync + 'static {
    /// The fingerprint of everything besides the data that decides the tiles' bytes; it is compared with that in a
    /// target's manifest.
    fn fingerprint(&self) -> &str;

    /// The layers, in the order of the configuration.
    fn layers(&self) -> &[LiveLayer];

    /// Renders a tile. When `stop` is requested, it cancels the statement that the database runs for this tile and
    /// returns soon. The future must be polled to its end.
    fn render<'a>(&'a self, request: LiveRequest, stop: &'a Stop) -> BoxFuture<'a, Result<LiveTile, LiveError>>;

    /// Waits, for a short while, for what makes rendering a tile cheap. The server calls it before the tile has a
    /// worker, and may drop the future.
    fn prepare<'a>(&'a self, _request: &'a LiveRequest, _stop: &'a Stop) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Counts the rows of each layer. When `stop` is requested, it cancels its statements and returns soon. The future
    /// must be polled to its end.
    fn count<'a>(
        &'a self,
        _request: CountRequest,
        _stop: &'a Stop,
    ) -> BoxFuture<'a, Result<Vec<LayerCounts>, LiveError>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Identifies what parameters mean, for the cache that servers share.
    fn filters_digest(&self) -> String {
        String::new()
    }

    /// True if no statement is needed to find the rows that have these values.
    fn finds_in_memory(&self, _given: &GivenParameters) -> bool {
        false
    }

    /// Whether a publication follows the changes after `shown`, the database state that a tile with the values `given`
    /// shows. For tiles in the target's scope.
    fn later_changes(&self, _given: &GivenParameters, _shown: &Cursor) -> LaterChanges {
        LaterChanges::Unknown
    }

    /// The key with which its tiles are signed in the cache that servers share; `None` if the database has none. Every
    /// server of the database has the same one.
    fn shared_secret(&self) -> Option<SharedSecret> {
        None
    }

    /// What the database says at this moment of a state that a tile shows.
    fn ask_about<'a>(&'a self, state: &'a Cursor) -> BoxFuture<'a, Result<StateCheck, LiveError>>;

    /// The number of its open database sessions.
    fn sessions(&self) -> usize {
        0
    }

    /// The rows that it keeps; `None` if it never keeps any.
    fn rows(&self) -> Option<LiveRowsReport> {
        None
    }

    /// Leaves what the next process may use. It is called once, when the last tile was rendered.
    fn end(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Follows the change log, and reports what it finds to `known`, as long as the future is polled. Without a log the
    /// future never ends, and reports to `known` why no change is known.
    fn follow(self: Arc<Self>, _known: KnownChanges) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// True if a slice of a tile has a layer that is drawn at a zoom.
pub(crate) fn draws(layers: &[LiveLayer], slice: Slice, zoom: Zoom) -> bool {
    layers.iter().any(|layer| layer.zooms.contains(zoom) && (slice == Slice::Whole || slice == Slice::Layer(layer.id)))
}
