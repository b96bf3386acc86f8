//! The change log in the database, and snapshots as cursors into it.
//!
//! Triggers note where each visibly changed row was and is, with the transaction that changed it. What a target has not seen
//! yet are the rows whose transaction its snapshot does not see and the run's own snapshot does.

mod cursor;
mod read;

pub use cursor::{Cursor, CursorError};
pub use read::{Pending, Watch, changed_places, pending};
