//! S3: prefixes, archives, leases, faults.

pub(crate) mod archive_edits;
pub(crate) mod archives;
pub(crate) mod edits;
pub(crate) mod faults;
mod headers;
pub(crate) mod keys;
pub(crate) mod lease;
mod left_uploads;
pub(crate) mod prefixes;
