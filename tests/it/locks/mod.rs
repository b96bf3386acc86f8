//! Locks: nobody waits for a run longer than the lock limit.

pub(crate) mod ddl;
pub(crate) mod reseed;
pub(crate) mod two_tables;
pub(crate) mod verbs;
