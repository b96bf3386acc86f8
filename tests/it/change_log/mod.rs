//! The change log: installed, trusted or refused, read, removed.

pub mod check;
pub mod column_kinds;
pub mod commands;
pub mod database_identity;
pub mod install;
pub mod owner;
pub mod rights;
pub mod views;
