//! `init` and `seed --table`: from a database to tiles without a line of configuration.

pub(crate) mod databases;
mod files;
mod kinds;
mod refused;
mod shapes;
mod tables;
