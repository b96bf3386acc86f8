//! Where a tile comes from.
//!
//! | file | subject |
//! |---|---|
//! | `origin` | where a tile came from, or why there is none |
//! | `served` | the cache, then the target, then the database |
//! | `rendered` | tiles that the database renders, and what a client gets that does not wait for one |
//! | `with_parameters` | tiles of requests that give values for parameters |
//! | `staleness` | which stored tiles are stale, and which of them clients have seen in a refreshed state |
//! | `cache` | the most requested tiles in memory, as they are sent |
//! | `looks` | how old the last look at the target is, and which purges wait for its CDNs |
//! | `around` | the ancestors, neighbours and children of a tile |

pub(crate) mod around;
pub(crate) mod cache;
mod looks;
pub(crate) mod origin;
mod rendered;
pub(crate) mod served;
pub(crate) mod staleness;
pub(crate) mod with_parameters;

#[cfg(test)]
mod tests;
