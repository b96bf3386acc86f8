//! Targets in S3: a prefix with an object for each tile, which a run synchronizes, or a PMTiles object, which a run
//! replaces.
//!
//! ```text
//!  create: take the lease ─► begin: read the notes, ─► write: PUT tiles whose MD5 ─► finish: wait for all, delete,
//!                            list the tiles            differs from the listed one           write the notes, release
//!          lease             open                      uploads (bounded)             publish
//! ```
//!
//! A run that edits a target ([`Unwritten::Keep`](super::Unwritten::Keep)) lists nothing: it asks for each tile by HEAD
//! before it writes it.
//!
//! | file | what is in it |
//! |---|---|
//! | `options`, `location`, `headers` | what the user sets, and how requests use it |
//! | `store`, `shared`, `flight` | requests below a prefix, with retries; the client that readers and the sink share; how many are in flight |
//! | `error`, `refusal` | the meaning of a server's refusal, and the message with the next step |
//! | `lease` | the lease, which allows one writer for each target |
//! | `prefix`, `open`, `uploads`, `note`, `publish` | a run of the sink from its beginning to its notes |
//! | `header_note`, `rewrite` | which headers tiles carry; the pass that gives all tiles the headers of the configuration |
//! | `object_notes` | notes that are kept below a prefix or next to an archive |
//! | `upload`, `pmtiles` | an archive that is uploaded as a whole |
//! | `removal` | deletes whole targets |
//! | `read` | reads tiles and archives back |
//! | `version` | a version that the shards of a seed write together |
//! | `work_objects` | what the shards of a seed leave for its commit |
//! | `absent` | replaces all of it in a program that was built without the feature `s3`: each target is refused |

mod error;
mod flight;
mod header_note;
mod location;
mod options;

#[cfg(feature = "s3")]
use std::future::Future;
#[cfg(feature = "s3")]
use std::time::Duration;

#[cfg(feature = "s3")]
use tokio::runtime::Handle;

#[cfg(not(feature = "s3"))]
pub use absent::{
    S3, S3Notes, S3Object, S3Pmtiles, S3Reader, S3Shared, S3WorkObjects, SharedVersion, VersionTiles, give_up_shared,
    remove_archive, remove_prefix, s3_versions,
};
pub use error::{Action, S3Cause, S3Error};
pub use flight::{Flight, Flights, InFlight};
pub use header_note::{HeaderNote, RewrittenHeaders};
pub use location::{LocationError, S3Key, S3Location};
#[cfg(feature = "s3")]
pub use object_notes::S3Notes;
pub use options::{CacheRule, Encryption, S3Headers, S3Keys, S3Options, without_user};
#[cfg(feature = "s3")]
pub use pmtiles::S3Pmtiles;
#[cfg(feature = "s3")]
pub use prefix::S3;
#[cfg(feature = "s3")]
pub use read::{S3Object, S3Reader, s3_versions};
#[cfg(feature = "s3")]
pub use removal::{remove_archive, remove_prefix};
#[cfg(feature = "s3")]
pub use shared::S3Shared;
#[cfg(feature = "s3")]
pub use upload::S3Archive;
#[cfg(feature = "s3")]
pub use version::{SharedVersion, VersionTiles, give_up_shared};
#[cfg(feature = "s3")]
pub use work_objects::S3WorkObjects;

/// How long a run waits after a stop was asked for while the server undoes something: while it gives back the lease or
/// aborts an upload. The process ends 2 s after the signal.
#[cfg(feature = "s3")]
const MAX_UNDO_TIME: Duration = Duration::from_secs(1);

/// Runs a future to its end, from a thread that may block.
#[cfg(feature = "s3")]
fn wait<F: Future>(runtime: &Handle, future: F) -> F::Output {
    tokio::task::block_in_place(|| runtime.block_on(future))
}

#[cfg(not(feature = "s3"))]
mod absent;
#[cfg(feature = "s3")]
mod headers;
#[cfg(feature = "s3")]
mod lease;
#[cfg(feature = "s3")]
mod note;
#[cfg(feature = "s3")]
mod object_notes;
#[cfg(feature = "s3")]
mod open;
#[cfg(feature = "s3")]
mod pmtiles;
#[cfg(feature = "s3")]
mod prefix;
#[cfg(feature = "s3")]
mod publish;
#[cfg(feature = "s3")]
mod read;
#[cfg(feature = "s3")]
mod refusal;
#[cfg(feature = "s3")]
mod removal;
#[cfg(feature = "s3")]
mod rewrite;
#[cfg(feature = "s3")]
mod shared;
#[cfg(feature = "s3")]
mod store;
#[cfg(feature = "s3")]
mod upload;
#[cfg(feature = "s3")]
mod uploads;
#[cfg(feature = "s3")]
mod version;
#[cfg(feature = "s3")]
mod work_objects;
