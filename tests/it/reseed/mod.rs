//! A reseed leaves what a fresh seed would.

pub mod cached_rows_near_changes;
pub mod dirty_out;
pub mod dirty_tiles;
pub mod edge_cases;
pub mod faults;
pub mod given_tiles;
pub mod histories;
pub mod patches;
pub mod query_layers;
pub mod refused;
pub mod watch;
