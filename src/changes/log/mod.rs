//! The change log as the database holds it: its state beside the catalog, whether its schema can be trusted, how logged values are read
//! back, and the key by which targets say which database they show.

mod decoding;
mod facts;
mod identity;
mod presence;
mod sql_text;
mod trust;

pub use decoding::DecodingWay;
pub use identity::identity_key;

pub(super) use decoding::{Decoding, decoding_of};
pub(super) use facts::{Facts, MemberFacts, WatchFacts, ties, triggers};
pub(super) use identity::ADD_KEY;
pub(super) use presence::Presence;
pub(super) use sql_text::{CALLED, at_postgis, literal, literal_in_block, of_schema};
pub(super) use trust::Distrust;

/// The advisory lock that whoever waits for notices shares while it does (PostgreSQL documentation, section 13.3.5,
/// `pg_advisory_lock_shared(class, object)`). The triggers give notices, on a channel called as the log's schema, only while
/// it is held.
pub const WATCHER_LOCK: (i32, i32) = (0x6f61_7274, 1);

/// The version of the log's own layout. Logs of version 1 do not say who owns the functions of the triggers, which ran the casts of
/// the columns' types.
pub(super) const LAYOUT: i32 = 2;
