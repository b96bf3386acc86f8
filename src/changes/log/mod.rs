//! The change log as the database holds it: its state compared with the catalog, whether its schema can be trusted, how logged values are read back,
//! and the key by which targets identify their database.

mod decoding;
mod facts;
mod identity;
mod namesake;
mod newest;
mod presence;
mod sql_text;
mod trust;

pub use decoding::DecodingMethod;
pub use identity::{LogState, log_state};
pub use namesake::namesake_of_log;
pub use newest::{newest_logged, newest_logged_now};

pub(super) use decoding::{Decoding, decoding_expression};
pub(super) use facts::{Facts, MemberFacts, WatchFacts, ties, triggers};
pub(super) use identity::{ADD_KEY, newest_transactions};
pub(super) use namesake::namesake;
pub(super) use presence::Presence;
pub(super) use sql_text::{QUALIFIED_NAME, at_postgis, literal, literal_in_block, of_schema};
pub(super) use trust::SchemaFlaws;

/// The advisory lock that every process shares while it waits for changes (PostgreSQL documentation, section 13.3.5,
/// `pg_advisory_lock_shared(class, object)`). The triggers send notifications, on a channel with the name of the log's schema, only while the lock
/// is held.
pub const WATCHER_LOCK: (i32, i32) = (0x6f61_7274, 1);

/// The version of the log's layout. In a log of version 2, large shapes are logged as boxes, not as covers. In a log of version 3, large shapes in
/// other reference systems than EPSG:4326 and 3857 are logged whole. Everything else is the same, so entries from before an upgrade can be read, too.
pub(super) const LAYOUT: i32 = 4;

/// The oldest layout that is safe. A log of version 1 does not record the owner of the trigger functions, which ran casts of the columns' types.
pub(super) const SAFE_LAYOUT: i32 = 2;
