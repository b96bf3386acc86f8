//! The target that is served.
//!
//! | file | subject |
//! |---|---|
//! | `served` | the target: opened, watched for replacement, read by several readers at once; the task that lists its tiles |
//! | `state` | a state of the target between two changes |
//! | `live_only` | a substitute for a missing target |
//! | `watch` | how its changes are noticed |
//! | `stored` | the set of the tiles that it holds |

pub(crate) mod live_only;
pub(crate) mod served;
pub(crate) mod state;
pub(crate) mod stored;
pub(crate) mod watch;
