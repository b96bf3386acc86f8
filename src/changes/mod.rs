//! The change log in the database.
//!
//! Triggers log the old and new position of each visibly changed row, with the transaction that changed it. The entries that a target has not seen
//! are those whose transaction is visible to the run's snapshot, but not to the target's cursor.
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
//! | `options`, `untracked`, `error` | settings, why the log may not be complete, errors |
//! | `log` | the log as it is: layout, state, trust, how logged values are read back, the database's identity |
//! | `relations` | which tables and columns a layer reads, and what the catalog says about these tables |
//! | `install` | what an install writes: tables, functions, triggers, their owner |
//! | `read` | what changed since a cursor, pruning, waiting for the next change |
//!
//! Imports go down this table; `tests/it/project/imports.rs` holds it.

mod error;
mod install;
mod log;
mod options;
mod read;
mod relations;
mod untracked;

pub use crate::cursor::{Cursor, CursorError, NewestLogged, StateInHistory};
pub use error::ChangeLogError;
pub use install::{InstallRequest, Installation, plan_install, removal, remove, run};
pub use log::{DecodingMethod, LogState, WATCHER_LOCK, log_state, namesake_of_log, newest_logged, newest_logged_now};
pub use options::{ChangesOptions, TrackOptions, TrackedLayer, WatchOptions};
pub use read::{
    NotifyObstacle, PositionSource, Pruned, UnseenChanges, Waking, Watch, WatchBacklog, backlogs, check_safety,
    notify_obstacle, prune, tracked, unseen_changes, unseen_positions, unseen_transactions,
};
pub use untracked::Untracked;
