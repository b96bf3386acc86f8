//! Directories: files, faults, links.

pub mod faults;
pub mod files;
pub mod links;
