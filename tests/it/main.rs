//! Tests against a real PostGIS, real readers of the formats, and real faults. `scripts/test` starts the server that
//! they share; each test has a database of its own in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::print_stderr,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "tests fail by panicking, say why they skip, count in small numbers, and know their files' names to the letter"
)]

mod support;

mod archives;
mod by_zoom;
mod cells;
mod change_log;
#[cfg(feature = "clouds")]
mod clouds;
mod directory;
mod functions;
mod init;
mod input;
mod interrupted;
mod locks;
mod project;
mod purge;
mod reading;
mod rendering;
mod reseed;
mod s3;
mod serve;
mod shards;
mod targets;
mod texts;
mod tilesets;
mod variants;
mod world_edge;
