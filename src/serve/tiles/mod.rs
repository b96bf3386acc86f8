//! Where a tile comes from.
//!
//! | file | subject |
//! |---|---|
//! | `served` | the cache, then the target, then the database |
//! | `rendered` | tiles that the database renders, and what a client gets that cannot wait for one |
//! | `staleness` | which stored tiles are stale, and of which clients have seen a refreshed one |
//! | `cache` | the most wanted tiles in memory, as they are sent |
//! | `around` | the tiles above, next to and below a tile |

pub(crate) mod around;
pub(crate) mod cache;
mod rendered;
pub(crate) mod served;
pub(crate) mod staleness;
