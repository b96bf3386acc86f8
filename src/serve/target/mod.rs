//! The target that is served.
//!
//! | file | subject |
//! |---|---|
//! | `served` | the target: opened, watched for replacement, read by several readers at once |
//! | `stored` | the set of the tiles that it holds |
//! | `listing` | the task that makes this set |

pub(crate) mod listing;
pub(crate) mod served;
pub(crate) mod stored;
