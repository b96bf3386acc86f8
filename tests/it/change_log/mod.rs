//! The change log: installed, trusted or refused, read, removed.

pub(crate) mod check;
pub(crate) mod column_kinds;
pub(crate) mod commands;
pub(crate) mod database_identity;
pub(crate) mod install;
pub(crate) mod namesake;
pub(crate) mod other_histories;
pub(crate) mod owner;
pub(crate) mod rights;
pub(crate) mod surroundings;
pub(crate) mod views;
pub(crate) mod waiting;
