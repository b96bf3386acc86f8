//! Wrong usage, configuration and database: each message says what, where and what to do.

pub(crate) mod cells;
pub(crate) mod command_line;
pub(crate) mod config_check;
pub(crate) mod control_characters;
pub(crate) mod database;
pub(crate) mod doctor;
pub(crate) mod doctor_of_addresses;
pub(crate) mod encodings;
pub(crate) mod layers;
pub(crate) mod log;
pub(crate) mod mistakes;
pub(crate) mod own_file;
pub(crate) mod queries;
pub(crate) mod search_path;
pub(crate) mod settings;
pub(crate) mod threads;
pub(crate) mod warnings;
