//! Locks: nobody waits for a run longer than the lock limit.

pub mod ddl;
pub mod reseed;
pub mod verbs;
