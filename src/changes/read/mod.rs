//! Reading the change log: whether it holds every change that a target has not seen, what changed, its size, and when to look again.

mod backlog;
mod check;
mod unseen;
mod waking;

pub use backlog::{Pruned, WatchBacklog, backlogs, check_safety, prune};
pub use check::{PositionSource, Watch, tracked};
pub use unseen::{UnseenChanges, unseen_changes, unseen_positions, unseen_transactions};
pub use waking::{NotifyObstacle, Waking, notify_obstacle};
