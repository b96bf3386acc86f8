//! Serves the target over HTTP: tiles, TileJSON, a map to look at them, and health and metrics for supervisors.
//!
//! ```text
//! listener ─► accept ─► route ─► memory ─ has it ─────────────────────────────────────────────► 200 / 304
//! (http)     limits    (public)  (tiles)  └ asks the target ─ has it ─────────────────────────► memory, 200
//!                                                           └ has it not ─ in its scope ──────► empty
//!                                                                        └ outside of it ─────► rendered (live), or 404
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `options`, `error` | the options of a server; why it could not start |
//! | `server` | start, listeners, tasks and end; what is read again while it runs |
//! | `http/` | addresses, the accept loop and its limits, paths, content negotiation, answers; it knows nothing of tilesets except names of tiles |
//! | `target/` | the target: opened, watched for replacement, read by several readers at once; which tiles it holds |
//! | `tiles/` | where a tile comes from; tiles as they are sent, cached in memory |
//! | `tilesets/` | the tilesets, which of them a path names, and their catalogue |
//! | `live/` | tiles that are rendered on request: one flight a tile |
//! | `parameters/` | what requests for live tiles may ask in addition to the address |
//! | `known_changes/` | what is known of changes that the target does not show yet: stale tiles, epochs of live ones |
//! | `queue/` | the workers, shared between live requests and background work |
//! | `public/` | the public listener: tiles and how long caches may keep them, TileJSON |
//! | `preview` | the page with the map |
//! | `admin` | the admin listener: health, metrics, status |
//! | `signature` | signed addresses: until when tiles of a tileset may be asked for |
//! | `jobs/` | work for the writer that clients submit to the admin listener |
//! | `writer`, `write_back` | what the writers inside the server report; live tiles that the writer will store |
//! | `observe/` | monitoring: Prometheus, the access log, systemd, current failures |
//! | `redis/` | the cache that several servers share, in Redis: tiles that one of them has rendered need not be rendered by the others |
//!
//! Nothing here writes to the target (`serve --writer` is a run of `run/serving`), and nothing keeps a lock on it between
//! two reads: other processes may seed, reseed or switch it while it is served. A request after such a change gets the
//! new state, because each request checks the metadata of the target's files (device, inode, length, time); a target in
//! S3 is checked once a second.

mod admin;
mod error;
mod http;
mod jobs;
mod known_changes;
mod live;
mod observe;
mod options;
mod parameters;
mod preview;
mod public;
mod queue;
mod redis;
mod server;
mod signature;
mod target;
mod tiles;
mod tilesets;
mod write_back;
mod writer;

pub use error::ServeError;
pub use http::address::{AddressRange, AddressRangeError, ListenAddress, ListenAddressError};
pub use http::origin::{PageOrigin, PageOriginError};
pub use http::route::{CACHE_PROBE, TileAddress, TileAddressError};
pub use jobs::{
    AdminToken, JobEnd, JobPriority, JobProgress, JobSpec, JobSpecError, JobState, JobStore, JobWork, MIN_TOKEN_BYTES,
    StartedJob, TOKEN_VARIABLE, TokenError,
};
pub use known_changes::{KnownChanges, LogFailure, LogLook};
pub use live::{
    CountRequest, Counted, LaterChanges, LayerCounts, LiveError, LiveLayer, LiveRequest, LiveRowsReport, LiveSource,
    LiveTile, MAX_VALUES, ParameterRows, StateCheck,
};
pub use observe::access_log::AccessRecord;
pub use options::{
    AccessLogStyle, CdnHeader, EmptyStatus, LiveOptions, SETTLE, ServeOptions, TileHeader, TileHeaders, WriterOptions,
};
pub(crate) use options::{RefreshMode, ServeSection, TagHeader, WriterMode};
pub use parameters::{
    GivenParameter, GivenParameters, LetterCase, Parameter, ParameterBounds, ParameterType, ParameterValue,
    ParametersKey, TilesetParameters, UndeclaredNames, ValueMap,
};
pub(crate) use parameters::{POSTED_NAME, PUBLICATION_NAME};
pub(crate) use preview::{BASEMAP_MAXZOOM, basemap_tile, standalone, style};
pub use public::TilesetHeaders;
pub use public::changes::{ChangedEvent, StateEvent};
pub use public::endpoints::PROBE_QUERY;
pub use queue::{
    ClassCounts, QueueCounts, WorkClass, WorkPermit, WorkQueue, WorkTicket, WorkerShares, WorkerSharesError,
};
pub use redis::{RedisUrl, RedisUrlError, SharedSecret};
pub use server::{RereadSettings, Rereader, SettingsReader, TileServer};
pub use target::live_only::live_only;
pub use target::served::{ServedSource, TargetOpener};
pub use target::watch::{ChangeDetection, POLL, files_of_archive, files_of_directory};
pub use tilesets::catalogue::{CatalogueDocument, CatalogueFamily, CatalogueTileset};
pub use tilesets::family::{FamilyParts, ListedVariant, VariantListing, VariantOpener, VariantSource, WrittenVariants};
pub use tilesets::opening::TilesetParts;
pub use tilesets::{Addressing, VariantInList, VariantListDocument, tileset_segment};
pub use write_back::{WriteBackLimits, WriteBackQueue};
pub use writer::{Writer, WriterHandle, WriterObserver, WrittenTarget};
