//! The queue of work for the database: W workers, some reserved for live requests, some guaranteed to background work.
//!
//! ```text
//! live request ─► clients take turns ──────────┐
//! background ───► by the end of its patience ──┴─► admission rule ─► permit: one worker, one session
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `admission` | the rule, as a pure function of the running and waiting tasks |
//! | `background` | the classes of work, and the order of background tasks |
//! | `scheduler` | the queue itself: tickets, permits, promotion |

mod admission;
mod background;
mod scheduler;

pub use admission::{WorkerShares, WorkerSharesError};
pub use background::WorkClass;
pub use scheduler::{ClassCounts, QueueCounts, WorkPermit, WorkQueue, WorkTicket};
