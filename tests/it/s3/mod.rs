//! S3: prefixes, archives, leases, faults.

pub mod archives;
pub mod edits;
pub mod faults;
pub mod keys;
pub mod lease;
pub mod prefixes;
