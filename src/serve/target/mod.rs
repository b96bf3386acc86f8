//! The target that is served.
//!
//! | file | subject |
//! |---|---|
//! | `served` | the target: opened, watched for replacement, read by several readers at once |
//! | `state` | what it holds between two changes |
//! | `last_changed` | since when each tile is unchanged, by which cached tiles are found or not |
//! | `live_only` | a target that is not there |
//! | `watch` | how its changes are noticed |
//! | `stored` | the set of the tiles that it holds |
//! | `listing` | the task that makes this set |

pub(crate) mod last_changed;
pub(crate) mod listing;
pub(crate) mod live_only;
pub(crate) mod served;
pub(crate) mod state;
pub(crate) mod stored;
pub(crate) mod watch;
