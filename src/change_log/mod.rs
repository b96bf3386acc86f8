//! The change log in the database.
//!
//! Triggers log the old and new position of each visibly changed row, with the transaction that changed it. The entries
//! that a target has not seen are those whose transaction is visible to the run's snapshot, but not to the target's
//! cursor.
//!
//! ```text
//! install: layers ─► relations (tables and columns) ─► install (a trigger function for each watch) ─► one transaction
//! reseed:  layers ─► facts (its state beside the catalog) ─► read (why it cannot be trusted, or each watch's changes)
//! ```
//!
//! A *watch* is what is logged about one table: positions from a geometry column, or from a query over the changed row.
//!
//! | part | subject |
//! |---|---|
//! | `error` | errors |
//! | `log` | the log as it is: layout, whether there is one, pieces of SQL |
//! | `decoding` | how logged values are read back |
//! | `safety` | whether the schema of the log can be trusted |
//! | `witness` | what the log says of its database: the key, the newest transactions |
//! | `facts` | the log's state compared with the catalog |
//! | `relations` | which tables and columns a layer reads, and what the catalog says about these tables |
//! | `install/` | what an install writes: tables, functions, triggers, their owner |
//! | `pruning` | how long the log is, and what no target needs any more |
//! | `read` | what changed since a cursor |
//! | `gap` | the reasons why the change log may not be complete |
//! | `waking` | wakes `reseed --watch` when there are changes, by the triggers' notifications, or by polling with a small query |
//!
//! Imports go down this table; `tests/it/project/imports.rs` holds it.

mod decoding;
mod error;
mod facts;
mod gap;
mod install;
mod log;
mod pruning;
mod read;
mod relations;
mod safety;
mod waking;
mod witness;

use md5::{Digest as _, Md5};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::hex::hex;
use crate::postgis::Layer;
use crate::setting::{HoursOfDay, TimeSpan, no_key_is_required};

pub use crate::cursor::Cursor;
pub(crate) use crate::cursor::{CursorError, NewestLogged, StateInHistory};
pub(crate) use error::ChangeLogError;
pub(crate) use gap::LogGap;
pub(crate) use install::{InstallKind, InstallRequest, TrackedLayer, plan_install, removal, remove, run};
pub(crate) use log::Presence;
pub use log::WATCHER_LOCK;
pub(crate) use pruning::{Pruned, WatchBacklog, backlogs, prune};
pub(crate) use read::{UnseenChanges, UnseenLog, UnseenRows, tracked_each};
pub use read::{Watch, tracked};
pub(crate) use relations::{RequestCondition, RequestValues};
pub(crate) use safety::{check_safety, namesake_of_log};
pub(crate) use waking::{Waking, notify_obstacle};
pub(crate) use witness::{LogState, log_state, newest_logged, newest_logged_now};

// The change log in the configuration.

/// The section `[changes]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = no_key_is_required)]
pub struct ChangesSection {
    /// The schema of the log.
    pub schema: String,
    /// A `TRUNCATE` of more rows is logged as "everything" instead of the position of each row.
    pub(crate) truncate_rows: u32,
    pub(crate) debounce: TimeSpan,
    pub(crate) poll: TimeSpan,
    pub(crate) compact_between: Option<HoursOfDay>,
}

/// A hash of everything that decides which rows and columns the layer reads. Configurations with the same hash share
/// the installed watches; a layer with a new hash has to be installed.
pub(crate) fn definition(layer: &Layer) -> String {
    let mut parts: Vec<&str> = vec![&layer.relation, &layer.geometry];
    parts.extend(layer.key.iter().map(|key| key.quoted.as_str()));
    parts.push("properties");
    parts.extend(layer.properties.iter().map(|property| property.sql.as_str()));
    parts.push("feature_id");
    parts.extend(layer.section.feature_id.as_deref());
    parts.push("where");
    parts.extend(layer.filter.as_deref());
    parts.extend(layer.row_zooms.sql().flat_map(|sql| ["zoom", sql]));
    let having = layer.cells().and_then(|cells| cells.having.as_deref());
    parts.extend(having.iter().flat_map(|having| ["having", having]));
    for track in &layer.section().track {
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
