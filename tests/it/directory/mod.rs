//! Directories: files, faults, links.

pub(crate) mod faults;
pub(crate) mod files;
pub(crate) mod links;
