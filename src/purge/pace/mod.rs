//! How fast and how much: token buckets by providers' limits, budgets, pauses after a refusal. Pure values; the time is given.

mod backoff;
mod bucket;
mod budget;

pub use backoff::{PurgeBackoff, retry_after};
pub use bucket::{Rate, TokenBucket};
pub use budget::{PurgeAllowance, PurgeBudget, SpentItems};
