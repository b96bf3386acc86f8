//! The change log in the database, and snapshots as cursors into it.
//!
//! Triggers log the old and new position of each visibly changed row, with the transaction that changed it. A target has not seen the entries
//! whose transaction is visible to the run's snapshot and not to the target's cursor.
//!
//! ```text
//!  install:  layers ──► reads (which tables and columns) ──► noter (a trigger function a watch) ──► script ──► committed
//!  check:    layers ──► facts (the log beside the catalog) ──► why it cannot be trusted, or the watches of each layer
//! ```
//!
//! A *watch* is what is logged of one table: positions from a geometry column, or from a query over the changed row.
//!
//! | files | subject |
//! |---|---|
//! | `install`, `script`, `transaction`, `noter`, `notes`, `owner`, `sql/` | what an install writes: tables, functions, triggers, their owner |
//! | `reads`, `table`, `decoding` | which tables and columns a layer reads, and how logged values are read back |
//! | `facts`, `trust`, `check` | the log as it is, and whether it can be trusted |
//! | `read`, `cursor`, `backlog`, `waking` | reading changes, pruning, waiting for the next change |
//! | `options`, `identity`, `error` | settings, the database's identity, errors |

mod backlog;
mod check;
mod cursor;
mod decoding;
mod error;
mod facts;
mod identity;
mod install;
mod noter;
mod notes;
mod options;
mod owner;
mod read;
mod reads;
mod script;
mod table;
mod transaction;
mod trust;
mod waking;

pub use backlog::{Logged, Pruned, checked, logged, prune};
pub use check::{PositionSource, Watch, tracked};
pub use cursor::{Cursor, CursorError};
pub use decoding::DecodingWay;
pub use error::{Error, Untracked};
pub use identity::identity_key;
pub use install::{InstallRequest, Installation, plan_install, removal, remove, run};
pub use options::{ChangesOptions, TrackOptions, TrackedLayer, WatchOptions};
pub use read::{UnseenChanges, changed_places, pending};
pub use waking::{NotifyObstacle, Waking, quiet};

/// The advisory lock that whoever waits for notices shares while it does (PostgreSQL documentation, section 13.3.5,
/// `pg_advisory_lock_shared(class, object)`). The triggers give notices, on a channel called as the log's schema, only while
/// it is held.
pub const WATCHER_LOCK: (i32, i32) = (0x6f61_7274, 1);

/// The version of the log's own layout. Logs of version 1 do not say who owns the functions of the triggers, which ran the casts of
/// the columns' types.
pub(crate) const LAYOUT: i32 = 2;

/// Schema and name of the relation `c` in the namespace `n`, quoted as [`quoted`](crate::postgis::quoted) does.
const CALLED: &str = r#"'"' || replace(n.nspname, '"', '""') || '"."' || replace(c.relname, '"', '""') || '"'"#;

/// A text literal (PostgreSQL documentation, section 4.1.2.1), whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// The same within dollar quotes, which a dollar sign might end.
fn literal_in_block(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "''").replace('$', "\\044");
    format!(" E'{escaped}'")
}

/// A statement with the schema of PostGIS in place of `{postgis}`.
fn at_postgis(sql: &str, postgis: &str) -> String {
    sql.replace("{postgis}", &crate::postgis::quoted(postgis))
}
