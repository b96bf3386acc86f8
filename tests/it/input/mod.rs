//! Wrong usage, configuration and database: each message says what, where and what to do.

pub mod cells;
pub mod command_line;
pub mod database;
pub mod layers;
pub mod queries;
pub mod settings;
pub mod warnings;
