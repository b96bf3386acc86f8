//! Targets in buckets: a prefix with an object for each tile, which a run synchronizes, or a PMTiles object, which a
//! run replaces.
//!
//! ```text
//!  create: take the lease ─► begin: read the notes, ─► write: PUT tiles whose MD5 ─► finish: wait for all, delete,
//!                            list the tiles            differs from the listed one           write the notes, release
//!          lease             prefix_store              tile_requests (bounded)       prefix_store
//! ```
//!
//! A run that edits a target ([`Unwritten::Keep`](super::Unwritten::Keep)) lists nothing: it asks for each tile by HEAD
//! before it writes it.
//!
//! | file | what is in it |
//! |---|---|
//! | `options`, `location` | what the user sets, and how requests use it |
//! | `client`, `aws`, `cloud` | the seam: what a client of one kind of server does; the only files that know Amazon's SDK and `object_store` |
//! | `store`, `shared`, `flight` | requests below a prefix; the client that readers and the sink share; how many are in flight |
//! | `error`, `refusal` | the meaning of a server's refusal, and the message with the next step |
//! | `lease` | the lease, which allows one writer for each target |
//! | `prefix`, `prefix_store`, `tile_requests`, `tree_notes` | a run of the sink from its beginning to its notes |
//! | `headers`, `header_note`, `rewrite` | which headers objects get; the note of which of them a prefix's tiles carry; the pass that gives all tiles the headers of the configuration |
//! | `object_notes` | notes that are kept below a prefix or next to an archive |
//! | `archive_upload`, `noted_uploads`, `pmtiles` | an archive that is uploaded as a whole, and what killed runs have left of that |
//! | `read` | reads tiles and archives back |
//! | `version` | a version that the shards of a seed write together |
//! | `work_objects` | what the shards of a seed leave for its commit |

#![cfg_attr(not(feature = "s3"), allow(dead_code, reason = "what only a client of a service uses"))]

mod archive_upload;
#[cfg(feature = "s3")]
mod aws;
mod client;
#[cfg(feature = "clouds")]
mod cloud;
mod error;
mod flight;
mod header_note;
mod headers;
mod lease;
mod location;
mod noted_uploads;
mod object_notes;
mod options;
mod pmtiles;
mod prefix;
mod prefix_store;
mod read;
mod refusal;
mod rewrite;
mod shared;
mod store;
mod tile_requests;
mod tree_notes;
mod version;
mod work_objects;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::stop::Stop;

pub use archive_upload::{BucketArchive, remove_archive};
pub use error::{Action, BucketCause, BucketError};
pub use flight::{Flight, Flights, InFlight};
pub use header_note::HeaderNote;
pub use location::{BucketLocation, LocationError, ObjectKey, Scheme};
pub use object_notes::BucketNotes;
pub use options::{BucketOptions, CacheRule, CloudSettings, Encryption, S3Keys, S3Section, without_user};
pub use pmtiles::BucketPmtiles;
pub use prefix::BucketTiles;
pub use read::{BucketObject, BucketReader, bucket_versions};
pub use rewrite::RewrittenHeaders;
pub use shared::BucketShared;
pub use store::remove_prefix;
pub use version::{SharedState, SharedVersion, VersionTiles, give_up_shared};
pub use work_objects::{BucketWorkFiles, WorkLease};

/// How long a run waits after a stop was asked for while the server undoes something: while it gives back the lease or
/// aborts an upload. The process ends 2 s after the signal.
const MAX_UNDO_TIME: Duration = Duration::from_secs(1);

/// What requests give, unless a stop is asked for first: they are then cancelled, and `place` is interrupted.
async fn unless_stopped<T>(
    stop: &Stop,
    place: impl fmt::Display,
    requests: impl Future<Output = Result<T, BucketError>>,
) -> Result<T, BucketError> {
    tokio::select! {
        biased;
        _ = stop.wait() => Err(BucketError::Interrupted { place: place.to_string() }),
        done = requests => done,
    }
}

/// Runs a future to its end, from a thread that may block.
fn wait<F: Future>(runtime: &Handle, future: F) -> F::Output {
    tokio::task::block_in_place(|| runtime.block_on(future))
}
