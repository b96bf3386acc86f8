//! The change log in the database.
//!
//! Triggers log the old and new position of each visibly changed row, with the transaction that changed it. The entries
//! that a target has not seen are those whose transaction is visible to the run's snapshot, but not to the target's
//! cursor.
//!
//! ```text
//!  install:  layers ──► relations (which tables and columns) ──► install (one trigger function for each watch, one script) ──► committed
//!  reseed:   layers ──► log (its state compared with the catalog) ──► read (why it cannot be trusted, or each watch's changes)
//! ```
//!
//! A *watch* is what is logged about one table: positions from a geometry column, or from a query over the changed row.
//!
//! | part | subject |
//! |---|---|
//! | `untracked`, `error` | settings, why the log may not be complete, errors |
//! | `log` | the log as it is: layout, state, trust, how logged values are read back, the database's identity |
//! | `relations` | which tables and columns a layer reads, and what the catalog says about these tables |
//! | `install/` | what an install writes: tables, functions, triggers, their owner |
//! | `read` | what changed since a cursor, pruning, waiting for the next change |
//!
//! Imports go down this table; `tests/it/project/imports.rs` holds it.

mod error;
mod gap;
mod install;
mod log;
mod read;
mod relations;
mod waking;

use std::time::Duration;

use md5::{Digest as _, Md5};

use crate::hex::hex;
use crate::postgis::Layer;

pub use crate::cursor::{Cursor, CursorError, NewestLogged, StateInHistory};
pub use error::ChangeLogError;
pub use gap::LogGap;
pub use install::{InstallRequest, Installation, plan_install, removal, remove, run};
pub use log::{
    DecodingMethod, LogState, Presence, WATCHER_LOCK, log_state, namesake_of_log, newest_logged, newest_logged_now,
};
pub use read::{
    NotifyObstacle, PositionSource, Pruned, UnseenChanges, Waking, Watch, WatchBacklog, backlogs, check_safety,
    notify_obstacle, prune, tracked, unseen_changes, unseen_positions, unseen_transactions,
};

// The change log in the configuration.

/// The schema of the log, and what the log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangesOptions {
    /// The schema of the log.
    pub schema: String,
    /// A `TRUNCATE` of more rows is logged as "everything" instead of the position of each row.
    pub truncate_rows: u32,
}

/// How `reseed --watch` waits for changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchOptions {
    /// How long to collect further changes after the first one.
    pub debounce: Duration,
    /// The longest pause between two reseeds, with or without a notification.
    pub poll: Duration,
}

/// A further table that a layer reads, and where its changes are visible on the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackOptions {
    pub table: String,
    /// The table's schema; without it, the search path decides.
    pub schema: Option<String>,
    /// A query over the changed row, which it calls `changed`. It returns geometries in the reference system of the
    /// layer's column.
    pub geometry: String,
}

/// A layer whose changes are logged.
#[derive(Debug, Clone, Copy)]
pub struct TrackedLayer<'a> {
    pub layer: &'a Layer,
    /// The further tables that it reads.
    pub track: &'a [TrackOptions],
    /// True if its relation is a materialized view that each run refreshes.
    pub refreshes: bool,
}

impl TrackedLayer<'_> {
    /// A hash of everything that decides which rows and columns the layer reads. Configurations with the same hash
    /// share the installed watches; a layer with a new hash has to be installed.
    #[must_use]
    pub fn definition(&self) -> String {
        let layer = self.layer;
        let mut parts: Vec<&str> = vec![&layer.relation, &layer.geometry];
        parts.extend(layer.key.iter().map(|key| key.quoted.as_str()));
        parts.push("properties");
        parts.extend(layer.properties.iter().map(|property| property.sql.as_str()));
        parts.push("feature_id");
        parts.extend(layer.feature_id.as_deref());
        parts.push("where");
        parts.extend(layer.filter.as_deref());
        parts.extend(layer.row_zooms.sql().flat_map(|sql| ["zoom", sql]));
        let having = layer.cells().and_then(|cells| cells.having.as_deref());
        parts.extend(having.iter().flat_map(|having| ["having", having]));
        for track in self.track {
            parts.extend(["track", &track.table, track.schema.as_deref().unwrap_or_default(), &track.geometry]);
        }
        let mut hash = Md5::new();
        for part in parts {
            // Without the lengths, two lists of parts could be the same text.
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        hex(hash.finalize())
    }
}
